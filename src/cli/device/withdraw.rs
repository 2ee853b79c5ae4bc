//! `tombolo device disable` and `device remove` where the files of the configuration cannot be
//! used: a device has to be cut off in spite of a fault elsewhere.
//!
//! Only where the registry is and what this device's file says is read. The running daemon refuses
//! the new configuration, and cuts off what the registry disables or does not have any more.

use serde_json::json;

use super::{tell_withdrawn, without_level};
use crate::cli::error::CommandError;
use crate::cli::{Context, note, socket};
use crate::config::registry::io::{disable_in, remove_in};
use crate::config::{Finding, Level};
use crate::message::Name;

/// What is done with the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Disable,
    Remove,
}

/// Does it, with a warning of what is wrong with the configuration.
pub(super) fn run(context: &Context, id: &str, act: Act, faults: Vec<Finding>) -> Result<(), CommandError> {
    let name = Name::parse(id)
        .map_err(|error| CommandError::Usage(format!("{id:?} is not a device id: {error}")))?;
    let folder = match socket::state_dir(&context.options()) {
        Ok(state_dir) => state_dir.join(crate::config::registry::FOLDER),
        Err(file) => {
            note(format_args!(
                "{}: where the registry is cannot be read from it, so nothing was changed",
                file.display()
            ));
            return Err(CommandError::Configuration(faults));
        }
    };
    if folder.join(format!("{id}.toml")).symlink_metadata().is_err() {
        note(format_args!(
            "{id} has no file in {}, so nothing was changed: a device of the configuration is switched off there, by files \
             that can be used",
            folder.display()
        ));
        return Err(CommandError::Configuration(faults));
    }
    for fault in faults.iter().filter(|fault| fault.level == Level::Fail) {
        note(format_args!("the configuration cannot be used: {}", fault.sentence()));
    }
    let done = match act {
        Act::Disable => disable_in(&folder, &name),
        Act::Remove => remove_in(&folder, &name),
    };
    let file = done.map_err(|finding| CommandError::Failed(without_level(&finding)))?;
    let told = tell_withdrawn(context, id)?;
    if context.out.json {
        context.out.object(&told.with(match act {
            Act::Disable => json!({ "id": id, "enabled": false }),
            Act::Remove => json!({ "id": id, "removed": true }),
        }))?;
        return told.finish(context);
    }
    let what = match act {
        Act::Disable => format!("disabled {id}"),
        Act::Remove => format!("removed {id} ({})", file.display()),
    };
    let effect =
        told.effect("its sessions are closed, and it cannot connect; its stored readings are still sent");
    context.out.line(format_args!("{what}; {effect}"))?;
    told.finish(context)
}
