//! `tombolo decommission --yes`: takes a gateway out of service. Its retained topics are cleared at
//! the broker, its keys and its state are wiped. The package and the configuration stay.
//!
//! | step | where it fails |
//! |---|---|
//! | the daemon does not run | nothing was changed |
//! | nothing waits in the journal, or `--discard` | nothing was changed |
//! | the broker acknowledges that every retained topic is empty, or `--offline` | nothing is wiped; what the broker refused, or why it was not reached, is named |
//! | keys in tokens, files with secrets that are ours, what [`inventory`](crate::config::inventory) lists of the runtime directory (copies of keys, sessions), the state directory's content, what was installed and denied in `{state-dir}-update` as root | the rest is wiped all the same, and what is left is named |
//!
//! A file counts as ours if it is below the folder of the configuration or the state directory:
//! the live files of certbot and others stay. Overwriting is no guarantee on flash, where the old
//! blocks may remain; keys should be revoked where they are known.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::DecommissionArguments;
use super::error::CommandError;
use super::output::plural;
use super::{Context, note};
use crate::config::inventory::{Copied, FILE_SYSTEM, RUNTIME};
use crate::config::io::texts;
use crate::config::show::show;
use crate::config::{ClockTrust, IdSource, Loaded, Paths};
use crate::control::io::client::ClientError;
use crate::daemon::clock::SystemClock;
use crate::daemon::fleets::FleetKeeper;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::message::Lane;
use crate::northbound::io::token::Token;
use crate::northbound::io::{Driver, Handle};
use crate::northbound::reason_code::Cause;
use crate::northbound::uplink::Uplink;
use crate::northbound::{Loss, Next, Outbox, RejectedFull};
use crate::update::io::root::{NotHeld, Root};

/// How long the broker may take to acknowledge all.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long attempts to connect may fail.
const CONNECTED_WITHIN: Duration = Duration::from_secs(15);
/// Most topics that are named.
const NAMED_MAX: usize = 8;
/// Files up to this size are overwritten before they are deleted: keys and small state.
const OVERWRITTEN_MAX: u64 = 1 << 20;

/// Does it.
///
/// # Errors
/// [`CommandError::Usage`] without `--yes`; [`CommandError::Failed`] as the table says.
pub fn run(context: &Context, arguments: &DecommissionArguments) -> Result<(), CommandError> {
    let loaded = context.load_whole("decommission")?;
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
        Err(ClientError::Denied { socket, .. }) => {
            let (shown, hint) = (socket.display(), context.rights_hint("decommission"));
            return Err(CommandError::Failed(format!(
                "nothing was changed: {shown} may not be opened by this user, so it is not known whether the gateway runs; {hint}"
            )));
        }
        Ok(_) => {
            let text = "nothing was changed: the gateway runs; first stop it for good: systemctl disable --now tombolo";
            return Err(CommandError::failed(text));
        }
        Err(error) => return Err(error.into()),
    }
    let root = root_folder(&loaded)?;
    let waiting = waiting(&loaded)?;
    if waiting > 0 && !arguments.discard {
        return Err(CommandError::Failed(format!(
            "nothing was changed: {} not delivered; start the gateway until `tombolo queue` shows none, or use --discard",
            if waiting == 1 { "1 reading was".to_owned() } else { format!("{waiting} readings were") }
        )));
    }
    // It was done before, or the gateway never ran.
    let blank = fs::read_dir(&state_dir)
        .map_or(true, |entries| entries.flatten().all(|entry| entry.file_name() == FILE_SYSTEM));
    let nameless = loaded.settings.gateway.id_source == IdSource::Missing;
    let cleared = match (&loaded.settings.upstream, arguments.offline) {
        // An id that was made just now is in no topic.
        (Some(_), false) if !nameless => clear(context, &loaded)?,
        _ => 0,
    };
    let mut wiped = wipe(context, &loaded);
    match &root {
        Of::None => {}
        // What is denied, installed and the floor: another owner's repository begins at none.
        Of::Ours(folder, _held) => wipe_folder(folder, &mut wiped),
        Of::Roots(folder) => {
            let shown = folder.display();
            wiped.left.push(format!("{shown} is root's, and was left: `sudo rm -r {shown}` deletes it"));
        }
    }
    let Wiped { files, left } = wiped;
    if context.out.json {
        let object = json!({
            "gateway": loaded.settings.gateway.id.as_str(), "cleared_topics": cleared, "discarded": waiting,
            "wiped_files": files, "left": left, "blank": blank,
        });
        context.out.object(&object)?;
    } else {
        if arguments.offline && loaded.settings.upstream.is_some() {
            let text = "the retained topics stay at the broker (--offline), the gateway's status among them";
            context.out.line(text)?;
        } else if cleared == 0 {
            context.out.line(
                "nothing to clear at the broker: the gateway has no upstream, or no id yet or any more",
            )?;
        } else if blank {
            context.out.line(format!(
                "{} emptied at the broker, whether or not anything was there: no state is left here that tells",
                plural(cleared as u64, "retained topic")
            ))?;
        } else {
            context
                .out
                .line(format!("{} cleared at the broker", plural(cleared as u64, "retained topic")))?;
        }
        match files {
            0 => context.out.line("no file was left to wipe")?,
            files => context.out.line(format!("{} wiped", plural(files as u64, "file")))?,
        }
        left.iter().for_each(note);
        note(
            "on flash the old blocks of a file may remain: revoke this gateway's keys and password at the broker",
        );
        let package = if context.is_packaged() { " and the package are" } else { " is" };
        note(format_args!("the configuration beside {}{package} still there", context.config.display()));
    }
    let failed = left.iter().any(|left| left.contains("cannot be"));
    if failed { Err(CommandError::Said) } else { Ok(()) }
}

