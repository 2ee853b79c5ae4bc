//! What each device has sent, day by day: for a person who asks who uses how much.
//!
//! The gate counts since a device is known; a [`Tally`] makes days of that. It is asked to look
//! when a day ends, before devices are removed, and now and then; what was counted since the last
//! look counts for the day that it has.
//!
//! | the clock | a period |
//! |---|---|
//! | is trusted | is a day in UTC |
//! | is not trusted | has no date: 24 h in which the gateway ran |
//! | becomes trusted, within the day on which this process began to count | that day, from the beginning |
//! | becomes trusted later | the one without a date ends |
//!
//! A device with traffic in the period takes about 300 bytes of memory, and 30 to 100 bytes of the
//! period's text.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::DeviceView;
use super::stage::Reason;
use crate::clock::{DAY_MS, Moment, UnixTime};
use crate::durable::checked_text;
use crate::message::Name;

/// Longest text of a period in bytes: of 100,000 devices.
pub const MAX_BYTES: u64 = 16 << 20;

const MAGIC: &str = "tombolo-usage 1";
/// What stands before the number of messages to local clients; no [`Reason`] has this name. A
/// version that does not know it leaves it out.
const LOCAL: &str = "local";
const REASONS: usize = Reason::ALL.len();

/// What was counted of one device in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Readings that the rules and the quota let pass.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Readings that were acknowledged and not published, by a filter.
    pub filtered: u64,
    /// Of `messages`: those that the journal did not take.
    pub unstored: u32,
    /// Messages to local clients that passed; they are no readings.
    pub local: u32,
    /// Refused readings and messages to local clients, in the order of [`Reason::ALL`].
    refused: [u32; REASONS],
}

/// One day, or 24 h without a date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// The days from 1970-01-01 to this one; `None`: the clock was not trusted.
    pub day: Option<u64>,
    /// How long it lasted while the gateway ran, in milliseconds.
    pub lasted_ms: u64,
    /// The devices that sent something.
    pub devices: BTreeMap<Name, Counts>,
}

/// Counts the period that is now.
#[derive(Debug, Default)]
pub struct Tally {
    period: Period,
    /// What the gate had counted of a device at the last look, and since when it counts it.
    seen: HashMap<Name, (Instant, Counts)>,
    looked_ms: Option<u64>,
    /// Nothing of the period was kept or is of an earlier process.
    is_fresh: bool,
    is_changed: bool,
}

impl Counts {
    fn of(view: &DeviceView<'_>) -> Counts {
        let mut refused = [0; REASONS];
        for (count, (_, of)) in refused.iter_mut().zip(view.refused.iter()) {
            *count = of;
        }
        Counts {
            messages: view.accepted,
            bytes: view.accepted_bytes,
            filtered: view.filtered,
            unstored: view.unstored,
            local: view.local,
            refused,
        }
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Counts::default()
    }

    /// Refused readings by reason; those that occurred.
    pub fn refused(&self) -> impl Iterator<Item = (Reason, u32)> + '_ {
        Reason::ALL.into_iter().zip(self.refused).filter(|(_, count)| *count > 0)
    }

    /// All refused readings.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().map(|count| u64::from(*count)).sum()
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Counts) {
        self.messages = self.messages.saturating_add(other.messages);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.filtered = self.filtered.saturating_add(other.filtered);
        self.unstored = self.unstored.saturating_add(other.unstored);
        self.local = self.local.saturating_add(other.local);
        for (count, other) in self.refused.iter_mut().zip(other.refused) {
            *count = count.saturating_add(other);
        }
    }

    fn since(&self, before: &Counts) -> Counts {
        let mut refused = self.refused;
        for (count, before) in refused.iter_mut().zip(before.refused) {
            *count = count.saturating_sub(before);
        }
        Counts {
            messages: self.messages.saturating_sub(before.messages),
            bytes: self.bytes.saturating_sub(before.bytes),
            filtered: self.filtered.saturating_sub(before.filtered),
            unstored: self.unstored.saturating_sub(before.unstored),
            local: self.local.saturating_sub(before.local),
            refused,
        }
    }
}

impl Period {
    /// `2026-11-27`, or `undated`.
    pub fn name(&self) -> String {
        self.day.map_or_else(|| "undated".to_owned(), date)
    }

    fn merge(&mut self, other: Period) {
        self.lasted_ms = self.lasted_ms.saturating_add(other.lasted_ms);
        for (id, counts) in other.devices {
            self.devices.entry(id).or_default().add(&counts);
        }
    }

