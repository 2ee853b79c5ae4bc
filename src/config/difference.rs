//! What a configuration says otherwise than the one in use, key by key: for `tombolo check`.
//!
//! A reload may be long ago, refused or forgotten; until it happens the running gateway goes by
//! what it has. [`super::reload::compare`] decides what a reload may take up; here it is only
//! named. No value of a secret is shown: its file's path is.
//!
//! Commands that change the registry cause a reload too, which takes up whatever else has changed:
//! [`beside_registry`] names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::scalar::format_size;
use super::{DeviceSource, Known, Loaded, Settings, dotted, reload};
use crate::credential::revocation::Side;
use crate::downlink::settings::Settings as Downlink;
use crate::gate::SharedDevice;
use crate::gate::settings::Role;
use crate::message::{Lane, Name};
use crate::northbound::jwt::JwtSettings;
use crate::northbound::settings::{Protocol, Settings as Upstream, TlsVersion};
use crate::proto::dtls::server::{Certificates, ServerKey};
use crate::southbound::mqtt::Settings as Mqtt;

/// One key, and what the running gateway uses for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Such as `upstream.url`; a table's name where it is not a matter of one key.
    pub key: String,
    /// What is in use; empty where it cannot be said in a few words.
    pub running: String,
    /// Only a restart can take it up.
    pub restart: bool,
}

/// Names what differs, in the order of the file.
pub fn differences(running: &Loaded, files: &Loaded, served: Option<Arc<ServerKey>>) -> Vec<Difference> {
    let (was, is) = (&running.settings, &files.settings);
    let of_devices = Certificates { key: served, ..was.coap.certificates.clone() };
    let changed = OfDevices {
        devices: devices(&was.gate.devices, &is.gate.devices),
        certificates: of_devices != is.coap.certificates,
        served: was.downlink.served != is.downlink.served,
    };
    named(running, files, changed)
}

/// What differs of that which depends on the devices, too.
struct OfDevices {
    /// The devices themselves, and what the running gateway has instead.
    devices: Vec<(Name, String)>,
    /// What their certificates and keys are judged by.
    certificates: bool,
    /// What is observed and polled.
    served: bool,
}

/// The keys that differ and are not of the registry: without its devices, their public keys, and
/// what is asked of devices that are new or have another role. A device that files of the
/// configuration take out of the registry's hands, or give back, is named.
pub fn beside_registry(running: &Loaded, files: &Loaded, served: Option<Arc<ServerKey>>) -> Vec<String> {
    let of_files = |loaded: &Loaded| -> Vec<SharedDevice> {
        let devices = loaded.settings.gate.devices.iter();
        let is_of_files = |id: &Name| {
            loaded.known(id.as_str()).is_some_and(|known| known.source == DeviceSource::Configuration)
        };
        devices.filter(|device| is_of_files(&device.id)).cloned().collect()
    };
    let roles = |loaded: &Loaded| -> BTreeMap<Name, Name> {
        let devices = loaded.settings.gate.devices.iter();
        devices.map(|device| (device.id.clone(), device.role.clone())).collect()
    };
    let (before, now) = (roles(running), roles(files));
    let served_to_same = |loaded: &Loaded| {
        let mut served = loaded.settings.downlink.served.clone();
        served.devices.retain(|id, _| before.contains_key(id) && before.get(id) == now.get(id));
        served
    };
    // The trust material of both has the public keys of all devices.
    let no_keys = || std::iter::empty::<[u8; 32]>();
    let of_devices = Certificates { key: served, ..running.certificates.certificates(no_keys()) };
    let mut differing = devices(&of_files(running), &of_files(files));
    let named_already: BTreeSet<Name> = differing.iter().map(|(id, _)| id.clone()).collect();
    let (held, now_held) = (held_by_files(running), held_by_files(files));
    // What a file of the registry that is new or gone means for a table is not the table's doing.
    let is_same_file = |id: &&&str| running.registry.has_file(id) == files.registry.has_file(id);
    let differ = held.symmetric_difference(&now_held).filter(is_same_file);
    let other = differ.filter_map(|id| Name::parse(id).ok());
    differing.extend(other.filter(|id| !named_already.contains(id)).map(|id| (id, String::new())));
    differing.sort();
    let changed = OfDevices {
        devices: differing,
        certificates: of_devices != files.certificates.certificates(no_keys()),
        served: served_to_same(running) != served_to_same(files),
    };
    named(running, files, changed).into_iter().map(|found| found.key).collect()
}

