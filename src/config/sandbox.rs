//! What the systemd unit lets the service see and write, read from the unit's text and its
//! drop-ins.
//!
//! A file that root can read is of no use to a service that runs as `tombolo` behind
//! `ProtectHome=`, `PrivateTmp=` and `ProtectSystem=strict`. systemd.exec(5) and systemd.unit(5)
//! define the settings; of them only those that the packaged unit uses, or that undo these, are
//! read here. Pure; `io` reads the files.

use std::path::{Path, PathBuf};

/// The packaged unit, for a machine on which none is installed.
const PACKAGED: &str = include_str!("../../systemd/tombolo.service");
/// Folders that `ProtectHome=` empties.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// Folders that `PrivateTmp=` replaces.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// What `ProtectSystem=strict` leaves writable (systemd.exec(5)).
const NEVER_PROTECTED: [&str; 3] = ["/dev", "/proc", "/sys"];

/// A folder that the service does not see, and the setting that hides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The folder.
    pub folder: &'static str,
    /// Such as `ProtectHome`.
    pub setting: &'static str,
}

/// How much of the system is read-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Protection {
    #[default]
    None,
    /// `yes`: /usr and the boot loader's.
    Usr,
    /// `full`: /etc too.
    Etc,
    /// `strict`: everything.
    Everything,
}

fn names_bind(value: &str) -> bool {
    value.trim_start_matches('~').split_whitespace().any(|name| name == "CAP_NET_BIND_SERVICE")
}

/// The settings in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// `User=`
    pub user: Option<String>,
    home_hidden: bool,
    tmp_private: bool,
    system: Protection,
    writable: Vec<PathBuf>,
    bound: Vec<PathBuf>,
    /// `AmbientCapabilities=` has CAP_NET_BIND_SERVICE, and so has `CapabilityBoundingSet=`.
    ambient_bind: bool,
    bounded_out: bool,
}

impl Sandbox {
    /// Of the packaged unit.
    pub fn packaged() -> Sandbox {
        Sandbox::parse([PACKAGED])
    }

    /// Of a unit and its drop-ins, in the order in which systemd reads them.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Sandbox {
        let mut sandbox = Sandbox::default();
        for text in texts {
            let mut section = "";
            for line in logical_lines(text) {
                let line = line.trim();
                if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                    section = if name == "Service" { "Service" } else { "" };
                } else if section == "Service"
                    && let Some((key, value)) = line.split_once('=')
                {
                    sandbox.set(key.trim(), value.trim());
                }
            }
        }
        sandbox
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            "User" => self.user = Some(value.to_owned()).filter(|user| !user.is_empty()),
            "ProtectHome" => self.home_hidden = is_true(value) || value == "tmpfs",
            "PrivateTmp" => self.tmp_private = is_true(value) || value == "disconnected",
            "ProtectSystem" => {
                self.system = match value {
                    "strict" => Protection::Everything,
                    "full" => Protection::Etc,
                    value if is_true(value) => Protection::Usr,
                    _ => Protection::None,
                };
            }
            "ReadWritePaths" | "ReadWriteDirectories" => extend(&mut self.writable, value, |word| {
                Some(PathBuf::from(word.trim_start_matches(['-', '+'])))
            }),
            "StateDirectory" | "RuntimeDirectory" | "CacheDirectory" | "LogsDirectory" => {
                let base = match key {
                    "StateDirectory" => "/var/lib",
                    "RuntimeDirectory" => "/run",
                    "CacheDirectory" => "/var/cache",
                    _ => "/var/log",
                };
                extend(&mut self.writable, value, |word| {
                    Some(Path::new(base).join(word.split(':').next().unwrap_or(word)))
                });
            }
            "BindPaths" | "BindReadOnlyPaths" => {
                let destination = |word: &str| {
                    let mut parts = word.trim_start_matches('-').split(':');
                    let source = parts.next()?;
                    Some(PathBuf::from(parts.next().unwrap_or(source)))
                };
                extend(&mut self.bound, value, destination);
                if key == "BindPaths" {
                    extend(&mut self.writable, value, destination);
                }
            }
            // An empty value takes away what was there; `~` names what is left out.
            "AmbientCapabilities" => {
                let has = names_bind(value) != value.starts_with('~');
                self.ambient_bind = !value.is_empty() && (self.ambient_bind || has);
            }
            "CapabilityBoundingSet" => {
                let has = names_bind(value) != value.starts_with('~');
                self.bounded_out = value.is_empty() || !has;
            }
            _ => {}
        }
    }

    /// Whether the service may listen on reserved ports though it is not root's
    /// (CAP_NET_BIND_SERVICE).
    pub fn binds_reserved_ports(&self) -> bool {
        self.ambient_bind && !self.bounded_out
    }

    /// Whether, and by what, a path is out of the service's sight.
    pub fn hides(&self, path: &Path) -> Option<Hidden> {
        if self.bound.iter().any(|bound| path.starts_with(bound)) {
            return None;
        }
        let of = |folders: &[&'static str], setting| {
            let folder = folders.iter().find(|folder| path.starts_with(folder))?;
            Some(Hidden { folder, setting })
        };
        let home = self.home_hidden.then(|| of(&HOMES, "ProtectHome")).flatten();
        home.or_else(|| self.tmp_private.then(|| of(&TEMPORARY, "PrivateTmp")).flatten())
    }

    /// Whether the unit lets the service write below a folder; who owns it is another matter.
    pub fn lets_write(&self, folder: &Path) -> bool {
        let below = |top: &Path| folder.starts_with(top);
        if self.writable.iter().any(|writable| below(writable)) {
            return true;
        }
        match self.system {
            Protection::None => true,
            Protection::Usr => !below(Path::new("/usr")) && !below(Path::new("/boot")),
            Protection::Etc => !["/usr", "/boot", "/etc"].iter().any(|top| below(Path::new(top))),
            Protection::Everything => NEVER_PROTECTED.iter().any(|top| below(Path::new(top))),
        }
    }
}

