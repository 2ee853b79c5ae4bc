//! Which certificate belongs to which device: the name in a device's certificate, and the pattern
//! that the certificates of a fleet match.
//!
//! | kind of name | where in the certificate | how it is compared |
//! |---|---|---|
//! | [`NameKind::Uri`] | URIs of the subject alternative name | byte by byte |
//! | [`NameKind::Dns`] | DNS names of the subject alternative name | case-insensitively; a wildcard matches no device |
//! | [`NameKind::CommonName`] | the subject's common name, if there is exactly one | byte by byte |
//!
//! A compared name has no control character, and the part that a fleet's `{id}` matches is a
//! [`Name`], so neither can contain a NUL or a separator.

use std::fmt;

use crate::message::Name;
use crate::proto::dtls::server::{CertificateIdentity, DistinguishedName};

/// Most names a certificate may have; one with more identifies no device.
pub const NAMES_MAX: usize = 32;
/// Longest name compared, in bytes.
pub const NAME_MAX: usize = 1_024;
/// The placeholder for the device's id in a fleet's pattern.
pub const PLACE: &str = "{id}";

/// A kind of name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameKind {
    /// `certificate-uri`
    Uri,
    /// `certificate-dns`
    Dns,
    /// `certificate-cn`
    CommonName,
}

impl NameKind {
    /// All kinds, in the order in which names are collected.
    pub const ALL: [NameKind; 3] = [NameKind::Uri, NameKind::Dns, NameKind::CommonName];

    /// The configuration key that sets such a name.
    pub fn key(self) -> &'static str {
        match self {
            NameKind::Uri => "certificate-uri",
            NameKind::Dns => "certificate-dns",
            NameKind::CommonName => "certificate-cn",
        }
    }

    /// The form in which names of this kind are compared.
    fn fold(self, text: &str) -> Box<str> {
        if self == NameKind::Dns { text.to_ascii_lowercase().into() } else { text.into() }
    }
}

/// The certificate that identifies a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateName {
    pub(super) kind: NameKind,
    pub(super) name: Box<str>,
    pub(super) issuer: Option<DistinguishedName>,
}

/// Why a text is not a certificate name or a pattern of certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateNameError {
    /// Empty, longer than 1,024 bytes, or with a control character.
    Text,
    /// Not a DNS name, or a wildcard name.
    Dns,
    /// Not exactly one `{id}`.
    Place,
}

impl fmt::Display for CertificateNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CertificateNameError::Text => {
                "a certificate name is 1 to 1,024 bytes of text without control characters"
            }
            CertificateNameError::Dns => "this is not a DNS name; a wildcard name is not allowed",
            CertificateNameError::Place => "a fleet's certificate name needs {id} exactly once",
        })
    }
}

impl std::error::Error for CertificateNameError {}

impl CertificateName {
    /// The certificate with this name, from `issuer` if it is given, else from any issuer.
    ///
    /// # Errors
    /// [`CertificateNameError`]
    pub fn new(
        kind: NameKind,
        name: &str,
        issuer: Option<DistinguishedName>,
    ) -> Result<CertificateName, CertificateNameError> {
        check(kind, name, name)?;
        Ok(CertificateName { kind, name: kind.fold(name), issuer })
    }

    /// The kind of the name.
    pub fn kind(&self) -> NameKind {
        self.kind
    }

    /// The name, in the form in which it is compared.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The issuer that the certificate must have; `None` = any.
    pub fn issuer(&self) -> Option<&DistinguishedName> {
        self.issuer.as_ref()
    }

    /// Whether one certificate could match both.
    pub fn overlaps(&self, other: &CertificateName) -> bool {
        self.kind == other.kind && self.name == other.name && both(&self.issuer, &other.issuer)
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind.key(), &*self.name)?;
        match &self.issuer {
            Some(issuer) => write!(f, " of {issuer}"),
            None => Ok(()),
        }
    }
}

/// The certificates of a fleet: text with one `{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificatePattern {
    pub(super) kind: NameKind,
    before: Box<str>,
    after: Box<str>,
    pub(super) issuer: Option<DistinguishedName>,
}

impl CertificatePattern {
    /// Parses a text with one `{id}`. In a DNS name, `{id}` is one label or a part of one.
    ///
    /// # Errors
    /// [`CertificateNameError`]
    pub fn new(
        kind: NameKind,
        pattern: &str,
        issuer: Option<DistinguishedName>,
    ) -> Result<CertificatePattern, CertificateNameError> {
        let (before, after) = pattern.split_once(PLACE).ok_or(CertificateNameError::Place)?;
        if after.contains(PLACE) {
            return Err(CertificateNameError::Place);
        }
        check(kind, pattern, &format!("{before}x{after}"))?;
        Ok(CertificatePattern { kind, before: kind.fold(before), after: kind.fold(after), issuer })
    }

    /// The kind of the name.
    pub fn kind(&self) -> NameKind {
        self.kind
    }

    /// The name in the certificate of the device with this id.
    pub fn name_of(&self, id: &str) -> String {
        format!("{}{id}{}", self.before, self.after)
    }

    /// The part that `{id}` should match, if an id looks like the beginning of a whole name: `7`
    /// for the id `door-7` and the pattern `door-{id}.example`.
    pub fn part_of(&self, id: &str) -> Option<Name> {
        let before = (!self.before.is_empty()).then_some(&*self.before)?;
        Name::parse(id.strip_prefix(before)?).ok()
    }

