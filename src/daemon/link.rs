//! The uplink as the rest of the daemon holds it: one that can be replaced, or not be there at all.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::clock::SystemClock;
use super::commands::BrokerAnswer;
use super::deliveries::Deliveries;
use super::untaken::{Seen, Untaken};
use crate::clock::WallClock;
use crate::config::scalar::format_size;
use crate::control::api::Reply;
use crate::control::protocol::{CheckTopic, Code, Failure};
use crate::control::snapshot;
use crate::credential::leaf::Leaf;
use crate::credential::probe_place::{Comparison, ProbePlace, with_client_id};
use crate::credential::renewal::{InPlace, Refusals, Standing, Verdict};
use crate::downlink;
use crate::journal::Journal;
use crate::message::{Lane, RecordId};
use crate::northbound::Settings;
use crate::northbound::budget::{Budget, LaneBudget};
use crate::northbound::io::files::Fingerprints;
use crate::northbound::io::observer::Observer;
use crate::northbound::io::probe::{LEVEL, REFUSED_MAX, TRIED_MAX, check_client_id};
use crate::northbound::io::separate_trial::separate_trial;
use crate::northbound::io::{Checked, Driver, Handle, files};
use crate::northbound::publisher::{HeldRecord, Skip};
use crate::northbound::reason_code::is_refusal;
use crate::northbound::settings::{Protocol, TlsSettings};
use crate::northbound::taken::TakenTopic;
use crate::northbound::tls;
use crate::northbound::uplink::{
    self, CLOSES, Inbound, ReadingAnswer, Status, TrialVerdict, Unsubscribed, Uplink, used_elsewhere,
};
use crate::northbound::wire::Version;
use crate::pipeline::Passed;
use crate::telemetry::counters::{Counter, Snapshot};

/// So long the broker may take to show that a connection still stands.
const ENDED_WITHIN: Duration = Duration::from_secs(3);

/// A broker that takes fewer publishes at once makes every batch small.
const SMALL_RECEIVE_MAXIMUM: u16 = 100;
/// An answer that takes so long is worth a warning.
const SLOW_ANSWER: Duration = Duration::from_secs(10);
/// Nothing was taken for so long, though some was refused: the broker is said to refuse everything.
const REFUSES_ALL_AFTER: Duration = Duration::from_secs(10);
/// A cap of the owner's that lets nothing go for longer is named.
const CAPPED: Duration = Duration::from_secs(5);
/// Records wait and none was taken for so long, though the connection stands.
const NONE_TAKEN: Duration = Duration::from_secs(120);
/// How long a probe of a certificate may take: the attempt under way, what is in flight, the trial.
const PROBE_WITHIN: Duration = Duration::from_secs(180);
/// How long trying changed files beside the connection may take.
const FILES_WITHIN: Duration = Duration::from_secs(20);
/// Filters of earlier settings that are remembered.
const FORMER_MAX: usize = 32;
/// What is known of a connection before CONNACK.
const OPENING: &str = "the connection is there, and the broker has not answered CONNECT yet";
/// How long a publish for a check may take: what is in flight, and its own answer.
const READING_WITHIN: Duration = Duration::from_secs(22);
/// How often its result is asked for.
const PROBE_TICK: Duration = Duration::from_millis(20);
/// How long an asked-for publish may take to be acknowledged.
const CHECK_WITHIN: Duration = Duration::from_secs(10);

/// The uplink, if one is configured.
pub struct Link {
    handle: RefCell<Option<Handle>>,
    /// What is configured; the certificate in use may be another one.
    configured: RefCell<Option<Settings>>,
    clock: Arc<SystemClock>,
    journal: Rc<RefCell<Journal>>,
    task: RefCell<Option<JoinHandle<()>>>,
    stopping: Cell<bool>,
    /// What was in the files of the upstream at the start or the last reload.
    files: Cell<Option<u64>>,
    /// The same of those that the operator provides.
    given: Cell<Option<Fingerprints>>,
    /// Those that were shown to work beside the connection that stands.
    proven: Cell<Option<Fingerprints>>,
    /// Why the last reload could not show that, and how many connections there had been: another
    /// one since then has used them.
    unproven: RefCell<Option<(String, u64)>>,
    /// Readings of `qos = 0` rules dropped because there is no upstream, and by uplinks that were
    /// replaced.
    dropped: Cell<u64>,
    deliveries: Rc<Deliveries>,
    /// Notified when the broker has something for devices.
    inbound: Rc<Notify>,
    /// Counts the uplinks: what is said to one means nothing to the next.
    generation: Cell<u64>,
    /// For how long no record has been taken although some wait.
    untaken: Cell<Untaken>,
    /// Where certificates are probed, if there is a `probe-client-id`.
    probe_place: RefCell<ProbePlace>,
    /// The last certificate that was accepted has the connection already.
    has_connection: Cell<bool>,
    /// What the lanes publish in a day.
    budget: Rc<RefCell<Budget>>,
    /// What needs each filter of commands, in words.
    needed_by: RefCell<BTreeMap<String, String>>,
    /// Filters of commands of earlier settings, at most [`FORMER_MAX`], the newest last: the broker
    /// keeps what a session subscribed to.
    former: RefCell<Vec<String>>,
}

/// Starts it.
pub fn start(
    settings: Option<Settings>,
    clock: &Arc<SystemClock>,
    journal: &Rc<RefCell<Journal>>,
    deliveries: &Rc<Deliveries>,
) -> Rc<Link> {
    let link = Rc::new(Link {
        handle: RefCell::new(None),
        configured: RefCell::new(None),
        clock: clock.clone(),
        journal: journal.clone(),
        files: Cell::new(settings.as_ref().map(files::fingerprint)),
        given: Cell::new(settings.as_ref().map(files::fingerprints)),
        proven: Cell::new(None),
        unproven: RefCell::new(None),
        task: RefCell::new(None),
        stopping: Cell::new(false),
        dropped: Cell::new(0),
        deliveries: Rc::clone(deliveries),
        inbound: Rc::default(),
        generation: Cell::new(0),
        untaken: Cell::default(),
        probe_place: RefCell::default(),
        has_connection: Cell::new(false),
        budget: Rc::default(),
        needed_by: RefCell::default(),
        former: RefCell::default(),
    });
    link.replace(settings, &[]);
    link
}

