//! The folder of the programs that run as root: what was installed, what became of it, the floor.
//! Everybody may read it, and the daemon does; nobody but root is believed about it.
//!
//! | file | content |
//! |---|---|
//! | `installation.json` | the [`Installation`], with a copy |
//! | `history.json` | what became of versions, and those that failed twice, with a copy |
//! | `refusal.json` | why the last run verified nothing to install, if so |
//! | `floor` | the versions below which nothing is installed |
//! | `image` | the copy that is installed; gone afterwards |
//! | `packages/` | apt: the packages of the version that runs and of the one before |
//! | `metadata/` | working files of a check, while it lasts |
//! | `attempt` | when an installation was begun last |
//! | `reserve` | 256 KiB of nothing: room for the records where the disk is full |
//! | `lock` | held by the program that works here, and by what it has install |

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, Records, Shared};
use super::trusted::{self, Distrust};
use super::{floor, history};
use crate::durable::atomic_file::{AtomicFile, Retrieved};
use crate::durable::io::{OnDisk, sync_folder, write_atomically};
use crate::splitmix::SplitMix64;
use crate::system::mounts;
use crate::update::check::Metadata;
use crate::update::floor::{FORMAT, Floor};
use crate::update::history::History;
use crate::update::installation::Installation;

/// Room set aside for the records.
const RESERVE: &str = "reserve";
/// The record and the history are at most 16 and 45 KiB, each with a copy, and each is written
/// beside itself first.
const RESERVE_BYTES: u64 = 256 << 10;

/// Longest reason of a refusal, in characters.
const REASON_MAX: usize = 1000;

/// This boot and its time.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    /// The kernel's boot id.
    pub id: Option<String>,
    /// Seconds since it began.
    pub seconds: u64,
}

/// Between two attempts to hold the folder.
const RETRY: Duration = Duration::from_millis(200);

/// What everybody may read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Public {
    /// The last installation.
    pub installation: Option<Installation>,
    /// What became of versions.
    pub history: History,
    /// The highest version that was installed and good.
    pub floor: Option<String>,
    /// What is offered was refused.
    pub refusal: Option<Refused>,
    /// What of the floor is damaged, one sentence.
    pub damage: Option<String>,
}

/// Why what is offered is not installed, though no installation began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One sentence.
    pub reason: String,
    /// When it was refused for that first, RFC 3339; absent while the clock was not trusted.
    #[serde(default)]
    pub at: Option<String>,
    /// Nothing but its image was missing.
    #[serde(default)]
    pub lacks_image: bool,
}

impl Refused {
    /// Whether it is to be told where the image is here, or is not.
    pub fn stands(&self, has_image: bool) -> bool {
        !(self.lacks_image && has_image)
    }
}

const REFUSAL_NAME: &str = "refusal.json";
const REFUSAL: AtomicFile<'static> = AtomicFile::new(REFUSAL_NAME, 8 * 1024, 0o644);

fn refusal(folder: &Path) -> Option<Refused> {
    let found: Retrieved<Refused> = REFUSAL
        .read(&OnDisk::new(folder), |bytes| serde_json::from_slice(bytes).map_err(|error| error.to_string()));
    found.value
}

/// Reads it. It blocks.
///
/// # Errors
/// One sentence: something is there, and cannot be read. What is denied is then not known.
pub fn read(folder: &Path) -> Result<Public, String> {
    refuse_link(folder)?;
    if !folder.exists() {
        return Ok(Public::default());
    }
    let installation = records(folder).installation()?;
    let history = history::read(folder)?;
    let floor = floor::read(floor::on_disk(folder)).map_err(|fault| fault.to_string())?;
    Ok(Public {
        installation,
        history,
        floor: floor.firmware.map(|(version, _)| version),
        refusal: refusal(folder),
        damage: floor::damage(floor::on_disk(folder)),
    })
}

/// Where a link leads today may be another place tomorrow, with another floor.
fn refuse_link(folder: &Path) -> Result<(), String> {
    match folder.symlink_metadata() {
        Ok(about) if about.is_symlink() => Err(format!(
            "{} is a symbolic link, which is not followed: delete it, and mount the folder there (`mount --bind`) \
             if it is to be elsewhere",
            folder.display()
        )),
        _ => Ok(()),
    }
}

fn records(folder: &Path) -> Records<OnDisk> {
    Records { files: OnDisk::new(folder), shown: folder.to_owned() }
}

/// The installation alone: a history that cannot be read keeps no version from being judged.
///
/// # Errors
/// As [`read`].
pub fn installation(folder: &Path) -> Result<Option<Installation>, String> {
    refuse_link(folder)?;
    records(folder).installation()
}

