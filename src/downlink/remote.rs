//! Commands to the gateway itself, on `[topics] command` with `gateway` as the device: which there
//! are, which are allowed, and what their payloads say. Pure.
//!
//! | verb | payload | answer |
//! |---|---|---|
//! | `reload` | – | once the new configuration is in force |
//! | `check` | – | what a reload would change, or why it would be refused |
//! | `status` | – | as `tombolo status --json` |
//! | `update/check` | – | as `tombolo update check --json` |
//! | `cert/renew` | the name of a certificate | once the renewal is begun |
//! | `device/add` | JSON: [`NewDevice`] | once the device is in force |
//! | `device/remove` | the id of a device | once it is removed |
//! | `device/rekey` | JSON: [`NewCredential`] | once the device is known by it, and not by the one before |
//! | `support-bundle` | nothing, `hide-names`, `part-bytes=N` | the bundle in numbered [parts](super::parts) |
//!
//! No verb takes a secret: who reads along at the broker must not learn one.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::parts::{PART_BYTES, PART_MIN};
use crate::gate::Device;
use crate::gate::certificate::{CertificateName, NameKind};
use crate::message::{Name, RESERVED_DEVICE};
use crate::proto::dtls::server::DistinguishedName;

/// What may be asked of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Load configuration and registry again.
    Reload,
    /// Compare the configuration with what runs.
    Check,
    /// Everything at a glance.
    Status,
    /// Look for newer firmware.
    UpdateCheck,
    /// Renew a certificate.
    CertRenew,
    /// Add a device without a secret.
    DeviceAdd,
    /// Remove a device.
    DeviceRemove,
    /// Give a device another public key or certificate name.
    DeviceRekey,
    /// Collect what helps support.
    SupportBundle,
}

impl Verb {
    /// All, in the order of the table above.
    pub const ALL: [Verb; 9] = [
        Verb::Reload,
        Verb::Check,
        Verb::Status,
        Verb::UpdateCheck,
        Verb::CertRenew,
        Verb::DeviceAdd,
        Verb::DeviceRemove,
        Verb::DeviceRekey,
        Verb::SupportBundle,
    ];

    /// As in topics and in `[remote] allow`.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Reload => "reload",
            Verb::Check => "check",
            Verb::Status => "status",
            Verb::UpdateCheck => "update/check",
            Verb::CertRenew => "cert/renew",
            Verb::DeviceAdd => "device/add",
            Verb::DeviceRemove => "device/remove",
            Verb::DeviceRekey => "device/rekey",
            Verb::SupportBundle => "support-bundle",
        }
    }

    /// Of this name.
    pub fn parse(text: &str) -> Option<Verb> {
        Verb::ALL.into_iter().find(|verb| verb.as_str() == text)
    }

    /// All names, for people.
    pub fn names() -> String {
        Verb::ALL.map(Verb::as_str).join(", ")
    }
}

/// What `[remote]` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// What is before the verb in a topic; `None`: `[topics] command` is switched off.
    pub head: Option<String>,
    /// The topic of hints to look for firmware, which are no commands.
    pub hint: Option<String>,
    /// What is allowed.
    pub allow: Vec<Verb>,
}

/// What a topic asks of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'t> {
    /// This.
    Allowed(Verb),
    /// What `[remote] allow` does not list.
    NotAllowed(&'t str),
    /// What there is not.
    Unknown(&'t str),
    /// A hint to look for firmware, to which there is no answer: a command that is not allowed, or
    /// that there is not, and that wants none.
    Hint,
}

impl Remote {
    /// What `topic` asks of the gateway; `None`: nothing. `wants_outcome`: the message says where
    /// its outcome is to go, or has an id for it, which no hint needs.
    pub fn asked<'t>(&self, topic: &'t str, wants_outcome: bool) -> Option<Asked<'t>> {
        let text = topic.strip_prefix(self.head.as_deref()?)?;
        Some(match Verb::parse(text) {
            Some(verb) if self.allow.contains(&verb) => Asked::Allowed(verb),
            _ if !wants_outcome && self.hint.as_deref() == Some(topic) => Asked::Hint,
            Some(_) => Asked::NotAllowed(text),
            None => Asked::Unknown(text),
        })
    }
}

