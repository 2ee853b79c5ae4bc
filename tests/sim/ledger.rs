//! What was promised, and whether it is kept.
//!
//! The ledger hears facts from outside the product: what devices say, what leaves the gateway for
//! them, which records a commit made durable, what the broker receives and acknowledges. Each
//! reading is known by a number in its payload, its mark. A fact that breaks a promise is an error
//! at once; [`Ledger::audit`] compares all that is owed with what is on the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::product::*;
use crate::rules::{PREFIX, Site};
use tombolo_test_support::broker::{Delivered, Reply};

/// What is known of one reading.
#[derive(Debug)]
pub struct Reading {
    pub device: String,
    pub path: String,
    pub payload: Vec<u8>,
    pub said_at: Instant,
    /// The site's epoch when the device began to say it.
    epoch: usize,
    /// A commit made it durable, ever.
    pub committed: bool,
    /// How often, under how many ids.
    pub commits: u32,
    /// Its sender was told that it is stored, or passed on.
    pub answered: bool,
    /// The broker has taken it.
    pub delivered: bool,
    /// The broker has sent a PUBACK below 0x80 for it.
    pub acknowledged: bool,
    /// Named as lost or set aside, and why.
    pub named: Option<&'static str>,
    /// The CoAP code by which its sender was told that it never passes.
    pub refused: Option<u8>,
}

/// A quota, read naively: a bucket of messages.
#[derive(Debug)]
struct Bucket {
    left: f64,
    since: Instant,
}

pub struct Ledger {
    pub now: Instant,
    /// The site as it was and is, oldest first.
    sites: Vec<Site>,
    pub readings: Vec<Reading>,
    /// Which reading a record holds.
    records: BTreeMap<(Lane, u64), u64>,
    /// Which reading was published under an id.
    ids: HashMap<String, u64>,
    /// PUBACKs on their way.
    due: Vec<(Instant, u64)>,
    /// Ranges named as lost by the journal, each with its run at both ends.
    losses: BTreeMap<(Lane, u64), LossReport>,
    /// What the loss topic has told: records by lane and cause.
    told: BTreeMap<String, u64>,
    buckets: HashMap<String, Bucket>,
    /// Readings whose completion the store reported as stored, in this process.
    pub completed: u64,
    /// The owner's bound lets the oldest go.
    pub drops_oldest: bool,
    pub broken: Option<String>,
}

/// What the disk and the journal hold.
#[derive(Default)]
pub struct Holdings {
    /// Marks of records that can be read, in the lanes and the rejected store.
    pub marks: BTreeSet<u64>,
    /// Where in the lanes they are.
    pub places: Vec<(Lane, u64, u64)>,
    /// Ranges that cannot be read now and are listed.
    pub unreadable: Vec<(Lane, u64, u64)>,
    /// Entries of the rejected store cannot be read now.
    pub rejected_unread: bool,
}

/// The payload of a reading: its mark, and some bytes more.
pub fn payload(mark: u64, length: usize) -> Vec<u8> {
    let mut bytes = format!("#{mark}#").into_bytes();
    while bytes.len() < length {
        bytes.push(b'a' + (bytes.len() as u64 * 7 + mark) as u8 % 26);
    }
    bytes
}

