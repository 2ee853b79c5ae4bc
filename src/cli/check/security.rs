//! `tombolo check --security`: what works and could be abused. Beside the ordinary check, which
//! says what does not work.
//!
//! `fail`: anybody on the network, or every user of this machine, can read or send. `warn`: weaker
//! than it could be, or not in use. What only the running daemon knows (suites in use, rules that
//! decided nothing, silent devices) is left out where it does not run, and that is said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Report;
use crate::cli::Context;
use crate::cli::error::CommandError;
use crate::cli::key::{PSK_MIN, Weakness, weakness};
use crate::cli::output::{plural, span};
use crate::config::schema::{self, Kind};
use crate::config::show::{Shown, show};
use crate::config::{Finding, Level, Loaded, Settings};
use crate::control::io::client::ANSWER;
use crate::control::protocol::Request;
use crate::control::snapshot::SecurityReport;
use crate::message::Name;
use crate::northbound::settings::TlsVersion;

/// A key older than this is named.
const OLD: Duration = Duration::from_secs(365 * 86_400);
/// Before the rules have counted for this long, one that decided nothing says nothing.
const COUNTED: u64 = 86_400;
/// Most names in one finding.
const NAMED: usize = 5;

/// Judges and prints.
///
/// # Errors
/// Nobody reads the output.
pub fn run(report: &mut Report<'_>, loaded: &Loaded) -> Result<(), CommandError> {
    let settings = &loaded.settings;
    // What this user may not read is not judged: no device of it is known, and no secret.
    let closed = loaded.state.closed.as_ref();
    report.add(closed.map(|closed| unread(report.context, closed)))?;
    report.add(uplink(settings))?;
    report.add(listeners(settings))?;
    report.add(exposed(loaded, closed.is_none()))?;
    let options = report.context.options();
    let read = crate::config::io::texts(&options);
    let (shown, _) = show(&read.layers, &options.environment);
    let now = SystemTime::now();
    let old = ages(secret_files(&shown, settings), now);
    report.add(old.into_iter().filter(|finding| closed.is_none() || finding.level != Level::Ok))?;
    report.add(keys(settings, report.context.out.json))?;
    report.add(rules(settings, closed.is_none()))?;
    let told = report
        .context
        .daemon()
        .and_then(|mut daemon| daemon.ask_for::<SecurityReport>(&Request::SecurityReport {}, ANSWER));
    match told {
        Ok(told) => report.add(running(&told, settings))?,
        Err(error) => report.add([Finding::warn(
            "daemon",
            format!("suites, rules and devices in use are not known: {error}"),
        )])?,
    }
    report.next = Some(report.context.hint("check"));
    Ok(())
}

/// The part of the files that this user may not read.
fn unread(context: &Context, closed: &Path) -> Finding {
    let message = format!(
        "{} may not be read by this user, so devices, keys and unused roles are not judged",
        closed.display()
    );
    Finding::fail("state", message).advice(context.rights_hint("check --security"))
}

/// The way to the broker.
fn uplink(settings: &Settings) -> Vec<Finding> {
    let Some(upstream) = &settings.upstream else { return Vec::new() };
    let has_name = upstream.username.is_some();
    let Some(tls) = &upstream.tls else {
        let local = upstream.host == "localhost"
            || upstream.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let finding = match (local, has_name) {
            (true, _) => Finding::warn("upstream", "plain MQTT, within this machine"),
            (false, true) => Finding::fail(
                "upstream",
                "plain MQTT: readings and the password can be read and forged on the way to the broker",
            ),
            (false, false) => Finding::fail(
                "upstream",
                "plain MQTT: readings can be read and forged on the way to the broker",
            ),
        };
        return vec![finding.key("upstream.url").advice("use mqtts://")];
    };
    let mut findings = Vec::new();
    findings.push(match tls.minimum {
        TlsVersion::V1_3 => Finding::ok("upstream", "TLS 1.3"),
        TlsVersion::V1_2 => Finding::ok("upstream", "TLS 1.2 or 1.3, never less")
            .key("upstream.tls-min")
            .advice("if the broker has 1.3, tls-min = \"1.3\" accepts nothing else"),
    });
    if !tls.pins.is_empty() {
        findings.push(
            Finding::warn(
                "upstream",
                "the broker is known by its pinned key: issuer, name, dates and revocation are not judged",
            )
            .key("upstream.pin-sha256")
            .advice("a certificate of a CA (ca-file) can be replaced without touching this gateway"),
        );
    }
    if tls.identity.is_none() && !has_name {
        findings.push(
            Finding::warn("upstream", "this gateway shows the broker neither a certificate nor a password")
                .advice("unless the broker knows it otherwise, anybody can publish as this gateway"),
        );
    }
    findings
}

