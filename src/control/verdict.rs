//! Whether everything is fine, from a [`Status`]: the daemon answers it, and the command says it
//! first. Pure.
//!
//! A reason is something that somebody must or may end: it goes when the cause goes. What was lost
//! in the past, and what strangers send, is shown by `status` but is no reason.

use super::snapshot::{LimitedDevice, RejectedCauses, SerialPort, SerialUnit, ServedTotals, Status, Uplink};

/// A line that is closed for less, in seconds, is one between two messages, if it gave readings.
const HUNG_UP_S: u64 = 3;

/// A publish that waits longer for its answer is a reason.
const SLOW_ANSWER_S: u64 = 10;
/// Fewer refused readings of a device of which none was accepted are no warning of `check`.
pub const ALL_REFUSED: u64 = 3;
/// Why a unit is degraded whose values arrive.
pub const LATE: &str =
    "its answers come one request late; restart the converter or gateway before it, or replace it";
/// Why reads are sent more than once.
pub const DOUBTFUL: &str = "nothing shows that its answers are not those to other requests";
/// What ends that.
pub const SETTLED_BY: &str = "one more value in the map of a unit, so that reads have several lengths, shows it; or restart the converter or gateway";
/// The reason of a device that is held back by its quota, as in [`LimitedDevice::reason`].
pub const OVER_QUOTA: &str = "over_quota";
/// Why clients with chosen passwords are refused, and what ends that.
pub const VERIFICATIONS: &str = "too many chosen passwords wait to be verified, one after the other; `tombolo device rekey ID --password` \
     makes one that is verified at once, and the log (\"MQTT client refused\") names who guesses";

/// What the clock's reason begins with.
const CLOCK: &str = "the clock is ";

/// Why not everything is fine, one sentence each, the most urgent first; empty = it is.
pub fn reasons(status: &Status) -> Vec<String> {
    let mut reasons = Vec::new();
    let journal = &status.journal;
    reasons.extend(journal.failing.iter().map(|reason| format!("readings are refused: {reason}")));
    uplink(status, &mut reasons);
    reasons.extend(status.problems.iter().cloned());
    if let Some(first) = status.gateway.disabled.first() {
        let first = first.strip_prefix("fail  ").unwrap_or(first);
        reasons.push(match status.gateway.disabled.len() {
            1 => format!("disabled: {first}"),
            more => format!("{more} items are disabled, the first: {first}"),
        });
    }
    for (name, port) in &status.serial {
        if let Some(reason) = port.reason.as_ref().filter(|_| port.state != "open" && !is_between(port)) {
            reasons.push(format!("serial port {name} is not open: {reason}"));
        }
        reasons.extend(port.overload.iter().map(|why| format!("serial port {name}: {why}")));
        reasons.extend(port.asked.as_ref().and_then(|of| asked(name, &of.state)));
        reasons.extend(port.telnet.iter().chain(&port.illegible).map(|why| illegible(name, why)));
        reasons.extend(port.units.iter().filter_map(|(id, of)| unit(name, id, &of.state, of.one_behind)));
        reasons.extend(doubtful(name, port));
        // Those of a bus are of its units.
        let of_port = port.units.is_empty().then_some((name, port.readings, port.refused));
        let of_units = port.units.iter().map(|(id, unit)| (id, unit.readings, unit.refused));
        let devices = of_port.into_iter().chain(of_units);
        reasons.extend(devices.filter_map(|(id, accepted, refused)| all_refused(id, accepted, refused)));
    }
    reasons.extend(served(&status.served));
    reasons.extend(status.limited.iter().filter_map(over_quota));
    let causes = journal.rejected_causes.of(journal.rejected);
    reasons.extend(rejected(&causes));
    reasons.extend(skipped(causes.skipped));
    if let Some(failing) = &status.session_store.failing {
        reasons.push(format!("DTLS sessions are not stored: {failing}"));
    }
    if status.dtls.is_full() {
        reasons.push("devices are refused: all DTLS sessions are in use; raise coap.max-sessions".to_owned());
    }
    let mqtt = &status.mqtt;
    if mqtt.is_full() {
        let most = mqtt.max_clients;
        reasons.push(format!(
            "MQTT clients are refused: {most} are connected, as many as mqtt.max-clients; raise it, then `tombolo reload`"
        ));
    }
    if mqtt.is_busy() {
        reasons.push(format!("MQTT clients are refused: {VERIFICATIONS}"));
    }
    let clock = &status.clock;
    if !clock.trusted {
        let reason = clock.reason.as_deref().unwrap_or("it waits for time synchronisation");
        let state = if clock.doubted { "in doubt" } else { "not trusted" };
        reasons.push(format!("{CLOCK}{state}: {reason}"));
    }
    reasons.extend(clock.failing.iter().map(|why| format!("the clock's file cannot be written: {why}")));
    reasons
}

