//! What `check` names as changed: every key that a reload takes up.

use std::collections::BTreeSet;

use tombolo::config::difference::{beside_registry, differences};
use tombolo::config::schema::{self, Key, Kind};

use crate::support::{Case, main_file};

/// What a key stands beside, in tables that every text has.
const BASE: &str = "[role.r.uplink.x]\npath = \"x\"\n[role.s.uplink.x]\npath = \"s\"\n\
                    [device.p]\nrole = \"r\"\npsk-file = \"/p.psk\"\n\
                    [device.q]\nrole = \"r\"\npsk-file = \"/q.psk\"\n";

/// The same as in an `[upstream]`.
const URL: &str = "url = \"mqtts://b\"";
/// A topic of a rule of commands.
const DOWN: &str = "topic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"";
const DOWN_ALONE: &str = "topic = \"{prefix}/{device}/down/#\"";

/// Keys of which a change alone changes nothing in force, or that are told by another one.
const SILENT: [&str; 8] = [
    // A permission: the URL says what is used.
    "upstream.insecure",
    // The same, for `listen`.
    "metrics.allow-remote",
    // Without them there is no device, fleet or rule; a change of it is that of the table.
    "role.*.enabled",
    "fleet.*.enabled",
    "role.*.uplink.*.enabled",
    "role.*.downlink.*.enabled",
    "device.*.enabled",
    // As what it brings.
    "role.*.includes",
];

/// Tables of rules that are compared as one, with every field of theirs.
const WHOLE: [&str; 9] = [
    "serial.",
    "certificate.",
    "role.*.observe.",
    "role.*.poll.",
    "device.*.observe.",
    "device.*.poll.",
    "role.*.on-behalf.",
    "role.*.local-publish.",
    "role.*.local-subscribe.",
];