/// What is listened on.
fn listeners(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((addresses, device)) = &settings.coap.insecure {
        for address in addresses {
            findings.push(if address.ip().to_canonical().is_loopback() {
                let message =
                    format!("plain CoAP on {address}: every program of this machine can send as {device}");
                Finding::warn("coap", message).key("coap.insecure-listen")
            } else {
                let message =
                    format!("plain CoAP on {address}: everybody who reaches it can send as {device}");
                Finding::fail("coap", message).key("coap.insecure-listen").advice("use coaps, coap.listen")
            });
        }
    }
    for address in settings.metrics.listen.iter().filter(|address| !address.ip().to_canonical().is_loopback())
    {
        let message = format!("plain HTTP on {address}: everybody who reaches it sees the names of devices");
        findings.push(
            Finding::warn("metrics", message)
                .key("metrics.allow-remote")
                .advice("listen on 127.0.0.1 and put a proxy with TLS and a password before it"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("listeners", "none without protection"));
    }
    findings
}

/// Secrets that every user of the machine can read, found by the load; and an open state directory.
///
/// `whole`: all secrets were seen.
fn exposed(loaded: &Loaded, whole: bool) -> Vec<Finding> {
    use std::os::unix::fs::PermissionsExt as _;
    let told =
        loaded.findings.iter().filter(|finding| finding.message.contains("by every user of this machine"));
    let mut findings: Vec<Finding> =
        told.map(|finding| Finding { level: Level::Fail, ..finding.clone() }).collect();
    let state_dir = &loaded.settings.paths.state_dir;
    if let Ok(metadata) = std::fs::metadata(state_dir)
        && metadata.permissions().mode() & 0o007 != 0
    {
        let message = format!("{} can be entered by every user of this machine", state_dir.display());
        findings.push(
            Finding::warn("state directory", message).advice(format!("chmod 0750 {}", state_dir.display())),
        );
    }
    if findings.is_empty() && whole {
        findings.push(Finding::ok("secrets", "none that every user of this machine can read"));
    }
    findings
}

/// The files with secrets that the configuration names, and those of the registry.
fn secret_files(shown: &[Shown], settings: &Settings) -> Vec<PathBuf> {
    let secrets = shown.iter().filter(|one| one.place.is_some() && is_secret(&one.key));
    let mut files: Vec<PathBuf> = secrets
        .filter_map(|one| {
            let text = one.value.as_ref()?.as_str().filter(|text| !text.starts_with("credential:"))?;
            let base = Path::new(&*one.place.as_ref()?.file).parent().unwrap_or(Path::new(""));
            Some(base.join(text))
        })
        .collect();
    let registry = std::fs::read_dir(settings.paths.devices()).into_iter().flatten().flatten();
    files.extend(
        registry
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml")),
    );
    files
}

/// Whether the key of this dotted name holds the path of a secret.
pub fn is_secret(key: &str) -> bool {
    let Some(last) = key.rsplit('.').next() else { return false };
    fn within(keys: &[schema::Key], name: &str) -> bool {
        keys.iter().any(|key| match key.kind {
            Kind::Table(inner) | Kind::Named(inner) => within(inner, name),
            Kind::Secret => key.name == name,
            _ => false,
        })
    }
    within(schema::ROOT, last)
}

/// Keys and passwords that have not been changed for long.
fn ages(files: Vec<PathBuf>, now: SystemTime) -> Vec<Finding> {
    let mut old: Vec<(Duration, PathBuf)> = files
        .into_iter()
        .filter_map(|path| {
            let changed = std::fs::metadata(&path).ok()?.modified().ok()?;
            let age = now.duration_since(changed).ok().filter(|age| *age >= OLD)?;
            Some((age, path))
        })
        .collect();
    old.sort_by(|a, b| b.cmp(a));
    let Some((age, path)) = old.first() else {
        return vec![Finding::ok("keys", "none older than a year, by the dates of their files")];
    };
    let count = old.len() as u64;
    let message = format!(
        "{} not changed for more than a year; the oldest, {}, for {}",
        if count == 1 {
            "1 key or password was".to_owned()
        } else {
            format!("{count} keys or passwords were")
        },
        path.display(),
        span(age.as_secs())
    );
    vec![Finding::warn("keys", message).advice("give new ones, to the device or the broker first")]
}

/// Pre-shared keys that are short, a pattern, or shared. `whole`: all their devices are named,
/// however many.
fn keys(settings: &Settings, whole: bool) -> Vec<Finding> {
    let names = |ids: &[&str]| if whole { ids.join(", ") } else { names(ids) };
    let devices = &settings.gate.devices;
    let (mut short, mut patterns) = (Vec::new(), Vec::new());
    for device in devices {
        match device.psk.as_ref().and_then(|psk| weakness(&psk.key)) {
            Some(Weakness::Short(_)) => short.push(device.id.as_str()),
            Some(Weakness::Repeated(_) | Weakness::Sequence | Weakness::Few(_)) => {
                patterns.push(device.id.as_str())
            }
            None => {}
        }
    }
    let mut findings = Vec::new();
    let kinds = [
        (format!("of less than {PSK_MIN} bytes"), short),
        ("that are a sequence, a pattern or of very few characters".to_owned(), patterns),
    ];
    for (kind, ids) in kinds.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        findings.push(
            Finding::warn("devices", format!("pre-shared keys {kind}: {}", names(&ids)))
                .advice(
                    "`tombolo device rekey ID --psk` makes one that cannot be guessed, and with `--overlap 7d` the device \
                     may use both meanwhile; of a [device.ID] in the configuration, put one into its psk-file; then give it \
                     to the device",
                ),
        );
    }
    let mut by_key: BTreeMap<&[u8], Vec<&str>> = BTreeMap::new();
    for device in devices {
        if let Some(psk) = &device.psk {
            by_key.entry(&psk.key).or_default().push(device.id.as_str());
        }
    }
    for shared in by_key.values().filter(|ids| ids.len() > 1) {
        let message = format!("the same pre-shared key: {}", names(shared));
        findings.push(
            Finding::warn("devices", message).advice("each can send as the others: give each its own key"),
        );
    }
    findings
}

