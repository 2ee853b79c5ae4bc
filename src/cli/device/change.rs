//! `tombolo device enable|disable|rekey|key`: changes a device of the registry.

use serde_json::json;

use super::add;
use super::token_key::{check_until, key_entry, public};
use super::{Told, password, running, stays_off, tell, tell_withdrawn, withdraw, without_level};
use crate::cli::args::{
    DeviceKeyAddArguments, DeviceKeyCommand, DeviceKeyRemoveArguments, DeviceRekeyArguments,
};
use crate::cli::error::CommandError;
use crate::cli::key::from_argument;
use crate::cli::output::{patiently, span};
use crate::cli::{Context, note};
use crate::clock::UnixTime;
use crate::config::certificate::format_key_hash;
use crate::config::registry::credentials::format_time;
use crate::config::registry::io::{change, today};
use crate::config::registry::{Entry, OverlapEnd, Promoted};
use crate::config::scalar::{PSK_IDENTITY_MAX, format_psk_identity, parse_psk_identity};
use crate::config::{DeviceSource, Loaded, Paths, Place};
use crate::control::io::client::ClientError;
use crate::control::protocol::{Code, Failure};
use crate::gate::jwt::{JwtKey, KEYS_MAX};
use crate::gate::settings::{Device, NextPsk, Psk, SharedDevice};

/// Changes the device in its file, and makes the daemon take it up. Returns it as it is now, and
/// what keeps it from connecting all the same.
pub(super) fn apply(
    context: &Context,
    loaded: &Loaded,
    id: &str,
    make: impl FnOnce(&mut Entry) -> Result<(), String>,
) -> Result<(SharedDevice, Told), CommandError> {
    let (device, told) = apply_only(context, loaded, id, make)?;
    Ok((device, Told { stays_off: stays_off(context, id), ..told }))
}

/// The same without looking at what keeps it from connecting.
fn apply_only(
    context: &Context,
    loaded: &Loaded,
    id: &str,
    make: impl FnOnce(&mut Entry) -> Result<(), String>,
) -> Result<(SharedDevice, Told), CommandError> {
    let (mut device, mut is_withdrawn) = (None, false);
    let changed = change(loaded, id, |entry| {
        make(entry)?;
        is_withdrawn = !entry.enabled;
        device = Some(entry.device.clone());
        Ok(())
    });
    changed.map_err(|finding| CommandError::Failed(without_level(&finding)))?;
    let device = device.ok_or_else(|| CommandError::Failed(format!("{id} was not changed")))?;
    let told = if is_withdrawn { tell_withdrawn(context, id)? } else { tell(context)? };
    Ok((device, told))
}

/// `tombolo device enable`, `tombolo device disable`
pub(super) fn enable(context: &Context, id: &str, enabled: bool) -> Result<(), CommandError> {
    let word = if enabled { "enable" } else { "disable" };
    let loaded = match context.load_whole(&format!("device {word} {id}")) {
        Err(CommandError::Configuration(faults)) if !enabled => {
            return withdraw::run(context, id, withdraw::Act::Disable, faults);
        }
        loaded => loaded?,
    };
    if let Some(way_out) = not_of_registry(context, &loaded, id, enabled) {
        return Err(CommandError::Failed(way_out));
    }
    let make = |entry: &mut Entry| {
        entry.enabled = enabled;
        Ok(())
    };
    let (_, told) = match enabled {
        true => apply(context, &loaded, id, make)?,
        false => apply_only(context, &loaded, id, make)?,
    };
    if context.out.json {
        context.out.object(&told.with(json!({ "id": id, "enabled": enabled })))?;
        return told.finish(context);
    }
    let running = match enabled {
        true => "it may connect now",
        false => "its sessions are closed, and it cannot connect; its stored readings are still sent",
    };
    context.out.line(format_args!("{word}d {id}; {}", told.effect(running)))?;
    told.finish(context)
}

fn switched_off_by(id: &str, off: &Place, reload: &str) -> String {
    format!(
        "device {id} is switched off by {off}; take enabled = false out of [device.{id}] there, then `{reload}`"
    )
}

