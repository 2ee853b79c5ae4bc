//! Firmware for sensors: targets of a class that a role names are fetched, kept, and served to its
//! devices over CoAP in blocks.
//!
//! ```text
//! verified offers ─ choice ─> download ─> kept: two images a class ─┐
//!                                                                   ├─> library ─> manifest, or a block to read
//! device: GET, reported version ──────────> campaign: whose turn ───┘
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`settings`] | which role has which class; steps and limits |
//! | [`choice`] | which target is for a class |
//! | [`kept`] | the record of the images that are here |
//! | [`manifest`] | what a device is told about its image |
//! | [`campaign`] | whose turn it is, how far each device is, and when to stop |
//! | [`library`] | all classes: the answer to a request |
//!
//! All of it is pure. Files and threads are in [`io::firmware`](super::io::firmware) and
//! [`io::block_reader`](super::io::block_reader).

pub mod campaign;
pub mod choice;
pub mod kept;
pub mod library;
pub mod manifest;
pub mod settings;
