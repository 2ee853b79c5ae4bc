//! Whose fault is it, the record's or the broker's? A record is judged only against others.
//!
//! ```text
//!              refused, closed on, or silent
//!   in order ────────────────────────────────> suspect ──taken──> acquitted
//!                                                │  ^
//!       another topic taken, sent after it       v  │ a newcomer of another topic was refused too:
//!                                            tried again, struck    the strike counts for nothing
//!                                                │
//!       another topic taken, sent after that     v
//!                                             confirmed ──enough──> condemned: set aside with its cause
//! ```
//!
//! | invariant | by |
//! |---|---|
//! | no code, no close and no silence condemns a record unless a reading on another topic is taken meanwhile | a strike counts only with such a reading sent after the strike before it, and is confirmed by one sent after itself |
//! | what refuses everything accuses nobody | without another reading taken a suspect is only tried again, 1 s to 5 min apart; where most were refused, all go back to their order once |
//! | what happens while readings come and go does not count | a newcomer on another topic refused in between voids every unconfirmed strike |
//! | rates and silence are the broker's until proven otherwise | quota codes and silence are tried alone in flight, after a pause |
//! | a broker that refuses at random accuses nobody | each record that was refused among others, and taken when it was sent again, makes the broker less credible, and three more strikes necessary; that fades by half in five minutes |
//!
//! Three confirmed strikes condemn a record. Two exceptions, both for want of witnesses. Where no
//! other traffic comes, four strikes in a row, 1, 2 and 4 s apart, do, if as many others were taken
//! as topics are suspected. Where a gateway has one topic only, ten refusals by PUBACK, 1 s to 5
//! min apart, each with another record of that topic taken in between, condemn too
//! (docs/decisions/0018-whose-fault.md).
//!
//! **Topics.** A topic of which two records were refused, none taken in between, is *gated*: its
//! newcomers wait, and one of them at a time is tried. When three of its records were condemned one
//! by one, the newest that waits is tried for all: taken, it opens the topic, and its next
//! confirmed strike condemns all that wait. Where the answers are about what the records contain
//! (0x80, 0x83, 0x95, 0x99), none speaks for others: the topic is open again, and each is condemned
//! by the second refusal of its own.
//!
//! Readings are numbered as they are sent (their *send number*), and topics known by hash; nothing
//! here reads a clock, a record, or the network. Bounds: 1,024 suspects, 1,024 topics.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::time::{Duration, Instant};

use super::reason_code::Cause;

/// Confirmed strikes that condemn.
const STRIKES: u8 = 3;
/// Strikes in a row, without others being sent, that condemn like confirmed ones.
const LONELY_STRIKES: u8 = 4;
/// More strikes for each record that was refused among others and taken afterwards, and for how
/// many of these.
const STRIKES_FOR_WHIMS: f64 = 3.0;
const WHIMS_MAX: f64 = 10.0;
/// After so long such a record counts half.
const WHIMS_FADE: Duration = Duration::from_secs(300);
/// Refusals by PUBACK with others of the same topic taken in between that condemn.
const SAME_TOPIC_STRIKES: u8 = 10;
/// Records of a topic condemned one by one before all that wait are condemned with the next.
const GROUP: u32 = 3;
/// Newcomers refused in a row, none taken in between, from which on the broker is at fault.
const MASS: u32 = 8;
/// For so long nothing was taken: what was concluded of topics meanwhile may be the broker's fault.
const LONG: Duration = Duration::from_secs(10);
/// Between two trials of one record, or of one topic.
const SPACING: Duration = Duration::from_secs(1);
/// Between two trials of a topic all of whose records are condemned, at most.
const TOPIC_SPACING_MAX: Duration = Duration::from_secs(15);
/// Between two trials of a record that is not answered.
const SILENT_SPACING: Duration = Duration::from_secs(60);
/// The same for a topic that is not answered: each trial holds the connection up.
const SILENT_SPACING_MAX: Duration = Duration::from_secs(300);
/// Between newcomers while the broker refuses everything, at first;
const FIRST_PAUSE: Duration = Duration::from_millis(125);
/// at most.
const NEWCOMER_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Between two trials while nothing is taken, at most.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A gated topic without a record is forgotten after so long.
const FORGET: Duration = Duration::from_secs(3600);
const SUSPECTS_MAX: usize = 1024;
const TOPICS_MAX: usize = 1024;

