//! `tombolo device test`: a reading that the operator sends in the place of a device, step by step.
//!
//! It goes the way of any other from the rules on, is published, and says in its payload and in the
//! user property `test` what it is. The device's quota, presence and counters stay as they are.
//!
//! Without a path it takes the only rule whose readings set off no alarm and stay nowhere: not in
//! lane `high`, not retained. If there are several or none, it names them and asks for a path.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::deliveries::Deliveries;
use super::device_status;
use super::hub::Hub;
use super::link::Link;
use super::round::Shared;
use crate::control::api::Reply;
use crate::control::protocol::{Code, Failure};
use crate::control::snapshot::{DeviceTest, TestStep};
use crate::gate::{Gate, Received, Supposed};
use crate::message::{ContentFormat, Lane, Method, Path, RecordId};
use crate::northbound::advice;
use crate::northbound::reason_code::Cause;
use crate::northbound::settled::Verdict;
use crate::pipeline::Tested;

/// What is published.
pub const PAYLOAD: &[u8] = b"tombolo device test";
const CONTENT_FORMAT: ContentFormat = ContentFormat::TEXT;
/// The same, for an explanation.
const SUPPOSED: Supposed<'_> = Supposed {
    content_format: Some(Some(CONTENT_FORMAT)),
    bytes: PAYLOAD.len(),
    payload: None,
    retain: false,
};
/// How long the commit may take, in the worst case of a slow card.
const STORED_WITHIN: Duration = Duration::from_secs(60);
/// How long the broker may take.
const DELIVERED_WITHIN: Duration = Duration::from_secs(30);
/// Most paths that are named to choose from.
const LISTED: usize = 8;
/// What a `+` or `#` of a pattern is replaced with.
const LEVEL: &str = "test";

/// The steps so far.
#[derive(Default)]
struct Steps {
    steps: Vec<TestStep>,
    path: Option<String>,
}

impl Steps {
    fn push(&mut self, step: &str, ok: bool, text: impl Into<String>) {
        self.steps.push(TestStep { step: step.to_owned(), ok, text: text.into() });
    }

    fn answer(self, reply: Reply, record: Option<RecordId>) {
        let Steps { steps, path } = self;
        reply.ok(&DeviceTest { steps, path, record: record.map(|id| id.to_string()) });
    }
}

/// Takes the steps as far as the journal; with `plan`, as far as the topic.
pub fn begin(
    shared: &Rc<Shared>,
    deliveries: &Rc<Deliveries>,
    device: &str,
    path: Option<&str>,
    plan: bool,
    reply: Reply,
) {
    let mut steps = Steps::default();
    let now = Instant::now();
    let decided = shared.round(|hub: &mut Hub| decide(hub, now, device, path, plan, &mut steps));
    let (record, stored) = match decided {
        Ok(Some((record, stored))) => (record, stored),
        Ok(None) => return steps.answer(reply, None),
        Err(failure) => return reply.fail(failure),
    };
    deliveries.follow(record);
    tokio::task::spawn_local(async move {
        let begun = Instant::now();
        match timeout(STORED_WITHIN, stored).await {
            Ok(Ok(true)) => {
                let ms = begun.elapsed().as_millis();
                steps.push("stored", true, format!("record {record}, on disk after {ms} ms"));
                steps.answer(reply, Some(record));
            }
            Ok(_) => {
                steps.push("stored", false, "the journal could not store it; `tombolo status` says why");
                steps.answer(reply, None);
            }
            Err(_) => {
                steps.push("stored", false, format!("not on disk after {} s", STORED_WITHIN.as_secs()));
                steps.answer(reply, None);
            }
        }
    });
}

type Storing = (RecordId, tokio::sync::oneshot::Receiver<bool>);

