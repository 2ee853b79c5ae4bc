//! `[upstream]` and `[topics]`.

use std::collections::HashSet;
use std::time::Duration;

use super::Context;
use crate::config::layer::dotted;
use crate::config::model;
use crate::config::scalar::{BrokerUrl, parse_broker_url};
use crate::config::settings::{Certificate, Paths};
use crate::gate::own_topic::OwnTopic;
use crate::gate::template::Template;
use crate::gate::{QueryUse, Role, UplinkRule};
use crate::message::{Envelope, Name, TOPIC_MAX};
use crate::northbound::jwt::{JwtAlgorithm, JwtSettings};
use crate::northbound::settings::{self as northbound, OwnTopics, Protocol, TlsSettings, TlsVersion};

/// Least interval of `retry-rejected`.
const RETRY_LEAST: Duration = Duration::from_secs(60);
/// AWS IoT Core: its domain, and its limit of publishes per second on one connection.
const AWS: &str = ".amazonaws.com";
const AWS_RATE: u32 = 100;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A lower `max-byte-rate` keeps readings back for seconds.
const BYTE_RATE_LEAST: u64 = 512;
const JWT_LIFETIME: Duration = Duration::from_secs(3600);
const RETRY_REJECTED: Duration = Duration::from_secs(3600);

/// `[topics]`, resolved.
pub(super) struct Topics {
    pub(super) reading: Option<Template>,
    pub(super) own: OwnTopics,
}

/// `[topics]` without the prefix. `""` switches a topic off.
pub(super) fn topics(cx: &mut Context<'_>, table: &model::Topics, prefix: &str, gateway: &Name) -> Topics {
    let reading = table.reading.as_deref().unwrap_or("{prefix}/{device}/up/{path}");
    let reading = template(cx, "reading", reading);
    let mut own = |name, text: &Option<String>, default, device| {
        let template = template(cx, name, text.as_deref().unwrap_or(default))?;
        let topic = template.as_str().replace("{prefix}", prefix).replace("{gateway}", gateway.as_str());
        let rest = if device { topic.replace("{device}", "") } else { topic.clone() };
        let places = if device { "{prefix}, {gateway} and {device}" } else { "{prefix} and {gateway}" };
        if rest.contains('{') {
            let message = format!("the only placeholders here are {places}");
            cx.fatal(&["topics", name], message, "remove the other placeholders");
        } else if device && rest == topic {
            let message = "all devices would share one topic";
            cx.fatal(&["topics", name], message, "use {device} somewhere in it, or \"\" to switch it off");
        } else if topic.len() + if device { crate::message::NAME_MAX } else { 0 } > TOPIC_MAX {
            cx.fatal(&["topics", name], "the topic would be longer than 1,024 bytes", "use a shorter one");
        }
        Some(topic)
    };
    let own = OwnTopics {
        gateway_status: own("gateway-status", &table.gateway_status, "{prefix}/gateway/status", false),
        loss: own("loss", &table.loss, "{prefix}/gateway/loss", false),
        device_status: own("device-status", &table.device_status, "{prefix}/{device}/status", true),
        update: own("update", &table.update, "{prefix}/gateway/update", false),
        update_hint: own("update-hint", &table.update_hint, "{prefix}/gateway/down/update/check", false),
    };
    if let Some(filter) = table.subscribe.as_deref().filter(|text| !text.is_empty())
        && let Some(wrong) = super::role::filter_fault(filter)
    {
        cx.fatal(&["topics", "subscribe"], wrong, "use a filter like \"{prefix}/+/down/#\"");
    }
    Topics { reading, own }
}

