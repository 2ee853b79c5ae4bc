//! Outgoing flights: fragmentation, packing into datagrams, retransmission (RFC 6347 §4.2.3,
//! §4.2.4).

use std::time::{Duration, Instant};

use super::wire::{self, Reader};
use crate::proto::dtls::record::{HANDSHAKE, HANDSHAKE_HEADER, HEADER};

/// The first retransmission; each later one waits twice as long (RFC 6347 §4.2.4.1).
const FIRST: Duration = Duration::from_secs(1);
/// Least time between retransmissions caused by the client's retransmissions: a network that
/// duplicates datagrams would otherwise duplicate the flight too.
const GAP: Duration = Duration::from_millis(200);
/// Retransmissions after which the flight is cut into smaller datagrams, because the path MTU may
/// be too small (RFC 6347 §4.1.1.1).
const CUT_AFTER: u32 = 2;
/// The datagram size that every IPv4 path supports, without headers.
const SMALL: usize = 548;
/// Least bytes of a message in a record.
const WORTHWHILE: usize = 16;

/// The retransmission timer of a flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    sent: Instant,
    wait: Duration,
    tries: u32,
    /// Whether the peer has answered, so that the peer retransmits.
    stopped: bool,
}

impl Timer {
    pub fn start(now: Instant) -> Timer {
        Timer { sent: now, wait: FIRST, tries: 0, stopped: false }
    }

    pub fn stop(&mut self) {
        self.stopped = true;
    }

    pub fn deadline(&self) -> Option<Instant> {
        (!self.stopped).then(|| self.sent + self.wait)
    }

    /// Whether the retransmission is due; if so, it counts as sent.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.deadline().is_some_and(|deadline| deadline <= now);
        if due {
            self.sent = now;
            self.wait *= 2;
            self.tries += 1;
        }
        due
    }

    /// The client repeated its last flight. Returns whether to repeat the own flight, which then
    /// counts as sent.
    pub fn is_asked(&mut self, now: Instant) -> bool {
        let due = !self.stopped && now >= self.sent + GAP;
        if due {
            self.sent = now;
            self.tries += 1;
        }
        due
    }

    /// The size of datagrams, at most `mtu`.
    pub fn mtu(&self, mtu: usize) -> usize {
        if self.tries > CUT_AFTER { mtu.min(SMALL) } else { mtu }
    }
}

/// Cuts contiguous handshake messages into records of epoch 0, and passes on datagrams of at most
/// `mtu` bytes. A record holds at most `limit` bytes of plaintext.
pub(super) fn pack(
    messages: &[u8],
    mtu: usize,
    limit: usize,
    sequence: &mut u64,
    mut datagram: impl FnMut(&[u8]),
) {
    const OVERHEAD: usize = HEADER + HANDSHAKE_HEADER;
    let mut out = Vec::with_capacity(mtu);
    let mut reader = Reader(messages);
    while let (Some(head), mut peek) = (reader.array::<4>(), reader) {
        // type 1, length 3 | message_seq 2, offset 3, length 3 | body
        let length = Reader(&head[1..]).u24().unwrap_or(0);
        let (Some(rest), Some(body)) = (peek.array::<8>(), peek.take(length)) else { break };
        reader = peek;
        let mut offset = 0;
        loop {
            let left = length - offset;
            if !out.is_empty() && out.len() + OVERHEAD + left.min(WORTHWHILE) > mtu {
                datagram(&out);
                out.clear();
            }
            let room = mtu.saturating_sub(out.len() + OVERHEAD).min(limit.saturating_sub(HANDSHAKE_HEADER));
            let here = left.min(room.max(1));
            let start = wire::open_record(&mut out, HANDSHAKE, 0, *sequence, &[]);
            *sequence += 1;
            out.extend(head);
            out.extend(&rest[..2]);
            out.extend(&(offset as u32).to_be_bytes()[1..]);
            out.extend(&(here as u32).to_be_bytes()[1..]);
            out.extend(&body[offset..offset + here]);
            wire::close_record(&mut out, start, 0);
            offset += here;
            if offset == length {
                break;
            }
        }
    }
    if !out.is_empty() {
        datagram(&out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dtls::record::{self, handshake_fragments, handshake_message};

    #[test]
    fn messages_are_cut_to_fit_and_nothing_is_lost() {
        for mtu in [60, 100, 300, 1_200, 1 << 14] {
            for sizes in [&[86, 0, 700, 300, 0][..], &[0], &[5_000, 1]] {
                let bodies: Vec<Vec<u8>> =
                    sizes.iter().map(|size| (0..*size).map(|n| n as u8).collect()).collect();
                let flight: Vec<u8> =
                    (3..).zip(&bodies).flat_map(|(n, body)| handshake_message(2, n, body)).collect();
                let (mut sequence, mut numbers) = (9, Vec::new());
                let mut whole: Vec<Vec<u8>> = vec![Vec::new(); bodies.len()];
                pack(&flight, mtu, 512, &mut sequence, |datagram| {
                    assert!(datagram.len() <= mtu, "{} of {mtu}", datagram.len());
                    for record in record::records(datagram) {
                        let record = record.unwrap();
                        assert!(record.fragment().len() <= 512);
                        numbers.push(record.sequence);
                        for fragment in handshake_fragments(record.fragment()).unwrap() {
                            let body = &mut whole[usize::from(fragment.message_sequence) - 3];
                            assert_eq!(body.len(), fragment.offset);
                            body.extend(fragment.body);
                        }
                    }
                });
                assert_eq!(whole, bodies);
                assert_eq!(numbers, (9..sequence).collect::<Vec<_>>());
            }
        }
    }
}