impl Link {
    /// Goes on with other settings: the old connection says goodbye first. Retained topics in
    /// `clear` are nobody's any more.
    pub fn replace(&self, settings: Option<Settings>, clear: &[String]) {
        if let Some(before) = self.configured.replace(settings.clone()) {
            let former = &mut *self.former.borrow_mut();
            former.retain(|filter| !before.commands.contains(filter));
            former.extend(before.commands);
            former.drain(..former.len().saturating_sub(FORMER_MAX));
        }
        self.probe_place.replace(ProbePlace::default());
        self.generation.set(self.generation.get() + 1);
        let next = settings.map(|settings| {
            let observer: Rc<dyn Observer> = self.deliveries.clone();
            let mut uplink = Uplink::new(Instant::now(), settings);
            uplink.set_budget(self.budget.clone());
            uplink.set_former_commands(&self.former.borrow());
            Handle::new(uplink).observed_by(observer).notifying(self.inbound.clone())
        });
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

    /// What the lanes publish in a day; it outlives the uplink.
    pub fn budget<T>(&self, act: impl FnOnce(&mut Budget) -> T) -> T {
        act(&mut self.budget.borrow_mut())
    }

    /// Sets the most bytes of a day, by [`Lane::index`]. The connection stays.
    pub fn set_daily_bytes(&self, limits: [Option<u64>; 2]) {
        self.budget(|budget| budget.set_limits(limits));
        self.wake();
    }

    /// How a lane stands that has a limit.
    pub fn daily_bytes(&self, lane: Lane) -> Option<LaneBudget> {
        self.budget(|budget| budget.of(lane, &self.clock.moment()))
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

    /// Notified when the broker has something for devices.
    pub fn inbound(&self) -> Rc<Notify> {
        self.inbound.clone()
    }

    /// The next thing that the broker has for devices, and which uplink brought it.
    pub fn poll_inbound(&self) -> Option<(u64, Inbound)> {
        let handle = self.handle.borrow();
        let inbound = handle.as_ref()?.poll_inbound()?;
        Some((self.generation.get(), inbound))
    }

    /// Tells the broker what became of it.
    pub fn answer_inbound(&self, now: Instant, answer: &BrokerAnswer) {
        if answer.generation == self.generation.get() {
            let BrokerAnswer { connection, answer, packet_id, .. } = *answer;
            self.with(|core| core.answer_inbound(now, connection, answer, packet_id));
        }
    }

    /// Takes a reading of a `qos = 0` rule.
    pub fn offer(&self, passed: &Passed<'_>) {
        match &*self.handle.borrow() {
            Some(handle) => handle.push_volatile(&passed.content()),
            None => self.dropped.set(self.dropped.get() + 1),
        }
    }

    /// Says how the gateway is: a JSON object with `"online": true`.
    pub fn set_gateway_status(&self, json: Vec<u8>) {
        self.with(|core| core.set_gateway_status(json));
        self.wake();
    }

    /// Says what is known of newer firmware.
    pub fn set_update_status(&self, json: Vec<u8>) {
        self.with(|core| core.set_update_status(json));
        self.wake();
    }

    /// Whether somebody behind the broker asked to look for newer firmware.
    pub fn take_update_hint(&self) -> bool {
        self.handle.borrow().as_ref().is_some_and(|handle| handle.with(Uplink::take_update_hint))
    }

    /// The retained topic about newer firmware.
    pub fn update_topic(&self) -> Option<String> {
        let handle = self.handle.borrow();
        handle.as_ref().and_then(|handle| handle.with_settings(|settings| settings.topics.update.clone()))
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
            topics.extend(own.update.clone());
            if let Some(template) = &own.device_status {
                topics.extend(devices.map(|device| template.replace("{device}", device)));
            }
        });
        topics
    }

    /// A reload found this in the files of the upstream: if that is new it may help, and an attempt
    /// is made at once. Nothing else of a reload makes one: a broker that refuses us is not asked
    /// once more for each device added.
    pub fn look_at_files(self: &Rc<Self>, fingerprint: Option<u64>) {
        if self.files.replace(fingerprint) != fingerprint {
            self.judge_again();
        }
    }

    /// What is known to be in use of the files that the operator provides.
    pub fn used_files(&self) -> UsedFiles {
        let handle = self.handle.borrow();
        let Some(handle) = &*handle else { return UsedFiles::default() };
        // Without a connection each attempt reads them anew.
        let given = self.given.get().filter(|_| !handle.status().connected);
        let known = [handle.files_used(), self.proven.get(), given];
        let keeps_identity = keeps_identity(handle);
        let kept = handle.with_settings(|settings| settings.tls.as_ref()?.identity.clone());
        UsedFiles {
            known: known.into_iter().flatten().collect(),
            with_identity: !keeps_identity,
            kept: kept.filter(|_| keeps_identity),
        }
    }

    /// Shows whether the broker lets us in with the files as they are now (`given`) and where `now`
    /// names them, where the connection that stands was made with others. It is made beside that
    /// one, which stays.
    pub async fn prove_files(&self, given: Fingerprints, now: &Settings) -> Proof {
        let handle = self.handle.borrow().clone();
        let Some(handle) = handle.filter(|handle| handle.status().connected) else { return Proof::NotNeeded };
        let settings = self.with_files_of(&handle, now);
        let has_other_pair = settings.tls.as_ref().is_some_and(|tls| {
            handle.with_settings(|used| used.tls.as_ref().is_some_and(|used| used.names_other_pair(tls)))
        });
        let mut used = self.used_files();
        // A pair that is elsewhere is none that the gateway proves by itself.
        used.with_identity |= has_other_pair;
        if used.has(&given) {
            return Proof::NotNeeded;
        }
        let spoken = handle.status().version;
        let (of_lists, chain) = (settings.clone(), handle.broker_chain());
        let revoked = tokio::task::spawn_blocking(move || revoked_in(&of_lists, &chain)).await;
        if let Ok(Some(Some(subject))) = revoked {
            return Proof::Revokes(subject);
        }
        let of_probes = settings.probe_client_id.clone();
        let client_id = of_probes.clone().unwrap_or_else(|| check_client_id(&settings.client_id));
        let clock: Arc<dyn WallClock> = self.clock.clone();
        // A broker that takes the client id from the user name ends the connection for it.
        handle.with(|core| core.expect_take_over(Some(Instant::now() + FILES_WITHIN)));
        let tried = separate_trial(&settings, clock, &client_id, None, spoken);
        let verdict = timeout(FILES_WITHIN, tried).await.map(|tried| tried.verdict);
        handle.with(|core| core.expect_take_over(None));
        match verdict {
            Ok(TrialVerdict::Accepted) => Proof::Works(given),
            // Perhaps it has nothing against the files, and takes no other client id.
            Ok(TrialVerdict::Refused(_) | TrialVerdict::Closed(_)) if settings.probe_client_id.is_none() => {
                self.prove_in_place(&handle, &settings, given, spoken).await
            }
            Ok(TrialVerdict::Refused(why) | TrialVerdict::Closed(why) | TrialVerdict::Fault(why)) => {
                let why = if of_probes.is_some() { with_client_id(&client_id, &why) } else { why };
                Proof::Fails(format!("a connection with the client id {client_id} beside it fails: {why}"))
            }
            Err(_) => Proof::Fails(format!(
                "a connection with the client id {client_id} beside it does not come about within {} s",
                FILES_WITHIN.as_secs()
            )),
        }
    }

