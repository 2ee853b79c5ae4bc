//! Writing a value of a register map: from the text of a command to a request, and from what is
//! read back to whether the unit has it.
//!
//! | value | written by |
//! |---|---|
//! | a coil | function 5; 15 if [`Access::multiple`] |
//! | one register | function 6; 16 if [`Access::multiple`] |
//! | several registers | function 16 |
//! | bits of a register: `mask`, `bit`, `byte`, `bits` | the same, once the rest was read |
//!
//! The value is what a reading has: scaled, with an offset, a text of `values`, an object of
//! `bits`. It must be within `min` and `max`, within what the type can have, and a step that the
//! scale has: nothing is rounded but to the precision of a float.

pub use super::map::Access;
use super::map::{self, Half, Kind, Order, Register, Value};
use super::pdu::{Exception, Request, Table};
use crate::message::Path;

/// Longest text of a value.
pub const TEXT_MAX: usize = 1024;
/// From here on a float is not each whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// Most names that a refusal lists.
const NAMES_TOLD: usize = 8;

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// The unit has the value, as JSON: read back, or acknowledged where it is not to be read back.
    Done(Vec<u8>),
    /// The unit acknowledged it, and what is read back is something else, or nothing.
    Unconfirmed(String),
    /// The unit refused it.
    Exception(Exception),
    /// The unit did not acknowledge it: it may have been carried out.
    Timeout(String),
    /// It was not sent: the unit or the port did not answer in time.
    Unasked(String),
    /// The line was closed meanwhile: it may have been carried out.
    Unknown,
    /// The line was closed before it was sent.
    Unsent,
}

/// A value to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    register: Register,
    /// The bytes of a response to a read, with the wanted value; of a bit its byte.
    bytes: Vec<u8>,
    /// Which bits of them are the value's.
    own: Vec<u8>,
}

impl Job {
    /// Makes one: `path` is the name of the register, `payload` its value.
    ///
    /// # Errors
    /// Why it is refused, in one sentence.
    pub fn new(registers: &[Register], path: &str, payload: &[u8]) -> Result<Job, String> {
        let writable = || registers.iter().filter(|register| register.write.is_some());
        let Some(register) = registers.iter().find(|register| register.name == path) else {
            let names: Vec<&str> = writable().take(NAMES_TOLD).map(|known| known.name.as_str()).collect();
            return Err(match names.is_empty() {
                true => "the unit has no value that may be written (writable = true)".to_owned(),
                false => format!("the unit has no value {path:?}; writable are: {}", names.join(", ")),
            });
        };
        let Some(access) = register.write else {
            return Err(format!("{path} may not be written: its register has no writable = true"));
        };
        let input = read(payload)?;
        let (bytes, own) = if register.table.has_bits() {
            (vec![u8::from(flag(&input)?)], vec![1])
        } else {
            of_registers(register, access, &input)?
        };
        if own.iter().all(|byte| *byte == 0xFF)
            && register.absent.as_deref() == Some(&canonical(register, &bytes)[..])
        {
            return Err("this value means \"no value\" to the unit (absent)".to_owned());
        }
        Ok(Job { register: register.clone(), bytes, own })
    }

    /// Whether the rest of the register must be read first.
    pub fn is_partial(&self) -> bool {
        !self.register.table.has_bits() && self.own.iter().any(|byte| *byte != 0xFF)
    }

    /// Whether it is read back.
    pub fn reads_back(&self) -> bool {
        self.register.write.is_some_and(|access| access.read_back)
    }

    /// The read of the register.
    pub fn read(&self) -> Option<Request> {
        let Register { table, address, counts_registers, .. } = self.register;
        let read = Request::read(table, address, self.register.quantity()).ok()?;
        Some(read.counted_in_registers(counts_registers))
    }

    /// The write; `before`: the register as it was read, if that is needed.
    pub fn write(&self, before: &[u8]) -> Option<Request> {
        let Register { table, address, .. } = self.register;
        let multiple = self.register.write.is_some_and(|access| access.multiple);
        if table.has_bits() {
            let on = self.bytes.first().is_some_and(|byte| byte & 1 == 1);
            return match multiple {
                true => Request::write_coils(address, &[on]).ok(),
                false => Some(Request::write_coil(address, on)),
            };
        }
        if self.is_partial() && before.len() != self.bytes.len() {
            return None;
        }
        let rest = before.iter().copied().chain(std::iter::repeat(0));
        let merged: Vec<u8> = self
            .bytes
            .iter()
            .zip(&self.own)
            .zip(rest)
            .map(|((byte, own), rest)| byte & own | rest & !own)
            .collect();
        let words: Vec<u16> = merged.as_chunks().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
        match words[..] {
            [word] if !multiple => Some(Request::write_register(address, word)),
            _ => Request::write_registers(address, &words).ok(),
        }
    }

