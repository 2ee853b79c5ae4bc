//! A device that writes lines to a serial port, and the noise on its line.

use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::ledger::Ledger;
use crate::product::*;

/// The device of a port; its id is the port's name.
pub struct SerialLine {
    pub id: String,
    pub period: Option<Duration>,
    /// How many of a hundred lines are hit by noise.
    pub noise: u64,
    pub produce_at: Instant,
    chance: Chance,
}

impl SerialLine {
    pub fn new(id: &str, period: Duration, now: Instant, chance: Chance) -> SerialLine {
        SerialLine { id: id.to_owned(), period: Some(period), noise: 0, produce_at: now + period, chance }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.period.map(|_| self.produce_at)
    }

    /// What comes over the line now, in the pieces in which it comes.
    pub fn handle_timeout(&mut self, now: Instant, ledger: &mut Ledger) -> Vec<Vec<u8>> {
        let Some(period) = self.period.filter(|_| self.produce_at <= now) else { return Vec::new() };
        self.produce_at = now + period;
        let (_, payload) = ledger.said(&self.id, "data", 20);
        let mut wire = payload;
        Checksum::Crc32.append(&mut wire, 0);
        let mut framed = Vec::new();
        for byte in wire {
            match byte {
                0xC0 => framed.extend([0xDB, 0xDC]),
                0xDB => framed.extend([0xDB, 0xDD]),
                other => framed.push(other),
            }
        }
        framed.insert(0, 0xC0);
        framed.push(0xC0);
        if self.chance.percent(self.noise) {
            match self.chance.draw(4) {
                0 => {
                    let at = self.chance.draw(framed.len() as u64) as usize;
                    framed[at] ^= 1 << self.chance.draw(8);
                }
                1 => {
                    framed.remove(self.chance.draw(framed.len() as u64) as usize);
                }
                2 => {
                    let at = self.chance.draw(framed.len() as u64) as usize;
                    let rubbish = self.chance.bytes();
                    framed.splice(at..at, rubbish);
                }
                _ => framed.truncate(self.chance.draw(framed.len() as u64) as usize),
            }
        }
        let cut = self.chance.draw(framed.len() as u64 + 1) as usize;
        let second = framed.split_off(cut);
        [framed, second].into_iter().filter(|piece| !piece.is_empty()).collect()
    }
}

/// The port of such a device.
pub fn port(id: &str) -> serial_settings::Port {
    serial_settings::Port {
        name: Name::parse(id).unwrap(),
        port: serial_settings::PortName::parse("/dev/null").unwrap(),
        line: Default::default(),
        duty: serial_settings::Duty::Readings {
            write: None,
            framing: framing::Settings {
                framing: Framing::Slip,
                checksum: Some(Checksum::Crc32),
                placement: Default::default(),
                max_frame: 200,
                start: Vec::new(),
                within: framing::IDLE,
                skip_first: false,
                keep: 0,
                whole: false,
                label_end: None,
                interleaved: None,
                silence: None,
            },
            extractor: Extractor::new(Form::Raw, None, &[], "data").unwrap(),
            poll: None,
        },
    }
}
