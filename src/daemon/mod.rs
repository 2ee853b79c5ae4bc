//! The daemon: wiring, and all that is neither protocol nor policy.
//!
//! | module | what |
//! |---|---|
//! | [`hub`] | what happens to a datagram, a completion, a deadline |
//! | [`round`] | what the tasks round the hub share |
//! | [`run`] | start, the tasks round the hub, stop |
//! | [`line_kind`] | the log lines that the network can cause |
//! | [`outbox`] | the journal as the uplink wants to see it |
//! | [`link`] | the uplink as the rest of the daemon holds it |
//! | [`control`] | what the control socket is answered |
//! | `config_check` | what a reload would find |
//! | `deliveries` | what becomes of records at the broker |
//! | `device_status` | the devices as `device list` and `device show` show them |
//! | `device_test` | a reading that the operator sends in the place of a device |
//! | [`gateway_status`] | the gateway's retained status |
//! | `engine` | which DTLS engine there is |
//! | `dtls_sink` | what the DTLS engine reports |
//! | `rekeying` | ends the time of two pre-shared keys of a device |
//! | `reading_store` | the journal as the pipeline wants to see it |
//! | `dtls_status` | the DTLS sessions as `status` shows them |
//! | [`reload`] | a new configuration, taken over whole or not at all |
//! | [`rejected`] | what the broker refused for good |
//! | [`mqtt`] | the local MQTT clients: a task each |
//! | `bus`, `bus_handle` | rumqttd's router, which carries messages between local MQTT clients |
//! | `mqtt_status` | the MQTT clients in the log and in `status` |
//! | [`serial`] | the serial ports: a task each |
//! | [`units`] | what happens on a Modbus bus, in the log |
//! | [`report`] | what was found in the configuration and in the journal, in the log |
//! | [`fleets`] | the devices of fleets from one process to the next |
//! | `kept_text`, `daily_bytes` | a small text from one process to the next; what the lanes have used of their day |
//! | `usage` | what each device has sent, day by day |
//! | `socket_store` | listening sockets from one process to the next |
//! | [`state`] | what is wrong in the state directory |
//! | `tracer` | decrypted CoAP messages for `trace` |
//! | `certificates` | the certificates that renew themselves |
//! | `commands` | commands to devices: mailbox, router, delivery in the rounds of the hub |
//! | `mailbox` | what `send` and `mailbox` are answered |
//! | `served_status` | what is observed and polled of devices, in `status` and `device show` |
//! | `update` | newer firmware: looked for, fetched, told |
//! | [`clock`] | the system's clocks and whether to believe them |
//! | [`notify`] | what systemd is told |
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

mod awake;
#[cfg(feature = "mqtt")]
mod bus;
mod bus_handle;
mod certificates;
pub mod clock;
mod commands;
mod config_check;
pub mod control;
pub mod daily_bytes;
mod deliveries;
mod device_status;
mod device_test;
pub mod disk_room;
mod dtls_sink;
mod dtls_status;
mod engine;
pub mod firmware;
pub mod fleets;
pub mod gateway_status;
pub mod hub;
pub mod kept_text;
pub mod learned;
pub mod line_kind;
pub mod link;
mod mailbox;
pub mod metrics;
pub mod mqtt;
mod mqtt_status;
mod new_keys;
mod notify;
pub mod outbox;
mod reading_store;
pub mod rejected;
mod rekeying;
pub mod reload;
pub mod report;
mod revocation;
pub mod round;
pub mod run;
pub mod serial;
mod served_status;
mod socket_store;
pub mod state;
#[cfg(test)]
mod tests;
mod tracer;
mod trial;
pub mod units;
mod untaken;
mod update;
pub mod usage;
