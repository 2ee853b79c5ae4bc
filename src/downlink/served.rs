//! Resources that devices serve, and the gateway observes (RFC 7641) or polls: which of which
//! device is asked for when, and what comes of it. Pure; how a device is asked is the [`Asker`]'s.
//!
//! | what happened | what is done |
//! |---|---|
//! | the device speaks over an association that is new | all of it is asked for, one at a time |
//! | a value, by a notification that is newer than the last (§3.4) | it is taken |
//! | one that is not newer | it is acknowledged, and dropped |
//! | Max-Age and 5 to 15 s pass without one | it is registered anew, by the same token (§3.3.1) |
//! | the association ends, or another takes its place | the relation is over |
//! | two associations take turns | [`CHANGES_MAX`] changes are followed at once, then one each [`PAUSE`]; the relation of the one before goes on meanwhile |
//! | an answer without Observe | its value is taken; asked again after a pause |
//! | 4.xx, 5.xx, Reset, no answer | asked again after a pause |
//! | the rules refuse a value | the relation is ended by Reset; asked again after a pause |
//! | the quota refuses more than [`OVER_QUOTA_MAX`] values of a relation in a minute | the same |
//! | the journal does not take a value | it is not acknowledged; asked for again after [`PAUSE`] |
//! | a poll is due | one GET; what was missed meanwhile is not made up for |
//! | the device is not awake | it is asked when it speaks next |
//! | a command is on its way to the device, or waits to be | that goes first |
//! | it is removed by a reload | the next notification is answered with Reset |
//!
//! Pauses grow from [`PAUSE`] to [`PAUSE_MAX`]. One after a request that was not acknowledged ends
//! when the device speaks, but not before [`PAUSE`]: it was asleep.
//!
//! Nothing is stored: the tokens of a process end with it. The devices whose sessions go on are
//! asked anew by the next one, and notifications by an older token are answered with Reset.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::delivery::{NotSent, Told};
use crate::message::{ContentFormat, Name};
use crate::proto::coap::{BlockRefused, Code, NoticeKind, PeerId};
use crate::splitmix::SplitMix64;

/// Resources of one device that are observed or polled.
pub const OF_DEVICE_MAX: usize = 16;
/// The first pause after a failure.
pub const PAUSE: Duration = Duration::from_secs(30);
/// The longest one.
pub const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// How long an acknowledged GET waits for its response.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long a value may take that comes in blocks.
const WHOLE_WITHIN: Duration = Duration::from_secs(300);
/// Values of a relation that the quota refuses within a minute, before the relation is ended.
pub const OVER_QUOTA_MAX: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// A relation that was good for so long makes good what failed before.
const GOOD: Duration = Duration::from_secs(600);
/// A relation is registered anew at least after this time, and at most so often.
const FRESH_MAX: Duration = Duration::from_secs(86_400);
const FRESH_MIN: Duration = Duration::from_secs(30);
/// A sequence number is compared with one that is not older (RFC 7641 §3.4).
const COMPARABLE: Duration = Duration::from_secs(128);
/// While a command is on its way, or there is no room.
const SHORTLY: Duration = Duration::from_secs(1);
/// Changes of the association of a device that are followed at once, and one more in each
/// [`PAUSE`]: each costs a GET of all that is observed.
const CHANGES_MAX: u32 = 8;
/// So many notifications in a row with the number of the last are no accident.
const SAME_NUMBERS: u32 = 3;
/// The longest time by which a poll is put off, so that not all devices are asked at once.
const SPREAD_MAX: Duration = Duration::from_secs(30);

/// How a resource is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It is observed.
    Observe,
    /// It is polled.
    Poll {
        /// How often.
        every: Duration,
    },
}

/// A resource that a device serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedPath {
    /// The name of its table.
    pub name: Name,
    /// How it is asked for.
    pub manner: Manner,
    /// Its path on the device.
    pub path: String,
    /// The query: arguments joined by `&`.
    pub query: Option<String>,
    /// The only format that is wanted.
    pub accept: Option<ContentFormat>,
    /// The size exponent of the blocks that are wanted (RFC 7959 §2.2).
    pub block_exponent: Option<u8>,
    /// The path of its readings, in the device's space.
    pub reading: String,
}

