//! The device of a credential: key, certificate, fleet.

use std::sync::Arc;
use std::time::Instant;

use tombolo::gate::certificate::{CertificateName, CertificatePattern, NameKind};
use tombolo::gate::stage::Refusal;
use tombolo::gate::{Fleet, Gate, Unidentified, check};
use tombolo::proto::dtls::PeerIdentity;
use tombolo::proto::dtls::server::{CertificateIdentity, DistinguishedName};

use super::*;

/// `CN=ca`, as a certificate has it.
const CA: &[u8] = b"\x31\x0b\x30\x09\x06\x03\x55\x04\x03\x0c\x02ca";

/// A verified certificate of `CN=ca` with these names.
pub fn proved(names: &[(NameKind, &str)]) -> CertificateIdentity {
    let of = |kind| names.iter().filter(move |(other, _)| *other == kind).map(|(_, name)| *name);
    let common_name = of(NameKind::CommonName).next();
    CertificateIdentity::new(of(NameKind::Uri), of(NameKind::Dns), common_name, CA.into(), &[7], [0xcc; 32])
}

fn shown(names: &[(NameKind, &str)]) -> PeerIdentity {
    PeerIdentity::Certificate(Arc::new(proved(names)))
}

fn dns(name: &str) -> PeerIdentity {
    shown(&[(NameKind::Dns, name)])
}

fn issuer(text: &str) -> Option<DistinguishedName> {
    Some(DistinguishedName::parse(text).unwrap())
}

/// A device known by this name of its certificate.
pub fn with_name(id: &str, kind: NameKind, text: &str) -> Device {
    Device { psk: None, certificate: CertificateName::new(kind, text, None).ok(), ..device(id, "sensor") }
}

pub fn fleet(id: &str, kind: NameKind, pattern: &str) -> Fleet {
    Fleet {
        name: name(id),
        role: name("sensor"),
        label: None,
        tags: Default::default(),
        certificate: CertificatePattern::new(kind, pattern, None).unwrap(),
        max_devices: 1_000,
        offline_after: None,
    }
}

fn doors(max_devices: u32) -> Settings {
    let fleet = Fleet { max_devices, ..fleet("doors", NameKind::Dns, "door-{id}.example") };
    let mut settings = settings(vec![role("sensor", vec![rule("all", "#")])], vec![device("8", "sensor")]);
    settings.fleets = vec![fleet];
    settings
}

fn id_of(gate: &mut Gate, peer: &PeerIdentity) -> Result<String, Unidentified> {
    let now = Instant::now();
    let device = gate.identify(now, peer)?;
    assert_eq!(gate.recognise(peer), Some(device));
    Ok(gate.device(now, device).expect("it was identified").id.to_string())
}

#[test]
fn each_proof_leads_to_its_device() {
    let mut binary = device("binary", "sensor");
    // No text, and it holds a NUL.
    binary.psk.as_mut().unwrap().identity = vec![0x00, 0xFF, 0x80];
    let devices = vec![
        device("psk", "sensor"),
        with_name("uri", NameKind::Uri, "urn:dev:1"),
        with_name("dns", NameKind::Dns, "Door.Example"),
        with_name("cn", NameKind::CommonName, "the door"),
        Device { psk: None, public_key: Some([9; 32]), ..device("key", "sensor") },
        binary,
    ];
    let mut gate = Gate::new(settings(vec![role("sensor", vec![])], devices), Instant::now());
    assert_eq!(gate.problems(), []);
    let mut keyed = proved(&[(NameKind::CommonName, "any")]);
    keyed.key_hash = [9; 32];
    for (peer, id) in [
        (PeerIdentity::Psk((*b"psk").into()), "psk"),
        (PeerIdentity::Psk([0x00, 0xFF, 0x80].into()), "binary"),
        (shown(&[(NameKind::Uri, "urn:dev:1")]), "uri"),
        (dns("door.EXAMPLE"), "dns"),
        (shown(&[(NameKind::CommonName, "the door")]), "cn"),
        (PeerIdentity::RawPublicKey([9; 32].into()), "key"),
        (PeerIdentity::Certificate(keyed.into()), "key"),
        // Several names of one device, and names of no device.
        (
            shown(&[(NameKind::Uri, "urn:x"), (NameKind::Dns, "x.example"), (NameKind::Dns, "door.example")]),
            "dns",
        ),
    ] {
        assert_eq!(id_of(&mut gate, &peer).as_deref(), Ok(id), "{peer:?}");
    }
    for peer in [
        PeerIdentity::Psk((*b"key").into()),
        PeerIdentity::Psk([0x00].into()),
        PeerIdentity::RawPublicKey([8; 32].into()),
        // The right text in the wrong place, in other letters, cut by a NUL, or as a wildcard.
        shown(&[(NameKind::CommonName, "door.example"), (NameKind::Uri, "door.example")]),
        shown(&[(NameKind::Uri, "URN:dev:1")]),
        shown(&[(NameKind::CommonName, "The door")]),
        shown(&[(NameKind::CommonName, "the door\0")]),
        shown(&[(NameKind::Uri, "urn:dev:1\0.example")]),
        dns("*.example"),
        dns("door.example."),
        shown(&[]),
    ] {
        assert_eq!(id_of(&mut gate, &peer), Err(Unidentified::Unknown), "{peer:?}");
    }
}

