//! `tombolo device`: lists, changes and tests devices. It works on the registry's files, with or
//! without the daemon; what runs is asked from the daemon.

mod add;
mod change;
mod client;
mod import;
mod password;
pub mod running;
mod set;
mod test;
mod token_key;
mod withdraw;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{DeviceCommand, DeviceNameArgument, DeviceShowArguments};
use super::error::CommandError;
use super::output::{patiently, span};
use super::status::kind;
use super::{Context, note, reload};
use crate::config::certificate::format_key_hash;
use crate::config::registry::credentials::format_time;
use crate::config::registry::io::remove;
use crate::config::registry::key_text;
use crate::config::scalar::{format_hex, format_psk_identity};
use crate::config::{DeviceSource, Known, Loaded};
use crate::control::io::client::{ANSWER, ClientError, SLOW_ANSWER};
use crate::control::protocol::{Code, Failure, Request};
use crate::control::snapshot::{DeviceState, Session, SessionPage};
use crate::daemon::fleets;
use crate::durable::io::is_denied;
use crate::gate::Device;
use crate::gate::certificate::{CertificateName, NameKind};
use crate::gate::tag::Tags;
use crate::message::Name;

/// Runs the command.
///
/// # Errors
/// [`CommandError`], with the place of the conflict.
pub fn run(context: &Context, command: DeviceCommand) -> Result<(), CommandError> {
    match command {
        DeviceCommand::Add(arguments) => add::run(context, *arguments),
        DeviceCommand::List(arguments) if arguments.key_age => change::key_age(context),
        DeviceCommand::List(_) => list(context),
        DeviceCommand::Set(arguments) => set::run(context, *arguments),
        DeviceCommand::Enable(DeviceNameArgument { id }) => change::enable(context, &id, true),
        DeviceCommand::Disable(DeviceNameArgument { id }) => change::enable(context, &id, false),
        DeviceCommand::Rekey(arguments) => change::rekey(context, arguments),
        DeviceCommand::Key(command) => change::key(context, command),
        DeviceCommand::Import(arguments) => import::run(context, &arguments),
        DeviceCommand::Keygen(arguments) => import::keygen(context, &arguments),
        DeviceCommand::Show(arguments) => show(context, &arguments),
        DeviceCommand::Test(arguments) => test::run(context, arguments),
        DeviceCommand::Remove(DeviceNameArgument { id }) => remove_device(context, &id),
    }
}

/// What became of a change.
struct Told {
    /// The running daemon's answer to the reload: the change is in force. `None`: it does not run,
    /// and the change takes effect at the next start.
    reload: Option<Value>,
    /// Why the device cannot connect all the same.
    stays_off: Option<String>,
}

impl Told {
    /// What to say of it where `running` is what a running daemon makes of the change.
    fn effect(&self, running: &str) -> String {
        match (&self.reload, &self.stays_off) {
            (Some(_), None) => running.to_owned(),
            (Some(_), Some(off)) => off.clone(),
            (None, None) => NOT_RUNNING.to_owned(),
            (None, Some(off)) => format!("{NOT_RUNNING}, and {off}"),
        }
    }

    /// What else had changed in the configuration: its keys.
    fn also(&self) -> Vec<&str> {
        let keys = self.reload.iter().filter_map(|answer| answer.get("changed")?.as_array());
        keys.flatten().filter_map(Value::as_str).collect()
    }

    /// Whether an address for MQTT clients is not served, so that another program may answer there.
    fn lacks_mqtt(&self) -> bool {
        let addresses = self.reload.iter().filter_map(|answer| answer.get("mqtt")?.as_array());
        addresses.flatten().next().is_some()
    }

