//! The images of a class on disk: verified before they are served, taken when they are whole, and
//! deleted when nothing names them. All calls block: for a thread of their own.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use super::download::{NoImage, clear, disk, hash_file};
use super::floor::on_disk;
use crate::durable::io::{Files, create_directory};
use crate::durable::storage::{Storage, StoredFile};
use crate::durable::two_slot::TwoSlot;
use crate::update::firmware::kept::{FORMAT, IMAGES_MAX, Image, Kept, SUFFIX, is_suit};
use crate::update::image::IMAGE;
use crate::update::offer::Offer;

/// The folder in the state directory.
pub const FOLDER: &str = "firmware";
/// The campaign's file in a class's folder.
pub const PROGRESS: &str = "progress";

/// An image's file, as it was verified: what is read of it later are the bytes that were hashed, or
/// an error. So a file that is written over in its place is noticed, also if the folder was away
/// meanwhile and has all its dates.
#[derive(Debug)]
pub struct ImageFile {
    file: <Files as Storage>::File,
    verified: FileMark,
}

/// What the system says of a file that is not written to. The file is held open, so its number and
/// device are those of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileMark {
    bytes: u64,
    modified: (i64, i64),
    /// Of the content or the inode: no program sets it, as those that copy dates do with the other.
    changed: (i64, i64),
    links: u64,
}

impl FileMark {
    fn of(file: &<Files as Storage>::File) -> io::Result<FileMark> {
        let of = file.metadata()?;
        Ok(FileMark {
            bytes: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
            links: of.nlink(),
        })
    }

    /// Whether the content is that of `self`, by what is said now. One that was deleted meanwhile
    /// is read to its end: that changes the inode, and nobody else can open it.
    fn is_kept(self, now: FileMark) -> bool {
        let deleted = FileMark { changed: now.changed, links: 0, ..self };
        now == self || now == deleted
    }
}

impl ImageFile {
    /// Whether it is as it was when it was verified; an error says that it is not known.
    ///
    /// # Errors
    /// As the system says.
    pub fn is_as_verified(&self) -> io::Result<bool> {
        Ok(self.verified.is_kept(FileMark::of(&self.file)?))
    }
}

