//! `tombolo reload`: has the running daemon take the configuration up, and waits for the outcome.
//!
//! The unit's `ExecReload`, so that a refused reload fails there too. The daemon goes on with what
//! it has when it refuses.
//!
//! Success is for a configuration that is in force as a whole: a reload that leaves a device, a
//! role or a port disabled by a fault, an upstream with files that are of no use or that the broker
//! does not take, or the metrics or local MQTT without an address has an exit status of its own,
//! and names it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::CommandError;
use super::output::patiently;
use super::{Context, note};
use crate::control::io::client::{ANSWER, Client, ClientError, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::control::snapshot::{ON_TRIAL, Status};

/// What the trial of a certificate may take, and how often its outcome is asked for.
pub(super) const TRIAL_WITHIN: Duration = Duration::from_secs(45);
const TRIAL_TICK: Duration = Duration::from_millis(100);

/// Asks and prints.
///
/// # Errors
/// [`CommandError::Failed`] where the reload is refused, or the daemon does not run or answer;
/// [`CommandError::Partly`] where something in the files is disabled or cannot be used.
pub fn run(context: &Context) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    let asked = || daemon.ask(&Request::Reload {}, SLOW_ANSWER);
    let answer = match patiently("waiting for the gateway to reload", asked) {
        Ok(answer) => answer,
        Err(ClientError::Failed(failure)) => {
            return Err(CommandError::Failed(format!(
                "the reload is refused, and the gateway goes on with the configuration it has: {failure}"
            )));
        }
        // It may come to it later: whether it is refused then is not known.
        Err(error) => return Err(CommandError::Failed(format!("the outcome is not known: {error}"))),
    };
    if context.out.json {
        context.out.object(&answer)?;
    } else {
        problems(&answer).for_each(note);
    }
    let mut faults = certificates(&answer, &mut daemon, TRIAL_WITHIN)?;
    faults.extend(not_in_force(&answer));
    match faults.is_empty() {
        true if context.out.json => Ok(()),
        true => Ok(context.out.line("reloaded")?),
        false => Err(CommandError::Partly(format!("reloaded, but {}", faults.join("; ")))),
    }
}

/// What is wrong with files of the state directory, whose last good versions stay in use.
pub(super) fn problems(answer: &Value) -> impl Iterator<Item = &str> {
    texts(answer, "problems")
}

fn texts<'a>(answer: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    answer.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// What the answer says is not in force of that which was taken up.
pub(super) fn not_in_force(answer: &Value) -> Vec<String> {
    let text = |key: &str| answer.get(key).and_then(Value::as_str);
    let mut faults = Vec::new();
    faults.extend(text("upstream_files").map(|reason| {
        format!(
            "the files of [upstream] cannot be used: {reason}; a connection that stands goes on until it breaks, and there \
             is no other until that is corrected"
        )
    }));
    faults.extend(text("upstream_kept").map(|reason| {
        format!(
            "certificate and key of [upstream] cannot be used: {reason}; the pair before stays in use, for new connections \
             too, until that is corrected"
        )
    }));
    faults.extend(text("upstream_unproven").map(str::to_owned));
    let disabled: Vec<&str> =
        texts(answer, "disabled").map(|text| text.strip_prefix("fail  ").unwrap_or(text)).collect();
    if !disabled.is_empty() {
        faults.push(format!(
            "{} disabled by faults: {}",
            match disabled.len() {
                1 => "1 item is".to_owned(),
                count => format!("{count} items are"),
            },
            disabled.join("; ")
        ));
    }
    for key in ["metrics", "mqtt"] {
        faults.extend(texts(answer, key).map(str::to_owned));
    }
    faults
}

/// Waits for the outcome of new certificates in watched files, and says which are not in use. What
/// is not decided after `within` is no fault if that is nothing.
pub(super) fn certificates(
    answer: &Value,
    daemon: &mut Client,
    within: Duration,
) -> Result<Vec<String>, ClientError> {
    if !answer["upstream_kept"].is_null() {
        return Ok(Vec::new());
    }
    let on_trial = |status: &Status| -> Vec<String> {
        let problems = status.problems.iter().filter(|problem| problem.contains(ON_TRIAL));
        // What they are called, before the colon. One that renews itself is no matter of a reload.
        let named = problems.filter_map(|text| Some(text.split_once(": ")?.0.to_owned()));
        let has_files = |name: &String| {
            let of = name.strip_prefix("certificate ").and_then(|name| status.certificates.get(name));
            of.is_some_and(|of| of.files.is_some())
        };
        named.filter(has_files).collect()
    };
    let looking = |status: &Status| status.certificates.values().any(|certificate| certificate.looking);
    let mut ask = || daemon.ask_for::<Status>(&Request::Status {}, ANSWER);
    let mut names: Vec<String> = Vec::new();
    let begun = Instant::now();
    // Where no files have a certificate for the broker there is nothing to decide.
    let mut next = Some(patiently("waiting for the running gateway's answer", &mut ask)?);
    let has_files = |status: &Status| status.certificates.values().any(|of| of.files.is_some());
    if next.as_ref().is_some_and(|status| !has_files(status) && !looking(status)) {
        return Ok(Vec::new());
    }
    let status = patiently("waiting until the broker has decided on a new certificate", || {
        loop {
            let status = next.take().map_or_else(&mut ask, Ok)?;
            names.extend(on_trial(&status));
            let is_open = looking(&status) || !on_trial(&status).is_empty();
            if !is_open || begun.elapsed() >= within {
                return Ok::<Status, ClientError>(status);
            }
            std::thread::sleep(TRIAL_TICK);
        }
    })?;
    // One that was refused at once was never seen on trial.
    names.extend(
        status
            .certificates
            .iter()
            .filter(|(_, of)| of.files.is_some())
            .map(|(name, _)| format!("certificate {name}")),
    );
    let is_of = |problem: &&String| names.iter().any(|name| problem.starts_with(&format!("{name}: ")));
    let mut faults: Vec<String> = status.problems.iter().filter(is_of).cloned().collect();
    if within.is_zero() {
        faults.retain(|text| !text.contains(ON_TRIAL));
        return Ok(faults);
    }
    faults.extend(status.certificates.iter().filter(|(_, of)| of.looking).map(|(name, _)| {
        format!("certificate {name}: its files could not be read within {} s", within.as_secs())
    }));
    Ok(faults)
}
