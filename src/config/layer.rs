//! One layer: a file's text, or the environment, checked key by key against the
//! [schema](super::schema).
//!
//! Each layer is checked separately before the merge, so that every fault is reported with its
//! line, also in a layer that a later one overrides. The result is a tree for the merge and the
//! place of each key. A fault inside a `[device.X]`, `[fleet.X]`, `[serial.X]` or `[role.X]`
//! disables that item, one inside a `[serial.X.unit.N]` that unit; any other refuses the whole
//! configuration.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ::config::{Map, Value, ValueKind};
use toml::de::DeTable;

use super::alias;
use super::finding::{Finding, Findings, Place};
use super::raw::{Entry, Lines, Raw, accept, table_of, unfit};
use super::scalar::{did_you_mean, format_size};
use super::schema::{self, Key, Kind};
use crate::gate::tag::Tags;
use crate::message::{Name, RESERVED_DEVICE};

/// The origin of a layer; later ones have precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `/usr/lib/tombolo/conf.d/*.toml`: the defaults of the image or the fleet.
    Vendor,
    /// `{state-dir}/conf.d/*.toml`. Unknown keys and values in it are ignored, because a newer
    /// version may have written them.
    State,
    /// `tombolo.toml`.
    Main,
    /// `conf.d/*.toml` beside it, in name order.
    DropIn,
    /// `TOMBOLO_*`.
    Environment,
}

/// The text of one file.
#[derive(Clone)]
pub struct LayerText {
    /// Its origin.
    pub origin: Origin,
    /// Its path, as shown in findings; relative paths in it are relative to its folder.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Tables of the configuration in which a fault disables only its item.
pub(super) const ITEM_TABLES: [&str; 4] = ["device", "fleet", "serial", "role"];

/// An item by table and name, e.g. `("device", "door-7")`.
pub(super) type Item = (String, String);

/// A unit on a bus by port and address, e.g. `("bus1", "3")`.
pub(super) type BusUnit = (String, String);

/// A parsed layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) file: Arc<str>,
    /// The folder that its relative paths refer to; empty = the working directory.
    pub(super) base: PathBuf,
    pub(super) values: Map<String, Value>,
    /// Every key and table of it in dotted form, with its place.
    pub(super) places: Vec<(String, Place)>,
    /// Items with a fault in this layer.
    pub(super) bad: BTreeSet<Item>,
    /// Units on a bus with a fault in this layer; the other units of the bus are not affected.
    pub(super) bad_units: BTreeSet<BusUnit>,
}

impl Layer {
    /// The value of `paths.state-dir` in this layer: not set, reset to the default, or a path.
    pub(super) fn state_dir(&self) -> Option<Option<PathBuf>> {
        let ValueKind::Table(paths) = &self.values.get("paths")?.kind else { return None };
        match &paths.get("state-dir")?.kind {
            ValueKind::String(text) => Some(Some(from_folder(&self.base, text))),
            _ => Some(None),
        }
    }
}

/// Joins the parts of a key as TOML writes them: `device."a.b".role`.
pub fn dotted<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            text.push('.');
        }
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            text.push_str(part);
        } else {
            text.push('"');
            text.extend(part.chars().flat_map(char::escape_debug));
            text.push('"');
        }
    }
    text
}

/// The path from a folder. A `../` at its beginning is the folder above by its name, so that the
/// path is shown as somebody would write it.
pub(super) fn from_folder(folder: &Path, text: &str) -> PathBuf {
    let (mut folder, mut rest) = (folder, text);
    while let Some(shorter) = rest.strip_prefix("../")
        && matches!(folder.components().next_back(), Some(Component::Normal(_)))
        && let Some(above) = folder.parent()
    {
        (folder, rest) = (above, shorter.trim_start_matches('/'));
    }
    folder.join(rest)
}

/// The key or table of a line that is there already, and the line where it is first. `line` counts
/// from 1.
fn first_of(text: &str, line: u32) -> Option<(&str, usize)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = (line as usize).checked_sub(1)?;
    let this = *lines.get(at)?;
    let before = lines.get(..at)?;
    if this.starts_with('[') {
        let name = this.split_inclusive(']').next()?;
        let first = before.iter().position(|line| line.starts_with(name))?;
        return Some((name, first + 1));
    }
    let (key, _) = this.split_once('=')?;
    let section = before.iter().rposition(|line| line.starts_with('[')).map_or(0, |at| at + 1);
    let is_it = |line: &&str| line.split_once('=').is_some_and(|(other, _)| other.trim() == key.trim());
    let first = before.get(section..)?.iter().position(is_it)?;
    Some((key.trim(), section + first + 1))
}

