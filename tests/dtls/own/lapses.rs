//! Credentials that are no longer good: revoked, expired, removed, at any moment of a handshake or
//! of a session's life.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tombolo::clock::UnixTime;
use tombolo::proto::dtls::server::export::{ImportError, Origin, Purpose, StoreKey};
use tombolo::proto::dtls::server::{Certificates, Clock, Settings, Trust};
use tombolo::proto::dtls::{CloseCause, Engine, Keyring, Policy, SessionId};

use super::*;
use tombolo_test_support::dtls::client::*;

const DAY: u64 = 86_400;

/// A list of `issuer` with these serial numbers.
pub fn list(issuer: &CertifiedIssuer<'static, KeyPair>, serials: &[u64]) -> Vec<u8> {
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2036, 1, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).unwrap().der().to_vec()
}

fn ca(
    name: &str,
    serial: u64,
    key: KeyPair,
    by: Option<&CertifiedIssuer<'static, KeyPair>>,
    change: impl FnOnce(&mut CertificateParams),
) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from(serial));
    change(&mut params);
    match by {
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
        Some(issuer) => CertifiedIssuer::signed_by(params, key, issuer).unwrap(),
    }
}

/// Root 1, intermediate 2, device 3: by these serial numbers.
struct Site {
    pki: Pki,
}

impl Site {
    fn new() -> Site {
        Site::with(|_| {}, |_| {})
    }

    /// With changes to the intermediate's and the device's certificate.
    fn with(
        middle: impl FnOnce(&mut CertificateParams),
        device: impl FnOnce(&mut CertificateParams),
    ) -> Site {
        let root = ca("root", 1, KeyPair::generate().unwrap(), None, |_| {});
        let middle = ca("middle", 2, KeyPair::generate().unwrap(), Some(&root), middle);
        let mut params = device_params("door-7");
        params.serial_number = Some(SerialNumber::from(3u64));
        device(&mut params);
        let server = server_key(&root, false);
        let device = own(params, &middle, &[middle.der().to_vec()], false);
        Site { pki: Pki { root, middle, server, device } }
    }

    fn config(&self) -> Config {
        Config::certified(&self.pki.device)
    }

    fn world(&self) -> World {
        World::certified(&self.pki)
    }

