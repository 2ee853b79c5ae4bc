//! One check as a whole: what is installed, what is offered, what follows. For the daemon, and for
//! the command where it does not run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::{WITHIN, late};
use super::system;
use crate::clock::{UnixTime, WallClock};
use crate::message::Name;
use crate::update::apt::{self, Candidate};
use crate::update::check::{Fault, Metadata};
use crate::update::eligibility::{Decision, Objections};
use crate::update::floor::Floor;
use crate::update::settings::{Settings, Source};

/// The folder in the state directory.
pub const FOLDER: &str = "update";
/// A folder in it, while a check lasts that keeps within it.
#[cfg(feature = "update")]
const SCRATCH: &str = "metadata";
/// How often it is looked at whether anybody still wants the answer.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a check needs.
#[derive(Clone)]
pub struct Question {
    /// `[update]`
    pub settings: Settings,
    /// The gateway's id.
    pub gateway: Name,
    /// `{state-dir}/update`
    pub folder: PathBuf,
    /// Held and denied.
    pub objections: Objections,
    /// Judges expiry and certificates.
    pub clock: Arc<dyn WallClock>,
    /// Where metadata is fetched and verified.
    pub fetching: Fetching,
    /// The floor of somebody who is not believed: a further reason to refuse.
    pub daemon: Option<Floor>,
    /// The floor rises by the check. Otherwise by what [`Answer::verified`] has, later.
    pub raises: bool,
    /// Set while it is asked: nothing is kept of the answer then, and it ends soon.
    pub dropped: Arc<AtomicBool>,
}

/// Where metadata is fetched and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetching {
    /// In this process, with working files where `TMPDIR` is.
    Here,
    /// In this process, with working files in the folder.
    Within,
    /// In a process of its own, with working files in the folder: one check at a time.
    Apart,
}

/// What it came to.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The version that runs.
    pub installed: Option<String>,
    /// What is offered.
    pub result: Result<Found, Fault>,
    /// The wall time at the end, if it is trusted.
    pub at: Option<UnixTime>,
    /// The metadata that it was found by.
    pub verified: Option<Metadata>,
    /// What of the floor was found damaged, one sentence.
    pub damage: Option<String>,
}

impl Answer {
    /// One that came to nothing.
    pub fn failed(fault: Fault) -> Answer {
        Answer { installed: None, result: Err(fault), at: None, verified: None, damage: None }
    }
}

/// What is found, the installed version where apt says it, and the metadata.
type Known = (Found, Option<String>, Option<Metadata>);

/// What is offered.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// By a TUF repository.
    Tuf(Decision),
    /// By apt.
    Apt(Candidate),
}

/// Checks. It blocks for as long as the network takes, ten minutes at most: for a thread of its
/// own.
pub fn answer(question: &Question) -> Answer {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Answer::failed(Fault::Local(format!("its thread cannot be started: {error}")));
        }
    };
    let mut damage = None;
    let asked = runtime.block_on(async {
        let system = system::installed().await;
        let result = tokio::select! {
            asked = tokio::time::timeout(WITHIN, find(question, &system, &mut damage)) => {
                asked.unwrap_or_else(|_| Err(late()))
            }
            // Else each reload could leave a thread that waits for a slow server.
            () = dropped(question) => Err(Fault::Dropped),
        };
        (system.version, result)
    });
    // A look-up at a name server that is silent cannot be cut short.
    runtime.shutdown_background();
    let (mut installed, result) = asked;
    let mut verified = None;
    let result = result.map(|(found, of_apt, metadata)| {
        installed = of_apt.or(installed.take());
        verified = metadata;
        found
    });
    let clock = &question.clock;
    Answer { installed, result, at: clock.trusted().then(|| clock.raw()), verified, damage }
}

/// Ends once nobody wants the answer any more.
async fn dropped(question: &Question) {
    while !question.dropped.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn find(
    question: &Question,
    system: &system::System,
    damage: &mut Option<String>,
) -> Result<Known, Fault> {
    let clock = &question.clock;
    let now = || clock.trusted().then(|| clock.raw());
    match &question.settings.source {
        Source::None => Err(Fault::Local("[update] source is \"none\": nothing is looked for".to_owned())),
        Source::Apt => {
            let (policy, read_at) = system::apt().await?;
            let candidate = apt::judge(policy.as_ref(), &question.objections, read_at, now());
            Ok((Found::Apt(candidate), policy.and_then(|policy| policy.installed), None))
        }
        Source::Tuf(place) => {
            if now().is_none() {
                return Err(Fault::ClockUntrusted);
            }
            tuf(question, place, system, now(), damage).await
        }
    }
}

#[cfg(not(feature = "update"))]
async fn tuf(
    _: &Question,
    _: &crate::update::settings::Place,
    _: &system::System,
    _: Option<UnixTime>,
    _: &mut Option<String>,
) -> Result<Known, Fault> {
    Err(Fault::Local("this program was built without TUF; build it with the cargo feature update".to_owned()))
}

#[cfg(feature = "update")]
async fn tuf(
    question: &Question,
    place: &crate::update::settings::Place,
    system: &system::System,
    now: Option<UnixTime>,
    damage: &mut Option<String>,
) -> Result<Known, Fault> {
    use std::path::Path;

    use super::client::client;
    use super::untrusted::Folder;
    use super::{apart, check, floor, tuf};
    use crate::update::eligibility::Installed;
    let settings = &question.settings;
    let installed = Installed {
        gateway: question.gateway.clone(),
        version: system.version.clone(),
        compatible: settings.compatible.clone().or_else(|| system.compatible.clone()),
        hardware: settings.hardware.clone(),
    };
    // It may be the service's user's, and this root: no link of theirs is followed.
    let folder = &question.folder;
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let held = crate::durable::io::create_directory(above).and_then(|()| Folder::make(above, &name));
    let held = held
        .map_err(|error| Fault::Local(format!("the folder {} cannot be used: {error}", folder.display())))?;
    let fetch = async {
        let scratch = match question.fetching {
            Fetching::Here => None,
            Fetching::Within => Some(held.path().join(SCRATCH)),
            // By its name: what is held here is not held there.
            Fetching::Apart => {
                let order = apart::Order::new(place, folder.join(SCRATCH), &*question.clock);
                return apart::load(&order).await;
            }
        };
        let root = tuf::read_root(&place.root_file)?;
        let client = client(place.ca_file.as_deref(), &question.clock)?;
        let place = tuf::Place { metadata: place.metadata.to_string(), targets: place.targets.to_string() };
        tuf::load(&place, &root, client, scratch.as_deref()).await
    };
    let terms = check::Terms {
        daemon: question.daemon.clone(),
        raises: question.raises,
        dropped: question.dropped.clone(),
    };
    *damage = floor::damage(floor::on_disk(held.path())).map(|what| format!("{}: {what}", folder.display()));
    if let Some(damage) = &*damage {
        log::warn!(reason = damage.as_str(); "what was seen of the repository is not known in whole");
    }
    let on_disk = || floor::on_disk(held.path());
    let seen = check::check(fetch, &terms, on_disk, &installed, &question.objections, now).await;
    let seen = seen.map_err(|fault| match fault {
        Fault::Local(why) => {
            let held = held.path().display().to_string();
            Fault::Local(why.replace(&held, &folder.display().to_string()))
        }
        other => other,
    })?;
    Ok((Found::Tuf(seen.decision), None, Some(seen.metadata)))
}
