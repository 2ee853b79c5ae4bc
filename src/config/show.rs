//! The configuration key by key: the value in force, and the file and line it comes from, for
//! `tombolo config show`. Pure.
//!
//! Works on a configuration with faults too: what was not accepted is not there. No secret is in a
//! configuration, only paths to secrets; the URL is shown without a name and password in it.
//!
//! The defaults are those that the packaged `tombolo.toml` documents; a test holds them against
//! the program's own.

mod named;

use std::collections::BTreeMap;

use ::config::{Value as Checked, ValueKind};
use serde_json::Value;

use super::finding::{Finding, Findings, Place};
use super::layer::{Layer, LayerText, check_environment, check_file, dotted};
use super::scalar::format_size;
use super::schema::{self, Key, Kind};

/// The packaged file, which lists every key with its default, commented out.
const PACKAGED: &str = include_str!("../../config/tombolo.toml");

/// One key.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// In dotted form: `role.sensor.quota.messages`.
    pub key: String,
    /// The value; `None` for a default that is none, or is said in words.
    pub value: Option<Value>,
    /// Words instead of a value, or beside it: `those of the system`.
    pub words: Option<String>,
    /// Where it is set; `None` = it is the default.
    pub place: Option<Place>,
}

/// The keys that are set and those with a default, in the order of their names, and the faults of
/// the texts.
pub fn show(layers: &[LayerText], environment: &[(String, String)]) -> (Vec<Shown>, Vec<Finding>) {
    let mut findings = Findings::default();
    let mut checked: Vec<Layer> =
        layers.iter().filter_map(|layer| check_file(layer, &mut findings)).collect();
    let variables = check_environment(environment, &checked, &mut findings);
    checked.push(variables);
    let mut all = BTreeMap::new();
    defaults(schema::ROOT, &mut Vec::new(), &mut all);
    for layer in &checked {
        let places: BTreeMap<&str, &Place> =
            layer.places.iter().map(|(key, place)| (key.as_str(), place)).collect();
        let mut set = Vec::new();
        flatten(&layer.values, &mut Vec::new(), &mut set);
        for (path, value) in set {
            let key = dotted(path.iter().map(String::as_str));
            let value = match value {
                // Reset by an empty text.
                ValueKind::Nil => None,
                value if is_url(&path) => Some(without_password(&json(value))),
                // As it is written, and as the defaults are.
                ValueKind::U64(bytes) if is_size(&path) => Some(format_size(*bytes).into()),
                ValueKind::I64(bytes) if is_size(&path) => {
                    Some(u64::try_from(*bytes).map_or_else(|_| (*bytes).into(), |it| format_size(it).into()))
                }
                value => Some(json(value)),
            };
            let place = places.get(key.as_str()).map(|place| (*place).clone());
            let shown = match value {
                Some(_) => Shown { key: key.clone(), value, words: None, place },
                None => {
                    let mut default = BTreeMap::new();
                    defaults(schema::ROOT, &mut Vec::new(), &mut default);
                    let none = Shown { key: key.clone(), value: None, words: None, place: None };
                    default.remove(&key).unwrap_or(none)
                }
            };
            all.insert(key, shown);
        }
    }
    named::add(&checked, &mut all);
    (all.into_values().collect(), findings.list)
}

/// Whether a key is a number of bytes.
fn is_size(path: &[String]) -> bool {
    let mut keys = schema::ROOT;
    let mut names = path.iter();
    while let Some(name) = names.next() {
        let Some(key) = keys.iter().find(|key| key.name == name) else { return false };
        match key.kind {
            Kind::Table(inner) => keys = inner,
            Kind::Named(inner) => {
                names.next();
                keys = inner;
            }
            Kind::Size(..) => return names.next().is_none(),
            _ => return false,
        }
    }
    false
}

fn is_url(path: &[String]) -> bool {
    path == ["upstream", "url"]
}

/// `mqtts://name:password@host` without what is before the `@`.
fn without_password(value: &Value) -> Value {
    let Value::String(text) = value else { return value.clone() };
    let (scheme, rest) = text.split_once("://").map_or(("", text.as_str()), |(scheme, rest)| (scheme, rest));
    match rest.rsplit_once('@') {
        Some((_, host)) if scheme.is_empty() => Value::String(format!("[removed]@{host}")),
        Some((_, host)) => Value::String(format!("{scheme}://[removed]@{host}")),
        None => value.clone(),
    }
}

/// The values of a layer that are no tables, with their paths.
fn flatten<'v>(
    table: &'v ::config::Map<String, Checked>,
    path: &mut Vec<String>,
    out: &mut Vec<(Vec<String>, &'v ValueKind)>,
) {
    for (name, value) in table {
        path.push(name.clone());
        match &value.kind {
            ValueKind::Table(inner) => flatten(inner, path, out),
            kind => out.push((path.clone(), kind)),
        }
        path.pop();
    }
}

fn json(value: &ValueKind) -> Value {
    match value {
        ValueKind::Nil => Value::Null,
        ValueKind::Boolean(flag) => (*flag).into(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::U64(number) => (*number).into(),
        ValueKind::Float(number) => (*number).into(),
        ValueKind::String(text) => text.clone().into(),
        ValueKind::Array(items) => items.iter().map(|item| json(&item.kind)).collect(),
        ValueKind::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), json(&value.kind))).collect()
        }
        // No value of the schema is wider.
        other => Value::String(other.to_string()),
    }
}

