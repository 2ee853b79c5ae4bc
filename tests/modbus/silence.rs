//! Units that are silent where the standard wants an exception: they are asked otherwise until
//! their values arrive, and what never arrives is named.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tombolo::proto::serial::modbus::Event;
use tombolo::proto::serial::modbus::bus::State;
use tombolo::proto::serial::modbus::learn::{Learned, Notebook, Obstacle};
use tombolo::proto::serial::modbus::map::{Kind, Register};
use tombolo::proto::serial::modbus::pdu::{Exception, Table};
use tombolo::proto::serial::modbus::settings::Unit;

use crate::support::{self, World, frame, ms, register, settings, unit};

const MINUTE: Duration = Duration::from_secs(60);

type Answers = Vec<(Duration, Vec<u8>)>;

fn span(request: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([request[2], request[3]]), u16::from_be_bytes([request[4], request[5]]))
}

/// A unit with these input registers, one each.
fn with(addresses: impl IntoIterator<Item = u16>) -> Unit {
    let registers = addresses.into_iter().map(|at| register(&format!("r{at}"), Table::Input, at, Kind::U16));
    Unit { registers: registers.collect(), ..unit(1) }
}

/// Answers what `accepts` lets pass, and is silent to the rest.
fn where_it(accepts: impl Fn(u16, u16) -> bool + 'static) -> impl FnMut(&[u8]) -> Answers {
    move |request| {
        let (address, quantity) = span(request);
        if accepts(address, quantity) { support::meter(request) } else { Vec::new() }
    }
}

/// What a reading of all these registers says.
fn whole(registers: &[Register]) -> String {
    let fields: Vec<String> =
        registers.iter().map(|register| format!("\"{}\":{}", register.name, register.address)).collect();
    format!("{{{}}}", fields.join(","))
}

/// A minute's readings are one a second, all of them `expected`, and nothing is asked in vain.
fn settled(world: &mut World, expected: &str) {
    let before = world.readings(0).len();
    let failed = world.bus.counters(0).unwrap().silent;
    world.run(MINUTE);
    let readings = world.readings(0);
    assert!(
        readings[before..].iter().all(|(_, payload)| payload == expected),
        "{:?} {:?}",
        readings.last(),
        world.bus.learned(0)
    );
    let count = readings.len() - before;
    assert!((59..=61).contains(&count), "{count} {:?}", world.bus.learned(0));
    assert_eq!(world.bus.counters(0).unwrap().silent, failed);
    assert_eq!(world.bus.state(0), Some(State::Up));
}

fn reopened(units: Vec<Unit>, learned: &Learned) -> World {
    let mut notebook = Notebook::default();
    notebook.units.insert("meter-1".to_owned(), learned.clone());
    let notebook = Notebook::parse(notebook.encode().as_bytes()).unwrap();
    let mut world = World::new(settings(units));
    let now = world.now;
    world.bus.recall(now, |unit| notebook.units.get(unit.id.as_str()).cloned());
    world
}

#[test]
fn a_unit_silent_to_reads_over_a_hole_is_read_around_it() {
    let meter = with([0, 5]);
    let expected = whole(&meter.registers);
    let hole = |address: u16, quantity: u16| quantity == 1 && [0, 5].contains(&address);
    let mut world = World::new(settings(vec![meter.clone(), unit(2)]));
    world.behave(1, where_it(hole));
    world.run(MINUTE);
    settled(&mut world, &expected);
    // The neighbour has lost nothing but turns.
    assert!(world.readings(1).len() >= 115, "{}", world.readings(1).len());
    // After a restart it is known.
    let mut again = reopened(vec![meter], &world.bus.learned(0).unwrap());
    again.behave(1, where_it(hole));
    again.run(Duration::from_secs(10));
    assert!(again.readings(0).len() >= 10);
    assert_eq!(again.count(|event| matches!(event, Event::Failed { .. })), 0);
}

#[test]
fn a_unit_silent_to_reads_over_ten_registers_is_read_in_shorter_ones() {
    let meter = with(0..40);
    let expected = whole(&meter.registers);
    let short = |_: u16, quantity: u16| quantity <= 10;
    let mut world = World::new(settings(vec![meter.clone()]));
    world.behave(1, where_it(short));
    world.run(2 * MINUTE);
    settled(&mut world, &expected);
    let learned = world.bus.learned(0).unwrap();
    assert_eq!(learned.widths().registers(), 10, "{learned:?}");
    let mut again = reopened(vec![meter], &learned);
    again.behave(1, where_it(short));
    again.run(Duration::from_secs(10));
    assert!(again.readings(0).iter().all(|(_, payload)| *payload == expected));
    assert_eq!(again.bus.counters(0).unwrap().silent, 0);
    assert!(again.readings(0).len() >= 10);
    // Another map of the same unit is read in no wider requests either.
    let mut other = reopened(vec![with(100..125)], &learned);
    other.behave(1, where_it(short));
    other.run(Duration::from_secs(10));
    assert_eq!(other.bus.counters(0).unwrap().silent, 0);
    assert!(other.readings(0).len() >= 10);
}

/// Silent to a request sooner than so long after its last answer, and to more registers than that.
fn unhurried(world: &World, pause: Duration, width: u16) -> impl FnMut(&[u8]) -> Answers + use<> {
    let clock = world.clock();
    let last: Rc<Cell<Option<Duration>>> = Rc::default();
    move |request| {
        let now = clock.get();
        let (_, quantity) = span(request);
        if last.get().is_some_and(|last| now < last + pause) || quantity > width {
            return Vec::new();
        }
        // The answer is heard some 20 ms after the request left.
        last.set(Some(now + ms(20)));
        support::meter(request)
    }
}