    /// The change as an object, with what else the reload took up, and what of it is not in force.
    fn with(&self, mut object: Value) -> Value {
        let also = self.also();
        if !also.is_empty() {
            object[ALSO_CHANGED] = json!(also);
        }
        if let Some(off) = &self.stays_off {
            object["stays_off"] = json!(off);
        }
        if let Some(answer) = &self.reload
            && (!reload::not_in_force(answer).is_empty() || reload::problems(answer).next().is_some())
        {
            object[RELOAD] = answer.clone();
        }
        object
    }

    /// Ends the command as `tombolo reload` ends, after the change itself was said.
    fn finish(&self, context: &Context) -> Result<(), CommandError> {
        let Some(answer) = self.reload.as_ref().filter(|answer| answer.is_object()) else { return Ok(()) };
        // Where nothing else was taken up there is no trial of it to wait for.
        let within = if self.also().is_empty() { Duration::ZERO } else { reload::TRIAL_WITHIN };
        let asked = context.daemon().and_then(|mut daemon| reload::certificates(answer, &mut daemon, within));
        let mut faults = asked.unwrap_or_else(|error| {
            vec![format!("whether its certificates are in use is not known: {error}")]
        });
        faults.extend(reload::not_in_force(answer));
        match faults.is_empty() {
            true => Ok(()),
            false => {
                Err(CommandError::Partly(format!("the gateway has reloaded, but {}", faults.join("; "))))
            }
        }
    }
}

/// The key of the object that has what else the reload took up.
const ALSO_CHANGED: &str = "also_changed";
/// The key of the object that has the answer to the reload, where something is not in force.
const RELOAD: &str = "reload";

const NOT_RUNNING: &str = "tombolo is not running";

/// Why a device of the registry cannot connect whatever its own file says, by the configuration as
/// it is now.
fn stays_off(context: &Context, id: &str) -> Option<String> {
    let loaded = context.load_whole(&format!("device show {id}")).ok()?;
    let known = loaded.known(id)?;
    if known.usable {
        let is_other = known.source == DeviceSource::Configuration && loaded.registry.has_file(id);
        let place = known.place.as_ref().filter(|_| is_other)?;
        return Some(format!("the device of the same id at {place} is in use instead"));
    }
    if known.switched_off {
        return Some(match loaded.place(&["device", id, "enabled"]) {
            Some(place) => format!(
                "it stays switched off by {place} (enabled = false); take [device.{id}] out there, then `{}`",
                context.hint("reload")
            ),
            None => {
                let enable = context.hint(&format!("device enable {id}"));
                format!("it stays disabled until `{enable}`")
            }
        });
    }
    let check = context.hint("check");
    Some(match loaded.disabling(id) {
        Some(finding) => format!("a fault disables it: {}; `{check}` shows all", finding.sentence()),
        None => format!("a fault disables it; `{check}` says why"),
    })
}

/// Makes the running daemon reload.
fn tell(context: &Context) -> Result<Told, CommandError> {
    take_up(context).map_err(|why| {
        CommandError::Failed(format!(
            "the file is changed, but the running daemon has not taken it up: {why}"
        ))
    })
}

/// As [`tell`], after a device was disabled or removed: the daemon cuts it off even if it refuses
/// the configuration, which is a warning then.
fn tell_withdrawn(context: &Context, id: &str) -> Result<Told, CommandError> {
    take_up(context).or_else(|why| match running::ask(context, Some(id)) {
        Err(ClientError::Failed(Failure { code: Code::NotFound, .. })) => {
            note(format_args!("the gateway goes on with the configuration it has, without {id}: {why}"));
            Ok(Told { reload: Some(Value::Null), stays_off: None })
        }
        _ => Err(CommandError::Failed(format!(
            "the file is changed, but the running daemon has not taken it up: {why}"
        ))),
    })
}

