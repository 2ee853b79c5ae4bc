//! The serial ports as the daemon holds them: a task each, their readings into the hub, their state
//! to whoever asks.

mod shared_line;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify as Wake;
use tokio::task::{JoinHandle, spawn_local};

use self::shared_line::SharedLine;
use super::awake;
use super::clock::SystemClock;
use super::hub::Hub;
use super::learned::Keeper;
use super::line_kind::LineKind;
use super::round::Shared;
use crate::clock::WallClock;
use crate::control::snapshot;
use crate::control::trace::{Trace, Traced};
use crate::control::verdict;
use crate::gate::stage::Received;
use crate::hex::format_hex;
use crate::message::Name;
use crate::proto::address::SerialTicket;
use crate::proto::serial::framing::Bad;
use crate::proto::serial::link::FLAPS_TOLD;
use crate::proto::serial::modbus;
use crate::proto::serial::modbus::Failure;
use crate::proto::serial::modbus::learn::Notebook;
use crate::proto::serial::poll;
use crate::proto::serial::reading::Unreadable;
use crate::proto::serial::slipmux;
use crate::proto::serial::{State, timeout_advised_ms};
use crate::southbound::serial::intake;
use crate::southbound::serial::io::{self, Host};
use crate::southbound::serial::legibility::{Cause, Fault, Shown};
use crate::southbound::serial::line_time::{self, Demand};
use crate::southbound::serial::settings::{self, Duty, Settings};
use crate::southbound::serial::units::UnitView;
use crate::southbound::serial::{Port, Taker, Verdict};
use crate::splitmix::SplitMix64;

/// Answers from which on what they took is a measurement.
const MEASURED_LEAST: u64 = 5;
/// A port's state is told at most so often, like a device's presence.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// All ports.
pub struct Ports {
    /// The ports' tasks hold what they need of this weakly: they end with it.
    own: Weak<Ports>,
    shared: Rc<Shared>,
    clock: Arc<SystemClock>,
    trace: Trace,
    entries: RefCell<BTreeMap<Name, Rc<Entry>>>,
    /// Numbers of ports, for their tickets: never given twice, so that a late completion finds
    /// nobody.
    next: Cell<u32>,
    /// What the moments at which units are asked are drawn from.
    random: RefCell<SplitMix64>,
    /// What units taught, as far as their bus is not there to ask.
    notebook: RefCell<Notebook>,
    keeper: RefCell<Keeper>,
}

struct Entry {
    number: u32,
    core: RefCell<Port>,
    device: RefCell<Option<String>>,
    changed: Rc<Wake>,
    /// Other devices that are asked on the same line.
    others: Vec<settings::Port>,
    /// There is a CoAP node on the line.
    has_node: bool,
    /// Some of its devices take commands.
    is_writable: bool,
    task: RefCell<Option<JoinHandle<()>>>,
    /// Of each device behind it: how it was last told to stand, and when.
    told: RefCell<BTreeMap<Name, (Told, Instant)>>,
    /// Readings that were lost since some wait, as the log was told.
    losing: Cell<u64>,
}

/// Whether a device is there, and the state of its unit.
type Told = (bool, Option<&'static str>);

/// How a serial device stands, for its presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether its port is open.
    pub open: bool,
    /// `unknown` before it gave a value, `up`, `degraded` or `down`; for one that is not asked
    /// `degraded` or `None`.
    pub unit: Option<&'static str>,
    /// Why it is not there.
    pub reason: Option<String>,
}

impl Standing {
    /// Whether it can be there at all, whenever it spoke last.
    pub fn is_there(&self) -> bool {
        self.open && self.unit.is_none_or(|unit| matches!(unit, "up" | "unknown"))
    }

    /// Whether something comes from it, and none of its values arrives.
    pub fn is_degraded(&self) -> bool {
        self.open && self.unit == Some("degraded")
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }
}

impl Ports {
    /// Starts all of them.
    pub fn start(
        settings: &crate::config::Settings,
        shared: &Rc<Shared>,
        clock: &Arc<SystemClock>,
        trace: &Trace,
        seed: u64,
    ) -> Rc<Ports> {
        let (keeper, notebook) = Keeper::open(&settings.paths.state_dir);
        let ports = Rc::new_cyclic(|own| Ports {
            own: own.clone(),
            shared: shared.clone(),
            clock: clock.clone(),
            trace: trace.clone(),
            entries: RefCell::default(),
            next: Cell::new(0),
            random: RefCell::new(SplitMix64::new(seed)),
            notebook: RefCell::new(notebook),
            keeper: RefCell::new(keeper),
        });
        ports.replace(&settings.serial);
        ports
    }