pub fn mark_of(payload: &[u8]) -> Option<u64> {
    let rest = payload.strip_prefix(b"#")?;
    let end = rest.iter().position(|byte| *byte == b'#')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

impl Ledger {
    pub fn new(now: Instant, site: Site) -> Ledger {
        Ledger {
            now,
            sites: vec![site],
            readings: Vec::new(),
            records: BTreeMap::new(),
            ids: HashMap::new(),
            due: Vec::new(),
            losses: BTreeMap::new(),
            told: BTreeMap::new(),
            buckets: HashMap::new(),
            completed: 0,
            drops_oldest: false,
            broken: None,
        }
    }

    pub fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    pub fn site(&self) -> &Site {
        self.sites.last().expect("there is one from the start")
    }

    fn reading(&mut self, mark: u64) -> Option<&mut Reading> {
        self.readings.get_mut(mark as usize)
    }

    /// Time passes: PUBACKs under way arrive.
    pub fn time(&mut self, now: Instant) {
        self.now = now;
        let due = std::mem::take(&mut self.due);
        for (at, mark) in due {
            if at > now {
                self.due.push((at, mark));
            } else if let Some(reading) = self.reading(mark) {
                reading.acknowledged = true;
            }
        }
    }

    /// A device begins to say something: the mark and the bytes.
    pub fn said(&mut self, device: &str, path: &str, length: usize) -> (u64, Vec<u8>) {
        let mark = self.readings.len() as u64;
        let payload = payload(mark, length);
        self.readings.push(Reading {
            device: device.to_owned(),
            path: path.to_owned(),
            payload: payload.clone(),
            said_at: self.now,
            epoch: self.sites.len() - 1,
            committed: false,
            commits: 0,
            answered: false,
            delivered: false,
            acknowledged: false,
            named: None,
            refused: None,
        });
        (mark, payload)
    }

    /// The owner changed the site.
    pub fn reloaded(&mut self, site: Site) {
        let before = self.site().clone();
        let quota =
            |site: &Site, id: &str| site.role_of(id).map(|role| (role.messages, role.per_s, role.burst));
        // A changed quota starts full.
        self.buckets.retain(|id, _| quota(&before, id) == quota(&site, id));
        self.sites.push(site);
    }

    /// Another process: all that was in memory is gone.
    pub fn restarted(&mut self) {
        self.buckets.clear();
        self.due.clear();
        self.records.clear();
        self.completed = 0;
    }

    /// The connection to the broker is gone, and with it PUBACKs under way.
    pub fn disconnected(&mut self) {
        self.due.clear();
    }

    /// The gate let a reading pass, and the store took it.
    pub fn admitted(&mut self, content: &Content<'_>, lane: Lane) {
        let Some(mark) = mark_of(content.payload) else {
            return self.fail(format!("{:?} was admitted and nobody said it", content.topic));
        };
        let (device, path, now) = (content.device, content.path, self.now);
        match self.site().allows(device, path) {
            Some(allowed) if allowed.topic == content.topic && allowed.lane == lane => {}
            other => {
                let topic = content.topic;
                self.fail(format!("{device} {path} was admitted to {topic}; the rules say {other:?}"));
            }
        }
        if self.reading(mark).is_none_or(|reading| reading.device != device) {
            self.fail(format!("reading {mark} was admitted as one of {device}"));
        }
        self.take_token(device, now);
    }

    fn take_token(&mut self, device: &str, now: Instant) {
        let Some(role) = self.site().role_of(device).cloned() else { return };
        let (burst, rate) = (f64::from(role.burst), f64::from(role.messages) / role.per_s as f64);
        let bucket = self.buckets.entry(device.to_owned()).or_insert(Bucket { left: burst, since: now });
        let flowed = now.saturating_duration_since(bucket.since).as_secs_f64() * rate;
        bucket.left = (bucket.left + flowed).min(burst) - 1.0;
        bucket.since = now;
        if bucket.left < -0.01 {
            self.fail(format!("{device} sends more than its quota of {} in {} s", role.messages, role.per_s));
        }
    }

    /// A commit made a record durable.
    pub fn committed(&mut self, lane: Lane, id: RecordId, mark: u64) {
        self.records.insert((lane, id.sequence), mark);
        if let Some(reading) = self.reading(mark) {
            reading.committed = true;
            reading.commits += 1;
        }
    }

    /// The sender is told that all is well.
    pub fn answered(&mut self, mark: u64) {
        let (first, newest) = (self.readings.get(mark as usize).map_or(0, |r| r.epoch), self.sites.len());
        let Some(reading) = self.readings.get_mut(mark as usize) else { return };
        reading.answered = true;
        let passes = self.sites[first..newest]
            .iter()
            .any(|site| site.allows(&reading.device, &reading.path).is_some_and(|allowed| !allowed.stored));
        if !reading.committed && !passes {
            self.fail(format!("reading {mark} was acknowledged to its device and no commit has it"));
        }
    }

    /// The sender is told that it never passes.
    pub fn refused(&mut self, mark: u64, code: u8) {
        if let Some(reading) = self.reading(mark) {
            reading.refused = Some(code);
        }
    }

    /// The broker has received a publish, and says so after `delay`.
    pub fn published(&mut self, delivered: &Delivered, reply: Reply, delay: Duration) {
        let topic = &delivered.topic;
        let Some(mark) = mark_of(&delivered.payload) else {
            let members = self.sites.iter().flat_map(|site| &site.members);
            let is_own = *topic == format!("{PREFIX}/gateway/status")
                || *topic == format!("{PREFIX}/gateway/loss")
                || members.into_iter().any(|member| *topic == format!("{PREFIX}/{}/status", member.id));
            if topic.ends_with("/gateway/loss") {
                self.loss_told(&delivered.payload, reply);
            }
            if !is_own {
                self.fail(format!("{topic} was published and nobody said it"));
            }
            return;
        };
        let epochs = self.sites.len();
        let Some(reading) = self.readings.get_mut(mark as usize) else {
            return self.fail(format!("{topic} was published and nobody said it"));
        };
        let allowed = self.sites[reading.epoch..epochs]
            .iter()
            .filter_map(|site| site.allows(&reading.device, &reading.path))
            .any(|allowed| allowed.topic == *topic);
        let (device, path) = (reading.device.clone(), reading.path.clone());
        let unchanged = reading.payload == delivered.payload;
        if matches!(reply, Reply::Ack(code) | Reply::AckAndClose(code) if code < 0x80) {
            reading.delivered = true;
            match delay.is_zero() {
                true => reading.acknowledged = true,
                false => self.due.push((self.now + delay, mark)),
            }
        } else if reply == Reply::Hold {
            reading.delivered = true;
        }
        if !allowed {
            return self.fail(format!("{device} {path} was published to {topic}; no rule allows it"));
        }
        if !unchanged {
            return self.fail(format!("the payload of reading {mark} was changed"));
        }
        if delivered.user("device").is_some_and(|named| named != device) {
            return self.fail(format!("reading {mark} of {device} was published as another device's"));
        }
        let Some(id) = delivered.user("id") else { return };
        if *self.ids.entry(id.to_owned()).or_insert(mark) != mark {
            self.fail(format!("the record id {id} was used twice"));
        }
    }

    fn loss_told(&mut self, payload: &[u8], reply: Reply) {
        if !matches!(reply, Reply::Ack(code) if code < 0x80) {
            return;
        }
        let Ok(told) = serde_json::from_slice::<serde_json::Value>(payload) else {
            return self.fail("the loss topic holds no JSON".to_owned());
        };
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let key = format!("{} {} {}", text(&told["lane"]), text(&told["cause"]), told["ranges"][0]["first"]);
        let count = told["count"].as_u64().unwrap_or_default();
        let known = self.told.entry(key).or_default();
        *known = count.max(*known);
    }

    /// Records of the lane are released by the uplink.
    pub fn released(&mut self, lane: Lane, first: u64, last: u64, settled: &RangeSet) {
        if first > last {
            return;
        }
        let unacknowledged =
            self.records.range((lane, first)..=(lane, last)).find(|((_, sequence), mark)| {
                let reading = &self.readings[**mark as usize];
                !reading.acknowledged && reading.named.is_none() && !settled.contains(*sequence)
            });
        if let Some(((_, sequence), mark)) = unacknowledged {
            let why = format!("record {sequence} of {lane} (reading {mark}) was released before its PUBACK");
            self.fail(why);
        }
    }

    /// A record's time is over, the uplink says.
    pub fn expired(&mut self, lane: Lane, sequence: u64) {
        let Some(mark) = self.records.get(&(lane, sequence)).copied() else { return };
        let now = self.now;
        let reading = &mut self.readings[mark as usize];
        let age = now.saturating_duration_since(reading.said_at);
        reading.named = Some("expired");
        let expires = self.sites[reading.epoch..]
            .iter()
            .filter_map(|site| site.allows(&reading.device, &reading.path)?.expires_s)
            .min();
        if expires.is_none_or(|seconds| age < Duration::from_secs(seconds)) {
            self.fail(format!("reading {mark} expired {} s after it was said", age.as_secs()));
        }
    }

    /// A record went to the rejected store, or is to go there.
    pub fn set_aside(&mut self, lane: Lane, sequence: u64) {
        if let Some(mark) = self.records.get(&(lane, sequence)).copied() {
            self.readings[mark as usize].named.get_or_insert("rejected");
        }
    }

    /// The journal names records as lost.
    pub fn lost(&mut self, report: LossReport) {
        if self.losses.insert((report.lane, report.number), report).is_some_and(|known| known == report) {
            return;
        }
        if report.cause == LossCause::Dropped && !self.drops_oldest {
            self.fail(format!("{} dropped records though it is to refuse", report.lane));
        }
        let range = (report.lane, report.first.sequence)..=(report.lane, report.last.sequence);
        for (_, mark) in self.records.range(range) {
            self.readings[*mark as usize].named = Some(report.cause.as_str());
        }
    }

    /// What is owed is on the disk, or was taken by the broker, or is named.
    pub fn audit(&mut self, holdings: &Holdings) {
        let missing = self.readings.iter().zip(0u64..).find(|(reading, mark)| {
            reading.answered
                && reading.committed
                && !reading.delivered
                && reading.named.is_none_or(|why| why == "rejected" && !holdings.rejected_unread)
                && !holdings.marks.contains(mark)
        });
        let Some((_, mark)) = missing else { return };
        let place = self.records.iter().find(|(_, known)| **known == mark).map(|(place, _)| *place);
        let is_listed = place.is_some_and(|(lane, sequence)| {
            let unreadable =
                |range: &&(Lane, u64, u64)| range.0 == lane && (range.1..=range.2).contains(&sequence);
            holdings.unreadable.iter().any(|range| unreadable(&range))
        });
        if !is_listed {
            self.fail(format!("reading {mark} was acknowledged; it is not delivered, not stored, not named"));
        }
    }

    /// Records that can be read, after an opening.
    pub fn found(&mut self, lane: Lane, sequence: u64, mark: u64) {
        self.records.insert((lane, sequence), mark);
    }

    /// At the end, when all had time to drain: each promise, one by one.
    pub fn close(&mut self) {
        let owed = |reading: &Reading| reading.answered && reading.committed && !reading.delivered;
        let open =
            self.readings.iter().zip(0u64..).find(|(reading, _)| owed(reading) && reading.named.is_none());
        if let Some((reading, mark)) = open {
            let why = format!("reading {mark} of {} was acknowledged and never arrived", reading.device);
            return self.fail(why);
        }
        let named: u64 = self.losses.values().map(|loss| loss.count).sum();
        let told: u64 = self.told.values().sum();
        if told < named {
            self.fail(format!("{named} records are lost and the loss topic names {told}"));
        }
    }

    /// The owner put an old image of the disk back: what is not on it is the owner's loss.
    pub fn restored(&mut self, holdings: &Holdings) {
        for (reading, mark) in self.readings.iter_mut().zip(0u64..) {
            if reading.committed && !holdings.marks.contains(&mark) {
                reading.named = Some("restored");
            }
        }
    }

    /// How many readings are so.
    pub fn count(&self, is_so: impl Fn(&Reading) -> bool) -> usize {
        self.readings.iter().filter(|reading| is_so(reading)).count()
    }
}
