//! The certificates of this gateway, a [`Keeper`] each: those that renew themselves, and those in
//! files that another program renews. The uplink proves the one for the broker, the DTLS engine's
//! own code the one for devices.

mod beside;
mod dtls_identity;
mod prover;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use serde_json::json;

use self::beside::Beside;
use self::dtls_identity::DtlsIdentity;
use self::prover::ByUplink;
use super::clock::SystemClock;
use super::config_check::WatchedPair;
use super::link::Link;
use crate::clock::{UnixTime, WallClock};
use crate::config::Settings;
use crate::control::api::{CertificateAction, Reply};
use crate::control::protocol::{Code, Failure};
use crate::control::snapshot;
use crate::credential::decision::{BEFORE_TOO_LONG, RenewAt, is_before_too_long};
use crate::credential::expiry::{self, Said, Step};
use crate::credential::io::anchors::AnchorKeeper;
use crate::credential::io::est::EstSource;
use crate::credential::io::keeper::{Keeper, Prover, open_store};
use crate::credential::io::watch::{FileWatch, PairFiles};
use crate::credential::leaf::Usage;
use crate::credential::renewal::{ENROLLS_MAX, PATIENCE, Standing};
use crate::credential::request::Names;
use crate::credential::settings::FOLDER;
use crate::credential::source::Source;
use crate::credential::source_settings::SourceSettings;
use crate::credential::steadiness::LASTS;
use crate::credential::store::Store;
use crate::durable::io::OnDisk;
use crate::hex::format_hex;
use crate::proto::dtls::server::ServerKey;

/// The name of the files of `[upstream]` in `cert status`.
const UPSTREAM_FILES: &str = "upstream-files";
/// The name of the files of `[coap]` there.
const COAP_FILES: &str = "coap-files";

/// So long it may take until watched files are looked at because a person asks.
const LOOKED_WITHIN: Duration = Duration::from_secs(10);
/// How often that is asked for.
const LOOKED_TICK: Duration = Duration::from_millis(50);

/// What the next step of one begins with that was never there.
const NOT_ENROLLED: &str = "not enrolled yet: ";

/// One certificate.
struct Entry {
    keeper: Rc<Keeper>,
    /// The files, where another program renews it.
    files: Option<Rc<FileWatch>>,
    /// Where it is for devices.
    dtls: Option<Rc<DtlsIdentity>>,
    /// The uplink was told of the first one.
    in_use: Cell<bool>,
    /// The one in use when it was looked last.
    print: Cell<Option<u64>>,
    said: Cell<Said>,
}

impl Entry {
    fn name(&self) -> &str {
        &self.keeper.settings().name
    }

    fn usage(&self) -> Usage {
        self.keeper.settings().usage
    }
}

/// The certificates in use, and what is wrong with those that are not.
pub struct Certificates {
    entries: RefCell<Vec<Rc<Entry>>>,
    /// Where the CAs of the broker come from the EST server, by the certificate's name.
    anchors: RefCell<Vec<(String, Rc<AnchorKeeper>)>>,
    link: Rc<Link>,
    clock: Arc<SystemClock>,
    faults: RefCell<Vec<String>>,
    /// Counts the reloads that changed which files are watched.
    turn: Cell<u64>,
}

impl Certificates {
    /// Takes up what is on disk. It blocks: for the start.
    pub fn open(settings: &Settings, link: &Rc<Link>, clock: &Arc<SystemClock>) -> Rc<Certificates> {
        let certificates = Rc::new(Certificates {
            entries: RefCell::default(),
            anchors: RefCell::default(),
            link: link.clone(),
            clock: clock.clone(),
            faults: RefCell::default(),
            turn: Cell::new(0),
        });
        let wall: Arc<dyn WallClock> = clock.clone();
        for certificate in &settings.certificates {
            let of = certificate.settings.clone();
            let source: Option<Arc<dyn Source>> = match certificate.source.clone() {
                // What it offers counts for itself, too: its own certificate is rolled over as
                // well.
                SourceSettings::Est(est) if certificate.trusts_est => {
                    Some(Arc::new(EstSource::new(est, wall.clone()).believing_too(of.anchors())))
                }
                other => crate::credential::io::source(other, wall.clone(), &settings.paths.runtime_dir),
            };
            let source = source.map(|source| Arc::new(Beside(source)) as Arc<dyn Source>);
            if let Some(source) = source.clone().filter(|_| certificate.trusts_est) {
                let folder = of.folder.clone();
                let keeper = AnchorKeeper::open(Instant::now(), &of.name, folder, source, wall.clone());
                certificates.anchors.borrow_mut().push((of.name.clone(), keeper));
            }
            match open_store(&of.folder) {
                Ok(store) => certificates.add(of, store, source, None),
                Err(error) => {
                    let (name, folder) = (of.name.as_str(), of.folder.display());
                    log::error!(certificate = name, reason:% = error; "the folder of a certificate cannot be made");
                    certificates.faults.borrow_mut().push(format!(
                        "certificate {name} is not renewed: {folder} cannot be made: {error}; then `systemctl restart tombolo`"
                    ));
                }
            }
        }
        for (name, files) in pairs(settings) {
            let (folder, other) = folders(settings, name, &files);
            let opened = open_files(&folder, &other, &files, &*wall);
            certificates.add_files(name, folder, files, opened);
        }
        certificates
    }

