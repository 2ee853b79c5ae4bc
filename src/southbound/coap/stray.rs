//! Source addresses whose datagrams cannot be processed for a recognisable cause: a wrong port, a
//! credential that is not configured, a session that does not exist. Each is logged once an hour
//! and shown in `status` for 24 h.
//!
//! Source addresses can be spoofed, so memory and log lines are bounded: [`EACH`] sources per cause
//! are kept, others are only counted. A rare and silent source is replaced by a new one, so that a
//! device that keeps sending is listed eventually.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Most sources kept per cause.
pub const EACH: usize = 16;
/// Least time between two log lines about a source.
const AGAIN: Duration = Duration::from_secs(60 * 60);
/// A logged source may be replaced after this much silence, and at most one per cause in this time.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// A source that was silent for this long is dropped.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The cause of a stray datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// DTLS records on a port for plain CoAP.
    DtlsOnPlainPort,
    /// CoAP messages on a port for DTLS.
    PlainOnDtlsPort,
    /// A handshake that needs certificates, raw public keys or pre-shared keys that are not
    /// configured.
    NotConfigured,
    /// Several records of a session that does not exist (any more).
    UnknownSession,
}

impl Mistake {
    /// All causes.
    pub const ALL: [Mistake; 4] =
        [Mistake::DtlsOnPlainPort, Mistake::PlainOnDtlsPort, Mistake::NotConfigured, Mistake::UnknownSession];

    /// The name in `status --json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Mistake::DtlsOnPlainPort => "dtls_on_plain_port",
            Mistake::PlainOnDtlsPort => "plain_on_dtls_port",
            Mistake::NotConfigured => "not_configured",
            Mistake::UnknownSession => "unknown_session",
        }
    }

    /// The cause and the remedy in one sentence.
    pub fn advice(self) -> &'static str {
        match self {
            Mistake::DtlsOnPlainPort => "sends DTLS to a plain CoAP port; use a port of coap.listen",
            Mistake::PlainOnDtlsPort => {
                "sends plain CoAP to a DTLS port; use coaps:// with a key, or a port of coap.insecure-listen"
            }
            Mistake::NotConfigured => {
                "offers only cipher suites that need a key or CA that is not configured; see the log"
            }
            Mistake::UnknownSession => {
                "sends records of a DTLS session that does not exist; restart the device, or make it handshake again"
            }
        }
    }

    /// Least number of datagrams before the source is logged: one late record of a closed session
    /// is normal.
    fn least(self) -> u64 {
        if self == Mistake::UnknownSession { 3 } else { 1 }
    }
}

/// One source address with its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The source address; it may be spoofed.
    pub source: IpAddr,
    /// The cause.
    pub mistake: Mistake,
    /// The number of datagrams.
    pub count: u64,
    /// When the first datagram came.
    pub since: Instant,
    /// When the last datagram came.
    pub last: Instant,
    said: Option<Instant>,
}

/// The sources kept, and counters for the others.
#[derive(Debug, Default)]
pub struct Strays {
    strays: Vec<Stray>,
    /// Datagrams of sources that are not kept.
    unnamed: u64,
    /// For each cause, when a logged source was last replaced.
    given_up: [Option<Instant>; Mistake::ALL.len()],
}

impl Strays {
    /// Counts a datagram. Returns whether to log it.
    pub fn note(&mut self, now: Instant, source: IpAddr, mistake: Mistake) -> bool {
        let found = self.strays.iter().position(|stray| stray.source == source && stray.mistake == mistake);
        let at = match found {
            Some(at) => at,
            None => match self.place(now, mistake) {
                Some(at) => {
                    let fresh = Stray { source, mistake, count: 0, since: now, last: now, said: None };
                    match self.strays.get_mut(at) {
                        Some(place) => {
                            let before = std::mem::replace(place, fresh);
                            self.unnamed += before.count;
                        }
                        None => self.strays.push(fresh),
                    }
                    at
                }
                None => {
                    self.unnamed += 1;
                    return false;
                }
            },
        };
        let Some(stray) = self.strays.get_mut(at) else { return false };
        stray.count += 1;
        stray.last = now;
        let is_due = stray.said.is_none_or(|said| said + AGAIN <= now);
        let is_worth_it = is_due && stray.count >= mistake.least();
        if is_worth_it {
            stray.said = Some(now);
        }
        is_worth_it
    }

    /// The index for a new source of one cause: a free one; otherwise that of a source that was
    /// never logged, of one silent for so long that it would be logged again, or of the one with
    /// the fewest datagrams. The last kind must have been silent for [`GIVEN_UP`] and is replaced
    /// at most once in that time, because its replacement is logged.
    fn place(&mut self, now: Instant, mistake: Mistake) -> Option<usize> {
        let of_kind = self.strays.iter().enumerate().filter(|(_, stray)| stray.mistake == mistake);
        if of_kind.clone().count() < EACH {
            return Some(self.strays.len());
        }
        let free = of_kind.clone().filter(|(_, stray)| stray.said.is_none() || stray.last + AGAIN <= now);
        if let Some((at, _)) = free.min_by_key(|(_, stray)| (stray.said.is_some(), stray.last)) {
            return Some(at);
        }
        let given_up = self.given_up.get_mut(mistake as usize)?;
        if given_up.is_some_and(|given_up| now < given_up + GIVEN_UP) {
            return None;
        }
        let silent = of_kind.filter(|(_, stray)| stray.last + GIVEN_UP <= now);
        let (at, _) = silent.min_by_key(|(_, stray)| (stray.count, stray.last))?;
        *given_up = Some(now);
        Some(at)
    }

