//! What a configuration says otherwise than the one in use, key by key: for `tombolo check`.
//!
//! A reload may be long ago, refused or forgotten; until it happens the running gateway goes by
//! what it has. [`super::reload::compare`] decides what a reload may take up; here it is only
//! named. No value of a secret is shown: its file's path is.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use super::{Loaded, dotted, reload};
use crate::northbound::jwt::JwtSettings;
use crate::northbound::settings::{Protocol, Settings as Upstream, TlsVersion};

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
pub fn differences(running: &Loaded, files: &Loaded) -> Vec<Difference> {
    let (was, is) = (&running.settings, &files.settings);
    let mut found = Vec::new();
    let mut other = |key: String, running: String, restart| found.push(Difference { key, running, restart });
    if was.gateway.id != is.gateway.id {
        other("gateway.id".to_owned(), was.gateway.id.to_string(), false);
    }
    if was.upstream != is.upstream {
        let (old, new) = (values(was.upstream.as_ref()), values(is.upstream.as_ref()));
        for ((key, old), _) in old.into_iter().zip(new).filter(|((_, old), (_, new))| old != new) {
            // Without an upstream everything differs; the URL says it.
            if was.upstream.is_some() && is.upstream.is_some() || key == "upstream.url" {
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
    let (gone, new) = reload::devices(&was.gate.devices, &is.gate.devices);
    if !gone.is_empty() || !new.is_empty() {
        other("device".to_owned(), format!("{} devices", was.gate.devices.len()), false);
    }
    for (key, differs) in [
        // Rules are compared as they are written down: they have no equality of their own.
        ("role", format!("{:?}", was.gate.roles) != format!("{:?}", is.gate.roles)),
        ("fleet", was.gate.fleets != is.gate.fleets),
        (
            "topics",
            was.gate.prefix != is.gate.prefix
                || format!("{:?}", was.gate.reading) != format!("{:?}", is.gate.reading),
        ),
        ("coap certificates", was.coap.certificates != is.coap.certificates),
        ("coap handshakes", was.coap.policy != is.coap.policy),
        ("serial", was.serial != is.serial),
        ("journal", was.journal != is.journal),
        ("clock.trust", was.clock != is.clock),
        ("log.level", was.log.level != is.log.level),
    ] {
        if differs {
            other(key.to_owned(), String::new(), false);
        }
    }
    found
}

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
        (
            "upstream.pin-sha256",
            tls(&|it| {
                it.pins.iter().map(|pin| super::scalar::format_hex(pin)).collect::<Vec<_>>().join(", ")
            }),
        ),
        (
            "upstream.certificate-file",
            tls(&|it| path(it.identity.as_ref().map(|(certificate, _)| certificate))),
        ),
        ("upstream.key-file", tls(&|it| path(it.identity.as_ref().map(|(_, key)| key)))),
        ("upstream.key-password-file", tls(&|it| path(it.key_password.as_ref()))),
        ("upstream.alpn", tls(&|it| it.alpn.join(", "))),
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
        ("topics.gateway-status", of(&|it| text(it.topics.gateway_status.as_ref()))),
        ("topics.loss", of(&|it| text(it.topics.loss.as_ref()))),
        ("topics.device-status", of(&|it| text(it.topics.device_status.as_ref()))),
    ]
}
