//! What a reload would find, told without taking it over: for `tombolo check`.
//!
//! Read here and not by the command, because this process sees the files as the service does: with
//! its user, behind `ProtectHome=` and `PrivateTmp=`, with its credentials.

use std::sync::Arc;

use super::link::UsedFiles;
use crate::clock::WallClock;
use crate::config::difference::differences;
use crate::config::io::{Options, load_to_compare};
use crate::config::reload::compare;
use crate::config::{Finding, Level, Loaded};
use crate::control::api::Reply;
use crate::control::snapshot::{ConfigCheck, ConfigDifference};
use crate::credential::io::watch::PairFiles;
use crate::northbound::io::files;
use crate::proto::dtls::server::ServerKey;

/// Answers off the path's thread. `used`: the files of the upstream in use. `served`: the key that
/// handshakes of devices have, which may have come into use since the last reload. `watched`: files
/// whose pair is taken up by itself.
pub fn answer(
    options: Options,
    running: Arc<Loaded>,
    clock: Arc<dyn WallClock>,
    used: UsedFiles,
    (served, watched): (Option<Arc<ServerKey>>, Vec<WatchedPair>),
    reply: Reply,
) {
    tokio::task::spawn_blocking(move || {
        let mut found = look(&options, &running, clock.clone(), used, served);
        found.watched = watched.iter().filter_map(|pair| pair.differs(&*clock)).collect();
        reply.ok(&found);
    });
}

/// The pair of files that another program renews for the broker.
#[derive(Clone, Debug)]
pub struct WatchedPair {
    /// The certificate's name.
    pub name: &'static str,
    /// The files.
    pub files: PairFiles,
    /// The pair in use and the one on trial, as
    /// [`Held::print`](crate::credential::store::Held::print).
    pub known: [Option<u64>; 2],
}

impl WatchedPair {
    /// Whether the files have another pair by now, in words. What is no pair is named by the check
    /// itself. It blocks.
    fn differs(&self, clock: &dyn WallClock) -> Option<String> {
        let held = self.files.read(clock.wall()).ok()?;
        (!self.known.contains(&Some(held.print()))).then(|| {
            format!(
                "certificate {}: its files have another pair than the one in use, which is proven before it is used, some \
                 seconds after their last change",
                self.name
            )
        })
    }
}

fn look(
    options: &Options,
    running: &Loaded,
    clock: Arc<dyn WallClock>,
    used: UsedFiles,
    served: Option<Arc<ServerKey>>,
) -> ConfigCheck {
    let coap = &running.settings.coap;
    let plain = coap.insecure.iter().flat_map(|(addresses, _)| addresses);
    let listening = coap.listen.iter().chain(plain).map(ToString::to_string).collect();
    let mut found = ConfigCheck { listening, ..ConfigCheck::default() };
    let loaded = match load_to_compare(options, running) {
        Ok(loaded) => loaded,
        Err(findings) => {
            found.refused = failing(&findings);
            return found;
        }
    };
    found.failing = failing(&loaded.findings);
    found.repaired = repaired(running, &loaded);
    found.differences = differences(running, &loaded, served)
        .into_iter()
        .map(|it| ConfigDifference { key: it.key, running: it.running, restart: it.restart })
        .collect();
    if let Err(findings) = compare(running, &loaded) {
        found.refused = failing(&findings);
    }
    if let Some(upstream) = &loaded.settings.upstream {
        found.upstream_files_changed = running.settings.upstream == loaded.settings.upstream
            && !used.has(&files::fingerprints(upstream));
        // A pair that is named as such, and does not keep connections from coming about.
        let serves = || {
            running.settings.upstream == loaded.settings.upstream
                && used.last_pair_serves(upstream, clock.clone())
        };
        found.upstream_files = files::load(upstream, clock.clone()).err().filter(|_| !serves());
    }
    found
}

/// What fails in the running configuration, and does not in what a reload would take up.
fn repaired(running: &Loaded, files: &Loaded) -> Vec<String> {
    let all = |loaded: &Loaded| -> Vec<Finding> {
        let found = loaded.findings.iter().chain(&loaded.state.problems);
        found.filter(|finding| finding.level == Level::Fail).cloned().collect()
    };
    let still = all(files);
    // Their words may differ: a last good version may be in use now. Another fault on the same line
    // or of the same item may be what is left of it.
    let same = |a: &Finding, b: &Finding| {
        let is_same_line = a.file == b.file && a.line.is_some() && a.line == b.line;
        // `role sensor`, `device door-7`
        let is_same_item = a.subject == b.subject && a.subject.contains(' ');
        (&a.subject, &a.key, &a.file) == (&b.subject, &b.key, &b.file) || is_same_line || is_same_item
    };
    let over = all(running).into_iter().filter(|was| !still.iter().any(|is| same(was, is)));
    over.map(|finding| finding.sentence()).collect()
}

/// Those of level fail, without the level.
fn failing(findings: &[Finding]) -> Vec<String> {
    findings.iter().filter(|finding| finding.level == Level::Fail).map(Finding::sentence).collect()
}
