//! The server of the repositories, one for all tests of this process, and gateways that check them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tombolo::clock::{UnixTime, WallClock};
use tombolo::https::io::{Client, Trust};
use tombolo::https::message::Limits;
use tombolo::https::wording::Keys;
use tombolo::message::Name;
use tombolo::update::check::Fault;
use tombolo::update::eligibility::{Decision, Installed, Objections};
use tombolo::update::floor::Floor;
use tombolo::update::io::answer::{Fetching, Question};
use tombolo::update::io::check::{Terms, check};
use tombolo::update::io::floor::{change, on_disk, raise, read};
use tombolo::update::io::tuf::{self, Place};
use tombolo::update::settings::{self, Backend, Folder, Settings, Source};
use tombolo::update::window::Window;

const KEYS: Keys = Keys { url: "url", ca_file: "ca-file", certificate: "a certificate" };
/// 2026-12-01: nothing has expired.
pub const NOW: UnixTime = UnixTime::from_secs(1_796_083_200);

pub struct Server {
    folder: PathBuf,
    port: u16,
    /// It ends when its standard input is closed, so with this process at the latest.
    _process: Child,
}

impl Server {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

pub fn server() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(|| {
        let folder = folder("repositories");
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
        assert!(python.exists(), "tests/run peers makes {}", python.display());
        let mut process = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/update/repositories.py"))
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the server says its port; python-tuf and openssl are needed");
        Server { folder, port, _process: process }
    });
    &SERVER
}

/// A new folder below the target's temporary one.
fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Judges the server's certificate, which was made a moment ago.
struct Today;

impl WallClock for Today {
    fn raw(&self) -> UnixTime {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        UnixTime(now.as_millis() as u64)
    }

    fn trusted(&self) -> bool {
        true
    }

    fn floor(&self) -> UnixTime {
        UnixTime::from_secs(1_700_000_000)
    }
}

/// A gateway with 1.0.0 installed, and a floor of its own.
pub struct Gateway {
    state: PathBuf,
    root: &'static str,
    ca: &'static str,
    limits: Limits,
    pub now: Option<UnixTime>,
    pub installed: Installed,
}

impl Gateway {
    /// One that has seen nothing yet.
    pub fn new() -> Gateway {
        let limits = Limits {
            total: Duration::from_secs(60),
            idle: Duration::from_secs(50),
            head: 16 * 1024,
            body: tuf::LIMITS.max_targets_size as usize,
        };
        let installed = Installed {
            gateway: Name::parse("gw-1").unwrap(),
            version: Some("1.0.0".to_owned()),
            compatible: Some("acme-gw2".to_owned()),
            hardware: None,
        };
        let state = folder("floor");
        Gateway { state, root: "root.json", ca: "ca.pem", limits, now: Some(NOW), installed }
    }

    /// One that was delivered with another root.json.
    pub fn with_root(root: &'static str) -> Gateway {
        let mut gateway = Gateway::new();
        gateway.root = root;
        gateway
    }

    /// One that believes another CA.
    pub fn with_ca(ca: &'static str) -> Gateway {
        let mut gateway = Gateway::new();
        gateway.ca = ca;
        gateway
    }

    /// One that waits so long, for everything and between two pieces.
    pub fn with_patience(total: Duration, idle: Duration) -> Gateway {
        let mut gateway = Gateway::new();
        (gateway.limits.total, gateway.limits.idle) = (total, idle);
        gateway
    }

    /// The owner puts another root.json in place.
    pub fn trust(&mut self, root: &'static str) {
        self.root = root;
    }

    /// One that has seen this repository.
    pub fn that_has_seen(repository: &str) -> Gateway {
        let gateway = Gateway::new();
        gateway.check(repository).unwrap_or_else(|fault| panic!("{repository}: {fault}"));
        gateway
    }

    pub fn check(&self, repository: &str) -> Result<Decision, Fault> {
        self.check_while(repository, &Arc::default(), || ())
    }

