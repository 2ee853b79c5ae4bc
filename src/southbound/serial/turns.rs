//! Whose turn it is on a line with several devices that must be asked.
//!
//! ```text
//!    ┌──answer, a short gap───────┐
//!  free ──the longest due──> asked ──no answer──> still: a late one may come ──over──> free
//! ```
//!
//! One is asked at a time, and what comes is heard by the one that was asked last. After a question
//! without an answer nobody is asked until its answer cannot come any more
//! ([`Turn::quiet_at`]), so that it is not taken for another's; unless the answers of the
//! device are told from all others' by their first bytes.

use std::time::{Duration, Instant};

use crate::proto::serial::poll::Turn;

/// From an answer to the next question to another device: transceivers turn around.
pub(super) const GAP: Duration = Duration::from_millis(20);

/// The turns of one line.
#[derive(Debug, Default)]
pub struct Turns {
    /// Who was asked last.
    holder: usize,
    is_asked: bool,
    /// For each device: its answers are told from all others'.
    apart: Vec<bool>,
    /// Nobody is asked before.
    free_at: Option<Instant>,
}

impl Turns {
    /// For devices whose messages begin with these bytes; empty: with any.
    pub fn new(starts: &[&[u8]]) -> Turns {
        let differ = |one: &[u8], other: &[u8]| one.iter().zip(other).any(|(one, other)| one != other);
        let is_apart = |at: usize, own: &[u8]| {
            let mut others = starts.iter().enumerate().filter(|(other, _)| *other != at);
            others.all(|(_, other)| differ(own, other))
        };
        let apart = starts.iter().enumerate().map(|(at, own)| is_apart(at, own)).collect();
        Turns { apart, ..Turns::default() }
    }

    /// The port is open: nobody is asked before answers to earlier questions have come.
    pub fn opened(&mut self, members: &[Turn]) {
        self.is_asked = false;
        self.free_at = members.iter().filter_map(|turn| turn.opens_at).max();
    }

    /// Who hears what comes now.
    pub fn listener(&self) -> usize {
        self.holder
    }

    /// Who may ask, or is waiting for its answer; `None`: nobody now.
    pub fn choose(&mut self, now: Instant, members: &[Turn]) -> Option<usize> {
        let held = members.get(self.holder)?;
        if held.is_busy {
            self.is_asked = true;
            return Some(self.holder);
        }
        if std::mem::take(&mut self.is_asked) {
            self.free_at = Some(now + GAP);
        }
        if self.blocked_until(members).is_some_and(|at| at > now) {
            return None;
        }
        // Of those due alike, the next after the one that was asked last.
        let place = |at: usize| (at + members.len() - self.holder - 1) % members.len();
        let due = members.iter().enumerate().filter_map(|(at, turn)| Some((turn.due?, place(at), at)));
        let (_, _, next) = due.filter(|(due, ..)| *due <= now).min()?;
        self.holder = next;
        Some(next)
    }

    /// When [`Turns::choose`] may choose another next.
    pub fn poll_timeout(&self, members: &[Turn]) -> Option<Instant> {
        if members.get(self.holder)?.is_busy {
            return None;
        }
        let due = members.iter().filter_map(|turn| turn.due).min()?;
        Some(self.blocked_until(members).map_or(due, |at| at.max(due)))
    }

