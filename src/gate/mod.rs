//! The gate: identifies the sender of a reading, applies the rules and the quota of its role, and
//! maps the path to a topic. A reading that no rule allows is refused.
//!
//! ```text
//! Received ─ identity ─> Identified ─ policy, quota ─> Authorized ─ mapping ─> Mapped ─> journal
//! ```
//!
//! * [`stage`]: the stages as types, and the types for refusals and counters.
//! * [`settings`]: the input from the configuration; [`plan`] checks and compiles it.
//! * [`identity`]: devices and their indices, which stay valid across a reload; [`certificate`],
//!   [`login`], [`jwt`] and `proof`: which credentials identify which device.
//! * [`on_behalf`]: readings that a device forwards for one behind it.
//! * [`pattern`], [`matcher`], [`policy`]: which rule decides.
//! * [`quota`]: the token buckets; [`limited`]: devices that do not keep to them.
//! * [`filter`], [`condition`], [`field`]: which readings are acknowledged and not published;
//!   `lookup`, `json_member`, `cbor_member`: what stands at some places of a document.
//! * [`tag`]: what its owner writes on a device, for topics.
//! * [`template`], [`mapping`], [`own_topic`]: the topic of a reading, and the checks on it.
//! * [`reply`]: the replies to commands, which are stored as readings are.
//! * [`presence`]: which devices are online; [`roll`]: the devices of fleets, kept across restarts.
//! * [`usage`]: what each device has sent, day by day.
//! * [`explain`]: why a reading would pass or be refused.
//!
//! It is pure: time is an argument and nothing is logged. [`Gate::admit`] does not allocate. The
//! user documentation is docs/mapping.md.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

mod cbor_member;
pub mod certificate;
pub mod condition;
pub mod explain;
pub mod field;
pub mod filter;
mod identification;
pub mod identity;
mod json_member;
pub mod jwt;
mod last_filtered;
mod last_refusal;
pub mod limited;
pub mod login;
mod lookup;
pub mod mapping;
pub(crate) mod matcher;
pub mod on_behalf;
pub mod own_topic;
pub mod pattern;
pub mod plan;
mod pointer;
pub mod policy;
pub mod presence;
mod proof;
pub mod quota;
pub mod reply;
pub mod roll;
pub mod settings;
pub mod stage;
pub mod tag;
pub mod template;
pub mod usage;

pub use explain::{Explanation, Supposed};
pub use identification::{NextPskUsed, Unidentified};
pub use identity::Gone;
pub use last_filtered::LastFiltered;
pub use last_refusal::{LastRefusal, PATH_KEPT};
pub use limited::Limited;
pub use plan::{Fault, Item, Prepared, Problem, check};
pub use presence::PresenceChange;
pub use settings::{
    Deliver, Device, DownlinkRule, Fleet, MailboxLimits, NextPsk, OnBehalfRule, Psk, QoS, QueryUse, Quota,
    Role, Settings, SharedDevice, UplinkRule, WhenFull,
};
pub use stage::{Admitted, DeviceIndex, Mapped, Reason, Received, Refusal, Refused};

use crate::message::{Method, Name, TOPIC_MAX};
use crate::proto::Holder;
use crate::proto::dtls::PeerIdentity;
use filter::{Filtered, HeldBack, Sample};
use identity::{Devices, Entry};
use matcher::Segments;
use plan::Plan;
use policy::Asked;
use presence::Queue;
use proof::Proofs;
use quota::Bucket;
use tag::Tags;

/// Decides whether a reading passes, and to which topic.
#[derive(Debug)]
pub struct Gate {
    plan: Plan,
    problems: Vec<Problem>,
    devices: Devices,
    proofs: Proofs,
    presence: Queue,
    /// Incremented when a device of a fleet is added or may have been removed.
    fleet_revision: u64,
    /// Devices that have used their new PSK.
    next_psk_used: VecDeque<NextPskUsed>,
    /// Buffer for the topic of the current reading; never grows.
    topic: String,
    /// Numbers the readings that filters measure against.
    next_number: u64,
    totals: Totals,
}