/// How a line that is not TOML is corrected.
fn syntax_advice(message: &str, line: Option<&str>) -> &'static str {
    if line.is_some_and(|line| line.contains(['“', '”', '„', '‘', '’'])) {
        "correct this line; the quotes of TOML are straight: \""
    } else if message.contains("duplicate key") {
        "the key or table is there already: take one of the two out"
    } else if message.contains("unclosed") {
        "close what this line begins"
    } else {
        "correct this line; text values need double quotes"
    }
}

/// Checks one file. `None` if it is not TOML; the fault is then in `findings`.
pub(super) fn check_file(layer: &LayerText, findings: &mut Findings) -> Option<Layer> {
    let file: Arc<str> = layer.path.display().to_string().into();
    let lines = Lines::of(&layer.text);
    let (table, errors) = DeTable::parse_recoverable(&layer.text);
    if !errors.is_empty() {
        let mut seen = BTreeSet::new();
        for error in &errors {
            // The error's own Display quotes the line, which may hold a secret; its message does
            // not.
            let line = error.span().map(|span| lines.line(span.start));
            if seen.len() < 5 && seen.insert(line) {
                let place = Place { file: file.clone(), line };
                let message = error.message();
                let twice = line.filter(|_| message.contains("duplicate key"));
                let twice = twice.and_then(|line| first_of(&layer.text, line));
                let (message, advice) = match twice {
                    Some((key, first)) => (
                        format!("is not TOML: {message} {key}"),
                        format!("it is there already in line {first}: take one of the two out"),
                    ),
                    None => {
                        let text = line.and_then(|line| layer.text.lines().nth(line as usize - 1));
                        (format!("is not TOML: {message}"), syntax_advice(message, text).to_owned())
                    }
                };
                let finding = Finding::fail("configuration", message);
                let finding = finding.at(Some(&place)).key("syntax").advice(advice);
                match layer.origin {
                    // A file of the state directory is ignored, because the user did not write it.
                    Origin::State => findings.push(finding),
                    _ => findings.fatal(finding),
                }
            }
        }
        return None;
    }
    let base = layer.path.parent().unwrap_or(Path::new("")).to_owned();
    let mut check = Check::new(layer.origin, file, base, findings);
    let mut root = table_of(table.get_ref(), &lines);
    if layer.origin != Origin::State && is_template(&root) {
        let line = root.first().and_then(|(_, line, _)| *line);
        let place = Place { file: layer.path.display().to_string().into(), line };
        let finding = Finding::fail("configuration", "this file is a Modbus template, not configuration");
        check.findings.fatal(finding.at(Some(&place)).key("register").advice(template_place(layer)));
        root = Vec::new();
    }
    // It is twice as large as what was taken out of it.
    drop(table);
    check.layer.values = check.table(schema::ROOT, root, &mut Vec::new());
    Some(check.layer)
}

/// Whether a file has registers, and nothing that a Modbus template does not have.
fn is_template(root: &[Entry]) -> bool {
    const KEYS: [&str; 10] = [
        "label",
        "source",
        "max-registers",
        "max-gap",
        "pause",
        "timeout",
        "numbering",
        "byte-count",
        "default",
        "register",
    ];
    let has = |wanted: &str| root.iter().any(|(name, ..)| name == wanted);
    has("register") && root.iter().all(|(name, ..)| KEYS.contains(&name.as_str()))
}

/// Where a Modbus template belongs, and how a unit gets it.
fn template_place(layer: &LayerText) -> String {
    let folder = layer.path.parent();
    // Drop-ins have a folder of their own.
    let beside_main = match layer.origin {
        Origin::DropIn => folder.and_then(Path::parent),
        _ => folder,
    };
    let stem = layer.path.file_stem().unwrap_or_default().to_string_lossy();
    // Only drop-ins have a number, for their order.
    let number = stem.trim_start_matches(|character: char| character.is_ascii_digit());
    let name = number.strip_prefix('-').filter(|name| !name.is_empty()).unwrap_or(&stem);
    let target = beside_main.unwrap_or(Path::new("")).join("modbus").join(format!("{name}.toml"));
    format!(
        "move it to {}, and name it in a unit: template = {name:?} below [serial.PORT.unit.ADDRESS]",
        target.display()
    )
}

