//! The desk: what the control socket, systemd and the once-a-second care are answered from.

mod bundle;
mod remote;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::certificates::Certificates;
use super::clock::SystemClock;
use super::config_check;
use super::daily_bytes::DailyBytes;
use super::deliveries::Deliveries;
use super::device_status::{self, Presence};
use super::device_test;
use super::disk_room::DiskRoom;
use super::dtls_status;
use super::engine;
use super::fleets::FleetKeeper;
use super::gateway_status::{Facts, GatewayStatus, Numbers, States};
use super::hub::Hub;
use super::link::Link;
use super::mailbox;
use super::metrics::Metrics;
use super::mqtt::Clients;
use super::mqtt_status;
use super::new_keys::NewKeys;
use super::notify::Notify;
use super::rejected;
use super::rekeying::Rekeying;
use super::reload::{self, Outcome, Ready, Refused};
use super::report;
use super::revocation::Revocations;
use super::round::Shared;
use super::serial::Ports;
use super::state::StateKeeper;
use super::trial::{Judgement, OnTrial};
use super::update::Updates;
use super::usage::UsageKeeper;
use crate::clock::judge::{BEFORE_CERTIFICATE, Verdict, way_out_of_impossible};
use crate::clock::{UnixTime, WallClock};
use crate::config::acl;
use crate::config::io::Options;
use crate::config::reload::Changes;
use crate::config::scalar::{did_you_mean, format_psk_identity};
use crate::config::{ClockTrust, Finding, Level, Loaded, Settings};
use crate::control::api::{
    AclQuestion, CertificateAction, ClockAction, Control, MailboxAction, RejectedAction, Reply, UpdateAction,
};
use crate::control::protocol::{CheckTopic, Code, Failure};
use crate::control::snapshot::DeviceState;
use crate::control::{snapshot, verdict};
use crate::gate::Prepared;
use crate::journal::{Journal, LaneStatus, RejectError, Status};
use crate::message::{Lane, Name, RecordId};
use crate::northbound::publication;
use crate::northbound::publisher::Skip;
use crate::northbound::reason_code::Cause;
use crate::proto::dtls::Keyring;
use crate::proto::dtls::server::{Certificates as DtlsCertificates, ListPolicy, ServerKey};
use crate::southbound::serial;
use crate::telemetry::counters::{Counter, Snapshot};
use crate::telemetry::io::hinted;
use crate::telemetry::limited::Limiter;

/// The configuration, the lists and what both come to.
type ListsUnderWay =
    (Arc<Loaded>, Arc<Vec<Vec<u8>>>, std::sync::mpsc::Receiver<crate::proto::dtls::server::Certificates>);

/// How long one disk call, or one round of them, may take before the watchdog is let bite.
const DISK_CALL_MAX: Duration = Duration::from_secs(120);
/// How long a command waits for the clock's file: less than it waits for its answer.
const SAVE_WITHIN: Duration = Duration::from_secs(5);
/// A read, or a write of the journal, that takes longer than this is named.
const SLOW_DISK: Duration = Duration::from_secs(15);
/// Most silent devices that are named.
const SILENT_SHOWN: usize = 100;
/// Devices named that the configuration switches off.
const OFF_NAMED_MAX: usize = 20;
/// How long the oldest record of a lane is asked for, of records that came just now, and how often.
const OLDEST_WITHIN: Duration = Duration::from_secs(2);
const OLDEST_TICK: Duration = Duration::from_millis(50);
/// A sign of life at most so often; systemd waits 180 s for one.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Everything there is to ask and to change from outside the path.
pub struct Desk {
    options: Options,
    loaded: Arc<Loaded>,
    shared: Rc<Shared>,
    journal: Rc<RefCell<Journal>>,
    link: Rc<Link>,
    ports: Rc<Ports>,
    clients: Rc<Clients>,
    clock: Arc<SystemClock>,
    state: StateKeeper,
    fleets: FleetKeeper,
    daily_bytes: DailyBytes,
    usage: UsageKeeper,
    new_keys: NewKeys,
    rekeying: Rekeying,
    deliveries: Rc<Deliveries>,
    certificates: Rc<Certificates>,
    revocations: Revocations,
    /// New lists for devices on their way: what they are worked out for.
    lists: Option<ListsUnderWay>,
    /// What devices are judged by and what they are shown: of the files, with the key that was
    /// renewed and the lists that were fetched since.
    in_force: DtlsCertificates,
    updates: Rc<Updates>,
    started: Instant,
    /// Since when the rules count what they decide.
    rules_since: Instant,
    alive_at: Instant,
    /// The verdict on the clock that was logged.
    verdict: Option<Verdict>,
    /// What time servers say may change every second.
    limiter: Limiter<()>,
    reloading: Option<JoinHandle<Outcome>>,
    /// A reload was begun since [`Desk::take_reloading`] was asked last.
    announced: bool,
    /// Asked for while one was under way: done once more after it.
    again: bool,
    waiting: Vec<Reply>,
    later: Vec<Reply>,
    /// Why the last reload was refused, until one is not.
    refused: Option<String>,
    /// Why the last reload found the upstream's files of no use, and how many connections there had
    /// been: another one since then has used them.
    unusable: Option<(String, u64)>,
    gateway_status: GatewayStatus,
    /// Sends rejected records again.
    retrying: Option<JoinHandle<()>>,
    /// Why the metrics are not exported, one sentence each.
    metrics_problems: Vec<String>,
    /// Whether the disk has room.
    disk: DiskRoom,
    /// The configuration on trial.
    trial: Option<OnTrial>,
    /// Changes of the registry that came from the broker.
    registry_changes: Vec<remote::RegistryChange>,
    /// Held once more by each command from the broker that is not answered yet.
    remote_under_way: Rc<()>,
    /// The support bundle that the broker asked for.
    bundles: bundle::Bundles,
}

