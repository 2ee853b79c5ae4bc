//! Chains that would cost much to judge, or are made to lead astray: refused by their structure,
//! before any signature.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tombolo::proto::dtls::server::{Certificates, Clock, Settings, Trust};
use tombolo::proto::dtls::{Engine, FailureKind, Limits};

use super::*;
use tombolo_test_support::dtls::client::*;

/// The alert and the reason that a chain gets, which ends the handshake at once.
fn refused(world: &mut World, port: u16, own: Own) -> (u8, String) {
    world.join(port, Config::certified(&Arc::new(own)));
    world.run(Duration::from_secs(1));
    let told = world.told();
    let [Told::Failed(_, failure)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(failure.kind(), FailureKind::Certificate, "{failure}");
    let alerts = world.clients.remove(&port).unwrap().alerts;
    let [(2, alert)] = alerts[..] else { panic!("{alerts:?}") };
    (alert, failure.to_string())
}

/// A device's key and certificate by `issuer`, sent before what else is in `chain`.
fn device(issuer: &CertifiedIssuer<'static, KeyPair>, chain: &[Vec<u8>]) -> Own {
    Arc::into_inner(own(device_params("door-7"), issuer, chain, false)).unwrap()
}

/// So many CAs that call themselves and their issuer the same, and have issued one another.
fn twins(count: usize, name: &str) -> Vec<CertifiedIssuer<'static, KeyPair>> {
    let mut all: Vec<CertifiedIssuer<'static, KeyPair>> = Vec::new();
    for _ in 0..count {
        let next = authority(name, all.last());
        all.push(next);
    }
    all
}

fn der(issuers: &[CertifiedIssuer<'static, KeyPair>]) -> Vec<Vec<u8>> {
    issuers.iter().map(|issuer| issuer.der().to_vec()).collect()
}

#[test]
fn chains_that_make_a_search_long_are_refused_unread() {
    let pki = Pki::new();
    let mut world = World::certified(&pki);
    let session = world.connected(1, Config::certified(&pki.device));
    // Nine CAs of one name: 131 ms of path building.
    let nine = twins(9, "same");
    let (alert, said) = refused(&mut world, 2, device(&nine[0], &der(&nine)));
    assert_eq!(alert, 42);
    assert!(said.contains("the chain has 10 certificates; 4 are taken"), "{said}");
    assert!(said.contains("door-7"), "whose it says it is: {said}");
    // As many as are taken, in every order that fits none or several paths.
    let three = twins(3, "same");
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let chain = order.map(|at| three[at].der().to_vec());
        let (alert, said) = refused(&mut world, 3, device(&three[0], &chain));
        assert_eq!(alert, 42);
        assert!(said.contains("one subject"), "{said}");
    }
    // The name of the root, so that it looks as if each led there.
    let roots = twins(2, "root");
    let (_, said) = refused(&mut world, 4, device(&roots[0], &der(&roots)));
    assert!(said.contains("one subject"), "{said}");
    // One key under several names.
    let mut chain = Vec::new();
    let key = KeyPair::generate().unwrap();
    for (name, issuer) in [("a", "b"), ("b", "c")] {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let issuer = rcgen::Issuer::new(params(issuer), &key);
        chain.push(params(name).signed_by(&key, &issuer).unwrap().der().to_vec());
    }
    let a = authority("a", None);
    let (_, said) = refused(&mut world, 5, device(&a, &chain));
    assert!(said.contains("one key"), "{said}");
    // Certificates that have nothing to do with each other, or are too many bytes.
    let stray = authority("stray", None);
    let (_, said) = refused(&mut world, 6, device(&pki.middle, &der(&[stray])));
    assert!(said.contains("certificate 1 of the chain was not issued by the one after it"), "{said}");
    let mut params = device_params("door-7");
    params.subject_alt_names.extend(
        (0..400)
            .map(|n| rcgen::SanType::DnsName(format!("a-rather-long-name-{n}.example").try_into().unwrap())),
    );
    let long = Arc::into_inner(own(params, &pki.middle, &[pki.middle.der().to_vec()], false)).unwrap();
    let (_, said) = refused(&mut world, 7, long);
    assert!(said.contains("bytes; 8192 are taken"), "{said}");
    let mut unreadable = device(&pki.middle, &[]);
    unreadable.chain.push(b"\x30\x03\x02\x01\x01".to_vec());
    let (_, said) = refused(&mut world, 8, unreadable);
    assert!(said.contains("certificate 2 of the chain cannot be read"), "{said}");
    world.assert_alive(1, session);
}

