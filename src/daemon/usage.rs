//! What each device has sent, day by day, kept in `{state-dir}/usage` for [`PERIODS`] days.
//!
//! One file a day, `NUMBER-DAY`, of which only the newest is written: at most every [`EVERY`], when
//! its day ends, and at the stop, off the path's thread, if something was counted. After a power
//! cut what was counted within the last hour is missing. The days before are read when somebody
//! asks. One that is damaged or cannot be read is never written again: its day goes on in another
//! file, and `status` and whoever asks are told.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::kept_text::{KeptText, Shape};
use crate::clock::{Moment, UnixTime};
use crate::config::state::io::set_aside;
use crate::control::protocol::{Code, DEVICES_MAX, Failure};
use crate::control::snapshot::{DeviceUsage, UsageCounts, UsageDay, UsagePage};
use crate::durable::atomic_file::{Condition, name_before};
use crate::durable::folder::StateFolder as _;
use crate::durable::io::{OnDisk, create_directory};
use crate::gate::Gate;
use crate::gate::usage::{Counts, MAX_BYTES, Period, Tally, date};
use crate::message::Name;

/// The folder's name in the state directory.
pub const FOLDER: &str = "usage";
/// Days that are kept.
pub const PERIODS: usize = 30;
/// Between two writes.
const EVERY: Duration = Duration::from_secs(3_600);
/// What each file may be.
pub const SHAPE: Shape = Shape { max_bytes: MAX_BYTES, has_copy: false };
const COST: &str = "what devices sent on that day is not known to `tombolo usage`";

/// See the module.
pub struct UsageKeeper {
    folder: PathBuf,
    tally: Tally,
    /// The number of the period that is counted.
    number: u64,
    kept: KeptText,
    /// The files of the other periods, by their numbers.
    others: BTreeMap<u64, String>,
    /// Of these: the newest day and the newest period without a date, as they were at the start.
    spare: Vec<(u64, KeptText, Period)>,
    /// Those that are over, while they are being written.
    leaving: Vec<KeptText>,
    /// When the period was last looked at to be written.
    wrote_at: Instant,
    /// Those that could not be read at the start, which were set aside if they are damaged.
    lost: Vec<KeptText>,
    /// The folder cannot be used.
    failing: Option<String>,
}

impl UsageKeeper {
    /// Reads what was counted before. Blocks; at the start only.
    pub fn open(now: Instant, moment: &Moment, state_dir: &Path) -> UsageKeeper {
        let folder = state_dir.join(FOLDER);
        let found = create_directory(&folder).and_then(|()| names(&folder));
        let failing = found.as_ref().err().map(|error| {
            let failing = format!(
                "{}: {error}; what devices send is counted in memory alone, and forgotten at the stop",
                folder.display()
            );
            log::error!("{failing}");
            failing
        });
        let others = found.unwrap_or_default();
        let newest = |is_dated: bool| {
            let of_kind = |(_, name): &(&u64, &String)| name.ends_with("undated") != is_dated;
            others.iter().rev().find(of_kind).map(|(number, name)| (*number, name.clone()))
        };
        let (mut spare, mut lost) = (Vec::new(), Vec::new());
        for (number, name) in [true, false].into_iter().filter_map(newest) {
            match KeptText::open(&folder, &name, SHAPE, COST, Period::parse) {
                (kept, Some(period)) => spare.push((number, kept, period)),
                (kept, None) => lost.push(kept),
            }
        }
        let mut keeper = UsageKeeper {
            tally: Tally::new(),
            number: 0,
            kept: KeptText::new(&folder, "", SHAPE, COST),
            folder,
            others,
            spare,
            leaving: Vec::new(),
            lost,
            wrote_at: now,
            failing,
        };
        keeper.turn(now, moment);
        keeper
    }

    /// Once a second: writes what is due. Never waits for the disk.
    pub fn care(&mut self, now: Instant, moment: &Moment, gate: &Gate) {
        self.leaving.retain_mut(KeptText::is_busy);
        if self.tally.is_over(moment) {
            self.look(now, moment, gate);
            self.wrote_at = now;
            return self.turn(now, moment);
        }
        if now.saturating_duration_since(self.wrote_at) < EVERY {
            return;
        }
        self.wrote_at = now;
        self.look(now, moment, gate);
        let is_due = self.tally.is_changed() || self.kept.is_failing();
        if is_due && self.failing.is_none() && self.kept.is_ready(now) {
            self.kept.write(now, self.tally.period().encode());
            self.tally.note_kept();
        }
    }

