//! `tombolo device set`: changes what a device of the registry is, and what it is known by, but for
//! its secret keys.

use serde_json::json;

use super::change::apply;
use super::{add, password};
use crate::cli::args::DeviceSetArguments;
use crate::cli::error::CommandError;
use crate::cli::{Context, note};
use crate::config::certificate::format_key_hash;
use crate::config::scalar::parse_duration;
use crate::gate::certificate::{CertificateName, NameKind};
use crate::gate::settings::Device;
use crate::message::Name;
use crate::proto::dtls::server::DistinguishedName;

/// What a device is known by, as far as it is to be changed: `Some(None)` takes it away.
struct Proofs {
    /// The user name; `None`: its id.
    username: Option<Option<String>>,
    certificate: Option<Option<(NameKind, String)>>,
    /// The issuer; `None`: any.
    issuer: Option<Option<DistinguishedName>>,
    public_key: Option<Option<[u8; 32]>>,
}

impl Proofs {
    fn parse(arguments: &DeviceSetArguments) -> Result<Proofs, CommandError> {
        let username = match arguments.mqtt_username.as_deref() {
            None => None,
            Some("") => Some(None),
            Some(name) => {
                password::check_username(name)?;
                Some(Some(name.to_owned()))
            }
        };
        let issuer = match arguments.known_by.certificate_issuer.as_deref() {
            None => None,
            Some("") => Some(None),
            Some(text) => Some(Some(add::issuer(text)?)),
        };
        let certificate = match arguments.known_by.name() {
            None => None,
            Some((_, "")) => Some(None),
            Some((kind, name)) => {
                // Refused here, before anything is read.
                add::certificate_name(kind, name, None)?;
                Some(Some((kind, name.to_owned())))
            }
        };
        if certificate == Some(None) && matches!(issuer, Some(Some(_))) {
            return Err(CommandError::Usage(
                "--certificate-issuer needs a certificate, and an empty name takes it away".to_owned(),
            ));
        }
        let public_key = match arguments.known_by.public_key.as_deref() {
            None => None,
            Some("") => Some(None),
            Some(argument) => Some(Some(add::public_key(argument)?)),
        };
        Ok(Proofs { username, certificate, issuer, public_key })
    }

    fn is_changed(&self) -> bool {
        self.username.is_some()
            || self.certificate.is_some()
            || self.issuer.is_some()
            || self.public_key.is_some()
    }

    /// Changes those of the device.
    fn apply(self, device: &mut Device) -> Result<(), String> {
        if let Some(username) = self.username {
            let id = device.id.to_string();
            let Some(login) = &mut device.login else {
                return Err(format!(
                    "has no MQTT password for a user name; `tombolo device rekey {id} --password` gives it one"
                ));
            };
            login.username = username.unwrap_or(id);
        }
        if let Some(key) = self.public_key {
            device.public_key = key;
        }
        if self.certificate.is_some() || self.issuer.is_some() {
            device.certificate = changed_certificate(device, self.certificate, self.issuer)?;
        }
        let is_known = device.psks().next().is_some()
            || device.certificate.is_some()
            || device.public_key.is_some()
            || device.login.is_some()
            || !device.jwt_keys.is_empty()
            || device.parent.is_some();
        match is_known {
            true => Ok(()),
            false => Err(format!(
                "would have nothing left to be known by; give it something else with the same command, or switch it off \
                 with `tombolo device disable {}`",
                device.id
            )),
        }
    }
}

/// The certificate with another name, another issuer, or both.
fn changed_certificate(
    device: &Device,
    name: Option<Option<(NameKind, String)>>,
    issuer: Option<Option<DistinguishedName>>,
) -> Result<Option<CertificateName>, String> {
    let before = device.certificate.as_ref();
    let (kind, name) = match (name, before) {
        (Some(None), _) => return Ok(None),
        (Some(Some(name)), _) => name,
        (None, Some(before)) => (before.kind(), before.name().to_owned()),
        (None, None) => {
            return Err(
                "has no certificate that an issuer could be of; --certificate-dns, -uri or -cn names it"
                    .to_owned(),
            );
        }
    };
    let issuer = issuer.unwrap_or_else(|| before.and_then(|before| before.issuer().cloned()));
    let made = CertificateName::new(kind, &name, issuer);
    made.map(Some).map_err(|error| format!("cannot have the {} {name:?}: {error}", kind.key()))
}

