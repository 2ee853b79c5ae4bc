//! Update checks against repositories that python-tuf signed, served over HTTPS: what is newer is
//! found, and whatever does not prove itself is refused with its reason.
#![cfg(feature = "update")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests touch the machine")]

mod attacks;
mod clock;
mod daemon;
#[path = "../path/device.rs"]
#[allow(dead_code, reason = "the tests of the path use the rest")]
mod device;
mod download;
#[path = "../durable/files.rs"]
#[allow(dead_code, reason = "the durable tests use the rest")]
mod files;
mod formats;
mod found;
mod gateway;
mod install;
mod publish;
mod sensors;
mod sensors_load;
