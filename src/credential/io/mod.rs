//! The shell of the certificates: keys, the disk, tasks. All decisions are
//! [`Renewal`](super::renewal::Renewal)'s.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod keeper;