impl ServedPath {
    /// As the tables are called.
    pub fn table(&self) -> &'static str {
        match self.manner {
            Manner::Observe => "observe",
            Manner::Poll { .. } => "poll",
        }
    }
}

/// What is asked for, by role, and by device where that has tables of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedSettings {
    /// By the role of a device.
    pub roles: BTreeMap<Name, Vec<ServedPath>>,
    /// All of a device, in the place of its role's.
    pub devices: BTreeMap<Name, Vec<ServedPath>>,
}

impl ServedSettings {
    /// What is asked of a device of this role.
    pub fn of(&self, device: &Name, role: &Name) -> &[ServedPath] {
        self.devices.get(device).or_else(|| self.roles.get(role)).map_or(&[], Vec::as_slice)
    }

    /// Whether anything is asked for at all.
    pub fn is_wanted(&self) -> bool {
        !self.roles.is_empty() || !self.devices.is_empty()
    }
}

/// How devices are asked.
pub trait Asker {
    /// The association over which the device can be asked now; `None`: it sleeps, or is not there.
    fn reach(&mut self, now: Instant, device: &Name) -> Option<PeerId>;

    /// Whether a command is on its way to the device, or about to be.
    fn is_occupied(&mut self, device: &Name) -> bool;

    /// Asks. A number that is known is a relation whose GET is sent anew.
    ///
    /// # Errors
    /// [`NotSent`].
    fn ask(&mut self, now: Instant, device: &Name, number: u64, path: &ServedPath) -> Result<(), NotSent>;

    /// Nothing more is wanted of this number.
    fn forget(&mut self, number: u64);
}

/// What a device said of what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// How it came.
    pub kind: NoticeKind,
    /// 2.xx, 4.xx or 5.xx.
    pub code: Code,
    /// The number of a notification, 24 bits.
    pub observe: Option<u32>,
    /// For how long it is fresh, in seconds.
    pub max_age_s: u32,
    /// There is more of it, which could not be fetched.
    pub partial: bool,
    /// That is because the device refused a block of it.
    pub refused: Option<BlockRefused>,
}

impl Said {
    /// Why there is no value.
    fn trouble(&self, path: &ServedPath) -> String {
        let Said { code, refused, .. } = self;
        // RFC 7252 §5.4.1: Block2 is critical, and a device that does not know it answers 4.02.
        match refused {
            None if *code == Code::BAD_OPTION && path.block_exponent.is_some() => format!(
                "the device answers {code}: if it does not know the Block2 option (RFC 7959), which block-size in its {} \
                 table asks for, leave block-size out",
                path.table()
            ),
            None if *code != Code::CONTENT => format!("the device answers {code}"),
            None => "the value could not be fetched whole: it is too long, changed meanwhile, or a block did not come"
                .to_owned(),
            Some(BlockRefused { code, had_echo: true }) => format!(
                "the value could not be fetched whole: the device answers {code} to a block of it, also with the Echo option \
                 that it asked for (RFC 9175)"
            ),
            Some(BlockRefused { code, .. }) => {
                format!("the value could not be fetched whole: the device answers {code} to a block of it")
            }
        }
    }
}

/// What is to be done with what a device said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the gate; [`Served::handle_taken`] is told what became of it.
    Take,
    /// It is acknowledged.
    Drop,
    /// It is answered with Reset: nobody wants it.
    Reject,
}

/// What became of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is on its way to the disk, or passed, or held back by a filter.
    Passed,
    /// It is more than the quota.
    OverQuota,
    /// The rules do not let it pass: why.
    Refused(String),
    /// The journal does not take it.
    Unstored,
}

/// What a confirmable message with a value is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It is acknowledged, once the value is stored.
    Acknowledge,
    /// Nothing: the device sends it again.
    Nothing,
    /// Reset: the relation is over.
    Reset,
}

