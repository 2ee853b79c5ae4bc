//! Modbus RTU master: several units on one serial line; each unit is a device.
//!
//! ```text
//!  port ──bytes──> frame ──answer──> unit ──values──> change ──> reading {"voltage":230.1,…}
//!   ^                                 │ plan: which registers in which request
//!   └───────── request ── bus: whose turn it is ──┘
//! ```
//!
//! * [`pdu`]: requests and responses. [`frame`]: address, checksum, and finding responses after
//!   noise.
//! * [`map`]: the meaning of registers. [`plan`]: grouping of registers into requests. [`change`]:
//!   when a reading is published.
//! * [`bus`]: the state machine that the port's shell drives. [`settings`]: its settings.
//!   [`model`]: the file form of the settings, and [`validate`], which converts it.
//!
//! Other modules handle the port (opening, writing, time), permissions and topics.

pub mod bus;
pub mod change;
pub mod frame;
pub mod map;
pub mod model;
pub mod pdu;
pub mod plan;
pub mod settings;
mod unit;
pub mod validate;

pub use bus::{Bus, Event, Failure};
pub use settings::Settings;
