//! The way back: commands from the broker to devices, held until a device can take them.
//!
//! ```text
//! northbound ─ message ─> router ─┬─ refused: a reply, nothing kept
//!                                 └─> mailbox ─ stored ─> acknowledged upstream
//!                                        │
//!                     delivery <─────────┘  the device is reachable, and nothing else is on its way
//!                        │ carrier: CoAP request over the device's session, or a notification
//!                        └─ answer ─> mailbox ─ stored ─> reply ─> gate, journal ─> northbound
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`settings`] | what the configuration says: topics, rules by role, limits |
//! | [`filter`] | the topic filters of rules, with `{device}` |
//! | [`router`] | from a topic to devices, paths and rules, or a refusal |
//! | [`remote`] | commands to the gateway itself |
//! | [`command`] | a command, its states and its outcome |
//! | [`frame`] | both as bytes on the disk |
//! | [`log`] | the file: an [append log](crate::durable::append_log) |
//! | [`value`] | the newest message on each path: what a GET of the device is answered with |
//! | [`observe`] | which device observes which path |
//! | [`served`] | what the gateway observes and polls of devices that serve |
//! | [`mailbox`] | all commands, their order, limits, duplicates; what is durable when |
//! | [`delivery`] | which command is sent when, and what comes of it |
//! | [`io`] | the thread that writes |
//!
//! Invariants: a command is durable before it is acknowledged to the broker; that it is about to be
//! sent is durable before it is sent; its outcome is durable before it is published. So what was
//! answered never runs again, and a command that was under way in a crash is reported as `unknown`,
//! or sent again where its rule says `idempotent = true`. At most one command of a device is on its
//! way. All bounds are per device and in all.

pub mod command;
pub mod delivery;
pub mod filter;
pub mod frame;
pub mod io;
pub mod log;
pub mod mailbox;
pub mod observe;
pub mod parts;
pub mod remote;
pub mod router;
pub mod served;
pub mod settings;
pub mod value;
