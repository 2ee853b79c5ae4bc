//! `tombolo config …`: shows the configuration in force, takes a new file up on trial, and renames
//! old keys.

mod apply;
mod migrate;
mod show;

use super::Context;
use super::args::ConfigCommand;
use super::error::CommandError;

/// Runs it.
///
/// # Errors
/// As the command says.
pub fn run(context: &Context, command: ConfigCommand) -> Result<(), CommandError> {
    match command {
        ConfigCommand::Show(arguments) => show::run(context, &arguments),
        ConfigCommand::Apply(arguments) => apply::apply(context, &arguments),
        ConfigCommand::Migrate(arguments) => migrate::run(context, &arguments),
        ConfigCommand::Confirm => apply::confirm(context),
        ConfigCommand::Revert => apply::revert(context),
    }
}
