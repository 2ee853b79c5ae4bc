use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::length::{Header, Width};
use super::line::End;
use super::markers::{Escape, Markers};
use super::*;
use crate::splitmix::SplitMix64;

fn settings(framing: Framing, checksum: Option<Checksum>) -> Settings {
    Settings {
        framing,
        checksum,
        max_frame: 1024,
        start: Vec::new(),
        within: IDLE,
        placement: Default::default(),
        skip_first: false,
        keep: 0,
        whole: false,
        label_end: None,
        interleaved: None,
        silence: None,
    }
}

/// A port that has been open for long.
fn opened(settings: &Settings) -> (Decoder, Instant) {
    let start = Instant::now();
    (Decoder::new(settings, start), start + Duration::from_secs(10))
}

fn take(decoder: &mut Decoder, now: Instant, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    decoder.handle_bytes(now, bytes, &mut |frame| frames.push(frame.to_vec()));
    frames
}

fn pause(decoder: &mut Decoder, now: Instant) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    decoder.handle_timeout(now, &mut |frame| frames.push(frame.to_vec()));
    frames
}

fn header(width: Width, little_endian: bool, offset: usize, adjust: i32) -> Framing {
    Framing::Length(Header { width, little_endian, offset, adjust })
}

fn markers(start: &[u8], end: &[u8], escape: Option<u8>) -> Framing {
    Framing::Markers(Markers { start: start.to_vec(), end: end.to_vec(), escape: escape.map(Escape::Before) })
}

/// Framings that carry any bytes.
fn transparent() -> impl Strategy<Value = Settings> {
    let framing = prop_oneof![
        Just(Framing::Slip),
        Just(Framing::Cobs),
        Just(markers(b"\x02", b"\x03", Some(0x10))),
        Just(markers(b"<<", b">|", Some(b'\\'))),
        Just(markers(b"\x7e", b"\x7e", Some(0x7d))),
        (0..3_usize, any::<bool>(), 0..4_usize, -4..1_i32).prop_map(|(width, little, offset, adjust)| {
            // One byte says at most 255.
            header([Width::Two, Width::Four, Width::Two][width], little, offset, adjust)
        }),
    ];
    (framing, checksums()).prop_map(|(framing, checksum)| settings(framing, checksum))
}

fn checksums() -> impl Strategy<Value = Option<Checksum>> {
    prop_oneof![
        Just(None),
        Just(Some(Checksum::Crc16Modbus)),
        Just(Some(Checksum::Crc16Ccitt)),
        Just(Some(Checksum::Crc32)),
        Just(Some(Checksum::Xor)),
        Just(Some(Checksum::Sum)),
    ]
}

/// Framings that find back by a delimiter, with what makes them do so.
fn delimited() -> impl Strategy<Value = (Settings, Vec<u8>)> {
    let framing = prop_oneof![
        Just((Framing::Slip, vec![slip::END])),
        Just((Framing::Cobs, vec![0])),
        Just((Framing::Line(End::Any), b"\r\n".to_vec())),
        Just((Framing::Line(End::Exactly(b"\r\n".to_vec())), b"\r\n".to_vec())),
        Just((markers(b"\x02", b"\x03", Some(0x10)), b"".to_vec())),
    ];
    framing.prop_map(|(framing, delimiter)| (settings(framing, Some(Checksum::Crc32)), delimiter))
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    // Bytes that mean something to one of the framings are frequent.
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(vec![
            0, 0xC0, 0xDB, 0xDC, 0xDD, 2, 3, 0x10, 13, 10, 0x7e, 0x7d, b'<', b'>', b'|', b'\\', 255
        ])
    ];
    prop::collection::vec(byte, 1..600)
}

/// The frames in these bytes, with a pause behind them.
fn whole(decoder: &mut Decoder, now: Instant, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = take(decoder, now, bytes);
    frames.extend(pause(decoder, now + IDLE));
    frames
}

proptest! {
    #[test]
    fn arbitrary_bytes_come_back_whole(settings in transparent(), payloads in prop::collection::vec(payload(), 1..5)) {
        let mut stream = Vec::new();
        for payload in &payloads {
            encode(&settings, payload, &mut stream).unwrap();
        }
        let (mut decoder, now) = opened(&settings);
        let read = whole(&mut decoder, now, &stream);
        // Of a few sizes, a message may be divided by chance, and be dropped as a joint one.
        if settings.checksum.is_some_and(|checksum| settings.placement.joins(checksum)) {
            prop_assert!(read.iter().all(|frame| payloads.contains(frame)));
            prop_assert_eq!(read.len() as u64 + decoder.counters().malformed, payloads.len() as u64);
            return Ok(());
        }
        prop_assert_eq!(read, payloads.clone());
        prop_assert_eq!(decoder.counters().good, payloads.len() as u64);
        prop_assert_eq!((decoder.counters().bad, decoder.counters().dropped), (0, 0));
    }

    #[test]
    fn lines_come_back_or_are_refused(payloads in prop::collection::vec(payload(), 1..4), end in 0..4_usize, checksum in checksums()) {
        let end = [End::Any, End::Exactly(b"\n".to_vec()), End::Exactly(b"\r\n".to_vec()), End::Exactly(b"\x03\x03\x10".to_vec())][end].clone();
        let settings = settings(Framing::Line(end), checksum);
        let (mut decoder, now) = opened(&settings);
        for payload in payloads {
            let mut stream = Vec::new();
            if encode(&settings, &payload, &mut stream).is_ok() {
                prop_assert_eq!(take(&mut decoder, now, &stream), vec![payload]);
            } else {
                prop_assert!(stream.is_empty());
            }
        }
    }

    #[test]
    fn markers_without_an_escape_come_back_or_are_refused(payload in payload(), which in 0..4_usize) {
        let framing = [
            markers(b"\x02", b"\x03", None), markers(b"$", b"\r\n", None), markers(b"<<", b"||", None), markers(b"\x7e", b"\x7e", None),
        ][which].clone();
        let settings = settings(framing, None);
        let mut stream = b"noise".to_vec();
        if encode(&settings, &payload, &mut stream).is_ok() {
            let (mut decoder, now) = opened(&settings);
            prop_assert_eq!(take(&mut decoder, now, &stream), vec![payload]);
            prop_assert_eq!(decoder.counters().dropped, 5);
        } else {
            prop_assert_eq!(stream, b"noise");
        }
    }

    #[test]
    fn a_stream_split_anywhere_makes_the_same_frames(settings in transparent(), payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..4)) {
        let mut stream = Vec::new();
        for payload in &payloads {
            encode(&settings, payload, &mut stream).unwrap();
        }
        // Of a few sizes, a message may be divided by chance, and be dropped as a joint one.
        let joins = settings.checksum.is_some_and(|checksum| settings.placement.joins(checksum));
        let (mut decoder, now) = opened(&settings);
        let read = whole(&mut decoder, now, &stream);
        prop_assert!(read == payloads || joins, "{:?}", read);
        for at in 0..=stream.len() {
            let (mut decoder, now) = opened(&settings);
            let mut frames = take(&mut decoder, now, &stream[..at]);
            frames.extend(whole(&mut decoder, now, &stream[at..]));
            prop_assert_eq!(&frames, &read);
        }
        let (mut decoder, now) = opened(&settings);
        let mut bytewise: Vec<_> = stream.iter().flat_map(|byte| take(&mut decoder, now, &[*byte])).collect();
        bytewise.extend(pause(&mut decoder, now + IDLE));
        prop_assert_eq!(bytewise, read);
    }

    #[test]
    fn after_garbage_and_a_delimiter_all_is_well((settings, delimiter) in delimited(), garbage: Vec<u8>, good in "[a-z]{1,40}") {
        let mut stream = garbage;
        stream.extend_from_slice(&delimiter);
        // An escape at the end of the noise takes one byte with it, and a start marker in it needs
        // its end.
        let (mut decoder, now) = opened(&settings);
        let _ = take(&mut decoder, now, &stream);
        let mut frame = Vec::new();
        if encode(&settings, good.as_bytes(), &mut frame).is_err() {
            return Ok(());
        }
        let mut frames = take(&mut decoder, now, &frame);
        frames.extend(take(&mut decoder, now, &frame));
        prop_assert!(frames.contains(&good.clone().into_bytes()), "{frames:?}");
    }

    #[test]
    fn a_length_with_a_checksum_finds_back_after_garbage(garbage in prop::collection::vec(any::<u8>(), 0..300), good in payload()) {
        let settings = Settings { max_frame: 800, ..settings(header(Width::Two, false, 1, 0), Some(Checksum::Crc32)) };
        let (mut decoder, now) = opened(&settings);
        let noise = take(&mut decoder, now, &garbage);
        let mut frame = Vec::new();
        encode(&settings, &good, &mut frame).unwrap();
        // What looks like the beginning of a long frame has to be outwaited, or outgrown.
        let mut frames = Vec::new();
        for _ in 0..3 + 800 / frame.len() {
            frames.extend(take(&mut decoder, now, &frame));
        }
        prop_assert!(noise.is_empty() && frames.last() == Some(&good));
        prop_assert!(decoder.buffer.bytes.len() <= 800);
    }

    #[test]
    fn no_bytes_panic_or_make_it_grow(settings in transparent(), chunks in prop::collection::vec(payload(), 0..8)) {
        let (mut decoder, mut now) = opened(&settings);
        for chunk in chunks {
            let frames = take(&mut decoder, now, &chunk);
            prop_assert!(frames.iter().all(|frame| !frame.is_empty() && frame.len() <= 1024));
            prop_assert!(decoder.buffer.bytes.len() <= 8 * 1024);
            now += Duration::from_millis(300);
            let _ = pause(&mut decoder, now);
        }
        let counters = decoder.counters();
        prop_assert!(counters.dropped <= counters.bytes);
    }

    #[test]
    fn fixed_frames_come_back(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 6), 1..9), checksum in checksums()) {
        let width = checksum.map_or(0, Checksum::width);
        let settings = settings(Framing::Fixed(6 + width), checksum);
        let mut stream = Vec::new();
        for frame in &frames {
            encode(&settings, frame, &mut stream).unwrap();
        }
        let (mut decoder, now) = opened(&settings);
        prop_assert_eq!(whole(&mut decoder, now, &stream), frames);
        prop_assert_eq!(encode(&settings, b"12345", &mut stream), Err(EncodeError::WrongSize));
    }

    #[test]
    fn frames_with_a_pause_between_come_back_wherever_they_are_split(payload in payload(), at: prop::sample::Index) {
        let settings = settings(Framing::Gap(Duration::from_millis(20)), Some(Checksum::Crc16Modbus));
        let mut stream = Vec::new();
        encode(&settings, &payload, &mut stream).unwrap();
        let (mut decoder, now) = opened(&settings);
        let (one, two) = stream.split_at(at.index(stream.len()));
        prop_assert!(take(&mut decoder, now, one).is_empty());
        prop_assert!(take(&mut decoder, now + Duration::from_millis(19), two).is_empty());
        let at = decoder.poll_timeout().unwrap();
        prop_assert_eq!(pause(&mut decoder, at), vec![payload]);
        prop_assert_eq!(decoder.poll_timeout(), None);
    }
}

