//! What is kept with the state: files that are damaged, cannot be read, or were set aside.

use crate::config::state::io::set_aside;
use crate::config::{Finding, Loaded};
use crate::control::snapshot::Status;
use crate::southbound::coap::sessions::log::DAMAGED;

/// What the files show.
pub fn judge(loaded: &Loaded) -> Vec<Finding> {
    let state = &loaded.state;
    let mut findings = state.problems.clone();
    findings.extend(state.events.iter().cloned());
    let sessions = loaded.settings.paths.state_dir.join("sessions");
    let mut aside = set_aside(&sessions);
    aside.extend(sessions.join(DAMAGED).exists().then(|| DAMAGED.to_owned()));
    findings.extend(aside.into_iter().map(|name| {
        let message = format!(
            "{} was damaged and set aside; the devices it was about shake hands anew, and nothing else is lost",
            sessions.join(name).display()
        );
        Finding::warn("DTLS sessions", message).advice("see in `dmesg` whether the disk fails, then delete it")
    }));
    if findings.is_empty() {
        findings.push(Finding::ok("state", "its files are in order"));
    }
    findings
}

/// What the running daemon knows beside that.
pub fn told(status: &Status, loaded: &Loaded) -> Vec<Finding> {
    let is_known =
        |problem: &&String| loaded.state.problems.iter().any(|known| known.sentence() == **problem);
    let mut findings: Vec<Finding> = status
        .problems
        .iter()
        .filter(|problem| !is_known(problem))
        .map(|problem| Finding::fail("daemon", problem.clone()))
        .collect();
    if let Some(failing) = &status.session_store.failing {
        let message = format!("not stored: {failing}; after a restart devices shake hands anew");
        findings.push(Finding::warn("DTLS sessions", message).advice("see `journalctl -u tombolo`"));
    }
    findings
}
