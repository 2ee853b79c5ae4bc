//! Devices that must be asked: the same question once a period, one at a time, and its answer.
//!
//! ```text
//!  closed ──opened──> idle ──due──> waiting ──answer──────────────> idle, due next period
//!                      ^               │ silence: one answer is outstanding
//!                      │<──back-off────┘
//!                      │   next question while one is outstanding: a probe
//!                      └──quiet for long enough── listening <──answer to a probe, not used
//! ```
//!
//! An answer does not say which question it answers. After a question without an answer, a late one
//! may still come, and would be taken for the answer to the next question; and then every answer
//! for that of the question before. A late answer that comes before the next question is counted
//! and nothing is outstanding any more. Otherwise the next question is a probe: what answers it is
//! not used, nor is what follows, until nothing has come for half as long again as the oldest
//! answer was late, at most ten time-outs; then the question is asked again.
//!
//! Some devices answer one of several questions only: they sleep, or measure at most so often.
//! Three times in a row they are silent, and answer the probe, and nothing else comes. Then the
//! answer to a question that is repeated after silence is used: whichever of the questions it is
//! for, it is the only one. The first repeat goes out at once, and after its answer nothing is
//! asked for a whole period, nor before another answer to one of those questions would have come.
//! If one comes, this is over: the device answers each question. So that a device is found that a
//! question wakes for a moment only, every other question to one that is down is repeated at once,
//! and so is the first after a probe that was answered so.
//!
//! Where it is known what wakes a device ([`Settings::wake`]), that is sent before each question;
//! what comes until the question goes out is not looked at.
//!
//! ```text
//!  idle ──due──> waking ──pause──> waiting
//! ```
//!
//! An answer to a probe is no reading: a device of which only such come is degraded.
//!
//! A device whose answers come late, twice without one in time between, is waited for longer: half
//! as long again as the last one took, at most four time-outs ([`wait_max`]). After three questions
//! without any frame the configured time-out holds again.
//!
//! On a line with several devices that are asked ([`Poller::share`]) another may ask only when a
//! late answer cannot come any more: after a silence of three time-outs, or of half as long again
//! as an answer was ever late, at most ten. Nothing is outstanding then. So long is waited, too,
//! when the line is opened for the first time: an earlier process may have asked. A device that is
//! down is asked again after the back-off, although its period is shorter.
//!
//! A line that is closed during a question is a failure of that question, and its answer may still
//! come: a converter in the network keeps it until the next connection. So time during which the
//! line is closed does not count, and it is waited for on the next connection, or by the poller
//! that takes over after a reload ([`Poller::adopt`]).
//!
//! [`Decoder`](super::framing::Decoder) makes frames of the answers; what frame is an answer is
//! decided here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lateness::Lateness;
use super::{State, wait_max};

/// Consecutive failures after which the device counts as down, and unreadable answers after which
/// it counts as degraded.
const FAILURES: u32 = 3;
/// First wait after a failure; doubles up to [`BACKOFF_MAX`], and is never longer than to the next
/// period.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Longest pause within an answer that has begun.
const WITHIN: Duration = Duration::from_secs(1);
/// An answer that has begun is waited for at most so long beyond the time-out.
const WHOLE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for an answer that may still come, in time-outs.
const STILL_TO_COME_MAX: u32 = 10;
/// On a shared line: the shortest such wait, in time-outs.
const STILL_TO_COME_MIN: u32 = 3;
/// The longest silence on a shared line that is opened for the first time.
const FIRST_REST_MAX: Duration = Duration::from_secs(10);
/// If the line is open again so soon, or so soon after the last question, the period goes on.
const RESUME: Duration = Duration::from_secs(15);
/// After so many openings without a question a device counts as down.
const OPENINGS_MAX: u32 = 16;
/// Most queued events.
const EVENTS_MAX: usize = 16;
/// Most questions remembered whose answer may still come.
const OUTSTANDING_MAX: usize = 16;

/// Longest question, in bytes.
pub const QUESTION_MAX: usize = 256;

/// How a device is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bytes to send; `1..=256`.
    pub question: Vec<u8>,
    /// From one question to the next; default 10 s.
    pub period: Duration,
    /// How long the device may take to begin its answer; default 1 s.
    pub timeout: Duration,
    /// The line repeats what is sent.
    pub echo: bool,
    /// What is sent before each question; default none.
    pub wake: Option<Wake>,
}

/// What wakes a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The bytes to send; `1..=256`.
    pub bytes: Vec<u8>,
    /// From when they are sent to the question.
    pub pause: Duration,
}

impl Wake {
    /// Default of the silence behind the bytes.
    pub const PAUSE: Duration = Duration::from_millis(100);
}

impl Settings {
    /// Default of `period`.
    pub const PERIOD: Duration = Duration::from_secs(10);
    /// Default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
}

/// What happened, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer became a reading, and none did before.
    Up,
    /// It answers, but no answer is a reading.
    Degraded,
    /// It does not answer.
    Down {
        /// How the last question failed.
        failure: Failure,
    },
    /// An answer came so long after its question and was not used.
    Late {
        /// The time since the question.
        after: Duration,
    },
}

/// How a question fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing came.
    Silent,
    /// Only frames with a fault came, or bytes that did not become a frame.
    Damaged,
    /// The line was closed in place of an answer, or before a question each time.
    Closed,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions sent.
    pub questions: u64,
    /// Answers in time.
    pub answers: u64,
    /// Questions without any answer in time.
    pub silent: u64,
    /// Questions after which only frames with a fault came.
    pub damaged: u64,
    /// Questions in place of whose answer the line was closed.
    pub closed: u64,
    /// Those of the silent ones after which bytes came that did not become a frame.
    pub endless: u64,
    /// Milliseconds that answers in time took, in all.
    pub busy_ms: u64,
    /// Frames not used: late answers, answers to probes, and what came unasked.
    pub late: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Idle,
    Waking { until: Instant },
    Waiting { asked: Instant, deadline: Instant, probe: bool, damaged: bool },
    Listening { until: Instant },
}

/// What is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToSend {
    Wake,
    Question,
}

/// How a device that is asked does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it answers.
    pub state: State,
    /// How the last question failed, if it did.
    pub failing: Option<Failure>,
    /// So long its answers are waited for, as late ones taught; zero: as configured.
    pub learned: Duration,
    /// How late its last answer was, unless one came in time since.
    pub late: Duration,
    /// How late its last answer was, and the longest wait, if that is beyond it.
    pub beyond: Option<(Duration, Duration)>,
    /// Only answers come that may be for an earlier question.
    pub is_unused: bool,
    /// Each of these was the only frame after several questions.
    pub is_single: bool,
    /// Counters since the start.
    pub counters: Counters,
}

