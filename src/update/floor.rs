//! Nothing older than what was seen: the versions below which metadata and firmware are refused.
//!
//! `tough` keeps the metadata it has seen in files, and notices a rollback by them; but it does not
//! write them atomically, and after a power cut in the wrong moment accepted old metadata again. So
//! the highest version of each role is kept here, in a record with two slots
//! ([`durable::two_slot`](crate::durable::two_slot)), and compared with what `tough` verified. It
//! holds versions and no times: a clock that was wrong leaves nothing behind.
//!
//! A restore of a backup does not contain it, so it never lowers it.
//!
//! Two things lower it, to what is offered then. A later root.json with other keys for timestamp or
//! snapshot (TUF specification §5.3.11): with such a key somebody could have signed the highest
//! version there is, and without this the owner's own metadata would be below the floor for ever.
//! And another root-file of the owner's, with root keys that were never seen: another repository,
//! or the same one after its root key was stolen. Nobody else can do that, since the root-file is
//! configuration. Neither lowers the version of the firmware.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::version::Scheme;
use crate::durable::two_slot::SlotFormat;

/// The record's file in the update folder.
pub const FORMAT: SlotFormat = SlotFormat { name: "floor", magic: *b"TBUF", major: 1, content_max: 1024 };

/// A role of TUF whose metadata has a version of its own (TUF specification §4.3–4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataRole {
    /// Keys of all roles.
    Root,
    /// Which snapshot is current.
    Timestamp,
    /// Which targets metadata is current.
    Snapshot,
    /// The targets themselves.
    Targets,
}

impl MetadataRole {
    /// As the repository's files name it.
    pub fn as_str(self) -> &'static str {
        match self {
            MetadataRole::Root => "root",
            MetadataRole::Timestamp => "timestamp",
            MetadataRole::Snapshot => "snapshot",
            MetadataRole::Targets => "targets",
        }
    }
}

/// One version of each role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataVersions {
    /// Of root.json.
    pub root: u64,
    /// Of timestamp.json.
    pub timestamp: u64,
    /// Of snapshot.json.
    pub snapshot: u64,
    /// Of targets.json.
    pub targets: u64,
}

impl MetadataVersions {
    fn by_role(self) -> [(MetadataRole, u64); 4] {
        [
            (MetadataRole::Root, self.root),
            (MetadataRole::Timestamp, self.timestamp),
            (MetadataRole::Snapshot, self.snapshot),
            (MetadataRole::Targets, self.targets),
        ]
    }
}

/// Most sets of root keys that are remembered.
const ROOTS_MAX: usize = 8;

/// By which keys metadata was verified: digests, 32 hexadecimal digits each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Of timestamp and snapshot.
    pub keys: String,
    /// Of root in the owner's root-file.
    pub root_file: String,
    /// Of root in the newest root.json that was followed from there.
    pub root: String,
}

/// What was seen, and what was good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The highest version of each role that was verified.
    pub metadata: MetadataVersions,
    /// Which keys that root.json has for timestamp and snapshot: a digest; empty: not known.
    #[serde(default)]
    pub keys: String,
    /// Which root keys were seen, as digests; at most eight, the newest last.
    #[serde(default)]
    pub roots: Vec<String>,
    /// How often another root-file began anew.
    #[serde(default)]
    pub start: u32,
    /// The highest version of the gateway's firmware that was installed and found good, with the
    /// scheme it is compared by (`debian`, `semver`).
    #[serde(default)]
    pub firmware: Option<(String, String)>,
}

/// Metadata older than what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// Which.
    pub role: MetadataRole,
    /// What was seen before.
    pub floor: u64,
    /// What is offered now.
    pub offered: u64,
}

impl std::fmt::Display for Rollback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rollback { role, floor, offered } = self;
        let role = role.as_str();
        write!(
            f,
            "rollback: the repository offers version {offered} of {role}.json, and version {floor} was seen before"
        )
    }
}

impl Floor {
    /// The record's content.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads it; `None` if it is of no known kind.
    pub fn parse(content: &[u8]) -> Option<Floor> {
        // serde would also take an array for a struct.
        content.first().filter(|byte| **byte == b'{')?;
        serde_json::from_slice(content).ok()
    }

    /// Whether verified metadata of these versions may be used.
    ///
    /// # Errors
    /// The first role whose version is below the floor.
    pub fn admit(&self, offered: MetadataVersions, trust: &Trust) -> Result<(), Rollback> {
        if self.begins_anew(trust) || self.is_replaced_by(offered.root, &trust.keys) {
            return Ok(());
        }
        let pairs = self.metadata.by_role().into_iter().zip(offered.by_role());
        for ((role, floor), (_, offered)) in pairs {
            if offered < floor {
                return Err(Rollback { role, floor, offered });
            }
        }
        Ok(())
    }

    /// Whether a later root.json has other keys for timestamp or snapshot than the one seen.
    fn is_replaced_by(&self, root: u64, keys: &str) -> bool {
        root > self.metadata.root && !self.keys.is_empty() && keys != self.keys
    }

