//! `tombolo device import` and `tombolo device keygen`: many devices at once.
//!
//! Both speak of a device by the same columns, so that what a provisioner's machine makes is
//! imported on the gateway as it is:
//!
//! | column | content |
//! |---|---|
//! | `id`, `role`, `label`, `parent` | as of `device add` |
//! | `tags` | `site=north;hall=2` |
//! | `psk`, `psk-identity` | `text:…`, `hex:…`, `generate`, or `generate-hex` (16 bytes) |
//! | `password`, `mqtt-username` | a hash (`sha256:…`, `$argon2id$…`), `text:…` (chosen), `generated:…` (of `device keygen`), or `generate` |
//! | `certificate-uri`, `-dns`, `-cn`, `-issuer`; `public-key` (`sha256:…`) | as of `device add` |
//! | `jwt-key`, `jwt-until` | a SubjectPublicKeyInfo in base64 of its DER or in PEM, or `file:PATH` of one; and a date |
//!
//! In JSON a device may also be as `device add --json` prints it: with `psk_text` and `psk_hex`,
//! `password_hash` beside the password, `certificate` and `tags` as objects, and `jwt_keys` beside
//! `jwt_key`.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::token_key::{check_until, read};
use super::{add, password, tell, without_level};
use crate::cli::args::{DeviceImportArguments, DeviceKeygenArguments, KeyKind, date};
use crate::cli::error::CommandError;
use crate::cli::input::text_of_or_stdin;
use crate::cli::key::shell_word;
use crate::cli::output::{patiently, plural};
use crate::cli::{Context, hinted, note};
use crate::clock::UnixTime;
use crate::config::certificate::{parse_key_hash, public_key_info};
use crate::config::registry::io::{check_import, import, random_key, random_key_bytes, today};
use crate::config::scalar::{PSK_IDENTITY_MAX, format_hex, parse_psk, parse_psk_identity};
use crate::config::{Finding, Loaded};
use crate::gate::certificate::{CertificateName, NameKind};
use crate::gate::jwt::JwtKey;
use crate::gate::login::{Login, PasswordHash, USERNAME_MAX};
use crate::gate::settings::{Device, Psk};
use crate::gate::tag::Tags;
use crate::message::Name;
use crate::proto::dtls::server::DistinguishedName;
use crate::proto::pem;

/// Largest file, in bytes.
const FILE_MAX: u64 = 64 << 20;
/// Most faults that are printed.
const FAULTS_SHOWN: usize = 20;
/// Most characters of a value in a message.
const VALUE_SHOWN: usize = 40;

/// The columns.
const COLUMNS: [&str; 16] = [
    "id",
    "role",
    "label",
    "tags",
    "parent",
    "psk",
    "psk-identity",
    "password",
    "mqtt-username",
    "certificate-uri",
    "certificate-dns",
    "certificate-cn",
    "certificate-issuer",
    "public-key",
    "jwt-key",
    "jwt-until",
];

/// One device as it stands in the file.
struct Row {
    line: usize,
    fields: BTreeMap<String, Zeroizing<String>>,
    /// Of an object, whose values may have any character.
    tags: Vec<(String, String)>,
}

/// What was generated for a device, to be shown once.
#[derive(Default)]
struct Made {
    psk: Option<Zeroizing<String>>,
    password: Option<Zeroizing<String>>,
    /// Bytes of a password that a person chose.
    chosen_length: Option<usize>,
}

/// The warnings about keys and passwords that may be guessed, each with the first device and a
/// number.
fn weak(devices: &[Device], made: &[Made]) -> Vec<String> {
    let keys = devices
        .iter()
        .filter_map(|device| Some((&device.id, add::weak(&device.psk.as_ref()?.key, "`generate`")?)));
    let passwords = devices.iter().zip(made).filter_map(|(device, made)| {
        Some((&device.id, password::short_of(made.chosen_length?, "`generate`")?))
    });
    let one = |all: Vec<(&Name, String)>, what: &str| {
        let more = all.len().saturating_sub(1);
        let (id, warning) = all.into_iter().next()?;
        Some(match more {
            0 => format!("{id}: {warning}"),
            1 => format!("{id}: {warning}; 1 more device has such a {what}"),
            more => format!("{id}: {warning}; {more} more devices have such a {what}"),
        })
    };
    let (keys, passwords) = (keys.collect(), passwords.collect());
    [one(keys, "key"), one(passwords, "password")].into_iter().flatten().collect()
}

