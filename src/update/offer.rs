//! What a repository offers: a target's custom data, read and bounded.
//!
//! A TUF target has a name, a length and hashes; everything the gateway decides by is in the
//! target's custom data, under `tombolo`, and so under the signature of the targets role:
//!
//! ```json
//! { "tombolo": { "class": "gateway", "version": "2.4.1", "version-scheme": "semver",
//!                "compatible": "acme-gw2", "hardware": ["rev-b"], "min-version": "2.0.0",
//!                "rollout": 25, "not-before": "2026-12-01T00:00:00Z", "notes": "…" } }
//! ```
//!
//! Keys that are not known are ignored: a repository serves gateways of several versions. A known
//! key of the wrong kind makes the target useless here; that is reported, not passed over, because
//! a limit that cannot be read must not be taken for none.

use serde::{Deserialize, Serialize};

use super::rollout::Share;
use super::version::Scheme;
use crate::clock::UnixTime;

/// The class of the gateway's own firmware.
pub const GATEWAY_CLASS: &str = "gateway";
/// Longest text of a key but `notes`, in bytes.
const TEXT_MAX: usize = 128;
/// Longest `notes` kept, in bytes; the rest is cut off.
const NOTES_MAX: usize = 1024;
/// Most entries of `hardware`.
const HARDWARE_MAX: usize = 64;

/// One target that is a firmware.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The target's name in the repository: 1 to 128 of the characters that need no encoding in a
    /// URL, in segments of which none is `.`, `..` or empty.
    pub target: String,
    /// Whether the repository has consistent snapshots: the file's name then begins with its hash
    /// (TUF specification §6.2).
    pub is_hash_prefixed: bool,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Whom it is for: [`GATEWAY_CLASS`], or a class of sensors.
    pub class: String,
    /// Its version, valid by `scheme`.
    pub version: String,
    /// How versions are compared.
    pub scheme: Scheme,
    /// The product it fits; `None` = every one.
    pub compatible: Option<String>,
    /// The hardware revisions it fits; empty = every one.
    pub hardware: Vec<String>,
    /// The lowest version from which it may be installed.
    pub min_version: Option<String>,
    /// The share of the fleet.
    pub rollout: Share,
    /// Not to be installed earlier.
    pub not_before: Option<UnixTime>,
    /// What changed, for people; at most 1,024 bytes, without control characters.
    pub notes: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Custom {
    class: String,
    version: String,
    version_scheme: Option<String>,
    compatible: Option<String>,
    hardware: Option<Vec<String>>,
    min_version: Option<String>,
    rollout: Option<f64>,
    not_before: Option<String>,
    notes: Option<String>,
}

impl Offer {
    /// Reads a target. `custom` is what its custom data has under `tombolo`; `Ok(None)` if that is
    /// nothing: then the target is none of ours.
    ///
    /// # Errors
    /// The custom data is ours and cannot be used: the target and why, in one sentence.
    pub fn read(
        target: &str,
        bytes: u64,
        sha256: [u8; 32],
        custom: Option<&serde_json::Value>,
    ) -> Result<Option<Offer>, String> {
        let Some(custom) = custom else {
            return Ok(None);
        };
        let is_named = is_name(target);
        let target: String = target.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
        let fault = |why: String| format!("the target {target:?} cannot be used: {why}");
        if !is_named {
            return Err(fault(format!(
                "its name is 1 to {TEXT_MAX} letters, digits, '.', '_', '~', '+' or '-', in segments that are not \"..\""
            )));
        }
        if bytes == 0 {
            return Err(fault("it is empty".to_owned()));
        }
        let custom =
            Custom::deserialize(custom).map_err(|error| fault(format!("its custom data: {error}")))?;
        let texts = [
            Some(&custom.class),
            Some(&custom.version),
            custom.compatible.as_ref(),
            custom.min_version.as_ref(),
        ];
        let hardware = custom.hardware.unwrap_or_default();
        let is_long =
            |text: &String| text.is_empty() || text.len() > TEXT_MAX || text.chars().any(char::is_control);
        if texts.into_iter().flatten().chain(&hardware).any(is_long) || hardware.len() > HARDWARE_MAX {
            return Err(fault(format!("a text is empty, or longer than {TEXT_MAX} bytes")));
        }
        let scheme = match custom.version_scheme.as_deref() {
            None => Scheme::default(),
            Some(text) => Scheme::parse(text).ok_or_else(|| {
                fault(format!(
                    "version-scheme is {:?}; this version knows debian and semver",
                    cut(text, TEXT_MAX)
                ))
            })?,
        };
        for version in [Some(&custom.version), custom.min_version.as_ref()].into_iter().flatten() {
            if !scheme.accepts(version) {
                return Err(fault(format!("{version:?} is no version by the scheme {}", scheme.as_str())));
            }
        }
        let rollout = match custom.rollout {
            None => Share::ALL,
            Some(percent) => Share::from_percent(percent)
                .ok_or_else(|| fault(format!("rollout is {percent}; it is 0 to 100 percent")))?,
        };
        let not_before = match &custom.not_before {
            None => None,
            Some(text) => Some(time(text).ok_or_else(|| {
                fault(format!(
                    "not-before is {:?}; it is a time as 2026-12-01T00:00:00Z",
                    cut(text, TEXT_MAX)
                ))
            })?),
        };
        Ok(Some(Offer {
            target: target.clone(),
            is_hash_prefixed: false,
            bytes,
            sha256,
            class: custom.class,
            version: custom.version,
            scheme,
            compatible: custom.compatible,
            hardware,
            min_version: custom.min_version,
            rollout,
            not_before,
            notes: custom.notes.map(|notes| cut(&notes, NOTES_MAX)),
        }))
    }

