//! Both ends of the socket: the daemon's on its runtime, the commands' blocking.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod client;
pub mod server;

#[cfg(test)]
mod tests;
