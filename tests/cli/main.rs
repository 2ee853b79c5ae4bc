//! The commands as a person or a script meets them: the real binary, in a folder of its own, as any
//! user.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests")]

mod certificate;
mod check;
mod daemon;
mod device;
mod help;
mod init;
mod place;
mod state;
