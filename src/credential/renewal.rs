//! The renewal of one certificate, from due to confirmed, without I/O.
//!
//! ```text
//! Resting ──due──> Preparing ──key, request──> Ordering ──chain──> Staging ──valid, on disk──> Staged
//!    ^                  ^                        │    ^                │                        │   ^
//!    │                  │                 not yet│    │              flaw                       v   │ network, alternate
//!    │<── failed ───────┴────────────────────────┤  Later              │                     Probing─┤
//!    │<──────────────────────────────────────────┴─────────────────────┘                        │   │
//!    │<── the old one is accepted, the candidate is given up ───────── Comparing <── refused ───┤   │
//!    └<── confirmed ──────────────────────────────────────────────── Committing <── accepted ───┘───┘
//! ```
//!
//! **What a candidate is given up for.** Not for what the network does. A refusal (a TLS alert, or
//! a CONNACK other than 0x88, 0x89, 0x97, 0x9F) counts once the present certificate is accepted
//! after it; a close before CONNACK, once that happened three times. Where the present one is not
//! accepted either, or has expired, both are tried in turn; after [`ALTERNATIONS_MAX`] turns
//! another certificate is asked for, since then neither works.
//!
//! **A probe that decides nothing** is repeated: with patience where the present certificate
//! serves, within 15 min where it is refused or has expired. After [`BESIDE_AFTER`] such turns
//! another one is asked for, as it is when a person enrols: the candidate stays, and is tried
//! between the attempts, until the other one takes its place. A candidate that has expired itself
//! is given up; one that is not valid yet waits until it is, for [`SKEW`] at most.
//!
//! **A candidate that ends sooner** than the present certificate is taken only because the peer
//! refuses the present one. That may be over by the time of the probe, so the present one is tried
//! once more directly before; if it is accepted the candidate is given up. Where that is not
//! decided the candidate waits, unless a person asks for its probe.
//!
//! Where there is no present certificate the candidate is committed without a probe: there is
//! nothing that could be lost.
//!
//! **A present certificate that the peer refuses.** After [`REFUSALS`] refusals, or [`CLOSES_MAX`]
//! closes before CONNACK, the one before is tried, if there is one; it is a candidate like any
//! other, and comes into use once it is accepted. After [`ORDER_AFTER`] refusals another one is
//! asked for, whatever is due; where that fails, by turns with the present certificate and as if it
//! were the first. A close says too little for that. Both are repeated with back-off as long as the
//! refusals last. The one before is tried as well where no connection with the present one has
//! lasted since it came into use, whatever the reason ([`Steadiness`]).
//!
//! **Taking the one before back** because a person asks is the same trial. If it does not succeed
//! at once it is over, and the present one connects again.
//!
//! **An enrolment that a person asks for** is tried [`ENROLLS_MAX`] times, and can be taken back
//! before; where there is no certificate it goes on all the same.
//!
//! **A restart** forgets nothing of it: [`Kept`]. Refusals that were counted before count again
//! with the first one after it, since somebody may have mended something meanwhile.
//!
//! The shell does what [`Renewal::poll_action`] says and answers with the `handle_` of the same
//! name; one action is out at a time.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::candidate::{Demands, SKEW};
use super::decision::{self, Clock, Decision, History, NEVER, Refused, SPACING, Settings, Validity};
use super::source::{OrderKind, Outcome};
use super::steadiness::Steadiness;
use crate::clock::UnixTime;

/// Closes before CONNACK that give a candidate up, the present certificate accepted after each.
pub const CLOSES_MAX: u32 = 3;
/// Turns of a candidate and a present certificate that both are not accepted.
pub const ALTERNATIONS_MAX: u32 = 8;
/// Probes that decide nothing, while the present certificate does not serve, after which another
/// one is asked for beside the candidate.
pub const BESIDE_AFTER: u32 = 4;
/// So long after its notBefore a candidate is tried: the peer's clock is not ours.
const SETTLES: Duration = Duration::from_secs(3);
/// So long the next order waits for the files of what was given up.
const AFTER_DISCARD: Duration = Duration::from_secs(5);
/// Refusals in a row of the present certificate after which the one before is tried.
pub const REFUSALS: u32 = 2;
/// Refusals in a row of the present certificate after which another one is asked for.
pub const ORDER_AFTER: u32 = 3;
/// So often an enrolment is tried that a person asked for beside a certificate in use.
pub const ENROLLS_MAX: u32 = 8;
/// So much weighs each return to the certificate before, in failures, for the time of the next
/// order: what the peer accepts and later refuses is not ordered in a loop.
const RETURN_WEIGHT: u32 = 4;
/// Once a certificate was accepted for so long, earlier returns do not count.
const PEACE: Duration = Duration::from_secs(86_400);
/// A source that has said "not yet" for so long is named.
pub const PATIENCE: Duration = Duration::from_secs(3600);
/// How long after a probe the present certificate is waited for.
const COMPARE_WITHIN: Duration = Duration::from_secs(600);
/// A source's "not yet" is kept to these bounds.
const LATER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(6 * 3600));
/// So often a source may say "not yet" before a new request is made.
const LATER_MAX: u32 = 500;

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is accepted.
    Accepted,
    /// The peer refuses it: why.
    Refused(String),
    /// The peer closed the connection before CONNACK, and said nothing.
    Closed(String),
    /// It was not decided: the network, a time-out, a broker that is busy.
    Fault(String),
}

/// How the present certificate fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A connection stands that was made with it.
    Accepted,
    /// The peer refuses it.
    Refused,
    /// Nothing is known at present.
    Unknown,
}

/// How the peer refused the present certificate, since it was accepted last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How often it said so, by a TLS alert or in CONNACK.
    pub times: u32,
    /// How often it closed the connection before CONNACK, and said nothing.
    pub closes: u32,
    /// What it was last.
    pub why: String,
    /// It says that the certificate has expired.
    pub as_expired: bool,
}

impl Refusals {
    fn is_none(&self) -> bool {
        self.times == 0 && self.closes == 0
    }

    /// Those of before and these.
    fn after(self, before: &Refusals) -> Refusals {
        let (times, closes) =
            (before.times.saturating_add(self.times), before.closes.saturating_add(self.closes));
        Refusals { times, closes, ..self }
    }

