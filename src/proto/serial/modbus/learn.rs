//! What a unit taught by its silence: how wide a read may be, how long it wants to be left alone
//! before a request, and which registers it never answers for.
//!
//! The standard lets a unit refuse with an exception. Many are silent instead: to a read over an
//! address they do not have, to a read of more registers than their buffer holds, to a request that
//! comes too soon after their last answer. [`unit`](super::unit) finds out which; this is what it
//! keeps of it over a restart.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::wait_max;
use super::map::Register;
use super::misfit::Misfit;
use super::pdu::{Exception, Table};
use super::plan::{Block, Limits, Widths};

/// Failures of one read in a row, while the unit answers others, after which it is changed.
pub const FAILURES: u32 = 3;
/// The same for a read that was answered before: noise that damages requests makes a unit silent.
/// If a fifth of all requests is lost, so many in a row are in 200 million.
pub const FAILURES_PROVEN: u32 = 12;
/// Damaged answers to a read of several registers since its last good one, each followed by a good
/// answer to a shorter read of the same unit, after which it is taken apart. If a fifth of all
/// answers is damaged, so many in a row are in 16,000.
pub const DAMAGED: u32 = 6;
/// Answers to a read of one register in a row that broke off at the same length, after which it is
/// left out.
pub const CUT_ALIKE: u32 = 16;
/// Pauses that are tried before a request, one after the other.
pub const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_secs(1)];
/// Up to this a pause that counts from the last answer on the line is found out; up to the second
/// one it is advised to set it.
pub const LINE_PAUSES: (Duration, Duration) = (PAUSES[0], Duration::from_secs(1));
/// Polls in a row without a register after which it is named.
pub const MISSED: u32 = 20;
/// How long a register that is not answered for is left out at first; doubles up to
/// [`ASIDE_MAX`].
pub const ASIDE: Duration = Duration::from_secs(60);
/// Units that are not configured any more of which is kept what was learned.
pub const LEFT_MAX: usize = 256;
/// The longest it is left out.
pub const ASIDE_MAX: Duration = Duration::from_secs(3600);

/// Why a register is not in the readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The unit refuses to have it read.
    Exception(Exception),
    /// The unit does not answer when it is asked for it, and answers for others.
    Silence,
    /// The unit answers after the timeout when it is asked for it, and in time for others.
    Late,
    /// Only answers of another function or length come when it is asked for, and good answers for
    /// others.
    Misfit,
    /// The same, and what it answers.
    Answers(Misfit),
    /// The register that scales it is left out.
    Scale,
    /// Only bytes that are no frame come when it is asked for, and good answers for others.
    Damage,
    /// It did not arrive [`MISSED`] polls in a row, whatever the cause, and others did.
    Missed,
    /// The same, and the last answers were damaged.
    Damaged,
    /// It was not answered, nor was anything on the line that was asked for so few milliseconds
    /// after an answer of any unit.
    Haste(u16),
}

impl Obstacle {
    /// The same of this register: where the unit may not have its address, with what may be wrong
    /// with that.
    pub fn of(self, register: &Register) -> String {
        // Illegal function, data address and data value: units without the table or the address
        // send one of these, or nothing.
        let may_be_absent = matches!(self, Obstacle::Exception(Exception(1..=3)) | Obstacle::Silence);
        match register.hint().filter(|_| may_be_absent) {
            Some(hint) => format!("{self}; {hint}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Exception(exception) => exception.fmt(f),
            Obstacle::Silence => f.write_str("no answer to a read of it alone"),
            Obstacle::Late => f.write_str("its answer comes after the timeout; raise timeout"),
            Obstacle::Misfit => {
                f.write_str("only answers of another function or length to a read of it alone")
            }
            Obstacle::Answers(misfit) => misfit.fmt(f),
            Obstacle::Scale => f.write_str("the register that scales it is left out"),
            Obstacle::Damage => f.write_str("only damaged answers to a read of it alone"),
            Obstacle::Missed => write!(
                f,
                "it did not arrive {MISSED} polls in a row; if it needs a rest after each answer on the line, set pause"
            ),
            Obstacle::Haste(ms) => write!(
                f,
                "no answer, as to nothing sooner than {ms} ms after an answer on the line; set pause = \"{ms}ms\" \
                 under modbus"
            ),
            Obstacle::Damaged => write!(
                f,
                "its answers are damaged, {MISSED} polls in a row; look at baud, parity and termination"
            ),
        }
    }
}

/// What is kept of a unit over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// Milliseconds of silence before each request to it; 0: none beyond what is configured.
    pub pause_ms: u64,
    /// Milliseconds that its answers are waited for; 0: as long as is configured.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout_ms: u64,
    /// Where it is: the port and its address there. A unit whose device id changes is found by it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// Most bits or registers of one read that it answers, by table.
    #[serde(skip_serializing_if = "Widths::is_empty")]
    pub widths: Widths,
    /// Most registers of one read, whatever the table, as an earlier release kept it. It was
    /// of one table; see [`Learned::widths`].
    #[serde(skip_serializing)]
    pub width: u16,
    /// The map that `reads` and `silent` belong to; see [`fingerprint`].
    pub map: u32,
    /// How the map is read if not as planned: table, address, quantity of each request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<(String, u16, u16)>,
    /// Fields that it never answered for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// The widths in force, where reads were taken apart because longer answers came damaged. That
    /// may be the line's fault, so it is not kept over a restart.
    #[serde(skip)]
    pub damage: Option<Widths>,
}

