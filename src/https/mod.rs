//! One HTTPS client over our rustls: for EST and revocation lists, later for update checks.
//!
//! It asks one question on one connection and reads one bounded answer. [`io`] has the sockets;
//! what is parsed and decided is here: [`url`], [`message`], [`retry_after`], [`challenge`], and
//! [`wording`] of what TLS refuses.
//!
//! * Every answer is bounded in bytes and in time: head, body, silence between two bytes, and all
//!   of it together ([`message::Limits`]).
//! * No redirect is followed unless the request allows it, and then only to the same host and port
//!   by HTTPS.
//! * A user name and password go only to a server whose certificate was verified.
//! * Certificates are judged by the clock rule of [`northbound::tls`](crate::northbound::tls), so a
//!   board that boots in 1970 can renew.
//!
//! Left out: other content encodings, HTTP/2, cookies, proxies (the uplink has none yet). Range
//! requests (RFC 9110 §14) need one more header in [`message::Request`] and status 206.

pub mod challenge;
pub mod io;
pub mod message;
pub mod retry_after;
pub mod unverified;
pub mod url;
pub mod wording;
