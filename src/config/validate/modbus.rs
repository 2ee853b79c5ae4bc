//! `[serial.NAME.modbus]` and its units: a fault of a unit disables that unit, one of the bus the
//! port.
//!
//! Each template is read once: `NAME.toml` in the first folder that has it. Its faults are reported
//! with their lines, and again for each unit that they disable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Context;
use crate::config::FileError;
use crate::config::finding::{Finding, Place};
use crate::config::layer::dotted;
use crate::config::model::Serial;
use crate::config::raw;
use crate::config::scalar::did_you_mean;
use crate::proto::serial::modbus::frame::Speed;
use crate::proto::serial::modbus::model::{RegisterTable, TableWord, TemplateTable};
use crate::proto::serial::modbus::settings::Settings;
use crate::proto::serial::modbus::validate::{self, Fault, Missing};
use crate::southbound::serial::settings::{Line, Parity};

/// Largest template, in bytes.
const TEMPLATE_MAX: u64 = 64 << 10;

/// Templates read so far, by name.
#[derive(Default)]
pub(super) struct Templates {
    read: BTreeMap<String, Result<Template, Missing>>,
    /// Faults that are already reported: template and key.
    told: BTreeSet<(String, String)>,
}

struct Template {
    table: TemplateTable,
    file: String,
    text: String,
}

impl Templates {
    /// Reads a template that is not read yet.
    fn want(&mut self, cx: &mut Context<'_>, name: &str) {
        if !self.read.contains_key(name) {
            let read = read(cx, name);
            self.read.insert(name.to_owned(), read);
        }
    }

    /// Where a key of a template stands.
    fn place(&self, name: &str, key: &[String]) -> Option<Place> {
        let template = self.read.get(name)?.as_ref().ok()?;
        Some(Place { file: template.file.as_str().into(), line: raw::line_of(&template.text, key) })
    }
}

fn read(cx: &mut Context<'_>, name: &str) -> Result<Template, Missing> {
    let missing = |message: String, advice: String| Err(Missing { message, advice });
    let folders = &cx.sources.template_folders;
    for folder in folders {
        let path = folder.join(format!("{name}.toml"));
        let shown = path.display().to_string();
        let content = match cx.sources.files.read(&path, TEMPLATE_MAX) {
            Ok(content) => content,
            Err(FileError::Missing) => continue,
            Err(error) => {
                return missing(format!("{shown} {error}"), "make it a readable file of text".into());
            }
        };
        if let Some(user) = &content.looked.closed_to {
            let place = Place { file: shown.as_str().into(), line: None };
            let message = format!("cannot be read by the service's user, {user}");
            let finding = Finding::fail(format!("template {name}"), message).at(Some(&place));
            cx.findings.push(finding.advice(format!("chmod 0644 {shown}")));
        }
        let Ok(text) = String::from_utf8(content.bytes.to_vec()) else {
            return missing(format!("{shown} is not UTF-8"), "save it as UTF-8".into());
        };
        return match TemplateTable::parse(&text) {
            Ok(table) => Ok(Template { table, file: shown, text }),
            Err(error) => {
                let place = Place { file: shown.as_str().into(), line: error.line };
                let first = error.message.lines().next().unwrap_or_default();
                let finding = Finding::fail(format!("template {name}"), first).at(Some(&place));
                cx.findings
                    .push(finding.advice("modbus.md in the documentation says what a template may hold"));
                missing(format!("the template {name:?} cannot be read"), format!("correct {place}"))
            }
        };
    }
    if let Some(plain) = name.strip_suffix(".toml").filter(|plain| !plain.is_empty()) {
        let advice = format!("a template is named without .toml: template = \"{plain}\"");
        return missing(format!("there is no template {name:?}"), advice);
    }
    let shown = |folder: Option<&std::path::PathBuf>| {
        folder.map_or_else(String::new, |folder| Path::new(folder).display().to_string())
    };
    let files: Vec<String> = folders.iter().flat_map(|folder| cx.sources.files.names(folder)).collect();
    let near = did_you_mean(name, files.iter().filter_map(|file| file.strip_suffix(".toml")));
    let others = match folders.len() {
        _ if near.is_some() => String::new(),
        0 | 1 => String::new(),
        _ => format!("; those that come with Tombolo are in {}", shown(folders.last())),
    };
    let near = near.map(|near| format!("did you mean {near:?}? or ")).unwrap_or_default();
    missing(
        format!("there is no template {name:?}"),
        format!("{near}put {name}.toml into {}{others}", shown(folders.first())),
    )
}

