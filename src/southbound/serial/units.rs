//! The units of a Modbus bus on a port: turns the events of the bus into readings and events of the
//! units' devices.
//!
//! A reading that is published only on change must not count as published if it was refused: the
//! bus is told of each final refusal, so that the unit's next reading is offered even if it is
//! unchanged.

use std::time::{Duration, Instant};

use super::counters::Counters;
use super::delivery::Delivery;
use super::pending::Bounds;
use super::settings::PortName;
use super::taker::{Taker, Verdict};
use crate::message::{ContentFormat, Name, Path, Stamp};
use crate::proto::address::SerialTicket;
use crate::proto::serial::modbus::ascii::Ascii;
use crate::proto::serial::modbus::bus::Medium;
use crate::proto::serial::modbus::learn::{self, Learned, Notebook};
use crate::proto::serial::modbus::mbap::{Arrived, Mbap};
use crate::proto::serial::modbus::write::{Job, Written};
use crate::proto::serial::modbus::{self, Bus, Event, Settings};
use crate::proto::serial::reading::Reading;
use crate::proto::serial::{State, framing};

/// The state of a bus and its units.
#[derive(Debug)]
pub(super) struct Units {
    bus: Bus,
    /// The port, as it is configured.
    line: String,
    wire: Wire,
    units: Vec<Unit>,
    bytes: u64,
}

/// How frames are on the line. The bus speaks RTU.
#[derive(Debug)]
enum Wire {
    Rtu,
    /// With the header of Modbus TCP.
    Tcp(Mbap),
    Ascii(Ascii),
}

impl Wire {
    fn noise(&self) -> u64 {
        match self {
            Wire::Rtu => 0,
            Wire::Tcp(mbap) => mbap.noise(),
            Wire::Ascii(ascii) => ascii.noise(),
        }
    }
}

#[derive(Debug)]
struct Unit {
    delivery: Delivery,
    /// The number of its responses at the last check.
    answers: u64,
}

/// The state of one unit.
#[derive(Clone, Copy, Debug)]
pub struct UnitView<'a> {
    /// Its place among the units of the bus.
    pub index: usize,
    /// The device it is.
    pub id: &'a Name,
    /// Its address on the bus.
    pub address: u8,
    /// Whether it responds.
    pub state: State,
    /// How its last request failed, if it did.
    pub failing: Option<modbus::bus::Failing>,
    /// The other unit that its last answer named, if it did.
    pub answers_as: Option<u8>,
    /// The pause to set for the bus, if the line may need one.
    pub rest_advised: Option<Duration>,
    /// Its answers come one request late, and each read is sent twice.
    pub is_one_behind: bool,
    /// Each read is sent more than once, and has been for a minute.
    pub is_doubled: bool,
    /// Frames that it sent without being asked, if they are no accident.
    pub surplus: u64,
    /// How often its answers come, and how many copies of them came, if that is no accident.
    pub copied: Option<(u32, u64)>,
    /// The silence after each answer on the line that it was found to want.
    pub rest: Duration,
    /// Counters of the unit on the bus.
    pub bus: modbus::bus::Counters,
    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub readings: u64,
    /// Readings that no rule or quota allowed.
    pub refused: u64,
    /// Readings lost because the journal did not take them for too long.
    pub lost: u64,
    /// Readings in memory that wait to be accepted.
    pub waiting: usize,
}

impl UnitView<'_> {
    /// How it counts: a unit whose answers come one request late is degraded, though values arrive.
    pub fn standing(&self) -> State {
        if self.is_one_behind && self.state == State::Up { State::Degraded } else { self.state }
    }
}

