//! `tombolo config migrate`: rewrites the names of renamed keys in the configuration files. What is
//! not a renamed key, comments too, stays as it is; the file before is kept as FILE.before.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::Context;
use crate::cli::args::MigrateArguments;
use crate::cli::error::CommandError;
use crate::cli::output::plural;
use crate::config::Origin;
use crate::config::alias::rewrite;
use crate::config::io::texts;
use crate::config::trial::io::write_keeping_mode;

/// Prints the differences and writes.
///
/// # Errors
/// [`CommandError::Failed`] if a file cannot be written; those before it are written.
pub fn run(context: &Context, arguments: &MigrateArguments) -> Result<(), CommandError> {
    let read = texts(&context.options());
    if read.layers.is_empty() {
        return Err(CommandError::Configuration(read.unread));
    }
    let mut changed = Vec::new();
    // Files of the image and of the state directory are written by others.
    for layer in read.layers.iter().filter(|layer| matches!(layer.origin, Origin::Main | Origin::DropIn)) {
        let (new, renamed) = rewrite(&layer.text);
        if renamed.is_empty() {
            continue;
        }
        let file = &layer.path;
        if !context.out.json {
            for one in &renamed {
                context.out.line(format!("{}:{}", file.display(), one.line))?;
                context.out.line(format!("- {}", one.before))?;
                context.out.line(format!("+ {}", one.after))?;
            }
        }
        if !arguments.dry_run {
            let mut backup = file.clone().into_os_string();
            backup.push(".before");
            let backup = PathBuf::from(backup);
            let written =
                write_keeping_mode(&backup, &layer.text).and_then(|()| write_keeping_mode(file, &new));
            written.map_err(|error| {
                CommandError::Failed(format!(
                    "{} cannot be written: {error}; run this as root",
                    file.display()
                ))
            })?;
        }
        let lines: Vec<_> = renamed
            .iter()
            .map(|one| json!({ "line": one.line, "before": one.before, "after": one.after }))
            .collect();
        changed.push(json!({ "file": file, "lines": lines }));
    }
    if context.out.json {
        return Ok(context.out.object(&json!({ "changed": changed, "written": !arguments.dry_run }))?);
    }
    context.out.line(match (changed.len() as u64, arguments.dry_run) {
        (0, _) => "no key was renamed: nothing to do".to_owned(),
        (count, true) => format!("{} would be rewritten", plural(count, "file")),
        (count, false) => {
            format!("{} rewritten; what was before is beside it, as FILE.before", plural(count, "file"))
        }
    })?;
    Ok(())
}
