//! `tombolo check`: whatever could be wrong, one line a finding, each with the way out.
//!
//! What the configuration says comes from `config`; here is the rest: the machine, and the uplink.
//! While the daemon runs, it is asked about ports and uplink, so that the check takes neither its
//! ports nor its client id; where it is not connected, the check goes to the broker step by step,
//! under a client id of its own.

mod credential;
mod device;
mod serial;
mod state;
mod system;
mod uplink;

use std::sync::Arc;

use super::Context;
use super::args::CheckArguments;
use super::error::CommandError;
use crate::config::{ClockTrust, Finding, Level, Loaded, findings_to_json};
use crate::control::io::client::{ANSWER, Client, ClientError};
use crate::control::protocol::Request;
use crate::control::snapshot::{Clock, Status};
use crate::daemon::clock::SystemClock;
use crate::durable::atomic_file::Condition;

/// Checks and prints.
///
/// # Errors
/// [`CommandError::Said`] where any finding is a fail.
pub fn run(context: &Context, arguments: &CheckArguments) -> Result<(), CommandError> {
    let mut report = Report { context, findings: Vec::new(), next: None };
    match crate::config::io::load(&context.options(), None) {
        Ok(loaded) => {
            report.add(loaded.findings.iter().cloned())?;
            report.add(state::judge(&loaded))?;
            judge(&mut report, &loaded, arguments)?;
        }
        // Without settings there is nothing else to look at.
        Err(findings) => report.add(findings)?,
    }
    report.finish()
}

fn judge(report: &mut Report<'_>, loaded: &Loaded, arguments: &CheckArguments) -> Result<(), CommandError> {
    let settings = &loaded.settings;
    let paths = &settings.paths;
    let always = settings.clock.trust == ClockTrust::Always;
    let clock = Arc::new(SystemClock::open(&paths.state_dir, always));
    // The daemon knows more than its file: what certificates it has seen, and for how long the
    // clock is synchronised.
    let asked = report
        .context
        .daemon()
        .and_then(|mut daemon| daemon.ask_for::<Clock>(&Request::Clock {}, ANSWER))
        .ok();
    report.add(system::clock(&asked.unwrap_or_else(|| clock.snapshot())))?;
    report.add(clock.defects().iter().map(|defect| {
        let advice = match &defect.condition {
            Condition::Unreadable(_) => {
                "run `sudo tombolo check`; if root may not read it either, see in `dmesg` what is wrong with the disk"
            }
            _ => "the daemon puts it in order at its next start",
        };
        Finding::warn("clock", format!("{defect} (in {})", paths.state_dir.display())).advice(advice)
    }))?;
    report.add([system::folder(
        "state directory",
        &paths.state_dir,
        "the service's first start makes it",
    )])?;
    report.add(system::disk(settings))?;
    if let Some(tls) = settings.upstream.as_ref().and_then(|upstream| upstream.tls.as_ref()) {
        report.add(credential::identity(tls, &*clock))?;
    }
    report.add(device::judge(loaded, &*clock))?;
    report.add(serial::ports(settings))?;
    let daemon = connect(report)?;
    let running = daemon.is_some();
    report.next = Some(match (running, &settings.upstream) {
        (_, None) => "tombolo init --url mqtts://BROKER",
        (false, _) => "systemctl start tombolo",
        (true, _) if loaded.known.is_empty() => "tombolo device add ID --role ROLE --psk",
        (true, _) => "tombolo tail",
    });
    let mut connected = false;
    match daemon {
        Some(mut daemon) => connected = ask(report, loaded, &mut daemon, arguments)?,
        None => report.add(system::ports(settings))?,
    }
    match &settings.upstream {
        Some(_) if arguments.offline => report.add([Finding::ok("upstream", "not looked at: --offline")]),
        Some(upstream) if !(running && connected) => {
            report.add(uplink::walk(settings, upstream, clock, running))
        }
        _ => Ok(()),
    }
}

/// What the running daemon says about itself; whether it is connected.
fn ask(
    report: &mut Report<'_>,
    loaded: &Loaded,
    daemon: &mut Client,
    arguments: &CheckArguments,
) -> Result<bool, CommandError> {
    match daemon.ask_for::<Status>(&Request::Status {}, ANSWER) {
        Ok(status) => {
            report.add([Finding::ok(
                "daemon",
                format!("tombolo {} runs and has its ports", status.gateway.version),
            )])?;
            let here = env!("CARGO_PKG_VERSION");
            if status.gateway.version != here {
                report.add([Finding::warn(
                    "daemon",
                    format!("it is version {}, this command {here}", status.gateway.version),
                )
                .advice("systemctl restart tombolo")])?;
            }
            if let Some(reason) = &status.journal.failing {
                report.add([Finding::fail("journal", format!("takes no readings: {reason}"))
                    .advice("see the disk's findings, and `journalctl -u tombolo`")])?;
            }
            report.add(state::told(&status, loaded))?;
            report.add(serial::told(&status))?;
            if status.upstream.configured != loaded.settings.upstream.is_some() {
                report.add([Finding::warn(
                    "daemon",
                    "it does not use the upstream that is configured in the files",
                )
                .advice("systemctl reload tombolo")])?;
                report.next = Some("systemctl reload tombolo");
            }
        }
        Err(error) => {
            report.add([Finding::fail("daemon", error.to_string())])?;
            return Ok(false);
        }
    }
    if arguments.offline || loaded.settings.upstream.is_none() {
        return Ok(false);
    }
    let (findings, connected) = uplink::ask(daemon, &loaded.settings.gate.prefix);
    report.add(findings)?;
    Ok(connected)
}

/// The running daemon, if there is one; that it may not be asked is a finding.
fn connect(report: &mut Report<'_>) -> Result<Option<Client>, CommandError> {
    match report.context.daemon() {
        Ok(daemon) => Ok(Some(daemon)),
        Err(ClientError::NotRunning { .. }) => {
            report.add([Finding::ok(
                "daemon",
                "tombolo is not running; `systemctl start tombolo` starts it",
            )])?;
            Ok(None)
        }
        Err(error) => {
            report.add([Finding::warn("daemon", error.to_string())])?;
            Ok(None)
        }
    }
}

/// Findings, printed as they come: a check that waits for the network shows what it has.
pub(super) struct Report<'a> {
    context: &'a Context,
    findings: Vec<Finding>,
    /// The command that comes after a check without a fail.
    next: Option<&'static str>,
}

impl Report<'_> {
    /// Prints and keeps.
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> Result<(), CommandError> {
        for finding in findings {
            if !self.context.out.json {
                self.context.out.line(&finding)?;
            }
            self.findings.push(finding);
        }
        Ok(())
    }

    fn finish(self) -> Result<(), CommandError> {
        if self.context.out.json {
            self.context.out.object(&findings_to_json(&self.findings))?;
        }
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let (warn, fail) = (count(Level::Warn), count(Level::Fail));
        if !self.context.out.json {
            let next = match fail {
                0 => self.next,
                _ => Some("correct what fails, then tombolo check"),
            };
            let next = next.map(|next| format!("; next: {next}")).unwrap_or_default();
            super::note(format!("{fail} fail, {warn} warn{next}"));
        }
        if fail > 0 { Err(CommandError::Said) } else { Ok(()) }
    }
}
