//! The append log: what was committed is there, whole, in order; damage costs what is damaged.

use std::collections::BTreeMap;
use std::io;

use tombolo::durable::append_log::{AppendLog, LogFormat, LogReport, Place, Unread};
use tombolo::durable::frame::{Frame, FrameFormat, HEADER};
use tombolo::splitmix::SplitMix64;

use crate::files::{Files, cuts};
use tombolo_test_support::journal::disk::Cut;

const PUT: u8 = 1;
const GONE: u8 = 2;
const FORMAT: LogFormat = LogFormat {
    name: "box",
    frames: FrameFormat {
        magic: *b"TBTT",
        marker: *b"tbTf",
        major: 1,
        minor: 0,
        content_max: 4096,
        fits: |kind, length| match kind {
            PUT => length > 0,
            GONE => length == 0,
            _ => true,
        },
    },
    read_max: 8 << 20,
    size_max: 4 << 20,
    unread: Unread::Refuse,
};

/// A mailbox: what is put in stays until it is taken out.
struct Mailbox {
    log: AppendLog<Files>,
    live: BTreeMap<u64, Place>,
    report: LogReport,
}

fn message(number: u64) -> Vec<u8> {
    let length = 100 + (number as usize * 977) % 3_900;
    number.to_le_bytes().into_iter().cycle().take(length).collect()
}

impl Mailbox {
    fn open(files: &Files) -> io::Result<Mailbox> {
        Mailbox::open_as(files, FORMAT)
    }

    fn open_as(files: &Files, format: LogFormat) -> io::Result<Mailbox> {
        let mut live = BTreeMap::new();
        let (log, report) = AppendLog::open(files.clone(), format, |place, frame| match frame.kind {
            PUT => {
                assert_eq!(frame.content, message(frame.number), "a mixture");
                live.insert(frame.number, place);
            }
            GONE => {
                live.remove(&frame.number);
            }
            _ => {}
        })?;
        Ok(Mailbox { log, live, report })
    }

    fn numbers(&self) -> Vec<u64> {
        self.live.keys().copied().collect()
    }

    fn live_bytes(&self) -> u64 {
        self.live.values().map(|place| u64::from(place.size)).sum()
    }

    fn compact(&mut self) -> io::Result<()> {
        let places: Vec<(u64, Place)> = self.live.iter().map(|(number, place)| (*number, *place)).collect();
        let (written, durable) = self.log.compact(|snapshot| {
            let mut live = BTreeMap::new();
            for (number, place) in places {
                live.insert(number, snapshot.copy(place, number)??);
            }
            Ok(live)
        });
        self.live = written.unwrap_or(std::mem::take(&mut self.live));
        durable
    }

    /// Takes out `gone` and puts in `new`, in one commit.
    fn commit(&mut self, gone: &[u64], new: &[u64]) -> io::Result<()> {
        if self.log.wants_compaction(self.live_bytes()) {
            self.compact()?;
        }
        let mut frames = Vec::new();
        for number in gone {
            let frame = Frame { kind: GONE, number: *number, epoch: 0, content: &[] };
            FORMAT.frames.encode(&frame, &mut frames);
        }
        let mut places = Vec::new();
        for number in new {
            let content = message(*number);
            let frame = Frame { kind: PUT, number: *number, epoch: 0, content: &content };
            places.push((*number, Place { offset: frames.len() as u64, size: frame.size() as u32 }));
            FORMAT.frames.encode(&frame, &mut frames);
        }
        let start = self.log.append(&frames)?;
        for number in gone {
            self.live.remove(number);
        }
        let places = places
            .into_iter()
            .map(|(number, place)| (number, Place { offset: start + place.offset, ..place }));
        self.live.extend(places);
        Ok(())
    }
}

/// Puts in and takes out; returns what stood after the last commit that succeeded, and what was
/// tried after it.
fn live(files: &Files, rounds: u64) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    let (mut standing, mut gone, mut new) = (Vec::new(), Vec::new(), Vec::new());
    let Ok(mut mailbox) = Mailbox::open(files) else { return (standing, gone, new) };
    for round in 0..rounds {
        new = (round * 8 + 1..=round * 8 + 8).collect();
        gone = standing.iter().copied().take(if round > 2 { 7 } else { 0 }).collect();
        if mailbox.commit(&gone, &new).is_err() {
            return (standing, gone, new);
        }
        standing = mailbox.numbers();
        (gone, new) = (Vec::new(), Vec::new());
    }
    (standing, gone, new)
}