/// The gateway's own topics, which no rule may map to: its statuses and losses, and, if configured,
/// the topics of commands and replies. With a downlink rule, or `[remote] allow`, the defaults of
/// the latter count too.
pub(super) fn own_topics(file: &model::File, topics: &Topics, prefix: &str, gateway: &Name) -> Vec<OwnTopic> {
    let about = &topics.own;
    let mut own: Vec<OwnTopic> = [
        ("topics.gateway-status", &about.gateway_status),
        ("topics.device-status", &about.device_status),
        ("topics.loss", &about.loss),
        ("topics.update", &about.update),
        ("topics.update-hint", &about.update_hint),
    ]
    .into_iter()
    .filter_map(|(key, topic)| Some(OwnTopic::new(key, topic.clone()?)))
    .collect();
    let roles = file.role.iter().filter(|(_, role)| role.enabled != Some(false));
    let downlinks: Vec<_> = roles
        .flat_map(|(name, role)| role.downlink.iter().map(move |(rule, table)| (name, rule, table)))
        .filter(|(_, _, table)| table.enabled != Some(false) && table.deny != Some(true))
        .collect();
    let is_asked = file.remote.allow.as_ref().is_some_and(|allow| !allow.is_empty());
    let default = |text: &'static str| Some(text).filter(|_| !downlinks.is_empty() || is_asked);
    let table = &file.topics;
    let of_commands = [
        ("topics.command", table.command.as_deref().or(default(super::downlink::COMMAND))),
        ("topics.request", table.request.as_deref().or(default(super::downlink::REQUEST))),
        ("topics.subscribe", table.subscribe.as_deref().or(default("{prefix}/+/down/#"))),
        ("topics.reply", table.reply.as_deref().or(default(super::downlink::REPLY))),
    ];
    let of_commands = of_commands.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?)));
    let of_rules = downlinks.iter().filter_map(|(role, rule, table)| {
        let key = dotted(["role", role, "downlink", rule, "topic"]);
        Some((key, table.topic.as_deref()?))
    });
    let filled = |text: &str| text.replace("{prefix}", prefix).replace("{gateway}", gateway.as_str());
    let mut known: HashSet<String> = own.iter().map(|topic| topic.as_str().to_owned()).collect();
    for (key, text) in of_commands.chain(of_rules).filter(|(_, text)| !text.is_empty()) {
        let text = filled(text);
        // Roles usually have the same topics.
        if known.insert(text.clone()) {
            own.push(OwnTopic::new(key, text));
        }
    }
    own
}

/// Where outcomes of commands go by default.
pub(super) fn reply_topic(file: &model::File, prefix: &str, gateway: &Name) -> Option<OwnTopic> {
    let text = file.topics.reply.as_deref().unwrap_or(super::downlink::REPLY);
    let filled = text.replace("{prefix}", prefix).replace("{gateway}", gateway.as_str());
    (!filled.is_empty()).then(|| OwnTopic::new(OwnTopic::REPLY_KEY.to_owned(), filled))
}

fn template(cx: &mut Context<'_>, name: &str, text: &str) -> Option<Template> {
    if text.is_empty() {
        return None;
    }
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(error) => {
            cx.fatal(
                &["topics", name],
                error.to_string(),
                "use levels joined by '/', or \"\" to switch it off",
            );
            None
        }
    }
}

