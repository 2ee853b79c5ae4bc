//! Tokens as passwords, and the end of what proves an identity.

use rustls_pki_types::CertificateDer;
use serde_json::json;

use super::*;
use crate::clock::UnixTime;
use crate::gate::jwt::SignatureAlgorithm;
use crate::gate::jwt::tests::{NOW, Signer, claims};
use crate::proto::dtls::PeerIdentity;
use crate::proto::dtls::server::{CertificateIdentity, Clock};

/// A world with `cam-1`, which has the key of the signer, and `cam-2`, which has another.
pub(super) fn world(signer: &Signer) -> World {
    let mut world = costly();
    let settings = settings(&[("cam-1", signer), ("cam-2", &Signer::new(SignatureAlgorithm::Es256))]);
    world.pipeline.gate.replace(settings, world.moment.now);
    let clock = Clock { time: NOW, trusted: true };
    set_clocks(&mut world, clock, clock);
    world
}

pub(super) fn set_clocks(world: &mut World, certificates: Clock, tokens: Clock) {
    world.intake.set_clock(&world.moment, certificates, tokens, &mut world.pipeline);
}

pub(super) fn settings(signers: &[(&str, &Signer)]) -> crate::gate::Settings {
    let mut settings = costly_settings();
    settings.devices = signers
        .iter()
        .map(|(id, signer)| Device {
            id: name(id),
            login: None,
            jwt_keys: vec![signer.key()],
            certificate: Some(
                crate::gate::certificate::CertificateName::new(
                    crate::gate::certificate::NameKind::Dns,
                    &format!("{id}.example"),
                    None,
                )
                .unwrap(),
            ),
            ..Device::clone(&settings.devices[0])
        })
        .map(Device::into)
        .collect();
    settings
}

pub(super) fn show(world: &mut World, client_id: &str, token: &str) -> ConnectionNumber {
    world.connect(Hello { client_id, username: Some("ignored"), password: Some(token), ..HELLO })
}

/// The return code of the CONNACK that comes at once, or after the wait of a refusal.
fn code(world: &mut World, client: ConnectionNumber) -> u8 {
    world.pass(Duration::from_secs(1));
    world.heard(client)[0].1[1]
}

/// The identity of the certificate of a device.
pub(super) fn certificate(id: &str) -> Option<PeerIdentity> {
    let dns = format!("{id}.example");
    let identity =
        CertificateIdentity::new([], [dns.as_str()], None, std::sync::Arc::from(&b""[..]), b"1", [0; 32]);
    Some(PeerIdentity::Certificate(identity.into()))
}

/// A client with a certificate of this chain has left a will that is published in a minute.
fn leave_a_will(world: &mut World, id: &str, chain: &'static [u8]) {
    let chain = Some(std::rc::Rc::from([rustls_pki_types::CertificateDer::from(chain)]));
    let source = Source { identity: certificate(id), chain, ..Source::default() };
    let client = world.intake.handle_opened(world.moment.now, source);
    let topic = format!("t/{id}");
    let hello = Hello { password: None, expiry: Some(3_600), will: Some((&topic, 60)), ..HELLO };
    world.say(client, &hello.bytes());
    assert_eq!(world.kinds(client), [CONNACK]);
    world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
}

#[test]
fn the_delayed_will_of_a_certificate_that_is_revoked_meanwhile_is_not_published() {
    let mut world = world(&Signer::new(SignatureAlgorithm::Es256));
    leave_a_will(&mut world, "cam-1", b"one");
    leave_a_will(&mut world, "cam-2", b"two");
    withdraw(&mut world, |chain| *chain[0] == *b"one");
    assert_eq!(world.intake.counts(), (0, 1), "nothing waits for it");
    world.pass(Duration::from_secs(61));
    assert_eq!(world.taken(), ["tombolo/gw/cam-2/up/t/cam-2"]);
    // A client that is connected is judged by its connection.
    let (chain, certified) = (Some(std::rc::Rc::from([])), certificate("cam-1"));
    let source = Source { identity: certified, chain, ..Source::default() };
    let client = world.intake.handle_opened(world.moment.now, source);
    world.say(client, &Hello { password: None, will: Some(("t/x", 60)), ..HELLO }.bytes());
    withdraw(&mut world, |_| true);
    assert!(!world.is_closed(client));
}

