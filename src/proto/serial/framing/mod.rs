//! Framing: splits a stream of bytes into messages. One file per framing.
//!
//! ```text
//! bytes ──Decoder──> frame ──checksum──> payload      payload ──encode──> bytes
//! ```
//!
//! | framing | frame | resynchronises at |
//! |---|---|---|
//! | [`mod@line`] | terminated by a line end | the next line end |
//! | [`slip`] | RFC 1055, between END bytes | the next END |
//! | [`cobs`] | consistent overhead byte stuffing, before a zero | the next zero |
//! | [`length`] | has its length in a header field | the next byte at which a valid frame starts |
//! | [`gap`] | bytes without a pause between them | the next pause |
//! | [`fixed`] | a fixed number of bytes | a pause; with a checksum or a start, the next byte at which a valid frame starts |
//! | [`markers`] | between a start and an end marker | the next start marker |
//!
//! With [`Settings::start`], frames of the last three also begin with certain bytes, and after a
//! lost byte they are found again by these: without a checksum, a frame of known length counts
//! only if the next one begins behind it, or nothing comes for [`SETTLE`]. A silence of
//! [`Settings::within`] ends such a frame: what follows it begins another one.
//!
//! Checksums that are right for every rotation of a message ([`Placement::is_cyclic`]) tell nothing
//! of where one begins, and with a fixed size alone no sum does, nor does that size without a
//! checksum. With them the silences of
//! [`Settings::within`] around messages do ([`mod@burst`]); with a start and a checksum that is
//! right for every rotation, a frame of a fixed size is found again as one without a checksum. A
//! CRC that begins with 0 leaves only zeros in doubt ([`mod@doubt`]). [`Begin`] says which it is.
//! Where bytes were lost, a short checksum is right by chance at some places, too ([`mod@search`]).
//!
//! With [`Settings::keep`] the checksum of a line or of a frame between markers stands behind its
//! end: so many bytes after it are taken whatever they are, and it covers the markers, too.
//!
//! With [`Settings::interleaved`], messages of another kind are taken out before frames are looked
//! for ([`mod@interleaved`]).
//!
//! Where the checksum of two messages in a row is right, too, sizes tell that what ended the first
//! was lost ([`mod@joined`]).
//!
//! Where only a pause ends a message ([`gap`]), what was read after the gateway stood still is
//! messages without a pause between them: only a CRC tells these apart ([`mod@stall`]).
//!
//! A [`Decoder`] keeps at most one frame, of at most [`Settings::max_frame`] bytes; two while one
//! is searched for, or eight of a fixed size with a start or in doubt; what is longer is dropped
//! and counted. Empty frames are passed over: doubled delimiters make them. Time is an argument.

mod burst;
pub mod cobs;
mod doubt;
pub mod fixed;
pub mod gap;
pub mod interleaved;
mod joined;
mod labels;
pub mod length;
pub mod line;
pub mod markers;
mod queue;
mod search;
pub mod slip;
mod stall;

use std::time::{Duration, Instant};

use self::queue::Queue;
use super::checksum::{Checksum, Placement};

/// Longest configurable frame, in bytes with checksum and header.
pub const FRAME_MAX: usize = 16 * 1024;
/// Bytes that arrive within this time after the port was opened may be the rest of a frame whose
/// beginning was missed.
pub const SETTLE: Duration = Duration::from_millis(50);
/// Longest pause within a frame of known length.
pub const IDLE: Duration = Duration::from_secs(1);
/// The default of [`Settings::within`] where a frame has a start and no checksum, and the line is
/// fast.
pub const WITHIN: Duration = Duration::from_millis(100);
/// The same on a port of the machine where only silences tell where a frame begins: more than
/// drivers keep bytes back.
pub const WITHIN_LOCAL: Duration = Duration::from_millis(30);

/// The framing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Text lines, or frames with another delimiter at the end.
    Line(line::End),
    /// SLIP (RFC 1055).
    Slip,
    /// Consistent overhead byte stuffing; a zero ends each frame.
    Cobs,
    /// A header with the length of the frame.
    Length(length::Header),
    /// A pause between frames.
    Gap(Duration),
    /// A fixed size in bytes with the checksum; `1..=FRAME_MAX`.
    Fixed(usize),
    /// Between a start and an end marker.
    Markers(markers::Markers),
}

/// What tells where a frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The framing, a start or the checksum.
    Frame,
    /// The checksum, but for zeros at its begin and its end.
    Doubtful,
    /// A silence only.
    Silence,
}

impl Begin {
    /// With these settings.
    pub fn of(framing: &Framing, checksum: Option<Checksum>, placement: Placement, start: &[u8]) -> Begin {
        let Some(checksum) = checksum else {
            // Nothing in the bytes tells it: a lost one would shift every frame behind it.
            let is_bare = matches!(framing, Framing::Fixed(_)) && start.is_empty();
            return if is_bare { Begin::Silence } else { Begin::Frame };
        };
        match framing {
            Framing::Length(_) if placement.is_cyclic(checksum) => Begin::Silence,
            Framing::Fixed(_) if !start.is_empty() => Begin::Frame,
            // A sum of some rotation of a message is right, too, and as long as the values are the
            // same it is in each.
            Framing::Fixed(_) if !checksum.is_crc() => Begin::Silence,
            Framing::Fixed(_) if placement.hides_zeros(checksum) => Begin::Doubtful,
            _ => Begin::Frame,
        }
    }
}

