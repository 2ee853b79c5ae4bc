//! Distinguished names (RFC 5280 §4.1.2.4), in DER and as text.
//!
//! Names are copied from `openssl x509 -noout -issuer` (the country first) or from tools that
//! follow RFC 4514 (the common name first), so a name agrees with its reverse. Otherwise the
//! comparison is exact.

use std::fmt;

use super::identity::CertificateIdentity;
use crate::proto::der::{
    self, Der, IA5_STRING, OBJECT_IDENTIFIER, PRINTABLE_STRING, SEQUENCE, SET, UTF8_STRING,
};

/// Attribute types by the names people use (RFC 4519, RFC 2985), with the content of their OBJECT
/// IDENTIFIER.
const TYPES: [(&str, &[u8]); 14] = [
    ("CN", b"\x55\x04\x03"),
    ("SN", b"\x55\x04\x04"),
    ("serialNumber", b"\x55\x04\x05"),
    ("C", b"\x55\x04\x06"),
    ("L", b"\x55\x04\x07"),
    ("ST", b"\x55\x04\x08"),
    ("street", b"\x55\x04\x09"),
    ("O", b"\x55\x04\x0a"),
    ("OU", b"\x55\x04\x0b"),
    ("title", b"\x55\x04\x0c"),
    ("dnQualifier", b"\x55\x04\x2e"),
    ("DC", b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19"),
    ("UID", b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01"),
    ("emailAddress", b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01"),
];
const COMMON_NAME: &[u8] = TYPES[0].1;
/// Most names of a certificate that are shown, and most characters of each.
const NAMES_SHOWN: usize = 4;
const NAME_SHOWN: usize = 128;
/// Most levels of a name.
const LEVELS_MAX: usize = 16;

/// A distinguished name of `1..=16` levels with one attribute each, in its certificate's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DistinguishedName(Box<[(&'static str, Box<str>)]>);

/// Why a text is not a distinguished name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// A part is not `TYPE=value`.
    NoType,
    /// The type is unknown.
    UnknownType(Box<str>),
    /// A part has no value.
    NoValue,
    /// A quote or an escape is incomplete, or a level has several attributes.
    Syntax,
    /// More than 16 levels.
    TooLong,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::NoType => f.write_str("a part of the name is not TYPE=value"),
            NameError::UnknownType(name) => {
                write!(f, "{name:?} is no attribute of a name known here: ")?;
                for (number, (name, _)) in TYPES.iter().enumerate() {
                    write!(f, "{}{name}", if number == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            NameError::NoValue => f.write_str("a part of the name has no value"),
            NameError::Syntax => f.write_str("a quote or a backslash in the name is not followed by its end"),
            NameError::TooLong => f.write_str("the name has more than 16 parts"),
        }
    }
}

impl std::error::Error for NameError {}

impl DistinguishedName {
    /// Parses a DER `Name`, with or without its outer tag. `None` for names without a text form:
    /// without levels, with several attributes in one, or with unknown types or encodings.
    pub fn from_der(name: &[u8]) -> Option<DistinguishedName> {
        let mut levels = Vec::new();
        let mut names = Der(content(name));
        while names.end().is_none() {
            let mut set = Der(names.expect(SET)?);
            let attribute = set.expect(SEQUENCE)?;
            set.end()?;
            let (oid, value) = text(attribute)?;
            let (kind, _) = TYPES.iter().find(|(_, known)| *known == oid)?;
            levels.push((*kind, value.into()));
            if levels.len() > LEVELS_MAX {
                return None;
            }
        }
        (!levels.is_empty()).then(|| DistinguishedName(levels.into()))
    }

    /// Parses `CN=Door CA,O=Example` or `O = Example, CN = Door CA`. A value with a comma, a plus
    /// sign, a quote or a backslash needs double quotes or backslashes (RFC 4514 §2.4).
    ///
    /// # Errors
    /// [`NameError`], the first fault.
    pub fn parse(text: &str) -> Result<DistinguishedName, NameError> {
        let mut levels = Vec::new();
        let mut rest = text.trim();
        loop {
            let (kind, after) = rest.split_once('=').ok_or(NameError::NoType)?;
            let kind = kind.trim();
            let known = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind));
            let (kind, _) = known
                .ok_or_else(|| NameError::UnknownType(kind.chars().take(32).collect::<String>().into()))?;
            let (value, after) = written(after)?;
            if value.is_empty() {
                return Err(NameError::NoValue);
            }
            levels.push((*kind, value.into()));
            if levels.len() > LEVELS_MAX {
                return Err(NameError::TooLong);
            }
            match after {
                Some(after) => rest = after,
                None => return Ok(DistinguishedName(levels.into())),
            }
        }
    }

    /// The content of its DER `Name`, each attribute in the string type that the standard has for
    /// it (RFC 5280 §4.1.2.4, appendix A).
    pub fn to_der(&self) -> Vec<u8> {
        let mut name = Vec::new();
        for (kind, value) in &self.0 {
            let tag = match *kind {
                "C" | "serialNumber" | "dnQualifier" => PRINTABLE_STRING,
                "DC" | "emailAddress" => IA5_STRING,
                _ => UTF8_STRING,
            };
            let oid = TYPES.iter().find(|(name, _)| name == kind).map_or(COMMON_NAME, |(_, oid)| *oid);
            let attribute =
                [der::encode(OBJECT_IDENTIFIER, oid), der::encode(tag, value.as_bytes())].concat();
            name.extend(der::encode(SET, &der::encode(SEQUENCE, &attribute)));
        }
        name
    }

    /// Whether both are the same name, in this order or the reverse.
    pub fn agrees(&self, other: &DistinguishedName) -> bool {
        self.0.len() == other.0.len() && (self.0 == other.0 || self.0.iter().rev().eq(other.0.iter()))
    }
}

impl fmt::Display for DistinguishedName {
    /// The form that [`DistinguishedName::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (kind, value)) in self.0.iter().enumerate() {
            write!(f, "{}{kind}=", if number == 0 { "" } else { ", " })?;
            let trimmed = value.trim() == &**value;
            for (at, character) in value.chars().enumerate() {
                let edge = !trimmed && character.is_whitespace();
                if edge
                    || matches!(character, ',' | '+' | '"' | '\\' | ';' | '<' | '>')
                    || (at == 0 && character == '#')
                {
                    f.write_str("\\")?;
                }
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for CertificateIdentity {
    /// One line for logs: a few of its names and its issuer, escaped and cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uris = self.uris().map(|name| ("URI", name));
        let names = uris.chain(self.dns_names().map(|name| ("DNS", name)));
        let names = names.chain(self.common_name().into_iter().map(|name| ("CN", name)));
        for (kind, name) in names.take(NAMES_SHOWN) {
            write!(f, "{kind} {:?}, ", name.chars().take(NAME_SHOWN).collect::<String>())?;
        }
        match DistinguishedName::from_der(&self.issuer).map(|issuer| issuer.to_string()) {
            Some(issuer) => write!(f, "issuer {:?}", issuer.chars().take(2 * NAME_SHOWN).collect::<String>()),
            None => f.write_str("an issuer of no plain name"),
        }
    }
}

/// A value up to the comma that ends it, and the rest after it.
fn written(text: &str) -> Result<(String, Option<&str>), NameError> {
    let text = text.trim_start();
    let (mut value, mut quoted) = (String::new(), false);
    // White space that is not escaped ends with the value.
    let mut kept = 0;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                value.push(characters.next().ok_or(NameError::Syntax)?.1);
                kept = value.len();
            }
            '"' => {
                quoted = !quoted;
                kept = value.len();
            }
            ',' if !quoted => {
                value.truncate(kept);
                return Ok((value, Some(&text[at + 1..])));
            }
            '+' if !quoted => return Err(NameError::Syntax),
            other => {
                value.push(other);
                if quoted || !other.is_whitespace() {
                    kept = value.len();
                }
            }
        }
    }
    value.truncate(kept);
    if quoted { Err(NameError::Syntax) } else { Ok((value, None)) }
}

