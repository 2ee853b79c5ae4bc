//! `tombolo support-bundle`: one tar archive with what somebody who helps needs to see. No keys,
//! no passwords, no payloads.
//!
//! | file in it | from |
//! |---|---|
//! | `README.txt` | when, where, what is not in it and why |
//! | `version.txt`, `system.txt` | the program; kernel, distribution, memory, disk, uptime |
//! | `config.txt`, `config.json` | `tombolo config show`: values and places, no comments |
//! | `check.json`, `status.json`, `queue.json`, `verify.json`, `clock.json` | these commands, each with its own time limit |
//! | `state.txt` | names, sizes, modes and dates in the state directory; no content |
//! | `unit.txt` | the units and their drop-ins |
//! | `update.txt` | what was installed, what became of versions, the floor: root's folder of updates |
//! | `log.txt` | the last lines of the service in the journal of systemd |
//!
//! The commands run as processes of their own, so that one that hangs or fails is a line in the
//! bundle and not the end of it. It works with the daemon stopped and with a faulty configuration.
//! Every text passes [`redact`], and is cut at [`PART_MAX`]; with `--max-bytes` at what the longest
//! of them may have.

mod question;
mod redact;
mod tar;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::args::BundleArguments;
use super::error::CommandError;
use super::output::bytes;
use super::{Context, note};
use crate::clock::UnixTime;
use crate::config::io::texts;
use crate::config::show::{Shown, show};
use crate::durable::io::write_atomically;
use crate::update::installation::folder_of;
use crate::update::io::floor;
use question::{questions, without_questions};
use redact::Redactor;
use tar::Archive;

/// Most bytes of one file in the bundle; there are about a dozen.
const PART_MAX: usize = 1 << 20;
/// Most bytes of the note that a text was cut.
const NOTE_MAX: usize = 64;
/// Most bytes of a secret that is read to be recognised.
const SECRET_MAX: u64 = 64 << 10;
/// Most secrets that are recognised literally.
const SECRETS_MAX: usize = 20_000;
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// Most files of the state directory that are listed.
const LISTED_MAX: usize = 2_000;
/// Folders of systemd's units.
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Collects and writes it.
///
/// # Errors
/// [`CommandError::Failed`] if the file exists or cannot be written.
pub fn run(context: &Context, arguments: &BundleArguments) -> Result<(), CommandError> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = UnixTime(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)).to_string();
    let file = arguments.file.clone().unwrap_or_else(|| {
        let stamp: String = now.chars().take_while(|c| *c != '.').filter(|c| c.is_ascii_digit()).collect();
        PathBuf::from(format!("tombolo-support-{stamp}.tar"))
    });
    if file.symlink_metadata().is_ok() {
        return Err(CommandError::Failed(format!("{} exists; name another file", file.display())));
    }
    let options = context.options();
    let read = texts(&options);
    // The names of devices that are not known cannot be taken out of the log.
    if let Some(closed) = read.closed.as_ref().filter(|_| arguments.hide_names) {
        let (closed, hint) = (closed.display(), context.rights_hint("support-bundle --hide-names"));
        return Err(CommandError::Failed(format!(
            "nothing was written: {closed} may not be read by this user, so not all names can be taken out; {hint}"
        )));
    }
    let (shown, _) = show(&read.layers, &options.environment);
    let hidden = questions(&shown);
    let mut redactor = redactor(&shown, &read.state_dir, arguments.hide_names);
    for question in &hidden {
        question.secrets().for_each(|secret| redactor.know(secret.as_bytes()));
    }
    let mut texts: Vec<(&str, String)> = Vec::new();
    let mut add = |name, text: &str| texts.push((name, cut(&redactor.redact(text), PART_MAX)));
    add("README.txt", &readme(context, &now, arguments));
    add("version.txt", concat!("tombolo ", env!("CARGO_PKG_VERSION"), "\n"));
    add("system.txt", &system(&read.state_dir));
    let mut check = vec!["check", "--json"];
    if arguments.offline {
        check.push("--offline");
    }
    for (name, line) in [
        ("config.txt", &["config", "show"][..]),
        ("config.json", &["config", "show", "--json"]),
        ("check.json", &check),
        ("status.json", &["status", "--json"]),
        ("queue.json", &["queue", "--json"]),
        ("verify.json", &["queue", "verify", "--json"]),
        ("clock.json", &["clock", "--json"]),
    ] {
        let text = ours(context, line);
        match name {
            "config.txt" | "config.json" => add(name, &without_questions(&text, &hidden)),
            _ => add(name, &text),
        }
    }
    add("state.txt", &listing(&read.state_dir));
    add("update.txt", &updates(&folder_of(&read.state_dir)));
    if context.is_packaged() {
        add("unit.txt", &units());
        add("log.txt", &log());
    } else {
        // The unit and the log of this machine, if there are any, are those of another gateway.
        let text = "this gateway is no service of systemd: its log is what `tombolo run` prints; add it\n";
        add("log.txt", text);
    }
    let most = arguments.max_bytes.map_or(PART_MAX, |most| {
        let lengths: Vec<usize> = texts.iter().map(|(_, text)| text.len()).collect();
        share(&lengths, usize::try_from(most).unwrap_or(usize::MAX))
    });
    let mut archive = Archive::default();
    for (name, text) in &texts {
        let text = cut(text, most);
        archive.add(&format!("tombolo-support/{name}"), text.as_bytes(), since_1970.as_secs());
    }
    let names: Vec<&str> = texts.iter().map(|(name, _)| *name).collect();
    let archive = archive.finish();
    let size = archive.len() as u64;
    let whole = std::path::absolute(&file).unwrap_or_else(|_| file.clone());
    write_atomically(&whole, &archive, 0o600)
        .map_err(|error| CommandError::Failed(format!("{} cannot be written: {error}", file.display())))?;
    if context.out.json {
        return Ok(context.out.object(&json!({ "file": file, "bytes": size, "parts": names }))?);
    }
    context.out.line(format!("{} ({})", file.display(), bytes(size)))?;
    let file = super::key::shell_word(&file.display().to_string());
    note(format_args!(
        "secrets and payloads are not in it; look through it before you send it: tar xf {file}"
    ));
    Ok(())
}

