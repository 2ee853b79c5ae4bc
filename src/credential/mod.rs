//! Certificates that the gateway renews by itself: when, from whom, and how a new one proves itself
//! before it replaces the old one.
//!
//! It stands beside the path of a reading: [`northbound`](crate::northbound) and
//! [`proto::dtls`](crate::proto::dtls) use the certificates, this module decides about them.

pub mod chain;
pub mod csr_attributes;
pub mod est;
pub mod exec;
pub mod io;
pub mod pkcs7;
pub mod source;
pub mod source_settings;
