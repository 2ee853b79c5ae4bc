//! The local MQTT clients: a task for each listening address, and one for each connection.
//!
//! | task | waits for | then |
//! |---|---|---|
//! | an address | a connection | TLS within [`HANDSHAKE`], then a task for it |
//! | a connection | bytes, room to send, news of the hub | a round of the hub |
//! | verification | a costly password | a round of the hub |
//!
//! An address that cannot be bound is a problem in `status` and is tried again; the rest of the
//! gateway goes on. A client that does not read has nothing read from it, and is closed after
//! [`SLOW`]. With an address that a reload removes its connections end; those of others stay.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify as Wake, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::clock::SystemClock;
use super::hub::Hub;
use super::line_kind::LineKind;
use super::mqtt_status::shown;
use super::round::Shared;
use super::socket_store::{self, SocketStore, Transport};
use crate::clock::{UnixTime, WallClock};
use crate::config::Loaded;
use crate::control::snapshot::{self, NOT_LISTENING, OUT_OF_DATE};
use crate::proto::dtls::PeerIdentity;
use crate::proto::dtls::server::outline::Outline;
use crate::proto::dtls::server::{CertificateIdentity, ListPolicy};
use crate::southbound::mqtt::admission::{Admission, Admitted, PENDING_MAX};
use crate::southbound::mqtt::failed_handshakes::{FailedHandshakes, Kind};
use crate::southbound::mqtt::io::{Listener, SocketFile, Stream};
use crate::southbound::mqtt::settings::{PlainAddress, collide};
use crate::southbound::mqtt::tls::{Lists, Material, Verifier, server_config};
use crate::southbound::mqtt::{ConnectionNumber, Next, Settings, Source, Verification};
use crate::telemetry::counters::Counter;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may let sent bytes wait.
const SLOW: Duration = Duration::from_secs(30);
/// How long the last bytes of a connection may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// With more bytes than this waiting to be sent, nothing more is read from a client.
const UNSENT_MAX: usize = 64 << 10;
/// Most bytes read at once.
const READ_MAX: usize = 16 << 10;
/// How often an address that cannot be bound is tried.
const AGAIN: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a reload waits until its addresses were tried.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// So long after strangers took all places `status` says so.
const CROWDED: Duration = Duration::from_secs(60);
/// Their fault is a finding, too.
const UNUSABLE: &str = "the files of certificate and key cannot be used";
/// The lists of `[coap]` are those of `[mqtt]` too.
const NO_LISTS: &str = "MQTT: no client can connect with a certificate: the revocation lists of [coap] cannot be used; `tombolo check` names the file";

thread_local! {
    /// All connections read into it, so that an idle one needs no buffer.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_MAX]);
}

/// A listening address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Address {
    Tls(SocketAddr),
    Plain(PlainAddress),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tls(address) => address.fmt(f),
            Address::Plain(address) => address.fmt(f),
        }
    }
}

impl Address {
    /// The address, where it is one of TCP.
    fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tls(address) => Some(*address),
            Address::Plain(address) => address.tcp(),
        }
    }

    /// Another one of `all` that takes this one's port, or whose port this one takes.
    fn rival(&self, all: &[Address]) -> Option<String> {
        let own = self.tcp()?;
        let rival = all.iter().find(|other| other.tcp().is_some_and(|other| collide(own, other)))?;
        Some(format!("{rival} of [mqtt] has this port too; take one of them out"))
    }

    /// Listens there; with the socket of the process before, if there is one.
    fn open(&self, store: &SocketStore) -> io::Result<Listener> {
        let inherited = self.tcp().and_then(|address| store.take_tcp(address));
        let listener = match (inherited, self) {
            (Some(socket), _) => Listener::adopt(socket)?,
            (None, Address::Tls(address)) => Listener::tcp(*address)?,
            (None, Address::Plain(address)) => Listener::plain(address)?,
        };
        if let (Some(wanted), Some(bound), Some(socket)) =
            (self.tcp(), listener.local(), listener.descriptor())
        {
            socket_store::keep(Transport::Tcp, wanted, bound, socket);
        }
        Ok(listener)
    }

    /// Nobody listens there any more: connections must not wait in a socket that systemd keeps.
    fn forget(&self) {
        let Some(address) = self.tcp() else { return };
        socket_store::forget(Transport::Tcp, address);
        let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        if socket_store::serves(any4, address) {
            socket_store::forget(Transport::Tcp, any4);
        }
    }
}

