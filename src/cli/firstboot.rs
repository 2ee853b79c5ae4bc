//! `tombolo firstboot`: gives a copied card an identity of its own, where the marker of
//! [`first_boot`](crate::config::first_boot) says that it is a copy; otherwise it only compares the
//! board's serial number with the last one. `tombolo-firstboot.service` runs it before the daemon.

use serde_json::json;

use super::args::FirstbootArguments;
use super::error::CommandError;
use super::{Context, note};
use crate::config::first_boot::io::{SERIAL_FILES, is_marked, perform, serial};
use crate::config::first_boot::{MARKER, Serial};
use crate::config::io::texts;
use crate::config::show::show;
use crate::control::io::client::ClientError;
use crate::durable::io::{create_directory, write_atomically};

/// Does it.
///
/// # Errors
/// [`CommandError::Failed`]: the daemon runs, or the disk does not take a step; it can be run
/// again.
pub fn run(context: &Context, arguments: &FirstbootArguments) -> Result<(), CommandError> {
    let texts = texts(&context.options());
    let state_dir = &texts.state_dir;
    if let Some(closed) = &texts.closed {
        let (closed, hint) = (closed.display(), context.rights_hint("firstboot"));
        return Err(CommandError::Failed(format!("{closed} may not be read by this user; {hint}")));
    }
    let marker = state_dir.join(MARKER);
    if arguments.mark {
        stopped(
            context,
            "the gateway runs: what it stores from now on would be removed at its next start; first `systemctl stop tombolo`",
        )?;
        create_directory(state_dir).and_then(|()| write_atomically(&marker, b"", 0o600)).map_err(
            |error| CommandError::Failed(format!("{} cannot be written: {error}", marker.display())),
        )?;
        if context.out.json {
            return Ok(context.out.object(&json!({ "marked": true, "marker": marker }))?);
        }
        context
            .out
            .line(format_args!("{} is there: switch the board off and copy its card", marker.display()))?;
        note("each card makes a gateway id and keys of its own at its next boot; so does this one");
        return Ok(());
    }
    let marked = is_marked(state_dir);
    let mut gateway = None;
    if marked {
        stopped(
            context,
            "the gateway runs, and goes on with the identity it has; first `systemctl stop tombolo`",
        )?;
        let made = perform(state_dir, context.socket().parent().unwrap_or(state_dir));
        gateway = Some(made.map_err(|(path, error)| {
            CommandError::Failed(format!(
                "{}: {error}; the gateway does not start before `tombolo firstboot` succeeds",
                path.display()
            ))
        })?);
    }
    // What every copy of this card has.
    let (shown, _) = show(&texts.layers, &context.options().environment);
    let (mut shared, mut of_devices) = (Vec::new(), Vec::new());
    for one in shown.iter().filter(|_| marked) {
        let value = one.value.as_ref().and_then(|value| value.as_str()).filter(|_| one.place.is_some());
        if let Some(text) = value.filter(|_| one.key == "gateway.id" || super::check::is_secret(&one.key)) {
            // What the broker tells gateways by, and what devices tell this one by.
            let is_upstream = one.key == "gateway.id" || one.key.starts_with("upstream.");
            if is_upstream { &mut shared } else { &mut of_devices }.push(format!("{} = {text:?}", one.key));
        }
    }
    let serial = match serial(state_dir, &SERIAL_FILES) {
        Ok(serial) => serial,
        // It is for a warning alone.
        Err(error) => {
            note(format_args!("the board's serial number cannot be stored: {error}"));
            Serial::Same
        }
    };
    let before = match &serial {
        Serial::Changed { from, to } => Some((from, to)),
        _ => None,
    };
    if context.out.json {
        return Ok(context.out.object(&json!({
            "made": marked, "gateway": gateway.as_ref().map(ToString::to_string),
            "shared": shared.iter().chain(&of_devices).collect::<Vec<_>>(),
            "serial_before": before.map(|(from, _)| from), "serial": before.map(|(_, to)| to),
        }))?);
    }
    match &gateway {
        Some(id) => {
            context.out.line(format_args!("this card has an identity of its own now: gateway {id}"))?
        }
        None => context.out.line("nothing to do: this card is not marked as a copy")?,
    }
    if !shared.is_empty() {
        note(format_args!(
            "every copy of this card has the same {}; give each its own, or the broker cannot tell them apart",
            shared.join(", ")
        ));
    }
    if !of_devices.is_empty() {
        note(format_args!(
            "every copy of this card has the same {}; who reads one card has those of all",
            of_devices.join(", ")
        ));
    }
    if let Some((from, to)) = before.filter(|_| !marked) {
        note(format_args!(
            "the board's serial number was {from} and is {to}: if this card is a copy of one that is in use, run \
             `tombolo firstboot --mark` while the gateway is stopped, and reboot; if the board was replaced, nothing is to be done"
        ));
    }
    Ok(())
}

/// Refuses, where the daemon runs.
fn stopped(context: &Context, running: &str) -> Result<(), CommandError> {
    match context.daemon() {
        Err(ClientError::NotRunning { .. } | ClientError::NoConfiguration { .. }) => Ok(()),
        Ok(_) => Err(CommandError::failed(running)),
        Err(error) => Err(error.into()),
    }
}
