//! Checksums at the end of a serial frame.
//!
//! | name | width | polynomial, start, reflected, final XOR | on the wire | `"123456789"` |
//! |---|---|---|---|---|
//! | `crc16-modbus` | 2 | 8005, FFFF, yes, 0000 | low byte first | 4B37 |
//! | `crc16-ccitt` | 2 | 1021, FFFF, no, 0000 | high byte first | 29B1 |
//! | `crc32` | 4 | 04C11DB7, FFFFFFFF, yes, FFFFFFFF | low byte first | CBF43926 |
//! | `crc16-arc` | 2 | 8005, 0000, yes, 0000 | low byte first | BB3D |
//! | `crc16-xmodem` | 2 | 1021, 0000, no, 0000 | high byte first | 31C3 |
//! | `crc16-kermit` | 2 | 1021, 0000, yes, 0000 | low byte first | 2189 |
//! | `crc16-x25` | 2 | 1021, FFFF, yes, FFFF | low byte first | 906E |
//! | `xor` | 1 | all bytes XORed | | 31 |
//! | `sum` | 1 | all bytes added, modulo 256 | | DD |
//! | `sum-negated` | 1 | what makes that sum 0 | | 23 |
//! | `sum16` | 2 | all bytes added, modulo 65536 | high byte first | 01DD |
//! | `sum16-negated` | 2 | what makes that sum 0 | high byte first | FE23 |
//! | `linky` | 1 | the lowest six bits of that sum, plus 20 | | 3D |
//!
//! [`Placement`] says where in a frame it stands, and how, if not so.
//!
//! The `crc` crate calculates them. Resynchronisation tries a checksum at every byte: for that,
//! what is known up to each byte ([`Checksum::advance`]) gives the checksum of any part
//! ([`Checksum::between`]) in a time that does not depend on its length. A CRC is linear: so
//! many zeros behind a message change its register by a matrix over GF(2), and the register of
//! two messages XORed is that of both XORed.

use crc::{
    CRC_16_ARC, CRC_16_IBM_3740, CRC_16_IBM_SDLC, CRC_16_KERMIT, CRC_16_MODBUS, CRC_16_XMODEM,
    CRC_32_ISO_HDLC, Crc,
};

static MODBUS: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
static CCITT: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_3740);
static ARC: Crc<u16> = Crc::<u16>::new(&CRC_16_ARC);
static XMODEM: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
static KERMIT: Crc<u16> = Crc::<u16>::new(&CRC_16_KERMIT);
static X25: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_SDLC);
static ISO_HDLC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Columns of a matrix over GF(2).
type Matrix = [u32; 32];

/// A CRC as a linear function. A reflected register stands at the right, another one at the
/// left.
struct Linear {
    table: [u32; 256],
    /// What 1, 2, 4, … 32768 zeros do to the register.
    zeros: [Matrix; POWERS],
    first: u32,
    last: u32,
    is_reflected: bool,
    /// Bits of the register that are not used, at the right.
    unused: u32,
}

/// Matrices for up to 65535 zeros.
const POWERS: usize = 16;

static LINEAR_MODBUS: Linear = Linear::short(&CRC_16_MODBUS);
static LINEAR_CCITT: Linear = Linear::short(&CRC_16_IBM_3740);
static LINEAR_ARC: Linear = Linear::short(&CRC_16_ARC);
static LINEAR_XMODEM: Linear = Linear::short(&CRC_16_XMODEM);
static LINEAR_KERMIT: Linear = Linear::short(&CRC_16_KERMIT);
static LINEAR_X25: Linear = Linear::short(&CRC_16_IBM_SDLC);
static LINEAR_ISO_HDLC: Linear = {
    let of = &CRC_32_ISO_HDLC;
    Linear::new(of.poly.reverse_bits(), of.init.reverse_bits(), of.xorout, true, 0)
};

impl Linear {
    const fn short(of: &crc::Algorithm<u16>) -> Linear {
        let (init, last) = (of.init, of.xorout as u32);
        match of.refin {
            true => Linear::new(of.poly.reverse_bits() as u32, init.reverse_bits() as u32, last, true, 0),
            false => Linear::new((of.poly as u32) << 16, (init as u32) << 16, last, false, 16),
        }
    }