#[test]
fn a_unit_silent_to_requests_that_come_too_soon_is_given_the_pause_it_wants() {
    let meter = with([0, 1, 40, 41, 80]);
    let expected = whole(&meter.registers);
    let mut world = World::new(settings(vec![meter.clone(), unit(2)]));
    let behaviour = unhurried(&world, ms(100), 125);
    world.behave(1, behaviour);
    world.run(2 * MINUTE);
    settled(&mut world, &expected);
    let learned = world.bus.learned(0).unwrap();
    assert!((100..=300).contains(&learned.pause_ms), "{learned:?}");
    assert!(learned.reads.is_empty(), "nothing is taken apart for that: {learned:?}");
    let mut again = reopened(vec![meter], &learned);
    let behaviour = unhurried(&again, ms(100), 125);
    again.behave(1, behaviour);
    again.run(Duration::from_secs(10));
    assert_eq!(again.bus.counters(0).unwrap().silent, 0);
    assert!(again.readings(0).len() >= 10);
}

#[test]
fn a_unit_that_wants_both_a_pause_and_short_reads_gets_both() {
    let meter = with(0..16);
    let expected = whole(&meter.registers);
    let mut world = World::new(settings(vec![meter]));
    let behaviour = unhurried(&world, ms(90), 4);
    world.behave(1, behaviour);
    world.run(10 * MINUTE);
    settled(&mut world, &expected);
    let learned = world.bus.learned(0).unwrap();
    assert!(learned.pause_ms >= 100, "{learned:?}");
}

#[test]
fn a_register_that_is_never_answered_for_is_named_and_left_out_and_the_others_come_meanwhile() {
    let meter = with([0, 1, 2, 3, 9]);
    let without = whole(&[&meter.registers[..2], &meter.registers[3..]].concat());
    let mut world = World::new(settings(vec![meter.clone()]));
    world.behave(1, where_it(|address, quantity| !(address..address + quantity).contains(&2)));
    world.run(Duration::from_secs(30));
    assert!(!world.readings(0).is_empty(), "some values come while it is found out which do not");
    world.run(MINUTE);
    let silent = Event::Refused { unit: 0, register: 2, why: Obstacle::Silence };
    assert_eq!(world.count(|event| *event == silent), 1);
    assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(2, Obstacle::Silence)]);
    assert_eq!(world.bus.state(0), Some(State::Up));
    let before = world.readings(0).len();
    let asked = |world: &World| world.requests.iter().filter(|(_, body)| span(body) == (2, 1)).count();
    let asked_before = asked(&world);
    world.run(60 * MINUTE);
    let readings = &world.readings(0)[before..];
    assert!(readings.len() >= 3_560, "{}", readings.len());
    assert!(readings.iter().all(|(_, payload)| *payload == without), "{:?}", readings.last());
    let in_vain = asked(&world) - asked_before;
    assert!((4..=24).contains(&in_vain), "it is asked for less and less often: {in_vain}");
    assert_eq!(world.count(|event| *event == silent), 1, "told once");
    // It is known after a restart, and comes back when it can be read.
    let mut again = reopened(vec![meter.clone()], &world.bus.learned(0).unwrap());
    again.run(Duration::from_secs(10));
    assert!(again.readings(0).iter().all(|(_, payload)| *payload == without));
    assert_eq!(again.bus.obstacles(0).count(), 1);
    again.run(2 * MINUTE);
    assert_eq!(again.readings(0).pop().unwrap().1, whole(&meter.registers));
    assert_eq!(again.bus.obstacles(0).count(), 0);
}

#[test]
fn a_unit_none_of_whose_values_arrives_is_degraded_and_never_up() {
    let mut mute = with([0, 1]);
    mute.registers.push(register("holding", Table::Holding, 0, Kind::U16));
    let mut world = World::new(settings(vec![mute, unit(2)]));
    // It refuses one, and is silent to the others.
    let refusing = |request: &[u8]| {
        if request[1] == 3 { vec![(ms(5), frame(&[1, 0x83, 2]))] } else { Vec::new() }
    };
    world.behave(1, refusing);
    world.run(20 * MINUTE);
    assert_eq!(world.bus.state(0), Some(State::Degraded));
    assert_eq!(world.count(|event| matches!(event, Event::Up { unit: 0 })), 0);
    assert_eq!(world.count(|event| matches!(event, Event::Degraded { unit: 0 })), 1);
    assert_eq!(world.readings(0), []);
    let mut obstacles: Vec<(usize, Obstacle)> = world.bus.obstacles(0).collect();
    obstacles.sort_by_key(|(register, _)| *register);
    let refused = Obstacle::Exception(Exception::ILLEGAL_DATA_ADDRESS);
    assert_eq!(obstacles, [(0, Obstacle::Silence), (1, Obstacle::Silence), (2, refused)]);
    world.behave(1, support::meter);
    world.run(20 * MINUTE);
    assert_eq!(world.bus.state(0), Some(State::Up));
    assert_eq!(world.bus.obstacles(0).count(), 0);
}

#[test]
fn a_unit_that_loses_every_fourth_answer_is_not_taken_apart() {
    let meter = with(0..20);
    let expected = whole(&meter.registers);
    let mut world = World::new(settings(vec![meter]));
    let mut count = 0;
    world.behave(1, move |request| {
        count += 1;
        if count % 4 == 0 { Vec::new() } else { support::meter(request) }
    });
    world.run(60 * MINUTE);
    assert!(world.bus.learned(0).unwrap().is_empty(), "{:?}", world.bus.learned(0));
    let readings = world.readings(0);
    assert!(readings.len() > 1_500, "{}", readings.len());
    assert!(readings.iter().all(|(_, payload)| *payload == expected));
}