/// Refuses what another command changes, with that command.
fn refuse_secrets(arguments: &DeviceSetArguments) -> Result<(), CommandError> {
    let id = &arguments.id;
    let others = [
        ("--psk", &arguments.psk, format!("`tombolo device rekey {id} --psk`")),
        (
            "--psk-identity",
            &arguments.psk_identity,
            format!("`tombolo device rekey {id} --psk --psk-identity TEXT`"),
        ),
        ("--password", &arguments.password, format!("`tombolo device rekey {id} --password`")),
        ("--jwt-key", &arguments.jwt_key, format!("`tombolo device key add {id} FILE`")),
    ];
    match others.into_iter().find(|(_, value, _)| value.is_some()) {
        Some((option, _, command)) => Err(CommandError::Usage(format!(
            "device set does not change keys: instead of {option} use {command}; nothing was changed"
        ))),
        None => Ok(()),
    }
}

/// `tombolo device set`
pub(super) fn run(context: &Context, arguments: DeviceSetArguments) -> Result<(), CommandError> {
    refuse_secrets(&arguments)?;
    let proofs = Proofs::parse(&arguments)?;
    let DeviceSetArguments { id, role, label, offline_after, parent, tags, .. } = arguments;
    let role = role.map(|text| add::name("role", &text)).transpose()?;
    let (is_moved, is_other_role) = (parent.is_some(), role.is_some());
    let is_known_by_else = proofs.is_changed();
    if let Some(label) = &label
        && (label.len() > add::LABEL_MAX || label.chars().any(char::is_control))
    {
        return Err(CommandError::Usage(format!(
            "--label takes at most {} bytes of text without control characters",
            add::LABEL_MAX
        )));
    }
    let parent = match parent.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(text) => Some(Some(add::name("device id", text)?)),
    };
    let offline_after = match offline_after.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(text) => Some(Some(parse_duration(text).filter(|span| !span.is_zero()).ok_or_else(|| {
            CommandError::Usage(format!("--offline-after: {text:?} is not a time; write it like 1h"))
        })?)),
    };
    let loaded = context.load_whole(&format!("device set {id}"))?;
    let (device, told) = apply(context, &loaded, &id, |entry| {
        let device = &mut entry.device;
        if let Some(role) = role {
            device.role = role;
        }
        if let Some(label) = label {
            device.label = Some(label).filter(|label| !label.is_empty());
        }
        if let Some(offline_after) = offline_after {
            device.offline_after = offline_after;
        }
        if let Some(parent) = parent {
            device.parent = parent;
        }
        for (name, value) in tags {
            device.tags.set(&name, &value).map_err(|error| error.to_string())?;
        }
        if is_known_by_else { proofs.apply(device) } else { Ok(()) }
    })?;
    if is_moved || is_other_role {
        loaded.mute_child(&device).into_iter().for_each(note);
    }
    if context.out.json {
        context.out.object(&told.with(json!({
            "id": id, "role": device.role.as_str(), "label": device.label,
            "tags": super::tag_entry(Some(&device.tags)), "parent": device.parent.as_ref().map(Name::as_str),
            "mqtt_username": device.login.as_ref().map(|login| login.username.as_str()),
            "certificate": device.certificate.as_ref().map(super::certificate),
            "public_key": device.public_key.as_ref().map(format_key_hash),
        })))?;
        return told.finish(context);
    }
    let running = match is_known_by_else {
        true => "in force now, and sessions of what it was known by are closed",
        false => "in force now",
    };
    let effect = told.effect(running);
    context.out.line(format_args!("changed {id} (role {}); {effect}", device.role))?;
    told.finish(context)
}
