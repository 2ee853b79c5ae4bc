//! The shells of the certificate sources: connections, programs, files.

pub mod est;
pub mod exec;