/// Why nothing could be written there now, one sentence; also nothing of an installation that is
/// under way.
pub fn closed(folder: &Path) -> Option<String> {
    let about = statvfs(folder).ok()?;
    if about.flags().contains(FsFlags::ST_RDONLY) && is_on_read_only_file_system(folder) {
        return Some(format!("{} is on a file system that is read-only", folder.display()));
    }
    #[allow(clippy::useless_conversion, reason = "both are narrower on 32-bit targets")]
    let free = u64::from(about.blocks_available()).saturating_mul(u64::from(about.fragment_size()));
    let is_reserved = folder.join(RESERVE).symlink_metadata().is_ok();
    (free < RESERVE_BYTES && !is_reserved).then(|| {
        format!(
            "{} has {free} bytes free, and the records of an installation need {RESERVE_BYTES}",
            folder.display()
        )
    })
}

/// The daemon's own sandbox has the folder mounted read-only, which says nothing of root's
/// programs.
fn is_on_read_only_file_system(folder: &Path) -> bool {
    let (Ok(folder), Ok(mounts)) = (folder.canonicalize(), fs::read_to_string("/proc/self/mountinfo")) else {
        return false;
    };
    mounts::is_read_only(&mounts, &folder).unwrap_or(false)
}

/// The folder, held by this program alone, and by what installs for it.
pub struct Root {
    folder: PathBuf,
    lock: Flock<File>,
    records: Records<OnDisk>,
    unwritten: RefCell<Option<String>>,
}

/// Why it is not held.
#[derive(Debug)]
pub enum NotHeld {
    /// Another program works there.
    Busy,
    /// One sentence.
    Because(String),
}

impl std::fmt::Display for NotHeld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotHeld::Busy => {
                f.write_str(
                    "another `tombolo update` or `tombolo health` is at work, or what it began to install; wait for it",
                )
            }
            NotHeld::Because(why) => f.write_str(why),
        }
    }
}

