//! In which part of the fleet a gateway is, for a release that goes out in stages.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::message::Name;

/// Buckets there are: a share is a number of them.
pub const BUCKETS: u16 = 10_000;

/// A share of the fleet, in hundredths of a percent: `0..=10_000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(u16);

impl Share {
    /// The whole fleet.
    pub const ALL: Share = Share(BUCKETS);

    /// From percent, `0..=100`, rounded to hundredths; `None` for anything else.
    pub fn from_percent(percent: f64) -> Option<Share> {
        (0.0..=100.0).contains(&percent).then(|| Share((percent * 100.0).round() as u16))
    }

    /// Percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Whether the bucket is in this share.
    pub fn contains(self, bucket: u16) -> bool {
        bucket < self.0
    }
}

/// The bucket of a gateway for one version, `0..10_000`: SHA-256 of the gateway's id followed by
/// the version, as a number modulo 10,000. Another version gives another order, so that it is not
/// always the same gateways that come first; a larger share contains every smaller one.
pub fn bucket(gateway: &Name, version: &str) -> u16 {
    let text = [gateway.as_str().as_bytes(), version.as_bytes()].concat();
    let modulus = u32::from(BUCKETS);
    let rest = digest(&SHA256, &text)
        .as_ref()
        .iter()
        .fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % modulus);
    rest as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn a_bucket_is_what_another_program_computes() {
        // python3: int(hashlib.sha256(b"greenhouse-7" + b"2.4.1").hexdigest(), 16) % 10000
        assert_eq!(bucket(&name("greenhouse-7"), "2.4.1"), 1638);
        assert_eq!(bucket(&name("greenhouse-7"), "2.4.2"), 9034);
    }

    #[test]
    fn a_share_takes_about_that_part_of_a_fleet_and_a_larger_one_takes_it_too() {
        let buckets: Vec<u16> = (0..10_000).map(|n| bucket(&name(&format!("tb-{n}")), "1.2.3")).collect();
        let mut before = 0;
        for percent in [0.0, 1.0, 10.0, 50.0, 100.0] {
            let share = Share::from_percent(percent).expect("a share");
            let count = buckets.iter().filter(|bucket| share.contains(**bucket)).count();
            let wanted = percent * 100.0;
            assert!((count as f64 - wanted).abs() <= 200.0, "{percent} %: {count}");
            assert!(count >= before);
            before = count;
        }
        assert_eq!(before, 10_000);
    }

    #[test]
    fn only_a_percentage_is_a_share() {
        for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::from_percent(percent), None);
        }
        assert_eq!(Share::from_percent(0.5).map(Share::percent), Some(0.5));
        assert_eq!(Share::from_percent(100.0), Some(Share::ALL));
    }
}
