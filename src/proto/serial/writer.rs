//! Commands to a device on a line: framed, written, and answered if the device answers them.
//!
//! ```text
//!  idle ──order──> ready ──the line is free──> sending ──all taken by the port──> over: written
//!                    │ until                     │ until        └─ answer ──> waiting ──a frame matches──> over: answered
//!                    └─> over: not sent          └─> over: timeout               │ time-out
//!                                                                                └─> over: timeout, resting
//! ```
//!
//! One at a time. A frame that the pattern of the answer matches is the answer, and no reading;
//! other frames are what they are without a command. After a time-out the answer may still come:
//! nothing is written, and nothing is asked, for three time-outs, or until it comes.
//!
//! A device may answer twice, and the second answer must not be taken for that to the next command.
//! So after each answer, and after each surplus one, nothing is written for [`SETTLE`]; if one ever
//! came later than that, for twice as long as it took, but not longer than the time-out. A frame
//! that the pattern matches and that answers nothing is no reading; of a device that is asked, it
//! is one outside that time, for the question may have the same answer.

use std::time::{Duration, Instant};

use regex::bytes::Regex;

/// After a time-out an answer may still come for so many time-outs.
const STILL_TO_COME: u32 = 3;
/// After an answer, another one to the same command may come for so long, at least.
pub const SETTLE: Duration = Duration::from_millis(50);
/// How long the port may take for the bytes of a frame, beyond twice their time on the line.
const WRITE: Duration = Duration::from_secs(5);

/// How commands are written.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the device answers a command with; `None`: it does not answer.
    pub answer: Option<Regex>,
    /// How long that may take; where it does not answer: how long nothing is asked after a command.
    /// Default 1 s.
    pub timeout: Duration,
    /// The line repeats what is sent.
    pub echo: bool,
}

impl Settings {
    /// Default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
}

impl PartialEq for Settings {
    fn eq(&self, other: &Settings) -> bool {
        let text = |settings: &Settings| settings.answer.as_ref().map(|answer| answer.as_str().to_owned());
        (text(self), self.timeout, self.echo) == (text(other), other.timeout, other.echo)
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it was taken by the port.
    Written,
    /// The device answered with this frame.
    Answered(Vec<u8>),
    /// It did not, or the port did not take all bytes: it may have been carried out.
    Timeout(String),
    /// The line was not free in time: nothing was sent.
    Unasked(String),
    /// The line was closed meanwhile: it may have been carried out.
    Unknown,
    /// The line was closed before it was sent.
    Unsent,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What it is without commands.
    Other,
    /// The answer, or the echo, of the command that is under way.
    Command,
    /// An answer to no command that is under way: it comes late, or a second time.
    Late,
}

/// A command to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its number.
    pub number: u64,
    /// The bytes on the line.
    pub frame: Vec<u8>,
    /// The frame as it would be received.
    pub payload: Vec<u8>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// Not before `since`; until then an answer to the one before may come.
    Ready {
        command: Command,
        since: Instant,
        until: Instant,
        is_owed: bool,
        is_rested: bool,
    },
    Sending {
        command: Command,
        since: Instant,
        until: Instant,
        is_handed: bool,
        is_taken: bool,
    },
    Waiting {
        command: Command,
        until: Instant,
    },
    Resting {
        until: Instant,
        is_owed: bool,
    },
}

/// Surplus answers of a device.
#[derive(Clone, Copy, Debug)]
struct Surplus {
    /// How long nothing is written after an answer.
    settle: Duration,
    /// When the last command was answered.
    answered_at: Option<Instant>,
    /// Until then another answer may come; surplus ones put it off, to `most` at most.
    until: Option<Instant>,
    most: Option<Instant>,
}

/// The commands to one device.
#[derive(Debug)]
pub struct Writer {
    settings: Settings,
    phase: Phase,
    over: Option<(u64, Sent)>,
    is_echo_seen: bool,
    surplus: Surplus,
    /// The device is asked, too, and its answers may look alike.
    is_asked: bool,
}

impl Writer {
    /// Nothing is to be written.
    pub fn new(settings: Settings, is_asked: bool) -> Writer {
        let surplus = Surplus { settle: SETTLE, answered_at: None, until: None, most: None };
        Writer { settings, phase: Phase::Idle, over: None, is_echo_seen: false, surplus, is_asked }
    }