impl Units {
    pub(super) fn new(settings: &Settings, line: &PortName, port: u32, now: Instant, seed: u64) -> Units {
        let (is_network, has_header) = match line {
            PortName::Tcp { has_header, .. } => (true, *has_header),
            PortName::Path(_) | PortName::Usb { .. } => (false, false),
        };
        let bounds = Bounds::share(settings.units.len());
        // Addresses are unique and at most 247, so a number fits into a byte.
        let units = (0..=u8::MAX).take(settings.units.len());
        let units =
            units.map(|number| Unit { delivery: Delivery::new(port, number, bounds), answers: 0 }).collect();
        let wire = match (has_header, settings.ascii) {
            (true, _) if settings.is_unnumbered => Wire::Tcp(Mbap::unnumbered()),
            (true, _) => Wire::Tcp(Mbap::default()),
            (false, true) => Wire::Ascii(Ascii::default()),
            (false, false) => Wire::Rtu,
        };
        let mut bus = Bus::new(settings.clone(), now, seed);
        if has_header && settings.is_unnumbered {
            bus.is_behind(Medium::Unnumbered);
        } else if has_header {
            bus.answers_are_numbered();
        } else if is_network {
            bus.is_behind(Medium::Network);
        }
        Units { bus, line: line.to_string(), wire, units, bytes: 0 }
    }

    /// Takes a write, and says whether it is taken: one at a time is.
    pub(super) fn write(
        &mut self,
        now: Instant,
        device: &str,
        number: u64,
        job: Job,
        within: Duration,
    ) -> bool {
        let is_it = |index: &usize| self.bus.unit(*index).is_some_and(|unit| unit.id.as_str() == device);
        let index = (0..self.units.len()).find(is_it);
        index.is_some_and(|index| self.bus.write(now, number, index, job, within))
    }

    /// What became of a write.
    pub(super) fn poll_written(&mut self) -> Option<(u64, Written)> {
        self.bus.poll_written()
    }

    /// Gives up the write that is under way.
    pub(super) fn interrupt_write(&mut self) {
        self.bus.interrupt_write();
    }

    /// Whether the last request may be sent a second time.
    pub(super) fn is_repeatable(&self) -> bool {
        self.bus.is_repeatable()
    }

    pub(super) fn opened(&mut self, now: Instant) {
        match &mut self.wire {
            Wire::Rtu => {}
            Wire::Tcp(mbap) => mbap.clear(),
            Wire::Ascii(ascii) => ascii.clear(),
        }
        self.bus.line_up(now);
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.bus.line_down(now);
    }

    /// For so long an answer to the last request may still come.
    pub(super) fn still_to_come(&self) -> Duration {
        self.bus.still_to_come()
    }

    /// Nothing is asked for so long once the line is open.
    pub(super) fn await_rest(&mut self, still: Duration) {
        self.bus.await_rest(still);
    }

    /// Takes over the uncommitted readings of units that are still the same device, and what may
    /// still come from each address.
    pub(super) fn adopt(&mut self, predecessor: &mut Units, now: Instant) {
        self.bus.adopt(&mut predecessor.bus, now);
        for (index, unit) in self.units.iter_mut().enumerate() {
            let Some(id) = self.bus.unit(index).map(|unit| &unit.id) else { continue };
            let before = (0..predecessor.units.len())
                .find(|before| predecessor.bus.unit(*before).is_some_and(|unit| unit.id == *id));
            if let Some(before) = before.and_then(|before| predecessor.units.get_mut(before)) {
                unit.delivery.adopt(&mut before.delivery, now);
            }
        }
    }

    pub(super) fn handle_bytes(&mut self, now: Instant, stamp: Stamp, bytes: &[u8], taker: &mut dyn Taker) {
        self.bytes += bytes.len() as u64;
        match &mut self.wire {
            Wire::Rtu => self.bus.handle_bytes(now, bytes),
            Wire::Ascii(ascii) => {
                ascii.push(bytes, |frame| self.bus.handle_bytes(now, frame));
                self.bus.handle_unframed(now, ascii.unframed());
            }
            Wire::Tcp(mbap) => {
                mbap.push(bytes, |arrived| match arrived {
                    Arrived::Answer(frame) => self.bus.handle_bytes(now, &frame),
                    Arrived::Late(frame) => self.bus.handle_late(now, &frame),
                    Arrived::Misnumbered => self.bus.handle_misnumbered(now),
                });
                if let Some((asked, named)) = mbap.take_named() {
                    self.bus.handle_named(asked, named);
                }
                self.bus.handle_unframed(now, mbap.unframed());
            }
        }
        self.collect(now, stamp, taker);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, stamp: Stamp, taker: &mut dyn Taker) {
        self.bus.handle_timeout(now);
        self.collect(now, stamp, taker);
        for (index, unit) in self.units.iter_mut().enumerate() {
            let Some(id) = self.bus.unit(index).map(|unit| unit.id.as_str()) else { continue };
            if unit.delivery.handle_timeout(now, id, taker) {
                self.bus.forget_published(index);
            }
        }
    }