    fn trusting(&self, anchors: &[&CertifiedIssuer<'static, KeyPair>], lists: &[Vec<u8>]) -> Certificates {
        let anchors = anchors.iter().map(|anchor| anchor.der().to_vec()).collect();
        let trust = Trust::new(anchors, Vec::new(), lists, [hash(&self.pki.device.spki)]).unwrap();
        Certificates { trust: Arc::new(trust), ..self.pki.certificates() }
    }

    fn revoking(&self, lists: &[Vec<u8>]) -> Certificates {
        self.trusting(&[&self.pki.root], lists)
    }
}

fn reload(world: &mut World, certificates: Certificates) {
    world.engine.replace_certificates(world.now, certificates, &mut world.recorder);
}

/// A handshake one datagram after the other; `before` each of the client's something may happen.
/// Returns how many there were, and whether it ended in a session.
fn stepwise(world: &mut World, config: &Config, mut before: impl FnMut(&mut World, usize)) -> (usize, bool) {
    let mut client = Client::new(config.clone());
    let mut up = client.start(world.now);
    let mut step = 0;
    while !up.is_empty() && !client.connected {
        let mut next = Vec::new();
        for datagram in up {
            before(world, step);
            step += 1;
            for down in world.inject(1, &datagram) {
                next.extend(client.handle_datagram(world.now, &down));
            }
        }
        up = next;
    }
    let has_session = world.engine.session_count() > 0;
    assert_eq!(client.connected && client.protected_alerts.is_empty(), has_session);
    (step, has_session)
}

#[test]
fn whatever_step_of_a_handshake_a_reload_meets_no_session_begins_with_what_is_no_longer_good() {
    let site = Site::new();
    let pki = &site.pki;
    let certified = site.config();
    let raw = Config { raw: true, ..site.config() };
    let psk = World::psk(7);
    let other = Site::new();
    let no_keys = Trust::new(vec![pki.root.der().to_vec()], Vec::new(), &[], []).unwrap();
    let no_keys = Certificates { trust: Arc::new(no_keys), ..pki.certificates() };
    type Reload = Box<dyn Fn(&mut World)>;
    let taking = |certificates: &Certificates| -> Reload {
        let certificates = certificates.clone();
        Box::new(move |world: &mut World| reload(world, certificates.clone()))
    };
    let keys = |pairs: Vec<(&'static str, &'static str)>| -> Reload {
        Box::new(move |world: &mut World| {
            let keyring =
                Keyring::new(pairs.iter().map(|(i, k)| (i.as_bytes().to_vec(), k.as_bytes().to_vec())));
            world.engine.replace_keyring(world.now, keyring, &mut world.recorder);
        })
    };
    let clock = |time: u64, trusted: bool| -> Reload {
        Box::new(move |world: &mut World| {
            world.engine.set_clock(Clock { time: UnixTime::from_secs(time), trusted });
            world.engine.handle_timeout(world.now, &mut world.recorder);
        })
    };
    let nobody: Reload = Box::new(|world: &mut World| {
        // As a gate that has another idea of its devices from here on; sessions are then ended by
        // the daemon.
        world.recorder.nobodies = vec!["Psk(\"dev-7\")".to_owned()];
        let mut sessions = Vec::new();
        world.engine.sessions(&mut |info| sessions.push(info.session));
        sessions.into_iter().for_each(|session| world.engine.close(world.now, session, &mut world.recorder));
    });
    let bad: Vec<(&str, &Config, Reload)> = vec![
        ("certificate revoked", &certified, taking(&site.revoking(&[list(&pki.middle, &[3])]))),
        ("intermediate revoked", &certified, taking(&site.revoking(&[list(&pki.root, &[2])]))),
        ("anchor removed", &certified, taking(&site.trusting(&[&other.pki.root], &[]))),
        ("no certificates any more", &certified, taking(&Certificates::default())),
        ("expired by the clock", &certified, clock(YEAR_2026 + 4_000 * 365 * DAY, true)),
        ("expired at a time that has passed", &certified, clock(YEAR_2026 + 4_000 * 365 * DAY, false)),
        ("raw key removed", &raw, taking(&no_keys)),
        ("key removed", &psk, keys(vec![])),
        ("key replaced", &psk, keys(vec![("dev-7", "another")])),
        ("device removed", &psk, nobody),
    ];
    for (name, config, change) in bad {
        let mut world = site.world();
        let (steps, connects) = stepwise(&mut world, config, |_, _| {});
        assert!(connects && steps >= 5, "{name}: {steps}");
        for at in 0..=steps {
            let mut world = site.world();
            stepwise(&mut world, config, |world, step| {
                if step == at {
                    change(world);
                }
            });
            if at == steps {
                change(&mut world);
            }
            assert_eq!(world.engine.session_count(), 0, "{name}, before step {at}");
        }
    }
    // What has nothing to do with the device harms none of its steps.
    let good: Vec<(&str, &Config, Reload)> = vec![
        ("another certificate revoked", &certified, taking(&site.revoking(&[list(&pki.middle, &[77])]))),
        ("another CA beside it", &certified, taking(&site.trusting(&[&other.pki.root, &pki.root], &[]))),
        ("another raw key beside it", &raw, taking(&site.revoking(&[]))),
        ("another device's key", &psk, keys(vec![("dev-7", "key-7"), ("dev-8", "another")])),
        ("the clock is believed", &certified, clock(YEAR_2026 + DAY, true)),
        ("the clock is not believed", &certified, clock(0, false)),
    ];
    for (name, config, change) in good {
        for at in 0..=6 {
            let mut world = site.world();
            let (_, connects) = stepwise(&mut world, config, |world, step| {
                if step == at {
                    change(world);
                }
            });
            assert!(connects, "{name}, before step {at}");
            change(&mut world);
            assert_eq!(world.engine.session_count(), 1, "{name}");
        }
    }
}

#[test]
fn the_alert_and_the_log_say_what_happened_meanwhile() {
    let site = Site::new();
    let cases = [
        (site.revoking(&[list(&site.pki.root, &[2])]), 44, "it was revoked meanwhile"),
        (
            Certificates { trust: Arc::default(), ..site.pki.certificates() },
            48,
            "its CA was removed meanwhile",
        ),
    ];
    for (certificates, alert, says) in cases {
        let mut world = site.world();
        world.join(1, site.config());
        world.run(Duration::from_millis(45));
        let flight = world.client(1).handshake_datagrams.clone();
        let (finished, before) = flight.split_last().unwrap();
        before.iter().for_each(|datagram| drop(world.inject(1, datagram)));
        reload(&mut world, certificates);
        let answers = world.inject(1, finished);
        assert_eq!(answers[0][13..], [2, alert]);
        let told = world.told();
        let [Told::Failed(1, failure)] = &told[..] else { panic!("{told:?}") };
        assert!(failure.to_string().contains(says) && failure.to_string().contains("door-7"), "{failure}");
        world.clients.clear();
    }
}

#[test]
fn a_revoked_intermediate_ends_the_sessions_below_it_and_no_others() {
    let site = Site::new();
    let mut world = site.world();
    let session = world.connected(1, site.config());
    let aunt = ca("aunt", 4, KeyPair::generate().unwrap(), Some(&site.pki.root), |_| {});
    let cousin = own(device_params("cousin"), &aunt, &[aunt.der().to_vec()], false);
    let other = world.connected(2, Config::certified(&cousin));
    // A list of the device's own CA that does not name it, one of the root that names somebody
    // else.
    reload(&mut world, site.revoking(&[list(&site.pki.middle, &[2]), list(&site.pki.root, &[3])]));
    assert_eq!(world.told(), []);
    reload(&mut world, site.revoking(&[list(&site.pki.root, &[2])]));
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::CredentialChanged)]);
    world.assert_alive(2, other);
}

