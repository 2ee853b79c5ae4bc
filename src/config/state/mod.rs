//! Configuration in the state directory: `{state-dir}/conf.d/*.toml` and the gateway's id.
//!
//! The user did not write these files, so they never refuse a configuration: a file that is
//! damaged, unreadable or inconsistent is ignored, reported as a problem (`status`, `check`, log),
//! and not changed. On a reload the last good version of such a file stays in use; a deleted file
//! is no longer used. This module decides; [`io`] reads.

pub mod io;

use std::path::{Path, PathBuf};

use super::finding::{Finding, Findings, Level, Place};
use super::gateway_id::{Decision, MadeId};
use super::layer::{LayerText, Origin, check_file};
use super::trial::Trial;
use crate::durable::atomic_file::Condition;

/// With more files, it is not determined which of them are inconsistent, and none is used.
const TRIED_MAX: usize = 16;
/// The subject of findings about state files.
const SUBJECT: &str = "state";

/// The configuration from the state directory, and its problems.
#[derive(Clone, Default)]
pub struct State {
    /// The generated id; `None` if there is none yet, or `[gateway] id` is set.
    pub made_id: Option<MadeId>,
    /// The problems, with remedies.
    pub problems: Vec<Finding>,
    /// The changes by this load, which the daemon logs once.
    pub events: Vec<Finding>,
    /// Changes of the id files that could not be written yet.
    pub unsettled: Option<Decision>,
    /// A configuration file that is on trial and in force.
    pub trial: Option<Trial>,
    /// A file or folder that this user may not read: then nothing of the state directory was read,
    /// neither the id nor the registry, and nothing is said about it. Never set in the daemon.
    pub closed: Option<PathBuf>,
    /// The files in use, or their last good versions.
    pub(super) layers: Vec<LayerText>,
}

/// One file of the state directory.
pub(super) struct StateFile {
    pub(super) path: PathBuf,
    pub(super) text: Result<String, Condition>,
}

/// Validates the bytes of a file.
///
/// # Errors
/// Why it is invalid, as a clause for an error message.
pub(super) fn judge(path: &Path, bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut findings = Findings::default();
    let layer = layer(path, text);
    match (check_file(&layer, &mut findings), findings.list.first()) {
        (None, Some(Finding { message, line: Some(line), .. })) => Err(format!("{message} (line {line})")),
        (None, _) => Err("it is not TOML".to_owned()),
        (Some(_), _) => Ok(layer.text),
    }
}

fn layer(path: &Path, text: &str) -> LayerText {
    LayerText { origin: Origin::State, path: path.to_owned(), text: text.to_owned() }
}

/// The layers to use: for each file its text, or its last good version. `files` are in name order,
/// or the error of reading the folder.
pub(super) fn assemble(
    folder: &Path,
    files: Result<Vec<StateFile>, Condition>,
    previous: Option<&State>,
) -> (Vec<LayerText>, Vec<Finding>) {
    let last: &[LayerText] = previous.map_or(&[], |previous| &previous.layers);
    let files = match files {
        Ok(files) => files,
        Err(condition) => return (last.to_vec(), vec![problem(folder, &condition, !last.is_empty())]),
    };
    let (mut layers, mut problems) = (Vec::new(), Vec::new());
    for StateFile { path, text } in files {
        let last = last.iter().find(|layer| layer.path == path);
        // Invalid single values are ignored at a start; on a reload they do not replace a good
        // version.
        let text = text.and_then(|text| match (last, fault(&layer(&path, &text))) {
            (Some(last), Some(why)) if last.text != text => Err(Condition::Damaged(why)),
            _ => Ok(text),
        });
        match text {
            Ok(text) => layers.push(layer(&path, &text)),
            Err(condition) => {
                problems.push(problem(&path, &condition, last.is_some()));
                layers.extend(last.cloned());
            }
        }
    }
    (layers, problems)
}

/// The first invalid value in a layer.
fn fault(layer: &LayerText) -> Option<String> {
    let mut findings = Findings::default();
    check_file(layer, &mut findings)?;
    let fault = findings.list.into_iter().find(|finding| finding.level == Level::Fail)?;
    let line = fault.line.map_or(String::new(), |line| format!(" (line {line})"));
    Some(format!("{}: {}{line}", fault.key.unwrap_or_default(), fault.message))
}

