//! CoAP southbound: which resource a request means, what the gate's and the journal's verdicts are as CoAP answers, and the UDP shell.

pub mod answer;
pub mod io;
pub mod plain;
pub mod resource;
pub mod sessions;
mod settings;
pub mod stray;

pub use settings::{EngineKind, Settings};
