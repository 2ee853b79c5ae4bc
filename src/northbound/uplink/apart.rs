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

/// Connections of a check beside this one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    until: Option<Instant>,
    ended: bool,
}

impl Beside {
    /// They are made until then; `None`: no more. Whether they ended this connection since they
    /// were announced.
    pub fn announce(&mut self, until: Option<Instant>) -> bool {
        let ended = self.ended;
        *self = Beside { until, ended: ended && until.is_some() };
        ended
    }

    /// The broker ended this connection. Until when that is for theirs, if it is.
    pub fn handle_ended(&mut self, now: Instant) -> Option<Instant> {
        let until = self.until.filter(|until| now < *until)?;
        self.ended = true;
        Some(until)
    }
}