/// The warning about devices whose parent is neither there nor in the file; it may be added later.
fn orphans(loaded: &Loaded, devices: &[Device]) -> Option<String> {
    let added: HashSet<&Name> = devices.iter().map(|device| &device.id).collect();
    let known: HashSet<&str> = loaded.known.iter().map(|known| known.id.as_str()).collect();
    let is_missing = |parent: &&Name| !added.contains(parent) && !known.contains(parent.as_str());
    let missing = |device: &'_ &Device| device.parent.as_ref().filter(is_missing).is_some();
    let mut orphans = devices.iter().filter(missing);
    let (first, more) = (orphans.next()?, orphans.count() as u64);
    let more = if more == 0 { String::new() } else { format!(", nor that of {more} more") };
    let parent = first.parent.as_ref()?;
    Some(format!(
        "the parent {parent} of {} does not exist{more}: until it is added nothing forwards these devices' readings, unless it \
         is one of a fleet",
        first.id
    ))
}

/// Prints the faults; with `--json` they are in the error.
fn refused(context: &Context, arguments: &DeviceImportArguments, faults: &[Fault]) -> CommandError {
    let count = plural(faults.len() as u64, "fault");
    let text = format!("{count}; nothing was imported");
    if context.out.json {
        let known = |line: usize| Some(line).filter(|line| *line != usize::MAX);
        let fault = |(line, what): &Fault| json!({ "line": known(*line), "message": hinted(what) });
        return CommandError::Faults(text, faults.iter().map(fault).collect());
    }
    for (line, what) in faults.iter().take(FAULTS_SHOWN) {
        match *line {
            usize::MAX => note(what),
            line => note(format_args!("{}:{line}: {what}", arguments.file.display())),
        }
    }
    if faults.len() > FAULTS_SHOWN {
        let file = shell_word(&arguments.file.display().to_string());
        let all = context.hint(&format!("--json device import {file}"));
        note(format_args!("these are the first {FAULTS_SHOWN}; `{all}` names all"));
    }
    CommandError::Failed(text)
}

/// `tombolo device import`
pub(super) fn run(context: &Context, arguments: &DeviceImportArguments) -> Result<(), CommandError> {
    let text = text_of_or_stdin(&arguments.file, FILE_MAX)?;
    let Read { rows, mut faults } = rows(&text);
    let loaded = context.load_whole("device import")?;
    let (mut devices, mut made) = (Vec::new(), Vec::new());
    let convert = || {
        for row in &rows {
            match device(row, arguments.role.as_deref()) {
                Ok((device, new)) => {
                    devices.push(device);
                    made.push(new);
                }
                Err(what) => faults.push((row.line, what)),
            }
        }
    };
    patiently("reading the devices", convert);
    let findings = check_import(&loaded, &devices);
    let lines: BTreeMap<&str, usize> =
        rows.iter().filter_map(|row| Some((row.fields.get("id")?.as_str(), row.line))).collect();
    let line_of = |finding: &Finding| lines.get(finding.subject.strip_prefix("device ")?);
    // What is of no line stands behind all.
    let of = |finding| (line_of(finding).copied().unwrap_or(usize::MAX), without_level(finding));
    faults.extend(findings.iter().map(of));
    if !faults.is_empty() {
        faults.sort_by_key(|(line, _)| *line);
        return Err(refused(context, arguments, &faults));
    }
    orphans(&loaded, &devices).into_iter().chain(weak(&devices, &made)).for_each(note);
    if arguments.dry_run {
        let count = plural(devices.len() as u64, "device");
        return match context.out.json {
            true => Ok(context.out.object(&json!({ "devices": devices.len(), "dry_run": true }))?),
            false => Ok(context.out.line(format_args!("{count} can be imported; nothing was changed"))?),
        };
    }
    patiently("writing the devices", || import(&loaded, &devices)).map_err(|findings| {
        CommandError::Failed(findings.iter().map(without_level).collect::<Vec<_>>().join("; "))
    })?;
    // What was generated is shown whatever the daemon says.
    for (device, made) in devices.iter().zip(&made) {
        if made.psk.is_some() || made.password.is_some() {
            let mut object = json!({ "id": device.id.as_str() });
            for (key, secret) in [("psk", &made.psk), ("password", &made.password)] {
                if let Some(secret) = secret {
                    object[key] = secret.as_str().into();
                }
            }
            context.out.object(&object)?;
        }
    }
    let told = tell(context)?;
    if context.out.json {
        context.out.object(&told.with(json!({ "devices": devices.len(), "dry_run": false })))?;
        return told.finish(context);
    }
    let effect = told.effect("they may connect now");
    context.out.line(format_args!("imported {}; {effect}", plural(devices.len() as u64, "device")))?;
    told.finish(context)
}

/// A line of the file and what is wrong there.
type Fault = (usize, String);

/// What was read of the file: its devices, and what is wrong with the other lines.
#[derive(Default)]
struct Read {
    rows: Vec<Row>,
    faults: Vec<Fault>,
}

impl Read {
    fn take(&mut self, row: Result<Row, Fault>) {
        match row {
            Ok(row) => self.rows.push(row),
            Err(fault) => self.faults.push(fault),
        }
    }
}

