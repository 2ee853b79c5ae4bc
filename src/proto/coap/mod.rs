//! A CoAP endpoint, server and client (RFC 7252, 7959, 7967, 9175), without a socket or a clock.
//!
//! It is between the transport (a DTLS session or a plain UDP address, here only a [`PeerId`]) and
//! the gate. [`Endpoint::handle_datagram`] takes datagrams and returns each new [`Request`] once;
//! [`Endpoint::poll_transmit`] gives the datagrams to send.
//!
//! ```text
//! datagram ─> message ─> deduplication ─> option ─> block ─> Request ─> (gate, journal)
//! datagram <─ outbox  <─ reliability   <───────────────────── Response <────────┘
//! ```
//!
//! | file | content |
//! |---|---|
//! | [`message`] | the strict zero-copy decoder, codes, tokens |
//! | [`encoder`] | writes a message, options in ascending order |
//! | [`option`] | the format of each option, and the options of a request |
//! | [`request`] | requests and responses |
//! | `echo` | Echo values, by which a plain peer proves its address (RFC 9175) |
//! | [`block`] | bounded assembly of Block1, slices for Block2 |
//! | [`link_format`] | writes the CoRE Link Format (RFC 6690) |
//! | `deduplication` | the newest exchanges of one peer and their responses |
//! | `exchange` | requests handed up and not answered yet |
//! | `fold` | the mixing step of hashes |
//! | `reliability` | outgoing confirmable messages, Message IDs, back-off |
//! | `peer` | all peers, bounded in memory; an idle peer takes none |
//! | `tally` | the number of exchanges and messages of each holder over all its peers |
//! | [`endpoint`] | the endpoint, which connects the others |
//!
//! Invariants: a request is handed up at most once while it is remembered; all state that a peer
//! can cause is bounded per peer and in total; no input panics; a request answered in time does not
//! allocate once the peer's buffers have grown.

pub mod block;
mod deduplication;
mod echo;
pub mod encoder;
mod ended;
pub mod endpoint;
mod exchange;
mod fold;
pub mod link_format;
pub mod message;
pub mod option;
mod outbox;
mod peer;
mod reliability;
pub mod request;
mod tally;

pub use endpoint::client::{
    Ask, BlockRefused, Held, Notice, NoticeKind, Outcome, Outgoing, Reply, RequestId,
};
pub use endpoint::{Counters, Endpoint, Event, Settings};
pub use exchange::Exchange;
pub use message::{Code, Message, MessageId, Token, Type};
pub use request::{FirstBlock, Head, Method, Request, Response};

use super::Holder;
pub use super::address::PeerId;
