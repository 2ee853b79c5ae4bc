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
//! **A refusal and then a close.** Some brokers close the connection over what they have refused.
//! Such a record is tried with nothing else in flight, as if there had been no answer, and on its
//! topic one speaks for all, whatever the answer: each trial costs a connection.
//!
//! `suspect` has one record's strikes and trials, `topic_doubt` a topic's gate, `broker_doubt` what
//! is the broker's fault, `witnesses` the readings that were taken.
//!
//! Readings are numbered as they are sent (their *send number*), and topics known by hash; nothing
//! here reads a clock, a record, or the network. Bounds: 1,024 suspects, 1,024 topics.

mod broker_doubt;
mod pace;
mod ruling;
mod suspect;
mod topic_doubt;
mod witnesses;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

pub use self::ruling::{RecordPlace, Ruling, SuspectView, TopicKey};
pub use self::suspect::Manner;

use self::broker_doubt::BrokerDoubt;
use self::pace::SPACING;
use self::suspect::Suspect;
use self::topic_doubt::TopicDoubt;
use self::witnesses::Witnesses;
use super::reason_code::Cause;

/// Confirmed strikes that condemn.
const STRIKES: u8 = 3;
/// A gated topic without a record is forgotten after so long.
const FORGET: Duration = Duration::from_secs(3600);
const SUSPECTS_MAX: usize = 1024;
const TOPICS_MAX: usize = 1024;

/// The suspects and the evidence.
#[derive(Debug)]
pub struct Suspicion {
    suspects: Vec<Suspect>,
    topics: BTreeMap<TopicKey, TopicDoubt>,
    broker: BrokerDoubt,
    witnesses: Witnesses,
    /// Readings taken since there are suspects.
    taken: u32,
    rulings: VecDeque<Ruling>,
}

impl Suspicion {
    /// Nobody is suspected.
    pub fn new(now: Instant) -> Suspicion {
        Suspicion {
            suspects: Vec::new(),
            topics: BTreeMap::new(),
            broker: BrokerDoubt::new(now),
            witnesses: Witnesses::default(),
            taken: 0,
            rulings: VecDeque::new(),
        }
    }

    /// Whether nothing is suspected, so that a refusal is the first.
    pub fn is_idle(&self) -> bool {
        self.suspects.is_empty() && self.topics.is_empty() && self.broker.nothing_taken_since().is_none()
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
        self.topics.get(&topic).is_some_and(TopicDoubt::is_gated)
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
        self.witnesses.note_taken(topic, serial);
        if self.is_idle() {
            return;
        }
        let ended = self.broker.handle_taken(now);
        if ended.row {
            for suspect in self.suspects.iter_mut().filter(|suspect| suspect.singled_out.is_none()) {
                suspect.singled_out = Some(true);
            }
        }
        self.taken = self.taken.saturating_add(1);
        if let Some(index) = self.position(place) {
            self.acquit(now, index);
        }
        if let Some(doubt) = self.topics.get_mut(&topic) {
            if doubt.handle_taken() {
                self.open(topic);
            }
            if !self.has_defendant(topic) {
                self.topics.remove(&topic);
            }
        }
        for suspect in self.suspects.iter_mut().filter(|suspect| serial > suspect.since) {
            suspect.handle_other_taken(now, topic);
        }
        self.condemn_confirmed(now);
        if ended.mass {
            self.resume(now);
        } else if ended.long {
            self.open_all(now);
        }
        self.note_emptiness();
    }

    fn acquit(&mut self, now: Instant, index: usize) {
        let suspect = self.suspects.swap_remove(index);
        let refused_among_others = u8::from(suspect.singled_out == Some(true)) + suspect.confirmed;
        self.broker.note_whims(now, f64::from(refused_among_others));
        // What refused it is perhaps over for others too.
        for other in self.suspects.iter_mut().filter(|other| other.cause == suspect.cause) {
            other.due = other.due.min(now + SPACING);
        }
    }

