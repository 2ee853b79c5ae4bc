//! Enrolment with an EST server that is well, and with one that is not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tombolo::credential::candidate::{self, Demands, Expected, Flaw};
use tombolo::credential::csr_attributes::KeyKind;
use tombolo::credential::est::{EstSettings, EstTrust};
use tombolo::credential::io::est::EstSource;
use tombolo::credential::leaf::Usage;
use tombolo::credential::request::public_key;
use tombolo::credential::source::{Identity, Order, OrderKind, Outcome, Source as _};
use tombolo::northbound::certificate::Certificate;

use crate::server::{Booted1970, Trusted, folder, order, request, run, server};

fn enrol(label: &str) -> Outcome {
    run(server().source(label).order(order(OrderKind::Enroll, Some(server().factory()))))
}

fn issued(outcome: Outcome) -> Vec<Vec<u8>> {
    match outcome {
        Outcome::Issued { chain } => chain,
        other => panic!("{other:?}"),
    }
}

fn failed(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed { cause } => checked(cause),
        other => panic!("{other:?}"),
    }
}

fn refused(outcome: Outcome) -> String {
    match outcome {
        Outcome::Refused { cause } => checked(cause),
        other => panic!("{other:?}"),
    }
}

/// A cause is one line for a person, and no word of the uplink's is in it.
fn checked(cause: String) -> String {
    assert!(cause.len() <= 200 && !cause.chars().any(char::is_control), "{cause:?}");
    assert!(!cause.contains("broker") && !cause.contains("upstream"), "{cause}");
    cause
}

fn password_file(text: &str) -> PathBuf {
    let path = folder("password").join("password");
    std::fs::write(&path, text).unwrap();
    path
}

fn with_password(label: &str, password: &str) -> EstSettings {
    EstSettings {
        username: Some("gateway".to_owned()),
        password_file: Some(password_file(password)),
        ..server().settings(label)
    }
}

#[test]
fn a_bootstrap_certificate_enrols_and_the_new_one_enrols_again() {
    let (csr, key) = request();
    let source = server().source("rotation");
    let first =
        Order { name: "uplink".to_owned(), csr, kind: OrderKind::Enroll, identity: Some(server().factory()) };
    let chain = issued(run(source.order(first)));
    assert_eq!(chain.len(), 2, "completed by the intermediate out of cacerts");
    assert_eq!(chain[1], server().certificate("issuing"));
    let next = order(OrderKind::Reenroll, Some(Identity { chain, key, token: None }));
    issued(run(source.order(next)));
    let asked = server().requests("rotation");
    let enrolments: Vec<_> = asked.iter().filter(|(operation, ..)| operation.starts_with("simple")).collect();
    assert_eq!(enrolments.len(), 2);
    assert_eq!((enrolments[0].0.as_str(), enrolments[1].0.as_str()), ("simpleenroll", "simplereenroll"));
    assert!(
        enrolments
            .iter()
            .all(|(_, client, authorization)| client == "serial-0001" && authorization.is_none())
    );
}

#[test]
fn a_chain_in_any_order_comes_leaf_first_and_without_its_root() {
    let chain = issued(enrol("with-chain"));
    assert_eq!(chain.len(), 2);
    assert_eq!(Certificate::parse(&chain[0]).unwrap().subject.as_deref(), Some("serial-0001"));
    assert_eq!(chain[1], server().certificate("issuing"));
}

#[test]
fn a_fingerprint_finds_the_ca_and_nothing_secret_is_sent_before() {
    let sum =
        |name| digest::digest(&digest::SHA256, &server().certificate(name)).as_ref().try_into().unwrap();
    let source = |label: &str, name| {
        let trust = EstTrust::Fingerprint(sum(name));
        let settings = EstSettings { trust, ..with_password(label, "open sesame") };
        EstSource::new(settings, Arc::new(Trusted))
    };
    issued(run(source("fingerprint", "root").order(order(OrderKind::Enroll, Some(server().factory())))));
    let asked = server().requests("fingerprint");
    assert_eq!(
        asked[0],
        ("cacerts".to_owned(), String::new(), None),
        "no certificate is shown to a stranger"
    );
    let outcome = run(source("wrong-fingerprint", "other").order(order(OrderKind::Enroll, None)));
    let cause = failed(outcome);
    assert!(cause.contains("est-ca-sha256"), "{cause}");
    let asked = server().requests("wrong-fingerprint");
    assert_eq!((asked.len(), asked[0].0.as_str(), asked[0].2.is_none()), (1, "cacerts", true));
}

#[test]
fn a_password_is_given_when_it_is_asked_for_and_only_then() {
    let source = |label: &str, password| EstSource::new(with_password(label, password), Arc::new(Trusted));
    let outcome =
        run(source("basic-asked", "open sesame\n").order(order(OrderKind::Enroll, Some(server().factory()))));
    issued(outcome);
    let given: Vec<bool> =
        server().requests("basic-asked").iter().map(|(.., given)| given.is_some()).collect();
    assert_eq!(given, [false, false, true], "cacerts, simpleenroll, and the same once more");
    // Without a certificate the password is the only proof.
    issued(run(source("basic-alone", "open sesame").order(order(OrderKind::Enroll, None))));
    assert_eq!(server().requests("basic-alone").len(), 2);
    issued(run(
        source("no-challenge", "open sesame").order(order(OrderKind::Enroll, Some(server().factory())))
    ));
    assert!(server().requests("no-challenge").iter().all(|(.., given)| given.is_none()));
}

