//! The serial side: hands the readings of ports to the pipeline, and returns completions and
//! messages to the ports.
//!
//! | returned | queued until |
//! |---|---|
//! | the completion of a reading | the port of its ticket polls it: [`Intake::poll_completion`] |
//! | a CoAP message for the node on a line | the port writes it: [`Intake::poll_message`] |
//! | a command for a device on a line | the port takes it: [`Intake::poll_order`]; one at a time |
//! | what became of a command | the mailbox polls it: [`Intake::poll_delivered`] |
//!
//! Only lines with a CoAP node (`slipmux`) are connected. At most [`MESSAGES_MAX`] messages per
//! line are queued.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::order::{Delivered, Order};
use super::taker::Verdict;
use super::writes::{Kind, Writes};
use crate::clock::Moment;
use crate::gate::stage::{Received, Refusal};
use crate::journal::Refused;
use crate::message::Name;
use crate::pipeline::{Disposition, Pipeline, ReadingStore};
use crate::proto::address::{Peer, SerialTicket, Ticket};
use crate::southbound::coap;

/// Most messages queued for one line. A further one replaces the oldest, which is lost like a
/// datagram.
pub const MESSAGES_MAX: usize = 64;

/// So long a line is kept for a command that is about to be sent, while that is being stored.
const RESERVED: Duration = Duration::from_secs(5);

/// A port that takes commands.
#[derive(Debug, Default)]
struct Writable {
    devices: Vec<Name>,
    is_open: bool,
    /// The command that the port has not taken yet.
    order: Option<Order>,
    /// The one that is under way, and what it is.
    under_way: Option<(u64, Kind)>,
    /// The device whose command is next, and until when.
    reserved: Option<(Name, Instant)>,
    /// The device whose command was last.
    last: Option<Name>,
}

/// The state of the serial side apart from the ports.
#[derive(Debug, Default)]
pub struct Intake {
    lines: HashMap<u32, VecDeque<Vec<u8>>>,
    writable: HashMap<u32, Writable>,
    delivered: VecDeque<(u64, Delivered)>,
    writes: Writes,
    /// Ports whose line is free for a command.
    free: Vec<u32>,
    /// Ports with a new message, one entry per message.
    ready: Vec<u32>,
    completions: VecDeque<(SerialTicket, bool)>,
}

impl Intake {
    /// Connects the line of a port with a CoAP node.
    pub fn connect(&mut self, port: u32) {
        self.lines.insert(port, VecDeque::new());
    }

    /// Disconnects the line of a port that was removed. Returns whether it was connected.
    pub fn disconnect(&mut self, port: u32) -> bool {
        self.lines.remove(&port).is_some()
    }

    /// Queues a message for the node on a line; dropped if the line is not connected.
    pub fn push_message(&mut self, port: u32, message: &[u8]) {
        let Some(queue) = self.lines.get_mut(&port) else { return };
        if queue.len() >= MESSAGES_MAX {
            queue.pop_front();
        }
        queue.push_back(message.to_vec());
        self.ready.push(port);
    }

    /// The next port that has a new message.
    pub fn poll_ready(&mut self) -> Option<u32> {
        self.ready.pop()
    }

    /// The next message for the node on a line.
    pub fn poll_message(&mut self, port: u32) -> Option<Vec<u8>> {
        self.lines.get_mut(&port)?.pop_front()
    }

    /// From now on the port takes commands for these devices.
    pub fn connect_writable(&mut self, port: u32, devices: Vec<Name>) {
        self.writable.insert(port, Writable { devices, ..Writable::default() });
    }

    /// The port is gone, with what it had not taken.
    pub fn disconnect_writable(&mut self, port: u32) {
        if let Some(Writable { under_way: Some((number, kind)), order, .. }) = self.writable.remove(&port) {
            let delivered = if order.is_some() { Delivered::Unsent } else { Delivered::Unknown };
            self.writes.note(kind, &delivered);
            self.delivered.push_back((number, delivered));
        }
    }

    /// The port was opened, or closed.
    pub fn set_open(&mut self, port: u32, is_open: bool) {
        let Some(writable) = self.writable.get_mut(&port) else { return };
        writable.is_open = is_open;
        if is_open {
            self.free.push(port);
        } else if writable.order.take().is_some() {
            let under_way = writable.under_way.take();
            self.delivered.extend(under_way.map(|(number, _)| (number, Delivered::Unsent)));
        }
    }

    fn writable_of(&mut self, device: &Name) -> Option<(u32, &mut Writable)> {
        let found = self.writable.iter_mut().find(|(_, writable)| writable.devices.contains(device));
        found.map(|(port, writable)| (*port, writable))
    }