#[test]
fn a_session_is_bound_to_its_own_ca() {
    let site = Site::new();
    let pki = &site.pki;
    let stranger = Site::new();
    let mut world = site.world();
    let session = world.connected(1, site.config());
    // Others come and go, in any order.
    reload(&mut world, site.trusting(&[&stranger.pki.root, &pki.root], &[]));
    reload(&mut world, site.trusting(&[&pki.root, &stranger.pki.root, &stranger.pki.middle], &[]));
    reload(&mut world, site.trusting(&[&pki.root], &[]));
    world.assert_alive(1, session);
    // Its intermediate becomes an anchor beside it; it led to the root, which is still there.
    reload(&mut world, site.trusting(&[&pki.middle, &pki.root], &[]));
    world.assert_alive(1, session);
    // Now the root goes.
    reload(&mut world, site.trusting(&[&pki.middle], &[]));
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::CredentialChanged)]);
    // One that led to the intermediate goes on when that stands under a root again.
    world.clients.clear();
    let session = world.connected(1, site.config());
    let trust = Trust::new(vec![pki.root.der().to_vec()], vec![pki.middle.der().to_vec()], &[], []).unwrap();
    reload(&mut world, Certificates { trust: trust.into(), ..pki.certificates() });
    world.assert_alive(1, session);
    // A CA of the same name is another.
    let namesake = ca("middle", 2, KeyPair::generate().unwrap(), Some(&pki.root), |_| {});
    reload(&mut world, site.trusting(&[&namesake], &[]));
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::CredentialChanged)]);
}

#[test]
fn a_ca_that_is_no_anchor_any_more_is_judged_as_an_intermediate() {
    let (end, _) = june(10);
    let site = Site::with(|params| params.not_after = june(10).1.not_after, |_| {});
    let pki = &site.pki;
    let under = |root: &CertifiedIssuer<'static, KeyPair>, lists: &[Vec<u8>]| {
        let middle = vec![pki.middle.der().to_vec()];
        let trust = Trust::new(vec![root.der().to_vec()], middle, lists, []).unwrap();
        Certificates { trust: trust.into(), ..pki.certificates() }
    };
    let begun = || {
        let mut world = site.world();
        world.engine.set_clock(Clock { time: UnixTime::from_secs(end - 5 * DAY), trusted: true });
        reload(&mut world, site.trusting(&[&pki.middle], &[]));
        let session = world.connected(1, site.config());
        (world, session)
    };
    // As an anchor it is believed whatever lists say and for as long as it stands there.
    let (mut world, session) = begun();
    reload(&mut world, site.trusting(&[&pki.middle], &[list(&pki.root, &[2])]));
    world.engine.set_clock(Clock { time: UnixTime::from_secs(end + 1), trusted: true });
    world.engine.handle_timeout(world.now, &mut world.recorder);
    world.assert_alive(1, session);
    let sealed = stored(&mut world, session);
    // Below its root it has an end, and can be revoked.
    reload(&mut world, under(&pki.root, &[]));
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::Expired)]);
    let refused = taken_over(&mut world, under(&pki.root, &[]), end + 1, Policy::default(), &sealed);
    assert_eq!(refused, Err(ImportError::Expired));
    let (mut world, session) = begun();
    reload(&mut world, under(&pki.root, &[list(&pki.root, &[77])]));
    world.assert_alive(1, session);
    reload(&mut world, under(&pki.root, &[list(&pki.root, &[2])]));
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::CredentialChanged)]);
    // It is closed when that end comes.
    let (mut world, session) = begun();
    reload(&mut world, under(&pki.root, &[]));
    world.assert_alive(1, session);
    world.engine.set_clock(Clock { time: UnixTime::from_secs(end + 1), trusted: true });
    world.engine.handle_timeout(world.now, &mut world.recorder);
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::Expired)]);
}