    pub(super) fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> bool {
        let is_there = self.bus.poll_transmit(buffer);
        match &mut self.wire {
            Wire::Tcp(mbap) if is_there => mbap.wrap(buffer),
            Wire::Ascii(ascii) if is_there => ascii.wrap(buffer),
            _ => {}
        }
        is_there
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let deliveries = self.units.iter().filter_map(|unit| unit.delivery.poll_timeout());
        deliveries.chain(self.bus.poll_timeout()).min()
    }

    pub(super) fn handle_completion(&mut self, now: Instant, ticket: SerialTicket, stored: bool) {
        if let Some(unit) = self.units.get_mut(usize::from(ticket.delivery)) {
            unit.delivery.handle_completion(now, ticket, stored);
        }
    }

    /// The number of readings of all units that wait to be accepted, and that are accepted but not
    /// committed.
    pub(super) fn pending(&self) -> (usize, usize) {
        let counts = self.units.iter().map(|unit| unit.delivery.pending());
        counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Readings of all units that were lost since some wait without a break.
    pub(super) fn losing(&self) -> u64 {
        self.units.iter().map(|unit| unit.delivery.losing()).sum()
    }

    /// The counters in terms of frames: a frame is a response; bytes that the bus did not use are
    /// dropped.
    pub(super) fn counters(&self) -> Counters {
        let mut sum = Counters {
            framing: framing::Counters {
                bytes: self.bytes,
                dropped: self.bus.noise() + self.wire.noise(),
                ..Default::default()
            },
            unreadable: self.bus.strangers(),
            rivals: self.bus.rivals(),
            ..Counters::default()
        };
        for unit in self.views() {
            sum.framing.good += unit.bus.answers;
            sum.framing.bad += unit.bus.damaged;
            sum.readings += unit.readings;
            sum.refused += unit.refused;
            sum.lost += unit.lost;
        }
        sum
    }

    pub(super) fn views(&self) -> impl Iterator<Item = UnitView<'_>> {
        self.units.iter().enumerate().filter_map(|(index, unit)| {
            let settings = self.bus.unit(index)?;
            Some(UnitView {
                index,
                id: &settings.id,
                address: settings.address,
                state: self.bus.state(index)?,
                failing: self.bus.failing(index),
                answers_as: self.bus.answers_as(index),
                rest_advised: self.bus.rest_advised(index),
                is_one_behind: self.bus.is_one_behind(index),
                is_doubled: self.bus.is_doubled(index),
                surplus: self.bus.surplus(index),
                copied: self.bus.copied(index),
                rest: self.bus.rest(index),
                bus: self.bus.counters(index)?,
                readings: unit.delivery.readings(),
                refused: unit.delivery.refused(),
                lost: unit.delivery.lost(),
                waiting: unit.delivery.pending().0,
            })
        })
    }

    pub(super) fn recall(&mut self, now: Instant, notebook: &Notebook, is_configured: &dyn Fn(&str) -> bool) {
        let line = &self.line;
        self.bus.recall(now, |unit| {
            let map = learn::fingerprint(&unit.registers, unit.limits);
            notebook.of(unit.id.as_str(), &place(line, unit.address), map, is_configured).cloned()
        });
    }

    pub(super) fn relearn(&mut self, now: Instant, device: &str) -> Option<bool> {
        let is_it = |index: &usize| self.bus.unit(*index).is_some_and(|unit| unit.id.as_str() == device);
        let index = (0..self.units.len()).find(is_it)?;
        Some(self.bus.relearn(now, index))
    }

    pub(super) fn learned(&self) -> impl Iterator<Item = (&Name, Learned)> {
        (0..self.units.len()).filter_map(|index| {
            let unit = self.bus.unit(index)?;
            let place = place(&self.line, unit.address);
            Some((&unit.id, Learned { place, ..self.bus.learned(index)? }))
        })
    }

