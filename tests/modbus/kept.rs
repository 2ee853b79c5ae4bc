//! Gateways that keep the answers to requests which they gave up, for as long as it takes, and
//! hand them on in order: one for each further request. What they do with requests to
//! addresses that no unit has differs, and with it whether what they keep can be taken from
//! them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tombolo::proto::serial::modbus::Bus;
use tombolo::proto::serial::modbus::bus::{Event, Medium, State};
use tombolo::proto::serial::modbus::settings::Unit;

use crate::gateway::{judged, with};
use crate::support::{World, frame, ms, settings};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What the gateway does with a request to an address that no unit of the map has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unknown {
    /// It is handed on: nobody answers, so what is kept comes, one for each.
    Nobody,
    /// It is not handed on: exception 10 at once.
    Refused,
    /// It is not handed on, nor answered.
    Dropped,
    /// A unit that nobody configured has each of them, and refuses all.
    Exceptions,
    /// And answers all.
    Data,
}

const UNKNOWN: [Unknown; 5] =
    [Unknown::Nobody, Unknown::Refused, Unknown::Dropped, Unknown::Exceptions, Unknown::Data];

/// What comes in place of an answer that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Missing {
    Exception(u8),
    Silence,
}

struct Gateway {
    kept: VecDeque<Vec<u8>>,
    /// So many requests from now on are given up.
    skip: usize,
    /// When requests are given up next.
    at: VecDeque<Duration>,
    count: u16,
}

struct Case {
    medium: Medium,
    missing: Missing,
    unknown: Unknown,
    /// How many requests are given up, and when.
    given_up: usize,
    at: &'static [u64],
    timeout: Duration,
    changes: bool,
}

impl Case {
    fn new(medium: Medium, unknown: Unknown, given_up: usize, at: &'static [u64]) -> Case {
        let missing = if medium == Medium::Line { Missing::Silence } else { Missing::Exception(11) };
        let (timeout, changes) = (ms(200), true);
        Case { medium, missing, unknown, given_up, at, timeout, changes }
    }
}

fn units(of: &[&[u16]], timeout: Duration) -> Vec<Unit> {
    let units = of.iter().zip(1..);
    units.map(|(registers, address)| Unit { timeout, period: ms(500), ..with(address, registers) }).collect()
}

fn opened(bus: &mut Bus, medium: Medium) {
    match medium {
        Medium::Header => bus.answers_are_numbered(),
        _ => bus.is_behind(medium),
    }
}

fn world(case: &Case, units: Vec<Unit>) -> (World, Rc<RefCell<Gateway>>) {
    let mut whole = settings(units.clone());
    (whole.timeout, whole.backoff, whole.backoff_max) = (case.timeout, ms(200), 2 * SECOND);
    let mut world = World::new(whole.clone());
    world.bus = Bus::new(whole, world.now, 7);
    opened(&mut world.bus, case.medium);
    world.bus.line_up(world.now);
    let gateway = Rc::new(RefCell::new(Gateway {
        kept: VecDeque::new(),
        skip: 0,
        at: case.at.iter().map(|at| *at * SECOND.as_secs()).map(Duration::from_secs).collect(),
        count: 0,
    }));
    for address in 1..=247 {
        let (gateway, clock) = (gateway.clone(), world.clock());
        let is_own = units.iter().any(|unit| unit.address == address);
        let (unknown, missing) = (case.unknown, case.missing);
        let (given_up, timeout, changes) = (case.given_up, case.timeout, case.changes);
        world.behave(address, move |body| {
            let gateway = &mut *gateway.borrow_mut();
            let named = |pdu: &[u8]| frame(&[&body[..1], pdu].concat());
            let refused = |code: u8| vec![body[1] | 0x80, code];
            if gateway.at.front().is_some_and(|at| clock.get() >= *at) {
                gateway.at.pop_front();
                gateway.skip = given_up;
            }
            let own = match (is_own, unknown) {
                (false, Unknown::Refused) => return vec![(ms(3), named(&refused(10)))],
                (false, Unknown::Dropped) => return Vec::new(),
                (false, Unknown::Nobody) => None,
                (false, Unknown::Exceptions) => Some(refused(2)),
                (false, Unknown::Data) => Some(gateway.answer(body, changes)),
                (true, _) if body[1] == 3 => Some(gateway.answer(body, changes)),
                // Of a table that it does not have.
                (true, _) => Some(refused(1)),
            };
            if gateway.skip > 0 && is_own {
                gateway.skip -= 1;
                gateway.kept.extend(own);
                return match missing {
                    Missing::Exception(code) => vec![(timeout / 2, named(&refused(code)))],
                    Missing::Silence => Vec::new(),
                };
            }
            gateway.kept.extend(own);
            match (gateway.kept.pop_front(), missing) {
                (Some(answer), _) => vec![(ms(4), named(&answer))],
                (None, Missing::Exception(code)) => vec![(timeout / 2, named(&refused(code)))],
                (None, Missing::Silence) => Vec::new(),
            }
        });
    }
    (world, gateway)
}

