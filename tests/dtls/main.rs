//! Both DTLS engines against the tests' own client in virtual time ([`engines`]), what only the
//! server of our own does ([`own`]), and real clients ([`peer`]).

mod engines;
mod own;
mod peer;
