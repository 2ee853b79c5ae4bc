//! Converts the file form to [`Settings`], and validates each key alone and several together.
//!
//! A fault disables only its unit; a fault in a key of the bus disables the bus. Each fault names
//! its key, so that the caller can add the line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::change::Publish;
use super::frame::Speed;
use super::map::{Half, Kind, Order, Register};
use super::model::{
    BusTable, ByteCountWord, DefaultTable, HalfWord, ModeWord, NumberingWord, OrderWord, PublishWord,
    RegisterTable, Span, TableWord, TemplateTable, TransactionIdWord, TypeWord, UnitTable,
};
use super::pdu::Table;
use super::plan::Limits;
use super::settings::{Settings, Unit};
use super::write::{self, Access};
use crate::message::{Name, Path, RESERVED_DEVICE};

/// Longest field name, in bytes.
pub const FIELD_MAX: usize = 64;
/// Most registers of one unit.
pub const REGISTERS_MAX: usize = 1000;
/// Longest period.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// A fault of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The template with the key; `None` = a table of the bus or unit.
    pub template: Option<String>,
    /// The key within `[serial.NAME]`, or within the template: `["unit", "3", "period"]`,
    /// `["register", "voltage", "scale"]`.
    pub key: Vec<String>,
    /// The fault.
    pub message: String,
    /// The remedy.
    pub advice: String,
}

/// Why a template cannot be used, for the unit that refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The fault.
    pub message: String,
    /// The remedy.
    pub advice: String,
}

/// Collects faults below one key.
struct Faults<'a> {
    list: &'a mut Vec<Fault>,
    template: Option<&'a str>,
    prefix: Vec<String>,
}

impl Faults<'_> {
    fn add(&mut self, key: &[&str], message: impl Into<String>, advice: impl Into<String>) {
        let own = key.iter().map(|part| (*part).to_owned());
        self.list.push(Fault {
            template: self.template.map(str::to_owned),
            key: self.prefix.iter().cloned().chain(own).collect(),
            message: message.into(),
            advice: advice.into(),
        });
    }

    fn below<'b>(&'b mut self, key: &[&str]) -> Faults<'b> {
        let prefix = self.prefix.iter().cloned().chain(key.iter().map(|part| (*part).to_owned())).collect();
        Faults { list: self.list, template: self.template, prefix }
    }

    /// The duration if it is within the limits; the default if it is not set.
    fn span(
        &mut self,
        key: &str,
        span: Option<Span>,
        default: Duration,
        low: Duration,
        high: Duration,
    ) -> Duration {
        match span {
            None => default,
            Some(Span(span)) if (low..=high).contains(&span) => span,
            Some(Span(span)) => {
                let show = humantime::format_duration;
                self.add(
                    &[key],
                    format!("is {}", show(span)),
                    format!("use a duration from {} to {}", show(low), show(high)),
                );
                default
            }
        }
    }

    fn number<N: PartialOrd + std::fmt::Display + Copy>(
        &mut self,
        key: &str,
        number: Option<N>,
        default: N,
        low: N,
        high: N,
    ) -> N {
        match number {
            None => default,
            Some(number) if (low..=high).contains(&number) => number,
            Some(number) => {
                self.add(&[key], format!("is {number}"), format!("use a whole number from {low} to {high}"));
                default
            }
        }
    }
}

/// What units have from their bus unless they say otherwise.
#[derive(Clone, Copy)]
struct Common {
    limits: Limits,
    timeout: Duration,
    pause: Duration,
}

impl Default for Common {
    fn default() -> Common {
        let limits = Limits { max_registers: 125, max_gap: 8 };
        Common { limits, timeout: Settings::TIMEOUT, pause: Duration::ZERO }
    }
}

