//! A journal on the fake disk, with a list of the operations: the list tells which records must,
//! may and must not be read back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tombolo::journal::LossCause;
use tombolo::journal::cursor::{Cursor, Fetch, Step};
use tombolo::journal::range::RangeSet;
use tombolo::journal::record::{Batch, Ticket};
use tombolo::journal::settings::{LaneSettings, Settings, WhenFull};
use tombolo::journal::storage::{Folder, Storage, StoredFile};
use tombolo::journal::store::{Seeds, Store, StoreReport};
use tombolo::journal::view::LaneView;
use tombolo::message::{Content, Envelope, Lane, Method, RecordId, Stamp};
use tombolo::splitmix::SplitMix64;

use super::disk::{FakeDisk, FakeFile};

pub const SEGMENT: u32 = 65_536;

pub fn settings(when_full: WhenFull, segments: u64) -> Settings {
    let lane = LaneSettings { max_bytes: segments * u64::from(SEGMENT), when_full, device_share: 100 };
    Settings {
        directory: "unused".into(),
        max_bytes: (2 * segments + 6) * u64::from(SEGMENT),
        commit_interval: Duration::from_millis(10),
        segment_bytes: SEGMENT,
        lanes: [lane; 2],
        rejected_max_bytes: 256 * 1024,
    }
}

/// A payload that names itself, `length` bytes long at least.
pub fn payload(mark: u64, length: usize) -> Vec<u8> {
    let mut bytes = mark.to_le_bytes().to_vec();
    let mut random = SplitMix64::new(mark);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(length.max(8));
    bytes
}

pub fn content(payload: &[u8]) -> Content<'_> {
    Content {
        device: "door-7",
        path: "t/env",
        query: None,
        topic: "tombolo/gw/door-7/up/t/env",
        method: Method::Post,
        content_format: None,
        retain: false,
        test: false,
        reply: None,
        envelope: Envelope::None,
        expires_s: None,
        received: Stamp { boottime_ms: 5, wall_ms: Some(1_700_000_000_000) },
        payload,
    }
}

/// A record as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub id: RecordId,
    pub payload: Vec<u8>,
}

/// What the model knows of a record that was appended.
#[derive(Clone, Debug)]
pub struct Known {
    pub run: u64,
    pub payload: Vec<u8>,
    pub acknowledged: bool,
}

/// What was told to one lane, over all openings.
#[derive(Clone, Debug, Default)]
pub struct LaneModel {
    /// All that was ever handed to a commit under this sequence.
    pub attempts: BTreeMap<u64, Vec<Known>>,
    /// Asked to be released, rejected or lost: may be gone, may be there.
    pub released: u64,
    pub leaving: BTreeSet<u64>,
    pub rejecting: BTreeSet<u64>,
    pub losing: BTreeSet<u64>,
}

impl LaneModel {
    /// Acknowledged and not released.
    pub fn must_be_there(&self) -> BTreeMap<u64, Got> {
        self.attempts
            .iter()
            .filter(|(sequence, _)| **sequence > self.released && !self.leaving.contains(sequence))
            .filter_map(|(sequence, attempts)| {
                let known = attempts.iter().find(|known| known.acknowledged)?;
                let id = RecordId { run: known.run, sequence: *sequence };
                Some((*sequence, Got { id, payload: known.payload.clone() }))
            })
            .collect()
    }
}

pub struct Rig {
    pub disk: FakeDisk,
    pub store: Store<FakeDisk>,
    pub report: StoreReport,
    pub now: Instant,
    pub batches: [Batch; 2],
    pub model: [LaneModel; 2],
    pub settings: Settings,
    opening: u64,
    mark: u64,
}

pub fn open(
    disk: &FakeDisk,
    settings: &Settings,
    opening: u64,
    now: Instant,
) -> (Store<FakeDisk>, StoreReport) {
    let seeds = Seeds {
        runs: [opening << 8 | 1, opening << 8 | 2],
        salt: opening.wrapping_mul(0x0dd0_beef_cafe_f00d),
        boot: [opening as u8; 16],
    };
    Store::open(now, Arc::new(disk.clone()), settings, seeds).expect("it opens")
}

impl Rig {
    pub fn new(settings: Settings) -> Rig {
        Rig::on(FakeDisk::default(), settings, Default::default(), 1)
    }

    pub fn on(disk: FakeDisk, settings: Settings, model: [LaneModel; 2], opening: u64) -> Rig {
        let now = Instant::now();
        let (store, report) = open(&disk, &settings, opening, now);
        let mark = opening << 32;
        Rig { disk, store, report, now, batches: Default::default(), model, settings, opening, mark }
    }

    /// Ends this process without a word and opens what is left on `disk`.
    pub fn reopened_on(self, disk: FakeDisk) -> Rig {
        Rig::on(disk, self.settings, self.model, self.opening + 1)
    }

