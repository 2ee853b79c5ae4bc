//! Southbound: turns the input of each protocol into readings: *device D sent payload B of content
//! format F to path P*.
//!
//! Each protocol has a folder with a thin `io` shell. Its output is
//! [`Received`](crate::gate::stage::Received); the response to it follows from the verdicts of the
//! gate and the journal.

pub mod coap;
pub mod mqtt;
pub mod serial;
