//! What the broker refused for good: listed, exported, sent again, given up; and what a timer sends
//! again.
//!
//! Each step waits for the journal thread, so it runs beside the path.

use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_local};

use super::link::Link;
use crate::clock::Moment;
use crate::control::api::{RejectedAction, Reply};
use crate::control::protocol::{Code, EXPORT_BYTES, Failure, LIST_MAX, Selection};
use crate::control::snapshot;
use crate::journal::io::Rejected;
use crate::journal::{RejectedRecord, RejectedWhole, Retried};
use crate::message::{Envelope, RecordId};
use crate::northbound::publication::received;
use crate::northbound::reason_code::Cause;
use crate::northbound::retry::{Retry, RetryCandidate};
use crate::northbound::suspicion::TopicKey;

/// How often the timer asks whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Does what is asked and answers.
pub async fn answer(store: Rejected, action: RejectedAction, moment: Moment, reply: Reply) {
    match action {
        RejectedAction::List { after } => match list(&store, after.as_deref(), &moment).await {
            Ok(page) => reply.ok(&page),
            Err(failure) => reply.fail(failure),
        },
        RejectedAction::Export { after } => reply.ok(&export(&store, after, &moment).await),
        RejectedAction::Retry(selection) => reply.result(change(&store, selection, true).await),
        RejectedAction::Drop(selection) => reply.result(change(&store, selection, false).await),
    }
}

async fn list(
    store: &Rejected,
    after: Option<&str>,
    moment: &Moment,
) -> Result<snapshot::RejectedPage, Failure> {
    let after = match after {
        Some(text) => find(store, text).await?,
        None => 0,
    };
    let mut page = store.list(after, LIST_MAX).await;
    let mut unreadable = page.unreadable;
    // The next page is asked for by the last record of this one, so there is one as long as there
    // are more.
    while page.records.is_empty() && page.more {
        page = store.list(page.last.unwrap_or(u64::MAX), LIST_MAX).await;
        unreadable += page.unreadable;
    }
    Ok(snapshot::RejectedPage {
        records: page.records.iter().map(|record| shown(record, moment)).collect(),
        more: page.more,
        unreadable,
    })
}

async fn export(store: &Rejected, after: u64, moment: &Moment) -> snapshot::ExportPage {
    let page = store.export(after, EXPORT_BYTES).await;
    snapshot::ExportPage {
        records: page.records.iter().map(|whole| exported(whole, moment)).collect(),
        last: page.last.filter(|_| page.more),
        unreadable: page.unreadable,
    }
}

async fn change(store: &Rejected, selection: Selection, retry: bool) -> Result<serde_json::Value, Failure> {
    let mut numbers = Vec::new();
    match selection {
        Selection::All => {
            let mut after = 0;
            loop {
                let page = store.list(after, LIST_MAX).await;
                let Some(last) = page.last else { break };
                after = last;
                numbers.extend(page.records.iter().map(|record| record.entry.number));
            }
        }
        Selection::Ids(ids) => {
            for id in ids {
                numbers.push(find(store, &id).await?);
            }
        }
    }
    let (mut changed, mut not_there) = (0u64, 0u64);
    for number in numbers {
        let done = match retry {
            true => store.retry(number).await,
            false if store.discard(number).await => Retried::Sent,
            false => Retried::NotThere,
        };
        match done {
            Retried::Sent => changed += 1,
            Retried::NotThere => not_there += 1,
            Retried::NoRoom => {
                return Err(Failure::new(
                    Code::Failed,
                    format!(
                        "its lane takes no more records; {changed} were sent again, try later for the rest"
                    ),
                ));
            }
        }
    }
    Ok(json!({ "records": changed, "not_there": not_there }))
}

/// The number in the store of a record known by its id: the one under which it is published, or the
/// one it has in the journal.
async fn find(store: &Rejected, text: &str) -> Result<u64, Failure> {
    let id = RecordId::parse(text)
        .ok_or_else(|| Failure::new(Code::BadRequest, format!("{text:?} is not a record id")))?;
    let mut after = 0;
    loop {
        let page = store.list(after, LIST_MAX).await;
        let is_it = |record: &&RejectedRecord| record.entry.id == id || record.original == Some(id);
        if let Some(record) = page.records.iter().find(is_it) {
            return Ok(record.entry.number);
        }
        match page.last {
            Some(last) => after = last,
            None => {
                let text = format!("no rejected record {id}; `tombolo queue rejected list` shows them");
                return Err(Failure::new(Code::NotFound, text));
            }
        }
    }
}

fn shown(record: &RejectedRecord, moment: &Moment) -> snapshot::RejectedRecord {
    snapshot::RejectedRecord {
        record: record.original.unwrap_or(record.entry.id).to_string(),
        device: record.device.clone(),
        topic: record.topic.clone(),
        bytes: record.payload_bytes as u64,
        received: received(record.received, record.same_boot, moment).map(|at| at.to_string()),
        reason: Cause::from_byte(record.entry.reason).to_string(),
    }
}

/// A line of an export: everything needed to publish the record by other means.
fn exported(whole: &RejectedWhole, moment: &Moment) -> Value {
    let record = &whole.record;
    let time = received(record.received, record.same_boot, moment);
    let mut object = json!({
        "v": 1,
        "id": record.original.unwrap_or(record.entry.id).to_string(),
        "lane": record.entry.lane.as_str(),
        "device": record.device,
        "path": record.path,
        "topic": record.topic,
        "method": whole.method.as_str(),
        "retain": whole.retain,
        "reason": Cause::from_byte(record.entry.reason).to_string(),
        "base64": STANDARD.encode(&whole.payload),
    });
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            object[key] = value;
        }
    };
    put(
        "code",
        match Cause::from_byte(record.entry.reason) {
            Cause::Code(code) => Some(json!(code)),
            _ => None,
        },
    );
    put("original", record.original.map(|id| json!(id.to_string())));
    put("received", time.map(|at| json!(at.to_string())));
    put("query", whole.query.as_deref().map(|query| json!(query)));
    put("format", whole.content_format.map(|format| json!(format.0)));
    put("expires_s", whole.expires_s.map(|seconds| json!(seconds)));
    put("envelope", (whole.envelope == Envelope::Json).then(|| json!("json")));
    object
}

/// Sends rejected records once more when it is time, until the task is aborted.
pub fn start_retrying(store: Rejected, link: &Rc<Link>, interval: Duration) -> JoinHandle<()> {
    let link = Rc::downgrade(link);
    spawn_local(async move {
        let mut retry = Retry::new(Instant::now(), interval);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(link) = link.upgrade() else { return };
            let now = Instant::now();
            for original in link.take_recovered() {
                retry.handle_recovered(now, original);
            }
            if !retry.is_due(now) || !link.takes_readings(now) {
                continue;
            }
            let candidates = candidates(&store).await;
            for (number, topic) in retry.decide(Instant::now(), candidates) {
                if store.retry(number).await == Retried::NoRoom {
                    retry.handle_no_room(Instant::now(), topic);
                }
            }
        }
    })
}

async fn candidates(store: &Rejected) -> Vec<RetryCandidate> {
    let mut candidates = Vec::new();
    let mut after = 0;
    loop {
        let page = store.list(after, LIST_MAX).await;
        let Some(last) = page.last else { return candidates };
        after = last;
        candidates.extend(page.records.iter().map(|record| RetryCandidate {
            number: record.entry.number,
            original: record.original.unwrap_or(record.entry.id),
            topic: TopicKey::of(&record.topic),
            cause: Cause::from_byte(record.entry.reason),
        }));
    }
}
