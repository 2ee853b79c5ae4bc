//! `[mqtt]`: the local MQTT listener.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::includes::{self, Tables};
use super::{Context, built_with, filter, role};
use crate::config::certificate::{self, FILE_MAX};
use crate::config::{FileError, model};
use crate::gate;
use crate::gate::settings::FORMATS_MAX;
use crate::message::{NAME_MAX, Name};
use crate::southbound::mqtt::bus::{Grant, LocalRule, LocalRules};
use crate::southbound::mqtt::settings::{DenyOn311, PlainAddress, Settings, collide};
use crate::southbound::mqtt::tls::Material;

/// What a Unix socket begins with.
const UNIX: &str = "unix:";
/// Longest path of a Unix socket, in bytes (`sun_path`, without its NUL).
const UNIX_PATH_MAX: usize = 107;

/// `[mqtt]`
pub(super) fn mqtt(cx: &mut Context<'_>, table: &model::Mqtt, roles: &Tables) -> Settings {
    let listen = table.listen.clone().unwrap_or_default();
    let insecure_listen = plain_addresses(cx, table);
    if !cfg!(feature = "mqtt") && is_on(table) {
        let key = if listen.is_empty() { "insecure-listen" } else { "listen" };
        let advice = format!("take it out, or use {}", built_with("mqtt"));
        let message = "this program was built without a listener for MQTT clients";
        cx.fail("mqtt", &["mqtt", key], message, &advice);
    }
    for (at, address) in listen.iter().enumerate() {
        let elsewhere = insecure_listen.contains(&PlainAddress::Loopback(*address));
        if address.port() != 0 && (listen[..at].contains(address) || elsewhere) {
            cx.fatal(&["mqtt", "listen"], format!("{address} is listed twice"), "name each address once");
        }
    }
    let plain = insecure_listen.iter().filter_map(PlainAddress::tcp);
    let tcp: Vec<_> = listen.iter().copied().chain(plain).collect();
    for (at, address) in tcp.iter().enumerate() {
        if let Some(other) = tcp[..at].iter().find(|other| collide(**other, *address)) {
            let (all, one) = if other.ip().is_unspecified() { (other, address) } else { (address, other) };
            let key = if at < listen.len() { "listen" } else { "insecure-listen" };
            let message =
                format!("{all} includes {one}, which is listed too: only one of them can be listened on");
            cx.warn("mqtt", &["mqtt", key], message, "take one of them out, or give it another port");
        }
    }
    if !listen.is_empty() {
        for (name, file) in [("certificate-file", &table.certificate_file), ("key-file", &table.key_file)] {
            if file.is_none() {
                let message = format!("mqtt.listen is TLS, and mqtt.{name} is missing");
                let advice = "set mqtt.certificate-file and mqtt.key-file; clients of this machine can use insecure-listen";
                cx.fatal(&["mqtt", "listen"], message, advice);
            }
        }
    }
    let tls = if listen.is_empty() { None } else { material(cx, table) };
    Settings {
        listen,
        insecure_listen,
        tls: tls.map(Arc::new),
        max_clients: table.max_clients.map_or(Settings::MAX_CLIENTS, |max| max as usize),
        local: locals(cx, roles),
        mirror: mirror(cx, table),
        max_queued: table.max_queued.map_or(Settings::MAX_QUEUED, |max| max as usize),
        retained_share: table.retained_share.unwrap_or(Settings::RETAINED_SHARE),
        jwt_audience: table.jwt_audience.clone(),
        deny_on_311: match table.mqtt311_deny {
            Some(model::DenyOn311::Drop) => DenyOn311::Drop,
            Some(model::DenyOn311::Close) | None => DenyOn311::Close,
        },
    }
}

/// Whether the table names an address.
pub(super) fn is_on(table: &model::Mqtt) -> bool {
    table.listen.as_ref().is_some_and(|list| !list.is_empty())
        || table.insecure_listen.as_ref().is_some_and(|list| !list.is_empty())
}