    /// Whether the register, as it was read, has the value.
    pub fn is_in(&self, data: &[u8]) -> bool {
        data.len() == self.bytes.len()
            && data.iter().zip(&self.bytes).zip(&self.own).all(|((data, byte), own)| (data ^ byte) & own == 0)
    }

    /// The register, as it was read, as a reading would have it alone.
    pub fn shown(&self, data: &[u8]) -> Vec<u8> {
        let value = map::decode(&self.register, self.register.address, data);
        let mut text = Vec::new();
        map::write_json(std::slice::from_ref(&self.register), &[value], &mut text);
        text
    }

    /// The same of what is to be written; of named bits those that are not are left out.
    pub fn wanted(&self) -> Vec<u8> {
        let mut register = self.register.clone();
        let all = canonical(&register, &self.own);
        let high = if matches!(register.kind, Kind::U8(Half::High) | Kind::I8(Half::High)) { 8 } else { 0 };
        let own = whole(&all) >> (register.mask.map_or(0, u64::trailing_zeros).min(55) + high);
        register.bits.retain(|(bit, _)| own >> bit & 1 == 1);
        Job { register, ..self.clone() }.shown(&self.bytes)
    }
}

/// What a command's text says.
enum Input {
    Flag(bool),
    Whole(i128),
    Real(f64),
    Text(String),
    Bits(Vec<(String, bool)>),
}

fn read(payload: &[u8]) -> Result<Input, String> {
    const ONE: &str = "the payload is one value: a number, true, false or a text";
    if payload.len() > TEXT_MAX {
        return Err(format!("the value has more than {TEXT_MAX} bytes"));
    }
    let text = std::str::from_utf8(payload).map_err(|_| "the value is no text in UTF-8".to_owned())?.trim();
    if text.is_empty() {
        return Err(format!("the payload is empty; {ONE}"));
    }
    Ok(match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Bool(flag)) => Input::Flag(flag),
        Ok(serde_json::Value::Number(number)) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Input::Whole(whole.into()),
            (None, Some(whole)) => Input::Whole(whole.into()),
            (None, None) => {
                let real = number.as_f64().filter(|real| real.is_finite());
                Input::Real(real.ok_or_else(|| format!("{text} is too large"))?)
            }
        },
        Ok(serde_json::Value::String(text)) => Input::Text(text),
        Ok(serde_json::Value::Object(bits)) => {
            let bits = bits.into_iter().map(|(name, value)| value.as_bool().map(|on| (name, on)));
            Input::Bits(bits.collect::<Option<_>>().ok_or_else(|| ONE.to_owned())?)
        }
        Ok(_) => return Err(ONE.to_owned()),
        Err(_) => Input::Text(text.to_owned()),
    })
}

fn flag(input: &Input) -> Result<bool, String> {
    match input {
        Input::Flag(on) => Ok(*on),
        Input::Whole(0) => Ok(false),
        Input::Whole(1) => Ok(true),
        Input::Text(text) if text.eq_ignore_ascii_case("on") => Ok(true),
        Input::Text(text) if text.eq_ignore_ascii_case("off") => Ok(false),
        _ => Err("the value is true or false, 1 or 0, or on or off".to_owned()),
    }
}

/// The bytes on the wire and which bits of them are the value's.
fn of_registers(register: &Register, access: Access, input: &Input) -> Result<(Vec<u8>, Vec<u8>), String> {
    let length = 2 * usize::from(register.quantity());
    let (raw, own) = match register.kind {
        Kind::Bool(None) => (u64::from(flag(input)?), u64::MAX),
        Kind::Bool(Some(bit)) => (u64::from(flag(input)?) << bit.min(15), 1 << bit.min(15)),
        Kind::F32 => {
            let single = real(register, access, input)? as f32;
            if !single.is_finite() {
                return Err("the value is too large for the type of the register".to_owned());
            }
            (single.to_bits().into(), u64::MAX)
        }
        Kind::F64 => (real(register, access, input)?.to_bits(), u64::MAX),
        _ if !register.bits.is_empty() => named_bits(register, input)?,
        _ => masked(register, raw_whole(register, access, input)?),
    };
    // One byte of a register is moved to its place.
    let (shift, width) = match register.kind {
        Kind::U8(Half::High) | Kind::I8(Half::High) => (8, 0xFF),
        Kind::U8(Half::Low) | Kind::I8(Half::Low) | Kind::Bcd(2) => (0, 0xFF),
        _ => (0, u64::MAX),
    };
    let part = |bits: u64| ((bits & width) << shift).to_be_bytes()[8 - length.min(8)..].to_vec();
    let (bytes, own) = (part(raw), part(own));
    // The same for those on the wire: the order of bytes and words is its own inverse.
    Ok((canonical(register, &bytes), canonical(register, &own)))
}