/// Rules that allow more than a device needs, and roles that nobody has.
///
/// `whole`: all devices are known.
fn rules(settings: &Settings, whole: bool) -> Vec<Finding> {
    let gate = &settings.gate;
    let mut findings = Vec::new();
    let mut used: BTreeSet<&str> = gate.devices.iter().map(|device| device.role.as_str()).collect();
    used.extend(gate.fleets.iter().map(|fleet| fleet.role.as_str()));
    // A role that others include has its use by them.
    for role in &gate.roles {
        let uplink = role.uplink.iter().filter_map(|rule| rule.from.as_ref());
        let downlink = role.downlink.iter().filter_map(|rule| rule.from.as_ref());
        let on_behalf = role.on_behalf.iter().filter_map(|rule| rule.from.as_ref());
        used.extend(uplink.chain(downlink).chain(on_behalf).map(Name::as_str));
    }
    for (_, rules) in &settings.mqtt.local {
        let all = rules.publish.iter().chain(&rules.subscribe);
        used.extend(all.filter_map(|rule| rule.from.as_ref()).map(Name::as_str));
    }
    for role in &gate.roles {
        if whole && !used.contains(role.name.as_str()) {
            let message = "no device has this role";
            findings.push(
                Finding::warn(format!("role {}", role.name), message).advice("take it out if none will"),
            );
        }
        for rule in role.uplink.iter().filter(|rule| !rule.deny && rule.from.is_none()) {
            let subject = format!("role {}", role.name);
            let key = format!("role.{}.uplink.{}", role.name, rule.name);
            let template = rule.topic.as_ref().or(gate.reading.as_ref()).map_or("", |topic| topic.as_str());
            let own = template.contains("{device}");
            let all = rule.path.as_str() == "#";
            let (message, advice) = match (all, own) {
                (true, false) => (
                    "allows every path, to topics without {device}: one device can publish as another",
                    "name the paths that are needed, and put {device} in the topic",
                ),
                (true, true) => ("allows every path", "name the paths that are needed, like t/#"),
                (false, false) => (
                    "its topic has no {device}: consumers cannot tell devices apart, and one can publish as another",
                    "put {device} in the topic, unless that is intended",
                ),
                (false, true) => continue,
            };
            findings.push(Finding::warn(subject, message).key(key).advice(advice));
        }
    }
    findings
}

