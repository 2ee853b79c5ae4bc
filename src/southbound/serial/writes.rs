//! What became of commands to devices on serial lines, in numbers since the start.

use super::order::{Delivered, Wanted};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A frame to a device on a line.
    Frame,
    /// A value of a Modbus unit.
    Value,
}

impl Kind {
    /// Of a command.
    pub fn of(wanted: &Wanted) -> Kind {
        match wanted {
            Wanted::Frame { .. } => Kind::Frame,
            Wanted::Value(_) => Kind::Value,
        }
    }
}

/// The numbers of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were sent, or may have been.
    pub sent: u64,
    /// Of those: carried out, by the answer of the device. One that answers nothing is not among
    /// them.
    pub answered: u64,
    /// Refused by an exception, not answered, cut off by a line that was closed, or not sent in
    /// time.
    pub failed: u64,
    /// Of those that were sent: acknowledged by the unit, and what is read back says otherwise, or
    /// nothing.
    pub differing: u64,
}

/// The numbers of both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Of frames.
    pub frames: Counts,
    /// Of values of Modbus units.
    pub values: Counts,
}

impl Writes {
    /// Counts one that is over. One that waits again because its line was closed is not.
    pub fn note(&mut self, kind: Kind, delivered: &Delivered) {
        let counts = match kind {
            Kind::Frame => &mut self.frames,
            Kind::Value => &mut self.values,
        };
        counts.sent += u64::from(!matches!(delivered, Delivered::Unasked(_) | Delivered::Unsent));
        match delivered {
            Delivered::Done { .. } => counts.answered += 1,
            Delivered::Unconfirmed(_) => counts.differing += 1,
            Delivered::Exception(_) | Delivered::Timeout(_) | Delivered::Unasked(_) | Delivered::Unknown => {
                counts.failed += 1;
            }
            Delivered::Written | Delivered::Unsent => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_of_a_write_is_counted_where_it_belongs() {
        let why = || "why".to_owned();
        let done = Delivered::Done { payload: Vec::new(), content_format: None, is_partial: false };
        let counts = |sent, answered, failed, differing| Counts { sent, answered, failed, differing };
        for (delivered, expected) in [
            (done, counts(1, 1, 0, 0)),
            (Delivered::Written, counts(1, 0, 0, 0)),
            (Delivered::Unconfirmed(why()), counts(1, 0, 0, 1)),
            (Delivered::Exception(why()), counts(1, 0, 1, 0)),
            (Delivered::Timeout(why()), counts(1, 0, 1, 0)),
            (Delivered::Unasked(why()), counts(0, 0, 1, 0)),
            (Delivered::Unknown, counts(1, 0, 1, 0)),
            (Delivered::Unsent, counts(0, 0, 0, 0)),
        ] {
            let mut writes = Writes::default();
            writes.note(Kind::Value, &delivered);
            assert_eq!((writes.values, writes.frames), (expected, Counts::default()), "{delivered:?}");
            writes.note(Kind::Frame, &delivered);
            assert_eq!(writes.frames, expected, "{delivered:?}");
        }
    }
}
