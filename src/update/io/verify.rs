//! Looks at a repository in a folder before it is published, as a gateway would, and at more: every
//! target is read. For the publisher's machine: it needs no daemon and no network.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use super::tuf;
use crate::clock::UnixTime;
use crate::update::check::{Fault, Metadata};
use crate::update::floor::MetadataRole;

/// Most roots that are looked for.
const ROOTS_MAX: u64 = 1_000;

/// What is in a repository.
#[derive(Debug)]
pub struct Verified {
    /// Versions, keys, offers.
    pub metadata: Metadata,
    /// When each role expires.
    pub expiries: [(MetadataRole, UnixTime); 4],
    /// Every target, by name.
    pub targets: Vec<Target>,
    /// Versions of root.json that are not there: gateways that have an older one cannot follow.
    pub missing_roots: Vec<u64>,
    /// Targets that are delegated to other roles, which gateways are not offered.
    pub delegates: bool,
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
    let oldest = || {
        let mut numbers = (1..=ROOTS_MAX).map(|number| root_file(&folder, number));
        numbers
            .find(|file| file.exists())
            .ok_or_else(|| Fault::Local(format!("there is no metadata/1.root.json in {}", folder.display())))
    };
    let root = match root {
        Some(root) => root.to_owned(),
        None => oldest()?,
    };
    let root = tuf::read_root(&root)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(local)?;
    let repository = runtime.block_on(tuf::load_folder(&folder, &root))?;
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
    let last = signed.version.get();
    let missing = (1..=last.min(ROOTS_MAX)).filter(|number| !root_file(&folder, *number).exists());
    Ok(Verified {
        metadata: tuf::metadata(&repository),
        expiries: tuf::expiries(&repository),
        targets,
        missing_roots: missing.collect(),
        delegates: repository.targets().signed.delegations.as_ref().is_some_and(|of| !of.roles.is_empty()),
    })
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