/// Checks the variables that begin with `TOMBOLO_`: `__` separates levels, and an empty value
/// resets the key to its default. In a key, `_` stands for `-`. Names of items (devices, roles, …)
/// are looked up in `files`: see [`Check::item_meant`].
pub(super) fn check_environment(
    variables: &[(String, String)],
    files: &[Layer],
    findings: &mut Findings,
) -> Layer {
    let mut check = Check::new(Origin::Environment, "environment".into(), PathBuf::new(), findings);
    let mut root: Map<String, Value> = Map::new();
    for (variable, value) in variables {
        let Some(name) = variable.strip_prefix("TOMBOLO_") else { continue };
        check.layer.file = format!("environment variable {variable}").into();
        if !name.contains("__") {
            let place = check.place(None);
            // One `_` instead of two: the user expects it to have an effect.
            let finding = match with_levels(name) {
                Some(meant) => Finding::fail("environment", "is not a setting and was ignored")
                    .advice(format!("did you mean {meant}?")),
                None => Finding::warn("environment", "is not a setting and was ignored")
                    .advice("a setting is TOMBOLO_TABLE__KEY, like TOMBOLO_UPSTREAM__CA_FILE"),
            };
            check.findings.push(finding.at(Some(&place)));
            continue;
        }
        let parts: Vec<&str> = name.split("__").collect();
        check.variable(&parts, value, files, &mut root);
    }
    check.layer.file = "environment".into();
    check.layer.values = root;
    check.layer
}

/// The intended variable, if this one has `_` instead of `__` after the table.
fn with_levels(name: &str) -> Option<String> {
    schema::ROOT.iter().find_map(|table| {
        let Kind::Table(keys) = table.kind else { return None };
        let key = key_name(name).strip_prefix(table.name)?.strip_prefix('-')?.to_owned();
        schema::find(keys, &key)?;
        let variable = |name: &str| name.to_uppercase().replace('-', "_");
        Some(format!("TOMBOLO_{}__{}", variable(table.name), variable(&key)))
    })
}

/// A part of a variable's name as a key.
fn key_name(part: &str) -> String {
    part.to_lowercase().replace('_', "-")
}

/// The form in which a part of a variable's name and the name of an item are compared: a variable's
/// name has neither `-` nor `.`, and usually no lower-case letters.
fn folded(name: &str) -> String {
    name.to_lowercase().replace(['_', '.'], "-")
}

/// The names of the items in the table at `path`, in any of the files.
fn items_at<'l>(files: &'l [Layer], path: &[String]) -> BTreeSet<&'l str> {
    let table = |layer: &'l Layer| {
        path.iter().try_fold(&layer.values, |table, part| match &table.get(part)?.kind {
            ValueKind::Table(inner) => Some(inner),
            _ => None,
        })
    };
    files.iter().filter_map(table).flat_map(|table| table.keys().map(String::as_str)).collect()
}

/// Most names a finding lists.
const NAMES_SHOWN: usize = 10;

struct Check<'f> {
    origin: Origin,
    layer: Layer,
    findings: &'f mut Findings,
    /// Within a table of a list.
    in_list: bool,
}

impl<'f> Check<'f> {
    fn new(origin: Origin, file: Arc<str>, base: PathBuf, findings: &'f mut Findings) -> Self {
        let layer = Layer {
            file,
            base,
            values: Map::new(),
            places: Vec::new(),
            bad: BTreeSet::new(),
            bad_units: BTreeSet::new(),
        };
        Check { origin, layer, findings, in_list: false }
    }

    fn place(&self, line: Option<u32>) -> Place {
        Place { file: self.layer.file.clone(), line }
    }

    fn note(&mut self, path: &[String], line: Option<u32>) {
        let key = dotted(path.iter().map(String::as_str));
        let place = self.place(line);
        self.layer.places.push((key, place));
    }