#[test]
fn a_line_ends_as_its_device_ends_it() {
    for (end, stream, lines) in [
        (End::Any, &b"a\rb\nc\r\nd\n\r\n\re\n"[..], &["a", "b", "c", "d", "e"][..]),
        (End::Exactly(b"\r\n".to_vec()), b"a\rb\nc\r\r\nd\r\n\r\n", &["a\rb\nc\r", "d"]),
        (End::Exactly(b"\n".to_vec()), b"a\r\nb\n\n", &["a\r", "b"]),
        (End::Exactly(b"aab".to_vec()), b"xaaab|aab?aab", &["xa", "|", "?"]),
    ] {
        let (mut decoder, now) = opened(&settings(Framing::Line(end), None));
        let found = take(&mut decoder, now, stream);
        assert_eq!(found, lines.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
    }
}

#[test]
fn the_beginning_of_a_stream_that_is_under_way_is_no_frame() {
    for (framing, rest, whole) in [
        (Framing::Line(End::Any), &b"3.5\r\n"[..], &b"123.5\r\n"[..]),
        (Framing::Slip, b"3.5\xC0", b"\xC0123.5\xC0"),
        (Framing::Cobs, b"\x043.5\x00", b"\x06123.5\x00"),
    ] {
        let settings = settings(framing, None);
        let start = Instant::now();
        let mut decoder = Decoder::new(&settings, start);
        let now = start + Duration::from_millis(10);
        assert!(take(&mut decoder, now, rest).is_empty(), "{settings:?}");
        assert_eq!(decoder.counters().bad, 0);
        assert_eq!(take(&mut decoder, now, whole), [b"123.5"], "{settings:?}");
        // A device that speaks up some time after the port was opened speaks in whole frames.
        decoder.reopen(now);
        assert_eq!(take(&mut decoder, now + SETTLE, whole), [b"123.5"], "{settings:?}");
    }
}

#[test]
fn what_is_too_long_is_dropped_whole_and_counted() {
    for framing in [
        Framing::Line(End::Any),
        Framing::Line(End::Exactly(b"\r\n".to_vec())),
        Framing::Slip,
        Framing::Cobs,
        markers(b"\x02", b"\x03", None),
    ] {
        let wide = Settings {
            framing,
            checksum: None,
            max_frame: 4096,
            start: Vec::new(),
            within: IDLE,
            placement: Default::default(),
            skip_first: false,
            keep: 0,
            whole: false,
            label_end: None,
            interleaved: None,
            silence: None,
        };
        let narrow = Settings { max_frame: 64, ..wide.clone() };
        let mut stream = Vec::new();
        encode(&wide, &[b'x'; 2000], &mut stream).unwrap();
        encode(&narrow, b"short", &mut stream).unwrap();
        assert_eq!(encode(&narrow, &[b'x'; 65], &mut stream), Err(EncodeError::TooLong));
        let (mut decoder, now) = opened(&narrow);
        assert_eq!(take(&mut decoder, now, &stream), [b"short"], "{narrow:?}");
        assert!(decoder.buffer.bytes.capacity() < 200);
        let counters = decoder.counters();
        assert_eq!((counters.good, counters.bad, counters.dropped), (1, 1, 2000), "{narrow:?}");
    }
}

#[test]
fn doubled_and_missing_delimiters_cost_at_most_the_frames_they_join() {
    let (mut decoder, now) = opened(&settings(Framing::Slip, Some(Checksum::Crc16Modbus)));
    let frame = |text: &[u8]| {
        let mut body = text.to_vec();
        Checksum::Crc16Modbus.append(&mut body, 0);
        body
    };
    let stream = [
        b"\xC0\xC0",
        &frame(b"one")[..],
        b"\xC0\xC0\xC0",
        &frame(b"two"),
        &frame(b"x"),
        b"\xC0",
        &frame(b"three"),
        b"\xC0",
    ];
    let found = take(&mut decoder, now, &stream.concat());
    assert_eq!(found, [&b"one"[..], b"three"]);
    assert_eq!(decoder.counters().bad, 1);

    let (mut decoder, now) = opened(&settings(markers(b"\x02", b"\x03", None), None));
    assert_eq!(take(&mut decoder, now, b"\x02\x02one\x03\x03\x02lost\x02two\x03"), [&b"one"[..], b"two"]);
    assert_eq!(decoder.counters().bad, 1);
    let (mut decoder, now) = opened(&settings(markers(b"\x7e", b"\x7e", None), None));
    assert_eq!(take(&mut decoder, now, b"\x7eone\x7etwo\x7e\x7ethree\x7e"), [&b"one"[..], b"two", b"three"]);
}

#[test]
fn a_broken_escape_or_code_costs_one_frame() {
    let (mut decoder, now) = opened(&settings(Framing::Slip, None));
    assert_eq!(take(&mut decoder, now, b"a\xDBz\xC0b\xDB\xC0c\xC0"), [b"c"]);
    assert_eq!(decoder.counters().bad, 2);
    let (mut decoder, now) = opened(&settings(Framing::Cobs, None));
    assert_eq!(take(&mut decoder, now, b"\x09ab\x00\x02c\x00"), [b"c"]);
    assert_eq!(decoder.counters().bad, 1);
}

#[test]
fn cobs_is_encoded_as_its_paper_says() {
    let mut run = (1..=254).collect::<Vec<u8>>();
    for (body, frame) in [
        (b"\0".to_vec(), b"\x01\x01\0".to_vec()),
        (b"\x11\x22\0\x33".to_vec(), b"\x03\x11\x22\x02\x33\0".to_vec()),
        (b"\x11\0\0\0".to_vec(), b"\x02\x11\x01\x01\x01\0".to_vec()),
        (run.clone(), [b"\xff", &run[..], b"\0"].concat()),
        ([b"\0", &run[..]].concat(), [b"\x01\xff", &run[..], b"\0"].concat()),
        ([&run[..], b"\xff"].concat(), [b"\xff", &run[..], b"\x02\xff\0"].concat()),
    ] {
        let mut out = Vec::new();
        cobs::encode(&body, &mut out);
        assert_eq!(out, frame);
    }
    run.push(0);
}

#[test]
fn a_frame_that_stops_half_way_is_given_up_after_a_pause() {
    let settings = settings(header(Width::One, false, 0, 0), None);
    let (mut decoder, now) = opened(&settings);
    assert!(take(&mut decoder, now, b"\x05ab").is_empty());
    let at = decoder.poll_timeout().unwrap();
    assert_eq!(at, now + IDLE);
    // The pause is detected also without a timer call, if no stall of the gateway explains it.
    assert_eq!(take(&mut decoder, at + 3 * IDLE, b"\x02hi"), [b"hi"]);
    assert_eq!((decoder.counters().bad, decoder.counters().dropped), (1, 3));
    assert_eq!(decoder.poll_timeout(), None);
}

#[test]
fn bytes_that_a_busy_gateway_brings_late_still_belong_to_their_frame() {
    let gap = Duration::from_millis(20);
    let (mut decoder, now) = opened(&settings(Framing::Gap(gap), None));
    assert!(take(&mut decoder, now, b"one").is_empty());
    assert!(take(&mut decoder, now + gap * 2, b"frame").is_empty());
    assert_eq!(take(&mut decoder, now + gap * 6, b"next"), [b"oneframe"]);
}

#[test]
fn what_no_pause_ended_when_the_port_was_closed_is_incomplete() {
    let gap = Duration::from_millis(20);
    let (mut decoder, now) = opened(&settings(Framing::Gap(gap), None));
    assert!(take(&mut decoder, now, b"W=12").is_empty());
    decoder.cut(now + gap / 2);
    let mut frames = 0;
    decoder.handle_timeout(now + gap * 10, &mut |_| frames += 1);
    assert_eq!((frames, decoder.counters().cut, decoder.counters().dropped), (0, 1, 4));
    assert_eq!(decoder.take_bad(), Some((Bad::Cut, b"W=12".to_vec())));
    // One that a pause ended is whole, though nobody looked before the port was closed.
    let now = now + gap * 20;
    assert!(take(&mut decoder, now, b"W=123").is_empty());
    decoder.cut(now + gap);
    decoder.handle_timeout(now + gap * 10, &mut |frame| frames += frame.len());
    assert_eq!((frames, decoder.counters().cut), (5, 1));
}

#[test]
fn a_crc_says_that_a_message_is_whole_at_whose_end_the_port_was_closed() {
    let gap = Duration::from_millis(20);
    for (checksum, whole) in [(Checksum::Crc16Modbus, 1), (Checksum::Crc32, 1), (Checksum::Xor, 0)] {
        let settings = Settings { start: b"BM".to_vec(), ..settings(Framing::Gap(gap), Some(checksum)) };
        let (mut decoder, mut now) = opened(&settings);
        let mut frame = Vec::new();
        encode(&settings, b"W=123", &mut frame).unwrap();
        for (bytes, expected) in [(&frame[..frame.len() - 1], 0), (&frame[..], whole)] {
            assert!(take(&mut decoder, now, bytes).is_empty());
            decoder.cut(now + gap / 2);
            // The shell looks before it opens the port again.
            let due = decoder.poll_timeout();
            assert_eq!(due.is_some_and(|at| at <= now + gap / 2), expected == 1, "{checksum:?}");
            assert_eq!(pause(&mut decoder, now + gap / 2), vec![b"W=123".to_vec(); expected], "{checksum:?}");
            now += gap * 10;
            decoder.reopen(now);
            now += SETTLE;
        }
        assert_eq!(decoder.counters().cut, 2 - whole as u64);
    }
}

#[test]
fn what_is_dropped_because_it_came_first_after_the_opening_is_counted_by_its_reason() {
    let line = || Framing::Line(End::Any);
    let gap = Framing::Gap(Duration::from_millis(20));
    for (framing, skip_first, why, bytes) in [
        (line(), false, Bad::Early, &b"T=21.5\n"[..]),
        (line(), true, Bad::First, b"T=21.5\n"),
        (Framing::Slip, false, Bad::Early, b"T=21.5\xC0"),
        (gap, true, Bad::First, b"T=21.5"),
    ] {
        let wanted = Settings { skip_first, ..settings(framing.clone(), None) };
        let mut now = Instant::now();
        let mut decoder = Decoder::new(&wanted, now);
        for count in 1..=3 {
            assert!(take(&mut decoder, now, bytes).is_empty(), "{framing:?}");
            decoder.cut(now);
            assert_eq!(decoder.take_bad().map(|(bad, _)| bad), Some(why), "{framing:?}");
            let counters = decoder.counters();
            let told = if skip_first { counters.first } else { counters.early };
            assert_eq!((told, counters.bad, counters.good), (count, 0, 0), "{framing:?}");
            now += IDLE;
            decoder.reopen(now);
        }
    }
}

#[test]
fn the_longest_silence_is_known_of_a_line_that_never_pauses_long_enough() {
    let ms = Duration::from_millis;
    for (framing, takes_start) in [(Framing::Fixed(12), true), (header(Width::One, false, 0, 0), false)] {
        let wanted = Settings { within: ms(100), ..settings(framing, Some(Checksum::Xor)) };
        let mut now = Instant::now();
        let mut decoder = Decoder::new(&wanted, now);
        assert_eq!(decoder.awaited_silence(), None);
        // The time from the opening to the first byte is none of the device's pauses.
        now += ms(70);
        for pause in [0, 3, 40, 25, 25, 25] {
            now += ms(pause);
            assert!(take(&mut decoder, now, b"\x09\x01\x02\x03\x04\x05\x06").is_empty());
        }
        let awaited = Awaited { wanted: ms(100), longest: ms(40), takes_start };
        assert_eq!(decoder.awaited_silence(), Some(awaited));
        // Bytes that are read late may have come in time: only the timer knows a silence.
        take(&mut decoder, now + ms(500), b"\x09\x01\x02\x03\x04\x05\x06");
        assert!(decoder.awaited_silence().is_some());
        pause(&mut decoder, now + ms(600));
        take(&mut decoder, now + ms(601), b"1");
        assert_eq!(decoder.awaited_silence(), None);
    }
}

#[test]
fn a_gateway_that_stalls_within_a_message_reads_no_rotation_of_it() {
    let message = b"\x01\x06\x00\xe6\x0f\xa0\x00\x00\x4e";
    let ms = Duration::from_millis;
    for framing in [Framing::Fixed(9), header(Width::One, false, 1, 1)] {
        for (checksum, within) in [(Some(Checksum::Xor), WITHIN), (None, IDLE)] {
            for cut in 1..9 {
                // Without a checksum a fixed size needs silences, too.
                let within = if matches!(framing, Framing::Fixed(_)) { WITHIN } else { within };
                let settings = Settings { within, ..settings(framing.clone(), checksum) };
                let (mut decoder, mut now) = opened(&settings);
                let mut frames = Vec::new();
                for round in 0..10 {
                    // Three messages with their pauses, and the beginning of one.
                    for _ in 0..3 {
                        frames.extend(take(&mut decoder, now, message));
                        frames.extend(pause(&mut decoder, now + ms(200)));
                        now += ms(200);
                    }
                    frames.extend(take(&mut decoder, now, &message[..cut]));
                    // It stalls: the rest, and what came meanwhile, is read at once.
                    now += ms(1_300);
                    let late = [&message[cut..], message, message].concat();
                    frames.extend(take(&mut decoder, now, &late));
                    frames.extend(pause(&mut decoder, now + ms(200)));
                    now += ms(200);
                    assert!(frames.len() >= 3 * round, "{framing:?} {checksum:?} {cut}");
                }
                let right = match &framing {
                    Framing::Fixed(_) => &message[..message.len() - usize::from(checksum.is_some())],
                    _ => &message[2..message.len() - usize::from(checksum.is_some())],
                };
                assert!(
                    frames.iter().all(|frame| frame[..] == *right),
                    "{framing:?} {checksum:?} {cut} {frames:x?}"
                );
                assert_eq!(frames.len(), 60, "{framing:?} {checksum:?} {cut}");
            }
        }
    }
}

#[test]
fn a_device_that_sends_as_soon_as_it_is_connected_and_closes_is_read_where_a_rotation_would_pass() {
    let message = b"\x01\x03\x00\xe6\x0f\xa0\x00\x00\x4b";
    let settings = Settings { within: WITHIN, ..settings(Framing::Fixed(9), Some(Checksum::Xor)) };
    let mut now = Instant::now();
    let mut decoder = Decoder::new(&settings, now);
    for stays in [0, 50, 300] {
        let (one, two) = message.split_at(4);
        assert!(take(&mut decoder, now, one).is_empty());
        assert!(take(&mut decoder, now + Duration::from_millis(1), two).is_empty());
        now += Duration::from_millis(stays);
        let mut frames = pause(&mut decoder, now);
        decoder.cut(now);
        frames.extend(pause(&mut decoder, now + Duration::from_millis(1)));
        assert_eq!(frames, [&message[..8]], "{stays}");
        // A part of one.
        decoder.reopen(now);
        assert!(take(&mut decoder, now, one).is_empty());
        decoder.cut(now);
        assert!(pause(&mut decoder, now + Duration::from_millis(1)).is_empty());
        now += WITHIN;
        decoder.reopen(now);
    }
    assert_eq!((decoder.counters().bad, decoder.counters().burst), (3, 3));
}

#[test]
fn a_length_counts_what_its_device_counts() {
    // The number counts itself, and not the checksum.
    let settings = settings(header(Width::Two, true, 1, -2 + 1), Some(Checksum::Sum));
    let mut stream = Vec::new();
    encode(&settings, b"abc", &mut stream).unwrap();
    assert_eq!(stream[..6], *b"\0\x05\0abc");
    let (mut decoder, now) = opened(&settings);
    assert_eq!(take(&mut decoder, now, &stream), [b"abc"]);
    assert_eq!(take(&mut decoder, now, b"\xff\xff\xff\xff\xff"), Vec::<Vec<u8>>::new());
    assert!(decoder.counters().bad > 0);
}

// --- frames that begin with certain bytes
// --------------------------------------------------------------

fn started(framing: Framing, checksum: Option<Checksum>) -> Settings {
    Settings { start: b"\x42\x4D".to_vec(), ..settings(framing, checksum) }
}

/// Frames of eight bytes: the start, and six that tell the frame and their place.
fn numbered(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|frame| (0..6).map(|at| 0x80 | frame << 3 | at).collect()).collect()
}

