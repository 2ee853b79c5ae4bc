//! Files that nobody but root can change: what the root program reads its settings and its root of
//! trust from, and where it keeps its own.
//!
//! Every folder on the way counts, and every symbolic link: each has to belong to root and to be
//! writable by root alone. Where nothing of that kind is passed, nothing can be exchanged between
//! the look and the use. A folder that everybody may write but that is sticky (`/tmp`) is passed if
//! what is in it belongs to root.
//!
//! A user who runs a gateway of his own in a folder of his is as root to it.

use std::collections::VecDeque;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

const LINKS_MAX: u32 = 40;
const STICKY: u32 = 0o1000;
const WRITABLE: u32 = 0o022;

/// Why a file is not trusted.
#[derive(Debug)]
pub enum Distrust {
    /// There is none.
    Missing,
    /// One sentence.
    Because(String),
}

impl std::fmt::Display for Distrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Distrust::Missing => f.write_str("it does not exist"),
            Distrust::Because(why) => f.write_str(why),
        }
    }
}

/// The real path of a file or folder that nobody but root can change, or exchange by changing a
/// folder or link on the way. It blocks.
///
/// # Errors
/// [`Distrust`]
pub fn real_path(path: &Path) -> Result<PathBuf, Distrust> {
    let refused = |why: String| Distrust::Because(why);
    let absolute = std::path::absolute(path).map_err(|error| refused(error.to_string()))?;
    let mut left: VecDeque<PathBuf> = parts(&absolute);
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    judge(&at, &look(&at)?, true)?;
    while let Some(part) = left.pop_front() {
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let about = look(&next)?;
        if about.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(refused(format!("{} leads in a circle", next.display())));
            }
            // The link's own mode says nothing; its folder was judged.
            judge_owner(&next, &about)?;
            let target = fs::read_link(&next).map_err(|error| named(&next, &error))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for part in parts(&target).into_iter().rev() {
                left.push_front(part);
            }
            continue;
        }
        judge(&next, &about, !left.is_empty())?;
        at = next;
    }
    Ok(at)
}

/// As [`real_path`], of a file that is a file and no longer than `max_bytes`: its content.
///
/// # Errors
/// [`Distrust`]
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Distrust> {
    use std::io::Read as _;
    let path = real_path(path)?;
    let file = super::untrusted::open_regular(&path).map_err(|error| named(&path, &error))?;
    let mut bytes = Vec::new();
    let read = file.take(max_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| named(&path, &error))?;
    match bytes.len() as u64 <= max_bytes {
        true => Ok(bytes),
        false => Err(Distrust::Because(format!("{} is longer than {max_bytes} bytes", path.display()))),
    }
}

fn parts(path: &Path) -> VecDeque<PathBuf> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

fn look(path: &Path) -> Result<Metadata, Distrust> {
    fs::symlink_metadata(path).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> Distrust {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Distrust::Missing,
        _ => Distrust::Because(format!("{}: {error}", path.display())),
    }
}

fn judge(path: &Path, about: &Metadata, is_on_the_way: bool) -> Result<(), Distrust> {
    judge_owner(path, about)?;
    let mode = about.mode();
    // A group that has root alone in it is root's.
    let open = if about.gid() == 0 { mode & 0o002 } else { mode & WRITABLE };
    let is_sticky = is_on_the_way && about.is_dir() && mode & STICKY != 0;
    if open != 0 && !is_sticky {
        let path = path.display();
        return Err(Distrust::Because(format!(
            "{path} can be written by others than root; `chmod go-w {path}`"
        )));
    }
    Ok(())
}

fn judge_owner(path: &Path, about: &Metadata) -> Result<(), Distrust> {
    let own = nix::unistd::geteuid().as_raw();
    if about.uid() == 0 || about.uid() == own {
        return Ok(());
    }
    let path = path.display();
    Err(Distrust::Because(format!(
        "{path} belongs to the user {}, not to root; `chown root:root {path}`, once you know what is in it",
        about.uid()
    )))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tombolo-trusted-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("etc")).expect("made");
            fs::write(path.join("etc/file"), "content").expect("written");
            Folder(path)
        }

        fn refusal(&self, name: &str) -> String {
            match read(&self.0.join(name), 100) {
                Err(Distrust::Because(why)) => why,
                other => panic!("{other:?}"),
            }
        }

        fn set_mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(mode)).expect("set");
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_of_root_in_folders_of_root_is_read_also_by_links() {
        let folder = Folder::new("fine");
        symlink("etc", folder.0.join("link")).expect("made");
        symlink("../link/file", folder.0.join("etc/again")).expect("made");
        for name in ["etc/file", "link/file", "link/again", "etc/../etc/file"] {
            assert_eq!(read(&folder.0.join(name), 100).expect(name), b"content");
        }
        assert!(matches!(read(&folder.0.join("etc/none"), 100), Err(Distrust::Missing)));
        assert!(folder.refusal("etc").contains("not a"), "{}", folder.refusal("etc"));
        assert!(matches!(read(&folder.0.join("etc/file"), 6), Err(Distrust::Because(_))));
        symlink("circle", folder.0.join("circle")).expect("made");
        assert!(folder.refusal("circle").contains("circle"));
    }

    #[test]
    fn what_others_can_write_is_refused_wherever_it_is_on_the_way() {
        let folder = Folder::new("open");
        folder.set_mode("etc/file", 0o666);
        assert!(folder.refusal("etc/file").contains("chmod go-w"));
        folder.set_mode("etc/file", 0o644);
        folder.set_mode("etc", 0o777);
        symlink("etc/file", folder.0.join("link")).expect("made");
        for name in ["etc/file", "link"] {
            assert!(folder.refusal(name).contains("can be written by others"), "{name}");
        }
        folder.set_mode("etc", 0o1777);
        assert!(read(&folder.0.join("etc/file"), 100).is_ok(), "sticky, and the file is root's");
    }

    #[test]
    fn what_belongs_to_another_user_is_refused_wherever_it_is_on_the_way() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = Folder::new("owner");
        let give = |name: &str, uid| {
            std::os::unix::fs::lchown(folder.0.join(name), Some(uid), None).expect("root may");
        };
        give("etc/file", 65_534);
        assert!(folder.refusal("etc/file").contains("belongs to the user 65534"));
        give("etc/file", 0);
        give("etc", 65_534);
        assert!(folder.refusal("etc/file").contains("belongs to the user 65534"));
        give("etc", 0);
        symlink("etc/file", folder.0.join("link")).expect("made");
        give("link", 65_534);
        assert!(folder.refusal("link").contains("belongs to the user 65534"));
    }
}
