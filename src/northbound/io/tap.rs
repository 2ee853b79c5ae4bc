//! Cuts the bytes of a connection into whole packets for an
//! [`Observer`](super::observer::Observer).
//!
//! While nobody wants packets it does nothing. When somebody does, each direction begins at the
//! next boundary between two packets, which only the core knows: what it has received so far made
//! whole packets, and nothing waits to be written.

use crate::northbound::session::RECEIVE_LIMIT;
use crate::northbound::wire::{self, Framed};

/// Longest packet written: what MQTT allows.
const SEND_LIMIT: usize = 268_435_460;

/// The state of one connection.
#[derive(Debug, Default)]
pub struct Tap {
    /// Received and not whole yet; `None`: not at a boundary yet.
    received: Option<Vec<u8>>,
    /// Bytes at the front of the output that were shown; `None`: not at a boundary yet.
    shown: Option<usize>,
}

impl Tap {
    /// Nobody wants packets.
    pub fn stop(&mut self) {
        *self = Tap::default();
    }

    /// Bytes came. `at_boundary`: before them, all that was received made whole packets.
    pub fn handle_received(&mut self, at_boundary: bool, bytes: &[u8], mut show: impl FnMut(&[u8])) {
        if at_boundary {
            self.received = Some(Vec::new());
        }
        let Some(partial) = &mut self.received else { return };
        partial.extend_from_slice(bytes);
        let mut used = 0;
        loop {
            match wire::split(&partial[used..], RECEIVE_LIMIT as usize) {
                Framed::Packet { whole, .. } => {
                    show(whole);
                    used += whole.len();
                }
                Framed::Incomplete => break,
                // The session ends over it.
                Framed::Malformed => {
                    self.received = None;
                    return;
                }
            }
        }
        partial.drain(..used);
    }

    /// `out` is about to be written; it was appended to packet by packet.
    pub fn handle_output(&mut self, out: &[u8], mut show: impl FnMut(&[u8])) {
        let Some(shown) = &mut self.shown else { return };
        while let Framed::Packet { whole, .. } =
            wire::split(out.get(*shown..).unwrap_or_default(), SEND_LIMIT)
        {
            show(whole);
            *shown += whole.len();
        }
    }

    /// That many bytes of the output were written, `left` are left.
    pub fn handle_written(&mut self, written: usize, left: usize) {
        self.shown = match self.shown {
            _ if left == 0 => Some(0),
            Some(shown) => Some(shown.saturating_sub(written)),
            None => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 2] = [0xC0, 0];
    const PUBACK: [u8; 4] = [0x40, 2, 0, 7];

    #[test]
    fn received_packets_are_shown_whole_whatever_pieces_they_come_in() {
        let (mut tap, mut seen) = (Tap::default(), Vec::new());
        tap.handle_received(false, &PUBACK[2..], |packet| seen.push(packet.to_vec()));
        assert!(seen.is_empty(), "not at a boundary yet");
        for (index, byte) in PUBACK.iter().chain(&PING).enumerate() {
            tap.handle_received(index == 0 || index == 4, &[*byte], |packet| seen.push(packet.to_vec()));
        }
        assert_eq!(seen, [PUBACK.to_vec(), PING.to_vec()]);
    }

    #[test]
    fn each_packet_written_is_shown_once_however_the_socket_takes_it() {
        let (mut tap, mut seen) = (Tap::default(), Vec::<Vec<u8>>::new());
        tap.handle_output(&PUBACK[1..], |packet| seen.push(packet.to_vec()));
        tap.handle_written(3, 0);
        assert!(seen.is_empty(), "the first had begun before");
        let mut out = PUBACK.to_vec();
        tap.handle_output(&out, |packet| seen.push(packet.to_vec()));
        out.drain(..1);
        tap.handle_written(1, 3);
        out.extend(PING);
        tap.handle_output(&out, |packet| seen.push(packet.to_vec()));
        tap.handle_written(5, 0);
        tap.handle_output(&PING, |packet| seen.push(packet.to_vec()));
        assert_eq!(seen, [PUBACK.to_vec(), PING.to_vec(), PING.to_vec()]);
    }
}
