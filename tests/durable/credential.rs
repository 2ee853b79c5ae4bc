//! A certificate's store: the power goes, or the disk is full, at any call of staging, commit and
//! rollback; afterwards the old or the new certificate is in use, with its own key.

use std::sync::Arc;

use tombolo::clock::UnixTime;
use tombolo::credential::store::{CURRENT, Held, Pending, Store};
use tombolo::durable::folder::{ReadFault, StateFolder};
use tombolo::splitmix::SplitMix64;
use zeroize::Zeroizing;

use crate::disk::{Chance, Disk, Node};

const NOW: Option<UnixTime> = Some(UnixTime::from_secs(1_782_864_000));
/// More than any of these has.
const CALLS_MAX: usize = 60;

/// The disk, held by the test too.
struct Shared<'d>(&'d Disk);

impl StateFolder for Shared<'_> {
    fn read(&self, name: &str, max: u64, afresh: bool) -> Result<Zeroizing<Vec<u8>>, ReadFault> {
        self.0.read(name, max, afresh)
    }
    fn write_beside(&self, name: &str, bytes: &[u8], mode: u32) -> std::io::Result<String> {
        assert_eq!(mode, 0o600, "{name}");
        self.0.write_beside(name, bytes, mode)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }
    fn sync_names(&self) -> std::io::Result<()> {
        self.0.sync_names()
    }
    fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }
    fn names(&self) -> std::io::Result<Vec<String>> {
        self.0.names()
    }
    fn pause(&self, time: std::time::Duration) -> bool {
        self.0.pause(time)
    }
}

fn held(name: &str) -> Held {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let chain = vec![params.self_signed(&key).unwrap().der().to_vec()];
    Held::new(chain, Arc::new(Zeroizing::new(key.serialize_der()))).unwrap()
}

fn with_current(disk: &Disk, held: &Held) {
    let mut store = Store::open(Shared(disk));
    store.stage(held.clone()).unwrap();
    store.commit(NOW).unwrap();
    assert_eq!(store.current(), Some(held));
}

/// What goes wrong at one call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    PowerCut,
    Kill,
    Full,
    ReadOnly,
}

const TROUBLES: [Trouble; 4] = [Trouble::PowerCut, Trouble::Kill, Trouble::Full, Trouble::ReadOnly];

impl Trouble {
    fn arm(self, disk: &Disk, call: usize) {
        match self {
            Trouble::PowerCut | Trouble::Kill => disk.cut_at(call),
            Trouble::Full => disk.fail_at(call),
            Trouble::ReadOnly => disk.read_only_from(call),
        }
    }

    /// The process is gone; only a power cut takes what was not synced.
    fn pass(self, disk: &Disk, chance: &mut Chance) {
        disk.calm();
        match self {
            Trouble::PowerCut => disk.revive(chance),
            _ => disk.outlive(),
        }
    }
}

