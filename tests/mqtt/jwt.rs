//! Tokens as the password: how they are made, and that the connection is replaced before one
//! expires.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tombolo::clock::{UnixTime, WallClock};
use tombolo::message::Lane;
use tombolo::northbound::io::{files, jwt};
use tombolo::northbound::jwt::{JwtAlgorithm, JwtSettings};
use tombolo::northbound::uplink::Event;

use crate::support::pki::Folder;
use crate::support::{World, bare_settings, settings};
use tombolo_test_support::broker::Reply;

const HOUR: Duration = Duration::from_secs(3600);

fn is_renewal(event: &Event) -> bool {
    matches!(event, Event::PasswordRenewal)
}

fn is_loss(event: &Event) -> bool {
    matches!(event, Event::Lost { .. } | Event::Failed { .. })
}

fn world() -> World {
    let mut settings = bare_settings();
    // The scripted broker wants one with a password, as MQTT 3.1.1 does.
    settings.username = Some("gw".to_owned());
    let mut world = World::new(settings);
    world.password = Some(b"token".to_vec());
    world.password_life = Some(HOUR);
    world
}

#[test]
fn at_80_percent_of_a_tokens_life_the_connection_is_replaced_at_once() {
    let mut world = world();
    world.run_for(HOUR * 79 / 100);
    assert_eq!(world.broker.connects.len(), 1);
    world.run_for(HOUR * 2 / 100);
    assert_eq!(world.broker.connects.len(), 2);
    assert_eq!(world.broker.disconnects, [0], "in good order, so that no will is published");
    let due = HOUR * 80 / 100;
    assert!(world.attempts[1] >= due && world.attempts[1] <= due + Duration::from_millis(300));
    assert!(world.uplink.is_connected());
    world.run_for(24 * HOUR);
    assert_eq!(world.broker.connects.len(), 2 + 30, "one every 48 min");
    assert_eq!((world.count(is_renewal), world.count(is_loss)), (31, 0));
}

#[test]
fn a_password_that_does_not_expire_replaces_nothing() {
    let mut settings = bare_settings();
    settings.username = Some("gw".to_owned());
    let mut world = World::new(settings);
    world.password = Some(b"secret".to_vec());
    world.run_for(48 * HOUR);
    assert_eq!(world.broker.connects.len(), 1);
}

#[test]
fn readings_under_way_are_answered_first_and_none_is_lost_or_sent_twice() {
    let mut world = world();
    world.broker.delay = Duration::from_millis(700);
    let mut stored = 0;
    while world.elapsed() < 2 * HOUR {
        stored += 1;
        world.store(Lane::Normal, "t", format!("{stored}").as_bytes());
        world.run_for(Duration::from_secs(1));
    }
    world.run_for(Duration::from_secs(5));
    assert!(world.broker.connects.len() >= 3);
    let expected: Vec<String> = (1..=stored).map(|number| number.to_string()).collect();
    assert_eq!(world.payloads(), expected);
    assert_eq!(world.count(is_loss), 0);
}

#[test]
fn a_broker_that_does_not_answer_holds_the_renewal_up_for_ten_seconds_only() {
    let mut world = world();
    world.run_for(HOUR * 80 / 100 - Duration::from_secs(1));
    world.broker.delay = 10 * HOUR;
    world.store(Lane::Normal, "t", b"unanswered");
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.broker.connects.len(), 1);
    world.broker.delay = Duration::ZERO;
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.broker.connects.len(), 2);
    world.run_for(Duration::from_secs(60));
    assert!(world.outbox.rejected.is_empty());
    assert_eq!(world.status().suspect_count, 0);
    assert!(world.payloads().iter().all(|payload| payload == "unanswered"));
}

#[test]
fn a_broker_that_ends_the_connection_at_the_expiry_is_no_error() {
    let mut world = world();
    world.run_for(HOUR * 80 / 100 - Duration::from_millis(500));
    // It is suspended, and the token expires meanwhile; the renewal is not due by our timer.
    world.advance(HOUR * 20 / 100 - Duration::from_secs(30));
    world.cut();
    assert_eq!((world.count(is_renewal), world.count(is_loss)), (1, 0));
    world.run_for(Duration::from_secs(1));
    assert!(world.uplink.is_connected());
    // Any other end is one.
    world.cut();
    assert_eq!((world.count(is_renewal), world.count(is_loss)), (1, 1));
}