/// A key with the table it is in and what is beside it, its value before and after, and how
/// the change is named.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const ROWS: &[Row] = &[
    ("upstream.url", "upstream", "", "\"mqtts://a\"", "\"mqtts://b\"", "upstream.url"),
    ("upstream.ca-file", "upstream", URL, "\"/a.pem\"", "\"/b.pem\"", "upstream.ca-file"),
    ("upstream.crl-file", "upstream", URL, "\"/a.crl\"", "\"/b.crl\"", "upstream.crl-file"),
    ("upstream.crl-url", "upstream", URL, "\"http://c.test/a\"", "\"http://c.test/b\"", "upstream.crl-url"),
    ("upstream.crl-period", "upstream", CRL, "\"1h\"", "\"2h\"", "upstream.crl-period"),
    ("upstream.crl-expired", "upstream", CRL, "\"accept\"", "\"refuse\"", "upstream.crl-expired"),
    ("upstream.certificate-file", "upstream", KEY, "\"/a.crt\"", "\"/b.crt\"", "upstream.certificate-file"),
    ("upstream.key-file", "upstream", CRT, "\"/a.key\"", "\"/b.key\"", "upstream.key-file"),
    ("upstream.key-password-file", "upstream", PAIR, "\"/a\"", "\"/b\"", "upstream.key-password-file"),
    ("upstream.pin-sha256", "upstream", URL, PIN_A, PIN_B, "upstream.pin-sha256"),
    ("upstream.username", "upstream", URL, "\"a\"", "\"b\"", "upstream.username"),
    ("upstream.password-file", "upstream", USER, "\"/a\"", "\"/b\"", "upstream.password-file"),
    ("upstream.client-id", "upstream", URL, "\"a\"", "\"b\"", "upstream.client-id"),
    ("upstream.probe-client-id", "upstream", URL, "\"a\"", "\"b\"", "upstream.probe-client-id"),
    ("upstream.alpn", "upstream", URL, "[\"a\"]", "[\"b\"]", "upstream.alpn"),
    ("upstream.protocol", "upstream", URL, "\"auto\"", "\"5\"", "upstream.protocol"),
    ("upstream.session-expiry", "upstream", URL, "\"1h\"", "\"2h\"", "upstream.session-expiry"),
    ("upstream.keep-alive", "upstream", URL, "\"50s\"", "\"55s\"", "upstream.keep-alive"),
    ("upstream.max-in-flight", "upstream", URL, "9", "8", "upstream.max-in-flight"),
    ("upstream.drain-rate", "upstream", URL, "900", "800", "upstream.drain-rate"),
    ("upstream.max-publish-rate", "upstream", URL, "900", "800", "upstream.max-publish-rate"),
    ("upstream.max-byte-rate", "upstream", URL, "\"1MiB\"", "\"2MiB\"", "upstream.max-byte-rate"),
    ("upstream.answer-timeout", "upstream", URL, "\"20s\"", "\"25s\"", "upstream.answer-timeout"),
    ("upstream.retry-rejected", "upstream", URL, "\"2h\"", "\"3h\"", "upstream.retry-rejected"),
    ("upstream.tls-min", "upstream", URL, "\"1.2\"", "\"1.3\"", "upstream.tls-min"),
    ("upstream.jwt.audience", "upstream", URL, JWT_A, JWT_AUDIENCE, "upstream.jwt.audience"),
    ("upstream.jwt.lifetime", "upstream", URL, JWT_A, JWT_LIFETIME, "upstream.jwt.lifetime"),
    ("upstream.jwt.algorithm", "upstream", URL, JWT_A, JWT_ALGORITHM, "upstream.jwt.algorithm"),
    ("upstream.jwt.key-file", "upstream", URL, JWT_A, JWT_KEY, "upstream.jwt.key-file"),
    ("gateway.id", "gateway", "", "\"g\"", "\"h\"", "gateway.id"),
    ("gateway.label", "gateway", "", "\"l\"", "\"m\"", "gateway.label"),
    ("topics.prefix", "topics", "", "\"a\"", "\"b\"", "topics"),
    ("topics.reading", "topics", "", READ_A, "\"b/{device}/{path}\"", "topics"),
    ("topics.command", "topics", "", READ_A, "\"b/{device}/{path}\"", "commands"),
    ("topics.request", "topics", "", ASK_A, "\"b/{device}/{id}/{path}\"", "commands"),
    ("topics.reply", "topics", "", READ_A, "\"b/{device}/{path}\"", "commands"),
    ("topics.gateway-status", "topics", "", "\"a/s\"", "\"b/s\"", "topics.gateway-status"),
    ("topics.device-status", "topics", "", "\"a/{device}\"", "\"b/{device}\"", "topics.device-status"),
    ("topics.loss", "topics", "", "\"a/l\"", "\"b/l\"", "topics.loss"),
    ("coap.insecure-device", "coap", PLAIN, "\"p\"", "\"q\"", "coap.insecure-device"),
    ("coap.max-session-lifetime", "coap", "", "\"1h\"", "\"2h\"", "coap handshakes"),
    ("coap.require-ems", "coap", "", "true", "false", "coap handshakes"),
    ("coap.connection-id", "coap", "", "true", "false", "coap handshakes"),
    ("coap.mtu", "coap", "", "300", "400", "coap handshakes"),
    ("coap.client-ca-file", "coap", "", "\"/a.pem\"", "\"/b.pem\"", "coap certificates"),
    ("coap.crl-url", "coap", CA, "\"http://c.test/a\"", "\"http://c.test/b\"", "coap.crl-url"),
    ("coap.crl-expired", "coap", CA_CRL, "\"accept\"", "\"refuse\"", "coap certificates"),
    ("coap.crl-period", "coap", CA_CRL, "\"1h\"", "\"2h\"", "coap.crl-period"),
    ("mqtt.insecure-listen", "mqtt", "", "[\"127.0.0.1:1\"]", "[\"127.0.0.1:2\"]", "mqtt"),
    ("mqtt.max-clients", "mqtt", "", "7", "8", "mqtt"),
    ("mqtt.mirror", "mqtt", "", "true", "false", "mqtt"),
    ("mqtt.max-queued", "mqtt", "", "7", "8", "mqtt"),
    ("mqtt.retained-share", "mqtt", "", "7", "8", "mqtt"),
    ("mqtt.jwt-audience", "mqtt", "", "\"a\"", "\"b\"", "mqtt"),
    ("mqtt.mqtt311-deny", "mqtt", "", "\"close\"", "\"drop\"", "mqtt"),
    ("journal.max-bytes", "journal", SEGMENT, "\"300MiB\"", "\"400MiB\"", "journal"),
    ("journal.commit-interval", "journal", "", "\"10ms\"", "\"20ms\"", "journal"),
    ("journal.rejected-max-bytes", "journal", "", "\"1MiB\"", "\"2MiB\"", "journal"),
    ("lane.high.max-bytes", "lane.high", "", "\"10MiB\"", "\"11MiB\"", "journal"),
    ("lane.high.when-full", "lane.high", "", "\"refuse\"", "\"drop-oldest\"", "journal"),
    ("lane.high.device-share", "lane.high", "", "10", "11", "journal"),
    ("lane.high.daily-bytes", "lane.high", "", "\"1MiB\"", "\"2MiB\"", "lane.high.daily-bytes"),
    ("lane.normal.max-bytes", "lane.normal", "", "\"90MiB\"", "\"91MiB\"", "journal"),
    ("lane.normal.when-full", "lane.normal", "", "\"refuse\"", "\"drop-oldest\"", "journal"),
    ("lane.normal.device-share", "lane.normal", "", "10", "11", "journal"),
    ("lane.normal.daily-bytes", "lane.normal", "", "\"512KiB\"", "\"700KiB\"", "lane.normal.daily-bytes"),
    ("clock.trust", "clock", "", "\"kernel\"", "\"always\"", "clock.trust"),
    ("log.level", "log", "", "\"info\"", "\"debug\"", "log.level"),
    ("update.maintenance-window", "update", APT, "\"always\"", "\"02:00-03:00\"", "update"),
    ("update.period", "update", APT, "\"1h\"", "\"2h\"", "update"),
    ("metrics.listen", "metrics", "", "[\"127.0.0.1:1\"]", "[\"127.0.0.1:2\"]", "metrics.listen"),
    ("remote.allow", "remote", "", "[\"check\"]", "[\"reload\"]", "commands"),
    ("role.*.quota.messages", "role.r.quota", "", "50", "51", "role.r"),
    ("role.*.quota.bytes", "role.r.quota", "", "\"60KiB\"", "\"61KiB\"", "role.r"),
    ("role.*.quota.per", "role.r.quota", "", "\"2min\"", "\"3min\"", "role.r"),
    ("role.*.quota.burst", "role.r.quota", "", "9", "8", "role.r"),
    ("role.*.max-payload", "role.r", "", "\"1KiB\"", "\"2KiB\"", "role.r"),
    ("role.*.offline-after", "role.r", "", "\"1min\"", "\"2min\"", "role.r"),
    ("role.*.max-sessions", "role.r", "", "2", "3", "role.r"),
    ("role.*.max-handshakes", "role.r", "", "20", "30", "role.r"),
    ("role.*.query", "role.r", "", "\"publish\"", "\"refuse\"", "role.r"),
    ("role.*.firmware-version-path", "role.r", "firmware = \"c\"", "\"x\"", "\"y\"", "role.r"),
    ("role.*.firmware-version-field", "role.r", VERSION, "\"/a\"", "\"/b\"", "role.r"),
    ("role.*.mailbox.messages", "role.r.mailbox", "", "5", "6", "role.r"),
    ("role.*.mailbox.bytes", "role.r.mailbox", "", "\"5KiB\"", "\"6KiB\"", "role.r"),
    ("role.*.mailbox.expires", "role.r.mailbox", "", "\"5h\"", "\"6h\"", "role.r"),
    ("role.*.mailbox.when-full", "role.r.mailbox", "", "\"refuse\"", "\"drop-oldest\"", "role.r"),
    ("role.*.mailbox.awake-for", "role.r.mailbox", "", "\"5s\"", "\"6s\"", "role.r"),
    ("role.*.mailbox.always-awake", "role.r.mailbox", "", "true", "false", "role.r"),
    ("role.*.local-subscribe", "role.r.local-subscribe.l", "", LOCAL_A, "topic = \"b/#\"", "role.r"),
    ("role.*.local-publish", "role.r.local-publish.l", "", LOCAL_A, "topic = \"b/#\"", "role.r"),
    ("role.*.uplink.*.path", "role.r.uplink.n", "", "\"m\"", "\"n\"", "role.r"),
    ("role.*.uplink.*.deny", "role.r.uplink.n", "path = \"n\"", "true", "false", "role.r"),
    ("role.*.uplink.*.topic", "role.r.uplink.n", "path = \"n\"", "\"t/a\"", "\"t/b\"", "role.r"),
    ("role.*.uplink.*.qos", "role.r.uplink.n", "path = \"n\"", "0", "1", "role.r"),
    ("role.*.uplink.*.retain", "role.r.uplink.n", "path = \"n\"", "true", "false", "role.r"),
    ("role.*.uplink.*.lane", "role.r.uplink.n", "path = \"n\"", "\"high\"", "\"normal\"", "role.r"),
    ("role.*.uplink.*.expires", "role.r.uplink.n", "path = \"n\"", "\"1h\"", "\"2h\"", "role.r"),
    ("role.*.uplink.*.envelope", "role.r.uplink.n", "path = \"n\"", "\"none\"", "\"json\"", "role.r"),
    ("role.*.uplink.*.delete", "role.r.uplink.n", RETAINED, "true", "false", "role.r"),
    ("role.*.uplink.*.query", "role.r.uplink.n", "path = \"n\"", "\"publish\"", "\"refuse\"", "role.r"),
    ("role.*.uplink.*.max-payload", "role.r.uplink.n", "path = \"n\"", "\"1KiB\"", "\"2KiB\"", "role.r"),
    ("role.*.uplink.*.content-formats", "role.r.uplink.n", "path = \"n\"", "[\"0\"]", "[\"50\"]", "role.r"),
    ("role.*.uplink.*.on-change", "role.r.uplink.n", "path = \"n\"", "true", "false", "role.r"),
    ("role.*.uplink.*.dead-band", "role.r.uplink.n", BAND, "1", "2", "role.r"),
    ("role.*.uplink.*.dead-band-field", "role.r.uplink.n", BANDED, "\"/a\"", "\"/b\"", "role.r"),
    ("role.*.uplink.*.min-interval", "role.r.uplink.n", "path = \"n\"", "\"1s\"", "\"2s\"", "role.r"),
    ("role.*.downlink.*.topic", "role.r.downlink.n", "path = \"{rest}\"", DOWN_A, DOWN_B, "role.r"),
    ("role.*.downlink.*.deny", "role.r.downlink.n", DOWN, "true", "false", "role.r"),
    ("role.*.downlink.*.path", "role.r.downlink.n", DOWN_ALONE, "\"a/{rest}\"", "\"b/{rest}\"", "role.r"),
    ("role.*.downlink.*.deliver", "role.r.downlink.n", DOWN, "\"auto\"", "\"request\"", "role.r"),
    ("role.*.downlink.*.idempotent", "role.r.downlink.n", DOWN, "true", "false", "role.r"),
    ("role.*.downlink.*.latest-wins", "role.r.downlink.n", DOWN, "true", "false", "role.r"),
    ("role.*.downlink.*.expires", "role.r.downlink.n", DOWN, "\"1h\"", "\"2h\"", "role.r"),
    ("role.*.downlink.*.answer-within", "role.r.downlink.n", DOWN, "\"10s\"", "\"20s\"", "role.r"),
    ("device.*.role", "device.d", "", "\"r\"", "\"s\"", "device.d"),
    ("device.*.label", "device.d", "role = \"r\"", "\"a\"", "\"b\"", "device.d"),
    ("device.*.tags", "device.d", "role = \"r\"", "{ site = \"a\" }", "{ site = \"b\" }", "device.d"),
    ("device.*.parent", "device.d", "role = \"r\"", "\"p\"", "\"q\"", "device.d"),
    ("device.*.psk-identity", "device.d", PSK, "\"a\"", "\"b\"", "device.d"),
    ("device.*.psk-file", "device.d", "role = \"r\"", "\"/a.psk\"", "\"/b.psk\"", "device.d"),
    ("device.*.mqtt-username", "device.d", LOGIN, "\"a\"", "\"b\"", "device.d"),
    ("device.*.password-file", "device.d", "role = \"r\"", "\"/a.psk\"", "\"/b.psk\"", "device.d"),
    ("device.*.certificate-uri", "device.d", "role = \"r\"", "\"urn:a\"", "\"urn:b\"", "device.d"),
    ("device.*.certificate-dns", "device.d", "role = \"r\"", "\"a\"", "\"b\"", "device.d"),
    ("device.*.certificate-cn", "device.d", "role = \"r\"", "\"a\"", "\"b\"", "device.d"),
    ("device.*.offline-after", "device.d", "role = \"r\"", "\"1min\"", "\"2min\"", "device.d"),
    ("fleet.*.role", "fleet.f", "certificate-dns = \"door-{id}.test\"", "\"r\"", "\"s\"", "fleet"),
    ("fleet.*.label", "fleet.f", FLEET, "\"a\"", "\"b\"", "fleet"),
    ("fleet.*.tags", "fleet.f", FLEET, "{ site = \"a\" }", "{ site = \"b\" }", "fleet"),
    ("fleet.*.max-devices", "fleet.f", FLEET, "5", "6", "fleet"),
    ("fleet.*.offline-after", "fleet.f", FLEET, "\"1min\"", "\"2min\"", "fleet"),
];

