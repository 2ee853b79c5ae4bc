//! The roll of fleets: which devices their certificates have made, as it is kept from one process
//! to the next.
//!
//! Without it such a device would be forgotten by a restart, and its retained status would say
//! `online` for ever. The form is text:
//!
//! ```text
//! tombolo fleet-devices 1
//! fleet doors 1f3a9c07
//! 7
//! 8
//! end 5d0e6c11
//! ```
//!
//! Behind a fleet's name stands the CRC-32C of its certificate pattern: under another pattern its
//! devices are not these, as on a reload. Behind `end` stands that of all before it. A device's id
//! has no space, so no line can be taken for another.

use std::fmt::Write as _;

use super::Gate;
use super::settings::Fleet;
use crate::message::Name;

/// Largest roll, in bytes.
pub const MAX_BYTES: u64 = 64 << 20;
/// What every version begins with.
const MAGIC: &str = "tombolo fleet-devices ";
/// This version.
const VERSION: &str = "1";

/// The devices of each fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll(Vec<Page>);

/// One fleet's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The fleet.
    pub fleet: Name,
    /// Which certificates it was of.
    pattern: u32,
    /// The ids, in order.
    pub devices: Vec<Name>,
}

impl Page {
    /// Whether the fleet is that one, by name and by certificates.
    pub fn is_of(&self, fleet: &Fleet) -> bool {
        self.fleet == fleet.name && self.pattern == fingerprint(fleet)
    }
}

fn fingerprint(fleet: &Fleet) -> u32 {
    crc32c::crc32c(fleet.certificate.to_string().as_bytes())
}

impl Roll {
    /// Fleet by fleet.
    pub fn pages(&self) -> &[Page] {
        &self.0
    }

    /// As it is stored. The ids of each fleet are put in order, so that the same roll is the same
    /// text.
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
    /// In half a sentence, why it cannot be that.
    pub fn parse(bytes: &[u8]) -> Result<Roll, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        let first = text.lines().next().unwrap_or_default();
        let version = first.strip_prefix(MAGIC).ok_or("it does not begin as it should")?;
        if version != VERSION {
            return Err("it is of another version of this program".to_owned());
        }
        let end =
            text.strip_suffix('\n').and_then(|text| text.rsplit_once("\nend ")).ok_or("it is cut short")?;
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
                pages.push(parsed.ok_or("it has a line that is no fleet")?);
            } else {
                let page = pages.last_mut().ok_or("it has a device without a fleet")?;
                page.devices
                    .push(Name::parse(line).map_err(|_| "it has a line that is no device".to_owned())?);
            }
        }
        Ok(Roll(pages))
    }
}

impl Gate {
    /// All devices that fleets have made. Costs a look at each device; [`Gate::fleet_revision`]
    /// says whether it can have changed.
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
            if let Some(fleet) = entry.fleet()
                && let Some(page) = pages.iter_mut().find(|page| page.fleet == *fleet)
            {
                page.devices.push(entry.id.clone());
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
                // Only the checksum's own letters may be written otherwise.
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
        assert_eq!(Roll::parse(newer.as_bytes()).unwrap_err(), "it is of another version of this program");
    }
}
