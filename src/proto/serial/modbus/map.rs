//! Register maps: the meaning of the bits and registers of a unit, and the values of a poll as one
//! JSON object.
//!
//! The standard only defines that a 16-bit register is sent with its high byte first; larger
//! values, their word order and their scale are vendor-specific (MODBUS Application Protocol V1.1b3
//! §4.2).

use std::fmt::Write as _;

use super::pdu::{Table, data_length};

/// How raw bytes become a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One bit of a coil or discrete table; for a register, the bit with this number (0 = lowest),
    /// or whether any bit is set if `None`.
    Bool(Option<u8>),
    /// One register, unsigned.
    U16,
    /// One register, two's complement.
    I16,
    /// Two registers, unsigned.
    U32,
    /// Two registers, two's complement.
    I32,
    /// Four registers, unsigned.
    U64,
    /// Four registers, two's complement.
    I64,
    /// Two registers, IEEE 754 single precision.
    F32,
    /// Four registers, IEEE 754 double precision.
    F64,
    /// This many registers with two characters each, the high byte first; ends at a NUL, trailing
    /// spaces are removed.
    String(u16),
}

impl Kind {
    /// The number of bits or registers.
    pub const fn quantity(self) -> u16 {
        match self {
            Kind::Bool(_) | Kind::U16 | Kind::I16 => 1,
            Kind::U32 | Kind::I32 | Kind::F32 => 2,
            Kind::U64 | Kind::I64 | Kind::F64 => 4,
            Kind::String(registers) => registers,
        }
    }

    /// Whether it is a number, so that scale, offset and dead band apply.
    pub const fn is_number(self) -> bool {
        !matches!(self, Kind::Bool(_) | Kind::String(_))
    }
}

/// The order of words or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// High part first: the standard's order of bytes, and most vendors' order of words.
    #[default]
    Big,
    /// Low part first.
    Little,
}

/// One value of a unit's register map.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// Its field in the JSON object.
    pub name: String,
    /// Its table.
    pub table: Table,
    /// Its first register or bit, from 0, as sent on the wire.
    pub address: u16,
    /// Its type.
    pub kind: Kind,
    /// Order of the registers of a value with several registers.
    pub words: Order,
    /// Order of the two bytes of each register.
    pub bytes: Order,
    /// Factor of the raw number; with 1, integers stay integers.
    pub scale: f64,
    /// Added after scaling.
    pub offset: f64,
    /// Its physical unit, as text.
    pub unit: Option<String>,
    /// The raw bytes that mean that there is no value, which is published as `null`.
    pub absent: Option<Vec<u8>>,
    /// Changes up to this, after scaling, are ignored.
    pub dead_band: f64,
}

impl Register {
    /// The address after its last register or bit.
    pub fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.kind.quantity())
    }
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A bit.
    Bool(bool),
    /// An integer.
    Unsigned(u64),
    /// An integer.
    Signed(i64),
    /// A finite number.
    Float(f64),
    /// An unscaled, finite single-precision number.
    Single(f32),
    /// A text.
    Text(String),
    /// No value: the `absent` mark, or a number that is not finite.
    Null,
}

impl Value {
    /// The value as a number, if it is one.
    pub fn number(&self) -> Option<f64> {
        Some(match self {
            Value::Unsigned(value) => *value as f64,
            Value::Signed(value) => *value as f64,
            Value::Float(value) => *value,
            Value::Single(value) => f64::from(*value),
            Value::Bool(_) | Value::Text(_) | Value::Null => return None,
        })
    }
}

/// Decodes a register's value from the response to a request that began at `first`. `None` if it is
/// not completely in it.
pub fn decode(register: &Register, first: u16, data: &[u8]) -> Option<Value> {
    let skip = register.address.checked_sub(first)?;
    if register.table.has_bits() {
        let byte = data.get(usize::from(skip / 8))?;
        return Some(Value::Bool(byte >> (skip % 8) & 1 == 1));
    }
    let at = 2 * usize::from(skip);
    let raw = data.get(at..at + data_length(register.table, register.kind.quantity()))?;
    let mut bytes = raw.to_vec();
    if register.bytes == Order::Little {
        bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
    }
    // Only numbers have a word order; a text does not.
    if register.words == Order::Little && register.kind.is_number() {
        bytes.reverse();
        bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
    }
    if register.absent.as_deref() == Some(&bytes[..]) {
        return Some(Value::Null);
    }
    Some(value(register, &bytes))
}

