//! A real mosquitto on free ports, and an uplink driven against it.

use std::cell::RefCell;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tombolo::clock::{Moment, UnixTime, WallClock};
use tombolo::northbound::io::{Driver, Handle};
use tombolo::northbound::settings::{Settings, TlsSettings, TlsVersion};
use tombolo::northbound::uplink::Uplink;

use super::outbox::MemoryOutbox;
use super::pki::{Authority, Folder, Identity, LONG};

/// 2026-07-01
pub const NOW: UnixTime = UnixTime::from_secs(1_782_864_000);

/// A wall clock that says what it is told.
pub struct FakeClock {
    pub raw: UnixTime,
    pub trusted: bool,
    pub floor: UnixTime,
}

impl WallClock for FakeClock {
    fn raw(&self) -> UnixTime {
        self.raw
    }
    fn trusted(&self) -> bool {
        self.trusted
    }
    fn floor(&self) -> UnixTime {
        self.floor
    }
}

pub fn good_clock() -> Arc<FakeClock> {
    Arc::new(FakeClock { raw: NOW, trusted: true, floor: NOW })
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A mosquitto with one TLS listener and one plain one, which is for those who look.
pub struct Mosquitto {
    child: Option<Child>,
    pub folder: Folder,
    pub port: u16,
    pub plain_port: u16,
    pub authority: Authority,
}

impl Mosquitto {
    /// `extra` goes to the TLS listener.
    pub fn start(server: impl FnOnce(&Authority) -> Identity, extra: &str) -> Mosquitto {
        Mosquitto::with_general(server, "", extra)
    }

    pub fn with_general(
        server: impl FnOnce(&Authority) -> Identity,
        general: &str,
        extra: &str,
    ) -> Mosquitto {
        let authority = Authority::new("Test CA");
        let folder = Folder::new();
        let identity = server(&authority);
        folder.write("ca.pem", &authority.pem);
        folder.write("server.pem", &identity.certificate);
        folder.write("server.key", &identity.key);
        let mut mosquitto = Mosquitto { child: None, folder, port: 0, plain_port: 0, authority };
        // The port may be taken between looking and binding.
        for _ in 0..20 {
            let (port, plain_port) = (free_port(), free_port());
            let folder = mosquitto.folder.path().display().to_string();
            let extra = extra.replace("{FOLDER}", &folder);
            let anonymous = if extra.contains("allow_anonymous") { "" } else { "allow_anonymous true" };
            let config = format!(
                "per_listener_settings true\nuser root\n{general}\n\
                 listener {port} 127.0.0.1\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key\n{extra}\n{anonymous}\n\
                 listener {plain_port} 127.0.0.1\nallow_anonymous true\n"
            );
            mosquitto.folder.write("mosquitto.conf", &config);
            (mosquitto.port, mosquitto.plain_port) = (port, plain_port);
            if mosquitto.try_run() {
                return mosquitto;
            }
        }
        panic!("mosquitto does not start: {}", mosquitto.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn try_run(&mut self) -> bool {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new("mosquitto")
            .arg("-v")
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mosquitto is installed");
        self.child = Some(child);
        let give_up = Instant::now() + Duration::from_secs(20);
        while Instant::now() < give_up {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            // On a port that it did not get, another program may answer.
            if self.log().contains(" running")
                && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && TcpStream::connect(("127.0.0.1", self.plain_port)).is_ok()
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Starts it again, on the same ports.
    pub fn restart(&mut self) {
        self.kill();
        let give_up = Instant::now() + Duration::from_secs(20);
        while !self.try_run() {
            assert!(Instant::now() < give_up, "mosquitto does not come back: {}", self.log());
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn settings(&self) -> Settings {
        Settings {
            host: "localhost".to_owned(),
            port: self.port,
            tls: Some(TlsSettings {
                ca_file: Some(self.folder.path().join("ca.pem")),
                pins: Vec::new(),
                identity: None,
                key_password: None,
                alpn: Vec::new(),
                minimum: TlsVersion::V1_2,
                revocation: Default::default(),
                est_anchors: None,
                token: None,
            }),
            ..super::settings()
        }
    }

    /// Everything said on the broker from now on, a line each.
    pub fn watch(&self, format: &str) -> Watcher {
        let port = self.plain_port.to_string();
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "mqttv5", "-q", "1", "-t", "#", "-F", format])
            .args(["-i", "watcher"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is installed");
        let mut out = child.stdout.take().unwrap();
        let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = lines.clone();
        std::thread::spawn(move || {
            let (mut text, mut bytes) = (Vec::new(), [0u8; 4096]);
            while let Ok(length @ 1..) = out.read(&mut bytes) {
                text.extend_from_slice(&bytes[..length]);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    sink.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
            }
        });
        let watcher = Watcher { child, lines };
        let give_up = Instant::now() + Duration::from_secs(20);
        while !self.log().contains("Sending SUBACK to watcher") {
            assert!(Instant::now() < give_up, "the watcher does not subscribe: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        watcher
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn ordinary(authority: &Authority) -> Identity {
    authority.server("localhost", &LONG)
}

pub struct Watcher {
    child: Child,
    lines: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Watcher {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An uplink at work, for the time of one test.
pub struct Running {
    pub handle: Handle,
    pub outbox: Rc<RefCell<MemoryOutbox>>,
}

impl Running {
    /// Waits for `done`; panics with the uplink's state when it takes too long.
    pub async fn until(&self, what: &str, mut done: impl FnMut(&Running) -> bool) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            assert!(Instant::now() < give_up, "{what}: {:?}", self.handle.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a publish of the gateway's own, and so all before it, was answered; how long it
    /// took.
    pub async fn answered(&self) -> Duration {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(took) = self.handle.check(Duration::from_secs(5)).await.took {
                return took;
            }
            assert!(Instant::now() < give_up, "nothing is answered: {:?}", self.handle.status());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn failure(&self) -> String {
        self.until("fails", |running| running.handle.status().failure.is_some()).await;
        self.handle.status().failure.unwrap()
    }
}

/// Runs `test` beside an uplink with these settings.
pub fn run<F: AsyncFnOnce(Running)>(settings: Settings, clock: Arc<dyn WallClock>, test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let begun = Instant::now();
        let handle = Handle::new(Uplink::new(begun, settings));
        let outbox = Rc::new(RefCell::new(MemoryOutbox::default()));
        let wall = clock.clone();
        let moment = move || Moment {
            now: Instant::now(),
            boottime_ms: 1_000_000 + begun.elapsed().as_millis() as u64,
            wall: wall.wall(),
            ages_from: Some(UnixTime(0)),
        };
        let driver = Driver::new(handle.clone(), clock, moment);
        let shared = outbox.clone();
        let task = tokio::task::spawn_local(async move { driver.run(&*shared).await });
        test(Running { handle: handle.clone(), outbox }).await;
        handle.stop().await;
        task.await.unwrap();
    });
}