fn withdraw(world: &mut World, is_revoked: impl Fn(&[CertificateDer<'_>]) -> bool) {
    let why =
        |chain: &[CertificateDer<'_>]| is_revoked(chain).then(|| "its certificate is revoked".to_owned());
    world.intake.end_withdrawn(why, &mut world.pipeline);
}

/// A client with a certificate of this chain and a session of an hour is away. Returns its `Hello`
/// and `Source`.
fn stay_away(world: &mut World, id: &str, chain: &'static [u8]) -> (Hello<'static>, Source) {
    let chain = Some(std::rc::Rc::from([CertificateDer::from(chain)]));
    let source = Source { identity: certificate(id), chain, ..Source::default() };
    let client = world.intake.handle_opened(world.moment.now, source.clone());
    let hello = Hello { password: None, expiry: Some(3_600), clean: false, ..HELLO };
    world.say(client, &hello.bytes());
    assert_eq!(world.kinds(client), [CONNACK]);
    world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
    world.ended();
    (hello, source)
}

#[test]
fn the_session_of_an_absent_client_ends_with_its_certificate_and_is_named_and_counted() {
    let mut world = world(&Signer::new(SignatureAlgorithm::Es256));
    let (hello, first) = stay_away(&mut world, "cam-1", b"one");
    let (_, second) = stay_away(&mut world, "cam-2", b"two");
    withdraw(&mut world, |chain| *chain[0] == *b"one");
    assert_eq!(world.intake.counts(), (0, 1));
    let events: Vec<Event> = std::iter::from_fn(|| world.intake.poll_event()).collect();
    let reason = Ended::Revoked("its certificate is revoked".to_owned());
    let client_id = hello.client_id.to_owned();
    assert_eq!(events, [Event::SessionEnded { device: Some(name("cam-1")), client_id, queued: 0, reason }]);
    assert_eq!(world.pipeline.counters.value(Counter::MqttSessionsWithdrawn), 1);
    // Another certificate of the device begins a new session; the other device has its own still.
    for (source, present) in [(first, 0), (second, 1)] {
        let client = world.intake.handle_opened(world.moment.now, source);
        world.say(client, &hello.bytes());
        assert_eq!(world.heard(client)[0].1[0], present);
    }
}

#[test]
fn a_session_that_came_back_with_another_credential_is_not_judged_by_the_one_before() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let (hello, _) = stay_away(&mut world, "cam-1", b"one");
    let mut named = claims(0, 3_600);
    named["sub"] = json!("cam-1");
    let token = signer.token(&json!({ "alg": "ES256" }), &named);
    let client = world.connect(Hello { password: Some(&token), ..hello });
    assert_eq!(world.heard(client)[0].1[..2], [1, 0], "its session is there");
    world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
    withdraw(&mut world, |_| true);
    assert_eq!(world.intake.counts(), (0, 1));
}

#[test]
fn the_end_of_a_key_that_is_moved_ends_its_clients_then_and_not_beyond_their_tokens() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    // The end of the key at the connect and from a reload on, and that of the client: a token is
    // taken for as long as it says, and ten minutes more.
    for (before, then, end) in [
        (Some(100), Some(200), 200),
        (Some(100), None, 1_200),
        (Some(100), Some(5_000), 1_200),
        (None, Some(100), 100),
        (Some(200), Some(100), 100),
    ] {
        let mut world = world(&signer);
        let until = |world: &mut World, seconds: Option<u64>| {
            let mut settings = settings(&[("cam-1", &signer)]);
            settings.devices[0].jwt_keys[0].until = seconds.map(|seconds| UnixTime(NOW.0 + 1_000 * seconds));
            world.pipeline.gate.replace(settings, world.moment.now);
            world.intake.review(&world.moment, &mut world.pipeline);
        };
        until(&mut world, before);
        let token = signer.token(&json!({ "alg": "ES256" }), &claims(0, 600));
        let client = show(&mut world, "cam-1", &token);
        assert_eq!(code(&mut world, client), 0);
        until(&mut world, then);
        let clock = |milliseconds| Clock { time: UnixTime(NOW.0 + milliseconds), trusted: true };
        set_clocks(&mut world, clock(1_000 * end - 1), clock(1_000 * end - 1));
        assert!(!world.is_closed(client), "{before:?} {then:?}");
        set_clocks(&mut world, clock(1_000 * end), clock(1_000 * end));
        assert!(world.is_closed(client), "{before:?} {then:?}");
    }
}

#[test]
fn the_delayed_will_of_a_device_that_is_removed_disabled_or_has_its_certificate_no_more_is_not_published() {
    let [first, second] = [(); 2].map(|()| Signer::new(SignatureAlgorithm::Es256));
    type Change = fn(&mut crate::gate::Settings);
    let changes: [(Change, &str); 4] = [
        (|_| {}, "published"),
        (|settings| drop(settings.devices.remove(0)), "removed"),
        (|settings| settings.withheld.add(&settings.devices.remove(0)), "disabled"),
        // The certificate of cam-1 is now that of cam-2, and cam-1 is there with its key.
        (
            |settings| {
                let other = settings.devices[0].certificate.clone();
                let device = Device { certificate: None, ..Device::clone(&settings.devices[0]) };
                settings.devices[1] =
                    Device { certificate: other, ..Device::clone(&settings.devices[1]) }.into();
                settings.devices[0] = device.into();
            },
            "another's",
        ),
    ];
    for (change, what) in changes {
        let mut world = world(&first);
        let mut settings = settings(&[("cam-1", &first), ("cam-2", &second)]);
        world.pipeline.gate.replace(settings.clone(), world.moment.now);
        leave_a_will(&mut world, "cam-1", b"one");
        change(&mut settings);
        world.pipeline.gate.replace(settings, world.moment.now);
        world.intake.review(&world.moment, &mut world.pipeline);
        world.pass(Duration::from_secs(61));
        assert_eq!(world.taken().len(), usize::from(what == "published"), "{what}");
    }
}

#[test]
fn a_client_whose_address_a_reload_removes_is_told_and_its_session_stays() {
    for five in [true, false] {
        let mut world = World::new();
        let kept = Hello { five, expiry: Some(60), clean: false, ..HELLO };
        let (client, other) = (world.client(kept), world.client(Hello { client_id: "o", ..HELLO }));
        world.intake.handle_unlistened(&world.moment, client, &mut world.pipeline);
        match five {
            true => assert_eq!(world.heard(client), [(DISCONNECT, vec![0x98])]),
            false => assert_eq!(world.heard(client), []),
        }
        assert!(world.is_closed(client) && !world.is_closed(other));
        assert_eq!(world.ended(), [Ended::Unlistened]);
        // It comes by another address.
        let client = world.connect(kept);
        assert_eq!(world.heard(client)[0].1[0], 1, "session present");
        // One that has not connected yet counts as no refused connect.
        let silent = world.open();
        world.intake.handle_unlistened(&world.moment, silent, &mut world.pipeline);
        assert!(world.is_closed(silent));
        assert_eq!(world.pipeline.counters.value(Counter::MqttConnectsRefused), 0);
    }
}

const BAD: u8 = ConnectReasonCode::BadUserNameOrPassword as u8;

#[test]
fn a_token_lets_in_the_device_that_the_client_id_or_its_subject_names() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let token = signer.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    for client_id in ["cam-1", "projects/p/locations/l/registries/r/devices/cam-1"] {
        let client = show(&mut world, client_id, &token);
        assert_eq!(code(&mut world, client), 0);
        world.say(client, &one(1, "t/a"));
        assert_eq!(world.taken().last().map(String::as_str), Some("tombolo/gw/cam-1/up/t/a"));
        world.commit(true);
    }
    let mut named = claims(0, 3_600);
    named["sub"] = json!("cam-1");
    let subject = signer.token(&json!({ "alg": "ES256" }), &named);
    let client = show(&mut world, "any", &subject);
    assert_eq!(code(&mut world, client), 0);
    // Another device's key, an unknown device, and one that has no key.
    for client_id in ["cam-2", "cam-3", ""] {
        let client = show(&mut world, client_id, &token);
        assert_eq!(code(&mut world, client), BAD, "{client_id}");
    }
    assert_eq!(world.pipeline.counters.value(Counter::MqttConnectsRefused), 3);
}