#[test]
fn a_ca_that_is_no_anchor_any_more_falls_with_those_above_it() {
    let root = ca("root", 1, KeyPair::generate().unwrap(), None, |_| {});
    let upper = ca("upper", 5, KeyPair::generate().unwrap(), Some(&root), |_| {});
    let middle = ca("middle", 2, KeyPair::generate().unwrap(), Some(&upper), |_| {});
    let device = own(device_params("door-7"), &middle, &[], false);
    let certificates = |anchor: &CertifiedIssuer<'static, KeyPair>, below: &[Vec<u8>], lists: &[Vec<u8>]| {
        let trust = Trust::new(vec![anchor.der().to_vec()], below.to_vec(), lists, []).unwrap();
        Certificates { key: Some(server_key(&root, false)), trust: trust.into() }
    };
    let below = [middle.der().to_vec(), upper.der().to_vec()];
    let mut world = World::new(Settings::default(), certificates(&middle, &[], &[]), FINE, 1);
    let session = world.connected(1, Config::certified(&device));
    reload(&mut world, certificates(&root, &below, &[]));
    world.assert_alive(1, session);
    reload(&mut world, certificates(&root, &below, &[list(&root, &[5])]));
    assert_eq!(world.told(), [Told::Closed(session, CloseCause::CredentialChanged)]);
}