    fn blocked_until(&self, members: &[Turn]) -> Option<Instant> {
        let is_apart = self.apart.get(self.holder).copied().unwrap_or_default();
        let quiet_at = members.get(self.holder).and_then(|turn| turn.quiet_at).filter(|_| !is_apart);
        quiet_at.max(self.free_at)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;
    use crate::proto::serial::State;
    use crate::proto::serial::poll::{Failure, Poller, Settings};

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Devices on one line in virtual time; each answers its question with its own number.
    struct Line {
        turns: Turns,
        pollers: Vec<Poller>,
        start: Instant,
        now: Instant,
        /// Who was asked when.
        asked: Vec<(Duration, usize)>,
        /// Who used whose answer when.
        used: Vec<(Duration, usize, usize)>,
        coming: Vec<(Instant, usize)>,
        /// In place of an answer to the nth question of this device the line is closed.
        cut: Box<dyn FnMut(usize, usize) -> bool>,
        /// The answer comes so long after the line is open again.
        late: Option<Duration>,
        /// When the line is closed, and opened, and whose answer is kept meanwhile.
        closing: Option<(Instant, usize)>,
        opening: Option<(Instant, usize)>,
    }

    impl Line {
        fn new(periods: &[Duration], starts: &[&[u8]]) -> Line {
            let now = Instant::now();
            let of = |period: &Duration| {
                let settings = Settings {
                    question: b"A\r".to_vec(),
                    period: *period,
                    timeout: SECOND,
                    echo: false,
                    wake: None,
                };
                let mut poller = Poller::new(settings, None, now);
                poller.share();
                poller.line_up(now);
                poller
            };
            let pollers: Vec<Poller> = periods.iter().map(of).collect();
            let mut turns = Turns::new(starts);
            let members: Vec<Turn> = pollers.iter().map(Poller::turn).collect();
            turns.opened(&members);
            let (asked, used, coming, late, closing, opening) = Default::default();
            let cut = Box::new(|_, _| false);
            Line { turns, pollers, start: now, now, asked, used, coming, cut, late, closing, opening }
        }

        /// Closes or opens the line if it is time.
        fn toggle(&mut self) {
            let now = self.now;
            if let Some((_, of)) = self.closing.take_if(|(at, _)| *at <= now) {
                self.pollers.iter_mut().for_each(|poller| poller.line_down(now));
                self.opening = Some((now + ms(200), of));
            }
            if let Some((_, of)) = self.opening.take_if(|(at, _)| *at <= now) {
                self.pollers.iter_mut().for_each(|poller| poller.line_up(now));
                self.turns.opened(&self.members());
                self.coming.extend(self.late.map(|late| (now + late, of)));
            }
        }

        fn members(&self) -> Vec<Turn> {
            self.pollers.iter().map(Poller::turn).collect()
        }

        fn step(&mut self) {
            let members = self.members();
            let chosen = self.turns.choose(self.now, &members);
            for (at, poller) in self.pollers.iter_mut().enumerate() {
                poller.hold(chosen != Some(at));
            }
        }

        /// `answer`: of the nth question of this device, how long it takes.
        fn run(&mut self, time: Duration, mut answer: impl FnMut(usize, usize) -> Option<Duration>) {
            let end = self.now + time;
            let mut standing = 0;
            loop {
                let timers = self.pollers.iter().filter_map(Poller::poll_timeout);
                let turn = self.turns.poll_timeout(&self.members());
                let arrivals = self.coming.iter().map(|(at, _)| *at);
                let toggles = [self.closing, self.opening].into_iter().flatten().map(|(at, _)| at);
                let all = timers.chain(turn).chain(arrivals).chain(toggles);
                let next = all.min().unwrap().max(self.now);
                if next > end {
                    break;
                }
                standing = if next > self.now { 0 } else { standing + 1 };
                assert!(standing < 100, "time stands still");
                self.now = next;
                self.toggle();
                if let Some(index) = self.coming.iter().position(|(at, _)| *at <= next) {
                    let (_, of) = self.coming.remove(index);
                    let listener = self.turns.listener();
                    if self.pollers[listener].handle_frame(next, of.to_string().as_bytes()) {
                        self.pollers[listener].handle_reading(true);
                        self.used.push((next - self.start, listener, of));
                    }
                }
                self.step();
                for (at, poller) in self.pollers.iter_mut().enumerate() {
                    poller.handle_timeout(next);
                    let mut sent = Vec::new();
                    if poller.poll_transmit(&mut sent) {
                        self.asked.push((next - self.start, at));
                        let count = self.asked.iter().filter(|(_, of)| *of == at).count();
                        if (self.cut)(at, count) {
                            self.closing = Some((next + ms(50), at));
                            continue;
                        }
                        self.coming.extend(answer(at, count).map(|after| (next + after, at)));
                    }
                }
                self.step();
            }
            self.now = end;
        }

        fn count(&self, of: usize) -> usize {
            self.used.iter().filter(|(_, by, whose)| (*by, *whose) == (of, of)).count()
        }

        fn exchanged(&self) -> usize {
            self.used.iter().filter(|(_, by, whose)| by != whose).count()
        }
    }

    #[test]
    fn of_those_that_are_due_alike_the_next_after_the_one_asked_last_is_asked() {
        let now = Instant::now();
        let turn = Turn { is_busy: false, due: Some(now), quiet_at: None, opens_at: None };
        let mut turns = Turns::new(&[b"", b"", b""]);
        turns.opened(&[turn; 3]);
        let order: Vec<_> = (0..6).map(|_| turns.choose(now, &[turn; 3])).collect();
        assert_eq!(order, [1, 2, 0, 1, 2, 0].map(Some));
    }

    #[test]
    fn each_is_asked_in_its_own_period_and_one_at_a_time() {
        let mut line = Line::new(&[2 * SECOND, 5 * SECOND, 10 * SECOND], &[b"", b"", b""]);
        // Answers to questions of before are waited for 3 s.
        line.run(103 * SECOND, |_, _| Some(ms(300)));
        assert_eq!((line.count(0), line.count(1), line.count(2)), (50, 20, 10));
        assert_eq!(line.exchanged(), 0);
        assert!(line.asked.windows(2).all(|pair| pair[1].0 >= pair[0].0 + ms(300) + GAP));
    }

    #[test]
    fn a_silent_one_is_down_and_costs_the_others_little() {
        let mut line = Line::new(&[2 * SECOND, 2 * SECOND, 2 * SECOND], &[b"", b"", b""]);
        line.run(1_000 * SECOND, |at, _| (at != 1).then(|| ms(100)));
        assert_eq!(line.pollers[1].state(), State::Down);
        // It takes 4 s of each minute.
        assert!(line.count(0) > 440 && line.count(2) > 440, "{} {}", line.count(0), line.count(2));
        assert!(line.asked.iter().filter(|(_, at)| *at == 1).count() > 14);
        // It is back: within a minute it is read again.
        let before = line.count(1);
        line.run(61 * SECOND, |_, _| Some(ms(100)));
        assert!(line.count(1) > before);
        assert_eq!(line.pollers[1].state(), State::Up);
    }

    #[test]
    fn with_all_but_one_silent_that_one_is_read() {
        let mut line = Line::new(&[SECOND; 8], &[&b""[..]; 8]);
        line.run(600 * SECOND, |at, _| (at == 3).then(|| ms(100)));
        // Seven silent ones take 4 s of each minute each.
        assert!(line.count(3) > 200, "{}", line.count(3));
    }

    #[test]
    fn a_late_answer_is_never_taken_for_anothers() {
        for late in [1_050, 1_500, 2_000, 2_900, 3_900] {
            for starts in [[&b""[..], b"", b""], [b"a", b"a", b"b"]] {
                let mut line = Line::new(&[2 * SECOND, 2 * SECOND, 3 * SECOND], &starts);
                let of = |at: usize, count: usize| {
                    let is_late = at == 0 && count.is_multiple_of(4) || at == 1 && count.is_multiple_of(7);
                    Some(ms(if is_late { late } else { 200 }))
                };
                line.run(600 * SECOND, of);
                assert_eq!(line.exchanged(), 0, "{late}");
                assert!((0..3).all(|at| line.count(at) > 50), "{late} {:?}", line.used.len());
                assert!(line.pollers[0].counters().late > 10);
            }
        }
    }

    #[test]
    fn a_late_answer_on_the_next_connection_is_never_taken_for_anothers() {
        for late in [50, 400, 800, 1_100, 1_900, 2_500, 2_900] {
            for at in 0..3 {
                for starts in [[&b""[..], b"", b""], [b"a", b"a", b"b"]] {
                    let mut line = Line::new(&[2 * SECOND, 2 * SECOND, 3 * SECOND], &starts);
                    line.late = Some(ms(late));
                    line.cut = Box::new(move |of, count| of == at && count.is_multiple_of(4));
                    line.run(600 * SECOND, |_, _| Some(ms(200)));
                    assert_eq!(line.exchanged(), 0, "{late} {at}");
                    assert!((0..3).all(|of| line.count(of) > 50), "{late} {at} {}", line.count(at));
                    assert!(line.pollers[at].counters().closed > 10);
                }
            }
        }
    }

    #[test]
    fn a_late_answer_is_never_taken_for_anothers_although_the_line_is_closed_while_it_is_awaited() {
        // The line is closed for one, then 1 s after its opening again, and its answer comes after
        // that.
        let mut line = Line::new(&[2 * SECOND, 2 * SECOND], &[b"", b""]);
        line.cut = Box::new(|of, count| of == 0 && count.is_multiple_of(4));
        for _ in 0..100 {
            line.run(SECOND, |_, _| Some(ms(200)));
            let is_awaited = line.pollers.iter().any(|poller| poller.turn().quiet_at.is_some());
            if is_awaited && line.opening.is_none() && line.closing.is_none() {
                line.run(ms(500), |_, _| Some(ms(200)));
                line.closing = Some((line.now, 0));
                line.late = Some(ms(1_000));
                line.run(SECOND, |_, _| Some(ms(200)));
                line.late = None;
            }
        }
        assert_eq!(line.exchanged(), 0);
        assert!(line.pollers[0].counters().late > 2, "{:?}", line.pollers[0].counters());
        assert!(line.count(1) > 20);
    }

    #[test]
    fn one_for_which_the_line_is_closed_is_down_and_the_others_are_asked() {
        for closer in 0..3 {
            let mut line = Line::new(&[SECOND; 3], &[&b""[..]; 3]);
            line.cut = Box::new(move |of, _| of == closer);
            line.run(120 * SECOND, |_, _| Some(ms(100)));
            assert_eq!(line.pollers[closer].state(), State::Down);
            assert_eq!(line.pollers[closer].failing(), Some(Failure::Closed));
            let others = (0..3).filter(|at| *at != closer);
            others.for_each(|at| assert!(line.count(at) > 60, "{closer} {at} {}", line.count(at)));
            // It is asked on, once a minute.
            let asked = line.asked.iter().filter(|(_, at)| *at == closer).count();
            assert!((5..12).contains(&asked), "{asked}");
        }
    }

    #[test]
    fn with_all_but_one_closing_the_line_that_one_is_read_whatever_its_timeout() {
        for timeout in [ms(100), SECOND, 5 * SECOND] {
            let mut line = Line::new(&[SECOND; 4], &[&b""[..]; 4]);
            line.pollers[3] = Poller::new(
                Settings { question: b"A\r".to_vec(), period: SECOND, timeout, echo: false, wake: None },
                None,
                line.now,
            );
            line.pollers[3].share();
            line.pollers[3].line_up(line.now);
            line.turns.opened(&line.members());
            line.cut = Box::new(|of, _| of != 3);
            line.run(600 * SECOND, |_, _| Some(ms(50)));
            assert!(line.count(3) > 200, "{timeout:?} {}", line.count(3));
        }
    }

    #[test]
    fn where_the_first_bytes_tell_answers_apart_nobody_waits_for_a_late_one() {
        let silent = |at: usize, _: usize| (at != 1).then(|| ms(100));
        let mut apart = Line::new(&[SECOND, SECOND], &[b"\x01\x02", b"\x01\x03"]);
        apart.run(8 * SECOND, silent);
        let mut alike = Line::new(&[SECOND, SECOND], &[b"\x01", b"\x01\x03"]);
        alike.run(8 * SECOND, silent);
        assert!(apart.count(0) > alike.count(0), "{} {}", apart.count(0), alike.count(0));
    }

    #[test]
    fn an_answer_to_a_question_of_an_earlier_process_is_not_taken_for_anothers() {
        for stale in [500, 1_200, 1_500, 2_000, 2_900] {
            let mut line = Line::new(&[2 * SECOND, 2 * SECOND], &[b"", b""]);
            line.coming.push((line.now + ms(stale), 1));
            line.run(60 * SECOND, |_, _| Some(ms(900)));
            assert_eq!(line.exchanged(), 0, "{stale}");
            assert!(line.count(0) > 20 && line.count(1) > 20);
        }
    }

    #[test]
    fn one_that_is_always_late_is_read_once_that_is_learned_and_never_taken_for_another() {
        for late in [1_100, 1_900, 2_900] {
            let mut line = Line::new(&[10 * SECOND, 10 * SECOND, 10 * SECOND], &[b"", b"", b""]);
            line.run(900 * SECOND, |at, _| Some(ms(if at == 1 { late } else { 200 })));
            assert_eq!(line.exchanged(), 0, "{late}");
            assert!((0..3).all(|of| line.count(of) > 70), "{late}: {}", line.count(1));
        }
    }
}
