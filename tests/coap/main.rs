//! The CoAP core as seen by a device, in virtual time.
#![allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]

mod allocation;
mod answers;
mod blocks;
mod bounds;
mod client;
mod echo;
mod link;
mod observe;
mod property;
mod served;
mod support;
mod timing;
mod wire;
