//! Nothing older than what was seen: the versions below which metadata and firmware are refused.
//!
//! `tough` keeps the metadata it has seen in files, and notices a rollback by them; but it does not
//! write them atomically, and after a power cut in the wrong moment accepted old metadata again. So
//! the highest version of each role is kept here, in a record with two slots
//! ([`durable::two_slot`](crate::durable::two_slot)), and compared with what `tough` verified. It
//! holds versions and no times: a clock that was wrong leaves nothing behind.
//!
//! A version says nothing of who signed it. A root key that was replaced still signs a root.json
//! that follows the configured root-file, and others after it, of any version. So the newest
//! root.json that was accepted is kept by its digest, too, and a chain of root.json from the
//! root-file on has to pass through that very one ([`Fork`]). Where the root-file is newer, the
//! owner has said anew which keys are believed.
//!
//! A restore of a backup does not contain it, so it never lowers it.
//!
//! Two things lower it, to what is offered then. A later root.json with other keys for timestamp or
//! snapshot (TUF specification §5.3.11): with such a key somebody could have signed the highest
//! version there is, and without this the owner's own metadata would be below the floor for ever.
//! And another root-file of the owner's, of whose root keys none was ever seen: another repository,
//! or the same one after its root key was stolen. Nobody else can do that, since the root-file is
//! configuration. Keys stay remembered: an old root-file that comes back, from a backup or by a
//! mistake, begins nothing. Neither lowers the version of the firmware.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::version::Scheme;
use crate::durable::two_slot::SlotFormat;

/// The record's file in the update folder.
pub const FORMAT: SlotFormat = SlotFormat { name: "floor", magic: *b"TBUF", major: 1, content_max: 2048 };

/// A role of TUF whose metadata has a version of its own (TUF specification §4.3–4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Most root keys of one root.json: more would push out the ones of before.
pub const KEYS_OF_ROOT_MAX: usize = 16;
/// Most sets of root keys that are remembered.
const ROOTS_MAX: usize = 8;
/// Most root keys that are remembered. With fewer than about twenty, the record is no longer than
/// versions read that remember sets alone.
const ROOT_KEYS_MAX: usize = 64;

/// Which root.json it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootJson {
    /// Its version.
    pub version: u64,
    /// The SHA-256 of what is signed in it, in canonical form, hexadecimal: further signatures and
    /// blanks make no other one of it.
    pub sha256: String,
}

/// One root.json of the chain that was followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Which.
    pub root: RootJson,
    /// Its root keys: the first 16 hexadecimal digits of their numbers.
    pub keys: Vec<String>,
}

/// By which keys metadata was verified: digests, 32 hexadecimal digits each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Of timestamp and snapshot.
    pub keys: String,
    /// Of root in the owner's root-file.
    pub root_file: String,
    /// Of root in the newest root.json that was followed from there.
    pub root: String,
    /// From the root-file to the newest root.json, each verified by the one before.
    pub chain: Vec<Link>,
}

/// What was seen, and what was good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The highest version of each role that was verified.
    pub metadata: MetadataVersions,
    /// Which keys that root.json has for timestamp and snapshot: a digest; empty: not known.
    #[serde(default)]
    pub keys: String,
    /// Which sets of root keys were seen, as digests; at most eight, the newest last.
    #[serde(default)]
    pub roots: Vec<String>,
    /// The newest root.json that was accepted; absent: not known yet, since a version wrote this
    /// that keeps none. The next one that is accepted is it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_json: Option<RootJson>,
    /// The root keys of every root.json that was accepted, as in [`Link`]; at most 64, the newest
    /// last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub root_keys: Vec<String>,
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
        )?;
        match self.role {
            MetadataRole::Root => f.write_str(
                "; every N.root.json has to stay published, or the newest one becomes the root-file by hand; if that \
                 one is refused, too, it stays there and `tombolo decommission` starts over from it",
            ),
            _ => Ok(()),
        }
    }
}

/// A chain of root.json that is not the one that was followed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Where the two part.
    pub version: u64,
    /// The SHA-256 of what was accepted there.
    pub accepted: String,
    /// Of what is offered.
    pub offered: String,
    /// What is offered is the owner's own root-file.
    pub is_file: bool,
}

