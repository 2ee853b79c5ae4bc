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
//! * [`mbap`]: the same over TCP. [`ascii`]: the same as hexadecimal digits.
//! * [`map`]: what registers mean. [`plan`]: as few requests as possible. [`change`]: when a
//!   reading is worth publishing.
//! * [`fault`]: how a request fails, [`misfit`] one of these ways. [`learn`]: what a unit that is
//!   silent instead of refusing wants.
//! * [`bus`]: the state machine the port's shell drives, with the usual verbs. [`settings`]: what
//!   it is told. [`model`]: the same as files say it, and [`validate`], which leads from one to the
//!   other. [`built_in`]: whether this program has any of it.
//!
//! Other modules handle the port (opening, writing, time), permissions and topics.

pub mod ascii;
pub mod built_in;
pub mod bus;
pub mod change;
mod copies;
mod doubt;
pub mod fault;
pub mod frame;
mod haste;
pub mod learn;
pub mod map;
pub mod mbap;
pub mod misfit;
pub mod model;
mod patience;
pub mod pdu;
pub mod plan;
mod relay;
mod rest;
pub mod settings;
mod straggler;
mod unit;
pub mod validate;
pub mod write;

pub use built_in::BuiltIn;
pub use bus::{Bus, Event};
pub use fault::Failure;
pub use settings::Settings;
