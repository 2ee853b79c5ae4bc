//! Both ends of the control socket: the server on the daemon's runtime, and the blocking client.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod client;
pub mod places;
pub mod server;

#[cfg(test)]
mod tests;
