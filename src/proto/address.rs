//! Peers of CoAP and tickets of readings: the types, and the numbers they are packed into.
//!
//! The CoAP endpoint knows a peer by 64 bits ([`PeerId`]); the journal returns 128 bits with each
//! completion ([`Ticket::pack`]). No other code reads or writes these bits:
//!
//! | bits | ticket of a CoAP request | ticket of a serial reading |
//! |---|---|---|
//! | 127–126 | kind of the peer: 0 session, 1 serial, 2 plain | 3: not a CoAP request |
//! | 125–120 | ┐ | 0: serial; 1: a test by the operator; 2: the reply to a command; 3: MQTT; 4: a value of a resource that a device serves; 5–63 are free for other sources |
//! | 119–72 | │ number of the peer | 0 |
//! | 71–64 | ┘ | number of the delivery |
//! | 63–56 | method: its CoAP request code | ┐ |
//! | 55–32 | index of the exchange | ┘ number of the port |
//! | 31–0 | generation of the exchange | count |
//!
//! In that of an MQTT publish, bits 119–64 are the number of the session and 63–0 its count.

use super::coap::Exchange;
use super::dtls::SessionId;
use crate::message::Method;

/// Bits of a peer's number, below the two of its kind.
const NUMBER_BITS: u32 = 62;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;

const SESSION: u64 = 0;
const SERIAL: u64 = 1;
const PLAIN: u64 = 2;
/// In a ticket: of something other than a CoAP request.
const OTHER: u64 = 3;

/// Bits 125–120 of a ticket of [`OTHER`]: the reading came from a serial port.
const OTHER_SERIAL: u64 = 0;
/// The same: the operator sent it, by `tombolo device test`. Its number is in bits 31–0.
const OTHER_TEST: u64 = 1;
/// The same: the reply to a command, whose number is in bits 63–0.
const OTHER_REPLY: u64 = 2;
/// The same: a local MQTT client published it.
const OTHER_MQTT: u64 = 3;
/// The same: a value of a resource that a device serves, whose number is in bits 63–0.
const OTHER_SERVED: u64 = 4;
const OTHER_BITS: u32 = 56;
/// The number of an MQTT session is below 2^56.
const MQTT_SESSION: u64 = (1 << OTHER_BITS) - 1;

/// The peer of CoAP messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// A DTLS session, below 2^62.
    Session(SessionId),
    /// A node on the serial line of the port with this number.
    Serial(u32),
    /// A plain UDP address by its number, below 2^62. The source address may be spoofed.
    Plain(u64),
}

impl Peer {
    /// Packs it. Bits of a number from 2^62 on are dropped.
    pub const fn id(self) -> PeerId {
        let (kind, number) = match self {
            Peer::Session(session) => (SESSION, session.0),
            Peer::Serial(port) => (SERIAL, port as u64),
            Peer::Plain(number) => (PLAIN, number),
        };
        PeerId(kind << NUMBER_BITS | number & NUMBER)
    }
}

/// A [`Peer`], packed into 64 bits, as the CoAP endpoint stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub(in crate::proto) u64);

impl PeerId {
    /// Unpacks it.
    pub const fn peer(self) -> Peer {
        let number = self.0 & NUMBER;
        match self.0 >> NUMBER_BITS {
            SESSION => Peer::Session(SessionId(number)),
            SERIAL => Peer::Serial(number as u32),
            _ => Peer::Plain(number),
        }
    }

    /// The 64 bits, for a [`Holder`](super::Holder) that is nothing but this peer.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether the source address is unproven: such a peer gets at most three times the bytes it
    /// sent, and its memory is separate from that of proven peers.
    pub const fn is_unproven(self) -> bool {
        self.0 >> NUMBER_BITS >= PLAIN
    }
}

/// Identifies a reading until it is committed: the receiver of its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ticket {
    /// A CoAP request that must be answered.
    Coap {
        /// The request.
        exchange: Exchange,
        /// Its method, which decides between 2.04 and 2.02.
        method: Method,
    },
    /// A reading that a serial port keeps until its completion.
    Serial(SerialTicket),
    /// A reading that the operator sends in the place of a device, by its number.
    Test(u32),
    /// The reply to the command with this number.
    Reply(u64),
    /// A publish of a local MQTT client.
    Mqtt(MqttTicket),
    /// A value of a resource that a device serves, by the number of its delivery.
    Served(u64),
}

/// The ticket of an MQTT publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MqttTicket {
    /// The number of the session, below 2^56. It is never reused in a process.
    pub session: u64,
    /// Counts the publishes of the session.
    pub count: u64,
}

/// The ticket of a serial reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SerialTicket {
    /// The number of the port. It is never reused in a process, so that a late completion finds no
    /// other port.
    pub port: u32,
    /// The device on the port: the index of a unit of a bus, or 0.
    pub delivery: u8,
    /// Counts the readings of the delivery, and wraps.
    pub count: u32,
}

impl Ticket {
    /// Packs it into 128 bits.
    pub fn pack(self) -> u128 {
        let (high, low) = match self {
            Ticket::Coap { exchange, method } => {
                let (peer, index, generation) = exchange.parts();
                debug_assert!(index >> Exchange::INDEX_BITS == 0, "more exchanges than an endpoint may have");
                let upper = u64::from(method as u8) << Exchange::INDEX_BITS | u64::from(index);
                (peer.0, upper << 32 | u64::from(generation))
            }
            Ticket::Serial(SerialTicket { port, delivery, count }) => {
                let high = OTHER << NUMBER_BITS | OTHER_SERIAL << OTHER_BITS | u64::from(delivery);
                (high, u64::from(port) << 32 | u64::from(count))
            }
            Ticket::Mqtt(MqttTicket { session, count }) => {
                (OTHER << NUMBER_BITS | OTHER_MQTT << OTHER_BITS | session & MQTT_SESSION, count)
            }
            Ticket::Test(number) => (OTHER << NUMBER_BITS | OTHER_TEST << OTHER_BITS, u64::from(number)),
            Ticket::Reply(number) => (OTHER << NUMBER_BITS | OTHER_REPLY << OTHER_BITS, number),
            Ticket::Served(number) => (OTHER << NUMBER_BITS | OTHER_SERVED << OTHER_BITS, number),
        };
        u128::from(high) << 64 | u128::from(low)
    }

