//! Sessions that outlive the process: no nonce comes twice, nothing is taken twice, the rest goes
//! on.

use std::collections::HashSet;
use std::time::Duration;

use tombolo::proto::dtls::server::export::{ImportError, Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Settings, Trust};
use tombolo::proto::dtls::{CloseCause, Engine, Keyring, PeerIdentity, SendError, ServerEngine, SessionId};

use super::*;
use tombolo_test_support::dtls::client::*;

fn key() -> StoreKey {
    StoreKey::new(&[42; 32])
}

/// In the run after the export.
const NEXT: Origin = Origin::Store { runs: 1 };

fn export(world: &mut World, session: SessionId) -> Vec<u8> {
    world.engine.export(world.now, &key(), session, Purpose::Store).expect("an export")
}

/// The process is gone; another, with a seed of its own, takes over what was written.
fn restart(world: &mut World, run: u8, sealed: &[u8]) -> SessionId {
    world.engine = engine(world.now, Settings::default(), Certificates::default(), run);
    world.told();
    let session =
        world.engine.import(world.now, &key(), sealed, NEXT, &mut world.recorder).expect("an import");
    let told = world.told();
    assert!(matches!(&told[..], [Told::Connected(id, ..)] if *id == session), "{told:?}");
    session
}

/// The device answers CoAP pings, as every endpoint must. Returns how many it answered.
fn answer_pings(world: &mut World, port: u16) -> usize {
    let received = std::mem::take(&mut world.client(port).received);
    let pings: Vec<_> =
        received.into_iter().filter(|data| data.starts_with(&[0x40, 0]) && data.len() == 4).collect();
    for ping in &pings {
        world.client_sends(port, &[0x70, 0, ping[2], ping[3]]);
    }
    pings.len()
}

/// A record wakes the session, two pings prove it, then data passes.
fn revive(world: &mut World, port: u16, session: SessionId) {
    world.client_sends(port, b"lost");
    for _ in 0..2 {
        world.run(Duration::from_millis(100));
        assert_eq!(answer_pings(world, port), 1);
    }
    world.run(Duration::from_millis(100));
    let told = world.told();
    assert!(!told.iter().any(|told| matches!(told, Told::Data(..))), "{told:?}");
    world.engine.confirm_address(session);
    world.assert_alive(port, session);
}

#[test]
fn a_session_goes_on_in_another_process_from_the_same_port_or_another() {
    for suite in [PSK_CCM8, PSK_CCM, PSK_GCM, ECDHE_PSK_CCM8] {
        for cid in [None, Some(vec![]), Some(vec![1, 2])] {
            let mut world = World::fine();
            let config = Config { cid: cid.clone(), ..World::psk(1) }.with_suite(suite);
            let session = world.connected(1, config);
            let sealed = export(&mut world, session);
            world.assert_alive(1, session);
            let session = restart(&mut world, 8, &sealed);
            let port = if cid.is_some() { 2 } else { 1 };
            if port == 2 {
                world.carry(1, 2);
            }
            revive(&mut world, port, session);
            let info = world.engine.session(session).unwrap();
            assert_eq!(info.connection_id, cid.is_some());
            assert_eq!(*info.identity, PeerIdentity::Psk(b"dev-1"[..].into()));
            assert_eq!(world.engine.counters().handshakes_begun, 0, "without a handshake");
        }
    }
}

