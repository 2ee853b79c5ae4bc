//! Puts the site's drop-in in place.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod copy;

use std::path::{Component, Path, PathBuf};

use super::place::{self, Target};
use super::{FILE_NAME, Site, folder, render};
use crate::config::finding::{Finding, Place};
use crate::config::io::{Options, is_packaged, is_read_only, load_with, missing_advice, near, texts};
use crate::config::layer::{LayerText, Origin};
use crate::config::show::show;
use crate::config::{Level, Loaded};
use crate::durable::atomic_file::sweep;
use crate::durable::io::{OnDisk, create_directory, write_atomically};
use crate::northbound::io::files;
use crate::northbound::tls;
use crate::update::io::untrusted::Folder;
use copy::Copied;

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

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The drop-in.
    pub path: PathBuf,
    /// The main file, where there was none.
    pub main: Option<PathBuf>,
    /// Files brought to where the service can read them.
    pub copied: Vec<Copied>,
    /// Where the main file listens for devices, if that is not CoAP's own port because another
    /// program has it.
    pub port: Option<Port>,
    /// The folder beside the main file, if the drop-in is below the state directory because that
    /// folder is on a file system that is read-only.
    pub read_only: Option<PathBuf>,
    /// What the configuration then is.
    pub loaded: Loaded,
}

/// Another port than [`COAPS_PORT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one is free.
    Free(u16),
    /// All that were tried are taken; [`COAPS_PORT`] is in the file.
    NoneFree,
}

/// The port of `coaps` (RFC 7252 §12.7).
pub const COAPS_PORT: u16 = 5684;