/// How a device stands among those on the same line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// It was asked, and its answer is waited for.
    pub is_busy: bool,
    /// When it is to be asked next, if it is not busy and the port is open.
    pub due: Option<Instant>,
    /// Until then its answer to a question may still come.
    pub quiet_at: Option<Instant>,
    /// Nobody on the line is asked before, since the line was opened.
    pub opens_at: Option<Instant>,
}

/// The questions to one device.
#[derive(Debug)]
pub struct Poller {
    settings: Settings,
    /// The question as a frame of the device's framing, if it is one: an echo of it is no answer.
    framed: Option<Vec<u8>>,
    phase: Phase,
    state: State,
    failures: u32,
    unreadable: u32,
    due: Instant,
    /// When the present period began.
    slot: Instant,
    /// When the questions were asked whose answer may still come, the oldest first; the first
    /// [`OUTSTANDING_MAX`].
    outstanding: VecDeque<Instant>,
    /// When the last one was asked.
    asked_at: Option<Instant>,
    to_send: Option<ToSend>,
    /// Bytes came since then that are no whole frame.
    is_begun: bool,
    /// Bytes of the echo that came, while it is awaited.
    echoed: Option<usize>,
    echo_frame_seen: bool,
    counters: Counters,
    events: VecDeque<Event>,
    /// There are others on the line.
    is_shared: bool,
    /// It is not this one's turn.
    is_held: bool,
    /// The greatest age of an answer that came late.
    latest: Duration,
    /// How late its answers come.
    lateness: Lateness,
    /// See [`Turn::quiet_at`].
    quiet_at: Option<Instant>,
    /// See [`Turn::opens_at`].
    opens_at: Option<Instant>,
    /// For so long an answer may still come once the line is open again.
    still: Duration,
    closed_at: Option<Instant>,
    /// Openings of the line since the last question.
    openings: u32,
    /// How the last question failed, if it did.
    failing: Option<Failure>,
    /// Answers to probes since an answer was used.
    unused: u32,
    /// Frames since the present probe.
    heard: u32,
    /// How late the first of them was, if it answers the oldest outstanding question.
    probe_late: Duration,
    /// After all outstanding questions nothing came at all, on this connection.
    is_silence: bool,
    /// Times that, after such silence, a probe was answered by one frame only; less those that a
    /// question was answered in time.
    singles: u32,
    /// The question went out directly after an answer to a probe: a device that sleeps is awake
    /// then.
    is_after_probe: bool,
    /// One of several questions is answered: the answer to a repeated one is used.
    is_repeated: bool,
}

impl Poller {
    /// For a port that is not open yet. `framed`: the question as its framing would read it.
    pub fn new(settings: Settings, framed: Option<Vec<u8>>, now: Instant) -> Poller {
        Poller {
            settings,
            framed,
            phase: Phase::Closed,
            state: State::Unknown,
            failures: 0,
            unreadable: 0,
            due: now,
            slot: now,
            outstanding: VecDeque::new(),
            asked_at: None,
            to_send: None,
            is_begun: false,
            echoed: None,
            echo_frame_seen: false,
            counters: Counters::default(),
            events: VecDeque::new(),
            is_shared: false,
            is_held: false,
            latest: Duration::ZERO,
            lateness: Lateness::default(),
            quiet_at: None,
            opens_at: None,
            still: Duration::ZERO,
            closed_at: None,
            openings: 0,
            failing: None,
            unused: 0,
            heard: 0,
            probe_late: Duration::ZERO,
            is_silence: false,
            singles: 0,
            is_after_probe: false,
            is_repeated: false,
        }
    }

    /// Whether the device answers.
    pub fn state(&self) -> State {
        self.state
    }

