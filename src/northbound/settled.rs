//! What became of records at the broker, for those who follow single records or count by device.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use super::reason_code::Cause;
use crate::message::{Lane, RecordId};

/// A device by the hash of its id, so that a record on its way need not hold the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceKey(u64);

impl DeviceKey {
    /// Of no device: a reading that the operator sent in the place of one.
    pub const NOBODY: DeviceKey = DeviceKey(0);
    /// Of no device: the reply to a command.
    pub const REPLY: DeviceKey = DeviceKey(1);
    /// Of no device: a numbered part of the reply to a command, of no use without its bytes.
    pub const PART: DeviceKey = DeviceKey(2);

    /// Of a device id.
    pub fn of(device: &str) -> DeviceKey {
        DeviceKey(BuildHasherDefault::<DefaultHasher>::default().hash_one(device))
    }

    /// Whether it is a reply to a command, or a part of one.
    pub fn is_reply(self) -> bool {
        matches!(self, DeviceKey::REPLY | DeviceKey::PART)
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The broker acknowledged it.
    Delivered,
    /// The broker refused it, closed over it, or did not answer it: it is held back and tried
    /// again.
    HeldBack(Cause),
    /// It was moved to the rejected store.
    Rejected(Cause),
    /// It expired before it was delivered.
    Expired,
}

/// One record and its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its lane.
    pub lane: Lane,
    /// Its id.
    pub id: RecordId,
    /// Its device, known with [`Verdict::Delivered`] and [`Verdict::HeldBack`].
    pub device: Option<DeviceKey>,
    /// What became of it.
    pub verdict: Verdict,
}
