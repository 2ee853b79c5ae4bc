//! The id generated at the first start, stored in two files so that damage to one is harmless.
//!
//! | file | content | purpose |
//! |---|---|---|
//! | `gateway-id` | the id and a line feed | for users, scripts and older versions; an id written here by hand is used |
//! | `gateway-id.copy` | the id, its origin, CRC-32C of both | detects damage, and restores the id |
//!
//! The id is, in this order: a valid `gateway-id`; the copy; the id this process runs with. A
//! `gateway-id` that is a truncated form of the copy's id, or differs from it in one or two
//! characters, is damaged; one that differs more was written by hand. If none is left, a new id is
//! generated:
//!
//! | [`Making`] | condition | later content of `gateway-id` |
//! |---|---|---|
//! | `first` | there was never an id | |
//! | `replacement` | both files are damaged | |
//! | `interim` | a file that may contain the id cannot be read (EIO, EACCES) and the other is damaged or missing; the unreadable file is not changed | the old id, which is used again when it can be read |
//!
//! `[gateway] id` in the configuration has precedence; then neither file is read. This module
//! decides; [`io`] reads and writes.

pub mod io;

use std::fmt;
use std::path::Path;

use super::finding::{Finding, Place};
use crate::durable::atomic_file::{Condition, name_before};
use crate::message::Name;

/// The plain file.
pub const PLAIN: &str = "gateway-id";
/// The checked file.
pub const COPY: &str = "gateway-id.copy";
/// Largest size of either file, in bytes.
const MAX_BYTES: u64 = 256;
/// Prefix of a generated id.
const PREFIX: &str = "tb-";
/// Random characters after the prefix.
const RANDOM_LENGTH: usize = 8;
/// The alphabet of the random characters.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// The subject of findings about the id.
pub(super) const SUBJECT: &str = "gateway id";
/// The remedy for a file that cannot be read.
const READABLE: &str = "give it to the service's user with mode 0644, or see in `dmesg` what the disk has; then systemctl reload tombolo";
/// Most characters in which a damaged id differs from the original.
const ROT_MAX: usize = 2;

/// The origin of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// Generated at the first start, or set by hand.
    First,
    /// Replaces an id that was lost: both files were damaged.
    Replacement,
    /// Used while the previous id cannot be read.
    Interim,
}

impl Making {
    const ALL: [(Making, &'static str); 3] =
        [(Making::First, "first"), (Making::Replacement, "replacement"), (Making::Interim, "interim")];

    fn word(self) -> &'static str {
        Making::ALL.into_iter().find(|(making, _)| *making == self).map_or("first", |(_, word)| word)
    }
}

/// An id and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeId {
    /// The id.
    pub id: Name,
    /// Its origin.
    pub making: Making,
}

impl MadeId {
    /// A new id from 8 random bytes: `tb-` and 8 characters of base32.
    pub fn draw(random: [u8; RANDOM_LENGTH], making: Making) -> MadeId {
        let characters = random.iter().map(|byte| char::from(BASE32[usize::from(byte % 32)]));
        let text: String = PREFIX.chars().chain(characters).collect();
        MadeId { id: Name::parse(&text).expect("letters, digits and a dash, a letter first"), making }
    }

    /// The content of [`PLAIN`].
    pub fn plain(&self) -> String {
        format!("{}\n", self.id)
    }

    /// The content of [`COPY`].
    pub fn checked(&self) -> String {
        let text = format!("{} {}", self.id, self.making.word());
        format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
    }
}

/// The parsed content of [`PLAIN`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    id: Name,
    /// Whether it ends with a line feed, so that it is not truncated.
    is_whole: bool,
}

impl Plain {
    /// The id.
    pub fn into_id(self) -> Name {
        self.id
    }
}

/// Reads [`PLAIN`].
///
/// # Errors
/// Why it is invalid, as a clause for an error message.
pub fn parse_plain(bytes: &[u8]) -> Result<Plain, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let (trimmed, is_whole) = (text.trim(), text.ends_with('\n'));
    let id = Name::parse(trimmed).map_err(|error| format!("it contains no valid id: {error}"))?;
    if !is_whole && is_cut(trimmed) {
        return Err("it is truncated".to_owned());
    }
    Ok(Plain { id, is_whole })
}