/// The devices that a table of the configuration defines, with or without a fault, or switches off.
fn held_by_files(loaded: &Loaded) -> BTreeSet<&str> {
    let is_off = |id: &str| loaded.place(&["device", id, "enabled"]).is_some();
    let is_held = |known: &&Known| {
        known.source == DeviceSource::Configuration || known.switched_off && is_off(&known.id)
    };
    loaded.known.iter().filter(is_held).map(|known| known.id.as_str()).collect()
}

/// Names what differs, in the order of the file.
fn named(running: &Loaded, files: &Loaded, changed: OfDevices) -> Vec<Difference> {
    let OfDevices { devices, certificates, served } = changed;
    let (was, is) = (&running.settings, &files.settings);
    let mut found = Vec::new();
    let mut other = |key: String, running: String, restart| found.push(Difference { key, running, restart });
    if was.gateway.id != is.gateway.id {
        other("gateway.id".to_owned(), was.gateway.id.to_string(), false);
    }
    if was.upstream != is.upstream {
        let (old, new) = (values(was.upstream.as_ref()), values(is.upstream.as_ref()));
        let has_tls = |upstream: &Option<Upstream>| upstream.as_ref().is_some_and(|it| it.tls.is_some());
        let both_tls = has_tls(&was.upstream) && has_tls(&is.upstream);
        for ((key, old), _) in old.into_iter().zip(new).filter(|((_, old), (_, new))| old != new) {
            // Without an upstream, or without TLS, everything about it differs; the URL says it.
            let both = was.upstream.is_some() && is.upstream.is_some();
            if both && (both_tls || !OF_TLS.contains(&key)) || key == "upstream.url" {
                other(key.to_owned(), old, false);
            }
        }
    }
    let addresses = |list: &[std::net::SocketAddr]| list_of(list.iter());
    for (table, key) in reload::fixed_keys(running, files) {
        let shown = match key {
            "listen" => addresses(&was.coap.listen),
            "insecure-listen" => {
                addresses(was.coap.insecure.as_ref().map(|(list, _)| &list[..]).unwrap_or_default())
            }
            "state-dir" => was.paths.state_dir.display().to_string(),
            "runtime-dir" => was.paths.runtime_dir.display().to_string(),
            _ => String::new(),
        };
        other(dotted([table, key]), shown, true);
    }
    if was.metrics != is.metrics {
        let listen = list_of(was.metrics.listen.iter());
        let shown = if listen.is_empty() { "no address".to_owned() } else { listen };
        other("metrics.listen".to_owned(), shown, false);
    }
    if was.gateway.label != is.gateway.label {
        let label = was.gateway.label.clone();
        other("gateway.label".to_owned(), label.unwrap_or_else(|| "none".to_owned()), false);
    }
    let more = devices.len().saturating_sub(NAMED_MAX);
    for (id, running) in devices.into_iter().take(NAMED_MAX) {
        other(dotted(["device", id.as_str()]), running, false);
    }
    if more > 0 {
        other("device".to_owned(), format!("something else for {more} more devices"), false);
    }
    // Rules are compared as they are written down: they have no equality of their own.
    let (old, new) = (roles(was), roles(is));
    for (name, rules) in &old {
        if new.get(name) != Some(rules) {
            other(dotted(["role", name.as_str()]), "its earlier rules and limits".to_owned(), false);
        }
    }
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        other(dotted(["role", name.as_str()]), "no such role".to_owned(), false);
    }
    for lane in Lane::ALL {
        let (old, new) = (was.daily_bytes[lane.index()], is.daily_bytes[lane.index()]);
        if old != new {
            let shown = old.map_or_else(|| "none".to_owned(), format_size);
            other(format!("lane.{lane}.daily-bytes"), shown, false);
        }
    }
    let plain = |settings: &Settings| settings.coap.insecure.as_ref().map(|(_, device)| device.clone());
    let (old, new) = (plain(was), plain(is));
    // Without an address the device has no part.
    if old != new && old.is_some() && new.is_some() {
        let shown = old.map_or_else(|| "none".to_owned(), |device| device.to_string());
        other("coap.insecure-device".to_owned(), shown, false);
    }
    for (key, old) in fetched(was, is) {
        other(key, old, false);
    }
    for (key, differs) in [
        ("fleet", was.gate.fleets != is.gate.fleets),
        (
            "topics",
            was.gate.prefix != is.gate.prefix
                || format!("{:?}", was.gate.reading) != format!("{:?}", is.gate.reading),
        ),
        ("commands", answers(was) != answers(is)),
        ("observe and poll", served),
        ("mqtt", without_roles(was) != without_roles(is)),
        ("coap certificates", certificates || was.coap.certificate_files != is.coap.certificate_files),
        ("coap handshakes", was.coap.policy != is.coap.policy),
        ("serial", was.serial != is.serial),
        ("journal", was.journal != is.journal),
        ("clock.trust", was.clock != is.clock),
        ("log.level", was.log.level != is.log.level),
        ("update", was.update != is.update),
    ] {
        if differs {
            other(key.to_owned(), String::new(), false);
        }
    }
    found
}

