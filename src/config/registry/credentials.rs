//! What a file of the registry has of keys beside the simple texts: dates, the next pre-shared key,
//! and the public keys of tokens.
//!
//! ```toml
//! psk-since = "2026-11-26T12:00:00Z"
//! next-psk-since = "2026-11-28T12:00:00Z"
//! next-psk-until = "2026-12-03T12:00:00Z"
//! next-psk-identity = "door-7.2"
//! next-psk = "text:…"
//! jwt-keys = [
//!   { key = "MFkw…", until = "2027-11-26T00:00:00Z", since = "2026-11-26T12:00:00Z" },
//! ]
//! ```
//!
//! `key` is the SubjectPublicKeyInfo in base64.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::de::DeValue;

use super::{Get, MakeFault};
use crate::clock::UnixTime;
use crate::config::finding::Finding;
use crate::config::raw::Lines;
use crate::config::scalar::{PSK_IDENTITY_MAX, PSK_KEY_MAX, parse_psk, parse_psk_identity};
use crate::gate::jwt::{JwtKey, KEYS_MAX};
use crate::gate::{NextPsk, Psk};

/// What to do about a fault here.
const ADVICE: &str = "remove the device and add it again";

/// Parses a time of a file: RFC 3339 in UTC.
pub fn parse_time(text: &str) -> Option<UnixTime> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixTime::from_secs(since.as_secs()))
}

/// Formats a time as [`parse_time`] reads it, to the second.
pub fn format_time(time: UnixTime) -> String {
    // Until the year 9999.
    let seconds = Duration::from_secs(time.as_secs().min(253_402_300_799));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + seconds).to_string()
}

/// The time at a key.
pub(super) fn time(
    get: &Get<'_, '_>,
    fault: &MakeFault<'_>,
    key: &str,
) -> Result<Option<UnixTime>, Box<Finding>> {
    let Some((text, line)) = get(key, 64)? else { return Ok(None) };
    parse_time(text).map(Some).ok_or_else(|| fault(line, key, "this is not a time".to_owned(), ADVICE))
}

/// The PSK that is to replace another.
pub(super) fn next_psk(
    get: &Get<'_, '_>,
    fault: &MakeFault<'_>,
    id: &str,
) -> Result<Option<Box<NextPsk>>, Box<Finding>> {
    let Some((key, line)) = get("next-psk", 5 + 2 * PSK_KEY_MAX)? else { return Ok(None) };
    let key =
        parse_psk(key.as_bytes()).map_err(|error| fault(line, "next-psk", error.to_string(), ADVICE))?;
    let identity = match get("next-psk-identity", 4 + 2 * PSK_IDENTITY_MAX)? {
        None => id.as_bytes().to_vec(),
        Some((text, line)) => parse_psk_identity(text)
            .ok_or_else(|| fault(line, "next-psk-identity", "this is no identity".to_owned(), ADVICE))?,
    };
    let Some(until) = time(get, fault, "next-psk-until")? else {
        return Err(fault(line, "next-psk-until", "it is missing beside next-psk".to_owned(), ADVICE));
    };
    Ok(Some(Box::new(NextPsk { psk: Psk { identity, key }, until })))
}

/// The public keys of tokens, each with the time since when it is there.
pub(super) fn jwt_keys(
    value: Option<&toml::Spanned<DeValue<'_>>>,
    lines: &Lines,
    fault: &MakeFault<'_>,
) -> Result<Vec<JwtKey>, Box<Finding>> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let wrong = |at: usize, message: String| fault(Some(lines.line(at)), "jwt-keys", message, ADVICE);
    let start = value.span().start;
    let DeValue::Array(items) = value.get_ref() else {
        return Err(wrong(start, "is not a list of keys".to_owned()));
    };
    if items.len() > KEYS_MAX {
        return Err(wrong(start, format!("has more than {KEYS_MAX} keys")));
    }
    let mut keys: Vec<JwtKey> = Vec::new();
    for item in items {
        let at = item.span().start;
        let DeValue::Table(table) = item.get_ref() else {
            return Err(wrong(at, "is not a table with a key".to_owned()));
        };
        let text = |name: &str| match table.get(name).map(|value| value.get_ref()) {
            None => Ok(None),
            Some(DeValue::String(text)) => Ok(Some(text.as_ref())),
            Some(_) => Err(wrong(at, format!("its {name} is not a text"))),
        };
        let time = |name: &str| match text(name)? {
            None => Ok(None),
            Some(text) => {
                parse_time(text).map(Some).ok_or_else(|| wrong(at, format!("its {name} is not a time")))
            }
        };
        let info = text("key")?.and_then(|text| STANDARD.decode(text).ok());
        let info = info.ok_or_else(|| wrong(at, "it has no key in base64".to_owned()))?;
        let key = JwtKey::parse(&info, time("until")?);
        let mut key = key.map_err(|error| wrong(at, format!("its key {error}")))?;
        key.since = time("since")?;
        keys.push(key);
    }
    Ok(keys)
}

/// Writes [`jwt_keys`].
pub(super) fn render_jwt_keys(text: &mut String, keys: &[JwtKey]) {
    if keys.is_empty() {
        return;
    }
    text.push_str("jwt-keys = [\n");
    for key in keys {
        let _ = write!(text, "  {{ key = \"{}\"", STANDARD.encode(key.info()));
        for (name, time) in [("until", key.until), ("since", key.since)] {
            if let Some(time) = time {
                let _ = write!(text, ", {name} = \"{}\"", format_time(time));
            }
        }
        text.push_str(" },\n");
    }
    text.push_str("]\n");
}
