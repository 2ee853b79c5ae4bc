//! The uplink as the rest of the daemon holds it: one that can be replaced, or not be there at all.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_local};

use super::clock::SystemClock;
use crate::control::api::Reply;
use crate::control::snapshot;
use crate::gate::Mapped;
use crate::journal::Journal;
use crate::message::Lane;
use crate::northbound::Settings;
use crate::northbound::io::{Driver, Handle};
use crate::northbound::uplink::Uplink;
use crate::northbound::wire::Version;
use crate::telemetry::counters::{Counter, Snapshot};

/// A broker that takes fewer publishes at once makes every batch small.
const SMALL_RECEIVE_MAXIMUM: u16 = 100;
/// How long an asked-for publish may take to be acknowledged.
const CHECK_WITHIN: Duration = Duration::from_secs(10);

/// The uplink, if one is configured.
pub struct Link {
    handle: RefCell<Option<Handle>>,
    clock: Arc<SystemClock>,
    journal: Rc<RefCell<Journal>>,
    seed: Cell<u64>,
    task: RefCell<Option<JoinHandle<()>>>,
    stopping: Cell<bool>,
    /// Readings of `qos = 0` rules dropped because there is no upstream, and by uplinks that were replaced.
    dropped: Cell<u64>,
}

/// Starts it.
pub fn start(
    settings: Option<Settings>,
    clock: &Arc<SystemClock>,
    journal: &Rc<RefCell<Journal>>,
    seed: u64,
) -> Rc<Link> {
    let link = Rc::new(Link {
        handle: RefCell::new(None),
        clock: clock.clone(),
        journal: journal.clone(),
        seed: Cell::new(seed),
        task: RefCell::new(None),
        stopping: Cell::new(false),
        dropped: Cell::new(0),
    });
    link.replace(settings, &[]);
    link
}

impl Link {
    /// Goes on with other settings: the old connection says goodbye first. Retained topics in `clear` are nobody's any more.
    pub fn replace(&self, settings: Option<Settings>, clear: &[String]) {
        let seed = self.seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.seed.set(seed);
        let next = settings.map(|settings| Handle::new(Uplink::new(Instant::now(), settings, seed)));
        if let Some(next) = &next {
            next.with(|core| clear.iter().for_each(|topic| core.clear_retained(topic)));
        }
        let old = self.handle.replace(next.clone());
        if let Some(old) = &old {
            self.dropped.set(self.dropped.get() + old.status().volatile_dropped);
        }
        let (clock, journal) = (self.clock.clone(), self.journal.clone());
        let task = spawn_local(async move {
            if let Some(old) = old {
                old.stop().await;
            }
            if let Some(next) = next {
                let moments = clock.clone();
                Driver::new(next, clock, move || moments.moment()).run(&journal).await;
            }
        });
        self.task.replace(Some(task));
    }

    /// Whether the uplink is gone though nobody stopped it: a defect.
    pub fn is_broken(&self) -> bool {
        let ended = self.task.borrow().as_ref().is_some_and(JoinHandle::is_finished);
        ended && self.handle.borrow().is_some() && !self.stopping.get()
    }

    fn with(&self, act: impl FnOnce(&mut Uplink)) {
        if let Some(handle) = &*self.handle.borrow() {
            handle.with(act);
        }
    }

    /// Records were committed, or read from disk.
    pub fn wake(&self) {
        if let Some(handle) = &*self.handle.borrow() {
            handle.wake();
        }
    }

    /// Takes a reading of a `qos = 0` rule.
    pub fn offer(&self, mapped: &Mapped<'_>) {
        match &*self.handle.borrow() {
            Some(handle) => handle.push_volatile(&mapped.content()),
            None => self.dropped.set(self.dropped.get() + 1),
        }
    }

    /// Says how the gateway is: a JSON object with `"online": true`.
    pub fn set_gateway_status(&self, json: Vec<u8>) {
        self.with(|core| core.set_gateway_status(json));
        self.wake();
    }

    /// Says how a device is.
    pub fn set_device_status(&self, device: &str, status: &serde_json::Value) {
        self.with(|core| core.set_device_status(device, status.to_string().into_bytes()));
    }

