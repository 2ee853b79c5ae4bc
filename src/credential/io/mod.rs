//! The shell of the certificates: keys, the disk, tasks.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]
