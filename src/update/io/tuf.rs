//! A TUF repository over HTTPS: `tough` verifies, our client fetches.
//!
//! `tough` is given no folder of its own, so it works in a temporary one that ends with the check:
//! what it would remember is not written atomically (it reads torn files as none, and then accepts
//! a rollback), and our [`floor`](crate::update::floor) remembers it. Nor does it judge expiry; see
//! [`check`](crate::update::check).
//!
//! Only metadata is fetched here. Each file is bounded before it is parsed, by the client and by
//! [`LIMITS`]; so is their number. Delegated targets are verified, and not offered.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::{fmt, io};

use aws_lc_rs::digest;
use futures_core::Stream;
use nix::fcntl::{Flock, FlockArg, OFlag};
use tough::error::Error;
use tough::schema::{Role as _, RoleType, Root, Signed};
use tough::{
    Bytes, ExpirationEnforcement, FilesystemTransport, Limits, Repository, RepositoryLoader, Transport,
    TransportError, TransportErrorKind, TransportStream, async_trait,
};
use url::Url;

use crate::clock::UnixTime;
use crate::durable::io::regular;
use crate::hex::format_hex;
use crate::https::io::Client;
use crate::https::message::{Failure, Request};
use crate::https::url::HttpsUrl;
use crate::update::check::{Fault, Metadata};
use crate::update::floor::{KEYS_OF_ROOT_MAX, Link, MetadataRole, MetadataVersions, RootJson, Trust};
use crate::update::offer::Offer;

/// What is fetched at most, in bytes and in files. The client's limit on a body must not be below
/// `max_targets_size`.
pub const LIMITS: Limits = Limits {
    max_root_size: 256 * 1024,
    max_targets_size: 4 * 1024 * 1024,
    max_timestamp_size: 16 * 1024,
    max_snapshot_size: 256 * 1024,
    max_root_updates: 64,
};
/// Files of metadata a check, roots and delegations included.
const FILES_MAX: u32 = 100;
/// Begins the name of a folder for working files where the system has temporary ones.
const TEMPORARY: &str = ".tombolo-check-";
/// Unusable targets that are named.
const UNUSABLE_MAX: usize = 16;
/// Longest sentence taken over from the library, in bytes.
const SENTENCE_MAX: usize = 300;

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The folder of the metadata, with a `/` at its end.
    pub metadata: String,
    /// The folder of the targets, with a `/` at its end.
    pub targets: String,
}

/// Fetches the metadata and verifies it against `root`, the content of a root.json of any version:
/// later ones are followed. `scratch`: a folder for the library's working files, which is made for
/// that, and is gone afterwards; `None`: one where the system has temporary files.
///
/// # Errors
/// [`Fault::Unreachable`], [`Fault::Invalid`] or [`Fault::Local`].
pub async fn load(
    place: &Place,
    root: &[u8],
    client: Arc<Client>,
    scratch: Option<&Path>,
) -> Result<Metadata, Fault> {
    let url = |text: &str| Url::parse(text).map_err(|error| Fault::Local(format!("{text}: {error}")));
    let roots = Arc::new(Mutex::new(Vec::new()));
    let mut loader = RepositoryLoader::new(&root, url(&place.metadata)?, url(&place.targets)?)
        .transport(Https { client, left: Left::default(), roots: roots.clone() })
        .limits(LIMITS)
        .expiration_enforcement(ExpirationEnforcement::Unsafe);
    let scratch = scratch.map_or_else(Scratch::temporary, Scratch::make)?;
    loader = loader.datastore(&scratch.folder);
    let repository = loader.load().await.map_err(|error| fault(&error))?;
    let file: Option<Signed<Root>> = serde_json::from_slice(root).ok();
    let mut found = metadata(&repository);
    if let Some(file) = file {
        found.trust.root_file = keys(&file.signed, &[RoleType::Root]);
        let fetched = std::mem::take(&mut *roots.lock().unwrap_or_else(PoisonError::into_inner));
        found.trust.chain = chain(link(&file.signed), fetched, found.versions.root)?;
    }
    Ok(found)
}

/// What was followed from the root-file on, to version `newest`. Of what was fetched, each first
/// one was verified: the library goes on by it, or ends.
fn chain(file: Option<Link>, fetched: Vec<Link>, newest: u64) -> Result<Vec<Link>, Fault> {
    let mut chain: Vec<Link> = file.into_iter().collect();
    for link in fetched {
        let version = chain.last().map_or(0, |last| last.root.version);
        if version < newest && link.root.version == version + 1 {
            chain.push(link);
        }
    }
    if let Some(link) = chain.iter().find(|link| link.keys.len() > KEYS_OF_ROOT_MAX) {
        let (version, count) = (link.root.version, link.keys.len());
        return Err(Fault::Invalid(format!(
            "{version}.root.json has {count} root keys, and at most {KEYS_OF_ROOT_MAX} can be remembered"
        )));
    }
    // What was followed is known in whole, or nothing of it is believed.
    match chain.last().is_some_and(|last| last.root.version == newest) {
        true => Ok(chain),
        false => Err(Fault::Invalid(format!("the chain of root.json to version {newest} is not known"))),
    }
}

