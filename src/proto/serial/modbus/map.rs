//! Register maps: the meaning of the bits and registers of a unit, and the values of a poll as one
//! JSON object.
//!
//! The standard only defines that a 16-bit register is sent with its high byte first; larger
//! values, their word order and their scale are vendor-specific (MODBUS Application Protocol V1.1b3
//! §4.2).

use std::fmt::Write as _;

use super::pdu::{Table, data_length};
pub use crate::proto::serial::charset::Charset;

/// How raw bytes become a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One bit of a coil or discrete table; for a register, the bit with this number (0 = lowest),
    /// or whether any bit is set if `None`.
    Bool(Option<u8>),
    /// One byte of a register, unsigned.
    U8(Half),
    /// One byte of a register, two's complement.
    I8(Half),
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
    /// So many decimal digits, four bits each: 2 (the low byte of a register), 4 or 8. A nibble
    /// above 9 makes it `null`.
    Bcd(u8),
    /// So many registers with two characters each, the high byte first, or one each
    /// ([`Register::narrow`]); ends at a NUL, spaces at the end dropped.
    String(u16),
}

/// Which byte of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Half {
    /// Bits 15 to 8.
    High,
    /// Bits 7 to 0.
    #[default]
    Low,
}

impl Kind {
    /// The number of bits or registers.
    pub const fn quantity(self) -> u16 {
        match self {
            Kind::Bool(_) | Kind::U8(_) | Kind::I8(_) | Kind::U16 | Kind::I16 => 1,
            Kind::Bcd(digits) => {
                if digits > 4 {
                    2
                } else {
                    1
                }
            }
            Kind::U32 | Kind::I32 | Kind::F32 => 2,
            Kind::U64 | Kind::I64 | Kind::F64 => 4,
            Kind::String(registers) => registers,
        }
    }

    /// Whether it is a whole number in two's complement.
    pub fn is_signed(self) -> bool {
        matches!(self, Kind::I8(_) | Kind::I16 | Kind::I32 | Kind::I64)
    }

    /// Whether it is a whole number, so that masks, named bits and named values mean something.
    pub const fn is_whole(self) -> bool {
        self.is_number() && !matches!(self, Kind::F32 | Kind::F64)
    }

    /// Whether scale, offset and dead band mean something.
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

/// How a register may be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Access {
    /// The lowest value, as it is published; `None`: what the type can have.
    pub min: Option<f64>,
    /// The highest.
    pub max: Option<f64>,
    /// By function 15 or 16, although it is one bit or register.
    pub multiple: bool,
    /// What was written is read back.
    pub read_back: bool,
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
    /// Of a whole number only these bits, moved down to the lowest.
    pub mask: Option<u64>,
    /// Bits with a name each: the value is an object of them. Empty: it is a number.
    pub bits: Vec<(u8, String)>,
    /// Raw numbers that are given as a text. Others stay numbers.
    pub names: Vec<(i64, String)>,
    /// Of a text: one character a register, in its low byte.
    pub narrow: bool,
    /// Of a text.
    pub charset: Charset,
    /// The register of the same map, as an index, that holds the power of ten by which this one is
    /// multiplied (SunSpec `sunssf`).
    pub exponent: Option<usize>,
    /// The unit answers a read of it, alone, with so many bytes.
    pub answer_bytes: Option<u8>,
    /// Answers of the unit say how many registers they have, and not how many bytes.
    pub counts_registers: bool,
    /// How it may be written; `None`: not at all.
    pub write: Option<Access>,
    /// The configuration says how its address is counted.
    pub numbered: bool,
}

impl Default for Register {
    /// A holding register, `u16`, at address 0, without a name.
    fn default() -> Register {
        Register {
            name: String::new(),
            table: Table::Holding,
            address: 0,
            kind: Kind::U16,
            words: Order::Big,
            bytes: Order::Big,
            scale: 1.0,
            offset: 0.0,
            unit: None,
            absent: None,
            dead_band: 0.0,
            mask: None,
            bits: Vec::new(),
            names: Vec::new(),
            narrow: false,
            charset: Charset::Utf8,
            exponent: None,
            answer_bytes: None,
            counts_registers: false,
            write: None,
            numbered: false,
        }
    }
}

impl Register {
    /// How many registers or bits it takes.
    pub fn quantity(&self) -> u16 {
        self.kind.quantity()
    }

