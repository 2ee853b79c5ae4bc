use std::time::{Duration, Instant};

use tombolo::gate::Gate;

use super::*;

fn changes(gate: &mut Gate, now: Instant) -> Vec<(String, bool)> {
    std::iter::from_fn(|| gate.poll_presence(now))
        .map(|change| (change.id.to_string(), change.online))
        .collect()
}

#[test]
fn a_refused_reading_and_a_session_are_signs_of_life_too() {
    let start = Instant::now();
    let settings = settings(vec![role("sensor", vec![])], vec![device("a", "sensor"), device("b", "sensor")]);
    let mut gate = Gate::new(settings, start);
    let (a, b) = (gate.device_by_id("a").unwrap(), gate.device_by_id("b").unwrap());
    assert!(gate.admit(start, a, received(Method::Post, "x", b"")).is_err());
    assert_eq!(changes(&mut gate, start), [("a".into(), true)]);
    let later = start + Duration::from_secs(5);
    gate.seen(later, b);
    assert_eq!(changes(&mut gate, later), [("b".into(), true)]);
    let view = gate.device(later, b).unwrap();
    assert_eq!((view.online, view.last_seen), (true, Some(later)));
    assert!(!gate.device(later + HOUR, b).unwrap().online);
}

#[test]
fn each_device_has_its_own_patience_and_the_next_due_time_is_known() {
    let start = Instant::now();
    let mut hasty = device("hasty", "sensor");
    hasty.offline_after = Some(Duration::from_secs(120));
    let settings = settings(vec![role("sensor", vec![])], vec![device("calm", "sensor"), hasty]);
    let mut gate = Gate::new(settings, start);
    for id in ["calm", "hasty"] {
        let device = gate.device_by_id(id).unwrap();
        gate.seen(start, device);
    }
    assert_eq!(changes(&mut gate, start).len(), 2);
    assert_eq!(gate.poll_timeout(), Some(start + Duration::from_secs(120)));
    let mut told = Vec::new();
    while let Some(at) = gate.poll_timeout().filter(|at| *at <= start + 2 * HOUR) {
        told.extend(changes(&mut gate, at).into_iter().map(|change| ((at - start).as_secs(), change)));
    }
    assert_eq!(told, [(120, ("hasty".into(), false)), (3_600, ("calm".into(), false))]);
}

#[test]
fn ten_thousand_busy_devices_are_looked_at_four_times_an_hour() {
    let start = Instant::now();
    let devices = (0..10_000).map(|n| device(&format!("d{n}"), "sensor")).collect();
    let mut gate = Gate::new(settings(vec![role("sensor", vec![])], devices), start);
    let indices: Vec<_> = gate.devices(start).map(|view| view.index).collect();
    let mut told = 0;
    for minute in 0..60 {
        let now = start + Duration::from_secs(60 * minute);
        for device in &indices {
            gate.seen(now, *device);
        }
        told += changes(&mut gate, now).len();
    }
    assert_eq!(told, 40_000);
}