    /// Whether the device answers commands.
    pub fn is_answered(&self) -> bool {
        self.settings.answer.is_some()
    }

    /// Takes a command, which is begun within `within` or not at all. Whether it is taken.
    pub fn write(&mut self, now: Instant, command: Command, within: Duration) -> bool {
        if self.over.is_some() || !matches!(self.phase, Phase::Idle | Phase::Resting { .. }) {
            return false;
        }
        // What may still come of the one before is waited for.
        let (rest, is_owed) = match self.phase {
            Phase::Resting { until, is_owed } => (until, is_owed),
            _ => (now, false),
        };
        let (since, until) = (rest.max(now), now + within);
        // The end of a rest lets questions go on, too, also if it is over just now.
        let is_rested = matches!(self.phase, Phase::Idle);
        self.phase = Phase::Ready { command, since, until, is_owed, is_rested };
        true
    }

    /// Since when a command waits for the line; `None`: none does.
    pub fn ready_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ready { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Bytes of the command that waits for the line.
    pub fn frame_length(&self) -> Option<usize> {
        match &self.phase {
            Phase::Ready { command, .. } => Some(command.frame.len()),
            _ => None,
        }
    }

    /// Whether the line is kept for it: nothing may be asked.
    pub fn is_busy(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Idle => false,
            Phase::Ready { since, .. } => now < since,
            Phase::Sending { .. } | Phase::Waiting { .. } | Phase::Resting { .. } => true,
        }
    }