/// A topic, as far as it must be told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicKey(u64);

impl TopicKey {
    /// Of a topic's text.
    pub fn of(topic: &str) -> TopicKey {
        TopicKey(BuildHasherDefault::<DefaultHasher>::default().hash_one(topic))
    }
}

/// Where a record is: its lane's index and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordPlace {
    /// By [`crate::message::Lane::index`].
    pub lane: usize,
    /// Its sequence.
    pub sequence: u64,
}

/// How a suspect is to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Among others: an answer names its record.
    Among,
    /// With nothing else in flight: a close names nobody.
    Alone,
    /// With nothing else in flight, after a pause: rates and silence.
    Quiet,
}

/// What is to be done with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It goes back to its place in the lane's order.
    Release(RecordPlace),
    /// It is set aside for good.
    Condemn(RecordPlace, Cause),
    /// Records on that topic that wait go back to their places.
    Open(TopicKey),
    /// Records on that topic that waited when the last of them was sent under this number are set
    /// aside with this cause.
    CondemnWaiting(TopicKey, Cause, u64),
    /// A record on that topic that waits is to be put on trial, by [`Suspicion::accuse`]: the
    /// oldest, or, if `true`, the newest.
    Promote(TopicKey, bool),
    /// The broker takes readings again after it refused everything: they are to begin one by one.
    Resume,
}

#[derive(Debug)]
struct Suspect {
    place: RecordPlace,
    topic: TopicKey,
    cause: Cause,
    /// Send number of its last refusal.
    since: u64,
    /// A reading on another topic, sent after `since`, was taken.
    evidence: bool,
    /// A reading on the same topic, sent after `since`, was taken.
    same: bool,
    /// The last strike waits to be confirmed.
    pending: bool,
    confirmed: u8,
    /// Strikes in a row of which only the first had evidence.
    lonely: u8,
    same_strikes: u8,
    tries: u32,
    tried_at: Instant,
    due: Instant,
    in_flight: bool,
    /// Put on trial for its topic, and not refused yet.
    fresh: bool,
    /// Whether it was the only newcomer refused between two that were taken; `None`: not known yet.
    singled_out: Option<bool>,
    /// Sent back to its place in the order once: not tried out of it until refused again.
    in_order: bool,
    was_in_order: bool,
}

impl Suspect {
    fn manner(&self) -> Manner {
        match self.cause {
            Cause::Closed => Manner::Alone,
            cause if cause.is_quota() => Manner::Quiet,
            _ => Manner::Among,
        }
    }
}

#[derive(Debug)]
struct Doubt {
    name: Option<Box<str>>,
    /// Records refused since one was taken.
    row: u32,
    /// Records condemned since a reading on it was taken, and groups of them.
    condemned: u32,
    /// The last refusal: its cause and send number.
    cause: Cause,
    since: u64,
    touched: Instant,
}

impl Doubt {
    fn is_gated(&self) -> bool {
        self.row >= 2 && !self.judges_each()
    }

    /// Enough of its records were condemned for what they contain: each is judged for itself.
    fn judges_each(&self) -> bool {
        self.condemned >= GROUP && self.cause.is_about_content()
    }
}

/// A suspect as `tombolo status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectView {
    /// Which record.
    pub place: RecordPlace,
    /// Its topic, once a trial has shown it.
    pub topic: Option<String>,
    /// Why it is suspected.
    pub cause: Cause,
    /// How often it was tried again.
    pub tries: u32,
}