    /// The same under the gateway's own client id: a broker that refuses it leaves the connection
    /// that stands alone; one that accepts it ends that, and the next one has the files.
    async fn prove_in_place(
        &self,
        handle: &Handle,
        settings: &Settings,
        given: Fingerprints,
        spoken: Option<Version>,
    ) -> Proof {
        let (connections, until) = (handle.status().connections, Instant::now() + 2 * FILES_WITHIN);
        handle.with(|core| {
            core.set_files(settings.clone());
            core.expect_take_over(Some(until));
        });
        let clock: Arc<dyn WallClock> = self.clock.clone();
        let tried = separate_trial(settings, clock, &settings.client_id, None, spoken);
        let verdict = timeout(FILES_WITHIN, tried).await.map(|tried| tried.verdict);
        let why = match verdict {
            Ok(TrialVerdict::Accepted) => {
                // Where the broker lets both stand.
                handle.with(|core| {
                    if core.connections() == connections {
                        core.replace_connection(Instant::now());
                    }
                });
                let is_back = || {
                    let status = handle.status();
                    status.connected && status.connections > connections
                };
                while !is_back() && Instant::now() < until && !self.stopping.get() {
                    tokio::time::sleep(PROBE_TICK).await;
                }
                handle.with(|core| core.expect_take_over(None));
                return Proof::Works(given);
            }
            Ok(TrialVerdict::Refused(why) | TrialVerdict::Closed(why) | TrialVerdict::Fault(why)) => why,
            Err(_) => format!("it does not come about within {} s", FILES_WITHIN.as_secs()),
        };
        handle.with(|core| core.expect_take_over(None));
        Proof::Fails(format!("a connection with the gateway's own client id fails, too: {why}"))
    }

    /// What the uplink goes by, with the files that `now` names.
    fn with_files_of(&self, handle: &Handle, now: &Settings) -> Settings {
        let configured = self.configured.borrow();
        let before = configured.as_ref().unwrap_or(now);
        handle.with_settings(|settings| settings.with_files_of(before, now))
    }

    /// Has the files read from where `now` names them, from the next attempt on.
    pub fn take_files(&self, now: &Settings) {
        let handle = self.handle.borrow().clone();
        if let Some(handle) = handle {
            let settings = self.with_files_of(&handle, now);
            handle.with(|core| core.set_files(settings));
        }
        self.configured.replace(Some(now.clone()));
    }

    /// Takes over what [`Link::prove_files`] has shown.
    pub fn take_proof(&self, given: Option<Fingerprints>, proof: Proof) {
        self.given.set(given);
        self.unproven.replace(None);
        match proof {
            Proof::NotNeeded => {}
            Proof::Works(given) => {
                log::info!(
                    "the changed files of [upstream] were tried beside the connection that stands, and work"
                );
                self.proven.set(Some(given));
            }
            Proof::Fails(why) => {
                let what = format!(
                    "files that [upstream] names have changed since the connection was made, and are not proven: {why}; the \
                     connection stands until it breaks; correct them, then `tombolo reload`"
                );
                self.unproven.replace(Some((what, self.connections())));
            }
            Proof::Revokes(subject) => {
                let what = format!(
                    "the revocation lists of [upstream] have the certificate {subject:?} of the broker's chain: the connection is \
                     ended, and none is made until the broker has another certificate; readings are kept; if the list is \
                     wrong, correct it, then `tombolo reload`"
                );
                self.unproven.replace(Some((what, self.connections())));
            }
        }
    }

    /// Why it is not known that the broker lets us in with the files as they are, though the
    /// connection stands.
    pub fn unproven(&self) -> Option<String> {
        let connections = self.connections();
        let unproven = self.unproven.borrow();
        let (what, _) = unproven.as_ref().filter(|(_, at)| *at == connections)?;
        let connected = self.handle.borrow().as_ref().is_some_and(|handle| handle.status().connected);
        connected.then(|| what.clone())
    }

    /// Sets a record aside because its owner says so.
    pub fn skip(&self, id: RecordId) -> Skip {
        let handle = self.handle.borrow();
        let Some(handle) = &*handle else { return Skip::NotFound };
        let journal = &mut *self.journal.borrow_mut();
        let skip = |journal: &mut Journal, id| handle.with(|core| core.skip(Instant::now(), journal, id));
        // A record that came again is known by the id under which it is published; what is read on
        // the way may be it.
        let own = journal.own_id(id).unwrap_or(id);
        match (skip(journal, own), journal.own_id(id)) {
            (Skip::NotFound, Some(found)) if found != own => skip(journal, found),
            (done, _) => done,
        }
    }

    /// Rejected records that the broker has now, by the ids they had.
    pub fn take_recovered(&self) -> Vec<RecordId> {
        self.handle.borrow().as_ref().map(Handle::take_recovered).unwrap_or_default()
    }