    /// How the last question failed, if it did.
    pub fn failing(&self) -> Option<Failure> {
        self.failing
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All of that, for those who look at it.
    pub fn standing(&self) -> Standing {
        let late = self.lateness.row_at();
        let beyond = late.and_then(|_| self.lateness.beyond(self.settings.timeout));
        let (state, failing, counters) = (self.state, self.failing, self.counters);
        let (learned, late) = (self.lateness.wait(), late.unwrap_or_default());
        let (is_unused, is_single) = (self.unused >= FAILURES, self.singles > 0 || self.is_repeated);
        Standing { state, failing, learned, late, beyond, is_unused, is_single, counters }
    }

    /// How long the beginning of an answer is waited for.
    fn timeout(&self) -> Duration {
        self.lateness.timeout(self.settings.timeout)
    }

    /// There are other devices on the line: nothing is asked until [`Poller::hold`] allows it.
    pub fn share(&mut self) {
        (self.is_shared, self.is_held) = (true, true);
    }

    /// Whether it must wait for its turn.
    pub fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// How it stands among those on the same line.
    pub fn turn(&self) -> Turn {
        let is_busy =
            matches!(self.phase, Phase::Waking { .. } | Phase::Waiting { .. } | Phase::Listening { .. });
        let due = (self.phase == Phase::Idle).then_some(self.due);
        Turn { is_busy, due, quiet_at: self.quiet_at, opens_at: self.opens_at }
    }

    /// For so long an answer to a question of this one may still come.
    pub fn still_to_come(&self, now: Instant) -> Duration {
        let rest = |at: Instant| at.saturating_duration_since(now);
        let own = match self.phase {
            Phase::Closed => self.still,
            Phase::Waking { .. } | Phase::Waiting { .. } => self.longest(),
            Phase::Listening { until } => rest(until),
            Phase::Idle => self.quiet_at.map(rest).unwrap_or_default(),
        };
        // One that is alone on its line sends a probe in place of waiting.
        let is_known = self.is_shared || self.outstanding.is_empty();
        own.max(if is_known { Duration::ZERO } else { self.longest() })
    }

    /// Takes over from the poller of before a reload what may still come; before the line is open.
    pub fn adopt(&mut self, before: &mut Poller, now: Instant) {
        self.await_rest(before.still_to_come(now));
        before.line_down(now);
        self.outstanding = std::mem::take(&mut before.outstanding);
        (self.asked_at, self.latest, self.closed_at) = (before.asked_at, before.latest, before.closed_at);
        let wait = before.lateness.wait().min(wait_max(self.settings.timeout));
        self.lateness = Lateness::with_wait(wait);
        self.is_repeated = before.is_repeated;
    }

    /// An answer to another device on the line may still come for so long once the line is open.
    pub fn await_rest(&mut self, still: Duration) {
        self.still = self.still.max(still);
    }

    /// The port is open: the first question goes out once answers to earlier ones have come. A
    /// device whose turn it was before is asked no later than it was due.
    pub fn line_up(&mut self, now: Instant) {
        let closed_at = self.closed_at.take();
        let is_soon = |at: Instant| now.saturating_duration_since(at) <= RESUME;
        let is_short = closed_at.is_some_and(is_soon) || self.asked_at.is_some_and(is_soon);
        let is_first = closed_at.is_none() && self.asked_at.is_none();
        if let Some(closed) = closed_at.map(|at| now.saturating_duration_since(at)) {
            self.asked_at.iter_mut().chain(&mut self.outstanding).for_each(|at| *at += closed);
        }
        self.phase = Phase::Idle;
        self.openings = self.openings.saturating_add(1);
        (self.to_send, self.echoed) = (None, None);
        let still = std::mem::take(&mut self.still);
        self.quiet_at = (!still.is_zero()).then(|| now + still);
        // Where the line is closed again and again before a question, it goes out at once.
        let timeout = self.settings.timeout;
        let listen = match (self.openings > FAILURES, is_first && self.is_shared) {
            (true, _) => Duration::ZERO,
            (false, true) => self.longest().min(FIRST_REST_MAX).max(timeout),
            (false, false) => timeout,
        };
        let opens_at = now + still.max(listen);
        self.opens_at = Some(opens_at);
        if !is_short {
            self.due = self.due.min(opens_at);
            self.slot = opens_at;
        }
        self.slot = self.slot.max(opens_at);
    }

    /// The port was closed, or could not be opened. If a question had no answer yet, this is the
    /// failure of it; otherwise no failure is counted.
    pub fn line_down(&mut self, now: Instant) {
        match self.phase {
            Phase::Closed => return,
            Phase::Waiting { asked, .. } => self.fail(now, asked, Failure::Closed),
            Phase::Waking { .. } | Phase::Listening { .. } | Phase::Idle => self.find_kept(now),
        }
        let rest = |at: Instant| at.saturating_duration_since(now);
        let listening = match self.phase {
            Phase::Listening { until } => rest(until),
            _ => Duration::ZERO,
        };
        self.still = self.quiet_at.take().map(rest).unwrap_or_default().max(listening);
        self.phase = Phase::Closed;
        self.is_silence = false;
        self.opens_at = None;
        self.closed_at = Some(now);
        self.to_send = None;
    }

    /// The line is closed each time before a question: then the device counts as down.
    fn find_kept(&mut self, now: Instant) {
        let overdue = 3 * (self.settings.period + self.settings.timeout);
        let is_overdue = self.asked_at.is_none_or(|at| now.saturating_duration_since(at) > overdue);
        if self.openings >= OPENINGS_MAX && is_overdue && self.state != State::Down {
            self.failing = Some(Failure::Closed);
            self.state = State::Down;
            self.tell(Event::Down { failure: Failure::Closed });
        }
    }

    /// Whether what comes now is not looked at.
    pub fn is_waking(&self) -> bool {
        matches!(self.phase, Phase::Waking { .. })
    }

    /// The received bytes without the echo of the question.
    pub fn strip_echo(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(known) = self.echoed else { return bytes.to_vec() };
        let expected = self.settings.question.get(known..).unwrap_or_default();
        let common = bytes.iter().zip(expected).take_while(|(one, other)| one == other).count();
        if common == expected.len() {
            self.echoed = None;
            return bytes.get(common..).unwrap_or_default().to_vec();
        }
        if common == bytes.len() {
            self.echoed = Some(known + common);
            return Vec::new();
        }
        // It is no echo.
        self.echoed = None;
        [self.settings.question.get(..known).unwrap_or_default(), bytes].concat()
    }

    /// A frame came. Whether it is the answer, to be used.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) -> bool {
        match self.phase {
            Phase::Waiting { asked, probe, .. } => {
                if self.framed.as_deref() == Some(frame)
                    && !std::mem::replace(&mut self.echo_frame_seen, true)
                {
                    return false;
                }
                self.failures = 0;
                self.failing = None;
                self.lateness.heard();
                if !probe {
                    self.lateness.in_time();
                    // It says nothing if the device was awake because of a question before, and
                    // little if it may have been.
                    if !std::mem::take(&mut self.is_after_probe) {
                        self.singles = self.singles.saturating_sub(1);
                    }
                    self.count_answer(now, asked);
                    self.schedule(now);
                    return true;
                }
                if self.is_repeated && self.is_silence {
                    self.count_answer(now, asked);
                    self.slot = now + self.settings.period;
                    let quiet_at = now + self.longest();
                    (self.due, self.quiet_at) = (self.slot.max(quiet_at), Some(quiet_at));
                    return true;
                }
                self.counters.late += 1;
                self.heard = 1;
                self.unused = self.unused.saturating_add(1);
                if self.unused >= FAILURES {
                    self.degrade();
                }
                let oldest = self.outstanding.front().copied().unwrap_or(asked);
                let late = now.saturating_duration_since(oldest);
                self.probe_late = late;
                let timeout = self.settings.timeout;
                let wait = late.mul_f64(1.5).clamp(timeout, timeout * STILL_TO_COME_MAX);
                self.phase = Phase::Listening { until: now + wait };
                false
            }
            Phase::Waking { .. } => false,
            Phase::Listening { .. } | Phase::Closed => {
                self.counters.late += 1;
                self.heard = self.heard.saturating_add(1);
                false
            }
            Phase::Idle => {
                self.counters.late += 1;
                if self.outstanding.pop_front().is_some() {
                    (self.singles, self.is_repeated) = (0, false);
                    // Those before may never be answered: told is the least that it is late.
                    let after = now.saturating_duration_since(self.asked_at.unwrap_or(now));
                    self.latest = self.latest.max(after);
                    let _: bool = self.lateness.late(after, self.settings.timeout);
                    if self.outstanding.is_empty() {
                        self.quiet_at = None;
                    }
                    self.tell(Event::Late { after });
                }
                false
            }
        }
    }

    /// An answer is used.
    fn count_answer(&mut self, now: Instant, asked: Instant) {
        self.unused = 0;
        self.counters.answers += 1;
        let took = u64::try_from(now.saturating_duration_since(asked).as_millis()).unwrap_or(u64::MAX);
        self.counters.busy_ms = self.counters.busy_ms.saturating_add(took);
        self.phase = Phase::Idle;
    }

