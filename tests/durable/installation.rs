//! The records of an installation: whatever is killed, cut or full at whatever write or rename, a
//! version that does not work is taken back, and counted once; one that works is confirmed, once.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::Duration;

use tombolo::splitmix::SplitMix64;
use tombolo::update::health::Answered;
use tombolo::update::history::{History, What};
use tombolo::update::installation::{Installation, Phase};
use tombolo::update::io::backend::{Backend, Effect, Wanted};
use tombolo::update::io::ledger::{Ledger, Records, Shared};
use tombolo::update::io::root::Boot;
use tombolo::update::io::watch::{self, End, Surroundings};
use tombolo::update::version::Scheme;

use crate::disk::{Chance, Disk};

/// A gateway that was given version 2, and ran 1 before.
struct Gateway {
    records: Records<Disk>,
    floor: RefCell<Option<String>>,
    unwritten: RefCell<Vec<String>>,
    running: RefCell<String>,
    /// What runs after the next boot.
    next: RefCell<Option<String>>,
    at_boot: bool,
    boot: Cell<u32>,
    ready: Cell<u32>,
    /// What installs has no way back.
    is_final: Cell<bool>,
}

impl Ledger for Gateway {
    fn installation(&self) -> Result<Option<Installation>, String> {
        self.records.installation()
    }

    fn history(&self) -> Result<History, String> {
        self.records.history()
    }

    fn write(&self, record: &Installation) -> Result<(), String> {
        self.records.write(record)
    }

    fn change(&self, act: &dyn Fn(&mut History)) -> Result<(), String> {
        self.records.change(act)
    }

    fn raise(&self, version: &str, _: &str) -> Result<(), String> {
        if self.records.files.is_off() {
            return Err("off".to_owned());
        }
        *self.floor.borrow_mut() = Some(version.to_owned());
        Ok(())
    }

    fn share(&self) -> Result<Option<Shared>, String> {
        Ok(None)
    }

    fn keep(&self, written: Result<(), String>) -> bool {
        let is_written = written.is_ok();
        self.unwritten.borrow_mut().extend(written.err());
        is_written
    }
}

impl Backend for Gateway {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn install(&self, _: &Wanted, _: &mut dyn FnMut(u8)) -> Result<Effect, String> {
        Err("nobody asks for it here".to_owned())
    }

    fn mark_good(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn roll_back(&self, from: &str, to: Option<&str>) -> Result<Effect, String> {
        if self.records.files.is_off() {
            return Err("the program was killed before".to_owned());
        }
        assert_eq!((from, to), ("2", Some("1")));
        if self.is_final.get() {
            return Err("it was committed".to_owned());
        }
        match self.at_boot {
            true => {
                *self.next.borrow_mut() = Some("1".to_owned());
                Ok(Effect::AtBoot)
            }
            false => {
                *self.running.borrow_mut() = "1".to_owned();
                Ok(Effect::Now)
            }
        }
    }

    fn running(&self) -> Option<String> {
        Some(self.running.borrow().clone())
    }
}

impl Gateway {
    fn new(at_boot: bool, phase: Phase) -> Gateway {
        let gateway = Gateway {
            records: Records { files: Disk::default(), shown: PathBuf::from("/root's") },
            floor: RefCell::default(),
            unwritten: RefCell::default(),
            running: RefCell::new("2".to_owned()),
            next: RefCell::default(),
            at_boot,
            boot: Cell::new(1),
            ready: Cell::new(0),
            is_final: Cell::new(false),
        };
        let mut record = Installation::begin("2", Scheme::Semver, Some("1".to_owned()), "exec");
        record.attempt = "attempt".to_owned();
        record.enter(phase, gateway.boot().id, None);
        gateway.write(&record).unwrap();
        gateway
    }

    fn disk(&self) -> &Disk {
        &self.records.files
    }

    fn boot(&self) -> Boot {
        Boot { id: Some(format!("boot-{}", self.boot.get())), seconds: 0 }
    }

    fn reboot(&self) {
        self.boot.set(self.boot.get() + 1);
        if let Some(next) = self.next.borrow_mut().take() {
            *self.running.borrow_mut() = next;
        }
    }

    /// One whose version before was connected; it was installed for the `attempt`th time.
    fn that_was_connected(at_boot: bool, attempt: usize) -> Gateway {
        let gateway = Gateway::new(at_boot, Phase::Judging);
        gateway.install_again(attempt);
        gateway
    }