    /// Whether it is the certificate that does not serve, by what was said or by closes alone.
    fn are_against_it(&self) -> bool {
        self.are_repeated() || self.closes >= CLOSES_MAX
    }

    /// Whether it is the certificate that is refused, and not once.
    pub fn are_repeated(&self) -> bool {
        self.times >= REFUSALS
    }
}

/// What a restart must not forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What was tried.
    pub history: History,
    /// What the last attempt failed with.
    pub last_error: Option<String>,
    /// Whether a connection was made with the present certificate.
    pub confirmed: bool,
    /// A person asks for an enrolment in place of a renewal.
    pub enroll_asked: bool,
    /// How often the one before came into use by itself.
    pub returns: u32,
    /// Since when the present one is accepted after such a return, by a trusted clock.
    pub accepted_since: Option<UnixTime>,
    /// How the peer refused the present one, counted as far as something depends on it.
    pub refusals: Refusals,
    /// How often the peer closed on the candidate.
    pub closes: u32,
    /// Turns of the candidate and the present one that both are not accepted.
    pub alternations: u32,
}

/// Why a chain was not staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageFault {
    /// It is not what was asked for: the flaw.
    Flaw(String),
    /// It could not be written.
    Disk(String),
}

/// When the connection that stands may be given up for a probe, where neither certificate is
/// accepted beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    /// Only where the peer says that it does not admit the client id.
    OfClientId,
    /// Also after some times in a row: the present certificate is near its end.
    AtLast,
    /// At once: a person asks for the probe.
    AtOnce,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have a key and a request, on disk.
    Prepare,
    /// Send the request: a renewal with the present certificate, an enrolment without it.
    Order {
        /// What kind.
        kind: OrderKind,
    },
    /// Judge this chain, and keep it as the candidate.
    Stage {
        /// Leaf first, DER.
        chain: Vec<Vec<u8>>,
    },
    /// Keep the one before as the candidate.
    StagePrevious,
    /// Give the candidate up, and keep the request. No answer is waited for.
    Unstage,
    /// Connect with the present certificate, unless a connection with it stands.
    TryPresent,
    /// Connect with the candidate.
    Probe {
        /// When the connection that stands may be given up for that.
        in_place: InPlace,
    },
    /// Put the candidate in the place of the present one.
    Commit,
    /// Connect with the candidate until it can be put there: it is proven, and the disk does not
    /// take it. No answer is waited for.
    UseCandidate,
    /// Give the candidate and its request up. No answer is waited for.
    Discard,
    /// The next request has a new key. No answer is waited for.
    Forget,
}

/// What happened: for the log, the history and those who wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request is being made.
    Begun(OrderKind),
    /// The source says: not yet.
    Later(Duration),
    /// A valid candidate is on disk.
    Staged,
    /// One is on disk that no source was asked for.
    Offered,
    /// A connection with it is tried.
    Probing,
    /// The probe decided nothing; it is repeated.
    Undecided {
        /// Why.
        why: String,
        /// After so long.
        retry_in: Duration,
    },
    /// The candidate was refused; the present one decides what that means.
    Refused(String),
    /// The candidate is not valid before then.
    NotYetValid(UnixTime),
    /// The candidate is given up.
    Rejected(String),
    /// The candidate is now the present one.
    Committed,
    /// A connection stands with it.
    Confirmed,
    /// The present one does not serve: why. The one before is tried.
    FallingBack(String),
    /// The one before is now the present one.
    Returned,
    /// The one before is not: why.
    NotReturned(String),
    /// It failed; it is tried again, or a person has to do something.
    Failed(String),
    /// The enrolment that a person asked for failed too often, and is not tried any more.
    EnrollGivenUp,
    /// A person took the enrolment back.
    EnrollTakenBack,
    /// The certificate has expired or is missing, and nothing can enrol.
    Expired,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Begun(OrderKind::Enroll) => f.write_str("asking for a certificate (enrolment)"),
            Event::Begun(OrderKind::Reenroll) => f.write_str("asking for the next certificate"),
            Event::Later(after) => write!(f, "the source says: not before {} s", after.as_secs()),
            Event::Staged => f.write_str("a valid certificate was issued and is stored"),
            Event::Offered => f.write_str("another certificate was provided and is stored"),
            Event::Probing => f.write_str("trying to connect with the new certificate"),
            Event::Undecided { why, retry_in } => {
                write!(f, "the new certificate could not be tried: {why}; again in {} s", retry_in.as_secs())
            }
            Event::Refused(why) => write!(f, "the new certificate was refused: {why}"),
            Event::NotYetValid(begin) => write!(
                f,
                "the new certificate is not valid before {begin} by the clock of this gateway, and is tried then; compare the \
                 clock of its CA"
            ),
            Event::Rejected(why) => {
                write!(f, "the new certificate is given up, the old one stays in use: {why}")
            }
            Event::Committed => f.write_str("the new certificate is in use"),
            Event::Confirmed => f.write_str("a connection stands with the new certificate"),
            Event::FallingBack(why) => {
                write!(f, "the certificate in use does not serve, and the one before is tried: {why}")
            }
            Event::Returned => f.write_str("the certificate before is in use again"),
            Event::NotReturned(why) => write!(f, "the certificate before is not taken into use: {why}"),
            Event::Failed(why) => write!(f, "no new certificate: {why}"),
            Event::EnrollGivenUp => write!(
                f,
                "the enrolment that was asked for failed {ENROLLS_MAX} times and is given up; the certificate in use stays"
            ),
            Event::EnrollTakenBack => f.write_str("the enrolment that was asked for is taken back"),
            Event::Expired => f.write_str(
                "the certificate has expired or is missing, and nothing is configured that could enrol; install one",
            ),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Resting,
    Preparing,
    Ordering,
    Later {
        until: Instant,
    },
    Staging,
    Staged {
        until: Instant,
    },
    /// The present one is tried before a candidate that ends sooner.
    TryingPresent {
        /// A person asks for the probe.
        asked: bool,
    },
    Probing,
    Comparing {
        why: String,
        definite: bool,
        until: Instant,
    },
    Committing,
    /// The disk refused the commit; it is tried again.
    CommitFailed {
        until: Instant,
    },
}

