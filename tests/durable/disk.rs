//! A folder in memory that forgets what was not synced, fails on demand, loses power at any call,
//! and damages what it has.
//!
//! Its rules: content is durable once `write_beside` has returned, a name after `sync_names`. At a
//! power cut any subset of the unsynced changes of names is kept, and a file that was being written
//! may be there with anything in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tombolo::durable::folder::{ReadFault, StateFolder};
use tombolo::splitmix::SplitMix64;
use zeroize::Zeroizing;

/// Draws sizes and bytes.
pub struct Chance(pub SplitMix64);

impl Chance {
    pub fn draw(&mut self, below: usize) -> usize {
        self.0.below(below as u64) as usize
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.draw(256) as u8).collect()
    }
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(Vec<u8>),
    /// The system answers EIO.
    Unreadable(Vec<u8>),
    Folder,
}

#[derive(Clone)]
enum Change {
    Put(String, Node),
    Move(String, String, Node),
    Remove(String),
}

#[derive(Default)]
struct Inner {
    durable: BTreeMap<String, Node>,
    current: BTreeMap<String, Node>,
    changes: Vec<Change>,
    beside: u64,
    calls: usize,
    cut_at: Option<usize>,
    fail_at: Option<usize>,
    /// Whether the calls after it fail as well.
    fails_on: bool,
    off: bool,
    reads: usize,
    /// Reads that fail before they succeed again.
    failing_reads: usize,
    pauses: Vec<Duration>,
}

#[derive(Default)]
pub struct Disk(RefCell<Inner>);

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Change::Put(name, node) => drop(names.insert(name.clone(), node.clone())),
            Change::Move(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), node.clone());
            }
            Change::Remove(name) => drop(names.remove(name)),
        }
    }
}

impl Inner {
    /// Counts a call that changes something. `Ok(true)`: the power goes off in the middle of it.
    fn step(&mut self) -> io::Result<bool> {
        if self.off {
            return Err(error(5));
        }
        self.calls += 1;
        if self.fail_at == Some(self.calls)
            || (self.fails_on && self.fail_at.is_some_and(|at| self.calls > at))
        {
            return Err(error(if self.fails_on { 30 } else { 28 }));
        }
        self.off = self.cut_at == Some(self.calls);
        Ok(self.off)
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        let cut = self.step()?;
        // What the power takes may have been done or not: that is drawn when it is back.
        change.apply(&mut self.current);
        self.changes.push(change);
        if cut { Err(error(5)) } else { Ok(()) }
    }
}

impl Disk {
    /// The power goes off in the middle of that changing call, counted from 1.
    pub fn cut_at(&self, call: usize) {
        let mut inner = self.0.borrow_mut();
        (inner.calls, inner.cut_at) = (0, Some(call));
    }

    /// That changing call says that the disk is full.
    pub fn fail_at(&self, call: usize) {
        let mut inner = self.0.borrow_mut();
        (inner.calls, inner.fail_at, inner.fails_on) = (0, Some(call), false);
    }

    /// From that changing call on the disk is read-only.
    pub fn read_only_from(&self, call: usize) {
        self.fail_at(call);
        self.0.borrow_mut().fails_on = true;
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.0.borrow().off
    }

    /// Nothing more is to happen.
    pub fn calm(&self) {
        let mut inner = self.0.borrow_mut();
        (inner.cut_at, inner.fail_at) = (None, None);
    }

    /// Power is back: what was not synced is there or not.
    pub fn revive(&self, chance: &mut Chance) {
        let mut inner = self.0.borrow_mut();
        let changes = std::mem::take(&mut inner.changes);
        let mut names = std::mem::take(&mut inner.durable);
        changes.iter().filter(|_| chance.draw(2) == 0).for_each(|change| change.apply(&mut names));
        (inner.durable, inner.current) = (names.clone(), names);
        (inner.off, inner.cut_at, inner.fail_at) = (false, None, None);
    }

    /// The process was killed and not the power cut: what it had done is there.
    pub fn outlive(&self) {
        let mut inner = self.0.borrow_mut();
        inner.changes.clear();
        inner.durable = inner.current.clone();
        (inner.off, inner.cut_at, inner.fail_at) = (false, None, None);
    }

    pub fn put(&self, name: &str, node: Node) {
        let mut inner = self.0.borrow_mut();
        inner.durable.insert(name.to_owned(), node.clone());
        inner.current.insert(name.to_owned(), node);
    }

    pub fn file(&self, name: &str, bytes: &[u8]) {
        self.put(name, Node::File(bytes.to_vec()));
    }

    pub fn node(&self, name: &str) -> Option<Node> {
        self.0.borrow().current.get(name).cloned()
    }

    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        match self.node(name) {
            Some(Node::File(bytes) | Node::Unreadable(bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub fn all(&self) -> Vec<String> {
        self.0.borrow().current.keys().cloned().collect()
    }

    /// So many reads fail, and then it reads again.
    pub fn fail_reads(&self, count: usize) {
        self.0.borrow_mut().failing_reads = count;
    }

    pub fn reads(&self) -> usize {
        self.0.borrow().reads
    }

    /// How often and how long it was waited.
    pub fn pauses(&self) -> Vec<Duration> {
        self.0.borrow().pauses.clone()
    }
}

impl StateFolder for Disk {
    fn read(&self, name: &str, max_bytes: u64, _: bool) -> Result<Zeroizing<Vec<u8>>, ReadFault> {
        let mut inner = self.0.borrow_mut();
        inner.reads += 1;
        if inner.failing_reads > 0 {
            inner.failing_reads -= 1;
            return Err(ReadFault::Failed(error(5)));
        }
        match inner.current.get(name) {
            None => Err(ReadFault::Missing),
            Some(Node::Folder) => Err(ReadFault::NotAFile),
            Some(Node::Unreadable(_)) => Err(ReadFault::Failed(error(5))),
            Some(Node::File(bytes)) if bytes.len() as u64 > max_bytes => Err(ReadFault::TooLarge),
            Some(Node::File(bytes)) => Ok(Zeroizing::new(bytes.clone())),
        }
    }

    fn write_beside(&self, name: &str, bytes: &[u8], _: u32) -> io::Result<String> {
        let mut inner = self.0.borrow_mut();
        inner.beside += 1;
        let beside = format!(".{name}.{}", inner.beside);
        let cut = inner.step()?;
        let mut content = bytes.to_vec();
        if cut {
            content.truncate(bytes.len() / 2);
            content.resize(bytes.len(), 0);
        }
        let put = Change::Put(beside.clone(), Node::File(content));
        put.apply(&mut inner.current);
        inner.changes.push(put);
        if cut { Err(error(5)) } else { Ok(beside) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        let node = inner.current.get(from).cloned().ok_or_else(|| error(2))?;
        if node != Node::Folder && inner.current.get(to) == Some(&Node::Folder) {
            return Err(error(21));
        }
        inner.change(Change::Move(from.to_owned(), to.to_owned(), node))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        match inner.current.get(name) {
            None => Ok(()),
            Some(Node::Folder) => Err(error(21)),
            Some(_) => inner.change(Change::Remove(name.to_owned())),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut inner = self.0.borrow_mut();
        if inner.step()? {
            return Err(error(5));
        }
        inner.changes.clear();
        inner.durable = inner.current.clone();
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.0.borrow().current.contains_key(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        if self.0.borrow().off { Err(error(5)) } else { Ok(self.all()) }
    }

    fn pause(&self, time: Duration) -> bool {
        self.0.borrow_mut().pauses.push(time);
        true
    }
}