/// Has the running daemon reload; why it does not, and what there is to do. What it takes up beside
/// the registry is said: somebody may be at work on those files.
fn take_up(context: &Context) -> Result<Told, String> {
    let ask = || context.daemon().and_then(|mut daemon| daemon.ask(&Request::Reload {}, SLOW_ANSWER));
    let told = patiently("waiting for the running gateway to take it up", ask);
    match told {
        Ok(answer) => {
            let told = Told { reload: Some(answer), stays_off: None };
            let also = told.also();
            if !also.is_empty() {
                note(format_args!(
                    "the gateway has reloaded, and its other files had changed too: {} there now, or gone",
                    are_named(&also)
                ));
            }
            if !context.out.json {
                told.reload.iter().flat_map(reload::problems).for_each(note);
            }
            Ok(told)
        }
        Err(ClientError::NotRunning { .. }) => Ok(Told { reload: None, stays_off: None }),
        Err(error) => {
            let text = error.to_string();
            // Where only a restart helps, it is said.
            let then = match text.contains("systemctl restart tombolo") {
                true => String::new(),
                false => format!("; correct that, then `{}`", context.hint("reload")),
            };
            Err(format!("{text}{then}"))
        }
    }
}

/// At most [`KEYS_NAMED`] keys, and how many more there are.
fn are_named(keys: &[&str]) -> String {
    let named = keys[..keys.len().min(KEYS_NAMED)].join(", ");
    match keys.len().saturating_sub(KEYS_NAMED) {
        0 if keys.len() == 1 => format!("{named} is taken over as it is"),
        0 => format!("{named} are taken over as they are"),
        more => format!("{named} and {more} more are taken over as they are"),
    }
}

/// Most keys that are named of what else a reload took up.
const KEYS_NAMED: usize = 8;

/// A finding's text without its level, as the reason of a failure.
fn without_level(finding: &crate::config::Finding) -> String {
    let text = finding.to_string();
    text.split_once("  ").map_or(text.clone(), |(_, rest)| rest.trim_start().to_owned())
}

fn remove_device(context: &Context, id: &str) -> Result<(), CommandError> {
    let loaded = match context.load_whole(&format!("device remove {id}")) {
        Err(CommandError::Configuration(faults)) => {
            return withdraw::run(context, id, withdraw::Act::Remove, faults);
        }
        loaded => loaded?,
    };
    let stored = || of_fleets(&loaded).into_iter().find(|(known, _)| known.id == id);
    // One that was seen a moment ago is not in the file yet.
    let seen = || running::ask(context, Some(id)).ok()?.remove(id)?.fleet;
    let fleet = match loaded.known(id) {
        Some(_) => None,
        None => stored().map(|(_, fleet)| fleet.to_string()).or_else(seen),
    };
    if let Some(fleet) = fleet {
        return Err(CommandError::Failed(format!(
            "{id} belongs to fleet {fleet}; revoke its certificate, or add [device.{id}] with enabled = false and reload"
        )));
    }
    let file = remove(&loaded, id).map_err(|finding| CommandError::Failed(without_level(&finding)))?;
    let told = tell_withdrawn(context, id)?;
    // What the configuration still has of it is named with its file and line.
    let subject = format!("device {id}");
    let left = context.load_whole(&format!("device remove {id}")).map(|loaded| loaded.findings);
    for finding in left.iter().flatten().filter(|finding| finding.subject == subject) {
        note(finding);
    }
    if context.out.json {
        context.out.object(&told.with(json!({ "id": id, "removed": true })))?;
        return told.finish(context);
    }
    let effect = told.effect("its sessions are closed; its stored readings are still sent to the broker");
    context.out.line(format_args!("removed {id} ({}); {effect}", file.display()))?;
    told.finish(context)
}

/// Whether the registry can be read by this user: a list without it would be a wrong one.
fn readable(loaded: &Loaded) -> Result<(), String> {
    let folder = loaded.settings.paths.devices();
    let denied = std::fs::read_dir(&folder)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        .then_some(folder);
    // A single file of it, or another part of the state, is enough for the load to leave it out.
    match denied.as_ref().or(loaded.state.closed.as_ref()) {
        Some(closed) => {
            Err(format!("{}: the devices cannot be read by this user: use sudo", closed.display()))
        }
        None => Ok(()),
    }
}