fn ambiguous<T>(ids: [&str; 2]) -> Result<T, Unidentified> {
    Err(Unidentified::Ambiguous { ids: ids.map(name).to_vec() })
}

#[test]
fn names_of_two_devices_in_one_certificate_identify_nobody() {
    let keyed = Device { psk: None, public_key: Some([0xcc; 32]), ..device("keyed", "sensor") };
    let devices =
        vec![with_name("a", NameKind::Dns, "a.example"), with_name("b", NameKind::Uri, "urn:b"), keyed];
    let mut all = settings(vec![role("sensor", vec![])], devices);
    let mut gate = Gate::new(all.clone(), Instant::now());
    let both = shown(&[(NameKind::Dns, "a.example"), (NameKind::Uri, "urn:b")]);
    assert_eq!(id_of(&mut gate, &both), ambiguous(["keyed", "b"]));
    // One by its key, the other by its name.
    let refused = id_of(&mut gate, &dns("a.example"));
    assert_eq!(refused, ambiguous(["keyed", "a"]));
    let said = refused.map_err(|why| why.to_string());
    assert!(said.is_err_and(|said| said.contains("several devices: keyed, a; ")));
    all.devices.pop();
    gate.replace(all, Instant::now());
    assert_eq!(id_of(&mut gate, &dns("a.example")).as_deref(), Ok("a"));
    let many: Vec<String> = (0..33).map(|number| format!("{number}.example")).collect();
    let many: Vec<_> = many.iter().map(|name| (NameKind::Dns, name.as_str())).collect();
    assert_eq!(id_of(&mut gate, &shown(&many)), Err(Unidentified::TooManyNames));
}

#[test]
fn an_issuer_tells_namesakes_apart() {
    let of = |id: &str, text: &str| {
        let certificate = CertificateName::new(NameKind::CommonName, "door", issuer(text)).ok();
        Device { psk: None, certificate, ..device(id, "sensor") }
    };
    let mut all = settings(vec![role("sensor", vec![])], vec![of("mine", "CN=ca"), of("other", "CN=other")]);
    let mut gate = Gate::new(all.clone(), Instant::now());
    assert_eq!(gate.problems(), []);
    assert_eq!(id_of(&mut gate, &shown(&[(NameKind::CommonName, "door")])).as_deref(), Ok("mine"));
    let mut stranger = proved(&[(NameKind::CommonName, "door")]);
    stranger.issuer = (*b"nonsense").into();
    assert_eq!(id_of(&mut gate, &PeerIdentity::Certificate(stranger.into())), Err(Unidentified::Unknown));
    // Without an issuer, every issuer matches.
    all.devices.push(with_name("third", NameKind::CommonName, "door").into());
    let problems: Vec<String> = check(&all).iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("device third has the same certificate"), "{problems:?}");
}

#[test]
fn a_fleet_makes_a_device_at_first_sight_that_is_like_any_other() {
    let now = Instant::now();
    let mut gate = Gate::new(doors(1_000), now);
    assert_eq!(gate.recognise(&dns("door-7.example")), None);
    assert_eq!(gate.device_count(), 1);
    let seven = gate.identify(now, &dns("Door-7.example")).unwrap();
    assert_eq!(gate.identify(now, &dns("door-7.EXAMPLE")), Ok(seven));
    assert_eq!((gate.device_count(), gate.fleets().next().unwrap().1), (2, 1));
    let view = gate.device(now, seven).unwrap();
    assert_eq!((view.id.as_str(), view.fleet.map(Name::as_str), view.online), ("7", Some("doors"), false));
    assert_eq!(gate.device_by_id("7"), Some(seven));
    let mapped = gate.admit(now, seven, received(Method::Post, "t", b"1")).unwrap().passed().unwrap();
    assert_eq!(mapped.content().topic, "tombolo/gw/7/up/t");
    let change = gate.poll_presence(now).unwrap();
    assert_eq!((change.id.as_str(), change.online), ("7", true));
    assert!(gate.explain(now, "7", Method::Post, "t").allowed);
}