/// The default of every key that is not within a table of names; for those, [`named`].
fn defaults(keys: &'static [Key], path: &mut Vec<&'static str>, out: &mut BTreeMap<String, Shown>) {
    for key in keys {
        path.push(key.name);
        match key.kind {
            Kind::Table(inner) => defaults(inner, path, out),
            Kind::Named(_) | Kind::Forbidden(_) | Kind::Reserved(_) => {}
            _ => {
                let name = dotted(path.iter().copied());
                let (value, words) = documented(path);
                out.insert(name.clone(), Shown { key: name, value, words, place: None });
            }
        }
        path.pop();
    }
}

/// What the packaged file says is the default: the value behind `#key =`, unless the comment above
/// it says `Default: …`.
fn documented(path: &[&str]) -> (Option<Value>, Option<String>) {
    let [tables @ .., key] = path else { return (None, None) };
    let header = format!("[{}]", tables.join("."));
    let mut inside = false;
    // The comment above the keys, and whether one of them was passed.
    let (mut comment, mut passed) = (String::new(), false);
    for line in PACKAGED.lines() {
        if line.starts_with('[') {
            inside = line == header;
        }
        if line.is_empty() {
            comment.clear();
            passed = false;
        } else if let Some(text) = line.strip_prefix("# ") {
            if passed {
                comment.clear();
                passed = false;
            }
            comment.push_str(text.trim_start());
            comment.push(' ');
        }
        let is_key = line.starts_with('#') && line.get(1..2).is_some_and(|c| c != " ");
        passed |= is_key;
        let Some(value) = line.strip_prefix('#').and_then(|rest| rest.strip_prefix(key)) else { continue };
        let Some(value) = value.strip_prefix(" = ").filter(|_| inside) else { continue };
        return match comment.split_once("Default: ") {
            Some((_, words)) => (None, Some(sentence(words))),
            None => (parse(value), None),
        };
    }
    (None, Some("none".to_owned()))
}

/// The first sentence, without its full stop.
fn sentence(text: &str) -> String {
    let end = text.find(". ").unwrap_or(text.len());
    text[..end].trim().trim_end_matches('.').to_owned()
}

fn parse(value: &str) -> Option<Value> {
    let table: toml::Table = format!("v = {value}").parse().ok()?;
    serde_json::to_value(table.get("v")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn layer(origin: Origin, path: &str, text: &str) -> LayerText {
        LayerText { origin, path: path.into(), text: text.into() }
    }

    fn find<'s>(shown: &'s [Shown], key: &str) -> &'s Shown {
        shown.iter().find(|shown| shown.key == key).unwrap_or_else(|| panic!("no {key}"))
    }

    #[test]
    fn every_key_outside_of_named_tables_has_a_default() {
        let (shown, faults) = show(&[], &[]);
        assert!(faults.is_empty());
        assert!(shown.len() > 50, "{}", shown.len());
        for one in &shown {
            assert!(one.value.is_some() || one.words.is_some(), "{one:?}");
            assert_eq!(one.place, None);
        }
        let value = |key: &str| find(&shown, key).value.clone();
        let words = |key: &str| find(&shown, key).words.clone().unwrap_or_default();
        assert_eq!(value("upstream.keep-alive"), Some("60s".into()));
        assert_eq!(value("coap.max-sessions"), Some(10_000.into()));
        assert_eq!(value("coap.listen"), Some(serde_json::json!(["[::]:5684"])));
        assert_eq!(value("lane.high.when-full"), Some("refuse".into()));
        assert_eq!(words("upstream.ca-file"), "those of the system");
        assert_eq!(words("upstream.password-file"), "none");
        assert_eq!(words("upstream.client-id"), "the gateway's id");
        assert_eq!(words("coap.max-session-lifetime"), "none");
    }

    #[test]
    fn the_last_layer_wins_and_its_place_is_shown() {
        let layers = [
            layer(
                Origin::Main,
                "/e/t.toml",
                "[upstream]\nurl = \"mqtts://u:secret@b\"\nkeep-alive = \"9s\"\n",
            ),
            layer(
                Origin::DropIn,
                "/e/conf.d/9.toml",
                "\n[upstream]\nkeep-alive = \"8s\"\n[role.x]\nmax-payload = \"2KiB\"\n",
            ),
        ];
        let environment = [("TOMBOLO_UPSTREAM__DRAIN_RATE".to_owned(), "7".to_owned())];
        let (shown, faults) = show(&layers, &environment);
        assert!(faults.is_empty(), "{faults:?}");
        let place = |key: &str| find(&shown, key).place.as_ref().map(ToString::to_string);
        assert_eq!(find(&shown, "upstream.url").value, Some("mqtts://[removed]@b".into()));
        assert_eq!(place("upstream.url").as_deref(), Some("/e/t.toml:2"));
        assert_eq!(find(&shown, "upstream.keep-alive").value, Some("8s".into()));
        assert_eq!(place("upstream.keep-alive").as_deref(), Some("/e/conf.d/9.toml:3"));
        assert_eq!(find(&shown, "role.x.max-payload").value, Some("2KiB".into()));
        assert_eq!(
            place("upstream.drain-rate").as_deref(),
            Some("environment variable TOMBOLO_UPSTREAM__DRAIN_RATE")
        );
    }

    #[test]
    fn a_key_that_is_reset_has_its_default_and_a_fault_is_left_out() {
        let layers = [
            layer(Origin::Main, "m", "[upstream]\nkeep-alive = \"9s\"\n"),
            layer(Origin::DropIn, "d", "[upstream]\nkeep-alive = \"\"\npassword = \"hunter2\"\n"),
        ];
        let (shown, faults) = show(&layers, &[]);
        let kept = find(&shown, "upstream.keep-alive");
        assert_eq!((kept.value.clone(), kept.place.clone()), (Some("60s".into()), None));
        assert_eq!(faults.len(), 1);
        assert!(!format!("{shown:?}{faults:?}").contains("hunter2"));
    }
}