/// What is configured, if this user may read it all.
enum Files {
    Read(Box<Loaded>),
    /// Why not.
    Closed(String),
}

fn files(context: &Context) -> Result<Files, CommandError> {
    if is_denied(&context.config) {
        let text = format!("{}: it cannot be read by this user: use sudo", context.config.display());
        return Ok(Files::Closed(text));
    }
    let loaded = context.load()?;
    Ok(match readable(&loaded) {
        Ok(()) => Files::Read(Box::new(loaded)),
        Err(error) => Files::Closed(error),
    })
}

fn list(context: &Context) -> Result<(), CommandError> {
    match files(context)? {
        Files::Read(loaded) => list_files(context, &loaded),
        Files::Closed(why) => {
            let running = running::ask(context, None).map_err(|error| running::neither(&why, &error))?;
            list_running(context, &running)
        }
    }
}

/// The list where only the daemon can be asked.
fn list_running(context: &Context, running: &BTreeMap<String, DeviceState>) -> Result<(), CommandError> {
    if context.out.json {
        return running.values().try_for_each(|state| Ok(context.out.object(&running::entry(state))?));
    }
    if running.is_empty() {
        return Ok(context.out.line("the running gateway has no devices")?);
    }
    let words = ["id", "role", "state", "last seen", "delivered", "refused", "label"];
    let mut rows = vec![words.map(str::to_owned).to_vec()];
    for state in running.values() {
        let mut row = vec![state.id.clone(), state.role.clone()];
        row.extend(of_running(Some(state)));
        row.push(state.label.clone().unwrap_or_default());
        rows.push(row);
    }
    context.out.table(&rows)?;
    note("as the running daemon has them: the files cannot be read by this user");
    Ok(())
}

/// The columns of what runs.
fn of_running(state: Option<&DeviceState>) -> [String; 4] {
    match state {
        Some(state) => {
            let [word, ago] = running::seen(state);
            [word, ago, state.delivered.to_string(), state.refused.to_string()]
        }
        None => ["-"; 4].map(str::to_owned),
    }
}

fn list_files(context: &Context, loaded: &Loaded) -> Result<(), CommandError> {
    let made = of_fleets(loaded);
    // If it is not there, not ours to ask, or older than this command, the files say enough.
    let mut running = running::ask(context, None).ok();
    if context.out.json {
        let known = loaded.known.iter().map(|known| (known.id.as_str(), entry(known)));
        let made = made.iter().map(|(known, fleet)| (known.id.as_str(), fleet_entry(known, fleet)));
        for (id, mut value) in known.chain(made) {
            if let Some(state) = running.as_mut().and_then(|running| running.remove(id)) {
                running::add_to(&mut value, &state);
            }
            context.out.object(&value)?;
        }
        let mut others = running.iter().flat_map(BTreeMap::values);
        return others.try_for_each(|state| Ok(context.out.object(&running::entry(state))?));
    }
    if loaded.known.is_empty() && made.is_empty() && running.as_ref().is_none_or(BTreeMap::is_empty) {
        let next = context.hint("device add ID --role ROLE --psk");
        return Ok(context.out.line(format_args!("no devices yet; next: {next}"))?);
    }
    let mut words = ["id", "role", "known by", "from"].map(str::to_owned).to_vec();
    if running.is_some() {
        words.extend(["state", "last seen", "delivered", "refused"].map(str::to_owned));
    }
    words.push("label".to_owned());
    let mut rows = vec![words];
    let mut row = |[id, role, proof, from]: [String; 4], label: Option<&str>| {
        let mut cells = vec![id.clone(), role, proof, from];
        if let Some(running) = &mut running {
            cells.extend(of_running(running.remove(&id).as_ref()));
        }
        cells.push(label.unwrap_or_default().to_owned());
        rows.push(cells);
    };
    for known in &loaded.known {
        let place = known.place.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let from = match (known.source, known.usable) {
            (_, false) if known.switched_off => off_by(loaded, &known.id),
            (_, false) => format!("disabled: {place}"),
            (DeviceSource::Registry, true) => "registry".to_owned(),
            (DeviceSource::Configuration, true) => place,
        };
        let role = known.role().map_or("?", Name::as_str).to_owned();
        row([known.id.clone(), role, proof(known), from], known.label());
    }
    for (known, fleet) in made {
        let role = known.role().map_or("", Name::as_str).to_owned();
        row([known.id.clone(), role, "-".to_owned(), format!("fleet {fleet}")], known.label());
    }
    // What the daemon has and the files do not: a device of a fleet that is new, or one that was
    // removed from the files since the last reload.
    for state in running.iter().flat_map(BTreeMap::values) {
        let from = state.fleet.as_ref().map_or_else(|| "-".to_owned(), |fleet| format!("fleet {fleet}"));
        let mut cells = vec![state.id.clone(), state.role.clone(), "-".to_owned(), from];
        cells.extend(of_running(Some(state)));
        cells.push(state.label.clone().unwrap_or_default());
        rows.push(cells);
    }
    context.out.table(&rows)?;
    if running.is_none() && !loaded.settings.gate.fleets.is_empty() {
        note(
            "devices of fleets are listed as last stored by the daemon, at most a few seconds ago; `tombolo status` shows their number",
        );
    }
    if loaded.known.iter().any(|known| !known.usable && !known.switched_off) {
        note("some are disabled; `tombolo check` says why");
    }
    Ok(())
}