/// What each role says, also that which other parts than the gate go by: the rules of local
/// messages, and which readings report the version of the firmware.
fn roles(settings: &Settings) -> BTreeMap<Name, String> {
    let local: BTreeMap<_, _> = settings.mqtt.local.iter().map(|(role, rules)| (role, rules)).collect();
    let of = |role: &Role| {
        let (local, report) = (local.get(&role.name), settings.coap.reports.get(&role.name));
        format!("{role:?} {local:?} {report:?}")
    };
    settings.gate.roles.iter().map(|role| (role.name.clone(), of(role))).collect()
}

/// `[mqtt]` itself.
fn without_roles(settings: &Settings) -> Mqtt {
    Mqtt { local: Vec::new(), ..settings.mqtt.clone() }
}

/// `crl-url` and `crl-period` of both sides, where they differ, with what is in use.
fn fetched(was: &Settings, is: &Settings) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for side in [Side::Upstream, Side::Coap] {
        let of = |settings: &Settings| {
            let of_side = settings.revocation.iter().find(|of| of.side == side);
            of_side.map(|of| (of.url.to_string(), format!("{} s", of.period.as_secs())))
        };
        let (old, new) = (of(was), of(is));
        let (url, period) = old.clone().unwrap_or_else(|| ("none".to_owned(), String::new()));
        if old.as_ref().map(|(url, _)| url) != new.as_ref().map(|(url, _)| url) {
            found.push((format!("{}.crl-url", side.table()), url));
        } else if old != new {
            found.push((format!("{}.crl-period", side.table()), period));
        }
    }
    found
}

/// What of commands is in no role: where requests come and answers go, and what the gateway itself
/// carries out.
fn answers(settings: &Settings) -> String {
    let Downlink { command, request, reply, remote, .. } = &settings.downlink;
    format!("{command:?} {request:?} {reply:?} {remote:?}")
}

/// Most devices named one by one.
const NAMED_MAX: usize = 5;

/// The devices that differ, in id order, and what the running gateway has instead.
fn devices(was: &[SharedDevice], is: &[SharedDevice]) -> Vec<(Name, String)> {
    let by_id =
        |list: &[SharedDevice]| list.iter().map(|it| (it.id.clone(), it.clone())).collect::<BTreeMap<_, _>>();
    let (old, mut new) = (by_id(was), by_id(is));
    let mut found = Vec::new();
    for (id, old) in old {
        let running = match new.remove(&id) {
            None => "it, and the files do not have it as a usable device".to_owned(),
            Some(new) if old.role != new.role => format!("the role {}", old.role),
            Some(new) if !old.same_proof(&new) => "its earlier key, certificate or public key".to_owned(),
            Some(new) if old.label != new.label => match &old.label {
                Some(label) => format!("the label {label:?}"),
                None => "no label".to_owned(),
            },
            Some(new) if old.tags != new.tags => "its earlier tags".to_owned(),
            Some(new) if old.parent != new.parent => match &old.parent {
                Some(parent) => format!("the parent {parent}"),
                None => "no parent".to_owned(),
            },
            Some(new) if old.offline_after != new.offline_after => "its earlier offline-after".to_owned(),
            Some(_) => continue,
        };
        found.push((id, running));
    }
    found.extend(new.into_keys().map(|id| (id, "no such device".to_owned())));
    found.sort();
    found
}

/// The keys of `[upstream]` that mean nothing without TLS.
const OF_TLS: [&str; 9] = [
    "upstream.ca-file",
    "upstream.crl-file",
    "upstream.crl-expired",
    "upstream.pin-sha256",
    "upstream.certificate-file",
    "upstream.key-file",
    "upstream.key-password-file",
    "upstream.alpn",
    "upstream.tls-min",
];

