//! Serial lines: framing of a byte stream, readings from frames, and the link state of a port.
//!
//! | module | content |
//! |---|---|
//! | [`framing`] | bytes to frames and back |
//! | [`checksum`] | checksums of frames |
//! | [`poll`] | questions to a device that must be asked |
//! | [`reading`] | a frame's payload to path, format and bytes |
//! | [`charset`], [`json`] | bytes to characters, and JSON that all consumers read alike |
//! | [`slipmux`] | CoAP in SLIP frames |
//! | [`link`] | when to open and reopen a port |
//! | [`modbus`] | Modbus RTU master |

pub mod charset;
pub mod checksum;
pub mod framing;
pub mod json;
pub mod link;
pub mod modbus;
pub mod poll;
pub mod reading;
pub mod slipmux;