/// Where a candidate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The source, a person, or files.
    New,
    /// It was in use before; a person wants it again.
    Asked,
    /// It was in use before; the present one is refused.
    FallBack,
}

/// One certificate.
#[derive(Debug)]
pub struct Renewal {
    settings: Settings,
    step: Step,
    origin: Origin,
    refusals: Refusals,
    /// Those before the restart, until the peer accepts the present one.
    earlier: Refusals,
    /// What the prover said last.
    said: Refusals,
    /// Of the one before.
    previous: Option<Validity>,
    /// Of the candidate.
    candidate: Option<Validity>,
    /// The candidate is not what its owner put there, whatever its dates.
    is_compared: bool,
    /// The one before is not tried by itself earlier.
    fall_back_at: Option<Instant>,
    /// Why it is tried by itself: by then the peer may have accepted it.
    fall_back_why: String,
    /// How often in a row it was tried by itself, and not accepted.
    fall_back_failures: u32,
    /// How often the one before came into use by itself.
    returns: u32,
    accepted_since: Option<Instant>,
    /// The same by a trusted clock, where it matters over a restart.
    accepted_at: Option<UnixTime>,
    /// Since when the source says "not yet".
    later_since: Option<Instant>,
    kind: OrderKind,
    history: History,
    last_error: Option<String>,
    present: Option<Validity>,
    /// No attempt before then.
    not_before: Option<Instant>,
    closes: u32,
    alternations: u32,
    faults: u32,
    /// Those of them while the present one did not serve.
    stuck: u32,
    /// A candidate stays while another one is asked for.
    beside: bool,
    /// A person wants another one in the place of the candidate.
    replaces: bool,
    /// How often another one took the place of a candidate that nothing was decided of.
    besides: u32,
    /// No other one is asked for in its place earlier.
    beside_at: Option<Instant>,
    /// The candidate is not valid before then.
    begins_at: Option<UnixTime>,
    /// The present one did not serve when the candidate was tried.
    is_needed: bool,
    /// A connection stood while the candidate waited.
    stood: bool,
    laters: u32,
    confirmed: bool,
    said_confirmed: bool,
    steadiness: Steadiness,
    /// How many connections there were.
    connections: u64,
    said_expired: bool,
    /// A person asks for a probe at once.
    probe_asked: bool,
    /// A person asks for an enrolment in place of a renewal.
    enroll_asked: bool,
    /// A person wants the source asked at once that said "not yet".
    order_asked: bool,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Renewal {
    /// What was found on disk: the present certificate, what was kept, and whether there is a
    /// candidate.
    pub fn new(
        now: Instant,
        settings: Settings,
        present: Option<Validity>,
        kept: Kept,
        has_candidate: bool,
    ) -> Renewal {
        let Kept { history, last_error, confirmed, enroll_asked, returns, accepted_since, refusals, .. } =
            kept;
        let mut renewal = Renewal {
            settings,
            step: Step::Resting,
            origin: Origin::New,
            refusals: Refusals::default(),
            earlier: refusals,
            said: Refusals::default(),
            previous: None,
            candidate: None,
            is_compared: false,
            fall_back_at: None,
            fall_back_why: String::new(),
            fall_back_failures: 0,
            returns,
            accepted_since: None,
            accepted_at: accepted_since,
            later_since: None,
            kind: OrderKind::Reenroll,
            history,
            last_error,
            present,
            not_before: None,
            closes: 0,
            alternations: 0,
            faults: 0,
            stuck: 0,
            beside: false,
            replaces: false,
            besides: 0,
            beside_at: None,
            begins_at: None,
            is_needed: false,
            stood: false,
            laters: 0,
            confirmed,
            said_confirmed: confirmed,
            steadiness: match present {
                Some(_) if !confirmed => Steadiness::new(now),
                _ => Steadiness::default(),
            },
            connections: 0,
            said_expired: false,
            probe_asked: false,
            enroll_asked,
            order_asked: false,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        };
        if has_candidate {
            renewal.handle_candidate(now);
            renewal.is_compared = !renewal.settings.by_hand && !renewal.enroll_asked;
            (renewal.closes, renewal.alternations) = (kept.closes, kept.alternations);
        }
        renewal
    }

    /// What is to be kept over a restart.
    pub fn kept(&self) -> Kept {
        let Refusals { times, closes, why, as_expired } = match self.said.is_none() {
            true => self.earlier.clone(),
            false => self.refusals.clone(),
        };
        Kept {
            history: History { refused: Refused::No, ..self.history.clone() },
            last_error: self.last_error.clone(),
            confirmed: self.confirmed && self.steadiness.is_shown(),
            enroll_asked: self.enroll_asked,
            returns: self.returns,
            accepted_since: self.accepted_at,
            // Not a write for each refusal of an outage of weeks.
            refusals: Refusals {
                times: times.min(ORDER_AFTER),
                closes: closes.min(CLOSES_MAX),
                why,
                as_expired,
            },
            closes: self.closes,
            alternations: self.alternations,
        }
    }

    /// What a certificate from the source has to keep of the present one. One that is refused or
    /// has expired is to be replaced by whatever the issuer still gives, also by what ends no
    /// later; and an enrolment that a person asked for is the first one.
    pub fn demands(&self, clock: Clock) -> Demands {
        let longer = self.serves(clock) && clock.trusted && !self.enroll_asked;
        Demands { identity: !self.enroll_asked, longer }
    }

    /// The same of a certificate that a person brings.
    pub fn demands_by_hand(&self, clock: Clock) -> Demands {
        let serves = self.serves(clock);
        Demands { identity: serves, longer: serves && clock.trusted }
    }

    /// Nothing is known against the present certificate. A close without a word is not: it may be
    /// anything.
    pub fn serves(&self, clock: Clock) -> bool {
        let is_over = self.present.is_some_and(|present| clock.trusted && present.has_expired(clock.now));
        !is_over && !self.refusals.are_repeated()
    }

    /// Goes on with other settings.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// What was tried, to be kept.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What the last attempt failed with.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Whether nothing is under way.
    pub fn is_resting(&self) -> bool {
        self.step == Step::Resting
    }

    /// How the peer refuses the present certificate, if it does so again and again.
    pub fn refused(&self) -> Option<&str> {
        (self.present.is_some() && self.refusals.are_repeated()).then_some(&*self.refusals.why)
    }

    /// For how long no connection with the present certificate has lasted since it came into use,
    /// where none stands.
    pub fn unsteady_for(&self, now: Instant) -> Option<Duration> {
        self.steadiness.missing_for(now)
    }

    /// When a candidate that waits becomes valid, where it is not yet.
    pub fn begins_at(&self) -> Option<UnixTime> {
        self.begins_at.filter(|_| matches!(self.step, Step::Staged { .. }))
    }

    /// Since when the source says "not yet", if it is that which is waited for.
    pub fn later_since(&self) -> Option<Instant> {
        self.later_since.filter(|_| matches!(self.step, Step::Later { .. } | Step::Ordering))
    }

    /// From when until when the present certificate is valid.
    pub fn present(&self) -> Option<Validity> {
        self.present
    }

    /// When the present certificate is due; `None`: there is none, or none is ever ordered.
    pub fn due(&self) -> Option<UnixTime> {
        Some(decision::due(
            self.present.filter(|_| !self.settings.by_hand)?,
            self.history.obtained,
            &self.settings,
        ))
    }

    /// After how long the next attempt follows by itself, where one failed or was put off.
    pub fn retry_in(&self, now: Instant, clock: Clock) -> Option<Duration> {
        let left = |until: Instant| until.saturating_duration_since(now);
        let retry_in = match self.step {
            Step::Later { until } | Step::Staged { until } | Step::CommitFailed { until } => left(until),
            Step::Resting if !self.settings.by_hand => {
                let decision = decision::decide(clock, self.present, &self.history, &self.settings);
                let Decision::RetryAt(at) = decision else { return None };
                let by_wall = Duration::from_millis(at.0.saturating_sub(clock.now.0));
                by_wall.max(self.not_before.map(left).unwrap_or_default())
            }
            _ => return None,
        };
        (!retry_in.is_zero()).then_some(retry_in)
    }

    /// One word for what is being done.
    pub fn state(&self, clock: Clock) -> &'static str {
        match &self.step {
            Step::Resting => match self.present {
                None => "missing",
                Some(present) if clock.trusted && present.has_expired(clock.now) => "expired",
                Some(_) if self.refusals.are_repeated() => "refused",
                Some(_) if self.last_error.is_some() => "retrying",
                Some(_) if !self.confirmed => "committed",
                Some(_) => "valid",
            },
            Step::Preparing | Step::Ordering | Step::Later { .. } => "ordering",
            Step::Staging | Step::Staged { .. } => "staged",
            Step::Probing => "probing",
            Step::TryingPresent { .. } | Step::Comparing { .. } => "comparing",
            Step::Committing | Step::CommitFailed { .. } => "committing",
        }
    }

