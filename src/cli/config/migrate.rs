//! `tombolo config migrate`: rewrites the names of renamed keys in the configuration files. What is
//! not a renamed key, comments too, stays as it is; the file before is kept as FILE.before. Nothing
//! is written if one of them is on a file system that is read-only.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::Context;
use crate::cli::args::MigrateArguments;
use crate::cli::error::CommandError;
use crate::cli::output::plural;
use crate::config::Origin;
use crate::config::alias::rewrite;
use crate::config::io::{is_read_only, texts};
use crate::config::trial::io::put;

/// Prints the differences and writes.
///
/// # Errors
/// [`CommandError::Failed`] if a file cannot be written; those before it are written.
pub fn run(context: &Context, arguments: &MigrateArguments) -> Result<(), CommandError> {
    let read = texts(&context.options());
    if read.layers.is_empty() {
        return Err(CommandError::Configuration(read.unread));
    }
    // Those of the image are written by its vendor.
    let own = read.layers.iter().filter(|layer| layer.origin != Origin::Vendor);
    let renamed = own.filter_map(|layer| {
        let (new, renamed) = rewrite(&layer.text);
        (!renamed.is_empty()).then_some((layer, new, renamed))
    });
    let renamed: Vec<_> = renamed.collect();
    let closed = renamed.iter().find(|(layer, ..)| is_read_only(&layer.path));
    if let Some((layer, ..)) = closed.filter(|_| !arguments.dry_run) {
        return Err(CommandError::Failed(format!(
            "nothing was changed: {} is on a file system that is read-only; its old names go on being read. Rename them in \
             the image: `{}` prints the lines",
            layer.path.display(),
            context.hint("config migrate --dry-run")
        )));
    }
    let mut changed = Vec::new();
    for (layer, new, renamed) in renamed {
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
                put(&read.state_dir, &backup, &layer.text).and_then(|()| put(&read.state_dir, file, &new));
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
