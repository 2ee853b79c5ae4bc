//! One file with a key, a certificate, lists or a password, whole.

use std::path::Path;

use crate::durable::io::regular::{self, Fault};

/// Greatest file read.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// What is in it. It blocks.
///
/// # Errors
/// Names the file and what is wrong with it: it cannot be read, is too large, or empty.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = regular::read(path, FILE_MAX).map_err(|fault| match fault {
        Fault::TooLarge(size) => {
            format!("{}: has {size} bytes; that is no key, certificate or password", path.display())
        }
        other => format!("{}: {other}", path.display()),
    })?;
    if bytes.is_empty() {
        return Err(format!("{}: is empty", path.display()));
    }
    Ok(bytes)
}
