//! Which of two versions is newer.
//!
//! A target says by which rules its version is compared (`version-scheme`): those of Debian
//! packages, or those of Semantic Versioning. Comparing text would put 2.10 before 2.9.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// Longest version read, in bytes.
pub const VERSION_MAX: usize = 128;

/// The rules by which versions are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// `[epoch:]upstream[-revision]` (deb-version(7)). It orders every text without blanks, so it
    /// also suits dates and plain numbers.
    #[default]
    Debian,
    /// `major.minor.patch[-pre][+build]` (Semantic Versioning 2.0.0 §11).
    Semver,
}

impl Scheme {
    /// `debian` or `semver`.
    pub fn parse(text: &str) -> Option<Scheme> {
        match text {
            "debian" => Some(Scheme::Debian),
            "semver" => Some(Scheme::Semver),
            _ => None,
        }
    }

    /// As [`Scheme::parse`] reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Debian => "debian",
            Scheme::Semver => "semver",
        }
    }

    /// Whether `version` is one by these rules: `1..=128` bytes of the characters they allow.
    pub fn accepts(self, version: &str) -> bool {
        if version.is_empty() || version.len() > VERSION_MAX {
            return false;
        }
        match self {
            Scheme::Debian => {
                let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".+-~:".contains(&byte);
                !epoch.is_empty()
                    && epoch.bytes().all(|byte| byte.is_ascii_digit())
                    && !rest.is_empty()
                    && rest.bytes().all(allowed)
            }
            Scheme::Semver => Semver::parse(version).is_some(),
        }
    }

    /// How `a` stands to `b`; `None` if one of them is no version by these rules.
    pub fn compare(self, a: &str, b: &str) -> Option<Ordering> {
        if !self.accepts(a) || !self.accepts(b) {
            return None;
        }
        match self {
            Scheme::Debian => Some(compare_debian(a, b)),
            Scheme::Semver => Some(Semver::parse(a)?.compare(&Semver::parse(b)?)),
        }
    }
}

fn compare_debian(a: &str, b: &str) -> Ordering {
    let split = |version: &str| -> (String, String, String) {
        let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        (epoch.to_owned(), upstream.to_owned(), revision.to_owned())
    };
    let (a, b) = (split(a), split(b));
    compare_part(a.0.as_bytes(), b.0.as_bytes())
        .then_with(|| compare_part(a.1.as_bytes(), b.1.as_bytes()))
        .then_with(|| compare_part(a.2.as_bytes(), b.2.as_bytes()))
}

