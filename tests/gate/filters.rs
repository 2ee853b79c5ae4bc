//! Filters with a state: readings that are acknowledged and not published.

use std::time::{Duration, Instant};

use tombolo::gate::condition::{Operand, Test, When};
use tombolo::gate::field::FieldPointer;
use tombolo::gate::filter::HeldBack;
use tombolo::gate::plan::Fault;
use tombolo::gate::settings::ReadingFilter;
use tombolo::gate::{Admitted, Gate, QoS, Received, UplinkRule};
use tombolo::message::{ContentFormat, QueryBuffer};

use super::*;

const S: Duration = Duration::from_secs(1);

fn filtered(rule: UplinkRule, filter: ReadingFilter) -> UplinkRule {
    UplinkRule { filter, retain: true, delete: true, ..rule }
}

fn on_change() -> ReadingFilter {
    ReadingFilter { on_change: true, ..ReadingFilter::default() }
}

fn dead_band(band: f64) -> ReadingFilter {
    ReadingFilter { dead_band: Some(band), ..ReadingFilter::default() }
}

struct World {
    gate: Gate,
    now: Instant,
}

impl World {
    fn new(filter: ReadingFilter) -> World {
        World { gate: gate(vec![filtered(rule("t", "t/#"), filter), rule("all", "#")]), now: Instant::now() }
    }

    /// Why a reading of this device is held back; `None` if it is published.
    fn take(&mut self, device: &str, received: Received<'_>) -> Option<HeldBack> {
        let device = self.gate.device_by_id(device).expect("the device is known");
        match self.gate.admit(self.now, device, received).expect("a rule allows it") {
            Admitted::Passed(_) => None,
            Admitted::Filtered(filtered) => {
                assert_eq!(filtered.rule.as_str(), "t");
                Some(filtered.why)
            }
        }
    }

    fn say(&mut self, path: &str, payload: &str) -> Option<HeldBack> {
        self.take("door-7", received(Method::Post, path, payload.as_bytes()))
    }
}

#[test]
fn what_equals_the_reading_before_on_its_path_is_not_published() {
    let mut world = World::new(on_change());
    assert_eq!(world.say("t/a", "21.5"), None);
    assert_eq!(world.say("t/a", "21.5"), Some(HeldBack::Unchanged));
    assert_eq!(world.say("t/b", "21.5"), None, "another path");
    assert_eq!(world.say("x", "21.5"), None);
    assert_eq!(world.say("x", "21.5"), None, "another rule");
    assert_eq!(world.say("t/a", "21.6"), None);
    assert_eq!(world.say("t/a", "21.5"), None, "it changed back");
    let json =
        Received { content_format: Some(ContentFormat::JSON), ..received(Method::Post, "t/a", b"21.5") };
    assert_eq!(world.take("door-7", json), None, "another content format");
    assert_eq!(world.take("door-7", json), Some(HeldBack::Unchanged));
    assert_eq!(world.take("other", json), None, "another device");
    let mut buffer = QueryBuffer::default();
    let query = buffer.join(Path::parse("t/a").unwrap(), [&b"n=1"[..]].into_iter()).expect("a query");
    assert_eq!(world.take("door-7", Received { query, ..json }), None, "another query");
    let view = world.gate.device(world.now, world.gate.device_by_id("door-7").unwrap()).unwrap();
    assert_eq!((view.filtered, view.accepted, view.refused.total()), (2, 8, 0));
    assert_eq!(world.gate.totals().filtered, 2);
}

#[test]
fn a_delete_is_never_held_back_and_the_reading_after_it_is_published() {
    let mut world = World::new(on_change());
    assert_eq!(world.say("t/a", "1"), None);
    let delete = received(Method::Delete, "t/a", b"");
    assert_eq!((world.take("door-7", delete), world.take("door-7", delete)), (None, None));
    assert_eq!(world.say("t/a", "1"), None);
}