/// What switches a device off or on that is not of the registry; `None`: it is, or it is not known.
fn not_of_registry(context: &Context, loaded: &Loaded, id: &str, enabled: bool) -> Option<String> {
    let folder = Paths::conf_d(&context.options().config);
    let reload = context.hint("reload");
    let off = loaded.place(&["device", id, "enabled"]).filter(|_| enabled);
    if let Some(known) = loaded.known(id) {
        if known.source != DeviceSource::Configuration || loaded.registry.has_file(id) {
            return None;
        }
        if known.switched_off
            && let Some(off) = loaded.place(&["device", id, "enabled"])
        {
            return Some(match enabled {
                true => switched_off_by(id, off, &reload),
                false => format!("device {id} is switched off already, by {off} (enabled = false)"),
            });
        }
        let mut ports = loaded.settings.serial.iter();
        let table = ports.find_map(|port| port.table_of(id)).unwrap_or_else(|| format!("device.{id}"));
        let place = known.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let way_out = match off {
            Some(off) => format!("take enabled = false out of [{table}] at {off}"),
            None if enabled => format!("take enabled = false out of [{table}]"),
            None => {
                format!("write enabled = false into [{table}] there, or in a file of {}", folder.display())
            }
        };
        return Some(format!("{place}device {id} is in the configuration; {way_out}, then `{reload}`"));
    }
    if loaded.registry.has_file(id) {
        return None;
    }
    if let Some(off) = off {
        return Some(switched_off_by(id, off, &reload));
    }
    let stored = || super::of_fleets(loaded).into_iter().find(|(known, _)| known.id == id);
    let seen = || running::ask(context, Some(id)).ok()?.remove(id)?.fleet;
    let fleet = stored().map(|(_, fleet)| fleet.to_string()).or_else(seen)?;
    let way_out = match enabled {
        true => format!("take enabled = false out of [device.{id}], where it is written"),
        false => format!(
            "write [device.{id}] with enabled = false into a file of {}, such as {}",
            folder.display(),
            folder.join(format!("90-{id}.toml")).display()
        ),
    };
    Some(format!(
        "device {id} belongs to fleet {fleet} and has no file of its own; {way_out}, then `{reload}`"
    ))
}