/// A device that only the daemon knows.
fn show_running(
    context: &Context,
    id: &str,
    running: &BTreeMap<String, DeviceState>,
) -> Result<(), CommandError> {
    let sessions = sessions(context, id);
    for state in running.values() {
        if context.out.json {
            let mut value = running::entry(state);
            value["sessions"] = json!(sessions);
            context.out.object(&value)?;
            continue;
        }
        let mut rows = vec![("id", state.id.clone()), ("role", state.role.clone())];
        rows.extend(state.label.clone().map(|label| ("label", label)));
        rows.extend(state.fleet.clone().map(|fleet| ("fleet", fleet)));
        rows.extend(running::rows(state));
        rows.extend(sessions.iter().flatten().map(session_row));
        let rows: Vec<_> = rows.into_iter().map(|(name, text)| vec![name.to_owned(), text]).collect();
        context.out.table(&rows)?;
    }
    Ok(())
}

fn session_row(session: &Session) -> (&'static str, String) {
    let (since, idle) = (span(session.since_s), span(session.idle_s));
    let peer = &session.peer;
    ("session", format!("from {peer} for {since}, last heard {idle} ago, {}", kind(session)))
}

fn show(context: &Context, arguments: &DeviceShowArguments) -> Result<(), CommandError> {
    let loaded = match files(context)? {
        Files::Read(loaded) => *loaded,
        Files::Closed(why) if arguments.key => return Err(CommandError::Failed(why)),
        Files::Closed(why) => {
            let running = running::ask(context, Some(&arguments.id)).map_err(|error| match error {
                ClientError::Failed(failure) => CommandError::Failed(failure.message),
                error => running::neither(&why, &error),
            })?;
            show_running(context, &arguments.id, &running)?;
            note("as the running daemon has it: the files cannot be read by this user");
            return Ok(());
        }
    };
    let made = match loaded.known(&arguments.id) {
        Some(_) => None,
        None => of_fleets(&loaded).into_iter().find(|(known, _)| known.id == arguments.id),
    };
    let known = match &made {
        Some((known, _)) => known,
        None => match known(&loaded, &arguments.id) {
            Ok(known) => known,
            // One of a fleet that was seen a moment ago is not in the file yet.
            Err(unknown) => {
                let running = running::ask(context, Some(&arguments.id)).unwrap_or_default();
                if running.is_empty() || arguments.key {
                    return Err(unknown);
                }
                return show_running(context, &arguments.id, &running);
            }
        },
    };
    let device = loaded.settings.gate.devices.iter().find(|device| device.id.as_str() == known.id);
    let psk = device.and_then(|device| device.psk.as_ref()).filter(|_| arguments.key);
    let sessions = sessions(context, &known.id);
    let running = running::ask(context, Some(&known.id)).unwrap_or_default().remove(&known.id);
    if context.out.json {
        let mut value = match &made {
            Some((_, fleet)) => fleet_entry(known, fleet),
            None => entry(known),
        };
        value["sessions"] = json!(sessions);
        value["children"] = json!(children(&loaded, &known.id));
        if let Some(state) = &running {
            running::add_to(&mut value, state);
        }
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
    row("label", known.label().map(str::to_owned));
    row("tags", known.tags().map(shown_tags));
    row("role", known.role().map(Name::to_string));
    row("parent", known.parent().map(Name::to_string));
    let children = children(&loaded, &known.id);
    row("children", Some(shown_children(&children)).filter(|_| !children.is_empty()));
    row("identity", known.psk_identity().map(format_psk_identity));
    row("next identity", known.next_psk_identity().map(format_psk_identity));
    row("MQTT user name", known.mqtt_username().map(str::to_owned));
    for key in known.jwt_keys() {
        let until = key.until.map(|until| format!(", until {}", format_time(until))).unwrap_or_default();
        let text = format!("{} {}{until}", key.algorithm.as_str(), format_key_hash(&key.hash()));
        row("token key", Some(text));
    }
    row("certificate", known.certificate().map(ToString::to_string));
    row("public key", known.public_key().map(format_key_hash));
    row("key", psk.and_then(|psk| key_text(&psk.key)).map(str::to_owned));
    row("as hex", psk.map(|psk| format_hex(&psk.key)));
    row("fleet", made.as_ref().map(|(_, fleet)| fleet.to_string()));
    row("from", known.place.as_ref().map(ToString::to_string));
    if known.switched_off {
        let text = match loaded.place(&["device", &known.id, "enabled"]) {
            Some(place) => format!("by {place} (enabled = false)"),
            None => format!("disabled; `{}`", context.hint(&format!("device enable {}", known.id))),
        };
        row("switched off", Some(text));
    } else if !known.usable {
        row("disabled", Some(format!("`{}` says why", context.hint("check"))));
    }
    for (name, text) in running.iter().flat_map(running::rows) {
        row(name, Some(text));
    }
    for (name, text) in sessions.iter().flatten().map(session_row) {
        row(name, Some(text));
    }
    Ok(context.out.table(&rows)?)
}

/// Its DTLS sessions, if the daemon runs and allows the request.
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
            None if !loaded.settings.gate.fleets.is_empty() => {
                "`tombolo device list` lists all; a device of a fleet is listed after its first session"
                    .to_owned()
            }
            None if loaded.known.is_empty() => {
                "there are none yet: `tombolo device add ID --role ROLE --psk` adds one".to_owned()
            }
            None => "`tombolo device list` names all".to_owned(),
        };
        CommandError::Failed(format!("there is no device {id}; {advice}"))
    })
}