    /// As [`Gateway::check`]; `meanwhile` happens when all is fetched and nothing is judged yet.
    pub fn check_while(
        &self,
        repository: &str,
        dropped: &Arc<AtomicBool>,
        meanwhile: impl Fn() + Sync,
    ) -> Result<Decision, Fault> {
        let server = server();
        let base = format!("https://127.0.0.1:{}/{repository}", server.port);
        let place = Place { metadata: format!("{base}/metadata/"), targets: format!("{base}/targets/") };
        let client = self.client();
        let root = tuf::read_root(&server.folder.join(self.root)).unwrap();
        let fetch = tuf::load(&place, &root, client, None);
        let terms = Terms { daemon: None, raises: true, dropped: dropped.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let objections = Objections::default();
        // It is opened before anything is asked, and at the end.
        let opened = AtomicU32::new(0);
        let floor = || {
            if opened.fetch_add(1, Ordering::Relaxed) == 1 {
                std::thread::scope(|scope| scope.spawn(&meanwhile).join().unwrap());
            }
            on_disk(&self.state)
        };
        let seen = runtime.block_on(check(fetch, &terms, floor, &self.installed, &objections, self.now));
        seen.map(|seen| seen.decision)
    }

    /// As the daemon asks, until `dropped` is set.
    pub fn question(&self, repository: &str, dropped: &Arc<AtomicBool>) -> Question {
        let folder = |name: &str| {
            Folder::parse(&format!("https://127.0.0.1:{}/{repository}/{name}", server().port)).unwrap()
        };
        let place = settings::Place {
            metadata: folder("metadata"),
            targets: folder("targets"),
            root_file: server().folder.join(self.root),
            ca_file: Some(server().folder.join(self.ca)),
        };
        let settings = Settings {
            source: Source::Tuf(place),
            period: Settings::PERIOD,
            backend: Backend::None,
            window: Window::ALWAYS,
            compatible: None,
            hardware: None,
            health_timeout: Settings::HEALTH_TIMEOUT,
            daily_budget: None,
            sensors: Default::default(),
            reserve: 0,
        };
        Question {
            settings,
            gateway: self.installed.gateway.clone(),
            folder: self.state.clone(),
            objections: Objections::default(),
            clock: Arc::new(Today),
            fetching: Fetching::Within,
            daemon: None,
            raises: true,
            dropped: dropped.clone(),
        }
    }

    /// What asks the server.
    pub fn client(&self) -> Arc<Client> {
        let trust = Trust::File(server().folder.join(self.ca));
        match Client::new(&trust, None, Arc::new(Today), self.limits, KEYS) {
            Ok(client) => Arc::new(client),
            Err(failure) => panic!("{failure}"),
        }
    }

    /// The version that is offered.
    pub fn offered(&self, repository: &str) -> String {
        match self.check(repository) {
            Ok(Decision::Available(offer)) => offer.version,
            other => panic!("{repository}: {other:?}"),
        }
    }

    /// The sentence of the refusal; nothing of what was refused is left in the floor.
    pub fn refusal(&self, repository: &str) -> String {
        let before = self.floor();
        match self.check(repository) {
            Err(fault @ (Fault::Invalid(_) | Fault::Rollback(_) | Fault::Fork(_))) => {
                assert_eq!(self.floor(), before, "{repository}");
                fault.to_string()
            }
            other => panic!("{repository}: {other:?}"),
        }
    }

    /// A version was installed, and is good.
    pub fn confirm(&self, version: &str) {
        let firmware = Some((version.to_owned(), "semver".to_owned()));
        raise(on_disk(&self.state), &Floor { firmware, ..Floor::default() }).unwrap();
    }

    /// The floor is what somebody made of it.
    pub fn change(&self, act: impl FnOnce(&mut Floor)) {
        change(on_disk(&self.state), |floor| (act(floor), true)).unwrap();
    }

    /// As `decommission` leaves it.
    pub fn forget(&self) {
        std::fs::remove_file(self.state.join("floor")).unwrap();
    }

    pub fn floor(&self) -> Floor {
        read(on_disk(&self.state)).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.state);
    }
}
