//! `tombolo check`: whatever could be wrong, one line a finding, each with the way out.
//!
//! What the files say now is judged, whatever the running daemon goes by; where the two differ it
//! is said. The daemon is asked about its ports and its uplink, so that the check takes neither its
//! ports nor its client id, and reads the files once more as the service sees them. Where the
//! uplink of the files is not the one that stands, the check goes to the broker step by step,
//! beside the gateway, which is told so. Where it is, and the broker may know the account by more
//! than the client id, the gateway publishes for the check itself: it never loses its connection
//! for one.
//!
//! `ok` is for what was proven.

mod credential;
mod device;
mod drop_ins;
mod metrics;
mod mqtt;
mod owners;
mod plan;
mod reading;
mod refusal;
mod running;
mod secrets;
mod security;
mod serial;
mod service;
mod state;
mod system;
mod update;
mod uplink;

pub use security::is_secret;

use std::sync::Arc;

use super::Context;
use super::args::CheckArguments;
use super::error::CommandError;
use super::output::patiently;
use crate::config::{ClockTrust, Finding, IdSource, Level, Loaded, Settings, findings_to_json};
use crate::control::io::client::{ANSWER, Client, ClientError};
use crate::control::protocol::Request;
use crate::control::snapshot::{Clock, NOT_EXPORTED, NOT_LISTENING, OUT_OF_DATE, Status};
use crate::daemon::clock::SystemClock;
use crate::durable::atomic_file::Condition;
use crate::northbound;

