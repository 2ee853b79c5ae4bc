//! `tombolo device add`: adds a device with a key, a certificate or a public key, and prints what
//! it needs to connect.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::client::{self, Proof};
use super::password;
use super::{tell, without_level};
use crate::cli::args::{DeviceAddArguments, DeviceCertificateArguments};
use crate::cli::error::CommandError;
use crate::cli::key::{PSK_MIN, Weakness, from_argument, weakness};
use crate::cli::output::{Gone, align, plural};
use crate::cli::{Context, note};
use crate::config::certificate::{self, format_key_hash, parse_key_hash};
use crate::config::registry::io::add;
use crate::config::registry::key_text;
use crate::config::scalar::{PSK_IDENTITY_MAX, format_hex, format_psk_identity, parse_psk_identity};
use crate::config::{DeviceSource, Known, Loaded, Settings};
use crate::gate::certificate::{CertificateName, NameKind};
use crate::gate::settings::{Device, Psk};
use crate::gate::tag::Tags;
use crate::message::Name;
use crate::proto::dtls::server::DistinguishedName;
use crate::proto::dtls::server::bundle::public_key_hash;

/// What makes a key on the command line.
pub(super) const OPTION_MAKES: &str = "--psk without a value";
/// Longest label, in bytes.
pub(super) const LABEL_MAX: usize = 256;
/// Largest file with a public key, in bytes.
const PUBLIC_KEY_FILE_MAX: u64 = 64 << 10;

pub(super) fn name(what: &str, text: &str) -> Result<Name, CommandError> {
    Name::parse(text).map_err(|error| CommandError::Usage(format!("{text:?} is not a {what}: {error}")))
}

