//! The devices as the running daemon knows them: beside the files, or in their place where this
//! user may not read them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::Context;
use super::super::error::CommandError;
use super::super::output::{bytes, plural, span};
use super::super::status::{refused_connect, trouble_of};
use crate::control::io::client::{ANSWER, Client, ClientError};
use crate::control::protocol::Request;
use crate::control::snapshot::{DevicePage, DeviceState, LastFiltered, LastRefusal, ServedResource};
use crate::telemetry::text::Escaped;

/// The devices of the daemon by id: one, or all.
///
/// # Errors
/// [`ClientError`]; of an unknown device, or a daemon of an older version, [`ClientError::Failed`].
pub fn ask(context: &Context, device: Option<&str>) -> Result<BTreeMap<String, DeviceState>, ClientError> {
    let mut daemon: Client = context.daemon()?;
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let request = Request::Devices { device: device.map(str::to_owned), after };
        let page: DevicePage = daemon.ask_for(&request, ANSWER)?;
        after = page.devices.last().map(|state| state.id.clone());
        all.extend(page.devices.into_iter().map(|state| (state.id.clone(), state)));
        // A page without a device would be asked for again for ever.
        if !page.more || after.is_none() {
            return Ok(all);
        }
    }
}

/// What there is to do where the files may not be read and the daemon does not answer either.
pub fn neither(unreadable: &str, daemon: &ClientError) -> CommandError {
    // Both have the same way out: it is said once, at the end.
    let unreadable = match daemon {
        ClientError::Denied { .. } => unreadable.trim_end_matches(": use sudo"),
        _ => unreadable,
    };
    CommandError::Failed(format!("{unreadable}; nor can the daemon be asked: {daemon}"))
}

/// Adds what runs to an object of `device list` or `device show`.
pub fn add_to(value: &mut Value, state: &DeviceState) {
    let (Ok(Value::Object(running)), Some(object)) = (serde_json::to_value(state), value.as_object_mut())
    else {
        return;
    };
    for (key, value) in running {
        match key.as_str() {
            // `sessions` is the list of them.
            "sessions" => drop(object.insert("session_count".to_owned(), value)),
            "refused_reasons" => drop(object.insert(key, value)),
            _ => drop(object.entry(key).or_insert(value)),
        }
    }
}

/// An object for a device that only the daemon names.
pub fn entry(state: &DeviceState) -> Value {
    let mut value = json!({
        "id": state.id,
        "role": state.role,
        "label": state.label,
        "psk_identity": null,
        "certificate": null,
        "public_key": null,
        "source": if state.fleet.is_some() { json!("fleet") } else { Value::Null },
        "place": null,
        "usable": true,
    });
    add_to(&mut value, state);
    value
}

/// `online`, `degraded`, `offline` or `not seen`, and when it was active last.
pub fn seen(state: &DeviceState) -> [String; 2] {
    let word = match (state.online, state.last_seen_s) {
        // An older daemon says no more than whether it is online.
        _ if !state.state.is_empty() => state.state.as_str(),
        (true, _) => "online",
        (false, Some(_)) => "offline",
        (false, None) => "not seen",
    };
    let ago = state.last_seen_s.map_or_else(|| "-".to_owned(), |seconds| format!("{} ago", span(seconds)));
    [word.to_owned(), ago]
}

