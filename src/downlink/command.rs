//! A command on its way to a device, its states and its outcome.
//!
//! ```text
//! Taking ──stored──> Waiting ──begin──> Preparing ──stored──> Sent ──answer──> Ended ──stored──> (reply) ──> gone
//!                       ^  │                │                  │
//!                       │  └ expired, superseded, dropped ─────┼──> Ended
//!                       └──────── not sent; idempotent and unanswered ┘
//! ```

use std::fmt;

use crate::gate::Deliver;
use crate::message::{ContentFormat, Name, Stamp};

/// Longest payload of a command, in bytes. One of more than 1,024 bytes is sent in blocks.
pub const PAYLOAD_MAX: usize = 16 << 10;

/// A command as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The device it is for.
    pub device: Name,
    /// The path at the device.
    pub path: String,
    /// The topic by which the rules were asked.
    pub topic: String,
    /// The CoAP method code, `1..=7`.
    pub method: u8,
    /// The format of the payload, if the sender named it.
    pub content_format: Option<ContentFormat>,
    /// At most [`PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
    /// Where the outcome is published; `None`: nowhere.
    pub reply_topic: Option<String>,
    /// The correlation data of the request.
    pub correlation: Option<Vec<u8>>,
    /// The reply is wrapped in JSON, for those who cannot read properties.
    pub wrapped: bool,
    /// When it was taken.
    pub taken: Stamp,
    /// Seconds after that when it is worth nothing any more.
    pub expires_s: u32,
    /// How it reaches the device.
    pub deliver: Deliver,
    /// It may run twice.
    pub idempotent: bool,
    /// A later command on the same path replaces it as long as it waits.
    pub latest_wins: bool,
    /// Seconds the device may take for its response, once it has acknowledged the request.
    pub answer_within_s: u16,
}

impl Command {
    /// Bytes it takes in memory, about as many as on the disk.
    pub fn bytes(&self) -> usize {
        let reply = self.reply_topic.as_ref().map_or(0, String::len);
        let correlation = self.correlation.as_ref().map_or(0, Vec::len);
        OVERHEAD + self.path.len() + self.topic.len() + self.payload.len() + reply + correlation
    }
}

/// Bytes of a command without its texts and payload: the struct, its places in the tables, the
/// device's name, and the head of its frame.
const OVERHEAD: usize = size_of::<Command>() + 128;

/// How far a command has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being stored: not acknowledged to the broker yet.
    Taking,
    /// Stored; it waits for the device.
    Waiting,
    /// That it is about to be sent is being stored.
    Preparing,
    /// It was sent, or may have been.
    Sent,
    /// Its outcome is known and being stored, or published.
    Ended,
}

impl State {
    /// As `mailbox list` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Taking => "taking",
            State::Waiting => "waiting",
            State::Preparing => "sending",
            State::Sent => "sent",
            State::Ended => "answered",
        }
    }
}

/// What became of a command: the user property `status` of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The device's response code.
    Code(u8),
    /// The device did not acknowledge it, or acknowledged and did not respond in time.
    Timeout,
    /// It was not sent before it expired.
    Expired,
    /// No rule allows it, or the device does not take it.
    Refused,
    /// There is no room for it, or it cannot be stored.
    Full,
    /// It was on its way when the gateway stopped or the session ended: it may have run.
    Unknown,
    /// A later command on the same path took its place.
    Superseded,
    /// It was dropped for a newer one, or by the operator.
    Dropped,
    /// The device has acknowledged the notification with it.
    Notified,
    /// The device has fetched it with a GET.
    Fetched,
    /// A Modbus unit has refused it with an exception.
    Exception,
    /// A Modbus unit has acknowledged it, and what is read back says otherwise, or nothing.
    Unconfirmed,
    /// It was written to a line, and the device answers nothing.
    Written,
}

const WORDS: [(Status, &str); 12] = [
    (Status::Timeout, "timeout"),
    (Status::Expired, "expired"),
    (Status::Refused, "refused"),
    (Status::Full, "full"),
    (Status::Unknown, "unknown"),
    (Status::Superseded, "superseded"),
    (Status::Dropped, "dropped"),
    (Status::Notified, "notified"),
    (Status::Fetched, "fetched"),
    (Status::Exception, "exception"),
    (Status::Unconfirmed, "unconfirmed"),
    (Status::Written, "written"),
];

impl Status {
    /// As one byte: a CoAP response code, which is at least 0x40, or the number of a word.
    pub fn to_byte(self) -> u8 {
        match self {
            Status::Code(code) => code,
            word => WORDS.iter().position(|(known, _)| *known == word).map_or(0, |at| at as u8 + 1),
        }
    }

    /// Of that byte.
    pub fn from_byte(byte: u8) -> Option<Status> {
        match byte {
            0 => None,
            code if code >= 0x40 => Some(Status::Code(code)),
            word => WORDS.get(usize::from(word) - 1).map(|(status, _)| *status),
        }
    }

    /// Whether the device has answered with success, or has it.
    pub fn is_success(self) -> bool {
        match self {
            Status::Code(code) => code >> 5 == 2,
            word => matches!(word, Status::Notified | Status::Fetched | Status::Written),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Code(code) => write!(f, "{}.{:02}", code >> 5, code & 0x1f),
            word => f.write_str(WORDS.iter().find(|(known, _)| known == word).map_or("", |(_, text)| text)),
        }
    }
}

/// A status with what the device answered, or with a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What became of it.
    pub status: Status,
    /// The format of the payload.
    pub content_format: Option<ContentFormat>,
    /// The device's answer, or a sentence in plain text; at most 16 KiB.
    pub payload: Vec<u8>,
    /// The payload is not all that the device would have answered.
    pub partial: bool,
}

impl Outcome {
    /// The device has acknowledged it, and says nothing more.
    pub fn notified() -> Outcome {
        Outcome { status: Status::Notified, content_format: None, payload: Vec::new(), partial: false }
    }

    /// With a sentence.
    pub fn of(status: Status, why: impl Into<String>) -> Outcome {
        let payload = why.into().into_bytes();
        Outcome { status, content_format: Some(ContentFormat::TEXT), payload, partial: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_being_a_byte() {
        for byte in 0..=u8::MAX {
            if let Some(status) = Status::from_byte(byte) {
                assert_eq!(status.to_byte(), byte);
                assert!(!status.to_string().is_empty());
            }
        }
        for (status, text) in WORDS {
            assert_eq!(Status::from_byte(status.to_byte()), Some(status));
            assert_eq!(status.to_string(), text);
        }
        assert_eq!(Status::Code(0x44).to_string(), "2.04");
        assert!(Status::Code(0x44).is_success() && !Status::Code(0x84).is_success());
    }
}
