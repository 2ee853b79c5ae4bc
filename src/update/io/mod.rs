//! The shells of the update checks: the network, the system's programs, the files.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod answer;
#[cfg(feature = "update")]
pub mod apart;
pub mod apply;
pub mod backend;
pub mod block_reader;
#[cfg(feature = "update")]
pub mod check;
pub mod client;
pub mod download;
pub mod firmware;
pub mod floor;
pub mod history;
pub mod ledger;
pub mod local_time;
pub mod program;
pub mod room;
pub mod root;
pub mod system;
pub mod trusted;
#[cfg(feature = "update")]
pub mod tuf;
pub mod untrusted;
#[cfg(feature = "update")]
pub mod verify;
pub mod watch;
