//! The uplink against a scripted broker in virtual time, and against a real mosquitto over TLS and
//! a real RabbitMQ.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests touch the machine")]

mod support;

mod apart;
mod budget;
mod chance;
mod commands;
mod connection;
mod delivery;
mod jwt;
mod limits;
mod mosquitto;
mod neighbours;
mod outage;
mod own_topics;
mod rabbitmq;
mod rate;
mod refusal;
mod revocation;
mod rotation;
mod scripted;
mod shell;
mod silence;
