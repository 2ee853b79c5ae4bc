//! Tombolo connects CoAP/DTLS sensor networks, serial devices and local MQTT clients to one
//! upstream MQTT broker over TLS.
//!
//! **What it has acknowledged to a device reaches the broker, whatever happens to power, uplink,
//! clock, disk or certificates in between — within the bounds its owner set, every loss beyond them
//! counted and named; and nothing passes that no rule allows.**
//!
//! # The path of a reading, module by module
//!
//! ```text
//!                                     ┌─────────────────── pipeline ───────────────────┐
//!  device ──CoAP/DTLS──> southbound ──> gate: identity, policy + quota, mapping ──> journal ──> northbound ──TLS──> broker
//! ```
//!
//! 1. [`southbound::coap::io`] takes datagrams in batches. [`proto::dtls`] decrypts them: from here
//!    on the sender is known.
//! 2. [`proto::coap`] answers pings, duplicates and malformed messages, and returns new
//!    requests.
//! 3. [`southbound::coap::resource`] finds what a request means: mostly a reading,
//!    [`gate::stage::Received`].
//! 4. [`pipeline`] takes it through the gate to the journal, and tells what becomes of it. [`gate`]
//!    turns it into [`gate::stage::Mapped`], or into a [`gate::stage::Refusal`] that
//!    [`southbound::coap::answer`] turns into a CoAP response.
//! 5. [`journal`] commits it to disk, a whole batch at a time. Only then the device is answered
//!    2.04.
//! 6. [`northbound`] publishes what is committed, and releases it once the broker has acknowledged
//!    it.
//!
//! [`southbound::serial::intake`] does the same for a serial port: bytes, then
//! [`proto::serial::framing`] or [`proto::serial::modbus`], then [`gate::stage::Received`]; the
//! port keeps a reading until it is committed. [`southbound::coap::intake`] does 2 and 3, and
//! [`southbound::mqtt`] for a client's publish, which is acknowledged once it is committed.
//! [`downlink`] goes the other way: it holds commands from the broker until a device can take them.
//!
//! [`daemon::hub`] connects all these, on one thread. [`message`] and [`clock`] have the types they
//! share. Small files that must outlive a power cut go through [`durable`]; [`session_store`] keeps
//! DTLS sessions over a restart. [`system`] has random numbers and the kernel's boot id. [`config`]
//! reads what the owner wrote, [`control`] answers the commands in [`cli`], [`telemetry`] tells the
//! story.
//!
//! # Two kinds of code
//!
//! Cores are pure: bytes and `now` in; bytes, events and the next deadline out. Shells, the files
//! called `io.rs` and what is below `daemon` and `cli`, touch sockets, files, clocks and tasks.
//! docs/architecture.md says more.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod credential;
pub mod daemon;
pub mod downlink;
pub mod durable;
pub mod gate;
pub mod hex;
pub mod https;
pub mod journal;
pub mod message;
pub mod northbound;
mod number_map;
pub mod pipeline;
pub mod proto;
pub mod session_store;
mod slots;
pub mod southbound;
pub mod splitmix;
pub mod system;
pub mod telemetry;
pub mod update;
