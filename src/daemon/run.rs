//! From start to stop: opens everything in order, runs the tasks round the hub, and ends without
//! losing a reading.
//!
//! | task | waits for | then |
//! |---|---|---|
//! | one a socket | datagrams | a round of the hub |
//! | completions | the journal's wake-up | answers |
//! | one a listening address and a client of MQTT | a connection; bytes | a round of the hub |
//! | one a serial port | bytes, its return, a unit's turn | a round of the hub |
//! | timer | the hub's next deadline | retransmissions, expiry |
//! | uplink | broker, journal | publishes, releases |
//! | commands | the uplink, the mailbox's file, blocks of firmware | a round of the hub |
//! | control | a command | an answer |
//! | care | a second | clock, presence, status line, watchdog |

use std::cell::RefCell;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::awake;
use super::certificates::Certificates;
use super::clock::SystemClock;
use super::commands::Commands;
use super::control::Desk;
use super::deliveries::Deliveries;
use super::firmware::Firmware;
use super::fleets::FleetKeeper;
use super::hub::Hub;
use super::mqtt::Clients;
use super::notify::Notify;
use super::report;
use super::revocation::Revocations;
use super::round::{Shared, tick};
use super::serial::Ports;
use super::socket_store::{self, SocketStore, Transport};
use super::update::Updates;
use crate::config::first_boot;
use crate::config::io::Options;
use crate::config::{ClockTrust, Loaded, LogTarget, Settings};
use crate::control::io::server::Server;
use crate::durable::io::give_to_owner_of;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::journal::io::Waker;
use crate::proto::coap::Endpoint;
use crate::session_store::io::persistence::SessionPersistence;
use crate::southbound::coap::EngineKind;
use crate::southbound::coap::io::{BATCH, Inbox, Socket};
use crate::southbound::mqtt;
use crate::southbound::mqtt::settings::PlainAddress;
use crate::{system, telemetry};

/// Wrong configuration: systemd does not restart on it (`RestartPreventExitStatus`).
const EXIT_CONFIG: u8 = 78;
/// How long a stop may take for the last commit, and for the clock's file.
const LAST_COMMIT: Duration = Duration::from_secs(3);
/// How long a stop may take for the goodbye to the broker.
const GOODBYE: Duration = Duration::from_millis(1_500);
/// How long it may take from the end of the standard input to the end of the process.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Full batches in a row before the other tasks get their turn.
const ROUNDS: usize = 4;

/// Runs the gateway until SIGTERM or SIGINT. The exit status is the service's.
///
/// `json`: why it cannot start is said as one JSON object. `until_input_ends`: it stops as at
/// SIGTERM when the standard input ends.
pub fn run(options: &Options, json: bool, until_input_ends: bool) -> ExitCode {
    // While there is one thread.
    let store = Rc::new(SocketStore::inherited());
    let state_dir = crate::config::io::texts(options).state_dir;
    if first_boot::io::is_marked(&state_dir) {
        let marker = state_dir.join(first_boot::MARKER);
        return refuse(&format!(
            "{} says that this card is a copy, and it has no identity of its own yet; `tombolo firstboot` makes one, \
             tombolo-firstboot.service does so at boot",
            marker.display()
        ));
    }
    let loaded = match crate::config::io::load_to_run(options) {
        Ok(loaded) => loaded,
        Err(findings) if json => {
            let mut object = crate::config::findings_to_json(&findings);
            object["code"] = "configuration".into();
            object["message"] = "the configuration cannot be used".into();
            eprintln!("{}", serde_json::json!({ "error": object }));
            return ExitCode::from(EXIT_CONFIG);
        }
        Err(findings) => {
            for finding in &findings {
                eprintln!("tombolo: {}", telemetry::io::hinted(&finding.to_string()));
            }
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let target = match loaded.settings.log.target {
        LogTarget::Auto => telemetry::io::Target::Auto,
        LogTarget::Journal => telemetry::io::Target::Journal,
        LogTarget::Stderr => telemetry::io::Target::Stderr,
    };
    telemetry::io::initialise(loaded.settings.log.level, target);
    report::findings(&loaded.findings);
    report::findings(&loaded.state.events);
    report::findings(&loaded.state.problems);
    if until_input_ends && let Err(error) = follow_input() {
        return failed(&format!("the end of the standard input cannot be waited for: {error}"));
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().on_thread_park(awake::parks).on_thread_unpark(awake::woken);
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime cannot be started: {error}")),
    };
    let local = tokio::task::LocalSet::new();
    // As a task it is polled when it has something to do, and not with every other task.
    let serving = local.spawn_local(serve(options.clone(), loaded, store));
    let result = match local.block_on(&runtime, serving) {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err("the gateway was ended by a fault".to_owned()),
        },
    };
    // A look-up at a name server that is silent cannot be cut short; the process does not wait for
    // it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => failed(&text),
    }
}