const CRL: &str = "url = \"mqtts://b\"\ncrl-url = \"http://c.test/a\"";
const KEY: &str = "url = \"mqtts://b\"\nkey-file = \"/a.key\"";
const CRT: &str = "url = \"mqtts://b\"\ncertificate-file = \"/a.crt\"";
const PAIR: &str = "url = \"mqtts://b\"\nkey-file = \"/a.key\"\ncertificate-file = \"/a.crt\"";
const USER: &str = "url = \"mqtts://b\"\nusername = \"u\"";
const PIN_A: &str = "[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"]";
const PIN_B: &str = "[\"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"]";
const JWT_A: &str = "jwt = { audience = \"a\", lifetime = \"1h\", algorithm = \"ES256\", key-file = \"/a\" }";
const JWT_AUDIENCE: &str =
    "jwt = { audience = \"b\", lifetime = \"1h\", algorithm = \"ES256\", key-file = \"/a\" }";
const JWT_LIFETIME: &str =
    "jwt = { audience = \"a\", lifetime = \"2h\", algorithm = \"ES256\", key-file = \"/a\" }";
const JWT_ALGORITHM: &str =
    "jwt = { audience = \"a\", lifetime = \"1h\", algorithm = \"EdDSA\", key-file = \"/a\" }";
const JWT_KEY: &str =
    "jwt = { audience = \"a\", lifetime = \"1h\", algorithm = \"ES256\", key-file = \"/b\" }";
