//! The control socket: how `tombolo status`, `tail` and the other commands talk to the running
//! daemon.
//!
//! A Unix stream socket, `{runtime-dir}/control.sock`, mode 0660: who may open it is its owner's
//! group's matter. One JSON object a line each way ([`protocol`]); a request line has at most 64
//! KiB, a connection has one request under way, and there are at most 16 connections
//! ([`io::server`]). The daemon answers through the trait [`api::Control`]; what it shows is typed
//! once, in [`snapshot`], for both ends.
//!
//! | line from the client | lines from the daemon |
//! |---|---|
//! | `{"request":"status"}` | `{"ok":{…}}` |
//! | `{"request":"tail"}` | `{"ok":{}}`, then `{"item":{…}}` or `{"missed":7}` until either side closes |
//! | anything it does not know | `{"error":{"code":"bad-request","message":"…"}}` |
//!
//! Nothing here can hold up the path: calls come through a bounded channel, and a `tail` that reads
//! too slowly misses readings, is told how many, and is closed when it stops reading.

pub mod api;
pub mod io;
pub mod protocol;
pub mod snapshot;
pub mod tail;
pub mod trace;