/// The settings of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The framing.
    pub framing: Framing,
    /// The checksum at the end of each frame.
    pub checksum: Option<Checksum>,
    /// Where and how it stands there.
    pub placement: Placement,
    /// Longest frame in bytes, header, checksum and line end included where they are kept until the
    /// end; `1..=FRAME_MAX`.
    pub max_frame: usize,
    /// What each frame begins with, in framings `length`, `gap` and `fixed`; `0..=8` bytes. Counted
    /// in the size, covered by the checksum, and not part of the payload.
    pub start: Vec<u8>,
    /// Longest silence within a frame, in framings `length` and `fixed`; then what came of it is
    /// dropped. At least the time in which the bytes of one frame may be delivered apart.
    pub within: Duration,
    /// What was begun before the port was opened is dropped, however long after the opening it
    /// comes: everything up to the first delimiter or pause.
    pub skip_first: bool,
    /// Bytes behind the end that belong to the frame, in framings `line`, with an end of its own,
    /// and `markers`; `0..=8`. If any, the checksum is the last of them, and covers everything
    /// before it, markers included.
    pub keep: usize,
    /// The payload is the frame as it came: with its markers, its checksum and the bytes behind its
    /// end. In the framings that `keep` is for.
    pub whole: bool,
    /// The byte behind the label of each line of a frame. Such a frame counts only if each label is
    /// in it once and it was seen with the same labels before: for a checksum of 8 bits, which one
    /// of 256 damaged frames passes.
    pub label_end: Option<u8>,
    /// Messages of another kind in the midst of frames, which are taken out. In framings `line` and
    /// `markers`.
    pub interleaved: Option<interleaved::Interleaved>,
    /// Longest silence within a frame that a delimiter ends: then what came of it is dropped, with
    /// what comes up to the next delimiter. `None`: any.
    pub silence: Option<Duration>,
}

impl Settings {
    /// Bytes of a written frame that neither these settings nor the payload give, and the key
    /// that does, if there is one: they would be zero, and the device would not know the frame.
    pub fn unknown_when_written(&self) -> Option<(&'static str, Option<&'static str>)> {
        let width = self.checksum.map_or(0, |checksum| self.placement.width(checksum));
        let is_unmarked =
            self.checksum.is_some() && self.placement.apart > 0 && self.placement.mark.is_none();
        match self.framing {
            Framing::Length(header) if header.offset > self.start.len() => {
                Some(("the bytes before the length", Some("start")))
            }
            _ if is_unmarked => Some(("the bytes before the checksum", Some("checksum-mark"))),
            _ if self.keep > width => Some(("the bytes behind the end", None)),
            _ => None,
        }
    }
}

/// Most bytes behind the end of a frame.
pub const KEEP_MAX: usize = 8;

/// Longest start, in bytes.
pub const START_MAX: usize = 8;

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bad {
    /// It is longer than `max-frame`.
    TooLong,
    /// Its checksum is wrong.
    Checksum,
    /// An escape, a length, a delimiter or the start stands where none can, or none where one has
    /// to, or it is empty.
    Malformed,
    /// Its rest did not come.
    Incomplete,
    /// The port was closed before the pause was over that would have ended it.
    Cut,
    /// What came between two silences is no whole frame, where only they tell where one begins.
    Burst,
    /// It was read after the gateway had stood still: it may be several, joined, where only a pause
    /// tells where one ends.
    Stalled,
    /// It was the first within [`SETTLE`] after the opening of the port, and may have been begun
    /// before.
    Early,
    /// It was the first after the opening of the port, and [`Settings::skip_first`] is set.
    First,
}

impl Bad {
    /// A few words.
    pub fn as_str(self) -> &'static str {
        match self {
            Bad::Cut => "cut off by the closing",
            Bad::Burst => "no whole message between silences",
            Bad::Stalled => "read late, after a stall of the gateway",
            Bad::Early => "right after the opening",
            Bad::First => "skip-first",
            Bad::TooLong => "too long",
            Bad::Checksum => "checksum",
            Bad::Malformed => "malformed",
            Bad::Incomplete => "incomplete",
        }
    }
}

/// Places in one frame between pauses at which a start is looked for: a bound for the time that
/// bytes full of starts cost.
const STARTS_TRIED: usize = 16;

/// Bytes of a dropped frame that are kept to be shown.
pub const SHOWN_MAX: usize = 16;

/// What a frame waits for that begins only behind a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The silence.
    pub wanted: Duration,
    /// The longest that comes again and again.
    pub longest: Duration,
    /// With a start, none is waited for.
    pub takes_start: bool,
}

/// What came in since the decoder was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub bytes: u64,
    /// Valid frames.
    pub good: u64,
    /// Invalid frames: checksum, escape, length, size.
    pub bad: u64,
    /// Of these, [`Bad::TooLong`].
    pub too_long: u64,
    /// Of these, [`Bad::Checksum`].
    pub checksum: u64,
    /// Of these, [`Bad::Malformed`].
    pub malformed: u64,
    /// Of these, [`Bad::Incomplete`].
    pub incomplete: u64,
    /// Of these, [`Bad::Cut`].
    pub cut: u64,
    /// Of these, [`Bad::Burst`].
    pub burst: u64,
    /// Of these, [`Bad::Stalled`].
    pub stalled: u64,
    /// Frames that were dropped because they may have been begun before the port was opened
    /// ([`Bad::Early`]); they are not counted as invalid.
    pub early: u64,
    /// The same by [`Bad::First`].
    pub first: u64,
    /// Bytes that made no good frame; checksums, delimiters and interleaved messages aside.
    pub dropped: u64,
}

/// Why a payload cannot be framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// It is empty, and would look like a repeated delimiter.
    Empty,
    /// The frame would be longer than allowed, or than the length field can represent.
    TooLong,
    /// A fixed frame has another size.
    WrongSize,
    /// It contains a delimiter, and this framing has no escape.
    Delimiter,
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EncodeError::Empty => "there is nothing to send",
            EncodeError::TooLong => "it is longer than a frame may be",
            EncodeError::WrongSize => "it does not have the size of a frame",
            EncodeError::Delimiter => "it contains what ends a frame",
        })
    }
}

impl std::error::Error for EncodeError {}

