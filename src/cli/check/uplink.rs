//! The uplink: through the running daemon, and step by step by a connection of the check's own.

use std::sync::Arc;

use crate::cli::status;
use crate::clock::WallClock;
use crate::config::{Finding, Settings};
use crate::control::io::client::{Client, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::control::snapshot::Uplink;
use crate::northbound;
use crate::northbound::io::probe::{Grade, SCRATCH, Step, probe};

/// Asks the daemon, which has the connection and the client id. The second is whether it is
/// connected.
pub fn ask(daemon: &mut Client, prefix: &str) -> (Vec<Finding>, bool) {
    match daemon.ask_for::<Uplink>(&Request::UplinkCheck {}, SLOW_ANSWER) {
        Ok(uplink) => (judge(&uplink, prefix), uplink.connected),
        Err(error) => (vec![Finding::fail("upstream", error.to_string())], false),
    }
}

fn judge(uplink: &Uplink, prefix: &str) -> Vec<Finding> {
    // That none is configured is the configuration's finding.
    if !uplink.configured {
        return Vec::new();
    }
    let text = status::uplink(uplink);
    let mut findings = vec![match (uplink.connected, uplink.echo_ms) {
        (true, Some(ms)) => Finding::ok("upstream", format!("{text}; a publish came back in {ms} ms")),
        (true, None) => Finding::warn("upstream", format!("{text}; a publish did not come back in time"))
            .advice(format!(
                "allow {prefix}/# at the broker; [topics] prefix and [gateway] id decide that prefix"
            )),
        (false, _) => Finding::fail("upstream", text)
            .advice("readings are kept meanwhile; what follows shows where it stops"),
    }];
    findings.extend(uplink.stalled.iter().map(|reason| {
        Finding::fail("upstream", format!("readings do not flow: {reason}"))
            .advice("`tombolo queue` shows what waits and what is suspected; they are kept meanwhile")
    }));
    let others = uplink.warnings.iter().filter(|warning| !uplink.stalled.contains(warning));
    findings.extend(others.map(|warning| Finding::warn("upstream", warning.clone())));
    findings
}

/// Goes to the broker and back; beside a running daemon under a client id of its own.
pub fn walk(
    settings: &Settings,
    upstream: &northbound::Settings,
    clock: Arc<dyn WallClock>,
    beside: bool,
) -> Vec<Finding> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::fail("upstream", format!("cannot be looked at: {error}"))],
    };
    let scratch = format!("{}{SCRATCH}", settings.gate.prefix);
    let steps = runtime.block_on(probe(upstream, clock, &scratch, beside));
    // A name server that is silent keeps nobody waiting.
    runtime.shutdown_background();
    steps.into_iter().map(finding).collect()
}

fn finding(step: Step) -> Finding {
    let subject = format!("upstream {}", step.name);
    let finding = match step.grade {
        Grade::Ok => Finding::ok(subject, step.text),
        Grade::Warn => Finding::warn(subject, step.text),
        Grade::Fail => Finding::fail(subject, step.text),
    };
    match step.advice {
        Some(advice) => finding.advice(advice),
        None => finding,
    }
}
