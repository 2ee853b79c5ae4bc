//! The newest message of the broker for each path of each device, which a GET of the device is
//! answered with. It is not consumed, and ends when its message expires.
//!
//! | message | the value of its path |
//! |---|---|
//! | PUT, POST | its payload |
//! | DELETE | none any more |
//! | any other method, or `deliver = "request"` | unchanged |
//!
//! Nothing more is written for it: a value is the command that was taken, read again at the start,
//! and one frame each when the log is written anew. Of each device at most [`OF_DEVICE`] values and
//! [`OF_DEVICE_BYTES`] are kept, in all [`BYTES_MAX`]: the oldest goes first.

use std::collections::BTreeMap;

use super::command::Command;
use crate::gate::Deliver;
use crate::message::{ContentFormat, Name, Stamp};

/// Values of one device.
pub const OF_DEVICE: usize = 64;
/// Bytes of the values of one device.
pub const OF_DEVICE_BYTES: usize = 64 << 10;
/// Bytes of all values.
pub const BYTES_MAX: usize = 16 << 20;
/// Bytes of a value without its path and payload: its places in the two tables.
const OVERHEAD: usize = 192;

const POST: u8 = 2;
const PUT: u8 = 3;
/// The method DELETE (RFC 7252 §5.8.4).
pub(super) const DELETE: u8 = 4;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The number of the command that set it.
    pub number: u64,
    /// Its format, if the sender named it.
    pub content_format: Option<ContentFormat>,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// When the command was taken.
    pub taken: Stamp,
    /// Which boot that counts from.
    pub boot: u32,
    /// Seconds after that when it is worth nothing any more.
    pub expires_s: u32,
}

impl Value {
    /// Its ETag (RFC 7252 §5.10.6): of the message and its content.
    pub fn etag(&self) -> [u8; 8] {
        let format = self.content_format.map_or(u32::MAX, |format| format.0.into());
        let content = crc32c::crc32c_append(crc32c::crc32c(&format.to_le_bytes()), &self.payload);
        (u64::from(content) << 32 | self.number & 0xffff_ffff).to_be_bytes()
    }

    /// As the command that set it, as far as it is of use.
    pub(super) fn to_command(&self, device: &Name, path: &str) -> Command {
        Command {
            device: device.clone(),
            path: path.to_owned(),
            topic: String::new(),
            method: PUT,
            content_format: self.content_format,
            payload: self.payload.clone(),
            reply_topic: None,
            correlation: None,
            wrapped: false,
            taken: self.taken,
            expires_s: self.expires_s,
            deliver: Deliver::Auto,
            idempotent: true,
            latest_wins: true,
            answer_within_s: 0,
        }
    }
}

/// All values.
#[derive(Debug, Default)]
pub(super) struct Values {
    devices: BTreeMap<Name, BTreeMap<String, Value>>,
    /// By the number of the command: the oldest first.
    order: BTreeMap<u64, (Name, String)>,
    bytes: usize,
}

fn size(path: &str, value: &Value) -> usize {
    OVERHEAD + 2 * path.len() + value.payload.len()
}

impl Values {
    /// A command was taken.
    pub(super) fn take(&mut self, number: u64, boot: u32, command: &Command) {
        if command.deliver == Deliver::Request {
            return;
        }
        match command.method {
            PUT | POST => {}
            DELETE => return self.remove(&command.device, &command.path),
            _ => return,
        }
        let value = Value {
            number,
            content_format: command.content_format,
            payload: command.payload.clone(),
            taken: command.taken,
            boot,
            expires_s: command.expires_s,
        };
        // A log that was written anew has the commands that wait behind all values.
        if self.get(&command.device, &command.path).is_some_and(|newer| newer.number > number) {
            return;
        }
        self.remove(&command.device, &command.path);
        self.bytes += size(&command.path, &value);
        self.order.insert(number, (command.device.clone(), command.path.clone()));
        self.devices.entry(command.device.clone()).or_default().insert(command.path.clone(), value);
        self.make_room(&command.device);
    }

    fn make_room(&mut self, device: &Name) {
        while let Some(own) = self.devices.get(device) {
            let bytes: usize = own.iter().map(|(path, value)| size(path, value)).sum();
            if own.len() <= OF_DEVICE && (bytes <= OF_DEVICE_BYTES || own.len() == 1) {
                break;
            }
            let Some(path) = own.iter().min_by_key(|(_, value)| value.number).map(|(path, _)| path.clone())
            else {
                break;
            };
            self.remove(device, &path);
        }
        while self.bytes > BYTES_MAX {
            let Some((device, path)) = self.order.first_key_value().map(|(_, at)| at.clone()) else { break };
            self.remove(&device, &path);
        }
    }

