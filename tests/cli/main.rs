//! The commands as a user or a script runs them: the real binary, in a separate folder, as any
//! user.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests")]

mod acl;
mod backup;
mod certificate;
mod check;
mod completion;
mod daemon;
mod dayops;
#[cfg(feature = "demo")]
mod demo;
mod device;
mod firstboot;
mod help;
mod init;
mod place;
mod read_only;
mod redaction;
mod state;
mod truth;
