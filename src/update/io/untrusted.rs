//! Files of the service's user, read by root: nothing is believed about them. A symbolic link is
//! not followed, a pipe not waited for, and what was opened once is what is read: the name is not
//! looked at again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, mkdirat};

use crate::durable::io::give_to_owner_of;

/// What is copied at once.
const CHUNK: usize = 128 * 1024;

/// Opens a path that was resolved before, if it is a regular file.
///
/// # Errors
/// As the system says; [`io::ErrorKind::InvalidInput`] if it is none.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    regular(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

fn regular(file: File) -> io::Result<File> {
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    Ok(file)
}

/// Opens the regular file `name` below `folder`, with no symbolic link on the way from `folder` on,
/// and with no other name than this.
///
/// # Errors
/// As the system says; [`io::ErrorKind::InvalidInput`] says what it is instead.
pub fn open_below(folder: &Path, name: &Path) -> io::Result<File> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let mut at = File::open(folder)?;
    let parts: Vec<_> = name.components().collect();
    for (number, part) in parts.iter().enumerate() {
        let Component::Normal(part) = part else { return Err(refused("it is no name below the folder")) };
        let is_last = number + 1 == parts.len();
        let kind = if is_last { OFlag::O_NONBLOCK } else { OFlag::O_DIRECTORY };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | kind;
        at = match openat(&at, *part, flags, Mode::empty()) {
            Ok(found) => File::from(found),
            Err(nix::Error::ELOOP) => return Err(refused("it is a symbolic link")),
            Err(nix::Error::ENOTDIR) if !is_last => {
                return Err(refused("a folder on the way to it is none, or a symbolic link"));
            }
            Err(nix::Error::ENXIO) => return Err(refused("it is not a file")),
            Err(error) => return Err(error.into()),
        };
    }
    let file = regular(at)?;
    // Its user can give a file of somebody else this name, but not take away the other one.
    match file.metadata()?.nlink() {
        1 => Ok(file),
        _ => Err(refused("it is a hard link")),
    }
}

/// The whole content of such a file.
///
/// # Errors
/// As [`open_below`]; or it is longer than `max_bytes`.
pub fn read_below(folder: &Path, name: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_below(folder, name)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= max_bytes {
        true => Ok(bytes),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is too long")),
    }
}

/// A folder of the service's user, held: whatever its user puts in its place meanwhile, the files
/// are those of the folder that was opened.
pub struct Folder {
    path: PathBuf,
    opened: File,
}

impl Folder {
    /// Opens the folder `name` in `parent`, if it is one and no symbolic link.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::InvalidInput`] says what it is instead.
    pub fn open(parent: &Path, name: &str) -> io::Result<Folder> {
        Folder::below(&File::open(parent)?, name)
    }

