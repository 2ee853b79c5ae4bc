//! What `tombolo check` has the gateway do, and what it does beside it.
//!
//! Some brokers take the client id from the user name or from the certificate: to them a connection
//! of the check's own is the gateway's, and ends it. So where the gateway is connected with the
//! same account it publishes for the check itself ([`ReadingTrial`]), alone on its connection: a
//! broker that closes it over that brings no reading under suspicion. Where the files say another
//! account the check connects beside it, and says so before ([`Beside`]).

use std::time::Instant;

/// What became of a publish for the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadingAnswer {
    /// PUBACK, with this reason code.
    Acknowledged(u8),
    /// The broker closed the connection over it.
    Closed,
    /// There was no answer in time.
    Silent,
    /// It is larger than the broker takes.
    TooLarge,
    /// It was not sent: the connection ended before, or what was in flight was not answered.
    Unsent,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Trial {
    #[default]
    None,
    Wanted {
        topic: String,
        retain: bool,
    },
    Sent,
    Answered(ReadingAnswer),
}

/// A publish that the check wants.
#[derive(Debug, Default)]
pub struct ReadingTrial(Trial);

impl ReadingTrial {
    /// One is wanted on this topic. False: another one is under way.
    pub fn want(&mut self, topic: &str, retain: bool) -> bool {
        // An answer that nobody took is nobody's.
        let is_free = matches!(self.0, Trial::None | Trial::Answered(_));
        if is_free {
            self.0 = Trial::Wanted { topic: topic.to_owned(), retain };
        }
        is_free
    }

    /// The one that waits; it counts as sent.
    pub fn send(&mut self) -> Option<(String, bool)> {
        match std::mem::replace(&mut self.0, Trial::Sent) {
            Trial::Wanted { topic, retain } => Some((topic, retain)),
            other => {
                self.0 = other;
                None
            }
        }
    }

    /// Whether it was sent and not answered.
    pub fn is_sent(&self) -> bool {
        self.0 == Trial::Sent
    }

    /// Whether it waits to be sent.
    pub fn is_wanted(&self) -> bool {
        matches!(self.0, Trial::Wanted { .. })
    }

    /// What became of it, where there is one under way.
    pub fn conclude(&mut self, answer: ReadingAnswer) {
        if self.is_sent() || self.is_wanted() {
            self.0 = Trial::Answered(answer);
        }
    }

    /// The answer, once.
    pub fn take(&mut self) -> Option<ReadingAnswer> {
        match self.0 {
            Trial::Answered(answer) => {
                self.0 = Trial::None;
                Some(answer)
            }
            _ => None,
        }
    }
}

/// Most checks at a time that are known of; a further one takes the place of the oldest.
const CHECKS_MAX: usize = 8;

/// Connections of checks beside this one. Each check says it again while it lasts, so that one that
/// was killed holds nothing up for long.
#[derive(Clone, Debug, Default)]
pub struct Beside(Vec<Announced>);

#[derive(Clone, Copy, Debug)]
struct Announced {
    by: u32,
    until: Instant,
    /// The broker ended this connection for theirs.
    ended: bool,
}

impl Beside {
    /// Those of the check `by` are made until then; `None`: no more. Whether this connection was
    /// ended since they were announced.
    pub fn announce(&mut self, now: Instant, by: u32, until: Option<Instant>) -> bool {
        let known = self.0.iter().position(|it| it.by == by).map(|at| self.0.remove(at));
        self.0.retain(|it| now < it.until);
        let ended = known.is_some_and(|it| it.ended);
        if let Some(until) = until {
            if self.0.len() == CHECKS_MAX {
                self.0.remove(0);
            }
            self.0.push(Announced { by, until, ended });
        }
        ended
    }

    /// Until when any are made.
    pub fn until(&self) -> Option<Instant> {
        self.0.iter().map(|it| it.until).max()
    }

    /// The broker ended this connection. Until when that is for theirs, if it is.
    pub fn handle_ended(&mut self, now: Instant) -> Option<Instant> {
        self.0.retain(|it| now < it.until);
        self.0.iter_mut().for_each(|it| it.ended = true);
        self.until()
    }
}