/// The suspects and the evidence.
#[derive(Debug)]
pub struct Suspicion {
    suspects: Vec<Suspect>,
    topics: BTreeMap<TopicKey, Doubt>,
    /// The newest send numbers taken on two topics.
    latest: [Option<(TopicKey, u64)>; 2],
    /// Newcomers refused since a reading was taken.
    row: u32,
    /// Since when none was taken, if one was refused.
    nothing_taken_since: Option<Instant>,
    /// Readings taken since there are suspects.
    taken: u32,
    /// Records that were refused among others and taken afterwards, faded; and when that was
    /// reckoned.
    whims: (f64, Instant),
    pause_until: Option<Instant>,
    /// Pauses since a reading was taken, and newcomers refused since the last of them.
    pauses: u32,
    since_pause: u32,
    throttles: u32,
    retry_step: u32,
    retry_at: Instant,
    rulings: VecDeque<Ruling>,
}

impl Suspicion {
    /// Nobody is suspected.
    pub fn new(now: Instant) -> Suspicion {
        Suspicion {
            suspects: Vec::new(),
            topics: BTreeMap::new(),
            latest: [None; 2],
            row: 0,
            nothing_taken_since: None,
            taken: 0,
            whims: (0.0, now),
            pause_until: None,
            pauses: 0,
            since_pause: 0,
            throttles: 0,
            retry_step: 0,
            retry_at: now,
            rulings: VecDeque::new(),
        }
    }

    /// Whether nothing is suspected, so that a refusal is the first.
    pub fn is_idle(&self) -> bool {
        self.suspects.is_empty() && self.topics.is_empty() && self.nothing_taken_since.is_none()
    }

    fn position(&self, place: RecordPlace) -> Option<usize> {
        self.suspects.iter().position(|suspect| suspect.place == place)
    }

    /// Whether this record is suspected.
    pub fn is_suspect(&self, place: RecordPlace) -> bool {
        self.position(place).is_some()
    }

    /// Whether newcomers on that topic wait until one of its records is taken.
    pub fn is_gated(&self, topic: TopicKey) -> bool {
        self.topics.get(&topic).is_some_and(Doubt::is_gated)
    }

    /// Whether a record on that topic is on trial.
    pub fn has_defendant(&self, topic: TopicKey) -> bool {
        self.suspects.iter().any(|suspect| suspect.topic == topic)
    }

    /// Remembers what a doubted topic is called, for people.
    pub fn name(&mut self, topic: TopicKey, name: &str) {
        if let Some(doubt) = self.topics.get_mut(&topic) {
            doubt.name.get_or_insert_with(|| name.into());
        }
    }

    /// What a doubted topic is called, if a trial has shown it.
    pub fn topic_name(&self, topic: TopicKey) -> Option<&str> {
        self.topics.get(&topic)?.name.as_deref()
    }

    /// The broker took the reading sent under the number `serial`.
    pub fn handle_taken(&mut self, now: Instant, place: RecordPlace, topic: TopicKey, serial: u64) {
        self.note_latest(topic, serial);
        if self.is_idle() {
            return;
        }
        let mass = self.row >= MASS;
        let long = self.nothing_taken_since.is_some_and(|since| now.saturating_duration_since(since) >= LONG);
        if self.row > 0 {
            for suspect in self.suspects.iter_mut().filter(|suspect| suspect.singled_out.is_none()) {
                suspect.singled_out = Some(true);
            }
        }
        self.row = 0;
        (self.pauses, self.since_pause) = (0, 0);
        self.nothing_taken_since = None;
        self.pause_until = None;
        self.throttles = 0;
        self.retry_step = 0;
        self.retry_at = now;
        self.taken = self.taken.saturating_add(1);
        if let Some(index) = self.position(place) {
            let suspect = self.suspects.swap_remove(index);
            let refused_among_others = u8::from(suspect.singled_out == Some(true)) + suspect.confirmed;
            self.note_whims(now, f64::from(refused_among_others));
            // What refused it is perhaps over for others too.
            for other in self.suspects.iter_mut().filter(|other| other.cause == suspect.cause) {
                other.due = other.due.min(now + SPACING);
            }
        }
        if let Some(doubt) = self.topics.get_mut(&topic) {
            let was_gated = doubt.is_gated();
            (doubt.row, doubt.condemned) = (0, 0);
            if was_gated {
                self.open(topic);
            }
            if !self.suspects.iter().any(|suspect| suspect.topic == topic) {
                self.topics.remove(&topic);
            }
        }
        for suspect in self.suspects.iter_mut().filter(|suspect| serial > suspect.since) {
            if suspect.topic == topic {
                suspect.same = true;
                continue;
            }
            if std::mem::take(&mut suspect.pending) {
                suspect.confirmed += 1;
            }
            if !suspect.evidence {
                suspect.evidence = true;
                suspect.lonely = 0;
                // A trial that is not answered holds a small window up for as long as its answer is
                // waited for.
                let spacing = if suspect.cause == Cause::Silent { SILENT_SPACING } else { SPACING };
                suspect.due = suspect.due.min(suspect.tried_at + spacing).max(now);
            }
        }
        self.condemn_confirmed(now);
        if mass {
            self.resume(now);
        } else if long {
            self.open_all(now);
        }
        self.note_emptiness();
    }

