//! The state of the clock that is kept across restarts, and its text format.
//!
//! ```text
//! tombolo-clock 1
//! boot 6f1d…                  32 hexadecimal digits
//! boottime 86400000           CLOCK_BOOTTIME when it was saved, milliseconds
//! wall 1795650000000          the last trusted time, milliseconds since 1970
//! since 1795640000000         where its timeline begins
//! basis certificate           kernel | duration | owner | certificate
//! certain 1793000000000       the newest notBefore on a verified upstream path
//! proven 1795650000000        the latest time that evidence has proven
//! crc 0a1b2c3d                CRC32C of all lines above
//! ```
//!
//! `boot` to `basis` exist if the clock was ever trusted. Unknown keys are ignored. An earlier
//! version wrote `SECONDS CRC`: the last trusted time, without evidence. It is read as such, and
//! does not raise the floor.

use super::UnixTime;
use super::judge::{Basis, BootId};

const MAGIC: &str = "tombolo-clock 1";

/// The last trusted time and its position in its boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The boot; `None` = unknown.
    pub boot: Option<BootId>,
    /// `CLOCK_BOOTTIME` at that moment, in milliseconds.
    pub boottime_ms: u64,
    /// The wall time at that moment.
    pub wall: UnixTime,
}

/// A period of wall time without an unproven jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Its start; `None` = unknown, so no wall time belongs to it.
    pub since: Option<UnixTime>,
    /// Its basis.
    pub basis: Basis,
    /// The last trusted time in it.
    pub known: Known,
}

/// The saved state of the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The newest notBefore on a verified upstream path.
    pub certain: UnixTime,
    /// The latest time that evidence has proven.
    pub proven: UnixTime,
    /// The last trusted timeline.
    pub timeline: Option<Timeline>,
}

impl Saved {
    /// Formats the state as text.
    pub fn encode(&self) -> String {
        let mut text = format!("{MAGIC}\n");
        if let Some(Timeline { since, basis, known }) = self.timeline {
            if let Some(boot) = known.boot {
                text.push_str(&format!("boot {:032x}\n", u128::from_be_bytes(boot)));
            }
            text.push_str(&format!("boottime {}\nwall {}\n", known.boottime_ms, known.wall.0));
            if let Some(since) = since {
                text.push_str(&format!("since {}\n", since.0));
            }
            text.push_str(&format!("basis {}\n", basis.as_str()));
        }
        text.push_str(&format!("certain {}\nproven {}\n", self.certain.0, self.proven.0));
        text.push_str(&format!("crc {:08x}\n", crc32c::crc32c(text.as_bytes())));
        text
    }