fn readme(context: &Context, now: &str, arguments: &BundleArguments) -> String {
    let names = if arguments.hide_names { "taken out" } else { "in it; --hide-names takes them out" };
    format!(
        "Made by `tombolo support-bundle` of tombolo {} at {now}, for {}.\n\n\
         Keys, passwords, pre-shared keys and payloads are not in it: files with secrets are not read into it, and every \
         text was searched for them. Comments of configuration files are not in it.\n\
         MQTT user names, device ids and labels are {names}.\n\
         A part that could not be made says why. Each is cut at {}.\n",
        env!("CARGO_PKG_VERSION"),
        context.config.display(),
        bytes(PART_MAX as u64)
    )
}

/// What must not be in it.
fn redactor(shown: &[Shown], state_dir: &Path, hide_names: bool) -> Redactor {
    let mut redactor = Redactor::default();
    let mut files: Vec<PathBuf> = shown
        .iter()
        .filter(|one| super::check::is_secret(&one.key))
        .filter_map(|one| {
            let text = one.value.as_ref()?.as_str().filter(|text| !text.starts_with("credential:"))?;
            let base = Path::new(&*one.place.as_ref()?.file).parent().unwrap_or(Path::new(""));
            Some(base.join(text))
        })
        .collect();
    files.truncate(SECRETS_MAX);
    for file in files {
        if let Some(secret) = read_bounded(&file, SECRET_MAX) {
            redactor.know(&secret);
        }
    }
    let devices = std::fs::read_dir(state_dir.join("devices")).into_iter().flatten().flatten();
    for entry in devices.take(SECRETS_MAX) {
        let path = entry.path();
        if hide_names && let Some(id) = path.file_stem().and_then(|id| id.to_str()) {
            redactor.hide_name(id);
        }
        let text = read_bounded(&path, SECRET_MAX).unwrap_or_default();
        let table: Option<toml::Table> = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        for (key, value) in table.iter().flatten() {
            let Some(text) = value.as_str() else { continue };
            match key.as_str() {
                "psk" => redactor.know(text.as_bytes()),
                "label" | "psk-identity" | "mqtt-username" if hide_names => redactor.hide_name(text),
                _ => {}
            }
        }
    }
    if hide_names {
        for one in shown.iter().filter(|one| one.place.is_some()) {
            let parts: Vec<&str> = one.key.split('.').collect();
            if let ["device", id, ..] = parts[..] {
                redactor.hide_name(id.trim_matches('"'));
            }
            let is_name =
                matches!(parts.last(), Some(&("username" | "mqtt-username" | "label" | "psk-identity")));
            if let Some(text) = one.value.as_ref().and_then(|value| value.as_str()).filter(|_| is_name) {
                redactor.hide_name(text);
            }
        }
    }
    redactor
}

