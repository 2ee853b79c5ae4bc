//! One port: whether it is open, what its bytes mean, and what became of its readings.
//!
//! | verb | who calls it |
//! |---|---|
//! | [`Port::poll_open`], `handle_opened`, `handle_failure` | the shell that opens it |
//! | [`Port::handle_bytes`], `handle_timeout`, `poll_timeout` | the shell, with a [`Taker`] for the readings |
//! | [`Port::handle_completion`] | the journal's completions |

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pending::{Held, Pending};
use super::settings::{self, Duty};
use crate::gate::stage::Received;
use crate::message::{Method, Path, Stamp};
use crate::proto::serial::framing::{self, Decoder};
use crate::proto::serial::link::Link;
use crate::proto::serial::reading::{Extractor, Reading, Room, Unreadable};
use crate::proto::serial::slipmux;

/// How long to wait before what the journal did not take is offered again.
pub const OFFER_AGAIN: Duration = Duration::from_millis(250);

/// What became of a reading that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On its way to disk; its ticket comes back.
    Taken,
    /// By a rule with `qos = 0`: passed on, not stored.
    Passed,
    /// No rule allows it, or it can never be stored. Counted and logged by whom it was offered to.
    Refused,
    /// Its device has used up its quota. Counted and logged as a refusal the first time.
    OverQuota,
    /// The journal cannot take it at present.
    Unavailable,
}

/// Who takes readings: the gate and the journal behind it.
pub trait Taker {
    /// Offers one under a ticket.
    fn take(&mut self, ticket: u128, received: Received<'_>) -> Verdict;

    /// A CoAP message of a node on the line; answers go out by the shell.
    fn message(&mut self, message: &[u8]);

    /// A frame was no reading.
    fn unreadable(&mut self, why: Unreadable);
}

/// What a port did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes and frames.
    pub framing: framing::Counters,
    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub readings: u64,
    /// Frames that were no reading.
    pub unreadable: u64,
    /// Readings that no rule or quota allowed.
    pub refused: u64,
    /// Readings lost because the journal did not take them for too long.
    pub lost: u64,
}

/// One port.
#[derive(Debug)]
pub struct Port {
    settings: Arc<settings::Port>,
    link: Link,
    decoder: Decoder,
    room: Room,
    pending: Pending,
    tickets: Tickets,
    again_at: Option<Instant>,
    readings: u64,
    unreadable: u64,
    refused: u64,
}

impl Port {
    /// A port to be opened at once. All its tickets have `space` above their lowest 32 bits.
    pub fn new(settings: Arc<settings::Port>, space: u128, now: Instant) -> Port {
        let framing = settings.duty.framing();
        Port {
            link: Link::new(now),
            decoder: Decoder::new(&framing, now),
            settings,
            room: Room::default(),
            pending: Pending::default(),
            tickets: Tickets { space, last: 0 },
            again_at: None,
            readings: 0,
            unreadable: 0,
            refused: 0,
        }
    }

    /// What it was told.
    pub fn settings(&self) -> &Arc<settings::Port> {
        &self.settings
    }

    /// Whether it is open, since when, why not.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// What it did.
    pub fn counters(&self) -> Counters {
        Counters {
            framing: self.decoder.counters(),
            readings: self.readings,
            unreadable: self.unreadable,
            refused: self.refused,
            lost: self.pending.lost(),
        }
    }

    /// Readings in memory: waiting for the journal, and on their way to disk.
    pub fn pending(&self) -> (usize, usize) {
        self.pending.counts()
    }

    /// Goes on with what its predecessor had not stored.
    pub fn adopt(&mut self, predecessor: &mut Port, now: Instant) {
        self.pending.adopt(std::mem::take(&mut predecessor.pending));
        if !self.pending.is_clear() {
            self.again_at = Some(now);
        }
    }

    /// Whether the shell is to open it now.
    pub fn poll_open(&mut self, now: Instant) -> bool {
        self.link.poll_open(now)
    }

    /// It is open.
    pub fn handle_opened(&mut self, now: Instant) {
        self.link.handle_opened(now);
        self.decoder.reopen(now);
    }

    /// It cannot be opened, or was lost. Whether that is news.
    pub fn handle_failure(&mut self, now: Instant, reason: &str) -> bool {
        self.link.handle_failure(now, reason)
    }

    /// Takes what came over the line.
    pub fn handle_bytes(&mut self, now: Instant, stamp: Stamp, bytes: &[u8], taker: &mut dyn Taker) {
        self.decode(now, stamp, taker, |decoder, sink| decoder.handle_bytes(now, bytes, sink));
    }