    const fn new(poly: u32, first: u32, last: u32, is_reflected: bool, unused: u32) -> Linear {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut register = if is_reflected { byte as u32 } else { (byte as u32) << 24 };
            let mut bit = 0;
            while bit < 8 {
                let (out, moved) = match is_reflected {
                    true => (register & 1, register >> 1),
                    false => (register >> 31, register << 1),
                };
                register = if out == 1 { moved ^ poly } else { moved };
                bit += 1;
            }
            table[byte] = register;
            byte += 1;
        }
        let mut zeros = [[0; 32]; POWERS];
        let mut bit = 0;
        while bit < 32 {
            zeros[0][bit] = step(&table, is_reflected, 1 << bit, 0);
            bit += 1;
        }
        let mut power = 1;
        while power < POWERS {
            let mut bit = 0;
            while bit < 32 {
                zeros[power][bit] = times(&zeros[power - 1], zeros[power - 1][bit]);
                bit += 1;
            }
            power += 1;
        }
        Linear { table, zeros, first, last, is_reflected, unused }
    }

    /// The checksum of what leads to this register.
    fn value(&self, register: u32) -> u32 {
        register >> self.unused ^ self.last
    }

    /// The register behind so many zeros.
    fn shift(&self, mut register: u32, zeros: usize) -> u32 {
        for (power, matrix) in self.zeros.iter().enumerate() {
            if zeros >> power & 1 == 1 {
                register = times(matrix, register);
            }
        }
        // Longer than any frame.
        for _ in 0..zeros >> POWERS {
            register = times(&self.zeros[POWERS - 1], times(&self.zeros[POWERS - 1], register));
        }
        register
    }
}

const fn step(table: &[u32; 256], is_reflected: bool, register: u32, byte: u8) -> u32 {
    match is_reflected {
        true => register >> 8 ^ table[((register ^ byte as u32) & 0xFF) as usize],
        false => register << 8 ^ table[(register >> 24 ^ byte as u32) as usize],
    }
}

const fn times(matrix: &Matrix, register: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < 32 {
        sum ^= matrix[bit] & (register >> bit & 1).wrapping_neg();
        bit += 1;
    }
    sum
}

/// The checksum at the end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-16/MODBUS.
    Crc16Modbus,
    /// CRC-16/CCITT as used by most devices (CRC-16/IBM-3740, also called CCITT-FALSE).
    Crc16Ccitt,
    /// CRC-32/ISO-HDLC, as in Ethernet and zip.
    Crc32,
    /// CRC-16/ARC, also called IBM or LHA; that of P1 telegrams.
    Crc16Arc,
    /// CRC-16/XMODEM.
    Crc16Xmodem,
    /// CRC-16/KERMIT, the CCITT one of the catalogue.
    Crc16Kermit,
    /// CRC-16/IBM-SDLC, also called X-25; that of HDLC and SML.
    Crc16X25,
    /// All bytes XORed.
    Xor,
    /// All bytes added, modulo 256.
    Sum,
    /// What is to be added for that sum to be 0.
    SumNegated,
    /// All bytes added, modulo 65536.
    Sum16,
    /// What is to be added for that sum to be 0: the two's complement of it, as in JBD batteries.
    Sum16Negated,
    /// The lowest six bits of the sum, plus 0x20, which is a printable character: the information
    /// groups of French meters (Enedis-NOI-CPT_54E §5.3.6, §6.2.3).
    Linky,
}

/// Where the checksum of a frame stands, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Whether the low byte comes first; `None`: as that checksum is sent usually.
    pub low_first: Option<bool>,
    /// As hexadecimal digits, two a byte, in either case.
    pub is_text: bool,
    /// Bytes at the beginning of the frame that it does not cover.
    pub from: usize,
    /// Bytes before it that it does not cover, and that are not part of the payload: the `*` of
    /// NMEA; `0..=8`.
    pub apart: usize,
    /// Bytes behind it, at the end of the frame, that it does not cover, and that are not part of
    /// the payload: the `AB` of an SDS011, the `16` of M-Bus.
    pub tail: usize,
    /// What these bytes are in a frame that is written, the first `apart` of them. A frame that
    /// is read may have any.
    pub mark: Option<[u8; 8]>,
}

impl Placement {
    /// Bytes at the end of a frame that are not payload.
    pub fn width(&self, checksum: Checksum) -> usize {
        self.apart + self.sent(checksum) + self.tail
    }

    /// Bytes of the checksum as it is sent.
    fn sent(&self, checksum: Checksum) -> usize {
        checksum.width() * if self.is_text { 2 } else { 1 }
    }

