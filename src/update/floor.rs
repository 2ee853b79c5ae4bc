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
//! One thing lowers it: a later root.json with other keys for timestamp or snapshot (TUF
//! specification §5.3.11). Whoever had such a key could have signed the highest version there is,
//! and without this the owner's own metadata would be below the floor for ever.

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

/// What was seen, and what was good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The highest version of each role that was verified.
    pub metadata: MetadataVersions,
    /// Which keys that root.json has for timestamp and snapshot: a digest; empty: not known.
    #[serde(default)]
    pub keys: String,
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

    /// Whether verified metadata of these versions may be used. `keys`: as in [`Floor::keys`].
    ///
    /// # Errors
    /// The first role whose version is below the floor.
    pub fn admit(&self, offered: MetadataVersions, keys: &str) -> Result<(), Rollback> {
        if self.is_replaced_by(offered.root, keys) {
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

    /// Raises the floor to what was admitted. True if that changes it, and it is to be written.
    pub fn raise(&mut self, seen: MetadataVersions, keys: &str) -> bool {
        let before = self.clone();
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
        *self != before
    }

    /// Raises the floor to another one where that is higher. A firmware's version that cannot be
    /// compared with ours does not replace it.
    pub fn join(&mut self, other: &Floor) {
        if !other.is_replaced_by(self.metadata.root, &self.keys) {
            self.raise(other.metadata, &other.keys);
        }
        let is_higher = |ours: &(String, String), theirs: &(String, String)| {
            let compared = Scheme::parse(&ours.1).and_then(|scheme| scheme.compare(&theirs.0, &ours.0));
            ours.1 == theirs.1 && compared == Some(std::cmp::Ordering::Greater)
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

    #[test]
    fn older_metadata_of_any_role_is_refused_and_named() {
        let floor = Floor { metadata: SEEN, ..Floor::default() };
        assert_eq!(floor.admit(SEEN, KEYS), Ok(()));
        for (role, older) in [
            (MetadataRole::Root, MetadataVersions { root: 1, ..SEEN }),
            (MetadataRole::Timestamp, MetadataVersions { timestamp: 39, ..SEEN }),
            (MetadataRole::Snapshot, MetadataVersions { snapshot: 8, ..SEEN }),
            (MetadataRole::Targets, MetadataVersions { targets: 1, ..SEEN }),
        ] {
            assert_eq!(floor.admit(older, KEYS).map_err(|rollback| rollback.role), Err(role));
        }
        let message =
            floor.admit(MetadataVersions { timestamp: 39, ..SEEN }, KEYS).expect_err("older").to_string();
        assert_eq!(
            message,
            "rollback: the repository offers version 39 of timestamp.json, and version 40 was seen before"
        );
    }

    #[test]
    fn the_floor_rises_role_by_role_and_never_sinks() {
        let mut floor = Floor { metadata: SEEN, ..Floor::default() };
        assert!(!floor.raise(SEEN, ""));
        assert!(floor.raise(MetadataVersions { root: 3, timestamp: 1, snapshot: 9, targets: 8 }, KEYS));
        assert_eq!(floor.metadata, MetadataVersions { root: 3, timestamp: 40, snapshot: 9, targets: 8 });
    }

    #[test]
    fn a_later_root_with_other_keys_begins_anew_and_nothing_else_does() {
        let stolen = MetadataVersions { timestamp: u64::MAX, ..SEEN };
        let mut floor = Floor { metadata: stolen, keys: KEYS.to_owned(), firmware: None };
        let before = floor.clone();
        let mended = MetadataVersions { root: 3, timestamp: 41, snapshot: 3, targets: 8 };
        assert!(floor.admit(mended, KEYS).is_err(), "the same keys");
        assert!(floor.admit(MetadataVersions { root: 2, ..mended }, "others").is_err(), "the same root");
        assert_eq!(floor.admit(mended, "others"), Ok(()));
        assert!(floor.raise(mended, "others"));
        assert_eq!((floor.metadata, floor.keys.as_str()), (mended, "others"));
        // What another program still remembers of the time before does not come back.
        let mut joined = before.clone();
        joined.join(&floor);
        assert_eq!(joined, floor);
        floor.join(&before);
        assert_eq!(joined, floor);
        assert!(floor.admit(stolen, KEYS).is_err(), "nor does the old root");
    }

    #[test]
    fn of_two_floors_the_higher_counts_for_each_role_and_for_the_firmware() {
        let firmware = |version: &str, scheme: &str| Some((version.to_owned(), scheme.to_owned()));
        let mut floor =
            Floor { metadata: SEEN, keys: KEYS.to_owned(), firmware: firmware("2.4.1", "semver") };
        let lower = MetadataVersions { timestamp: 41, targets: 1, ..SEEN };
        floor.join(&Floor { metadata: lower, keys: KEYS.to_owned(), firmware: firmware("2.4.0", "semver") });
        assert_eq!(floor.metadata, MetadataVersions { timestamp: 41, ..SEEN });
        assert_eq!(floor.firmware, firmware("2.4.1", "semver"));
        for (offered, left) in [
            (firmware("9", "debian"), firmware("2.4.1", "semver")),
            (None, firmware("2.4.1", "semver")),
            (firmware("2.10.0", "semver"), firmware("2.10.0", "semver")),
        ] {
            floor.join(&Floor { metadata: SEEN, keys: KEYS.to_owned(), firmware: offered });
            assert_eq!(floor.firmware, left);
        }
    }

    #[test]
    fn the_record_is_read_as_it_was_written_and_damage_is_not_a_floor() {
        let floor = Floor {
            metadata: SEEN,
            keys: KEYS.to_owned(),
            firmware: Some(("2.4.1".to_owned(), "semver".to_owned())),
        };
        assert_eq!(Floor::parse(&floor.encode()), Some(floor.clone()));
        assert!(floor.encode().len() < FORMAT.content_max);
        assert_eq!(Floor::parse(b""), None);
        assert_eq!(Floor::parse(b"{}"), None);
        assert_eq!(Floor::parse(b"[[0,0,0,0]]"), None);
    }
}