    /// Counts what was sent up to now: before a reload takes devices away.
    pub fn look(&mut self, now: Instant, moment: &Moment, gate: &Gate) {
        self.tally.look(moment, gate.devices(now));
    }

    /// Forgets devices that the gate does not have any more.
    pub fn forget(&mut self, gate: &Gate) {
        self.tally.forget(|id| gate.device_by_id(id).is_some());
    }

    /// At the stop. Blocks.
    pub fn close(&mut self, now: Instant, moment: &Moment, gate: &Gate) {
        self.leaving.iter_mut().for_each(KeptText::finish);
        self.look(now, moment, gate);
        if self.failing.is_none() && (self.tally.is_changed() || self.kept.is_failing()) {
            self.kept.close(&self.tally.period().encode());
        }
    }

    /// What is wrong, one sentence each, beside what is `known`.
    pub fn problems(&self, known: &[String]) -> Vec<String> {
        let of = self.kept.problems(known);
        let spare = self.spare.iter().flat_map(|(_, kept, _)| kept.problems(known));
        let lost = self.lost.iter().flat_map(|kept| kept.problems(known));
        let lost = lost.map(|said| if said.ends_with(COST) { said } else { format!("{said}; {COST}") });
        self.failing.iter().cloned().chain(of).chain(spare).chain(lost).collect()
    }

    /// Begins the period of this moment, and keeps the one before.
    fn turn(&mut self, now: Instant, moment: &Moment) {
        let is_changed = self.tally.is_changed() || self.kept.is_failing();
        let spare = &mut self.spare;
        let mut taken = None;
        let before = self.tally.turn(moment, |day| {
            let fits = |period: &Period| {
                period.day == day && (day.is_some() || period.lasted_ms < crate::clock::DAY_MS)
            };
            let at = spare.iter().position(|(_, _, period)| fits(period))?;
            let (number, kept, period) = spare.remove(at);
            taken = Some((number, kept));
            Some(period)
        });
        let newest = self.others.keys().next_back().copied().unwrap_or(0).max(self.number);
        let name = |number: u64, period: &Period| format!("{number:08}-{}", period.name());
        let (number, kept) = taken.unwrap_or_else(|| {
            let number = newest + 1;
            (number, KeptText::new(&self.folder, &name(number, self.tally.period()), SHAPE, COST))
        });
        let mut over = std::mem::replace(&mut self.kept, kept);
        let before_number = std::mem::replace(&mut self.number, number);
        self.others.remove(&number);
        let Some(before) = before.filter(|before| !before.devices.is_empty()) else { return };
        self.others.insert(before_number, name(before_number, &before));
        if is_changed && self.failing.is_none() && !over.is_busy() {
            over.write(now, before.encode());
            self.leaving.push(over);
        }
        self.remove_oldest();
    }

    fn remove_oldest(&mut self) {
        while self.others.len() >= PERIODS {
            let Some((_, name)) = self.others.pop_first() else { return };
            self.spare.retain(|(number, _, _)| self.others.contains_key(number));
            let folder = self.folder.clone();
            // One that stays is removed by the next start, which finds it in the folder.
            tokio::task::spawn_blocking(move || drop(OnDisk::new(&folder).remove(&name)));
        }
    }

    /// What is asked for: to be called where it may block.
    pub fn question(&self, device: Option<String>, after: Option<String>) -> Question {
        let mut current = Period { day: self.tally.period().day, ..Period::default() };
        let devices = &self.tally.period().devices;
        match &device {
            Some(id) => {
                let found = devices.get_key_value(id.as_str());
                current.devices.extend(found.map(|(id, counts)| (id.clone(), *counts)));
            }
            None => current.devices.clone_from(devices),
        }
        let files = self.others.values().cloned().collect();
        let oldest = self.number.saturating_sub(PERIODS as u64);
        Question { folder: self.folder.clone(), files, oldest, current, device, after }
    }
}

/// What is asked for, with all that is in memory.
pub struct Question {
    folder: PathBuf,
    files: Vec<String>,
    /// Files that were set aside are named from this number on.
    oldest: u64,
    current: Period,
    device: Option<String>,
    after: Option<String>,
}