/// The result of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The frame continues.
    More,
    /// The buffer contains a frame; the next byte begins another one.
    Frame,
    /// The buffer contains an invalid frame.
    Bad,
}

/// A bounded buffer for one frame.
#[derive(Debug)]
struct Buffer {
    bytes: Queue,
    max: usize,
    /// Bytes of this frame beyond the limit.
    over: u64,
}

impl Buffer {
    fn push(&mut self, byte: u8) {
        self.push_within(self.max, byte);
    }

    fn push_within(&mut self, max: usize, byte: u8) {
        if self.bytes.len() < max {
            self.bytes.push(byte);
        } else {
            self.over += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Clears it; returns the number of bytes of the frame, including those beyond the limit.
    fn clear(&mut self) -> u64 {
        let held = self.bytes.len() as u64 + std::mem::take(&mut self.over);
        self.bytes.clear();
        held
    }
}

/// The state of the framings that are decoded byte by byte.
#[derive(Debug)]
enum Scanner {
    Line(line::Scanner),
    Slip(slip::Scanner),
    Cobs(cobs::Scanner),
    Markers(markers::Scanner),
    Gap,
    /// These are decoded from the whole buffer: [`Decoder::scan`].
    Length(length::Header),
    Fixed(usize),
}

/// Splits a stream into frames.
#[derive(Debug)]
pub struct Decoder {
    scanner: Scanner,
    checksum: Option<Checksum>,
    placement: Placement,
    start: Vec<u8>,
    buffer: Buffer,
    /// Whether everything up to the next delimiter is dropped, because the frame is too long,
    /// invalid, or its beginning was missed.
    skipping: bool,
    /// That is so because the port was opened: why, until it was told.
    opening: Option<Bad>,
    opened_at: Option<Instant>,
    /// The pause that ends a frame.
    pause: Option<Duration>,
    last_byte_at: Option<Instant>,
    counters: Counters,
    skip_first: bool,
    keep: usize,
    whole: bool,
    /// The end of a frame came, and the bytes behind it are on their way.
    is_behind: bool,
    /// What of them came.
    kept: Vec<u8>,
    /// The bytes behind the end of a frame that had a wrong checksum: if one of its bytes was lost,
    /// these are the beginning of the next frame.
    spare: Vec<u8>,
    last_bad: Option<(Bad, Vec<u8>)>,
    /// A frame begins only behind a silence.
    awaits_silence: bool,
    burst: burst::Burst,
    /// Those between bytes since a silence is waited for; `None`: nothing came.
    pauses: Option<burst::Pauses>,
    begin: Begin,
    doubt: doubt::Doubt,
    search: search::Search,
    joined: Option<joined::Joined>,
    labels: Option<labels::Labels>,
    interleaved: Option<interleaved::Filter>,
    /// When it was last known that nothing waits to be read.
    looked_at: Option<Instant>,
    /// When the port was last open, a message was under way: its rest may come first.
    had_begun: bool,
    /// Some of what is in the buffer was read later than that by more than a pause.
    is_stalled: bool,
}

impl Decoder {
    /// A decoder for a port that was opened at `now`.
    pub fn new(settings: &Settings, now: Instant) -> Decoder {
        let max = settings.max_frame.clamp(1, FRAME_MAX);
        let (scanner, pause) = match &settings.framing {
            Framing::Line(end) => (Scanner::Line(line::Scanner::new(end)), settings.silence),
            Framing::Slip => (Scanner::Slip(slip::Scanner::default()), settings.silence),
            Framing::Cobs => (Scanner::Cobs(cobs::Scanner::default()), settings.silence),
            Framing::Length(header) => (Scanner::Length(*header), Some(settings.within)),
            Framing::Gap(gap) => (Scanner::Gap, Some(*gap)),
            Framing::Fixed(size) => (Scanner::Fixed((*size).clamp(1, FRAME_MAX)), Some(settings.within)),
            Framing::Markers(markers) => (Scanner::Markers(markers::Scanner::new(markers)), settings.silence),
        };
        let is_tried = matches!(scanner, Scanner::Length(_) | Scanner::Fixed(_));
        let bytes = Queue::new(settings.checksum.filter(|_| is_tried));
        let mut decoder = Decoder {
            scanner,
            checksum: settings.checksum,
            placement: settings.placement,
            start: settings.start.clone(),
            buffer: Buffer { bytes, max, over: 0 },
            skipping: false,
            opening: None,
            opened_at: Some(now),
            pause,
            last_byte_at: None,
            counters: Counters::default(),
            skip_first: settings.skip_first,
            keep: settings.keep.min(KEEP_MAX),
            whole: settings.whole,
            is_behind: false,
            kept: Vec::new(),
            spare: Vec::new(),
            last_bad: None,
            awaits_silence: false,
            burst: burst::Burst::default(),
            pauses: None,
            begin: Begin::of(&settings.framing, settings.checksum, settings.placement, &settings.start),
            doubt: doubt::Doubt::opened(),
            search: search::Search::opened(),
            joined: joined::Joined::new(settings.checksum.filter(|_| !is_tried), settings.placement),
            labels: settings.label_end.map(labels::Labels::new),
            interleaved: settings.interleaved.map(interleaved::Filter::new),
            looked_at: None,
            had_begun: false,
            is_stalled: false,
        };
        decoder.begin(now);
        decoder
    }

    /// The port was reopened: an incomplete frame is dropped.
    pub fn reopen(&mut self, now: Instant) {
        let joined = self.joined.take();
        self.clear();
        self.joined = joined;
        self.begin(now);
    }

    /// Its settings replace those of another decoder, while the port is opened anew. What was begun
    /// is dropped with its rest, where only a pause tells that it is one.
    pub fn follow(&mut self, other: &Decoder) {
        self.had_begun = other.is_within();
    }

    /// What comes first may be the rest of a frame.
    fn begin(&mut self, now: Instant) {
        self.opened_at = Some(now);
        self.looked_at = None;
        if self.needs_silence() {
            // What comes until the next silence counts if it is whole frames.
            self.burst = burst::Burst::default();
            (self.last_byte_at, self.pauses) = (None, None);
        }
        self.doubt = self.doubt.reopened();
        self.search.reopen();
    }

    /// While bytes are dropped because a frame begins only behind a silence.
    pub fn awaited_silence(&self) -> Option<Awaited> {
        let longest = self.pauses.filter(|_| self.awaits_silence)?.regular();
        let takes_start = matches!(self.scanner, Scanner::Fixed(_));
        Some(Awaited { wanted: self.pause?, longest, takes_start })
    }

    /// Whether a wrong place for the begin of a frame could pass for ever.
    fn is_cyclic(&self) -> bool {
        self.checksum.is_some_and(|checksum| self.placement.is_cyclic(checksum))
    }

    /// Whether only a silence tells where a frame begins.
    fn needs_silence(&self) -> bool {
        self.begin == Begin::Silence
    }

    /// Whether a frame with a start counts only if the next one begins behind it.
    fn counts_by_next(&self) -> bool {
        self.checksum.is_none() || self.is_cyclic()
    }

    /// The port was closed: nobody knows whether a frame that only a pause ends was complete,
    /// unless the pause is over, or its CRC says so; and where only silences tell where frames
    /// begin, they end with it. What is whole comes with the next timer.
    pub fn cut(&mut self, now: Instant) {
        let is_over = self.poll_timeout().is_some_and(|at| at <= now);
        self.looked_at = None;
        let is_gap = matches!(self.scanner, Scanner::Gap) && !is_over;
        // Nothing follows, as behind a silence.
        if self.begin != Begin::Frame || is_gap && self.is_proven() || self.is_searching() {
            self.last_byte_at =
                self.last_byte_at.and_then(|at| at.checked_sub(self.pause.unwrap_or_default()));
        } else if is_gap {
            self.last_byte_at = None;
        }
        if is_gap && self.last_byte_at.is_none() {
            self.fail(Bad::Cut);
        }
    }

    /// Whether a CRC says that the buffer holds a whole frame. Of shorter checksums, that of a
    /// part is right too often.
    fn is_proven(&self) -> bool {
        let frame = &self.buffer.bytes[..];
        let is_crc = |checksum: &Checksum| checksum.is_crc();
        if self.is_stalled {
            return self.whole_frames().is_some();
        }
        // Where a zero behind a frame is right, too, it may be the first byte of the next one.
        let is_sure = frame.strip_suffix(&[0]).is_none_or(|shorter| self.strip(shorter).is_none());
        let has_room = !self.skipping && self.buffer.over == 0 && frame.starts_with(&self.start);
        is_sure && has_room && self.checksum.filter(is_crc).is_some() && self.strip(frame).is_some()
    }

    /// What came until now belongs to nothing that comes: an incomplete frame is dropped, and the
    /// next byte begins a frame.
    pub fn clear(&mut self) {
        self.fail(Bad::Incomplete);
        (self.skipping, self.opening) = (false, None);
        self.scanner.restart();
        let held = self.interleaved.as_mut().map_or(0, interleaved::Filter::clear);
        self.counters.dropped += held as u64;
        (self.is_behind, self.opened_at, self.last_byte_at) = (false, None, None);
        (self.awaits_silence, self.is_stalled) = (false, false);
        // One answer to one question: there are no two to be joined.
        self.joined = None;
        self.burst = burst::Burst::in_step();
        self.doubt = doubt::Doubt::in_step();
        self.search.ask();
        self.kept.clear();
        self.spare.clear();
    }

    /// Whether a frame was begun and is not complete.
    pub fn is_within(&self) -> bool {
        !self.buffer.is_empty() || self.is_behind
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The last frame that was dropped since it was asked, why, and its first [`SHOWN_MAX`] bytes.
    pub fn take_bad(&mut self) -> Option<(Bad, Vec<u8>)> {
        self.last_bad.take()
    }

    /// Takes bytes; `sink` gets every payload that is complete, its checksum taken off.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        if bytes.is_empty() {
            return;
        }
        if self.needs_silence() {
            return self.handle_burst(now, bytes, sink);
        }
        // The shell reports pauses by `handle_timeout`, after checking for bytes. Bytes that it
        // delivers late may have arrived in time: only a pause that a stall cannot explain ends a
        // frame here.
        let is_late = self.is_late(now);
        self.is_stalled |= is_late;
        let judged = match self.scanner {
            _ if self.begin == Begin::Doubtful => {
                now.checked_sub(self.pause.unwrap_or_default().max(IDLE) * 3).unwrap_or(now)
            }
            // Of a part that was read before, nobody knows whether its rest is among them.
            Scanner::Gap if is_late => self.last_byte_at.unwrap_or(now),
            Scanner::Gap | Scanner::Length(_) | Scanner::Fixed(_) => {
                now.checked_sub(self.pause.unwrap_or_default() * 3).unwrap_or(now)
            }
            _ => now,
        };
        self.handle_timeout(judged, sink);
        self.end_silence();
        let had_begun = std::mem::take(&mut self.had_begun);
        let rest_within = SETTLE.max(self.pause.filter(|_| had_begun).unwrap_or_default());
        if let Some(opened) = self.opened_at.take()
            && (self.skip_first || now.saturating_duration_since(opened) < rest_within)
        {
            let is_first = (self.skip_first || had_begun) && matches!(self.scanner, Scanner::Gap);
            self.skipping = self.scanner.has_delimiter() || is_first;
            let why = if self.skip_first { Bad::First } else { Bad::Early };
            self.opening = self.skipping.then_some(why);
        }
        self.counters.bytes += bytes.len() as u64;
        self.last_byte_at = Some(now);
        match self.scanner {
            Scanner::Length(_) | Scanner::Fixed(_) => {
                for part in bytes.chunks(self.buffer.max) {
                    self.buffer.bytes.extend(part);
                    self.scan(false, sink);
                }
            }
            Scanner::Gap => {
                let room = self.room();
                bytes.iter().for_each(|byte| self.buffer.push_within(room, *byte));
            }
            _ => bytes.iter().for_each(|byte| self.pass(*byte, sink)),
        }
    }

    /// Handles the timer: a pause may have ended a frame.
    pub fn handle_timeout(&mut self, now: Instant, sink: &mut dyn FnMut(&[u8])) {
        if self.begin == Begin::Doubtful {
            return self.handle_doubt_timeout(now, sink);
        }
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.last_byte_at = None;
            if !self.is_within() && !self.needs_silence() {
                return;
            }
            match self.scanner {
                Scanner::Gap => self.end(sink),
                _ if self.needs_silence() => self.end_burst(sink),
                // Nothing begins behind it, and nothing more comes.
                _ if self.awaits_start() => self.scan(true, sink),
                _ => {
                    // A wrong length may have swallowed good frames, or one waits for the next.
                    if matches!(self.scanner, Scanner::Length(_)) && self.checksum.is_some() {
                        self.give_up_front();
                    }
                    if matches!(self.scanner, Scanner::Length(_) | Scanner::Fixed(_))
                        && (!self.start.is_empty() || self.is_searching())
                    {
                        self.scan(true, sink);
                    }
                    self.fail(Bad::Incomplete);
                    // Where a delimiter ends a frame, what comes next may be its rest.
                    let is_ended = std::mem::take(&mut self.is_behind);
                    self.skipping = !is_ended && self.scanner.has_delimiter();
                    if !is_ended {
                        self.scanner.restart();
                    }
                    self.forget_behind();
                }
            }
        }
    }