/// Reads CSV with a header, or JSON.
fn rows(text: &str) -> Read {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut read = match text.trim_start().as_bytes().first() {
        None => Read::default(),
        Some(b'[') => array(text),
        Some(b'{') => objects(text),
        Some(_) => table(text),
    };
    if read.rows.is_empty() && read.faults.is_empty() {
        read.faults.push((1, "has no devices".to_owned()));
    }
    read
}

/// Reads one JSON object a line.
fn objects(text: &str) -> Read {
    let mut read = Read::default();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(value) => read.take(object(at + 1, value)),
            Err(error) => {
                read.faults.push((at + 1, not_json(&error, error.column())));
                // An object of several lines: each of those that follow is a part of it.
                if error.is_eof() {
                    break;
                }
            }
        }
    }
    read
}

/// Where in a text it is read.
struct Cursor<'t> {
    rest: &'t str,
    line: usize,
    /// Bytes of the line that are before it.
    column: usize,
}

impl Cursor<'_> {
    fn pass(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.line += passed.matches('\n').count();
        self.column = match passed.rfind('\n') {
            Some(at) => passed.len() - at - 1,
            None => self.column + passed.len(),
        };
        self.rest = rest;
    }

    fn pass_blanks(&mut self) {
        self.pass(self.rest.len() - self.rest.trim_start().len());
    }
}

/// Reads an array of JSON objects. What follows a fault in the syntax is not looked at.
fn array(text: &str) -> Read {
    let mut read = Read::default();
    let mut at = Cursor { rest: text, line: 1, column: 0 };
    at.pass_blanks();
    // The bracket that the array begins with.
    at.pass(1);
    loop {
        at.pass_blanks();
        if at.rest.starts_with(']') && read.rows.is_empty() && read.faults.is_empty() {
            break;
        }
        let mut stream = serde_json::Deserializer::from_str(at.rest).into_iter::<Unique>();
        match stream.next() {
            Some(Ok(value)) => read.take(object(at.line, value)),
            Some(Err(error)) => {
                let before = if error.line() == 1 { at.column } else { 0 };
                let line = at.line + error.line().saturating_sub(1);
                read.faults.push((line, not_json(&error, before + error.column())));
                return read;
            }
            None => {
                read.faults.push((at.line, "is not JSON: the array ends without ]".to_owned()));
                return read;
            }
        }
        let bytes = stream.byte_offset();
        at.pass(bytes);
        at.pass_blanks();
        if at.rest.starts_with(']') {
            break;
        }
        if !at.rest.starts_with(',') {
            let column = at.column + 1;
            let what = format!("is not JSON at column {column}: an object of an array is followed by , or ]");
            read.faults.push((at.line, what));
            return read;
        }
        at.pass(1);
    }
    at.pass(1);
    at.pass_blanks();
    if !at.rest.is_empty() {
        read.faults.push((at.line, "is not JSON: nothing may follow the ] of the array".to_owned()));
    }
    read
}

/// What is wrong with the syntax. The text is not repeated: it may be a secret.
fn not_json(error: &serde_json::Error, column: usize) -> String {
    let said = error.to_string();
    let why = said.split(" at line ").next().unwrap_or_default();
    format!(
        "is not JSON at column {column}: {why}; the file is an array of objects, or has one object a line"
    )
}