/// What is to be found of frames of so many bytes if this byte is lost: of its frame nothing, and
/// if it was of a start, nothing of the one before either, for what is behind that is no start.
fn without(frames: &[Vec<u8>], lost: usize, size: usize) -> Vec<Vec<u8>> {
    let (hit, within) = (lost / size, lost % size);
    let is_lost = |frame: usize| frame == hit || (within < 2 && frame + 1 == hit);
    (0..frames.len()).filter(|frame| !is_lost(*frame)).map(|frame| frames[frame].clone()).collect()
}

#[test]
fn a_fixed_frame_that_lost_a_byte_is_dropped_and_no_later_one_is_shifted() {
    let frames = numbered(5);
    let sent: Vec<u8> = frames.iter().flat_map(|frame| [b"\x42\x4D", &frame[..]].concat()).collect();
    for lost in 0..sent.len() {
        let mut cut = sent.clone();
        cut.remove(lost);
        for chunk in [1, 3, cut.len()] {
            let (mut decoder, now) = opened(&started(Framing::Fixed(8), None));
            let mut found = Vec::new();
            cut.chunks(chunk).for_each(|part| found.extend(take(&mut decoder, now, part)));
            found.extend(pause(&mut decoder, now + SETTLE));
            found.extend(pause(&mut decoder, now + IDLE));
            assert_eq!(found, without(&frames, lost, 8), "without byte {lost}, {chunk} at once");
            assert!(decoder.counters().bad >= 1, "{lost}");
        }
    }
}

#[test]
fn a_fixed_size_beyond_the_longest_frame_gives_no_frame() {
    let settings = Settings { max_frame: 12, ..started(Framing::Fixed(17), None) };
    let sent: Vec<u8> = [&b"\x42\x4D"[..], &[0x11; 15]].concat().repeat(3);
    for chunk in [1, 5, sent.len()] {
        let (mut decoder, now) = opened(&settings);
        for part in sent.chunks(chunk) {
            assert!(take(&mut decoder, now, part).is_empty(), "{chunk}");
        }
        assert!(pause(&mut decoder, now + IDLE).is_empty(), "{chunk}");
        assert!(decoder.counters().too_long > 0, "{:?}", decoder.counters());
    }
}

#[test]
fn a_frame_with_a_length_that_lost_a_byte_costs_that_frame_only() {
    let frames = numbered(5);
    for checksum in [None, Some(Checksum::Crc16Modbus)] {
        let settings = started(header(Width::One, false, 2, 0), checksum);
        let sent: Vec<Vec<u8>> = frames
            .iter()
            .map(|frame| {
                let mut out = Vec::new();
                encode(&settings, frame, &mut out).unwrap();
                assert_eq!(out[..2], *b"\x42\x4D");
                out
            })
            .collect();
        let (whole, size) = (sent.concat(), sent[0].len());
        for lost in 0..whole.len() {
            let mut cut = whole.clone();
            cut.remove(lost);
            let (mut decoder, now) = opened(&settings);
            let mut found = take(&mut decoder, now, &cut);
            found.extend(pause(&mut decoder, now + SETTLE));
            found.extend(pause(&mut decoder, now + IDLE));
            let mut expected = without(&frames, lost, size);
            if checksum.is_some() && expected.len() < 4 {
                // It needs no start behind it to count.
                expected.insert(lost / size - 1, frames[lost / size - 1].clone());
            }
            assert_eq!(found, expected, "without byte {lost}, {checksum:?}");
        }
    }
}

#[test]
fn a_last_frame_with_a_start_counts_after_a_short_pause_and_a_cut_one_never() {
    let (mut decoder, now) = opened(&started(Framing::Fixed(4), None));
    assert_eq!(take(&mut decoder, now, b"\x42\x4Dab"), [b""; 0]);
    assert_eq!(decoder.poll_timeout(), Some(now + SETTLE));
    assert_eq!(pause(&mut decoder, now + SETTLE), [b"ab"]);
    let later = now + IDLE;
    assert_eq!(take(&mut decoder, later, b"\x42\x4Da"), [b""; 0]);
    assert_eq!(pause(&mut decoder, later + IDLE), [b""; 0]);
    assert_eq!(decoder.counters().bad, 1);
    assert_eq!(take(&mut decoder, later + IDLE, b"\x42\x4Dcd\x42\x4D"), [b"cd"]);
}

/// Frames of twelve bytes: the start, a number, the bytes of the start again, and six that follow
/// from the number.
fn doubled(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let tail = (0..6).map(|at| 0x80 | low.wrapping_mul(7).wrapping_add(at) & 0x3f);
    [0x42, 0x4D, high, low, 0x42, 0x4D].into_iter().chain(tail).collect()
}

#[test]
fn data_that_look_like_a_start_are_none_after_a_pause() {
    let settings = Settings { within: WITHIN, ..started(Framing::Fixed(12), None) };
    for lost in 0..12 {
        let (mut decoder, mut now) = opened(&settings);
        let mut found = Vec::new();
        for number in 0..8 {
            let mut frame = doubled(number);
            if number == 2 {
                frame.remove(lost);
            }
            found.extend(take(&mut decoder, now, &frame));
            // As the shell does: at each deadline before the next bytes.
            let next = now + Duration::from_millis(200);
            while let Some(at) = decoder.poll_timeout().filter(|at| *at < next) {
                found.extend(pause(&mut decoder, at));
            }
            now = next;
        }
        let expected: Vec<_> = (0..8).filter(|n| *n != 2).map(|n| doubled(n)[2..].to_vec()).collect();
        assert_eq!(found, expected, "without byte {lost}");
        assert_eq!((decoder.counters().bad, decoder.counters().dropped), (1, 11));
    }
}

proptest! {
    /// Every tenth frame or so loses a byte, or one too many comes. No bytes of two frames are ever
    /// published as one, though each frame has the bytes of the start in its data.
    #[test]
    fn data_that_look_like_a_start_are_none_in_a_stream_without_pauses(
        faults in prop::collection::vec((10u16..14, 0usize..12, any::<bool>(), 0x80u8..0xBF), 1..8),
        chunk in 1usize..40,
    ) {
        let (mut number, mut sent, mut hit) = (0u16, Vec::new(), Vec::new());
        for (after, at, is_lost, byte) in faults {
            for _ in 0..after {
                sent.extend(doubled(number));
                number += 1;
            }
            let mut frame = doubled(number);
            hit.push(number);
            number += 1;
            if is_lost {
                frame.remove(at);
            } else {
                frame.insert(at, byte);
            }
            sent.extend(frame);
        }
        (0..10).for_each(|more| sent.extend(doubled(number + more)));
        number += 10;
        let (mut decoder, now) = opened(&started(Framing::Fixed(12), None));
        let mut found = Vec::new();
        sent.chunks(chunk).for_each(|part| found.extend(take(&mut decoder, now, part)));
        found.extend(pause(&mut decoder, now + SETTLE));
        found.extend(pause(&mut decoder, now + IDLE));
        let all: Vec<Vec<u8>> = (0..number).map(|n| doubled(n)[2..].to_vec()).collect();
        prop_assert!(found.iter().all(|frame| all.contains(frame)), "{:x?}", found);
        // A fault costs its frame, and one of its neighbours if it hit a start.
        prop_assert!(found.len() + 2 * hit.len() >= all.len(), "{} of {}", found.len(), all.len());
    }
}

#[test]
fn a_start_of_one_byte_that_is_in_the_data_too_is_found_again_where_it_was_expected() {
    let settings = Settings { start: vec![2], ..settings(Framing::Fixed(8), None) };
    let frame = |number: u8| [2, 0x80 | number, 2, number | 0x40, 0x80, 0x81, 0x82, 0x83];
    for lost in 0..8 {
        let sent: Vec<u8> = (0..20).flat_map(|n| frame(n)[..].to_vec()).collect();
        let mut cut = sent.clone();
        cut.remove(5 * 8 + lost);
        let (mut decoder, now) = opened(&settings);
        let mut found = take(&mut decoder, now, &cut);
        found.extend(pause(&mut decoder, now + SETTLE));
        found.extend(pause(&mut decoder, now + IDLE));
        let is_sent = |found: &Vec<u8>| (0..20).any(|n| frame(n)[1..] == found[..]);
        assert!(found.iter().all(is_sent) && found.len() >= 18, "without byte {lost}: {found:x?}");
    }
}

#[test]
fn what_stands_before_the_start_in_a_gap_frame_is_dropped() {
    let (mut decoder, now) = opened(&started(Framing::Gap(Duration::from_millis(50)), None));
    take(&mut decoder, now, b"rest\x42\x4Dvalue");
    assert_eq!(pause(&mut decoder, now + Duration::from_millis(50)), [b"value"]);
    take(&mut decoder, now + IDLE, b"no start");
    assert_eq!(pause(&mut decoder, now + 2 * IDLE), [b""; 0]);
    let counters = decoder.counters();
    assert_eq!((counters.good, counters.bad, counters.dropped), (1, 1, 12));
}

#[test]
fn a_gap_frame_that_fails_its_checksum_counts_each_byte_once_and_a_later_start_is_tried() {
    let settings = started(Framing::Gap(Duration::from_millis(50)), Some(Checksum::Crc16Modbus));
    let (mut decoder, now) = opened(&settings);
    take(&mut decoder, now, b"rest\x42\x4Ddamaged");
    assert_eq!(pause(&mut decoder, now + Duration::from_millis(50)), [b""; 0]);
    assert_eq!((decoder.counters().bad, decoder.counters().dropped), (1, 13));
    let mut frame = Vec::new();
    encode(&settings, b"value", &mut frame).expect("a frame");
    take(&mut decoder, now + IDLE, &[b"\x42\x4Dcut", &frame[..]].concat());
    assert_eq!(pause(&mut decoder, now + 2 * IDLE), [b"value"]);
    let counters = decoder.counters();
    assert_eq!((counters.good, counters.bad, counters.dropped), (1, 1, 18));
}