/// The topic of copies of readings.
fn mirror(cx: &mut Context<'_>, table: &model::Mqtt) -> Option<String> {
    let template = match table.mirror.as_ref()? {
        model::Mirror::Flag(false) => return None,
        model::Mirror::Flag(true) => Settings::MIRROR.to_owned(),
        model::Mirror::Topic(text) if text.is_empty() => return None,
        model::Mirror::Topic(text) => text.clone(),
    };
    let literal = template.replacen("{path}", "p", 1).replace("{device}", "d");
    let is_whole = template.contains("{path}") && template.contains("{device}");
    if !is_whole || literal.contains(['{', '}', '+', '#']) || literal.starts_with('$') {
        let message =
            format!("{template:?} is no template of a topic: it needs {{device}} and, once, {{path}}");
        cx.fatal(&["mqtt", "mirror"], message, "write true, or a text like \"readings/{device}/{path}\"");
    }
    Some(template)
}

/// The local rules of a role. A fault of a rule closes the whole role to local
/// messages: without that rule more could be allowed than is meant.
fn local(cx: &mut Context<'_>, name: &str, role: &model::Role) -> Option<(Name, LocalRules)> {
    if role.enabled == Some(false) {
        return None;
    }
    let publish = local_rules(cx, name, "local-publish", &role.local_publish)?;
    let subscribe = local_rules(cx, name, "local-subscribe", &role.local_subscribe)?;
    Some((Name::parse(name).ok()?, LocalRules { publish, subscribe }))
}

/// The local rules of all roles that have any, with those of the roles that they include. What is
/// wrong with `includes` itself is said elsewhere.
fn locals(cx: &mut Context<'_>, roles: &Tables) -> Vec<(Name, LocalRules)> {
    let own: Vec<(Name, LocalRules)> =
        roles.iter().filter_map(|(name, role)| local(cx, name, role)).collect();
    let of = |name: &str| own.iter().find(|(known, _)| known.as_str() == name);
    let mut all = Vec::new();
    for (name, rules) in &own {
        let Ok(included) = includes::farther(roles, name.as_str()) else { continue };
        let mut rules = rules.clone();
        let mut is_faulty = false;
        for included in included {
            // One whose own rules have a fault closes those that include it.
            let Some((from, farther)) = of(included.name) else {
                is_faulty = true;
                continue;
            };
            let added = [
                included.add(&mut rules.publish, (from, &farther.publish), |table| &table.local_publish),
                included
                    .add(&mut rules.subscribe, (from, &farther.subscribe), |table| &table.local_subscribe),
            ];
            for replaced in added.into_iter().filter_map(Result::err) {
                is_faulty = true;
                let subject = format!("role {name}");
                let key = ["role", name.as_str(), "includes"];
                cx.fail(&subject, &key, replaced.to_string(), includes::RENAME);
            }
        }
        if !is_faulty && (!rules.publish.is_empty() || !rules.subscribe.is_empty()) {
            all.push((name.clone(), rules));
        }
    }
    all
}

