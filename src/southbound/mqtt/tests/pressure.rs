//! Clients without a user name, and what many of them at once cost the others.

use serde_json::json;

use super::proof::{show, world};
use super::*;
use crate::gate::jwt::SignatureAlgorithm;
use crate::gate::jwt::tests::{Signer, claims};
use crate::southbound::mqtt::settings::VERIFY_WITHIN;

/// A CONNECT with a password and without a user name.
fn nameless(hello: Hello<'_>) -> Vec<u8> {
    let named = Hello { username: Some(""), ..hello }.bytes();
    let header = 1 + 1 + named[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
    let mut body = named[header..].to_vec();
    let at = body.len() - hello.password.map_or(0, str::len) - 4;
    body.drain(at..at + 2);
    body[7] &= 0x7f;
    let length = body.len();
    let length =
        if length < 128 { vec![length as u8] } else { vec![length as u8 | 0x80, (length >> 7) as u8] };
    [vec![named[0]], length, body].concat()
}

fn code(world: &mut World, client: ConnectionNumber) -> u8 {
    world.pass(Duration::from_secs(1));
    world.heard(client)[0].1[1]
}

#[test]
fn a_token_without_a_user_name_is_taken_of_mqtt_5_and_not_of_3_1_1() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let token = signer.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    let hello = Hello { client_id: "projects/p/devices/cam-1", password: Some(&token), ..HELLO };
    for will in [None, Some(("t/will", 5))] {
        let client = world.open();
        world.say(client, &nameless(Hello { will, ..hello }));
        assert_eq!(code(&mut world, client), 0);
        world.say(client, &one(1, "t/env"));
        assert_eq!(world.taken(), ["tombolo/gw/cam-1/up/t/env"]);
        world.commit(true);
    }
    // MQTT 3.1.1 §3.1.2.9: without a user name there is no password.
    let client = world.open();
    world.say(client, &nameless(Hello { five: false, ..hello }));
    assert!(world.is_closed(client) && world.heard(client).is_empty());
    // A password that is no token is of nobody.
    let client = world.open();
    world.say(client, &nameless(Hello { client_id: "cam-1", password: Some("right"), ..HELLO }));
    assert_eq!(code(&mut world, client), 0x86);
    let last = world.intake.last_refused_connect().expect("one");
    assert_eq!((last.username.as_deref(), last.device.as_ref()), (None, None));
    assert!(last.reason.contains("without a user name"), "{}", last.reason);
}

#[test]
fn wrong_tokens_without_a_pause_cost_a_bounded_number_of_signatures_and_keep_no_other_device_out() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let header = json!({ "alg": "ES256" });
    let good = signer.token(&header, &claims(0, 3_600));
    let forged = Signer::new(SignatureAlgorithm::Es256).token(&header, &claims(0, 3_600));
    let before = show(&mut world, "cam-1", &good);
    assert_eq!(code(&mut world, before), 0);
    let forgers: Vec<_> = (0..100).map(|_| show(&mut world, "cam-1", &forged)).collect();
    let last = world.intake.last_refused_connect().expect("one").reason.clone();
    assert!(last.contains("too many tokens with a wrong signature"), "{last}");
    // At once, and more than a minute's.
    let damped = world.pipeline.counters.value(Counter::MqttConnectsDamped);
    assert_eq!(damped, 80, "all but the budget");
    let again = show(&mut world, "cam-1", &good);
    assert_eq!(code(&mut world, again), 0, "it was right before");
    assert_eq!(world.heard(forgers[99])[0].1[1], ConnectReasonCode::ConnectionRateExceeded as u8);
    // The other device, whose key is another: its tokens are verified.
    let other = show(&mut world, "cam-2", &forged);
    assert_eq!(code(&mut world, other), 0x86);
}

fn costly_hello() -> Hello<'static> {
    Hello { username: Some("cam-1"), password: Some("right"), ..HELLO }
}

