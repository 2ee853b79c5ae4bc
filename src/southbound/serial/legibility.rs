//! Whether what comes on a line can be read. A wrong baud, checksum, framing or pattern looks like
//! this: bytes come, and no reading.
//!
//! Where the framing is wrong, no frame may ever end. So bytes that end no frame count, too: as
//! many as the longest frame has count as one, and so do those that come after a pause of
//! [`PAUSE`].
//!
//! | so far | the line is illegible after |
//! |---|---|
//! | no reading | [`FIRST`] frames in a row, or [`SLOW`] of them over [`SLOW_FOR`] |
//! | readings | [`LATER`] frames in a row, or three times the longest row that a reading ended, over [`LATER_FOR`] |
//!
//! A pattern may be meant to pick a few frames out of many, so a line that has given readings is
//! judged by what is usual on it. A reading ends the judgement.

use std::fmt;
use std::time::{Duration, Instant};

use crate::hex::format_hex;
use crate::proto::serial::framing::{Awaited, Bad, SHOWN_MAX};
use crate::proto::serial::reading::Unreadable;

/// Frames in a row, none a reading, on a line that never gave one.
const FIRST: u64 = 20;
/// So few are enough on a slow line,
const SLOW: u64 = 3;
/// if they came over so long.
const SLOW_FOR: Duration = Duration::from_secs(300);
/// Frames in a row, none a reading, on a line that gave some,
const LATER: u64 = 100;
/// and how long they must have come.
const LATER_FOR: Duration = Duration::from_secs(60);
/// A line whose bytes are all dropped for so long because a silence is waited for.
const WAITING_FOR: Duration = Duration::from_secs(10);
/// Bytes without such a pause between them belong together.
const PAUSE: Duration = Duration::from_secs(1);
/// A shorter `gap`, in milliseconds, is not advised: bytes of one message come so far apart, too.
const GAP_LEAST: u128 = 5;
/// How often the longest usual row may be exceeded.
const USUAL: u64 = 3;

/// Why a frame gave no reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was dropped.
    Bad(Bad),
    /// It is complete, and no reading.
    Unreadable(Unreadable),
}

/// Why a frame gave no reading, with its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    cause: Cause,
    first: Vec<u8>,
}

impl Fault {
    /// Of a frame that begins so; at most [`SHOWN_MAX`] bytes are kept.
    pub fn new(cause: Cause, frame: &[u8]) -> Fault {
        Fault { cause, first: frame[..frame.len().min(SHOWN_MAX)].to_vec() }
    }

    /// What is seen, and what to compare.
    pub fn words(&self) -> (String, &'static str) {
        let (why, advice) = self.cause.words();
        (format!("{why} {}", Shown(&self.first)), advice)
    }

    /// The first bytes.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// Why.
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

impl Cause {
    /// Why, and what to compare.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Cause::Bad(Bad::Checksum) => {
                ("the checksum is wrong", "compare checksum, baud and parity with the device's manual")
            }
            Cause::Bad(Bad::TooLong) => {
                ("longer than max-frame", "compare framing, line-end, baud and max-frame")
            }
            Cause::Bad(Bad::Malformed) => ("malformed", "compare framing, baud and parity"),
            Cause::Bad(Bad::Incomplete) => ("incomplete", "compare framing, baud and parity"),
            Cause::Bad(Bad::Cut) => (
                "the line was closed before gap was over",
                "set gap to less than the time after which the device closes it, checksum if it sends a CRC, or a framing that \
                 says where a message ends (fixed, length, markers, line)",
            ),
            Cause::Bad(Bad::Burst) => (
                "no whole message came between two silences, and the checksum is right for others than whole ones, too",
                "compare size or the length: bytes behind each message, such as a line end, count in it (checksum-tail leaves them \
                 out); set start to the bytes that each message begins with",
            ),
            Cause::Bad(Bad::Stalled) => (
                "the gateway stood still for longer than gap, and what came meanwhile may be several messages, joined",
                "look for what stopped it (a hanging disk, too little memory); set checksum if the device sends a CRC, or a \
                 framing that says where a message ends (fixed, length, markers, line)",
            ),
            Cause::Bad(Bad::Early) => (
                "it came within 50 ms of the opening of the line, and may be the rest of a message",
                "let the device wait for so long, or set framing = \"markers\" with the start of a message",
            ),
            Cause::Bad(Bad::First) => (
                "it came first after the opening of the line, and skip-first is set",
                "set skip-first = false for a device that opens the line anew for each message",
            ),
            Cause::Unreadable(Unreadable::NoMatch) => {
                (Unreadable::NoMatch.as_str(), "compare pattern with what comes, and baud and parity")
            }
            Cause::Unreadable(Unreadable::Broken) => {
                (Unreadable::Broken.as_str(), "compare baud and parity with the device's")
            }
            Cause::Unreadable(why @ (Unreadable::NotANumber | Unreadable::NoPath)) => {
                (why.as_str(), "compare pattern and path with what comes")
            }
            Cause::Unreadable(why) => (why.as_str(), "compare form, baud and parity with what comes"),
        }
    }
}