fn local_rules(
    cx: &mut Context<'_>,
    role: &str,
    kind: &str,
    tables: &BTreeMap<String, model::Local>,
) -> Option<Vec<LocalRule>> {
    let (mut rules, mut is_faulty) = (Vec::new(), false);
    for (name, table) in tables.iter().filter(|(_, table)| table.enabled != Some(false)) {
        let mut fail_with = |key: &[&str], message: String, advice: &str| {
            cx.fail(&format!("role {role}"), &[&["role", role, kind, name], key].concat(), message, advice);
            is_faulty = true;
        };
        let filter = filter::filter(&table.into(), |key, message, advice| fail_with(key, message, advice));
        let mut fail = |key: &str, message: String| {
            let advice = "write a topic filter, like \"home/#\"; {device} stands for the client's device, {tag.NAME} for its tag NAME";
            fail_with(&[key], message, advice);
        };
        let Some(topic) = &table.topic else {
            fail("topic", "the rule has no topic".to_owned());
            continue;
        };
        let Ok(rule_name) = Name::parse(name) else { continue };
        let deny = table.deny == Some(true);
        if deny && (table.retain.is_some() || table.qos.is_some()) {
            let key = if table.retain.is_some() { "retain" } else { "qos" };
            fail(
                key,
                format!("a rule with deny = true denies every message on its topics, so it has no {key}"),
            );
            continue;
        }
        let formats = table.content_formats.as_deref();
        let content_formats = role::content_formats(formats, |message, _| fail("content-formats", message));
        if content_formats.len() > FORMATS_MAX {
            fail("content-formats", format!("a rule has at most {FORMATS_MAX} content-formats"));
        }
        let key = filter.first_key().or((!content_formats.is_empty()).then_some("content-formats"));
        if let Some(key) = key.filter(|_| deny) {
            fail(
                key,
                format!("a rule with deny = true denies every message on its topics, so it has no {key}"),
            );
            continue;
        }
        let grant = Grant {
            retain: table.retain.unwrap_or(Grant::ALL.retain),
            qos: table.qos.unwrap_or(Grant::ALL.qos),
        };
        let rule = LocalRule {
            name: rule_name,
            from: None,
            topic: topic.clone(),
            deny,
            grant,
            content_formats,
            filter,
        };
        // As of a device with the longest id and the longest tags.
        let longest = "d".repeat(NAME_MAX);
        let filter = rule.filled(&longest, |_| Some(&longest));
        if filter.is_none_or(|filter| filter.as_str().contains(['{', '}'])) {
            fail("topic", format!("{topic:?} is no topic filter"));
            continue;
        }
        if let Some((message, advice)) = fault_of_tags(&rule) {
            fail_with(&["topic"], message, &advice);
            continue;
        }
        filter::warn_of_contradiction(&rule.filter.when, |message, advice| {
            cx.warn(&format!("role {role}"), &["role", role, kind, name, "when"], message, advice);
        });
        rules.push(rule);
    }
    (!is_faulty).then_some(rules)
}

/// What is wrong with the tags in the topic of a rule, and the way out.
fn fault_of_tags(rule: &LocalRule) -> Option<(String, String)> {
    let name = rule.tag_names().next()?;
    if let Some(bad) = rule.tag_names().find(|name| Name::parse(name).is_err()) {
        let advice = "a name has letters, digits, '.', '_' and '-', and begins with a letter or a digit";
        return Some((format!("{{tag.{bad}}} does not name a tag"), advice.to_owned()));
    }
    if rule.topic.split('/').next().is_some_and(|level| level.contains("{tag.")) {
        let message = format!("the first level of {:?} has {{tag.{name}}}", rule.topic);
        let advice =
            "write literal text as the first level: a tag stands in a namespace, and does not choose it";
        return Some((message, advice.to_owned()));
    }
    // To a device without the tag the rule would not exist, and so deny nothing.
    rule.deny.then(|| {
        let message =
            format!("a rule with deny = true has {{tag.{name}}}, and would deny nothing to a device without the tag");
        (message, "write the topics without a tag, with + in its place; nothing is allowed without a rule that allows it".to_owned())
    })
}

/// Without TLS a password can be read by all who see the packets: only what stays on this machine.
fn plain_addresses(cx: &mut Context<'_>, table: &model::Mqtt) -> Vec<PlainAddress> {
    let key = ["mqtt", "insecure-listen"];
    let mut all = Vec::new();
    for text in table.insecure_listen.iter().flatten() {
        let address = if let Some(path) = text.strip_prefix(UNIX) {
            let path = cx.path(&key, path);
            if path.as_os_str().len() > UNIX_PATH_MAX {
                let message = format!("the path of {text:?} has more than {UNIX_PATH_MAX} bytes");
                cx.fatal(&key, message, "use a shorter one");
            }
            PlainAddress::Unix(path)
        } else if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            if !address.ip().is_loopback() {
                let message = format!("{address} can be reached from other machines, and has no TLS");
                let advice =
                    "use 127.0.0.1, [::1] or unix:PATH; other machines reach mqtt.listen, which has TLS";
                cx.fatal(&key, message, advice);
            }
            PlainAddress::Loopback(address)
        } else {
            let message = format!("{text:?} is no address");
            cx.fatal(
                &key,
                message,
                "write \"127.0.0.1:1883\", \"[::1]:1883\" or \"unix:/run/tombolo/mqtt.sock\"",
            );
            continue;
        };
        let port = matches!(&address, PlainAddress::Loopback(address) if address.port() == 0);
        if !port && all.contains(&address) {
            cx.fatal(&key, format!("{address} is listed twice"), "name each address once");
        }
        all.push(address);
    }
    all
}

