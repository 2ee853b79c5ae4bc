//! The target of log lines: the systemd journal if stderr is connected to it, otherwise stderr.
//!
//! In the journal each key becomes a field in upper case (`DEVICE=door-7`, `PEER=…`); the MESSAGE
//! contains them too.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::JournalLog;

use super::charset;
use super::hint::localise;
use super::log::{LEVEL_VARIABLE, escaped_fields, is_wanted, level_word, parse_level, write_message};
use super::text::without_error_numbers;

/// The socket of journald.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// The configured target, `[log] target`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The journal if stderr is connected to it, otherwise stderr.
    #[default]
    Auto,
    /// The journal, also from a terminal; stderr if there is no journal.
    Journal,
    /// Stderr, also under systemd.
    Stderr,
}

/// The actual target of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The systemd journal, with fields.
    Journal,
    /// Lines on stderr.
    Stderr,
}

/// Starts logging at `level`, or at the level in `TOMBOLO_LOG`; call it once, before the first log
/// line.
///
/// Stderr counts as connected to the journal if `JOURNAL_STREAM` identifies it. A second call
/// changes only the level. An unknown level in the variable, and a requested journal that does not
/// exist, cause a warning.
pub fn initialise(level: LevelFilter, target: Target) -> Destination {
    let to_journal = match target {
        Target::Auto => systemd_journal_logger::connected_to_journal(),
        Target::Journal => true,
        Target::Stderr => false,
    };
    // Opening the socket does not tell whether journald listens.
    let journal = to_journal
        .then(JournalLog::new)
        .and_then(Result::ok)
        .filter(|_| std::path::Path::new(JOURNAL_SOCKET).exists())
        .map(|journal| journal.with_syslog_identifier("tombolo".to_owned()));
    let (logger, destination): (Box<dyn Log>, _) = match journal {
        Some(journal) => (Box::new(Journal(journal)), Destination::Journal),
        None => (Box::new(Stderr), Destination::Stderr),
    };
    let first = log::set_boxed_logger(logger).is_ok();
    set_level(level);
    if first
        && let Ok(wrong) = std::env::var(LEVEL_VARIABLE)
        && !wrong.is_empty()
        && parse_level(&wrong).is_none()
    {
        log::warn!(value = wrong; "TOMBOLO_LOG is ignored: it takes off, error, warn, info, debug or trace");
    }
    if first && target == Target::Journal && destination == Destination::Stderr {
        log::warn!("there is no systemd journal here; log lines go to stderr");
    }
    destination
}

/// Changes the level after a reload of `[log] level`; `TOMBOLO_LOG` has precedence.
pub fn set_level(configured: LevelFilter) {
    let variable = std::env::var(LEVEL_VARIABLE).ok();
    log::set_max_level(variable.as_deref().and_then(parse_level).unwrap_or(configured));
}

fn wanted(metadata: &Metadata<'_>) -> bool {
    is_wanted(metadata.target(), metadata.level(), log::max_level())
}

/// The configuration in use, quoted for a shell, where it is not the packaged one.
static CONFIGURATION: OnceLock<String> = OnceLock::new();

/// Commands in messages of this process name this configuration from now on. A second call has no
/// effect.
pub fn name_configuration(quoted: String) {
    let _ = CONFIGURATION.set(quoted);
}

/// A message with its commands as they have to be typed here (see [`hint`](super::hint)), without
/// the numbers of errors.
pub fn hinted(text: &str) -> Cow<'_, str> {
    let configuration = CONFIGURATION.get().map(String::as_str);
    match without_error_numbers(text) {
        Cow::Borrowed(text) => localise(text, configuration),
        Cow::Owned(text) => Cow::Owned(localise(&text, configuration).into_owned()),
    }
}

/// A text as this process's locale can show it.
pub fn shown(text: &str) -> Cow<'_, str> {
    static NARROW: OnceLock<bool> = OnceLock::new();
    let narrow = NARROW.get_or_init(|| {
        let values = ["LC_ALL", "LC_CTYPE", "LANG"].map(|name| std::env::var(name).ok());
        charset::is_narrow(values.each_ref().map(Option::as_deref))
    });
    if *narrow { charset::narrow(text) } else { Cow::Borrowed(text) }
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        wanted(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !wanted(record.metadata()) {
            return;
        }
        let mut line = String::with_capacity(160);
        line.push_str(level_word(record.level()));
        line.push(' ');
        write_message(&mut line, *record.args(), &record.key_values());
        // Commands are named in reasons, too.
        let mut line = hinted(&line).into_owned();
        line.push('\n');
        // One write per line, so that lines of several threads do not mix. A failure cannot be
        // reported anywhere.
        let _ = std::io::stderr().write_all(shown(&line).as_bytes());
    }

    fn flush(&self) {}
}

struct Journal(JournalLog);

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        wanted(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !wanted(record.metadata()) {
            return;
        }
        let mut message = String::with_capacity(160);
        let said = record.args().to_string();
        let said = without_error_numbers(&said);
        write_message(&mut message, format_args!("{said}"), &record.key_values());
        let fields = escaped_fields(&record.key_values());
        // The logger sends info as priority 5 (notice in journald); all its levels are shifted by
        // one.
        let sent = self.0.journal_send(
            &Record::builder()
                .metadata(record.metadata().clone())
                .args(format_args!("{message}"))
                .module_path(record.module_path())
                .file(record.file())
                .line(record.line())
                .key_values(&fields)
                .build(),
        );
        if sent.is_err() && record.level() <= Level::Warn {
            let _ = writeln!(std::io::stderr(), "{} {message}", level_word(record.level()));
        }
    }

    fn flush(&self) {}
}
