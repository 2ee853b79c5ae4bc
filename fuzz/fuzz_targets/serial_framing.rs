//! Every framing with arbitrary streams, split arbitrarily, with pauses; its own frames decoded
//! again; and the questions to a device that answers anything at any time.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo::proto::serial::checksum::{Checksum, Placement};
use tombolo::proto::serial::framing::interleaved::Interleaved;
use tombolo::proto::serial::framing::length::{Header, Width};
use tombolo::proto::serial::framing::line::End;
use tombolo::proto::serial::framing::markers::{Escape, Markers};
use tombolo::proto::serial::framing::{Decoder, Framing, Settings, encode};
use tombolo::proto::serial::poll::{self, Poller};
use tombolo::proto::serial::charset::Charset;
use tombolo::proto::serial::reading::{Decimal, Extractor, Form, Kind, Notation, Room, Scale};

fuzz_target!(|data: &[u8]| {
    let [kind, checksum, shape, max, cut, stream @ ..] = data else { return };
    let marker = |bytes: &[u8]| bytes.to_vec();
    let framing = match kind % 10 {
        0 => Framing::Line(End::Any),
        1 => Framing::Line(End::Exactly(vec![b'\r', b'\n', *shape][..1 + usize::from(shape % 3)].to_vec())),
        2 => Framing::Slip,
        3 => Framing::Cobs,
        4 => Framing::Length(Header {
            width: [Width::One, Width::Two, Width::Four][usize::from(shape % 3)],
            little_endian: shape & 8 != 0,
            offset: usize::from(shape >> 4),
            adjust: i32::from(*shape as i8) / 8,
        }),
        5 => Framing::Gap(Duration::from_millis(20)),
        6 => Framing::Fixed(1 + usize::from(*shape)),
        7 => Framing::Markers(Markers { start: marker(b"\x02"), end: marker(b"\x03"), escape: Some(Escape::Before(0x10)) }),
        8 => {
            let escape = Some(Escape::Doubled(marker(b"\x1b\x1b")));
            Framing::Markers(Markers { start: marker(b"\x1b\x1b\x01"), end: marker(b"\x1b\x1b\x1a"), escape })
        }
        _ => Framing::Markers(Markers { start: marker(b"<<"), end: marker(b">|"), escape: None }),
    };
    let placement = Placement {
        low_first: [None, Some(true), Some(false)][usize::from(checksum / 16 % 3)],
        is_text: checksum & 128 != 0,
        from: usize::from(shape >> 5) % 4,
        apart: usize::from(checksum & 64 != 0),
        tail: usize::from(shape & 64 != 0) * 2,
        mark: (checksum & 64 != 0).then_some([b'*'; 8]),
    };
    let checksum = match checksum % 16 {
        0 => None,
        1 => Some(Checksum::Crc16Modbus),
        2 => Some(Checksum::Crc16Ccitt),
        3 => Some(Checksum::Crc32),
        4 => Some(Checksum::Xor),
        5 => Some(Checksum::Sum16),
        6 => Some(Checksum::SumNegated),
        7 => Some(Checksum::Crc16X25),
        8 => Some(Checksum::Crc16Arc),
        9 => Some(Checksum::Crc16Xmodem),
        10 => Some(Checksum::Crc16Kermit),
        11 => Some(Checksum::Linky),
        12 => Some(Checksum::Sum16Negated),
        _ => Some(Checksum::Sum),
    };
    // A start only where it fits before the length.
    let takes_start = match &framing {
        Framing::Length(header) => header.offset >= 2,
        Framing::Gap(_) | Framing::Fixed(_) => true,
        _ => false,
    };
    let start = if takes_start && max % 2 == 1 { b"\x42\x4D".to_vec() } else { Vec::new() };
    // Behind the end: the checksum alone, or with bytes before it.
    let takes_keep = matches!(framing, Framing::Line(End::Exactly(_)) | Framing::Markers(_));
    let behind = checksum.map_or(1, |checksum| placement.width(checksum)) + usize::from(*max % 3);
    let keep = if takes_keep && max % 4 < 2 { behind.min(8) } else { 0 };
    let settings = Settings {
        framing,
        checksum,
        max_frame: 8 + usize::from(*max) * 4,
        start,
        within: tombolo::proto::serial::framing::WITHIN,
        placement,
        skip_first: max % 11 == 0,
        keep,
        whole: keep > 0 && max % 2 == 1,
        label_end: (keep > 0 && max % 5 == 0).then_some(b'\t'),
        interleaved: (takes_keep && max % 7 == 0).then_some(Interleaved { start: b':', end: b'\n' }),
        silence: (max % 3 == 0).then_some(Duration::from_millis(100)),
    };

    ask(stream, shape & 1 == 1);

    let extractor =
        Extractor::new(Form::Json, Some("(?<a>[^;]*);?(?<b>.*)"), &[], "m/{a}").expect("a pattern");
    // As the device's own JSON, which only what is strictly that passes; in another charset, and
    // with a decimal comma.
    let strict = Extractor::new(Form::Json, None, &[], "data").expect("no pattern");
    let notation = Notation {
        charset: [Charset::Utf8, Charset::Latin1, Charset::Windows1252][usize::from(cut % 3)],
        decimal: [Decimal::Any, Decimal::Point, Decimal::Comma][usize::from(max % 3)],
        decimals: vec![("b".to_owned(), Decimal::Comma)],
    };
    let number = Kind::Number(Scale { factor: 0.1, offset: f64::from(*shape) });
    let kinds = [("a", number), ("b", Kind::Auto)];
    let other = Extractor::new(Form::Json, Some("(?<a>[^;]*);?(?<b>.*)"), &kinds, "data").expect("a pattern");
    let readers = [extractor, strict.clone().with(notation.clone()), strict, other.with(notation)];
    let mut room = Room::default();
    let start = Instant::now();
    let mut now = start + Duration::from_secs(1);
    let mut decoder = Decoder::new(&settings, start);
    let mut good = 0;
    for piece in stream.chunks(1 + usize::from(*cut)) {
        decoder.handle_bytes(now, piece, &mut |frame| {
            good += 1;
            assert!(!frame.is_empty() && frame.len() <= settings.max_frame);
            for reader in &readers {
                if let Ok(reading) = reader.read(frame, &mut room) {
                    serde_json::from_slice::<serde_json::Value>(reading.payload).expect("JSON");
                }
            }
        });
        now += Duration::from_millis(u64::from(piece[0]));
        // The timer may come late, or the port be closed.
        match piece[0] % 5 {
            0 | 1 => decoder.handle_timeout(now, &mut |_| good += 1),
            2 => decoder.cut(now),
            3 if piece.len() > 3 => decoder.reopen(now),
            _ => {}
        }
    }
    decoder.handle_timeout(now + Duration::from_secs(100), &mut |_| good += 1);
    let counters = decoder.counters();
    assert_eq!((counters.good, counters.bytes), (good, stream.len() as u64));
    assert!(counters.dropped <= counters.bytes);

    // What it can frame comes back, on a line that is quiet. Frames with bytes behind their end,
    // those whose checksum is of bytes that were doubled, and those with interleaved messages are
    // only read.
    let mut frame = Vec::new();
    let is_doubled = matches!(&settings.framing, Framing::Markers(Markers { escape: Some(Escape::Doubled(_)), .. }));
    // And a checksum of less than nothing is wrong.
    let is_short = settings.checksum.is_some() && stream.len() < settings.placement.from;
    if is_short || settings.keep > 0 || settings.interleaved.is_some() || is_doubled && settings.checksum.is_some() {
        return;
    }
    if encode(&settings, stream, &mut frame).is_ok() {
        // Nothing else is what a cut line says.
        if settings.checksum.is_some() && [0, 0xFF].iter().any(|value| frame.iter().all(|byte| byte == value)) {
            return;
        }
        let mut decoder = Decoder::new(&Settings { skip_first: false, ..settings.clone() }, start);
        let mut back = Vec::new();
        decoder.handle_bytes(now, &frame, &mut |payload| back.push(payload.to_vec()));
        decoder.handle_timeout(now + Duration::from_secs(100), &mut |payload| back.push(payload.to_vec()));
        assert_eq!(back, [stream]);
    } else {
        assert!(frame.is_empty());
    }
});