    /// Reports a fault at a key: it disables the item that contains the key; outside of items it
    /// refuses the whole configuration, except in a file of the state directory, where the key is
    /// ignored.
    fn fault(&mut self, path: &[String], line: Option<u32>, message: String, advice: String) {
        let place = self.place(line);
        let key = dotted(path.iter().map(String::as_str));
        let finding =
            |subject: String| Finding::fail(subject, message).at(Some(&place)).key(key).advice(advice);
        match path {
            [table, port, units, unit, ..] if table == "serial" && units == "unit" => {
                self.findings.push(finding(format!("{table} {port}")));
                self.layer.bad_units.insert((port.clone(), unit.clone()));
            }
            [table, item, ..] if ITEM_TABLES.contains(&table.as_str()) => {
                self.findings.push(finding(format!("{table} {item}")));
                self.layer.bad.insert((table.clone(), item.clone()));
            }
            // Another version of this program may have written it, and that must not prevent this
            // one from starting.
            [table, ..] if self.origin == Origin::State => {
                let mut finding = finding(table.clone());
                finding.message.push_str(", ignored");
                self.findings.push(finding);
            }
            [table, ..] => self.findings.fatal(finding(table.clone())),
            [] => self.findings.fatal(finding("configuration".to_owned())),
        }
    }

    fn unknown(&mut self, keys: &'static [Key], path: &[String], line: Option<u32>) {
        let word = path.last().map_or("", String::as_str);
        let names = || {
            keys.iter().filter(|k| !matches!(k.kind, Kind::Forbidden(_) | Kind::Reserved(_))).map(|k| k.name)
        };
        let advice = match did_you_mean(word, names()) {
            Some(name) => format!("did you mean {name}?"),
            None if keys.is_empty() => "take it out".to_owned(),
            None => format!("known here: {}", names().collect::<Vec<_>>().join(", ")),
        };
        if self.origin == Origin::State {
            let place = self.place(line);
            let key = dotted(path.iter().map(String::as_str));
            self.findings.push(
                Finding::warn("configuration", "unknown key, ignored")
                    .at(Some(&place))
                    .key(key)
                    .advice(advice),
            );
        } else {
            self.fault(path, line, "unknown key".to_owned(), advice);
        }
    }

    fn table(
        &mut self,
        keys: &'static [Key],
        entries: Vec<Entry>,
        path: &mut Vec<String>,
    ) -> Map<String, Value> {
        let mut values = Map::new();
        for (name, line, raw) in entries {
            path.push(name);
            let key = schema::find(keys, &path[path.len() - 1]).or_else(|| self.renamed(keys, path, line));
            match key {
                None => self.unknown(keys, path, line),
                Some(key) if self.origin == Origin::State && path.len() == 1 && key.name == "paths" => {
                    let place = self.place(line);
                    let advice = "set it in the main file: it says where this one is";
                    let finding = Finding::warn("paths", "has no effect here").at(Some(&place)).key("paths");
                    self.findings.push(finding.advice(advice));
                }
                Some(key) => {
                    if let Some(value) = self.value(key.kind, raw, line, path) {
                        self.note(path, line);
                        values.insert(key.name.to_owned(), value);
                    }
                }
            }
            path.pop();
        }
        values
    }

