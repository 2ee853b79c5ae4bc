//! Certificates that the gateway renews by itself: when, from whom, and how a new one proves itself
//! before it replaces the old one.
//!
//! It stands beside the path of a reading: [`northbound`](crate::northbound) and
//! [`proto::dtls`](crate::proto::dtls) use the certificates, this module decides about them.
//!
//! | module | content |
//! |---|---|
//! | [`decision`] | when a certificate is renewed |
//! | [`request`] | the signing request: the same names, byte by byte |
//! | [`source`] | what is asked of an issuer, and what it can answer |
//! | [`leaf`], [`candidate`] | whether an issued chain may be tried |
//! | [`store`] | current, candidate and previous on disk; a power cut leaves one that works |
//! | [`renewal`] | from due to confirmed, one certificate, without I/O |
//! | [`settings`] | what the configuration says |
//! | [`io`] | the shell: keys, tasks, the disk |

pub mod candidate;
pub mod decision;
pub mod io;
pub mod leaf;
pub mod renewal;
pub mod request;
pub mod settings;
pub mod source;
pub mod store;
