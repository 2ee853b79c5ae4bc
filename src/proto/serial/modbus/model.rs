//! The file form of buses, units and device templates, key by key; [`validate`](super::validate)
//! converts it to settings.
//!
//! A field that is `None` was not set; the keys of a unit have precedence over those of its
//! template.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use serde::de::{Deserializer, Error as _};

use super::super::charset::Charset;

/// `[serial.NAME.modbus]`: the bus on a port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BusTable {
    /// Response timeout of a unit; `10ms..=60s`, default 1 s.
    pub timeout: Option<Span>,
    /// Silence before each request in addition to the standard's; up to 10 s, default none.
    pub pause: Option<Span>,
    /// Most requests per second; `1..=1000`, default limited only by the line.
    pub max_requests_per_second: Option<u32>,
    /// Back-off of a unit after its first failure; `100ms..=1h`, default 1 s.
    pub backoff: Option<Span>,
    /// Longest back-off; from `backoff` to 1 h, default 60 s.
    pub backoff_max: Option<Span>,
    /// Whether the adapter receives its own transmissions; default no.
    pub echo: Option<bool>,
    /// How frames are sent; default RTU.
    pub mode: Option<ModeWord>,
    /// Most registers one request may ask for, unless a template or unit says otherwise;
    /// `1..=125`, default 125.
    pub max_registers: Option<u16>,
    /// Most unwanted registers read between two wanted ones, unless a template or unit says
    /// otherwise; `0..=124`, default 8.
    pub max_gap: Option<u16>,
    /// Whether the transaction identifier of answers of Modbus TCP counts; default yes.
    pub transaction_id: Option<TransactionIdWord>,
}

/// `[serial.NAME.unit.ADDRESS]`: one unit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct UnitTable {
    /// `false` disables it.
    pub enabled: Option<bool>,
    /// The id of its device; required.
    pub id: Option<String>,
    /// Its role, for the gate.
    pub role: Option<String>,
    /// A label: free text.
    pub label: Option<String>,
    /// The value of each tag, for the gate; `None` = reset by an empty text.
    pub tags: BTreeMap<String, Option<String>>,
    /// Time without activity until it is offline, for the gate.
    pub offline_after: Option<Span>,
    /// The template of its register map: a file name without `.toml`.
    pub template: Option<String>,
    /// The path of its readings within the device; default `data`.
    pub path: Option<String>,
    /// Interval of polls; `50ms..=1d`, default 10 s.
    pub period: Option<Span>,
    /// Random delay of each poll; up to the period, default none.
    pub jitter: Option<Span>,
    /// Which readings are published; default all.
    pub publish: Option<PublishWord>,
    /// With `publish = "change"`: the longest time without a reading; `1s..=1d`, default 10 min;
    /// `0s` = unlimited.
    pub max_unchanged: Option<Span>,
    /// In place of its template's and the bus's.
    pub max_registers: Option<u16>,
    /// In place of its template's and the bus's.
    pub max_gap: Option<u16>,
    /// In place of its template's and the bus's.
    pub pause: Option<Span>,
    /// In place of its template's and the bus's.
    pub timeout: Option<Span>,
    /// How the addresses of its own registers are counted; default as its template's.
    pub numbering: Option<NumberingWord>,
    /// What its answers count; default as its template's.
    pub byte_count: Option<ByteCountWord>,
    /// Registers of its own, and changes to those of its template.
    pub register: BTreeMap<String, RegisterTable>,
}

/// A device template: one file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TemplateTable {
    /// Vendor and model.
    pub label: Option<String>,
    /// The source document of the map.
    pub source: Option<String>,
    /// Most registers per request; `1..=125`, default 125.
    pub max_registers: Option<u16>,
    /// Most unwanted registers read between two wanted ones; `0..=124`, default 8.
    pub max_gap: Option<u16>,
    /// Silence before each request, beyond the standard's; up to 10 s, default that of the bus.
    pub pause: Option<Span>,
    /// How long it may think; `10ms..=60s`, default that of the bus.
    pub timeout: Option<Span>,
    /// How its addresses are counted; default as they go over the wire.
    pub numbering: Option<NumberingWord>,
    /// What the byte count of its answers says; default bytes.
    pub byte_count: Option<ByteCountWord>,
    /// What its registers have in common.
    pub default: DefaultTable,
    /// `[register.NAME]`
    pub register: BTreeMap<String, RegisterTable>,
}

impl TemplateTable {
    /// Parses a template file.
    ///
    /// # Errors
    /// [`ParseError`], with the line.
    pub fn parse(text: &str) -> Result<TemplateTable, ParseError> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| before.matches('\n').count() + 1);
            ParseError {
                line: line.and_then(|line| u32::try_from(line).ok()),
                message: error.message().to_owned(),
            }
        })
    }
}

/// A template that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: Option<u32>,
    /// The fault.
    pub message: String,
}

/// `[default]` of a template: defaults of its registers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DefaultTable {
    /// The table; default `holding`.
    pub table: Option<TableWord>,
    /// The type; default `u16`.
    pub r#type: Option<TypeWord>,
    /// The order of several registers; default high word first.
    pub word_order: Option<OrderWord>,
    /// The order of the bytes of a register; default high byte first.
    pub byte_order: Option<OrderWord>,
    /// Whether values of one bit or register are written by function 15 or 16; default no.
    pub write_multiple: Option<bool>,
}

