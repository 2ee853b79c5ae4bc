//! `tombolo device`: who may speak. Works on the registry's files, so with and without the daemon.

use std::time::Instant;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::{DeviceAddArguments, DeviceCommand, DeviceNameArgument, DeviceShowArguments};
use super::error::CommandError;
use super::key::{from_argument, shell_word};
use super::output::{align, span};
use super::status::kind;
use super::{Context, note};
use crate::config::registry::io::{add, remove};
use crate::config::registry::key_text;
use crate::config::scalar::format_hex;
use crate::config::{DeviceSource, Known, Loaded, Settings};
use crate::control::io::client::{ANSWER, ClientError, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::control::snapshot::{Session, SessionPage};
use crate::gate::Gate;
use crate::gate::settings::{Device, Psk, Role};
use crate::message::{Lane, Method, Name};

/// Longest label, in bytes.
const LABEL_MAX: usize = 256;

/// Does what is asked.
///
/// # Errors
/// [`CommandError`], with the place of whatever stands in the way.
pub fn run(context: &Context, command: DeviceCommand) -> Result<(), CommandError> {
    match command {
        DeviceCommand::Add(arguments) => add_device(context, arguments),
        DeviceCommand::List => list(context),
        DeviceCommand::Show(arguments) => show(context, &arguments),
        DeviceCommand::Remove(DeviceNameArgument { id }) => remove_device(context, &id),
    }
}

fn name(what: &str, text: &str) -> Result<Name, CommandError> {
    Name::parse(text).map_err(|error| CommandError::Usage(format!("{text:?} is no {what}: {error}")))
}

fn add_device(context: &Context, arguments: DeviceAddArguments) -> Result<(), CommandError> {
    let id = name("device id", &arguments.id)?;
    let role = name("role", &arguments.role)?;
    if let Some(label) = &arguments.label
        && (label.is_empty() || label.len() > LABEL_MAX || label.chars().any(char::is_control))
    {
        return Err(CommandError::Usage(format!(
            "--label takes 1 to {LABEL_MAX} bytes of text without control characters"
        )));
    }
    let loaded = context.load()?;
    let key = from_argument(arguments.psk.as_deref().unwrap_or_default())?;
    let identity = arguments.psk_identity.unwrap_or_else(|| arguments.id.clone());
    let psk = Psk { identity: identity.clone().into_bytes(), key };
    let device = Device {
        id,
        role,
        label: arguments.label,
        psk: Some(psk),
        certificate: None,
        public_key: None,
        offline_after: None,
    };
    let file = add(&loaded, &device).map_err(|finding| CommandError::Failed(without_level(&finding)))?;
    let told = tell(context);
    let psk = device.psk.as_ref().map_or(&[][..], |psk| &psk.key);
    let text = key_text(psk);
    if context.out.json {
        let hex = Zeroizing::new(format_hex(psk));
        context.out.object(&json!({
            "id": device.id.as_str(),
            "role": device.role.as_str(),
            "psk_identity": identity,
            "psk_text": text,
            "psk_hex": *hex,
        }))?;
        return told.map(|_| ());
    }
    context.out.line(format_args!("added {} as {} in {}", device.id, device.role, file.display()))?;
    match text {
        Some(text) => {
            context.out.text(&align(&[
                vec!["identity".to_owned(), identity.clone()],
                vec!["key".to_owned(), text.to_owned()],
                vec!["as hex".to_owned(), format_hex(psk)],
            ]))?;
            context.out.line("try it, on any machine that reaches this one:")?;
            context
                .out
                .line(format_args!("  {}", coap_client(&loaded.settings, &device, &identity, text)))?;
        }
        None => {
            context.out.line(format_args!("identity {identity}, key as given: {} bytes", psk.len()))?;
            context
                .out
                .line("coap-client takes no key that is not printable text: try it with the device itself")?;
        }
    }
    match told? {
        Told::Reloaded => context.out.line("next: tombolo tail shows its readings as they come")?,
        Told::NotRunning => context.out.line(
            "next: systemctl start tombolo (it is not running), then tombolo tail shows its readings as they come",
        )?,
    }
    Ok(())
}

/// What the daemon knows of the change.
enum Told {
    /// It is in force.
    Reloaded,
    /// It will be at the next start.
    NotRunning,
}

/// Has the running daemon load its devices again.
fn tell(context: &Context) -> Result<Told, CommandError> {
    let told = context.daemon().and_then(|mut daemon| daemon.ask(&Request::Reload {}, SLOW_ANSWER));
    match told {
        Ok(_) => Ok(Told::Reloaded),
        Err(ClientError::NotRunning { .. }) => Ok(Told::NotRunning),
        Err(error) => Err(CommandError::Failed(format!(
            "the file is changed, but the running daemon has not taken it up: {error}; correct that, then `systemctl reload tombolo`"
        ))),
    }
}

/// A finding's text without its level: here it is the reason of a failure.
fn without_level(finding: &crate::config::Finding) -> String {
    let text = finding.to_string();
    text.split_once("  ").map_or(text.clone(), |(_, rest)| rest.trim_start().to_owned())
}

/// The line that sends a first reading, on a path the device's rules allow.
fn coap_client(settings: &Settings, device: &Device, identity: &str, key: &str) -> String {
    let (host, port) = address(settings);
    let role = settings.gate.roles.iter().find(|role| role.name == device.role);
    let path = role.and_then(|role| allowed_path(settings, device, role));
    let note = if path.is_none() { "   # no rule of its role allows anything yet" } else { "" };
    format!(
        "{} -m post -u {} -k {} -e 21.5 {}{note}",
        program(),
        shell_word(identity),
        shell_word(key),
        shell_word(&format!("coaps://{host}{port}/{}", path.as_deref().unwrap_or("t/temperature"))),
    )
}

/// As the program is called here: Debian has it once for each DTLS library.
fn program() -> &'static str {
    let names = ["coap-client", "coap-client-openssl", "coap-client-gnutls"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    names
        .into_iter()
        .find(|name| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
        .unwrap_or("coap-client")
}

/// A host and `:port` under which this gateway can be reached: a listening address if it is a certain one, else the host name.
fn address(settings: &Settings) -> (String, String) {
    let Some(listen) = settings.coap.listen.first() else {
        return ("HOST".to_owned(), String::new());
    };
    let port = if listen.port() == 5684 { String::new() } else { format!(":{}", listen.port()) };
    let ip = listen.ip();
    let host = if ip.is_unspecified() {
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "HOST".to_owned())
    } else if ip.is_ipv6() {
        format!("[{ip}]")
    } else {
        ip.to_string()
    };
    (host, port)
}

/// A path that the gate lets this device publish to: of the rules for ordinary readings if there is one, else of any.
fn allowed_path(settings: &Settings, device: &Device, role: &Role) -> Option<String> {
    let mut only = settings.gate.clone();
    only.devices = vec![device.clone()];
    let now = Instant::now();
    let gate = Gate::new(only, now);
    let mut rules: Vec<_> = role.uplink.iter().filter(|rule| !rule.deny).collect();
    rules.sort_by_key(|rule| (rule.lane != Lane::Normal, rule.retain));
    rules.into_iter().find_map(|rule| {
        let segments = rule.path.as_str().split('/').map(|level| match level {
            "+" => "1",
            "#" => "temperature",
            literal => literal,
        });
        let path = segments.collect::<Vec<_>>().join("/");
        gate.explain(now, device.id.as_str(), Method::Post, &path).allowed.then_some(path)
    })
}

fn remove_device(context: &Context, id: &str) -> Result<(), CommandError> {
    let loaded = context.load()?;
    let file = remove(&loaded, id).map_err(|finding| CommandError::Failed(without_level(&finding)))?;
    let told = tell(context)?;
    if context.out.json {
        return Ok(context.out.object(&json!({ "id": id, "removed": true }))?);
    }
    let effect = match told {
        Told::Reloaded => "its sessions have ended; what it had stored still goes to the broker",
        Told::NotRunning => "tombolo is not running",
    };
    Ok(context.out.line(format_args!("removed {id} ({}); {effect}", file.display()))?)
}

fn list(context: &Context) -> Result<(), CommandError> {
    let loaded = context.load()?;
    if context.out.json {
        for known in &loaded.known {
            context.out.object(&entry(known))?;
        }
        return Ok(());
    }
    if loaded.known.is_empty() {
        return Ok(context.out.line("no devices yet; next: tombolo device add ID --role ROLE --psk")?);
    }
    let words = ["id", "role", "identity", "from", "label"];
    let mut rows = vec![words.map(str::to_owned).to_vec()];
    for known in &loaded.known {
        let place = known.place.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        rows.push(vec![
            known.id.clone(),
            known.role.clone().unwrap_or_else(|| "?".to_owned()),
            known.psk_identity.as_deref().map_or("-".into(), String::from_utf8_lossy).into_owned(),
            match (known.source, known.usable) {
                (_, false) => format!("disabled: {place}"),
                (DeviceSource::Registry, true) => "registry".to_owned(),
                (DeviceSource::Configuration, true) => place,
            },
            known.label.clone().unwrap_or_default(),
        ]);
    }
    context.out.table(&rows)?;
    if loaded.known.iter().any(|known| !known.usable) {
        note("some are disabled; `tombolo check` says why");
    }
    Ok(())
}

fn show(context: &Context, arguments: &DeviceShowArguments) -> Result<(), CommandError> {
    let loaded = context.load()?;
    let known = known(&loaded, &arguments.id)?;
    let device = loaded.settings.gate.devices.iter().find(|device| device.id.as_str() == known.id);
    let psk = device.and_then(|device| device.psk.as_ref()).filter(|_| arguments.key);
    let sessions = sessions(context, &known.id);
    if context.out.json {
        let mut value = entry(known);
        value["sessions"] = json!(sessions);
        if let (Some(psk), Some(object)) = (psk, value.as_object_mut()) {
            object.insert("psk_text".to_owned(), key_text(&psk.key).into());
            object.insert("psk_hex".to_owned(), format_hex(&psk.key).into());
        }
        return Ok(context.out.object(&value)?);
    }
    let mut rows = Vec::new();
    let mut row = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            rows.push(vec![name.to_owned(), text]);
        }
    };
    row("id", Some(known.id.clone()));
    row("label", known.label.clone());
    row("role", known.role.clone());
    row(
        "identity",
        known.psk_identity.as_deref().map(|identity| String::from_utf8_lossy(identity).into_owned()),
    );
    row("key", psk.and_then(|psk| key_text(&psk.key)).map(str::to_owned));
    row("as hex", psk.map(|psk| format_hex(&psk.key)));
    row("from", known.place.as_ref().map(ToString::to_string));
    if !known.usable {
        row("disabled", Some("`tombolo check` says why".to_owned()));
    }
    for session in sessions.iter().flatten() {
        let (since, idle) = (span(session.since_s), span(session.idle_s));
        let peer = &session.peer;
        row("session", Some(format!("from {peer} for {since}, last heard {idle} ago, {}", kind(session))));
    }
    Ok(context.out.table(&rows)?)
}