#[test]
fn a_password_that_waits_is_not_cut_off_as_an_unidentified_client_and_has_a_bound_of_its_own() {
    let mut world = costly();
    let early = world.open();
    assert!(!world.intake.has_place(early));
    world.say(early, &costly_hello().bytes());
    assert!(world.intake.has_place(early), "it is in nobody's way");
    world.pass(VERIFY_WITHIN - Duration::from_secs(1));
    assert!(world.heard(early).is_empty() && !world.is_closed(early));
    assert_eq!(world.intake.pressure().verifying, 1);
    assert!(world.intake.poll_verification().is_some());
    world.intake.handle_verified(&world.moment, true, &mut world.pipeline);
    assert_eq!(world.heard(early)[0].1[1], 0);
    // The other is not verified in time.
    let late = world.connect(Hello { username: Some("cam-2"), ..costly_hello() });
    world.pass(VERIFY_WITHIN + Duration::from_secs(2));
    assert_eq!(world.heard(late)[0].1[1], ConnectReasonCode::ServerBusy as u8);
    assert!(world.is_closed(late) && world.intake.poll_verification().is_none());
    assert_eq!(world.pipeline.counters.value(Counter::MqttConnectsBusy), 1);
    let pressure = world.intake.pressure();
    assert_eq!((pressure.verifying, pressure.busy.0), (0, 1));
    assert!(world.intake.last_refused_connect().expect("one").reason.contains("waited 30 s"));
}

#[test]
fn the_clients_of_a_device_with_one_password_wait_for_one_verification() {
    let mut world = costly();
    let of = |client_id| Hello { client_id, ..costly_hello() };
    let clients: Vec<_> = ["a", "b", "c"].map(|id| world.connect(of(id))).into();
    assert!(world.intake.poll_verification().is_some());
    let late = world.connect(of("d"));
    // Another password of the account waits for its turn, and a further one is refused.
    let wrong = Hello { client_id: "e", password: Some("wrong"), ..costly_hello() };
    let second = world.connect(wrong);
    let third = world.connect(Hello { password: Some("wrong too"), ..wrong });
    assert_eq!(code(&mut world, third), ConnectReasonCode::ServerBusy as u8);
    world.intake.handle_verified(&world.moment, true, &mut world.pipeline);
    for client in clients.into_iter().chain([late]) {
        assert_eq!(world.heard(client)[0].1[1], 0);
    }
    assert!(world.intake.poll_verification().is_some());
    world.intake.handle_verified(&world.moment, false, &mut world.pipeline);
    assert_eq!(code(&mut world, second), 0x86);
    assert!(world.intake.poll_verification().is_none());
}

#[test]
fn that_max_clients_are_connected_is_told_and_when_one_was_refused() {
    let mut world = World::with(Settings { max_clients: 1, ..Settings::default() }, 1_000);
    world.client(HELLO);
    assert_eq!(world.intake.pressure().full, (0, None));
    let other = world.connect(Hello { client_id: "d", ..HELLO });
    assert_eq!(code(&mut world, other), ConnectReasonCode::QuotaExceeded as u8);
    assert_eq!(world.intake.pressure().full.0, 1);
    assert_eq!(world.pipeline.counters.value(Counter::MqttConnectsFull), 1);
}

#[test]
fn a_will_fits_if_its_connect_does_and_a_local_message_if_the_role_takes_it() {
    let with_will = |length: usize| {
        let connect = v5_0::Connect::builder().client_id("w").unwrap().user_name("door-7").unwrap();
        let will = vec![b'x'; length];
        let connect = connect.will_message("t/will", will, Qos::AtLeastOnce, false).unwrap();
        connect.password("sesame").unwrap().build().unwrap().to_continuous_buffer()
    };
    let mut world = super::local(None);
    let overhead = with_will(CONNECT_MAX / 2).len() - CONNECT_MAX / 2;
    let fits = world.open();
    world.say(fits, &with_will(CONNECT_MAX - overhead));
    assert_eq!(code(&mut world, fits), 0);
    let too_large = world.open();
    world.say(too_large, &with_will(CONNECT_MAX - overhead + 1));
    assert!(world.is_closed(too_large));
    let sender = world.client(HELLO);
    let message = |id, length| publish(true, "home/door-7/x", Qos::AtLeastOnce, id, &vec![b'x'; length]);
    world.say(sender, &[message(1, 65_536), message(2, 65_537)].concat());
    let heard: Vec<_> = world.heard(sender).iter().map(acknowledged).collect();
    assert_eq!(heard, [(PUBACK, 1, 0), (PUBACK, 2, 0x97)]);
}