#[test]
fn a_unit_that_dies_and_comes_back_is_read_as_before() {
    let meter = with(0..20);
    let expected = whole(&meter.registers);
    let mut world = World::new(settings(vec![meter]));
    world.run(MINUTE);
    for _ in 0..5 {
        world.behave(1, |_| Vec::new());
        world.run(5 * MINUTE);
        assert_eq!(world.bus.state(0), Some(State::Down));
        world.behave(1, support::meter);
        world.run(2 * MINUTE);
        assert_eq!(world.bus.state(0), Some(State::Up));
    }
    assert!(world.bus.learned(0).unwrap().is_empty(), "{:?}", world.bus.learned(0));
    settled(&mut world, &expected);
}

#[test]
fn a_unit_whose_answers_to_longer_reads_come_late_is_asked_for_less_until_they_do_not() {
    let meter = with(0..20);
    let expected = whole(&meter.registers);
    let mut world = World::new(settings(vec![meter]));
    world.behave(1, |request| {
        let (_, quantity) = span(request);
        let delay = if quantity > 1 { 1_250 } else { 5 };
        vec![(ms(delay), frame(&support::answer(request)))]
    });
    world.run(10 * MINUTE);
    assert!(world.bus.counters(0).unwrap().late > 10);
    // What can be read is published meanwhile.
    assert_eq!(world.bus.state(0), Some(State::Up));
    world.run(50 * MINUTE);
    settled(&mut world, &expected);
}

#[test]
fn every_request_asks_for_whole_values_of_the_map_within_the_limits() {
    let mut mixed = unit(1);
    mixed.limits.max_registers = 6;
    mixed.registers = vec![
        register("a", Table::Holding, 10, Kind::U32),
        register("b", Table::Holding, 12, Kind::U16),
        register("c", Table::Holding, 15, Kind::U64),
        register("d", Table::Input, 3, Kind::U16),
        register("e", Table::Coil, 0, Kind::Bool(None)),
        register("f", Table::Coil, 8, Kind::Bool(None)),
    ];
    let registers = mixed.registers.clone();
    for lost in 2..7 {
        let mut world = World::new(settings(vec![mixed.clone(), unit(2)]));
        let mut count = 0;
        world.behave(1, move |request| {
            count += 1;
            if count % lost == 0 || (request[1] == 3 && span(request).1 > 4) {
                Vec::new()
            } else {
                support::meter(request)
            }
        });
        world.run(10 * MINUTE);
        for (_, body) in world.requests.iter().filter(|(_, body)| body[0] == 1) {
            let (address, quantity) = span(body);
            let own = registers.iter().filter(|register| register.table.function() == body[1]);
            let (mut begins, mut ends) = (false, false);
            for register in own {
                begins |= register.address == address;
                ends |= register.end() == u32::from(address) + u32::from(quantity);
            }
            assert!(begins && ends, "{body:?}");
            assert!(body[1] != 3 || quantity <= 6, "{body:?}");
        }
    }
}

#[test]
fn exceptions_1_4_and_6_take_a_read_apart_as_2_and_3_do_and_good_neighbours_come() {
    for code in [1, 2, 3, 4, 6] {
        let meter = with([0, 1, 2, 3]);
        let without = whole(&[&meter.registers[..2], &meter.registers[3..]].concat());
        let mut world = World::new(settings(vec![meter]));
        world.behave(1, move |request| {
            let (address, quantity) = span(request);
            if (address..address + quantity).contains(&2) {
                vec![(ms(5), frame(&[1, request[1] | 0x80, code]))]
            } else {
                support::meter(request)
            }
        });
        world.run(Duration::from_secs(10));
        let readings = world.readings(0);
        // Behind 6 the data is waited for, three times.
        assert!(readings.len() >= if code == 6 { 8 } else { 10 }, "{code}");
        assert!(readings.iter().all(|(_, payload)| *payload == without), "{code}: {readings:?}");
        let why = Obstacle::Exception(Exception(code));
        assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(2, why)]);
    }
}

#[test]
fn a_unit_that_was_busy_once_is_asked_for_the_whole_again() {
    for code in [4, 6] {
        let meter = with([0, 1, 2, 3]);
        let expected = whole(&meter.registers);
        let mut world = World::new(settings(vec![meter]));
        let mut count = 0;
        world.behave(1, move |request| {
            count += 1;
            if count == 5 { vec![(ms(5), frame(&[1, 0x84, code]))] } else { support::meter(request) }
        });
        world.run(Duration::from_secs(20));
        assert!(world.readings(0).len() >= 20);
        assert!(world.readings(0).iter().all(|(_, payload)| *payload == expected), "no value is missing");
        assert!(world.bus.learned(0).unwrap().is_empty(), "{code}: {:?}", world.bus.learned(0));
        let last = world.requests.last().unwrap();
        assert_eq!(span(&last.1), (0, 4));
    }
}

#[test]
fn a_unit_that_says_busy_first_after_each_idle_time_is_read_whole() {
    // With exceptions for so long after it was idle; at least for one request.
    for (code, busy) in [(5, 0), (6, 0), (6, 80), (5, 350), (6, 350)] {
        let mut meter = with([0, 1, 2, 3, 40]);
        meter.period = 2 * Duration::from_secs(1);
        let expected = whole(&meter.registers);
        let mut world = World::new(settings(vec![meter, unit(2)]));
        let clock = world.clock();
        let (mut last, mut woken) = (None, Duration::ZERO);
        world.behave(1, move |request| {
            let now = clock.get();
            let was_idle = last.is_none_or(|last| now > last + ms(800));
            last = Some(now);
            if was_idle {
                woken = now;
            }
            if was_idle || now < woken + ms(busy) {
                return vec![(ms(5), frame(&[1, 0x84, code]))];
            }
            support::meter(request)
        });
        world.run(MINUTE);
        let readings = world.readings(0);
        assert!(readings.len() >= 29, "{code} {busy}: {}", readings.len());
        assert!(readings.iter().all(|(_, payload)| *payload == expected), "{code} {busy}: {readings:?}");
        assert_eq!(world.bus.obstacles(0).count(), 0);
        assert!(world.bus.learned(0).unwrap().is_empty());
        assert!(world.readings(1).len() >= 59);
    }
}

