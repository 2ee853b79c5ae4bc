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
//!
//! No verb takes a secret: who reads along at the broker must not learn one.

use serde::Deserialize;

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
}

impl Verb {
    /// All, in the order of the table above.
    pub const ALL: [Verb; 7] = [
        Verb::Reload,
        Verb::Check,
        Verb::Status,
        Verb::UpdateCheck,
        Verb::CertRenew,
        Verb::DeviceAdd,
        Verb::DeviceRemove,
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
    /// A hint to look for firmware, to which there is no answer.
    Hint,
}

impl Remote {
    /// What `topic` asks of the gateway; `None`: nothing.
    pub fn asked<'t>(&self, topic: &'t str) -> Option<Asked<'t>> {
        let text = topic.strip_prefix(self.head.as_deref()?)?;
        Some(match Verb::parse(text) {
            Some(verb) if self.allow.contains(&verb) => Asked::Allowed(verb),
            _ if self.hint.as_deref() == Some(topic) => Asked::Hint,
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

/// Words of keys whose values are secret.
const SECRETS: [&str; 5] = ["psk", "psk_text", "psk_hex", "key", "password"];

/// The device that a payload of `device/add` describes; `key` reads `sha256:` and 64 digits.
///
/// # Errors
/// What is wrong with it, for people.
pub fn new_device(payload: &[u8], key: impl Fn(&str) -> Option<[u8; 32]>) -> Result<Device, String> {
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(payload).map_err(|error| format!("the payload is no JSON object: {error}"))?;
    if let Some(secret) = SECRETS.iter().find(|secret| fields.contains_key(**secret)) {
        return Err(format!(
            "{secret}: no secret is taken over the broker; use a certificate or public_key, or `tombolo device \
             add` on the gateway"
        ));
    }
    let new: NewDevice = serde_json::from_value(fields.into())
        .map_err(|error| format!("the payload does not describe a device: {error}"))?;
    let name =
        |what: &str, text: &str| Name::parse(text).map_err(|error| format!("{what} {text:?}: {error}"));
    let (id, role) = (name("id", &new.id)?, name("role", &new.role)?);
    if id.as_str() == RESERVED_DEVICE {
        return Err(format!("the id {RESERVED_DEVICE:?} is reserved"));
    }
    if new.label.as_ref().is_some_and(|label| label.len() > 256 || label.contains(char::is_control)) {
        return Err("label: more than 256 bytes, or a control character".to_owned());
    }
    let issuer = new.certificate_issuer.as_deref().map(DistinguishedName::parse).transpose();
    let issuer = issuer.map_err(|error| format!("certificate_issuer: {error}"))?;
    let given = [
        (NameKind::Uri, &new.certificate_uri),
        (NameKind::Dns, &new.certificate_dns),
        (NameKind::CommonName, &new.certificate_cn),
    ];
    let mut given = given.into_iter().filter_map(|(kind, name)| Some((kind, name.as_deref()?)));
    let certificate = match (given.next(), given.next()) {
        (Some(_), Some(_)) => return Err("more than one certificate name; give one".to_owned()),
        (Some((kind, name)), None) => {
            let made = CertificateName::new(kind, name, issuer);
            Some(made.map_err(|error| format!("{}: {error}", kind.key()))?)
        }
        (None, _) => None,
    };
    let public_key = match new.public_key.as_deref() {
        Some(text) => Some(key(text).ok_or("public_key is sha256: and 64 hexadecimal digits")?),
        None => None,
    };
    if certificate.is_none() && public_key.is_none() {
        return Err("the device has neither a certificate name nor a public_key".to_owned());
    }
    Ok(Device { label: new.label, certificate, public_key, ..Device::new(id, role) })
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
        let asked = |remote: &Remote, verb: &str| {
            let topic = format!("tombolo/gw/gateway/down/{verb}");
            format!("{:?}", remote.asked(&topic).unwrap())
        };
        for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::UpdateCheck) {
            assert_eq!(asked(&none, verb.as_str()), format!("NotAllowed({:?})", verb.as_str()));
            assert_eq!(asked(&remote(&[verb]), verb.as_str()), format!("Allowed({verb:?})"));
        }
        assert_eq!(asked(&none, "update/check"), "Hint");
        assert_eq!(asked(&remote(&[Verb::UpdateCheck]), "update/check"), "Allowed(UpdateCheck)");
        assert_eq!(asked(&none, "reboot"), "Unknown(\"reboot\")");
        assert_eq!(none.asked("tombolo/gw/door-7/down/reload"), None);
        assert_eq!(Remote::default().asked("tombolo/gw/gateway/down/reload"), None);
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
            ("[]", "no JSON object"),
            ("", "no JSON object"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("text:secret"), "{error}");
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
