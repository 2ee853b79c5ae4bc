//! Looks at a repository in a folder before it is published, as a gateway would, and at more: every
//! target is read. For the publisher's machine: it needs no daemon and no network.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use super::tuf;
use crate::clock::UnixTime;
use crate::update::check::{Fault, Metadata};
use crate::update::floor::MetadataRole;

/// Most roots that are looked for.
const ROOTS_MAX: u64 = 1_000;
/// So many days before a role's metadata expires a publisher is warned: root and targets need keys
/// that lie elsewhere, the timestamp is to be signed each day.
const SOON_DAYS: [(MetadataRole, u64); 4] = [
    (MetadataRole::Root, 60),
    (MetadataRole::Timestamp, 2),
    (MetadataRole::Snapshot, 14),
    (MetadataRole::Targets, 60),
];

/// Once more roots than this follow the one it is verified by, a publisher is warned.
pub const ROOTS_MANY: u64 = tuf::LIMITS.max_root_updates * 3 / 4;

/// Missing roots that are named in one sentence.
const NAMED_MAX: usize = 8;

/// What is in a repository.
#[derive(Debug)]
pub struct Verified {
    /// Versions, keys, offers.
    pub metadata: Metadata,
    /// When each role expires.
    pub expiries: [(MetadataRole, UnixTime); 4],
    /// Every target, by name.
    pub targets: Vec<Target>,
    /// Versions of root.json that are not there, up to the highest that is: gateways that have an
    /// older one cannot follow.
    pub missing_roots: Vec<u64>,
    /// Targets that are delegated to other roles, which gateways are not offered.
    pub delegates: bool,
    /// How many versions of root.json follow the one that it was verified by.
    pub roots_after: u64,
}

/// How long a role's metadata still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// For long enough.
    Good,
    /// It is to be signed anew within so many days, the last one begun included.
    Soon(u64),
    /// It expired.
    Expired,
}

impl Validity {
    /// Judges `role`, which expires at `until`.
    pub fn judge(role: MetadataRole, until: UnixTime, now: UnixTime) -> Validity {
        let soon = SOON_DAYS.into_iter().find(|(of, _)| *of == role).map_or(0, |(_, days)| days);
        match until.0.saturating_sub(now.0).div_ceil(86_400_000) {
            0 => Validity::Expired,
            days if days <= soon => Validity::Soon(days),
            _ => Validity::Good,
        }
    }
}

/// A target and its file.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its signed length.
    pub bytes: u64,
    /// What is wrong with its file, one sentence.
    pub fault: Option<String>,
}

/// Verifies the repository in `folder` against `root`, a root.json of any version; `None`: the
/// oldest one in the folder. It blocks.
///
/// # Errors
/// [`Fault`]: the metadata does not verify, or cannot be read.
pub fn verify(folder: &Path, root: Option<&Path>) -> Result<Verified, Fault> {
    let local = |error: std::io::Error| Fault::Local(format!("{}: {error}", folder.display()));
    let folder = folder.canonicalize().map_err(local)?;
    let roots = roots(&folder).map_err(local)?;
    let highest = roots.last().copied().unwrap_or(0);
    let missing_to = |last: u64| -> Vec<u64> {
        (1..=last.min(ROOTS_MAX)).filter(|number| !roots.contains(number)).collect()
    };
    let missing = missing_to(highest);
    let oldest = || {
        let first = roots.first().map(|number| root_file(&folder, *number));
        first.ok_or_else(|| Fault::Local(format!("there is no metadata/1.root.json in {}", folder.display())))
    };
    let root = match root {
        Some(root) => root.to_owned(),
        None => oldest()?,
    };
    let root = tuf::read_root(&root)?;
    let first = tuf::version_of(&root);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(local)?;
    // Without a root between, the keys of a later one are not known, and it looks like a forgery.
    let repository = runtime.block_on(tuf::load_folder(&folder, &root)).map_err(|fault| match fault {
        Fault::Invalid(text) if !missing.is_empty() => {
            let names: Vec<String> =
                missing.iter().take(NAMED_MAX).map(|of| format!("{of}.root.json")).collect();
            Fault::Invalid(format!("{text}; in metadata {} is missing", names.join(", ")))
        }
        fault => fault,
    })?;
    let signed = &repository.root().signed;
    let mut targets = Vec::new();
    for (name, target) in &repository.targets().signed.targets {
        let name = name.raw().to_owned();
        let hash = &target.hashes.sha256[..];
        let file = file_name(&name, hash, signed.consistent_snapshot);
        let fault = look(&folder.join("targets").join(file), target.length, hash);
        targets.push(Target { name, bytes: target.length, fault });
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Verified {
        metadata: tuf::metadata(&repository),
        expiries: tuf::expiries(&repository),
        targets,
        // The one that was given may be a later one than any that is there.
        missing_roots: missing_to(highest.max(signed.version.get())),
        roots_after: signed.version.get().saturating_sub(first),
        delegates: repository.targets().signed.delegations.as_ref().is_some_and(|of| !of.roles.is_empty()),
    })
}