#[test]
fn a_wrong_or_missing_password_is_refused_and_tried_once() {
    let label = "basic-none";
    let wrong = EstSource::new(with_password("basic-wrong", "wrong"), Arc::new(Trusted));
    let cause = refused(run(wrong.order(order(OrderKind::Enroll, Some(server().factory())))));
    assert!(cause.contains("401") && cause.contains("user name and password"), "{cause}");
    let cause = refused(run(server().source(label).order(order(OrderKind::Enroll, None))));
    assert!(cause.contains("401"), "{cause}");
    let gone = EstSettings { password_file: Some(folder("gone").join("none")), ..with_password(label, "x") };
    let outcome = run(EstSource::new(gone, Arc::new(Trusted)).order(order(OrderKind::Enroll, None)));
    let cause = failed(outcome);
    assert!(cause.contains("none: cannot be read"), "{cause}");
}

#[test]
fn a_digest_challenge_gets_no_password() {
    let source = EstSource::new(with_password("digest", "open sesame"), Arc::new(Trusted));
    let cause = refused(run(source.order(order(OrderKind::Enroll, Some(server().factory())))));
    assert!(cause.contains("asks for digest authentication"), "{cause}");
    assert!(server().requests("digest").iter().all(|(.., given)| given.is_none()));
}

#[test]
fn a_request_that_awaits_approval_is_asked_again() {
    let source = server().source("later");
    let order = order(OrderKind::Enroll, Some(server().factory()));
    assert_eq!(run(source.order(order.clone())), Outcome::Later { after: Duration::from_secs(120) });
    issued(run(source.order(order)));
    assert_eq!(enrol("busy"), Outcome::Later { after: Duration::from_secs(90) });
}

#[test]
fn a_refusal_has_its_status_and_what_the_server_says() {
    for status in [400, 401, 403, 404] {
        let cause = refused(enrol(&format!("status-{status}")));
        assert!(cause.contains(&format!("simpleenroll: {status} ")), "{cause}");
        assert!(cause.ends_with("the registration authority says no"), "{cause}");
    }
    for status in [500, 503] {
        let cause = failed(enrol(&format!("status-{status}")));
        assert!(cause.contains(&format!("{status} the server has a fault of its own")), "{cause}");
    }
    let cause = failed(enrol("status-204"));
    assert!(cause.contains("204 without a certificate"), "{cause}");
}

#[test]
fn what_the_server_wants_of_a_request_is_told_with_its_refusal() {
    let cause = refused(enrol("wants-p384"));
    assert!(cause.ends_with("it wants a key of kind ECDSA P-384"), "{cause}");
    let wanted = run(server().source("wants-p384").attributes()).unwrap().unwrap();
    assert_eq!(wanted.key, Some(KeyKind::P384));
    assert_eq!(run(server().source("ok").attributes()), Ok(None), "204");
}

#[test]
fn answers_of_no_use_fail_with_their_cause() {
    for (label, expected) in [
        ("html", "of type text/html"),
        ("wrong-type", "of type application/octet-stream"),
        ("server-key", "sends a private key"),
        ("wrong-key", "has the key of the request"),
        ("ca-instead", "has the key of the request"),
        ("truncated", "closed in the middle of the answer"),
        ("ten-megabytes", "is longer than 393216 bytes"),
        ("endless", "is longer than 393216 bytes"),
        ("long-header", "header is longer than 16384 bytes"),
        ("no-http", "is not HTTP/1.1"),
        ("compressed", "is compressed (gzip)"),
        ("redirect", "redirects (302) to https://127.0.0.1:1/est/simpleenroll"),
    ] {
        let cause = failed(enrol(label));
        assert!(cause.starts_with("simpleenroll: ") && cause.contains(expected), "{label}: {cause}");
    }
}

#[test]
fn a_server_that_hangs_or_drips_ends_within_the_limits() {
    let settings = EstSettings { timeout: Duration::from_secs(2), ..server().settings("drip") };
    let source = EstSource::new(settings, Arc::new(Trusted));
    let cause = failed(run(source.order(order(OrderKind::Enroll, Some(server().factory())))));
    assert!(cause.contains("within 2 s"), "{cause}");
    let source = server().source("hang").with_idle(Duration::from_secs(1));
    let cause = failed(run(source.order(order(OrderKind::Enroll, Some(server().factory())))));
    assert!(cause.contains("simpleenroll: no answer within 1 s"), "{cause}");
}