/// `tombolo device rekey`
pub(super) fn rekey(context: &Context, arguments: DeviceRekeyArguments) -> Result<(), CommandError> {
    let DeviceRekeyArguments { id, psk, psk_identity, overlap, password } = arguments;
    if password.is_some() && (overlap.is_some() || psk_identity.is_some()) {
        return Err(CommandError::Usage(
            "--overlap and --psk-identity go with --psk: a device has one password, and the one before ends at once; \
             nothing was changed"
                .to_owned(),
        ));
    }
    let loaded = context.load_whole(&format!("device rekey {id}"))?;
    if let Some(argument) = password {
        return new_password(context, &loaded, &id, &argument);
    }
    let key = from_argument(psk.as_deref().unwrap_or_default())?;
    let identity = psk_identity.as_deref().map(parse_psk_identity).map(|identity| {
        identity.ok_or_else(|| {
            CommandError::Usage(format!(
                "--psk-identity takes 1 to {PSK_IDENTITY_MAX} bytes of text, or hex: and two hexadecimal digits for each"
            ))
        })
    });
    let identity = identity.transpose()?;
    let until = match overlap {
        None => None,
        Some(overlap) => Some(until(overlap)?),
    };
    let has_next = loaded.registry.entry(&id).is_some_and(|entry| entry.device.next_psk.is_some());
    let used = if has_next { used_next(context, &id) } else { NextUse::Not };
    let (mut waiting, mut is_first) = (None, false);
    let (device, told) = apply(context, &loaded, &id, |entry| {
        waiting = entry.device.next_psk.as_ref().map(|next| format_psk_identity(&next.psk.identity));
        if until.is_some() {
            used.promote(entry);
        }
        let before = match (&entry.device.psk, until) {
            (Some(before), _) => before.clone(),
            // A first key of a device that is known by something else.
            (None, None) => Psk { identity: id.as_bytes().to_vec(), key: key.clone() },
            (None, Some(_)) => {
                return Err(format!(
                    "has no pre-shared key that could be taken beside a new one; `tombolo device rekey {id} --psk` \
                     without --overlap gives it its first"
                ));
            }
        };
        is_first = entry.device.psk.is_none();
        let Some(until) = until else {
            let psk = Psk { identity: identity.unwrap_or(before.identity), key };
            entry.replace_psk(psk, today());
            return Ok(());
        };
        let waits = entry.device.next_psk.as_ref().map(|next| next.psk.identity.clone());
        let identity = identity
            .unwrap_or_else(|| another(&id, &[&before.identity[..], waits.as_deref().unwrap_or_default()]));
        if identity == before.identity {
            return Err("two keys need two identities: --psk-identity names the new one's".to_owned());
        }
        // The device may use the one that waits while this is written.
        if Some(&identity) == waits.as_ref() {
            return Err(format!(
                "has a new key with the identity {} already, which waits to be used: give another one with \
                 --psk-identity, or none, or leave out --overlap to end both",
                format_psk_identity(&identity)
            ));
        }
        entry.add_psk(NextPsk { psk: Psk { identity, key }, until }, today());
        Ok(())
    })?;
    // What the device needs is that of the new key alone.
    let shown = Device {
        psk: device.next_psk.as_ref().map(|next| next.psk.clone()).or(device.psk.clone()),
        next_psk: None,
        ..Device::clone(&device)
    };
    if let Some(identity) = waiting {
        // It may have been used while the file was written.
        let used = if matches!(used, NextUse::Not) { used_next(context, &id) } else { used };
        note(said_of_waiting(&id, &identity, used, until.is_some()));
    }
    let short = shown.psk.as_ref().and_then(|psk| add::weak(&psk.key, add::OPTION_MAKES));
    short.into_iter().for_each(note);
    if context.out.json {
        let mut object = add::in_json(&shown);
        object["both_until"] = json!(device.next_psk.as_ref().map(|next| format_time(next.until)));
        context.out.object(&told.with(object))?;
        return told.finish(context);
    }
    let off = told.stays_off.as_ref().map(|off| format!("{off}; ")).unwrap_or_default();
    context.out.line(match &device.next_psk {
        Some(next) => format!(
            "{id} has a new key; {off}the one before is taken until the new one is used, or {}",
            format_time(next.until)
        ),
        None if is_first => format!("{id} has a first key; {}", told.effect("it may connect with it now")),
        None => format!("{id} has a new key; {}", told.effect("sessions of the one before are closed")),
    })?;
    if device.next_psk.is_none() && told.stays_off.is_none() {
        add::say_psk(context, &loaded.settings, &shown)?;
        return told.finish(context);
    }
    add::say_psk_values(context, &shown)?;
    if device.next_psk.is_some() {
        context.out.line(
            "give it to the device; do not try it from elsewhere: the first use of the new key ends the one before",
        )?;
    }
    told.finish(context)
}

/// Whether a device has used its next key, by the running daemon: the file is written a moment
/// later.
enum NextUse {
    /// It has used the one with this identity.
    Used(String),
    Not,
    /// Why that is not known.
    Unknown(String),
}

impl NextUse {
    /// If the next key was used, it takes the place of the one before: the daemon is about to write
    /// the same.
    fn promote(&self, entry: &mut Entry) {
        let (Some(next), NextUse::Used(used)) = (&entry.device.next_psk, self) else { return };
        if format_psk_identity(&next.psk.identity) == *used {
            let (used, before) = (next.psk.clone(), entry.device.psk.clone());
            let _: Promoted = entry.promote_psk(&OverlapEnd::Used { used, before, since: None }, today());
        }
    }
}

fn used_next(context: &Context, id: &str) -> NextUse {
    match running::ask(context, Some(id)) {
        Ok(devices) => match devices.get(id).and_then(|state| state.new_key_used.clone()) {
            Some(identity) => NextUse::Used(identity),
            None => NextUse::Not,
        },
        // Disabled, for example.
        Err(ClientError::Failed(Failure { code: Code::NotFound, .. })) => NextUse::Not,
        Err(ClientError::NotRunning { .. }) => NextUse::Unknown("tombolo is not running".to_owned()),
        Err(error) => NextUse::Unknown(error.to_string()),
    }
}

