//! Builds disk_faults.c, and tells it what is to fail.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names the file that says what fails.
pub const VARIABLE: &str = "TOMBOLO_DISK_FAULTS";

/// The library, built once a test process.
pub fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("disk_faults.c");
        let library = std::env::temp_dir().join(format!("tombolo-disk-faults-{}.so", std::process::id()));
        let built = Command::new("gcc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .status()
            .expect("gcc is installed");
        assert!(built.success(), "gcc builds the library");
        library
    };
    BUILT.get_or_init(build).clone()
}

/// From now on these calls fail; at once, because the library may read the file at any moment.
pub fn write(file: &Path, lines: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, lines).expect("the faults can be written");
    std::fs::rename(new, file).expect("and put in place");
}
