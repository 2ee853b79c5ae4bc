//! `tombolo status`: the state of the running gateway in a few lines.

use serde_json::Value;

use super::args::StatusArguments;
use super::error::CommandError;
use super::output::{align, bytes, plural, plural_of, span};
use super::{Context, colour};
use crate::control::io::client::ANSWER;
use crate::control::protocol::Request;
use crate::control::snapshot::{
    Certificate, DailyBytes, HeldCommand, LimitedDevice, RefusedConnect, RevocationList, RevocationSource,
    SerialAsked, SerialPort, SerialUnit, ServedResource, ServedTrouble, Session, SessionPage, Status, Uplink,
};
use crate::control::verdict::{self, DOUBTFUL, LATE, OVER_QUOTA, SETTLED_BY};
use crate::gate::Reason;
use crate::telemetry::io::hinted;
use crate::telemetry::text::Escaped;

/// Devices named in one row.
const OFF_NAMED: usize = 5;
/// Reasons behind the first that are shown.
const REASONS_SHOWN: usize = 8;

/// Runs the command.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run or answer.
pub fn run(context: &Context, arguments: StatusArguments) -> Result<(), CommandError> {
    if arguments.sessions {
        return sessions(context);
    }
    let value = context.daemon()?.ask(&Request::Status {}, ANSWER)?;
    if context.out.json {
        return Ok(context.out.object(&value)?);
    }
    let status: Status = serde_json::from_value(value)
        .map_err(|error| CommandError::failed(format_args!("the daemon's answer cannot be read: {error}")))?;
    let fine = verdict::reasons(&status).is_empty();
    Ok(context.out.text(&colour::status(&hinted(&text(&status)), fine))?)
}

/// Lists the DTLS sessions.
fn sessions(context: &Context) -> Result<(), CommandError> {
    let value = context.daemon()?.ask(&Request::Sessions { device: None }, ANSWER)?;
    if context.out.json {
        return Ok(context.out.object(&value)?);
    }
    let page: SessionPage = serde_json::from_value(value)
        .map_err(|error| CommandError::failed(format_args!("the daemon's answer cannot be read: {error}")))?;
    let words = ["device", "peer", "for", "idle", "session"];
    let mut rows = vec![words.map(str::to_owned).to_vec()];
    rows.extend(page.sessions.iter().map(|session| {
        let (device, peer) = (session.device.clone(), session.peer.clone());
        vec![device, peer, span(session.since_s), span(session.idle_s), kind(session)]
    }));
    if page.sessions.is_empty() {
        super::note("no device has a DTLS session now");
        return Ok(());
    }
    context.out.table(&rows)?;
    if page.more {
        super::note("there are more; `tombolo device show ID` shows those of one device");
    }
    Ok(())
}

/// The properties of a session in one line.
pub fn kind(session: &Session) -> String {
    let mut text = session.suite.clone();
    if session.connection_id {
        text.push_str(", connection id");
    }
    if !session.extended_master_secret {
        text.push_str(", no extended master secret");
    }
    // Its nonces are the record numbers, so the session cannot be restored.
    if session.suite.contains("CHACHA20") {
        text.push_str(", ends at a restart");
    }
    text
}

/// A certificate in one line.
fn certificate(name: &str, of: &Certificate) -> String {
    let day = |text: &Option<String>| text.as_deref().and_then(|at| at.get(..10)).map(str::to_owned);
    let mut text = format!("{name}: {}", of.state);
    let until = if of.state == "valid" { " until" } else { ", valid until" };
    text.extend(day(&of.not_after).map(|at| format!("{until} {at}")));
    text.extend(of.days_left.filter(|days| *days >= 0).map(|days| format!(" ({days} d)")));
    text.extend(day(&of.due).map(|at| format!(", the next one due {at}")));
    if of.files.is_some() {
        text.push_str(", in files that are not renewed by this gateway");
    }
    text.extend(of.next.as_ref().map(|next| format!("; {next}")));
    text
}

