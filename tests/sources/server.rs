//! The EST server, one for all tests of this process, and what its clients need.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tombolo::clock::{UnixTime, WallClock};
use tombolo::credential::est::{EstSettings, EstTrust};
use tombolo::credential::io::est::EstSource;
use tombolo::credential::source::{Identity, Order, OrderKind};
use tombolo::https::url::HttpsUrl;
use zeroize::Zeroizing;

pub struct Server {
    pub folder: PathBuf,
    pub port: u16,
    /// It ends when its standard input is closed, so with this process at the latest.
    _process: Child,
}

/// Beginning with the year 2026 the clock of this machine is as good as any.
pub struct Trusted;

impl WallClock for Trusted {
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

/// A board without a battery: 1970, and a floor from its build.
pub struct Booted1970;

impl WallClock for Booted1970 {
    fn raw(&self) -> UnixTime {
        UnixTime(0)
    }

    fn trusted(&self) -> bool {
        false
    }

    fn floor(&self) -> UnixTime {
        UnixTime::from_secs(1_600_000_000)
    }
}

pub fn server() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(|| {
        let folder = folder("est");
        let mut process = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sources/est_server.py"))
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed for the EST server");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the EST server says its port; openssl is needed");
        Server { folder, port, _process: process }
    });
    &SERVER
}

/// A new folder below the target's temporary one.
pub fn folder(name: &str) -> PathBuf {
    static NEXT: Mutex<u32> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    *next += 1;
    let path =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{next}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

impl Server {
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn certificate(&self, name: &str) -> Vec<u8> {
        let bytes = std::fs::read(self.file(&format!("{name}.pem"))).unwrap();
        CertificateDer::from_pem_slice(&bytes).unwrap().to_vec()
    }

    /// The bootstrap certificate.
    pub fn factory(&self) -> Identity {
        let key = PrivateKeyDer::from_pem_file(self.file("factory.key")).unwrap();
        Identity {
            chain: vec![self.certificate("factory")],
            key: Arc::new(Zeroizing::new(key.secret_der().to_vec())),
            token: None,
        }
    }

    pub fn url(&self, label: &str) -> HttpsUrl {
        HttpsUrl::parse(&format!("https://127.0.0.1:{}/.well-known/est/{label}", self.port)).unwrap()
    }

    pub fn settings(&self, label: &str) -> EstSettings {
        EstSettings {
            url: self.url(label),
            trust: EstTrust::File(self.file("root.pem")),
            username: None,
            password_file: None,
            timeout: Duration::from_secs(60),
        }
    }

    pub fn source(&self, label: &str) -> EstSource {
        EstSource::new(self.settings(label), Arc::new(Trusted))
    }

    /// The requests with this label: operation, client certificate, Authorization.
    pub fn requests(&self, label: &str) -> Vec<(String, String, Option<String>)> {
        let text = std::fs::read_to_string(self.file("requests.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines
            .filter(|line| line["label"] == label)
            .map(|line| {
                let text = |key: &str| line[key].as_str().map(str::to_owned);
                (text("operation").unwrap(), text("client").unwrap(), text("authorization"))
            })
            .collect()
    }
}

/// A new key and a signing request for it, both DER.
pub fn request() -> (Vec<u8>, Arc<Zeroizing<Vec<u8>>>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["gw-1.test".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "serial-0001");
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    (csr, Arc::new(Zeroizing::new(key.serialize_der())))
}

/// An order for a new key.
pub fn order(kind: OrderKind, identity: Option<Identity>) -> Order {
    Order { name: "uplink".to_owned(), csr: request().0, kind, identity }
}

pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