    fn add(
        &self,
        settings: crate::credential::settings::Settings,
        store: Store<OnDisk>,
        source: Option<Arc<dyn Source>>,
        files: Option<PairFiles>,
    ) {
        let now = Instant::now();
        let wall: Arc<dyn WallClock> = self.clock.clone();
        let dtls = (settings.usage == Usage::Server).then(|| Rc::new(DtlsIdentity::new(store.current())));
        let prover: Rc<dyn Prover> = match &dtls {
            Some(dtls) => dtls.clone(),
            None => Rc::new(ByUplink(self.link.clone())),
        };
        let in_use = Cell::new(store.current().is_some());
        let keeper = Keeper::of(now, settings, store, source, prover, wall.clone());
        let files = files.map(|files| FileWatch::new(now, files, &keeper, wall));
        let (print, said) = (Cell::new(keeper.shown().current_print), Cell::default());
        self.entries.borrow_mut().push(Rc::new(Entry { keeper, files, dtls, in_use, print, said }));
    }

    /// Files that cannot be kept are used as they are.
    fn add_files(
        &self,
        name: &'static str,
        folder: PathBuf,
        files: PairFiles,
        opened: Result<Store<OnDisk>, String>,
    ) {
        let store = match opened {
            Ok(store) => store,
            Err(reason) => {
                log::warn!(certificate = name, reason; "files of a certificate are used as they are, and their changes not proven");
                return;
            }
        };
        let settings = crate::credential::settings::Settings {
            name: name.to_owned(),
            usage: files.usage,
            folder,
            names: Names::default(),
            reuse_key: false,
            renew_at: RenewAt::default(),
            seed: String::new(),
            bootstrap: None,
            by_hand: true,
            may_enroll: false,
            token: None,
        };
        if files.usage == Usage::Client && store.current().is_some() {
            self.link.use_identity(settings.current());
        }
        self.add(settings, store, None, Some(files));
    }

    /// After a reload: other files are watched, and those that stay are looked at now. `upstream`:
    /// the link was replaced.
    pub fn handle_reload(self: &Rc<Self>, settings: &Settings, upstream: bool) {
        self.anchors.borrow().iter().for_each(|(_, keeper)| keeper.store_soon());
        let wanted = pairs(settings);
        let is_wanted = |entry: &Rc<Entry>| {
            let Some(watch) = &entry.files else { return true };
            wanted.iter().any(|(_, files)| files == watch.files())
        };
        self.entries.borrow_mut().retain(is_wanted);
        let watched: Vec<PairFiles> = {
            let entries = self.entries.borrow();
            entries.iter().filter_map(|entry| Some(entry.files.as_ref()?.files().clone())).collect()
        };
        for entry in self.entries.borrow().iter() {
            let Some(watch) = &entry.files else { continue };
            watch.look_now();
            if upstream && entry.usage() == Usage::Client && entry.keeper.shown().current.is_some() {
                self.link.use_identity(entry.keeper.settings().current());
            }
        }
        self.turn.set(self.turn.get() + 1);
        for (name, files) in wanted.into_iter().filter(|(_, files)| !watched.contains(files)) {
            let (certificates, turn) = (Rc::clone(self), self.turn.get());
            let (folder, other) = folders(settings, name, &files);
            let wall: Arc<dyn WallClock> = self.clock.clone();
            tokio::task::spawn_local(async move {
                let (at, of) = (folder.clone(), files.clone());
                let opened = tokio::task::spawn_blocking(move || open_files(&at, &other, &of, &*wall)).await;
                let opened = opened.unwrap_or_else(|_| Err("the thread that reads them failed".to_owned()));
                if certificates.turn.get() == turn {
                    certificates.add_files(name, folder, files, opened);
                }
            });
        }
    }

