//! One small file: how it is written, judged, restored from its copy and set aside (the core; see
//! the [module](super)).
//!
//! ```
//! use tombolo::durable::{atomic_file::AtomicFile, io::OnDisk};
//!
//! const FLOOR: AtomicFile = AtomicFile::new("floor", 64, 0o600).with_copy();
//! let judge = |bytes: &[u8]| match std::str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n')) {
//!     Some(text) => text.parse::<u64>().map_err(|error| error.to_string()),
//!     None => Err("it does not end where it should".to_owned()),
//! };
//! # let place = std::env::temp_dir().join(format!("tombolo-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&place).unwrap();
//! let folder = OnDisk::new(&place);
//! FLOOR.write(&folder, b"17\n").unwrap();
//! std::fs::write(place.join("floor"), [0; 3]).unwrap();
//! let retrieved = FLOOR.read(&folder, judge);
//! assert_eq!(retrieved.value, Some(17));
//! assert_eq!(retrieved.defects[0].to_string(), "floor is damaged: it holds nothing but zeros");
//! assert_eq!(FLOOR.mend(&folder, &retrieved).unwrap(), ["floor.damaged-1"]);
//! assert!(FLOOR.read(&folder, judge).defects.is_empty());
//! # std::fs::remove_dir_all(&place).unwrap();
//! ```

use std::fmt;
use std::io;
use std::time::Duration;

use zeroize::Zeroizing;

use super::folder::{ReadFault, StateFolder};

/// At most so many damaged versions of one file are kept: the first ones. A later one is deleted
/// when it is replaced.
pub const ASIDE_MAX: u32 = 8;
/// Beyond so many no free name is looked for.
const ASIDE_TRIED: u32 = 100;
/// Stands between a file's name and the number under which it was set aside.
const ASIDE: &str = ".damaged-";
/// Between two attempts to read what the system does not hand over; one more attempt than there are
/// pauses. Together longer than a disk takes that is reset.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_millis(700),
    Duration::from_millis(1_500),
];
/// Before what looks damaged is read once more.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// How a file is that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is not there.
    Missing,
    /// It was read, and is not what was written: why.
    Damaged(String),
    /// The system does not hand it over: what it says. It may be readable later.
    Unreadable(String),
}

impl fmt::Display for Condition {
    /// Follows the file's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Missing => f.write_str("is missing"),
            Condition::Damaged(why) => write!(f, "is damaged: {why}"),
            Condition::Unreadable(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

/// A name and what is wrong with the file under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// In its folder.
    pub name: String,
    /// How it is.
    pub condition: Condition,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.condition)
    }
}

/// What was read: the newest good version, and what is wrong with the files.
#[derive(Debug)]
pub struct Retrieved<T> {
    /// The newest good version; `None`: there is none.
    pub value: Option<T>,
    /// What is wrong with the file, then with its copy. Where both are missing there never was one.
    pub defects: Vec<Defect>,
    bytes: Zeroizing<Vec<u8>>,
    /// The copy is good, and is another version.
    is_copy_stale: bool,
}

impl<T> Retrieved<T> {
    /// Whether a new first version may be written: nothing is there that might be readable later.
    pub fn may_be_replaced(&self) -> bool {
        !self.defects.iter().any(|defect| matches!(defect.condition, Condition::Unreadable(_)))
    }

    /// Whether there never was one: not even a damaged one is there.
    pub fn is_new(&self) -> bool {
        self.value.is_none() && self.defects.iter().all(|defect| defect.condition == Condition::Missing)
    }
}

/// A file of the state: its name and what it may be.
#[derive(Clone, Copy, Debug)]
pub struct AtomicFile<'n> {
    name: &'n str,
    max_bytes: u64,
    mode: u32,
    has_copy: bool,
}

impl<'n> AtomicFile<'n> {
    /// A file of at most `max_bytes`, written with `mode`, without a copy: for what can be made
    /// again, or stands elsewhere too.
    pub const fn new(name: &'n str, max_bytes: u64, mode: u32) -> AtomicFile<'n> {
        AtomicFile { name, max_bytes, mode, has_copy: false }
    }

    /// The same with a copy, `NAME.copy`, which is always written after the file: for what cannot
    /// be made again. Damage to one of the two costs nothing.
    #[must_use]
    pub const fn with_copy(self) -> AtomicFile<'n> {
        AtomicFile { has_copy: true, ..self }
    }

