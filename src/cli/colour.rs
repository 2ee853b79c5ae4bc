//! Colours, where a person reads: on a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
//!
//! The colour never carries meaning alone: the word beside it does.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use crate::config::{Finding, Level};

/// What a text is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// As it should be: green.
    Good,
    /// Works, but: yellow.
    Caution,
    /// Does not work: bold red.
    Bad,
}

/// Whether standard output is to have colours.
pub fn is_wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| {
        let of = |name| std::env::var_os(name);
        judge(std::io::stdout().is_terminal(), of("NO_COLOR").as_deref(), of("TERM").as_deref())
    })
}

/// <https://no-color.org>: any value but an empty one forbids them.
fn judge(terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    terminal
        && no_color.is_none_or(OsStr::is_empty)
        && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The text in its colour.
pub fn painted(paint: Paint, text: &str) -> String {
    let code = match paint {
        Paint::Good => "32",
        Paint::Caution => "33",
        Paint::Bad => "1;31",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A finding, its level in colour where that is wanted.
pub fn finding(finding: &Finding) -> String {
    let line = finding.to_string();
    let paint = match finding.level {
        Level::Ok => Paint::Good,
        Level::Warn => Paint::Caution,
        Level::Fail => Paint::Bad,
    };
    let level = finding.level.as_str();
    match line.strip_prefix(level).filter(|_| is_wanted()) {
        Some(rest) => format!("{}{rest}", painted(paint, level)),
        None => line,
    }
}

/// The rows of a table that are bad, and the one that says whether all is fine, in colour where
/// that is wanted.
pub fn status(text: &str, fine: bool) -> String {
    if is_wanted() { coloured(text, fine) } else { text.to_owned() }
}

fn coloured(text: &str, fine: bool) -> String {
    let mut out = String::with_capacity(text.len() + 32);
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let paint = match line.split(' ').next() {
            Some("state") if fine => Some(Paint::Good),
            Some("state" | "problem" | "disabled") => Some(Paint::Bad),
            _ => None,
        };
        match paint {
            Some(paint) => out.push_str(&painted(paint, line)),
            None => out.push_str(line),
        }
        out.push_str(end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_and_for_those_who_have_not_refused_them() {
        let some = |text: &'static str| Some(OsStr::new(text));
        assert!(judge(true, None, some("xterm-256color")));
        assert!(judge(true, some(""), some("linux")));
        assert!(!judge(false, None, some("xterm")));
        assert!(!judge(true, some("1"), some("xterm")));
        assert!(!judge(true, None, some("dumb")));
        assert!(!judge(true, None, None));
    }

    #[test]
    fn only_what_is_wrong_and_the_verdict_are_coloured() {
        let text = "state    everything is fine\ngateway  problem\nproblem  x\n";
        assert_eq!(
            coloured(text, true),
            "\x1b[32mstate    everything is fine\x1b[0m\ngateway  problem\n\x1b[1;31mproblem  x\x1b[0m\n"
        );
        assert!(coloured(text, false).starts_with("\x1b[1;31mstate"));
    }
}