    pub(super) fn left_out(&self, unit: usize) -> impl Iterator<Item = (&str, String)> {
        self.bus.obstacles(unit).filter_map(move |(register, why)| {
            let register = self.bus.unit(unit)?.registers.get(register)?;
            Some((register.name.as_str(), why.of(register)))
        })
    }

    /// Takes over what happened on the bus.
    fn collect(&mut self, now: Instant, stamp: Stamp, taker: &mut dyn Taker) {
        for (index, unit) in self.units.iter_mut().enumerate() {
            let answers = self.bus.counters(index).map_or(0, |counters| counters.answers);
            if answers != unit.answers
                && let Some(settings) = self.bus.unit(index)
            {
                unit.answers = answers;
                // A response counts as activity, even if the value is unchanged and not published.
                taker.alive(settings.id.as_str());
            }
        }
        while let Some(event) = self.bus.poll_event() {
            let (Event::Reading { unit: index, .. }
            | Event::Up { unit: index }
            | Event::Down { unit: index, .. }
            | Event::Degraded { unit: index }
            | Event::Learned { unit: index }
            | Event::Misfit { unit: index, .. }
            | Event::Failed { unit: index, .. }
            | Event::Refused { unit: index, .. }
            | Event::Named { unit: index, .. }
            | Event::OutOfStep { unit: index }
            | Event::Late { unit: index, .. }) = event;
            let (Some(settings), Some(unit)) = (self.bus.unit(index), self.units.get_mut(index)) else {
                continue;
            };
            let Event::Reading { payload, .. } = &event else {
                taker.news(settings, &event);
                continue;
            };
            // The path was parsed when the unit was configured.
            let Ok(path) = Path::parse(&settings.path) else { continue };
            let reading = Reading { path, content_format: Some(ContentFormat::JSON), payload };
            let verdict = unit.delivery.offer(now, settings.id.as_str(), &reading, stamp, taker);
            if matches!(verdict, Verdict::Refused | Verdict::OverQuota) {
                self.bus.forget_published(index);
            }
        }
    }
}

/// Where a unit is, whatever its device is called.
fn place(line: &str, address: u8) -> String {
    format!("{line} {address}")
}

#[cfg(all(test, feature = "modbus"))]
mod tests {
    use super::*;
    use crate::gate::stage::Received;
    use crate::proto::serial::modbus::BuiltIn;
    use crate::proto::serial::modbus::change::Publish;
    use crate::proto::serial::modbus::frame::{Speed, crc16};
    use crate::proto::serial::modbus::map::Register;
    use crate::proto::serial::modbus::plan::Limits;
    use crate::proto::serial::reading::Unreadable;
    use crate::southbound::serial::port::Port;
    use crate::southbound::serial::settings::{self, Duty, Line, PortName};
    use std::sync::Arc;

    /// A fake gate and journal: the verdicts for each device, and the readings accepted.
    #[derive(Default)]
    struct Journal {
        verdicts: Vec<(&'static str, Verdict)>,
        taken: Vec<(String, SerialTicket, String)>,
        refused: usize,
        alive: Vec<String>,
        news: Vec<String>,
    }

    impl Taker for Journal {
        fn take(&mut self, device: &str, ticket: SerialTicket, received: Received<'_>) -> Verdict {
            let verdict = self.verdicts.iter().find(|(id, _)| *id == device);
            let verdict = verdict.map_or(Verdict::Taken, |(_, verdict)| *verdict);
            if verdict == Verdict::Taken {
                let payload = String::from_utf8_lossy(received.payload).into_owned();
                self.taken.push((device.to_owned(), ticket, payload));
            } else {
                self.refused += 1;
            }
            verdict
        }

        fn message(&mut self, _: &[u8]) {}

        fn unreadable(&mut self, _: Unreadable, _: &[u8]) {}

        fn alive(&mut self, device: &str) {
            self.alive.push(device.to_owned());
        }

        fn news(&mut self, unit: &modbus::settings::Unit, event: &Event) {
            self.news.push(format!("{} {event:?}", unit.id));
        }
    }

    impl Journal {
        fn of(&self, device: &str) -> Vec<&str> {
            let own = self.taken.iter().filter(|(id, ..)| id == device);
            own.map(|(.., payload)| payload.as_str()).collect()
        }
    }