/// A resource as `device show` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedView<'a> {
    /// What is asked for.
    pub path: &'a ServedPath,
    /// Since when it is observed.
    pub observed_since: Option<Instant>,
    /// When the last value was taken.
    pub value_at: Option<Instant>,
    /// Values that were taken.
    pub values: u64,
    /// Values that the quota refused.
    pub over_quota: u64,
    /// How often it was asked for.
    pub asked: u64,
    /// What is wrong; and when it is asked for again, if that is known.
    pub trouble: Option<(&'a str, Option<Instant>)>,
    /// It is due, and a command to the device goes first: since when.
    pub behind_command: Option<Instant>,
    /// What is odd and loses values, although some come.
    pub remark: Option<String>,
}

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedCounts {
    /// GETs sent to devices.
    pub asked: u64,
    /// Values that were taken.
    pub values: u64,
    /// Notifications that were not newer than the last.
    pub stale: u64,
    /// Failures: each begins a pause.
    pub failed: u64,
}

#[derive(Debug)]
struct Item {
    path: ServedPath,
    /// By which the asker knows its GET and its relation; never used again.
    number: u64,
    /// Its GET waits for the response until then.
    asked_until: Option<Instant>,
    /// It is not asked for before.
    due: Instant,
    /// A device that speaks ends the pause from then on.
    early: Option<Instant>,
    pause: Duration,
    trouble: Option<String>,
    since: Option<Instant>,
    /// The newest notification, and the newest of those whose values were taken: a value that was
    /// not stored comes again, and so do others that were on their way with it.
    newest: Option<(u32, Instant)>,
    stored: Option<(u32, Instant)>,
    /// Values that the quota refused since then.
    refused: (Instant, u32),
    value_at: Option<Instant>,
    values: u64,
    over_quota: u64,
    asked: u64,
    /// How many notifications in a row had the number of the one before.
    same_numbers: u32,
}

impl Item {
    fn new(now: Instant, path: ServedPath, number: u64) -> Item {
        Item {
            path,
            number,
            asked_until: None,
            due: now,
            early: None,
            pause: Duration::ZERO,
            trouble: None,
            since: None,
            newest: None,
            stored: None,
            refused: (now, 0),
            value_at: None,
            values: 0,
            over_quota: 0,
            asked: 0,
            same_numbers: 0,
        }
    }

    /// It is not asked for any more, nor observed; whether it was.
    fn rest(&mut self) -> bool {
        let was_active = self.asked_until.is_some() || self.since.is_some();
        (self.asked_until, self.since, self.newest, self.stored) = (None, None, None, None);
        was_active
    }

    fn pause(&mut self, now: Instant, trouble: impl Into<String>) {
        self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MAX);
        (self.due, self.early) = (now + self.pause, None);
        self.trouble = Some(trouble.into());
    }

    /// The value with this number was taken.
    fn note_stored(&mut self, now: Instant, sequence: u32) {
        let stored = (sequence, now);
        if self.stored.is_none_or(|old| is_newer(old, stored)) {
            self.stored = Some(stored);
        }
        if self.newest.is_none_or(|old| is_newer(old, stored)) {
            self.newest = self.stored;
        }
    }

    /// A notification with this number came.
    fn note_number(&mut self, sequence: u32) {
        let is_same = self.newest.is_some_and(|(newest, _)| newest == sequence);
        self.same_numbers = if is_same { self.same_numbers.saturating_add(1) } else { 0 };
    }

    fn remark(&self) -> Option<String> {
        let (number, _) = self.newest.filter(|_| self.same_numbers >= SAME_NUMBERS)?;
        Some(format!(
            "its notifications have the same number {number} again and again, so that those within {} s of the last \
             are dropped (RFC 7641 §3.4): the device must count them up",
            COMPARABLE.as_secs()
        ))
    }

    fn view(&self, occupied_since: Option<Instant>) -> ServedView<'_> {
        let again = self.asked_until.is_none().then_some(self.due);
        ServedView {
            path: &self.path,
            observed_since: self.since,
            value_at: self.value_at,
            values: self.values,
            over_quota: self.over_quota,
            asked: self.asked,
            trouble: self.trouble.as_deref().map(|trouble| (trouble, again)),
            behind_command: occupied_since.filter(|_| self.asked_until.is_none()).map(|at| at.max(self.due)),
            remark: self.remark(),
        }
    }
}

/// Whether a notification is newer than another (RFC 7641 §3.4).
fn is_newer((old, old_at): (u32, Instant), (new, new_at): (u32, Instant)) -> bool {
    const HALF: u32 = 1 << 23;
    old < new && new - old < HALF
        || old > new && old - new > HALF
        || new_at.saturating_duration_since(old_at) > COMPARABLE
}

