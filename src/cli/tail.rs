//! `tombolo tail`: prints one line for each reading when it is stored or refused, one when the
//! broker has it, one for each step of a command, and one for each handshake that fails and each
//! MQTT connect that is refused; first the last readings before.

use std::time::SystemTime;

use nix::time::{ClockId, clock_gettime};

use super::Context;
use super::args::TailArguments;
use super::error::CommandError;
use super::output::{bytes, plural};
use crate::clock::UnixTime;
use crate::control::io::client::Shown;
use crate::control::tail::{Item, PREVIEW_BYTES};
use crate::telemetry::text::Escaped;

/// The outcomes of items that are no readings.
const HANDSHAKE_FAILED: &str = "handshake_failed";
const CONNECT_REFUSED: &str = "connect_refused";

/// Runs until it is interrupted, its output is closed, or the daemon ends.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run, ends, or does not know the device.
pub fn run(context: &Context, arguments: TailArguments) -> Result<(), CommandError> {
    let tailing = context.daemon()?.tail(arguments.device, arguments.last)?;
    if !context.out.json {
        eprintln!("watching; Ctrl-C ends it");
    }
    for shown in tailing {
        match shown? {
            Shown::Item(item) if context.out.json => {
                context.out.verbatim_object(&timed(&item, Now::read()))?
            }
            Shown::Item(item) => context.out.verbatim(&format!("{}\n", line(&item, Now::read())))?,
            Shown::Missed(count) => {
                eprintln!("{} not shown: this terminal reads too slowly", plural(count, "reading"))
            }
        }
    }
    Err(CommandError::failed("the daemon has ended"))
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    wall: UnixTime,
    boottime_ms: u64,
}

impl Now {
    fn read() -> Now {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let boottime =
            clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from).unwrap_or_default();
        Now {
            wall: UnixTime(since.as_millis().try_into().unwrap_or(u64::MAX)),
            boottime_ms: boottime.as_millis().try_into().unwrap_or(u64::MAX),
        }
    }

    /// When an item was received, by this clock where the gateway does not trust it.
    fn time_of(self, item: &Item) -> String {
        let age = match item.boottime_ms {
            0 => 0,
            at => self.boottime_ms.saturating_sub(at),
        };
        item.received.clone().unwrap_or_else(|| UnixTime(self.wall.0.saturating_sub(age)).to_string())
    }
}

/// The item with `time`, when it was received; of a failed handshake or a refused connect, what it
/// does not have is `null`.
fn timed(item: &Item, now: Now) -> serde_json::Value {
    let mut value = serde_json::to_value(item).unwrap_or_default();
    value["time"] = now.time_of(item).into();
    if [HANDSHAKE_FAILED, CONNECT_REFUSED].contains(&item.outcome.as_str()) {
        for key in ["device", "method", "path"] {
            if value[key] == "" {
                value[key] = serde_json::Value::Null;
            }
        }
    }
    value
}

/// The human form:
/// `12:00:01Z door-7 POST t/env → tombolo/gw/door-7/up/t/env 14 B stored 0102030405060708-42 "21.5"`.
pub fn line(item: &Item, now: Now) -> String {
    let time = now.time_of(item);
    // RFC 3339: the date, `T`, the time, a fraction.
    let clock = time.split_once('T').and_then(|(_, time)| time.get(..8)).unwrap_or("--:--:--");
    let Item { device, method, path, bytes: length, outcome, .. } = item;
    if outcome == HANDSHAKE_FAILED {
        return format!("{clock}Z {}", handshake(item));
    }
    if outcome == CONNECT_REFUSED {
        return format!("{clock}Z {}", refused_connect(item));
    }
    if outcome.starts_with("command_") {
        return format!("{clock}Z {}", command(item));
    }
    let mut line = format!("{clock}Z {} {} {}", Escaped(device), Escaped(method), Escaped(path));
    if let Some(query) = &item.query {
        line.push_str(&format!("?{}", Escaped(query)));
    }
    let is_later = matches!(outcome.as_str(), "delivered" | "held_back" | "rejected" | "expired");
    if let Some(topic) = item.topic.as_ref().filter(|_| !is_later) {
        line.push_str(&format!(" → {}", Escaped(topic)));
    }
    if !is_later {
        line.push_str(&format!(" {}", bytes(*length)));
    }
    line.push_str(&format!(" {}", Escaped(&outcome.replace('_', " "))));
    for part in [&item.record, &item.code, &item.reason].into_iter().flatten() {
        line.push_str(&format!(" {}", Escaped(part)));
    }
    if let Some(delivery) = &item.delivery {
        line.push_str(&format!(", {}", Escaped(&delivery.replace('_', " "))));
    }
    let more = if *length > PREVIEW_BYTES as u64 { "…" } else { "" };
    if let Some(text) = &item.payload {
        // A backslash of the text is doubled, so one before a quote is ours.
        let text = Escaped(text).to_string().replace('"', "\\\"");
        line.push_str(&format!(" \"{text}\"{more}"));
    } else if let Some(hex) = &item.payload_hex {
        line.push_str(&format!(" hex:{}{more}", Escaped(hex)));
    }
    line
}

