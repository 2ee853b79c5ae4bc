//! Which record goes next, when it may be released, what the broker's answer means for it.
//!
//! Invariants:
//! * No more QoS 1 publishes await their answer than the window: the least of Receive Maximum,
//!   `max-in-flight` and 65,000.
//! * A record leaves its lane only when the broker answered it below 0x80, when it is set aside in
//!   the rejected store, or when it has expired; in sequence order within its lane.
//! * While both lanes wait, `high` gets three of four places. Records older than a minute are
//!   paced.
//! * Everything that is published counts for the [rate](super::rate).
//! * Suspects hold at most half the window.
//! * Towards a broker without QoS 1, what was sent counts as taken when a PINGREQ sent after it is
//!   answered.
//!
//! | what the broker does with a record | what follows |
//! |---|---|
//! | answers below 0x80 | released |
//! | 0x93, 0x96, 0x97 | the rate is lowered, the record sent again in its order, all wait 1 s to 5 min until something is taken; the third time, a [suspect](super::suspicion) |
//! | any other refusal | a suspect: held back, the others flow |
//! | closes the connection shortly after a refusal | that was the reason: what is in flight is sent again |
//! | closes the connection, more than one in flight | sent again one by one, then ever more at once |
//! | closes the connection, this one alone in flight | a suspect |
//! | does not answer within the [patience](super::flight) | the connection is replaced, the rate lowered, what is unanswered sent again; the second time, a suspect |
//! | announces a Maximum Packet Size below its length | like a refusal with 0x95, unsent |
//!
//! How far the window is used is the *credit*: one place after a close that may be about a record,
//! or after the broker refused everything, and one more with each answer.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::flight::{Flight, Sent};
use super::lane::{Departure, LaneEntry, LaneState, Purpose, State};
use super::outbox::{Loss, Next, Outbox};
use super::own::{Class, Key, Own};
use super::pace::{Ingest, Pace};
use super::publication::{self, Encoder, Remaining, Terms};
use super::rate::PublishRate;
use super::reason_code::{self, Cause};
use super::retained::{Coming, NewestRetained};
use super::session::{Limits, PUBLISH_ID_MAX};
use super::settings::Settings;
use super::suspicion::{self, Manner, RecordPlace, Ruling, Suspicion, TopicKey};
use super::volatile::Ring;
use super::wire::{Acknowledgement, Version};
use crate::clock::Moment;
use crate::message::{Content, Lane, RecordId};

/// Records older than this are backlog and paced.
pub const BACKLOG_AGE_MS: u64 = 60_000;
/// Output is filled up to here, then written.
pub const FILL_BYTES: usize = 48 * 1024;
/// Records read from the journal in one fill at most, so that mass expiry does not hold the thread.
const READS_MAX: usize = 4096;
/// Least time until a paced lane is looked at again.
const PACED_TICK: Duration = Duration::from_millis(5);
/// A volatile reading sent so shortly before a close may be its cause.
const VOLATILE_SUSPICIOUS: Duration = Duration::from_secs(5);
/// How long volatile readings are dropped once suspected.
const VOLATILE_PAUSE: Duration = Duration::from_secs(300);
/// After a close that may be about a record or a message of our own no volatile reading is sent for
/// so long.
const CAREFUL: Duration = Duration::from_secs(10);
/// So many closes shortly after volatile readings.
const VOLATILE_STRIKES: u8 = 3;
/// So many closes, or answers missing, with one own message alone in flight.
const OWN_STRIKES: u8 = 2;
/// A connection without own messages that lasts so long stands.
const STANDS_AFTER: Duration = Duration::from_secs(10);
/// Before a trial at the lowest rate nothing is sent for so long, and between two trials with
/// nothing else in flight.
const QUIET: Duration = Duration::from_secs(1);
/// For so long a suspect in flight keeps all others back; a close later than that names nobody.
const ALONE_WITHIN: Duration = Duration::from_secs(5);
/// A close so shortly after a refusal is because of it.
const REFUSED_BEFORE: Duration = Duration::from_secs(2);
/// While nothing was taken for so long, a refusal is no progress.
const NOTHING_TAKEN: Duration = Duration::from_secs(30);
/// So many records unanswered at once are dropped for the rate rather than for themselves.
const DROPPED_FOR_THEMSELVES: usize = 4;
/// Topics told apart on a connection.
const TOPICS_MAX: usize = 1024;
/// For so long a connection carries what flows before a suspect that may close it.
const FLOW_FIRST: Duration = Duration::from_secs(2);
/// For so long a suspect waits for others to be taken before it.
const COMPANY_WITHIN: Duration = Duration::from_secs(5);
/// When to look again for what the disk reads for another purpose; its wake-up comes sooner.
const PENDING_TICK: Duration = Duration::from_millis(100);
/// Times unanswered, and times too much, that make a suspect.
const SILENCES: u8 = 2;
const THROTTLES: u8 = 3;
/// Records retried that are remembered, to tell when the broker has taken them.
const RETRIED_MAX: usize = 1024;

/// What the publisher reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record was moved to the rejected store.
    Rejected {
        /// Its lane.
        lane: Lane,
        /// Which.
        id: RecordId,
        /// Why.
        cause: Cause,
    },
    /// The broker refused a record, closed over it, or did not answer it: it is held back and tried
    /// again while others flow.
    Suspected {
        /// Its lane.
        lane: Lane,
        /// Which.
        id: RecordId,
        /// Why.
        cause: Cause,
    },
    /// The broker has too much, and nothing was taken since it said so last: everything waits.
    Throttled {
        /// The reason code.
        code: u8,
        /// For how long.
        wait: Duration,
    },
    /// The rate was lowered.
    RateLowered {
        /// Why: a quota code, or silence.
        cause: Cause,
        /// Publishes a second from now on.
        limit: u32,
    },
    /// A publish was not answered in time: the connection is replaced and it is sent again.
    Unanswered {
        /// Its lane and id; `None`: a message of the gateway's own.
        record: Option<(Lane, RecordId)>,
        /// How long it was waited for.
        waited: Duration,
        /// Records in flight that were not answered.
        unanswered: usize,
    },
    /// A lane takes no more until this record is decided.
    Blocked {
        /// The lane.
        lane: Lane,
        /// Its oldest record.
        id: RecordId,
    },
    /// A record must be rejected and there is no room for it; its lane waits.
    RejectedFull {
        /// Which lane.
        lane: Lane,
        /// For how long.
        wait: Duration,
    },
    /// The broker has a record that it had rejected before.
    Recovered {
        /// The id it had when it was rejected.
        original: RecordId,
    },
    /// The broker refused a message of the gateway's own: it is tried ever more seldom.
    OwnRefused {
        /// Its topic.
        topic: String,
        /// The reason code.
        code: u8,
    },
    /// The broker closes the connection over the gateway's own messages, or does not answer them:
    /// they pause for an hour.
    OwnPaused {
        /// Which.
        class: Class,
    },
    /// The broker closes the connection after readings of `qos = 0` rules: these are dropped for
    /// five minutes.
    VolatilePaused,
}

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Stored records sent, repeats included.
    pub sent: u64,
    /// Stored records the broker acknowledged.
    pub acknowledged: u64,
    /// Stored records moved to the rejected store.
    pub rejected: u64,
    /// Stored records that expired.
    pub expired: u64,
    /// Readings of `qos = 0` rules sent.
    pub volatile_sent: u64,
    /// Answers to nothing we sent.
    pub unknown_answers: u64,
    /// Connections replaced because a publish was not answered.
    pub unanswered: u64,
    /// Times the rate was lowered.
    pub rate_lowered: u64,
}

