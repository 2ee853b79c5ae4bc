//! The folder of the programs that run as root: what was installed, what became of it, the floor.
//! Everybody may read it, and the daemon does; nobody but root is believed about it.
//!
//! | file | content |
//! |---|---|
//! | `installation.json` | the [`Installation`], with a copy |
//! | `history.json` | what became of versions, and those that failed twice, with a copy |
//! | `floor` | the versions below which nothing is installed |
//! | `image` | the copy that is installed; gone afterwards |
//! | `packages/` | apt: the packages of the version that runs and of the one before |
//! | `metadata/` | working files of a check, while it lasts |
//! | `attempt` | when an installation was begun last |
//! | `lock` | held by the program that works here, and by what it has install |

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};

use super::trusted::{self, Distrust};
use super::{floor, history};
use crate::durable::atomic_file::{AtomicFile, Retrieved};
use crate::durable::io::{OnDisk, sync_folder};
use crate::update::floor::{FORMAT, Floor};
use crate::update::history::{Event, History, What};
use crate::update::installation::Installation;

const RECORD: AtomicFile<'static> = AtomicFile::new("installation.json", 16 * 1024, 0o644).with_copy();

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
}

/// Reads it. It blocks.
///
/// # Errors
/// One sentence: something is there, and cannot be read. What is denied is then not known.
pub fn read(folder: &Path) -> Result<Public, String> {
    if !folder.exists() {
        return Ok(Public::default());
    }
    let installation = installation(folder)?;
    let history = history::read(folder)?;
    let floor = floor::read(floor::on_disk(folder)).map_err(|fault| fault.to_string())?;
    Ok(Public { installation, history, floor: floor.firmware.map(|(version, _)| version) })
}

fn installation(folder: &Path) -> Result<Option<Installation>, String> {
    let found: Retrieved<Installation> = RECORD.read(&OnDisk::new(folder), Installation::parse);
    let is_new = found.is_new();
    match (found.value, found.defects.first()) {
        (Some(record), _) => Ok(Some(record)),
        (None, Some(defect)) if !is_new => Err(format!("{}: {defect}", folder.display())),
        (None, _) => Ok(None),
    }
}

/// The folder, held by this program alone, and by what installs for it.
pub struct Root {
    folder: PathBuf,
    lock: Flock<File>,
}

/// While this is there, every program that is begun holds the folder as long as it runs: also when
/// the one that began it was killed.
pub struct Shared {
    _file: File,
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
        if let Some(parent) = folder.parent().filter(|_| !folder.exists()) {
            trusted::real_path(parent).map_err(|why| NotHeld::Because(why.to_string()))?;
            DirBuilder::new().mode(0o755).create(folder).map_err(because)?;
            sync_folder(parent).map_err(because)?;
        }
        let folder = trusted::real_path(folder).map_err(|why| NotHeld::Because(why.to_string()))?;
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = options.open(folder.join("lock")).map_err(because)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                let root = Root { folder, lock };
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
        file.map(|file| Shared { _file: file })
            .map_err(|error| format!("{}: {error}", self.folder.join("lock").display()))
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

    /// Writes the record.
    ///
    /// # Errors
    /// One sentence; it is what it was, or what it was to be.
    pub fn write(&self, record: &Installation) -> Result<(), String> {
        RECORD
            .write(&OnDisk::new(&self.folder), &record.encode())
            .map_err(|error| format!("{} cannot be written: {error}", self.folder.display()))
    }

    /// Adds to the history.
    ///
    /// # Errors
    /// One sentence; then nothing is known to be changed.
    pub fn record(
        &self,
        version: &str,
        what: What,
        at: Option<String>,
        cause: Option<&str>,
    ) -> Result<(), String> {
        let cause = cause.map(str::to_owned);
        self.change(|history| history.record(Event { version: version.to_owned(), what, at, cause }))
    }

    /// Changes the history.
    ///
    /// # Errors
    /// One sentence; then nothing is known to be changed.
    pub fn change(&self, act: impl FnOnce(&mut History)) -> Result<(), String> {
        history::change_public(&self.folder, act)
    }

    /// Raises the floor to a version that works.
    ///
    /// # Errors
    /// One sentence; it is what it was, or higher.
    pub fn raise(&self, version: &str, scheme: &str) -> Result<(), String> {
        let seen = Floor { firmware: Some((version.to_owned(), scheme.to_owned())), ..Floor::default() };
        floor::raise(floor::on_disk(&self.folder), &seen).map_err(|fault| fault.to_string())?;
        self.publish_floor();
        Ok(())
    }

    /// Has everybody read the floor.
    pub fn publish_floor(&self) {
        let _ = fs::set_permissions(self.folder.join(FORMAT.name), Permissions::from_mode(0o644));
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

impl From<Distrust> for NotHeld {
    fn from(why: Distrust) -> NotHeld {
        NotHeld::Because(why.to_string())
    }
}