    /// The sources of the last 24 h that were logged.
    pub fn recent(&self, now: Instant) -> impl Iterator<Item = &Stray> {
        self.strays
            .iter()
            .filter(move |stray| stray.last + KEPT > now && stray.count >= stray.mistake.least())
    }

    /// Datagrams of sources that are not kept, since the start.
    pub fn unnamed(&self) -> u64 {
        self.unnamed
    }
}

/// Whether a datagram on a port for plain CoAP begins like a DTLS record (RFC 6347 §4.1; RFC 9147
/// §4 for 1.3).
pub fn looks_like_dtls(datagram: &[u8]) -> bool {
    matches!(datagram, [20..=26, 0xfe, 0xfc..=0xff, _, _, _, _, _, _, _, _, _, _, ..])
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    fn source(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_source_is_named_once_an_hour_and_stays_for_a_day() {
        let (start, mut strays) = (Instant::now(), Strays::default());
        let mut named = Vec::new();
        for minute in 0..180 {
            let now = start + Duration::from_secs(60 * minute);
            if strays.note(now, source(1), Mistake::DtlsOnPlainPort) {
                named.push(minute);
            }
        }
        assert_eq!(named, [0, 60, 120]);
        assert!(strays.note(start, source(1), Mistake::PlainOnDtlsPort), "another mistake");
        assert!(strays.note(start, source(2), Mistake::DtlsOnPlainPort), "another source");
        let last = start + Duration::from_secs(60 * 179);
        let counts: Vec<u64> = strays.recent(last).map(|stray| stray.count).collect();
        assert_eq!(counts, [180, 1, 1]);
        assert_eq!(strays.recent(last + KEPT).count(), 0);
    }

    #[test]
    fn one_late_record_is_no_device_that_talks_in_vain() {
        let (now, mut strays) = (Instant::now(), Strays::default());
        let mut note = || strays.note(now, source(1), Mistake::UnknownSession);
        assert_eq!([note(), note(), note(), note()], [false, false, true, false]);
        strays.note(now, source(2), Mistake::UnknownSession);
        assert_eq!(strays.recent(now).count(), 1);
    }

    #[test]
    fn however_many_sources_there_are_memory_and_lines_are_bounded() {
        let (now, mut strays) = (Instant::now(), Strays::default());
        let named = (0..10_000).filter(|n| strays.note(now, source(*n), Mistake::DtlsOnPlainPort)).count();
        assert_eq!((named, strays.strays.len(), strays.unnamed()), (EACH, EACH, 10_000 - EACH as u64));
        assert!(strays.note(now, source(1), Mistake::PlainOnDtlsPort), "another kind has room of its own");
        let later = now + AGAIN;
        assert!(
            strays.note(later, source(77_777), Mistake::DtlsOnPlainPort),
            "in place of one that is quiet"
        );
        assert_eq!(strays.strays.len(), EACH + 1);
    }

    #[test]
    fn who_talks_in_vain_for_ever_is_named_whoever_came_once() {
        for mistake in Mistake::ALL {
            let (mut now, mut strays) = (Instant::now(), Strays::default());
            // More sources than are kept, some with enough datagrams to be logged.
            for n in 0..40 {
                for _ in 0..1 + n % 4 {
                    strays.note(now, source(n), mistake);
                }
            }
            // One more source, once in two minutes.
            let mut lines = 0;
            for _ in 0..30 {
                now += 2 * GIVEN_UP;
                lines += usize::from(strays.note(now, source(99), mistake));
            }
            assert_eq!(lines, 1, "{mistake:?}");
            let shown = strays.recent(now).find(|stray| stray.source == source(99)).expect("it is shown");
            assert!(shown.count >= 27, "{shown:?}");
            let kept: u64 = strays.strays.iter().map(|stray| stray.count).sum();
            assert_eq!(kept + strays.unnamed(), 100 + 30, "each datagram is counted once");
        }
    }

    #[test]
    fn a_flood_of_sources_has_few_lines_an_hour() {
        let (start, mut strays) = (Instant::now(), Strays::default());
        let mut line = |second: u32| {
            strays.note(start + Duration::from_secs(second.into()), source(second), Mistake::PlainOnDtlsPort)
        };
        let lines = (0..3_600).filter(|second| line(*second)).count();
        assert!(lines <= EACH + 60, "{lines}");
    }

    #[test]
    fn dtls_is_told_from_coap() {
        let hello = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 50, 1];
        assert!(looks_like_dtls(&hello));
        assert!(!looks_like_dtls(&hello[..12]));
        for coap in [&[0x40, 1, 0, 1][..], &[0x52, 2, 0, 1, 7, 7, 0xb1, b't', 0xff, 1, 2, 3, 4, 5, 6]] {
            assert!(!looks_like_dtls(coap));
        }
    }
}