    fn install_again(&self, attempt: usize) {
        let mut record = Installation::begin("2", Scheme::Semver, Some("1".to_owned()), "exec");
        (record.attempt, record.was_connected) = (format!("attempt {attempt}"), true);
        record.enter(Phase::Judging, self.boot().id, None);
        self.write(&record).unwrap();
        *self.running.borrow_mut() = "2".to_owned();
        *self.next.borrow_mut() = None;
    }

    /// `tombolo health --wait`, whose time is over at once.
    fn health(&self, works: bool) -> Option<End> {
        self.health_with(works, true)
    }

    fn health_with(&self, works: bool, is_connected: bool) -> Option<End> {
        let answer = Answered { works: true, has_broker: true, is_connected, ..Answered::default() };
        self.health_of(works.then_some(answer))
    }

    fn health_of(&self, answer: Option<Answered>) -> Option<End> {
        let mut around = Surroundings {
            ask: &mut || answer,
            restarts: &mut || 0,
            works: &mut || self.ready.set(self.ready.get() + 1),
            at: &|| None,
            steady: Duration::ZERO,
            timeout: Duration::ZERO,
        };
        watch::watch(self, self, &self.boot(), &mut around).unwrap()
    }

    fn count(&self, what: What) -> usize {
        self.history().unwrap().events.iter().filter(|event| event.what == what).count()
    }

    /// What must be in the end of a version that does not work.
    fn is_back(&self, told: &str) {
        let record = self.installation().unwrap().unwrap();
        assert_eq!((self.running().as_deref(), record.phase), (Some("1"), Phase::Failed), "{told}");
        assert_eq!(self.count(What::FailedItself), 1, "{told}: {:?}", self.history());
        assert!(self.history().unwrap().denied.is_empty(), "{told}");
    }
}

/// Ends what was begun before: the program is killed, or the power is cut.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Killed,
    Cut(u64),
}

fn stops() -> impl Iterator<Item = Stop> {
    std::iter::once(Stop::Killed).chain((0..12).map(Stop::Cut))
}

impl Gateway {
    fn go_on_after(&self, stop: Stop) {
        match stop {
            Stop::Killed => self.disk().outlive(),
            Stop::Cut(seed) => {
                self.disk().revive(&mut Chance(SplitMix64::new(seed)));
                self.reboot();
            }
        }
    }
}

#[test]
fn a_version_that_does_not_work_is_taken_back_and_counted_once_whatever_is_killed() {
    for at_boot in [false, true] {
        for stop in stops() {
            let mut calls = 0;
            loop {
                calls += 1;
                let told = format!("at boot: {at_boot}, {stop:?} at {calls}");
                let gateway = Gateway::new(at_boot, Phase::Judging);
                gateway.disk().cut_at(calls);
                gateway.health(false);
                if !gateway.disk().is_off() {
                    break;
                }
                gateway.go_on_after(stop);
                for _ in 0..2 {
                    gateway.health(false);
                }
                gateway.reboot();
                gateway.health(false);
                gateway.is_back(&told);
            }
            assert!(calls > 12, "{calls}");
        }
    }
}

#[test]
fn a_version_that_works_is_confirmed_once_whatever_is_killed() {
    for stop in stops() {
        let mut calls = 0;
        loop {
            calls += 1;
            let gateway = Gateway::new(false, Phase::Judging);
            gateway.disk().cut_at(calls);
            gateway.health(true);
            if !gateway.disk().is_off() {
                break;
            }
            gateway.go_on_after(stop);
            gateway.health(true);
            let record = gateway.installation().unwrap().unwrap();
            assert_eq!(record.phase, Phase::Confirmed, "{stop:?} at {calls}");
            assert_eq!(gateway.floor.borrow().as_deref(), Some("2"));
            assert_eq!(gateway.count(What::Confirmed), 1, "{stop:?} at {calls}");
            assert_eq!(gateway.running().as_deref(), Some("2"));
        }
        assert!(calls > 6, "{calls}");
    }
}

type Break = fn(&Disk, usize);
const BREAKS: [(&str, Break); 2] = [
    ("full at", |disk, call| disk.fail_at(call)),
    ("read-only from", |disk, call| disk.read_only_from(call)),
];

#[test]
fn a_version_whose_floor_rose_is_never_taken_back_whatever_was_killed_meanwhile() {
    for stop in stops() {
        let (mut calls, mut raised) = (0, 0);
        loop {
            calls += 1;
            let told = format!("{stop:?} at {calls}");
            let gateway = Gateway::that_was_connected(false, 1);
            gateway.disk().cut_at(calls);
            gateway.health(true);
            if !gateway.disk().is_off() {
                break;
            }
            gateway.go_on_after(stop);
            if gateway.floor.borrow().is_none() {
                continue;
            }
            raised += 1;
            // From now on it does not work, or the broker is away.
            gateway.health_with(false, false);
            gateway.health_with(true, false);
            let record = gateway.installation().unwrap().unwrap();
            assert_eq!((gateway.running().as_deref(), record.phase), (Some("2"), Phase::Confirmed), "{told}");
            assert_eq!(gateway.count(What::Confirmed), 1, "{told}");
            assert_eq!((gateway.count(What::FailedItself), gateway.count(What::FailedToConnect)), (0, 0));
        }
        assert!(raised >= 12, "{raised}");
    }
}