#[test]
fn a_token_names_the_audience_that_is_configured_in_the_place_of_the_gateways_id() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let token = |audience: &str| {
        let mut claims = claims(0, 3_600);
        claims["aud"] = json!(audience);
        signer.token(&json!({ "alg": "ES256" }), &claims)
    };
    for (configured, taken, refused) in [(None, "gw", "plant-4"), (Some("plant-4"), "plant-4", "gw")] {
        let settings = Settings { jwt_audience: configured.map(str::to_owned), ..Settings::default() };
        world.intake.replace(&settings, &roles());
        let client = show(&mut world, "cam-1", &token(taken));
        assert_eq!(code(&mut world, client), 0);
        let client = show(&mut world, "cam-1", &token(refused));
        assert_eq!(code(&mut world, client), BAD);
        let reason = &world.intake.last_refused_connect().expect("one").reason;
        assert!(reason.contains(&format!("{refused:?}, not {taken:?}")), "{reason}");
    }
}

#[test]
fn a_refused_connect_is_kept_with_the_device_that_it_claims_to_be_and_the_reason() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let mut other = claims(0, 3_600);
    other["aud"] = json!("gw-of-yesterday");
    let wrong = signer.token(&json!({ "alg": "ES256" }), &other);
    let token = signer.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    for (client_id, token, device, reason) in [
        ("cam-1", &wrong, Some("cam-1"), "aud): \"gw-of-yesterday\", not \"gw\""),
        ("cam-9", &token, None, "client id \"cam-9\" names no device with a registered key"),
    ] {
        let client = show(&mut world, client_id, token);
        assert_eq!(code(&mut world, client), BAD);
        let last = world.intake.last_refused_connect().expect("one");
        assert_eq!(last.device.as_ref().map(|device| device.as_str()), device);
        assert!(last.reason.contains(reason), "{}", last.reason);
    }
    let index = world.pipeline.gate.device_by_id("cam-1").expect("a device");
    let (count, last) = world.intake.refused_connects_of(index).expect("one");
    assert!(count == 1 && last.reason.contains("gw-of-yesterday"), "{last:?}");
}

