//! Formats a log record as one line of text: `LEVEL message key=value …`.
//!
//! The same text without the level is the journal's MESSAGE, so that `journalctl -u tombolo` shows
//! the device, and `journalctl DEVICE=door-7` finds it. Pure; [`super::io`] writes it.

use std::fmt::{self, Write as _};

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter};

use super::text::{Escaping, is_harmless, without_error_numbers};

/// The environment variable that overrides `[log] level`.
pub const LEVEL_VARIABLE: &str = "TOMBOLO_LOG";

/// Longest value in a line, in bytes; a longer one is cut with `…`. Journal fields have the
/// complete value.
pub const VALUE_MAX: usize = 256;

/// The names of the levels in the configuration.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The router of the bus between local MQTT clients. Its tracing spans become lines of the level
/// `error`, three for each message, so that a limit of lines would hide the others behind them.
/// What an operator would want of them has another place:
///
/// | its line | here |
/// |---|---|
/// | `Router done!` | the next publish or join fails, which `daemon::bus` logs as an error |
/// | `no space for new connection` | links are counted, and `daemon::bus` warns at the most |
/// | `Read cursor start jumped`, `less than head`: a slow subscriber misses messages | messages are numbered, and those missed are counted (`tombolo_mqtt_missed_bus_messages_total`) |
/// | acknowledgements out of order, filters, aliases | there are none: one topic, one filter, QoS 0 |
const SILENT: &str = "rumqttd";

/// Parses the name of a level in [`LEVELS`]; case is ignored. `None` for anything else.
pub fn parse_level(text: &str) -> Option<LevelFilter> {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)).then(|| text.parse().ok()).flatten()
}

/// Whether a record from `target` at `level` is written if the configured level is `most`.
///
/// Libraries log only from `warn` on, regardless of the level, because their lines may contain
/// payloads or keys. [`SILENT`] logs nothing.
pub fn is_wanted(target: &str, level: Level, most: LevelFilter) -> bool {
    if target.split("::").next() == Some(SILENT) {
        return false;
    }
    let ours = target == "tombolo" || target.starts_with("tombolo::");
    level <= if ours { most } else { most.min(LevelFilter::Warn) }
}

/// Appends `message key=value …` to `out`, escaped; values with a space, `"` or `=` are quoted.
pub fn write_message(out: &mut String, message: fmt::Arguments<'_>, fields: &dyn kv::Source) {
    // Writing to a String does not fail; a value whose Display fails is incomplete.
    let _ = write!(Escaping(&mut *out), "{message}");
    let _ = fields.visit(&mut Fields { out, value: String::new() });
}

/// The level at the start of a line on stderr.
pub fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARN ",
        Level::Info => "INFO ",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    }
}

/// The fields with complete, escaped values, for structured storage.
pub fn escaped_fields(fields: &dyn kv::Source) -> Vec<(String, String)> {
    struct Collect(Vec<(String, String)>);

    impl<'kvs> VisitSource<'kvs> for Collect {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            let mut escaped = String::new();
            let _ = write!(Escaping(&mut escaped), "{}", plain(&key, value.to_string()));
            self.0.push((key.as_str().to_owned(), escaped));
            Ok(())
        }
    }

    let mut collected = Collect(Vec::new());
    // The collector never fails; a source that stops early leaves the fields so far.
    let _ = fields.visit(&mut collected);
    collected.0
}

/// Keys whose values are our own words or the system's.
const REASONS: [&str; 2] = ["reason", "error"];

/// A value without the numbers of the system's errors, where they stand for no text of a device.
fn plain(key: &Key<'_>, value: String) -> String {
    match REASONS.contains(&key.as_str()) {
        true => without_error_numbers(&value).into_owned(),
        false => value,
    }
}

struct Fields<'a> {
    out: &'a mut String,
    value: String,
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.value = plain(&key, value.to_string());
        if self.value.len() > VALUE_MAX {
            let end = (0..=VALUE_MAX).rev().find(|at| self.value.is_char_boundary(*at)).unwrap_or(0);
            self.value.truncate(end);
            self.value.push('…');
        }
        let _ = write!(Escaping(&mut *self.out), " {key}");
        self.out.push('=');
        let plain = !self.value.is_empty()
            && self.value.chars().all(|c| is_harmless(c) && !matches!(c, ' ' | '"' | '='));
        if plain {
            let _ = write!(Escaping(&mut *self.out), "{}", self.value);
        } else {
            self.out.push('"');
            for part in self.value.split_inclusive('"') {
                let (text, quote) = part.strip_suffix('"').map_or((part, ""), |text| (text, "\\\""));
                let _ = Escaping(&mut *self.out).write_str(text);
                self.out.push_str(quote);
            }
            self.out.push('"');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: fmt::Arguments<'_>, fields: &[(&str, &str)]) -> String {
        let mut out = String::new();
        write_message(&mut out, message, &fields);
        out
    }

    #[test]
    fn a_line_is_the_message_and_its_fields() {
        assert_eq!(
            line(format_args!("reading refused"), &[("device", "door-7"), ("reason", "no rule matches")]),
            "reading refused device=door-7 reason=\"no rule matches\""
        );
    }

    #[test]
    fn a_field_from_the_network_cannot_forge_another_line_or_field() {
        let shown = line(
            format_args!("handshake failed"),
            &[("identity", "x\nERROR y\" device=\"a\x1b[2J"), ("n", "")],
        );
        assert_eq!(shown, "handshake failed identity=\"x\\u{a}ERROR y\\\" device=\\\"a\\u{1b}[2J\" n=\"\"");
        assert!(!shown.contains(['\n', '\x1b']));
    }

    #[test]
    fn fields_that_are_stored_are_whole_and_escaped() {
        let long = "ü".repeat(400);
        let fields = [("device", "door-7"), ("reason", "a\x1b[2J"), ("long", &long)];
        let escaped = escaped_fields(&fields.as_slice());
        let expected = [("device", "door-7"), ("reason", "a\\u{1b}[2J"), ("long", &long)];
        assert_eq!(escaped, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let shown = line(format_args!("m"), &[("k", &"ü".repeat(200))]);
        assert_eq!(shown, format!("m k={}…", "ü".repeat(128)));
    }

    #[test]
    fn libraries_speak_only_from_warn_on() {
        assert!(is_wanted("tombolo::daemon", Level::Debug, LevelFilter::Debug));
        assert!(is_wanted("tombolo", Level::Info, LevelFilter::Info));
        assert!(!is_wanted("tombolo", Level::Info, LevelFilter::Warn));
        assert!(is_wanted("rustls::client", Level::Warn, LevelFilter::Trace));
        assert!(!is_wanted("rustls::client", Level::Debug, LevelFilter::Trace));
        assert!(!is_wanted("tombolosque", Level::Debug, LevelFilter::Trace));
        assert!(!is_wanted("rustls", Level::Warn, LevelFilter::Error));
    }

    #[test]
    fn the_router_of_the_bus_writes_no_line_for_each_message() {
        for target in ["rumqttd", "rumqttd::router::routing"] {
            assert!(!is_wanted(target, Level::Error, LevelFilter::Trace), "{target}");
        }
        assert!(is_wanted("rumqttd_other", Level::Error, LevelFilter::Error));
    }

    #[test]
    fn levels_have_the_names_of_the_configuration() {
        assert_eq!(parse_level("info"), Some(LevelFilter::Info));
        assert_eq!(parse_level("WARN"), Some(LevelFilter::Warn));
        assert_eq!(parse_level("verbose"), None);
        assert_eq!(parse_level(""), None);
    }
}
