//! The retained gateway status: what the broker's side can know of this gateway without asking it.
//!
//! States (lanes paused, the clock's verdict, problems) are said at once, at most every 5 s;
//! numbers every 15 min. The uplink says it after each CONNACK, and its will says
//! `"online": false`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::spawn_local;

use super::link::Link;
use crate::clock::{Moment, UnixTime};
use crate::durable::io::regular;
use crate::journal::io::Rejected;
use crate::message::Lane;
use crate::northbound::certificate::Certificate;
use crate::northbound::publication::age_ms;

/// Numbers are said so often.
const NUMBERS_EVERY: Duration = Duration::from_secs(900);
/// States at most so often.
const STATES_EVERY: Duration = Duration::from_secs(5);
/// Most problems named; the others are counted.
const PROBLEMS_MAX: usize = 8;
const DAY_S: u64 = 86_400;

/// What changes now and then and is worth saying at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// `5` or `3.1.1`.
    pub protocol: Option<String>,
    /// By lane: why nothing of it leaves although the uplink is there.
    pub paused: [Option<String>; 2],
    /// Whether the clock is believed.
    pub clock_trusted: bool,
    /// What is wrong and needs somebody.
    pub problems: Vec<String>,
    /// How many connections to the broker there have been: what was said last is said again on
    /// each, so soon anew.
    pub connection: u64,
}

/// What changes all the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// By lane: records and bytes waiting.
    pub lanes: [(u64, u64); 2],
    /// Records in the rejected store.
    pub rejected: u64,
    /// Records lost ever.
    pub lost: u64,
    /// Records that could not be read and are kept.
    pub unreadable: u64,
}

/// What does not change while the process runs, or is known to it anyway.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The gateway's id.
    pub gateway: String,
    /// All clocks.
    pub moment: Moment,
    /// Wall time, while it is trusted.
    pub wall: Option<UnixTime>,
    /// How long the process has run.
    pub uptime: Duration,
    /// How long the protocol has been the present one.
    pub protocol_for: Option<Duration>,
    /// The folder whose disk is meant.
    pub state_dir: PathBuf,
    /// The gateway's own certificate towards the broker, if it has one.
    pub certificate: Option<PathBuf>,
}

#[derive(Serialize)]
struct Payload {
    online: bool,
    gateway: String,
    version: &'static str,
    /// RFC 3339; `null` while the time is not known.
    since: Option<String>,
    protocol: Option<String>,
    protocol_since: Option<String>,
    lanes: BTreeMap<&'static str, LanePayload>,
    rejected: u64,
    lost: u64,
    unreadable: u64,
    clock_trusted: bool,
    /// Whole days until the gateway's own certificate expires; negative once it has.
    certificate_days: Option<i64>,
    disk_free_bytes: Option<u64>,
    /// To the disk of the state directory, by all programs, since midnight UTC, or the start,
    /// whichever came later.
    written_today_bytes: Option<u64>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct LanePayload {
    records: u64,
    bytes: u64,
    oldest_s: Option<u64>,
    paused: Option<String>,
}

/// When it is said, and what was said last.
#[derive(Default)]
pub struct GatewayStatus {
    said: Option<(States, Instant)>,
    /// One is being put together.
    busy: Rc<Cell<bool>>,
    written: Written,
}

/// What had been written when the day began.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    day: u64,
    before: Option<u64>,
}

impl Written {
    /// Of `total` bytes written in all, those since the first call and of the day `wall` lies in.
    fn today(&mut self, total: u64, wall: Option<UnixTime>) -> u64 {
        let day = wall.map_or(self.day, |wall| wall.as_secs() / DAY_S);
        let before = self.before.get_or_insert(total);
        if day != self.day {
            // The first time the day is known it began before the process, or with it.
            if self.day != 0 {
                *before = total;
            }
            self.day = day;
        }
        total.saturating_sub(*before)
    }
}

impl GatewayStatus {
    /// Says all of it with the next [`GatewayStatus::care`].
    pub fn forget(&mut self) {
        self.said = None;
    }

