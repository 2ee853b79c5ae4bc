//! Keys for tokens that were added and not used yet, kept in `{state-dir}/new-keys` from one
//! process to the next: the first use of each is told in the log.
//!
//! Read once at the start, and written whole when a key came or was used. A file that is damaged or
//! cannot be written costs that line of the log, and nothing else.

use std::path::Path;
use std::time::Instant;

use super::kept_text::{KeptText, Shape};
use crate::config::certificate::{format_key_hash, parse_key_hash};
use crate::durable::checked_text;
use crate::southbound::mqtt::Intake;

/// The file's name in the state directory.
const FILE: &str = "new-keys";
/// The intake has at most 1,000 keys, and a line at most 138 bytes.
const SHAPE: Shape = Shape { max_bytes: 256 << 10, has_copy: false };
/// The first line.
const FIRST: &str = "tombolo new-keys 1";
const COST: &str =
    "after a restart the first use of a key for tokens that was added before is not in the log";

/// See the module.
pub struct NewKeys {
    kept: KeptText,
    /// Of the intake's keys, as they were handed over last.
    revision: u64,
}

impl NewKeys {
    /// Reads the file and gives the intake its keys back. Blocks; at the start only.
    pub fn open(state_dir: &Path, mqtt: &mut Intake) -> NewKeys {
        let (kept, found) = KeptText::open(state_dir, FILE, SHAPE, COST, parse);
        mqtt.note_new_keys(found.unwrap_or_default());
        NewKeys { kept, revision: mqtt.new_keys_revision() }
    }

    /// Once a second: writes what changed. Never waits for the disk.
    pub fn care(&mut self, now: Instant, mqtt: &mut Intake) {
        if let Some(found) = self.kept.retry(now, parse) {
            mqtt.note_new_keys(found);
        }
        let is_changed = self.revision != mqtt.new_keys_revision() || self.kept.is_failing();
        if is_changed && self.kept.is_ready(now) {
            self.revision = mqtt.new_keys_revision();
            self.kept.write(now, encode(mqtt.new_keys()));
        }
    }

    /// At the stop: writes what is not written yet. Blocks.
    pub fn close(&mut self, mqtt: &Intake) {
        self.kept.finish();
        if self.revision != mqtt.new_keys_revision() || self.kept.is_failing() {
            self.kept.close(&encode(mqtt.new_keys()));
        }
    }

    /// What is wrong, one sentence each, beside what is `known`.
    pub fn problems(&self, known: &[String]) -> Vec<String> {
        self.kept.problems(known)
    }
}

fn encode<'a>(keys: impl Iterator<Item = &'a (String, [u8; 32])>) -> String {
    let lines = keys.map(|(device, key)| format!("{device} {}\n", format_key_hash(key)));
    checked_text::seal(format!("{FIRST}\n{}", lines.collect::<String>()))
}

fn parse(bytes: &[u8]) -> Result<Vec<(String, [u8; 32])>, String> {
    let mut lines = checked_text::open(bytes)?.lines();
    if lines.next() != Some(FIRST) {
        return Err(format!("its first line is not {FIRST:?}"));
    }
    let key = |line: &str| {
        let (device, key) = line.split_once(' ')?;
        Some((device.to_owned(), parse_key_hash(key)?))
    };
    lines.map(|line| key(line).ok_or_else(|| format!("{line:?} is no device and key"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_found() {
        let keys = vec![("cam-1".to_owned(), [7; 32]), ("cam-2".to_owned(), [8; 32])];
        let text = encode(keys.iter());
        assert_eq!(parse(text.as_bytes()), Ok(keys));
        assert_eq!(parse(encode([].iter()).as_bytes()), Ok(Vec::new()));
        for bad in [&text[1..], "", "tombolo new-keys 1\n"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let long = ("d".repeat(crate::message::NAME_MAX), [255; 32]);
        assert!(encode(vec![long; 1_000].iter()).len() as u64 <= SHAPE.max_bytes);
    }
}
