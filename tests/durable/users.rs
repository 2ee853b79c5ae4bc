//! All that keep a state file: for every write, sync and rename a power cut, and then old or new,
//! never neither; a disk that does not give a file (EIO) costs nothing once it does.
//!
//! The session store's log is cut in tests/sessions/crash.rs, the journal in
//! tests/journal/crash.rs.

use std::io;
use std::sync::{Arc, LazyLock};

use tombolo::clock::UnixTime;
use tombolo::clock::saved::Saved;
use tombolo::config::gateway_id::io::{look_in, store_in as store_id};
use tombolo::config::gateway_id::{self, Choice, Decision, MadeId, Making, Step};
use tombolo::config::registry;
use tombolo::credential::anchors::{self, AnchorSet};
use tombolo::credential::io::{anchors as stored_anchors, revocation as stored_lists};
use tombolo::credential::revocation::Side;
use tombolo::daemon::clock::file;
use tombolo::daemon::fleets::ROLL;
use tombolo::daemon::{daily_bytes, usage};
use tombolo::durable::atomic_file::{AtomicFile, sweep};
use tombolo::gate::Device;
use tombolo::gate::roll::Roll;
use tombolo::gate::usage::Period;
use tombolo::message::Name;
use tombolo::northbound::budget::Spent;
use tombolo::splitmix::SplitMix64;

use crate::disk::{Chance, Disk, Node};

/// A file, or two, that hold a version.
struct User {
    /// Its files.
    names: &'static [&'static str],
    write: fn(&Disk, u32) -> io::Result<()>,
    /// The version it goes on with; `None`: none.
    read: fn(&Disk) -> Option<u32>,
    /// What a start does before it goes on.
    mend: fn(&Disk),
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// Several characters differ from one version to the next: one that differs in fewer counts as
/// damaged.
fn id(version: u32) -> MadeId {
    let letter = char::from(b'a' + version as u8);
    MadeId { id: name(&format!("tb-{}", letter.to_string().repeat(8))), making: Making::First }
}

fn device(version: u32) -> Device {
    Device {
        label: Some(version.to_string()),
        public_key: Some([7; 32]),
        ..Device::new(name("meter"), name("sensor"))
    }
}

const DEVICE: AtomicFile<'_> = AtomicFile::new("meter.toml", registry::FILE_MAX, 0o600);

fn roll(version: u32) -> String {
    let text = format!("tombolo fleet-devices 1\nfleet meters 00000000\nm{version}\n");
    let sum = crc32c::crc32c(text.as_bytes());
    let text = format!("{text}end {sum:08x}\n");
    assert_eq!(Roll::parse(text.as_bytes()).expect("a roll").encode(), text);
    text
}

/// Self-signed CA certificates, DER.
static CAS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let make = |_| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).expect("a certificate").der().to_vec()
    };
    (0..20).map(make).collect()
});

fn cas(version: u32) -> AnchorSet {
    let mut set = AnchorSet::default();
    set.offer(None, &[CAS[version as usize].clone()]).expect("a CA");
    set
}

/// A list's outermost bytes; what is in it is judged before it is stored.
fn list(version: u32) -> Vec<u8> {
    vec![0x30, 1, version as u8]
}

const DAILY: AtomicFile<'_> =
    AtomicFile::new(daily_bytes::FILE, daily_bytes::SHAPE.max_bytes, 0o600).with_copy();
const DAY: AtomicFile<'_> = AtomicFile::new("00000001-2026-11-27", usage::SHAPE.max_bytes, 0o600);

/// What a device has sent on a day.
fn period(version: u32) -> Period {
    let mut period = Period { day: Some(20_784), lasted_ms: 1, ..Period::default() };
    period.devices.entry(name("meter")).or_default().messages = u64::from(version);
    period
}