/// What becomes of the next key that a device had. `is_overlap`: another one takes its place as the
/// next one.
fn said_of_waiting(id: &str, identity: &str, used: NextUse, is_overlap: bool) -> String {
    let another = format!("{id} had another new key, identity {identity}");
    let not_taken = "that one is not taken any more";
    match used {
        NextUse::Used(used) if used == identity && is_overlap => {
            format!("{id} has used the new key that it had, identity {identity}: that is the one before now")
        }
        NextUse::Used(used) if used == identity => format!("{another}, which it has used: {not_taken}"),
        // What was used before a kill, or while the file could not be written, is not known.
        NextUse::Used(_) | NextUse::Not => {
            format!("{another}, which was not used yet as far as the gateway knows: {not_taken}")
        }
        NextUse::Unknown(why) => {
            format!("{another}, which was not used yet as far as its file says ({why}): {not_taken}")
        }
    }
}

/// The identity of another key than those.
fn another(id: &str, taken: &[&[u8]]) -> Vec<u8> {
    let candidates = [format!("{id}.2"), id.to_owned(), format!("{id}.3")];
    let free = candidates.iter().find(|candidate| !taken.contains(&candidate.as_bytes()));
    free.unwrap_or(&candidates[0]).clone().into_bytes()
}

fn until(overlap: std::time::Duration) -> Result<UnixTime, CommandError> {
    let now = today().ok_or_else(|| {
        CommandError::Failed(
            "the clock of this machine is not set, so that no end of --overlap can be said".to_owned(),
        )
    })?;
    Ok(UnixTime::from_secs(now.as_secs() + overlap.as_secs()))
}

fn new_password(context: &Context, loaded: &Loaded, id: &str, argument: &str) -> Result<(), CommandError> {
    let known = loaded.known(id);
    let username = known.and_then(|known| known.mqtt_username()).unwrap_or(id).to_owned();
    let (login, secret) = patiently("hashing the password", || password::login(&username, argument))?;
    let (device, told) = apply(context, loaded, id, |entry| {
        (entry.device.login, entry.password_since) = (Some(Box::new(login)), today());
        Ok(())
    })?;
    password::short(&secret).into_iter().for_each(note);
    if context.out.json {
        let object = json!({ "id": id, "mqtt_username": username, "password": secret.as_str() });
        context.out.object(&told.with(object))?;
        return told.finish(context);
    }
    context.out.line(format_args!(
        "{id} has a new password; {}",
        told.effect("clients with the one before are disconnected")
    ))?;
    // A command to try would give the password to whoever has the address.
    match told.stays_off.is_some() || told.lacks_mqtt() {
        false => password::say(context, &loaded.settings, &device, &username, &secret)?,
        true => password::say_values(context, &username, &secret)?,
    }
    told.finish(context)
}

/// `tombolo device key`
pub(super) fn key(context: &Context, command: DeviceKeyCommand) -> Result<(), CommandError> {
    match command {
        DeviceKeyCommand::Add(arguments) => key_add(context, arguments),
        DeviceKeyCommand::Remove(arguments) => key_remove(context, &arguments),
        DeviceKeyCommand::List(arguments) => key_list(context, &arguments.id),
    }
}

