//! Modbus ASCII: the same frames as hexadecimal digits, with an LRC in place of the CRC.
//!
//! ```text
//! ':' | address (2) | protocol data unit (2 each) | LRC (2) | CR LF
//! ```
//!
//! Some units leave out the CR, some the LF. So a frame ends with either; with CR only if its LRC
//! is right, and then an LF behind it belongs to it.
//!
//! The bus speaks RTU; here its requests become text, and answers bytes. A frame whose LRC is wrong
//! or that has other characters becomes one with a wrong CRC, so that the bus knows that an answer
//! came and was damaged.
//!
//! MODBUS over Serial Line V1.02 §2.5.2.

use super::super::checksum::Checksum;
use super::frame::{FRAME_MAX, crc16};

/// Longest frame in characters: colon, digits of all but the CRC and of the LRC, CR LF.
const CHARACTERS_MAX: usize = 1 + 2 * (FRAME_MAX - 1) + 2;

/// Turns frames into text and back.
#[derive(Debug, Default)]
pub struct Ascii {
    /// What came since the last colon, without it; `None`: no colon came.
    digits: Option<Vec<u8>>,
    /// The last character was the CR of a frame.
    is_ended: bool,
    noise: u64,
    /// That when the last request was made.
    noise_before: u64,
}

impl Ascii {
    /// Makes text of an RTU frame.
    pub fn wrap(&mut self, frame: &mut Vec<u8>) {
        let Some((body, _)) = frame.split_last_chunk::<2>() else { return };
        let mut body = body.to_vec();
        Checksum::SumNegated.append(&mut body, 0);
        let digit = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
        let digits = body.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
        *frame = std::iter::once(b':').chain(digits).chain(*b"\r\n").collect();
        // What came before is no answer to this.
        self.clear();
        self.noise_before = self.noise;
    }

    /// Takes characters in, and hands out whole frames as RTU.
    pub fn push(&mut self, bytes: &[u8], mut arrived: impl FnMut(&[u8])) {
        for byte in bytes {
            if std::mem::take(&mut self.is_ended) && *byte == b'\n' {
                continue;
            }
            match (byte, &mut self.digits) {
                (b':', digits) => {
                    self.noise += digits.take().map_or(0, |digits| digits.len() as u64 + 1);
                    self.digits = Some(Vec::new());
                }
                (_, None) => self.noise += 1,
                (b'\r', Some(digits)) if decode(digits).is_ok() => {
                    let digits = std::mem::take(digits);
                    (self.digits, self.is_ended) = (None, true);
                    if let Ok(frame) = decode(&digits) {
                        arrived(&frame);
                    }
                }
                // The CR before it is taken off with the digits.
                (b'\n', digits) => {
                    let digits = digits.take().unwrap_or_default();
                    match decode(&digits) {
                        Ok(frame) => arrived(&frame),
                        Err(damaged) => arrived(&damaged),
                    }
                }
                (_, Some(digits)) if digits.len() < CHARACTERS_MAX => digits.push(*byte),
                (_, Some(_)) => self.clear(),
            }
        }
    }

    /// Forgets what is not whole.
    pub fn clear(&mut self) {
        self.noise += self.digits.take().map_or(0, |digits| digits.len() as u64 + 1);
    }

    /// Characters that belonged to no frame.
    pub fn noise(&self) -> u64 {
        self.noise
    }

    /// Characters that came since the last request and belong to no whole frame.
    pub fn unframed(&self) -> usize {
        let held = self.digits.as_ref().map_or(0, |digits| digits.len() + 1);
        usize::try_from(self.noise - self.noise_before).unwrap_or(usize::MAX).saturating_add(held)
    }
}

