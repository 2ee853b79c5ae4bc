//! The image: continued where it was interrupted, bounded, and never other than it was signed,
//! whatever the server, the power and the disk do.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tombolo::clock::UnixTime;
use tombolo::https::io::stream::Pace;
use tombolo::https::url::HttpsUrl;
use tombolo::update::eligibility::Decision;
use tombolo::update::image::{IMAGE, PART};
use tombolo::update::io::download::{Job, NoImage, Surroundings, clear, download};
use tombolo::update::offer::Offer;
use tombolo_test_support::journal::disk::Cut;

use crate::files::{Files, cuts};
use crate::gateway::{Gateway, NOW, server};

const SIZE: u64 = 200_000;
const FILE: &str = "gateway-3.0.0.bin";

fn offer() -> Offer {
    match Gateway::new().check("large") {
        Ok(Decision::Available(offer)) => *offer,
        other => panic!("{other:?}"),
    }
}

fn content() -> Vec<u8> {
    let mut content = b"firmware 3.0.0".to_vec();
    content.resize(SIZE as usize, b'.');
    content
}

/// A download by `fault` of the server; `""`: none.
fn job(fault: &str) -> Job {
    let offer = offer();
    let repository = if fault.is_empty() { "large".to_owned() } else { format!("large:{fault}:{FILE}") };
    let url = format!("https://127.0.0.1:{}/{repository}/targets/{}", server().port(), offer.path());
    Job {
        url: HttpsUrl::parse(&url).unwrap(),
        client: Gateway::new().client(),
        offer,
        pace: Pace::SLOWEST,
        daily_budget: None,
        reserve: 0,
        sync_every: 32 * 1024,
    }
}

/// What there is beside files and network.
struct Around {
    free: Cell<Option<u64>>,
    now: Cell<UnixTime>,
    most: Cell<u64>,
    stop: AtomicBool,
}

impl Default for Around {
    fn default() -> Around {
        Around {
            free: Cell::new(None),
            now: Cell::new(NOW),
            most: Cell::new(0),
            stop: AtomicBool::new(false),
        }
    }
}

impl Around {
    fn fetch(&self, files: &Files, job: &Job) -> Result<(), NoImage> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let surroundings = Surroundings {
            storage: || files.clone(),
            free: &|| self.free.get(),
            now: &|| self.now.get(),
            progress: &|have| self.most.set(self.most.get().max(have)),
            stop: &self.stop,
        };
        runtime.block_on(download(job, &surroundings))
    }
}

fn fetch(files: &Files, job: &Job) -> Result<(), NoImage> {
    Around::default().fetch(files, job)
}

#[track_caller]
fn is_here(files: &Files) {
    assert_eq!(files.content(IMAGE), Some(content()));
    assert_eq!(files.content(PART), None);
}

#[test]
fn an_image_is_fetched_once_and_taken_as_it_is_the_next_time() {
    let (files, around) = (Files::default(), Around::default());
    let mut job = job("");
    assert_eq!(around.fetch(&files, &job), Ok(()));
    is_here(&files);
    assert_eq!(around.most.get(), SIZE);
    job.url = HttpsUrl::parse("https://127.0.0.1:9/").unwrap();
    assert_eq!(fetch(&files, &job), Ok(()), "nothing is asked for");
    files.flip(IMAGE, 8 * 1000);
    assert!(fetch(&files, &job).is_err(), "a damaged image is none");
    assert_eq!(files.content(IMAGE), None);
}

#[test]
fn a_download_that_was_interrupted_is_continued() {
    let files = Files::default();
    let half = job("half");
    let fault = fetch(&files, &half);
    assert!(matches!(&fault, Err(NoImage::Interrupted(_))), "{fault:?}");
    assert_eq!(files.content(PART).map(|part| part.len() as u64), Some(SIZE / 2));
    // That server gives only the rest.
    assert_eq!(fetch(&files, &half), Ok(()));
    is_here(&files);
}

#[test]
fn a_file_that_changed_on_the_server_is_begun_anew_and_not_glued_together() {
    let files = Files::default();
    let changed = job("changed");
    assert!(matches!(fetch(&files, &changed), Err(NoImage::Interrupted(_))));
    assert_eq!(fetch(&files, &changed), Ok(()));
    is_here(&files);
}

#[test]
fn other_bytes_than_were_signed_leave_nothing() {
    let files = Files::default();
    assert_eq!(fetch(&files, &job("other")), Err(NoImage::WrongBytes));
    assert_eq!((files.content(IMAGE), files.content(PART)), (None, None));
    assert_eq!(fetch(&files, &job("")), Ok(()));
}

#[test]
fn another_length_a_redirect_and_a_packed_body_are_refused_before_the_image_is_whole() {
    for (fault, why) in [
        ("longer", "more bytes than the signed length"),
        ("shorter", "the signed metadata says 200000"),
        ("announced", "the server offers 104857600 bytes"),
        ("endless", "more bytes than the signed length"),
        ("plain", "redirects are not followed"),
        ("elsewhere", "redirects are not followed"),
        ("gzip", "compressed"),
    ] {
        let files = Files::default();
        match fetch(&files, &job(fault)) {
            Err(NoImage::Refused(sentence)) if sentence.contains(why) => {}
            other => panic!("{fault}: {other:?}"),
        }
        assert_eq!(files.content(IMAGE), None, "{fault}");
        assert!(files.content(PART).is_none_or(|part| part.len() as u64 <= SIZE), "{fault}");
    }
}