    /// Once a second.
    pub fn care(&self) {
        let entries = self.entries.borrow().clone();
        let wall = self.clock.wall();
        for entry in &entries {
            entry.keeper.care();
            if let Some(watch) = &entry.files {
                watch.care(&entry.keeper);
                let has_first = !entry.in_use.get() && entry.keeper.shown().current.is_some();
                if entry.usage() == Usage::Client && has_first {
                    entry.in_use.set(true);
                    self.link.use_identity(entry.keeper.settings().current());
                    self.link.retry_if_away();
                }
            }
            if let Some(dtls) = &entry.dtls {
                dtls.care(&entry.keeper);
            }
            let print = entry.keeper.shown().current_print;
            if entry.print.replace(print) != print {
                // Another CA may have issued it, and may soon be the broker's, too.
                let anchors = self.anchors.borrow();
                anchors.iter().filter(|(name, _)| name == entry.name()).for_each(|(_, keeper)| keeper.ask());
            }
            let mut said = entry.said.get();
            let validity = entry.keeper.with_renewal(|renewal| renewal.present());
            if let (Some(step), Some(of)) = (said.poll(validity, wall), validity) {
                let (certificate, not_after) = (entry.name(), of.not_after);
                match step {
                    Step::Expired => {
                        log::error!(certificate, not_after:% = not_after; "the certificate has expired")
                    }
                    _ => log::warn!(certificate, not_after:% = not_after, less_than_days = days(step);
                        "the certificate expires soon"),
                }
            }
            entry.said.set(said);
        }
        for (_, keeper) in self.anchors.borrow().iter() {
            let is_away = self.link.standing() != Standing::Accepted;
            keeper.care(is_away, |anchors| self.link.is_proven_by(anchors));
            if keeper.take_changed() {
                self.link.judge_again();
            }
        }
    }

    /// The process ends: what somebody removed is written anew before.
    pub async fn leave(&self) {
        let entries = self.entries.borrow().clone();
        for entry in &entries {
            entry.keeper.leave().await;
        }
    }

    /// The key towards devices that has come into use since the last call.
    pub fn take_server_key(&self) -> Option<Arc<ServerKey>> {
        self.entries.borrow().iter().find_map(|entry| entry.dtls.as_ref()?.take())
    }

    /// The key towards devices, where the gateway renews it by itself; or the last one that worked,
    /// where what is in the files does not: `loaded`. `None` if `settings` name no files any more.
    pub fn server_key(&self, settings: &Settings, loaded: Option<&Arc<ServerKey>>) -> Option<Arc<ServerKey>> {
        let entries = self.entries.borrow();
        let entry = entries.iter().find(|entry| entry.dtls.is_some())?;
        if entry.files.is_some() && (loaded.is_some() || settings.coap.certificate_files.is_none()) {
            return None;
        }
        entry.dtls.as_ref()?.present()
    }

    /// The file of the certificate for the broker that is in use, where it is kept here.
    pub fn uplink_file(&self) -> Option<PathBuf> {
        let entries = self.entries.borrow();
        let mut of_uplink = entries.iter().filter(|entry| entry.usage() == Usage::Client);
        of_uplink
            .find(|entry| entry.keeper.shown().current.is_some())
            .map(|entry| entry.keeper.settings().current())
    }

