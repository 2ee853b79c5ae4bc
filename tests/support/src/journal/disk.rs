//! A disk in memory that loses unsynced data, tears writes, fails on demand, and has a power cut at
//! any operation.
//!
//! Its rules: a write is durable after a successful sync of its file, a name after a sync of its
//! folder. At a power cut each 512-byte sector with unsynced writes keeps any prefix of them,
//! independently of its neighbours; of the unsynced changes of names some prefix is kept. After a
//! failed sync the unsynced writes count as lost, though they can still be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tombolo::journal::storage::{Folder, Storage, StorageError, StoredFile};
use tombolo::splitmix::SplitMix64;

const SECTOR: usize = 512;
pub const EIO: StorageError = StorageError::Other(5);

type Name = (Folder, String);

#[derive(Clone, Default)]
struct Node {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum Change {
    Create(Name, u64),
    Rename(Name, Name),
    Remove(Name),
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Nothing,
    Everything,
    Some(u64),
}

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<u64, Node>,
    durable: BTreeMap<Name, u64>,
    current: BTreeMap<Name, u64>,
    changes: Vec<Change>,
    next_node: u64,
    operations: u64,
    cut_at: Option<u64>,
    fail_at: Option<u64>,
    off: bool,
    capacity: Option<usize>,
    read_only: bool,
    failing_syncs: u32,
    failing_writes: u32,
    unreadable: BTreeSet<(u64, usize)>,
    /// Files that cannot be opened.
    closed: BTreeSet<Name>,
    /// What is read as something else until it is looked at a second time.
    lies: Vec<(u64, usize, Vec<u8>)>,
    /// The same, from the next second look to the one after.
    later_lies: Vec<(u64, usize, Vec<u8>)>,
    second_looks: u32,
}

#[derive(Clone, Default)]
pub struct FakeDisk(Arc<Mutex<Inner>>);

pub struct FakeFile {
    disk: FakeDisk,
    node: u64,
}

