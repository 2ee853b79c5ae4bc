//! Raw values of the layers with their lines, and the check of a value against the kind of its key.

use ::config::{Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::scalar::{parse_duration, parse_size};
use super::schema::{Kind, OPERANDS_MAX, is_limit};
use crate::gate::condition::TEXT_MAX;
use crate::message::Name;

/// A value of any layer.
pub(super) enum Raw {
    Text(String),
    Whole(i64),
    Number(f64),
    Flag(bool),
    List(Vec<Raw>),
    Table(Vec<Entry>),
    /// A type that no key accepts, by its name.
    Other(&'static str),
}

impl Raw {
    pub(super) fn kind_name(&self) -> &'static str {
        match self {
            Raw::Text(_) => "a text",
            Raw::Whole(_) => "a whole number",
            Raw::Number(_) => "a number with a fraction",
            Raw::Flag(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Table(_) => "a table",
            Raw::Other(name) => name,
        }
    }

    /// The value as a number of bytes, if it is one.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Raw::Text(text) => parse_size(text),
            Raw::Whole(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The value in the form shown in findings.
    pub(super) fn shown(&self) -> String {
        match self {
            Raw::Text(text) => {
                let mut short: String = text.chars().take(64).collect();
                if short.len() < text.len() {
                    short.push('…');
                }
                format!("{short:?}")
            }
            Raw::Whole(number) => number.to_string(),
            Raw::Number(number) => number.to_string(),
            Raw::Flag(flag) => flag.to_string(),
            other => other.kind_name().to_owned(),
        }
    }
}

/// A key of a table, its line, and its value.
pub(super) type Entry = (String, Option<u32>, Raw);

/// Checks a single value against its kind.
pub(super) fn accept(kind: Kind, raw: Raw) -> Result<ValueKind, ()> {
    let clean = |text: &str, max: usize| text.len() <= max && !text.chars().any(char::is_control);
    Ok(match (kind, raw) {
        (Kind::Text(max), Raw::Text(text)) if clean(&text, max) => text.into(),
        (Kind::Raw(max), Raw::Text(text)) if (1..=max).contains(&text.len()) => text.into(),
        (Kind::Name, Raw::Text(text)) if Name::parse(&text).is_ok() => text.into(),
        (Kind::Flag, Raw::Flag(flag)) => flag.into(),
        (Kind::Register, raw) => accept(Kind::Whole(0, 465_536), raw)?,
        (Kind::Whole(min, max), Raw::Whole(number)) => {
            u64::try_from(number).ok().filter(|n| (min..=max).contains(n)).ok_or(())?.into()
        }
        (Kind::Number(min, max), raw @ (Raw::Number(_) | Raw::Whole(_))) => {
            let number = match raw {
                Raw::Number(number) => number,
                // Only small numbers are within bounds, and these are exact as f64.
                Raw::Whole(number) => number as f64,
                _ => f64::NAN,
            };
            Some(number).filter(|n| (min..=max).contains(n)).ok_or(())?.into()
        }
        (Kind::Size(min, max), raw @ (Raw::Text(_) | Raw::Whole(_))) => {
            raw.size().filter(|n| (min..=max).contains(n)).ok_or(())?.into()
        }
        (Kind::Span(min, max), Raw::Text(text)) => {
            parse_duration(&text).filter(|d| (min..=max).contains(d)).ok_or(())?;
            text.into()
        }
        (Kind::Choice(words), Raw::Text(text)) if words.contains(&text.as_str()) => text.into(),
        (Kind::Operand, raw) => operand(raw)?,
        (Kind::Operands, Raw::List(items)) if (1..=OPERANDS_MAX).contains(&items.len()) => {
            let values = items.into_iter().map(|item| Ok(Value::new(None, operand(item)?)));
            ValueKind::Array(values.collect::<Result<_, ()>>()?)
        }
        (Kind::Addresses | Kind::Texts, Raw::List(items)) => texts(items, |text| fits(kind, text))?,
        (Kind::Path | Kind::Secret, Raw::Text(text)) if clean(&text, 4096) => text.into(),
        (Kind::Url, Raw::Text(text)) if clean(&text, 1024) => text.into(),
        (Kind::Topic | Kind::FlagOrTopic, Raw::Text(text)) if clean(&text, 1024) => text.into(),
        (Kind::Spans, Raw::Text(text)) if clean(&text, 500) => text.into(),
        (Kind::FlagOrTopic, Raw::Flag(flag)) => flag.into(),
        _ => return Err(()),
    })
}

fn operand(raw: Raw) -> Result<ValueKind, ()> {
    match raw {
        raw if !is_operand(&raw) => Err(()),
        Raw::Flag(flag) => Ok(flag.into()),
        // Exact within the limits.
        Raw::Whole(number) => Ok((number as f64).into()),
        Raw::Number(number) => Ok(number.into()),
        Raw::Text(text) => Ok(text.into()),
        _ => Err(()),
    }
}

fn is_operand(raw: &Raw) -> bool {
    match raw {
        Raw::Flag(_) => true,
        Raw::Whole(number) => is_limit(*number as f64),
        Raw::Number(number) => is_limit(*number),
        Raw::Text(text) => text.len() <= TEXT_MAX,
        _ => false,
    }
}

/// Whether a text may stand in a list of this kind.
fn fits(kind: Kind, text: &str) -> bool {
    match kind {
        Kind::Addresses => text.parse::<std::net::SocketAddr>().is_ok(),
        _ => (1..=255).contains(&text.len()) && !text.chars().any(char::is_control),
    }
}

/// The first item of a list of this kind that makes it unusable; `None` if it is no list.
pub(super) fn unfit(kind: Kind, raw: &Raw) -> Option<&Raw> {
    let Raw::List(items) = raw else { return None };
    items.iter().find(|item| match kind {
        Kind::Operands => !is_operand(item),
        _ => !matches!(item, Raw::Text(text) if fits(kind, text)),
    })
}

fn texts(items: Vec<Raw>, good: impl Fn(&str) -> bool) -> Result<ValueKind, ()> {
    let mut list: Vec<Value> = Vec::new();
    for item in items {
        match item {
            Raw::Text(text) if good(&text) => list.push(Value::new(None, text)),
            _ => return Err(()),
        }
    }
    Ok(ValueKind::Array(list))
}

/// The entries of a table in the order of the file, which is the order of the findings.
pub(super) fn table_of(table: &DeTable<'_>, lines: &Lines) -> Vec<Entry> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| {
            let line = Some(lines.line(key.span().start));
            (key.get_ref().to_string(), line, raw_of(value.get_ref(), lines))
        })
        .collect();
    entries.sort_by_key(|entry| entry.1);
    entries
}

fn raw_of(value: &DeValue<'_>, lines: &Lines) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a number beyond 64 bits"), Raw::Whole),
        DeValue::Float(number) => number
            .as_str()
            .replace('_', "")
            .parse()
            .map_or(Raw::Other("a number with a fraction"), Raw::Number),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw_of(item.get_ref(), lines)).collect()),
        DeValue::Table(table) => Raw::Table(table_of(table, lines)),
    }
}

/// The line of the longest part of `key` that exists in `text`; `None` if that is not TOML, or has
/// not even the first part.
pub(super) fn line_of(text: &str, key: &[String]) -> Option<u32> {
    let table = DeTable::parse(text).ok()?;
    let mut entries = table_of(table.get_ref(), &Lines::of(text));
    let mut found = None;
    for part in key {
        let Some((_, line, raw)) = entries.into_iter().find(|(name, ..)| name == part) else { break };
        found = line;
        match raw {
            Raw::Table(inner) => entries = inner,
            _ => break,
        }
    }
    found
}

/// The line of each byte of a text.
pub(super) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Lines {
        let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1).collect();
        Lines { starts }
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, offset: usize) -> u32 {
        let before = self.starts.partition_point(|start| *start <= offset);
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }
}