#[test]
fn a_power_cut_at_any_write_sync_or_rename_loses_nothing_committed_and_mixes_nothing() {
    const ROUNDS: u64 = 30;
    let whole = Files::default();
    live(&whole, ROUNDS);
    let operations = whole.0.operations();
    let mailbox = Mailbox::open(&whole).unwrap();
    assert!(operations > 60 && mailbox.log.bytes() < 400_000, "it was written anew on the way");
    for operation in 1..=operations {
        for cut in cuts(operation).take(6) {
            let files = Files::default();
            files.0.cut_at(operation);
            let (standing, gone, new) = live(&files, ROUNDS);
            assert!(files.0.is_off());
            let files = files.after_power_cut(cut);
            let mut mailbox = Mailbox::open(&files).unwrap();
            let found = mailbox.numbers();
            for number in standing.iter().filter(|number| !gone.contains(number)) {
                assert!(found.contains(number), "{operation} {cut:?}: {number} is lost");
            }
            for number in &found {
                let known = standing.contains(number) || new.contains(number);
                assert!(known, "{operation} {cut:?}: {number} is back, or invented");
            }
            // Life goes on, and is durable.
            mailbox.commit(&[], &[100_000]).unwrap();
            let mailbox = Mailbox::open(&files.after_power_cut(Cut::Nothing)).unwrap();
            assert_eq!(mailbox.numbers(), [&found[..], &[100_000]].concat());
            assert_eq!(mailbox.report, LogReport::default(), "what was torn is gone");
        }
    }
}

#[test]
fn an_operation_that_fails_costs_nothing_once_the_disk_works_again() {
    let whole = Files::default();
    live(&whole, 12);
    for operation in 1..=whole.0.operations() {
        let files = Files::default();
        files.0.fail_at(operation);
        let mut mailbox = Mailbox::open(&files).unwrap();
        let mut expected = Vec::new();
        for number in 1..=40 {
            // Tried again until it is there.
            while mailbox.commit(&[], &[number]).is_err() {}
            expected.push(number);
        }
        assert_eq!(mailbox.numbers(), expected);
        let mailbox = Mailbox::open(&files.after_power_cut(Cut::Nothing)).unwrap();
        assert_eq!(mailbox.numbers(), expected, "{operation}");
    }
}

#[test]
fn what_a_process_leaves_behind_a_failure_is_durable_once_the_next_has_committed() {
    const ROUNDS: u64 = 12;
    let whole = Files::default();
    live(&whole, ROUNDS);
    for operation in 1..=whole.0.operations() {
        for cut in cuts(operation).take(6) {
            let files = Files::default();
            files.0.fail_at(operation);
            live(&files, ROUNDS);
            // The next process believes what the page cache has.
            let mut mailbox = Mailbox::open(&files).unwrap();
            mailbox.commit(&[], &[100_000]).unwrap();
            let relied_on = mailbox.numbers();
            let mailbox = Mailbox::open(&files.after_power_cut(cut)).unwrap();
            assert_eq!(mailbox.numbers(), relied_on, "{operation} {cut:?}");
        }
    }
}

#[test]
fn behind_a_damaged_frame_the_next_is_found() {
    let files = Files::default();
    let mut mailbox = Mailbox::open(&files).unwrap();
    (1..=6).for_each(|number| mailbox.commit(&[], &[number]).unwrap());
    let place = mailbox.live[&3];
    let image = files.content("box").unwrap();
    for at in (place.offset..place.offset + u64::from(place.size)).step_by(61) {
        let files = Files::default();
        files.put("box", 0, &image);
        files.flip("box", 8 * at as usize);
        let mut mailbox = Mailbox::open(&files).unwrap();
        assert_eq!(mailbox.numbers(), [1, 2, 4, 5, 6], "{at}");
        // Zeros at its end cannot be told from those behind the last frame.
        let size = u64::from(place.size);
        assert!((size - 7..=size).contains(&mailbox.report.damaged), "{at}: {:?}", mailbox.report);
        assert_eq!(files.0.second_looks(), 1);
        assert!(!mailbox.log.is_sound());
        mailbox.commit(&[], &[7]).unwrap();
        let mailbox = Mailbox::open(&files).unwrap();
        assert_eq!((mailbox.numbers(), mailbox.report.damaged), (vec![1, 2, 4, 5, 6, 7], 0));
    }
}

#[test]
fn what_looks_damaged_is_read_a_second_time_before_that_is_believed() {
    let files = Files::default();
    live(&files, 3);
    let before = Mailbox::open(&files).unwrap().numbers();
    for offset in [2, 600] {
        files.lie_once("box", offset, b"another");
        let mailbox = Mailbox::open(&files).unwrap();
        assert_eq!((mailbox.numbers(), mailbox.report.damaged), (before.clone(), 0));
    }
    assert_eq!((files.0.second_looks(), files.names()), (2, vec!["box".to_owned()]));
}

