//! Commands to devices on serial lines: what is refused when it arrives, how one reaches its port,
//! and what the outcome is.
//!
//! | the port tells | `status` | idempotent |
//! |---|---|---|
//! | done: the value that the unit has, or the device's answer | `2.04` | |
//! | written, and nothing answers | `written` | |
//! | acknowledged, not confirmed by what is read back | `unconfirmed` | |
//! | an exception | `exception` | |
//! | no answer in time | `timeout` | tried again |
//! | the line was closed while it was on its way | `unknown` | tried again |
//! | the line was closed before it was sent | | it waits again |

use std::time::{Duration, Instant};

use super::{Commands, SideCarrier, Sides};
use crate::clock::Moment;
use crate::daemon::reading_store::Readings;
use crate::downlink::command::{Command, Outcome, Status};
use crate::downlink::delivery::{NotSent, Told};
use crate::proto::coap::{Code, Method};
use crate::southbound::serial::order::{Delivered, Lines, Order};

/// The code of the outcome of a command that a serial device carried out.
const CHANGED: Status = Status::Code(Code::CHANGED.0);

/// Why a command to a device on a line is refused, if it is.
pub(super) fn check(
    lines: &Lines,
    device: &str,
    path: &str,
    method: Method,
    payload: &[u8],
) -> Result<(), String> {
    if !lines.has(device) {
        return Ok(());
    }
    if !matches!(method, Method::Put | Method::Post) {
        return Err("a device on a serial line takes only PUT and POST".to_owned());
    }
    lines.prepare(device, path, payload).map(drop)
}

impl SideCarrier<'_> {
    /// Hands a command to the port of its device.
    pub(super) fn send_to_line(
        &mut self,
        now: Instant,
        number: u64,
        command: &Command,
    ) -> Result<(), NotSent> {
        let Command { device, path, payload, .. } = command;
        if !self.serial.reserve(now, device) {
            return Err(NotSent::Unreachable);
        }
        let wanted = self.lines.prepare(device.as_str(), path, payload).map_err(NotSent::Never)?;
        let within = Duration::from_secs(command.answer_within_s.into());
        let order = Order { number, device: device.to_string(), wanted, within };
        if !self.serial.deliver(now, device, order) {
            return Err(NotSent::Unreachable);
        }
        *self.sent += 1;
        Ok(())
    }
}

impl Commands {
    /// Takes what ports tell of commands, and offers them the next ones.
    pub(super) fn take_delivered(&mut self, moment: &Moment, sides: &mut Sides<'_>, pipeline: &Readings) {
        let now = moment.now;
        while let Some((number, delivered)) = sides.serial.poll_delivered() {
            self.delivery.handle(now, number, told(delivered), &mut self.mailbox);
        }
        while let Some(devices) = sides.serial.poll_free() {
            if self.mailbox.is_empty() {
                continue;
            }
            for device in devices {
                let Commands { router, lines, mailbox, delivery, requests, counts, .. } = self;
                let mut carrier = SideCarrier::new(sides, &pipeline.gate, (router, lines), requests, counts);
                delivery.offer(now, &device, mailbox, &mut carrier);
            }
        }
    }
}

fn told(delivered: Delivered) -> Told {
    match delivered {
        Delivered::Done { payload, content_format, is_partial } => {
            Told::Answered(Outcome { status: CHANGED, content_format, payload, partial: is_partial })
        }
        Delivered::Written => {
            let why = "the port has taken it; the device answers nothing";
            Told::Answered(Outcome::of(Status::Written, why))
        }
        Delivered::Unconfirmed(why) => Told::Answered(Outcome::of(Status::Unconfirmed, why)),
        Delivered::Exception(why) => Told::Answered(Outcome::of(Status::Exception, why)),
        Delivered::Timeout(why) | Delivered::Unasked(why) => Told::Failed(Outcome::of(Status::Timeout, why)),
        Delivered::Unknown => {
            let why = "the line was closed while the command was on its way: it may have been carried out";
            Told::Failed(Outcome::of(Status::Unknown, why))
        }
        Delivered::Unsent => Told::Unsent,
    }
}