    /// Whether the broker is there and takes readings, as far as is known.
    pub fn takes_readings(&self, now: Instant) -> bool {
        self.handle.borrow().as_ref().is_some_and(|handle| {
            let status = handle.status();
            let stopped = status.stopped_until.iter().flatten().any(|until| *until > now);
            status.connected && status.nothing_taken.is_none() && !stopped
        })
    }

    /// Shows by a connection whether the broker accepts this certificate: chain and key in one
    /// file. The connection takes the place of the present one, or, where one stands and there is a
    /// `probe-client-id`, is made beside it; `in_place` says when that one is given up all the
    /// same.
    pub async fn probe(&self, file: PathBuf, in_place: InPlace) -> Verdict {
        let until = Instant::now() + PROBE_WITHIN;
        while Instant::now() < until && !self.stopping.get() {
            let handle = self.handle.borrow().clone();
            let Some(handle) = handle else { return Verdict::Fault("no upstream is configured".to_owned()) };
            let stands = handle.with(|core| core.is_connected());
            let is_beside = self.probe_place.borrow().is_beside(stands, in_place);
            let client_id = handle.with_settings(|settings| settings.probe_client_id.clone());
            if let Some(client_id) = client_id.filter(|_| is_beside) {
                self.has_connection.set(false);
                let verdict = self.probe_beside(&handle, &client_id, file.clone()).await;
                if !self.probe_place.borrow().goes_on_in_place(in_place) {
                    return verdict;
                }
            }
            handle.with(|core| core.begin_trial(Instant::now(), (file.clone(), file.clone())));
            // A reload may replace the uplink meanwhile: then the next one is asked.
            while Instant::now() < until && !handle.with(|core| core.is_stopping()) {
                match handle.with(Uplink::poll_trial) {
                    Some(verdict) => {
                        self.has_connection.set(verdict == TrialVerdict::Accepted);
                        return of_trial(verdict);
                    }
                    None => tokio::time::sleep(PROBE_TICK).await,
                }
            }
            tokio::time::sleep(PROBE_TICK).await;
        }
        Verdict::Fault("the uplink did not come to it".to_owned())
    }

    /// The same beside the connection. One that is refused is compared with the present
    /// certificate, since the broker may refuse that client id, or everybody for a while.
    async fn probe_beside(&self, handle: &Handle, client_id: &str, file: PathBuf) -> Verdict {
        let (settings, spoken) = (handle.with_settings(Settings::clone), handle.status().version);
        let tried = async |identity| {
            let clock: Arc<dyn WallClock> = self.clock.clone();
            let tried = separate_trial(&settings, clock, client_id, identity, spoken).await;
            Comparison { verdict: of_trial(tried.verdict), refuses_client_id: tried.refuses_client_id }
        };
        let candidate = tried(Some((file.clone(), file))).await.verdict;
        let present = match ProbePlace::needs_comparison(&candidate) {
            true => Some(tried(None).await),
            false => None,
        };
        self.probe_place.borrow_mut().judge(client_id, candidate, present)
    }

    /// Whether the broker accepts who we are at present. A connection that stands says so; whether
    /// another one would come about, [`Link::probe`] finds out.
    pub fn standing(&self) -> Standing {
        let Some(handle) = &*self.handle.borrow() else { return Standing::Unknown };
        handle.with(|core| match (core.is_connected(), core.is_unwelcome()) {
            (true, _) => Standing::Accepted,
            (false, true) => Standing::Refused,
            (false, false) => Standing::Unknown,
        })
    }

    /// How the broker refused the present certificate since it accepted one.
    pub fn refusals(&self) -> Refusals {
        let Some(handle) = &*self.handle.borrow() else { return Refusals::default() };
        let uplink::Refusals { times, closes, why } = handle.with(|core| core.refusals().clone());
        let as_expired = why.contains(tls::EXPIRED);
        Refusals { times, closes, why, as_expired }
    }

    /// Whether the connection stands and the broker refuses every reading, and took none since
    /// `at`.
    pub fn refuses_all_since(&self, at: Instant) -> bool {
        self.handle.borrow().as_ref().is_some_and(|handle| {
            let status = handle.status();
            let refuses = status.nothing_taken.is_some_and(|(since, _)| since.elapsed() >= REFUSES_ALL_AFTER);
            status.connected && refuses && status.taken_at.is_none_or(|taken| taken < at)
        })
    }

    /// Takes this certificate, chain and key in one file, for each attempt from the next on.
    pub fn use_identity(&self, file: PathBuf) {
        self.with(|core| core.set_identity((file.clone(), file)));
    }

    /// A reload: what the broker did not let the gateway subscribe to is asked for at once.
    pub fn retry_subscriptions(&self) {
        self.with(|core| core.retry_subscriptions(Instant::now()));
    }

    /// Something was changed that may help: an attempt is made at once, unless the connection
    /// stands.
    pub fn retry_if_away(&self) {
        self.with(|core| {
            if !core.is_connected() {
                core.retry_now(Instant::now());
            }
        });
    }

    /// Somebody waits for the connection: the next attempt is brought forward, within bounds.
    pub fn hurry(&self) -> bool {
        let handle = self.handle.borrow().clone();
        handle.is_some_and(|handle| handle.with(|core| core.hurry(Instant::now())))
    }

    /// No candidate waits for its probe any more.
    pub fn handle_given_up(&self) {
        self.probe_place.borrow_mut().handle_over();
    }

    /// Whether a candidate waits because the connection that stands is not given up for its probe.
    pub fn spares_connection(&self) -> bool {
        let place = self.probe_place.borrow();
        place.fault().is_some() && !place.is_not_admitted()
    }

    /// Another certificate is in use: one that was proven in the place of the connection has it
    /// already. The file's new content is no news for a reload.
    pub fn handle_renewed(self: &Rc<Self>) {
        let handle = self.handle.borrow().clone();
        let Some(handle) = handle else { return };
        handle.with(Uplink::forget_refusals);
        self.probe_place.borrow_mut().handle_over();
        let has_connection = self.has_connection.take();
        let beside = handle.with_settings(|settings| {
            settings.probe_client_id.as_ref()?;
            settings.tls.as_ref()?.identity.clone()
        });
        handle.with(|core| match beside {
            Some(identity) if core.is_connected() && !has_connection => {
                core.begin_trial(Instant::now(), identity)
            }
            _ if !core.is_connected() => core.retry_now(Instant::now()),
            _ => {}
        });
        let Some(settings) = self.configured.borrow().clone() else { return };
        let link = Rc::clone(self);
        spawn_local(async move {
            let read = tokio::task::spawn_blocking(move || files::fingerprint(&settings)).await;
            if let Ok(fingerprint) = read {
                link.files.set(Some(fingerprint));
            }
        });
    }

