//! `tombolo cert`: the certificates that the running gateway renews by itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::args::{CertCommand, CertRenewArguments};
use super::error::CommandError;
use super::{Context, note};
use crate::control::io::client::{ANSWER, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::control::snapshot::Certificate;

/// How long `--wait` waits: a source that asks for patience is not waited for any longer.
const WAIT: Duration = Duration::from_secs(600);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

type Certificates = BTreeMap<String, Certificate>;

/// Runs the command.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run or refuses, or the renewal that is waited
/// for fails.
pub fn run(context: &Context, command: &CertCommand) -> Result<(), CommandError> {
    match command {
        CertCommand::Status => status(context),
        CertCommand::Renew(arguments) => renew(context, arguments),
        CertCommand::Rollback(arguments) => {
            let request = Request::CertRollback { name: arguments.name.clone() };
            let certificate: Certificate = context.daemon()?.ask_for(&request, SLOW_ANSWER)?;
            said(context, &arguments.name, &certificate, "the certificate before is in use again")
        }
        CertCommand::History(arguments) => {
            let request = Request::CertHistory { name: arguments.name.clone() };
            let value = context.daemon()?.ask(&request, ANSWER)?;
            if context.out.json {
                return Ok(context.out.object(&value)?);
            }
            let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().map(str::to_owned);
            let rows = value["events"].as_array().into_iter().flatten().map(|entry| {
                let at = text(entry, "at").unwrap_or_else(|| "the clock was not trusted".to_owned());
                vec![at, text(entry, "what").unwrap_or_default()]
            });
            Ok(context.out.table(&rows.collect::<Vec<_>>())?)
        }
    }
}

fn status(context: &Context) -> Result<(), CommandError> {
    let value = context.daemon()?.ask(&Request::CertStatus {}, ANSWER)?;
    if context.out.json {
        return Ok(context.out.object(&value)?);
    }
    let certificates: Certificates = serde_json::from_value(value)
        .map_err(|error| CommandError::failed(format_args!("the daemon's answer cannot be read: {error}")))?;
    if certificates.is_empty() {
        note("no certificate renews itself: [certificate.NAME] and [upstream] certificate configure one");
    }
    let mut rows = vec![["certificate", "state", "valid until", "due", "serial"].map(str::to_owned).to_vec()];
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    rows.extend(certificates.iter().map(|(name, of)| {
        vec![name.clone(), of.state.clone(), or(&of.not_after), or(&of.due), or(&of.serial)]
    }));
    context.out.table(&rows)?;
    for (name, of) in &certificates {
        if let Some(reason) = &of.last_error {
            note(format_args!("{name}: {reason}"));
        }
    }
    Ok(())
}

fn renew(context: &Context, arguments: &CertRenewArguments) -> Result<(), CommandError> {
    let name = &arguments.name;
    let mut daemon = context.daemon()?;
    let before: Certificates = daemon.ask_for(&Request::CertStatus {}, ANSWER)?;
    let serial = before.get(name).and_then(|of| of.serial.clone());
    let begun: Certificate = daemon.ask_for(&Request::CertRenew { name: name.clone() }, ANSWER)?;
    if !arguments.wait {
        return said(context, name, &begun, "the next certificate is asked for");
    }
    let until = Instant::now() + WAIT;
    let mut certificate = begun;
    loop {
        let failed = |what: String| Err(CommandError::Failed(format!("certificate {name}: {what}")));
        let reason = certificate.last_error.as_deref().unwrap_or("it is not asked for yet");
        match certificate.state.as_str() {
            "valid" | "committed" if certificate.serial != serial => {
                return said(context, name, &certificate, "the new certificate is in use");
            }
            "ordering" | "staged" | "probing" | "comparing" | "committing" if Instant::now() < until => {}
            state @ ("ordering" | "staged" | "probing" | "comparing" | "committing") => {
                return failed(format!("still {state} after {} s; it goes on", WAIT.as_secs()));
            }
            _ => return failed(format!("no new certificate: {reason}")),
        }
        std::thread::sleep(LOOK_EVERY);
        let mut now: Certificates = daemon.ask_for(&Request::CertStatus {}, ANSWER)?;
        certificate = now.remove(name).ok_or_else(|| {
            CommandError::Failed(format!("certificate {name}: it is not configured any more"))
        })?;
    }
}

fn said(context: &Context, name: &str, certificate: &Certificate, what: &str) -> Result<(), CommandError> {
    if context.out.json {
        let value = serde_json::to_value(certificate).map_err(CommandError::failed)?;
        return Ok(context.out.object(&value)?);
    }
    let until = certificate.not_after.as_deref().map(|at| format!(", valid until {at}")).unwrap_or_default();
    let serial = certificate.serial.as_deref().map(|of| format!(" (serial {of}{until})")).unwrap_or_default();
    Ok(context.out.line(format!("{name}: {what}{serial}"))?)
}