    /// Goes on with other settings. A port that is as it was stays open; one that changed is opened
    /// anew and keeps what it had not stored yet.
    pub fn replace(&self, settings: &Settings) {
        let now = Instant::now();
        *self.notebook.borrow_mut() = self.notes();
        let mut entries = self.entries.borrow_mut();
        let mut before = std::mem::take(&mut *entries);
        let lines = before.values().map(|entry| {
            let core = entry.core.borrow();
            (core.settings().port.clone(), core.still_to_come(now))
        });
        let lines: Vec<(settings::PortName, Duration)> = lines.collect();
        let mut fresh: Vec<(Arc<settings::Port>, Rc<Entry>)> = Vec::new();
        for port in settings {
            let is_other = |other: &&settings::Port| other.port == port.port && other.name != port.name;
            let others: Vec<settings::Port> = settings.iter().filter(is_other).cloned().collect();
            let old = before.remove(&port.name);
            let is_same = |old: &&Rc<Entry>| **old.core.borrow().settings() == *port && old.others == others;
            if let Some(same) = old.as_ref().filter(is_same) {
                entries.insert(port.name.clone(), same.clone());
                continue;
            }
            let number = self.next.get();
            self.next.set(number.wrapping_add(1));
            let port = Arc::new(port.clone());
            let mut core = Port::new(port.clone(), number, now, self.random.borrow_mut().next_u64());
            let is_configured =
                |id: &str| settings.iter().any(|port| port.devices().any(|device| device.as_str() == id));
            core.recall(now, &self.notebook.borrow(), &is_configured);
            let on_it = lines.iter().filter(|(line, _)| *line == port.port);
            core.await_rest(on_it.map(|(_, still)| *still).max().unwrap_or_default());
            if let Some(old) = &old {
                old.core.borrow_mut().interrupt_write();
                core.adopt(&mut old.core.borrow_mut(), now);
                self.end(&port.name, old);
            }
            // One task has the line, and is woken for all.
            let first = fresh.iter().find(|(other, _)| other.port == port.port);
            let changed = first.map_or_else(|| Rc::new(Wake::new()), |(_, entry)| entry.changed.clone());
            if !others.is_empty() {
                core.share();
            }
            let has_node = matches!(port.duty, Duty::Slipmux { .. });
            if has_node {
                self.shared.hub.borrow_mut().connect_serial(number, &port.name, changed.clone());
            }
            let takers: Vec<Name> = port.takers().cloned().collect();
            let is_writable = !takers.is_empty();
            if is_writable {
                self.shared.hub.borrow_mut().connect_writable(number, takers, changed.clone());
            }
            let entry = Rc::new(Entry {
                number,
                core: RefCell::new(core),
                device: RefCell::default(),
                changed,
                others,
                has_node,
                is_writable,
                task: RefCell::default(),
                told: RefCell::default(),
                losing: Cell::default(),
            });
            entries.insert(port.name.clone(), entry.clone());
            fresh.push((port, entry));
        }
        for (name, gone) in before {
            self.end(&name, &gone);
        }
        while !fresh.is_empty() {
            let line = fresh[0].0.clone();
            let is_member = |(port, _): &(Arc<settings::Port>, Rc<Entry>)| port.port == line.port;
            let (members, rest): (Vec<_>, Vec<_>) = fresh.into_iter().partition(is_member);
            fresh = rest;
            let handle = |(port, entry): &(Arc<settings::Port>, Rc<Entry>)| Handle {
                ports: self.own.clone(),
                entry: Rc::downgrade(entry),
                name: port.name.clone(),
            };
            let task = match &members[..] {
                [only] => spawn_local(io::run(line, handle(only))),
                several => {
                    let handles = several.iter().map(handle).collect();
                    spawn_local(io::run(line, SharedLine::new(handles)))
                }
            };
            *members[0].1.task.borrow_mut() = Some(task);
        }
    }

    fn end(&self, name: &Name, entry: &Entry) {
        let (waiting, _) = entry.core.borrow().pending();
        if waiting > 0 {
            log::error!(device = name.as_str(), readings = waiting; "what was behind the port was taken out with readings not stored");
        }
        entry.stop();
        let mut core = entry.core.borrow_mut();
        core.interrupt_write();
        // What became of the command under way is followed in the next round.
        let mut hub = self.shared.hub.borrow_mut();
        while let Some((number, delivered)) = core.poll_delivered() {
            hub.serial.handle_delivered(entry.number, number, delivered);
        }
        hub.disconnect_serial(entry.number);
    }

    /// What all units taught that are configured, or were.
    fn notes(&self) -> Notebook {
        let mut notebook = self.notebook.borrow().clone();
        let entries = self.entries.borrow();
        let is_configured = |id: &str| {
            let has_it = |entry: &Rc<Entry>| {
                entry.core.borrow().settings().devices().any(|device| device.as_str() == id)
            };
            entries.values().any(has_it)
        };
        for entry in entries.values() {
            for (id, learned) in entry.core.borrow().learned() {
                notebook.put(id.as_str(), learned, is_configured);
            }
        }
        notebook.forget_left(is_configured);
        notebook
    }

