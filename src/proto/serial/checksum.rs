//! Checksums at the end of a serial frame.
//!
//! | name | width | polynomial, start, reflected, final XOR | on the wire | `"123456789"` |
//! |---|---|---|---|---|
//! | `crc16-modbus` | 2 | 8005, FFFF, yes, 0000 | low byte first | 4B37 |
//! | `crc16-ccitt` | 2 | 1021, FFFF, no, 0000 | high byte first | 29B1 |
//! | `crc32` | 4 | 04C11DB7, FFFFFFFF, yes, FFFFFFFF | low byte first | CBF43926 |
//! | `xor` | 1 | all bytes XORed | | 31 |
//! | `sum` | 1 | all bytes added, modulo 256 | | DD |
//!
//! It uses one table look-up per byte, because resynchronisation may check the same bytes many
//! times.

use crc::{CRC_16_IBM_3740, CRC_16_MODBUS, CRC_32_ISO_HDLC, Crc};

const MODBUS: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
const CCITT: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_3740);
const ISO_HDLC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// The checksum at the end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-16/MODBUS.
    Crc16Modbus,
    /// CRC-16/CCITT as used by most devices (CRC-16/IBM-3740, also called CCITT-FALSE).
    Crc16Ccitt,
    /// CRC-32/ISO-HDLC, as in Ethernet and zip.
    Crc32,
    /// All bytes XORed.
    Xor,
    /// All bytes added, modulo 256.
    Sum,
}

impl Checksum {
    /// Its width in bytes, `1..=4`.
    pub fn width(self) -> usize {
        match self {
            Checksum::Crc16Modbus | Checksum::Crc16Ccitt => 2,
            Checksum::Crc32 => 4,
            Checksum::Xor | Checksum::Sum => 1,
        }
    }

    /// The checksum of `bytes`.
    pub fn of(self, bytes: &[u8]) -> u32 {
        match self {
            Checksum::Crc16Modbus => MODBUS.checksum(bytes).into(),
            Checksum::Crc16Ccitt => CCITT.checksum(bytes).into(),
            Checksum::Crc32 => ISO_HDLC.checksum(bytes),
            Checksum::Xor => u32::from(bytes.iter().fold(0, |sum, byte| sum ^ byte)),
            Checksum::Sum => u32::from(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte))),
        }
    }

    /// Appends the checksum of `frame[start..]` to `frame`.
    pub fn append(self, frame: &mut Vec<u8>, start: usize) {
        let value = self.of(frame.get(start..).unwrap_or_default());
        let width = self.width();
        if self == Checksum::Crc16Ccitt {
            frame.extend_from_slice(&value.to_be_bytes()[4 - width..]);
        } else {
            frame.extend_from_slice(&value.to_le_bytes()[..width]);
        }
    }

    /// The frame without its checksum; `None` if the checksum is wrong or the frame is too short.
    pub fn strip(self, frame: &[u8]) -> Option<&[u8]> {
        let (payload, given) = frame.split_at_checked(frame.len().checked_sub(self.width())?)?;
        let value = if self == Checksum::Crc16Ccitt {
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

    const ALL: [Checksum; 5] =
        [Checksum::Crc16Modbus, Checksum::Crc16Ccitt, Checksum::Crc32, Checksum::Xor, Checksum::Sum];

    #[test]
    fn the_check_values_of_the_catalogue_hold() {
        let found = ALL.map(|checksum| checksum.of(b"123456789"));
        assert_eq!(found, [0x4B37, 0x29B1, 0xCBF4_3926, 0x31, 0xDD]);
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

    proptest! {
        #[test]
        fn what_was_appended_is_stripped_again(bytes: Vec<u8>, which in 0..5_usize) {
            let mut frame = bytes.clone();
            ALL[which].append(&mut frame, 0);
            prop_assert_eq!(ALL[which].strip(&frame), Some(&bytes[..]));
        }

        #[test]
        fn one_changed_bit_is_noticed(bytes: Vec<u8>, which in 0..5_usize, at: prop::sample::Index, bit in 0..8) {
            let mut frame = bytes;
            ALL[which].append(&mut frame, 0);
            let at = at.index(frame.len());
            frame[at] ^= 1_u8 << bit;
            prop_assert_eq!(ALL[which].strip(&frame), None);
        }
    }
}