    fn unit(address: u8) -> modbus::settings::Unit {
        let register = Register { name: "v".to_owned(), ..Register::default() };
        modbus::settings::Unit {
            id: Name::parse(&format!("u{address}")).unwrap(),
            address,
            path: "data".to_owned(),
            period: Duration::from_secs(1),
            jitter: Duration::ZERO,
            publish: Publish::OnChange { max_unchanged: None },
            registers: vec![register],
            limits: Limits { max_registers: 125, max_gap: 8 },
            timeout: Duration::from_millis(100),
            pause: Duration::ZERO,
        }
    }

    fn port(addresses: &[u8], now: Instant) -> Port {
        let bus = Settings {
            speed: Speed { baud: 9600, bits: 10 },
            timeout: Settings::TIMEOUT,
            interval: Duration::ZERO,
            backoff: Settings::BACKOFF,
            backoff_max: Settings::BACKOFF_MAX,
            echo: false,
            ascii: false,
            is_unnumbered: false,
            units: addresses.iter().copied().map(unit).collect(),
        };
        let settings = settings::Port {
            name: Name::parse("bus").unwrap(),
            port: PortName::parse("/dev/null").unwrap(),
            line: Line::default(),
            duty: Duty::Modbus(bus, BuiltIn::here().unwrap()),
        };
        Port::new(Arc::new(settings), 5, now, 1)
    }

    /// Runs for `seconds`; units with addresses below 100 answer `value` at once.
    fn run(port: &mut Port, from: Instant, seconds: u64, value: u16, journal: &mut Journal) -> Instant {
        let end = from + Duration::from_secs(seconds);
        let stamp = Stamp { boottime_ms: 1, wall_ms: None };
        let (mut now, mut sent) = (from, Vec::new());
        if port.poll_open(now) {
            port.handle_opened(now);
        }
        while let Some(at) = port.poll_timeout().filter(|at| *at < end) {
            now = now.max(at);
            port.handle_timeout(now, stamp, journal);
            sent.clear();
            if port.poll_transmit(&mut sent) && sent[0] < 100 {
                let quantity = usize::from(sent[5]);
                let mut answer = vec![sent[0], sent[1], (2 * quantity) as u8];
                (0..quantity).for_each(|_| answer.extend(value.to_be_bytes()));
                answer.extend(crc16(&answer).to_le_bytes());
                now += Duration::from_millis(20);
                port.handle_bytes(now, stamp, &answer, journal);
            }
        }
        end
    }

    /// Five minutes of a unit behind this port that answers each request with these bytes at once.
    fn drive(line: &str, is_ascii: bool, answer: impl FnMut(&[u8]) -> Vec<u8>) -> (Port, Journal) {
        drive_as(line, |bus| bus.ascii = is_ascii, answer)
    }

    /// The same on a bus that is changed so.
    fn drive_as(
        line: &str,
        change: impl Fn(&mut Settings),
        mut answer: impl FnMut(&[u8]) -> Vec<u8>,
    ) -> (Port, Journal) {
        let start = Instant::now();
        let mut settings = (**port(&[1], start).settings()).clone();
        settings.port = PortName::parse(line).unwrap();
        if let Duty::Modbus(bus, _) = &mut settings.duty {
            change(bus);
        }
        let mut port = Port::new(Arc::new(settings), 5, start, 1);
        let mut journal = Journal::default();
        let stamp = Stamp { boottime_ms: 1, wall_ms: None };
        let (mut now, mut sent) = (start, Vec::new());
        assert!(port.poll_open(now));
        port.handle_opened(now);
        while let Some(at) = port.poll_timeout().filter(|at| *at < start + Duration::from_secs(300)) {
            now = now.max(at);
            port.handle_timeout(now, stamp, &mut journal);
            sent.clear();
            if port.poll_transmit(&mut sent) {
                now += Duration::from_millis(5);
                port.handle_bytes(now, stamp, &answer(&sent), &mut journal);
            }
        }
        (port, journal)
    }