impl Gateway {
    fn answer(&mut self, body: &[u8], changes: bool) -> Vec<u8> {
        let at = u16::from_be_bytes([body[2], body[3]]);
        let second = u16::from_be_bytes([body[4], body[5]]);
        if body[1] < 3 {
            return vec![body[1], 1, 0];
        }
        let mut answer = vec![body[1], (2 * second) as u8];
        for at in at..at + second {
            self.count = (self.count + u16::from(changes)) % 128;
            let own = u16::from(body[0]) << 13 | (at & 0x3f) << 7 | self.count;
            answer.extend(own.to_be_bytes());
        }
        answer
    }
}

const MEDIA: [Medium; 3] = [Medium::Header, Medium::Network, Medium::Unnumbered];
const EQUAL: [&[u16]; 3] = [&[2, 40], &[2, 40], &[2, 40]];
const MIXED: [&[u16]; 3] = [&[2, 40], &[4, 5], &[1, 20, 50]];

#[test]
fn whatever_a_gateway_does_with_addresses_that_no_unit_has_what_it_keeps_makes_no_reading_false() {
    let mut bad = Vec::new();
    for medium in MEDIA {
        for unknown in UNKNOWN {
            for (given_up, at) in [(4, &[14][..]), (7, &[14]), (10, &[14]), (10, &[12, 30, 32, 34, 36, 50])] {
                for (maps, timeout, changes) in [
                    (EQUAL, ms(200), false),
                    (EQUAL, ms(200), true),
                    (EQUAL, SECOND, true),
                    (MIXED, ms(200), true),
                ] {
                    let case = Case { timeout, changes, ..Case::new(medium, unknown, given_up, at) };
                    let what =
                        format!("{medium:?} {unknown:?} {given_up} {at:?} {maps:?} {timeout:?} {changes}");
                    let (mut world, gateway) = world(&case, units(&maps, timeout));
                    world.run(3 * MINUTE);
                    let (count, wrong) = judged(&world, &[1, 2, 3]);
                    let is_fine =
                        wrong.is_empty() && (unknown != Unknown::Nobody || at.len() > 1 || count > 3 * 240);
                    if !is_fine {
                        bad.push((
                            what,
                            count,
                            wrong.len(),
                            wrong.into_iter().next(),
                            gateway.borrow().kept.len(),
                        ));
                    }
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}: {:#?}", bad.len(), &bad[..bad.len().min(60)]);
}

/// A bus as after a restart, at a gateway that keeps so many answers to the last requests.
fn restarted(case: &Case, units: Vec<Unit>, kept: usize) -> (World, Rc<RefCell<Gateway>>) {
    let (mut world, gateway) = world(case, units.clone());
    world.run(12 * SECOND);
    let polls = world.requests.iter().rev().filter(|(_, body)| body[1] == 3).take(kept);
    let polls: Vec<Vec<u8>> = polls.map(|(_, body)| body.clone()).collect();
    for body in polls.iter().rev() {
        let mut gateway = gateway.borrow_mut();
        let answer = gateway.answer(body, case.changes);
        gateway.kept.push_back(answer);
    }
    let mut whole = settings(units);
    (whole.timeout, whole.backoff, whole.backoff_max) = (case.timeout, ms(200), 2 * SECOND);
    world.bus = Bus::new(whole, world.now, 7);
    opened(&mut world.bus, case.medium);
    world.bus.line_up(world.now);
    (world, gateway)
}

#[test]
fn what_a_gateway_keeps_over_a_restart_makes_no_reading_false() {
    let mut bad = Vec::new();
    for medium in MEDIA {
        for unknown in UNKNOWN {
            for kept in [1, 2, 3, 4, 6, 9, 20] {
                for (maps, changes) in [
                    (&EQUAL[..], false),
                    (&EQUAL, true),
                    (&MIXED, true),
                    (&EQUAL[..1], false),
                    (&EQUAL[..1], true),
                ] {
                    let case = Case { changes, ..Case::new(medium, unknown, 0, &[]) };
                    let what = format!("{medium:?} {unknown:?} {kept} {maps:?} {changes}");
                    let (mut world, gateway) = restarted(&case, units(maps, case.timeout), kept);
                    world.run(3 * MINUTE);
                    let units: Vec<u8> = (1..).take(maps.len()).collect();
                    let (count, wrong) = judged(&world, &units);
                    // Where lengths show it sooner, a line that is very late is left alone first.
                    let least = if maps == MIXED { 45 } else { 340 };
                    let is_few = unknown == Unknown::Nobody && count < maps.len() * least;
                    if !wrong.is_empty() || is_few {
                        let first = wrong.first().cloned();
                        bad.push((what, count, wrong.len(), first, gateway.borrow().kept.len()));
                    }
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}: {:#?}", bad.len(), &bad[..bad.len().min(60)]);
}

#[test]
fn a_reload_during_the_first_proof_makes_no_reading_false() {
    let mut bad = Vec::new();
    for medium in MEDIA {
        for kept in [1, 2, 3, 6] {
            // Before the first answer, before and behind that to the proof.
            for after in [ms(2), ms(12), ms(30), ms(60)] {
                let case = Case::new(medium, Unknown::Nobody, 0, &[]);
                let all = units(&EQUAL, case.timeout);
                let (mut world, _) = restarted(&case, all.clone(), kept);
                world.run(after);
                let mut whole = settings(all);
                (whole.timeout, whole.backoff, whole.backoff_max) = (case.timeout, ms(200), 2 * SECOND);
                let mut bus = Bus::new(whole, world.now, 7);
                opened(&mut bus, case.medium);
                bus.adopt(&mut world.bus, world.now);
                world.bus = bus;
                world.bus.line_up(world.now);
                world.run(3 * MINUTE);
                let (count, wrong) = judged(&world, &[1, 2, 3]);
                if !wrong.is_empty() || count < 3 * 300 {
                    bad.push((medium, kept, after, count, wrong.len()));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}: {bad:#?}", bad.len());
}

#[test]
fn a_gateway_that_keeps_nothing_costs_a_restart_two_requests_and_a_unit_that_is_silent_to_them_six_timeouts()
{
    for medium in MEDIA {
        for (maps, is_asked) in [(&EQUAL[..], true), (&[&[2], &[4, 5]], false), (&[&[2]], false)] {
            for is_silent in [false, true] {
                let what = format!("{medium:?} {maps:?} {is_silent}");
                let case = Case::new(medium, Unknown::Nobody, 0, &[]);
                let all = units(maps, case.timeout);
                let addresses: Vec<u8> = all.iter().map(|unit| unit.address).collect();
                let (mut world, gateway) = world(&case, all);
                for address in addresses.iter().copied().filter(|_| is_silent) {
                    let gateway = gateway.clone();
                    world.behave(address, move |body| {
                        let own = (body[1] == 3).then(|| gateway.borrow_mut().answer(body, true));
                        own.into_iter().map(|own| (ms(4), frame(&[&body[..1], &own].concat()))).collect()
                    });
                }
                world.run(MINUTE);
                let others: Vec<_> = world.requests.iter().filter(|(_, body)| body[1] != 3).collect();
                assert_eq!(others.len(), usize::from(is_asked), "{what}: {others:?}");
                assert!(others.iter().all(|(_, body)| addresses.contains(&body[0])), "{what}: {others:?}");
                let (count, wrong) = judged(&world, &addresses);
                assert_eq!(wrong, [], "{what}");
                // Six timeouts are two polls of each unit, and some are in doubt then.
                let least = if is_silent { 116 } else { 118 };
                assert!(count >= least * addresses.len(), "{what}: {count}");
                for unit in 0..addresses.len() {
                    assert_eq!(world.bus.state(unit), Some(State::Up), "{what}");
                    assert_eq!(world.bus.counters(unit).unwrap().withheld, 0, "{what}");
                    let first = world.readings(unit)[0].0;
                    assert!(first < if is_silent { ms(3000) } else { ms(1500) }, "{what}: {first:?}");
                }
            }
        }
    }
}

#[test]
fn an_answer_to_a_probe_that_comes_during_a_poll_is_late_and_not_one_of_another_function() {
    for medium in MEDIA {
        for answer in [&[4, 2, 0, 7][..], &[0x84, 2]] {
            for late in [ms(20), ms(300)] {
                let what = format!("{medium:?} {answer:?} {late:?}");
                let case = Case::new(medium, Unknown::Nobody, 0, &[]);
                let (mut world, gateway) = world(&case, units(&EQUAL, case.timeout));
                for address in 1..=EQUAL.len() as u8 {
                    let (gateway, timeout) = (gateway.clone(), case.timeout);
                    world.behave(address, move |body| {
                        let (after, own) = match body[1] {
                            3 => (ms(4), gateway.borrow_mut().answer(body, true)),
                            _ => (timeout + late, answer.to_vec()),
                        };
                        vec![(after, frame(&[&body[..1], &own].concat()))]
                    });
                }
                world.run(MINUTE);
                let misfits = world.count(|event| matches!(event, Event::Misfit { .. }));
                assert_eq!(misfits, 0, "{what}");
                let addresses: Vec<u8> = (1..).take(EQUAL.len()).collect();
                let (count, wrong) = judged(&world, &addresses);
                assert!(wrong.is_empty() && count >= 115 * EQUAL.len(), "{what}: {count} {wrong:?}");
            }
        }
    }
}

#[test]
fn a_gateway_that_closes_the_connection_at_what_it_does_not_know_is_read() {
    for medium in MEDIA {
        for units_of in [&EQUAL[..], &EQUAL[..1]] {
            for (changes, is_lossy) in [(false, false), (true, false), (false, true), (true, true)] {
                let what = format!("{medium:?} {} {changes} {is_lossy}", units_of.len());
                let case = Case::new(medium, Unknown::Nobody, 0, &[]);
                let (mut world, gateway) = world(&case, units(units_of, case.timeout));
                for address in 1..=units_of.len() as u8 {
                    let (gateway, clock) = (gateway.clone(), world.clock());
                    let mut is_lost = !is_lossy;
                    world.behave(address, move |body| {
                        if body[1] != 3 {
                            return vec![(ms(4), Vec::new())];
                        }
                        // One answer is lost.
                        if clock.get() > 20 * SECOND && !std::mem::replace(&mut is_lost, true) {
                            return Vec::new();
                        }
                        let own = gateway.borrow_mut().answer(body, changes);
                        vec![(ms(4), frame(&[&body[..1], &own].concat()))]
                    });
                }
                world.run(MINUTE);
                let addresses: Vec<u8> = (1..).take(units_of.len()).collect();
                let (count, wrong) = judged(&world, &addresses);
                assert!(wrong.is_empty() && count >= 100 * units_of.len(), "{what}: {count} {wrong:?}");
            }
        }
    }
}
