//! A reload: parsed and judged off the path's thread, then taken over whole, or not at all.
//!
//! A file that does not parse, or a changed key that only a restart can take up, refuses the whole
//! reload and is named; the gateway goes on as it was. A damaged file of the state directory
//! refuses nothing: its last good version stays.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::timeout;

use super::link::{Link, Proof};

use crate::clock::WallClock;
use crate::config::io::Options;
use crate::config::reload::{Changes, compare};
use crate::config::{Finding, Level, Loaded};
use crate::gate::Prepared;
use crate::northbound::io::files::{Fingerprints, fingerprint, fingerprints, load};
use crate::northbound::io::transport::unread;
use crate::proto::dtls::Keyring;

/// A configuration ready to be taken over, its rules compiled.
pub struct Ready {
    /// The new configuration.
    pub loaded: Loaded,
    /// What is different.
    pub changes: Changes,
    /// The gate's share, compiled.
    pub prepared: Prepared,
    /// All keys.
    pub keyring: Keyring,
    /// What is in the files that the upstream names.
    pub upstream_files: Option<u64>,
    /// What is in those of them that the operator provides.
    pub given: Option<Fingerprints>,
    /// Why they are of no use, if they are not.
    pub unusable: Option<String>,
    /// Whether the broker lets us in with them, where they were changed under a connection.
    pub proof: Proof,
}

/// What reading all files may take.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// How it ended: something to take over, or what is wrong.
pub type Outcome = Result<Box<Ready>, Vec<Finding>>;

/// Begins to read and judge, and to try changed files of the upstream at the broker.
pub fn begin(
    options: Options,
    running: Arc<Loaded>,
    clock: Arc<dyn WallClock>,
    link: Rc<Link>,
) -> JoinHandle<Outcome> {
    spawn_local(async move {
        let before = running.settings.upstream.clone();
        let mut ready = read(options, running, clock, READ_WITHIN).await?;
        // Another upstream is connected to anew, which shows it.
        if let Some(given) = ready.given.filter(|_| ready.loaded.settings.upstream == before)
            && ready.unusable.is_none()
            && ready.changes.renamed_from.is_none()
        {
            ready.proof = link.prove_files(given).await;
        }
        Ok(ready)
    })
}

/// A file that cannot be read to its end holds up this reload, and no later one.
async fn read(
    options: Options,
    running: Arc<Loaded>,
    clock: Arc<dyn WallClock>,
    within: Duration,
) -> Outcome {
    let broken = |text: String| Err(vec![Finding::fail("reload", text)]);
    let reading = spawn_blocking(move || {
        let loaded = crate::config::io::load_to_reload(&options, &running)?;
        let changes = compare(&running, &loaded)?;
        let prepared = Prepared::from(loaded.settings.gate.clone());
        let keyring = super::engine::keyring(&loaded.settings.gate);
        let upstream_files = loaded.settings.upstream.as_ref().map(fingerprint);
        let given = loaded.settings.upstream.as_ref().map(fingerprints);
        let unusable = loaded.settings.upstream.as_ref().and_then(|upstream| load(upstream, clock).err());
        let proof = Proof::NotNeeded;
        Ok(Box::new(Ready { loaded, changes, prepared, keyring, upstream_files, given, unusable, proof }))
    });
    match timeout(within, reading).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => broken(format!("it broke off: {error}")),
        Err(_) => broken(unread(within)),
    }
}

/// The first failing finding in one sentence, for whoever asked for the reload.
pub fn summary(findings: &[Finding]) -> String {
    let mut failing = findings.iter().filter(|finding| finding.level == Level::Fail);
    let first = failing.next().map(Finding::sentence).unwrap_or_else(|| "nothing was found".to_owned());
    match failing.count() {
        0 => first,
        more => format!("{first} (and {more} more; `tombolo check` shows them)"),
    }
}
