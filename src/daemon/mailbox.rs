//! What `tombolo send` and `tombolo mailbox` are answered, and what `status` says of commands.

use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::timeout;

use super::commands::{Commands, method_name, parse_method};
use super::device_status;
use super::hub::Hub;
use super::round::Shared;
use crate::clock::Moment;
use crate::control::api::{MailboxAction, Reply};
use crate::control::protocol::{Code, Failure};
use crate::control::snapshot::{self, HeldCommand, MailboxPage, Sent};
use crate::downlink::command::Outcome;
use crate::downlink::mailbox::{BYTES_MAX, CommandView};
use crate::message::{ContentFormat, Path};
use crate::southbound::serial::writes::Writes;
use crate::telemetry::counters::Snapshot;
use crate::telemetry::text::is_harmless;

/// The folder of the commands for devices, in the state directory.
pub const FOLDER: &str = "mailbox";
/// Most commands in one answer.
const PAGE: usize = 500;

/// Answers.
pub fn answer(shared: &Rc<Shared>, action: MailboxAction, reply: Reply) {
    match action {
        MailboxAction::Send { device, path, method, payload, content_format, wait } => {
            send(shared, &device, &path, &method, payload, content_format, wait, reply);
        }
        MailboxAction::List { device, after } => {
            let hub = &mut *shared.hub.borrow_mut();
            hub.begin();
            if let Some(device) = &device
                && let Err(failure) = device_status::known(hub, device)
            {
                return reply.fail(failure);
            }
            let mut held = hub.commands.mailbox().view().filter(|view| {
                view.number > after
                    && device.as_ref().is_none_or(|device| view.command.device.as_str() == device)
            });
            let commands = held
                .by_ref()
                .take(PAGE)
                .map(|view| shown(hub.commands.mailbox(), &view, &hub.moment))
                .collect();
            let more = held.next().is_some();
            reply.ok(&MailboxPage { commands, more });
        }
        MailboxAction::Show(number) => {
            let hub = &mut *shared.hub.borrow_mut();
            hub.begin();
            let mailbox = hub.commands.mailbox();
            match mailbox.view().find(|view| view.number == number) {
                Some(view) => {
                    let payload = Some(STANDARD.encode(&view.command.payload));
                    reply.ok(&HeldCommand { payload, ..shown(mailbox, &view, &hub.moment) });
                }
                None => reply.fail(unknown(number)),
            }
        }
        MailboxAction::Drop(number) => {
            let (known, dropped) = shared.round(|hub: &mut Hub| {
                hub.begin();
                let known = hub.commands.mailbox().state(number).is_some();
                (known, hub.commands.drop_command(number))
            });
            match (known, dropped) {
                (_, true) => reply.ok(&serde_json::json!({ "dropped": true })),
                (true, false) => reply.fail(Failure::new(
                    Code::Failed,
                    format!("command {number} does not wait any more: it was sent, or has an outcome"),
                )),
                (false, false) => reply.fail(unknown(number)),
            }
        }
    }
}

fn unknown(number: u64) -> Failure {
    Failure::new(
        Code::NotFound,
        format!("there is no command {number}; `tombolo mailbox list` shows those held"),
    )
}

#[allow(clippy::too_many_arguments, reason = "the fields of the request")]
fn send(
    shared: &Rc<Shared>,
    device: &str,
    path: &str,
    method: &str,
    payload: Vec<u8>,
    content_format: Option<u16>,
    wait: Duration,
    reply: Reply,
) {
    let bad = |text: String| Failure::new(Code::BadRequest, text);
    let Some(method) = parse_method(method) else {
        return reply.fail(bad(format!(
            "there is no method {method:?}; use GET, POST, PUT, DELETE, FETCH, PATCH or IPATCH"
        )));
    };
    let path = path.strip_prefix('/').unwrap_or(path);
    if let Err(error) = Path::parse(path) {
        return reply.fail(bad(format!("{path:?}: {error}")));
    }
    let taken = shared.round(|hub: &mut Hub| {
        hub.begin();
        device_status::known(hub, device)?;
        let Hub { commands, pipeline, moment, .. } = hub;
        let format = content_format.map(ContentFormat);
        commands
            .send(moment, &pipeline.gate, device, path, method, format, payload)
            .map_err(|why| Failure::new(Code::Failed, why))
    });
    let (number, outcome) = match taken {
        Ok(taken) => taken,
        Err(failure) => return reply.fail(failure),
    };
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        match timeout(wait, outcome).await {
            Ok(Ok(outcome)) => reply.ok(&sent(number, outcome)),
            Ok(Err(_)) => reply.fail(Failure::new(
                Code::Failed,
                "the command could not be stored; `tombolo status` says why",
            )),
            Err(_) => {
                let hub = shared.hub.borrow();
                let state = hub.commands.mailbox().state(number).map(|state| state.as_str().to_owned());
                reply.ok(&Sent { number, state, ..Sent::default() });
            }
        }
    });
}

