//! Two files that another program renews, watched: by inotify on the folders they and their
//! symbolic links are in, and by looking now and then, since not every file system notices.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::keeper::{Keeper, server_key};
use crate::clock::{UnixTime, WallClock};
use crate::credential::leaf::Usage;
use crate::credential::store::Held;
use crate::credential::watched::{Seen, Watched};
use crate::northbound::io::files;

/// How often the files are looked at without a notice, where there are notices.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same where there are none.
const LOOK_EVERY_UNNOTICED: Duration = Duration::from_secs(5);
/// Symbolic links followed of one file.
const LINKS_MAX: usize = 8;
/// The tag of a DER `SEQUENCE`: no PEM begins with it.
const SEQUENCE: u8 = 0x30;

/// A certificate file and its key's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// The chain, PEM or one certificate in DER.
    pub certificate: PathBuf,
    /// The key, PEM or DER.
    pub key: PathBuf,
    /// The password of an encrypted key.
    pub key_password: Option<PathBuf>,
    /// What it is for.
    pub usage: Usage,
}

impl PairFiles {
    /// Reads them; a pair that would fail at once is none. `now`: the time, if it is trusted. It
    /// blocks.
    ///
    /// # Errors
    /// Why they are of no use, with the file.
    pub fn read(&self, now: Option<UnixTime>) -> Result<Held, String> {
        let (shown, shown_key) = (self.certificate.display(), self.key.display());
        let chain = files::pem(&self.certificate)?;
        let secret = files::key(&self.key, self.key_password.as_deref())?;
        let (secret, again) = (Zeroizing::new(secret.bytes), files::pem(&self.certificate)?);
        if again.bytes != chain.bytes {
            return Err(format!("{shown}: is being written"));
        }
        let chain = certificates(&chain.bytes).map_err(|what| format!("{shown}: {what}"))?;
        let key = if secret.first() == Some(&SEQUENCE) {
            secret
        } else {
            let key = PrivateKeyDer::from_pem_slice(&secret)
                .map_err(|_| format!("{shown_key}: holds no private key (PEM is expected)"))?;
            Zeroizing::new(key.secret_der().to_vec())
        };
        let held = Held::new(chain, Arc::new(key)).map_err(|what| format!("{shown}, {shown_key}: {what}"))?;
        if self.usage == Usage::Server {
            server_key(&held).map_err(|what| format!("{shown}: {what}"))?;
        }
        let validity = held.leaf.validity;
        match now {
            Some(now) if validity.has_expired(now) => {
                Err(format!("{shown}: expired on {}", validity.not_after))
            }
            Some(now) if validity.not_before > now => {
                Err(format!("{shown}: is not valid before {}", validity.not_before))
            }
            _ => Ok(held),
        }
    }
}

fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(vec![bytes.to_vec()]);
    }
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(bytes).map(|der| der.map(|der| der.to_vec())).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("holds no certificate (PEM is expected)"),
        Ok(chain) => Ok(chain),
        Err(_) => Err("is not complete PEM"),
    }
}

/// Watches one pair for a [`Keeper`].
pub struct FileWatch {
    files: PairFiles,
    core: RefCell<Watched>,
    notices: RefCell<Option<Notices>>,
    look_at: Cell<Instant>,
    looking: Cell<bool>,
    /// A person says that the files are done, and they were not looked at since.
    asked: Cell<bool>,
    clock: Arc<dyn WallClock>,
}

impl FileWatch {
    /// Begins with what the keeper has.
    pub fn new(now: Instant, files: PairFiles, keeper: &Keeper, clock: Arc<dyn WallClock>) -> Rc<FileWatch> {
        let shown = keeper.shown();
        Rc::new(FileWatch {
            files,
            core: RefCell::new(Watched::new(shown.current_print, shown.candidate_print)),
            notices: RefCell::default(),
            look_at: Cell::new(now),
            looking: Cell::new(false),
            asked: Cell::new(false),
            clock,
        })
    }

    /// The files.
    pub fn files(&self) -> &PairFiles {
        &self.files
    }

    /// A person says that the files are done: looks at them with the next [`FileWatch::care`].
    pub fn look_now(&self) {
        self.core.borrow_mut().handle_asked();
        self.look_at.set(Instant::now());
        self.asked.set(true);
    }

    /// A person wants what is in the files proven again. False: it was not refused.
    pub fn ask_again(&self) -> bool {
        self.core.borrow_mut().ask_again()
    }