fn value(register: &Register, bytes: &[u8]) -> Value {
    let unsigned = || bytes.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let signed = || {
        let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
        (unsigned() << unused) as i64 >> unused
    };
    let plain = register.scale == 1.0 && register.offset == 0.0;
    let scaled = |number: f64| tidy(number * register.scale + register.offset);
    match register.kind {
        Kind::Bool(None) => Value::Bool(bytes.iter().any(|byte| *byte != 0)),
        Kind::Bool(Some(bit)) => Value::Bool(unsigned() >> bit.min(15) & 1 == 1),
        Kind::U16 | Kind::U32 | Kind::U64 if plain => Value::Unsigned(unsigned()),
        Kind::U16 | Kind::U32 | Kind::U64 => scaled(unsigned() as f64),
        Kind::I16 | Kind::I32 | Kind::I64 if plain => Value::Signed(signed()),
        Kind::I16 | Kind::I32 | Kind::I64 => scaled(signed() as f64),
        Kind::F32 => {
            let number = f32::from_bits(unsigned() as u32);
            if !number.is_finite() {
                Value::Null
            } else if plain {
                Value::Single(number)
            } else {
                // Converted through decimal text, so that 0.1 stays 0.1 and not its nearest
                // single-precision number.
                scaled(number.to_string().parse().unwrap_or(f64::from(number)))
            }
        }
        Kind::F64 => {
            let number = f64::from_bits(unsigned());
            match plain {
                _ if !number.is_finite() => Value::Null,
                true => Value::Float(number),
                false => scaled(number),
            }
        }
        Kind::String(_) => {
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            Value::Text(String::from_utf8_lossy(text).trim_end().to_owned())
        }
    }
}

/// Rounds to 15 digits, which every f64 represents: 2301 times 0.1 is 230.1, not
/// 230.10000000000002.
fn tidy(number: f64) -> Value {
    let rounded = format!("{number:.14e}").parse().unwrap_or(number);
    if rounded.is_finite() { Value::Float(rounded) } else { Value::Null }
}

/// Writes the values as one JSON object in the map's order; missing values are omitted.
pub fn write_json(registers: &[Register], values: &[Option<Value>], out: &mut Vec<u8>) {
    let mut text = String::from("{");
    for (register, value) in registers.iter().zip(values) {
        let Some(value) = value else { continue };
        if text.len() > 1 {
            text.push(',');
        }
        quote(&register.name, &mut text);
        text.push(':');
        match value {
            Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Value::Unsigned(value) => push(&mut text, value),
            Value::Signed(value) => push(&mut text, value),
            Value::Float(value) => number(*value, value, &mut text),
            Value::Single(value) => number(f64::from(*value), value, &mut text),
            Value::Text(value) => quote(value, &mut text),
            Value::Null => text.push_str("null"),
        }
    }
    text.push('}');
    out.clear();
    out.extend_from_slice(text.as_bytes());
}

fn push(text: &mut String, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = write!(text, "{value}");
}

/// The shortest form that identifies the number; with an exponent if the digits alone would be
/// long.
fn number(size: f64, value: impl std::fmt::Display + std::fmt::LowerExp, text: &mut String) {
    let size = size.abs();
    if size != 0.0 && !(1e-5..1e16).contains(&size) {
        let _ = write!(text, "{value:e}");
    } else {
        push(text, value);
    }
}