    /// Once a second: keeps what units taught.
    pub fn care(&self, now: Instant) {
        self.keeper.borrow_mut().care(now, || self.notes());
    }

    /// Ends all tasks; what is in memory and not on its way to disk is lost and named.
    pub fn stop(&self) {
        self.keeper.borrow_mut().close(&self.notes());
        self.replace(&Vec::new());
        // The outcomes of commands that were under way are still stored.
        self.shared.round(Hub::begin);
    }

    /// Hands the journal's completions to the ports they belong to.
    pub fn complete(&self) {
        let next = || self.shared.hub.borrow_mut().serial.poll_completion();
        let Some(first) = next() else { return };
        let now = Instant::now();
        let entries = self.entries.borrow();
        for (ticket, stored) in std::iter::once(first).chain(std::iter::from_fn(next)) {
            if let Some(entry) = entries.values().find(|entry| entry.number == ticket.port) {
                entry.core.borrow_mut().handle_completion(now, ticket, stored);
                if !stored {
                    entry.changed.notify_one();
                }
            }
        }
    }

    /// Whether there is a port of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.borrow().contains_key(name)
    }

    /// How a device stands that is a port, or a unit behind one. `None` for any other.
    pub fn standing(&self, device: &str) -> Option<Standing> {
        let entries = self.entries.borrow();
        entries.values().find_map(|entry| entry.standing(device))
    }

    /// The same of all of them.
    pub fn standings(&self) -> BTreeMap<Name, Standing> {
        let entries = self.entries.borrow();
        let mut standings = BTreeMap::new();
        for entry in entries.values() {
            let settings = entry.core.borrow().settings().clone();
            for device in settings.devices() {
                standings.extend(entry.standing(device.as_str()).map(|standing| (device.clone(), standing)));
            }
        }
        standings
    }

    /// The units of all buses.
    pub fn units(&self) -> Vec<Name> {
        let entries = self.entries.borrow();
        let of = |entry: &Rc<Entry>| -> Vec<Name> {
            entry.core.borrow().units().map(|unit| unit.id.clone()).collect()
        };
        entries.values().flat_map(of).collect()
    }

    /// Forgets what a unit taught; whether there was anything. `None`: there is no such unit.
    pub fn relearn(&self, device: &str, now: Instant) -> Option<bool> {
        let entries = self.entries.borrow();
        let (entry, had) = entries.values().find_map(|entry| {
            let had = entry.core.borrow_mut().relearn(now, device)?;
            Some((entry, had))
        })?;
        self.notebook.borrow_mut().units.remove(device);
        // Its task asks again when it is to wake.
        entry.changed.notify_one();
        Some(had)
    }

    /// Devices from which something comes, and no reading: one sentence each, which stays the same
    /// while it is so.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, entry) in self.entries.borrow().iter() {
            let (core, name) = (entry.core.borrow(), name.as_str());
            let asked = core.asked().filter(|standing| standing.state == State::Degraded);
            problems.extend(asked.and_then(|standing| verdict::asked(name, standing.state.as_str())));
            problems.extend((core.losing() > 0).then(|| verdict::losing(name)));
            let illegible = core.telnet().or_else(|| core.illegible().map(|why| why.sentence(name)));
            problems.extend(illegible.map(|why| verdict::illegible(name, &why)));
            let units = core.units().filter(|unit| unit.standing() == State::Degraded);
            problems.extend(units.filter_map(|it| {
                verdict::unit(name, it.id.as_str(), it.standing().as_str(), it.is_one_behind)
            }));
        }
        problems
    }

    /// Devices whose standing there is news of; to be told by the caller.
    pub fn poll_news(&self, now: Instant) -> Vec<Name> {
        let mut news = Vec::new();
        for entry in self.entries.borrow().values() {
            let settings = entry.core.borrow().settings().clone();
            let told = entry.told.borrow();
            for device in settings.devices() {
                let Some(standing) = entry.standing(device.as_str()) else { continue };
                let due = match told.get(device) {
                    // The first moments of one that works are no news: it is told with its first
                    // reading.
                    None => !standing.is_there() && standing.reason.is_some(),
                    Some((told, at)) => {
                        *told != (standing.is_there(), standing.unit)
                            && now.saturating_duration_since(*at) >= TELL_EVERY
                    }
                };
                if due {
                    news.push(device.clone());
                }
            }
        }
        news
    }

    /// The standing of this device is being told as it is now.
    pub fn told(&self, device: &str, now: Instant) {
        for entry in self.entries.borrow().values() {
            if let (Some(standing), Ok(name)) = (entry.standing(device), Name::parse(device)) {
                entry.told.borrow_mut().insert(name, ((standing.is_there(), standing.unit), now));
            }
        }
    }

    /// As `status` shows them.
    pub fn snapshot(&self, now: Instant) -> BTreeMap<String, snapshot::SerialPort> {
        let entries = self.entries.borrow();
        let shown = entries.iter().map(|(name, entry)| {
            let core = entry.core.borrow();
            let (link, counters, telnet) = (core.link(), core.counters(), core.telnet());
            let port = snapshot::SerialPort {
                state: if link.is_open() { "open" } else { "retrying" }.to_owned(),
                port: core.settings().port.to_string(),
                device: entry.device.borrow().clone(),
                since_s: now.saturating_duration_since(link.since()).as_secs(),
                reason: link.reason().map(str::to_owned),
                lost: link.counts().1,
                bytes: counters.framing.bytes,
                frames: counters.framing.good,
                bad_frames: counters.framing.bad,
                bad_reasons: reasons(&counters.framing, core.unreadable()),
                asked: core.asked().map(|standing| asked(&standing, core.fault())),
                illegible: core
                    .illegible()
                    .filter(|_| telnet.is_none())
                    .map(|why| why.sentence(name.as_str())),
                telnet,
                dropped_bytes: counters.framing.dropped,
                unreadable: counters.unreadable,
                other_master: counters.rivals,
                readings: counters.readings,
                refused: counters.refused,
                waiting: core.pending().0 as u64,
                lost_readings: counters.lost,
                units: core.units().map(|unit| (unit.id.to_string(), shown(&core, &unit))).collect(),
                line_load_percent: None,
                overload: None,
            };
            (name.to_string(), port)
        });
        let mut shown: BTreeMap<String, snapshot::SerialPort> = shown.collect();
        // Several may be on one line.
        let mut lines: BTreeMap<String, Vec<Demand>> = BTreeMap::new();
        for (name, entry) in entries.iter() {
            let core = entry.core.borrow();
            let Some(port) = shown.get(name.as_str()) else { continue };
            let wanted = line_time::demands(core.settings()).into_iter().map(|demand| measured(demand, port));
            lines.entry(port.port.clone()).or_default().extend(wanted);
        }
        for port in shown.values_mut() {
            let demands = lines.get(&port.port).filter(|demands| !demands.is_empty());
            port.line_load_percent = demands.map(|demands| line_time::percent(demands));
            port.overload = demands.and_then(|demands| line_time::overload(demands));
        }
        shown
    }

    /// The other port that is open as the device that this one means.
    fn holder(&self, port: &Name) -> Option<Name> {
        let entries = self.entries.borrow();
        let wanted = io::find::device(&entries.get(port)?.core.borrow().settings().port)?;
        let has_it = |entry: &Entry| {
            let core = entry.core.borrow();
            core.link().is_open() && io::find::device(&core.settings().port).as_ref() == Some(&wanted)
        };
        entries.iter().find(|(name, entry)| *name != port && has_it(entry)).map(|(name, _)| name.clone())
    }

    fn show(&self, port: &Name, direction: &str, bytes: &[u8], event: Option<String>) {
        if self.trace.is_watched() {
            self.trace.push(Traced {
                port: port.to_string(),
                at: self.clock.raw().to_string(),
                boottime_ms: self.clock.moment().boottime_ms,
                direction: direction.to_owned(),
                hex: format_hex(bytes),
                event,
            });
        }
    }
}

