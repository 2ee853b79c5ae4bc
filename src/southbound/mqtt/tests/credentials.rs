//! A session is judged by the credential that proved its client, and by no other of its device.

use serde_json::json;

use super::proof::{certificate, set_clocks, settings, show, world};
use super::*;
use crate::clock::UnixTime;
use crate::gate::certificate::{CertificateName, NameKind};
use crate::gate::jwt::SignatureAlgorithm;
use crate::gate::jwt::tests::{NOW, Signer, claims};
use crate::proto::dtls::server::Clock;

/// What becomes of a credential in a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Removed,
    Changed,
}

const FATES: [Fate; 3] = [Fate::Kept, Fate::Removed, Fate::Changed];
const KINDS: [&str; 3] = ["certificate", "password", "token"];

fn login(password: &str) -> Option<Box<Login>> {
    let password = PasswordHash::of_generated(password.as_bytes(), [0; 16]);
    Some(Box::new(Login { username: "cam-1".to_owned(), password }))
}

/// `cam-1` with a credential of each kind, as these fates leave them.
fn with_fates(signer: &Signer, other: &Signer, fates: [Fate; 3]) -> crate::gate::Settings {
    let mut settings = settings(&[("cam-1", signer)]);
    settings.roles[0].max_sessions = 10;
    let device = &mut settings.devices[0];
    match fates[0] {
        Fate::Kept => {}
        Fate::Removed => device.certificate = None,
        Fate::Changed => {
            device.certificate = Some(CertificateName::new(NameKind::Dns, "other.example", None).unwrap());
        }
    }
    device.login = match fates[1] {
        Fate::Kept => login("sesame"),
        Fate::Removed => None,
        Fate::Changed => login("another"),
    };
    device.jwt_keys = match fates[2] {
        Fate::Kept => vec![signer.key()],
        Fate::Removed => Vec::new(),
        Fate::Changed => vec![other.key()],
    };
    settings
}

/// A client of `cam-1` with a credential of this kind, a session of an hour, and a will of a
/// minute.
fn client(world: &mut World, signer: &Signer, kind: &str, client_id: &str) -> ConnectionNumber {
    let token = signer.token(&json!({ "alg": "ES256" }), &json_claims());
    let topic = format!("t/{client_id}");
    let hello = Hello { client_id, expiry: Some(3_600), will: Some((&topic, 60)), clean: false, ..HELLO };
    let (source, hello) = match kind {
        "certificate" => {
            let source = Source { identity: certificate("cam-1"), ..Source::default() };
            (source, Hello { username: None, password: None, ..hello })
        }
        "password" => (Source::default(), Hello { username: Some("cam-1"), ..hello }),
        _ => (Source::default(), Hello { password: Some(&token), ..hello }),
    };
    let client = world.intake.handle_opened(world.moment.now, source);
    world.say(client, &hello.bytes());
    let heard = world.heard(client);
    assert_eq!((heard[0].0, heard[0].1[1]), (CONNACK, 0), "{kind}");
    client
}

fn json_claims() -> serde_json::Value {
    let mut claims = claims(0, 3_600);
    claims["sub"] = json!("cam-1");
    claims
}

fn take_over(world: &mut World, settings: crate::gate::Settings) {
    world.pipeline.gate.replace(settings, world.moment.now);
    assert_eq!(world.pipeline.gate.problems(), []);
    world.intake.review(&world.moment, &mut world.pipeline);
}

#[test]
fn a_login_is_by_the_user_name_of_the_device_whatever_its_id_is() {
    let mut world = costly();
    let mut settings = costly_settings();
    for (device, username) in settings.devices.iter_mut().zip(["plant/camera", "cam-1"]) {
        let password = PasswordHash::of_generated(username.as_bytes(), [0; 16]);
        device.login = Some(Box::new(Login { username: username.to_owned(), password }));
    }
    take_over(&mut world, settings);
    // The user name of the second device is the id of the first.
    for (username, id) in [("plant/camera", "cam-1"), ("cam-1", "cam-2")] {
        for five in [true, false] {
            let hello = Hello { five, username: Some(username), password: Some(username), ..HELLO };
            let client = world.client(hello);
            world.say(client, &publish(five, "t/x", Qos::AtLeastOnce, 1, b"1"));
            assert_eq!(world.taken(), [format!("tombolo/gw/{id}/up/t/x")]);
            world.commit(true);
        }
    }
    for (username, password) in [("cam-2", "cam-1"), ("cam-1", "plant/camera"), ("plant/camera", "cam-1")] {
        let hello = Hello { username: Some(username), password: Some(password), ..HELLO };
        let client = world.connect(hello);
        world.pass(Duration::from_secs(2));
        assert_eq!(world.heard(client)[0].1[1], 0x86, "{username}");
    }
}

