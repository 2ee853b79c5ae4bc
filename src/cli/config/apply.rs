//! `tombolo config apply|confirm|revert`: a new configuration file, with the way back.
//!
//! Where the folder of the configuration is on a file system that is read-only, a drop-in goes
//! below the state directory, as that of `init` does ([`place`]), and is refused if another file
//! wins over it.
//!
//! | step | killed or cut off after it |
//! |---|---|
//! | the candidate is checked together with all other files: what works must go on working | nothing has changed |
//! | the record of the trial is written | nothing has changed: the record speaks of a file that is not there |
//! | the candidate is put in place | the record brings the old one back when its time is over |
//! | the daemon reloads; refused, or something is disabled by it: all is put back | as before |
//! | the daemon deletes the record once the uplink is connected, or `confirm` does | it is confirmed |
//! | the time is over: the daemon goes back by itself, this command puts the file back | the daemon goes on with the old; `revert` tidies up |

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cli::args::ApplyArguments;
use crate::cli::error::CommandError;
use crate::cli::output::span;
use crate::cli::{Context, note};
use crate::config::init::io::overridden;
use crate::config::init::place;
use crate::config::io::{Options, is_read_only, load, load_candidate, texts};
use crate::config::trial::io::Reverted;
use crate::config::trial::{CANDIDATE_MAX, Standing, Trial, io};
use crate::config::{Finding, Level, Loaded, Origin, Paths};
use crate::control::io::client::{ANSWER, ClientError, SLOW_ANSWER};
use crate::control::protocol::Request;

/// Names in one message.
const NAMED: usize = 5;
/// How often it is looked whether the trial has ended.
const LOOK: Duration = Duration::from_millis(500);
/// How long the daemon may take to decide after the trial's end.
const DECIDES: u64 = 3_000;

/// Applies it, and waits until it is confirmed or taken back.
///
/// # Errors
/// [`CommandError::Configuration`] if the candidate cannot be used; [`CommandError::Failed`] if it
/// was taken back.
pub fn apply(context: &Context, arguments: &ApplyArguments) -> Result<(), CommandError> {
    let candidate = read(&arguments.file)?;
    let options = context.options();
    let now = texts(&options);
    let state_dir = now.state_dir.clone();
    let Target { file: target, read_only } = target(context, arguments, &state_dir)?;
    tidy(context, &state_dir, "config apply")?;
    let before = io::text_of(&state_dir, &target).map_err(|error| failed(&target, &error))?;
    if before.as_ref() == Some(&candidate) {
        return Err(CommandError::Failed(format!("{} has this content already", target.display())));
    }
    let origin = if arguments.main { Origin::Main } else { Origin::DropIn };
    let given = Given { target: &target, file: &arguments.file };
    let loaded = load_candidate(&options, origin, &target, &candidate)
        .map_err(|findings| given.refused(context, findings))?;
    judge(context, &loaded, given, &state_dir)?;
    if read_only.is_some() {
        let overridden = overridden(&options, &target, candidate.clone());
        if !overridden.is_empty() {
            return Err(given.refused(context, overridden));
        }
    }
    if !arguments.accept_removal {
        keeps(&options, &loaded, given)?;
    }
    let is_running = match context.daemon() {
        Ok(_) => true,
        Err(ClientError::NotRunning { .. }) if arguments.confirm.is_none() => false,
        Err(error) => return Err(error.into()),
    };
    let disabled = if is_running { running_disabled(context) } else { Vec::new() };
    let trial = match arguments.confirm {
        None => None,
        Some(lasts) => {
            let trial = Trial::begin(&target, candidate.clone(), before.clone(), &io::moment(), lasts);
            let trial = trial.ok_or_else(|| {
                CommandError::failed(
                    "the kernel has no boot id, so a trial could not end at a reboot; leave --confirm out",
                )
            })?;
            io::write(&state_dir, &trial).map_err(|error| {
                CommandError::Failed(format!(
                    "nothing was changed: the record of the trial cannot be written in {}: {error}",
                    state_dir.display()
                ))
            })?;
            Some(trial)
        }
    };
    if let Err(error) = io::put(&state_dir, &target, &candidate) {
        let _ = io::remove(&state_dir);
        return Err(failed(&target, &error));
    }
    let outcome = match is_running {
        true => try_reload(context).and_then(|now| {
            let lost = if arguments.accept_removal { Vec::new() } else { newly_disabled(&disabled, &now) };
            if lost.is_empty() { Ok(()) } else { Err(format!("it disables what worked: {}", few(&lost))) }
        }),
        false => Ok(()),
    };
    if let Err(error) = outcome {
        take_back(&state_dir, &target, before.as_deref(), &candidate)?;
        let _ = io::remove(&state_dir);
        // So that the daemon does not go on saying that the last one was refused.
        let _ = reload(context);
        return Err(CommandError::Failed(format!("{error}; {} is as it was", target.display())));
    }
    if let Some(folder) = read_only.as_ref().filter(|_| !context.out.json) {
        note(format_args!(
            "{} is below the state directory because {} is on a file system that is read-only; what is set there wins \
             over it",
            target.display(),
            folder.display()
        ));
    }
    match trial {
        Some(trial) => wait(context, &state_dir, &trial),
        None => said(context, &target, false, !is_running),
    }
}

