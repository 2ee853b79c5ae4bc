//! The sources of certificates through their real shells: an EST server of openssl and Python that
//! misbehaves by its label, and programs.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests touch the machine")]

mod crl;
mod est;
mod exec;
mod https;
mod server;
#[cfg(feature = "pkcs11")]
mod token;
