//! `tombolo complete devices|roles|ports|units|keys`: names for the completion of the shells, one a
//! line.
//!
//! It reads the names of files and tables only, and no device's key: a completion must be quick
//! with ten thousand devices. What cannot be read gives no names, and nothing is said.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Context;
use super::args::{CompleteArguments, Names};
use super::error::CommandError;
use crate::config::io::texts;
use crate::config::show::show;
use crate::daemon::fleets;
use crate::message::Name;

/// Prints them.
///
/// # Errors
/// Nobody reads the output.
pub fn run(context: &Context, arguments: &CompleteArguments) -> Result<(), CommandError> {
    let options = context.options();
    let read = texts(&options);
    let mut names = BTreeSet::new();
    if arguments.what == Names::Keys {
        let (shown, _) = show(&read.layers, &options.environment);
        shown.iter().for_each(|one| with_tables(&one.key, &mut names));
    }
    for layer in &read.layers {
        collect(&layer.text, arguments.what, &mut names);
    }
    if arguments.what == Names::Devices {
        registry(&read.state_dir.join("devices"), &mut names);
        // Those of fleets, as last stored by the daemon.
        let roll = fleets::read(&read.state_dir).unwrap_or_default();
        names.extend(roll.pages().iter().flat_map(|page| page.devices.iter().map(ToString::to_string)));
    }
    let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
    Ok(context.out.text(&lines)?)
}

/// The names in one text, also if it has faults.
fn collect(text: &str, what: Names, names: &mut BTreeSet<String>) {
    let (table, _) = DeTable::parse_recoverable(text);
    let of = |key: &str| match table.get_ref().get(key).map(|value| value.get_ref()) {
        Some(DeValue::Table(table)) => Some(table),
        _ => None,
    };
    let mut add = |name: &str| {
        if Name::parse(name).is_ok() {
            names.insert(name.to_owned());
        }
    };
    let key = match what {
        Names::Devices => Some("device"),
        Names::Roles => Some("role"),
        Names::Ports => Some("serial"),
        Names::Units | Names::Keys => None,
    };
    let named = key.and_then(of).into_iter().flat_map(|table| table.keys());
    named.for_each(|name| add(name.get_ref()));
    if !matches!(what, Names::Devices | Names::Units) {
        return;
    }
    // A port is a device, and on a bus each unit is.
    for (name, port) in of("serial").into_iter().flatten() {
        let DeValue::Table(port) = port.get_ref() else { continue };
        match port.get("unit").map(|value| value.get_ref()) {
            Some(DeValue::Table(units)) => {
                for unit in units.values() {
                    if let DeValue::Table(unit) = unit.get_ref()
                        && let Some(DeValue::String(id)) = unit.get("id").map(|value| value.get_ref())
                    {
                        add(id);
                    }
                }
            }
            _ if what == Names::Units => {}
            _ => add(name.get_ref()),
        }
    }
}

/// A key, and the tables that it is in: `a.b.c`, `a.b` and `a`.
fn with_tables(key: &str, names: &mut BTreeSet<String>) {
    // A quoted part may have dots, and no shell would like it.
    if key.contains('"') {
        return;
    }
    names.insert(key.to_owned());
    names.extend(key.match_indices('.').map(|(at, _)| key[..at].to_owned()));
}

fn registry(folder: &Path, names: &mut BTreeSet<String>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let stems = entries.map(|entry| PathBuf::from(entry.file_name())).filter_map(|name| {
        let is_device = name.extension().is_some_and(|extension| extension == "toml");
        is_device.then(|| name.file_stem()?.to_str().map(str::to_owned))?
    });
    names.extend(stems.filter(|name| Name::parse(name).is_ok()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_also_beside_a_fault() {
        let text = "[role.sensor]\n[role.x]\nmax-payload = \n[device.a]\nrole = \"sensor\"\n\
                    [serial.meter]\nbaud = 9600\n[serial.bus.unit.3]\nid = \"boiler\"\n";
        let of = |what| {
            let mut names = BTreeSet::new();
            collect(text, what, &mut names);
            names.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of(Names::Roles), ["sensor", "x"]);
        assert_eq!(of(Names::Devices), ["a", "boiler", "meter"]);
        assert_eq!(of(Names::Ports), ["bus", "meter"]);
        assert_eq!(of(Names::Units), ["boiler"]);
        assert!(of(Names::Keys).is_empty());
        let mut keys = BTreeSet::new();
        with_tables("role.a.quota", &mut keys);
        with_tables("device.\"a.b\".role", &mut keys);
        assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["role", "role.a", "role.a.quota"]);
    }
}
