//! What the end of a connection means: for the next attempt, for the records in flight, and in
//! words.

use std::time::Duration;

use super::advice;
use super::fallback::AttemptFailure;
use super::publisher::ConnectionEnd;
use super::reason_code::{self, CodeClass};
use super::reconnect::{Lost, Outcome};
use super::session::{BrokerAnswer, Ended};

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
    /// What it means for what was in flight.
    pub gone: ConnectionEnd,
    /// What it says about the version spoken and the will, where CONNACK never came.
    pub failure: AttemptFailure,
    /// What happened and, where known, what to do.
    pub what: String,
}

impl Ending {
    fn new(
        outcome: Outcome,
        gone: ConnectionEnd,
        failure: AttemptFailure,
        what: impl Into<String>,
    ) -> Ending {
        Ending { outcome, gone, failure, what: what.into() }
    }

    /// The session ended itself. `lasted`: since CONNACK, if it came.
    pub fn of_session(ended: Ended, lasted: Option<Duration>) -> Ending {
        let lost = |how| lasted.map_or(Outcome::Unreachable, |lasted| Outcome::Lost { lasted, how });
        match ended {
            Ended::Refused(answer) => Ending::of_refusal(&answer),
            Ended::Disconnected(answer) => {
                let code = answer.code;
                let how = match reason_code::class(code) {
                    CodeClass::TakenOver => Lost::TakenOver,
                    CodeClass::Unavailable | CodeClass::Elsewhere => Lost::Away,
                    _ => Lost::Explained,
                };
                let gone = if reason_code::class(code) == CodeClass::Quota {
                    ConnectionEnd::TooMuch(code)
                } else if reason_code::may_be_about_a_publish(code) {
                    ConnectionEnd::Closed
                } else {
                    ConnectionEnd::Otherwise
                };
                let words = words(reason_code::text(code), &answer);
                let what = format!("the broker ended the connection: {words}");
                Ending::new(lost(how), gone, AttemptFailure::Nothing, what)
            }
            Ended::NoConnack => Ending::new(
                Outcome::Unreachable,
                ConnectionEnd::Otherwise,
                AttemptFailure::Nothing,
                "the broker accepts the connection but does not answer MQTT: no CONNACK within 20 s; see whether the port in \
                 upstream.url is an MQTT broker's",
            ),
            Ended::Silent => Ending::new(
                lost(Lost::Explained),
                ConnectionEnd::Otherwise,
                AttemptFailure::Nothing,
                "the broker is silent, also when asked: connection dead",
            ),
            Ended::Protocol(what) => {
                let what = format!("the broker broke the MQTT protocol: {what}");
                // Before CONNACK perhaps it does not know this version: the other one is tried, and
                // this one once more before that is used.
                let failure = if lasted.is_none() { AttemptFailure::Closed } else { AttemptFailure::Nothing };
                Ending::new(lost(Lost::Explained), ConnectionEnd::Otherwise, failure, what)
            }
        }
    }

    /// CONNACK with a code other than success.
    fn of_refusal(answer: &BrokerAnswer) -> Ending {
        let code = answer.code;
        let class = reason_code::connack_class(code);
        let (outcome, failure) = match class {
            CodeClass::Version => (Outcome::Refused, AttemptFailure::Version),
            CodeClass::Credentials => (Outcome::CredentialsRefused, AttemptFailure::Nothing),
            // A will on a topic that is not allowed is answered so as well (MQTT 5.0 §3.2.2.2,
            // §3.1.3.3).
            CodeClass::Content if reason_code::is_not_authorized(code) => {
                (Outcome::CredentialsRefused, AttemptFailure::Will)
            }
            CodeClass::Content | CodeClass::Unspecified => (Outcome::Refused, AttemptFailure::Will),
            CodeClass::Unavailable | CodeClass::Elsewhere => (Outcome::Away, AttemptFailure::Nothing),
            _ => (Outcome::Refused, AttemptFailure::Nothing),
        };
        let advice = match class {
            CodeClass::Version => "it does not speak this version of MQTT",
            CodeClass::Credentials if reason_code::is_bad_password(code) => {
                "bad user name or password; see upstream.username and password-file"
            }
            CodeClass::Credentials if reason_code::is_bad_client_id(code) => {
                "it does not accept this client id; set upstream.client-id"
            }
            CodeClass::Content if reason_code::is_not_authorized(code) => {
                "not authorized; see upstream.username, password-file, certificate-file and client-id"
            }
            _ => "",
        };
        let otherwise = advice::of_connack(code);
        let words = if advice.is_empty() {
            let words = words(reason_code::connack_text(code), answer);
            if class == CodeClass::Elsewhere { words } else { format!("{words}; {otherwise}") }
        } else {
            match &answer.reason {
                Some(reason) => {
                    let (text, way_out) = advice.split_once("; ").unwrap_or((advice, ""));
                    format!("{text} (0x{code:02X}, \"{}\"); {way_out}", printable(reason))
                }
                None => advice.to_owned(),
            }
        };
        Ending::new(
            outcome,
            ConnectionEnd::Otherwise,
            failure,
            format!("the broker refuses the connection: {words}"),
        )
    }