#[test]
fn a_change_of_credentials_ends_the_sessions_of_those_that_are_gone_and_no_other() {
    let [signer, other] = [(); 2].map(|()| Signer::new(SignatureAlgorithm::Es256));
    let fates = FATES.into_iter().flat_map(|a| FATES.map(|b| FATES.map(|c| [a, b, c]))).flatten();
    for fates in fates {
        let mut world = world(&signer);
        take_over(&mut world, with_fates(&signer, &other, [Fate::Kept; 3]));
        let here = KINDS.map(|kind| client(&mut world, &signer, kind, &format!("here-{kind}")));
        for kind in KINDS {
            let client = client(&mut world, &signer, kind, &format!("away-{kind}"));
            world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        }
        // What is on its way to the journal is answered to those that stay.
        for client in here {
            world.say(client, &one(7, "t/x"));
        }
        world.ended();
        take_over(&mut world, with_fates(&signer, &other, fates));
        while !world.taken().is_empty() {
            world.commit(true);
        }
        let stays = fates.map(|fate| fate == Fate::Kept);
        let staying = stays.iter().filter(|stays| **stays).count();
        assert_eq!(world.intake.counts(), (staying, staying), "{fates:?}");
        // Each that ends is named with what was taken away, also if it has no connection.
        let (mut here_ended, mut away_ended) = (Vec::new(), Vec::new());
        for event in std::iter::from_fn(|| world.intake.poll_event()) {
            match event {
                Event::Disconnected { client_id, reason: Ended::Withdrawn(credential), .. } => {
                    here_ended.push((client_id, credential.to_string()));
                }
                Event::SessionEnded { client_id, reason: Ended::Withdrawn(credential), .. } => {
                    away_ended.push((client_id, credential.to_string()));
                }
                other => panic!("{other:?}"),
            }
        }
        let named = |place: &str| {
            let gone = KINDS.iter().zip(stays).filter(|(_, stays)| !stays);
            let named = gone.map(|(kind, _)| {
                let credential = if *kind == "token" { "key for tokens" } else { kind };
                (format!("{place}-{kind}"), credential.to_owned())
            });
            named.collect::<std::collections::BTreeSet<_>>()
        };
        let sorted = |ended: Vec<(String, String)>| ended.into_iter().collect();
        assert_eq!((named("here"), named("away")), (sorted(here_ended), sorted(away_ended)), "{fates:?}");
        let counted = world.pipeline.counters.value(Counter::MqttSessionsWithdrawn);
        assert_eq!(counted as usize, 3 - staying, "{fates:?}");
        for (client, stays) in here.into_iter().zip(stays) {
            let expected = if stays { (PUBACK, vec![0, 7]) } else { (DISCONNECT, vec![0x87]) };
            assert_eq!(world.heard(client), [expected], "{fates:?}");
            assert_eq!(world.is_closed(client), !stays, "{fates:?}");
        }
        // Those that stay leave their will, and the sessions without a connection too.
        for client in here {
            world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        }
        world.pass(Duration::from_secs(61));
        let mut wills = world.taken();
        wills.sort_unstable();
        let of = |place: &str| {
            let staying = KINDS.iter().zip(stays).filter(|(_, stays)| *stays);
            staying.map(|(kind, _)| format!("tombolo/gw/cam-1/up/t/{place}-{kind}")).collect::<Vec<_>>()
        };
        assert_eq!(wills, [of("away"), of("here")].concat(), "{fates:?}");
    }
}