/// What asking a device takes: as computed, or as it was measured where that is more. One that does
/// not answer is asked more seldom, and is not measured.
fn measured(demand: Demand, port: &snapshot::SerialPort) -> Demand {
    let (busy_ms, times) = match (port.units.get(demand.device.as_str()), &port.asked) {
        (Some(unit), _) => (unit.busy_ms, unit.polls),
        (None, Some(asked)) => (asked.busy_ms, asked.answers),
        (None, None) => (0, 0),
    };
    // A few say little.
    let each = busy_ms.checked_div(times).filter(|_| times >= MEASURED_LEAST);
    let takes = demand.takes.max(Duration::from_millis(each.unwrap_or(0)));
    Demand { takes, ..demand }
}

fn asked(standing: &poll::Standing, fault: Option<&Fault>) -> snapshot::SerialAsked {
    let counters = &standing.counters;
    let learned_ms = standing.learned.as_millis();
    snapshot::SerialAsked {
        state: standing.state.as_str().to_owned(),
        reason: why_not(standing, fault),
        last_fault: fault.map(|fault| fault.words().0),
        learned_timeout_ms: u64::try_from(learned_ms).unwrap_or(u64::MAX),
        questions: counters.questions,
        answers: counters.answers,
        silent: counters.silent,
        damaged: counters.damaged,
        closed: counters.closed,
        busy_ms: counters.busy_ms,
        late: counters.late,
    }
}