/// `[register.NAME]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RegisterTable {
    /// `false` disables it.
    pub enabled: Option<bool>,
    /// The field in the reading; default the table's name.
    pub name: Option<String>,
    /// The table.
    pub table: Option<TableWord>,
    /// Its first address as it goes over the wire, counted from 0; or with `numbering = "manual"`
    /// a number like 40001 or 400001. Required.
    pub address: Option<u32>,
    /// What it holds.
    pub r#type: Option<TypeWord>,
    /// Registers of a string; `1..=125`.
    pub length: Option<u16>,
    /// The bit of a register for a bool; `0..=15`, 0 = lowest; default: whether any bit is set.
    pub bit: Option<u8>,
    /// Which byte of a register a `u8` or `i8` is; default the low one.
    pub byte: Option<HalfWord>,
    /// Of a whole number only these bits, in hexadecimal: `"0FF0"`; moved down to the lowest.
    pub mask: Option<String>,
    /// Names of bits of a whole number, `"3=alarm"`: the value becomes an object.
    pub bits: Option<Vec<String>>,
    /// Texts for raw whole numbers, `"0=off"`.
    pub values: Option<Vec<String>>,
    /// Characters of a string in each register: 2, or 1 in the low byte; default 2.
    pub characters: Option<u8>,
    /// Of a string; default UTF-8.
    pub charset: Option<Charset>,
    /// The table's name of the register that holds the power of ten for this one.
    pub scale_from: Option<String>,
    /// The unit answers a read of this register with so many bytes; `1..=250`.
    pub answer_bytes: Option<u8>,
    /// Factor; default 1.
    pub scale: Option<f64>,
    /// Added after scaling; default 0.
    pub offset: Option<f64>,
    /// Its physical unit.
    pub unit: Option<String>,
    /// The order of several registers.
    pub word_order: Option<OrderWord>,
    /// The order of the bytes of a register.
    pub byte_order: Option<OrderWord>,
    /// The raw value that means "no value", in hexadecimal, with the length of the value:
    /// `"FFFFFFFF"`.
    pub absent: Option<String>,
    /// With `publish = "change"`: changes up to this are ignored; default 0.
    pub dead_band: Option<f64>,
    /// Whether commands may write it; default no.
    pub writable: Option<bool>,
    /// The lowest value that may be written, as it is published; default what the type can have.
    pub min: Option<f64>,
    /// The highest one.
    pub max: Option<f64>,
    /// Written by function 15 or 16 although it is one bit or register; default no.
    pub write_multiple: Option<bool>,
    /// Whether what was written is read back; default yes.
    pub read_back: Option<bool>,
}

impl RegisterTable {
    /// This table with the keys of `over` replacing its own.
    pub(super) fn overlaid(&self, over: &RegisterTable) -> RegisterTable {
        RegisterTable {
            enabled: over.enabled.or(self.enabled),
            name: over.name.clone().or_else(|| self.name.clone()),
            table: over.table.or(self.table),
            address: over.address.or(self.address),
            r#type: over.r#type.or(self.r#type),
            length: over.length.or(self.length),
            bit: over.bit.or(self.bit),
            byte: over.byte.or(self.byte),
            mask: over.mask.clone().or_else(|| self.mask.clone()),
            bits: over.bits.clone().or_else(|| self.bits.clone()),
            values: over.values.clone().or_else(|| self.values.clone()),
            characters: over.characters.or(self.characters),
            charset: over.charset.or(self.charset),
            scale_from: over.scale_from.clone().or_else(|| self.scale_from.clone()),
            answer_bytes: over.answer_bytes.or(self.answer_bytes),
            scale: over.scale.or(self.scale),
            offset: over.offset.or(self.offset),
            unit: over.unit.clone().or_else(|| self.unit.clone()),
            word_order: over.word_order.or(self.word_order),
            byte_order: over.byte_order.or(self.byte_order),
            absent: over.absent.clone().or_else(|| self.absent.clone()),
            dead_band: over.dead_band.or(self.dead_band),
            writable: over.writable.or(self.writable),
            min: over.min.or(self.min),
            max: over.max.or(self.max),
            write_multiple: over.write_multiple.or(self.write_multiple),
            read_back: over.read_back.or(self.read_back),
        }
    }
}

/// How frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModeWord {
    /// Bytes, with a CRC.
    Rtu,
    /// Hexadecimal digits between ':' and CR LF, with an LRC.
    Ascii,
}

/// A table of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableWord {
    /// Function 1.
    Coil,
    /// Function 2.
    Discrete,
    /// Function 3.
    Holding,
    /// Function 4.
    Input,
}

/// The type of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TypeWord {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bcd2,
    Bcd4,
    Bcd8,
    String,
}

/// How addresses are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NumberingWord {
    /// As they go over the wire, from 0.
    Wire,
    /// As manuals do: 40001 and 400001 are holding register 0, 30001 input register 0, 10001
    /// discrete input 0, 1 coil 0.
    Manual,
}

/// What the byte count of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ByteCountWord {
    /// Bytes of data, as the standard says.
    Bytes,
    /// Registers.
    Registers,
}

/// What an answer's transaction identifier says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransactionIdWord {
    /// Which request it answers.
    Check,
    /// Nothing: the peer does not copy it.
    Ignore,
}

/// A byte of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HalfWord {
    /// Bits 15 to 8.
    High,
    /// Bits 7 to 0.
    Low,
}

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderWord {
    /// High part first.
    Big,
    /// Low part first.
    Little,
}

/// The rule for publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PublishWord {
    /// Every reading.
    Always,
    /// Readings with a changed value.
    Change,
}

/// A duration, written with its unit: `"500ms"`, `"1min"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = humantime::parse_duration(text.trim()).map(Span);
        read.map_err(|_| {
            D::Error::custom("not a duration; use a number with its unit, like \"500ms\" or \"1min\"")
        })
    }
}