    /// Whether the line of the device is open and free for a command to it; then it is kept for
    /// that, for the time that noting it on the disk takes.
    pub fn reserve(&mut self, now: Instant, device: &Name) -> bool {
        let Some((_, writable)) = self.writable_of(device) else { return false };
        let is_others =
            writable.reserved.as_ref().is_some_and(|(other, until)| other != device && now < *until);
        let is_free = writable.is_open && writable.under_way.is_none() && !is_others;
        if is_free {
            writable.reserved = Some((device.clone(), now + RESERVED));
        }
        is_free
    }

    /// Hands a command to the port of its device. Whether that takes it now.
    pub fn deliver(&mut self, now: Instant, device: &Name, order: Order) -> bool {
        if !self.reserve(now, device) {
            return false;
        }
        let Some((port, writable)) = self.writable_of(device) else { return false };
        writable.reserved = None;
        writable.last = Some(device.clone());
        writable.under_way = Some((order.number, Kind::of(&order.wanted)));
        writable.order = Some(order);
        self.ready.push(port);
        true
    }

    /// The command for the line of a port, which it takes with this.
    pub fn poll_order(&mut self, port: u32) -> Option<Order> {
        self.writable.get_mut(&port)?.order.take()
    }

    /// The port tells what became of a command.
    pub fn handle_delivered(&mut self, port: u32, number: u64, delivered: Delivered) {
        if let Some(writable) = self.writable.get_mut(&port)
            && let Some((_, kind)) = writable.under_way.take_if(|(of, _)| *of == number)
        {
            self.writes.note(kind, &delivered);
            self.free.push(port);
        }
        self.delivered.push_back((number, delivered));
    }

    /// What became of commands, in numbers.
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// What became of a command, by its number.
    pub fn poll_delivered(&mut self) -> Option<(u64, Delivered)> {
        self.delivered.pop_front()
    }

    /// The devices of a port whose line is free for a command, that of the last command at the end.
    pub fn poll_free(&mut self) -> Option<Vec<Name>> {
        let writable = self.writable.get(&self.free.pop()?);
        Some(writable.map_or_else(Vec::new, |writable| {
            let mut devices = writable.devices.clone();
            let last = writable.last.as_ref().and_then(|last| devices.iter().position(|of| of == last));
            devices.rotate_left(last.map_or(0, |last| last + 1));
            devices
        }))
    }

    /// The store has committed (`stored`) or refused a reading.
    pub fn handle_completion(&mut self, ticket: SerialTicket, stored: bool) {
        self.completions.push_back((ticket, stored));
    }

    /// The next completion, for the port of its ticket, and whether the reading is stored.
    pub fn poll_completion(&mut self) -> Option<(SerialTicket, bool)> {
        self.completions.pop_front()
    }
}

/// Hands a reading of a device on a serial line to the pipeline. For [`Verdict::Taken`],
/// [`Intake::poll_completion`] returns its ticket later.
pub fn handle_reading<S: ReadingStore>(
    now: Instant,
    device: &str,
    ticket: SerialTicket,
    received: Received<'_>,
    pipeline: &mut Pipeline<S>,
) -> Verdict {
    let Some(device) = pipeline.gate.device_by_id(device) else { return Verdict::Refused };
    match pipeline.handle_reading(now, device, Ticket::Serial(ticket), received) {
        Disposition::Journaled => Verdict::Taken,
        Disposition::Passed | Disposition::Filtered => Verdict::Passed,
        Disposition::Refused(Refusal::OverQuota { .. } | Refusal::Muted { .. }) => Verdict::OverQuota,
        Disposition::Refused(_) | Disposition::Unstored(Refused::TooLarge) => Verdict::Refused,
        Disposition::Unstored(_) => Verdict::Unavailable,
    }
}

/// Handles a CoAP message of the node on the line of a port. [`Intake::poll_message`] returns its
/// response.
pub fn handle_message<S: ReadingStore>(
    moment: &Moment,
    port: u32,
    device: &str,
    message: &[u8],
    coap: &mut coap::Intake,
    pipeline: &mut Pipeline<S>,
) {
    let Some(device) = pipeline.gate.device_by_id(device) else { return };
    pipeline.gate.seen(moment.now, device);
    coap.note_contact(moment.now, Peer::Serial(port), device);
    coap.handle_message(moment, Peer::Serial(port), device, message, pipeline);
}