impl Desk {
    /// Sits down.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        options: Options,
        loaded: Loaded,
        shared: Rc<Shared>,
        journal: Rc<RefCell<Journal>>,
        link: Rc<Link>,
        ports: Rc<Ports>,
        clients: Rc<Clients>,
        clock: Arc<SystemClock>,
        fleets: FleetKeeper,
        deliveries: Rc<Deliveries>,
        certificates: Rc<Certificates>,
        revocations: Revocations,
        updates: Rc<Updates>,
    ) -> Desk {
        let now = Instant::now();
        let interval = loaded.settings.upstream.as_ref().and_then(|upstream| upstream.retry_rejected);
        let new_keys = NewKeys::open(&loaded.settings.paths.state_dir, &mut shared.hub.borrow_mut().mqtt);
        let mut desk = Desk {
            options,
            state: StateKeeper::new(now, &loaded),
            usage: UsageKeeper::open(now, &clock.moment(), &loaded.settings.paths.state_dir),
            daily_bytes: DailyBytes::open(
                &loaded.settings.paths.state_dir,
                &link,
                loaded.settings.daily_bytes,
            ),
            fleets,
            new_keys,
            rekeying: Rekeying::default(),
            deliveries,
            certificates,
            revocations,
            lists: None,
            in_force: loaded.settings.coap.certificates.clone(),
            updates,
            loaded: Arc::new(loaded),
            shared,
            journal,
            link,
            ports,
            clients,
            clock,
            started: now,
            rules_since: now,
            alive_at: now,
            verdict: None,
            limiter: Limiter::new(Default::default()),
            reloading: None,
            announced: false,
            again: false,
            waiting: Vec::new(),
            later: Vec::new(),
            refused: None,
            unusable: None,
            gateway_status: GatewayStatus::default(),
            retrying: None,
            metrics_problems: Vec::new(),
            disk: DiskRoom::default(),
            trial: None,
            registry_changes: Vec::new(),
            remote_under_way: Rc::default(),
            bundles: bundle::Bundles::default(),
        };
        desk.trial = OnTrial::of(&desk.loaded, now);
        desk.retry(interval);
        bundle::clear(&desk.loaded.settings.paths.state_dir);
        desk
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
        let waiting = waiting(&journal);
        let _ = write!(line, "; {waiting} reading{} waiting", if waiting == 1 { "" } else { "s" });
        if let Some(failing) = failing(&journal) {
            let _ = write!(line, "; REFUSING READINGS: {failing}");
        }
        match self.verdict {
            Some(Verdict::Doubted(_) | Verdict::Impossible { .. }) => {
                line.push_str("; clock in doubt: run tombolo clock");
            }
            Some(Verdict::NotSynchronised) => line.push_str("; clock not trusted"),
            Some(Verdict::Trusted(_)) | None => {}
        }
        if journal.rejected.records > 0 {
            let _ = write!(line, "; {} rejected: run tombolo queue rejected list", journal.rejected.records);
        }
        let disabled = self.disabled().len();
        if disabled > 0 {
            let s = if disabled == 1 { "" } else { "s" };
            let _ = write!(line, "; {disabled} item{s} disabled: run tombolo check");
        }
        let mut problems = uplink.stalled.clone();
        problems.extend(self.problems(&journal, Instant::now()));
        problems.extend(self.link.lasting_problems());
        problems.extend(self.ports.problems());
        if let Some(first) = problems.first() {
            let (count, s) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
            let _ = write!(line, "; {count} problem{s}: {first}; run tombolo check");
        }
        if let Some(trial) = &self.trial {
            let _ = write!(line, "; {}", trial.snapshot().note());
        }
        hinted(&line).into_owned()
    }

    /// Once a second: clock, presence, status line, sign of life.
    pub async fn care(&mut self, notify: &mut Notify) {
        let now = Instant::now();
        self.disk.care(now, &self.loaded.settings.journal.directory).await;
        let verdict = self.clock.refresh();
        if self.verdict != Some(verdict) {
            self.verdict = Some(verdict);
            if self.limiter.permit(now, ()) {
                say_clock(verdict, &self.clock);
            }
            // Without a trusted clock no token could be made.
            let has_tokens =
                self.loaded.settings.upstream.as_ref().is_some_and(|upstream| upstream.jwt.is_some());
            if has_tokens && self.clock.trusted() && !self.link.snapshot(now).connected {
                log::info!("the clock is trusted, so a token can be made: connecting at once");
                self.link.retry_if_away();
            }
        }
        while let Some(suppressed) = self.limiter.poll_event(now) {
            log::warn!(suppressed = suppressed.count; "lines on the clock left out");
        }
        // Closes sessions whose certificates have expired, and sends their close_notify.
        let verdict = engine::verdict(&*self.clock);
        let tokens = engine::token_verdict(&*self.clock);
        self.shared.round(|hub: &mut Hub| {
            hub.engine.set_clock(verdict);
            hub.set_mqtt_clock(verdict, tokens);
            hub.handle_timeout();
            hub.care_for_commands();
        });
        self.clock.save_when_due(now);
        self.state.care(now);
        self.daily_bytes.care(now, &self.clock.moment(), &self.link);
        self.usage.care(now, &self.clock.moment(), &self.shared.hub.borrow().pipeline.gate);
        let gone = self.fleets.care(now, &mut self.shared.hub.borrow_mut().pipeline.gate);
        gone.iter().for_each(|id| self.link.clear_device(id.as_str()));
        self.new_keys.care(now, &mut self.shared.hub.borrow_mut().mqtt);
        self.end_overlaps(now, verdict);
        self.certificates.care();
        if let Some(key) = self.certificates.take_server_key() {
            self.serve_with(key);
        }
        if let Some(lists) = self.revocations.care() {
            self.begin_lists(lists);
        }
        self.take_up_lists();
        self.updates.care(now);
        {
            let hub = self.shared.hub.borrow();
            hub.firmware.care(now, &hub.pipeline.gate);
        }
        self.care_for_remote().await;
        self.judge_trial(now);
        self.tell_presence(now);
        self.tell_status(now);
        notify.status(&self.line());
        if now.duration_since(self.alive_at) >= ALIVE_EVERY
            && is_alive(&self.journal.borrow().status(), now, disk_patience())
        {
            self.alive_at = now;
            if Notify::watchdog().is_some() {
                notify.alive();
            }
        }
    }

    /// Takes this key and its certificate for all handshakes of devices from the next on. Sessions
    /// that stand stay.
    fn serve_with(&mut self, key: Arc<ServerKey>) {
        self.in_force.key = Some(key);
        let certificates = self.in_force.clone();
        self.shared.round(|hub: &mut Hub| hub.replace_certificates(certificates));
        log::info!("handshakes of devices have the new certificate from now on");
    }

    /// The configuration on trial: stays, goes, or waits.
    fn judge_trial(&mut self, now: Instant) {
        if self.reloading.is_some() {
            return;
        }
        let Some(on_trial) = &self.trial else { return };
        match on_trial.judge(now, &self.link.snapshot(now), self.link.unproven().is_none()) {
            Judgement::Waits => {}
            Judgement::Stays => {
                log::info!("the configuration on trial is confirmed: the uplink is connected");
                let state_dir = self.loaded.settings.paths.state_dir.clone();
                self.trial = None;
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = crate::config::trial::io::remove(&state_dir) {
                        log::error!(reason:% = error; "the record of the trial cannot be deleted: the next start goes back");
                    }
                });
            }
            Judgement::Goes => {
                log::error!(
                    "the configuration on trial was not confirmed in time: the one before is used again"
                );
                self.trial = None;
                self.begin_reload(None);
            }
        }
    }

    /// The gateway's retained status.
    fn tell_status(&mut self, now: Instant) {
        let settings = &self.loaded.settings;
        let Some(upstream) = &settings.upstream else { return };
        let journal = self.journal.borrow();
        let status = journal.status();
        let uplink = self.link.snapshot(now);
        // Without the time until the next try, which is another each second.
        let stopped = |lane| {
            let reason = self.link.stopped(lane, now)?;
            Some(reason.split("; tried again in").next().unwrap_or_default().to_owned())
        };
        let paused = |lane| unread(&status, lane, now).or_else(|| stopped(lane));
        let states = States {
            protocol: uplink.protocol,
            paused: Lane::ALL.map(paused),
            clock_trusted: self.clock.trusted(),
            problems: clock_problem(&self.clock)
                .into_iter()
                .chain(failing(&status).map(|reason| format!("readings are refused: {reason}")))
                .chain(rejected_problem(&status))
                .chain(self.problems(&status, now))
                .chain(self.link.lasting_problems())
                .chain(self.ports.problems())
                .chain(self.trial.as_ref().map(|trial| trial.snapshot().note()))
                .map(|problem| hinted(&problem).into_owned())
                .collect(),
            connection: self.link.connections(),
        };
        let lanes = status.lanes.map(|lane| (lane.records, lane.bytes));
        let numbers = Numbers {
            lanes,
            rejected: status.rejected.records,
            lost: status.lanes.iter().map(LaneStatus::lost_records).sum(),
            unreadable: status.lanes.iter().map(|lane| lane.unreadable).sum(),
        };
        let moment = self.clock.moment();
        let facts = Facts {
            gateway: settings.gateway.id.to_string(),
            moment,
            wall: moment.wall,
            uptime: now.saturating_duration_since(self.started),
            protocol_for: uplink.protocol_since_s.map(Duration::from_secs),
            state_dir: settings.paths.state_dir.clone(),
            certificate: self.certificates.uplink_file().or_else(|| {
                let identity = upstream.tls.as_ref()?.identity.as_ref();
                identity.map(|(file, _)| file.clone())
            }),
        };
        self.gateway_status.care(now, states, numbers, facts, journal.rejected(), &self.link);
    }

    /// At the stop, when nothing is received any more.
    pub fn close(&mut self) {
        self.fleets.close(&self.shared.hub.borrow().pipeline.gate);
        self.rekeying.close(&mut self.shared.hub.borrow_mut().pipeline.gate, &self.loaded);
        self.new_keys.close(&self.shared.hub.borrow().mqtt);
        self.daily_bytes.close(&self.link);
        let gate = &self.shared.hub.borrow().pipeline.gate;
        self.usage.close(Instant::now(), &self.clock.moment(), gate);
    }

    fn tell_presence(&mut self, now: Instant) {
        let mut hub = self.shared.hub.borrow_mut();
        let gate = &mut hub.pipeline.gate;
        while let Some(change) = gate.poll_presence(now) {
            self.tell_device(now, change.id.as_str(), change.online, change.last_seen);
        }
        self.ports.care(now);
        for name in self.ports.poll_news(now) {
            let view = gate.device_by_id(name.as_str()).and_then(|device| gate.device(now, device));
            if let Some(view) = view {
                self.tell_device(now, name.as_str(), view.online, view.last_seen);
            }
        }
    }

    /// A device is there if it has spoken within its `offline-after`; a serial one, only while its
    /// port is open; a unit on a bus, only while it answers.
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
            if let Some(unit) = standing.unit {
                status["unit"] = json!(unit);
            }
            if let Some(reason) = standing.reason {
                status["reason"] = json!(reason);
            }
        }
        self.link.set_device_status(id, &status);
    }

    /// New lists for devices are there: what they come to is worked out off this thread.
    fn begin_lists(&mut self, lists: Arc<Vec<Vec<u8>>>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let loaded = Arc::clone(&self.loaded);
        self.lists = Some((Arc::clone(&loaded), lists.clone(), receiver));
        tokio::task::spawn_blocking(move || {
            let keys = loaded.settings.gate.devices.iter().filter_map(|device| device.public_key);
            // Nobody waits after a stop.
            let _ = sender.send(loaded.certificates.with_fetched(&lists).certificates(keys));
        });
    }

    /// Puts new lists for devices in force; nothing else of the configuration changes by it.
    fn take_up_lists(&mut self) {
        let Some((loaded, lists, receiver)) = &self.lists else { return };
        let Ok(certificates) = receiver.try_recv() else { return };
        if Arc::ptr_eq(loaded, &self.loaded) {
            let policy = ListPolicy { missing: lists.is_empty(), ..loaded.certificates.list_policy };
            let lists = [&loaded.certificates.revocation_lists[..], lists].concat();
            self.clients.replace_lists(lists, policy);
            self.lists = None;
            self.in_force.trust = certificates.trust;
            let certificates = self.in_force.clone();
            self.shared.round(|hub: &mut Hub| hub.replace_certificates(certificates));
        } else {
            // A reload came in between, perhaps with other CAs.
            let lists = lists.clone();
            self.begin_lists(lists);
        }
    }

    /// Devices that have used their new pre-shared key lose the one before.
    fn end_overlaps(&mut self, now: Instant, verdict: crate::proto::dtls::server::Clock) {
        let is_changed = {
            let gate = &mut self.shared.hub.borrow_mut().pipeline.gate;
            self.rekeying.care(now, verdict, gate, &self.loaded)
        };
        if is_changed {
            self.begin_reload(None);
        }
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
        self.reloading = Some(reload::begin(
            self.options.clone(),
            Arc::clone(&self.loaded),
            self.clock.clone(),
            Rc::clone(&self.link),
            self.in_force.key.clone(),
        ));
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
                    let finding = crate::config::Finding::fail("reload", format!("it broke off: {error}"));
                    Err(vec![finding].into())
                })
            }
            None => std::future::pending().await,
        }
    }

    /// The addresses that the metrics are exported on.
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        self.loaded.settings.metrics.listen.clone()
    }

    /// Why they are not.
    pub fn set_metrics_problems(&mut self, problems: Vec<String>) {
        self.metrics_problems = problems;
    }

    /// Takes the new configuration over, or says why not. Where the addresses of the metrics
    /// changed, the answer waits until they were tried.
    pub async fn finish_reload(&mut self, outcome: Outcome, metrics: &mut Metrics) {
        let metrics_before = self.metrics_addresses();
        let answer = match outcome {
            Ok(ready) => {
                self.refused = None;
                report::findings(&ready.loaded.findings);
                report::findings(&ready.loaded.state.events);
                report::findings(&ready.loaded.state.problems);
                let (unusable, kept) = (ready.unusable.clone(), ready.kept.clone());
                let changed = ready.beside_registry.clone();
                // Those who asked wait for its outcome.
                let by = self.waiting.first().map(Reply::asker).unwrap_or_default();
                report::identities(&ready.identities, by);
                let new_keys = ready
                    .identities
                    .iter()
                    .flat_map(|change| change.new_token_keys().map(|key| (change.device.clone(), key)));
                self.shared.hub.borrow_mut().mqtt.note_new_keys(new_keys);
                self.take_over(*ready);
                self.unusable = unusable.clone().map(|reason| (reason, self.link.connections()));
                if self.metrics_addresses() != metrics_before {
                    metrics.replace(&self.metrics_addresses());
                    metrics.settled().await;
                }
                self.metrics_problems = metrics.problems();
                self.clients.settled().await;
                let (disabled, problems) = (self.disabled(), self.state.problems());
                Ok(json!({
                    "reloaded": true, "changed": changed, "disabled": disabled, "problems": problems, "upstream_files": unusable, "upstream_kept": kept,
                    "upstream_unproven": self.link.unproven(),
                    "metrics": self.metrics_problems, "mqtt": self.clients.not_in_force(),
                }))
            }
            Err(Refused { findings, withdrawn }) => {
                report::findings(&findings);
                log::error!("the new configuration is refused; the gateway goes on with the one it has");
                if let Some(ready) = withdrawn {
                    let by = self.waiting.first().map(Reply::asker).unwrap_or_default();
                    report::identities(&ready.identities, by);
                    self.cut_off(*ready);
                }
                let summary = reload::summary(&findings);
                self.refused = Some(summary.clone());
                Err(Failure::new(Code::Failed, summary))
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

    /// The certificates that devices are judged by from now on, if they changed. The gateway's own
    /// may have come into use since they were loaded last.
    fn changed_certificates(&self, settings: &Settings, changes: &Changes) -> Option<DtlsCertificates> {
        let mut certificates = settings.coap.certificates.clone();
        if let Some(key) = self.certificates.server_key(settings, certificates.key.as_ref()) {
            certificates.key = Some(key);
        }
        let is_gone = self.in_force.key.is_some() && certificates.key.is_none();
        (changes.certificates || is_gone).then_some(certificates)
    }

    /// Goes by other rules, devices and keys.
    fn replace_rules(
        &mut self,
        settings: &Settings,
        prepared: Prepared,
        keyring: Keyring,
        certificates: Option<DtlsCertificates>,
    ) {
        let insecure = settings.coap.insecure.as_ref().map(|(_, device)| device.as_str());
        let folder = settings.paths.state_dir.join(mailbox::FOLDER);
        let downlink = (&settings.downlink, &settings.serial, folder.as_path());
        let (usage, moment) = (&mut self.usage, self.clock.moment());
        self.shared.round(|hub: &mut Hub| {
            usage.look(Instant::now(), &moment, &hub.pipeline.gate);
            hub.mqtt.replace(&settings.mqtt, &settings.gate.roles);
            hub.replace(prepared, keyring, certificates, insecure, downlink);
            usage.forget(&hub.pipeline.gate);
            hub.firmware.forget(Instant::now(), &hub.pipeline.gate, &settings.update.sensors);
            hub.coap.reports.replace(settings.coap.reports.clone());
        });
    }

    /// Cuts off the devices that the registry does not let in any more. Nothing else changes: the
    /// new configuration is refused.
    fn cut_off(&mut self, ready: Ready) {
        let Ready { loaded, changes, prepared, keyring, .. } = ready;
        let certificates = self.changed_certificates(&loaded.settings, &changes);
        if let Some(certificates) = &certificates {
            self.in_force = certificates.clone();
        }
        self.replace_rules(&loaded.settings, prepared, keyring, certificates);
        let now = Instant::now();
        let hub = self.shared.hub.borrow();
        self.deliveries.retain(hub.pipeline.gate.devices(now).map(|device| device.id.as_str()));
        drop(hub);
        log::warn!(
            devices = changes.devices_gone.len();
            "devices that the registry has disabled or removed are cut off all the same"
        );
        self.loaded = Arc::new(loaded);
    }

    fn take_over(&mut self, ready: Ready) {
        let Ready { loaded, changes, prepared, keyring, upstream_files, device_lists, given, proof, .. } =
            ready;
        let settings = &loaded.settings;
        let certificates = self.changed_certificates(settings, &changes);
        for list in certificates.iter().flat_map(|new| new.trust.without_list_since(&self.in_force.trust)) {
            log::warn!(ca = list.as_str(); "this CA has no revocation list any more; what it had revoked is accepted again");
        }
        // Under a new name nobody answers for what is retained under the old one.
        let update_topic = settings.upstream.as_ref().and_then(|upstream| upstream.topics.update.clone());
        let clear = if changes.renamed_from.is_some() {
            let hub = self.shared.hub.borrow();
            self.link.retained(hub.pipeline.gate.devices(Instant::now()).map(|device| device.id.as_str()))
        } else {
            // Where nobody looks for newer firmware any more, nothing says what was found.
            self.link
                .update_topic()
                .filter(|before| Some(before) != update_topic.as_ref())
                .into_iter()
                .collect()
        };
        if let Some(certificates) = &certificates {
            self.in_force = certificates.clone();
        }
        self.replace_rules(settings, prepared, keyring, certificates);
        self.clients.replace(&loaded);
        let now = Instant::now();
        let hub = self.shared.hub.borrow();
        self.deliveries.retain(hub.pipeline.gate.devices(now).map(|device| device.id.as_str()));
        drop(hub);
        self.rules_since = Instant::now();
        self.link.set_downlink(&settings.downlink);
        self.link.set_daily_bytes(settings.daily_bytes);
        if changes.upstream || changes.renamed_from.is_some() {
            let why = match changes.renamed_from.is_some() {
                true => "the gateway has another id",
                false => "[upstream], the gateway's topics or the filters of commands have changed",
            };
            log::info!("{why}: the connection to the broker is ended in good order and made anew");
            self.link.replace(settings.upstream.clone(), &clear);
            self.gateway_status.forget();
            self.updates.forget();
            self.shared.hub.borrow_mut().pipeline.gate.retell_presence(Instant::now());
        }
        if changes.renamed_from.is_none()
            && let Some(upstream) = settings.upstream.as_ref().filter(|_| changes.upstream_files)
        {
            self.link.take_files(upstream);
        }
        self.link.retry_subscriptions();
        self.certificates.handle_reload(settings, changes.upstream || changes.renamed_from.is_some());
        self.link.look_at_files(upstream_files);
        self.link.take_proof(given, proof);
        let interval = settings.upstream.as_ref().and_then(|upstream| upstream.retry_rejected);
        if interval != self.loaded.settings.upstream.as_ref().and_then(|upstream| upstream.retry_rejected) {
            self.retry(interval);
        }
        if changes.serial {
            self.ports.replace(&settings.serial);
        }
        if changes.journal {
            self.journal.borrow_mut().set_bounds(settings.journal.lanes);
        }
        if changes.update || changes.renamed_from.is_some() {
            self.updates.replace(&settings.update, &settings.gateway.id);
        }
        if changes.clock {
            self.clock.set_always(settings.clock.trust == ClockTrust::Always);
            // Whoever asks next hears the verdict by the new rule.
            self.clock.refresh();
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
        self.revocations.configure(&settings.revocation);
        let lists_now = reload::device_lists(settings);
        let is_same = match (&device_lists, &lists_now) {
            (Some(judged), Some(now)) => Arc::ptr_eq(judged, now),
            (judged, now) => judged.is_none() && now.is_none(),
        };
        if !is_same {
            // They came while it was judged.
            self.revocations.tell_devices_again();
        }
        self.state = StateKeeper::new(Instant::now(), &loaded);
        self.trial = OnTrial::of(&loaded, Instant::now());
        self.loaded = Arc::new(loaded);
    }

    /// What is wrong and needs somebody, one sentence each.
    fn problems(&self, journal: &Status, now: Instant) -> Vec<String> {
        let mut problems = journal_problems(journal, now);
        problems.extend(self.disk_problem());
        problems.extend(self.refused.iter().map(|reason| {
            // Where only a restart helps, its advice says so.
            let then = if reason.contains("restart") { "" } else { snapshot::THEN_RELOAD };
            format!("the last reload was refused, the configuration before it is in use: {reason}{then}")
        }));
        let connections = self.link.connections();
        problems.extend(self.unusable.iter().filter(|(_, at)| *at == connections).map(|(reason, _)| {
            format!("the files of [upstream] cannot be used: {reason}; a connection that stands goes on until it breaks")
        }));
        problems.extend(self.link.unproven());
        problems.extend(self.state.problems());
        problems.extend(self.clients.problems());
        problems.extend(self.metrics_problems.iter().cloned());
        problems.extend(self.shared.sockets.iter().filter(|socket| socket.is_absent()).map(|socket| {
            format!(
                "[coap] {} is not an address of this machine at present, so no device reaches it there; it is served once \
                 the machine has it: see `ip address`",
                socket.local()
            )
        }));
        problems.extend(self.certificates.problems());
        problems.extend(self.revocations.problems(&self.loaded));
        problems.extend(self.updates.problems(now));
        problems.extend(mailbox::problems(&self.shared.hub.borrow().commands));
        {
            let hub = self.shared.hub.borrow();
            problems.extend(mqtt_status::problems(&hub.mqtt, &hub.pipeline.gate, now));
        }
        let of_fleets = self.fleets.problems(&problems);
        problems.extend(of_fleets);
        let of_new_keys = self.new_keys.problems(&problems);
        problems.extend(of_new_keys);
        let of_daily_bytes = self.daily_bytes.problems(&problems);
        problems.extend(of_daily_bytes);
        let of_usage = self.usage.problems(&problems);
        problems.extend(of_usage);
        let of_firmware = self.shared.hub.borrow().firmware.problems(&problems, now);
        problems.extend(of_firmware);
        problems.extend(self.rekeying.problem());
        problems
    }

    fn disk_problem(&self) -> Option<String> {
        let journal = &self.loaded.settings.journal;
        self.disk.problem(&journal.directory, journal.max_bytes)
    }

    /// Has rejected records sent again by this timer from now on.
    fn retry(&mut self, interval: Option<Duration>) {
        if let Some(task) = self.retrying.take() {
            task.abort();
        }
        let store = self.journal.borrow().rejected();
        self.retrying = interval.map(|interval| rejected::start_retrying(store, &self.link, interval));
    }

    /// Whether a device sends nothing that a trace of it would show: it has credentials of MQTT
    /// alone, or an MQTT client is connected for it and no DTLS session stands.
    fn speaks_mqtt_alone(&mut self, device: &str) -> bool {
        let known = self.loaded.settings.gate.devices.iter().find(|known| known.id.as_str() == device);
        let has_mqtt_alone = known.is_some_and(|known| {
            let has_coap = known.psk.is_some() || known.certificate.is_some() || known.public_key.is_some();
            (known.login.is_some() || !known.jwt_keys.is_empty()) && !has_coap
        });
        let is_connected_so = |of: DeviceState| of.mqtt_clients > 0 && of.sessions == 0;
        let page = self.devices(Some(device), None).unwrap_or_default();
        has_mqtt_alone || page.devices.into_iter().next().is_some_and(is_connected_so)
    }

    fn disabled(&self) -> Vec<String> {
        let failing = self.loaded.findings.iter().filter(|finding| finding.level == Level::Fail);
        // Files that are watched may have come since.
        let came = self.certificates.tables_with_good_files();
        let is_of = |finding: &Finding, table: &str| {
            let key = finding.key.as_deref().and_then(|key| key.strip_prefix(table));
            key.is_some_and(|key| [".certificate-file", ".key-file"].contains(&key))
        };
        let failing = failing.filter(|finding| !came.iter().any(|table| is_of(finding, table)));
        failing.map(ToString::to_string).collect()
    }

    fn switched_off(&self) -> impl Iterator<Item = String> + '_ {
        self.loaded.known.iter().filter(|known| known.switched_off).map(|known| known.id.clone())
    }

    /// The ports. What a CoAP node on a line sends passes as over a session: it is counted by the
    /// gate.
    fn serial(&self, hub: &Hub, now: Instant) -> BTreeMap<String, snapshot::SerialPort> {
        let mut ports = self.ports.snapshot(now);
        let gate = &hub.pipeline.gate;
        let is_node =
            |port: &&serial::settings::Port| matches!(port.duty, serial::settings::Duty::Slipmux { .. });
        for port in self.loaded.settings.serial.iter().filter(is_node) {
            let view = gate.device_by_id(port.name.as_str()).and_then(|index| gate.device(now, index));
            if let (Some(view), Some(shown)) = (view, ports.get_mut(port.name.as_str())) {
                let accepted = view.accepted.saturating_sub(view.unstored.into());
                (shown.readings, shown.refused) = (accepted, view.refused.total());
            }
        }
        ports
    }

    fn counters(&self, hub: &Hub) -> Snapshot {
        let mut snapshot = hub.pipeline.counters.snapshot();
        let coap = hub.coap.counters();
        snapshot.put(Counter::CoapDuplicates.name(), coap.duplicates);
        snapshot.put(Counter::CoapMalformed.name(), coap.malformed);
        snapshot.put(Counter::CoapSeparate.name(), coap.late);
        snapshot.put(Counter::CoapUnacknowledged.name(), coap.unacknowledged);
        snapshot.put("tombolo_coap_sent_echoes_total", coap.echo_sent);
        snapshot.put("tombolo_coap_returned_echoes_total", coap.echoed);
        dtls_status::counters(hub.engine.counters(), &mut snapshot);
        self.link.count(&mut snapshot);
        mailbox::count(&hub.commands, &mut snapshot);
        mailbox::count_writes(hub.serial.writes(), &mut snapshot);
        self.updates.count(&mut snapshot);
        hub.firmware.count(&mut snapshot);
        snapshot
    }
}

impl Control for Desk {
    fn status(&mut self) -> snapshot::Status {
        let now = Instant::now();
        let hub = self.shared.hub.borrow();
        let journal = self.journal.borrow().status();
        let settings = &self.loaded.settings;
        let standings = self.ports.standings();
        let known = hub.pipeline.gate.device_count() as u64;
        let (mut online, mut degraded, mut offline) = (0, 0, 0);
        for device in hub.pipeline.gate.devices(now) {
            match Presence::of(&device, standings.get(device.id)) {
                Presence::Online => online += 1,
                Presence::Degraded => degraded += 1,
                Presence::Offline => offline += 1,
                Presence::NotSeen => {}
            }
        }
        let limited = device_status::limited(&hub.pipeline.gate, now);
        let mut status = snapshot::Status {
            ok: false,
            reasons: Vec::new(),
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
                delivered: Lane::ALL.into_iter().map(|lane| self.link.delivered_behind(lane)).sum(),
                bytes: journal.lanes.iter().map(|lane| lane.bytes).sum(),
                max_bytes: settings.journal.max_bytes,
                rejected: journal.rejected.records,
                rejected_causes: rejected_causes(&journal),
                lost: journal.lanes.iter().map(LaneStatus::lost_records).sum(),
                unreadable: journal.lanes.iter().map(|lane| lane.unreadable).sum(),
                failing: failing(&journal),
            },
            devices: snapshot::Devices {
                known,
                online,
                degraded,
                offline,
                not_seen: known.saturating_sub(online + degraded + offline),
                sessions: hub.engine.session_count() as u64,
                half_open: hub.engine.half_open_count() as u64,
                fleets: fleets(&hub),
                switched_off: self.switched_off().count() as u64,
                switched_off_ids: self.switched_off().take(OFF_NAMED_MAX).collect(),
            },
            dtls: dtls_status::count(&hub, now, settings.coap.engine, settings.coap.max_sessions),
            session_store: dtls_status::session_store(&hub, now),
            strays: dtls_status::strays(&hub, now),
            limited: limited.named,
            unlisted_limited: limited.more,
            served: super::served_status::totals(&hub.commands, now),
            limited_counts: limited.counts,
            mqtt: snapshot::Mqtt {
                last_failed_handshake: self.clients.last_failed_handshake(now),
                ..mqtt_status::count(&hub.mqtt, &settings.mqtt, now)
            },
            unlisted_strays: hub.coap.strays.unnamed(),
            serial: self.serial(&hub, now),
            counters: self.counters(&hub).into_json(),
            problems: self.problems(&journal, now),
            clock: self.clock.snapshot(),
            trial: self.trial.as_ref().map(OnTrial::snapshot),
            certificates: self.certificates.snapshot(),
            revocation: self.revocations.snapshot(&self.loaded),
            update: self.updates.snapshot(now),
            mailbox: mailbox::snapshot(&hub.commands, &hub.moment),
            firmware: hub.firmware.snapshot(),
        };
        status.reasons = verdict::reasons(&status);
        status.ok = status.reasons.is_empty();
        status
    }

    fn sessions(&mut self, device: Option<&str>) -> snapshot::SessionPage {
        dtls_status::list(&self.shared.hub.borrow(), Instant::now(), device)
    }

    fn devices(
        &mut self,
        device: Option<&str>,
        after: Option<&str>,
    ) -> Result<snapshot::DevicePage, Failure> {
        let hub = &mut *self.shared.hub.borrow_mut();
        hub.begin();
        let (standings, journal) = (self.ports.standings(), &mut *self.journal.borrow_mut());
        let mut page =
            device_status::page(hub, &self.deliveries, &standings, journal, Instant::now(), device, after)?;
        for state in &mut page.devices {
            state.new_key_used = self.rekeying.used(&hub.pipeline.gate, &state.id).map(format_psk_identity);
        }
        Ok(page)
    }

    fn known_device(&mut self, device: &str) -> Result<(), Failure> {
        device_status::known(&self.shared.hub.borrow(), device).map(drop)
    }

    fn traceable(&mut self, device: &str) -> Result<(), Failure> {
        self.known_device(device)?;
        let is_mqtt = self.speaks_mqtt_alone(device);
        match self.loaded.settings.serial.iter().find_map(|port| port.bytes_of(device)) {
            None if is_mqtt => Err(Failure::new(
                Code::Failed,
                format!(
                    "{device} is an MQTT client, and packets of local MQTT clients are not traced; `tombolo tail {device}` shows \
                     its readings and what becomes of them, `tombolo device show {device}` its connections and why a connect was \
                     refused"
                ),
            )),
            None => Ok(()),
            Some(port) => Err(Failure::new(
                Code::Failed,
                format!("{device} sends no CoAP messages; `tombolo serial trace {port}` shows its bytes"),
            )),
        }
    }

    fn device_test(&mut self, device: &str, path: Option<&str>, plan: bool, reply: Reply) {
        device_test::begin(&self.shared, &self.deliveries, device, path, plan, reply);
    }

    fn device_test_delivery(&mut self, record: &str, reply: Reply) {
        device_test::delivery(&self.link, &self.deliveries, record, reply);
    }

    fn mailbox(&mut self, action: MailboxAction, reply: Reply) {
        mailbox::answer(&self.shared, action, reply);
    }

    fn usage(&mut self, device: Option<String>, after: Option<String>, reply: Reply) {
        let hub = self.shared.hub.borrow();
        let gate = &hub.pipeline.gate;
        self.usage.look(Instant::now(), &self.clock.moment(), gate);
        let is_known = device.as_ref().is_some_and(|id| gate.device_by_id(id).is_some());
        let question = self.usage.question(device, after);
        tokio::task::spawn_blocking(move || match question.answer(is_known) {
            Ok(page) => reply.ok(&page),
            Err(failure) => reply.fail(failure),
        });
    }

    fn queue(&mut self, reply: Reply) {
        let (of_journal, journal) = (self.journal.clone(), self.journal.borrow());
        let status = journal.status();
        let rejected = snapshot::Rejected {
            records: status.rejected.records,
            causes: rejected_causes(&status),
            bytes: status.rejected.bytes,
            max_bytes: status.rejected.max_bytes,
        };
        let now = Instant::now();
        let delivered = Lane::ALL.map(|lane| self.link.delivered_behind(lane));
        let shown = Lane::ALL.map(|lane| (self.link.stopped(lane, now), self.link.suspected(lane)));
        let store = journal.rejected();
        let rate_limit = self.link.configured_rate(now);
        let moment = self.clock.moment();
        tokio::task::spawn_local(async move {
            let mut lanes = BTreeMap::new();
            for (lane, (stopped, (suspected, held))) in Lane::ALL.into_iter().zip(shown) {
                let reading = unread(&status, lane, now);
                let mut oldest = store.oldest(lane).await;
                // Counted now: what was delivered meanwhile has no oldest one, and is not counted.
                let mut status = of_journal.borrow().status();
                let begun = Instant::now();
                while oldest.is_none()
                    && status.lanes[lane.index()].records > 0
                    && begun.elapsed() < OLDEST_WITHIN
                {
                    tokio::time::sleep(OLDEST_TICK).await;
                    oldest = store.oldest(lane).await;
                    status = of_journal.borrow().status();
                }
                let of = &status.lanes[lane.index()];
                lanes.insert(
                    lane.as_str().to_owned(),
                    snapshot::Lane {
                        records: of.records,
                        delivered: delivered[lane.index()],
                        bytes: of.bytes,
                        oldest: oldest
                            .and_then(|of| publication::received(of.received, of.same_boot, &moment))
                            .map(|at| at.to_string()),
                        oldest_age_s: oldest
                            .and_then(|of| publication::age_ms(of.received, of.same_boot, &moment))
                            .map(|ms| ms / 1_000),
                        oldest_record: oldest.map(|of| of.id.to_string()),
                        max_bytes: of.max_bytes,
                        dropped: of.lost_records(),
                        unreadable: of.unreadable,
                        set_aside: of.set_aside,
                        stopped: reading.or(stopped),
                        held,
                        suspected,
                    },
                );
            }
            reply.ok(&snapshot::Queue { lanes, rejected, rate_limit });
        });
    }

    fn skip(&mut self, records: Vec<String>, reply: Reply) {
        let mut ids = Vec::new();
        for text in &records {
            match RecordId::parse(text) {
                Some(id) => ids.push(id),
                None => {
                    let text = format!(
                        "{text:?} is not a record id like 0102030405060708-42; `tombolo queue` lists the records that can be \
                         skipped"
                    );
                    return reply.fail(Failure::new(Code::BadRequest, text));
                }
            }
        }
        let mut skipped = 0u64;
        let so_far = |skipped| match skipped {
            0 => "nothing was set aside".to_owned(),
            1 => "1 record was set aside before".to_owned(),
            more => format!("{more} records were set aside before"),
        };
        for id in ids {
            let text = match self.link.skip(id) {
                Skip::Done => {
                    skipped += 1;
                    continue;
                }
                Skip::BeingRead => {
                    format!("record {id} is being read from disk: try again; {}", so_far(skipped))
                }
                Skip::NotFound => format!(
                    "record {id} is not waiting, or too many are before it; `tombolo queue` lists the records that can be \
                     skipped; {}",
                    so_far(skipped)
                ),
            };
            return reply.fail(Failure::new(Code::NotFound, text));
        }
        reply.ok(&json!({ "records": skipped }));
    }

    fn rejected(&mut self, action: RejectedAction, reply: Reply) {
        let store = self.journal.borrow().rejected();
        tokio::task::spawn_local(rejected::answer(store, action, self.clock.moment(), reply));
    }

    fn import(&mut self, file: String, all: bool, reply: Reply) {
        let importer = self.journal.borrow().importer();
        tokio::task::spawn_blocking(move || match importer.import(Path::new(&file), all) {
            Ok(done) => {
                log::warn!(file, records = done.records; "records were taken up from a file set aside");
                reply.ok(&json!({
                    "records": done.records, "left_out": done.left_out, "missing": done.missing,
                }));
            }
            Err(error) => reply.fail(Failure::new(Code::Failed, format!("{file}: {error}"))),
        });
    }

    fn reload(&mut self, reply: Reply) {
        self.begin_reload(Some(reply));
    }

    fn config_check(&mut self, reply: Reply) {
        let (options, running) = (self.options.clone(), Arc::clone(&self.loaded));
        let (used, served) = (self.link.used_files(), self.in_force.key.clone());
        let kept = (served, self.certificates.watched_pairs());
        config_check::answer(options, running, self.clock.clone(), used, kept, reply);
    }

    fn security_report(&mut self) -> snapshot::SecurityReport {
        let now = Instant::now();
        let hub = self.shared.hub.borrow();
        let settings = &self.loaded.settings;
        let dtls = dtls_status::count(&hub, now, settings.coap.engine, settings.coap.max_sessions);
        let mut report = snapshot::SecurityReport {
            uptime_s: now.saturating_duration_since(self.started).as_secs(),
            counted_s: now.saturating_duration_since(self.rules_since).as_secs(),
            without_extended_master_secret: dtls.sessions.saturating_sub(dtls.extended_master_secret),
            suites: dtls.suites,
            ..snapshot::SecurityReport::default()
        };
        for (role, rule, hits) in hub.pipeline.gate.rule_hits() {
            let rules = report.rule_hits.entry(role.to_string()).or_default();
            *rules.entry(rule.to_string()).or_default() += hits;
        }
        let (mut silent, mut known) = (Vec::new(), None::<u64>);
        for device in hub.pipeline.gate.devices(now).filter(|device| device.last_seen.is_none()) {
            let for_s = now.saturating_duration_since(device.known_since).as_secs();
            known = Some(known.map_or(for_s, |least| least.min(for_s)));
            silent.push(device.id.to_string());
        }
        report.silent_known_s = known;
        silent.sort_unstable();
        report.silent_count = silent.len() as u64;
        silent.truncate(SILENT_SHOWN);
        report.silent = silent;
        report
    }

    fn explain(&mut self, asked: &AclQuestion<'_>) -> Result<serde_json::Value, String> {
        let AclQuestion { device, method, path, content_format, bytes, payload, retain } = *asked;
        let question = acl::Question::parse(method).ok_or_else(|| {
            format!("{method:?} is nothing that rules are about; use one of {}", acl::Question::WORDS)
        })?;
        if retain && question != acl::Question::Publish {
            return Err(acl::RETAIN_OF_PUBLISH.to_owned());
        }
        let mut supposed = acl::supposed(content_format, bytes, retain)?;
        if let Some(payload) = payload {
            supposed = supposed.with_payload(payload);
        }
        let hub = self.shared.hub.borrow();
        let settings = &self.loaded.settings;
        let gate = &hub.pipeline.gate;
        let mut value = acl::explain(settings, gate, Instant::now(), device, question, path, supposed);
        self.loaded.complete_explanation(device, &mut value);
        device_status::add_share(&mut self.journal.borrow_mut(), &mut value);
        Ok(value)
    }

    fn uplink_check(&mut self, reply: Reply) {
        self.link.check(reply);
    }

    fn hurry(&mut self) -> bool {
        self.link.hurry()
    }

    fn certificates(&mut self) -> BTreeMap<String, snapshot::Certificate> {
        self.certificates.snapshot()
    }

    fn certificate(&mut self, name: &str, action: CertificateAction, reply: Reply) {
        self.certificates.act(name, action, reply);
    }

    fn health(&mut self) -> snapshot::Health {
        let now = Instant::now();
        let upstream = self.link.snapshot(now);
        snapshot::Health {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.saturating_duration_since(self.started).as_secs(),
            journal: is_alive(&self.journal.borrow().status(), now, disk_patience()),
            listeners: (self.shared.sockets.len() + self.ports.snapshot(now).len()) as u64,
            configured: upstream.configured,
            connected: upstream.connected,
            since_s: upstream.since_s,
            connections: self.link.connections(),
            disabled: self.disabled().len() as u64,
            unstored: failing(&self.journal.borrow().status()),
            refused: verdict::refused(&upstream, &rejected_causes(&self.journal.borrow().status())),
        }
    }

    fn firmware(
        &mut self,
        after: Option<&str>,
        resume: Option<&str>,
    ) -> Result<snapshot::FirmwarePage, Failure> {
        let hub = self.shared.hub.borrow();
        resume.map_or(Ok(()), |class| hub.firmware.resume(class))?;
        Ok(hub.firmware.page(&hub.pipeline.gate, Instant::now(), after))
    }

    fn update(&mut self, action: UpdateAction, reply: Reply) {
        self.updates.act(action, reply);
    }

    fn serial_port(&mut self, name: &str) -> bool {
        self.ports.contains(name)
    }

    fn serial_relearn(&mut self, device: &str) -> Result<bool, Failure> {
        self.ports.relearn(device, Instant::now()).ok_or_else(|| {
            let units = self.ports.units();
            let near = did_you_mean(device, units.iter().map(Name::as_str));
            let advice = match near {
                Some(near) => format!("did you mean {near}?"),
                None => "`tombolo status` names them below their ports".to_owned(),
            };
            Failure::new(Code::NotFound, format!("the running gateway has no Modbus unit {device}; {advice}"))
        })
    }

    fn uplink_readings(&mut self, topics: Vec<CheckTopic>, reply: Reply) {
        self.link.try_readings(topics, reply);
    }

    fn uplink_beside(&mut self, by: u32, seconds: u64, reply: Reply) {
        self.link.announce_beside(by, Duration::from_secs(seconds), reply);
    }

    fn clock(&mut self, action: ClockAction, reply: Reply) {
        match action {
            ClockAction::Show => return reply.ok(&self.clock.snapshot()),
            ClockAction::Trust => {
                if let Err(error) = self.clock.trust() {
                    return reply.fail(Failure::new(Code::Failed, error.to_string()));
                }
            }
            ClockAction::Reset => self.clock.reset(),
        }
        let clock = self.clock.clone();
        tokio::task::spawn_local(async move {
            match clock.save_within(SAVE_WITHIN).await {
                Ok(()) => reply.ok(&clock.snapshot()),
                Err(reason) => reply.fail(Failure::new(
                    Code::Failed,
                    format!("it is in force, but will be lost with the next restart: the clock's file cannot be written: {reason}"),
                )),
            }
        });
    }
}

/// What is wrong with the clock and needs somebody, for the broker's side; here `status` and
/// `check` have their own words for it.
fn clock_problem(clock: &SystemClock) -> Option<String> {
    let shown = clock.snapshot();
    let reason = shown.reason.unwrap_or_default();
    match shown.state.as_str() {
        "doubted" => Some(format!("the clock is in doubt: {reason}; `tombolo clock` says what ends it")),
        "impossible" => {
            let way_out = way_out_of_impossible(reason.contains(BEFORE_CERTIFICATE));
            Some(format!("the clock cannot be right: {reason}; {way_out}"))
        }
        _ => shown.failing.map(|failing| format!("the clock's file cannot be written: {failing}")),
    }
}

/// Why the records of the rejected store are there.
fn rejected_causes(journal: &Status) -> snapshot::RejectedCauses {
    let count = |cause: Cause| journal.rejected.own_reasons.count(cause.to_byte());
    let (closed, silent, skipped) = (count(Cause::Closed), count(Cause::Silent), count(Cause::Skipped));
    snapshot::RejectedCauses { refused: 0, closed, silent, skipped }.of(journal.rejected.records)
}

/// That rejected records wait for their owner, for the broker's side, in words that stay the same.
fn rejected_problem(journal: &Status) -> Option<String> {
    let causes = rejected_causes(journal);
    let what = match (causes.by_broker(), causes.skipped) {
        (0, 0) => return None,
        (0, _) => "records were set aside by `tombolo queue skip`",
        (_, 0) => "the broker rejected records",
        _ => "the broker rejected records, and others were set aside by `tombolo queue skip`",
    };
    Some(format!("{what}; `tombolo queue rejected list` shows them"))
}

/// One line on a change of the verdict.
fn say_clock(verdict: Verdict, clock: &SystemClock) {
    let (now, floor) = (clock.raw(), clock.floor());
    match verdict {
        Verdict::Trusted(_) => {
            // It may count as synchronised because the configuration says so.
            let reason = clock.snapshot().reason.unwrap_or_default();
            log::info!(clock:% = now, reason; "the clock is trusted");
        }
        Verdict::NotSynchronised => {
            // The kernel may not have been asked.
            let reason = clock.snapshot().reason.unwrap_or_default();
            log::info!(clock:% = now, reason, floor:% = floor; "the clock is not trusted");
        }
        Verdict::Impossible { .. } => {
            log::warn!(clock:% = now, reason:% = verdict, floor:% = floor; "the clock is wrong");
        }
        Verdict::Doubted(_) => log::warn!(
            clock:% = now, reason:% = verdict, floor:% = floor;
            "the clock is in doubt: nothing stored expires by it; `tombolo clock` says what ends the doubt"
        ),
    }
}

fn fleets(hub: &Hub) -> BTreeMap<String, snapshot::Fleet> {
    let of = |(fleet, devices): (&crate::gate::Fleet, usize)| {
        let max_devices = u64::from(fleet.max_devices);
        (fleet.name.to_string(), snapshot::Fleet { devices: devices as u64, max_devices })
    };
    hub.pipeline.gate.fleets().map(of).collect()
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
    if journal.reader_dead {
        return Some("a thread that reads the journal is gone: restart the service".to_owned());
    }
    let trouble = journal.lanes.iter().filter(|lane| lane.refuses).find_map(|lane| lane.trouble)?;
    Some(format!("the disk: {trouble}"))
}

/// Why a lane's backlog does not leave: the disk does not give it.
fn unread(journal: &Status, lane: Lane, now: Instant) -> Option<String> {
    let index = lane.index();
    if let Some(trouble) = journal.reading[index] {
        return Some(format!(
            "the disk does not give segment {:016x} at byte {}: {}; it is tried again, and nothing is given up",
            trouble.segment, trouble.offset, trouble.error
        ));
    }
    let since = journal.reading_since[index]?;
    let hung = now.saturating_duration_since(since) >= SLOW_DISK;
    hung.then(|| "the disk does not answer a read".to_owned())
}

/// That a lane has reached its limit, what follows, and the way out.
fn full(lane: Lane, of: &LaneStatus) -> Option<String> {
    let follows = match of.drops_oldest {
        true => "its oldest records are dropped for new readings and are lost (when-full = \"drop-oldest\")",
        false => "readings are refused, and devices keep what is not acknowledged",
    };
    of.full.then(|| {
        format!(
            "lane {lane} is full: {follows}; it ends when the broker takes its records (`tombolo queue`), or raise \
             max-bytes of [lane.{lane}], then `tombolo reload`"
        )
    })
}

/// What is wrong with the journal, one sentence each.
fn journal_problems(journal: &Status, now: Instant) -> Vec<String> {
    let mut problems = Vec::new();
    if journal.busy_since.is_some_and(|since| now.saturating_duration_since(since) >= SLOW_DISK) {
        problems.push(
            "the disk does not answer the journal: no reading is acknowledged until it does".to_owned(),
        );
    }
    let refuses = journal.lanes.iter().any(|lane| lane.refuses);
    if let Some(trouble) = journal.lanes.iter().find_map(|lane| lane.trouble).filter(|_| !refuses) {
        problems.push(format!(
            "the journal cannot make its next file: {trouble}; readings are refused once the present one is full"
        ));
    }
    for lane in Lane::ALL {
        let of = &journal.lanes[lane.index()];
        problems
            .extend(unread(journal, lane, now).map(|reason| format!("lane {lane} is not sent: {reason}")));
        problems.extend(full(lane, of));
        if of.unopened > 0 {
            problems.push(format!(
                "lane {lane}: {} segments cannot be read at present; they are tried again",
                of.unopened
            ));
        }
        if of.unreadable > 0 {
            problems.push(format!(
                "lane {lane}: {} records could not be read and are kept; `tombolo queue verify` lists them, \
                 `tombolo queue import FILE` takes them up",
                of.unreadable
            ));
        }
        if let Some(error) = of.shelf_trouble {
            problems.push(format!("lane {lane}: what could not be read cannot be set aside: {error}"));
        }
    }
    if let Some(RejectError::Disk(error)) = journal.rejected.trouble {
        problems.push(format!("records the broker refused cannot be set aside: {error}; their lane waits"));
    }
    if let Some(error) = journal.rejected.unread {
        problems
            .push(format!("rejected records cannot be read: {error}; their file is kept and tried again"));
    }
    problems
}

/// How long a disk call may take: under a watchdog shorter than the shipped 180 s, two thirds of
/// that.
fn disk_patience() -> Duration {
    Notify::watchdog().map_or(DISK_CALL_MAX, |every| DISK_CALL_MAX.min(every * 2 / 3))
}

/// Whether the journal's threads make progress: one disk call may take long on an SD card. A read
/// that hangs stops one lane and is named; a thread that is gone stops it for good.
fn is_alive(journal: &Status, now: Instant, patience: Duration) -> bool {
    !journal.dead
        && !journal.reader_dead
        && journal.busy_since.is_none_or(|since| now.saturating_duration_since(since) < patience)
}
