//! How a request to a unit fails, and what that says of the unit.

use std::fmt;
use std::time::Duration;

use super::super::timeout_advised_ms;
use super::learn::Obstacle;
use super::misfit::Misfit;
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
    /// Responses of Modbus TCP came whose transaction identifier is that of no request.
    Misnumbered,
    /// A gateway of Modbus TCP responded that the unit does not.
    Gateway(Exception),
    /// Another master asked the unit meanwhile: what came may be the answer to it.
    Intruded,
    /// More answers to earlier requests may come on the line than can be reckoned with.
    OutOfStep,
}

/// What is between the bus and the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// A serial port of the machine.
    #[default]
    Line,
    /// A converter in the network that hands on the bytes of the line.
    Network,
    /// A peer of Modbus TCP.
    Header,
    /// One whose transaction identifiers say nothing.
    Unnumbered,
}

impl Medium {
    /// Whether a gateway may have given up what failed so, and still hand on the answer in place of
    /// another one: each that is not the line itself may; and one that says so, wherever it is.
    pub(super) fn gives_up(self, failure: Failure) -> bool {
        self != Medium::Line || matches!(failure, Failure::Gateway(_))
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
    /// A late answer came in place of its own, as if it were that.
    pub is_displaced: bool,
    /// Its answers come one request late.
    pub is_behind: bool,
    /// How late the last one was, and the longest wait, if that is beyond it.
    pub beyond: Option<(Duration, Duration)>,
    /// Its frames came while the unit of this address was asked.
    pub crossed: Option<u8>,
    /// What is between.
    pub medium: Medium,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beyond = self.beyond.filter(|_| self.medium != Medium::Header);
        match (self.failure, self.misfit) {
            (Failure::Silent | Failure::Damaged | Failure::Misfit, _) if self.is_behind => f.write_str(
                "its answers come one request late: the converter delivers each with the next request; restart it \
                 or replace it",
            ),
            (Failure::Misfit, Some(misfit)) => misfit.fmt(f),
            (Failure::Misfit, None) => {
                f.write_str("it answers with another function or length than is asked for")
            }
            (Failure::OutOfStep, _) => f.write_str(
                "answers come later than can be reckoned with, so none is used until the line is in step again; \
                 restart the converter or gateway, which clears its buffer, or raise the timeout of its line",
            ),
            (Failure::Intruded, _) => f.write_str(
                "another master asks it at the same time, so nobody knows whose answers come; let one of the two \
                 ask less often",
            ),
            (Failure::Silent | Failure::Damaged, _) if self.is_displaced && self.medium == Medium::Header => f
                .write_str(
                    "the answer to an earlier request came with the transaction identifier of the present one: the \
                     gateway at the port is late; raise the timeout of its line, or restart it",
                ),
            (Failure::Silent | Failure::Damaged, _) if self.is_late && self.medium == Medium::Header => f
                .write_str(
                    "its answers carry the transaction identifier of an earlier request: they come after the \
                     timeout (raise timeout), or the peer does not copy it (transaction-id = \"ignore\" under modbus)",
                ),
            (Failure::Silent | Failure::Damaged, _) if beyond.is_some() => {
                let (after, most) = beyond.unwrap_or_default();
                write!(
                    f,
                    "its answers come {} ms after the request, later than the longest wait ({} ms); raise timeout, \
                     to {}ms",
                    after.as_millis(),
                    most.as_millis(),
                    timeout_advised_ms(after)
                )
            }
            (Failure::Silent | Failure::Damaged, _) if self.is_late => {
                f.write_str("its answers come after the timeout; raise timeout")
            }
            (Failure::Silent, _) if self.crossed.is_some() => write!(
                f,
                "its frames come while unit address {} is asked: after the timeout (raise timeout), with the \
                 next request (restart the converter), or another \
                 unit has its address",
                self.crossed.unwrap_or_default()
            ),
            (Failure::Silent, _) => f.write_str("it does not answer"),
            (Failure::Misnumbered, _) => f.write_str(
                "its answers carry a transaction identifier that no request had: the peer does not copy it; set \
                 transaction-id = \"ignore\" under modbus",
            ),
            (Failure::Foreign(address), _) => {
                write!(f, "answers come from unit address {address} in place of its own")
            }
            (Failure::Closed, _) => f.write_str("the connection is closed in place of an answer"),
            (Failure::Damaged, _) => f.write_str(match self.medium {
                Medium::Line => "only damaged answers come; look at baud, parity, polarity and termination",
                Medium::Network => {
                    "only damaged answers come; look at baud and parity of the converter, or set port to \
                     modbus-tcp:// if it sends frames of Modbus TCP"
                }
                Medium::Header | Medium::Unnumbered => {
                    "bytes come that are no frames of Modbus TCP, or not as long as these say; set port to \
                     tcp:// if the peer sends those of a line (RTU)"
                }
            }),
            (Failure::Gateway(exception), _) if exception.is_of_gateway() => {
                write!(f, "the gateway at the port has no answer from it: {exception}")
            }
            (Failure::Gateway(exception), _) => {
                write!(
                    f,
                    "each read is refused ({exception}), as by a gateway that has no answer from it: it is asked as \
                     seldom as a unit that is silent"
                )
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
    /// They are what is left of an answer of the unit: they begin as one does, or with its second
    /// byte, and are too few for a whole one.
    pub(super) is_part: bool,
    /// The first of them is the unit's address.
    pub(super) is_begun: bool,
    /// The answer to the request before came in its place; and does so each time.
    pub(super) is_displaced: bool,
    pub(super) is_behind: bool,
}

impl Lost {
    /// The obstacle that it is for a read; `None` if it is no property of the read.
    pub(super) fn obstacle(self) -> Option<Obstacle> {
        match self.failure {
            _ if self.is_displaced => None,
            Failure::Silent
            | Failure::Foreign(_)
            | Failure::Closed
            | Failure::Misnumbered
            | Failure::Intruded
            | Failure::OutOfStep
            | Failure::Gateway(_) => Some(Obstacle::Silence),
            Failure::Misfit => Some(Obstacle::Misfit),
            // A line without bias makes a byte or two when its direction turns.
            Failure::Damaged if self.bytes <= TURN_MAX && !self.is_begun => Some(Obstacle::Silence),
            Failure::Damaged => None,
        }
    }
}

/// Bytes that a line without bias may make when its direction turns.
const TURN_MAX: usize = 2;