#[test]
fn a_device_that_is_disabled_loses_all_its_sessions_whatever_proved_them() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let mut settings = with_fates(&signer, &signer, [Fate::Kept; 3]);
    take_over(&mut world, settings.clone());
    let here = KINDS.map(|kind| client(&mut world, &signer, kind, kind));
    world.ended();
    let device = settings.devices.remove(0);
    settings.withheld.add(&device);
    take_over(&mut world, settings);
    assert_eq!(world.ended(), vec![Ended::Removed; 3]);
    for client in here {
        assert_eq!(world.heard(client), [(DISCONNECT, vec![0x87])]);
    }
    world.pass(Duration::from_secs(61));
    assert_eq!((world.intake.counts(), world.taken()), ((0, 0), vec![]), "and it leaves no will");
}

#[test]
fn a_session_that_was_taken_up_by_another_credential_is_judged_by_that_one() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let all = [Fate::Kept; 3];
    take_over(&mut world, with_fates(&signer, &signer, all));
    let first = client(&mut world, &signer, "password", "one");
    let second = client(&mut world, &signer, "certificate", "one");
    assert!(world.is_closed(first));
    take_over(&mut world, with_fates(&signer, &signer, [Fate::Kept, Fate::Changed, Fate::Kept]));
    assert!(!world.is_closed(second));
    take_over(&mut world, with_fates(&signer, &signer, [Fate::Removed, Fate::Changed, Fate::Kept]));
    assert_eq!(world.heard(second), [(DISCONNECT, vec![0x87])]);
}

#[test]
fn a_key_that_is_to_end_sooner_ends_the_sessions_of_its_tokens_then() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let token = signer.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    let client = show(&mut world, "cam-1", &token);
    assert_eq!(world.kinds(client), [CONNACK]);
    let until = |seconds: u64| {
        let mut sooner = settings(&[("cam-1", &signer)]);
        sooner.devices[0].jwt_keys[0].until = Some(UnixTime(NOW.0 + 1_000 * seconds));
        sooner
    };
    take_over(&mut world, until(60));
    let clock = |seconds: u64| Clock { time: UnixTime(NOW.0 + 1_000 * seconds), trusted: true };
    set_clocks(&mut world, clock(59), clock(59));
    assert!(!world.is_closed(client));
    set_clocks(&mut world, clock(60), clock(60));
    let heard = world.heard(client);
    assert_eq!((heard.len(), heard[0].0, heard[0].1[0]), (1, DISCONNECT, 0xA0));
    assert_eq!(world.ended(), [Ended::Expired]);
}

#[test]
fn a_password_that_is_replaced_while_it_is_verified_or_after_is_not_taken() {
    let mut world = costly();
    let hello = Hello { username: Some("cam-1"), password: Some("right"), ..HELLO };
    let mut settings = costly_settings();
    let known = world.connect(hello);
    assert!(world.intake.poll_verification().is_some());
    world.intake.handle_verified(&world.moment, true, &mut world.pipeline);
    assert_eq!(world.kinds(known), [CONNACK]);
    // Of another device it is known as well, and one of it is being verified.
    let late = world.connect(Hello { username: Some("cam-2"), client_id: "late", ..hello });
    assert!(world.intake.poll_verification().is_some());
    for device in &mut settings.devices {
        device.login.as_mut().expect("a login").password = PasswordHash::parse(
            "$argon2id$v=19$m=65536,t=2,p=1$YW5vdGhlcnNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        )
        .expect("a hash");
    }
    take_over(&mut world, settings);
    assert!(world.is_closed(known));
    world.intake.handle_verified(&world.moment, true, &mut world.pipeline);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.heard(late)[0].1[1], 0x86);
    // The password of before is not recognised any more: it has to be verified.
    world.connect(hello);
    assert!(world.intake.poll_verification().is_some());
}

#[test]
fn the_gateway_that_stops_publishes_the_wills_that_wait() {
    let mut world = World::new();
    let will = |client_id, topic| Hello { client_id, expiry: Some(3_600), will: Some((topic, 60)), ..HELLO };
    let away = world.client(will("away", "t/away"));
    world.intake.handle_closed(&world.moment, away, &mut world.pipeline);
    let here = world.client(will("here", "t/here"));
    world.intake.leave(&world.moment, &mut world.pipeline);
    assert_eq!(world.heard(here), [(DISCONNECT, vec![0x8B])]);
    assert_eq!(world.taken(), ["tombolo/gw/door-7/up/t/away", "tombolo/gw/door-7/up/t/here"]);
    world.pass(Duration::from_secs(3_601));
    assert_eq!(world.taken().len(), 2, "each once");
}