impl std::fmt::Display for Fork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fork { version, accepted, offered, is_file } = self;
        let begin = |sha256: &str| sha256.chars().take(16).collect::<String>();
        let (offered, accepted) = (begin(offered), begin(accepted));
        let (whose, publish) = match is_file {
            true => (format!("root-file, of version {version}"), "put that one back as root-file".to_owned()),
            false => (format!("repository's {version}.root.json"), "publish that one again".to_owned()),
        };
        write!(
            f,
            "fork: the {whose} (SHA-256 {offered}) is not the one that was accepted before ({accepted}), and may be \
             signed by a root key that was replaced; {publish}, or put the owner's newest N.root.json, of a version \
             above {version}, as root-file by hand; if that one is refused, too, it stays there and \
             `tombolo decommission` starts over from it: never from an older one, which accepts what is refused now",
        )
    }
}

/// Why verified metadata is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is older.
    Rollback(Rollback),
    /// Its keys are of another chain.
    Fork(Fork),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Rollback(rollback) => rollback.fmt(f),
            Refusal::Fork(fork) => fork.fmt(f),
        }
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

    /// As [`Floor::parse`], of a whole file of somebody who is not believed: a further reason to
    /// refuse, and nothing else.
    pub fn parse_untrusted(file: &[u8]) -> Option<Floor> {
        let floor = Floor::parse(&FORMAT.newest_in(file)?)?;
        let is_digest = |root: &RootJson| {
            root.sha256.len() == 64 && root.sha256.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        floor.root_json.as_ref().is_none_or(is_digest).then_some(floor)
    }

    /// Whether verified metadata of these versions may be used.
    ///
    /// # Errors
    /// Another chain of root.json, or the first role whose version is below the floor.
    pub fn admit(&self, offered: MetadataVersions, trust: &Trust) -> Result<(), Refusal> {
        if self.begins_anew(trust) {
            return Ok(());
        }
        if let Some(accepted) = &self.root_json
            && let Some(link) = trust.chain.iter().find(|link| link.root.version == accepted.version)
            && link.root.sha256 != accepted.sha256
        {
            let (accepted, offered) = (accepted.clone(), link.root.sha256.clone());
            let is_file = trust.chain.first().is_some_and(|file| file.root.version == accepted.version);
            let fork = Fork { version: accepted.version, accepted: accepted.sha256, offered, is_file };
            return Err(Refusal::Fork(fork));
        }
        if self.is_replaced_by(offered.root, &trust.keys) {
            return Ok(());
        }
        let pairs = self.metadata.by_role().into_iter().zip(offered.by_role());
        for ((role, floor), (_, offered)) in pairs {
            if offered < floor {
                return Err(Refusal::Rollback(Rollback { role, floor, offered }));
            }
        }
        Ok(())
    }

    /// Whether a later root.json has other keys for timestamp or snapshot than the one seen.
    fn is_replaced_by(&self, root: u64, keys: &str) -> bool {
        root > self.metadata.root && !self.keys.is_empty() && keys != self.keys
    }

    /// Whether the owner's root-file is of another repository: by its root keys, none of which was
    /// seen before, neither in a root-file nor in what was followed from one. An older root-file of
    /// the same one, of a backup, is none.
    fn begins_anew(&self, trust: &Trust) -> bool {
        let is_known = self.roots.is_empty() || trust.root_file.is_empty() || self.keys.is_empty();
        let was_seen = |link: &Link| link.keys.iter().any(|key| self.root_keys.contains(key));
        !is_known
            && trust.keys != self.keys
            && !self.roots.contains(&trust.root_file)
            && !trust.chain.first().is_some_and(was_seen)
    }

    /// Raises the floor to what was admitted. True if that changes it, and it is to be written.
    pub fn raise(&mut self, seen: MetadataVersions, trust: &Trust) -> bool {
        let before = self.clone();
        if self.begins_anew(trust) {
            self.metadata = seen;
            self.start = self.start.saturating_add(1);
            self.root_json = None;
        }
        self.rise(seen, &trust.keys);
        if let Some(newest) = trust.chain.last() {
            self.follow(&newest.root);
        }
        let roots = [&trust.root_file, &trust.root].into_iter().filter(|root| !root.is_empty());
        let keys = trust.chain.iter().flat_map(|link| &link.keys);
        self.remember(roots, keys);
        *self != before
    }

    /// Keeps which root.json is the newest.
    fn follow(&mut self, root: &RootJson) {
        if self.root_json.as_ref().is_none_or(|known| known.version < root.version) {
            self.root_json = Some(root.clone());
        }
    }

    /// Remembers root keys; those that were not met for longest are forgotten first, so those of
    /// the newest root.json never.
    fn remember<'a>(
        &mut self,
        roots: impl Iterator<Item = &'a String>,
        keys: impl Iterator<Item = &'a String>,
    ) {
        add(&mut self.roots, roots, ROOTS_MAX);
        add(&mut self.root_keys, keys, ROOT_KEYS_MAX);
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
    /// compared with ours does not replace it. Nor does another root.json: without the chain
    /// between the two nothing says that one follows from the other. Then ours stays, with its
    /// versions, and the other one is returned.
    pub fn join(&mut self, other: &Floor) -> Option<RootJson> {
        let is_unproven = |theirs: &&RootJson| self.root_json.as_ref().is_some_and(|ours| ours != *theirs);
        let unproven = other.root_json.as_ref().filter(is_unproven).cloned();
        let is_later = unproven.is_none() && other.start > self.start;
        match other.start.cmp(&self.start) {
            Ordering::Greater if is_later => {
                (self.metadata, self.start) = (other.metadata, other.start);
                (self.keys, self.root_json) = (other.keys.clone(), other.root_json.clone());
            }
            Ordering::Equal if unproven.is_none() => {
                if !other.is_replaced_by(self.metadata.root, &self.keys) {
                    self.rise(other.metadata, &other.keys);
                }
                if let Some(root) = &other.root_json {
                    self.follow(root);
                }
            }
            _ => {}
        }
        let (mut roots, mut keys) = (other.roots.clone(), other.root_keys.clone());
        if !is_later {
            std::mem::swap(&mut self.roots, &mut roots);
            std::mem::swap(&mut self.root_keys, &mut keys);
        }
        self.remember(roots.iter(), keys.iter());
        let is_higher = |ours: &(String, String), theirs: &(String, String)| {
            let compared = Scheme::parse(&ours.1).and_then(|scheme| scheme.compare(&theirs.0, &ours.0));
            ours.1 == theirs.1 && compared == Some(Ordering::Greater)
        };
        match (&self.firmware, &other.firmware) {
            (_, None) => {}
            (Some(ours), Some(theirs)) if !is_higher(ours, theirs) => {}
            (_, Some(theirs)) => self.firmware = Some(theirs.clone()),
        }
        unproven
    }
}