/// An attribute's type and its text, where that is ASCII or UTF-8.
fn text(attribute: &[u8]) -> Option<(&[u8], &str)> {
    let mut attribute = Der(attribute);
    let oid = attribute.expect(OBJECT_IDENTIFIER)?;
    let (UTF8_STRING | PRINTABLE_STRING | IA5_STRING, text) = attribute.element()? else { return None };
    Some((oid, std::str::from_utf8(text).ok()?))
}

/// A `Name`'s content, with or without its outer tag.
pub(super) fn content(name: &[u8]) -> &[u8] {
    let mut der = Der(name);
    match der.expect(SEQUENCE) {
        Some(inner) if der.end().is_some() => inner,
        _ => name,
    }
}

/// The common name of a `Name`, if it has exactly one; with two it would be ambiguous.
pub(super) fn common_name(name: &[u8]) -> Option<Box<str>> {
    let mut found = None;
    let mut names = Der(content(name));
    while let Some(set) = names.expect(SET) {
        let mut set = Der(set);
        while let Some(attribute) = set.expect(SEQUENCE) {
            if let Some((COMMON_NAME, text)) = text(attribute) {
                if found.is_some() {
                    return None;
                }
                found = Some(Box::from(text));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: &[u8] =
        b"\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02\x44\x45\x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04door";

    #[test]
    fn a_common_name_is_found_in_a_subject() {
        assert_eq!(common_name(SUBJECT).as_deref(), Some("door"));
        let whole = [&[0x30, SUBJECT.len() as u8], SUBJECT].concat();
        assert_eq!(common_name(&whole).as_deref(), Some("door"));
        for end in 0..SUBJECT.len() {
            assert_eq!(common_name(&SUBJECT[..end]), None);
        }
        assert_eq!(common_name(&[SUBJECT, SUBJECT].concat()), None);
    }

    #[test]
    fn a_name_agrees_with_what_people_write_in_either_order() {
        let name = DistinguishedName::from_der(SUBJECT).unwrap();
        assert_eq!(name.to_string(), "C=DE, CN=door");
        assert_eq!(name.to_der(), SUBJECT);
        for text in ["C = DE, CN = door", "cn=door,c=DE", "CN=\"door\" , C=\\DE"] {
            assert!(DistinguishedName::parse(text).unwrap().agrees(&name), "{text}");
        }
        for text in ["C=DE", "CN=Door,C=DE", "C=DE,CN=door,O=x", "O=DE,CN=door", "C=DE,CN=door ."] {
            assert!(!DistinguishedName::parse(text).unwrap().agrees(&name), "{text}");
        }
    }

    #[test]
    fn a_name_reads_back_as_it_is_shown() {
        for value in ["a", "Example, Inc.", " a ", "#1", "x+y=z", "\"quoted\\\"", "ä"] {
            let name = DistinguishedName([("O", value.into()), ("CN", "x".into())].into());
            assert_eq!(DistinguishedName::parse(&name.to_string()), Ok(name));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let parse = |text| DistinguishedName::parse(text).unwrap_err();
        assert_eq!(parse(""), NameError::NoType);
        assert_eq!(parse("Door CA"), NameError::NoType);
        assert_eq!(parse("issuer=CN = x"), NameError::UnknownType("issuer".into()));
        assert_eq!(parse("CN="), NameError::NoValue);
        assert_eq!(parse("CN=a,"), NameError::NoType);
        assert_eq!(parse("CN=a+O=b"), NameError::Syntax);
        assert_eq!(parse("CN=\"a"), NameError::Syntax);
        assert_eq!(parse("CN=a\\"), NameError::Syntax);
        assert_eq!(parse(&["CN=a"; 17].join(",")), NameError::TooLong);
        // Two attributes in one level, an unknown type, trailing bytes.
        let two = b"\x31\x16\x30\x09\x06\x03\x55\x04\x06\x13\x02\x44\x45\x30\x09\x06\x03\x55\x04\x06\x13\x02\x44\x45";
        assert_eq!(DistinguishedName::from_der(two), None);
        assert_eq!(DistinguishedName::from_der(b""), None);
        for end in 1..SUBJECT.len() {
            let whole = DistinguishedName::from_der(&SUBJECT[..end]);
            assert!(end == 13 || whole.is_none(), "{end}");
        }
    }
}
