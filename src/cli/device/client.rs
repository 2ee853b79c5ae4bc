//! The command to test a new device, from any machine that can reach this one.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::cli::key::shell_word;
use crate::config::Settings;
use crate::config::acl::{Question, explain};
use crate::gate::settings::{Device, Role};
use crate::gate::{Gate, Supposed};
use crate::message::{Lane, Method, Path};
use crate::southbound::mqtt::bus::Client;
use crate::southbound::mqtt::explain::{paths_of_commands, publishable, receivable};

/// The command that sends a first reading, to a path that the device's rules allow.
pub(super) fn line(settings: &Settings, device: &Device, proof: Proof<'_>) -> String {
    let (host, port) = address(settings);
    let path = allowed_path(&gate_of(settings, device), Instant::now(), settings, device);
    let note = if path.is_none() { "   # no rule of its role allows a path yet" } else { "" };
    let id = device.id.as_str();
    let (program, proof) = match proof {
        Proof::Psk { identity, key } => {
            (program(&PROGRAMS), format!("-u {} -k {}", shell_word(identity), shell_word(key)))
        }
        Proof::Certificate => (program(&PROGRAMS), format!("-c {id}.pem -j {id}.key -C gateway-ca.pem")),
        // Of libcoap's clients, only the one with GnuTLS supports raw public keys.
        Proof::PublicKey { ca } => {
            let ca = if ca { "-C gateway-ca.pem " } else { "" };
            (program(&["coap-client-gnutls"]), format!("{ca}-M {id}.key"))
        }
    };
    let url = format!("coaps://{host}{port}/{}", path.as_deref().unwrap_or("t/temperature"));
    let is_version = path.as_deref().is_some_and(|path| is_version(settings, device, path));
    let payload = if is_version { "1.0.0" } else { "21.5" };
    // Without -v it prints nothing when all is well; with it, the answer: 2.04.
    format!("{program} -v 6 -m post {proof} -e {payload} {}{note}", shell_word(&url))
}

/// The machines that a CoAP client can be on.
pub(super) fn machines(settings: &Settings) -> &'static str {
    match is_local(&settings.coap.listen) {
        true => "this machine, because [coap] listen has no address for others",
        false => "any machine that reaches this one",
    }
}

/// Whether there are addresses, and no other machine can reach one.
pub(super) fn is_local(listen: &[SocketAddr]) -> bool {
    !listen.is_empty() && listen.iter().all(|address| address.ip().is_loopback())
}

/// What an MQTT client can try, by the rules of its device.
pub(super) enum Attempt {
    /// A publish on this topic: of a reading if there is a rule for one, else to local clients.
    Publish(String),
    /// A subscription to this filter.
    Subscribe(String),
    /// No rule allows anything.
    Nothing,
}

/// What a client of the device can try.
pub(super) fn attempt(settings: &Settings, device: &Device) -> Attempt {
    let (gate, now, id) = (gate_of(settings, device), Instant::now(), device.id.as_str());
    if let Some(path) = allowed_path(&gate, now, settings, device) {
        return Attempt::Publish(path);
    }
    let is_allowed = |question, text: &str| {
        explain(settings, &gate, now, id, question, text, Supposed::default())["allowed"] == true
    };
    let local = settings.mqtt.local.iter().find(|(role, _)| *role == device.role).map(|(_, rules)| rules);
    let client = Client { device: id, tags: &device.tags };
    let mut topics = publishable(local, client).map(|(_, _, filter)| example(&filter));
    if let Some(topic) = topics.find(|topic| is_allowed(Question::Publish, topic)) {
        return Attempt::Publish(topic);
    }
    let downlink = role_of(settings, device).map_or(&[][..], |role| &role.downlink);
    let mut filters =
        receivable(local, client).chain(paths_of_commands(downlink)).map(|(_, _, filter)| filter);
    match filters.find(|filter| is_allowed(Question::Subscribe, filter)) {
        Some(filter) => Attempt::Subscribe(filter),
        None => Attempt::Nothing,
    }
}

