//! One port: its link state, and its protocol: a stream of frames, or a bus with units.
//!
//! | method | caller |
//! |---|---|
//! | [`Port::poll_open`], `handle_opened`, `handle_closing`, `handle_failure` | the shell that opens it |
//! | [`Port::handle_bytes`], `handle_timeout`, `poll_transmit`, `poll_timeout` | the shell, with a [`Taker`] for the readings |
//! | [`Port::handle_completion`] | the journal's completions |

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::greeting::Greeting;
use super::legibility::{Fault, Illegible};
use super::order::{Delivered, Order, Wanted};
use super::settings::{self, Duty, PortName};
use super::stream::Stream;
use super::taker::Taker;
use super::units::{UnitView, Units};
use crate::message::{Name, Stamp};
use crate::proto::address::SerialTicket;
use crate::proto::serial::link::Link;
use crate::proto::serial::modbus::BuiltIn;
use crate::proto::serial::modbus::learn::{Learned, Notebook};
use crate::proto::serial::{framing, poll, writer};

/// The state of one port.
#[derive(Debug)]
pub struct Port {
    settings: Arc<settings::Port>,
    link: Link,
    work: Work,
    /// Commands that could not be begun, which are told next.
    untaken: Vec<(u64, Delivered)>,
    greeting: Greeting,
}

#[derive(Debug)]
enum Work {
    Stream(Box<Stream>),
    Bus(Box<Units>, BuiltIn),
}

impl Port {
    /// A port that is opened at once. Its tickets contain `number`; `seed` spreads the polls of
    /// units in time.
    pub fn new(settings: Arc<settings::Port>, number: u32, now: Instant, seed: u64) -> Port {
        let stream = |framing: &framing::Settings| Stream::new(framing, number, now);
        let work = match &settings.duty {
            Duty::Readings { framing, poll, write, .. } => {
                let stream = stream(framing).asked(framing, poll.as_ref(), now);
                Work::Stream(Box::new(stream.written(write.as_ref(), settings.line)))
            }
            Duty::Slipmux { max_message } => Work::Stream(Box::new(stream(&settings::slipmux(*max_message)))),
            Duty::Modbus(bus, built_in) => {
                let units = Units::new(bus, &settings.port, number, now, seed);
                Work::Bus(Box::new(units), *built_in)
            }
        };
        Port { link: Link::new(now), settings, work, untaken: Vec::new(), greeting: Greeting::default() }
    }

    /// The settings of the port.
    pub fn settings(&self) -> &Arc<settings::Port> {
        &self.settings
    }