fn quote(value: &str, text: &mut String) {
    match serde_json::to_string(value) {
        Ok(quoted) => text.push_str(&quoted),
        // Serializing a text does not fail.
        Err(_) => text.push_str("\"\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(kind: Kind) -> Register {
        Register {
            name: "x".to_owned(),
            table: Table::Holding,
            address: 10,
            kind,
            words: Order::Big,
            bytes: Order::Big,
            scale: 1.0,
            offset: 0.0,
            unit: None,
            absent: None,
            dead_band: 0.0,
        }
    }

    fn json(register: &Register, data: &[u8]) -> String {
        let mut out = Vec::new();
        write_json(std::slice::from_ref(register), &[decode(register, 10, data)], &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_type_is_read_in_every_order() {
        let number = 0x0102_0304_0506_0708u64;
        for (kind, big, expected) in [
            (Kind::U16, vec![0xFF, 0xFE], "65534"),
            (Kind::I16, vec![0xFF, 0xFE], "-2"),
            (Kind::U32, vec![0xFF, 0xFE, 0, 1], "4294836225"),
            (Kind::I32, vec![0xFF, 0xFF, 0xFF, 0xFD], "-3"),
            (Kind::U64, number.to_be_bytes().to_vec(), "72623859790382856"),
            (Kind::U64, vec![0xFF; 8], "18446744073709551615"),
            (Kind::I64, (-5i64).to_be_bytes().to_vec(), "-5"),
            (Kind::F32, 230.1f32.to_be_bytes().to_vec(), "230.1"),
            (Kind::F64, (-0.007_25f64).to_be_bytes().to_vec(), "-0.00725"),
        ] {
            let expected = format!("{{\"x\":{expected}}}");
            let words: Vec<&[u8]> = big.chunks(2).collect();
            let low_word_first: Vec<u8> = words.iter().rev().copied().flatten().copied().collect();
            let swap =
                |bytes: &[u8]| bytes.chunks(2).flat_map(|word| [word[1], word[0]]).collect::<Vec<u8>>();
            let mut register = register(kind);
            assert_eq!(json(&register, &big), expected);
            register.bytes = Order::Little;
            assert_eq!(json(&register, &swap(&big)), expected);
            register.words = Order::Little;
            assert_eq!(json(&register, &swap(&low_word_first)), expected);
            register.bytes = Order::Big;
            assert_eq!(json(&register, &low_word_first), expected);
        }
    }

    #[test]
    fn scale_and_offset_give_the_digits_that_are_meant() {
        let mut scaled = register(Kind::U32);
        scaled.scale = 0.1;
        for raw in 0..100_000u32 {
            let expected = if raw % 10 == 0 {
                format!("{{\"x\":{}}}", raw / 10)
            } else {
                format!("{{\"x\":{}.{}}}", raw / 10, raw % 10)
            };
            assert_eq!(json(&scaled, &raw.to_be_bytes()), expected);
        }
        scaled.offset = -40.0;
        assert_eq!(json(&scaled, &451u32.to_be_bytes()), r#"{"x":5.1}"#);
        let mut single = register(Kind::F32);
        single.scale = 1000.0;
        assert_eq!(json(&single, &0.1f32.to_be_bytes()), r#"{"x":100}"#);
        let mut huge = register(Kind::F64);
        huge.scale = 10.0;
        assert_eq!(json(&huge, &f64::MAX.to_be_bytes()), r#"{"x":null}"#);
    }

    #[test]
    fn numbers_are_always_json() {
        for single in [0.0, -0.0, 1e-30, 3.4e38, 1.5, -7.25e-6, f32::MIN_POSITIVE] {
            let text = json(&register(Kind::F32), &single.to_be_bytes());
            let back: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(back["x"].as_f64().map(|number| number as f32), Some(single), "{text}");
            assert!(text.len() < 24, "{text}");
        }
        for single in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(json(&register(Kind::F32), &single.to_be_bytes()), r#"{"x":null}"#);
        }
    }

    #[test]
    fn a_units_own_mark_for_no_value_is_null_in_any_order() {
        let mut register = register(Kind::I32);
        register.absent = Some(vec![0x7F, 0xFF, 0xFF, 0xFE]);
        assert_eq!(json(&register, &[0x7F, 0xFF, 0xFF, 0xFE]), r#"{"x":null}"#);
        assert_eq!(json(&register, &[0x7F, 0xFF, 0xFF, 0xFF]), r#"{"x":2147483647}"#);
        register.words = Order::Little;
        assert_eq!(json(&register, &[0xFF, 0xFE, 0x7F, 0xFF]), r#"{"x":null}"#);
    }

    #[test]
    fn texts_end_at_a_nul_and_are_escaped() {
        let mut text = register(Kind::String(4));
        assert_eq!(json(&text, b"SDM \0zzz"), r#"{"x":"SDM"}"#);
        assert_eq!(json(&text, b"a\"\\\n\xFFbc "), r#"{"x":"a\"\\\n�bc"}"#);
        text.bytes = Order::Little;
        text.words = Order::Little;
        assert_eq!(json(&text, b"badcfehg"), r#"{"x":"abcdefgh"}"#);
    }

    #[test]
    fn bits_are_found_in_their_byte_and_in_registers() {
        let mut bit = register(Kind::Bool(None));
        bit.table = Table::Coil;
        for address in 10..30 {
            bit.address = address;
            let mut data = [0; 3];
            data[usize::from(address - 10) / 8] = 1 << ((address - 10) % 8);
            assert_eq!(decode(&bit, 10, &data), Some(Value::Bool(true)));
            assert_eq!(decode(&bit, 10, &[!data[0], !data[1], !data[2]]), Some(Value::Bool(false)));
        }
        bit.address = 34;
        assert_eq!(decode(&bit, 10, &[0; 3]), None);
        assert_eq!(decode(&register(Kind::Bool(Some(15))), 10, &[0x80, 0]), Some(Value::Bool(true)));
        assert_eq!(decode(&register(Kind::Bool(Some(14))), 10, &[0x80, 0]), Some(Value::Bool(false)));
        assert_eq!(decode(&register(Kind::Bool(None)), 10, &[0, 4]), Some(Value::Bool(true)));
    }

    #[test]
    fn what_was_not_read_is_left_out() {
        assert_eq!(decode(&register(Kind::U32), 10, &[0, 1, 0]), None);
        assert_eq!(decode(&register(Kind::U16), 11, &[0, 1]), None);
        assert_eq!(json(&register(Kind::U32), &[0]), "{}");
    }
}