#[test]
fn an_outage_denies_no_version_whatever_cannot_be_written() {
    for (how, breaks) in BREAKS {
        for at_boot in [false, true] {
            for call in 1..=20 {
                let told = format!("{how} {call}, at boot: {at_boot}");
                let gateway = Gateway::that_was_connected(at_boot, 0);
                for attempt in 1..=3 {
                    gateway.install_again(attempt);
                    gateway.disk().cut_at(usize::MAX);
                    breaks(gateway.disk(), call);
                    let end = gateway.health_with(true, false);
                    assert!(matches!(end, Some(End::RolledBack { .. } | End::Pending(_))), "{told}: {end:?}");
                    gateway.disk().calm();
                    gateway.reboot();
                    gateway.health_with(true, false);
                    gateway.reboot();
                    gateway.health_with(true, false);
                    assert_eq!(gateway.count(What::FailedItself), 0, "{told}: {:?}", gateway.history());
                }
                assert!(gateway.history().unwrap().denied.is_empty(), "{told}");
            }
        }
    }
}

#[test]
fn a_version_that_works_and_has_no_way_back_waits_for_the_broker_and_is_confirmed_then() {
    let gateway = Gateway::that_was_connected(true, 1);
    gateway.is_final.set(true);
    assert_eq!(gateway.health_with(true, false), Some(End::Pending("2".to_owned())));
    let record = gateway.installation().unwrap().unwrap();
    assert_eq!(record.phase, Phase::Pending);
    assert!(record.cause.unwrap().contains("it was committed"));
    assert_eq!(gateway.health(true), Some(End::Confirmed("2".to_owned())));
    // One that does not work is stuck.
    let broken = Gateway::that_was_connected(true, 1);
    broken.is_final.set(true);
    assert!(matches!(broken.health(false), Some(End::Stuck(_))));
}

#[test]
fn a_version_whose_disk_refuses_readings_stays_is_not_marked_good_and_is_confirmed_once_they_are_taken() {
    for is_connected in [true, false] {
        let gateway = Gateway::that_was_connected(true, 1);
        let answer = Answered { works: true, has_broker: true, is_connected, ..Answered::default() };
        let full = Answered { refuses: true, ..answer };
        assert_eq!(gateway.health_of(Some(full)), Some(End::Withheld("2".to_owned())));
        let record = gateway.installation().unwrap().unwrap();
        assert_eq!((record.phase, record.is_good), (Phase::Pending, false));
        let cause = record.cause.unwrap();
        assert!(cause.contains("the disk takes no readings"), "{cause}");
        assert_eq!((gateway.ready.get(), gateway.count(What::FailedItself)), (0, 0));
        assert_eq!(gateway.running().as_deref(), Some("2"));
        let taken = Answered { is_connected: true, ..answer };
        assert_eq!(gateway.health_of(Some(taken)), Some(End::Confirmed("2".to_owned())));
        assert_eq!(gateway.ready.get(), 1);
    }
}

#[test]
fn a_boot_loader_that_goes_back_where_the_disk_refuses_readings_counts_no_failure_of_the_version() {
    let gateway = Gateway::that_was_connected(true, 1);
    for attempt in 1..=3 {
        gateway.install_again(attempt);
        let answer = Answered { works: true, has_broker: true, is_connected: true, ..Answered::default() };
        let full = Answered { refuses: true, ..answer };
        assert_eq!(gateway.health_of(Some(full)), Some(End::Withheld("2".to_owned())));
        gateway.reboot();
        *gateway.running.borrow_mut() = "1".to_owned();
        assert_eq!(gateway.health_of(Some(full)), None);
        let record = gateway.installation().unwrap().unwrap();
        assert_eq!(record.phase, Phase::Failed);
        let cause = record.cause.unwrap();
        assert!(cause.contains("the disk takes no readings"), "{cause}");
    }
    assert_eq!(gateway.count(What::FailedItself), 0, "{:?}", gateway.history());
    assert!(gateway.history().unwrap().denied.is_empty());
}