/// Counters over all devices, including removed ones, since the gate was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Readings that passed.
    pub accepted: u64,
    /// Payload bytes of the readings that passed.
    pub accepted_bytes: u64,
    /// Readings that were refused.
    pub refused: Refused,
    /// Readings that were acknowledged and not published.
    pub filtered: u64,
}

/// A device as `status` shows it.
#[derive(Clone, Debug)]
pub struct DeviceView<'a> {
    /// Its index, for other methods of [`Gate`].
    pub index: DeviceIndex,
    /// Its id.
    pub id: &'a Name,
    /// Its role's name.
    pub role: &'a Name,
    /// The fleet it belongs to, if any.
    pub fleet: Option<&'a Name>,
    /// Its label: free text.
    pub label: Option<&'a str>,
    /// Its tags.
    pub tags: &'a Tags,
    /// The device that it is behind.
    pub parent: Option<&'a Name>,
    /// Whether it has a credential of its own, by which it can have a DTLS session.
    pub has_credential: bool,
    /// Whether it was active within its `offline-after`.
    pub online: bool,
    /// Its last activity since the gate was created.
    pub last_seen: Option<Instant>,
    /// Since when it is known here, and counted.
    pub known_since: Instant,
    /// Readings that passed.
    pub accepted: u64,
    /// Payload bytes of the readings that passed.
    pub accepted_bytes: u64,
    /// Of these, readings that the journal did not take.
    pub unstored: u32,
    /// Messages to local clients that passed; they are no readings, and saturate.
    pub local: u32,
    /// Readings that were acknowledged and not published.
    pub filtered: u64,
    /// Readings that were refused.
    pub refused: &'a Refused,
    /// The newest reading since the start that was acknowledged and not published.
    pub last_filtered: Option<&'a LastFiltered>,
    /// The newest refusal since the start.
    pub last_refusal: Option<&'a LastRefusal>,
    /// What held it back, if something did since the start.
    pub limited: Option<&'a Limited>,
    /// The rest of its quota.
    pub quota: explain::QuotaState,
}

/// The size of a message to local clients.
#[derive(Clone, Copy, Debug)]
pub struct LocalSize {
    /// Bytes of its payload, which `max-payload` limits.
    pub payload: usize,
    /// Bytes of the properties that go with it; with the payload they cost the quota.
    pub properties: usize,
}

impl Gate {
    /// Creates the gate. Never fails: an invalid setting closes the role or device it belongs to
    /// and is listed by [`Gate::problems`].
    pub fn new(settings: impl Into<Prepared>, now: Instant) -> Gate {
        let Prepared { plan, devices, withheld, problems } = settings.into();
        let mut gate = Gate {
            plan,
            problems,
            devices: Devices::default(),
            proofs: Proofs::default(),
            presence: Queue::default(),
            fleet_revision: 0,
            next_psk_used: VecDeque::new(),
            topic: String::with_capacity(TOPIC_MAX),
            next_number: 0,
            totals: Totals::default(),
        };
        gate.take_over(devices, &withheld, None, now);
        gate
    }

    /// Replaces the settings. A device that remains keeps its index, counters and presence, and the
    /// rest of its quota if the quota is unchanged; a changed quota starts full. Returns what was
    /// removed: close their sessions, clear their retained status. Sessions whose credential is not
    /// their device's any more have to be closed too.
    ///
    /// Pass a [`Prepared`] made on another thread if the path must not wait for the compilation.
    pub fn replace(&mut self, settings: impl Into<Prepared>, now: Instant) -> Vec<Gone> {
        let Prepared { plan, devices, withheld, problems } = settings.into();
        let before = std::mem::replace(&mut self.plan, plan);
        self.problems = problems;
        self.take_over(devices, &withheld, Some(&before), now)
    }