const USERS: [User; 9] = [
    User {
        names: &["clock", "clock.copy"],
        write: |disk, version| {
            let certain = UnixTime::from_secs(u64::from(version));
            file::store_in(disk, &Saved { certain, ..Saved::default() })
        },
        read: |disk| {
            let saved = file::load_from(disk).saved?;
            (0..100).find(|version| UnixTime::from_secs(u64::from(*version)) == saved.certain)
        },
        mend: |disk| drop(file::mend_in(disk, &file::load_from(disk))),
    },
    User {
        names: &["gateway-id", "gateway-id.copy"],
        write: |disk, version| {
            let decision = Decision { plain: Step::Write, copy: Step::Write, ..look_in(disk, None) };
            store_id(disk, &decision, &id(version))
        },
        read: |disk| match look_in(disk, None).choice {
            Choice::Known(made) => (0..26).find(|version| id(*version).id == made.id),
            Choice::New(_) => None,
        },
        mend: |disk| {
            let decision = look_in(disk, None);
            if let Choice::Known(made) = decision.choice.clone() {
                drop(store_id(disk, &decision, &made));
            }
        },
    },
    User {
        names: &["fleet-devices"],
        write: |disk, version| ROLL.write(disk, roll(version).as_bytes()),
        read: |disk| {
            let roll = ROLL.read(disk, Roll::parse).value?;
            roll.pages()[0].devices[0].as_str().strip_prefix('m')?.parse().ok()
        },
        mend: |disk| {
            drop(sweep(disk, "fleet-devices"));
            drop(ROLL.mend(disk, &ROLL.read(disk, Roll::parse)));
        },
    },
    User {
        names: &["meter.toml"],
        write: |disk, version| DEVICE.write(disk, registry::render(&device(version)).as_bytes()),
        read: |disk| {
            let text =
                DEVICE.look(disk, |bytes| String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string()));
            let file: Arc<str> = "meter.toml".into();
            let entry = registry::parse("meter", &file, &text.ok()?).ok()?;
            entry.device.label.as_ref()?.parse().ok()
        },
        mend: |disk| drop(sweep(disk, "meter.toml")),
    },
    User {
        names: &["coap.pem", "coap.pem.copy"],
        write: |disk, version| stored_lists::store(disk, Side::Coap, &[list(version)]),
        read: |disk| {
            let (lists, _) = stored_lists::take_up(disk, Side::Coap);
            (0..20).find(|version| lists == [list(*version)])
        },
        mend: |disk| drop(stored_lists::take_up(disk, Side::Coap)),
    },
    User {
        names: &["upstream.pem", "upstream.pem.copy"],
        write: |disk, version| stored_lists::store(disk, Side::Upstream, &[list(version), list(version)]),
        read: |disk| {
            let (lists, _) = stored_lists::take_up(disk, Side::Upstream);
            (0..20).find(|version| lists == [list(*version), list(*version)])
        },
        mend: |disk| drop(stored_lists::take_up(disk, Side::Upstream)),
    },
    User {
        names: &[anchors::FILE, "anchors.pem.copy"],
        write: |disk, version| stored_anchors::store(disk, &cas(version)),
        read: |disk| {
            let (set, _) = stored_anchors::take_up(disk);
            (0..20).find(|version| set == cas(*version))
        },
        mend: |disk| drop(stored_anchors::take_up(disk)),
    },
    User {
        names: &[daily_bytes::FILE, "daily-bytes.copy"],
        write: |disk, version| {
            let spent = Spent { day: Some(20_784), lasted_ms: 1, used: [u64::from(version), 7] };
            DAILY.write(disk, spent.encode().as_bytes())
        },
        read: |disk| DAILY.read(disk, Spent::parse).value.map(|spent| spent.used[0] as u32),
        mend: |disk| {
            drop(sweep(disk, daily_bytes::FILE));
            drop(DAILY.mend(disk, &DAILY.read(disk, Spent::parse)));
        },
    },
    User {
        names: &["00000001-2026-11-27"],
        write: |disk, version| DAY.write(disk, period(version).encode().as_bytes()),
        read: |disk| {
            DAY.read(disk, Period::parse).value?.devices.get("meter").map(|counts| counts.messages as u32)
        },
        mend: |disk| {
            drop(sweep(disk, "00000001-2026-11-27"));
            drop(DAY.mend(disk, &DAY.read(disk, Period::parse)));
        },
    },
];