#[test]
fn certified_and_raw_key_sessions_go_on_too() {
    let pki = Pki::new();
    for raw in [false, true] {
        let mut world = World::certified(&pki);
        let session = world.connected(1, Config { raw, ..Config::certified(&pki.device) });
        let before = world.engine.session(session).unwrap().identity.clone();
        let sealed = export(&mut world, session);
        world.engine = engine(world.now, Settings::default(), pki.certificates(), 9);
        let session = world.engine.import(world.now, &key(), &sealed, NEXT, &mut world.recorder).unwrap();
        assert_eq!(*world.engine.session(session).unwrap().identity, before);
        revive(&mut world, 1, session);
        // With another anchor, or without the raw key, it is not taken over.
        let other = authority("other", None);
        let trust = Trust::new(vec![other.der().to_vec()], Vec::new(), &[], []).unwrap();
        let certificates = Certificates { trust: trust.into(), ..pki.certificates() };
        let mut engine = engine(world.now, Settings::default(), certificates, 9);
        let refused = engine.import(world.now, &key(), &sealed, NEXT, &mut world.recorder);
        assert_eq!(refused, Err(ImportError::CredentialChanged));
    }
}

#[test]
fn an_export_is_small_with_a_pre_shared_key_and_with_a_long_path() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    let psk = export(&mut world, session).len();
    let one = authority("one", None);
    let two = authority("two", Some(&one));
    let three = authority("three", Some(&two));
    let pki = Pki { root: one, middle: three, ..Pki::new() };
    let chain = [pki.middle.der().to_vec(), two.der().to_vec()];
    let device = own(device_params("door-7"), &pki.middle, &chain, false);
    let mut world = World::certified(&pki);
    let session = world.connected(1, Config::certified(&device));
    let certified = export(&mut world, session).len();
    println!("{psk} bytes with a pre-shared key, {certified} with a path of three certificates");
    assert!(psk < 200 && certified < 600, "{psk}, {certified}");
}

#[test]
fn nothing_received_before_is_taken_again_nor_moves_the_session() {
    for cid in [None, Some(vec![1])] {
        let mut world = World::fine();
        let session = world.connected(1, Config { cid: cid.clone(), ..World::psk(1) });
        let early = export(&mut world, session);
        // Everything the device ever sent, an attacker has: data, and Resets it once answered pings
        // with.
        let mut recorded = Vec::new();
        for id in 0..2_000u16 {
            let [high, low] = id.to_be_bytes();
            recorded.push(world.client(1).send(&[0x70, 0, high, low]));
            recorded.push(world.client(1).send(b"open the door"));
        }
        for record in &recorded {
            world.inject(1, record);
        }
        let session_after = restart(&mut world, 8, &early);
        world.recorder.sent.clear();
        for record in &recorded {
            for port in [1, 2] {
                world.inject(port, record);
            }
        }
        let told = world.told();
        assert_eq!(told, [], "no data, no move");
        assert_eq!(world.engine.session(session_after).unwrap().route.remote.port(), 1);
        // However many came, the true device is asked, and goes on. Or it handshakes anew.
        world.recorder.sent.clear();
        world.client(1).received.clear();
        revive(&mut world, 1, session_after);
        world.clients.remove(&1);
        let session = world.connected(1, World::psk(1));
        world.assert_alive(1, session);
    }
}

#[test]
fn no_nonce_comes_twice_over_restarts_restores_and_twins() {
    for suite in [PSK_CCM8, PSK_GCM] {
        let mut world = World::fine();
        let session = world.connected(1, World::psk(1).with_suite(suite));
        let first = export(&mut world, session);
        let mut latest = first.clone();
        let mut run = 10;
        for round in 0..60u64 {
            // An orderly restart; a restored older copy; a card cloned and run twice.
            let copies = match round % 3 {
                0 => vec![latest.clone()],
                1 => vec![first.clone()],
                _ => vec![latest.clone(), latest.clone(), first.clone()],
            };
            for copy in copies {
                run += 1;
                let session = restart(&mut world, run, &copy);
                for _ in 0..50 {
                    world.engine.send(world.now, session, b"x", &mut world.recorder).unwrap();
                }
                latest = export(&mut world, session);
                world.run(Duration::from_millis(50));
            }
        }
        let client = world.client(1);
        assert!(client.nonces.len() > 3_000, "{}", client.nonces.len());
        let distinct: HashSet<_> = client.nonces.iter().collect();
        assert_eq!(distinct.len(), client.nonces.len(), "one key, no nonce twice");
    }
}