/// Judges a bus with its units. Units with a fault are left out; without any unit left, or with a
/// fault of its own, there is no bus. `order`: of two units with one address or id, the one that is
/// later in this order of their keys is left out.
pub fn bus<'t, O: Ord>(
    speed: Speed,
    table: &BusTable,
    units: &BTreeMap<String, UnitTable>,
    order: impl Fn(&str) -> O,
    template: impl Fn(&str) -> Result<&'t TemplateTable, Missing>,
) -> (Option<Settings>, Vec<Fault>) {
    let mut list = Vec::new();
    let mut faults = Faults { list: &mut list, template: None, prefix: vec!["modbus".to_owned()] };
    let ms = Duration::from_millis;
    let backoff = faults.span("backoff", table.backoff, Settings::BACKOFF, ms(100), HOUR);
    let default_max = Settings::BACKOFF_MAX.max(backoff);
    let per_second = faults.number("max-requests-per-second", table.max_requests_per_second, 0, 1, 1000);
    let mut settings = Settings {
        // Two characters a byte; those around each frame are within the time-out.
        speed: match table.mode {
            Some(ModeWord::Ascii) => Speed { bits: speed.bits.saturating_mul(2), ..speed },
            Some(ModeWord::Rtu) | None => speed,
        },
        timeout: faults.span("timeout", table.timeout, Settings::TIMEOUT, ms(10), ms(60_000)),
        interval: Duration::from_secs(1).checked_div(per_second).unwrap_or_default(),
        backoff,
        backoff_max: faults.span("backoff-max", table.backoff_max, default_max, backoff, HOUR),
        echo: table.echo.unwrap_or(false),
        ascii: table.mode == Some(ModeWord::Ascii),
        is_unnumbered: table.transaction_id == Some(TransactionIdWord::Ignore),
        units: Vec::new(),
    };
    let limits = Limits {
        max_registers: faults.number("max-registers", table.max_registers, 125, 1, 125),
        max_gap: faults.number("max-gap", table.max_gap, 8, 0, 124),
    };
    let pause = faults.span("pause", table.pause, Duration::ZERO, Duration::ZERO, ms(10_000));
    let common = Common { limits, timeout: settings.timeout, pause };
    let bus_is_sound = list.is_empty();
    let mut seen: BTreeMap<(u8, Option<Name>), String> = BTreeMap::new();
    let mut ordered: Vec<_> = units.iter().collect();
    ordered.sort_by_cached_key(|(key, _)| order(key));
    for (key, table) in ordered {
        if table.enabled == Some(false) {
            continue;
        }
        let before = list.len();
        let found = unit(key, table, common, &template, &mut list);
        let Some(found) = found.filter(|_| list.len() == before) else { continue };
        let mut faults =
            Faults { list: &mut list, template: None, prefix: vec!["unit".to_owned(), key.clone()] };
        if let Some(other) = seen.get(&(found.address, None)) {
            faults.add(&[], format!("has the address of unit.{other}"), "take one out");
        } else if let Some(other) = seen.get(&(0, Some(found.id.clone()))) {
            faults.add(&["id"], format!("{:?} is the id of unit.{other} too", found.id), "use another");
        } else {
            seen.insert((found.address, None), key.clone());
            seen.insert((0, Some(found.id.clone())), key.clone());
            settings.units.push(found);
        }
    }
    settings.units.sort_by_key(|unit| unit.address);
    if units.is_empty() {
        let mut faults = Faults { list: &mut list, template: None, prefix: Vec::new() };
        faults.add(&["unit"], "the bus has no unit", "add one, like [serial.NAME.unit.1]");
    }
    ((bus_is_sound && !settings.units.is_empty()).then_some(settings), list)
}

/// Validates a template.
///
/// # Errors
/// All faults; their keys are relative to the template.
pub fn template(name: &str, table: &TemplateTable) -> Result<(Vec<Register>, Limits), Vec<Fault>> {
    let mut list = Vec::new();
    let (registers, common) =
        map(Some((name, table)), &UnitTable::default(), Common::default(), &[], &mut list);
    if list.is_empty() { Ok((registers, common.limits)) } else { Err(list) }
}

