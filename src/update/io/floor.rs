//! The floor's record: read and raised, never cached, so that two programs that take turns do not
//! lower each other's.
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
//! loses what it had does this.

use std::path::Path;

use crate::durable::io::Files;
use crate::durable::storage::Storage;
use crate::durable::two_slot::TwoSlot;
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
    let unwritten = |error: std::io::Error| {
        local(format!(
            "cannot be written ({error}), so nothing that was offered is used; the next check tries again"
        ))
    };
    // An earlier process may have made the file without its name being durable.
    storage.sync_names().map_err(unwritten)?;
    let (mut record, mut floor) = open(storage)?;
    floor.join(seen);
    record.write(&floor.encode()).map_err(unwritten)?;
    Ok(floor)
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