fn read_bounded(path: &Path, max: u64) -> Option<Vec<u8>> {
    // A named pipe would keep us waiting.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut read = Vec::new();
    std::fs::File::open(path).ok()?.take(max).read_to_end(&mut read).ok()?;
    Some(read)
}

/// How many bytes each text may have, so that an archive of them has at most `most`: the longest
/// ones are cut.
fn share(lengths: &[usize], most: usize) -> usize {
    let room = most.saturating_sub(tar::END + lengths.len() * (tar::OVERHEAD_MAX + NOTE_MAX));
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable();
    let mut left = room;
    for (index, length) in lengths.iter().enumerate() {
        let each = left / (lengths.len() - index);
        if *length > each {
            return each;
        }
        left -= length;
    }
    room
}

/// At most `most` bytes and a note: the end is kept, since it is the newest of a log.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut at = text.len() - most;
    while !text.is_char_boundary(at) {
        at += 1;
    }
    format!("[{at} bytes before this are cut]\n{}", &text[at..])
}

/// What a command of ours says.
fn ours(context: &Context, arguments: &[&str]) -> String {
    let Ok(program) = std::env::current_exe() else { return "this program cannot be found\n".to_owned() };
    let mut command = Command::new(program);
    command.arg("--config").arg(&context.config).args(arguments);
    said(command, &format!("tombolo {}", arguments.join(" ")))
}

/// What a command says, within [`COMMAND`]; or why not.
fn said(mut command: Command, name: &str) -> String {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("NO_COLOR", "1");
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return format!("{name} cannot be started: {error}\n"),
    };
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(stream) = stream {
                let _ = stream.take(8 * PART_MAX as u64).read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let err = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let give_up = Instant::now() + COMMAND;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break format!("{status}"),
            Ok(None) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break format!("it was ended after {} s", COMMAND.as_secs());
            }
        }
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    match (out.is_empty(), err.is_empty()) {
        (false, true) => out,
        _ => format!("{out}{err}({name}: {ended})\n"),
    }
}

/// The machine.
fn system(state_dir: &Path) -> String {
    let mut text = String::new();
    for file in
        ["/proc/version", "/etc/os-release", "/proc/uptime", "/proc/loadavg", "/proc/device-tree/model"]
    {
        if let Some(content) = read_bounded(Path::new(file), 4096) {
            text.push_str(&format!(
                "== {file}\n{}\n",
                String::from_utf8_lossy(&content).trim_end_matches('\0')
            ));
        }
    }
    if let Some(memory) = read_bounded(Path::new("/proc/meminfo"), 4096) {
        let memory = String::from_utf8_lossy(&memory).lines().take(6).collect::<Vec<_>>().join("\n");
        text.push_str(&format!("== /proc/meminfo\n{memory}\n"));
    }
    for folder in [state_dir, Path::new("/"), Path::new("/var/log")] {
        text.push_str(&space(folder));
    }
    text
}

/// How much room there is.
fn space(folder: &Path) -> String {
    let Ok(space) = nix::sys::statvfs::statvfs(folder) else { return String::new() };
    #[allow(clippy::useless_conversion, reason = "both are narrower on 32-bit targets")]
    let of = |blocks: u64| blocks.saturating_mul(u64::from(space.fragment_size()));
    #[allow(clippy::useless_conversion, reason = "both are narrower on 32-bit targets")]
    let (free, all) = (of(u64::from(space.blocks_available())), of(u64::from(space.blocks())));
    format!("== disk of {}: {} free of {}\n", folder.display(), bytes(free), bytes(all))
}