/// The payload of `device/add`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewDevice {
    id: String,
    role: String,
    label: Option<String>,
    certificate_uri: Option<String>,
    certificate_dns: Option<String>,
    certificate_cn: Option<String>,
    certificate_issuer: Option<String>,
    public_key: Option<String>,
}

/// The payload of `device/rekey`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewCredential {
    id: String,
    certificate_uri: Option<String>,
    certificate_dns: Option<String>,
    certificate_cn: Option<String>,
    certificate_issuer: Option<String>,
    public_key: Option<String>,
}

/// By what a device is known, without a secret: at least one of them.
#[derive(Debug, PartialEq)]
pub struct Credential {
    /// The name in its certificate.
    pub certificate: Option<CertificateName>,
    /// The SHA-256 of its public key.
    pub public_key: Option<[u8; 32]>,
}

/// As many characters of a name are repeated.
const NAME_SHOWN: usize = 64;
/// Words of keys whose values are secret.
const SECRETS: [&str; 5] = ["psk", "psk_text", "psk_hex", "key", "password"];

/// The members of a JSON object. Of a name that is there twice, programs take different ones (RFC
/// 8259 §4), so that it is refused.
struct Members(serde_json::Map<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = serde_json::Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    if members.contains_key(&name) {
                        let name: String = name.chars().take(NAME_SHOWN).collect();
                        return Err(A::Error::custom(format!("{name:?} is there twice: give it once")));
                    }
                    members.insert(name, map.next_value()?);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What a payload describes.
fn read<T: serde::de::DeserializeOwned>(payload: &[u8], what: &str, instead: &str) -> Result<T, String> {
    let Members(fields) = serde_json::from_slice(payload).map_err(|error| match error.is_data() {
        // Anything but an object is such data, too.
        true => format!("the payload does not describe {what}: {error}"),
        false => format!("the payload is no JSON object: {error}"),
    })?;
    if let Some(secret) = SECRETS.iter().find(|secret| fields.contains_key(**secret)) {
        return Err(format!(
            "{secret}: no secret is taken over the broker; use a certificate or public_key, or {instead} on the \
             gateway"
        ));
    }
    serde_json::from_value(fields.into())
        .map_err(|error| format!("the payload does not describe {what}: {error}"))
}

fn name(what: &str, text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| format!("{what} {text:?}: {error}"))
}

/// The device that a payload of `device/add` describes; `key` reads `sha256:` and 64 digits.
///
/// # Errors
/// What is wrong with it, for people.
pub fn new_device(payload: &[u8], key: impl Fn(&str) -> Option<[u8; 32]>) -> Result<Device, String> {
    let new: NewDevice = read(payload, "a device", "`tombolo device add`")?;
    let (id, role) = (name("id", &new.id)?, name("role", &new.role)?);
    if id.as_str() == RESERVED_DEVICE {
        return Err(format!("the id {RESERVED_DEVICE:?} is reserved"));
    }
    if new.label.as_ref().is_some_and(|label| label.len() > 256 || label.contains(char::is_control)) {
        return Err("label: more than 256 bytes, or a control character".to_owned());
    }
    let names = [
        (NameKind::Uri, new.certificate_uri),
        (NameKind::Dns, new.certificate_dns),
        (NameKind::CommonName, new.certificate_cn),
    ];
    let Credential { certificate, public_key } =
        credential(names, new.certificate_issuer, new.public_key, key)?;
    Ok(Device { label: new.label, certificate, public_key, ..Device::new(id, role) })
}

/// The device of a payload of `device/rekey`, and by what it is known from then on.
///
/// # Errors
/// What is wrong with it, for people.
pub fn new_credential(
    payload: &[u8],
    key: impl Fn(&str) -> Option<[u8; 32]>,
) -> Result<(Name, Credential), String> {
    let new: NewCredential = read(payload, "a credential", "`tombolo device rekey`")?;
    let names = [
        (NameKind::Uri, new.certificate_uri),
        (NameKind::Dns, new.certificate_dns),
        (NameKind::CommonName, new.certificate_cn),
    ];
    let id = name("id", &new.id)?;
    Ok((id, credential(names, new.certificate_issuer, new.public_key, key)?))
}