/// Does `act` with each trouble at each of its calls, and looks at what is in use afterwards.
fn everywhere(held: &[Held], act: impl Fn(&mut Store<Shared<'_>>)) {
    let mut met = [0; 2];
    for call in 1..CALLS_MAX {
        for trouble in TROUBLES {
            // Only a power cut leaves something to chance.
            for seed in 0..if trouble == Trouble::PowerCut { 16 } else { 1 } {
                let disk = Disk::default();
                with_current(&disk, &held[0]);
                let mut chance = Chance(SplitMix64::new(seed * 977 + call as u64));
                {
                    let mut store = Store::open(Shared(&disk));
                    trouble.arm(&disk, call);
                    act(&mut store);
                }
                trouble.pass(&disk, &mut chance);
                let store = Store::open(Shared(&disk));
                let current = store.current().unwrap_or_else(|| panic!("call {call}: none is left"));
                let index = held.iter().position(|held| held == current);
                met[index.unwrap_or_else(|| panic!("call {call}: another one"))] += 1;
                // And whatever it is, the next one can come.
                drop(store);
                let mut store = Store::open(Shared(&disk));
                store.stage(held[1].clone()).unwrap();
                store.commit(NOW).unwrap();
                assert_eq!(Store::open(Shared(&disk)).current(), Some(&held[1]));
            }
        }
    }
    assert!(met[0] > 0 && met[1] > 0, "both were met: {met:?}");
}

#[test]
fn a_power_cut_or_a_full_disk_at_any_call_leaves_the_old_or_the_new_certificate() {
    let all = [held("old"), held("new")];
    everywhere(&all, |store| {
        let staged = store.stage(all[1].clone());
        if staged.is_ok() {
            let _ = store.commit(NOW);
        }
    });
}

#[test]
fn a_rollback_that_is_cut_off_leaves_one_of_the_two() {
    let all = [held("old"), held("new")];
    for call in 1..CALLS_MAX {
        for (seed, trouble) in (0..8).flat_map(|seed| TROUBLES.map(|trouble| (seed, trouble))) {
            let disk = Disk::default();
            with_current(&disk, &all[0]);
            with_current(&disk, &all[1]);
            let mut store = Store::open(Shared(&disk));
            trouble.arm(&disk, call);
            let _ = store.roll_back(NOW);
            drop(store);
            trouble.pass(&disk, &mut Chance(SplitMix64::new(seed)));
            let store = Store::open(Shared(&disk));
            assert!(all.iter().any(|held| Some(held) == store.current()), "{call}");
        }
    }
    let disk = Disk::default();
    with_current(&disk, &all[0]);
    with_current(&disk, &all[1]);
    assert!(Store::open(Shared(&disk)).roll_back(NOW).unwrap());
    let store = Store::open(Shared(&disk));
    assert_eq!((store.current(), store.previous()), (Some(&all[0]), Some(&all[1])));
}

#[test]
fn a_request_that_was_handed_out_and_what_was_installed_for_it_outlive_any_trouble() {
    let (old, new) = (held("old"), held("new"));
    let pending = Pending { key: new.key.clone(), csr: vec![0x30, 3, 2, 1, 0] };
    let mut met = [0; 3];
    for call in 1..CALLS_MAX {
        for (seed, trouble) in (0..8).flat_map(|seed| TROUBLES.map(|trouble| (seed, trouble))) {
            let disk = Disk::default();
            with_current(&disk, &old);
            let mut store = Store::open(Shared(&disk));
            trouble.arm(&disk, call);
            // `cert csr` prints what was kept; `cert install` succeeds with what was staged.
            let printed = store.keep_request(pending.clone()).is_ok();
            let installed = printed && store.stage(new.clone()).is_ok();
            let committed = installed && store.commit(NOW).is_ok();
            let _ = store.change(|state| state.failures = 1);
            drop(store);
            trouble.pass(&disk, &mut Chance(SplitMix64::new(seed * 31 + call as u64)));
            let store = Store::open(Shared(&disk));
            let context = format!("{call} {trouble:?} {seed}");
            let current = store.current().unwrap_or_else(|| panic!("{context}: none is left"));
            assert!(*current == old || *current == new, "{context}");
            let is_staged = store.candidate() == Some(&new) || *current == new;
            let has_key = store.pending() == Some(&pending) || is_staged;
            assert!(!printed || has_key, "{context}: the key of the request is lost");
            assert!(!installed || is_staged, "{context}: what was installed is lost");
            assert!(!committed || *current == new, "{context}");
            assert!(store.candidate() != Some(current), "{context}: it would be proven again");
            for (count, happened) in met.iter_mut().zip([!printed, printed && !installed, committed]) {
                *count += u32::from(happened);
            }
        }
    }
    assert!(met.iter().all(|count| *count > 0), "each end was met: {met:?}");
}

#[test]
fn damage_costs_nothing_while_a_copy_or_the_certificate_before_is_left() {
    let all = [held("old"), held("new")];
    for spoiled in [Node::File(vec![0; 100]), Node::File(Vec::new()), Node::File(b"-----BEGIN".to_vec())] {
        let disk = Disk::default();
        with_current(&disk, &all[0]);
        with_current(&disk, &all[1]);
        disk.put("current.pem", spoiled.clone());
        let store = Store::open(Shared(&disk));
        assert_eq!(store.current(), Some(&all[1]), "the copy");
        assert!(!store.problems().is_empty());
        drop(store);
        disk.put("current.pem", spoiled.clone());
        disk.put("current.pem.copy", spoiled);
        let store = Store::open(Shared(&disk));
        assert_eq!(store.current(), Some(&all[0]), "the one before");
        drop(store);
        let store = Store::open(Shared(&disk));
        assert_eq!(store.current(), Some(&all[0]), "and so it stays");
    }
}

#[test]
fn files_that_are_removed_or_damaged_while_they_are_in_use_are_written_anew() {
    let all = [held("old"), held("new")];
    let disk = Disk::default();
    with_current(&disk, &all[0]);
    with_current(&disk, &all[1]);
    let store = Store::open(Shared(&disk));
    assert!(store.restore_files().written.is_empty(), "nothing is wrong");
    let names = ["current.pem", "current.pem.copy"];
    let spoils: [fn(&Disk, &str); 3] = [
        |disk, name| disk.remove(name).unwrap(),
        |disk, name| disk.file(name, b"-----BEGIN"),
        |disk, name| disk.file(name, &[]),
    ];
    for (spoil, spoiled) in
        spoils.iter().flat_map(|spoil| [&names[..1], &names[1..], &names[..]].map(|n| (spoil, n)))
    {
        spoiled.iter().for_each(|name| spoil(&disk, name));
        assert_eq!(store.restore_files().written, [CURRENT]);
        assert!(store.restore_files().written.is_empty(), "and that was all");
        for name in names {
            let bytes = disk.content(name).unwrap_or_else(|| panic!("{name} is gone"));
            let other = Disk::default();
            other.file("current.pem", &bytes);
            assert_eq!(Store::open(Shared(&other)).current(), Some(&all[1]), "{name}");
        }
    }
    // What the disk does not give may be whole.
    for name in names {
        let bytes = disk.content(name).unwrap();
        disk.put(name, Node::Unreadable(bytes));
    }
    let restored = store.restore_files();
    assert!(restored.written.is_empty() && restored.failed[0].starts_with("current.pem: "), "{restored:?}");
    assert!(names.iter().all(|name| matches!(disk.node(name), Some(Node::Unreadable(_)))));
}

#[test]
fn what_the_disk_does_not_give_is_not_written_over() {
    let all = [held("old"), held("new")];
    let disk = Disk::default();
    with_current(&disk, &all[0]);
    with_current(&disk, &all[1]);
    for name in ["current.pem", "current.pem.copy"] {
        let bytes = disk.content(name).unwrap();
        disk.put(name, Node::Unreadable(bytes));
    }
    drop(Store::open(Shared(&disk)));
    for name in ["current.pem", "current.pem.copy"] {
        let Some(Node::Unreadable(bytes)) = disk.node(name) else { panic!("{name} was written over") };
        disk.file(name, &bytes);
    }
    assert_eq!(Store::open(Shared(&disk)).current(), Some(&all[1]));
}

#[test]
fn a_request_and_what_was_tried_outlive_a_restart() {
    let disk = Disk::default();
    let one = held("one");
    let pending = Pending { key: one.key.clone(), csr: vec![0x30, 3, 2, 1, 0] };
    let mut store = Store::open(Shared(&disk));
    assert!(store.problems().is_empty(), "nothing was there: {:?}", store.problems());
    store.keep_request(pending.clone()).unwrap();
    store.change(|state| state.failures = 7).unwrap();
    drop(store);
    let mut store = Store::open(Shared(&disk));
    assert_eq!((store.pending(), store.state().failures), (Some(&pending), 7));
    store.stage(one).unwrap();
    store.commit(NOW).unwrap();
    assert_eq!((store.pending(), store.state().failures), (None, 0));
}