fn failed(file: &Path, error: &std::io::Error) -> CommandError {
    CommandError::Failed(format!("nothing was changed: {}: {error}{}", file.display(), way_out(error)))
}

/// The remedy, where rights are the cause.
fn way_out(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "; run this as root",
        std::io::ErrorKind::ReadOnlyFilesystem => "; see in `dmesg` why the file system is read-only",
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; make room there first (`df` shows it)"
        }
        _ => "",
    }
}

fn read(file: &Path) -> Result<String, CommandError> {
    use std::io::Read as _;
    let mut text = String::new();
    let read =
        std::fs::File::open(file).and_then(|open| open.take(CANDIDATE_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(CommandError::Failed(format!("{}: {error}", file.display()))),
        Ok(_) if text.len() as u64 > CANDIDATE_MAX => Err(CommandError::Failed(format!(
            "{} has more than 1 MiB: it is no configuration file",
            file.display()
        ))),
        Ok(_) => Ok(text),
    }
}

/// Where it goes.
struct Target {
    /// The loader names files by whole paths, and the record is compared with them.
    file: PathBuf,
    /// The folder beside the main file, where it goes below the state directory because that one is
    /// on a file system that is read-only.
    read_only: Option<PathBuf>,
}

fn target(context: &Context, arguments: &ApplyArguments, state_dir: &Path) -> Result<Target, CommandError> {
    let config = std::path::absolute(&context.config).unwrap_or_else(|_| context.config.clone());
    let place::Target { conf_d, read_only, .. } = place::choose(&config, state_dir, false, &is_read_only);
    let closed = |file: &Path, way_out: &str| {
        CommandError::Failed(format!(
            "nothing was changed: {} is on a file system that is read-only; {way_out}",
            file.display()
        ))
    };
    if arguments.main {
        return match is_read_only(&config) {
            false => Ok(Target { file: config, read_only: None }),
            true if read_only.is_some() => Err(closed(
                &config,
                &format!(
                    "leave --main out: then the file goes to {}, and is used where the main file sets nothing else; or \
                     change the main file in the image",
                    conf_d.display()
                ),
            )),
            true => Err(closed(&config, "make it writable, or change the file in the image")),
        };
    }
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => arguments.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let is_name = name.ends_with(".toml") && !name.starts_with('.') && !name.contains('/');
    if !is_name {
        return Err(CommandError::Usage(format!(
            "{name:?} is no name of a drop-in in {}; give one with --as, like 50-site.toml",
            Paths::conf_d(&config).display()
        )));
    }
    let file = conf_d.join(&name);
    if is_read_only(&file) {
        return Err(closed(&file, "make it writable, or the state directory"));
    }
    // Of an earlier time, when the other folder could not be written.
    let earlier = state_dir.join(place::CONF_D).join(&name);
    if read_only.is_none() && earlier != file && earlier.symlink_metadata().is_ok() {
        return Err(CommandError::Failed(format!(
            "nothing was changed: {} is of a time when {} could not be written, and what it says and the new file does \
             not would stay in force; delete it first, or name the new file otherwise with --as",
            earlier.display(),
            conf_d.display()
        )));
    }
    Ok(Target { file, read_only })
}

/// An earlier trial: one that is over is put in order, one that lasts is not disturbed.
fn tidy(context: &Context, state_dir: &Path, command: &str) -> Result<(), CommandError> {
    let Some(trial) = record(context, state_dir, command)? else { return Ok(()) };
    let text = std::fs::read_to_string(&trial.file).ok();
    match trial.stands(text.as_deref(), &io::moment()) {
        Standing::Pending(left) => Err(CommandError::Failed(format!(
            "{} is on trial for {} yet; first run `{}`, or `{}`",
            trial.file.display(),
            span(left.as_secs()),
            context.hint("config confirm"),
            context.hint("config revert")
        ))),
        Standing::Over | Standing::Unrelated => {
            io::revert(state_dir, &trial).map(drop).map_err(|error| failed(&trial.file, &error))
        }
    }
}

fn record(context: &Context, state_dir: &Path, command: &str) -> Result<Option<Trial>, CommandError> {
    if io::is_closed(state_dir) {
        let (shown, hint) = (state_dir.display(), context.rights_hint(command));
        return Err(CommandError::Failed(format!(
            "nothing was changed: {shown} may not be read by this user, so it is not known whether a configuration is on \
             trial; {hint}"
        )));
    }
    let file = state_dir.join(crate::config::trial::FILE_NAME);
    let trial = io::read(state_dir)
        .map_err(|condition| CommandError::Failed(format!("{}: {condition}; delete it", file.display())))?;
    match &trial {
        Some(Trial { file: named, .. }) if !io::is_ours(&context.options().config, state_dir, named) => {
            Err(CommandError::Failed(format!(
                "nothing was changed: {} is about {}, which is no configuration file of {}; delete it, or use the --config \
                 that it was made with",
                file.display(),
                named.display(),
                context.config.display()
            )))
        }
        _ => Ok(trial),
    }
}

/// The file as it was given, and where it goes: what is found in it is said of the first, because
/// the other does not exist yet, or has other lines.
#[derive(Clone, Copy)]
struct Given<'p> {
    target: &'p Path,
    file: &'p Path,
}

