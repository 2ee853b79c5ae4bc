//! A trial of another client certificate: the present connection ends in good order, one is made
//! with the candidate, and if that is not accepted the next one has the present certificate again.
//!
//! ```text
//! Idle ──begin──> Wanted ──nothing in flight, DISCONNECT──> Running ──CONNACK, refusal, 30 s──> Idle
//! ```
//!
//! The broker never sees two connections of one client id: a take-over (0x8E) would look like a
//! rival. A connection that was accepted goes on as it is. What the broker refuses in a version of
//! MQTT or in a will is tried otherwise within the same trial, as with every connection.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::northbound::ending::Closed;
use crate::northbound::reason_code;
use crate::northbound::session::Ended;

/// What the attempts of one trial may take.
pub const TRIAL_WITHIN: Duration = Duration::from_secs(30);

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialVerdict {
    /// CONNACK came with success; the connection goes on.
    Accepted,
    /// The broker refuses who we are, by a TLS alert or by CONNACK.
    Refused(String),
    /// The broker closed the connection instead of answering CONNECT.
    Closed(String),
    /// It was not decided: the network, a time-out, a broker that is busy.
    Fault(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Wanted,
    Running {
        until: Instant,
    },
}

/// The trial, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    state: State,
    identity: Option<(PathBuf, PathBuf)>,
    verdict: Option<TrialVerdict>,
}

impl Trial {
    /// One is wanted, with this certificate and key.
    pub fn want(&mut self, identity: (PathBuf, PathBuf)) {
        *self = Trial { state: State::Wanted, identity: Some(identity), verdict: None };
    }

    /// Whether one waits for the present connection to end.
    pub fn is_wanted(&self) -> bool {
        self.state == State::Wanted
    }

    /// An attempt begins. Until when it may take, if it is one of a trial.
    pub fn begin(&mut self, now: Instant) -> Option<Instant> {
        if self.state == State::Wanted {
            self.state = State::Running { until: now + TRIAL_WITHIN };
        }
        self.until()
    }

    /// Until when the trial that runs may take.
    pub fn until(&self) -> Option<Instant> {
        match self.state {
            State::Running { until } => Some(until),
            State::Idle | State::Wanted => None,
        }
    }

    /// The certificate and key that the present attempt has, where they are not the configured
    /// ones.
    pub fn identity(&self) -> Option<&(PathBuf, PathBuf)> {
        self.until().and(self.identity.as_ref())
    }

    /// Ends the trial that runs. Whether there was one.
    pub fn conclude(&mut self, verdict: TrialVerdict) -> bool {
        let running = self.until().is_some();
        if running {
            *self = Trial { verdict: Some(verdict), ..Trial::default() };
        }
        running
    }

    /// What came of the last trial, once.
    pub fn take_verdict(&mut self) -> Option<TrialVerdict> {
        self.verdict.take()
    }
}

/// How the broker refused a certificate in use, since it accepted one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How often it said so, by a TLS alert or in CONNACK.
    pub times: u32,
    /// How often it closed the connection before CONNACK, and said nothing.
    pub closes: u32,
    /// What it was last.
    pub why: String,
}

impl Refusals {
    /// An attempt ended before CONNACK with this verdict. What the network does changes nothing.
    pub fn note(&mut self, verdict: Option<&TrialVerdict>) {
        match verdict {
            Some(TrialVerdict::Refused(why)) => self.note_refusal(why),
            Some(TrialVerdict::Closed(why)) => {
                self.closes = self.closes.saturating_add(1);
                if self.times == 0 {
                    self.why.clone_from(why);
                }
            }
            Some(TrialVerdict::Accepted | TrialVerdict::Fault(_)) | None => {}
        }
    }

    /// The broker said that it refuses us.
    pub fn note_refusal(&mut self, why: &str) {
        self.times = self.times.saturating_add(1);
        why.clone_into(&mut self.why);
    }
}

/// What the end of a session before CONNACK says of the certificate.
pub fn of_session(ended: &Ended, what: &str) -> TrialVerdict {
    let what = what.to_owned();
    match ended {
        Ended::Refused(answer) => match answer.code {
            reason_code::SERVER_UNAVAILABLE
            | reason_code::SERVER_BUSY
            | reason_code::QUOTA_EXCEEDED
            | reason_code::CONNECTION_RATE_EXCEEDED
            // The same of MQTT 3.1.1 (§3.2.2.3).
            | UNAVAILABLE_3_1_1 => TrialVerdict::Fault(what),
            _ => TrialVerdict::Refused(what),
        },
        Ended::Disconnected(_) => TrialVerdict::Refused(what),
        Ended::NoConnack | Ended::Silent | Ended::Protocol(_) => TrialVerdict::Fault(what),
    }
}

const UNAVAILABLE_3_1_1: u8 = 3;

/// What the end of a transport before CONNACK says of the certificate.
pub fn of_transport(closed: &Closed, what: &str) -> TrialVerdict {
    let what = what.to_owned();
    match closed {
        Closed::Unwelcome(_) => TrialVerdict::Refused(what),
        Closed::ByPeer | Closed::Broken(_) => TrialVerdict::Closed(what),
        Closed::Failed(_) => TrialVerdict::Fault(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::northbound::session::BrokerAnswer;

    fn of_code(code: u8) -> TrialVerdict {
        of_session(&Ended::Refused(BrokerAnswer { code, reason: None, server: None }), "x")
    }

    #[test]
    fn only_what_says_that_the_broker_is_busy_is_no_refusal() {
        for code in [0x88, 0x89, 0x97, 0x9F, 3] {
            assert_eq!(of_code(code), TrialVerdict::Fault("x".to_owned()), "{code:#x}");
        }
        for code in [0x80, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x95, 4, 5] {
            assert_eq!(of_code(code), TrialVerdict::Refused("x".to_owned()), "{code:#x}");
        }
    }

    #[test]
    fn refusals_and_closes_are_counted_and_faults_are_not() {
        let mut refusals = Refusals::default();
        refusals.note(Some(&TrialVerdict::Closed("closed".to_owned())));
        assert_eq!((refusals.times, refusals.closes, &*refusals.why), (0, 1, "closed"));
        refusals.note(Some(&of_code(0x87)));
        refusals.note(Some(&of_code(0x88)));
        refusals.note(Some(&TrialVerdict::Closed("closed".to_owned())));
        refusals.note(None);
        assert_eq!((refusals.times, refusals.closes, &*refusals.why), (1, 2, "x"));
    }

    #[test]
    fn a_trial_ends_once_and_only_while_it_runs() {
        let now = Instant::now();
        let mut trial = Trial::default();
        assert!(!trial.conclude(TrialVerdict::Accepted));
        assert_eq!(trial.begin(now), None);
        trial.want(("c".into(), "k".into()));
        assert!(!trial.conclude(TrialVerdict::Accepted), "the present connection is not the trial");
        assert_eq!(trial.identity(), None);
        assert_eq!(trial.begin(now), Some(now + TRIAL_WITHIN));
        assert_eq!(trial.begin(now + TRIAL_WITHIN / 2), Some(now + TRIAL_WITHIN), "all attempts together");
        assert!(trial.identity().is_some());
        assert!(trial.conclude(TrialVerdict::Accepted));
        assert_eq!(trial.identity(), None);
        assert_eq!(trial.take_verdict(), Some(TrialVerdict::Accepted));
        assert_eq!(trial.take_verdict(), None);
    }
}
