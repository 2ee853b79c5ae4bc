//! From a host name to a byte stream: DNS anew each time, TLS where asked for. Every step has its
//! time.
//!
//! Addresses race as [`crate::northbound::address`] says; one that fails at TLS is left for the
//! next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::{self, Fingerprints, Material};
use super::socket::Socket;
use crate::clock::WallClock;
use crate::durable::io::regular;
use crate::northbound::address::{self, Race};
use crate::northbound::settings::Settings;
use crate::northbound::tls::{self, Explained};
use crate::northbound::uplink::Dialed;

/// What reading the files may take, a key in a token included.
const FILES_WITHIN: Duration = Duration::from_secs(60);
/// What looking the name up may take.
pub const DNS_WITHIN: Duration = Duration::from_secs(15);
/// What the TLS handshake may take.
pub const TLS_WITHIN: Duration = Duration::from_secs(20);
/// The same with a key in a token, whose module has its own time ([`super::token`]).
const TOKEN_TLS_WITHIN: Duration = Duration::from_secs(45);

/// A stream to the broker.
pub enum Transport {
    /// Without TLS.
    Plain(Socket),
    /// With TLS.
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    /// The chain that the peer showed, DER, its own certificate first.
    pub fn peer_chain(&self) -> Vec<Vec<u8>> {
        let Transport::Tls(stream) = self else { return Vec::new() };
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        shown.iter().map(|der| der.to_vec()).collect()
    }
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What happened and, where known, what to do.
    pub text: String,
    /// The broker refuses who we are.
    pub unwelcome: bool,
    /// The broker sent a TLS alert.
    pub alert: bool,
    /// SHA-256 of the key of a broker whose certificate was refused.
    pub pin: Option<[u8; 32]>,
}

impl From<String> for ConnectError {
    fn from(text: String) -> Self {
        ConnectError { text, unwelcome: false, alert: false, pin: None }
    }
}

/// A transport made, and the password that goes with it.
pub struct Connected {
    /// The stream.
    pub transport: Transport,
    /// The MQTT password.
    pub password: Option<Vec<u8>>,
    /// How long the password serves, if it expires.
    pub password_life: Option<Duration>,
    /// Where it leads.
    pub dialed: Dialed,
    /// Of the files it was made with.
    pub fingerprints: Fingerprints,
}

/// Makes a stream, and reads the password that goes with it. Addresses in `avoid` come last.
///
/// # Errors
/// [`ConnectError`] of the first step that fails; of addresses, of all of them.
pub async fn connect(
    settings: &Settings,
    clock: Arc<dyn WallClock>,
    avoid: &[SocketAddr],
) -> Result<Connected, ConnectError> {
    let Material { tls, signs_in_token, password, password_life, fingerprints } =
        load(settings, clock).await?;
    let addresses = resolve(&settings.host, settings.port).await?;
    let tls = tls.map(|config| (config, signs_in_token));
    let (transport, dialed) = reach_by(tls, &settings.host, settings.port, &addresses, avoid).await?;
    Ok(Connected { transport, password, password_life, dialed, fingerprints })
}

/// Makes a stream to one of these addresses, whichever answers first and, with TLS, is believed.
/// Those in `avoid` come last.
///
/// # Errors
/// [`ConnectError`] with what all of them said.
pub async fn reach(
    tls: Option<Arc<ClientConfig>>,
    host: &str,
    port: u16,
    addresses: &[SocketAddr],
    avoid: &[SocketAddr],
) -> Result<(Transport, Dialed), ConnectError> {
    reach_by(tls.map(|config| (config, false)), host, port, addresses, avoid).await
}

/// As [`reach`]; whether the handshake may block goes with its configuration.
async fn reach_by(
    tls: Option<(Arc<ClientConfig>, bool)>,
    host: &str,
    port: u16,
    addresses: &[SocketAddr],
    avoid: &[SocketAddr],
) -> Result<(Transport, Dialed), ConnectError> {
    let mut left = address::order(addresses, avoid);
    let mut failed: Vec<ConnectError> = Vec::new();
    while !left.is_empty() {
        let (stream, peer, others) = match dial(host, port, &left).await {
            Ok(dialed) => dialed,
            Err(text) => {
                failed.push(text.into());
                break;
            }
        };
        let transport = match &tls {
            None => Transport::Plain(stream),
            Some((config, blocks)) => match handshake_by(config.clone(), *blocks, host, stream).await {
                Ok(stream) => Transport::Tls(Box::new(stream)),
                Err(error) => {
                    failed.push(error);
                    left = others;
                    continue;
                }
            },
        };
        // What failed in this attempt was tried as well, and is not among the others.
        let untried = others.iter().filter(|other| !avoid.contains(other)).count();
        return Ok((transport, Dialed { peer: Some(peer), untried }));
    }
    Err(all(failed))
}

