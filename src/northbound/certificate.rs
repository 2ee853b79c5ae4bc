//! The few fields of an X.509 certificate we must read ourselves (RFC 5280 §4.1): version,
//! validity, names.
//!
//! No verification happens here; that is rustls's. This reader never allocates by a length it was
//! told.

use crate::clock::UnixTime;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// 1, 2 or 3. TLS needs 3.
    pub version: u8,
    /// From when it is valid.
    pub not_before: UnixTime,
    /// Until when.
    pub not_after: UnixTime,
    /// The subject's common name, if it has one.
    pub subject: Option<String>,
    /// The issuer's common name, if it has one.
    pub issuer: Option<String>,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xA0;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

impl Certificate {
    /// Reads a DER certificate; `None` if it is none.
    pub fn parse(der: &[u8]) -> Option<Certificate> {
        let (certificate, _) = expect(SEQUENCE, der)?;
        let (body, _) = expect(SEQUENCE, certificate)?;
        let (version, rest) = match expect(VERSION, body) {
            Some((inner, rest)) => (expect(INTEGER, inner)?.0.last()?.checked_add(1)?, rest),
            None => (1, body),
        };
        let (_serial, rest) = expect(INTEGER, rest)?;
        let (_algorithm, rest) = expect(SEQUENCE, rest)?;
        let (issuer, rest) = expect(SEQUENCE, rest)?;
        let (validity, rest) = expect(SEQUENCE, rest)?;
        let (subject, _) = expect(SEQUENCE, rest)?;
        let (not_before, rest) = time(validity)?;
        let (not_after, _) = time(rest)?;
        Some(Certificate {
            version,
            not_before,
            not_after,
            subject: common_name(subject),
            issuer: common_name(issuer),
        })
    }
}

/// What there is to know of a revocation list (RFC 5280 §5.1) beside whom it revokes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// When it was made.
    pub this_update: UnixTime,
    /// When the next one comes, if that is said.
    pub next_update: Option<UnixTime>,
    /// Its issuer's common name, if it has one.
    pub issuer: Option<String>,
}

impl RevocationList {
    /// Reads a DER list; `None` if it is none.
    pub fn parse(der: &[u8]) -> Option<RevocationList> {
        let (list, _) = expect(SEQUENCE, der)?;
        let (body, _) = expect(SEQUENCE, list)?;
        let rest = expect(INTEGER, body).map_or(body, |(_version, rest)| rest);
        let (_algorithm, rest) = expect(SEQUENCE, rest)?;
        let (issuer, rest) = expect(SEQUENCE, rest)?;
        let (this_update, rest) = time(rest)?;
        let next_update = time(rest).map(|(next, _)| next);
        Some(RevocationList { this_update, next_update, issuer: common_name(issuer) })
    }
}

/// One DER element: tag, content, what follows. Definite lengths of up to four bytes.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7F);
        if count == 0 || count > 4 || count > rest.len() {
            return None;
        }
        let (bytes, rest) = rest.split_at(count);
        (bytes.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    (length <= rest.len()).then(|| (tag, &rest[..length], &rest[length..]))
}

/// The content of an element with this tag, and what follows.
pub(super) fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// The first common name in a Name (RFC 5280 §4.1.2.4).
fn common_name(mut name: &[u8]) -> Option<String> {
    while let Some((_, set, rest)) = element(name) {
        name = rest;
        let mut set = set;
        while let Some((_, attribute, rest)) = element(set) {
            set = rest;
            let (kind, value) = expect(OBJECT_IDENTIFIER, attribute)?;
            if kind == COMMON_NAME {
                let (_, text, _) = element(value)?;
                let text = String::from_utf8_lossy(text);
                return Some(text.chars().filter(|c| !c.is_control()).take(64).collect());
            }
        }
    }
    None
}

/// A UTCTime or GeneralizedTime in the form RFC 5280 §4.1.2.5 asks for; times before 1970 become
/// 1970.
fn time(der: &[u8]) -> Option<(UnixTime, &[u8])> {
    let (tag, text, rest) = element(der)?;
    let digits = |range: std::ops::Range<usize>| -> Option<i64> {
        let part = text.get(range)?;
        if !part.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(part.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
    };
    let (year, at) = match tag {
        UTC_TIME => {
            let year = digits(0..2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        GENERALIZED_TIME => (digits(0..4)?, 4),
        _ => return None,
    };
    let month = digits(at..at + 2).filter(|month| (1..=12).contains(month))?;
    let day = digits(at + 2..at + 4).filter(|day| (1..=31).contains(day))?;
    let (hour, minute, second) = (digits(at + 4..at + 6)?, digits(at + 6..at + 8)?, digits(at + 8..at + 10)?);
    let seconds = days_from_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((UnixTime::from_secs(u64::try_from(seconds).unwrap_or(0)), rest))
}

/// Days from 1970-01-01 in the Gregorian calendar.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March put the leap day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["broker.test".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "broker.test");
        change(&mut params);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn version_validity_and_names_are_read() {
        let der = made(|params| {
            params.not_before = rcgen::date_time_ymd(2024, 2, 29);
            params.not_after = rcgen::date_time_ymd(2106, 3, 1);
        });
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!(certificate.version, 3);
        assert_eq!(certificate.not_before.to_string(), "2024-02-29T00:00:00.000Z");
        assert_eq!(certificate.not_after.to_string(), "2106-03-01T00:00:00.000Z");
        assert_eq!(certificate.subject.as_deref(), Some("broker.test"));
        assert_eq!(certificate.issuer.as_deref(), Some("broker.test"));
    }

    fn list(next: i32) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Door CA");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 2, 29),
            next_update: rcgen::date_time_ymd(next, 3, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&rcgen::Issuer::new(params, &key)).unwrap().der().to_vec()
    }

    #[test]
    fn a_revocation_list_says_until_when_it_counts() {
        let read = RevocationList::parse(&list(2106)).unwrap();
        assert_eq!(read.this_update.to_string(), "2024-02-29T00:00:00.000Z");
        assert_eq!(read.next_update.unwrap().to_string(), "2106-03-01T00:00:00.000Z");
        assert!(read.issuer.unwrap().contains("Door CA"));
        let der = list(2030);
        for length in 0..der.len() {
            let _ = RevocationList::parse(&der[..length]);
        }
    }

    #[test]
    fn cut_or_altered_bytes_never_panic() {
        let der = made(|_| {});
        for length in 0..der.len() {
            let _ = Certificate::parse(&der[..length]);
        }
        for place in 0..der.len() {
            for value in [0, 1, 0x7F, 0x80, 0x84, 0xFF] {
                let mut altered = der.clone();
                altered[place] = value;
                let _ = Certificate::parse(&altered);
            }
        }
    }

    #[test]
    fn days_are_counted_across_leap_years() {
        assert_eq!(days_from_1970(1970, 1, 1), 0);
        assert_eq!(days_from_1970(2000, 3, 1), 11_017);
        assert_eq!(days_from_1970(2036, 2, 7), 24_143);
        assert_eq!(days_from_1970(1969, 12, 31), -1);
    }
}