    fn note_latest(&mut self, topic: TopicKey, serial: u64) {
        let [first, second] = &mut self.latest;
        match first {
            Some((known, newest)) if *known == topic => *newest = serial.max(*newest),
            _ => {
                // Only the newest of each topic matters, and of topics the newest two.
                *second = first.replace((topic, serial));
            }
        }
    }

    /// Whether a reading on another topic, sent after `serial`, was taken.
    fn another_taken_after(&self, topic: TopicKey, serial: u64) -> bool {
        self.latest.iter().flatten().any(|(known, newest)| *known != topic && *newest > serial)
    }

    fn note_whims(&mut self, now: Instant, more: f64) {
        let whims = (self.whims(now) + more).min(WHIMS_MAX);
        self.whims = (whims, now);
    }

    fn whims(&self, now: Instant) -> f64 {
        let (whims, at) = self.whims;
        let passed = now.saturating_duration_since(at).as_secs_f64();
        whims * 0.5f64.powf(passed / WHIMS_FADE.as_secs_f64())
    }

    /// Strikes needed beyond the ordinary, because the broker is not credible.
    fn more_needed(&self, now: Instant) -> u8 {
        (self.whims(now) * STRIKES_FOR_WHIMS) as u8
    }

    fn needed(&self, now: Instant, suspect: &Suspect) -> u8 {
        let more = self.more_needed(now);
        let one_for_all = more == 0
            && !suspect.cause.is_quota_code()
            && self.topics.get(&suspect.topic).is_some_and(|doubt| doubt.condemned >= GROUP);
        if one_for_all { 1 } else { STRIKES + more }
    }

    fn condemn_confirmed(&mut self, now: Instant) {
        while let Some(index) = self.suspects.iter().position(|suspect| {
            !suspect.in_flight && suspect.confirmed > 0 && suspect.confirmed >= self.needed(now, suspect)
        }) {
            self.condemn(now, index);
        }
    }

    fn condemn(&mut self, now: Instant, index: usize) {
        let Suspect { place, topic, cause, since, .. } = self.suspects.swap_remove(index);
        self.rulings.push_back(Ruling::Condemn(place, cause));
        let Some(doubt) = self.topics.get_mut(&topic) else { return };
        let was_gated = doubt.is_gated();
        let group = doubt.condemned >= GROUP && was_gated && !cause.is_quota_code();
        doubt.condemned += 1;
        doubt.touched = now;
        if was_gated && doubt.judges_each() {
            return self.open(topic);
        }
        if group {
            let rulings = &mut self.rulings;
            self.suspects.retain(|other| {
                let stays = other.topic != topic || other.in_flight || other.fresh;
                if !stays {
                    rulings.push_back(Ruling::Condemn(other.place, cause));
                }
                stays
            });
            self.rulings.push_back(Ruling::CondemnWaiting(topic, cause, since));
        }
        self.promote(topic);
    }