/// `door-7 ← PUT lock/state 3 B command sent "off"`, `door-7 lock/state command ended 2.04 0 B`
fn command(item: &Item) -> String {
    let Item { device, method, path, bytes: length, outcome, .. } = item;
    let mut line = match method.is_empty() {
        true => format!("{} {}", Escaped(device), Escaped(path)),
        false => format!("{} ← {} {}", Escaped(device), Escaped(method), Escaped(path)),
    };
    line.push_str(&format!(" {}", Escaped(&outcome.replace('_', " "))));
    if let Some(code) = &item.code {
        line.push_str(&format!(" {}", Escaped(code)));
    }
    line.push_str(&format!(" {}", bytes(*length)));
    let more = if *length > PREVIEW_BYTES as u64 { "…" } else { "" };
    if let Some(text) = &item.payload {
        line.push_str(&format!(" \"{}\"{more}", Escaped(text)));
    } else if let Some(hex) = &item.payload_hex {
        line.push_str(&format!(" hex:{}{more}", Escaped(hex)));
    }
    line
}

/// `192.0.2.7 MQTT connect refused: wrong password, user name door-7 (device door-7)`
fn refused_connect(item: &Item) -> String {
    let peer = item.peer.as_deref().unwrap_or("?");
    let reason = item.reason.as_deref().unwrap_or("no reason is known");
    let mut line = format!("{} MQTT connect refused: {}", Escaped(peer), Escaped(reason));
    if let Some(username) = &item.identity {
        line.push_str(&format!(", user name {}", Escaped(username)));
    }
    if !item.device.is_empty() {
        line.push_str(&format!(" (device {})", Escaped(&item.device)));
    }
    line
}