    /// The key that the last part of `path` was renamed to, which it then is; `None` if it is no
    /// alias.
    fn renamed(
        &mut self,
        keys: &'static [Key],
        path: &mut [String],
        line: Option<u32>,
    ) -> Option<&'static Key> {
        let (name, tables) = path.split_last_mut()?;
        let alias = alias::find(tables, name)?;
        let key = schema::find(keys, alias.new)?;
        let place = self.place(line);
        let whole = dotted(tables.iter().map(String::as_str).chain([alias.old]));
        let message = format!("was renamed to {} in {}", alias.new, alias.since);
        let advice = "`tombolo config migrate` rewrites it; the next major version refuses it";
        let subject = tables.first().map_or("configuration", String::as_str).to_owned();
        self.findings.push(Finding::warn(subject, message).at(Some(&place)).key(whole).advice(advice));
        alias.new.clone_into(name);
        Some(key)
    }

    fn named(
        &mut self,
        keys: &'static [Key],
        entries: Vec<Entry>,
        path: &mut Vec<String>,
    ) -> Map<String, Value> {
        let mut values = Map::new();
        for (name, line, raw) in entries {
            path.push(name.clone());
            if self.item_name(line, path) {
                match raw {
                    Raw::Table(entries) => {
                        self.note(path, line);
                        let table = self.table(keys, entries, path);
                        values.insert(name, Value::new(None, table));
                    }
                    other => {
                        let message = format!("is {}", other.kind_name());
                        self.fault(path, line, message, "use a table of its own".to_owned());
                    }
                }
            }
            path.pop();
        }
        values
    }

    /// A list of tables; in findings each is named by its number, from 1.
    fn tables(
        &mut self,
        keys: &'static [Key],
        items: Vec<Raw>,
        line: Option<u32>,
        path: &mut Vec<String>,
    ) -> Option<Value> {
        if items.is_empty() {
            let advice = format!("use {}, or take the key out", Kind::Tables(keys).accepted());
            self.fault(path, line, "the list is empty".to_owned(), advice);
            return None;
        }
        let mut list = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            path.push((at + 1).to_string());
            match item {
                Raw::Table(entries) => {
                    // An item has no line of its own.
                    self.note(path, entries.first().and_then(|(_, line, _)| *line).or(line));
                    // A list replaces that of an earlier layer, so nothing is reset in it.
                    let before = std::mem::replace(&mut self.in_list, true);
                    let table = self.table(keys, entries, path);
                    self.in_list = before;
                    list.push(Value::new(None, table));
                }
                other => {
                    let advice = "use a table, like { field = \"/t\", above = 30 }".to_owned();
                    self.fault(path, line, format!("{} is not accepted", other.shown()), advice);
                }
            }
            path.pop();
        }
        Some(Value::new(None, ValueKind::Array(list)))
    }

    /// The tags of a device.
    fn tags(&mut self, entries: Vec<Entry>, path: &mut Vec<String>) -> Map<String, Value> {
        let mut values = Map::new();
        for (name, line, raw) in entries {
            path.push(name.clone());
            // An empty text takes away the value of an earlier layer.
            let tag = match &raw {
                Raw::Text(text) => Tags::default().set(&name, text).map_err(|error| error.to_string()),
                other => Err(format!("is {}", other.kind_name())),
            };
            match (tag, raw) {
                (Ok(()), Raw::Text(text)) => {
                    let value = if text.is_empty() { ValueKind::Nil } else { text.into() };
                    self.note(path, line);
                    values.insert(name, Value::new(None, value));
                }
                (Err(message), _) => {
                    self.fault(path, line, message, format!("use {}", Kind::Tags.accepted()));
                }
                (Ok(()), _) => {}
            }
            path.pop();
        }
        values
    }

    /// Whether the last part of `path` may name an item.
    fn item_name(&mut self, line: Option<u32>, path: &[String]) -> bool {
        let name = path.last().map_or("", String::as_str);
        if let Err(error) = Name::parse(name) {
            self.fault(
                path,
                line,
                format!("{error}"),
                Kind::Name.accepted().replacen("a name in quotes: ", "use ", 1),
            );
            return false;
        }
        if path.len() == 2 && matches!(path[0].as_str(), "device" | "serial") && name == RESERVED_DEVICE {
            let advice = "give the device another name".to_owned();
            self.fault(path, line, "this name is reserved for the gateway's own topics".to_owned(), advice);
            return false;
        }
        true
    }

    /// The value for the merge; `None` after reporting a fault.
    fn value(&mut self, kind: Kind, raw: Raw, line: Option<u32>, path: &mut Vec<String>) -> Option<Value> {
        let kind_of = raw.kind_name();
        match (kind, raw) {
            (Kind::Table(keys), Raw::Table(entries)) => {
                let table = self.table(keys, entries, path);
                Some(Value::new(None, table))
            }
            (Kind::Named(keys), Raw::Table(entries)) => {
                let table = self.named(keys, entries, path);
                Some(Value::new(None, table))
            }
            (Kind::Tables(keys), Raw::List(items)) => self.tables(keys, items, line, path),
            (Kind::Tags, Raw::Table(entries)) => Some(Value::new(None, self.tags(entries, path))),
            (Kind::Forbidden(instead), _) => {
                self.fault(path, line, "a secret does not belong here".to_owned(), instead.to_owned());
                None
            }
            (Kind::Reserved(what), _) => {
                let message = format!("is reserved: {what} are not implemented yet");
                self.fault(path, line, message, "take the key out".to_owned());
                None
            }
            (Kind::Table(_) | Kind::Named(_), _) => {
                let key = dotted(path.iter().map(String::as_str));
                self.fault(path, line, format!("is {kind_of}"), format!("use a table, [{key}]"));
                None
            }
            (Kind::Secret, Raw::Text(text)) if text.starts_with("text:") || text.starts_with("hex:") => {
                let message = "the secret itself is in the configuration".to_owned();
                let advice = "put it into a file of its own, mode 0640, and name that file here".to_owned();
                self.fault(path, line, message, advice);
                None
            }
            // Like an empty assignment in a systemd unit: resets the value of earlier layers. Not a
            // question, nor a window: without one nothing is asked or installed, and nothing
            // says so.
            (kind, Raw::Text(text))
                if text.is_empty()
                    && !self.in_list
                    && !matches!(kind, Kind::Topic | Kind::Raw(_) | Kind::Spans | Kind::Operand) =>
            {
                Some(Value::new(None, ValueKind::Nil))
            }
            (Kind::Size(_, max), raw)
                if schema::is_capped(path) && raw.size().is_some_and(|size| size > max) =>
            {
                let place = self.place(line);
                let message = format!("{} is not accepted; {} is used", raw.shown(), format_size(max));
                let subject = path.first().cloned().unwrap_or_default();
                let key = dotted(path.iter().map(String::as_str));
                let finding = Finding::fail(subject, message).at(Some(&place)).key(key);
                self.findings.push(finding.advice(format!("use {}", kind.accepted())));
                Some(Value::new(None, max))
            }
            (kind, raw) => {
                // Where its length alone is wrong.
                let count = match (kind, &raw) {
                    (Kind::Operands, Raw::List(items)) if unfit(kind, &raw).is_none() => Some(items.len()),
                    _ => None,
                };
                let shown = match kind {
                    Kind::Secret | Kind::Url => "this value".to_owned(),
                    Kind::Addresses | Kind::Texts | Kind::Operands => match unfit(kind, &raw) {
                        Some(item) => format!("{} in the list", item.shown()),
                        None => raw.shown(),
                    },
                    _ => raw.shown(),
                };
                match accept(kind, raw) {
                    Ok(value) => Some(Value::new(None, value)),
                    Err(()) => {
                        let message = match count {
                            Some(0) => "the list is empty".to_owned(),
                            Some(count) => format!("the list has {count} values"),
                            None => format!("{shown} is not accepted"),
                        };
                        let advice = match (self.origin, kind) {
                            (Origin::Environment, Kind::Addresses | Kind::Texts) => {
                                kind.accepted_in_variable()
                            }
                            (Origin::Environment, Kind::Tables(_)) => {
                                "a file: a variable cannot hold a list of tables".to_owned()
                            }
                            // Plain HTTP, which other machines should not reach.
                            (_, Kind::Addresses) if path.first().is_some_and(|table| table == "metrics") => {
                                "a list of IP addresses with ports, like [\"127.0.0.1:9184\"]".to_owned()
                            }
                            (_, Kind::Operands) if count.is_some_and(|count| count > 0) => {
                                let accepted = kind.accepted();
                                format!("{accepted}; or several tables with one-of in one list any")
                            }
                            _ => kind.accepted(),
                        };
                        self.fault(path, line, message, format!("use {advice}"));
                        None
                    }
                }
            }
        }
    }

    /// The item in the table at `path` that a part of a variable's name refers to: an exact match,
    /// otherwise the only one that matches without regard to case and to `_`, `-` and `.`.
    fn item_meant(&mut self, files: &[Layer], path: &[String], part: &str) -> Option<String> {
        let there = items_at(files, path);
        if there.contains(part) {
            return Some(part.to_owned());
        }
        let meant: Vec<&str> = there.iter().copied().filter(|name| folded(name) == folded(part)).collect();
        let table = dotted(path.iter().map(String::as_str));
        let quoted = |names: &[&str]| {
            let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| format!("{name:?}")).collect();
            let more = names.len().saturating_sub(NAMES_SHOWN);
            if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
        };
        let (message, advice) = match meant[..] {
            [one] => return Some(one.to_owned()),
            [] if there.is_empty() => (
                format!("names no [{table}.NAME] of the files, and was ignored"),
                "a variable changes what a file has; add the table there".to_owned(),
            ),
            [] => {
                let names: Vec<&str> = there.into_iter().collect();
                let near = did_you_mean(&folded(part), names.iter().copied());
                let names = near.map_or(names, |near| vec![near]);
                (
                    format!("names no [{table}.NAME] of the files, and was ignored"),
                    format!(
                        "it is accepted in any case, with '_' for '-' and '.', for: {}; add others in a file",
                        quoted(&names)
                    ),
                )
            }
            _ => (
                format!("could be each of {} in [{table}], and was ignored", quoted(&meant)),
                "spell the name in the variable as the file does, or set the key in a file".to_owned(),
            ),
        };
        let place = self.place(None);
        self.findings.push(Finding::fail("environment", message).at(Some(&place)).advice(advice));
        None
    }

    /// Adds one variable to the tree under `root`.
    fn variable(&mut self, names: &[&str], text: &str, files: &[Layer], root: &mut Map<String, Value>) {
        let mut parts: Vec<String> = names.iter().map(|part| key_name(part)).collect();
        let mut keys: &'static [Key] = schema::ROOT;
        let mut kind = Kind::Table(schema::ROOT);
        for i in 0..parts.len() {
            if let Kind::Named(item_keys) = kind {
                let Some(item) = self.item_meant(files, &parts[..i], names[i]) else { return };
                parts[i] = item;
                kind = Kind::Table(item_keys);
                keys = item_keys;
                continue;
            }
            let found = schema::find(keys, &parts[i]).or_else(|| self.renamed(keys, &mut parts[..=i], None));
            let (Kind::Table(_), Some(key)) = (kind, found) else {
                let keys = if matches!(kind, Kind::Table(_)) { keys } else { &[] };
                return self.unknown(keys, &parts[..=i], None);
            };
            kind = key.kind;
            if let Kind::Table(inner) | Kind::Named(inner) = kind {
                keys = inner;
            }
        }
        let raw = match kind {
            Kind::Whole(..) | Kind::Register => {
                text.trim().parse().map_or_else(|_| Raw::Text(text.to_owned()), Raw::Whole)
            }
            Kind::Number(..) => text.trim().parse().map_or_else(|_| Raw::Text(text.to_owned()), Raw::Number),
            Kind::Flag | Kind::FlagOrTopic => {
                text.trim().parse().map_or_else(|_| Raw::Text(text.to_owned()), Raw::Flag)
            }
            Kind::Addresses | Kind::Texts if !text.is_empty() => {
                Raw::List(text.split(',').map(|part| Raw::Text(part.trim().to_owned())).collect())
            }
            _ => Raw::Text(text.to_owned()),
        };
        let mut path = parts.clone();
        let Some(value) = self.value(kind, raw, None, &mut path) else { return };
        for depth in 1..=parts.len() {
            self.note(&parts[..depth], None);
        }
        insert(root, &parts, value);
    }
}