#[test]
fn an_expired_token_ends_its_connection_and_its_will_is_published() {
    let signer = Signer::new(SignatureAlgorithm::EdDsa);
    for five in [true, false] {
        let mut world = world(&signer);
        let token = signer.token(&json!({ "alg": "EdDSA" }), &claims(-600, -599));
        let hello = Hello { five, client_id: "cam-1", will: Some(("t/will", 0)), ..HELLO };
        let client = world.connect(Hello { password: Some(&token), ..hello });
        assert_eq!(code(&mut world, client), 0);
        let clock = |milliseconds| Clock { time: UnixTime(NOW.0 + milliseconds), trusted: true };
        set_clocks(&mut world, clock(999), clock(999));
        assert!(!world.is_closed(client));
        set_clocks(&mut world, clock(1_000), clock(1_000));
        let heard = world.heard(client);
        match five {
            true => assert_eq!((heard[0].0, heard[0].1[0]), (DISCONNECT, 0xA0)),
            false => assert_eq!(heard, []),
        }
        assert!(world.is_closed(client));
        assert_eq!(world.ended(), [Ended::Expired]);
        assert_eq!(world.taken(), ["tombolo/gw/cam-1/up/t/will"]);
        let client = show(&mut world, "cam-1", &token);
        assert_eq!(code(&mut world, client), BAD);
    }
}

#[test]
fn an_expired_certificate_ends_its_connection_and_one_that_left_is_forgotten() {
    let mut world = world(&Signer::new(SignatureAlgorithm::Es256));
    let open = |world: &mut World, id: &str| {
        let expires = Some(UnixTime(NOW.0 + 5_000));
        let source = Source { identity: certificate(id), expires, ..Source::default() };
        let client = world.intake.handle_opened(world.moment.now, source);
        world.say(client, &Hello { password: None, ..HELLO }.bytes());
        assert_eq!(world.kinds(client), [CONNACK]);
        client
    };
    let (stays, left) = (open(&mut world, "cam-1"), open(&mut world, "cam-2"));
    world.intake.handle_closed(&world.moment, left, &mut world.pipeline);
    let clock = Clock { time: UnixTime(NOW.0 + 5_000), trusted: false };
    set_clocks(&mut world, clock, clock);
    assert_eq!(world.kinds(stays), [DISCONNECT]);
    assert_eq!(world.ended(), [Ended::Lost, Ended::Expired]);
}

