//! The shells of the update checks: the network and the floor's file.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

#[cfg(feature = "update")]
pub mod check;
pub mod floor;
#[cfg(feature = "update")]
pub mod tuf;