    /// What is said of such a unit, none of whose answers is used.
    fn why(line: &str, is_ascii: bool, answer: impl FnMut(&[u8]) -> Vec<u8>) -> (String, u64) {
        let (port, journal) = drive(line, is_ascii, answer);
        assert_eq!(journal.of("u1").len(), 0);
        let failing = port.units().next().unwrap().failing.unwrap();
        let dropped = port.counters().framing.dropped;
        (failing.to_string(), dropped)
    }

    #[test]
    fn bytes_that_are_no_frames_of_the_ports_kind_are_not_called_silence_and_the_other_kind_is_named() {
        let rtu = [&[1, 3, 2, 1, 0xFF][..], &crc16(&[1, 3, 2, 1, 0xFF]).to_le_bytes()].concat();
        let body = rtu.clone();
        let (said, dropped) = why("modbus-tcp://plc", false, move |_| body.clone());
        assert!(said.contains("no frames of Modbus TCP") && said.contains("tcp://"), "{said}");
        assert!(dropped > 20);
        // A length that is not that of what follows, shorter and longer.
        for length in [0, 1, 9, 200] {
            let (said, _) = why("modbus-tcp://plc", false, move |request| {
                [&request[..2], &[0, 0, 0, length, 1, 3, 2, 1, 0xFF]].concat()
            });
            assert!(said.contains("no frames of Modbus TCP"), "{length}: {said}");
        }
        let (said, dropped) =
            why("tcp://converter:4001", false, |_| vec![0, 1, 0, 0, 0, 5, 1, 3, 2, 1, 0xFF]);
        assert!(said.contains("modbus-tcp://") && said.contains("converter"), "{said}");
        assert!(dropped > 20);
        let body = rtu.clone();
        let (said, _) = why("/dev/null", true, move |_| body.clone());
        assert!(said.contains("only damaged answers"), "{said}");
        let (said, _) = why("/dev/null", false, |_| b":0103020501F4\r\n".to_vec());
        assert!(said.contains("baud, parity"), "{said}");
        let (said, _) = why("modbus-tcp://plc", false, |_| Vec::new());
        assert_eq!(said, "it does not answer");
    }

    #[test]
    fn a_peer_that_does_not_copy_the_transaction_identifier_is_named_as_that_and_not_as_late() {
        let answer = |number: u16| [&number.to_be_bytes()[..], &[0, 0, 0, 5, 1, 3, 2, 1, 0xFF]].concat();
        let of = |request: &[u8]| u16::from_be_bytes([request[0], request[1]]);
        for wrong in [|_| 0, u16::swap_bytes, |number: u16| number ^ 0x5500] {
            let (said, _) = why("modbus-tcp://plc", false, move |request| answer(wrong(of(request))));
            assert!(said.contains("no request had") && !said.contains("timeout"), "{said}");
        }
        // That of the request before may be a late one as well.
        let (said, _) = why("modbus-tcp://plc", false, move |request| answer(of(request) - 1));
        assert!(said.contains("raise timeout") && said.contains("does not copy it"), "{said}");
    }

    #[test]
    fn answers_that_name_another_unit_are_used_and_it_is_told_once_for_each() {
        let answer = |request: &[u8], unit: u8| [&request[..2], &[0, 0, 0, 5, unit, 3, 2, 1, 0xFF]].concat();
        let told = |journal: &Journal| {
            let named = journal.news.iter().filter(|news| news.contains("Named"));
            named.cloned().collect::<Vec<_>>()
        };
        let (port, journal) = drive("modbus-tcp://plc", false, |request| answer(request, 255));
        assert!(!journal.of("u1").is_empty());
        assert_eq!(told(&journal), ["u1 Named { unit: 0, other: 255 }"]);
        assert_eq!(port.units().next().unwrap().answers_as, Some(255));
        // The right one in between is shown and does not make it news again.
        let mut count = 0;
        let (port, journal) = drive("modbus-tcp://plc", false, |request| {
            count += 1;
            answer(request, if count < 100 && count % 2 == 0 { 0 } else { 1 })
        });
        assert_eq!(told(&journal), ["u1 Named { unit: 0, other: 0 }"]);
        assert_eq!(port.units().next().unwrap().answers_as, None);
    }