fn unit<'t>(
    key: &str,
    table: &UnitTable,
    common: Common,
    template: &impl Fn(&str) -> Result<&'t TemplateTable, Missing>,
    list: &mut Vec<Fault>,
) -> Option<Unit> {
    let mut own = Vec::new();
    let mut faults =
        Faults { list: &mut own, template: None, prefix: vec!["unit".to_owned(), key.to_owned()] };
    let address = key.parse::<u8>().ok().filter(|address| *address != 0);
    if key.parse() == Ok(0_u8) {
        let message = "0 is the broadcast address, which no unit answers";
        faults.add(&[], message, "use a whole number from 1 to 255");
    } else if address.is_none() {
        faults.add(&[], format!("{key:?} is no address of a unit"), "use a whole number from 1 to 255");
    }
    let id = match table.id.as_deref() {
        None => {
            faults.add(&[], "the unit has no id", "set id, like \"meter-3\"");
            None
        }
        Some(RESERVED_DEVICE) => {
            faults.add(&["id"], format!("{RESERVED_DEVICE:?} is the gateway's own"), "use another");
            None
        }
        Some(id) => Name::parse(id)
            .map_err(|error| faults.add(&["id"], format!("{id:?}: {error}"), "use a name like \"meter-3\""))
            .ok(),
    };
    let path = table.path.clone().unwrap_or_else(|| Unit::PATH.to_owned());
    match Path::parse(&path) {
        Ok(path) if path.is_reserved() => {
            faults.add(&["path"], format!("{path:?} is the gateway's own"), "use another");
        }
        Ok(path) if path.to_string().contains(['{', '}']) => {
            let message = format!("{path:?}: a unit has no captures, its path is the same for each reading");
            faults.add(&["path"], message, "use a path without braces, like \"data\"");
        }
        Ok(_) => {}
        Err(error) => faults.add(&["path"], format!("{path:?}: {error}"), "use a path like \"data\""),
    }
    let period = faults.span("period", table.period, Unit::PERIOD, Duration::from_millis(50), LONGEST);
    let jitter = faults.span("jitter", table.jitter, Duration::ZERO, Duration::ZERO, period);
    let publish = match table.publish {
        Some(PublishWord::Change) => {
            let longest = match table.max_unchanged {
                Some(Span(Duration::ZERO)) => None,
                span => Some(faults.span(
                    "max-unchanged",
                    span,
                    Duration::from_secs(600),
                    Duration::from_secs(1),
                    LONGEST,
                )),
            };
            Publish::OnChange { max_unchanged: longest }
        }
        Some(PublishWord::Always) | None => {
            if table.max_unchanged.is_some() {
                faults.add(
                    &["max-unchanged"],
                    "means nothing here",
                    "set publish = \"change\", or take it out",
                );
            }
            // A template may be of units that publish each reading, too.
            for (name, register) in table.register.iter().filter(|(_, own)| own.enabled != Some(false)) {
                if register.dead_band.is_some_and(|band| band > 0.0) {
                    let advice = "set publish = \"change\" for the unit, or take it out";
                    faults.add(&["register", name, "dead-band"], "means nothing here", advice);
                }
            }
            Publish::Always
        }
    };
    let known = match table.template.as_deref() {
        None => None,
        Some(name) => match template(name) {
            Ok(table) => Some((name, table)),
            Err(Missing { message, advice }) => {
                faults.add(&["template"], message, advice);
                None
            }
        },
    };
    // Without its template, the unit's own registers may be halves of ones.
    let (registers, common) = if known.is_some() || table.template.is_none() {
        map(known, table, common, &["unit".to_owned(), key.to_owned()], &mut own)
    } else {
        (Vec::new(), common)
    };
    if registers.is_empty() && own.is_empty() {
        let mut faults =
            Faults { list: &mut own, template: None, prefix: vec!["unit".to_owned(), key.to_owned()] };
        faults.add(&[], "the unit has no register", "set template, or add registers");
    }
    list.append(&mut own);
    let Common { limits, timeout, pause } = common;
    Some(Unit {
        id: id?,
        address: address?,
        path,
        period,
        jitter,
        publish,
        registers,
        limits,
        timeout,
        pause,
    })
}