/// What all addresses said, each text once.
fn all(failed: Vec<ConnectError>) -> ConnectError {
    let unwelcome = failed.iter().any(|error| error.unwelcome);
    let alert = failed.iter().any(|error| error.alert);
    let pin = failed.iter().find_map(|error| error.pin);
    let mut texts: Vec<String> = Vec::new();
    for ConnectError { text, .. } in failed {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    ConnectError { text: texts.join("; "), unwelcome, alert, pin }
}

/// Reads the files, off this thread.
///
/// # Errors
/// Names the file and what is wrong with it.
pub async fn load(settings: &Settings, clock: Arc<dyn WallClock>) -> Result<Material, String> {
    let settings = settings.clone();
    let read = tokio::task::spawn_blocking(move || files::load(&settings, clock));
    match timeout(FILES_WITHIN, read).await {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(_)) => Err("the thread that reads the TLS files failed".to_owned()),
        Err(_) => Err(unread(FILES_WITHIN)),
    }
}

/// What is said of files that are not read in time.
pub fn unread(within: Duration) -> String {
    let seconds = within.as_secs();
    match regular::under_way() {
        Some(file) => format!(
            "{}: reading it takes more than {seconds} s; see whether the disk or network file system that it is on answers",
            file.display()
        ),
        None => format!("reading the files takes more than {seconds} s; see whether their disk answers"),
    }
}

/// Looks the name up.
///
/// # Errors
/// Says which name and why.
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    // An IPv6 address stands in brackets in a URL and nowhere else.
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    match timeout(DNS_WITHIN, tokio::net::lookup_host((bare, port))).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            if addresses.is_empty() { Err(format!("the name {host} has no address")) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(format!("the name {host} cannot be looked up: {error}")),
        Err(_) => Err(format!("looking up the name {host} takes more than {} s", DNS_WITHIN.as_secs())),
    }
}

/// Connects to the address that answers first, among these in this order: the stream, its other
/// end, and the addresses that did not fail.
///
/// # Errors
/// Says what each address said.
pub async fn dial(
    host: &str,
    port: u16,
    addresses: &[SocketAddr],
) -> Result<(Socket, SocketAddr, Vec<SocketAddr>), String> {
    let mut race = Race::new(addresses.iter().copied());
    let mut attempts = JoinSet::new();
    let mut said = Vec::new();
    loop {
        let now = Instant::now();
        while let Some(address) = race.poll_overdue(now) {
            said.push(format!("{address}: no answer within {} s", address::WITHIN.as_secs()));
        }
        while let Some(address) = race.poll_begin(now) {
            attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        let Some(next) = race.poll_timeout() else {
            return Err(format!("no connection to {host} port {port} ({})", said.join("; ")));
        };
        tokio::select! {
            () = sleep_until(next.into()) => {}
            Some(Ok((address, result))) = attempts.join_next() => match result {
                Ok(stream) => {
                    // Small packets go out at once; we gather them ourselves.
                    let _ = stream.set_nodelay(true);
                    return Ok((Socket::new(stream), address, race.others(address)));
                }
                Err(error) => {
                    said.push(format!("{address}: {error}"));
                    race.handle_failed(address);
                }
            },
        }
    }
}

/// As [`handshake`]. With `blocks`, the key is in a token, whose signature takes its time: then the
/// handshake is polled on a thread of its own, while this one drives its socket and its timers.
///
/// # Errors
/// As [`handshake`].
pub async fn handshake_by(
    config: Arc<ClientConfig>,
    blocks: bool,
    host: &str,
    stream: Socket,
) -> Result<TlsStream<Socket>, ConnectError> {
    if !blocks {
        return handshake(config, host, stream).await;
    }
    let (host, runtime) = (host.to_owned(), tokio::runtime::Handle::current());
    let beside = tokio::task::spawn_blocking(move || runtime.block_on(handshake(config, &host, stream)));
    match timeout(TOKEN_TLS_WITHIN, beside).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err("the thread of the TLS handshake failed".to_owned().into()),
        Err(_) => Err(format!("the TLS handshake takes more than {} s", TOKEN_TLS_WITHIN.as_secs()).into()),
    }
}

/// Speaks TLS over the stream.
///
/// # Errors
/// [`ConnectError`] in words that say whose fault it is.
pub async fn handshake(
    config: Arc<ClientConfig>,
    host: &str,
    stream: Socket,
) -> Result<TlsStream<Socket>, ConnectError> {
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let name = tls::server_name(bare).map_err(|error| ConnectError::from(error.to_string()))?;
    match timeout(TLS_WITHIN, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match explain_tls(&error, host) {
            Some(Explained { text, unwelcome, pin }) => {
                ConnectError { text, unwelcome, alert: is_alert(&error), pin }
            }
            None if is_closed(&error) => format!(
                "{host} closed the connection during the TLS handshake; perhaps this port has no TLS (a plain MQTT port has \
                 mqtt:// and usually 1883)"
            )
            .into(),
            None => format!("the TLS handshake failed: {error}").into(),
        }),
        Err(_) => Err(format!(
            "{host} accepts the connection but does not answer the TLS handshake within {} s; see whether the port in \
             upstream.url is one with TLS, and with the broker's operator whether it still works",
            TLS_WITHIN.as_secs()
        )
        .into()),
    }
}

/// Whether the other end has gone away without a word of TLS.
fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// Whether the other end sent a TLS alert.
pub fn is_alert(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}

/// The TLS error in an I/O error, explained.
pub fn explain_tls(error: &std::io::Error, host: &str) -> Option<Explained> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(tls::explain(inner, host))
}