/// What a fill did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Packets appended.
    pub packets: usize,
    /// More could have been appended but for the size of the output.
    pub more: bool,
    /// A PINGREQ is to follow, numbered as was said to [`Publisher::fill`].
    pub ping: bool,
}

/// How a connection went, as far as it bears on what was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The broker closed it and gave no reason that clears what was in flight.
    Closed,
    /// The broker closed it because it had too much, by this reason code.
    TooMuch(u8),
    /// We gave it up: a publish was not answered.
    Unanswered,
    /// For a reason that says nothing about what was in flight.
    Otherwise,
}

/// What is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing: all flows.
    Nothing,
    /// All but one own message at a time, while a connection is being made ready, or ended.
    AllButOwn,
    /// Everything, until nothing is in flight.
    Everything,
}

/// What a connection that is gone leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// It was closed while something was in flight that may have been the reason.
    pub suspicious: bool,
    /// Readings were taken on it.
    pub progress: bool,
    /// A message of our own was alone in flight, and so is suspected.
    pub own: bool,
    /// A suspect that was tried was alone in flight.
    pub trial: bool,
}

/// A record held back, as `tombolo status` and `queue` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRecord {
    /// Its lane.
    pub lane: Lane,
    /// Which.
    pub id: RecordId,
    /// Its topic, once a trial has shown it.
    pub topic: Option<String>,
    /// Why it is suspected.
    pub cause: Cause,
    /// How often it was tried again.
    pub tries: u32,
}

/// What came of [`Publisher::skip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The record is set aside.
    Done,
    /// The oldest record of a lane is being read from disk: ask again.
    BeingRead,
    /// It is not among those read, and not the oldest of its lane.
    NotFound,
}

/// What is in flight with nothing else.
#[derive(Clone, Copy, Debug)]
struct Solo {
    /// `None`: a message of the gateway's own.
    place: Option<RecordPlace>,
    at: Instant,
}

/// Messages of our own while they are suspected of bringing the connection down.
#[derive(Clone, Copy, Debug, Default)]
struct OwnDoubt {
    /// They are sent one by one, with nothing else.
    solo: bool,
    /// By class.
    strikes: [u8; 3],
    /// They wait until the connection has shown that it stands without them.
    until_it_stands: bool,
}

/// What every step of a fill needs.
struct Round<'a> {
    moment: &'a Moment,
    terms: Terms,
    next_ping: u64,
}