/// The rows of `device show`.
pub fn rows(state: &DeviceState) -> Vec<(&'static str, String)> {
    let [word, ago] = seen(state);
    let state_text = match state.last_seen_s {
        Some(_) => format!("{word}, active {ago}"),
        None if word != "not seen" => word.clone(),
        None => "not seen since the daemon started".to_owned(),
    };
    let state_text = match &state.state_reason {
        Some(reason) => format!("{state_text}: {reason}"),
        None => state_text,
    };
    let mut rows = vec![("state", state_text)];
    let unstored = match state.unstored {
        0 => String::new(),
        count => format!(", {count} not stored"),
    };
    let filtered = match state.filtered {
        0 => String::new(),
        count => format!(", {count} filtered"),
    };
    rows.push((
        "readings",
        format!(
            "{} accepted{unstored}, {} delivered{filtered}, {} refused",
            state.accepted, state.delivered, state.refused
        ),
    ));
    if state.local > 0 {
        rows.push(("local messages", format!("{} passed to local clients", state.local)));
    }
    if let Some(LastFiltered { at, ago_s, path, why, rule }) = &state.last_filtered {
        let when = at.as_ref().map_or_else(String::new, |at| format!(" ({at})"));
        let rule = rule.as_ref().map_or_else(String::new, |rule| format!(" [rule {rule}]"));
        rows.push(("last filtered", format!("{path}: {why}{rule}, {} ago{when}", span(*ago_s))));
    }
    if state.refused > 0 {
        let reasons =
            state.refused_reasons.iter().map(|(reason, count)| format!("{count} {}", word_of(reason)));
        rows.push(("refusals", reasons.collect::<Vec<_>>().join(", ")));
    }
    if let Some(LastRefusal { at, ago_s, path, why, rule, .. }) = &state.last_refusal {
        let when = at.as_ref().map_or_else(String::new, |at| format!(" ({at})"));
        let rule = rule.as_ref().map_or_else(String::new, |rule| format!(" [rule {rule}]"));
        rows.push(("last refused", format!("{path}: {why}{rule}, {} ago{when}", span(*ago_s))));
    }
    if let Some(seconds) = state.muted_s {
        rows.push(("muted", format!("heard again after {} of silence: it ignored 4.29", span(seconds))));
    }
    for (lane, share) in &state.lanes {
        let most = bytes(share.max_bytes);
        rows.push(("lane share", format!("{} of {most} of lane {lane}", bytes(share.bytes))));
    }
    if state.over_share > 0 {
        let readings = plural(state.over_share, "reading");
        rows.push(("over share", format!("{readings} not stored: its records had its share of the lane")));
    }
    if state.too_often > 0 {
        let text = format!("{} handshakes and connects refused: more than max-handshakes", state.too_often);
        rows.push(("too often", text));
    }
    if let Some(last) = &state.last_mqtt_refused {
        let count = plural(state.mqtt_refused, "connect");
        rows.push(("MQTT refused", format!("{count}, {}", refused_connect(last))));
    }
    if let Some(last) = &state.last_refused_filter {
        let (count, ago) = (plural(state.refused_filters, "filter"), span(last.ago_s));
        let text = format!("{count} refused, the last {ago} ago: {}", Escaped(&last.filter));
        rows.push(("subscriptions", text));
    }
    rows.extend(state.served.iter().map(served));
    let clients = match state.mqtt_clients {
        0 => String::new(),
        count => format!(", {}", plural(count, "MQTT client")),
    };
    rows.push(("sessions", format!("{}{clients}", plural(state.sessions, "DTLS session"))));
    rows
}

/// The row of a resource that is observed or polled.
fn served(of: &ServedResource) -> (&'static str, String) {
    let label = if of.table == "poll" { "polls" } else { "observes" };
    let reading = if of.reading == of.path { String::new() } else { format!(" as {}", of.reading) };
    let every = of.every_s.map_or_else(String::new, |seconds| format!(" every {}", span(seconds)));
    let since = of.observed_s.map_or_else(String::new, |seconds| format!(", since {}", span(seconds)));
    let values = match of.value_s {
        Some(ago) => format!(", {}, the last {} ago", plural(of.values, "value"), span(ago)),
        None if !of.heard => ", when the device is heard".to_owned(),
        None => ", no value yet".to_owned(),
    };
    let over = match of.over_quota {
        0 => String::new(),
        count => format!(", {count} over the quota"),
    };
    let trouble = match &of.trouble {
        Some(_) => format!(": {}", trouble_of(of)),
        None => String::new(),
    };
    let behind = of.behind_command_s.map_or_else(String::new, |seconds| {
        format!(", due for {} behind a command, which `tombolo mailbox list` shows", span(seconds))
    });
    let remark = of.remark.as_ref().map_or_else(String::new, |remark| format!("; {remark}"));
    let shown = format!("{reading}{every}{since}{values}{over}{behind}{trouble}{remark}");
    (label, format!("{} ({}){shown}", of.path, of.name))
}