    /// Has another record of a gated topic tried, if none is.
    fn promote(&mut self, topic: TopicKey) {
        let Some(doubt) = self.topics.get(&topic).filter(|doubt| doubt.is_gated()) else { return };
        // One that speaks for all is to show how things are now.
        let newest = doubt.condemned >= GROUP;
        if !self.has_defendant(topic) {
            self.rulings.push_back(Ruling::Promote(topic, newest));
        }
    }

    /// The broker refused everything and takes readings again: whoever was never tried against
    /// others begins anew.
    fn resume(&mut self, now: Instant) {
        for suspect in &mut self.suspects {
            // What is not answered, or too much, would only take the places of what is.
            let is_quota = suspect.cause.is_quota();
            if suspect.confirmed == 0 && !suspect.was_in_order && !suspect.in_flight && !is_quota {
                (suspect.in_order, suspect.was_in_order) = (true, true);
                self.rulings.push_back(Ruling::Release(suspect.place));
            }
        }
        self.open_all(now);
        self.rulings.push_back(Ruling::Resume);
    }

    /// While nothing was taken no topic could show that it is not at fault: what waits for that
    /// goes back to its order.
    fn open_all(&mut self, now: Instant) {
        let mut opened = Vec::new();
        for (topic, doubt) in &mut self.topics {
            if doubt.is_gated() && doubt.condemned == 0 {
                (doubt.row, doubt.touched) = (0, now);
                opened.push(*topic);
            }
        }
        opened.into_iter().for_each(|topic| self.open(topic));
    }

    /// What waits on that topic goes back to its order, with the one that stands for it if that was
    /// not refused itself.
    fn open(&mut self, topic: TopicKey) {
        let rulings = &mut self.rulings;
        self.suspects.retain(|suspect| {
            let goes = suspect.fresh && !suspect.in_flight && suspect.topic == topic;
            if goes {
                rulings.push_back(Ruling::Release(suspect.place));
            }
            !goes
        });
        rulings.push_back(Ruling::Open(topic));
    }

    /// The reading sent under the number `serial` was refused, the broker closed the connection
    /// over it with nothing else in flight, or it stayed unanswered. `of_topic`: meanwhile others
    /// are taken and nothing of its topic, so that it says nothing about the broker. Whether it is
    /// a suspect now; otherwise there are too many, and it waits until there are fewer.
    pub fn handle_refused(
        &mut self,
        now: Instant,
        place: RecordPlace,
        topic: TopicKey,
        serial: u64,
        cause: Cause,
        of_topic: bool,
    ) -> bool {
        let was_gated = self.is_gated(topic);
        let known = self.is_suspect(place);
        self.doubt(now, topic, serial, cause, !known);
        if let Some(index) = self.position(place) {
            self.strike(now, index, serial, cause);
            return true;
        }
        // A topic whose records are known to be refused says nothing about the broker.
        let known_topic = of_topic || self.topics.get(&topic).is_some_and(Doubt::judges_each);
        let was_alone = self.row == 0;
        if !was_alone {
            for other in self.suspects.iter_mut().filter(|other| other.singled_out.is_none()) {
                other.singled_out = Some(false);
            }
        }
        if !known_topic {
            self.row = self.row.saturating_add(1);
            self.nothing_taken_since.get_or_insert(now);
        }
        if !known_topic {
            self.pause_newcomers(now);
        }
        if !was_gated && !known_topic && self.row >= 3 {
            // It is not only the suspects that are refused.
            for other in self.suspects.iter_mut().filter(|other| other.topic != topic) {
                other.pending = false;
                other.lonely = 0;
            }
        }
        if self.suspects.len() >= SUSPECTS_MAX {
            return false;
        }
        let evidence = self.another_taken_after(topic, serial);
        self.suspects.push(Suspect {
            place,
            topic,
            cause,
            since: serial,
            evidence,
            same: false,
            pending: false,
            confirmed: 0,
            lonely: 0,
            same_strikes: 0,
            tries: 0,
            tried_at: now,
            due: if evidence { now } else { now + SPACING },
            in_flight: false,
            fresh: false,
            singled_out: if was_alone { None } else { Some(false) },
            in_order: false,
            was_in_order: false,
        });
        true
    }

