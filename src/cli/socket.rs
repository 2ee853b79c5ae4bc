//! Finds the path of the daemon's control socket, as tolerantly as possible.
//!
//! `tombolo status` must work without read access to the secrets in the configuration, with a fault
//! in a drop-in, and fast with ten thousand devices. So this reads only `[paths] runtime-dir`.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::config::Paths;
use crate::config::io::{FILE_MAX, Options};
use crate::control::protocol::SOCKET_NAME;
use crate::durable::io::regular;

/// The environment variable that overrides the key.
const VARIABLE: &str = "TOMBOLO_PATHS__RUNTIME_DIR";

/// The socket's path according to the readable layers; default `/run/tombolo/control.sock`.
pub fn find(options: &Options) -> PathBuf {
    let variable =
        options.environment.iter().find(|(name, _)| name == VARIABLE).map(|(_, value)| value.as_str());
    let files = [
        folder(&options.vendor_conf_d),
        vec![options.config.clone()],
        folder(&Paths::conf_d(&options.config)),
    ];
    let mut found = None;
    for file in files.iter().flatten() {
        // Of a pipe or a device nothing is read, and nothing is waited for.
        let Ok(bytes) = regular::read(file, FILE_MAX) else { continue };
        if let Some(value) = std::str::from_utf8(&bytes).ok().and_then(runtime_dir) {
            found = Some((file.parent().unwrap_or(Path::new("")).to_owned(), value));
        }
    }
    if let Some(value) = variable {
        found = Some((PathBuf::new(), value.to_owned()));
    }
    match found {
        // An empty text resets a key to its default.
        Some((base, value)) if !value.is_empty() => base.join(value),
        _ => PathBuf::from(Paths::RUNTIME_DIR),
    }
    .join(SOCKET_NAME)
}

/// Whether there is what says where the socket is: the main file, which counts also where it cannot
/// be read, or the variable. Drop-ins alone do not: they belong to another file of their folder.
pub fn is_configured(options: &Options) -> bool {
    let is_missing = |path: &Path| {
        path.symlink_metadata().is_err_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        })
    };
    !is_missing(&options.config) || options.environment.iter().any(|(name, _)| name == VARIABLE)
}

/// The files of a folder of drop-ins, in name order.
fn folder(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")))
        .collect();
    files.sort();
    files
}

/// `[paths] runtime-dir` of one file, even if the file has other faults.
fn runtime_dir(text: &str) -> Option<String> {
    if !text.contains("runtime-dir") {
        return None;
    }
    let (table, _) = DeTable::parse_recoverable(text);
    match table.get_ref().get("paths")?.get_ref() {
        DeValue::Table(paths) => match paths.get("runtime-dir")?.get_ref() {
            DeValue::String(value) => Some(value.to_string()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_layer_that_says_where_wins_and_faults_do_not_matter() {
        let folder = std::env::temp_dir().join(format!("tombolo-socket-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("conf.d")).unwrap();
        let config = folder.join("tombolo.toml");
        let mut options = Options {
            config: config.clone(),
            vendor_conf_d: folder.join("none"),
            environment: Vec::new(),
            credentials_directory: None,
        };
        assert_eq!(find(&options), Path::new("/run/tombolo/control.sock"));
        std::fs::write(&config, "[paths]\nruntime-dir = \"run\"\n[gateway]\nid = \n").unwrap();
        assert_eq!(find(&options), folder.join("run/control.sock"));
        std::fs::write(folder.join("conf.d/20.toml"), "paths.runtime-dir = \"/elsewhere\"").unwrap();
        std::fs::write(folder.join("conf.d/10.toml"), "paths.runtime-dir = \"x\"").unwrap();
        std::fs::write(folder.join("conf.d/.30.toml"), "paths.runtime-dir = \"y\"").unwrap();
        assert_eq!(find(&options), Path::new("/elsewhere/control.sock"));
        // What is no regular file says nothing, and holds nobody up.
        let pipe = folder.join("conf.d/25.toml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::create_dir(folder.join("conf.d/26.toml")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join("conf.d/27.toml")).unwrap();
        assert_eq!(find(&options), Path::new("/elsewhere/control.sock"));
        options.environment = vec![(VARIABLE.to_owned(), "/v".to_owned())];
        assert_eq!(find(&options), Path::new("/v/control.sock"));
        options.environment = vec![(VARIABLE.to_owned(), String::new())];
        assert_eq!(find(&options), Path::new("/run/tombolo/control.sock"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
