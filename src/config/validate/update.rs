//! `[update]`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Context, PACKAGED, built_with, firmware};
use crate::config::model;
use crate::journal;
use crate::update::settings::{Backend, Folder, Place, Settings, Source};
use crate::update::window::Window;

/// The drop-ins of the image or the package.
const VENDOR: &str = "/usr/lib/tombolo/conf.d";
/// Kept free beside what the journal may still take: other state, and what a file system needs.
const SPARE: u64 = 32 << 20;
/// The keys that belong to `source = "tuf"` alone.
const OF_TUF: [&str; 5] = ["url", "metadata-url", "targets-url", "root-file", "ca-file"];

/// A fault switches the update checks off and leaves the rest in use.
pub(super) fn update(
    cx: &mut Context<'_>,
    table: &model::Update,
    roles: &BTreeMap<String, model::Role>,
    journal: &journal::Settings,
) -> Settings {
    let source = source(cx, table);
    let sensors = firmware::sensors(cx, table, roles, &source);
    let backend = match table.backend {
        None | Some(model::UpdateBackend::None) => Backend::None,
        Some(model::UpdateBackend::Rauc) => Backend::Rauc,
        Some(model::UpdateBackend::Apt) => Backend::Apt,
        Some(model::UpdateBackend::Exec) => Backend::Exec,
    };
    let fits = match (&source, backend) {
        (_, Backend::None) | (Source::None, _) => true,
        (Source::Apt, backend) => backend == Backend::Apt,
        (Source::Tuf(_), backend) => backend != Backend::Apt,
    };
    if !fits {
        let (source, backend) = (source.as_str(), backend.as_str());
        let message = format!("the backend {backend:?} cannot install what the source {source:?} offers");
        let advice = "use \"apt\" with source = \"apt\"; \"rauc\" or \"exec\" with \"tuf\"; or \"none\"";
        cx.fail("update", &["update", "backend"], message, advice);
    }
    let window = table.maintenance_window.as_deref().map(Window::parse);
    let window = window.unwrap_or(Ok(Window::ALWAYS)).unwrap_or_else(|span| {
        let message = format!("{span:?} is not a span of time; nothing is installed automatically");
        let advice =
            "use \"always\", or spans like \"02:00-04:00\" or \"Mon-Fri 22:00-05:00; Sat,Sun 00:00-24:00\"";
        cx.fail("update", &["update", "maintenance-window"], message, advice);
        Window::NEVER
    });
    Settings {
        source,
        period: table.period.map_or(Settings::PERIOD, |span| span.0),
        backend: if fits { backend } else { Backend::None },
        window,
        compatible: table.compatible.clone(),
        hardware: table.hardware.clone(),
        health_timeout: table.health_timeout.map_or(Settings::HEALTH_TIMEOUT, |span| span.0),
        daily_budget: table.daily_budget.filter(|bytes| *bytes > 0),
        reserve: journal.max_bytes.saturating_add(SPARE),
        sensors,
    }
}

fn source(cx: &mut Context<'_>, table: &model::Update) -> Source {
    // The package's drop-in is for its service: a gateway that somebody starts from a folder of its
    // own does not ask apt unless its own files say so.
    let place = cx.index.place("update.source").map(|place| PathBuf::from(&*place.file));
    let is_vendors = place.is_some_and(|file| file.starts_with(VENDOR));
    let source = match table.source {
        Some(_) if is_vendors && cx.sources.main.as_path() != Path::new(PACKAGED) => None,
        source => source,
    };
    if source != Some(model::UpdateSource::Tuf) {
        for key in OF_TUF {
            if cx.index.place(&format!("update.{key}")).is_some() {
                let advice = "set [update] source = \"tuf\", or take the key out";
                cx.warn("update", &["update", key], "without effect: only a TUF repository has it", advice);
                break;
            }
        }
    }
    match source {
        None | Some(model::UpdateSource::None) => Source::None,
        Some(model::UpdateSource::Apt) => Source::Apt,
        Some(model::UpdateSource::Tuf) if !cfg!(feature = "update") => {
            let advice = format!("use source = \"apt\" or \"none\", or {}", built_with("update"));
            let message = "this program was built without TUF";
            cx.fail("update", &["update", "source"], message, &advice);
            Source::None
        }
        Some(model::UpdateSource::Tuf) => tuf(cx, table).map_or(Source::None, Source::Tuf),
    }
}

/// `None` after a fault, which is reported: then nothing is checked.
fn tuf(cx: &mut Context<'_>, table: &model::Update) -> Option<Place> {
    let (metadata, targets) = match (&table.url, &table.metadata_url, &table.targets_url) {
        (Some(url), None, None) => {
            let base = folder(cx, "url", url)?;
            (base.below("metadata"), base.below("targets"))
        }
        (None, Some(metadata), Some(targets)) => {
            (folder(cx, "metadata-url", metadata)?, folder(cx, "targets-url", targets)?)
        }
        (Some(_), _, _) => {
            let message = "url is set together with metadata-url or targets-url";
            let advice = "use url where both folders are below it, else the other two";
            cx.fail("update", &["update", "url"], message, advice);
            return None;
        }
        (None, _, _) => {
            let advice = "set url = \"https://HOST/REPOSITORY/\", which has metadata/ and targets/; or both metadata-url and targets-url";
            cx.fail("update", &["update", "source"], "the repository's URL is missing", advice);
            return None;
        }
    };
    let Some(root) = &table.root_file else {
        let advice = "set root-file to the root.json that the repository's owner hands out";
        cx.fail(
            "update",
            &["update", "source"],
            "root-file is missing: nothing shows which keys to believe",
            advice,
        );
        return None;
    };
    let root_file = cx.path(&["update", "root-file"], root);
    cx.look_at("update", &["update", "root-file"], &root_file, false);
    let ca_file = table.ca_file.as_deref().map(|text| cx.path(&["update", "ca-file"], text));
    if let Some(file) = &ca_file {
        cx.look_at("update", &["update", "ca-file"], file, false);
    }
    Some(Place { metadata, targets, root_file, ca_file })
}

fn folder(cx: &mut Context<'_>, key: &str, text: &str) -> Option<Folder> {
    match Folder::parse(text) {
        Ok(folder) => Some(folder),
        Err(message) => {
            cx.fail("update", &["update", key], message, "write it like https://HOST/REPOSITORY/");
            None
        }
    }
}
