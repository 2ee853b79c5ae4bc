//! Modbus TCP: the header in place of address, checksum and silences of RTU.
//!
//! ```text
//! transaction (2) | protocol 0 (2) | length of what follows (2) | unit (1) | protocol data unit
//! ```
//!
//! The bus speaks RTU; here its requests get the header, and answers lose it. Unlike RTU an answer
//! says which request it answers: one of an earlier transaction is late, whatever its shape, and
//! one of the last is the answer, although some peers put another unit into it (255, or 0).
//!
//! MODBUS Messaging on TCP/IP Implementation Guide V1.0b §3.1.3.

use super::frame::crc16;

/// The header, unit included.
const HEADER: usize = 7;
/// Longest frame: header and protocol data unit.
const FRAME_MAX: usize = HEADER + 253;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// An answer to the last request, as an RTU frame.
    Answer(Vec<u8>),
    /// An answer to one before it, as an RTU frame.
    Late(Vec<u8>),
    /// A frame with the transaction identifier of none of the last requests.
    Misnumbered,
}

/// So many requests before the last one may still be answered.
const LATE_MAX: u64 = 32;

/// Puts headers on and takes them off.
#[derive(Debug, Default)]
pub struct Mbap {
    transaction: u16,
    /// The unit that was asked last.
    unit: u8,
    /// The units that were asked, a bit for each address.
    asked: [u64; 4],
    /// The unit that the answer to it named, until that is asked for.
    named: Option<u8>,
    bytes: Vec<u8>,
    noise: u64,
    /// That when the last request was made.
    noise_before: u64,
    /// Requests made.
    requests: u64,
    /// The peer does not copy the transaction identifier.
    is_unnumbered: bool,
}

impl Mbap {
    /// For a peer that does not copy the transaction identifier: any is that of the last request.
    pub fn unnumbered() -> Mbap {
        Mbap { is_unnumbered: true, ..Mbap::default() }
    }

    /// Makes the request with a header out of an RTU frame, which is at least address, function and
    /// checksum.
    pub fn wrap(&mut self, frame: &mut Vec<u8>) {
        let Some((body, _)) = frame.split_last_chunk::<2>().filter(|(body, _)| !body.is_empty()) else {
            return;
        };
        self.transaction = self.transaction.wrapping_add(1);
        self.unit = body.first().copied().unwrap_or_default();
        self.asked[usize::from(self.unit / 64)] |= 1 << (self.unit % 64);
        // What is left of earlier bytes is no whole frame, and no answer to this.
        self.clear();
        self.noise_before = self.noise;
        self.requests += 1;
        // At most 254.
        let length = body.len() as u16;
        let header = [self.transaction.to_be_bytes(), [0, 0], length.to_be_bytes()];
        *frame = [header.as_flattened(), body].concat();
    }

    /// Takes bytes in, and hands out what is whole. Bytes that begin no frame are dropped until the
    /// next request: a stream has no place to begin anew.
    pub fn push(&mut self, bytes: &[u8], mut arrived: impl FnMut(Arrived)) {
        self.bytes.extend_from_slice(bytes);
        while let Some(header) = self.bytes.first_chunk::<HEADER>() {
            let [high, low, 0, 0, long, short, _] = *header else { return self.clear() };
            let length = usize::from(u16::from_be_bytes([long, short]));
            if length < 2 || length + HEADER - 1 > FRAME_MAX {
                return self.clear();
            }
            let Some(whole) = self.bytes.get(HEADER - 1..HEADER - 1 + length) else { return };
            let mut frame = whole.to_vec();
            if self.is_unnumbered {
                // Then nothing but the unit says whose answer it is.
                frame.extend_from_slice(&crc16(&frame).to_le_bytes());
                self.bytes.drain(..HEADER - 1 + length);
                arrived(Arrived::Answer(frame));
                continue;
            }
            let earlier = u64::from(self.transaction.wrapping_sub(u16::from_be_bytes([high, low])));
            // One of another unit that is asked here, too, is that unit's: a peer that hands on the
            // answer of the request before under this number.
            let is_other =
                |unit: u8| unit != self.unit && self.asked[usize::from(unit / 64)] & (1 << (unit % 64)) != 0;
            if let (0, Some(unit)) = (earlier, frame.first_mut())
                && !is_other(*unit)
            {
                self.named = Some(std::mem::replace(unit, self.unit));
            }
            frame.extend_from_slice(&crc16(&frame).to_le_bytes());
            self.bytes.drain(..HEADER - 1 + length);
            arrived(match earlier {
                0 => Arrived::Answer(frame),
                1..=LATE_MAX if earlier < self.requests => Arrived::Late(frame),
                _ => Arrived::Misnumbered,
            });
        }
    }

    /// The unit that was asked last, and the one that the answer named, once for each answer.
    pub fn take_named(&mut self) -> Option<(u8, u8)> {
        self.named.take().map(|named| (self.unit, named))
    }

    /// Forgets what is not whole.
    pub fn clear(&mut self) {
        self.noise += self.bytes.len() as u64;
        self.bytes.clear();
    }

    /// Bytes that belonged to no frame.
    pub fn noise(&self) -> u64 {
        self.noise
    }