/// A value of JSON, and the first key that an object in it has twice, of which one would be lost.
struct Unique(Value, Option<String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Unique, D::Error> {
        from.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
        Ok(Unique(value.into(), None))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
        Ok(Unique(value.into(), None))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
        Ok(Unique(value.into(), None))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
        Ok(Unique(value.into(), None))
    }

    fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
        Ok(Unique(value.into(), None))
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique(Value::Null, None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Unique, A::Error> {
        let (mut all, mut twice) = (Vec::new(), None);
        while let Some(Unique(value, within)) = from.next_element()? {
            all.push(value);
            twice = twice.or(within);
        }
        Ok(Unique(all.into(), twice))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Unique, A::Error> {
        let (mut all, mut twice) = (Map::new(), None);
        while let Some((key, Unique(value, within))) = from.next_entry::<String, Unique>()? {
            twice = twice.or(within);
            if all.contains_key(&key) {
                twice = twice.or(Some(key.clone()));
            }
            all.insert(key, value);
        }
        Ok(Unique(all.into(), twice))
    }
}

fn column(line: usize, name: &str) -> Result<String, Fault> {
    let name = name.trim().to_ascii_lowercase().replace('_', "-");
    match COLUMNS.contains(&name.as_str()) {
        true => Ok(name),
        false => Err((line, format!("{name:?} is no column; there are: {}", COLUMNS.join(", ")))),
    }
}

fn object(line: usize, Unique(value, twice): Unique) -> Result<Row, Fault> {
    if let Some(key) = twice {
        return Err((line, format!("has the key {key:?} twice; leave out the one that does not hold")));
    }
    let Value::Object(mut object) = value else {
        return Err((
            line,
            "is not an object, such as {\"id\": \"door-7\", \"psk\": \"generate\"}".to_owned(),
        ));
    };
    let tags = of_added(&mut object).map_err(|what| (line, what))?;
    let mut fields = BTreeMap::new();
    for (name, value) in object {
        let name = column(line, &name)?;
        if fields.contains_key(&name) {
            return Err((line, format!("has {name} twice; leave out the one that does not hold")));
        }
        match value {
            Value::Null => {}
            Value::String(text) => drop(fields.insert(name, Zeroizing::new(text))),
            _ => return Err((line, format!("{name} is not a text; put its value in quotes"))),
        }
    }
    Ok(Row { line, fields, tags })
}

/// Makes columns of what `device add --json` prints in other forms. Returns the tags.
fn of_added(object: &mut Map<String, Value>) -> Result<Vec<(String, String)>, String> {
    let (text, hex) = (object.remove("psk_text"), object.remove("psk_hex"));
    let text = text.as_ref().and_then(Value::as_str).map(|text| format!("text:{text}"));
    let hex = hex.as_ref().and_then(Value::as_str).map(|digits| format!("hex:{digits}"));
    // They are the same key.
    if let Some(psk) = hex.or(text).map(Zeroizing::new) {
        if object.get("psk").is_some_and(|psk| !psk.is_null()) {
            return Err("has psk beside psk_text or psk_hex; leave out the one that does not hold".to_owned());
        }
        object.insert("psk".to_owned(), psk.as_str().into());
    }
    if let Some(hash) = object.remove("password_hash").filter(|hash| !hash.is_null()) {
        object.insert("password".to_owned(), hash);
    }
    if let Some(certificate) = object.remove("certificate").filter(|name| !name.is_null()) {
        let Value::Object(names) = certificate else {
            return Err("certificate is no object, such as {\"dns\": \"door-7.example\"}".to_owned());
        };
        for (name, value) in names {
            object.insert(format!("certificate-{name}"), value);
        }
    }
    if object.contains_key("jwt_keys") {
        let count = object.remove("jwt_keys").and_then(|keys| Some(keys.as_array()?.len())).unwrap_or(0);
        if count > 0 && !object.contains_key("jwt_key") {
            return Err("jwt_keys has hashes only; the key itself is jwt_key".to_owned());
        }
    }
    object.remove(super::ALSO_CHANGED);
    object.remove(super::RELOAD);
    let mut tags = Vec::new();
    if let Some(Value::Object(_)) = object.get("tags")
        && let Some(Value::Object(all)) = object.remove("tags")
    {
        for (name, value) in all {
            let Value::String(value) = value else { return Err(format!("the tag {name} is not a text")) };
            tags.push((name, value));
        }
    }
    Ok(tags)
}

/// Reads CSV (RFC 4180); the first line names the columns.
fn table(text: &str) -> Read {
    let mut read = Read::default();
    let (records, broken) = records(text);
    let mut records = records.into_iter();
    let columns = match records.next().map(|(line, header)| columns(line, &header)) {
        Some(Ok(columns)) => columns,
        Some(Err(fault)) => {
            read.faults.push(fault);
            return read;
        }
        None => Vec::new(),
    };
    for (line, record) in records {
        if record.len() == 1 && record[0].is_empty() {
            continue;
        }
        if record.len() != columns.len() {
            let advice = match record.len() < columns.len() {
                true => "an empty field has its comma all the same",
                false => "put a field that has a comma in it in quotes",
            };
            let fields = plural(record.len() as u64, "field");
            read.faults.push((line, format!("has {fields}, and the header {}; {advice}", columns.len())));
            continue;
        }
        let filled = columns.iter().cloned().zip(record).filter(|(_, text)| !text.is_empty());
        read.rows.push(Row { line, fields: filled.collect(), tags: Vec::new() });
    }
    read.faults.extend(broken);
    read
}

/// The columns that the header names.
fn columns(line: usize, header: &[Zeroizing<String>]) -> Result<Vec<String>, Fault> {
    let other = [(';', "semicolons"), ('\t', "tabs")];
    let separator = |(by, _): &(char, &str)| header.iter().any(|name| name.contains(*by));
    if let Some((_, name)) = other.into_iter().find(separator) {
        let what = format!("has {name} between its columns; columns are separated by commas: save it so");
        return Err((line, what));
    }
    let columns: Vec<String> = header.iter().map(|name| column(line, name)).collect::<Result<_, _>>()?;
    match columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
        Some((_, twice)) => Err((line, format!("the column {twice:?} is there twice"))),
        None => Ok(columns),
    }
}

/// A record of CSV and its line.
type Record = (usize, Vec<Zeroizing<String>>);

/// The records of CSV, and the fault that those after it cannot be told apart for.
fn records(text: &str) -> (Vec<Record>, Option<Fault>) {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), Zeroizing::new(String::new()));
    let (mut line, mut begun, mut quoted) = (1, 1, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted => match characters.next_if_eq(&'"') {
                Some(_) => field.push('"'),
                None => quoted = false,
            },
            '"' if field.is_empty() => quoted = true,
            '"' => {
                let what = "has a quote within a field; put the whole field in quotes, and write each quote in it twice";
                return (records, Some((line, what.to_owned())));
            }
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push((begun, std::mem::take(&mut record)));
                line += 1;
                begun = line;
            }
            other => {
                line += usize::from(other == '\n');
                field.push(other);
            }
        }
    }
    if quoted {
        let what =
            "has a quote that is not closed; end the field with a quote, and write each quote in it twice";
        return (records, Some((begun, what.to_owned())));
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(field);
        records.push((begun, record));
    }
    (records, None)
}

