//! CoAP as a server speaks it to devices (RFC 7252, 7959, 7967), without a socket or a clock.
//!
//! On the path this stands between the transport (a DTLS session or a plain UDP address, here only
//! a [`PeerId`]) and the gate. Datagrams go in at [`Endpoint::handle_datagram`]; what comes out is
//! a [`Request`] that nobody has seen before, and later, from [`Endpoint::poll_transmit`], the
//! answer.
//!
//! ```text
//! datagram ─> message ─> deduplication ─> option ─> block ─> Request ─> (gate, journal)
//! datagram <─ outbox  <─ reliability   <───────────────────── Response <────────┘
//! ```
//!
//! | file | idea |
//! |---|---|
//! | [`message`] | the strict zero-copy decoder, codes, tokens |
//! | [`encoder`] | writes a message, options in ascending order |
//! | [`option`] | what each option may look like, and what a request's options say |
//! | [`request`] | what the endpoint hands up and what it takes back |
//! | [`block`] | Block1 assembly within bounds, Block2 slices |
//! | [`link_format`] | writes RFC 6690 |
//! | `deduplication` | the newest exchanges of one peer and their answers |
//! | `exchange` | requests handed up and not answered yet |
//! | `reliability` | our own confirmable messages, Message IDs, back-off |
//! | `peer` | all peers, bounded in memory, idle ones costing nothing |
//! | `tally` | how many exchanges and messages each holder has over all its peers |
//! | [`endpoint`] | the public face that ties them together |
//!
//! Invariants: a request is handed up at most once while it is remembered; everything a peer can
//! make grow has a bound of its own and one in all; no input panics; a request answered in time
//! costs no allocation once the peer's memory has grown.

pub mod block;
mod deduplication;
pub mod encoder;
pub mod endpoint;
mod exchange;
pub mod link_format;
pub mod message;
pub mod option;
mod outbox;
mod peer;
mod reliability;
pub mod request;
mod tally;

pub use endpoint::{Counters, Endpoint, Event, Settings};
pub use exchange::Exchange;
pub use message::{Code, Message, MessageId, Token, Type};
pub use request::{Method, Request, Response};

use super::Holder;
pub use super::address::PeerId;