/// The text form.
pub fn text(status: &Status) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    // Judged here, so that the verdict is there also where the daemon is an older one.
    let reasons = verdict::reasons(status);
    row("state", verdict::line(&reasons));
    for reason in reasons.iter().skip(1).take(REASONS_SHOWN) {
        row("", reason.clone());
    }
    if reasons.len() > REASONS_SHOWN + 1 {
        row("", "…; `tombolo check` shows all".to_owned());
    }
    let gateway = &status.gateway;
    row("gateway", format!("{}, tombolo {}, up {}", gateway.id, gateway.version, span(gateway.uptime_s)));
    row("upstream", uplink(&status.upstream));
    for warning in status.upstream.warnings.iter().filter(|warning| !reasons.contains(warning)) {
        row("", warning.clone());
    }
    for (name, of) in &status.certificates {
        row("certificate", certificate(name, of));
    }
    for source in &status.revocation {
        row("revocation", revocation(source));
    }
    let update = &status.update;
    if !update.source.is_empty() && update.source != "none" {
        row("update", super::update::line(update));
    }
    for of in &status.firmware {
        row("firmware", format!("{}: {}", of.class, super::update::firmware_line(of)));
    }
    for (lane, day) in &status.upstream.daily_bytes {
        row("", daily_bytes(lane, day));
    }
    if let Some(limit) = status.upstream.rate_limit.filter(|_| !status.upstream.rate_lowered) {
        row("", super::queue::rate(limit, status.journal.records));
    }
    let journal = &status.journal;
    let mut waiting = format!(
        "{} waiting, {} of {}",
        plural(journal.records, "record"),
        bytes(journal.bytes),
        bytes(journal.max_bytes)
    );
    let causes = journal.rejected_causes.of(journal.rejected);
    if causes.by_broker() > 0 {
        waiting.push_str(&format!("; {} rejected by the broker", causes.by_broker()));
    }
    if causes.skipped > 0 {
        waiting.push_str(&format!("; {} set aside by you", causes.skipped));
    }
    if journal.lost > 0 {
        waiting.push_str(&format!(
            "; {} lost: `tombolo queue verify` lists the segment files and the record ids",
            journal.lost
        ));
    }
    row("journal", waiting);
    if journal.delivered > 0 {
        let delivered = plural(journal.delivered, "record");
        row(
            "",
            format!("{delivered} of them are delivered, but stored after a record that is not decided yet"),
        );
    }
    if journal.unreadable > 0 {
        row("", format!("{} could not be read and are kept", plural(journal.unreadable, "record")));
    }
    if let Some(reason) = &journal.failing {
        row("", format!("takes no readings: {reason}"));
    }
    let devices = &status.devices;
    row("devices", {
        let mut text = format!("{} known, {} online", devices.known, devices.online);
        for (count, word) in
            [(devices.degraded, "degraded"), (devices.offline, "offline"), (devices.not_seen, "not seen")]
        {
            if count > 0 {
                text.push_str(&format!(", {count} {word}"));
            }
        }
        format!("{text}, {}", plural(devices.sessions, "session"))
    });
    if devices.switched_off > 0 {
        let named: Vec<_> = devices.switched_off_ids.iter().take(OFF_NAMED).map(String::as_str).collect();
        let more = match devices.switched_off.saturating_sub(named.len() as u64) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = named.join(", ");
        row("", format!("switched off: {named}{more}; `tombolo device show ID` says by what"));
    }
    if let Some(failing) = &status.session_store.failing {
        row("", format!("DTLS sessions are NOT stored: {failing}; after a restart devices handshake again"));
    }
    let dtls = &status.dtls;
    if dtls.is_full() {
        row(
            "",
            format!(
                "DTLS SESSIONS FULL: {}, all active within the last hour; {} refused; raise coap.max-sessions",
                plural(dtls.sessions, "session"),
                plural(dtls.refused_full, "handshake")
            ),
        );
    }
    let mqtt = &status.mqtt;
    if !mqtt.listen.is_empty() {
        let mut text = format!(
            "{} of at most {} clients connected, {}",
            mqtt.clients,
            mqtt.max_clients,
            mqtt.listen.join(", ")
        );
        if mqtt.absent_sessions > 0 {
            text.push_str(&format!(", {} kept", plural(mqtt.absent_sessions, "session")));
        }
        if mqtt.queued_messages > 0 {
            text.push_str(&format!(", {} waiting", plural(mqtt.queued_messages, "message")));
        }
        if mqtt.verifying > 0 {
            let passwords = plural(mqtt.verifying, "password");
            text.push_str(&format!(", {passwords} waiting to be verified"));
        }
        row("mqtt", text);
        if let Some(last) = &mqtt.last_refused {
            let count = number(&status.counters, "tombolo_mqtt_refused_connects_total").max(1);
            let device = last.device.as_ref().map(|id| format!(" (device {id})")).unwrap_or_default();
            let last = refused_connect(last);
            row("", format!("{} refused, {last}{device}", plural(count, "connect")));
        }
        if let Some(last) = &mqtt.last_failed_handshake {
            let count = number(&status.counters, "tombolo_mqtt_failed_handshakes_total").max(1);
            let failed = plural(count, "TLS handshake");
            let (ago, peer) = (span(last.ago_s), &last.peer);
            row("", format!("{failed} failed, the last {ago} ago from {peer}: {}", last.reason));
        }
    }
    for limited in &status.limited {
        row("limited", limited_device(limited));
    }
    if status.unlisted_limited > 0 {
        row("", format!("and {} more; `tombolo device show ID`", status.unlisted_limited));
    }
    for (name, fleet) in &devices.fleets {
        row("fleet", format!("{name}, {} of at most {} devices seen", fleet.devices, fleet.max_devices));
    }
    for (name, port) in &status.serial {
        row("serial", serial(name, port));
        if let Some(why) = port.asked.as_ref().and_then(serial_asked_fault) {
            row("", why);
        }
        for (id, unit) in &port.units {
            row("", serial_unit(id, unit));
            for line in serial_unit_faults(unit) {
                row("", line);
            }
        }
    }
    let mailbox = &status.mailbox;
    if mailbox.commands > 0 {
        let held = plural(mailbox.commands, "command");
        let devices = plural(mailbox.devices, "device");
        let sent =
            if mailbox.in_flight > 0 { format!(", {} sent", mailbox.in_flight) } else { String::new() };
        row("mailbox", format!("{held} held for {devices}, {}{sent}", bytes(mailbox.bytes)));
    }
    if let Some(held) = &mailbox.most_unanswered {
        let HeldCommand { number, device, method, path, attempts, .. } = held;
        let others = match mailbox.unanswered {
            0 | 1 => String::new(),
            all => format!("; and {} more", all - 1),
        };
        let (device, path) = (Escaped(device), Escaped(path));
        let times = plural(*attempts, "time");
        row(
            "",
            format!(
                "command {number}, {method} {path}, to {device} was sent {times} and not answered{others}"
            ),
        );
    }
    if let Some(failing) = &mailbox.failing {
        row("", format!("commands to devices are refused: {failing}"));
    }
    let served = &status.served;
    if served.observed + served.polled + served.troubled > 0 {
        let trouble = match served.troubled {
            0 => String::new(),
            count => format!(", {count} with trouble"),
        };
        let resources = plural(served.observed, "resource");
        row("served", format!("{resources} of devices observed, {} polled{trouble}", served.polled));
    }
    for trouble in &served.named {
        row("", served_trouble(trouble));
    }
    if served.troubled > served.named.len() as u64 && !served.named.is_empty() {
        let more = served.troubled - served.named.len() as u64;
        row("", format!("and {more} more; `tombolo device show ID`"));
    }
    row("readings", readings(&status.counters));
    let clock = &status.clock;
    row(
        "clock",
        match (&clock.now, &clock.reason) {
            (Some(now), Some(_)) => format!("{now}, {}", super::clock::verdict(clock)),
            // An older daemon gives no reason.
            (Some(now), None) if clock.trusted => now.clone(),
            _ => super::clock::verdict(clock),
        },
    );
    if let Some(ahead) = super::clock::floor_ahead(clock) {
        row("", format!("{ahead}; {}", super::clock::FLOOR_WAY_OUT));
    }
    if let Some(reason) = super::clock::unread(clock) {
        row("", reason.to_owned());
    }
    if let Some(reason) = &clock.failing {
        row("", format!("its file cannot be written: {reason}; after a restart it may be doubted"));
    }
    if let Some(trial) = &status.trial {
        row("trial", trial.note());
    }
    for problem in &status.problems {
        row("problem", problem.clone());
    }
    for item in &gateway.disabled {
        // The row's name replaces the level.
        row("disabled", item.strip_prefix("fail  ").unwrap_or(item).to_owned());
    }
    for stray in &status.strays {
        row(
            "unserved",
            format!(
                "{} {} ({}, last {} ago)",
                stray.source,
                stray.advice,
                plural(stray.count, "time"),
                span(stray.last_s)
            ),
        );
    }
    if status.unlisted_strays > 0 {
        row("", format!("and {} of further source addresses", plural(status.unlisted_strays, "datagram")));
    }
    if !status.upstream.configured {
        row("next", "tombolo init --url mqtts://BROKER".to_owned());
    } else if devices.known == 0 {
        row("next", "tombolo device add ID --role ROLE --psk".to_owned());
    } else if !gateway.disabled.is_empty() || !status.problems.is_empty() || journal.failing.is_some() {
        row("next", "tombolo check".to_owned());
    } else if clock.doubted {
        row("next", "tombolo clock".to_owned());
    } else if journal.rejected > 0 {
        row("next", "tombolo queue rejected list".to_owned());
    }
    align(&rows)
}