    /// Whether every rotation of a frame with a right checksum has a right one: the end of a
    /// message and the begin of an equal one then pass for a message.
    pub fn is_cyclic(&self, checksum: Checksum) -> bool {
        let is_all = !self.is_text && (self.from, self.apart, self.tail) == (0, 0, 0);
        is_all && matches!(checksum, Checksum::Xor | Checksum::SumNegated)
    }

    /// Whether a frame with a right checksum that begins with a zero has one without it, if a
    /// zero follows: of a CRC whose register begins with 0 and is sent as it is, that over message
    /// and CRC is 0, so a zero in front or behind changes nothing.
    pub fn hides_zeros(&self, checksum: Checksum) -> bool {
        [0x01, 0x35, 0xFE].into_iter().all(|byte| {
            let mut frame = vec![0; self.from + 1];
            frame.extend([byte, 0x17]);
            self.append(checksum, &mut frame);
            frame.remove(0);
            frame.push(0);
            self.strip(checksum, &frame).is_some()
        })
    }

    /// Whether two frames with right checksums, one behind the other, have a right one: that over a
    /// frame and its checksum is 0, and nothing of a frame is left out.
    pub fn joins(&self, checksum: Checksum) -> bool {
        let frame = |payload: &[u8]| {
            let mut frame = payload.to_vec();
            self.append(checksum, &mut frame);
            frame
        };
        let payloads: [&[u8]; 3] = [&[0x01, 0x35, 0xFE, 0x17, 0x4A], &[0x92, 0x06, 0x6B], &[0xC7; 9]];
        let is_whole = (self.from, self.apart, self.tail) == (0, 0, 0);
        is_whole
            && payloads.iter().all(|first| {
                payloads.iter().all(|second| {
                    let joined = [frame(first), frame(second)].concat();
                    self.strip(checksum, &joined).is_some()
                })
            })
    }

    /// The lengths at which the begin of `bytes` is a frame whose checksum is right. Each byte is
    /// looked at once.
    pub fn ends(&self, checksum: Checksum, bytes: &[u8]) -> Vec<usize> {
        let width = self.width(checksum);
        let nothing = checksum.linear().map_or(0, |linear| linear.first);
        let mut register = nothing;
        let mut ends = Vec::new();
        for length in self.from..=bytes.len().saturating_sub(width) {
            if length > self.from
                && let Some(byte) = bytes.get(length - 1)
            {
                register = checksum.advance(register, *byte);
            }
            let given = bytes.get(length..length + width).and_then(|end| self.given(checksum, end));
            if given == Some(checksum.of_known(register)) {
                ends.push(length + width);
            }
        }
        ends
    }

    fn is_low_first(&self, checksum: Checksum) -> bool {
        self.low_first.unwrap_or(!checksum.is_high_first())
    }

    /// Puts the checksum behind a frame that has no other. Bytes apart are the mark, or zero; those
    /// behind it are zero.
    pub fn append(&self, checksum: Checksum, frame: &mut Vec<u8>) {
        let value = checksum.of(frame.get(self.from..).unwrap_or_default());
        let mut bytes = value.to_be_bytes()[4 - checksum.width()..].to_vec();
        if self.is_low_first(checksum) {
            bytes.reverse();
        }
        let mark = self.mark.unwrap_or_default();
        frame.extend((0..self.apart).map(|at| mark.get(at).copied().unwrap_or(0)));
        if self.is_text {
            let digit = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
            bytes = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        }
        frame.extend_from_slice(&bytes);
        frame.resize(frame.len() + self.tail, 0);
    }

    /// The frame without its checksum; `None` where that is wrong or there is no room for it.
    pub fn strip<'f>(&self, checksum: Checksum, frame: &'f [u8]) -> Option<&'f [u8]> {
        self.strip_by(checksum, frame, |covered| Some(checksum.of(frame.get(covered)?)))
    }

    /// The same where the checksum of any part of the frame is known.
    pub fn strip_by<'f>(
        &self,
        checksum: Checksum,
        frame: &'f [u8],
        of: impl FnOnce(std::ops::Range<usize>) -> Option<u32>,
    ) -> Option<&'f [u8]> {
        let (payload, end) = frame.split_at_checked(frame.len().checked_sub(self.width(checksum))?)?;
        let value = self.given(checksum, end)?;
        // Shorter than what it does not cover.
        payload.get(self.from..)?;
        (Some(value) == of(self.from..payload.len())).then_some(payload)
    }

    /// The checksum that stands there, behind the bytes apart.
    fn given(&self, checksum: Checksum, end: &[u8]) -> Option<u32> {
        let mut given = [0; 4];
        let given = given.get_mut(..checksum.width())?;
        let sent = end.get(self.apart..)?.get(..self.sent(checksum))?;
        if self.is_text {
            for (byte, pair) in given.iter_mut().zip(sent.chunks_exact(2)) {
                let digit = |digit: u8| char::from(digit).to_digit(16);
                *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
            }
        } else {
            given.copy_from_slice(sent);
        }
        if self.is_low_first(checksum) {
            given.reverse();
        }
        Some(given.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }
}