fn problem(path: &Path, condition: &Condition, has_last: bool) -> Finding {
    let effect = if has_last { "its last good version stays in use" } else { "its content is not used" };
    let advice = match condition {
        // The daemon's own user may not: it is another one's.
        Condition::Unreadable(why) if is_denied(why) => {
            "it belongs to another user: run the gateway as that one, or as root chown it to the user that runs the \
             gateway; then systemctl reload tombolo"
        }
        Condition::Unreadable(_) => {
            "give it to the service's user, or see in `dmesg` what the disk has; then systemctl reload tombolo"
        }
        _ => "write it anew or delete it, then systemctl reload tombolo",
    };
    let place = Place { file: path.display().to_string().into(), line: None };
    Finding::fail(SUBJECT, format!("{condition}; {effect}")).at(Some(&place)).advice(advice)
}

/// Whether the error of the system is a right that is missing.
fn is_denied(why: &str) -> bool {
    why.contains("Permission denied")
}

/// Loads with as many state files as are consistent with the rest of the configuration: all of
/// them; otherwise with the last versions of changed files; otherwise, at a start, with those that
/// are consistent, in name order. Returns the result, the layers in use, and the ignored ones.
///
/// # Errors
/// The faults of the user's configuration: at a start without the state files; on a reload with the
/// state files in use.
pub(super) fn fit<T>(
    layers: Vec<LayerText>,
    previous: Option<&State>,
    load: impl Fn(&[LayerText]) -> Result<T, Vec<Finding>>,
) -> Result<(T, Vec<LayerText>, Vec<Finding>), Vec<Finding>> {
    let findings = match load(&layers) {
        Ok(loaded) => return Ok((loaded, layers, Vec::new())),
        Err(findings) if layers.is_empty() => return Err(findings),
        Err(findings) => findings,
    };
    let why = findings.iter().find(|finding| finding.level == Level::Fail);
    let why = why.map_or(String::new(), |why| {
        format!(": {}: {}", why.key.as_ref().unwrap_or(&why.subject), why.message)
    });
    let does_not_fit = |layer: &LayerText, has_last: bool| {
        let condition = format!("is inconsistent with the configuration{why}");
        let effect = if has_last { "its last version stays in use" } else { "its content is not used" };
        let place = Place { file: layer.path.display().to_string().into(), line: None };
        Finding::fail(SUBJECT, format!("{condition}; {effect}"))
            .at(Some(&place))
            .advice("correct it or delete it, then systemctl reload tombolo")
    };
    if let Some(previous) = previous {
        let version = |layer: &LayerText| previous.layers.iter().find(|last| last.path == layer.path);
        let last: Vec<LayerText> = layers.iter().filter_map(version).cloned().collect();
        // If the last versions are inconsistent too, the user's change causes it: it is refused,
        // and the configuration in use stays.
        let Ok(loaded) = load(&last) else { return Err(findings) };
        let is_new = |layer: &&LayerText| version(layer).is_none_or(|last| last.text != layer.text);
        let problem = |layer| does_not_fit(layer, version(layer).is_some());
        let problems = layers.iter().filter(is_new).map(problem).collect();
        return Ok((loaded, last, problems));
    }
    let mut loaded = load(&[])?;
    let (mut used, mut problems) = (Vec::new(), Vec::new());
    let is_tried = layers.len() <= TRIED_MAX;
    for layer in layers {
        used.push(layer);
        match load(&used) {
            Ok(with) if is_tried => loaded = with,
            _ => problems.extend(used.pop().map(|layer| does_not_fit(&layer, false))),
        }
    }
    Ok((loaded, used, problems))
}