/// `None`: a step failed, or there is nothing to store.
fn decide(
    hub: &mut Hub,
    now: Instant,
    device: &str,
    path: Option<&str>,
    plan: bool,
    steps: &mut Steps,
) -> Result<Option<Storing>, Failure> {
    hub.begin();
    let index = device_status::known(hub, device)?;
    let gate = &hub.pipeline.gate;
    let Some(view) = gate.device(now, index) else { return Ok(None) };
    steps.push("identity", true, format!("{device} is known, its role is {}", view.role));
    let chosen = match path {
        Some(path) => Ok(path.strip_prefix('/').unwrap_or(path).to_owned()),
        None => choose(gate, now, device, view.role.as_str()),
    };
    let path = match chosen {
        Ok(path) => path,
        Err(text) => {
            steps.push("rule", false, text);
            return Ok(None);
        }
    };
    let explained = gate.explain_supposed(now, device, Method::Post, &path, SUPPOSED);
    if !explained.allowed {
        steps.push("rule", false, format!("POST {path}: {}; choose another --path", explained.why));
        return Ok(None);
    }
    let rule = explained.rule.unwrap_or_default();
    steps.push("rule", true, format!("POST {path} passes by rule {rule}"));
    steps.path = Some(path.clone());
    if let Some(publish) = &explained.publish {
        let retained = if publish.retain { ", retained" } else { "" };
        steps.push("topic", true, format!("{} (lane {}{retained})", publish.topic, publish.lane));
    }
    if plan {
        return Ok(None);
    }
    let path = match Path::parse(&path) {
        Ok(path) => path,
        Err(error) => return Err(Failure::new(Code::BadRequest, format!("{path:?} is not a path: {error}"))),
    };
    let quota = view.quota;
    let left = format!("{} of {} readings are left", quota.messages_left, quota.messages_burst);
    let received = Received {
        path,
        query: None,
        method: Method::Post,
        payload: PAYLOAD,
        content_format: Some(CONTENT_FORMAT),
        blockwise: false,
        stamp: hub.moment.stamp(),
    };
    let (tested, stored) = hub.test(index, received);
    if let Tested::Refused(refusal) = &tested {
        steps.push("quota", false, refusal.to_string());
        return Ok(None);
    }
    steps.push("quota", true, format!("{left}; the test takes none"));
    match tested {
        Tested::Journaled(record) => return Ok(Some((record, stored))),
        Tested::Passed => steps.push(
            "stored",
            true,
            format!("rule {rule} has qos = 0: it is handed to the uplink, not stored, and no broker acknowledges it"),
        ),
        Tested::Unstored(refused) => steps.push("stored", false, refused.to_string()),
        Tested::Refused(_) => {}
    }
    Ok(None)
}

/// The path of the only rule that sets off nothing, or why there is none.
fn choose(gate: &Gate, now: Instant, device: &str, role: &str) -> Result<String, String> {
    let index = gate.device_by_id(device);
    let mut harmless: Vec<(String, String)> = Vec::new();
    let mut others: Vec<(String, String)> = Vec::new();
    for path in index.into_iter().flat_map(|index| gate.uplink_patterns(index)).map(concrete) {
        let explained = gate.explain_supposed(now, device, Method::Post, &path, SUPPOSED);
        let (true, Some(rule), Some(publish)) = (explained.allowed, explained.rule, explained.publish) else {
            continue;
        };
        let is_harmless = publish.lane == Lane::Normal.as_str() && !publish.retain;
        let found = if is_harmless { &mut harmless } else { &mut others };
        // Two patterns may lead to one rule, if one is within the other.
        if !found.iter().any(|(_, known)| *known == rule) {
            found.push((path, rule));
        }
    }
    let list = |of: &[(String, String)]| {
        let named = of.iter().take(LISTED).map(|(path, rule)| format!("{path} (rule {rule})"));
        let more = if of.len() > LISTED { ", …" } else { "" };
        named.collect::<Vec<_>>().join(", ") + more
    };
    match (harmless.len(), others.len()) {
        (1, _) => Ok(harmless.remove(0).0),
        (0, 0) => Err(format!("no rule of role {role} lets a reading pass; add [role.{role}.uplink.NAME]")),
        (0, _) => Err(format!(
            "only rules in lane high or with retain = true let a reading pass; choose one with --path: {}",
            list(&others)
        )),
        _ => Err(format!("several rules let a reading pass; choose one with --path: {}", list(&harmless))),
    }
}