    /// Does what is due: ends frames by a pause, offers again what waits.
    pub fn handle_timeout(&mut self, now: Instant, stamp: Stamp, taker: &mut dyn Taker) {
        self.decode(now, stamp, taker, |decoder, sink| decoder.handle_timeout(now, sink));
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.offer_waiting(now, taker);
        }
    }

    /// When [`Port::handle_timeout`], or [`Port::poll_open`], is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.decoder.poll_timeout(), self.again_at, self.link.poll_timeout()].into_iter().flatten().min()
    }

    /// A reading under this ticket is on disk, or could not be put there.
    pub fn handle_completion(&mut self, now: Instant, ticket: u128, stored: bool) {
        self.pending.complete(ticket, stored);
        if stored {
            self.readings += 1;
        } else if !self.pending.is_clear() && self.again_at.is_none() {
            self.again_at = Some(now + OFFER_AGAIN);
        }
    }

    fn decode(
        &mut self,
        now: Instant,
        stamp: Stamp,
        taker: &mut dyn Taker,
        feed: impl FnOnce(&mut Decoder, &mut dyn FnMut(&[u8])),
    ) {
        let Port {
            settings, decoder, room, pending, tickets, again_at, readings, unreadable, refused, ..
        } = self;
        let extractor: &Extractor = match &settings.duty {
            Duty::Readings { extractor, .. } => extractor,
            Duty::Slipmux { .. } => {
                return feed(decoder, &mut |frame| match slipmux::decode(frame) {
                    Ok(slipmux::Frame::Coap(message)) => taker.message(message),
                    // For whoever traces the port.
                    Ok(slipmux::Frame::Diagnostic(_) | slipmux::Frame::Packet(_)) => {}
                    Err(slipmux::Broken) => {
                        *unreadable += 1;
                        taker.unreadable(Unreadable::Broken);
                    }
                });
            }
        };
        feed(decoder, &mut |frame| {
            let reading = match extractor.read(frame, room) {
                Ok(reading) => reading,
                Err(why) => {
                    *unreadable += 1;
                    return taker.unreadable(why);
                }
            };
            // Those that wait go first.
            let verdict = if pending.is_clear() {
                let ticket = tickets.next();
                let verdict = taker.take(ticket, received(&reading, stamp));
                if verdict == Verdict::Taken {
                    pending.hold(ticket, Held::of(&reading, stamp));
                }
                verdict
            } else {
                Verdict::Unavailable
            };
            match verdict {
                Verdict::Taken => {}
                Verdict::Passed => *readings += 1,
                Verdict::Refused | Verdict::OverQuota => *refused += 1,
                Verdict::Unavailable => {
                    pending.wait(Held::of(&reading, stamp));
                    again_at.get_or_insert(now + OFFER_AGAIN);
                }
            }
        });
    }

    fn offer_waiting(&mut self, now: Instant, taker: &mut dyn Taker) {
        while let Some(held) = self.pending.first() {
            let Ok(path) = Path::parse(&held.path) else {
                // It was parsed before it was held.
                self.pending.first_gone();
                continue;
            };
            let reading = Reading { path, content_format: held.content_format, payload: &held.payload };
            let ticket = self.tickets.next();
            match taker.take(ticket, received(&reading, held.stamp)) {
                Verdict::Taken => self.pending.first_taken(ticket),
                Verdict::Passed => {
                    self.readings += 1;
                    self.pending.first_gone();
                }
                Verdict::Refused => {
                    self.refused += 1;
                    self.pending.first_gone();
                }
                // Once let in, it keeps its claim: what comes after an outage comes at the quota's pace.
                Verdict::OverQuota | Verdict::Unavailable => {
                    self.again_at = Some(now + OFFER_AGAIN);
                    return;
                }
            }
        }
    }
}

#[derive(Debug)]
struct Tickets {
    space: u128,
    last: u32,
}

impl Tickets {
    fn next(&mut self) -> u128 {
        self.last = self.last.wrapping_add(1);
        self.space | u128::from(self.last)
    }
}