/// `[upstream]`. `None` without a URL; the gateway runs anyway. `renewed`: its `certificate`.
pub(super) fn upstream(
    cx: &mut Context<'_>,
    table: Option<&model::Upstream>,
    gateway: &Name,
    topics: OwnTopics,
    renewed: Option<&Certificate>,
    paths: &Paths,
) -> Option<northbound::Settings> {
    let none = model::Upstream::default();
    let table = table.unwrap_or(&none);
    let Some(url) = &table.url else {
        let message = "there is no upstream broker: readings are stored until one is configured";
        cx.warn("upstream", &["upstream", "url"], message, "tombolo init --url mqtts://HOST");
        return None;
    };
    let url = match parse_broker_url(url) {
        Ok(url) => url,
        Err(error) => {
            let advice = match error {
                crate::config::scalar::UrlError::UserInfo => "set username and password-file instead",
                _ => "use \"mqtts://HOST\" or \"mqtts://HOST:PORT\"",
            };
            // What has an `@` may have a password.
            let message = match url.contains('@') {
                true => error.to_string(),
                false => format!("{url:?}: {error}"),
            };
            cx.fatal(&["upstream", "url"], message, advice);
            return None;
        }
    };
    let tls = tls(cx, table, &url, renewed, paths);
    let password_file = table.password_file.as_deref().and_then(|text| {
        let key = ["upstream", "password-file"];
        let path = cx.secret(&key, text)?;
        cx.look_at("upstream", &key, &path, true);
        Some(path)
    });
    if table.username.is_none() && password_file.is_some() {
        let key = ["upstream", "password-file"];
        if table.protocol == Some(model::Protocol::V3_1_1) {
            cx.fatal(&key, "MQTT 3.1.1 does not allow a password without a user name", "set username too");
        } else {
            let message = "a password is set without a user name, which MQTT 3.1.1 does not allow";
            cx.warn("upstream", &key, message, "set username too");
        }
    }
    if password_file.is_some() && !url.tls {
        let message = "the password is sent unencrypted";
        cx.warn("upstream", &["upstream", "password-file"], message, "use mqtts://");
    }
    let jwt = jwt(cx, table, url.tls);
    let rate = table.max_publish_rate.unwrap_or(0);
    if url.host.ends_with(AWS) && url.host.contains(".iot.") && !(1..=AWS_RATE).contains(&rate) {
        let message =
            format!("this broker drops publishes above {AWS_RATE} per second without an acknowledgement");
        cx.warn("upstream", &["upstream", "max-publish-rate"], message, "set max-publish-rate = 90");
    }
    if let Some(bytes) = table.max_byte_rate.filter(|bytes| (1..BYTE_RATE_LEAST).contains(bytes)) {
        let message = format!(
            "at {bytes} bytes a second the gateway's own status alone, of about 1 KiB, keeps readings back for {} s",
            1_024 / bytes
        );
        let advice = format!("use {BYTE_RATE_LEAST}B or more, or take the key out");
        cx.warn("upstream", &["upstream", "max-byte-rate"], message, &advice);
    }
    Some(northbound::Settings {
        gateway: gateway.clone(),
        host: url.host,
        port: url.port,
        tls,
        client_id: table.client_id.clone().unwrap_or_else(|| gateway.as_str().to_owned()),
        probe_client_id: probe_client_id(cx, table, gateway),
        username: table.username.clone(),
        password_file,
        jwt,
        protocol: match table.protocol {
            None | Some(model::Protocol::Auto) => Protocol::Auto,
            Some(model::Protocol::V5) => Protocol::V5,
            Some(model::Protocol::V3_1_1) => Protocol::V3_1_1,
        },
        session_expiry: table.session_expiry.map_or(Duration::from_secs(7 * 86_400), |span| span.0),
        keep_alive: table.keep_alive.map_or(Duration::from_secs(60), |span| span.0),
        max_in_flight: table.max_in_flight.unwrap_or(1_000),
        drain_rate: table.drain_rate.unwrap_or(1_000),
        max_publish_rate: rate,
        max_byte_rate: table.max_byte_rate.unwrap_or(0),
        answer_timeout: table.answer_timeout.map_or(ANSWER_TIMEOUT, |span| span.0),
        retry_rejected: match table.retry_rejected.map_or(RETRY_REJECTED, |span| span.0) {
            Duration::ZERO => None,
            interval if interval < RETRY_LEAST => {
                let message = format!("{} s is not accepted", interval.as_secs());
                cx.fatal(&["upstream", "retry-rejected"], message, "use 1min or more, or 0s for never");
                None
            }
            interval => Some(interval),
        },
        topics,
        // Set once the roles are known.
        commands: Vec::new(),
    })
}

/// `probe-client-id`: another than the client id, which would be a take-over.
fn probe_client_id(cx: &mut Context<'_>, table: &model::Upstream, gateway: &Name) -> Option<String> {
    let probe = table.probe_client_id.as_deref()?;
    let key = ["upstream", "probe-client-id"];
    if probe == table.client_id.as_deref().unwrap_or(gateway.as_str()) {
        let message = "this is the client id itself: the broker would end the connection";
        cx.fatal(&key, message, "use another one, or take it out: the probe then has the connection's place");
        return None;
    }
    let has_certificate = table.certificate.is_some() || table.certificate_file.is_some();
    if !has_certificate {
        cx.warn("upstream", &key, "without effect: there is no certificate to try", "take it out");
    }
    Some(probe.to_owned())
}