    /// What is at the front of the buffer is no frame, though one may follow it.
    fn give_up_front(&mut self) {
        if !self.buffer.is_empty() && !std::mem::replace(&mut self.skipping, true) {
            let shown = self.buffer.bytes.len().min(SHOWN_MAX);
            self.last_bad = Some((Bad::Incomplete, self.buffer.bytes[..shown].to_vec()));
            self.counters.count(Bad::Incomplete);
        }
    }

    /// The bytes behind an end are not coming.
    fn forget_behind(&mut self) {
        self.is_behind = false;
        self.counters.dropped += self.kept.len() as u64;
        self.kept.clear();
    }

    /// When the current pause becomes significant.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.begin == Begin::Doubtful {
            return self.poll_doubt();
        }
        if !self.is_within() && !self.needs_silence() {
            return None;
        }
        let pause = match self.is_behind {
            true => IDLE,
            false if self.awaits_start() => self.pause.unwrap_or(SETTLE).min(SETTLE),
            false => self.pause?,
        };
        self.last_byte_at?.checked_add(pause)
    }

    /// Whether the buffer holds just a frame that counts only if the next one begins behind it.
    fn awaits_start(&self) -> bool {
        let size = match &self.scanner {
            Scanner::Length(header) => header.frame_size(&self.buffer.bytes),
            Scanner::Fixed(size) => length::Size::Known(*size),
            _ => return false,
        };
        let is_whole = size == length::Size::Known(self.buffer.bytes.len());
        is_whole
            && !self.needs_silence()
            && !self.start.is_empty()
            && self.counts_by_next()
            && self.buffer.bytes.starts_with(&self.start)
    }

    /// Decodes one byte of a framing with delimiters, unless it is one of an interleaved message.
    fn pass(&mut self, byte: u8, sink: &mut dyn FnMut(&[u8])) {
        let filter = self.interleaved.as_mut().filter(|_| !self.is_behind);
        match filter.map_or(interleaved::Taken::Data, |filter| filter.take(byte)) {
            interleaved::Taken::Data => self.step(byte, sink),
            interleaved::Taken::Held => {}
            interleaved::Taken::Broken(held) => {
                held.iter().for_each(|byte| self.step(*byte, sink));
                // Nothing is held now.
                self.pass(byte, sink);
            }
        }
    }

    /// Decodes one byte of a framing with delimiters.
    fn step(&mut self, byte: u8, sink: &mut dyn FnMut(&[u8])) {
        if self.is_behind {
            self.kept.push(byte);
            if self.kept.len() >= self.keep {
                self.is_behind = false;
                self.end(sink);
            }
            return;
        }
        let step = match &mut self.scanner {
            Scanner::Line(scanner) => scanner.step(byte, &mut self.buffer),
            Scanner::Slip(scanner) => scanner.step(byte, &mut self.buffer),
            Scanner::Cobs(scanner) => scanner.step(byte, &mut self.buffer),
            Scanner::Markers(scanner) => scanner.step(byte, &mut self.buffer, &mut self.counters),
            Scanner::Gap | Scanner::Length(_) | Scanner::Fixed(_) => Step::More,
        };
        match step {
            Step::More => {}
            Step::Frame if self.keep > 0 => self.is_behind = true,
            Step::Frame => self.end(sink),
            Step::Bad => {
                self.fail(Bad::Malformed);
                self.skipping = false;
            }
        }
    }

    /// Ends a frame: the buffer contains a complete frame, or the rest of one whose beginning was
    /// dropped.
    fn end(&mut self, sink: &mut dyn FnMut(&[u8])) {
        if self.is_stalled && !self.skipping {
            return self.end_stall(sink);
        }
        if self.skipping || self.buffer.over > 0 {
            self.fail(Bad::TooLong);
            (self.skipping, self.opening, self.is_stalled) = (false, None, false);
            self.forget_behind();
            return;
        }
        if self.keep > 0 || self.whole {
            return self.end_with_markers(sink);
        }
        if self.buffer.is_empty() {
            return;
        }
        // What stands before the start is the rest of something else, and so is a start whose
        // checksum is wrong while that of a later one is right.
        let starts = match self.start.len() {
            0 => vec![0],
            length => {
                let windows = self.buffer.bytes.windows(length).enumerate();
                windows
                    .filter(|(_, window)| *window == self.start)
                    .map(|(at, _)| at)
                    .take(STARTS_TRIED)
                    .collect()
            }
        };
        let frame = starts.first().map(|at| &self.buffer.bytes[*at..]);
        let (checksum, placement, bytes) = (self.checksum, self.placement, &self.buffer.bytes);
        let strip = |frame| checksum.map_or(Some(frame), |checksum| placement.strip(checksum, frame));
        let (begin, body) = starts
            .iter()
            .inspect(|at| bytes.spend(bytes.len() - *at))
            .find_map(|at| Some((*at, strip(&bytes[*at..])?)))
            .map_or((0, None), |(at, body)| (at, Some(body)));
        let why = if frame.is_some() && body.is_none() { Bad::Checksum } else { Bad::Malformed };
        let body = body.filter(|_| !(matches!(self.scanner, Scanner::Gap) && self.is_blank(bytes)));
        // One without a payload counts in no case.
        let (joined, least) = (&mut self.joined, self.start.len() + 1);
        let body = body.filter(|body| {
            body.len() < least || joined.as_mut().is_none_or(|joined| joined.judge(&bytes[begin..]))
        });
        let payload = body.and_then(|body| body.get(self.start.len()..)).map(|body| self.scanner.plain(body));
        let payload = payload.filter(|payload| !payload.is_empty());
        let labels = &mut self.labels;
        match payload.filter(|payload| labels.as_mut().is_none_or(|labels| labels.judge(payload))) {
            Some(payload) => {
                self.counters.good += 1;
                self.counters.dropped += begin as u64;
                sink(&payload);
                self.buffer.clear();
            }
            None => self.fail(why),
        }
    }

    /// The same where its markers and the bytes behind its end matter.
    fn end_with_markers(&mut self, sink: &mut dyn FnMut(&[u8])) {
        let kept = std::mem::take(&mut self.kept);
        let spare = std::mem::take(&mut self.spare);
        if self.buffer.is_empty() && kept.is_empty() {
            return;
        }
        let (start, end) = self.scanner.markers();
        let frame = [start, &self.buffer.bytes, end, &kept].concat();
        let is_good = |frame: &[u8]| {
            self.buffer.bytes.spend(frame.len());
            match self.checksum {
                Some(checksum) if self.keep > 0 => self.placement.strip(checksum, frame).is_some(),
                Some(checksum) => self.placement.strip(checksum, &self.buffer.bytes).is_some(),
                None => true,
            }
        };
        // The first bytes may have been taken for those behind the end before, one of which was
        // lost.
        let longer = [&spare[..], &frame].concat();
        let (frame, before) = match is_good(&frame) {
            true => (Some(frame), 0),
            false if !spare.is_empty() && is_good(&longer) => (Some(longer), spare.len()),
            false => (None, 0),
        };
        // Of frames with labels, a later one may be whole in what was joined.
        let (frame, skip) = match (frame, &self.labels) {
            (None, Some(labels)) if self.keep > 0 && start.is_empty() => labels
                .restarts(&self.buffer.bytes)
                .map(|at| ([&self.buffer.bytes[at..], end, &kept].concat(), at))
                .find(|(frame, _)| is_good(frame))
                .map_or((None, 0), |(frame, at)| (Some(frame), at)),
            (frame, _) => (frame, 0),
        };
        let Some(frame) = frame else {
            self.fail(Bad::Checksum);
            match self.scanner {
                // Behind a lost byte of these, the next start may be among them.
                Scanner::Markers(_) => kept.iter().for_each(|byte| self.step(*byte, sink)),
                _ => self.spare = kept,
            }
            return;
        };
        let end_of_body = before + start.len() + self.buffer.bytes.len() - skip;
        let body = frame.get(start.len()..end_of_body).unwrap_or_default();
        let plain = if self.keep > 0 { Some(body) } else { self.strip(body) };
        let joined = self.joined.as_mut().filter(|_| self.keep == 0);
        let plain = plain.filter(|_| joined.is_none_or(|joined| joined.judge(body)));
        let payload = match self.whole {
            true => std::borrow::Cow::Borrowed(&frame[..]),
            false => self.scanner.plain(plain.unwrap_or_default()),
        };
        if payload.len() > self.buffer.max {
            // With its markers, or what it was joined with.
            self.fail(Bad::TooLong);
        } else if payload.is_empty()
            || plain.is_none()
            || body.is_empty()
            || self.labels.as_mut().is_some_and(|labels| !labels.judge(body))
        {
            self.fail(Bad::Malformed);
        } else {
            if skip > 0 {
                self.counters.count(Bad::Incomplete);
                self.counters.dropped += skip as u64;
            }
            self.counters.good += 1;
            sink(&payload);
            self.buffer.clear();
        }
    }

    /// Whether a frame that no delimiter marks is what a line says that is cut or has no driver:
    /// zeros or FF, with which many checksums are right.
    fn is_blank(&self, frame: &[u8]) -> bool {
        let is_all = |value: u8| frame.iter().all(|byte| *byte == value);
        self.checksum.is_some() && (is_all(0) || is_all(0xFF))
    }

    /// The same of one at this place of the buffer, however long it is.
    fn is_blank_at(&self, at: usize, frame: &[u8]) -> bool {
        self.checksum.is_some()
            && frame.first().is_none_or(|first| matches!(first, 0 | 0xFF))
            && self.buffer.bytes.is_even(at..at + frame.len())
    }

    /// [`Decoder::strip`] of a frame at this place of the buffer, in a time that does not depend
    /// on its length.
    fn strip_at<'f>(&self, at: usize, frame: &'f [u8]) -> Option<&'f [u8]> {
        let Some(checksum) = self.checksum else { return Some(frame) };
        let sum = |part: std::ops::Range<usize>| self.buffer.bytes.sum(at + part.start..at + part.end);
        self.placement.strip_by(checksum, frame, sum)
    }

    /// A frame without its checksum, if it has one; `None` if that is wrong.
    fn strip<'f>(&self, frame: &'f [u8]) -> Option<&'f [u8]> {
        self.buffer.bytes.spend(frame.len());
        match self.checksum {
            Some(checksum) => self.placement.strip(checksum, frame),
            None => Some(frame),
        }
    }

    /// What is in the buffer will not become a frame.
    fn fail(&mut self, why: Bad) {
        if !self.buffer.is_empty() {
            let told = if self.skipping { self.opening.take() } else { Some(why) };
            if let Some(why) = told {
                let shown = self.buffer.bytes.len().min(SHOWN_MAX);
                self.last_bad = Some((why, self.buffer.bytes[..shown].to_vec()));
                self.counters.count(why);
            }
            self.counters.dropped += self.buffer.clear();
        }
    }

    /// Takes frames of a known length off the front of the buffer, and bytes that can begin none.
    /// `last`: nothing more comes for now.
    fn scan(&mut self, last: bool, sink: &mut dyn FnMut(&[u8])) {
        if self.begin == Begin::Doubtful {
            return self.scan_doubtful(sink);
        }
        if let Scanner::Fixed(size) = self.scanner
            && self.counts_by_next()
            && (1..size).contains(&self.start.len())
            && size <= self.buffer.max
        {
            self.scan_started(size, last, sink);
            return;
        }
        let mut at = 0;
        let mut bad: Vec<(Bad, Vec<u8>)> = Vec::new();
        // Bytes dropped one after the other are one bad frame.
        let mut lost = self.skipping;
        while let Some(rest) = self.buffer.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            self.buffer.bytes.spend(1);
            let known = rest.len().min(self.start.len());
            if rest[..known] != self.start[..known] {
                if !std::mem::replace(&mut lost, true) {
                    let why = Bad::Malformed;
                    bad.push((why, rest[..rest.len().min(SHOWN_MAX)].to_vec()));
                }
                self.counters.dropped += 1;
                at += 1;
                continue;
            }
            let size = match &self.scanner {
                Scanner::Length(header) => header.frame_size(rest),
                Scanner::Fixed(size) => length::Size::Known(*size),
                _ => break,
            };
            let is_over = last && (lost || !self.start.is_empty());
            let size = match size {
                length::Size::Unknown if !is_over => break,
                length::Size::Known(size) if size <= self.buffer.max && (!is_over || size <= rest.len()) => {
                    size
                }
                length::Size::Unknown | length::Size::Known(_) | length::Size::Impossible => {
                    if !std::mem::replace(&mut lost, true) {
                        let why = if matches!(size, length::Size::Known(size) if size > self.buffer.max) {
                            Bad::TooLong
                        } else {
                            Bad::Malformed
                        };
                        bad.push((why, rest[..rest.len().min(SHOWN_MAX)].to_vec()));
                    }
                    self.search.pass(1);
                    self.counters.dropped += 1;
                    at += 1;
                    continue;
                }
            };
            let Some(frame) = rest.get(..size) else { break };
            let behind = &rest[size..];
            if self.counts_by_next() && !self.start.is_empty() {
                let known = behind.len().min(self.start.len());
                if behind[..known] != self.start[..known] {
                    // A byte of it is missing: the next one began earlier.
                    if !std::mem::replace(&mut lost, true) {
                        let why = Bad::Malformed;
                        bad.push((why, rest[..rest.len().min(SHOWN_MAX)].to_vec()));
                    }
                    self.counters.dropped += 1;
                    at += 1;
                    continue;
                }
                if known < self.start.len() && !last {
                    break;
                }
            }
            let body = self.strip_at(at, frame);
            let payload =
                body.filter(|_| !self.is_blank_at(at, frame)).and_then(|body| match &self.scanner {
                    Scanner::Length(header) => header.payload(body),
                    _ => body.get(self.start.len()..),
                });
            // Where bytes were lost, it is by chance if no other follows it.
            let followed = if payload.is_some() && lost { self.is_followed(at, size) } else { Some(true) };
            if followed.is_none() && !last {
                break;
            }
            let is_followed = followed.unwrap_or(behind.is_empty());
            let counts = is_followed || self.search.is_foreign();
            if !is_followed {
                self.search.note_alone(size);
            }
            match payload.filter(|_| counts) {
                Some(payload) => {
                    self.search.found(std::mem::take(&mut lost), is_followed);
                    if !payload.is_empty() {
                        self.counters.good += 1;
                        sink(payload);
                    }
                    at += size;
                }
                None => {
                    if !std::mem::replace(&mut lost, true) {
                        self.search.lose(at + size);
                        let why = if body.is_none() { Bad::Checksum } else { Bad::Malformed };
                        bad.push((why, rest[..rest.len().min(SHOWN_MAX)].to_vec()));
                    }
                    self.search.pass(1);
                    self.counters.dropped += 1;
                    at += 1;
                }
            }
        }
        self.search.advance(at);
        bad.iter().for_each(|(why, _)| self.counters.count(*why));
        self.last_bad = bad.pop().or(self.last_bad.take());
        self.skipping = lost;
        self.buffer.bytes.advance(at);
    }
}