/// The folder of the programs that install.
enum Of {
    /// There is none.
    None,
    /// It is held, where it can be: nothing is installed meanwhile.
    Ours(PathBuf, Option<Root>),
    /// This user may not change it.
    Roots(PathBuf),
}

fn root_folder(loaded: &Loaded) -> Result<Of, CommandError> {
    let folder = loaded.settings.paths.update_root();
    match fs::symlink_metadata(&folder) {
        Ok(about) if about.is_dir() => {
            use std::os::unix::fs::MetadataExt as _;
            let uid = nix::unistd::geteuid();
            if !uid.is_root() && about.uid() != uid.as_raw() {
                return Ok(Of::Roots(folder));
            }
        }
        _ => return Ok(Of::None),
    }
    match Root::open(&folder) {
        Ok(root) => Ok(Of::Ours(folder, Some(root))),
        Err(NotHeld::Busy) => Err(CommandError::Failed(format!("nothing was changed: {}", NotHeld::Busy))),
        // Nothing is installed from one that cannot be trusted.
        Err(NotHeld::Because(_)) => Ok(Of::Ours(folder, None)),
    }
}

/// Readings that were not delivered, rejected ones included.
fn waiting(loaded: &Loaded) -> Result<u64, CommandError> {
    let settings = &loaded.settings.journal;
    // One that cannot be looked at may have readings.
    match settings.directory.try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(0),
        Err(error) => {
            let shown = settings.directory.display();
            return Err(CommandError::Failed(format!("nothing was changed: {shown}: {error}")));
        }
    }
    let opened = Journal::open(settings);
    let (mut journal, _) =
        opened.map_err(|error| CommandError::Failed(format!("nothing was changed: the journal: {error}")))?;
    let status = journal.status();
    journal.close();
    Ok(status.lanes.iter().map(|lane| lane.records + lane.unreadable).sum::<u64>() + status.rejected.records)
}