/// Of a device that the rules let nothing of pass. It ends with the first reading that they do.
fn all_refused(device: &str, accepted: u64, refused: u64) -> Option<String> {
    let which = match refused {
        1 => format!("the only reading of {device} was refused"),
        _ => format!("all {refused} readings of {device} were refused"),
    };
    (accepted == 0 && refused > 0).then(|| format!("{which}; `tombolo device show {device}` says why"))
}

fn uplink(status: &Status, reasons: &mut Vec<String>) {
    let uplink = &status.upstream;
    let broker = uplink.broker.as_deref().unwrap_or("the broker");
    if !uplink.configured {
        reasons.push("no broker is configured: readings are kept".to_owned());
    } else if !uplink.connected {
        let why = uplink.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        // Where the reason has no way out of its own, the check goes to the broker step by step.
        let then = if why.contains(';') { "" } else { "; `tombolo check` shows where it stops" };
        reasons.push(format!("not connected to {broker}{why}{then}"));
    }
    reasons.extend(uplink.contested.iter().cloned());
    reasons.extend(uplink.stalled.iter().cloned());
    if let Some(seconds) = uplink.oldest_unanswered_s.filter(|seconds| *seconds >= SLOW_ANSWER_S)
        && uplink.stalled.is_empty()
    {
        reasons.push(format!("the broker has not answered a publish for {seconds} s"));
    }
    if uplink.connected && uplink.rate_lowered {
        let limit = uplink.rate_limit.map(|limit| format!(" {limit}")).unwrap_or_default();
        reasons.push(format!("the broker could not follow: at most{limit} publishes a second at present"));
    }
    reasons.extend(held_back(uplink));
    reasons.extend(uplink.left_out.iter().map(|what| format!("left out: {what}")));
    // What is unheard is a note: no reading depends on it.
    reasons.extend(uplink.unsubscribed.iter().cloned());
}

/// What the broker refuses of readings, or why they do not flow, one sentence each. What the owner
/// set aside is not among it.
pub fn refused(uplink: &Uplink, rejected: &RejectedCauses) -> Vec<String> {
    let mut refused = uplink.stalled.clone();
    refused.extend(held_back(uplink));
    refused.extend(self::rejected(rejected));
    refused
}

fn held_back(uplink: &Uplink) -> Option<String> {
    let (s, them) = if uplink.suspects == 1 { ("", "it") } else { ("s", "them") };
    (uplink.stalled.is_empty() && uplink.suspects > 0).then(|| {
        format!(
            "{} record{s} held back, because the broker refused {them} or did not answer; `tombolo queue` shows {them}",
            uplink.suspects
        )
    })
}

/// Records in the rejected store because of what the broker did: one sentence for each cause.
fn rejected(causes: &RejectedCauses) -> Vec<String> {
    let kept = |count: u64, what: &dyn Fn(&str) -> String| {
        let (s, is, it) = if count == 1 { ("", "is", "it") } else { ("s", "are", "them") };
        let what = what(&format!("{count} record{s}"));
        (count > 0).then(|| format!("{what}, which {is} kept; `tombolo queue rejected list` shows {it}"))
    };
    let sentences = [
        kept(causes.refused, &|records| format!("the broker rejected {records}")),
        kept(causes.closed, &|records| {
            format!("the broker closed the connection each time it was sent {records}")
        }),
        kept(causes.silent, &|records| format!("the broker never answered {records}")),
    ];
    sentences.into_iter().flatten().collect()
}

/// Records that the owner set aside.
fn skipped(count: u64) -> Option<String> {
    let (s, was, it) = if count == 1 { ("", "was", "it") } else { ("s", "were", "them") };
    (count > 0).then(|| {
        format!(
            "{count} record{s} {was} set aside by `tombolo queue skip`, not refused; `tombolo queue rejected retry --all` has \
             {it} published"
        )
    })
}

