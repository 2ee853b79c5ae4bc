//! The journal: where a reading is kept from its acknowledgement until the broker has it.
//!
//! On the path it stands between the gate and the uplink. Its promise: what was committed is read
//! back in order within its lane, after whatever crash, until it is released. A record that is
//! damaged, dropped or expired is named and counted as lost; one that the disk does not give now is
//! named, kept and read again later. The files are described byte by byte in
//! docs/journal-format.md.
//!
//! ```text
//!            append ─> Batch ═╗                              ╔═> view ─> Cursor ─> next
//!   the path's thread ────────╫──────────────────────────────╫──────────── the path's thread
//!                             ╚═> Store::commit: write, sync ╝   the journal thread
//! ```
//!
//! A thread a lane reads what is not in memory any more.
//!
//! In reading order: [`storage`] is what it needs of a disk; [`frame`], [`record`], [`segment`] and
//! [`loss`] are the bytes; `scan` and [`recovery`] read them back; `lane`, [`commit`], `pool` and
//! [`retention`] write them; [`cursor`] reads what is committed by way of a [`view`]; `rejected`
//! keeps what the broker refused; [`store`] puts these together, without threads or clocks; [`io`]
//! is the real disk, the threads, and the handle the path holds, whose answers are in [`answer`].

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
mod shelf;
pub mod storage;
pub mod store;
pub mod view;
mod witness;

pub use answer::{
    Completion, Failed, Next, ReadTrouble, Refused, RejectRefused, RejectedRead, RejectedRecord,
    RejectedWhole, Retried, Status, Stored,
};
pub use aside::{Aside, AsideCause, AsideRange};
pub use io::{FileReport, ImportError, Imported, Importer, Journal, OpenReport};
pub use loss::{LossCause, LossReport};
pub use open_error::OpenError;
pub use record::Ticket;
pub use rejected::{RejectError, RejectedEntry};
pub use settings::Settings;
pub use store::{LaneStatus, RejectedStatus};