    /// Whether something is to be said now.
    fn is_due(&self, states: &States, now: Instant) -> bool {
        let Some((said, at)) = &self.said else { return true };
        let since = now.saturating_duration_since(*at);
        since >= NUMBERS_EVERY || (said != states && since >= STATES_EVERY)
    }

    /// Says what is due, once it is put together beside the path: the disk may take its time.
    pub fn care(
        &mut self,
        now: Instant,
        states: States,
        numbers: Numbers,
        facts: Facts,
        store: Rejected,
        link: &Rc<Link>,
    ) {
        if self.busy.get() || !self.is_due(&states, now) {
            return;
        }
        self.said = Some((states.clone(), now));
        self.busy.set(true);
        let (busy, link) = (self.busy.clone(), link.clone());
        let written_today_bytes =
            written(&facts.state_dir).map(|total| self.written.today(total, facts.wall));
        spawn_local(async move {
            let mut oldest = [None; 2];
            for lane in Lane::ALL {
                let found = store.oldest(lane).await;
                let age = found.and_then(|of| age_ms(of.received, of.same_boot, &facts.moment));
                oldest[lane.index()] = age.map(|ms| ms / 1_000);
            }
            let (state_dir, certificate) = (facts.state_dir.clone(), facts.certificate.clone());
            let asked = tokio::task::spawn_blocking(move || {
                (free_bytes(&state_dir), certificate.and_then(|file| expiry(&file)))
            });
            let (disk_free_bytes, expiry) = asked.await.unwrap_or_default();
            let payload =
                payload(states, numbers, &facts, oldest, disk_free_bytes, expiry, written_today_bytes);
            if let Ok(json) = serde_json::to_vec(&payload) {
                link.set_gateway_status(json);
            }
            busy.set(false);
        });
    }
}

fn payload(
    states: States,
    numbers: Numbers,
    facts: &Facts,
    oldest: [Option<u64>; 2],
    disk_free_bytes: Option<u64>,
    expiry: Option<UnixTime>,
    written_today_bytes: Option<u64>,
) -> Payload {
    let before = |span: Duration| {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        facts.wall.map(|wall| UnixTime(wall.0.saturating_sub(ms)).to_string())
    };
    let mut paused = states.paused;
    let lanes = Lane::ALL.map(|lane| {
        let index = lane.index();
        let (records, bytes) = numbers.lanes[index];
        let oldest_s = oldest[index].filter(|_| records > 0);
        (lane.as_str(), LanePayload { records, bytes, oldest_s, paused: paused[index].take() })
    });
    let mut problems = states.problems;
    if problems.len() > PROBLEMS_MAX {
        let more = problems.len() - PROBLEMS_MAX;
        problems.truncate(PROBLEMS_MAX);
        problems.push(format!("{more} more; `tombolo status` names them"));
    }
    let days = |until: UnixTime, wall: UnixTime| {
        let seconds = i64::try_from(until.as_secs()).ok()? - i64::try_from(wall.as_secs()).ok()?;
        Some(seconds.div_euclid(DAY_S as i64))
    };
    Payload {
        online: true,
        gateway: facts.gateway.clone(),
        version: env!("CARGO_PKG_VERSION"),
        since: before(facts.uptime),
        protocol_since: facts.protocol_for.and_then(before),
        protocol: states.protocol,
        lanes: BTreeMap::from(lanes),
        rejected: numbers.rejected,
        lost: numbers.lost,
        unreadable: numbers.unreadable,
        clock_trusted: states.clock_trusted,
        certificate_days: expiry.zip(facts.wall).and_then(|(until, wall)| days(until, wall)),
        disk_free_bytes,
        written_today_bytes,
        problems,
    }
}