impl Question {
    /// Reads the files. `is_known`: the gate has the device that is asked for.
    ///
    /// # Errors
    /// Nothing is known of the device.
    pub fn answer(self, is_known: bool) -> Result<UsagePage, Failure> {
        let folder = OnDisk::with_patience(&self.folder, Duration::ZERO);
        let mut page = UsagePage::default();
        let mut all: BTreeMap<Name, DeviceUsage> = BTreeMap::new();
        let mut take = |period: Period, current: bool, device: Option<&str>| {
            let day = period.day.map(date);
            for (id, counts) in period.devices {
                if device.is_some_and(|device| device != id.as_str()) {
                    continue;
                }
                let of = all.entry(id).or_default();
                of.active_days += 1;
                add(&mut of.counts, &counts);
                if device.is_some() {
                    let mut one = UsageCounts::default();
                    add(&mut one, &counts);
                    of.days.push(UsageDay { day: day.clone(), current, counts: one });
                }
            }
        };
        for name in &self.files {
            match SHAPE.file(name).look(&folder, Period::parse) {
                Ok(period) => take(period, false, self.device.as_deref()),
                // It may be on its way to the disk for the first time, or be removed meanwhile.
                Err(Condition::Missing) => {}
                Err(condition) => {
                    page.unreadable_days += 1;
                    let path = self.folder.join(name);
                    page.lost.push(format!("{} {condition}; {}", path.display(), left_out(name)));
                }
            }
        }
        match folder.names() {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => page.lost.push(format!(
                "{} cannot be read: {error}; what was counted before the last start is left out",
                self.folder.display()
            )),
            _ => page.lost.extend(lost(&self.folder, self.oldest)),
        }
        take(self.current, true, self.device.as_deref());
        if let Some(id) = &self.device {
            let of = all.remove(id.as_str()).or_else(|| is_known.then(DeviceUsage::default));
            let of = of.ok_or_else(|| {
                Failure::new(
                    Code::NotFound,
                    format!("nothing is known of a device {id}; `tombolo usage` lists all"),
                )
            })?;
            page.devices.push(DeviceUsage { device: id.clone(), ..of });
            return Ok(page);
        }
        let after = self.after.unwrap_or_default();
        let mut rest = all.into_iter().filter(|(id, _)| id.as_str() > after.as_str());
        let named = |(id, of): (Name, DeviceUsage)| DeviceUsage { device: id.to_string(), ..of };
        page.devices = rest.by_ref().take(DEVICES_MAX).map(named).collect();
        page.more = rest.next().is_some();
        Ok(page)
    }
}

fn add(sum: &mut UsageCounts, counts: &Counts) {
    sum.messages += counts.messages;
    sum.bytes = sum.bytes.saturating_add(counts.bytes);
    sum.filtered += counts.filtered;
    sum.unstored += u64::from(counts.unstored);
    sum.local += u64::from(counts.local);
    sum.refused += counts.refused_total();
    for (reason, count) in counts.refused() {
        *sum.refused_reasons.entry(reason.as_str().to_owned()).or_default() += u64::from(count);
    }
}

/// What a file was about, as half a sentence.
fn left_out(name: &str) -> String {
    match name.split_once('-') {
        Some((_, "undated")) => "what was sent then, while the clock was not trusted, is left out".to_owned(),
        Some((_, day)) => format!("what was sent on {day} is left out"),
        None => COST.to_owned(),
    }
}

/// A sentence for each file of a period from this number on that was damaged and set aside.
fn lost(folder: &Path, oldest: u64) -> Vec<String> {
    let sentence = |name: &String| {
        let whole = name_before(name)?;
        let (number, period) = whole.split_once('-')?;
        number.parse::<u64>().ok().filter(|number| *number >= oldest)?;
        let path = folder.join(name);
        // It has its name since it was set aside, by a clock that may have been wrong.
        let at = std::fs::metadata(&path).ok().and_then(|metadata| u64::try_from(metadata.ctime()).ok())?;
        let at = UnixTime(at.saturating_mul(1_000));
        let since = match date(at.0 / crate::clock::DAY_MS) == period {
            true => format!("what is sent on {period} counts from {at} on"),
            false => left_out(whole),
        };
        Some(format!("{} was damaged, and is set aside under this name; {since}", path.display()))
    };
    set_aside(folder).iter().filter_map(sentence).collect()
}