#[test]
fn a_unit_that_is_always_busy_for_one_register_is_asked_for_it_twice_a_poll_at_most() {
    let meter = with([0, 1, 2, 3]);
    let mut world = World::new(settings(vec![meter]));
    world.behave(1, |request| {
        let (address, quantity) = span(request);
        if (address..address + quantity).contains(&2) {
            return vec![(ms(5), frame(&[1, 0x84, 6]))];
        }
        support::meter(request)
    });
    world.run(MINUTE);
    let before = world.requests.len();
    world.run(MINUTE);
    // Three parts, one of them twice.
    assert!(world.requests.len() - before <= 4 * 61, "{}", world.requests.len() - before);
}

#[test]
fn a_unit_whose_values_lack_the_register_that_scales_them_is_degraded_and_never_up() {
    // Addresses 0 and 40 are read apart.
    for is_silent in [false, true] {
        for first in [true, false] {
            let mut meter = with([0, 40]);
            let (raw, scale) = if first { (0, 1) } else { (1, 0) };
            meter.registers[raw].exponent = Some(scale);
            let refused = meter.registers[scale].address;
            let mut world = World::new(settings(vec![meter.clone()]));
            let refuse = move |request: &[u8]| {
                let (address, quantity) = span(request);
                if !(address..address + quantity).contains(&refused) {
                    return support::meter(request);
                }
                if is_silent { Vec::new() } else { vec![(ms(5), frame(&[1, 0x84, 2]))] }
            };
            world.behave(1, move |request| refuse(request));
            world.run(5 * MINUTE);
            assert_eq!(world.readings(0), []);
            assert_eq!(world.bus.state(0), Some(State::Degraded), "{is_silent} {first}");
            assert_eq!(world.count(|event| matches!(event, Event::Up { .. })), 0);
            let left_out = world.bus.obstacles(0).map(|(at, _)| at).collect::<Vec<_>>();
            assert!(left_out.contains(&0) && left_out.contains(&1), "{left_out:?}");
            // The scale comes: both are read.
            world.behave(1, |request| {
                let (_, quantity) = span(request);
                let values = (0..quantity).flat_map(|_| [0, 1]).collect::<Vec<u8>>();
                let head = [1, request[1], 2 * quantity as u8];
                vec![(ms(5), frame(&[&head[..], &values].concat()))]
            });
            world.run(10 * MINUTE);
            assert_eq!(world.bus.state(0), Some(State::Up));
            let (_, payload) = world.readings(0).pop().unwrap();
            assert_eq!(payload.matches(':').count(), 2, "{payload}");
            assert!(payload.contains(":10"), "{payload}");
        }
    }
}

#[test]
fn how_many_coils_a_unit_answers_says_nothing_of_its_registers() {
    let coils = |count: u16| {
        let coil = |at: u16| register(&format!("c{at}"), Table::Coil, at, Kind::Bool(None));
        Unit { registers: (0..count).map(coil).collect(), ..unit(1) }
    };
    let short = |request: &[u8]| {
        if request[1] == 1 && span(request).1 > 10 { Vec::new() } else { support::meter(request) }
    };
    let mut world = World::new(settings(vec![coils(40)]));
    world.behave(1, short);
    world.run(2 * MINUTE);
    let learned = world.bus.learned(0).unwrap();
    assert_eq!((learned.widths().bits(), learned.widths().registers()), (10, 0), "{learned:?}");
    // Another map, with registers beside the coils.
    let mut mixed = coils(20);
    mixed.registers.extend(with(0..30).registers);
    let mut again = reopened(vec![mixed], &learned);
    again.behave(1, short);
    again.run(MINUTE);
    let asked = |function: u8| {
        let own = again.requests.iter().filter(move |(_, body)| body[1] == function);
        own.map(|(_, body)| span(body).1).max().unwrap()
    };
    assert_eq!((asked(1), asked(4)), (10, 30));
    assert_eq!(again.bus.counters(0).unwrap().silent, 0);
}

#[test]
fn a_width_that_an_earlier_release_kept_is_that_of_registers() {
    let notebook = Notebook::parse(b"{\"units\":{\"a\":{\"pause_ms\":0,\"width\":7,\"map\":0}}}").unwrap();
    let learned = &notebook.units["a"];
    assert!(!learned.is_empty());
    assert_eq!((learned.widths().registers(), learned.widths().bits()), (7, 0));
    let mut world = World::new(settings(vec![with(0..20)]));
    let now = world.now;
    world.bus.recall(now, |_| Some(learned.clone()));
    world.run(Duration::from_secs(10));
    assert_eq!(world.requests.iter().map(|(_, body)| span(body).1).max(), Some(7));
    // What it writes is read back.
    let again = Notebook::parse(
        Notebook { units: [("a".to_owned(), world.bus.learned(0).unwrap())].into() }.encode().as_bytes(),
    );
    assert_eq!(again.unwrap().units["a"].widths().registers(), 7);
}

#[test]
fn after_a_reload_a_late_answer_is_not_taken_for_another_registers() {
    [10, 15, 20, 25, 330].into_iter().for_each(late_after_a_reload);
}

