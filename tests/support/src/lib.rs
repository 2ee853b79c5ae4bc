//! What several test targets, benches and fuzz targets use: real peers (a mosquitto behind TLS, a
//! subscriber that writes down all it hears, a daemon under test), each in its own folder, on ports
//! nobody else has; and harnesses of the cores.
#![forbid(unsafe_code)]

pub mod bench;
pub mod broker;
pub mod disk_faults;
pub mod dtls;
pub mod http;
pub mod journal;
pub mod kernel;
mod ports;
pub mod readings;
pub mod session_store;
pub mod token;

use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// How long anything here may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that goes when it is dropped, unless the test panicked.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique =
            format!("tombolo-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).expect("the temporary folder can be made");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("the folder can be made");
        }
        fs::write(&path, text).expect("the file can be written");
        path
    }

    /// A shell script that can be run. Another process writes it: if this one did, a child that
    /// another test's thread forks in between would inherit the open file, and the kernel runs no
    /// file that is open for writing (ETXTBSY).
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("install is there");
        let mut input = install.stdin.take().expect("a pipe");
        input.write_all(text.as_bytes()).expect("it reads");
        drop(input);
        assert!(install.wait().expect("it ends").success());
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for you to look at: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A TCP port that nobody listens on.
pub fn free_tcp_port() -> u16 {
    ports::next(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// A UDP port that nobody listens on.
pub fn free_udp_port() -> u16 {
    ports::next(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// What a libcoap program printed, standard error included, without the times of its log: `5.03` is
/// looked for in it, and 16:23:55.032 is no answer.
pub fn printed(output: &std::process::Output) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let is_time = |word: &str| {
        word.contains(':') && word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit())
    };
    let line = |line: &str| match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
        [_, _, time, rest] if is_time(time) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Asks until `condition` holds.
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, condition);
}

/// The same with a patience of its own.
pub fn wait_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A CA, and certificates it signed, as PEM files in a folder.
pub struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Pki {
    pub fn new(folder: &Path) -> Pki {
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, format!("Test CA of {}", folder.display()));
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("a CA");
        fs::write(folder.join("ca.pem"), issuer.pem()).expect("ca.pem");
        Pki { issuer, folder: folder.to_owned() }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for `names`, in `NAME.pem` and `NAME.key`.
    pub fn issue(&self, name: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        self.issue_with(name, names, |_| {})
    }

    pub fn issue_with(
        &self,
        name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")));
        fs::write(self.folder.join(format!("{name}.pub")), key.public_key_pem()).expect("public key file");
        fs::write(&files.0, certificate.pem()).expect("certificate file");
        fs::write(&files.1, key.serialize_pem()).expect("key file");
        files
    }
}

impl Pki {
    /// The list of all certificates revoked, by their serial numbers, in PEM form.
    pub fn revoke(&self, serials: &[u64]) -> String {
        self.revoke_serials(serials.iter().map(|serial| (*serial).into()), 2100)
    }

    /// The same; the list expires with the beginning of a year.
    pub fn revoke_until(&self, serials: &[u64], year: i32) -> String {
        self.revoke_serials(serials.iter().map(|serial| (*serial).into()), year)
    }

    /// The same, by the content of their serial numbers.
    pub fn revoke_der(&self, serials: &[&[u8]]) -> String {
        self.revoke_serials(serials.iter().map(|serial| rcgen::SerialNumber::from_slice(serial)), 2100)
    }

    fn revoke_serials(&self, serials: impl Iterator<Item = rcgen::SerialNumber>, year: i32) -> String {
        let revoked = serials.map(|serial_number| rcgen::RevokedCertParams {
            serial_number,
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a revocation list")
    }
}

/// A mosquitto with TLS on one port and plain MQTT, for the test's own subscribers, on another.
pub struct Mosquitto {
    pub tls_port: u16,
    pub plain_port: u16,
    folder: PathBuf,
    child: Option<Child>,
}

impl Mosquitto {
    /// `extra` goes into the configuration before the listeners.
    pub fn start(folder: &Path, pki: &Pki, extra: &str) -> Mosquitto {
        Mosquitto::start_with(folder, pki, extra, |_| {})
    }

    /// With a change to its certificate.
    pub fn start_with(
        folder: &Path,
        pki: &Pki,
        extra: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Mosquitto {
        let (certificate, key) = pki.issue_with("broker", &["localhost", "127.0.0.1"], change);
        let mut broker = Mosquitto { tls_port: 0, plain_port: 0, folder: folder.to_owned(), child: None };
        // A port that was free a moment ago may be somebody else's now: then others are tried.
        for _ in 0..5 {
            (broker.tls_port, broker.plain_port) = (free_tcp_port(), free_tcp_port());
            broker.configure(&certificate, &key, pki, extra);
            if broker.try_resume() {
                return broker;
            }
        }
        panic!("mosquitto does not start; see {}/mosquitto.log", folder.display());
    }

    fn configure(&self, certificate: &Path, key: &Path, pki: &Pki, extra: &str) {
        let Mosquitto { tls_port, plain_port, folder, .. } = self;
        let text = format!(
            "persistence true\npersistence_location {folder}/\nautosave_interval 0\nallow_anonymous true\n\
             max_inflight_messages 1000\nmax_queued_messages 0\nset_tcp_nodelay true\nuser root\n\
             log_dest file {folder}/mosquitto.log\nlog_type error\nlog_type warning\nlog_type notice\n{extra}\n\
             listener {tls_port} 127.0.0.1\ncafile {ca}\ncertfile {certificate}\nkeyfile {key}\n\
             listener {plain_port} 127.0.0.1\n",
            folder = folder.display(),
            ca = pki.ca().display(),
            certificate = certificate.display(),
            key = key.display(),
        );
        fs::write(folder.join("mosquitto.conf"), text).expect("mosquitto.conf");
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Starts it again where it was stopped.
    pub fn resume(&mut self) {
        wait_for("mosquitto on its port again", || self.try_resume());
    }

    /// Starts it; false if it ended at once.
    fn try_resume(&mut self) -> bool {
        // One that a test killed may still have its ports for a moment.
        if let Some(mut before) = self.child.take() {
            let _ = before.kill();
            let _ = before.wait();
        }
        let mut child = Command::new("mosquitto")
            .arg("-c")
            .arg(self.folder.join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed");
        let port = self.plain_port;
        let mut ended = false;
        wait_for("mosquitto", || {
            ended = child.try_wait().is_ok_and(|status| status.is_some());
            ended || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        if !ended {
            self.child = Some(child);
        }
        !ended
    }

    /// Ends it; with SIGTERM it saves what it holds.
    pub fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            finish(child, Signal::SIGTERM);
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A `mosquitto_sub` that writes down one line a message in the format given.
pub struct Subscriber {
    file: PathBuf,
    child: Option<Child>,
}

impl Subscriber {
    /// `format` as of mosquitto_sub(1); `%t` topic, `%p` payload, `%C` content type, `%P` user
    /// properties.
    pub fn start(broker: &Mosquitto, folder: &Path, filter: &str, format: &str) -> Subscriber {
        let file = folder.join("arrived.txt");
        let out = fs::File::create(&file).expect("arrived.txt");
        let child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &broker.plain_port.to_string()])
            .args(["-V", "5", "-q", "1", "-c", "-i", "witness", "-x", "100000"])
            .args(["-t", filter, "-F", format])
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is installed");
        let subscriber = Subscriber { file, child: Some(child) };
        // It hears its own first words only when its subscription stands.
        let port = broker.plain_port.to_string();
        let probe = filter.split('/').next().unwrap_or("tombolo").to_owned() + "/witness/ready";
        wait_for("the subscriber", || {
            let _ = Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &port, "-t", &probe, "-m", "ready", "-q", "1"])
                .status();
            subscriber.text().contains("ready")
        });
        subscriber
    }

    pub fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap_or_default()
    }

    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            finish(child, Signal::SIGKILL);
        }
    }
}

/// The program that is measured: `built` by cargo, or that of `BINARY` in the environment.
pub fn program(built: &str) -> PathBuf {
    std::env::var_os("BINARY").map_or_else(|| built.into(), Into::into)
}

/// The daemon under test.
pub struct Daemon {
    child: Option<Child>,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    pub coaps: SocketAddr,
    pub coap: Option<SocketAddr>,
    /// Set for the daemon, not for commands, from its next start on.
    pub environment: Vec<(String, String)>,
}

impl Daemon {
    /// Writes `tombolo.toml` in `folder` from the ports and `extra`, and starts `binary run`.
    pub fn start(binary: &Path, folder: &Folder, broker_port: u16, ca: &Path, extra: &str) -> Daemon {
        Daemon::start_with(binary, folder, broker_port, ca, extra, str::to_owned)
    }

    /// The same, with a last change to the text of the configuration.
    pub fn start_with(
        binary: &Path,
        folder: &Folder,
        broker_port: u16,
        ca: &Path,
        extra: &str,
        change: impl FnOnce(&str) -> String,
    ) -> Daemon {
        let mut daemon = Daemon::configure(binary, folder, broker_port, ca, extra, change);
        daemon.resume();
        daemon
    }

    /// The same without starting it.
    pub fn configure(
        binary: &Path,
        folder: &Folder,
        broker_port: u16,
        ca: &Path,
        extra: &str,
        change: impl FnOnce(&str) -> String,
    ) -> Daemon {
        let port = free_udp_port();
        let text = format!(
            "[gateway]\nid = \"gw\"\n\n[paths]\nstate-dir = \"state\"\nruntime-dir = \"run\"\n\n\
             [clock]\ntrust = \"always\"\n\n\
             [upstream]\nurl = \"mqtts://localhost:{broker_port}\"\nca-file = \"{ca}\"\n\n\
             [coap]\nlisten = [\"127.0.0.1:{port}\"]\n{extra}\n",
            ca = ca.display()
        );
        let config = folder.write("tombolo.toml", change(&text));
        Daemon {
            child: None,
            binary: binary.to_owned(),
            config,
            log: folder.join("tombolo.log"),
            coaps: (Ipv4Addr::LOCALHOST, port).into(),
            coap: None,
            environment: Vec::new(),
        }
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts it (again) and waits until it answers on its control socket.
    pub fn resume(&mut self) {
        self.spawn();
        wait_for("the daemon", || self.command(&["status", "--json"]).0 == 0);
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("log file");
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(&self.config)
            .arg("run")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        self.child = Some(child);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().expect("it runs").id();
        kill(Pid::from_raw(pid as i32), signal).expect("it can be signalled");
    }

    /// Pulls the plug.
    pub fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            finish(child, Signal::SIGKILL);
        }
    }

    /// Asks it to stop; its exit code and how long it took.
    pub fn stop(&mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        let code = self.child.take().and_then(|child| finish(child, Signal::SIGTERM));
        let took = begun.elapsed();
        self.assert_listed();
        (code, took)
    }

    /// Everything it has written is in the table of what `firstboot` and `decommission` remove: a
    /// new file could be forgotten by them otherwise.
    fn assert_listed(&self) {
        use tombolo::config::inventory::{FILE_SYSTEM, RUNTIME, of_state};
        let folder = self.config.parent().expect("it is in a folder");
        let names = |of: &str| {
            let entries = fs::read_dir(folder.join(of)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let is_runtime = |name: &str| RUNTIME.iter().any(|entry| entry.name == name);
        for name in names("state") {
            let known = of_state(&name).is_some() || name == FILE_SYSTEM;
            assert!(known, "state/{name} is not in src/config/inventory.rs");
        }
        for name in names("run").iter().filter(|name| !name.starts_with('.')) {
            assert!(is_runtime(name), "run/{name} is not in src/config/inventory.rs");
        }
    }

    /// Runs `tombolo --config … ARGS`: exit code, standard output and error together.
    pub fn command(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(&self.binary)
            .arg("--config")
            .arg(&self.config)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the command runs");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap_or(-1), text)
    }

    pub fn status(&self) -> serde_json::Value {
        let (code, text) = self.command(&["status", "--json"]);
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).expect("status --json prints JSON")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn finish(mut child: Child, signal: Signal) -> Option<i32> {
    let _ = kill(Pid::from_raw(child.id() as i32), signal);
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return status.code();
        }
        if Instant::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// CPU time of a process and all its threads so far, from the scheduler's own count
/// (`/proc/PID/task/*/schedstat`).
pub fn cpu_time(pid: u32) -> Duration {
    let mut total = 0;
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    for task in tasks.flatten() {
        let mut text = String::new();
        if fs::File::open(task.path().join("schedstat")).and_then(|mut f| f.read_to_string(&mut text)).is_ok()
        {
            total += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(total)
}

/// Resident memory of a process in kB.
pub fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}