fn key_add(context: &Context, arguments: DeviceKeyAddArguments) -> Result<(), CommandError> {
    let DeviceKeyAddArguments { id, file, until } = arguments;
    check_until(until, today()).map_err(|why| {
        let way_out = format!(
            "give a later --until; `tombolo device key remove {id} KEY` ends a key that is registered"
        );
        CommandError::Usage(format!("--until: {why}; {way_out}"))
    })?;
    let mut key = public(&file, until)?;
    key.since = today();
    let loaded = context.load_whole(&format!("device key add {id}"))?;
    let (algorithm, hash) = (key.algorithm.as_str(), format_key_hash(&key.hash()));
    let is_it = |known: &&JwtKey| known.info() == key.info();
    let known = loaded.known(&id).and_then(|known| known.jwt_keys().iter().find(is_it));
    if let Some(known) = known.filter(|known| known.until == until) {
        let end = ends(known.until);
        if context.out.json {
            return Ok(context.out.object(&key_added(&id, known, Added::Nothing))?);
        }
        return Ok(context
            .out
            .line(format_args!("{id} has the key {hash} already, {end}; nothing was changed"))?);
    }
    let mut before = None;
    let (_, told) = apply(context, &loaded, &id, |entry| {
        let keys = &mut entry.device.jwt_keys;
        if let Some(known) = keys.iter_mut().find(|known| known.info() == key.info()) {
            if let (None, Some(end)) = (until, known.until) {
                return Err(format!(
                    "has the key {hash} already, until {}; --until changes that, and without an end it is added after \
                     `tombolo device key remove {id} {}`",
                    format_time(end),
                    &hash["sha256:".len()..][..HASH_SHOWN]
                ));
            }
            // It stays as old as it is.
            before = Some(std::mem::replace(&mut known.until, until));
            return Ok(());
        }
        if keys.len() >= KEYS_MAX {
            return Err(format!(
                "has {KEYS_MAX} keys, which is the most; `tombolo device key remove {id} KEY` removes one"
            ));
        }
        keys.push(key.clone());
        Ok(())
    })?;
    if context.out.json {
        let added = before.map_or(Added::Key, Added::End);
        context.out.object(&told.with(key_added(&id, &key, added)))?;
        return told.finish(context);
    }
    let Some(before) = before else {
        let effect = told.effect("its tokens are taken now");
        context.out.line(format_args!("added a key for {algorithm} to {id}: {hash}; {effect}"))?;
        return told.finish(context);
    };
    let (before, effect) = (ends(before), told.effect("in force now"));
    context.out.line(format_args!(
        "{id} has the key {hash} already: it was {before} and is {} now; {effect}",
        ends(until)
    ))?;
    told.finish(context)
}

/// Digits of a key's hash that name it in a command.
const HASH_SHOWN: usize = 12;

fn ends(until: Option<UnixTime>) -> String {
    until.map_or_else(|| "without an end".to_owned(), |until| format!("taken until {}", format_time(until)))
}

/// What `device key add` has changed.
enum Added {
    Key,
    /// The end of a key that was there; what it was before.
    End(Option<UnixTime>),
    Nothing,
}

fn key_added(id: &str, key: &JwtKey, added: Added) -> serde_json::Value {
    let mut object = json!({
        "id": id, "algorithm": key.algorithm.as_str(), "key": format_key_hash(&key.hash()),
        "until": key.until.map(format_time), "added": matches!(added, Added::Key),
    });
    if let Added::End(before) = added {
        object["until_before"] = json!(before.map(format_time));
    }
    object
}

fn key_remove(context: &Context, arguments: &DeviceKeyRemoveArguments) -> Result<(), CommandError> {
    let DeviceKeyRemoveArguments { id, key } = arguments;
    let loaded = context.load_whole(&format!("device key remove {id}"))?;
    let wanted = key.strip_prefix("sha256:").unwrap_or(key).to_ascii_lowercase();
    if wanted.len() < 4 {
        return Err(CommandError::Usage("name at least the first four digits of the key's hash".to_owned()));
    }
    let mut removed = String::new();
    let mut is_mute = false;
    let (_, told) = apply(context, &loaded, id, |entry| {
        let keys = &mut entry.device.jwt_keys;
        let is_it = |key: &JwtKey| format_key_hash(&key.hash())["sha256:".len()..].starts_with(&wanted);
        match keys.iter().filter(|key| is_it(key)).count() {
            1 => {}
            0 => return Err(format!("has no such key; `tombolo device key list {id}` has all")),
            _ => return Err("has several keys that begin so; name more digits".to_owned()),
        }
        removed =
            keys.iter().find(|key| is_it(key)).map_or_else(String::new, |key| format_key_hash(&key.hash()));
        keys.retain(|key| !is_it(key));
        is_mute = !has_proof(&entry.device);
        Ok(())
    })?;
    if is_mute {
        let (add, remove) = (
            context.hint(&format!("device key add {id} FILE")),
            context.hint(&format!("device remove {id}")),
        );
        note(format_args!(
            "{id} has no credential any more, and cannot connect: {add} gives it one, {remove} removes the device"
        ));
    }
    if context.out.json {
        context.out.object(&told.with(json!({ "id": id, "key": removed, "removed": true })))?;
        return told.finish(context);
    }
    let effect = told.effect("clients that used it are disconnected");
    context.out.line(format_args!("removed the key {removed} of {id}; {effect}"))?;
    told.finish(context)
}