    /// Whether the owner's root-file is of another repository: by its root keys, which were not
    /// seen before, neither in a root-file nor in what was followed from one. An older root-file of
    /// the same one, of a backup, is none.
    fn begins_anew(&self, trust: &Trust) -> bool {
        let is_known = self.roots.is_empty() || trust.root_file.is_empty() || self.keys.is_empty();
        !is_known && trust.keys != self.keys && !self.roots.contains(&trust.root_file)
    }

    /// Raises the floor to what was admitted. True if that changes it, and it is to be written.
    pub fn raise(&mut self, seen: MetadataVersions, trust: &Trust) -> bool {
        let before = self.clone();
        if self.begins_anew(trust) {
            self.metadata = seen;
            self.start = self.start.saturating_add(1);
            self.roots.clear();
        }
        self.rise(seen, &trust.keys);
        for root in [&trust.root_file, &trust.root] {
            if !root.is_empty() && !self.roots.contains(root) {
                self.roots.push(root.clone());
            }
        }
        self.roots.drain(..self.roots.len().saturating_sub(ROOTS_MAX));
        *self != before
    }

    fn rise(&mut self, seen: MetadataVersions, keys: &str) {
        if self.is_replaced_by(seen.root, keys) {
            self.metadata = seen;
        }
        if seen.root >= self.metadata.root {
            keys.clone_into(&mut self.keys);
        }
        let MetadataVersions { root, timestamp, snapshot, targets } = &mut self.metadata;
        for (floor, seen) in [
            (root, seen.root),
            (timestamp, seen.timestamp),
            (snapshot, seen.snapshot),
            (targets, seen.targets),
        ] {
            *floor = (*floor).max(seen);
        }
    }