    /// The tables of the configuration whose watched files have the pair that is in use.
    pub fn tables_with_good_files(&self) -> Vec<&'static str> {
        let entries = self.entries.borrow();
        let good = entries.iter().filter(|entry| entry.files.as_ref().is_some_and(|watch| watch.is_in_use()));
        good.map(|entry| match entry.usage() {
            Usage::Client => "upstream",
            Usage::Server => "coap",
        })
        .collect()
    }

    /// The watched files for the broker, unless something about them is among the problems.
    pub fn watched_pairs(&self) -> Vec<WatchedPair> {
        let entries = self.entries.borrow();
        let of_broker = entries.iter().filter(|entry| entry.usage() == Usage::Client);
        of_broker
            .filter_map(|entry| {
                let watch = entry.files.as_ref().filter(|watch| watch.problem().is_none())?;
                let shown = entry.keeper.shown();
                let known = [Some(shown.current_print?), shown.candidate_print];
                Some(WatchedPair { name: UPSTREAM_FILES, files: watch.files().clone(), known })
            })
            .collect()
    }

    /// As `status` and `cert status` show them, by name.
    pub fn snapshot(&self) -> BTreeMap<String, snapshot::Certificate> {
        let entries = self.entries.borrow();
        entries.iter().map(|entry| (entry.name().to_owned(), self.shown(entry))).collect()
    }

    /// What is wrong and needs somebody, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.faults.borrow().clone();
        for (name, keeper) in self.anchors.borrow().iter().filter(|(_, keeper)| keeper.anchors().is_empty()) {
            let reason = keeper.last_error().map(|reason| format!(": {reason}")).unwrap_or_default();
            problems.push(format!(
                "certificate {name}: the EST server has not said yet which CAs it offers{reason}"
            ));
        }
        for (name, keeper) in self.anchors.borrow().iter() {
            problems.extend(keeper.problem().map(|what| format!("certificate {name}: {what}")));
        }
        let wall = self.clock.wall();
        for entry in self.entries.borrow().iter() {
            let (name, of) = (entry.name(), self.shown(entry));
            let reason = of.last_error.map(|reason| format!(": {reason}")).unwrap_or_default();
            let until = of.not_after.unwrap_or_default();
            let next = self.next(entry, &of.state);
            let next = next.map(|next| format!("; {}", next.trim_start_matches(NOT_ENROLLED)));
            let next = next.unwrap_or_default();
            let (present, is_refused, later) = entry.keeper.with_renewal(|renewal| {
                (renewal.present(), renewal.refused().is_some(), renewal.later_since())
            });
            let is_over = present.is_none_or(|of| wall.is_some_and(|now| of.has_expired(now)));
            let later = later.map(|since| since.elapsed());
            let ends = || match (present, is_over) {
                (None, _) => "is missing".to_owned(),
                (Some(_), true) => format!("expired on {until}"),
                (Some(_), false) => format!("expires on {until}"),
            };
            let on_trial = || {
                let there = match entry.files {
                    Some(_) => "its files have a new one",
                    None => "a new one is there",
                };
                Some(format!(
                    "certificate {name}: {there}, and {}; the one before, until {until}, stays in use meanwhile",
                    snapshot::ON_TRIAL
                ))
            };
            problems.extend(match of.state.as_str() {
                "missing" if !reason.is_empty() => {
                    let none = if entry.files.is_some() { "the files have none" } else { "none was issued" };
                    Some(format!("certificate {name} is missing, and {none}{reason}"))
                }
                // They are there, and do not fit, or cannot be read.
                "missing" if !next.is_empty() && entry.files.is_some() => {
                    Some(format!("certificate {name}: {}", next.trim_start_matches("; ")))
                }
                "missing" if !next.is_empty() => Some(format!("certificate {name} is missing{next}")),
                "expired" => Some(format!("certificate {name} expired on {until}{reason}{next}")),
                _ if is_refused => Some(format!("certificate {name} does not connect{reason}{next}")),
                "ordering" if later.is_some_and(|waited| is_over || waited >= PATIENCE) => {
                    let minutes = later.unwrap_or_default().as_secs() / 60;
                    let what = ends();
                    Some(format!(
                        "certificate {name} {what}, and its source has said \"not yet\" for {minutes} min; `tombolo cert renew {name} \
                         --wait` asks at once"
                    ))
                }
                "ordering" if !reason.is_empty() => {
                    let what = ends();
                    Some(format!("certificate {name} could not be renewed, is asked for again, and {what}{reason}"))
                }
                "staged" | "probing" | "comparing" if reason.is_empty() && present.is_some() => on_trial(),
                "staged" | "probing" | "comparing" if !reason.is_empty() => {
                    Some(format!("certificate {name}: there is a new one, and it is not in use yet{reason}{next}"))
                }
                "committing" if !reason.is_empty() => {
                    Some(format!("certificate {name}: the next one is proven, and not in use yet{reason}"))
                }
                "committed" if unsteady_for(entry).is_some() => {
                    let minutes = unsteady_for(entry).unwrap_or_default().as_secs() / 60;
                    Some(format!(
                        "certificate {name} is in use for {minutes} min, and no connection with it has lasted since{next}"
                    ))
                }
                "committed" | "valid"
                    if entry.usage() == Usage::Client
                        && entry.keeper.shown().previous.is_some()
                        && entry.keeper.taken_into_use().is_some_and(|at| self.link.refuses_all_since(at)) =>
                {
                    Some(format!(
                        "certificate {name}: since it came into use the broker has taken no reading; where the one before may \
                         publish and this one may not, allow it at the broker, or `tombolo cert rollback {name}`"
                    ))
                }
                "retrying" if entry.files.is_none() => {
                    Some(format!("certificate {name} could not be renewed, and expires on {until}{reason}{next}"))
                }
                _ => {
                    let step = present.zip(wall).and_then(|(of, now)| expiry::step(of, now));
                    step.map(|step| {
                        let days = days(step);
                        format!(
                            "certificate {name} expires on {until}, in less than {days} days, and there is no newer one{next}"
                        )
                    })
                }
            });
            problems.extend(files_next(entry).map(|what| format!("certificate {name}: {what}")));
            let of_disk = entry.keeper.problems();
            problems.extend(of_disk.iter().map(|what| format!("certificate {name}: {what}")));
        }
        problems
    }

    /// Does what `cert` asks for.
    pub fn act(self: &Rc<Self>, name: &str, action: CertificateAction, reply: Reply) {
        let found = self.entries.borrow().iter().find(|entry| entry.name() == name).cloned();
        let Some(entry) = found else {
            let entries = self.entries.borrow();
            let known: Vec<&str> = entries.iter().map(|entry| entry.name()).collect();
            let known = match known.is_empty() {
                true => "none renews itself: `tombolo cert status` says what configures one".to_owned(),
                false => format!("known here: {}", known.join(", ")),
            };
            let text = format!("there is no certificate {name:?} in use; {known}");
            return reply.fail(Failure::new(Code::NotFound, text));
        };
        let fail = |what: String| Failure::new(Code::Failed, format!("certificate {}: {what}", entry.name()));
        let keeper = &entry.keeper;
        let asks = matches!(action, CertificateAction::Renew | CertificateAction::Enroll { .. });
        if let (Some(watch), true) =
            (&entry.files, asks || matches!(action, CertificateAction::Csr | CertificateAction::Install(_)))
        {
            let file = watch.files().certificate.display();
            return reply.fail(fail(format!(
                "another program renews {file} and its key: what it writes there is taken up by itself"
            )));
        }
        if keeper.settings().by_hand && asks {
            return reply.fail(fail(format!(
                "it comes by hand: `tombolo cert csr {name}` prints its request, `tombolo cert install {name} FILE` takes the \
                 answer"
            )));
        }
        let busy = |text: &str| fail(format!("{text}: it is {}", keeper.state()));
        match action {
            CertificateAction::Renew => match keeper.ask() {
                true => reply.ok(&self.shown(&entry)),
                false => reply.fail(on_its_way(&entry)),
            },
            CertificateAction::Enroll { cancel: true } => match keeper.cancel_enroll() {
                Ok(()) => reply.ok(&self.shown(&entry)),
                Err(why) => reply.fail(fail(format!("{why} (it is {})", keeper.state()))),
            },
            CertificateAction::Enroll { .. } if !keeper.settings().decision().may_enroll => reply.fail(fail(
                "nothing proves to the source who asks: set bootstrap-certificate-file and bootstrap-key-file, or \
                 username and password-file"
                    .to_owned(),
            )),
            CertificateAction::Enroll { .. } => match keeper.ask_enroll() {
                true => reply.ok(&self.shown(&entry)),
                false => reply.fail(on_its_way(&entry)),
            },
            CertificateAction::Probe => {
                let is_asked = keeper.ask_probe();
                if let Some(watch) = entry.files.clone().filter(|watch| !is_asked && watch.ask_again()) {
                    watch.look_now();
                    let certificates = Rc::clone(self);
                    tokio::task::spawn_local(async move {
                        let until = Instant::now() + LOOKED_WITHIN;
                        while watch.is_asked() && Instant::now() < until {
                            tokio::time::sleep(LOOKED_TICK).await;
                        }
                        reply.ok(&certificates.shown(&entry));
                    });
                    return;
                }
                match (is_asked, keeper.with_renewal(|renewal| renewal.begins_at())) {
                    (true, _) => reply.ok(&self.shown(&entry)),
                    (false, Some(begin)) => reply.fail(fail(not_yet_valid(begin))),
                    (false, None) => reply.fail(busy("there is no new certificate that waits for its proof")),
                }
            }
            CertificateAction::History => reply.ok(&json!({ "events": keeper.shown().state.events })),
            CertificateAction::Csr => {
                tokio::task::spawn_local(async move {
                    match entry.keeper.csr().await {
                        Ok(csr) => reply.ok(&json!({ "name": entry.name(), "csr": csr })),
                        Err(text) => reply.fail(failed(&entry, &text)),
                    }
                });
            }
            CertificateAction::Install(pem) => {
                let certificates = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    match entry.keeper.install(pem).await {
                        Ok(()) => reply.ok(&certificates.shown(&entry)),
                        Err(text) => reply.fail(failed(&entry, &text)),
                    }
                });
            }
            CertificateAction::RollBack { force } => {
                let certificates = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    let replaced = entry.keeper.shown().current_print;
                    let rolled = match force {
                        true => entry.keeper.roll_back_unproven().await,
                        false => entry.keeper.roll_back().await.map_err(|why| {
                            let name = entry.name();
                            match entry.keeper.shown().previous {
                                Some(_) => format!(
                                    "{why}; the present one stays in use; `tombolo cert rollback {name} --force` takes the one before \
                                     as it is"
                                ),
                                None => why,
                            }
                        }),
                    };
                    match rolled {
                        Ok(()) => {
                            if let (Some(watch), Some(pair)) = (&entry.files, replaced) {
                                watch.refuse(pair, "a person took the certificate before into use again");
                            }
                            if entry.usage() == Usage::Client && force {
                                certificates.link.reconnect_with(entry.keeper.settings().current());
                            }
                            reply.ok(&certificates.shown(&entry));
                        }
                        Err(text) => reply.fail(failed(&entry, &text)),
                    }
                });
            }
        }
    }

    fn next(&self, entry: &Entry, state: &str) -> Option<String> {
        next(entry, state, self.clock.wall().is_some(), self.link.spares_connection())
    }

    fn shown(&self, entry: &Entry) -> snapshot::Certificate {
        let (keeper, files) = (&entry.keeper, entry.keeper.shown());
        let (due, history, error, validity) = keeper.with_renewal(|renewal| {
            let refused = renewal.refused().map(|why| format!("it is refused: {why}"));
            let error = renewal.last_error().map(str::to_owned);
            let error = match (refused, error) {
                (Some(refused), Some(error)) => Some(format!("{refused}; and {error}")),
                (refused, error) => refused.or(error),
            };
            (renewal.due(), renewal.history().clone(), error, renewal.present())
        });
        let leaf = files.current.as_ref();
        let slot = match (files.candidate.is_some(), leaf) {
            (true, _) => Some("candidate"),
            (false, Some(_)) => Some("current"),
            (false, None) => None,
        };
        let is_taking_up = entry.dtls.as_ref().is_some_and(|dtls| dtls.is_taking_up());
        let state = match keeper.state() {
            // It is on disk, and handshakes have the one before.
            "committed" if is_taking_up => "committing",
            state => state,
        };
        let pair = entry.files.as_ref().map(|watch| watch.files());
        let wall = self.clock.wall();
        snapshot::Certificate {
            state: state.to_owned(),
            serial: leaf.map(|leaf| leaf.serial_text()),
            subject: leaf.map(|leaf| leaf.subject_text()),
            issuer: leaf.map(|leaf| leaf.issuer_text()),
            not_before: leaf.map(|leaf| leaf.validity.not_before.to_string()),
            not_after: leaf.map(|leaf| leaf.validity.not_after.to_string()),
            due: due.map(|at| at.to_string()),
            slot: slot.map(str::to_owned),
            last_attempt: history.last_attempt.or(history.obtained).map(|at| at.to_string()),
            last_error: error,
            days_left: validity.zip(wall).and_then(|(of, now)| expiry::days_left(of, now)),
            next: self.next(entry, state).or_else(|| files_next(entry)),
            retry_in_s: keeper.retry_in().map(|left| left.as_secs().max(1)),
            files: pair
                .map(|pair| [&pair.certificate, &pair.key].map(|file| file.display().to_string()).to_vec()),
            looking: entry.files.as_ref().is_some_and(|watch| watch.is_asked()),
        }
    }
}

