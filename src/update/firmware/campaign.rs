//! How one version goes out to the devices of a class: whose turn it is, how far each device is,
//! and when to stop.
//!
//! | stage | by |
//! |---|---|
//! | `waiting` | it is not its turn, or it has not asked yet |
//! | `offered` | it was sent the manifest |
//! | `fetching` | it was sent a block |
//! | `fetched` | it was sent the last block |
//! | `reported` | it reported this version |
//! | `late` | it was sent the last block, and did not report this version in time |
//!
//! A step goes to the next once it has lasted, and a device of it runs the version, or there is no
//! device in it. So many late devices stop the version: no further device is sent it, those that
//! run it stay. [`Campaign::resume`] goes on.
//!
//! Time is the time that this version was here while the gateway ran, in seconds, kept with the
//! rest: no clock has to be trusted, and a gateway that was off blames no device. It is written
//! each [`KEEP_CLOCK_S`] while something waits for it, and at a stop in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kept::Image;
use super::settings::Rollout;
use crate::message::Name;
use crate::update::rollout::{Share, bucket};

/// So much of the campaign's time is lost at most where the gateway is killed, in seconds.
const KEEP_CLOCK_S: u64 = 600;
/// Late devices that are named.
const NAMED_MAX: usize = 8;

/// How far a device is with the version that goes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It is not its turn, or it has not asked yet.
    #[default]
    Waiting,
    /// It was sent the manifest.
    Offered,
    /// It was sent a block.
    Fetching,
    /// It was sent the last block.
    Fetched,
    /// It reported this version.
    Reported,
    /// It did not report it in time.
    Late,
}

impl Stage {
    /// As `tombolo update devices` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Waiting => "waiting",
            Stage::Offered => "offered",
            Stage::Fetching => "fetching",
            Stage::Fetched => "fetched",
            Stage::Reported => "reported",
            Stage::Late => "late",
        }
    }
}

/// What is known of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// With the version that goes out.
    pub stage: Stage,
    /// Since when, by the campaign's time, in seconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub at_s: u64,
    /// How far into the image it was sent a block.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// The version that it reported last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Devices by their stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Stage::Offered`]
    pub offered: u64,
    /// [`Stage::Fetching`]
    pub fetching: u64,
    /// [`Stage::Fetched`]
    pub fetched: u64,
    /// [`Stage::Reported`]
    pub reported: u64,
    /// [`Stage::Late`]
    pub late: u64,
}

/// What happened, to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The next step began.
    Step(Share),
    /// The version is stopped: one sentence.
    Stopped(String),
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// The image's tag; empty: nothing went out yet.
    tag: String,
    version: String,
    clock_s: u64,
    step: usize,
    step_since_s: u64,
    stopped: Option<String>,
    devices: BTreeMap<String, Progress>,
    #[serde(skip)]
    is_changed: bool,
    /// The time when it was encoded last.
    #[serde(skip)]
    kept_clock_s: u64,
}

impl Campaign {
    /// Reads one that was [encoded](Campaign::encode).
    ///
    /// # Errors
    /// Why it is none, in half a sentence.
    pub fn parse(text: &str) -> Result<Campaign, String> {
        let mut campaign: Campaign = serde_json::from_str(text).map_err(|error| error.to_string())?;
        campaign.kept_clock_s = campaign.clock_s;
        Ok(campaign)
    }