#[test]
fn as_many_certificates_as_are_taken_lead_to_the_anchor_and_a_root_behind_them_does_not_matter() {
    let root = authority("root", None);
    let one = authority("one", Some(&root));
    let two = authority("two", Some(&one));
    let three = authority("three", Some(&two));
    let pki = Pki { root, middle: three, ..Pki::new() };
    let chain = [pki.middle.der().to_vec(), two.der().to_vec(), one.der().to_vec()];
    let rooted = [&chain[..], &[pki.root.der().to_vec()]].concat();
    let mut world = World::certified(&pki);
    for (port, chain) in (1..).zip([&chain[..], &rooted]) {
        let session = world.connected(port, Config::certified(&Arc::new(device(&pki.middle, chain))));
        world.assert_alive(port, session);
    }
    // An anchor in the midst of it.
    let trust = Trust::new(vec![two.der().to_vec()], Vec::new(), &[], []).unwrap();
    let certificates = Certificates { trust: trust.into(), ..pki.certificates() };
    let mut world = World::new(Settings::default(), certificates, FINE, 1);
    let session = world.connected(1, Config::certified(&Arc::new(device(&pki.middle, &rooted))));
    world.assert_alive(1, session);
}

#[test]
fn names_of_configured_cas_lead_a_false_chain_nowhere() {
    let pki = Pki::new();
    // The gateway has three intermediates of one name, as after two renewals.
    let middles: Vec<_> = (0..3).map(|_| authority("middle", Some(&pki.root))).collect();
    let trust = Trust::new(vec![pki.root.der().to_vec()], der(&middles), &[], []).unwrap();
    let certificates = Certificates { trust: trust.into(), ..pki.certificates() };
    let mut world = World::new(Settings::default(), certificates, FINE, 1);
    for (port, middle) in (1..).zip(&middles) {
        let session = world.connected(port, Config::certified(&Arc::new(device(middle, &[]))));
        world.assert_alive(port, session);
    }
    // Self-made ones that take their names.
    let root = authority("root", None);
    let middle = authority("middle", Some(&root));
    for chain in
        [vec![], der(&[authority("middle", Some(&root))]), vec![middle.der().to_vec(), root.der().to_vec()]]
    {
        let (alert, _) = refused(&mut world, 9, device(&middle, &chain));
        assert!([42, 48].contains(&alert), "{alert}");
    }
    assert_eq!(world.engine.session_count(), 3);
}

#[test]
fn a_configured_ca_that_was_renewed_counts_though_the_device_sends_the_expired_one() {
    let pki = Pki::new();
    let key = || KeyPair::from_pem(&pki.middle.key().serialize_pem()).unwrap();
    let made = |until: i32| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "middle");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        CertifiedIssuer::signed_by(params, key(), &pki.root).unwrap()
    };
    let (expired, renewed) = (made(2025), made(2035));
    let trust = |intermediates: Vec<Vec<u8>>| {
        let trust = Trust::new(vec![pki.root.der().to_vec()], intermediates, &[], []).unwrap();
        Certificates { trust: trust.into(), ..pki.certificates() }
    };
    let chain = [expired.der().to_vec()];
    let mut world = World::new(Settings::default(), trust(Vec::new()), FINE, 1);
    let (alert, _) = refused(&mut world, 1, device(&renewed, &chain));
    assert_eq!(alert, 45, "certificate_expired");
    let mut world = World::new(Settings::default(), trust(vec![renewed.der().to_vec()]), FINE, 1);
    let session = world.connected(1, Config::certified(&Arc::new(device(&renewed, &chain))));
    world.assert_alive(1, session);
}

#[test]
fn configured_cas_continue_what_a_device_sends() {
    let root = authority("root", None);
    let one = authority("one", Some(&root));
    let two = authority("two", Some(&one));
    let three = authority("three", Some(&two));
    let configured = der(&[authority("one", Some(&root)), authority("other", Some(&root))]);
    let configured = [configured, vec![two.der().to_vec(), one.der().to_vec()]].concat();
    let pki = Pki { root, middle: three, ..Pki::new() };
    let trust = Trust::new(vec![pki.root.der().to_vec()], configured, &[], []).unwrap();
    let certificates = Certificates { trust: trust.into(), ..pki.certificates() };
    let mut world = World::new(Settings::default(), certificates, FINE, 1);
    let chain = [pki.middle.der().to_vec(), two.der().to_vec(), one.der().to_vec()];
    for (port, sent) in (1..).zip([&chain[..1], &chain[..2], &chain]) {
        let session = world.connected(port, Config::certified(&Arc::new(device(&pki.middle, sent))));
        world.assert_alive(port, session);
    }
}