fn credential(
    names: [(NameKind, Option<String>); 3],
    issuer: Option<String>,
    public_key: Option<String>,
    key: impl Fn(&str) -> Option<[u8; 32]>,
) -> Result<Credential, String> {
    let issuer = issuer.as_deref().map(DistinguishedName::parse).transpose();
    let issuer = issuer.map_err(|error| format!("certificate_issuer: {error}"))?;
    let mut given = names.into_iter().filter_map(|(kind, name)| Some((kind, name?)));
    let certificate = match (given.next(), given.next()) {
        (Some(_), Some(_)) => return Err("more than one certificate name; give one".to_owned()),
        (Some((kind, name)), None) => {
            let made = CertificateName::new(kind, &name, issuer);
            Some(made.map_err(|error| format!("{}: {error}", kind.key()))?)
        }
        (None, _) => None,
    };
    let public_key = match public_key.as_deref() {
        Some(text) => Some(key(text).ok_or("public_key is sha256: and 64 hexadecimal digits")?),
        None => None,
    };
    if certificate.is_none() && public_key.is_none() {
        return Err("the device has neither a certificate name nor a public_key".to_owned());
    }
    Ok(Credential { certificate, public_key })
}

/// What is asked of a support bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundleWish {
    /// Names are taken out.
    pub hide_names: bool,
    /// Bytes of a part at most.
    pub part_bytes: Option<u64>,
}

/// What the payload of `support-bundle` asks for: nothing, or words with spaces between them.
///
/// # Errors
/// A word is neither `hide-names` nor `part-bytes=N`.
pub fn bundle_wish(payload: &[u8]) -> Result<BundleWish, String> {
    let mut wish = BundleWish::default();
    let text = std::str::from_utf8(payload).unwrap_or("\u{fffd}");
    for word in text.split_ascii_whitespace() {
        match word.strip_prefix("part-bytes=").map(str::parse) {
            Some(Ok(bytes)) if (PART_MIN..=PART_BYTES).contains(&bytes) => wish.part_bytes = Some(bytes),
            None if word == "hide-names" => wish.hide_names = true,
            _ => {
                return Err(format!(
                    "the payload of support-bundle is empty, or hide-names, or part-bytes=N with N from {PART_MIN} to \
                     {PART_BYTES}, or both with a space between them"
                ));
            }
        }
    }
    Ok(wish)
}

