//! Random bytes, and the kernel's boot id.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::io;

/// Fills `bytes` from the system's random number generator.
///
/// # Errors
/// It has none to give.
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| io::Error::other("the system has no random numbers to give"))
}

/// `N` bytes of the system's random number generator.
///
/// # Errors
/// It has none to give.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

/// The kernel's boot id; `None` if it has none.
pub fn boot_id() -> Option<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(id.to_be_bytes())
}