impl Decoder {
    /// The same for frames of this size with a start and without a checksum.
    fn scan_started(&mut self, size: usize, last: bool, sink: &mut dyn FnMut(&[u8])) {
        let mut at = 0;
        while let Some(rest) = self.buffer.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match fixed::look(rest, &self.start, size, last, &|steps| self.buffer.bytes.spend(steps)) {
                fixed::Found::Frame => {
                    let frame = rest.get(..size).unwrap_or_default();
                    let body = self.strip_at(at, frame);
                    match body.filter(|_| !self.is_blank_at(at, frame)) {
                        Some(body) => {
                            self.skipping = false;
                            self.counters.good += 1;
                            sink(body.get(self.start.len()..).unwrap_or_default());
                        }
                        None => {
                            self.last_bad = Some((Bad::Checksum, rest[..rest.len().min(SHOWN_MAX)].to_vec()));
                            self.counters.count(Bad::Checksum);
                            self.counters.dropped += size as u64;
                        }
                    }
                    at += size;
                }
                fixed::Found::Skip(count) => {
                    // Bytes dropped one after the other are one bad frame.
                    if !std::mem::replace(&mut self.skipping, true) {
                        self.last_bad = Some((Bad::Malformed, rest[..rest.len().min(SHOWN_MAX)].to_vec()));
                        self.counters.count(Bad::Malformed);
                    }
                    let count = count.min(rest.len());
                    self.counters.dropped += count as u64;
                    at += count;
                }
                fixed::Found::More | fixed::Found::Nothing => break,
            }
        }
        self.buffer.bytes.advance(at);
    }
}