/// Dropped frames, and complete ones that were no reading, by reason, as far as there are any.
fn reasons(
    counters: &crate::proto::serial::framing::Counters,
    unreadable: impl Iterator<Item = (&'static str, u64)>,
) -> BTreeMap<String, u64> {
    let all = [
        (Bad::TooLong, counters.too_long),
        (Bad::Checksum, counters.checksum),
        (Bad::Malformed, counters.malformed),
        (Bad::Incomplete, counters.incomplete),
        (Bad::Cut, counters.cut),
        (Bad::Burst, counters.burst),
        (Bad::Stalled, counters.stalled),
        (Bad::Early, counters.early),
        (Bad::First, counters.first),
    ];
    all.into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(why, count)| (why.as_str(), count))
        .chain(unreadable)
        .map(|(why, count)| (why.to_owned(), count))
        .collect()
}

fn shown(core: &Port, unit: &UnitView<'_>) -> snapshot::SerialUnit {
    let bus = unit.bus;
    let learned = core.learned().find(|(id, _)| **id == *unit.id).map(|(_, learned)| learned);
    let learned = learned.unwrap_or_default();
    snapshot::SerialUnit {
        address: unit.address,
        state: unit.standing().as_str().to_owned(),
        reason: why_unit(core, unit),
        answers_as: unit.answers_as,
        rest_advised_ms: unit.rest_advised.and_then(|rest| u64::try_from(rest.as_millis()).ok()),
        one_behind: unit.is_one_behind,
        doubled: unit.is_doubled,
        surplus: unit.surplus,
        answer_times: unit.copied.map_or(0, |(times, _)| times.into()),
        copies: unit.copied.map_or(0, |(_, copies)| copies),
        learned_rest_ms: u64::try_from(unit.rest.as_millis()).unwrap_or(u64::MAX),
        requests: bus.requests,
        answers: bus.answers,
        exceptions: bus.exceptions,
        silent: bus.silent,
        damaged: bus.damaged,
        late: bus.late,
        misfits: bus.misfits,
        busy_ms: bus.busy_ms,
        left_out: core.left_out(unit.index).map(|(name, why)| (name.to_owned(), why)).collect(),
        learned_pause_ms: learned.pause_ms,
        learned_timeout_ms: learned.timeout_ms,
        learned_max_registers: learned.in_force().registers(),
        learned_max_bits: learned.in_force().bits(),
        learned_of_damage: learned.damage.is_some(),
        polls: bus.polls,
        skipped: bus.skipped,
        withheld: bus.withheld,
        readings: unit.readings,
        refused: unit.refused,
        waiting: unit.waiting as u64,
        lost_readings: unit.lost,
    }
}

/// Whether the line was closed right behind the begin of the last answer.
fn is_cut(fault: Option<&Fault>) -> bool {
    fault.is_some_and(|fault| fault.cause() == Cause::Bad(Bad::Cut))
}

/// Why a device that is asked gives no reading.
fn why_not(standing: &poll::Standing, fault: Option<&Fault>) -> Option<String> {
    let counters = &standing.counters;
    let seen = fault.map(Fault::words);
    let why = match standing.state {
        State::Unknown | State::Up => return None,
        State::Degraded if !standing.is_unused => {
            let text = "it answers, but its answers are no readings";
            return Some(
                seen.map_or_else(|| text.to_owned(), |(why, advice)| format!("{text}: {why}; {advice}")),
            );
        }
        State::Degraded if standing.is_single => {
            "it answers a question only if one went before it; if it must be woken, set wake"
        }
        State::Degraded | State::Down if standing.failing == Some(poll::Failure::Closed) && is_cut(fault) => {
            return seen.map(|(why, advice)| format!("its answers are cut off: {why}; {advice}"));
        }
        State::Down if standing.failing == Some(poll::Failure::Closed) => {
            "the connection is closed in place of an answer"
        }
        State::Degraded | State::Down if standing.beyond.is_some() => {
            let (after, most) = standing.beyond.unwrap_or_default();
            return Some(format!(
                "its answers come {} ms after the question, later than the longest wait ({} ms); raise poll-timeout, \
                 to {}ms",
                after.as_millis(),
                most.as_millis(),
                timeout_advised_ms(after)
            ));
        }
        State::Degraded if !standing.late.is_zero() => {
            return Some(format!(
                "its answers come {} ms after a question, after others without one, and may be for those; raise \
                 poll-timeout, to {}ms, and poll-period if it is shorter, or set wake if it must be woken",
                standing.late.as_millis(),
                timeout_advised_ms(standing.late)
            ));
        }
        State::Degraded => {
            "its answers come after questions without one, and may be for those; raise poll-timeout or poll-period, or \
             set wake if it must be woken"
        }
        State::Down if counters.late > 0 && !standing.late.is_zero() => {
            return Some(format!(
                "its answers come {} ms after the question, after the time-out; raise poll-timeout, to {}ms",
                standing.late.as_millis(),
                timeout_advised_ms(standing.late)
            ));
        }
        State::Down if counters.late > 0 && counters.answers == 0 => {
            "its answers come after the time-out; raise poll-timeout"
        }
        State::Down if counters.damaged > counters.silent => {
            let why = seen.map_or_else(String::new, |(why, _)| format!(" ({why})"));
            return Some(format!("its answers are damaged{why}: look at framing, checksum, baud and parity"));
        }
        State::Down if counters.endless * 2 > counters.silent => {
            let first = fault.map_or_else(String::new, |fault| format!(" ({})", Shown(fault.first())));
            return Some(format!(
                "it answers, but no answer ends as framing says{first}: look at framing, line-end and baud"
            ));
        }
        State::Down => "it does not answer",
    };
    Some(why.to_owned())
}