    pub fn append(&mut self, lane: Lane, length: usize) -> u64 {
        let index = lane.index();
        self.mark += 1;
        let payload = payload(self.mark, length);
        let sequence = self.store.next_sequence(lane) + self.batches[index].records() as u64;
        let ticket = Some(Ticket(u128::from(self.mark)));
        self.batches[index].push(sequence, &content(&payload), None, ticket).unwrap();
        let known = Known { run: self.store.run(lane), payload, acknowledged: false };
        self.model[index].attempts.entry(sequence).or_default().push(known);
        sequence
    }

    /// Commits what was appended; how many records of each lane are durable.
    pub fn commit(&mut self) -> [usize; 2] {
        self.commit_with(false)
    }

    pub fn commit_with(&mut self, force: bool) -> [usize; 2] {
        self.now += Duration::from_millis(10);
        let first = Lane::ALL.map(|lane| self.store.next_sequence(lane));
        let outcomes = self.store.commit(self.now, &mut self.batches, force);
        for lane in Lane::ALL {
            let index = lane.index();
            let outcome = outcomes[index];
            assert_eq!(outcome.failure.is_none(), outcome.records == self.batches[index].records());
            for sequence in first[index]..first[index] + outcome.records as u64 {
                let attempts = self.model[index].attempts.get_mut(&sequence).unwrap();
                attempts.last_mut().unwrap().acknowledged = true;
            }
            self.batches[index].clear();
        }
        outcomes.map(|outcome| outcome.records)
    }

    /// Does what the journal thread does between commits.
    pub fn maintain(&mut self) {
        for _ in 0..100 {
            if !self.store.maintain(self.now) {
                return;
            }
        }
        panic!("maintenance never ends");
    }

    pub fn release(&mut self, lane: Lane, through: u64) {
        self.store.release(self.now, lane, through);
        let model = &mut self.model[lane.index()];
        model.released = model.released.max(through);
    }

    pub fn reject(&mut self, lane: Lane, sequence: u64) {
        self.store.reject(lane, sequence, 0x87);
        self.model[lane.index()].leaving.insert(sequence);
        self.model[lane.index()].rejecting.insert(sequence);
    }

    pub fn lose(&mut self, lane: Lane, sequence: u64) {
        self.store.lose(self.now, lane, sequence, sequence, LossCause::Expired);
        self.model[lane.index()].leaving.insert(sequence);
        self.model[lane.index()].losing.insert(sequence);
    }

    pub fn read(&self, lane: Lane) -> (Vec<Got>, Vec<(u64, u64)>) {
        read_all(&self.disk, &self.store, lane)
    }

    fn drops(&self) -> bool {
        self.settings.lanes[0].when_full == WhenFull::DropOldest
    }

    fn is_dropped(&self, lane: Lane, sequence: u64) -> bool {
        let total = self.store.lane_status(lane).lost[LossCause::Dropped as usize - 1];
        let losses = self.store.losses(lane);
        let named = losses.iter().filter(|loss| loss.cause == LossCause::Dropped).map(|loss| loss.count);
        if named.sum::<u64>() < total {
            // Decided, and not yet durable because the disk fails: then the record is there still.
            return sequence <= self.store.view(lane).released;
        }
        self.store.losses(lane).iter().any(|loss| {
            loss.cause == LossCause::Dropped && (loss.first.sequence..=loss.last.sequence).contains(&sequence)
        })
    }

    /// Everything the promise says about what is read back after an opening.
    pub fn check(&self) {
        for lane in Lane::ALL {
            let model = &self.model[lane.index()];
            let (got, lost) = self.read(lane);
            assert_eq!(lost, [], "{lane}: lost while reading");
            let status = self.store.lane_status(lane);
            assert_eq!(status.lost[LossCause::Damaged as usize - 1], 0, "{lane}: called damaged");
            let mut before = 0;
            for record in &got {
                assert!(record.id.sequence > before, "{lane}: not in order");
                before = record.id.sequence;
                let attempts = model.attempts.get(&record.id.sequence);
                let known = attempts
                    .into_iter()
                    .flatten()
                    .any(|known| known.run == record.id.run && known.payload == record.payload);
                assert!(known, "{lane}: {:?} was never appended", record.id);
            }
            let there: BTreeMap<u64, &Got> = got.iter().map(|got| (got.id.sequence, got)).collect();
            for (sequence, must) in model.must_be_there() {
                if self.drops() && self.is_dropped(lane, sequence) {
                    continue;
                }
                assert!(
                    there.get(&sequence) == Some(&&must),
                    "{lane}: acknowledged record {sequence} is not there; {:?} {:?}",
                    self.store.lane_status(lane),
                    self.store.losses(lane),
                );
            }
            // What was to be rejected is in one of both places.
            let undecided = |sequence: &&u64| **sequence > model.released && !model.losing.contains(sequence);
            for sequence in model.rejecting.iter().filter(undecided) {
                let aside =
                    self.store.rejected().any(|entry| entry.lane == lane && entry.id.sequence == *sequence);
                let was_stored = model.attempts[sequence].iter().any(|known| known.acknowledged);
                let dropped = self.drops() && self.is_dropped(lane, *sequence);
                assert!(
                    aside || dropped || there.contains_key(sequence) || !was_stored,
                    "{lane}: rejected {sequence}"
                );
            }
            for loss in self.store.losses(lane) {
                for sequence in loss.first.sequence..=loss.last.sequence {
                    match loss.cause {
                        LossCause::Expired => assert!(model.losing.contains(&sequence)),
                        LossCause::Torn => assert!(
                            model.attempts.get(&sequence).is_none_or(|a| a.iter().all(|k| !k.acknowledged)),
                            "{lane}: acknowledged record {sequence} counted as torn"
                        ),
                        LossCause::Discarded => assert!(model.rejecting.contains(&sequence)),
                        LossCause::Dropped if self.drops() => {
                            assert!(!there.contains_key(&sequence), "{lane}: {sequence} was not dropped");
                        }
                        other => panic!("{lane}: {other:?} {sequence}"),
                    }
                }
            }
        }
    }
}

