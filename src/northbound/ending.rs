//! What the end of a connection means: for the next attempt, for the records in flight, and in words.

use std::time::Duration;

use super::reconnect::{Lost, Outcome};
use super::session::Ended;
use super::wire;

/// How the transport went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The broker closed it in good order (close_notify, or end of stream without TLS).
    ByPeer,
    /// The broker's side vanished: reset, or end of stream without close_notify.
    Broken(String),
    /// The broker refuses who we are (a TLS alert).
    Unwelcome(String),
    /// A fault of the network or of ours.
    Failed(String),
}

/// The judgement of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What the next attempt is decided by.
    pub outcome: Outcome,
    /// The broker closed it and gave no reason that clears what was in flight.
    pub by_peer: bool,
    /// What happened and, where known, what to do.
    pub what: String,
}

impl Ending {
    fn new(outcome: Outcome, by_peer: bool, what: impl Into<String>) -> Ending {
        Ending { outcome, by_peer, what: what.into() }
    }

    /// The session ended itself. `lasted`: since CONNACK, if it came.
    pub fn of_session(ended: Ended, lasted: Option<Duration>) -> Ending {
        let lost = |how| lasted.map_or(Outcome::Unreachable, |lasted| Outcome::Lost { lasted, how });
        let words = |code: u8, reason: Option<String>| match reason {
            Some(reason) => format!("{} (0x{code:02X}, \"{}\")", wire::reason_text(code), printable(&reason)),
            None => format!("{} (0x{code:02X})", wire::reason_text(code)),
        };
        match ended {
            Ended::Refused { code, reason } => {
                let (outcome, what) = refusal(code);
                let what = what.map_or_else(|| words(code, reason), str::to_owned);
                Ending::new(outcome, false, format!("the broker refuses the connection: {what}"))
            }
            Ended::Disconnected { code, reason } => {
                let how = if code == 0x8E { Lost::TakenOver } else { Lost::Explained };
                let what = format!("the broker ended the connection: {}", words(code, reason));
                Ending::new(lost(how), may_be_about_a_record(code), what)
            }
            Ended::NoConnack => {
                Ending::new(Outcome::Unreachable, false, "the broker does not answer CONNECT within 20 s")
            }
            Ended::Silent => {
                let what = "the broker is silent, also when asked: connection dead";
                Ending::new(lost(Lost::Explained), false, what)
            }
            Ended::Protocol(what) => {
                let what = format!("the broker broke the MQTT protocol: {what}");
                Ending::new(lost(Lost::Explained), false, what)
            }
        }
    }

    /// The transport went away. `suspicious`: publishes were in flight and none was answered on this connection.
    pub fn of_transport(closed: Closed, lasted: Option<Duration>, suspicious: bool) -> Ending {
        let lost = |how| lasted.map_or(Outcome::Unreachable, |lasted| Outcome::Lost { lasted, how });
        match closed {
            Closed::Unwelcome(what) => Ending::new(Outcome::CredentialsRefused, false, what),
            Closed::Failed(what) => Ending::new(lost(Lost::Explained), false, what),
            Closed::ByPeer | Closed::Broken(_) if lasted.is_none() => {
                let what = "the broker closed the connection instead of answering CONNECT";
                Ending::new(Outcome::ClosedBeforeConnack, false, what)
            }
            Closed::ByPeer => {
                let how = if suspicious { Lost::Explained } else { Lost::Closed };
                Ending::new(lost(how), true, "the broker closed the connection")
            }
            Closed::Broken(what) => Ending::new(lost(Lost::Explained), true, what),
        }
    }

    /// We gave the connection up: publishes stay unanswered.
    pub fn unanswered(lasted: Duration) -> Ending {
        let outcome = Outcome::Lost { lasted, how: Lost::Explained };
        Ending::new(outcome, false, "the broker answers no publish any more")
    }
}

/// What a CONNACK code other than 0 means for the next attempt, and words that help where there are.
fn refusal(code: u8) -> (Outcome, Option<&'static str>) {
    match code {
        0x01 | 0x84 => (Outcome::VersionRefused, Some("it does not speak this version of MQTT")),
        0x02 => {
            (Outcome::CredentialsRefused, Some("it does not accept this client id; set upstream.client-id"))
        }
        0x03 => (Outcome::Refused, Some("its MQTT service is unavailable")),
        0x04 => (
            Outcome::CredentialsRefused,
            Some("bad user name or password; see upstream.username and password-file"),
        ),
        0x05 | 0x87 => (
            Outcome::CredentialsRefused,
            Some("not authorized; see upstream.username, password-file, certificate-file and client-id"),
        ),
        0x86 => (
            Outcome::CredentialsRefused,
            Some("bad user name or password; see upstream.username and password-file"),
        ),
        0x85 => {
            (Outcome::CredentialsRefused, Some("it does not accept this client id; set upstream.client-id"))
        }
        0x8A | 0x8C => (Outcome::CredentialsRefused, None),
        _ => (Outcome::Refused, None),
    }
}

/// Whether a DISCONNECT of that code may be the answer to one of our publishes.
fn may_be_about_a_record(code: u8) -> bool {
    matches!(code, 0x00 | 0x80..=0x83 | 0x87 | 0x90 | 0x94 | 0x95 | 0x99..=0x9B)
}

/// The broker's words without control characters, at most 200 of them.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
