//! The certificates that renew themselves: a [`Keeper`] each, proven by the uplink.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::clock::SystemClock;
use super::link::Link;
use crate::clock::WallClock;
use crate::config::Settings;
use crate::control::api::{CertificateAction, Reply};
use crate::control::protocol::{Code, Failure};
use crate::control::snapshot;
use crate::credential::csr_attributes::CsrAttributes;
use crate::credential::io::anchors::AnchorKeeper;
use crate::credential::io::est::EstSource;
use crate::credential::io::keeper::{Keeper, Local, Prover};
use crate::credential::renewal::{Standing, Verdict};
use crate::credential::source::{Answer, Order, Outcome, Source};
use crate::credential::source_settings::SourceSettings;

/// The certificates in use, and what is wrong with those that are not.
pub struct Certificates {
    keepers: Vec<Rc<Keeper>>,
    anchors: Vec<(String, Rc<AnchorKeeper>)>,
    link: Rc<Link>,
    faults: Vec<String>,
}

impl Certificates {
    /// Takes up what is on disk. It blocks: for the start.
    pub fn open(settings: &Settings, link: &Rc<Link>, clock: &Arc<SystemClock>) -> Certificates {
        let clock: Arc<dyn WallClock> = clock.clone();
        let (mut keepers, mut anchors, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for certificate in &settings.certificates {
            let of = certificate.settings.clone();
            let source: Arc<dyn Source> = match certificate.source.clone() {
                // What it offers counts for itself, too: its own certificate is rolled over as
                // well.
                SourceSettings::Est(est) if certificate.trusts_est => {
                    Arc::new(EstSource::new(est, clock.clone()).believing_too(of.anchors()))
                }
                other => crate::credential::io::source(other, clock.clone(), &settings.paths.runtime_dir),
            };
            let source: Arc<dyn Source> = Arc::new(Beside(source));
            let prover = Rc::new(ByUplink(link.clone()));
            if certificate.trusts_est {
                let (folder, asked) = (of.folder.clone(), source.clone());
                let keeper = AnchorKeeper::open(Instant::now(), &of.name, folder, asked, clock.clone());
                anchors.push((of.name.clone(), keeper));
            }
            let folder = of.folder.display().to_string();
            match Keeper::open(Instant::now(), of, Some(source), prover, clock.clone()) {
                Ok(keeper) => keepers.push(keeper),
                Err(error) => {
                    let name = certificate.settings.name.as_str();
                    log::error!(certificate = name, reason:% = error; "the folder of a certificate cannot be made");
                    faults.push(format!(
                        "certificate {name} is not renewed: {folder} cannot be made: {error}; then `systemctl restart tombolo`"
                    ));
                }
            }
        }
        Certificates { keepers, anchors, link: link.clone(), faults }
    }

    /// Once a second.
    pub fn care(&self) {
        self.keepers.iter().for_each(Keeper::care);
        for (_, keeper) in &self.anchors {
            keeper.care(|anchors| self.link.is_proven_by(anchors));
            if keeper.take_changed() {
                self.link.judge_again();
            }
        }
    }

    /// As `status` and `cert status` show them, by name.
    pub fn snapshot(&self) -> BTreeMap<String, snapshot::Certificate> {
        self.keepers.iter().map(|keeper| (keeper.settings().name.clone(), shown(keeper))).collect()
    }

    /// What is wrong and needs somebody, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.faults.clone();
        for (name, keeper) in self.anchors.iter().filter(|(_, keeper)| keeper.anchors().is_empty()) {
            let reason = keeper.last_error().map(|reason| format!(": {reason}")).unwrap_or_default();
            problems.push(format!(
                "certificate {name}: the EST server has not said yet which CAs it offers{reason}"
            ));
        }
        for keeper in &self.keepers {
            let (name, of) = (keeper.settings().name.as_str(), shown(keeper));
            let reason = of.last_error.map(|reason| format!(": {reason}")).unwrap_or_default();
            let until = of.not_after.unwrap_or_default();
            problems.extend(match of.state.as_str() {
                "missing" if !reason.is_empty() => {
                    Some(format!("certificate {name} is missing, and none was issued{reason}"))
                }
                "expired" => Some(format!("certificate {name} has expired at {until}{reason}")),
                "retrying" => {
                    Some(format!("certificate {name} could not be renewed, and ends at {until}{reason}"))
                }
                _ => None,
            });
            problems.extend(keeper.shown().problems.iter().map(|what| format!("certificate {name}: {what}")));
        }
        problems
    }