/// The findings about state files that were damaged and set aside, until they are deleted.
pub(super) fn set_aside(directory: &Path, aside: &[String]) -> Vec<Finding> {
    let finding = |name: &String| {
        let place = Place { file: directory.join(name).display().to_string().into(), line: None };
        let finding = Finding::fail(SUBJECT, "a state file was damaged, and set aside under this name");
        finding.at(Some(&place)).advice("see in `dmesg` whether the disk fails, then delete it")
    };
    aside.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> StateFile {
        let path = PathBuf::from(name);
        let text = judge(&path, text.as_bytes()).map_err(Condition::Damaged);
        StateFile { path, text }
    }

    fn state(layers: &[LayerText]) -> State {
        State { layers: layers.to_vec(), ..State::default() }
    }

    fn texts(layers: &[LayerText]) -> Vec<&str> {
        layers.iter().map(|layer| layer.text.as_str()).collect()
    }

    const GOOD: &str = "[log]\nlevel = \"debug\"\n";

    #[test]
    fn a_file_cut_anywhere_is_refused_or_says_less_and_never_panics() {
        for length in 0..GOOD.len() {
            let _ = judge(Path::new("a"), &GOOD.as_bytes()[..length]);
        }
        assert!(judge(Path::new("a"), b" \n").is_err());
        assert!(judge(Path::new("a"), b"[log]\nlevel = \"deb").unwrap_err().contains("(line 2)"));
    }

    #[test]
    fn the_last_good_version_of_a_damaged_file_stays_and_a_deleted_one_goes() {
        let before = state(&[layer(Path::new("a"), GOOD), layer(Path::new("b"), GOOD)]);
        let (layers, problems) = assemble(Path::new("."), Ok(vec![file("a", "[lo")]), Some(&before));
        assert_eq!(texts(&layers), [GOOD]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.ends_with("its last good version stays in use"), "{}", problems[0]);
        let (layers, problems) = assemble(Path::new("."), Ok(vec![file("a", "[lo")]), None);
        assert!(layers.is_empty() && problems[0].message.ends_with("is not used"));
        let gone = Err(Condition::Unreadable("EIO".into()));
        let (layers, problems) = assemble(Path::new("."), gone, Some(&before));
        assert_eq!((layers.len(), problems.len()), (2, 1));
    }

    #[test]
    fn a_value_that_went_bad_does_not_drop_the_one_in_force_but_one_bad_from_the_start_is_only_ignored() {
        let bad = "[log]\nlevel = \"dexug\"\n";
        let before = state(&[layer(Path::new("a"), GOOD)]);
        let (layers, problems) = assemble(Path::new("."), Ok(vec![file("a", bad)]), Some(&before));
        assert_eq!(texts(&layers), [GOOD]);
        assert!(problems[0].message.contains("log.level"), "{}", problems[0]);
        for before in [None, Some(&state(&[layer(Path::new("a"), bad)]))] {
            let (layers, problems) = assemble(Path::new("."), Ok(vec![file("a", bad)]), before);
            assert_eq!((texts(&layers), problems.len()), (vec![bad], 0));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_owners_own_fault_is_the_owners() {
        let layers: Vec<LayerText> = ["a", "bad", "c"].map(|name| layer(Path::new(name), name)).to_vec();
        let load = |layers: &[LayerText]| match texts(layers).contains(&"bad") {
            true => Err(vec![Finding::fail("journal", "too small")]),
            false => Ok(texts(layers).concat()),
        };
        let (loaded, used, problems) = fit(layers.clone(), None, load).unwrap();
        assert_eq!((loaded.as_str(), used.len(), problems.len()), ("ac", 2, 1));
        assert!(problems[0].message.contains("journal: too small"), "{}", problems[0]);
        let before = state(&[layer(Path::new("bad"), "fine"), layer(Path::new("a"), "a")]);
        let (loaded, _, problems) = fit(layers.clone(), Some(&before), load).unwrap();
        assert_eq!((loaded.as_str(), problems.len()), ("afine", 2));
        assert!(problems[0].message.ends_with("its last version stays in use"), "{}", problems[0]);
        // The state files did not change, so the user's change is inconsistent.
        assert!(fit(layers[1..2].to_vec(), Some(&state(&layers)), load).is_err());
        let owners = fit(layers, None, |_| Err::<(), _>(vec![Finding::fail("upstream", "no url")]));
        assert_eq!(owners.err().unwrap()[0].subject, "upstream");
    }
}