    /// As JSON, with a line break at its end. What was changed counts as kept from then on.
    pub fn encode(&mut self) -> String {
        (self.is_changed, self.kept_clock_s) = (false, self.clock_s);
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Whether it changed since it was encoded last.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Whether anything at all is other than what was encoded last, the time with it.
    pub fn is_other(&self) -> bool {
        self.is_changed || self.clock_s != self.kept_clock_s
    }

    /// This image goes out from now on. The same as before goes on where it was, and `None`, where
    /// there is none at present, changes nothing: it may be the same that comes back.
    pub fn begin(&mut self, image: Option<&Image>) {
        let Some(image) = image.filter(|image| image.tag() != self.tag) else { return };
        (self.tag, self.version) = (image.tag(), image.version.clone());
        (self.clock_s, self.step, self.step_since_s, self.stopped) = (0, 0, 0, None);
        for progress in self.devices.values_mut() {
            *progress = Progress { reported: progress.reported.take(), ..Progress::default() };
            if progress.reported.as_ref() == Some(&self.version) {
                progress.stage = Stage::Reported;
            }
        }
        self.is_changed = true;
    }

    /// The share of the devices whose turn it is.
    pub fn share(&self, image: &Image, rollout: &Rollout) -> Share {
        let step = rollout.steps.get(self.step).or(rollout.steps.last()).copied();
        image.share.min(step.unwrap_or(Share::ALL))
    }

    /// Whether this device is sent the image that goes out.
    pub fn admits(&self, device: &Name, image: &Image, rollout: &Rollout) -> bool {
        let progress = self.devices.get(device.as_str());
        if progress.is_some_and(|progress| progress.stage == Stage::Reported) {
            return true;
        }
        let is_turn = self.share(image, rollout).contains(bucket(device, &image.version));
        self.stopped.is_none() && self.too_old(device, image).is_none() && is_turn
    }

    /// Why the device is not sent this image: the version that it must have before.
    pub fn too_old(&self, device: &Name, image: &Image) -> Option<String> {
        let minimum = image.min_version.as_ref()?;
        let progress = self.devices.get(device.as_str());
        let reported = progress.and_then(|progress| progress.reported.as_ref());
        match reported.map(|reported| image.scheme.compare(reported, minimum)) {
            Some(Some(order)) if order.is_ge() => None,
            Some(Some(_)) => Some(format!("version {} needs {minimum} before it", image.version)),
            Some(None) => Some(format!(
                "version {} needs {minimum} before it, and what it runs cannot be compared with that",
                image.version
            )),
            None => Some(format!(
                "version {} needs {minimum} before it, and it has not reported what it runs",
                image.version
            )),
        }
    }

    /// The device was sent the manifest.
    pub fn note_offered(&mut self, device: &Name) {
        self.advance(device, Stage::Offered, 0);
    }

    /// The device was sent a block of the image that goes out, which ends there.
    pub fn note_sent(&mut self, device: &Name, end: u64, is_last: bool) {
        self.advance(device, if is_last { Stage::Fetched } else { Stage::Fetching }, end);
    }

    fn advance(&mut self, device: &Name, stage: Stage, end: u64) {
        let clock_s = self.clock_s;
        let progress = self.progress(device);
        progress.bytes = progress.bytes.max(end);
        let is_further = match (progress.stage, stage) {
            (Stage::Reported, _) => false,
            // It fetches once more what it has not made use of.
            (Stage::Late | Stage::Fetched, _) => false,
            (Stage::Fetching, Stage::Offered) => false,
            (before, _) => before != stage,
        };
        if is_further {
            (progress.stage, progress.at_s) = (stage, clock_s);
            self.is_changed = true;
        }
    }

    /// The device runs this version.
    pub fn note_reported(&mut self, device: &Name, version: &str) {
        let (clock_s, is_it) = (self.clock_s, !self.tag.is_empty() && self.version == version);
        let progress = self.progress(device);
        let before = progress.clone();
        if progress.reported.as_deref() != Some(version) {
            progress.reported = Some(version.to_owned());
        }
        match progress.stage {
            Stage::Reported if is_it => {}
            _ if is_it => (progress.stage, progress.at_s) = (Stage::Reported, clock_s),
            // It went back.
            Stage::Reported => {
                *progress = Progress { reported: progress.reported.take(), ..Progress::default() }
            }
            _ => {}
        }
        let is_other = *progress != before;
        self.is_changed |= is_other;
    }

    fn progress(&mut self, device: &Name) -> &mut Progress {
        if !self.devices.contains_key(device.as_str()) {
            self.is_changed = true;
        }
        self.devices.entry(device.to_string()).or_default()
    }

    /// What has become due after `elapsed_s` more; `has`: whether there is such a device of the
    /// class.
    pub fn care(
        &mut self,
        elapsed_s: u64,
        image: &Image,
        rollout: &Rollout,
        has: impl FnOnce(&mut dyn FnMut(&Name) -> bool) -> bool,
    ) -> Vec<Change> {
        self.clock_s += elapsed_s;
        let mut changes = Vec::new();
        let (now, within) = (self.clock_s, rollout.report_within.as_secs());
        for progress in self.devices.values_mut() {
            if progress.stage == Stage::Fetched && now.saturating_sub(progress.at_s) >= within {
                (progress.stage, progress.at_s, self.is_changed) = (Stage::Late, now, true);
            }
        }
        if self.stopped.is_none() {
            let late = self.devices.iter().filter(|(_, progress)| progress.stage == Stage::Late);
            let late: Vec<&str> = late.map(|(name, _)| name.as_str()).collect();
            if late.len() >= rollout.failures as usize {
                let named = late[..late.len().min(NAMED_MAX)].join(", ");
                let more = if late.len() > NAMED_MAX { ", …" } else { "" };
                let (count, s) = (late.len(), if late.len() == 1 { "" } else { "s" });
                let why = format!(
                    "{count} device{s} fetched version {} and did not report it within {}: {named}{more}",
                    image.version,
                    humantime::format_duration(rollout.report_within),
                );
                changes.push(Change::Stopped(why.clone()));
                (self.stopped, self.is_changed) = (Some(why), true);
            }
        }
        let is_last = self.step + 1 >= rollout.steps.len();
        let is_over = now.saturating_sub(self.step_since_s) >= rollout.step_after.as_secs();
        if self.stopped.is_none() && !is_last && is_over {
            let share = self.share(image, rollout);
            let has_reported = self.devices.values().any(|progress| progress.stage == Stage::Reported);
            let mut is_turn = |device: &Name| share.contains(bucket(device, &image.version));
            if has_reported || !has(&mut is_turn) {
                self.step += 1;
                (self.step_since_s, self.is_changed) = (now, true);
                changes.push(Change::Step(self.share(image, rollout)));
            }
        }
        let waits = !is_last || self.devices.values().any(|progress| progress.stage == Stage::Fetched);
        if waits && self.stopped.is_none() && now.saturating_sub(self.kept_clock_s) >= KEEP_CLOCK_S {
            self.is_changed = true;
        }
        changes
    }

    /// Goes on with a version that was stopped; late devices have their time once more. False: it
    /// was not stopped.
    pub fn resume(&mut self) -> bool {
        for progress in self.devices.values_mut().filter(|progress| progress.stage == Stage::Late) {
            *progress = Progress { reported: progress.reported.take(), ..Progress::default() };
        }
        self.is_changed = true;
        self.stopped.take().is_some()
    }

    /// Forgets devices that are not of the class any more.
    pub fn retain(&mut self, mut is_known: impl FnMut(&str) -> bool) {
        let before = self.devices.len();
        self.devices.retain(|name, _| is_known(name));
        self.is_changed |= self.devices.len() != before;
    }

    /// Why the version is stopped.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// The devices by name.
    pub fn devices(&self) -> &BTreeMap<String, Progress> {
        &self.devices
    }

    /// Devices by their stage.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for progress in self.devices.values() {
            match progress.stage {
                Stage::Waiting => {}
                Stage::Offered => counts.offered += 1,
                Stage::Fetching => counts.fetching += 1,
                Stage::Fetched => counts.fetched += 1,
                Stage::Reported => counts.reported += 1,
                Stage::Late => counts.late += 1,
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::kept::tests::image;
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn fleet(count: usize) -> Vec<Name> {
        (0..count).map(|number| name(&format!("sensor-{number}"))).collect()
    }

    /// Whether there is such a device among so many.
    fn has(count: usize) -> impl FnOnce(&mut dyn FnMut(&Name) -> bool) -> bool {
        move |is_it| fleet(count).iter().any(is_it)
    }

    fn percent(percent: f64) -> Share {
        Share::from_percent(percent).expect("a share")
    }

    fn steps(of: &[f64]) -> Rollout {
        Rollout { steps: of.iter().map(|of| percent(*of)).collect(), ..Rollout::default() }
    }

    fn begun() -> (Campaign, Image) {
        let (mut campaign, image) = (Campaign::default(), image("2.0.0", 2, 4096));
        campaign.begin(Some(&image));
        (campaign, image)
    }

    fn turns(campaign: &Campaign, image: &Image, rollout: &Rollout) -> Vec<String> {
        let all = fleet(1_000).into_iter().filter(|device| campaign.admits(device, image, rollout));
        all.map(|device| device.to_string()).collect()
    }

    #[test]
    fn each_step_has_all_devices_of_the_one_before_and_begins_once_a_device_runs_the_version() {
        let (mut campaign, image) = begun();
        let rollout = steps(&[10.0, 50.0, 100.0]);
        let day = 86_400;
        let first = turns(&campaign, &image, &rollout);
        assert!((60..140).contains(&first.len()), "{}", first.len());
        assert_eq!(campaign.care(30 * day, &image, &rollout, has(1_000)), [], "none runs it yet");
        campaign.note_reported(&name(&first[0]), "2.0.0");
        assert_eq!(campaign.care(0, &image, &rollout, has(1_000)), [Change::Step(percent(50.0))]);
        let second = turns(&campaign, &image, &rollout);
        assert!(first.iter().all(|device| second.contains(device)) && (420..580).contains(&second.len()));
        assert_eq!(campaign.care(day - 1, &image, &rollout, has(1_000)), [], "a step lasts");
        assert_eq!(campaign.care(1, &image, &rollout, has(1_000)), [Change::Step(Share::ALL)]);
        assert_eq!(turns(&campaign, &image, &rollout).len(), 1_000);
        assert_eq!(campaign.care(30 * day, &image, &rollout, has(1_000)), []);
    }

    #[test]
    fn a_step_without_any_device_is_passed() {
        let (mut campaign, image) = begun();
        let rollout = steps(&[0.0, 100.0]);
        assert_eq!(campaign.care(86_400, &image, &rollout, has(3)), [Change::Step(Share::ALL)]);
    }

    #[test]
    fn the_signed_share_bounds_every_step() {
        let (campaign, mut image) = begun();
        image.share = percent(0.0);
        assert!(turns(&campaign, &image, &steps(&[100.0])).is_empty());
    }

    #[test]
    fn devices_that_fetched_and_do_not_report_stop_the_version_for_all_but_those_that_run_it() {
        let (mut campaign, image) = begun();
        let rollout = Rollout { failures: 2, report_within: Duration::from_secs(600), ..Rollout::default() };
        let [a, b, c, d] = ["a", "b", "c", "d"].map(name);
        for device in [&a, &b, &c] {
            campaign.note_offered(device);
            campaign.note_sent(device, 1024, false);
            campaign.note_sent(device, 4096, true);
        }
        campaign.note_reported(&c, "2.0.0");
        campaign.note_reported(&a, "1.0.0");
        assert_eq!(campaign.care(599, &image, &rollout, |_| false), []);
        let changes = campaign.care(1, &image, &rollout, |_| false);
        let why = "2 devices fetched version 2.0.0 and did not report it within 10m: a, b";
        assert_eq!(changes, [Change::Stopped(why.to_owned())]);
        assert_eq!(campaign.counts(), Counts { reported: 1, late: 2, ..Counts::default() });
        let admits =
            |campaign: &Campaign| [&a, &c, &d].map(|device| campaign.admits(device, &image, &rollout));
        assert_eq!((admits(&campaign), campaign.stopped()), ([false, true, false], Some(why)));
        // It stays so over a restart, and late reports do not undo it.
        let mut campaign = Campaign::parse(&campaign.encode()).expect("its own text");
        campaign.note_reported(&a, "2.0.0");
        assert!(campaign.stopped().is_some() && campaign.counts().reported == 2);
        assert!(campaign.resume() && admits(&campaign) == [true; 3]);
        assert_eq!(campaign.care(600, &image, &rollout, |_| false), [], "b has its time once more");
        assert!(!campaign.resume());
    }

    #[test]
    fn a_new_version_begins_anew_and_what_devices_run_is_remembered() {
        let (mut campaign, _) = begun();
        let [a, b] = ["a", "b"].map(name);
        campaign.note_sent(&a, 4096, true);
        campaign.note_reported(&b, "3.0.0");
        let mut next = image("3.0.0", 3, 10);
        next.min_version = Some("2.0.0".to_owned());
        campaign.begin(Some(&next));
        assert_eq!(campaign.counts(), Counts { reported: 1, ..Counts::default() });
        let rollout = Rollout::default();
        assert!(!campaign.admits(&a, &next, &rollout), "what it runs is not known");
        assert!(campaign.too_old(&a, &next).is_some_and(|why| why.contains("not reported")));
        campaign.note_reported(&a, "1.9.9");
        assert!(!campaign.admits(&a, &next, &rollout), "it is too old");
        assert_eq!(campaign.too_old(&a, &next).as_deref(), Some("version 3.0.0 needs 2.0.0 before it"));
        campaign.note_reported(&a, "2.0.0");
        assert!(campaign.admits(&a, &next, &rollout) && campaign.too_old(&a, &next).is_none());
        campaign.note_reported(&b, "2.0.0");
        assert_eq!(campaign.counts().reported, 0, "it went back");
        campaign.retain(|device| device == "a");
        assert_eq!(campaign.devices().len(), 1);
    }

    #[test]
    fn a_device_is_late_however_often_the_gateway_is_started_anew() {
        let (mut campaign, image) = begun();
        let rollout =
            Rollout { failures: 1, report_within: Duration::from_secs(7_200), ..Rollout::default() };
        campaign.note_sent(&name("a"), 4096, true);
        let mut stored = campaign.encode();
        let mut seconds = 0;
        while campaign.stopped().is_none() {
            // Killed a quarter of an hour after each start.
            for _ in 0..900 {
                campaign.care(1, &image, &rollout, |_| false);
                seconds += 1;
                if campaign.is_changed() {
                    stored = campaign.encode();
                }
            }
            campaign = Campaign::parse(&stored).expect("its own text");
            assert!(seconds < 2 * 7_200, "its time goes on");
        }
        let (mut campaign, _) = begun();
        let before = campaign.encode();
        campaign.care(5, &image, &rollout, |_| false);
        assert!(!campaign.is_changed(), "no write a second");
        assert!(campaign.is_other() && campaign.encode() != before, "a stop keeps all of it");
    }

    #[test]
    fn what_a_device_fetches_again_does_not_give_it_more_time() {
        let (mut campaign, image) = begun();
        let rollout = Rollout { failures: 1, report_within: Duration::from_secs(100), ..Rollout::default() };
        campaign.note_sent(&name("a"), 4096, true);
        campaign.care(99, &image, &rollout, |_| false);
        campaign.note_offered(&name("a"));
        campaign.note_sent(&name("a"), 16, false);
        campaign.note_sent(&name("a"), 4096, true);
        assert_eq!(campaign.care(1, &image, &rollout, |_| false).len(), 1);
    }
}