    /// What may be wrong with its address if a unit does not have it: manuals count from 40001.
    pub fn hint(&self) -> Option<String> {
        let prefix = match self.address / 10_000 {
            4 => Table::Holding,
            3 => Table::Input,
            1 => Table::Discrete,
            _ => return None,
        };
        let is_number = !self.address.is_multiple_of(10_000) && !self.numbered;
        // Holding registers are what is meant where no table is named.
        let is_likely = is_number && (self.table == prefix || self.table == Table::Holding);
        is_likely.then(|| {
            format!("manuals count so; if {} is a manual's number, set numbering = \"manual\"", self.address)
        })
    }

    /// The address behind its last register or bit.
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
    /// Bits, of which those in [`Register::bits`] are given.
    Bits(u64),
    /// The unit has none: its own mark for that, or a number that is none.
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
            Value::Bool(_) | Value::Text(_) | Value::Bits(_) | Value::Null => return None,
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
    let length = data_length(register.table, register.kind.quantity());
    let mut bytes = match data.get(at..at + length) {
        Some(raw) => raw.to_vec(),
        None => return short(register, at, length, data),
    };
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

/// The value of a unit that answers with fewer bytes than the registers of a whole number have: it
/// leaves out the high ones. Such an answer has no order of bytes, and no high byte to be chosen.
fn short(register: &Register, at: usize, length: usize, data: &[u8]) -> Option<Value> {
    let first = *data.first().filter(|_| register.answer_bytes.is_some() && at == 0)?;
    if !register.kind.is_whole() {
        return None;
    }
    let fill = if register.kind.is_signed() && first & 0x80 != 0 { 0xFF } else { 0 };
    let mut bytes = vec![fill; length - data.len().min(length)];
    bytes.extend_from_slice(data);
    if register.absent.as_deref() == Some(&bytes[..]) {
        return Some(Value::Null);
    }
    let kind = match register.kind {
        Kind::U8(_) => Kind::U8(Half::Low),
        Kind::I8(_) => Kind::I8(Half::Low),
        kind => kind,
    };
    let register = Register { kind, ..register.clone() };
    Some(value(&register, &bytes))
}

fn value(register: &Register, bytes: &[u8]) -> Value {
    let bytes = match (register.kind, bytes) {
        (Kind::U8(Half::High) | Kind::I8(Half::High), [high, _]) => std::slice::from_ref(high),
        (Kind::U8(Half::Low) | Kind::I8(Half::Low) | Kind::Bcd(2), [_, low]) => std::slice::from_ref(low),
        _ => bytes,
    };
    let whole = || bytes.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let unsigned = || match register.mask {
        Some(mask) => (whole() & mask) >> mask.trailing_zeros().min(63),
        None => whole(),
    };
    let signed = || {
        let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
        (whole() << unused) as i64 >> unused
    };
    let signed = || register.mask.map_or_else(signed, |_| unsigned() as i64);
    // Four bits a digit; none if one of them is no digit.
    let decimal = || {
        let (raw, count) = (unsigned(), 2 * bytes.len().min(8));
        (0..count).rev().try_fold(0_u64, |number, at| match raw >> (4 * at) & 15 {
            digit @ 0..=9 => Some(number * 10 + digit),
            _ => None,
        })
    };
    if !register.bits.is_empty() && register.kind.is_whole() {
        return Value::Bits(unsigned());
    }
    if !register.names.is_empty() && register.kind.is_whole() {
        let raw = match register.kind {
            Kind::I8(_) | Kind::I16 | Kind::I32 | Kind::I64 => Some(signed()),
            Kind::Bcd(_) => decimal().and_then(|number| i64::try_from(number).ok()),
            _ => i64::try_from(unsigned()).ok(),
        };
        if let Some((_, name)) = register.names.iter().find(|(number, _)| Some(*number) == raw) {
            return Value::Text(name.clone());
        }
    }
    let plain = register.scale == 1.0 && register.offset == 0.0 || register.exponent.is_some();
    let scaled = |number: f64| tidy(number * register.scale + register.offset);
    match register.kind {
        Kind::Bool(None) => Value::Bool(bytes.iter().any(|byte| *byte != 0)),
        Kind::Bool(Some(bit)) => Value::Bool(unsigned() >> bit.min(15) & 1 == 1),
        Kind::U8(_) | Kind::U16 | Kind::U32 | Kind::U64 if plain => Value::Unsigned(unsigned()),
        Kind::U8(_) | Kind::U16 | Kind::U32 | Kind::U64 => scaled(unsigned() as f64),
        Kind::I8(_) | Kind::I16 | Kind::I32 | Kind::I64 if plain => Value::Signed(signed()),
        Kind::I8(_) | Kind::I16 | Kind::I32 | Kind::I64 => scaled(signed() as f64),
        Kind::Bcd(_) => match decimal() {
            Some(number) if plain => Value::Unsigned(number),
            Some(number) => scaled(number as f64),
            None => Value::Null,
        },
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
            let low: Vec<u8>;
            let bytes = if register.narrow {
                low = bytes.chunks_exact(2).map(|pair| pair[1]).collect();
                &low
            } else {
                bytes
            };
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            Value::Text(register.charset.decode(text).trim_end().to_owned())
        }
    }
}