/// The credential in the client's command line.
pub(super) enum Proof<'a> {
    /// By a key that is printable text.
    Psk {
        /// The identity.
        identity: &'a str,
        /// The key.
        key: &'a str,
    },
    /// By a certificate in a file.
    Certificate,
    /// By a raw public key.
    PublicKey {
        /// Whether the gateway sends a certificate instead of a raw public key.
        ca: bool,
    },
}

/// libcoap's clients. Debian has one for each DTLS library and none of the plain name, which comes
/// from libcoap itself.
const PROGRAMS: [&str; 3] = ["coap-client-openssl", "coap-client-gnutls", "coap-client"];

/// The first of the names that is installed here, else the first, which the Debian package has.
fn program<'n>(names: &[&'n str]) -> &'n str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = |name: &&&str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    names.iter().find(installed).or(names.first()).copied().unwrap_or("coap-client-openssl")
}

/// A host and `:port` at which this gateway can be reached: a listening address unless it is a
/// wildcard, else the host name.
fn address(settings: &Settings) -> (String, String) {
    let Some(listen) = settings.coap.listen.first() else {
        return ("HOST".to_owned(), String::new());
    };
    let port = if listen.port() == 5684 { String::new() } else { format!(":{}", listen.port()) };
    (host(listen.ip()), port)
}

/// The host of a listening address, as a URL has it: a wildcard is reached at this machine's own.
pub(super) fn host(ip: IpAddr) -> String {
    if ip.is_unspecified() {
        own_address().map(shown).or_else(host_name).unwrap_or_else(|| "HOST".to_owned())
    } else {
        shown(ip)
    }
}

/// An address as a URL has it.
fn shown(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// The address by which this machine reaches others, and most likely is reached: that of the route
/// to a documentation address. Nothing is sent.
pub(super) fn own_address() -> Option<IpAddr> {
    let by = |from: &str, to: &str| {
        let socket = std::net::UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    by("0.0.0.0:0", "192.0.2.1:9").or_else(|| by("[::]:0", "[2001:db8::1]:9"))
}

pub(super) fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok())
}

/// A path that the gate lets this device publish to: of the rules for ordinary readings if there is
/// one, else of any.
fn allowed_path(gate: &Gate, now: Instant, settings: &Settings, device: &Device) -> Option<String> {
    let role = role_of(settings, device)?;
    let mut rules: Vec<_> = role.uplink.iter().filter(|rule| !rule.deny).collect();
    let of_version = |path: &str| is_version(settings, device, &example(path));
    rules.sort_by_key(|rule| (of_version(rule.path.as_str()), rule.lane != Lane::Normal, rule.retain));
    rules.into_iter().find_map(|rule| {
        let path = example(rule.path.as_str());
        gate.explain(now, device.id.as_str(), Method::Post, &path).allowed.then_some(path)
    })
}

/// Whether a reading on this path says which version of its firmware the device runs.
fn is_version(settings: &Settings, device: &Device, path: &str) -> bool {
    let report = settings.coap.reports.get(&device.role);
    report.zip(Path::parse(path).ok()).is_some_and(|(report, path)| report.path.matches(path))
}

/// A gate that knows this device alone.
fn gate_of(settings: &Settings, device: &Device) -> Gate {
    let mut only = settings.gate.clone();
    only.devices = vec![device.clone().into()];
    Gate::new(only, Instant::now())
}

fn role_of<'s>(settings: &'s Settings, device: &Device) -> Option<&'s Role> {
    settings.gate.roles.iter().find(|role| role.name == device.role)
}

/// A path or topic that a pattern or filter matches.
fn example(pattern: &str) -> String {
    let levels = pattern.split('/').map(|level| match level {
        "+" => "1",
        "#" => "temperature",
        literal => literal,
    });
    levels.collect::<Vec<_>>().join("/")
}
