//! `tombolo demo`: shows the gateway on one machine, with nothing else installed.
//!
//! An embedded broker behind TLS, a throwaway PKI, three simulated sensors with real DTLS
//! handshakes, a serial meter and a Modbus meter on pseudo-terminals, and between them the daemon
//! itself, started as a user would start it. During the demo the uplink is cut and the gateway is
//! killed. The exit status is 0 only if all acknowledged readings arrived.

pub mod broker;
pub mod meter;
pub mod pki;
pub mod sensor;
pub mod unit;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::control::io::client::Client;
use crate::control::protocol::{Request, SOCKET_NAME};
use broker::DemoBroker;
use meter::{Committed, Meter};
use sensor::Sensor;
use unit::Unit;

/// Interval between the readings of a sensor.
const PERIOD: Duration = Duration::from_millis(300);
/// Longest wait for the last readings at the end.
const LAST_WAIT: Duration = Duration::from_secs(20);
/// Longest wait for the start of the gateway.
const START_WAIT: Duration = Duration::from_secs(20);

/// The sensors: id, path, and what they measure.
const SENSORS: [(&str, &str, &str); 3] = [
    ("greenhouse-1", "t/climate", "temperature"),
    ("pump-2", "t/pressure", "bar"),
    ("door-7", "alarm/door", "open"),
];

/// The options of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Ends after this many seconds; `None` = at Ctrl-C.
    pub seconds: Option<u64>,
    /// One JSON object per line instead of text.
    pub json: bool,
}

/// Runs the demo; returns true if all acknowledged readings arrived.
///
/// # Errors
/// Why it could not be set up, as text for the user.
pub fn run(options: Options) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}"))?;
    tokio::task::LocalSet::new().block_on(&runtime, play(options))
}

/// The acknowledged readings, and the arrived ones with their number of arrivals.
struct Ledger {
    acknowledged: BTreeSet<String>,
    arrived: BTreeMap<String, u64>,
    ids: BTreeSet<String>,
    refused: u64,
    unanswered: u64,
    /// A meter gets no acknowledgement, so committed readings are counted.
    metered: [(&'static str, Committed); 2],
    /// Why the gateway can open none of the meters' pseudo-terminals, as under an emulator without
    /// the system calls for it. The demo then goes on without the meters and says so.
    no_serial: Option<String>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            acknowledged: BTreeSet::new(),
            arrived: BTreeMap::new(),
            ids: BTreeSet::new(),
            refused: 0,
            unanswered: 0,
            metered: [Meter::ID, Unit::ID].map(|id| (id, Committed::default())),
            no_serial: None,
        }
    }
}

impl Ledger {
    fn missing(&self) -> usize {
        let sensors = self.acknowledged.iter().filter(|reading| !self.arrived.contains_key(*reading)).count();
        let metered = self.metered.iter().map(|(id, committed)| {
            let committed = usize::try_from(committed.total()).unwrap_or(usize::MAX);
            committed.saturating_sub(self.arrived_from(id))
        });
        sensors + metered.sum::<usize>()
    }

    /// How many readings were acknowledged or committed.
    fn promised(&self) -> usize {
        let metered = self.metered.iter().map(|(_, committed)| committed.total()).sum::<u64>();
        self.acknowledged.len().saturating_add(usize::try_from(metered).unwrap_or(usize::MAX))
    }

    /// What is to be said at the end.
    fn sentence(&self) -> &'static str {
        if self.missing() > 0 {
            "NOT everything acknowledged arrived."
        } else if self.acknowledged.is_empty() {
            "No reading was acknowledged, so nothing is shown: give it more seconds."
        } else if !self.heard() {
            "Everything acknowledged arrived, but not each meter was heard: give it more seconds."
        } else {
            "Everything acknowledged arrived."
        }
    }

    /// Whether each meter was heard, if it can be.
    fn heard(&self) -> bool {
        self.no_serial.is_some() || self.metered.iter().all(|(id, _)| self.arrived_from(id) > 0)
    }

    fn arrived_from(&self, device: &str) -> usize {
        self.arrived.keys().filter(|reading| reading.split(' ').next() == Some(device)).count()
    }

    fn twice(&self) -> u64 {
        self.arrived.values().map(|count| count - 1).sum()
    }
}

