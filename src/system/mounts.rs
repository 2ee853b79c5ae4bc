//! What the kernel says of file systems: `/proc/self/mountinfo`, proc_pid_mountinfo(5).
//!
//! ```text
//! 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//!                  mount point                             options of the file system
//! ```

use std::path::{Path, PathBuf};

/// Whether the file system that a path is on is itself read-only; `None`: no line is about it.
///
/// The options of the mount say less: a service under `ProtectSystem=strict` sees all but its own
/// folders mounted read-only, and other programs write there. `path` is absolute, without links.
pub fn is_read_only(mountinfo: &str, path: &Path) -> Option<bool> {
    let lines = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = unescape(mount.split(' ').nth(4)?);
        let options = file_system.split(' ').nth(2)?;
        path.starts_with(&point).then(|| (point, options.split(',').any(|option| option == "ro")))
    });
    // The deepest one, and of those the last, which covers the others.
    lines.max_by_key(|(point, _)| point.components().count()).map(|(_, is_read_only)| is_read_only)
}

/// Space, tab, line feed and backslash are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let code = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::is_read_only;
    use std::path::Path;

    const SERVICE: &str = "\
21 1 254:0 / / ro,relatime - ext4 /dev/vda rw,errors=remount-ro
22 21 254:0 /var/lib/tombolo /var/lib/tombolo rw,relatime - ext4 /dev/vda rw
23 21 0:5 / /mnt/a\\040card rw shared:3 - vfat /dev/sda1 ro,utf8
24 23 0:6 / /mnt/a\\040card rw - vfat /dev/sdb1 rw
";

    #[test]
    fn a_mount_that_is_read_only_for_one_service_makes_no_read_only_file_system() {
        let of = |path: &str| is_read_only(SERVICE, Path::new(path));
        assert_eq!(of("/var/lib/tombolo-update"), Some(false));
        assert_eq!(of("/var/lib/tombolo/update"), Some(false));
        // The later of two at one place covers the other.
        assert_eq!(of("/mnt/a card/x"), Some(false));
        let broken = SERVICE.replace("/dev/vda rw,errors", "/dev/vda ro,errors");
        assert_eq!(is_read_only(&broken, Path::new("/var/lib/tombolo-update")), Some(true));
    }

    #[test]
    fn lines_that_are_cut_or_odd_say_nothing() {
        let of = |text: &str| is_read_only(text, Path::new("/var"));
        for text in [
            "",
            "\n",
            "21 1 254:0 / / ro",
            "21 1 254:0 / / ro - ext4 /dev/vda",
            " -  - ",
            "21 1 0:1 / /v\\9 rw - a b ro",
        ] {
            assert_eq!(of(text), None, "{text:?}");
        }
        for end in 0..SERVICE.len() {
            of(&SERVICE[..end]);
        }
    }
}
