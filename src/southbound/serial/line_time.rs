//! Whether the devices on a line can be asked as often as is configured: what asking them takes,
//! by the speed of the line and as it was measured, against their periods.
//!
//! The computed time is a lower bound: all bytes, the silences of the standard and the pauses that
//! are configured, with a device that answers at once. What is measured is the time from each
//! question to the end of its answer.

use std::time::Duration;

use super::settings::{Duty, Line, Parity, Port, PortName};
use super::turns::GAP;
use crate::message::Name;
use crate::proto::serial::modbus::frame::Speed;
use crate::proto::serial::modbus::plan;
use crate::proto::serial::modbus::settings::{Settings as Bus, Unit};

/// Bytes of a request that reads: address, function, place, quantity, checksum.
const REQUEST: usize = 8;
/// Bytes of an answer beside its PDU: address and checksum.
const AROUND: usize = 3;
/// More than this share of the line's time is too much.
const WHOLE_PERCENT: u64 = 100;

/// One device that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Its id.
    pub device: Name,
    /// What asking it once takes of the line.
    pub takes: Duration,
    /// How often that is wanted.
    pub period: Duration,
}

/// The devices of a port that are asked, by computation. Behind a converter in the network the line
/// is not known: then nothing is computed.
pub fn demands(port: &Port) -> Vec<Demand> {
    let is_known = !matches!(port.port, PortName::Tcp { .. });
    match &port.duty {
        Duty::Modbus(bus, _) => {
            let takes = |unit: &Unit| if is_known { of_unit(bus, unit) } else { Duration::ZERO };
            let of =
                |unit: &Unit| Demand { device: unit.id.clone(), takes: takes(unit), period: unit.period };
            bus.units.iter().map(of).collect()
        }
        Duty::Readings { poll: Some(poll), .. } => {
            // An answer has one character at least, and its end.
            let wire = speed(&port.line).characters(poll.question.len() + 2);
            let waking = poll.wake.as_ref().map(|wake| wake.pause).unwrap_or_default();
            let takes = waking + if is_known { wire + GAP } else { Duration::ZERO };
            vec![Demand { device: port.name.clone(), takes, period: poll.period }]
        }
        Duty::Readings { poll: None, .. } | Duty::Slipmux { .. } => Vec::new(),
    }
}

fn speed(line: &Line) -> Speed {
    let parity = u8::from(line.parity != Parity::None);
    Speed { baud: line.baud, bits: 1 + line.data_bits + parity + line.stop_bits }
}

fn of_unit(bus: &Bus, unit: &Unit) -> Duration {
    // As two digits each, with a colon and CR LF instead of the silence.
    let characters = |bytes: usize| bus.speed.characters(if bus.ascii { 2 * bytes + 3 } else { bytes });
    let silence = if bus.ascii { Duration::ZERO } else { bus.speed.gap() };
    let one = |block: &plan::Block| {
        let answer = block.request().map_or(0, |request| usize::from(request.answer().length));
        let wire = characters(REQUEST) + silence + characters(answer + AROUND) + silence.max(unit.pause);
        wire.max(bus.interval)
    };
    plan::blocks(&unit.registers, unit.limits).iter().map(one).sum()
}

/// How much of the line's time all of them need, in per cent.
pub fn percent(demands: &[Demand]) -> u64 {
    let share = |demand: &Demand| demand.takes.as_secs_f64() / demand.period.as_secs_f64().max(1e-3);
    (100.0 * demands.iter().map(share).sum::<f64>()).round() as u64
}

/// What is said where that is more than there is: which device takes most of it.
pub fn overload(demands: &[Demand]) -> Option<String> {
    let percent = percent(demands);
    if percent <= WHOLE_PERCENT {
        return None;
    }
    let share = |demand: &&Demand| demand.takes.as_nanos() * 1_000_000 / demand.period.as_nanos().max(1);
    let most = demands.iter().max_by_key(share)?;
    Some(format!(
        "its devices cannot be asked as often as configured: that takes {percent} % of the line's time, most of it for {}, {} ms \
         every {} ms",
        most.device,
        most.takes.as_millis(),
        most.period.as_millis()
    ))
}

/// What to do about it.
pub const ADVICE: &str = "lengthen period or poll-period, read fewer registers, or raise the baud rate";

#[cfg(all(test, feature = "modbus"))]
mod tests {
    use super::*;
    use crate::proto::serial::modbus::BuiltIn;
    use crate::proto::serial::modbus::change::Publish;
    use crate::proto::serial::modbus::map::Register;
    use crate::proto::serial::modbus::plan::Limits;

    /// A bus with one unit, whose registers are too far apart for one request.
    fn bus_of(baud: u32, period: Duration, registers: u16) -> Bus {
        let register = |at| Register { name: format!("r{at}"), address: at * 100, ..Register::default() };
        let unit = Unit {
            id: Name::parse("meter").unwrap(),
            address: 1,
            path: "data".to_owned(),
            period,
            jitter: Duration::ZERO,
            publish: Publish::OnChange { max_unchanged: None },
            registers: (0..registers).map(register).collect(),
            limits: Limits { max_registers: 125, max_gap: 8 },
            timeout: Duration::from_secs(1),
            pause: Duration::ZERO,
        };
        Bus {
            speed: Speed { baud, bits: 11 },
            timeout: Bus::TIMEOUT,
            interval: Duration::ZERO,
            backoff: Bus::BACKOFF,
            backoff_max: Bus::BACKOFF_MAX,
            echo: false,
            ascii: false,
            is_unnumbered: false,
            units: vec![unit],
        }
    }

    fn duty(bus: Bus) -> Duty {
        Duty::Modbus(bus, BuiltIn::here().unwrap())
    }

    fn bus(baud: u32, period: Duration, registers: u16) -> Vec<Demand> {
        let duty = duty(bus_of(baud, period, registers));
        let (name, port) = (Name::parse("bus").unwrap(), PortName::parse("/dev/ttyS9").unwrap());
        demands(&Port { name, port, line: Line::default(), duty })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_line_whose_periods_cannot_be_met_is_named_with_the_device_that_takes_most() {
        // 20 requests of 8 bytes, answers of 7, and twice 3.5 characters of silence: 22 characters.
        let slow = bus(1_200, SECOND, 20);
        let text = overload(&slow).unwrap();
        assert!(text.contains("for meter") && text.contains("every 1000 ms"), "{text}");
        assert_eq!(percent(&slow), 20 * 22 * 11 * 100 / 1_200);
        assert_eq!(overload(&bus(1_200, 10 * SECOND, 20)), None);
        assert_eq!(overload(&bus(115_200, SECOND, 20)), None);
    }

    #[test]
    fn the_time_between_two_requests_counts_where_it_is_more_than_they_take() {
        let port = |interval| {
            let settings = Bus { interval, ..bus_of(115_200, SECOND, 20) };
            let (name, port) = (Name::parse("bus").unwrap(), PortName::parse("/dev/ttyS9").unwrap());
            demands(&Port { name, port, line: Line::default(), duty: duty(settings) })
        };
        assert_eq!(percent(&port(Duration::from_millis(100))), 200);
        assert!(percent(&port(Duration::ZERO)) < 20);
    }

    #[test]
    fn what_was_measured_counts_like_what_was_computed() {
        let mut demands = bus(9_600, SECOND, 1);
        assert_eq!(overload(&demands), None);
        demands[0].takes = Duration::from_millis(1_400);
        assert!(overload(&demands).unwrap().contains("140 %"));
    }
}
