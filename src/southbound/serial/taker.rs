//! What a port hands its readings to.

use super::legibility::Fault;
use crate::gate::stage::Received;
use crate::proto::address::SerialTicket;
use crate::proto::serial::reading::Unreadable;
use crate::proto::serial::{framing, modbus, poll};

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
    /// Offers one of this device under a ticket.
    fn take(&mut self, device: &str, ticket: SerialTicket, received: Received<'_>) -> Verdict;

    /// A CoAP message of a node on the line; answers go out by the shell.
    fn message(&mut self, message: &[u8]);

    /// A frame was no reading: why, and its first bytes.
    fn unreadable(&mut self, why: Unreadable, bytes: &[u8]);

    /// A frame was dropped: why, and its first bytes. Of several at once, the last.
    fn dropped(&mut self, why: framing::Bad, bytes: &[u8]) {
        let _ = (why, bytes);
    }

    /// Nothing that comes on the line can be read, or something can again.
    fn legible(&mut self, legible: bool) {
        let _ = legible;
    }

    /// A device gave a sign of life, whether or not a reading comes of it.
    fn alive(&mut self, device: &str);

    /// Something happened with a device that is asked; with why its last answer was no reading, if
    /// it was none.
    fn asked(&mut self, event: poll::Event, fault: Option<&Fault>) {
        let _ = (event, fault);
    }

    /// Something happened with a unit of the bus; never [`modbus::Event::Reading`].
    fn news(&mut self, unit: &modbus::settings::Unit, event: &modbus::Event);
}