/// The beginning of a value, for a message.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(VALUE_SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// The device of a row. Messages never have a secret in them.
fn device(row: &Row, role: Option<&str>) -> Result<(Device, Made), String> {
    let get = |name: &str| row.fields.get(name).map(|text| text.as_str()).filter(|text| !text.is_empty());
    let id = get("id").ok_or("has no id; write one into the column id")?;
    let name = Name::parse(id).map_err(|error| format!("{id:?} is not a device id: {error}"))?;
    let role = get("role").or(role).ok_or_else(|| {
        format!("{id} has no role; write one into the column role, or name one for all with --role")
    })?;
    let role = Name::parse(role).map_err(|error| format!("{role:?} is not a role: {error}"))?;
    let label = get("label").map(str::to_owned);
    if label
        .as_ref()
        .is_some_and(|label| label.len() > super::add::LABEL_MAX || label.chars().any(char::is_control))
    {
        return Err(format!(
            "{id}: label {:?} is too long, or has control characters; write up to {} bytes of text",
            shortened(label.as_deref().unwrap_or_default()),
            super::add::LABEL_MAX
        ));
    }
    let mut tags = Tags::default();
    for tag in get("tags").into_iter().flat_map(|tags| tags.split(';')) {
        let (tag, value) = tag.split_once('=').ok_or_else(|| {
            format!("{id}: tags: {:?} has no =; write tags like site=north;hall=2", shortened(tag))
        })?;
        tags.set(tag, value)
            .map_err(|error| format!("{id}: tags: {:?}: {error}", shortened(&format!("{tag}={value}"))))?;
    }
    for (tag, value) in &row.tags {
        tags.set(tag, value)
            .map_err(|error| format!("{id}: tags: {:?}: {error}", shortened(&format!("{tag}={value}"))))?;
    }
    let parent = get("parent").map(|text| {
        Name::parse(text)
            .map_err(|error| format!("{id}: parent {:?} is not a device id: {error}", shortened(text)))
    });
    let parent = parent.transpose()?;
    let mut made = Made::default();
    let psk = match get("psk") {
        None => None,
        Some(text) => {
            let identity = match get("psk-identity") {
                None => id.as_bytes().to_vec(),
                Some(text) => {
                    parse_psk_identity(text).ok_or_else(|| {
                    format!(
                        "{id}: psk-identity {:?} is no identity; write 1 to {PSK_IDENTITY_MAX} bytes of text, or hex: and two \
                         hexadecimal digits for each byte",
                        shortened(text)
                    )
                })?
                }
            };
            let key = match text {
                "generate" => {
                    let key = random_key().map_err(|error| error.to_string())?;
                    made.psk = Some(Zeroizing::new(format!("text:{}", String::from_utf8_lossy(&key))));
                    key
                }
                "generate-hex" => {
                    let key = random_key_bytes().map_err(|error| error.to_string())?;
                    let digits = Zeroizing::new(format_hex(&key));
                    made.psk = Some(Zeroizing::new(format!("hex:{}", *digits)));
                    key
                }
                text => parse_psk(text.as_bytes()).map_err(|error| {
                    format!(
                        "{id}: psk: {error}; write text:KEY, hex: and digits, or generate or generate-hex for one that is \
                         made"
                    )
                })?,
            };
            Some(Psk { identity, key })
        }
    };
    let login = match get("password") {
        None => None,
        Some(text) => {
            let username = get("mqtt-username").unwrap_or(id);
            if username.len() > USERNAME_MAX || username.chars().any(char::is_control) {
                return Err(format!(
                    "{id}: mqtt-username {:?} is no user name; write 1 to {USERNAME_MAX} bytes of text without control \
                     characters",
                    shortened(username)
                ));
            }
            if let Some(password) = PasswordHash::parse(text) {
                Some(Login { username: username.to_owned(), password })
            } else {
                let argument = if text == "generate" { "" } else { text };
                let refused = |_| {
                    format!(
                        "{id}: password is neither a hash, nor text: and a password, nor generated: and one of `device \
                         keygen`, nor \"generate\"; write generate, and one is made and printed once"
                    )
                };
                let (login, secret) = password::login(username, argument).map_err(refused)?;
                made.chosen_length = text.starts_with("text:").then_some(secret.len());
                if text == "generate" {
                    made.password = Some(secret);
                }
                Some(login)
            }
        }
    };
    let issuer = match get("certificate-issuer") {
        None => None,
        Some(text) => Some(
            DistinguishedName::parse(text).map_err(|error| {
                format!(
                    "{id}: certificate-issuer {:?}: {error}; write it as `openssl x509 -noout -issuer` prints it after \
                     \"issuer=\"",
                    shortened(text)
                )
            })?,
        ),
    };
    let mut certificate = None;
    for kind in NameKind::ALL {
        let Some(text) = get(kind.key()) else { continue };
        if certificate.is_some() {
            return Err(format!(
                "{id}: several names for a certificate; fill in one of certificate-uri, certificate-dns and certificate-cn"
            ));
        }
        let named = CertificateName::new(kind, text, issuer.clone());
        certificate =
            Some(named.map_err(|error| format!("{id}: {} {:?}: {error}", kind.key(), shortened(text)))?);
    }
    if issuer.is_some() && certificate.is_none() {
        return Err(format!(
            "{id}: certificate-issuer has no certificate; fill in certificate-uri, certificate-dns or certificate-cn too"
        ));
    }
    let public_key = match get("public-key") {
        None => None,
        Some(text) => Some(
            parse_key_hash(text).ok_or_else(|| {
                format!(
                    "{id}: public-key {:?} is not sha256: and 64 hexadecimal digits, as `tombolo device show ID` prints it",
                    shortened(text)
                )
            })?,
        ),
    };
    let until = get("jwt-until")
        .map(|text| date(text).map_err(|error| format!("{id}: jwt-until {:?}: {error}", shortened(text))));
    let until = until.transpose()?;
    check_until(until, today())
        .map_err(|why| format!("{id}: jwt-until: {why}; write a later one, or leave the key out"))?;
    let mut jwt_keys = Vec::new();
    if let Some(text) = get("jwt-key") {
        jwt_keys.push(jwt_key(text, until).map_err(|why| format!("{id}: jwt-key {why}"))?);
    }
    if psk.is_none()
        && login.is_none()
        && certificate.is_none()
        && public_key.is_none()
        && jwt_keys.is_empty()
        && parent.is_none()
    {
        return Err(format!(
            "{id} has no key, password, certificate or parent; with generate in the column psk or password one is made"
        ));
    }
    let plain = Device::new(name, role);
    let device = Device {
        label,
        tags,
        psk,
        certificate,
        public_key,
        login: login.map(Box::new),
        jwt_keys,
        parent,
        ..plain
    };
    Ok((device, made))
}