/// Why a unit is degraded or down.
fn why_unit(core: &Port, unit: &UnitView<'_>) -> Option<String> {
    match unit.state {
        State::Up if unit.is_one_behind => Some(verdict::LATE.to_owned()),
        State::Unknown | State::Up => None,
        State::Degraded => Some(why_degraded(core, unit)),
        State::Down => {
            Some(unit.failing.map_or("it does not answer".to_owned(), |failing| failing.to_string()))
        }
    }
}

/// Where its short answers are whole, and the others not.
const DAMAGED: &str =
    "; its longer answers are damaged: look at baud, parity, termination and wiring, or set max-registers";

/// Why none of a unit's values arrives although it answers.
fn why_degraded(core: &Port, unit: &UnitView<'_>) -> String {
    let tells = |failure: &Failure| matches!(failure, Failure::Gateway(_) | Failure::OutOfStep);
    if let Some(failing) = unit.failing.filter(|failing| tells(&failing.failure)) {
        return failing.to_string();
    }
    let mut text = "it answers, but none of its values can be read".to_owned();
    let left_out: Vec<String> =
        core.left_out(unit.index).take(3).map(|(name, why)| format!("{name}: {why}")).collect();
    if let Some(failing) = unit.failing.filter(|failing| failing.is_behind) {
        text.push_str(&format!(": {failing}"));
    } else if let Some(misfit) = unit.failing.and_then(|failing| failing.misfit) {
        text.push_str(&format!(": {misfit}"));
        if misfit.may_be_configured() {
            text.push_str("; answer-bytes of a register takes such an answer");
        }
    } else if unit.failing.is_some_and(|failing| failing.failure == Failure::Intruded) {
        text.push_str(&unit.failing.map_or_else(String::new, |failing| format!(": {failing}")));
    } else if !left_out.is_empty() {
        text.push_str(&format!(" ({})", left_out.join("; ")));
    } else if unit.bus.damaged > unit.bus.silent {
        text.push_str(DAMAGED);
    } else if unit.bus.late > 0 {
        text.push_str("; its answers come after the timeout");
    } else if unit.bus.misfits > 0 {
        text.push_str("; its answers have another function or length than is asked for");
    }
    text
}

impl Entry {
    /// Says when readings begin to be lost for want of room, and how many were.
    fn tell_losing(&self, device: &str, core: &Port) {
        let (now, before) = (core.losing(), self.losing.get());
        self.losing.set(now);
        if now > 0 && before == 0 {
            log::error!(device; "readings of the line are lost: the journal takes none, and there is no room for more in memory");
        } else if now == 0 && before > 0 {
            log::warn!(device, lost = before; "the journal has taken the readings that waited; those beyond the room in memory were lost");
        }
    }

    /// How the device stands, if it is behind this port.
    fn standing(&self, device: &str) -> Option<Standing> {
        let core = self.core.borrow();
        core.settings().devices().find(|own| own.as_str() == device)?;
        let view = core.units().find(|unit| unit.id.as_str() == device);
        let (unit, fault) = match view.map(|view| (view.standing(), view)) {
            None => match core.asked() {
                Some(standing) => (Some(standing.state.as_str()), why_not(&standing, core.fault())),
                None => match core.illegible() {
                    Some(illegible) => (
                        Some(State::Degraded.as_str()),
                        Some(illegible.sentence(core.settings().name.as_str())),
                    ),
                    None => (None, None),
                },
            },
            Some((state, view)) => (Some(state.as_str()), why_unit(&core, &view)),
        };
        // What a telnet peer does to the data is not the device's doing.
        let fault = fault.map(|why| core.telnet().unwrap_or(why));
        let reason = core.link().reason().map(str::to_owned).or(fault);
        Some(Standing { open: core.link().is_open(), unit, reason })
    }

    fn stop(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }
}