fn late_after_a_reload(after: u64) {
    // One shape only: an answer does not say which register it is of.
    let meter = with([10, 40]);
    let mut world = World::new(settings(vec![meter.clone()]));
    world.run(10 * Duration::from_secs(1));
    world.behave(1, |_| Vec::new());
    let before = world.requests.len();
    while world.requests.len() == before {
        world.run(ms(100));
    }
    let asked = span(&world.requests.last().unwrap().1).0;
    // The map is the other way round now.
    let mut swapped = with([40, 10]);
    swapped.id = meter.id.clone();
    let mut next = World::new(settings(vec![]));
    next.bus = tombolo::proto::serial::modbus::Bus::new(settings(vec![swapped]), world.now, 7);
    let still = world.bus.still_to_come();
    assert!(still >= ms(900), "{still:?}");
    next.bus.adopt(&mut world.bus, world.now);
    next.now = world.now;
    next.bus.line_up(world.now);
    next.behave(1, support::meter);
    let late = frame(&[&[1, 4, 2][..], &asked.to_be_bytes()].concat());
    // At once, or so late that it comes to the first request after the reload.
    next.inject(ms(after), &late);
    next.run(MINUTE);
    assert!(next.readings(0).len() > 20);
    for (at, payload) in next.readings(0) {
        assert!(payload.contains("\"r10\":10") || !payload.contains("r10"), "{after} {at:?} {payload}");
        assert!(payload.contains("\"r40\":40") || !payload.contains("r40"), "{after} {at:?} {payload}");
    }
}

/// Answers each read with six registers, whatever was asked for.
fn verbose(request: &[u8]) -> Answers {
    let mut body = vec![request[0], request[1], 12];
    (7..13u16).for_each(|word| body.extend(word.to_be_bytes()));
    vec![(ms(5), frame(&body))]
}