impl Counters {
    fn count(&mut self, why: Bad) {
        self.bad += u64::from(!matches!(why, Bad::Early | Bad::First));
        *match why {
            Bad::Cut => &mut self.cut,
            Bad::Burst => &mut self.burst,
            Bad::Stalled => &mut self.stalled,
            Bad::Early => &mut self.early,
            Bad::First => &mut self.first,
            Bad::TooLong => &mut self.too_long,
            Bad::Checksum => &mut self.checksum,
            Bad::Malformed => &mut self.malformed,
            Bad::Incomplete => &mut self.incomplete,
        } += 1;
    }
}

impl Scanner {
    /// Whether a frame whose beginning was missed can only be detected by the delimiter before it.
    fn has_delimiter(&self) -> bool {
        matches!(self, Scanner::Line(_) | Scanner::Slip(_) | Scanner::Cobs(_))
    }

    /// What stands before and behind each frame, where that is always the same.
    fn markers(&self) -> (&[u8], &[u8]) {
        match self {
            Scanner::Line(scanner) => (&[], scanner.end()),
            Scanner::Markers(scanner) => scanner.markers(),
            _ => (&[], &[]),
        }
    }

    /// A frame without escapes, where they are not taken out byte by byte.
    fn plain<'f>(&self, frame: &'f [u8]) -> std::borrow::Cow<'f, [u8]> {
        match self {
            Scanner::Markers(scanner) => scanner.plain(frame),
            _ => frame.into(),
        }
    }

    fn restart(&mut self) {
        match self {
            Scanner::Line(scanner) => scanner.restart(),
            Scanner::Slip(scanner) => *scanner = slip::Scanner::default(),
            Scanner::Cobs(scanner) => *scanner = cobs::Scanner::default(),
            Scanner::Markers(scanner) => scanner.restart(),
            Scanner::Gap | Scanner::Length(_) | Scanner::Fixed(_) => {}
        }
    }
}