    /// The line is free: the command goes out. `on_line`: how long its bytes take.
    pub fn begin(&mut self, now: Instant, on_line: Duration) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Ready { command, .. } => {
                let until = now + 2 * on_line + WRITE;
                self.is_echo_seen = false;
                let (is_handed, is_taken) = (false, false);
                self.phase = Phase::Sending { command, since: now, until, is_handed, is_taken };
            }
            other => self.phase = other,
        }
    }

    /// Appends the command to the empty `buffer` if it is to be sent now. It is called when all
    /// bytes of before were taken.
    pub fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> bool {
        let Phase::Sending { command, is_handed, is_taken, .. } = &mut self.phase else { return false };
        if *is_handed {
            *is_taken = true;
            return false;
        }
        *is_handed = true;
        buffer.extend_from_slice(&command.frame);
        true
    }

    /// A frame came.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) -> Role {
        let is_match = self.settings.answer.as_ref().is_some_and(|answer| answer.is_match(frame));
        match &self.phase {
            Phase::Sending { command, is_handed: true, .. } | Phase::Waiting { command, .. } => {
                if self.settings.echo && frame == command.payload && !self.is_echo_seen {
                    self.is_echo_seen = true;
                    return Role::Command;
                }
                if !is_match {
                    return Role::Other;
                }
                let number = command.number;
                self.end(number, Sent::Answered(frame.to_vec()));
                self.surplus.answered_at = Some(now);
                self.surplus.most = Some(now + self.settings.timeout * STILL_TO_COME);
                self.settle(now);
                Role::Command
            }
            Phase::Resting { is_owed: true, .. } if is_match => {
                self.phase = Phase::Resting { until: now, is_owed: false };
                self.surplus.answered_at = None;
                self.surplus.most = Some(now + self.settings.timeout * STILL_TO_COME);
                self.settle(now);
                Role::Late
            }
            Phase::Ready { command, until, is_owed: true, .. } if is_match => {
                let (command, until) = (command.clone(), *until);
                self.surplus.most = Some(now + self.settings.timeout * STILL_TO_COME);
                self.phase = Phase::Ready { command, since: now, until, is_owed: false, is_rested: false };
                self.surplus.answered_at = None;
                self.settle(now);
                Role::Late
            }
            _ if !is_match => Role::Other,
            // The answer to a question.
            _ if self.is_asked && self.surplus.until.is_none_or(|until| now >= until) => Role::Other,
            Phase::Idle | Phase::Ready { .. } | Phase::Sending { .. } | Phase::Resting { .. } => {
                if let Some(at) = self.surplus.answered_at {
                    let took = now.saturating_duration_since(at);
                    // One that comes much later is none of that command's.
                    if took <= self.settings.timeout * STILL_TO_COME {
                        let longest = self.settings.timeout.max(SETTLE);
                        self.surplus.settle = self.surplus.settle.max(took * 2).min(longest);
                    }
                }
                self.settle(now);
                Role::Late
            }
        }
    }

    /// Nothing is written for a while: another answer may come.
    fn settle(&mut self, now: Instant) {
        let most = *self.surplus.most.get_or_insert(now + self.settings.timeout * STILL_TO_COME);
        let rest = (now + self.surplus.settle).min(most);
        self.surplus.until = Some(rest);
        match &mut self.phase {
            Phase::Idle => self.phase = Phase::Resting { until: rest, is_owed: false },
            Phase::Resting { until, .. } => *until = rest.max(*until),
            Phase::Ready { since, is_rested, .. } => {
                *since = rest.max(*since);
                *is_rested = false;
            }
            Phase::Sending { .. } | Phase::Waiting { .. } => {}
        }
    }

    fn end(&mut self, number: u64, sent: Sent) {
        self.phase = Phase::Idle;
        self.over = Some((number, sent));
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let timeout = self.settings.timeout;
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Ready { command, until, .. } if now >= until => {
                let why = "the line was not free for it in time";
                self.end(command.number, Sent::Unasked(why.to_owned()));
            }
            Phase::Sending { command, is_taken: true, .. } => match self.is_answered() {
                true => self.phase = Phase::Waiting { command, until: now + timeout },
                false => {
                    self.end(command.number, Sent::Written);
                    self.phase = Phase::Resting { until: now + timeout, is_owed: false };
                }
            },
            Phase::Sending { command, until, is_handed, .. } if now >= until => {
                let sent = match is_handed {
                    true => Sent::Timeout("the port did not take all of its bytes".to_owned()),
                    false => Sent::Unasked("the port did not take it in time".to_owned()),
                };
                self.end(command.number, sent);
            }
            Phase::Waiting { command, until } if now >= until => {
                let shown = humantime::format_duration(timeout);
                let why = format!("no frame that answer matches came within {shown}");
                self.end(command.number, Sent::Timeout(why));
                self.phase = Phase::Resting { until: now + timeout * STILL_TO_COME, is_owed: true };
            }
            Phase::Ready { command, since, until, is_owed, is_rested } => {
                let is_rested = is_rested || now >= since;
                self.phase = Phase::Ready { command, since, until, is_owed, is_rested };
            }
            Phase::Resting { until, .. } if now >= until => {}
            other => self.phase = other,
        }
    }

    /// When [`Writer::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle => None,
            Phase::Sending { is_taken: true, since, .. } => Some(since),
            Phase::Ready { since, until, is_rested: false, .. } => Some(since.min(until)),
            Phase::Ready { until, .. }
            | Phase::Sending { until, .. }
            | Phase::Waiting { until, .. }
            | Phase::Resting { until, .. } => Some(until),
        }
    }

    /// The line was closed, or is given up.
    pub fn line_down(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Ready { command, .. } | Phase::Sending { command, is_handed: false, .. } => {
                self.end(command.number, Sent::Unsent);
            }
            // Without an answer to wait for, that is all that can be known.
            Phase::Sending { command, is_taken: true, .. } if !self.is_answered() => {
                self.end(command.number, Sent::Written);
            }
            Phase::Sending { command, .. } | Phase::Waiting { command, .. } => {
                self.end(command.number, Sent::Unknown);
            }
            Phase::Idle | Phase::Resting { .. } => {}
        }
    }

    /// What became of a command.
    pub fn poll_sent(&mut self) -> Option<(u64, Sent)> {
        self.over.take()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn writer(answer: Option<&str>) -> Writer {
        let answer = answer.map(|answer| Regex::new(answer).unwrap());
        Writer::new(Settings { answer, timeout: SECOND, echo: false }, false)
    }

    fn command(number: u64) -> Command {
        Command { number, frame: b"SET 1\r\n".to_vec(), payload: b"SET 1".to_vec() }
    }

    /// Up to the moment at which the port has taken all bytes.
    fn sent(writer: &mut Writer, now: Instant, number: u64) {
        assert!(writer.write(now, command(number), 60 * SECOND));
        writer.begin(now, SECOND / 10);
        let mut bytes = Vec::new();
        assert!(writer.poll_transmit(&mut bytes) && bytes == b"SET 1\r\n");
        assert!(!writer.poll_transmit(&mut bytes));
        assert!(writer.poll_timeout().is_some_and(|at| at <= now));
        writer.handle_timeout(now);
    }

    #[test]
    fn without_an_answer_it_is_over_when_the_port_has_all_bytes_and_not_before() {
        let now = Instant::now();
        let mut writer = writer(None);
        assert!(writer.write(now, command(1), SECOND));
        assert!(!writer.write(now, command(2), SECOND), "one at a time");
        writer.begin(now, SECOND);
        assert!(writer.poll_transmit(&mut Vec::new()));
        writer.handle_timeout(now + SECOND);
        assert_eq!(writer.poll_sent(), None);
        writer.poll_transmit(&mut Vec::new());
        writer.handle_timeout(now + SECOND);
        assert_eq!(writer.poll_sent(), Some((1, Sent::Written)));
    }

    #[test]
    fn a_port_that_takes_no_bytes_for_ever_ends_in_a_timeout_that_says_so() {
        let now = Instant::now();
        let mut writer = writer(Some("OK"));
        assert!(writer.write(now, command(1), SECOND));
        writer.begin(now, SECOND);
        assert!(writer.poll_transmit(&mut Vec::new()));
        // XOFF: it is not asked for more bytes.
        writer.handle_timeout(now + 2 * SECOND + WRITE);
        assert!(
            matches!(writer.poll_sent(), Some((1, Sent::Timeout(why))) if why.contains("did not take all"))
        );
        // The next one is not even begun.
        assert!(writer.write(now, command(2), SECOND));
        writer.begin(now, SECOND);
        writer.handle_timeout(now + 2 * SECOND + WRITE);
        assert!(matches!(writer.poll_sent(), Some((2, Sent::Unasked(_)))));
        assert!(!writer.poll_transmit(&mut Vec::new()), "and is not sent later");
    }

    #[test]
    fn only_a_frame_that_matches_is_the_answer_and_others_are_readings() {
        let now = Instant::now();
        let mut writer = writer(Some("^(OK|ERR)"));
        sent(&mut writer, now, 7);
        assert_eq!(writer.handle_frame(now, b"T=21.5"), Role::Other);
        assert_eq!(writer.handle_frame(now, b"ERR 3"), Role::Command);
        assert_eq!(writer.poll_sent(), Some((7, Sent::Answered(b"ERR 3".to_vec()))));
        assert_eq!(writer.handle_frame(now, b"OK"), Role::Late, "it is answered once");
    }

    #[test]
    fn a_second_answer_is_neither_a_reading_nor_the_answer_to_the_next_command() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut writer = writer(Some("OK"));
        // The second one comes before the next command is written.
        sent(&mut writer, now, 1);
        assert_eq!(writer.handle_frame(now, b"OK 1"), Role::Command);
        assert!(writer.poll_sent().is_some());
        assert!(writer.write(now, command(2), 60 * SECOND));
        assert_eq!(writer.ready_since(), Some(now + SETTLE));
        assert_eq!(writer.handle_frame(now + ms(10), b"OK 1"), Role::Late);
        assert_eq!(writer.ready_since(), Some(now + ms(10) + SETTLE), "a third may come");
        assert_eq!(writer.handle_frame(now + ms(20), b"T=1"), Role::Other);
        // One that comes later makes the time after the next answers longer.
        let now = now + 10 * SECOND;
        writer.begin(now, ms(10));
        assert!(writer.poll_transmit(&mut Vec::new()) && !writer.poll_transmit(&mut Vec::new()));
        writer.handle_timeout(now);
        assert_eq!(writer.handle_frame(now, b"OK 2"), Role::Command);
        writer.handle_timeout(now + SETTLE);
        assert!(!writer.is_busy(now + SETTLE));
        assert_eq!(writer.handle_frame(now + ms(200), b"OK 2"), Role::Late);
        assert!(writer.poll_sent().is_some());
        sent(&mut writer, now + 2 * SECOND, 3);
        assert_eq!(writer.handle_frame(now + 2 * SECOND, b"OK 3"), Role::Command);
        assert!(writer.poll_sent().is_some() && writer.write(now + 2 * SECOND, command(4), 60 * SECOND));
        assert_eq!(writer.ready_since(), Some(now + 2 * SECOND + ms(400)));
        // A device that never stops answering does not keep commands back for ever.
        for at in 0..100 {
            writer.handle_frame(now + 2 * SECOND + ms(100 * at), b"OK 3");
        }
        assert_eq!(writer.ready_since(), Some(now + 5 * SECOND));
    }

    #[test]
    fn a_command_that_comes_just_when_a_rest_is_over_wants_the_timer_of_that() {
        let now = Instant::now();
        let mut writer = writer(Some("OK"));
        sent(&mut writer, now, 1);
        assert_eq!(writer.handle_frame(now, b"OK"), Role::Command);
        assert!(writer.poll_sent().is_some());
        let late = now + 2 * SETTLE;
        assert!(writer.write(late, command(2), 60 * SECOND));
        assert_eq!((writer.poll_timeout(), writer.is_busy(late)), (Some(late), false));
        writer.handle_timeout(late);
        assert_eq!(writer.poll_timeout(), Some(late + 60 * SECOND));
    }

    #[test]
    fn of_a_device_that_is_asked_an_answer_like_that_to_a_question_is_late_only_for_a_while() {
        let now = Instant::now();
        let answer = Regex::new("OK").ok();
        let mut writer = Writer::new(Settings { answer, timeout: SECOND, echo: false }, true);
        assert_eq!(writer.handle_frame(now, b"OK"), Role::Other, "to a question");
        sent(&mut writer, now, 1);
        assert_eq!(writer.handle_frame(now, b"OK"), Role::Command);
        assert!(writer.is_busy(now), "nothing is asked");
        assert_eq!(writer.handle_frame(now + SETTLE / 2, b"OK"), Role::Late);
        writer.handle_timeout(now + 2 * SETTLE);
        assert!(!writer.is_busy(now + 2 * SETTLE));
        assert_eq!(writer.handle_frame(now + 2 * SETTLE, b"OK"), Role::Other);
    }

    #[test]
    fn a_late_answer_is_not_taken_for_that_to_the_next_command() {
        let now = Instant::now();
        let mut writer = writer(Some("OK"));
        sent(&mut writer, now, 1);
        writer.handle_timeout(now + SECOND);
        assert!(matches!(writer.poll_sent(), Some((1, Sent::Timeout(_)))));
        assert!(writer.is_busy(now + SECOND) && writer.handle_frame(now, b"T=1") == Role::Other);
        assert_eq!(writer.handle_frame(now + 2 * SECOND, b"OK"), Role::Late, "it is no reading");
        let settled = now + 2 * SECOND + SETTLE;
        writer.handle_timeout(settled);
        assert!(!writer.is_busy(settled) && writer.poll_sent().is_none());
        // Where none comes, the next command waits that long.
        sent(&mut writer, now + 3 * SECOND, 2);
        writer.handle_timeout(now + 4 * SECOND);
        assert!(writer.poll_sent().is_some());
        assert!(writer.write(now + 4 * SECOND, command(3), 60 * SECOND));
        assert_eq!(writer.ready_since(), Some(now + 7 * SECOND));
        assert!(writer.is_busy(now + 6 * SECOND) && !writer.is_busy(now + 7 * SECOND));
        assert_eq!(writer.handle_frame(now + 5 * SECOND, b"OK"), Role::Late);
        assert_eq!(writer.ready_since(), Some(now + 5 * SECOND + SETTLE), "it has come");
    }

    #[test]
    fn an_echo_is_not_the_answer_and_a_device_that_answers_with_the_command_is_heard() {
        let now = Instant::now();
        let mut writer = writer(Some("SET"));
        writer.settings.echo = true;
        sent(&mut writer, now, 1);
        assert!(writer.handle_frame(now, b"SET 1") == Role::Command && writer.poll_sent().is_none());
        assert_eq!(writer.handle_frame(now, b"SET 1"), Role::Command);
        assert!(matches!(writer.poll_sent(), Some((1, Sent::Answered(_)))));
    }

    #[test]
    fn a_line_that_is_closed_says_whether_it_may_have_been_carried_out() {
        let now = Instant::now();
        let mut ready = writer(None);
        assert!(ready.write(now, command(1), SECOND));
        ready.line_down();
        assert_eq!(ready.poll_sent(), Some((1, Sent::Unsent)));
        let mut waiting = writer(Some("OK"));
        sent(&mut waiting, now, 2);
        waiting.line_down();
        assert_eq!(waiting.poll_sent(), Some((2, Sent::Unknown)));
    }
}
