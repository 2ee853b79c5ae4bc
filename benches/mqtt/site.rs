//! Tombolo, or mosquitto with a bridge, between its clients and an upstream broker.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, free_tcp_port, wait_for};

use super::client::{PASSWORD, TOPIC};

/// What stands between the clients and the upstream broker.
pub enum Between {
    Tombolo(Daemon),
    Mosquitto(Child),
}

impl Between {
    /// The process.
    pub fn pid(&self) -> u32 {
        match self {
            Between::Tombolo(daemon) => daemon.pid(),
            Between::Mosquitto(child) => child.id(),
        }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        if let Between::Mosquitto(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One of them, with its broker, a subscriber there, and the ports for clients.
pub struct Site {
    // In the order in which they end.
    /// What is measured.
    pub between: Between,
    upstream: Subscriber,
    _broker: Mosquitto,
    /// Where clients connect without TLS,
    pub plain: SocketAddr,
    /// and with it.
    pub tls: SocketAddr,
    /// The CA of both.
    pub pki: Pki,
    _folder: Folder,
}

impl Site {
    /// Starts it with the clients `d0` to `d{clients - 1}`.
    pub fn start(is_tombolo: bool, clients: usize) -> Site {
        let folder = Folder::new("bench-mqtt");
        let pki = Pki::new(folder.path());
        let broker = Mosquitto::start(folder.path(), &pki, "");
        let upstream = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t");
        let (certificate, key) = pki.issue("local", &["localhost", "127.0.0.1"]);
        let [plain, tls] = [free_tcp_port(), free_tcp_port()].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let between = match is_tombolo {
            true => tombolo(&folder, &pki, &broker, (plain, tls), (&certificate, &key), clients),
            false => mosquitto(&folder, &pki, &broker, (plain, tls), (&certificate, &key), clients),
        };
        wait_for("the listener", || TcpStream::connect(plain).is_ok());
        Site { between, upstream, _broker: broker, plain, tls, pki, _folder: folder }
    }

    /// Messages that have arrived upstream.
    pub fn arrived(&self) -> usize {
        self.upstream.text().matches(TOPIC).count()
    }
}

fn tombolo(
    folder: &Folder,
    pki: &Pki,
    broker: &Mosquitto,
    (plain, tls): (SocketAddr, SocketAddr),
    (certificate, key): (&Path, &Path),
    clients: usize,
) -> Between {
    let password = folder.write("password", format!("text:{PASSWORD}"));
    let mut extra = format!(
        "\n[mqtt]\ninsecure-listen = [\"{plain}\"]\nlisten = [\"{tls}\"]\ncertificate-file = \"{}\"\n\
         key-file = \"{}\"\nmax-clients = 10000\n\n[role.sensor]\n\
         quota = {{ messages = 1000000, bytes = \"1GiB\", per = \"1s\", burst = 1000000 }}\n\
         [role.sensor.uplink.telemetry]\npath = \"t/#\"\n\n",
        certificate.display(),
        key.display()
    );
    for number in 0..clients {
        let file = password.display();
        let _ = writeln!(extra, "[device.d{number}]\nrole = \"sensor\"\npassword-file = \"{file}\"");
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_tombolo"));
    Between::Tombolo(Daemon::start(binary, folder, broker.tls_port, &pki.ca(), &extra))
}

fn mosquitto(
    folder: &Folder,
    pki: &Pki,
    broker: &Mosquitto,
    (plain, tls): (SocketAddr, SocketAddr),
    (certificate, key): (&Path, &Path),
    clients: usize,
) -> Between {
    let mut users = String::new();
    for number in 0..clients {
        let _ = writeln!(users, "d{number}:{PASSWORD}");
    }
    let passwords = folder.write("local.passwords", users);
    let hashed = Command::new("mosquitto_passwd").arg("-U").arg(&passwords).status();
    assert!(hashed.is_ok_and(|status| status.success()), "mosquitto_passwd is installed with mosquitto");
    let config = format!(
        "per_listener_settings false\nallow_anonymous false\npassword_file {passwords}\nuser root\n\
         max_inflight_messages 1000\nmax_queued_messages 0\nset_tcp_nodelay true\nlog_dest none\n\
         listener {} 127.0.0.1\n\
         listener {} 127.0.0.1\ncertfile {}\nkeyfile {}\n\
         connection up\naddress localhost:{}\nbridge_cafile {}\nbridge_protocol_version mqttv50\n\
         cleansession false\nnotifications false\ntopic t/# out 1 \"\" tombolo/gw/local/up/\n",
        plain.port(),
        tls.port(),
        certificate.display(),
        key.display(),
        broker.tls_port,
        pki.ca().display(),
        passwords = passwords.display(),
    );
    let config = folder.write("local.conf", config);
    let child = Command::new("mosquitto")
        .arg("-c")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is installed");
    Between::Mosquitto(child)
}