/// Adds the device and prints what it needs to connect.
///
/// # Errors
/// [`CommandError`], with the place of the conflict.
pub(super) fn run(context: &Context, arguments: DeviceAddArguments) -> Result<(), CommandError> {
    let id = name("device id", &arguments.id)?;
    let role = name("role", &arguments.role)?;
    if let Some(label) = &arguments.label
        && (label.is_empty() || label.len() > LABEL_MAX || label.chars().any(char::is_control))
    {
        return Err(CommandError::Usage(format!(
            "--label takes 1 to {LABEL_MAX} bytes of text without control characters"
        )));
    }
    let parent = arguments.parent.as_deref().map(|text| name("device id", text)).transpose()?;
    let loaded = context.load_whole("device add")?;
    let is_of_files = |known: &Known| known.switched_off && known.source == DeviceSource::Configuration;
    if loaded.known(id.as_str()).is_none_or(is_of_files)
        && loaded.settings.gate.withheld.ids.contains(&id)
        && let Some(place) = loaded.place(&["device", id.as_str(), "enabled"])
    {
        return Err(CommandError::Failed(format!(
            "{place} switches off the device {id} (enabled = false); take [device.{id}] out there, or use another id"
        )));
    }
    let psk = match arguments.psk.as_deref() {
        Some(key) => {
            let identity = match &arguments.psk_identity {
                // As in a configuration file.
                Some(text) => parse_psk_identity(text).ok_or_else(|| {
                    CommandError::Usage(format!(
                        "--psk-identity takes 1 to {PSK_IDENTITY_MAX} bytes of text, or hex: and two hexadecimal digits for each"
                    ))
                })?,
                None => arguments.id.clone().into_bytes(),
            };
            Some(Psk { identity, key: from_argument(key)? })
        }
        None => None,
    };
    let certificate = certificate(&arguments.known_by)?;
    let public_key = arguments.known_by.public_key.as_deref().map(public_key).transpose()?;
    let (login, password) = match arguments.password.as_deref() {
        Some(argument) => {
            let username = arguments.mqtt_username.as_deref().unwrap_or(&arguments.id);
            let (login, password) = password::login(username, argument)?;
            (Some(Box::new(login)), Some(password))
        }
        None => (None, None),
    };
    let jwt_keys = match &arguments.jwt_key {
        Some(file) => vec![super::token_key::public(file, None)?],
        None => Vec::new(),
    };
    let mut tags = Tags::default();
    for (name, value) in &arguments.tags {
        tags.set(name, value).map_err(|error| CommandError::Usage(format!("--tag: {error}")))?;
    }
    let device = Device {
        label: arguments.label,
        tags,
        psk,
        certificate,
        public_key,
        login,
        jwt_keys,
        parent,
        ..Device::new(id, role)
    };
    let file = add(&loaded, &device).map_err(|finding| CommandError::Failed(without_level(&finding)))?;
    let short_key = device.psk.as_ref().and_then(|psk| weak(&psk.key, OPTION_MAKES));
    let short_password = password.as_ref().and_then(|password| password::short(password));
    short_key.into_iter().chain(short_password).for_each(note);
    loaded.mute_child(&device).into_iter().for_each(note);
    let told = tell(context);
    let shown = format!("device show {} --key", device.id);
    if context.out.json {
        let mut object = in_json(&device);
        if let (Some(login), Some(password)) = (&device.login, &password) {
            object["mqtt_username"] = login.username.as_str().into();
            object["password"] = password.as_str().into();
            object["password_hash"] = login.password.to_string().into();
        }
        complete(&mut object, &device);
        let object = told.as_ref().map_or_else(|_| object.clone(), |told| told.with(object.clone()));
        context.out.object(&object)?;
        if device.certificate.is_some() || device.public_key.is_some() {
            let runs = told.as_ref().is_ok_and(|told| told.reload.is_some());
            lacking(context, &loaded, &device, runs).into_iter().for_each(note);
        }
        return told?.finish(context);
    }
    let added = format!("added {} as {} in {}", device.id, device.role, file.display());
    // Run again, it would be refused, and the key would be unknown.
    let unsaid = |gone: Gone| {
        note(format_args!("{added}, but that could not be shown; `{}` has it", context.hint(&shown)));
        gone
    };
    context.out.line(&added).map_err(unsaid)?;
    if let Some(parent) = &device.parent {
        let told = format!("{parent} sends its readings to the paths ~{}/…", device.id);
        context.out.line(told)?;
    }
    say_psk(context, &loaded.settings, &device)?;
    let runs = told.as_ref().is_ok_and(|told| told.reload.is_some());
    say_certificate(context, &loaded, &device, runs)?;
    if let (Some(login), Some(password)) = (&device.login, &password) {
        let is_served = !told.as_ref().is_ok_and(super::Told::lacks_mqtt);
        match is_served {
            true => password::say(context, &loaded.settings, &device, &login.username, password)?,
            false => password::say_values(context, &login.username, password)?,
        }
    }
    for key in &device.jwt_keys {
        let settings = &loaded.settings;
        let audience = settings.mqtt.jwt_audience.as_deref().unwrap_or(settings.gateway.id.as_str());
        context.out.line(format_args!(
            "token key {}, {}: the password is a JSON Web Token with aud {audience:?}, iat and exp (24 hours at most), the \
             client id is {}",
            format_key_hash(&key.hash()),
            key.algorithm.as_str(),
            device.id
        ))?;
    }
    let role = loaded.settings.gate.roles.iter().find(|role| role.name == device.role);
    // One that only receives has no readings.
    let has_readings = role.is_some_and(|role| role.uplink.iter().any(|rule| !rule.deny));
    let shows = match has_readings {
        true => format!("{} shows its readings as they come", context.hint("tail")),
        false => {
            format!("{} shows whether it has connected", context.hint(&format!("device show {}", device.id)))
        }
    };
    let told = told?;
    match told.reload {
        Some(_) => context.out.line(format_args!("next: {shows}"))?,
        None => context
            .out
            .line(format_args!("next: {} (it is not running), then {shows}", context.start_hint()))?,
    }
    told.finish(context)
}

/// The warning about a key that may be guessed. `maker`: what makes a better one.
pub(super) fn weak(key: &[u8], maker: &str) -> Option<String> {
    let what = match weakness(key)? {
        Weakness::Short(length) => format!("has only {}", plural(length as u64, "byte")),
        Weakness::Repeated(1) => "is one character, repeated".to_owned(),
        Weakness::Repeated(period) => format!("is {period} characters, repeated"),
        Weakness::Sequence => "is a sequence, or a common word with digits".to_owned(),
        Weakness::Few(count) => format!("has only {count} different bytes"),
    };
    Some(format!(
        "the key {what}: it may be guessed; use {PSK_MIN} random bytes or more, as {maker} makes them"
    ))
}

/// Parses the value of `--certificate-issuer`.
pub(super) fn issuer(text: &str) -> Result<DistinguishedName, CommandError> {
    DistinguishedName::parse(text).map_err(|error| {
        CommandError::Usage(format!(
            "--certificate-issuer: {error}; write it as `openssl x509 -noout -issuer` prints it after \"issuer=\""
        ))
    })
}

/// The name of a certificate, from the value of the option of its kind.
pub(super) fn certificate_name(
    kind: NameKind,
    name: &str,
    issuer: Option<DistinguishedName>,
) -> Result<CertificateName, CommandError> {
    CertificateName::new(kind, name, issuer)
        .map_err(|error| CommandError::Usage(format!("--{} {name:?}: {error}", kind.key())))
}

