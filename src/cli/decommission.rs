//! `tombolo decommission --yes`: takes a gateway out of service. Its retained topics are cleared at
//! the broker, its keys and its state are wiped. The package and the configuration stay.
//!
//! | step | where it fails |
//! |---|---|
//! | the daemon does not run | nothing was changed |
//! | nothing waits in the journal, or `--discard` | nothing was changed |
//! | the broker acknowledges that every retained topic is empty, or `--offline` | nothing is wiped |
//! | files with secrets that are ours, then the state directory's content | the rest is wiped all the same, and what is left is named |
//!
//! A file counts as ours if it is below the folder of the configuration or the state directory:
//! the live files of certbot and others stay. Overwriting is no guarantee on flash, where the old
//! blocks may remain; keys should be revoked where they are known.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::DecommissionArguments;
use super::error::CommandError;
use super::output::plural;
use super::{Context, note};
use crate::config::io::texts;
use crate::config::show::show;
use crate::config::{ClockTrust, Loaded};
use crate::control::io::client::ClientError;
use crate::daemon::clock::SystemClock;
use crate::daemon::fleets::FleetKeeper;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::message::Lane;
use crate::northbound::io::{Driver, Handle};
use crate::northbound::reason_code::Cause;
use crate::northbound::uplink::Uplink;
use crate::northbound::{Loss, Next, Outbox, RejectedFull};

/// How long the broker may take to acknowledge all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Files up to this size are overwritten before they are deleted: keys and small state.
const OVERWRITTEN_MAX: u64 = 1 << 20;

/// Does it.
///
/// # Errors
/// [`CommandError::Usage`] without `--yes`; [`CommandError::Failed`] as the table says.
pub fn run(context: &Context, arguments: &DecommissionArguments) -> Result<(), CommandError> {
    let loaded = context.load()?;
    let state_dir = loaded.settings.paths.state_dir.clone();
    if !arguments.yes {
        return Err(CommandError::Usage(format!(
            "this clears the retained topics of gateway {} at the broker, and wipes its keys and {}; --yes confirms it",
            loaded.settings.gateway.id,
            state_dir.display()
        )));
    }
    match context.daemon() {
        Err(ClientError::NotRunning { .. }) => {}
        Err(ClientError::Denied { .. }) | Ok(_) => {
            let text = "the gateway runs; first stop it for good: systemctl disable --now tombolo";
            return Err(CommandError::failed(text));
        }
        Err(error) => return Err(error.into()),
    }
    let waiting = waiting(&loaded)?;
    if waiting > 0 && !arguments.discard {
        return Err(CommandError::Failed(format!(
            "nothing was changed: {} not delivered; start the gateway until `tombolo queue` shows none, or use --discard",
            if waiting == 1 { "1 reading was".to_owned() } else { format!("{waiting} readings were") }
        )));
    }
    let cleared = match (&loaded.settings.upstream, arguments.offline) {
        (Some(_), false) => clear(&loaded)?,
        _ => 0,
    };
    let Wiped { files, left } = wipe(context, &state_dir);
    if context.out.json {
        let object = json!({
            "gateway": loaded.settings.gateway.id.as_str(), "cleared_topics": cleared, "discarded": waiting,
            "wiped_files": files, "left": left,
        });
        context.out.object(&object)?;
    } else {
        context.out.line(format!("{} cleared at the broker", plural(cleared as u64, "retained topic")))?;
        context.out.line(format!("{} wiped", plural(files as u64, "file")))?;
        left.iter().for_each(note);
        note(
            "on flash the old blocks of a file may remain: revoke this gateway's keys and password at the broker",
        );
        note(format_args!(
            "the configuration beside {} and the package are still there",
            context.config.display()
        ));
    }
    let failed = left.iter().any(|left| left.contains("cannot be"));
    if failed { Err(CommandError::Said) } else { Ok(()) }
}

/// Readings that were not delivered, rejected ones included.
fn waiting(loaded: &Loaded) -> Result<u64, CommandError> {
    let settings = &loaded.settings.journal;
    if !settings.directory.exists() {
        return Ok(0);
    }
    let opened = Journal::open(settings);
    let (mut journal, _) =
        opened.map_err(|error| CommandError::Failed(format!("nothing was changed: the journal: {error}")))?;
    let status = journal.status();
    journal.close();
    Ok(status.lanes.iter().map(|lane| lane.records + lane.unreadable).sum::<u64>() + status.rejected.records)
}

/// Clears every retained topic of this gateway at the broker, under its own client id.
fn clear(loaded: &Loaded) -> Result<usize, CommandError> {
    let settings = &loaded.settings;
    let Some(upstream) = &settings.upstream else { return Ok(0) };
    let topics = retained(loaded);
    let failed = |text: String| {
        CommandError::Failed(format!(
            "nothing was wiped: the broker did not acknowledge that {} empty: {text}; --offline leaves it out",
            if topics.len() == 1 { "1 topic is".to_owned() } else { format!("{} topics are", topics.len()) }
        ))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    let always = settings.clock.trust == ClockTrust::Always;
    let clock = Arc::new(SystemClock::open(&settings.paths.state_dir, always));
    // Without a status of its own: the connection leaves nothing behind.
    let mut quiet = upstream.clone();
    quiet.topics.gateway_status = None;
    quiet.topics.update_hint = None;
    let handle = Handle::new(Uplink::new(Instant::now(), quiet));
    handle.with(|core| topics.iter().for_each(|topic| core.clear_retained(topic)));
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, async {
        let moments = clock.clone();
        let driver = Driver::new(handle.clone(), clock.clone(), move || moments.moment());
        let task = tokio::task::spawn_local(async move { driver.run(&RefCell::new(Nothing)).await });
        let give_up = Instant::now() + PATIENCE;
        let is_done = || handle.with(|core| topics.iter().all(|topic| core.has_reached(topic)));
        while !is_done() && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let done = is_done();
        let status = handle.status();
        handle.stop().await;
        let _ = task.await;
        match done {
            true => Ok(()),
            false if status.connected => Err(format!("after {} s some were not", PATIENCE.as_secs())),
            false => Err(status.failure.unwrap_or_else(|| "it could not be reached".to_owned())),
        }
    });
    runtime.shutdown_background();
    outcome.map_err(failed)?;
    Ok(topics.len())
}

