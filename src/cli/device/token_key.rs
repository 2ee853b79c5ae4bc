//! A public key for tokens: from a file, and as it is shown.

use std::io::Read as _;

use serde_json::json;

use crate::cli::error::CommandError;
use crate::clock::UnixTime;
use crate::config::certificate::{format_key_hash, public_key_info};
use crate::config::registry::credentials::format_time;
use crate::gate::jwt::JwtKey;

/// Largest file with a public key, in bytes.
const KEY_FILE_MAX: u64 = 64 << 10;

/// The public key in a file.
pub(super) fn public(file: &std::path::Path, until: Option<UnixTime>) -> Result<JwtKey, CommandError> {
    read(file, until).map_err(CommandError::Failed)
}

/// The public key in a file.
///
/// # Errors
/// The fault, with the file's name.
pub(super) fn read(file: &std::path::Path, until: Option<UnixTime>) -> Result<JwtKey, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{} {why}", file.display());
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(KEY_FILE_MAX).read_to_end(&mut bytes))
        .map_err(|error| failed(&format_args!("cannot be read: {error}")))?;
    let info = public_key_info(&bytes).map_err(|error| failed(&error))?;
    JwtKey::parse(&info, until).map_err(|error| failed(&error))
}

/// Whether an end of a key is still to come; where the clock was never set that is not known.
///
/// # Errors
/// That it is over, with both times.
pub(super) fn check_until(until: Option<UnixTime>, now: Option<UnixTime>) -> Result<(), String> {
    match until.zip(now).filter(|(until, now)| until <= now) {
        None => Ok(()),
        Some((until, now)) => Err(format!(
            "{} is over, it is {} by the clock of this machine: no token of the key would be taken",
            format_time(until),
            format_time(now)
        )),
    }
}

/// A key in JSON.
pub(super) fn key_entry(key: &JwtKey) -> serde_json::Value {
    json!({
        "key": format_key_hash(&key.hash()),
        "algorithm": key.algorithm.as_str(),
        "since": key.since.map(format_time),
        "until": key.until.map(format_time),
    })
}
