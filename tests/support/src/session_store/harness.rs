//! A log on the fake disk, beside a model of what it was told: what must, may and must not be read
//! back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use tombolo::journal::storage::{Folder, Storage as _, StorageError, StoredFile as _};
use tombolo::session_store::log::{Log, Report};
use tombolo::session_store::storage::{Storage, StoredFile};
use tombolo::session_store::{Batch, Kept, Number};
use tombolo::splitmix::SplitMix64;

use crate::journal::disk::{FakeDisk, FakeFile};

/// The journal's fake disk as the store wants it: one folder of it.
#[derive(Clone, Default)]
pub struct Fake(pub FakeDisk);

pub struct File(FakeFile);

const FOLDER: Folder = Folder::Spare;

fn told<T>(result: Result<T, StorageError>) -> io::Result<T> {
    result.map_err(|error| match error {
        StorageError::Full => io::Error::from_raw_os_error(28),
        StorageError::ReadOnly => io::Error::from_raw_os_error(30),
        StorageError::Missing | StorageError::Gone => io::ErrorKind::NotFound.into(),
        StorageError::Other(number) => io::Error::from_raw_os_error(number),
    })
}

impl Storage for Fake {
    type File = File;

    fn open(&self, name: &str) -> io::Result<(File, u64)> {
        let file = told(self.0.open(FOLDER, name))?;
        let sizes = told(self.0.list(FOLDER))?;
        let size = sizes.iter().find(|(n, _)| n == name).map_or(0, |(_, size)| *size);
        Ok((File(file), size))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        if self.has(name) {
            self.remove(name)?;
        }
        told(self.0.create(FOLDER, name)).map(File)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        told(self.0.rename((FOLDER, from), (FOLDER, to)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        told(self.0.remove(FOLDER, name))
    }

    fn sync_names(&self) -> io::Result<()> {
        told(self.0.sync_folder(FOLDER))
    }
}

impl StoredFile for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        told(self.0.read_at(offset, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        told(self.0.write_at(offset, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        told(self.0.sync())
    }
}

impl Fake {
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.0.put(FOLDER, name, 0, bytes);
    }

    pub fn flip(&self, bit: usize) {
        self.0.flip(FOLDER, "log", bit);
    }

    pub fn truncate(&self, length: usize) {
        self.0.truncate(FOLDER, "log", length);
    }

    pub fn make_unreadable(&self, offset: usize) {
        self.0.make_unreadable(FOLDER, "log", offset);
    }

    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.0.files().into_iter().find(|(_, n, _)| n == name).map(|(_, _, content)| content)
    }

    pub fn names(&self) -> Vec<String> {
        self.0.files().into_iter().map(|(_, name, _)| name).collect()
    }
}

/// What a session was sealed as: names itself.
pub fn sealed(number: Number, length: usize) -> Vec<u8> {
    let mut random = SplitMix64::new(number);
    let mut bytes = number.to_le_bytes().to_vec();
    while bytes.len() < length {
        bytes.extend(random.next_u64().to_le_bytes());
    }
    bytes.truncate(length.max(8));
    bytes
}

/// What the log was told.
#[derive(Clone, Default)]
pub struct Model {
    /// All sessions that were ever handed over.
    pub told: BTreeMap<Number, Vec<u8>>,
    /// Those whose commit succeeded.
    pub committed: BTreeSet<Number>,
    /// Asked to be ended; and those whose commit succeeded.
    pub ending: BTreeSet<Number>,
    pub ended: BTreeSet<Number>,
}

pub struct Rig {
    pub disk: Fake,
    pub log: Log<Fake>,
    pub kept: Vec<Kept>,
    pub report: Report,
    pub model: Model,
    pub batch: Batch,
    next: Number,
}

impl Rig {
    pub fn on(disk: Fake, model: Model) -> Rig {
        let (log, kept, report) = Log::open(disk.clone()).expect("it opens");
        let next = log.next_number().max(model.told.last_key_value().map_or(1, |(number, _)| number + 1));
        let mut rig = Rig { disk, log, kept, report, model, batch: Batch::default(), next };
        rig.check();
        // Begins the run; a disk that fails here fails later too.
        drop(rig.log.begin());
        rig
    }

    pub fn new() -> Rig {
        Rig::on(Fake::default(), Model::default())
    }

    /// Ends this process without a word and opens what is left on `disk`.
    pub fn reopened_on(self, disk: FakeDisk) -> Rig {
        Rig::on(Fake(disk), self.model)
    }

    /// Ends this process without a word, on a disk that stays.
    pub fn reopened(self) -> Rig {
        let disk = self.disk.clone();
        Rig::on(disk, self.model)
    }

    /// What was read back is what was told, all that must be there and nothing that must not.
    pub fn check(&mut self) {
        for kept in &self.kept {
            assert_eq!(self.model.told.get(&kept.number), Some(&kept.sealed), "{} is invented", kept.number);
            assert!(!self.model.ended.contains(&kept.number), "{} has ended", kept.number);
            assert!(kept.run >= 1 && kept.run < self.log.run());
        }
        let there: BTreeSet<Number> = self.kept.iter().map(|kept| kept.number).collect();
        for number in self.model.committed.difference(&self.model.ending) {
            assert!(there.contains(number), "{number} is lost");
        }
        // What is there though nobody was told so counts as told.
        // What was to end and is there again has not ended.
        self.model.ending.retain(|number| !there.contains(number));
        self.model.committed = there;
    }

    pub fn establish(&mut self, length: usize) -> Number {
        let number = self.next;
        self.next += 1;
        let sealed = sealed(number, length);
        self.model.told.insert(number, sealed.clone());
        self.batch.establish(number, sealed);
        number
    }

    pub fn end(&mut self, number: Number) {
        self.batch.end(number);
        self.model.ending.insert(number);
    }

    /// Commits as the thread does: what was not written is tried again the next time.
    pub fn commit(&mut self) -> io::Result<()> {
        let result = self.log.commit(&self.batch);
        match &result {
            Ok(()) => {
                self.model.committed.extend(self.batch.established.keys());
                self.model.ended.extend(self.model.ending.iter());
                self.batch = Batch::default();
            }
            Err(_) => self.batch.ended.clear(),
        }
        result
    }

    /// Sessions that stand, by what the model knows.
    pub fn standing(&self) -> Vec<Number> {
        self.model.committed.difference(&self.model.ending).copied().collect()
    }
}

/// A life with all that happens to a log: growth, ends, ends before the commit, writing anew. Stops
/// when the power does.
pub fn live(rig: &mut Rig, seed: u64) {
    let mut random = SplitMix64::new(seed);
    for round in 0..28 {
        let mut random = |below: u64| random.below(below);
        // Large ones, so that the log is written anew within this life.
        let length = 200 + random(3_800) as usize;
        for _ in 0..=random(20) {
            rig.establish(length);
        }
        if round % 3 == 0 {
            let short = rig.establish(100);
            rig.end(short);
        }
        let standing = rig.standing();
        for number in standing.iter().take(standing.len().saturating_sub(6)) {
            if random(3) > 0 {
                rig.end(*number);
            }
        }
        drop(rig.commit());
        if rig.disk.0.is_off() {
            return;
        }
    }
}
