//! How a command ends when it does not end well: what is printed, and the exit status.

use std::fmt;

use super::output::Gone;
use crate::config::Finding;
use crate::control::io::client::ClientError;

/// Exit status: it failed.
pub const FAILED: u8 = 1;
/// Exit status: the command line is wrong.
pub const USAGE: u8 = 2;
/// Exit status: the configuration is wrong (`EX_CONFIG`); systemd does not restart on it.
pub const CONFIGURATION: u8 = 78;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum CommandError {
    /// The arguments do not make sense; the text says which and what does.
    Usage(String),
    /// The configuration cannot be used.
    Configuration(Vec<Finding>),
    /// It was tried and did not work; the text says what and the way out.
    Failed(String),
    /// Everything was said already; only the exit status is left.
    Said,
    /// Everything was said already: the configuration cannot be used.
    SaidOfConfiguration,
    /// Nobody reads the output any more.
    Gone(Gone),
}

impl CommandError {
    /// A failure with a text.
    pub fn failed(text: impl fmt::Display) -> CommandError {
        CommandError::Failed(text.to_string())
    }

    /// The exit status. A reader that went away (`tombolo tail | head -1`) is no failure.
    pub fn status(&self) -> u8 {
        match self {
            CommandError::Usage(_) => USAGE,
            CommandError::Configuration(_) | CommandError::SaidOfConfiguration => CONFIGURATION,
            CommandError::Failed(_) | CommandError::Said => FAILED,
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