#[test]
fn the_devices_side_takes_what_comes_after_a_restart() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    let sealed = export(&mut world, session);
    for _ in 0..500 {
        world.engine.send(world.now, session, b"x", &mut world.recorder).unwrap();
    }
    world.run(Duration::from_secs(1));
    let highest = *world.client(1).numbers.iter().max().unwrap();
    let session = restart(&mut world, 8, &sealed);
    revive(&mut world, 1, session);
    assert!(*world.client(1).numbers.last().unwrap() > highest, "its replay window has not seen them");
}

#[test]
fn an_address_that_was_not_proven_is_not_proven_by_a_restart() {
    let mut world = World::fine();
    let session = world.connected(1, Config { cid: Some(vec![1]), ..World::psk(1) });
    let record = world.client(1).send(b"aim over there");
    world.inject(2, &record);
    let sealed = export(&mut world, session);
    let session = restart(&mut world, 8, &sealed);
    let refused = world.engine.send(world.now, session, b"x", &mut world.recorder);
    assert_eq!(refused, Err(SendError::Unproven));
}

#[test]
fn every_damaged_export_is_refused() {
    let mut world = World::fine();
    let session = world.connected(1, Config { cid: Some(vec![1]), ..World::psk(1) });
    let sealed = export(&mut world, session);
    assert!(sealed.len() < 300, "{}", sealed.len());
    let mut other = engine(world.now, Settings::default(), Certificates::default(), 8);
    let now = world.now;
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1 << bit;
            let refused = other.import(now, &key(), &damaged, NEXT, &mut world.recorder);
            let version = ImportError::OtherVersion(damaged[4]);
            assert_eq!(refused, Err(if at == 4 { version } else { ImportError::Damaged }), "{at}");
        }
        let torn = other.import(now, &key(), &sealed[..at], NEXT, &mut world.recorder);
        assert_eq!(torn, Err(ImportError::Damaged));
    }
    let foreign = other.import(now, &StoreKey::new(&[43; 32]), &sealed, NEXT, &mut world.recorder);
    assert_eq!(foreign, Err(ImportError::Damaged));
    assert!(other.import(now, &key(), &sealed, NEXT, &mut world.recorder).is_ok());
    assert_eq!(other.import(now, &key(), &sealed, NEXT, &mut world.recorder), Err(ImportError::Twice));
}

#[test]
fn what_must_not_go_on_does_not() {
    let mut world = World::fine();
    let chacha = world.connected(1, World::psk(1).with_suite(PSK_CHACHA));
    assert!(
        world.engine.export(world.now, &key(), chacha, Purpose::Handover).is_none(),
        "its nonces are its record numbers"
    );
    let session = world.connected(2, World::psk(2));
    let sealed = export(&mut world, session);
    let now = world.now;
    for keyring in [Keyring::default(), Keyring::new([(*b"dev-2", *b"another")])] {
        let mut engine =
            ServerEngine::new(now, Settings::default(), keyring, Certificates::default(), &[1; 32]);
        let refused = engine.import(now, &key(), &sealed, NEXT, &mut world.recorder);
        assert_eq!(refused, Err(ImportError::CredentialChanged));
    }
    world.run(Duration::from_secs(3_600));
    let sealed = export(&mut world, session);
    let mut settings = Settings::default();
    settings.limits.idle = Duration::from_secs(3_000);
    let mut short = engine(now, settings, Certificates::default(), 8);
    assert_eq!(short.import(now, &key(), &sealed, NEXT, &mut world.recorder), Err(ImportError::Idle));
    let mut settings = Settings::default();
    settings.limits.sessions = 1;
    let mut small = engine(now, settings, Certificates::default(), 8);
    small.import(now, &key(), &sealed, NEXT, &mut world.recorder).unwrap();
    let third = world.connected(3, World::psk(3));
    let sealed = export(&mut world, third);
    assert_eq!(small.import(world.now, &key(), &sealed, NEXT, &mut world.recorder), Err(ImportError::Full));
}