/// Resources of devices that are to be observed or polled and give nothing, or not what is wanted.
fn served(served: &ServedTotals) -> Option<String> {
    let one = served.named.first();
    let example = one.map(|of| {
        let (device, resource) = (&of.device, &of.resource);
        let why = resource.trouble.as_deref().unwrap_or("it has trouble");
        format!("{}.{} of {device}: {why}; `tombolo device show {device}`", resource.table, resource.name)
    });
    match (served.troubled, example) {
        (0, _) => None,
        (1, Some(example)) => Some(example),
        (count, Some(example)) => Some(format!(
            "{count} resources of devices that are observed or polled have trouble, the first: {example}"
        )),
        (count, None) => {
            Some(format!("{count} resources of devices that are observed or polled have trouble"))
        }
    }
}

/// A state in which no reading comes.
fn is_away(state: &str) -> bool {
    ["down", "degraded"].contains(&state)
}

/// The device at a port, which is asked, gives no reading.
pub fn asked(port: &str, state: &str) -> Option<String> {
    is_away(state).then(|| format!("the device at serial port {port}, which is asked, is {state}"))
}

/// A unit of a bus gives no reading, or its answers come one request late (`is_late`).
pub fn unit(port: &str, id: &str, state: &str, is_late: bool) -> Option<String> {
    match state {
        "down" => Some(format!("unit {id} of serial port {port} is down")),
        _ if is_late => Some(format!("unit {id} of serial port {port} is degraded: {LATE}")),
        _ => is_away(state).then(|| format!("unit {id} of serial port {port} is {state}")),
    }
}

/// Of the units of a bus whose reads are all sent more than once, as nothing shows that the answers
/// are their own.
fn doubtful(name: &str, port: &SerialPort) -> Option<String> {
    let is_doubtful = |unit: &&SerialUnit| unit.doubled && !unit.one_behind && !is_away(&unit.state);
    let is_it = |(_, unit): &(&String, &SerialUnit)| is_doubtful(unit);
    let (first, _) = port.units.iter().find(is_it)?;
    let more = match port.units.values().filter(is_doubtful).count() - 1 {
        0 => String::new(),
        more => format!(" and of {more} more"),
    };
    Some(format!(
        "reads of unit {first}{more} of serial port {name} are sent more than once: {DOUBTFUL}; {SETTLED_BY}"
    ))
}

/// What the quota refuses of a device, of which most was refused of late, and what to do.
fn over_quota(limited: &LimitedDevice) -> Option<String> {
    let LimitedDevice { device, role, count, of, .. } = limited;
    (limited.reason == OVER_QUOTA).then(|| {
        let percent = limited.percent();
        format!(
            "the quota refuses {count} of {of} readings of {device} ({percent} %); raise messages, bytes or burst in quota of \
             [role.{role}], or let it send less often"
        )
    })
}

/// Whether the port is closed just between two messages: some converters close the connection
/// behind each, and are connected to again.
pub fn is_between(port: &SerialPort) -> bool {
    let is_read = port.readings > 0 && port.illegible.is_none();
    port.reason.as_deref() == Some("it hung up") && is_read && port.since_s < HUNG_UP_S
}

/// Nothing that comes at a port can be read.
pub fn illegible(port: &str, why: &str) -> String {
    format!("serial port {port}: {why}")
}

/// Readings of a line are lost, because the journal takes none.
pub fn losing(port: &str) -> String {
    format!(
        "serial port {port}: readings are lost, the oldest first: the journal takes none, and as many wait as there is room \
         for in memory; make room on its disk; `tombolo status` counts them"
    )
}