/// A reason of the counters in words.
fn word_of(reason: &str) -> String {
    reason.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::{LaneShare, RefusedConnect, RefusedFilter};

    fn state() -> DeviceState {
        DeviceState {
            id: "door-7".into(),
            role: "sensor".into(),
            online: true,
            last_seen_s: Some(5),
            sessions: 1,
            accepted: 7,
            delivered: 6,
            refused: 2,
            refused_reasons: [("no_rule".to_owned(), 2)].into(),
            last_refusal: Some(LastRefusal {
                ago_s: 70,
                path: "x/y".into(),
                why: "no rule of its role matches the path".into(),
                ..LastRefusal::default()
            }),
            ..DeviceState::default()
        }
    }

    #[test]
    fn a_device_is_shown_in_words() {
        let text: Vec<String> = rows(&state()).iter().map(|(name, text)| format!("{name}: {text}")).collect();
        assert_eq!(
            text,
            [
                "state: online, active 5 s ago",
                "readings: 7 accepted, 6 delivered, 2 refused",
                "refusals: 2 no rule",
                "last refused: x/y: no rule of its role matches the path, 1 min 10 s ago",
                "sessions: 1 DTLS session",
            ]
        );
        assert_eq!(seen(&DeviceState::default()), ["not seen", "-"]);
        let degraded = DeviceState {
            online: false,
            state: "degraded".into(),
            state_reason: Some("it answers 12 bytes where 2 are asked for".into()),
            ..state()
        };
        assert_eq!(seen(&degraded)[0], "degraded");
        let text = "degraded, active 5 s ago: it answers 12 bytes where 2 are asked for";
        assert_eq!(rows(&degraded)[0].1, text);
    }

    #[test]
    fn readings_that_were_not_published_are_shown_where_there_are_any() {
        let filtered = DeviceState { filtered: 3, ..state() };
        assert_eq!(rows(&filtered)[1].1, "7 accepted, 6 delivered, 3 filtered, 2 refused");
        let last = LastFiltered {
            ago_s: 3,
            path: "t/env".into(),
            why: "/t is 21.5, not above 30".into(),
            rule: Some("alarm".into()),
            ..LastFiltered::default()
        };
        let filtered = DeviceState { last_filtered: Some(last), ..filtered };
        let text = "t/env: /t is 21.5, not above 30 [rule alarm], 3 s ago";
        assert_eq!(rows(&filtered)[2], ("last filtered", text.to_owned()));
    }

    #[test]
    fn a_device_that_is_held_back_is_shown_with_why() {
        let share = LaneShare { bytes: 96 << 20, max_bytes: 96 << 20 };
        let lanes = [("normal".to_owned(), share)].into();
        let limited =
            DeviceState { muted_s: Some(40), mutes: 1, over_share: 3, too_often: 2, lanes, ..state() };
        let rows = rows(&limited);
        let of = |name: &str| rows.iter().find(|(row, _)| *row == name).map(|(_, text)| text.as_str());
        assert_eq!(of("muted"), Some("heard again after 40 s of silence: it ignored 4.29"));
        assert_eq!(of("lane share"), Some("96 MiB of 96 MiB of lane normal"));
        assert_eq!(of("over share"), Some("3 readings not stored: its records had its share of the lane"));
        let text = "2 handshakes and connects refused: more than max-handshakes";
        assert_eq!(of("too often"), Some(text));
    }

    #[test]
    fn a_refused_connect_of_an_mqtt_client_is_shown_at_its_device() {
        let last = RefusedConnect {
            ago_s: 70,
            peer: "192.0.2.7".into(),
            username: Some("cam\u{1b}".into()),
            device: Some("cam-1".into()),
            reason: "wrong password".into(),
        };
        let refused = DeviceState { mqtt_refused: 3, last_mqtt_refused: Some(last), ..state() };
        let rows = rows(&refused);
        let text = rows.iter().find(|(name, _)| *name == "MQTT refused").map(|(_, text)| text.as_str());
        let shown =
            "3 connects, the last 1 min 10 s ago from 192.0.2.7, user name cam\\u{1b}: wrong password";
        assert_eq!(text, Some(shown));
    }

    #[test]
    fn refused_subscriptions_are_shown_at_their_device() {
        let last = RefusedFilter { ago_s: 70, filter: "other/#\u{1b}".into() };
        let refused = DeviceState { refused_filters: 2, last_refused_filter: Some(last), ..state() };
        let rows = rows(&refused);
        let text = rows.iter().find(|(name, _)| *name == "subscriptions").map(|(_, text)| text.as_str());
        assert_eq!(text, Some("2 filters refused, the last 1 min 10 s ago: other/#\\u{1b}"));
    }

    #[test]
    fn keys_are_only_added_and_sessions_stay_a_list() {
        let mut value = json!({ "id": "door-7", "role": null, "sessions": ["a"] });
        add_to(&mut value, &state());
        assert_eq!((&value["role"], &value["sessions"]), (&Value::Null, &json!(["a"])));
        assert_eq!((&value["session_count"], &value["online"]), (&json!(1), &json!(true)));
    }

    #[test]
    fn a_resource_says_since_when_it_is_observed_what_came_and_what_is_wrong() {
        let of = ServedResource {
            table: "observe".into(),
            name: "temp".into(),
            path: "s/temp".into(),
            reading: "t/temp".into(),
            ..ServedResource::default()
        };
        let shown = |of: &ServedResource| served(of).1;
        assert_eq!(shown(&of), "s/temp (temp) as t/temp, when the device is heard");
        let heard = ServedResource { heard: true, ..of };
        assert_eq!(shown(&heard), "s/temp (temp) as t/temp, no value yet");
        let observed = ServedResource {
            observed_s: Some(90),
            value_s: Some(5),
            values: 2,
            over_quota: 3,
            ..heard.clone()
        };
        let text = shown(&observed);
        assert!(text.starts_with("s/temp (temp) as t/temp, since ") && text.contains("2 values"), "{text}");
        assert!(text.ends_with("3 over the quota"), "{text}");
        let wrong =
            ServedResource { trouble: Some("the device answers 4.04".into()), again_s: Some(30), ..heard };
        assert!(
            shown(&wrong).contains(": the device answers 4.04, asked again in 30 s"),
            "{}",
            shown(&wrong)
        );
        let behind = ServedResource { behind_command_s: Some(70), remark: Some("odd".into()), ..observed };
        assert!(shown(&behind).contains("due for 1 min 10 s behind a command"), "{}", shown(&behind));
        assert!(shown(&behind).ends_with("; odd"), "{}", shown(&behind));
        let polled = ServedResource { table: "poll".into(), every_s: Some(300), ..wrong };
        assert_eq!(served(&polled).0, "polls");
    }
}
