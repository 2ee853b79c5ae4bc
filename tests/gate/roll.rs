//! Devices of fleets across restarts.

use std::time::Instant;

use tombolo::gate::certificate::NameKind;
use tombolo::gate::roll::Roll;
use tombolo::gate::{Fleet, Gate, Unidentified};
use tombolo::proto::dtls::PeerIdentity;

use super::identity::{fleet, proved};
use super::*;

fn doors(max_devices: u32) -> Settings {
    let fleet = Fleet { max_devices, ..fleet("doors", NameKind::Dns, "door-{id}.example") };
    let mut settings = settings(vec![role("sensor", vec![rule("all", "#")])], vec![]);
    settings.fleets = vec![fleet];
    settings
}

fn door(id: &str) -> PeerIdentity {
    PeerIdentity::Certificate(proved(&[(NameKind::Dns, &format!("door-{id}.example"))]).into())
}

/// The roll of a gateway with these doors, through its file.
fn roll(now: Instant, ids: &[&str]) -> Roll {
    let mut gate = Gate::new(doors(10), now);
    for id in ids {
        gate.identify(now, &door(id)).unwrap();
    }
    Roll::parse(gate.roll().encode().as_bytes()).unwrap()
}

/// Starts a gateway with these settings and this roll; returns its devices, and the ids that were
/// not restored.
fn restored(settings: Settings, now: Instant, roll: &Roll) -> (Gate, Vec<String>, Vec<String>) {
    let mut gate = Gate::new(settings, now);
    let gone = gate.restore_fleets(now, roll).iter().map(ToString::to_string).collect();
    let mut ids: Vec<String> = gate.devices(now).map(|view| view.id.to_string()).collect();
    ids.sort();
    (gate, ids, gone)
}

#[test]
fn a_device_of_a_fleet_is_known_after_a_restart_and_told_offline_when_it_does_not_come() {
    let now = Instant::now();
    let roll = roll(now, &["1", "2"]);
    let (mut gate, ids, gone) = restored(doors(10), now, &roll);
    assert_eq!((ids, gone), (vec!["1".to_owned(), "2".to_owned()], vec![]));
    assert!(gate.devices(now).all(|view| !view.online && view.fleet.is_some()));
    // One comes, the other does not.
    let one = gate.identify(now, &door("1")).unwrap();
    assert_eq!(gate.device_count(), 2);
    gate.seen(now, one);
    let told = |gate: &mut Gate, now| {
        let mut told = Vec::new();
        while let Some(change) = gate.poll_presence(now) {
            told.push((change.id.to_string(), change.online));
        }
        told
    };
    assert_eq!(told(&mut gate, now), [("1".to_owned(), true)]);
    let later = now + HOUR;
    gate.seen(later, one);
    assert!(told(&mut gate, later).contains(&("2".to_owned(), false)));
}

#[test]
fn what_no_fleet_may_have_any_more_is_named_and_not_made() {
    let now = Instant::now();
    let roll = roll(now, &["1", "2", "3"]);
    let none = vec![];
    let all = vec!["1".to_owned(), "2".to_owned(), "3".to_owned()];
    // The entry is gone, or its certificates are others.
    let mut without = doors(10);
    without.fleets.clear();
    assert_eq!(restored(without, now, &roll).1, none);
    let mut others = doors(10);
    others.fleets = vec![fleet("doors", NameKind::Dns, "gate-{id}.example")];
    let (_, ids, gone) = restored(others, now, &roll);
    assert_eq!((ids, gone), (none.clone(), all.clone()));
    // Fewer than there were.
    let (mut gate, ids, gone) = restored(doors(2), now, &roll);
    assert_eq!((ids.len(), gone.len()), (2, 1));
    assert!(matches!(gate.identify(now, &door("9")), Err(Unidentified::FleetFull { .. })));
    // One is switched off; another one is a configured device now.
    let mut settings = doors(10);
    settings.withheld.ids = vec![name("1")];
    settings.devices = vec![device("2", "sensor").into()];
    let (_, ids, gone) = restored(settings, now, &roll);
    assert_eq!((ids, gone), (all[1..].to_vec(), vec!["1".to_owned()]));
}

#[test]
fn the_revision_moves_on_with_every_device_that_comes_or_may_have_gone() {
    let now = Instant::now();
    let mut gate = Gate::new(doors(10), now);
    let before = gate.fleet_revision();
    gate.identify(now, &door("1")).unwrap();
    let with_one = gate.fleet_revision();
    assert_ne!(before, with_one);
    gate.identify(now, &door("1")).unwrap();
    assert_eq!(gate.fleet_revision(), with_one);
    let mut without = doors(10);
    without.fleets.clear();
    gate.replace(without, now);
    assert_ne!(gate.fleet_revision(), with_one);
    assert_eq!(gate.roll(), Roll::default());
}
