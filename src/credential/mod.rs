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
//! | [`source_settings`] | which source the configuration means |
//! | [`est`], [`csr_attributes`], [`pkcs7`] | what EST asks and answers |
//! | [`exec`] | how a program is asked, and what its end means |
//! | [`chain`] | an answer put in order |
//! | [`leaf`], [`candidate`] | whether an issued chain may be tried |
//! | [`store`] | current, candidate and previous on disk; a power cut leaves one that works |
//! | [`renewal`] | from due to confirmed, one certificate, without I/O |
//! | [`probe_place`] | whether a candidate is tried beside the connection |
//! | [`watched`] | when what is in files that another program writes becomes a candidate |
//! | [`expiry`] | the warnings before the end |
//! | [`anchors`] | the CAs of the broker that an EST server offers |
//! | [`revocation`], [`schedule`] | revocation lists that are fetched, and when |
//! | [`settings`] | what the configuration says of the renewal |
//! | [`io`] | the shells: connections, programs, keys, tasks, the disk |

pub mod anchors;
pub mod candidate;
pub mod chain;
pub mod csr_attributes;
pub mod decision;
pub mod est;
pub mod exec;
pub mod expiry;
pub mod io;
pub mod leaf;
pub mod pkcs7;
pub mod probe_place;
pub mod renewal;
pub mod request;
pub mod revocation;
pub mod schedule;
pub mod settings;
pub mod source;
pub mod source_settings;
pub mod steadiness;
pub mod store;
pub mod watched;