    // What people ask for.

    /// Asks for the next certificate now. False: one is on its way.
    pub fn ask(&mut self) -> bool {
        match self.step {
            Step::Resting => {
                self.history.asked = true;
                self.history.last_attempt = None;
                self.not_before = None;
                self.enroll_asked = false;
                self.last_error = None;
                true
            }
            // It is asked again with the same request, sooner than it said.
            Step::Later { .. } => {
                self.order_asked = true;
                true
            }
            _ => false,
        }
    }

    /// Asks for a certificate as if it were the first, now; a candidate that waits for its probe is
    /// replaced by it. False: one is on its way.
    pub fn ask_enroll(&mut self) -> bool {
        if matches!(self.step, Step::Staged { .. }) && self.origin == Origin::New && !self.settings.by_hand {
            (self.enroll_asked, self.replaces, self.history.asked) = (true, true, true);
            (self.history.failures, self.history.last_attempt) = (0, None);
            self.not_before = None;
            return true;
        }
        let asked = self.ask();
        match self.step {
            Step::Later { .. } => (self.kind, self.enroll_asked) = (OrderKind::Enroll, true),
            _ => self.enroll_asked |= asked,
        }
        if asked {
            self.history.failures = 0;
        }
        asked
    }

    /// How often the enrolment failed that a person asked for beside a certificate in use; `None`:
    /// none is asked for.
    pub fn enroll_failures(&self) -> Option<u32> {
        (self.enroll_asked && self.present.is_some()).then_some(self.history.failures)
    }