    /// The listening after a probe's answer is over.
    fn find_single(&mut self) {
        if self.heard != 1 || !self.is_silence {
            self.singles = 0;
            let _: bool = self.lateness.late(self.probe_late, self.settings.timeout);
            return;
        }
        // If it answers only the probe, it is not late, however long the first question is ago.
        self.singles += 1;
        if self.singles >= FAILURES {
            (self.singles, self.is_repeated) = (0, true);
            self.lateness.forget_wait();
        }
    }

    /// A frame with a fault came: if nothing else does, the answer was damaged, and is not
    /// outstanding.
    pub fn handle_damage(&mut self) {
        self.heard = self.heard.saturating_add(1);
        if let Phase::Waiting { damaged, .. } = &mut self.phase {
            *damaged = true;
        }
    }

    /// Whether an answer was a reading.
    pub fn handle_reading(&mut self, is_reading: bool) {
        if is_reading {
            self.unreadable = 0;
            if self.state != State::Up {
                self.state = State::Up;
                self.tell(Event::Up);
            }
        } else {
            self.unreadable = self.unreadable.saturating_add(1);
            if self.unreadable >= FAILURES {
                self.degrade();
            }
        }
    }

    fn degrade(&mut self) {
        if self.state != State::Degraded {
            self.state = State::Degraded;
            self.tell(Event::Degraded);
        }
    }

    /// Bytes came, and a frame is under way, which may end at `ends` by a pause.
    pub fn handle_part(&mut self, now: Instant, ends: Option<Instant>) {
        let latest = |asked: Instant| asked + self.settings.timeout + WHOLE_MAX;
        if let Phase::Waiting { asked, deadline, probe, damaged } = self.phase {
            self.is_begun = true;
            let deadline = deadline.max(now + WITHIN).max(ends.unwrap_or(now)).min(latest(asked));
            self.phase = Phase::Waiting { asked, deadline, probe, damaged };
        }
    }