#[test]
fn what_cannot_be_read_is_no_damage_and_is_refused_or_left_out_as_the_owner_says() {
    let files = Files::default();
    let mut mailbox = Mailbox::open(&files).unwrap();
    (1..=100).for_each(|number| mailbox.commit(&[], &[number]).unwrap());
    let before = files.content("box").unwrap();
    files.make_unreadable("box", 70_000);
    let refused = Mailbox::open(&files).err().expect("it may be readable later");
    assert_eq!(refused.raw_os_error(), Some(5), "{refused}");
    assert_eq!((files.content("box").unwrap(), files.names()), (before.clone(), vec!["box".to_owned()]));

    let lossy = LogFormat { unread: Unread::LeaveOut, ..FORMAT };
    let mailbox = Mailbox::open_as(&files, lossy).unwrap();
    assert!(
        (60..100).contains(&mailbox.live.len()) && mailbox.report.unread == 65_536,
        "{:?}",
        mailbox.report
    );
    // The first block says what the file is: that is never guessed.
    files.make_unreadable("box", 0);
    assert!(Mailbox::open_as(&files, lossy).is_err());
    files.0.heal();
    assert_eq!(Mailbox::open(&files).unwrap().live.len(), 100);
    assert_eq!(files.content("box").unwrap(), before);
}

#[test]
fn one_that_becomes_unreadable_stops_the_compaction_and_the_log_stays() {
    let files = Files::default();
    let mut mailbox = Mailbox::open(&files).unwrap();
    (1..=50).for_each(|number| mailbox.commit(&[], &[number]).unwrap());
    let place = mailbox.live[&20];
    files.make_unreadable("box", place.offset as usize);
    assert_eq!(mailbox.log.read(place, 20).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(mailbox.compact().unwrap_err().raw_os_error(), Some(5));
    assert_eq!(files.names(), ["box"]);
    files.0.heal();
    mailbox.compact().unwrap();
    assert_eq!(Mailbox::open(&files).unwrap().live.len(), 50);
    assert_eq!(mailbox.log.read(mailbox.live[&20], 20).unwrap(), Some(message(20)));
    assert_eq!(mailbox.log.read(mailbox.live[&20], 21).unwrap(), None);
}

#[test]
fn its_size_is_bounded_and_a_full_log_takes_more_once_something_is_taken_out() {
    let files = Files::default();
    let mut mailbox = Mailbox::open(&files).unwrap();
    let mut number = 0;
    let error = loop {
        number += 1;
        if let Err(error) = mailbox.commit(&[], &[number]) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(mailbox.log.is_sound() && mailbox.log.bytes() <= FORMAT.size_max);
    assert_eq!(Mailbox::open(&files).unwrap().numbers(), (1..number).collect::<Vec<_>>());
    assert!(mailbox.commit(&[], &[number]).is_err(), "it is as full as before");
    (1..=4).for_each(|gone| assert!(mailbox.live.remove(&gone).is_some()));
    mailbox.compact().unwrap();
    mailbox.commit(&[], &[number]).unwrap();
    assert_eq!(Mailbox::open(&files).unwrap().numbers(), (5..=number).collect::<Vec<_>>());
}

#[test]
fn a_log_of_another_version_is_moved_aside_and_one_with_a_damaged_beginning_too() {
    let files = Files::default();
    live(&files, 2);
    let mut other = files.content("box").unwrap();
    other[..HEADER].copy_from_slice(&FrameFormat { major: 9, ..FORMAT.frames }.header());
    files.put("box", 0, &other);
    let mut mailbox = Mailbox::open(&files).unwrap();
    assert_eq!(mailbox.report.moved_aside, Some((9, "box.unknown-1".to_owned())));
    mailbox.commit(&[], &[1]).unwrap();
    assert_eq!(files.content("box.unknown-1"), Some(other));
    files.flip("box", 3);
    let damaged = files.content("box").unwrap();
    let mailbox = Mailbox::open(&files).unwrap();
    assert_eq!((mailbox.report.damaged, mailbox.live.len()), (damaged.len() as u64, 0));
    assert_eq!(files.content("box.damaged"), Some(damaged));
}

#[test]
fn any_bytes_are_read_without_a_panic_and_life_goes_on() {
    let mut random = SplitMix64::new(3);
    for round in 0..200u64 {
        let files = Files::default();
        live(&files, 3);
        let length = files.content("box").unwrap().len();
        for _ in 0..1 + round % 9 {
            let at = random.next_u64() as usize % length;
            let marker = if round % 2 == 0 { *b"tbTf" } else { [0xff; 4] };
            files.put("box", at, &marker);
        }
        if round % 5 == 0 {
            files.truncate("box", random.next_u64() as usize % length);
        }
        // The content of each is checked as it is opened.
        let mut mailbox = Mailbox::open(&files).unwrap();
        mailbox.commit(&[], &[77_777]).unwrap();
        assert!(Mailbox::open(&files).unwrap().live.contains_key(&77_777));
    }
}