/// What the running daemon knows.
fn running(told: &SecurityReport, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (suite, count) in &told.suites {
        let sessions = plural(*count, "session");
        if suite.starts_with("TLS_PSK_WITH") {
            let message = format!(
                "{sessions} with {suite}: no forward secrecy; a key that is stolen reads what was recorded"
            );
            findings.push(
                Finding::warn("DTLS sessions", message)
                    .advice("use ECDHE_PSK or a certificate, where the device can"),
            );
        }
        if suite.ends_with("CCM_8") {
            let message = format!("{sessions} with {suite}: an authentication tag of 64 bits only");
            findings.push(
                Finding::warn("DTLS sessions", message)
                    .advice("use a GCM or CCM suite, where the device can"),
            );
        }
    }
    let all: u64 = told.suites.values().sum();
    let without = told.without_extended_master_secret;
    if without > 0 {
        let message = format!("{} without the extended master secret (RFC 7627)", plural(without, "session"));
        findings.push(Finding::warn("DTLS sessions", message).advice("update these devices' DTLS libraries"));
    } else if all > 0 && !settings.coap.policy.require_extended_master_secret {
        let message = "all have the extended master secret, and it is not required";
        findings.push(
            Finding::ok("DTLS sessions", message)
                .key("coap.require-ems")
                .advice("require-ems = true refuses devices without it"),
        );
    }
    findings.extend(unused(told));
    findings.extend(silent(told));
    findings
}

/// Rules that decided no reading for as long as they have counted.
fn unused(told: &SecurityReport) -> Vec<Finding> {
    if told.counted_s < COUNTED {
        let message = format!("not judged by use: they have counted for {} only", counted(told.counted_s));
        return vec![Finding::ok("rules", message)];
    }
    let of = |role: &str, rule: &str| {
        let message = format!("has decided no reading for {}", span(told.counted_s));
        Finding::warn(format!("role {role}"), message)
            .key(format!("role.{role}.uplink.{rule}"))
            .advice("take it out if nothing needs it")
    };
    let unused = |(role, rules): (&String, &BTreeMap<String, u64>)| {
        let none = rules.iter().filter(|(_, hits)| **hits == 0);
        none.map(|(rule, _)| of(role, rule)).collect::<Vec<_>>()
    };
    told.rule_hits.iter().flat_map(unused).collect()
}