/// `[upstream.jwt]`.
fn jwt(cx: &mut Context<'_>, table: &model::Upstream, tls: bool) -> Option<JwtSettings> {
    let jwt = table.jwt.as_ref()?;
    let (Some(audience), Some(key_file)) = (&jwt.audience, &jwt.key_file) else {
        let name = if jwt.audience.is_none() { "audience" } else { "key-file" };
        let message = "tokens need an audience and a key";
        cx.fatal(&["upstream", "jwt", name], message, "set audience and key-file, or take the table out");
        return None;
    };
    let key = ["upstream", "jwt", "key-file"];
    let key_file = cx.secret(&key, key_file)?;
    cx.look_at("upstream", &key, &key_file, true);
    if table.password_file.is_some() {
        let message = "a password and tokens are both set";
        cx.fatal(&["upstream", "password-file"], message, "take password-file or [upstream.jwt] out");
    }
    if table.username.is_none() {
        let key = ["upstream", "username"];
        let message = "tokens are sent without a user name, which MQTT 3.1.1 does not allow";
        match table.protocol {
            Some(model::Protocol::V3_1_1) => cx.fatal(&key, message, "set username; many brokers ignore it"),
            _ => cx.warn("upstream", &key, message, "set username; many brokers ignore it"),
        }
    }
    if !tls {
        let message = "the token is sent unencrypted";
        cx.warn("upstream", &["upstream", "jwt"], message, "use mqtts://");
    }
    Some(JwtSettings {
        audience: audience.clone(),
        lifetime: jwt.lifetime.map_or(JWT_LIFETIME, |span| span.0),
        algorithm: match jwt.algorithm {
            None | Some(model::JwtAlgorithm::Es256) => JwtAlgorithm::Es256,
            Some(model::JwtAlgorithm::EdDsa) => JwtAlgorithm::EdDsa,
            Some(model::JwtAlgorithm::Rs256) => JwtAlgorithm::Rs256,
        },
        key_file,
    })
}

/// The TLS side. `None` for `mqtt://`, which needs `insecure = true`.
fn tls(
    cx: &mut Context<'_>,
    table: &model::Upstream,
    url: &BrokerUrl,
    renewed: Option<&Certificate>,
    paths: &Paths,
) -> Option<TlsSettings> {
    let insecure = table.insecure.unwrap_or(false);
    if !url.tls {
        if !insecure {
            let message = "mqtt:// is not encrypted";
            cx.fatal(&["upstream", "url"], message, "use mqtts://, or set insecure = true (init --insecure)");
        }
        let set = [
            ("ca-file", table.ca_file.is_some()),
            ("crl-file", table.crl_file.is_some()),
            ("crl-url", table.crl_url.is_some()),
            ("certificate", table.certificate.is_some()),
            ("certificate-file", table.certificate_file.is_some()),
            ("key-file", table.key_file.is_some()),
            ("key-password-file", table.key_password_file.is_some()),
            ("pin-sha256", table.pin_sha256.is_some()),
            ("alpn", table.alpn.is_some()),
            ("tls-min", table.tls_min.is_some()),
        ];
        for (name, _) in set.iter().filter(|(_, set)| *set) {
            cx.warn("upstream", &["upstream", name], "without effect: mqtt:// has no TLS", "use mqtts://");
        }
        return None;
    }
    if insecure {
        let advice = "take it out; certificates are checked either way";
        cx.warn("upstream", &["upstream", "insecure"], "without effect: mqtts:// is never insecure", advice);
    }
    let ca_file = table.ca_file.as_deref().map(|text| {
        let key = ["upstream", "ca-file"];
        let path = cx.path(&key, text);
        cx.look_at("upstream", &key, &path, false);
        path
    });
    let identity = match (table.certificate_file.as_deref(), table.key_file.as_deref()) {
        _ if table.certificate.is_some() => {
            for (name, set) in [
                ("certificate-file", table.certificate_file.is_some()),
                ("key-file", table.key_file.is_some()),
                ("key-password-file", table.key_password_file.is_some()),
            ] {
                if set {
                    let message = "certificate is set too, whose files the gateway keeps itself";
                    cx.fatal(&["upstream", name], message, "take one of the two out");
                }
            }
            renewed.map(|renewed| (renewed.settings.current(), renewed.settings.current()))
        }
        (Some(certificate), Some(key)) => {
            let name = ["upstream", "certificate-file"];
            let certificate = cx.path(&name, certificate);
            cx.look_at("upstream", &name, &certificate, false);
            let name = ["upstream", "key-file"];
            let key = cx.secret(&name, key);
            if let Some(key) = &key {
                cx.look_at("upstream", &name, key, true);
            }
            key.map(|key| (certificate, key))
        }
        (None, None) => None,
        (Some(_), None) => {
            cx.fatal(&["upstream", "certificate-file"], "the certificate has no key", "set key-file too");
            None
        }
        (None, Some(_)) => {
            cx.fatal(&["upstream", "key-file"], "the key has no certificate", "set certificate-file too");
            None
        }
    };
    let key_password = table.key_password_file.as_deref().and_then(|text| {
        let key = ["upstream", "key-password-file"];
        if identity.is_none() {
            cx.warn("upstream", &key, "without effect: there is no key-file", "set key-file, or take it out");
        }
        let path = cx.secret(&key, text)?;
        cx.look_at("upstream", &key, &path, true);
        Some(path)
    });
    let pins = pins(cx, table);
    if !pins.is_empty() {
        let key = ["upstream", "pin-sha256"];
        if ca_file.is_some() {
            let message = "only the broker's key is judged: ca-file is without effect";
            cx.warn("upstream", &key, message, "take one of the two out");
        } else {
            let message = "only the broker's key is judged, not its certificate's issuer, name or dates";
            cx.warn("upstream", &key, message, "use ca-file if the broker can have a certificate of a CA");
        }
    }
    let minimum = match table.tls_min {
        None | Some(model::TlsMin::V1_2) => TlsVersion::V1_2,
        Some(model::TlsMin::V1_3) => TlsVersion::V1_3,
    };
    let alpn = table.alpn.clone().unwrap_or_default();
    let revocation = super::revocation::upstream(cx, table, paths, !pins.is_empty());
    let est_anchors = renewed.filter(|renewed| renewed.trusts_est).map(|renewed| renewed.settings.anchors());
    let token = renewed.and_then(|renewed| renewed.settings.token.clone());
    Some(TlsSettings { ca_file, pins, identity, key_password, alpn, minimum, revocation, est_anchors, token })
}

