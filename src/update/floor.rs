//! Nothing older than what was seen: the versions below which metadata and firmware are refused.
//!
//! `tough` keeps the metadata it has seen in files, and notices a rollback by them; but it does not
//! write them atomically, and after a power cut in the wrong moment accepted old metadata again. So
//! the highest version of each role is kept here, in a record with two slots
//! ([`durable::two_slot`](crate::durable::two_slot)), and compared with what `tough` verified. It
//! holds versions and no times: a clock that was wrong leaves nothing behind.
//!
//! A restore of a backup does not contain it, so it never lowers it.

use serde::{Deserialize, Serialize};

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
    pub fn admit(&self, offered: MetadataVersions) -> Result<(), Rollback> {
        let pairs = self.metadata.by_role().into_iter().zip(offered.by_role());
        for ((role, floor), (_, offered)) in pairs {
            if offered < floor {
                return Err(Rollback { role, floor, offered });
            }
        }
        Ok(())
    }

    /// Raises the floor to what was admitted. True if that changes it, and it is to be written.
    pub fn raise(&mut self, seen: MetadataVersions) -> bool {
        let before = self.metadata;
        let MetadataVersions { root, timestamp, snapshot, targets } = &mut self.metadata;
        for (floor, seen) in [
            (root, seen.root),
            (timestamp, seen.timestamp),
            (snapshot, seen.snapshot),
            (targets, seen.targets),
        ] {
            *floor = (*floor).max(seen);
        }
        self.metadata != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: MetadataVersions = MetadataVersions { root: 2, timestamp: 40, snapshot: 9, targets: 7 };

    #[test]
    fn older_metadata_of_any_role_is_refused_and_named() {
        let floor = Floor { metadata: SEEN, firmware: None };
        assert_eq!(floor.admit(SEEN), Ok(()));
        for (role, older) in [
            (MetadataRole::Root, MetadataVersions { root: 1, ..SEEN }),
            (MetadataRole::Timestamp, MetadataVersions { timestamp: 39, ..SEEN }),
            (MetadataRole::Snapshot, MetadataVersions { snapshot: 8, ..SEEN }),
            (MetadataRole::Targets, MetadataVersions { targets: 1, ..SEEN }),
        ] {
            assert_eq!(floor.admit(older).map_err(|rollback| rollback.role), Err(role));
        }
        let message = floor.admit(MetadataVersions { timestamp: 39, ..SEEN }).expect_err("older").to_string();
        assert_eq!(
            message,
            "rollback: the repository offers version 39 of timestamp.json, and version 40 was seen before"
        );
    }

    #[test]
    fn the_floor_rises_role_by_role_and_never_sinks() {
        let mut floor = Floor { metadata: SEEN, firmware: None };
        assert!(!floor.raise(SEEN));
        assert!(floor.raise(MetadataVersions { root: 3, timestamp: 1, snapshot: 9, targets: 8 }));
        assert_eq!(floor.metadata, MetadataVersions { root: 3, timestamp: 40, snapshot: 9, targets: 8 });
    }

    #[test]
    fn the_record_is_read_as_it_was_written_and_damage_is_not_a_floor() {
        let floor = Floor { metadata: SEEN, firmware: Some(("2.4.1".to_owned(), "semver".to_owned())) };
        assert_eq!(Floor::parse(&floor.encode()), Some(floor.clone()));
        assert!(floor.encode().len() < FORMAT.content_max);
        assert_eq!(Floor::parse(b""), None);
        assert_eq!(Floor::parse(b"{}"), None);
        assert_eq!(Floor::parse(b"[[0,0,0,0]]"), None);
    }
}
