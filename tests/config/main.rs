//! The configuration as the user sees it: the shipped files, layers, faults and their messages,
//! reload, the registry on disk, secrets.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "test")]

mod certificate;
mod difference;
mod downlink;
mod environment;
mod fault;
mod field;
mod includes;
mod init;
mod layer;
#[cfg(feature = "modbus")]
mod modbus;
#[cfg(feature = "mqtt")]
mod mqtt;
mod notation;
mod own_topics;
mod registry;
mod registry_change;
mod reload;
mod renewal;
mod revocation;
mod rules;
mod secret;
mod serial;
mod served;
mod shipped;
mod state;
mod support;
mod telegram;
#[cfg(feature = "update")]
mod update;
