//! `tombolo config apply|confirm|revert`: a new configuration file, with the way back.
//!
//! | step | killed or cut off after it |
//! |---|---|
//! | the candidate is checked together with all other files | nothing has changed |
//! | the record of the trial is written | nothing has changed: the record speaks of a file that is not there |
//! | the candidate is put in place | the record brings the old one back when its time is over |
//! | the daemon reloads; refused: all is put back | as before |
//! | the daemon deletes the record once the uplink is connected, or `confirm` does | it is confirmed |
//! | the time is over: the daemon goes back by itself, this command puts the file back | the daemon goes on with the old; `revert` tidies up |

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cli::args::ApplyArguments;
use crate::cli::error::CommandError;
use crate::cli::output::span;
use crate::cli::{Context, note};
use crate::config::io::{load_candidate, texts};
use crate::config::trial::{CANDIDATE_MAX, Standing, Trial, io};
use crate::config::{Level, Loaded, Origin, Paths};
use crate::control::io::client::{ClientError, SLOW_ANSWER};
use crate::control::protocol::Request;

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
    let target = target(context, arguments)?;
    let options = context.options();
    let now = texts(&options);
    let state_dir = now.state_dir.clone();
    tidy(context, &state_dir)?;
    let before = match std::fs::read_to_string(&target) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&target, &error)),
    };
    if before.as_ref() == Some(&candidate) {
        return Err(CommandError::Failed(format!("{} has this content already", target.display())));
    }
    let origin = if arguments.main { Origin::Main } else { Origin::DropIn };
    let loaded =
        load_candidate(&options, origin, &target, &candidate).map_err(CommandError::Configuration)?;
    judge(&loaded, &target, &state_dir)?;
    let is_running = match context.daemon() {
        Ok(_) => true,
        Err(ClientError::NotRunning { .. }) if arguments.confirm.is_none() => false,
        Err(error) => return Err(error.into()),
    };
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
    if let Err(error) = put(&target, &candidate) {
        let _ = io::remove(&state_dir);
        return Err(failed(&target, &error));
    }
    if is_running && let Err(error) = try_reload(context) {
        take_back(&target, before.as_deref(), &candidate)?;
        let _ = io::remove(&state_dir);
        // So that the daemon does not go on saying that the last one was refused.
        let _ = reload(context);
        return Err(CommandError::Failed(format!("{error}; {} is as it was", target.display())));
    }
    match trial {
        Some(trial) => wait(context, &state_dir, &trial),
        None => said(context, &target, false, !is_running),
    }
}

fn failed(file: &Path, error: &std::io::Error) -> CommandError {
    CommandError::Failed(format!("nothing was changed: {}: {error}; run this as root", file.display()))
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
fn target(context: &Context, arguments: &ApplyArguments) -> Result<PathBuf, CommandError> {
    let config = std::path::absolute(&context.config).unwrap_or_else(|_| context.config.clone());
    // The loader names files as they were given.
    let given = &context.config;
    if arguments.main {
        return Ok(given.clone());
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
    Ok(Paths::conf_d(given).join(name))
}

/// An earlier trial: one that is over is put in order, one that lasts is not disturbed.
fn tidy(context: &Context, state_dir: &Path) -> Result<(), CommandError> {
    let Some(trial) = record(state_dir)? else { return Ok(()) };
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
            io::revert(state_dir, &trial).map_err(|error| failed(&trial.file, &error))
        }
    }
}

fn record(state_dir: &Path) -> Result<Option<Trial>, CommandError> {
    io::read(state_dir).map_err(|condition| {
        let file = state_dir.join(crate::config::trial::FILE_NAME);
        CommandError::Failed(format!("{}: {condition}; delete it", file.display()))
    })
}

/// What is wrong with what is to be applied.
fn judge(loaded: &Loaded, target: &Path, state_dir: &Path) -> Result<(), CommandError> {
    let of_it = |file: &Option<String>| file.as_deref().map(Path::new) == Some(target);
    let wrong: Vec<_> = loaded
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Fail && of_it(&finding.file))
        .cloned()
        .collect();
    if !wrong.is_empty() {
        return Err(CommandError::Configuration(wrong));
    }
    if loaded.settings.paths.state_dir != state_dir {
        return Err(CommandError::failed(
            "nothing was changed: it moves paths.state-dir, which cannot be tried; edit the file and restart the service",
        ));
    }
    Ok(())
}

fn put(target: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    io::write_keeping_mode(target, text)
}

fn take_back(target: &Path, before: Option<&str>, candidate: &str) -> Result<(), CommandError> {
    let done = match (before, std::fs::read_to_string(target)) {
        (_, Ok(now)) if now != candidate => Ok(()),
        (Some(before), _) => io::write_keeping_mode(target, before),
        (None, _) => std::fs::remove_file(target),
    };
    done.map_err(|error| CommandError::Failed(format!("{} cannot be put back: {error}", target.display())))
}

/// The reason as text: it is said together with what was done about it.
fn try_reload(context: &Context) -> Result<(), String> {
    let mut daemon = context.daemon().map_err(|error| error.to_string())?;
    match daemon.ask(&Request::Reload {}, SLOW_ANSWER) {
        Ok(_) => Ok(()),
        Err(ClientError::Failed(failure)) => Err(format!("the reload is refused: {failure}")),
        Err(error) => Err(error.to_string()),
    }
}

fn reload(context: &Context) -> Result<(), CommandError> {
    try_reload(context).map_err(CommandError::Failed)
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
            return said(context, &trial.file, true, false);
        }
        if io::moment().now_ms >= trial.ends_ms().saturating_add(DECIDES) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    back(context, state_dir, trial)?;
    Err(CommandError::Failed(format!(
        "the uplink was not connected in time, and nobody confirmed: {} is as it was before",
        trial.file.display()
    )))
}

fn back(context: &Context, state_dir: &Path, trial: &Trial) -> Result<(), CommandError> {
    io::revert(state_dir, trial).map_err(|error| {
        CommandError::Failed(format!(
            "the gateway uses what was before, but {} cannot be put back: {error}; then run `{}`",
            trial.file.display(),
            context.hint("config revert")
        ))
    })?;
    match reload(context) {
        Ok(()) => Ok(()),
        // It takes it up when it starts.
        Err(_) if context.daemon().is_err() => Ok(()),
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
    let trial = record(&state_dir)?.ok_or_else(|| CommandError::failed("no configuration is on trial"))?;
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
/// [`CommandError::Failed`] if nothing is on trial, or the file cannot be put back.
pub fn revert(context: &Context) -> Result<(), CommandError> {
    let state_dir = texts(&context.options()).state_dir;
    let trial = record(&state_dir)?.ok_or_else(|| CommandError::failed("no configuration is on trial"))?;
    back(context, &state_dir, &trial)?;
    if context.out.json {
        return Ok(context.out.object(&json!({ "file": trial.file, "reverted": true }))?);
    }
    Ok(context.out.line(format!("{} is as it was before", trial.file.display()))?)
}