/// Whether this is a truncated generated id.
fn is_cut(text: &str) -> bool {
    let (prefix, random) = text.split_at(text.len().min(PREFIX.len()));
    text.len() < PREFIX.len() + RANDOM_LENGTH
        && PREFIX.starts_with(prefix)
        && random.bytes().all(|b| BASE32.contains(&b))
}

/// Reads [`COPY`].
///
/// # Errors
/// Why it is invalid, as a clause for an error message.
pub fn parse_copy(bytes: &[u8]) -> Result<MadeId, String> {
    let fault = || "its checksum is wrong".to_owned();
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n')).ok_or_else(fault)?;
    let (content, sum) = text.rsplit_once(' ').ok_or_else(fault)?;
    if sum != format!("{:08x}", crc32c::crc32c(content.as_bytes())) {
        return Err(fault());
    }
    let (id, word) = content.split_once(' ').ok_or_else(fault)?;
    // A word of a later version: the id is used anyway.
    let making = Making::ALL.into_iter().find(|(_, known)| *known == word);
    let id = Name::parse(id).map_err(|_| fault())?;
    Ok(MadeId { id, making: making.map_or(Making::First, |(making, _)| making) })
}

/// The action for one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is correct, or must not be changed.
    Leave,
    /// Write it.
    Write,
    /// Set it aside, then write it.
    SetAsideAndWrite,
}

/// The id to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A known id.
    Known(MadeId),
    /// A new id, which only the daemon may generate.
    New(Making),
}

/// The decision about the id and its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The id to use.
    pub choice: Choice,
    /// The action for [`PLAIN`].
    pub plain: Step,
    /// The action for [`COPY`].
    pub copy: Step,
    /// The faults of the files.
    pub defects: Vec<(&'static str, Condition)>,
    /// The previous id, if [`PLAIN`] was changed by hand.
    pub changed_from: Option<Name>,
}

impl Decision {
    /// Whether no file needs to be written.
    pub fn is_settled(&self) -> bool {
        self.plain == Step::Leave && self.copy == Step::Leave
    }
}

/// Decides from the content of the files and the id this process runs with.
pub fn decide(
    plain: Result<Plain, Condition>,
    copy: Result<MadeId, Condition>,
    running: Option<&MadeId>,
) -> Decision {
    let known = copy.as_ref().ok().or(running);
    let plain = match (plain, known) {
        (Ok(plain), Some(known)) => damage(&plain, &known.id).map_or(Ok(plain.id), Err),
        (Ok(plain), None) => Ok(plain.id),
        (Err(condition), _) => Err(condition),
    };
    let is_unreadable = |condition: &Condition| matches!(condition, Condition::Unreadable(_));
    let is_open = plain.as_ref().is_err_and(is_unreadable);
    let choice = match (&plain, known) {
        (Ok(id), Some(known)) if *id == known.id && known.making == Making::Replacement => {
            Choice::Known(known.clone())
        }
        (Ok(id), _) => Choice::Known(MadeId { id: id.clone(), making: Making::First }),
        // The reason for the interim id no longer exists.
        (Err(_), Some(MadeId { id, making: Making::Interim })) if !is_open && copy.is_ok() => {
            Choice::Known(MadeId { id: id.clone(), making: Making::Replacement })
        }
        (Err(_), Some(known)) => Choice::Known(known.clone()),
        (Err(_), None) if is_open || copy.as_ref().is_err_and(is_unreadable) => Choice::New(Making::Interim),
        (Err(Condition::Missing), None) if copy == Err(Condition::Missing) => Choice::New(Making::First),
        (Err(_), None) => Choice::New(Making::Replacement),
    };
    let is_interim = match &choice {
        Choice::Known(made) => made.making == Making::Interim,
        Choice::New(making) => *making == Making::Interim,
    };
    let step = |condition: &Condition| match condition {
        Condition::Missing => Step::Write,
        Condition::Damaged(_) => Step::SetAsideAndWrite,
        Condition::Unreadable(_) => Step::Leave,
    };
    let plain_step = match &plain {
        Err(condition) if !is_interim => step(condition),
        _ => Step::Leave,
    };
    let copy_step = match &copy {
        Ok(made) if choice == Choice::Known(made.clone()) => Step::Leave,
        Ok(_) => Step::Write,
        Err(condition) => step(condition),
    };
    let changed_from = match (&plain, known) {
        (Ok(id), Some(known)) if *id != known.id => Some(known.id.clone()),
        _ => None,
    };
    let both = [(PLAIN, plain.err()), (COPY, copy.err())];
    let defects = both.into_iter().filter_map(|(name, condition)| Some((name, condition?))).collect();
    Decision { choice, plain: plain_step, copy: copy_step, defects, changed_from }
}

