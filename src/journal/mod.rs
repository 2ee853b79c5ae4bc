//! The journal: stores a reading from its acknowledgement to the device until the PUBACK of the
//! broker.
//!
//! It is between the gate and the uplink. It guarantees that a committed record is read back in
//! order within its lane, after any crash, until it is released. A damaged, dropped or expired
//! record is reported and counted as lost; a record that cannot be read now is listed, kept and
//! read again later. docs/journal-format.md describes the files byte by byte.
//!
//! ```text
//!            append ─> Batch ═╗                              ╔═> view ─> Cursor ─> next
//!   the path's thread ────────╫──────────────────────────────╫──────────── the path's thread
//!                             ╚═> Store::commit: write, sync ╝   the journal thread
//! ```
//!
//! One thread per lane reads records that are no longer in memory.
//!
//! In reading order: [`storage`] is the interface to the disk; [`frame`], [`record`], [`segment`]
//! and [`loss`] are the formats; `scan` and [`recovery`] read them at the opening; `lane`,
//! [`commit`], `pool` and [`retention`] write them; [`cursor`] reads committed records through a
//! [`view`]; `rejected` keeps records that the broker refused; [`share`] counts what
//! each device has in a lane; [`store`] combines these, without
//! threads or clocks; [`io`] has the real disk, the threads, and the handle for the path.

pub mod answer;
mod aside;
pub mod commit;
pub mod cursor;
pub mod frame;
pub mod io;
mod lane;
pub mod loss;
pub mod open_error;
mod pool;
pub mod range;
pub mod record;
mod recovered;
pub mod recovery;
mod rejected;
pub mod retention;
mod scan;
pub mod segment;
pub mod settings;
pub mod share;
mod shelf;
mod space;
pub mod storage;
pub mod store;
pub mod view;
mod witness;

pub use answer::{
    Completion, Failed, Next, OldestRecord, ReadTrouble, Refused, RejectRefused, RejectedRead,
    RejectedRecord, RejectedWhole, Retried, Status, Stored,
};
pub use aside::{Aside, AsideCause, AsideRange};
pub use io::{FileReport, ImportError, Imported, Importer, Journal, OpenReport};
pub use loss::{LossCause, LossReport};
pub use open_error::OpenError;
pub use record::Ticket;
pub use rejected::{OwnReasons, RejectError, RejectedEntry};
pub use settings::Settings;
pub use store::{LaneStatus, RejectedStatus};