/// `tombolo device keygen`: prints what `device import` reads, CSV, or JSON with `--json`.
pub(super) fn keygen(context: &Context, arguments: &DeviceKeygenArguments) -> Result<(), CommandError> {
    for id in &arguments.ids {
        Name::parse(id)
            .map_err(|error| CommandError::Usage(format!("{id:?} is not a device id: {error}")))?;
    }
    if arguments.keys.is_some() && arguments.kind != KeyKind::Jwt {
        return Err(CommandError::Usage(
            "--keys is the folder for private keys, which only --kind jwt makes; without it each ID gets one key of the \
             kind that is asked for"
                .to_owned(),
        ));
    }
    let role = arguments.role.as_deref();
    let name = match arguments.kind {
        KeyKind::Psk | KeyKind::PskHex => "psk",
        KeyKind::Password => "password",
        KeyKind::Jwt => "jwt-key",
    };
    let mut header = vec!["id"];
    header.extend(role.map(|_| "role"));
    header.push(name);
    let folder = arguments.keys.as_deref().unwrap_or_else(|| std::path::Path::new("."));
    if arguments.kind == KeyKind::Jwt && !folder.is_dir() {
        let shown = folder.display();
        return Err(CommandError::Failed(format!(
            "{shown} is no folder; make it, or name another with --keys"
        )));
    }
    if !context.out.json {
        context.out.verbatim(&format!("{}\n", header.join(",")))?;
    }
    for id in &arguments.ids {
        let mut object = json!({ "id": id });
        if let Some(role) = role {
            object["role"] = role.into();
        }
        let key = match arguments.kind {
            KeyKind::Jwt => key_pair(&folder.join(format!("{id}.key")))?,
            KeyKind::PskHex => {
                let key = random_key_bytes().map_err(CommandError::failed)?;
                Zeroizing::new(format!("hex:{}", *Zeroizing::new(format_hex(&key))))
            }
            KeyKind::Psk | KeyKind::Password => {
                let key = random_key().map_err(CommandError::failed)?;
                let form = if arguments.kind == KeyKind::Psk { "text:" } else { password::GENERATED };
                Zeroizing::new(format!("{form}{}", String::from_utf8_lossy(&key)))
            }
        };
        object[name] = key.as_str().into();
        if context.out.json {
            context.out.verbatim_object(&object)?;
        } else {
            // None of these has a comma or a quote.
            let fields: Vec<&str> =
                [Some(id.as_str()), role, Some(key.as_str())].into_iter().flatten().collect();
            context.out.verbatim(&format!("{}\n", fields.join(",")))?;
        }
    }
    Ok(())
}