/// The files of periods, by their numbers.
fn names(folder: &Path) -> std::io::Result<BTreeMap<u64, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let Some((number, period)) = name.split_once('-').filter(|(number, _)| number.len() == 8) else {
            continue;
        };
        let is_period = period == "undated" || (period.len() == 10 && !period.contains('.'));
        if let (Ok(number), true) = (number.parse(), is_period) {
            found.insert(number, name);
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;
    use crate::message::Method;
    use crate::pipeline::Pipeline;
    use crate::pipeline::fake::{FakeStore, received};

    const DAY_MS: u64 = crate::clock::DAY_MS;
    const DAY: u64 = 20_784;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tombolo-usage-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).expect("a folder");
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            names(&self.0.join(FOLDER)).expect("the folder").into_values().collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// So many milliseconds after the start; with a trusted clock from this time on.
    fn at(start: Instant, ms: u64, wall: Option<u64>) -> (Instant, Moment) {
        let now = start + Duration::from_millis(ms);
        let wall = wall.map(|wall| UnixTime(wall + ms));
        (now, Moment { now, boottime_ms: ms, wall, ages_from: None })
    }

    fn send(pipeline: &mut Pipeline<FakeStore>, now: Instant) {
        let device = pipeline.gate.device_by_id("door-7").expect("the device");
        let _ = pipeline.gate.admit(now, device, received(Method::Post, "t/env", b"1234"));
    }

    /// What is written comes to the disk.
    async fn settle(keeper: &mut UsageKeeper) {
        while keeper.kept.is_busy() || keeper.leaving.iter_mut().any(KeptText::is_busy) {
            tokio::task::yield_now().await;
        }
    }

    fn days(keeper: &UsageKeeper) -> Vec<(Option<String>, u64, bool)> {
        let page = keeper.question(Some("door-7".to_owned()), None).answer(true).expect("it is known");
        page.devices[0].days.iter().map(|day| (day.day.clone(), day.counts.messages, day.current)).collect()
    }

    #[tokio::test]
    async fn days_are_kept_for_a_month_and_a_file_is_written_once_an_hour_and_at_the_stop() {
        let (folder, start) = (Folder::new("month"), Instant::now());
        let mut pipeline = Pipeline::fake(start, 1_000);
        let wall = Some(DAY * DAY_MS);
        let (now, moment) = at(start, 0, wall);
        let mut keeper = UsageKeeper::open(now, &moment, &folder.0);
        for hour in 0..24 * 35_u64 {
            let (now, moment) = at(start, hour * 3_600_000, wall);
            send(&mut pipeline, now);
            keeper.care(now, &moment, &pipeline.gate);
            settle(&mut keeper).await;
            // Within the hour nothing is written.
            let (soon, moment) = at(start, hour * 3_600_000 + 1_800_000, wall);
            send(&mut pipeline, soon);
            keeper.care(soon, &moment, &pipeline.gate);
            assert!(!keeper.kept.is_busy(), "{hour}");
        }
        let shown = days(&keeper);
        assert_eq!(shown.len(), PERIODS);
        assert_eq!(shown[0].0.as_deref(), Some("2026-12-02"), "35 days from 2026-11-27 on");
        assert!(
            shown[..29].iter().all(|(_, messages, current)| (*messages, *current) == (48, false)),
            "{shown:?}"
        );
        let (now, moment) = at(start, 24 * 35 * 3_600_000 - 1, wall);
        keeper.close(now, &moment, &pipeline.gate);
        let shown = days(&keeper);
        let keeper = UsageKeeper::open(now, &moment, &folder.0);
        assert_eq!(days(&keeper), shown, "after a restart");
        // What came at midnight was counted before the day was over.
        assert_eq!(shown[29], (Some("2026-12-31".to_owned()), 47, true));
        assert!(folder.names().len() <= PERIODS, "{:?}", folder.names());
    }

    #[tokio::test]
    async fn what_is_counted_without_a_trusted_clock_is_named_so_and_goes_on_after_a_restart() {
        let (folder, start) = (Folder::new("undated"), Instant::now());
        let mut pipeline = Pipeline::fake(start, 100);
        let (now, moment) = at(start, 0, None);
        let mut keeper = UsageKeeper::open(now, &moment, &folder.0);
        send(&mut pipeline, now);
        keeper.close(now, &moment, &pipeline.gate);
        let mut pipeline = Pipeline::fake(start, 100);
        let mut keeper = UsageKeeper::open(now, &moment, &folder.0);
        send(&mut pipeline, now);
        let (now, moment) = at(start, 60_000, Some(DAY * DAY_MS + 7_200_000));
        keeper.care(now, &moment, &pipeline.gate);
        settle(&mut keeper).await;
        send(&mut pipeline, now);
        keeper.look(now, &moment, &pipeline.gate);
        assert_eq!(days(&keeper), [(None, 2, false), (Some("2026-11-27".to_owned()), 1, true)]);
        assert_eq!(folder.names(), ["00000001-undated"]);
    }

    #[tokio::test]
    async fn all_devices_are_listed_page_by_page_and_an_unknown_one_is_not_found() {
        let (folder, start) = (Folder::new("pages"), Instant::now());
        let (now, moment) = at(start, 0, Some(DAY * DAY_MS));
        let keeper = UsageKeeper::open(now, &moment, &folder.0);
        let mut period = Period { day: Some(DAY - 1), ..Period::default() };
        for number in 0..DEVICES_MAX + 5 {
            let id = Name::parse(&format!("d{number:05}")).expect("a name");
            let mut counts = Counts::default();
            (counts.messages, counts.bytes) = (1, 2);
            period.devices.insert(id, counts);
        }
        std::fs::write(folder.0.join(FOLDER).join("00000009-2026-11-26"), period.encode()).expect("a file");
        std::fs::write(folder.0.join(FOLDER).join("00000008-2026-11-25"), "rubbish").expect("a file");
        drop(keeper);
        let keeper = UsageKeeper::open(now, &moment, &folder.0);
        let page = keeper.question(None, None).answer(true).expect("a page");
        assert_eq!((page.devices.len(), page.more, page.unreadable_days), (DEVICES_MAX, true, 1));
        assert!(
            page.lost.len() == 1 && page.lost[0].contains("00000008-2026-11-25 is damaged"),
            "{:?}",
            page.lost
        );
        assert!(page.devices[0].days.is_empty() && page.devices[0].counts.bytes == 2);
        let last = page.devices[DEVICES_MAX - 1].device.clone();
        let page = keeper.question(None, Some(last)).answer(true).expect("a page");
        assert_eq!((page.devices.len(), page.more), (5, false));
        let unknown = keeper.question(Some("nobody".to_owned()), None);
        assert_eq!(unknown.answer(false).expect_err("it is unknown").code, Code::NotFound);
        let silent = keeper.question(Some("silent".to_owned()), None).answer(true).expect("it is known");
        assert_eq!((silent.devices[0].active_days, silent.devices[0].counts.messages), (0, 0));
    }

    #[tokio::test]
    async fn a_day_that_is_damaged_is_set_aside_and_said_and_counts_anew_in_a_file_of_its_own() {
        let (folder, start) = (Folder::new("damaged"), Instant::now());
        let today = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_millis() as u64;
        let name = format!("00000003-{}", date(today / DAY_MS));
        std::fs::create_dir_all(folder.0.join(FOLDER)).expect("a folder");
        for name in [&name, "00000002-undated"] {
            std::fs::write(folder.0.join(FOLDER).join(name), "rubbish").expect("a file");
        }
        let mut pipeline = Pipeline::fake(start, 100);
        let (now, moment) = at(start, 0, Some(today));
        let mut keeper = UsageKeeper::open(now, &moment, &folder.0);
        let problems = keeper.problems(&[]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        for said in [&format!("{name}.damaged-1"), COST] {
            assert!(problems[0].contains(said), "{problems:?}");
        }
        for _ in 0..2 {
            let lost = keeper.question(None, None).answer(true).expect("a page").lost;
            assert_eq!(lost.len(), 2, "{lost:?}");
            assert!(lost[0].contains("00000002-undated.damaged-1 was damaged, and is set aside"), "{lost:?}");
            assert!(lost[0].ends_with("while the clock was not trusted, is left out"), "{lost:?}");
            assert!(lost[1].contains(&format!("what is sent on {} counts from ", &name[9..])), "{lost:?}");
            // Also after a restart.
            send(&mut pipeline, now);
            keeper.close(now, &moment, &pipeline.gate);
            keeper = UsageKeeper::open(now, &moment, &folder.0);
        }
        let kept = std::fs::read(folder.0.join(FOLDER).join(format!("{name}.damaged-1"))).expect("a file");
        assert_eq!(kept, b"rubbish");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_named_and_what_is_sent_is_counted_in_memory() {
        let (folder, start) = (Folder::new("in-the-way"), Instant::now());
        std::fs::write(folder.0.join(FOLDER), "in the way").expect("a file");
        let mut pipeline = Pipeline::fake(start, 100);
        let (now, moment) = at(start, 0, Some(DAY * DAY_MS));
        let mut keeper = UsageKeeper::open(now, &moment, &folder.0);
        assert_eq!(keeper.problems(&[]).len(), 1);
        send(&mut pipeline, now);
        keeper.look(now, &moment, &pipeline.gate);
        assert_eq!(days(&keeper).len(), 1);
        let lost = keeper.question(None, None).answer(true).expect("a page").lost;
        assert!(lost.len() == 1 && lost[0].contains("before the last start is left out"), "{lost:?}");
        keeper.close(now, &moment, &pipeline.gate);
        assert!(folder.0.join(FOLDER).is_file());
    }
}