fn failed(entry: &Entry, text: &str) -> Failure {
    Failure::new(Code::Failed, format!("certificate {}: {text}", entry.name()))
}

/// Why nothing is asked for now.
fn on_its_way(entry: &Entry) -> Failure {
    let state = entry.keeper.state();
    let hint = match state {
        "staged" => format!(
            "; `tombolo cert probe {name}` tries it at once, `tombolo cert enroll {name}` asks for another one in its place",
            name = entry.name()
        ),
        _ => String::new(),
    };
    failed(entry, &format!("one is on its way already: it is {state}{hint}"))
}

/// Why a candidate waits whose validity lies ahead.
fn not_yet_valid(begin: UnixTime) -> String {
    format!(
        "the new certificate is not valid before {begin} by the clock of this gateway, and is tried then by itself; compare the \
         clocks of its CA and of this gateway (`tombolo clock`)"
    )
}

/// For how long no connection with the certificate in use has lasted since it came into use.
fn unsteady_for(entry: &Entry) -> Option<Duration> {
    let unsteady = entry.keeper.with_renewal(|renewal| renewal.unsteady_for(Instant::now()));
    // Without one before there is nothing that could be done about it.
    let is_told = entry.usage() == Usage::Client && entry.keeper.shown().previous.is_some();
    unsteady.filter(|waited| is_told && *waited >= LASTS)
}