/// `pin-sha256`: hashes of 32 bytes, in hexadecimal; colons between the bytes are passed over.
fn pins(cx: &mut Context<'_>, table: &model::Upstream) -> Vec<[u8; 32]> {
    let mut pins = Vec::new();
    for text in table.pin_sha256.iter().flatten() {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let bytes = crate::config::scalar::parse_hex(&digits);
        match bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok()) {
            Some(pin) => pins.push(pin),
            None => {
                let message = format!("{text:?} is not the SHA-256 of a public key");
                let advice = "use 64 hexadecimal digits, as `tombolo check` prints them for the broker's key";
                cx.fatal(&["upstream", "pin-sha256"], message, advice);
            }
        }
    }
    pins
}

/// Warns of rules whose queries would be lost: MQTT 3.1.1 has no user properties.
pub(super) fn queries(cx: &mut Context<'_>, upstream: &northbound::Settings, roles: &[Role]) {
    if upstream.protocol != Protocol::V3_1_1 {
        return;
    }
    let loses = |rule: &UplinkRule| {
        let is_in_topic = rule.topic.as_ref().is_some_and(|topic| topic.as_str().contains("{query."));
        let is_carried = is_in_topic || rule.envelope != Envelope::None;
        !rule.deny && rule.query == QueryUse::Publish && !is_carried
    };
    for role in roles {
        let rules: Vec<&str> =
            role.uplink.iter().filter(|rule| loses(rule)).map(|rule| rule.name.as_str()).collect();
        if rules.is_empty() {
            continue;
        }
        let message = format!(
            "MQTT 3.1.1 has no user properties: the query of a request is acknowledged and not published by {}",
            rules.join(", ")
        );
        let advice =
            "set envelope = \"json\", which carries it, or query = \"refuse\", so that the device is told";
        cx.warn(&format!("role {}", role.name), &["upstream", "protocol"], message, advice);
    }
}