#[derive(Debug, Default)]
struct Device {
    items: Vec<Item>,
    /// The association over which it was asked last.
    peer: Option<PeerId>,
    /// Its place in the order of time.
    due: Option<Instant>,
    /// What is due waits for a command since then.
    occupied_since: Option<Instant>,
    /// How many changes of the association may be followed at once, and since when one more was
    /// earned.
    changes: Option<(u32, Instant)>,
}

impl Device {
    fn views(&self) -> impl Iterator<Item = ServedView<'_>> {
        self.items.iter().map(|item| item.view(self.occupied_since))
    }

    /// Whether a change of the association is followed now.
    fn may_change(&mut self, now: Instant) -> bool {
        // The first association is no change, and neither is one after the last has ended.
        if self.peer.is_none() {
            return true;
        }
        let (left, since) = self.changes.unwrap_or((CHANGES_MAX, now));
        let earned = now.saturating_duration_since(since).as_secs() / PAUSE.as_secs();
        let (left, since) = match u32::try_from(earned).unwrap_or(u32::MAX) {
            0 => (left, since),
            earned => (left.saturating_add(earned).min(CHANGES_MAX), now),
        };
        self.changes = Some((left.saturating_sub(1), since));
        left > 0
    }

    fn item_of(&mut self, number: u64) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.number == number)
    }
}

/// All that is asked of devices.
#[derive(Debug)]
pub struct Served {
    settings: ServedSettings,
    devices: HashMap<Name, Device>,
    /// Whose resource each number is.
    numbers: HashMap<u64, Name>,
    /// When something of a device is due.
    due: BTreeSet<(Instant, Name)>,
    next_number: u64,
    random: SplitMix64,
    counts: ServedCounts,
    /// Numbers of which nothing more is wanted.
    forgotten: Vec<u64>,
}

impl Served {
    /// Nothing is asked yet. `seed` spreads what would be asked at once.
    pub fn new(settings: &ServedSettings, seed: u64) -> Served {
        Served {
            settings: settings.clone(),
            devices: HashMap::new(),
            numbers: HashMap::new(),
            due: BTreeSet::new(),
            next_number: 0,
            random: SplitMix64::new(seed),
            counts: ServedCounts::default(),
            forgotten: Vec::new(),
        }
    }

    /// Whether anything is to be asked for.
    pub fn is_wanted(&self) -> bool {
        self.settings.is_wanted()
    }

    /// Numbers since the start.
    pub fn counts(&self) -> ServedCounts {
        self.counts
    }

    /// Takes over what a reload changed; `role_of` says which devices there are. What is as before
    /// goes on; a pause is over.
    pub fn replace(
        &mut self,
        now: Instant,
        settings: &ServedSettings,
        mut role_of: impl FnMut(&Name) -> Option<Name>,
    ) {
        self.settings = settings.clone();
        let devices = std::mem::take(&mut self.devices);
        self.due.clear();
        for (name, mut device) in devices {
            let role = role_of(&name);
            let paths = role.map_or(&[][..], |role| settings.of(&name, &role));
            let mut before = std::mem::take(&mut device.items);
            for path in paths {
                let same = before.iter().position(|item| item.path == *path);
                let mut item = match same {
                    Some(at) => before.remove(at),
                    None => self.item(now, &name, path),
                };
                if item.trouble.is_some() && item.asked_until.is_none() {
                    (item.due, item.pause) = (now, Duration::ZERO);
                }
                device.items.push(item);
            }
            for mut item in before {
                self.numbers.remove(&item.number);
                if item.rest() {
                    self.forgotten.push(item.number);
                }
            }
            if !device.items.is_empty() {
                device.due = None;
                self.devices.insert(name.clone(), device);
                self.schedule(&name);
            }
        }
    }

    fn item(&mut self, now: Instant, name: &Name, path: &ServedPath) -> Item {
        self.next_number += 1;
        self.numbers.insert(self.next_number, name.clone());
        Item::new(now, path.clone(), self.next_number)
    }

