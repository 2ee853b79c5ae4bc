//! The record of a class's images that are here: the one that is offered, and the one before, so
//! that a transfer under way survives a new version.
//!
//! | file in `{state-dir}/firmware/CLASS` | content |
//! |---|---|
//! | `TAG.bin` | an image; TAG are the first 16 hexadecimal digits of its SHA-256 |
//! | `kept` | this record: two slots, checksummed |
//! | `image.part`, `download` | the one that comes: [`image`](crate::update::image) |
//! | `progress` | the [campaign](super::campaign) |
//!
//! The order on disk: the image is whole and verified under its name; then the record names it;
//! then what the record does not name is deleted. So a power cut anywhere leaves either version,
//! and a file that is not named is deleted at the start, or taken if it is the one that is wanted.

use serde::{Deserialize, Serialize};

use crate::durable::two_slot::SlotFormat;
use crate::hex::format_hex;
use crate::update::offer::Offer;
use crate::update::rollout::Share;
use crate::update::version::Scheme;

/// The record's file.
pub const FORMAT: SlotFormat = SlotFormat { name: "kept", magic: *b"TBFW", major: 1, content_max: 4_000 };
/// Images of a class.
pub const IMAGES_MAX: usize = 2;
/// Hexadecimal digits of a [tag](Image::tag).
pub const TAG_DIGITS: usize = 16;
/// Ends the name of an image's file.
pub const SUFFIX: &str = ".bin";

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its version.
    pub version: String,
    /// How versions are compared.
    pub scheme: Scheme,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its length in bytes.
    pub bytes: u64,
    /// The share of the devices it is for, as it was signed.
    pub share: Share,
    /// The lowest version from which it may be installed.
    pub min_version: Option<String>,
    /// It is a SUIT envelope.
    pub is_suit: bool,
}

impl Image {
    /// The image of a target.
    pub fn of(offer: &Offer, is_suit: bool) -> Image {
        Image {
            version: offer.version.clone(),
            scheme: offer.scheme,
            sha256: offer.sha256,
            bytes: offer.bytes,
            share: offer.rollout,
            min_version: offer.min_version.clone(),
            is_suit,
        }
    }

    /// Its name in a path and on disk.
    pub fn tag(&self) -> String {
        format_hex(&self.sha256[..TAG_DIGITS / 2])
    }

    /// The name of its file.
    pub fn file(&self) -> String {
        self.tag() + SUFFIX
    }

    /// The ETag of each of its blocks.
    pub fn etag(&self) -> [u8; 8] {
        let mut etag = [0; 8];
        etag.copy_from_slice(&self.sha256[..8]);
        etag
    }
}

/// Whether these first bytes begin a SUIT envelope: CBOR tag 107 (draft-ietf-suit-manifest §6.2).
pub fn is_suit(head: &[u8]) -> bool {
    head.starts_with(&[0xd8, 0x6b])
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// At most [`IMAGES_MAX`], the one that is offered first.
    pub images: Vec<Image>,
    /// The repository offers nothing to the class any more: no manifest names an image.
    #[serde(default)]
    pub is_withdrawn: bool,
}

impl Kept {
    /// Reads it; `None` if it is of no known kind.
    pub fn parse(content: &[u8]) -> Option<Kept> {
        // serde would also take an array for a struct.
        content.first().filter(|byte| **byte == b'{')?;
        let mut kept: Kept = serde_json::from_slice(content).ok()?;
        kept.images.truncate(IMAGES_MAX);
        Some(kept)
    }

    /// The record's content.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The image with this tag.
    pub fn image(&self, tag: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.tag() == tag)
    }

    /// The image that is offered.
    pub fn current(&self) -> Option<&Image> {
        self.images.first().filter(|_| !self.is_withdrawn)
    }

    /// Puts an image first, or only changes what was signed of it.
    pub fn take(&mut self, image: Image) {
        self.images.retain(|known| known.sha256 != image.sha256);
        self.images.insert(0, image);
        self.images.truncate(IMAGES_MAX);
        self.is_withdrawn = false;
    }

    /// Bytes of all images.
    pub fn bytes(&self) -> u64 {
        self.images.iter().map(|image| image.bytes).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn image(version: &str, digest: u8, bytes: u64) -> Image {
        Image {
            version: version.to_owned(),
            scheme: Scheme::Semver,
            sha256: [digest; 32],
            bytes,
            share: Share::ALL,
            min_version: None,
            is_suit: false,
        }
    }

    #[test]
    fn two_images_are_kept_the_offered_one_first() {
        let mut kept = Kept::default();
        for (version, digest) in [("1.0.0", 1), ("2.0.0", 2), ("3.0.0", 3)] {
            kept.take(image(version, digest, 10));
        }
        let versions = |kept: &Kept| kept.images.iter().map(|of| of.version.clone()).collect::<Vec<_>>();
        assert_eq!((versions(&kept), kept.bytes()), (vec!["3.0.0".to_owned(), "2.0.0".to_owned()], 20));
        kept.take(image("2.0.0", 2, 10));
        assert_eq!(versions(&kept), ["2.0.0", "3.0.0"], "the one before is offered again");
        assert_eq!(kept.image("0303030303030303").map(|of| &*of.version), Some("3.0.0"));
        kept.is_withdrawn = true;
        assert!(kept.current().is_none() && kept.image("0202020202020202").is_some());
        assert_eq!(Kept::parse(&kept.encode()), Some(kept));
        assert_eq!(Kept::parse(b"[[],false]"), None);
    }

    #[test]
    fn the_longest_record_fits_its_slot() {
        let mut long = image(&"9".repeat(128), 255, u64::MAX);
        long.min_version = Some("9".repeat(128));
        let other = Image { sha256: [254; 32], ..long.clone() };
        let kept = Kept { images: vec![long, other], is_withdrawn: true };
        assert!(kept.encode().len() <= FORMAT.content_max);
    }
}