/// The bytes of a lane's day in one line.
fn daily_bytes(lane: &str, day: &DailyBytes) -> String {
    let held = if day.used_up { ", USED UP: its records are kept" } else { "" };
    let ends =
        if day.by_clock { "at midnight UTC" } else { "24 h after it began, as the clock is not trusted" };
    format!(
        "lane {lane}: {} of {} of this day{held}; the next one begins in {}, {ends}",
        bytes(day.bytes),
        bytes(day.max_bytes),
        span(day.left_s)
    )
}

/// Why a device is held back, in one line; `check` uses it too.
pub fn limited(limited: &LimitedDevice) -> String {
    let (count, when) = (limited.count, span(limited.seconds));
    match limited.reason.as_str() {
        "muted" => {
            format!("muted because it ignored 4.29: heard again after {when} of silence ({})", times(count))
        }
        OVER_QUOTA => format!(
            "its quota refused {count} of {} readings ({} %), the last {when} ago",
            limited.of,
            limited.percent()
        ),
        "over_share" => {
            let readings = plural(count, "reading");
            format!("its records have its share of the lane: {readings} not stored, the last {when} ago")
        }
        "too_often" => format!(
            "connects too often: {} refused, the last {when} ago",
            plural_of(count, "handshake or connect", "handshakes and connects")
        ),
        other => format!("{} ({})", other.replace('_', " "), times(count)),
    }
}

/// What is wrong with a resource of a device, in one line; `check` uses it too.
pub fn served_trouble(of: &ServedTrouble) -> String {
    let ServedResource { table, name, .. } = &of.resource;
    format!("{}: {table}.{name}: {}", of.device, trouble_of(&of.resource))
}

/// What is wrong with a resource, and when it is asked for again.
pub fn trouble_of(resource: &ServedResource) -> String {
    let again = match resource.again_s {
        Some(seconds) => format!(", asked again in {} if the device is awake", span(seconds)),
        None => String::new(),
    };
    format!("{}{again}", resource.trouble.as_deref().unwrap_or_default())
}