#[test]
fn one_export_does_for_many_restarts() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    let sealed = export(&mut world, session);
    for runs in 1..=6 {
        world.engine = engine(world.now, Settings::default(), Certificates::default(), 100 + runs as u8);
        let origin = Origin::Store { runs };
        let session =
            world.engine.import(world.now, &key(), &sealed, origin, &mut world.recorder).expect("an import");
        revive(&mut world, 1, session);
        for _ in 0..100 {
            world.engine.send(world.now, session, b"x", &mut world.recorder).unwrap();
        }
        world.run(Duration::from_secs(1));
    }
    let client = world.client(1);
    assert!(client.numbers.is_sorted_by(|a, b| a < b), "none is below what its replay window has seen");
    // Numbers end.
    let mut engine = engine(world.now, Settings::default(), Certificates::default(), 200);
    let origin = Origin::Store { runs: u32::MAX };
    let refused = engine.import(world.now, &key(), &sealed, origin, &mut world.recorder);
    assert_eq!(refused, Err(ImportError::Damaged));
}

/// Ends the process in order; the next goes on from what it left.
fn hand_over(world: &mut World, session: SessionId, run: u8) -> SessionId {
    let sealed = world.engine.export(world.now, &key(), session, Purpose::Handover).expect("an export");
    world.engine = engine(world.now, Settings::default(), Certificates::default(), run);
    for origin in [NEXT, Origin::Handover] {
        match world.engine.import(world.now, &key(), &sealed, origin, &mut world.recorder) {
            Ok(session) => return session,
            Err(refused) => assert_eq!((refused, origin), (ImportError::OtherPurpose, NEXT)),
        }
    }
    panic!("not taken over");
}

#[test]
fn a_handover_goes_on_exactly_where_it_was() {
    for cid in [None, Some(vec![1])] {
        let mut world = World::fine();
        let mut session = world.connected(1, Config { cid: cid.clone(), ..World::psk(1) });
        let stored = export(&mut world, session);
        let refused = world.engine.import(world.now, &key(), &stored, Origin::Handover, &mut world.recorder);
        assert_eq!(refused, Err(ImportError::OtherPurpose));
        let mut before = Vec::new();
        for run in 20..25 {
            // Records that arrived, and one that is still on its way.
            for _ in 0..3 {
                before.push(world.client(1).send(b"once"));
            }
            before.iter().for_each(|record| drop(world.inject(1, record)));
            let late = world.client(1).send(b"late");
            let newer = world.client(1).send(b"newer");
            world.inject(1, &newer);
            session = hand_over(&mut world, session, run);
            world.told();
            before.push(newer);
            for record in &before {
                world.inject(1, record);
                world.inject(2, record);
            }
            assert_eq!(world.told(), [], "what came before does not come again, nor moves it");
            world.inject(1, &late);
            assert_eq!(
                world.told(),
                [Told::Data(session, b"late".to_vec())],
                "what did not come before comes"
            );
            before.push(late);
            world.assert_alive(1, session);
        }
        let client = world.client(1);
        assert!(client.numbers.is_sorted_by(|a, b| a < b));
        let distinct: HashSet<_> = client.nonces.iter().collect();
        assert_eq!(distinct.len(), client.nonces.len());
        assert_eq!(world.engine.counters().handshakes_begun, 0);
    }
}

#[test]
fn a_handover_of_a_session_in_doubt_is_in_doubt() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    let sealed = export(&mut world, session);
    let old = world.client(1).send(b"open the door");
    world.inject(1, &old);
    let session = restart(&mut world, 8, &sealed);
    let session = hand_over(&mut world, session, 9);
    world.told();
    world.inject(1, &old);
    assert_eq!(world.told(), []);
    revive(&mut world, 1, session);
}

