//! How and when the next connection is tried: with which variant, at which address, after which
//! wait, and whether it is part of a search for what brings connections down.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::northbound::address::ADDRESSES_MAX;
use crate::northbound::fallback::{AttemptFailure, Fallback, Settled, Variant};
use crate::northbound::publisher::{Aftermath, ConnectionEnd};
use crate::northbound::reason_code;
use crate::northbound::reconnect::{Lost, Outcome, QUICK, Reconnect};
use crate::northbound::session::Limits;
use crate::northbound::settings::Settings;
use crate::northbound::wire::Version;

/// So many connections that the broker closed, and nothing shows why, are worth a warning,
pub const CLOSES: usize = 4;
/// within so long.
const CLOSES_WITHIN: Duration = Duration::from_secs(600);
/// So many closes in a row are searched quickly although no record has come under suspicion.
const BLIND_SEARCHES: u32 = 8;

/// Where the transport leads, as the shell found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialed {
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// Addresses of the broker that were not tried and did not fail lately.
    pub untried: usize,
}

/// How a connection that stood ended, as far as the next attempt goes.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// How it bears on what was in flight.
    pub gone: ConnectionEnd,
    /// What it leaves behind.
    pub aftermath: Aftermath,
    /// The subscription was at fault, or so it seems.
    pub subscription: bool,
    /// Records suspected.
    pub suspects: usize,
}

/// A connection that is closed sooner after its CONNACK may have been taken over.
fn moments(version: Version) -> Duration {
    match version {
        Version::V5 => Duration::from_secs(1),
        Version::V3_1_1 => Duration::from_secs(5),
    }
}

/// The attempts, and what they have shown.
#[derive(Debug)]
pub struct Attempts {
    /// When.
    pub reconnect: Reconnect,
    /// With which variants.
    pub fallback: Fallback,
    /// How this one connects.
    pub variant: Variant,
    /// What the broker said of QoS and retain when it refused our will.
    pub will_limits: Limits,
    dialed: Dialed,
    /// Addresses that failed behind TCP since the last connection that lasted.
    avoid: Vec<SocketAddr>,
    /// Attempts in a row that went on to the next address at once.
    hops: usize,
    /// When the broker closed a connection and nothing showed why, and how long it had lasted; at
    /// most those of [`CLOSES_WITHIN`].
    closes: VecDeque<(Instant, Duration)>,
    blind_searches: u32,
    /// The broker closed the last connection over a refusal, and answered since.
    over_refusal: bool,
}

impl Attempts {
    /// The first is due at once. The waits in between follow from the gateway's id.
    pub fn new(now: Instant, settings: &Settings) -> Attempts {
        let fallback = Fallback::new(settings.protocol, settings.topics.gateway_status.is_some());
        Attempts {
            reconnect: Reconnect::new(now, settings.gateway.as_str()),
            variant: fallback.variant(),
            fallback,
            will_limits: Limits::default(),
            dialed: Dialed::default(),
            avoid: Vec::new(),
            hops: 0,
            closes: VecDeque::new(),
            blind_searches: 0,
            over_refusal: false,
        }
    }

    /// An attempt begins.
    pub fn begin(&mut self) {
        self.variant = self.fallback.variant();
        self.dialed = Dialed::default();
    }

    /// When the next one is due.
    pub fn due_at(&self) -> Instant {
        self.reconnect.attempt_at()
    }

    /// The transport stands.
    pub fn handle_dialed(&mut self, dialed: Dialed) {
        self.dialed = dialed;
    }

    /// The connection is used.
    pub fn handle_accepted(&mut self) {
        self.hops = 0;
        self.reconnect.handle_accepted();
    }

    /// No transport came about.
    pub fn handle_unreachable(&mut self, now: Instant, what: &str) {
        self.fallback.handle_failed(now, AttemptFailure::Nothing, what);
        self.over_refusal = false;
        self.avoid.clear();
    }

    /// Whether the broker closed the connection before this one over a refusal, so that nothing
    /// says that it has changed.
    pub fn was_closed_over_refusal(&self) -> bool {
        self.over_refusal
    }

    /// Addresses to be tried last.
    pub fn avoid(&self) -> &[SocketAddr] {
        &self.avoid
    }

    /// What was settled on, if it is not the best.
    pub fn settled(&self) -> Option<&Settled> {
        self.fallback.settled()
    }

    /// CONNECT was refused with this code: a smaller will may do. Whether that is to be tried.
    pub fn take_smaller_will(&mut self, refused: u8) -> bool {
        match refused {
            reason_code::RETAIN_NOT_SUPPORTED => std::mem::take(&mut self.will_limits.retain),
            reason_code::QOS_NOT_SUPPORTED => std::mem::take(&mut self.will_limits.at_least_once),
            _ => false,
        }
    }