/// The findings about the files, with remedies. A file that is only missing has no finding, because
/// it is created.
pub fn findings(decision: &Decision, directory: &Path) -> Vec<Finding> {
    let subject = |name: &str| Place { file: directory.join(name).display().to_string().into(), line: None };
    let mut findings = Vec::new();
    for (name, condition) in &decision.defects {
        let (consequence, advice) = match (&decision.choice, condition) {
            (_, Condition::Missing) => continue,
            (Choice::Known(made), Condition::Damaged(_)) => (
                format!("the gateway's id is {} all the same", made.id),
                "the next start or reload restores it",
            ),
            (Choice::Known(MadeId { id, making: Making::Interim }), Condition::Unreadable(_)) => {
                (format!("until it can be, the gateway's id is {id}, made for the time being"), READABLE)
            }
            (Choice::Known(made), Condition::Unreadable(_)) => {
                (format!("the gateway's id is {} all the same", made.id), READABLE)
            }
            (Choice::New(Making::Interim), Condition::Unreadable(_)) => {
                ("until it can be, the gateway runs under an id made for the time being".to_owned(), READABLE)
            }
            (Choice::New(_), _) => (
                "the next start makes a new id".to_owned(),
                "set [gateway] id to the id this gateway had, if it is to keep it",
            ),
        };
        let finding = Finding::fail(SUBJECT, format!("{condition}; {consequence}"));
        findings.push(finding.at(Some(&subject(name))).advice(advice));
    }
    findings
}

/// The finding that a start or reload logs once: the id is new or has changed.
pub fn event(decision: &Decision, directory: &Path, made: Option<&MadeId>) -> Option<Finding> {
    let place = Place { file: directory.join(PLAIN).display().to_string().into(), line: None };
    let finding = match (&decision.choice, &decision.changed_from, made) {
        (Choice::Known(MadeId { id, .. }), Some(before), _) => {
            let message = format!(
                "the gateway's id is {id} now, and was {before}: what is retained under that stays on the broker"
            );
            Finding::warn(SUBJECT, message).advice("nothing is to be done if that was meant")
        }
        (Choice::New(Making::First), _, Some(made)) => {
            Finding::ok(SUBJECT, format!("this is the first start: the gateway's id is {}", made.id))
        }
        _ => return None,
    };
    Some(finding.at(Some(&place)))
}

/// The finding that the id cannot be written.
pub fn unsettled(decision: &Decision, directory: &Path, error: &str) -> Finding {
    let place = Place { file: directory.join(PLAIN).display().to_string().into(), line: None };
    let message = match decision.choice {
        Choice::Known(_) => format!("cannot be put in order: {error}"),
        Choice::New(_) => format!(
            "cannot be written: {error}; this process alone knows the new id, and the next start may make another"
        ),
    };
    let advice = "make room, or make the state directory writable to the service's user, or set [gateway] id; it is tried again every minute";
    Finding::fail(SUBJECT, message).at(Some(&place)).advice(advice)
}

/// The finding about files that were set aside; `check` reports it until they are deleted.
pub fn set_aside(made: &MadeId, directory: &Path, aside: &[String]) -> Option<Finding> {
    let first = aside.first()?;
    let place = Place { file: directory.join(first).display().to_string().into(), line: None };
    let files = aside.join(", ");
    let id = &made.id;
    let finding = if made.making == Making::Replacement {
        let message = format!(
            "the gateway's id was lost: its files were damaged and set aside ({files}); it is {id} now, and what is retained under the id before stays on the broker"
        );
        let advice = format!("set [gateway] id to the id before, or keep {id} and delete {files}");
        Finding::fail(SUBJECT, message).advice(advice)
    } else {
        let message = format!("damaged and set aside ({files}); the gateway's id, {id}, was restored");
        Finding::fail(SUBJECT, message)
            .advice(format!("see in `dmesg` whether the disk fails, then delete {files}"))
    };
    Some(finding.at(Some(&place)))
}