#[test]
fn a_stop_in_the_middle_of_a_renewal_is_a_stop() {
    let mut world = World::new(settings());
    world.password_life = Some(HOUR);
    world.run_for(HOUR * 80 / 100 - Duration::from_secs(1));
    world.broker.policy = Box::new(|_| Reply::Drop);
    world.store(Lane::Normal, "t", b"x");
    world.run_for(Duration::from_secs(2));
    world.uplink.stop(world.moment.now);
    world.run_for(Duration::from_secs(5));
    assert!(world.uplink.is_stopped());
    assert_eq!(world.broker.connects.len(), 1);
}

struct At(Option<u64>);

impl WallClock for At {
    fn raw(&self) -> UnixTime {
        UnixTime::from_secs(self.0.unwrap_or(0))
    }

    fn trusted(&self) -> bool {
        self.0.is_some()
    }

    fn floor(&self) -> UnixTime {
        UnixTime::from_secs(1_700_000_000)
    }
}

fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).stderr(Stdio::null()).stdout(Stdio::null()).status();
    assert!(done.expect("openssl is needed").success(), "{arguments:?}");
}

/// r and s as DER, as openssl wants them.
fn der_signature(raw: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        let sign = if bytes[0] >= 0x80 { &[0][..] } else { &[] };
        [&[2, (sign.len() + bytes.len()) as u8], sign, bytes].concat()
    };
    let both = [integer(&raw[..32]), integer(&raw[32..])].concat();
    [vec![0x30, both.len() as u8], both].concat()
}

#[test]
fn tokens_of_each_algorithm_are_verified_by_openssl() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let folder = Folder::new();
    for (algorithm, make) in [
        (JwtAlgorithm::Es256, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..]),
        (JwtAlgorithm::EdDsa, &["-algorithm", "ED25519"]),
        (JwtAlgorithm::Rs256, &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ] {
        let name = |end: &str| folder.path().join(format!("{}{end}", algorithm.name()));
        let text = |end: &str| name(end).display().to_string();
        openssl(&[&["genpkey"][..], make, &["-out", &text(".key")]].concat());
        openssl(&["pkey", "-in", &text(".key"), "-pubout", "-out", &text(".pub")]);
        let settings =
            JwtSettings { audience: "aud".to_owned(), lifetime: HOUR, algorithm, key_file: name(".key") };
        let token = String::from_utf8(
            jwt::mint(&settings, files::pem(&settings.key_file).unwrap(), "gw", &At(Some(1_800_000_000)))
                .unwrap(),
        )
        .unwrap();
        let (input, signature) = token.rsplit_once('.').unwrap();
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        if algorithm == JwtAlgorithm::Es256 {
            assert_eq!(signature.len(), 64, "r and s, raw");
            signature = der_signature(&signature);
        }
        std::fs::write(name(".in"), input).unwrap();
        std::fs::write(name(".sig"), signature).unwrap();
        let verify = [
            "pkeyutl",
            "-verify",
            "-rawin",
            "-pubin",
            "-inkey",
            &text(".pub"),
            "-in",
            &text(".in"),
            "-sigfile",
            &text(".sig"),
        ]
        .map(str::to_owned);
        let verify: Vec<&str> = verify.iter().map(String::as_str).collect();
        match algorithm {
            JwtAlgorithm::EdDsa => openssl(&verify),
            _ => openssl(&[&verify[..], &["-digest", "sha256"]].concat()),
        }
        let other = match algorithm {
            JwtAlgorithm::Es256 => JwtAlgorithm::EdDsa,
            JwtAlgorithm::EdDsa => JwtAlgorithm::Rs256,
            JwtAlgorithm::Rs256 => JwtAlgorithm::Es256,
        };
        let settings = JwtSettings { algorithm: other, ..settings };
        let error =
            jwt::mint(&settings, files::pem(&settings.key_file).unwrap(), "gw", &At(Some(1_800_000_000)))
                .unwrap_err();
        assert!(error.contains(other.name()) && error.contains(".key"), "{error}");
    }
}

#[test]
fn without_a_trusted_clock_no_token_is_made_and_it_says_so() {
    let folder = Folder::new();
    let jwt = JwtSettings {
        audience: "aud".to_owned(),
        lifetime: HOUR,
        algorithm: JwtAlgorithm::Es256,
        key_file: folder.path().join("jwt.key"),
    };
    std::fs::write(&jwt.key_file, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let mut settings = settings();
    settings.jwt = Some(jwt);
    let error = files::load(&settings, Arc::new(At(None))).err().unwrap();
    assert!(error.contains("the clock is not trusted"), "{error}");
    let loaded = files::load(&settings, Arc::new(At(Some(1_800_000_000)))).ok().unwrap();
    assert_eq!(loaded.password_life, Some(HOUR - Duration::from_secs(60)));
    assert_eq!(loaded.password.unwrap().split(|byte| *byte == b'.').count(), 3);
}
