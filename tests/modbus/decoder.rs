//! Frames: the checksum, the times of the line, and the search for an answer, exhaustively in the
//! small.

use std::time::Duration;

use proptest::prelude::*;
use tombolo::proto::serial::modbus::frame::{FRAME_MAX, Found, Receiver, Speed, crc16, encode};
use tombolo::proto::serial::modbus::pdu::{Answer, Exception, Request, Table};

use crate::support::{answer, frame};

#[test]
fn the_checksum_is_that_of_the_catalogue_and_the_specification() {
    assert_eq!(crc16(b"123456789"), 0x4B37);
    // MODBUS over Serial Line V1.02, appendix B: 02 07 gives 41 12 on the wire.
    assert_eq!(crc16(&[0x02, 0x07]).to_le_bytes(), [0x41, 0x12]);
    assert_eq!(crc16(&[]), 0xFFFF);
}

#[test]
fn the_silence_is_three_and_a_half_characters_and_fixed_above_19200_baud() {
    let gap = |baud, bits| Speed { baud, bits }.gap();
    assert_eq!(gap(9600, 11), Duration::from_nanos(4_010_416));
    assert_eq!(gap(1200, 11), Duration::from_nanos(32_083_333));
    assert_eq!(gap(19200, 11), Duration::from_nanos(2_005_208));
    assert_eq!(gap(19201, 11), Duration::from_micros(1750));
    assert_eq!(gap(115_200, 10), Duration::from_micros(1750));
    assert_eq!(Speed { baud: 0, bits: 11 }.characters(1), Duration::from_secs(11));
}

#[test]
fn a_frame_is_written_as_other_masters_write_it() {
    let mut out = vec![1, 2, 3];
    encode(0x11, &Request::read(Table::Holding, 0x6B, 3).unwrap(), &mut out);
    assert_eq!(out, [0x11, 3, 0, 0x6B, 0, 3, 0x76, 0x87]);
    encode(17, &Request::write_registers(0, &[0; 123]).unwrap(), &mut out);
    assert_eq!(out.len(), FRAME_MAX - 1);
}

fn data<'r>(found: Found<'r>) -> Option<&'r [u8]> {
    match found {
        Found::Answer(Answer::Data(data)) => Some(data),
        _ => None,
    }
}

#[test]
fn a_damaged_answer_is_refused_whichever_bits_were_turned() {
    let request = Request::read(Table::Holding, 0, 2).unwrap();
    let good = frame(&[1, 3, 4, 0, 1, 0, 2]);
    let bits = good.len() * 8;
    let turned = |bits: &[usize]| {
        let mut bytes = good.clone();
        bits.iter().for_each(|bit| bytes[bit / 8] ^= 1 << (bit % 8));
        bytes
    };
    // One, two and three turned bits, all of them; bursts up to sixteen.
    let mut tried = 0;
    let mut check = |bytes: &[u8]| {
        let mut receiver = Receiver::default();
        receiver.push(bytes);
        assert!(matches!(receiver.answer(1, &request, true, |_| ()), Found::Nothing { .. }), "{bytes:?}");
        tried += 1;
    };
    for a in 0..bits {
        check(&turned(&[a]));
        for b in 0..a {
            check(&turned(&[a, b]));
            (0..b).for_each(|c| check(&turned(&[a, b, c])));
        }
    }
    for length in 2..=16 {
        for start in 0..=bits - length {
            for inner in [0u32, 0x5555, 0xFFFF, 0x1234] {
                let mut burst = vec![start, start + length - 1];
                burst.extend((1..length - 1).filter(|at| inner >> at & 1 == 1).map(|at| start + at));
                check(&turned(&burst));
            }
        }
    }
    assert!(tried > 60_000);
}

#[test]
fn a_part_of_an_answer_is_waited_for_and_one_too_many_bytes_do_no_harm() {
    let request = Request::read(Table::Input, 7, 3).unwrap();
    let good = frame(&[9, 4, 6, 0, 7, 0, 8, 0, 9]);
    for end in 0..good.len() {
        let mut receiver = Receiver::default();
        receiver.push(&good[..end]);
        assert_eq!(receiver.answer(9, &request, false, |_| ()), Found::Nothing { complete: false }, "{end}");
        receiver.push(&good[end..]);
        receiver.push(&[0x55]);
        assert_eq!(data(receiver.answer(9, &request, false, |_| ())), Some(&good[3..9]));
    }
}

#[test]
fn exceptions_are_recognised_for_every_function_and_code() {
    for table in [Table::Coil, Table::Discrete, Table::Holding, Table::Input] {
        for code in 0..=255 {
            let request = Request::read(table, 0, 1).unwrap();
            let mut receiver = Receiver::default();
            receiver.push(&frame(&[1, table.function() | 0x80, code]));
            let found = receiver.answer(1, &request, false, |_| ());
            assert_eq!(found, Found::Answer(Answer::Exception(Exception(code))));
        }
    }
}