/// Devices that sent nothing, and for how long that is known.
fn silent(told: &SecurityReport) -> Option<Finding> {
    if told.silent_count == 0 {
        return None;
    }
    let silent: Vec<&str> = told.silent.iter().map(String::as_str).collect();
    // A reload may have added one, or may have had it disabled, since the start.
    let known = told.silent_known_s.unwrap_or(told.uptime_s);
    if known < COUNTED {
        let message = format!("not judged by silence: counted for {} only", counted(known));
        return Some(Finding::ok("devices", message));
    }
    let message = format!(
        "{} sent nothing for as long as the daemon has counted, {} at least: {}",
        plural(told.silent_count, "device"),
        span(known),
        list(&silent, told.silent_count)
    );
    let advice = "`tombolo device remove ID` takes one out that is gone";
    Some(Finding::warn("devices", message).advice(advice))
}

/// A time that is too short for a judgement.
fn counted(seconds: u64) -> String {
    if seconds < 60 { "less than a minute".to_owned() } else { span(seconds) }
}

fn names(names: &[&str]) -> String {
    list(names, names.len() as u64)
}

fn list(names: &[&str], count: u64) -> String {
    let shown = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match count.saturating_sub(names.len().min(NAMED) as u64) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(findings: &[Finding]) -> String {
        findings.iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn keys_that_name_secrets_are_known() {
        for key in ["upstream.key-file", "upstream.password-file", "device.door-7.psk-file", "coap.key-file"]
        {
            assert!(is_secret(key), "{key}");
        }
        for key in ["upstream.ca-file", "upstream.url", "device.x.role", "coap.crl-file"] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn a_device_is_silent_only_for_as_long_as_it_was_counted() {
        let mut told = SecurityReport {
            uptime_s: 30 * 86_400,
            silent: vec!["quiet".into()],
            silent_count: 1,
            silent_known_s: Some(2 * COUNTED),
            ..SecurityReport::default()
        };
        let said = silent(&told).unwrap().to_string();
        assert!(said.contains("1 device sent nothing") && said.contains("2 d at least: quiet"), "{said}");
        assert!(!said.contains("30 d"), "{said}");
        told.silent_known_s = Some(51);
        let said = silent(&told).unwrap().to_string();
        assert!(said.starts_with("ok") && said.contains("not judged"), "{said}");
        told.silent_known_s = Some(0);
        assert!(silent(&told).unwrap().to_string().contains("counted for less than a minute only"));
        // An older daemon does not say.
        told.silent_known_s = None;
        assert!(silent(&told).unwrap().to_string().contains("30 d"));
        told.silent_count = 0;
        assert_eq!(silent(&told), None);
    }

    #[test]
    fn a_rule_that_decided_nothing_is_named_once_it_has_counted_for_a_day() {
        let hits = [("alarm".to_owned(), 0), ("telemetry".to_owned(), 9)].into();
        let mut told = SecurityReport {
            counted_s: COUNTED - 1,
            rule_hits: [("sensor".to_owned(), hits)].into(),
            ..SecurityReport::default()
        };
        let said = lines(&unused(&told));
        assert!(said.starts_with("ok") && said.contains("not judged by use"), "{said}");
        told.counted_s = COUNTED;
        let said = lines(&unused(&told));
        assert!(
            said.starts_with("warn") && said.contains("role.sensor.uplink.alarm: has decided no"),
            "{said}"
        );
        assert!(!said.contains("telemetry"), "{said}");
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(names(&["a", "b"]), "a, b");
        assert_eq!(names(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
        assert_eq!(list(&["a"], 900), "a and 899 more");
    }

    #[test]
    fn an_old_file_is_named_with_its_age_and_a_new_one_is_not() {
        let file = std::env::current_exe().unwrap();
        let changed = std::fs::metadata(&file).unwrap().modified().unwrap();
        let day = |days: u64| changed + Duration::from_secs(days * 86_400);
        let found = ages(vec![file.clone(), "/nowhere".into()], day(400));
        assert!(lines(&found).contains("1 key or password was not changed"), "{found:?}");
        assert!(lines(&found).contains("400 d"), "{found:?}");
        assert_eq!(ages(vec![file], day(3))[0].level, Level::Ok);
    }
}