#[test]
fn an_answer_of_another_length_names_itself_and_is_read_where_that_is_configured() {
    let mut world = World::new(settings(vec![unit(1)]));
    world.behave(1, verbose);
    world.run(MINUTE);
    let misfit = |is_configurable| Event::Misfit {
        unit: 0,
        function: 3,
        asked_function: 3,
        bytes: 12,
        asked: 2,
        is_configurable,
    };
    // The first ones may be answers to what an earlier process asked.
    assert_eq!(world.count(|event| *event == misfit(false)), 3, "{:?}", world.events);
    assert!(world.count(|event| *event == misfit(true)) >= 3, "{:?}", world.events);
    assert!(world.bus.failing(0).unwrap().misfit.unwrap().may_be_configured());
    assert!(world.bus.counters(0).unwrap().misfits >= 3);
    assert_eq!(world.readings(0), []);
    let mut configured = unit(1);
    configured.registers[0].answer_bytes = Some(12);
    let mut world = World::new(settings(vec![configured]));
    world.behave(1, verbose);
    world.run(Duration::from_secs(10));
    assert!(world.readings(0).len() >= 10);
    assert!(world.readings(0).iter().all(|(_, payload)| payload == r#"{"value":7}"#));
}

#[test]
fn what_was_learned_of_another_map_is_not_used_and_a_damaged_notebook_is_none() {
    let meter = with([0, 5]);
    let learned = Learned {
        map: 1,
        reads: vec![("input".to_owned(), 0, 1), ("input".to_owned(), 5, 1)],
        ..Learned::default()
    };
    let mut world = reopened(vec![meter], &learned);
    world.run(ms(500));
    assert_eq!(span(&world.requests.last().unwrap().1), (0, 6));
    assert!(Notebook::parse(b"{\"units\":").is_err());
    assert!(Notebook::parse(b"{\"units\":{\"a\":{\"width\":70000}}}").is_err());
}

#[test]
fn a_unit_that_can_be_read_as_configured_again_is_after_a_day_at_most() {
    let meter = with(0..40);
    let mut world = World::new(settings(vec![meter]));
    let clock = world.clock();
    let mended = 30 * 3600;
    world.behave(1, move |request| {
        let is_narrow = clock.get() < Duration::from_secs(mended);
        if is_narrow && span(request).1 > 10 { Vec::new() } else { support::meter(request) }
    });
    world.run(2 * MINUTE);
    assert_eq!(world.bus.learned(0).unwrap().widths().registers(), 10);
    let silent = world.bus.counters(0).unwrap().silent;
    world.run(Duration::from_secs(26 * 3600));
    // The trials of the first day, after 10, 20, 40 … minutes, cost one answer each, no reading.
    assert_eq!(world.bus.learned(0).unwrap().widths().registers(), 10);
    let trials = world.bus.counters(0).unwrap().silent - silent;
    assert!((6..=9).contains(&trials), "{trials}");
    world.run(Duration::from_secs(24 * 3600));
    assert!(world.bus.learned(0).unwrap().is_empty(), "{:?}", world.bus.learned(0));
    assert_eq!(span(&world.requests.last().unwrap().1), (0, 40));
}

#[test]
fn an_answer_of_another_function_names_itself() {
    for function in [4, 0x84, 0x41] {
        let mut world = World::new(settings(vec![unit(1)]));
        world.behave(1, move |request| {
            let body = match function {
                0x84 => vec![request[0], function, 2],
                _ => vec![request[0], function, 2, 0, 7],
            };
            vec![(ms(5), frame(&body))]
        });
        world.run(Duration::from_secs(20));
        let is_named = |event: &Event| matches!(event, Event::Misfit { function: answered, asked_function: 3, .. } if *answered == function);
        assert!(world.count(is_named) >= 3, "{function}: {:?}", world.events);
        assert_eq!(world.readings(0), []);
    }
}

#[test]
fn an_address_as_manuals_count_it_that_is_refused_hints_at_that() {
    for (address, table, is_hint) in [
        (40_001, Table::Holding, true),
        (40_123, Table::Holding, true),
        (30_001, Table::Input, true),
        (30_001, Table::Holding, true),
        (10_001, Table::Discrete, true),
        (40_000, Table::Holding, false),
        (40_001, Table::Input, false),
        (1, Table::Holding, false),
        (50_001, Table::Holding, false),
    ] {
        let mut meter = unit(1);
        meter.registers =
            vec![register("fine", Table::Holding, 0, Kind::U16), register("r", table, address, Kind::U16)];
        if table.has_bits() {
            meter.registers[1].kind = Kind::Bool(None);
        }
        let numbered = Register { numbered: true, ..meter.registers[1].clone() };
        for answers in [true, false] {
            let mut world = World::new(settings(vec![meter.clone()]));
            world.behave(1, move |request| {
                let (first, quantity) = span(request);
                match (first..first + quantity).contains(&address) {
                    false => support::meter(request),
                    true if answers => vec![(ms(5), frame(&[1, request[1] | 0x80, 2]))],
                    true => Vec::new(),
                }
            });
            world.run(5 * MINUTE);
            let (at, why) = world.bus.obstacles(0).next().expect("it is refused");
            let kind = if answers { Obstacle::Exception(Exception(2)) } else { Obstacle::Silence };
            assert_eq!((at, why), (1, kind), "{address} {table}");
            let told = why.of(&world.bus.unit(0).unwrap().registers[at]);
            let hint =
                format!("manuals count so; if {address} is a manual's number, set numbering = \"manual\"");
            assert_eq!(told.contains(&hint), is_hint, "{address} {table}: {told}");
            assert!(told.starts_with(&why.to_string()));
            // Where the configuration says how it is counted, nothing is guessed.
            assert_eq!(why.of(&numbered), why.to_string());
        }
        // Nor is the address at fault if the unit is busy, or late.
        for why in [Obstacle::Exception(Exception(6)), Obstacle::Late, Obstacle::Damage] {
            assert_eq!(why.of(&meter.registers[1]), why.to_string());
        }
    }
}

/// A unit that answers every second request only, or all but every second.
fn every_second(first: usize) -> impl FnMut(&[u8]) -> Answers {
    let mut count = first;
    move |request| {
        count += 1;
        if count.is_multiple_of(2) { support::meter(request) } else { Vec::new() }
    }
}

#[test]
fn a_unit_that_answers_every_second_request_only_is_read_in_full() {
    // One value, values of one shape, values of several shapes, and a wide read.
    let maps: [&[u16]; 4] = [&[0], &[0, 100], &[0, 100, 101, 200, 201, 202], &[0, 1, 2, 3, 4, 5]];
    for map in maps {
        for first in 0..2 {
            let mut meter = with(map.iter().copied());
            meter.period = Duration::from_secs(5);
            let expected = whole(&meter.registers);
            let mut world = World::new(settings(vec![meter, unit(2)]));
            world.behave(1, every_second(first));
            world.run(3 * MINUTE);
            let before = world.readings(0).len();
            world.run(5 * MINUTE);
            let readings = world.readings(0);
            let whole = readings[before..].iter().filter(|(_, payload)| *payload == expected).count();
            assert!(whole >= 25, "{map:?} {first}: {whole} {:?} {:?}", readings.last(), world.bus.learned(0));
            assert_eq!(world.bus.state(0), Some(State::Up));
            assert_eq!(world.bus.obstacles(0).count(), 0, "{map:?} {first}");
            assert!(world.readings(1).len() > 440, "the other unit: {}", world.readings(1).len());
        }
    }
}

#[test]
fn a_width_that_an_earlier_release_learned_of_one_table_is_not_that_of_the_other() {
    let kept = |reads: &str| {
        let text = format!("{{\"units\":{{\"a\":{{\"width\":7,\"map\":0,\"reads\":[{reads}]}}}}}}");
        Notebook::parse(text.as_bytes()).unwrap().units["a"].widths()
    };
    let widths = kept(r#"["input",0,7],["input",7,5],["holding",0,40]"#);
    assert_eq!((widths.input, widths.holding), (7, 0));
    let widths = kept(r#"["holding",0,7],["holding",7,7]"#);
    assert_eq!((widths.input, widths.holding), (0, 7));
    let widths = kept(r#"["holding",0,7],["input",7,7]"#);
    assert_eq!((widths.input, widths.holding, widths.bits()), (7, 7, 0));
    assert_eq!((kept("").input, kept("").holding), (7, 7));
}

#[test]
fn exceptions_in_a_regular_pattern_neither_split_reads_nor_blank_a_value() {
    let maps: [&[u16]; 3] =
        [&[0, 1, 2, 3], &[0, 40, 80, 120, 160, 200], &[0, 1, 40, 41, 42, 80, 120, 160, 161]];
    for code in [4, 5, 6] {
        for map in maps {
            // So many exceptions before each answer, or one before so many answers.
            for (refused, answered) in [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2)] {
                let mut meter = with(map.iter().copied());
                meter.period = Duration::from_secs(10);
                let expected = whole(&meter.registers);
                let mut world = World::new(settings(vec![meter]));
                let mut count = 0;
                world.behave(1, move |request| {
                    count += 1;
                    if count % (refused + answered) < refused {
                        return vec![(ms(5), frame(&[1, request[1] | 0x80, code]))];
                    }
                    support::meter(request)
                });
                world.run(10 * MINUTE);
                let readings = world.readings(0);
                let what = format!("{code} {map:?} {refused} {answered}");
                assert!(readings.len() >= 59, "{what}: {}", readings.len());
                assert!(readings.iter().all(|(_, payload)| *payload == expected), "{what}: {readings:?}");
                assert_eq!(world.bus.obstacles(0).count(), 0, "{what}");
                assert!(world.bus.learned(0).unwrap().is_empty(), "{what} {:?}", world.bus.learned(0));
            }
        }
    }
}

#[test]
fn a_unit_that_was_taken_apart_while_it_was_busy_is_read_whole_again_within_the_hour() {
    let meter = with([0, 1, 2, 3, 4, 5]);
    let mut world = World::new(settings(vec![meter]));
    let clock = world.clock();
    world.behave(1, move |request| {
        // Busy with its own work, for longer than anything is asked for again.
        if clock.get() < MINUTE && span(request).1 > 1 {
            return vec![(ms(5), frame(&[1, request[1] | 0x80, 6]))];
        }
        support::meter(request)
    });
    world.run(MINUTE);
    assert!(!world.bus.learned(0).unwrap().reads.is_empty());
    world.run(60 * MINUTE);
    assert!(world.bus.learned(0).unwrap().is_empty(), "{:?}", world.bus.learned(0));
    assert_eq!(span(&world.requests.last().unwrap().1), (0, 6));
}

#[test]
fn what_was_learned_goes_with_a_unit_whose_id_changes_and_not_with_another_at_its_place() {
    let learned =
        |place: &str, pause_ms| Learned { place: place.to_owned(), pause_ms, map: 5, ..Learned::default() };
    let mut notebook = Notebook::default();
    notebook.put("bus-1", learned("/dev/ttyUSB0 1", 100), |_| true);
    notebook.put("bus-2", learned("/dev/ttyUSB0 2", 300), |_| true);
    let of = |id: &str, place: &str, map: u32, configured: &[&str]| {
        let is_configured = |id: &str| configured.contains(&id);
        notebook.of(id, place, map, is_configured).map(|learned| learned.pause_ms)
    };
    assert_eq!(of("bus-1", "/dev/ttyUSB0 9", 7, &[]), Some(100), "its own id");
    assert_eq!(of("new-2", "/dev/ttyUSB0 2", 5, &["new-1", "new-2"]), Some(300));
    assert_eq!(of("new-2", "/dev/ttyUSB0 2", 5, &["new-2", "bus-2"]), None, "that one is still there");
    assert_eq!(of("new-2", "/dev/ttyUSB0 2", 6, &["new-2"]), None, "another map");
    assert_eq!(of("new-2", "/dev/ttyUSB1 2", 5, &["new-2"]), None, "another port");
    assert_eq!(of("new-2", "", 5, &["new-2"]), None);
    // Once it is kept under the new id, the old one is forgotten.
    notebook.put("new-2", learned("/dev/ttyUSB0 2", 300), |id| id == "new-2");
    assert_eq!(notebook.units.keys().collect::<Vec<_>>(), ["bus-1", "new-2"]);
    notebook.put("new-2", Learned { place: "/dev/ttyUSB0 2".to_owned(), ..Learned::default() }, |_| true);
    assert_eq!(notebook.units.keys().collect::<Vec<_>>(), ["bus-1"]);
}

#[test]
fn a_unit_that_was_down_and_is_another_one_is_asked_as_configured_at_once() {
    let meter = with(0..40);
    let mut world = World::new(settings(vec![meter]));
    world.behave(1, |request| if span(request).1 > 10 { Vec::new() } else { support::meter(request) });
    world.run(3 * MINUTE);
    assert_eq!(world.bus.learned(0).unwrap().widths().registers(), 10);
    world.behave(1, |_| Vec::new());
    world.run(2 * MINUTE);
    assert_eq!(world.bus.state(0), Some(State::Down));
    world.behave(1, support::meter);
    world.run(2 * MINUTE);
    assert!(world.bus.learned(0).unwrap().is_empty(), "{:?}", world.bus.learned(0));
}

#[test]
fn a_register_that_is_refused_as_before_does_not_keep_the_others_from_being_read_as_configured_again() {
    let meter = with((0..40).chain([200]));
    let mut world = World::new(settings(vec![meter]));
    let clock = world.clock();
    world.behave(1, move |request| match span(request) {
        (200, _) => vec![(ms(5), frame(&[1, request[1] | 0x80, 2]))],
        (_, quantity) if quantity > 10 && clock.get() < 3 * MINUTE => Vec::new(),
        _ => support::meter(request),
    });
    world.run(3 * MINUTE);
    assert_eq!(world.bus.learned(0).unwrap().widths().registers(), 10);
    world.run(20 * MINUTE);
    assert!(world.bus.learned(0).unwrap().is_empty(), "{:?}", world.bus.learned(0));
    assert_eq!(world.bus.obstacles(0).count(), 1);
}

#[test]
fn units_behind_a_converter_that_needs_a_rest_after_any_answer_are_all_read() {
    let maps = [&[0_u16, 20, 40][..], &[0]];
    for (addresses, map) in [(&[1_u8, 2][..], maps[0]), (&[1, 2, 3], maps[0]), (&[1, 2, 3], maps[1])] {
        let of = |address: &u8| Unit {
            registers: with(map.iter().copied()).registers,
            period: Duration::from_secs(3),
            ..unit(*address)
        };
        let units: Vec<Unit> = addresses.iter().map(of).collect();
        let expected = whole(&units[0].registers);
        let mut world = World::new(settings(units));
        let last: Rc<Cell<Option<Duration>>> = Rc::default();
        for address in addresses {
            let (clock, last) = (world.clock(), last.clone());
            world.behave(*address, move |request| {
                let now = clock.get();
                if last.get().is_some_and(|last| now < last + ms(80)) {
                    return Vec::new();
                }
                last.set(Some(now + ms(20)));
                support::meter(request)
            });
        }
        world.run(8 * MINUTE);
        let count = |world: &World, index| {
            world.readings(index).iter().filter(|(_, payload)| *payload == expected).count()
        };
        let before: Vec<usize> = (0..addresses.len()).map(|index| count(&world, index)).collect();
        world.run(MINUTE);
        for (index, before) in before.iter().enumerate() {
            let after = count(&world, index);
            assert!(after >= before + 19, "{map:?} {index} {before} {after}");
            // The first to be asked may not need it, if it has one read only.
            assert!(
                (map.len(), index) == (1, 0) || world.bus.learned(index).unwrap().pause_ms == 100,
                "{index}"
            );
            assert_eq!(world.bus.obstacles(index).count(), 0);
        }
        // That it is put to the test costs little.
        world.run(21 * MINUTE);
        for (index, before) in before.iter().enumerate() {
            let after = count(&world, index);
            assert!(after >= before + 400, "{map:?} {index} {before} {after}");
        }
    }
}

/// The right answer to what is not `damaged`, and a damaged one of the same length to the rest.
fn spoiling(damaged: impl Fn(u16, u16) -> bool + 'static) -> impl FnMut(&[u8]) -> Answers {
    move |request| {
        let mut answers = support::meter(request);
        let (address, quantity) = span(request);
        if damaged(address, quantity)
            && let Some(last) = answers.last_mut().and_then(|(_, bytes)| bytes.last_mut())
        {
            *last ^= 0x10;
        }
        answers
    }
}

#[test]
fn a_register_that_does_not_arrive_for_twenty_polls_is_named_whatever_the_cause() {
    let mut world = World::new(settings(vec![with([0, 40])]));
    world.behave(1, spoiling(|address, _| address == 40));
    world.run(3 * MINUTE);
    assert_eq!(world.bus.state(0), Some(State::Up));
    assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(1, Obstacle::Damaged)]);
    let named = Event::Refused { unit: 0, register: 1, why: Obstacle::Damaged };
    assert_eq!(world.count(|event| *event == named), 1);
    // It is asked for all the time, and forgotten when it is there.
    world.behave(1, support::meter);
    world.run(MINUTE);
    assert_eq!(world.bus.obstacles(0).count(), 0);
    assert_eq!(world.readings(0).pop().unwrap().1, whole(&with([0, 40]).registers));
}

#[test]
fn a_register_for_which_a_gateway_has_no_answer_is_named_with_what_the_gateway_says() {
    let mut world = World::new(settings(vec![with([0, 40])]));
    world.behave(1, |request| match span(request) {
        (40, _) => vec![(ms(5), frame(&[1, request[1] | 0x80, 11]))],
        _ => support::meter(request),
    });
    world.run(3 * MINUTE);
    assert_eq!(world.bus.obstacles(0).collect::<Vec<_>>(), [(1, Obstacle::Exception(Exception(11)))]);
}

#[test]
fn a_line_that_needs_a_longer_rest_than_is_learned_is_told_the_pause_to_set() {
    for (rest, is_set) in [(300, false), (300, true), (450, false), (0, false)] {
        let of = |address: u8| Unit {
            registers: with([0, 20, 40]).registers,
            period: Duration::from_secs(10),
            pause: if is_set { ms(rest) } else { Duration::ZERO },
            ..unit(address)
        };
        let mut world = World::new(settings(vec![of(1), of(2), of(3)]));
        let last: Rc<Cell<Option<Duration>>> = Rc::default();
        for address in [1, 2, 3] {
            let (clock, last) = (world.clock(), last.clone());
            world.behave(address, move |request| {
                let now = clock.get();
                // One that never answers for a register is no reason to rest.
                if last.get().is_some_and(|last| now < last + ms(rest)) || rest == 0 && request[3] == 20 {
                    return Vec::new();
                }
                last.set(Some(now + ms(20)));
                support::meter(request)
            });
        }
        world.run(30 * MINUTE);
        let before: Vec<usize> = (0..3).map(|index| world.readings(index).len()).collect();
        world.run(30 * MINUTE);
        let least = (0..3).map(|index| world.readings(index).len() - before[index]).min();
        let advised: Vec<_> = (0..3).filter_map(|index| world.bus.rest_advised(index)).collect();
        let left_out = (0..3).map(|index| world.bus.obstacles(index).count()).sum::<usize>();
        for index in 0..3 {
            // Its silence is not called one to the register.
            let is_named = |(_, why): (usize, Obstacle)| match world.bus.rest_advised(index) {
                Some(rest) => why == Obstacle::Haste(rest.as_millis() as u16),
                None => !matches!(why, Obstacle::Haste(_)),
            };
            assert!(world.bus.obstacles(index).all(is_named), "{rest} {index}");
        }
        match (rest, is_set) {
            (0, _) => assert!(advised.is_empty() && left_out == 3, "{advised:?} {left_out}"),
            (_, true) => assert!(advised.is_empty() && left_out == 0, "{advised:?} {left_out}"),
            // A pause of this length is found out for reads that are sent again in doubt.
            (300, false) => assert!(left_out == 0 && least >= Some(175), "{least:?} {left_out}"),
            (_, false) => {
                assert!(left_out > 0 && !advised.is_empty(), "{rest} {left_out}");
                let is_it = |pause: &Duration| *pause >= ms(rest) && *pause <= Duration::from_secs(1);
                assert!(advised.iter().all(is_it), "{rest} {advised:?}");
            }
        }
    }
}
