//! The id made by the first start: two files, so that damage to one costs nothing.
//!
//! | file | content | for |
//! |---|---|---|
//! | `gateway-id` | the id and a line feed | people, scripts, older versions; a new id written here by hand counts |
//! | `gateway-id.copy` | the id, how it came about, CRC-32C of both | telling damage from an id, and restoring it |
//!
//! What counts, in this order: a good `gateway-id`; the copy; the id this process runs under. A
//! `gateway-id` that is the copy's id cut short, or differs from it in one or two characters, was
//! damaged; one that differs more was written by somebody. Where nothing is left a new id is made:
//!
//! | [`Making`] | when | `gateway-id` says later |
//! |---|---|---|
//! | `first` | there never was one | |
//! | `replacement` | both files are damaged | |
//! | `interim` | a file that may hold the id cannot be read (EIO, EACCES) and the other is of no use: that file is left alone | the old id: it counts again |
//!
//! `[gateway] id` in the configuration wins over all of this; then neither file is looked at. Here
//! it is decided, in [`io`] read and written.

pub mod io;

use std::fmt;
use std::path::Path;

use super::finding::{Finding, Place};
use crate::durable::atomic_file::{Condition, name_before};
use crate::message::Name;

/// The file for people.
pub const PLAIN: &str = "gateway-id";
/// The checked file.
pub const COPY: &str = "gateway-id.copy";
/// Largest of either, in bytes.
const MAX_BYTES: u64 = 256;
/// How an id made here begins.
const PREFIX: &str = "tb-";
/// Characters behind it.
const RANDOM_LENGTH: usize = 8;
/// Those there are.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// What findings here are about.
pub(super) const SUBJECT: &str = "gateway id";
/// The way out for a file that cannot be read.
const READABLE: &str = "give it to the service's user with mode 0644, or see in `dmesg` what the disk has; then systemctl reload tombolo";
/// In so many characters at most an id differs from what it was before it was damaged.
const ROT_MAX: usize = 2;

/// How an id came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// At the first start, or by hand.
    First,
    /// The one before was lost: both files were damaged.
    Replacement,
    /// The one before cannot be read at present.
    Interim,
}

impl Making {
    const ALL: [(Making, &'static str); 3] =
        [(Making::First, "first"), (Making::Replacement, "replacement"), (Making::Interim, "interim")];

    fn word(self) -> &'static str {
        Making::ALL.into_iter().find(|(making, _)| *making == self).map_or("first", |(_, word)| word)
    }
}

/// An id, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeId {
    /// The id.
    pub id: Name,
    /// How it came about.
    pub making: Making,
}

impl MadeId {
    /// A new id out of 8 random bytes: `tb-` and 8 characters of base32.
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

/// What [`PLAIN`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    id: Name,
    /// It ends with a line feed, so nothing was cut off.
    is_whole: bool,
}

/// Reads [`PLAIN`].
///
/// # Errors
/// Why it cannot be what was written, in half a sentence.
pub fn parse_plain(bytes: &[u8]) -> Result<Plain, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let (trimmed, is_whole) = (text.trim(), text.ends_with('\n'));
    let id = Name::parse(trimmed).map_err(|error| format!("it holds no id: {error}"))?;
    if !is_whole && is_cut(trimmed) {
        return Err("it is cut short".to_owned());
    }
    Ok(Plain { id, is_whole })
}

/// Whether this is the beginning of an id made here, but not all of it.
fn is_cut(text: &str) -> bool {
    let (prefix, random) = text.split_at(text.len().min(PREFIX.len()));
    text.len() < PREFIX.len() + RANDOM_LENGTH
        && PREFIX.starts_with(prefix)
        && random.bytes().all(|b| BASE32.contains(&b))
}

/// Reads [`COPY`].
///
/// # Errors
/// Why it cannot be what was written, in half a sentence.
pub fn parse_copy(bytes: &[u8]) -> Result<MadeId, String> {
    let fault = || "its checksum is wrong".to_owned();
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n')).ok_or_else(fault)?;
    let (content, sum) = text.rsplit_once(' ').ok_or_else(fault)?;
    if sum != format!("{:08x}", crc32c::crc32c(content.as_bytes())) {
        return Err(fault());
    }
    let (id, word) = content.split_once(' ').ok_or_else(fault)?;
    // A word of a later version: the id counts all the same.
    let making = Making::ALL.into_iter().find(|(_, known)| *known == word);
    let id = Name::parse(id).map_err(|_| fault())?;
    Ok(MadeId { id, making: making.map_or(Making::First, |(making, _)| making) })
}

/// What is to be done about one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is right, or must not be touched.
    Leave,
    /// It is to be written.
    Write,
    /// It is to be set aside first.
    SetAsideAndWrite,
}

/// Which id counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Known(MadeId),
    /// A new one, to be made by a gateway that runs.
    New(Making),
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which id counts.
    pub choice: Choice,
    /// What becomes of [`PLAIN`].
    pub plain: Step,
    /// What becomes of [`COPY`].
    pub copy: Step,
    /// What is wrong with which file.
    pub defects: Vec<(&'static str, Condition)>,
    /// Under this id the gateway ran before somebody wrote another into [`PLAIN`].
    pub changed_from: Option<Name>,
}

impl Decision {
    /// Whether everything is as it should be.
    pub fn is_settled(&self) -> bool {
        self.plain == Step::Leave && self.copy == Step::Leave
    }
}

/// Decides by what the files say, and by the id this process runs under.
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
        // What made it an interim one is gone.
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

/// What there is to say of the files as they were found, and the way out; nothing of those that are
/// only missing: they are made.
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

/// What a start or reload says once: that the id is a new one, or another.
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

/// That the disk does not take what is to be written of the id.
pub fn unsettled(decision: &Decision, directory: &Path, error: &str) -> Finding {
    let place = Place { file: directory.join(PLAIN).display().to_string().into(), line: None };
    let message = match decision.choice {
        Choice::Known(_) => format!("cannot be put in order: {error}"),
        Choice::New(_) => format!(
            "cannot be written: {error}; this process alone knows the new id, and the next start may make another"
        ),
    };
    let advice = "make room, or the state directory writable to the service's user, or set [gateway] id; it is tried again every minute";
    Finding::fail(SUBJECT, message).at(Some(&place)).advice(advice)
}

/// What there is to say of files that were set aside, which somebody has to have seen before
/// `check` is content.
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

/// Why a plain id is no other id than the known one, but that one damaged.
fn damage(plain: &Plain, known: &Name) -> Option<Condition> {
    let (is, was) = (plain.id.as_str(), known.as_str());
    if is == was {
        return None;
    }
    if !plain.is_whole && was.starts_with(is) {
        return Some(Condition::Damaged("it is cut short".to_owned()));
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
            // Only the line feed is missing: all of the id is there.
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
        // Rotten, and cut behind an id that was put there by hand.
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