    /// The link state: whether the port is open, since when, and the reason if not.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        match &self.work {
            Work::Stream(stream) => stream.counters(),
            Work::Bus(units, _) => units.counters(),
        }
    }

    /// The units of a bus, by address; empty for a port that is not a bus.
    pub fn units(&self) -> impl Iterator<Item = UnitView<'_>> {
        let units = match &self.work {
            Work::Stream(_) => None,
            Work::Bus(units, _) => Some(units.views()),
        };
        units.into_iter().flatten()
    }

    /// Units of a bus go on with what was learned of them before; `is_configured`: whether there is
    /// a device of this id.
    pub fn recall(&mut self, now: Instant, notebook: &Notebook, is_configured: &dyn Fn(&str) -> bool) {
        if let Work::Bus(units, _) = &mut self.work {
            units.recall(now, notebook, is_configured);
        }
    }

    /// Forgets what was learned of a unit of a bus, by its device id; whether there was anything.
    /// `None`: there is no such unit.
    pub fn relearn(&mut self, now: Instant, device: &str) -> Option<bool> {
        match &mut self.work {
            Work::Stream(_) => None,
            Work::Bus(units, _) => units.relearn(now, device),
        }
    }

    /// What was learned of each unit of a bus, by device id.
    pub fn learned(&self) -> impl Iterator<Item = (&Name, Learned)> {
        let units = match &self.work {
            Work::Stream(_) => None,
            Work::Bus(units, _) => Some(units.learned()),
        };
        units.into_iter().flatten()
    }

    /// The fields that the readings of a unit ([`UnitView::index`]) come without, and why.
    pub fn left_out(&self, unit: usize) -> impl Iterator<Item = (&str, String)> {
        let units = match &self.work {
            Work::Stream(_) => None,
            Work::Bus(units, _) => Some(units.left_out(unit)),
        };
        units.into_iter().flatten()
    }

    /// Readings in memory: waiting for the journal, and on their way to disk.
    pub fn pending(&self) -> (usize, usize) {
        match &self.work {
            Work::Stream(stream) => stream.delivery.pending(),
            Work::Bus(units, _) => units.pending(),
        }
    }

    /// Readings that were lost since some wait without a break: there was no room for more. 0
    /// while none waits.
    pub fn losing(&self) -> u64 {
        match &self.work {
            Work::Stream(stream) => stream.delivery.losing(),
            Work::Bus(units, _) => units.losing(),
        }
    }

    /// Takes over the uncommitted readings of its predecessor, after a reload. Readings that remain
    /// in the predecessor belong to devices that were removed.
    pub fn adopt(&mut self, predecessor: &mut Port, now: Instant) {
        match (&mut self.work, &mut predecessor.work) {
            (Work::Stream(own), Work::Stream(other)) => own.adopt(other, now),
            (Work::Bus(own, _), Work::Bus(other, _)) => own.adopt(other, now),
            (Work::Stream(_), Work::Bus(..)) | (Work::Bus(..), Work::Stream(_)) => {}
        }
    }

    /// Whether the shell must open the port now.
    pub fn poll_open(&mut self, now: Instant) -> bool {
        self.link.poll_open(now)
    }

    /// The port was opened.
    pub fn handle_opened(&mut self, now: Instant) {
        self.link.handle_opened(now);
        let is_judged = matches!(self.settings.port, PortName::Tcp { .. }) && !self.may_begin_with_ff();
        self.greeting.opened(is_judged);
        match &mut self.work {
            Work::Stream(stream) => stream.reopen(now),
            Work::Bus(units, _) => units.opened(now),
        }
    }

    /// The port failed: a message that is whole counts before it is closed.
    pub fn handle_closing(&mut self, now: Instant, stamp: Stamp, taker: &mut dyn Taker) {
        if let Work::Stream(stream) = &mut self.work {
            stream.closing(now, stamp, &self.settings, taker);
        }
    }

    /// The port could not be opened, or failed. Returns whether the reason is new, to log it once.
    pub fn handle_failure(&mut self, now: Instant, reason: &str) -> bool {
        match &mut self.work {
            Work::Bus(units, _) => units.failed(now),
            Work::Stream(stream) => stream.closed(now),
        }
        self.link.handle_failure(now, reason)
    }

    /// Whether messages of the device begin with FF, as commands of telnet do.
    fn may_begin_with_ff(&self) -> bool {
        let Duty::Readings { framing, .. } = &self.settings.duty else { return false };
        let first = match &framing.framing {
            framing::Framing::Markers(markers) => markers.start.first(),
            _ => framing.start.first(),
        };
        first == Some(&0xFF)
    }

    /// These bytes came on its line, for whichever device. Returns whether it is news that the peer
    /// speaks telnet.
    pub fn greeted(&mut self, bytes: &[u8]) -> bool {
        self.greeting.received(bytes)
    }

    /// That the peer speaks telnet, and what to do about it, if it is so.
    pub fn telnet(&self) -> Option<String> {
        self.greeting.sentence(&self.settings.port)
    }

    /// Handles received bytes.
    pub fn handle_bytes(&mut self, now: Instant, stamp: Stamp, bytes: &[u8], taker: &mut dyn Taker) {
        self.link.handle_received();
        match &mut self.work {
            Work::Stream(stream) => stream.handle_bytes(now, stamp, bytes, &self.settings, taker),
            Work::Bus(units, _) => units.handle_bytes(now, stamp, bytes, taker),
        }
    }

    /// Bytes that are read now have waited for so long at most, however long the line was silent.
    pub fn handle_wait(&mut self, now: Instant, waited: Duration) {
        if let Work::Stream(stream) = &mut self.work {
            stream.handle_wait(now, waited);
        }
    }

    /// Handles due timers: ends frames after a pause, polls units, offers waiting readings again.
    pub fn handle_timeout(&mut self, now: Instant, stamp: Stamp, taker: &mut dyn Taker) {
        match &mut self.work {
            Work::Stream(stream) => stream.handle_timeout(now, stamp, &self.settings, taker),
            Work::Bus(units, _) => units.handle_timeout(now, stamp, taker),
        }
    }

    /// How the device does that is asked; `None` for any other.
    pub fn asked(&self) -> Option<poll::Standing> {
        match &self.work {
            Work::Stream(stream) => stream.poller().map(poll::Poller::standing),
            Work::Bus(..) => None,
        }
    }

    /// Why the last answer of a device that is asked was no reading, if it was none.
    pub fn fault(&self) -> Option<&Fault> {
        match &self.work {
            Work::Stream(stream) => stream.fault(),
            Work::Bus(..) => None,
        }
    }

    /// Complete frames that were no reading, by reason.
    pub fn unreadable(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let of = match &self.work {
            Work::Stream(stream) => Some(stream.unreadable()),
            Work::Bus(..) => None,
        };
        of.into_iter().flatten().map(|(why, count)| (*why, *count))
    }

    /// Why nothing that comes on the line of a device that is not asked can be read.
    pub fn illegible(&self) -> Option<&Illegible> {
        match &self.work {
            Work::Stream(stream) => stream.illegible(),
            Work::Bus(..) => None,
        }
    }

    /// Writes the next request of a bus, or question to a device, to the empty `buffer`; returns
    /// whether there is one. Responses to a CoAP node are not sent here.
    pub fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> bool {
        match &mut self.work {
            Work::Stream(stream) => stream.poll_transmit(buffer),
            Work::Bus(units, _) => units.poll_transmit(buffer),
        }
    }

    /// Takes a command; [`Port::poll_delivered`] tells what became of it.
    pub fn write(&mut self, now: Instant, order: Order) {
        let Order { number, device, wanted, within } = order;
        let is_taken = match (&mut self.work, wanted) {
            (Work::Bus(units, _), Wanted::Value(job)) => units.write(now, &device, number, *job, within),
            (Work::Stream(stream), Wanted::Frame { frame, payload }) => {
                stream.write(now, writer::Command { number, frame, payload }, within)
            }
            // It was made for the settings of before a reload.
            (Work::Bus(..), Wanted::Frame { .. }) | (Work::Stream(_), Wanted::Value(_)) => false,
        };
        if !is_taken {
            self.untaken.push((number, Delivered::Unsent));
        }
    }

    /// What became of a command.
    pub fn poll_delivered(&mut self) -> Option<(u64, Delivered)> {
        let told = match &mut self.work {
            Work::Stream(stream) => stream.poll_sent().map(|(number, sent)| (number, sent.into())),
            Work::Bus(units, _) => units.poll_written().map(|(number, written)| (number, written.into())),
        };
        told.or_else(|| self.untaken.pop())
    }

    /// The port is given up with the command that is under way.
    pub fn interrupt_write(&mut self) {
        match &mut self.work {
            Work::Stream(stream) => stream.interrupt_write(),
            Work::Bus(units, _) => units.interrupt_write(),
        }
    }

    /// Whether what was sent last may be sent a second time: a command may not.
    pub fn is_repeatable(&self) -> bool {
        match &self.work {
            Work::Stream(stream) => stream.is_repeatable(),
            Work::Bus(units, _) => units.is_repeatable(),
        }
    }

    /// There are other devices on its line: it asks only when [`Port::hold`] allows it.
    pub fn share(&mut self) {
        if let Work::Stream(stream) = &mut self.work {
            stream.share();
        }
    }

    /// Whether it must wait for its turn to ask.
    pub fn hold(&mut self, now: Instant, is_held: bool) {
        if let Work::Stream(stream) = &mut self.work {
            stream.hold(now, is_held);
        }
    }

    /// How it stands among those on the same line; `None` if nothing is asked here.
    pub fn turn(&self, now: Instant) -> Option<poll::Turn> {
        match &self.work {
            Work::Stream(stream) => stream.turn(now),
            Work::Bus(..) => None,
        }
    }

    /// For so long an answer to what was asked here may still come.
    pub fn still_to_come(&self, now: Instant) -> Duration {
        match &self.work {
            Work::Stream(stream) => {
                stream.poller().map(|poller| poller.still_to_come(now)).unwrap_or_default()
            }
            Work::Bus(units, _) => units.still_to_come(),
        }
    }

    /// Nothing is asked for so long once the line is open: an answer to others may still come that
    /// were asked on the line before a reload.
    pub fn await_rest(&mut self, still: Duration) {
        match &mut self.work {
            Work::Stream(stream) => stream.poller_mut().into_iter().for_each(|own| own.await_rest(still)),
            Work::Bus(units, _) => units.await_rest(still),
        }
    }

    /// Bytes came on its line, for whichever device.
    pub fn heard(&mut self) {
        self.link.handle_received();
    }

    /// When [`Port::handle_timeout`] is wanted next, if another opens its port.
    pub fn work_timeout(&self) -> Option<Instant> {
        match &self.work {
            Work::Stream(stream) => stream.poll_timeout(),
            Work::Bus(units, _) => units.poll_timeout(),
        }
    }

    /// When [`Port::handle_timeout`], or [`Port::poll_open`], is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.work_timeout(), self.link.poll_timeout()].into_iter().flatten().min()
    }

    /// A reading under this ticket is on disk, or could not be put there.
    pub fn handle_completion(&mut self, now: Instant, ticket: SerialTicket, stored: bool) {
        match &mut self.work {
            Work::Stream(stream) => stream.delivery.handle_completion(now, ticket, stored),
            Work::Bus(units, _) => units.handle_completion(now, ticket, stored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::taker::Verdict;
    use super::*;
    use crate::gate::stage::Received;
    use crate::message::Name;
    use crate::proto::serial::checksum::Checksum;
    use crate::proto::serial::framing::{Framing, length, line, markers};
    use crate::proto::serial::modbus;
    use crate::proto::serial::reading::Unreadable;
    use crate::proto::serial::reading::{Extractor, Form};
    use crate::proto::serial::slipmux;
    use crate::southbound::serial::settings::{Line, PortName};

    struct Journal {
        verdict: Verdict,
        taken: Vec<(SerialTicket, String, u64)>,
        messages: Vec<Vec<u8>>,
        unreadable: usize,
        legible: Vec<bool>,
        /// Why frames were none, and their first bytes.
        said: Vec<(&'static str, Vec<u8>)>,
    }

    impl Taker for Journal {
        fn take(&mut self, _: &str, ticket: SerialTicket, received: Received<'_>) -> Verdict {
            if matches!(self.verdict, Verdict::Taken | Verdict::Passed) {
                let text = String::from_utf8_lossy(received.payload).into_owned();
                self.taken.push((ticket, text, received.stamp.boottime_ms));
            }
            self.verdict
        }

        fn message(&mut self, message: &[u8]) {
            self.messages.push(message.to_vec());
        }

        fn unreadable(&mut self, why: Unreadable, bytes: &[u8]) {
            self.unreadable += 1;
            self.said.push((why.as_str(), bytes.to_vec()));
        }

        fn dropped(&mut self, why: framing::Bad, bytes: &[u8]) {
            self.said.push((why.as_str(), bytes.to_vec()));
        }

        fn legible(&mut self, legible: bool) {
            self.legible.push(legible);
        }

        fn alive(&mut self, _: &str) {}

        fn news(&mut self, _: &modbus::settings::Unit, _: &modbus::Event) {}
    }

    fn framed(framing: Framing) -> framing::Settings {
        framing::Settings {
            framing,
            checksum: None,
            max_frame: 100,
            start: Vec::new(),
            within: framing::IDLE,
            placement: Default::default(),
            skip_first: false,
            keep: 0,
            whole: false,
            label_end: None,
            interleaved: None,
            silence: None,
        }
    }

    fn port(pattern: Option<&str>) -> (Port, Instant, Journal) {
        port_with(framed(Framing::Line(line::End::Any)), pattern)
    }

    fn port_with(framing: framing::Settings, pattern: Option<&str>) -> (Port, Instant, Journal) {
        port_of(framing, pattern, None)
    }

    fn port_of(
        framing: framing::Settings,
        pattern: Option<&str>,
        poll: Option<poll::Settings>,
    ) -> (Port, Instant, Journal) {
        written_port(framing, pattern, poll, None)
    }

    fn written_port(
        framing: framing::Settings,
        pattern: Option<&str>,
        poll: Option<poll::Settings>,
        write: Option<writer::Settings>,
    ) -> (Port, Instant, Journal) {
        let extractor = Extractor::new(Form::Text, pattern, &[], "data").unwrap();
        let settings = settings::Port {
            name: Name::parse("meter").unwrap(),
            port: PortName::parse("/dev/null").unwrap(),
            line: Line::default(),
            duty: Duty::Readings { framing, extractor, poll, write },
        };
        let start = Instant::now();
        let mut port = Port::new(Arc::new(settings), 7, start, 0);
        assert!(port.poll_open(start));
        port.handle_opened(start);
        let journal = Journal {
            verdict: Verdict::Taken,
            taken: Vec::new(),
            messages: Vec::new(),
            unreadable: 0,
            legible: Vec::new(),
            said: Vec::new(),
        };
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
        // With a new ticket, and the time at which it was received.
        assert_eq!(journal.taken[2].1, "two");
        assert_eq!((journal.taken[2].2, journal.taken[2].0.port), (5, 7));
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
        assert_eq!(port.unreadable().collect::<Vec<_>>(), [("the pattern does not match", 1)]);
        assert_eq!((counters.framing.good, port.pending()), (3, (0, 1)));
    }

    #[test]
    fn a_line_whose_frames_are_all_unreadable_is_illegible_until_one_is_a_reading() {
        let (mut port, now, mut journal) = port(Some("^W=[0-9]+$"));
        for _ in 0..19 {
            port.handle_bytes(now, stamp(1), b"T=21.5\n", &mut journal);
        }
        assert_eq!((port.illegible(), &journal.legible[..]), (None, &[][..]));
        port.handle_bytes(now, stamp(1), b"T=21.5\nT=21.5\n", &mut journal);
        let why = port.illegible().unwrap().sentence("meter");
        assert!(why.contains("one of them \"T=21.5\": the pattern does not match; compare pattern"), "{why}");
        // It is told once, and so is the end.
        port.handle_bytes(now, stamp(1), b"W=1\nW=2\nT=3\n", &mut journal);
        assert_eq!((port.illegible(), &journal.legible[..]), (None, &[false, true][..]));
    }

    #[test]
    fn frames_that_are_all_dropped_make_a_line_illegible_too() {
        let (mut port, now, mut journal) = port(None);
        for _ in 0..20 {
            port.handle_bytes(now, stamp(1), &[b'x'; 101], &mut journal);
            port.handle_bytes(now, stamp(1), b"\n", &mut journal);
        }
        assert_eq!(port.counters().framing.bad, 20);
        let why = port.illegible().unwrap().sentence("meter");
        assert!(why.contains("longer than max-frame; compare framing, line-end, baud"), "{why}");
        port.handle_bytes(now, stamp(1), b"one\n", &mut journal);
        assert_eq!(port.illegible(), None);
    }

    /// Asks the device of the port once; it answers this.
    fn ask(port: &mut Port, journal: &mut Journal, answer: &[u8]) {
        for _ in 0..20 {
            let now = port.poll_timeout().unwrap();
            port.handle_timeout(now, stamp(1), journal);
            if port.poll_transmit(&mut Vec::new()) {
                port.handle_bytes(now + Duration::from_millis(50), stamp(1), answer, journal);
                return;
            }
        }
        panic!("it is not asked");
    }

    fn asked_port(framing: framing::Settings, pattern: Option<&str>) -> (Port, Journal) {
        let period = Duration::from_secs(10);
        let timeout = Duration::from_secs(1);
        let settings = poll::Settings { question: b"A\r".to_vec(), period, timeout, echo: false, wake: None };
        let (port, _, journal) = port_of(framing, pattern, Some(settings));
        (port, journal)
    }

    #[test]
    fn why_an_answer_is_no_reading_is_told_with_its_first_bytes_until_one_is() {
        let (mut port, mut journal) = asked_port(framed(Framing::Line(line::End::Any)), Some("^W=[0-9]+$"));
        for _ in 0..3 {
            ask(&mut port, &mut journal, b"T=\xb021.5\r\n");
        }
        assert_eq!(port.asked().unwrap().state.as_str(), "degraded");
        let (said, advice) = port.fault().unwrap().words();
        assert_eq!(said, "the pattern does not match \"T=.21.5\" (hex 543db032312e35)");
        assert!(advice.starts_with("compare pattern with what comes"), "{advice}");
        assert_eq!(journal.said.last(), Some(&("the pattern does not match", b"T=\xb021.5".to_vec())));
        ask(&mut port, &mut journal, b"W=1\r\n");
        assert_eq!((port.fault(), port.asked().unwrap().state.as_str()), (None, "up"));
    }

    #[test]
    fn an_answer_that_is_dropped_is_told_with_its_reason_and_so_is_one_that_never_ends() {
        let checked =
            framing::Settings { checksum: Some(Checksum::Xor), ..framed(Framing::Line(line::End::Any)) };
        let (mut port, mut journal) = asked_port(checked, None);
        ask(&mut port, &mut journal, b"W=1x\r\n");
        assert_eq!(port.fault().unwrap().words().0, "the checksum is wrong \"W=1x\"");
        assert_eq!(journal.said, [("checksum", b"W=1x".to_vec())]);
        // What is dropped when the next question goes out.
        ask(&mut port, &mut journal, b"W=12");
        ask(&mut port, &mut journal, b"");
        assert_eq!(journal.said[1..], [("incomplete", b"W=12".to_vec())]);
        assert_eq!(port.fault().unwrap().words().0, "incomplete \"W=12\"");
        assert_eq!(port.counters().framing.bad, 2);
    }

    #[test]
    fn half_a_message_at_the_closing_of_a_port_with_gap_is_told_and_no_reading() {
        let gap = Duration::from_millis(500);
        let (mut port, now, mut journal) = port_of(framed(Framing::Gap(gap)), None, None);
        port.handle_timeout(now, stamp(1), &mut journal);
        port.handle_bytes(now, stamp(1), b"W=12345 kg", &mut journal);
        port.handle_timeout(now + gap, stamp(1), &mut journal);
        let now = now + 4 * gap;
        port.handle_timeout(now, stamp(1), &mut journal);
        port.handle_bytes(now, stamp(1), b"W=12", &mut journal);
        port.handle_failure(now + Duration::from_millis(50), "it was unplugged");
        port.handle_timeout(now + 2 * gap, stamp(1), &mut journal);
        let taken: Vec<&str> = journal.taken.iter().map(|taken| &taken.1[..]).collect();
        assert_eq!(taken, ["W=12345 kg"]);
        assert_eq!(journal.said, [("cut off by the closing", b"W=12".to_vec())]);
        assert_eq!(port.counters().framing.cut, 1);
    }

    #[test]
    fn an_answer_is_used_of_a_device_that_closes_the_line_when_the_pause_behind_it_is_over() {
        let gap = Duration::from_millis(50);
        let settings = framed(Framing::Gap(gap));
        for (closes_after, used) in [(gap, 1), (gap / 2, 0)] {
            let (mut port, mut journal) = asked_port(settings.clone(), None);
            let asked = (0..20).find_map(|_| {
                let now = port.poll_timeout().unwrap();
                port.handle_timeout(now, stamp(1), &mut journal);
                port.poll_transmit(&mut Vec::new()).then_some(now)
            });
            let now = asked.expect("it is asked");
            port.handle_bytes(now, stamp(1), b"W=12", &mut journal);
            port.handle_closing(now + closes_after, stamp(1), &mut journal);
            port.handle_failure(now + closes_after, "it hung up");
            let closed = port.asked().unwrap().counters.closed;
            assert_eq!((journal.taken.len(), closed), (used, u64::from(used == 0)));
        }
    }

    #[test]
    fn what_a_stall_of_the_gateway_joined_is_told_and_no_reading() {
        let gap = Duration::from_millis(50);
        let (mut port, mut now, mut journal) = port_with(framed(Framing::Gap(gap)), None);
        port.handle_timeout(now, stamp(1), &mut journal);
        // Nothing is under way: nothing is to be done.
        assert_eq!(port.poll_timeout(), None);
        now += 1_000 * gap;
        port.handle_wait(now, gap / 2);
        port.handle_bytes(now, stamp(1), b"T=1", &mut journal);
        let mut times = 0;
        while let Some(at) = port.poll_timeout() {
            now = at;
            port.handle_timeout(now, stamp(1), &mut journal);
            times += 1;
        }
        assert!(times <= 3, "{times}");
        now += 1_000 * gap;
        port.handle_wait(now, 2 * gap);
        port.handle_bytes(now, stamp(1), b"T=2T=3", &mut journal);
        port.handle_timeout(now + gap, stamp(1), &mut journal);
        // Who says nothing may have stood still.
        port.handle_bytes(now + 100 * gap, stamp(1), b"T=4T=5", &mut journal);
        port.handle_timeout(now + 101 * gap, stamp(1), &mut journal);
        let taken: Vec<&str> = journal.taken.iter().map(|taken| &taken.1[..]).collect();
        assert_eq!(taken, ["T=1"]);
        assert_eq!(journal.said.pop().map(|(_, first)| first), Some(b"T=4T=5".to_vec()));
        assert_eq!(journal.said, [("read late, after a stall of the gateway", b"T=2T=3".to_vec())]);
        assert_eq!((port.counters().framing.bad, port.counters().framing.stalled), (2, 2));
    }

    #[test]
    fn a_device_that_opens_the_line_for_each_message_is_illegible_with_the_key_to_set() {
        let gap = Duration::from_millis(50);
        let first = |framing| framing::Settings { skip_first: true, ..framed(framing) };
        for (settings, kind, key) in [
            (framed(Framing::Gap(gap)), "cut off by the closing", "set gap to less"),
            (first(Framing::Gap(gap)), "skip-first", "set skip-first = false"),
            (first(Framing::Line(line::End::Any)), "skip-first", "set skip-first = false"),
            (framed(Framing::Line(line::End::Any)), "right after the opening", "set framing = \"markers\""),
        ] {
            let (mut port, mut now, mut journal) = port_with(settings, None);
            for _ in 0..25 {
                port.handle_failure(now, "it hung up");
                while !port.poll_open(now) {
                    now = port.poll_timeout().unwrap();
                    port.handle_timeout(now, stamp(1), &mut journal);
                }
                port.handle_opened(now);
                port.handle_bytes(now, stamp(1), b"T=21.5\n", &mut journal);
            }
            assert!(journal.taken.is_empty(), "{kind}");
            assert_eq!((&journal.legible[..], journal.said.last().unwrap().0), (&[false][..], kind));
            let why = port.illegible().unwrap().sentence("meter");
            assert!(why.contains(key), "{why}");
        }
    }

    #[test]
    fn a_message_with_a_crc_is_read_of_a_device_that_closes_the_line_at_its_end() {
        let gap = Framing::Gap(Duration::from_millis(50));
        let settings = framing::Settings { checksum: Some(Checksum::Crc16Modbus), ..framed(gap) };
        let (mut port, mut now, mut journal) = port_with(settings.clone(), None);
        let mut frame = Vec::new();
        framing::encode(&settings, b"T=21.5", &mut frame).unwrap();
        for _ in 0..3 {
            port.handle_bytes(now, stamp(1), &frame, &mut journal);
            port.handle_failure(now, "it hung up");
            while !port.poll_open(now) {
                now = port.poll_timeout().unwrap().max(now);
                port.handle_timeout(now, stamp(1), &mut journal);
            }
            port.handle_opened(now);
        }
        assert_eq!(journal.taken.iter().map(|taken| &taken.1[..]).collect::<Vec<_>>(), ["T=21.5"; 3]);
    }

    #[test]
    fn what_comes_while_a_device_wakes_is_no_answer_and_no_fault() {
        let wake = poll::Wake { bytes: vec![0], pause: Duration::from_millis(200) };
        let (second, question) = (Duration::from_secs(1), b"A\r".to_vec());
        let settings =
            poll::Settings { question, period: 10 * second, timeout: second, echo: false, wake: Some(wake) };
        let (mut port, _, mut journal) = port_of(framed(Framing::Line(line::End::Any)), None, Some(settings));
        for _ in 0..3 {
            ask(&mut port, &mut journal, b"\xff?\r\n12");
            ask(&mut port, &mut journal, b"W=1\r\n");
        }
        assert_eq!(journal.taken.iter().map(|taken| &taken.1[..]).collect::<Vec<_>>(), ["W=1"; 3]);
        assert_eq!((port.counters().framing.bad, port.fault(), &journal.said[..]), (0, None, &[][..]));
    }

    #[test]
    fn a_late_answer_to_a_question_is_not_taken_for_that_to_a_command() {
        let (second, question) = (Duration::from_secs(1), b"A\r".to_vec());
        let poll = poll::Settings { question, period: 10 * second, timeout: second, echo: false, wake: None };
        let answer = regex::bytes::Regex::new("^W=").ok();
        let write = writer::Settings { answer, timeout: second, echo: false };
        let framing = framed(Framing::Line(line::End::Any));
        let (mut port, _, mut journal) = written_port(framing, None, Some(poll), Some(write));
        ask(&mut port, &mut journal, b"");
        let now = port.poll_timeout().unwrap();
        port.handle_timeout(now, stamp(1), &mut journal);
        assert_eq!(port.asked().unwrap().counters.silent, 1);
        let wanted = Wanted::Frame { frame: b"C\r".to_vec(), payload: b"C".to_vec() };
        port.write(now, Order { number: 7, device: "meter".to_owned(), wanted, within: 60 * second });
        port.handle_timeout(now, stamp(1), &mut journal);
        let mut sent = Vec::new();
        assert!(!port.poll_transmit(&mut sent), "{sent:?}");
        let late = now + Duration::from_millis(200);
        port.handle_bytes(late, stamp(1), b"W=1\n", &mut journal);
        assert_eq!(port.poll_delivered(), None);
        port.handle_timeout(late, stamp(1), &mut journal);
        assert!(port.poll_transmit(&mut sent));
        assert_eq!(sent, b"C\r");
        port.handle_bytes(late, stamp(1), b"W=2\n", &mut journal);
        let Some((7, Delivered::Done { payload, .. })) = port.poll_delivered() else { panic!() };
        assert_eq!(payload, b"W=2");
        assert!(journal.taken.is_empty());
    }

    #[test]
    fn a_framing_that_finds_no_frame_in_what_comes_makes_a_line_illegible() {
        let start = |start: &[u8], framing| framing::Settings { start: start.to_vec(), ..framed(framing) };
        let header = |offset, adjust| {
            let width = length::Width::One;
            Framing::Length(length::Header { width, little_endian: false, offset, adjust })
        };
        let enclosed = markers::Markers { start: b"<".to_vec(), end: b">".to_vec(), escape: None };
        let checked = |settings| framing::Settings { checksum: Some(Checksum::Crc16Modbus), ..settings };
        for settings in [
            checked(start(b"BM", Framing::Fixed(12))),
            // It waits for a silence that never comes.
            framing::Settings { checksum: Some(Checksum::Xor), ..framed(Framing::Fixed(12)) },
            start(b"XY", Framing::Fixed(12)),
            start(b"BM", Framing::Fixed(11)),
            checked(start(b"BM", header(2, 0))),
            start(b"BM", header(2, 3)),
            start(b"BM", header(3, 0)),
            framed(Framing::Markers(enclosed)),
            framed(Framing::Line(line::End::Any)),
            framed(Framing::Line(line::End::Exactly(b"END".to_vec()))),
            framed(Framing::Slip),
            framed(Framing::Cobs),
        ] {
            let (mut port, mut now, mut journal) = port_with(settings.clone(), None);
            for number in 0..1_000_u32 {
                let frame = [b"BM\x09".as_slice(), &[0xFE; 4], &[b'a' + (number % 20) as u8; 5]].concat();
                now += Duration::from_millis(100);
                port.handle_timeout(now, stamp(1), &mut journal);
                port.handle_bytes(now, stamp(1), &frame, &mut journal);
            }
            assert_eq!((&journal.taken[..], &journal.legible[..]), (&[][..], &[false][..]), "{settings:?}");
            let why = port.illegible().unwrap().sentence("meter");
            assert!(why.contains("compare") || why.contains("gap = \"66ms\""), "{why}");
        }
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
        let mut port = Port::new(Arc::new(settings), 0, now, 0);
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