#[test]
fn who_moved_away_does_not_stand_in_the_way_of_who_came() {
    let mut world = World::fine();
    let mover = world.connected(1, Config { cid: Some(vec![1]), ..World::psk(1) });
    let moved = export(&mut world, mover);
    world.carry(1, 2);
    world.client_sends(2, b"from here");
    world.run(Duration::from_secs(1));
    let settler = world.connected(1, World::psk(3));
    let settled = export(&mut world, settler);
    world.engine = engine(world.now, Settings::default(), Certificates::default(), 8);
    let mover = world.engine.import(world.now, &key(), &moved, NEXT, &mut world.recorder).unwrap();
    let settler = world.engine.import(world.now, &key(), &settled, NEXT, &mut world.recorder).unwrap();
    revive(&mut world, 1, settler);
    revive(&mut world, 2, mover);
}

/// The next process, which has been told of a session that is over.
fn restart_over(world: &mut World, run: u8, sealed: &[u8]) -> SessionId {
    world.engine = engine(world.now, Settings::default(), Certificates::default(), run);
    world.told();
    let session =
        world.engine.import(world.now, &key(), sealed, NEXT, &mut world.recorder).expect("an import");
    assert_eq!(world.told(), [], "no session");
    assert!(world.engine.session(session).is_none());
    assert_eq!(world.engine.session_count(), 0);
    session
}

#[test]
fn a_session_that_cannot_go_on_is_ended_by_one_alert_when_its_device_speaks() {
    for suite in [PSK_CHACHA, ECDHE_PSK_CHACHA] {
        for cid in [None, Some(vec![]), Some(vec![1, 2])] {
            let mut world = World::fine();
            let config = Config { cid: cid.clone(), ..World::psk(1) }.with_suite(suite);
            let session = world.connected(1, config.clone());
            let sealed = export(&mut world, session);
            for _ in 0..100 {
                world.engine.send(world.now, session, b"x", &mut world.recorder).unwrap();
            }
            world.run(Duration::from_millis(100));
            world.assert_alive(1, session);
            let over = restart_over(&mut world, 8, &sealed);
            assert_eq!(
                world.engine.send(world.now, over, b"x", &mut world.recorder),
                Err(SendError::UnknownSession)
            );
            // Forgeries, and what is not a record of it, are not answered.
            let mut forged = world.client(1).send(b"forged");
            *forged.last_mut().unwrap() ^= 1;
            assert!(world.inject(1, &forged).is_empty());
            assert!(world.inject(1, &record(23, 1, 99, &[7; 40])).is_empty());
            // The device speaks, from another port where it can.
            let port = if cid.is_some() { 2 } else { 1 };
            let reading = world.client(1).send(b"a reading");
            let alerts = world.inject(port, &reading);
            assert_eq!(alerts.len(), 1);
            // Elsewhere somebody may have repeated its record: then it is not known whether the
            // device got the alert.
            let told = world.told();
            let expected = Told::Closed(over, CloseCause::Farewell);
            assert_eq!(told, if port == 1 { vec![expected] } else { vec![] });
            let now = world.now;
            world.client(1).handle_datagram(now, &alerts[0]);
            assert_eq!(world.client(1).protected_alerts, [(2, 80)]);
            assert_eq!(
                world.client(1).numbers.last(),
                Some(&(1 << 48 | 1 << 32)),
                "a number nothing else ever has"
            );
            // It may be lost: each record is answered by the same one.
            let again: Vec<_> = (0..50)
                .flat_map(|_| {
                    let reading = world.client(1).send(b"a reading");
                    world.inject(port, &reading)
                })
                .collect();
            assert_eq!(again.len(), 50);
            assert!(again.iter().all(|alert| *alert == alerts[0]), "the same bytes");
            assert_eq!(world.told(), []);
            assert_eq!(world.engine.counters().sessions_farewell, 1);
            // It begins anew at once.
            world.clients.clear();
            let session = world.connected(port, config);
            world.assert_alive(port, session);
        }
    }
}

