//! The revocation lists in the running daemon: fetched, applied, shown.
//!
//! | new lists of | what is done |
//! |---|---|
//! | `[upstream]` | the chain of the present connection is looked at: if a certificate of it is revoked, the connection is replaced, and the next one is refused with its name |
//! | `[coap]` | they take the place of those before; sessions of devices, and connections of `[mqtt]`, whose certificate is revoked are closed |

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::clock::SystemClock;
use super::link::Link;
use crate::clock::{UnixTime, WallClock};
use crate::config::Loaded;
use crate::control::snapshot;
use crate::credential::io::revocation::CrlKeeper;
use crate::credential::revocation::{Fetching, Side};
use crate::northbound::certificate::RevocationList;

/// All of them.
pub struct Revocations {
    keepers: Vec<Rc<CrlKeeper>>,
    link: Rc<Link>,
    clock: Arc<SystemClock>,
}

impl Revocations {
    /// Takes up what is stored. It blocks: for the start.
    pub fn open(loaded: &Loaded, link: &Rc<Link>, clock: &Arc<SystemClock>) -> Revocations {
        let mut revocations = Revocations { keepers: Vec::new(), link: link.clone(), clock: clock.clone() };
        revocations.configure(&loaded.settings.revocation);
        if loaded.certificates.fetched_lists.is_empty() {
            // The disk gave them at the second attempt only, or from their copy.
            revocations.tell_devices_again();
        }
        revocations
    }

    /// Has the lists for devices put in force once more.
    pub fn tell_devices_again(&self) {
        let of_devices = |keeper: &&Rc<CrlKeeper>| keeper.settings().side == Side::Coap;
        if let Some(keeper) =
            self.keepers.iter().find(of_devices).filter(|keeper| !keeper.stored().is_empty())
        {
            keeper.tell_again();
        }
    }

    /// Goes on with other settings; what did not change goes on as it is.
    pub fn configure(&mut self, fetchings: &[Fetching]) {
        let known =
            |fetching: &Fetching| self.keepers.iter().find(|keeper| keeper.settings() == fetching).cloned();
        let made = |fetching: &Fetching| {
            let clock: Arc<dyn WallClock> = self.clock.clone();
            known(fetching).unwrap_or_else(|| CrlKeeper::open(Instant::now(), fetching.clone(), clock))
        };
        self.keepers = fetchings.iter().map(made).collect();
        for keeper in &self.keepers {
            keeper.store_soon();
            // What failed may have been put right.
            if keeper.last_error().is_some() {
                keeper.ask();
            }
        }
    }

    /// Once a second. The lists for devices, if there are new ones.
    pub fn care(&self) -> Option<Arc<Vec<Vec<u8>>>> {
        let mut devices = None;
        for keeper in &self.keepers {
            keeper.care();
            if keeper.take_changed() {
                match keeper.settings().side {
                    Side::Upstream => self.link.judge_again(),
                    Side::Coap => devices = Some(keeper.stored()),
                }
            }
        }
        devices
    }

    /// As `status` shows them: those in use of `[coap]`, and those fetched for `[upstream]`.
    pub fn snapshot(&self, loaded: &Loaded) -> Vec<snapshot::RevocationSource> {
        let mut sources: Vec<snapshot::RevocationSource> =
            self.keepers.iter().map(|keeper| self.shown(keeper)).collect();
        let own = &loaded.certificates.revocation_lists;
        if !own.is_empty() {
            sources.push(snapshot::RevocationSource {
                table: "coap".to_owned(),
                lists: own.iter().filter_map(|list| self.list(list)).collect(),
                ..Default::default()
            });
        }
        sources
    }

    fn shown(&self, keeper: &CrlKeeper) -> snapshot::RevocationSource {
        snapshot::RevocationSource {
            table: keeper.settings().side.table().to_owned(),
            url: Some(keeper.settings().url.to_string()),
            fetched_at: keeper.fetched_at().map(|at| at.to_string()),
            last_error: keeper.last_error(),
            retry_in_s: keeper.retry_in().map(|left| left.as_secs()),
            lists: keeper.stored().iter().filter_map(|list| self.list(list)).collect(),
        }
    }

    fn list(&self, der: &[u8]) -> Option<snapshot::RevocationList> {
        let read = RevocationList::parse(der)?;
        let now = self.clock.wall();
        let age = |now: UnixTime| now.as_secs().saturating_sub(read.this_update.as_secs());
        Some(snapshot::RevocationList {
            issuer: read.issuer.unwrap_or_default(),
            this_update: read.this_update.to_string(),
            next_update: read.next_update.map(|at| at.to_string()),
            age_s: now.map(age),
            expired: now.zip(read.next_update).is_some_and(|(now, next)| next < now),
        })
    }

    /// What is wrong and needs somebody, one sentence each.
    pub fn problems(&self, loaded: &Loaded) -> Vec<String> {
        let mut problems: Vec<String> = self.keepers.iter().filter_map(|keeper| keeper.problem()).collect();
        for source in self.snapshot(loaded) {
            let table = &source.table;
            let expired: Vec<&snapshot::RevocationList> =
                source.lists.iter().filter(|list| list.expired).collect();
            let why = source.last_error.map(|why| format!(": {why}")).unwrap_or_default();
            for list in &expired {
                let next = list.next_update.as_deref().unwrap_or_default();
                problems.push(format!(
                    "the revocation list of {:?} ([{table}]) expired at {next}{why}",
                    list.issuer
                ));
            }
            if source.lists.is_empty() && !why.is_empty() {
                problems.push(format!("no revocation list could be fetched for [{table}]{why}"));
            }
        }
        problems
    }
}
