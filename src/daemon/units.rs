//! What happens with the units of a bus, in the log: each change once, under the unit's own device.

use super::hub::Hub;
use super::line_kind::LineKind;
use crate::message::Name;
use crate::proto::serial::modbus::learn::Obstacle;
use crate::proto::serial::modbus::settings::Unit;
use crate::proto::serial::modbus::{Event, Failure};

/// Says it. A change of state always; what a noisy line can repeat, only so often.
pub fn say(hub: &mut Hub, port: &Name, unit: &Unit, event: &Event) {
    let (device, address, name) = (unit.id.as_str(), unit.address, port);
    let port = name.as_str();
    match event {
        Event::Up { .. } => log::info!(device, port, unit = address; "unit answers"),
        Event::Degraded { .. } => {
            log::warn!(device, port, unit = address; "unit answers, but none of its values can be read; `tombolo status` says why");
        }
        Event::Learned { .. } => {
            log::info!(device, port, unit = address; "unit is asked otherwise from now on; `tombolo status` says how");
        }
        Event::Down { failure, .. } => {
            log::warn!(device, port, unit = address, reason:% = Words(*failure); "unit does not answer; the others go on");
        }
        Event::Refused { register, why, .. } => {
            let Some(register) = unit.registers.get(*register) else { return };
            let (reason, is_refused) = (why.of(register), matches!(why, Obstacle::Exception(_)));
            let (register, reason) = (register.name.as_str(), reason.as_str());
            if is_refused {
                log::warn!(device, port, unit = address, register, reason; "unit refuses a register");
            } else {
                log::warn!(device, port, unit = address, register, reason; "a register cannot be read and is left out");
            }
        }
        Event::Misfit { function, asked_function, .. } if function != asked_function => {
            if hub.may_say(LineKind::LateAnswer(name.clone())) {
                log::warn!(device, port, unit = address, function, asked = asked_function; "unit answered another function than was asked for");
            }
        }
        Event::Misfit { function, bytes, asked, is_configurable: false, .. } => {
            if hub.may_say(LineKind::LateAnswer(name.clone())) {
                log::warn!(device, port, unit = address, function, bytes, asked; "unit answered with another length than was asked for");
            }
        }
        Event::Misfit { function, bytes, asked, .. } => {
            if hub.may_say(LineKind::LateAnswer(name.clone())) {
                log::warn!(device, port, unit = address, function, bytes, asked; "unit answered with another length than was asked for; answer-bytes of a register takes it");
            }
        }
        Event::Named { other, .. } => {
            if hub.may_say(LineKind::LateAnswer(name.clone())) {
                log::info!(device, port, unit = address, named = *other; "answers name another unit and are used, as their transaction identifier is right");
            }
        }
        Event::OutOfStep { .. } => {
            log::warn!(device, port, unit = address; "answers come later than can be reckoned with, so none is used until the line is in step again; restart the converter or gateway, which clears its buffer, or raise the timeout of its line");
        }
        Event::Late { after, .. } => {
            if hub.may_say(LineKind::LateAnswer(name.clone())) {
                let elapsed_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                log::info!(device, port, unit = address, elapsed_ms; "answer came after its time, or in place of another's, and was not used; if it happens often, `tombolo status` says what to do");
            }
        }
        Event::Failed { failure, failures, .. } => {
            log::debug!(device, port, unit = address, reason:% = Words(*failure), failures = *failures; "no answer");
        }
        Event::Reading { .. } => {}
    }
}

/// A failure in the words of the log.
struct Words(Failure);

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Failure::Silent => "silence",
            Failure::Foreign(address) => {
                return write!(f, "answers come from unit address {address} in place of its own");
            }
            Failure::Closed => "the connection is closed in place of an answer",
            Failure::Damaged => {
                "only bytes came that are no good frame; `tombolo status` says what to look at"
            }
            Failure::Misnumbered => "answers carry a transaction identifier that no request had",
            Failure::Misfit => "answers of another function or length than was asked for",
            Failure::OutOfStep => "answers come later than can be reckoned with",
            Failure::Intruded => "another master asked it meanwhile",
            Failure::Gateway(_) => "the gateway at the port has no answer from it",
        })
    }
}
