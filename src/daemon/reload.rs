//! A reload: parsed and judged off the path's thread, then taken over whole, or not at all.
//!
//! A file that does not parse, or a changed key that only a restart can take up, refuses the whole
//! reload and is named; the gateway goes on as it was. A damaged file of the state directory
//! refuses nothing: its last good version stays. Nor does it cost the revocation lists that were
//! fetched: those in use stay so, whatever the disk has of them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::timeout;

use super::link::{Link, Proof, UsedFiles};

use crate::clock::WallClock;
use crate::config::audit::{IdentityChange, identity_changes};
use crate::config::difference::beside_registry;
use crate::config::io::Options;
use crate::config::reload::{Changes, compare};
use crate::config::{Finding, Level, Loaded, Settings};
use crate::credential::revocation::Side;
use crate::gate::Prepared;
use crate::northbound;
use crate::northbound::io::files::{Fingerprints, fingerprint, fingerprints, load};
use crate::northbound::io::kept;
use crate::northbound::io::transport::unread;
use crate::northbound::revocation::parse;
use crate::proto::dtls::Keyring;
use crate::proto::dtls::server::ServerKey;

/// A configuration ready to be taken over, its rules compiled.
pub struct Ready {
    /// The new configuration.
    pub loaded: Loaded,
    /// What is different.
    pub changes: Changes,
    /// The keys that differ, but for the devices of the registry.
    pub beside_registry: Vec<String>,
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
    /// Certificate and key are of no use, but the pair before serves new connections: why.
    pub kept: Option<String>,
    /// The fetched lists of `[coap]` that were in use when it was judged, PEM.
    pub device_lists: Option<Arc<[u8]>>,
    /// Devices and keys that it adds, removes or changes.
    pub identities: Vec<IdentityChange>,
    /// Whether the broker lets us in with them, where they were changed under a connection.
    pub proof: Proof,
}

/// What reading all files may take.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// How it ended: something to take over, or what is wrong.
pub type Outcome = Result<Box<Ready>, Refused>;

/// A configuration that is not taken over.
pub struct Refused {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The one in force without the devices that the registry has disabled or removed since, if
    /// there are any.
    pub withdrawn: Option<Box<Ready>>,
}

impl From<Vec<Finding>> for Refused {
    fn from(findings: Vec<Finding>) -> Refused {
        Refused { findings, withdrawn: None }
    }
}

/// Begins to read and judge, and to try changed files of the upstream at the broker. `served`: the
/// key that handshakes of devices have.
pub fn begin(
    options: Options,
    running: Arc<Loaded>,
    clock: Arc<dyn WallClock>,
    link: Rc<Link>,
    served: Option<Arc<ServerKey>>,
) -> JoinHandle<Outcome> {
    spawn_local(async move {
        let before = running.settings.upstream.clone();
        let is_same_account = |now: &northbound::Settings| {
            before.as_ref().is_some_and(|before| before.is_same_but_for_files(now))
        };
        let mut ready = read(options, running, clock, (link.used_files(), served), READ_WITHIN).await?;
        // Another upstream is connected to anew, which shows it.
        if let (Some(given), Some(now)) = (ready.given, ready.loaded.settings.upstream.clone())
            && is_same_account(&now)
            && ready.unusable.is_none()
            && ready.changes.renamed_from.is_none()
        {
            ready.proof = link.prove_files(given, &now).await;
        }
        Ok(ready)
    })
}

/// A file that cannot be read to its end holds up this reload, and no later one.
async fn read(
    options: Options,
    running: Arc<Loaded>,
    clock: Arc<dyn WallClock>,
    (used, served): (UsedFiles, Option<Arc<ServerKey>>),
    within: Duration,
) -> Outcome {
    let broken = |text: String| Err(Refused::from(vec![Finding::fail("reload", text)]));
    let reading = spawn_blocking(move || {
        let loaded = crate::config::io::load_to_reload(&options, &running);
        let refused = |findings| {
            // A fault elsewhere is no reason to let in what was taken out of the registry.
            let folder = running.settings.paths.devices();
            let registry = crate::config::registry::io::load(&folder, Some(&running.registry));
            let left = running.without_withdrawn(registry);
            let withdrawn = left.and_then(|left| judge(left, &running, clock.clone(), (&used, &served)).ok());
            Refused { findings, withdrawn }
        };
        loaded.and_then(|loaded| judge(loaded, &running, clock.clone(), (&used, &served))).map_err(refused)
    });
    match timeout(within, reading).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => broken(format!("it broke off: {error}")),
        Err(_) => broken(unread(within)),
    }
}

/// Compiles it, and compares it with the one in force.
fn judge(
    mut loaded: Loaded,
    running: &Loaded,
    clock: Arc<dyn WallClock>,
    (used, served): (&UsedFiles, &Option<Arc<ServerKey>>),
) -> Result<Box<Ready>, Vec<Finding>> {
    let device_lists = device_lists(&loaded.settings);
    if let Some(lists) = device_lists.as_deref().and_then(|bytes| parse(bytes).ok()) {
        keep_lists(&mut loaded, &lists);
    }
    let changes = compare(running, &loaded)?;
    let beside_registry = beside_registry(running, &loaded, served.clone());
    let identities = identity_changes(&running.known, &loaded.known);
    let prepared = Prepared::from(loaded.settings.gate.clone());
    let keyring = super::engine::keyring(&loaded.settings.gate);
    let upstream_files = loaded.settings.upstream.as_ref().map(fingerprint);
    let given = loaded.settings.upstream.as_ref().map(fingerprints);
    let mut unusable =
        loaded.settings.upstream.as_ref().and_then(|upstream| load(upstream, clock.clone()).err());
    let same =
        loaded.settings.upstream.as_ref().filter(|now| running.settings.upstream.as_ref() == Some(*now));
    let kept = unusable.take_if(|_| same.is_some_and(|same| used.last_pair_serves(same, clock)));
    let proof = Proof::NotNeeded;
    Ok(Box::new(Ready {
        loaded,
        changes,
        beside_registry,
        prepared,
        keyring,
        upstream_files,
        given,
        unusable,
        kept,
        device_lists,
        identities,
        proof,
    }))
}

/// The fetched lists of `[coap]` that are in use, PEM.
pub fn device_lists(settings: &Settings) -> Option<Arc<[u8]>> {
    let fetching = settings.revocation.iter().find(|fetching| fetching.side == Side::Coap)?;
    kept::get(&fetching.file())
}

/// The lists in use take the place of those that the disk gave.
fn keep_lists(loaded: &mut Loaded, lists: &[Vec<u8>]) {
    let kept = loaded.certificates.with_fetched(lists);
    if kept.fetched_lists != loaded.certificates.fetched_lists {
        let keys = loaded.settings.gate.devices.iter().filter_map(|device| device.public_key);
        loaded.settings.coap.certificates = kept.certificates(keys);
        loaded.certificates = Arc::new(kept);
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