    /// The id that `{id}` matches in `name`.
    pub(super) fn id(&self, name: &str) -> Option<Name> {
        let id = name.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        if self.kind == NameKind::Dns && id.contains('.') {
            return None;
        }
        Name::parse(id).ok()
    }

    /// Whether one name could match both patterns.
    pub fn overlaps(&self, other: &CertificatePattern) -> bool {
        let one = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
        let end = |a: &str, b: &str| a.ends_with(b) || b.ends_with(a);
        self.kind == other.kind
            && one(&self.before, &other.before)
            && end(&self.after, &other.after)
            && both(&self.issuer, &other.issuer)
    }
}

impl fmt::Display for CertificatePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}{PLACE}{}\"", self.kind.key(), self.before, self.after)?;
        match &self.issuer {
            Some(issuer) => write!(f, " of {issuer}"),
            None => Ok(()),
        }
    }
}

/// `shown` is the configured text; `name` is a name that a certificate could have.
fn check(kind: NameKind, shown: &str, name: &str) -> Result<(), CertificateNameError> {
    if shown.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(CertificateNameError::Text);
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if kind == NameKind::Dns && !(name.len() <= 253 && name.split('.').all(label)) {
        return Err(CertificateNameError::Dns);
    }
    Ok(())
}

/// Whether one issuer could satisfy both conditions.
fn both(one: &Option<DistinguishedName>, other: &Option<DistinguishedName>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.agrees(other),
        _ => true,
    }
}

/// The names of a verified certificate in the form in which they are compared, in the order of
/// [`NameKind::ALL`]. `None` if there are more than [`NAMES_MAX`].
pub(super) fn names(certificate: &CertificateIdentity) -> Option<Vec<(NameKind, Box<str>)>> {
    let uris = certificate.uris().map(|name| (NameKind::Uri, name));
    let dns = certificate.dns_names().map(|name| (NameKind::Dns, name));
    let common = certificate.common_name().into_iter().map(|name| (NameKind::CommonName, name));
    let all = uris.chain(dns).chain(common);
    if all.clone().count() > NAMES_MAX {
        return None;
    }
    Some(all.filter(|(_, name)| name.len() <= NAME_MAX).map(|(kind, name)| (kind, kind.fold(name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(kind: NameKind, text: &str) -> CertificatePattern {
        CertificatePattern::new(kind, text, None).unwrap()
    }

    #[test]
    fn the_place_in_a_pattern_is_the_id() {
        let doors = pattern(NameKind::Dns, "Door-{id}.example");
        let id = |name: &str| doors.id(name).map(|id| id.to_string());
        assert_eq!(id("door-7.example").as_deref(), Some("7"));
        for name in [
            "door-.example",
            "door-7.example.",
            "door-a.b.example",
            "door-*.example",
            "door-7\0.example",
            "7",
        ] {
            assert_eq!(id(name), None, "{name:?}");
        }
        assert_eq!(id("door-.example"), None);
        // The text before and after must not share letters.
        assert_eq!(pattern(NameKind::CommonName, "aa{id}aa").id("aaa"), None);
        let urn = pattern(NameKind::Uri, "urn:dev:{id}");
        assert_eq!(urn.id("urn:dev:a.b").unwrap().as_str(), "a.b");
        assert_eq!(urn.id("URN:dev:a"), None);
        assert_eq!(urn.id("urn:dev:a/b"), None);
        assert_eq!(urn.id(&format!("urn:dev:{}", "a".repeat(65))), None);
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        let name =
            |kind, text: &str| CertificateName::new(kind, text, None).map(|name| name.name.to_string());
        assert_eq!(name(NameKind::Dns, "Door.Example").unwrap(), "door.example");
        assert_eq!(name(NameKind::Uri, "Urn:X").unwrap(), "Urn:X");
        for text in ["", "*.example", "a..b", "a b", ".a", "a.", "ä.example"] {
            assert!(name(NameKind::Dns, text).is_err(), "{text}");
        }
        assert_eq!(name(NameKind::CommonName, "a\0"), Err(CertificateNameError::Text));
        assert_eq!(name(NameKind::Uri, &"x".repeat(1_025)), Err(CertificateNameError::Text));
        for text in ["x", "{id}{id}", ""] {
            assert!(CertificatePattern::new(NameKind::CommonName, text, None).is_err(), "{text}");
        }
        assert!(CertificatePattern::new(NameKind::Dns, "{id}", None).is_ok());
        assert!(CertificatePattern::new(NameKind::Dns, "{id}.*", None).is_err());
    }

    #[test]
    fn patterns_that_share_a_name_overlap() {
        let overlap = |one: &str, other: &str| {
            let (one, other) = (pattern(NameKind::Dns, one), pattern(NameKind::Dns, other));
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        assert!(overlap("{id}.example", "door-{id}.example"));
        assert!(overlap("door-{id}", "{id}-door"));
        assert!(!overlap("door-{id}.example", "gate-{id}.example"));
        assert!(!overlap("{id}.a.example", "{id}.b.example"));
        assert!(!pattern(NameKind::Dns, "{id}").overlaps(&pattern(NameKind::Uri, "{id}")));
        let of = |issuer: &str| {
            let issuer = DistinguishedName::parse(issuer).unwrap();
            CertificatePattern::new(NameKind::Dns, "{id}", Some(issuer)).unwrap()
        };
        assert!(!of("CN=a").overlaps(&of("CN=b")));
        assert!(of("CN=a").overlaps(&pattern(NameKind::Dns, "{id}")));
    }
}
