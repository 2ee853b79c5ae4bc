//! For real: pymodbus's units on a pseudo-terminal, with faults it is made to have.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tombolo::proto::serial::modbus::frame::Speed;
use tombolo::proto::serial::modbus::learn::Obstacle;
use tombolo::proto::serial::modbus::map::{Kind, Order};
use tombolo::proto::serial::modbus::pdu::{Exception, Table};
use tombolo::proto::serial::modbus::settings::Unit;
use tombolo::proto::serial::modbus::{Bus, Event, Settings};

use crate::support::{ms, register, settings, unit};

/// The peer and our end of the line.
struct Peer {
    child: Child,
    line: std::fs::File,
    /// How often bytes were there when the wait for them was over already.
    found_late: usize,
    /// Kept open, so that the line does not hang up before the peer has opened it.
    _far: std::os::fd::OwnedFd,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    fn start() -> Peer {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
        assert!(python.exists(), "tests/run peers makes {}", python.display());
        let pair = openpty(None, None).unwrap();
        let mut raw = tcgetattr(&pair.slave).unwrap();
        cfmakeraw(&mut raw);
        tcsetattr(&pair.slave, SetArg::TCSANOW, &raw).unwrap();
        let name = nix::unistd::ttyname(&pair.slave).unwrap();
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modbus/pymodbus_units.py"))
            .arg(name)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Peer { child, line: pair.master.into(), found_late: 0, _far: pair.slave }
    }

    /// Drives a bus for so long; what happened, and when.
    fn drive(&mut self, bus: &mut Bus, time: Duration) -> Vec<(Duration, Event)> {
        self.drive_until(bus, time, |_| false)
    }

    /// Drives a bus until that has happened which is waited for, at most for so long.
    fn drive_until(
        &mut self,
        bus: &mut Bus,
        most: Duration,
        has_happened: impl Fn(&[(Duration, Event)]) -> bool,
    ) -> Vec<(Duration, Event)> {
        let start = Instant::now();
        let (mut out, mut bytes, mut events) = (Vec::new(), [0; 1024], Vec::new());
        bus.line_up(start);
        while start.elapsed() < most && !has_happened(&events) {
            let now = Instant::now();
            bus.handle_timeout(now);
            while bus.poll_transmit(&mut out) {
                self.line.write_all(&out).unwrap();
            }
            while let Some(event) = bus.poll_event() {
                events.push((start.elapsed(), event));
            }
            let wait = bus.poll_timeout().map_or(ms(100), |at| at.saturating_duration_since(Instant::now()));
            let wait = (wait + ms(1)).min(ms(100)).as_millis() as u16;
            let mut waiting = [PollFd::new(self.line.as_fd(), PollFlags::POLLIN)];
            if poll(&mut waiting, PollTimeout::from(wait)).unwrap() > 0 {
                let count = self.line.read(&mut bytes).unwrap();
                let now = Instant::now();
                self.found_late += usize::from(bus.poll_timeout().is_some_and(|at| at <= now));
                bus.handle_bytes(now, &bytes[..count]);
            }
        }
        events
    }
}

fn fast(units: Vec<Unit>, period: Duration) -> Settings {
    let mut settings = settings(units);
    settings.speed = Speed { baud: 19200, bits: 10 };
    settings.timeout = ms(200);
    settings.backoff = ms(200);
    settings.units.iter_mut().for_each(|unit| unit.period = period);
    settings
}

fn readings(events: &[(Duration, Event)], unit: usize) -> Vec<(Duration, serde_json::Value)> {
    let own = events.iter().filter_map(|(at, event)| match event {
        Event::Reading { unit: of, payload } if *of == unit => {
            Some((*at, serde_json::from_slice(payload).unwrap()))
        }
        _ => None,
    });
    own.collect()
}

#[test]
fn all_four_tables_of_an_independent_unit_are_read() {
    let mut all = unit(1);
    let mut swapped = register("swapped", Table::Holding, 100, Kind::U32);
    swapped.words = Order::Little;
    all.registers = vec![
        register("voltage", Table::Holding, 100, Kind::F32),
        swapped,
        register("negative", Table::Holding, 102, Kind::I16),
        register("name", Table::Holding, 200, Kind::String(4)),
        register("count", Table::Input, 1, Kind::U32),
        register("low", Table::Input, 3, Kind::I16),
        register("coil-0", Table::Coil, 0, Kind::Bool(None)),
        register("coil-1", Table::Coil, 1, Kind::Bool(None)),
        register("coil-12", Table::Coil, 12, Kind::Bool(None)),
        register("discrete-2", Table::Discrete, 2, Kind::Bool(None)),
        register("discrete-3", Table::Discrete, 3, Kind::Bool(None)),
    ];
    let mut peer = Peer::start();
    let mut settings = fast(vec![all], ms(200));
    // However slow the machine is: what is read is asked here, not how soon.
    settings.timeout = ms(20_000);
    let mut bus = Bus::new(settings, Instant::now(), 1);
    let events = peer.drive_until(&mut bus, ms(120_000), |events| readings(events, 0).len() >= 3);
    let readings = readings(&events, 0);
    assert!(readings.len() >= 3, "{events:?}");
    let expected = serde_json::json!({
        "voltage": f32::from_bits(0x4366_1A9F).to_string().parse::<f64>().unwrap(),
        "swapped": 0x1A9F_4366, "negative": -2, "name": "TOMBOLO", "count": 123_456, "low": -32_768,
        "coil-0": true, "coil-1": false, "coil-12": true, "discrete-2": false, "discrete-3": true,
    });
    assert!(readings.iter().all(|(_, reading)| *reading == expected), "{readings:?}\n{expected}");
    assert!(!events.iter().any(|(_, event)| matches!(event, Event::Failed { .. })), "{events:?}");
}