/// Which root.json it is, and by which keys. `None`: it has no canonical form.
fn link(root: &Root) -> Option<Link> {
    let sha256 = digest::digest(&digest::SHA256, &root.canonical_form().ok()?);
    let of_root = root.roles.get(&RoleType::Root).map_or(&[][..], |keys| &keys.keyids[..]);
    Some(Link {
        root: RootJson { version: root.version.get(), sha256: format_hex(sha256.as_ref()) },
        keys: of_root.iter().map(|key| format_hex(key.get(..8).unwrap_or(key))).collect(),
    })
}

/// A folder that ends with this. It is locked as long as a process uses it.
struct Scratch {
    folder: PathBuf,
    _lock: Option<Flock<File>>,
}

impl Scratch {
    /// Makes it; what an earlier process left there goes first.
    fn make(folder: &Path) -> Result<Scratch, Fault> {
        let _ = std::fs::remove_dir_all(folder);
        let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
        made.map_err(|error| unwritten(folder, &error))?;
        Ok(Scratch { folder: folder.to_owned(), _lock: lock(folder) })
    }

    /// One where the system has temporary files, for a command that runs beside others. What was
    /// left there by those that were killed goes first.
    fn temporary() -> Result<Scratch, Fault> {
        let parent = std::env::temp_dir();
        for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
            let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
            // One of another user cannot be opened, and one that is in use not be locked.
            if is_one && lock(&entry.path()).is_some() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let random = crate::system::io::random().map_err(|error| unwritten(&parent, &error))?;
        let number = u64::from_ne_bytes(random);
        let mut scratch = Scratch::make(&parent.join(format!(".tombolo-new-{number:016x}")))?;
        // Locked before it has the name of those that are deleted if nobody has.
        let folder = parent.join(format!("{TEMPORARY}{number:016x}"));
        std::fs::rename(&scratch.folder, &folder).map_err(|error| unwritten(&parent, &error))?;
        scratch.folder = folder;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The folder, if nobody else has locked it.
fn lock(folder: &Path) -> Option<Flock<File>> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(folder).ok()?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).ok()
}

/// No working files can be written there.
fn unwritten(folder: &Path, error: &io::Error) -> Fault {
    let way = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
        _ => "",
    };
    Fault::Local(format!(
        "the working files of a check cannot be written in {}: {error}{way}",
        folder.display()
    ))
}

/// Verifies the metadata of a repository in a folder of this machine, which has `metadata/` and
/// `targets/`.
///
/// # Errors
/// As [`load`].
pub(super) async fn load_folder(folder: &Path, root: &[u8]) -> Result<Repository, Fault> {
    let url = |name: &str| {
        let path = folder.join(name);
        Url::from_directory_path(&path)
            .map_err(|()| Fault::Local(format!("{} is no absolute path", path.display())))
    };
    let scratch = Scratch::temporary()?;
    let loader = RepositoryLoader::new(&root, url("metadata")?, url("targets")?)
        .transport(Disk { left: Left::default() })
        .datastore(&scratch.folder)
        .limits(LIMITS)
        .expiration_enforcement(ExpirationEnforcement::Unsafe);
    loader.load().await.map_err(|error| fault(&error))
}

/// Which version of root.json that is; 0: none that can be read.
pub(super) fn version_of(root: &[u8]) -> u64 {
    serde_json::from_slice::<Signed<Root>>(root).map_or(0, |root| root.signed.version.get())
}

/// When each role expires.
pub(super) fn expiries(repository: &Repository) -> [(MetadataRole, UnixTime); 4] {
    let (root, timestamp) = (&repository.root().signed, &repository.timestamp().signed);
    let (snapshot, targets) = (&repository.snapshot().signed, &repository.targets().signed);
    let expiries = [
        (MetadataRole::Root, root.expires),
        (MetadataRole::Timestamp, timestamp.expires),
        (MetadataRole::Snapshot, snapshot.expires),
        (MetadataRole::Targets, targets.expires),
    ];
    expiries.map(|(role, time)| (role, UnixTime(u64::try_from(time.as_millisecond()).unwrap_or(0))))
}