    /// As text, for a file.
    pub fn encode(&self) -> String {
        use std::fmt::Write as _;
        let day = self.day.map_or_else(|| "-".to_owned(), |day| day.to_string());
        let mut text = format!("{MAGIC}\nday {day}\nlasted {}\n", self.lasted_ms);
        for (id, of) in &self.devices {
            // Writing to a text cannot fail.
            let _ = write!(text, "{id} {} {} {} {}", of.messages, of.bytes, of.filtered, of.unstored);
            if of.local > 0 {
                let _ = write!(text, " {LOCAL}={}", of.local);
            }
            for (reason, count) in of.refused() {
                let _ = write!(text, " {}={count}", reason.as_str());
            }
            text.push('\n');
        }
        checked_text::seal(text)
    }

    /// # Errors
    /// Why it is not what was written, in half a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Period, String> {
        let damaged = || "its checksum is wrong".to_owned();
        let mut lines = checked_text::open(bytes)?.lines();
        if lines.next() != Some(MAGIC) {
            return Err("it is of another version".to_owned());
        }
        let mut period = Period::default();
        let day = lines.next().and_then(|line| line.strip_prefix("day ")).ok_or_else(damaged)?;
        period.day = if day == "-" { None } else { Some(day.parse().map_err(|_| damaged())?) };
        let lasted = lines.next().and_then(|line| line.strip_prefix("lasted ")).ok_or_else(damaged)?;
        period.lasted_ms = lasted.parse().map_err(|_| damaged())?;
        for line in lines {
            let (id, counts) = device(line).ok_or_else(damaged)?;
            period.devices.insert(id, counts);
        }
        Ok(period)
    }
}

fn device(line: &str) -> Option<(Name, Counts)> {
    let mut words = line.split(' ');
    let id = Name::parse(words.next()?).ok()?;
    let mut number = || words.next()?.parse::<u64>().ok();
    let (messages, bytes, filtered) = (number()?, number()?, number()?);
    let unstored = u32::try_from(number()?).ok()?;
    let mut counts = Counts { messages, bytes, filtered, unstored, ..Counts::default() };
    for word in words {
        let (reason, count) = word.split_once('=')?;
        let count = count.parse().ok()?;
        if reason == LOCAL {
            counts.local = count;
        }
        // One of a later version is not known here.
        if let Some(reason) = Reason::ALL.into_iter().find(|known| known.as_str() == reason) {
            counts.refused[reason as usize] = count;
        }
    }
    Some((id, counts))
}

/// `2026-11-27`.
pub fn date(day: u64) -> String {
    let time = UnixTime(day.saturating_mul(DAY_MS)).to_string();
    time.get(..10).unwrap_or_default().to_owned()
}

impl Tally {
    /// Begins a period; nothing of it is known yet.
    pub fn new() -> Tally {
        Tally { is_fresh: true, ..Tally::default() }
    }

    /// The period that is now.
    pub fn period(&self) -> &Period {
        &self.period
    }

    /// Whether something was counted since the period was kept last.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// The period is kept now.
    pub fn note_kept(&mut self) {
        (self.is_changed, self.is_fresh) = (false, false);
    }

    /// Counts what the devices sent since the last look, for the period that is now.
    pub fn look<'a>(&mut self, moment: &Moment, devices: impl Iterator<Item = DeviceView<'a>>) {
        let before = self.looked_ms.replace(moment.boottime_ms).unwrap_or(moment.boottime_ms);
        let passed = moment.boottime_ms.saturating_sub(before);
        self.period.lasted_ms = self.period.lasted_ms.saturating_add(passed);
        for view in devices {
            let now = Counts::of(&view);
            if now.is_zero() {
                continue;
            }
            let Some((since, seen)) = self.seen.get_mut(view.id.as_str()) else {
                self.count(view.id, &now);
                self.seen.insert(view.id.clone(), (view.known_since, now));
                continue;
            };
            // A device that was removed and added again is counted from the beginning.
            let fresh = if *since == view.known_since { now.since(seen) } else { now };
            (*since, *seen) = (view.known_since, now);
            self.count(view.id, &fresh);
        }
    }

    /// Forgets devices that are not there any more: after [`Tally::look`], when the gate has them
    /// no longer.
    pub fn forget(&mut self, is_there: impl Fn(&str) -> bool) {
        self.seen.retain(|id, _| is_there(id.as_str()));
    }

    fn count(&mut self, id: &Name, fresh: &Counts) {
        if fresh.is_zero() {
            return;
        }
        self.is_changed = true;
        match self.period.devices.get_mut(id.as_str()) {
            Some(counts) => counts.add(fresh),
            None => drop(self.period.devices.insert(id.clone(), *fresh)),
        }
    }

    /// What the period should be at this moment, if it is over: [`Tally::turn`] follows, after a
    /// last look.
    pub fn is_over(&self, moment: &Moment) -> bool {
        match (self.period.day, today(moment)) {
            (Some(day), Some(today)) => day != today,
            // It goes on until the clock is trusted again, or a day is over.
            (Some(_), None) | (None, None) => self.period.lasted_ms >= DAY_MS,
            (None, Some(_)) => true,
        }
    }

    /// Begins the period of this moment and goes on with what is `kept` of it. Returns the one
    /// before; `None` if that is the beginning of this one.
    pub fn turn(
        &mut self,
        moment: &Moment,
        kept: impl FnOnce(Option<u64>) -> Option<Period>,
    ) -> Option<Period> {
        let today = today(moment);
        let begun = moment.wall.map(|wall| wall.0.saturating_sub(self.period.lasted_ms) / DAY_MS);
        let is_of_today = self.is_fresh && self.period.day.is_none() && begun == today;
        let next = kept(today).unwrap_or_else(|| Period { day: today, ..Period::default() });
        let was_kept = !next.devices.is_empty();
        let before = std::mem::replace(&mut self.period, next);
        if today.is_some() && is_of_today {
            // Counted before the clock was known, on this day all the same.
            self.is_changed = !before.devices.is_empty();
            self.period.merge(before);
            self.is_fresh = false;
            return None;
        }
        (self.is_changed, self.is_fresh) = (false, today.is_none() && !was_kept);
        Some(before)
    }
}