/// The registers of a template with a unit's own over them, by address; and what holds for all.
fn map(
    template: Option<(&str, &TemplateTable)>,
    unit: &UnitTable,
    common: Common,
    prefix: &[String],
    list: &mut Vec<Fault>,
) -> (Vec<Register>, Common) {
    let none = TemplateTable::default();
    let own = &unit.register;
    let (name, base) = template.map_or((None, &none), |(name, table)| (Some(name), table));
    let ms = Duration::from_millis;
    let mut common = common;
    // The unit's own keys win over the template's, and those over the bus's.
    let template = (name, &[][..], base.max_registers, base.max_gap, base.timeout, base.pause);
    let unit_keys = (None, prefix, unit.max_registers, unit.max_gap, unit.timeout, unit.pause);
    for (template, prefix, max_registers, max_gap, timeout, pause) in [template, unit_keys] {
        let mut faults = Faults { list: &mut *list, template, prefix: prefix.to_vec() };
        let Common { limits, .. } = common;
        common = Common {
            limits: Limits {
                max_registers: faults.number("max-registers", max_registers, limits.max_registers, 1, 125),
                max_gap: faults.number("max-gap", max_gap, limits.max_gap, 0, 124),
            },
            timeout: faults.span("timeout", timeout, common.timeout, ms(10), ms(60_000)),
            pause: faults.span("pause", pause, common.pause, Duration::ZERO, ms(10_000)),
        };
    }
    let limits = common.limits;
    let mut faults = Faults { list, template: name, prefix: Vec::new() };
    let mut registers: Vec<Register> = Vec::new();
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let keys: BTreeSet<&String> = base.register.keys().chain(own.keys()).collect();
    if keys.len() > REGISTERS_MAX {
        faults.add(
            &["register"],
            format!("has {} registers", keys.len()),
            format!("use at most {REGISTERS_MAX}"),
        );
        return (registers, common);
    }
    let mut exponents: Vec<(String, String, Option<&str>, Vec<String>)> = Vec::new();
    let mut by_key: BTreeMap<String, String> = BTreeMap::new();
    for key in keys {
        let numbering = match own.get(key) {
            Some(own) if own.address.is_some() => unit.numbering.or(base.numbering),
            _ => base.numbering,
        };
        let (table, source, prefix) = match (base.register.get(key), own.get(key)) {
            (Some(base), None) => (base.clone(), name, Vec::new()),
            (Some(base), Some(own)) => (base.overlaid(own), None, prefix.to_vec()),
            (None, Some(own)) => (own.clone(), None, prefix.to_vec()),
            (None, None) => continue,
        };
        if table.enabled == Some(false) {
            continue;
        }
        let mut faults = Faults { list: &mut *faults.list, template: source, prefix };
        let mut faults = faults.below(&["register", key]);
        let Some(register) = register(key, &table, &base.default, (limits, numbering), &mut faults) else {
            continue;
        };
        if let Some(from) = &table.scale_from {
            exponents.push((register.name.clone(), from.clone(), source, faults.prefix.clone()));
        }
        by_key.insert(key.clone(), register.name.clone());
        if let Some(other) = fields.insert(register.name.clone(), key.clone()) {
            let message = format!("{:?} is the name of register.{other} too", register.name);
            faults.add(&["name"], message, "use another");
        }
        registers.push(register);
    }
    if unit.byte_count.or(base.byte_count) == Some(ByteCountWord::Registers) {
        registers.iter_mut().for_each(|register| register.counts_registers = true);
    }
    registers.sort_by(|a, b| (a.table, a.address, &a.name).cmp(&(b.table, b.address, &b.name)));
    for (name, from, source, prefix) in exponents {
        let place = |name: &String| registers.iter().position(|register| register.name == *name);
        let found = by_key.get(&from).and_then(place);
        let found = found.filter(|at| registers[*at].kind.is_whole() && registers[*at].name != name);
        match (found, place(&name)) {
            (Some(_), Some(of)) if registers[of].write.is_some() => {
                let mut faults = Faults { list: &mut *faults.list, template: source, prefix };
                let message = "a value with scale-from cannot be written";
                faults.add(&["writable"], message, "take writable out, or give the value a scale of its own");
            }
            (Some(from), Some(of)) => registers[of].exponent = Some(from),
            _ => {
                let mut faults = Faults { list: &mut *faults.list, template: source, prefix };
                let message = format!("register.{from} is no other whole number of this map");
                faults.add(&["scale-from"], message, "use the name of the register with the exponent");
            }
        }
    }
    (registers, common)
}

