//! Messages of the broker for a client: a publish of QoS 1 on a path that it subscribed to.
//!
//! Which one is sent when is the mailbox's. Here a publish is over with its PUBACK, or with its
//! connection: the mailbox then decides whether it is sent again.

use super::{Intake, UNSENT_MAX};
use crate::gate::stage::DeviceIndex;
use crate::message::ContentFormat;
use crate::southbound::mqtt::bus::BusMessage;
use crate::southbound::mqtt::connection::State;
use crate::southbound::mqtt::packet::{self, Acknowledged, Terms};

/// Publishes of one session that are not acknowledged.
const UNACKNOWLEDGED_MAX: usize = 16;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It is on its way.
    Sent,
    /// The client has it.
    Acknowledged,
    /// The client refused it with this reason code.
    Refused(u8),
    /// Its connection ended.
    Gone,
}

impl Delivered {
    /// What a PUBACK with this reason code means.
    pub(super) fn by_puback(code: u8) -> Delivered {
        if code >= 0x80 { Delivered::Refused(code) } else { Delivered::Acknowledged }
    }
}

/// Why a message was not published to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDelivered {
    /// No client gets messages on the path, or it does not read.
    Absent,
    /// The client does not take it: it is larger than its Maximum Packet Size.
    TooLarge,
}

impl Intake {
    /// The session of a device that gets messages on `path`, by a subscription of QoS 1 or 2; of
    /// several the one that connected last.
    fn listener(&self, device: DeviceIndex, path: &str) -> Option<u64> {
        let listens = |at: &&u64| {
            self.sessions.get(at).is_some_and(|session| {
                let connection = session.connection.and_then(|number| self.connections.get(&number));
                connection.is_some_and(|connection| connection.state == State::Open)
                    && session.deliveries.len() < UNACKNOWLEDGED_MAX
                    && session.subscriptions.iter().any(|subscription| subscription.takes_downlink(path))
            })
        };
        self.by_device.get(&device)?.iter().rev().find(listens).copied()
    }

    /// Whether a client of the device gets messages on `path`.
    pub fn listens(&self, device: DeviceIndex, path: &str) -> bool {
        self.listener(device, path).is_some()
    }

    /// Publishes to it; [`Intake::poll_delivered`] tells what becomes of `number`.
    ///
    /// # Errors
    /// [`NotDelivered`].
    pub fn deliver(
        &mut self,
        device: DeviceIndex,
        number: u64,
        path: &str,
        payload: &[u8],
        content_format: Option<ContentFormat>,
    ) -> Result<(), NotDelivered> {
        let absent = NotDelivered::Absent;
        let at = self.listener(device, path).ok_or(absent)?;
        let session = self.sessions.get_mut(&at).ok_or(absent)?;
        let connection_number = session.connection.ok_or(absent)?;
        let connection = self.connections.get_mut(&connection_number).ok_or(absent)?;
        if connection.output().len() >= UNSENT_MAX {
            return Err(absent);
        }
        let unacknowledged = session.queue.sent() + session.deliveries.len();
        let version = connection.version.ok_or(absent)?;
        let id = session.free_delivery_id().filter(|_| unacknowledged < connection.receive_maximum);
        let id = id.ok_or(absent)?;
        let message = BusMessage {
            topic: path,
            payload,
            content_format,
            retain: false,
            qos: 1,
            sender: 0,
            expires: None,
            properties: &[],
        };
        let acknowledged = Acknowledged { id, again: false, exactly_once: false };
        let packet = packet::publish(version, &message, &Terms::default(), Some(acknowledged));
        if !packet.is_some_and(|packet| connection.send_publish(id, packet)) {
            return Err(NotDelivered::TooLarge);
        }
        session.deliveries.insert(id, number);
        self.delivered.push_back((number, Delivered::Sent));
        self.announce(connection_number);
        Ok(())
    }

    /// What became of a delivery, oldest first.
    pub fn poll_delivered(&mut self) -> Option<(u64, Delivered)> {
        self.delivered.pop_front()
    }
}
