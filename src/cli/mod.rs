//! The commands of the command line.
//!
//! | command | works on |
//! |---|---|
//! | `run` | this process, in which it starts the daemon |
//! | `init`, `device` | the files, with or without the daemon; then requests a reload |
//! | `status`, `queue`, `tail` | the running daemon, over its control socket |
//! | `acl explain`, `check`, `clock` | the running daemon, or the files if it does not run |
//! | `serial` | the machine's ports; the running daemon for a port that it has open |
//! | `demo` | nothing: it contains everything it needs |
//!
//! Results go to standard output, everything else to standard error. Text from devices is escaped
//! before it is printed. If there is a next step, a command prints it last.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

mod acl;
pub mod args;
pub mod check;
mod clock;
#[cfg(feature = "dimpl")]
pub mod demo;
mod device;
pub mod error;
mod init;
mod key;
pub mod output;
mod queue;
mod serial;
mod socket;
mod status;
mod tail;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{Level, Loaded};
use crate::control::io::client::{Client, ClientError};
use args::{AclCommand, Arguments, Command, NOT_BUILT};
use error::{CommandError, USAGE};
use output::Output;

/// The context of every command.
#[derive(Debug)]
pub struct Context {
    /// The main configuration file.
    pub config: PathBuf,
    /// The output for the result.
    pub out: Output,
}

impl Context {
    /// The places that configuration is read from.
    pub fn options(&self) -> crate::config::io::Options {
        crate::config::io::Options::new(&self.config)
    }

    /// Loads the configuration.
    ///
    /// # Errors
    /// [`CommandError::Configuration`] if it is refused.
    pub fn load(&self) -> Result<Loaded, CommandError> {
        crate::config::io::load(&self.options(), None).map_err(CommandError::Configuration)
    }

    /// The path of the daemon's control socket, also if the configuration is faulty or not readable
    /// by this user.
    pub fn socket(&self) -> PathBuf {
        socket::find(&self.options())
    }

    /// A connection to the running daemon.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn daemon(&self) -> Result<Client, ClientError> {
        Client::connect(&self.socket())
    }
}

/// Parses the command line of this process, runs the command, and returns the exit status.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let context = Context { config: arguments.config, out: Output { json: arguments.json } };
    match dispatch(&context, arguments.command) {
        Ok(status) => status,
        Err(error) => {
            say(&error);
            ExitCode::from(error.status())
        }
    }
}

fn dispatch(context: &Context, command: Command) -> Result<ExitCode, CommandError> {
    match command {
        Command::Run => return Ok(crate::daemon::run::run(&context.options())),
        Command::Check(arguments) => check::run(context, &arguments)?,
        Command::Init(arguments) => init::run(context, arguments)?,
        Command::Device(command) => device::run(context, command)?,
        Command::Tail(arguments) => tail::run(context, arguments)?,
        Command::Status(arguments) => status::run(context, arguments)?,
        Command::Acl(AclCommand::Explain(arguments)) => acl::run(context, arguments)?,
        Command::Queue(arguments) => queue::run(context, arguments.command)?,
        Command::Clock(arguments) => clock::run(context, arguments.command)?,
        Command::Serial(command) => serial::run(context, command)?,
        #[cfg(not(feature = "dimpl"))]
        Command::Demo(_) => {
            let why = "its sensors speak DTLS by the engine dimpl, and this program was built without that";
            return Err(CommandError::Failed(format!("{why}; build it with the cargo feature dimpl")));
        }
        #[cfg(feature = "dimpl")]
        Command::Demo(arguments) => {
            let options = demo::Options { seconds: arguments.seconds, json: context.out.json };
            if !demo::run(options).map_err(CommandError::Failed)? {
                return Ok(ExitCode::from(error::FAILED));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the result of clap: help and version are results, everything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed output is not a failure.
        let _ = write!(std::io::stdout(), "{error}");
        return ExitCode::SUCCESS;
    }
    let planned = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => NOT_BUILT.into_iter().find(|planned| planned == word),
        _ => None,
    };
    if let Some(command) = planned {
        let version = env!("CARGO_PKG_VERSION");
        note(format_args!(
            "tombolo: {command} is not implemented in {version} yet; `tombolo --help` lists the commands"
        ));
    } else {
        let _ = write!(std::io::stderr(), "{error}");
    }
    ExitCode::from(USAGE)
}

/// The error's text on standard error.
fn say(error: &CommandError) {
    match error {
        CommandError::Usage(text) | CommandError::Failed(text) => {
            note(format_args!("tombolo: {}", crate::telemetry::text::Escaped(text)));
        }
        CommandError::Configuration(findings) => {
            for finding in findings.iter().filter(|finding| finding.level == Level::Fail) {
                note(finding);
            }
            note("tombolo: the configuration cannot be used; `tombolo check` shows all findings");
        }
        CommandError::Said => {}
        CommandError::Gone(output::Gone(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        CommandError::Gone(output::Gone(error)) => {
            note(format_args!("tombolo: the output cannot be written: {error}"))
        }
    }
}

/// A line on standard error, beside the result. A closed output is not a failure.
pub fn note(text: impl std::fmt::Display) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
