//! TLS handshakes of clients that failed: of what kind they are, and whether many do.
//!
//! A client that cannot connect tries for ever, and knows why; the gateway's operator sees only
//! that nothing comes. Where most handshakes of the last minutes fail by a verdict of one of both
//! sides, that is said with the way out. Connections that are no TLS, or that are given up, are
//! counted alone: a port scanner makes many, and nothing is to be done about it.
//!
//! It holds one failure of each kind, whatever comes from the network.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustls::{AlertDescription, Error};

use crate::telemetry::counters::Counter;

/// Failures are counted over the last window, and the one before.
const WINDOW: Duration = Duration::from_secs(300);
/// So many failures of these windows are many, if fewer handshakes succeeded.
const MANY: u32 = 10;
/// Longest reason that is kept, in characters: a certificate can have long names.
const REASON_MAX: usize = 256;

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client does not accept the gateway's certificate.
    Distrusted,
    /// The client sent another fatal alert (RFC 8446 §6.2).
    Alert,
    /// The client's certificate is not accepted.
    Certificate,
    /// No version, cipher suite or group in common.
    Incompatible,
    /// It was not over in time.
    TimedOut,
    /// The connection ended in the middle, or what came is no TLS.
    Broken,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Distrusted, Kind::Alert, Kind::Certificate, Kind::Incompatible, Kind::TimedOut, Kind::Broken];

    /// The kind of a failed handshake, by the error of the TLS stream.
    pub fn of(error: &io::Error) -> Kind {
        let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match error {
            Some(Error::AlertReceived(alert)) if is_about_certificate(*alert) => Kind::Distrusted,
            Some(Error::AlertReceived(_)) => Kind::Alert,
            Some(
                Error::InvalidCertificate(_)
                | Error::NoCertificatesPresented
                | Error::UnsupportedNameType
                | Error::InvalidCertRevocationList(_),
            ) => Kind::Certificate,
            Some(Error::PeerIncompatible(_)) => Kind::Incompatible,
            _ => Kind::Broken,
        }
    }

    /// The counter of those of this kind; `None`: only the total has them.
    pub fn counter(self) -> Option<Counter> {
        match self {
            Kind::Distrusted => Some(Counter::MqttHandshakesDistrusted),
            Kind::Alert => Some(Counter::MqttHandshakesAlert),
            Kind::Certificate => Some(Counter::MqttHandshakesCertificate),
            Kind::Incompatible => Some(Counter::MqttHandshakesIncompatible),
            Kind::TimedOut => Some(Counter::MqttHandshakesTimedOut),
            Kind::Broken => None,
        }
    }

    /// Whether one of both sides refused the other, which a person can do something about.
    fn is_verdict(self) -> bool {
        !matches!(self, Kind::TimedOut | Kind::Broken)
    }

    /// What is to be done about them.
    fn way_out(self) -> &'static str {
        match self {
            Kind::Distrusted => {
                "they do not accept the gateway's certificate: see that they have the CA of mqtt.certificate-file, that the \
                 name or address they connect to is in it, and that it is valid by their clock (`tombolo check`)"
            }
            Kind::Certificate => {
                "their certificates are not accepted: see that mqtt.client-ca-file has their CA, and that they are neither \
                 expired nor revoked"
            }
            Kind::Incompatible => "they must speak TLS 1.2 or 1.3 with a cipher suite of today: update them",
            _ => "see in their log what they object to",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// The alerts with which a peer refuses a certificate (RFC 8446 §6.2).
fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

/// A handshake that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedHandshake {
    /// When.
    pub at: Instant,
    /// The address of the client.
    pub peer: Option<IpAddr>,
    /// Why, for people.
    pub reason: String,
}

/// What became of the handshakes of a window.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    completed: u32,
    failed: [u32; Kind::ALL.len()],
}

/// What became of the handshakes of the last minutes.
#[derive(Debug)]
pub struct FailedHandshakes {
    /// When the present window began.
    since: Option<Instant>,
    present: Counts,
    before: Counts,
    last: [Option<FailedHandshake>; Kind::ALL.len()],
}

impl Default for FailedHandshakes {
    fn default() -> FailedHandshakes {
        let (present, before) = (Counts::default(), Counts::default());
        FailedHandshakes { since: None, present, before, last: [const { None }; Kind::ALL.len()] }
    }
}

impl FailedHandshakes {
    /// One succeeded.
    pub fn note_completed(&mut self, now: Instant) {
        self.turn(now);
        self.present.completed = self.present.completed.saturating_add(1);
    }