    fn copy_name(&self) -> Option<String> {
        self.has_copy.then(|| format!("{}.copy", self.name))
    }

    /// Whether something is under its name, and under that of its copy.
    pub fn is_there(&self, folder: &impl StateFolder) -> bool {
        folder.has(self.name) && self.copy_name().is_none_or(|copy| folder.has(&copy))
    }

    /// Reads it. `judge` says what the content means, or in half a sentence why it cannot be what
    /// was written ("it is cut short"); empty content and nothing but zeros never reach it. Writes
    /// nothing.
    pub fn read<T>(
        &self,
        folder: &impl StateFolder,
        judge: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Retrieved<T> {
        let mut defects = Vec::new();
        let mut look = |name: String| {
            let judged = self.look_at(folder, &name, &judge);
            judged.map_err(|condition| defects.push(Defect { name, condition })).ok()
        };
        let main = look(self.name.to_owned());
        let copy = self.copy_name().and_then(look);
        let is_copy_stale = main.as_ref().zip(copy.as_ref()).is_some_and(|(main, copy)| *main.1 != *copy.1);
        let (value, bytes) = main.or(copy).unzip();
        Retrieved { value, defects, bytes: bytes.unwrap_or_default(), is_copy_stale }
    }

    /// Reads only the file itself, not its copy, and says how it is.
    ///
    /// # Errors
    /// [`Condition`]
    pub fn look<T>(
        &self,
        folder: &impl StateFolder,
        judge: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, Condition> {
        self.look_at(folder, self.name, &judge).map(|(value, _)| value)
    }

    fn look_at<T>(
        &self,
        folder: &impl StateFolder,
        name: &str,
        judge: &impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<(T, Zeroizing<Vec<u8>>), Condition> {
        let once = |afresh| {
            let bytes = self.read_patiently(folder, name, afresh)?;
            match is_hollow(&bytes).map_or_else(|| judge(&bytes), Err) {
                Ok(value) => Ok((value, bytes)),
                Err(why) => Err(Condition::Damaged(why)),
            }
        };
        let first = once(false);
        if matches!(first, Err(Condition::Damaged(_))) && folder.pause(SECOND_LOOK) {
            return once(true);
        }
        first
    }

    fn read_patiently(
        &self,
        folder: &impl StateFolder,
        name: &str,
        afresh: bool,
    ) -> Result<Zeroizing<Vec<u8>>, Condition> {
        let mut pauses = PAUSES.into_iter();
        loop {
            match folder.read(name, self.max_bytes, afresh) {
                Ok(bytes) => return Ok(bytes),
                Err(ReadFault::Missing) => return Err(Condition::Missing),
                Err(ReadFault::NotAFile) => return Err(Condition::Damaged("it is not a file".to_owned())),
                Err(ReadFault::TooLarge) => {
                    return Err(Condition::Damaged(format!("it is larger than {} bytes", self.max_bytes)));
                }
                Err(ReadFault::Failed(error)) => {
                    let is_hopeless = !may_pass(error.kind());
                    if is_hopeless || !pauses.next().is_some_and(|pause| folder.pause(pause)) {
                        return Err(Condition::Unreadable(error.to_string()));
                    }
                }
            }
        }
    }

    /// Writes it, and then its copy, each whole or not at all, durably.
    ///
    /// # Errors
    /// As the system says. Then each of the two is what it was or what it was to be; both are
    /// whole, and calling this again is safe.
    pub fn write(&self, folder: &impl StateFolder, bytes: &[u8]) -> io::Result<()> {
        self.put(folder, self.name, bytes)?;
        // Only now: until the names are synced the copy is what a power cut cannot take.
        self.copy_name().map_or(Ok(()), |copy| self.put(folder, &copy, bytes))
    }

    fn put(&self, folder: &impl StateFolder, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = folder.write_beside(name, bytes, self.mode)?;
        let renamed = match folder.rename(&beside, name) {
            Err(error) if is_in_the_way(&error) => {
                set_aside(folder, name).and_then(|_| folder.rename(&beside, name))
            }
            other => other,
        };
        if renamed.is_err() {
            // If it cannot be deleted it is swept one day.
            let _ = folder.remove(&beside);
        }
        renamed.and_then(|()| folder.sync_names())
    }

    /// Puts in order what was found: sets aside what is damaged, and writes the good version where
    /// there is none, or another. What could not be read stays as it is. Returns the names under
    /// which damaged files were set aside.
    ///
    /// # Errors
    /// As the system says; what was not done is done by the next call. The good version is never
    /// touched.
    pub fn mend<T>(&self, folder: &impl StateFolder, retrieved: &Retrieved<T>) -> io::Result<Vec<String>> {
        let mut aside = Vec::new();
        for Defect { name, condition } in &retrieved.defects {
            if matches!(condition, Condition::Damaged(_)) {
                aside.extend(set_aside(folder, name)?);
            }
        }
        if retrieved.value.is_some() {
            for Defect { name, condition } in &retrieved.defects {
                if !matches!(condition, Condition::Unreadable(_)) {
                    self.put(folder, name, &retrieved.bytes)?;
                }
            }
            if let Some(copy) = self.copy_name().filter(|_| retrieved.is_copy_stale) {
                self.put(folder, &copy, &retrieved.bytes)?;
            }
        }
        Ok(aside)
    }
}

/// All names of a folder, asked for again where the system does not tell them.
///
/// # Errors
/// [`Condition`]: there is no such folder, it is something else, or it cannot be read.
pub fn list(folder: &impl StateFolder) -> Result<Vec<String>, Condition> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let error = match folder.names() {
            Ok(names) => return Ok(names),
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::NotFound => return Err(Condition::Missing),
            io::ErrorKind::NotADirectory => {
                return Err(Condition::Damaged("it is not a folder".to_owned()));
            }
            kind if may_pass(kind) && pauses.next().is_some_and(|pause| folder.pause(pause)) => {}
            _ => return Err(Condition::Unreadable(error.to_string())),
        }
    }
}

/// Whether an error may be gone within a second; a right that is missing does not come back by
/// itself.
fn may_pass(kind: io::ErrorKind) -> bool {
    kind != io::ErrorKind::PermissionDenied
}

/// What stands under a name that a file cannot replace: a folder.
fn is_in_the_way(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, IsADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | IsADirectory)
}

