//! The relations of devices that observe paths of theirs (RFC 7641): which client, by which token,
//! which path; and when the next notification is due.
//!
//! | event | the relation |
//! |---|---|
//! | GET with Observe 0 | is made, and durable before the answer; one with the same token is replaced |
//! | the same path again in the same session, with another token | replaces the one before |
//! | GET with Observe 1 and its token | ends |
//! | Reset, or a notification that is not acknowledged | ends |
//! | a message of another Content-Format than [`Formats`] says: the device is told 4.06 | ends |
//! | the message is removed by a DELETE | goes on: an empty notification is sent, when the device is awake |
//! | its session ends, its device is removed, or no rule allows the path | ends |
//! | the device has [`OF_DEVICE`], and observes one more | the oldest of the device ends |
//! | [`RELATIONS_MAX`] in all | no further one is made: the answer has no Observe option |
//! | the process ends and the session goes on in the next | goes on |
//!
//! A relation belongs to a DTLS session, which has a number in the session store. A relation whose
//! session has none is not stored, and ends with the process.
//!
//! The sequence number of each notification is drawn from the numbers of the mailbox, which are
//! durable before they are used and never drawn twice: so it rises over restarts, too. At least one
//! notification a day is sent ([`REFRESH`]); as all are confirmable, a client that has gone is
//! noticed (§4.5).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::message::{ContentFormat, Name};
use crate::proto::coap::block::Block;
use crate::proto::coap::{PeerId, Token};

/// Relations of one device.
pub const OF_DEVICE: usize = 16;
/// Relations in all.
pub const RELATIONS_MAX: usize = 32_768;
/// A notification is sent after this time without one (RFC 7641 §4.5: at least every 24 hours).
pub const REFRESH: Duration = Duration::from_secs(23 * 3600);
/// Registrations of a device at once,
const BURST: u32 = 16;
/// and one more in each of these: each costs a sync of the disk.
const EVERY: Duration = Duration::from_secs(2);

/// What the Content-Format of notifications may be: that of the answer to the registration (RFC
/// 7641 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formats {
    /// Any: there was no message yet, and no Accept option.
    Any,
    /// This one; `None`: the message had none.
    Only(Option<ContentFormat>),
}

impl Formats {
    /// Whether a message of this format may be told.
    pub fn allow(self, format: Option<ContentFormat>) -> bool {
        match self {
            Formats::Any => true,
            Formats::Only(only) => only == format,
        }
    }
}

/// Who observes what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The device.
    pub device: Name,
    /// The path.
    pub path: String,
    /// The peer; `None`: its session has not been found again.
    pub peer: Option<PeerId>,
    /// The number of its session in the session store.
    pub session: Option<u64>,
    /// The token of the registration.
    pub token: Token,
    /// The size of blocks that it asked for.
    pub block: Option<Block>,
    /// The formats that it may be told.
    pub formats: Formats,
}

/// A relation.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Who observes what.
    pub registration: Registration,
    /// Of the last notification.
    pub sequence: u64,
    /// Its registration is durable and answered.
    pub is_made: bool,
    /// When the last notification was sent; `None`: not in this process.
    notified: Option<Instant>,
    /// A notification without a command is being stored, or on its way.
    pub(super) refreshing: bool,
    /// The message on its path was removed, which it was not told yet.
    pub(super) is_changed: bool,
}

#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

/// All relations, by their ids: the older, the smaller.
#[derive(Debug, Default)]
pub(super) struct Relations {
    all: BTreeMap<u64, Relation>,
    devices: HashMap<Name, Vec<u64>>,
    allowances: HashMap<Name, Allowance>,
}

impl Relations {
    /// Whether a device may register now.
    pub(super) fn may_register(&mut self, now: Instant, device: &Name) -> bool {
        if self.all.len() >= RELATIONS_MAX {
            return false;
        }
        let allowance =
            self.allowances.entry(device.clone()).or_insert(Allowance { left: BURST, since: now });
        let earned = now.saturating_duration_since(allowance.since).as_secs() / EVERY.as_secs();
        if earned > 0 {
            allowance.left = allowance.left.saturating_add(earned.min(1_000) as u32).min(BURST);
            allowance.since = now;
        }
        let may = allowance.left > 0;
        allowance.left = allowance.left.saturating_sub(1);
        may
    }

    /// Forgets allowances that are full again.
    pub(super) fn care(&mut self, now: Instant) {
        let full = EVERY * BURST;
        self.allowances.retain(|_, allowance| now.saturating_duration_since(allowance.since) < full);
    }