/// Stops this process when the standard input ends: a pipe ends when its other end is closed, also
/// when the process that had it was killed.
fn follow_input() -> std::io::Result<()> {
    let wait = || {
        let mut rest = [0; 64];
        // An error is an end, too.
        while std::io::stdin().lock().read(&mut rest).is_ok_and(|count| count > 0) {}
        log::info!("the standard input ended");
        let _ = kill(Pid::this(), nix::sys::signal::SIGTERM);
        std::thread::sleep(STOP_MAX);
        std::process::exit(1);
    };
    std::thread::Builder::new().name("tombolo-input".to_owned()).spawn(wait).map(drop)
}

/// Before there is a log.
fn refuse(text: &str) -> ExitCode {
    eprintln!("tombolo: {}", telemetry::io::hinted(text));
    ExitCode::FAILURE
}

fn failed(text: &str) -> ExitCode {
    log::error!("{text}");
    ExitCode::FAILURE
}

/// Bytes nobody can guess.
fn random<const N: usize>() -> Result<[u8; N], String> {
    system::io::random().map_err(|error| error.to_string())
}

async fn serve(options: Options, loaded: Loaded, store: Rc<SocketStore>) -> Result<(), String> {
    let settings = &loaded.settings;
    store.retain(|transport, bound| {
        addresses(settings, transport).iter().any(|wanted| socket_store::serves(bound, *wanted))
    });
    make_folder(&settings.paths.state_dir, 0o700)?;
    make_folder(&settings.paths.runtime_dir, 0o755)?;
    warn_of_another_owner(&settings.paths.state_dir);
    let always = settings.clock.trust == ClockTrust::Always;
    let clock = Arc::new(SystemClock::start(&settings.paths.state_dir, always));
    let moment = clock.moment();

    let (journal, report) =
        super::notify::while_starting(|| Journal::open(&settings.journal)).map_err(|e| e.to_string())?;
    report::opened(&report);
    let waker = journal.waker();
    let journal = Rc::new(RefCell::new(journal));

    let mut gate = Gate::new(settings.gate.clone(), moment.now);
    let (fleets, gone) = FleetKeeper::open(moment.now, &settings.paths.state_dir, &mut gate);
    let keyring = super::engine::keyring(&settings.gate);
    let engine = super::engine::open(moment.now, &settings.coap, keyring, &*clock, &random()?)?;
    let (persistence, found) = SessionPersistence::open(
        &settings.paths.state_dir.join("sessions"),
        &settings.paths.runtime_dir,
        system::io::boot_id(),
        settings.coap.persist_sessions && settings.coap.engine == EngineKind::Tombolo,
    );
    let endpoint = Endpoint::new(Default::default(), u64::from_le_bytes(random()?)).with_echo(&random()?);
    let mqtt = mqtt::Intake::new(&settings.mqtt, &settings.gate.roles, &random()?);

    let mut sockets = Vec::new();
    for &address in &settings.coap.listen {
        sockets.push(bind(address, sockets.len(), "coap.listen", &store)?);
    }
    let secure = sockets.len();
    for &address in settings.coap.insecure.iter().flat_map(|(addresses, _)| addresses) {
        log::warn!(listen:% = address; "plain CoAP: whoever reaches this address is the insecure-device");
        sockets.push(bind(address, sockets.len(), "coap.insecure-listen", &store)?);
    }

    let server = Server::start(&settings.paths.control_socket()).map_err(|e| e.to_string())?;
    let (tail, traffic) = (server.tail().clone(), server.traffic().clone());
    let deliveries = Rc::new(Deliveries::new(tail.clone(), traffic.clone(), clock.clone()));
    let uplink = super::link::start(settings.upstream.clone(), &clock, &journal, &deliveries);
    uplink.set_downlink(&settings.downlink);
    let mailbox = settings.paths.state_dir.join(super::mailbox::FOLDER);
    let boot = system::io::boot_id();
    let mut commands =
        super::notify::while_starting(|| Commands::open(&mailbox, &settings.downlink, boot, tail.clone()));
    commands.set_lines(&settings.serial);
    let mailbox_wake = commands.wake();
    let firmware = Firmware::open(&settings.paths.firmware(), &settings.update.sensors);
    let firmware_wake = firmware.wake();
    let mut hub = Hub::new(
        engine,
        persistence,
        endpoint,
        mqtt,
        gate,
        journal.clone(),
        uplink.clone(),
        clock.clone(),
        tail,
        traffic,
        commands,
        firmware.clone(),
    );
    hub.coap.reports.replace(settings.coap.reports.clone());
    gone.iter().for_each(|id| uplink.clear_device(id.as_str()));
    hub.set_insecure(settings.coap.insecure.as_ref().map(|(_, device)| device.as_str()));
    hub.restore(found);
    hub.set_mqtt_clock(super::engine::verdict(&*clock), super::engine::token_verdict(&*clock));
    let shared = Rc::new(Shared::new(hub, sockets, secure));

    // None of these ever ends. One that does has a defect: the service then stops, and systemd
    // starts it anew.
    let (mut listening, mut tasks) = (JoinSet::new(), JoinSet::new());
    for index in 0..shared.sockets.len() {
        listening.spawn_local(listen(shared.clone(), index));
    }
    let seed = u64::from_le_bytes(random()?);
    let ports = Ports::start(settings, &shared, &clock, server.trace(), seed);
    let clients = Clients::start(&loaded, &shared, &clock, store);
    tasks.spawn_local(complete(shared.clone(), waker, uplink.clone(), ports.clone()));
    tasks.spawn_local(tick(shared.clone()));
    tasks.spawn_local(follow_commands(shared.clone(), uplink.inbound(), mailbox_wake, firmware_wake));

    let mut hangup = listen_for(SignalKind::hangup())?;
    let mut terminate = listen_for(SignalKind::terminate())?;
    let mut interrupt = listen_for(SignalKind::interrupt())?;
    let mut notify = Notify::default();
    let certificates = Certificates::open(settings, &uplink, &clock);
    let kept_certificates = Rc::clone(&certificates);
    let revocations = Revocations::open(&loaded, &uplink, &clock);
    let updates = Updates::open(settings, &uplink, &clock, &firmware);
    let mut desk = Desk::new(
        options.clone(),
        loaded,
        shared.clone(),
        journal.clone(),
        uplink.clone(),
        ports.clone(),
        clients.clone(),
        clock.clone(),
        fleets,
        deliveries,
        certificates,
        revocations,
        updates,
    );
    let mut server = server;
    let mut metrics = super::metrics::Metrics::start(&desk.metrics_addresses());
    notify.ready(&desk.line());
    desk.say_ready();
    awake::listen();
    let mut care = tokio::time::interval(awake::TICK);
    care.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fault = None;
    loop {
        tokio::select! {
            call = server.next_call() => call.dispatch(&mut desk),
            call = metrics.next_call() => call.dispatch(&mut desk),
            outcome = desk.reloaded() => {
                desk.finish_reload(outcome, &mut metrics).await;
                notify.ready(&desk.line());
            }
            _ = care.tick() => {
                awake::ticks();
                desk.set_metrics_problems(metrics.problems());
                desk.care(&mut notify).await;
            }
            _ = hangup.recv() => desk.begin_reload(None),
            Some(_) = async { tokio::select! {
                Some(ended) = listening.join_next() => Some(ended),
                Some(ended) = tasks.join_next() => Some(ended),
                else => None,
            } } => {
                fault = Some("a task of the path ended by a fault; the lines above say which".to_owned());
                break;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        if desk.take_reloading() {
            notify.reloading();
        }
        let status = journal.borrow().status();
        if status.dead || status.reader_dead {
            fault = Some("a thread of the journal ended by a fault; the lines above say which".to_owned());
            break;
        }
        if uplink.is_broken() {
            fault = Some("the uplink ended by a fault; the lines above say which".to_owned());
            break;
        }
    }

    notify.stopping();
    log::info!("stopping");
    listening.abort_all();
    ports.stop();
    clients.stop();
    stop(&shared, &journal, &uplink, &clients, fault.is_none()).await;
    tasks.abort_all();
    desk.close();
    drop(desk);
    drop(server);
    // A disk that hangs holds the end up no longer.
    let _ = tokio::time::timeout(LAST_COMMIT, kept_certificates.leave()).await;
    // What fails is in the log already.
    let _ = clock.save_within(LAST_COMMIT).await;
    fault.map_or(Ok(()), Err)
}

/// The last answers, the last commit, the goodbyes.
async fn stop(
    shared: &Rc<Shared>,
    journal: &Rc<RefCell<Journal>>,
    uplink: &Rc<super::link::Link>,
    clients: &Clients,
    in_order: bool,
) {
    let give_up = Instant::now() + LAST_COMMIT;
    let is_pending =
        |hub: &Hub| hub.coap.pending_count() + hub.mqtt.pending_count() > 0 || hub.commands.is_under_way();
    while is_pending(&shared.hub.borrow()) && Instant::now() < give_up {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shared.round(|hub| hub.leave(in_order));
    clients.farewell().await;
    let _ = tokio::time::timeout(GOODBYE, uplink.stop()).await;
    journal.borrow_mut().close();
    let mut hub = shared.hub.borrow_mut();
    hub.commands.close();
    hub.firmware.close();
    hub.persistence.close();
}

async fn listen(shared: Rc<Shared>, index: usize) {
    let mut inbox = Inbox::default();
    loop {
        for _ in 0..ROUNDS {
            let count = match shared.sockets[index].receive(&mut inbox).await {
                Ok(count) => count,
                Err(error) => {
                    // Nothing a peer does comes here; a system out of memory does.
                    log::warn!(listen:% = shared.sockets[index].local(), reason:% = error; "receiving failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    break;
                }
            };
            let secure = index < shared.secure;
            shared.round(|hub| if secure { hub.receive(&mut inbox) } else { hub.receive_plain(&mut inbox) });
            if count < BATCH {
                break;
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn complete(shared: Rc<Shared>, waker: Waker, uplink: Rc<super::link::Link>, ports: Rc<Ports>) {
    loop {
        waker.wake().await;
        shared.round(Hub::complete);
        ports.complete();
        uplink.wake();
    }
}

/// Takes what the broker has for devices, and follows what was made durable or read.
async fn follow_commands(
    shared: Rc<Shared>,
    inbound: Rc<tokio::sync::Notify>,
    mailbox: Arc<tokio::sync::Notify>,
    firmware: Arc<tokio::sync::Notify>,
) {
    loop {
        tokio::select! {
            () = inbound.notified() => shared.round(Hub::receive_commands),
            () = mailbox.notified() => shared.round(Hub::begin),
            () = firmware.notified() => shared.round(Hub::begin),
        }
    }
}

/// The addresses whose sockets outlive a restart.
fn addresses(settings: &Settings, transport: Transport) -> Vec<SocketAddr> {
    match transport {
        Transport::Udp => {
            let insecure = settings.coap.insecure.iter().flat_map(|(addresses, _)| addresses);
            settings.coap.listen.iter().chain(insecure).copied().collect()
        }
        Transport::Tcp => {
            let plain = settings.mqtt.insecure_listen.iter().filter_map(|address| match address {
                PlainAddress::Loopback(address) => Some(*address),
                PlainAddress::Unix(_) => None,
            });
            settings.mqtt.listen.iter().copied().chain(plain).collect()
        }
    }
}

fn bind(address: SocketAddr, index: usize, key: &str, store: &SocketStore) -> Result<Socket, String> {
    let index = u16::try_from(index).map_err(|_| format!("{key}: too many addresses"))?;
    let any6 = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, address.port()));
    let inherited = store.take_udp(address).and_then(|socket| Socket::adopt(socket, address, index).ok());
    let is_inherited = inherited.is_some();
    let bound = inherited.map_or_else(|| Socket::bind(address, index), Ok).or_else(|error| {
        // A kernel without IPv6 still has the other half of `[::]`.
        let no_ipv6 =
            matches!(error.raw_os_error(), Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL));
        if no_ipv6 && address == any6 {
            log::warn!(listen:% = address; "no IPv6 here: listening on 0.0.0.0");
            Socket::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port()).into(), index)
        } else {
            Err(error)
        }
    });
    let socket = bound.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "{key}: {address} is taken by another program; `ss -ulpn` names it, or choose another port"
        ),
        std::io::ErrorKind::PermissionDenied => {
            format!("{key}: {address} may not be bound by this user; choose a port above 1023")
        }
        _ => format!("{key}: {address} cannot be bound: {error}"),
    })?;
    if socket.is_absent() {
        log::warn!(listen:% = socket.local(); "{key}: this machine does not have the address yet; it is served once it has");
    }
    let (granted, asked) = socket.receive_buffer();
    socket_store::keep(Transport::Udp, address, socket.local(), socket.descriptor());
    log::info!(listen:% = socket.local(), receive_buffer = granted, inherited = is_inherited; "listening");
    if granted < asked {
        log::info!(granted, asked; "the kernel grants a smaller receive buffer; net.core.rmem_max raises it");
    }
    Ok(socket)
}

/// Made by root, it belongs to the owner of the folder that it is in.
fn make_folder(path: &Path, mode: u32) -> Result<(), String> {
    if path.is_dir() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|e| format!("{}: cannot be made: {e}; [paths] moves it", path.display()))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // If the system refuses, the folder can be used all the same.
    let _ = std::fs::File::open(path).and_then(|folder| give_to_owner_of(parent, &folder));
    Ok(())
}

/// Root runs a gateway of somebody else: what it makes belongs to that user.
fn warn_of_another_owner(state_dir: &Path) {
    let Ok(owner) = std::fs::metadata(state_dir).map(|about| about.uid()) else { return };
    if nix::unistd::geteuid().is_root() && owner != 0 {
        log::warn!(
            state_dir:% = state_dir.display(), user:% = crate::config::io::user_name(owner);
            "this gateway runs as root, and its state belongs to another user; the files it makes are given to that user"
        );
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, String> {
    signal(kind).map_err(|e| format!("signals cannot be received: {e}"))
}
