//! The shells of the update checks: the network, the system's programs, the files.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod answer;
#[cfg(feature = "update")]
pub mod check;
pub mod download;
pub mod floor;
pub mod history;
pub mod program;
pub mod system;
#[cfg(feature = "update")]
pub mod tuf;
#[cfg(feature = "update")]
pub mod verify;
