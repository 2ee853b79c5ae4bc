//! The defaults within tables that have names: roles and their rules, devices, fleets, serial ports
//! and their units, certificates. Of such a table only those are shown that apply to it.
//!
//! Like the other defaults, they are those that the packaged `tombolo.toml` documents, in its lists
//! of keys.

use std::collections::BTreeMap;

use ::config::{Map, Value as Checked, ValueKind};
use serde_json::Value;

use super::{PACKAGED, Shown, parse, sentence};
use crate::config::layer::{Layer, dotted};
use crate::config::schema::{self, Key, Kind};

/// Where the packaged file lists the keys of a table, whose names are written as `*` here.
const LISTS: [(&str, &str); 9] = [
    ("role.*", "# A role's keys:"),
    ("role.*.uplink.*", "[role.ROLE.uplink.RULE]:"),
    ("role.*.downlink.*", "[role.ROLE.downlink.RULE]:"),
    ("device.*", "[device.ID]:"),
    ("fleet.*", "[fleet.NAME]:"),
    ("serial.*", "# [serial.NAME]:"),
    ("serial.*.modbus", "[serial.NAME.modbus]"),
    ("serial.*.unit.*", "# [serial.NAME.unit.ADDRESS],"),
    ("certificate.*", "# [certificate.NAME]:"),
];

/// A key that has a default only beside another one, or one that begins so.
const BESIDE: [(&str, &str); 14] = [
    ("checksum-order", "checksum"),
    ("checksum-text", "checksum"),
    ("checksum-from", "checksum"),
    ("checksum-apart", "checksum"),
    ("checksum-tail", "checksum"),
    ("checksum-mark", "checksum"),
    ("poll-period", "poll"),
    ("poll-timeout", "poll"),
    ("poll-echo", "poll"),
    ("wake-pause", "wake"),
    ("answer-timeout", "writable"),
    ("max-unchanged", "publish"),
    ("psk-identity", "psk-file"),
    ("certificate-issuer", "certificate-"),
];

/// What a port that is a Modbus bus has a use for.
const OF_A_BUS: [&str; 7] = ["enabled", "baud", "data-bits", "parity", "stop-bits", "flow-control", "rs485"];

/// Adds the defaults of every named table in the layers that is not in `all` yet.
pub(super) fn add(layers: &[Layer], all: &mut BTreeMap<String, Shown>) {
    let mut tables: BTreeMap<Vec<String>, &'static [Key]> = BTreeMap::new();
    for layer in layers {
        find(schema::ROOT, &layer.values, &mut Vec::new(), &mut tables);
    }
    let lists: BTreeMap<&str, Vec<Entry>> =
        LISTS.iter().map(|(table, beginning)| (*table, list(beginning))).collect();
    for (path, keys) in &tables {
        let Some(list) = lists.get(pattern(path).as_str()) else { continue };
        let is_bus = path[0] == "serial"
            && tables.keys().any(|other| other.len() == 4 && other[..2] == path[..2] && other[2] == "unit");
        let is_used = |entry: &&Entry| !is_bus || path.len() > 2 || OF_A_BUS.contains(&entry.key.as_str());
        for entry in list.iter().filter(is_used) {
            let Some(key) = keys.iter().find(|key| key.name == entry.key) else { continue };
            let name = |of: &str| dotted(path.iter().map(String::as_str).chain([of]));
            let beside = BESIDE.iter().find(|(key, _)| *key == entry.key).map(|(_, beside)| name(beside));
            let applies = beside.is_none_or(|beside| {
                // By its place in the order: there may be 10,000 devices.
                let begins = all.range(beside.clone()..).take_while(|(key, _)| key.starts_with(&beside));
                let mut those = begins.filter(|(key, _)| **key == beside || beside.ends_with('-'));
                those.any(|(_, shown)| shown.place.is_some())
            });
            if !applies {
                continue;
            }
            let mut insert = |key: String, value: Option<Value>, words: Option<String>| {
                let shown = Shown { key: key.clone(), value, words, place: None };
                all.entry(key).or_insert(shown);
            };
            match (&entry.value, &key.kind) {
                (Some(Value::Object(inner)), Kind::Table(_)) => {
                    let table = name(&entry.key);
                    for (key, value) in inner {
                        insert(format!("{table}.{key}"), Some(value.clone()), None);
                    }
                }
                _ => insert(name(&entry.key), entry.value.clone(), entry.words.clone()),
            }
        }
    }
}