#[test]
fn data_that_is_too_long_once_its_sequences_are_doubled_is_not_encoded() {
    let escape = Some(Escape::Doubled(b"\x1b\x1b".to_vec()));
    let markers = Markers { start: b"\x1b\x1b\x01".to_vec(), end: b"\x1b\x1b\x1a".to_vec(), escape };
    let settings = Settings { max_frame: 8, ..settings(Framing::Markers(markers), None) };
    let (mut decoder, now) = opened(&settings);
    let mut frame = Vec::new();
    assert_eq!(encode(&settings, b"\x1b\x1b345678", &mut frame), Err(EncodeError::TooLong));
    assert!(frame.is_empty());
    encode(&settings, b"\x1b\x1b3456", &mut frame).expect("it fits");
    assert_eq!(take(&mut decoder, now, &frame), [b"\x1b\x1b3456"]);
}

#[test]
fn a_whole_frame_counts_with_its_markers_and_what_is_behind_its_end() {
    let ends = Framing::Line(line::End::Exactly(b"!".to_vec()));
    let settings = Settings { keep: 2, whole: true, max_frame: 8, ..settings(ends, None) };
    let (mut decoder, now) = opened(&settings);
    assert_eq!(take(&mut decoder, now, b"12345!ab"), [b"12345!ab"]);
    assert_eq!(take(&mut decoder, now, b"123456!ab"), [b""; 0]);
    assert_eq!(take(&mut decoder, now, b"1234!ab"), [b"1234!ab"]);
    let counters = decoder.counters();
    assert_eq!((counters.good, counters.bad), (2, 1));
}

#[test]
fn every_dropped_frame_has_a_reason_and_shows_its_first_bytes() {
    let small = |framing, checksum| Settings { max_frame: 20, ..settings(framing, checksum) };
    for (settings, bytes, why, first) in [
        (
            small(Framing::Line(End::Any), None),
            &b"0123456789012345678901\n"[..],
            Bad::TooLong,
            &b"0123456789012345"[..],
        ),
        (small(Framing::Line(End::Any), Some(Checksum::Xor)), b"abc\n", Bad::Checksum, b"abc"),
        (small(Framing::Slip, None), b"a\xDBx\xC0", Bad::Malformed, b"a"),
        (small(header(Width::One, false, 0, 0), None), b"\x7Fabc", Bad::TooLong, b"\x7Fabc"),
        (small(Framing::Fixed(3), Some(Checksum::Sum)), b"abc", Bad::Checksum, b"abc"),
        (small(Framing::Fixed(9), Some(Checksum::Crc16Modbus)), b"abc", Bad::Incomplete, b"abc"),
    ] {
        let (mut decoder, now) = opened(&settings);
        assert_eq!(take(&mut decoder, now, bytes), [b""; 0]);
        pause(&mut decoder, now + IDLE);
        let (found, shown) = decoder.take_bad().unwrap();
        assert_eq!((found, shown.starts_with(&first[..1])), (why, true), "{settings:?} {shown:?}");
        assert!(shown.len() <= SHOWN_MAX);
        let counters = decoder.counters();
        let sum =
            counters.too_long + counters.checksum + counters.malformed + counters.incomplete + counters.cut;
        assert_eq!((sum, sum > 0), (counters.bad, true), "{counters:?}");
        assert_eq!(decoder.take_bad(), None);
    }
}

#[test]
fn with_skip_first_what_was_begun_before_the_opening_is_dropped_however_late_it_comes() {
    for (framing, rest, whole) in [
        (Framing::Line(End::Any), &b"3.5\n"[..], &b"23.5\n"[..]),
        (Framing::Slip, b"3.5\xC0", b"23.5\xC0"),
        (Framing::Gap(Duration::from_millis(50)), b"3.5", b"23.5"),
    ] {
        let wanted = Settings { skip_first: true, ..settings(framing.clone(), None) };
        let (mut decoder, now) = opened(&wanted);
        let mut found = take(&mut decoder, now, rest);
        found.extend(pause(&mut decoder, now + SETTLE));
        assert_eq!(found, [b""; 0], "{framing:?}");
        found.extend(take(&mut decoder, now + IDLE, whole));
        found.extend(pause(&mut decoder, now + IDLE + SETTLE));
        assert_eq!(found, [b"23.5"], "{framing:?}");
        assert_eq!(decoder.counters().bad, 0);
    }
}

#[test]
fn a_line_that_stands_still_for_longer_than_is_allowed_is_not_joined_to_what_comes_then() {
    let ms = Duration::from_millis;
    let of = |framing| Settings { silence: Some(ms(2_000)), ..settings(framing, None) };
    for (framing, half, rest, next) in [
        // The device starts anew, or its cable is plugged in again.
        (Framing::Line(End::Any), &b"T=2"[..], &b"T=21.5\n"[..], &b"T=22.0\n"[..]),
        (Framing::Line(End::Exactly(b"\r\n".to_vec())), b"T=2\r", b"\n1.5\r\n", b"T=22.0\r\n"),
        (markers(b"$", b"\n", None), b"$T=2", b"1.5\n", b"$T=22.0\n"),
        (Framing::Slip, b"\xc0T=2", b"1.5\xc0", b"T=22.0\xc0"),
    ] {
        let (mut decoder, now) = opened(&of(framing.clone()));
        assert!(take(&mut decoder, now, half).is_empty());
        // As long as that, a device may pause.
        assert!(pause(&mut decoder, now + ms(1_999)).is_empty());
        assert_eq!(decoder.poll_timeout(), Some(now + ms(2_000)));
        assert!(pause(&mut decoder, now + ms(2_000)).is_empty());
        assert_eq!(
            (decoder.counters().incomplete, decoder.take_bad().map(|bad| bad.0)),
            (1, Some(Bad::Incomplete))
        );
        let later = now + ms(60_000);
        assert!(take(&mut decoder, later, rest).is_empty(), "{framing:?}");
        assert_eq!(take(&mut decoder, later, next), [b"T=22.0"], "{framing:?}");
        // The timer may come too late.
        assert!(take(&mut decoder, later + ms(100), half).is_empty());
        assert!(take(&mut decoder, later + ms(9_000), rest).is_empty(), "{framing:?}");
        // Without the key it is one.
        let (mut decoder, now) = opened(&settings(framing, None));
        take(&mut decoder, now, half);
        assert_eq!(decoder.poll_timeout(), None);
        assert!(!take(&mut decoder, now + ms(60_000), rest).is_empty());
    }
}

#[test]
fn zeros_and_ff_of_a_cut_line_are_no_message_although_many_checksums_of_them_are_right() {
    let header = header(Width::One, false, 0, 2);
    for framing in [Framing::Fixed(8), Framing::Fixed(2), header, Framing::Gap(Duration::from_millis(50))] {
        for checksum in
            [Checksum::Xor, Checksum::Sum, Checksum::SumNegated, Checksum::Sum16, Checksum::Crc16Arc]
        {
            let settings = settings(framing.clone(), Some(checksum));
            for noise in [0, 0xFF] {
                let (mut decoder, now) = opened(&settings);
                for count in 0..100_u64 {
                    let at = now + Duration::from_millis(100 * count);
                    let mut found = pause(&mut decoder, at);
                    found.extend(take(&mut decoder, at, &[noise; 4]));
                    assert!(found.is_empty(), "{framing:?} {checksum:?} {noise}");
                }
                pause(&mut decoder, now + Duration::from_secs(60));
                let counters = decoder.counters();
                assert!(counters.bad > 0 || counters.dropped == counters.bytes);
                let mut good = Vec::new();
                let payload = &[0, 0, 0, 0, 0, 0, 1][..match framing {
                    Framing::Fixed(2) => 1,
                    _ => 8 - checksum.width(),
                }
                .min(7)];
                if encode(&settings, payload, &mut good).is_ok() && good.iter().any(|byte| *byte != 0) {
                    let found = take(&mut decoder, now + Duration::from_secs(90), &good);
                    let later = pause(&mut decoder, now + Duration::from_secs(120));
                    assert_eq!([found, later].concat(), [payload], "{framing:?} {checksum:?}");
                }
            }
        }
    }
}

#[test]
fn a_lost_byte_never_shifts_frames_whose_checksum_is_right_for_every_rotation() {
    let within = WITHIN;
    for checksum in [Checksum::Xor, Checksum::SumNegated] {
        let fixed = settings(Framing::Fixed(9), Some(checksum));
        let length = settings(header(Width::One, false, 1, 1), Some(checksum));
        let cases = [
            (Settings { within, ..fixed.clone() }, b"\x01\x02\x03\x04\x05\x06\x07\x08".to_vec()),
            (Settings { within, start: vec![0xAA], ..fixed }, b"\xAA\x02\xAA\x04\x05\xAA\x07\x08".to_vec()),
            (Settings { within, ..length.clone() }, b"\x01\x06\x11\x23\x45\x06\x9A\xBC".to_vec()),
            (Settings { within, start: vec![0x06], ..length }, b"\x06\x06\x31\x52\x06\x97\x2B\xE4".to_vec()),
        ];
        for (settings, body) in cases {
            let mut message = body.clone();
            settings.placement.append(checksum, &mut message);
            // A message of a second, of half of one, and of 200 ms; and the byte that is lost.
            for (every, lost) in [(1_000, 0), (500, 4), (200, 8), (200, 1)] {
                let (mut decoder, mut now) = opened(&settings);
                let mut frames = Vec::new();
                for number in 0..20 {
                    let mut bytes = message.clone();
                    if number == 5 {
                        bytes.remove(lost);
                    }
                    for byte in bytes {
                        frames.extend(take(&mut decoder, now, &[byte]));
                        now += Duration::from_millis(1);
                    }
                    let silent = now + Duration::from_millis(every);
                    while decoder.poll_timeout().is_some_and(|at| at <= silent) {
                        let at = decoder.poll_timeout().unwrap_or(silent);
                        frames.extend(pause(&mut decoder, at));
                    }
                    now = silent;
                }
                let right = frames.iter().filter(|frame| body.ends_with(frame)).count();
                let case = format!("{checksum:?} {:?} {every} {lost}", settings.framing);
                assert_eq!(right, frames.len(), "{case}");
                assert!((18..20).contains(&right), "{right} {case}");
            }
            // Without a silence nothing tells where one begins, unless a start does.
            let (mut decoder, now) = opened(&settings);
            let mut bytes = message.repeat(100);
            bytes.remove(14);
            let mut frames = take(&mut decoder, now, &bytes);
            frames.extend(pause(&mut decoder, now + IDLE));
            assert!(
                frames.iter().all(|frame| body.ends_with(frame)),
                "{checksum:?} {:?} {frames:x?}",
                settings.framing
            );
            let is_started = matches!(settings.framing, Framing::Fixed(_)) && !settings.start.is_empty();
            assert_eq!(frames.is_empty(), !is_started, "{:?}", settings.framing);
        }
    }
}

#[test]
fn a_port_that_is_opened_within_a_message_waits_for_a_silence_where_a_rotation_would_pass() {
    let fixed = settings(Framing::Fixed(4), Some(Checksum::Xor));
    let settings = Settings { within: WITHIN, ..fixed };
    let start = Instant::now();
    let mut decoder = Decoder::new(&settings, start);
    let now = start + Duration::from_millis(20);
    // The end of a message, and two more.
    assert!(take(&mut decoder, now, b"\x03\x00\x01\x02\x03\x00\x01\x02\x03\x00").is_empty());
    assert!(pause(&mut decoder, now + WITHIN).is_empty());
    // And a silence behind it.
    assert!(take(&mut decoder, now + WITHIN, b"\x01\x02\x03\x00").is_empty());
    assert_eq!(pause(&mut decoder, now + WITHIN * 2), [b"\x01\x02\x03"]);
    // As behind each one.
    assert!(take(&mut decoder, now + WITHIN * 2, b"\x01\x02\x03\x00").is_empty());
    assert_eq!(pause(&mut decoder, now + WITHIN * 3), [b"\x01\x02\x03"]);
}