/// A path that a pattern matches.
fn concrete(pattern: &str) -> String {
    let levels = pattern.split('/').map(|level| if matches!(level, "+" | "#") { LEVEL } else { level });
    levels.collect::<Vec<_>>().join("/")
}

/// Waits until the broker has decided, or says why it does not.
pub fn delivery(link: &Rc<Link>, deliveries: &Rc<Deliveries>, record: &str, reply: Reply) {
    let waits = RecordId::parse(record).and_then(|id| deliveries.wait(id));
    let Some(waits) = waits else {
        let text = format!("{record} is not the record of a test of the last minutes");
        return reply.fail(Failure::new(Code::NotFound, text));
    };
    let (link, record) = (Rc::clone(link), record.to_owned());
    tokio::task::spawn_local(async move {
        let begun = Instant::now();
        let mut steps = Steps::default();
        // Nothing decides about it while there is no connection, and it is not lost.
        let patience = match link.snapshot(begun) {
            uplink if uplink.connected => DELIVERED_WITHIN,
            _ => Duration::from_millis(500),
        };
        let verdict = timeout(patience, waits).await;
        let uplink = link.snapshot(Instant::now());
        let broker = uplink.broker.as_deref().unwrap_or("the broker");
        match verdict {
            Ok(Ok(Verdict::Delivered)) => {
                let ms = begun.elapsed().as_millis();
                if uplink.unacknowledged {
                    let text = format!(
                        "published to {broker} with QoS 0, the only one that it takes: nothing shows that it arrived"
                    );
                    steps.push("sent", true, text);
                    return steps.answer(reply, None);
                }
                steps.push("sent", true, format!("published to {broker}"));
                let text = match uplink.protocol.as_deref() {
                    Some("3.1.1") => "PUBACK, which in MQTT 3.1.1 may also hide a refusal".to_owned(),
                    _ => format!("PUBACK after {ms} ms"),
                };
                steps.push("acknowledged", true, text);
            }
            Ok(Ok(Verdict::HeldBack(cause) | Verdict::Rejected(cause))) => {
                steps.push("sent", true, format!("published to {broker}"));
                let advice = match cause {
                    Cause::Code(code) => advice::of_puback(code),
                    _ => "see the broker's log, and whether it allows the topic",
                };
                let text = format!("{cause}; {advice}; record {record} is tried again");
                steps.push("acknowledged", false, text);
            }
            Ok(Ok(Verdict::Expired)) => steps.push("sent", false, "it expired before it could be sent"),
            Ok(Err(_)) | Err(_) => steps.push("sent", false, undelivered(&link, &uplink, patience)),
        }
        steps.answer(reply, None);
    });
}

/// Why it was not delivered in time.
fn undelivered(link: &Link, uplink: &crate::control::snapshot::Uplink, patience: Duration) -> String {
    let later = "it is stored and will be sent later";
    if !uplink.configured {
        return format!("no upstream is configured: run `tombolo init`; {later}");
    }
    if !uplink.connected {
        let broker = uplink.broker.as_deref().unwrap_or("the broker");
        let reason = uplink.last_error.as_deref().unwrap_or("still connecting");
        return format!("not connected to {broker}: {reason}; {later}");
    }
    if let (Some(key), Some(seconds)) = (&uplink.capped_by, uplink.capped_for_s) {
        return format!(
            "[upstream] {key} keeps it back: the next publish goes in {seconds} s; raise it, or take it out; {later}"
        );
    }
    let stopped = uplink.stalled.first().cloned();
    let stopped =
        stopped.or_else(|| Lane::ALL.into_iter().find_map(|lane| link.stopped(lane, Instant::now())));
    match stopped {
        Some(reason) => format!("{reason}; {later}"),
        None => format!(
            "not acknowledged after {} s, perhaps because many wait before it (`tombolo queue`); {later}",
            patience.as_secs()
        ),
    }
}