/// Whether this program is that of a package, which has a service.
fn is_installed() -> bool {
    std::env::current_exe().is_ok_and(|program| program == Path::new("/usr/bin/tombolo"))
}

/// How this program was called.
fn called() -> String {
    let word = std::env::args().next().unwrap_or_else(|| "tombolo".to_owned());
    crate::cli::key::shell_word(&word)
}

/// The commands that set a gateway up; without a package it needs a folder of its own.
fn next(program: &str, is_installed: bool) -> String {
    let program = match is_installed {
        true => format!("sudo {program}"),
        false => format!("{program} --config gw/tombolo.toml"),
    };
    format!(
        "Next: {program} init --url mqtts://BROKER:8883, then {program} device add NAME --role sensor --psk"
    )
}

/// Removes the demo's folder when it ends.
struct Workplace(PathBuf);

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The daemon as a child process, so that it can be killed.
struct Gateway {
    child: Child,
    folder: PathBuf,
}

impl Gateway {
    fn start(folder: &Path) -> Result<Gateway, String> {
        let program =
            std::env::current_exe().map_err(|e| format!("the path of this program is unknown: {e}"))?;
        let log = folder.join("tombolo.log");
        let log_file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| format!("{}: {e}", log.display()))?;
        let child = Command::new(program)
            .arg("--config")
            .arg(folder.join("tombolo.toml"))
            .args(["run", "--until-input-ends"])
            // It ends with this process, also if that is killed: `Child` holds the other end.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log_file)
            .spawn()
            .map_err(|e| format!("the gateway cannot be started: {e}"))?;
        Ok(Gateway { child, folder: folder.to_owned() })
    }

    async fn wait_until_up(&mut self) -> Result<(), String> {
        let give_up = Instant::now() + START_WAIT;
        while self.ask(Request::Status {}).is_none() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > give_up {
                let log = std::fs::read_to_string(self.folder.join("tombolo.log")).unwrap_or_default();
                return Err(format!("the gateway did not start; it said:\n{log}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn ask(&self, request: Request) -> Option<Value> {
        let mut client = Client::connect(&self.folder.join("run").join(SOCKET_NAME)).ok()?;
        client.ask(&request, Duration::from_secs(2)).ok()
    }

    /// Updates the number of readings of each meter that this run has committed.
    fn see_meters(&self, ledger: &RefCell<Ledger>) {
        let Some(status) = self.ask(Request::Status {}) else { return };
        let serial = &status["serial"];
        let seen =
            [&serial[Meter::ID], &serial[Unit::BUS]["units"][Unit::ID]].map(|of| of["readings"].as_u64());
        let mut ledger = ledger.borrow_mut();
        for ((_, committed), seen) in ledger.metered.iter_mut().zip(seen) {
            if let Some(seen) = seen {
                committed.see(seen);
            }
        }
        let closed = |name: &str| serial[name]["reason"].as_str().map(str::to_owned);
        let silent = ledger.metered.iter().all(|(_, committed)| committed.total() == 0);
        ledger.no_serial = closed(Meter::ID).filter(|_| silent && closed(Unit::BUS).is_some());
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The schedule of events, as fractions of the duration.
struct Script {
    begun: Instant,
    length: Duration,
    step: usize,
}

impl Script {
    /// The next event, if it is due. A demo of less than 6 s has none; an endless one has them in
    /// its first 30 s.
    fn due(&mut self) -> Option<usize> {
        let at = [0.25, 0.45, 0.65].get(self.step).map(|share| self.length.mul_f64(*share))?;
        if self.length < Duration::from_secs(6) || self.begun.elapsed() < at {
            return None;
        }
        self.step += 1;
        Some(self.step)
    }
}

/// The signals that end the demo: Ctrl-C, `kill`, and the end of its terminal. They are received
/// from the start on, so that none of them leaves the gateway and the folder behind.
struct AskedToEnd([Signal; 3]);

impl AskedToEnd {
    fn listen() -> Result<AskedToEnd, String> {
        let listen = |kind| signal(kind).map_err(|e| format!("signals cannot be received: {e}"));
        Ok(AskedToEnd([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn ends(&mut self) {
        let AskedToEnd([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn play(options: Options) -> Result<bool, String> {
    let mut asked = AskedToEnd::listen()?;
    let folder = std::env::temp_dir().join(format!("tombolo-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let workplace = Workplace(folder);
    let folder = &workplace.0;
    let pki = pki::make(folder)?;
    let broker = broker::start(&pki).await?;
    let coaps = free_udp_port()?;
    let mut meter = Meter::new()?;
    let mut unit = Unit::new()?;
    let serial = meter.configuration() + &unit.configuration();
    write_configuration(folder, &broker, coaps, &pki.ca_file, &serial)?;
    let mut screen = Screen { json: options.json, live: std::io::stdout().is_terminal() };
    screen.say(
        "begin",
        &format!(
            "a broker at mqtts://127.0.0.1:{}, a gateway at coaps://127.0.0.1:{coaps}, {} sensors, a serial meter on {}, a Modbus meter on {}",
            broker.address.port(),
            SENSORS.len(),
            meter.port().display(),
            unit.port().display()
        ),
    );

    let mut gateway = Gateway::start(folder)?;
    gateway.wait_until_up().await?;

    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let stop = Rc::new(std::cell::Cell::new(false));
    let sensors: Vec<_> = SENSORS
        .iter()
        .enumerate()
        .map(|(number, sensor)| {
            let address = (Ipv4Addr::LOCALHOST, coaps).into();
            tokio::task::spawn_local(sense(number as u32, *sensor, address, ledger.clone(), stop.clone()))
        })
        .collect();

    let begun = Instant::now();
    let length = Duration::from_secs(options.seconds.unwrap_or(30));
    let mut script = Script { begun, length, step: 0 };
    let mut meter_said = begun;
    loop {
        screen.arrivals(&broker, &ledger);
        if meter_said.elapsed() >= PERIOD {
            meter_said = Instant::now();
            meter.say();
        }
        unit.serve();
        gateway.see_meters(&ledger);
        match script.due() {
            Some(1) => {
                let _ = broker.cut.send(true);
                screen.say("uplink-cut", "the uplink is cut: readings are still stored and acknowledged");
            }
            Some(2) => {
                let _ = broker.cut.send(false);
                screen.say("uplink-back", "the uplink is back: the stored readings are sent");
            }
            Some(_) => {
                gateway.kill();
                ledger.borrow_mut().metered.iter_mut().for_each(|(_, committed)| committed.next_run());
                screen.say(
                    "kill",
                    "the gateway is killed (SIGKILL) and started again: the sensors handshake again",
                );
                gateway = Gateway::start(folder)?;
                gateway.wait_until_up().await?;
            }
            None => {}
        }
        screen.summary(&gateway, &ledger, begun);
        if options.seconds.is_some() && begun.elapsed() >= length {
            break;
        }
        tokio::select! {
            _ = tokio::time::sleep(Duration::from_millis(100)) => {}
            () = asked.ends() => break,
        }
    }

    stop.set(true);
    screen.say("end", "the sensors stop; waiting for the last readings");
    for sensor in sensors {
        let _ = tokio::time::timeout(Duration::from_secs(6), sensor).await;
    }
    let give_up = Instant::now() + LAST_WAIT;
    loop {
        gateway.see_meters(&ledger);
        screen.arrivals(&broker, &ledger);
        // A short demo may end before the gateway has polled the unit.
        let heard = ledger.borrow().heard();
        if !heard {
            unit.serve();
        }
        if (heard && ledger.borrow().missing() == 0) || Instant::now() >= give_up {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let queue = gateway.ask(Request::Queue {}).unwrap_or_default();
    Ok(screen.verdict(&ledger.borrow(), &queue, begun))
}

async fn sense(
    number: u32,
    (id, path, quantity): (&'static str, &'static str, &'static str),
    gateway: SocketAddr,
    ledger: Rc<RefCell<Ledger>>,
    stop: Rc<std::cell::Cell<bool>>,
) {
    let mut count = 0u32;
    let key = key(id);
    while !stop.get() {
        let seed = number.wrapping_mul(0x0101_0101).wrapping_add(count);
        let connect = Sensor::connect(gateway, id, key.as_bytes(), seed);
        let Ok(Ok(mut sensor)) = tokio::time::timeout(Duration::from_secs(3), connect).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !stop.get() {
            count += 1;
            // A slow wave, so that the values change visibly.
            let value = 20.0 + 3.0 * (f64::from(count) / 9.0 + f64::from(number)).sin();
            let reading = format!("{{\"{quantity}\":{value:.2},\"n\":{count}}}");
            let answer =
                tokio::time::timeout(Duration::from_secs(4), sensor.post(path, 50, reading.as_bytes()));
            match answer.await {
                Ok(Ok(answer)) if answer.is_success() => {
                    ledger.borrow_mut().acknowledged.insert(format!("{id} {reading}"));
                }
                Ok(Ok(_)) => ledger.borrow_mut().refused += 1,
                _ => {
                    ledger.borrow_mut().unanswered += 1;
                    break;
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
        if stop.get() {
            sensor.close().await;
        }
    }
}

/// Temporary keys, which every user of this machine can read while the demo runs.
fn key(id: &str) -> String {
    format!("demo-key-of-{id}")
}

fn write_configuration(
    folder: &Path,
    broker: &DemoBroker,
    coaps: u16,
    ca: &Path,
    serial: &str,
) -> Result<(), String> {
    let mut text = format!(
        "[gateway]\nid = \"demo\"\n\n[paths]\nstate-dir = \"state\"\nruntime-dir = \"run\"\n\n\
         [clock]\ntrust = \"always\"\n\n\
         [upstream]\nurl = \"mqtts://127.0.0.1:{}\"\nca-file = \"{}\"\n\n\
         [coap]\nlisten = [\"127.0.0.1:{coaps}\"]\n\n\
         [role.sensor]\nquota = {{ messages = 600, bytes = \"1MiB\", per = \"1min\", burst = 100 }}\n\
         [role.sensor.uplink.telemetry]\npath = \"t/#\"\n\
         [role.sensor.uplink.alarm]\npath = \"alarm/+\"\nlane = \"high\"\n",
        broker.address.port(),
        ca.display()
    );
    for (id, _, _) in SENSORS {
        let file = folder.join(format!("{id}.psk"));
        write_private(&file, &format!("text:{}\n", key(id)))?;
        let _ = write!(text, "[device.{id}]\nrole = \"sensor\"\npsk-file = \"{id}.psk\"\n");
    }
    text.push_str(serial);
    write_private(&folder.join("tombolo.toml"), &text)
}

fn write_private(file: &Path, text: &str) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut out| out.write_all(text.as_bytes()))
        .map_err(|e| format!("{}: {e}", file.display()))
}

fn free_udp_port() -> Result<u16, String> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| socket.local_addr())
        .map(|address| address.port())
        .map_err(|e| format!("no free UDP port on 127.0.0.1: {e}"))
}

/// The output for the user or a script.
struct Screen {
    json: bool,
    live: bool,
}

impl Screen {
    /// Prints one line for an event.
    fn say(&mut self, event: &str, text: &str) {
        if self.json {
            println!("{}", json!({"event": event, "text": text}));
        } else {
            self.clear();
            println!("── {text}");
        }
    }

    fn clear(&self) {
        if self.live {
            print!("\r\x1b[K");
        }
    }

    /// Prints the publishes since the last call.
    fn arrivals(&mut self, broker: &DemoBroker, ledger: &RefCell<Ledger>) {
        for arrived in broker.arrived.try_iter() {
            let Some((device, path)) =
                arrived.topic.strip_prefix("tombolo/demo/").and_then(|rest| rest.split_once("/up/"))
            else {
                continue;
            };
            let payload = String::from_utf8_lossy(&arrived.payload);
            let mut ledger = ledger.borrow_mut();
            *ledger.arrived.entry(format!("{device} {payload}")).or_default() += 1;
            let id = arrived.id.unwrap_or_default();
            let first = ledger.ids.insert(id.clone());
            if self.json {
                println!(
                    "{}",
                    json!({"event": "arrived", "device": device, "path": path, "topic": arrived.topic,
                           "payload": payload, "record": id, "duplicate": !first})
                );
            } else {
                self.clear();
                println!("{device:<13} {path:<11} {payload:<34} {id}{}", if first { "" } else { "  again" });
            }
        }
    }

    /// The status line on a terminal.
    fn summary(&self, gateway: &Gateway, ledger: &RefCell<Ledger>, begun: Instant) {
        if self.json || !self.live {
            return;
        }
        let status = gateway.ask(Request::Status {}).unwrap_or_default();
        let ledger = ledger.borrow();
        let uplink = if status["upstream"]["connected"] == true { "up" } else { "down" };
        print!(
            "\r\x1b[K{:>3} s  acknowledged {}  arrived {}  waiting {}  uplink {uplink}",
            begun.elapsed().as_secs(),
            ledger.acknowledged.len(),
            ledger.arrived.len(),
            status["journal"]["records"],
        );
        let _ = std::io::stdout().flush();
    }

    fn verdict(&mut self, ledger: &Ledger, queue: &Value, begun: Instant) -> bool {
        let missing = ledger.missing();
        let good = missing == 0 && !ledger.acknowledged.is_empty() && ledger.heard();
        let [meter, unit] = &ledger.metered;
        let told = |(id, committed): &(&'static str, Committed)| (committed.total(), ledger.arrived_from(id));
        let ((meter_committed, meter_arrived), (unit_committed, unit_arrived)) = (told(meter), told(unit));
        // What came in over CoAP is what came from nobody on a wire.
        let coap_arrived = ledger.arrived.len() - meter_arrived - unit_arrived;
        let acknowledged = ledger.acknowledged.len() as u64;
        if self.json {
            println!(
                "{}",
                json!({"event": "verdict", "ok": good, "seconds": begun.elapsed().as_secs(),
                       "acknowledged": ledger.acknowledged.len(), "arrived": ledger.arrived.len(),
                       "missing": missing, "duplicates": ledger.twice(), "refused": ledger.refused,
                       "unanswered": ledger.unanswered,
                       "coap": {"acknowledged": ledger.acknowledged.len(), "arrived": coap_arrived},
                       "meter": {"committed": meter_committed, "arrived": meter_arrived},
                       "modbus": {"committed": unit_committed, "arrived": unit_arrived},
                       "no_serial": ledger.no_serial,
                       "queue": queue})
            );
            return good;
        }
        self.clear();
        println!(
            "\nCoAP sensors: acknowledged {acknowledged}   arrived {coap_arrived}   unanswered {}",
            ledger.unanswered
        );
        if let Some(reason) = &ledger.no_serial {
            println!("the meters took no part: the gateway cannot open pseudo-terminals here: {reason}");
        } else {
            println!("serial meter: committed {meter_committed}   arrived {meter_arrived}");
            println!("Modbus meter: committed {unit_committed}   arrived {unit_arrived}");
        }
        println!(
            "in all: promised {}   arrived {}   lost {missing}   arrived twice {}",
            acknowledged + meter_committed + unit_committed,
            ledger.arrived.len(),
            ledger.twice(),
        );
        let beyond = ledger.arrived.len().saturating_sub(ledger.promised().saturating_sub(missing));
        if beyond > 0 {
            println!("beyond that {beyond} arrived whose acknowledgement had not reached the sensor yet");
        }
        println!("{}", ledger.sentence());
        if good {
            println!("{}", next(&called(), is_installed()));
        }
        good
    }
}
