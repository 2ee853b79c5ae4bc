//! Commands to devices on serial lines: which devices take any, and what a command is to its line.
//!
//! | device | path | payload | becomes |
//! |---|---|---|---|
//! | a unit of a bus | the name of a register with `writable` | its value | a write ([`Job`]) |
//! | a device on a line with `writable` | any | bytes | a frame, as the line's framing says |
//!
//! [`Lines::prepare`] says so when a command arrives, so that one that cannot be carried out is
//! refused at once.

use std::time::Duration;

use super::settings::{Duty, Port, Settings};
use crate::message::ContentFormat;
use crate::proto::serial::framing::{self, EncodeError};
use crate::proto::serial::modbus::write::{Job, Written};
use crate::proto::serial::writer::Sent;

/// Longest answer of a device that is handed on, in bytes.
const ANSWER_MAX: usize = 2048;

/// A command for the line of a port.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its number in the mailbox.
    pub number: u64,
    /// The device it is for.
    pub device: String,
    /// What is to be done.
    pub wanted: Wanted,
    /// It begins within this, or not at all.
    pub within: Duration,
}

/// What a command is to its line.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// A value of a unit.
    Value(Box<Job>),
    /// A frame.
    Frame {
        /// As it is on the line.
        frame: Vec<u8>,
        /// As it would be received.
        payload: Vec<u8>,
    },
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The device has carried it out: its answer, or the value that it has.
    Done {
        /// At most 2,048 bytes.
        payload: Vec<u8>,
        /// Of the payload.
        content_format: Option<ContentFormat>,
        /// The device's answer is longer.
        is_partial: bool,
    },
    /// The port took all bytes; the device answers nothing.
    Written,
    /// The device acknowledged it, and what is read back says otherwise, or nothing.
    Unconfirmed(String),
    /// The device refused it: the exception, by name.
    Exception(String),
    /// It was not answered in time.
    Timeout(String),
    /// It could not begin in time: nothing was sent.
    Unasked(String),
    /// The line was closed while it was on its way.
    Unknown,
    /// The line was closed before it was sent.
    Unsent,
}

impl From<Written> for Delivered {
    fn from(written: Written) -> Delivered {
        match written {
            Written::Done(payload) => {
                Delivered::Done { payload, content_format: Some(ContentFormat::JSON), is_partial: false }
            }
            Written::Unconfirmed(why) => Delivered::Unconfirmed(why),
            Written::Exception(exception) => Delivered::Exception(exception.to_string()),
            Written::Timeout(why) => Delivered::Timeout(may_have_run(&why)),
            Written::Unasked(why) => Delivered::Unasked(not_sent(&why)),
            Written::Unknown => Delivered::Unknown,
            Written::Unsent => Delivered::Unsent,
        }
    }
}

impl From<Sent> for Delivered {
    fn from(sent: Sent) -> Delivered {
        match sent {
            Sent::Written => Delivered::Written,
            Sent::Answered(mut payload) => {
                let is_partial = payload.len() > ANSWER_MAX;
                payload.truncate(ANSWER_MAX);
                let is_text =
                    std::str::from_utf8(&payload).is_ok_and(|text| !text.chars().any(char::is_control));
                let content_format = is_text.then_some(ContentFormat::TEXT);
                Delivered::Done { payload, content_format, is_partial }
            }
            Sent::Timeout(why) => Delivered::Timeout(may_have_run(&why)),
            Sent::Unasked(why) => Delivered::Unasked(not_sent(&why)),
            Sent::Unknown => Delivered::Unknown,
            Sent::Unsent => Delivered::Unsent,
        }
    }
}

fn may_have_run(why: &str) -> String {
    format!("{why}: it may have been carried out")
}

fn not_sent(why: &str) -> String {
    format!("{why}: it was not sent")
}

/// The ports whose devices take commands.
#[derive(Clone, Debug, Default)]
pub struct Lines(Vec<Port>);

impl Lines {
    /// Of these ports.
    pub fn new(settings: &Settings) -> Lines {
        let is_one = |port: &&Port| port.takers().next().is_some() || is_node(port);
        Lines(settings.iter().filter(is_one).cloned().collect())
    }

    /// Whether the device takes commands.
    pub fn has(&self, device: &str) -> bool {
        self.0.iter().any(|port| port.takers().any(|id| id.as_str() == device))
    }

    /// Whether the device is a CoAP node on a line: it takes requests, as over DTLS.
    pub fn has_node(&self, device: &str) -> bool {
        self.0.iter().any(|port| is_node(port) && port.name.as_str() == device)
    }

    /// What a command to one of them is.
    ///
    /// # Errors
    /// Why it is refused, in one sentence.
    pub fn prepare(&self, device: &str, path: &str, payload: &[u8]) -> Result<Wanted, String> {
        let port = self.0.iter().find(|port| port.takers().any(|id| id.as_str() == device));
        match port.map(|port| &port.duty) {
            Some(Duty::Modbus(bus, _)) => {
                let unit = bus.units.iter().find(|unit| unit.id.as_str() == device);
                let registers = unit.map(|unit| &unit.registers[..]).unwrap_or_default();
                Job::new(registers, path, payload).map(|job| Wanted::Value(Box::new(job)))
            }
            Some(Duty::Readings { framing, .. }) => {
                if let Some((what, key)) = framing.unknown_when_written() {
                    let way = key.map(|key| format!(": set {key}")).unwrap_or_default();
                    return Err(format!("{what} are not known{way}"));
                }
                let mut frame = Vec::new();
                framing::encode(framing, payload, &mut frame).map_err(|error| match error {
                    EncodeError::TooLong => format!("{error}: max-frame is {} bytes", framing.max_frame),
                    other => other.to_string(),
                })?;
                Ok(Wanted::Frame { frame, payload: payload.to_vec() })
            }
            Some(Duty::Slipmux { .. }) | None => Err("the device takes no commands".to_owned()),
        }
    }
}

fn is_node(port: &Port) -> bool {
    matches!(port.duty, Duty::Slipmux { .. })
}