/// What a port's task knows of the daemon.
struct Handle {
    ports: Weak<Ports>,
    entry: Weak<Entry>,
    name: Name,
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&Ports, &Entry) -> T) -> Option<T> {
        Some(act(&*self.ports.upgrade()?, &*self.entry.upgrade()?))
    }

    /// A round of the hub with this port as its source.
    fn round(&self, act: impl FnOnce(&mut Port, Instant, crate::message::Stamp, &mut dyn Taker)) {
        self.with(|ports, entry| {
            ports.shared.round(|hub| {
                hub.begin();
                let moment = hub.moment;
                let mut core = entry.core.borrow_mut();
                act(
                    &mut core,
                    moment.now,
                    moment.stamp(),
                    &mut PortTaker { hub, name: &self.name, number: entry.number },
                );
                while let Some((number, delivered)) = core.poll_delivered() {
                    hub.serial.handle_delivered(entry.number, number, delivered);
                }
                entry.tell_losing(self.name.as_str(), &core);
            });
        });
    }

    /// That the peer speaks telnet, if it is news of these bytes.
    pub(super) fn greet(&self, bytes: &[u8]) -> Option<String> {
        self.with(|_, entry| {
            let is_news = entry.core.borrow_mut().greeted(bytes);
            is_news.then(|| entry.core.borrow().telnet()).flatten()
        })
        .flatten()
    }

    pub(super) fn say_telnet(&self, reason: &str) {
        let kind = LineKind::Telnet(self.name.clone());
        if self.with(|ports, _| ports.shared.hub.borrow_mut().may_say(kind)) == Some(true) {
            log::warn!(device = self.name.as_str(), reason; "the data of the line is damaged");
        }
    }

    /// Bytes for this port.
    pub(super) fn hear(&self, bytes: &[u8]) {
        self.with(|ports, _| ports.show(&self.name, "in", bytes, None));
        self.round(|port, now, stamp, taker| {
            port.handle_wait(now, awake::waited(now));
            port.handle_bytes(now, stamp, bytes, taker);
        });
    }

    /// Takes the next command, if there is one for this port.
    pub(super) fn take_order(&self) {
        self.with(|ports, entry| {
            if !entry.is_writable {
                return;
            }
            let order = ports.shared.hub.borrow_mut().serial.poll_order(entry.number);
            let Some(order) = order else { return };
            let mut core = entry.core.borrow_mut();
            core.write(Instant::now(), order);
            if let Some((number, delivered)) = core.poll_delivered() {
                ports.shared.round(|hub| {
                    hub.begin();
                    hub.serial.handle_delivered(entry.number, number, delivered);
                });
            }
        });
    }

    /// The port was opened or closed: what becomes of commands.
    fn set_open(&self, is_open: bool) {
        self.with(|ports, entry| {
            if entry.is_writable {
                ports.shared.round(|hub| {
                    hub.begin();
                    while let Some((number, delivered)) = entry.core.borrow_mut().poll_delivered() {
                        hub.serial.handle_delivered(entry.number, number, delivered);
                    }
                    hub.serial.set_open(entry.number, is_open);
                });
            }
        });
    }
}

/// Hands what a port brings to the serial side, and logs what is none of its business.
struct PortTaker<'a> {
    hub: &'a mut Hub,
    name: &'a Name,
    number: u32,
}

impl Taker for PortTaker<'_> {
    fn take(&mut self, device: &str, ticket: SerialTicket, received: Received<'_>) -> Verdict {
        intake::handle_reading(self.hub.moment.now, device, ticket, received, &mut self.hub.pipeline)
    }

    fn message(&mut self, message: &[u8]) {
        self.hub.trace_line(self.name.as_str(), message);
        let Hub { moment, coap, pipeline, .. } = &mut *self.hub;
        intake::handle_message(moment, self.number, self.name.as_str(), message, coap, pipeline);
    }

    fn unreadable(&mut self, why: Unreadable, bytes: &[u8]) {
        let name = self.name;
        self.alive(name.as_str());
        if self.hub.may_say(LineKind::Unreadable(self.name.clone())) {
            let first = format_hex(bytes);
            log::info!(device = name.as_str(), reason:% = why, first = first.as_str(); "frame without a reading");
        }
    }

    fn dropped(&mut self, why: Bad, bytes: &[u8]) {
        if self.hub.may_say(LineKind::Unreadable(self.name.clone())) {
            let first = format_hex(bytes);
            log::info!(device = self.name.as_str(), reason = why.as_str(), first = first.as_str(); "frame dropped");
        }
    }

    fn legible(&mut self, legible: bool) {
        let device = self.name.as_str();
        match legible {
            true => log::info!(device; "what comes on the line can be read"),
            false => {
                log::warn!(device; "nothing that comes on the line can be read; `tombolo status` says why");
            }
        }
    }

    fn asked(&mut self, event: poll::Event, fault: Option<&Fault>) {
        let device = self.name.as_str();
        match event {
            poll::Event::Up => log::info!(device; "device answers"),
            poll::Event::Degraded => match fault {
                Some(fault) => {
                    let (reason, first) = (fault.cause().words().0, format_hex(fault.first()));
                    log::warn!(device, reason, first = first.as_str(); "device answers, but its answers are no readings; `tombolo status` counts them");
                }
                None => {
                    log::warn!(device; "device answers, but its answers may be for earlier questions; `tombolo status` says more");
                }
            },
            poll::Event::Down { failure } => {
                let reason = match failure {
                    poll::Failure::Closed if is_cut(fault) => {
                        "its answers are cut off by the closing of the line"
                    }
                    poll::Failure::Silent => "silence",
                    poll::Failure::Damaged => "only damaged answers came, or none with an end",
                    poll::Failure::Closed => "the connection is closed in place of an answer",
                };
                log::warn!(device, reason; "device does not answer");
            }
            poll::Event::Late { after } => {
                if self.hub.may_say(LineKind::LateAnswer(self.name.clone())) {
                    let elapsed_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                    log::info!(device, elapsed_ms; "answer came after its time and was not used; raise poll-timeout if it happens often");
                }
            }
        }
    }

    fn alive(&mut self, device: &str) {
        intake::handle_alive(self.hub.moment.now, device, &mut self.hub.pipeline);
    }

    fn news(&mut self, unit: &modbus::settings::Unit, event: &modbus::Event) {
        super::units::say(self.hub, self.name, unit, event);
    }
}

