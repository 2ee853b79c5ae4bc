//! The units of a Modbus bus behind a port: the bus's events become readings of the units' own devices, and news of them.
//!
//! A reading that is published only on change must not be taken for published when nobody took it: whatever is refused
//! for good is told to the bus, so that the unit's next reading is offered whatever it says.

use std::time::Instant;

use super::delivery::Delivery;
use super::pending::Bounds;
use super::port::{Counters, Taker, Verdict};
use crate::message::{ContentFormat, Name, Path, Stamp};
use crate::proto::serial::framing;
use crate::proto::serial::modbus::bus::State;
use crate::proto::serial::modbus::{self, Bus, Event, Settings};
use crate::proto::serial::reading::Reading;

/// What is behind a port that is a bus.
#[derive(Debug)]
pub(super) struct Units {
    bus: Bus,
    units: Vec<Unit>,
    bytes: u64,
}

#[derive(Debug)]
struct Unit {
    delivery: Delivery,
    /// Answers it had given when they were last looked at.
    answers: u64,
}

/// How one unit stands.
#[derive(Clone, Copy, Debug)]
pub struct UnitView<'a> {
    /// The device it is.
    pub id: &'a Name,
    /// Its address on the bus.
    pub address: u8,
    /// Whether it answers.
    pub state: State,
    /// What happened on the bus.
    pub bus: modbus::bus::Counters,
    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub readings: u64,
    /// Readings that no rule or quota allowed.
    pub refused: u64,
    /// Readings lost because the journal did not take them for too long.
    pub lost: u64,
    /// Readings in memory because the journal does not take them.
    pub waiting: usize,
}

impl Units {
    pub(super) fn new(settings: &Settings, space: u128, now: Instant, seed: u64) -> Units {
        let bounds = Bounds::share(settings.units.len());
        // Addresses differ and are at most 247, so a number fits into a byte.
        let units = (0..=u8::MAX).take(settings.units.len());
        let units =
            units.map(|number| Unit { delivery: Delivery::new(space, number, bounds), answers: 0 }).collect();
        Units { bus: Bus::new(settings.clone(), now, seed), units, bytes: 0 }
    }

    pub(super) fn opened(&mut self, now: Instant) {
        self.bus.line_up(now);
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.bus.line_down(now);
    }

    /// Units that are the same device as before go on with what was not stored.
    pub(super) fn adopt(&mut self, predecessor: &mut Units, now: Instant) {
        for (index, unit) in self.units.iter_mut().enumerate() {
            let Some(id) = self.bus.unit(index).map(|unit| &unit.id) else { continue };
            let before = (0..predecessor.units.len())
                .find(|before| predecessor.bus.unit(*before).is_some_and(|unit| unit.id == *id));
            if let Some(before) = before.and_then(|before| predecessor.units.get_mut(before)) {
                unit.delivery.adopt(&mut before.delivery, now);
            }
        }
    }

    pub(super) fn handle_bytes(&mut self, now: Instant, stamp: Stamp, bytes: &[u8], taker: &mut dyn Taker) {
        self.bytes += bytes.len() as u64;
        self.bus.handle_bytes(now, bytes);
        self.collect(now, stamp, taker);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, stamp: Stamp, taker: &mut dyn Taker) {
        self.bus.handle_timeout(now);
        self.collect(now, stamp, taker);
        for (index, unit) in self.units.iter_mut().enumerate() {
            let Some(id) = self.bus.unit(index).map(|unit| unit.id.as_str()) else { continue };
            if unit.delivery.handle_timeout(now, id, taker) {
                self.bus.forget_published(index);
            }
        }
    }

    pub(super) fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> bool {
        self.bus.poll_transmit(buffer)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let deliveries = self.units.iter().filter_map(|unit| unit.delivery.poll_timeout());
        deliveries.chain(self.bus.poll_timeout()).min()
    }

    pub(super) fn handle_completion(&mut self, now: Instant, ticket: u128, stored: bool) {
        if let Some(unit) = self.units.get_mut(usize::from(Delivery::number_of(ticket))) {
            unit.delivery.handle_completion(now, ticket, stored);
        }
    }

    /// Waiting for the journal, and on their way to disk; of all units together.
    pub(super) fn pending(&self) -> (usize, usize) {
        let counts = self.units.iter().map(|unit| unit.delivery.pending());
        counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// A frame is an answer; what the bus made nothing of is dropped.
    pub(super) fn counters(&self) -> Counters {
        let mut sum = Counters {
            framing: framing::Counters { bytes: self.bytes, dropped: self.bus.noise(), ..Default::default() },
            unreadable: self.bus.strangers(),
            ..Counters::default()
        };
        for unit in self.views() {
            sum.framing.good += unit.bus.answers;
            sum.framing.bad += unit.bus.damaged;
            sum.readings += unit.readings;
            sum.refused += unit.refused;
            sum.lost += unit.lost;
        }
        sum
    }

    pub(super) fn views(&self) -> impl Iterator<Item = UnitView<'_>> {
        self.units.iter().enumerate().filter_map(|(index, unit)| {
            let settings = self.bus.unit(index)?;
            Some(UnitView {
                id: &settings.id,
                address: settings.address,
                state: self.bus.state(index)?,
                bus: self.bus.counters(index)?,
                readings: unit.delivery.readings(),
                refused: unit.delivery.refused(),
                lost: unit.delivery.lost(),
                waiting: unit.delivery.pending().0,
            })
        })
    }

    /// Takes over what happened on the bus.
    fn collect(&mut self, now: Instant, stamp: Stamp, taker: &mut dyn Taker) {
        for (index, unit) in self.units.iter_mut().enumerate() {
            let answers = self.bus.counters(index).map_or(0, |counters| counters.answers);
            if answers != unit.answers
                && let Some(settings) = self.bus.unit(index)
            {
                unit.answers = answers;
                // An answer is a sign of life, also where nothing has changed and nothing is published.
                taker.alive(settings.id.as_str());
            }
        }
        while let Some(event) = self.bus.poll_event() {
            let (Event::Reading { unit: index, .. }
            | Event::Up { unit: index }
            | Event::Down { unit: index, .. }
            | Event::Failed { unit: index, .. }
            | Event::Refused { unit: index, .. }
            | Event::Late { unit: index, .. }) = event;
            let (Some(settings), Some(unit)) = (self.bus.unit(index), self.units.get_mut(index)) else {
                continue;
            };
            let Event::Reading { payload, .. } = &event else {
                taker.news(settings, &event);
                continue;
            };
            // It was parsed when the unit was set up.
            let Ok(path) = Path::parse(&settings.path) else { continue };
            let reading = Reading { path, content_format: Some(ContentFormat::JSON), payload };
            let verdict = unit.delivery.offer(now, settings.id.as_str(), &reading, stamp, taker);
            if matches!(verdict, Verdict::Refused | Verdict::OverQuota) {
                self.bus.forget_published(index);
            }
        }
    }
}