    /// Whether the chain of the connection that stands leads to one of these CAs.
    pub fn is_proven_by(&self, anchors: &[Vec<u8>]) -> bool {
        let Some(handle) = &*self.handle.borrow() else { return false };
        if !handle.with(|core| core.is_connected()) {
            return false;
        }
        let host = handle.with_settings(|settings| settings.host.clone());
        tls::leads_to(&handle.broker_chain(), anchors, &host, &*self.clock)
    }

    /// There are new CAs or lists. If a certificate of the present connection is revoked, it is
    /// replaced; one that waits is tried at once.
    pub fn judge_again(self: &Rc<Self>) {
        let handle = self.handle.borrow().clone();
        let Some(handle) = handle else { return };
        let (link, settings) = (Rc::clone(self), handle.with_settings(Settings::clone));
        let chain = handle.broker_chain();
        spawn_local(async move {
            let judged = tokio::task::spawn_blocking(move || revoked_in(&settings, &chain));
            let Ok(Some(revoked)) = judged.await else { return };
            let revoked = revoked.is_some();
            link.with(|core| match (core.is_connected(), revoked) {
                (true, true) => {
                    log::warn!("a certificate of the broker's chain is revoked: the connection is replaced");
                    core.replace_connection(Instant::now());
                }
                (true, false) => {}
                (false, _) => core.retry_now(Instant::now()),
            });
        });
    }

    /// Ends the connection in good order and makes one with the certificate in this file.
    pub fn reconnect_with(&self, file: PathBuf) {
        self.with(|core| core.begin_trial(Instant::now(), (file.clone(), file)));
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
        self.stopped_at(lane, &self.handle.borrow().as_ref()?.status(), now)
    }

    fn stopped_at(&self, lane: Lane, status: &Status, now: Instant) -> Option<String> {
        let in_seconds = |until: Instant| in_seconds(until, now);
        if let Some(until) = status.stopped_until[lane.index()].filter(|until| *until > now) {
            let seconds = in_seconds(until);
            return Some(format!(
                "a record must be set aside, and the store of rejected records is full or cannot be written; tried again in \
                 {seconds} s; `tombolo queue rejected` shows and empties it"
            ));
        }
        if let Some(id) = status.blocked_by[lane.index()] {
            let id = self.journal.borrow().published_id(lane, id);
            return Some(format!(
                "all wait behind record {id}, which the broker does not take while nothing shows that it takes others; \
                 `tombolo queue skip {id}` sets it aside"
            ));
        }
        let waits = self.journal.borrow().status().lanes[lane.index()].records > 0;
        if let Some(budget) = self.daily_bytes(lane).filter(|budget| waits && budget.is_used_up()) {
            let LaneBudget { used, limit, left, by_clock } = budget;
            let day = if by_clock { "until midnight UTC" } else { "until 24 h after the day began" };
            return Some(format!(
                "{} = {:?} is used up: {used} bytes went on this day, and its records are kept {day}; tried again in {} s",
                snapshot::key_of_the_day(lane.as_str()),
                format_size(limit),
                left.as_secs() + 1
            ));
        }
        let (since, until) = status.nothing_taken.filter(|_| status.connected && waits)?;
        // A moment of it is no state: the next reading may be taken.
        if now.saturating_duration_since(since) < REFUSES_ALL_AFTER {
            return None;
        }
        Some(match until {
            Some(until) => {
                format!("the broker refuses every reading; tried again in {} s", in_seconds(until))
            }
            None => "the broker refuses every reading; tried again within 5 min".to_owned(),
        })
    }

    /// What is wrong with `probe-client-id`.
    fn probe_id_problem(&self) -> Option<String> {
        let place = self.probe_place.borrow();
        let why = place.fault()?;
        let place = match place.is_not_admitted() {
            true => "certificates are tried in the place of the connection",
            false => {
                "the new certificate waits, and the connection that stands is not given up for it (`tombolo cert status` \
                 names the command that does so)"
            }
        };
        Some(format!(
            "{why}; {place}; allow that client id to connect at the broker, or take upstream.probe-client-id out, then \
             `tombolo reload`"
        ))
    }

    /// The rules of commands in force, by which a subscription that fails is named.
    pub fn set_downlink(&self, downlink: &downlink::settings::Settings) {
        let needed = |filter: &String| (filter.clone(), downlink.needed_by(filter).join(", "));
        self.needed_by.replace(downlink.filters.iter().map(needed).collect());
    }

    /// A filter by which no command comes, with the rules that need it.
    fn unsubscribed(&self, it: &Unsubscribed) -> String {
        let needed = self.needed_by.borrow();
        let of = needed.get(&it.filter).filter(|of| !of.is_empty());
        let of = of.map(|of| format!(", of {of}")).unwrap_or_default();
        format!(
            "no command on {}{of} reaches a device: {}; allow this gateway to read it, or take the rule out",
            it.filter, it.why
        )
    }

    /// Why readings do not flow although the connection stands, of each lane and in all.
    fn stalled(&self, status: &Status, now: Instant) -> Vec<String> {
        let of_lane = |lane: Lane| Some(format!("lane {lane}: {}", self.stopped_at(lane, status, now)?));
        let mut stalled: Vec<String> = Lane::ALL.into_iter().filter_map(of_lane).collect();
        // What is held back is tried at its own times, which is no stall.
        let others = |lane: Lane| {
            let records = self.journal.borrow().status().lanes[lane.index()].records;
            let held = status.held_back[lane.index()] as u64 + status.delivered_behind[lane.index()];
            records.saturating_sub(held)
        };
        let records: u64 = Lane::ALL.into_iter().map(others).sum();
        let seen =
            Seen { connected: status.connected, since: status.since, taken_at: status.taken_at, records };
        let mut untaken = self.untaken.get();
        let waited = untaken.waited(now, &seen);
        self.untaken.set(untaken);
        if let Some((key, at)) = status.capped_until.filter(|(_, at)| *at > now + CAPPED) {
            // The broker has no part in it.
            if status.connected && records > 0 {
                let seconds = in_seconds(at, now);
                stalled.push(format!(
                    "[upstream] {key} keeps the records back: the next publish goes in {seconds} s; raise it, or take it out"
                ));
            }
        } else if stalled.is_empty() && status.connected && records > 0 && waited >= NONE_TAKEN {
            let seconds = waited.as_secs();
            stalled.push(format!(
                "records wait, and the broker has taken none for {seconds} s; `tombolo queue` shows them"
            ));
        }
        stalled
    }