fn certificate(arguments: &DeviceCertificateArguments) -> Result<Option<CertificateName>, CommandError> {
    let issuer = arguments.certificate_issuer.as_deref().map(issuer).transpose()?;
    let Some((kind, name)) = arguments.name() else { return Ok(None) };
    certificate_name(kind, name, issuer).map(Some)
}

/// Parses a hash, or computes that of the key in a file.
pub(super) fn public_key(argument: &str) -> Result<[u8; 32], CommandError> {
    if argument.starts_with("sha256:") {
        return parse_key_hash(argument).ok_or_else(|| {
            CommandError::Usage("--public-key: after sha256: stand 64 hexadecimal digits".to_owned())
        });
    }
    let failed = |why: &dyn std::fmt::Display| CommandError::Failed(format!("--public-key {argument} {why}"));
    let mut bytes = Vec::new();
    std::fs::File::open(argument)
        .and_then(|file| file.take(PUBLIC_KEY_FILE_MAX).read_to_end(&mut bytes))
        .map_err(|error| failed(&format_args!("cannot be read: {error}")))?;
    certificate::public_key(&bytes).map_err(|error| failed(&error))
}

/// What `device import` needs besides to make the same device of the object.
fn complete(object: &mut Value, device: &Device) {
    if let Some(label) = &device.label {
        object["label"] = label.as_str().into();
    }
    if !device.tags.is_empty() {
        object["tags"] = super::tag_entry(Some(&device.tags));
    }
    if let [key] = &device.jwt_keys[..] {
        object["jwt_key"] = STANDARD.encode(key.info()).into();
    }
}

pub(super) fn in_json(device: &Device) -> Value {
    let mut object = json!({ "id": device.id.as_str(), "role": device.role.as_str() });
    if let Some(psk) = &device.psk {
        let hex = Zeroizing::new(format_hex(&psk.key));
        object["psk_identity"] = format_psk_identity(&psk.identity).into();
        object["psk_text"] = key_text(&psk.key).into();
        object["psk_hex"] = hex.as_str().into();
    }
    if let Some(name) = &device.certificate {
        object["certificate"] = super::certificate(name);
    }
    if let Some(key) = &device.public_key {
        object["public_key"] = format_key_hash(key).into();
    }
    if let Some(parent) = &device.parent {
        object["parent"] = parent.as_str().into();
    }
    if !device.jwt_keys.is_empty() {
        object["jwt_keys"] = device.jwt_keys.iter().map(super::token_key::key_entry).collect();
    }
    object
}

pub(super) fn say_psk(context: &Context, settings: &Settings, device: &Device) -> Result<(), CommandError> {
    let Some(psk) = &device.psk else { return Ok(()) };
    let identity = format_psk_identity(&psk.identity);
    // One that has to be written in hexadecimal is no argument of coap-client.
    let is_text = psk.identity == identity.as_bytes();
    match key_text(&psk.key) {
        Some(key) if is_text => {
            context.out.text(&align(&[
                vec!["identity".to_owned(), identity.clone()],
                vec!["key".to_owned(), key.to_owned()],
                vec!["as hex".to_owned(), format_hex(&psk.key)],
            ]))?;
            context.out.line(format_args!(
                "try it, on {} (Debian package libcoap3-bin); 2.04 is success:",
                client::machines(settings)
            ))?;
            let line = client::line(settings, device, Proof::Psk { identity: &identity, key });
            context.out.line(format_args!("  {line}"))?;
        }
        Some(key) => {
            context.out.line(format_args!("identity {identity}, key {key}"))?;
            context
                .out
                .line("coap-client accepts only an identity of text: test it with the device itself")?;
        }
        None => {
            say_psk_values(context, device)?;
            context.out.line(format_args!(
                "coap-client accepts only keys of printable text, and these are {}: test it with the device itself",
                plural(psk.key.len() as u64, "byte")
            ))?;
        }
    }
    Ok(())
}

/// Prints the identity and the key, without a line that would use them.
pub(super) fn say_psk_values(context: &Context, device: &Device) -> Result<(), CommandError> {
    let Some(psk) = &device.psk else { return Ok(()) };
    let mut rows = vec![vec!["identity".to_owned(), format_psk_identity(&psk.identity)]];
    rows.extend(key_text(&psk.key).map(|key| vec!["key".to_owned(), key.to_owned()]));
    rows.push(vec!["as hex".to_owned(), format_hex(&psk.key)]);
    Ok(context.out.text(&align(&rows))?)
}