fn today(moment: &Moment) -> Option<u64> {
    moment.wall.map(|wall| wall.0 / DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use crate::gate::pattern::Pattern;
    use crate::gate::stage::Received;
    use crate::gate::template::Template;
    use crate::gate::{Device, Gate, LocalSize, Quota, Role, Settings, UplinkRule};
    use crate::message::{Method, Path, Stamp};
    use std::time::Duration;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 20_000;

    fn at(hours: u64, wall: Option<u64>) -> Moment {
        let now = Instant::now();
        Moment { now, boottime_ms: hours * HOUR, wall: wall.map(UnixTime), ages_from: None }
    }

    /// A gate whose `door-7` may send 10 readings.
    fn gate() -> Gate {
        let name = |text| Name::parse(text).expect("a name");
        let role = Role {
            quota: Quota { messages: 1, bytes: 1 << 20, per: Duration::from_secs(86_400), burst: 10 },
            uplink: vec![UplinkRule::new(name("t"), Pattern::parse("t/#").expect("a pattern"))],
            ..Role::new(name("sensor"))
        };
        let settings = Settings {
            reading: Some(Template::parse("{prefix}/{device}/up/{path}").expect("a template")),
            roles: vec![role],
            devices: vec![Device::new(name("door-7"), name("sensor")).into()],
            ..Settings::empty(name("gw"))
        };
        Gate::new(settings, Instant::now())
    }

    fn views(gate: &Gate) -> impl Iterator<Item = DeviceView<'_>> {
        gate.devices(Instant::now())
    }

    /// It sends so many.
    fn sends(gate: &mut Gate, count: usize) {
        let device = gate.device_by_id("door-7").expect("the device");
        let received = Received {
            path: Path::parse("t/env").expect("a path"),
            query: None,
            method: Method::Post,
            payload: b"1234",
            content_format: None,
            blockwise: false,
            stamp: Stamp { boottime_ms: 1, wall_ms: None },
        };
        for _ in 0..count {
            // Beyond its quota it is refused.
            let _ = gate.admit(Instant::now(), device, received);
        }
    }

    fn of(period: &Period) -> (u64, u64, u64) {
        let counts = period.devices.get("door-7").copied().unwrap_or_default();
        (counts.messages, counts.bytes, counts.refused_total())
    }

    #[test]
    fn each_look_counts_what_came_since_the_one_before() {
        let mut gate = gate();
        let mut tally = Tally::new();
        let noon = DAY * DAY_MS + 12 * HOUR;
        assert!(tally.is_over(&at(0, Some(noon))), "the clock is trusted");
        assert_eq!(tally.turn(&at(0, Some(noon)), |_| None), None);
        tally.look(&at(0, Some(noon)), views(&gate));
        assert!(!tally.is_changed() && tally.period().devices.is_empty());
        sends(&mut gate, 7);
        tally.look(&at(1, Some(noon + HOUR)), views(&gate));
        assert_eq!((of(tally.period()), tally.is_changed()), ((7, 28, 0), true));
        tally.note_kept();
        tally.look(&at(1, Some(noon + HOUR)), views(&gate));
        assert!(!tally.is_changed());
        sends(&mut gate, 5);
        tally.look(&at(2, Some(noon + 2 * HOUR)), views(&gate));
        assert_eq!((of(tally.period()), tally.period().name()), ((10, 40, 2), "2024-10-04".to_owned()));
        let refused: Vec<_> = tally.period().devices["door-7"].refused().collect();
        assert_eq!(refused, [(Reason::OverQuota, 2)]);
        // The next day.
        let next = at(13, Some(noon + 13 * HOUR));
        assert!(tally.is_over(&next) && !tally.is_over(&at(3, Some(noon + 3 * HOUR))));
        let before = tally.turn(&next, |_| None).expect("the day before");
        assert_eq!((of(&before), before.day), ((10, 40, 2), Some(DAY)));
        assert_eq!((tally.period().day, of(tally.period())), (Some(DAY + 1), (0, 0, 0)));
    }

    #[test]
    fn messages_to_local_clients_are_counted_beside_readings() {
        let mut gate = gate();
        let mut tally = Tally::new();
        sends(&mut gate, 2);
        let device = gate.device_by_id("door-7").expect("the device");
        for _ in 0..3 {
            let size = LocalSize { payload: 4, properties: 0 };
            assert_eq!(gate.admit_local(Instant::now(), device, "home/x", size, Ok(())), Ok(()));
        }
        tally.look(&at(0, None), views(&gate));
        let counts = tally.period().devices["door-7"];
        assert_eq!((counts.messages, counts.bytes, counts.local), (2, 8, 3));
        let read = Period::parse(tally.period().encode().as_bytes()).expect("a period");
        assert_eq!(read.devices["door-7"].local, 3);
    }

    #[test]
    fn what_came_before_the_clock_was_trusted_is_of_the_day_if_that_began_later() {
        let mut gate = gate();
        let mut tally = Tally::new();
        sends(&mut gate, 2);
        tally.look(&at(0, None), views(&gate));
        let one = Some(DAY * DAY_MS + HOUR);
        tally.look(&at(1, one), views(&gate));
        let kept = Period { day: Some(DAY), lasted_ms: 5, devices: tally.period().devices.clone() };
        assert_eq!(tally.turn(&at(1, one), |day| (day == Some(DAY)).then_some(kept)), None);
        assert_eq!((of(tally.period()), tally.period().day), ((4, 16, 0), Some(DAY)));

        // The gateway ran over midnight before it knew the time.
        let mut tally = Tally::new();
        tally.look(&at(0, None), views(&gate));
        tally.look(&at(2, one), views(&gate));
        let before = tally.turn(&at(2, one), |_| None).expect("a period without a date");
        assert_eq!((before.name(), of(&before)), ("undated".to_owned(), (2, 8, 0)));
    }

    #[test]
    fn without_a_trusted_clock_a_period_is_24_h_and_goes_on_after_a_restart() {
        let mut gate = gate();
        let mut tally = Tally::new();
        let mut kept = Period { lasted_ms: 20 * HOUR, ..Period::default() };
        kept.devices
            .insert(Name::parse("door-7").expect("a name"), Counts { messages: 3, ..Counts::default() });
        assert!(tally.turn(&at(0, None), |day| day.is_none().then_some(kept)).is_some());
        sends(&mut gate, 1);
        tally.look(&at(0, None), views(&gate));
        tally.look(&at(3, None), views(&gate));
        assert!(!tally.is_over(&at(3, None)));
        assert_eq!(of(tally.period()).0, 4);
        // It is of an earlier process, so it never becomes a day.
        let noon = Some(DAY * DAY_MS + 23 * HOUR);
        assert!(tally.is_over(&at(3, noon)));
        tally.look(&at(4, None), views(&gate));
        assert!(tally.is_over(&at(4, None)));
        let before = tally.turn(&at(4, noon), |_| None).expect("a period");
        assert_eq!((before.day, before.lasted_ms), (None, 24 * HOUR));
    }

    #[test]
    fn a_text_is_read_again_and_damage_is_found() {
        let name = |text| Name::parse(text).expect("a name");
        let mut counts =
            Counts { messages: 7, bytes: u64::MAX, filtered: 1, unstored: 2, local: 9, ..Counts::default() };
        assert!(Reason::ALL.iter().all(|reason| reason.as_str() != LOCAL));
        counts.refused = [3; REASONS];
        let devices = [(name("crc"), counts), (name("door-7"), Counts::default())].into();
        let period = Period { day: Some(DAY), lasted_ms: 9, devices };
        let text = period.encode();
        assert_eq!(Period::parse(text.as_bytes()), Ok(period.clone()));
        for cut in [0, 1, 20, text.len() - 1] {
            assert!(Period::parse(&text.as_bytes()[..cut]).is_err(), "{cut}");
        }
        assert!(Period::parse(text.replace("crc 7", "crc 8").as_bytes()).is_err());
        let undated = Period { day: None, ..period };
        assert_eq!(Period::parse(undated.encode().as_bytes()), Ok(undated));
        // A device without refusals: 10,000 of them are 300 kB a day.
        let plain = Counts { messages: 1_440, bytes: 30_000, ..Counts::default() };
        let one = Period { devices: [(name("device-12345"), plain)].into(), ..Period::default() };
        assert!(one.encode().len() - Period::default().encode().len() <= 30, "{}", one.encode());
        assert!(size_of::<Counts>() <= 96);
    }
}