const READ_A: &str = "\"a/{device}/{path}\"";
const ASK_A: &str = "\"a/{device}/{id}/{path}\"";
const PLAIN: &str = "insecure-listen = [\"127.0.0.1:5683\"]";
const CA: &str = "client-ca-file = \"/a.pem\"";
const CA_CRL: &str = "client-ca-file = \"/a.pem\"\ncrl-url = \"http://c.test/a\"";
const SEGMENT: &str = "segment-bytes = \"4MiB\"";
const APT: &str = "source = \"apt\"";
const VERSION: &str = "firmware = \"c\"\nfirmware-version-path = \"x\"";
const LOCAL_A: &str = "topic = \"a/#\"";
const RETAINED: &str = "path = \"n\"\nretain = true";
const BAND: &str = "path = \"n\"\non-change = true";
const BANDED: &str = "path = \"n\"\non-change = true\ndead-band = 1";
const DOWN_A: &str = "\"{prefix}/{device}/a/#\"";
const DOWN_B: &str = "\"{prefix}/{device}/b/#\"";
const PSK: &str = "role = \"r\"\npsk-file = \"/a.psk\"";
const LOGIN: &str = "role = \"r\"\npassword-file = \"/a.psk\"";
const FLEET: &str = "role = \"r\"\ncertificate-dns = \"door-{id}.test\"";

