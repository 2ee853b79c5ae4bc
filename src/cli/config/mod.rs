//! `tombolo config …`: shows the configuration in force, takes a new file up on trial, and renames
//! old keys.

mod apply;
mod migrate;
mod show;

use clap::Subcommand;

use super::Context;
use super::error::CommandError;

/// `tombolo config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print each value in force, and the file and line it comes from
    Show(show::ShowArguments),
    /// Put a file in place, reload, and go back if the gateway refuses it or loses its broker
    Apply(apply::ApplyArguments),
    /// Rewrite the names of renamed keys in the files
    Migrate(migrate::MigrateArguments),
    /// Keep the file that is on trial
    Confirm,
    /// Go back to the file before the one that is on trial
    Revert,
}

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