/// A name in a payload: as text, or as JSON `{"name": …}` or `{"id": …}`.
///
/// # Errors
/// It is neither.
pub fn named(payload: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(payload).map_err(|_| "the payload is not UTF-8".to_owned())?.trim();
    let json = serde_json::from_str::<serde_json::Value>(text).ok();
    let of = |key: &str| json.as_ref()?.get(key)?.as_str().map(str::to_owned);
    let name = of("name").or_else(|| of("id")).unwrap_or_else(|| text.to_owned());
    Name::parse(&name)
        .map(|name| name.to_string())
        .map_err(|error| format!("the payload is no name: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(allow: &[Verb]) -> Remote {
        Remote {
            head: Some("tombolo/gw/gateway/down/".to_owned()),
            hint: Some("tombolo/gw/gateway/down/update/check".to_owned()),
            allow: allow.to_vec(),
        }
    }

    #[test]
    fn only_what_is_listed_is_allowed_and_the_rest_is_named() {
        let none = remote(&[]);
        let of = |remote: &Remote, verb: &str, wants_outcome| {
            let topic = format!("tombolo/gw/gateway/down/{verb}");
            format!("{:?}", remote.asked(&topic, wants_outcome).unwrap())
        };
        let asked = |remote: &Remote, verb: &str| of(remote, verb, false);
        for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::UpdateCheck) {
            assert_eq!(asked(&none, verb.as_str()), format!("NotAllowed({:?})", verb.as_str()));
            assert_eq!(asked(&remote(&[verb]), verb.as_str()), format!("Allowed({verb:?})"));
        }
        assert_eq!(asked(&none, "update/check"), "Hint");
        assert_eq!(of(&none, "update/check", true), "NotAllowed(\"update/check\")");
        assert_eq!(of(&remote(&[Verb::UpdateCheck]), "update/check", true), "Allowed(UpdateCheck)");
        assert_eq!(asked(&remote(&[Verb::UpdateCheck]), "update/check"), "Allowed(UpdateCheck)");
        assert_eq!(asked(&none, "reboot"), "Unknown(\"reboot\")");
        assert_eq!(none.asked("tombolo/gw/door-7/down/reload", true), None);
        assert_eq!(Remote::default().asked("tombolo/gw/gateway/down/reload", true), None);
    }

    #[test]
    fn a_device_without_a_secret_is_read_and_one_with_a_secret_or_nothing_is_not() {
        let key = |text: &str| (text == "sha256:aa").then_some([7; 32]);
        let read = |text: &str| new_device(text.as_bytes(), key);
        let device = read(r#"{"id":"d-1","role":"sensor","certificate_dns":"d-1.example.com"}"#).unwrap();
        assert!(device.certificate.is_some() && device.psk.is_none() && device.login.is_none());
        assert_eq!(
            read(r#"{"id":"d-1","role":"sensor","public_key":"sha256:aa"}"#).unwrap().public_key,
            Some([7; 32])
        );
        for (text, why) in [
            (r#"{"id":"d-1","role":"sensor","psk":"text:secret"}"#, "no secret"),
            (r#"{"id":"d-1","role":"sensor","password":"x"}"#, "no secret"),
            (r#"{"id":"d-1","role":"sensor"}"#, "neither"),
            (r#"{"id":"d-1","role":"sensor","public_key":"sha256:bb"}"#, "64 hex"),
            (r#"{"id":"d-1","role":"sensor","certificate_dns":"a.b","certificate_cn":"x"}"#, "more than one"),
            (r#"{"id":"a/b","role":"sensor","public_key":"sha256:aa"}"#, "id"),
            (r#"{"id":"gateway","role":"sensor","public_key":"sha256:aa"}"#, "reserved"),
            (r#"{"id":"d-1","role":"sensor","public_key":"sha256:aa","more":1}"#, "unknown field"),
            (
                r#"{"id":"d-1","role":"sensor","public_key":"sha256:aa","role":"admin"}"#,
                r#""role" is there twice"#,
            ),
            (r#"{"id":"d-1","id":"d-1","role":"sensor","public_key":"sha256:aa"}"#, r#""id" is there twice"#),
            ("[]", "an object"),
            ("", "no JSON object"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("text:secret"), "{error}");
        }
    }

    #[test]
    fn a_new_credential_is_read_and_one_with_a_secret_or_nothing_is_not() {
        let key = |text: &str| (text == "sha256:aa").then_some([7; 32]);
        let read = |text: &str| new_credential(text.as_bytes(), key);
        let (id, credential) = read(r#"{"id":"d-1","public_key":"sha256:aa"}"#).unwrap();
        assert_eq!(
            (id.as_str(), credential.public_key, credential.certificate),
            ("d-1", Some([7; 32]), None)
        );
        for (text, why) in [
            (r#"{"id":"d-1","psk":"text:secret"}"#, "no secret"),
            (r#"{"id":"d-1"}"#, "neither"),
            (r#"{"id":"d-1","public_key":"sha256:aa","id":"d-2"}"#, r#""id" is there twice"#),
            (r#"{"id":"d-1","public_key":"sha256:aa","role":"other"}"#, "unknown field"),
            (r#"{"public_key":"sha256:aa"}"#, "missing field"),
            (r#"{"id":"d/1","public_key":"sha256:aa"}"#, "id"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("text:secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_support_bundle_has_names_unless_they_are_to_be_taken_out() {
        let wish = |payload: &[u8]| bundle_wish(payload).map(|wish| (wish.hide_names, wish.part_bytes));
        assert_eq!((wish(b""), wish(b" hide-names\n")), (Ok((false, None)), Ok((true, None))));
        assert_eq!(wish(b"part-bytes=1024"), Ok((false, Some(1024))));
        assert_eq!(wish(b"hide-names part-bytes=32768"), Ok((true, Some(32768))));
        for payload in [&b"{}"[..], b"\xff", b"part-bytes=", b"part-bytes=1023", b"part-bytes=32769"] {
            assert!(wish(payload).unwrap_err().contains("part-bytes=N with N from 1024 to 32768"));
        }
    }

    #[test]
    fn a_name_is_text_or_json() {
        for payload in ["door-7", " door-7\n", r#"{"name":"door-7"}"#, r#"{"id":"door-7"}"#] {
            assert_eq!(named(payload.as_bytes()).as_deref(), Ok("door-7"), "{payload}");
        }
        for payload in [&b""[..], b"a/b", b"\xff", b"{}"] {
            assert!(named(payload).is_err());
        }
    }
}