/// Lines, with those that end in a backslash joined to the next, comments left out.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let mut whole = open.take().map_or_else(String::new, |open| open + " ");
        whole.push_str(line.trim_end_matches('\\'));
        if line.ends_with('\\') {
            open = Some(whole);
        } else {
            lines.push(whole);
        }
    }
    lines.extend(open);
    lines
}

/// A list setting: words are added, an empty value takes all back.
fn extend(list: &mut Vec<PathBuf>, value: &str, read: impl Fn(&str) -> Option<PathBuf>) {
    if value.is_empty() {
        list.clear();
    }
    list.extend(value.split_whitespace().filter_map(read));
}

fn is_true(value: &str) -> bool {
    ["1", "yes", "y", "true", "t", "on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_for_a_unit_with_the_capability() {
        let with = |text: &str| Sandbox::parse([PACKAGED, text]).binds_reserved_ports();
        assert!(!with(""), "the packaged unit");
        let both = "[Service]\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n";
        assert!(with(both));
        assert!(!with("[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"), "bounded out");
        assert!(!with(&format!("{both}AmbientCapabilities=\n")));
    }

    #[test]
    fn the_packaged_unit_hides_homes_and_temporary_folders_and_writes_to_its_own_alone() {
        let unit = Sandbox::packaged();
        assert_eq!(unit.user.as_deref(), Some("tombolo"));
        for (path, setting) in [
            ("/home/admin/ca.pem", Some("ProtectHome")),
            ("/root/ca.pem", Some("ProtectHome")),
            ("/run/user/1000/ca.pem", Some("ProtectHome")),
            ("/tmp/ca.pem", Some("PrivateTmp")),
            ("/var/tmp/ca.pem", Some("PrivateTmp")),
            ("/etc/tombolo/ca.pem", None),
            ("/homework/ca.pem", None),
            ("/srv/ca.pem", None),
        ] {
            assert_eq!(unit.hides(Path::new(path)).map(|hidden| hidden.setting), setting, "{path}");
        }
        for (folder, writable) in [
            ("/var/lib/tombolo", true),
            ("/run/tombolo", true),
            ("/data/tombolo", false),
            ("/var/lib", false),
        ] {
            assert_eq!(unit.lets_write(Path::new(folder)), writable, "{folder}");
        }
    }

    #[test]
    fn drop_ins_override_add_and_take_back() {
        let with = |text: &str| Sandbox::parse([PACKAGED, text]);
        let opened = with("[Service]\nProtectHome=read-only\n");
        assert_eq!(opened.hides(Path::new("/home/a")), None);
        let bound = with("[Service]\nBindReadOnlyPaths=/home/a/ca.pem /srv/x:/root/x\n");
        assert_eq!(bound.hides(Path::new("/home/a/ca.pem")), None);
        assert_eq!(bound.hides(Path::new("/root/x/y")), None);
        assert!(bound.hides(Path::new("/home/b")).is_some());
        let wide = with("[Service]\nReadWritePaths=-/data/tombolo \\\n  /mnt\n");
        assert!(wide.lets_write(Path::new("/data/tombolo/journal")) && wide.lets_write(Path::new("/mnt")));
        let none =
            Sandbox::parse([PACKAGED, "[Service]\nReadWritePaths=/x\n", "[Service]\nReadWritePaths=\n"]);
        assert!(!none.lets_write(Path::new("/x")));
        let elsewhere = with("[Unit]\nProtectHome=no\n# [Service]\n#ProtectHome=no\n");
        assert!(elsewhere.hides(Path::new("/home/a")).is_some(), "only [Service] counts");
        assert!(with("[Service]\nProtectSystem=full\n").lets_write(Path::new("/data")));
        assert!(!with("[Service]\nProtectSystem=full\n").lets_write(Path::new("/etc/x")));
        assert!(with("[Service]\nProtectSystem=no\nUser=\n").user.is_none());
    }
}
