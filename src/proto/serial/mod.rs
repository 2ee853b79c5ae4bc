//! Serial lines: framing of a byte stream, readings from frames, and the link state of a port.
//!
//! | module | content |
//! |---|---|
//! | [`framing`] | bytes to frames and back |
//! | [`checksum`] | checksums of frames |
//! | [`reading`] | a frame's payload to path, format and bytes |
//! | [`slipmux`] | CoAP in SLIP frames |
//! | [`link`] | when to open and reopen a port |
//! | [`modbus`] | Modbus RTU master |

pub mod checksum;
pub mod framing;
pub mod link;
pub mod modbus;
pub mod reading;
pub mod slipmux;