/// Adds these, or puts them last, and forgets the first beyond `max`.
fn add<'a>(known: &mut Vec<String>, more: impl Iterator<Item = &'a String>, max: usize) {
    for one in more {
        known.retain(|other| other != one);
        known.push(one.clone());
    }
    known.drain(..known.len().saturating_sub(max));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: MetadataVersions = MetadataVersions { root: 2, timestamp: 40, snapshot: 9, targets: 7 };
    const KEYS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// Of the repository whose root keys are `root`.
    fn trust(root: &str, keys: &str) -> Trust {
        let (keys, root) = (keys.to_owned(), root.to_owned());
        Trust { keys, root_file: root.clone(), root, chain: Vec::new() }
    }

    /// The chain of these root.json, by their versions, their digests and their root keys.
    fn chain(roots: &[(u64, &str, &str)], keys: &str) -> Trust {
        let link = |(version, sha256, key): &(u64, &str, &str)| Link {
            root: RootJson { version: *version, sha256: (*sha256).to_owned() },
            keys: vec![(*key).to_owned()],
        };
        let of = |root: Option<&(u64, &str, &str)>| root.map(|root| root.2.to_owned()).unwrap_or_default();
        let (root_file, root) = (of(roots.first()), of(roots.last()));
        Trust { keys: keys.to_owned(), root_file, root, chain: roots.iter().map(link).collect() }
    }

    fn at(root: u64) -> MetadataVersions {
        MetadataVersions { root, ..SEEN }
    }

    #[test]
    fn a_chain_that_does_not_pass_through_the_root_that_was_accepted_is_refused_and_named() {
        let mut floor = Floor::default();
        let followed = chain(&[(1, "a1", "old"), (2, "a2", "old"), (3, "a3", "new")], KEYS);
        assert!(floor.raise(at(3), &followed));
        assert_eq!(floor.admit(at(3), &followed), Ok(()));
        // The key that was replaced goes on from the root-file by itself, as high as it likes, with
        // its own keys for the rest.
        let roots = (1..=9).map(|version| (version, if version == 1 { "a1" } else { "f" }, "old"));
        let roots: Vec<_> = roots.collect();
        let fork = chain(&roots, "others");
        let refused = floor.admit(at(9), &fork).expect_err("a fork");
        let Refusal::Fork(fork) = refused else { panic!("{refused:?}") };
        assert_eq!((fork.version, fork.accepted.as_str(), fork.offered.as_str()), (3, "a3", "f"));
        assert!(fork.to_string().contains("3.root.json") && fork.to_string().contains("root-file by hand"));
        // The way on, and the ways out: a later one, a newer root-file, another repository.
        let later = chain(&[(1, "a1", "old"), (2, "a2", "old"), (3, "a3", "new"), (4, "a4", "new")], KEYS);
        let by_hand = chain(&[(4, "b4", "new")], "others");
        let another = chain(&[(1, "c1", "stranger")], "others");
        for (versions, trust) in [(at(4), &later), (at(4), &by_hand), (at(1), &another)] {
            let mut floor = floor.clone();
            assert_eq!(floor.admit(versions, trust), Ok(()), "{trust:?}");
            floor.raise(versions, trust);
            let newest = trust.chain.last().map(|link| link.root.clone());
            assert_eq!((floor.root_json, floor.metadata.root), (newest, versions.root));
        }
        // Roots that are not published any more end below it.
        let short = chain(&[(1, "a1", "old"), (2, "a2", "old")], KEYS);
        assert!(matches!(floor.admit(at(2), &short), Err(Refusal::Rollback(_))));
    }

    #[test]
    fn a_floor_that_knows_no_digest_yet_learns_it_from_what_it_accepts_next() {
        let before = Floor { metadata: at(2), keys: KEYS.to_owned(), ..Floor::default() };
        let mut floor = Floor::parse(&before.encode()).expect("as a version before wrote it");
        let followed = chain(&[(1, "a1", "old"), (2, "a2", "new")], KEYS);
        assert_eq!(floor.admit(at(2), &followed), Ok(()));
        assert!(floor.raise(at(2), &followed), "it is to be written");
        let fork = chain(&[(1, "a1", "old"), (2, "f2", "old"), (3, "f3", "old")], "others");
        assert!(matches!(floor.admit(at(3), &fork), Err(Refusal::Fork(_))));
        // Another program's floor that knows none leaves it.
        assert_eq!(floor.join(&before), None);
        assert_eq!(floor.root_json.map(|root| root.sha256).as_deref(), Some("a2"));
    }

    #[test]
    fn a_root_key_that_was_seen_once_begins_nothing_however_many_came_after_it() {
        let mut floor = Floor::default();
        floor.raise(at(1), &chain(&[(1, "a1", "first")], KEYS));
        // A new repository: the root key was stolen.
        let anew = chain(&[(1, "b1", "key-0")], "others");
        assert_eq!(floor.admit(at(1), &anew), Ok(()));
        floor.raise(at(1), &anew);
        // Its root key is exchanged again and again, between two looks of the gateway.
        let names: Vec<String> = (0..50).map(|number| format!("key-{number}")).collect();
        let roots: Vec<_> = names.iter().zip(1..).map(|(name, version)| (version, "b1", &**name)).collect();
        floor.raise(at(50), &chain(&roots, "others"));
        for old in ["first", "key-0", "key-7", "key-48"] {
            let root_file = chain(&[(1, "a1", old)], KEYS);
            assert!(floor.admit(at(1), &root_file).is_err(), "{old}: an old root-file, put by hand");
        }
        assert_eq!(floor.admit(at(1), &chain(&[(1, "c1", "unseen")], KEYS)), Ok(()));
        let many: Vec<String> = (0..200).map(|number| format!("more-{number}")).collect();
        floor.remember(std::iter::empty(), many.iter());
        assert_eq!((floor.root_keys.len(), floor.root_keys.last()), (ROOT_KEYS_MAX, many.last()));
    }

    #[test]
    fn of_two_floors_with_different_roots_ours_stays_and_the_other_is_named() {
        let mut floor = Floor::default();
        floor.raise(at(2), &chain(&[(1, "a1", "old"), (2, "a2", "new")], KEYS));
        let ours = floor.clone();
        let mut fork = Floor::default();
        fork.raise(at(9), &chain(&[(1, "a1", "old"), (2, "f2", "old"), (9, "f9", "old")], "others"));
        let newest = fork.root_json.clone();
        assert_eq!(floor.join(&fork), newest, "higher, and perhaps no later one of ours");
        assert_eq!((&floor.root_json, floor.metadata), (&ours.root_json, ours.metadata));
        assert_eq!(floor.keys, ours.keys);
        // One that says that it began anew is none either.
        fork.start = 7;
        assert_eq!(floor.join(&fork), newest);
        assert_eq!((&floor.root_json, floor.metadata), (&ours.root_json, ours.metadata));
        // One that knows none learns it.
        let mut empty = Floor::default();
        assert_eq!((empty.join(&ours), empty.root_json), (None, ours.root_json));
    }

    #[test]
    fn root_keys_that_are_met_are_not_pushed_out_by_others() {
        let mut floor = Floor::default();
        let ours = chain(&[(1, "a1", "old"), (2, "a2", "new")], KEYS);
        floor.raise(at(2), &ours);
        let junk: Vec<String> = (0..ROOT_KEYS_MAX).map(|number| format!("junk-{number}")).collect();
        let mut later = ours.clone();
        later.chain.insert(0, Link { root: RootJson::default(), keys: junk });
        floor.raise(at(2), &later);
        for key in ["old", "new"] {
            assert!(floor.root_keys.iter().any(|known| known == key), "{key}");
        }
        assert_eq!(floor.root_keys.len(), ROOT_KEYS_MAX);
    }

    #[test]
    fn a_root_file_signed_anew_with_the_same_number_is_named_as_ours() {
        let mut floor = Floor::default();
        floor.raise(at(1), &chain(&[(1, "a1", "old")], KEYS));
        let refused = floor.admit(at(1), &chain(&[(1, "b1", "old")], KEYS)).expect_err("another").to_string();
        assert!(refused.starts_with("fork: the root-file, of version 1 (SHA-256 b1) is not"), "{refused}");
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
            match floor.admit(older, &trust("", KEYS)) {
                Err(Refusal::Rollback(rollback)) => assert_eq!(rollback.role, role),
                other => panic!("{role:?}: {other:?}"),
            }
        }
        let older = Rollback { role: MetadataRole::Timestamp, floor: 40, offered: 39 };
        let message = older.to_string();
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
        assert_eq!(joined.join(&floor), None);
        assert_eq!(joined, floor);
        assert_eq!(floor.join(&before), None);
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
        assert_eq!(joined.join(&floor), None);
        assert_eq!(joined, floor);
        assert_eq!(floor.join(&before), None);
        assert_eq!(floor, joined);
        // The first one is remembered: its root-file comes back from a backup, not by the owner.
        assert!(floor.admit(MetadataVersions { timestamp: 1, ..lower }, &trust("first", KEYS)).is_err());
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
        let _ = floor.join(&Floor {
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
            let _ = floor.join(&Floor {
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
            metadata: MetadataVersions {
                root: u64::MAX,
                timestamp: u64::MAX,
                snapshot: u64::MAX,
                targets: u64::MAX,
            },
            keys: KEYS.to_owned(),
            roots: vec![KEYS[..32].to_owned(); ROOTS_MAX],
            root_json: Some(RootJson { version: u64::MAX, sha256: KEYS.to_owned() }),
            root_keys: vec![KEYS[..16].to_owned(); ROOT_KEYS_MAX],
            start: u32::MAX,
            firmware: Some(("1".repeat(128), "semver".to_owned())),
        };
        assert_eq!(Floor::parse(&floor.encode()), Some(floor.clone()));
        assert!(floor.encode().len() < FORMAT.content_max, "{}", floor.encode().len());
        let mut file = FORMAT.encode(1, &floor.encode());
        file.resize(usize::try_from(FORMAT.file_bytes()).expect("small"), 0);
        assert_eq!(Floor::parse_untrusted(&file), Some(floor.clone()));
        assert_eq!(Floor::parse_untrusted(&file[..4000]), None);
        let root_json = Some(RootJson { version: 1, sha256: "\u{1b}[2J".to_owned() });
        let mut file = FORMAT.encode(1, &Floor { root_json, ..Floor::default() }.encode());
        file.resize(8192, 0);
        assert_eq!(Floor::parse_untrusted(&file), None, "no digest");
        // A usual one can be read by the versions that had half of that.
        let usual = Floor {
            firmware: Some(("2.4.1+20261127".to_owned(), "semver".to_owned())),
            root_keys: vec![KEYS[..16].to_owned(); 12],
            ..floor.clone()
        };
        assert!(usual.encode().len() <= 1024, "{}", usual.encode().len());
        assert_eq!(Floor::parse(b""), None);
        assert_eq!(Floor::parse(b"{}"), None);
        assert_eq!(Floor::parse(b"[[0,0,0,0]]"), None);
    }
}
