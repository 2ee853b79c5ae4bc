//! CoAP southbound: turns messages into readings, and verdicts and completions into responses;
//! includes the UDP shell.
//!
//! | module | content |
//! |---|---|
//! | [`intake`] | all state of the CoAP side: endpoint, sessions, plain senders |
//! | [`resource`] | the resource of a request |
//! | [`answer`] | the verdicts of gate and journal as CoAP responses |
//! | [`fetch`] | a GET for a message of the broker |
//! | [`firmware`] | a GET for firmware of the device |
//! | [`reported`] | the firmware version that a reading reports |
//! | `heard` | the session or line by which a device is asked |
//! | [`plain`] | numbers of plain senders |
//! | [`reads`] | how often a device may ask for what the gateway has for it |
//! | [`return_routability`] | the return routability check after a session's peer address changed |
//! | [`stray`] | source addresses whose datagrams cannot be processed |
//! | [`io`] | the UDP sockets |

pub mod answer;
pub mod fetch;
pub mod firmware;
mod heard;
pub mod intake;
pub mod io;
pub mod plain;
pub mod reads;
pub mod reported;
pub mod resource;
pub mod return_routability;
mod settings;
pub mod stray;

pub use fetch::Fetch;
pub use firmware::FirmwareFetch;
pub use intake::Intake;
pub use settings::{EngineKind, Settings};