/// What a file says that never was written to, or lost what was.
fn is_hollow(bytes: &[u8]) -> Option<String> {
    match bytes {
        [] => Some("it is empty".to_owned()),
        zeros if zeros.iter().all(|byte| *byte == 0) => Some("it holds nothing but zeros".to_owned()),
        _ => None,
    }
}

/// Moves a damaged file to the first free `NAME.damaged-N` and returns that name. Where all
/// [`ASIDE_MAX`] are taken it is deleted: `None`; unless it is a folder, which is always moved. One
/// that is not there is left alone.
///
/// # Errors
/// As the system says.
pub fn set_aside(folder: &impl StateFolder, name: &str) -> io::Result<Option<String>> {
    let mut targets = (1..=ASIDE_TRIED).map(|n| (n, format!("{name}{ASIDE}{n}")));
    let free = targets.find(|(_, target)| !folder.has(target));
    let (number, target) = free.ok_or(io::ErrorKind::AlreadyExists)?;
    let moved = if number <= ASIDE_MAX {
        folder.rename(name, &target).map(|()| Some(target))
    } else {
        match folder.remove(name) {
            Err(error) if is_in_the_way(&error) => folder.rename(name, &target).map(|()| Some(target)),
            removed => removed.map(|()| None),
        }
    };
    match moved {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        moved => moved.and_then(|target| folder.sync_names().map(|()| target)),
    }
}

/// The name a file had before it was set aside, if it was.
pub fn name_before(aside: &str) -> Option<&str> {
    let (name, number) = aside.rsplit_once(ASIDE)?;
    (!name.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

/// Deletes what a writer of this file, or of its copy, left behind that was killed before it was
/// done. To be called by the one process that writes it: another's work would be taken from under
/// its hands, and its write then fail.
///
/// # Errors
/// As the system says.
pub fn sweep(folder: &impl StateFolder, name: &str) -> io::Result<()> {
    let is_left = |left: &String| {
        let of = |name: &str| {
            let number = left.strip_prefix('.').and_then(|left| left.strip_prefix(name)?.strip_prefix('.'));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        };
        of(name) || of(&format!("{name}.copy"))
    };
    folder.names()?.iter().filter(|left| is_left(left)).try_for_each(|left| folder.remove(left))
}
