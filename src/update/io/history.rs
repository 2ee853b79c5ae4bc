//! The history's file: a few kilobytes, written whole or not at all, with a copy.

use std::io;
use std::path::Path;

use super::untrusted::Folder;
use crate::durable::atomic_file::{AtomicFile, Retrieved};
use crate::durable::folder::StateFolder;
use crate::durable::io::{OnDisk, create_directory};
use crate::update::history::History;

/// 64 events and 64 versions are less than half of it.
const BYTES_MAX: u64 = 256 * 1024;
/// In the daemon's update folder.
const FILE: AtomicFile<'static> = AtomicFile::new(NAME, BYTES_MAX, 0o600).with_copy();
/// In root's folder, where everybody may read it.
const PUBLIC: AtomicFile<'static> = AtomicFile::new(NAME, BYTES_MAX, 0o644).with_copy();
/// Its name.
pub const NAME: &str = "history.json";

/// Reads it from the update folder. It blocks.
///
/// # Errors
/// One sentence: it is there, and cannot be read or is of no known kind. Denials that are not known
/// are not taken for none.
pub fn read(folder: &Path) -> Result<History, String> {
    read_in(&OnDisk::new(folder), folder)
}

/// As [`read`], of any folder; `shown` is its name.
///
/// # Errors
/// As [`read`].
pub fn read_in(files: &impl StateFolder, folder: &Path) -> Result<History, String> {
    let found: Retrieved<History> = FILE.read(files, parse);
    let is_new = found.is_new();
    match (found.value, found.defects.first()) {
        (Some(history), _) => Ok(history),
        (None, _) if is_new => Ok(History::default()),
        (None, Some(defect)) => Err(format!(
            "{}: {defect}; delete {NAME} and its copy there, and hold and deny again what was (`tombolo update hold`, `denied add`)",
            folder.display()
        )),
        (None, None) => Ok(History::default()),
    }
}

/// Writes it durably. It blocks.
///
/// # Errors
/// As the system says; then it is what it was, or what it was to be.
pub fn write(folder: &Path, history: &History) -> io::Result<()> {
    create_directory(folder)?;
    FILE.write(&OnDisk::new(folder), &serde_json::to_vec(history)?)
}

/// Reads it, has it changed, and writes it if it did. It blocks.
///
/// # Errors
/// One sentence; then nothing is known to be changed.
pub fn change<T>(folder: &Path, act: impl FnOnce(&mut History) -> T) -> Result<(History, T), String> {
    let mut history = read(folder)?;
    let before = history.clone();
    let done = act(&mut history);
    if history != before {
        write(folder, &history)
            .map_err(|error| format!("{} cannot be written: {error}", folder.display()))?;
    }
    Ok((history, done))
}

/// As [`read`], of the folder `name` in `state_dir`, for whoever is not its user: no symbolic link
/// is followed. It blocks.
///
/// # Errors
/// As [`read`].
pub fn read_below(state_dir: &Path, name: &str) -> Result<History, String> {
    match Folder::open(state_dir, name) {
        Ok(folder) => read(folder.path()).map_err(|why| shown(&why, &folder, state_dir, name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(History::default()),
        Err(error) => Err(refused(state_dir, name, &error)),
    }
}

/// As [`change`], of the folder `name` in `state_dir`, for whoever is not its user. It blocks.
///
/// # Errors
/// As [`change`].
pub fn change_below(state_dir: &Path, name: &str, act: impl FnOnce(&mut History)) -> Result<History, String> {
    let before = read_below(state_dir, name)?;
    let mut history = before.clone();
    act(&mut history);
    if history == before {
        return Ok(history);
    }
    let made = create_directory(state_dir).and_then(|()| Folder::make(state_dir, name));
    let folder = made.map_err(|error| refused(state_dir, name, &error))?;
    write(folder.path(), &history)
        .map_err(|error| format!("{} cannot be written: {error}", state_dir.join(name).display()))?;
    Ok(history)
}

/// The text with the folder's name instead of the path by which it is held.
fn shown(text: &str, folder: &Folder, state_dir: &Path, name: &str) -> String {
    let held = folder.path().display().to_string();
    text.replace(&held, &state_dir.join(name).display().to_string())
}

fn refused(state_dir: &Path, name: &str, error: &io::Error) -> String {
    format!("{} is not used: {error}", state_dir.join(name).display())
}

/// As [`change`], of the one in root's folder, which everybody may read; it is written also if it
/// is the same: what was read may be in the page cache alone. It blocks.
///
/// # Errors
/// As [`change`].
pub fn change_public(
    files: &impl StateFolder,
    folder: &Path,
    act: impl FnOnce(&mut History),
) -> Result<(), String> {
    let mut history = read_in(files, folder)?;
    act(&mut history);
    let written = PUBLIC.write(files, &serde_json::to_vec(&history).unwrap_or_default());
    written.map_err(|error| format!("{} cannot be written: {error}", folder.display()))
}

/// What a file says that belongs to the service's user, for root: held, and which are denied. It
/// can only keep a version from being installed, so it need not be believed.
pub fn parse_untrusted(bytes: &[u8]) -> Option<History> {
    parse(bytes).ok()
}

fn parse(bytes: &[u8]) -> Result<History, String> {
    if bytes.first() != Some(&b'{') {
        return Err("it is no history".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| format!("it is no history: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_denied_is_read_again_also_from_the_copy_and_a_damaged_one_is_no_empty_one() {
        let folder = std::env::temp_dir().join(format!("tombolo-history-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        assert_eq!(read(&folder), Ok(History::default()));
        let (_, done) = change(&folder, |history| history.deny("1.0")).expect("it is written");
        assert_eq!(done, Ok(()));
        assert_eq!(read(&folder).expect("it is read").denied, ["1.0"]);
        std::fs::write(folder.join("history.json"), "{").expect("damaged");
        assert_eq!(read(&folder).expect("the copy").denied, ["1.0"]);
        std::fs::write(folder.join("history.json.copy"), "[]").expect("damaged");
        assert!(read(&folder).is_err());
        std::fs::remove_dir_all(&folder).expect("it is there");
    }
}
