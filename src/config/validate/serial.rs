//! `[serial.*]`: one port each. A fault disables only that port; units of a bus are checked in
//! `modbus`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::modbus::{self, Templates};
use super::{Context, built_with};
use crate::config::model::{self, Serial};
use crate::message::Name;
use crate::proto::serial::checksum::{Checksum, Placement};
use crate::proto::serial::framing::{
    self, Begin, FRAME_MAX, Framing, gap, interleaved, length, line, markers,
};
use crate::proto::serial::modbus::BuiltIn;
use crate::proto::serial::modbus::frame::Speed;
use crate::proto::serial::modbus::model::ModeWord;
use crate::proto::serial::reading::{
    Decimal, Extractor, ExtractorError, Form, Kind, Notation, PATH_DEFAULT, Scale, compile,
};
use crate::proto::serial::{poll, writer};
use crate::southbound::serial::settings::{Duty, FlowControl, Line, Parity, Port, PortName, Rs485};

/// Default of `max-frame`: the default payload limit of a role for one datagram.
const FRAME_DEFAULT: usize = 1024;

/// A fault: key within the port's table (empty = the table), message, remedy.
struct Fault(&'static str, String, String);

impl Fault {
    fn new(key: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Fault {
        Fault(key, message.into(), advice.into())
    }
}

/// The ports without a fault of their own, in name order.
pub(super) fn ports(cx: &mut Context<'_>, tables: &BTreeMap<String, Serial>) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    let mut templates = Templates::default();
    for (name, table) in tables {
        if table.enabled == Some(false) {
            continue;
        }
        let made = port(cx, &mut templates, name, table).and_then(|port| {
            let Some(own) = &port else { return Ok(port) };
            let others = ports.iter().filter(|other| other.port == own.port);
            match others.map(|other| shared(own, other)).find_map(Result::err) {
                Some(fault) => Err(fault),
                None => Ok(port),
            }
        });
        match made {
            Ok(Some(port)) => {
                advise(cx, name, table);
                advise_framing(cx, name, &port);
                ports.push(port);
            }
            // Its faults are already reported.
            Ok(None) => {}
            Err(Fault(key, message, advice)) => {
                let mut whole = vec!["serial", name.as_str()];
                whole.extend(key.split('.').filter(|part| !part.is_empty()));
                cx.fail(&format!("serial {name}"), &whole, message, &advice);
            }
        }
    }
    ports
}

/// Whether two tables may have one port: if both devices are asked, on a line with the same
/// settings.
fn shared(port: &Port, other: &Port) -> Result<(), Fault> {
    let is_asked = |port: &Port| matches!(port.duty, Duty::Readings { poll: Some(_), .. });
    let message = format!("serial.{} has this port", other.name);
    match (is_asked(port), is_asked(other)) {
        (true, true) if port.line == other.line => Ok(()),
        (true, true) => {
            let message = format!("{message} with other settings of the line");
            Err(Fault::new("port", message, "set baud and the other keys of the line to the same in both"))
        }
        (false, false) => Err(Fault::new("port", message, "give each its own")),
        _ => {
            let message = format!("{message}, and only one of both devices is asked");
            Err(Fault::new("port", message, "set poll in both, or give each its own"))
        }
    }
}

/// Warns about settings that work but are probably not intended.
fn advise(cx: &mut Context<'_>, name: &str, table: &Serial) {
    let numbered = table.port.as_deref().is_some_and(|port| {
        port.strip_prefix("/dev/tty").is_some_and(|rest| rest.starts_with("USB") || rest.starts_with("ACM"))
    });
    if numbered {
        let message = "this name depends on the order in which adapters are plugged in";
        let advice = "`tombolo serial list` shows the persistent name in /dev/serial/by-id";
        cx.warn(&format!("serial {name}"), &["serial", name, "port"], message, advice);
    }
    for (key, text) in [("start", &table.start), ("end", &table.end), ("line-end", &table.line_end)] {
        let Some(text) = text else { continue };
        let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if text.contains(' ') && text.split(' ').all(is_byte) {
            let message = format!("{text:?} is taken as {} characters, not as bytes", text.len());
            let advice = format!("for the bytes, set {key} = \"hex:{text}\"");
            cx.warn(&format!("serial {name}"), &["serial", name, key], message, &advice);
        }
    }
    if table.port.as_deref().is_some_and(|port| port.contains("tcp://")) {
        let line = [
            ("baud", table.baud.is_some()),
            ("data-bits", table.data_bits.is_some()),
            ("parity", table.parity.is_some()),
            ("stop-bits", table.stop_bits.is_some()),
            ("flow-control", table.flow_control.is_some()),
            ("rs485", table.rs485.is_some()),
        ];
        for (key, _) in line.iter().filter(|(_, set)| *set) {
            let message =
                "without effect: the port is reached over the network; its converter has these settings";
            cx.warn(
                &format!("serial {name}"),
                &["serial", name, key],
                message,
                "set it there, and take it out here",
            );
        }
    }
}

/// Warns of frames of a known length that nothing marks.
fn advise_framing(cx: &mut Context<'_>, name: &str, port: &Port) {
    let Duty::Readings { framing, poll, write, .. } = &port.duty else { return };
    if let Some((what, key)) = framing.unknown_when_written().filter(|_| write.is_some()) {
        let message = format!("commands are refused: {what} of a written frame are not known");
        let advice = match key {
            Some("start") => "set start to all bytes before the length; or take writable out".to_owned(),
            Some(key) => format!("set {key} to what the device expects there; or take writable out"),
            None => "take writable out: a device with this framing can only be read".to_owned(),
        };
        cx.warn(&format!("serial {name}"), &["serial", name, "writable"], message, &advice);
    }
    if framing.skip_first && matches!(framing.framing, Framing::Fixed(_) | Framing::Length(_)) {
        let message =
            "without effect: frames of a known length are found by what they are, not by a delimiter";
        cx.warn(&format!("serial {name}"), &["serial", name, "skip-first"], message, "take it out");
    }
    if let ([byte], None, Framing::Fixed(_), None) =
        (&framing.start[..], framing.checksum, &framing.framing, poll)
    {
        let message = format!(
            "a start of one byte ({byte:02X}) may occur in the data, too; without a pause between messages, \
             a reading could then be made of parts of two after bytes were lost"
        );
        let advice = "set checksum if the messages have one, or more bytes of the start if there are more";
        cx.warn(&format!("serial {name}"), &["serial", name, "start"], message, advice);
        return;
    }
    if let (1.., None, Framing::Length(_), None) =
        (framing.start.len(), framing.checksum, &framing.framing, poll)
    {
        let message = "without a checksum, a lost byte of the length makes another one the length; without a pause \
                       between messages, a reading could then be made of parts of several";
        let advice = "set checksum if the messages have one";
        cx.warn(&format!("serial {name}"), &["serial", name, "framing"], message, advice);
        return;
    }
    let begin = Begin::of(&framing.framing, framing.checksum, framing.placement, &framing.start);
    if begin != Begin::Frame && poll.is_none() && matches!(port.port, PortName::Tcp { .. }) {
        let start = match framing.framing {
            Framing::Length(_) => "let the converter send after each pause of the line",
            _ => {
                "set start to the bytes that each message begins with, with framing = \"fixed\"; or let the converter send after \
                 each pause of the line"
            }
        };
        let (message, advice) = match begin {
            _ if framing.checksum.is_none() => (
                "without start and checksum only silences tell where a message begins, and a converter that collects bytes \
                 makes its own",
                start,
            ),
            Begin::Doubtful => (
                "the checksum is right, too, for a message that is moved over zeros: where messages begin with 00 and a byte \
                 was lost, some give no reading until their values change a few times, or the line is silent for gap, and a \
                 converter that collects bytes makes its own silences; where most of them end with 00, too, they can be read a \
                 byte early",
                start,
            ),
            _ => (
                "the checksum is right for each rotation of a message, or for some, so only silences tell where one begins, \
                 and a converter that collects bytes makes its own",
                start,
            ),
        };
        let key = if framing.checksum.is_none() { "framing" } else { "checksum" };
        cx.warn(&format!("serial {name}"), &["serial", name, key], message, advice);
        return;
    }
    // What was begun is dropped before each question.
    if !framing.start.is_empty() || framing.checksum.is_some() || poll.is_some() {
        return;
    }
    let (message, advice) = match framing.framing {
        Framing::Fixed(_) => (
            "without start and checksum only silences (gap) tell where a message begins, and nothing tells whether a byte of \
             it is damaged",
            "set start to the bytes that each message begins with, or checksum, if it has them",
        ),
        Framing::Length(_) => (
            "without start and checksum, a lost byte makes other bytes the length, and readings of the rest",
            "set checksum if the messages have one, and start to the bytes that each begins with",
        ),
        _ => return,
    };
    cx.warn(&format!("serial {name}"), &["serial", name, "framing"], message, advice);
}

/// The settings of a port; `None` for a bus that cannot be used, after findings.
fn port(
    cx: &mut Context<'_>,
    templates: &mut Templates,
    name: &str,
    table: &Serial,
) -> Result<Option<Port>, Fault> {
    let port = table.port.as_deref().ok_or_else(|| {
        Fault::new(
            "",
            "there is no port",
            "set port, like \"/dev/serial/by-id/…\"; `tombolo serial list` shows them",
        )
    })?;
    let port = PortName::parse(port)
        .filter(|port| !matches!(port, PortName::Path(path) if !path.is_absolute()))
        .ok_or_else(|| {
            Fault::new(
                "port",
                format!("{port:?} is neither a whole path nor a USB adapter nor an address"),
                "use \"/dev/…\", \"usb:VVVV:PPPP\" or \"usb:VVVV:PPPP:SERIAL\" with hexadecimal numbers, \"tcp://HOST:PORT\", or \"modbus-tcp://HOST\"",
            )
        })?;
    let line = bits(table)?;
    let duty = if table.modbus.is_some() || !table.unit.is_empty() {
        fits_modbus(table, &line)?;
        let Some(built_in) = BuiltIn::here() else {
            let key = if table.modbus.is_some() { "modbus" } else { "unit" };
            let advice = format!("use {}, or take the port out", built_with("modbus"));
            return Err(Fault::new(key, BuiltIn::ABSENT, advice));
        };
        match modbus::bus(cx, templates, name, table, &line) {
            Some(bus) => Duty::Modbus(bus, built_in),
            None => return Ok(None),
        }
    } else if table.framing == Some(model::Framing::Slipmux) {
        slipmux(table)?
    } else {
        let poll = asked(table, &line)?;
        let write = written(table, poll.as_ref())?;
        Duty::Readings { framing: framing(table)?, extractor: extractor(table)?, poll, write }
    };
    if matches!(port, PortName::Tcp { has_header: true, .. }) && !matches!(duty, Duty::Modbus(..)) {
        let advice = "add a [serial.NAME.unit.ADDRESS] for each unit, or use tcp:// for plain bytes";
        return Err(Fault::new("port", "modbus-tcp:// is for a Modbus bus", advice));
    }
    let name = Name::parse(name).map_err(|error| Fault::new("", error.to_string(), "use another name"))?;
    Ok(Some(Port { name, port, line, duty }))
}

/// Keys of ports whose frames become readings of the port, and whether they are set.
fn of_readings(table: &Serial) -> [(&'static str, bool); 16] {
    [
        ("keep", table.keep.is_some()),
        ("whole", table.whole.is_some()),
        ("label-end", table.label_end.is_some()),
        ("interleaved-start", table.interleaved_start.is_some()),
        ("interleaved-end", table.interleaved_end.is_some()),
        ("charset", table.charset.is_some()),
        ("decimal", table.decimal.is_some()),
        ("poll", table.poll.is_some()),
        ("poll-period", table.poll_period.is_some()),
        ("poll-timeout", table.poll_timeout.is_some()),
        ("poll-echo", table.poll_echo.is_some()),
        ("wake", table.wake.is_some()),
        ("wake-pause", table.wake_pause.is_some()),
        ("writable", table.writable.is_some()),
        ("answer", table.answer.is_some()),
        ("answer-timeout", table.answer_timeout.is_some()),
    ]
}

/// Checks that a bus has no keys for frames or for a device: the length of a response follows from
/// its request, and each unit is a device.
fn fits_modbus(table: &Serial, line: &Line) -> Result<(), Fault> {
    let is_ascii = table.modbus.as_ref().is_some_and(|bus| bus.mode == Some(ModeWord::Ascii));
    let others = [
        ("max-frame", table.max_frame.is_some()),
        ("checksum", table.checksum.is_some()),
        ("skip-first", table.skip_first.is_some()),
        ("checksum-order", table.checksum_order.is_some()),
        ("checksum-text", table.checksum_text.is_some()),
        ("checksum-from", table.checksum_from.is_some()),
        ("checksum-apart", table.checksum_apart.is_some()),
        ("checksum-tail", table.checksum_tail.is_some()),
        ("checksum-mark", table.checksum_mark.is_some()),
        ("form", table.form.is_some()),
        ("pattern", table.pattern.is_some()),
        ("path", table.path.is_some()),
        ("field", !table.field.is_empty()),
        ("role", table.role.is_some()),
        ("offline-after", table.offline_after.is_some()),
    ];
    let framing = [("framing", table.framing.is_some())];
    let keys = framing.into_iter().chain(of_readings(table)).chain(others);
    if let Some((key, _)) = keys.into_iter().find(|(_, set)| *set) {
        let message = match key {
            "path" | "role" | "offline-after" => "a Modbus bus is not a device; each of its units is one",
            "writable" => "the registers of units are writable, not their bus",
            _ => "on a Modbus bus there are no other frames",
        };
        let advice = match key {
            "path" | "role" | "offline-after" => "set it in [serial.NAME.unit.ADDRESS]",
            "writable" => "set it in [register.NAME] of a template or a unit",
            _ => "take it out, or the units and [serial.NAME.modbus]",
        };
        return Err(Fault::new(key, message, advice));
    }
    foreign(table, None)?;
    if line.data_bits != 8 && !(is_ascii && line.data_bits == 7) {
        // MODBUS over Serial Line V1.02 §2.5.1, §2.5.2.
        let advice = "take it out, or set [serial.NAME.modbus] mode = \"ascii\" if the units use that";
        return Err(Fault::new("data-bits", "Modbus RTU has 8 data bits", advice));
    }
    let port = PortName::parse(table.port.as_deref().unwrap_or_default());
    let has_header = matches!(port, Some(PortName::Tcp { has_header: true, .. }));
    if !has_header && table.modbus.as_ref().is_some_and(|bus| bus.transaction_id.is_some()) {
        let message = "only frames of modbus-tcp:// have one";
        return Err(Fault::new("modbus.transaction-id", message, "take it out"));
    }
    if is_ascii && has_header {
        let message = "modbus-tcp:// has frames of its own";
        return Err(Fault::new("modbus.mode", message, "take it out, or use tcp:// for plain bytes"));
    }
    if !is_ascii && line.flow_control == FlowControl::Software {
        let message = "XON and XOFF are among the bytes that Modbus RTU sends";
        return Err(Fault::new("flow-control", message, "take it out"));
    }
    Ok(())
}

fn bits(table: &Serial) -> Result<Line, Fault> {
    let default = Line::default();
    let flow_control = match table.flow_control {
        Some(model::FlowControl::Hardware) => FlowControl::Hardware,
        Some(model::FlowControl::Software) => FlowControl::Software,
        Some(model::FlowControl::None) | None => FlowControl::None,
    };
    let rs485 = match table.rs485 {
        Some(model::Rs485::RtsHigh) => Some(Rs485::RtsHigh),
        Some(model::Rs485::RtsLow) => Some(Rs485::RtsLow),
        Some(model::Rs485::None) | None => None,
    };
    if rs485.is_some() && flow_control == FlowControl::Hardware {
        let message = "RTS cannot both switch the transceiver and control the flow";
        return Err(Fault::new("rs485", message, "take one of the two out"));
    }
    Ok(Line {
        baud: table.baud.unwrap_or(default.baud),
        data_bits: table.data_bits.unwrap_or(default.data_bits),
        parity: match table.parity {
            Some(model::Parity::Even) => Parity::Even,
            Some(model::Parity::Odd) => Parity::Odd,
            Some(model::Parity::None) | None => Parity::None,
        },
        stop_bits: table.stop_bits.unwrap_or(default.stop_bits),
        flow_control,
        rs485,
    })
}

/// A sequence of bytes: `hex:0d0a`, or the text itself.
fn bytes(key: &'static str, text: &str, max: usize) -> Result<Vec<u8>, Fault> {
    let bytes = match text.strip_prefix("hex:") {
        Some(digits) => digits
            .split_ascii_whitespace()
            .collect::<String>()
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
                u8::try_from(digit(pair.first())? << 4 | digit(pair.get(1))?).ok()
            })
            .collect::<Option<Vec<u8>>>(),
        None => Some(text.as_bytes().to_vec()),
    };
    bytes.filter(|bytes| (1..=max).contains(&bytes.len())).ok_or_else(|| {
        let advice = match max {
            1 => "use one byte, as text or as \"hex:09\"".to_owned(),
            _ => format!("use 1 to {max} bytes, as text or as \"hex:0d0a\""),
        };
        Fault::new(key, format!("{text:?} is not accepted"), advice)
    })
}

/// The bytes before the checksum that it does not cover: how many, and what a written frame
/// has there.
fn apart(table: &Serial) -> Result<(usize, Option<[u8; 8]>), Fault> {
    let count = table.checksum_apart.map(usize::from);
    let Some(text) = &table.checksum_mark else { return Ok((count.unwrap_or(0), None)) };
    let given = bytes("checksum-mark", text, 8)?;
    if count.is_some_and(|count| count != given.len()) {
        let message = format!("it has {} bytes, and checksum-apart is another number", given.len());
        return Err(Fault::new("checksum-mark", message, "take checksum-apart out"));
    }
    let mut mark = [0; 8];
    mark.iter_mut().zip(&given).for_each(|(to, from)| *to = *from);
    Ok((given.len(), Some(mark)))
}

fn framing(table: &Serial) -> Result<framing::Settings, Fault> {
    let words = "\"line\", \"slip\", \"cobs\", \"length\", \"gap\", \"fixed\", \"markers\" or \"slipmux\"";
    let kind = table.framing.ok_or_else(|| {
        let advice = format!(
            "set framing to {words}; or add a [serial.NAME.unit.ADDRESS] for each unit of a Modbus bus"
        );
        Fault::new("", "no framing is set", advice)
    })?;
    foreign(table, Some(kind))?;
    let size = table.size.map(|size| size as usize);
    let framing = match kind {
        model::Framing::Line => Framing::Line(match table.line_end.as_deref() {
            None | Some("any") => line::End::Any,
            Some("lf") => line::End::Exactly(b"\n".to_vec()),
            Some("cr") => line::End::Exactly(b"\r".to_vec()),
            Some("crlf") => line::End::Exactly(b"\r\n".to_vec()),
            Some(text) if text.starts_with("hex:") => {
                line::End::Exactly(bytes("line-end", text, line::END_MAX)?)
            }
            Some(text) => {
                let advice = match text {
                    "\n" => "use \"lf\"",
                    "\r" => "use \"cr\"",
                    "\r\n" => "use \"crlf\"",
                    _ => "use \"any\", \"lf\", \"cr\", \"crlf\", or bytes as \"hex:03\"",
                };
                return Err(Fault::new("line-end", format!("{text:?} is not accepted"), advice));
            }
        }),
        // Slipmux is not a framing of readings and is handled earlier.
        model::Framing::Slip | model::Framing::Slipmux => Framing::Slip,
        model::Framing::Cobs => Framing::Cobs,
        model::Framing::Length => Framing::Length(header(table)?),
        model::Framing::Gap => Framing::Gap(table.gap.map_or(gap::GAP_DEFAULT, |span| span.0)),
        model::Framing::Fixed => Framing::Fixed(size.ok_or_else(|| {
            Fault::new(
                "framing",
                "a frame of fixed size needs its size",
                "set size, in bytes with the checksum",
            )
        })?),
        model::Framing::Markers => Framing::Markers(enclosed(table)?),
    };
    let max_frame = match (&framing, table.max_frame) {
        (_, Some(max)) => max as usize,
        (Framing::Fixed(size), None) => *size,
        (_, None) => FRAME_DEFAULT,
    };
    if let Framing::Fixed(size) = framing
        && size > max_frame
    {
        return Err(Fault::new("max-frame", "it is less than size", "take it out"));
    }
    let checksum = match table.checksum {
        None | Some(model::Checksum::None) => None,
        Some(model::Checksum::Crc16Modbus) => Some(Checksum::Crc16Modbus),
        Some(model::Checksum::Crc16Ccitt) => Some(Checksum::Crc16Ccitt),
        Some(model::Checksum::Crc32) => Some(Checksum::Crc32),
        Some(model::Checksum::Crc16Arc) => Some(Checksum::Crc16Arc),
        Some(model::Checksum::Crc16Xmodem) => Some(Checksum::Crc16Xmodem),
        Some(model::Checksum::Crc16Kermit) => Some(Checksum::Crc16Kermit),
        Some(model::Checksum::Crc16X25) => Some(Checksum::Crc16X25),
        Some(model::Checksum::Xor) => Some(Checksum::Xor),
        Some(model::Checksum::Sum) => Some(Checksum::Sum),
        Some(model::Checksum::SumNegated) => Some(Checksum::SumNegated),
        Some(model::Checksum::Sum16) => Some(Checksum::Sum16),
        Some(model::Checksum::Sum16Negated) => Some(Checksum::Sum16Negated),
        Some(model::Checksum::Linky) => Some(Checksum::Linky),
    };
    let (apart, mark) = apart(table)?;
    let placement = Placement {
        low_first: table.checksum_order.map(|order| order == model::ByteOrder::Little),
        is_text: table.checksum_text.unwrap_or(false),
        from: usize::from(table.checksum_from.unwrap_or(0)),
        apart,
        tail: usize::from(table.checksum_tail.unwrap_or(0)),
        mark,
    };
    if checksum.is_none() && placement != Placement::default() {
        return Err(Fault::new("", "there is no checksum to place", "set checksum, or take checksum-… out"));
    }
    if placement.tail > 0 && table.writable == Some(true) {
        let message = "which bytes a command has there is not known";
        let advice = "take writable out; or the checksum-… keys, and let commands have their checksum";
        return Err(Fault::new("checksum-tail", message, advice));
    }
    let keep = usize::from(table.keep.unwrap_or(0));
    let whole = table.whole.unwrap_or(false);
    behind(&framing, keep, whole, checksum.map_or(0, |checksum| placement.width(checksum)))?;
    let least = match keep {
        0 => checksum.map_or(0, |checksum| placement.from + placement.width(checksum)),
        _ => 0,
    };
    if max_frame.min(FRAME_MAX) <= least {
        let key = if table.size.is_some() { "size" } else { "max-frame" };
        return Err(Fault::new(
            key,
            "there is no room for more than the checksum",
            format!("use more than {least}"),
        ));
    }
    let start = match (&framing, &table.start) {
        (Framing::Length(_) | Framing::Gap(_) | Framing::Fixed(_), Some(text)) => {
            bytes("start", text, framing::START_MAX)?
        }
        _ => Vec::new(),
    };
    if let Framing::Length(header) = &framing
        && start.len() > header.offset
    {
        let message = "it is longer than what stands before the length";
        return Err(Fault::new("start", message, "set length-offset to where the length is"));
    }
    if matches!(framing, Framing::Fixed(size) if size <= start.len() + least) {
        return Err(Fault::new("size", "there is no room for more than the start", "use a larger one"));
    }
    let within = match table.gap {
        Some(gap) => gap.0,
        None => {
            let is_cyclic = checksum.is_some_and(|checksum| placement.is_cyclic(checksum));
            // What follows a question begins a message.
            let begins = Begin::of(&framing, checksum, placement, &start) != Begin::Frame;
            let by_silence = begins && (is_cyclic || table.poll.is_none());
            // A converter in the network holds bytes back.
            let is_local = !table.port.as_ref().is_some_and(|port| port.contains("tcp://"));
            let least = match by_silence && is_local {
                true => framing::WITHIN_LOCAL,
                false => framing::WITHIN,
            };
            within(table, is_cyclic || by_silence || !start.is_empty() && checksum.is_none(), least)
        }
    };
    let skip_first = table.skip_first.unwrap_or(false);
    let label_end = match &table.label_end {
        Some(text) => bytes("label-end", text, 1)?.first().copied(),
        None => None,
    };
    if label_end.is_some() && !matches!(framing, Framing::Line(line::End::Exactly(_)) | Framing::Markers(_)) {
        let message = "only frames between markers, and frames with one certain line-end, have several lines";
        return Err(Fault::new("label-end", message, "take it out, or set line-end"));
    }
    let interleaved = interleaved(table, &framing)?;
    Ok(framing::Settings {
        framing,
        checksum,
        placement,
        max_frame,
        start,
        skip_first,
        keep,
        whole,
        label_end,
        interleaved,
        silence: table.gap.map(|gap| gap.0),
        within,
    })
}

/// The messages that come in the midst of frames.
fn interleaved(table: &Serial, framing: &Framing) -> Result<Option<interleaved::Interleaved>, Fault> {
    let (first, last) = ("interleaved-start", "interleaved-end");
    let (start, end) = match (&table.interleaved_start, &table.interleaved_end) {
        (None, None) => return Ok(None),
        (Some(start), Some(end)) => (bytes(first, start, 1)?, bytes(last, end, 1)?),
        (Some(_), None) => {
            return Err(Fault::new(first, "nothing ends such a message", "set interleaved-end"));
        }
        (None, Some(_)) => {
            return Err(Fault::new(last, "nothing begins such a message", "set interleaved-start"));
        }
    };
    if !matches!(framing, Framing::Line(_) | Framing::Markers(_)) {
        let message = "such messages are told from the bytes of lines and of frames between markers only";
        return Err(Fault::new(first, message, "take it out"));
    }
    match (&start[..], &end[..]) {
        ([start], [end]) if start != end => Ok(Some(interleaved::Interleaved { start: *start, end: *end })),
        _ => {
            Err(Fault::new(last, "it is the same as interleaved-start", "use the byte that ends the message"))
        }
    }
}

/// The default of the longest silence within a frame of known length: of one that only its start or
/// a silence marks, the time in which its bytes may be delivered apart, 20 characters of 11 bits or
/// `least`; else 1 s.
fn within(table: &Serial, is_marked: bool, least: Duration) -> Duration {
    if !is_marked {
        return framing::IDLE;
    }
    let baud = table.baud.unwrap_or(Line::default().baud).max(1);
    let characters = Duration::from_secs(20 * 11) / baud;
    characters.clamp(least, framing::IDLE)
}

/// Checks what is behind the end of a frame.
fn behind(framing: &Framing, keep: usize, whole: bool, width: usize) -> Result<(), Fault> {
    let key = if keep > 0 { "keep" } else { "whole" };
    if keep == 0 && !whole {
        return Ok(());
    }
    let has_end = match framing {
        Framing::Line(end) => *end != line::End::Any,
        Framing::Markers(markers) if markers.start == markers.end => {
            let message = "its start and its end are alike, so what is behind an end begins a frame";
            return Err(Fault::new(key, message, "take it out"));
        }
        Framing::Markers(_) => true,
        _ => false,
    };
    if !has_end {
        let message = "only frames between markers, and lines with one certain end, have an end to be kept";
        return Err(Fault::new(key, message, "take it out, or set line-end"));
    }
    if keep > 0 && keep < width {
        let advice = format!("use {width} or more: with keep, the checksum is behind the end");
        return Err(Fault::new(key, format!("the checksum has {width} bytes"), advice));
    }
    Ok(())
}

/// How the device is asked, if it is.
fn asked(table: &Serial, line: &Line) -> Result<Option<poll::Settings>, Fault> {
    let Some(text) = &table.poll else {
        let keys = [
            ("poll-period", table.poll_period.is_some()),
            ("poll-timeout", table.poll_timeout.is_some()),
            ("poll-echo", table.poll_echo.is_some()),
            ("wake", table.wake.is_some()),
            ("wake-pause", table.wake_pause.is_some()),
        ];
        return match keys.into_iter().find(|(_, set)| *set) {
            Some((key, _)) => Err(Fault::new(key, "nothing is asked", "set poll, or take it out")),
            None => Ok(None),
        };
    };
    let period = table.poll_period.map_or(poll::Settings::PERIOD, |span| span.0);
    let timeout = table.poll_timeout.map_or(poll::Settings::TIMEOUT.min(period), |span| span.0);
    let question = sent("poll", text)?;
    if timeout > period {
        let message = "it is longer than poll-period";
        return Err(Fault::new("poll-timeout", message, "use a shorter one, or a longer poll-period"));
    }
    let wake = wake(table, line)?;
    let takes = wake.as_ref().map(|wake| wake.pause).unwrap_or_default() + timeout;
    if takes > period {
        let message = "it is shorter than wake, wake-pause and poll-timeout take";
        let advice = format!("use {} ms or more", takes.as_millis());
        return Err(Fault::new("poll-period", message, advice));
    }
    let echo = table.poll_echo.unwrap_or(false);
    Ok(Some(poll::Settings { question, period, timeout, echo, wake }))
}

/// Bytes to be sent: with escapes, or as `hex:`.
fn sent(key: &'static str, text: &str) -> Result<Vec<u8>, Fault> {
    if text.starts_with("hex:") {
        return bytes(key, text, poll::QUESTION_MAX);
    }
    unescaped(text).filter(|bytes| (1..=poll::QUESTION_MAX).contains(&bytes.len())).ok_or_else(|| {
        let advice = r#"use 1 to 256 bytes, as text with \r, \n, \t, \\ and \xHH, or as "hex:410d""#;
        Fault::new(key, format!("{text:?} is not accepted"), advice)
    })
}

/// What wakes the device before each question.
fn wake(table: &Serial, line: &Line) -> Result<Option<poll::Wake>, Fault> {
    let Some(text) = &table.wake else {
        return match table.wake_pause {
            Some(_) => Err(Fault::new("wake-pause", "nothing wakes the device", "set wake, or take it out")),
            None => Ok(None),
        };
    };
    let bytes = sent("wake", text)?;
    // The pause begins when the last byte is out: of twelve bits at most each.
    let wire = Speed { baud: line.baud, bits: 12 }.characters(bytes.len());
    let pause = wire + table.wake_pause.map_or(poll::Wake::PAUSE, |span| span.0);
    Ok(Some(poll::Wake { bytes, pause }))
}

/// How commands are written, if the device takes any.
fn written(table: &Serial, poll: Option<&poll::Settings>) -> Result<Option<writer::Settings>, Fault> {
    if table.writable != Some(true) {
        let keys = [("answer", table.answer.is_some()), ("answer-timeout", table.answer_timeout.is_some())];
        return match keys.into_iter().find(|(_, set)| *set && table.writable.is_none()) {
            Some((key, _)) => {
                Err(Fault::new(key, "no command is written", "set writable = true, or take it out"))
            }
            None => Ok(None),
        };
    }
    let pattern = |text: &String| {
        compile(text).map_err(|error| {
            let advice = "use a regular expression, like '^OK'";
            Fault::new("answer", format!("{text:?}: {error}"), advice)
        })
    };
    Ok(Some(writer::Settings {
        answer: table.answer.as_ref().map(pattern).transpose()?,
        timeout: table.answer_timeout.map_or(writer::Settings::TIMEOUT, |span| span.0),
        echo: poll.is_some_and(|poll| poll.echo),
    }))
}

/// A text with escapes, so that a question can be written in a literal string or a variable, too.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (escaped, after) = rest.split_first()?;
        rest = after;
        bytes.push(match escaped {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

/// Reports keys that only other framings use.
fn foreign(table: &Serial, kind: Option<model::Framing>) -> Result<(), Fault> {
    use model::Framing as F;
    let keys = [
        ("line-end", F::Line, table.line_end.is_some()),
        ("length-bytes", F::Length, table.length_bytes.is_some()),
        ("length-order", F::Length, table.length_order.is_some()),
        ("length-offset", F::Length, table.length_offset.is_some()),
        ("length-adjust", F::Length, table.length_adjust.is_some()),
        ("gap", F::Gap, table.gap.is_some() && matches!(kind, None | Some(F::Slipmux))),
        ("size", F::Fixed, table.size.is_some()),
        ("start", F::Markers, table.start.is_some() && !matches!(kind, Some(F::Length | F::Gap | F::Fixed))),
        ("end", F::Markers, table.end.is_some()),
        ("escape", F::Markers, table.escape.is_some()),
    ];
    match keys.into_iter().find(|(_, of, set)| *set && Some(*of) != kind) {
        Some((key, of, _)) => {
            let word = format!("{of:?}").to_lowercase();
            Err(Fault::new(
                key,
                format!("it belongs to framing = {word:?}"),
                "take it out, or change framing",
            ))
        }
        None => Ok(()),
    }
}

/// A CoAP node on the line: its messages contain path and content format.
fn slipmux(table: &Serial) -> Result<Duty, Fault> {
    foreign(table, Some(model::Framing::Slipmux))?;
    let others = [
        ("checksum", table.checksum.is_some()),
        ("form", table.form.is_some()),
        ("pattern", table.pattern.is_some()),
        ("path", table.path.is_some()),
        ("field", !table.field.is_empty()),
    ];
    let keys = others.into_iter().chain(of_readings(table));
    if let Some((key, _)) = keys.into_iter().find(|(_, set)| *set) {
        return Err(Fault::new(key, "with slipmux, the node's CoAP messages contain this", "take it out"));
    }
    // The payload of a datagram, with the CoAP header and options.
    Ok(Duty::Slipmux { max_message: table.max_frame.map_or(1500, |max| max as usize).min(FRAME_MAX - 3) })
}

fn header(table: &Serial) -> Result<length::Header, Fault> {
    let width = match table.length_bytes.unwrap_or(1) {
        1 => length::Width::One,
        2 => length::Width::Two,
        4 => length::Width::Four,
        other => return Err(Fault::new("length-bytes", format!("{other} is not accepted"), "use 1, 2 or 4")),
    };
    let adjust = table.length_adjust.unwrap_or(0.0);
    if adjust.fract() != 0.0 {
        return Err(Fault::new("length-adjust", format!("{adjust} is not accepted"), "use a whole number"));
    }
    Ok(length::Header {
        width,
        little_endian: table.length_order == Some(model::ByteOrder::Little),
        offset: usize::from(table.length_offset.unwrap_or(0)),
        // Within -64 and 64, by the schema.
        adjust: adjust as i32,
    })
}

fn enclosed(table: &Serial) -> Result<markers::Markers, Fault> {
    let marker = |key: &'static str, text: &Option<String>| match text {
        Some(text) => bytes(key, text, markers::MARKER_MAX),
        None => Err(Fault::new("framing", format!("markers need their {key}"), "set start and end")),
    };
    let (start, end) = (marker("start", &table.start)?, marker("end", &table.end)?);
    let escape = match &table.escape {
        Some(text) => match bytes("escape", text, markers::MARKER_MAX)?[..] {
            [byte] => Some(markers::Escape::Before(byte)),
            ref sequence => Some(markers::Escape::Doubled(sequence.to_vec())),
        },
        None => None,
    };
    match &escape {
        Some(markers::Escape::Before(byte)) if start.contains(byte) || end.contains(byte) => {
            return Err(Fault::new("escape", "it is part of a marker", "use a byte that is in neither"));
        }
        Some(markers::Escape::Doubled(sequence))
            if [&start, &end]
                .iter()
                .any(|marker| marker.len() <= sequence.len() || !marker.starts_with(sequence)) =>
        {
            let message = "an escape of several bytes is what both markers begin with";
            return Err(Fault::new("escape", message, "use one byte, or the first bytes of start and end"));
        }
        _ => {}
    }
    if start != end && end.windows(start.len()).any(|window| window == start) {
        return Err(Fault::new("end", "the start is part of it", "use other markers"));
    }
    Ok(markers::Markers { start, end, escape })
}

fn extractor(table: &Serial) -> Result<Extractor, Fault> {
    let form = match table.form {
        Some(model::Form::Raw) => Form::Raw,
        Some(model::Form::Text) | None => Form::Text,
        Some(model::Form::Json) => Form::Json,
    };
    let kinds: Vec<(&str, Kind)> = table
        .field
        .iter()
        .map(|(name, field)| {
            let scale = Scale { factor: field.factor.unwrap_or(1.0), offset: field.offset.unwrap_or(0.0) };
            let kind = match field.kind {
                Some(model::FieldKind::Hex) => Kind::Hexadecimal(scale),
                Some(model::FieldKind::Text) => Kind::Text,
                Some(model::FieldKind::Number) => Kind::Number(scale),
                // A scaled value must be a number.
                _ if scale != Scale::default() => Kind::Number(scale),
                Some(model::FieldKind::Auto) | None => Kind::Auto,
            };
            (name.as_str(), kind)
        })
        .collect();
    if let Some((name, _)) = table.field.iter().find(|(_, field)| {
        field.kind == Some(model::FieldKind::Text) && (field.factor.is_some() || field.offset.is_some())
    }) {
        return Err(Fault::new(
            "field",
            format!("{name} is a text and cannot be scaled"),
            "take factor and offset out",
        ));
    }
    if form != Form::Json && !kinds.is_empty() {
        return Err(Fault::new(
            "field",
            "fields are for form = \"json\"",
            "set form = \"json\", or take them out",
        ));
    }
    let decimal = |word: model::Decimal| match word {
        model::Decimal::Point => Decimal::Point,
        model::Decimal::Comma => Decimal::Comma,
    };
    let decimals =
        table.field.iter().filter_map(|(name, field)| Some((name.clone(), decimal(field.decimal?))));
    let notation = Notation {
        charset: table.charset.unwrap_or_default(),
        decimal: table.decimal.map_or(Decimal::Any, decimal),
        decimals: decimals.collect(),
    };
    if form == Form::Raw && table.charset.is_some() {
        return Err(Fault::new("charset", "raw bytes have none", "take it out, or set form = \"text\""));
    }
    if table.decimal.is_some() && (form != Form::Json || table.pattern.is_none()) {
        let advice = "set form = \"json\" and pattern, or take it out";
        return Err(Fault::new("decimal", "there are no fields to be numbers", advice));
    }
    let path = table.path.as_deref().unwrap_or(PATH_DEFAULT);
    let made = Extractor::new(form, table.pattern.as_deref(), &kinds, path);
    made.map(|extractor| extractor.with(notation)).map_err(|error| {
        let (key, advice) = match &error {
            ExtractorError::Pattern(_) => {
                ("pattern", "use a regular expression in the syntax of docs.rs/regex")
            }
            ExtractorError::NoFields => ("pattern", "name what is to be published, as in (?<t>[0-9.]+)"),
            ExtractorError::NoCapture(name) | ExtractorError::NoPattern(name)
                if table.field.contains_key(name) =>
            {
                ("field", "name the groups of pattern")
            }
            ExtractorError::NoPattern(_) => ("path", "set pattern too"),
            _ => ("path", "use segments joined by '/', like \"data\" or \"m/{id}\""),
        };
        Fault::new(key, error.to_string(), advice)
    })
}
