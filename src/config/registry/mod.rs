//! The device registry: one small file per device in `{state-dir}/devices`, so that a device is
//! added or removed atomically.
//!
//! ```toml
//! format = "tombolo-device 1.7"
//! role = "sensor"
//! label = "the north door"
//! tags = { site = "north" }
//! psk-identity = "door-7"
//! psk = "text:…"
//! # end
//! ```
//!
//! or, in place of the two about the key, as in `[device.X]`: `certificate-uri`, `certificate-dns`
//! or `certificate-cn`, with `certificate-issuer`; `public-key = "sha256:…"`; `parent`;
//! `mqtt-username`, and `password`, which is a hash ([`PasswordHash`]); the tables of
//! [`credentials`].
//!
//! The file of a device that is disabled has format 2.0 and is otherwise the same: a version that
//! knows no disabled devices does not take it either.
//!
//! A file that cannot be read, or has an unknown format version, disables only its device. It is
//! not changed, so that the version that wrote it can use it. Unknown keys are ignored. On a reload
//! the last good version of a device stays in use. This module parses and renders the texts; `io`
//! accesses the files.

pub mod credentials;
pub mod io;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::certificate::{format_key_hash, parse_key_hash};
use super::finding::{Finding, Level, Place};
use super::raw::Lines;
use super::scalar::{
    PSK_IDENTITY_MAX, PSK_KEY_MAX, did_you_mean, format_duration, format_hex, format_psk_identity,
    parse_duration, parse_psk, parse_psk_identity,
};
use super::{DeviceSource, Known, Loaded};
use crate::clock::UnixTime;
use crate::durable::atomic_file::Condition;
use crate::gate::certificate::{CertificateName, NAME_MAX, NameKind};
use crate::gate::login::{HASH_TEXT_MAX, Login, PasswordHash, USERNAME_MAX};
use crate::gate::on_behalf::CHILDREN_MAX;
use crate::gate::tag::Tags;
use crate::gate::{Device, Fault, NextPsk, Psk, SharedDevice};
use crate::message::{Name, RESERVED_DEVICE};
use crate::proto::dtls::server::DistinguishedName;

/// Largest file of the registry, in bytes.
pub const FILE_MAX: u64 = 16 << 10;
/// What a file's `format` begins with.
const MAGIC: &str = "tombolo-device ";
/// The newest major version of the format that is understood.
const MAJOR: u32 = 1;
/// The minor version that is written. 1.1 added certificates and public keys, which older 1.x
/// ignore; 1.2 added the end line; 1.3 MQTT passwords; 1.4 public keys of tokens, dates of keys and
/// the next PSK; 1.5 tags; 1.6 the parent; 1.7 the date of the next PSK.
const MINOR: u32 = 7;
/// The major version of the file of a disabled device.
const MAJOR_DISABLED: u32 = 2;
/// Bytes for the text of a file, more than any has: growing would leave copies of its keys in
/// memory.
const TEXT_CAPACITY: usize = 16_000;
/// The first minor version whose files end with [`END`].
const MINOR_WITH_END: u32 = 2;
/// The last line. A file without it is truncated, and a missing line could be a restriction such as
/// the issuer.
const END: &str = "# end";
/// The remedy for a file that cannot be read.
const UNREADABLE: &str = "its mode is 0600 and its owner the folder's; else see in `dmesg` what the disk has. Then systemctl reload tombolo";
/// Longest label, in bytes.
const LABEL_MAX: usize = 256;
/// Characters of a generated key.
const GENERATED_LENGTH: usize = 22;

/// Its folder in the state directory.
pub const FOLDER: &str = "devices";

/// All devices of the registry.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    entries: BTreeMap<String, Arc<Entry>>,
    /// Ids whose file exists but cannot be used.
    bad: BTreeSet<String>,
    findings: Vec<Finding>,
}

/// One device of the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The device; its role is not validated.
    pub device: SharedDevice,
    /// The path of its file.
    pub file: Arc<str>,
    /// `false`: it is disabled by command.
    pub enabled: bool,
    /// When its PSK was set, as far as that is known.
    pub psk_since: Option<UnixTime>,
    /// When the PSK that is to replace it was set, as far as that is known.
    pub next_psk_since: Option<UnixTime>,
    /// When its MQTT password was set, as far as that is known.
    pub password_since: Option<UnixTime>,
}

impl Entry {
    /// A new device in a file.
    pub fn new(device: impl Into<SharedDevice>, file: Arc<str>) -> Entry {
        Entry {
            device: device.into(),
            file,
            enabled: true,
            psk_since: None,
            next_psk_since: None,
            password_since: None,
        }
    }