/// Appends the frame of `payload`, with its checksum, to `out`.
///
/// # Errors
/// [`EncodeError`]; `out` is unchanged.
pub fn encode(settings: &Settings, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if payload.is_empty() {
        return Err(EncodeError::Empty);
    }
    let mut body = Vec::with_capacity(payload.len() + 16);
    if !matches!(settings.framing, Framing::Length(_)) {
        body.extend_from_slice(&settings.start);
    }
    if let Framing::Length(header) = &settings.framing {
        header.write(
            payload.len(),
            settings.checksum.map_or(0, |checksum| settings.placement.width(checksum)),
            &mut body,
        )?;
        if let Some(first) = body.get_mut(..settings.start.len().min(header.offset)) {
            first.copy_from_slice(&settings.start[..first.len()]);
        }
    }
    body.extend_from_slice(payload);
    if let Some(checksum) = settings.checksum.filter(|_| settings.keep == 0) {
        settings.placement.append(checksum, &mut body);
    }
    if body.len() > settings.max_frame {
        return Err(EncodeError::TooLong);
    }
    if settings.keep > 0 {
        let mut frame = Vec::new();
        match &settings.framing {
            Framing::Markers(markers) => markers.encode(&body, &mut frame)?,
            Framing::Line(end) => end.encode(&body, &mut frame)?,
            _ => frame.extend_from_slice(&body),
        }
        let width = settings.checksum.map_or(0, |checksum| settings.placement.width(checksum));
        frame.resize(frame.len() + settings.keep.saturating_sub(width), 0);
        if let Some(checksum) = settings.checksum {
            settings.placement.append(checksum, &mut frame);
        }
        out.extend_from_slice(&frame);
        return Ok(());
    }
    match &settings.framing {
        Framing::Line(end) => end.encode(&body, out),
        Framing::Slip => {
            slip::encode(&body, out);
            Ok(())
        }
        Framing::Cobs => {
            cobs::encode(&body, out);
            Ok(())
        }
        Framing::Markers(markers) => {
            let before = out.len();
            markers.encode(&body, out)?;
            // A sequence of the data that is sent twice counts twice.
            let data = out.len() - before - markers.start.len() - markers.end.len();
            if matches!(markers.escape, Some(markers::Escape::Doubled(_))) && data > settings.max_frame {
                out.truncate(before);
                return Err(EncodeError::TooLong);
            }
            Ok(())
        }
        Framing::Fixed(size) if body.len() != *size => Err(EncodeError::WrongSize),
        Framing::Length(_) | Framing::Gap(_) | Framing::Fixed(_) => {
            out.extend_from_slice(&body);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
