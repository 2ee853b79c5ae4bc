//! A real RabbitMQ with its MQTT plugin: a node of its own with its own epmd, on free ports, in its
//! own folder.

use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tombolo::northbound::settings::Settings;

use super::mosquitto::free_port;
use super::pki::Folder;

pub const USER: &str = "gw";
pub const PASSWORD: &str = "secret";

pub struct RabbitMq {
    epmd: Child,
    server: Child,
    pub folder: Folder,
    pub port: u16,
}

impl RabbitMq {
    /// A broker with one user, who may write topics that match `write` (a regular expression over
    /// AMQP routing keys, which have a dot where MQTT has a slash) and read none.
    pub fn start(write: &str) -> RabbitMq {
        // A port may be taken between looking and binding.
        for _ in 0..5 {
            if let Some(rabbitmq) = RabbitMq::try_start(write) {
                return rabbitmq;
            }
        }
        panic!("RabbitMQ does not start; Debian has it as rabbitmq-server");
    }

    fn try_start(write: &str) -> Option<RabbitMq> {
        let folder = Folder::new();
        let (port, node_port, epmd_port) = (free_port(), free_port(), free_port());
        let at = folder.path().display().to_string();
        folder.write("enabled_plugins", "[rabbitmq_mqtt].\n");
        let definitions = serde_json::json!({
            "vhosts": [{ "name": "/" }],
            "users": [{ "name": USER, "password_hash": hash(PASSWORD), "tags": "",
                "hashing_algorithm": "rabbit_password_hashing_sha256" }],
            "permissions": [{ "user": USER, "vhost": "/", "configure": "^mqtt-subscription-.*",
                "write": "^(mqtt-subscription-.*|amq\\.topic)$", "read": "^(mqtt-subscription-.*|amq\\.topic)$" }],
            "topic_permissions": [{ "user": USER, "vhost": "/", "exchange": "amq.topic", "write": write,
                "read": "^nothing$" }],
        });
        folder.write("definitions.json", &definitions.to_string());
        let config = format!(
            "listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\nmqtt.allow_anonymous = false\n\
             mqtt.exchange = amq.topic\nload_definitions = {at}/definitions.json\nlog.file = false\n\
             log.console = true\nlog.console.level = info\n"
        );
        folder.write("rabbitmq.conf", &config);
        let epmd = Command::new("epmd")
            .args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .spawn()
            .expect("erlang-base is installed");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let server = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server")
            .env("HOME", &at)
            .env("LANG", "C.UTF-8")
            .env("ERL_EPMD_PORT", epmd_port.to_string())
            .env("RABBITMQ_NODENAME", format!("tombolo-{port}@localhost"))
            .env("RABBITMQ_MNESIA_BASE", folder.path().join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.path().join("logs"))
            .env("RABBITMQ_PID_FILE", folder.path().join("pid"))
            .env("RABBITMQ_CONFIG_FILE", folder.path().join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.path().join("enabled_plugins"))
            .env("RABBITMQ_DIST_PORT", node_port.to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // The script has children; they go together.
            .process_group(0)
            .spawn()
            .expect("rabbitmq-server is installed");
        let mut rabbitmq = RabbitMq { epmd, server, folder, port };
        let give_up = Instant::now() + Duration::from_secs(120);
        // The listener is there before the definitions are.
        while Instant::now() < give_up {
            if rabbitmq.server.try_wait().unwrap().is_some() {
                return None;
            }
            if rabbitmq.log().contains("Server startup complete")
                && TcpStream::connect(("127.0.0.1", port)).is_ok()
            {
                return Some(rabbitmq);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn settings(&self) -> Settings {
        Settings {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            username: Some(USER.to_owned()),
            password_file: Some(self.folder.write("password", PASSWORD)),
            ..super::settings()
        }
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.server.id() as i32), Signal::SIGKILL);
        let _ = self.server.wait();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

/// As RabbitMQ keeps a password: base64 of a salt of 4 bytes and SHA-256 over salt and password.
fn hash(password: &str) -> String {
    let salt = [1u8, 2, 3, 4];
    let salted = [&salt[..], password.as_bytes()].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &salted);
    let mut out = Vec::new();
    tombolo::northbound::publication::push_base64(&mut out, &[&salt[..], digest.as_ref()].concat());
    String::from_utf8(out).unwrap()
}