    /// Bytes that came since the last request and belong to no whole frame.
    pub fn unframed(&self) -> usize {
        usize::try_from(self.noise - self.noise_before).unwrap_or(usize::MAX).saturating_add(self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtu(body: &[u8]) -> Vec<u8> {
        [body, &crc16(body).to_le_bytes()].concat()
    }

    fn push(mbap: &mut Mbap, bytes: &[u8]) -> Vec<Arrived> {
        let mut found = Vec::new();
        mbap.push(bytes, |arrived| found.push(arrived));
        found
    }

    #[test]
    fn a_request_gets_the_header_of_the_guide_and_its_answer_loses_it_wherever_it_is_cut() {
        let mut mbap = Mbap::default();
        let mut request = rtu(&[0x11, 3, 0, 0x6B, 0, 3]);
        mbap.wrap(&mut request);
        assert_eq!(request, [0, 1, 0, 0, 0, 6, 0x11, 3, 0, 0x6B, 0, 3]);
        let answer = [0, 1, 0, 0, 0, 5, 0x11, 3, 2, 0, 7];
        for cut in 0..answer.len() {
            assert_eq!(push(&mut mbap, &answer[..cut]), []);
            assert_eq!(push(&mut mbap, &answer[cut..]), [Arrived::Answer(rtu(&answer[6..]))]);
        }
    }

    #[test]
    fn an_answer_to_the_last_request_is_accepted_whatever_unit_the_peer_puts_into_it() {
        for unit in [0, 1, 9, 255] {
            let mut mbap = Mbap::default();
            let mut request = rtu(&[9, 3, 0, 0, 0, 1]);
            mbap.wrap(&mut request);
            let answer = [0, 1, 0, 0, 0, 5, unit, 3, 2, 0, 7];
            assert_eq!(push(&mut mbap, &answer), [Arrived::Answer(rtu(&[9, 3, 2, 0, 7]))]);
            assert_eq!((mbap.take_named(), mbap.take_named()), (Some((9, unit)), None));
        }
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_late_whatever_its_shape() {
        let mut mbap = Mbap::default();
        let mut request = rtu(&[1, 3, 0, 0, 0, 1]);
        mbap.wrap(&mut request);
        let mut request = rtu(&[1, 3, 0, 9, 0, 1]);
        mbap.wrap(&mut request);
        let both = [0, 1, 0, 0, 0, 5, 1, 3, 2, 0, 7, 0, 2, 0, 0, 0, 5, 1, 3, 2, 0, 8];
        let expected = [Arrived::Late(rtu(&[1, 3, 2, 0, 7])), Arrived::Answer(rtu(&[1, 3, 2, 0, 8]))];
        assert_eq!(push(&mut mbap, &both), expected);
    }

    #[test]
    fn a_number_that_no_request_had_is_not_that_of_an_earlier_one() {
        let mut mbap = Mbap::default();
        for count in 1..100u16 {
            let mut request = rtu(&[1, 3, 0, 0, 0, 1]);
            mbap.wrap(&mut request);
            let answer = |number: u16| [&number.to_be_bytes()[..], &[0, 0, 0, 5, 1, 3, 2, 0, 7]].concat();
            for wrong in [0, count.swap_bytes(), count + 1, 0xFFFF] {
                assert_eq!(push(&mut mbap, &answer(wrong)), [Arrived::Misnumbered], "{count} {wrong}");
            }
            for late in count.saturating_sub(31).max(1)..count {
                assert_eq!(push(&mut mbap, &answer(late)), [Arrived::Late(rtu(&[1, 3, 2, 0, 7]))]);
            }
        }
    }

    #[test]
    fn an_answer_that_names_another_unit_that_is_asked_there_too_is_that_ones() {
        let mut mbap = Mbap::default();
        for unit in [200, 9] {
            let mut frame = rtu(&[unit, 3, 0, 0, 0, 1]);
            mbap.wrap(&mut frame);
        }
        for (named, taken, told) in [(200, 200, None), (9, 9, Some((9, 9))), (201, 9, Some((9, 201)))] {
            let answer = [0, 2, 0, 0, 0, 5, named, 3, 2, 0, 7];
            assert_eq!(push(&mut mbap, &answer), [Arrived::Answer(rtu(&[taken, 3, 2, 0, 7]))]);
            assert_eq!(mbap.take_named(), told);
        }
    }

    #[test]
    fn from_a_peer_that_copies_no_transaction_identifier_any_is_taken_and_the_unit_counts() {
        let mut mbap = Mbap::unnumbered();
        let mut request = rtu(&[9, 3, 0, 0, 0, 1]);
        mbap.wrap(&mut request);
        for (number, unit) in [(0, 9), (1, 9), (0xFFFF, 9), (0, 1)] {
            let answer = [0, number as u8, 0, 0, 0, 5, unit, 3, 2, 0, 7];
            assert_eq!(push(&mut mbap, &answer), [Arrived::Answer(rtu(&[unit, 3, 2, 0, 7]))]);
            assert_eq!(mbap.take_named(), None);
        }
    }

    #[test]
    fn what_is_no_header_is_dropped_until_the_next_request() {
        for wrong in [
            &[0, 1, 0, 1, 0, 5, 1, 3, 2, 0, 7][..],
            &[0, 1, 0, 0, 0, 1, 1],
            &[0, 1, 0, 0, 1, 0, 1],
            b"HTTP/1.1 400 Bad Request\r\n",
        ] {
            let mut mbap = Mbap::default();
            let mut request = rtu(&[1, 3, 0, 0, 0, 1]);
            mbap.wrap(&mut request);
            assert_eq!(push(&mut mbap, wrong), [], "{wrong:?}");
            assert!(mbap.noise() > 0 && mbap.unframed() > 0);
            let mut request = rtu(&[1, 3, 0, 0, 0, 1]);
            mbap.wrap(&mut request);
            assert_eq!(mbap.unframed(), 0);
            assert_eq!(push(&mut mbap, &[0, 2, 0, 0, 0, 5, 1, 3, 2, 0, 7]).len(), 1);
        }
    }
}
