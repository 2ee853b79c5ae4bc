//! One file with a key, a certificate, lists or a password, whole.

use std::path::Path;

/// Greatest file read.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// What is in it. It blocks.
///
/// # Errors
/// Names the file and what is wrong with it: it cannot be read, is too large, or empty.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let fault = |error: std::io::Error| format!("{}: cannot be read: {error}", path.display());
    let size = std::fs::metadata(path).map_err(fault)?.len();
    if size > FILE_MAX {
        return Err(format!("{}: has {size} bytes; that is no key, certificate or password", path.display()));
    }
    let bytes = std::fs::read(path).map_err(fault)?;
    if bytes.is_empty() {
        return Err(format!("{}: is empty", path.display()));
    }
    Ok(bytes)
}