    /// The transport went away. `suspicious`: publishes were in flight and none was answered on
    /// this connection.
    pub fn of_transport(closed: Closed, lasted: Option<Duration>, suspicious: bool) -> Ending {
        let lost = |how| lasted.map_or(Outcome::Unreachable, |lasted| Outcome::Lost { lasted, how });
        match closed {
            Closed::Unwelcome(what) => Ending::new(
                Outcome::CredentialsRefused,
                ConnectionEnd::Otherwise,
                AttemptFailure::Nothing,
                what,
            ),
            Closed::Failed(what) => {
                Ending::new(lost(Lost::Explained), ConnectionEnd::Otherwise, AttemptFailure::Nothing, what)
            }
            Closed::ByPeer | Closed::Broken(_) if lasted.is_none() => {
                let what = "the broker closed the connection instead of answering CONNECT";
                Ending::new(Outcome::Refused, ConnectionEnd::Otherwise, AttemptFailure::Closed, what)
            }
            Closed::ByPeer => {
                let how = if suspicious { Lost::Explained } else { Lost::Closed };
                Ending::new(
                    lost(how),
                    ConnectionEnd::Closed,
                    AttemptFailure::Nothing,
                    "the broker closed the connection",
                )
            }
            Closed::Broken(what) => {
                Ending::new(lost(Lost::Explained), ConnectionEnd::Closed, AttemptFailure::Nothing, what)
            }
        }
    }

    /// We gave the connection up: a publish stays unanswered.
    pub fn unanswered(lasted: Duration, waited: Duration) -> Ending {
        let outcome = Outcome::Lost { lasted, how: Lost::Explained };
        let what = format!("a publish was not answered within {} s: connection replaced", waited.as_secs());
        Ending::new(outcome, ConnectionEnd::Unanswered, AttemptFailure::Nothing, what)
    }
}

/// A code in the standard's words, the broker's own, and the server it names instead of itself.
pub(super) fn words(text: &str, answer: &BrokerAnswer) -> String {
    let code = answer.code;
    let mut words = match &answer.reason {
        Some(reason) => format!("{text} (0x{code:02X}, \"{}\")", printable(reason)),
        None => format!("{text} (0x{code:02X})"),
    };
    if reason_code::class(code) == CodeClass::Elsewhere {
        match &answer.server {
            Some(server) => {
                words.push_str(&format!(
                    "; it names {}, which is not followed: set upstream.url",
                    printable(server)
                ));
            }
            None => words.push_str("; it does not say which: see the broker's operator, then upstream.url"),
        }
    }
    words
}

/// What happened, without what to do about the credentials.
pub fn without_advice(what: &str) -> &str {
    what.split_once("; see upstream.").map_or(what, |(what, _)| what)
}

/// The broker's words without control characters, at most 200 of them.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u8, server: Option<&str>) -> BrokerAnswer {
        BrokerAnswer { code, reason: None, server: server.map(str::to_owned) }
    }

    #[test]
    fn another_server_is_named_and_not_followed() {
        for code in [reason_code::USE_ANOTHER_SERVER, reason_code::SERVER_MOVED] {
            let ending = Ending::of_session(Ended::Refused(answer(code, Some("b.example:8883\n"))), None);
            assert_eq!(ending.outcome, Outcome::Away);
            assert!(ending.what.contains("names b.example:8883, which is not followed"), "{}", ending.what);
            let lasted = Some(Duration::from_secs(60));
            let ending = Ending::of_session(Ended::Disconnected(answer(code, Some("b.example"))), lasted);
            assert!(ending.what.contains("b.example"), "{}", ending.what);
            assert_eq!(ending.gone, ConnectionEnd::Otherwise);
        }
    }

    #[test]
    fn both_versions_of_a_refusal_mean_the_same() {
        for (old, new) in [(1, 0x84), (2, 0x85), (4, 0x86), (5, 0x87)] {
            let [old, new] =
                [old, new].map(|code| Ending::of_session(Ended::Refused(answer(code, None)), None));
            assert_eq!((old.outcome, old.failure, old.what), (new.outcome, new.failure, new.what));
        }
    }
}
