//! Shows decrypted CoAP messages to `trace`.

use std::net::SocketAddr;

use super::clock::SystemClock;
use crate::clock::{Moment, WallClock as _};
use crate::control::traffic::{Seen, Traffic};
use crate::gate::{DeviceIndex, Gate};
use crate::proto::coap::Message;

/// What showing a message needs, for the time of one round.
pub struct Tracer<'h> {
    /// The watchers.
    pub traffic: &'h Traffic,
    /// For the time shown.
    pub clock: &'h SystemClock,
    /// When the round began.
    pub moment: Moment,
}

impl Tracer<'_> {
    /// Shows a message of a device, if somebody traces it. `direction` is `in` or `out`.
    pub fn show(
        &self,
        gate: &Gate,
        device: DeviceIndex,
        direction: &str,
        peer: Option<SocketAddr>,
        message: &[u8],
    ) {
        let Some(id) = gate.id(device).filter(|id| self.traffic.wants(id.as_str())) else { return };
        let payload = Message::parse(message).map_or(0, |message| message.payload.len());
        let seen = Seen {
            at: &self.clock.raw().to_string(),
            boottime_ms: self.moment.boottime_ms,
            direction,
            protocol: "coap",
            peer,
            bytes: message,
            payload_at: message.len() - payload,
        };
        self.traffic.push(id.as_str(), &seen);
    }
}
