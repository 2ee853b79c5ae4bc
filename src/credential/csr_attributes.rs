//! What an EST server wants of a signing request: `csrattrs` (RFC 7030 §4.5.2, RFC 8951 §3.2).

use crate::proto::der::{Der, OBJECT_IDENTIFIER, SEQUENCE, SET};

/// Attributes and object identifiers read of one answer at most.
const READ_MAX: usize = 64;

/// Kinds of key a server may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// RSA, with at least 2,048 bits.
    Rsa,
}

impl std::fmt::Display for KeyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            KeyKind::P256 => "ECDSA P-256",
            KeyKind::P384 => "ECDSA P-384",
            KeyKind::P521 => "ECDSA P-521",
            KeyKind::Ed25519 => "Ed25519",
            KeyKind::Rsa => "RSA",
        })
    }
}

/// What was read; what is not understood is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsrAttributes {
    /// The kind of key it wants.
    pub key: Option<KeyKind>,
    /// It wants the challenge password that binds a request to its TLS session (RFC 7030 §3.5).
    pub challenge_password: bool,
    /// Attributes that are not understood, as dotted numbers, at most 64.
    pub others: Vec<String>,
}

const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const RSA: &str = "1.2.840.113549.1.1.1";
const ED25519: &str = "1.3.101.112";
const CHALLENGE_PASSWORD: &str = "1.2.840.113549.1.9.7";
const CURVES: [(&str, KeyKind); 3] = [
    ("1.2.840.10045.3.1.7", KeyKind::P256),
    ("1.3.132.0.34", KeyKind::P384),
    ("1.3.132.0.35", KeyKind::P521),
];

impl CsrAttributes {
    /// Reads DER; `None` if it is malformed.
    pub fn parse(der: &[u8]) -> Option<CsrAttributes> {
        let mut outer = Der(der);
        let mut items = Der(outer.expect(SEQUENCE)?);
        let mut read = CsrAttributes::default();
        let mut count = 0;
        while items.end().is_none() {
            count += 1;
            if count > READ_MAX {
                return None;
            }
            let (tag, content) = items.element()?;
            match tag {
                OBJECT_IDENTIFIER => read.take(dotted(content)?, None),
                SEQUENCE => {
                    let mut attribute = Der(content);
                    let name = dotted(attribute.expect(OBJECT_IDENTIFIER)?)?;
                    let mut values = Der(attribute.expect(SET)?);
                    let value = values.optional(OBJECT_IDENTIFIER).and_then(dotted);
                    read.take(name, value);
                }
                _ => return None,
            }
        }
        Some(read)
    }

    fn take(&mut self, name: String, value: Option<String>) {
        let curve = |name: &str| CURVES.iter().find(|(number, _)| *number == name).map(|(_, kind)| *kind);
        match name.as_str() {
            EC_PUBLIC_KEY => {
                let kind = value.as_deref().and_then(curve).unwrap_or(KeyKind::P256);
                self.key = self.key.or(Some(kind));
            }
            RSA => self.key = self.key.or(Some(KeyKind::Rsa)),
            ED25519 => self.key = self.key.or(Some(KeyKind::Ed25519)),
            CHALLENGE_PASSWORD => self.challenge_password = true,
            // Older servers list the curve by itself (RFC 7030 §4.5.2's example).
            name if curve(name).is_some() => self.key = curve(name),
            _ => self.others.push(name),
        }
    }

    /// In words, for the message of a refusal; `None` if nothing is wanted.
    pub fn wanted(&self) -> Option<String> {
        let mut wanted: Vec<String> = self.key.iter().map(|kind| format!("a key of kind {kind}")).collect();
        if self.challenge_password {
            wanted.push("a challenge password, which is not supported".to_owned());
        }
        wanted.extend(self.others.iter().take(3).map(|name| format!("attribute {name}")));
        (!wanted.is_empty()).then(|| wanted.join(", "))
    }
}

/// An object identifier as dotted numbers (X.690 §8.19); `None` if it is malformed or has numbers
/// beyond 32 bits.
fn dotted(content: &[u8]) -> Option<String> {
    let mut numbers: Vec<u32> = Vec::new();
    let mut number: u32 = 0;
    for byte in content {
        number = number.checked_mul(128)? | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            match numbers.is_empty() {
                true => {
                    let first = (number / 40).min(2);
                    numbers.extend([first, number - 40 * first]);
                }
                false => numbers.push(number),
            }
            number = 0;
        }
        if numbers.len() > 32 {
            return None;
        }
    }
    if numbers.is_empty() || content.last()? & 0x80 != 0 {
        return None;
    }
    Some(numbers.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    /// The example of RFC 7030 §4.5.2, as RFC 8951's erratum has it.
    const EXAMPLE: &str =
        "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw==";

    #[test]
    fn the_example_of_the_standard_is_read() {
        let der = base64::engine::general_purpose::STANDARD.decode(EXAMPLE).unwrap();
        let read = CsrAttributes::parse(&der).unwrap();
        assert_eq!(read.key, Some(KeyKind::P384));
        assert!(read.challenge_password);
        assert_eq!(read.others, ["1.2.840.113549.1.9.14", "1.2.840.10045.4.3.3"]);
        assert!(read.wanted().unwrap().starts_with("a key of kind ECDSA P-384, a challenge password"));
        for place in 0..der.len() {
            let _ = CsrAttributes::parse(&der[..place]);
            for value in [0, 0x30, 0x80, 0xFF] {
                let mut altered = der.clone();
                altered[place] = value;
                let _ = CsrAttributes::parse(&altered);
            }
        }
    }

    #[test]
    fn nothing_wanted_is_no_wish() {
        assert_eq!(CsrAttributes::parse(&[SEQUENCE, 0]).unwrap().wanted(), None);
        assert_eq!(CsrAttributes::parse(&[]), None);
        assert_eq!(CsrAttributes::parse(&[SET, 0]), None);
    }
}