/// deb-version(7), "Sorting algorithm": by turns the longest run of non-digits, in which `~` sorts
/// before the end and letters before everything else, and the longest run of digits, as a number.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        while starts_with_non_digit(a) || starts_with_non_digit(b) {
            let order = weight(a).cmp(&weight(b));
            if order != Ordering::Equal {
                return order;
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (number_a, rest_a) = split_digits(a);
        let (number_b, rest_b) = split_digits(b);
        let order = compare_numbers(number_a, number_b);
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

fn starts_with_non_digit(text: &[u8]) -> bool {
    text.first().is_some_and(|byte| !byte.is_ascii_digit())
}

fn weight(text: &[u8]) -> i32 {
    match text.first() {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

/// Numbers of any length.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let significant =
        |digits: &[u8]| digits.iter().skip_while(|digit| **digit == b'0').copied().collect::<Vec<u8>>();
    let (a, b) = (significant(a), significant(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

struct Semver<'a> {
    core: [&'a [u8]; 3],
    pre: Option<&'a str>,
}

impl<'a> Semver<'a> {
    fn parse(text: &'a str) -> Option<Semver<'a>> {
        let is_identifier = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let are_identifiers = |text: &str| text.split('.').all(is_identifier);
        let (version, build) =
            text.split_once('+').map_or((text, None), |(version, build)| (version, Some(build)));
        let (core, pre) = version.split_once('-').map_or((version, None), |(core, pre)| (core, Some(pre)));
        if !build.is_none_or(are_identifiers) || !pre.is_none_or(are_identifiers) {
            return None;
        }
        let mut numbers = core.split('.');
        let mut number = || {
            let digits = numbers.next()?.as_bytes();
            let is_number = !digits.is_empty()
                && digits.iter().all(u8::is_ascii_digit)
                && (digits.len() == 1 || digits[0] != b'0');
            is_number.then_some(digits)
        };
        let core = [number()?, number()?, number()?];
        numbers.next().is_none().then_some(Semver { core, pre })
    }

    /// §11: build metadata does not count; a pre-release is before its version.
    fn compare(&self, other: &Semver<'_>) -> Ordering {
        let core = self.core.iter().zip(other.core).map(|(a, b)| compare_numbers(a, b));
        let core = core.fold(Ordering::Equal, Ordering::then);
        core.then_with(|| match (self.pre, other.pre) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => compare_pre(a, b),
        })
    }
}

fn compare_pre(a: &str, b: &str) -> Ordering {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (is_number(a), is_number(b)) {
                (true, true) => compare_numbers(a.as_bytes(), b.as_bytes()),
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (false, false) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascending(scheme: Scheme, versions: &[&str]) {
        for (index, a) in versions.iter().enumerate() {
            for (other, b) in versions.iter().enumerate() {
                assert_eq!(scheme.compare(a, b), Some(index.cmp(&other)), "{a} and {b}");
            }
        }
    }

    #[test]
    fn debian_versions_are_ordered_as_dpkg_orders_them() {
        // Every neighbouring pair was confirmed by `dpkg --compare-versions A lt B`.
        ascending(
            Scheme::Debian,
            &[
                "0~~",
                "0~",
                "0",
                "0.1~rc1",
                "0.1~rc1+b1",
                "0.1",
                "0.1-1",
                "0.1-1+deb12u1",
                "0.1a",
                "0.1+1",
                "0.1.0",
                "0.2",
                "0.9",
                "0.10",
                "0.100",
                "1~~a",
                "1",
                "1.0-1~bpo12+1",
                "1.0-1",
                "20261126",
                "1:0.1",
            ],
        );
        assert_eq!(Scheme::Debian.compare("1.0", "1.0-0"), Some(Ordering::Equal));
        assert_eq!(Scheme::Debian.compare("1.00", "1.0"), Some(Ordering::Equal));
        assert_eq!(
            Scheme::Debian.compare("99999999999999999999999", "100000000000000000000000"),
            Some(Ordering::Less)
        );
    }

    #[test]
    fn semantic_versions_are_ordered_as_the_standard_orders_them() {
        // The example of §11, and build metadata.
        ascending(
            Scheme::Semver,
            &[
                "1.0.0-alpha",
                "1.0.0-alpha.1",
                "1.0.0-alpha.beta",
                "1.0.0-beta",
                "1.0.0-beta.2",
                "1.0.0-beta.11",
                "1.0.0-rc.1",
                "1.0.0",
                "1.9.0",
                "1.10.0",
                "1.11.0",
                "2.0.0",
            ],
        );
        assert_eq!(Scheme::Semver.compare("1.0.0+a", "1.0.0+b"), Some(Ordering::Equal));
    }

    #[test]
    fn what_is_no_version_compares_with_nothing() {
        for text in ["", "1.0", "1.0.0.0", "01.0.0", "1.0.0-", "1.0.0+", "1.0.0-a..b", "v1.0.0", "1.0.x"] {
            assert_eq!(Scheme::Semver.compare(text, "1.0.0"), None, "{text}");
        }
        for text in ["", "1 0", "a:1", ":1", "1:", "1_0", "1\n"] {
            assert_eq!(Scheme::Debian.compare(text, "1.0.0"), None, "{text}");
        }
        assert!(!Scheme::Debian.accepts(&"1".repeat(VERSION_MAX + 1)));
    }
}
