//! What the gateway knows of a unit over a restart, a reload, and the removal of a unit; and state
//! files that somebody changed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tombolo::proto::serial::modbus::Bus;
use tombolo::proto::serial::modbus::bus::State;
use tombolo::proto::serial::modbus::learn::{self, LEFT_MAX, Learned, Notebook};
use tombolo::proto::serial::modbus::map::Kind;
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::plan::{Limits, Widths};
use tombolo::proto::serial::modbus::settings::Unit;

use crate::support::{World, answer, frame, ms, register, settings, unit};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn with(address: u8, registers: &[u16]) -> Unit {
    let named = |at: &u16| register(&format!("r{at}"), Table::Holding, *at, Kind::U16);
    Unit { registers: registers.iter().map(named).collect(), ..unit(address) }
}

/// The false values of a unit whose registers hold their own address.
fn exchanged(world: &World, unit: usize) -> Vec<(Duration, String)> {
    let is_false = |payload: &String| {
        let values: serde_json::Map<String, serde_json::Value> = serde_json::from_str(payload).unwrap();
        values.into_iter().any(|(name, value)| name[1..].parse().ok() != value.as_u64())
    };
    world.readings(unit).into_iter().filter(|(_, payload)| is_false(payload)).collect()
}

/// The daemon goes on with other units: a bus of them takes over from the one of before.
fn reload(world: &mut World, units: Vec<Unit>, notebook: &Notebook) {
    let mut next = Bus::new(settings(units), world.now, 7);
    next.recall(world.now, |unit| notebook.units.get(unit.id.as_str()).cloned());
    next.adopt(&mut world.bus, world.now);
    next.line_up(world.now);
    world.bus = next;
}

#[test]
fn a_notebook_that_somebody_changed_keeps_no_unit_from_being_read_within_its_limits() {
    let limits = Limits { max_registers: 10, max_gap: 8 };
    let far = Unit { limits, period: ms(2_000), ..with(1, &[0, 1, 40, 41, 1_000]) };
    let map = learn::fingerprint(&far.registers, limits);
    let reads = |reads: &[(&str, u16, u16)]| {
        let reads = reads.iter().map(|(table, at, count)| ((*table).to_owned(), *at, *count)).collect();
        Learned { map, reads, ..Learned::default() }
    };
    let single =
        [("holding", 0, 1), ("holding", 1, 1), ("holding", 40, 1), ("holding", 41, 1), ("holding", 1_000, 1)];
    let all = || ["r0", "r1", "r40", "r41", "r1000"].map(str::to_owned).to_vec();
    let widths = |width| Widths { coil: width, discrete: width, holding: width, input: width };
    let cases = [
        Learned { pause_ms: u64::MAX, ..Learned::default() },
        Learned { timeout_ms: u64::MAX, ..Learned::default() },
        Learned { pause_ms: u64::MAX, timeout_ms: u64::MAX, width: 1, ..Learned::default() },
        Learned { widths: widths(1), ..Learned::default() },
        Learned { widths: widths(u16::MAX), width: u16::MAX, ..Learned::default() },
        // More than any request can ask for, and more than this unit may be asked for.
        reads(&[("holding", 0, 1_001)]),
        reads(&[("holding", 0, 42), ("holding", 1_000, 1)]),
        reads(&[("holding", 0, u16::MAX)]),
        reads(&[("holding", u16::MAX, u16::MAX)]),
        reads(&[("holding", 0, 0)]),
        reads(&[("coil", 0, 2), ("", 40, 2), ("holding", 1_000, 1)]),
        reads(&[single[0], single[0], single[1], single[2], single[3], single[4]]),
        Learned { silent: all(), ..reads(&single) },
        Learned { silent: vec!["\u{1b}[2J".to_owned(), String::new()], ..reads(&single) },
        Learned { silent: all(), map, ..Learned::default() },
        Learned { place: "x".repeat(100_000), ..reads(&single) },
    ];
    for learned in cases {
        let what = format!("{:?}", Learned { place: String::new(), ..learned.clone() });
        let notebook = Notebook { units: [("meter-1".to_owned(), learned)].into() };
        let notebook = Notebook::parse(notebook.encode().as_bytes()).unwrap();
        let mut world = World::new(settings(vec![far.clone(), unit(2)]));
        world.bus.recall(world.now, |unit| notebook.units.get(unit.id.as_str()).cloned());
        world.run(3 * MINUTE);
        let whole = world.readings(0).iter().filter(|(_, payload)| payload.matches(':').count() == 5).count();
        assert!(whole >= 30, "{what}: {whole} of 90");
        assert_eq!(exchanged(&world, 0), [], "{what}");
        assert_eq!(world.bus.state(0), Some(State::Up), "{what}");
        // Its neighbour has its period of a second, but for what the longest pause costs the line.
        assert!(world.readings(1).len() >= 120, "{what}: {}", world.readings(1).len());
        let most = world.requests.iter().map(|(_, body)| u16::from_be_bytes([body[4], body[5]])).max();
        assert!(most <= Some(10), "{what}: {most:?} registers");
        // And in the end it is asked as configured.
        world.run(60 * MINUTE);
        let learned = world.bus.learned(0).unwrap();
        assert!(learned.reads.is_empty() && learned.silent.is_empty(), "{what}: {learned:?}");
        assert!(learned.pause_ms <= 1_000 && learned.timeout_ms <= 1_200, "{what}: {learned:?}");
    }
}