#[test]
fn clones_of_a_card_say_the_same_to_a_device_and_nothing_else() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1).with_suite(PSK_CHACHA));
    let sealed = export(&mut world, session);
    let reading = world.client(1).send(b"a reading");
    let mut said = Vec::new();
    for run in 20..24 {
        restart_over(&mut world, run, &sealed);
        said.extend(world.inject(1, &reading));
    }
    assert_eq!(said.len(), 4);
    assert!(said.iter().all(|alert| *alert == said[0]), "one nonce, one plaintext");
}

#[test]
fn what_was_recorded_of_a_session_that_is_over_cannot_be_aimed_at_anybody() {
    let mut world = World::fine();
    let session =
        world.connected(1, Config { cid: Some(vec![9; 254]), ..World::psk(1) }.with_suite(PSK_CHACHA));
    let sealed = export(&mut world, session);
    let short = world.client(1).send(b"x");
    let long = world.client(1).send(&[7; 300]);
    restart_over(&mut world, 8, &sealed);
    assert!(world.inject(2, &short).is_empty(), "the alert would be {} bytes and more", 254);
    let answers = world.inject(2, &long);
    assert_eq!(answers.len(), 1);
    assert!(answers[0].len() <= 3 * long.len());
    // Where it was when it was stored it may be told anything.
    restart_over(&mut world, 9, &sealed);
    assert_eq!(world.inject(1, &short).len(), 1);
}

#[test]
fn whoever_repeats_records_of_a_session_that_is_over_does_not_spend_its_devices_alert() {
    let mut world = World::fine();
    let session = world.connected(1, Config { cid: Some(vec![1]), ..World::psk(1) }.with_suite(PSK_CHACHA));
    let sealed = export(&mut world, session);
    let recorded: Vec<_> = (0..100).map(|_| world.client(1).send(b"a reading")).collect();
    let over = restart_over(&mut world, 8, &sealed);
    let answered = |world: &mut World, port| -> usize {
        recorded.iter().map(|record| world.inject(port, record).len()).sum()
    };
    assert_eq!(answered(&mut world, 2), 100);
    assert_eq!(answered(&mut world, 3), 0, "one alert for each record");
    // The device has not been told: the store keeps what is needed for it.
    assert_eq!(world.told(), []);
    let reading = world.client(1).send(b"a reading");
    assert_eq!(world.inject(1, &reading).len(), 1);
    assert_eq!(world.told(), [Told::Closed(over, CloseCause::Farewell)]);
    assert_eq!(world.engine.counters().sessions_farewell, 1);
}

#[test]
fn a_session_whose_key_is_gone_is_ended_by_an_alert_too() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1));
    let sealed = export(&mut world, session);
    let now = world.now;
    let keyring = Keyring::new([(*b"dev-1", *b"another")]);
    world.engine = ServerEngine::new(now, Settings::default(), keyring, Certificates::default(), &[9; 32]);
    let refused = world.engine.import(now, &key(), &sealed, NEXT, &mut world.recorder);
    assert_eq!(refused, Err(ImportError::CredentialChanged));
    world.client_sends(1, b"a reading");
    world.run(Duration::from_millis(100));
    assert_eq!(world.client(1).protected_alerts, [(2, 80)]);
}

#[test]
fn a_session_that_is_over_is_forgotten_like_an_idle_one_and_makes_way() {
    let mut world = World::fine();
    let session = world.connected(1, World::psk(1).with_suite(PSK_CHACHA));
    let sealed = export(&mut world, session);
    let over = restart_over(&mut world, 8, &sealed);
    // Found twice, it is there once.
    let again = world.engine.import(world.now, &key(), &sealed, NEXT, &mut world.recorder).unwrap();
    assert_eq!(world.told(), [Told::Closed(over, CloseCause::Replaced)]);
    world.run(Duration::from_secs(25 * 3_600));
    assert_eq!(world.told(), [Told::Closed(again, CloseCause::Idle)]);
    assert_eq!(world.engine.poll_timeout(), None);
    // A handshake at its address takes its place.
    let over = restart_over(&mut world, 9, &sealed);
    world.clients.clear();
    world.join(1, World::psk(1));
    world.run(Duration::from_secs(1));
    assert_eq!(world.told()[0], Told::Closed(over, CloseCause::Replaced));
}