    /// Does what `cert` asks for.
    pub fn act(&self, name: &str, action: CertificateAction, reply: Reply) {
        let Some(keeper) = self.keepers.iter().find(|keeper| keeper.settings().name == name) else {
            let known: Vec<&str> =
                self.keepers.iter().map(|keeper| keeper.settings().name.as_str()).collect();
            let known = match known.is_empty() {
                true => "none renews itself".to_owned(),
                false => format!("known here: {}", known.join(", ")),
            };
            let text = format!("there is no certificate {name:?} in use; {known}");
            return reply.fail(Failure::new(Code::NotFound, text));
        };
        match action {
            CertificateAction::Renew => match keeper.ask() {
                true => reply.ok(&shown(keeper)),
                false => {
                    let state = keeper.state();
                    let text = format!("certificate {name} is being renewed already: {state}");
                    reply.fail(Failure::new(Code::Failed, text));
                }
            },
            CertificateAction::History => reply.ok(&json!({ "events": keeper.shown().state.events })),
            CertificateAction::RollBack => {
                let (keeper, link) = (Rc::clone(keeper), self.link.clone());
                tokio::task::spawn_local(async move {
                    match keeper.roll_back().await {
                        Ok(()) => {
                            link.reconnect_with(keeper.settings().current());
                            reply.ok(&shown(&keeper));
                        }
                        Err(text) => {
                            let text = format!("certificate {}: {text}", keeper.settings().name);
                            reply.fail(Failure::new(Code::Failed, text));
                        }
                    }
                });
            }
        }
    }
}

fn shown(keeper: &Keeper) -> snapshot::Certificate {
    let files = keeper.shown();
    let (due, history, error) = keeper.with_renewal(|renewal| {
        (renewal.due(), renewal.history().clone(), renewal.last_error().map(str::to_owned))
    });
    let leaf = files.current.as_ref();
    let slot = match (files.has_candidate, leaf) {
        (true, _) => Some("candidate"),
        (false, Some(_)) => Some("current"),
        (false, None) => None,
    };
    snapshot::Certificate {
        state: keeper.state().to_owned(),
        serial: leaf.map(|leaf| leaf.serial_text()),
        subject: leaf.map(|leaf| leaf.subject_text()),
        issuer: leaf.map(|leaf| leaf.issuer_text()),
        not_before: leaf.map(|leaf| leaf.validity.not_before.to_string()),
        not_after: leaf.map(|leaf| leaf.validity.not_after.to_string()),
        due: due.map(|at| at.to_string()),
        slot: slot.map(str::to_owned),
        last_attempt: history.last_attempt.or(history.obtained).map(|at| at.to_string()),
        last_error: error,
    }
}

/// The uplink shows whether a certificate is accepted.
struct ByUplink(Rc<Link>);

impl Prover for ByUplink {
    fn probe(&self, candidate: &Path) -> Local<Verdict> {
        let (link, file) = (self.0.clone(), candidate.to_path_buf());
        Box::pin(async move { link.probe(file).await })
    }

    fn standing(&self) -> Standing {
        self.0.standing()
    }

    fn handle_committed(&self) {
        self.0.handle_renewed();
    }
}

/// A source that is asked on a thread of its own: its TLS and its files hold no reading up.
struct Beside(Arc<dyn Source>);

impl Source for Beside {
    fn order(&self, order: Order) -> Answer<'_, Outcome> {
        let source = self.0.clone();
        Box::pin(async move {
            let asked = beside(move |runtime| runtime.block_on(source.order(order))).await;
            asked.unwrap_or_else(|cause| Outcome::Failed { cause })
        })
    }

    fn anchors(&self) -> Answer<'_, Result<Option<Vec<Vec<u8>>>, String>> {
        let source = self.0.clone();
        Box::pin(async move { beside(move |runtime| runtime.block_on(source.anchors())).await? })
    }

    fn attributes(&self) -> Answer<'_, Result<Option<CsrAttributes>, String>> {
        let source = self.0.clone();
        Box::pin(async move { beside(move |runtime| runtime.block_on(source.attributes())).await? })
    }

    fn reach(&self) -> Answer<'_, Result<String, String>> {
        let source = self.0.clone();
        Box::pin(async move { beside(move |runtime| runtime.block_on(source.reach())).await? })
    }
}

async fn beside<T: Send + 'static>(
    ask: impl FnOnce(tokio::runtime::Runtime) -> T + Send + 'static,
) -> Result<T, String> {
    let asked = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(ask).map_err(|error| format!("its thread cannot be started: {error}"))
    });
    asked.await.unwrap_or_else(|_| Err("the thread that asks the source failed".to_owned()))
}