    fn needed(&self, now: Instant, suspect: &Suspect) -> u8 {
        let more = self.broker.more_needed(now);
        let one_for_all = more == 0
            && !suspect.cause.is_quota_code()
            && self.topics.get(&suspect.topic).is_some_and(TopicDoubt::is_condemned);
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
        let group = doubt.is_condemned() && was_gated && !cause.is_quota_code();
        doubt.handle_condemned(now);
        if was_gated && doubt.judges_each() {
            return self.open(topic);
        }
        if group {
            // What was not sent itself is not known to contain anything wrong.
            let cause = if cause.is_about_content() { Cause::Closed } else { cause };
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
        let newest = doubt.is_condemned();
        if !self.has_defendant(topic) {
            self.rulings.push_back(Ruling::Promote(topic, newest));
        }
    }

    /// The broker refused everything and takes readings again: whoever was never tried against
    /// others begins anew.
    fn resume(&mut self, now: Instant) {
        for suspect in &mut self.suspects {
            // What is not answered, or too much, would only take the places of what is, and what
            // the broker closes over would cost a connection each.
            let is_dear = suspect.cause.is_quota() || suspect.closes;
            if suspect.confirmed == 0 && !suspect.was_in_order && !suspect.in_flight && !is_dear {
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
        let gated = self.topics.iter_mut().filter_map(|(topic, doubt)| {
            let waited = doubt.give_another_chance(now);
            waited.then_some(*topic)
        });
        let opened: Vec<TopicKey> = gated.collect();
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
        let known_topic = of_topic || self.topics.get(&topic).is_some_and(TopicDoubt::judges_each);
        let was_alone = self.broker.row() == 0;
        if !was_alone {
            for other in self.suspects.iter_mut().filter(|other| other.singled_out.is_none()) {
                other.singled_out = Some(false);
            }
        }
        if !known_topic {
            self.broker.handle_refused(now);
        }
        if !was_gated && !known_topic && self.broker.row() >= 3 {
            // It is not only the suspects that are refused.
            for other in self.suspects.iter_mut().filter(|other| other.topic != topic) {
                other.void_strike();
            }
        }
        if self.suspects.len() >= SUSPECTS_MAX {
            return false;
        }
        let evidence = self.witnesses.has_another_after(topic, serial);
        let mut suspect = Suspect::new(now, place, topic, cause, serial, evidence);
        suspect.singled_out = if was_alone { None } else { Some(false) };
        self.suspects.push(suspect);
        true
    }

    fn doubt(&mut self, now: Instant, topic: TopicKey, serial: u64, cause: Cause, another: bool) {
        if self.topics.len() >= TOPICS_MAX && !self.topics.contains_key(&topic) {
            self.forget_topics(now, Duration::ZERO);
            if self.topics.len() >= TOPICS_MAX {
                return;
            }
        }
        let doubt = self.topics.entry(topic).or_insert_with(|| TopicDoubt::new(now, cause, serial));
        let was_gated = doubt.is_gated();
        doubt.handle_refused(now, serial, cause, another);
        if was_gated && !doubt.is_gated() {
            self.open(topic);
        }
    }

    fn forget_topics(&mut self, now: Instant, after: Duration) {
        let suspects = &self.suspects;
        self.topics.retain(|topic, doubt| {
            !doubt.is_older_than(now, after) || suspects.iter().any(|suspect| suspect.topic == *topic)
        });
    }

    fn strike(&mut self, now: Instant, index: usize, serial: u64, cause: Cause) {
        let more = self.broker.more_needed(now);
        let suspect = &mut self.suspects[index];
        suspect.strike(now, serial, cause, &mut self.broker);
        let (topic, unproven) = (suspect.topic, suspect.is_unproven());
        let lonely = suspect.has_lonely_strikes(more);
        if suspect.has_same_topic_strikes(more) || lonely && self.enough_taken() {
            self.condemn(now, index);
            self.note_emptiness();
        } else if unproven && let Some(doubt) = self.topics.get(&topic).filter(|doubt| doubt.is_gated()) {
            // Perhaps it is only those that were tried.
            self.rulings.push_back(Ruling::Promote(topic, doubt.is_condemned()));
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
        if self.suspects.len() >= SUSPECTS_MAX {
            return false;
        }
        let evidence = self.witnesses.has_another_after(topic, doubt.since);
        let suspect = Suspect::new(now, place, topic, doubt.cause, doubt.since, evidence);
        self.suspects.push(suspect.of_topic(doubt.trial_due(now), doubt.closes()));
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
        self.broker.handle_throttled(now)
    }

    /// The next suspect to try at `now`, and how.
    pub fn next_trial(&self, now: Instant) -> Option<(RecordPlace, Manner)> {
        let retry_at = self.broker.retry_at();
        let due = self.suspects.iter().filter(|suspect| suspect.due_at(retry_at).is_some_and(|at| at <= now));
        let first = due.min_by_key(|suspect| (suspect.due, suspect.place.sequence))?;
        Some((first.place, first.manner()))
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
        self.broker.is_at_fault()
    }

    /// Pauses for too much since a reading was taken.
    pub fn throttles(&self) -> u32 {
        self.broker.throttles()
    }

    /// A suspect was sent.
    pub fn note_sent(&mut self, now: Instant, place: RecordPlace) {
        if let Some(index) = self.position(place) {
            self.suspects[index].note_sent(now);
        }
    }

    /// The broker closed the connection right after it had refused this record, on that topic.
    pub fn handle_closed_over(&mut self, place: RecordPlace, topic: TopicKey) {
        if let Some(index) = self.position(place) {
            self.suspects[index].closes = true;
        }
        if let Some(doubt) = self.topics.get_mut(&topic) {
            doubt.handle_close();
        }
    }

    /// A new connection: perhaps the broker is another, or has changed. One suspect may find that
    /// out at once. Not if the one before was closed over a refusal (`afresh` is false): then all
    /// wait as long as they would have without the close.
    pub fn handle_open(&mut self, now: Instant, afresh: bool) {
        if !afresh {
            return;
        }
        self.broker.handle_open(now);
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
            let goes = suspect.fresh && !topics.get(&suspect.topic).is_some_and(TopicDoubt::is_gated);
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
            if self.suspects.is_empty() {
                self.broker.forgive();
            }
            self.note_emptiness();
        }
    }

    /// Until when no newcomer is to be sent: the broker refuses everything.
    pub fn newcomers_wait_until(&self, now: Instant) -> Option<Instant> {
        self.broker.pause_until().filter(|until| now < *until)
    }

    /// Forgets topics without a record.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.broker.handle_timeout(now);
        if self.topics.values().any(|doubt| doubt.is_older_than(now, FORGET)) {
            self.forget_topics(now, FORGET);
        }
    }

    /// When a suspect is due, or newcomers go on.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry_at = self.broker.retry_at();
        let due = self.suspects.iter().filter_map(|suspect| suspect.due_at(retry_at));
        due.chain(self.broker.pause_until()).min()
    }

    /// What is to be done, oldest first.
    pub fn poll_ruling(&mut self) -> Option<Ruling> {
        self.rulings.pop_front()
    }

    /// Since when no reading was taken though some were refused.
    pub fn nothing_taken_since(&self) -> Option<Instant> {
        self.broker.nothing_taken_since()
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