    /// Whether [`FileWatch::look_now`] was called and they were not looked at since.
    pub fn is_asked(&self) -> bool {
        self.asked.get()
    }

    /// Whether the files have the pair that is in use.
    pub fn is_in_use(&self) -> bool {
        self.core.borrow().is_in_use()
    }

    /// What is wrong with the files and lasts, in one sentence.
    pub fn problem(&self) -> Option<String> {
        self.core.borrow().problem(Instant::now())
    }

    /// A person does not want what is in the files: not before it changes.
    pub fn refuse(&self, pair: u64, why: &str) {
        self.core.borrow_mut().handle_refused(Instant::now(), pair, why.to_owned());
    }

    /// Every second or so.
    pub fn care(self: &Rc<Self>, keeper: &Rc<Keeper>) {
        self.follow(keeper);
        let now = Instant::now();
        let noticed = self.notices.borrow().as_ref().is_some_and(Notices::take);
        let due = noticed || now >= self.look_at.get() || self.core.borrow().is_unsettled(now);
        if !due || self.looking.replace(true) {
            return;
        }
        let (watch, keeper, asked) = (Rc::clone(self), Rc::clone(keeper), self.asked.get());
        tokio::task::spawn_local(async move {
            watch.look(&keeper).await;
            watch.looking.set(false);
            // A new pair is looked at a second time before it is offered.
            if asked && !watch.core.borrow().is_new(Instant::now()) {
                watch.asked.set(false);
            }
        });
    }

    /// What became of the pair that was offered.
    fn follow(&self, keeper: &Keeper) {
        let shown = keeper.shown();
        let mut core = self.core.borrow_mut();
        core.handle_serves(keeper.serves());
        if let Some(current) = shown.current_print {
            core.handle_in_use(current);
        }
        let Some(offered) = core.offered().filter(|offered| shown.candidate_print != Some(*offered)) else {
            return;
        };
        let (is_resting, why) = keeper.with_renewal(|renewal| {
            (renewal.is_resting(), renewal.last_error().unwrap_or("it was given up").to_owned())
        });
        if is_resting && !self.looking.get() {
            core.handle_refused(Instant::now(), offered, why);
        }
    }

    async fn look(&self, keeper: &Rc<Keeper>) {
        let (files, wall) = (self.files.clone(), self.clock.wall());
        let looked = tokio::task::spawn_blocking(move || {
            // Noticed from before the look on: what changes during it is not missed.
            let notices = Notices::new(&files);
            (notices, files.read(wall))
        });
        let Ok((notices, read)) = looked.await else { return };
        let every = if notices.is_some() { LOOK_EVERY } else { LOOK_EVERY_UNNOTICED };
        self.notices.replace(notices);
        let now = Instant::now();
        self.look_at.set(now + every);
        let (seen, held) = match read {
            Ok(held) => (Seen::Pair(held.print()), Some(held)),
            Err(why) => (Seen::Unusable(why), None),
        };
        let offer = self.core.borrow_mut().handle_seen(now, seen);
        if let Some(held) = held.filter(|_| offer) {
            let certificate = keeper.settings().name.as_str();
            log::info!(certificate, file:% = self.files.certificate.display(); "the files have a new certificate");
            if let Err(reason) = keeper.offer(held).await {
                log::warn!(certificate, reason; "the new certificate cannot be taken up yet");
                self.core.borrow_mut().handle_undone(Instant::now());
            }
        }
    }
}

/// Says whether something happened in the folders of the files.
struct Notices(Inotify);

impl Notices {
    /// `None` where the system has none to give.
    fn new(files: &PairFiles) -> Option<Notices> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE;
        let mut watched = false;
        for file in [&files.certificate, &files.key] {
            for folder in folders(file) {
                watched |= inotify.add_watch(&folder, events).is_ok();
            }
        }
        watched.then_some(Notices(inotify))
    }

    /// Whether there was a notice since the last call.
    fn take(&self) -> bool {
        let mut noticed = false;
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {
            noticed = true;
        }
        noticed
    }
}

/// The folders of a file and of what its symbolic links lead to.
fn folders(file: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut file = file.to_path_buf();
    for _ in 0..LINKS_MAX {
        let folder = file.parent().unwrap_or(Path::new("/")).to_path_buf();
        let target = std::fs::read_link(&file).map(|target| folder.join(target));
        folders.push(folder);
        match target {
            Ok(target) => file = target,
            Err(_) => break,
        }
    }
    folders
}