fn times(count: u64) -> String {
    plural(count, "time")
}

fn limited_device(of: &LimitedDevice) -> String {
    format!("{}: {}", of.device, limited(of))
}

/// The uplink in one line; `check` uses it too.
pub fn uplink(uplink: &Uplink) -> String {
    if !uplink.configured {
        return "none configured: readings are kept".to_owned();
    }
    let broker = uplink.broker.as_deref().unwrap_or("broker");
    let since = uplink.since_s.map(|seconds| format!(" for {}", span(seconds))).unwrap_or_default();
    if uplink.connected {
        let protocol =
            uplink.protocol.as_deref().map(|version| format!(", MQTT {version}")).unwrap_or_default();
        // Shown if it is not 5, because the warnings give the reason.
        let protocol = match (&uplink.protocol_why, uplink.protocol_since_s) {
            (Some(_), Some(seconds)) => format!("{protocol} for {}", span(seconds)),
            _ => protocol,
        };
        return format!(
            "connected to {broker}{since}{protocol}, {} of {} in flight",
            uplink.in_flight, uplink.window
        );
    }
    let mut text = format!("not connected to {broker}{since}");
    if let Some(error) = &uplink.last_error {
        text.push_str(": ");
        text.push_str(error);
    }
    if let Some(seconds) = uplink.retry_in_s {
        text.push_str(&format!("; next attempt in {}", span(seconds)));
    }
    text
}

