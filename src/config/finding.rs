//! The findings of checking the configuration: one line each, with the place and the remedy.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Checked and correct.
    Ok,
    /// Works, but probably not as intended.
    Warn,
    /// Does not work: the item is disabled, or the whole configuration refused.
    Fail,
}

impl Level {
    /// As `tombolo check` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        }
    }
}

/// The place of a key: a line of a file, or an environment variable (which has no line).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named, or `environment variable TOMBOLO_…`.
    pub file: Arc<str>,
    /// The line, from 1; `None` for an environment variable.
    pub line: Option<u32>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file),
            None => f.write_str(&self.file),
        }
    }
}

/// One finding. It never contains a key or a password, or a value that might be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its severity.
    pub level: Level,
    /// The subject: `configuration`, `upstream`, `device door-7`, …
    pub subject: String,
    /// The file or the environment variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The whole key, `device.door-7.psk-file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The fault or state.
    pub message: String,
    /// The remedy; empty if nothing needs to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

impl Finding {
    /// A finding without a place.
    pub fn new(level: Level, subject: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding {
            level,
            subject: subject.into(),
            file: None,
            line: None,
            key: None,
            message: message.into(),
            advice: String::new(),
        }
    }

    /// Level [`Level::Ok`].
    pub fn ok(subject: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(Level::Ok, subject, message)
    }

    /// Level [`Level::Warn`].
    pub fn warn(subject: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(Level::Warn, subject, message)
    }

    /// Level [`Level::Fail`].
    pub fn fail(subject: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(Level::Fail, subject, message)
    }

    /// Sets the place.
    #[must_use]
    pub fn at(mut self, place: Option<&Place>) -> Finding {
        if let Some(place) = place {
            self.file = Some(place.file.to_string());
            self.line = place.line;
        }
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Finding {
        self.key = Some(key.into());
        self
    }

    /// Sets the remedy.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Finding {
        self.advice = advice.into();
        self
    }
}

impl Finding {
    /// The printed form without the level.
    pub fn sentence(&self) -> String {
        let line = self.to_string();
        line.get(LEVEL_WIDTH..).unwrap_or_default().to_owned()
    }
}

/// Width of the level in a line, in columns.
const LEVEL_WIDTH: usize = 6;

impl std::fmt::Display for Finding {
    /// `fail  tombolo.toml:12: coap.max-sessions: is 0; use a whole number from 1 to 1000000`.
    ///
    /// Always one line: control characters are escaped, so that the content of a file cannot
    /// control the terminal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = format!("{:<4}  ", self.level.as_str());
        if let Some(file) = &self.file {
            line.push_str(file);
            if let Some(number) = self.line {
                let _ = write!(line, ":{number}");
            }
            line.push_str(": ");
        }
        line.push_str(self.key.as_deref().unwrap_or(&self.subject));
        line.push_str(": ");
        line.push_str(&self.message);
        if !self.advice.is_empty() {
            line.push_str("; ");
            line.push_str(&self.advice);
        }
        for character in line.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// The findings as `tombolo check` prints them, one per line.
pub fn findings_to_lines(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "{finding}");
    }
    text
}

/// The findings as `tombolo check --json` prints them: one object,
/// `{"ok": 3, "warn": 1, "fail": 0, "findings": [{"level", "subject", "file", "line", "key",
/// "message", "advice"}]}`.
pub fn findings_to_json(findings: &[Finding]) -> serde_json::Value {
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    serde_json::json!({
        "ok": count(Level::Ok),
        "warn": count(Level::Warn),
        "fail": count(Level::Fail),
        "findings": findings,
    })
}

/// Collects findings and whether one of them refuses the whole configuration.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
    pub(super) fatal: bool,
}

impl Findings {
    /// Adds a finding that does not refuse the rest of the configuration.
    pub(super) fn push(&mut self, finding: Finding) {
        self.list.push(finding);
    }

    /// Adds a finding that refuses the whole configuration.
    pub(super) fn fatal(&mut self, finding: Finding) {
        self.fatal = true;
        self.list.push(finding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_it_holds() {
        let place = Place { file: "a.toml".into(), line: Some(3) };
        let finding =
            Finding::warn("x", "is \u{1b}[31m\nred").at(Some(&place)).key("log.level").advice("stop");
        assert_eq!(finding.to_string(), "warn  a.toml:3: log.level: is \\u{1b}[31m\\nred; stop");
        assert_eq!(finding.sentence(), "a.toml:3: log.level: is \\u{1b}[31m\\nred; stop");
    }

    #[test]
    fn the_json_form_counts_the_levels_and_leaves_out_what_is_not_known() {
        let json = findings_to_json(&[Finding::fail("upstream", "no url"), Finding::ok("files", "fine")]);
        assert_eq!(
            json.to_string(),
            r#"{"fail":1,"findings":[{"level":"fail","message":"no url","subject":"upstream"},{"level":"ok","message":"fine","subject":"files"}],"ok":1,"warn":0}"#
        );
    }
}