/// Its DTLS sessions, as far as the daemon runs and lets us ask.
fn sessions(context: &Context, id: &str) -> Option<Vec<Session>> {
    let request = Request::Sessions { device: Some(id.to_owned()) };
    let answer = context.daemon().and_then(|mut daemon| daemon.ask(&request, ANSWER)).ok()?;
    serde_json::from_value::<SessionPage>(answer).ok().map(|page| page.sessions)
}

fn known<'l>(loaded: &'l Loaded, id: &str) -> Result<&'l Known, CommandError> {
    loaded.known(id).ok_or_else(|| {
        let ids = loaded.known.iter().map(|known| known.id.as_str());
        let advice = match crate::config::scalar::did_you_mean(id, ids) {
            Some(near) => format!("did you mean {near}?"),
            None => "`tombolo device list` names all".to_owned(),
        };
        CommandError::Failed(format!("there is no device {id}; {advice}"))
    })
}

fn entry(known: &Known) -> Value {
    json!({
        "id": known.id,
        "role": known.role,
        "label": known.label,
        "psk_identity": known.psk_identity.as_deref().map(String::from_utf8_lossy),
        "source": match known.source {
            DeviceSource::Registry => "registry",
            DeviceSource::Configuration => "configuration",
        },
        "place": known.place.as_ref().map(ToString::to_string),
        "usable": known.usable,
    })
}