#[test]
fn an_independent_units_exceptions_damage_delays_and_silence_are_borne() {
    let mut lacking = unit(5);
    lacking.registers = [0, 4, 6, 8]
        .map(|address| register(&format!("r{address}"), Table::Holding, address, Kind::U16))
        .to_vec();
    let units = vec![unit(2), unit(3), unit(4), lacking];
    let mut peer = Peer::start();
    let mut bus = Bus::new(fast(units, ms(300)), Instant::now(), 1);
    let start = Instant::now();
    let (mut values, mut events) = (Vec::new(), Vec::new());
    // In small steps, to know how many requests unit 3 had got when each of its readings came.
    events.extend(peer.drive(&mut bus, ms(12_000)));
    values.extend(readings(&events, 1));
    assert!(start.elapsed() < Duration::from_secs(20));

    let damaged = bus.counters(0).unwrap();
    assert!(damaged.damaged >= 5 && damaged.silent == 0, "{damaged:?}");
    let good = readings(&events, 0);
    assert!(good.len() >= 10 && good.iter().all(|(_, reading)| reading["value"] == 22), "{good:?}");

    // Unit 3 counts its requests, so a reading one behind would repeat or go back on what the
    // requests since then have made of it: each reading is the number of its own request, which
    // none before it was.
    let late = bus.counters(1).unwrap();
    assert!(late.late >= 3 && late.silent + late.damaged >= 3, "{late:?}");
    let counted: Vec<u64> = values.iter().filter_map(|(_, reading)| reading["value"].as_u64()).collect();
    assert!(counted.len() >= 5 && counted.is_sorted_by(|a, b| a < b), "{counted:?}");
    // Only where this process stood still until the answer was there, and found it with the end of
    // the wait.
    let used = counted.iter().filter(|count| *count % 4 == 0).count();
    assert!(used <= peer.found_late, "a late answer was used: {counted:?}");

    let silent = bus.counters(2).unwrap();
    assert!(silent.silent >= 3 && silent.late == 0, "{silent:?}");
    let good = readings(&events, 2);
    assert!(good.len() >= 5 && good.iter().all(|(_, reading)| reading["value"] == 44), "{good:?}");

    let expected = serde_json::json!({"r0": 50, "r4": 54, "r8": 58});
    let lacking = readings(&events, 3);
    assert!(lacking.len() >= 20 && lacking.iter().all(|(_, reading)| *reading == expected), "{lacking:?}");
    let refused =
        Event::Refused { unit: 3, register: 2, why: Obstacle::Exception(Exception::ILLEGAL_DATA_ADDRESS) };
    assert_eq!(events.iter().filter(|(_, event)| *event == refused).count(), 1, "{events:?}");
    assert_eq!(bus.counters(3).unwrap().silent, 0);
}

#[test]
fn ten_real_units_of_which_three_are_dead_keep_the_live_ones_in_their_period() {
    let dead = [21, 22, 23];
    let units: Vec<Unit> = [11, 21, 12, 13, 22, 14, 15, 23, 16, 17].into_iter().map(unit).collect();
    let addresses: Vec<u8> = units.iter().map(|unit| unit.address).collect();
    let mut peer = Peer::start();
    let period = ms(500);
    let mut bus = Bus::new(fast(units, period), Instant::now(), 1);
    let events = peer.drive(&mut bus, Duration::from_secs(10));
    let counts = addresses.iter().enumerate().filter(|(_, address)| !dead.contains(address));
    let counts: Vec<usize> = counts.map(|(index, _)| readings(&events, index).len()).collect();
    println!("readings of each live unit in 20 periods: {counts:?}");
    for (index, address) in addresses.iter().enumerate() {
        let own = readings(&events, index);
        if dead.contains(address) {
            assert_eq!(own, []);
            assert!(
                events.iter().any(|(_, event)| matches!(event, Event::Down { unit, .. } if *unit == index))
            );
            continue;
        }
        assert!(own.iter().all(|(_, reading)| reading["value"] == *address));
        // Of 20 periods some may fall to meeting the dead, and some to whatever else the machine
        // does. What a reading's moment within its period is, `schedule` shows in virtual time.
        assert!(own.len() >= 15, "unit {address}: {}", own.len());
    }
}