    /// What is wrong for a while, in words that stay the same: for the gateway's status.
    pub fn lasting_problems(&self) -> Vec<String> {
        let Some(status) = self.handle.borrow().as_ref().map(Handle::status) else { return Vec::new() };
        let mut problems = Vec::new();
        problems.extend(status.version_why.as_ref().filter(|_| status.connected).map(fell_back));
        problems.extend(self.contested(&status));
        if status.rate_limit.is_some_and(|(_, lowered)| lowered) {
            problems
                .push("the broker could not follow: fewer publishes a second than could be sent".to_owned());
        }
        let waited = status.waiting_since.map(|since| Instant::now().saturating_duration_since(since));
        if waited.is_some_and(|waited| waited >= SLOW_ANSWER) {
            problems.push("the broker does not answer a publish".to_owned());
        }
        if status.suspect_count > 0 {
            problems.push(
                "records are suspected by the broker's refusals; `tombolo queue` names them".to_owned(),
            );
        }
        problems.extend(status.left_out.iter().map(|what| format!("left out: {what}")));
        problems.extend(status.unsubscribed.iter().map(|it| self.unsubscribed(it)));
        // Without their number, which is another each time.
        problems.extend(status.refused_outcomes.iter().map(|of| of.lasting.clone()));
        problems
    }

    /// See [`contested`].
    fn contested(&self, status: &Status) -> Option<String> {
        let handle = self.handle.borrow();
        handle.as_ref()?.with_settings(|settings| contested(status, &settings.client_id))
    }

    /// The largest packet that the broker takes, bytes, by its last CONNACK; `None`: it has told
    /// none.
    pub fn packet_limit(&self) -> Option<u32> {
        let limit = self.handle.borrow().as_ref()?.status().packet_limit;
        (limit < u32::MAX).then_some(limit)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.handle.borrow().as_ref().map_or(0, |handle| handle.status().connections)
    }

    /// Records of a lane that the broker has and that stay there behind one that is not decided.
    pub fn delivered_behind(&self, lane: Lane) -> u64 {
        self.handle.borrow().as_ref().map_or(0, |handle| handle.status().delivered_behind[lane.index()])
    }

    /// The records of a lane that are suspected, some of them, and how many are held back.
    pub fn suspected(&self, lane: Lane) -> (Vec<snapshot::SuspectedRecord>, u64) {
        let Some(status) = self.handle.borrow().as_ref().map(Handle::status) else {
            return Default::default();
        };
        let suspected =
            status.suspects.iter().filter(|held| held.lane == lane).map(|held| self.shown(held)).collect();
        (suspected, status.held_back[lane.index()] as u64)
    }

    /// Publishes a second at most, where the configuration says so and the broker could follow.
    pub fn configured_rate(&self, now: Instant) -> Option<u64> {
        let shown = self.snapshot(now);
        shown.rate_limit.filter(|_| !shown.rate_lowered)
    }

    fn shown(&self, held: &HeldRecord) -> snapshot::SuspectedRecord {
        snapshot::SuspectedRecord {
            record: self.journal.borrow().published_id(held.lane, held.id).to_string(),
            lane: held.lane.as_str().to_owned(),
            topic: held.topic.clone(),
            reason: held.cause.to_string(),
            tries: u64::from(held.tries),
        }
    }

    /// The bytes of a lane's day, with its name, where it has a limit.
    fn shown_day(&self, lane: Lane) -> Option<(String, snapshot::DailyBytes)> {
        let of = self.daily_bytes(lane)?;
        let day = snapshot::DailyBytes {
            bytes: of.used,
            max_bytes: of.limit,
            used_up: of.is_used_up(),
            left_s: of.left.as_secs(),
            by_clock: of.by_clock,
        };
        Some((lane.as_str().to_owned(), day))
    }