/// `192.0.2.7:40000 handshake failed: wrong key for "door-7" (device door-7)`
fn handshake(item: &Item) -> String {
    let peer = item.peer.as_deref().unwrap_or("?");
    let reason = item.reason.as_deref().unwrap_or("no reason is known");
    let mut line = format!("{} handshake failed: {}", Escaped(peer), Escaped(reason));
    // Most reasons name it.
    if let Some(identity) = item.identity.as_ref().filter(|identity| !reason.contains(identity.as_str())) {
        line.push_str(&format!(", identity {}", Escaped(identity)));
    }
    if !item.device.is_empty() {
        line.push_str(&format!(" (device {})", Escaped(&item.device)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { wall: UnixTime(ms), boottime_ms: 10_000 }
    }

    #[test]
    fn what_was_before_has_its_own_time_although_the_clock_is_not_trusted() {
        let item = Item { boottime_ms: 4_000, ..Item::default() };
        assert_eq!(timed(&item, at(3_661_000))["time"], "1970-01-01T01:00:55.000Z");
    }

    #[test]
    fn a_delivery_a_payload_and_a_failed_handshake_are_shown_in_words() {
        let reading = Item {
            device: "door-7".into(),
            method: "POST".into(),
            path: "t/env".into(),
            topic: Some("a".into()),
            bytes: 100,
            payload: Some("21.5\n".into()),
            outcome: "stored".into(),
            record: Some("01-2".into()),
            delivery: Some("held_back".into()),
            ..Item::default()
        };
        assert_eq!(
            line(&reading, at(0)),
            "00:00:00Z door-7 POST t/env → a 100 B stored 01-2, held back \"21.5\\u{a}\"…"
        );
        let quoting = Item { bytes: 9, payload: Some("{\"t\":\\1}".into()), ..reading.clone() };
        assert!(line(&quoting, at(0)).ends_with(r#" "{\"t\":\\1}""#), "{}", line(&quoting, at(0)));
        let hex = Item {
            bytes: 1,
            payload: None,
            payload_hex: Some("ff".into()),
            delivery: None,
            ..reading.clone()
        };
        assert_eq!(line(&hex, at(0)), "00:00:00Z door-7 POST t/env → a 1 B stored 01-2 hex:ff");
        let queried = Item { query: Some("unit=C&n=1".into()), ..hex };
        let shown = "00:00:00Z door-7 POST t/env?unit=C&n=1 → a 1 B stored 01-2 hex:ff";
        assert_eq!(line(&queried, at(0)), shown);
        let delivered = Item { outcome: "delivered".into(), payload: None, delivery: None, ..reading };
        assert_eq!(line(&delivered, at(0)), "00:00:00Z door-7 POST t/env delivered 01-2");
        let failed = Item {
            device: "door-7".into(),
            outcome: "handshake_failed".into(),
            peer: Some("192.0.2.7:9".into()),
            identity: Some("door-7".into()),
            reason: Some("wrong key for \"door-7\"".into()),
            ..Item::default()
        };
        assert_eq!(
            line(&failed, at(0)),
            "00:00:00Z 192.0.2.7:9 handshake failed: wrong key for \"door-7\" (device door-7)"
        );
        let refused = Item {
            outcome: "connect_refused".into(),
            peer: Some("192.0.2.7".into()),
            reason: Some("wrong password".into()),
            ..failed
        };
        assert_eq!(
            line(&refused, at(0)),
            "00:00:00Z 192.0.2.7 MQTT connect refused: wrong password, user name door-7 (device door-7)"
        );
    }

    #[test]
    fn in_json_a_failed_handshake_has_null_for_what_it_does_not_have() {
        let failed = Item { outcome: "handshake_failed".into(), ..Item::default() };
        let value = timed(&failed, at(0));
        assert!(["device", "method", "path"].iter().all(|key| value[key].is_null()), "{value}");
        let named = timed(&Item { device: "door-7".into(), ..failed }, at(0));
        assert!(named["device"] == "door-7" && named["path"].is_null(), "{named}");
        assert_eq!(timed(&Item { outcome: "stored".into(), ..Item::default() }, at(0))["path"], "");
    }

    #[test]
    fn a_command_is_shown_on_its_way_and_with_what_became_of_it() {
        let sent = Item {
            device: "door-7".into(),
            method: "PUT".into(),
            path: "lock".into(),
            bytes: 3,
            payload: Some("off".into()),
            outcome: "command_sent".into(),
            ..Item::default()
        };
        assert_eq!(line(&sent, at(0)), "00:00:00Z door-7 ← PUT lock command sent 3 B \"off\"");
        let ended = Item {
            method: String::new(),
            bytes: 0,
            payload: None,
            outcome: "command_ended".into(),
            code: Some("2.04".into()),
            ..sent
        };
        assert_eq!(line(&ended, at(0)), "00:00:00Z door-7 lock command ended 2.04 0 B");
    }

    #[test]
    fn json_has_the_time_whether_or_not_the_clock_is_trusted() {
        let seen = at(3_661_000);
        assert_eq!(timed(&Item::default(), seen)["time"], "1970-01-01T01:01:01.000Z");
        let item = Item { received: Some("2026-01-01T12:00:01.500Z".into()), ..Item::default() };
        assert_eq!(timed(&item, seen)["time"], "2026-01-01T12:00:01.500Z");
    }

    #[test]
    fn a_stored_reading_is_one_line() {
        let item = Item {
            received: Some("2026-01-01T12:00:01.500Z".into()),
            device: "door-7".into(),
            method: "POST".into(),
            path: "t/env".into(),
            topic: Some("tombolo/gw/door-7/up/t/env".into()),
            bytes: 14,
            outcome: "stored".into(),
            record: Some("0102030405060708-42".into()),
            ..Item::default()
        };
        assert_eq!(
            line(&item, at(0)),
            "12:00:01Z door-7 POST t/env → tombolo/gw/door-7/up/t/env 14 B stored 0102030405060708-42"
        );
    }

    #[test]
    fn a_refused_reading_says_why_and_cannot_draw_on_the_terminal() {
        let item = Item {
            device: "door-7".into(),
            method: "PUT".into(),
            path: "x\u{202e}\u{1b}[2J".into(),
            bytes: 2048,
            outcome: "refused".into(),
            code: Some("4.03".into()),
            reason: Some("no rule matches".into()),
            ..Item::default()
        };
        assert_eq!(
            line(&item, at(3_661_000)),
            "01:01:01Z door-7 PUT x\\u{202e}\\u{1b}[2J 2 KiB refused 4.03 no rule matches"
        );
    }
}