fn sent(number: u64, outcome: Outcome) -> Sent {
    let text = std::str::from_utf8(&outcome.payload)
        .ok()
        .filter(|text| text.chars().all(|c| is_harmless(c) || matches!(c, '\t' | '\n' | '\r')));
    let base64 = text.is_none().then(|| STANDARD.encode(&outcome.payload));
    Sent {
        number,
        status: Some(outcome.status.to_string()),
        success: outcome.status.is_success(),
        content_format: outcome.content_format.map(|format| format.0),
        text: text.filter(|text| !text.is_empty()).map(str::to_owned),
        base64,
        partial: outcome.partial,
        state: None,
    }
}

fn shown(
    mailbox: &crate::downlink::mailbox::Mailbox,
    view: &CommandView<'_>,
    moment: &Moment,
) -> HeldCommand {
    let command = view.command;
    HeldCommand {
        number: view.number,
        device: command.device.to_string(),
        method: method_name(command.method).to_owned(),
        path: command.path.clone(),
        bytes: command.payload.len() as u64,
        content_format: command.content_format.map(|format| format.0),
        state: view.state.as_str().to_owned(),
        attempts: view.attempts.into(),
        age_s: mailbox.age(view.number, moment).map(|age| age.as_secs()),
        expires_s: command.expires_s.into(),
        reply_topic: command.reply_topic.clone(),
        status: view.outcome.map(|outcome| outcome.status.to_string()),
        payload: None,
    }
}

/// As `status` shows it.
pub fn snapshot(commands: &Commands, moment: &Moment) -> snapshot::Mailbox {
    let mailbox = commands.mailbox();
    let oldest = mailbox.view().next().map(|view| view.number);
    let (unanswered, most_unanswered) = mailbox.unanswered();
    snapshot::Mailbox {
        commands: mailbox.len() as u64,
        in_flight: commands.in_flight() as u64,
        devices: mailbox.waiting_devices().count() as u64,
        bytes: mailbox.bytes() as u64,
        max_bytes: BYTES_MAX as u64,
        oldest_s: oldest.and_then(|number| mailbox.age(number, moment)).map(|age| age.as_secs()),
        file_bytes: commands.bytes().0,
        failing: commands.trouble().map(str::to_owned),
        unanswered: unanswered as u64,
        most_unanswered: most_unanswered.map(|view| shown(mailbox, &view, moment)),
    }
}

/// What needs somebody.
pub fn problems(commands: &Commands) -> Vec<String> {
    let stuck = commands.busy_since().filter(|since| since.elapsed() > Duration::from_secs(120));
    let way_out = if commands.is_closed() { "; put the disk in order and restart tombolo" } else { "" };
    let failing =
        commands.trouble().map(|reason| format!("commands to devices cannot be stored: {reason}{way_out}"));
    failing
        .or(stuck.map(|_| "the disk does not answer the mailbox: commands to devices wait".to_owned()))
        .into_iter()
        .collect()
}

/// Its numbers.
pub fn count(commands: &Commands, snapshot: &mut Snapshot) {
    let (of_mailbox, own) = (commands.mailbox().counters(), commands.counts());
    snapshot.put("tombolo_downlink_taken_commands_total", of_mailbox.taken);
    snapshot.put("tombolo_downlink_duplicate_messages_total", of_mailbox.duplicates);
    snapshot.put("tombolo_downlink_refused_commands_total", own.refused);
    snapshot.put("tombolo_downlink_full_commands_total", of_mailbox.full);
    snapshot.put("tombolo_downlink_unstored_commands_total", of_mailbox.unstored);
    snapshot.put("tombolo_downlink_sent_commands_total", own.sent);
    snapshot.put("tombolo_downlink_answered_commands_total", of_mailbox.answered);
    snapshot.put("tombolo_downlink_fetched_values_total", own.fetched);
    snapshot.put("tombolo_downlink_observe_registrations_total", own.observed);
    snapshot.put("tombolo_downlink_gateway_commands_total", own.remote);
    super::served_status::count(commands, snapshot);
    snapshot.put("tombolo_downlink_unanswered_commands_total", of_mailbox.timeouts);
    snapshot.put("tombolo_downlink_expired_commands_total", of_mailbox.expired);
    snapshot.put("tombolo_downlink_unknown_commands_total", of_mailbox.unknown);
    snapshot.put("tombolo_downlink_dropped_commands_total", of_mailbox.dropped);
    snapshot.put("tombolo_downlink_untold_outcomes_total", own.untold);
}

/// The numbers of commands to devices on serial lines.
pub fn count_writes(writes: Writes, snapshot: &mut Snapshot) {
    let Writes { frames, values } = writes;
    snapshot.put("tombolo_serial_sent_writes_total", frames.sent);
    snapshot.put("tombolo_serial_answered_writes_total", frames.answered);
    snapshot.put("tombolo_serial_failed_writes_total", frames.failed);
    snapshot.put("tombolo_modbus_sent_writes_total", values.sent);
    snapshot.put("tombolo_modbus_answered_writes_total", values.answered);
    snapshot.put("tombolo_modbus_failed_writes_total", values.failed);
    snapshot.put("tombolo_modbus_differing_writes_total", values.differing);
}
