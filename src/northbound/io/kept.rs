//! Files that the gateway itself writes while it runs, and that each connection reads: fetched
//! revocation lists, the CAs of an EST server.
//!
//! What is in use is known here too, until the process ends: a disk that does not take a newer
//! version, or does not give the one it has, changes nothing about what is trusted and what is
//! revoked. Another process, `tombolo check`, reads the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::small_file::read as read_file;

/// By file: two with revocation lists, and one for each certificate with `trust = "est"`.
static KEPT: Mutex<BTreeMap<PathBuf, Arc<[u8]>>> = Mutex::new(BTreeMap::new());

/// This is the content in use of that file, whether or not the disk has it.
pub fn put(file: &Path, content: &[u8]) {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_path_buf(), content.into());
}

/// The content in use of that file, if this process knows it.
pub fn get(file: &Path) -> Option<Arc<[u8]>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned()
}

/// Forgets what is known of that file, as the end of the process does: the disk counts again.
pub fn forget(file: &Path) {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).remove(file);
}

/// The content in use: as this process knows it, or else of the file, or else of its copy. It
/// blocks.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn read(file: &Path) -> Result<Vec<u8>, String> {
    match get(file) {
        Some(content) => Ok(content.to_vec()),
        None => read_file(file).or_else(|error| read_file(&copy(file)).map_err(|_| error)),
    }
}

/// Whether there is any content. It blocks.
pub fn exists(file: &Path) -> bool {
    get(file).is_some() || file.exists() || copy(file).exists()
}

/// As [`AtomicFile`](crate::durable::atomic_file::AtomicFile) names it.
fn copy(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".copy");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_counts_before_the_file_and_the_file_before_its_copy() {
        let folder = std::env::temp_dir().join(format!("tombolo-kept-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("lists.pem");
        assert!(!exists(&file) && read(&file).unwrap_err().contains("lists.pem: cannot be read"));
        std::fs::write(copy(&file), "copy").unwrap();
        assert!(exists(&file));
        assert_eq!(read(&file).unwrap(), b"copy");
        std::fs::write(&file, "file").unwrap();
        assert_eq!(read(&file).unwrap(), b"file");
        assert_eq!(get(&file), None);
        put(&file, b"memory");
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read(&file).unwrap(), b"memory");
        assert!(exists(&file));
        forget(&file);
        assert!(!exists(&file));
    }
}