    /// As [`Folder::open`]; it is made, 0700 and the owner's of `parent`, unless it is there.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn make(parent: &Path, name: &str) -> io::Result<Folder> {
        let above = File::open(parent)?;
        match mkdirat(&above, name, Mode::S_IRWXU) {
            Err(nix::Error::EEXIST) => Folder::below(&above, name),
            Err(error) => Err(error.into()),
            Ok(()) => {
                let folder = Folder::below(&above, name)?;
                give_to_owner_of(parent, &folder.opened)?;
                above.sync_all()?;
                Ok(folder)
            }
        }
    }

    fn below(above: &File, name: &str) -> io::Result<Folder> {
        let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match openat(above, name, flags, Mode::empty()) {
            Ok(opened) => {
                let opened = File::from(opened);
                // What is opened by this path is what was opened here, whatever its name is now.
                let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
                Ok(Folder { path, opened })
            }
            Err(nix::Error::ELOOP | nix::Error::ENOTDIR) => {
                Err(refused("it is no folder, or a symbolic link; delete it"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Where its files are, for this process, while this value is there.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Copies exactly `bytes` bytes into a new file that nobody else can write, and makes it durable.
/// True if they have that SHA-256; otherwise the new file is gone. What happens to the source
/// meanwhile does not matter: what counts is what was hashed, and that is what was written.
///
/// # Errors
/// As the system says; the new file is gone.
pub fn copy(source: &mut File, target: &Path, bytes: u64, sha256: &[u8; 32]) -> io::Result<bool> {
    match std::fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let copied = (|| {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
        let (mut hash, mut buffer, mut left) = (Context::new(&SHA256), vec![0; CHUNK], bytes);
        while left > 0 {
            let wanted = usize::try_from(left.min(CHUNK as u64)).unwrap_or(CHUNK);
            let count = match source.read(&mut buffer[..wanted]) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hash.update(&buffer[..count]);
            out.write_all(&buffer[..count])?;
            left -= count as u64;
        }
        out.sync_all()?;
        // One byte more, and it is another file.
        let is_whole = source.read(&mut buffer[..1])? == 0;
        Ok(is_whole && hash.finish().as_ref() == sha256)
    })();
    if !matches!(copied, Ok(true)) {
        let _ = std::fs::remove_file(target);
    }
    copied
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tombolo-untrusted-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("update")).expect("made");
        path
    }

    fn sha256(content: &[u8]) -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&SHA256, content);
        digest.as_ref().try_into().expect("32 bytes")
    }

    #[test]
    fn links_pipes_folders_and_further_names_are_refused_and_not_waited_for() {
        let folder = folder("kinds");
        let image = Path::new("update/image");
        let place = folder.join(image);
        let refusal = || open_below(&folder, image).expect_err("refused").to_string();
        fs::write(folder.join("other"), "secret").expect("written");
        symlink(folder.join("other"), &place).expect("made");
        assert!(refusal().contains("symbolic link"));
        fs::remove_file(&place).expect("there");
        fs::hard_link(folder.join("other"), &place).expect("made");
        assert!(refusal().contains("hard link"));
        fs::remove_file(&place).expect("there");
        nix::unistd::mkfifo(&place, Mode::S_IRWXU).expect("made");
        assert!(refusal().contains("not a file"));
        fs::remove_file(&place).expect("there");
        fs::create_dir(&place).expect("made");
        assert!(refusal().contains("not a file"));
        fs::remove_dir_all(folder.join("update")).expect("there");
        fs::create_dir(folder.join("elsewhere")).expect("made");
        fs::write(folder.join("elsewhere/image"), "x").expect("written");
        symlink("elsewhere", folder.join("update")).expect("made");
        assert!(refusal().contains("on the way"), "{}", refusal());
        assert!(open_below(&folder, Path::new("../x")).is_err());
        assert!(open_below(&folder, Path::new("/etc/passwd")).is_err());
        fs::remove_dir_all(folder).expect("there");
    }

    #[test]
    fn a_copy_is_of_what_wasopened_whatever_has_its_name_afterwards() {
        let folder = folder("swap");
        let (place, copy_at) = (folder.join("update/image"), folder.join("copy"));
        fs::write(&place, "signed").expect("written");
        let mut opened = open_below(&folder, Path::new("update/image")).expect("opened");
        // Exchanged between the look and the use.
        fs::write(folder.join("update/evil"), "evil!!").expect("written");
        fs::rename(folder.join("update/evil"), &place).expect("renamed");
        assert!(copy(&mut opened, &copy_at, 6, &sha256(b"signed")).expect("copied"));
        assert_eq!(fs::read(&copy_at).expect("there"), b"signed");
        // And written anew in place: then it is not what was signed.
        let mut opened = open_below(&folder, Path::new("update/image")).expect("opened");
        assert!(!copy(&mut opened, &copy_at, 6, &sha256(b"signed")).expect("read"));
        assert!(!copy_at.exists());
        fs::remove_dir_all(folder).expect("there");
    }

    #[test]
    fn a_shorter_or_longer_file_is_not_the_image_and_nothing_is_left() {
        let folder = folder("length");
        let copy_at = folder.join("copy");
        for content in ["signe", "signed and more", ""] {
            fs::write(folder.join("update/image"), content).expect("written");
            let mut opened = open_below(&folder, Path::new("update/image")).expect("opened");
            assert!(!copy(&mut opened, &copy_at, 6, &sha256(b"signed")).expect("read"), "{content}");
            assert!(!copy_at.exists());
        }
        assert!(read_below(&folder, Path::new("update/image"), 10).is_ok());
        fs::write(folder.join("update/image"), "0123456789a").expect("written");
        assert!(read_below(&folder, Path::new("update/image"), 10).is_err());
        fs::remove_dir_all(folder).expect("there");
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused_and_one_that_is_exchanged_later_is_still_the_one_opened() {
        let folder = folder("folder");
        let refused = |made: io::Result<Folder>| made.err().map(|error| error.kind());
        symlink("update", folder.join("link")).expect("linked");
        fs::write(folder.join("file"), "").expect("written");
        for name in ["link", "file"] {
            assert_eq!(refused(Folder::open(&folder, name)), Some(io::ErrorKind::InvalidInput), "{name}");
            assert_eq!(refused(Folder::make(&folder, name)), Some(io::ErrorKind::InvalidInput), "{name}");
        }
        assert_eq!(refused(Folder::open(&folder, "none")), Some(io::ErrorKind::NotFound));
        let held = Folder::make(&folder, "new").expect("made");
        fs::rename(folder.join("new"), folder.join("moved")).expect("moved");
        symlink("update", folder.join("new")).expect("linked");
        fs::write(held.path().join("inside"), "1").expect("written");
        assert!(folder.join("moved/inside").exists() && !folder.join("update/inside").exists());
        fs::remove_dir_all(folder).expect("there");
    }
}