#[test]
fn keys_are_used_for_what_they_are_for() {
    let pki = Pki::new();
    let mut world = World::certified(&pki);
    let more = [pki.middle.der().to_vec()];
    let with = |usages: Vec<KeyUsagePurpose>| {
        let mut params = device_params("door-7");
        params.key_usages = usages;
        own(params, &pki.middle, &more, false)
    };
    let agreement = with(vec![KeyUsagePurpose::KeyAgreement]);
    let (alert, said) = refused(&mut world, 1, Arc::into_inner(agreement).unwrap());
    assert_eq!(alert, 43);
    assert!(said.contains("digitalSignature"), "{said}");
    let signing = with(vec![KeyUsagePurpose::KeyAgreement, KeyUsagePurpose::DigitalSignature]);
    let session = world.connected(2, Config::certified(&signing));
    world.assert_alive(2, session);
    // A CA whose key may not certify, whether the device sends it or the gateway has it.
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "no issuer");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let no_issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &pki.root).unwrap();
    let (alert, said) = refused(&mut world, 3, device(&no_issuer, &[no_issuer.der().to_vec()]));
    assert_eq!((alert, said.contains("keyCertSign")), (43, true), "{said}");
    let trust = Trust::new(vec![pki.root.der().to_vec()], vec![no_issuer.der().to_vec()], &[], []).unwrap();
    let certificates = Certificates { trust: trust.into(), ..pki.certificates() };
    let mut world = World::new(Settings::default(), certificates, FINE, 1);
    let (alert, said) = refused(&mut world, 3, device(&no_issuer, &[]));
    assert_eq!((alert, said.contains("keyCertSign")), (43, true), "{said}");
}

#[test]
fn one_source_of_chains_uses_up_its_own_time_only() {
    let pki = Pki::new();
    let stranger = authority("stranger", None);
    let false_chain = Arc::new(device(&stranger, &[stranger.der().to_vec()]));
    let limits =
        Limits { work_burst: 100, work_per_second: 10, handshakes_burst: 10_000, ..Limits::default() };
    let mut world = World::new(Settings { limits, ..Settings::default() }, pki.certificates(), FINE, 1);
    let device = world.connected(1, Config::certified(&pki.device));
    for port in 100..400 {
        world.join(port, Config::certified(&false_chain));
    }
    world.run(Duration::from_millis(500));
    let failed = world.engine.counters().failed(FailureKind::Certificate);
    // Four operations for the handshake, four for a chain, whatever it has.
    assert!((5..=105 / 8).contains(&failed), "{failed}");
    assert!(world.engine.counters().work_over_limit > 200);
    world.assert_alive(1, device);
    // Somebody from elsewhere does not notice, nor somebody here who has a session at its port.
    let other = world.connected(ELSEWHERE, Config::certified(&pki.device));
    world.assert_alive(ELSEWHERE, other);
    world.join(1, Config::certified(&pki.device));
    world.run(Duration::from_secs(1));
    assert!(world.client(1).connected);
    // What was not done is done when the client repeats it.
    world.clients.retain(|port, _| *port == 399);
    world.run(Duration::from_secs(60));
    assert_eq!(world.client(399).alerts, [(2, 48)]);
    // Pre-shared keys cost nothing of it, and what is completed is given back.
    let mut world = World::new(Settings { limits, ..Settings::default() }, pki.certificates(), FINE, 1);
    world.recorder.max_sessions = 1_000;
    for port in 1..=300 {
        let config = if port % 2 == 0 { World::psk(port) } else { Config::certified(&pki.device) };
        world.connected(port, config);
    }
    assert_eq!(world.engine.counters().work_over_limit, 0);
}

