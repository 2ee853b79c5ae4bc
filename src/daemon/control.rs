//! The desk: what the control socket, systemd and the once-a-second care are answered from.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::clock::SystemClock;
use super::engine;
use super::hub::Hub;
use super::link::Link;
use super::notify::Notify;
use super::reload::{self, Outcome, Ready};
use super::run::{self, Shared};
use super::serial::Ports;
use super::sessions;
use crate::clock::{UnixTime, WallClock};
use crate::config::io::Options;
use crate::config::{ClockTrust, Level, Loaded};
use crate::control::api::{Control, RejectedAction, Reply};
use crate::control::protocol::{Code, Failure};
use crate::control::snapshot;
use crate::journal::{Journal, Status};
use crate::message::{Lane, Method};
use crate::telemetry::counters::{Counter, Snapshot};

/// How long one disk call, or one round of them, may take before the watchdog is let bite.
const DISK_CALL_MAX: Duration = Duration::from_secs(120);
/// A sign of life at most so often; systemd waits 180 s for one.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How often the DTLS engine is told the time. A session may outlast its certificate by this much.
const TELL_CLOCK_EVERY: Duration = Duration::from_secs(60);

/// Everything there is to ask and to change from outside the path.
pub struct Desk {
    options: Options,
    loaded: Arc<Loaded>,
    shared: Rc<Shared>,
    journal: Rc<RefCell<Journal>>,
    link: Rc<Link>,
    ports: Rc<Ports>,
    clock: Arc<SystemClock>,
    started: Instant,
    alive_at: Instant,
    saved_at: Instant,
    /// When the DTLS engine was told the time; `None`: it is to be told.
    told_at: Option<Instant>,
    reloading: Option<JoinHandle<Outcome>>,
    /// A reload was begun since [`Desk::take_reloading`] was asked last.
    announced: bool,
    /// Asked for while one was under way: done once more after it.
    again: bool,
    waiting: Vec<Reply>,
    later: Vec<Reply>,
}

impl Desk {
    /// Sits down.
    pub fn new(
        options: Options,
        loaded: Loaded,
        shared: Rc<Shared>,
        journal: Rc<RefCell<Journal>>,
        link: Rc<Link>,
        ports: Rc<Ports>,
        clock: Arc<SystemClock>,
    ) -> Desk {
        let now = Instant::now();
        Desk {
            options,
            loaded: Arc::new(loaded),
            shared,
            journal,
            link,
            ports,
            clock,
            started: now,
            alive_at: now,
            saved_at: now,
            told_at: None,
            reloading: None,
            announced: false,
            again: false,
            waiting: Vec::new(),
            later: Vec::new(),
        }
    }

    /// The start, in the log.
    pub fn say_ready(&self) {
        let settings = &self.loaded.settings;
        log::info!(
            gateway = settings.gateway.id.as_str(), devices = settings.gate.devices.len(),
            roles = settings.gate.roles.len(), version = env!("CARGO_PKG_VERSION");
            "ready"
        );
        if settings.upstream.is_none() {
            log::warn!(
                "no upstream is configured: readings are stored; `tombolo init --url mqtts://HOST` names one"
            );
        }
    }

    /// One line, the truth: `systemctl status` shows it.
    pub fn line(&self) -> String {
        let uplink = self.link.snapshot(Instant::now());
        let journal = self.journal.borrow().status();
        let mut line = String::new();
        match (uplink.configured, uplink.connected) {
            (false, _) => line.push_str("no upstream: run tombolo init"),
            (true, true) => {
                let _ = write!(line, "connected to {}", uplink.broker.as_deref().unwrap_or("the broker"));
            }
            (true, false) => {
                let broker = uplink.broker.as_deref().unwrap_or("the broker");
                let reason = uplink.last_error.as_deref().unwrap_or("connecting");
                let _ = write!(line, "NOT connected to {broker}: {reason}");
            }
        }
        let _ = write!(line, "; {} readings waiting", waiting(&journal));
        if let Some(failing) = failing(&journal) {
            let _ = write!(line, "; REFUSING READINGS: {failing}");
        }
        let disabled = self.disabled().len();
        if disabled > 0 {
            let _ = write!(line, "; {disabled} items disabled: run tombolo check");
        }
        line
    }