/// Rounds to 15 digits, which every f64 represents: 2301 times 0.1 is 230.1, not
/// 230.10000000000002.
pub(super) fn tidy(number: f64) -> Value {
    let rounded = format!("{number:.14e}").parse().unwrap_or(number);
    if rounded.is_finite() { Value::Float(rounded) } else { Value::Null }
}

/// Applies exponents that stand in other registers: to be called once, when all was read. A value
/// whose exponent was not read is not known; one whose exponent is none (below -10 or above 10) is
/// `null`.
pub fn resolve(registers: &[Register], values: &mut [Option<Value>]) {
    let exponents: Vec<Option<Option<f64>>> = registers
        .iter()
        .map(|register| {
            let value = values.get(register.exponent?)?.as_ref()?;
            // SunSpec: -10 to 10; 0x8000 is "not implemented".
            Some(value.number().filter(|exponent| (-10.0..=10.0).contains(exponent)))
        })
        .collect();
    for ((register, value), exponent) in registers.iter().zip(values).zip(exponents) {
        if register.exponent.is_none() {
            continue;
        }
        *value = match (value.take(), exponent) {
            (Some(raw), Some(Some(exponent))) => Some(match raw.number() {
                Some(number) => {
                    let size = 10f64.powi(exponent.abs() as i32);
                    let number = if exponent < 0.0 { number / size } else { number * size };
                    tidy(number * register.scale + register.offset)
                }
                None => raw,
            }),
            (Some(_), Some(None)) => Some(Value::Null),
            (_, _) => None,
        };
    }
}