/// The bytes are a script: what comes from a device that is asked, and when.
fn ask(script: &[u8], echo: bool) {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let wakes = script.len() % 3 == 0;
    let wake = wakes.then(|| poll::Wake { bytes: vec![0], pause: Duration::from_millis(300) });
    let settings = poll::Settings { question: b"A\r".to_vec(), period: 2 * second, timeout: second, echo, wake };
    let mut poller = Poller::new(settings, Some(b"A".to_vec()), start);
    poller.line_up(start);
    let (mut now, mut sent, mut used) = (start, Vec::new(), 0);
    for step in script.chunks(3) {
        match step[0] % 6 {
            0 => used += u64::from(poller.handle_frame(now, step)),
            1 => poller.handle_damage(),
            2 => assert!(poller.strip_echo(step).len() <= step.len() + 2),
            3 => poller.handle_part(now, None),
            4 => poller.handle_reading(step.len() > 1),
            _ => now += Duration::from_millis(u64::from(step[0]) * 10),
        }
        if poller.handle_timeout(now) {
            assert!(poller.poll_transmit(&mut sent));
        }
        let next = poller.poll_timeout().expect("the port is open");
        assert!(next <= now + 120 * second);
    }
    let counters = poller.counters();
    assert_eq!(counters.answers, used);
    assert!(counters.answers + counters.silent + counters.damaged <= counters.questions);
}
