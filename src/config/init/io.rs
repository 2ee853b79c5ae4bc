//! Puts the site's drop-in in place.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::path::{Component, Path, PathBuf};

use super::{FILE_NAME, Site, render};
use crate::config::finding::{Finding, Place};
use crate::config::io::{Options, load_with};
use crate::config::layer::{LayerText, Origin};
use crate::config::{Level, Loaded, Paths};
use crate::durable::atomic_file::sweep;
use crate::durable::io::{OnDisk, write_atomically};

/// Why nothing was written.
#[derive(Debug)]
pub enum InitError {
    /// The drop-in exists, and replacing it was not requested.
    Exists(PathBuf),
    /// All findings: the configuration would be refused, or a named file does not exist.
    Findings(Vec<Finding>),
}

impl From<Vec<Finding>> for InitError {
    fn from(findings: Vec<Finding>) -> InitError {
        InitError::Findings(findings)
    }
}

/// Writes the drop-in; returns its path and the resulting configuration.
///
/// # Errors
/// [`InitError`]; then nothing has changed.
pub fn write(options: &Options, site: &Site, force: bool) -> Result<(PathBuf, Loaded), InitError> {
    let folder = Paths::conf_d(&options.config);
    let path = folder.join(FILE_NAME);
    let place = Place { file: path.display().to_string().into(), line: None };
    let failed = |message: String, advice: &str| {
        vec![Finding::fail("configuration", message).at(Some(&place)).advice(advice)]
    };
    if !force && path.symlink_metadata().is_ok() {
        return Err(InitError::Exists(path));
    }
    let absolute = |path: &Option<PathBuf>| match path {
        Some(path) if !path.to_string_lossy().starts_with("credential:") => whole(path).map(Some),
        other => Ok(other.clone()),
    };
    let site = (|| {
        std::io::Result::Ok(Site {
            ca_file: absolute(&site.ca_file)?,
            certificate_file: absolute(&site.certificate_file)?,
            key_file: absolute(&site.key_file)?,
            password_file: absolute(&site.password_file)?,
            ..site.clone()
        })
    })();
    let site =
        site.map_err(|error| failed(format!("a path cannot be made absolute: {error}"), "use whole paths"))?;
    let layer = LayerText { origin: Origin::DropIn, path: path.clone(), text: render(&site) };
    let loaded = load_with(options, None, Some(&layer))?;
    // A running gateway tolerates a missing file, but here it is a mistake in the command.
    let wrong: Vec<Finding> = loaded
        .findings
        .iter()
        .filter(|f| f.level == Level::Fail && f.file.as_deref().map(Path::new) == Some(path.as_path()))
        .cloned()
        .collect();
    if !wrong.is_empty() {
        return Err(wrong.into());
    }
    // Left from an interrupted `init`; if it cannot be deleted now, the next one deletes it.
    let _ = sweep(&OnDisk::new(&folder), FILE_NAME);
    let put =
        std::fs::create_dir_all(&folder).and_then(|()| write_atomically(&path, layer.text.as_bytes(), 0o644));
    put.map_err(|error| failed(format!("cannot be written: {error}"), "run this as root"))?;
    Ok((path, loaded))
}

/// The absolute path without `..`. If the file is a link, it is not resolved.
fn whole(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if path.components().any(|part| part == Component::ParentDir) => {
            // A missing folder is reported with the file.
            Ok(std::fs::canonicalize(folder).map_or_else(|_| path.clone(), |folder| folder.join(name)))
        }
        _ => Ok(path),
    }
}