/// The tables with names, and the tables within them, with their keys.
fn find(
    keys: &'static [Key],
    table: &Map<String, Checked>,
    path: &mut Vec<String>,
    out: &mut BTreeMap<Vec<String>, &'static [Key]>,
) {
    for key in keys {
        let Some(ValueKind::Table(inside)) = table.get(key.name).map(|value| &value.kind) else { continue };
        path.push(key.name.to_owned());
        match key.kind {
            Kind::Table(inner) => find(inner, inside, path, out),
            Kind::Named(inner) => {
                for (name, value) in inside {
                    let ValueKind::Table(one) = &value.kind else { continue };
                    path.push(name.clone());
                    out.insert(path.clone(), inner);
                    // Its settings have defaults with or without the table.
                    if let Some(key) = inner.iter().find(|key| key.name == "modbus")
                        && let (Kind::Table(modbus), true) = (&key.kind, one.contains_key("unit"))
                    {
                        let mut bus = path.clone();
                        bus.push("modbus".to_owned());
                        out.insert(bus, *modbus);
                    }
                    find(inner, one, path, out);
                    path.pop();
                }
            }
            _ => {}
        }
        path.pop();
    }
}

/// `role.x.uplink.y` as `role.*.uplink.*`.
fn pattern(path: &[String]) -> String {
    let is_name = |index: usize| index % 2 == 1;
    let levels = path.iter().enumerate().map(|(index, level)| if is_name(index) { "*" } else { level });
    levels.collect::<Vec<_>>().join(".")
}

/// A key of a list that has a default.
struct Entry {
    key: String,
    value: Option<Value>,
    words: Option<String>,
}

/// The keys with a default in the list that begins so, in its order.
fn list(beginning: &str) -> Vec<Entry> {
    let mut lines = PACKAGED.lines().skip_while(|line| !line.contains(beginning)).skip(1);
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in &mut lines {
        let others = LISTS.iter().any(|(_, other)| *other != beginning && line.contains(other));
        let Some(text) = line.strip_prefix('#').filter(|_| !others) else { break };
        match text.strip_prefix("   ") {
            Some(text) if !text.starts_with(' ') => {
                let (key, about) = text.split_once(' ').unwrap_or((text, ""));
                entries.push((key.to_owned(), about.trim().to_owned()));
            }
            Some(text) => {
                if let Some((_, about)) = entries.last_mut() {
                    about.push(' ');
                    about.push_str(text.trim());
                }
            }
            // Text between two parts of a list.
            None => {}
        }
    }
    entries.into_iter().filter_map(|(key, about)| entry(key, &about)).collect()
}

