//! The errors of a command: the message and the exit status.

use std::fmt;

use super::output::Gone;
use crate::config::Finding;
use crate::control::io::client::ClientError;

/// Exit status: the command failed.
pub const FAILED: u8 = 1;
/// Exit status: the command line is wrong.
pub const USAGE: u8 = 2;
/// Exit status: done, but part of the configuration is disabled by a fault.
pub const PARTLY: u8 = 3;
/// Exit status: the configuration is wrong (`EX_CONFIG`); systemd does not restart on it.
pub const CONFIGURATION: u8 = 78;

/// Why a command failed.
#[derive(Debug)]
pub enum CommandError {
    /// The arguments are invalid; the text names the argument and the remedy.
    Usage(String),
    /// The configuration cannot be used.
    Configuration(Vec<Finding>),
    /// The command failed; the text names the cause and the remedy.
    Failed(String),
    /// The same, because of faults in a file: each has its `line`, if known, and its `message`.
    Faults(String, Vec<serde_json::Value>),
    /// It is done, but part of the configuration is not in force; the text names it.
    Partly(String),
    /// The output is complete; only the exit status is set.
    Said,
    /// Everything was said already: the configuration cannot be used.
    SaidOfConfiguration,
    /// Nobody reads the output any more.
    Gone(Gone),
}

impl CommandError {
    /// A [`CommandError::Failed`] with this text.
    pub fn failed(text: impl fmt::Display) -> CommandError {
        CommandError::Failed(text.to_string())
    }

    /// The exit status. A closed output (`tombolo tail | head -1`) is not a failure.
    pub fn status(&self) -> u8 {
        match self {
            CommandError::Usage(_) => USAGE,
            CommandError::Partly(_) => PARTLY,
            CommandError::Configuration(_) | CommandError::SaidOfConfiguration => CONFIGURATION,
            CommandError::Failed(_) | CommandError::Faults(..) | CommandError::Said => FAILED,
            CommandError::Gone(Gone(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
            CommandError::Gone(_) => FAILED,
        }
    }
}

impl From<Gone> for CommandError {
    fn from(gone: Gone) -> CommandError {
        CommandError::Gone(gone)
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> CommandError {
        CommandError::Failed(error.to_string())
    }
}
