//! The kernel's boot id: what is left for the same boot is known by it.

use std::path::Path;

/// The kernel's boot id, if it has one.
pub fn read() -> Option<[u8; 16]> {
    let text = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(id.to_be_bytes())
}
