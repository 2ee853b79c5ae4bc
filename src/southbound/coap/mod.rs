//! CoAP southbound: from messages to readings, from verdicts and completions to answers, and the
//! UDP shell.
//!
//! | module | idea |
//! |---|---|
//! | [`intake`] | all state of the CoAP side: endpoint, sessions, plain senders |
//! | [`resource`] | which resource a request means |
//! | [`answer`] | the verdicts of gate and journal as CoAP responses |
//! | [`plain`] | numbers of plain senders |
//! | [`return_routability`] | whether a device receives where its session moved to |
//! | [`stray`] | source addresses that cannot be served |
//! | [`io`] | the UDP sockets |

pub mod answer;
pub mod intake;
pub mod io;
pub mod plain;
pub mod resource;
pub mod return_routability;
mod settings;
pub mod stray;

pub use intake::Intake;
pub use settings::{EngineKind, Settings};