    /// Once a second: clock, presence, status line, sign of life.
    pub fn care(&mut self, notify: &mut Notify) {
        let now = Instant::now();
        if self.clock.refresh() {
            let trusted = self.clock.trusted();
            log::info!(trusted, clock:% = self.clock.raw(); "the verdict on the clock changed");
            self.told_at = None;
        }
        // Closes sessions whose certificates have expired, and sends their close_notify.
        if self.told_at.is_none_or(|told| now.duration_since(told) >= TELL_CLOCK_EVERY) {
            self.told_at = Some(now);
            let verdict = engine::verdict(&*self.clock);
            self.shared.round(|hub: &mut Hub| {
                hub.engine.set_clock(verdict);
                hub.handle_timeout();
            });
        }
        if now.duration_since(self.saved_at) >= SystemClock::save_interval() {
            self.saved_at = now;
            if let Err(error) = self.clock.save() {
                log::debug!(reason:% = error; "the clock's floor was not saved");
            }
        }
        self.tell_presence(now);
        notify.status(&self.line());
        if now.duration_since(self.alive_at) >= ALIVE_EVERY && is_alive(&self.journal.borrow().status(), now)
        {
            self.alive_at = now;
            if Notify::watchdog().is_some() {
                notify.alive();
            }
        }
    }

    fn tell_presence(&mut self, now: Instant) {
        let mut hub = self.shared.hub.borrow_mut();
        let gate = &mut hub.path.gate;
        while let Some(change) = gate.poll_presence(now) {
            self.tell_device(now, change.id.as_str(), change.online, change.last_seen);
        }
        for name in self.ports.poll_news(now) {
            let view = gate.device_by_id(name.as_str()).and_then(|device| gate.device(now, device));
            if let Some(view) = view {
                self.tell_device(now, name.as_str(), view.online, view.last_seen);
            }
        }
    }

