//! The journal's fake disk as files that stay open: sectors are torn, syncs fail, the power goes.

use std::io;
use std::time::Duration;

use tombolo::durable::storage::{Storage, StoredFile};
use tombolo::journal::storage::{Folder, Storage as _, StorageError, StoredFile as _};

use tombolo_test_support::journal::disk::{Cut, FakeDisk, FakeFile};

const FOLDER: Folder = Folder::Spare;

#[derive(Clone, Default)]
pub struct Files(pub FakeDisk);

pub struct File(FakeFile);

fn told<T>(result: Result<T, StorageError>) -> io::Result<T> {
    result.map_err(|error| match error {
        StorageError::Full => io::Error::from_raw_os_error(28),
        StorageError::ReadOnly => io::Error::from_raw_os_error(30),
        StorageError::Missing | StorageError::Gone => io::ErrorKind::NotFound.into(),
        StorageError::Other(number) => io::Error::from_raw_os_error(number),
    })
}

impl Storage for Files {
    type File = File;

    fn open(&self, name: &str) -> io::Result<(File, u64)> {
        let file = told(self.0.open(FOLDER, name))?;
        let size = self.content(name).map_or(0, |content| content.len() as u64);
        Ok((File(file), size))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        told(self.0.create(FOLDER, name)).map(File)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        told(self.0.rename((FOLDER, from), (FOLDER, to)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if self.content(name).is_none() {
            return Ok(());
        }
        told(self.0.remove(FOLDER, name))
    }

    fn sync_names(&self) -> io::Result<()> {
        told(self.0.sync_folder(FOLDER))
    }

    fn pause(&self, _: Duration) -> bool {
        self.0.wait_for_second_look();
        true
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

impl Files {
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.0.files().into_iter().find(|(_, n, _)| n == name).map(|(_, _, content)| content)
    }

    pub fn names(&self) -> Vec<String> {
        self.0.files().into_iter().map(|(_, name, _)| name).collect()
    }

    pub fn put(&self, name: &str, offset: usize, bytes: &[u8]) {
        self.0.put(FOLDER, name, offset, bytes);
    }

    pub fn flip(&self, name: &str, bit: usize) {
        self.0.flip(FOLDER, name, bit);
    }

    pub fn truncate(&self, name: &str, length: usize) {
        self.0.truncate(FOLDER, name, length);
    }

    pub fn make_unreadable(&self, name: &str, offset: usize) {
        self.0.make_unreadable(FOLDER, name, offset);
    }

    pub fn lie_once(&self, name: &str, offset: usize, bytes: &[u8]) {
        self.0.lie_once(FOLDER, name, offset, bytes);
    }

    pub fn after_power_cut(&self, cut: Cut) -> Files {
        Files(self.0.after_power_cut(cut))
    }
}

/// What a power cut may leave of one operation: nothing, everything, and some of it in many ways.
pub fn cuts(operation: u64) -> impl Iterator<Item = Cut> {
    let some = (0..12).map(move |seed| Cut::Some(operation * 131 + seed));
    [Cut::Nothing, Cut::Everything].into_iter().chain(some)
}