/// Checks and prints.
///
/// # Errors
/// [`CommandError::Said`] where any finding is a fail.
pub fn run(context: &Context, arguments: &CheckArguments) -> Result<(), CommandError> {
    let mut report = Report { context, findings: Vec::new(), next: None };
    match crate::config::io::load(&context.options(), None) {
        Ok(loaded) if arguments.security => security::run(&mut report, &loaded)?,
        Ok(loaded) => {
            report.add(loaded.findings.iter().cloned())?;
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
    let closed = loaded.state.closed.as_ref();
    let runs = asked.is_some();
    report.add(match closed {
        Some(closed) => vec![state::closed(report.context, closed, runs)],
        None => state::judge(loaded),
    })?;
    report.add(system::clock(&asked.unwrap_or_else(|| clock.snapshot())))?;
    if closed.is_none() {
        report.add(clock.defects().iter().map(|defect| {
            let advice = match &defect.condition {
                Condition::Unreadable(_) => {
                    "run `sudo tombolo check`; if root may not read it either, see in `dmesg` what is wrong with the disk"
                }
                _ => "the daemon puts it in order at its next start",
            };
            Finding::warn("clock", format!("{defect} (in {})", paths.state_dir.display())).advice(advice)
        }))?;
        let made_by = match runs {
            true => "it was deleted or moved under the running gateway: put it back, or restart the gateway",
            false => "the gateway's first start makes it",
        };
        // Systemd makes that of the service.
        let may_be_refused = !report.context.is_packaged() && !paths.state_dir.exists();
        let refused = may_be_refused
            .then(|| system::refused("state directory", &paths.state_dir, "[paths] state-dir"))
            .flatten();
        let folder = || system::folder("state directory", &paths.state_dir, made_by);
        let mut found = refused.filter(|_| !runs).unwrap_or_else(folder);
        if runs && !paths.state_dir.exists() {
            let message = format!("{} is not there any more", paths.state_dir.display());
            found = Finding::fail("state directory", message).advice(made_by);
        }
        report.add([found])?;
    }
    report.add(service::state_dir(paths))?;
    report.add(system::disk(settings))?;
    if let Some(tls) = settings.upstream.as_ref().and_then(|upstream| upstream.tls.as_ref()) {
        report.add(credential::identity(tls, &*clock))?;
        report.add(secrets::lists(tls, &*clock))?;
        report.add(secrets::token(Some(tls), !arguments.offline))?;
    }
    let told: Result<plan::Told, _> =
        report.context.daemon().and_then(|mut daemon| daemon.ask_for(&Request::CertStatus {}, ANSWER));
    let running = plan::Running {
        told: told.as_ref().ok(),
        may_run: !matches!(told, Err(ClientError::NotRunning { .. })),
        start: report.context.start_hint(),
    };
    report.add(patiently("asking where certificates come from", || {
        plan::judge(settings, clock.clone(), arguments.offline, &running)
    }))?;
    report.add(secrets::modes(settings))?;
    let options = report.context.options();
    let read = crate::config::io::texts(&options);
    let (shown, _) = crate::config::show::show(&read.layers, &options.environment);
    report.add(secrets::credentials(&shown))?;
    report.add(drop_ins::judge(paths))?;
    report.add(device::judge(loaded, &*clock))?;
    report.add(mqtt::certificates(&settings.mqtt, &*clock))?;
    report.add(serial::ports(settings))?;
    let judged: Arc<dyn crate::clock::WallClock> = clock.clone();
    report
        .add(patiently("looking for newer firmware", || update::judge(loaded, &judged, arguments.offline)))?;
    let (daemon, may_run) = connect(report)?;
    let running = daemon.is_some();
    report.next = Some(match (running, &settings.upstream) {
        (_, None) => report.context.hint("init --url mqtts://BROKER"),
        (false, _) if may_run => report.context.hint("check"),
        (false, _) => report.context.start_hint(),
        (true, _) if loaded.known.is_empty() && closed.is_none() => {
            report.context.hint("device add ID --role ROLE --psk")
        }
        (true, _) => report.context.hint("tail"),
    });
    // One that may not be asked may be connected all the same, and keeps its place.
    let mut way = uplink::Known { beside: may_run, ..uplink::Known::default() };
    match daemon {
        Some(mut daemon) => way = ask(report, loaded, &mut daemon, arguments)?,
        None if may_run => {}
        None => {
            if !report.context.is_packaged() && system::is_own(&paths.state_dir) {
                report.add(system::refused(
                    "runtime directory",
                    &paths.runtime_dir,
                    "[paths] runtime-dir",
                ))?;
            }
            let ports = system::ports(settings);
            // Perhaps by a gateway whose control socket is elsewhere or gone: it keeps its place,
            // too.
            way.beside = ports.held;
            report.add(ports.findings)?;
            report.add(mqtt::listeners(&settings.mqtt, paths, &[]))?;
            report.add(metrics::judge(&settings.metrics.listen, ""))?;
        }
    }
    match &settings.upstream {
        Some(_) if arguments.offline => report
            .add([Finding::warn("upstream", "not looked at: --offline")
                .advice("leave it out to try the broker")]),
        Some(upstream) => {
            let untried = untried(report.context, loaded, upstream);
            report.add(unnamed(settings, upstream).filter(|_| untried.is_none()))?;
            let what = "trying the broker";
            let may_try = untried.is_none();
            let context = report.context;
            let connect = || context.daemon();
            let steps =
                patiently(what, || uplink::walk(loaded, upstream, clock.clone(), &way, untried, &connect));
            let works = way.own_proven || steps.iter().all(|finding| finding.level != Level::Fail);
            report.add(steps)?;
            if may_try && works {
                let what = "trying the client id for probes";
                let probe = || uplink::probe_id(upstream, clock);
                let (found, ended) = patiently(what, || uplink::beside(&way, upstream, &connect, probe));
                report.add(found.into_iter().chain(ended))?;
            }
            Ok(())
        }
        None => Ok(()),
    }
}

/// Why the broker is not tried by this user: it would be with another client id, or without the
/// credentials.
fn untried(context: &Context, loaded: &Loaded, upstream: &northbound::Settings) -> Option<Finding> {
    let gateway = &loaded.settings.gateway;
    let nameless = loaded
        .state
        .closed
        .as_ref()
        .filter(|_| gateway.id_source == IdSource::Missing && upstream.client_id == gateway.id.as_str());
    let message = match (nameless, credential::closed(upstream)) {
        (Some(closed), _) => format!(
            "the broker is not tried: the gateway's client id is in {}, which this user may not read",
            closed.display()
        ),
        (None, Some(file)) => {
            format!("the broker is not tried: {} may not be read by this user", file.display())
        }
        (None, None) => return None,
    };
    Some(Finding::fail("upstream", message).advice(context.rights_hint("check")))
}

/// Before its first start a gateway has no id, which is its client id and part of its topics.
fn unnamed(settings: &Settings, upstream: &northbound::Settings) -> Option<Finding> {
    if settings.gateway.id_source != IdSource::Missing {
        return None;
    }
    let message = format!(
        "it gets its id at its first start, and this check tries the broker with the client id {} instead",
        upstream.client_id
    );
    Some(Finding::warn("gateway", message).advice("[gateway] id gives it one now"))
}

/// What the running daemon says about itself, and about the files.
fn ask(
    report: &mut Report<'_>,
    loaded: &Loaded,
    daemon: &mut Client,
    arguments: &CheckArguments,
) -> Result<uplink::Known, CommandError> {
    let context = report.context;
    let (reload, restart) = (context.hint("reload"), context.restart_hint());
    let asked = daemon.ask_for::<Status>(&Request::Status {}, ANSWER);
    let compared = match &asked {
        Ok(_) => patiently("asking the running gateway about the files", || {
            running::compare(daemon, loaded, &reload, &restart)
        }),
        Err(_) => running::Compared::default(),
    };
    match asked {
        Ok(mut status) => {
            // That of the files is judged above.
            let is_judged = |finding: &Finding| {
                finding.level == Level::Fail && finding.key.as_deref() == Some("mqtt.certificate-file")
            };
            if report.findings.iter().any(is_judged) {
                status.problems.retain(|problem| !problem.starts_with(OUT_OF_DATE));
            }
            // That it lacks one is among its problems.
            let lacks =
                |problem: &String| [NOT_LISTENING, NOT_EXPORTED].iter().any(|of| problem.starts_with(of));
            let ports = if status.problems.iter().any(lacks) { "" } else { " and has its ports" };
            report.add([Finding::ok("daemon", format!("tombolo {} runs{ports}", status.gateway.version))])?;
            let here = env!("CARGO_PKG_VERSION");
            if status.gateway.version != here {
                report.add([Finding::warn(
                    "daemon",
                    format!("it is version {}, this command {here}", status.gateway.version),
                )
                .advice(restart.clone())])?;
            }
            if let Some(reason) = &status.journal.failing {
                report.add([Finding::fail("journal", format!("takes no readings: {reason}"))
                    .advice("see the disk's findings, and `journalctl -u tombolo`")])?;
            }
            report.add(state::told(&status, loaded, &compared, &reload))?;
            report.add(serial::told(&status, &loaded.settings.serial))?;
            let other = mqtt::listeners(&loaded.settings.mqtt, &loaded.settings.paths, &status.mqtt.listen);
            report.add(other)?;
            // An older daemon does not list devices.
            if let Ok(devices) = super::device::running::ask(context, None) {
                report.add(refusal::told(&devices))?;
            }
            if status.upstream.configured != loaded.settings.upstream.is_some() {
                report.add([Finding::warn(
                    "daemon",
                    "it does not use the upstream that is configured in the files",
                )
                .advice(format!("run {reload}"))])?;
                report.next = Some(reload.clone());
            }
        }
        Err(error) => {
            report.add([Finding::fail("daemon", error.to_string())])?;
            return Ok(uplink::Known { beside: true, ..uplink::Known::default() });
        }
    }
    if !compared.findings.is_empty() {
        report.next = Some(if compared.restart { restart } else { reload });
    }
    // Those that it serves now are its own.
    let metrics = compared.findings.iter().find(|finding| finding.key.as_deref() == Some("metrics.listen"));
    let metrics = metrics.map(|finding| metrics::judge(&loaded.settings.metrics.listen, &finding.message));
    report.add(compared.findings)?;
    report.add(metrics.into_iter().flatten())?;
    let paths = &loaded.settings.paths;
    report.add(compared.listeners.into_iter().map(|address| system::other_port(address, paths)))?;
    if arguments.offline || loaded.settings.upstream.is_none() {
        return Ok(uplink::Known::default());
    }
    let prefix = &loaded.settings.gate.prefix;
    let (findings, standing) =
        patiently("asking the running gateway to publish", || uplink::ask(daemon, prefix));
    report.add(findings)?;
    let same = standing.connected && !compared.upstream;
    let is_bound = loaded.settings.upstream.as_ref().is_some_and(northbound::Settings::may_be_bound);
    let mut doubt = standing.doubt;
    if !same {
        // What is tried by the files says nothing about this connection.
        report.add(doubt.take().map(|doubt| doubt.resolve(false)))?;
    }
    Ok(uplink::Known {
        answers: true,
        through_gateway: same && is_bound,
        own_proven: same && standing.proves,
        // Connected or about to connect: its client id is its own.
        beside: standing.configured && !compared.renamed,
        files_changed: compared.files && standing.connected,
        taken: if same { standing.taken } else { Vec::new() },
        doubt,
    })
}

/// The running daemon, if there is one, and whether one may run that cannot be asked, which is a
/// finding.
fn connect(report: &mut Report<'_>) -> Result<(Option<Client>, bool), CommandError> {
    match report.context.daemon() {
        Ok(daemon) => Ok((Some(daemon), true)),
        Err(ClientError::NotRunning { .. }) => {
            let start = report.context.start_hint();
            report.add([
                Finding::warn("daemon", "tombolo is not running: no reading is received").advice(start)
            ])?;
            Ok((None, false))
        }
        Err(error) => {
            report.add([Finding::warn("daemon", error.to_string())])?;
            Ok((None, true))
        }
    }
}

/// Findings, printed as they come: a check that waits for the network shows what it has.
pub(super) struct Report<'a> {
    context: &'a Context,
    findings: Vec<Finding>,
    /// The command that comes after a check without a fail.
    next: Option<String>,
}

impl Report<'_> {
    /// Prints and keeps.
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> Result<(), CommandError> {
        for finding in findings.into_iter().map(super::localised) {
            if !self.context.out.json {
                self.context.out.line(crate::cli::colour::finding(&finding))?;
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
                _ => Some(format!("correct what fails, then {}", self.context.hint("check"))),
            };
            let next = next.map(|next| format!("; next: {next}")).unwrap_or_default();
            super::note(format!("{fail} fail, {warn} warn{next}"));
        }
        if fail > 0 { Err(CommandError::Said) } else { Ok(()) }
    }
}
