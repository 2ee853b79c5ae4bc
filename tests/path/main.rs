//! The whole path on real peers: `tombolo run` between sensors and a mosquitto behind TLS.

mod answers;
mod attacker;
mod audit;
#[cfg(feature = "dimpl")]
mod backlog;
mod ca_rollover;
mod certificates;
mod changed_files;
mod check_beside;
mod check_messages;
mod check_readings;
mod checks;
mod clock;
mod command_forms;
mod commands;
mod config_trial;
mod correlation;
mod dayops;
mod device;
mod device_status;
#[cfg(feature = "dimpl")]
mod disk_faults;
mod dropped;
mod faults;
mod flood;
mod lossy_link;
mod mqtt;
mod mqtt_identity;
mod mqtt_local;
mod mqtt_places;
mod mqtt_revocation;
mod mqttjs;
mod namespace_link;
mod observe;
mod on_behalf;
mod other_engine;
#[cfg(feature = "dimpl")]
mod plugs;
mod plugtests;
mod plugtests_device;
mod plugtests_observe;
mod query;
mod quotas;
mod refusals;
mod reload_outcome;
mod remote;
mod renewals;
mod revocation;
mod rotation;
mod rotation_clock;
mod secrets;
mod served;
mod sessions;
mod strays;
mod switched_off;
mod tail;
mod token;
mod truth;
mod uplink;
mod watched_files;

use std::path::Path;
use std::process::{Command, Stdio};

use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber};

/// The binary under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tombolo"))
}

/// A role that allows `t/#` and `alarm/+`, and a device `door-7` with the key `sesame-sesame-77`.
pub const SITE: &str = r#"
[role.sensor]
quota = { messages = 1000000, bytes = "1GiB", per = "1s", burst = 1000000 }
[role.sensor.uplink.telemetry]
path = "t/#"
[role.sensor.uplink.alarm]
path = "alarm/+"
lane = "high"
[device.door-7]
role = "sensor"
psk-file = "door-7.psk"
"#;

/// The key of `door-7`.
pub const KEY: &str = "sesame-sesame-77";

/// A broker, a witness and a gateway, all fresh.
pub struct Site {
    // Dropped in this order: the gateway before what it speaks to.
    pub daemon: Daemon,
    pub witness: Subscriber,
    pub broker: Mosquitto,
    pub pki: Pki,
    pub folder: Folder,
}

impl Site {
    pub fn new(name: &str, extra: &str) -> Site {
        Site::with_broker(name, extra, "")
    }

    /// Its state in a folder of the test's.
    pub fn with_state(name: &str, extra: &str, state: &Path) -> Site {
        let place = format!("state-dir = \"{}\"", state.display());
        Site::build(name, extra, "", |text| text.replace("state-dir = \"state\"", &place))
    }

    pub fn with_broker(name: &str, extra: &str, broker_extra: &str) -> Site {
        Site::build(name, extra, broker_extra, str::to_owned)
    }

    /// With extra configuration of gateway and broker, and a last change to the gateway's.
    pub fn build(name: &str, extra: &str, broker_extra: &str, change: impl FnOnce(&str) -> String) -> Site {
        let folder = Folder::new(name);
        folder.write("door-7.psk", format!("text:{KEY}"));
        let pki = Pki::new(folder.path());
        let broker = Mosquitto::start(folder.path(), &pki, broker_extra);
        let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p\t%C\t%P\t%r");
        let extra = format!("{SITE}\n{extra}");
        let daemon = Daemon::start_with(binary(), &folder, broker.tls_port, &pki.ca(), &extra, change);
        Site { daemon, witness, broker, pki, folder }
    }

    /// Runs libcoap's client with a key; its output, standard error included.
    pub fn coap_client(
        &self,
        program: &str,
        identity: &str,
        key: &str,
        arguments: &[&str],
        path: &str,
    ) -> String {
        let output = Command::new(program)
            .args(["-u", identity, "-k", key, "-B", "5", "-v", "6"])
            .args(arguments)
            .arg(format!("coaps://{}/{path}", self.daemon.coaps))
            .stdin(Stdio::null())
            .output()
            .expect("libcoap3-bin is installed");
        tombolo_test_support::printed(&output)
    }

    /// Posts as `door-7`.
    pub fn post(&self, arguments: &[&str], path: &str) -> String {
        let mut all = vec!["-m", "post"];
        all.extend_from_slice(arguments);
        self.coap_client("coap-client-openssl", "door-7", KEY, &all, path)
    }

    /// The witness's lines on `topic`, split into fields: topic, payload, content type, user
    /// properties, retained.
    pub fn arrived(&self, topic: &str) -> Vec<Vec<String>> {
        let lines = self.witness.lines();
        let fields = lines.iter().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
        fields.filter(|fields| fields[0] == topic).collect()
    }
}