#[test]
fn a_frame_of_another_is_stepped_over_whole_and_told_once() {
    let request = Request::read(Table::Holding, 0, 1).unwrap();
    let mine = frame(&[1, 3, 2, 0, 5]);
    // Another unit's answer that holds, as its data, a frame just like the one waited for.
    let other = frame(&[&[2, 3, mine.len() as u8 + 1][..], &frame(&[1, 3, 2, 0xBA, 0xD0]), &[0]].concat());
    let mut told = Vec::new();
    let mut receiver = Receiver::default();
    receiver.push(&other);
    for _ in 0..3 {
        assert!(data(receiver.answer(1, &request, false, |frame| told.push(frame.unit))).is_none());
    }
    receiver.push(&mine);
    assert_eq!(data(receiver.answer(1, &request, false, |frame| told.push(frame.unit))), Some(&[0, 5][..]));
    assert_eq!(told, [2]);
}

#[test]
fn a_write_is_answered_by_its_own_address_and_value_only() {
    let write = Request::write_registers(7, &[1, 2]).unwrap();
    for (body, right) in
        [([1, 16, 0, 7, 0, 2], true), ([1, 16, 0, 8, 0, 2], false), ([1, 16, 0, 7, 0, 3], false)]
    {
        let mut receiver = Receiver::default();
        receiver.push(&frame(&body));
        let found = receiver.answer(1, &write, false, |_| ());
        assert_eq!(found == Found::Answer(Answer::Done), right, "{body:?}");
    }
}

#[test]
fn an_echo_is_taken_off_once_it_is_whole() {
    let mut sent = Vec::new();
    encode(1, &Request::write_register(3, 9), &mut sent);
    let mut receiver = Receiver::default();
    receiver.push(&sent[..5]);
    assert_eq!(receiver.strip_echo(&sent), None);
    receiver.push(&sent[5..]);
    receiver.push(&sent);
    assert_eq!(receiver.strip_echo(&sent), Some(true));
    let found = receiver.answer(1, &Request::write_register(3, 9), false, |_| ());
    assert_eq!(found, Found::Answer(Answer::Done));
    receiver.clear();
    receiver.push(&[1, 6, 0, 4]);
    assert_eq!(receiver.strip_echo(&sent), Some(false));
}

#[test]
fn what_looked_like_a_beginning_is_given_up_when_nothing_more_comes() {
    let request = Request::read(Table::Holding, 0, 4).unwrap();
    let mut receiver = Receiver::default();
    // The beginning of an answer of 13 bytes, then an exception, which is 5 bytes long.
    receiver.push(&[&[1, 3, 8][..], &frame(&[1, 0x83, 4])].concat());
    assert_eq!(receiver.answer(1, &request, false, |_| ()), Found::Nothing { complete: false });
    let found = receiver.answer(1, &request, true, |_| ());
    assert_eq!(found, Found::Answer(Answer::Exception(Exception(4))));
    receiver.clear();
    assert_eq!(receiver.noise(), 3);
}

#[test]
fn noise_is_counted_byte_by_byte_and_kept_within_bounds() {
    let request = Request::read(Table::Holding, 0, 1).unwrap();
    let mut receiver = Receiver::default();
    for _ in 0..1_000 {
        receiver.push(&[0x55; 10]);
        receiver.answer(1, &request, false, |_| ());
    }
    receiver.push(&frame(&[1, 3, 2, 0, 7]));
    assert_eq!(data(receiver.answer(1, &request, false, |_| ())), Some(&[0, 7][..]));
    assert!(receiver.noise() >= 9_600, "{}", receiver.noise());
    receiver.clear();
    assert_eq!(receiver.noise(), 10_000);
}

proptest! {
    /// An answer is found after any noise, however it is cut, and read as it was written.
    #[test]
    fn every_answer_comes_through(
        unit in 1u8..=247, table in 0usize..4, address in 0u16..60_000, quantity in 1u16..=125,
        noise in proptest::collection::vec(any::<u8>(), 0..40), cut in 1usize..64,
    ) {
        let table = [Table::Coil, Table::Discrete, Table::Holding, Table::Input][table];
        let request = Request::read(table, address, quantity).unwrap();
        let mut sent = Vec::new();
        encode(unit, &request, &mut sent);
        let answer = answer(&sent[..6]);
        let line = [noise, frame(&answer)].concat();
        let mut receiver = Receiver::default();
        for part in line.chunks(cut) {
            receiver.push(part);
            receiver.answer(unit, &request, false, |_| ());
        }
        let found = receiver.answer(unit, &request, true, |_| ());
        prop_assert_eq!(data(found), Some(&answer[3..]));
    }

    /// Any bytes: no panic, nothing kept beyond the bound, and only what has the right unit,
    /// function, length and checksum is an answer.
    #[test]
    fn nothing_is_taken_for_an_answer_that_is_none(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20)) {
        let request = Request::read(Table::Holding, 0, 2).unwrap();
        let mut receiver = Receiver::default();
        for part in &parts {
            receiver.push(part);
            let found = receiver.answer(1, &request, false, |_| ());
            let nothing = matches!(found, Found::Nothing { .. });
            prop_assert!(nothing);
            receiver.overhear(|_| ());
        }
        receiver.clear();
        prop_assert!(!receiver.has_noise());
    }
}