    /// Its PSK is this one from `today` on, and no other.
    pub fn replace_psk(&mut self, psk: Psk, today: Option<UnixTime>) {
        (self.device.psk, self.device.next_psk) = (Some(psk), None);
        (self.psk_since, self.next_psk_since) = (today, None);
    }

    /// Its next PSK is this one from `today` on, beside the one it has.
    pub fn add_psk(&mut self, next: NextPsk, today: Option<UnixTime>) {
        self.device.next_psk = Some(Box::new(next));
        self.next_psk_since = today;
    }

    /// The next PSK takes the place of the one before, with its date. Files before 1.7 do not have
    /// that: it is `today` then.
    ///
    /// The file may have changed since the key was used. If the next PSK is another one by then,
    /// the one that was used takes the place of the one before nevertheless, because it is what the
    /// device has, and the newer one stays the next. If the PSK itself is another, the keys of that
    /// time were revoked: nothing changes.
    pub fn promote_psk(&mut self, end: &OverlapEnd, today: Option<UnixTime>) -> Promoted {
        let Some(next) = self.device.next_psk.take() else { return Promoted::Nothing };
        let (used, since) = match end {
            OverlapEnd::Used { used, .. } if *used == next.psk => (next.psk, self.next_psk_since),
            OverlapEnd::Over { now } if next.until <= *now => (next.psk, self.next_psk_since),
            OverlapEnd::Used { used, before, since } if *before == self.device.psk => {
                let (newer, newer_since) = (next, self.next_psk_since);
                self.replace_psk(used.clone(), since.or(newer_since).or(today));
                if newer.psk.identity == used.identity {
                    return Promoted::NewerDropped;
                }
                (self.device.next_psk, self.next_psk_since) = (Some(newer), newer_since);
                return Promoted::NewerKept;
            }
            OverlapEnd::Used { .. } | OverlapEnd::Over { .. } => {
                self.device.next_psk = Some(next);
                return Promoted::Nothing;
            }
        };
        self.replace_psk(used, since.or(today));
        Promoted::Next
    }
}

/// Why the time of two PSKs ends.
#[derive(Clone, Debug, PartialEq)]
pub enum OverlapEnd {
    /// The device has used the next one.
    Used {
        /// The one that it has used.
        used: Psk,
        /// The one that was in use beside it.
        before: Option<Psk>,
        /// When the one that it has used was set, as far as that is known.
        since: Option<UnixTime>,
    },
    /// The time is over.
    Over {
        /// The time now.
        now: UnixTime,
    },
}

/// What became of the next PSK of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promoted {
    /// There is none, or it is not its turn.
    Nothing,
    /// It has taken the place of the one before.
    Next,
    /// The one that was used has, and a newer one is the next.
    NewerKept,
    /// The one that was used has; a newer one with the same identity is gone.
    NewerDropped,
}

/// The text of one file of the registry.
pub struct FileText {
    /// The file's name without `.toml`.
    pub id: String,
    /// The path of the file, as shown in findings.
    pub file: Arc<str>,
    /// Its text, or why it cannot be read.
    pub text: Result<Zeroizing<String>, Condition>,
}

impl Registry {
    /// Parses every file. For a file that cannot be used, the version in `previous` stays in use.
    pub fn assemble(files: impl IntoIterator<Item = FileText>, previous: Option<&Registry>) -> Registry {
        let mut registry = Registry::default();
        // What is the same of many devices, or was read before, is there once.
        let mut roles = BTreeSet::new();
        for file in files {
            let entry = match &file.text {
                Ok(text) => parse(&file.id, &file.file, text),
                Err(condition) => {
                    let place = Place { file: file.file.clone(), line: None };
                    let advice = match condition {
                        Condition::Unreadable(_) => UNREADABLE,
                        Condition::Damaged(_) | Condition::Missing => "remove the device and add it again",
                    };
                    let finding = Finding::fail(format!("device {}", file.id), condition.to_string());
                    Err(Box::new(finding.at(Some(&place)).advice(advice)))
                }
            };
            match entry {
                Ok(mut entry) => {
                    let role = roles.get(&entry.device.role).unwrap_or(&entry.device.role).clone();
                    roles.insert(role.clone());
                    entry.device.role = role;
                    let last = previous.and_then(|previous| previous.entries.get(&file.id));
                    let last = last.filter(|last| ***last == entry).cloned();
                    registry.entries.insert(file.id, last.unwrap_or_else(|| Arc::new(entry)));
                }
                Err(mut finding) => {
                    if let Some(last) = previous.and_then(|previous| previous.entries.get(&file.id)) {
                        finding.message.push_str("; its last good version stays in use");
                        registry.entries.insert(file.id.clone(), last.clone());
                    }
                    registry.findings.push(*finding);
                    registry.bad.insert(file.id);
                }
            }
        }
        registry
    }