    /// Unpacks it; `None` for a number that [`Ticket::pack`] does not make.
    pub fn unpack(packed: u128) -> Option<Ticket> {
        let (high, low) = ((packed >> 64) as u64, packed as u64);
        let (upper, lower) = ((low >> 32) as u32, low as u32);
        if high >> NUMBER_BITS != OTHER {
            let method = Method::from_code((upper >> Exchange::INDEX_BITS) as u8)?;
            let index = upper & ((1 << Exchange::INDEX_BITS) - 1);
            return Some(Ticket::Coap { exchange: Exchange::from_parts(PeerId(high), index, lower), method });
        }
        if high == OTHER << NUMBER_BITS | OTHER_TEST << OTHER_BITS && upper == 0 {
            return Some(Ticket::Test(lower));
        }
        if high == OTHER << NUMBER_BITS | OTHER_REPLY << OTHER_BITS {
            return Some(Ticket::Reply(low));
        }
        if high == OTHER << NUMBER_BITS | OTHER_SERVED << OTHER_BITS {
            return Some(Ticket::Served(low));
        }
        if high & !MQTT_SESSION == OTHER << NUMBER_BITS | OTHER_MQTT << OTHER_BITS {
            return Some(Ticket::Mqtt(MqttTicket { session: high & MQTT_SESSION, count: low }));
        }
        let serial = OTHER << NUMBER_BITS | OTHER_SERIAL << OTHER_BITS;
        let delivery = u8::try_from(high ^ serial).ok()?;
        Some(Ticket::Serial(SerialTicket { port: upper, delivery, count: lower }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer() -> impl Strategy<Value = Peer> {
        prop_oneof![
            (0..=NUMBER).prop_map(|number| Peer::Session(SessionId(number))),
            any::<u32>().prop_map(Peer::Serial),
            (0..=NUMBER).prop_map(Peer::Plain),
        ]
    }

    fn ticket() -> impl Strategy<Value = Ticket> {
        let method = prop_oneof![Just(Method::Post), Just(Method::Put), Just(Method::Delete)];
        let coap = (peer(), 0u32..1 << Exchange::INDEX_BITS, any::<u32>(), method);
        prop_oneof![
            coap.prop_map(|(peer, index, generation, method)| Ticket::Coap {
                exchange: Exchange::from_parts(peer.id(), index, generation),
                method
            }),
            (any::<u32>(), any::<u8>(), any::<u32>()).prop_map(|(port, delivery, count)| {
                Ticket::Serial(SerialTicket { port, delivery, count })
            }),
            any::<u32>().prop_map(Ticket::Test),
            any::<u64>().prop_map(Ticket::Reply),
            any::<u64>().prop_map(Ticket::Served),
            (0..=MQTT_SESSION, any::<u64>())
                .prop_map(|(session, count)| Ticket::Mqtt(MqttTicket { session, count })),
        ]
    }

    proptest! {
        #[test]
        fn a_peer_survives_being_a_number(peer in peer()) {
            prop_assert_eq!(peer.id().peer(), peer);
            prop_assert_eq!(peer.id().is_unproven(), matches!(peer, Peer::Plain(_)));
        }

        #[test]
        fn no_two_peers_have_one_number(a in peer(), b in peer()) {
            prop_assert_eq!(a == b, a.id() == b.id());
        }

        #[test]
        fn a_ticket_survives_being_a_number(ticket in ticket()) {
            prop_assert_eq!(Ticket::unpack(ticket.pack()), Some(ticket));
        }

        #[test]
        fn a_number_is_one_ticket_or_none(number in any::<u128>()) {
            if let Some(ticket) = Ticket::unpack(number) {
                prop_assert_eq!(ticket.pack(), number);
            }
        }
    }

    #[test]
    fn the_ends_of_each_range_are_told_apart() {
        let numbers = [
            Peer::Session(SessionId(0)),
            Peer::Session(SessionId(NUMBER)),
            Peer::Serial(0),
            Peer::Serial(u32::MAX),
            Peer::Plain(0),
            Peer::Plain(NUMBER),
        ];
        let mut tickets = vec![Ticket::Serial(SerialTicket { port: 0, delivery: 0, count: 0 })];
        tickets.push(Ticket::Serial(SerialTicket { port: u32::MAX, delivery: u8::MAX, count: u32::MAX }));
        for peer in numbers {
            for index in [0, (1 << Exchange::INDEX_BITS) - 1] {
                for method in [Method::Post, Method::Put, Method::Delete] {
                    let exchange = Exchange::from_parts(peer.id(), index, u32::MAX);
                    tickets.push(Ticket::Coap { exchange, method });
                }
            }
        }
        let packed: std::collections::HashSet<u128> = tickets.iter().map(|ticket| ticket.pack()).collect();
        assert_eq!(packed.len(), tickets.len());
        assert!(tickets.iter().all(|ticket| Ticket::unpack(ticket.pack()) == Some(*ticket)));
        assert_eq!(Ticket::unpack(u128::MAX), None);
        assert_eq!(Ticket::unpack(0), None, "no method");
    }
}