    /// Adds one; those that it replaces.
    pub(super) fn insert(&mut self, id: u64, registration: Registration, is_made: bool) -> Vec<u64> {
        let of_device = self.devices.entry(registration.device.clone()).or_default();
        let mut replaced: Vec<u64> = of_device
            .iter()
            .copied()
            .filter(|id| {
                self.all.get(id).is_some_and(|old| {
                    let old = &old.registration;
                    old.peer == registration.peer
                        && old.session == registration.session
                        && (old.token == registration.token || old.path == registration.path)
                })
            })
            .collect();
        if of_device.len() - replaced.len() >= OF_DEVICE {
            replaced.extend(of_device.iter().find(|id| !replaced.contains(id)).copied());
        }
        of_device.push(id);
        let (sequence, notified) = (id, None);
        let (refreshing, is_changed) = (false, false);
        self.all.insert(id, Relation { registration, sequence, is_made, notified, refreshing, is_changed });
        replaced.iter().for_each(|id| drop(self.remove(*id)));
        replaced
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Relation> {
        let relation = self.all.remove(&id)?;
        let device = &relation.registration.device;
        if let Some(of_device) = self.devices.get_mut(device) {
            of_device.retain(|other| *other != id);
            if of_device.is_empty() {
                self.devices.remove(device);
            }
        }
        Some(relation)
    }

    pub(super) fn get(&self, id: u64) -> Option<&Relation> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Relation> {
        self.all.get_mut(&id)
    }

    /// The newest relation of a device on a path whose session is there.
    pub(super) fn find(&self, device: &Name, path: &str) -> Option<(u64, &Relation)> {
        let ids = self.devices.get(device)?.iter().rev();
        ids.filter_map(|id| Some((*id, self.all.get(id)?))).find(|(_, relation)| {
            relation.is_made && relation.registration.peer.is_some() && relation.registration.path == path
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Relation)> {
        self.all.iter().map(|(id, relation)| (*id, relation))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The message on a path is gone.
    pub(super) fn note_changed(&mut self, device: &Name, path: &str) {
        for id in self.devices.get(device).into_iter().flatten() {
            if let Some(relation) = self.all.get_mut(id).filter(|of| of.registration.path == path) {
                relation.is_changed = true;
            }
        }
    }

    /// Those that were not told anything for [`REFRESH`], or whose message is gone.
    pub(super) fn due(&self, now: Instant) -> Vec<u64> {
        let is_due = |relation: &Relation| {
            relation.is_made
                && !relation.refreshing
                && relation.registration.peer.is_some()
                && (relation.is_changed
                    || relation.notified.is_some_and(|at| now.saturating_duration_since(at) >= REFRESH))
        };
        self.iter().filter(|(_, relation)| is_due(relation)).map(|(id, _)| id).collect()
    }

    /// A notification, or the answer to the registration, was sent.
    pub(super) fn note_sent(&mut self, now: Instant, id: u64, sequence: u64) {
        if let Some(relation) = self.all.get_mut(&id) {
            relation.notified = Some(now);
            relation.sequence = relation.sequence.max(sequence);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;
    use crate::proto::address::Peer;
    use crate::proto::dtls::SessionId;

    fn registration(device: &str, path: &str, peer: u64, token: &[u8]) -> Registration {
        Registration {
            device: Name::parse(device).unwrap(),
            path: path.to_owned(),
            peer: Some(Peer::Session(SessionId(peer)).id()),
            session: Some(peer),
            token: Token::new(token).unwrap(),
            block: None,
            formats: Formats::Any,
        }
    }

    fn of(relations: &Relations, device: &str, path: &str) -> Option<u64> {
        relations.find(&Name::parse(device).unwrap(), path).map(|(id, _)| id)
    }

    #[test]
    fn the_same_token_or_path_of_a_session_replaces_and_another_session_does_not() {
        let mut relations = Relations::default();
        assert!(relations.insert(1, registration("a", "x", 1, b"t"), true).is_empty());
        assert_eq!(relations.insert(2, registration("a", "x", 1, b"u"), true), [1]);
        assert_eq!(relations.insert(3, registration("a", "y", 1, b"u"), true), [2]);
        assert!(relations.insert(4, registration("a", "y", 2, b"u"), true).is_empty());
        assert!(relations.insert(5, registration("b", "y", 3, b"u"), true).is_empty());
        assert_eq!((of(&relations, "a", "y"), of(&relations, "a", "x")), (Some(4), None));
        relations.remove(4);
        assert_eq!((of(&relations, "a", "y"), relations.len()), (Some(3), 2));
    }

    #[test]
    fn the_oldest_of_a_device_ends_for_one_too_many_and_none_of_another() {
        let mut relations = Relations::default();
        relations.insert(1, registration("b", "x", 9, b"t"), true);
        for id in 2..100u64 {
            let path = format!("p/{id}");
            let replaced = relations.insert(id, registration("a", &path, 1, &id.to_be_bytes()), true);
            assert_eq!(replaced.len(), usize::from(id as usize > OF_DEVICE + 1), "{id}");
        }
        assert_eq!(relations.len(), OF_DEVICE + 1);
        assert!(of(&relations, "b", "x").is_some() && of(&relations, "a", "p/99").is_some());
    }

    #[test]
    fn a_device_registers_sixteen_times_at_once_and_then_every_two_seconds() {
        let (mut relations, now) = (Relations::default(), Instant::now());
        let (a, b) = (Name::parse("a").unwrap(), Name::parse("b").unwrap());
        assert_eq!((0..100).filter(|_| relations.may_register(now, &a)).count(), 16);
        assert!(relations.may_register(now, &b));
        let later = now + Duration::from_secs(5);
        assert_eq!((0..100).filter(|_| relations.may_register(later, &a)).count(), 2);
        relations.care(later + Duration::from_secs(60));
        assert!(relations.allowances.is_empty());
    }

    #[test]
    fn a_relation_is_due_a_day_after_the_last_notification() {
        let (mut relations, now) = (Relations::default(), Instant::now());
        relations.insert(1, registration("a", "x", 1, b"t"), true);
        assert!(relations.due(now).is_empty(), "its registration is not answered");
        relations.note_sent(now, 1, 5);
        assert!(relations.due(now + REFRESH - Duration::from_secs(1)).is_empty());
        assert_eq!(relations.due(now + REFRESH), [1]);
        assert!(REFRESH < Duration::from_secs(86_400));
    }
}