/// Reads a lane from its oldest record on, as the uplink does; also what could not be read.
pub fn read_all(disk: &FakeDisk, store: &Store<FakeDisk>, lane: Lane) -> (Vec<Got>, Vec<(u64, u64)>) {
    let view = store.view(lane);
    let mut cursor = Cursor::new(view.released + 1);
    let (mut got, mut lost) = (Vec::new(), Vec::new());
    walk(disk, &view, &mut cursor, store.settled(lane).clone(), lane, |walked| match walked {
        Walked::Record(id, payload) => got.push(Got { id, payload }),
        Walked::Unreadable(first, last, _) | Walked::Lost(first, last) => lost.push((first, last)),
    });
    (got, lost)
}

/// What stands next in a lane.
pub enum Walked {
    Record(RecordId, Vec<u8>),
    /// The disk does not give it; in which segment.
    Unreadable(u64, u64, u64),
    Lost(u64, u64),
}

/// Goes through a lane as the reading thread and the path do together.
pub fn walk(
    disk: &FakeDisk,
    view: &LaneView<FakeFile>,
    cursor: &mut Cursor,
    settled: RangeSet,
    lane: Lane,
    mut found: impl FnMut(Walked),
) {
    let mut looked = None;
    loop {
        match cursor.advance(view, &settled) {
            Step::Empty => return,
            // What is not there is looked for twice.
            Step::Lost(first, _) if looked != Some(first) => {
                tombolo::journal::storage::Storage::wait_for_second_look(disk);
                looked = Some(first);
                cursor.seek(first);
            }
            Step::Lost(first, last) => found(Walked::Lost(first, last)),
            Step::Unreadable(first, last, number) => found(Walked::Unreadable(first, last, number)),
            Step::Unopened(segment) => {
                let (first, last) = (cursor.position(), segment.last_sequence);
                found(Walked::Unreadable(first, last, segment.number));
                cursor.seek(last + 1);
            }
            Step::Fetch(fetch) => {
                let file = match disk.open(Folder::of(lane), &fetch.segment.name()) {
                    Ok(file) => file,
                    Err(_) => {
                        cursor.supply_hole(&fetch, fetch.segment.layout.frame_limit);
                        continue;
                    }
                };
                match read_prefix(&file, fetch.offset, fetch.length) {
                    Ok(bytes) => {
                        let length = if bytes.is_empty() { fetch.length } else { bytes.len() as u32 };
                        cursor.supply(&Fetch { length, ..fetch }, &bytes);
                    }
                    Err(to) => cursor.supply_hole(&fetch, to),
                }
            }
            Step::Record => {
                let (sequence, run, reading) = cursor.reading().unwrap();
                assert_eq!(reading.content, content(reading.content.payload));
                let id = RecordId { run: run.run, sequence };
                found(Walked::Record(id, reading.content.payload.to_vec()));
            }
        }
    }
}

/// What can be read before the first sector that cannot; the end of that one where it is the first.
fn read_prefix(file: &impl StoredFile, offset: u32, length: u32) -> Result<Vec<u8>, u32> {
    let mut out = Vec::new();
    let mut sector = [0; SECTOR as usize];
    while out.len() < length as usize {
        let at = offset + out.len() as u32;
        let step = (SECTOR - at % SECTOR).min(length - out.len() as u32);
        match file.read_at(u64::from(at), &mut sector[..step as usize]) {
            Ok(0) => break,
            Ok(read) => out.extend_from_slice(&sector[..read]),
            Err(_) if out.is_empty() => return Err(at + step),
            Err(_) => break,
        }
    }
    Ok(out)
}

/// What the fake disk gives or does not give at once.
const SECTOR: u32 = 512;