/// Prints what a device with a certificate or a public key needs, and what the gateway lacks for
/// it. `runs`: the gateway is running.
fn say_certificate(
    context: &Context,
    loaded: &Loaded,
    device: &Device,
    runs: bool,
) -> Result<(), CommandError> {
    let (settings, material) = (&loaded.settings, &loaded.certificates);
    let mut rows = Vec::new();
    if let Some(name) = &device.certificate {
        rows.push(vec!["certificate".to_owned(), name.to_string()]);
    }
    if let Some(key) = &device.public_key {
        rows.push(vec!["public key".to_owned(), format_key_hash(key)]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let own = material.key.as_ref().and_then(|key| public_key_hash(key.public_key()).ok());
    if let Some(own) = &own {
        rows.push(vec!["this gateway's key".to_owned(), format_key_hash(own)]);
    }
    context.out.text(&align(&rows))?;
    let lacks = lacking(context, loaded, device, runs);
    let try_it = match lacks {
        Some(_) => "when that is done, try it",
        None => "try it",
    };
    // Before the line that would fail.
    lacks.into_iter().for_each(note);
    if device.certificate.is_some() {
        context.out.line(
            "the device needs a certificate of that name from a CA in coap.client-ca-file, its key, and the CA of coap.certificate-file to know this gateway by",
        )?;
        context.out.line(format_args!(
            "{try_it}, on {} (Debian package libcoap3-bin); 2.04 is success:",
            client::machines(settings)
        ))?;
        context.out.line(format_args!("  {}", client::line(settings, device, Proof::Certificate)))?;
    } else {
        context.out.line(
            "the device shows this key alone (RFC 7250) or in a certificate from a CA in coap.client-ca-file, and knows this gateway by its key: `openssl pkey -pubout -in KEY` prints it, with the file of coap.key-file as KEY",
        )?;
        let proof = Proof::PublicKey { ca: !material.chain.is_empty() };
        context.out.line(format_args!(
            "{try_it}, on {}; coap-client wants the key in a file that begins with \"BEGIN EC PRIVATE KEY\", which is SEC 1 form \
             (`openssl ec -in KEY -out KEY.sec1` makes it of any other):",
            client::machines(settings)
        ))?;
        context.out.line(format_args!("  {}", client::line(settings, device, proof)))?;
    }
    Ok(())
}

/// All that `[coap]` lacks for a device with a certificate or a public key, and what to do. `runs`:
/// the gateway is running.
fn lacking(context: &Context, loaded: &Loaded, device: &Device, runs: bool) -> Option<String> {
    let (material, config) = (&loaded.certificates, &context.options().config);
    // What cannot be used is not taken up by a reload: the pair before stays in use.
    let is_kept = material.key_fault && runs;
    let is_set = |key: &str| loaded.place(&["coap", key]).is_some();
    if material.key_fault && is_set("key-file") {
        let then = match is_kept {
            true => "the running gateway goes on with those it had before, if it had any",
            false => "no device can connect with a certificate or public key",
        };
        let (files, check) = ("coap.key-file and coap.certificate-file", context.hint("check"));
        return Some(format!("{files} cannot be used, so {then}; `{check}` says why"));
    }
    let beside = |name: &str| config.with_file_name(name).display().to_string();
    let (has_key, is_certificate) = (material.key.is_some(), device.certificate.is_some());
    let mut lacks = Vec::new();
    if !has_key {
        let file = beside("gateway.key");
        let made = crate::cli::key::shell_word(&file);
        lacks.push(format!(
            "key-file = {file:?}, readable to the gateway's user alone (`openssl ecparam -name prime256v1 -genkey -noout \
             -out {made}` makes one)"
        ));
    }
    // That of a certificate without a key is not kept.
    let has_chain = !material.chain.is_empty() || material.key_fault && is_set("certificate-file");
    if is_certificate && !has_chain {
        let file = beside("gateway.pem");
        lacks.push(format!(
            "certificate-file = {file:?}, a certificate of that key from a CA that the devices trust, without which they \
             cannot verify this gateway"
        ));
    }
    if is_certificate && material.authorities.anchors.is_empty() {
        let file = beside("devices-ca.pem");
        lacks.push(format!(
            "client-ca-file = {file:?}, the CA of the devices' certificates, without which none can be verified"
        ));
    }
    let names: Vec<String> =
        lacks.iter().filter_map(|lack| Some(format!("coap.{}", lack.split_once(" = ")?.0))).collect();
    let is = if names.len() == 1 { "is" } else { "are" };
    let what = match (has_key, is_kept) {
        (true, _) => "",
        (false, true) => {
            ": until then the running gateway goes on with the key that it had before, if it had any"
        }
        (false, false) => ": no device can connect with a certificate or public key until then",
    };
    (!lacks.is_empty()).then(|| {
        format!(
            "{} {is} missing{what}; below [coap] in {} set: {}; then `{}`",
            names.join(", "),
            context.config.display(),
            lacks.join("; "),
            context.hint("reload")
        )
    })
}
