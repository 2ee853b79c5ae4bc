//! One check of a TUF repository, from the floor to the decision.

use std::path::PathBuf;
use std::sync::Arc;

use super::floor;
use super::tuf::{self, Place};
use crate::clock::UnixTime;
use crate::durable::storage::Storage;
use crate::https::io::Client;
use crate::update::check::{Fault, judge};
use crate::update::eligibility::{Decision, Installed, Objections};

/// What is asked, and by what it is believed.
pub struct Repository {
    /// Where it is.
    pub place: Place,
    /// The content of a root.json of any version.
    pub root: Vec<u8>,
    /// Asks. Its bound on a body is at least [`tuf::LIMITS`]' largest.
    pub client: Arc<Client>,
    /// A folder to be made for working files; `None`: where the system has temporary ones.
    pub scratch: Option<PathBuf>,
}

/// Checks. `floor` opens the folder of the floor; `now` is the wall time, if it is trusted. Reading
/// and writing the floor blocks: not for the path's thread.
///
/// # Errors
/// [`Fault`]. Nothing is asked while the clock is not trusted, or the floor cannot be read.
pub async fn check<S: Storage>(
    repository: &Repository,
    floor: impl Fn() -> S,
    installed: &Installed,
    objections: &Objections,
    now: Option<UnixTime>,
) -> Result<Decision, Fault> {
    if now.is_none() {
        return Err(Fault::ClockUntrusted);
    }
    let mut seen = floor::read(floor())?;
    let Repository { place, root, client, scratch } = repository;
    let metadata = tuf::load(place, root, client.clone(), scratch.as_deref()).await?;
    let firmware = seen.firmware.clone().map(|(version, _)| version);
    let objections = Objections { floor: firmware.or(objections.floor.clone()), ..objections.clone() };
    let (result, _) = judge(&metadata, &mut seen, installed, &objections, now);
    if !matches!(result, Err(Fault::Rollback(_) | Fault::Fork(_))) {
        // Another program may have seen something newer meanwhile.
        floor::raise(floor(), &seen)?.admit(metadata.versions, &metadata.trust)?;
    }
    result
}
