//! Small state files: on a disk in memory that loses power anywhere and damages what it has, and on
//! the real one.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "test")]

mod chance;
mod disk;
mod real;
mod rules;