/// Keys of files or of other tables, that other tests go through.
const ELSEWHERE: [&str; 35] = [
    // They differ by what is in the files: tests/path/truth.rs.
    "coap.certificate-file",
    "coap.key-file",
    "coap.crl-file",
    "mqtt.listen",
    "mqtt.certificate-file",
    "mqtt.key-file",
    "mqtt.client-ca-file",
    "device.*.certificate-issuer",
    "device.*.public-key-file",
    "device.*.public-key",
    // They are one value, compared as it is.
    "fleet.*.certificate-uri",
    "fleet.*.certificate-dns",
    "fleet.*.certificate-cn",
    "fleet.*.certificate-issuer",
    "topics.subscribe",
    "topics.update",
    "topics.update-hint",
    "role.*.firmware",
    "update.source",
    "update.url",
    "update.metadata-url",
    "update.targets-url",
    "update.root-file",
    "update.ca-file",
    "update.backend",
    "update.compatible",
    "update.hardware",
    "update.health-timeout",
    "update.daily-budget",
    "update.firmware-disk",
    "update.firmware-steps",
    "update.firmware-step-after",
    "update.firmware-report-within",
    "update.firmware-failures",
    "role.*.uplink.*.when",
];

/// Every key that a reload takes up, with `*` for the names of tables.
fn walk(keys: &'static [Key], above: &str, all: &mut BTreeSet<String>) {
    for key in keys {
        let name = format!("{above}{}", key.name);
        match key.kind {
            Kind::Table(inner) => walk(inner, &format!("{name}."), all),
            Kind::Named(inner) => walk(inner, &format!("{name}.*."), all),
            Kind::Forbidden(_) | Kind::Reserved(_) => {}
            _ if key.reloadable => drop(all.insert(name)),
            _ => {}
        }
    }
}

