//! An answer that does not fit its request.

use std::fmt;

/// An answer of another length or function than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The function code of the answer; above 127 it is an exception.
    pub function: u8,
    /// The function code of the request.
    pub asked_function: u8,
    /// Bytes of data it answered with.
    pub bytes: usize,
    /// Bytes of data that were asked for.
    pub asked: usize,
    /// Bytes of data that it says it has, if it has another number.
    pub announced: Option<u8>,
}

impl Misfit {
    /// Whether `answer-bytes` makes such an answer readable.
    pub fn may_be_configured(&self) -> bool {
        self.function == self.asked_function && self.announced.is_none() && (1..=250).contains(&self.bytes)
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Misfit { function, asked_function, bytes, asked, announced } = self;
        if let Some(announced) = announced {
            write!(f, "its answers have {bytes} bytes of data and say that they have {announced}")
        } else if function == asked_function {
            write!(f, "it answers {bytes} bytes where {asked} are asked for")
        } else {
            write!(f, "it answers with function {function} where {asked_function} is asked for")
        }
    }
}