/// How a device is switched off.
fn off_by(loaded: &Loaded, id: &str) -> String {
    let place = loaded.place(&["device", id, "enabled"]);
    place.map_or_else(|| "disabled by command".to_owned(), |place| format!("switched off: {place}"))
}

/// The devices of fleets, each with its fleet, as last stored by the daemon.
fn of_fleets(loaded: &Loaded) -> Vec<(Known, Name)> {
    let fleets = &loaded.settings.gate.fleets;
    if fleets.is_empty() {
        return Vec::new();
    }
    let roll = fleets::read(&loaded.settings.paths.state_dir).unwrap_or_default();
    let mut made = Vec::new();
    for page in roll.pages() {
        let Some(fleet) = fleets.iter().find(|fleet| page.is_of(fleet)) else { continue };
        for id in page.devices.iter().filter(|id| loaded.known(id.as_str()).is_none()) {
            let (label, tags) = (fleet.label.clone(), fleet.tags.clone());
            let device = Device { label, tags, ..Device::new(id.clone(), fleet.role.clone()) };
            let known = Known {
                id: id.to_string(),
                device: Some(device.into()),
                source: DeviceSource::Configuration,
                place: loaded.place(&["fleet", fleet.name.as_str()]).cloned(),
                usable: true,
                switched_off: false,
            };
            made.push((known, fleet.name.clone()));
        }
    }
    made
}