/// Marks a device on a serial line as active.
pub fn handle_alive<S: ReadingStore>(now: Instant, device: &str, pipeline: &mut Pipeline<S>) {
    if let Some(device) = pipeline.gate.device_by_id(device) {
        pipeline.gate.seen(now, device);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;
    use crate::message::Method;
    use crate::pipeline::Event;
    use crate::pipeline::fake::{FakeStore, received};

    const TICKET: SerialTicket = SerialTicket { port: 3, delivery: 1, count: 9 };

    fn offer(pipeline: &mut Pipeline<FakeStore>, now: Instant, device: &str, path: &str) -> Verdict {
        handle_reading(now, device, TICKET, received(Method::Post, path, b"1"), pipeline)
    }

    #[test]
    fn each_verdict_says_whether_the_port_is_to_keep_the_reading() {
        let now = Instant::now();
        let mut pipeline = Pipeline::fake(now, 2);
        assert_eq!(offer(&mut pipeline, now, "door-7", "t/env"), Verdict::Taken);
        assert_eq!(offer(&mut pipeline, now, "door-7", "x"), Verdict::Refused);
        assert_eq!(offer(&mut pipeline, now, "nobody", "t/env"), Verdict::Refused);
        for (refused, verdict) in [
            (Refused::TooLarge, Verdict::Refused),
            (Refused::LaneFull, Verdict::Unavailable),
            (Refused::DeviceShare, Verdict::Unavailable),
            (Refused::Failing, Verdict::Unavailable),
            (Refused::Closed, Verdict::Unavailable),
        ] {
            pipeline.store().refuses = Some(refused);
            assert_eq!(offer(&mut pipeline, now, "door-7", "t/env"), verdict);
        }
        assert_eq!(offer(&mut pipeline, now, "door-7", "live/x"), Verdict::Passed);
        assert_eq!(offer(&mut pipeline, now, "door-7", "t/env"), Verdict::OverQuota);
    }

    #[test]
    fn a_completion_comes_back_under_the_ticket_it_was_given() {
        let now = Instant::now();
        let (mut serial, mut pipeline) = (Intake::default(), Pipeline::fake(now, 2));
        offer(&mut pipeline, now, "door-7", "t/env");
        pipeline.store().answer(false);
        assert!(pipeline.handle_completion());
        let Some(Event::Completed { ticket: Ticket::Serial(ticket), stored }) = pipeline.poll_event() else {
            panic!("no completion of a serial reading");
        };
        serial.handle_completion(ticket, stored);
        assert_eq!((serial.poll_completion(), serial.poll_completion()), (Some((TICKET, false)), None));
    }

    #[test]
    fn messages_wait_for_their_line_and_the_oldest_go_beyond_the_bound() {
        let mut serial = Intake::default();
        serial.push_message(1, b"nobody is there");
        assert_eq!((serial.poll_ready(), serial.poll_message(1)), (None, None));
        serial.connect(1);
        serial.connect(2);
        for number in 0..MESSAGES_MAX as u8 + 3 {
            serial.push_message(1, &[number]);
        }
        assert_eq!((serial.poll_ready(), serial.poll_message(2)), (Some(1), None));
        assert_eq!(serial.poll_message(1), Some(vec![3]));
        assert!(serial.disconnect(1) && !serial.disconnect(1));
        assert_eq!(serial.poll_message(1), None);
    }

    #[test]
    fn one_command_at_a_time_goes_to_an_open_port_and_its_devices_take_turns() {
        use crate::proto::serial::modbus::write::Written;
        use crate::southbound::serial::order::Wanted;
        let (now, mut serial) = (Instant::now(), Intake::default());
        let names: Vec<Name> = ["a", "b", "c"].iter().map(|name| Name::parse(name).unwrap()).collect();
        let order = |number: u64| Order {
            number,
            device: "a".to_owned(),
            wanted: Wanted::Frame { frame: vec![1], payload: vec![1] },
            within: Duration::from_secs(1),
        };
        serial.connect_writable(4, names.clone());
        assert!(!serial.reserve(now, &names[0]), "it is not open");
        serial.set_open(4, true);
        assert_eq!(serial.poll_free(), Some(names.clone()));
        // Kept for the first while that is noted on the disk, and not for ever.
        assert!(serial.reserve(now, &names[0]) && !serial.reserve(now, &names[1]));
        assert!(serial.reserve(now + RESERVED, &names[1]));
        assert!(serial.deliver(now + RESERVED, &names[1], order(1)));
        assert!(!serial.deliver(now + 2 * RESERVED, &names[0], order(2)));
        assert_eq!((serial.poll_ready(), serial.poll_order(4).map(|order| order.number)), (Some(4), Some(1)));
        serial.handle_delivered(4, 1, Written::Unknown.into());
        assert_eq!(serial.poll_delivered(), Some((1, Delivered::Unknown)));
        // That of the last command is last.
        assert_eq!(serial.poll_free(), Some(vec![names[2].clone(), names[0].clone(), names[1].clone()]));
        // What the port has not taken when it is closed was not sent.
        assert!(serial.deliver(now, &names[2], order(3)));
        serial.set_open(4, false);
        assert_eq!(serial.poll_delivered(), Some((3, Delivered::Unsent)));
        // What it has taken, and it is gone.
        serial.set_open(4, true);
        assert!(serial.deliver(now, &names[2], order(5)) && serial.poll_order(4).is_some());
        serial.disconnect_writable(4);
        assert_eq!(serial.poll_delivered(), Some((5, Delivered::Unknown)));
        // The one that was not sent waits again, and is no write.
        let frames = serial.writes().frames;
        assert_eq!((frames.sent, frames.answered, frames.failed), (2, 0, 2));
    }
}
