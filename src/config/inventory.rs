//! What the gateway and its commands keep on the machine, apart from the configuration: one table,
//! which says of each entry what becomes of it on a copied card (`firstboot`) and when the gateway
//! is taken out of service (`decommission`).
//!
//! | place | `firstboot` | `decommission` |
//! |---|---|---|
//! | state directory | removes what is [`Copied::Removed`]; the rest and unlisted files stay | wipes all but [`FILE_SYSTEM`], unlisted files as well |
//! | runtime directory | the same | wipes what is [`Copied::Removed`] |
//! | `{state-dir}-update`, root's | stays: what was installed is on the copy, too | wipes all, if this user may |
//!
//! A new file has to be listed here: the tests that run a daemon refuse entries that are not.

/// What becomes of an entry on a copied card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It is of one board: its identity, keys, sessions, readings and counts.
    Removed,
    /// What somebody put there, floors that never sink, and what is the same on every card.
    Stays,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// What becomes of it on a copied card.
    pub copied: Copied,
}

const fn removed(name: &'static str) -> Entry {
    Entry { name, copied: Copied::Removed }
}

const fn stays(name: &'static str) -> Entry {
    Entry { name, copied: Copied::Stays }
}

/// What begins the name of a backup that `tombolo restore` keeps; of one board.
pub const BEFORE_RESTORE: &str = "before-restore-";
/// Made by the file system where the state directory is a partition; root's, and left.
pub const FILE_SYSTEM: &str = "lost+found";

/// Entries of the state directory. What was set aside of one (`NAME.damaged-1`, `NAME.unknown-1`,
/// `NAME.copy`) is as the entry: of a journal that was set aside readings would be taken up again.
pub const STATE: [Entry; 24] = [
    removed("gateway-id"),
    removed("sessions"),
    removed("journal"),
    removed("mailbox"),
    removed("certificates"),
    removed("tokens"),
    removed("usage"),
    removed("fleet-devices"),
    removed("modbus-learned"),
    removed("new-keys"),
    removed("config-before-trial.toml"),
    removed("daily-bytes"),
    removed("support-bundle.tar"),
    stays("devices"),
    stays("conf.d"),
    stays("secrets"),
    stays("firmware"),
    stays("config-trial.json"),
    // The floors of updates, revocation lists and the clock.
    stays("update"),
    stays("revocation"),
    stays("clock"),
    stays("clock-floor"),
    stays("board-serial"),
    // The marker of a copied card: removed when all else is done.
    stays("first-boot"),
];

/// Entries of the runtime directory.
pub const RUNTIME: [Entry; 3] = [
    // Keys that were encrypted, or came from systemd.
    removed("certificates"),
    // Handed over by the last process.
    removed("sessions"),
    stays("control.sock"),
];

/// What an entry of the state directory belongs to, by its name: it is listed, was set aside of
/// such a one, is one that was being written (`.NAME.…`), or a backup of before a restore. `None`:
/// it is somebody's own, also if it begins alike.
pub fn of_state(name: &str) -> Option<Entry> {
    let visible = name.trim_start_matches('.');
    let is_hidden = visible.len() < name.len();
    let is_aside = |part: &str| {
        matches!(part, "copy" | "emptied") || part.starts_with("unknown") || part.starts_with("damaged-")
    };
    let is_of = |listed: &str| match visible.strip_prefix(listed) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('.').is_some_and(|parts| is_hidden || parts.split('.').all(is_aside)),
        None => false,
    };
    if visible.starts_with(BEFORE_RESTORE) {
        return Some(removed(BEFORE_RESTORE));
    }
    STATE.into_iter().find(|entry| is_of(entry.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_of_an_entry_is_known_by_its_name_and_what_begins_alike_is_not() {
        for entry in STATE {
            let name = entry.name;
            let set_aside =
                ["", ".unknown-1", ".unknown-12", ".damaged-3", ".copy", ".emptied", ".copy.damaged-1"];
            for more in set_aside {
                assert_eq!(of_state(&format!("{name}{more}")), Some(entry), "{name}{more}");
                assert_eq!(of_state(&format!(".{name}{more}.new")), Some(entry), "{name}{more}");
            }
            let twice = STATE.iter().filter(|other| other.name == name).count();
            assert_eq!(twice, 1, "{name}");
        }
        let backup = of_state("before-restore-20260101T000000Z.tar");
        assert_eq!(backup.map(|entry| entry.copied), Some(Copied::Removed));
        for name in ["journals", "tokens.txt", FILE_SYSTEM, "certificates.pem", "certificates-mine"] {
            assert_eq!(of_state(name), None, "{name}");
        }
    }
}