/// Between the order on the wire and the high byte first, both ways.
fn canonical(register: &Register, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if register.table.has_bits() {
        return bytes;
    }
    if register.bytes == Order::Little {
        bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
    }
    if register.words == Order::Little && register.kind.is_number() {
        bytes.reverse();
        bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
    }
    bytes
}

fn whole(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A raw number in its place, and the bits of that place.
fn masked(register: &Register, raw: i128) -> (u64, u64) {
    // In two's complement; within what the type can have.
    let raw = raw as u64;
    match register.mask {
        Some(mask) => (raw << mask.trailing_zeros().min(63), mask),
        None => (raw, u64::MAX),
    }
}

fn named_bits(register: &Register, input: &Input) -> Result<(u64, u64), String> {
    let names = || {
        register.bits.iter().map(|(_, name)| name.as_str()).take(NAMES_TOLD).collect::<Vec<_>>().join(", ")
    };
    let Input::Bits(wanted) = input else {
        return Err(format!(
            "the value is an object of bits, like {{\"NAME\":true}}; there are: {}",
            names()
        ));
    };
    let shift = register.mask.map_or(0, u64::trailing_zeros).min(63);
    let (mut raw, mut own) = (0, 0);
    for (name, on) in wanted {
        let Some((bit, _)) = register.bits.iter().find(|(_, known)| known == name) else {
            return Err(format!("there is no bit {name:?}; there are: {}", names()));
        };
        let at = 1_u64.checked_shl(u32::from(*bit) + shift).unwrap_or_default();
        own |= at;
        raw |= if *on { at } else { 0 };
    }
    if own == 0 {
        return Err(format!("no bit is named; there are: {}", names()));
    }
    Ok((raw, own))
}

/// The lowest and the highest raw number.
fn raw_range(register: &Register) -> (i128, i128) {
    let size = match register.kind {
        Kind::U8(_) | Kind::I8(_) => 8,
        kind => 16 * u32::from(kind.quantity()),
    };
    match (register.mask, register.kind) {
        (Some(mask), _) => (0, (mask >> mask.trailing_zeros().min(63)).into()),
        (None, Kind::Bcd(digits)) => (0, 10_i128.pow(digits.min(8).into()) - 1),
        (None, kind) if kind.is_signed() => (-(1_i128 << (size - 1)), (1_i128 << (size - 1)) - 1),
        (None, _) => (0, (1_i128 << size) - 1),
    }
}

/// As a reading would show it.
fn tidy(number: f64) -> f64 {
    match map::tidy(number) {
        Value::Float(number) => number,
        _ => number,
    }
}

/// The values that may be written, as they are published, lowest and highest.
fn range(register: &Register, access: Access) -> (f64, f64) {
    let (low, high) = match register.kind {
        Kind::F32 => (f64::from(f32::MIN), f64::from(f32::MAX)),
        Kind::F64 => (f64::MIN, f64::MAX),
        _ => {
            let (low, high) = raw_range(register);
            let (low, high) = (low as f64, high as f64);
            let scaled = |raw: f64| tidy(raw * register.scale + register.offset);
            let (one, other) = (scaled(low), scaled(high));
            (one.min(other), one.max(other))
        }
    };
    (access.min.map_or(low, |min| min.max(low)), access.max.map_or(high, |max| max.min(high)))
}

fn within(register: &Register, access: Access, value: f64) -> Result<(), String> {
    let (low, high) = range(register, access);
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let unit = register.unit.as_ref().map_or(String::new(), |unit| format!(" {unit}"));
    Err(format!("{value} is outside {low} to {high}{unit}"))
}

fn number(register: &Register, input: &Input) -> Result<f64, String> {
    match input {
        Input::Whole(whole) => Ok(*whole as f64),
        Input::Real(real) => Ok(*real),
        Input::Text(text) => Err(format!("{text:?} is no number")),
        Input::Flag(_) | Input::Bits(_) => Err(format!("the value of {} is a number", register.name)),
    }
}

fn real(register: &Register, access: Access, input: &Input) -> Result<f64, String> {
    let value = number(register, input)?;
    within(register, access, value)?;
    let raw = match register.scale == 1.0 && register.offset == 0.0 {
        true => value,
        false => tidy((value - register.offset) / register.scale),
    };
    Ok(raw)
}

/// The raw whole number of a value.
fn raw_whole(register: &Register, access: Access, input: &Input) -> Result<i128, String> {
    let texts = || {
        register.names.iter().map(|(_, name)| name.as_str()).take(NAMES_TOLD).collect::<Vec<_>>().join(", ")
    };
    if let Input::Text(text) = input
        && !register.names.is_empty()
    {
        let found = register.names.iter().find(|(_, name)| name == text);
        return match found {
            Some((raw, _)) => bcd(register, (*raw).into()),
            None => Err(format!("{text:?} is none of its values; there are: {}", texts())),
        };
    }
    if !register.names.is_empty() && access.min.is_none() && access.max.is_none() {
        return Err(format!("the value is one of {}; with min or max a number may be, too", texts()));
    }
    let value = number(register, input)?;
    within(register, access, value)?;
    let is_plain = register.scale == 1.0 && register.offset == 0.0;
    let raw = match input {
        Input::Whole(whole) if is_plain => *whole,
        // A float has no more digits than that; a whole number that fits was read as one.
        Input::Real(real) if is_plain && real.abs() >= EXACT => {
            return Err(format!("{value} is more than the type of the register can have, or not exact"));
        }
        _ => {
            let exact = (value - register.offset) / register.scale;
            let nearest = exact.round();
            if (exact - nearest).abs() > 1e-6_f64.max(exact.abs() * 1e-14) {
                let shown = |raw: f64| tidy(raw * register.scale + register.offset);
                let (one, other) = (shown(exact.floor()), shown(exact.ceil()));
                return Err(format!(
                    "{value} is between two steps, {} and {}",
                    one.min(other),
                    one.max(other)
                ));
            }
            nearest as i128
        }
    };
    let (low, high) = raw_range(register);
    if !(low..=high).contains(&raw) {
        return Err(format!("{value} is more than the type of the register can have"));
    }
    bcd(register, raw)
}

/// The digits of a number, four bits each, where the register has those.
fn bcd(register: &Register, raw: i128) -> Result<i128, String> {
    let Kind::Bcd(digits) = register.kind else { return Ok(raw) };
    let mut rest = raw;
    let coded = (0..u32::from(digits.min(8))).fold(0, |number, digit| {
        let next = number | (rest % 10) << (4 * digit);
        rest /= 10;
        next
    });
    // A mask has room for fewer digits than for the number in binary.
    let room = register.mask.map(|mask| i128::from(mask >> mask.trailing_zeros().min(63)));
    match room.is_some_and(|room| coded > room) {
        true => Err(format!("{raw} has more digits than the mask of the register has room for")),
        false => Ok(coded),
    }
}

/// Whether a register can be written as it is configured.
///
/// # Errors
/// The key that is wrong, if it is a certain one, and why.
pub fn judge(register: &Register) -> Result<(), (Option<&'static str>, String)> {
    let Some(access) = register.write else { return Ok(()) };
    let fail = |key: &'static str, why: &str| Err((Some(key), why.to_owned()));
    if matches!(register.table, Table::Discrete | Table::Input) {
        return fail("writable", &format!("the {} table can only be read", register.table));
    }
    if matches!(register.kind, Kind::String(_)) {
        return fail("writable", "texts cannot be written");
    }
    if register.answer_bytes.is_some() {
        return fail("writable", "a register with answer-bytes cannot be written");
    }
    if register.name.contains('/') || Path::parse(&register.name).is_err() {
        return fail("writable", "its name is the path of commands, and this is no path of one level");
    }
    let is_range = access.min.is_some() || access.max.is_some();
    let is_number = register.kind.is_number() && register.bits.is_empty() && !register.table.has_bits();
    if is_range && !is_number {
        let key = if access.min.is_some() { "min" } else { "max" };
        return fail(key, "means nothing here: it is for numbers");
    }
    let finite = |number: Option<f64>| number.is_none_or(f64::is_finite);
    let (low, high) = match is_number {
        true => range(register, access),
        false => (0.0, 0.0),
    };
    if !finite(access.min) || !finite(access.max) || low > high {
        return fail("min", "no value is within min, max and what the type can have");
    }
    Ok(())
}