#[test]
fn a_server_that_fails_drips_or_is_silent_interrupts_it() {
    let mut slow = job("drip");
    slow.pace = Pace { bytes: 1_000, within: Duration::from_millis(300) };
    let mut silent = job("silent");
    silent.client = Gateway::with_patience(Duration::from_secs(60), Duration::from_millis(300)).client();
    for job in [job("broken"), slow, silent] {
        let fault = fetch(&Files::default(), &job);
        assert!(matches!(fault, Err(NoImage::Interrupted(_))), "{fault:?}");
    }
}

#[test]
fn an_image_that_leaves_the_journal_no_room_is_not_begun() {
    let (files, around) = (Files::default(), Around::default());
    let mut job = job("");
    job.reserve = 1_000;
    around.free.set(Some(SIZE + 999));
    assert!(matches!(around.fetch(&files, &job), Err(NoImage::NoRoom(_))));
    assert_eq!(files.content(PART), None);
    around.free.set(Some(SIZE + 1_000));
    assert_eq!(around.fetch(&files, &job), Ok(()));
}

#[test]
fn a_disk_that_fills_meanwhile_is_given_back_what_the_part_took() {
    let files = Files::default();
    let around = Around::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = Cell::new(0);
    let surroundings = Surroundings {
        storage: || files.clone(),
        // Enough at the start, none later.
        free: &|| Some(if asked.replace(asked.get() + 1) == 0 { SIZE } else { 0 }),
        now: &|| NOW,
        progress: &|_| {},
        stop: &around.stop,
    };
    let fault = runtime.block_on(download(&job(""), &surroundings));
    assert!(matches!(fault, Err(NoImage::NoRoom(_))), "{fault:?}");
    assert_eq!((files.content(IMAGE), files.content(PART)), (None, None));
    assert_eq!(fetch(&files, &job("")), Ok(()));
}

#[test]
fn the_day_s_bytes_bound_it_and_it_goes_on_the_next_day() {
    let (files, around) = (Files::default(), Around::default());
    let mut job = job("");
    job.daily_budget = Some(80_000);
    for day in 0..2 {
        around.now.set(UnixTime::from_secs(NOW.as_secs() + day * 86_400));
        assert_eq!(around.fetch(&files, &job), Err(NoImage::BudgetSpent), "{day}");
        assert_eq!(around.fetch(&files, &job), Err(NoImage::BudgetSpent), "{day}: also after a restart");
        assert!(around.most.get() <= (day + 1) * 80_000);
    }
    around.now.set(UnixTime::from_secs(NOW.as_secs() + 2 * 86_400));
    // What a piece was too long for may be left.
    let last = around.fetch(&files, &job);
    around.now.set(UnixTime::from_secs(NOW.as_secs() + 3 * 86_400));
    assert!(last.is_ok() || around.fetch(&files, &job).is_ok());
    is_here(&files);
}

#[test]
fn another_image_takes_the_place_of_the_one_before() {
    let files = Files::default();
    assert_eq!(fetch(&files, &job("")), Ok(()));
    let Ok(Decision::Available(small)) = Gateway::new().check("newer") else { panic!("nothing is found") };
    let url = format!("https://127.0.0.1:{}/newer/targets/{}", server().port(), small.path());
    let mut next = job("");
    (next.offer, next.url) = (*small, HttpsUrl::parse(&url).unwrap());
    assert_eq!(fetch(&files, &next), Ok(()));
    assert_eq!(files.content(IMAGE), Some(b"firmware 2.1.0".to_vec()));
    clear(&files).unwrap();
    assert_eq!((files.content(IMAGE), files.content(PART)), (None, None));
}

#[test]
fn it_is_called_off_at_once() {
    let around = Around::default();
    around.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(around.fetch(&Files::default(), &job("")), Err(NoImage::Stopped));
}

#[test]
fn a_power_cut_at_any_write_sync_or_rename_leaves_a_download_that_comes_to_its_end() {
    let whole = Files::default();
    let job = job("");
    assert_eq!(fetch(&whole, &job), Ok(()));
    let operations = whole.0.operations();
    assert!(operations >= 12, "{operations}");
    for operation in 1..=operations {
        let files = Files::default();
        files.0.cut_at(operation);
        let fetched = fetch(&files, &job);
        if !files.0.is_off() {
            // Pieces come in other sizes each time: this one needed fewer operations.
            assert_eq!(fetched, Ok(()));
            continue;
        }
        for cut in cuts(operation).take(4) {
            let files = files.after_power_cut(cut);
            if fetched.is_ok() {
                is_here(&files);
            }
            assert_eq!(fetch(&files, &job), Ok(()), "{operation} {cut:?}");
            is_here(&files.after_power_cut(Cut::Nothing));
        }
    }
}