    fn take_over(
        &mut self,
        devices: Vec<(settings::SharedDevice, u32)>,
        withheld: &settings::Withheld,
        before: Option<&Plan>,
        now: Instant,
    ) -> Vec<Gone> {
        let mut kept = Vec::new();
        self.devices.reserve(devices.len());
        for (device, role_index) in devices {
            let Some(role) = self.plan.roles.get(role_index as usize) else { continue };
            let offline_after = device.offline_after.unwrap_or(role.offline_after);
            let bucket = Bucket::full(&role.rate, now);
            let same_quota = |old: u32| {
                before
                    .and_then(|plan| plan.roles.get(old as usize))
                    .is_some_and(|old| old.quota == role.quota)
            };
            let slot = self.devices.put(device, role_index, offline_after, bucket, same_quota, now);
            keep(&mut kept, slot);
        }
        self.review_fleets(before, now, |slot| keep(&mut kept, slot));
        for (_, entry) in self.devices.iter_mut() {
            let filtering = self.plan.roles.get(entry.role as usize).map_or(0, |role| role.filtering);
            if entry.state.filtering != filtering {
                // Other rules may publish on the same topic in between, which nothing remembers.
                (entry.state.remembered, entry.state.filtering) = (None, filtering);
            }
        }
        self.fleet_revision += 1;
        let removed = self.devices.retain(|slot| kept.get(slot as usize).copied().unwrap_or(false));
        self.proofs = self.devices.proofs(withheld);
        let renamed =
            before.is_some_and(|plan| plan.gateway != self.plan.gateway || plan.prefix != self.plan.prefix);
        self.reschedule(renamed, now);
        removed
    }

    /// Reschedules the presence of each device.
    fn reschedule(&mut self, outdated: bool, now: Instant) {
        self.presence.reset(self.devices.len());
        for (slot, entry) in self.devices.iter_mut() {
            if outdated {
                entry.state.presence.outdate();
            }
            self.presence.schedule(slot, &mut entry.state.presence, now, entry.offline_after);
        }
    }

    /// The problems of the settings in use; each names what is closed because of it.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The gateway's own id.
    pub fn gateway(&self) -> &Name {
        &self.plan.gateway
    }

    /// The device with this PSK identity. The identity alone does not authenticate the device.
    pub fn identify_psk(&self, identity: &[u8]) -> Option<DeviceIndex> {
        self.recognise(&PeerIdentity::Psk(identity.into()))
    }

    /// The device with this id.
    pub fn device_by_id(&self, id: &str) -> Option<DeviceIndex> {
        self.devices.by_id(id)
    }

    /// The id of a device; `None` for a stale index.
    pub fn id(&self, device: DeviceIndex) -> Option<&Name> {
        self.devices.entry(device).map(|entry| &entry.described.id)
    }

