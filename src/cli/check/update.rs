//! Whether newer firmware would be found: the repository, what proves it, what apt knows.

use std::sync::Arc;

use crate::clock::WallClock;
use crate::config::{Finding, Loaded};
use crate::update::check::Fault;
use crate::update::eligibility::Objections;
use crate::update::io::answer::{self, Found, Question};
use crate::update::io::{backend, history, root};
use crate::update::settings::{Backend, Source};
use crate::update::status::{State, Status};

/// Looks for it as the daemon would; with `offline` only at the files.
pub fn judge(loaded: &Loaded, clock: &Arc<dyn WallClock>, offline: bool) -> Vec<Finding> {
    let settings = &loaded.settings.update;
    let mut findings = Vec::new();
    if settings.source == Source::None {
        return findings;
    }
    findings.extend(installer(loaded));
    let folder = loaded.settings.paths.update_root();
    if let Some(reason) = root::closed(&folder).filter(|_| settings.backend != Backend::None) {
        let finding = Finding::warn("update", reason);
        findings.push(finding.advice("nothing is installed until then: make room there"));
    }
    let public = root::read(&folder);
    if let Err(reason) = &public {
        let finding = Finding::fail("update", format!("what was installed cannot be read: {reason}"));
        findings.push(finding.advice("nothing is installed until then; run `sudo tombolo check`"));
    }
    let public = public.unwrap_or_default();
    let objections = match history::read_below(&loaded.settings.paths.state_dir, answer::FOLDER) {
        Ok(mut history) => {
            history.join(&public.history);
            Objections { is_held: history.held, denied: history.denied, floor: public.floor.clone() }
        }
        Err(reason) => {
            let finding = Finding::fail("update", format!("the history of updates cannot be read: {reason}"));
            findings.push(finding.advice("nothing is fetched; run `sudo tombolo check`, or delete it"));
            Objections::default()
        }
    };
    if matches!(settings.source, Source::Tuf(_)) {
        if offline {
            findings.push(
                Finding::warn("update", "the repository is not asked: --offline")
                    .advice("leave it out to try the repository"),
            );
            return findings;
        }
        if !clock.trusted() {
            let finding =
                Finding::warn("update", "the repository is not asked while the clock is not trusted");
            findings.push(finding.advice("`tombolo clock` says why"));
            return findings;
        }
    }
    let question = Question {
        settings: settings.clone(),
        gateway: loaded.settings.gateway.id.clone(),
        folder: loaded.settings.paths.update(),
        objections,
        clock: clock.clone(),
        keeps_within: false,
    };
    let answer = answer::answer(&question);
    let mut status = Status::new(None);
    let finding = match answer.result {
        Ok(Found::Tuf(decision)) => {
            status.handle_decision(&decision, answer.installed, answer.at);
            Finding::ok("update", format!("the repository verifies: {}", said(&status)))
        }
        Ok(Found::Apt(candidate)) => {
            status.handle_candidate(&candidate, system_package(), answer.installed, answer.at);
            match status.state {
                State::Stale | State::Error => Finding::warn("update", said(&status))
                    .key("update.source")
                    .advice("see to it that `apt update` is run, or set source = \"none\""),
                _ => Finding::ok("update", format!("apt was asked: {}", said(&status))),
            }
        }
        Err(fault @ Fault::Unreachable(_)) => {
            Finding::warn("update", fault.to_string()).advice("the gateway tries again by itself")
        }
        Err(fault @ Fault::Stale { .. }) => Finding::fail("update", fault.to_string())
            .advice("tell the repository's owner: it has to be signed anew"),
        Err(fault @ (Fault::Invalid(_) | Fault::Rollback(_) | Fault::Fork(_))) => {
            Finding::fail("update", fault.to_string()).advice(
                "nothing of it is used; if the repository is as its owner made it, see docs/updates.md",
            )
        }
        // What this user may not read or write, the service may.
        Err(fault) if loaded.state.closed.is_some() => {
            Finding::warn("update", fault.to_string()).advice("run `sudo tombolo check`")
        }
        Err(fault) => {
            Finding::fail("update", fault.to_string()).advice("correct [update], or run it as root")
        }
    };
    findings.push(finding);
    findings
}

/// Whether what installs would do it: by its own settings, and with its program.
fn installer(loaded: &Loaded) -> Vec<Finding> {
    let paths = &loaded.settings.paths;
    let backend = loaded.settings.update.backend;
    if backend == Backend::None {
        return Vec::new();
    }
    let options = crate::config::io::Options::new(&paths.config_file);
    let trusted = match crate::config::io::load_update(&options) {
        Ok(trusted) => trusted,
        Err(findings) => return findings,
    };
    if trusted.update.backend != backend {
        let message =
            "is set where what installs does not read it: below the state directory, or in the environment";
        let finding = Finding::fail("update", message).key("update.backend");
        return vec![finding.advice("set it below /etc/tombolo, in a file of root's")];
    }
    match backend::open(backend, &paths.update_root(), &paths.config_file) {
        Ok(backend) => vec![Finding::ok("update", format!("{} installs what is found", backend.name()))],
        Err(why) => vec![Finding::fail("update", why).key("update.backend").advice("see docs/updates.md")],
    }
}

fn system_package() -> &'static str {
    crate::update::io::system::PACKAGE
}

fn said(status: &Status) -> String {
    let version =
        status.available.as_ref().map(|available| format!("version {} is available", available.version));
    version.or_else(|| status.reason.clone()).unwrap_or_else(|| "nothing newer".to_owned())
}