/// Inserts a value at a path of tables; missing tables are created.
fn insert(table: &mut Map<String, Value>, parts: &[String], value: Value) {
    match parts {
        [] => {}
        [name] => {
            table.insert(name.clone(), value);
        }
        [name, rest @ ..] => {
            let inner =
                table.entry(name.clone()).or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
            if let ValueKind::Table(inner) = &mut inner.kind {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_without_the_way_down_and_up_again() {
        let of = |folder: &str, text: &str| from_folder(Path::new(folder), text).display().to_string();
        assert_eq!(of("/etc/tombolo/conf.d", "../gateway.pem"), "/etc/tombolo/gateway.pem");
        assert_eq!(of("/etc/tombolo/conf.d", "..//../a.pem"), "/etc/a.pem");
        assert_eq!(of("/etc", "../../a.pem"), "/../a.pem");
        assert_eq!(of("conf.d", "../a.pem"), "a.pem");
        assert_eq!(of("", "../a.pem"), "../a.pem");
        assert_eq!(of("../conf.d", "../../a.pem"), "../../a.pem");
        assert_eq!(of("/etc/conf.d", "x/../a.pem"), "/etc/conf.d/x/../a.pem");
        assert_eq!(of("/etc/conf.d", "/a/../b"), "/a/../b");
    }
}