#[test]
fn a_state_file_that_is_no_notebook_is_refused_with_a_reason_and_never_taken_in_part() {
    let deep = format!("{{\"units\":{}", "[".repeat(200_000));
    let many = format!("{{\"units\":{{\"a\":{{\"silent\":[{}\"\"]}}}}}}", "\"x\",".repeat(300_000));
    assert_eq!(Notebook::parse(many.as_bytes()).unwrap().units["a"].silent.len(), 300_001);
    for text in [
        "",
        "\0\0\0\0",
        "null",
        "{\"units\":[]}",
        "{\"units\":{\"a\":{\"pause_ms\":-1}}}",
        "{\"units\":{\"a\":{\"pause_ms\":1e300}}}",
        "{\"units\":{\"a\":{\"reads\":[[\"holding\",0,65536]]}}}",
        "{\"units\":{\"a\":{\"reads\":[[\"holding\",0]]}}}",
        "{\"units\":{\"a\":{}}} and more",
        "{\"units\":{\"a\":{\"map\":4294967296}}}",
        &deep,
    ] {
        let refused = Notebook::parse(text.as_bytes()).unwrap_err();
        assert!(refused.starts_with("it is not what was written: "), "{refused}");
    }
    assert!(Notebook::parse(b"{\"units\":{\"\xff\":{}}}").is_err());
}

#[test]
fn what_units_taught_that_are_configured_no_more_is_kept_for_so_many() {
    let learned = |number: u64| Learned { pause_ms: 100 + number, ..Learned::default() };
    let mut notebook = Notebook::default();
    for number in 0..1_000 {
        notebook.put(&format!("old-{number:04}"), learned(number), |_| true);
    }
    for number in 0..300 {
        notebook.put(&format!("unit-{number}"), learned(number), |_| true);
    }
    let is_configured = |id: &str| id.starts_with("unit");
    notebook.forget_left(is_configured);
    assert_eq!(notebook.units.len(), 300 + LEFT_MAX);
    assert_eq!(notebook.units.keys().filter(|id| is_configured(id)).count(), 300);
    let before = notebook.clone();
    notebook.forget_left(is_configured);
    assert_eq!(notebook, before, "nothing is written again for it");
}

#[test]
fn a_pause_a_width_and_a_wait_that_were_learned_stay_over_reloads_in_which_other_units_come_and_go() {
    // The first is silent to haste, the second to long reads, and the third is slow.
    let map: Vec<u16> = (0..20).collect();
    let units = || vec![with(1, &[0, 1, 40]), with(2, &map), with(3, &[0, 1, 40])];
    let mut world = World::new(settings(units()));
    let last: Rc<Cell<Option<Duration>>> = Rc::default();
    let clock = world.clock();
    world.behave(1, move |request| {
        let now = clock.get();
        if last.get().is_some_and(|last| now < last + ms(250)) {
            return Vec::new();
        }
        last.set(Some(now + ms(20)));
        vec![(ms(5), frame(&answer(request)))]
    });
    world.behave(2, |request| match request[5] {
        0..=8 => vec![(ms(5), frame(&answer(request)))],
        _ => Vec::new(),
    });
    world.behave(3, |request| vec![(ms(500), frame(&answer(request)))]);
    world.run(5 * MINUTE);
    let learned = |world: &World, unit: usize| world.bus.learned(unit).unwrap();
    let before: Vec<Learned> = (0..3).map(|unit| learned(&world, unit)).collect();
    assert!(before[0].pause_ms == 300 && before[2].timeout_ms > 500, "{before:#?}");
    assert!((4..=10).contains(&before[1].widths.holding), "{before:#?}");
    let mut notebook = Notebook::default();
    for (unit, learned) in before.iter().enumerate() {
        notebook.put(&format!("meter-{}", unit + 1), learned.clone(), |_| true);
    }
    // As at a restart, and each time without another one; what is learned is neither lost nor
    // given to a neighbour.
    for left in [vec![0, 1, 2], vec![0, 2], vec![1], vec![2], vec![0, 1, 2]] {
        let kept: Vec<Unit> = left.iter().map(|index| units()[*index].clone()).collect();
        reload(&mut world, kept, &notebook);
        for (unit, index) in left.iter().enumerate() {
            assert_eq!(learned(&world, unit), before[*index], "{left:?}");
        }
        let readings = world.readings(0).len();
        world.run(MINUTE);
        assert!(world.readings(0).len() > readings + 15, "{left:?}");
        for (unit, index) in left.iter().enumerate() {
            assert_eq!(learned(&world, unit), before[*index], "{left:?}");
        }
    }
    // Another device at the address, that nothing is known of, is asked as configured.
    let other = Unit { id: tombolo::message::Name::parse("other").unwrap(), ..with(1, &[0, 1, 40]) };
    reload(&mut world, vec![other], &notebook);
    assert!(learned(&world, 0).is_empty());
}

