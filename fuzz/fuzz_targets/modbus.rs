//! For any bytes on the line at any time: no panic, every request within its limits, every reading
//! is one JSON object; and no parsed template makes its validation panic.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo::message::Name;
use tombolo::proto::serial::modbus::ascii::Ascii;
use tombolo::proto::serial::modbus::change::Publish;
use tombolo::proto::serial::modbus::frame::{Speed, crc16};
use tombolo::proto::serial::modbus::learn::Notebook;
use tombolo::proto::serial::modbus::map::{Charset, Half, Kind, Order, Register};
use tombolo::proto::serial::modbus::mbap::{Arrived, Mbap};
use tombolo::proto::serial::modbus::model::TemplateTable;
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::plan::Limits;
use tombolo::proto::serial::modbus::settings::{Settings, Unit};
use tombolo::proto::serial::modbus::{Bus, Event, validate};

fuzz_target!(|bytes: &[u8]| run(bytes));

fn unit(address: u8) -> Unit {
    let register = |name: &str, table, address, kind| Register {
        name: name.to_owned(),
        table,
        address,
        kind,
        ..Register::default()
    };
    Unit {
        id: Name::parse("meter").expect("a name"),
        address,
        path: "data".to_owned(),
        period: Duration::from_secs(1),
        jitter: Duration::from_millis(100),
        publish: Publish::Always,
        registers: vec![
            register("a", Table::Holding, 0, Kind::U16),
            register("b", Table::Holding, 1, Kind::U16),
            Register { exponent: Some(3), ..register("power", Table::Holding, 2, Kind::I32) },
            register("scale", Table::Holding, 4, Kind::I16),
            register("day", Table::Holding, 5, Kind::Bcd(2)),
            Register { mask: Some(0x0FF0), ..register("digits", Table::Holding, 6, Kind::Bcd(4)) },
            register("count", Table::Holding, 7, Kind::Bcd(8)),
            register("high", Table::Holding, 9, Kind::U8(Half::High)),
            register("low", Table::Holding, 9, Kind::I8(Half::Low)),
            Register { mask: Some(0x0FF0), ..register("level", Table::Holding, 10, Kind::U16) },
            Register {
                bits: vec![(0, "pump".to_owned()), (15, "alarm".to_owned())],
                ..register("flags", Table::Holding, 11, Kind::U16)
            },
            Register {
                names: vec![(0, "off".to_owned()), (0x5A5A, "on".to_owned())],
                ..register("mode", Table::Holding, 12, Kind::I16)
            },
            Register {
                narrow: true,
                charset: Charset::Windows1252,
                ..register("label", Table::Holding, 13, Kind::String(4))
            },
            register("c", Table::Coil, 3, Kind::Bool(None)),
            register("d", Table::Input, 9, Kind::F32),
            Register { charset: Charset::Latin1, ..register("text", Table::Input, 11, Kind::String(2)) },
            Register { words: Order::Little, ..register("wide", Table::Input, 13, Kind::U64) },
            Register { answer_bytes: Some(1), ..register("odd", Table::Input, 40, Kind::I32) },
        ],
        limits: Limits { max_registers: 20, max_gap: 2 },
        timeout: Settings::TIMEOUT,
        pause: Duration::ZERO,
    }
}

/// The bytes are a script: what happens on the line, step by step.
fn run(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(table) = TemplateTable::parse(text)
    {
        let _ = validate::template("fuzzed", &table);
    }
    let _ = Notebook::parse(bytes);
    let mut ascii = Ascii::default();
    for piece in bytes.chunks(7) {
        ascii.push(piece, |frame| assert!(!frame.is_empty() && frame.len() <= bytes.len().max(4)));
    }
    assert!(ascii.noise() <= bytes.len() as u64);
    let mut mbap = Mbap::default();
    let (mut taken, mut request) = (0, vec![1, 3, 0, 0, 0, 1, 0x84, 0x0A]);
    mbap.wrap(&mut request);
    for piece in bytes.chunks(7) {
        mbap.push(piece, |arrived| {
            if let Arrived::Answer(frame) | Arrived::Late(frame) = arrived {
                // Six bytes of header are lost, two of checksum are there instead.
                taken += frame.len() + 4;
            }
        });
    }
    assert!(taken as u64 + mbap.noise() <= bytes.len() as u64);
    // Long ago enough for nothing; what counts are differences.
    let mut now = Instant::now();
    let settings = Settings {
        speed: Speed { baud: 9600, bits: 11 },
        timeout: Settings::TIMEOUT,
        interval: Duration::ZERO,
        backoff: Settings::BACKOFF,
        backoff_max: Settings::BACKOFF_MAX,
        echo: bytes.first().is_some_and(|byte| byte & 1 == 1),
        ascii: false,
        is_unnumbered: false,
        units: vec![unit(1), unit(2)],
    };
    let mut bus = Bus::new(settings, now, 1);
    bus.line_up(now);
    let mut sent = Vec::new();
    let mut script = bytes;
    while let Some((step, rest)) = script.split_first() {
        script = rest;
        match step {
            // Time passes.
            0..=63 => now += Duration::from_millis(u64::from(*step) * 7),
            64..=95 => {
                if let Some(at) = bus.poll_timeout() {
                    now = now.max(at);
                }
            }
            // A true answer to what was asked last.
            96..=127 => {
                if let [unit, function @ 1..=4, _, _, high, low, _, _] = sent[..] {
                    let quantity = usize::from(u16::from_be_bytes([high, low]));
                    let is_odd = function == 4 && sent[3] == 40;
                    let length = match function {
                        1 | 2 => quantity.div_ceil(8),
                        _ if is_odd => 1,
                        _ => 2 * quantity,
                    };
                    let mut answer = vec![unit, function, length as u8];
                    // The values are what the script says next, while it says anything.
                    let (data, rest) = script.split_at(length.min(script.len()));
                    script = if step % 2 == 0 { rest } else { script };
                    let own = |at: usize| if at % 4 < 2 { 0x5A } else { 0xA5 };
                    let said = |at: usize| data.get(at).copied().filter(|_| step % 2 == 0);
                    answer.extend((0..length).map(|at| said(at).unwrap_or(own(at))));
                    answer.extend(crc16(&answer).to_le_bytes());
                    bus.handle_bytes(now, &answer);
                }
            }
            128 => bus.line_down(now),
            129 => bus.line_up(now),
            // Raw bytes.
            length => {
                let (raw, rest) = script.split_at(usize::from(length - 129).min(script.len()));
                script = rest;
                bus.handle_bytes(now, raw);
            }
        }
        bus.handle_timeout(now);
        let mut buffer = Vec::new();
        while bus.poll_transmit(&mut buffer) {
            assert!(buffer.len() <= 256);
            sent.clone_from(&buffer);
        }
        while let Some(event) = bus.poll_event() {
            if let Event::Reading { payload, .. } = event {
                let reading: serde_json::Value = serde_json::from_slice(&payload).expect("a reading is JSON");
                assert!(reading.as_object().is_some_and(|fields| !fields.is_empty()));
            }
        }
    }
    // The bus goes on: with time, and true answers, there is something to do again.
    bus.line_up(now);
    assert!(bus.poll_timeout().is_some());
}
