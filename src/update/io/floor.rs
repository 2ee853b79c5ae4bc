//! The floor's record: read and raised, never cached, and changed by one program at a time
//! ([`change`]). A check takes long; what counts is the floor at its end, not at its begin.
//!
//! | the file | what that means |
//! |---|---|
//! | is not there | nothing was seen yet |
//! | one slot is damaged | the other counts: a version whose write was torn was acknowledged to nobody |
//! | no slot is sound | nothing was seen yet; the file is kept aside by the next write |
//! | cannot be read, or is of a later version | an error: what is not known is not taken for none |
//!
//! A record without a sound slot does not stop the checks for ever: what is left then is what a new
//! gateway has, the root of trust and the metadata's expiry; and nothing older than what is
//! installed is offered in any case. Both slots are never written at once, so only a disk that
//! loses what it had does this. It is named ([`damage`]). Another root.json is in both slots before
//! anything is done by it, so that one damaged slot never brings back keys that were replaced.

use std::path::Path;

use crate::durable::io::Files;
use crate::durable::storage::Storage;
use crate::durable::two_slot::{SlotCondition, TwoSlot};
use crate::update::check::Fault;
use crate::update::floor::{FORMAT, Floor};

/// The record in this folder, which has to be there for writing.
pub fn on_disk(folder: &Path) -> Files {
    Files::with_patience(folder, crate::durable::io::PATIENCE)
}

/// Reads the floor. It blocks, as [`raise`] does.
///
/// # Errors
/// [`Fault::Local`]: a floor is there, or may be, and cannot be read.
pub fn read<S: Storage>(storage: S) -> Result<Floor, Fault> {
    open(storage).map(|(_, floor)| floor)
}

/// Raises the floor, on disk, to at least `seen`, and returns what it is then. It is written even
/// if it is as high already: what was read may be in the page cache alone.
///
/// # Errors
/// [`Fault::Local`]: it is not known to be durable, and is what it was, or higher.
pub fn raise<S: Storage>(storage: S, seen: &Floor) -> Result<Floor, Fault> {
    change(storage, |floor| {
        if let Some(other) = floor.join(seen) {
            log::warn!(
                version = other.version, sha256 = other.sha256.as_str();
                "a root.json of which nothing says that it follows from the one that was accepted is not taken over"
            );
        }
        (floor.clone(), true)
    })
}

/// Has `act` change the floor as it is on disk now: no other program and no other thread changes it
/// meanwhile. It is written if the second value is true, also if it is the same.
///
/// # Errors
/// As [`raise`].
pub fn change<S: Storage, T>(storage: S, act: impl FnOnce(&mut Floor) -> (T, bool)) -> Result<T, Fault> {
    let unwritten = |error: std::io::Error| {
        local(format!(
            "cannot be written ({error}), so nothing that was offered is used; the next check tries again"
        ))
    };
    let _held = storage.hold().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => local(format!(
            "cannot be changed: {error}, so nothing that was offered is used; end that program if it hangs, then \
             try again"
        )),
        _ => unwritten(error),
    })?;
    // An earlier process may have made the file without its name being durable.
    let named = storage.sync_names();
    let (mut record, mut floor) = open(storage)?;
    let before = floor.root_json.clone();
    let (result, is_written) = act(&mut floor);
    if is_written {
        named.map_err(unwritten)?;
        let is_single = record.generation() == 0 || before != floor.root_json;
        record.write(&floor.encode()).map_err(unwritten)?;
        if is_single {
            // Else one slot that is damaged later brings the root.json before back.
            record.write(&floor.encode()).map_err(unwritten)?;
        }
    }
    Ok(result)
}

/// What of the record is damaged: what may pass for that, and what is to be done. `None`: nothing.
pub fn damage<S: Storage>(storage: S) -> Option<String> {
    let name = FORMAT.name;
    let kept = format!("{name}.damaged-1");
    let was_lost = storage.has(&kept);
    let record = TwoSlot::open(storage, FORMAT).ok()?;
    let damaged = |slot: &&SlotCondition| matches!(slot, SlotCondition::Damaged(_));
    let conditions = record.conditions();
    let count = conditions.iter().filter(damaged).count();
    let kept = match (count > 0 && record.generation() == 0, was_lost) {
        (true, _) => name,
        (false, true) => &kept,
        (false, false) if count == 0 => return None,
        (false, false) => {
            return Some(format!(
                "one of the two copies in the record {name} is damaged, and the other counts: metadata that was seen \
                 last may be forgotten; the next check that succeeds writes it anew"
            ));
        }
    };
    Some(format!(
        "the record {name} of what was seen of the repository was damaged and is forgotten: an older state, and keys \
         that a later root.json replaced, may pass; put the repository's newest N.root.json as root-file, run \
         `tombolo update check`, and delete {kept}"
    ))
}

fn open<S: Storage>(storage: S) -> Result<(TwoSlot<S>, Floor), Fault> {
    let unread = |error: std::io::Error| local(format!("cannot be read: {error}"));
    let record = TwoSlot::open(storage, FORMAT).map_err(unread)?;
    let floor = match record.read().map_err(unread)? {
        None => Floor::default(),
        Some(content) => Floor::parse(content).ok_or_else(|| {
            local(
                "is of no kind this version knows; if no later version is to run again, delete it".to_owned(),
            )
        })?,
    };
    Ok((record, floor))
}

fn local(what: String) -> Fault {
    Fault::Local(format!("the record {} of what was seen of the repository {what}", FORMAT.name))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::update::floor::RootJson;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tombolo-floor-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("made");
        path
    }

    /// No second look: what is damaged here stays so.
    fn files(folder: &Path) -> Files {
        Files::new(folder)
    }

    #[test]
    fn changes_at_the_same_time_come_one_after_the_other() {
        let folder = folder("turns");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let add = |floor: &mut Floor| {
                            floor.metadata.targets += 1;
                            ((), true)
                        };
                        change(files(&folder), add).expect("written");
                    }
                });
            }
        });
        assert_eq!(read(files(&folder)).expect("there").metadata.targets, 40);
        std::fs::remove_dir_all(folder).expect("there");
    }

    #[test]
    fn one_damaged_slot_brings_no_root_json_of_before_back_and_two_are_named_until_seen_to() {
        let folder = folder("slots");
        let path = folder.join(FORMAT.name);
        let root = |version| Some(RootJson { version, sha256: "a".repeat(64) });
        let write = |version| {
            change(files(&folder), |floor| {
                floor.root_json = root(version);
                ((), true)
            })
            .expect("written");
        };
        write(1);
        write(2);
        let whole = std::fs::read(&path).expect("there");
        let half = whole.len() / 2;
        assert_eq!(damage(files(&folder)), None);
        for at in [0, half] {
            let mut torn = whole.clone();
            torn[at..at + 512].fill(7);
            std::fs::write(&path, torn).expect("written");
            assert_eq!(read(files(&folder)).expect("one is sound").root_json, root(2), "{at}");
            let said = damage(files(&folder)).expect("named");
            assert!(said.contains("one of the two copies"), "{said}");
        }
        std::fs::write(&path, vec![7; whole.len()]).expect("written");
        let said = damage(files(&folder)).expect("named");
        assert!(said.contains("is forgotten") && said.ends_with("delete floor"), "{said}");
        write(3);
        let said = damage(files(&folder)).expect("named still");
        assert!(said.ends_with("delete floor.damaged-1"), "{said}");
        std::fs::remove_dir_all(folder).expect("there");
    }
}