fn list_of(items: impl Iterator<Item = impl Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// The keys of `[upstream]` and its topics with the values in use.
fn values(upstream: Option<&Upstream>) -> Vec<(&'static str, String)> {
    let path =
        |path: Option<&PathBuf>| path.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    let text = |text: Option<&String>| text.cloned().unwrap_or_else(|| "none".to_owned());
    let of = |read: &dyn Fn(&Upstream) -> String| upstream.map_or_else(|| "none".to_owned(), read);
    let span = |span: Duration| format!("{} s", span.as_secs());
    let tls = |read: &dyn Fn(&crate::northbound::settings::TlsSettings) -> String| {
        upstream.and_then(|upstream| upstream.tls.as_ref()).map_or_else(|| "none".to_owned(), read)
    };
    let jwt = |read: &dyn Fn(&JwtSettings) -> String| {
        upstream.and_then(|upstream| upstream.jwt.as_ref()).map_or_else(|| "none".to_owned(), read)
    };
    vec![
        (
            "upstream.url",
            of(&|it| {
                let scheme = if it.tls.is_some() { "mqtts" } else { "mqtt" };
                format!("{scheme}://{}", it.authority())
            }),
        ),
        (
            "upstream.ca-file",
            tls(&|it| {
                it.ca_file
                    .as_ref()
                    .map_or_else(|| "the system's CAs".to_owned(), |file| file.display().to_string())
            }),
        ),
        ("upstream.crl-file", tls(&|it| path(it.revocation.file.as_ref()))),
        (
            "upstream.crl-expired",
            tls(&|it| if it.revocation.refuse_expired { "refuse" } else { "accept" }.to_owned()),
        ),
        (
            "upstream.pin-sha256",
            tls(&|it| {
                let pins: Vec<_> = it.pins.iter().map(|pin| super::scalar::format_hex(pin)).collect();
                if pins.is_empty() { "none".to_owned() } else { pins.join(", ") }
            }),
        ),
        (
            "upstream.certificate-file",
            tls(&|it| path(it.identity.as_ref().map(|(certificate, _)| certificate))),
        ),
        ("upstream.key-file", tls(&|it| path(it.identity.as_ref().map(|(_, key)| key)))),
        ("upstream.key-password-file", tls(&|it| path(it.key_password.as_ref()))),
        ("upstream.alpn", tls(&|it| if it.alpn.is_empty() { "none".to_owned() } else { it.alpn.join(", ") })),
        (
            "upstream.tls-min",
            tls(&|it| if it.minimum == TlsVersion::V1_3 { "1.3" } else { "1.2" }.to_owned()),
        ),
        ("upstream.username", of(&|it| text(it.username.as_ref()))),
        ("upstream.password-file", of(&|it| path(it.password_file.as_ref()))),
        ("upstream.jwt.audience", jwt(&|it| it.audience.clone())),
        ("upstream.jwt.lifetime", jwt(&|it| format!("{} s", it.lifetime.as_secs()))),
        ("upstream.jwt.algorithm", jwt(&|it| it.algorithm.name().to_owned())),
        ("upstream.jwt.key-file", jwt(&|it| it.key_file.display().to_string())),
        ("upstream.client-id", of(&|it| it.client_id.clone())),
        ("upstream.probe-client-id", of(&|it| text(it.probe_client_id.as_ref()))),
        (
            "upstream.protocol",
            of(&|it| {
                match it.protocol {
                    Protocol::Auto => "auto",
                    Protocol::V5 => "5",
                    Protocol::V3_1_1 => "3.1.1",
                }
                .to_owned()
            }),
        ),
        ("upstream.session-expiry", of(&|it| span(it.session_expiry))),
        ("upstream.keep-alive", of(&|it| span(it.keep_alive))),
        ("upstream.max-in-flight", of(&|it| it.max_in_flight.to_string())),
        ("upstream.drain-rate", of(&|it| it.drain_rate.to_string())),
        ("upstream.max-publish-rate", of(&|it| it.max_publish_rate.to_string())),
        ("upstream.max-byte-rate", of(&|it| it.max_byte_rate.to_string())),
        ("upstream.answer-timeout", of(&|it| span(it.answer_timeout))),
        ("upstream.retry-rejected", of(&|it| it.retry_rejected.map_or_else(|| "never".to_owned(), span))),
        (
            "topics.subscribe",
            of(&|it| if it.commands.is_empty() { "none".to_owned() } else { it.commands.join(", ") }),
        ),
        ("topics.gateway-status", of(&|it| text(it.topics.gateway_status.as_ref()))),
        ("topics.loss", of(&|it| text(it.topics.loss.as_ref()))),
        ("topics.device-status", of(&|it| text(it.topics.device_status.as_ref()))),
        ("topics.update", of(&|it| text(it.topics.update.as_ref()))),
        ("topics.update-hint", of(&|it| text(it.topics.update_hint.as_ref()))),
    ]
}