/// The verdict in one line.
pub fn line(reasons: &[String]) -> String {
    match reasons {
        [] => "everything is fine".to_owned(),
        // Where nobody synchronises the clock it is there for ever.
        [one] if one.starts_with(CLOCK) => format!("NOT FINE: {one}; everything else is fine"),
        [one] => format!("NOT FINE: {one}"),
        [first, rest @ ..] => format!("NOT FINE: {first}; and {} more", rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::{Clock, Dtls, Journal, Mqtt, ServedResource, ServedTrouble, SessionStore};

    fn fine() -> Status {
        Status {
            upstream: Uplink { configured: true, connected: true, ..Uplink::default() },
            clock: Clock { trusted: true, ..Clock::default() },
            ..Status::default()
        }
    }

    #[test]
    fn a_connected_gateway_with_nothing_wrong_is_fine() {
        assert_eq!(reasons(&fine()), [""; 0]);
        assert_eq!(line(&[]), "everything is fine");
        // What was lost once does not end, so it cannot be a reason for ever.
        let lost = Status { journal: Journal { lost: 7, records: 9, ..Journal::default() }, ..fine() };
        assert_eq!(reasons(&lost), [""; 0]);
        // The account may only write: no reading is lost by it.
        let unheard = Uplink { unheard: vec!["no echo".into()], ..fine().upstream };
        assert_eq!(reasons(&Status { upstream: unheard, ..fine() }), [""; 0]);
    }

    #[test]
    fn what_the_broker_refuses_of_readings_is_told_apart_from_whether_it_is_reached() {
        let none = RejectedCauses::default();
        assert_eq!(refused(&fine().upstream, &none), [""; 0]);
        let away = Uplink { connected: false, last_error: Some("x".into()), ..fine().upstream };
        assert_eq!(refused(&away, &none), [""; 0]);
        let stalled = Uplink { stalled: vec!["lane".into()], suspects: 3, ..fine().upstream };
        let found = refused(&stalled, &none.of(1));
        assert!(
            found.len() == 2 && found[0] == "lane" && found[1].contains("rejected 1 record,"),
            "{found:?}"
        );
        assert!(
            refused(&Uplink { suspects: 2, ..fine().upstream }, &none)[0].contains("2 records held back")
        );
    }

    #[test]
    fn records_that_are_kept_are_said_by_why_they_are_kept() {
        let of = |rejected, rejected_causes| {
            let journal = Journal { rejected, rejected_causes, ..Journal::default() };
            reasons(&Status { journal, ..fine() })
        };
        let skipped = RejectedCauses { skipped: 1, ..RejectedCauses::default() };
        let found = of(1, skipped);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("1 record was set aside by `tombolo queue skip`, not"), "{found:?}");
        assert_eq!(refused(&fine().upstream, &skipped.of(1)), [""; 0], "the broker refused nothing");
        let found = of(7, RejectedCauses { closed: 1, silent: 2, skipped: 3, ..RejectedCauses::default() });
        assert_eq!(found.len(), 4);
        assert!(found[0].starts_with("the broker rejected 1 record, which is kept;"), "{found:?}");
        assert!(found[1].starts_with("the broker closed the connection each time it was sent 1 record,"));
        assert!(found[2].starts_with("the broker never answered 2 records, which are kept;"), "{found:?}");
        assert!(found[3].starts_with("3 records were set aside by"), "{found:?}");
        // An older daemon does not tell them apart.
        assert!(of(2, RejectedCauses::default())[0].starts_with("the broker rejected 2 records,"));
    }

    #[test]
    fn of_a_clock_alone_it_is_said_that_the_rest_is_fine() {
        let clock = Clock { trusted: false, ..Clock::default() };
        let alone = Status { clock: clock.clone(), ..fine() };
        let text = line(&reasons(&alone));
        assert!(text.starts_with("NOT FINE: the clock is not trusted"), "{text}");
        assert!(text.ends_with("; everything else is fine"), "{text}");
        let both = Status { clock, problems: vec!["x".into()], ..fine() };
        assert_eq!(line(&reasons(&both)), "NOT FINE: x; and 1 more");
    }

    #[test]
    fn each_thing_that_is_wrong_is_a_reason() {
        let open = SerialPort { state: "open".into(), ..SerialPort::default() };
        let unit = |state: &str| SerialUnit { state: state.into(), ..SerialUnit::default() };
        let bus = |state: &str| SerialPort { units: [("u".to_owned(), unit(state))].into(), ..open.clone() };
        let illegible =
            SerialPort { illegible: Some("20 frames in a row gave no reading".into()), ..open.clone() };
        let telnet = SerialPort { telnet: Some("the converter speaks telnet".into()), ..open.clone() };
        let away =
            SerialPort { state: "retrying".into(), reason: Some("it is not there".into()), ..open.clone() };
        let cases: Vec<(Status, &str)> = vec![
            (Status { upstream: Uplink::default(), ..fine() }, "no broker"),
            (
                Status {
                    upstream: Uplink {
                        configured: true,
                        last_error: Some("refused".into()),
                        broker: Some("b:8883".into()),
                        ..Uplink::default()
                    },
                    ..fine()
                },
                "not connected to b:8883: refused",
            ),
            (
                Status {
                    upstream: Uplink { contested: Some("another client".into()), ..fine().upstream },
                    ..fine()
                },
                "another client",
            ),
            (
                Status { upstream: Uplink { stalled: vec!["lane".into()], ..fine().upstream }, ..fine() },
                "lane",
            ),
            (
                Status {
                    upstream: Uplink { rate_lowered: true, rate_limit: Some(9), ..fine().upstream },
                    ..fine()
                },
                "at most 9 publishes",
            ),
            (
                Status { upstream: Uplink { oldest_unanswered_s: Some(10), ..fine().upstream }, ..fine() },
                "not answered a publish for 10 s",
            ),
            (Status { upstream: Uplink { suspects: 2, ..fine().upstream }, ..fine() }, "2 records held"),
            (
                Status {
                    upstream: Uplink { left_out: vec!["the will".into()], ..fine().upstream },
                    ..fine()
                },
                "left out: the will",
            ),
            (
                Status {
                    upstream: Uplink { unsubscribed: vec!["no SUBACK".into()], ..fine().upstream },
                    ..fine()
                },
                "no SUBACK",
            ),
            (
                Status { journal: Journal { failing: Some("full".into()), ..Journal::default() }, ..fine() },
                "refused: full",
            ),
            (
                Status { journal: Journal { rejected: 1, ..Journal::default() }, ..fine() },
                "rejected 1 record,",
            ),
            (Status { problems: vec!["a problem".into()], ..fine() }, "a problem"),
            (Status { serial: [("m".to_owned(), away)].into(), ..fine() }, "m is not open"),
            (Status { serial: [("m".to_owned(), bus("down"))].into(), ..fine() }, "unit u of"),
            (
                Status { serial: [("m".to_owned(), telnet)].into(), ..fine() },
                "m: the converter speaks telnet",
            ),
            (Status { serial: [("m".to_owned(), illegible)].into(), ..fine() }, "m: 20 frames in a row"),
            (
                Status {
                    serial: [("m".to_owned(), SerialPort { refused: 3, ..open.clone() })].into(),
                    ..fine()
                },
                "all 3 readings of m were refused; `tombolo device show m`",
            ),
            (
                Status {
                    serial: [("m".to_owned(), SerialPort { refused: 1, ..open.clone() })].into(),
                    ..fine()
                },
                "the only reading of m was refused; `tombolo device show m`",
            ),
            (
                Status {
                    session_store: SessionStore { failing: Some("x".into()), ..SessionStore::default() },
                    ..fine()
                },
                "sessions are not stored",
            ),
            (
                Status {
                    dtls: Dtls { sessions: 1, max_sessions: 1, refused_full: 1, ..Dtls::default() },
                    ..fine()
                },
                "raise coap.max-sessions",
            ),
            (
                Status {
                    mqtt: Mqtt {
                        clients: 2,
                        max_clients: 2,
                        refused_full_last_s: Some(3_599),
                        ..Mqtt::default()
                    },
                    ..fine()
                },
                "2 are connected, as many as mqtt.max-clients; raise it",
            ),
            (
                Status { mqtt: Mqtt { refused_busy_last_s: Some(59), ..Mqtt::default() }, ..fine() },
                "wait to be verified",
            ),
            (Status { clock: Clock::default(), ..fine() }, "the clock is not trusted"),
            (Status { clock: Clock { doubted: true, ..Clock::default() }, ..fine() }, "in doubt"),
        ];
        for (status, words) in cases {
            let found = reasons(&status);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
        assert_eq!(reasons(&Status { serial: [("m".to_owned(), bus("up"))].into(), ..fine() }), [""; 0]);
        let hung_up =
            SerialPort { state: "retrying".into(), reason: Some("it hung up".into()), ..open.clone() };
        let between = SerialPort { readings: 3, since_s: 1, ..hung_up.clone() };
        let gone = SerialPort { since_s: 5, ..between.clone() };
        let unread = SerialPort { readings: 0, ..between.clone() };
        for (port, count) in [(between, 0), (gone, 1), (unread, 1)] {
            let found = reasons(&Status { serial: [("m".to_owned(), port)].into(), ..fine() });
            assert_eq!(found.len(), count, "{found:?}");
        }
        let mut disabled = fine();
        disabled.gateway.disabled = vec!["fail  a: b".into(), "fail  c".into()];
        assert_eq!(reasons(&disabled), ["2 items are disabled, the first: a: b"]);
    }

    #[test]
    fn a_resource_that_is_observed_or_polled_in_vain_is_a_reason() {
        let resource = ServedResource {
            table: "poll".into(),
            name: "temperature".into(),
            trouble: Some("the device answers 4.04".into()),
            ..ServedResource::default()
        };
        let named = vec![ServedTrouble { device: "valve-3".into(), resource }];
        let served = |troubled, named: &[ServedTrouble]| {
            let served =
                ServedTotals { polled: 9, troubled, named: named.to_vec(), ..ServedTotals::default() };
            reasons(&Status { served, ..fine() })
        };
        assert_eq!(served(0, &[]), [""; 0]);
        let text = "poll.temperature of valve-3: the device answers 4.04; `tombolo device show valve-3`";
        assert_eq!(served(1, &named), [text]);
        assert!(served(3, &named)[0].starts_with("3 resources") && served(3, &named)[0].ends_with(text));
        assert_eq!(served(2, &[]).len(), 1);
    }

    #[test]
    fn a_unit_that_is_named_late_or_in_doubt_is_never_fine_and_said_with_what_to_do() {
        let of = |units: &[(&str, SerialUnit)]| {
            let units = units.iter().map(|(id, unit)| ((*id).to_owned(), unit.clone())).collect();
            let port = SerialPort { state: "open".into(), units, ..SerialPort::default() };
            let clock = Clock { trusted: false, ..Clock::default() };
            let found = reasons(&Status { serial: [("bus".to_owned(), port)].into(), clock, ..fine() });
            assert!(!line(&found).contains("everything else is fine"), "{found:?}");
            found
        };
        let up = || SerialUnit { state: "up".into(), ..SerialUnit::default() };
        let late = SerialUnit { one_behind: true, doubled: true, ..up() };
        // An older daemon calls it up.
        for state in ["degraded", "up"] {
            let found = of(&[("a", SerialUnit { state: state.into(), ..late.clone() })]);
            assert_eq!(found.len(), 2);
            assert!(found[0].starts_with(
                "unit a of serial port bus is degraded: its answers come one request late; restart"
            ));
        }
        let found = of(&[("a", SerialUnit { state: "down".into(), ..late.clone() })]);
        assert_eq!(found[0], "unit a of serial port bus is down");
        let doubled = || SerialUnit { doubled: true, ..up() };
        let found = of(&[("a", up()), ("b", doubled()), ("c", doubled())]);
        assert_eq!(found.len(), 2);
        assert!(
            found[0].starts_with(
                "reads of unit b and of 1 more of serial port bus are sent more than once: nothing"
            ),
            "{found:?}"
        );
        assert!(found[0].contains("one more value in the map"));
    }

    #[test]
    fn a_quota_that_refuses_most_of_a_device_is_said_with_the_share_and_the_key_to_raise() {
        let limited = |reason: &str| LimitedDevice {
            device: "meter-3".into(),
            role: "meter".into(),
            reason: reason.into(),
            count: 85,
            of: 100,
            seconds: 3,
        };
        let status = Status { limited: vec![limited("muted"), limited(OVER_QUOTA)], ..fine() };
        let found = reasons(&status);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("the quota refuses 85 of 100 readings of meter-3 (85 %); raise messages"),
            "{found:?}"
        );
        assert!(found[0].contains("quota of [role.meter]"));
    }

    #[test]
    fn the_line_names_the_first_and_counts_the_others() {
        assert_eq!(line(&["a".into()]), "NOT FINE: a");
        assert_eq!(line(&["a".into(), "b".into(), "c".into()]), "NOT FINE: a; and 2 more");
    }
}
