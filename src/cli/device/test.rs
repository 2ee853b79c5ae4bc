//! `tombolo device test`: a reading through the whole path, step by step.

use std::time::Duration;

use serde_json::json;

use super::super::Context;
use super::super::args::DeviceTestArguments;
use super::super::error::CommandError;
use super::super::note;
use super::super::output::patiently;
use crate::control::io::client::{Client, ClientError, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::control::snapshot::{DeviceTest, TestStep};
use crate::telemetry::io::hinted;

/// Longer than the daemon waits for the broker.
const WITHIN: Duration = Duration::from_secs(45);

/// Runs the test.
///
/// # Errors
/// [`CommandError::Failed`] with the step that failed.
pub fn run(context: &Context, arguments: DeviceTestArguments) -> Result<(), CommandError> {
    let DeviceTestArguments { id, path, dry_run } = arguments;
    let mut daemon = context.daemon().map_err(ClientError::of_privileged)?;
    // First where it will go, so that the topic is on the screen before anything is published.
    let request = Request::DeviceTest { device: id.clone(), path, plan: true };
    let DeviceTest { steps: planned, path, .. } = daemon.ask_for(&request, SLOW_ANSWER)?;
    print(context, &id, &planned, None)?;
    if dry_run {
        return Ok(());
    }
    let request = Request::DeviceTest { device: id.clone(), path, plan: false };
    let ask = || daemon.ask_for(&request, SLOW_ANSWER);
    let DeviceTest { mut steps, record, .. } = patiently("waiting for the journal", ask)?;
    // A reload in between may have changed a step: it is then printed again.
    steps.retain(|step| !planned.contains(step));
    print(context, &id, &steps, record.as_deref())?;
    let has_properties = match record {
        Some(record) => deliver(context, &mut daemon, &id, record)?,
        None => true,
    };
    if !context.out.json {
        let property = if has_properties { ", and the user property test is true" } else { "" };
        note(format!("it was published as a test: its payload says so{property}"));
    }
    Ok(())
}

/// Whether it went out with properties, which MQTT 3.1.1 does not have.
fn deliver(context: &Context, daemon: &mut Client, id: &str, record: String) -> Result<bool, CommandError> {
    let request = Request::DeviceTestDelivery { record: record.clone() };
    let ask = || daemon.ask_for(&request, WITHIN);
    let DeviceTest { steps, .. } = patiently("waiting for the broker", ask)?;
    print(context, id, &steps, Some(&record))?;
    Ok(steps.iter().all(|step| !step.text.contains("MQTT 3.1.1")))
}

fn print(context: &Context, id: &str, steps: &[TestStep], record: Option<&str>) -> Result<(), CommandError> {
    for TestStep { step, ok, text } in steps {
        let text = hinted(text).into_owned();
        if context.out.json {
            let record = record.filter(|_| matches!(step.as_str(), "stored" | "sent" | "acknowledged"));
            context
                .out
                .object(&json!({ "device": id, "step": step, "ok": ok, "text": text, "record": record }))?;
        } else {
            let word = if *ok { "ok" } else { "fail" };
            context.out.table(&[vec![format!("{word:<4}"), format!("{step:<12}"), text.clone()]])?;
        }
        if !ok {
            // The line above has the reason.
            return Err(CommandError::Failed(match context.out.json {
                true => format!("step {step} failed: {text}"),
                false => format!("step {step} failed"),
            }));
        }
    }
    Ok(())
}