    /// A device is there if it has spoken within its `offline-after`; a serial one, only while its port is
    /// open; a unit on a bus, only while it answers.
    fn tell_device(&self, now: Instant, id: &str, online: bool, last_seen: Option<Instant>) {
        let last_seen = last_seen.zip(self.clock.wall()).map(|(seen, wall)| {
            let ago = now.saturating_duration_since(seen).as_millis();
            UnixTime(wall.0.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))).to_string()
        });
        let mut status = json!({ "online": online, "last_seen": last_seen });
        if let Some(standing) = self.ports.standing(id) {
            self.ports.told(id, now);
            status["online"] = json!(online && standing.is_there());
            status["port"] = json!(if standing.open { "open" } else { "retrying" });
            if let Some(answers) = standing.answers {
                status["unit"] = json!(if answers { "up" } else { "down" });
            }
            if let Some(reason) = standing.reason {
                status["reason"] = json!(reason);
            }
        }
        self.link.set_device_status(id, &status);
    }

    /// Begins a reload, or has it done once more after the one under way.
    pub fn begin_reload(&mut self, reply: Option<Reply>) {
        if self.reloading.is_some() {
            self.again = true;
            self.later.extend(reply);
            return;
        }
        self.waiting.extend(reply);
        self.announced = true;
        self.reloading = Some(reload::begin(self.options.clone(), Arc::clone(&self.loaded)));
    }

    /// Whether a reload was begun since the last question.
    pub fn take_reloading(&mut self) -> bool {
        std::mem::take(&mut self.announced)
    }

    /// Waits for the reload under way; for ever when there is none. May be cancelled without loss.
    pub async fn reloaded(&mut self) -> Outcome {
        match &mut self.reloading {
            Some(task) => {
                let outcome = task.await;
                self.reloading = None;
                outcome.unwrap_or_else(|error| {
                    Err(vec![crate::config::Finding::fail("reload", format!("it broke off: {error}"))])
                })
            }
            None => std::future::pending().await,
        }
    }

    /// Takes the new configuration over, or says why not.
    pub fn finish_reload(&mut self, outcome: Outcome) {
        let answer = match outcome {
            Ok(ready) => {
                run::say(&ready.loaded.findings);
                self.take_over(*ready);
                Ok(json!({ "reloaded": true, "disabled": self.disabled() }))
            }
            Err(findings) => {
                run::say(&findings);
                log::error!("the new configuration is refused; the gateway goes on with the one it has");
                Err(Failure::new(Code::Failed, reload::summary(&findings)))
            }
        };
        for reply in std::mem::take(&mut self.waiting) {
            reply.result(answer.clone());
        }
        if std::mem::take(&mut self.again) {
            self.waiting = std::mem::take(&mut self.later);
            self.begin_reload(None);
        }
    }

    fn take_over(&mut self, ready: Ready) {
        let Ready { loaded, changes, prepared, keyring } = ready;
        let settings = &loaded.settings;
        let insecure = settings.coap.insecure.as_ref().map(|(_, device)| device.as_str());
        let certificates = changes.certificates.then(|| settings.coap.certificates.clone());
        // Under a new name nobody answers for what is retained under the old one.
        let clear = if changes.renamed_from.is_some() {
            let hub = self.shared.hub.borrow();
            self.link.retained(hub.path.gate.devices(Instant::now()).map(|device| device.id.as_str()))
        } else {
            Vec::new()
        };
        self.shared.round(|hub: &mut Hub| hub.replace(prepared, keyring, certificates, insecure));
        if changes.upstream || changes.renamed_from.is_some() {
            self.link.replace(settings.upstream.clone(), &clear);
            self.shared.hub.borrow_mut().path.gate.retell_presence(Instant::now());
        } else {
            self.link.retry_now();
        }
        if changes.serial {
            self.ports.replace(&settings.serial);
        }
        if changes.journal {
            self.journal.borrow().set_bounds(settings.journal.lanes);
        }
        if changes.clock {
            self.clock.set_always(settings.clock.trust == ClockTrust::Always);
            self.told_at = None;
        }
        if changes.dtls {
            self.shared.round(|hub: &mut Hub| hub.engine.set_policy(settings.coap.policy));
        }
        if changes.log {
            crate::telemetry::io::set_level(settings.log.level);
        }
        log::info!(
            devices = settings.gate.devices.len(), gone = changes.devices_gone.len(),
            new = changes.devices_new.len();
            "reloaded"
        );
        self.loaded = Arc::new(loaded);
    }

    fn disabled(&self) -> Vec<String> {
        let failing = self.loaded.findings.iter().filter(|finding| finding.level == Level::Fail);
        failing.map(ToString::to_string).collect()
    }

    fn counters(&self, hub: &Hub) -> Snapshot {
        let mut snapshot = hub.path.counters.snapshot();
        let coap = hub.coap();
        snapshot.put(Counter::CoapDuplicates.name(), coap.duplicates);
        snapshot.put(Counter::CoapMalformed.name(), coap.malformed);
        sessions::counters(hub.engine.counters(), &mut snapshot);
        self.link.count(&mut snapshot);
        snapshot
    }
}

impl Control for Desk {
    fn status(&mut self) -> snapshot::Status {
        let now = Instant::now();
        let hub = self.shared.hub.borrow();
        let journal = self.journal.borrow().status();
        let settings = &self.loaded.settings;
        let online = hub.path.gate.devices(now).filter(|device| device.online).count();
        snapshot::Status {
            gateway: snapshot::Gateway {
                id: settings.gateway.id.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_s: self.started.elapsed().as_secs(),
                disabled: self.disabled(),
            },
            upstream: self.link.snapshot(now),
            journal: snapshot::Journal {
                records: waiting(&journal),
                bytes: journal.lanes.iter().map(|lane| lane.bytes).sum(),
                max_bytes: settings.journal.max_bytes,
                rejected: journal.rejected.records,
                lost: journal.lanes.iter().flat_map(|lane| lane.lost).sum(),
                failing: failing(&journal),
            },
            devices: snapshot::Devices {
                known: hub.path.gate.device_count() as u64,
                online: online as u64,
                sessions: hub.engine.session_count() as u64,
                half_open: hub.engine.half_open_count() as u64,
                fleets: fleets(&hub),
            },
            dtls: sessions::count(&hub, settings.coap.engine, settings.coap.max_sessions),
            session_store: hub.sessions.snapshot(now),
            strays: sessions::strays(&hub, now),
            serial: self.ports.snapshot(now),
            counters: self.counters(&hub).into_json(),
            clock: snapshot::Clock { trusted: self.clock.trusted(), now: Some(self.clock.raw().to_string()) },
        }
    }