impl Checksum {
    fn linear(self) -> Option<&'static Linear> {
        Some(match self {
            Checksum::Crc16Modbus => &LINEAR_MODBUS,
            Checksum::Crc16Ccitt => &LINEAR_CCITT,
            Checksum::Crc16Arc => &LINEAR_ARC,
            Checksum::Crc16Xmodem => &LINEAR_XMODEM,
            Checksum::Crc16Kermit => &LINEAR_KERMIT,
            Checksum::Crc16X25 => &LINEAR_X25,
            Checksum::Crc32 => &LINEAR_ISO_HDLC,
            Checksum::Xor
            | Checksum::Sum
            | Checksum::SumNegated
            | Checksum::Sum16
            | Checksum::Sum16Negated
            | Checksum::Linky => return None,
        })
    }

    /// What is known of bytes, the last of which is `byte`, from that of those before it; 0 of
    /// none.
    pub fn advance(self, known: u32, byte: u8) -> u32 {
        match self.linear() {
            Some(linear) => step(&linear.table, linear.is_reflected, known, byte),
            None if self == Checksum::Xor => known ^ u32::from(byte),
            None => known.wrapping_add(u32::from(byte)),
        }
    }

    /// The checksum of the last `length` bytes, from what is known of those before and of all.
    pub fn between(self, before: u32, all: u32, length: usize) -> u32 {
        match self.linear() {
            Some(linear) => self.of_known(all ^ linear.shift(before ^ linear.first, length)),
            None if self == Checksum::Xor => all ^ before,
            None => self.of_known(all.wrapping_sub(before)),
        }
    }

    /// The checksum of bytes of which this is known.
    fn of_known(self, known: u32) -> u32 {
        match (self.linear(), self) {
            (Some(linear), _) => linear.value(known),
            (None, Checksum::Linky) => (known & 0x3F) + 0x20,
            (None, Checksum::SumNegated) => known.wrapping_neg() & 0xFF,
            (None, Checksum::Sum16) => known & 0xFFFF,
            (None, Checksum::Sum16Negated) => known.wrapping_neg() & 0xFFFF,
            (None, _) => known & 0xFF,
        }
    }

    /// Whether it is a cyclic redundancy check, all of which have 16 bits or more.
    pub fn is_crc(self) -> bool {
        self.linear().is_some()
    }

    /// Its width in bytes, `1..=4`.
    pub fn width(self) -> usize {
        match self {
            Checksum::Crc16Modbus
            | Checksum::Crc16Ccitt
            | Checksum::Crc16Arc
            | Checksum::Crc16Xmodem
            | Checksum::Crc16Kermit
            | Checksum::Crc16X25
            | Checksum::Sum16
            | Checksum::Sum16Negated => 2,
            Checksum::Crc32 => 4,
            Checksum::Xor | Checksum::Sum | Checksum::SumNegated | Checksum::Linky => 1,
        }
    }

    /// Whether it is sent with its high byte first usually.
    fn is_high_first(self) -> bool {
        matches!(
            self,
            Checksum::Crc16Ccitt | Checksum::Crc16Xmodem | Checksum::Sum16 | Checksum::Sum16Negated
        )
    }

    /// Its value over `bytes`.
    pub fn of(self, bytes: &[u8]) -> u32 {
        match self {
            Checksum::Crc16Modbus => MODBUS.checksum(bytes).into(),
            Checksum::Crc16Ccitt => CCITT.checksum(bytes).into(),
            Checksum::Crc16Arc => ARC.checksum(bytes).into(),
            Checksum::Crc16Xmodem => XMODEM.checksum(bytes).into(),
            Checksum::Crc16Kermit => KERMIT.checksum(bytes).into(),
            Checksum::Crc16X25 => X25.checksum(bytes).into(),
            Checksum::Crc32 => ISO_HDLC.checksum(bytes),
            Checksum::Xor => u32::from(bytes.iter().fold(0, |sum, byte| sum ^ byte)),
            Checksum::Sum => u32::from(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte))),
            Checksum::Linky => (Checksum::Sum.of(bytes) & 0x3F) + 0x20,
            Checksum::SumNegated => u32::from(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))),
            Checksum::Sum16 => {
                u32::from(bytes.iter().fold(0_u16, |sum, byte| sum.wrapping_add(u16::from(*byte))))
            }
            Checksum::Sum16Negated => Checksum::Sum16.of(bytes).wrapping_neg() & 0xFFFF,
        }
    }

    /// Appends the checksum of `frame[start..]` to `frame`.
    pub fn append(self, frame: &mut Vec<u8>, start: usize) {
        let value = self.of(frame.get(start..).unwrap_or_default());
        let width = self.width();
        if self.is_high_first() {
            frame.extend_from_slice(&value.to_be_bytes()[4 - width..]);
        } else {
            frame.extend_from_slice(&value.to_le_bytes()[..width]);
        }
    }

    /// The frame without its checksum; `None` if the checksum is wrong or the frame is too short.
    pub fn strip(self, frame: &[u8]) -> Option<&[u8]> {
        let (payload, given) = frame.split_at_checked(frame.len().checked_sub(self.width())?)?;
        let value = if self.is_high_first() {
            given.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
        } else {
            given.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
        };
        (value == self.of(payload)).then_some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Checksum; 12] = [
        Checksum::Crc16Modbus,
        Checksum::Crc16Ccitt,
        Checksum::Crc32,
        Checksum::Xor,
        Checksum::Sum,
        Checksum::Crc16Arc,
        Checksum::Crc16Xmodem,
        Checksum::Crc16Kermit,
        Checksum::Crc16X25,
        Checksum::SumNegated,
        Checksum::Sum16,
        Checksum::Sum16Negated,
    ];

    #[test]
    fn the_check_values_of_the_catalogue_hold() {
        let found = ALL.map(|checksum| checksum.of(b"123456789"));
        assert_eq!(
            found,
            [0x4B37, 0x29B1, 0xCBF4_3926, 0x31, 0xDD, 0xBB3D, 0x31C3, 0x2189, 0x906E, 0x23, 0x01DD, 0xFE23]
        );
    }

    #[test]
    fn bytes_stand_on_the_wire_as_devices_send_them() {
        // A Modbus request from the specification: read one holding register of unit 1.
        let mut frame = vec![0x01, 0x03, 0x00, 0x00, 0x00, 0x01];
        Checksum::Crc16Modbus.append(&mut frame, 0);
        assert_eq!(frame[6..], [0x84, 0x0A]);
        let mut frame = b"123456789".to_vec();
        Checksum::Crc16Ccitt.append(&mut frame, 0);
        assert_eq!(frame[9..], [0x29, 0xB1]);
    }

    #[test]
    fn a_frame_too_short_for_its_checksum_is_wrong() {
        for checksum in ALL {
            for length in 0..checksum.width() {
                assert_eq!(checksum.strip(&vec![0; length]), None);
            }
        }
    }

    #[test]
    fn a_checksum_in_hexadecimal_behind_a_byte_of_its_own_is_that_of_nmea() {
        let nmea = Placement { is_text: true, apart: 1, ..Placement::default() };
        let body = &b"GPGLL,5300.97914,N,00259.98174,E,125926,A*28"[..];
        assert_eq!(nmea.strip(Checksum::Xor, body), Some(&body[..41]));
        assert_eq!(nmea.strip(Checksum::Xor, b"GPGLL,5300.97914,N,00259.98174,E,125926,A*29"), None);
        assert_eq!(nmea.strip(Checksum::Xor, b"GPGLL,5300.97914,N,00259.98174,E,125926,A*2"), None);
        let lower = Placement { is_text: true, ..Placement::default() };
        assert_eq!(lower.strip(Checksum::Crc16Xmodem, b"12345678931c3"), Some(&b"123456789"[..]));
        assert_eq!(lower.strip(Checksum::Crc16Xmodem, b"12345678931x3"), None);
    }

    #[test]
    fn of_joined_frames_the_checksums_are_right_that_are_zero_over_a_frame() {
        let joins = |placement: Placement| -> Vec<Checksum> {
            ALL.into_iter().filter(|checksum| placement.joins(*checksum)).collect()
        };
        let expected = [
            Checksum::Xor,
            Checksum::Crc16Arc,
            Checksum::Crc16Xmodem,
            Checksum::Crc16Kermit,
            Checksum::SumNegated,
        ];
        assert_eq!(joins(Placement::default()), expected);
        assert_eq!(joins(Placement { is_text: true, ..Placement::default() }), []);
        assert_eq!(joins(Placement { tail: 1, ..Placement::default() }), [Checksum::Xor; 0]);
    }

    #[test]
    fn a_checksum_before_the_last_bytes_covers_what_is_before_it() {
        let placement = Placement { from: 2, tail: 1, ..Placement::default() };
        // The example of the SDS011's data sheet.
        let frame = b"\xAA\xC0\xD4\x04\x3A\x0A\xA1\x60\x1D\xAB";
        assert_eq!(placement.strip(Checksum::Sum, frame), Some(&frame[..8]));
        assert_eq!(placement.width(Checksum::Sum), 2);
        for at in 2..9 {
            let mut damaged = *frame;
            damaged[at] ^= 1;
            assert_eq!(placement.strip(Checksum::Sum, &damaged), None, "{at}");
        }
        for length in 0..3 {
            assert_eq!(placement.strip(Checksum::Sum, &frame[..length]), None);
        }
        // What is behind it is no part of any rotation.
        assert!(!Placement { tail: 1, ..Placement::default() }.is_cyclic(Checksum::Xor));
    }

    #[test]
    fn a_written_frame_has_the_byte_before_the_checksum_that_its_device_expects() {
        let mark = Some([b'*', 0, 0, 0, 0, 0, 0, 0]);
        let nmea = Placement { is_text: true, apart: 1, mark, ..Placement::default() };
        let mut frame = b"PMTK220,1000".to_vec();
        nmea.append(Checksum::Xor, &mut frame);
        assert_eq!(frame, b"PMTK220,1000*1F");
    }

    #[test]
    fn the_ends_of_frames_are_where_the_checksum_of_what_is_before_is_right() {
        for checksum in ALL {
            for (low_first, is_text, from, apart, tail) in
                [(None, false, 0, 0, 0), (Some(true), false, 2, 0, 1), (Some(false), true, 1, 2, 0)]
            {
                let placement = Placement { low_first, is_text, from, apart, tail, mark: None };
                let mut frame = b"123456789".to_vec();
                placement.append(checksum, &mut frame);
                let length = frame.len();
                frame.extend_from_slice(b"and more");
                let expected: Vec<usize> = (0..=frame.len())
                    .filter(|end| placement.strip(checksum, &frame[..*end]).is_some())
                    .collect();
                let ends = placement.ends(checksum, &frame);
                assert!(ends == expected && ends.contains(&length), "{checksum:?} {placement:?}");
            }
        }
    }

    #[test]
    fn a_checksum_covers_from_where_it_is_told_and_stands_in_either_order() {
        for checksum in ALL {
            for low_first in [None, Some(false), Some(true)] {
                for (is_text, from, apart, tail) in
                    [(false, 0, 0, 0), (true, 2, 0, 1), (false, 1, 2, 0), (false, 0, 0, 8)]
                {
                    let placement = Placement { low_first, is_text, from, apart, tail, mark: None };
                    let mut frame = b"123456789".to_vec();
                    placement.append(checksum, &mut frame);
                    assert_eq!(placement.strip(checksum, &frame), Some(&b"123456789"[..]));
                    assert_eq!(frame.len(), 9 + placement.width(checksum));
                    for length in 0..placement.width(checksum) + from {
                        assert_eq!(placement.strip(checksum, &vec![0xFF; length]), None);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_appended_is_stripped_again(bytes: Vec<u8>, which in 0..12_usize) {
            let mut frame = bytes.clone();
            ALL[which].append(&mut frame, 0);
            prop_assert_eq!(ALL[which].strip(&frame), Some(&bytes[..]));
        }

        #[test]
        fn one_changed_bit_is_noticed(bytes: Vec<u8>, which in 0..12_usize, at: prop::sample::Index, bit in 0..8) {
            let mut frame = bytes;
            ALL[which].append(&mut frame, 0);
            let at = at.index(frame.len());
            frame[at] ^= 1_u8 << bit;
            prop_assert_eq!(ALL[which].strip(&frame), None);
        }
    }
}