    /// The broker closed a connection that stood, and nothing shows why. Whether it is so often
    /// that it is worth a warning.
    fn note_close(&mut self, now: Instant, lasted: Duration) -> bool {
        let lately = self.closes(now);
        self.closes.drain(..self.closes.len() - lately);
        self.closes.push_back((now, lasted));
        lately + 1 == CLOSES
    }

    /// How often the broker closed the connection lately, and nothing showed why.
    pub fn closes(&self, now: Instant) -> usize {
        self.lately(now).count()
    }

    /// The longest that one of these connections lasted.
    pub fn closes_lasted(&self, now: Instant) -> Duration {
        self.lately(now).max().unwrap_or_default()
    }

    /// How long each of the connections lasted that were closed lately.
    fn lately(&self, now: Instant) -> impl Iterator<Item = Duration> {
        let is_late = move |at: Instant| now.saturating_duration_since(at) < CLOSES_WITHIN;
        self.closes.iter().filter(move |(at, _)| is_late(*at)).map(|(_, lasted)| *lasted)
    }

    /// A connection that stood is gone: what follows, and whether the broker closes connections so
    /// often for no known reason that it is worth a warning.
    pub fn handle_lost(&mut self, now: Instant, outcome: Outcome, ended: Ended) -> (Outcome, bool) {
        self.fallback.handle_lost(now);
        self.over_refusal = ended.aftermath.refusal;
        let Ended { gone, aftermath, subscription, suspects } = ended;
        let Outcome::Lost { lasted, how } = outcome else { return (outcome, false) };
        if lasted >= QUICK {
            self.avoid.clear();
            self.blind_searches = 0;
        } else {
            self.avoid_peer();
        }
        if matches!(how, Lost::TakenOver | Lost::Away) {
            return (outcome, false);
        }
        let suspicious =
            gone == ConnectionEnd::Unanswered || (aftermath.suspicious && gone != ConnectionEnd::Otherwise);
        // What goes along with a connection is left out after its second strike: that is soon found
        // out. A suspect that was tried has its own back-off; what comes meanwhile does not wait
        // for that.
        // A refusal just before names its record, which waits for its next trial as long as if
        // there had been no close.
        let known = aftermath.progress || aftermath.own || aftermath.trial || aftermath.refusal;
        let search = suspicious && known || subscription;
        if !search {
            let unexplained = !aftermath.suspicious && gone == ConnectionEnd::Closed;
            let again = unexplained && self.note_close(now, lasted);
            // Where readings were answered it is rather a broker, or what stands before it, that
            // does not last than a rival.
            let how = match how {
                _ if aftermath.suspicious || aftermath.progress => Lost::Explained,
                // By MQTT 5 most brokers say that it is a take-over (0x8E). Where they cannot, or
                // do not, the other client connects again within moments.
                Lost::Closed if lasted >= moments(self.variant.version) => Lost::Explained,
                how => how,
            };
            return (Outcome::Lost { lasted, how }, again);
        }
        if suspects > 0 || aftermath.refusal {
            self.blind_searches = 0;
        } else {
            self.blind_searches += 1;
        }
        let how = match gone {
            _ if self.blind_searches <= BLIND_SEARCHES => Lost::Search,
            // What we end because nothing is answered nobody took over.
            ConnectionEnd::Unanswered => Lost::Explained,
            _ => Lost::Closed,
        };
        (Outcome::Lost { lasted, how }, false)
    }

    /// An attempt had no CONNACK, or a CONNACK that refuses: what follows.
    pub fn handle_failed(
        &mut self,
        now: Instant,
        outcome: Outcome,
        failure: AttemptFailure,
        what: &str,
    ) -> Outcome {
        self.over_refusal = false;
        let of_the_address = matches!(failure, AttemptFailure::Closed | AttemptFailure::Nothing);
        if of_the_address && !matches!(outcome, Outcome::CredentialsRefused | Outcome::TryAnother) {
            // A name whose addresses change each time it is asked for never runs out of them.
            if self.dialed.untried > 0 && self.hops < ADDRESSES_MAX && outcome != Outcome::Away {
                self.hops += 1;
                self.avoid_peer();
                return Outcome::TryAnother;
            }
            self.hops = 0;
            self.avoid.clear(); // all were tried: from the first again
        }
        if self.fallback.handle_failed(now, failure, what) { Outcome::TryAnother } else { outcome }
    }

    fn avoid_peer(&mut self) {
        if let Some(peer) = self.dialed.peer.filter(|peer| !self.avoid.contains(peer)) {
            self.avoid.push(peer);
            // As many as are tried at once; more than these have long passed.
            if self.avoid.len() > ADDRESSES_MAX {
                self.avoid.remove(0);
            }
        }
    }
}
