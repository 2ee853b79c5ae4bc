//! What the files say now, held against what the running gateway uses.
//!
//! The daemon reads them for this, as the service does: with its user, in its sandbox.

use std::net::SocketAddr;

use crate::config::{Finding, Loaded, Settings};
use crate::control::io::client::{Client, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::control::snapshot::ConfigCheck;
use crate::northbound::io::files::WAITS;

/// What follows for the other parts of the check.
#[derive(Debug, Default)]
pub struct Compared {
    /// What is wrong, and what differs.
    pub findings: Vec<Finding>,
    /// The uplink has to be tried as the files have it.
    pub upstream: bool,
    /// Those that it names were changed since the connection was made.
    pub files: bool,
    /// The files name another client id than the running gateway uses.
    pub renamed: bool,
    /// Only a restart takes up what differs.
    pub restart: bool,
    /// The files can be taken up: nothing in them would refuse a reload or fail.
    pub acceptable: bool,
    /// What the running gateway says fails, and does not any more in the files.
    pub repaired: Vec<String>,
    /// Addresses in the files that the running gateway has not bound.
    pub listeners: Vec<SocketAddr>,
}

/// Asks the daemon. One that is older knows no answer: then only what `status` shows is compared.
pub fn compare(daemon: &mut Client, loaded: &Loaded, reload: &str, restart: &str) -> Compared {
    match daemon.ask_for::<ConfigCheck>(&Request::ConfigCheck {}, SLOW_ANSWER) {
        Ok(found) => judge(&found, loaded, reload, restart),
        Err(_) => Compared::default(),
    }
}

fn judge(found: &ConfigCheck, loaded: &Loaded, reload: &str, restart: &str) -> Compared {
    let mut compared = Compared {
        acceptable: found.refused.is_empty(),
        repaired: found.repaired.clone(),
        ..Compared::default()
    };
    let needs_restart = found.differences.iter().any(|difference| difference.restart);
    for difference in &found.differences {
        let message = match difference.running.as_str() {
            "" => "the running gateway still uses what it was before".to_owned(),
            none if none.starts_with("no such ") => "the running gateway does not have it yet".to_owned(),
            running => format!("the running gateway still uses {running}"),
        };
        let advice = match (difference.restart, needs_restart) {
            (true, _) => format!("a reload cannot take this up: {restart}"),
            (false, true) => format!("{restart}; that takes it up with the rest"),
            (false, false) => format!("run {reload}"),
        };
        compared.findings.push(Finding::warn("daemon", message).key(&difference.key).advice(advice));
        compared.upstream |=
            ["upstream.", "topics", "gateway.id"].iter().any(|key| difference.key.starts_with(key));
        compared.renamed |= difference.key == "upstream.client-id";
    }
    compared.restart = needs_restart;
    // That a key needs a restart is said above.
    if !needs_restart {
        compared.findings.extend(found.refused.iter().map(|reason| {
            Finding::fail("daemon", format!("a reload would be refused: {reason}"))
                .advice("the gateway goes on with what it has until that is corrected")
        }));
    }
    let known = |sentence: &String| {
        // An advice may be another for the service, which may have an earlier version of a file.
        let is_it = |finding: &Finding| {
            let own = Finding { advice: String::new(), ..finding.clone() }.sentence();
            sentence.starts_with(&own)
        };
        loaded.findings.iter().any(is_it)
    };
    let unknown: Vec<_> = found.failing.iter().filter(|sentence| !known(sentence)).collect();
    let message = |sentence: &String| format!("as the service sees it: {sentence}");
    compared.findings.extend(unknown.iter().map(|sentence| Finding::fail("daemon", message(sentence))));
    if let Some(reason) = found.upstream_files.as_ref().filter(|_| unknown.is_empty())
        && !reason.starts_with(WAITS)
    {
        compared.findings.push(
            Finding::fail("daemon", format!("the service cannot use the files of [upstream]: {reason}"))
                .advice("correct them; the connection that stands goes on until it breaks"),
        );
    }
    compared.findings.extend(found.watched.iter().map(|what| {
        Finding::warn("daemon", what.clone()).advice("check again then; `tombolo cert status` shows it")
    }));
    if found.upstream_files_changed {
        let message = "files that [upstream] names have changed; the running gateway uses them from its next connection on";
        compared
            .findings
            .push(Finding::warn("daemon", message).advice(format!("{reload} has them tried at the broker")));
        (compared.upstream, compared.files) = (true, true);
    }
    let bound: Vec<SocketAddr> = found.listening.iter().filter_map(|text| text.parse().ok()).collect();
    compared.listeners = addresses(&loaded.settings).filter(|address| !bound.contains(address)).collect();
    compared
}

/// All addresses that the files name.
fn addresses(settings: &Settings) -> impl Iterator<Item = SocketAddr> + '_ {
    let plain = settings.coap.insecure.iter().flat_map(|(addresses, _)| addresses);
    settings.coap.listen.iter().chain(plain).copied()
}
