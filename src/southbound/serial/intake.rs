//! The serial side: hands the readings of ports to the pipeline, and returns completions and
//! messages to the ports.
//!
//! | returned | queued until |
//! |---|---|
//! | the completion of a reading | the port of its ticket polls it: [`Intake::poll_completion`] |
//! | a CoAP message for the node on a line | the port writes it: [`Intake::poll_message`] |
//!
//! Only lines with a CoAP node (`slipmux`) are connected. At most [`MESSAGES_MAX`] messages per
//! line are queued.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::taker::Verdict;
use crate::clock::Moment;
use crate::gate::stage::{Received, Refusal};
use crate::journal::Refused;
use crate::pipeline::{Disposition, Pipeline, ReadingStore};
use crate::proto::address::{Peer, SerialTicket, Ticket};
use crate::southbound::coap;

/// Most messages queued for one line. A further one replaces the oldest, which is lost like a
/// datagram.
pub const MESSAGES_MAX: usize = 64;

/// The state of the serial side apart from the ports.
#[derive(Debug, Default)]
pub struct Intake {
    lines: HashMap<u32, VecDeque<Vec<u8>>>,
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
}
