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
/// That of the state directory.
const STATE_VARIABLE: &str = "TOMBOLO_PATHS__STATE_DIR";

/// The socket's path according to the readable layers; default `/run/tombolo/control.sock`.
pub fn find(options: &Options) -> PathBuf {
    let (mut found, _) = path(options, "runtime-dir", VARIABLE, Paths::RUNTIME_DIR);
    found.push(SOCKET_NAME);
    found
}

/// The state directory according to the layers, also where one of them has a fault.
///
/// # Errors
/// The file that may name it, and cannot be understood so far.
pub fn state_dir(options: &Options) -> Result<PathBuf, PathBuf> {
    let (found, doubtful) = path(options, "state-dir", STATE_VARIABLE, Paths::STATE_DIR);
    doubtful.map_or(Ok(found), Err)
}

/// A key of `[paths]`, and the first file that has its name, or cannot be read, and says nothing of
/// it that is understood.
fn path(options: &Options, key: &str, variable: &str, default: &str) -> (PathBuf, Option<PathBuf>) {
    let variable =
        options.environment.iter().find(|(name, _)| name == variable).map(|(_, value)| value.as_str());
    let files = [
        folder(&options.vendor_conf_d),
        vec![options.config.clone()],
        folder(&Paths::conf_d(&options.config)),
    ];
    let (mut found, mut doubtful) = (None, None);
    for file in files.iter().flatten() {
        // Of a pipe or a device nothing is read, and nothing is waited for.
        let Ok(bytes) = regular::read(file, FILE_MAX) else {
            doubtful = doubtful.or_else(|| file.symlink_metadata().is_ok().then(|| file.clone()));
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        if let Some(value) = path_in(&text, key) {
            found = Some((file.parent().unwrap_or(Path::new("")).to_owned(), value));
        } else if text.contains(key) && text.parse::<toml::Table>().is_err() {
            doubtful = doubtful.or_else(|| Some(file.clone()));
        }
    }
    if let Some(value) = variable {
        (found, doubtful) = (Some((PathBuf::new(), value.to_owned())), None);
    }
    let found = match found {
        // An empty text resets a key to its default.
        Some((base, value)) if !value.is_empty() => base.join(value),
        _ => PathBuf::from(default),
    };
    (found, doubtful)
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

/// A key of `[paths]` of one file, even if the file has other faults.
fn path_in(text: &str, key: &str) -> Option<String> {
    if !text.contains(key) {
        return None;
    }
    let (table, _) = DeTable::parse_recoverable(text);
    match table.get_ref().get("paths")?.get_ref() {
        DeValue::Table(paths) => match paths.get(key)?.get_ref() {
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
        // The registry is where a readable file says, and nowhere as long as a broken one may say
        // otherwise.
        std::fs::remove_file(folder.join("conf.d/27.toml")).unwrap();
        std::fs::remove_dir(folder.join("conf.d/26.toml")).unwrap();
        std::fs::remove_file(&pipe).unwrap();
        assert_eq!(state_dir(&options).unwrap(), Path::new("/var/lib/tombolo"));
        std::fs::write(&config, "[paths]\nstate-dir = \"state\"\n[gateway]\nid = \n").unwrap();
        assert_eq!(state_dir(&options).unwrap(), folder.join("state"));
        let broken = folder.join("conf.d/40.toml");
        std::fs::write(&broken, "[role.x\n= \n").unwrap();
        assert_eq!(state_dir(&options).unwrap(), folder.join("state"));
        std::fs::write(&broken, "[paths\nstate-dir = \n").unwrap();
        assert_eq!(state_dir(&options), Err(broken.clone()));
        options.environment = vec![(STATE_VARIABLE.to_owned(), "/s".to_owned())];
        assert_eq!(state_dir(&options).unwrap(), Path::new("/s"));
        options.environment = vec![(VARIABLE.to_owned(), "/v".to_owned())];
        assert_eq!(find(&options), Path::new("/v/control.sock"));
        options.environment = vec![(VARIABLE.to_owned(), String::new())];
        assert_eq!(find(&options), Path::new("/run/tombolo/control.sock"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