#[test]
fn a_power_cut_at_any_write_sync_or_rename_leaves_old_or_new() {
    for user in USERS {
        let mut calls = 0;
        for first in [true, false] {
            for call in 1.. {
                let mut was_cut = false;
                for seed in 0..24 {
                    let disk = Disk::default();
                    let old = (!first).then_some(3);
                    if let Some(old) = old {
                        (user.write)(&disk, old).expect("a disk in order");
                    }
                    disk.cut_at(call);
                    let written = (user.write)(&disk, 17);
                    was_cut |= disk.is_off();
                    disk.revive(&mut Chance(SplitMix64::new(seed * 2 + 1)));
                    let found = (user.read)(&disk);
                    assert!([old, Some(17)].contains(&found), "{:?} {call} {seed}: {found:?}", user.names);
                    assert!(written.is_err() || found == Some(17), "{:?} {call} {seed}", user.names);
                    // A start puts in order what it found, and it stays that; then life goes on.
                    (user.mend)(&disk);
                    assert_eq!((user.read)(&disk), found, "{:?} {call} {seed}", user.names);
                    (user.write)(&disk, 9).expect("a disk in order");
                    assert_eq!((user.read)(&disk), Some(9));
                }
                if !was_cut {
                    break;
                }
                calls += 1;
            }
        }
        assert!(calls >= 6, "{:?}: {calls}", user.names);
    }
}

#[test]
fn a_kill_a_full_disk_or_one_that_becomes_read_only_leaves_old_or_new_and_nothing_beside_them() {
    for user in USERS {
        let mut met = [0; 2];
        for kind in 0..3 {
            for call in 1..=12 {
                let disk = Disk::default();
                (user.write)(&disk, 3).expect("a disk in order");
                match kind {
                    0 => disk.cut_at(call),
                    1 => disk.fail_at(call),
                    _ => disk.read_only_from(call),
                }
                let written = (user.write)(&disk, 17);
                disk.outlive();
                let found = (user.read)(&disk);
                assert!([Some(3), Some(17)].contains(&found), "{:?} {kind} {call}: {found:?}", user.names);
                assert!(written.is_err() || found == Some(17), "{:?} {kind} {call}", user.names);
                met[usize::from(found == Some(17))] += 1;
                (user.mend)(&disk);
                assert_eq!((user.read)(&disk), found, "{:?} {kind} {call}", user.names);
                if user.names[0].ends_with(".pem") {
                    let left: Vec<String> =
                        disk.all().into_iter().filter(|name| name.starts_with('.')).collect();
                    assert!(left.is_empty(), "{:?} {kind} {call}: {left:?}", user.names);
                }
            }
        }
        assert!(met.iter().all(|count| *count > 0), "{:?}: both were met: {met:?}", user.names);
    }
}

#[test]
fn a_power_cut_while_damage_is_mended_leaves_what_was_known() {
    for user in USERS.into_iter().filter(|user| user.names.len() == 2) {
        for damaged in user.names {
            for call in 1..=12 {
                for seed in 0..24 {
                    let disk = Disk::default();
                    (user.write)(&disk, 3).expect("a disk in order");
                    disk.file(damaged, &[0; 40]);
                    disk.cut_at(call);
                    (user.mend)(&disk);
                    disk.revive(&mut Chance(SplitMix64::new(seed * 2 + 1)));
                    assert_eq!((user.read)(&disk), Some(3), "{damaged} {call} {seed}");
                }
            }
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_neither_damaged_nor_replaced_and_is_there_again_afterwards() {
    for user in USERS {
        for unreadable in user.names {
            let disk = Disk::default();
            (user.write)(&disk, 3).expect("a disk in order");
            let content = disk.content(unreadable).expect("it was written");
            let node = Node::Unreadable(content.clone());
            disk.put(unreadable, node.clone());
            let found = (user.read)(&disk);
            let expected = if user.names.len() == 2 { Some(3) } else { None };
            assert_eq!(found, expected, "{unreadable}");
            (user.mend)(&disk);
            assert_eq!(disk.node(unreadable), Some(node), "{unreadable}");
            assert!(disk.all().iter().all(|name| !name.contains("damaged")), "{unreadable}");
            disk.file(unreadable, &content);
            assert_eq!((user.read)(&disk), Some(3), "{unreadable}");
        }
    }
}

#[test]
fn the_id_is_never_drawn_anew_while_one_of_its_files_is_good() {
    for damage in [vec![], vec![0; 12], b"tb-aa".to_vec()] {
        for damaged in [gateway_id::PLAIN, gateway_id::COPY] {
            let disk = Disk::default();
            (USERS[1].write)(&disk, 3).expect("a disk in order");
            disk.file(damaged, &damage);
            let decision = look_in(&disk, None);
            assert_eq!(decision.choice, Choice::Known(id(3)), "{damaged}");
            store_id(&disk, &decision, &id(3)).expect("a disk in order");
            assert!(look_in(&disk, None).is_settled());
        }
    }
}
