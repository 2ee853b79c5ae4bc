//! Southbound: what turns a protocol's input into *device D said bytes B of content-format F at
//! path P*.
//!
//! One folder a protocol, each with a thin `io.rs` shell. What the shells hand on is
//! [`Received`](crate::gate::stage::Received); what they answer is decided by the gate and the
//! journal.

pub mod coap;
pub mod serial;