/// The publishing half of the uplink.
pub struct Publisher {
    max_in_flight: u16,
    loss_topic: Option<String>,
    lanes: [LaneState; 2],
    /// Counts the places given while both lanes waited.
    turn: u8,
    own_was_last: bool,
    pace: Pace,
    ingest: [Ingest; 2],
    rate: PublishRate,
    suspicion: Suspicion,
    solo: Option<Solo>,
    solo_ended_at: Option<Instant>,
    last_sent_at: Option<Instant>,
    credit: u16,
    /// No volatile reading is sent before: a close is being looked into.
    careful_until: Option<Instant>,
    retained: Option<NewestRetained>,
    /// Records retried, by their places now: the ids they had.
    retried: BTreeMap<(usize, u64), RecordId>,
    encoder: Encoder,
    ring: Ring,
    volatile_sent_at: Option<Instant>,
    volatile_strikes: u8,
    volatile_paused_until: Option<Instant>,
    own_doubt: OwnDoubt,
    /// The loss being reported, and of each lane what was reported: number and count.
    reporting: Option<Loss>,
    reported: [Vec<(u64, u64)>; 2],
    gateway: String,
    /// `None` while there is no connection.
    terms: Option<Terms>,
    opened_at: Instant,
    taken_here: u64,
    /// When something was refused on this connection last.
    refused_at: Option<Instant>,
    at_least_once: bool,
    window: u16,
    flight: Flight,
    ping_outstanding: bool,
    hold: Hold,
    /// When to fill again though nothing comes from outside.
    wake_at: Option<Instant>,
    /// Of each lane, whether it was told what it waits for.
    blocked_told: [bool; 2],
    /// Records wait that found no room among the suspects.
    overflowed: bool,
    /// The lanes are read for what flows before the next trial.
    flow_first: bool,
    /// A suspect was sent last.
    trial_was_last: bool,
    /// Nothing more could flow the last time.
    flow_ran_dry: bool,
    /// Topics of which a reading was taken on this connection; none of more than [`TOPICS_MAX`].
    taken_topics: HashSet<TopicKey>,
    /// Topics that were too much for the broker on this connection, and none taken of them; at most
    /// as many.
    quota_topics: HashSet<TopicKey>,
    /// When a reading was taken last.
    taken_at: Option<Instant>,
    /// The connection was closed over a suspect that was tried.
    trial_closed: bool,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Publisher {
    /// Without a connection yet.
    pub fn new(now: Instant, settings: &Settings) -> Publisher {
        let gateway = settings.gateway.as_str();
        Publisher {
            max_in_flight: settings.max_in_flight.max(1),
            loss_topic: settings.topics.loss.clone(),
            lanes: Lane::ALL.map(LaneState::new),
            turn: 0,
            own_was_last: false,
            pace: Pace::new(now, settings.drain_rate),
            ingest: Default::default(),
            rate: PublishRate::new(now, settings.max_publish_rate, settings.max_byte_rate),
            suspicion: Suspicion::new(now),
            solo: None,
            solo_ended_at: None,
            last_sent_at: None,
            credit: u16::MAX,
            careful_until: None,
            retained: None,
            retried: BTreeMap::new(),
            encoder: Encoder::new(gateway),
            ring: Ring::default(),
            volatile_sent_at: None,
            volatile_strikes: 0,
            volatile_paused_until: None,
            own_doubt: OwnDoubt::default(),
            reporting: None,
            reported: Default::default(),
            gateway: gateway.to_owned(),
            terms: None,
            opened_at: now,
            taken_here: 0,
            refused_at: None,
            at_least_once: true,
            window: 0,
            flight: Flight::new(now, settings.answer_timeout),
            ping_outstanding: false,
            hold: Hold::Nothing,
            wake_at: None,
            blocked_told: [false; 2],
            overflowed: false,
            flow_first: false,
            trial_was_last: false,
            flow_ran_dry: false,
            taken_topics: HashSet::new(),
            quota_topics: HashSet::new(),
            taken_at: None,
            trial_closed: false,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The connection may be used from now on, within `limits`.
    pub fn handle_open(&mut self, now: Instant, version: Version, limits: &Limits) {
        self.terms =
            Some(Terms { version, packet_limit: limits.packet_size as usize, retain: limits.retain });
        self.at_least_once = limits.at_least_once;
        self.window = limits.receive_maximum.min(self.max_in_flight).min(PUBLISH_ID_MAX);
        self.flight.open(now, self.window);
        self.suspicion.handle_open(now);
        self.quota_topics.clear();
        self.opened_at = now;
        self.taken_here = 0;
        self.taken_topics.clear();
        self.flow_ran_dry = false;
        self.refused_at = None;
        self.ping_outstanding = false;
        self.solo = None;
    }

    /// Whether there is a connection.
    pub fn is_open(&self) -> bool {
        self.terms.is_some()
    }

    /// Whether the gateway's own messages wait until the connection has shown that it stands
    /// without them.
    pub fn holds_own(&self) -> bool {
        self.own_doubt.until_it_stands
    }

    /// Whether a reading was taken on this connection, or refused while others are taken.
    pub fn has_progress(&self, now: Instant) -> bool {
        self.taken_here > 0 || (self.refused_at.is_some() && self.others_are_taken(now))
    }

    /// Whether readings were taken lately, as far as any were sent.
    fn others_are_taken(&self, now: Instant) -> bool {
        self.suspicion.nothing_taken_since().is_none_or(|since| now < since + NOTHING_TAKEN)
    }

    /// Whether no reading was answered on this connection, and one waits for its answer longest.
    pub fn hangs_on_a_record(&self, now: Instant) -> bool {
        !self.has_progress(now) && self.flight.oldest().and_then(place_of).is_some()
    }

    /// When the connection stands: readings were taken on it, or it has lasted.
    pub fn stands_at(&self) -> Instant {
        if self.taken_here > 0 { self.opened_at } else { self.opened_at + STANDS_AFTER }
    }

    /// The connection is gone.
    pub fn handle_closed(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        own: &mut Own,
        end: ConnectionEnd,
    ) -> Aftermath {
        let mut aftermath = Aftermath { progress: self.has_progress(now), ..Aftermath::default() };
        self.trial_closed = false;
        if self.terms.is_some() {
            let in_flight = self.lanes.iter().map(LaneState::in_flight).sum::<usize>();
            aftermath.own = in_flight == 0 && own.in_flight() == 1;
            aftermath.suspicious = match end {
                ConnectionEnd::Closed => self.judge_close(now, own, Cause::Closed),
                ConnectionEnd::TooMuch(code) => {
                    let cause = Cause::Code(code);
                    self.complain(now, self.last_sent_at.unwrap_or(now), cause);
                    self.judge_close(now, own, cause)
                }
                ConnectionEnd::Unanswered => {
                    self.judge_silence(now, own);
                    false
                }
                ConnectionEnd::Otherwise => false,
            };
        }
        aftermath.trial = self.trial_closed;
        for lane in &mut self.lanes {
            lane.handle_closed();
        }
        self.suspicion.handle_closed();
        self.flight.close();
        own.handle_closed();
        self.obey(now);
        self.settle(now, outbox);
        self.terms = None;
        self.solo = None;
        self.wake_at = None;
        aftermath
    }

    /// Whether the close may be about something that was in flight.
    fn judge_close(&mut self, now: Instant, own: &mut Own, cause: Cause) -> bool {
        if self.refused_at.is_some_and(|at| now < at + REFUSED_BEFORE) {
            return true; // some brokers refuse, and then close as well
        }
        let records: Vec<(RecordPlace, LaneEntry)> = self.records_in_flight();
        let volatile = self.volatile_sent_at.is_some_and(|at| now < at + VOLATILE_SUSPICIOUS);
        match (records.as_slice(), own.in_flight()) {
            ([], 0) if !volatile => return false,
            ([], 0) => {
                // Whatever else it may be, the readings in memory went before it.
                self.volatile_strikes += 1;
                if self.volatile_strikes >= VOLATILE_STRIKES {
                    self.volatile_strikes = 0;
                    self.volatile_paused_until = Some(now + VOLATILE_PAUSE);
                    self.events.push_back(Event::VolatilePaused);
                }
            }
            ([], 1) if !volatile => self.strike_own(now, own),
            ([(place, entry)], 0) if !volatile => {
                self.trial_closed = entry.suspect;
                self.credit = 1;
                let own_fault = !cause.is_quota() || entry.suspect || entry.throttled + 1 >= THROTTLES;
                if own_fault {
                    self.refuse(now, *place, entry, cause, false);
                } else if let Some(entry) = self.lanes[place.lane].entry_mut(place.sequence) {
                    entry.throttled += 1;
                }
            }
            (_, messages) => {
                self.credit = 1;
                self.own_doubt.solo |= messages > 0;
            }
        }
        if !records.is_empty() || own.in_flight() > 0 {
            self.careful_until = Some(now + CAREFUL);
        }
        true
    }

    fn records_in_flight(&self) -> Vec<(RecordPlace, LaneEntry)> {
        let of = |lane: &LaneState| lane.sent().map(|e| (lane.place(e.id.sequence), *e)).collect::<Vec<_>>();
        self.lanes.iter().flat_map(of).collect()
    }

    /// One message of our own was alone in flight when the connection was closed, or stayed
    /// unanswered.
    fn strike_own(&mut self, now: Instant, own: &mut Own) {
        let oldest = self.flight.oldest().and_then(|sent| match sent {
            Sent::Own { key, .. } => own.class(key),
            Sent::Record(..) => None,
        });
        let Some(class) = oldest.or_else(|| own.sent_classes().next()) else { return };
        let strikes = &mut self.own_doubt.strikes[class as usize];
        *strikes += 1;
        self.own_doubt.solo = true;
        self.own_doubt.until_it_stands = true;
        if *strikes >= OWN_STRIKES {
            *strikes = 0;
            self.own_doubt.until_it_stands = false;
            own.pause(now, class);
            self.events.push_back(Event::OwnPaused { class });
        }
    }

    /// The oldest publish was not answered in time.
    fn judge_silence(&mut self, now: Instant, own: &mut Own) {
        let since = self.flight.waiting_since().unwrap_or(now);
        let oldest = self.flight.oldest().cloned();
        let mut silent: Vec<(usize, u64)> = self.flight.overtaken().filter_map(place_of).collect();
        let dropped = silent.len();
        let oldest_record = oldest.as_ref().and_then(place_of);
        if let Some(oldest) = oldest_record.filter(|oldest| !silent.contains(oldest)) {
            silent.push(oldest);
        }
        self.counters.unanswered += 1;
        let record = oldest_record.and_then(|(lane, sequence)| {
            Some((self.lanes[lane].lane(), self.lanes[lane].entry(sequence)?.id))
        });
        self.events.push_back(Event::Unanswered {
            record,
            waited: now.saturating_duration_since(since),
            unanswered: self.lanes.iter().map(LaneState::in_flight).sum(),
        });
        // Where nothing else is answered either it is not about the message.
        if oldest_record.is_none() && oldest.is_some() && self.has_progress(now) {
            self.strike_own(now, own);
        }
        // A suspect sent alone after a pause was not dropped for the rate, and neither are a few
        // topics of which nothing is answered while all of others is.
        let quiet = self.solo.is_some_and(|solo| solo.place.is_some());
        let of_topics = self.is_of_topics(&silent);
        let topic_of = |&(lane, sequence): &(usize, u64)| Some(self.lanes[lane].entry(sequence)?.topic);
        let is_known = |at| topic_of(at).is_some_and(|topic| self.suspicion.is_silent_topic(topic));
        let known = !silent.is_empty() && silent.iter().all(is_known);
        if !quiet && !of_topics && !known {
            self.complain(now, since, Cause::Silent);
        }
        let for_themselves = of_topics || dropped <= DROPPED_FOR_THEMSELVES || self.rate.is_lowest();
        if !for_themselves {
            return;
        }
        for (index, sequence) in silent {
            let lane = &mut self.lanes[index];
            let place = lane.place(sequence);
            let Some(entry) = lane.entry_mut(sequence) else { continue };
            entry.silences = entry.silences.saturating_add(1);
            let entry = *entry;
            if entry.suspect || entry.silences >= SILENCES {
                self.refuse(now, place, &entry, Cause::Silent, of_topics);
            }
        }
    }

    /// Whether these unanswered records are all on a few topics of which none was taken on this
    /// connection, while others were.
    fn is_of_topics(&self, silent: &[(usize, u64)]) -> bool {
        if self.taken_topics.is_empty() || self.taken_topics.len() >= TOPICS_MAX {
            return false;
        }
        let topics: BTreeSet<TopicKey> = silent
            .iter()
            .filter_map(|(lane, sequence)| Some(self.lanes[*lane].entry(*sequence)?.topic))
            .collect();
        topics.len() <= DROPPED_FOR_THEMSELVES
            && !topics.iter().any(|topic| self.taken_topics.contains(topic))
    }

    /// The broker complained of what was sent at `sent_at`, or dropped it.
    fn complain(&mut self, now: Instant, sent_at: Instant, cause: Cause) {
        if self.rate.handle_complaint(now, sent_at) {
            self.counters.rate_lowered += 1;
            let limit = self.rate.lowered_to().unwrap_or_default().round() as u32;
            self.events.push_back(Event::RateLowered { cause, limit });
        }
    }

    /// Holds back, or lets go.
    pub fn hold(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// When the answer to the oldest publish is overdue: then the connection is to be replaced.
    pub fn overdue_at(&self) -> Option<Instant> {
        self.terms?;
        self.flight.overdue_at()
    }

    /// Since when the oldest publish waits for its answer.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.terms?;
        self.flight.waiting_since()
    }

    /// Puts a reading of a `qos = 0` rule into the ring.
    pub fn push_volatile(&mut self, content: &Content<'_>) {
        self.ring.push(content);
    }

    /// Appends as many publishes as the window, the rate and [`FILL_BYTES`] allow. `next_ping` is
    /// the number the next PINGREQ would have.
    pub fn fill(
        &mut self,
        moment: &Moment,
        outbox: &mut impl Outbox,
        own: &mut Own,
        out: &mut Vec<u8>,
        next_ping: u64,
    ) -> Filled {
        let mut filled = Filled::default();
        let Some(terms) = self.terms else {
            return filled;
        };
        let now = moment.now;
        self.wake_at = None;
        self.retained.get_or_insert_with(|| NewestRetained::new(moment.boottime_ms));
        self.suspicion.handle_timeout(now);
        self.obey(now);
        self.settle(now, outbox); // what could not be rejected before
        let round = Round { moment, terms, next_ping };
        let own_may = self.hold == Hold::AllButOwn && own.in_flight() == 0 && self.has_place();
        if own_may && self.send_own(&round, outbox, own, out) {
            filled.packets += 1;
        }
        if self.hold != Hold::Nothing {
            filled.ping = self.wants_ping();
            return filled;
        }
        if self.own_doubt.until_it_stands {
            let stands_at = self.stands_at();
            if now >= stands_at {
                self.own_doubt.until_it_stands = false;
            } else {
                self.wake(stands_at);
            }
        }
        self.report_losses(now, outbox, own);
        self.measure_ingest(now, outbox);
        if !self.waits_for_solo(now, own) {
            // Before anything was taken on a connection others go first: whoever is tried is tried
            // against them.
            let first_until = self.others_first_until(now);
            let others_first = self.taken_here == 0 || first_until.is_some();
            if others_first {
                self.fill_flow(&round, outbox, own, out, &mut filled);
            }
            if let Some(until) = self.others_first_until(now).filter(|_| first_until.is_some()) {
                self.wake(until);
            } else {
                let others_may = self.fill_solo(&round, outbox, own, out, &mut filled);
                if others_may && !others_first {
                    self.fill_flow(&round, outbox, own, out, &mut filled);
                }
            }
        }
        filled.ping = self.wants_ping();
        // What is due and was not sent waits for an answer, or has said above when to look again.
        for due in [self.suspicion.poll_timeout(), own.poll_timeout()].into_iter().flatten() {
            if due > now {
                self.wake(due);
            }
        }
        filled
    }

    /// Whether a PINGREQ is to follow, whose answer stands for those of publishes at QoS 0.
    fn wants_ping(&mut self) -> bool {
        let wanted = !self.at_least_once && !self.ping_outstanding && self.in_flight() > 0;
        self.ping_outstanding |= wanted;
        wanted
    }

    fn wake(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    fn measure_ingest(&mut self, now: Instant, outbox: &impl Outbox) {
        let mut ingest = 0u32;
        for (lane, measured) in self.lanes.iter().zip(&mut self.ingest) {
            let rate = measured.measure(now, outbox.newest(lane.lane()));
            if lane.backlog {
                ingest = ingest.saturating_add(rate);
            }
        }
        self.pace.set_ingest(now, ingest);
    }

    /// Until when a suspect that may bring the connection down lets others go first. What flows
    /// does so for a while, because a close costs the connection; and each time it is tried one
    /// more must have been taken before, so that a broker that closes every connection over its
    /// third publish, whatever that is, shows it.
    fn others_first_until(&self, now: Instant) -> Option<Instant> {
        let (place, manner) = self.suspicion.next_trial(now)?;
        if manner == Manner::Quiet {
            // Without others taken in between another trial would show nothing.
            let since = self.solo_ended_at.map_or(self.opened_at, |ended| ended.max(self.opened_at));
            let waits = !self.flow_ran_dry && !self.suspicion.has_evidence(place);
            return waits.then_some(since + FLOW_FIRST).filter(|until| now < *until);
        }
        if manner == Manner::Among {
            return None;
        }
        let flow = (!self.flow_ran_dry).then_some(self.opened_at + FLOW_FIRST);
        let alone = self.taken_here < u64::from(self.suspicion.company(place));
        let company = alone.then_some(self.opened_at + COMPANY_WITHIN);
        flow.into_iter().chain(company).max().filter(|until| now < *until)
    }

    /// Whether something that must be alone in flight still keeps all others back.
    fn waits_for_solo(&mut self, now: Instant, own: &Own) -> bool {
        let Some(solo) = self.solo else { return false };
        if !self.is_outstanding(&solo, own) {
            self.solo = None;
            self.solo_ended_at = Some(now);
        } else if now < solo.at + ALONE_WITHIN {
            self.wake(solo.at + ALONE_WITHIN);
            return true;
        }
        false
    }

    /// Sends what must be alone in flight, if anything must. Whether everything else may go.
    fn fill_solo(
        &mut self,
        round: &Round<'_>,
        outbox: &mut impl Outbox,
        own: &mut Own,
        out: &mut Vec<u8>,
        filled: &mut Filled,
    ) -> bool {
        let now = round.moment.now;
        let own_waits = self.own_doubt.solo && !self.own_doubt.until_it_stands && own.has_due(now);
        self.own_doubt.solo &= own_waits || self.own_doubt.until_it_stands || own.in_flight() > 0;
        let trial = self.suspicion.next_trial(now).filter(|(_, manner)| *manner != Manner::Among);
        let Some(wanted) = trial.map(Some).or(own_waits.then_some(None)) else { return true };
        if self.solo.is_some() {
            return true; // one waits for its answer already, and keeps nobody back any more
        }
        if let Some(again_at) = self.solo_ended_at.map(|at| at + QUIET).filter(|at| *at > now) {
            self.wake(again_at);
            return true;
        }
        if self.in_flight() > 0 {
            return false; // it comes when that is answered
        }
        if let (Some((_, Manner::Quiet)), Some(last)) = (wanted, self.last_sent_at)
            && last + QUIET > now
        {
            self.wake(last + QUIET);
            return false;
        }
        if !self.may_send_now(now) {
            return false;
        }
        let sent = match wanted {
            Some((place, _)) => {
                let step = self.send_record(place.lane, Some(place.sequence), round, outbox, out);
                if matches!(step, Step::Dry) {
                    return true; // it is being read from disk
                }
                self.obey(now);
                matches!(step, Step::Sent)
            }
            None => self.send_own(round, outbox, own, out),
        };
        if sent {
            filled.packets += 1;
            self.solo = Some(Solo { place: wanted.map(|(place, _)| place), at: now });
            self.wake(now + ALONE_WITHIN);
            return false;
        }
        true
    }

    fn is_outstanding(&self, solo: &Solo, own: &Own) -> bool {
        match solo.place {
            None => own.in_flight() > 0,
            Some(place) => {
                let entry = self.lanes[place.lane].entry(place.sequence);
                entry.is_some_and(|entry| matches!(entry.state, State::Sent | State::SentBefore(_)))
            }
        }
    }

    /// Whether the rate allows a publish now.
    fn may_send_now(&mut self, now: Instant) -> bool {
        if self.rate.allows(now) {
            return true;
        }
        let ready = self.rate.ready_at().max(now + PACED_TICK);
        self.wake(ready);
        false
    }

    /// How many may be in flight.
    fn places(&self) -> usize {
        usize::from(self.window.min(self.credit))
    }

    /// Sends what may be in flight with others.
    fn fill_flow(
        &mut self,
        round: &Round<'_>,
        outbox: &mut impl Outbox,
        own: &mut Own,
        out: &mut Vec<u8>,
        filled: &mut Filled,
    ) {
        let now = round.moment.now;
        let careful = self.careful_until.is_some_and(|until| now < until);
        if !careful && self.rate.limit().is_none() {
            filled.packets += self.fill_volatile(round, out, usize::MAX);
        }
        let mut reads = 0;
        let mut dry = [false; 2];
        let mut own_dry = self.own_doubt.until_it_stands || self.own_doubt.solo;
        let mut since_volatile = 0;
        let mut suspects = self.suspicion.in_flight();
        let mut flow_first = std::mem::take(&mut self.flow_first);
        let mut trials_dry = flow_first;
        self.flow_ran_dry = false;
        if let Some(until) = self.suspicion.newcomers_wait_until(now) {
            dry = [true; 2];
            self.wake(until);
        }
        loop {
            if out.len() >= FILL_BYTES || reads >= READS_MAX {
                filled.more = true;
                break;
            }
            if !self.has_place() || self.in_flight() >= self.places() || !self.may_send_now(now) {
                break;
            }
            if !careful && since_volatile >= 3 {
                since_volatile = 0;
                filled.packets += self.fill_volatile(round, out, 1);
                continue;
            }
            let half = (self.places() / 2).max(1);
            // Where there is one place only, it is theirs every second time.
            let others_turn = self.trial_was_last && self.places() < 4 && dry != [true, true];
            if !trials_dry && suspects < half && !others_turn {
                let trial = self.suspicion.next_trial(now).filter(|(_, manner)| *manner == Manner::Among);
                let Some((place, _)) = trial else {
                    trials_dry = true;
                    continue;
                };
                reads += 1;
                match self.send_record(place.lane, Some(place.sequence), round, outbox, out) {
                    Step::Sent => {
                        filled.packets += 1;
                        suspects += 1;
                        self.trial_was_last = true;
                    }
                    Step::Dry => trials_dry = true,
                    Step::Decided | Step::Empty => self.obey(now),
                }
                continue;
            }
            let lanes_may = dry != [true, true];
            let lanes_turn = self.own_was_last && lanes_may;
            if !own_dry && !lanes_turn {
                if self.send_own(round, outbox, own, out) {
                    filled.packets += 1;
                    since_volatile += 1;
                    self.own_was_last = true;
                } else {
                    own_dry = true;
                }
                continue;
            }
            self.own_was_last = false;
            let Some(index) = self.choose(dry) else {
                if !own_dry {
                    continue;
                }
                if std::mem::take(&mut flow_first) {
                    trials_dry = false;
                    continue;
                }
                self.flow_ran_dry = true;
                break;
            };
            match self.send_record(index, None, round, outbox, out) {
                Step::Sent => {
                    self.trial_was_last = false;
                    filled.packets += 1;
                    since_volatile += 1;
                    if dry == [false, false] {
                        self.turn = (self.turn + 1) % 4;
                    }
                }
                Step::Decided => {}
                Step::Dry | Step::Empty => dry[index] = true,
            }
            reads += 1;
            if reads % 256 == 0 {
                self.settle(now, outbox);
            }
        }
        if reads > 0 {
            self.obey(now);
            self.settle(now, outbox);
        }
        if !careful && self.rate.limit().is_some() && self.may_send_now(now) {
            filled.packets += self.fill_volatile(round, out, usize::MAX);
        }
    }

    /// Sends volatile readings, at most `limit`.
    fn fill_volatile(&mut self, round: &Round<'_>, out: &mut Vec<u8>, limit: usize) -> usize {
        let now = round.moment.now;
        if self.ring.is_empty() {
            return 0;
        }
        if self.volatile_paused_until.is_some_and(|until| now < until) {
            self.ring.clear();
            return 0;
        }
        let mut packets = 0;
        while out.len() < FILL_BYTES / 2 && packets < limit && self.may_send_now(now) {
            let Some(content) = self.ring.front() else {
                break;
            };
            let before = out.len();
            let expired = publication::remaining(&content, true, round.moment) == Remaining::Expired;
            if !expired && self.encoder.push_volatile(out, &round.terms, &content, round.moment).is_ok() {
                packets += 1;
                self.rate.take(out.len() - before);
            } else {
                self.ring.note_dropped();
            }
            self.ring.pop();
        }
        if packets > 0 {
            self.counters.volatile_sent += packets as u64;
            self.volatile_sent_at = Some(now);
        }
        packets
    }

    fn has_place(&self) -> bool {
        if self.at_least_once {
            self.flight.free_id().is_some()
        } else {
            !self.ping_outstanding && self.in_flight() < usize::from(self.window)
        }
    }

    /// Which lane's turn it is, among those that may have something.
    fn choose(&self, dry: [bool; 2]) -> Option<usize> {
        let [high, normal] = [Lane::High.index(), Lane::Normal.index()];
        let preferred = if self.turn < 3 { [high, normal] } else { [normal, high] };
        preferred.into_iter().find(|index| !dry[*index])
    }

    /// Hands the next loss not yet reported to the own messages, one at a time.
    fn report_losses(&mut self, now: Instant, outbox: &mut impl Outbox, own: &mut Own) {
        if self.reporting.is_some() || own.is_paused(now, Class::Loss) {
            return;
        }
        for lane in Lane::ALL {
            let reported = &mut self.reported[lane.index()];
            let mut index = 0;
            while let Some(loss) = outbox.loss(lane, index) {
                if index == 0 {
                    reported.retain(|(number, _)| *number >= loss.number);
                }
                index += 1;
                if reported.contains(&(loss.number, loss.count)) {
                    continue; // the journal has not got to it yet
                }
                let Some(topic) = &self.loss_topic else {
                    reported.push((loss.number, loss.count));
                    outbox.loss_reported(lane, loss.number, loss.count);
                    continue;
                };
                let payload = publication::loss_payload(&self.gateway, &loss);
                own.report_loss(lane, loss.number, topic, payload);
                self.reporting = Some(loss);
                return;
            }
        }
    }

    fn send_own(
        &mut self,
        round: &Round<'_>,
        outbox: &mut impl Outbox,
        own: &mut Own,
        out: &mut Vec<u8>,
    ) -> bool {
        let now = round.moment.now;
        loop {
            let Some(due) = own.next(now) else {
                return false;
            };
            let packet_id = if self.at_least_once { self.flight.free_id() } else { None };
            let before = out.len();
            let pushed =
                self.encoder.push_own(out, &round.terms, packet_id, due.topic, due.retain(), due.payload);
            let (key, topic, version) = (due.key.clone(), due.topic.to_owned(), due.version);
            if pushed.is_ok() {
                self.rate.take(out.len() - before);
                self.last_sent_at = Some(now);
            }
            match (pushed, packet_id) {
                (Ok(()), Some(id)) => {
                    self.flight.send(now, id, Sent::Own { key, topic, version });
                    return true;
                }
                (Ok(()), None) => {
                    self.settle_own(now, outbox, own, &key, topic, version, reason_code::SUCCESS);
                    return true;
                }
                (Err(_), _) => {
                    let code = reason_code::PACKET_TOO_LARGE;
                    self.settle_own(now, outbox, own, &key, topic, version, code);
                }
            }
        }
    }

    /// The broker answered an own message with `code`, 0 for success.
    #[allow(clippy::too_many_arguments)] // what was sent, and where it came from
    fn settle_own(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        own: &mut Own,
        key: &Key,
        topic: String,
        version: u64,
        code: u8,
    ) {
        if let Some(class) = own.class(key) {
            self.own_doubt.strikes[class as usize] = 0;
        }
        if !reason_code::is_refusal(code) {
            own.settle(key, version);
            if let Key::Loss(lane, number) = key
                && let Some(loss) = self.reporting.take_if(|loss| loss.number == *number)
            {
                self.reported[lane.index()].push((loss.number, loss.count));
                outbox.loss_reported(*lane, loss.number, loss.count);
            }
            return;
        }
        if Cause::Code(code).is_quota() {
            self.complain(now, now, Cause::Code(code));
            return own.postpone(now, key);
        }
        if let Key::Loss(_, number) = key
            && self.reporting.take_if(|loss| loss.number == *number).is_some()
        {
            // It stays in the journal: perhaps the broker is told to take it one day.
            own.settle(key, version);
            own.pause(now, Class::Loss);
            self.events.push_back(Event::OwnRefused { topic, code });
        } else if own.refuse(now, key) {
            self.refused_at = Some(now);
            self.events.push_back(Event::OwnRefused { topic, code });
        }
    }

    /// Sends the next record of a lane in its order, or, as `trial`, a suspect by its sequence.
    fn send_record(
        &mut self,
        index: usize,
        trial: Option<u64>,
        round: &Round<'_>,
        outbox: &mut impl Outbox,
        out: &mut Vec<u8>,
    ) -> Step {
        let now = round.moment.now;
        let lane = &mut self.lanes[index];
        if !lane.may_send(now) {
            return Step::Dry;
        }
        let purpose = trial.map_or(Purpose::Flow, Purpose::Trial);
        if !lane.may_read(now, purpose) {
            self.wake(now + PENDING_TICK);
            return Step::Dry;
        }
        match trial {
            Some(sequence) => lane.seek(outbox, sequence),
            None => {
                if lane.is_full(usize::from(self.window)) {
                    self.tell_blocked(index);
                    return Step::Dry;
                }
                self.blocked_told[index] = false;
                if lane.backlog && !self.pace.allows(now) {
                    let ready = self.pace.ready_at().max(now + PACED_TICK);
                    self.wake(ready);
                    return Step::Dry;
                }
                lane.align(outbox);
            }
        }
        let lane = &mut self.lanes[index];
        let next = outbox.next(lane.lane());
        let was_pending = lane.is_pending(purpose);
        lane.note_pending(now, purpose, matches!(next, Next::Pending));
        // Trials that wait for the disk, one after the other, leave the lane to the others in
        // between.
        self.flow_first |= was_pending && trial.is_some();
        let record = match next {
            Next::Empty => {
                lane.handle_empty();
                lane.backlog = false;
                return Step::Empty;
            }
            Next::Pending => return Step::Dry,
            Next::Record(record) => record,
        };
        let topic = TopicKey::of(record.content.topic);
        let sequence = record.sequence;
        let place = lane.place(sequence);
        let admitted = lane.admit(record.id, topic);
        let to_be_sent = match trial {
            Some(wanted) => wanted == sequence && lane.entry(sequence).is_some(),
            None => admitted.is_some(),
        };
        if !to_be_sent {
            return Step::Decided;
        }
        if trial.is_none() && self.suspicion.is_gated(topic) {
            self.hold_back(now, place, topic);
            return Step::Decided;
        }
        let lane = &mut self.lanes[index];
        let (serial, was_held) =
            lane.entry(sequence).map_or((0, false), |entry| (entry.serial, entry.held_from > 0));
        let remaining = publication::remaining(&record.content, record.same_boot, round.moment);
        if remaining == Remaining::Expired {
            lane.set(sequence, State::Lost);
            self.suspicion.forget(place);
            return Step::Decided;
        }
        let mut record = record;
        if record.content.retain {
            let coming = match (record.original, serial) {
                (Some(_), _) => Coming::Late,
                _ if trial.is_some() => Coming::Late,
                (None, 0) if !was_held => Coming::First,
                (None, _) => Coming::Again,
            };
            // Of an earlier opening of the journal: whatever came in between is not known.
            let same_run = record.original.is_none_or(|original| original.run == record.id.run);
            let received = if record.same_boot && same_run { record.content.received.boottime_ms } else { 0 };
            let retained = self.retained.get_or_insert_with(|| NewestRetained::new(round.moment.boottime_ms));
            record.content.retain = retained.may_retain(topic, received, coming);
        }
        let packet_id = if self.at_least_once { self.flight.free_id() } else { None };
        let before = out.len();
        let pushed = self.encoder.push_record(out, &round.terms, packet_id, &record, remaining, round.moment);
        if pushed.is_err() {
            return self.refuse_too_large(now, place, trial.is_some());
        }
        self.rate.take(out.len() - before);
        if trial.is_none() {
            let age = publication::age_ms(record.content.received, record.same_boot, round.moment);
            // Stored in an earlier boot and of unknown age: certainly not fresh.
            lane.backlog = age.is_none_or(|age| age > BACKLOG_AGE_MS);
            if lane.backlog {
                self.pace.take();
            }
        }
        if let Some(original) = record.original
            && self.retried.len() < RETRIED_MAX
        {
            self.retried.insert((index, sequence), original);
        }
        let (serial, state) = match packet_id {
            Some(id) => (self.flight.send(now, id, Sent::Record(index, sequence)), State::Sent),
            None => (self.flight.next_serial(), State::SentBefore(round.next_ping)),
        };
        lane.note_sent(sequence, state, serial);
        self.last_sent_at = Some(now);
        self.counters.sent += 1;
        if !self.suspicion.is_idle() {
            self.suspicion.name(topic, record.content.topic);
            self.suspicion.note_sent(now, place);
        }
        Step::Sent
    }

    fn tell_blocked(&mut self, index: usize) {
        let lane = self.lanes[index].lane();
        if let Some(id) = self.blocked_by(lane)
            && !std::mem::replace(&mut self.blocked_told[index], true)
        {
            self.events.push_back(Event::Blocked { lane, id });
        }
    }

    /// It is longer than this connection's Maximum Packet Size: that may be a mistake of the
    /// broker's, which is judged like any other refusal, though nothing was sent.
    fn refuse_too_large(&mut self, now: Instant, place: RecordPlace, trial: bool) -> Step {
        let serial = self.flight.next_serial();
        let lane = &mut self.lanes[place.lane];
        lane.note_sent(place.sequence, State::Unsent, serial);
        if let Some(entry) = lane.entry(place.sequence).copied() {
            self.refuse(now, place, &entry, Cause::Code(reason_code::PACKET_TOO_LARGE), false);
        }
        // Where everything is too large newcomers wait, as they do for a broker that refuses
        // everything.
        match self.suspicion.newcomers_wait_until(now) {
            Some(until) if !trial => {
                self.wake(until);
                Step::Dry
            }
            _ => Step::Decided,
        }
    }

    /// A record on a topic whose newcomers wait.
    fn hold_back(&mut self, now: Instant, place: RecordPlace, topic: TopicKey) {
        let lane = &mut self.lanes[place.lane];
        let suspect = if self.suspicion.is_suspect(place) {
            self.suspicion.hold(place);
            true
        } else {
            !self.suspicion.has_defendant(topic) && self.suspicion.accuse(now, place, topic)
        };
        lane.set(place.sequence, if suspect { State::Suspect } else { State::Waiting });
        if let Some(entry) = lane.entry_mut(place.sequence) {
            entry.suspect = suspect;
            entry.held_from = self.flight.serial();
        }
    }

    /// Does with records what the suspicion says.
    fn obey(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            while let Some(place) = lane.poll_vanished() {
                self.suspicion.forget(place);
            }
        }
        while let Some(ruling) = self.suspicion.poll_ruling() {
            match ruling {
                Ruling::Release(place) => {
                    let lane = &mut self.lanes[place.lane];
                    if lane.entry(place.sequence).is_some_and(|entry| entry.state == State::Suspect) {
                        lane.set(place.sequence, State::Unsent);
                    }
                    if let Some(entry) = lane.entry_mut(place.sequence) {
                        entry.suspect = false;
                    }
                }
                Ruling::Condemn(place, cause) => {
                    self.lanes[place.lane].set(place.sequence, State::Rejected(cause));
                }
                Ruling::Open(topic) => {
                    self.lanes.iter_mut().for_each(|lane| lane.set_waiting(topic, u64::MAX, State::Unsent));
                }
                Ruling::CondemnWaiting(topic, cause, serial) => {
                    let state = State::Rejected(cause);
                    self.lanes.iter_mut().for_each(|lane| lane.set_waiting(topic, serial, state));
                }
                Ruling::Promote(topic, newest) => self.promote(now, topic, newest),
                Ruling::Resume => self.credit = 1,
            }
        }
        if self.overflowed && self.suspicion.has_room() {
            self.overflowed = false;
            let suspicion = &self.suspicion;
            self.lanes.iter_mut().for_each(|lane| lane.release_waiting(|topic| suspicion.is_gated(topic)));
        }
    }

    fn promote(&mut self, now: Instant, topic: TopicKey, newest: bool) {
        let waits = |lane: &LaneState| Some(lane.place(lane.waiting(topic, newest)?));
        let Some(place) = self.lanes.iter().find_map(waits) else { return };
        if self.suspicion.accuse(now, place, topic) {
            let lane = &mut self.lanes[place.lane];
            lane.set(place.sequence, State::Suspect);
            if let Some(entry) = lane.entry_mut(place.sequence) {
                entry.suspect = true;
            }
        }
    }

    /// Takes the broker's answers.
    pub fn handle_acknowledgements(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        own: &mut Own,
        acknowledgements: &[Acknowledgement],
    ) {
        for &Acknowledgement { packet_id, code } in acknowledgements {
            let Some((sent, serial, sent_at)) = self.flight.answer(now, packet_id) else {
                self.counters.unknown_answers += 1;
                continue;
            };
            match sent {
                Sent::Own { key, topic, version } => {
                    self.settle_own(now, outbox, own, &key, topic, version, code);
                }
                Sent::Record(index, sequence) => {
                    let place = self.lanes[index].place(sequence);
                    let Some(entry) = self.lanes[index].entry(sequence).copied() else { continue };
                    let cause = Cause::Code(code);
                    if !reason_code::is_refusal(code) {
                        self.take(now, place, entry.topic, serial);
                    } else if !matches!(entry.state, State::Sent | State::SentBefore(_)) {
                        // Set aside by its owner meanwhile; that stays.
                    } else if cause.is_quota() {
                        self.throttle(now, place, &entry, code, sent_at);
                    } else {
                        self.refuse(now, place, &entry, cause, false);
                    }
                }
            }
        }
        self.obey(now);
        self.settle(now, outbox);
    }

    fn take(&mut self, now: Instant, place: RecordPlace, topic: TopicKey, serial: u64) {
        self.counters.acknowledged += 1;
        self.taken_here += 1;
        self.taken_at = Some(now);
        if self.taken_topics.len() < TOPICS_MAX {
            self.taken_topics.insert(topic);
        }
        self.lanes[place.lane].take(place.sequence);
        self.credit = self.credit.saturating_add(1);
        self.rate.handle_taken(now);
        self.suspicion.handle_taken(now, place, topic, serial);
        if !self.retried.is_empty()
            && let Some(original) = self.retried.remove(&(place.lane, place.sequence))
        {
            self.events.push_back(Event::Recovered { original });
        }
    }

    fn throttle(&mut self, now: Instant, place: RecordPlace, entry: &LaneEntry, code: u8, sent_at: Instant) {
        let cause = Cause::Code(code);
        // Too much on a few topics while everything is taken on others is a bound of these topics.
        let is_of_topic = self.is_quota_of_topic(entry.topic);
        if !entry.suspect && !is_of_topic {
            self.complain(now, sent_at, cause);
        }
        let throttled = entry.throttled.saturating_add(1);
        if let Some(entry) = self.lanes[place.lane].entry_mut(place.sequence) {
            entry.throttled = throttled;
        }
        if entry.suspect || throttled >= THROTTLES {
            self.refuse(now, place, entry, cause, is_of_topic);
        } else {
            self.lanes[place.lane].set(place.sequence, State::Unsent);
        }
        if entry.suspect || is_of_topic {
            return; // tried alone, or in its own time: the others do not pause for it
        }
        if let Some(wait) = self.suspicion.handle_throttled(now) {
            self.credit = self.credit.min(self.window) / 2;
            if self.suspicion.throttles() > 1 {
                self.events.push_back(Event::Throttled { code, wait });
                self.credit = 1;
            }
            self.credit = self.credit.max(1);
        }
    }

    fn is_quota_of_topic(&mut self, topic: TopicKey) -> bool {
        let others_only = !self.taken_topics.is_empty()
            && self.taken_topics.len() < TOPICS_MAX
            && !self.taken_topics.contains(&topic);
        if others_only && self.quota_topics.len() < TOPICS_MAX {
            self.quota_topics.insert(topic);
        }
        others_only && self.quota_topics.len() <= DROPPED_FOR_THEMSELVES
    }

    /// `of_topic`: others are taken meanwhile, and nothing of its topic.
    fn refuse(&mut self, now: Instant, place: RecordPlace, entry: &LaneEntry, cause: Cause, of_topic: bool) {
        if matches!(cause, Cause::Code(_)) {
            self.refused_at = Some(now);
        }
        let known = self.suspicion.is_suspect(place);
        let held = self.suspicion.handle_refused(now, place, entry.topic, entry.serial, cause, of_topic);
        let lane = &mut self.lanes[place.lane];
        // One that finds no room among the suspects would come again at once in its order, before
        // all others.
        self.overflowed |= !held;
        lane.set(place.sequence, if held { State::Suspect } else { State::Waiting });
        if let Some(entry) = lane.entry_mut(place.sequence) {
            entry.suspect = held;
        }
        if held && !known {
            self.events.push_back(Event::Suspected { lane: lane.lane(), id: entry.id, cause });
        }
        if self.suspicion.is_brokers_fault() {
            self.credit = 1;
        }
    }

    /// All PINGREQs up to `ping` are answered: a broker without QoS 1 has read what was sent
    /// before.
    pub fn handle_ping_answered(&mut self, now: Instant, outbox: &mut impl Outbox, ping: u64) {
        if self.at_least_once {
            return;
        }
        self.ping_outstanding = false;
        let mut answered = Vec::new();
        for index in 0..self.lanes.len() {
            self.lanes[index].answered_by_ping(ping, &mut answered);
            for entry in answered.drain(..) {
                let place = self.lanes[index].place(entry.id.sequence);
                self.take(now, place, entry.topic, entry.serial);
            }
        }
        self.obey(now);
        self.settle(now, outbox);
    }

    fn settle(&mut self, now: Instant, outbox: &mut impl Outbox) {
        let (events, counters, retried) = (&mut self.events, &mut self.counters, &mut self.retried);
        for lane in &mut self.lanes {
            lane.settle(now, outbox, |lane, departure| match departure {
                Departure::Rejected { id, cause } => {
                    retried.remove(&(lane.index(), id.sequence));
                    counters.rejected += 1;
                    events.push_back(Event::Rejected { lane, id, cause });
                }
                Departure::Expired { .. } => counters.expired += 1,
                Departure::RejectedFull { wait } => events.push_back(Event::RejectedFull { lane, wait }),
            });
        }
    }

    /// Sets a record aside because its owner says so.
    pub fn skip(&mut self, now: Instant, outbox: &mut impl Outbox, id: RecordId) -> Skip {
        let mut answer = Skip::NotFound;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if lane.oldest().is_none() {
                lane.align(outbox);
                match outbox.next(lane.lane()) {
                    Next::Record(record) => drop(lane.admit(record.id, TopicKey::of(record.content.topic))),
                    Next::Empty => lane.handle_empty(),
                    Next::Pending => answer = Skip::BeingRead,
                }
            }
            if lane.entry(id.sequence).is_some_and(|entry| entry.id == id) {
                let place = lane.place(id.sequence);
                lane.set(id.sequence, State::Rejected(Cause::Skipped));
                self.suspicion.forget(place);
                self.obey(now);
                self.settle(now, outbox);
                return Skip::Done;
            }
        }
        answer
    }

    /// Publishes sent and not answered, own messages included.
    pub fn in_flight(&self) -> usize {
        if self.at_least_once { self.flight.len() } else { self.lanes.iter().map(LaneState::in_flight).sum() }
    }

    /// Whether every place of the window is taken.
    pub fn is_window_full(&self) -> bool {
        self.terms.is_some() && !self.has_place()
    }

    /// The window of this connection; 0 without one.
    pub fn window(&self) -> u16 {
        if self.terms.is_some() { self.window } else { 0 }
    }

    /// Numbers since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Readings of `qos = 0` rules dropped since the start.
    pub fn volatile_dropped(&self) -> u64 {
        self.ring.dropped()
    }

    /// Readings of `qos = 0` rules waiting.
    pub fn volatile_waiting(&self) -> usize {
        self.ring.len()
    }

    /// Until when each lane is stopped because a rejected record finds no room.
    pub fn stopped_until(&self, lane: Lane) -> Option<Instant> {
        self.lanes[lane.index()].stopped_until()
    }

    /// The oldest record of a lane that takes no more until that one is decided.
    pub fn blocked_by(&self, lane: Lane) -> Option<RecordId> {
        let lane = &self.lanes[lane.index()];
        let held =
            |entry: &&LaneEntry| matches!(entry.state, State::Suspect | State::Waiting) || entry.suspect;
        lane.oldest().filter(held).filter(|_| lane.is_full(usize::from(self.window))).map(|entry| entry.id)
    }

    /// When the broker took a reading last, over all connections.
    pub fn taken_at(&self) -> Option<Instant> {
        self.taken_at
    }

    /// Since when no reading was taken although the broker refused some, and until when all wait,
    /// if they do.
    pub fn nothing_taken(&self, now: Instant) -> Option<(Instant, Option<Instant>)> {
        let since = self.suspicion.nothing_taken_since()?;
        Some((since, self.suspicion.newcomers_wait_until(now)))
    }

    /// How many records of a lane are held back: suspected, or on a topic that is.
    pub fn held_back(&self, lane: Lane) -> usize {
        if self.suspicion.is_idle() { 0 } else { self.lanes[lane.index()].held() }
    }

    /// How many records of a lane the broker has that stay there behind one that is not decided.
    pub fn delivered_behind(&self, lane: Lane) -> u64 {
        self.lanes[lane.index()].delivered_behind()
    }

    /// How many records are suspected.
    pub fn suspect_count(&self) -> usize {
        self.suspicion.len()
    }

    /// The suspects, at most `limit`.
    pub fn suspects(&self, limit: usize) -> Vec<HeldRecord> {
        let held = |view: suspicion::SuspectView| {
            let lane = &self.lanes[view.place.lane];
            let id = lane.entry(view.place.sequence)?.id;
            let suspicion::SuspectView { topic, cause, tries, .. } = view;
            Some(HeldRecord { lane: lane.lane(), id, topic, cause, tries })
        };
        self.suspicion.view(limit).into_iter().filter_map(held).collect()
    }

    /// Publishes a second, if anything limits them, and whether that is because the broker
    /// complained.
    pub fn rate_limit(&self) -> Option<(f64, bool)> {
        Some((self.rate.limit()?, self.rate.lowered_to().is_some()))
    }

    /// When to fill again, though nothing comes from outside.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.terms?;
        let stopped = self.lanes.iter().filter_map(LaneState::stopped_until);
        stopped.chain(self.wake_at).min()
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

fn place_of(sent: &Sent) -> Option<(usize, u64)> {
    match sent {
        Sent::Record(lane, sequence) => Some((*lane, *sequence)),
        Sent::Own { .. } => None,
    }
}

enum Step {
    /// A record was appended.
    Sent,
    /// A record was read and decided on without being sent, or was known already.
    Decided,
    /// The lane may not or cannot go on now.
    Dry,
    /// The lane has nothing more.
    Empty,
}