/// A listening address, its task, and what became of it.
struct Place {
    task: JoinHandle<()>,
    outcome: Rc<Outcome>,
    /// Dropped with the address: its connections end.
    _stands: Rc<Standing>,
}

/// An address that is listened on.
struct Standing;

/// Whether an address was tried, and why it does not listen.
#[derive(Default)]
struct Outcome {
    is_tried: Cell<bool>,
    trouble: RefCell<Option<String>>,
    /// What it is told by if it is in use: an own address has it.
    rival: Option<String>,
    /// Of a Unix socket that is open.
    file: RefCell<Option<SocketFile>>,
    /// Notified when it is to be looked at.
    look: Wake,
}

/// What the tasks share.
struct Common {
    shared: Rc<Shared>,
    admission: RefCell<Admission>,
    /// The tasks of unidentified connections.
    knocking: RefCell<HashMap<u64, AbortHandle>>,
    /// When one of them was closed last because all places were taken.
    displaced: Cell<Option<Instant>>,
    /// The TLS handshakes that failed of late.
    failed_handshakes: RefCell<FailedHandshakes>,
    acceptor: RefCell<Option<TlsAcceptor>>,
    /// What judges certificates of clients,
    verifier: RefCell<Option<Arc<Verifier>>>,
    /// and how often it was replaced: connections are then judged again.
    verifiers: Cell<u64>,
    /// Nothing more is read: the gateway stops.
    stopping: Cell<bool>,
    open: Cell<usize>,
    /// The sockets of the process before.
    store: Rc<SocketStore>,
}

impl Common {
    /// A TLS handshake failed.
    fn note_failed(&self, kind: Kind, peer: Option<IpAddr>, reason: &str) {
        self.failed_handshakes.borrow_mut().note_failed(Instant::now(), kind, peer, reason);
        let mut hub = self.shared.hub.borrow_mut();
        let counters = &mut hub.pipeline.counters;
        counters.count(Counter::MqttHandshakesFailed);
        if let Some(counter) = kind.counter() {
            counters.count(counter);
        }
        if hub.may_say_of(LineKind::MqttHandshake, peer) {
            log::warn!(peer = shown(peer), reason, audit = "refused"; "TLS handshake of an MQTT client failed");
        }
    }

    /// Has each connection look at what changed for all of them.
    fn wake_all(&self) {
        self.shared.hub.borrow().wake_mqtt();
    }
}

/// The files of TLS, and revocation lists.
type TlsParts = (Arc<Material>, Lists);

/// The listening addresses of `[mqtt]`.
pub struct Clients {
    common: Rc<Common>,
    clock: Arc<SystemClock>,
    places: RefCell<HashMap<Address, Place>>,
    /// What TLS is made of: files that cannot be used leave it as it is.
    material: RefCell<Option<TlsParts>>,
    trouble: RefCell<Option<String>>,
}

impl Clients {
    /// Begins to listen.
    pub fn start(
        loaded: &Loaded,
        shared: &Rc<Shared>,
        clock: &Arc<SystemClock>,
        store: Rc<SocketStore>,
    ) -> Rc<Clients> {
        let common = Rc::new(Common {
            shared: shared.clone(),
            admission: RefCell::default(),
            knocking: RefCell::default(),
            displaced: Cell::default(),
            failed_handshakes: RefCell::default(),
            acceptor: RefCell::new(None),
            verifier: RefCell::new(None),
            verifiers: Cell::new(0),
            stopping: Cell::new(false),
            open: Cell::new(0),
            store,
        });
        tokio::task::spawn_local(verify(common.clone()));
        let clients = Rc::new(Clients {
            common,
            clock: clock.clone(),
            places: RefCell::default(),
            material: RefCell::default(),
            trouble: RefCell::default(),
        });
        clients.replace(loaded);
        clients
    }