#[test]
fn no_reboot_is_ordered_again_and_again_where_that_cannot_be_written_and_the_same_slot_boots() {
    for (how, breaks) in BREAKS {
        for call in 1..=30 {
            let gateway = Gateway::new(true, Phase::Judging);
            gateway.disk().cut_at(usize::MAX);
            breaks(gateway.disk(), call);
            let (mut ordered, mut withheld) = (0, 0);
            for boot in 0..5 {
                match gateway.health(false) {
                    Some(End::RolledBack { effect: Effect::AtBoot, withheld: None, .. }) => {
                        ordered += 1;
                        assert!(gateway.installation().unwrap().unwrap().is_ordered, "{how} {call}");
                    }
                    Some(End::RolledBack { withheld: Some(_), .. }) => withheld += 1,
                    other => assert!(matches!(other, None | Some(End::Stuck(_))), "{how} {call}: {other:?}"),
                }
                // The boot loader starts the same one.
                *gateway.next.borrow_mut() = None;
                gateway.boot.set(boot + 2);
            }
            assert!(ordered <= 1, "{how} {call}: {ordered}");
            assert!(ordered + withheld > 0, "{how} {call}: nobody is told");
        }
    }
}

#[test]
fn on_a_full_or_read_only_disk_a_broken_version_is_taken_back_all_the_same() {
    for (how, breaks) in BREAKS {
        for at_boot in [false, true] {
            for call in 1..=18 {
                let told = format!("{how} {call}, at boot: {at_boot}");
                let gateway = Gateway::new(at_boot, Phase::Judging);
                // The first call of `cut_at` counts from 1.
                gateway.disk().cut_at(usize::MAX);
                breaks(gateway.disk(), call);
                let end = gateway.health(false);
                assert!(matches!(end, Some(End::RolledBack { .. })), "{told}: {end:?}");
                gateway.disk().calm();
                gateway.reboot();
                assert_eq!(gateway.running().as_deref(), Some("1"), "{told}");
                gateway.health(false);
                gateway.is_back(&told);
            }
        }
    }
}

#[test]
fn on_a_read_only_disk_a_version_that_works_is_told_ready_and_confirmed_once_it_can_be_written() {
    for call in 1..=8 {
        let gateway = Gateway::new(false, Phase::Installing);
        gateway.disk().cut_at(usize::MAX);
        gateway.disk().read_only_from(call);
        let end = gateway.health(true);
        assert!(matches!(end, Some(End::Unconfirmed { .. })), "{call}: {end:?}");
        assert_eq!(gateway.ready.get(), 1, "{call}");
        assert_eq!(gateway.running().as_deref(), Some("2"));
        gateway.disk().calm();
        assert_eq!(gateway.health(true), Some(End::Confirmed("2".to_owned())), "{call}");
        assert_eq!(gateway.count(What::Confirmed), 1);
    }
}

#[test]
fn a_way_back_that_was_killed_is_gone_on_with_by_whoever_looks_next() {
    // What installs was not called yet.
    let gateway = Gateway::new(false, Phase::Reverting);
    let end = gateway.health(true);
    assert!(matches!(end, Some(End::RolledBack { effect: Effect::Now, .. })), "{end:?}");
    gateway.is_back("before");
    // It was, and the record does not say so.
    let gateway = Gateway::new(false, Phase::Reverting);
    *gateway.running.borrow_mut() = "1".to_owned();
    assert_eq!(gateway.health(true), None);
    gateway.is_back("after");
}

#[test]
fn the_record_and_the_history_are_whole_after_each_write_and_rename_that_is_cut() {
    for stop in stops() {
        let mut calls = 0;
        loop {
            calls += 1;
            let gateway = Gateway::new(false, Phase::Judging);
            let mut record = gateway.installation().unwrap().unwrap();
            gateway.disk().cut_at(calls);
            record.because("the second");
            let written =
                gateway.record(&record, What::Pending, None, None).and_then(|()| gateway.write(&record));
            if !gateway.disk().is_off() {
                assert!(written.is_ok());
                break;
            }
            gateway.go_on_after(stop);
            let cause = gateway.installation().unwrap().unwrap().cause;
            assert!(cause.is_none_or(|cause| cause == "the second"), "{stop:?} at {calls}");
            assert!(gateway.count(What::Pending) <= 1, "{stop:?} at {calls}");
            // Nothing is left that is in the way of the next.
            gateway.record(&record, What::Pending, None, None).unwrap();
            gateway.write(&record).unwrap();
            assert_eq!(gateway.count(What::Pending), 1, "{stop:?} at {calls}");
        }
        assert_eq!(calls, 13, "twice a file and its copy: write, rename, sync");
    }
}
