//! What a client of the local MQTT listener without traffic takes on the heap, as the allocator
//! counts it.

use std::time::Instant;

use tombolo::clock::Moment;
use tombolo::gate::login::{Login, PasswordHash, SALT_LENGTH};
use tombolo::gate::settings::ReadingFilter;
use tombolo::pipeline::Pipeline;
use tombolo::southbound::mqtt::bus::{Grant, LocalRule, LocalRules};
use tombolo::southbound::mqtt::{self, Intake, Source};

use super::allocation::{Store, live};
use super::*;

/// CONNECT of MQTT 3.1.1 with the user name and the client id `id`.
fn connect(id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\xC2\x02\x58".to_vec();
    for text in [id, id, "sesame"] {
        body.extend_from_slice(&(text.len() as u16).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    [&[0x10, body.len() as u8][..], &body].concat()
}

fn subscribe(filter: &str) -> Vec<u8> {
    let length = filter.len() as u8;
    [&[0x82, 5 + length, 0, 1, 0, length][..], filter.as_bytes(), &[1]].concat()
}

/// Bytes of each of so many connected clients with one subscription, whose role has so many
/// local-subscribe rules.
fn heap_of_each(clients: usize, rules: usize) -> usize {
    let now = Instant::now();
    let moment = Moment { now, boottime_ms: 1, wall: None, ages_from: None };
    let roles = vec![role("sensor", vec![rule("all", "t/#")])];
    let password = PasswordHash::of_generated(b"sesame", [0; SALT_LENGTH]);
    let ids: Vec<String> = (0..clients).map(|number| format!("d{number:04}")).collect();
    let devices = ids.iter().map(|id| {
        let login = Login { username: id.clone(), password: password.clone() };
        Device { login: Some(Box::new(login)), ..Device::new(name(id), name("sensor")) }
    });
    let gate = Gate::new(settings(roles.clone(), devices.collect()), now);
    let local = |number: usize| LocalRule {
        name: name(&format!("r{number}")),
        from: None,
        topic: format!("home/{{device}}/{number}/#"),
        deny: false,
        grant: Grant::ALL,
        content_formats: Vec::new(),
        filter: ReadingFilter::default(),
    };
    let local = LocalRules { publish: Vec::new(), subscribe: (0..rules).map(local).collect() };
    let listener = mqtt::Settings {
        max_clients: clients,
        local: vec![(name("sensor"), local)],
        ..mqtt::Settings::default()
    };
    let mut intake = Intake::new(&listener, &roles, &[1; 32]);
    let mut pipeline = Pipeline::new(gate, Store(Vec::new()));
    let before = live();
    for id in &ids {
        let client = intake.handle_opened(now, Source::default());
        for (packet, answer) in [(connect(id), 0x20), (subscribe(&format!("home/{id}/0/#")), 0x90)] {
            intake.handle_bytes(&moment, client, &packet, &mut pipeline);
            let mut out = Vec::new();
            intake.take_output(now, client, &mut out);
            assert_eq!(out.first(), Some(&answer), "{out:?}");
            while intake.poll_ready().is_some() || intake.poll_event().is_some() {}
            while intake.poll_bus().is_some() {}
        }
    }
    let heap = usize::try_from(live() - before).expect("it is held");
    assert_eq!(intake.counts(), (clients, 0));
    heap / clients
}

#[test]
fn a_client_takes_no_more_heap_for_more_rules_nor_where_a_map_of_clients_has_just_grown() {
    let each = heap_of_each(1_000, 1);
    println!("{each} bytes of heap for each client");
    assert_eq!(heap_of_each(1_000, 1_000), each, "the rules of a role are shared");
    // A map with so many has just doubled its room.
    for clients in [100, 900, 1_000, 1_800, 3_600] {
        let each = heap_of_each(clients, 1);
        println!("{each} bytes of heap for each of {clients} clients");
        assert!(each < 3_000, "{clients}: {each}");
    }
}
