//! One check of a TUF repository, from the floor to the decision.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::floor;
use crate::clock::UnixTime;
use crate::durable::storage::Storage;
use crate::update::check::{Fault, Metadata, judge};
use crate::update::eligibility::{Decision, Installed, Objections};
use crate::update::floor::Floor;

/// What becomes of what is verified.
pub struct Terms {
    /// The floor of somebody who is not believed: a further reason to refuse.
    pub daemon: Option<Floor>,
    /// The floor rises by the check itself; else by [`learn`].
    pub raises: bool,
    /// Set while it is under way: its settings were replaced, and nothing is kept of it.
    pub dropped: Arc<AtomicBool>,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What is offered.
    pub decision: Decision,
    /// What was verified; the floor is still to be raised to it ([`learn`]), unless it was.
    pub metadata: Metadata,
}

/// Checks. `fetch` fetches and verifies the metadata; `floor` opens the folder of the floor; `now`
/// is the wall time, if it is trusted. Reading and writing the floor blocks: not for the path's
/// thread.
///
/// # Errors
/// [`Fault`]. Nothing is asked while the clock is not trusted, or the floor cannot be read.
pub async fn check<S: Storage>(
    fetch: impl Future<Output = Result<Metadata, Fault>>,
    terms: &Terms,
    floor: impl Fn() -> S,
    installed: &Installed,
    objections: &Objections,
    now: Option<UnixTime>,
) -> Result<Seen, Fault> {
    if now.is_none() {
        return Err(Fault::ClockUntrusted);
    }
    floor::read(floor())?;
    let Terms { daemon, raises, dropped } = terms;
    let metadata = fetch.await?;
    let decision = floor::change(floor(), |seen| {
        // By other settings something else may have been accepted meanwhile.
        if dropped.load(Ordering::Relaxed) {
            return (Err(Fault::Dropped), false);
        }
        let firmware = seen.firmware.clone().map(|(version, _)| version);
        let objections = Objections { floor: firmware.or(objections.floor.clone()), ..objections.clone() };
        // Another program may have seen something newer since the check began.
        let (result, _) = judge(&metadata, seen, installed, &objections, now);
        if matches!(result, Err(Fault::Rollback(_) | Fault::Fork(_))) {
            return (result, false);
        }
        let of_daemon =
            daemon.as_ref().map_or(Ok(()), |floor| floor.admit(metadata.versions, &metadata.trust));
        match of_daemon {
            Err(refusal) => (Err(Fault::OfDaemon(refusal)), false),
            Ok(()) => (result, *raises),
        }
    })??;
    Ok(Seen { decision, metadata })
}

/// Raises the floor to what a check verified.
///
/// # Errors
/// [`Fault`]: it is below what was seen since, or cannot be written.
pub fn learn<S: Storage>(storage: S, metadata: &Metadata) -> Result<(), Fault> {
    floor::change(storage, |floor| match floor.admit(metadata.versions, &metadata.trust) {
        Err(refusal) => (Err(refusal.into()), false),
        Ok(()) => {
            floor.raise(metadata.versions, &metadata.trust);
            (Ok(()), true)
        }
    })?
}