fn days(step: Step) -> u64 {
    match step {
        Step::Expired => 0,
        Step::Day1 => 1,
        Step::Days7 => 7,
        Step::Days14 => 14,
        Step::Days30 => 30,
    }
}

/// What is wrong with the files that another program renews.
fn files_next(entry: &Entry) -> Option<String> {
    let why = entry.files.as_ref()?.problem()?;
    let before = match entry.keeper.with_renewal(|renewal| renewal.present()) {
        Some(of) => format!("the one before, until {}, stays in use", of.not_after),
        None => "there is none before it".to_owned(),
    };
    Some(format!("{why}; {before}; correct the files, they are looked at by themselves"))
}

/// What a person has to know or to do next.
fn next(entry: &Entry, state: &str, is_clock_trusted: bool, spares_connection: bool) -> Option<String> {
    let settings = entry.keeper.settings();
    let name = settings.name.as_str();
    let is_missing = state == "missing";
    if let Some(begin) = entry.keeper.with_renewal(|renewal| renewal.begins_at()) {
        return Some(not_yet_valid(begin));
    }
    if entry.keeper.with_renewal(|renewal| renewal.refused().is_some()) && state != "expired" {
        return Some(when_refused(entry, state));
    }
    if state == "committed" && unsteady_for(entry).is_some() {
        return Some(format!(
            "the one before is tried by itself where none lasts; `tombolo cert rollback {name}` tries it at once"
        ));
    }
    if state == "staged" && entry.usage() == Usage::Client && spares_connection {
        return Some(format!(
            "the connection that stands is not given up for a trial while the broker refuses new ones; allow \
             upstream.probe-client-id to connect there, or `tombolo cert probe {name}` tries it in the place of the connection"
        ));
    }
    if let Some(failures) = entry.keeper.with_renewal(|renewal| renewal.enroll_failures())
        && matches!(state, "ordering" | "retrying" | "valid" | "committed")
    {
        return Some(format!(
            "an enrolment is asked for: {failures} of at most {ENROLLS_MAX} attempts failed; `tombolo cert enroll {name} \
             --cancel` takes it back"
        ));
    }
    if !is_clock_trusted && matches!(state, "ordering" | "staged" | "probing" | "comparing" | "retrying") {
        return Some(
            "the clock is not trusted, so the dates of the certificate and of the next one are not judged; `tombolo clock` \
             shows why"
                .to_owned(),
        );
    }
    let is_put_off = entry.keeper.with_renewal(|renewal| renewal.later_since().is_some());
    if state == "ordering" && is_put_off && entry.keeper.retry_in().is_some() {
        return Some(format!(
            "the source says \"not yet\" and is asked again by itself; `tombolo cert renew {name} --wait` asks at once"
        ));
    }
    if !is_missing && state != "expired" {
        let is_too_long = entry.keeper.with_renewal(|renewal| {
            let (of, obtained) = (renewal.present(), renewal.history().obtained);
            of.is_some_and(|of| is_before_too_long(of, obtained, settings.renew_at))
        });
        return is_too_long.then(|| BEFORE_TOO_LONG.to_owned());
    }
    let begin = if is_missing { NOT_ENROLLED } else { "" };
    Some(match (&entry.files, settings.by_hand) {
        (Some(watch), _) => format!(
            "{} and {} have no valid pair of a certificate and its key: put one there",
            watch.files().certificate.display(),
            watch.files().key.display()
        ),
        (None, true) => format!(
            "{begin}`tombolo cert csr {name}` prints its signing request, `tombolo cert install {name} FILE` takes the answer"
        ),
        (None, false) if settings.decision().may_enroll => format!(
            "{begin}its source is asked by itself; `tombolo cert enroll {name} --wait` asks at once and says what comes of it"
        ),
        (None, false) => format!(
            "{begin}nothing proves to the source who asks: set [certificate.{name}] bootstrap-certificate-file and \
             bootstrap-key-file, or username and password-file; then `systemctl restart tombolo`"
        ),
    })
}

