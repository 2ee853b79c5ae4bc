//! `tombolo mailbox`: the commands that are held for devices.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Context;
use super::args::MailboxCommand;
use super::error::CommandError;
use super::output::{bytes, plural, span};
use crate::control::io::client::{ANSWER, ClientError};
use crate::control::protocol::Request;
use crate::control::snapshot::{HeldCommand, MailboxPage};
use crate::telemetry::text::Escaped;

/// Runs the command.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run, or there is no such command.
pub fn run(context: &Context, command: MailboxCommand) -> Result<(), CommandError> {
    match command {
        MailboxCommand::List(arguments) => list(context, arguments.device),
        MailboxCommand::Show(argument) => show(context, argument.number),
        MailboxCommand::Drop(argument) => {
            let mut daemon = context.daemon().map_err(ClientError::of_privileged)?;
            let answer = daemon.ask(&Request::MailboxDrop { number: argument.number }, ANSWER)?;
            if context.out.json {
                context.out.object(&answer)?;
            } else {
                context.out.line(format!("command {} is dropped", argument.number))?;
            }
            Ok(())
        }
    }
}

fn list(context: &Context, device: Option<String>) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    let mut after = 0;
    let mut rows = Vec::new();
    loop {
        let request = Request::MailboxList { device: device.clone(), after };
        let page: MailboxPage = daemon.ask_for(&request, ANSWER)?;
        for held in &page.commands {
            after = after.max(held.number);
            if context.out.json {
                context.out.object(held)?;
            } else {
                rows.push(row(held));
            }
        }
        if !page.more || page.commands.is_empty() {
            break;
        }
    }
    if context.out.json {
        return Ok(());
    }
    if rows.is_empty() {
        context.out.line("no command is held")?;
    } else {
        let head = ["number", "device", "command", "size", "state", "age", "expires"];
        rows.insert(0, head.map(str::to_owned).to_vec());
        context.out.table(&rows)?;
    }
    Ok(())
}

fn row(held: &HeldCommand) -> Vec<String> {
    let state = match (&held.status, held.attempts) {
        (Some(status), _) => format!("{} {status}", held.state),
        (None, 0) => held.state.clone(),
        (None, attempts) => {
            let in_vain = if held.state == "waiting" { ", not answered" } else { "" };
            format!("{}, sent {}{in_vain}", held.state, plural(attempts, "time"))
        }
    };
    vec![
        held.number.to_string(),
        Escaped(&held.device).to_string(),
        format!("{} {}", held.method, Escaped(&held.path)),
        bytes(held.bytes),
        state,
        held.age_s.map_or_else(|| "unknown".to_owned(), span),
        expires(held),
    ]
}

/// When a command expires.
fn expires(held: &HeldCommand) -> String {
    match held.age_s {
        Some(age) if age < held.expires_s => format!("in {}", span(held.expires_s - age)),
        Some(_) => "now".to_owned(),
        None => format!("{} after it came", span(held.expires_s)),
    }
}

fn show(context: &Context, number: u64) -> Result<(), CommandError> {
    let mut daemon = context.daemon().map_err(ClientError::of_privileged)?;
    let held: HeldCommand = daemon.ask_for(&Request::MailboxShow { number }, ANSWER)?;
    if context.out.json {
        context.out.object(&held)?;
        return Ok(());
    }
    let payload = held.payload.as_deref().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let payload = match std::str::from_utf8(&payload) {
        Ok(text) => Escaped(text).to_string(),
        Err(_) => format!("hex:{}", crate::hex::format_hex(&payload)),
    };
    let mut rows = vec![
        ("device", Escaped(&held.device).to_string()),
        ("command", format!("{} {}", held.method, Escaped(&held.path))),
        ("state", held.state.clone()),
        ("sent", plural(held.attempts, "time")),
        ("age", held.age_s.map_or_else(|| "unknown".to_owned(), span)),
        ("expires", expires(&held)),
    ];
    if let Some(format) = held.content_format {
        rows.push(("content format", format.to_string()));
    }
    if let Some(topic) = &held.reply_topic {
        rows.push(("reply topic", Escaped(topic).to_string()));
    }
    if let Some(status) = &held.status {
        rows.push(("outcome", status.clone()));
    }
    rows.push(("payload", payload));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    context.out.table(&rows)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_expires_in_what_is_left_of_its_time() {
        let held = |age_s| HeldCommand { age_s, expires_s: 7 * 86_400, ..HeldCommand::default() };
        assert_eq!(expires(&held(Some(0))), format!("in {}", span(7 * 86_400)));
        assert_eq!(expires(&held(Some(86_400))), format!("in {}", span(6 * 86_400)));
        assert_eq!(expires(&held(Some(7 * 86_400))), "now");
        assert_eq!(expires(&held(None)), format!("{} after it came", span(7 * 86_400)));
    }
}