fn register(
    key: &str,
    table: &RegisterTable,
    default: &DefaultTable,
    (limits, numbering): (Limits, Option<NumberingWord>),
    faults: &mut Faults<'_>,
) -> Option<Register> {
    let is_numbered = numbering.is_some();
    let numbering = numbering.unwrap_or(NumberingWord::Wire);
    let before = faults.list.len();
    let table_of = |word: TableWord| match word {
        TableWord::Coil => Table::Coil,
        TableWord::Discrete => Table::Discrete,
        TableWord::Holding => Table::Holding,
        TableWord::Input => Table::Input,
    };
    let numbered = match (table.address, numbering) {
        (Some(number), NumberingWord::Manual) => {
            let found = of_manual(number);
            if found.is_none() {
                let advice = "use 1 (coil), 10001 (discrete), 30001 (input), 40001 (holding), or 6 digits";
                faults.add(&["address"], format!("{number} is no number of a manual"), advice);
            }
            if let (Some((numbered, _)), Some(word)) = (found, table.table)
                && table_of(word) != numbered
            {
                let message = format!("{number} is of the {numbered} table");
                faults.add(
                    &["table"],
                    message,
                    "take it out: with numbering = \"manual\" the number says it",
                );
            }
            found
        }
        (Some(number), NumberingWord::Wire) => {
            let address = u16::try_from(number).ok();
            if address.is_none() {
                let advice = "use 0 to 65535, or numbering = \"manual\" for numbers like 400001";
                faults.add(&["address"], format!("is {number}"), advice);
            }
            let place = table_of(table.table.or(default.table).unwrap_or(TableWord::Holding));
            address.map(|address| (place, address))
        }
        (None, _) => None,
    };
    let place = numbered.map_or_else(
        || table_of(table.table.or(default.table).unwrap_or(TableWord::Holding)),
        |(place, _)| place,
    );
    let implied = if place.has_bits() { TypeWord::Bool } else { default.r#type.unwrap_or(TypeWord::U16) };
    let word = table.r#type.unwrap_or(implied);
    let kind = match word {
        TypeWord::Bool => Kind::Bool(table.bit),
        TypeWord::U8 => Kind::U8(half(table.byte)),
        TypeWord::I8 => Kind::I8(half(table.byte)),
        TypeWord::Bcd2 => Kind::Bcd(2),
        TypeWord::Bcd4 => Kind::Bcd(4),
        TypeWord::Bcd8 => Kind::Bcd(8),
        TypeWord::U16 => Kind::U16,
        TypeWord::I16 => Kind::I16,
        TypeWord::U32 => Kind::U32,
        TypeWord::I32 => Kind::I32,
        TypeWord::U64 => Kind::U64,
        TypeWord::I64 => Kind::I64,
        TypeWord::F32 => Kind::F32,
        TypeWord::F64 => Kind::F64,
        TypeWord::String => Kind::String(table.length.unwrap_or(0)),
    };
    let name = table.name.clone().unwrap_or_else(|| key.to_owned());
    if name.is_empty() || name.len() > FIELD_MAX || name.chars().any(char::is_control) {
        faults.add(
            &["name"],
            format!("{name:?} is no field name"),
            "use 1 to 64 bytes, none a control character",
        );
    }
    let is_string = matches!(kind, Kind::String(_));
    match table.length {
        None if is_string => faults.add(&[], "the string has no length", "set length, in registers"),
        Some(length) if is_string && !(1..=limits.max_registers).contains(&length) => faults.add(
            &["length"],
            format!("is {length}"),
            format!("use a whole number from 1 to {}", limits.max_registers),
        ),
        Some(_) if !is_string => faults.add(&["length"], "means nothing here", "it is for type = \"string\""),
        _ => {}
    }
    if !is_string && !place.has_bits() && kind.quantity() > limits.max_registers {
        let message = format!("takes {} registers", kind.quantity());
        faults.add(&["type"], message, format!("one request reads {} (max-registers)", limits.max_registers));
    }
    if place.has_bits() && word != TypeWord::Bool {
        faults.add(
            &["type"],
            format!("the {place} table holds bits"),
            "use type = \"bool\", or another table",
        );
    }
    match table.bit {
        Some(_) if word != TypeWord::Bool || place.has_bits() => {
            faults.add(&["bit"], "means nothing here", "it is for type = \"bool\" in a register");
        }
        Some(bit) if bit > 15 => faults.add(&["bit"], format!("is {bit}"), "use a whole number from 0 to 15"),
        _ => {}
    }
    let mut real =
        |key: &str, number: Option<f64>, default: f64, sound: fn(f64) -> bool, advice: &str| match number {
            None => default,
            Some(_) if !kind.is_number() => {
                faults.add(&[key], "means nothing here", "it is for numbers");
                default
            }
            Some(number) if number.is_finite() && sound(number) => number,
            Some(number) => {
                faults.add(&[key], format!("is {number}"), advice);
                default
            }
        };
    let scale = real("scale", table.scale, 1.0, |scale| scale != 0.0, "use a number other than 0");
    let offset = real("offset", table.offset, 0.0, |_| true, "use a number");
    let dead_band = real("dead-band", table.dead_band, 0.0, |band| band >= 0.0, "use a number from 0 on");
    let length = 2 * usize::from(kind.quantity());
    let absent = table.absent.as_deref().and_then(|text| {
        let bytes = hexadecimal(digits(text)).filter(|bytes| bytes.len() == length && !place.has_bits());
        if bytes.is_none() {
            let advice = format!("use {} hexadecimal digits, as many as the value has", 2 * length);
            faults.add(&["absent"], format!("{text:?} is no raw value of this type"), advice);
        }
        bytes
    });
    let extra = extra(table, kind, place, faults);
    if table.address.is_none() {
        faults.add(&[], "the register has no address", "set address, as it goes over the wire, from 0 on");
    }
    let (_, address) = numbered?;
    if u32::from(address) + u32::from(kind.quantity()) > 0x1_0000 {
        faults.add(&["address"], "the value reaches past address 65535", "use a lower one");
    }
    let order = |own: Option<OrderWord>, default: Option<OrderWord>| match own.or(default) {
        Some(OrderWord::Little) => Order::Little,
        Some(OrderWord::Big) | None => Order::Big,
    };
    let write = access(table, default, faults);
    let register = (faults.list.len() == before).then(|| Register {
        name,
        table: place,
        address,
        kind,
        words: order(table.word_order, default.word_order),
        bytes: order(table.byte_order, default.byte_order),
        scale,
        offset,
        unit: table.unit.clone(),
        absent,
        dead_band,
        write,
        numbered: is_numbered,
        ..extra
    })?;
    if let Err((key, message)) = write::judge(&register) {
        let advice = "take writable out, or change this key";
        faults.add(key.map(|key| [key]).as_ref().map_or(&[], |key| &key[..]), message, advice);
        return None;
    }
    Some(register)
}

/// How a register may be written, if it may.
fn access(table: &RegisterTable, default: &DefaultTable, faults: &mut Faults<'_>) -> Option<Access> {
    if table.writable != Some(true) {
        for (key, is_set) in [
            ("min", table.min.is_some()),
            ("max", table.max.is_some()),
            ("write-multiple", table.write_multiple.is_some()),
            ("read-back", table.read_back.is_some()),
        ] {
            // Where a unit switches off what its template allows, the other keys may stay.
            if is_set && table.writable.is_none() {
                faults.add(&[key], "means nothing here", "set writable = true, or take it out");
            }
        }
        return None;
    }
    Some(Access {
        min: table.min,
        max: table.max,
        multiple: table.write_multiple.or(default.write_multiple).unwrap_or(false),
        read_back: table.read_back.unwrap_or(true),
    })
}

fn half(word: Option<HalfWord>) -> Half {
    match word {
        Some(HalfWord::High) => Half::High,
        Some(HalfWord::Low) | None => Half::Low,
    }
}

/// What a manual's number means: 40001 and 400001 are holding register 0.
fn of_manual(number: u32) -> Option<(Table, u16)> {
    let (table, first) = match number {
        1..=9_999 => (Table::Coil, 1),
        10_001..=19_999 => (Table::Discrete, 10_001),
        30_001..=39_999 => (Table::Input, 30_001),
        40_001..=49_999 => (Table::Holding, 40_001),
        100_001..=165_536 => (Table::Discrete, 100_001),
        300_001..=365_536 => (Table::Input, 300_001),
        400_001..=465_536 => (Table::Holding, 400_001),
        _ => return None,
    };
    Some((table, u16::try_from(number - first).ok()?))
}

/// What only some types have; a register with nothing else set.
fn extra(table: &RegisterTable, kind: Kind, place: Table, faults: &mut Faults<'_>) -> Register {
    let is_string = matches!(kind, Kind::String(_));
    let is_byte = matches!(kind, Kind::U8(_) | Kind::I8(_));
    let is_whole = kind.is_whole() && !place.has_bits();
    for (key, is_set, fits, advice) in [
        ("byte", table.byte.is_some(), is_byte, "it is for type = \"u8\" or \"i8\""),
        ("mask", table.mask.is_some(), is_whole, "it is for whole numbers"),
        ("bits", table.bits.is_some(), is_whole, "it is for whole numbers"),
        ("values", table.values.is_some(), is_whole, "it is for whole numbers"),
        ("characters", table.characters.is_some(), is_string, "it is for type = \"string\""),
        ("charset", table.charset.is_some(), is_string, "it is for type = \"string\""),
        ("scale-from", table.scale_from.is_some(), kind.is_number(), "it is for numbers"),
    ] {
        if is_set && !fits {
            faults.add(&[key], "means nothing here", advice);
        }
    }
    let size = if is_byte || kind == Kind::Bcd(2) { 8 } else { 16 * u32::from(kind.quantity()) };
    let ones = u64::MAX.checked_shr(64_u32.saturating_sub(size)).unwrap_or_default();
    let mask = table.mask.as_deref().and_then(|text| {
        let digits = digits(text);
        let is_hex = digits.len() <= 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mask = is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
        let mask = mask.filter(|mask| *mask != 0);
        if mask.is_none() {
            faults.add(&["mask"], format!("{text:?} is no mask"), "use hexadecimal digits, like \"0FF0\"");
        } else if mask > Some(ones) {
            let message = format!("{text:?} has more bits than the {size} of this type");
            faults.add(&["mask"], message, "use fewer digits, or a longer type");
        }
        mask
    });
    let mut pairs = |key: &str, list: &Option<Vec<String>>, low: i64, high: i64| -> Vec<(i64, String)> {
        let mut found: Vec<(i64, String)> = Vec::new();
        for text in list.iter().flatten() {
            let pair = text.split_once('=').and_then(|(number, name)| {
                let number =
                    number.trim().parse::<i64>().ok().filter(|number| (low..=high).contains(number))?;
                let name = name.trim();
                let is_name = (1..=FIELD_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
                let is_new = found.iter().all(|(other, named)| *other != number && named != name);
                (is_name && is_new).then(|| (number, name.to_owned()))
            });
            match pair {
                Some(pair) => found.push(pair),
                None => faults.add(
                    &[key],
                    format!("{text:?} is not accepted"),
                    format!("use \"NUMBER=NAME\", each number from {low} to {high} and each name once"),
                ),
            }
        }
        found
    };
    let last_bit = (16 * i64::from(kind.quantity()) - 1).clamp(0, 63);
    let bits = pairs("bits", &table.bits, 0, last_bit);
    // Raw numbers: what the type can have, or the mask leaves of it.
    let most = mask.map_or(ones, |mask| mask >> mask.trailing_zeros().min(63));
    let (low, high) = match (kind.is_signed() && mask.is_none(), kind) {
        (true, _) => (-1 - (ones >> 1) as i64, (ones >> 1) as i64),
        (false, Kind::Bcd(digits)) => (0, 10_i64.pow(digits.min(8).into()) - 1),
        (false, _) => (0, i64::try_from(most).unwrap_or(i64::MAX)),
    };
    let names = pairs("values", &table.values, low, high);
    if table.bits.is_some() && table.values.is_some() {
        faults.add(&["values"], "a value is either bits or a text", "take bits or values out");
    }
    if let Some(count @ (0 | 3..)) = table.characters {
        faults.add(&["characters"], format!("is {count}"), "use 1 or 2");
    }
    let width = 2 * kind.quantity();
    match table.answer_bytes {
        Some(count @ (0 | 251..)) => {
            faults.add(&["answer-bytes"], format!("is {count}"), "use a whole number from 1 to 250");
        }
        // Only of a whole number the high bytes can be missing.
        Some(count) if u16::from(count) < width && !kind.is_whole() && !place.has_bits() => {
            let message = format!("is {count}, but this type has {width} bytes");
            faults.add(&["answer-bytes"], message, "use what the unit answers with, or another type");
        }
        _ => {}
    }
    Register {
        mask,
        bits: bits.into_iter().map(|(bit, name)| (u8::try_from(bit).unwrap_or(0), name)).collect(),
        names,
        narrow: table.characters == Some(1),
        charset: table.charset.unwrap_or_default(),
        answer_bytes: table.answer_bytes,
        ..Register::default()
    }
}

/// The digits of a hexadecimal number, which may have a 0x before them.
fn digits(text: &str) -> &str {
    text.strip_prefix("0x").unwrap_or(text)
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len() / 2)
        .map(|at| text.get(2 * at..2 * at + 2).filter(|pair| !pair.starts_with('+')))
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect()
}
