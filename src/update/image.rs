//! The record of the one image that is here, or comes: whose it is, how much of it is on disk for
//! certain, and what was fetched today.
//!
//! | file in `{state-dir}/update` | content |
//! |---|---|
//! | `image` | the whole image; its SHA-256 was that of the signed metadata |
//! | `image.part` | its beginning |
//! | `download` | this record: two slots, checksummed |
//!
//! No name comes from a repository. There is never more than one image: another one takes the place
//! of the one before, which is deleted first.

use serde::{Deserialize, Serialize};

use super::download::Budget;
use super::offer::Offer;
use crate::durable::two_slot::SlotFormat;

/// The record's file.
pub const FORMAT: SlotFormat = SlotFormat { name: "download", magic: *b"TBUI", major: 1, content_max: 2048 };
/// The whole image.
pub const IMAGE: &str = "image";
/// Its beginning.
pub const PART: &str = "image.part";
/// Longest ETag kept, in bytes.
const ETAG_MAX: usize = 256;

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its version.
    pub version: String,
    /// The target's name.
    pub target: String,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// The strong ETag its part came under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Bytes of the part that were synced.
    pub have: u64,
    /// What was fetched today.
    #[serde(default)]
    pub budget: Budget,
}

impl Record {
    /// The record of nothing yet of that image. What was spent today stays spent.
    pub fn of(offer: &Offer, budget: Budget) -> Record {
        Record {
            version: offer.version.clone(),
            target: offer.target.clone(),
            sha256: offer.sha256_hex(),
            bytes: offer.bytes,
            etag: None,
            have: 0,
            budget,
        }
    }

    /// Whether it is of that image.
    pub fn is_of(&self, offer: &Offer) -> bool {
        self.sha256 == offer.sha256_hex() && self.bytes == offer.bytes
    }

    /// Reads it; `None` if it is of no known kind.
    pub fn parse(content: &[u8]) -> Option<Record> {
        // serde would also take an array for a struct.
        content.first().filter(|byte| **byte == b'{')?;
        serde_json::from_slice(content).ok()
    }

    /// The record's content.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Keeps an ETag if it is strong and of a bearable length (RFC 9110 §8.8.3).
    pub fn set_etag(&mut self, etag: Option<&str>) {
        let is_usable = |etag: &&str| {
            etag.len() <= ETAG_MAX && etag.starts_with('"') && etag.bytes().all(|b| b.is_ascii_graphic())
        };
        self.etag = etag.filter(is_usable).map(str::to_owned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_record_fits_into_its_slot() {
        let record = Record {
            version: "1".repeat(128),
            target: "t".repeat(128),
            sha256: "0".repeat(64),
            bytes: u64::MAX,
            etag: Some(format!("\"{}\"", "\\".repeat(ETAG_MAX - 2))),
            have: u64::MAX,
            budget: Budget::default(),
        };
        let content = record.encode();
        assert!(content.len() < FORMAT.content_max, "{}", content.len());
        assert_eq!(Record::parse(&content), Some(record));
        assert_eq!(Record::parse(b"[]"), None);
    }

    #[test]
    fn a_weak_long_or_odd_etag_is_not_kept() {
        let mut record = Record::default();
        for (etag, kept) in
            [("\"a\"", true), ("W/\"a\"", false), ("\"a\r\"", false), (&"\"".repeat(300), false)]
        {
            record.set_etag(Some(etag));
            assert_eq!(record.etag.is_some(), kept, "{etag}");
        }
    }
}
