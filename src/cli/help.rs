//! `tombolo help [COMMAND]`: the same text as `tombolo COMMAND --help`.

use clap::{Args, CommandFactory as _};

use super::Context;
use super::args::Arguments;
use super::error::CommandError;

/// `tombolo help`
#[derive(Debug, Args)]
pub struct HelpArguments {
    /// The command, like `device add`
    pub command: Vec<String>,
}

/// Prints it.
///
/// # Errors
/// [`CommandError::Usage`] if there is no such command.
pub fn run(context: &Context, arguments: &HelpArguments) -> Result<(), CommandError> {
    let mut command = Arguments::command();
    command.build();
    let mut at = &mut command;
    for word in &arguments.command {
        at = at.find_subcommand_mut(word).ok_or_else(|| {
            CommandError::Usage(format!("there is no command {word:?}; `tombolo help` lists them"))
        })?;
    }
    Ok(context.out.text(&at.render_long_help().to_string())?)
}