    /// Clears the retained status of a device that is gone.
    pub fn clear_device(&self, device: &str) {
        self.with(|core| core.clear_device_status(device));
    }

    /// The retained topics in force: the gateway's own and those of these devices.
    pub fn retained<'d>(&self, devices: impl Iterator<Item = &'d str>) -> Vec<String> {
        let mut topics = Vec::new();
        self.with(|core| {
            let own = &core.settings().topics;
            topics.extend(own.gateway_status.clone());
            if let Some(template) = &own.device_status {
                topics.extend(devices.map(|device| template.replace("{device}", device)));
            }
        });
        topics
    }

    /// Something was changed that may help: tries at once.
    pub fn retry_now(&self) {
        self.with(|core| core.retry_now(Instant::now()));
    }

    /// Says goodbye.
    pub async fn stop(&self) {
        self.stopping.set(true);
        let handle = self.handle.borrow().clone();
        if let Some(handle) = handle {
            handle.stop().await;
        }
    }

    /// Why a lane does not flow although the connection stands.
    pub fn stopped(&self, lane: Lane, now: Instant) -> Option<String> {
        let status = self.handle.borrow().as_ref()?.status();
        let until = status.stopped_until[lane.index()].filter(|until| *until > now)?;
        let seconds = until.saturating_duration_since(now).as_secs() + 1;
        Some(format!("the broker refuses its records; tried again in {seconds} s"))
    }

    /// As `status` shows it.
    pub fn snapshot(&self, now: Instant) -> snapshot::Uplink {
        let Some(handle) = &*self.handle.borrow() else { return snapshot::Uplink::default() };
        let status = handle.status();
        let broker = handle.with_settings(|settings| format!("{}:{}", settings.host, settings.port));
        let mut warnings = Vec::new();
        if status.version == Some(Version::V3_1_1) {
            warnings.push(
                "the broker speaks only MQTT 3.1.1: it cannot say that it refuses a message".to_owned(),
            );
        }
        if let Some(limits) = status.limits.filter(|limits| limits.receive_maximum < SMALL_RECEIVE_MAXIMUM) {
            warnings.push(format!(
                "the broker takes only {} messages at a time (Receive Maximum); mosquitto: max_inflight_messages 1000",
                limits.receive_maximum
            ));
        }
        warnings.extend(Lane::ALL.into_iter().filter_map(|lane| {
            let reason = self.stopped(lane, now)?;
            Some(format!("lane {lane}: {reason}"))
        }));
        snapshot::Uplink {
            configured: true,
            connected: status.connected,
            broker: Some(broker),
            protocol: status.version.map(|version| version.as_str().to_owned()),
            since_s: Some(now.saturating_duration_since(status.since).as_secs()),
            in_flight: status.in_flight as u64,
            window: u64::from(status.window),
            last_error: status.failure,
            retry_in_s: status.attempt_at.map(|at| at.saturating_duration_since(now).as_secs()),
            echo_ms: None,
            warnings,
        }
    }

    /// Its numbers.
    pub fn count(&self, snapshot: &mut Snapshot) {
        let mut dropped = self.dropped.get();
        if let Some(handle) = &*self.handle.borrow() {
            let status = handle.status();
            dropped += status.volatile_dropped;
            snapshot.put("tombolo_northbound_connected_sessions_total", status.connections);
            snapshot.put("tombolo_northbound_published_readings_total", status.counters.sent);
            snapshot.put("tombolo_northbound_expired_readings_total", status.counters.expired);
            snapshot.put("tombolo_northbound_acknowledged_readings_total", status.counters.acknowledged);
            snapshot.put("tombolo_northbound_rejected_readings_total", status.counters.rejected);
        }
        snapshot.put(Counter::ReadingsUnpromisedDropped.name(), dropped);
    }

    /// Publishes to ourselves and answers with how long it took.
    pub fn check(self: &Rc<Self>, reply: Reply) {
        let link = Rc::clone(self);
        spawn_local(async move {
            let handle = link.handle.borrow().clone();
            let took = match handle {
                Some(handle) => handle.check(CHECK_WITHIN).await,
                None => None,
            };
            let mut shown = link.snapshot(Instant::now());
            shown.echo_ms = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            reply.ok(&shown);
        });
    }
}