/// The old and the new CA of one name, after a change of keys, and a device of each; both have
/// serial number 3.
fn rollover() -> [(CertifiedIssuer<'static, KeyPair>, Arc<Own>); 2] {
    [1, 2].map(|serial| {
        let root = ca("root", serial, KeyPair::generate().unwrap(), None, |_| {});
        let mut params = device_params(&format!("door-{serial}"));
        params.serial_number = Some(SerialNumber::from(3u64));
        let device = own(params, &root, &[], false);
        (root, device)
    })
}

#[test]
fn after_a_change_of_keys_each_list_counts_for_the_ca_that_signed_it() {
    let [(old, first), (new, second)] = rollover();
    let key = server_key(&old, false);
    let with = |lists: &[Vec<u8>]| {
        let anchors = vec![old.der().to_vec(), new.der().to_vec()];
        let trust = Trust::new(anchors, Vec::new(), lists, []).unwrap();
        Certificates { key: Some(key.clone()), trust: trust.into() }
    };
    let of = |issuer, serial| list(issuer, &[serial]);
    for (name, lists, are_good) in [
        ("only a list of the old one", vec![of(&old, 77)], [true, true]),
        ("only a list of the new one", vec![of(&new, 77)], [true, true]),
        ("one of each", vec![of(&old, 77), of(&new, 77)], [true, true]),
        ("one of each, in the other order", vec![of(&new, 77), of(&old, 77)], [true, true]),
        ("the old one's device", vec![of(&old, 3), of(&new, 77)], [false, true]),
        ("the new one's device", vec![of(&old, 77), of(&new, 3)], [true, false]),
        ("in a second list", vec![of(&old, 77), of(&old, 3)], [false, true]),
    ] {
        // New handshakes.
        let mut world = World::new(Settings::default(), with(&lists), FINE, 1);
        for (port, device, is_good) in [(1, &first, are_good[0]), (2, &second, are_good[1])] {
            world.join(port, Config::certified(device));
            world.run(Duration::from_secs(1));
            assert_eq!(world.client(port).connected, is_good, "{name}");
            if !is_good {
                assert_eq!(world.client(port).alerts, [(2, 44)], "{name}: certificate_revoked");
            }
        }
        // Sessions that stand, and what is stored of them.
        let mut world = World::new(Settings::default(), with(&[]), FINE, 1);
        let sessions =
            [world.connected(1, Config::certified(&first)), world.connected(2, Config::certified(&second))];
        let sealed = sessions.map(|session| stored(&mut world, session));
        reload(&mut world, with(&lists));
        for (session, is_good) in sessions.into_iter().zip(are_good) {
            assert_eq!(world.engine.session(session).is_some(), is_good, "{name}");
        }
        for (sealed, is_good) in sealed.iter().zip(are_good) {
            let taken = taken_over(&mut world, with(&lists), YEAR_2026, Policy::default(), sealed);
            assert_eq!(taken.err(), (!is_good).then_some(ImportError::CredentialChanged), "{name}");
        }
    }
}

#[test]
fn lists_of_cas_that_only_devices_have_count_for_the_ca_that_signed_them_too() {
    let root = ca("root", 1, KeyPair::generate().unwrap(), None, |_| {});
    let [(old, first), (new, second)] = [5, 6].map(|serial| {
        let middle = ca("middle", serial, KeyPair::generate().unwrap(), Some(&root), |_| {});
        let mut params = device_params(&format!("door-{serial}"));
        params.serial_number = Some(SerialNumber::from(3u64));
        let device = own(params, &middle, &[middle.der().to_vec()], false);
        (middle, device)
    });
    for (lists, are_good) in [
        (vec![list(&old, &[77])], [true, true]),
        (vec![list(&new, &[77]), list(&old, &[3])], [false, true]),
        (vec![list(&old, &[77]), list(&new, &[3])], [true, false]),
    ] {
        let trust = Trust::new(vec![root.der().to_vec()], Vec::new(), &lists, []).unwrap();
        let certificates = Certificates { key: Some(server_key(&root, false)), trust: trust.into() };
        let mut world = World::new(Settings::default(), certificates.clone(), FINE, 1);
        for (port, device, is_good) in [(1, &first, are_good[0]), (2, &second, are_good[1])] {
            world.join(port, Config::certified(device));
            world.run(Duration::from_secs(1));
            assert_eq!(world.client(port).connected, is_good);
        }
        world.told();
        reload(&mut world, certificates);
        assert_eq!(world.told(), [], "what was verified once is judged the same");
    }
}

#[test]
fn a_list_in_the_name_of_a_configured_ca_that_is_not_its_own_is_refused() {
    let [(old, _), (new, _)] = rollover();
    let middle = ca("middle", 5, KeyPair::generate().unwrap(), Some(&old), |_| {});
    let no_signer = ca("no signer", 6, KeyPair::generate().unwrap(), Some(&old), |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let trust = |list: Vec<u8>| {
        let below = vec![middle.der().to_vec(), no_signer.der().to_vec()];
        Trust::new(vec![old.der().to_vec()], below, &[list], [])
    };
    assert!(trust(list(&old, &[1])).is_ok() && trust(list(&middle, &[1])).is_ok());
    let refused = trust(list(&new, &[1])).unwrap_err().to_string();
    assert!(refused.contains("of CN=root is not signed by the key of that CA"), "{refused}");
    let namesake = ca("middle", 5, KeyPair::generate().unwrap(), Some(&new), |_| {});
    assert!(trust(list(&namesake, &[1])).is_err());
    let mut forged = list(&old, &[1]);
    *forged.last_mut().unwrap() ^= 1;
    assert!(trust(forged).is_err());
    // rcgen refuses to sign with a key that may not; so that of another certificate of the same
    // key.
    let key = KeyPair::from_pem(&no_signer.key().serialize_pem()).unwrap();
    let may = ca("no signer", 6, key, Some(&old), |_| {});
    let refused = trust(list(&may, &[1])).unwrap_err().to_string();
    assert!(refused.contains("cRLSign"), "{refused}");
    // In the name of a CA that is not configured nobody can tell yet.
    let stranger = ca("stranger", 9, KeyPair::generate().unwrap(), None, |_| {});
    assert!(trust(list(&stranger, &[1])).is_ok());
}

#[test]
fn a_configured_ca_that_has_no_list_any_more_is_named() {
    let [(old, _), (new, _)] = rollover();
    let other = ca("other", 7, KeyPair::generate().unwrap(), None, |_| {});
    let with = |cas: &[&CertifiedIssuer<'static, KeyPair>], lists: &[Vec<u8>]| {
        let anchors = cas.iter().map(|ca| ca.der().to_vec()).collect();
        Trust::new(anchors, Vec::new(), lists, []).unwrap()
    };
    let before = with(&[&old, &new, &other], &[list(&old, &[1]), list(&other, &[2])]);
    let all = [&old, &new, &other];
    assert_eq!(with(&all, &[list(&old, &[]), list(&other, &[2])]).without_list_since(&before), [""; 0]);
    assert_eq!(with(&all, &[list(&other, &[2])]).without_list_since(&before), ["CN=root"]);
    assert_eq!(with(&all, &[list(&new, &[2])]).without_list_since(&before), ["CN=other", "CN=root"]);
    assert_eq!(with(&[&new], &[]).without_list_since(&before), [""; 0], "those are not believed any more");
}

#[test]
fn a_ca_whose_certificate_is_renewed_with_its_key_is_the_same() {
    let key = KeyPair::generate().unwrap();
    let again = KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let root = ca("root", 1, key, None, |_| {});
    let renewed = ca("root", 9, again, None, |params| params.not_after = date_time_ymd(2060, 1, 1));
    let pki = Pki {
        server: server_key(&root, false),
        device: own(device_params("door-7"), &root, &[], false),
        root,
        ..Pki::new()
    };
    let mut world = World::certified(&pki);
    let session = world.connected(1, Config::certified(&pki.device));
    let trust = Trust::new(vec![renewed.der().to_vec()], Vec::new(), &[], []).unwrap();
    reload(&mut world, Certificates { trust: trust.into(), ..pki.certificates() });
    world.assert_alive(1, session);
}

/// 2026-06-01 and a day each later.
fn june(day: u8) -> (u64, rcgen::CertificateParams) {
    let mut params = CertificateParams::default();
    params.not_after = date_time_ymd(2026, 6, day);
    (params.not_after.unix_timestamp() as u64, params)
}

#[test]
fn a_session_ends_with_the_first_certificate_of_its_path_that_ends() {
    for (middle_day, device_day) in [(10, 20), (20, 10)] {
        let first = june(10).0;
        let site = Site::with(
            |params| params.not_after = june(middle_day).1.not_after,
            |params| params.not_after = june(device_day).1.not_after,
        );
        for trusted in [true, false] {
            let mut world = site.world();
            world.engine.set_clock(Clock { time: UnixTime::from_secs(first - DAY), trusted: true });
            let session = world.connected(1, site.config());
            let psk = world.connected(2, World::psk(2));
            // To the very second it is valid.
            world.engine.set_clock(Clock { time: UnixTime::from_secs(first), trusted });
            world.engine.handle_timeout(world.now, &mut world.recorder);
            world.assert_alive(1, session);
            world.engine.set_clock(Clock { time: UnixTime::from_secs(first + 1), trusted });
            assert!(world.engine.poll_timeout().is_some_and(|due| due <= world.now), "due at once");
            world.engine.handle_timeout(world.now, &mut world.recorder);
            assert_eq!(world.told(), [Told::Closed(session, CloseCause::Expired)]);
            assert_eq!(world.engine.counters().sessions_expired, 1);
            assert!(world.engine.poll_timeout().is_none_or(|due| due > world.now), "and then no more");
            world.run(Duration::from_millis(50));
            assert_eq!(world.client(1).protected_alerts, [(1, 0)], "it is told");
            world.assert_alive(2, psk);
        }
    }
}

#[test]
fn a_clock_that_is_not_believed_ends_nothing_that_may_be_valid() {
    let (end, _) = june(10);
    let site = Site::with(|_| {}, |params| params.not_after = june(10).1.not_after);
    let mut world = site.world();
    // In 1970, at a floor from before the certificate began: it is taken, and goes on.
    for time in [0, end - 400 * DAY, end - 1] {
        world.engine.set_clock(Clock { time: UnixTime::from_secs(time), trusted: false });
        world.engine.handle_timeout(world.now, &mut world.recorder);
        world.clients.clear();
        let session = world.connected(1, site.config());
        world.run(Duration::from_secs(3_600));
        world.assert_alive(1, session);
    }
}

#[test]
fn while_the_clock_is_not_believed_a_chain_counts_if_there_is_a_time_at_which_it_is_valid() {
    let year = |year: i32| date_time_ymd(year, 1, 1);
    let root = ca("root", 1, KeyPair::generate().unwrap(), None, |_| {});
    let with = |key: &KeyPair, serial: u64, from: i32, until: i32| {
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        ca("middle", serial, key, Some(&root), |params| {
            (params.not_before, params.not_after) = (year(from), year(until));
        })
    };
    let [old_key, new_key] = [(); 2].map(|()| KeyPair::generate().unwrap());
    let old = with(&old_key, 2, 2020, 2030);
    let later = with(&old_key, 3, 2028, 2040);
    let new = with(&new_key, 4, 2029, 2040);
    let far = with(&new_key, 5, 2050, 2060);
    let mut params = device_params("door-7");
    (params.not_before, params.not_after) = (year(2027), year(2035));
    let floor = UnixTime::from_secs(year(2026).unix_timestamp() as u64);
    // What is configured, what the device sends, and whether that can be valid.
    for (name, configured, sent, is_good) in [
        ("both began before the device's", vec![&old], vec![], true),
        ("as sent", vec![], vec![&old], true),
        ("beside one of another key", vec![&old, &new], vec![], true),
        ("one that is renewed, with its key, after the device's began", vec![&later], vec![], true),
        ("beside one that begins when the device's has ended", vec![&later, &far], vec![], true),
        ("the old one sent, the renewed one configured", vec![&later], vec![&old], true),
        ("only one of another key", vec![&new], vec![], false),
        ("one that begins when the device's has ended", vec![&far], vec![], false),
    ] {
        let der = |all: &[&CertifiedIssuer<'static, KeyPair>]| -> Vec<Vec<u8>> {
            all.iter().map(|ca| ca.der().to_vec()).collect()
        };
        let device = own(params.clone(), &old, &der(&sent), false);
        let trust = Trust::new(vec![root.der().to_vec()], der(&configured), &[], []).unwrap();
        let certificates = Certificates { key: Some(server_key(&root, false)), trust: trust.into() };
        let mut world = World::new(Settings::default(), certificates, FINE, 1);
        world.engine.set_clock(Clock { time: floor, trusted: false });
        world.join(1, Config::certified(&device));
        world.run(Duration::from_secs(1));
        let told = world.told();
        assert_eq!(world.client(1).connected, is_good, "{name}: {told:?}");
    }
}

#[test]
fn sessions_end_after_their_lifetime_and_without_one_never() {
    let mut settings = Settings::default();
    settings.limits.idle = Duration::from_secs(400 * DAY);
    let mut world = World::new(settings, Certificates::default(), FINE, 1);
    let old = world.connected(1, World::psk(1));
    world.run(Duration::from_secs(300 * DAY));
    let new = world.connected(2, World::psk(2));
    world.assert_alive(1, old);
    world.told();
    // From a reload on it holds for those that stand, too.
    let lifetime = Duration::from_secs(30 * DAY);
    world.engine.set_policy(Policy { max_session_lifetime: Some(lifetime), ..Policy::default() });
    world.run(Duration::from_secs(1));
    assert_eq!(world.told(), [Told::Closed(old, CloseCause::TooOld)]);
    assert_eq!(world.client(1).protected_alerts, [(1, 0)]);
    world.run(lifetime - Duration::from_secs(60));
    world.assert_alive(2, new);
    world.run(Duration::from_secs(60));
    assert_eq!(world.told(), [Told::Closed(new, CloseCause::TooOld)]);
    assert_eq!(world.engine.counters().sessions_too_old, 2);
}

fn key() -> StoreKey {
    StoreKey::new(&[42; 32])
}

fn stored(world: &mut World, session: SessionId) -> Vec<u8> {
    world.engine.export(world.now, &key(), session, Purpose::Store).expect("an export")
}

/// The next process, with these certificates and that time, takes over what was stored.
fn taken_over(
    world: &mut World,
    certificates: Certificates,
    time: u64,
    policy: Policy,
    sealed: &[u8],
) -> Result<SessionId, ImportError> {
    let settings = Settings::new(Default::default(), policy);
    world.engine = engine(world.now, settings, certificates, 9);
    world.engine.set_clock(Clock { time: UnixTime::from_secs(time), trusted: true });
    world.engine.import(world.now, &key(), sealed, Origin::Store { runs: 1 }, &mut world.recorder)
}

#[test]
fn what_is_not_good_any_more_is_not_taken_over_after_a_restart() {
    let (end, _) = june(10);
    let site = Site::with(|params| params.not_after = june(10).1.not_after, |_| {});
    let stranger = Site::new();
    let mut world = site.world();
    let session = world.connected(1, site.config());
    let sealed = stored(&mut world, session);
    let (now, policy) = (YEAR_2026, Policy::default());
    let changed = Err(ImportError::CredentialChanged);
    let good = site.revoking(&[list(&site.pki.root, &[77])]);
    for (certificates, time, expected) in [
        (site.revoking(&[list(&site.pki.root, &[2])]), now, changed),
        (site.revoking(&[list(&site.pki.middle, &[3])]), now, changed),
        (site.trusting(&[&stranger.pki.root], &[]), now, changed),
        (good.clone(), end + 1, Err(ImportError::Expired)),
    ] {
        assert_eq!(taken_over(&mut world, certificates, time, policy, &sealed), expected);
        assert_eq!(world.engine.session_count(), 0);
    }
    let both = site.trusting(&[&stranger.pki.root, &site.pki.root], &[]);
    for certificates in [good, both] {
        let session = taken_over(&mut world, certificates, now, policy, &sealed).expect("it goes on");
        // And is judged as before.
        world.engine.set_clock(Clock { time: UnixTime::from_secs(end + 1), trusted: true });
        world.told();
        world.engine.handle_timeout(world.now, &mut world.recorder);
        assert_eq!(world.told(), [Told::Closed(session, CloseCause::Expired)]);
    }
    // One that would be nobody's is not taken over either.
    world.recorder.nobodies.push("CertificateIdentity(URI \"urn:dev:door-7\", DNS \"door-7.example\", CN \"door-7\", issuer \"CN=middle\")".to_owned());
    let refused = taken_over(&mut world, site.revoking(&[]), now, policy, &sealed);
    assert_eq!(refused, Err(ImportError::NoDevice));
}

#[test]
fn a_session_does_not_become_younger_by_restarts() {
    let day = Duration::from_secs(DAY);
    let policy = Policy { max_session_lifetime: Some(3 * day), ..Policy::default() };
    let mut world = World::new(Settings::new(Default::default(), policy), Certificates::default(), FINE, 1);
    let session = world.connected(1, World::psk(1));
    let sealed = stored(&mut world, session);
    // The store was written once; a day later, after two restarts, it knows how old the session is.
    let none = Certificates::default;
    for days in 1..3 {
        let time = YEAR_2026 + days * DAY;
        let session = taken_over(&mut world, none(), time, policy, &sealed).expect("it goes on");
        let age = world.now - world.engine.session(session).unwrap().established;
        let off = age.abs_diff(day * days as u32);
        assert!(off < Duration::from_secs(5), "{age:?}");
    }
    world.told();
    world.run(day + Duration::from_secs(5));
    assert!(matches!(world.told()[..], [Told::Closed(_, CloseCause::TooOld)]));
    let refused = taken_over(&mut world, none(), YEAR_2026 + 3 * DAY + 1, policy, &sealed);
    assert_eq!(refused, Err(ImportError::TooOld));
    // What was written while the clock was not believed has no date: the clock may have been years
    // behind. Its age is then counted anew by each process that does not know better.
    world.engine.set_clock(Clock { time: UnixTime::from_secs(YEAR_2026), trusted: true });
    world.clients.clear();
    let session = world.connected(1, World::psk(1));
    world.engine.set_clock(Clock { time: UnixTime::from_secs(YEAR_2026 - 300 * DAY), trusted: false });
    let undated = stored(&mut world, session);
    assert!(taken_over(&mut world, none(), YEAR_2026 + DAY, policy, &undated).is_ok());
    // A clock that was set back makes nothing younger than it is known to be, and ends nothing.
    assert!(taken_over(&mut world, none(), 1_000, policy, &sealed).is_ok());
}