    /// One failed.
    pub fn note_failed(&mut self, now: Instant, kind: Kind, peer: Option<IpAddr>, reason: &str) {
        self.turn(now);
        let count = &mut self.present.failed[kind.index()];
        *count = count.saturating_add(1);
        let reason = reason.chars().take(REASON_MAX).collect();
        self.last[kind.index()] = Some(FailedHandshake { at: now, peer, reason });
    }

    /// The newest that failed.
    pub fn last(&self) -> Option<&FailedHandshake> {
        self.last.iter().flatten().max_by_key(|last| last.at)
    }

    /// That many fail, with the reason of most of them and the way out; `None`: few do.
    pub fn problem(&mut self, now: Instant) -> Option<String> {
        self.turn(now);
        let count =
            |kind: Kind| self.present.failed[kind.index()].saturating_add(self.before.failed[kind.index()]);
        let verdicts = || Kind::ALL.into_iter().filter(|kind| kind.is_verdict());
        let failed = verdicts().map(count).fold(0, u32::saturating_add);
        let completed = self.present.completed.saturating_add(self.before.completed);
        if failed < MANY || failed <= completed {
            return None;
        }
        let most = verdicts().max_by_key(|kind| count(*kind))?;
        let last = self.last[most.index()].as_ref()?;
        // Without numbers and addresses, so that it stays the same while they go on.
        Some(format!(
            "MQTT: more TLS handshakes of clients fail than succeed ({}): {}; `tombolo status` and the log have addresses",
            last.reason,
            most.way_out()
        ))
    }

    /// Begins a new window if the present one is over.
    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let over = now.saturating_duration_since(since);
        if over < WINDOW {
            return;
        }
        let present = std::mem::take(&mut self.present);
        self.before = if over < 2 * WINDOW { present } else { Counts::default() };
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, InvalidMessage, PeerIncompatible};

    use super::*;

    const PEER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)));

    #[test]
    fn the_kind_of_a_failure_is_that_of_the_error() {
        let of = |error: Error| Kind::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, kind) in [
            (Error::AlertReceived(AlertDescription::UnknownCA), Kind::Distrusted),
            (Error::AlertReceived(AlertDescription::CertificateExpired), Kind::Distrusted),
            (Error::AlertReceived(AlertDescription::DecodeError), Kind::Alert),
            (Error::InvalidCertificate(CertificateError::Expired), Kind::Certificate),
            (Error::NoCertificatesPresented, Kind::Certificate),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), Kind::Incompatible),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), Kind::Broken),
        ] {
            assert_eq!(of(error.clone()), kind, "{error}");
        }
        assert_eq!(Kind::of(&io::ErrorKind::UnexpectedEof.into()), Kind::Broken);
    }

    #[test]
    fn many_failures_are_said_with_the_way_out_until_they_are_over() {
        let (start, mut failed) = (Instant::now(), FailedHandshakes::default());
        assert_eq!((failed.problem(start), failed.last()), (None, None));
        for number in 1..=MANY {
            assert_eq!(failed.problem(start), None, "{number}");
            failed.note_failed(start, Kind::Distrusted, PEER, "received fatal alert: UnknownCA");
        }
        failed.note_failed(start, Kind::Certificate, PEER, "expired");
        let said = failed.problem(start).expect("many");
        for part in ["fail than succeed", "UnknownCA", "mqtt.certificate-file"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let later = start + WINDOW;
        assert_eq!(failed.problem(later), Some(said), "they are of the window before");
        assert_eq!(failed.problem(later + WINDOW), None);
        assert!(failed.last().is_some());
    }

    #[test]
    fn failures_among_more_successes_and_what_a_scanner_does_are_not_said() {
        let (now, mut failed) = (Instant::now(), FailedHandshakes::default());
        for _ in 0..2 * MANY {
            failed.note_failed(now, Kind::Broken, PEER, "tls handshake eof");
            failed.note_failed(now, Kind::TimedOut, PEER, "it took too long");
        }
        assert_eq!(failed.problem(now), None);
        for _ in 0..MANY {
            failed.note_failed(now, Kind::Certificate, PEER, &"x".repeat(100_000));
        }
        let said = failed.problem(now).expect("many");
        assert!(said.contains("mqtt.client-ca-file") && said.len() < 1_000, "{}", said.len());
        (0..MANY).for_each(|_| failed.note_completed(now));
        assert_eq!(failed.problem(now), None);
        // A gap of a whole window leaves nothing.
        assert_eq!(failed.problem(now + 3 * WINDOW), None);
        assert_eq!((failed.present.completed, failed.before.completed), (0, 0));
    }
}