    /// The state of a device; `None` for a stale index.
    pub fn device(&self, now: Instant, device: DeviceIndex) -> Option<DeviceView<'_>> {
        self.view(now, device, self.devices.entry(device)?)
    }

    /// All devices, in no particular order.
    pub fn devices(&self, now: Instant) -> impl Iterator<Item = DeviceView<'_>> {
        self.devices.iter().filter_map(move |(index, entry)| self.view(now, index, entry))
    }

    /// The patterns of the allowing rules of a device's role that apply to it, as configured and in
    /// the order of the settings. Paths that a deny rule excludes are not removed. Empty for a
    /// stale index.
    pub fn uplink_patterns(&self, device: DeviceIndex) -> impl Iterator<Item = &str> {
        let found = self.entry_and_role(device).into_iter();
        let rules =
            found.flat_map(|(entry, role)| role.rules.iter().map(|rule| (rule, &entry.described.tags)));
        let applying = rules.filter(|(rule, tags)| rule.action.is_some() && rule.lacks(tags).is_none());
        applying.map(|(rule, _)| rule.pattern.as_str())
    }

    /// The number under which the sessions of a device are counted, and their maximum; `None` for a
    /// stale index.
    pub fn holder(&self, device: DeviceIndex) -> Option<Holder> {
        let entry = self.devices.entry(device)?;
        let role = self.plan.roles.get(entry.role as usize)?;
        let number = (device.slot() as u64) << 32 | u64::from(device.generation());
        Some(Holder { number, max_sessions: role.max_sessions, max_handshakes: role.max_handshakes })
    }

    /// The largest payload in bytes of a reading of this device that comes in blocks; 0 for a stale
    /// index. A rule may have less.
    pub fn largest_payload(&self, device: DeviceIndex) -> u32 {
        self.entry_and_role(device).map_or(0, |(_, role)| role.limits.of(true))
    }

    /// The number of devices.
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// The counters over all devices.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    fn entry_and_role(&self, device: DeviceIndex) -> Option<(&Entry, &policy::Role)> {
        let entry = self.devices.entry(device)?;
        Some((entry, self.plan.roles.get(entry.role as usize)?))
    }

    fn view<'a>(&'a self, now: Instant, index: DeviceIndex, entry: &'a Entry) -> Option<DeviceView<'a>> {
        let role = self.plan.roles.get(entry.role as usize)?;
        let (messages_left, bytes_left) = entry.state.bucket.left(&role.rate, now);
        Some(DeviceView {
            index,
            id: &entry.described.id,
            role: &role.name,
            fleet: entry.fleet_name(),
            label: entry.described.label.as_deref(),
            tags: &entry.described.tags,
            parent: entry.described.parent.as_ref(),
            has_credential: entry.has_credential(),
            online: entry.state.presence.online(now, entry.offline_after),
            last_seen: entry.state.presence.last_seen(),
            known_since: entry.state.since,
            accepted: entry.state.accepted,
            accepted_bytes: entry.state.accepted_bytes,
            unstored: entry.state.unstored,
            filtered: entry.state.filtered,
            local: entry.state.local,
            refused: &entry.state.refused,
            last_filtered: entry.state.last_filtered.as_deref(),
            last_refusal: entry.state.last_refusal.as_deref(),
            limited: entry.state.limited.as_deref(),
            quota: explain::QuotaState {
                messages_left,
                messages_burst: role.quota.burst,
                bytes_left,
                bytes_burst: role.quota.bytes,
            },
        })
    }

    /// Decides whether a reading passes, and is published. In any case the device counts as active
    /// and the reading is counted; only a reading that is not refused takes tokens. Does not
    /// allocate.
    ///
    /// # Errors
    /// [`Refusal`], which the southbound protocol translates to its own response.
    pub fn admit<'g>(
        &'g mut self,
        now: Instant,
        device: DeviceIndex,
        received: Received<'g>,
    ) -> Result<Admitted<'g>, Refusal> {
        self.judge(now, device, received, None)
    }

    /// Decides whether a reading of which only the first block has come could pass with `bytes` of
    /// payload. The device counts as active, and a refusal is counted; a reading that could pass is
    /// neither counted nor takes tokens, because [`Gate::admit`] decides about it when it is
    /// complete. Returns the largest payload that its role and rule allow, in bytes.
    ///
    /// # Errors
    /// As [`Gate::admit`].
    pub fn announce(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        received: Received<'_>,
        bytes: usize,
    ) -> Result<u32, Refusal> {
        self.judge(now, device, received, Some(bytes.max(received.payload.len())))?;
        let (entry, role) = self.entry_and_role(device).ok_or(Refusal::UnknownDevice)?;
        let asked = Asked::of(&received, &entry.described.tags);
        let (_, action) = role.decide(&asked, &Segments::new(received.path))?;
        Ok(action.limit(role, received.blockwise))
    }

    /// `announced` = the payload has not come yet, and will have this many bytes.
    fn judge<'g>(
        &'g mut self,
        now: Instant,
        device: DeviceIndex,
        received: Received<'g>,
        announced: Option<usize>,
    ) -> Result<Admitted<'g>, Refusal> {
        let Gate { plan, devices, presence, topic, next_number, totals, .. } = self;
        let known = devices.len();
        let entry = devices.entry_mut(device);
        let role = entry.as_ref().and_then(|entry| plan.roles.get(entry.role as usize));
        let (Some(entry), Some(role)) = (entry, role) else {
            totals.refused.count(Reason::UnknownDevice);
            return Err(Refusal::UnknownDevice);
        };
        let Entry { described, state, .. } = entry;
        let (id, tags) = (&described.id, &described.tags);
        presence.seen(device.slot() as u32, &mut state.presence, now);
        let identified = identity::identify(device, id, received);
        let bytes = received.payload.len();
        let announced_bytes = announced.unwrap_or(bytes);
        let mapped =
            policy::authorize(role, &mut state.bucket, now, identified, tags, announced_bytes, false)
                .and_then(|authorized| {
                    let filter = authorized.rule().filter();
                    let mapped = mapping::map(authorized, &plan.spaces, tags, topic)?;
                    Ok((mapped.of_devices(known), filter))
                });
        let (mapped, filter) = match mapped {
            Ok(mapped) => mapped,
            Err(refusal) => {
                state.refused.count(refusal.reason());
                let rule = role.deciding(received.path, tags);
                state.note_refusal_of(now, received.path.as_str(), &refusal, rule, &role.rate);
                totals.refused.count(refusal.reason());
                return Err(refusal);
            }
        };
        if announced.is_some() {
            return Ok(Admitted::Passed(mapped));
        }
        state.bucket.take(&role.rate, bytes);
        let mapped = match (filter, mapped.rule()) {
            (Some(filter), Some(_)) if received.method == Method::Delete => {
                if let Some(remembered) = &mut state.remembered {
                    remembered.clear(filter, &mapped.content());
                }
                mapped
            }
            (Some(filter), Some(rule)) => {
                let content = mapped.content();
                let held_back = if let Some(unmet) = filter.unmet(&Sample::from(&content)) {
                    Some(Filtered { content, rule, why: HeldBack::Unmet, unmet: Some(unmet), behind: None })
                } else if filter.compares() {
                    *next_number += 1;
                    let remembered = state.remembered.get_or_insert_default();
                    let screened = remembered.screen(now, filter, &content, *next_number);
                    screened.err().map(|(why, behind)| Filtered {
                        content,
                        rule,
                        why,
                        unmet: None,
                        behind: Some(behind),
                    })
                } else {
                    None
                };
                if let Some(filtered) = held_back {
                    state.note_filtered(now, &filtered);
                    totals.filtered += 1;
                    return Ok(Admitted::Filtered(filtered));
                }
                if filter.compares() { mapped.numbered(*next_number) } else { mapped }
            }
            _ => mapped,
        };
        state.accepted += 1;
        state.accepted_bytes += bytes as u64;
        totals.accepted += 1;
        totals.accepted_bytes += bytes as u64;
        Ok(Admitted::Passed(mapped))
    }

    /// Forgets a reading of this number that was not stored, so that no later one is held back
    /// because of it.
    pub fn forget(&mut self, device: DeviceIndex, number: u64) {
        if let Some(entry) = self.devices.entry_mut(device)
            && let Some(remembered) = &mut entry.state.remembered
        {
            remembered.forget(number);
        }
    }

    /// Whether a rule of the device's role decides about readings at this path: one that allows, or
    /// one that denies. A reserved path is decided about too.
    pub fn has_rule(&self, device: DeviceIndex, path: crate::message::Path<'_>) -> bool {
        let found = self.entry_and_role(device);
        path.is_reserved()
            || found.is_some_and(|(entry, role)| role.deciding(path, &entry.described.tags).is_some())
    }

    /// The largest payload of a message to local clients, in bytes; `None`: the device is unknown.
    pub fn local_limit(&self, device: DeviceIndex) -> Option<u32> {
        self.entry_and_role(device).map(|(_, role)| role.limits.of(true))
    }

    /// Decides whether a message to local clients is within the limits of its device, and takes its
    /// tokens if it is. The rule that allows it, and whether there is `room` for it, is the
    /// southbound side's. It is counted, but not as a reading, and so is a refusal. The device
    /// counts as active.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn admit_local(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        topic: &str,
        size: LocalSize,
        room: Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let bytes = size.payload + size.properties;
        let Gate { plan, devices, presence, totals, .. } = self;
        let entry = devices.entry_mut(device);
        let role = entry.as_ref().and_then(|entry| plan.roles.get(entry.role as usize));
        let (Some(entry), Some(role)) = (entry, role) else {
            totals.refused.count(Reason::UnknownDevice);
            return Err(Refusal::UnknownDevice);
        };
        let state = &mut entry.state;
        presence.seen(device.slot() as u32, &mut state.presence, now);
        let limit = role.limits.of(true);
        let refusal = if size.payload > limit as usize {
            Refusal::TooLarge { limit }
        } else if let Err(retry_after_s) = state.bucket.check(&role.rate, now, bytes) {
            Refusal::OverQuota { retry_after_s }
        } else if let Err(refusal) = room {
            refusal
        } else {
            state.bucket.take(&role.rate, bytes);
            state.local = state.local.saturating_add(1);
            return Ok(());
        };
        state.refused.count(refusal.reason());
        state.note_refusal_of(now, topic, &refusal, None, &role.rate);
        totals.refused.count(refusal.reason());
        Err(refusal)
    }

    /// Counts and keeps the refusal of what is no reading: of a request from which none can be
    /// made, or of a message that a rule for local clients denies. `path`: what it asked for, as
    /// far as it is text. The device counts as active.
    pub fn note_unjudged(&mut self, now: Instant, device: DeviceIndex, path: &str, refusal: &Refusal) {
        let Gate { devices, presence, totals, .. } = self;
        totals.refused.count(refusal.reason());
        let Some(entry) = devices.entry_mut(device) else { return };
        presence.seen(device.slot() as u32, &mut entry.state.presence, now);
        entry.state.refused.count(refusal.reason());
        let rule = match refusal {
            Refusal::Denied { rule } => Some(rule),
            _ => None,
        };
        entry.state.note_refusal(now, path, refusal, rule);
    }

    /// The readings that each rule has decided since the rules were last compiled, refused ones
    /// included: role, rule, number. A rule that other roles include occurs once for each of them,
    /// under the role that it is from.
    pub fn rule_hits(&self) -> impl Iterator<Item = (&Name, &Name, u64)> {
        use std::sync::atomic::Ordering;
        self.plan.roles.iter().flat_map(|role| {
            let hits = |rule: &policy::Rule| rule.hits.load(Ordering::Relaxed);
            role.rules
                .iter()
                .map(move |rule| (rule.from.as_ref().unwrap_or(&role.name), &rule.name, hits(rule)))
        })
    }

    /// Returns the tokens of a reading with `payload_bytes` that passed but could not be stored, so
    /// that a full journal does not use up the device's quota.
    pub fn give_back(&mut self, device: DeviceIndex, payload_bytes: usize) {
        if let Some(entry) = self.devices.entry_mut(device)
            && let Some(role) = self.plan.roles.get(entry.role as usize)
        {
            entry.state.bucket.give_back(&role.rate, payload_bytes);
            entry.state.unstored = entry.state.unstored.saturating_add(1);
        }
    }

    /// Whether a reading of a device comes that is muted: what it is refused with. `path`: where it
    /// was sent. The refusal is counted, and the device counts as active. Only for senders that are
    /// told when they may send again, as over CoAP.
    pub fn check_mute(&mut self, now: Instant, device: DeviceIndex, path: &str) -> Option<Refusal> {
        let Gate { devices, presence, totals, .. } = self;
        let state = &mut devices.entry_mut(device)?.state;
        let retry_after_s = state.limited.as_mut()?.handle_reading(now)?;
        let refusal = Refusal::Muted { retry_after_s };
        presence.seen(device.slot() as u32, &mut state.presence, now);
        state.refused.count(Reason::Muted);
        state.note_refusal(now, path, &refusal, None);
        totals.refused.count(Reason::Muted);
        Some(refusal)
    }

    /// What a device that is over its quota is told: the refusal of [`Gate::admit`], or the same
    /// with another time, if it is muted from now on because it ignored the ones before.
    pub fn note_over_quota(&mut self, now: Instant, device: DeviceIndex, refusal: Refusal) -> Refusal {
        let Refusal::OverQuota { retry_after_s } = refusal else { return refusal };
        let Some(entry) = self.devices.entry_mut(device) else { return refusal };
        let passed = entry.state.passed();
        let limited = entry.state.limited.get_or_insert_default();
        match limited.handle_over_quota(now, retry_after_s, passed) {
            Some(retry_after_s) => Refusal::OverQuota { retry_after_s },
            None => refusal,
        }
    }

    /// Counts a reading that was not stored because the records of its device have the device's
    /// share of the lane.
    pub fn note_over_share(&mut self, now: Instant, device: DeviceIndex) {
        if let Some(entry) = self.devices.entry_mut(device) {
            entry.state.limited.get_or_insert_default().note_over_share(now);
        }
    }

    /// Counts a handshake or a connect of a device that was refused because it had too many in a
    /// minute.
    pub fn note_too_often(&mut self, now: Instant, device: DeviceIndex) {
        if let Some(entry) = self.devices.entry_mut(device) {
            entry.state.limited.get_or_insert_default().note_too_often(now);
        }
    }

    /// Counts a reading that passed and that the journal took but could not store.
    pub fn note_unstored(&mut self, device: DeviceIndex) {
        if let Some(entry) = self.devices.entry_mut(device) {
            entry.state.unstored = entry.state.unstored.saturating_add(1);
        }
    }

    /// Decides about a reading that the operator sends in the place of a device: by the rules, the
    /// limits and the quota as they are, but no token is taken, nothing is counted for the device,
    /// and it does not count as active.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn rehearse<'g>(
        &'g mut self,
        now: Instant,
        device: DeviceIndex,
        received: Received<'g>,
    ) -> Result<Mapped<'g>, Refusal> {
        let Gate { plan, devices, topic, .. } = self;
        let known = devices.len();
        let entry = devices.entry_mut(device);
        let role = entry.as_ref().and_then(|entry| plan.roles.get(entry.role as usize));
        let (Some(entry), Some(role)) = (entry, role) else { return Err(Refusal::UnknownDevice) };
        let Entry { described, state, .. } = entry;
        let (id, tags) = (&described.id, &described.tags);
        let bytes = received.payload.len();
        let identified = identity::identify(device, id, received);
        policy::authorize(role, &mut state.bucket, now, identified, tags, bytes, true)
            .and_then(|authorized| mapping::map(authorized, &plan.spaces, tags, topic))
            .map(|mapped| mapped.of_devices(known).into_test())
    }

    /// Marks a device active without a reading: a session was established, a ping came.
    pub fn seen(&mut self, now: Instant, device: DeviceIndex) {
        if let Some(entry) = self.devices.entry_mut(device) {
            self.presence.seen(device.slot() as u32, &mut entry.state.presence, now);
        }
    }

    /// The next device whose presence must be published. Call it until `None` while the uplink can
    /// accept messages; a change that is not polled is not lost, and is reported later with the
    /// state of that time.
    ///
    /// The cost is proportional to the number of devices that became due since the last call. Each
    /// online device is due every 15 minutes, even if there is nothing to publish.
    pub fn poll_presence(&mut self, now: Instant) -> Option<PresenceChange> {
        while let Some((slot, due)) = self.presence.pop(now) {
            let Some((device, entry)) = self.devices.at(slot) else { continue };
            let (presence, offline_after): (_, Duration) = (&mut entry.state.presence, entry.offline_after);
            if let Some(online) = self.presence.tell(slot, due, presence, now, offline_after) {
                let last_seen = presence.last_seen();
                return Some(PresenceChange { device, id: entry.described.id.clone(), online, last_seen });
            }
        }
        None
    }

    /// Schedules the presence of every device for publication again, for when the broker may have
    /// lost the retained messages.
    pub fn retell_presence(&mut self, now: Instant) {
        self.reschedule(true, now);
    }

    /// When [`Gate::poll_presence`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.presence.poll_timeout()
    }
}

fn keep(kept: &mut Vec<bool>, slot: u32) {
    let slot = slot as usize;
    if kept.len() <= slot {
        kept.resize(slot + 1, false);
    }
    kept[slot] = true;
}