impl Given<'_> {
    fn is_in(self, file: &Option<String>) -> bool {
        file.as_deref().map(Path::new) == Some(self.target)
    }

    /// The finding at the file that the user can correct.
    fn named(self, mut finding: Finding) -> Finding {
        if self.is_in(&finding.file) {
            finding.file = Some(self.file.display().to_string());
        }
        finding
    }

    fn refused(self, context: &Context, findings: Vec<Finding>) -> CommandError {
        let findings: Vec<Finding> = findings.into_iter().map(|finding| self.named(finding)).collect();
        if context.out.json {
            return CommandError::Configuration(findings);
        }
        for finding in findings.iter().filter(|finding| finding.level == Level::Fail) {
            note(finding);
        }
        note(format_args!("tombolo: nothing was changed: {} cannot be used", self.file.display()));
        CommandError::SaidOfConfiguration
    }
}

/// What is wrong with what is to be applied.
fn judge(context: &Context, loaded: &Loaded, given: Given<'_>, state_dir: &Path) -> Result<(), CommandError> {
    let wrong: Vec<_> = loaded
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Fail && given.is_in(&finding.file))
        .cloned()
        .collect();
    if !wrong.is_empty() {
        return Err(given.refused(context, wrong));
    }
    if loaded.settings.paths.state_dir != state_dir {
        return Err(CommandError::failed(
            "nothing was changed: it moves paths.state-dir, which cannot be tried; edit the file and restart the service",
        ));
    }
    Ok(())
}

fn take_back(
    state_dir: &Path,
    target: &Path,
    before: Option<&str>,
    candidate: &str,
) -> Result<(), CommandError> {
    let done = match (before, io::text_of(state_dir, target)) {
        (_, Ok(Some(now))) if now != candidate => Ok(()),
        (Some(before), _) => io::put(state_dir, target, before),
        (None, _) => io::take_away(state_dir, target),
    };
    done.map_err(|error| CommandError::Failed(format!("{} cannot be put back: {error}", target.display())))
}

/// What is disabled after it; an error is a text, which is said together with what was done about
/// it.
fn try_reload(context: &Context) -> Result<Vec<String>, String> {
    let mut daemon = context.daemon().map_err(|error| error.to_string())?;
    match daemon.ask(&Request::Reload {}, SLOW_ANSWER) {
        Ok(answer) => Ok(texts_of(&answer["disabled"])),
        Err(ClientError::Failed(failure)) => Err(format!("the reload is refused: {failure}")),
        Err(error) => Err(error.to_string()),
    }
}