/// Clears every retained topic of this gateway at the broker, under its own client id.
fn clear(context: &Context, loaded: &Loaded) -> Result<usize, CommandError> {
    let settings = &loaded.settings;
    let Some(upstream) = &settings.upstream else { return Ok(0) };
    let topics = retained(loaded);
    let broker = format!("{}:{}", upstream.host, upstream.port);
    let tell = |text: String| {
        if !context.out.json {
            note(text)
        }
    };
    let failed = |text: String| CommandError::Failed(format!("nothing was wiped: {text}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    let always = settings.clock.trust == ClockTrust::Always;
    let clock = Arc::new(SystemClock::open(&settings.paths.state_dir, always));
    // Without a status of its own: the connection leaves nothing behind.
    let mut quiet = upstream.clone();
    quiet.topics.gateway_status = None;
    quiet.topics.update_hint = None;
    tell(format!(
        "clearing {} at {broker}; this takes up to {} s",
        plural(topics.len() as u64, "retained topic"),
        PATIENCE.as_secs()
    ));
    let handle = Handle::new(Uplink::new(Instant::now(), quiet));
    handle.with(|core| topics.iter().for_each(|topic| core.clear_retained(topic)));
    let end = tokio::task::LocalSet::new().block_on(&runtime, async {
        let moments = clock.clone();
        let driver = Driver::new(handle.clone(), clock.clone(), move || moments.moment());
        let task = tokio::task::spawn_local(async move { driver.run(&RefCell::new(Nothing)).await });
        let end = wait(&handle, &topics, &broker, &tell).await;
        handle.stop().await;
        let _ = task.await;
        end
    });
    runtime.shutdown_background();
    let keeps = "its keys and its state are unchanged";
    match end {
        End::Cleared => Ok(topics.len()),
        End::Refused { refused, left } => Err(failed(format!(
            "{broker} refuses to clear {} of {}: {}; {keeps}. Allow {} to publish there, or clear them with another account, \
             for example with `mosquitto_pub -r -n -t TOPIC`; then run it again, with --offline in the second case",
            plural(left as u64, "topic"),
            topics.len(),
            named(&refused, left),
            settings.gateway.id,
        ))),
        End::Unreachable(reason) => Err(failed(format!(
            "{broker} could not be reached: {reason}; {keeps}. Run it again when the broker can be reached; --offline wipes \
             them and leaves {} at the broker",
            plural(topics.len() as u64, "retained topic"),
        ))),
        End::Late { left, reason } => Err(failed(format!(
            "{broker} did not acknowledge after {} s that {} empty: {}{reason}; {keeps}. Run it again, or leave them with \
             --offline",
            PATIENCE.as_secs(),
            if left.len() == 1 { "1 topic is".to_owned() } else { format!("{} topics are", left.len()) },
            named(&left, left.len()),
        ))),
    }
}

/// How the clearing ended.
enum End {
    Cleared,
    /// The broker refused all that is left.
    Refused {
        /// Some of the topics.
        refused: Vec<String>,
        left: usize,
    },
    Unreachable(String),
    Late {
        left: Vec<String>,
        /// What else the connection says, with what joins it.
        reason: String,
    },
}

async fn wait(handle: &Handle, topics: &[String], broker: &str, tell: &dyn Fn(String)) -> End {
    let begun = Instant::now();
    let (mut ever_connected, mut told) = (false, None);
    loop {
        let left: Vec<&String> =
            handle.with(|core| topics.iter().filter(|topic| !core.has_reached(topic)).collect());
        if left.is_empty() {
            return End::Cleared;
        }
        let refused = handle.with(|core| core.refused_topics(usize::MAX));
        if left.iter().all(|topic| refused.contains(topic)) {
            return End::Refused { refused, left: left.len() };
        }
        let status = handle.status();
        ever_connected |= status.connected;
        let waited = begun.elapsed();
        if let Some(reason) = status.failure.clone().filter(|_| !status.connected) {
            if !ever_connected && waited >= CONNECTED_WITHIN || waited >= PATIENCE {
                return End::Unreachable(reason);
            }
            if told.as_ref() != Some(&reason) {
                tell(format!("not connected to {broker}: {reason}; it is tried again"));
                told = Some(reason);
            }
        }
        if waited >= PATIENCE {
            if !ever_connected {
                return End::Unreachable("it does not answer".to_owned());
            }
            let reason = status.left_out.first().map(|reason| format!("; {reason}")).unwrap_or_default();
            return End::Late { left: left.into_iter().cloned().collect(), reason };
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Some of `count` topics.
fn named(topics: &[String], count: usize) -> String {
    let more = count.saturating_sub(NAMED_MAX);
    let shown = topics[..topics.len().min(NAMED_MAX)].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
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

fn wipe(context: &Context, loaded: &Loaded) -> Wiped {
    let mut wiped = Wiped { files: 0, left: Vec::new() };
    // While the PIN is still there, and the mark of one that was wrong.
    remove_token_keys(loaded, &mut wiped);
    let Paths { state_dir, runtime_dir, .. } = &loaded.settings.paths;
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
        let whole = match fs::canonicalize(&path) {
            Ok(whole) => whole,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                wiped.left.push(format!("{}: {} cannot be wiped: {error}", one.key, path.display()));
                continue;
            }
        };
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
    // Keys that were encrypted, or came from systemd, and sessions, which are kept in memory.
    for entry in RUNTIME.iter().filter(|entry| entry.copied == Copied::Removed) {
        let path = runtime_dir.join(entry.name);
        match path.symlink_metadata() {
            Ok(_) => wipe_entry(&path, &mut wiped),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => wiped.left.push(format!("{} cannot be wiped: {error}", path.display())),
        }
    }
    wipe_folder(&state, &mut wiped);
    wiped
}

/// The keys that this gateway made in tokens.
fn remove_token_keys(loaded: &Loaded, wiped: &mut Wiped) {
    for certificate in &loaded.settings.certificates {
        let of = &certificate.settings;
        let Some(token) = &of.token else { continue };
        let removed = Token::of(token).and_then(|token| token.keep(&of.token_label(), Vec::new()));
        if let Err(reason) = removed {
            wiped.left.push(format!(
                "certificate {}: its keys in the token cannot be removed: {reason}; remove the objects with the label {}",
                of.name,
                of.token_label()
            ));
        }
    }
}

fn wipe_folder(folder: &Path, wiped: &mut Wiped) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return wiped.left.push(format!("{} cannot be read: {error}", folder.display())),
    };
    for entry in entries.flatten().filter(|entry| entry.file_name() != FILE_SYSTEM) {
        wipe_entry(&entry.path(), wiped);
    }
}

/// Wipes a file, or a folder with what is in it. A link is deleted, and what it points to stays.
fn wipe_entry(path: &Path, wiped: &mut Wiped) {
    if path.symlink_metadata().is_ok_and(|about| about.is_dir()) {
        wipe_folder(path, wiped);
        if let Err(error) = fs::remove_dir(path) {
            wiped.left.push(format!("{} cannot be removed: {error}", path.display()));
        }
    } else {
        wipe_file(path, wiped);
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
