//! How a request to a unit fails, and what that says of the unit.

use std::fmt;

use super::learn::Obstacle;
use super::pdu::Exception;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The unit did not respond.
    Silent,
    /// Bytes without a valid frame came: a damaged response, or noise.
    Damaged,
    /// The unit responded with another function or length than was asked for.
    Misfit,
    /// Only frames of this address came, which is not the unit's.
    Foreign(u8),
    /// The connection was closed in place of a response.
    Closed,
    /// A gateway of Modbus TCP responded that the unit does not.
    Gateway(Exception),
}

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

/// How a unit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// How its last request failed.
    pub failure: Failure,
    /// With [`Failure::Misfit`]: what it answered.
    pub misfit: Option<Misfit>,
    /// A late answer came since the last good one.
    pub is_late: bool,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.failure, self.misfit) {
            (Failure::Misfit, Some(misfit)) => misfit.fmt(f),
            (Failure::Misfit, None) => {
                f.write_str("it answers with another function or length than is asked for")
            }
            (Failure::Silent | Failure::Damaged, _) if self.is_late => {
                f.write_str("its answers come after the timeout; raise timeout")
            }
            (Failure::Silent, _) => f.write_str("it does not answer"),
            (Failure::Foreign(address), _) => {
                write!(f, "answers come from unit address {address} in place of its own")
            }
            (Failure::Closed, _) => f.write_str("the connection is closed in place of an answer"),
            (Failure::Damaged, _) => {
                f.write_str("only damaged answers come; look at baud, parity, polarity and termination")
            }
            (Failure::Gateway(exception), _) => {
                write!(f, "the gateway at the port has no answer from it: {exception}")
            }
        }
    }
}

/// How a request failed: why, and what that says of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) failure: Failure,
    /// As many bytes as an answer has came: then it was this answer that was damaged, and none is
    /// still to come.
    pub(super) came: bool,
    /// And these began as an answer of the unit does: it is not outstanding any more.
    pub(super) is_answer: bool,
    /// Bytes that came and belong to no frame.
    pub(super) bytes: usize,
    /// The first of them is the unit's address.
    pub(super) is_begun: bool,
}

impl Lost {
    /// The obstacle that it is for a read; `None` if it is no property of the read.
    pub(super) fn obstacle(self) -> Option<Obstacle> {
        match self.failure {
            Failure::Silent | Failure::Foreign(_) | Failure::Closed | Failure::Gateway(_) => {
                Some(Obstacle::Silence)
            }
            Failure::Misfit => Some(Obstacle::Misfit),
            // A line without bias makes a byte or two when its direction turns.
            Failure::Damaged if self.bytes <= TURN_MAX && !self.is_begun => Some(Obstacle::Silence),
            Failure::Damaged => None,
        }
    }
}

/// Bytes that a line without bias may make when its direction turns.
const TURN_MAX: usize = 2;