    /// The usable devices, in id order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values().map(Arc::as_ref)
    }

    /// The device with this id.
    pub fn entry(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id).map(Arc::as_ref)
    }

    /// Whether there is a file for this id, usable or not.
    pub fn has_file(&self, id: &str) -> bool {
        self.entries.contains_key(id) || self.bad.contains(id)
    }

    /// The findings about files.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// Parses the text of one file. Findings never contain an invalid value, because it may be the key.
///
/// # Errors
/// A finding at file and line.
pub fn parse(id: &str, file: &Arc<str>, text: &str) -> Result<Entry, Box<Finding>> {
    let lines = Lines::of(text);
    let fault = |line: Option<u32>, key: &str, message: String, advice: &str| {
        let place = Place { file: file.clone(), line };
        Box::new(Finding::fail(format!("device {id}"), message).at(Some(&place)).key(key).advice(advice))
    };
    let Ok(name) = Name::parse(id) else {
        return Err(fault(
            None,
            "id",
            "the file's name is not a device id".to_owned(),
            "rename or remove the file",
        ));
    };
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map(|span| lines.line(span.start));
        fault(
            line,
            "syntax",
            format!("is not TOML: {}", error.message()),
            "remove the device and add it again",
        )
    })?;
    let table = table.get_ref();
    // A text of 1 to `max` bytes.
    let get = |key: &str, max: usize| match table.get(key) {
        None => Ok(None),
        Some(value) => {
            let line = Some(lines.line(value.span().start));
            match value.get_ref() {
                DeValue::String(text) if !text.is_empty() && text.len() <= max => {
                    Ok(Some((text.as_ref(), line)))
                }
                _ => Err(fault(
                    line,
                    key,
                    format!("is not a text of 1 to {max} bytes"),
                    "write it in double quotes",
                )),
            }
        }
    };
    let mut enabled = true;
    if let Some((format, line)) = get("format", 64)? {
        let (major, minor) = version(format);
        enabled = major != Some(MAJOR_DISABLED);
        if major != Some(MAJOR) && enabled {
            let advice = "a newer version of Tombolo wrote it; that one will use it again";
            return Err(fault(line, "format", "has an unknown format version".to_owned(), advice));
        }
        if (minor >= MINOR_WITH_END || !enabled) && !text.trim_end().ends_with(END) {
            let message = format!("is damaged: it is truncated: its last line is not {END:?}");
            return Err(fault(None, "syntax", message, "remove the device and add it again"));
        }
    }
    let Some((role, line)) = get("role", 64)? else {
        return Err(fault(
            None,
            "role",
            "the device has no role".to_owned(),
            "write role = \"…\" into the file",
        ));
    };
    let role = Name::parse(role).map_err(|error| {
        fault(line, "role", format!("is not a role name: {error}"), "name one of the [role.*]")
    })?;
    let label = get("label", LABEL_MAX)?.map(|(label, _)| label.to_owned());
    let tags = tags(table.get("tags"), &lines, &fault)?;
    let parent = match get("parent", 64)? {
        None => None,
        Some((text, line)) => Some(Name::parse(text).map_err(|error| {
            fault(line, "parent", format!("is not a device id: {error}"), "name the device that it is behind")
        })?),
    };
    let offline_after = match get("offline-after", 64)? {
        None => None,
        Some((text, line)) => match parse_duration(text) {
            Some(duration) => Some(duration),
            None => {
                return Err(fault(
                    line,
                    "offline-after",
                    "is not a duration".to_owned(),
                    "write it like \"1h\"",
                ));
            }
        },
    };
    let identity = match get("psk-identity", 4 + 2 * PSK_IDENTITY_MAX)? {
        None => id.as_bytes().to_vec(),
        Some((text, line)) => parse_psk_identity(text).ok_or_else(|| {
            let advice =
                "write 1 to 128 bytes of text, or hex: in small letters and two hexadecimal digits for each";
            fault(line, "psk-identity", "this is no identity".to_owned(), advice)
        })?,
    };
    let psk = match get("psk", 5 + 2 * PSK_KEY_MAX)? {
        Some((key, line)) => {
            let key = parse_psk(key.as_bytes()).map_err(|error| {
                fault(line, "psk", error.to_string(), "write hex:… or text:…, 1 to 64 bytes")
            })?;
            Some(Psk { identity, key })
        }
        None => None,
    };
    let certificate = certificate(&get, &fault)?;
    let public_key = match get("public-key", 71)? {
        None => None,
        Some((text, line)) => Some(parse_key_hash(text).ok_or_else(|| {
            let advice = "write sha256: and the 64 hexadecimal digits of the key's hash";
            fault(line, "public-key", "this is not a hash of a key".to_owned(), advice)
        })?),
    };
    let username = get("mqtt-username", USERNAME_MAX)?.map_or(id, |(username, _)| username);
    let login = match get("password", HASH_TEXT_MAX)? {
        None => None,
        Some((text, line)) => {
            let password = PasswordHash::parse(text).ok_or_else(|| {
                let advice = "remove the device and add it again";
                fault(line, "password", "this is not the hash of a password".to_owned(), advice)
            })?;
            Some(Box::new(Login { username: username.to_owned(), password }))
        }
    };
    let jwt_keys = credentials::jwt_keys(table.get("jwt-keys"), &lines, &fault)?;
    let next_psk = credentials::next_psk(&get, &fault, id)?;
    let psk_since = credentials::time(&get, &fault, "psk-since")?;
    let next_psk_since = credentials::time(&get, &fault, "next-psk-since")?.filter(|_| next_psk.is_some());
    let password_since = credentials::time(&get, &fault, "password-since")?;
    let device = Device {
        label,
        tags,
        psk,
        certificate,
        public_key,
        login,
        jwt_keys,
        next_psk,
        offline_after,
        parent,
        ..Device::new(name, role)
    };
    let file = file.clone();
    Ok(Entry { device: device.into(), file, enabled, psk_since, next_psk_since, password_since })
}

