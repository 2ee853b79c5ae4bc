//! A gateway in a folder of its own: what `init` writes where there is no main file yet.

/// Names of the folders inside it.
pub const STATE: &str = "state";
/// See [`STATE`].
pub const RUNTIME: &str = "run";

/// The main file. `port`: where CoAP over DTLS is listened for, on this machine alone.
pub fn main_file(port: u16) -> String {
    format!(
        r#"# A gateway in this folder, written by `tombolo init`; it needs no root and no systemd.
# config/tombolo.toml and tombolo.toml(5) list all keys.

[paths]
state-dir = "{STATE}"
runtime-dir = "{RUNTIME}"

[coap]
# Devices on this machine only. For others: listen = ["[::]:5684"], then restart it.
listen = ["127.0.0.1:{port}", "[::1]:{port}"]

[journal]
max-bytes = "64MiB"
[lane.normal]
max-bytes = "40MiB"
[lane.high]
max-bytes = "12MiB"

# What a device of this role may publish: t/… and, ahead of everything else, alarm/…
[role.sensor.uplink.telemetry]
path = "t/#"
[role.sensor.uplink.alarm]
path = "alarm/+"
lane = "high"
"#
    )
}