#[test]
fn a_fleet_never_makes_what_is_somebody_elses() {
    let now = Instant::now();
    let mut settings = doors(1_000);
    settings.roles[0].uplink.push(to("map", "m", "{prefix}/atlas/m"));
    settings.withheld.ids = vec![name("off")];
    settings.withheld.certificates =
        vec![CertificateName::new(NameKind::Dns, "door-stolen.example", None).unwrap()];
    settings.withheld.public_keys = vec![[0xdd; 32]];
    settings.fleets.push(fleet("cn", NameKind::CommonName, "{id}"));
    let mut gate = Gate::new(settings, now);
    assert_eq!(gate.problems(), []);
    let refused = |gate: &mut Gate, name: &str| id_of(gate, &dns(name)).unwrap_err();
    let withheld = |id: &str| Unidentified::Withheld { id: Some(name(id)) };
    assert_eq!(refused(&mut gate, "door-gateway.example"), withheld("gateway"));
    assert_eq!(refused(&mut gate, "door-off.example"), withheld("off"));
    assert_eq!(refused(&mut gate, "door-atlas.example"), withheld("atlas"));
    assert_eq!(refused(&mut gate, "door-stolen.example"), Unidentified::Withheld { id: None });
    let mut stolen = proved(&[(NameKind::Dns, "door-1.example")]);
    stolen.key_hash = [0xdd; 32];
    let stolen = PeerIdentity::Certificate(stolen.into());
    assert_eq!(id_of(&mut gate, &stolen), Err(Unidentified::Withheld { id: None }));
    let taken = Unidentified::IdTaken { fleet: name("doors"), id: name("8") };
    assert_eq!(refused(&mut gate, "door-8.example"), taken);
    // Of two fleets the first to have an id keeps it; and no device belongs to both.
    assert_eq!(id_of(&mut gate, &shown(&[(NameKind::CommonName, "1")])).as_deref(), Ok("1"));
    assert!(matches!(refused(&mut gate, "door-1.example"), Unidentified::IdTaken { .. }));
    let both = shown(&[(NameKind::CommonName, "2"), (NameKind::Dns, "door-2.example")]);
    assert!(matches!(id_of(&mut gate, &both), Err(Unidentified::Ambiguous { ids }) if ids == [name("2")]));
    let two = shown(&[(NameKind::Dns, "door-2.example"), (NameKind::Dns, "door-3.example")]);
    assert_eq!(id_of(&mut gate, &two), ambiguous(["2", "3"]));
    assert_eq!(gate.device_count(), 2);
}

#[test]
fn a_device_of_the_settings_wins_over_a_fleet_that_would_take_it() {
    let mut settings = doors(1_000);
    settings.devices.push(with_name("front", NameKind::Dns, "door-7.example").into());
    let mut gate = Gate::new(settings, Instant::now());
    assert_eq!(id_of(&mut gate, &dns("door-7.example")).as_deref(), Ok("front"));
    let more = shown(&[(NameKind::Dns, "door-7.example"), (NameKind::Dns, "door-9.example")]);
    assert_eq!(id_of(&mut gate, &more).as_deref(), Ok("front"));
}

#[test]
fn a_full_fleet_takes_no_more_and_keeps_those_seen_last_when_it_shrinks() {
    let start = Instant::now();
    let mut gate = Gate::new(doors(3), start);
    for (second, id) in [(1, "a"), (2, "b"), (3, "c"), (9, "a")] {
        let now = start + Duration::from_secs(second);
        let device = gate.identify(now, &dns(&format!("door-{id}.example"))).unwrap();
        gate.seen(now, device);
    }
    let full = Unidentified::FleetFull { fleet: name("doors"), max_devices: 3 };
    assert_eq!(id_of(&mut gate, &dns("door-d.example")), Err(full));
    let replaced = gate.replace(doors(2), start + Duration::from_secs(10));
    let gone: Vec<_> = replaced.iter().map(|gone| gone.id.as_str()).collect();
    assert_eq!(gone, ["b"]);
    assert_eq!(gate.fleets().map(|(_, size)| size).collect::<Vec<_>>(), [2]);
    gate.replace(doors(3), start + Duration::from_secs(11));
    assert_eq!(id_of(&mut gate, &dns("door-d.example")).as_deref(), Ok("d"));
}