/// The versions of root.json that are there, as far as [`ROOTS_MAX`].
fn roots(folder: &Path) -> std::io::Result<BTreeSet<u64>> {
    let mut roots = BTreeSet::new();
    for entry in std::fs::read_dir(folder.join("metadata"))? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".root.json")?.parse::<u64>().ok());
        let is_one = |number: &u64| {
            (1..=ROOTS_MAX).contains(number) && root_file(folder, *number).file_name() == Some(&name)
        };
        roots.extend(number.filter(is_one));
    }
    Ok(roots)
}

fn root_file(folder: &Path, version: u64) -> PathBuf {
    folder.join("metadata").join(format!("{version}.root.json"))
}

fn file_name(name: &str, hash: &[u8], is_prefixed: bool) -> String {
    if !is_prefixed {
        return name.to_owned();
    }
    let hash = crate::hex::format_hex(hash);
    match name.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/{hash}.{name}"),
        None => format!("{hash}.{name}"),
    }
}

/// What is wrong with a target's file.
fn look(file: &Path, length: u64, hash: &[u8]) -> Option<String> {
    let named = |what: String| Some(format!("{}: {what}", file.display()));
    let mut reader = match std::fs::File::open(file) {
        Ok(reader) => reader,
        Err(error) => return named(error.to_string()),
    };
    match reader.metadata() {
        Ok(about) if !about.is_file() => return named("it is not a file".to_owned()),
        Ok(about) if about.len() != length => {
            return named(format!("it has {} bytes, and {length} were signed", about.len()));
        }
        Ok(_) => {}
        Err(error) => return named(error.to_string()),
    }
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 64 * 1024]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => context.update(&buffer[..count]),
            Err(error) => return named(error.to_string()),
        }
    }
    if context.finish().as_ref() == hash {
        None
    } else {
        named("its SHA-256 is not the signed one".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_named_before_it_expires_by_how_long_signing_it_anew_takes() {
        const DAY: u64 = 86_400_000;
        let now = UnixTime(1_000 * DAY);
        for (role, left, validity) in [
            (MetadataRole::Root, 61 * DAY, Validity::Good),
            (MetadataRole::Root, 60 * DAY, Validity::Soon(60)),
            (MetadataRole::Root, 1, Validity::Soon(1)),
            (MetadataRole::Root, 0, Validity::Expired),
            (MetadataRole::Timestamp, 6 * DAY, Validity::Good),
            (MetadataRole::Timestamp, DAY, Validity::Soon(1)),
            (MetadataRole::Targets, 61 * DAY, Validity::Good),
            (MetadataRole::Targets, 14 * DAY, Validity::Soon(14)),
            (MetadataRole::Snapshot, 45 * DAY, Validity::Good),
        ] {
            assert_eq!(Validity::judge(role, UnixTime(now.0 + left), now), validity, "{role:?} {left}");
        }
        assert_eq!(Validity::judge(MetadataRole::Root, UnixTime(now.0 - DAY), now), Validity::Expired);
    }
}