#[test]
fn on_the_first_day_an_expired_token_is_refused_and_a_certificate_is_judged_at_the_floor() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let source =
        Source { identity: certificate("cam-2"), expires: Some(UnixTime(NOW.0 - 1)), ..Source::default() };
    // What the kernel's word alone is worth: certificates are not judged by it, tokens are.
    let floor = Clock { time: UnixTime(NOW.0 - 86_400_000), trusted: false };
    let kernel = |seconds: u64| Clock { time: UnixTime(NOW.0 + 1_000 * seconds), trusted: true };
    set_clocks(&mut world, floor, kernel(0));
    let certified = world.intake.handle_opened(world.moment.now, source);
    world.say(certified, &Hello { password: None, ..HELLO }.bytes());
    assert_eq!(world.kinds(certified), [CONNACK]);
    let token = |begin, end| signer.token(&json!({ "alg": "ES256" }), &claims(begin, end));
    for (begin, end, expected) in [(-7_200, -3_600, BAD), (3_600, 7_200, BAD), (0, 100, 0)] {
        let client = show(&mut world, "cam-1", &token(begin, end));
        assert_eq!(code(&mut world, client), expected, "from {begin} to {end}");
    }
    set_clocks(&mut world, floor, kernel(701));
    assert_eq!(world.ended(), [Ended::Expired]);
    assert!(!world.is_closed(certified));
    // The clock is refuted: nothing is judged by it any more.
    set_clocks(&mut world, floor, floor);
    let client = show(&mut world, "cam-1", &token(-7_200, -3_600));
    assert_eq!(code(&mut world, client), 0);
}

#[test]
fn wrong_signatures_keep_no_other_token_of_their_address_out() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let forger = Signer::new(SignatureAlgorithm::Es256);
    let good = signer.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    let expired = signer.token(&json!({ "alg": "ES256" }), &claims(-3_600, -700));
    let forged = forger.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    for _ in 0..10 {
        let client = show(&mut world, "cam-1", &expired);
        assert_eq!(code(&mut world, client), BAD);
    }
    for _ in 0..6 {
        let client = show(&mut world, "cam-1", &forged);
        assert_eq!(code(&mut world, client), BAD);
    }
    let client = show(&mut world, "cam-1", &good);
    assert_eq!(code(&mut world, client), 0);
}

#[test]
fn a_key_that_is_added_disturbs_nobody_and_one_that_is_removed_cuts_off() {
    let (first, second) = (Signer::new(SignatureAlgorithm::Es256), Signer::new(SignatureAlgorithm::EdDsa));
    let mut world = world(&first);
    let token = first.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    let client = show(&mut world, "cam-1", &token);
    assert_eq!(code(&mut world, client), 0);
    let mut both = settings(&[("cam-1", &first)]);
    both.devices[0].jwt_keys.push(second.key());
    world.pipeline.gate.replace(both.clone(), world.moment.now);
    world.intake.review(&world.moment, &mut world.pipeline);
    assert!(!world.is_closed(client));
    both.devices[0].jwt_keys.remove(0);
    world.pipeline.gate.replace(both, world.moment.now);
    world.intake.review(&world.moment, &mut world.pipeline);
    assert!(world.is_closed(client));
}

#[test]
fn a_device_that_is_disabled_is_called_so_whatever_it_shows() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let mut settings = settings(&[("cam-1", &signer)]);
    let device = settings.devices.remove(0);
    settings.withheld.add(&device);
    world.pipeline.gate.replace(settings, world.moment.now);
    let token = signer.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    let certified = Source { identity: certificate("cam-1"), ..Source::default() };
    let password = Hello { username: Some("cam-1"), ..HELLO };
    let by_token = Hello { client_id: "cam-1", password: Some(&token), ..HELLO };
    let bare = Hello { username: None, password: None, ..HELLO };
    for (source, hello) in [(Source::default(), password), (Source::default(), by_token), (certified, bare)] {
        let client = world.intake.handle_opened(world.moment.now, source);
        world.say(client, &hello.bytes());
        let last = world.intake.last_refused_connect().expect("one");
        assert!(last.reason.contains("switched off or disabled"), "{}", last.reason);
    }
}

#[test]
fn the_first_use_of_a_key_that_a_reload_added_is_told_once() {
    let signer = Signer::new(SignatureAlgorithm::Es256);
    let mut world = world(&signer);
    let hash = signer.key().hash();
    let known = Signer::new(SignatureAlgorithm::Es256).key().hash();
    world.intake.note_new_keys([("cam-1".to_owned(), hash), ("cam-2".to_owned(), known)]);
    let token = signer.token(&json!({ "alg": "ES256" }), &claims(0, 3_600));
    for expected in [1, 0] {
        let client = show(&mut world, "cam-1", &token);
        assert_eq!(code(&mut world, client), 0);
        let events: Vec<Event> = std::iter::from_fn(|| world.intake.poll_event()).collect();
        let is_use = |event: &&Event| **event == Event::NewKeyUsed { device: name("cam-1"), key: hash };
        assert_eq!(events.iter().filter(is_use).count(), expected, "{events:?}");
    }
}