/// How old a record is, where both times are known and the clock has not jumped without proof
/// between them.
/// Bytes written to the partition that `folder` is on, by all programs, since it was found
/// (Documentation/admin-guide/iostats.rst of Linux, field 7, in sectors of 512 bytes). `None` where
/// the file system has no device of its own.
///
/// Not `write_bytes` of `/proc/self/io`: that counts whole folios, of up to 2 MiB, each time a page
/// of theirs becomes dirty.
fn written(folder: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let device = std::fs::metadata(folder).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    text.split_ascii_whitespace().nth(6)?.parse::<u64>().ok()?.checked_mul(512)
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    #[allow(clippy::useless_conversion, reason = "both are narrower on 32-bit targets")]
    Some(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
}

/// Greatest file with a certificate that is read, in bytes.
const CERTIFICATE_MAX: u64 = 1 << 20;

/// Until when the first certificate in a file is valid.
fn expiry(file: &Path) -> Option<UnixTime> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let bytes = regular::read(file, CERTIFICATE_MAX).ok()?;
    let der = CertificateDer::from_pem_slice(&bytes).ok()?;
    Some(Certificate::parse(&der)?.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(problem: &str) -> States {
        States { problems: vec![problem.to_owned()], ..States::default() }
    }

    #[test]
    fn states_are_said_at_once_and_numbers_every_quarter_of_an_hour() {
        let begin = Instant::now();
        let mut status = GatewayStatus::default();
        assert!(status.is_due(&states("a"), begin));
        status.said = Some((states("a"), begin));
        assert!(!status.is_due(&states("a"), begin + Duration::from_secs(899)));
        assert!(status.is_due(&states("a"), begin + Duration::from_secs(900)));
        assert!(!status.is_due(&states("b"), begin + Duration::from_secs(4)), "not more often than that");
        assert!(status.is_due(&states("b"), begin + Duration::from_secs(5)));
    }

    #[test]
    fn what_was_written_today_begins_anew_with_each_day() {
        let at = |day: u64| Some(UnixTime::from_secs(day * DAY_S + 7));
        let mut written = Written::default();
        assert_eq!(written.today(100, None), 0);
        assert_eq!(written.today(250, at(20_000)), 150);
        assert_eq!(written.today(400, at(20_001)), 0);
        assert_eq!(written.today(450, None), 50);
        assert_eq!(written.today(500, at(20_001)), 100);
    }

    #[test]
    fn the_payload_has_the_keys_of_the_contract_and_no_time_that_is_not_known() {
        let numbers = Numbers { lanes: [(0, 0), (3, 900)], rejected: 1, lost: 2, unreadable: 4 };
        let mut facts = Facts {
            gateway: "gw".into(),
            moment: Moment { now: Instant::now(), boottime_ms: 0, wall: None, ages_from: None },
            wall: None,
            uptime: Duration::from_secs(10),
            protocol_for: Some(Duration::from_secs(5)),
            state_dir: "/".into(),
            certificate: None,
        };
        let made = |facts: &Facts| {
            let expiry = Some(UnixTime::from_secs(1_800_000_000 + 3 * DAY_S + 5));
            let all =
                payload(states("x"), numbers.clone(), facts, [None, Some(60)], Some(5), expiry, Some(6));
            serde_json::to_value(all).unwrap()
        };
        let untimed = made(&facts);
        for key in [
            "online",
            "gateway",
            "version",
            "since",
            "protocol",
            "protocol_since",
            "lanes",
            "rejected",
            "lost",
            "unreadable",
            "clock_trusted",
            "certificate_days",
            "disk_free_bytes",
            "written_today_bytes",
            "problems",
        ] {
            assert!(untimed.get(key).is_some(), "{key}");
        }
        assert!(untimed["since"].is_null() && untimed["certificate_days"].is_null());
        assert_eq!(untimed["lanes"]["normal"]["oldest_s"], 60);
        assert_eq!(untimed["lanes"]["high"]["records"], 0);
        facts.wall = Some(UnixTime::from_secs(1_800_000_000));
        let timed = made(&facts);
        assert_eq!(timed["since"], "2027-01-15T07:59:50.000Z");
        assert_eq!(timed["protocol_since"], "2027-01-15T07:59:55.000Z");
        assert_eq!(timed["certificate_days"], 3);
    }
}
