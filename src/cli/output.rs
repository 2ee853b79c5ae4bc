//! The output of commands: aligned, escaped for the terminal, and silent after the
//! reader has closed it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::telemetry::io::{hinted, shown};
use crate::telemetry::text::{Escaped, numbered_json, without_error_numbers, without_format};

/// The output of a command's result: standard output.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
}

/// Standard output cannot be written: the reader has closed it, or the disk is full.
#[derive(Debug)]
pub struct Gone(pub io::Error);

impl Output {
    /// Prints a line of text.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn line(self, text: impl std::fmt::Display) -> Result<(), Gone> {
        self.text(&format!("{text}\n"))
    }

    /// Prints a line of our own words, with the commands in it as they have to be typed here.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn hint(self, text: impl std::fmt::Display) -> Result<(), Gone> {
        self.line(hinted(&text.to_string()))
    }

    /// Prints an object as one line of JSON.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn object(self, object: &impl Serialize) -> Result<(), Gone> {
        let text = serde_json::to_string(object).map_err(|error| Gone(error.into()))?;
        self.line(numbered_json(&text))
    }

    /// Prints rows with aligned columns; the last column is not padded or cut.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn table(self, rows: &[Vec<String>]) -> Result<(), Gone> {
        self.text(&align(rows))
    }

    /// Prints lines that already have line ends.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn text(self, text: &str) -> Result<(), Gone> {
        self.verbatim(&without_format(&without_error_numbers(text)))
    }

    /// Prints an object as one line of JSON, whatever a device has said in it.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn verbatim_object(self, object: &impl Serialize) -> Result<(), Gone> {
        let text = serde_json::to_string(object).map_err(|error| Gone(error.into()))?;
        self.verbatim(&format!("{}\n", numbered_json(&text)))
    }

    /// The same with what a device has said, which is not changed.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn verbatim(self, text: &str) -> Result<(), Gone> {
        // JSON is UTF-8 whatever the locale is (RFC 8259 §8.1).
        let text = if self.json { text.into() } else { shown(text) };
        // One write per line, flushed at its end also if stdout is a pipe, so that a tail can be
        // followed.
        super::progress::around(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Gone)
        })
    }
}

/// How long a command is silent before it says what it waits for, and between two times.
const SILENT: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(10);

/// Does something that may take long; says on standard error what is waited for once a second has
/// passed, and every 10 s from then on.
pub fn patiently<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let (done, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let begun = Instant::now();
            let mut pause = SILENT;
            while ended.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                let waited = begun.elapsed().as_secs();
                super::note(match waited {
                    0..=2 => format!("{what} …"),
                    _ => format!("{what}: {waited} s so far …"),
                });
                pause = AGAIN;
            }
        });
        let result = act();
        drop(done);
        result
    })
}

/// Rows as lines with two spaces between columns. Cells are escaped, so that an id or topic cannot
/// control the terminal.
pub fn align(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| Escaped(cell).to_string()).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for row in &rows {
        // The last cell of a row is not padded.
        for (width, cell) in widths.iter_mut().zip(row.iter().take(row.len().saturating_sub(1))) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            if at > 0 {
                line.push_str("  ");
            }
            let width = if at + 1 < row.len() { widths[at] } else { 0 };
            let _ = write!(line, "{cell:<width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes for humans: `512 B`, `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut divisor = 1024u64;
    while unit + 1 < UNITS.len() && count / divisor >= 1024 {
        divisor *= 1024;
        unit += 1;
    }
    // Rounded down to tenths, so that a limit never appears reached before it is.
    let tenths = u128::from(count) * 10 / u128::from(divisor);
    if tenths % 10 == 0 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A number of seconds for humans, in at most two units: `12 s`, `3 min 20 s`, `5 d 4 h`.
pub fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let first = UNITS.iter().position(|(length, _)| seconds >= *length).unwrap_or(3);
    let (length, name) = UNITS[first];
    let mut text = format!("{} {name}", seconds / length);
    if let Some((smaller, name)) = UNITS.get(first + 1) {
        let rest = seconds % length / smaller;
        if rest > 0 {
            let _ = write!(text, " {rest} {name}");
        }
    }
    text
}

/// A count with the right form of its noun: `1 record`, `2 records`.
pub fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// As [`plural`], for a noun with an irregular plural.
pub fn plural_of(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let text =
            align(&[row(&["id", "role", ""]), row(&["door-7", "sensor", "Tür"]), row(&["ü", "r", "x"])]);
        assert_eq!(text, "id      role\ndoor-7  sensor  Tür\nü       r       x\n");
    }

    #[test]
    fn a_cell_cannot_draw_on_the_terminal() {
        assert_eq!(align(&[row(&["a\x1b[2J\n", "b"])]), "a\\u{1b}[2J\\u{a}  b\n");
    }

    #[test]
    fn quantities_read_well() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (268_435_456, "256 MiB"),
            (1_048_575, "1023.9 KiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (3600, "1 h"), (446_401, "5 d 4 h")]
        {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(plural(1, "record"), "1 record");
        assert_eq!(plural(0, "record"), "0 records");
    }
}