/// What verified metadata says.
pub(super) fn metadata(repository: &Repository) -> Metadata {
    let (root, timestamp) = (&repository.root().signed, &repository.timestamp().signed);
    let (snapshot, targets) = (&repository.snapshot().signed, &repository.targets().signed);
    let expires = expiries(repository);
    let first = expires.into_iter().min_by_key(|(_, time)| *time).unwrap_or(expires[0]);
    let (mut offers, mut unusable) = (Vec::new(), Vec::new());
    let mut listed: Vec<_> = targets.targets.iter().collect();
    listed.sort_by(|a, b| a.0.raw().cmp(b.0.raw()));
    for (name, target) in listed {
        let Ok(sha256) = <[u8; 32]>::try_from(&target.hashes.sha256[..]) else { continue };
        match Offer::read(name.raw(), target.length, sha256, target.custom.get("tombolo")) {
            Ok(offer) => offers
                .extend(offer.map(|offer| Offer { is_hash_prefixed: root.consistent_snapshot, ..offer })),
            Err(sentence) if unusable.len() < UNUSABLE_MAX => unusable.push(sentence),
            Err(_) => {}
        }
    }
    Metadata {
        versions: MetadataVersions {
            root: root.version.get(),
            timestamp: timestamp.version.get(),
            snapshot: snapshot.version.get(),
            targets: targets.version.get(),
        },
        trust: Trust {
            keys: keys(root, &[RoleType::Timestamp, RoleType::Snapshot]),
            root_file: String::new(),
            root: keys(root, &[RoleType::Root]),
            chain: Vec::new(),
        },
        expires: first,
        root_until: expires[0].1,
        offers,
        unusable,
    }
}

/// A digest of which keys these roles have, half of it.
fn keys(root: &Root, roles: &[RoleType]) -> String {
    let mut text = String::new();
    for role in roles {
        let keys = root.roles.get(role).map_or(&[][..], |keys| &keys.keyids[..]);
        let mut keys: Vec<String> = keys.iter().map(|key| format_hex(key)).collect();
        keys.sort();
        text += &format!("{role}:{}\n", keys.join(","));
    }
    format_hex(&digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..16])
}

/// Reads the root of trust. It blocks.
///
/// # Errors
/// Names the file.
pub fn read_root(path: &Path) -> Result<Vec<u8>, Fault> {
    let local = |why: String| Fault::Local(format!("root-file {}: {why}", path.display()));
    let root = regular::read(path, LIMITS.max_root_size);
    let root = root.map_err(|fault| {
        local(match fault {
            regular::Fault::TooLarge(_) => format!("it is longer than {} bytes", LIMITS.max_root_size),
            regular::Fault::System(error) => error.to_string(),
            other => other.to_string(),
        })
    })?;
    if String::from_utf8_lossy(&root).contains(" PRIVATE KEY-----") {
        let text = "it is a private key, which belongs on no gateway; use the repository's 1.root.json";
        return Err(local(text.to_owned()));
    }
    if serde_json::from_slice::<Signed<Root>>(&root).is_err() {
        return Err(local("it is no root.json of TUF; use the repository's 1.root.json".to_owned()));
    }
    Ok(root)
}

/// What the library says, sorted by what it means here.
fn fault(error: &Error) -> Fault {
    match error {
        Error::Transport { source, .. } => transport_fault(source),
        Error::ParseTrustedMetadata { .. } | Error::VerifyTrustedMetadata { .. } => {
            Fault::Local(format!("root-file: {}", sentence(error)))
        }
        // Its working files, in a folder that ends with the check.
        Error::DatastoreCreate { path, source, .. }
        | Error::DatastoreOpen { path, source, .. }
        | Error::DatastoreRemove { path, source, .. } => unwritten(path.parent().unwrap_or(path), source),
        Error::DatastoreInit { .. } | Error::DatastoreSerialize { .. } => Fault::Local(sentence(error)),
        Error::MaxUpdatesExceeded { max_root_updates, .. } => Fault::Invalid(format!(
            "more than {max_root_updates} versions of root.json follow the root-file: put the repository's newest \
             N.root.json as root-file"
        )),
        _ => Fault::Invalid(sentence(error)),
    }
}

fn transport_fault(error: &TransportError) -> Fault {
    use std::error::Error as _;
    let cause = error.source();
    let text = || cause.map_or_else(|| error.to_string(), |cause| bounded(&cause.to_string()));
    let is_ours = cause.and_then(|cause| cause.downcast_ref::<Refused>());
    match (error.kind(), is_ours) {
        (TransportErrorKind::FileNotFound, _) => Fault::Invalid(format!("{} is missing", error.url())),
        (_, Some(refused)) if !refused.is_content => {
            Fault::Unreachable(format!("{}: {}", error.url(), text()))
        }
        // Ours, or the library's: a length or a hash that is not the one that was signed.
        _ => Fault::Invalid(format!("{}: {}", error.url(), text())),
    }
}

/// The chain of causes in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    bounded(&plain(text))
}

