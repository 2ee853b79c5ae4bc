//! `tombolo trace`: the decrypted messages of one device, or the packets of the uplink without TLS,
//! on the screen, as JSON, or in a capture file for Wireshark.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::args::TraceArguments;
use super::error::CommandError;
use super::output::plural;
use super::pcap::{self, Capture, Packet, Protocol};
use super::{Context, note};
use crate::control::io::client::ClientError;
use crate::control::traffic::Message;
use crate::northbound::anatomy;
use crate::proto::coap::{self, Type};
use crate::telemetry::text::Escaped;

/// Bytes in a row of a payload.
const ROW: usize = 16;

/// Runs until it is interrupted, its output is closed, or the daemon ends.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run, does not know the device, refuses this
/// user, or ends; if the file exists or cannot be written.
pub fn run(context: &Context, arguments: TraceArguments) -> Result<(), CommandError> {
    let TraceArguments { target, pcap, payload } = arguments;
    let daemon = context.daemon().map_err(ClientError::of_privileged)?;
    // Only once there is something to write, so that no file is left behind by a wrong name.
    let traffic = daemon.traffic(target, payload)?;
    let mut file = pcap.as_deref().map(CaptureFile::create).transpose()?;
    if !context.out.json {
        note("tracing; Ctrl-C ends it");
    }
    for message in traffic {
        let message = message?;
        if message.missed > 0 && !context.out.json {
            note(format_args!("{} not shown: this reader is too slow", plural(message.missed, "message")));
        }
        match &mut file {
            Some(file) => file.write(&message)?,
            None if context.out.json => context.out.verbatim_object(&*message)?,
            None => context.out.verbatim(&shown(&message))?,
        }
    }
    Err(CommandError::failed("the daemon has ended"))
}

/// A capture file, readable by its owner only.
struct CaptureFile {
    path: PathBuf,
    file: File,
    capture: Capture,
}

impl CaptureFile {
    fn create(path: &Path) -> Result<CaptureFile, CommandError> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                CommandError::failed(format_args!("{} exists already; name another file", path.display()))
            }
            _ => CommandError::failed(format_args!("{}: {error}", path.display())),
        };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(&pcap::file_header()).map_err(failed)?;
        Ok(CaptureFile { path: path.to_owned(), file, capture: Capture::default() })
    }

    /// One write a message, so that the file can be read while it grows.
    fn write(&mut self, message: &Message) -> Result<(), CommandError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let bytes = bytes(message);
        let record = self.capture.record(&Packet {
            time_us: now.as_micros().try_into().unwrap_or(u64::MAX),
            protocol: if message.protocol == "mqtt" { Protocol::Mqtt } else { Protocol::Coap },
            inward: message.direction == "in",
            peer: message.peer.as_deref().and_then(|peer| peer.parse().ok()),
            bytes: &bytes,
            length: message.length.try_into().unwrap_or(usize::MAX),
        });
        let written = self.file.write_all(&record);
        written.map_err(|error| CommandError::failed(format_args!("{}: {error}", self.path.display())))
    }
}

/// Digits of the daemon as bytes; what is no pair of digits is left out.
fn from_hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

/// What there is of a message.
fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = from_hex(&message.hex);
    bytes.extend(message.payload_hex.as_deref().map(from_hex).unwrap_or_default());
    bytes
}

/// `12:00:01.123Z in  192.0.2.7:40000 CON POST /t/env id 7 token 0102, 12 B + 4 B payload`, and the
/// payload in rows of sixteen bytes.
fn shown(message: &Message) -> String {
    let clock = message.at.split_once('T').map_or("", |(_, time)| time);
    let (head, peer) = (message.hex.len() / 2, message.peer.as_deref().unwrap_or("serial line"));
    let what = match message.protocol.as_str() {
        "mqtt" => anatomy::describe(&from_hex(&message.hex)),
        _ => describe(message),
    };
    let direction = Escaped(&message.direction).to_string();
    let mut text =
        format!("{} {direction:<3} {} {}, {head} B", Escaped(clock), Escaped(peer), Escaped(&what));
    let payload = usize::try_from(message.length).unwrap_or(usize::MAX).saturating_sub(head);
    if payload > 0 {
        text.push_str(&format!(" + {payload} B payload"));
    }
    text.push('\n');
    let payload = message.payload_hex.as_deref().map(from_hex).unwrap_or_default();
    for row in payload.chunks(ROW) {
        let digits: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown: String = row
            .iter()
            .map(|byte| if (0x20..0x7F).contains(byte) { char::from(*byte) } else { '.' })
            .collect();
        text.push_str(&format!("    {:<47}  |{shown}|\n", digits.join(" ")));
    }
    text
}

/// A CoAP message in a few words. The text is not escaped.
fn describe(message: &Message) -> String {
    let mut bytes = from_hex(&message.hex);
    if bytes.last() == Some(&0xFF) && message.length > bytes.len() as u64 {
        // The marker of the payload that was cut off; there must be something behind it.
        bytes.push(0);
    }
    let Ok(parsed) = coap::Message::parse(&bytes) else { return "malformed CoAP message".to_owned() };
    let kind = match parsed.message_type {
        Type::Confirmable => "CON",
        Type::NonConfirmable => "NON",
        Type::Acknowledgement => "ACK",
        Type::Reset => "RST",
    };
    let mut text = format!("{kind} {}", code(parsed.code));
    for segment in parsed.options.values(coap_numbers::option::URI_PATH) {
        text.push_str(&format!("/{}", String::from_utf8_lossy(segment)));
    }
    text.push_str(&format!(" id {}", parsed.message_id.0));
    let token = parsed.token.as_bytes();
    if !token.is_empty() {
        text.push_str(&format!(" token {}", crate::config::scalar::format_hex(token)));
    }
    text
}

/// `POST ` or `2.04`.
fn code(code: coap::Code) -> String {
    match coap::Method::from_code(code) {
        Some(method) => format!("{method:?} ").to_uppercase(),
        None => format!("{}.{:02}", code.class(), code.detail()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(hex: &str, length: u64, payload_hex: Option<&str>) -> Message {
        Message {
            target: "door-7".into(),
            at: "2026-01-01T12:00:01.123Z".into(),
            direction: "in".into(),
            protocol: "coap".into(),
            peer: Some("192.0.2.7:40000".into()),
            length,
            hex: hex.into(),
            payload_hex: payload_hex.map(str::to_owned),
            ..Message::default()
        }
    }

    #[test]
    fn a_message_is_a_line_and_its_payload_rows_below_where_it_was_asked_for() {
        let head = "420200070102b17403656e76ff";
        let with = shown(&message(head, 17, Some("32312e35")));
        assert_eq!(
            with,
            "12:00:01.123Z in  192.0.2.7:40000 CON POST /t/env id 7 token 0102, 13 B + 4 B payload\n    \
             32 31 2e 35                                      |21.5|\n"
        );
        let without = shown(&message(head, 17, None));
        assert_eq!(without.lines().count(), 1);
        assert!(without.contains("POST /t/env") && without.contains("+ 4 B payload"), "{without}");
        assert!(shown(&message("60440007", 4, None)).contains("ACK 2.04 id 7, 4 B\n"));
        assert!(shown(&message("00", 1, None)).contains("malformed"));
    }

    #[test]
    fn a_path_cannot_draw_on_the_terminal() {
        let text = shown(&message("40020007b51b5b324a0a", 10, None));
        assert!(!text.contains('\x1b') && text.lines().count() == 1, "{text:?}");
    }
}
