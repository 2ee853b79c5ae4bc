//! From a host name to a byte stream: DNS anew each time, all addresses tried, TLS where asked for. Every step has its time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::{self, Material};
use super::socket::Socket;
use crate::clock::WallClock;
use crate::northbound::settings::Settings;
use crate::northbound::tls::{self, Explained};

/// What looking the name up may take.
pub const DNS_WITHIN: Duration = Duration::from_secs(15);
/// What one address may take to answer.
pub const TCP_WITHIN: Duration = Duration::from_secs(10);
/// What the TLS handshake may take.
pub const TLS_WITHIN: Duration = Duration::from_secs(20);
/// Most addresses tried in one attempt.
const ADDRESSES_MAX: usize = 6;

/// A stream to the broker.
pub enum Transport {
    /// Without TLS.
    Plain(Socket),
    /// With TLS.
    Tls(Box<TlsStream<Socket>>),
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What happened and, where known, what to do.
    pub text: String,
    /// The broker refuses who we are.
    pub unwelcome: bool,
}

impl From<String> for ConnectError {
    fn from(text: String) -> Self {
        ConnectError { text, unwelcome: false }
    }
}

/// Makes a stream, and reads the password that goes with it.
///
/// # Errors
/// [`ConnectError`] of the first step that fails.
pub async fn connect(
    settings: &Settings,
    clock: Arc<dyn WallClock>,
) -> Result<(Transport, Option<Vec<u8>>), ConnectError> {
    let Material { tls, password } = load(settings, clock).await?;
    let addresses = resolve(&settings.host, settings.port).await?;
    let stream = dial(&settings.host, settings.port, &addresses).await?;
    let transport = match tls {
        None => Transport::Plain(stream),
        Some(config) => Transport::Tls(Box::new(handshake(config, &settings.host, stream).await?)),
    };
    Ok((transport, password))
}

/// Reads the files, off this thread.
///
/// # Errors
/// Names the file and what is wrong with it.
pub async fn load(settings: &Settings, clock: Arc<dyn WallClock>) -> Result<Material, String> {
    let settings = settings.clone();
    match tokio::task::spawn_blocking(move || files::load(&settings, clock)).await {
        Ok(loaded) => loaded,
        Err(_) => Err("the thread that reads the TLS files failed".to_owned()),
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
            let addresses: Vec<_> = addresses.take(ADDRESSES_MAX).collect();
            if addresses.is_empty() { Err(format!("the name {host} has no address")) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(format!("the name {host} cannot be looked up: {error}")),
        Err(_) => Err(format!("looking up the name {host} takes more than {} s", DNS_WITHIN.as_secs())),
    }
}

/// Connects to the first address that answers.
///
/// # Errors
/// Says what each address said.
pub async fn dial(host: &str, port: u16, addresses: &[SocketAddr]) -> Result<Socket, String> {
    let mut said = Vec::new();
    for address in addresses {
        match timeout(TCP_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small packets go out at once; we gather them ourselves.
                let _ = stream.set_nodelay(true);
                return Ok(Socket::new(stream));
            }
            Ok(Err(error)) => said.push(format!("{address}: {error}")),
            Err(_) => said.push(format!("{address}: no answer within {} s", TCP_WITHIN.as_secs())),
        }
    }
    Err(format!("no connection to {host} port {port} ({})", said.join("; ")))
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
            Some(Explained { text, unwelcome }) => ConnectError { text, unwelcome },
            None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                format!("{host} closed the connection during the TLS handshake; is it an MQTT port with TLS?")
                    .into()
            }
            None => format!("the TLS handshake failed: {error}").into(),
        }),
        Err(_) => Err(format!("the TLS handshake takes more than {} s", TLS_WITHIN.as_secs()).into()),
    }
}

/// The TLS error in an I/O error, explained.
pub fn explain_tls(error: &std::io::Error, host: &str) -> Option<Explained> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(tls::explain(inner, host))
}