fn received<'a>(reading: &Reading<'a>, stamp: Stamp) -> Received<'a> {
    Received {
        path: reading.path,
        method: Method::Post,
        payload: reading.payload,
        content_format: reading.content_format,
        // It came whole; the larger limit holds for frames that a single datagram could not carry.
        blockwise: reading.payload.len() > 1024,
        stamp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Name;
    use crate::proto::serial::framing::{Framing, line};
    use crate::proto::serial::reading::Form;
    use crate::southbound::serial::settings::{Line, PortName};

    struct Journal {
        verdict: Verdict,
        taken: Vec<(u128, String, u64)>,
        messages: Vec<Vec<u8>>,
        unreadable: usize,
    }

    impl Taker for Journal {
        fn take(&mut self, ticket: u128, received: Received<'_>) -> Verdict {
            if matches!(self.verdict, Verdict::Taken | Verdict::Passed) {
                let text = String::from_utf8_lossy(received.payload).into_owned();
                self.taken.push((ticket, text, received.stamp.boottime_ms));
            }
            self.verdict
        }

        fn message(&mut self, message: &[u8]) {
            self.messages.push(message.to_vec());
        }

        fn unreadable(&mut self, _: Unreadable) {
            self.unreadable += 1;
        }
    }

    fn port(pattern: Option<&str>) -> (Port, Instant, Journal) {
        let framing =
            framing::Settings { framing: Framing::Line(line::End::Any), checksum: None, max_frame: 100 };
        let extractor = Extractor::new(Form::Text, pattern, &[], "data").unwrap();
        let settings = settings::Port {
            name: Name::parse("meter").unwrap(),
            port: PortName::parse("/dev/null").unwrap(),
            line: Line::default(),
            duty: Duty::Readings { framing, extractor },
        };
        let start = Instant::now();
        let mut port = Port::new(Arc::new(settings), 7 << 32, start);
        assert!(port.poll_open(start));
        port.handle_opened(start);
        let journal =
            Journal { verdict: Verdict::Taken, taken: Vec::new(), messages: Vec::new(), unreadable: 0 };
        (port, start + Duration::from_secs(1), journal)
    }

    fn stamp(boottime_ms: u64) -> Stamp {
        Stamp { boottime_ms, wall_ms: None }
    }

    #[test]
    fn a_reading_is_forgotten_only_when_it_is_committed() {
        let (mut port, now, mut journal) = port(None);
        port.handle_bytes(now, stamp(5), b"one\ntwo\n", &mut journal);
        assert_eq!(port.pending(), (0, 2));
        port.handle_completion(now, journal.taken[0].0, true);
        port.handle_completion(now, journal.taken[1].0, false);
        assert_eq!((port.pending(), port.counters().readings), ((1, 0), 1));
        let again = port.poll_timeout().unwrap();
        port.handle_timeout(again, stamp(99), &mut journal);
        // Under another ticket, with the time at which it came.
        assert_eq!(journal.taken[2].1, "two");
        assert_eq!((journal.taken[2].2, journal.taken[2].0 >> 32), (5, 7));
        assert_ne!(journal.taken[2].0, journal.taken[1].0);
    }

    #[test]
    fn while_the_journal_takes_nothing_readings_wait_in_their_order() {
        let (mut port, now, mut journal) = port(None);
        journal.verdict = Verdict::Unavailable;
        port.handle_bytes(now, stamp(1), b"one\ntwo\n", &mut journal);
        journal.verdict = Verdict::Taken;
        port.handle_bytes(now, stamp(2), b"three\n", &mut journal);
        assert_eq!((port.pending(), journal.taken.len()), ((3, 0), 0));
        let mut at = port.poll_timeout().unwrap();
        journal.verdict = Verdict::OverQuota;
        port.handle_timeout(at, stamp(9), &mut journal);
        assert_eq!(port.pending(), (3, 0));
        journal.verdict = Verdict::Taken;
        at = port.poll_timeout().unwrap();
        port.handle_timeout(at, stamp(9), &mut journal);
        let texts: Vec<_> = journal.taken.iter().map(|taken| taken.1.as_str()).collect();
        assert_eq!((texts, port.pending(), port.poll_timeout()), (vec!["one", "two", "three"], (0, 3), None));
    }

    #[test]
    fn what_is_refused_or_unreadable_is_counted_and_forgotten() {
        let (mut port, now, mut journal) = port(Some("^[a-z]+$"));
        port.handle_bytes(now, stamp(1), b"one\n2\n", &mut journal);
        journal.verdict = Verdict::Refused;
        port.handle_bytes(now, stamp(1), b"two\n", &mut journal);
        let counters = port.counters();
        assert_eq!((counters.unreadable, counters.refused, journal.unreadable), (1, 1, 1));
        assert_eq!((counters.framing.good, port.pending()), (3, (0, 1)));
    }

    #[test]
    fn a_node_that_speaks_slipmux_says_coap_messages() {
        let (_, now, mut journal) = port(None);
        let settings = settings::Port {
            name: Name::parse("node").unwrap(),
            port: PortName::parse("/dev/null").unwrap(),
            line: Line::default(),
            duty: Duty::Slipmux { max_message: 100 },
        };
        let mut port = Port::new(Arc::new(settings), 0, now);
        let mut wire = Vec::new();
        slipmux::encode(b"\x40\x02\x12\x34", &mut wire);
        slipmux::encode(&[0xC0; 100], &mut wire);
        wire.extend_from_slice(b"\xC0\x0Ahello\xC0\xA9nonsense\xC0");
        let later = now + Duration::from_secs(1);
        port.handle_bytes(later, stamp(1), &wire, &mut journal);
        assert_eq!(journal.messages, [b"\x40\x02\x12\x34".to_vec(), vec![0xC0; 100]]);
        assert_eq!((port.counters().unreadable, port.counters().framing.good), (1, 4));
    }

    #[test]
    fn half_a_line_of_before_is_not_joined_to_what_comes_after_a_replug() {
        let (mut port, now, mut journal) = port(None);
        port.handle_bytes(now, stamp(1), b"123", &mut journal);
        assert!(port.handle_failure(now, "unplugged"));
        let at = port.poll_timeout().unwrap();
        assert!(port.poll_open(at));
        port.handle_opened(at);
        port.handle_bytes(at + Duration::from_secs(1), stamp(2), b"45\n", &mut journal);
        assert_eq!(journal.taken.iter().map(|taken| taken.1.as_str()).collect::<Vec<_>>(), ["45"]);
    }
}