/// Whether one of the id's files was set aside under this name.
pub fn is_aside(name: &str) -> bool {
    matches!(name_before(name), Some(PLAIN | COPY))
}

/// Why the content of [`PLAIN`] is the known id, damaged, and not another id.
fn damage(plain: &Plain, known: &Name) -> Option<Condition> {
    let (is, was) = (plain.id.as_str(), known.as_str());
    if is == was {
        return None;
    }
    if !plain.is_whole && was.starts_with(is) {
        return Some(Condition::Damaged("it is truncated".to_owned()));
    }
    let differing = is.bytes().zip(was.bytes()).filter(|(a, b)| a != b).count();
    let is_rot = is.len() == was.len() && differing <= ROT_MAX;
    is_rot.then(|| Condition::Damaged(format!("it says {is}, where {COPY} says {was}")))
}

impl fmt::Display for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(id: &str, making: Making) -> MadeId {
        MadeId { id: Name::parse(id).unwrap(), making }
    }

    fn plain(id: &str) -> Result<Plain, Condition> {
        parse_plain(format!("{id}\n").as_bytes()).map_err(Condition::Damaged)
    }

    const MISSING: Condition = Condition::Missing;

    fn damaged() -> Condition {
        Condition::Damaged("it is empty".to_owned())
    }

    fn unreadable() -> Condition {
        Condition::Unreadable("EIO".to_owned())
    }

    #[test]
    fn what_is_written_is_read_back_and_no_part_of_it_is_another_id() {
        for making in [Making::First, Making::Replacement, Making::Interim] {
            let drawn = MadeId::draw([0, 31, 32, 63, 255, 7, 8, 9], making);
            assert_eq!(drawn.id.as_str(), "tb-a7a77hij");
            assert_eq!(parse_copy(drawn.checked().as_bytes()), Ok(drawn.clone()));
            let (text, checked) = (drawn.plain(), drawn.checked());
            assert_eq!(parse_plain(text.as_bytes()).unwrap().id, drawn.id);
            // Only the line feed is missing: the id is complete.
            assert_eq!(parse_plain(&text.as_bytes()[..11]).unwrap().id, drawn.id);
            for length in 0..11 {
                assert!(parse_plain(&text.as_bytes()[..length]).is_err(), "{length}");
            }
            for length in 0..checked.len() {
                assert!(parse_copy(&checked.as_bytes()[..length]).is_err(), "{length}");
                let mut flipped = checked.clone().into_bytes();
                flipped[length] ^= 4;
                assert!(parse_copy(&flipped).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn an_id_put_there_by_hand_counts_with_and_without_a_line_feed() {
        for text in ["greenhouse-7", "greenhouse-7\n", " greenhouse-7 \r\n", "tb-Greenhouse", "tb-abcdefghi"]
        {
            assert!(parse_plain(text.as_bytes()).is_ok(), "{text:?}");
        }
        assert!(parse_plain(b"a b").is_err() && parse_plain(b"\xff").is_err());
    }

    #[test]
    fn one_good_file_restores_the_other() {
        let known = made("tb-abcdefgh", Making::First);
        let decided = |plain, copy| {
            let decision = decide(plain, copy, None);
            assert_eq!(decision.choice, Choice::Known(known.clone()));
            (decision.plain, decision.copy)
        };
        use Step::{Leave, SetAsideAndWrite, Write};
        let good = || plain("tb-abcdefgh");
        assert_eq!(decided(good(), Ok(known.clone())), (Leave, Leave));
        assert_eq!(decided(good(), Err(MISSING)), (Leave, Write));
        assert_eq!(decided(good(), Err(damaged())), (Leave, SetAsideAndWrite));
        assert_eq!(decided(good(), Err(unreadable())), (Leave, Leave));
        assert_eq!(decided(Err(MISSING), Ok(known.clone())), (Write, Leave));
        assert_eq!(decided(Err(damaged()), Ok(known.clone())), (SetAsideAndWrite, Leave));
        assert_eq!(decided(Err(unreadable()), Ok(known.clone())), (Leave, Leave));
        // Damaged, and truncated after an id that was set by hand.
        assert_eq!(decided(plain("tb-abcdefga"), Ok(known.clone())), (SetAsideAndWrite, Leave));
        let (cut, whole) = (parse_plain(b"green").map_err(|_| MISSING), made("greenhouse-7", Making::First));
        let decision = decide(cut, Ok(whole.clone()), None);
        assert_eq!((decision.choice, decision.plain), (Choice::Known(whole), SetAsideAndWrite));
    }

    #[test]
    fn an_id_written_by_hand_counts_and_the_one_before_is_named() {
        let old = made("tb-abcdefgh", Making::Replacement);
        for running in [None, Some(&old)] {
            let decision = decide(plain("greenhouse-7"), Ok(old.clone()), running);
            assert_eq!(decision.choice, Choice::Known(made("greenhouse-7", Making::First)));
            assert_eq!((decision.plain, decision.copy), (Step::Leave, Step::Write));
            assert_eq!(decision.changed_from, Some(old.id.clone()));
        }
    }

    #[test]
    fn where_nothing_is_left_a_new_one_is_made_and_what_may_be_readable_later_is_left_alone() {
        use Step::{Leave, SetAsideAndWrite, Write};
        let decided = |plain, copy| {
            let decision = decide(plain, copy, None);
            let Choice::New(making) = decision.choice else { panic!("{decision:?}") };
            (making, decision.plain, decision.copy)
        };
        let (first, new, interim) = (Making::First, Making::Replacement, Making::Interim);
        assert_eq!(decided(Err(MISSING), Err(MISSING)), (first, Write, Write));
        assert_eq!(decided(Err(damaged()), Err(MISSING)), (new, SetAsideAndWrite, Write));
        assert_eq!(decided(Err(MISSING), Err(damaged())), (new, Write, SetAsideAndWrite));
        assert_eq!(decided(Err(damaged()), Err(damaged())), (new, SetAsideAndWrite, SetAsideAndWrite));
        assert_eq!(decided(Err(unreadable()), Err(MISSING)), (interim, Leave, Write));
        assert_eq!(decided(Err(unreadable()), Err(damaged())), (interim, Leave, SetAsideAndWrite));
        assert_eq!(decided(Err(unreadable()), Err(unreadable())), (interim, Leave, Leave));
        assert_eq!(decided(Err(MISSING), Err(unreadable())), (interim, Leave, Leave));
        assert_eq!(decided(Err(damaged()), Err(unreadable())), (interim, Leave, Leave));
    }

    #[test]
    fn an_interim_id_stays_until_the_old_one_is_back() {
        let interim = made("tb-22222222", Making::Interim);
        let again = decide(Err(unreadable()), Ok(interim.clone()), None);
        assert_eq!(again.choice, Choice::Known(interim.clone()));
        assert!(again.is_settled());
        let back = decide(plain("tb-abcdefgh"), Ok(interim.clone()), Some(&interim));
        assert_eq!(back.choice, Choice::Known(made("tb-abcdefgh", Making::First)));
        assert_eq!((back.copy, back.changed_from), (Step::Write, Some(interim.id.clone())));
        let never = decide(Err(damaged()), Ok(interim.clone()), None);
        assert_eq!(never.choice, Choice::Known(made("tb-22222222", Making::Replacement)));
        assert_eq!((never.plain, never.copy), (Step::SetAsideAndWrite, Step::Write));
    }

    #[test]
    fn a_running_gateway_keeps_its_id_whatever_becomes_of_the_files() {
        let running = made("tb-abcdefgh", Making::First);
        let conditions = || [MISSING, damaged(), unreadable()];
        for (plain, copy) in conditions().into_iter().flat_map(|p| conditions().map(|c| (p.clone(), c))) {
            let decision = decide(Err(plain.clone()), Err(copy.clone()), Some(&running));
            assert_eq!(decision.choice, Choice::Known(running.clone()), "{plain:?} {copy:?}");
            let left = |condition| matches!(condition, Condition::Unreadable(_));
            assert_eq!(decision.plain == Step::Leave, left(plain));
            assert_eq!(decision.copy == Step::Leave, left(copy));
        }
    }
}