/// Bytes from a device: as text, with a point for each that is none, and then in hex, too. So
/// nothing is left that would be escaped once more where it is printed.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        let text: String =
            self.0.iter().map(|byte| if is_plain(byte) { char::from(*byte) } else { '.' }).collect();
        write!(f, "\"{text}\"")?;
        if !self.0.iter().all(is_plain) {
            write!(f, " (hex {})", format_hex(self.0))?;
        }
        Ok(())
    }
}

/// What makes a line illegible, as it was when that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Illegible {
    /// Frames in a row until then.
    pub frames: u64,
    /// Bytes since then that ended none, if that is what says it.
    pub endless: u64,
    /// Why the last of them gave no reading; `None`: there was none.
    pub cause: Option<Cause>,
    /// Its first bytes, or the first that came last, at most [`SHOWN_MAX`].
    pub first: Vec<u8>,
    /// The silence that is waited for, if bytes are dropped until it comes.
    pub awaited: Option<Awaited>,
}

/// The judgement of one line.
#[derive(Debug)]
pub struct Legibility {
    /// The longest frame, in bytes.
    longest: u64,
    /// Frames in a row that gave no reading, and what counts as such.
    row: u64,
    /// Frames among these.
    frames: u64,
    /// Why the last of them gave none.
    cause: Option<Cause>,
    /// Bytes since then that ended no frame, how often they came after a pause, and when the last
    /// came.
    endless: u64,
    bursts: u64,
    last_at: Option<Instant>,
    /// The silence that they were dropped for.
    awaited: Option<Awaited>,
    /// Since when, without a pause.
    waits_since: Option<Instant>,
    /// Since when they come.
    since: Option<Instant>,
    /// The longest row that a reading ended; `None`: there was no reading.
    usual: Option<u64>,
    illegible: Option<Illegible>,
}

impl Legibility {
    /// For frames of at most so many bytes.
    pub fn new(longest: usize) -> Legibility {
        let (row, frames, cause, endless, bursts) = Default::default();
        let (last_at, since, usual, illegible, awaited, waits_since) = Default::default();
        let longest = u64::try_from(longest).unwrap_or(u64::MAX).max(1);
        Legibility {
            longest,
            row,
            frames,
            cause,
            endless,
            bursts,
            last_at,
            awaited,
            waits_since,
            since,
            usual,
            illegible,
        }
    }

    /// What makes the line illegible.
    pub fn illegible(&self) -> Option<&Illegible> {
        self.illegible.as_ref()
    }

    /// A frame gave a reading.
    pub fn handle_reading(&mut self) {
        // One long failure must not make the next one count for nothing.
        let usual = self.usual.unwrap_or(0);
        self.usual = Some(usual.max(self.row().min(2 * needed(usual))));
        (self.row, self.since, self.illegible) = (0, None, None);
        (self.frames, self.cause, self.endless, self.bursts) = (0, None, 0, 0);
        (self.awaited, self.waits_since) = (None, None);
    }

    /// So many frames gave none, the last of them for this cause.
    pub fn handle_frames(&mut self, now: Instant, frames: u64, cause: Cause, frame: &[u8]) {
        // What came before it was its beginning, at least in part.
        self.row = self.row.saturating_add(self.pieces().max(frames));
        (self.endless, self.bursts) = (0, 0);
        self.frames = self.frames.saturating_add(frames);
        self.cause = Some(cause);
        self.judge(now, frame);
    }

