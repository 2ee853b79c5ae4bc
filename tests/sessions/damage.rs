//! Whatever is in the files: what is whole is read, the rest is left out, and the store goes on.

use tombolo::session_store::frame::{Frame, Kind};
use tombolo::session_store::storage::Storage as _;
use tombolo::splitmix::SplitMix64;

use tombolo_test_support::session_store::harness::{Fake, Model, Rig};

fn with_sessions(count: usize) -> Rig {
    let mut rig = Rig::new();
    for _ in 0..count {
        rig.establish(250);
        rig.commit().unwrap();
    }
    rig
}

#[test]
fn a_flipped_bit_in_each_byte_costs_at_most_its_session() {
    let rig = with_sessions(4);
    let image = rig.disk.content("log").unwrap();
    let told = rig.model.told.clone();
    // The header's unused last bytes, and the zeros at the end, are not covered.
    for bit in (0..16 + 24 + 4 * 274).map(|byte| byte * 8 + byte % 8) {
        let disk = Fake::default();
        disk.put("log", &image);
        disk.flip(bit);
        let mut rig = Rig::on(disk, Model { told: told.clone(), ..Model::default() });
        match bit / 8 {
            0..12 => {
                assert_eq!(rig.kept, []);
                assert!(rig.report.damaged > 0 && rig.disk.content("log.damaged").is_some());
            }
            12..16 => assert_eq!(rig.kept.len(), 4),
            16..40 => assert_eq!((rig.kept.len(), rig.report.damaged), (4, 24), "a run"),
            // Zeros at the end of a session cannot be told from those behind it.
            _ => assert!(rig.kept.len() == 3 && (270..=274).contains(&rig.report.damaged)),
        }
        let number = rig.establish(10);
        rig.commit().unwrap();
        let rig = rig.reopened();
        assert!(rig.kept.iter().any(|kept| kept.number == number));
        assert_eq!(rig.report.damaged, 0, "it was written anew without the damage");
    }
}

#[test]
fn each_torn_tail_costs_what_is_torn() {
    let rig = with_sessions(3);
    let image = rig.disk.content("log").unwrap();
    for length in 0..=image.len().min(16 + 24 + 3 * 274 + 5) {
        let disk = Fake::default();
        disk.put("log", &image);
        disk.truncate(length);
        let rig = Rig::on(disk, Model { told: rig.model.told.clone(), ..Model::default() });
        assert_eq!(rig.kept.len(), length.saturating_sub(40) / 274, "{length}");
    }
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let mut rig = with_sessions(1_000);
    rig.disk.make_unreadable(70_000);
    rig.model.committed.clear();
    let rig = rig.reopened();
    // What is read at once is lost together: 64 KiB.
    assert!((700..1_000).contains(&rig.kept.len()), "{}", rig.kept.len());
    let rig = rig.reopened();
    assert_eq!(rig.report.damaged, 0);
}

#[test]
fn rubbish_is_no_log_and_hurts_nobody() {
    let mut random = SplitMix64::new(5);
    for round in 0..300 {
        let length = random.below(20_000) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        if round % 2 == 0 {
            // Behind a good header, with markers strewn in.
            let rig = with_sessions(2);
            let mut image = rig.disk.content("log").unwrap();
            image.truncate(600);
            for at in (0..bytes.len().saturating_sub(4)).step_by(97) {
                bytes[at..at + 4].copy_from_slice(b"tbSf");
            }
            image.extend(&bytes);
            bytes = image;
        }
        let disk = Fake::default();
        disk.put("log", &bytes);
        let told = with_sessions(2).model.told;
        let mut rig = Rig::on(disk, Model { told, ..Model::default() });
        assert_eq!(rig.kept.len(), if round % 2 == 0 { 2 } else { 0 });
        rig.establish(100);
        rig.commit().unwrap();
    }
}

#[test]
fn a_log_of_another_major_version_is_moved_aside() {
    let mut other = with_sessions(1).disk.content("log").unwrap();
    other[4] = 9;
    let crc = crc32c::crc32c(&other[..8]).to_le_bytes();
    other[8..12].copy_from_slice(&crc);
    let disk = Fake::default();
    for n in 1..=2 {
        disk.put("log", &other);
        let mut rig = Rig::on(disk.clone(), Model::default());
        let name = format!("log.unknown-{n}");
        assert_eq!((rig.kept.len(), &rig.report.moved_aside), (0, &Some((9, name.clone()))));
        rig.establish(50);
        rig.commit().unwrap();
        assert_eq!(disk.content(&name), Some(other.clone()));
        let left = rig.reopened();
        assert_eq!(left.kept.len(), 1);
        // Space for the next.
        disk.remove("log").unwrap();
    }
}

#[test]
fn a_log_of_a_later_minor_version_is_read() {
    let rig = with_sessions(2);
    let mut image = rig.disk.content("log").unwrap();
    image[5] = 7;
    let crc = crc32c::crc32c(&image[..8]).to_le_bytes();
    image[8..12].copy_from_slice(&crc);
    // With a frame of a kind not known yet between.
    let mut later = Vec::new();
    Frame { kind: Kind::Unknown(200), number: 1, run: 1, content: b"later" }.encode(&mut later);
    image.splice(40..40, later);
    let disk = Fake::default();
    disk.put("log", &image);
    let rig = Rig::on(disk, Model { told: rig.model.told, ..Model::default() });
    assert_eq!((rig.kept.len(), rig.report.damaged), (2, 0));
}

#[test]
fn the_log_stays_small_and_what_is_written_bounded() {
    let mut rig = Rig::new();
    let mut standing = std::collections::VecDeque::new();
    const STANDING: usize = 300;
    // Each device handshakes ten times.
    for _ in 0..10 * STANDING {
        if standing.len() == STANDING {
            rig.end(standing.pop_front().unwrap());
        }
        standing.push_back(rig.establish(250));
        rig.commit().unwrap();
        assert!(rig.log.bytes() < 1 << 20, "{}", rig.log.bytes());
    }
    let each = rig.log.bytes_written() as usize / (10 * STANDING);
    assert!(each < 1_100, "{each} bytes a handshake");
    assert_eq!(rig.reopened().kept.len(), STANDING);
}

#[test]
fn many_at_once_are_written_once() {
    let mut rig = Rig::new();
    for _ in 0..10_000 {
        rig.establish(250);
    }
    rig.commit().unwrap();
    let written = rig.log.bytes_written();
    assert!(written < 10_000 * 274 + 3 * 65_536, "{written}");
}