    /// A device has spoken, or has an association again; `role` is asked for if it is not known.
    pub fn handle_contact(
        &mut self,
        now: Instant,
        name: &Name,
        peer: PeerId,
        role: impl FnOnce() -> Option<Name>,
        asker: &mut impl Asker,
    ) {
        self.meet(now, name, peer, role);
        self.forget(asker);
        let Some(device) = self.devices.get_mut(name) else { return };
        for item in &mut device.items {
            if item.early.is_some_and(|early| early <= now) {
                (item.due, item.early) = (item.due.min(now), None);
            }
        }
        self.offer(now, name, asker);
    }

    /// A device has an association already, from the process before, or before a reload that wants
    /// something of it: it is asked within half a minute, or when it speaks, so that not all are at
    /// once.
    pub fn handle_found(
        &mut self,
        now: Instant,
        name: &Name,
        peer: PeerId,
        role: impl FnOnce() -> Option<Name>,
    ) {
        if self.devices.get(name).is_some_and(|device| device.peer == Some(peer)) {
            return;
        }
        self.meet(now, name, peer, role);
        let later = now + self.random.up_to(SPREAD_MAX);
        let Some(device) = self.devices.get_mut(name) else { return };
        for item in &mut device.items {
            (item.due, item.early) = (item.due.max(later), Some(now));
        }
        self.schedule(name);
    }

    /// A device has this association.
    fn meet(&mut self, now: Instant, name: &Name, peer: PeerId, role: impl FnOnce() -> Option<Name>) {
        if !self.devices.contains_key(name) {
            let Some(role) = role() else { return };
            let paths = self.settings.of(name, &role).to_vec();
            if paths.is_empty() {
                return;
            }
            let items = paths.iter().map(|path| self.item(now, name, path)).collect();
            self.devices.insert(name.clone(), Device { items, ..Device::default() });
        }
        let device = self.devices.get_mut(name).filter(|device| device.peer != Some(peer));
        let Some(device) = device.and_then(|device| device.may_change(now).then_some(device)) else {
            return;
        };
        device.peer = Some(peer);
        for item in &mut device.items {
            let was_asleep = item.early.is_some();
            if item.rest() {
                self.forgotten.push(item.number);
                item.due = now;
            } else if was_asleep || item.trouble.is_none() && item.path.manner == Manner::Observe {
                item.due = item.due.min(now);
            }
        }
    }

    /// Asks the device for what is due, if it can be asked now.
    pub fn offer(&mut self, now: Instant, name: &Name, asker: &mut impl Asker) {
        let Some(device) = self.devices.get_mut(name) else { return };
        let is_free = device.items.iter().all(|item| item.asked_until.is_none());
        let next = device.items.iter_mut().filter(|item| item.due <= now).min_by_key(|item| item.due);
        let Some(item) = next.filter(|_| is_free) else { return self.schedule(name) };
        if asker.is_occupied(name) {
            device.occupied_since.get_or_insert(now);
            return self.schedule_at(name, now + SHORTLY);
        }
        device.occupied_since = None;
        let Some(peer) = asker.reach(now, name) else { return self.unschedule(name) };
        if device.peer != Some(peer) {
            // It will have spoken over it: then it is asked.
            return self.unschedule(name);
        }
        match asker.ask(now, name, item.number, &item.path) {
            Ok(()) => {
                self.counts.asked += 1;
                item.asked += 1;
                item.asked_until = Some(now + WHOLE_WITHIN);
                self.schedule(name);
            }
            // The other is said of notifications only.
            Err(NotSent::Busy | NotSent::OtherFormat) => self.schedule_at(name, now + SHORTLY),
            Err(NotSent::Unreachable) => self.unschedule(name),
            Err(NotSent::Never(why)) => {
                self.counts.failed += 1;
                item.pause(now, why);
                self.schedule(name);
            }
        }
    }

