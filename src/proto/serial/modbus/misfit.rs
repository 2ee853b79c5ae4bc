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
    /// It may be the late answer to an earlier request on the line, which asked for as many.
    pub may_be_late: bool,
}

impl Misfit {
    /// Whether it says how many registers it has, and not how many bytes.
    pub fn counts_registers(&self) -> bool {
        let is_half = self.announced.is_some_and(|announced| 2 * usize::from(announced) == self.bytes);
        is_half
            && matches!(self.function, 3 | 4)
            && (self.function, self.bytes) == (self.asked_function, self.asked)
    }

    /// Whether `answer-bytes` makes such an answer readable: it is no late one, and as long as the
    /// key allows.
    pub fn may_be_configured(&self) -> bool {
        let is_whole = self.function == self.asked_function && self.announced.is_none();
        is_whole && !self.may_be_late && (1..=250).contains(&self.bytes)
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Misfit { function, asked_function, bytes, asked, announced, .. } = self;
        if let Some(announced) = announced {
            write!(f, "its answers have {bytes} bytes of data and say that they have {announced}")?;
            if self.counts_registers() {
                f.write_str(", as many as registers; set byte-count = \"registers\"")?;
            }
            Ok(())
        } else if function == asked_function {
            write!(f, "it answers {bytes} bytes where {asked} are asked for")
        } else {
            write!(f, "it answers with function {function} where {asked_function} is asked for")
        }
    }
}
