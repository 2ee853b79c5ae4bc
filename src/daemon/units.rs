//! What happens with the units of a bus, in the log: each change once, under the unit's own device.

use super::hub::Hub;
use super::line_kind::LineKind;
use crate::proto::serial::modbus::map::Register;
use crate::proto::serial::modbus::settings::Unit;
use crate::proto::serial::modbus::{Event, Failure};

/// Says it. A change of state always; what a noisy line can repeat, only so often.
pub fn say(hub: &mut Hub, port: &str, unit: &Unit, event: &Event) {
    let (device, address) = (unit.id.as_str(), unit.address);
    match event {
        Event::Up { .. } => log::info!(device, port, unit = address; "unit answers"),
        Event::Degraded { .. } => {
            log::warn!(device, port, unit = address; "unit answers, but none of its values can be read; `tombolo status` says why");
        }
        Event::Learned { .. } => {
            log::info!(device, port, unit = address; "unit is asked otherwise from now on; `tombolo status` says how");
        }
        Event::Down { failure, .. } => {
            log::warn!(device, port, unit = address, reason = words(*failure); "unit does not answer; the others go on");
        }
        Event::Refused { register, why, .. } => {
            let register = unit.registers.get(*register);
            let hint = register.and_then(Register::hint);
            let register = register.map_or("", |register| register.name.as_str());
            match hint {
                Some(hint) => {
                    log::warn!(device, port, unit = address, register, reason:% = why, hint; "unit refuses a register");
                }
                None => {
                    log::warn!(device, port, unit = address, register, reason:% = why; "unit refuses a register");
                }
            }
        }
        Event::Misfit { function, asked_function, .. } if function != asked_function => {
            if hub.may_say(LineKind::LateAnswer) {
                log::warn!(device, port, unit = address, function, asked = asked_function; "unit answered another function than was asked for");
            }
        }
        Event::Misfit { function, bytes, asked, .. } => {
            if hub.may_say(LineKind::LateAnswer) {
                log::warn!(device, port, unit = address, function, bytes, asked; "unit answered with another length than was asked for; answer-bytes of a register takes it");
            }
        }
        Event::Late { after, .. } => {
            if hub.may_say(LineKind::LateAnswer) {
                let elapsed_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                log::info!(device, port, unit = address, elapsed_ms; "answer came after its time and was not used; raise timeout if it happens often");
            }
        }
        Event::Failed { failure, failures, .. } => {
            log::debug!(device, port, unit = address, reason = words(*failure), failures = *failures; "no answer");
        }
        Event::Reading { .. } => {}
    }
}

fn words(failure: Failure) -> &'static str {
    match failure {
        Failure::Silent => "silence",
        Failure::Closed => "the connection is closed in place of an answer",
        Failure::Damaged => "only damaged bytes came: look at baud, parity, polarity and termination",
        Failure::Misfit => "answers of another function or length than was asked for",
        Failure::Gateway(_) => "the gateway at the port has no answer from it",
    }
}