    /// Where its file is, below the folder of the targets.
    pub fn path(&self) -> String {
        if !self.is_hash_prefixed {
            return self.target.clone();
        }
        let (folder, name) = match self.target.rsplit_once('/') {
            Some((folder, name)) => (format!("{folder}/"), name),
            None => (String::new(), self.target.as_str()),
        };
        format!("{folder}{}.{name}", self.sha256_hex())
    }

    /// Its SHA-256 in hexadecimal.
    pub fn sha256_hex(&self) -> String {
        crate::hex::format_hex(&self.sha256)
    }
}

/// Whether a target's name can stand in a URL as it is, and leads nowhere else.
fn is_name(target: &str) -> bool {
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~+-".contains(&b))
    };
    target.len() <= TEXT_MAX && target.split('/').all(is_segment)
}

/// At most so many bytes of `text`, without control characters.
fn cut(text: &str, bytes: usize) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > bytes {
            break;
        }
        out.push(c);
    }
    out
}

fn time(text: &str) -> Option<UnixTime> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(UnixTime(u64::try_from(since.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(custom: &serde_json::Value) -> Result<Option<Offer>, String> {
        Offer::read("fw.bin", 7, [1; 32], Some(custom))
    }

    #[test]
    fn a_target_with_all_its_data_is_read() {
        let offer = read(&json!({
            "class": "gateway", "version": "2.4.1", "version-scheme": "semver", "compatible": "acme-gw2",
            "hardware": ["rev-b"], "min-version": "2.0.0", "rollout": 25, "not-before": "2026-12-01T00:00:00Z",
            "notes": "line\nbreak", "a-later-key": [1, 2],
        }));
        let offer = offer.expect("it is readable").expect("it is ours");
        assert_eq!((offer.target.as_str(), offer.bytes, offer.scheme), ("fw.bin", 7, Scheme::Semver));
        assert_eq!(offer.rollout.percent(), 25.0);
        assert_eq!(offer.not_before, Some(UnixTime::from_secs(1_796_083_200)));
        assert_eq!(offer.notes.as_deref(), Some("linebreak"));
    }

    #[test]
    fn a_target_with_the_least_is_for_everybody() {
        let offer = read(&json!({ "class": "gateway", "version": "1" })).expect("readable").expect("ours");
        assert_eq!((offer.scheme, offer.rollout), (Scheme::Debian, Share::ALL));
        assert_eq!(
            (offer.compatible, offer.hardware.len(), offer.min_version, offer.not_before),
            (None, 0, None, None)
        );
    }

    #[test]
    fn a_target_of_somebody_else_is_passed_over() {
        assert_eq!(Offer::read("x", 1, [0; 32], None), Ok(None));
    }

    #[test]
    fn a_limit_that_cannot_be_read_is_not_taken_for_none() {
        for (key, value) in [
            ("rollout", json!(101)),
            ("rollout", json!("all")),
            ("not-before", json!("soon")),
            ("min-version", json!(2)),
            ("hardware", json!("rev-b")),
            ("version-scheme", json!("rpm")),
            ("version", json!("")),
            ("version", json!("1 2")),
            ("compatible", json!("x".repeat(129))),
            ("class", json!("a\u{0}b")),
        ] {
            let mut custom = json!({ "class": "gateway", "version": "1" });
            custom[key] = value.clone();
            let error = read(&custom).expect_err(&format!("{key} = {value}"));
            assert!(error.starts_with("the target \"fw.bin\" cannot be used: "), "{error}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let custom = json!({ "class": "gateway", "version": "1" });
        for name in
            ["../x", "a/../../x", "/x", "a//x", ".", "", "a b", "a%2e", "a\\x", "http://x", &"x".repeat(129)]
        {
            assert!(Offer::read(name, 7, [1; 32], Some(&custom)).is_err(), "{name}");
        }
        for name in ["gw-1.0~rc1+2.raucb", "a/b/c.bin", "..x"] {
            assert!(matches!(Offer::read(name, 7, [1; 32], Some(&custom)), Ok(Some(_))), "{name}");
        }
    }

    #[test]
    fn a_target_without_a_byte_is_no_image() {
        let custom = json!({ "class": "gateway", "version": "1" });
        let fault = Offer::read("fw.bin", 0, [1; 32], Some(&custom));
        assert_eq!(fault, Err("the target \"fw.bin\" cannot be used: it is empty".to_owned()));
    }

    #[test]
    fn with_consistent_snapshots_the_hash_stands_before_the_file_s_own_name() {
        let custom = json!({ "class": "gateway", "version": "1" });
        let mut offer = Offer::read("a/b.bin", 7, [1; 32], Some(&custom)).expect("readable").expect("ours");
        assert_eq!(offer.path(), "a/b.bin");
        offer.is_hash_prefixed = true;
        assert_eq!(offer.path(), format!("a/{}.b.bin", "01".repeat(32)));
    }

    #[test]
    fn notes_are_cut_between_characters() {
        let custom = json!({ "class": "gateway", "version": "1", "notes": "é".repeat(600) });
        let offer = read(&custom).expect("readable").expect("ours");
        assert_eq!(offer.notes.map(|notes| notes.len()), Some(1024));
    }
}