#[test]
fn a_reload_keeps_a_fleets_devices_as_long_as_its_certificates_fit() {
    let now = Instant::now();
    let mut gate = Gate::new(doors(10), now);
    let peer = dns("door-7.example");
    let seven = gate.identify(now, &peer).unwrap();
    let eight = gate.identify(now, &dns("door-x8.example")).unwrap();
    gate.admit(now, seven, received(Method::Post, "t", b"1")).unwrap();
    // Another role, label and bound: the same devices.
    let mut other = doors(20);
    other.roles.push(role("window", vec![]));
    other.fleets[0].role = name("window");
    other.fleets[0].label = Some("a door".to_owned());
    let replaced = gate.replace(other.clone(), now);
    assert_eq!(replaced, []);
    let view = gate.device(now, seven).unwrap();
    assert_eq!((view.role.as_str(), view.label, view.accepted), ("window", Some("a door"), 1));
    assert_eq!(gate.admit(now, seven, received(Method::Post, "t", b"1")).map(drop), Err(Refusal::NoRule));
    // The id belongs to a configured device now, which the certificate does not identify.
    other.devices.push(device("7", "sensor").into());
    assert_eq!(gate.replace(other.clone(), now), []);
    assert_eq!(gate.device(now, seven).map(|view| view.fleet), Some(None));
    assert_eq!(gate.recognise(&peer), None);
    // Nor does it lose its sessions where it is configured with just that certificate.
    other.devices.pop();
    other.devices.push(with_name("7", NameKind::Dns, "door-7.example").into());
    gate.replace(other.clone(), now);
    assert_eq!(gate.recognise(&peer), Some(seven));
    // Switched off: identifies no device.
    other.devices.pop();
    other.withheld.ids = vec![name("x8")];
    let replaced = gate.replace(other.clone(), now);
    let removed: Vec<_> = replaced.iter().map(|gone| gone.id.as_str()).collect();
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert!(gate.device(now, eight).is_none());
    // Other certificates: other devices.
    other.withheld.ids.clear();
    gate.replace(other.clone(), now);
    let seven = gate.identify(now, &peer).unwrap();
    other.fleets[0].certificate =
        CertificatePattern::new(NameKind::Dns, "door-{id}.example", issuer("CN=ca")).unwrap();
    let replaced = gate.replace(other, now);
    assert_eq!(replaced.iter().map(|gone| gone.device).collect::<Vec<_>>(), [seven]);
    assert_ne!(gate.identify(now, &peer).unwrap(), seven);
}

#[test]
fn fleets_that_cannot_be_are_closed_alone() {
    let mut settings = doors(0);
    settings.fleets.push(Fleet { role: name("nobody"), ..fleet("roleless", NameKind::Uri, "urn:{id}") });
    settings.fleets.push(fleet("good", NameKind::Dns, "{id}.example"));
    settings.fleets.push(fleet("good", NameKind::CommonName, "{id}"));
    settings.fleets.push(fleet("overlap", NameKind::Dns, "door-{id}.example"));
    let problems: Vec<String> = check(&settings).iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "fleet.doors: max-devices is from 1 to 100000",
            "fleet.roleless: there is no role nobody",
            "fleet.good: another fleet has the same name",
            "fleet.overlap: a certificate could also match fleet good",
        ]
    );
    let mut gate = Gate::new(settings, Instant::now());
    assert_eq!(id_of(&mut gate, &dns("door-7.example")).as_deref(), Ok("door-7"));
}

#[test]
fn a_device_of_a_fleet_costs_no_allocation_a_reading_either() {
    let now = Instant::now();
    let mut gate = Gate::new(doors(100), now);
    let made: Vec<_> =
        (0..100).map(|n| gate.identify(now, &dns(&format!("door-d{n}.example"))).unwrap()).collect();
    let before = super::allocation::count();
    for device in &made {
        gate.admit(now, *device, received(Method::Post, "t", b"1")).unwrap();
    }
    assert_eq!(super::allocation::count(), before);
}