    /// As `status` shows it.
    pub fn snapshot(&self, now: Instant) -> snapshot::Uplink {
        let Some(handle) = &*self.handle.borrow() else { return snapshot::Uplink::default() };
        let status = handle.status();
        let broker = handle.with_settings(Settings::authority);
        let mut warnings = Vec::new();
        if status.connected && status.version == Some(Version::V3_1_1) {
            warnings.push(match &status.version_why {
                Some(why) => fell_back(why),
                None if handle.with_settings(|settings| settings.protocol == Protocol::V3_1_1) => {
                    "protocol = \"3.1.1\" is configured: the broker cannot say that it refuses a message; set \"auto\" if it \
                     has MQTT 5"
                        .to_owned()
                }
                None => "MQTT 3.1.1 is spoken: the broker cannot say that it refuses a message".to_owned(),
            });
        }
        // Where there is no connection, a rival is the reason that is given.
        let contested = self.contested(&status).filter(|_| status.connected || !status.rival);
        warnings.extend(trouble(&status, contested.as_ref(), now));
        warnings.extend(self.probe_id_problem());
        if let Some(limits) = status.limits.filter(|limits| limits.receive_maximum < SMALL_RECEIVE_MAXIMUM) {
            warnings.push(format!(
                "the broker takes only {} messages at a time (Receive Maximum); mosquitto: max_inflight_messages 1000",
                limits.receive_maximum
            ));
        }
        if status.limits.is_some_and(|limits| !limits.at_least_once) {
            warnings.push(
                "the broker takes QoS 0 only: it cannot say what it has received; use a broker with QoS 1"
                    .to_owned(),
            );
        }
        if status.limits.is_some_and(|limits| !limits.retain) {
            warnings.push(
                "the broker keeps no retained messages: statuses are seen only as they change; switch retained messages on \
                 at the broker"
                    .to_owned(),
            );
        }
        let unsubscribed: Vec<String> = status.unsubscribed.iter().map(|it| self.unsubscribed(it)).collect();
        warnings.extend(unsubscribed.iter().cloned());
        let stalled = self.stalled(&status, now);
        warnings.extend(stalled.iter().cloned());
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        let capped = status.capped_until.filter(|(_, at)| *at > now + CAPPED);
        snapshot::Uplink {
            configured: true,
            connected: status.connected,
            broker: Some(broker),
            protocol: status.version.map(|version| version.as_str().to_owned()),
            protocol_since_s: status.version_since.map(seconds),
            protocol_why: status.version_why,
            since_s: Some(seconds(status.since)),
            in_flight: status.in_flight as u64,
            window: u64::from(status.window),
            unacknowledged: status.limits.is_some_and(|limits| !limits.at_least_once),
            answer_timeout_s: Some(handle.with_settings(|settings| settings.answer_timeout.as_secs())),
            unanswered_connections: status.counters.unanswered,
            last_taken_s: status.taken_at.map(seconds),
            stalled,
            oldest_unanswered_s: status.waiting_since.map(seconds),
            daily_bytes: Lane::ALL.into_iter().filter_map(|lane| self.shown_day(lane)).collect(),
            rate_limit: status.rate_limit.map(|(limit, _)| limit.round() as u64),
            rate_lowered: status.rate_limit.is_some_and(|(_, lowered)| lowered),
            suspects: status.suspect_count as u64,
            suspected: status.suspects.iter().map(|held| self.shown(held)).collect(),
            nothing_taken_s: status.nothing_taken.map(|(since, _)| seconds(since)),
            left_out: status.left_out,
            contested,
            closes: status.closes as u64,
            closes_lasted_s: status.closes_lasted.as_secs() + 1,
            capped_by: capped.map(|(key, _)| key.to_owned()),
            capped_for_s: capped.map(|(_, at)| at.saturating_duration_since(now).as_secs() + 1),
            unsubscribed,
            unheard: status.unheard,
            refused_outcomes: status.refused_outcomes.into_iter().map(|of| of.text).collect(),
            last_error: status.failure.or_else(|| status.opening.then(|| OPENING.to_owned())),
            retry_in_s: status.attempt_at.map(|at| {
                // Not 0 for one that is to be waited for.
                at.saturating_duration_since(now).as_millis().div_ceil(1_000) as u64
            }),
            asked: None,
            echo_ms: None,
            taken: Vec::new(),
            warnings,
        }
    }

    /// Examples of what the broker took on this connection.
    fn taken(&self, now: Instant) -> Vec<snapshot::TakenReading> {
        let handle = self.handle.borrow();
        let taken = handle.as_ref().map(|handle| handle.with(|core| core.taken_topics()));
        let shown = |taken: TakenTopic| snapshot::TakenReading {
            ago_s: now.saturating_duration_since(taken.at).as_secs(),
            device: taken.device,
            path: taken.path,
            topic: taken.topic,
        };
        taken.unwrap_or_default().into_iter().map(shown).collect()
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
            snapshot.put("tombolo_northbound_skipped_readings_total", status.counters.skipped);
            snapshot.put("tombolo_northbound_unanswered_connections_total", status.counters.unanswered);
            snapshot.put("tombolo_northbound_lowered_rates_total", status.counters.rate_lowered);
            snapshot.put("tombolo_downlink_dropped_messages_total", status.inbound_dropped);
            snapshot.put("tombolo_downlink_refused_outcomes_total", status.counters.refused_outcomes);
            snapshot.put("tombolo_downlink_cut_outcomes_total", status.counters.cut_outcomes);
        } else {
            snapshot.put("tombolo_downlink_dropped_messages_total", 0);
            snapshot.put("tombolo_downlink_refused_outcomes_total", 0);
            snapshot.put("tombolo_downlink_cut_outcomes_total", 0);
        }
        snapshot.put(Counter::ReadingsUnpromisedDropped.name(), dropped);
    }

    /// Connections of the check `by` are made beside this one for so long; zero: no more. Answers
    /// whether the broker ended this one for them.
    pub fn announce_beside(&self, by: u32, lasts: Duration, reply: Reply) {
        let handle = self.handle.borrow().clone();
        spawn_local(async move {
            let Some(handle) = handle else { return reply.ok(&snapshot::ConnectionBeside::default()) };
            if lasts.is_zero() {
                // That it was ended is known here behind a round trip at the latest.
                handle.check(ENDED_WITHIN).await;
            }
            let now = Instant::now();
            let until = (!lasts.is_zero()).then(|| now + lasts);
            let ended = handle.with(|core| core.announce_beside(now, by, until));
            reply.ok(&snapshot::ConnectionBeside { ended });
        });
    }

    /// Publishes on these topics, which no reading has, until one is not answered or the rest says
    /// nothing new.
    pub fn try_readings(&self, topics: Vec<CheckTopic>, reply: Reply) {
        let named = |of: &CheckTopic| of.topic.contains(LEVEL) && !of.topic.contains(['#', '+', '\0']);
        if let Some(other) = topics.iter().find(|of| !named(of)) {
            let text = format!("{} is no topic of a check: there is no {LEVEL} in it", other.topic);
            return reply.fail(Failure::new(Code::BadRequest, text));
        }
        let handle = self.handle.borrow().clone();
        spawn_local(async move {
            let mut tried = Vec::new();
            let mut refused = 0;
            for CheckTopic { topic, retain } in topics.into_iter().take(TRIED_MAX) {
                let Some(handle) = &handle else { break };
                let Some(answer) = handle.try_reading(&topic, retain, READING_WITHIN).await else { break };
                tried.push(shown_answer(answer));
                match answer {
                    ReadingAnswer::Acknowledged(code) => refused += usize::from(is_refusal(code)),
                    ReadingAnswer::TooLarge => {}
                    ReadingAnswer::Closed | ReadingAnswer::Silent | ReadingAnswer::Unsent => break,
                }
                if refused >= REFUSED_MAX {
                    break;
                }
            }
            reply.ok(&snapshot::ReadingsTried { tried });
        });
    }

    /// Publishes to ourselves and answers with how long it took.
    pub fn check(self: &Rc<Self>, reply: Reply) {
        let link = Rc::clone(self);
        spawn_local(async move {
            let handle = link.handle.borrow().clone();
            let Checked { asked, took } = match handle {
                Some(handle) => handle.check(CHECK_WITHIN).await,
                None => Checked::default(),
            };
            let mut shown = link.snapshot(Instant::now());
            shown.asked = Some(asked);
            shown.taken = link.taken(Instant::now());
            shown.echo_ms = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            reply.ok(&shown);
        });
    }
}