fn apply(names: &mut BTreeMap<Name, u64>, change: &Change) {
    match change {
        Change::Create(name, node) => {
            names.insert(name.clone(), *node);
        }
        Change::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Inner {
    /// Counts an operation that changes something; true if the power goes off in the middle of it.
    fn step(&mut self) -> Result<bool, StorageError> {
        if self.off {
            return Err(EIO);
        }
        if self.read_only {
            return Err(StorageError::ReadOnly);
        }
        self.operations += 1;
        self.off = self.cut_at == Some(self.operations);
        Ok(self.off)
    }

    /// Whether the operation just counted is the one that is to fail.
    fn fails(&self) -> bool {
        self.fail_at == Some(self.operations)
    }

    fn used(&self) -> usize {
        self.current.values().filter_map(|node| self.nodes.get(node)).map(|node| node.current.len()).sum()
    }

    fn change(&mut self, change: Change) -> Result<(), StorageError> {
        let cut = self.step()?;
        if self.fails() {
            return Err(EIO);
        }
        apply(&mut self.current, &change);
        self.changes.push(change);
        if cut { Err(EIO) } else { Ok(()) }
    }
}

impl FakeDisk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Operations so far that could be cut.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Cuts the power in the middle of that operation.
    pub fn cut_at(&self, operation: u64) {
        self.lock().cut_at = Some(operation);
    }

    /// That operation fails, the power stays on.
    pub fn fail_at(&self, operation: u64) {
        self.lock().fail_at = Some(operation);
    }

    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity = bytes;
    }

    pub fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// The next `count` syncs of files fail.
    pub fn fail_syncs(&self, count: u32) {
        self.lock().failing_syncs = count;
    }

    /// The next `count` writes fail, each after half of it was written.
    pub fn fail_writes(&self, count: u32) {
        self.lock().failing_writes = count;
    }

    /// The disk as it is found when the power is back.
    pub fn after_power_cut(&self, cut: Cut) -> FakeDisk {
        let inner = self.lock();
        let mut random = SplitMix64::new(if let Cut::Some(seed) = cut { seed } else { 0 });
        let mut keep = |count: usize| match cut {
            Cut::Nothing => 0,
            Cut::Everything => count,
            Cut::Some(_) => random.below(count as u64 + 1) as usize,
        };
        let mut names = inner.durable.clone();
        for change in &inner.changes[..keep(inner.changes.len())] {
            apply(&mut names, change);
        }
        let mut nodes = BTreeMap::new();
        for node in names.values() {
            let from = &inner.nodes[node];
            let mut content = from.durable.clone();
            let sectors: BTreeSet<usize> = from
                .pending
                .iter()
                .flat_map(|(offset, bytes)| offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR))
                .collect();
            for sector in sectors {
                let (begin, end) = (sector * SECTOR, (sector + 1) * SECTOR);
                let writes: Vec<_> = from
                    .pending
                    .iter()
                    .filter(|(offset, bytes)| *offset < end && offset + bytes.len() > begin)
                    .collect();
                for (offset, bytes) in &writes[..keep(writes.len())] {
                    let (first, last) = (begin.max(*offset), end.min(offset + bytes.len()));
                    overwrite(&mut content, first, &bytes[first - offset..last - offset]);
                }
            }
            nodes.insert(*node, Node { durable: content.clone(), current: content, pending: Vec::new() });
        }
        let next_node = inner.next_node;
        FakeDisk(Arc::new(Mutex::new(Inner {
            nodes,
            durable: names.clone(),
            current: names,
            next_node,
            ..Inner::default()
        })))
    }

    /// Names and contents as they can be read now.
    pub fn files(&self) -> Vec<(Folder, String, Vec<u8>)> {
        let inner = self.lock();
        inner
            .current
            .iter()
            .map(|((folder, name), node)| (*folder, name.clone(), inner.nodes[node].current.clone()))
            .collect()
    }

    /// Puts bytes at a place, as damage or a test's own file; durable.
    pub fn put(&self, folder: Folder, name: &str, offset: usize, bytes: &[u8]) {
        let mut inner = self.lock();
        let key = (folder, name.to_owned());
        let node = match inner.current.get(&key) {
            Some(node) => *node,
            None => {
                inner.next_node += 1;
                let node = inner.next_node;
                inner.current.insert(key.clone(), node);
                inner.durable.insert(key, node);
                node
            }
        };
        let node = inner.nodes.entry(node).or_default();
        overwrite(&mut node.current, offset, bytes);
        overwrite(&mut node.durable, offset, bytes);
    }

    pub fn flip(&self, folder: Folder, name: &str, bit: usize) {
        let byte = self.files().into_iter().find(|(f, n, _)| *f == folder && n == name).unwrap().2[bit / 8];
        self.put(folder, name, bit / 8, &[byte ^ 1 << (bit % 8)]);
    }

    pub fn truncate(&self, folder: Folder, name: &str, length: usize) {
        let mut inner = self.lock();
        let node = inner.current[&(folder, name.to_owned())];
        let node = inner.nodes.get_mut(&node).unwrap();
        node.current.truncate(length);
        node.durable.truncate(length);
    }

    /// The sector at `offset` gives read errors from now on.
    pub fn make_unreadable(&self, folder: Folder, name: &str, offset: usize) {
        let mut inner = self.lock();
        let node = inner.current[&(folder, name.to_owned())];
        inner.unreadable.insert((node, offset / SECTOR));
    }
}

impl FakeDisk {
    /// Every place can be read again, every file opened.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.unreadable.clear();
        inner.closed.clear();
    }

    /// The file cannot be opened from now on.
    pub fn make_unopenable(&self, folder: Folder, name: &str) {
        self.lock().closed.insert((folder, name.to_owned()));
    }

    /// The place reads as `bytes` until the journal looks at it a second time.
    pub fn lie_once(&self, folder: Folder, name: &str, offset: usize, bytes: &[u8]) {
        let mut inner = self.lock();
        let node = inner.current[&(folder, name.to_owned())];
        inner.lies.push((node, offset, bytes.to_vec()));
    }

    /// The place reads as `bytes` from the next second look on, until the one after.
    pub fn lie_next(&self, folder: Folder, name: &str, offset: usize, bytes: &[u8]) {
        let mut inner = self.lock();
        let node = inner.current[&(folder, name.to_owned())];
        inner.later_lies.push((node, offset, bytes.to_vec()));
    }

    /// How often the journal looked a second time.
    pub fn second_looks(&self) -> u32 {
        self.lock().second_looks
    }
}

impl Storage for FakeDisk {
    type File = FakeFile;

    fn list(&self, folder: Folder) -> Result<Vec<(String, u64)>, StorageError> {
        let inner = self.lock();
        Ok(inner
            .current
            .iter()
            .filter(|((f, _), _)| *f == folder)
            .map(|((_, name), node)| (name.clone(), inner.nodes[node].current.len() as u64))
            .collect())
    }