/// The state directory's files: names, sizes, modes, dates.
fn listing(state_dir: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let mut lines = Vec::new();
    let mut waiting = vec![state_dir.to_owned()];
    while let Some(folder) = waiting.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                lines.push(format!("{}: {error}", folder.display()));
                continue;
            }
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if lines.len() >= LISTED_MAX {
                lines.push("and more".to_owned());
                return lines.join("\n") + "\n";
            }
            let Ok(about) = path.symlink_metadata() else { continue };
            let changed = UnixTime(u64::try_from(about.mtime()).unwrap_or(0).saturating_mul(1_000));
            let (mode, uid, gid) = (about.mode() & 0o7777, about.uid(), about.gid());
            lines.push(format!("{mode:04o} {uid}:{gid} {:>10} {changed} {}", about.size(), path.display()));
            if about.is_dir() {
                waiting.push(path);
            }
        }
    }
    lines.join("\n") + "\n"
}

/// Root's folder of updates: what is in its files, and their sizes.
fn updates(folder: &Path) -> String {
    if !folder.exists() {
        return format!(
            "{} is not there: nothing was installed by `tombolo update apply`\n",
            folder.display()
        );
    }
    let mut text = String::new();
    for name in ["installation.json", "history.json", "refusal.json", "attempt"] {
        let content = read_bounded(&folder.join(name), PART_MAX as u64 / 4);
        let content = content.map_or_else(
            || "it is not there, or cannot be read".to_owned(),
            |content| String::from_utf8_lossy(&content).trim_end().to_owned(),
        );
        text.push_str(&format!("== {name}\n{content}\n"));
    }
    let floor = match floor::read(floor::on_disk(folder)) {
        Ok(floor) => String::from_utf8_lossy(&floor.encode()).into_owned(),
        Err(fault) => fault.to_string(),
    };
    text.push_str(&format!("== floor\n{floor}\n== {}\n{}", folder.display(), listing(folder)));
    text + &space(folder)
}

/// The unit and its drop-ins.
fn units() -> String {
    let mut text = String::new();
    let mut add = |path: &Path| {
        if let Some(content) = read_bounded(path, PART_MAX as u64) {
            text.push_str(&format!("== {}\n{}\n", path.display(), String::from_utf8_lossy(&content)));
        }
    };
    for folder in UNITS.map(Path::new) {
        for unit in
            ["tombolo.service", "tombolo-update.service", "tombolo-update.path", "tombolo-health.service"]
        {
            add(&folder.join(unit));
            let entries = std::fs::read_dir(folder.join(format!("{unit}.d"))).into_iter().flatten().flatten();
            let mut drop_ins: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            drop_ins.sort();
            drop_ins.iter().for_each(|path| add(path));
        }
    }
    if text.is_empty() { "no unit is installed\n".to_owned() } else { text }
}

/// The service's last lines. There is no library for this here; journalctl comes with systemd.
fn log() -> String {
    let mut command = Command::new("journalctl");
    command.args([
        "--unit=tombolo",
        "--unit=tombolo-update",
        "--unit=tombolo-health",
        "--lines=2000",
        "--no-pager",
        "--output=short-iso",
    ]);
    said(command, "journalctl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_at_its_beginning() {
        let text = format!("{}ü{}", "a".repeat(10), "b".repeat(PART_MAX - 1));
        let cut = cut(&text, PART_MAX);
        assert!(cut.starts_with("[12 bytes before this are cut]\nb"), "{}", &cut[..40]);
        assert!(cut.ends_with('b') && cut.len() < PART_MAX + 64);
    }

    #[test]
    fn within_a_bound_the_longest_texts_are_cut_and_the_others_whole() {
        let texts = [10, 200_000, 3_000, 900_000, 0].map(|length| "x".repeat(length));
        let lengths: Vec<usize> = texts.iter().map(String::len).collect();
        for bound in [65_536, 300_000, 1 << 20, 4 << 20] {
            let most = share(&lengths, bound);
            let mut archive = Archive::default();
            texts.iter().for_each(|text| archive.add("n", cut(text, most).as_bytes(), 0));
            let size = archive.finish().len();
            assert!(size <= bound && most >= 3_000, "{size} of {bound}");
            assert!(size > bound * 4 / 5 || most >= 900_000, "{size} of {bound}");
        }
    }

    #[test]
    fn a_command_that_fails_is_named_with_what_it_said() {
        assert!(said(Command::new("/nowhere/at/all"), "x").starts_with("x cannot be started"));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let text = said(command, "x");
        assert!(text.starts_with("out\nerr\n(x: exit status: 3)"), "{text}");
    }
}
