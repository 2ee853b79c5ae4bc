//! Writes in virtual time, against units made up here: between polls, checked, read back, and never
//! mistaken for anything else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tombolo::proto::serial::modbus::Bus;
use tombolo::proto::serial::modbus::map::{Half, Kind, Order, Register};
use tombolo::proto::serial::modbus::pdu::{Exception, Table};
use tombolo::proto::serial::modbus::write::{Access, Job, Written};
use tombolo::splitmix::SplitMix64;

use crate::support::{World, frame, meter, ms, register, settings, unit};

const SECOND: Duration = Duration::from_secs(1);
const FREE: Access = Access { min: None, max: None, multiple: false, read_back: true };

fn writable(name: &str, kind: Kind) -> Register {
    Register { write: Some(FREE), ..register(name, Table::Holding, 10, kind) }
}

/// Registers and coils that are written as the standard says; 5 ms for each request.
type Store = Rc<RefCell<BTreeMap<u16, u16>>>;

fn carry_out(store: &Store, body: &[u8]) -> Vec<u8> {
    let (function, at) = (body[1], u16::from_be_bytes([body[2], body[3]]));
    let second = u16::from_be_bytes([body[4], body[5]]);
    let mut held = store.borrow_mut();
    match function {
        1 => vec![body[0], 1, 1, u8::from(held.get(&at).copied().unwrap_or(0) != 0)],
        3 => {
            let words = (at..at + second).flat_map(|at| held.get(&at).copied().unwrap_or(at).to_be_bytes());
            [vec![body[0], 3, (2 * second) as u8], words.collect()].concat()
        }
        5 | 6 => {
            held.insert(at, second);
            body.to_vec()
        }
        15 => {
            held.insert(at, u16::from(body[7] & 1));
            body[..6].to_vec()
        }
        16 => {
            for (word, place) in body[7..].chunks(2).zip(at..) {
                held.insert(place, u16::from_be_bytes([word[0], word[1]]));
            }
            body[..6].to_vec()
        }
        _ => vec![body[0], function | 0x80, 1],
    }
}

/// A bus of this many units, the first of which holds what is written.
fn world(units: u8) -> (World, Store) {
    let mut world = World::new(settings((1..=units).map(unit).collect()));
    let store = Store::default();
    let own = store.clone();
    world.behave(1, move |body| vec![(ms(5), frame(&carry_out(&own, body)))]);
    world.run(SECOND);
    (world, store)
}

fn job(register: &Register, text: &str) -> Job {
    Job::new(std::slice::from_ref(register), &register.name, text.as_bytes()).unwrap()
}

fn refused(register: &Register, text: &str) -> String {
    Job::new(std::slice::from_ref(register), &register.name, text.as_bytes()).unwrap_err()
}

fn write(world: &mut World, number: u64, job: Job) {
    assert!(world.bus.write(world.now, number, 0, job, 60 * SECOND));
}

/// The outcome, and the requests that went out meanwhile.
fn outcome(world: &mut World, job: Job) -> (Written, Vec<Vec<u8>>) {
    let before = world.requests.len();
    write(world, 7, job);
    for _ in 0..200 {
        world.run(ms(500));
        if let Some((number, written)) = world.bus.poll_written() {
            assert_eq!(number, 7);
            assert!(world.bus.poll_written().is_none());
            return (written, world.requests[before..].iter().map(|(_, body)| body.clone()).collect());
        }
    }
    panic!("no outcome in 100 s");
}

fn done(text: &str) -> Written {
    Written::Done(text.as_bytes().to_vec())
}

