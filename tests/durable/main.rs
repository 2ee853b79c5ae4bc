//! What must survive a power cut: atomic files, two-slot records and append logs, and those who use
//! them, on disks in memory that lose power anywhere and damage what they have, and on the real
//! one.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "test")]

mod append_log;
mod chance;
mod credential;
mod disk;
mod files;
mod floor;
mod installation;
mod real;
mod rules;
mod two_slot;
mod users;
