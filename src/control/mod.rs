//! The control socket: the connection of `tombolo status`, `tail` and other commands to the running
//! daemon.
//!
//! It is a Unix stream socket, `{runtime-dir}/control.sock`, with mode 0660: its user and group may
//! open it. Each line in both directions is one JSON object ([`protocol`]); a request line has at
//! most 64 KiB, a connection has one request in progress, and [`io::places`] says how many there
//! are at most, and for what. The daemon answers through the trait [`api::Control`]; [`snapshot`]
//! has the types of the answers for both ends.
//!
//! | line from the client | lines from the daemon |
//! |---|---|
//! | `{"request":"status"}` | `{"ok":{…}}` |
//! | `{"request":"tail"}` | `{"ok":{}}`, then `{"item":{…}}` or `{"missed":7}` until either side closes |
//! | `{"request":"traffic-trace","target":"door-7"}` | the same, for root and the daemon's user only; logged at its start and end |
//! | an unknown request | `{"error":{"code":"bad-request","message":"…"}}` |
//!
//! A client cannot block the path: calls come through a bounded channel, and a `tail` that reads
//! too slowly misses readings, gets their number, and is closed if it stops reading.

pub mod api;
pub mod io;
pub mod metrics;
pub mod protocol;
pub mod snapshot;
pub mod tail;
pub mod trace;
pub mod traffic;
pub mod verdict;