/// The RTU frame; else one with a wrong CRC, at least four bytes long.
fn decode(digits: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut body = Vec::with_capacity(digits.len() / 2 + 2);
    let mut is_good = digits.len().is_multiple_of(2);
    for pair in digits.chunks_exact(2) {
        let byte = pair.first().and_then(digit).zip(pair.get(1).and_then(digit));
        is_good &= byte.is_some();
        let (high, low) = byte.unwrap_or_default();
        body.push(high << 4 | low);
    }
    match Checksum::SumNegated.strip(&body).filter(|body| is_good && body.len() >= 2) {
        Some(body) => Ok([body, &crc16(body).to_le_bytes()].concat()),
        None => {
            body.resize(body.len().max(4), 0);
            let wrong = !crc16(&body[..body.len() - 2]);
            let at = body.len() - 2;
            body[at..].copy_from_slice(&wrong.to_le_bytes());
            Err(body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rtu(body: &[u8]) -> Vec<u8> {
        [body, &crc16(body).to_le_bytes()].concat()
    }

    fn push(ascii: &mut Ascii, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        ascii.push(bytes, |frame| found.push(frame.to_vec()));
        found
    }

    #[test]
    fn a_request_becomes_the_text_of_the_specification_and_an_answer_bytes_wherever_it_is_cut() {
        let mut ascii = Ascii::default();
        // Modicon PI-MBUS-300 Rev. J, function 3: unit 17, registers 107 to 109.
        let mut request = rtu(&[0x11, 3, 0, 0x6B, 0, 3]);
        ascii.wrap(&mut request);
        assert_eq!(request, b":1103006B00037E\r\n");
        let answer = b":110306022B000000645 5\r\n".iter().filter(|byte| **byte != b' ').copied();
        let answer: Vec<u8> = answer.collect();
        let whole = rtu(&[0x11, 3, 6, 2, 0x2B, 0, 0, 0, 0x64]);
        for cut in 0..answer.len() - 1 {
            assert_eq!(push(&mut ascii, &answer[..cut]), [[0; 0]; 0]);
            assert_eq!(push(&mut ascii, &answer[cut..]), std::slice::from_ref(&whole));
        }
        let (last, others) = answer.split_last().unwrap();
        assert_eq!(push(&mut ascii, others), [whole]);
        assert_eq!(push(&mut ascii, &[*last]), [[0; 0]; 0]);
        assert_eq!((ascii.noise(), ascii.unframed()), (0, 0));
    }

    #[test]
    fn a_frame_that_ends_with_cr_or_lf_alone_is_whole_and_a_cr_within_one_does_not_end_it() {
        for end in [&b"\r"[..], b"\n", b"\r\n"] {
            let mut ascii = Ascii::default();
            for _ in 0..3 {
                let sent = [b":1103020007E3", end].concat();
                assert_eq!(push(&mut ascii, &sent), [rtu(&[0x11, 3, 2, 0, 7])], "{end:?}");
            }
            assert_eq!((ascii.noise(), ascii.unframed()), (0, 0), "{end:?}");
        }
        // Only the LF directly behind it belongs to it.
        let mut ascii = Ascii::default();
        assert_eq!(push(&mut ascii, b":1103020007E3\r:1103020007E3\r\n\n").len(), 2);
        assert_eq!(ascii.noise(), 1);
        let mut ascii = Ascii::default();
        let found = push(&mut ascii, b":1103\r020007E3\r\n");
        assert_eq!(found.len(), 1);
        assert_ne!(found[0], rtu(&[0x11, 3, 2, 0, 7]));
    }

    #[test]
    fn a_damaged_answer_is_one_with_a_wrong_crc_and_noise_is_counted() {
        for damaged in
            [&b":1103027\r\n"[..], b":11030200077E\r\n", b":1103x20007E3\r\n", b":\r\n", b":11\r\n"]
        {
            let mut ascii = Ascii::default();
            let found = push(&mut ascii, damaged);
            assert_eq!(found.len(), 1);
            let (body, crc) = found[0].split_last_chunk::<2>().unwrap();
            assert_ne!(crc16(body).to_le_bytes(), *crc);
        }
        let mut ascii = Ascii::default();
        assert_eq!(push(&mut ascii, b"noise\r\n:11:1103020007E3\r\n"), [rtu(&[0x11, 3, 2, 0, 7])]);
        assert_eq!(ascii.noise(), 10);
        assert_eq!(push(&mut ascii, &[b":".to_vec(), vec![b'1'; 2000]].concat()), [[0; 0]; 0]);
        assert!(ascii.digits.is_none());
    }

    proptest! {
        #[test]
        fn what_was_wrapped_comes_back(body in prop::collection::vec(any::<u8>(), 2..250)) {
            let mut ascii = Ascii::default();
            let mut frame = rtu(&body);
            ascii.wrap(&mut frame);
            prop_assert_eq!(push(&mut ascii, &frame), vec![rtu(&body)]);
        }
    }
}