/// Writes the drop-in, and where there is no configuration yet the whole of it.
///
/// # Errors
/// [`InitError`]; then no configuration has changed.
pub fn write(options: &Options, site: &Site, force: bool) -> Result<Written, InitError> {
    let is_missing = !is_packaged(&options.config) && options.config.symlink_metadata().is_err();
    let state_dir = if is_missing { PathBuf::new() } else { texts(options).state_dir };
    let target = place::choose(&options.config, &state_dir, is_missing, &is_read_only);
    let Target { conf_d: folder, origin, read_only } = target;
    let is_below = origin == Origin::State;
    let path = folder.join(FILE_NAME);
    let failed = |path: &Path, message: String, advice: &str| {
        let place = Place { file: path.display().to_string().into(), line: None };
        vec![Finding::fail("configuration", message).at(Some(&place)).advice(advice)]
    };
    // The drop-ins that are there are of that file, and a second gateway would share its state.
    if let Some(near) = near(&options.config).filter(|_| is_missing && folder.is_dir()) {
        let (shown, advice) = (folder.display(), missing_advice(Some(&near)));
        let message = format!("does not exist, and {shown} belongs to another file beside it");
        return Err(failed(&options.config, message, &advice).into());
    }
    let before = std::fs::read_to_string(&path).ok();
    if !force && path.symlink_metadata().is_ok() {
        return Err(InitError::Exists(path));
    }
    // Of an earlier time, when the other folder could not be written: what it says and this one
    // does not would stay in force.
    let earlier = state_dir.join(place::CONF_D).join(FILE_NAME);
    let has_earlier = !is_missing && !is_below && earlier.symlink_metadata().is_ok();
    if !force && has_earlier {
        return Err(InitError::Exists(earlier));
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
    let mut site = site.map_err(|error| {
        failed(&path, format!("a path cannot be made absolute: {error}"), "use whole paths")
    })?;
    // Another id would be another gateway, with other topics: only --id changes it.
    if site.id.is_none() {
        site.id = before.as_deref().and_then(id_of);
    }
    let free = free_port();
    let port = match free {
        Some(COAPS_PORT) => None,
        Some(other) => Some(Port::Free(other)),
        None => Some(Port::NoneFree),
    };
    let main = new_main_file(&options.config, free.unwrap_or(COAPS_PORT));
    let mut instead: Vec<LayerText> = main.iter().cloned().collect();
    // Judged as a file beside the main file also where it is not one: in the state directory, what
    // is wrong is ignored, and nobody would be told.
    instead.push(LayerText { origin: Origin::DropIn, path: path.clone(), text: render(&site, origin) });
    let mut loaded = load_with(options, None, &instead)?;

    let typed = site.clone();
    // What the service cannot read is copied for it; what then is still wrong was just typed.
    let state_dir = loaded.settings.paths.state_dir.clone();
    let plans = plan_copies(&mut site, &options.config, &state_dir, is_below, force)
        .map_err(|(file, message)| failed(&file, message, ""))?;
    let is_copied = |finding: &Finding| {
        plans.iter().any(|plan| finding.message.starts_with(&plan.copied.from.display().to_string()))
    };
    // A file that is not there is no fault of a running gateway, but surely one of what was just
    // typed.
    let wrong: Vec<Finding> = loaded
        .findings
        .iter()
        .filter(|f| f.level == Level::Fail && f.file.as_deref().map(Path::new) == Some(path.as_path()))
        .filter(|finding| !is_copied(finding))
        .cloned()
        .collect();
    if !wrong.is_empty() {
        return Err(wrong.into());
    }
    if let Err((key, file, message)) = judge_contents(&typed) {
        let place = Place { file: file.display().to_string().into(), line: None };
        let finding = Finding::fail("upstream", message).key(key).at(Some(&place));
        let advice = match key {
            "upstream.password-file" => "write the password into it",
            "upstream.certificate-file" => "name a certificate, in PEM, and the key that belongs to it",
            _ => "name a file with CA certificates in PEM",
        };
        return Err(vec![finding.advice(advice)].into());
    }
    if is_below {
        let overridden = overridden(options, &path, render(&site, origin));
        if !overridden.is_empty() {
            return Err(overridden.into());
        }
    }
    let as_root = |error: std::io::Error| format!("cannot be written: {error}");
    if is_below {
        create_directory(&state_dir)
            .map_err(|error| failed(&state_dir, as_root(error), "run this as root"))?;
    }
    for plan in &plans {
        copy::carry_out(plan, is_below.then_some(state_dir.as_path()))
            .map_err(|error| failed(&plan.copied.to, as_root(error), "run this as root"))?;
    }
    if let Some(main) = &main {
        make_folder(main).map_err(|error| failed(&main.path, as_root(error), "use a folder of your own"))?;
    }
    let text = render(&site, origin);
    let put = match is_below {
        // Its user may put a link in the place of a folder meanwhile: the folder is held.
        true => Folder::make(&state_dir, place::CONF_D).and_then(|held| {
            let _ = sweep(&OnDisk::new(held.path()), FILE_NAME);
            write_atomically(&held.path().join(FILE_NAME), text.as_bytes(), 0o600)
        }),
        false => {
            // What was left by one that was killed; if it cannot be deleted now, then by the next.
            let _ = sweep(&OnDisk::new(&folder), FILE_NAME);
            std::fs::create_dir_all(&folder).and_then(|()| write_atomically(&path, text.as_bytes(), 0o644))
        }
    };
    let is_closed = put.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem);
    let advice = match is_packaged(&options.config) {
        _ if is_closed => {
            "make the folder of the configuration writable, or the state directory: where only the first is read-only, init \
             writes below the second"
        }
        _ if is_below => "run this as root",
        true => {
            "run this as root; as another user: tombolo --config gw/tombolo.toml init, which makes a gateway in the folder gw"
        }
        false => "run this as the owner of that folder, or as root",
    };
    put.map_err(|error| failed(&path, as_root(error), advice))?;
    if has_earlier {
        let removed = Folder::open(&state_dir, place::CONF_D)
            .and_then(|held| std::fs::remove_file(held.path().join(FILE_NAME)));
        removed.map_err(|error| {
            failed(
                &earlier,
                format!("cannot be removed, so what it says stays in force: {error}"),
                "delete it",
            )
        })?;
    }
    if !plans.is_empty() || main.is_some() || is_below || has_earlier {
        loaded = load_with(options, None, &[])?;
    }
    let copied = plans.into_iter().map(|plan| plan.copied).collect();
    let port = main.as_ref().and(port);
    Ok(Written { path, main: main.map(|main| main.path), copied, port, read_only, loaded })
}

/// The keys of a file below the state directory that another file sets, too: that one wins.
pub fn overridden(options: &Options, path: &Path, text: String) -> Vec<Finding> {
    let new = LayerText { origin: Origin::State, path: path.to_owned(), text };
    let mut layers = texts(options).layers;
    layers.retain(|layer| layer.path != new.path);
    layers.push(new.clone());
    layers.sort_by(|a, b| (a.origin, &a.path).cmp(&(b.origin, &b.path)));
    let (all, _) = show(&layers, &options.environment);
    let (own, _) = show(std::slice::from_ref(&new), &[]);
    let mut findings = Vec::new();
    for own in own.iter().filter(|own| own.place.is_some()) {
        let Some(wins) = all.iter().find(|one| one.key == own.key && one.value != own.value) else {
            continue;
        };
        let Some(place) = &wins.place else { continue };
        let message = format!("is set there, which takes precedence over {}", new.path.display());
        let advice = "take it out of that file; what an image sets for all its boards belongs into /usr/lib/tombolo/conf.d";
        findings.push(Finding::fail("configuration", message).key(&own.key).at(Some(place)).advice(advice));
    }
    findings
}