/// The files of TLS, or `None` after a finding: no TLS client can then connect, and after a reload
/// the files before stay in use.
fn material(cx: &mut Context<'_>, table: &model::Mqtt) -> Option<Material> {
    let file = |cx: &Context<'_>, name: &str, text: &Option<String>| {
        text.as_deref().map(|text| cx.path(&["mqtt", name], text))
    };
    let path = file(cx, "certificate-file", &table.certificate_file)?;
    let chain = take(cx, "certificate-file", &path, false, certificate::chain);
    let authorities_file = file(cx, "client-ca-file", &table.client_ca_file);
    let authorities = match &authorities_file {
        None => Some(Vec::new()),
        Some(path) => take(cx, "client-ca-file", path, false, |bytes| {
            certificate::authorities(bytes)
                .map(|authorities| [authorities.anchors, authorities.intermediates].concat())
        }),
    };
    let key = cx.secret(&["mqtt", "key-file"], table.key_file.as_deref()?)?;
    let (chain, authorities) = (chain?, authorities?);
    take(cx, "key-file", &key, true, |bytes| {
        let key = private_key(bytes)?;
        let material = Material { chain, chain_file: path, key, authorities, authorities_file };
        material.check().map(|()| material)
    })
}

/// A key in PEM or DER.
fn private_key(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    if bytes.first() == Some(&0x30) {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
        match bytes.windows(9).any(|window| window == b"ENCRYPTED") {
            true => "is encrypted, and the daemon cannot ask for its passphrase; `openssl pkey -in KEY -out NEW` decrypts it",
            false => "holds no private key in PEM form",
        }
        .to_owned()
    })?;
    Ok(Zeroizing::new(key.secret_der().to_vec()))
}

/// Reads and parses a file.
fn take<T>(
    cx: &mut Context<'_>,
    name: &str,
    path: &Path,
    secret: bool,
    make: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let (key, shown) = (["mqtt", name], path.display());
    let content = match cx.sources.files.read(path, FILE_MAX) {
        Ok(content) => content,
        Err(_) if secret && cx.is_out_of_sight(path) => {
            cx.out_of_sight("mqtt", &key);
            return None;
        }
        Err(FileError::Denied) if cx.sources.files.is_outsider() => {
            cx.closed("mqtt", &key, path);
            return None;
        }
        Err(error) => {
            let advice = format!(
                "{}, then reload; no TLS client of [mqtt] can connect until then, unless the files before are still in use",
                super::way_to_read(&error, "put the file there")
            );
            cx.fail("mqtt", &key, format!("{shown} {error}"), &advice);
            return None;
        }
    };
    cx.judge("mqtt", &key, path, &content.looked, secret);
    let made = make(&content.bytes);
    made.map_err(|error| {
        let advice = "replace the file, then reload; no TLS client of [mqtt] can connect until then, unless the files before are \
                      still in use";
        cx.fail("mqtt", &key, format!("{shown} {error}"), advice);
    })
    .ok()
}

/// Devices that have a password, and nowhere to show it; and the reverse.
pub(super) fn needs(cx: &mut Context<'_>, settings: &Settings, devices: &[gate::SharedDevice]) {
    let first = devices.iter().find(|device| device.login.is_some() || !device.jwt_keys.is_empty());
    if let Some(device) = first.filter(|_| !settings.is_on()) {
        let message = format!(
            "device {} has an MQTT password or token key, and the gateway does not listen for MQTT",
            device.id
        );
        let advice = "set mqtt.insecure-listen for clients of this machine, or mqtt.listen for others";
        cx.warn("mqtt", &["mqtt"], message, advice);
    }
}