#[test]
fn a_number_that_changes_by_the_dead_band_or_less_is_not_published() {
    let mut world = World::new(dead_band(0.5));
    assert_eq!(world.say("t/a", "21.5"), None);
    let little = Some(HeldBack::WithinDeadBand);
    assert_eq!(
        (world.say("t/a", "22.0"), world.say("t/a", " 21\n"), world.say("t/a", "21.5")),
        (little, little, little)
    );
    // Measured against what was published, so that a slow drift is not lost.
    assert_eq!(
        (world.say("t/a", "21.9"), world.say("t/a", "22.25"), world.say("t/a", "22.5")),
        (little, None, little)
    );
    // What is no number cannot be judged, and neither can what follows it.
    assert_eq!(
        (world.say("t/a", "error"), world.say("t/a", "error"), world.say("t/a", "22.5")),
        (None, None, None)
    );
    assert_eq!(world.say("t/a", "22.5"), little);
}

#[test]
fn the_number_may_stand_in_a_json_document() {
    let field = FieldPointer::parse("/env/t").expect("a pointer");
    let mut world = World::new(ReadingFilter { dead_band_field: Some(field), ..dead_band(1.0) });
    assert_eq!(world.say("t/a", r#"{"n":1,"env":{"t":20}}"#), None);
    assert_eq!(world.say("t/a", r#"{"n":2,"env":{"t":21.0}}"#), Some(HeldBack::WithinDeadBand));
    assert_eq!(world.say("t/a", r#"{"n":3,"env":{"t":21.5}}"#), None);
    assert_eq!(world.say("t/a", r#"{"n":4,"env":{}}"#), None, "there is no number");
    assert_eq!(world.say("t/a", "21.5"), None, "it is another one");
}

#[test]
fn what_comes_too_soon_is_not_published() {
    let mut world = World::new(ReadingFilter { min_interval: Some(10 * S), ..ReadingFilter::default() });
    assert_eq!(world.say("t/a", "1"), None);
    world.now += 9 * S;
    assert_eq!((world.say("t/a", "2"), world.say("t/b", "2")), (Some(HeldBack::TooSoon), None));
    world.now += S;
    assert_eq!((world.say("t/a", "3"), world.say("t/b", "3")), (None, Some(HeldBack::TooSoon)));
}

#[test]
fn all_that_are_set_apply_and_any_of_them_holds_a_reading_back() {
    let mut world =
        World::new(ReadingFilter { min_interval: Some(10 * S), on_change: true, ..dead_band(0.5) });
    assert_eq!(world.say("t/a", "1"), None);
    world.now += 20 * S;
    assert_eq!(world.say("t/a", "1"), Some(HeldBack::Unchanged));
    assert_eq!(world.say("t/a", "1.5"), Some(HeldBack::WithinDeadBand));
    assert_eq!(world.say("t/a", "2"), None);
    assert_eq!(world.say("t/a", "3"), Some(HeldBack::TooSoon));
}

#[test]
fn a_filtered_reading_costs_quota_and_a_refused_one_is_not_remembered() {
    let mut sensor = role("sensor", vec![filtered(rule("t", "t/#"), on_change())]);
    sensor.quota.burst = 2;
    sensor.quota.messages = 1;
    sensor.quota.per = HOUR;
    let mut gate = Gate::new(settings(vec![sensor], vec![device("door-7", "sensor")]), Instant::now());
    let (device, now) = (gate.device_by_id("door-7").unwrap(), Instant::now());
    let one = received(Method::Post, "t/a", b"1");
    assert!(gate.admit(now, device, one).is_ok() && gate.admit(now, device, one).is_ok());
    let other = received(Method::Post, "t/a", b"2");
    assert!(gate.admit(now, device, other).is_err());
    assert!(gate.admit(now + 2 * HOUR, device, other).is_ok_and(|admitted| admitted.passed().is_some()));
}

#[test]
fn a_reading_that_was_not_stored_is_not_measured_against() {
    let mut world = World::new(on_change());
    let device = world.gate.device_by_id("door-7").unwrap();
    let one = received(Method::Post, "t/a", b"1");
    let number = |gate: &mut Gate| {
        let admitted = gate.admit(Instant::now(), device, one).expect("a rule allows it");
        admitted.passed().and_then(|mapped| mapped.number())
    };
    let first = number(&mut world.gate).expect("it is published and has a number");
    assert_eq!(number(&mut world.gate), None);
    world.gate.forget(device, first + 7);
    assert_eq!(number(&mut world.gate), None, "that was another one");
    world.gate.forget(device, first);
    assert!(number(&mut world.gate).is_some());
}

#[test]
fn a_first_block_and_a_test_of_the_operator_change_nothing() {
    let mut world = World::new(on_change());
    let device = world.gate.device_by_id("door-7").unwrap();
    let one = received(Method::Post, "t/a", b"1");
    assert!(world.gate.announce(world.now, device, one, 100).is_ok());
    assert!(world.gate.rehearse(world.now, device, one).is_ok());
    assert_eq!((world.say("t/a", "1"), world.say("t/a", "1")), (None, Some(HeldBack::Unchanged)));
    assert!(world.gate.rehearse(world.now, device, one).is_ok(), "a test is published in any case");
}

/// `when = [{ field = "/t", above = 30 }]`
fn hot() -> ReadingFilter {
    let when = When::new(vec![vec![(FieldPointer::parse("/t").ok(), Test::Above(30.0))]]);
    ReadingFilter { when: when.expect("few comparisons"), ..ReadingFilter::default() }
}

#[test]
fn a_reading_whose_conditions_do_not_hold_is_held_back_for_a_reason_and_a_delete_is_not() {
    let mut world = World::new(hot());
    let cold = Some(HeldBack::Unmet);
    assert_eq!(world.say("t/a", r#"{"t":21.5}"#), cold);
    assert_eq!((world.say("t/a", r#"{"t":31}"#), world.say("t/a", r#"{"t":31}"#)), (None, None));
    assert_eq!((world.say("t/a", "{}"), world.say("t/a", "hot")), (None, None), "it cannot be judged");
    assert_eq!(world.say("x", r#"{"t":21.5}"#), None, "another rule");
    assert_eq!(world.take("door-7", received(Method::Delete, "t/a", b"")), None);
    // {"t": 21} and {"t": 31} in CBOR, which only its content format makes so.
    let cbor = |payload: &'static [u8]| Received {
        content_format: Some(ContentFormat::CBOR),
        ..received(Method::Post, "t/a", payload)
    };
    assert_eq!(world.take("door-7", cbor(b"\xa1\x61t\x15")), cold);
    assert_eq!(world.take("door-7", cbor(b"\xa1\x61t\x18\x1f")), None);
    assert_eq!(world.take("door-7", received(Method::Post, "t/a", b"\xa1\x61t\x15")), None);
    let device = world.gate.device_by_id("door-7").unwrap();
    let admitted = world.gate.admit(world.now, device, received(Method::Post, "t/a", br#"{"t":-2}"#));
    let Ok(Admitted::Filtered(filtered)) = admitted else { panic!("it is held back") };
    assert_eq!(filtered.reason().to_string(), "/t is -2, not above 30");
    assert_eq!(filtered.behind, None);
    let view = world.gate.device(world.now, device).unwrap();
    let last = view.last_filtered.expect("it is kept");
    assert_eq!(last.texts(), ["t/a", "/t is -2, not above 30"]);
    assert_eq!((last.rule.as_ref().map(|rule| rule.as_str()), view.filtered), (Some("t"), 3));
}

#[test]
fn what_conditions_hold_back_costs_quota_and_is_no_reading_before() {
    let mut world = World::new(ReadingFilter { on_change: true, ..hot() });
    assert_eq!(world.say("t/a", r#"{"t":31}"#), None);
    assert_eq!(world.say("t/a", r#"{"t":1}"#), Some(HeldBack::Unmet));
    // Had the cold one counted, this would be a change.
    assert_eq!(world.say("t/a", r#"{"t":31}"#), Some(HeldBack::Unchanged));
    assert_eq!(world.say("t/a", r#"{"t":32}"#), None);
    let mut sensor = role("sensor", vec![filtered(rule("t", "t/#"), hot())]);
    sensor.quota.burst = 1;
    sensor.quota.messages = 1;
    sensor.quota.per = HOUR;
    let mut gate = Gate::new(settings(vec![sensor], vec![device("door-7", "sensor")]), Instant::now());
    let (device, now) = (gate.device_by_id("door-7").unwrap(), Instant::now());
    let cold = received(Method::Post, "t/a", br#"{"t":1}"#);
    assert!(gate.admit(now, device, cold).is_ok_and(|admitted| admitted.passed().is_none()));
    assert!(gate.admit(now, device, cold).is_err(), "the quota is used up");
}

#[test]
fn an_explanation_judges_a_payload_by_the_conditions_before_anything_came() {
    use tombolo::gate::Supposed;
    let world = World::new(ReadingFilter { on_change: true, ..hot() });
    let said = |supposed: Supposed<'_>| {
        world.gate.explain_supposed(world.now, "door-7", Method::Post, "t/a", supposed).held_back
    };
    let plain = Supposed::default();
    let why = Some("/t is 1, not above 30".to_owned());
    assert_eq!(
        (said(plain.with_payload(br#"{"t":1}"#)), said(plain.with_payload(b"1"))),
        (why.clone(), None)
    );
    let cbor = Supposed { content_format: Some(Some(ContentFormat::CBOR)), ..plain };
    assert_eq!(
        (said(cbor.with_payload(b"\xa1\x61t\x01")), said(cbor.with_payload(br#"{"t":1}"#))),
        (why, None)
    );
    let found = world.gate.explain(world.now, "door-7", Method::Post, "t/a");
    let json = serde_json::to_value(&found).expect("JSON");
    assert_eq!(json["publish"]["filter"]["when"], serde_json::json!(["/t above 30"]));
}

#[test]
fn a_reload_with_other_conditions_forgets_what_was_published() {
    let with = |limit: f64| {
        let when = When::new(vec![vec![(None, Test::Above(limit))]]).expect("few comparisons");
        let filter = ReadingFilter { when, ..on_change() };
        settings(
            vec![role("sensor", vec![filtered(rule("t", "t/#"), filter)])],
            vec![device("door-7", "sensor")],
        )
    };
    let mut gate = Gate::new(with(0.0), Instant::now());
    let device = gate.device_by_id("door-7").unwrap();
    let publishes = |gate: &mut Gate| {
        let one = received(Method::Post, "t/a", b"5");
        gate.admit(Instant::now(), device, one).expect("a rule allows it").passed().is_some()
    };
    assert!(publishes(&mut gate) && !publishes(&mut gate));
    gate.replace(with(0.0), Instant::now());
    assert!(!publishes(&mut gate));
    gate.replace(with(1.0), Instant::now());
    assert!(publishes(&mut gate) && !publishes(&mut gate));
    gate.replace(with(9.0), Instant::now());
    assert!(!publishes(&mut gate));
}

#[test]
fn a_reload_keeps_what_was_published_unless_the_rule_changes() {
    let world = |filter: ReadingFilter| {
        settings(
            vec![role("sensor", vec![filtered(rule("t", "t/#"), filter)])],
            vec![device("door-7", "sensor")],
        )
    };
    let mut gate = Gate::new(world(dead_band(1.0)), Instant::now());
    let device = gate.device_by_id("door-7").unwrap();
    let publishes = |gate: &mut Gate| {
        let one = received(Method::Post, "t/a", b"1");
        gate.admit(Instant::now(), device, one).expect("a rule allows it").passed().is_some()
    };
    assert!(publishes(&mut gate) && !publishes(&mut gate));
    gate.replace(world(dead_band(1.0)), Instant::now());
    assert!(!publishes(&mut gate));
    gate.replace(world(dead_band(2.0)), Instant::now());
    assert!(publishes(&mut gate) && !publishes(&mut gate));
    // Without a filter in between others may have been published.
    gate.replace(world(ReadingFilter::default()), Instant::now());
    gate.replace(world(dead_band(2.0)), Instant::now());
    assert!(publishes(&mut gate) && !publishes(&mut gate));
    // Elsewhere nobody has it yet.
    let mut elsewhere = world(dead_band(2.0));
    elsewhere.reading = Some(Template::parse("x/{device}/{path}").unwrap());
    gate.replace(elsewhere.clone(), Instant::now());
    assert!(publishes(&mut gate) && !publishes(&mut gate));
    elsewhere.devices[0].tags.set("site", "north").unwrap();
    gate.replace(elsewhere.clone(), Instant::now());
    assert!(publishes(&mut gate) && !publishes(&mut gate));
    // What was published with QoS 0 was never stored.
    elsewhere.roles[0].uplink[0].qos = QoS::AtMostOnce;
    gate.replace(elsewhere.clone(), Instant::now());
    assert!(publishes(&mut gate) && !publishes(&mut gate));
    elsewhere.roles[0].uplink[0].qos = QoS::AtLeastOnce;
    gate.replace(elsewhere, Instant::now());
    assert!(publishes(&mut gate) && !publishes(&mut gate));
}

#[test]
fn an_explanation_says_what_is_not_published() {
    let field = FieldPointer::parse("/t").expect("a pointer");
    let filter = ReadingFilter { min_interval: Some(10 * S), dead_band_field: Some(field), ..dead_band(0.5) };
    let world = World::new(filter);
    let found = world.gate.explain(world.now, "door-7", Method::Post, "t/a");
    let json = serde_json::to_value(&found).expect("JSON");
    assert_eq!(
        json["publish"]["filter"],
        serde_json::json!({"on_change": false, "dead_band": 0.5, "dead_band_field": "/t", "min_interval_ms": 10_000})
    );
    let plain = world.gate.explain(world.now, "door-7", Method::Post, "x");
    assert!(plain.allowed && plain.publish.is_some_and(|publish| publish.filter.is_none()));
}

#[test]
fn a_filter_in_a_deny_rule_is_a_fault() {
    let rules = vec![UplinkRule { filter: on_change(), ..deny("d", "d") }];
    let problems = tombolo::gate::check(&settings(vec![role("sensor", rules)], vec![]));
    let faults: Vec<_> = problems.into_iter().map(|problem| problem.fault).collect();
    assert_eq!(faults, [Fault::DenyWith { key: "on-change" }]);
}

#[test]
fn no_filtered_reading_allocates() {
    let field = FieldPointer::parse("/env/t").expect("a pointer");
    let filter = ReadingFilter { on_change: true, dead_band_field: Some(field), ..dead_band(0.5) };
    let mut world = World::new(filter);
    let payload = r#"{"name":"door","n":7,"env":{"x":null,"t":21.5}}"#;
    let paths: Vec<String> = (0..100).map(|number| format!("t/{number}")).collect();
    // More paths than are remembered: from then on the memory is used again.
    for path in &paths {
        assert_eq!(world.say(path, payload), None);
    }
    // The first one makes the place where the newest is kept.
    assert_eq!(world.say(&paths[99], payload), Some(HeldBack::Unchanged));
    let before = allocation::count();
    for path in paths.iter().rev() {
        world.say(path, payload);
        world.say(path, r#"{"env":{"t":99}}"#);
    }
    assert_eq!(allocation::count(), before);
}

#[test]
fn no_reading_that_conditions_hold_back_allocates() {
    let at = |pointer: &str, test| (FieldPointer::parse(pointer).ok(), test);
    let when = When::new(vec![
        vec![at("/env/t", Test::Above(-300.0))],
        vec![at("/name", Test::Is(Operand::Text("window".into()))), at("/n", Test::Present(false))],
    ]);
    let mut world =
        World::new(ReadingFilter { when: when.expect("few comparisons"), ..ReadingFilter::default() });
    let payload = r#"{"name":"door","n":7,"list":[[[1,{"x":2}]]],"env":{"x":null,"t":21.5}}"#;
    assert_eq!(world.say("t/a", payload), Some(HeldBack::Unmet));
    let before = allocation::count();
    for _ in 0..100 {
        assert_eq!(world.say("t/a", payload), Some(HeldBack::Unmet));
    }
    assert_eq!(allocation::count(), before);
}