/// Sends the message again and again with such pauses, in pieces as a network has them, and holds
/// it back where that is said: the frames that came.
fn stream(
    message: &[u8],
    (every, piece): (Duration, usize),
    hold: impl Fn(usize) -> Duration,
) -> (Vec<Vec<u8>>, Counters) {
    let settings =
        Settings { within: WITHIN, ..settings(Framing::Fixed(message.len()), Some(Checksum::Xor)) };
    let (mut decoder, mut now) = opened(&settings);
    let mut frames = Vec::new();
    // One alone, by which the place is known.
    let mut pieces = vec![(message.to_vec(), WITHIN * 2)];
    let bytes = message.repeat(400);
    let times = u32::try_from(message.len()).unwrap();
    pieces.extend(
        bytes
            .chunks(piece)
            .map(|piece| (piece.to_vec(), every * u32::try_from(piece.len()).unwrap() / times)),
    );
    for (at, (piece, wait)) in pieces.into_iter().enumerate() {
        let due = now + hold(at);
        while let Some(silent) = decoder.poll_timeout().filter(|silent| *silent <= due) {
            frames.extend(pause(&mut decoder, silent));
        }
        frames.extend(take(&mut decoder, due, &piece));
        now = due + wait;
        while let Some(silent) = decoder.poll_timeout().filter(|silent| *silent <= now) {
            frames.extend(pause(&mut decoder, silent));
        }
    }
    (frames, decoder.counters())
}

#[test]
fn what_never_pauses_between_its_messages_gives_none_however_it_stalls_where_a_rotation_would_pass() {
    let message = b"\x01\x03\x00\xe6\x0f\xa0\x00\x00\x4b";
    let ms = Duration::from_millis;
    for every in [20, 50] {
        // A converter that stalls once, at each place; and twice in one message.
        for stall in 1..30 {
            let (frames, counters) = stream(message, (ms(every), 4), |at| {
                if [stall, stall + 1, 100].contains(&at) { ms(150) } else { ms(0) }
            });
            assert!(frames.iter().all(|frame| frame[..] == message[..8]), "{every} {stall}");
            // The one that was alone, and whole ones between two stalls.
            assert!((1..20).contains(&frames.len()) && counters.bad > 0, "{every} {stall}");
        }
        // One whose packets hold more than a message, each after a silence.
        let (frames, _) = stream(message, (ms(100), 16), |_| ms(0));
        assert!(frames.iter().all(|frame| frame[..] == message[..8]), "{every}");
    }
}

#[test]
fn behind_a_silence_bytes_that_are_no_whole_messages_give_none_where_a_rotation_would_pass() {
    let message = b"\x01\x06\x00\xe6\x0f\xa0\x00\x00\x4e";
    for framing in [Framing::Fixed(9), header(Width::One, false, 1, 1)] {
        let settings = Settings { within: WITHIN, ..settings(framing, Some(Checksum::Xor)) };
        let (mut decoder, mut now) = opened(&settings);
        let bytes = message.repeat(200);
        for packet in bytes.chunks(16) {
            let found = take(&mut decoder, now, packet);
            assert!(found.is_empty() && pause(&mut decoder, now + WITHIN).is_empty());
            now += WITHIN;
        }
        let counters = decoder.counters();
        assert_eq!((counters.good, counters.dropped, counters.bytes), (0, 1_800, 1_800));
        assert!(counters.bad > 100);
    }
}

pub(super) const ALL: [Checksum; 13] = [
    Checksum::Crc16Modbus,
    Checksum::Crc16Ccitt,
    Checksum::Crc32,
    Checksum::Crc16Arc,
    Checksum::Crc16Xmodem,
    Checksum::Crc16Kermit,
    Checksum::Crc16X25,
    Checksum::Xor,
    Checksum::Sum,
    Checksum::SumNegated,
    Checksum::Sum16,
    Checksum::Sum16Negated,
    Checksum::Linky,
];

#[test]
fn what_tells_where_a_frame_of_a_fixed_size_begins_follows_from_how_its_checksum_is_computed() {
    let begin =
        |checksum, start: &[u8]| Begin::of(&Framing::Fixed(9), Some(checksum), Placement::default(), start);
    for checksum in ALL {
        let expected = match checksum {
            Checksum::Crc16Arc | Checksum::Crc16Xmodem | Checksum::Crc16Kermit => Begin::Doubtful,
            checksum if checksum.is_crc() => Begin::Frame,
            _ => Begin::Silence,
        };
        assert_eq!(begin(checksum, b""), expected, "{checksum:?}");
        assert_eq!(begin(checksum, b"\x42"), Begin::Frame, "{checksum:?}");
    }
    // In the other order of its bytes it is no register any more.
    let swapped = Placement { low_first: Some(true), ..Placement::default() };
    assert!(!swapped.hides_zeros(Checksum::Crc16Xmodem));
}

/// What a device of the table below sends.
#[derive(Clone, Copy, Debug)]
struct Device {
    checksum: Checksum,
    /// Zeros that each message begins with.
    zeros: usize,
    /// The values are always the same.
    is_constant: bool,
    /// The last byte of each message is zero, the checksum of some values.
    ends_with_zero: bool,
    pause: Duration,
}

impl Device {
    fn settings(&self) -> Settings {
        let size = 7 + self.checksum.width();
        let mut settings = settings(Framing::Fixed(size), Some(self.checksum));
        let begin = Begin::of(&settings.framing, settings.checksum, settings.placement, b"");
        settings.within = if begin == Begin::Frame { IDLE } else { WITHIN_LOCAL };
        settings
    }

    fn message(&self, number: usize) -> Vec<u8> {
        let number = if self.is_constant { 7 } else { u16::try_from(number).unwrap() };
        let mut body = if self.zeros == 0 { vec![0x42] } else { vec![0; self.zeros] };
        body.extend(number.to_be_bytes());
        body.extend([0x01, 0x17, 0x02, 0x2a, 0x15]);
        body.truncate(7);
        let mut message = body.clone();
        self.settings().placement.append(self.checksum, &mut message);
        for value in 0..u16::MAX {
            if !self.ends_with_zero || message.last() == Some(&0) {
                break;
            }
            message = body.clone();
            message[5..7].copy_from_slice(&value.to_be_bytes());
            self.settings().placement.append(self.checksum, &mut message);
        }
        message
    }

    /// Right and false frames of these messages, changed so.
    fn read(&self, messages: &[Vec<u8>], change: &dyn Fn(usize, &mut Vec<u8>)) -> (usize, usize) {
        let settings = self.settings();
        let start = Instant::now();
        let mut decoder = Decoder::new(&settings, start);
        let (mut now, mut frames) = (start + Duration::from_millis(20), Vec::new());
        let due = |decoder: &mut Decoder, until: Instant, frames: &mut Vec<Vec<u8>>| {
            while let Some(at) = decoder.poll_timeout().filter(|at| *at <= until) {
                frames.extend(pause(decoder, at));
            }
        };
        for (number, message) in messages.iter().enumerate() {
            let mut message = message.clone();
            change(number, &mut message);
            for byte in message {
                due(&mut decoder, now, &mut frames);
                frames.extend(take(&mut decoder, now, &[byte]));
                now += Duration::from_millis(1);
            }
            now += self.pause;
        }
        due(&mut decoder, now + IDLE * 3, &mut frames);
        let right = frames.iter().filter(|frame| messages.iter().any(|sent| sent[..7] == frame[..])).count();
        (right, frames.len() - right)
    }
}