    /// Takes the enrolment back that a person asked for. What was issued for it already is proven
    /// all the same.
    ///
    /// # Errors
    /// None is asked for, or it is being made at this moment.
    pub fn cancel_enroll(&mut self) -> Result<(), &'static str> {
        if !self.enroll_asked {
            return Err("no enrolment is asked for");
        }
        match self.step {
            Step::Resting => {}
            // It stays, and is proven.
            Step::Staged { .. } if self.replaces => {}
            Step::Later { .. } => {
                self.step = Step::Resting;
                self.actions.push_back(Action::Forget);
            }
            Step::Preparing | Step::Ordering => {
                return Err("the source is being asked at this moment: try again when it has answered");
            }
            _ => return Err("a certificate was issued for it already, and is being proven"),
        }
        self.forget_enroll();
        self.events.push_back(Event::EnrollTakenBack);
        Ok(())
    }

    fn forget_enroll(&mut self) {
        (self.enroll_asked, self.replaces, self.history.asked) = (false, false, false);
        (self.history.failures, self.last_error) = (0, None);
    }

    /// Tries to take the certificate before into use again. False: something is being proven or
    /// written.
    pub fn ask_previous(&mut self) -> bool {
        let may = self.may_be_offered() && self.step != Step::Preparing && self.step != Step::Ordering;
        if may {
            // Its place is taken.
            if matches!(self.step, Step::Staged { .. } | Step::CommitFailed { .. }) {
                self.events.push_back(Event::Rejected("a person wants the one before".to_owned()));
                self.last_error = None;
            }
            self.stage_previous(Origin::Asked);
        }
        may
    }

    fn stage_previous(&mut self, origin: Origin) {
        self.origin = origin;
        self.step = Step::Staging;
        self.actions.push_back(Action::StagePrevious);
    }

    /// Probes the candidate now. False: there is none that waits for its probe, or it is not valid
    /// yet.
    pub fn ask_probe(&mut self) -> bool {
        self.probe_asked = matches!(self.step, Step::Staged { .. }) && self.begins_at.is_none();
        self.probe_asked
    }

    /// Whether another candidate may take the place of what is under way: nothing is being proven
    /// or written.
    pub fn may_be_offered(&self) -> bool {
        !matches!(
            self.step,
            Step::Staging
                | Step::TryingPresent { .. }
                | Step::Probing
                | Step::Comparing { .. }
                | Step::Committing
        )
    }

    /// A candidate was stored that nobody asked a source for. `is_compared`: it is one that is
    /// judged by the present one, and not its owner's decision.
    pub fn handle_offered(&mut self, now: Instant, is_compared: bool) {
        self.events.push_back(Event::Offered);
        self.origin = Origin::New;
        self.last_error = None;
        self.handle_candidate(now);
        self.is_compared = is_compared;
    }

    /// A candidate is on disk: it was there at the start, or a person installed it.
    pub fn handle_candidate(&mut self, now: Instant) {
        (self.closes, self.alternations, self.faults, self.stuck) = (0, 0, 0, 0);
        (self.beside, self.replaces, self.begins_at, self.stood) = (false, false, None, false);
        self.step = Step::Staged { until: now };
    }

    /// The present certificate is another one, by a person's doing.
    pub fn handle_replaced(&mut self, now: Instant, clock: Clock, present: Option<Validity>) {
        self.present = present;
        self.step = Step::Resting;
        self.begin_use(now);
        self.forget_refusals();
        self.history = History { obtained: clock.trusted.then_some(clock.now), ..History::default() };
        self.last_error = None;
    }

    // Time and the present certificate.

    /// From when until when the one before and the candidate are valid, where there are such: known
    /// with each [`Renewal::handle_timeout`].
    pub fn handle_files(&mut self, previous: Option<Validity>, candidate: Option<Validity>) {
        (self.previous, self.candidate) = (previous, candidate);
    }

    /// How the peer refuses the present certificate: known with each [`Renewal::handle_timeout`].
    pub fn handle_refusals(&mut self, refusals: Refusals) {
        // The prover begins anew with each acceptance.
        if refusals.times < self.said.times || refusals.closes < self.said.closes {
            self.earlier = Refusals::default();
        }
        self.said = refusals.clone();
        self.refusals = if refusals.is_none() { refusals } else { refusals.after(&self.earlier) };
    }

    /// How many connections there were so far: known with each [`Renewal::handle_timeout`].
    pub fn handle_connections(&mut self, connections: u64) {
        self.connections = connections;
    }

    /// Another certificate is the present one.
    fn begin_use(&mut self, now: Instant) {
        (self.confirmed, self.said_confirmed) = (false, false);
        self.steadiness = Steadiness::new(now);
        (self.beside, self.replaces, self.besides, self.beside_at) = (false, false, 0, None);
    }

    fn forget_refusals(&mut self) {
        self.refusals = Refusals::default();
        (self.earlier, self.said) = (Refusals::default(), Refusals::default());
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, clock: Clock, standing: Standing) {
        if standing == Standing::Accepted && !self.confirmed && self.present.is_some() {
            self.confirmed = true;
            if !std::mem::replace(&mut self.said_confirmed, true) {
                self.events.push_back(Event::Confirmed);
            }
        }
        let is_lost = self.steadiness.handle(now, standing == Standing::Accepted, self.connections);
        if is_lost && standing != Standing::Accepted && self.step == Step::Resting {
            self.confirmed = false;
        }
        self.know_peace(now, clock, standing);
        match self.step.clone() {
            Step::Resting => self.rest(now, clock, standing),
            Step::Later { until } if now >= until || std::mem::take(&mut self.order_asked) => {
                self.order(clock);
            }
            Step::Staged { until } => self.wait(now, clock, standing, until),
            Step::Comparing { why, definite, until } => {
                self.compare(now, clock, standing, why, definite, until);
            }
            Step::CommitFailed { until } if now >= until => self.commit(),
            _ => {}
        }
    }

    fn know_peace(&mut self, now: Instant, clock: Clock, standing: Standing) {
        match standing {
            Standing::Accepted => {
                let since = *self.accepted_since.get_or_insert(now);
                (self.fall_back_failures, self.earlier) = (0, Refusals::default());
                if self.returns > 0 && clock.trusted {
                    // One that lies ahead was noted by a clock that was wrong.
                    let at = self.accepted_at.filter(|at| *at <= clock.now).unwrap_or(clock.now);
                    self.accepted_at = Some(at);
                }
                let by_wall = self.accepted_at.filter(|at| clock.trusted && *at <= clock.now);
                let by_wall = by_wall.map(|at| Duration::from_millis(clock.now.0 - at.0));
                if now.saturating_duration_since(since).max(by_wall.unwrap_or_default()) >= PEACE {
                    (self.returns, self.accepted_at) = (0, None);
                }
            }
            Standing::Refused => (self.accepted_since, self.accepted_at) = (None, None),
            Standing::Unknown => {}
        }
    }

    /// A candidate waits for its probe.
    fn wait(&mut self, now: Instant, clock: Clock, standing: Standing, until: Instant) {
        let asked = std::mem::take(&mut self.probe_asked);
        if self.origin != Origin::New {
            return self.begin_probe(clock, asked);
        }
        if let Some(candidate) = self.candidate.filter(|_| clock.trusted) {
            if candidate.has_expired(clock.now) {
                return self
                    .let_go(now, format!("it expired on {} before it was proven", candidate.not_after));
            }
            if candidate.not_before > later(clock.now, SKEW) {
                let why = format!("it is not valid before {}", candidate.not_before);
                let error = format!("the new certificate is given up: {why}");
                return self.give_up(now, clock, why, error);
            }
            if later(candidate.not_before, SETTLES) > clock.now {
                if self.begins_at.replace(candidate.not_before).is_none() {
                    self.events.push_back(Event::NotYetValid(candidate.not_before));
                }
                return;
            }
        }
        self.begins_at = None;
        // The connection is gone for whose sake it was tried beside it, or not at all.
        let is_cut_off = match standing {
            Standing::Accepted => {
                self.stood = true;
                false
            }
            Standing::Refused | Standing::Unknown => {
                std::mem::take(&mut self.stood) && self.faults > 0 && !self.serves(clock)
            }
        };
        if now >= until || asked || is_cut_off {
            self.begin_probe(clock, asked);
        } else {
            self.order_beside(now, clock);
        }
    }

    /// Asks for another one while the candidate stays: a person wants that, or the present one does
    /// not serve and nothing is decided of the candidate.
    fn order_beside(&mut self, now: Instant, clock: Clock) {
        let is_stuck =
            self.stuck >= BESIDE_AFTER && !self.serves(clock) && self.beside_at.is_none_or(|at| now >= at);
        if self.settings.by_hand || !(self.replaces || is_stuck) {
            return;
        }
        self.note_refused();
        let decision = decision::decide(clock, self.present, &self.history, &self.settings);
        let kind = self.kind_of(decision).filter(|_| self.not_before.is_none_or(|at| now >= at));
        if let Some(kind) = kind {
            self.begin(now, clock, kind);
            self.beside = true;
        }
    }

    /// The candidate is of no use any more, and no failure of the source.
    fn let_go(&mut self, now: Instant, why: String) {
        self.last_error = Some(format!("the new certificate is given up: {why}"));
        self.put_away();
        self.events.push_back(Event::Rejected(why));
        self.step = Step::Resting;
        let soon = now + AFTER_DISCARD;
        self.not_before = Some(self.not_before.map_or(soon, |at| at.max(soon)));
    }

    /// What comes by hand may be offered again: its key and request stay.
    fn put_away(&mut self) {
        self.begins_at = None;
        self.actions.push_back(if self.settings.by_hand { Action::Unstage } else { Action::Discard });
    }

    /// Tries the certificate before where the present one is refused, or no connection with it has
    /// lasted. Whether it does.
    fn falls_back(&mut self, now: Instant, clock: Clock, standing: Standing) -> bool {
        let is_unsteady = standing != Standing::Accepted && self.steadiness.is_over(now, self.returns);
        let is_refused = self.refusals.are_against_it();
        let is_valid =
            |of: Validity| !clock.trusted || !of.has_expired(clock.now) && of.not_before <= clock.now;
        let is_wanted = is_refused || is_unsteady;
        if !is_wanted || !self.previous.is_some_and(is_valid) || self.fall_back_at.is_some_and(|at| now < at)
        {
            return false;
        }
        self.fall_back_why = match is_refused {
            true => self.refusals.why.clone(),
            false => "no connection with it has lasted for a minute since it came into use".to_owned(),
        };
        self.events.push_back(Event::FallingBack(self.fall_back_why.clone()));
        self.stage_previous(Origin::FallBack);
        true
    }

    fn note_refused(&mut self) {
        self.history.refused = match self.refusals.times {
            ORDER_AFTER.. if self.refusals.as_expired => Refused::AsExpired,
            ORDER_AFTER.. => Refused::Yes,
            _ => Refused::No,
        };
    }

    fn rest(&mut self, now: Instant, clock: Clock, standing: Standing) {
        self.origin = Origin::New;
        self.note_refused();
        if self.falls_back(now, clock, standing) {
            return;
        }
        if self.settings.by_hand {
            let expired = self.present.is_some_and(|present| clock.trusted && present.has_expired(clock.now));
            if expired && !std::mem::replace(&mut self.said_expired, true) {
                self.events.push_back(Event::Expired);
            }
            return;
        }
        let decision = decision::decide(clock, self.present, &self.history, &self.settings);
        // What had to be replaced is accepted again: nothing is outstanding.
        if matches!(decision, Decision::Wait(_)) && clock.trusted && self.history.failures > 0 {
            (self.last_error, self.history.failures) = (None, 0);
        }
        if decision == Decision::Expired && !std::mem::replace(&mut self.said_expired, true) {
            self.events.push_back(Event::Expired);
        }
        // By the wall clock it would be time; but that may have jumped.
        let kind = self.kind_of(decision).filter(|_| self.not_before.is_none_or(|at| now >= at));
        if let Some(kind) = kind {
            self.begin(now, clock, kind);
        }
    }

    /// What is asked for, if anything is.
    fn kind_of(&self, decision: Decision) -> Option<OrderKind> {
        Some(match decision {
            Decision::Wait(_) | Decision::RetryAt(_) | Decision::Expired => return None,
            // A source may refuse what the peer refuses, so that nothing but the other way is left.
            Decision::Renew if self.history.refused != Refused::No && self.settings.may_enroll => {
                match self.history.failures.is_multiple_of(2) && !self.enroll_asked {
                    true => OrderKind::Reenroll,
                    false => OrderKind::Enroll,
                }
            }
            Decision::Renew if !self.enroll_asked => OrderKind::Reenroll,
            Decision::Renew | Decision::UseBootstrap => OrderKind::Enroll,
        })
    }

    fn begin(&mut self, now: Instant, clock: Clock, kind: OrderKind) {
        self.said_expired = false;
        self.kind = kind;
        self.not_before = Some(now + SPACING);
        self.history.last_attempt = Some(clock.now);
        (self.laters, self.later_since) = (0, None);
        self.step = Step::Preparing;
        self.events.push_back(Event::Begun(kind));
        self.actions.push_back(Action::Prepare);
    }

    fn order(&mut self, clock: Clock) {
        self.order_asked = false;
        let is_over = self.present.is_some_and(|present| clock.trusted && present.has_expired(clock.now));
        if is_over && self.settings.may_enroll && self.kind == OrderKind::Reenroll {
            self.kind = OrderKind::Enroll;
            self.events.push_back(Event::Begun(OrderKind::Enroll));
        }
        self.step = Step::Ordering;
        self.actions.push_back(Action::Order { kind: self.kind });
    }

    fn commit(&mut self) {
        self.step = Step::Committing;
        self.actions.push_back(Action::Commit);
    }

    fn begin_probe(&mut self, clock: Clock, asked: bool) {
        if self.present.is_none() {
            self.commit();
        } else if self.ends_sooner() {
            self.step = Step::TryingPresent { asked };
            self.actions.push_back(Action::TryPresent);
        } else {
            self.probe(clock, asked);
        }
    }

    /// The candidate would be taken only because the present one is refused.
    fn ends_sooner(&self) -> bool {
        let Some((candidate, present)) = self.candidate.zip(self.present) else { return false };
        let is_sooner = present.not_after < NEVER && candidate.not_after < present.not_after;
        is_sooner && self.is_compared && self.origin == Origin::New
    }

    fn probe(&mut self, clock: Clock, asked: bool) {
        let is_near_end = |present| decision::is_near_end(present, self.history.obtained, clock.now);
        let in_place = match self.present {
            _ if asked => InPlace::AtOnce,
            Some(present) if clock.trusted && is_near_end(present) => InPlace::AtLast,
            _ => InPlace::OfClientId,
        };
        self.step = Step::Probing;
        self.is_needed = !self.serves(clock);
        // What is repeated again and again is said once.
        if self.faults == 0 && self.origin == Origin::New {
            self.events.push_back(Event::Probing);
        }
        self.actions.push_back(Action::Probe { in_place });
    }

    fn compare(
        &mut self,
        now: Instant,
        clock: Clock,
        standing: Standing,
        why: String,
        definite: bool,
        until: Instant,
    ) {
        let expired = self.present.is_none_or(|present| clock.trusted && present.has_expired(clock.now));
        if standing == Standing::Accepted {
            self.closes += 1;
            if definite || self.closes >= CLOSES_MAX {
                return self.reject(now, clock, why);
            }
            self.step = Step::Staged { until: now + SPACING };
        } else if standing == Standing::Refused || expired {
            self.alternations += 1;
            if self.alternations >= ALTERNATIONS_MAX {
                let why = format!("neither it nor the present one is accepted: {why}");
                return self.reject(now, clock, why);
            }
            self.step = Step::Staged { until: now + decision::back_off(self.alternations, None, true) };
        } else if now >= until {
            self.step = Step::Staged { until: now };
        }
    }

    fn reject(&mut self, now: Instant, clock: Clock, why: String) {
        let is_young = |of: &Validity| clock.trusted && later(of.not_before, SKEW) > clock.now;
        let why = match self.candidate.filter(is_young) {
            Some(of) => format!(
                "{why}; it is valid since {}: where the peer takes it for not yet valid, compare the clocks of the peer, the CA \
                 and this gateway",
                of.not_before
            ),
            None => why,
        };
        self.give_up(now, clock, why.clone(), format!("the new certificate was refused: {why}"));
    }

    fn give_up(&mut self, now: Instant, clock: Clock, why: String, error: String) {
        self.put_away();
        (self.beside, self.replaces, self.besides, self.beside_at) = (false, false, 0, None);
        self.events.push_back(Event::Rejected(why));
        self.fail(now, clock, error);
    }

    fn fail(&mut self, now: Instant, clock: Clock, why: String) {
        self.step = self.without_answer(now);
        self.history.failures = self.history.failures.saturating_add(1);
        self.history.last_attempt = Some(clock.now);
        self.not_before = Some(now + SPACING);
        self.last_error = Some(why.clone());
        self.events.push_back(Event::Failed(why));
        if self.enroll_failures().is_some_and(|failures| failures >= ENROLLS_MAX) {
            self.forget_enroll();
            self.events.push_back(Event::EnrollGivenUp);
        }
    }

    /// Where it goes on without another certificate: with the candidate that stayed, if there is
    /// one.
    fn without_answer(&mut self, now: Instant) -> Step {
        match std::mem::take(&mut self.beside) {
            true => Step::Staged { until: now + SPACING },
            false => Step::Resting,
        }
    }

    /// The certificate before is not accepted either; the present one connects again.
    fn give_previous_up(&mut self, now: Instant, why: String) {
        self.step = Step::Resting;
        if self.origin == Origin::FallBack {
            self.fall_back_failures = self.fall_back_failures.saturating_add(1);
            self.fall_back_at = Some(now + decision::back_off(self.fall_back_failures, None, false));
        }
        self.actions.push_back(Action::Unstage);
        self.events.push_back(Event::NotReturned(why));
    }

    // What came of an action.

    /// Of [`Action::Prepare`].
    pub fn handle_prepared(&mut self, now: Instant, clock: Clock, prepared: Result<(), String>) {
        if self.step != Step::Preparing {
            return;
        }
        match prepared {
            Ok(()) => self.order(clock),
            Err(why) => self.fail(now, clock, why),
        }
    }

    /// Of [`Action::Order`].
    pub fn handle_outcome(&mut self, now: Instant, clock: Clock, outcome: Outcome) {
        if self.step != Step::Ordering {
            return;
        }
        match outcome {
            Outcome::Issued { chain } => {
                self.step = Step::Staging;
                self.actions.push_back(Action::Stage { chain });
            }
            Outcome::Later { after } if self.laters < LATER_MAX => {
                self.laters += 1;
                self.later_since.get_or_insert(now);
                self.last_error = None;
                // Not beyond what is left of the life.
                let longest = self
                    .present
                    .filter(|_| clock.trusted)
                    .and_then(|present| decision::longest_delay(present, self.history.obtained, clock.now));
                let after = after.min(longest.unwrap_or(LATER.1)).clamp(LATER.0, LATER.1);
                self.step = match std::mem::take(&mut self.beside) {
                    true => {
                        self.not_before = Some(now + after);
                        Step::Staged { until: now + SPACING }
                    }
                    false => Step::Later { until: now + after },
                };
                self.events.push_back(Event::Later(after));
            }
            Outcome::Later { .. } => {
                self.actions.push_back(Action::Forget);
                self.fail(now, clock, "the source said too often that it is not ready".to_owned());
            }
            Outcome::Refused { cause } => {
                self.actions.push_back(Action::Forget);
                self.fail(now, clock, format!("the source refuses: {cause}"));
            }
            Outcome::Failed { cause } => self.fail(now, clock, cause),
        }
    }

    /// Of [`Action::Stage`].
    pub fn handle_staged(&mut self, now: Instant, clock: Clock, staged: Result<(), StageFault>) {
        if self.step != Step::Staging {
            return;
        }
        match staged {
            Ok(()) if self.origin != Origin::New => self.handle_candidate(now),
            Err(StageFault::Flaw(why) | StageFault::Disk(why)) if self.origin != Origin::New => {
                self.give_previous_up(now, why);
            }
            Ok(()) => {
                self.events.push_back(Event::Staged);
                self.last_error = None;
                if self.beside && !self.replaces {
                    // What is issued and comes to nothing is not asked for in a loop.
                    self.besides = self.besides.saturating_add(1);
                    let wait = decision::back_off(BESIDE_AFTER.saturating_add(self.besides), None, false);
                    self.beside_at = Some(now + wait);
                }
                self.handle_candidate(now);
                self.is_compared = !self.enroll_asked;
            }
            Err(StageFault::Flaw(flaw)) => {
                self.actions.push_back(Action::Forget);
                self.fail(now, clock, format!("the certificate that was issued cannot be used: {flaw}"));
            }
            Err(StageFault::Disk(why)) => self.fail(now, clock, why),
        }
    }

    /// Of [`Action::TryPresent`].
    pub fn handle_present(&mut self, now: Instant, clock: Clock, verdict: Verdict) {
        let Step::TryingPresent { asked } = self.step else { return };
        match verdict {
            Verdict::Refused(_) => self.probe(clock, asked),
            // Whether the candidate is accepted is what a person wants to know.
            Verdict::Closed(_) | Verdict::Fault(_) if asked => self.probe(clock, asked),
            Verdict::Accepted => {
                let why = "it ends sooner than the present one, which is accepted again".to_owned();
                let error = format!("the new certificate is not needed: {why}");
                self.give_up(now, clock, why, error);
            }
            Verdict::Closed(why) | Verdict::Fault(why) => self.undecided(
                now,
                clock,
                format!(
                    "it ends sooner than the present one, and whether that is still refused could not be seen: {why}"
                ),
            ),
        }
    }

    fn undecided(&mut self, now: Instant, clock: Clock, why: String) {
        self.faults = self.faults.saturating_add(1);
        let serves = self.serves(clock);
        self.stuck = if serves { 0 } else { self.stuck.saturating_add(1) };
        let retry_in = decision::repeat_in(self.faults, self.present, self.history.obtained, clock, serves);
        self.step = Step::Staged { until: now + retry_in };
        self.last_error = Some(format!("the new certificate could not be tried: {why}"));
        self.events.push_back(Event::Undecided { why, retry_in });
    }

    /// Of [`Action::Probe`].
    pub fn handle_probed(&mut self, now: Instant, clock: Clock, verdict: Verdict) {
        if self.step != Step::Probing {
            return;
        }
        let until = now + COMPARE_WITHIN;
        match verdict {
            Verdict::Accepted => self.commit(),
            Verdict::Refused(why) | Verdict::Closed(why) | Verdict::Fault(why)
                if self.origin != Origin::New =>
            {
                self.give_previous_up(now, why);
            }
            Verdict::Refused(why) => {
                self.last_error = Some(format!("the new certificate was refused: {why}"));
                self.events.push_back(Event::Refused(why.clone()));
                self.step = Step::Comparing { why, definite: true, until };
            }
            Verdict::Closed(why) => {
                self.last_error = Some(format!("the new certificate was refused: {why}"));
                self.events.push_back(Event::Refused(why.clone()));
                self.step = Step::Comparing { why, definite: false, until };
            }
            Verdict::Fault(why) => self.undecided(now, clock, why),
        }
    }

    /// Of [`Action::Commit`]: what is in use now.
    pub fn handle_committed(
        &mut self,
        now: Instant,
        clock: Clock,
        committed: Result<Option<Validity>, String>,
    ) {
        if self.step != Step::Committing {
            return;
        }
        match committed {
            Ok(present) => {
                // Where the older one was in use, because a person took it, that is no loss.
                let begin = |of: Option<Validity>| of.map(|of| of.not_before);
                let is_newer = begin(present) > begin(self.present);
                self.present = present;
                self.step = Step::Resting;
                self.begin_use(now);
                self.last_error = None;
                self.history = History { obtained: clock.trusted.then_some(clock.now), ..History::default() };
                self.not_before = Some(now + SPACING);
                self.enroll_asked = false;
                if self.origin == Origin::FallBack {
                    self.returns = self.returns.saturating_add(1);
                }
                if self.origin == Origin::FallBack && !is_newer {
                    // This one was to be replaced, and still is.
                    self.history.asked = !self.settings.by_hand;
                    self.history.failures = failures_after(self.returns);
                    self.history.last_attempt = Some(clock.now);
                    self.last_error = Some(refused_in_use(&self.fall_back_why));
                }
                self.forget_refusals();
                (self.closes, self.alternations) = (0, 0);
                (self.accepted_since, self.accepted_at, self.fall_back_at) = (None, None, None);
                self.events.push_back(match self.origin {
                    Origin::New => Event::Committed,
                    Origin::Asked | Origin::FallBack => Event::Returned,
                });
                self.origin = Origin::New;
            }
            Err(why) => {
                self.last_error = Some(why.clone());
                self.step = Step::CommitFailed { until: now + SPACING };
                if self.is_needed || self.present.is_none() || !self.serves(clock) {
                    self.actions.push_back(Action::UseCandidate);
                }
                self.events.push_back(Event::Failed(why));
            }
        }
    }

    // What follows.

    /// What is to be done, one at a time.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next deadline of a step. What is due by the wall clock has none: that clock jumps, so
    /// [`Renewal::handle_timeout`] is called every few seconds besides.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.step {
            Step::Later { until }
            | Step::Staged { until }
            | Step::Comparing { until, .. }
            | Step::CommitFailed { until } => Some(until),
            _ => None,
        }
    }
}

fn later(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime(time.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

/// Why the one before is in use and another one is asked for.
pub fn refused_in_use(why: &str) -> String {
    format!("the newer certificate did not serve once it was in use: {why}")
}

/// How often in a row another one counts as failed after so many returns.
pub fn failures_after(returns: u32) -> u32 {
    returns.saturating_mul(RETURN_WEIGHT)
}

#[cfg(test)]
mod tests;