/// The devices behind one, in id order.
fn children<'l>(loaded: &'l Loaded, id: &str) -> Vec<&'l str> {
    let is_child = |known: &&Known| known.parent().is_some_and(|parent| parent.as_str() == id);
    loaded.known.iter().filter(is_child).map(|known| known.id.as_str()).collect()
}

/// Most children that are named.
const CHILDREN_SHOWN: usize = 8;

fn shown_children(children: &[&str]) -> String {
    let named = children[..children.len().min(CHILDREN_SHOWN)].join(", ");
    match children.len().saturating_sub(CHILDREN_SHOWN) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Tags as one object.
fn tag_entry(tags: Option<&Tags>) -> Value {
    tags.iter()
        .flat_map(|tags| tags.iter())
        .map(|(name, value)| (name.to_string(), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Tags as one text.
fn shown_tags(tags: &Tags) -> String {
    tags.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

fn fleet_entry(known: &Known, fleet: &Name) -> Value {
    let mut value = entry(known);
    value["source"] = json!("fleet");
    value["fleet"] = json!(fleet.as_str());
    value
}

fn entry(known: &Known) -> Value {
    json!({
        "id": known.id,
        "role": known.role().map(Name::as_str),
        "label": known.label(),
        "tags": tag_entry(known.tags()),
        "parent": known.parent().map(Name::as_str),
        "psk_identity": known.psk_identity().map(format_psk_identity),
        "next_psk_identity": known.next_psk_identity().map(format_psk_identity),
        "mqtt_username": known.mqtt_username(),
        "jwt_keys": known.jwt_keys().iter().map(token_key::key_entry).collect::<Vec<_>>(),
        "certificate": known.certificate().map(certificate),
        "public_key": known.public_key().map(format_key_hash),
        "source": match known.source {
            DeviceSource::Registry => "registry",
            DeviceSource::Configuration => "configuration",
        },
        "place": known.place.as_ref().map(ToString::to_string),
        "usable": known.usable,
        "switched_off": known.switched_off,
    })
}

/// Its credentials, for a table cell.
fn proof(known: &Known) -> String {
    let psk = known.psk_identity().map(format_psk_identity);
    let certificate = known.certificate().map(|name| format!("{} {}", word(name.kind()), name.name()));
    let key = known.public_key().map(|key| format!("{}…", &format_key_hash(key)[..15]));
    let tokens = (!known.jwt_keys().is_empty()).then(|| "tokens".to_owned());
    let username = known.mqtt_username().map(|name| format!("MQTT {name}"));
    let all: Vec<String> = [psk, certificate, key, username, tokens].into_iter().flatten().collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

/// A certificate's name in JSON: `{"dns": "door-7.example", "issuer": null}`.
fn certificate(name: &CertificateName) -> Value {
    json!({ word(name.kind()): name.name(), "issuer": name.issuer().map(ToString::to_string) })
}

fn word(kind: NameKind) -> &'static str {
    match kind {
        NameKind::Uri => "uri",
        NameKind::Dns => "dns",
        NameKind::CommonName => "cn",
    }
}