/// Makes a key pair: the private key goes into a new file, the public one is returned in base64.
fn key_pair(file: &std::path::Path) -> Result<Zeroizing<String>, CommandError> {
    use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    let broken = |_| CommandError::failed("the machine's random numbers fail");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(broken)?;
    let private = pair.to_pkcs8v1().map_err(broken)?;
    let mut text = Zeroizing::new(Vec::with_capacity(1_024));
    pem::encode("PRIVATE KEY", private.as_ref(), &mut text);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(file)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(|error| CommandError::Failed(format!("{} cannot be made: {error}", file.display())))?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(broken)?;
    Ok(Zeroizing::new(STANDARD.encode(public.as_ref())))
}

/// What the column `jwt-key` has: base64 of the DER, PEM, or `file:` and the path of a file.
fn jwt_key(text: &str, until: Option<UnixTime>) -> Result<JwtKey, String> {
    if let Some(path) = text.strip_prefix("file:") {
        return read(std::path::Path::new(path), until);
    }
    let info = if text.contains("-----BEGIN") {
        public_key_info(text.as_bytes())?
    } else {
        STANDARD.decode(text).map_err(|_| {
            "is not base64: write the public key as `openssl pkey -pubin -in FILE -outform DER | base64 -w0` prints it, its \
             PEM text, or file:PATH"
        })?
    };
    JwtKey::parse(&info, until).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        let Read { rows, faults } = rows(text);
        if let Some((line, what)) = faults.first() {
            return format!("{line}: {what}");
        }
        let bad = rows.iter().find_map(|row| Some((row.line, device(row, None).err()?)));
        bad.map_or_else(String::new, |(line, what)| format!("{line}: {what}"))
    }

    #[test]
    fn csv_and_json_say_the_same() {
        let csv = "id,role,label,psk\r\na,r,\"the \"\"north\"\",\n door\",text:secret\r\n\r\nb,r,,hex:00ff\n";
        // A label with a line break is refused; the record is read all the same.
        let read = rows(csv).rows;
        assert_eq!(read.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(read[0].fields["label"].as_str(), "the \"north\",\n door");
        let array = r#"[{"id":"b","role":"r","psk":"hex:00ff","label":null}]"#;
        let lines = "{\"id\":\"b\",\"role\":\"r\",\"psk\":\"hex:00ff\"}\n\n{\"id\":\"c\",\"role\":\"r\",\"psk\":\"generate\"}\n";
        for text in [array, lines] {
            let read = rows(text).rows;
            let (device, _) = device(&read[0], None).expect("a device");
            assert_eq!(device.psk.as_ref().map(|psk| psk.key.as_slice()), Some(&[0, 255][..]));
        }
        let (_, made) = device(&rows(lines).rows[1], None).expect("a device");
        assert!(made.psk.is_some_and(|psk| psk.starts_with("text:") && psk.len() == 27));
    }

    #[test]
    fn a_key_for_tokens_is_base64_of_der_or_pem_or_a_file() {
        use rcgen::PublicKeyData as _;
        let pair = rcgen::KeyPair::generate().unwrap();
        let path = std::env::temp_dir().join(format!("tombolo-jwt-key-{}.pem", std::process::id()));
        std::fs::write(&path, pair.public_key_pem()).unwrap();
        let file = format!("file:{}", path.display());
        let keys = [STANDARD.encode(pair.subject_public_key_info()), pair.public_key_pem(), file]
            .map(|text| jwt_key(&text, None).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(keys.iter().all(|key| *key == keys[0]));
        let refused = jwt_key("SECRET!", None).unwrap_err();
        assert!(refused.contains("openssl pkey -pubin") && !refused.contains("SECRET"), "{refused}");
        assert!(jwt_key("file:/nowhere/a.pem", None).unwrap_err().contains("/nowhere/a.pem cannot be read"));
        assert!(jwt_key(&pair.serialize_pem(), None).unwrap_err().contains("private key"));
    }

    #[test]
    fn each_fault_has_its_line_and_no_secret() {
        for (text, expected) in [
            ("", "1: has no devices"),
            ("id,color\na,red\n", "1: \"color\" is no column"),
            ("id,id\na,b\n", "1: the column \"id\" is there twice"),
            ("id,role\na\n", "2: has 1 field, and the header 2; an empty field has its comma"),
            ("id,role,psk\na,r,text:x\n\"b,r,x\n", "3: has a quote that is not closed"),
            ("id,role,psk\na b,r,text:x\n", "2: \"a b\" is not a device id"),
            ("id,psk\na,text:x\n", "2: a has no role"),
            ("id,role\na,r\n", "2: a has no key, password, certificate or parent"),
            ("id,role,psk\na,r,SECRET\n", "2: a: psk: "),
            ("id,role,password\na,r,SECRET\n", "2: a: password is neither"),
            ("id,role,password\na,r,generated:SECRET\n", "2: a: password is neither"),
            ("id,role,jwt-key\na,r,AAAA\n", "2: a: jwt-key is not a public key"),
            ("id,role,jwt-until,psk\na,r,soon,text:x\n", "2: a: jwt-until \"soon\": write a date like"),
            (
                "id,role,psk,psk-identity\na,r,text:x,hex:0\n",
                "2: a: psk-identity \"hex:0\" is no identity; write 1 to",
            ),
            ("id,role,tags\na,r,north\n", "2: a: tags: \"north\" has no =; write tags like"),
            ("id,role,parent\na,r,b/c\n", "2: a: parent \"b/c\" is not a device id: "),
            (
                "id,role,public-key\na,r,sha256:00\n",
                "2: a: public-key \"sha256:00\" is not sha256: and 64 hexadecimal digits",
            ),
            ("id,role,certificate-dns\na,r,*.x\n", "2: a: certificate-dns \"*.x\": "),
            (
                "id,role,psk\na,r,SECRET\n",
                "2: a: psk: the key begins with neither \"hex:\" nor \"text:\"; write text:KEY, hex:",
            ),
            (
                "id,role,jwt-until,psk\na,r,2026-01-31,text:x\n",
                "2: a: jwt-until: 2026-01-31T00:00:00Z is over",
            ),
            ("[{\"id\":1}]", "1: id is not a text"),
            ("{\"id\":\"a\"}\nx\n", "2: is not JSON at column 1: "),
            ("id,role\na,b,c\n", "2: has 3 fields, and the header 2; put a field that has a comma"),
            ("id;role\na;b\n", "1: has semicolons between its columns; columns are separated by commas"),
            ("id\trole\na\tb\n", "1: has tabs between its columns; columns are separated by commas"),
            ("[\n {\"id\": \"a\"},\n {\"id\": SECRET}\n]", "3: is not JSON at column 9: expected value; the"),
            (
                "[\n {\"id\": \"a\"}\n {\"id\": \"b\"}\n]",
                "3: is not JSON at column 2: an object of an array is",
            ),
            ("[{\"id\": \"a\"}", "1: is not JSON"),
            ("[{\"id\": \"a\"}] x", "1: is not JSON: nothing may follow"),
            ("[]", "1: has no devices"),
            ("{\n\"id\": \"a\"\n}\n", "1: is not JSON at column 1: EOF"),
            ("[\n\n{\"id\":\"a\",\"id\":\"b\"}]", "3: has the key \"id\" twice"),
            ("{\"id\":\"a\",\"tags\":{\"x\":\"1\",\"x\":\"2\"}}", "1: has the key \"x\" twice"),
            ("{\"id\":\"a\",\"psk_identity\":\"1\",\"psk-identity\":\"2\"}", "1: has psk-identity twice"),
        ] {
            let found = fault(text);
            assert!(found.starts_with(expected) && !found.contains("SECRET"), "{text:?}: {found}");
        }
    }

    #[test]
    fn a_line_with_a_fault_hides_no_other() {
        for text in [
            "id,role,psk\na\nb,r,text:x\nc,r,text:x,more\n",
            "{\"id\":1}\n{\"id\":\"b\"}\nx\n",
            "[{\"id\":1},\n{\"id\":\"b\"},\nx]",
        ] {
            let read = rows(text);
            let lines: Vec<usize> = read.faults.iter().map(|(line, _)| *line).collect();
            let good: Vec<&str> = read.rows.iter().map(|row| row.fields["id"].as_str()).collect();
            assert_eq!(good, ["b"], "{text}");
            assert!(lines.len() == 2 && lines.is_sorted(), "{text}: {:?}", read.faults);
        }
    }

    #[test]
    fn nothing_that_is_read_panics() {
        let good = "id,role,label,psk\na,r,\"x\",text:y\n";
        for length in 0..good.len() {
            let _ = fault(&good[..length]);
            let _ = fault(&good.replace(&good[length..=length], "\""));
        }
        let good = "[\n{\"id\":\"ä\",\"tags\":{\"x\":\"1\"}}, {\"id\":\"b\"}\n]\n";
        for (at, character) in good.char_indices() {
            let _ = fault(&good[..at]);
            let _ = fault(&format!("{}x{}", &good[..at], &good[at + character.len_utf8()..]));
        }
    }
}