#[test]
fn a_lost_byte_makes_no_false_reading_of_frames_of_a_fixed_size_whatever_the_checksum() {
    let pauses = [0, 200].map(Duration::from_millis);
    for checksum in ALL {
        for (zeros, is_constant, ends_with_zero, pause) in (0..3)
            .flat_map(|zeros| [(zeros, false), (zeros, true)])
            .flat_map(|(zeros, same)| [(zeros, same, false), (zeros, same, true)])
            .flat_map(|(zeros, same, ends)| pauses.map(|pause| (zeros, same, ends, pause)))
        {
            let device = Device { checksum, zeros, is_constant, ends_with_zero, pause };
            // A checksum of Linky never ends with a zero. A CRC of changing values does 1 time
            // in 256: three in a row that do, without a pause, are taken for the messages.
            if ends_with_zero && (!is_constant && pause.is_zero() || checksum == Checksum::Linky) {
                continue;
            }
            let messages: Vec<_> = (0..40).map(|number| device.message(number)).collect();
            let size = messages[0].len();
            for lost in 0..size {
                let lose = |message: &mut Vec<u8>| {
                    message.remove(lost);
                };
                type Change<'a> = &'a dyn Fn(usize, &mut Vec<u8>);
                let cases: [(&str, Change<'_>); 4] = [
                    ("in a stream", &|number, message| {
                        if number == 20 {
                            lose(message)
                        }
                    }),
                    ("at the opening", &|number, message| {
                        if number == 1 {
                            lose(message)
                        }
                    }),
                    ("opened within one", &|number, message| {
                        if number == 0 {
                            message.drain(..=lost);
                        }
                    }),
                    ("after a bad one", &|number, message| match number {
                        20 => message[3] ^= 1,
                        22 => lose(message),
                        _ => {}
                    }),
                ];
                for (case, change) in cases {
                    let (right, wrong) = device.read(&messages, change);
                    assert_eq!(wrong, 0, "{right} right, byte {lost} lost {case}: {device:?}");
                    let begin =
                        Begin::of(&device.settings().framing, Some(checksum), Placement::default(), b"");
                    let least = match begin {
                        // They never pause.
                        Begin::Silence if pause.is_zero() => 0,
                        // Nothing tells where one begins that ends with a zero.
                        Begin::Doubtful if pause.is_zero() && (ends_with_zero || is_constant) => 0,
                        _ => 34,
                    };
                    assert!(right >= least, "{right} right, byte {lost} lost {case}: {device:?}");
                }
            }
        }
    }
}

#[test]
fn the_first_message_after_the_opening_may_end_with_a_zero_where_a_crc_begins_with_zero() {
    for checksum in [Checksum::Crc16Arc, Checksum::Crc16Xmodem, Checksum::Crc16Kermit] {
        let pause = Duration::from_secs(1);
        let device = Device { checksum, zeros: 0, is_constant: true, ends_with_zero: true, pause };
        let message = device.message(0);
        let body = &message[..message.len() - 2];
        let settings = device.settings();
        let (mut decoder, now) = opened(&settings);
        assert!(take(&mut decoder, now, &message).is_empty(), "{checksum:?}: the next byte may come yet");
        assert_eq!(self::pause(&mut decoder, now + WITHIN), [body], "{checksum:?}");
        assert_eq!(decoder.counters().bad, 0);
        // Opened within a stream, it may be parts of two.
        let (mut decoder, now) = opened(&settings);
        let stream = [&message[1..], &[0], &message[1..], &[0], &message[1..]].concat();
        let mut frames = take(&mut decoder, now, &stream);
        frames.extend(self::pause(&mut decoder, now + WITHIN));
        assert!(frames.iter().all(|frame| *frame == body), "{checksum:?}: {frames:x?}");
    }
}

#[test]
fn a_stream_of_equal_messages_goes_on_after_a_lost_zero_with_a_crc_that_begins_with_zero() {
    for checksum in [Checksum::Crc16Arc, Checksum::Crc16Xmodem, Checksum::Crc16Kermit] {
        let pause = Duration::ZERO;
        let device = Device { checksum, zeros: 1, is_constant: true, ends_with_zero: false, pause };
        // Two messages have come in step.
        let messages = vec![device.message(0); 40];
        let (right, wrong) = device.read(&messages, &|number, message| match number {
            0 => message[1] = 0x99,
            20 => {
                message.remove(0);
            }
            _ => {}
        });
        assert!(wrong == 0 && right == 0, "nothing tells where one begins: {right} {wrong}");
        let settings = device.settings();
        let (mut decoder, now) = opened(&settings);
        let message = device.message(0);
        let mut frames = take(&mut decoder, now, &message);
        frames.extend(self::pause(&mut decoder, now + WITHIN));
        let mut stream = message.repeat(20);
        stream.remove(5 * message.len());
        frames.extend(take(&mut decoder, now + WITHIN * 2, &stream));
        assert!(frames.iter().all(|frame| frame[..] == message[..7]), "{frames:x?}");
        assert!(frames.len() >= 18, "{}", frames.len());
    }
}

#[test]
fn the_pause_that_comes_again_and_again_is_known_whatever_is_read_late() {
    let ms = Duration::from_millis;
    let message = b"\x08\x42\x4d\x00\x01\x17\x2a\x05\x00\x5a";
    for framing in [Framing::Fixed(9), header(Width::One, false, 0, 0)] {
        let wanted = Settings { within: WITHIN_LOCAL, ..settings(framing, Some(Checksum::Xor)) };
        let mut now = Instant::now();
        let mut decoder = Decoder::new(&wanted, now);
        for count in 0..400 {
            now += ms(if count % 50 == 7 {
                74
            } else if count % 40 == 5 {
                28
            } else {
                20
            });
            take(&mut decoder, now, message);
        }
        assert_eq!(decoder.awaited_silence().map(|awaited| awaited.longest), Some(ms(20)));
    }
}

/// Messages of 10 ms, one each 200 ms, read by a gateway that stands still from the second to the
/// fifth; what is published.
fn stalled(settings: &Settings, messages: &[Vec<u8>]) -> (Decoder, Vec<Vec<u8>>) {
    let ms = Duration::from_millis;
    let (mut decoder, start) = opened(settings);
    decoder.watch(start);
    let mut found = Vec::new();
    // The time from the first message on, and what waits to be read.
    let mut waiting: Vec<u8> = Vec::new();
    let mut last = start;
    for step in 0..200 {
        let now = start + ms(10 * step);
        if step % 20 == 1 {
            let next = usize::try_from(step / 20).unwrap();
            messages.get(next).iter().for_each(|message| waiting.extend_from_slice(message));
        }
        if (15..95).contains(&step) {
            continue;
        }
        let waited = now - std::mem::replace(&mut last, now);
        if !waiting.is_empty() {
            decoder.woken(now, waited);
            found.extend(take(&mut decoder, now, &std::mem::take(&mut waiting)));
            decoder.looked(now);
        }
        if [decoder.poll_timeout(), decoder.poll_look()].into_iter().flatten().any(|at| at <= now) {
            found.extend(pause(&mut decoder, now));
            decoder.looked(now);
        }
    }
    (decoder, found)
}

#[test]
fn messages_that_a_stall_of_the_gateway_joined_are_no_message_and_are_counted() {
    let gap = Framing::Gap(Duration::from_millis(50));
    for checksum in [
        None,
        Some(Checksum::Xor),
        Some(Checksum::Sum),
        // Of these, two messages joined pass for one, and "23.5" with its checksum for one that is
        // shorter and a zero before the next.
        Some(Checksum::Crc16Arc),
        Some(Checksum::Crc16Xmodem),
        Some(Checksum::Crc16Kermit),
    ] {
        for start in [&b""[..], b"T="] {
            let settings = Settings { start: start.to_vec(), ..settings(gap.clone(), checksum) };
            let payloads: Vec<Vec<u8>> = (0..10).map(|n| format!("2{n}.5").into_bytes()).collect();
            let framed = |payload: &Vec<u8>| {
                let mut frame = Vec::new();
                encode(&settings, payload, &mut frame).unwrap();
                frame
            };
            let messages: Vec<Vec<u8>> = payloads.iter().map(framed).collect();
            let (mut decoder, found) = stalled(&settings, &messages);
            assert_eq!(found, [&payloads[..1], &payloads[5..]].concat(), "{checksum:?}");
            let counters = decoder.counters();
            assert_eq!((counters.good, counters.bad, counters.stalled), (6, 1, 1), "{checksum:?}");
            assert_eq!(decoder.take_bad().map(|bad| bad.0), Some(Bad::Stalled));
        }
    }
}

#[test]
fn messages_that_a_stall_joined_are_taken_apart_by_their_crc_if_all_are_whole() {
    let gap = Framing::Gap(Duration::from_millis(50));
    for checksum in [Checksum::Crc16Modbus, Checksum::Crc16Ccitt, Checksum::Crc16X25, Checksum::Crc32] {
        for start in [&b""[..], b"T="] {
            let settings = Settings { start: start.to_vec(), ..settings(gap.clone(), Some(checksum)) };
            let payloads: Vec<Vec<u8>> = (0..10).map(|n| format!("2{n}.5").into_bytes()).collect();
            let framed = |payload: &Vec<u8>| {
                let mut frame = Vec::new();
                encode(&settings, payload, &mut frame).unwrap();
                frame
            };
            let mut messages: Vec<Vec<u8>> = payloads.iter().map(framed).collect();
            let (decoder, found) = stalled(&settings, &messages);
            assert_eq!(found, payloads, "{checksum:?}");
            assert_eq!((decoder.counters().good, decoder.counters().bad), (10, 0), "{checksum:?}");
            // One of them is damaged: nobody knows where it ends.
            messages[2][0] ^= 1;
            let (decoder, found) = stalled(&settings, &messages);
            assert_eq!(found, [&payloads[..1], &payloads[5..]].concat(), "{checksum:?}");
            assert_eq!((decoder.counters().good, decoder.counters().stalled), (6, 1), "{checksum:?}");
        }
    }
}

#[test]
fn a_part_of_a_message_before_a_stall_is_no_message_and_one_read_in_time_is() {
    let gap = Duration::from_millis(50);
    let (mut decoder, now) = opened(&settings(Framing::Gap(gap), None));
    decoder.watch(now);
    assert!(take(&mut decoder, now, b"T=2").is_empty());
    decoder.looked(now);
    // Much later than any pause: the rest waits.
    let late = now + 20 * gap;
    assert!(take(&mut decoder, late, b"1.5").is_empty());
    decoder.looked(late);
    assert!(pause(&mut decoder, late + gap).is_empty());
    assert_eq!((decoder.counters().stalled, decoder.counters().dropped), (1, 6));
    decoder.looked(late + gap);
    // A timer that is late with nothing to read saw the silence.
    let now = late + gap + gap / 2;
    assert!(take(&mut decoder, now, b"T=21.5").is_empty());
    decoder.looked(now);
    assert_eq!(pause(&mut decoder, now + 20 * gap), [b"T=21.5"]);
}

#[test]
fn bytes_full_of_ends_of_messages_cost_a_bounded_time() {
    let gap = Duration::from_millis(50);
    let settings =
        Settings { max_frame: FRAME_MAX, ..settings(Framing::Gap(gap), Some(Checksum::Crc16Modbus)) };
    let (mut decoder, now) = opened(&settings);
    decoder.watch(now);
    // Each end of a frame is one of all that begin before it, and nothing leads to the last byte.
    let mut frame = b"1".to_vec();
    Checksum::Crc16Modbus.append(&mut frame, 0);
    let mut bytes = frame.repeat(FRAME_MAX / frame.len() - 1);
    bytes.push(1);
    let late = now + 2 * gap;
    assert!(take(&mut decoder, late, &bytes).is_empty());
    decoder.looked(late);
    assert!(pause(&mut decoder, late + gap).is_empty());
    assert_eq!(decoder.counters().stalled, 1);
}

#[test]
fn a_zero_lost_in_front_of_a_message_with_its_length_is_not_seen_where_the_next_byte_is_the_length_too() {
    for (checksum, is_seen) in [
        (Checksum::Crc16Arc, false),
        (Checksum::Crc16Xmodem, false),
        (Checksum::Crc16Kermit, false),
        (Checksum::Crc16Modbus, true),
        (Checksum::Crc16X25, true),
        (Checksum::Crc32, true),
    ] {
        for start in [&b""[..], &[0]] {
            let header = header(Width::One, false, 1, 0);
            let settings = Settings { start: start.to_vec(), ..settings(header, Some(checksum)) };
            let mut frame = vec![0, 3 + checksum.width() as u8, 3 + checksum.width() as u8, b'2', b'1'];
            checksum.append(&mut frame, 0);
            let payload = &frame[2..5];
            let (mut decoder, now) = opened(&settings);
            assert_eq!(take(&mut decoder, now, &frame), [payload], "{checksum:?}");
            let lost = [&frame[1..], &frame, &frame].concat();
            let found = take(&mut decoder, now, &lost);
            let is_shifted = found.iter().any(|found| found != payload);
            assert_eq!(is_shifted, !is_seen && start.is_empty(), "{checksum:?} {start:?} {found:?}");
        }
    }
}

#[test]
fn a_fixed_size_without_start_and_checksum_gives_no_shifted_frame_whatever_was_lost() {
    let ms = Duration::from_millis;
    let message = b"\x01\x02\x03\x04\x05\x06\x07\x08";
    let wanted = Settings { within: WITHIN_LOCAL, ..settings(Framing::Fixed(8), None) };
    // A message each 200 ms, of which one loses a byte, two, or gains one; 1 byte a millisecond.
    for (number, at, lost) in [(5, 0, 1), (5, 7, 1), (5, 3, 2), (5, 0, 7), (0, 2, 1)] {
        let (mut decoder, mut now) = opened(&wanted);
        let mut frames = Vec::new();
        for count in 0..20 {
            let mut bytes = message.to_vec();
            if count == number {
                bytes.drain(at..(at + lost).min(8));
            }
            for byte in bytes {
                frames.extend(take(&mut decoder, now, &[byte]));
                now += ms(1);
            }
            frames.extend(pause(&mut decoder, now + WITHIN_LOCAL));
            now += ms(200);
        }
        assert_eq!(frames, vec![message.to_vec(); 19], "{number} {at} {lost}");
        assert_eq!((decoder.counters().burst, decoder.counters().good), (1, 19));
    }
    // Of a line that is never silent nothing is published, and what to do is known.
    let mut now = Instant::now();
    let mut decoder = Decoder::new(&wanted, now);
    for _ in 0..100 {
        now += ms(10);
        assert!(take(&mut decoder, now, message).is_empty());
        assert!(decoder.poll_timeout().is_none_or(|at| at > now));
    }
    let awaited = Awaited { wanted: WITHIN_LOCAL, longest: ms(10), takes_start: true };
    assert_eq!(decoder.awaited_silence(), Some(awaited));
    // What follows a question begins a message, and needs no silence behind it.
    decoder.clear();
    assert_eq!(take(&mut decoder, now, message), [message]);
}

/// Contents that make a decoder try as much as possible, for frames of this size.
fn hostile(settings: &Settings, size: usize, bytes: usize) -> Vec<(&'static str, Vec<u8>)> {
    let checksum = settings.checksum.unwrap_or(Checksum::Xor);
    let mut seed = 7_u32;
    let random: Vec<u8> = (0..bytes)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .collect();
    let cycle = |of: &[u8]| -> Vec<u8> { of.iter().copied().cycle().take(bytes).collect() };
    let framed = |body: &[u8]| {
        let mut frame = body.to_vec();
        settings.placement.append(checksum, &mut frame);
        frame
    };
    let width = settings.placement.width(checksum);
    let body = size.saturating_sub(width).max(1);
    let start = match settings.start.is_empty() {
        true => vec![0x42],
        false => settings.start.clone(),
    };
    let good = framed(&random[..body]);
    // Right at every place until its zeros are over, where the checksum begins with 0.
    let zeros = [framed(&[0, 0, 0x5A, 0x17]), vec![0; size]].concat();
    let tail = [vec![0; body.saturating_sub(2)], framed(&[0x5A, 0x17])].concat();
    let wrong = |at: usize| {
        let mut frame = good.clone();
        if let Some(byte) = frame.get_mut(at % size) {
            *byte ^= 1;
        }
        frame
    };
    let after = |head: &[u8], rest: &[u8]| cycle(&[head, rest].concat());
    vec![
        ("zeros", vec![0; bytes]),
        ("ones", vec![0xFF; bytes]),
        ("random", random.clone()),
        ("starts", cycle(&start)),
        ("starts and zeros", after(&start, &[0])),
        ("starts and a byte", after(&start, &[0x55])),
        (
            "starts and random",
            random.iter().flat_map(|byte| [&start[..], &[*byte]].concat()).take(bytes).collect(),
        ),
        ("a long length", after(&start, &[0x3F, 0xFF, 0x3F])),
        ("a short length", after(&start, &[0, 1])),
        ("one byte of length", cycle(&[0, 4])),
        ("lengths", cycle(&[0x0F, 0xF0])),
        ("nothing but good frames", cycle(&good)),
        ("a bad first byte", cycle(&wrong(0))),
        ("a bad middle", cycle(&wrong(size / 2))),
        ("a bad last byte", cycle(&wrong(size - 1))),
        ("good frames with a byte between", after(&good, &[0x77])),
        ("good frames with a byte less", cycle(&good[..size - 1])),
        ("zeros around a short frame", cycle(&zeros)),
        ("zeros before a short frame", cycle(&tail)),
        ("zeros and one", after(&vec![0; size], &[1])),
        ("ones and zero", after(&vec![0xFF; size], &[0])),
        ("half a frame of zeros", after(&vec![0; size / 2], &random[..size / 2])),
        ("a ramp", (0..bytes).map(|at| at as u8).collect()),
        ("ends", cycle(b"\n")),
        ("ends and bytes", cycle(b"a\n")),
        ("markers", cycle(b"<a>")),
        ("colons", cycle(b":A\t1\r\n")),
    ]
}

#[test]
fn the_work_for_a_byte_depends_neither_on_the_frame_nor_on_what_comes() {
    // A checksum tried is 64 steps.
    const STEPS_MAX: u64 = 256;
    for size in [64, 2048] {
        let long = |framing, checksum| Settings { max_frame: size, ..settings(framing, checksum) };
        let header = |offset| header(Width::Two, false, offset, 0);
        let started = |of: Settings| Settings { start: b"BM".to_vec(), ..of };
        let all =
            [Checksum::Crc32, Checksum::Crc16Modbus, Checksum::Sum, Checksum::Xor, Checksum::Crc16Kermit];
        let mut cases = Vec::new();
        for checksum in all.map(Some).into_iter().chain([None]) {
            cases.push(long(Framing::Fixed(size), checksum));
            cases.push(started(long(Framing::Fixed(size), checksum)));
            cases.push(long(header(0), checksum));
            cases.push(started(long(header(2), checksum)));
            cases.push(long(Framing::Gap(IDLE), checksum));
            cases.push(started(long(Framing::Gap(IDLE), checksum)));
            cases.push(long(Framing::Line(End::Any), checksum));
            let keep = checksum.map_or(0, Checksum::width);
            let lines = long(Framing::Line(End::Exactly(b"\n".to_vec())), checksum);
            cases.push(Settings { keep, label_end: Some(b'\t'), ..lines });
            cases.push(Settings { keep, ..long(markers(b"<", b">", None), checksum) });
        }
        for settings in cases {
            for (what, bytes) in hostile(&settings, size, 4 * size) {
                for piece in [1, 1024] {
                    for is_paused in [false, true] {
                        let (mut decoder, mut now) = opened(&settings);
                        for (number, piece) in bytes.chunks(piece).enumerate() {
                            if is_paused && number % 7 == 0 {
                                now += settings.within;
                                pause(&mut decoder, now);
                            }
                            take(&mut decoder, now, piece);
                        }
                        pause(&mut decoder, now + 2 * IDLE);
                        let each = decoder.buffer.bytes.steps() / bytes.len() as u64;
                        assert!(each <= STEPS_MAX, "{each} steps a byte: {what}, {settings:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_nobody_gave_of_a_written_frame_is_told() {
    let unknown = |settings: &Settings| settings.unknown_when_written().map(|(_, key)| key);
    let length = settings(header(Width::One, false, 2, 0), Some(Checksum::Xor));
    assert_eq!(unknown(&length), Some(Some("start")));
    assert_eq!(unknown(&Settings { start: b"B".to_vec(), ..length.clone() }), Some(Some("start")));
    assert_eq!(unknown(&Settings { start: b"BM".to_vec(), ..length }), None);
    let mut nmea = settings(markers(b"$", b"\r\n", None), Some(Checksum::Xor));
    assert_eq!(unknown(&nmea), None);
    nmea.placement.apart = 1;
    assert_eq!(unknown(&nmea), Some(Some("checksum-mark")));
    nmea.placement.mark = Some([b'*'; 8]);
    assert_eq!(unknown(&nmea), None);
    let sml = Settings { keep: 3, ..settings(markers(b"<", b">", None), Some(Checksum::Crc16X25)) };
    assert_eq!(unknown(&sml), Some(None));
}

#[test]
fn zeros_of_a_line_that_is_cut_are_malformed_whatever_the_checksum() {
    for checksum in [Checksum::Crc16Kermit, Checksum::Crc16Arc] {
        let (mut decoder, now) = opened(&settings(Framing::Fixed(8), Some(checksum)));
        take(&mut decoder, now, &[0; 100]);
        pause(&mut decoder, now + 2 * IDLE);
        let counters = decoder.counters();
        assert_eq!((counters.malformed, counters.checksum), (1, 0), "{checksum:?}");
    }
}

#[test]
fn the_rest_of_a_message_that_a_change_of_the_settings_cut_is_no_message() {
    let gap = Duration::from_millis(500);
    let (mut before, now) = opened(&settings(Framing::Gap(gap), None));
    take(&mut before, now, b"T=2");
    let mut after = Decoder::new(&settings(Framing::Gap(gap), None), now);
    after.follow(&before);
    let opened = now + Duration::from_millis(100);
    after.reopen(opened);
    assert_eq!(take(&mut after, opened + gap / 2, b"1.5"), [b""; 0]);
    assert_eq!(pause(&mut after, opened + 2 * gap), [b""; 0]);
    assert_eq!((after.counters().early, after.counters().dropped), (1, 3));
    take(&mut after, opened + 3 * gap, b"T=21.6");
    assert_eq!(pause(&mut after, opened + 4 * gap), [b"T=21.6"]);
    // Where it was silent for long enough, a message begins.
    let mut late = Decoder::new(&settings(Framing::Gap(gap), None), now);
    late.follow(&before);
    late.reopen(opened);
    take(&mut late, opened + gap, b"T=21.6");
    assert_eq!(pause(&mut late, opened + 2 * gap), [b"T=21.6"]);
}

#[test]
fn a_start_of_eight_bytes_is_found_again_whatever_byte_is_lost_or_wrong() {
    // The longest start, whose first bytes occur in it again, and in the data, too.
    let start = b"\xAA\x55\xAA\x55\xAA\x55\xAA\xA5".to_vec();
    let data = b"\x01\xAA\x55\xAA\x55\xAA\x55\xAA\x02\xAA\x55\x03\xAA";
    let length = [&start[..], &[13], data].concat();
    let bare = [&start[..], data].concat();
    let gap = Duration::from_millis(50);
    for checksum in
        [None, Some(Checksum::Crc16Modbus), Some(Checksum::Sum16Negated), Some(Checksum::SumNegated)]
    {
        let width = checksum.map_or(0, Checksum::width);
        for (framing, body) in [
            (Framing::Fixed(bare.len() + width), &bare),
            (header(Width::One, false, 8, i32::try_from(width).unwrap()), &length),
            (Framing::Gap(gap), &bare),
        ] {
            let settings =
                Settings { start: start.clone(), within: WITHIN, ..settings(framing.clone(), checksum) };
            let mut message = body.clone();
            if let Some(checksum) = checksum {
                checksum.append(&mut message, 0);
            }
            for at in 0..message.len() {
                for is_lost in [false, true] {
                    let mut damaged = message.clone();
                    match is_lost {
                        true => {
                            damaged.remove(at);
                        }
                        false => damaged[at] ^= 0x10,
                    }
                    let (mut decoder, mut now) = opened(&settings);
                    let mut frames = Vec::new();
                    for bytes in [&message, &message, &damaged, &message, &message, &message] {
                        frames.extend(take(&mut decoder, now, bytes));
                        // Each of its own, or, where they need no pause, all in one stream.
                        let is_weak = checksum.is_none_or(|checksum| checksum == Checksum::SumNegated);
                        if is_weak || matches!(framing, Framing::Gap(_)) || at.is_multiple_of(2) {
                            now += Duration::from_millis(200);
                            frames.extend(pause(&mut decoder, now));
                        }
                    }
                    frames.extend(pause(&mut decoder, now + IDLE));
                    // Without a checksum nothing tells a byte of the data that is wrong, and of a
                    // gap none that is lost.
                    let right = frames.iter().filter(|frame| frame[..] == data[..]).count();
                    let is_told =
                        checksum.is_some() || is_lost && !matches!(framing, Framing::Gap(_)) || at < 8;
                    assert!(
                        right >= 5,
                        "{framing:?} {checksum:?} {at} {is_lost}: {right} of {}",
                        frames.len()
                    );
                    assert!(!is_told || right == frames.len(), "{framing:?} {checksum:?} {at} {is_lost}");
                }
            }
        }
    }
}

/// Messages of random values, some of which lose a byte.
struct Noisy {
    checksum: Checksum,
    /// The first byte of each message.
    first: u8,
    /// At least so many of 100 messages end with a zero.
    ends: u64,
    /// There are two messages only.
    is_two: bool,
    pause: Duration,
}

impl Noisy {
    fn message(&self, rng: &mut SplitMix64) -> Vec<u8> {
        let settings = settings(Framing::Fixed(8), Some(self.checksum));
        loop {
            let is_ended = rng.below(100) < self.ends;
            let mut message = vec![self.first];
            message.extend(
                (0..5).map(|_| if rng.below(3) == 0 { u8::try_from(rng.below(256)).unwrap() } else { 0 }),
            );
            let is_blank = message.iter().all(|byte| *byte == 0);
            settings.placement.append(self.checksum, &mut message);
            if !is_blank && (!is_ended || message.last() == Some(&0)) {
                return message;
            }
        }
    }

    /// Messages sent, and right and false ones that were read.
    fn read(&self, seed: u64) -> (usize, usize, usize) {
        let mut rng = SplitMix64::new(seed);
        let mut settings = settings(Framing::Fixed(8), Some(self.checksum));
        settings.within = WITHIN;
        let start = Instant::now();
        let mut decoder = Decoder::new(&settings, start);
        let (mut now, mut frames, mut sent) = (start + Duration::from_millis(20), Vec::new(), Vec::new());
        let mut two = [self.message(&mut rng), self.message(&mut rng)];
        while two[1].last() == Some(&0) {
            two[1] = self.message(&mut rng);
        }
        for _ in 0..60 {
            let mut message = match self.is_two {
                true => two[usize::from(rng.below(2) == 1)].clone(),
                false => self.message(&mut rng),
            };
            sent.push(message[..6].to_vec());
            if rng.below(5) == 0 {
                message.remove(usize::try_from(rng.below(8)).unwrap());
            }
            while let Some(at) = decoder.poll_timeout().filter(|at| *at <= now) {
                frames.extend(pause(&mut decoder, at));
            }
            frames.extend(take(&mut decoder, now, &message));
            now += self.pause;
        }
        while let Some(at) = decoder.poll_timeout() {
            frames.extend(pause(&mut decoder, at));
        }
        let right = frames.iter().filter(|frame| sent.contains(frame)).count();
        (sent.len(), right, frames.len() - right)
    }
}

#[test]
fn a_device_whose_messages_sometimes_end_with_a_zero_gives_no_false_reading_though_every_fifth_loses_a_byte()
{
    let (mut sent, mut right) = (0, 0);
    for checksum in [Checksum::Crc16Arc, Checksum::Crc16Xmodem, Checksum::Crc16Kermit] {
        for (first, ends, is_two, pause, seed) in [0, 0x31]
            .into_iter()
            .flat_map(|first| [0, 4].map(|ends| (first, ends)))
            .flat_map(|(first, ends)| [false, true].map(|two| (first, ends, two)))
            .flat_map(|(first, ends, two)| [8, 40, 150].map(|pause| (first, ends, two, pause)))
            .flat_map(|(first, ends, two, pause)| (0..20).map(move |seed| (first, ends, two, pause, seed)))
        {
            let device = Noisy { checksum, first, ends, is_two, pause: Duration::from_millis(pause) };
            let (all, good, wrong) = device.read(seed + pause * 100 + ends * 10_000);
            assert_eq!(
                wrong, 0,
                "{checksum:?}, first {first}, ends {ends}, two {is_two}, {pause} ms, {seed}"
            );
            (sent, right) = (sent + all, right + good);
        }
    }
    // Four of five are whole; of these some are dropped, where nothing tells where they begin.
    assert!(right * 100 >= sent * 65, "{right} of {sent}");
}

/// Two messages of eight bytes, with the first byte of the first one lost: at `at` of what is left
/// a frame begins that is right by chance.
fn by_chance(settings: &Settings, at: usize) -> [Vec<u8>; 2] {
    let frame = |body: &[u8]| {
        let mut frame = Vec::new();
        encode(settings, body, &mut frame).unwrap();
        frame
    };
    let body = if matches!(settings.framing, Framing::Length(_)) { 5 } else { 6 };
    let first = frame(&[0x11; 6][..body]);
    for value in 0..=u16::MAX {
        let [high, low] = value.to_be_bytes();
        let second = frame(&[0x13, 0x22, high, low, 0x07, 0x06][..body]);
        let both = [&first[1..], &second].concat();
        if settings.placement.strip(settings.checksum.unwrap(), &both[at..at + 8]).is_some() {
            return [first, second];
        }
    }
    unreachable!("one of 65,536 is right")
}

#[test]
fn a_crc_that_is_right_by_chance_behind_a_lost_byte_makes_no_reading_of_parts_of_two_messages() {
    let short = ALL.iter().filter(|checksum| checksum.is_crc() && checksum.width() == 2);
    for (checksum, at) in short.flat_map(|checksum| (3..6).map(move |at| (*checksum, at))) {
        let settings = settings(Framing::Fixed(8), Some(checksum));
        let chance = by_chance(&settings, at);
        for (pause, others) in [0, 200].into_iter().flat_map(|pause| [0, 1, 3].map(|others| (pause, others)))
        {
            let other = |number: usize| {
                let mut other = Vec::new();
                encode(&settings, &[0x41, 9, 8, 7, 6, u8::try_from(number).unwrap()], &mut other).unwrap();
                other
            };
            let mut all = vec![other(9), chance[0][1..].to_vec(), chance[1].clone()];
            all.extend((0..others).map(other));
            let (mut decoder, mut now) = opened(&settings);
            let mut frames = Vec::new();
            for message in &all {
                while let Some(due) = decoder.poll_timeout().filter(|due| *due <= now) {
                    frames.extend(self::pause(&mut decoder, due));
                }
                frames.extend(take(&mut decoder, now, message));
                now += Duration::from_millis(pause);
            }
            while let Some(due) = decoder.poll_timeout() {
                frames.extend(self::pause(&mut decoder, due));
            }
            let sent = |frame: &Vec<u8>| all.iter().any(|message| message.starts_with(frame));
            assert!(
                frames.iter().all(sent),
                "{checksum:?}, at {at}, {pause} ms, {others} more: {frames:02x?}"
            );
            assert!(frames.len() > others, "{checksum:?}, at {at}, {pause} ms, {others} more: {frames:02x?}");
        }
    }
}

#[test]
fn a_device_that_sends_text_of_any_length_between_its_messages_is_read_from_the_fourth_on() {
    for checksum in [Checksum::Crc16Modbus, Checksum::Crc16Xmodem] {
        for (framing, gap) in [Framing::Fixed(8), header(Width::One, false, 0, 0)]
            .into_iter()
            .flat_map(|framing| [0, 40, 300, 700].map(|gap| (framing.clone(), gap)))
        {
            let mut settings = settings(framing, Some(checksum));
            settings.within = IDLE;
            let (mut decoder, mut now) = opened(&settings);
            let body = if matches!(settings.framing, Framing::Fixed(_)) { 6 } else { 5 };
            let mut frames = Vec::new();
            for number in 0..40 {
                let mut bytes = if number % 2 == 0 { b"T=5\r\n".to_vec() } else { b"H=417\r\n".to_vec() };
                encode(&settings, &[0x31, 2, 3, 4, number, 6][..body], &mut bytes).unwrap();
                while let Some(due) = decoder.poll_timeout().filter(|due| *due <= now) {
                    frames.extend(pause(&mut decoder, due));
                }
                frames.extend(take(&mut decoder, now, &bytes));
                now += Duration::from_millis(gap);
            }
            while let Some(due) = decoder.poll_timeout() {
                frames.extend(pause(&mut decoder, due));
            }
            assert!(frames.iter().all(|frame| frame[0] == 0x31), "{frames:02x?}");
            // A byte of text may be a length that leads over a message.
            let least = if matches!(settings.framing, Framing::Fixed(_)) { 34 } else { 28 };
            assert!(frames.len() >= least, "{checksum:?} {:?} {gap} ms: {}", settings.framing, frames.len());
        }
    }
}

#[test]
fn a_device_that_sends_other_bytes_before_each_message_is_read_by_its_crc() {
    for framing in [Framing::Fixed(8), header(Width::One, false, 0, 0)] {
        let settings = settings(framing, Some(Checksum::Crc16Modbus));
        let (mut decoder, now) = opened(&settings);
        let body = if matches!(settings.framing, Framing::Fixed(_)) { 6 } else { 5 };
        let mut stream = Vec::new();
        for number in 0..20 {
            stream.extend_from_slice(b"\r\n");
            encode(&settings, &[0x31, 2, 3, 4, number, 6][..body], &mut stream).unwrap();
        }
        let mut frames = take(&mut decoder, now, &stream);
        frames.extend(pause(&mut decoder, now + IDLE));
        assert!(frames.len() >= 18, "{}: {frames:02x?}", frames.len());
        assert!(frames.iter().all(|frame| frame[0] == 0x31), "{frames:02x?}");
    }
}

/// What becomes of every fifth delimiter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    None,
    Lost,
    /// It is a zero, where that is another byte.
    Zero,
}

/// What was read of messages of these sizes, in turn, with random values after `lead`; every fifth
/// is joined with the next one, as what ended it was lost. Messages sent, and right and false ones.
fn read_joined(settings: &Settings, sizes: &[usize], lead: &[u8], damage: Damage) -> (usize, usize, usize) {
    let mut rng = SplitMix64::new(7);
    let (mut decoder, mut now) = opened(settings);
    let (mut frames, mut sent) = (Vec::new(), Vec::new());
    for number in 0..400 {
        let mut payload = lead.to_vec();
        let size = sizes[number % sizes.len()];
        payload.resize_with(lead.len() + size, || u8::try_from(rng.below(256)).unwrap());
        let mut bytes = Vec::new();
        encode(settings, &payload, &mut bytes).unwrap();
        // As devices do that send none in front.
        if settings.framing == Framing::Slip {
            bytes.remove(0);
        }
        sent.push(payload);
        let (losses, zero) = (damage != Damage::None, damage == Damage::Zero);
        let is_lost = losses && number % 5 == 4;
        let pause_after = match settings.framing {
            Framing::Gap(gap) if !is_lost => gap,
            _ => Duration::from_millis(1),
        };
        if is_lost {
            match &settings.framing {
                Framing::Gap(_) => {}
                _ => drop(bytes.pop()),
            }
            if zero && settings.framing != Framing::Cobs {
                bytes.push(0);
            }
        }
        if number % 5 == 0 && losses && number > 0 && matches!(settings.framing, Framing::Markers(_)) {
            // Its start is the end of the one before, and was lost.
            bytes.remove(0);
        }
        frames.extend(take(&mut decoder, now, &bytes));
        now += pause_after;
        while let Some(at) = decoder.poll_timeout().filter(|at| *at <= now) {
            frames.extend(pause(&mut decoder, at));
        }
    }
    let right = frames.iter().filter(|frame| sent.contains(frame)).count();
    (sent.len(), right, frames.len() - right)
}

/// Framings and checksums with which the checksum of two messages in a row is right.
fn joining() -> Vec<Settings> {
    let framings = [
        Framing::Slip,
        Framing::Cobs,
        markers(b"\x7E", b"\x7E", Some(0x7D)),
        Framing::Gap(Duration::from_millis(50)),
    ];
    let checksums = [
        Checksum::Xor,
        Checksum::SumNegated,
        Checksum::Crc16Arc,
        Checksum::Crc16Xmodem,
        Checksum::Crc16Kermit,
    ];
    framings
        .iter()
        .flat_map(|framing| checksums.map(|checksum| settings(framing.clone(), Some(checksum))))
        .collect()
}

#[test]
fn two_messages_whose_delimiter_was_lost_are_no_message_though_their_joint_checksum_is_right() {
    for settings in joining() {
        for sizes in [&[8][..], &[12, 5], &[20, 31, 7]] {
            for damage in [Damage::Lost, Damage::Zero] {
                let (sent, right, wrong) = read_joined(&settings, sizes, &[], damage);
                // Every fifth is lost with the next one.
                let least = sent - sent / 5 * 2 + 1;
                assert!(right >= least && wrong == 0, "{settings:?} {sizes:?} {damage:?} {right} {wrong}");
            }
        }
    }
}

#[test]
fn messages_that_can_be_divided_by_chance_are_read_where_no_delimiter_is_lost() {
    // The XOR of two equal bytes is 0, so the begin of each is whole, too.
    for settings in joining() {
        for lead in [&[5, 5][..], &[0, 0, 0, 0]] {
            // Of several sizes, the first of each may be dropped.
            let any: Vec<usize> = (0..97).map(|at| 1 + at * 41 % 97 * 4).collect();
            for (sizes, dropped) in [(&[8][..], 0), (&[3, 1, 3, 7, 20], 2), (&any, 2)] {
                let (sent, right, wrong) = read_joined(&settings, sizes, lead, Damage::None);
                assert!(sent - right <= dropped && wrong == 0, "{settings:?} {sizes:?} {right}");
            }
        }
    }
}

#[test]
fn a_message_that_consists_of_whole_ones_by_chance_is_read_from_the_second_on() {
    for settings in joining() {
        let (mut decoder, mut now) = opened(&settings);
        let mut read = |payload: &[u8]| {
            let mut bytes = Vec::new();
            encode(&settings, payload, &mut bytes).unwrap();
            let mut frames = take(&mut decoder, now, &bytes);
            now += Duration::from_secs(1);
            frames.extend(pause(&mut decoder, now));
            frames.len()
        };
        let joined = |first: &[u8], second: &[u8]| {
            let mut first = first.to_vec();
            settings.placement.append(settings.checksum.unwrap(), &mut first);
            [&first[..], second].concat()
        };
        for number in 0..20 {
            assert_eq!(read(&[b'T', number, 7, 9]), 1);
        }
        // A part of it came alone, so it is two that were joined, however often they come.
        let joint = joined(&[b'T', 19, 7, 9], &[b'T', 20, 7, 9]);
        assert_eq!((0..5).map(|_| read(&joint)).sum::<usize>(), 0, "{settings:?}");
        let own = joined(b"lone", b"word");
        assert_eq!((0..5).map(|_| read(&own)).collect::<Vec<_>>(), [0, 1, 1, 1, 1], "{settings:?}");
    }
}

#[test]
fn of_a_device_that_closes_behind_the_first_zero_of_the_next_message_none_is_a_byte_too_long() {
    for checksum in [
        Checksum::Crc16Arc,
        Checksum::Crc16Xmodem,
        Checksum::Crc16Kermit,
        Checksum::Crc16Modbus,
        Checksum::Crc16Ccitt,
        Checksum::Crc16X25,
        Checksum::Crc32,
    ] {
        let settings = settings(Framing::Gap(Duration::from_millis(50)), Some(checksum));
        let mut whole = vec![1, 2, 3, 4];
        settings.placement.append(checksum, &mut whole);
        assert_ne!(whole.last(), Some(&0));
        // Of some, one with a zero behind it is wrong, and dropped for that.
        for (bytes, read) in [(whole.clone(), 1), ([&whole[..], &[0]].concat(), 0)] {
            let (mut decoder, now) = opened(&settings);
            take(&mut decoder, now, &bytes);
            decoder.cut(now);
            assert_eq!(pause(&mut decoder, now).len(), read, "{checksum:?}");
        }
    }
}

#[test]
fn messages_behind_a_lost_byte_of_the_length_are_read_when_the_line_is_silent() {
    for (checksum, start) in [
        (Checksum::Crc16Modbus, &b""[..]),
        (Checksum::Crc32, b""),
        (Checksum::Crc16Arc, b""),
        (Checksum::Sum, b""),
        (Checksum::Crc16Modbus, b"B"),
    ] {
        let framing = header(Width::One, false, start.len(), 0);
        let settings = Settings { start: start.to_vec(), ..settings(framing, Some(checksum)) };
        let (mut decoder, now) = opened(&settings);
        let mut sent = Vec::new();
        let mut bytes = Vec::new();
        for number in 0..9 {
            let payload = vec![0xC8, number, 0x31, 0x32 + number, 0x77];
            let begin = bytes.len();
            encode(&settings, &payload, &mut bytes).unwrap();
            // The next byte is taken for the length then.
            if number == 0 {
                bytes.remove(begin + start.len());
            }
            sent.push(payload);
        }
        let mut read = take(&mut decoder, now, &bytes);
        read.extend(pause(&mut decoder, now + IDLE));
        assert_eq!(read, sent[1..], "{checksum:?}");
        let counters = decoder.counters();
        assert_eq!((counters.good, counters.bad), (8, 1), "{checksum:?}");
        // And the next one is in step.
        let mut next = Vec::new();
        encode(&settings, b"next", &mut next).unwrap();
        assert_eq!(take(&mut decoder, now + 3 * IDLE, &next), [b"next"], "{checksum:?}");
    }
}