#[test]
fn each_way_to_an_anchor_is_charged_and_each_list_that_is_not_verified_yet() {
    let pki = Pki::new();
    let one = authority("one", Some(&pki.root));
    let below = authority("below", Some(&one));
    // Twelve CAs of one name, as after eleven renewals with new keys.
    let middles: Vec<_> = (0..12).map(|_| authority("middle", Some(&pki.root))).collect();
    // One of the root is verified when it is read, one of a CA that only devices have when a device
    // shows that.
    let root_list = super::lapses::list(&pki.root, &[77]);
    let other_list = super::lapses::list(&pki.middle, &[77]);
    // For each: 4 operations of the handshake, and what the chain may take.
    for (intermediates, lists, trusted, work) in [
        (vec![], vec![], true, 4),
        (vec![], vec![root_list.clone()], true, 4),
        (vec![], vec![other_list.clone()], true, 5),
        (der(std::slice::from_ref(&one)), vec![], true, 8),
        (der(std::slice::from_ref(&one)), vec![root_list.clone(), other_list], true, 9),
        (der(std::slice::from_ref(&one)), vec![], false, 8),
        (vec![one.der().to_vec(), below.der().to_vec()], vec![], true, 10),
        (der(&middles), vec![], true, 2 * 48),
        (der(&middles), vec![root_list.clone()], true, 2 * 48),
        (der(&middles), vec![root_list], false, 4 * 48),
    ] {
        let trust = Trust::new(vec![pki.root.der().to_vec()], intermediates, &lists, []).unwrap();
        let certificates = Certificates { trust: trust.into(), ..pki.certificates() };
        let limits = |work_burst| Limits { work_burst, work_per_second: 1, ..Limits::default() };
        // A bucket that holds two handshakes and one operation less lets one through.
        let settings = Settings { limits: limits(2 * (4 + work) - 1), ..Settings::default() };
        let mut world = World::new(settings, certificates, FINE, 1);
        let time = tombolo::clock::UnixTime::from_secs(YEAR_2026);
        world.engine.set_clock(Clock { time, trusted });
        for port in 1..=3 {
            world.join(port, Config { steps: Some(vec![]), ..Config::certified(&pki.device) });
        }
        world.run(Duration::from_millis(100));
        assert_eq!(world.engine.half_open_count(), 1, "{work}");
        world.run(Duration::from_secs(1));
        world.join(4, Config { steps: Some(vec![]), ..Config::certified(&pki.device) });
        world.run(Duration::from_millis(100));
        assert_eq!(world.engine.half_open_count(), 2, "{work}");
    }
}

#[test]
fn a_hello_costs_what_its_suite_costs_and_one_that_is_dropped_costs_nothing() {
    let pki = Pki::new();
    let stranger = authority("stranger", None);
    let false_chain = Arc::new(device(&stranger, &[stranger.der().to_vec()]));
    // Two handshakes with certificates use up the work; the bucket of handshakes is hardly larger
    // than what then comes.
    let limits = Limits {
        work_burst: 17,
        work_per_second: 1,
        handshakes_burst: 60,
        handshakes_per_second: 1,
        ..Limits::default()
    };
    for mtu in [1_200, 120] {
        let mut world = World::new(Settings { limits, ..Settings::default() }, pki.certificates(), FINE, 1);
        for port in 100..400 {
            world.join(port, Config { mtu, ..Config::certified(&false_chain) });
        }
        world.run(Duration::from_millis(200));
        assert_eq!(world.engine.counters().failed(FailureKind::Certificate), 2);
        assert!(world.engine.counters().work_over_limit >= 298);
        assert_eq!(world.engine.half_open_count(), 0, "what is dropped leaves nothing behind");
        world.clients.clear();
        // Behind the same address, devices whose handshakes cost nothing come in at their first
        // try.
        for port in 1..=50 {
            world.join(port, World::psk(port));
        }
        world.run(Duration::from_millis(100));
        let inside = (1..=50).filter(|port| world.client(*port).connected).count();
        assert_eq!(inside, 50, "{:?}", world.engine.counters());
        assert_eq!(world.engine.counters().hellos_over_limit, 0);
    }
}

#[test]
fn where_there_is_no_room_for_a_handshake_nothing_is_spent_on_it() {
    let pki = Pki::new();
    let limits = Limits {
        half_open_per_source: 1,
        work_burst: 16,
        work_per_second: 1,
        handshakes_burst: 3,
        handshakes_per_second: 1,
        ..Limits::default()
    };
    let mut world = World::new(Settings { limits, ..Settings::default() }, pki.certificates(), FINE, 1);
    world.join(1, Config { steps: Some(vec![]), ..World::psk(1) });
    world.run(Duration::from_millis(50));
    for port in 2..20 {
        world.join(port, Config::certified(&pki.device));
    }
    world.run(Duration::from_millis(50));
    let counters = world.engine.counters();
    assert_eq!((counters.handshakes_begun, counters.hellos_over_limit), (1, 18));
    assert_eq!(counters.work_over_limit, 0);
    // The place becomes free, and all tokens are there.
    world.inject(1, &record(21, 0, 9, &[2, 90]));
    world.clients.clear();
    world.run(Duration::from_secs(5));
    world.connected(2, Config::certified(&pki.device));
}