impl Root {
    /// Makes the folder, 0755, unless it is there, and holds it. It blocks.
    ///
    /// # Errors
    /// [`NotHeld`]; also if anybody but root can write there.
    pub fn open(folder: &Path) -> Result<Root, NotHeld> {
        let because = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => "; run it as root",
                _ => "",
            };
            NotHeld::Because(format!("{}: {error}{hint}", folder.display()))
        };
        refuse_link(folder).map_err(NotHeld::Because)?;
        if let Some(parent) = folder.parent().filter(|_| !folder.exists()) {
            trusted::real_path(parent).map_err(|why| NotHeld::Because(why.to_string()))?;
            DirBuilder::new().mode(0o755).create(folder).map_err(because)?;
            sync_folder(parent).map_err(because)?;
        }
        let folder = trusted::real_path(folder).map_err(|why| NotHeld::Because(why.to_string()))?;
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        // What cannot be written can be held: a version that runs there is judged, too.
        let read_only = |path: &Path| OpenOptions::new().read(true).custom_flags(flags).open(path);
        let lock = folder.join("lock");
        let file = match options.open(&lock) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull) =>
            {
                read_only(&lock).or_else(|_| read_only(&folder)).map_err(because)?
            }
            other => other.map_err(because)?,
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                let root = Root { records: records(&folder), folder, lock, unwritten: RefCell::new(None) };
                // Of a run that was killed.
                root.forget_image();
                Ok(root)
            }
            Err((_, nix::Error::EWOULDBLOCK)) => Err(NotHeld::Busy),
            Err((_, error)) => Err(because(error.into())),
        }
    }

    /// As [`Root::open`], and waits for another program at most so long.
    ///
    /// # Errors
    /// [`NotHeld`]
    pub fn open_patiently(folder: &Path, patience: Duration) -> Result<Root, NotHeld> {
        let begun = Instant::now();
        loop {
            match Root::open(folder) {
                Err(NotHeld::Busy) if begun.elapsed() < patience => std::thread::sleep(RETRY),
                other => return other,
            }
        }
    }

    /// Has the programs that are begun from now on hold the folder, too.
    ///
    /// # Errors
    /// One sentence.
    pub fn share(&self) -> Result<Shared, String> {
        let file = self.lock.try_clone().and_then(|file| {
            fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(file)
        });
        file.map(Shared::of).map_err(|error| format!("{}: {error}", self.folder.join("lock").display()))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is in it. It blocks, as all that follows does.
    ///
    /// # Errors
    /// One sentence, as of [`read`].
    pub fn read(&self) -> Result<Public, String> {
        read(&self.folder)
    }

    /// Sets aside the room that the records of one installation need, to its end.
    ///
    /// # Errors
    /// One sentence: there is none.
    pub fn reserve(&self) -> Result<(), String> {
        let file = self.folder.join(RESERVE);
        if file.symlink_metadata().is_ok_and(|about| about.is_file() && about.len() == RESERVE_BYTES) {
            return Ok(());
        }
        // Nothing that a file system makes smaller.
        let mut chance = SplitMix64::new(RESERVE_BYTES);
        let bytes: Vec<u8> = (0..RESERVE_BYTES / 8).flat_map(|_| chance.next_u64().to_ne_bytes()).collect();
        write_atomically(&file, &bytes, 0o600).map_err(|error| {
            let (folder, size) = (self.folder.display(), RESERVE_BYTES >> 10);
            format!("{folder} has no {size} KiB for the records of an installation, so none begins: {error}")
        })
    }

    /// Gives that room free. False if there was none.
    fn release(&self) -> bool {
        fs::remove_file(self.folder.join(RESERVE)).is_ok_and(|()| sync_folder(&self.folder).is_ok())
    }

    /// Does it; where it fails, once more with the room that was set aside.
    fn with_room(&self, act: impl Fn() -> Result<(), String>) -> Result<(), String> {
        match act() {
            Err(_) if self.release() => act(),
            other => other,
        }
    }

    /// Writes the record where that is only shown: the room that was set aside stays.
    pub fn show(&self, record: &Installation) {
        let _ = self.records.write(record);
    }

    /// What could not be written, one sentence.
    pub fn unwritten(&self) -> Option<String> {
        self.unwritten.borrow().clone()
    }

    /// Has everybody read the floor.
    pub fn publish_floor(&self) {
        let _ = fs::set_permissions(self.folder.join(FORMAT.name), Permissions::from_mode(0o644));
    }

    /// Raises the floor to what was verified: an image of it is here.
    ///
    /// # Errors
    /// One sentence.
    #[cfg(feature = "update")]
    pub fn learn(&self, metadata: &Metadata) -> Result<(), String> {
        self.with_room(|| {
            let learnt = super::check::learn(floor::on_disk(&self.folder), metadata);
            learnt.map_err(|fault| fault.to_string())
        })?;
        self.publish_floor();
        Ok(())
    }

    /// As with TUF; there is nothing to learn.
    ///
    /// # Errors
    /// None.
    #[cfg(not(feature = "update"))]
    pub fn learn(&self, _: &Metadata) -> Result<(), String> {
        Ok(())
    }

    /// Has everybody read why nothing is installed; `None`: nothing is refused any more.
    pub fn show_refusal(&self, reason: Option<&str>, at: Option<String>, lacks_image: bool) {
        let before = refusal(&self.folder);
        let Some(reason) = reason else {
            let _ = fs::remove_file(self.folder.join(REFUSAL_NAME));
            return;
        };
        let reason: String = reason.chars().take(REASON_MAX).collect();
        if before.is_some_and(|before| before.reason == reason) {
            return;
        }
        let refused = Refused { reason, at, lacks_image };
        // Nothing depends on it.
        let _ = REFUSAL.write(&OnDisk::new(&self.folder), &serde_json::to_vec(&refused).unwrap_or_default());
    }

    /// Where the copy of an image goes.
    pub fn image(&self) -> PathBuf {
        self.folder.join("image")
    }

    /// Deletes that copy.
    pub fn forget_image(&self) {
        let _ = fs::remove_file(self.image());
    }

    /// Notes that the installation of a version begins now.
    pub fn note_attempt(&self, boot: &Boot, version: &str) {
        let id = boot.id.as_deref().unwrap_or("-");
        let _ = fs::write(self.folder.join("attempt"), format!("{id} {} {version}\n", boot.seconds));
    }

    /// Seconds since one of this version was begun in this boot.
    pub fn since_attempt(&self, boot: &Boot, version: &str) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join("attempt")).ok()?;
        let mut words = text.split_whitespace();
        let (id, at, of) = (words.next()?, words.next()?, words.next()?);
        let is_same = id == boot.id.as_deref().unwrap_or("-") && of == version;
        boot.seconds.checked_sub(at.parse().ok()?).filter(|_| is_same)
    }
}

impl Ledger for Root {
    fn installation(&self) -> Result<Option<Installation>, String> {
        self.records.installation()
    }

    fn history(&self) -> Result<History, String> {
        self.records.history()
    }

    fn write(&self, record: &Installation) -> Result<(), String> {
        self.with_room(|| self.records.write(record))
    }

    fn change(&self, act: &dyn Fn(&mut History)) -> Result<(), String> {
        self.with_room(|| self.records.change(act))
    }

    fn raise(&self, version: &str, scheme: &str) -> Result<(), String> {
        let seen = Floor { firmware: Some((version.to_owned(), scheme.to_owned())), ..Floor::default() };
        self.with_room(|| {
            let raised = floor::raise(floor::on_disk(&self.folder), &seen);
            raised.map(|_| ()).map_err(|fault| format!("{}: {fault}", self.folder.display()))
        })?;
        self.publish_floor();
        Ok(())
    }

    fn share(&self) -> Result<Option<Shared>, String> {
        Root::share(self).map(Some)
    }

    fn keep(&self, written: Result<(), String>) -> bool {
        let is_written = written.is_ok();
        if let Err(why) = written {
            log::error!(reason:% = why; "what an installation came to cannot be written down");
            self.unwritten.borrow_mut().get_or_insert(why);
        }
        is_written
    }
}

impl From<Distrust> for NotHeld {
    fn from(why: Distrust) -> NotHeld {
        NotHeld::Because(why.to_string())
    }
}