fn shown_answer(answer: ReadingAnswer) -> snapshot::ReadingTried {
    let (answer, code) = match answer {
        ReadingAnswer::Acknowledged(code) => ("acknowledged", Some(code)),
        ReadingAnswer::Closed => ("closed", None),
        ReadingAnswer::Silent => ("silent", None),
        ReadingAnswer::TooLarge => ("too-large", None),
        ReadingAnswer::Unsent => ("unsent", None),
    };
    snapshot::ReadingTried { answer: answer.to_owned(), code }
}

/// The gateway keeps its certificate itself, and proves it itself.
fn keeps_identity(handle: &Handle) -> bool {
    handle.with_settings(|settings| settings.tls.as_ref().is_some_and(TlsSettings::is_kept_here))
}

/// What of the operator's files is known to be in use.
#[derive(Clone, Debug, Default)]
pub struct UsedFiles {
    known: Vec<Fingerprints>,
    with_identity: bool,
    /// The certificate and key that the gateway has of its own.
    kept: Option<(PathBuf, PathBuf)>,
}

impl UsedFiles {
    /// Whether these are.
    pub fn has(&self, files: &Fingerprints) -> bool {
        self.known.iter().any(|known| known.is_same(files, self.with_identity))
    }

    /// Whether new connections come about all the same where the files of `upstream`, which is the
    /// running one, cannot be used: with the pair before, which the gateway kept. It blocks.
    pub fn last_pair_serves(&self, upstream: &Settings, clock: Arc<dyn WallClock>) -> bool {
        let mut upstream = upstream.clone();
        let (Some(kept), Some(tls)) = (self.kept.clone(), &mut upstream.tls) else { return false };
        if tls.is_kept_here() {
            return false; // there is no other pair
        }
        (tls.identity, tls.key_password) = (Some(kept), None);
        files::load(&upstream, clock).is_ok()
    }
}

/// What became of files that were changed under a connection.
#[derive(Clone, Debug, Default)]
pub enum Proof {
    /// There is no connection, or it was made with them.
    #[default]
    NotNeeded,
    /// The broker lets us in with them.
    Works(Fingerprints),
    /// It does not, or it is not known: why.
    Fails(String),
    /// They revoke a certificate of the broker's chain, with this subject: the connection ends.
    Revokes(String),
}

/// The subject of the first certificate of the broker's chain that the lists revoke, as the files
/// are now; `None`: they cannot be used, and the next connection says so. It blocks.
#[allow(clippy::option_option, reason = "there may be none, and there may be a fault")]
fn revoked_in(settings: &Settings, chain: &[Vec<u8>]) -> Option<Option<String>> {
    let tls = settings.tls.as_ref()?;
    let (anchors, _) = files::anchors(tls).ok()?;
    let lists = files::revocation_lists(tls, &anchors).ok().flatten();
    let at = lists.and_then(|lists| lists.first_revoked(chain.iter().map(Vec::as_slice)));
    Some(at.map(|at| {
        chain.get(at).and_then(|der| Leaf::parse(der)).map_or_else(String::new, |of| of.subject_text())
    }))
}

fn of_trial(verdict: TrialVerdict) -> Verdict {
    match verdict {
        TrialVerdict::Accepted => Verdict::Accepted,
        TrialVerdict::Refused(why) => Verdict::Refused(why),
        TrialVerdict::Closed(why) => Verdict::Closed(why),
        TrialVerdict::Fault(why) => Verdict::Fault(why),
    }
}

fn fell_back(why: &String) -> String {
    format!("MQTT 3.1.1 is spoken, which cannot say that a message is refused, because with 5 {why}")
}

/// Never 0 for what is to be waited for.
fn in_seconds(until: Instant, now: Instant) -> u64 {
    until.saturating_duration_since(now).as_secs() + 1
}

/// That the connection does not last because of something outside of this gateway: probably or
/// perhaps another client with the same client id.
fn contested(status: &Status, client_id: &str) -> Option<String> {
    if status.rival {
        return Some(used_elsewhere(client_id));
    }
    (status.closes >= CLOSES).then(|| {
        format!(
            "the broker closed the connection {} times within 10 min, after {} s at the latest, and gave no reason: see its \
             log first; perhaps it, or a load balancer or firewall before it, restarts or ends connections, or it does not \
             allow what this gateway sends, or another client uses the client id {client_id}",
            status.closes,
            status.closes_lasted.as_secs() + 1
        )
    })
}

/// What people should know beside whether a connection stands.
fn trouble(status: &Status, contested: Option<&String>, now: Instant) -> Vec<String> {
    let mut trouble = Vec::new();
    if let Some(waited) = status.waiting_since.map(|since| now.saturating_duration_since(since))
        && waited >= SLOW_ANSWER
    {
        let seconds = waited.as_secs();
        trouble.push(format!(
            "a publish has waited {seconds} s for its answer; the connection is replaced if none comes ([upstream] answer-timeout)"
        ));
    }
    trouble.extend(contested.cloned());
    if let Some((limit, true)) = status.rate_limit {
        let limit = limit.round();
        trouble.push(format!(
            "the broker could not follow: at most {limit} publishes a second at present; [upstream] max-publish-rate sets a bound"
        ));
    }
    if status.suspect_count > 0 {
        let count = status.suspect_count;
        trouble.push(format!(
            "{count} suspected by the broker's refusals, tried again and compared with others; `tombolo queue` shows more",
            count = if count == 1 { "1 record is".to_owned() } else { format!("{count} records are") }
        ));
    }
    trouble.extend(status.left_out.iter().map(|what| format!("left out: {what}")));
    trouble.extend(status.unheard.iter().map(|what| format!("not proven: {what}")));
    trouble.extend(status.refused_outcomes.iter().map(|of| of.text.clone()));
    trouble
}