    /// Parses the text; `None` if it is damaged or has an unknown version.
    pub fn parse(text: &str) -> Option<Saved> {
        let body = &text[..text.rfind("crc ")?];
        let sum = text[body.len()..].strip_prefix("crc ")?.strip_suffix('\n')?;
        if sum.len() != 8 || u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next() != Some(MAGIC) {
            return None;
        }
        let mut saved = Saved::default();
        let (mut boot, mut boottime_ms, mut wall, mut since, mut basis) =
            (None, 0, None, None, Basis::Kernel);
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            let number = || value.parse::<u64>().ok();
            match key {
                "boot" => boot = Some(u128::from_str_radix(value, 16).ok()?.to_be_bytes()),
                "boottime" => boottime_ms = number()?,
                "wall" => wall = Some(UnixTime(number()?)),
                "since" => since = Some(UnixTime(number()?)),
                // An unknown basis counts as `kernel`.
                "basis" => {
                    let known = Basis::ALL.into_iter().find(|basis| basis.as_str() == value);
                    basis = known.unwrap_or(Basis::Kernel);
                }
                "certain" => saved.certain = UnixTime(number()?),
                "proven" => saved.proven = UnixTime(number()?),
                _ => {}
            }
        }
        let known = wall.map(|wall| Known { boot, boottime_ms, wall });
        saved.timeline = known.map(|known| Timeline { since, basis, known });
        Some(saved)
    }

    /// Parses the format of an earlier version: `SECONDS CRC`.
    pub fn parse_floor(text: &str) -> Option<Saved> {
        let (seconds, sum) = text.trim().split_once(' ')?;
        if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(seconds.as_bytes()) {
            return None;
        }
        let known = Known { boot: None, boottime_ms: 0, wall: UnixTime::from_secs(seconds.parse().ok()?) };
        let timeline = Timeline { since: None, basis: Basis::Kernel, known };
        Some(Saved { timeline: Some(timeline), ..Saved::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_saved() -> impl Strategy<Value = Saved> {
        let time = || any::<u64>().prop_map(UnixTime);
        let known = (any::<Option<[u8; 16]>>(), any::<u64>(), time());
        let known = known.prop_map(|(boot, boottime_ms, wall)| Known { boot, boottime_ms, wall });
        let basis = prop::sample::select(&Basis::ALL[..]);
        let timeline = (prop::option::of(time()), basis, known).prop_map(|(since, basis, known)| Timeline {
            since,
            basis,
            known,
        });
        (time(), time(), prop::option::of(timeline)).prop_map(|(certain, proven, timeline)| Saved {
            certain,
            proven,
            timeline,
        })
    }

    proptest! {
        #[test]
        fn what_was_saved_reads_back(saved in any_saved()) {
            prop_assert_eq!(Saved::parse(&saved.encode()), Some(saved));
        }

        #[test]
        fn damage_is_noticed(saved in any_saved(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = saved.encode().into_bytes();
            let at = at.index(bytes.len());
            if bytes[at] == byte {
                return Ok(());
            }
            bytes[at] = byte;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let read = Saved::parse(text);
                // Only the case of a digit of the checksum may differ.
                prop_assert!(read.is_none() || read == Some(saved), "{}", text);
            }
            for end in 0..at {
                let cut = String::from_utf8_lossy(&bytes[..end]).into_owned();
                prop_assert_eq!(Saved::parse(&cut), None);
            }
        }

        #[test]
        fn hostile_text_never_panics(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Saved::parse(&text), Saved::parse_floor(&text));
            let text = String::from_utf8_lossy(&bytes);
            let _ = (Saved::parse(&text), Saved::parse_floor(&text));
        }
    }

    #[test]
    fn a_key_of_a_later_minor_version_is_passed_over_and_another_major_version_refused() {
        let with_sum = |text: &str| format!("{text}crc {:08x}\n", crc32c::crc32c(text.as_bytes()));
        let saved = Saved::parse(&with_sum("tombolo-clock 1\ncertain 5\nproven 7\nmoon full\n")).unwrap();
        assert_eq!((saved.certain, saved.proven, saved.timeline), (UnixTime(5), UnixTime(7), None));
        assert_eq!(Saved::parse(&with_sum("tombolo-clock 2\ncertain 5\nproven 7\n")), None);
        assert_eq!(Saved::parse(""), None);
        assert_eq!(Saved::parse("\0\0\0\0"), None);
    }

    #[test]
    fn the_version_before_left_a_time_without_evidence_and_no_floor() {
        let text = format!("2085978496 {:08x}\n", crc32c::crc32c(b"2085978496"));
        let saved = Saved::parse_floor(&text).unwrap();
        assert_eq!((saved.certain, saved.proven), (UnixTime(0), UnixTime(0)));
        let timeline = saved.timeline.unwrap();
        assert_eq!((timeline.basis, timeline.since), (Basis::Kernel, None));
        assert_eq!(timeline.known.wall, UnixTime::from_secs(2_085_978_496));
        assert_eq!(Saved::parse_floor("1800000000 00000000"), None);
        assert_eq!(Saved::parse_floor("nonsense"), None);
        assert_eq!(Saved::parse(&text), None);
        // The earlier version reads the new text as damaged and starts from its build date.
        assert_eq!(Saved::parse_floor(&saved.encode()), None);
    }
}