/// What becomes of a certificate that the peer refuses.
fn when_refused(entry: &Entry, state: &str) -> String {
    let settings = entry.keeper.settings();
    let name = settings.name.as_str();
    let back = match entry.keeper.shown().previous {
        Some(_) => format!(
            "the one before is tried by itself, now and then; `tombolo cert rollback {name}` tries it at once"
        ),
        None => "there is none before it that could be taken back".to_owned(),
    };
    let other = match (&entry.files, settings.by_hand) {
        _ if matches!(state, "staged" | "probing" | "comparing") => {
            format!(
                "another one is there and is tried by itself; `tombolo cert probe {name}` tries it at once"
            )
        }
        _ if state == "committing" => {
            "another one is proven and used, and takes its place as soon as the disk takes it".to_owned()
        }
        (Some(watch), _) if watch.problem().is_some() => format!(
            "what is in {} is tried again by itself where it can be; `tombolo reload` does so at once; or put another one there",
            watch.files().certificate.display()
        ),
        (Some(watch), _) => {
            format!("put another one in {} and its key's file", watch.files().certificate.display())
        }
        (None, true) => format!(
            "`tombolo cert csr {name}` prints a signing request, `tombolo cert install {name} FILE` takes the answer"
        ),
        (None, false) => {
            format!("another one is asked for by itself; `tombolo cert renew {name} --wait` asks at once")
        }
    };
    format!("{back}; {other}")
}