#[test]
fn what_a_client_still_sends_when_its_handshake_has_failed_is_no_record_of_a_session() {
    let mut world = World::fine();
    let ours = Pki::new();
    world.engine = engine(world.now, Settings::default(), ours.certificates(), 8);
    // Its certificate is refused when that arrives; its Finished comes in a datagram of its own.
    world.join(1, Config { mtu: 300, ..Config::certified(&Pki::new().device) });
    world.run(Duration::from_secs(1));
    assert_eq!(world.client(1).alerts.len(), 1);
    let late = record(22, 1, 0, &[7; 40]);
    world.inject(1, &late);
    assert!(world.recorder.unknown.is_empty());
    world.inject(2, &late);
    assert_eq!(world.recorder.unknown, [2]);
    world.run(Duration::from_secs(10));
    world.inject(1, &late);
    assert_eq!(world.recorder.unknown, [2, 1], "only for a while");
}

#[test]
fn a_device_whose_session_is_not_known_at_all_is_noticed() {
    for cid in [None, Some(vec![1])] {
        let mut world = World::fine();
        world.connected(1, Config { cid, ..World::psk(1) });
        world.engine = engine(world.now, Settings::default(), Certificates::default(), 8);
        for _ in 0..3 {
            world.client_sends(1, b"a reading");
        }
        world.run(Duration::from_secs(1));
        assert_eq!(world.recorder.unknown, [1, 1, 1]);
        assert!(world.recorder.sent.is_empty());
    }
}

/// Sessions as version 1.0 of the format had them, made by that version, in hexadecimal digits: no
/// date, certificates without their path. Behind a raw key's hash stands its session.
const STORED: &str = include_str!("stored-1.0.txt");

fn stored_before(name: &str) -> Vec<Vec<u8>> {
    let line = STORED.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
    let bytes = |text: &str| {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    line.split_whitespace().map(bytes).collect()
}

#[test]
fn sessions_of_the_version_before_go_on_but_for_certificates_which_are_ended_by_an_alert() {
    let [psk, handover, certificate, raw, root] =
        ["PSK", "HANDOVER", "CERT", "RAW", "ROOT"].map(stored_before);
    let pki = Pki::new();
    let spki = <[u8; 32]>::try_from(&raw[0][..]).unwrap();
    let trust = Trust::new(vec![root[0].clone()], Vec::new(), &[], [spki]).unwrap();
    let certificates = Certificates { trust: trust.into(), ..pki.certificates() };
    let mut world = World::new(Settings::default(), certificates, FINE, 1);
    let mut identity_of = |sealed: &[u8], origin| {
        let session =
            world.engine.import(world.now, &key(), sealed, origin, &mut world.recorder).expect("an import");
        world.engine.session(session).map(|info| info.identity.clone())
    };
    assert_eq!(identity_of(&psk[0], NEXT), Some(PeerIdentity::Psk(b"dev-1"[..].into())));
    assert_eq!(identity_of(&handover[0], Origin::Handover), Some(PeerIdentity::Psk(b"dev-2"[..].into())));
    assert_eq!(identity_of(&raw[1], NEXT), Some(PeerIdentity::RawPublicKey(Box::new(spki))));
    // By what its certificate was verified is not known, so that nobody can say whether it still
    // holds.
    assert_eq!(identity_of(&certificate[0], NEXT), None);
    assert_eq!((world.engine.session_count(), world.told().len()), (3, 3));
}