    /// Time has passed. Whether a question, or what wakes the device, is to be sent: then what is
    /// in the decoder is dropped first.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Waiting { asked, deadline, damaged, .. } if now >= deadline => {
                self.fail(now, asked, if damaged { Failure::Damaged } else { Failure::Silent });
            }
            Phase::Listening { until } if now >= until => {
                self.find_single();
                self.phase = Phase::Idle;
                self.is_after_probe = true;
                self.outstanding.clear();
                self.due = now;
            }
            Phase::Waking { until } if now >= until => {
                self.ask(now);
                return true;
            }
            _ => {}
        }
        if self.quiet_at.is_some_and(|at| now >= at) {
            self.quiet_at = None;
            self.outstanding.clear();
        }
        if self.phase != Phase::Idle || now < self.next() || self.is_held {
            return false;
        }
        match &self.settings.wake {
            Some(wake) => {
                self.phase = Phase::Waking { until: now + wake.pause };
                self.to_send = Some(ToSend::Wake);
            }
            None => self.ask(now),
        }
        true
    }

    /// The question goes out.
    fn ask(&mut self, now: Instant) {
        self.phase = Phase::Waiting {
            asked: now,
            deadline: now + self.timeout(),
            probe: !self.outstanding.is_empty(),
            damaged: false,
        };
        self.asked_at = Some(now);
        self.openings = 0;
        self.is_begun = false;
        self.counters.questions += 1;
        self.to_send = Some(ToSend::Question);
        self.echo_frame_seen = false;
        self.echoed = self.settings.echo.then_some(0);
    }

    /// When [`Poller::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closed => None,
            Phase::Idle => (!self.is_held).then_some(self.next()),
            Phase::Waiting { deadline, .. } => Some(deadline),
            Phase::Waking { until } | Phase::Listening { until } => Some(until),
        }
    }

    /// Writes the question, or what wakes the device, to `buffer` if it is to be sent now.
    pub fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> bool {
        let bytes = match self.to_send.take() {
            None => return false,
            Some(ToSend::Question) => &self.settings.question[..],
            Some(ToSend::Wake) => self.settings.wake.as_ref().map_or(&[][..], |wake| &wake.bytes),
        };
        buffer.clear();
        buffer.extend_from_slice(bytes);
        true
    }

    /// The next event. The oldest are dropped beyond 16.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// When the next question may go out.
    fn next(&self) -> Instant {
        self.opens_at.map_or(self.due, |at| at.max(self.due))
    }

    /// The longest wait for an answer that may still come.
    fn longest(&self) -> Duration {
        let timeout = self.settings.timeout;
        self.latest.mul_f64(1.5).clamp(timeout * STILL_TO_COME_MIN, timeout * STILL_TO_COME_MAX)
    }

    fn fail(&mut self, now: Instant, asked: Instant, failure: Failure) {
        self.phase = Phase::Idle;
        self.is_after_probe = false;
        self.failures = self.failures.saturating_add(1);
        self.lateness.failed();
        match failure {
            Failure::Damaged => self.counters.damaged += 1,
            Failure::Closed => self.counters.closed += 1,
            Failure::Silent => {
                self.counters.silent += 1;
                self.counters.endless += u64::from(self.is_begun);
            }
        }
        let is_silence = failure == Failure::Silent && !self.is_begun;
        self.is_silence = is_silence && (self.outstanding.is_empty() || self.is_silence);
        // What had begun when the line was closed may be ended on the next connection.
        if failure != Failure::Damaged && self.outstanding.len() < OUTSTANDING_MAX {
            self.outstanding.push_back(asked);
        }
        let failure = match failure {
            Failure::Silent if self.is_begun => Failure::Damaged,
            failure => failure,
        };
        self.failing = Some(failure);
        if self.failures >= FAILURES && self.state != State::Down {
            self.state = State::Down;
            self.tell(Event::Down { failure });
        }
        let doubled = 2_u32.checked_pow(self.failures - 1).and_then(|factor| BACKOFF.checked_mul(factor));
        let again = now + doubled.unwrap_or(BACKOFF_MAX).min(BACKOFF_MAX);
        self.schedule(now);
        if !self.is_shared {
            let is_known = self.failures == 1 && (self.is_repeated || self.singles > 0);
            let is_tried = self.failures >= FAILURES && self.failures % 2 == 1;
            let is_repeat = self.is_silence && (is_known || is_tried);
            self.due = if is_repeat { now } else { self.due.min(again) };
            return;
        }
        // Not sooner than that: the others have the line.
        self.due = if self.failures >= FAILURES { again } else { self.due.min(again) };
        self.quiet_at = Some(now + self.longest());
    }

    /// The next question is due in the next period, whatever this one took.
    fn schedule(&mut self, now: Instant) {
        if now < self.slot {
            self.due = self.slot;
            return;
        }
        let period = self.settings.period.max(Duration::from_millis(1));
        let missed = now.saturating_duration_since(self.slot).as_nanos() / period.as_nanos();
        let steps = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        let next = period.checked_mul(steps).and_then(|step| self.slot.checked_add(step));
        self.slot = next.filter(|slot| *slot > now).unwrap_or(now + period);
        self.due = self.slot;
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A device that answers each question with its number, so long after it; `None`: never.
    struct Line {
        poller: Poller,
        start: Instant,
        now: Instant,
        asked: Vec<Duration>,
        used: Vec<(Duration, u64)>,
        events: Vec<Event>,
        coming: Vec<(Instant, u64)>,
    }

    impl Line {
        fn new(period: Duration) -> Line {
            Line::with(period, SECOND)
        }

        fn with(period: Duration, timeout: Duration) -> Line {
            let now = Instant::now();
            let settings = Settings { question: b"A\r".to_vec(), period, timeout, echo: false, wake: None };
            let mut poller = Poller::new(settings, Some(b"A".to_vec()), now);
            poller.line_up(now);
            let (asked, used, events, coming) = Default::default();
            Line { poller, start: now, now, asked, used, events, coming }
        }

        fn run(&mut self, time: Duration, mut answer: impl FnMut(u64) -> Option<Duration>) {
            self.run_at(time, |number, _| answer(number));
        }

        /// `answer`: of the nth question, which was asked at this time.
        fn run_at(&mut self, time: Duration, mut answer: impl FnMut(u64, Duration) -> Option<Duration>) {
            let end = self.now + time;
            loop {
                let timer = self.poller.poll_timeout().unwrap();
                let arrival = self.coming.iter().map(|(at, _)| *at).min();
                let at = arrival.map_or(timer, |arrival| arrival.min(timer)).max(self.now);
                if at > end {
                    break;
                }
                self.now = at;
                if let Some(index) = self.coming.iter().position(|(due, _)| *due <= at) {
                    let (_, number) = self.coming.remove(index);
                    if self.poller.handle_frame(at, number.to_string().as_bytes()) {
                        self.poller.handle_reading(true);
                        self.used.push((at - self.start, number));
                    }
                }
                self.poller.handle_timeout(at);
                let mut sent = Vec::new();
                if self.poller.poll_transmit(&mut sent) {
                    assert_eq!(sent, b"A\r");
                    self.asked.push(at - self.start);
                    let number = self.asked.len() as u64;
                    let answer = answer(number, at - self.start);
                    self.coming.extend(answer.map(|after| (at + after, number)));
                }
                while let Some(event) = self.poller.poll_event() {
                    self.events.push(event);
                }
            }
            self.now = end;
        }
    }

    #[test]
    fn a_device_is_asked_once_a_period_and_each_answer_is_used() {
        let mut line = Line::new(10 * SECOND);
        line.run(100 * SECOND, |_| Some(ms(300)));
        assert_eq!(line.used.len(), 10);
        assert_eq!(line.asked[..2], [SECOND, 11 * SECOND]);
        assert_eq!((line.poller.state(), line.events), (State::Up, vec![Event::Up]));
    }

    #[test]
    fn a_late_answer_is_never_taken_for_that_of_the_next_question() {
        // The third answer comes late, after so long; the question after it goes out before that,
        // or after it.
        for late in [1_100, 1_900, 2_100, 2_600, 4_000, 7_000] {
            let mut line = Line::new(2 * SECOND);
            line.run(120 * SECOND, |number| Some(if number == 3 { ms(late) } else { ms(200) }));
            for (at, number) in &line.used {
                assert_eq!(*at, line.asked[*number as usize - 1] + ms(200), "{late} {number}");
            }
            assert!(line.used.len() >= 50, "{late}: {:?}", line.used);
            assert!(line.poller.counters().late >= 1);
        }
    }

    #[test]
    fn a_device_that_answers_in_order_but_slowly_for_a_while_gives_no_shifted_reading() {
        // A queue in the device: each answer waits for the one before it.
        let mut line = Line::new(2 * SECOND);
        line.run(120 * SECOND, |number| Some(if (3..6).contains(&number) { ms(2_500) } else { ms(900) }));
        for (at, number) in &line.used {
            // It is the answer to the last question before it.
            let number = *number as usize;
            assert!(line.asked[number..].first().is_none_or(|next| next > at), "{number}");
        }
        assert!(line.used.len() > 40);
    }

    #[test]
    fn after_three_questions_without_an_answer_it_is_down_and_after_one_answer_it_is_up() {
        let mut line = Line::new(60 * SECOND);
        line.run(30 * SECOND, |_| None);
        // It is not left until the next period.
        assert_eq!(line.poller.state(), State::Down);
        assert_eq!(line.events, [Event::Down { failure: Failure::Silent }]);
        line.run(120 * SECOND, |_| Some(ms(100)));
        assert_eq!((line.poller.state(), line.events.last()), (State::Up, Some(&Event::Up)));
        let before = line.used.len();
        line.run(600 * SECOND, |_| Some(ms(100)));
        assert!((9..=11).contains(&(line.used.len() - before)));
    }

    #[test]
    fn always_later_than_the_longest_wait_is_told_and_gives_no_reading() {
        let mut line = Line::new(60 * SECOND);
        line.run(600 * SECOND, |_| Some(ms(4_500)));
        assert_eq!(line.used.len(), 0);
        let standing = line.poller.standing();
        assert_eq!(standing.beyond, Some((ms(4_500), 4 * SECOND)), "{standing:?}");
        assert!(line.events.iter().any(|event| matches!(event, Event::Late { .. })), "{:?}", line.events);
    }

    #[test]
    fn a_device_whose_answers_always_come_after_the_timeout_is_read_once_that_is_learned() {
        for late in [1_050, 1_500, 2_100, 2_500, 3_500, 3_900] {
            let mut line = Line::new(10 * SECOND);
            line.run(600 * SECOND, |_| Some(ms(late)));
            assert!(line.used.len() >= 45, "{late}: {}", line.used.len());
            for (at, number) in &line.used {
                assert_eq!(*at, line.asked[*number as usize - 1] + ms(late));
            }
            let standing = line.poller.standing();
            assert!(standing.learned > ms(late) && standing.learned <= 4 * SECOND, "{standing:?}");
            assert_eq!((standing.state, standing.beyond), (State::Up, None));
            // The poller after a reload knows it.
            let mut next = Poller::new(line.poller.settings.clone(), None, line.now);
            next.adopt(&mut line.poller, line.now);
            assert_eq!(next.standing().learned, standing.learned);
        }
    }

    #[test]
    fn an_answer_a_little_after_the_usual_timeout_is_taken_whatever_the_period() {
        for period in [1, 2, 3, 5, 10, 60] {
            for late in [1_050, 1_200, 1_500] {
                let mut line = Line::new(period * SECOND);
                line.run(20 * period * SECOND + 60 * SECOND, |_| Some(ms(late)));
                let standing = line.poller.standing();
                assert_eq!((standing.state, standing.failing), (State::Up, None), "{period} {late}");
                assert!(standing.learned > ms(late), "{period} {late} {standing:?}");
                // Two are late before that is known, and one answers a probe.
                let lost = line.asked.len() - line.used.len();
                assert!(lost <= 3, "{period} {late}: {lost} of {}", line.asked.len());
            }
        }
    }

    #[test]
    fn while_two_answers_are_outstanding_one_does_not_free_the_line() {
        let mut line = Line::new(10 * SECOND);
        let poller = &mut line.poller;
        poller.share();
        poller.hold(false);
        // Two questions without an answer.
        let mut at = line.start + 3 * SECOND;
        for outstanding in 1..=2 {
            assert!(poller.handle_timeout(at));
            at = poller.poll_timeout().unwrap();
            assert!(!poller.handle_timeout(at));
            assert_eq!(poller.outstanding.len(), outstanding);
            assert!(poller.turn().quiet_at.is_some());
            at = poller.poll_timeout().unwrap();
        }
        let quiet_at = poller.turn().quiet_at.unwrap();
        assert!(!poller.handle_frame(at - ms(200), b"1"));
        assert_eq!(poller.turn().quiet_at, Some(quiet_at), "that of the other may still come");
        assert!(!poller.handle_frame(at - ms(100), b"2"));
        assert_eq!(poller.turn().quiet_at, None);
    }

    #[test]
    fn a_device_that_answers_every_second_question_is_read_and_is_not_told_as_late() {
        for (period, timeout, least) in
            [(SECOND, ms(300), 170), (10 * SECOND, ms(300), 24), (10 * SECOND, SECOND, 23)]
        {
            let mut line = Line::with(period, timeout);
            line.run(300 * SECOND, |number| number.is_multiple_of(2).then_some(ms(50)));
            // Until it is known, it is not "up".
            assert_eq!(line.events, [Event::Degraded, Event::Up], "{period:?}");
            let standing = line.poller.standing();
            assert_eq!((standing.learned, standing.beyond), (Duration::ZERO, None));
            assert!(line.used.len() >= least, "{period:?} {}", line.used.len());
            for (at, number) in &line.used {
                assert_eq!(*at, line.asked[*number as usize - 1] + ms(50));
            }
        }
    }

    #[test]
    fn a_device_that_measures_seldom_is_read_on_after_a_question_is_lost() {
        let mut line = Line::with(5 * SECOND, ms(300));
        let mut measured: Option<Duration> = None;
        line.run_at(300 * SECOND, |number, at| {
            let is_lost = [5, 40, 50].contains(&number);
            let is_busy = measured.is_some_and(|last| at < last + 4 * SECOND);
            (!is_lost && !is_busy).then(|| {
                measured = Some(at);
                ms(50)
            })
        });
        assert!(line.used.len() >= 48, "{}", line.used.len());
        assert_eq!(line.poller.state(), State::Up);
    }

    #[test]
    fn a_device_that_the_first_question_wakes_is_read_by_the_second() {
        let mut line = Line::with(3 * SECOND, ms(300));
        let mut last: Option<Duration> = None;
        line.run_at(120 * SECOND, |_, at| {
            let is_awake = last.is_some_and(|last| at <= last + 2 * SECOND);
            last = Some(at);
            is_awake.then_some(ms(50))
        });
        assert!(line.used.len() >= 28, "{}", line.used.len());
        assert_eq!(line.poller.state(), State::Up);
    }

    #[test]
    fn a_device_that_a_question_wakes_for_little_longer_than_the_time_out_is_read_by_the_next_one() {
        // (awake for, does an answer keep it awake)
        for (window, is_kept) in [(1_150, false), (1_150, true), (1_500, false), (1_500, true), (2_900, true)]
        {
            for period in [2_u32, 10, 60] {
                let mut line = Line::new(period * SECOND);
                let mut last: Option<Duration> = None;
                line.run_at(120 * SECOND, |_, at| {
                    let is_awake = last.is_some_and(|last| at <= last + ms(window));
                    if !is_awake || is_kept {
                        last = Some(at);
                    }
                    is_awake.then_some(ms(50))
                });
                let (found, standing) = (line.used.len(), line.poller.standing());
                assert_eq!(standing.state, State::Up, "{window} {period}");
                // Its answers are not late, and it is not waited for longer, which it would sleep.
                assert_eq!((standing.learned, standing.late), (Duration::ZERO, Duration::ZERO));
                let before = found;
                line.run_at(20 * period * SECOND, |_, at| {
                    let is_awake = last.is_some_and(|last| at <= last + ms(window));
                    if !is_awake || is_kept {
                        last = Some(at);
                    }
                    is_awake.then_some(ms(50))
                });
                let each = line.used.len() - before;
                // After an answer, which takes a time-out more, it is left alone for a period, or
                // three time-outs.
                let cycle = u64::max(period.into(), 3) * 1_000 + 1_050;
                let least = (20_000 * u64::from(period) / cycle).saturating_sub(1) as usize;
                assert!(each >= least, "{window} {is_kept} {period}: {each}");
                for (at, number) in &line.used {
                    assert_eq!(*at, line.asked[*number as usize - 1] + ms(50));
                }
            }
        }
    }

    #[test]
    fn what_wakes_a_device_goes_out_before_each_question_and_what_it_says_then_is_no_answer() {
        let mut line = Line::new(10 * SECOND);
        let wake = Wake { bytes: vec![0; 3], pause: ms(250) };
        line.poller.settings.wake = Some(wake.clone());
        for count in 0..3 {
            let at = line.poller.poll_timeout().unwrap();
            assert_eq!(at, line.start + SECOND + count * 10 * SECOND);
            assert!(line.poller.handle_timeout(at));
            let mut sent = Vec::new();
            assert!(line.poller.poll_transmit(&mut sent) && sent == wake.bytes);
            assert!(line.poller.is_waking() && line.poller.turn().is_busy);
            assert!(!line.poller.handle_frame(at + ms(20), b"awake"));
            assert!(!line.poller.handle_timeout(at + ms(249)) && !line.poller.poll_transmit(&mut sent));
            let question = at + ms(250);
            assert_eq!(line.poller.poll_timeout(), Some(question));
            assert!(line.poller.handle_timeout(question));
            assert!(line.poller.poll_transmit(&mut sent) && sent == b"A\r");
            // Its time begins with the question.
            assert!(!line.poller.is_waking());
            assert_eq!(line.poller.poll_timeout(), Some(question + SECOND));
            assert!(line.poller.handle_frame(question + ms(900), b"23.5"));
        }
        assert_eq!((line.poller.counters().answers, line.poller.counters().late), (3, 0));
        // A line that is closed while it wakes is no failure, and it is woken anew.
        let at = line.poller.poll_timeout().unwrap();
        assert!(line.poller.handle_timeout(at));
        line.poller.line_down(at + ms(100));
        line.poller.line_up(at + ms(300));
        let again = line.poller.poll_timeout().unwrap();
        assert!(line.poller.handle_timeout(again) && line.poller.is_waking());
        assert_eq!((line.poller.counters().closed, line.poller.counters().questions), (0, 3));
    }

    #[test]
    fn a_device_that_answers_each_question_again_gives_no_shifted_reading() {
        let mut line = Line::new(2 * SECOND);
        line.run(60 * SECOND, |number| number.is_multiple_of(2).then_some(ms(50)));
        let (known, asked) = (line.used.len(), line.asked.len() as u64);
        assert!(known > 5 && line.poller.is_repeated);
        // From now on it answers each, two of three late.
        line.run(120 * SECOND, |number| Some(ms(if number % 3 == 0 { 100 } else { 1_700 })));
        assert!(!line.poller.is_repeated);
        let shifted = line.used[known..].iter().filter(|(at, number)| {
            let next = line.asked.iter().filter(|asked| *asked <= at).count() as u64;
            *number > asked && *number != next
        });
        // At most the one by which that was found.
        assert!(shifted.count() <= 1, "{:?} {:?}", line.used, line.asked);
    }

    #[test]
    fn a_device_that_is_gone_is_waited_for_no_longer_than_is_configured() {
        let mut line = Line::new(10 * SECOND);
        line.run(300 * SECOND, |_| Some(ms(2_000)));
        assert!(line.poller.standing().learned > 2 * SECOND);
        let mut waits = Vec::new();
        let mut asked = None;
        while waits.len() < 8 {
            let at = line.poller.poll_timeout().unwrap();
            waits.extend(asked.map(|asked| at - asked));
            // The next question may go out at once.
            asked = line.poller.handle_timeout(at).then_some(at);
        }
        assert!(waits[..3].iter().all(|wait| *wait > 2 * SECOND), "{waits:?}");
        assert_eq!(waits[3..], [SECOND; 5]);
    }

    #[test]
    fn an_answer_that_is_late_now_and_then_does_not_make_the_wait_longer() {
        let mut line = Line::new(5 * SECOND);
        line.run(600 * SECOND, |number| Some(ms(if number % 4 == 0 { 1_500 } else { 100 })));
        assert!(line.poller.counters().late > 20);
        assert_eq!(line.poller.standing().learned, Duration::ZERO);
    }

    #[test]
    fn a_converter_that_closes_a_connection_when_it_is_idle_does_not_shorten_the_period() {
        let mut line = Line::new(60 * SECOND);
        for _ in 0..120 {
            line.run(ms(5_000), |_| Some(ms(100)));
            line.poller.line_down(line.now);
            line.now += ms(200);
            line.poller.line_up(line.now);
        }
        assert!((10..=12).contains(&line.asked.len()), "{:?}", line.asked);
        // The line may be closed in place of one answer.
        assert!(line.used.len() + 1 >= line.asked.len(), "{:?}", line.used);
    }

    #[test]
    fn how_late_an_answer_is_counts_from_its_own_question_although_others_had_no_answer() {
        let mut line = Line::new(5 * SECOND);
        // Some are lost on the way, then one comes late.
        line.run(58 * SECOND, |number| (number > 5).then(|| ms(1_300)));
        let late: Vec<Duration> = line
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Late { after } => Some(*after),
                _ => None,
            })
            .collect();
        assert!(!late.is_empty() && late.iter().all(|after| *after == ms(1_300)), "{late:?}");
    }

    #[test]
    fn what_comes_unasked_is_counted_and_not_used() {
        let mut line = Line::new(10 * SECOND);
        line.run(5 * SECOND, |_| Some(ms(100)));
        assert!(!line.poller.handle_frame(line.now, b"99"));
        assert_eq!(line.poller.counters().late, 1);
        line.run(60 * SECOND, |_| Some(ms(100)));
        assert_eq!(line.used.len(), 7);
    }

    #[test]
    fn an_echo_of_the_question_is_no_answer_whether_it_is_bytes_or_a_frame() {
        let mut line = Line::new(10 * SECOND);
        let now = line.start + SECOND;
        assert!(line.poller.handle_timeout(now));
        assert!(!line.poller.handle_frame(now, b"A"));
        assert!(line.poller.handle_frame(now, b"23.5"));
        let settings = Settings { echo: true, ..line.poller.settings.clone() };
        for (pieces, expected) in [
            (&[&b"A\r23.5\r"[..]][..], &b"23.5\r"[..]),
            (&[b"A", b"\r", b"23.5\r"], b"23.5\r"),
            (&[b"A", b"1\r"], b"A1\r"),
        ] {
            let mut poller = Poller::new(settings.clone(), None, now);
            poller.line_up(now);
            assert!(poller.handle_timeout(now + SECOND));
            let left: Vec<u8> = pieces.iter().flat_map(|piece| poller.strip_echo(piece)).collect();
            assert_eq!(left, expected);
        }
    }

    #[test]
    fn an_answer_that_has_begun_is_waited_for_and_a_damaged_one_is_not_outstanding() {
        let mut line = Line::new(10 * SECOND);
        let now = line.start + SECOND;
        assert!(line.poller.handle_timeout(now));
        line.poller.handle_part(now + ms(900), None);
        assert!(!line.poller.handle_timeout(now + SECOND));
        assert!(line.poller.handle_frame(now + ms(1_300), b"slow"));
        let next = line.poller.poll_timeout().unwrap();
        assert!(line.poller.handle_timeout(next));
        line.poller.handle_damage();
        line.poller.handle_timeout(next + SECOND);
        assert_eq!((line.poller.counters().damaged, line.poller.outstanding.len()), (1, 0));
        // So its next answer is used.
        let again = line.poller.poll_timeout().unwrap();
        assert!(line.poller.handle_timeout(again));
        assert!(line.poller.handle_frame(again + ms(10), b"good"));
    }

    #[test]
    fn answers_that_are_no_reading_make_it_degraded() {
        let mut line = Line::new(10 * SECOND);
        (0..3).for_each(|_| line.poller.handle_reading(false));
        assert_eq!(line.poller.state(), State::Degraded);
        line.poller.handle_reading(true);
        assert_eq!(line.poller.state(), State::Up);
    }

    #[test]
    fn a_question_in_place_of_whose_answer_the_line_is_closed_has_failed() {
        let mut line = Line::new(10 * SECOND);
        for count in 1..=3 {
            let at = line.poller.poll_timeout().unwrap();
            assert!(line.poller.handle_timeout(at));
            assert_eq!(line.poller.state(), State::Unknown);
            line.poller.line_down(at + ms(20));
            // That it cannot be opened is no further failure.
            line.poller.line_down(at + ms(120));
            assert_eq!(line.poller.counters().closed, count);
            line.poller.line_up(at + ms(200));
        }
        assert_eq!((line.poller.state(), line.poller.failing()), (State::Down, Some(Failure::Closed)));
        assert_eq!(line.poller.poll_event(), Some(Event::Down { failure: Failure::Closed }));
        let at = line.poller.poll_timeout().unwrap();
        assert!(line.poller.handle_timeout(at));
        assert!(!line.poller.handle_frame(at + ms(50), b"may be an earlier one"));
        let at = line.poller.poll_timeout().unwrap();
        assert!(line.poller.handle_timeout(at) || line.poller.handle_timeout(at + 10 * SECOND));
        assert!(line.poller.handle_frame(at + 10 * SECOND + ms(50), b"23.5"));
        line.poller.handle_reading(true);
        assert_eq!((line.poller.state(), line.poller.failing()), (State::Up, None));
    }

    #[test]
    fn what_comes_on_the_next_connection_of_an_answer_that_had_begun_is_not_used() {
        for gone in [ms(200), 20 * SECOND, 3_600 * SECOND] {
            let mut line = Line::new(10 * SECOND);
            let at = line.poller.poll_timeout().unwrap();
            assert!(line.poller.handle_timeout(at));
            line.poller.handle_part(at + ms(20), None);
            line.poller.line_down(at + ms(30));
            let opened = at + gone;
            line.poller.line_up(opened);
            let again = line.poller.poll_timeout().unwrap();
            assert!(again >= opened + SECOND);
            assert!(line.poller.handle_timeout(again));
            assert!(!line.poller.handle_frame(again + ms(50), b"the rest"));
            assert!(!line.poller.handle_frame(again + ms(60), b"and the next"));
            let at = line.poller.poll_timeout().unwrap();
            // Time during which the line was closed does not make the wait longer.
            assert!(at <= again + 10 * SECOND, "{gone:?}");
            assert!(line.poller.handle_timeout(at));
            assert!(line.poller.handle_frame(at + ms(50), b"its own"));
        }
    }

    #[test]
    fn after_a_reload_the_answer_to_a_question_of_before_is_not_used() {
        let settings = Line::new(10 * SECOND).poller.settings;
        let mut line = Line::new(10 * SECOND);
        let at = line.poller.poll_timeout().unwrap();
        assert!(line.poller.handle_timeout(at));
        // The same device, its settings changed.
        let mut next = Poller::new(settings.clone(), None, at);
        let mut other = Poller::new(settings, None, at);
        other.await_rest(line.poller.still_to_come(at));
        next.adopt(&mut line.poller, at + ms(10));
        next.line_up(at + ms(100));
        // Another device on the line as well.
        other.line_up(at + ms(100));
        for poller in [&mut next, &mut other] {
            assert!(!poller.handle_frame(at + ms(2_900), b"late"));
            let again = poller.poll_timeout().unwrap();
            assert!(again >= at + ms(3_000), "{:?}", again - at);
            assert!(poller.handle_timeout(again));
            assert!(poller.handle_frame(again + ms(50), b"its own"));
        }
    }

    #[test]
    fn a_line_that_is_closed_before_each_question_is_asked_at_once_or_told_as_down() {
        // Open for 100 ms each time, less than the answer to an earlier question is listened for.
        let mut line = Line::new(SECOND);
        let mut now = line.now;
        let mut used = 0;
        for _ in 0..20 {
            line.poller.line_down(now + ms(100));
            now += ms(300);
            line.poller.line_up(now);
            let at = line.poller.poll_timeout().unwrap();
            if at < now + ms(100) && line.poller.handle_timeout(at) {
                used += u32::from(line.poller.handle_frame(at + ms(20), b"23.5"));
            }
        }
        assert!(used >= 4, "{used}");
        // Closed at once each time.
        let mut line = Line::new(SECOND);
        let mut now = line.now;
        for _ in 0..20 {
            line.poller.line_down(now);
            now += ms(300);
            line.poller.line_up(now);
        }
        assert_eq!(line.poller.state(), State::Down);
        assert_eq!(line.poller.poll_event(), Some(Event::Down { failure: Failure::Closed }));
        assert_eq!(line.poller.poll_event(), None);
    }

    #[test]
    fn a_line_that_is_closed_again_and_again_within_a_period_does_not_make_the_device_down() {
        let mut line = Line::new(60 * SECOND);
        line.run(5 * SECOND, |_| Some(ms(100)));
        assert_eq!(line.poller.state(), State::Up);
        for _ in 0..40 {
            line.poller.line_down(line.now);
            line.now += ms(300);
            line.poller.line_up(line.now);
        }
        assert_eq!((line.poller.state(), line.poller.poll_event()), (State::Up, None));
    }

    #[test]
    fn a_converter_that_closes_after_each_answer_does_not_shorten_the_period() {
        let mut line = Line::new(10 * SECOND);
        let mut asked = Vec::new();
        for _ in 0..5 {
            let at = line.poller.poll_timeout().unwrap();
            assert!(line.poller.handle_timeout(at));
            asked.push(at - line.start);
            assert!(line.poller.handle_frame(at + ms(50), b"23.5"));
            line.poller.line_down(at + ms(60));
            line.poller.line_up(at + ms(200));
        }
        assert_eq!(asked, [SECOND, 11 * SECOND, 21 * SECOND, 31 * SECOND, 41 * SECOND]);
    }

    #[test]
    fn a_closed_port_counts_no_failure_and_asks_again_when_it_is_back() {
        let mut line = Line::new(10 * SECOND);
        line.run(2 * SECOND, |_| Some(ms(100)));
        line.poller.line_down(line.now);
        assert_eq!(line.poller.poll_timeout(), None);
        let now = line.now + 600 * SECOND;
        line.poller.line_up(now);
        assert_eq!(line.poller.poll_timeout(), Some(now + SECOND));
        assert_eq!(line.poller.counters().silent, 0);
    }
}
