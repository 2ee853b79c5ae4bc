//! Reads and writes the two files of the gateway's id.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    COPY, Choice, Decision, MAX_BYTES, MadeId, Making, PLAIN, Step, decide, is_aside, parse_copy, parse_plain,
};
use crate::config::Paths;
use crate::durable::atomic_file::{AtomicFile, set_aside, sweep};
use crate::durable::folder::StateFolder;
use crate::durable::io::{OnDisk, create_directory};
use crate::message::Name;
use crate::system::io::fill_random;

const PLAIN_FILE: AtomicFile<'_> = AtomicFile::new(PLAIN, MAX_BYTES, 0o644);
const COPY_FILE: AtomicFile<'_> = AtomicFile::new(COPY, MAX_BYTES, 0o644);

/// Reads both files and decides. Writes nothing.
pub fn look(directory: &Path, running: Option<&MadeId>) -> Decision {
    look_in(&OnDisk::new(directory), running)
}

/// The same of any folder.
pub fn look_in(folder: &impl StateFolder, running: Option<&MadeId>) -> Decision {
    let mut decision =
        decide(PLAIN_FILE.look(folder, parse_plain), COPY_FILE.look(folder, parse_copy), running);
    // A power cut came before their replacement was written.
    let was_lost = || folder.names().is_ok_and(|names| names.iter().any(|name| is_aside(name)));
    if decision.choice == Choice::New(Making::First) && was_lost() {
        decision.choice = Choice::New(Making::Replacement);
    }
    decision
}

/// A new id.
pub fn draw(making: Making) -> MadeId {
    let mut random = [0; 8];
    if fill_random(&mut random).is_err() {
        // Without a source of chance: the clock's nanoseconds are at least not the same twice.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        random = now.as_nanos().to_le_bytes()[..8].try_into().unwrap_or(random);
    }
    MadeId::draw(random, making)
}

/// Applies the decision for the chosen or new id: the copy first, because it counts if the other is
/// damaged. Only the daemon may call it.
///
/// # Errors
/// The error of the system call. Calling it again does the rest.
pub fn store(directory: &Path, decision: &Decision, made: &MadeId) -> io::Result<()> {
    if decision.is_settled() {
        return Ok(());
    }
    create_directory(directory)?;
    store_in(&OnDisk::new(directory), decision, made)
}

/// The same in any folder, which is there.
///
/// # Errors
/// As the system says. Calling it again does the rest.
pub fn store_in(folder: &impl StateFolder, decision: &Decision, made: &MadeId) -> io::Result<()> {
    // What a start left that was killed in the middle; if it cannot be deleted now, then by the
    // next.
    let _ = sweep(folder, PLAIN).and_then(|()| sweep(folder, COPY));
    for (file, name, step, text) in
        [(COPY_FILE, COPY, decision.copy, made.checked()), (PLAIN_FILE, PLAIN, decision.plain, made.plain())]
    {
        if step == Step::SetAsideAndWrite {
            set_aside(folder, name)?;
        }
        if step != Step::Leave {
            file.write(folder, text.as_bytes())?;
        }
    }
    Ok(())
}

/// The gateway's id; if there is none, one is generated and stored.
///
/// # Errors
/// The state directory cannot be written.
pub fn find_or_make(paths: &Paths) -> io::Result<Name> {
    let decision = look(&paths.state_dir, None);
    let made = match &decision.choice {
        Choice::Known(made) => made.clone(),
        Choice::New(making) => draw(*making),
    };
    store(&paths.state_dir, &decision, &made).map(|()| made.id)
}