    /// Raises the floor to another one where that is higher. A firmware's version that cannot be
    /// compared with ours does not replace it.
    pub fn join(&mut self, other: &Floor) {
        match other.start.cmp(&self.start) {
            Ordering::Less => {}
            Ordering::Greater => {
                (self.metadata, self.start) = (other.metadata, other.start);
                (self.keys, self.roots) = (other.keys.clone(), other.roots.clone());
            }
            Ordering::Equal => {
                if !other.is_replaced_by(self.metadata.root, &self.keys) {
                    self.rise(other.metadata, &other.keys);
                }
                self.roots.extend(
                    other.roots.iter().filter(|root| !self.roots.contains(root)).cloned().collect::<Vec<_>>(),
                );
                self.roots.drain(..self.roots.len().saturating_sub(ROOTS_MAX));
            }
        }
        let is_higher = |ours: &(String, String), theirs: &(String, String)| {
            let compared = Scheme::parse(&ours.1).and_then(|scheme| scheme.compare(&theirs.0, &ours.0));
            ours.1 == theirs.1 && compared == Some(Ordering::Greater)
        };
        match (&self.firmware, &other.firmware) {
            (_, None) => {}
            (Some(ours), Some(theirs)) if !is_higher(ours, theirs) => {}
            (_, Some(theirs)) => self.firmware = Some(theirs.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: MetadataVersions = MetadataVersions { root: 2, timestamp: 40, snapshot: 9, targets: 7 };
    const KEYS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// Of the repository whose root keys are `root`.
    fn trust(root: &str, keys: &str) -> Trust {
        Trust { keys: keys.to_owned(), root_file: root.to_owned(), root: root.to_owned() }
    }

    #[test]
    fn older_metadata_of_any_role_is_refused_and_named() {
        let floor = Floor { metadata: SEEN, ..Floor::default() };
        assert_eq!(floor.admit(SEEN, &trust("", KEYS)), Ok(()));
        for (role, older) in [
            (MetadataRole::Root, MetadataVersions { root: 1, ..SEEN }),
            (MetadataRole::Timestamp, MetadataVersions { timestamp: 39, ..SEEN }),
            (MetadataRole::Snapshot, MetadataVersions { snapshot: 8, ..SEEN }),
            (MetadataRole::Targets, MetadataVersions { targets: 1, ..SEEN }),
        ] {
            assert_eq!(floor.admit(older, &trust("", KEYS)).map_err(|rollback| rollback.role), Err(role));
        }
        let message = floor
            .admit(MetadataVersions { timestamp: 39, ..SEEN }, &trust("", KEYS))
            .expect_err("older")
            .to_string();
        assert_eq!(
            message,
            "rollback: the repository offers version 39 of timestamp.json, and version 40 was seen before"
        );
    }

    #[test]
    fn the_floor_rises_role_by_role_and_never_sinks() {
        let mut floor = Floor { metadata: SEEN, ..Floor::default() };
        assert!(!floor.raise(SEEN, &Trust::default()));
        assert!(
            floor
                .raise(MetadataVersions { root: 3, timestamp: 1, snapshot: 9, targets: 8 }, &trust("", KEYS))
        );
        assert_eq!(floor.metadata, MetadataVersions { root: 3, timestamp: 40, snapshot: 9, targets: 8 });
    }

    #[test]
    fn a_later_root_with_other_keys_begins_anew_and_nothing_else_does() {
        let stolen = MetadataVersions { timestamp: u64::MAX, ..SEEN };
        let mut floor = Floor { metadata: stolen, keys: KEYS.to_owned(), ..Floor::default() };
        let before = floor.clone();
        let mended = MetadataVersions { root: 3, timestamp: 41, snapshot: 3, targets: 8 };
        assert!(floor.admit(mended, &trust("", KEYS)).is_err(), "the same keys");
        assert!(
            floor.admit(MetadataVersions { root: 2, ..mended }, &trust("", "others")).is_err(),
            "the same root"
        );
        assert_eq!(floor.admit(mended, &trust("", "others")), Ok(()));
        assert!(floor.raise(mended, &trust("", "others")));
        assert_eq!((floor.metadata, floor.keys.as_str()), (mended, "others"));
        // What another program still remembers of the time before does not come back.
        let mut joined = before.clone();
        joined.join(&floor);
        assert_eq!(joined, floor);
        floor.join(&before);
        assert_eq!(joined, floor);
        assert!(floor.admit(stolen, &trust("", KEYS)).is_err(), "nor does the old root");
    }

    #[test]
    fn another_root_file_of_the_owners_begins_anew_and_an_older_one_of_the_same_repository_does_not() {
        let firmware = Some(("3.0.0".to_owned(), "semver".to_owned()));
        let mut floor = Floor { firmware: firmware.clone(), ..Floor::default() };
        floor.raise(SEEN, &trust("first", KEYS));
        // Its root keys were exchanged in the ordinary way: a chain, and a new root-file later.
        let later = MetadataVersions { root: 3, ..SEEN };
        floor.raise(later, &Trust { root: "second".to_owned(), ..trust("first", KEYS) });
        let lower = MetadataVersions { root: 1, timestamp: 2, snapshot: 2, targets: 2 };
        for known in ["first", "second"] {
            assert!(floor.admit(lower, &trust(known, "others")).is_err(), "{known}: of a backup");
        }
        // With the same keys for timestamp and snapshot it is the same repository.
        assert!(floor.admit(lower, &trust("third", KEYS)).is_err());
        let before = floor.clone();
        assert_eq!(floor.admit(lower, &trust("third", "others")), Ok(()));
        assert!(floor.raise(lower, &trust("third", "others")));
        assert_eq!((floor.metadata, &floor.firmware, floor.start), (lower, &firmware, 1));
        assert!(floor.admit(MetadataVersions { timestamp: 1, ..lower }, &trust("third", "others")).is_err());
        // What another program still has of the time before does not come back.
        let mut joined = before.clone();
        joined.join(&floor);
        assert_eq!(joined, floor);
        floor.join(&before);
        assert_eq!(floor, joined);
        // And back to the first one, by the owner's word.
        assert_eq!(floor.admit(MetadataVersions { root: 1, ..lower }, &trust("first", KEYS)), Ok(()));
    }

    #[test]
    fn of_two_floors_the_higher_counts_for_each_role_and_for_the_firmware() {
        let firmware = |version: &str, scheme: &str| Some((version.to_owned(), scheme.to_owned()));
        let mut floor = Floor {
            metadata: SEEN,
            keys: KEYS.to_owned(),
            firmware: firmware("2.4.1", "semver"),
            ..Floor::default()
        };
        let lower = MetadataVersions { timestamp: 41, targets: 1, ..SEEN };
        floor.join(&Floor {
            metadata: lower,
            keys: KEYS.to_owned(),
            firmware: firmware("2.4.0", "semver"),
            ..Floor::default()
        });
        assert_eq!(floor.metadata, MetadataVersions { timestamp: 41, ..SEEN });
        assert_eq!(floor.firmware, firmware("2.4.1", "semver"));
        for (offered, left) in [
            (firmware("9", "debian"), firmware("2.4.1", "semver")),
            (None, firmware("2.4.1", "semver")),
            (firmware("2.10.0", "semver"), firmware("2.10.0", "semver")),
        ] {
            floor.join(&Floor {
                metadata: SEEN,
                keys: KEYS.to_owned(),
                firmware: offered,
                ..Floor::default()
            });
            assert_eq!(floor.firmware, left);
        }
    }

    #[test]
    fn the_record_is_read_as_it_was_written_and_damage_is_not_a_floor() {
        let floor = Floor {
            metadata: SEEN,
            keys: KEYS.to_owned(),
            roots: vec![KEYS[..32].to_owned(); ROOTS_MAX],
            start: u32::MAX,
            firmware: Some(("1".repeat(128), "semver".to_owned())),
        };
        assert_eq!(Floor::parse(&floor.encode()), Some(floor.clone()));
        assert!(floor.encode().len() < FORMAT.content_max);
        assert_eq!(Floor::parse(b""), None);
        assert_eq!(Floor::parse(b"{}"), None);
        assert_eq!(Floor::parse(b"[[0,0,0,0]]"), None);
    }
}