    /// What became of a GET, but for what the device said.
    pub fn handle_told(&mut self, now: Instant, number: u64, told: Told) {
        let Some(name) = self.numbers.get(&number).cloned() else { return };
        let Some(device) = self.devices.get_mut(&name) else { return };
        if told == Told::Gone {
            device.peer = None;
        }
        let Some(item) = device.item_of(number) else { return };
        let trouble = match told {
            Told::Acknowledged => {
                item.asked_until = item.asked_until.map(|until| until.min(now + ANSWER_WITHIN));
                return self.schedule(&name);
            }
            Told::Gone | Told::Unsent => None,
            Told::Unanswered => Some("the device did not acknowledge the GET".to_owned()),
            Told::Rejected => Some("the device rejects the GET (Reset)".to_owned()),
            Told::Answered(ref outcome) | Told::Failed(ref outcome) => {
                Some(String::from_utf8_lossy(&outcome.payload).into_owned())
            }
        };
        item.rest();
        match trouble {
            None => item.due = now,
            Some(trouble) => {
                self.counts.failed += 1;
                item.pause(now, trouble);
            }
        }
        if told == Told::Unanswered {
            item.early = Some(now + PAUSE);
        }
        self.schedule(&name);
    }

    /// What a device said.
    pub fn handle_said(&mut self, now: Instant, number: u64, said: &Said) -> Verdict {
        let Some(name) = self.numbers.get(&number).cloned() else { return Verdict::Reject };
        let Some(item) = self.devices.get_mut(&name).and_then(|device| device.item_of(number)) else {
            return Verdict::Reject;
        };
        let is_answer = said.kind != NoticeKind::Notification;
        if is_answer {
            item.asked_until = None;
        }
        let is_observed = item.path.manner == Manner::Observe;
        let verdict = if said.code != Code::CONTENT {
            item.rest();
            item.pause(now, said.trouble(&item.path));
            self.counts.failed += 1;
            Verdict::Drop
        } else if said.partial {
            // The relation goes on, if there is one.
            if said.observe.is_some() {
                item.since.get_or_insert(now);
            } else {
                item.rest();
            }
            item.pause(now, said.trouble(&item.path));
            self.counts.failed += 1;
            Verdict::Drop
        } else if let Some(sequence) = said.observe.filter(|_| is_observed) {
            let newest = (sequence, now);
            if !is_answer {
                item.note_number(sequence);
            }
            let is_renewal = said.kind == NoticeKind::Piggybacked;
            if !is_renewal && item.newest.is_some_and(|old| !is_newer(old, newest)) {
                self.counts.stale += 1;
                if is_answer {
                    item.due = item.due.max(now + FRESH_MIN);
                }
                Verdict::Drop
            } else {
                item.newest = Some(newest);
                item.since.get_or_insert(now);
                let fresh = Duration::from_secs(said.max_age_s.into()).clamp(FRESH_MIN, FRESH_MAX);
                let spread = Duration::from_secs(5) + self.random.up_to(Duration::from_secs(10));
                (item.due, item.early) = (now + fresh + spread, None);
                item.trouble = None;
                Verdict::Take
            }
        } else if is_observed {
            item.rest();
            item.pause(now, "the device answers without Observe: it is asked again and again");
            Verdict::Take
        } else {
            item.rest();
            (item.pause, item.early, item.trouble) = (Duration::ZERO, None, None);
            let Manner::Poll { every } = item.path.manner else { return Verdict::Drop };
            let spread = self.random.up_to((every / 10).min(SPREAD_MAX));
            // From when it was due, so that the answers' time does not add up.
            let rhythm = item.due + every;
            item.due = if rhythm > now { rhythm } else { now + every };
            if item.asked == 1 {
                item.due += spread;
            }
            Verdict::Take
        };
        self.schedule(&name);
        verdict
    }