impl Host for Handle {
    fn poll_open(&self, now: Instant) -> bool {
        self.with(|_, entry| entry.core.borrow_mut().poll_open(now)).unwrap_or(false)
    }

    fn opened(&self, device: &Path) {
        self.with(|ports, entry| {
            entry.core.borrow_mut().handle_opened(Instant::now());
            let shown = device.display().to_string();
            if entry.core.borrow().link().flaps() <= FLAPS_TOLD {
                log::info!(device = self.name.as_str(), port = shown.as_str(); "serial port open");
            }
            ports.show(&self.name, "port", &[], Some(format!("open as {shown}")));
            *entry.device.borrow_mut() = Some(shown);
        });
        self.set_open(true);
    }

    fn failed(&self, reason: &str) {
        self.round(|port, now, stamp, taker| port.handle_closing(now, stamp, taker));
        self.with(|ports, entry| {
            let other = (reason == io::TAKEN).then(|| ports.holder(&self.name)).flatten();
            let reason = match &other {
                Some(other) => &format!(
                    "serial port {other} of this gateway has it under another name; write port in the same way in \
                     both, or give each its own"
                ),
                None => reason,
            };
            let mut core = entry.core.borrow_mut();
            let was_open = core.link().is_open();
            let news = core.handle_failure(Instant::now(), reason);
            let port = core.settings().port.to_string();
            let flaps = core.link().flaps();
            if was_open && flaps > FLAPS_TOLD {
                if flaps == FLAPS_TOLD + 1 {
                    log::warn!(device = self.name.as_str(), port = port.as_str(), reason = reason; "serial port is closed again and again; not told any more until it stays open for a minute");
                }
            } else if was_open {
                log::warn!(device = self.name.as_str(), port = port.as_str(), reason = reason; "serial port lost; waiting for it");
            } else if news && flaps <= FLAPS_TOLD {
                log::warn!(device = self.name.as_str(), port = port.as_str(), reason = reason; "serial port cannot be opened; trying on");
            }
            if was_open || news {
                ports.show(&self.name, "port", &[], Some(format!("not open: {reason}")));
            }
        });
        self.set_open(false);
    }

    fn received(&self, bytes: &[u8]) {
        if let Some(reason) = self.greet(bytes) {
            self.say_telnet(&reason);
        }
        self.hear(bytes);
    }

    fn timeout(&self) {
        self.round(|port, now, stamp, taker| port.handle_timeout(now, stamp, taker));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.take_order();
        self.with(|_, entry| entry.core.borrow().poll_timeout()).flatten()
    }

    fn is_repeatable(&self) -> bool {
        self.with(|_, entry| entry.core.borrow().is_repeatable()).unwrap_or(false)
    }

    fn poll_transmit(&self, buffer: &mut Vec<u8>) -> bool {
        // Readings only come in; a CoAP node is answered, and units are asked.
        self.with(|ports, entry| {
            let message = || ports.shared.hub.borrow_mut().serial.poll_message(entry.number);
            match entry.has_node.then(message).flatten() {
                Some(message) => slipmux::encode(&message, buffer),
                None if entry.core.borrow_mut().poll_transmit(buffer) => {}
                None => return false,
            }
            ports.show(&self.name, "out", buffer, None);
            true
        })
        .unwrap_or(false)
    }

    fn replaces_idle(&self, limit: Duration) {
        let after_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        log::info!(device = self.name.as_str(), after_ms; "the converter gives up a connection that is idle; one that was idle for so long is replaced from now on before a request");
    }

    async fn changed(&self) {
        match self.entry.upgrade() {
            Some(entry) => entry.changed.notified().await,
            None => std::future::pending().await,
        }
    }
}
