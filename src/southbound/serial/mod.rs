//! Serial southbound: the ports, their readings, and the shell that opens them.
//!
//! ```text
//! io: bytes ──> port ──┬─> stream: framing, reading ──┬─> delivery ──> Taker (gate, journal) ──> committed: forgotten here
//!    <── requests ─────┴─> units: a Modbus bus ───────┘      └─ pending: what the journal does not take now, offered again
//! mailbox: commands ──> order ──> intake ──> port
//! ```
//!
//! A serial device cannot be asked to send again. So a reading stays in memory until it is
//! committed, within the limits of [`pending`]; beyond them the oldest reading is dropped and
//! counted.

pub mod awake;
pub mod counters;
pub mod delivery;
pub mod greeting;
pub mod intake;
pub mod io;
pub mod legibility;
pub mod line_time;
pub mod order;
pub mod pending;
pub mod port;
pub mod settings;
pub mod stream;
pub mod taker;
pub mod turns;
pub mod units;
pub mod writes;

pub use intake::Intake;
pub use port::Port;
pub use settings::Settings;
pub use taker::{Taker, Verdict};