/// Major and minor version of a file, as far as they can be read.
fn version(format: &str) -> (Option<u32>, u32) {
    let mut numbers = format.strip_prefix(MAGIC).into_iter().flat_map(|version| version.splitn(2, '.'));
    let mut number = || numbers.next().and_then(|number| number.parse().ok());
    (number(), number().unwrap_or(0))
}

/// A text of 1 to so many bytes at a key, and its line.
type Get<'a, 't> = dyn Fn(&str, usize) -> Result<Option<(&'t str, Option<u32>)>, Box<Finding>> + 'a;
/// Makes a fault from line, key, message and remedy.
type MakeFault<'a> = dyn Fn(Option<u32>, &str, String, &str) -> Box<Finding> + 'a;

/// The tags.
fn tags(
    value: Option<&toml::Spanned<DeValue<'_>>>,
    lines: &Lines,
    fault: &MakeFault<'_>,
) -> Result<Tags, Box<Finding>> {
    let mut tags = Tags::default();
    let Some(value) = value else { return Ok(tags) };
    let line = Some(lines.line(value.span().start));
    let wrong =
        |message: &str| fault(line, "tags", message.to_owned(), "write them like { site = \"north\" }");
    let DeValue::Table(table) = value.get_ref() else { return Err(wrong("is not a table")) };
    for (name, value) in table {
        let DeValue::String(text) = value.get_ref() else {
            return Err(wrong("has a value that is not a text"));
        };
        tags.set(name.get_ref(), text).map_err(|error| wrong(&error.to_string()))?;
    }
    Ok(tags)
}

/// The certificate name, at most one.
fn certificate(get: &Get<'_, '_>, fault: &MakeFault<'_>) -> Result<Option<CertificateName>, Box<Finding>> {
    let advice = "remove the device and add it again";
    let issuer = match get("certificate-issuer", 4 * NAME_MAX)? {
        None => None,
        Some((text, line)) => Some((
            DistinguishedName::parse(text)
                .map_err(|error| fault(line, "certificate-issuer", error.to_string(), advice))?,
            line,
        )),
    };
    let mut found = None;
    for kind in NameKind::ALL {
        let Some((text, line)) = get(kind.key(), NAME_MAX)? else { continue };
        if found.is_some() {
            return Err(fault(
                line,
                kind.key(),
                "only one name may identify a certificate".to_owned(),
                advice,
            ));
        }
        let issuer = issuer.as_ref().map(|(issuer, _)| issuer.clone());
        found = Some(
            CertificateName::new(kind, text, issuer)
                .map_err(|error| fault(line, kind.key(), error.to_string(), advice))?,
        );
    }
    match (issuer, &found) {
        (Some((_, line)), None) => Err(fault(
            line,
            "certificate-issuer",
            "there is no certificate-uri, -dns or -cn".to_owned(),
            advice,
        )),
        _ => Ok(found),
    }
}

/// Renders the file of one device. A key that is printable text is written as text, so that it can
/// be copied to a client.
pub fn render(device: &Device) -> Zeroizing<String> {
    render_entry(&Entry::new(device.clone(), "".into()))
}

/// Renders the file of one device with the dates of its keys, and whether it is enabled.
pub fn render_entry(entry: &Entry) -> Zeroizing<String> {
    let Entry { device, enabled, psk_since, next_psk_since, password_since, .. } = entry;
    let mut text = Zeroizing::new(String::with_capacity(TEXT_CAPACITY));
    let quoted = |value: &str| toml::Value::String(value.to_owned()).to_string();
    text.push_str("# A device of this gateway's registry. Change it through `tombolo device`.\n");
    let (major, minor) = if *enabled { (MAJOR, MINOR) } else { (MAJOR_DISABLED, 0) };
    let _ = writeln!(text, "format = \"{MAGIC}{major}.{minor}\"");
    let _ = writeln!(text, "role = {}", quoted(device.role.as_str()));
    if let Some(label) = &device.label {
        let _ = writeln!(text, "label = {}", quoted(label));
    }
    if !device.tags.is_empty() {
        let tag = |(name, value): (&Name, &str)| format!("\"{name}\" = {}", quoted(value));
        let tags = device.tags.iter().map(tag).collect::<Vec<_>>();
        let _ = writeln!(text, "tags = {{ {} }}", tags.join(", "));
    }
    if let Some(parent) = &device.parent {
        let _ = writeln!(text, "parent = {}", quoted(parent.as_str()));
    }
    if let Some(after) = device.offline_after {
        let _ = writeln!(text, "offline-after = {}", quoted(&format_duration(after)));
    }
    if let Some(certificate) = &device.certificate {
        // In this order, so that a truncated file never matches further certificates.
        if let Some(issuer) = certificate.issuer() {
            let _ = writeln!(text, "certificate-issuer = {}", quoted(&issuer.to_string()));
        }
        let _ = writeln!(text, "{} = {}", certificate.kind().key(), quoted(certificate.name()));
    }
    if let Some(key) = &device.public_key {
        let _ = writeln!(text, "public-key = \"{}\"", format_key_hash(key));
    }
    let next = device.next_psk.as_ref();
    for (prefix, psk) in [("", device.psk.as_ref()), ("next-", next.map(|next| &next.psk))] {
        let Some(psk) = psk else { continue };
        let _ = writeln!(text, "{prefix}psk-identity = {}", quoted(&format_psk_identity(&psk.identity)));
        match key_text(&psk.key) {
            Some(literal) => {
                let key = Zeroizing::new(quoted(&format!("text:{literal}")));
                let _ = writeln!(text, "{prefix}psk = {}", *key);
            }
            None => {
                let digits = Zeroizing::new(format_hex(&psk.key));
                let _ = writeln!(text, "{prefix}psk = \"hex:{}\"", *digits);
            }
        }
    }
    let until = next.map(|next| next.until);
    let next_psk_since = next_psk_since.filter(|_| next.is_some());
    for (key, time) in [
        ("psk-since", psk_since),
        ("next-psk-since", &next_psk_since),
        ("next-psk-until", &until),
        ("password-since", password_since),
    ] {
        if let Some(time) = time {
            let _ = writeln!(text, "{key} = \"{}\"", credentials::format_time(*time));
        }
    }
    if let Some(login) = &device.login {
        if login.username != device.id.as_str() {
            let _ = writeln!(text, "mqtt-username = {}", quoted(&login.username));
        }
        let _ = writeln!(text, "password = {}", quoted(&login.password.to_string()));
    }
    credentials::render_jwt_keys(&mut text, &device.jwt_keys);
    text.push_str(END);
    text.push('\n');
    text
}

/// The key as an argument for a client's command line, if it is printable ASCII.
pub fn key_text(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok().filter(|text| text.bytes().all(|b| (b' '..=b'~').contains(&b)))
}

/// The characters of a generated key.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Whether a text has the form of a [`generated_key`].
pub fn is_generated_key(text: &str) -> bool {
    text.len() == GENERATED_LENGTH && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// A key of 22 characters from 22 random bytes, with more than 131 bits. The characters are
/// URL-safe, so that no shell changes them, and the first is a letter (not `0x` or `-`), so that
/// `coap-client -k` reads it literally.
pub fn generated_key(random: &[u8; GENERATED_LENGTH]) -> Zeroizing<Vec<u8>> {
    let character = |at: usize| match at {
        // 32 letters: 5 bits; with 21 times 6 bits, 131.
        0 => ALPHABET[usize::from(random[0] % 32)],
        at => ALPHABET[usize::from(random[at] % 64)],
    };
    Zeroizing::new((0..GENERATED_LENGTH).map(character).collect())
}

/// Checks a new device against the existing ones.
///
/// # Errors
/// A finding with the place of the conflict.
pub fn check_new(device: &Device, loaded: &Loaded) -> Result<(), Box<Finding>> {
    let id = device.id.as_str();
    let subject = format!("device {id}");
    let refuse = |message: String, place: Option<&Place>, advice: &str| {
        Err(Box::new(Finding::fail(subject.clone(), message).at(place).advice(advice)))
    };
    if id == RESERVED_DEVICE {
        return refuse(
            "this name is reserved for the gateway's own topics".to_owned(),
            None,
            "use another name",
        );
    }
    if let Some(known) = loaded.known(id) {
        let message = "it exists already".to_owned();
        let advice = match known.source {
            DeviceSource::Registry => format!(
                "`tombolo device rekey {id} --psk` gives it a new key, `tombolo device set {id} --role ROLE` another role; to \
                 begin anew, `tombolo device remove {id}`"
            ),
            DeviceSource::Configuration => "change it there, or use another name".to_owned(),
        };
        return refuse(message, known.place.as_ref(), &advice);
    }
    if loaded.registry.has_file(id) {
        let message = "it exists already, in a file that cannot be read".to_owned();
        return refuse(message, None, &format!("remove it first: `tombolo device remove {id}`"));
    }
    check_proofs(device, loaded)?;
    check_role(device, loaded)?;
    check_parent(device, loaded)
}

/// Checks a device that is to take the place of the one with its id in the registry. `with_role`:
/// its role must exist.
///
/// # Errors
/// A finding with the place of the conflict.
pub fn check_change(device: &Device, loaded: &Loaded, with_role: bool) -> Result<(), Box<Finding>> {
    check_proofs(device, loaded)?;
    if with_role {
        check_role(device, loaded)?;
    }
    check_parent(device, loaded)
}

/// Checks its credentials against those of all other devices.
fn check_proofs(device: &Device, loaded: &Loaded) -> Result<(), Box<Finding>> {
    let subject = format!("device {}", device.id);
    let refuse = |message: String, place: Option<&Place>, advice: &str| {
        Err(Box::new(Finding::fail(subject.clone(), message).at(place).advice(advice)))
    };
    let others = || loaded.known.iter().filter(|known| known.id != device.id.as_str());
    for psk in device.psks() {
        let size = |what: &str, length: usize, max: usize| match length {
            0 => Some(format!("the {what} is empty")),
            n if n > max => Some(format!("the {what} has more than {max} bytes")),
            _ => None,
        };
        let wrong = size("PSK identity", psk.identity.len(), PSK_IDENTITY_MAX)
            .or_else(|| size("key", psk.key.len(), PSK_KEY_MAX));
        if let Some(wrong) = wrong {
            return refuse(wrong, None, "use another one");
        }
        let same = |known: &&Known| {
            let identities = [known.psk_identity(), known.next_psk_identity()];
            identities.into_iter().flatten().any(|identity| identity == psk.identity)
        };
        if let Some(other) = others().find(same) {
            let message = format!("device {} has the same PSK identity", other.id);
            return refuse(message, other.place.as_ref(), "use another identity");
        }
    }
    if let Some((other, by)) = others().find_map(|known| Some((known, shared(device, known)?))) {
        let message = format!("device {} has the same {by}", other.id);
        return refuse(message, other.place.as_ref(), "give each device one of its own");
    }
    Ok(())
}

/// Checks that its parent may have it as a child, as the gate does.
fn check_parent(device: &Device, loaded: &Loaded) -> Result<(), Box<Finding>> {
    let Some(parent) = &device.parent else { return Ok(()) };
    let is_behind = |known: &&Known, of: &Name| known.parent() == Some(of);
    let others = || loaded.known.iter().filter(|known| known.id != device.id.as_str());
    let fault = if *parent == device.id {
        Fault::OwnParent
    } else if loaded.known(parent.as_str()).is_some_and(|known| known.parent().is_some()) {
        Fault::ParentIsChild { parent: parent.clone() }
    } else if others().filter(|known| is_behind(known, parent)).count() >= CHILDREN_MAX {
        Fault::TooManyChildren { parent: parent.clone() }
    } else if let Some(child) = others().find(|known| is_behind(known, &device.id)) {
        let message = format!("it is the parent of {}, so it has no parent itself", child.id);
        return Err(Box::new(
            Finding::fail(format!("device {}", device.id), message)
                .advice("give its children another parent first"),
        ));
    } else {
        return Ok(());
    };
    let finding = Finding::fail(format!("device {}", device.id), fault.to_string());
    Err(Box::new(finding.advice("name the device that forwards its readings")))
}

/// Checks that its role exists.
fn check_role(device: &Device, loaded: &Loaded) -> Result<(), Box<Finding>> {
    let roles = || loaded.settings.gate.roles.iter().map(|role| role.name.as_str());
    if !roles().any(|role| role == device.role.as_str()) {
        let of_role = |finding: &&Finding| {
            finding.level == Level::Fail && finding.subject == format!("role {}", device.role)
        };
        if let Some(fault) = loaded.findings.iter().find(of_role) {
            let message =
                format!("a fault disables the role {:?}: {}", device.role.as_str(), fault.sentence());
            return Err(Box::new(Finding::fail(format!("device {}", device.id), message)));
        }
        let advice = match did_you_mean(device.role.as_str(), roles()) {
            Some(role) => format!("did you mean {role:?}?"),
            None if loaded.settings.gate.roles.is_empty() => {
                "no role is configured: add a [role.NAME] with an uplink rule".to_owned()
            }
            None => format!("there are: {}", roles().take(20).collect::<Vec<_>>().join(", ")),
        };
        let message = format!("there is no role {:?}", device.role.as_str());
        return Err(Box::new(Finding::fail(format!("device {}", device.id), message).advice(advice)));
    }
    Ok(())
}

/// The credential that both have.
fn shared(device: &Device, known: &Known) -> Option<&'static str> {
    let both = device.certificate.as_ref().zip(known.certificate());
    if both.is_some_and(|(one, other)| one.overlaps(other)) {
        return Some("certificate");
    }
    let same = device.public_key.is_some() && device.public_key.as_ref() == known.public_key();
    let username = device.login.as_ref().map(|login| login.username.as_str());
    let same_name = username.is_some() && username == known.mqtt_username();
    same.then_some("public key").or(same_name.then_some("MQTT user name"))
}

/// Checks whether a device can be removed from the registry.
///
/// # Errors
/// A finding: the device does not exist, or is in the configuration, with file and line.
pub fn check_remove(id: &str, loaded: &Loaded) -> Result<(), Box<Finding>> {
    let subject = format!("device {id}");
    match loaded.known(id) {
        Some(known) if known.source == DeviceSource::Configuration && !loaded.registry.has_file(id) => {
            let message = "it is in the configuration";
            // Serial devices are in the table of their port.
            let ports = &loaded.settings.serial;
            let table = ports.iter().find_map(|port| port.table_of(id)).unwrap_or(format!("device.{id}"));
            let advice = format!("take [{table}] out there, then reload");
            let finding = Finding::fail(subject, message).at(known.place.as_ref()).key(table);
            Err(Box::new(finding.advice(advice)))
        }
        Some(_) => Ok(()),
        None if loaded.registry.has_file(id) => Ok(()),
        None => {
            let ids = loaded.known.iter().map(|known| known.id.as_str());
            let advice = did_you_mean(id, ids)
                .map_or("`tombolo device list` names all".to_owned(), |id| format!("did you mean {id}?"));
            Err(Box::new(Finding::fail(subject, "it does not exist").advice(advice)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::jwt::KEYS_MAX;

    fn certificate() -> CertificateName {
        let issuer = DistinguishedName::parse("O=\"A, \\\"B\\\"\", CN=ca").unwrap();
        CertificateName::new(NameKind::CommonName, "a \"door\"", Some(issuer)).unwrap()
    }

    fn device(key: &[u8]) -> Device {
        let psk = Psk { identity: b"door \"7\"".to_vec(), key: Zeroizing::new(key.to_vec()) };
        Device {
            label: Some("the \"north\" door\\".to_owned()),
            psk: Some(psk),
            certificate: Some(certificate()),
            public_key: Some([0xab; 32]),
            login: Some(Box::new(Login {
                username: "the \"door\"".to_owned(),
                password: PasswordHash::of_generated(key, [5; 16]),
            })),
            offline_after: Some(std::time::Duration::from_secs(5400)),
            ..Device::new(Name::parse("door-7").unwrap(), Name::parse("sensor").unwrap())
        }
    }

    #[test]
    fn a_device_reads_back_as_it_was_written() {
        for key in [&b"abc\"'\\ #"[..], b"\x00\xff", "täst".as_bytes(), &[b'"'; 64], &[b'\\'; 64]] {
            let text = render(&device(key));
            assert!(text.capacity() == TEXT_CAPACITY, "the text grew");
            let entry = parse("door-7", &"f".into(), &text).unwrap();
            assert_eq!(format!("{:?}", entry.device), format!("{:?}", device(key)));
            assert_eq!(entry.device.psk, device(key).psk);
        }
    }

    #[test]
    fn unknown_keys_are_ignored_and_unknown_formats_disable_only_their_device() {
        let good = "format = \"tombolo-device 1.8\"\nrole = \"r\"\nnew-thing = [1]\n# end\n";
        assert!(parse("a", &"f".into(), good).is_ok());
        let newer =
            parse("a", &"dev/a.toml".into(), "role = \"r\"\nformat = \"tombolo-device 3.0\"\n").unwrap_err();
        assert_eq!(
            newer.to_string(),
            "fail  dev/a.toml:2: format: has an unknown format version; a newer version of Tombolo wrote it; that one will use it again"
        );
    }

    #[test]
    fn a_file_cut_short_lets_nobody_in() {
        let mut device = device(b"0123456789abcdef");
        let text = render(&device);
        for length in (0..text.trim_end().len()).filter(|length| text.is_char_boundary(*length)) {
            assert!(parse("door-7", &"f".into(), &text[..length]).is_err(), "{}", &text[..length]);
        }
        assert!(parse("door-7", &"f".into(), text.trim_end()).is_ok());
        // Files of earlier versions and files written by hand have no end line.
        let before = text.replace("device 1.7", "device 1.1").replace("# end\n", "");
        assert!(parse("door-7", &"f".into(), &before).is_ok());
        device.psk = None;
        device.public_key = None;
        device.login = None;
        let before = render(&device).replace("device 1.7", "device 1.1").replace("# end\n", "");
        for length in (0..before.len()).filter(|length| before.is_char_boundary(*length)) {
            if let Ok(entry) = parse("door-7", &"f".into(), &before[..length])
                && let Some(name) = &entry.device.certificate
            {
                assert_eq!(*name, certificate(), "cut at {length} it stands for others too");
            }
        }
    }

    #[test]
    fn all_keys_of_a_device_and_their_dates_read_back_and_the_largest_text_does_not_grow() {
        let time = UnixTime::from_secs(1_795_694_400);
        let long = |at: u8| Psk { identity: vec![at; PSK_IDENTITY_MAX], key: Zeroizing::new(vec![at; 64]) };
        let mut rsa = crate::gate::jwt::tests::Signer::new(crate::gate::jwt::SignatureAlgorithm::Rs256).key();
        (rsa.until, rsa.since) = (Some(time), Some(time));
        let mut largest = device(&[1; PSK_KEY_MAX]);
        for number in 0..crate::gate::tag::TAGS_MAX {
            let name = format!("{number:-<64}");
            largest.tags.set(&name, &"\"'".repeat(32)).unwrap();
        }
        largest.label = Some("\"".repeat(LABEL_MAX));
        largest.parent = Some(Name::parse(&"p".repeat(64)).unwrap());
        largest.psk = Some(long(1));
        largest.next_psk = Some(Box::new(NextPsk { psk: long(2), until: time }));
        largest.jwt_keys = vec![rsa; KEYS_MAX];
        let entry = Entry {
            enabled: false,
            psk_since: Some(time),
            next_psk_since: Some(time),
            password_since: Some(time),
            ..Entry::new(largest, "f".into())
        };
        let text = render_entry(&entry);
        assert!(text.capacity() == TEXT_CAPACITY && text.len() as u64 <= FILE_MAX, "the text grew");
        let back = parse("door-7", &"f".into(), &text).unwrap();
        assert_eq!(
            (&back.device.jwt_keys, &back.device.next_psk),
            (&entry.device.jwt_keys, &entry.device.next_psk)
        );
        assert_eq!((&back.device.tags, &back.device.parent), (&entry.device.tags, &entry.device.parent));
        assert_eq!((back.enabled, back.psk_since, back.password_since), (false, Some(time), Some(time)));
        assert_eq!(back.next_psk_since, Some(time));
        for length in (0..text.trim_end().len()).step_by(5).filter(|length| text.is_char_boundary(*length)) {
            assert!(parse("door-7", &"f".into(), &text[..length]).is_err());
        }
    }

    #[test]
    fn the_last_good_version_stays_when_a_file_goes_bad() {
        let file = |id: &str, text: &str| FileText {
            id: id.into(),
            file: id.into(),
            text: Ok(Zeroizing::new(text.to_owned())),
        };
        let good = Registry::assemble([file("a", "role=\"x\""), file("b", "role=\"x\"")], None);
        assert_eq!((good.entries().len(), good.findings().len()), (2, 0));
        let later = Registry::assemble([file("a", "role="), file("c", "role=")], Some(&good));
        assert_eq!(later.entries().map(|e| e.device.id.to_string()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(later.findings().len(), 2);
        assert!(later.findings()[0].message.ends_with("its last good version stays in use"));
        assert!(later.has_file("c") && !later.has_file("b"));
    }

    #[test]
    fn a_generated_key_is_taken_literally_by_shells_and_clients() {
        for seed in 0..=255 {
            let key = generated_key(&[seed; 22]);
            assert_eq!(key.len(), 22);
            assert!(key[0].is_ascii_alphabetic());
            assert!(key.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')));
        }
    }
}