#[test]
fn the_type_and_width_of_a_value_choose_the_function_and_a_template_may_force_the_other() {
    let coil = Register { write: Some(FREE), ..register("v", Table::Coil, 10, Kind::Bool(None)) };
    let wide = writable("v", Kind::I32);
    let single = writable("v", Kind::U16);
    let forced = |of: &Register| Register { write: Some(Access { multiple: true, ..FREE }), ..of.clone() };
    for (register, text, request, value) in [
        (coil.clone(), "true", vec![1, 5, 0, 10, 0xFF, 0], r#"{"v":true}"#),
        (forced(&coil), "off", vec![1, 15, 0, 10, 0, 1, 1, 0], r#"{"v":false}"#),
        (single.clone(), "258", vec![1, 6, 0, 10, 1, 2], r#"{"v":258}"#),
        (forced(&single), "258", vec![1, 16, 0, 10, 0, 1, 2, 1, 2], r#"{"v":258}"#),
        (wide, "-2", vec![1, 16, 0, 10, 0, 2, 4, 0xFF, 0xFF, 0xFF, 0xFE], r#"{"v":-2}"#),
    ] {
        let (mut world, _) = world(1);
        let (written, requests) = outcome(&mut world, job(&register, text));
        assert_eq!(written, done(value));
        assert!(requests.contains(&request), "{requests:?}");
        // It is read back behind it.
        let at = requests.iter().position(|sent| *sent == request).unwrap();
        assert_eq!(requests[at + 1][1], if register.table.has_bits() { 1 } else { 3 });
    }
}

#[test]
fn every_type_and_order_that_is_read_is_written_so_that_the_same_is_read() {
    for (kind, text) in [
        (Kind::U8(Half::High), "200"),
        (Kind::U8(Half::Low), "7"),
        (Kind::I8(Half::High), "-3"),
        (Kind::U16, "65535"),
        (Kind::I16, "-32768"),
        (Kind::U32, "4294967295"),
        (Kind::I32, "-2147483648"),
        (Kind::U64, "18446744073709551615"),
        (Kind::I64, "-9223372036854775807"),
        (Kind::F32, "230.1"),
        (Kind::F64, "-0.00725"),
        (Kind::Bcd(2), "42"),
        (Kind::Bcd(4), "1234"),
        (Kind::Bcd(8), "12345678"),
        (Kind::Bool(None), "true"),
        (Kind::Bool(Some(9)), "true"),
    ] {
        for words in [Order::Big, Order::Little] {
            for bytes in [Order::Big, Order::Little] {
                let register = Register { words, bytes, ..writable("v", kind) };
                let (mut world, _) = world(1);
                let (written, _) = outcome(&mut world, job(&register, text));
                assert_eq!(written, done(&format!("{{\"v\":{text}}}")), "{kind:?} {words:?} {bytes:?}");
            }
        }
    }
}

#[test]
fn named_values_and_masks_of_decimal_digits_are_written_as_they_are_read() {
    let mode = Register {
        names: vec![(12, "on".to_owned()), (18, "off".to_owned())],
        ..writable("v", Kind::Bcd(4))
    };
    let (mut world, _) = world(1);
    let (written, requests) = outcome(&mut world, job(&mode, "\"on\""));
    assert_eq!(written, done(r#"{"v":"on"}"#));
    assert!(requests.contains(&vec![1, 6, 0, 10, 0, 0x12]), "{requests:?}");
    let masked = Register { mask: Some(0x00FF), ..writable("v", Kind::Bcd(4)) };
    assert_eq!(refused(&masked, "142"), "142 has more digits than the mask of the register has room for");
    let (mut world, _) = self::world(1);
    assert_eq!(outcome(&mut world, job(&masked, "42")).0, done(r#"{"v":42}"#));
}

#[test]
fn a_value_is_scaled_back_to_the_raw_number_of_its_reading_and_never_rounded() {
    let tenths = Register { scale: 0.1, offset: -40.0, ..writable("t", Kind::U16) };
    for raw in 0..2_000_u16 {
        let text = Job::new(std::slice::from_ref(&tenths), "t", b"-40").unwrap().shown(&raw.to_be_bytes());
        let text = String::from_utf8(text).unwrap();
        let value = text.trim_start_matches("{\"t\":").trim_end_matches('}');
        let request = job(&tenths, value).write(&[]).unwrap();
        let mut pdu = Vec::new();
        request.encode(&mut pdu);
        assert_eq!(pdu, [&[6, 0, 10][..], &raw.to_be_bytes()].concat(), "{value}");
    }
    assert_eq!(refused(&tenths, "21.55"), "21.55 is between two steps, 21.5 and 21.6");
    assert_eq!(refused(&writable("n", Kind::I16), "1.5"), "1.5 is between two steps, 1 and 2");
    assert!(job(&tenths, "21.500000000000004").write(&[]).is_some(), "the noise of a float is none");
}

#[test]
fn a_refusal_names_the_range_and_the_unit_of_measurement() {
    let access = Access { min: Some(5.0), max: Some(30.0), ..FREE };
    let register = Register {
        scale: 0.1,
        unit: Some("°C".to_owned()),
        write: Some(access),
        ..writable("setpoint", Kind::I16)
    };
    for wrong in ["4.9", "30.1", "-1e300", "1e300", "99999999999999999999"] {
        assert!(
            refused(&register, wrong).ends_with("is outside 5 to 30 °C"),
            "{}",
            refused(&register, wrong)
        );
    }
    assert!(Job::new(std::slice::from_ref(&register), "setpoint", b"5").is_ok());
    assert!(Job::new(std::slice::from_ref(&register), "setpoint", b" 30.0\n").is_ok());
    // Without one, what the type can have, scaled.
    let open = Register { write: Some(FREE), ..register };
    assert_eq!(refused(&open, "3276.8"), "3276.8 is outside -3276.8 to 3276.7 °C");
    let narrow = Register { mask: Some(0x0F0), ..writable("m", Kind::U16) };
    assert_eq!(refused(&narrow, "16"), "16 is outside 0 to 15");
    for (kind, wrong) in [(Kind::U64, "18446744073709551616"), (Kind::I64, "-9223372036854775809")] {
        let refused = refused(&writable("v", kind), wrong);
        assert!(refused.contains("outside") || refused.contains("type of the register"), "{refused}");
    }
}

#[test]
fn what_is_no_value_of_the_register_is_refused_in_a_sentence() {
    let texts = Register {
        names: vec![(0, "off".to_owned()), (2, "auto".to_owned())],
        scale: 0.1,
        ..writable("mode", Kind::U16)
    };
    assert!(refused(&texts, "on").contains("there are: off, auto"));
    assert!(refused(&texts, "1").contains("one of off, auto"));
    for text in ["auto", "\"auto\""] {
        let mut pdu = Vec::new();
        job(&texts, text).write(&[]).unwrap().encode(&mut pdu);
        assert_eq!(pdu, [6, 0, 10, 0, 2], "a text is a raw number, whatever the scale");
    }
    let number = writable("n", Kind::U16);
    for wrong in ["", "  ", "abc", "[1]", "null", "{\"n\":1}", "true", "1e400", "NaN", "--1", "0x10"] {
        assert!(!refused(&number, wrong).is_empty(), "{wrong}");
    }
    assert!(Job::new(std::slice::from_ref(&number), "n", &[0xFF, 0xFE]).unwrap_err().contains("UTF-8"));
    assert!(Job::new(std::slice::from_ref(&number), "n", &[b'1'; 5000]).unwrap_err().contains("bytes"));
    let absent = Register { absent: Some(vec![0x80, 0]), ..number.clone() };
    assert!(refused(&absent, "32768").contains("no value"));
    let fixed = register("fixed", Table::Holding, 3, Kind::U16);
    assert!(Job::new(&[fixed.clone(), number], "fixed", b"1").unwrap_err().contains("writable = true"));
    assert!(Job::new(&[fixed], "x", b"1").unwrap_err().contains("no value that may be written"));
}

#[test]
fn bits_of_a_register_are_written_with_the_rest_as_it_was_read_just_before() {
    let (mut world, store) = world(2);
    store.borrow_mut().insert(10, 0xA5C3);
    let mask = Register { mask: Some(0x0FF0), ..writable("m", Kind::U16) };
    let (written, requests) = outcome(&mut world, job(&mask, "17"));
    assert_eq!((written, store.borrow()[&10]), (done(r#"{"m":17}"#), 0xA113));
    let at = requests.iter().position(|body| body[1] == 6).unwrap();
    assert_eq!(requests[at - 1], [1, 3, 0, 10, 0, 1], "nothing comes between");
    let bits = vec![(0, "pump".to_owned()), (15, "alarm".to_owned())];
    let named = Register { bits, ..writable("b", Kind::U16) };
    let (written, _) = outcome(&mut world, job(&named, r#"{"alarm":false}"#));
    assert_eq!(written, done(r#"{"b":{"pump":true,"alarm":false}}"#));
    assert_eq!(store.borrow()[&10], 0x2113);
    assert!(refused(&named, r#"{"door":true}"#).contains("there are: pump, alarm"));
    assert!(refused(&named, "{}").contains("no bit"));
    let byte = writable("h", Kind::U8(Half::High));
    let (written, _) = outcome(&mut world, job(&byte, "1"));
    assert_eq!((written, store.borrow()[&10]), (done(r#"{"h":1}"#), 0x0113));
    // Another master that changes the rest meanwhile is not contradicted.
    let own = store.clone();
    world.behave(1, move |body| {
        let answer = carry_out(&own, body);
        if body[1] == 6 {
            *own.borrow_mut().get_mut(&10).unwrap() ^= 0x8000;
        }
        vec![(ms(5), frame(&answer))]
    });
    let why = r#"the unit acknowledged {"h":2} and has {"h":130} when it is read back"#;
    assert_eq!(outcome(&mut world, job(&byte, "2")).0, Written::Unconfirmed(why.to_owned()));
    let low = writable("l", Kind::U8(Half::Low));
    assert_eq!(outcome(&mut world, job(&low, "9")).0, done(r#"{"l":9}"#));
}

#[test]
fn an_exception_is_named_and_a_busy_unit_is_asked_again() {
    for code in [1, 2, 3, 4, 7] {
        let (mut world, _) = world(1);
        world.behave(1, move |body| match body[1] {
            6 => vec![(ms(5), frame(&[1, 0x86, code]))],
            _ => meter(body),
        });
        let (written, requests) = outcome(&mut world, job(&writable("v", Kind::U16), "1"));
        assert_eq!(written, Written::Exception(Exception(code)));
        assert_eq!(requests.iter().filter(|body| body[1] == 6).count(), 1);
    }
    let (mut world, store) = world(1);
    let mut count = 0;
    let own = store.clone();
    world.behave(1, move |body| {
        count += u32::from(body[1] == 6);
        match (body[1], count) {
            (6, 1..=2) => vec![(ms(5), frame(&[1, 0x86, 6]))],
            _ => vec![(ms(5), frame(&carry_out(&own, body)))],
        }
    });
    assert_eq!(outcome(&mut world, job(&writable("v", Kind::U16), "1")).0, done(r#"{"v":1}"#));
    // Busy for ever.
    world.behave(1, |body| match body[1] {
        6 => vec![(ms(5), frame(&[1, 0x86, 6]))],
        _ => meter(body),
    });
    let (written, requests) = outcome(&mut world, job(&writable("v", Kind::U16), "2"));
    assert_eq!(written, Written::Exception(Exception::BUSY));
    assert_eq!(requests.iter().filter(|body| body[1] == 6).count(), 3);
}

#[test]
fn what_is_read_back_decides_where_the_answer_is_missing_wrong_or_another_units() {
    type Answer = fn(&[u8]) -> Vec<u8>;
    let answers: [Answer; 5] = [
        |_| Vec::new(),
        // Of another address, of another value: legal echoes of something else.
        |body| frame(&[1, 6, 0, 11, body[4], body[5]]),
        |body| frame(&[1, 6, 0, 10, body[4], body[5] ^ 1]),
        |body| frame(&[2, 6, 0, 10, body[4], body[5]]),
        |body| {
            let mut damaged = frame(body);
            damaged[6] ^= 0x55;
            damaged
        },
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        for is_carried_out in [true, false] {
            let (mut world, store) = world(2);
            let own = store.clone();
            world.behave(1, move |body| {
                if body[1] != 6 {
                    return vec![(ms(5), frame(&carry_out(&own, body)))];
                }
                if is_carried_out {
                    carry_out(&own, body);
                }
                let bytes = answer(body);
                if bytes.is_empty() { Vec::new() } else { vec![(ms(5), bytes)] }
            });
            let (written, requests) = outcome(&mut world, job(&writable("v", Kind::U16), "77"));
            match is_carried_out {
                true => assert_eq!(written, done(r#"{"v":77}"#), "{number}"),
                false => assert!(
                    matches!(&written, Written::Timeout(why) if why.contains(r#"has {"v":10}"#)),
                    "{number} {written:?}"
                ),
            }
            assert_eq!(requests.iter().filter(|body| body[1] == 6).count(), 1, "it is sent once");
            // Nobody is worse off.
            let before = world.readings(1).len();
            world.run(20 * SECOND);
            assert!(world.readings(1).len() >= before + 19);
            assert_eq!(world.bus.failing(0), None);
        }
    }
}

#[test]
fn a_unit_that_keeps_something_else_is_unconfirmed_and_one_that_needs_time_is_not() {
    let (mut world, store) = world(1);
    let own = store.clone();
    world.behave(1, move |body| {
        let answer = carry_out(&own, body);
        if let Some(value) = own.borrow_mut().get_mut(&10) {
            *value = (*value).min(35);
        }
        vec![(ms(5), frame(&answer))]
    });
    let (written, _) = outcome(&mut world, job(&writable("v", Kind::U16), "40"));
    let why = r#"the unit acknowledged {"v":40} and has {"v":35} when it is read back"#;
    assert_eq!(written, Written::Unconfirmed(why.to_owned()));
    // It takes over what was written 200 ms later.
    let clock = world.clock();
    let mut taken = None;
    world.behave(1, move |body| {
        if body[1] == 6 {
            taken = Some((clock.get(), body[5]));
            return vec![(ms(5), frame(body))];
        }
        let value = taken.filter(|(at, _)| clock.get() >= *at + ms(200)).map_or(9, |(_, value)| value);
        match body[3] {
            10 => vec![(ms(5), frame(&[1, 3, 2, 0, value]))],
            _ => meter(body),
        }
    });
    assert_eq!(outcome(&mut world, job(&writable("v", Kind::U16), "41")).0, done(r#"{"v":41}"#));
}

#[test]
fn without_read_back_the_acknowledgement_counts_and_silence_is_a_timeout() {
    let quiet = Register { write: Some(Access { read_back: false, ..FREE }), ..writable("v", Kind::U16) };
    let (mut world, _) = world(1);
    let (written, requests) = outcome(&mut world, job(&quiet, "5"));
    assert_eq!(written, done(r#"{"v":5}"#));
    assert!(requests.iter().all(|body| body[3] != 10 || body[1] == 6));
    world.behave(1, |body| if body[1] == 6 { Vec::new() } else { meter(body) });
    assert!(matches!(outcome(&mut world, job(&quiet, "6")).0, Written::Timeout(_)));
    // A register that cannot be read says so.
    world.behave(1, |body| match (body[1], body[3]) {
        (6, _) => vec![(ms(5), frame(body))],
        (3, 10) => vec![(ms(5), frame(&[1, 0x83, 2]))],
        _ => meter(body),
    });
    let written = outcome(&mut world, job(&writable("v", Kind::U16), "6")).0;
    assert!(
        matches!(&written, Written::Unconfirmed(why) if why.contains("read-back = false")),
        "{written:?}"
    );
}

#[test]
fn a_unit_that_is_down_ends_a_write_after_its_time_and_nothing_was_sent() {
    let (mut world, _) = world(3);
    world.behave(1, |_| Vec::new());
    world.run(30 * SECOND);
    let before = world.requests.len();
    let others = world.readings(1).len();
    assert!(world.bus.write(world.now, 1, 0, job(&writable("v", Kind::U16), "1"), 20 * SECOND));
    assert!(!world.bus.write(world.now, 2, 0, job(&writable("v", Kind::U16), "1"), SECOND), "one at a time");
    world.run(19 * SECOND);
    assert_eq!(world.bus.poll_written(), None);
    world.run(3 * SECOND);
    assert!(matches!(world.bus.poll_written(), Some((1, Written::Unasked(_)))));
    assert!(world.requests[before..].iter().all(|(_, body)| body[1] != 6));
    assert!(world.readings(1).len() >= others + 21, "the others are polled as before");
    // It comes back in time: then it is written.
    assert!(world.bus.write(world.now, 3, 0, job(&writable("v", Kind::U16), "10"), 100 * SECOND));
    world.run(SECOND);
    world.behave(1, |body| if body[1] == 6 { vec![(ms(5), frame(body))] } else { meter(body) });
    world.run(99 * SECOND);
    assert_eq!(world.bus.poll_written(), Some((3, done(r#"{"v":10}"#))));
}

#[test]
fn a_late_answer_to_a_poll_is_never_taken_for_what_is_read_of_a_register() {
    // Polls of one register, as the read back is one: each third answer comes late.
    for late in [350, 500, 900, 1_400] {
        let (mut world, store) = world(2);
        let own = store.clone();
        let mut count = 0;
        world.behave(1, move |body| {
            let is_poll = body[1] == 3 && body[3] == 0;
            count += u32::from(is_poll);
            let wait = if is_poll && count % 3 == 0 { late } else { 5 };
            vec![(ms(wait), frame(&carry_out(&own, body)))]
        });
        let mut wrong = Vec::new();
        for value in 1..60_u16 {
            let mask = Register { mask: Some(0x00FF), ..writable("v", Kind::U16) };
            store.borrow_mut().insert(10, 0x5A00 | value);
            write(&mut world, value.into(), job(&mask, &(value + 1).to_string()));
            world.run(ms(1_700) * u32::from(value % 7 + 1));
            let mut written = world.bus.poll_written();
            for _ in 0..40 {
                if written.is_some() {
                    break;
                }
                world.run(SECOND);
                written = world.bus.poll_written();
            }
            let held = store.borrow()[&10];
            let is_right = held & 0xFF00 == 0x5A00
                && match &written {
                    Some((_, Written::Done(_))) => held & 0xFF == value + 1,
                    Some((_, Written::Unasked(_))) => held & 0xFF == value,
                    _ => false,
                };
            if !is_right {
                wrong.push((value, held, written));
            }
        }
        assert!(wrong.is_empty(), "{late}: {wrong:?}");
    }
}

#[test]
fn a_unit_whose_reads_stay_in_doubt_after_a_lost_answer_is_written_to() {
    // All reads have one length, and no value stays the same from one read to the next.
    let mut of = unit(1);
    of.registers = vec![
        register("a", Table::Holding, 0, Kind::U16),
        register("b", Table::Holding, 40, Kind::U16),
        register("v", Table::Holding, 80, Kind::U16),
    ];
    let mut world = World::new(settings(vec![of]));
    let store = Store::default();
    let (own, mut count) = (store.clone(), 0u16);
    world.behave(1, move |body| {
        count += 1;
        if body[1] == 3 && body[3] != 10 {
            own.borrow_mut().insert(u16::from(body[3]), count);
        }
        if count == 40 { Vec::new() } else { vec![(ms(5), frame(&carry_out(&own, body)))] }
    });
    world.run(60 * SECOND);
    let before = world.requests.len();
    world.run(10 * SECOND);
    assert!(world.requests.len() - before > 50, "its reads are in doubt");
    for value in ["4", "8", "9"] {
        let (written, _) = outcome(&mut world, job(&writable("v", Kind::U16), value));
        assert_eq!(written, done(&format!("{{\"v\":{value}}}")));
    }
}

#[test]
fn a_write_to_a_unit_that_is_back_after_a_long_silence_reckons_with_no_answer_that_is_over() {
    let mut of = unit(1);
    of.registers =
        vec![register("a", Table::Holding, 0, Kind::U16), register("b", Table::Holding, 40, Kind::U16)];
    let mut world = World::new(settings(vec![of]));
    world.run(60 * SECOND);
    world.behave(1, |_| Vec::new());
    world.run(600 * SECOND);
    let mask = Register { mask: Some(0x00FF), ..writable("v", Kind::U16) };
    assert!(world.bus.write(world.now, 7, 0, job(&mask, "9"), 300 * SECOND));
    let store = Store::default();
    store.borrow_mut().insert(10, 0x5A00);
    let own = store.clone();
    world.behave(1, move |body| vec![(ms(5), frame(&carry_out(&own, body)))]);
    world.run(120 * SECOND);
    assert_eq!(world.bus.poll_written(), Some((7, done(r#"{"v":9}"#))));
    assert_eq!(store.borrow()[&10], 0x5A09);
    let reads = world.requests.iter().filter(|(_, body)| body[1] == 3 && body[3] == 10).count();
    assert!(reads <= 4, "{reads}");
}

#[test]
fn writes_without_end_leave_the_polls_their_turns_and_polls_without_end_the_writes() {
    let (mut world, _) = world(4);
    let before: Vec<usize> = (0..4).map(|unit| world.readings(unit).len()).collect();
    let (mut number, mut done) = (0, 0);
    while world.elapsed() < 121 * SECOND {
        if world.bus.write(world.now, number, 0, job(&writable("v", Kind::U16), "3"), 60 * SECOND) {
            number += 1;
        }
        world.run(ms(10));
        done += usize::from(world.bus.poll_written().is_some());
    }
    for (unit, before) in before.iter().enumerate() {
        assert!(world.readings(unit).len() >= before + 119, "unit {unit}: {}", world.readings(unit).len());
    }
    assert!(done > 300, "{done}");
    // A bus that is busy all the time: each unit is due again before its turn is over.
    let mut units: Vec<_> = (1..=4).map(unit).collect();
    units.iter_mut().for_each(|unit| unit.period = ms(50));
    let mut world = World::new(settings(units));
    world.behave(1, |body| if body[1] == 6 { vec![(ms(5), frame(body))] } else { meter(body) });
    world.run(5 * SECOND);
    let (mut number, mut done) = (0, 0);
    let before = world.readings(3).len();
    while world.elapsed() < 65 * SECOND {
        let quiet = Register { write: Some(Access { read_back: false, ..FREE }), ..writable("v", Kind::U16) };
        number += u64::from(world.bus.write(world.now, number, 0, job(&quiet, "3"), 60 * SECOND));
        world.run(ms(10));
        done += usize::from(world.bus.poll_written().is_some());
    }
    assert!(done > 200 && world.readings(3).len() > before + 200, "{done} {}", world.readings(3).len());
}

#[test]
fn a_line_that_is_closed_says_what_may_have_run() {
    // Before: it was not sent.
    let (mut world, _) = world(1);
    world.behave(1, |_| Vec::new());
    write(&mut world, 1, job(&Register { mask: Some(15), ..writable("v", Kind::U16) }, "1"));
    world.bus.line_down(world.now);
    assert_eq!(world.bus.poll_written(), Some((1, Written::Unsent)));
    assert!(!world.bus.write(world.now, 2, 0, job(&writable("v", Kind::U16), "1"), SECOND), "it is closed");
    // In place of the answer to it.
    let (mut world, _) = self::world(1);
    world.behave(1, |body| if body[1] == 6 { vec![(ms(5), Vec::new())] } else { meter(body) });
    assert_eq!(outcome(&mut world, job(&writable("v", Kind::U16), "1")).0, Written::Unknown);
    // In place of what is read back: the unit acknowledged it.
    let (mut world, _) = self::world(1);
    world.behave(1, |body| match (body[1], body[3]) {
        (6, _) => vec![(ms(5), frame(body))],
        (_, 10) => vec![(ms(5), Vec::new())],
        _ => meter(body),
    });
    let written = outcome(&mut world, job(&writable("v", Kind::U16), "1")).0;
    assert!(matches!(&written, Written::Unconfirmed(why) if why.contains("closed")), "{written:?}");
    // The bus goes on.
    let before = world.readings(0).len();
    world.run(10 * SECOND);
    assert!(world.readings(0).len() >= before + 8);
}

#[test]
fn the_request_of_a_write_is_not_sent_a_second_time_on_a_new_connection() {
    let (mut world, _) = world(1);
    world.behave(1, |body| if body[1] == 6 { Vec::new() } else { meter(body) });
    write(&mut world, 1, job(&writable("v", Kind::U16), "1"));
    while world.requests.last().is_some_and(|(_, body)| body[1] != 6) {
        assert!(world.bus.is_repeatable());
        world.run(ms(5));
    }
    assert!(!world.bus.is_repeatable());
    world.run(ms(400));
    assert!(world.bus.is_repeatable(), "what is read back may be");
}

#[test]
fn an_adapter_that_hears_itself_does_not_acknowledge_a_write() {
    let (mut world, store) = world(1);
    let own = store.clone();
    // The unit is silent to writes; the adapter echoes all.
    world.behave(1, move |body| match body[1] {
        6 => vec![(ms(0), frame(body))],
        _ => vec![(ms(0), frame(body)), (ms(5), frame(&carry_out(&own, body)))],
    });
    world.run(3 * SECOND);
    let quiet = Register { write: Some(Access { read_back: false, ..FREE }), ..writable("v", Kind::U16) };
    assert!(matches!(outcome(&mut world, job(&quiet, "5")).0, Written::Timeout(_)));
    assert!(matches!(outcome(&mut world, job(&writable("v", Kind::U16), "5")).0, Written::Timeout(_)));
    assert_eq!(store.borrow().get(&10), None);
}

#[test]
fn a_gateway_that_did_not_reach_the_unit_refuses_and_one_without_its_answer_leaves_it_open() {
    let (mut world, _) = world(1);
    let mut code = 10;
    world.behave(1, move |body| {
        if body[1] != 6 {
            return meter(body);
        }
        code += 1;
        vec![(ms(5), frame(&[1, 0x86, code - 1]))]
    });
    let value = writable("v", Kind::U16);
    assert_eq!(outcome(&mut world, job(&value, "1")).0, Written::Exception(Exception(10)));
    let written = outcome(&mut world, job(&value, "1")).0;
    assert!(matches!(&written, Written::Timeout(why) if why.contains("exception 11")), "{written:?}");
    // It has it all the same.
    let (mut world, store) = self::world(1);
    world.behave(1, move |body| {
        let answer = carry_out(&store, body);
        vec![(ms(5), frame(if body[1] == 6 { &[1, 0x86, 11] } else { &answer }))]
    });
    assert_eq!(outcome(&mut world, job(&value, "1")).0, done(r#"{"v":1}"#));
}

#[test]
fn a_reload_in_the_middle_of_a_write_tells_that_it_may_have_run_and_the_next_bus_is_not_confused() {
    let (mut world, store) = world(1);
    let own = store.clone();
    // The answer to the write comes 250 ms later, on the next bus.
    world.behave(1, move |body| {
        let wait = if body[1] == 6 { 250 } else { 5 };
        vec![(ms(wait), frame(&carry_out(&own, body)))]
    });
    write(&mut world, 1, job(&writable("v", Kind::U16), "500"));
    while world.requests.last().is_some_and(|(_, body)| body[1] != 6) {
        world.run(ms(1));
    }
    world.bus.interrupt_write();
    assert_eq!(world.bus.poll_written(), Some((1, Written::Unknown)));
    let mut next = Bus::new(settings(vec![unit(1)]), world.now, 3);
    next.adopt(&mut world.bus, world.now);
    next.line_up(world.now);
    world.bus = next;
    world.run(5 * SECOND);
    assert!(world.readings(0).iter().all(|(_, text)| text == r#"{"value":0}"#));
    assert_eq!(outcome(&mut world, job(&writable("v", Kind::U16), "501")).0, done(r#"{"v":501}"#));
    // One that waits was not sent.
    write(&mut world, 3, job(&writable("v", Kind::U16), "1"));
    world.bus.interrupt_write();
    assert_eq!(world.bus.poll_written(), Some((3, Written::Unsent)));
}

#[test]
fn whatever_a_unit_and_its_line_do_an_outcome_is_right_and_the_rest_of_a_register_stays() {
    for seed in 0..60 {
        let (mut world, store) = world(2);
        let own = store.clone();
        let mut random = SplitMix64::new(seed);
        let shapes = random.below(2);
        let mut byte = Register { mask: Some(0x00FF), ..writable("v", Kind::U16) };
        if shapes == 1 {
            // Several lengths of answers in the map, or one.
            let mut units = vec![unit(1), unit(2)];
            units[0].registers.push(register("wide", Table::Holding, 40, Kind::U32));
            world = World::new(settings(units));
            byte.address = 30;
        }
        let at = byte.address;
        let behaviour = move |body: &[u8]| {
            let right = frame(&carry_out(&own, body));
            match random.below(14) {
                // As late as answers may be that are not taken for others (six time-outs).
                0 => vec![(ms(300 + random.below(1_200)), right)],
                1 => Vec::new(),
                2 => {
                    let mut damaged = right;
                    let place = random.below(damaged.len() as u64) as usize;
                    damaged[place] ^= 1 << random.below(8);
                    vec![(ms(5), damaged)]
                }
                3 => vec![(ms(5), frame(&[body[0], body[1] | 0x80, 6]))],
                4 => vec![(ms(5), [vec![0x55, 0xAA, 0x01], right].concat())],
                _ => vec![(ms(5), right)],
            }
        };
        world.behave(1, behaviour);
        world.run(3 * SECOND);
        let mut done = 0;
        for value in 1..25_u16 {
            let (rest, before) = (0xC300 | value << 8 & 0x0F00, 0x40 + value);
            store.borrow_mut().insert(at, rest | before);
            let sent = world.requests.len();
            write(&mut world, value.into(), job(&byte, &value.to_string()));
            let mut written = None;
            for _ in 0..900 {
                world.run(ms(100));
                written = world.bus.poll_written();
                if written.is_some() {
                    break;
                }
            }
            let (number, written) = written.expect("an outcome in time");
            let held = store.borrow()[&at];
            let writes = world.requests[sent..].iter().filter(|(_, body)| body[1] == 6).count();
            let told = format!("seed {seed}, {value}: {written:?} {held:04x}");
            assert_eq!((number, held & 0xFF00), (value.into(), rest), "{told}");
            match written {
                Written::Done(_) => assert_eq!(held & 0xFF, value, "{told}"),
                Written::Unasked(_) => assert_eq!((held & 0xFF, writes), (before, 0), "{told}"),
                Written::Exception(exception) => assert_eq!(exception, Exception::BUSY, "{told}"),
                Written::Unconfirmed(_) | Written::Timeout(_) => {}
                Written::Unknown | Written::Unsent => panic!("{told}"),
            }
            assert!(writes <= 3, "{told}");
            done += usize::from(held & 0xFF == value);
        }
        assert!(done > 12, "seed {seed}: {done}");
    }
}

#[test]
fn the_rest_of_a_register_is_never_another_registers_where_answers_come_one_request_late() {
    // The upper byte of register 10 stays as it is; that of the other one is different.
    let part = writable("v", Kind::U8(Half::Low));
    for (others, held) in [(1, 0), (1, 1), (2, 0), (2, 1), (1, 2), (2, 3)] {
        let mut settings = settings((1..=others).map(unit).collect());
        settings.units[0].registers[0].address = 60;
        let mut world = World::new(settings);
        let store = Store::default();
        store.borrow_mut().insert(10, 0x0100);
        store.borrow_mut().insert(60, 0x7700);
        let kept: Rc<RefCell<Option<Vec<u8>>>> = Rc::default();
        let is_held = Rc::new(RefCell::new(false));
        for address in 1..=others {
            let (own, kept, is_held) = (store.clone(), kept.clone(), is_held.clone());
            world.behave(address, move |body| {
                let answer = carry_out(&own, body);
                if !*is_held.borrow() {
                    return vec![(ms(5), frame(&answer))];
                }
                let before = kept.borrow_mut().replace(answer);
                let readdress = |mut before: Vec<u8>| {
                    before[0] = body[0];
                    before
                };
                before.map(|before| (ms(5), frame(&readdress(before)))).into_iter().collect()
            });
        }
        world.run(SECOND * 10);
        // From the first request on, or after so many.
        *is_held.borrow_mut() = true;
        world.run(ms(700 * held));
        write(&mut world, 7, job(&part, "5"));
        for _ in 0..4 {
            world.run(SECOND * 20);
            let value = store.borrow()[&10];
            assert!([0x0100, 0x0105].contains(&value), "{others} {held}: {value:04X}");
            assert_eq!(store.borrow()[&60], 0x7700);
        }
        assert!(world.bus.poll_written().is_some());
    }
}

#[test]
fn a_write_on_a_line_that_stays_in_doubt_waits_as_long_as_it_may_and_no_longer_and_says_why() {
    // All reads of the unit have one length, and each answer comes with the next request only.
    let mut of = unit(1);
    of.registers =
        vec![register("a", Table::Holding, 0, Kind::U16), register("b", Table::Holding, 40, Kind::U16)];
    for within in [2, 10, 30] {
        let mut world = World::new(settings(vec![of.clone(), unit(2)]));
        let (store, kept) = (Store::default(), RefCell::new(None));
        world.behave(1, move |body| {
            let before = kept.replace(Some(frame(&carry_out(&store, body))));
            before.map(|before| (ms(20), before)).into_iter().collect()
        });
        world.run(120 * SECOND);
        assert!(world.bus.is_one_behind(0));
        let before = (world.requests.len(), world.readings(0).len(), world.readings(1).len());
        assert!(world.bus.write(world.now, 7, 0, job(&writable("v", Kind::U16), "9"), within * SECOND));
        world.run(within * SECOND - ms(1));
        assert_eq!(world.bus.poll_written(), None, "{within}");
        // The poll that is under way is ended first.
        world.run(2 * SECOND);
        let written = world.bus.poll_written();
        let said = "its answers come late, and may be those to earlier requests";
        assert_eq!(written, Some((7, Written::Unasked(said.to_owned()))), "{within}");
        assert!(world.requests[before.0..].iter().all(|(_, body)| body[1] == 3), "nothing was written");
        // Both are polled meanwhile.
        let seconds = usize::try_from(within).unwrap();
        assert!(world.readings(0).len() - before.1 > seconds / 3, "{within}");
        assert!(world.readings(1).len() - before.2 > seconds / 2, "{within}");
    }
}

#[test]
fn after_a_reading_back_without_an_answer_the_next_poll_begins_with_a_read_of_another_length() {
    let mut of = unit(1);
    of.registers =
        vec![register("a", Table::Holding, 0, Kind::U32), register("b", Table::Holding, 40, Kind::U16)];
    let mut world = World::new(settings(vec![of]));
    let store = Store::default();
    world.behave(1, move |body| {
        if body[1] == 3 && body[3] == 10 {
            Vec::new()
        } else {
            vec![(ms(5), frame(&carry_out(&store, body)))]
        }
    });
    world.run(5 * SECOND);
    let (written, _) = outcome(&mut world, job(&writable("v", Kind::U16), "9"));
    assert!(matches!(written, Written::Unconfirmed(_)), "{written:?}");
    world.run(3 * SECOND);
    // What may still come is as long as the answer to the second read: the first shows that it
    // cannot.
    let order: Vec<u8> = world.requests.iter().map(|(_, body)| body[3]).collect();
    let last = order.iter().rposition(|at| *at == 10).unwrap();
    assert_eq!(order[last + 1..last + 4], [0, 0, 40]);
}

#[test]
fn the_rest_of_a_register_is_not_that_of_a_late_answer_that_was_overtaken() {
    for after in 0..4 {
        let mut world = World::new(settings(vec![crate::gateway::with(1, &[2, 40])]));
        let (mut kept, mut fetches) = (None::<Vec<u8>>, 0);
        let mut first = true;
        let mut written: Option<Vec<u8>> = None;
        world.behave(1, move |request| {
            let own = match &written {
                _ if request[1] == 6 => request.to_vec(),
                Some(word) if request[3] == 30 => [&[1, 3, 2][..], word].concat(),
                _ => crate::support::answer(request),
            };
            if request[1] == 6 {
                written = Some(request[4..6].to_vec());
            }
            if request[3] == 40 && std::mem::take(&mut first) {
                // It takes long, and the next request is answered before.
                kept = Some(own);
                return Vec::new();
            }
            if request[3] == 30 {
                fetches += 1;
                if fetches > after
                    && let Some(kept) = kept.take()
                {
                    return vec![(ms(1), frame(&kept)), (ms(5), frame(&own))];
                }
            }
            vec![(ms(5), frame(&own))]
        });
        world.run(Duration::from_secs(4));
        let job = Job::new(&[crate::gateway::masked()], "m", b"5").unwrap();
        assert!(world.bus.write(world.now, 1, 0, job, Duration::from_secs(10)));
        world.run(Duration::from_secs(15));
        let writes: Vec<_> = world.requests.iter().filter(|(_, body)| body[1] == 6).collect();
        // Register 30 holds its address.
        assert!(writes.iter().all(|(_, body)| body[4..6] == [0, 0x5e]), "{after}: {writes:?}");
        assert_eq!(writes.len(), 1, "{after}");
    }
}