fn entry(key: String, about: &str) -> Option<Entry> {
    if about.contains("Required") {
        return None;
    }
    let begins = ["Default: ", "Default ", "; default: ", "; default ", ", default "];
    let default = begins.into_iter().find_map(|begins| Some(about.split_once(begins)?.1))?;
    let default = sentence(default);
    match parse(&default) {
        Some(value) => Some(Entry { key, value: Some(value), words: None }),
        None => Some(Entry { key, value: None, words: Some(default) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::config::layer::LayerText;

    fn shown(text: &str) -> BTreeMap<String, Shown> {
        let layer = LayerText { origin: Origin::Main, path: "/e/t.toml".into(), text: text.into() };
        let (shown, faults) = super::super::show(&[layer], &[]);
        assert!(faults.is_empty(), "{faults:?}");
        shown.into_iter().map(|one| (one.key.clone(), one)).collect()
    }

    #[test]
    fn a_role_and_its_rule_are_shown_with_every_default() {
        let all = shown("[role.x.uplink.y]\npath = \"t/#\"\nqos = 0\n");
        let value = |key: &str| all.get(key).and_then(|one| one.value.clone());
        for (key, expected) in [
            ("role.x.enabled", true.into()),
            ("role.x.quota.messages", 60.into()),
            ("role.x.quota.bytes", "64KiB".into()),
            ("role.x.quota.per", "1min".into()),
            ("role.x.quota.burst", 20.into()),
            ("role.x.offline-after", "1h".into()),
            ("role.x.max-sessions", 4.into()),
            ("role.x.max-handshakes", 120.into()),
            ("role.x.query", "publish".into()),
            ("role.x.uplink.y.qos", 0.into()),
            ("role.x.uplink.y.retain", false.into()),
            ("role.x.uplink.y.lane", "normal".into()),
            ("role.x.uplink.y.envelope", Value::from("none")),
        ] {
            assert_eq!(value(key), Some(expected), "{key}");
        }
        let words = |key: &str| all.get(key).and_then(|one| one.words.clone()).unwrap_or_default();
        assert_eq!(words("role.x.uplink.y.topic"), "topics.reading");
        assert_eq!(words("role.x.uplink.y.expires"), "never");
        assert!(words("role.x.max-payload").starts_with("1024 bytes in one datagram"));
        let place = |key: &str| all.get(key).and_then(|one| one.place.as_ref()).map(ToString::to_string);
        assert_eq!(place("role.x.uplink.y.qos").as_deref(), Some("/e/t.toml:3"));
        assert_eq!(place("role.x.uplink.y.lane"), None);
        assert!(!all.keys().any(|key| key.starts_with("role.sensor")), "there is no such role");
    }

    #[test]
    fn of_a_device_and_a_port_only_what_applies_to_it_is_shown() {
        let all = shown(
            "[device.a]\nrole = \"x\"\npsk-file = \"a.psk\"\n[device.b]\nrole = \"x\"\ncertificate-dns = \"b\"\n\
             [serial.line]\nport = \"/dev/x\"\nrole = \"x\"\nframing = \"line\"\n\
             [serial.bus]\nport = \"/dev/y\"\n[serial.bus.unit.3]\nid = \"u\"\nrole = \"x\"\n",
        );
        let has = |key: &str| all.contains_key(key);
        for key in [
            "device.a.psk-identity",
            "device.a.enabled",
            "device.a.offline-after",
            "device.b.certificate-issuer",
            "serial.line.baud",
            "serial.line.form",
            "serial.bus.baud",
            "serial.bus.modbus.timeout",
            "serial.bus.unit.3.period",
        ] {
            assert!(has(key), "{key} in {:?}", all.keys());
        }
        for key in [
            "device.b.psk-identity",
            "device.a.certificate-issuer",
            "serial.line.poll-period",
            "serial.line.checksum-text",
            "serial.line.modbus.timeout",
            "serial.bus.form",
            "serial.bus.unit.3.max-unchanged",
        ] {
            assert!(!has(key), "{key}");
        }
        assert_eq!(all["serial.line.baud"].value, Some(9600.into()));
    }

    #[test]
    fn ten_thousand_devices_take_no_longer_than_ten_thousand_times_one() {
        let one = |id| format!("[device.d{id}]\nrole = \"x\"\npsk-file = \"k{id}\"\n");
        let text: String = (0..10_000).map(one).collect();
        let began = std::time::Instant::now();
        let all = shown(&text);
        // A look through all keys for each device took minutes.
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
        assert!(all.contains_key("device.d9999.psk-identity"));
        assert!(!all.contains_key("device.d9999.certificate-issuer"));
    }

    #[test]
    fn every_list_of_keys_is_found_and_names_keys_of_the_schema() {
        for (table, beginning) in LISTS {
            let entries = list(beginning);
            assert!(entries.len() >= 3, "{table}: {}", entries.len());
        }
        for (key, beside) in BESIDE {
            let all: Vec<Entry> = LISTS.iter().flat_map(|(_, beginning)| list(beginning)).collect();
            assert!(all.iter().any(|entry| entry.key == key), "{key} beside {beside}");
        }
    }
}