/// Writes the values as one JSON object, in the map's order; those not read are left out.
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
            Value::Bits(value) => {
                for (position, (bit, name)) in register.bits.iter().enumerate() {
                    text.push(if position == 0 { '{' } else { ',' });
                    quote(name, &mut text);
                    push(&mut text, if value >> bit & 1 == 1 { ":true" } else { ":false" });
                }
                text.push('}');
            }
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
        Register { name: "x".to_owned(), address: 10, kind, ..Register::default() }
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
    fn digits_bytes_masks_named_bits_and_named_values_are_read() {
        for (kind, data, expected) in [
            (Kind::Bcd(2), &[0x99, 0x42][..], "42"),
            (Kind::Bcd(4), &[0x12, 0x34], "1234"),
            (Kind::Bcd(8), &[0x12, 0x34, 0x56, 0x78], "12345678"),
            (Kind::Bcd(4), &[0x12, 0x3A], "null"),
            (Kind::U8(Half::High), &[0xFE, 0x01], "254"),
            (Kind::U8(Half::Low), &[0xFE, 0x01], "1"),
            (Kind::I8(Half::High), &[0xFE, 0x01], "-2"),
            (Kind::I8(Half::Low), &[0xFE, 0x80], "-128"),
        ] {
            assert_eq!(json(&register(kind), data), format!("{{\"x\":{expected}}}"), "{kind:?}");
        }
        // Named values of digits are numbers of these digits, and a mask leaves some of them.
        let mut mode = register(Kind::Bcd(4));
        mode.names = vec![(12, "on".to_owned()), (18, "off".to_owned())];
        for (data, expected) in
            [([0x00, 0x12], "\"on\""), ([0x00, 0x18], "\"off\""), ([0, 0x13], "13"), ([0, 0x1A], "null")]
        {
            assert_eq!(json(&mode, &data), format!("{{\"x\":{expected}}}"), "{data:x?}");
        }
        mode.mask = Some(0x0FF0);
        assert_eq!(json(&mode, &[0xF0, 0x42]), r#"{"x":4}"#);
        assert_eq!(json(&mode, &[0xA1, 0x2A]), r#"{"x":"on"}"#);
        let mut masked = register(Kind::U16);
        masked.mask = Some(0x0FF0);
        assert_eq!(json(&masked, &[0xF1, 0x23]), r#"{"x":18}"#);
        masked.scale = 0.5;
        assert_eq!(json(&masked, &[0xF1, 0x23]), r#"{"x":9}"#);
        let mut flags = register(Kind::U16);
        flags.bits = vec![(0, "pump".to_owned()), (15, "alarm".to_owned())];
        assert_eq!(json(&flags, &[0x80, 0]), r#"{"x":{"pump":false,"alarm":true}}"#);
        let mut mode = register(Kind::I16);
        mode.names = vec![(0, "off".to_owned()), (-1, "fault".to_owned())];
        assert_eq!(json(&mode, &[0xFF, 0xFF]), r#"{"x":"fault"}"#);
        assert_eq!(json(&mode, &[0, 7]), r#"{"x":7}"#);
    }

    #[test]
    fn a_value_is_scaled_by_the_power_of_ten_in_another_register() {
        let mut power = register(Kind::I16);
        power.exponent = Some(1);
        let exponent = Register { name: "sf".to_owned(), ..register(Kind::I16) };
        let registers = [power, exponent];
        let read = |raw: i16, exponent: Option<i16>| {
            let raw = decode(&registers[0], 10, &raw.to_be_bytes());
            let exponent = exponent.and_then(|exponent| decode(&registers[1], 10, &exponent.to_be_bytes()));
            let mut values = [raw, exponent];
            resolve(&registers, &mut values);
            let mut out = Vec::new();
            write_json(&registers[..1], &values[..1], &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(read(2301, Some(-1)), r#"{"x":230.1}"#);
        assert_eq!(read(-12, Some(2)), r#"{"x":-1200}"#);
        assert_eq!(read(5, Some(0)), r#"{"x":5}"#);
        // "Not implemented", and an exponent that was not read: neither is a number of this size.
        assert_eq!(read(2301, Some(i16::MIN)), r#"{"x":null}"#);
        assert_eq!(read(2301, None), "{}");
    }

    #[test]
    fn texts_with_one_character_a_register_and_of_other_charsets_are_read() {
        let mut text = register(Kind::String(3));
        text.narrow = true;
        assert_eq!(json(&text, &[0, b'E', 0, b'M', 0, 0]), r#"{"x":"EM"}"#);
        let mut text = register(Kind::String(2));
        text.charset = Charset::Latin1;
        assert_eq!(json(&text, b"\xB0C \0"), "{\"x\":\"\u{B0}C\"}");
        text.charset = Charset::Windows1252;
        assert_eq!(json(&text, b"5\x80  "), "{\"x\":\"5\u{20AC}\"}");
    }

    #[test]
    fn an_answer_shorter_than_its_register_is_its_low_bytes_where_that_is_configured() {
        let mut short = register(Kind::U16);
        assert_eq!(json(&short, &[7]), "{}");
        short.answer_bytes = Some(1);
        assert_eq!(json(&short, &[7]), r#"{"x":7}"#);
        // There is no order of one byte, and no other half.
        short.bytes = Order::Little;
        assert_eq!(json(&short, &[7]), r#"{"x":7}"#);
        for (kind, expected) in [
            (Kind::U8(Half::High), "200"),
            (Kind::I8(Half::High), "-56"),
            (Kind::U16, "200"),
            (Kind::I16, "-56"),
            (Kind::I32, "-56"),
        ] {
            let short = Register { answer_bytes: Some(1), ..register(kind) };
            assert_eq!(json(&short, &[200]), format!("{{\"x\":{expected}}}"), "{kind:?}");
        }
        let real = Register { answer_bytes: Some(1), ..register(Kind::F32) };
        assert_eq!(json(&real, &[200]), "{}");
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
