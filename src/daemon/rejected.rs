//! What the broker refused for good: listed, sent again, given up.
//!
//! Each step waits for the journal thread, so it runs beside the path.

use crate::clock::UnixTime;
use crate::control::api::{RejectedAction, Reply};
use crate::control::protocol::{Code, Failure, LIST_MAX, Selection};
use crate::control::snapshot;
use crate::journal::RejectedRecord;
use crate::journal::io::Rejected;
use crate::message::RecordId;
use crate::northbound::outbox::POISON;

/// Does what is asked and answers.
pub async fn answer(store: Rejected, action: RejectedAction, reply: Reply) {
    match action {
        RejectedAction::List { after } => match list(&store, after.as_deref()).await {
            Ok(page) => reply.ok(&page),
            Err(failure) => reply.fail(failure),
        },
        RejectedAction::Retry(selection) => reply.result(change(&store, selection, true).await),
        RejectedAction::Drop(selection) => reply.result(change(&store, selection, false).await),
    }
}

async fn list(store: &Rejected, after: Option<&str>) -> Result<snapshot::RejectedPage, Failure> {
    let after = match after {
        Some(text) => find(store, text).await?,
        None => 0,
    };
    // One more than asked, to know whether there is more.
    let mut records = store.list(after, LIST_MAX + 1).await;
    let more = records.len() > LIST_MAX;
    records.truncate(LIST_MAX);
    Ok(snapshot::RejectedPage { records: records.iter().map(shown).collect(), more })
}

async fn change(store: &Rejected, selection: Selection, retry: bool) -> Result<serde_json::Value, Failure> {
    let mut numbers = Vec::new();
    match selection {
        Selection::All => {
            let mut after = 0;
            loop {
                let page = store.list(after, LIST_MAX).await;
                let Some(last) = page.last() else { break };
                after = last.entry.number;
                numbers.extend(page.iter().map(|record| record.entry.number));
            }
        }
        Selection::Ids(ids) => {
            for id in ids {
                numbers.push(find(store, &id).await?);
            }
        }
    }
    let mut changed = 0u64;
    for number in numbers {
        let done = if retry { store.retry(number).await } else { store.discard(number).await };
        changed += u64::from(done);
        if !done && retry {
            return Err(Failure::new(
                Code::Failed,
                format!("its lane takes no more records; {changed} were sent again, try later for the rest"),
            ));
        }
    }
    Ok(serde_json::json!({ "records": changed }))
}

/// The number in the store of a record known by its id.
async fn find(store: &Rejected, text: &str) -> Result<u64, Failure> {
    let id = RecordId::parse(text)
        .ok_or_else(|| Failure::new(Code::BadRequest, format!("{text:?} is not a record id")))?;
    let mut after = 0;
    loop {
        let page = store.list(after, LIST_MAX).await;
        if let Some(record) = page.iter().find(|record| record.entry.id == id) {
            return Ok(record.entry.number);
        }
        match page.last() {
            Some(last) => after = last.entry.number,
            None => {
                let text = format!("no rejected record {id}; `tombolo queue rejected list` shows them");
                return Err(Failure::new(Code::NotFound, text));
            }
        }
    }
}

fn shown(record: &RejectedRecord) -> snapshot::RejectedRecord {
    snapshot::RejectedRecord {
        record: record.entry.id.to_string(),
        device: record.device.clone(),
        topic: record.topic.clone(),
        bytes: record.payload_bytes as u64,
        received: record.received.wall_ms.map(|ms| UnixTime(ms).to_string()),
        reason: reason(record.entry.reason),
    }
}

/// A PUBACK reason code in words (MQTT 5.0 §3.4.2.1), with its number.
fn reason(code: u8) -> String {
    let words = match code {
        0x87 => "not authorized",
        0x90 => "topic name invalid",
        0x95 => "packet too large",
        0x99 => "payload format invalid",
        POISON => return "the broker closed the connection over it, again and again".to_owned(),
        _ => "refused",
    };
    format!("{words} (0x{code:02x})")
}