    /// Takes over what a reload changed. Connections stay, but for those of an address that is
    /// gone. An address that could not be had is tried at once.
    pub fn replace(&self, loaded: &Loaded) {
        let settings = &loaded.settings.mqtt;
        let of_devices = &loaded.certificates;
        self.take_tls(
            settings,
            Lists {
                lists: [&of_devices.revocation_lists[..], &of_devices.fetched_lists[..]].concat(),
                policy: of_devices.list_policy,
                fault: of_devices.lists_fault,
            },
        );
        let tls = settings.listen.iter().copied().map(Address::Tls);
        let mut wanted: Vec<Address> =
            tls.chain(settings.insecure_listen.iter().cloned().map(Address::Plain)).collect();
        if !cfg!(feature = "mqtt") && !wanted.is_empty() {
            wanted.clear();
            let text = "MQTT: not listening: this program was built without the cargo feature mqtt";
            if self.trouble.replace(Some(text.to_owned())).as_deref() != Some(text) {
                log::error!("{text}");
            }
        }
        if !wanted.is_empty() {
            self.start_bus();
        }
        let mut places = self.places.borrow_mut();
        let before = places.len();
        places.retain(|address, place| {
            let stays = wanted.contains(address);
            let fails = place.outcome.trouble.borrow().is_some();
            if place.outcome.file.borrow().as_ref().is_some_and(|file| !file.is_in_place()) {
                // It is opened anew now.
                place.outcome.is_tried.set(false);
                place.outcome.look.notify_one();
            }
            if !stays || fails {
                place.task.abort();
            }
            if !stays {
                address.forget();
                log::info!(listen:% = address; "no longer listening for MQTT");
            }
            stays && !fails
        });
        if places.len() < before {
            self.common.wake_all();
        }
        for address in &wanted {
            places.entry(address.clone()).or_insert_with(|| {
                let (address, rival) = (address.clone(), address.rival(&wanted));
                let outcome = Rc::new(Outcome { rival, ..Outcome::default() });
                let stands = Rc::new(Standing);
                let task = listen(self.common.clone(), address, outcome.clone(), Rc::downgrade(&stands));
                Place { task: tokio::task::spawn_local(task), outcome, _stands: stands }
            });
        }
    }

    /// There is nobody to connect.
    #[cfg(not(feature = "mqtt"))]
    fn start_bus(&self) {}

    /// The bus has a thread, which a gateway without clients does not need.
    #[cfg(feature = "mqtt")]
    fn start_bus(&self) {
        let shared = &self.common.shared;
        if shared.hub.borrow().bus.is_some() {
            return;
        }
        match super::bus::start(shared) {
            Ok(bus) => shared.hub.borrow_mut().bus = Some(bus),
            Err(error) => log::error!(reason:% = error; "no thread for messages between local MQTT clients"),
        }
    }

    fn take_tls(&self, settings: &Settings, lists: Lists) {
        let is_wanted = !settings.listen.is_empty();
        if let Some(material) = settings.tls.as_ref().filter(|_| is_wanted) {
            return self.set_up((material.clone(), lists));
        }
        // What no address was served with in between is out of use.
        let stays = is_wanted && self.common.acceptor.borrow().is_some();
        // Connections stay, and are judged by new lists.
        let before = self.material.borrow().clone();
        if let Some((material, _)) = before {
            self.set_up((material, lists));
        }
        if !stays {
            *self.common.acceptor.borrow_mut() = None;
        }
        *self.trouble.borrow_mut() = is_wanted.then(|| match stays {
            true => format!("MQTT: {UNUSABLE}; the previous ones stay in use"),
            false => format!("MQTT: no TLS client can connect: {UNUSABLE}"),
        });
    }

