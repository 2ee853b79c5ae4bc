//! `tombolo send`: a command to a device, and its answer.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Context;
use super::args::SendArguments;
use super::error::CommandError;
use super::input::bytes_of_argument;
use super::output::span;
use crate::control::io::client::{ClientError, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::control::snapshot::Sent;
use crate::message::ContentFormat;
use crate::telemetry::text::Escaped;

/// Sends it and waits.
///
/// # Errors
/// [`CommandError::Failed`] if it was not taken, the device did not answer in time, or not with
/// success.
pub fn run(context: &Context, arguments: SendArguments) -> Result<(), CommandError> {
    let SendArguments { device, path, payload, method, wait, content_format } = arguments;
    let payload = bytes_of_argument(&payload)?;
    let content_format = content_format.map(|text| format(&text)).transpose()?;
    let mut daemon = context.daemon().map_err(ClientError::of_privileged)?;
    let request = Request::Send {
        device: device.clone(),
        path: path.clone(),
        method: method.clone(),
        payload: STANDARD.encode(&payload),
        content_format,
        wait_s: wait.as_secs().max(1),
    };
    let sent: Sent =
        daemon.ask_for(&request, wait.saturating_add(SLOW_ANSWER).max(Duration::from_secs(30)))?;
    if context.out.json {
        context.out.object(&sent)?;
    }
    if payload.is_empty() && ["PUT", "POST"].iter().any(|name| method.eq_ignore_ascii_case(name)) {
        super::note(format_args!(
            "the {} had no payload; it is written behind the path",
            method.to_uppercase()
        ));
    }
    let Some(status) = &sent.status else {
        let state = sent.state.as_deref().unwrap_or("gone");
        return Err(CommandError::Failed(format!(
            "{device} has not answered within {}: command {} is {state}; it stays in the mailbox: `tombolo mailbox show {}`",
            span(wait.as_secs()),
            sent.number,
            sent.number
        )));
    };
    let answer = match (&sent.text, &sent.base64) {
        (Some(text), _) => text.clone(),
        (None, Some(base64)) => format!("base64:{base64}"),
        (None, None) => String::new(),
    };
    if !sent.success {
        let why = if answer.is_empty() { String::new() } else { format!(": {}", Escaped(&answer)) };
        return Err(CommandError::Failed(format!("{device} {path}: {status}{why}")));
    }
    if !context.out.json {
        let more = if sent.partial { " (not whole: the answer has further blocks)" } else { "" };
        context.out.line(format!("{status}{more}"))?;
        if !answer.is_empty() {
            context.out.line(Escaped(&answer))?;
        }
    }
    Ok(())
}

fn format(text: &str) -> Result<u16, CommandError> {
    let known = text.parse().ok().or_else(|| ContentFormat::from_media_type(text).map(|format| format.0));
    known.ok_or_else(|| {
        CommandError::Usage(format!(
            "{text:?} is no content format; use a number, or a media type like application/json"
        ))
    })
}