    fn open(&self, folder: Folder, name: &str) -> Result<FakeFile, StorageError> {
        let inner = self.lock();
        let key = (folder, name.to_owned());
        let node = inner.current.get(&key).ok_or(StorageError::Missing)?;
        if inner.closed.contains(&key) {
            return Err(StorageError::Other(13));
        }
        Ok(FakeFile { disk: self.clone(), node: *node })
    }

    fn create(&self, folder: Folder, name: &str) -> Result<FakeFile, StorageError> {
        let mut inner = self.lock();
        let key = (folder, name.to_owned());
        assert!(!inner.current.contains_key(&key), "{key:?} is there already");
        inner.next_node += 1;
        let node = inner.next_node;
        inner.nodes.insert(node, Node::default());
        inner.change(Change::Create(key, node))?;
        Ok(FakeFile { disk: self.clone(), node })
    }

    fn rename(&self, from: (Folder, &str), to: (Folder, &str)) -> Result<(), StorageError> {
        let (from, to) = ((from.0, from.1.to_owned()), (to.0, to.1.to_owned()));
        let mut inner = self.lock();
        if !inner.current.contains_key(&from) {
            return Err(StorageError::Missing);
        }
        inner.change(Change::Rename(from, to))
    }

    fn remove(&self, folder: Folder, name: &str) -> Result<(), StorageError> {
        self.lock().change(Change::Remove((folder, name.to_owned())))
    }

    fn sync_folder(&self, folder: Folder) -> Result<(), StorageError> {
        let mut inner = self.lock();
        if inner.step()? || inner.fails() {
            return Err(EIO);
        }
        let touches = |change: &Change| match change {
            Change::Create(name, _) | Change::Remove(name) => name.0 == folder,
            Change::Rename(from, to) => from.0 == folder || to.0 == folder,
        };
        let count = inner.changes.iter().rposition(touches).map_or(0, |last| last + 1);
        let durable: Vec<Change> = inner.changes.drain(..count).collect();
        durable.iter().for_each(|change| apply(&mut inner.durable, change));
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        let inner = self.lock();
        Some(inner.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(inner.used()) as u64))
    }

    fn wait_for_second_look(&self) {
        let mut inner = self.lock();
        inner.second_looks += 1;
        inner.lies = std::mem::take(&mut inner.later_lies);
    }
}

impl StoredFile for FakeFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError> {
        let inner = self.disk.lock();
        let content = &inner.nodes[&self.node].current;
        let offset = (offset as usize).min(content.len());
        let length = buffer.len().min(content.len() - offset);
        let mut bad = inner.unreadable.range((self.node, 0)..(self.node + 1, 0));
        if bad.any(|(_, sector)| sector * SECTOR < offset + length && (sector + 1) * SECTOR > offset) {
            return Err(EIO);
        }
        buffer[..length].copy_from_slice(&content[offset..offset + length]);
        for (_, at, bytes) in inner.lies.iter().filter(|(node, ..)| *node == self.node) {
            for (index, byte) in bytes.iter().enumerate() {
                if let Some(place) = (at + index).checked_sub(offset).filter(|place| *place < length) {
                    buffer[place] = *byte;
                }
            }
        }
        Ok(length)
    }

    fn forget_cache(&self) {}

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let mut inner = self.disk.lock();
        let cut = inner.step()?;
        let offset = offset as usize;
        let grows = (offset + bytes.len()).saturating_sub(inner.nodes[&self.node].current.len());
        if inner.capacity.is_some_and(|capacity| inner.used() + grows > capacity) && grows > 0 {
            return Err(StorageError::Full);
        }
        let fails = inner.failing_writes > 0 || inner.fails();
        inner.failing_writes = inner.failing_writes.saturating_sub(1);
        let bytes = if fails { &bytes[..bytes.len() / 2] } else { bytes };
        let node = inner.nodes.get_mut(&self.node).unwrap();
        overwrite(&mut node.current, offset, bytes);
        node.pending.push((offset, bytes.to_vec()));
        if cut || fails { Err(EIO) } else { Ok(()) }
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut inner = self.disk.lock();
        if inner.step()? {
            return Err(EIO);
        }
        let fails = inner.failing_syncs > 0 || inner.fails();
        inner.failing_syncs = inner.failing_syncs.saturating_sub(1);
        let node = inner.nodes.get_mut(&self.node).unwrap();
        if fails {
            // They may still be read from memory, but no later sync makes them durable.
            node.pending.clear();
            return Err(EIO);
        }
        // What a failed sync has lost stays lost.
        for (offset, bytes) in std::mem::take(&mut node.pending) {
            overwrite(&mut node.durable, offset, &bytes);
        }
        Ok(())
    }
}