    /// These bytes ended no frame. `awaited`: they were dropped because a silence is waited for.
    pub fn handle_endless(&mut self, now: Instant, bytes: &[u8], awaited: Option<Awaited>) {
        self.awaited = awaited;
        let is_pause = |at: Instant| now.saturating_duration_since(at) >= PAUSE;
        if awaited.is_none() || self.last_at.is_none_or(is_pause) {
            self.waits_since = None;
        }
        if awaited.is_some() {
            self.waits_since.get_or_insert(now);
        }
        self.bursts += u64::from(self.endless == 0 || self.last_at.is_none_or(is_pause));
        self.last_at = Some(now);
        self.endless = self.endless.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.since.get_or_insert(now);
        // Until then it may be the beginning of a frame.
        if self.pieces() > 1 || awaited.is_some() {
            self.judge(now, bytes);
        }
    }

    /// With those that count as frames.
    fn row(&self) -> u64 {
        self.row.saturating_add(self.pieces())
    }

    fn pieces(&self) -> u64 {
        self.bursts.max(self.endless / self.longest)
    }

    fn judge(&mut self, now: Instant, shown: &[u8]) {
        let lasted = now.saturating_duration_since(*self.since.get_or_insert(now));
        let row = self.row();
        let is_waiting =
            self.waits_since.is_some_and(|since| now.saturating_duration_since(since) >= WAITING_FOR);
        let found = is_waiting
            || match self.usual {
                None => row >= FIRST || row >= SLOW && lasted >= SLOW_FOR,
                Some(usual) => row >= needed(usual) && lasted >= LATER_FOR,
            };
        if found && self.illegible.is_none() {
            let first = shown[..shown.len().min(SHOWN_MAX)].to_vec();
            let (frames, endless, cause) = (self.frames, self.endless, self.cause);
            self.illegible = Some(Illegible { frames, endless, cause, first, awaited: self.awaited });
        }
    }
}

/// Frames in a row that say something on a line whose usual longest row this is.
fn needed(usual: u64) -> u64 {
    LATER.max(usual.saturating_mul(USUAL))
}

impl Illegible {
    /// What is seen on this port, and what to compare: one sentence.
    pub fn sentence(&self, port: &str) -> String {
        let trace = format!("`tombolo serial trace {port}` shows what comes");
        let shown = Shown(&self.first);
        if let Some(awaited) = self.awaited {
            return format!(
                "{} or more bytes came, the last {shown}: {}; {trace}",
                self.endless,
                quiet(awaited)
            );
        }
        let Some(cause) = self.cause else {
            return format!(
                "{} or more bytes came, and no frame ended: the last begin with {shown}; compare framing, its start, line-end or \
                 size, and baud and parity with the device's manual; {trace}",
                self.endless
            );
        };
        let (why, advice) = cause.words();
        if self.endless > 0 {
            return format!(
                "{} or more bytes in a row gave no reading, {shown} among them, and the last frame was dropped: {why}; compare \
                 framing, start and size, too; {advice}; {trace}",
                self.endless
            );
        }
        format!(
            "{} or more frames in a row gave no reading, one of them {shown}: {why}; {advice}; {trace}",
            self.frames
        )
    }
}