    /// A newcomer was refused: after enough of them all pause. A few go after each pause, because
    /// where most are refused for themselves one of them is taken; what was in flight when it began
    /// does not make it longer.
    fn pause_newcomers(&mut self, now: Instant) {
        if self.row < MASS || self.pause_until.is_some_and(|until| now < until) {
            return;
        }
        self.since_pause += 1;
        if self.pauses == 0 || self.since_pause >= MASS || self.pauses > 8 {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16)).min(NEWCOMER_PAUSE_MAX);
            self.pause_until = Some(now + pause);
            (self.pauses, self.since_pause) = (self.pauses + 1, 0);
        }
    }

    fn doubt(&mut self, now: Instant, topic: TopicKey, serial: u64, cause: Cause, another: bool) {
        if self.topics.len() >= TOPICS_MAX && !self.topics.contains_key(&topic) {
            self.forget_topics(now, Duration::ZERO);
            if self.topics.len() >= TOPICS_MAX {
                return;
            }
        }
        let doubt = self.topics.entry(topic).or_insert(Doubt {
            name: None,
            row: 0,
            condemned: 0,
            cause,
            since: serial,
            touched: now,
        });
        let was_gated = doubt.is_gated();
        doubt.row = doubt.row.saturating_add(u32::from(another));
        doubt.cause = cause;
        doubt.since = doubt.since.max(serial);
        doubt.touched = now;
        if was_gated && !doubt.is_gated() {
            self.open(topic);
        }
    }

    fn forget_topics(&mut self, now: Instant, after: Duration) {
        let suspects = &self.suspects;
        self.topics.retain(|topic, doubt| {
            now.saturating_duration_since(doubt.touched) < after
                || suspects.iter().any(|suspect| suspect.topic == *topic)
        });
    }

    fn strike(&mut self, now: Instant, index: usize, serial: u64, cause: Cause) {
        // A newcomer was refused since a reading was taken: it may be the broker.
        let fair = self.row == 0;
        let more = self.more_needed(now);
        let suspect = &mut self.suspects[index];
        suspect.in_flight = false;
        suspect.fresh = false;
        suspect.in_order = false;
        suspect.cause = cause;
        suspect.since = serial;
        suspect.tries = suspect.tries.saturating_add(1);
        let by_answer = matches!(cause, Cause::Code(_)) && !cause.is_quota();
        if std::mem::take(&mut suspect.same) && by_answer {
            suspect.same_strikes += 1;
        }
        if !fair {
            suspect.lonely = 0;
        } else if std::mem::take(&mut suspect.evidence) {
            suspect.pending = true;
            suspect.lonely = 1;
        } else if suspect.lonely > 0 {
            suspect.lonely = suspect.lonely.saturating_add(1);
        }
        let back_off = |step: u32| SPACING.saturating_mul(1 << step.min(16)).min(RETRY_MAX);
        if suspect.lonely > 0 && !cause.is_quota() {
            suspect.due = now + back_off(u32::from(suspect.lonely) - 1);
        } else {
            suspect.due = now + back_off(suspect.tries - 1);
            self.retry_at = now + back_off(self.retry_step);
            self.retry_step += 1;
        }
        let topic = suspect.topic;
        let alone = suspect.lonely == 0;
        // What no timer sends again is not condemned without a witness.
        let lonely = suspect.lonely >= LONELY_STRIKES + more && !cause.is_quota() && !cause.is_definitive();
        let same = suspect.same_strikes >= SAME_TOPIC_STRIKES + more;
        if same || lonely && self.enough_taken() {
            self.condemn(now, index);
            self.note_emptiness();
        } else if alone && let Some(doubt) = self.topics.get(&topic).filter(|doubt| doubt.is_gated()) {
            // Perhaps it is only those that were tried.
            let newest = doubt.condemned >= GROUP;
            self.rulings.push_back(Ruling::Promote(topic, newest));
        }
    }

    /// Whether half as many readings at least were taken as topics are suspected.
    fn enough_taken(&self) -> bool {
        let topics: BTreeSet<_> = self.suspects.iter().map(|suspect| suspect.topic).collect();
        2 * self.taken as usize >= topics.len()
    }

    fn note_emptiness(&mut self) {
        if self.suspects.is_empty() {
            self.taken = 0;
        }
    }

    /// Puts a record of a gated topic on trial that was never sent. Whether it is a suspect now.
    pub fn accuse(&mut self, now: Instant, place: RecordPlace, topic: TopicKey) -> bool {
        let Some(doubt) = self.topics.get(&topic) else { return false };
        let cause = doubt.cause;
        if self.suspects.len() >= SUSPECTS_MAX {
            return false;
        }
        let longest = if cause == Cause::Silent { SILENT_SPACING_MAX } else { TOPIC_SPACING_MAX };
        let spacing = SPACING.saturating_mul(1 << doubt.condemned.min(16)).min(longest);
        let due = if doubt.condemned == 0 { now } else { now.max(doubt.touched + spacing) };
        let evidence = self.another_taken_after(topic, doubt.since);
        self.suspects.push(Suspect {
            place,
            topic,
            cause,
            since: doubt.since,
            evidence,
            same: false,
            pending: false,
            confirmed: 0,
            lonely: 0,
            same_strikes: 0,
            tries: 0,
            tried_at: now,
            due,
            in_flight: false,
            fresh: true,
            singled_out: Some(false),
            in_order: false,
            was_in_order: false,
        });
        true
    }

    /// A suspect that was sent back to its order is held again: its topic is gated.
    pub fn hold(&mut self, place: RecordPlace) {
        if let Some(index) = self.position(place) {
            self.suspects[index].in_order = false;
        }
    }

    /// The broker had too much for now, and nothing is to be sent for a while: longer each time,
    /// until a reading is taken.
    pub fn handle_throttled(&mut self, now: Instant) -> Option<Duration> {
        self.nothing_taken_since.get_or_insert(now);
        if self.pause_until.is_some_and(|until| now < until) {
            return None;
        }
        let pause = SPACING.saturating_mul(1 << self.throttles.min(16)).min(RETRY_MAX);
        self.throttles += 1;
        self.pause_until = Some(now + pause);
        Some(pause)
    }

    /// The next suspect to try at `now`, and how.
    pub fn next_trial(&self, now: Instant) -> Option<(RecordPlace, Manner)> {
        let due = self.suspects.iter().filter(|suspect| self.due(suspect).is_some_and(|at| at <= now));
        let first = due.min_by_key(|suspect| (suspect.due, suspect.place.sequence))?;
        Some((first.place, first.manner()))
    }

    fn due(&self, suspect: &Suspect) -> Option<Instant> {
        if suspect.in_flight || suspect.in_order {
            return None;
        }
        let judged = suspect.evidence || (suspect.lonely > 0 && !suspect.cause.is_quota());
        Some(if judged { suspect.due } else { suspect.due.max(self.retry_at) })
    }

    /// How many readings are to be taken on a connection before this suspect is tried on it:
    /// another number each time.
    pub fn company(&self, place: RecordPlace) -> u32 {
        self.position(place).map_or(0, |index| 1 + self.suspects[index].tries % 4)
    }

    /// Whether there is room for many more suspects.
    pub fn has_room(&self) -> bool {
        self.suspects.len() < SUSPECTS_MAX / 2
    }

    /// How many suspects are in flight.
    pub fn in_flight(&self) -> usize {
        self.suspects.iter().filter(|suspect| suspect.in_flight).count()
    }

    /// Whether so many newcomers were refused in a row that it is the broker.
    pub fn is_brokers_fault(&self) -> bool {
        self.row >= MASS
    }

    /// Pauses for too much since a reading was taken.
    pub fn throttles(&self) -> u32 {
        self.throttles
    }

    /// A suspect was sent.
    pub fn note_sent(&mut self, now: Instant, place: RecordPlace) {
        if let Some(index) = self.position(place) {
            let suspect = &mut self.suspects[index];
            suspect.in_flight = true;
            suspect.tried_at = now;
        }
    }

    /// A new connection: perhaps the broker is another, or has changed. One suspect may find that
    /// out at once.
    pub fn handle_open(&mut self, now: Instant) {
        (self.retry_step, self.retry_at, self.pause_until) = (0, now, None);
        let may =
            |suspect: &&mut Suspect| !suspect.in_flight && !suspect.in_order && !suspect.cause.is_quota();
        let waiting = self.suspects.iter_mut().filter(may);
        if let Some(first) = waiting.min_by_key(|suspect| (suspect.due, suspect.place.sequence)) {
            first.due = first.due.min(now + SPACING);
        }
    }

    /// Whether a reading on another topic was taken since this suspect was refused last.
    pub fn has_evidence(&self, place: RecordPlace) -> bool {
        self.position(place).is_some_and(|index| self.suspects[index].evidence)
    }

    /// Whether that topic is doubted because it was not answered.
    pub fn is_silent_topic(&self, topic: TopicKey) -> bool {
        self.topics.get(&topic).is_some_and(|doubt| doubt.cause == Cause::Silent)
    }

    /// The connection is gone, and that says nothing about whatever suspect was in flight.
    pub fn handle_closed(&mut self) {
        for suspect in &mut self.suspects {
            suspect.in_flight = false;
        }
        // Its topic was opened while it was on its way, and nothing is known of it.
        let (rulings, topics) = (&mut self.rulings, &self.topics);
        self.suspects.retain(|suspect| {
            let goes = suspect.fresh && !topics.get(&suspect.topic).is_some_and(Doubt::is_gated);
            if goes {
                rulings.push_back(Ruling::Release(suspect.place));
            }
            !goes
        });
    }

    /// The record has left the journal otherwise.
    pub fn forget(&mut self, place: RecordPlace) {
        if let Some(index) = self.position(place) {
            let topic = self.suspects.swap_remove(index).topic;
            self.promote(topic);
            if self.suspects.is_empty() && self.throttles == 0 {
                // Nothing that was refused is left: whether the broker takes readings is to be
                // found out anew.
                (self.row, self.nothing_taken_since) = (0, None);
            }
            self.note_emptiness();
        }
    }

    /// Until when no newcomer is to be sent: the broker refuses everything.
    pub fn newcomers_wait_until(&self, now: Instant) -> Option<Instant> {
        self.pause_until.filter(|until| now < *until)
    }

    /// Forgets topics without a record.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.pause_until.is_some_and(|until| now >= until) {
            self.pause_until = None;
        }
        let overdue = |doubt: &Doubt| now.saturating_duration_since(doubt.touched) >= FORGET;
        if self.topics.values().any(overdue) {
            self.forget_topics(now, FORGET);
        }
    }

    /// When a suspect is due, or newcomers go on.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.suspects.iter().filter_map(|suspect| self.due(suspect));
        due.chain(self.pause_until).min()
    }

    /// What is to be done, oldest first.
    pub fn poll_ruling(&mut self) -> Option<Ruling> {
        self.rulings.pop_front()
    }

    /// Since when no reading was taken though some were refused.
    pub fn nothing_taken_since(&self) -> Option<Instant> {
        self.nothing_taken_since
    }

    /// How many are suspected.
    pub fn len(&self) -> usize {
        self.suspects.len()
    }

    /// Whether nobody is suspected.
    pub fn is_empty(&self) -> bool {
        self.suspects.is_empty()
    }

    /// The suspects, for people: at most `limit`.
    pub fn view(&self, limit: usize) -> Vec<SuspectView> {
        let mut views: Vec<_> = self.suspects.iter().collect();
        views.sort_by_key(|suspect| (suspect.place.lane, suspect.place.sequence));
        let view = |suspect: &&Suspect| SuspectView {
            place: suspect.place,
            topic: self.topic_name(suspect.topic).map(str::to_owned),
            cause: suspect.cause,
            tries: suspect.tries,
        };
        views.iter().take(limit).map(view).collect()
    }
}
