//! Serial lines: how messages are cut out of a stream of bytes, what a reading is made of, and how
//! a port is kept open.
//!
//! | module | what |
//! |---|---|
//! | [`framing`] | bytes to frames and back |
//! | [`checksum`] | what stands at a frame's end |
//! | [`reading`] | a frame's payload to path, format and bytes |
//! | [`slipmux`] | CoAP in SLIP frames |
//! | [`link`] | when to open a port, again and again |
//! | [`modbus`] | Modbus RTU, the master's side |

pub mod checksum;
pub mod framing;
pub mod link;
pub mod modbus;
pub mod reading;
pub mod slipmux;
