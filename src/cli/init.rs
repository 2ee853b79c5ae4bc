//! `tombolo init`: names the upstream broker in a drop-in of its own; the packaged file stays as it
//! is.

use std::path::Path;

use serde_json::json;

use super::args::InitArguments;
use super::error::CommandError;
use super::{Context, note};
use crate::config::init::io::{COAPS_PORT, InitError, Port, Written, write};
use crate::config::init::{FILE_NAME, Site};
use crate::config::{Finding, IdSource, Level};
use crate::control::io::client::ClientError;

/// Writes and says what comes next.
///
/// # Errors
/// [`CommandError::Configuration`] where what was said makes no configuration; nothing is changed
/// then.
pub fn run(context: &Context, arguments: InitArguments) -> Result<(), CommandError> {
    // In a file it would take an earlier URL back.
    if arguments.url.trim().is_empty() {
        return Err(CommandError::Usage("--url is empty; name the broker: --url mqtts://HOST".to_owned()));
    }
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
    let Written { path, main, copied, port, read_only, loaded } =
        write(&context.options(), &site, arguments.force).map_err(|error| match error {
            InitError::Exists(path) => CommandError::Failed(format!(
                "{} exists already; look at it first, then add --force to replace it",
                path.display()
            )),
            InitError::Findings(findings) if context.out.json => CommandError::Configuration(findings),
            InitError::Findings(findings) => {
                let failing = findings.iter().filter(|finding| finding.level == Level::Fail);
                failing.map(unwritten).for_each(note);
                note("tombolo: nothing was written; correct that, then run init again");
                CommandError::SaidOfConfiguration
            }
        })?;
    // Below the state directory it is a file of the state, whose faults are problems of that.
    let is_own = |finding: &&Finding| finding.file.as_deref().map(Path::new) == Some(path.as_path());
    let of_state = loaded.state.problems.iter().filter(is_own);
    for finding in loaded.findings.iter().filter(|finding| finding.level != Level::Ok).chain(of_state) {
        note(finding);
    }
    let running = !matches!(context.daemon(), Err(ClientError::NotRunning { .. }));
    let gateway = &loaded.settings.gateway;
    let id = (gateway.id_source != IdSource::Missing).then(|| gateway.id.to_string());
    if context.out.json {
        let copied: Vec<_> = copied.iter().map(|copy| json!({ "from": copy.from, "to": copy.to })).collect();
        return Ok(context.out.object(&json!({
            "file": path, "main": main, "copied": copied, "gateway": id, "running": running, "read_only": read_only,
            "port": main.as_ref().map(|_| match port { Some(Port::Free(port)) => port, _ => COAPS_PORT }),
        }))?);
    }
    for copy in &copied {
        let (from, to) = (copy.from.display(), copy.to.display());
        match copy.from == copy.to {
            true => context.out.line(format_args!("let the service read {to}"))?,
            false => {
                context.out.line(format_args!("copied {from} to {to}, where the service can read it"))?
            }
        }
    }
    if let Some(main) = &main {
        context.out.line(format_args!("wrote {}, with the role sensor", main.display()))?;
    }
    match port {
        None => {}
        Some(Port::Free(port)) => context.out.line(format_args!(
            "devices connect to port {port}, because another program has port {COAPS_PORT}; [coap] listen says where"
        ))?,
        Some(Port::NoneFree) => note(format_args!(
            "port {COAPS_PORT} and the others that were tried are in use: choose one in [coap] listen"
        )),
    }
    match &read_only {
        None => context.out.line(format_args!("wrote {}", path.display()))?,
        Some(folder) => context.out.line(format_args!(
            "wrote {}, below the state directory because {} is on a file system that is read-only; what is set there wins \
             over it",
            path.display(),
            folder.display()
        ))?,
    }
    match &id {
        Some(id) => context.out.line(format_args!("this gateway is {id}"))?,
        None => context.out.line("this gateway gets its id at its first start; --id ID gives it one")?,
    }
    let start = if running { context.hint("reload") } else { context.start_hint() };
    Ok(context.out.line(format_args!(
        "next: {}, then {start}, then {}",
        context.hint("check"),
        context.hint("device add ID --role ROLE --psk")
    ))?)
}

/// A finding without its line where that is in a file that was only tried and never written.
fn unwritten(finding: &Finding) -> Finding {
    let mut finding = finding.clone();
    // On a command line a name needs no quotes.
    finding.advice = finding.advice.replacen("use a name in quotes: ", "use ", 1);
    let is_tried = |file: &str| {
        Path::new(file).file_name().is_some_and(|name| name == FILE_NAME) || !Path::new(file).exists()
    };
    if finding.line.is_some() && finding.file.as_deref().is_some_and(is_tried) {
        (finding.file, finding.line) = (None, None);
    }
    finding
}