    /// What became of a value of this resource, the notification with this number: how it is
    /// answered if it was confirmable.
    pub fn handle_taken(
        &mut self,
        now: Instant,
        number: u64,
        sequence: Option<u32>,
        taken: Taken,
    ) -> Receipt {
        let Some(name) = self.numbers.get(&number).cloned() else { return Receipt::Reset };
        let Some(item) = self.devices.get_mut(&name).and_then(|device| device.item_of(number)) else {
            return Receipt::Reset;
        };
        let why = match taken {
            Taken::Passed => {
                self.counts.values += 1;
                item.values += 1;
                item.value_at = Some(now);
                sequence.into_iter().for_each(|sequence| item.note_stored(now, sequence));
                if item.since.is_some_and(|since| now.saturating_duration_since(since) >= GOOD) {
                    item.pause = Duration::ZERO;
                }
                return Receipt::Acknowledge;
            }
            Taken::Unstored => {
                item.newest = item.stored;
                item.due = item.due.min(now + PAUSE);
                item.trouble = Some("the journal did not take the last value".to_owned());
                self.schedule(&name);
                return Receipt::Nothing;
            }
            Taken::OverQuota => {
                item.over_quota += 1;
                item.newest = item.stored;
                if now.saturating_duration_since(item.refused.0) >= MINUTE {
                    item.refused = (now, 0);
                }
                item.refused.1 += 1;
                if item.refused.1 <= OVER_QUOTA_MAX {
                    return Receipt::Nothing;
                }
                format!("more than {OVER_QUOTA_MAX} values in a minute were over the quota of the device")
            }
            Taken::Refused(why) => why,
        };
        if item.rest() {
            self.forgotten.push(number);
        }
        self.counts.failed += 1;
        item.refused = (now, 0);
        item.pause(now, why);
        self.schedule(&name);
        Receipt::Reset
    }

    /// Acts on deadlines; once a second.
    pub fn handle_timeout(&mut self, now: Instant, asker: &mut impl Asker) {
        while let Some((at, name)) = self.due.first().cloned().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, name.clone()));
            let Some(device) = self.devices.get_mut(&name) else { continue };
            device.due = None;
            for item in &mut device.items {
                if item.asked_until.is_some_and(|until| until <= now) {
                    item.rest();
                    item.pause(now, "the device acknowledged the GET and did not answer in time");
                    self.counts.failed += 1;
                    self.forgotten.push(item.number);
                }
            }
            self.forget(asker);
            self.offer(now, &name, asker);
            // What is still due is asked for when the device speaks, or shortly.
            if self.devices.get(&name).and_then(|device| device.due).is_some_and(|due| due <= now) {
                self.schedule_at(&name, now + SHORTLY);
            }
        }
    }

    /// A number of which nothing more is wanted. To be called until `None` after
    /// [`Served::replace`] and [`Served::handle_taken`], before anything else is asked.
    pub fn poll_forgotten(&mut self) -> Option<u64> {
        self.forgotten.pop()
    }

    fn forget(&mut self, asker: &mut impl Asker) {
        self.forgotten.drain(..).for_each(|number| asker.forget(number));
    }

    /// The next moment at which [`Served::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Which resource of which device has this number.
    pub fn find(&self, number: u64) -> Option<(&Name, &ServedPath)> {
        let name = self.numbers.get(&number)?;
        let items = &self.devices.get(name)?.items;
        items.iter().find(|item| item.number == number).map(|item| (name, &item.path))
    }

    /// What is asked of a device; empty where it was not heard yet.
    pub fn view(&self, device: &Name) -> impl Iterator<Item = ServedView<'_>> {
        self.devices.get(device).into_iter().flat_map(Device::views)
    }

    /// What is asked of all devices that were heard.
    pub fn views(&self) -> impl Iterator<Item = (&Name, ServedView<'_>)> {
        self.devices.iter().flat_map(|(name, device)| device.views().map(move |view| (name, view)))
    }

    /// What is configured for a device of this role.
    pub fn paths(&self, device: &Name, role: &Name) -> &[ServedPath] {
        self.settings.of(device, role)
    }

    fn schedule(&mut self, name: &Name) {
        let Some(device) = self.devices.get(name) else { return };
        let asked = device.items.iter().find_map(|item| item.asked_until);
        let next = asked.or_else(|| device.items.iter().map(|item| item.due).min());
        match next {
            Some(at) => self.schedule_at(name, at),
            None => self.unschedule(name),
        }
    }

    fn schedule_at(&mut self, name: &Name, at: Instant) {
        if self.devices.get(name).is_none_or(|device| device.due == Some(at)) {
            return;
        }
        self.unschedule(name);
        if let Some(device) = self.devices.get_mut(name) {
            device.due = Some(at);
            self.due.insert((at, name.clone()));
        }
    }

    fn unschedule(&mut self, name: &Name) {
        if let Some(device) = self.devices.get_mut(name)
            && let Some(due) = device.due.take()
        {
            self.due.remove(&(due, name.clone()));
        }
    }
}