/// Why nothing is read of a line without the silence behind which alone a message can begin, and
/// what to set.
fn quiet(Awaited { wanted, longest, takes_start }: Awaited) -> String {
    let (wanted, longest) = (wanted.as_millis(), longest.as_millis());
    let gap = longest * 2 / 3;
    let start =
        if takes_start { "start to the bytes that each message begins with" } else { "another checksum" };
    let set = match gap >= GAP_LEAST {
        true => format!(
            "set {start}, or, if the device itself makes that pause between two messages, gap = \"{gap}ms\""
        ),
        false => format!("set {start}: no gap tells its messages apart"),
    };
    format!(
        "nothing in a message tells where it begins: it has no start, and no checksum, or one that is right for rotations of it, \
         too; so one begins only behind a silence of {wanted} ms (gap), and those that come again and again have {longest} \
         ms; {set}"
    )
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const LONGEST: usize = 100;

    const NO_MATCH: Cause = Cause::Unreadable(Unreadable::NoMatch);

    /// Whether so many frames without a reading make it illegible that was not.
    fn frames(line: &mut Legibility, now: Instant, count: u64) -> bool {
        let before = line.illegible().is_some();
        (0..count).for_each(|_| line.handle_frames(now, 1, NO_MATCH, b"T=21"));
        !before && line.illegible().is_some()
    }

    #[test]
    fn a_line_that_never_gave_a_reading_is_illegible_after_twenty_frames_and_legible_with_the_first() {
        let now = Instant::now();
        let mut line = Legibility::new(LONGEST);
        assert!(!frames(&mut line, now, FIRST - 1));
        line.handle_frames(now, 1, Cause::Bad(Bad::Checksum), &[b'T'; 40]);
        let found = line.illegible().unwrap().clone();
        assert_eq!(
            (found.frames, found.cause, found.first.len()),
            (20, Some(Cause::Bad(Bad::Checksum)), SHOWN_MAX)
        );
        // Its words stay the same, and true of a row that goes on.
        assert!(!frames(&mut line, now, 500));
        assert_eq!(line.illegible(), Some(&found));
        assert!(
            found.sentence("meter").starts_with("20 or more frames in a row"),
            "{}",
            found.sentence("meter")
        );
        line.handle_reading();
        assert_eq!(line.illegible(), None);
    }

    #[test]
    fn on_a_slow_line_three_frames_over_five_minutes_are_enough() {
        let now = Instant::now();
        let mut line = Legibility::new(LONGEST);
        assert!(!frames(&mut line, now, 1));
        assert!(!frames(&mut line, now + SLOW_FOR, 1));
        assert!(frames(&mut line, now + SLOW_FOR, 1));
    }

    #[test]
    fn a_few_bad_frames_on_a_good_line_are_none_and_a_long_row_of_them_is() {
        let now = Instant::now();
        let mut line = Legibility::new(LONGEST);
        for _ in 0..100 {
            line.handle_reading();
            assert!(!frames(&mut line, now, FIRST));
        }
        line.handle_reading();
        // A burst of noise is over in less.
        assert!(!frames(&mut line, now, 10 * LATER));
        assert!(frames(&mut line, now + LATER_FOR, 1));
    }

    #[test]
    fn after_a_failure_of_days_the_next_one_is_noticed_all_the_same() {
        let now = Instant::now();
        let mut line = Legibility::new(LONGEST);
        line.handle_reading();
        frames(&mut line, now, 100 * LATER);
        line.handle_reading();
        let later = now + LATER_FOR;
        assert!(!frames(&mut line, later, 2 * USUAL * LATER));
        assert!(frames(&mut line, later + LATER_FOR, 1));
    }

    #[test]
    fn bytes_of_which_no_frame_ends_make_a_line_illegible_whether_it_is_fast_or_slow() {
        let now = Instant::now();
        let mut line = Legibility::new(LONGEST);
        let after = (0..100).find(|count| {
            line.handle_endless(now + Duration::from_millis(10) * *count, &[b'x'; 50], None);
            line.illegible().is_some()
        });
        assert_eq!(after, Some(39), "twenty frames of the longest");
        let text = line.illegible().unwrap().sentence("meter");
        assert!(text.contains("2000 or more bytes came, and no frame ended"), "{text}");
        line.handle_reading();
        assert_eq!(line.illegible(), None);
        // Three times a few bytes over five minutes.
        let mut line = Legibility::new(LONGEST);
        for seconds in [0, 150] {
            line.handle_endless(now + Duration::from_secs(seconds), b"T=21", None);
            assert_eq!(line.illegible(), None);
        }
        line.handle_endless(now + SLOW_FOR, b"T=21", None);
        assert!(line.illegible().is_some());
    }

    #[test]
    fn a_long_frame_that_comes_in_pieces_is_not_illegible() {
        let now = Instant::now();
        let mut line = Legibility::new(LONGEST);
        for frame in 0..1_000 {
            for piece in 0..100 {
                line.handle_endless(now + Duration::from_millis(200 * frame + piece), b"x", None);
            }
            assert_eq!(line.illegible(), None, "{frame}");
            line.handle_reading();
        }
    }

    #[test]
    fn a_pattern_that_picks_few_frames_out_of_many_is_judged_by_what_is_usual() {
        let mut now = Instant::now();
        let mut line = Legibility::new(LONGEST);
        let mut found = 0;
        for _ in 0..20 {
            for _ in 0..400 {
                now += Duration::from_secs(1);
                found += usize::from(frames(&mut line, now, 1));
            }
            line.handle_reading();
        }
        assert_eq!(found, 1, "before the first reading only");
        // A line that gives nothing any more is found all the same.
        assert!(!frames(&mut line, now, 3 * 400 - 1));
        assert!(frames(&mut line, now + LATER_FOR, 1));
    }

    #[test]
    fn the_sentence_names_what_to_compare_and_the_bytes_so_that_no_printing_escapes_them_again() {
        let of = |cause, first: &[u8]| {
            Illegible { frames: 20, endless: 0, cause: Some(cause), first: first.to_vec(), awaited: None }
                .sentence("meter")
        };
        let text = of(NO_MATCH, b"T=\x1b\xff");
        let words = r#"one of them "T=.." (hex 543d1bff): the pattern does not match; compare pattern"#;
        assert!(text.contains(words), "{text}");
        let printed = of(NO_MATCH, b"\\\"\x00T\xb0");
        assert_eq!(crate::telemetry::text::Escaped(&printed).to_string(), printed);
        assert!(printed.contains(r#""...T." (hex 5c220054b0)"#), "{printed}");
        assert!(of(Cause::Bad(Bad::Checksum), b"").contains("compare checksum, baud"));
        assert!(of(Cause::Bad(Bad::Incomplete), b"").contains("framing, baud"));
        assert!(of(Cause::Bad(Bad::Burst), b"").contains("set start to the bytes"));
    }

    #[test]
    fn of_a_line_that_never_pauses_the_gap_to_set_is_named_or_a_start() {
        let of = |longest: u64, takes_start| {
            let ms = Duration::from_millis;
            let awaited = Awaited { wanted: ms(100), longest: ms(longest), takes_start };
            let now = Instant::now();
            let mut line = Legibility::new(LONGEST);
            for at in 0..50 {
                line.handle_endless(now + ms(40) * at, &[b'x'; 50], Some(awaited));
            }
            line.illegible().unwrap().sentence("meter")
        };
        let text = of(40, true);
        assert!(
            text.contains("behind a silence of 100 ms (gap), and those that come again and again have 40 ms"),
            "{text}"
        );
        assert!(text.contains("set start to the bytes") && text.contains("gap = \"26ms\""), "{text}");
        let text = of(4, true);
        assert!(text.contains("set start to the bytes") && !text.contains("gap ="), "{text}");
        let text = of(40, false);
        assert!(text.contains("set another checksum, or") && text.contains("gap = \"26ms\""), "{text}");
        // On a line that gave readings it does not take a minute.
        let (now, mut line) = (Instant::now(), Legibility::new(LONGEST));
        let awaited = Awaited { wanted: PAUSE, longest: PAUSE / 9, takes_start: true };
        (0..9).for_each(|_| line.handle_reading());
        for tenth in 0..100 {
            line.handle_endless(now + Duration::from_millis(100) * tenth, &[b'x'; 50], Some(awaited));
            assert_eq!(line.illegible(), None);
        }
        line.handle_endless(now + WAITING_FOR, &[b'x'; 50], Some(awaited));
        assert!(line.illegible().is_some());
    }

    #[test]
    fn of_a_slow_line_that_never_pauses_it_takes_ten_seconds_and_not_many_bytes() {
        let ms = Duration::from_millis;
        let awaited = Awaited { wanted: ms(30), longest: ms(20), takes_start: false };
        let (now, mut line) = (Instant::now(), Legibility::new(1024));
        for count in 0..500 {
            line.handle_endless(now + ms(20) * count, &[b'x'; 9], Some(awaited));
            assert_eq!(line.illegible(), None, "{count}");
        }
        line.handle_endless(now + WAITING_FOR, &[b'x'; 9], Some(awaited));
        let text = line.illegible().expect("ten seconds").sentence("meter");
        assert!(text.contains("gap = \"13ms\"") && text.contains("another checksum"), "{text}");
        // A device that is heard every now and then is no such line.
        let mut line = Legibility::new(1024);
        for count in 0..15 {
            line.handle_endless(now + PAUSE * 2 * count, &[b'x'; 9], Some(awaited));
            assert_eq!(line.illegible(), None, "{count}");
        }
    }
}