    pub(super) fn remove(&mut self, device: &Name, path: &str) {
        let Some(own) = self.devices.get_mut(device) else { return };
        if let Some(value) = own.remove(path) {
            self.bytes -= size(path, &value);
            self.order.remove(&value.number);
        }
        if own.is_empty() {
            self.devices.remove(device);
        }
    }

    /// Keeps those that are still worth something.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Name, &str, &Value) -> bool) {
        let gone: Vec<(Name, String)> = self
            .iter()
            .filter(|(device, path, value)| !keep(device, path, value))
            .map(|(device, path, _)| (device.clone(), path.to_owned()))
            .collect();
        gone.iter().for_each(|(device, path)| self.remove(device, path));
    }

    pub(super) fn get(&self, device: &Name, path: &str) -> Option<&Value> {
        self.devices.get(device)?.get(path)
    }

    /// The oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &str, &Value)> {
        self.order.values().filter_map(|(device, path)| {
            let (path, value) = self.devices.get(device)?.get_key_value(path)?;
            Some((device, path.as_str(), value))
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(device: &str, path: &str, payload: &[u8]) -> Command {
        let value = Value {
            number: 0,
            content_format: None,
            payload: payload.to_vec(),
            taken: Stamp { boottime_ms: 0, wall_ms: None },
            boot: 1,
            expires_s: 60,
        };
        value.to_command(&Name::parse(device).unwrap(), path)
    }

    fn at<'v>(values: &'v Values, device: &str, path: &str) -> Option<&'v [u8]> {
        values.get(&Name::parse(device).unwrap(), path).map(|value| &value.payload[..])
    }

    #[test]
    fn the_newest_message_is_the_value_and_a_delete_takes_it_away() {
        let mut values = Values::default();
        values.take(1, 1, &command("a", "x", b"1"));
        values.take(2, 1, &command("b", "x", b"2"));
        values.take(3, 1, &command("a", "x", b"3"));
        assert_eq!((at(&values, "a", "x"), at(&values, "b", "x")), (Some(&b"3"[..]), Some(&b"2"[..])));
        values.take(4, 1, &Command { method: 1, ..command("a", "x", b"") });
        values.take(5, 1, &Command { deliver: Deliver::Request, ..command("a", "x", b"5") });
        assert_eq!(at(&values, "a", "x"), Some(&b"3"[..]));
        values.take(6, 1, &Command { method: DELETE, ..command("a", "x", b"") });
        assert_eq!((at(&values, "a", "x"), values.len()), (None, 1));
        values.retain(|_, _, _| false);
        assert_eq!((values.len(), values.bytes()), (0, 0));
    }

    #[test]
    fn a_device_has_a_bounded_number_and_size_of_values_and_takes_no_others_room() {
        let mut values = Values::default();
        values.take(1, 1, &command("b", "x", b"kept"));
        for number in 2..1_000 {
            values.take(number, 1, &command("a", &format!("p/{number}"), b"1"));
        }
        assert_eq!((values.len(), at(&values, "b", "x")), (OF_DEVICE + 1, Some(&b"kept"[..])));
        assert!(at(&values, "a", "p/999").is_some() && at(&values, "a", "p/900").is_none());
        for number in 1_000..1_010 {
            values.take(number, 1, &command("a", &format!("q/{number}"), &[7; 16_000]));
        }
        assert!(values.bytes() <= OF_DEVICE_BYTES + 1_000 && at(&values, "b", "x").is_some());
    }

    #[test]
    fn all_values_together_are_bounded_and_the_oldest_goes_first() {
        let mut values = Values::default();
        for number in 0..2_000 {
            values.take(number, 1, &command(&format!("d{number}"), "x", &[7; 16_000]));
        }
        assert!(values.bytes() <= BYTES_MAX);
        assert!(at(&values, "d0", "x").is_none() && at(&values, "d1999", "x").is_some());
    }

    #[test]
    fn another_message_or_content_has_another_etag() {
        let value = |number, payload: &[u8], format: Option<u16>| Value {
            number,
            content_format: format.map(ContentFormat),
            payload: payload.to_vec(),
            taken: Stamp { boottime_ms: 0, wall_ms: None },
            boot: 1,
            expires_s: 60,
        };
        let tags =
            [value(1, b"a", None), value(2, b"a", None), value(1, b"b", None), value(1, b"a", Some(0))];
        let tags: std::collections::BTreeSet<[u8; 8]> = tags.iter().map(Value::etag).collect();
        assert_eq!(tags.len(), 4);
    }
}
