//! `tombolo help [COMMAND]`: the same text as `tombolo COMMAND --help`.

use clap::CommandFactory as _;

use super::Context;
use super::args::{Arguments, HelpArguments};
use super::error::CommandError;
use crate::config::scalar::did_you_mean;

/// Prints it.
///
/// # Errors
/// [`CommandError::Usage`] if there is no such command.
pub fn run(context: &Context, arguments: &HelpArguments) -> Result<(), CommandError> {
    let mut command = Arguments::command();
    let mut at = &command;
    for word in &arguments.command {
        at = at.find_subcommand(word).ok_or_else(|| {
            let names = at.get_subcommands().filter(|command| !command.is_hide_set());
            let advice = match did_you_mean(word, names.map(|command| command.get_name())) {
                Some(near) => format!("did you mean {near}?"),
                None => "`tombolo help` lists them".to_owned(),
            };
            CommandError::Usage(format!("there is no command {word:?}; {advice}"))
        })?;
    }
    let line = ["tombolo"].into_iter().chain(arguments.command.iter().map(String::as_str)).chain(["--help"]);
    match command.try_get_matches_from_mut(line) {
        Err(help) => Ok(context.out.text(&help.to_string())?),
        Ok(_) => Ok(()),
    }
}