/// A converter that hands on each answer with the next request only.
fn held() -> impl FnMut(&[u8]) -> Vec<(Duration, Vec<u8>)> {
    let kept = RefCell::new(None);
    move |request| {
        let before = kept.replace(Some(frame(&answer(request))));
        before.map(|before| (ms(20), before)).into_iter().collect()
    }
}

#[test]
fn that_a_units_answers_come_one_request_late_is_known_after_a_reload_whatever_shows_it() {
    // By their values where all have one length, else by their lengths.
    for map in [&[0, 40][..], &[0, 1, 40, 41, 100, 101], &[0, 1, 40, 41, 42, 100], &[0, 1, 40]] {
        let mut world = World::new(settings(vec![with(1, map)]));
        world.behave(1, held());
        world.run(5 * MINUTE);
        assert!(world.bus.is_one_behind(0), "{map:?}");
        let notebook = Notebook::default();
        reload(&mut world, vec![with(1, map)], &notebook);
        assert!(world.bus.is_one_behind(0), "{map:?}");
        // With a neighbour that comes, and when it is removed again.
        reload(&mut world, vec![with(1, map), with(2, &[7])], &notebook);
        world.behave(2, |_| Vec::new());
        assert!(world.bus.is_one_behind(0), "{map:?}");
        world.run(MINUTE);
        reload(&mut world, vec![with(1, map)], &notebook);
        let before = world.readings(0).len();
        world.run(5 * MINUTE);
        assert!(world.bus.is_one_behind(0), "{map:?}");
        assert!(world.readings(0).len() > before + 60, "{map:?}: {}", world.readings(0).len() - before);
        assert_eq!(exchanged(&world, 0), [], "{map:?}");
        // Another address has nothing of it.
        reload(&mut world, vec![with(3, map)], &notebook);
        assert!(!world.bus.is_one_behind(0), "{map:?}");
    }
}

#[test]
fn that_each_read_is_sent_more_than_once_is_told_at_once_after_a_reload_and_no_more_of_a_unit_that_is_removed()
 {
    let float = |address| {
        let registers = vec![register("v", Table::Holding, 0, Kind::F32)];
        Unit { registers, ..unit(address) }
    };
    let mut world = World::new(settings(vec![float(1), float(2), float(3)]));
    let dice = Rc::new(RefCell::new(tombolo::splitmix::SplitMix64::new(5)));
    for address in 1..=4 {
        let dice = dice.clone();
        world.behave(address, move |request| {
            let noise = (dice.borrow_mut().next_u64() % 65_536) as f32 / 65_536.0;
            vec![(
                ms(10),
                frame(&[&[request[0], request[1], 4][..], &(230.0 + noise).to_be_bytes()].concat()),
            )]
        });
    }
    world.run(2 * MINUTE);
    let is_doubled = |world: &World| -> Vec<bool> {
        (0..world.bus.unit_count()).map(|unit| world.bus.is_doubled(unit)).collect()
    };
    assert_eq!(is_doubled(&world), [true, true, true]);
    let notebook = Notebook::default();
    reload(&mut world, vec![float(1), float(2), float(3)], &notebook);
    assert_eq!(is_doubled(&world), [true, true, true]);
    // A new one has to show it first.
    reload(&mut world, vec![float(2), float(3), float(4)], &notebook);
    assert_eq!(is_doubled(&world), [true, true, false]);
    world.run(2 * MINUTE);
    assert_eq!(is_doubled(&world), [true, true, true]);
    // Alone on its line nothing is in doubt any more.
    reload(&mut world, vec![float(2)], &notebook);
    world.run(MINUTE);
    assert_eq!(is_doubled(&world), [false]);
    assert!(world.readings(0).len() > 100);
}

#[test]
fn the_silence_that_a_busy_unit_wants_stays_over_a_reload_and_goes_with_the_device() {
    let units = || vec![with(1, &[0, 1, 40, 41]), with(2, &[5, 50])];
    let mut world = World::new(settings(units()));
    let last = Rc::new(Cell::new(Duration::ZERO));
    for address in [1, 2] {
        let (clock, last) = (world.clock(), last.clone());
        world.behave(address, move |request| {
            let now = clock.get();
            let is_busy = now < last.get() + ms(150);
            last.set(now + ms(30));
            let body = if is_busy { vec![request[0], request[1] | 0x80, 6] } else { answer(request) };
            vec![(ms(20), frame(&body))]
        });
    }
    let rest = |world: &World, unit: usize| world.bus.rest(unit);
    let mut seconds = 0;
    while rest(&world, 0).is_zero() && seconds < 300 {
        world.run(SECOND);
        seconds += 1;
    }
    let before = rest(&world, 0);
    assert!(!before.is_zero());
    reload(&mut world, units(), &Notebook::default());
    assert_eq!(rest(&world, 0), before);
    let other = Unit { id: tombolo::message::Name::parse("other").unwrap(), ..with(1, &[0]) };
    reload(&mut world, vec![other], &Notebook::default());
    assert_eq!(rest(&world, 0), Duration::ZERO);
}
