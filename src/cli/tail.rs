//! `tombolo tail`: prints one line for each reading when it is stored or refused.

use std::time::SystemTime;

use super::Context;
use super::args::TailArguments;
use super::error::CommandError;
use super::output::{bytes, plural};
use crate::clock::UnixTime;
use crate::control::io::client::Shown;
use crate::control::tail::Item;
use crate::telemetry::text::Escaped;

/// Runs until it is interrupted, its output is closed, or the daemon ends.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run, or ends.
pub fn run(context: &Context, arguments: TailArguments) -> Result<(), CommandError> {
    let tailing = context.daemon()?.tail(arguments.device)?;
    if !context.out.json {
        eprintln!("watching; Ctrl-C ends it");
    }
    for shown in tailing {
        match shown? {
            Shown::Item(item) if context.out.json => context.out.object(&timed(&item, now()))?,
            Shown::Item(item) => context.out.line(line(&item, now()))?,
            Shown::Missed(count) => {
                eprintln!("{} not shown: this terminal reads too slowly", plural(count, "reading"))
            }
        }
    }
    Err(CommandError::failed("the daemon has ended"))
}

/// The item with `time`, when it was received or, while the gateway does not trust its clock, seen.
fn timed(item: &Item, now: UnixTime) -> serde_json::Value {
    let mut value = serde_json::to_value(item).unwrap_or_default();
    value["time"] = item.received.clone().unwrap_or_else(|| now.to_string()).into();
    value
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime(since.as_millis().try_into().unwrap_or(u64::MAX))
}

/// The human form:
/// `12:00:01Z door-7 POST t/env → tombolo/gw/door-7/up/t/env 14 B stored 0102030405060708-42`.
///
/// The time is the time of receipt, or `now` if the gateway does not trust its clock.
pub fn line(item: &Item, now: UnixTime) -> String {
    let time = item.received.clone().unwrap_or_else(|| now.to_string());
    // RFC 3339: the date, `T`, the time, a fraction.
    let clock = time.split_once('T').and_then(|(_, time)| time.get(..8)).unwrap_or("--:--:--");
    let Item { device, method, path, bytes: length, outcome, .. } = item;
    let mut line = format!("{clock}Z {} {} {}", Escaped(device), Escaped(method), Escaped(path));
    if let Some(topic) = &item.topic {
        line.push_str(&format!(" → {}", Escaped(topic)));
    }
    line.push_str(&format!(" {} {}", bytes(*length), Escaped(outcome)));
    for part in [&item.record, &item.code, &item.reason].into_iter().flatten() {
        line.push_str(&format!(" {}", Escaped(part)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_time_whether_or_not_the_clock_is_trusted() {
        let seen = UnixTime(3_661_000);
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
            line(&item, UnixTime(0)),
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
            line(&item, UnixTime(3_661_000)),
            "01:01:01Z door-7 PUT x\\u{202e}\\u{1b}[2J 2 KiB refused 4.03 no rule matches"
        );
    }
}