/// These are for the renewal to judge: the source hands them over as they are.
#[test]
fn a_certificate_that_is_ours_but_odd_is_handed_over() {
    for label in ["authority", "server-only", "other-subject", "not-yet", "short", "forever", "version-1"] {
        let chain = issued(enrol(label));
        let leaf = Certificate::parse(&chain[0]).unwrap();
        if label == "forever" {
            assert_eq!(leaf.not_after.as_secs(), 253_402_300_799);
        }
    }
    let chain = issued(enrol("missing-intermediate"));
    assert_eq!(chain.len(), 1);
    let chain = issued(enrol("other-ca"));
    assert_eq!(chain.len(), 1, "cacerts has no issuer of it");
}

/// What comes of them: what a CA of openssl issued meets the judge of the renewal.
#[test]
fn a_certificate_that_is_ours_but_odd_is_refused_by_its_name() {
    let label_of = |kind: fn(&Flaw) -> bool| kind;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = tombolo::clock::UnixTime::from_secs(now.as_secs());
    let (csr, key) = request();
    let public = public_key(&key).unwrap();
    let of_label = |label: &str| {
        let identity = Some(server().factory());
        let order = Order { name: "uplink".to_owned(), csr: csr.clone(), kind: OrderKind::Enroll, identity };
        issued(run(server().source(label).order(order)))
    };
    // One that ends sooner than what is judged, whatever second that is issued in.
    let (well, short) = (of_label("well"), of_label("five-minutes"));
    let judged = |chain: &[Vec<u8>], present: &[Vec<u8>]| {
        let expected = Expected {
            key: &public,
            present,
            demands: Demands::ALL,
            offered: &[],
            usage: Usage::Client,
            now: Some(now),
        };
        candidate::judge(chain, &expected)
    };
    for (label, is_named) in [
        ("authority", label_of(|flaw| *flaw == Flaw::Authority)),
        ("server-only", label_of(|flaw| *flaw == Flaw::Purpose(Usage::Client))),
        ("other-subject", label_of(|flaw| matches!(flaw, Flaw::Subject(..)))),
        ("not-yet", label_of(|flaw| matches!(flaw, Flaw::NotYet(_)))),
        ("five-minutes", label_of(|flaw| matches!(flaw, Flaw::Shorter(..)))),
        ("version-1", label_of(|flaw| *flaw == Flaw::Version(1))),
        ("other-ca", label_of(|flaw| matches!(flaw, Flaw::MissingIntermediate(_)))),
    ] {
        let present = if label == "five-minutes" { &well } else { &short };
        let flaw = judged(&of_label(label), present).unwrap_err();
        assert!(is_named(&flaw), "{label}: {flaw}");
    }
    for label in ["forever", "missing-intermediate"] {
        // The intermediate is known from the present chain.
        assert_eq!(judged(&of_label(label), &short).unwrap().len(), 2, "{label}");
    }
}

#[test]
fn cacerts_that_fail_do_not_keep_a_certificate_away() {
    for label in ["no-cacerts", "cacerts-html"] {
        assert_eq!(issued(enrol(label)).len(), 1);
    }
    let cause = checked(run(server().source("cacerts-html").anchors()).unwrap_err());
    assert!(cause.starts_with("cacerts: ") && cause.contains("text/html"), "{cause}");
    let anchors = run(server().source("other-in-cacerts").anchors()).unwrap().unwrap();
    assert_eq!(anchors.len(), 3);
}

#[test]
fn check_is_told_whether_the_server_answers() {
    let text = run(server().source("ok").reach()).unwrap();
    assert!(text.contains("answers; it offers EST Root and 1 more"), "{text}");
    assert!(server().requests("ok").iter().all(|(operation, ..)| !operation.starts_with("simple")));
    let foreign =
        EstSettings { trust: EstTrust::File(server().file("other.pem")), ..server().settings("foreign") };
    let cause = run(EstSource::new(foreign, Arc::new(Trusted)).reach()).unwrap_err();
    assert!(cause.contains("est-ca-file"), "{cause}");
}

#[test]
fn nothing_is_sent_to_a_server_that_is_not_verified() {
    let settings = EstSettings {
        trust: EstTrust::File(server().file("other.pem")),
        ..with_password("stranger", "open sesame")
    };
    let source = EstSource::new(settings, Arc::new(Trusted));
    let outcome = run(source.order(order(OrderKind::Enroll, Some(server().factory()))));
    let cause = failed(outcome);
    assert!(cause.contains("EST Root"), "{cause}");
    assert!(server().requests("stranger").is_empty());
}

#[test]
fn a_board_that_booted_in_1970_enrols() {
    let source = EstSource::new(server().settings("1970"), Arc::new(Booted1970));
    issued(run(source.order(order(OrderKind::Enroll, Some(server().factory())))));
}

#[test]
fn a_certificate_the_server_does_not_know_is_a_refusal() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["gw".to_owned()]).unwrap();
    let identity = Identity {
        chain: vec![params.self_signed(&key).unwrap().der().to_vec()],
        key: Arc::new(zeroize::Zeroizing::new(key.serialize_der())),
        token: None,
    };
    let cause = refused(run(server().source("unknown").order(order(OrderKind::Enroll, Some(identity)))));
    assert!(cause.contains("refuses our client certificate"), "{cause}");
}