/// The files that are configured, with their names in `cert status`.
fn pairs(settings: &Settings) -> Vec<(&'static str, PairFiles)> {
    let mut pairs = Vec::new();
    let tls = settings.upstream.as_ref().and_then(|upstream| upstream.tls.as_ref());
    if let Some((certificate, key)) = tls.and_then(|tls| tls.identity.clone())
        && settings.certificate(Usage::Client).is_none()
    {
        let key_password = tls.and_then(|tls| tls.key_password.clone());
        pairs.push((UPSTREAM_FILES, PairFiles { certificate, key, key_password, usage: Usage::Client }));
    }
    if let Some((certificate, key)) = settings.coap.certificate_files.clone() {
        pairs.push((COAP_FILES, PairFiles { certificate, key, key_password: None, usage: Usage::Server }));
    }
    pairs
}

/// Where the last good pair is kept, and where it would be otherwise. A key that was encrypted, or
/// that systemd keeps in memory, is kept in memory, too: the runtime directory.
fn folders(settings: &Settings, name: &str, files: &PairFiles) -> (PathBuf, PathBuf) {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let in_memory = files.key_password.is_some()
        || credentials.is_some_and(|folder| files.key.starts_with(Path::new(&folder)));
    let mut digest = digest::Context::new(&digest::SHA256);
    for file in [&files.certificate, &files.key] {
        digest.update(file.as_os_str().as_bytes());
        digest.update(&[0]);
    }
    let own = format!("{name}-{}", format_hex(&digest.finish().as_ref()[..8]));
    let place = |base: &Path| base.join(FOLDER).join(&own);
    let (state, runtime) = (place(&settings.paths.state_dir), place(&settings.paths.runtime_dir));
    if in_memory { (runtime, state) } else { (state, runtime) }
}

/// Opens what is kept of these files, and takes what is in them if nothing is. It blocks.
fn open_files(
    folder: &Path,
    other: &Path,
    files: &PairFiles,
    clock: &dyn WallClock,
) -> Result<Store<OnDisk>, String> {
    forget_others(folder, true);
    // A key that was in clear before it was encrypted.
    forget_others(other, false);
    let mut store = open_store(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    if store.current().is_none()
        && let Ok(held) = files.read(None)
    {
        let kept = store.stage(held).and_then(|()| store.commit(clock.wall()));
        kept.map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(store)
}

/// Removes what was kept of other files of this name, and, unless `keeps_own`, of these.
fn forget_others(folder: &Path, keeps_own: bool) {
    let (Some(above), Some(own)) = (folder.parent(), folder.file_name().and_then(|name| name.to_str()))
    else {
        return;
    };
    let Some((name, _)) = own.rsplit_once('-') else { return };
    for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let is_other = other.to_str().and_then(|other| other.rsplit_once('-')).is_some_and(|(of, hash)| {
            of == name && hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_other && !(keeps_own && other.to_str() == Some(own)) {
            let _ = std::fs::remove_dir_all(entry.path()); // what stays is nobody's
        }
    }
}