/// The topics that a gateway of this configuration has retained.
fn retained(loaded: &Loaded) -> Vec<String> {
    let settings = &loaded.settings;
    let Some(upstream) = &settings.upstream else { return Vec::new() };
    let now = Instant::now();
    let mut gate = Gate::new(settings.gate.clone(), now);
    // Takes up the devices of fleets that were seen.
    let (_keeper, gone) = FleetKeeper::open(now, &settings.paths.state_dir, &mut gate);
    let mut ids: std::collections::BTreeSet<String> =
        gate.devices(now).map(|device| device.id.to_string()).collect();
    ids.extend(gone.iter().map(ToString::to_string));
    ids.extend(loaded.known.iter().map(|known| known.id.clone()));
    let own = &upstream.topics;
    let mut topics: Vec<String> = own.gateway_status.iter().chain(&own.update).cloned().collect();
    if let Some(template) = &upstream.topics.device_status {
        topics.extend(ids.iter().map(|id| template.replace("{device}", id)));
    }
    topics
}

/// What became of the files.
struct Wiped {
    files: usize,
    /// What is left, and why.
    left: Vec<String>,
}

fn wipe(context: &Context, state_dir: &Path) -> Wiped {
    let mut wiped = Wiped { files: 0, left: Vec::new() };
    let options = context.options();
    let folder = fs::canonicalize(context.config.parent().unwrap_or(Path::new("."))).unwrap_or_default();
    let state = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let (shown, _) = show(&texts(&options).layers, &options.environment);
    for one in shown.iter().filter(|one| super::check::is_secret(&one.key)) {
        let (Some(text), Some(place)) = (one.value.as_ref().and_then(|value| value.as_str()), &one.place)
        else {
            continue;
        };
        if text.starts_with("credential:") {
            wiped.left.push(format!("{}: {text} is a credential of the unit, and was left", one.key));
            continue;
        }
        let path = Path::new(&*place.file).parent().unwrap_or(Path::new("")).join(text);
        let Ok(whole) = fs::canonicalize(&path) else { continue };
        if whole.starts_with(&state) {
            continue; // with the rest
        }
        if !whole.starts_with(&folder) {
            wiped.left.push(format!(
                "{}: {} is not below {}, and was left",
                one.key,
                path.display(),
                folder.display()
            ));
            continue;
        }
        wipe_file(&whole, &mut wiped);
    }
    wipe_folder(&state, &mut wiped);
    wiped
}

fn wipe_folder(folder: &Path, wiped: &mut Wiped) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return wiped.left.push(format!("{} cannot be read: {error}", folder.display())),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // A link is deleted, and what it points to stays.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            wipe_folder(&path, wiped);
            if let Err(error) = fs::remove_dir(&path) {
                wiped.left.push(format!("{} cannot be removed: {error}", path.display()));
            }
        } else {
            wipe_file(&path, wiped);
        }
    }
}

fn wipe_file(path: &Path, wiped: &mut Wiped) {
    let overwritten = (|| {
        let about = path.symlink_metadata()?;
        if about.is_file() && about.len() <= OVERWRITTEN_MAX {
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.write_all(&vec![0; usize::try_from(about.len()).unwrap_or(0)])?;
            file.sync_all()?;
        }
        Ok::<_, std::io::Error>(())
    })();
    // One that cannot be overwritten, on a full or failing disk, can perhaps be deleted.
    match fs::remove_file(path).and(overwritten) {
        Ok(()) => wiped.files += 1,
        Err(error) => wiped.left.push(format!("{} cannot be wiped: {error}", path.display())),
    }
}

/// No readings.
struct Nothing;

impl Outbox for Nothing {
    fn next(&mut self, _lane: Lane) -> Next<'_> {
        Next::Empty
    }
    fn rewind(&mut self, _lane: Lane) {}
    fn seek(&mut self, _lane: Lane, _sequence: u64) {}
    fn newest(&self, _lane: Lane) -> u64 {
        0
    }
    fn release(&mut self, _lane: Lane, _sequence: u64) {}
    fn reject(&mut self, _lane: Lane, _sequence: u64, _cause: Cause) -> Result<(), RejectedFull> {
        Ok(())
    }
    fn expire(&mut self, _lane: Lane, _sequence: u64) {}
    fn loss(&mut self, _lane: Lane, _index: usize) -> Option<Loss> {
        None
    }
    fn loss_reported(&mut self, _lane: Lane, _number: u64, _count: u64) {}
}