fn reload(context: &Context) -> Result<(), CommandError> {
    try_reload(context).map(drop).map_err(CommandError::Failed)
}

fn texts_of(array: &serde_json::Value) -> Vec<String> {
    array.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

/// What the running gateway says is disabled.
fn running_disabled(context: &Context) -> Vec<String> {
    let asked = context.daemon().and_then(|mut daemon| daemon.ask(&Request::Status {}, ANSWER));
    asked.map(|status| texts_of(&status["gateway"]["disabled"])).unwrap_or_default()
}

/// What was not disabled before, without the level.
fn newly_disabled(before: &[String], now: &[String]) -> Vec<String> {
    let new = now.iter().filter(|text| !before.contains(text));
    new.map(|text| text.strip_prefix("fail  ").unwrap_or(text).to_owned()).collect()
}

/// At most [`NAMED`] of them.
fn few(all: &[String]) -> String {
    let shown = all.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// Refuses what would end something that works now: fewer devices, roles or listeners, or a new
/// fault in another file.
fn keeps(options: &Options, after: &Loaded, given: Given<'_>) -> Result<(), CommandError> {
    // By files that cannot be used now nothing works.
    let Ok(before) = load(options, None) else { return Ok(()) };
    let (works, will) = (working(&before), working(after));
    let lost: Vec<String> = works.difference(&will).cloned().collect();
    let failing = |loaded: &Loaded| -> Vec<Finding> {
        loaded.findings.iter().filter(|finding| finding.level == Level::Fail).cloned().collect()
    };
    let known = failing(&before);
    let same =
        |a: &Finding, b: &Finding| (&a.subject, &a.key, &a.message) == (&b.subject, &b.key, &b.message);
    let why = failing(after).into_iter().filter(|new| !known.iter().any(|known| same(known, new)));
    let why: Vec<String> = why.map(|finding| given.named(finding).sentence()).collect();
    if lost.is_empty() && why.is_empty() {
        return Ok(());
    }
    let what = if lost.is_empty() {
        format!("it brings faults: {}", few(&why))
    } else if why.is_empty() {
        format!("these work now and would not any more: {}", few(&lost))
    } else {
        format!("these work now and would not any more: {}; because {}", few(&lost), few(&why))
    };
    Err(CommandError::Failed(format!(
        "nothing was changed: {what}. If that is meant, say so with --accept-removal"
    )))
}

/// What works by a configuration, each by its name.
fn working(loaded: &Loaded) -> BTreeSet<String> {
    let settings = &loaded.settings;
    let gate = &settings.gate;
    let mut names = BTreeSet::new();
    names.extend(gate.devices.iter().map(|device| format!("device {}", device.id)));
    names.extend(gate.fleets.iter().map(|fleet| format!("fleet {}", fleet.name)));
    for role in &gate.roles {
        names.insert(format!("role {}", role.name));
    }
    names.extend(settings.serial.iter().map(|port| format!("serial port {}", port.name)));
    // At another address it goes on.
    names.extend(settings.coap.listen.first().map(|_| "the coaps listener".to_owned()));
    names.extend(settings.coap.insecure.as_ref().map(|_| "the plain coap listener".to_owned()));
    names.extend(settings.metrics.listen.first().map(|_| "the metrics listener".to_owned()));
    names.extend(settings.upstream.iter().map(|_| "the upstream".to_owned()));
    names
}

/// Until the record is gone, or its time is over.
fn wait(context: &Context, state_dir: &Path, trial: &Trial) -> Result<(), CommandError> {
    let confirm = context.hint("config confirm");
    if !context.out.json {
        note(format_args!(
            "{} is on trial; it stays if the uplink is connected, or with `{confirm}` in another terminal",
            trial.file.display()
        ));
    }
    loop {
        if !matches!(io::read(state_dir), Ok(Some(_))) {
            // Confirmed, by the daemon or a person; or taken back by a person.
            let now = io::text_of(state_dir, &trial.file).ok().flatten();
            if now.as_deref() == Some(trial.candidate.as_str()) {
                return said(context, &trial.file, true, false);
            }
            return Err(CommandError::Failed(format!(
                "{} was taken back by `config revert`, or changed: it is not what was applied",
                trial.file.display()
            )));
        }
        if io::moment().now_ms >= trial.ends_ms().saturating_add(DECIDES) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let done = back(context, state_dir, trial)?;
    Err(CommandError::Failed(match left(trial, &done) {
        None if matches!(context.daemon(), Err(ClientError::NotRunning { .. })) => format!(
            "the gateway does not run any more, so that nothing showed whether the uplink works; nobody confirmed: {}; \
             start it: {}",
            restored(trial),
            context.start_hint()
        ),
        None => format!("the uplink was not connected in time, and nobody confirmed: {}", restored(trial)),
        Some(left) => format!("the trial is over, and nobody confirmed: {left}"),
    }))
}

/// What is said of a file that is as it was before the trial.
fn restored(trial: &Trial) -> String {
    let file = trial.file.display();
    match trial.file.exists() {
        true => format!("{file} is as it was before"),
        false => format!("{file} is deleted again: it did not exist before"),
    }
}

/// What is said of a file that is not as it was before the trial.
fn left(trial: &Trial, done: &Reverted) -> Option<String> {
    let Reverted::Left(before) = done else { return None };
    let file = trial.file.display();
    let is = match trial.file.exists() {
        true => format!("{file} was changed during its trial; it is left as it is, and is in use"),
        false => format!("{file} was deleted during its trial, and is not put back"),
    };
    Some(match before {
        Some(before) => format!("{is}; what was there before the trial is in {}", before.display()),
        None => is,
    })
}

fn back(context: &Context, state_dir: &Path, trial: &Trial) -> Result<Reverted, CommandError> {
    let done = io::revert(state_dir, trial).map_err(|error| {
        CommandError::Failed(format!(
            "the gateway uses what was before, but {} cannot be put back: {error}; then run `{}`",
            trial.file.display(),
            context.hint("config revert")
        ))
    })?;
    match reload(context) {
        Ok(()) => Ok(done),
        // It takes it up when it starts.
        Err(_) if context.daemon().is_err() => Ok(done),
        Err(error) => Err(error),
    }
}

fn said(context: &Context, file: &Path, confirmed: bool, stopped: bool) -> Result<(), CommandError> {
    if context.out.json {
        let object = json!({ "file": file, "applied": true, "confirmed": confirmed, "running": !stopped });
        return Ok(context.out.object(&object)?);
    }
    context.out.line(match confirmed {
        true => format!("{} is in use and confirmed", file.display()),
        false => format!("{} is in place", file.display()),
    })?;
    if !confirmed {
        note(format_args!(
            "there is no way back by itself; `{}` puts a file on trial for that time",
            context.hint("config apply FILE --confirm 5min")
        ));
    }
    if stopped {
        note(format_args!("the gateway does not run; next: {}", context.start_hint()));
    }
    Ok(())
}

/// `tombolo config confirm`: what is on trial stays; after its time it is taken up again.
///
/// # Errors
/// [`CommandError::Failed`] if nothing is on trial, or the record cannot be deleted.
pub fn confirm(context: &Context) -> Result<(), CommandError> {
    let state_dir = texts(&context.options()).state_dir;
    let trial = record(context, &state_dir, "config confirm")?;
    let trial = trial.ok_or_else(|| CommandError::failed("no configuration is on trial"))?;
    io::remove(&state_dir).map_err(|error| {
        CommandError::Failed(format!(
            "the record in {} cannot be deleted: {error}; run this as root",
            state_dir.display()
        ))
    })?;
    let running = context.daemon().is_ok();
    if running {
        reload(context)?;
    }
    said(context, &trial.file, true, !running)
}

/// `tombolo config revert`: what was before comes back now.
///
/// # Errors
/// [`CommandError::Failed`] if nothing is on trial, or the file cannot be put back, or was changed
/// during the trial and is left as it is.
pub fn revert(context: &Context) -> Result<(), CommandError> {
    let state_dir = texts(&context.options()).state_dir;
    let trial = record(context, &state_dir, "config revert")?;
    let trial = trial.ok_or_else(|| CommandError::failed("no configuration is on trial"))?;
    let done = back(context, &state_dir, &trial)?;
    if let Some(left) = left(&trial, &done) {
        return Err(CommandError::Failed(left));
    }
    if context.out.json {
        return Ok(context.out.object(&json!({ "file": trial.file, "reverted": true }))?);
    }
    Ok(context.out.line(restored(&trial))?)
}
