//! `tombolo init`: names the upstream broker in a drop-in of its own; the packaged file stays as it
//! is.

use serde_json::json;

use super::args::InitArguments;
use super::error::CommandError;
use super::{Context, note};
use crate::config::init::Site;
use crate::config::init::io::{InitError, write};
use crate::config::{IdSource, Level};
use crate::control::io::client::ClientError;

/// Writes and says what comes next.
///
/// # Errors
/// [`CommandError::Configuration`] where what was said makes no configuration; nothing is changed
/// then.
pub fn run(context: &Context, arguments: InitArguments) -> Result<(), CommandError> {
    let site = Site {
        url: Some(arguments.url),
        insecure: arguments.insecure,
        ca_file: arguments.ca_file,
        certificate_file: arguments.certificate_file,
        key_file: arguments.key_file,
        username: arguments.username,
        password_file: arguments.password_file,
        id: arguments.id,
    };
    let (path, loaded) = write(&context.options(), &site, arguments.force).map_err(|error| match error {
        InitError::Exists(path) => CommandError::Failed(format!(
            "{} exists already; look at it first, then add --force to replace it",
            path.display()
        )),
        InitError::Findings(findings) => CommandError::Configuration(findings),
    })?;
    for finding in loaded.findings.iter().filter(|finding| finding.level != Level::Ok) {
        note(finding);
    }
    let running = !matches!(context.daemon(), Err(ClientError::NotRunning { .. }));
    let gateway = &loaded.settings.gateway;
    let id = (gateway.id_source != IdSource::Missing).then(|| gateway.id.to_string());
    if context.out.json {
        return Ok(context.out.object(&json!({ "file": path, "gateway": id, "running": running }))?);
    }
    context.out.line(format_args!("wrote {}", path.display()))?;
    match &id {
        Some(id) => context.out.line(format_args!("this gateway is {id}"))?,
        None => context.out.line("this gateway gets its id at its first start; --id ID gives it one")?,
    }
    let start = if running { "systemctl reload tombolo" } else { "systemctl start tombolo" };
    Ok(context.out.line(format_args!(
        "next: tombolo check, then {start}, then tombolo device add ID --role ROLE --psk"
    ))?)
}