    fn set_up(&self, new: TlsParts) {
        if self.material.borrow().as_ref() == Some(&new) && self.common.acceptor.borrow().is_some() {
            *self.trouble.borrow_mut() = None;
            return;
        }
        match server_config(&new.0, &new.1, self.clock.clone()) {
            Ok((config, verifier)) => {
                *self.common.acceptor.borrow_mut() = Some(TlsAcceptor::from(config));
                *self.material.borrow_mut() = Some(new);
                *self.trouble.borrow_mut() = None;
                let judge = |chain: &[CertificateDer<'_>]| withdrawn(chain, verifier.as_deref());
                self.common.shared.round(|hub: &mut Hub| hub.end_withdrawn_mqtt(judge));
                self.common.verifier.replace(verifier);
                self.common.verifiers.set(self.common.verifiers.get() + 1);
                self.common.wake_all();
            }
            Err(why) => *self.trouble.borrow_mut() = Some(format!("MQTT: TLS cannot be set up: {why}")),
        }
    }

    /// Other revocation lists were fetched and are in force; `lists`: all of them.
    pub fn replace_lists(&self, lists: Vec<Vec<u8>>, policy: ListPolicy) {
        let Some((material, before)) = self.material.borrow().clone() else { return };
        self.set_up((material, Lists { lists, policy, fault: before.fault }));
    }

    /// Waits until each address was tried once; [`SETTLED_WITHIN`] at most.
    pub async fn settled(&self) {
        let give_up = Instant::now() + SETTLED_WITHIN;
        let is_settled = || self.places.borrow().values().all(|place| place.outcome.is_tried.get());
        while !is_settled() && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Why addresses do not listen, one sentence each.
    fn not_listening(&self) -> Vec<String> {
        let places = self.places.borrow();
        let places = places.iter().filter_map(|(address, place)| {
            let why = place.outcome.trouble.borrow();
            Some(format!("{NOT_LISTENING}{address}: {}; it is tried again", why.as_ref()?))
        });
        let mut problems: Vec<String> = places.collect();
        problems.sort();
        problems
    }

    /// Why the configuration is not in force, where no finding of its files says so.
    pub fn not_in_force(&self) -> Vec<String> {
        let trouble = self.trouble.borrow().clone().filter(|text| !text.contains(UNUSABLE));
        self.not_listening().into_iter().chain(trouble).collect()
    }

    /// Why clients cannot connect, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.not_listening();
        problems.extend(self.trouble.borrow().clone());
        let material = self.material.borrow();
        if let Some((material, lists)) = material.as_ref() {
            problems.extend(out_of_date(material, &*self.clock));
            if lists.fault && !material.authorities.is_empty() {
                problems.push(NO_LISTS.to_owned());
            }
        }
        if self.common.displaced.get().is_some_and(|at| at.elapsed() < CROWDED) {
            problems.push(format!(
                "MQTT: {PENDING_MAX} connections that do not identify themselves take all places; the oldest are closed for new ones; the log has their addresses (\"not identified themselves\")"
            ));
        }
        problems.extend(self.common.failed_handshakes.borrow_mut().problem(Instant::now()));
        problems
    }

    /// The newest TLS handshake that failed.
    pub fn last_failed_handshake(&self, now: Instant) -> Option<snapshot::FailedHandshake> {
        let failed = self.common.failed_handshakes.borrow();
        failed.last().map(|last| snapshot::FailedHandshake {
            ago_s: now.saturating_duration_since(last.at).as_secs(),
            peer: shown(last.peer),
            reason: last.reason.clone(),
        })
    }

    /// Accepts nothing more and reads nothing more; what is to be answered still is.
    pub fn stop(&self) {
        for place in self.places.borrow().values() {
            place.task.abort();
        }
        self.common.stopping.set(true);
        self.common.wake_all();
    }

    /// Waits until all connections are closed, or for a time.
    pub async fn farewell(&self) {
        let give_up = Instant::now() + FAREWELL;
        while self.common.open.get() > 0 && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The certificate that clients see cannot be verified by them at this time.
fn out_of_date(material: &Material, clock: &dyn WallClock) -> Option<String> {
    let now = clock.wall().unwrap_or_else(|| clock.floor());
    let file = material.chain_file.display();
    material.chain.iter().filter_map(|der| Outline::read(der)).find_map(|of| {
        let when = if of.not_after < now {
            format!("expired on {}", of.not_after)
        } else if clock.trusted() && of.not_before > now {
            format!("is not valid before {}", of.not_before)
        } else {
            return None;
        };
        Some(format!(
            "{OUT_OF_DATE}{file} {when}: clients that verify it cannot connect; replace it, then reload"
        ))
    })
}

/// Listens on one address, for ever. A Unix socket whose file is gone, or another's, is opened
/// anew.
async fn listen(common: Rc<Common>, address: Address, outcome: Rc<Outcome>, standing: Weak<Standing>) {
    loop {
        let listener = open(&common, &address, &outcome).await;
        let file = listener.file().cloned();
        tokio::select! {
            () = accept(&common, &address, &listener, &standing) => {}
            () = lost(file, &outcome.look) => {}
        }
        log::warn!(listen:% = address; "the file of the MQTT socket was taken away: it is opened anew");
    }
}

/// Ends when the file of a Unix socket is not in its place any more.
async fn lost(file: Option<SocketFile>, look: &Wake) {
    let Some(file) = file else { return std::future::pending().await };
    while file.is_in_place() {
        // It is looked at as often as a reload asks, and every few seconds.
        let _ = timeout(AGAIN, look.notified()).await;
    }
}

/// Opens an address, as often as it takes.
async fn open(common: &Common, address: &Address, outcome: &Outcome) -> Listener {
    let listener = loop {
        match address.open(&common.store) {
            Ok(listener) => break listener,
            Err(error) => {
                let why = match error.kind() {
                    std::io::ErrorKind::AddrInUse => {
                        outcome.rival.clone().unwrap_or_else(|| "another program listens there".to_owned())
                    }
                    std::io::ErrorKind::PermissionDenied => "this user may not bind it".to_owned(),
                    std::io::ErrorKind::AlreadyExists => "what is there is no socket".to_owned(),
                    std::io::ErrorKind::NotFound => "its directory is not there".to_owned(),
                    _ => error.to_string(),
                };
                if outcome.trouble.replace(Some(why.clone())).as_ref() != Some(&why) {
                    log::error!(listen:% = address, reason = why; "cannot listen for MQTT; it is tried again");
                }
                outcome.file.replace(None);
                outcome.is_tried.set(true);
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    *outcome.trouble.borrow_mut() = None;
    outcome.file.replace(listener.file().cloned());
    outcome.is_tried.set(true);
    let tls = matches!(address, Address::Tls(_));
    match listener.local() {
        Some(local) => log::info!(listen:% = local, tls; "listening for MQTT"),
        None => log::info!(listen:% = address, tls; "listening for MQTT"),
    }
    listener
}

/// Takes all that connect.
async fn accept(common: &Rc<Common>, address: &Address, listener: &Listener, standing: &Weak<Standing>) {
    let tls = matches!(address, Address::Tls(_));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if common.shared.hub.borrow_mut().may_say(LineKind::MqttAccept) {
                    log::warn!(listen:% = address, reason:% = error; "an MQTT connection could not be accepted");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let now = Instant::now();
        let admitted = common.admission.borrow_mut().admit(now, peer);
        let displaced = admitted.and_then(|admitted| admitted.displaced);
        if admitted.is_none() || displaced.is_some() {
            let mut hub = common.shared.hub.borrow_mut();
            hub.pipeline.counters.count(Counter::MqttUnidentifiedClosed);
            if hub.may_say(LineKind::MqttAccept) {
                let which =
                    if displaced.is_some() { "the oldest of the network that has most" } else { "this one" };
                log::warn!(peer = shown(peer); "too many connections that have not identified themselves; {which} is closed");
            }
        }
        if let Some(task) = displaced.and_then(|number| common.knocking.borrow_mut().remove(&number)) {
            common.displaced.set(Some(now));
            task.abort();
        }
        let Some(Admitted { number, .. }) = admitted else { continue };
        let knocking = Knocking { common: common.clone(), peer, number };
        let entering = enter(common.clone(), stream, tls, knocking, standing.clone());
        let task = tokio::task::spawn_local(entering);
        common.knocking.borrow_mut().insert(number, task.abort_handle());
    }
}

/// An unidentified connection; over when it is identified, waits for its password to be verified,
/// or is dropped.
struct Knocking {
    common: Rc<Common>,
    peer: Option<IpAddr>,
    number: u64,
}

impl Knocking {
    fn end(&self) {
        self.common.admission.borrow_mut().release(self.number);
        self.common.knocking.borrow_mut().remove(&self.number);
    }
}

impl Drop for Knocking {
    fn drop(&mut self) {
        self.end();
    }
}

/// A connection from its handshake to its end.
async fn enter(common: Rc<Common>, stream: Stream, tls: bool, knocking: Knocking, standing: Weak<Standing>) {
    let source = Source { address: knocking.peer, ..Source::default() };
    // What changes during the handshake is looked at behind it.
    let watched = Watched { verifiers: common.verifiers.get(), standing };
    match stream {
        // On the heap: a client without TLS needs no room for it.
        Stream::Tcp(stream) if tls => Box::pin(enter_tls(&common, stream, source, knocking, watched)).await,
        Stream::Tcp(stream) => serve(&common, stream, source, knocking, watched).await,
        Stream::Unix(stream) => serve(&common, stream, source, knocking, watched).await,
    }
}

async fn enter_tls(common: &Common, stream: TcpStream, source: Source, knocking: Knocking, watched: Watched) {
    let Some(acceptor) = common.acceptor.borrow().clone() else { return };
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return common.note_failed(Kind::of(&error), knocking.peer, &error.to_string()),
        Err(_) => return common.note_failed(Kind::TimedOut, knocking.peer, "it took too long"),
    };
    common.shared.hub.borrow_mut().pipeline.counters.count(Counter::MqttHandshakesCompleted);
    common.failed_handshakes.borrow_mut().note_completed(Instant::now());
    let chain = stream.chain().map(Rc::from);
    let leaf = stream.chain().and_then(|chain| chain.first());
    let identity = leaf.and_then(|leaf| CertificateIdentity::of_verified(leaf));
    let identity = identity.map(|identity| PeerIdentity::Certificate(identity.into()));
    // It is valid to the end of its last second.
    let expires = leaf.and_then(|leaf| Outline::read(leaf)).map(|leaf| leaf.not_after);
    let expires = expires.map(|last| UnixTime(last.0.saturating_add(1_000)));
    serve(common, stream, Source { identity, expires, chain, ..source }, knocking, watched).await;
}

/// What may end a connection from outside.
struct Watched {
    /// How often what judges its certificate had been replaced when it was judged.
    verifiers: u64,
    /// Gone when its address is not listened on any more.
    standing: Weak<Standing>,
}

/// The chain that a client has shown, its own certificate first.
trait Shown {
    fn chain(&self) -> Option<&[CertificateDer<'static>]> {
        None
    }
}

impl Shown for TcpStream {}

impl Shown for UnixStream {}

impl Shown for TlsStream<TcpStream> {
    fn chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.get_ref().1.peer_certificates()
    }
}

/// What ends a certificate where none is taken any more.
const NO_ANCHORS: &str = "mqtt.client-ca-file is not set any more";

/// Why the chain of a connected client is good no longer.
fn lapse(chain: &[CertificateDer<'_>], verifier: Option<&Verifier>) -> Option<String> {
    verifier.map_or_else(|| Some(NO_ANCHORS.to_owned()), |verifier| verifier.lapse(chain))
}

/// Why that of a client which is away is trusted no longer.
fn withdrawn(chain: &[CertificateDer<'_>], verifier: Option<&Verifier>) -> Option<String> {
    verifier.map_or_else(|| Some(NO_ANCHORS.to_owned()), |verifier| verifier.withdrawn(chain))
}

/// A connection in the hub; closed there when it is dropped.
struct InHub<'c> {
    common: &'c Common,
    number: ConnectionNumber,
}

impl Drop for InHub<'_> {
    fn drop(&mut self) {
        self.common.open.set(self.common.open.get() - 1);
        self.common.shared.round(|hub| hub.close_mqtt(self.number));
    }
}

/// What happened on a connection.
enum Step {
    Woken,
    Wrote,
    Received { all: bool },
    Closed,
    Slow,
}

/// Moves bytes between a stream and the hub. A change of anything else wakes it as news of the hub
/// does, so that it waits for one thing beside its stream.
async fn serve<S: AsyncRead + AsyncWrite + Shown + Unpin>(
    common: &Common,
    mut stream: S,
    source: Source,
    knocking: Knocking,
    Watched { mut verifiers, standing }: Watched,
) {
    let wake = Rc::new(Wake::new());
    let number = common.shared.round(|hub| hub.open_mqtt(source, wake.clone()));
    common.open.set(common.open.get() + 1);
    let _in_hub = InHub { common, number };
    let (mut out, mut sent, mut waiting_since) = (Vec::new(), 0, None::<Instant>);
    let (mut has_place, mut is_unflushed, mut has_read) = (false, false, false);
    let mut woken = pin!(wake.notified());
    loop {
        if sent == out.len() {
            out.clear();
            sent = 0;
            if out.capacity() > 4_096 {
                out = Vec::new(); // an idle client costs nothing
            }
        }
        if verifiers != common.verifiers.get() {
            verifiers = common.verifiers.get();
            let verifier = common.verifier.borrow().clone();
            if let Some(why) = stream.chain().and_then(|chain| lapse(chain, verifier.as_deref())) {
                common.shared.round(|hub| hub.revoke_mqtt(number, why));
            }
        }
        if standing.strong_count() == 0 {
            common.shared.round(|hub| hub.unlisten_mqtt(number));
        }
        let next = {
            let mut hub = common.shared.hub.borrow_mut();
            if !has_place && hub.mqtt.has_place(number) {
                has_place = true;
                knocking.end();
            }
            // What waits in the hub is bounded there.
            match out.len() - sent < UNSENT_MAX {
                true => hub.mqtt.take_output(Instant::now(), number, &mut out),
                false => Next::Wait,
            }
        };
        let unsent = out.len() - sent;
        if next == Next::Close {
            let last = async {
                stream.write_all(&out[sent..]).await?;
                stream.shutdown().await
            };
            let _ = timeout(FAREWELL, last).await;
            return;
        }
        waiting_since = if unsent > 0 { waiting_since.or(Some(Instant::now())) } else { None };
        let reads = next == Next::Read && unsent < UNSENT_MAX && !common.stopping.get();
        let give_up = waiting_since;
        let mut slow = pin!(async move {
            match give_up {
                Some(since) => tokio::time::sleep_until((since + SLOW).into()).await,
                None => std::future::pending().await,
            }
        });
        let step = poll_fn(|context| {
            if woken.as_mut().poll(context).is_ready() {
                woken.set(wake.notified());
                return Poll::Ready(Step::Woken);
            }
            if sent < out.len() {
                match Pin::new(&mut stream).poll_write(context, &out[sent..]) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Step::Closed),
                    Poll::Ready(Ok(count)) => {
                        (sent, is_unflushed) = (sent + count, true);
                        return Poll::Ready(Step::Wrote);
                    }
                    Poll::Pending => {}
                }
            } else if is_unflushed {
                match Pin::new(&mut stream).poll_flush(context) {
                    Poll::Ready(Ok(())) => is_unflushed = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(Step::Closed),
                    Poll::Pending => {}
                }
            }
            if reads {
                let step = BUFFER.with_borrow_mut(|buffer| {
                    let mut buffer = ReadBuf::new(buffer);
                    match Pin::new(&mut stream).poll_read(context, &mut buffer) {
                        Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                            common.shared.round(|hub| hub.receive_mqtt(number, buffer.filled()));
                            Poll::Ready(Step::Received { all: buffer.remaining() > 0 })
                        }
                        Poll::Ready(_) => Poll::Ready(Step::Closed),
                        Poll::Pending => Poll::Pending,
                    }
                });
                if step.is_ready() {
                    return step;
                }
            }
            has_read = false;
            slow.as_mut().poll(context).map(|()| Step::Slow)
        })
        .await;
        match step {
            Step::Woken => {}
            // A read that did not fill the buffer has mostly taken all: the next one only says when
            // to read again.
            Step::Received { all: true } if !has_read => has_read = true,
            // All others have their turn: what is read at once takes up to a millisecond.
            Step::Received { .. } => {
                tokio::task::yield_now().await;
                has_read = false;
            }
            Step::Wrote => waiting_since = None,
            Step::Closed | Step::Slow => return,
        }
    }
}

/// A password to be verified, and where its verdict goes.
type Job = (Verification, oneshot::Sender<bool>);

/// Verifies costly passwords, one at a time, on a thread of their own: each thread that did it
/// would keep the memory of one.
async fn verify(common: Rc<Common>) {
    let wake = common.shared.hub.borrow().mqtt_verify.clone();
    let mut worker: Option<mpsc::Sender<Job>> = None;
    loop {
        let next = common.shared.hub.borrow_mut().mqtt.poll_verification();
        let Some(verification) = next else {
            wake.notified().await;
            continue;
        };
        let (verdict, verified) = oneshot::channel();
        let job = (verification, verdict);
        let returned = match &worker {
            Some(worker) => worker.send(job).map_err(|error| error.0),
            None => Err(job),
        };
        if let Err(job) = returned {
            worker = start_worker(job);
        }
        // A fault there is a wrong password.
        let right = verified.await.unwrap_or(false);
        common.shared.round(|hub: &mut Hub| hub.verified_mqtt(right));
    }
}

/// A thread that does this job and those that follow; `None`: there is none to be had.
fn start_worker(first: Job) -> Option<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let work = move || {
        for (verification, verdict) in std::iter::once(first).chain(jobs) {
            // Nobody waits for a connection that is gone.
            let _ = verdict.send(verification.login.password.verify(&verification.password));
        }
    };
    let started = std::thread::Builder::new().name("passwords".to_owned()).spawn(work);
    match started {
        Ok(_) => Some(sender),
        Err(error) => {
            log::error!(reason:% = error; "no thread to verify passwords on");
            None
        }
    }
}