    #[test]
    fn a_peer_that_copies_no_transaction_identifier_is_read_if_that_is_configured_and_told_otherwise() {
        for id in [[0, 0], [0xFF, 0xFF]] {
            let answer = |unit: u8| [&id[..], &[0, 0, 0, 5, unit, 3, 2, 1, 0xFF]].concat();
            let (said, _) = why("modbus-tcp://plc", false, |_| answer(1));
            assert!(said.contains("transaction-id = \"ignore\""), "{said}");
            let (_, journal) = drive_as("modbus-tcp://plc", |bus| bus.is_unnumbered = true, |_| answer(1));
            assert!(!journal.of("u1").is_empty());
            // Another unit's answer is not used then.
            let (port, journal) = drive_as("modbus-tcp://plc", |bus| bus.is_unnumbered = true, |_| answer(2));
            assert!(journal.of("u1").is_empty());
            assert!(port.units().next().unwrap().failing.is_some());
        }
    }

    #[test]
    fn ascii_answers_that_end_with_cr_alone_are_read() {
        let answer = |_: &[u8]| b":01030201FFFA\r".to_vec();
        let (_, journal) = drive("/dev/null", true, answer);
        assert!(!journal.of("u1").is_empty());
    }

    #[test]
    fn a_reading_refused_or_over_quota_is_offered_again_although_nothing_changes() {
        for verdict in [Verdict::Refused, Verdict::OverQuota] {
            let mut journal = Journal { verdicts: vec![("u1", verdict)], ..Journal::default() };
            let start = Instant::now();
            let mut port = port(&[1, 2], start);
            let now = run(&mut port, start, 5, 7, &mut journal);
            assert!(journal.refused >= 4, "{}", journal.refused);
            assert_eq!((journal.of("u1").len(), journal.of("u2")), (0, vec![r#"{"v":7}"#]));
            journal.verdicts.clear();
            let now = run(&mut port, now, 5, 7, &mut journal);
            assert_eq!(journal.of("u1"), [r#"{"v":7}"#]);
            run(&mut port, now, 2, 8, &mut journal);
            assert_eq!(journal.of("u1").len(), 2);
            let refused: Vec<u64> = port.units().map(|unit| unit.refused).collect();
            assert_eq!(refused, [journal.refused as u64, 0]);
        }
    }

    #[test]
    fn a_reading_refused_after_it_waited_is_offered_again_although_nothing_changes() {
        let mut journal = Journal { verdicts: vec![("u1", Verdict::Unavailable)], ..Journal::default() };
        let start = Instant::now();
        let mut port = port(&[1], start);
        let now = run(&mut port, start, 1, 7, &mut journal);
        assert_eq!(port.units().map(|unit| unit.waiting).sum::<usize>(), 1);
        journal.verdicts = vec![("u1", Verdict::Refused)];
        let now = run(&mut port, now, 1, 7, &mut journal);
        assert_eq!((journal.of("u1").len(), port.units().map(|unit| unit.waiting).sum::<usize>()), (0, 0));
        journal.verdicts.clear();
        run(&mut port, now, 3, 7, &mut journal);
        assert_eq!(journal.of("u1"), [r#"{"v":7}"#]);
    }

    #[test]
    fn what_was_learned_of_a_unit_is_kept_when_its_bus_and_its_device_are_renamed() {
        let start = Instant::now();
        let renamed = |id: &str, map: u16| {
            let mut settings = (**port(&[1], start).settings()).clone();
            settings.name = Name::parse("hall").unwrap();
            if let Duty::Modbus(bus, _) = &mut settings.duty {
                bus.units[0].id = Name::parse(id).unwrap();
                bus.units[0].registers[0].address = map;
            }
            Port::new(Arc::new(settings), 6, start, 1)
        };
        let mut before = port(&[1], start);
        let known = Learned { pause_ms: 300, ..Learned::default() };
        let mut notebook = Notebook { units: [("u1".to_owned(), known)].into() };
        before.recall(start, &notebook, &|_| true);
        for (id, learned) in before.learned() {
            notebook.put(id.as_str(), learned, |_| true);
        }
        let pause = |port: &Port| port.learned().map(|(_, learned)| learned.pause_ms).sum::<u64>();
        for (id, map, is_configured, expected) in
            [("new", 0, false, 300), ("new", 0, true, 0), ("new", 9, false, 0), ("u1", 0, true, 300)]
        {
            let mut port = renamed(id, map);
            port.recall(start, &notebook, &|other| other == "u1" && is_configured);
            assert_eq!(pause(&port), expected, "{id} {map} {is_configured}");
        }
    }

    #[test]
    fn while_the_journal_is_full_each_units_readings_wait_in_their_order_and_none_is_forgotten() {
        let mut journal = Journal { verdicts: vec![("u1", Verdict::Unavailable)], ..Journal::default() };
        let start = Instant::now();
        let mut port = port(&[1, 2], start);
        let mut now = start;
        for value in 1..=3 {
            now = run(&mut port, now, 1, value, &mut journal);
        }
        assert_eq!(journal.of("u2").len(), 3);
        let waiting: Vec<usize> = port.units().map(|unit| unit.waiting).collect();
        assert_eq!(waiting, [3, 0]);
        journal.verdicts.clear();
        run(&mut port, now, 1, 3, &mut journal);
        assert_eq!(journal.of("u1"), [r#"{"v":1}"#, r#"{"v":2}"#, r#"{"v":3}"#]);
    }

    #[test]
    fn completions_find_their_unit_and_a_failed_reading_is_offered_again() {
        let mut journal = Journal::default();
        let start = Instant::now();
        let mut port = port(&[1, 2, 9], start);
        let now = run(&mut port, start, 1, 7, &mut journal);
        let tickets: Vec<(String, SerialTicket)> =
            journal.taken.iter().map(|(id, ticket, _)| (id.clone(), *ticket)).collect();
        assert_eq!(tickets.len(), 3);
        assert!(tickets.iter().all(|(_, ticket)| ticket.port == 5));
        for (id, ticket) in &tickets {
            port.handle_completion(now, *ticket, id != "u2");
        }
        let readings: Vec<u64> = port.units().map(|unit| unit.readings).collect();
        assert_eq!(readings, [1, 0, 1]);
        run(&mut port, now, 1, 7, &mut journal);
        assert_eq!((journal.of("u1").len(), journal.of("u2").len()), (1, 2));
    }

    #[test]
    fn an_unchanged_unit_is_alive_and_a_dead_one_is_news_once() {
        let mut journal = Journal::default();
        let start = Instant::now();
        let mut port = port(&[1, 200], start);
        run(&mut port, start, 60, 7, &mut journal);
        assert_eq!(journal.of("u1").len(), 1);
        assert!(journal.alive.len() > 40 && journal.alive.iter().all(|id| id == "u1"));
        let told = |what: &str| journal.news.iter().filter(|news| news.starts_with(what)).count();
        assert_eq!((told("u1 Up"), told("u200 Up"), told("u200 Down")), (1, 0, 1));
        let states: Vec<State> = port.units().map(|unit| unit.state).collect();
        assert_eq!(states, [State::Up, State::Down]);
        let counters = port.counters();
        assert_eq!(counters.framing.good, journal.alive.len() as u64);
    }

    #[test]
    fn an_unplugged_bus_blames_no_unit_and_its_successor_goes_on_with_what_waits_of_the_units_that_stay() {
        let unavailable = |id| (id, Verdict::Unavailable);
        let mut journal =
            Journal { verdicts: vec![unavailable("u1"), unavailable("u2")], ..Journal::default() };
        let start = Instant::now();
        let mut old = port(&[1, 2], start);
        let now = run(&mut old, start, 1, 7, &mut journal);
        assert!(old.handle_failure(now, "it was unplugged"));
        let silent: u64 = old.units().map(|unit| unit.bus.silent).sum();
        assert_eq!((silent, old.pending().0), (0, 2));
        journal.verdicts.clear();
        let mut new = port(&[2, 3], now);
        new.adopt(&mut old, now);
        // The remaining readings belong to the removed unit.
        assert_eq!((old.pending().0, new.pending().0), (1, 1));
        run(&mut new, now, 1, 8, &mut journal);
        assert_eq!(journal.of("u2"), [r#"{"v":7}"#, r#"{"v":8}"#]);
        assert_eq!((journal.of("u1").len(), journal.of("u3").len()), (0, 1));
    }
}
