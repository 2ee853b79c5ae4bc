//! The reading position of a lane, moved backwards and forwards, and the complete reading of the
//! rejected store.

use std::time::Duration;

use tombolo::journal::settings::{LaneSettings, Settings, WhenFull};
use tombolo::journal::{Journal, Next};
use tombolo::message::Lane;
use tombolo::splitmix::SplitMix64;

use crate::real::append;
use tombolo_test_support::journal::harness::payload;

/// A journal in a directory of its own, with so many records in its normal lane, over several
/// segments.
fn journal(name: &str, records: u64) -> (tokio::runtime::Runtime, Journal, std::path::PathBuf) {
    let directory = std::env::temp_dir().join(format!("tombolo-journal-{name}-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&directory));
    let lane = LaneSettings { max_bytes: 2 << 20, when_full: WhenFull::Refuse, device_share: 100 };
    let settings = Settings {
        directory: directory.join("journal"),
        max_bytes: 8 << 20,
        commit_interval: Duration::from_millis(1),
        segment_bytes: 128 << 10,
        lanes: [lane; 2],
        rejected_max_bytes: 1 << 20,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (mut journal, _) = Journal::open(&settings).unwrap();
    let mut done = 0;
    for number in 1..=records {
        append(&mut journal, Lane::Normal, &payload(number, 200), 1).unwrap();
        while journal.poll_completion().is_some_and(|completion| completion.result.is_ok()) {
            done += 1;
        }
    }
    while done < records {
        runtime.block_on(journal.wake());
        while journal.poll_completion().is_some_and(|completion| completion.result.is_ok()) {
            done += 1;
        }
    }
    (runtime, journal, directory)
}

fn next(runtime: &tokio::runtime::Runtime, journal: &mut Journal) -> Option<u64> {
    loop {
        match journal.next(Lane::Normal) {
            Next::Record(stored) => {
                assert_eq!(stored.content.payload, payload(stored.sequence, 200), "{}", stored.sequence);
                return Some(stored.sequence);
            }
            Next::Empty => return None,
            Next::Pending => {
                runtime.block_on(async {
                    let wake = tokio::time::timeout(Duration::from_secs(10), journal.wake());
                    wake.await.expect("what is being read comes");
                });
            }
        }
    }
}

#[test]
fn reading_goes_to_any_record_handed_out_and_on_from_there() {
    let (runtime, mut journal, directory) = journal("seek", 2000);
    assert_eq!(journal.newest(Lane::Normal), 2000);
    for sequence in 1..=2000 {
        assert_eq!(next(&runtime, &mut journal), Some(sequence));
    }
    assert_eq!(next(&runtime, &mut journal), None);
    let mut random = SplitMix64::new(7);
    for _ in 0..200 {
        let sequence = 1 + random.below(2000);
        journal.seek(Lane::Normal, sequence);
        for sequence in sequence..(sequence + 3).min(2001) {
            assert_eq!(next(&runtime, &mut journal), Some(sequence));
        }
    }
    // Behind the newest there is nothing, until there is.
    journal.seek(Lane::Normal, 2001);
    assert_eq!(next(&runtime, &mut journal), None);
    append(&mut journal, Lane::Normal, &payload(2001, 200), 1).unwrap();
    runtime.block_on(async {
        while journal.poll_completion().is_none() {
            journal.wake().await;
        }
    });
    assert_eq!(next(&runtime, &mut journal), Some(2001));
    // What has left is passed over.
    journal.release(Lane::Normal, 1500);
    journal.seek(Lane::Normal, 3);
    assert_eq!(next(&runtime, &mut journal), Some(1501));
    drop(journal);
    drop(std::fs::remove_dir_all(directory));
}

#[test]
fn rejected_records_are_exported_whole_page_by_page() {
    let (runtime, mut journal, directory) = journal("export", 50);
    for _ in 0..50 {
        next(&runtime, &mut journal);
    }
    for sequence in 1..=40 {
        journal.reject(Lane::Normal, sequence, 0x83).unwrap();
    }
    let rejected = journal.rejected();
    runtime.block_on(async {
        while rejected.list(0, 100).await.records.len() < 40 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (mut after, mut pages, mut seen) = (0, 0, 0);
        loop {
            let page = rejected.export(after, 3000).await;
            let Some(last) = page.last else { break };
            (after, pages) = (last, pages + 1);
            assert_eq!(page.unreadable, 0);
            for whole in &page.records {
                seen += 1;
                assert_eq!(whole.payload, payload(seen, 200));
                assert_eq!((whole.record.entry.id.sequence, whole.record.original), (seen, None));
            }
        }
        assert_eq!(seen, 40);
        assert!(pages >= 8, "{pages}");
    });
    drop(journal);
    drop(std::fs::remove_dir_all(directory));
}
