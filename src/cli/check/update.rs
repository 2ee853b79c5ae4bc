//! Whether newer firmware would be found: the repository, what proves it, what apt knows.

use std::sync::Arc;

use crate::clock::WallClock;
use crate::config::{Finding, Level, Loaded};
use crate::update::check::{Fault, root_ends};
use crate::update::eligibility::{Decision, Objections};
use crate::update::image::IMAGE;
use crate::update::io::answer::{self, Fetching, Found, Question};
use crate::update::io::download::admits;
use crate::update::io::floor::on_disk;
use crate::update::io::room::{free_bytes, kept_free};
use crate::update::io::root::Refused;
use crate::update::io::untrusted::Folder;
use crate::update::io::{backend, history, root};
use crate::update::offer::Offer;
use crate::update::settings::{Backend, Source};
use crate::update::status::{State, Status};

/// Looks for it as the daemon would; with `offline` only at the files.
pub fn judge(loaded: &Loaded, clock: &Arc<dyn WallClock>, offline: bool) -> Vec<Finding> {
    let settings = &loaded.settings.update;
    let mut findings = Vec::new();
    if settings.source == Source::None {
        return findings;
    }
    // What the files say is named already, with its line.
    let is_new = |finding: &Finding| {
        let is_it = |known: &Finding| {
            known.key == finding.key && known.message == finding.message && known.key.is_some()
        };
        !loaded.findings.iter().any(is_it)
    };
    findings.extend(installer(loaded).into_iter().filter(is_new));
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
    let has_image = loaded.settings.paths.update().join(IMAGE).exists();
    let stands = |refused: &&Refused| settings.backend != Backend::None && refused.stands(has_image);
    if let Some(refused) = public.refusal.as_ref().filter(stands) {
        let finding = Finding::warn("update", format!("what installs refused it: {}", refused.reason));
        findings.push(finding.advice("`sudo tombolo update apply` tries again"));
    }
    if let Some(damage) = &public.damage {
        findings.push(Finding::warn("update", format!("{}: {damage}", folder.display())));
    }
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
    let is_missing = |known: &Finding| {
        let key = known.key.as_deref().unwrap_or_default();
        known.level == Level::Fail && matches!(key, "update.root-file" | "update.ca-file")
    };
    if loaded.findings.iter().any(is_missing) {
        return findings;
    }
    let question = Question {
        settings: settings.clone(),
        gateway: loaded.settings.gateway.id.clone(),
        folder: loaded.settings.paths.update(),
        objections,
        clock: clock.clone(),
        fetching: Fetching::Here,
        daemon: None,
        raises: true,
        dropped: Arc::default(),
    };
    let answer = answer::answer(&question);
    findings.extend(answer.damage.map(|damage| Finding::warn("update", damage)));
    let mut status = Status::new(None);
    if let Some(text) = answer
        .verified
        .as_ref()
        .map(|metadata| metadata.root_until)
        .and_then(|until| root_ends(until, answer.at))
    {
        findings.push(Finding::warn("update", text).advice("tell the repository's owner"));
    }
    if let Ok(Found::Tuf(Decision::Available(offer))) = &answer.result
        && settings.fetches()
        && let Some(why) = obstacle(loaded, offer)
    {
        let finding = Finding::fail(
            "update",
            format!("the image of version {} cannot be fetched: {why}", offer.version),
        );
        findings
            .push(finding.advice("nothing newer is installed until then; the gateway tries again each hour"));
    }
    let finding = match answer.result {
        Ok(Found::Tuf(decision)) => {
            status.handle_decision(&decision, answer.installed, answer.at);
            judged(&status, format!("the repository verifies: {}", said(&status)))
        }
        Ok(Found::Apt(candidate)) => {
            status.handle_candidate(&candidate, system_package(), answer.installed, answer.at);
            match status.state {
                State::Stale | State::Error => Finding::warn("update", said(&status))
                    .key("update.source")
                    .advice("see to it that `apt update` is run, or set source = \"none\""),
                _ => judged(&status, format!("apt was asked: {}", said(&status))),
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
        Err(fault) => Finding::fail("update", fault.to_string()).advice("correct [update], or what it names"),
    };
    findings.push(finding);
    findings
}

/// What keeps the gateway from fetching that image, of what lies here.
fn obstacle(loaded: &Loaded, offer: &Offer) -> Option<String> {
    let paths = &loaded.settings.paths;
    // One that is not there is made; what else is in its place is named elsewhere.
    let folder = Folder::open(&paths.state_dir, answer::FOLDER).ok()?;
    let reserve = kept_free(loaded.settings.update.reserve, &paths.journal());
    let admitted = admits(|| on_disk(folder.path()), free_bytes(folder.path()), offer, reserve);
    let held = folder.path().display().to_string();
    admitted.err().map(|why| why.to_string().replace(&held, &paths.update().display().to_string()))
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
        Ok(backend) => vec![match backend.answers() {
            Ok(()) => Finding::ok("update", format!("{} installs what is found", backend.name())),
            Err(why) => {
                let name = backend.name();
                let finding = Finding::fail("update", format!("{name} installs nothing as it is: {why}"));
                finding
                    .key("update.backend")
                    .advice(format!("`{name} status` says more; see to it that it works as root"))
            }
        }],
        Err(why) => vec![Finding::fail("update", why).key("update.backend").advice("see docs/updates.md")],
    }
}

/// An answer, by whether anything could follow from it.
fn judged(status: &Status, text: String) -> Finding {
    if status.installed.is_some() {
        return Finding::ok("update", text);
    }
    let text = match text.contains("installed version is not known") {
        true => text,
        false => format!("{text}; the installed version is not known, so no version is newer"),
    };
    Finding::warn("update", text)
        .advice("put a line IMAGE_VERSION=2.4.1, with the image's version, into /etc/os-release of the image")
}

fn system_package() -> &'static str {
    crate::update::io::system::PACKAGE
}

fn said(status: &Status) -> String {
    let version =
        status.available.as_ref().map(|available| format!("version {} is available", available.version));
    version.or_else(|| status.reason.clone()).unwrap_or_else(|| "nothing newer".to_owned())
}