#[test]
fn a_list_of_changes_names_every_key_that_a_reload_takes_up() {
    let mut all = BTreeSet::new();
    walk(schema::ROOT, "", &mut all);
    let is_told = |key: &&String| {
        ROWS.iter().any(|row| row.0 == *key)
            || SILENT.contains(&key.as_str())
            || ELSEWHERE.contains(&key.as_str())
            || WHOLE.iter().any(|table| key.starts_with(table))
    };
    let missing: Vec<&String> = all.iter().filter(|key| !is_told(key)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[test]
fn a_change_of_each_key_is_named() {
    let ca = |name: &str| {
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, name);
        ca.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    let (a, b) = (ca("a"), ca("b"));
    let load = |(key, table, beside, value): (&str, &str, &str, &str)| {
        let name = key.rsplit('.').next().unwrap_or(key);
        let line = match value.starts_with("jwt =") || value.starts_with("topic =") {
            true => value.to_owned(),
            false => format!("{name} = {value}"),
        };
        let others = [
            ("gateway", "id = \"g\""),
            ("upstream", "url = \"mqtts://b\""),
            ("role.r.downlink.d", "topic = \"{prefix}/{device}/in/#\"\npath = \"{rest}\""),
        ];
        let others = others.iter().filter(|(other, _)| *other != table);
        let others: String = others.map(|(table, line)| format!("[{table}]\n{line}\n")).collect();
        let case: Case = main_file(&format!("{BASE}{others}[{table}]\n{beside}\n{line}\n"))
            .file("/a.pem", &a)
            .file("/b.pem", &b)
            .file("/a.psk", "text:aaaaaaaaaaaaaaaa")
            .file("/b.psk", "text:bbbbbbbbbbbbbbbb")
            .file("/p.psk", "text:pppppppppppppppp")
            .file("/q.psk", "text:qqqqqqqqqqqqqqqq");
        case.load().map_err(|findings| format!("{key} = {value}: {findings:?}"))
    };
    let mut wrong = Vec::new();
    for (key, table, beside, old, new, named) in ROWS {
        let both =
            load((key, table, beside, old)).and_then(|was| Ok((was, load((key, table, beside, new))?)));
        let (was, is) = match both {
            Ok(both) => both,
            Err(why) => {
                wrong.push(why);
                continue;
            }
        };
        let found = differences(&was, &is, was.settings.coap.certificates.key.clone());
        let names: Vec<&str> = found.iter().map(|it| it.key.as_str()).collect();
        if !names.contains(named) {
            let findings: Vec<_> = is.findings.iter().map(ToString::to_string).collect();
            wrong.push(format!("{key}: {names:?} instead of {named}; {findings:?}"));
        }
        let none = differences(&was, &was, was.settings.coap.certificates.key.clone());
        assert!(none.is_empty(), "{key}: {none:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_device_of_the_registry_its_keys_and_its_tables_are_no_change_of_the_files() {
    let hash = "0123456789abcdef".repeat(4);
    let device = format!("role = \"r\"\npublic-key = \"sha256:{hash}\"\n");
    let case = |more: &str| {
        main_file(&format!("{BASE}[device.x.observe.t]\npath = \"s\"\nas = \"x\"\n{more}"))
            .file("/p.psk", "text:pppppppppppppppp")
            .file("/q.psk", "text:qqqqqqqqqqqqqqqq")
    };
    let before = case("").loaded();
    let added = case("").device("x", &device).loaded();
    assert!(added.settings.downlink.served.is_wanted(), "{:?}", added.findings);
    assert!(differences(&before, &added, None).len() > 1);
    assert_eq!(beside_registry(&before, &added, None), Vec::<String>::new());
    assert_eq!(beside_registry(&added, &before, None), Vec::<String>::new());
    let more = "[device.x.observe.u]\npath = \"u\"\nas = \"x\"\n[log]\nlevel = \"debug\"\n";
    let edited = case(more).device("x", &device).loaded();
    assert_eq!(beside_registry(&before, &edited, None), ["log.level"]);
    assert_eq!(beside_registry(&added, &edited, None), ["observe and poll", "log.level"]);
    let named = case("[device.y]\nrole = \"r\"\npsk-file = \"/p.psk\"\npsk-identity = \"y\"\n").loaded();
    assert_eq!(beside_registry(&before, &named, None), ["device.y"]);
    // A table that switches a device of the registry off, or disables it by a fault, is one.
    for table in ["[device.r1]\nenabled = false\n", "[device.r1]\ntags = { a = \"b\" }\n"] {
        let with =
            |more: &str| case(more).device("r1", "role = \"r\"\n").device("r2", "role = \"r\"\n").loaded();
        let (on, off) = (with(""), with(table));
        assert_eq!(beside_registry(&on, &off, None), ["device.r1"], "{table}");
        assert_eq!(beside_registry(&off, &on, None), ["device.r1"], "{table}");
        assert_eq!(beside_registry(&off, &off, None), Vec::<String>::new(), "{table}");
        // By a command it is none.
        let disabled =
            case("").device("r1", "role = \"r\"\nenabled = false\n").device("r2", "role = \"r\"\n");
        assert_eq!(beside_registry(&on, &disabled.loaded(), None), Vec::<String>::new());
    }
    // Nor is the file of a device that is removed beside its table.
    let off = case("[device.r1]\nenabled = false\n");
    let there = off.clone().device("r1", "role = \"r\"\n").loaded();
    assert_eq!(beside_registry(&there, &off.loaded(), None), Vec::<String>::new());
}