/// Whether the device, or the one that it is behind, can show who it is.
fn has_proof(device: &Device) -> bool {
    let keys = device.psk.is_some() || device.certificate.is_some() || device.public_key.is_some();
    keys || device.login.is_some() || !device.jwt_keys.is_empty() || device.parent.is_some()
}

fn key_list(context: &Context, id: &str) -> Result<(), CommandError> {
    let loaded = context.load_whole("device key list")?;
    let known = super::known(&loaded, id)?;
    if context.out.json {
        return known.jwt_keys().iter().try_for_each(|key| Ok(context.out.object(&key_entry(key))?));
    }
    if known.jwt_keys().is_empty() {
        let next = context.hint(format_args!("device key add {id} FILE").to_string().as_str());
        return Ok(context.out.line(format_args!("{id} has no public keys for tokens; {next} adds one"))?);
    }
    let words = ["key", "algorithm", "since", "until"];
    let mut rows = vec![words.map(str::to_owned).to_vec()];
    for key in known.jwt_keys() {
        let time = |time: Option<UnixTime>| time.map_or_else(|| "-".to_owned(), format_time);
        let hash = format_key_hash(&key.hash());
        rows.push(vec![hash, key.algorithm.as_str().to_owned(), time(key.since), time(key.until)]);
    }
    Ok(context.out.table(&rows)?)
}

/// `tombolo device list --key-age`: every key of the registry, the oldest first.
pub(super) fn key_age(context: &Context) -> Result<(), CommandError> {
    let loaded = context.load_whole("device list --key-age")?;
    let mut keys = Vec::new();
    for entry in loaded.registry.entries() {
        let id = entry.device.id.as_str();
        let next = entry.device.next_psk.as_ref().map(|next| next.until);
        if entry.device.psk.is_some() {
            keys.push((entry.psk_since, id, "PSK".to_owned(), next));
        }
        if next.is_some() {
            keys.push((entry.next_psk_since, id, "next PSK".to_owned(), None));
        }
        if entry.device.login.is_some() {
            keys.push((entry.password_since, id, "password".to_owned(), None));
        }
        keys.extend(entry.device.jwt_keys.iter().map(|key| {
            let kind = format!("{} {}", key.algorithm.as_str(), &format_key_hash(&key.hash())[..15]);
            (key.since, id, kind, key.until)
        }));
    }
    // Those of an unknown date may be the oldest.
    keys.sort();
    let now = today();
    if context.out.json {
        return keys.iter().try_for_each(|(since, id, kind, until)| {
            let age = now.zip(*since).map(|(now, since)| now.as_secs().saturating_sub(since.as_secs()));
            let (since, until) = (since.map(format_time), until.map(format_time));
            Ok(context
                .out
                .object(&json!({ "id": id, "kind": kind, "since": since, "age_s": age, "until": until }))?)
        });
    }
    let mut rows = vec![["id", "kind", "age", "since", "until"].map(str::to_owned).to_vec()];
    for (since, id, kind, until) in keys {
        let age = now.zip(since).map(|(now, since)| span(now.as_secs().saturating_sub(since.as_secs())));
        let dash = || "-".to_owned();
        rows.push(vec![
            id.to_owned(),
            kind,
            age.unwrap_or_else(dash),
            since.map_or_else(dash, format_time),
            until.map_or_else(dash, format_time),
        ]);
    }
    context.out.table(&rows)?;
    note("of the registry; the age of a key that a configuration file names is that of its file");
    Ok(())
}