/// With a key's number as a repository writes it, where the library prints its own type:
/// `Decoded { bytes: [165, …], original: "a506…", … }`.
fn plain(mut text: String) -> String {
    const ORIGINAL: &str = "original: \"";
    while let Some(start) = text.find("Decoded {") {
        let rest = &text[start..];
        let number = rest.split_once(ORIGINAL).and_then(|(_, rest)| rest.split('"').next());
        let end = rest.find('}').map_or(rest.len(), |end| end + 1);
        let number = number.unwrap_or_default().to_owned();
        text.replace_range(start..start + end, &number);
    }
    text
}

/// Its beginning, on one line.
fn bounded(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > SENTENCE_MAX {
            break;
        }
        out.push(c);
    }
    out
}

/// An answer that is none.
#[derive(Debug)]
struct Refused {
    text: String,
    /// The server was reached, and what it sends cannot be used.
    is_content: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

/// Files that may still be asked for: delegations name as many as they like.
#[derive(Clone, Debug)]
struct Left(Arc<AtomicU32>);

impl Default for Left {
    fn default() -> Left {
        Left(Arc::new(AtomicU32::new(FILES_MAX)))
    }
}

impl Left {
    /// One file.
    fn take(&self) -> Result<(), Refused> {
        let take = |left: u32| left.checked_sub(1);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => {
                let text = format!("the metadata has more than {FILES_MAX} files");
                Err(Refused { text, is_content: true })
            }
        }
    }
}

/// A folder of this machine, within the bounds of a gateway.
#[derive(Clone, Debug)]
struct Disk {
    left: Left,
}

#[async_trait]
impl Transport for Disk {
    /// As [`Https`] has it.
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        match self.left.take() {
            Ok(()) => FilesystemTransport.fetch(url).await,
            Err(refused) => {
                let error = TransportError::new_with_cause(TransportErrorKind::Other, url.as_str(), refused);
                Ok(Box::pin(Once(Mutex::new(Some(Err(error))))))
            }
        }
    }
}

/// The library's way to fetch a file.
#[derive(Clone)]
struct Https {
    client: Arc<Client>,
    left: Left,
    /// Each root.json that came, in that order; not verified.
    roots: Arc<Mutex<Vec<Link>>>,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Https")
    }
}

impl Https {
    /// Keeps which one it is, if it is a root.json.
    fn note_root(&self, url: &Url, body: &[u8]) {
        let is_root = url.path().ends_with(".root.json") && body.len() as u64 <= LIMITS.max_root_size;
        let root: Option<Signed<Root>> = if is_root { serde_json::from_slice(body).ok() } else { None };
        let link = root.and_then(|root| link(&root.signed));
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).extend(link);
    }

    /// One file. `None`: the repository does not have it.
    async fn get(&self, url: &Url) -> Result<Option<Vec<u8>>, Refused> {
        let refused = |text: String, is_content: bool| Refused { text, is_content };
        self.left.take()?;
        let address = HttpsUrl::parse(url.as_str()).map_err(|error| refused(error.to_string(), true))?;
        match self.client.send(&Request::get(address, "application/json")).await {
            Ok(response) => match response.status {
                200 => {
                    self.note_root(url, &response.body);
                    Ok(Some(response.body))
                }
                403 | 404 | 410 => Ok(None),
                status => Err(refused(format!("status {status}"), false)),
            },
            Err(failure) => {
                let is_content = matches!(
                    failure,
                    Failure::BodyTooLong(_)
                        | Failure::HeadTooLong(_)
                        | Failure::Redirect { .. }
                        | Failure::Encoded(_)
                );
                Err(refused(failure.to_string(), is_content))
            }
        }
    }
}

#[async_trait]
impl Transport for Https {
    /// A failure comes as the first piece of the stream. The library takes every error of this
    /// function for "there is no newer root.json", and would stay with the keys before: whoever is
    /// in between could so keep a revoked key alive.
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let piece = match self.get(&url).await {
            Ok(Some(body)) => Ok(Bytes::from(body)),
            Ok(None) => return Err(TransportError::new(TransportErrorKind::FileNotFound, url.as_str())),
            Err(refused) => {
                Err(TransportError::new_with_cause(TransportErrorKind::Other, url.as_str(), refused))
            }
        };
        Ok(Box::pin(Once(Mutex::new(Some(piece)))))
    }
}

/// A body that is here already, or why there is none.
struct Once(Mutex<Option<Result<Bytes, TransportError>>>);

impl Stream for Once {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.lock().unwrap_or_else(PoisonError::into_inner).take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_as_the_repository_writes_it() {
        let said =
            "Duplicate key ID: Decoded { bytes: [165, 6], original: \"a506\", spook: PhantomData<Hex> }";
        assert_eq!(plain(said.to_owned()), "Duplicate key ID: a506");
        for cut in 0..said.len() {
            plain(said[..cut].to_owned());
        }
    }
}