/// A serial port in one line.
fn serial(name: &str, port: &SerialPort) -> String {
    let mut text = format!("{name}: {} for {}", port.state, span(port.since_s));
    if let Some(reason) = &port.reason {
        text.push_str(&format!(": {}: {reason}", port.port));
    }
    text.push_str(&format!(", {}", plural(port.readings, "reading")));
    let bus = !port.units.is_empty();
    for (count, what) in [
        (if bus { 0 } else { port.bad_frames }, "bad frame"),
        (
            port.unreadable,
            if bus { "frame that no request was outstanding for" } else { "frame without a reading" },
        ),
        (port.other_master, "request of another master"),
        (port.dropped_bytes, "byte that belonged to no frame"),
        (port.refused, "refused reading"),
        (port.waiting, "waiting reading"),
        (port.lost_readings, "lost reading"),
    ] {
        if count > 0 {
            // The noun is not always the last word, so the first word gets the plural.
            let (first, rest) = what.split_once(' ').unwrap_or((what, ""));
            match first {
                "frame" | "byte" | "request" => text.push_str(&format!(", {} {rest}", plural(count, first))),
                _ => text.push_str(&format!(", {}", plural(count, what))),
            }
        }
    }
    if let Some(asked) = &port.asked {
        let answers = plural(asked.answers, "answer");
        text.push_str(&format!(", {}: {answers} to {}", asked.state, plural(asked.questions, "question")));
        for (count, what) in [
            (asked.silent, "silent"),
            (asked.damaged, "damaged"),
            (asked.closed, "closed in place of an answer"),
            (asked.late, "late or unasked"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if asked.learned_timeout_ms > 0 {
            text.push_str(&format!(", waited for {} ms", asked.learned_timeout_ms));
        }
    }
    if !port.bad_reasons.is_empty() {
        let reasons: Vec<String> =
            port.bad_reasons.iter().map(|(why, count)| format!("{why} {count}")).collect();
        text.push_str(&format!(", dropped: {}", reasons.join(", ")));
    }
    text
}

/// Why a device that is asked gives no reading, or its last answer was none.
fn serial_asked_fault(asked: &SerialAsked) -> Option<String> {
    let last = asked.last_fault.as_ref().map(|why| format!("  its last answer was no reading: {why}"));
    asked.reason.as_ref().map(|reason| format!("  {reason}")).or(last)
}

/// A unit of a bus in one line.
fn serial_unit(id: &str, unit: &SerialUnit) -> String {
    let mut text = format!(
        "unit {}, {id}: {}, {} to {}",
        unit.address,
        unit.state,
        plural(unit.answers, "answer"),
        plural(unit.requests, "request")
    );
    text.push_str(&format!(", {}", plural(unit.readings, "reading")));
    for (count, what) in [
        (unit.silent, "silent"),
        (unit.damaged, "damaged"),
        (unit.late, "late"),
        (unit.misfits, "of another length or function"),
        (unit.exceptions, "refused by the unit"),
        (unit.skipped, "polls left out"),
        (unit.withheld, "withheld, as nothing shows whose values they are"),
        (unit.refused, "readings refused"),
        (unit.waiting, "readings waiting"),
        (unit.lost_readings, "readings lost"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// What a unit's readings come without, and how it is asked otherwise than configured: one line
/// each, eight at most.
pub fn serial_unit_faults(unit: &SerialUnit) -> Vec<String> {
    const MOST: usize = 8;
    let reason = unit.reason.as_ref().filter(|reason| *reason != LATE);
    let mut lines: Vec<String> = reason.iter().map(|reason| format!("  {reason}")).collect();
    if unit.learned_pause_ms > 0 {
        lines.push(format!(
            "  asked {} ms after {}: silent if asked sooner",
            unit.learned_pause_ms,
            if unit.learned_pause_ms <= 100 { "any answer on the line" } else { "its last answer" }
        ));
    }
    if unit.learned_timeout_ms > 0 {
        lines.push(format!(
            "  waited for {} ms: its answers took longer than timeout",
            unit.learned_timeout_ms
        ));
    }
    let why = if unit.learned_of_damage {
        "longer answers came damaged; tried again within the hour"
    } else {
        "longer reads fail"
    };
    for (most, what) in
        [(unit.learned_max_registers, "register"), (unit.learned_max_bits, "coil or discrete input")]
    {
        if most > 0 {
            lines.push(format!("  asked for at most {}: {why}", plural(most.into(), what)));
        }
    }
    if unit.learned_of_damage && unit.learned_max_registers == 0 && unit.learned_max_bits == 0 {
        lines.push(format!("  asked in shorter reads: {why}"));
    }
    if let Some(other) = unit.answers_as {
        lines.push(format!(
            "  its answers name unit {other}; they are used, as their transaction identifier is right"
        ));
    }
    if unit.one_behind {
        lines.push(format!("  {LATE}; until then each read is sent twice, and commands may not be sent"));
    }
    if unit.doubled && !unit.one_behind {
        lines.push(format!("  each read is sent more than once: {DOUBTFUL}; {SETTLED_BY}"));
    }
    if unit.surplus > 0 {
        lines.push(format!(
            "  {} came from its address without a request: another unit has it, or another master asks it",
            plural(unit.surplus, "frame")
        ));
    }
    if unit.answer_times > 0 {
        lines.push(format!(
            "  its answers come {} times: it, or a converter before it, repeats them; {} not used",
            unit.answer_times,
            plural_of(unit.copies, "copy", "copies")
        ));
    }
    if unit.learned_rest_ms > 0 {
        lines.push(format!(
            "  asked {} ms after any answer on the line: busy if asked sooner",
            unit.learned_rest_ms
        ));
    }
    if let Some(ms) = unit.rest_advised_ms {
        lines.push(format!(
            "  nothing was answered sooner than {ms} ms after an answer on the line: set pause = \"{ms}ms\" under modbus"
        ));
    }
    lines.extend(unit.left_out.iter().take(MOST).map(|(name, why)| format!("  without {name}: {why}")));
    if let Some(more) = unit.left_out.len().checked_sub(MOST).filter(|more| *more > 0) {
        lines.push(format!("  and without {more} more"));
    }
    lines
}

/// The newest refused connect in words; `device show` uses it too.
pub fn refused_connect(last: &RefusedConnect) -> String {
    let username = last.username.as_ref().map(|name| format!(", user name {}", Escaped(name)));
    format!(
        "the last {} ago from {}{}: {}",
        span(last.ago_s),
        last.peer,
        username.unwrap_or_default(),
        Escaped(&last.reason)
    )
}

/// A counter by its stable name.
fn number(counters: &Value, name: &str) -> u64 {
    counters.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// What became of the readings, by the counters' stable names.
fn readings(counters: &Value) -> String {
    let number = |name: &str| number(counters, name);
    let mut text = format!("{} stored", number("tombolo_journal_stored_readings_total"));
    let refused: Vec<String> = counters
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let reason = name.strip_prefix("tombolo_gate_refused_")?.strip_suffix("_readings_total")?;
            // As `device show` and `usage` call it; the counter's name is older.
            let reason = if reason == "path" { Reason::Malformed.as_str() } else { reason };
            let count = value.as_u64().filter(|count| *count > 0)?;
            Some(format!("{count} {}", reason.replace('_', " ")))
        })
        .collect();
    if !refused.is_empty() {
        text.push_str(&format!("; refused: {}", refused.join(", ")));
    }
    let unstored = number("tombolo_journal_refused_readings_total");
    if unstored > 0 {
        text.push_str(&format!("; {unstored} answered 5.03"));
    }
    let failed = number("tombolo_dtls_failed_handshakes_total");
    if failed > 0 {
        text.push_str(&format!("; {} failed", plural(failed, "handshake")));
    }
    text
}

/// The lists of one file or URL: their age, and when the next ones are due.
fn revocation(source: &RevocationSource) -> String {
    let list = |list: &RevocationList| {
        let age = list.age_s.map(|age| format!(", {} old", span(age))).unwrap_or_default();
        let next = match (&list.next_update, list.expired) {
            (Some(next), true) => format!(", expired {next}"),
            (Some(next), false) => format!(", next due {next}"),
            (None, _) => String::new(),
        };
        format!("{}{age}{next}", list.issuer)
    };
    let lists: Vec<String> = source.lists.iter().map(list).collect();
    let lists = if lists.is_empty() { "no list yet".to_owned() } else { lists.join("; ") };
    let why = source.last_error.as_ref().map(|why| format!("; not fetched: {why}")).unwrap_or_default();
    let again = source.retry_in_s.filter(|_| !why.is_empty());
    let again = again.map(|left| format!("; asked again in {}", span(left))).unwrap_or_default();
    format!("{}: {lists}{why}{again}", source.table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::{Clock, Devices, Dtls, Gateway, Journal, Mailbox, SessionStore, Stray};

    #[test]
    fn of_a_device_that_is_asked_why_it_gives_no_reading_is_shown_or_why_its_last_answer_was_none() {
        let asked = |reason: Option<&str>, last: Option<&str>| SerialAsked {
            reason: reason.map(str::to_owned),
            last_fault: last.map(str::to_owned),
            ..SerialAsked::default()
        };
        let last = "its last answer was no reading: incomplete \"W=1\"";
        assert_eq!(serial_asked_fault(&asked(None, None)), None);
        assert_eq!(serial_asked_fault(&asked(None, Some("incomplete \"W=1\""))), Some(format!("  {last}")));
        let both = asked(Some("it does not answer"), Some("incomplete"));
        assert_eq!(serial_asked_fault(&both).as_deref(), Some("  it does not answer"));
        let port = SerialPort { asked: Some(both), ..SerialPort::default() };
        let status = Status { serial: [("scale".to_owned(), port)].into(), ..Status::default() };
        assert!(text(&status).contains("\n            it does not answer\n"), "{}", text(&status));
    }

    #[test]
    fn a_new_gateway_says_what_to_do_next() {
        let status = Status {
            gateway: Gateway {
                id: "tb-ab".into(),
                version: "0.1.0".into(),
                uptime_s: 70,
                ..Gateway::default()
            },
            ..Status::default()
        };
        assert_eq!(
            text(&status),
            "state     NOT FINE: no broker is configured: readings are kept; and 1 more\n\
             \x20         the clock is not trusted: it waits for time synchronisation\n\
             gateway   tb-ab, tombolo 0.1.0, up 1 min 10 s\n\
             upstream  none configured: readings are kept\n\
             journal   0 records waiting, 0 B of 0 B\n\
             devices   0 known, 0 online, 0 sessions\n\
             readings  0 stored\n\
             clock     not trusted: waiting for time synchronisation\n\
             next      tombolo init --url mqtts://BROKER\n"
        );
    }

    #[test]
    fn what_was_found_out_of_a_unit_is_shown_with_why_and_what_to_set() {
        let of = |unit: SerialUnit| serial_unit_faults(&unit);
        let narrow = SerialUnit { learned_max_registers: 10, ..SerialUnit::default() };
        assert_eq!(of(narrow.clone()), ["  asked for at most 10 registers: longer reads fail"]);
        let why = "longer answers came damaged; tried again within the hour";
        assert_eq!(
            of(SerialUnit { learned_of_damage: true, ..narrow }),
            [format!("  asked for at most 10 registers: {why}")]
        );
        // At its gaps it may have been taken apart without a width.
        let apart = SerialUnit { learned_of_damage: true, ..SerialUnit::default() };
        assert_eq!(of(apart), [format!("  asked in shorter reads: {why}")]);
        assert_eq!(
            of(SerialUnit { rest_advised_ms: Some(300), ..SerialUnit::default() }),
            ["  nothing was answered sooner than 300 ms after an answer on the line: set pause = \"300ms\" \
                 under modbus"]
        );
        assert_eq!(
            of(SerialUnit { one_behind: true, surplus: 3, learned_rest_ms: 200, ..SerialUnit::default() }),
            [
                &format!("  {LATE}; until then each read is sent twice, and commands may not be sent"),
                "  3 frames came from its address without a request: another unit has it, or another master asks it",
                "  asked 200 ms after any answer on the line: busy if asked sooner",
            ]
        );
        let twice = format!("  each read is sent more than once: {DOUBTFUL}; {SETTLED_BY}");
        assert_eq!(of(SerialUnit { doubled: true, ..SerialUnit::default() }), [&twice[..]]);
        let behind = of(SerialUnit { doubled: true, one_behind: true, ..SerialUnit::default() });
        assert!(!behind.contains(&twice), "{behind:?}");
        // What it is degraded for is said once.
        let reason = Some(LATE.to_owned());
        assert_eq!(of(SerialUnit { one_behind: true, reason, ..SerialUnit::default() }), behind);
        assert_eq!(
            of(SerialUnit { learned_pause_ms: 100, answer_times: 3, copies: 40, ..SerialUnit::default() }),
            [
                "  asked 100 ms after any answer on the line: silent if asked sooner",
                "  its answers come 3 times: it, or a converter before it, repeats them; 40 copies not used",
            ]
        );
        assert_eq!(
            of(SerialUnit { answers_as: Some(255), ..SerialUnit::default() }),
            ["  its answers name unit 255; they are used, as their transaction identifier is right"]
        );
    }

    #[test]
    fn that_the_table_is_full_is_shown_for_an_hour_after_somebody_was_refused() {
        let shown = |dtls: Dtls| text(&Status { dtls, ..Status::default() }).contains("DTLS SESSIONS FULL");
        let full = Dtls { sessions: 2, max_sessions: 2, refused_full: 1, ..Dtls::default() };
        assert!(shown(Dtls { refused_full_last_s: Some(3_599), ..full.clone() }));
        assert!(!shown(Dtls { refused_full_last_s: Some(3_600), ..full.clone() }));
        assert!(!shown(Dtls { sessions: 1, refused_full_last_s: Some(1), ..full.clone() }));
        assert!(shown(full), "of an older daemon");
    }

    #[test]
    fn passwords_that_wait_and_a_floor_that_is_later_than_the_clock_are_shown() {
        let mqtt = crate::control::snapshot::Mqtt {
            listen: vec!["127.0.0.1:1883".into()],
            verifying: 3,
            ..Default::default()
        };
        let clock = Clock {
            trusted: true,
            reason: Some("synchronised".into()),
            floor: Some("2026-07-01T00:00:00.000Z".into()),
            floor_from: Some("certificate".into()),
            floor_ahead_s: Some(7_200),
            ..Clock::default()
        };
        let shown = text(&Status { mqtt, clock, ..Status::default() });
        assert!(shown.contains("3 passwords waiting to be verified"), "{shown}");
        let ahead = "the floor, 2026-07-01T00:00:00.000Z, proven by a server's certificate, is 2 h later";
        assert!(shown.contains(ahead) && shown.contains("tombolo clock reset"), "{shown}");
    }

    #[test]
    fn refused_connects_devices_not_seen_and_switched_off_ones_are_shown() {
        let last_refused = crate::control::snapshot::RefusedConnect {
            ago_s: 5,
            peer: "a Unix socket".into(),
            device: Some("cam-1".into()),
            reason: "the token expired".into(),
            ..Default::default()
        };
        let mqtt = crate::control::snapshot::Mqtt {
            listen: vec!["127.0.0.1:1883".into()],
            last_refused: Some(last_refused),
            last_failed_handshake: Some(crate::control::snapshot::FailedHandshake {
                ago_s: 7,
                peer: "192.0.2.7".into(),
                reason: "received fatal alert: UnknownCA".into(),
            }),
            ..Default::default()
        };
        let devices = Devices {
            known: 5,
            offline: 2,
            not_seen: 3,
            switched_off: 1,
            switched_off_ids: vec!["door-8".into()],
            ..Devices::default()
        };
        let counters = serde_json::json!({
            "tombolo_mqtt_refused_connects_total": 4, "tombolo_mqtt_failed_handshakes_total": 3
        });
        let shown = text(&Status { mqtt, devices, counters, ..Status::default() });
        for part in [
            "5 known, 0 online, 2 offline, 3 not seen, 0 sessions\n",
            "switched off: door-8; `tombolo device show ID` says by what\n",
            "4 connects refused, the last 5 s ago from a Unix socket: the token expired (device cam-1)\n",
            "3 TLS handshakes failed, the last 7 s ago from 192.0.2.7: received fatal alert: UnknownCA\n",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
    }

    #[test]
    fn a_session_that_cannot_be_resumed_is_marked() {
        let of = |suite: &str| {
            let suite = suite.to_owned();
            kind(&Session { suite, extended_master_secret: true, ..Session::default() })
        };
        assert_eq!(of("TLS_PSK_WITH_AES_128_CCM_8"), "TLS_PSK_WITH_AES_128_CCM_8");
        let suite = "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256";
        assert_eq!(of(suite), format!("{suite}, ends at a restart"));
    }

    #[test]
    fn a_problem_is_shown_and_check_is_next() {
        let status = Status {
            upstream: Uplink { configured: true, ..Uplink::default() },
            devices: Devices { known: 1, ..Devices::default() },
            problems: vec!["state/gateway-id: is damaged; delete it".into()],
            ..Status::default()
        };
        let shown = text(&status);
        let end = "problem   state/gateway-id: is damaged; delete it\nnext      tombolo check\n";
        assert!(shown.ends_with(end), "{shown}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let stray = Stray {
            source: "192.0.2.9".into(),
            mistake: "dtls_on_plain_port".into(),
            advice: "sends DTLS to a plain CoAP port; use a port of coap.listen".into(),
            count: 3,
            since_s: 7_200,
            last_s: 60,
        };
        let status = Status {
            mqtt: Default::default(),
            certificates: Default::default(),
            revocation: Default::default(),
            update: Default::default(),
            ok: false,
            reasons: Vec::new(),
            strays: vec![stray],
            unlisted_strays: 7,
            limited: Vec::new(),
            unlisted_limited: 0,
            limited_counts: Default::default(),
            served: Default::default(),
            gateway: Gateway {
                id: "g".into(),
                version: "0.1.0".into(),
                disabled: vec!["fail  a.toml:3: device.x: has no role".into()],
                ..Gateway::default()
            },
            upstream: Uplink {
                rate_limit: Some(1),
                configured: true,
                broker: Some("b:8883".into()),
                last_error: Some("connection refused".into()),
                since_s: Some(90),
                retry_in_s: Some(4),
                ..Uplink::default()
            },
            journal: Journal {
                records: 1,
                bytes: 4096,
                max_bytes: 1 << 28,
                rejected: 2,
                ..Journal::default()
            },
            devices: Devices { known: 3, online: 1, sessions: 1, half_open: 0, ..Devices::default() },
            dtls: Dtls { sessions: 1, max_sessions: 1, refused_full: 5, ..Dtls::default() },
            session_store: SessionStore {
                persist: true,
                failing: Some("the disk is full".into()),
                ..SessionStore::default()
            },
            serial: [
                (
                    "bus1".to_owned(),
                    SerialPort {
                        state: "open".into(),
                        since_s: 9,
                        readings: 40,
                        bad_frames: 2,
                        unreadable: 1,
                        units: [(
                            "boiler".to_owned(),
                            SerialUnit {
                                address: 3,
                                state: "down".into(),
                                requests: 47,
                                answers: 41,
                                readings: 40,
                                silent: 4,
                                damaged: 2,
                                ..SerialUnit::default()
                            },
                        )]
                        .into(),
                        ..SerialPort::default()
                    },
                ),
                (
                    "meter".to_owned(),
                    SerialPort {
                        state: "retrying".into(),
                        port: "/dev/ttyUSB0".into(),
                        since_s: 3,
                        reason: Some("it is not there".into()),
                        readings: 7,
                        bad_frames: 1,
                        unreadable: 2,
                        ..SerialPort::default()
                    },
                ),
            ]
            .into(),
            problems: Vec::new(),
            trial: None,
            counters: serde_json::json!({
                "tombolo_journal_stored_readings_total": 9,
                "tombolo_gate_refused_no_rule_readings_total": 2,
                "tombolo_gate_refused_over_quota_readings_total": 0,
                "tombolo_dtls_failed_handshakes_total": 1,
            }),
            clock: Clock { trusted: true, now: Some("2026-01-01T00:00:00.000Z".into()), ..Clock::default() },
            mailbox: Mailbox {
                commands: 3,
                in_flight: 1,
                devices: 2,
                bytes: 2048,
                unanswered: 2,
                most_unanswered: Some(HeldCommand {
                    number: 12,
                    device: "lamp-3".into(),
                    method: "PUT".into(),
                    path: "set/x".into(),
                    attempts: 5,
                    ..HeldCommand::default()
                }),
                ..Mailbox::default()
            },
            firmware: Vec::new(),
        };
        assert_eq!(
            text(&status),
            "state     NOT FINE: not connected to b:8883: connection refused; `tombolo check` shows where it stops; and 6 more\n\
             \x20         disabled: a.toml:3: device.x: has no role\n\
             \x20         unit boiler of serial port bus1 is down\n\
             \x20         serial port meter is not open: it is not there\n\
             \x20         the broker rejected 2 records, which are kept; `tombolo queue rejected list` shows them\n\
             \x20         DTLS sessions are not stored: the disk is full\n\
             \x20         devices are refused: all DTLS sessions are in use; raise coap.max-sessions\n\
             gateway   g, tombolo 0.1.0, up 0 s\n\
             upstream  not connected to b:8883 for 1 min 30 s: connection refused; next attempt in 4 s\n\
             \x20         at most 1 publish a second ([upstream] max-publish-rate, max-byte-rate); 1 waiting\n\
             journal   1 record waiting, 4 KiB of 256 MiB; 2 rejected by the broker\n\
             devices   3 known, 1 online, 1 session\n\
             \x20         DTLS sessions are NOT stored: the disk is full; after a restart devices handshake again\n\
             \x20         DTLS SESSIONS FULL: 1 session, all active within the last hour; 5 handshakes refused; raise coap.max-sessions\n\
             serial    bus1: open for 9 s, 40 readings, 1 frame that no request was outstanding for\n\
             \u{20}         unit 3, boiler: down, 41 answers to 47 requests, 40 readings, 4 silent, 2 damaged\n\
             serial    meter: retrying for 3 s: /dev/ttyUSB0: it is not there, 7 readings, 1 bad frame, 2 frames without a reading\n\
             mailbox   3 commands held for 2 devices, 2 KiB, 1 sent\n\
             \u{20}         command 12, PUT set/x, to lamp-3 was sent 5 times and not answered; and 1 more\n\
             readings  9 stored; refused: 2 no rule; 1 handshake failed\n\
             clock     2026-01-01T00:00:00.000Z\n\
             disabled  a.toml:3: device.x: has no role\n\
             unserved  192.0.2.9 sends DTLS to a plain CoAP port; use a port of coap.listen (3 times, last 1 min ago)\n\
             \x20         and 7 datagrams of further source addresses\n\
             next      tombolo check\n"
        );
    }

    #[test]
    fn devices_that_are_held_back_are_named_with_why() {
        let limited = |device: &str, reason: &str, count, seconds| LimitedDevice {
            device: device.into(),
            role: "sensor".into(),
            reason: reason.into(),
            count,
            of: 10,
            seconds,
        };
        let status = Status {
            limited: vec![
                limited("a", OVER_QUOTA, 9, 2),
                limited("a", "muted", 1, 40),
                limited("b", "over_share", 7, 5),
                limited("c", "too_often", 1, 5),
                limited("d", "what_comes_later", 2, 5),
            ],
            unlisted_limited: 3,
            ..Status::default()
        };
        let text = text(&status);
        let lines: Vec<_> =
            text.lines().filter(|line| line.contains("limited") || line.contains("3 more")).collect();
        assert_eq!(
            lines,
            [
                "limited   a: its quota refused 9 of 10 readings (90 %), the last 2 s ago",
                "limited   a: muted because it ignored 4.29: heard again after 40 s of silence (1 time)",
                "limited   b: its records have its share of the lane: 7 readings not stored, the last 5 s ago",
                "limited   c: connects too often: 1 handshake or connect refused, the last 5 s ago",
                "limited   d: what comes later (2 times)",
                "          and 3 more; `tombolo device show ID`",
            ]
        );
    }
}