impl Learned {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.timeout_ms == 0 && !self.is_testable()
    }

    /// Whether there is anything that one poll without it can show to be needed no more: a longer
    /// wait is used only where it is needed.
    pub(super) fn is_testable(&self) -> bool {
        let is_kept = self.pause_ms != 0 || !self.reads.is_empty() || !self.silent.is_empty();
        is_kept || !self.widths().is_empty() || self.damage.is_some()
    }

    /// The widths that the unit is asked within now.
    pub fn in_force(&self) -> Widths {
        self.damage.unwrap_or_else(|| self.widths())
    }

    /// The widths. That of an earlier release is taken for each table of registers of which all
    /// reads were that short; for both if it kept no reads. Bits were counted in sixteens.
    pub fn widths(&self) -> Widths {
        let of = |table: Table, width: u16| {
            let own = self.reads.iter().filter(|(name, ..)| name == table.as_str());
            let longest = own.map(|(.., quantity)| *quantity).max();
            let is_of_it = self.reads.is_empty() || longest.is_some_and(|longest| longest <= self.width);
            if width == 0 && is_of_it { self.width } else { width }
        };
        let (holding, input) = (self.widths.holding, self.widths.input);
        Widths { holding: of(Table::Holding, holding), input: of(Table::Input, input), ..self.widths }
    }

    /// The wait for answers where `timeout` is configured; zero: none of its own.
    pub(super) fn wait(&self, timeout: Duration) -> Duration {
        let wait = Duration::from_millis(self.timeout_ms).min(wait_max(timeout));
        if wait > timeout { wait } else { Duration::ZERO }
    }

    /// The pause.
    pub fn pause(&self) -> Duration {
        // Longer than any that is tried could only come from a changed file.
        Duration::from_millis(self.pause_ms).min(PAUSES[PAUSES.len() - 1])
    }

    /// The reads as blocks of this map; `None` if they are of another one, or do not read each of
    /// its registers exactly once.
    pub fn blocks(&self, registers: &[Register], limits: Limits) -> Option<Vec<Block>> {
        if self.reads.is_empty() || self.map != fingerprint(registers, limits) {
            return None;
        }
        let mut is_free = vec![true; registers.len()];
        let mut blocks = Vec::new();
        for (table, address, quantity) in &self.reads {
            let first = u32::from(*address);
            let end = first + u32::from(*quantity);
            let members: Vec<usize> = (0..registers.len())
                .filter(|index| {
                    let register = &registers[*index];
                    let inside = u32::from(register.address) >= first && register.end() <= end;
                    is_free[*index] && register.table.as_str() == table && inside
                })
                .collect();
            members.iter().for_each(|index| is_free[*index] = false);
            let block = Block::of(registers, &members)?;
            if (block.address, block.quantity) != (*address, *quantity) || !is_askable(&block, limits) {
                return None;
            }
            blocks.push(block);
        }
        (!is_free.contains(&true)).then_some(blocks)
    }
}

/// Whether a unit may be sent this read: one within its limits, or of a single register. A file
/// that was changed could name others, which are never sent.
fn is_askable(block: &Block, limits: Limits) -> bool {
    let factor = if block.table.has_bits() { 16 } else { 1 };
    let most = u32::from(limits.max_registers) * factor;
    block.request().is_some() && (block.members.len() == 1 || u32::from(block.quantity) <= most)
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A number that changes with the places a map reads and with the limits it is read in.
pub fn fingerprint(registers: &[Register], limits: Limits) -> u32 {
    let mut text = format!("{} {}", limits.max_registers, limits.max_gap);
    for register in registers {
        let table: Table = register.table;
        text.push_str(&format!(";{table} {} {}", register.address, register.quantity()));
    }
    crc32c::crc32c(text.as_bytes())
}

/// The units of all buses, by device id, as a file keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notebook {
    /// By device id.
    pub units: BTreeMap<String, Learned>,
}

impl Notebook {
    /// What is known of a unit: by its device id, or of another id at the same place with the same
    /// map, if no unit of that id is configured: its bus was renamed.
    pub fn of(
        &self,
        id: &str,
        place: &str,
        map: u32,
        is_configured: impl Fn(&str) -> bool,
    ) -> Option<&Learned> {
        let is_it = |(other, learned): &(&String, &Learned)| {
            learned.place == place && learned.map == map && !is_configured(other)
        };
        self.units.get(id).or_else(|| self.units.iter().find(is_it).map(|(_, learned)| learned))
    }

    /// Keeps what was learned of a unit, and nothing of one that was at its place before and is
    /// configured no more.
    pub fn put(&mut self, id: &str, learned: Learned, is_configured: impl Fn(&str) -> bool) {
        let learned = Learned { damage: None, ..learned };
        let is_left = |other: &str| other != id && !is_configured(other);
        self.units
            .retain(|other, known| known.place.is_empty() || known.place != learned.place || !is_left(other));
        match learned.is_empty() {
            true => drop(self.units.remove(id)),
            false => drop(self.units.insert(id.to_owned(), learned)),
        }
    }

    /// Keeps no more than [`LEFT_MAX`] units that are not configured: of the others nobody may ask
    /// again, and each renaming would leave one more.
    pub fn forget_left(&mut self, is_configured: impl Fn(&str) -> bool) {
        let mut left = 0;
        self.units.retain(|id, _| {
            let is_left = !is_configured(id);
            left += usize::from(is_left);
            !is_left || left <= LEFT_MAX
        });
    }

    /// As text.
    pub fn encode(&self) -> String {
        // Maps of texts and numbers can always be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Why it cannot be what was written, in half a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Notebook, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("it is not what was written: {error}"))
    }
}