/// The main file to be, where there is none and no package has one. Drop-ins that are there
/// already win over it.
fn new_main_file(config: &Path, port: u16) -> Option<LayerText> {
    if is_packaged(config) || config.symlink_metadata().is_ok() {
        return None;
    }
    Some(LayerText { origin: Origin::Main, path: config.to_owned(), text: folder::main_file(port) })
}

/// The gateway's id in the text of a drop-in.
fn id_of(text: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    Some(table.get("gateway")?.get("id")?.as_str()?.to_owned())
}

/// CoAP's own port, or the next that no other program has, on both loopback addresses.
fn free_port() -> Option<u16> {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    let in_use = |bound: std::io::Result<UdpSocket>| {
        bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    let is_free = |port: &u16| {
        !in_use(UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)))
            && !in_use(UdpSocket::bind((Ipv6Addr::LOCALHOST, *port)))
    };
    (0..6).map(|number| COAPS_PORT + number * 10_000).find(is_free)
}

/// The main file and the folders beside it.
fn make_folder(main: &LayerText) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let top = main.path.parent().filter(|top| !top.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(top)?;
    for name in [folder::STATE, folder::RUNTIME] {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(top.join(name))?;
    }
    write_atomically(&main.path, main.text.as_bytes(), 0o644)
}

/// Whether the named files hold what they are named for. One that cannot be read here is left to
/// `check`, and so is an encrypted key.
fn judge_contents(site: &Site) -> Result<(), (&'static str, PathBuf, String)> {
    let read = |file: &Path| std::fs::read(file).is_ok().then(|| files::pem(file));
    if let Some(path) = &site.ca_file
        && let Some(pem) = read(path)
    {
        let judged = pem.and_then(|pem| tls::judge_anchors(&pem).map_err(|error| error.to_string()));
        judged.map_err(|message| ("upstream.ca-file", path.clone(), message))?;
    }
    if let Some(path) = &site.password_file
        && std::fs::read(path).is_ok_and(|bytes| bytes.trim_ascii().is_empty())
    {
        return Err(("upstream.password-file", path.clone(), "is empty".to_owned()));
    }
    let key = site.key_file.as_deref().and_then(|path| files::key(path, None).ok());
    if let (Some(path), Some(key)) = (&site.certificate_file, key)
        && let Some(pem) = read(path)
    {
        let judged = pem.and_then(|pem| tls::judge_identity(&pem, &key).map_err(|error| error.to_string()));
        judged.map_err(|message| ("upstream.certificate-file", path.clone(), message))?;
    }
    Ok(())
}

/// The copies to make, with the site changed to name them.
fn plan_copies(
    site: &mut Site,
    config: &Path,
    state_dir: &Path,
    is_below: bool,
    force: bool,
) -> Result<Vec<copy::Plan>, (PathBuf, String)> {
    let files = [
        (&mut site.ca_file, false),
        (&mut site.certificate_file, false),
        (&mut site.key_file, true),
        (&mut site.password_file, true),
    ];
    let mut plans: Vec<copy::Plan> = Vec::new();
    for (file, secret) in files {
        let Some(path) = file.as_mut() else { continue };
        match copy::plan(path, secret, config, state_dir, is_below, force) {
            Ok(None) => {}
            Ok(Some(plan)) => {
                let copied = &plan.copied;
                let twin = plans.iter().find(|other| other.copied.to == copied.to);
                if let Some(twin) = twin.filter(|twin| twin.copied.from != copied.from) {
                    let (one, other) = (twin.copied.from.display(), copied.from.display());
                    return Err((
                        copied.from.clone(),
                        format!("{one} and {other} would be copied to the same name; rename one of them"),
                    ));
                }
                path.clone_from(&plan.copied.to);
                plans.push(plan);
            }
            Err(message) => return Err((path.clone(), message)),
        }
    }
    Ok(plans)
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