    fn sessions(&mut self, device: Option<&str>) -> snapshot::SessionPage {
        sessions::list(&self.shared.hub.borrow(), Instant::now(), device)
    }

    fn queue(&mut self, reply: Reply) {
        let journal = self.journal.borrow();
        let status = journal.status();
        let rejected = snapshot::Rejected {
            records: status.rejected.records,
            bytes: status.rejected.bytes,
            max_bytes: status.rejected.max_bytes,
        };
        let stopped = Lane::ALL.map(|lane| self.link.stopped(lane, Instant::now()));
        let store = journal.rejected();
        tokio::task::spawn_local(async move {
            let mut lanes = BTreeMap::new();
            for (lane, stopped) in Lane::ALL.into_iter().zip(stopped) {
                let of = &status.lanes[lane.index()];
                let oldest = store.oldest(lane).await;
                lanes.insert(
                    lane.as_str().to_owned(),
                    snapshot::Lane {
                        records: of.records,
                        bytes: of.bytes,
                        oldest: oldest
                            .and_then(|(_, stamp)| stamp.wall_ms)
                            .map(|ms| UnixTime(ms).to_string()),
                        oldest_record: oldest.map(|(id, _)| id.to_string()),
                        max_bytes: of.max_bytes,
                        dropped: of.lost.iter().sum(),
                        stopped,
                    },
                );
            }
            reply.ok(&snapshot::Queue { lanes, rejected });
        });
    }

    fn rejected(&mut self, action: RejectedAction, reply: Reply) {
        let store = self.journal.borrow().rejected();
        tokio::task::spawn_local(super::rejected::answer(store, action, reply));
    }

    fn reload(&mut self, reply: Reply) {
        self.begin_reload(Some(reply));
    }

    fn explain(&mut self, device: &str, method: Method, path: &str) -> serde_json::Value {
        let hub = self.shared.hub.borrow();
        let explanation = hub.path.gate.explain(Instant::now(), device, method, path);
        serde_json::to_value(explanation).unwrap_or_default()
    }

    fn uplink_check(&mut self, reply: Reply) {
        self.link.check(reply);
    }

    fn serial_port(&mut self, name: &str) -> bool {
        self.ports.contains(name)
    }
}

fn fleets(hub: &Hub) -> BTreeMap<String, snapshot::Fleet> {
    let of = |(fleet, devices): (&crate::gate::Fleet, usize)| {
        let max_devices = u64::from(fleet.max_devices);
        (fleet.name.to_string(), snapshot::Fleet { devices: devices as u64, max_devices })
    };
    hub.path.gate.fleets().map(of).collect()
}

/// Readings that wait for the uplink.
fn waiting(journal: &Status) -> u64 {
    journal.lanes.iter().map(|lane| lane.records).sum()
}

/// Why the journal takes no readings at present.
fn failing(journal: &Status) -> Option<String> {
    if journal.dead {
        return Some("the journal's thread is gone: restart the service".to_owned());
    }
    let trouble = journal.lanes.iter().find_map(|lane| lane.trouble)?;
    Some(format!("the disk: {trouble}"))
}

/// Whether the journal's thread makes progress: one disk call may take long on an SD card.
fn is_alive(journal: &Status, now: Instant) -> bool {
    !journal.dead
        && journal.busy_since.is_none_or(|since| now.saturating_duration_since(since) < DISK_CALL_MAX)
}