/// The bus of a port with its valid units; `None` after a finding if it cannot be used.
pub(super) fn bus(
    cx: &mut Context<'_>,
    templates: &mut Templates,
    name: &str,
    table: &Serial,
    line: &Line,
) -> Option<Settings> {
    let enabled = || table.unit.iter().filter(|(_, unit)| unit.enabled != Some(false));
    for wanted in enabled().filter_map(|(_, unit)| unit.template.as_deref()) {
        templates.want(cx, wanted);
    }
    let parity = u8::from(line.parity != Parity::None);
    let speed = match table.port.as_deref() {
        // No line of ours: the frames take no time, and the silences are the converter's work.
        Some(port) if port.contains("tcp://") => Speed { baud: 10_000_000, bits: 10 },
        _ => Speed { baud: line.baud, bits: 1 + line.data_bits + parity + line.stop_bits },
    };
    let bus = table.modbus.clone().unwrap_or_default();
    let index = cx.index;
    let order = |unit: &str| index.rank(&dotted(["serial", name, "unit", unit]));
    let (settings, faults) =
        validate::bus(speed, &bus, &table.unit, order, |wanted| match templates.read.get(wanted) {
            Some(Ok(template)) => Ok(&template.table),
            Some(Err(missing)) => Err(missing.clone()),
            None => Err(Missing { message: "it was not read".into(), advice: String::new() }),
        });
    let subject = format!("serial {name}");
    for fault in &faults {
        match &fault.template {
            None => {
                let key: Vec<&str> =
                    ["serial", name].into_iter().chain(fault.key.iter().map(String::as_str)).collect();
                cx.fail(&subject, &key, fault.message.clone(), &fault.advice);
            }
            Some(template) => tell(cx, templates, template, fault),
        }
    }
    // Units that only their template disables have no finding of their own yet.
    let has_fault = |key: &str| {
        faults.iter().any(|fault| {
            fault.template.is_none()
                && matches!(&fault.key[..], [unit, own, ..] if unit == "unit" && own == key)
        })
    };
    let usable = |id: Option<&str>| {
        settings.iter().flat_map(|bus| &bus.units).any(|unit| Some(unit.id.as_str()) == id)
    };
    for (key, unit) in enabled() {
        let Some(template) = &unit.template else { continue };
        let fault = faults.iter().find(|fault| fault.template.as_ref() == Some(template));
        if let Some(fault) = fault.filter(|_| !usable(unit.id.as_deref()) && !has_fault(key)) {
            let place = templates.place(template, &fault.key);
            let place = place.map_or_else(|| template.clone(), |place| place.to_string());
            let message = format!("the template {template:?} has a fault");
            let advice = format!("correct {place}");
            cx.fail(&subject, &["serial", name, "unit", key, "template"], message, &advice);
        }
    }
    for (key, unit) in enabled() {
        if key.parse::<u8>().is_ok_and(|address| address > 247) && usable(unit.id.as_deref()) {
            let advice = "use it only if the unit does: the standard reserves 248 to 255";
            let key = ["serial", name, "unit", key];
            cx.warn(&subject, &key, "the address is above 247", advice);
        }
    }
    for (key, unit) in enabled().filter(|(_, unit)| usable(unit.id.as_deref())) {
        let template = unit.template.as_deref();
        let of_template = template.and_then(|name| Some(&templates.read.get(name)?.as_ref().ok()?.table));
        let numbering = unit.numbering.or(of_template.and_then(|table| table.numbering));
        let found = numbering.is_none().then(|| manual_number(&unit.register, of_template)).flatten();
        if let Some((register, number)) = found {
            let key = ["serial", name, "unit", key, "register", register, "address"];
            cx.warn(&subject, &key, manual_looking(number), MANUAL_ADVICE);
        }
        let found = of_template.filter(|table| table.numbering.is_none());
        let found = found.and_then(|table| manual_number(&table.register, Some(table)));
        if let (Some(template), Some((register, number))) = (template, found) {
            let key = ["register", register, "address"].map(str::to_owned);
            let place = templates.place(template, &key);
            let shown = dotted(key.iter().map(String::as_str));
            if templates.told.insert((template.to_owned(), shown.clone())) {
                let finding = Finding::warn(format!("template {template}"), manual_looking(number));
                cx.findings.push(finding.key(shown).at(place.as_ref()).advice(MANUAL_ADVICE));
            }
        }
    }
    // A unit with a fault of its own is off too, but nobody switched it off.
    let is_faulty = |key: &str| {
        let key = dotted(["serial", name, "unit", key]);
        let below = |found: &str| {
            found.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        cx.findings.list.iter().any(|finding| finding.key.as_deref().is_some_and(below))
    };
    if !table.unit.is_empty()
        && enabled().next().is_none()
        && faults.is_empty()
        && !table.unit.keys().any(|key| is_faulty(key))
    {
        let advice = "take their enabled = false out, or the port";
        cx.warn(
            &subject,
            &["serial", name],
            "all its units are switched off: the port is not opened",
            advice,
        );
    }
    settings
}

/// What to do with a number that may be a manual's.
const MANUAL_ADVICE: &str =
    "set numbering = \"manual\" if a manual prints it so, or numbering = \"wire\" if it is an address";

fn manual_looking(number: u32) -> String {
    format!("{number} looks like a manual's number, and is used as the address on the wire")
}

/// The first register with an address that manuals print for the first input or holding registers,
/// like 30001 and 40001, or for the first discrete inputs, like 10001: that only where no other
/// table is named, as many units have registers there.
fn manual_number<'r>(
    registers: &'r BTreeMap<String, RegisterTable>,
    template: Option<&TemplateTable>,
) -> Option<(&'r str, u32)> {
    let table = |name: &str, register: &RegisterTable| {
        let of_template = template.and_then(|table| table.register.get(name)?.table);
        register.table.or(of_template).or(template.and_then(|table| table.default.table))
    };
    let enabled = registers.iter().filter(|(_, register)| register.enabled != Some(false));
    let mut numbers = enabled.filter_map(|(name, register)| Some((name, register, register.address?)));
    let found = numbers.find(|(name, register, number)| match number {
        30_001..=39_999 | 40_001..=49_999 => true,
        10_001..=19_999 => table(name.as_str(), register).is_none_or(|table| table == TableWord::Discrete),
        _ => false,
    });
    found.map(|(name, _, number)| (name.as_str(), number))
}

/// Reports a fault of a template once, regardless of the number of units that use it.
fn tell(cx: &mut Context<'_>, templates: &mut Templates, template: &str, fault: &Fault) {
    let key = dotted(fault.key.iter().map(String::as_str));
    if templates.told.insert((template.to_owned(), key.clone())) {
        let place = templates.place(template, &fault.key);
        let finding = Finding::fail(format!("template {template}"), fault.message.clone()).key(key);
        cx.findings.push(finding.at(place.as_ref()).advice(fault.advice.clone()));
    }
}