impl StoredFile for ImageFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(offset, buffer)?;
        // After the reading: what is written later is none of it.
        match self.is_as_verified()? {
            true => Ok(read),
            false => Err(io::Error::other("it was changed since it was verified")),
        }
    }

    fn forget_cached(&self) {
        self.file.forget_cached();
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The images of a class that were verified, with their files by tag. A file stays open, so an
/// image that is deleted is read to the end of what was asked for.
#[derive(Default)]
pub struct Shelf {
    /// The record.
    pub kept: Kept,
    /// The files.
    pub files: BTreeMap<String, Arc<ImageFile>>,
    /// What is wrong, one sentence each.
    pub faults: Vec<String>,
    /// The disk did not give the record or an image, which may be whole.
    pub is_unread: bool,
    /// The newest image of the record was not whole: it is wanted again.
    pub is_damaged: bool,
}

/// The folder of a class below that of all.
pub fn folder_of(base: &Path, class: &str) -> PathBuf {
    base.join(class)
}

/// What is in the place of a folder of firmware, one sentence; `None`: nothing is.
pub fn no_folder(folder: &Path) -> Option<String> {
    let is_other = |path: &&Path| path.symlink_metadata().is_ok() && !path.is_dir();
    let other = [folder.parent(), Some(folder)].into_iter().flatten().find(is_other)?;
    Some(format!(
        "{} is no folder: no firmware for sensors is kept or served; delete it, and the gateway makes the folder \
         within a minute",
        other.display()
    ))
}

/// Reads the record and verifies each image; what is not whole is deleted, and if all are whole
/// what nothing names. A disk that does not give the record or an image is a fault, and that one is
/// not deleted.
pub fn open(folder: &Path) -> Shelf {
    let mut shelf = Shelf::default();
    if !folder.is_dir() {
        return shelf;
    }
    let fault = |what: String| format!("{}: {what}", folder.display());
    let record = TwoSlot::open(on_disk(folder), FORMAT);
    let kept = record.and_then(|slots| Ok(slots.read()?.and_then(Kept::parse)));
    let mut kept = match kept {
        Ok(kept) => kept.unwrap_or_default(),
        Err(error) => {
            shelf.faults.push(fault(format!("the record of the images cannot be read: {error}")));
            shelf.is_unread = true;
            return shelf;
        }
    };
    let storage = on_disk(folder);
    let before = kept.images.len();
    let newest = kept.images.first().map(Image::tag);
    kept.images.retain(|image| match verify(&storage, image) {
        Ok(Some(file)) => shelf.files.insert(image.tag(), Arc::new(file)).is_none(),
        Ok(None) => {
            let version = &image.version;
            shelf.faults.push(fault(match remove(&storage, image) {
                Ok(true) => format!("the image of {version} was damaged and is deleted"),
                Ok(false) => format!("the image of {version} is gone"),
                Err(error) => format!("the image of {version} is damaged and cannot be deleted: {error}"),
            }));
            shelf.is_damaged |= newest == Some(image.tag());
            false
        }
        Err(error) => {
            let version = &image.version;
            shelf.faults.push(fault(format!("the image of {version} cannot be read: {error}")));
            shelf.is_unread = true;
            false
        }
    });
    let is_whole = kept.images.len() == before;
    shelf.kept = kept;
    if is_whole && let Err(error) = sweep(folder, &shelf.kept) {
        shelf.faults.push(fault(format!("what is not needed any more cannot be deleted: {error}")));
    }
    shelf
}

/// The file of an image, if it is whole.
fn verify(storage: &Files, image: &Image) -> io::Result<Option<ImageFile>> {
    let (file, length) = match storage.open(&image.file()) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if length != image.bytes {
        return Ok(None);
    }
    file.forget_cached();
    // From before: what is written while it is hashed makes it another file.
    let verified = FileMark::of(&file)?;
    let file = ImageFile { file, verified };
    let mut hash = Context::new(&SHA256);
    hash_file(&file, length, &mut hash)?;
    Ok((hash.finish().as_ref() == image.sha256).then_some(file))
}

/// Deletes the file of an image that is not whole; whether there was one.
fn remove(storage: &Files, image: &Image) -> io::Result<bool> {
    match storage.remove(&image.file()) {
        Ok(()) => storage.sync_names().map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes images that the record does not name.
fn sweep(folder: &Path, kept: &Kept) -> io::Result<()> {
    let storage = on_disk(folder);
    let mut is_changed = false;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let tag = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(tag) = tag.filter(|tag| kept.image(tag).is_none()) {
            storage.remove(&format!("{tag}{SUFFIX}"))?;
            is_changed = true;
        }
    }
    if is_changed { storage.sync_names() } else { Ok(()) }
}

/// Takes the image that was downloaded into this folder, or that is here already, as the one that
/// is offered. Returns what is kept then.
///
/// # Errors
/// [`NoImage::Disk`]; what was kept before is kept.
pub fn take(folder: &Path, offer: &Offer, mut shelf: Shelf) -> Result<Shelf, NoImage> {
    let disk = |error: io::Error| disk(&error);
    let storage = on_disk(folder);
    let mut image = Image::of(offer, false);
    // What is served was read back from the disk under its last name. A file that cannot be read
    // is replaced by the one that was downloaded.
    let is_here = storage.has(IMAGE);
    let mut file = match verify(&storage, &image) {
        Err(_) if is_here => None,
        verified => verified.map_err(disk)?,
    };
    if file.is_none() && is_here {
        storage.rename(IMAGE, &image.file()).and_then(|()| storage.sync_names()).map_err(disk)?;
        file = verify(&storage, &image).map_err(disk)?;
    }
    let file =
        file.ok_or_else(|| NoImage::Disk("the disk does not give back what was written".to_owned()))?;
    let mut head = [0; 2];
    let read = file.read_at(0, &mut head).map_err(disk)?;
    image.is_suit = is_suit(&head[..read]);
    shelf.files.insert(image.tag(), Arc::new(file));
    shelf.kept.take(image);
    write(folder, &shelf.kept)?;
    let kept = shelf.kept.clone();
    shelf.files.retain(|tag, _| kept.image(tag).is_some());
    shelf.faults.clear();
    sweep(folder, &shelf.kept).map_err(disk)?;
    clear(&storage).map_err(disk)?;
    Ok(shelf)
}

/// Whether an image of this target is in the folder, whole: after a power cut the record may not
/// name it yet. One that is damaged is deleted.
pub fn has(folder: &Path, offer: &Offer) -> bool {
    let (storage, image) = (on_disk(folder), Image::of(offer, false));
    match verify(&storage, &image) {
        Ok(Some(_)) => true,
        Ok(None) => {
            let _ = storage.remove(&image.file());
            false
        }
        Err(_) => false,
    }
}

/// Writes the record.
///
/// # Errors
/// [`NoImage::Disk`]
pub fn write(folder: &Path, kept: &Kept) -> Result<(), NoImage> {
    let disk = |error: io::Error| disk(&error);
    create_directory(folder).map_err(disk)?;
    let mut slots = TwoSlot::open(on_disk(folder), FORMAT).map_err(disk)?;
    slots.write(&kept.encode()).map_err(disk)
}

/// Gives up the image before, so that the one that comes has room.
///
/// # Errors
/// [`NoImage::Disk`]
pub fn drop_oldest(folder: &Path, shelf: &mut Shelf) -> Result<(), NoImage> {
    if shelf.kept.images.len() < IMAGES_MAX {
        return Ok(());
    }
    shelf.kept.images.truncate(IMAGES_MAX - 1);
    write(folder, &shelf.kept)?;
    let kept = shelf.kept.clone();
    shelf.files.retain(|tag, _| kept.image(tag).is_some());
    sweep(folder, &shelf.kept).map_err(|error| disk(&error))
}

/// Deletes the folders of classes that no role names any more.
///
/// # Errors
/// As the system says.
pub fn retain(base: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<()> {
    if !base.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(base)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() && !name.to_str().is_some_and(&is_wanted) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
