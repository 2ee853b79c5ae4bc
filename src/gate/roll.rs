//! The roll of fleets: the list of devices that were created from fleet certificates, stored across
//! restarts.
//!
//! Without it, a restart would forget these devices, and their retained status would stay `online`.
//! The format is text:
//!
//! ```text
//! tombolo fleet-devices 1
//! fleet doors 1f3a9c07
//! 7
//! 8
//! end 5d0e6c11
//! ```
//!
//! After the fleet's name is the CRC-32C of its certificate pattern; if the pattern has changed,
//! the devices are not restored, as on a reload. After `end` is the CRC-32C of all text before it.
//! A device id has no space, so the kinds of lines are unambiguous.

use std::fmt::Write as _;

use super::Gate;
use super::settings::Fleet;
use crate::message::Name;

/// Largest roll, in bytes.
pub const MAX_BYTES: u64 = 64 << 20;
/// The beginning of every version.
const MAGIC: &str = "tombolo fleet-devices ";
/// The version this program reads and writes.
const VERSION: &str = "1";

/// The devices of each fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll(Vec<Page>);

/// The devices of one fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The fleet's name.
    pub fleet: Name,
    /// CRC-32C of the fleet's certificate pattern.
    pattern: u32,
    /// The device ids, sorted.
    pub devices: Vec<Name>,
}

impl Page {
    /// Whether this is the page of `fleet`: same name, same certificate pattern.
    pub fn is_of(&self, fleet: &Fleet) -> bool {
        self.fleet == fleet.name && self.pattern == fingerprint(fleet)
    }
}

fn fingerprint(fleet: &Fleet) -> u32 {
    crc32c::crc32c(fleet.certificate.to_string().as_bytes())
}

impl Roll {
    /// One page per fleet.
    pub fn pages(&self) -> &[Page] {
        &self.0
    }

    /// The stored form. Ids are sorted, so equal rolls have equal text.
    pub fn encode(mut self) -> String {
        let mut text = format!("{MAGIC}{VERSION}\n");
        for page in &mut self.0 {
            page.devices.sort_unstable();
            let _ = writeln!(text, "fleet {} {:08x}", page.fleet, page.pattern);
            for device in &page.devices {
                let _ = writeln!(text, "{device}");
            }
        }
        let sum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "end {sum:08x}");
        text
    }

    /// Reads what [`Roll::encode`] wrote.
    ///
    /// # Errors
    /// Why it is invalid, as a clause for an error message.
    pub fn parse(bytes: &[u8]) -> Result<Roll, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        let first = text.lines().next().unwrap_or_default();
        let version = first.strip_prefix(MAGIC).ok_or("it does not begin with `tombolo fleet-devices`")?;
        if version != VERSION {
            return Err("it was written by another version of this program".to_owned());
        }
        let end =
            text.strip_suffix('\n').and_then(|text| text.rsplit_once("\nend ")).ok_or("it is truncated")?;
        let (head, sum) = (&text[..end.0.len() + 1], end.1);
        if u32::from_str_radix(sum, 16).ok() != Some(crc32c::crc32c(head.as_bytes())) {
            return Err("its checksum is wrong".to_owned());
        }
        let mut pages: Vec<Page> = Vec::new();
        for line in head.lines().skip(1) {
            if let Some(fleet) = line.strip_prefix("fleet ") {
                let parsed = fleet.split_once(' ').and_then(|(name, pattern)| {
                    let pattern = u32::from_str_radix(pattern, 16).ok()?;
                    Some(Page { fleet: Name::parse(name).ok()?, pattern, devices: Vec::new() })
                });
                pages.push(parsed.ok_or("it has an invalid fleet line")?);
            } else {
                let page = pages.last_mut().ok_or("it has a device without a fleet")?;
                page.devices.push(Name::parse(line).map_err(|_| "it has an invalid device line".to_owned())?);
            }
        }
        Ok(Roll(pages))
    }
}

impl Gate {
    /// All devices of fleets. The cost is proportional to the number of devices;
    /// [`Gate::fleet_revision`] tells whether it can have changed.
    pub fn roll(&self) -> Roll {
        let fleets = self.plan.fleets.iter();
        let mut pages: Vec<Page> = fleets
            .map(|(fleet, _)| Page {
                fleet: fleet.name.clone(),
                pattern: fingerprint(fleet),
                devices: Vec::new(),
            })
            .collect();
        for (_, entry) in self.devices.iter() {
            if let Some(fleet) = entry.fleet_name()
                && let Some(page) = pages.iter_mut().find(|page| page.fleet == *fleet)
            {
                page.devices.push(entry.described.id.clone());
            }
        }
        pages.retain(|page| !page.devices.is_empty());
        Roll(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roll() -> Roll {
        let name = |text: &str| Name::parse(text).unwrap();
        let page = |fleet, ids: &[&str]| Page {
            fleet: name(fleet),
            pattern: 0x0102_0304,
            devices: ids.iter().map(|id| name(id)).collect(),
        };
        Roll(vec![page("doors", &["7", "end", "fleet"]), page("windows", &["a.b_c-d"])])
    }

    #[test]
    fn a_roll_is_read_as_it_was_written() {
        assert_eq!(Roll::parse(roll().encode().as_bytes()), Ok(roll()));
        assert_eq!(Roll::parse(Roll::default().encode().as_bytes()), Ok(Roll::default()));
    }

    #[test]
    fn no_cut_and_no_changed_byte_is_taken_for_a_roll() {
        let text = roll().encode().into_bytes();
        for length in 0..text.len() {
            assert!(Roll::parse(&text[..length]).is_err(), "cut at {length}");
        }
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.clone();
                changed[at] ^= 1 << bit;
                // Only the case of the checksum's digits may differ.
                assert!(
                    Roll::parse(&changed).is_err() || changed.eq_ignore_ascii_case(&text),
                    "byte {at} bit {bit}"
                );
            }
        }
    }

    #[test]
    fn another_version_is_none_of_ours() {
        let newer = roll().encode().replace("devices 1\n", "devices 2\n");
        assert_eq!(
            Roll::parse(newer.as_bytes()).unwrap_err(),
            "it was written by another version of this program"
        );
    }
}
