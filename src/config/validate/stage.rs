//! `[coap]`, `[journal]` and `[lane.*]`.

use std::path::PathBuf;
use std::time::Duration;

use super::{Context, built_with};
use crate::config::layer::dotted;
use crate::config::model;
use crate::config::scalar::format_size;
use crate::gate;
use crate::journal::settings::{self as journal, DEVICE_SHARE, LaneSettings, REJECTED_BYTES_MAX, WhenFull};
use crate::message::{Lane, Name};
use crate::proto::dtls::Policy;
use crate::southbound::coap;

/// `[coap]`. `others`: devices have another way, a serial port or a listener for MQTT.
pub(super) fn coap(cx: &mut Context<'_>, table: &model::Coap, others: bool) -> coap::Settings {
    let default = || vec![std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 5684))];
    let listen = table.listen.clone().unwrap_or_else(default);
    let plain = table.insecure_listen.clone().unwrap_or_default();
    let insecure = match (&table.insecure_device, plain.is_empty()) {
        (Some(device), false) => Name::parse(device).ok().map(|device| (plain.clone(), device)),
        (None, true) => None,
        (None, false) => {
            let advice = "set coap.insecure-device to the device that all plain CoAP senders count as";
            cx.fatal(&["coap", "insecure-listen"], "plain CoAP needs a device", advice);
            None
        }
        (Some(_), true) => {
            let advice = "set coap.insecure-listen too, or take both out";
            cx.fatal(&["coap", "insecure-device"], "there is no insecure-listen for this device", advice);
            None
        }
    };
    for (name, list) in [("listen", &listen), ("insecure-listen", &plain)] {
        for (i, address) in list.iter().enumerate() {
            let elsewhere = name == "insecure-listen" && listen.contains(address);
            if address.port() != 0 && (list[..i].contains(address) || elsewhere) {
                cx.fatal(&["coap", name], format!("{address} is listed twice"), "name each address once");
            }
        }
    }
    if let Some(open) = plain.iter().find(|address| !address.ip().is_loopback()) {
        let message =
            format!("every host that can reach {open} can send as the insecure device, without a key");
        cx.warn("coap", &["coap", "insecure-listen"], message, "listen on 127.0.0.1 or [::1], or use coaps");
    }
    if listen.is_empty() && insecure.is_none() && !others {
        let message =
            "CoAP is switched off, and there is no serial port and no listener for MQTT: no device can send";
        let advice = "leave the key out for the default, [\"[::]:5684\"], or name an address";
        cx.warn("coap", &["coap", "listen"], message, advice);
    }
    let count = |n: Option<u32>, default: usize| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
    coap::Settings {
        listen,
        insecure,
        max_sessions: count(table.max_sessions, 10_000),
        max_half_open: count(table.max_half_open, 1_024),
        idle_timeout: table.idle_timeout.map_or(Duration::from_secs(86_400), |span| span.0),
        persist_sessions: persist_sessions(cx, table),
        engine: engine(cx, table),
        policy: policy(table),
        reports: Default::default(),
        certificates: Default::default(),
        certificate_files: None,
    }
}

fn policy(table: &model::Coap) -> Policy {
    let default = Policy::default();
    Policy {
        mtu: table.mtu.map_or(default.mtu, usize::from),
        require_extended_master_secret: table.require_ems.unwrap_or(default.require_extended_master_secret),
        connection_id: table.connection_id.unwrap_or(default.connection_id),
        max_session_lifetime: table.max_session_lifetime.map(|span| span.0),
    }
}

fn persist_sessions(cx: &mut Context<'_>, table: &model::Coap) -> bool {
    if table.persist_sessions == Some(true) && table.engine == Some(model::DtlsEngine::Dimpl) {
        let message =
            "the engine \"dimpl\" cannot store sessions: after a restart its devices must handshake again";
        let advice = "use engine = \"tombolo\", or take the key out";
        cx.warn("coap", &["coap", "persist-sessions"], message, advice);
    }
    table.persist_sessions.unwrap_or(true)
}

fn engine(cx: &mut Context<'_>, table: &model::Coap) -> coap::EngineKind {
    if table.engine != Some(model::DtlsEngine::Dimpl) {
        return coap::EngineKind::Tombolo;
    }
    if !coap::EngineKind::HAS_DIMPL {
        let advice = format!("use \"tombolo\", or {}", built_with("dimpl"));
        cx.fatal(&["coap", "engine"], coap::EngineKind::NO_DIMPL, &advice);
    }
    if table.connection_id == Some(true) {
        let message = "the engine \"dimpl\" does not support connection ids: a device whose address changes must handshake again";
        cx.warn("coap", &["coap", "connection-id"], message, "use engine = \"tombolo\", or take the key out");
    }
    coap::EngineKind::Dimpl
}

/// Checks that the device of plain CoAP exists. Without it the addresses stay open and refuse all
/// requests, so that removing the device takes effect without a restart.
pub(super) fn insecure_device(
    cx: &mut Context<'_>,
    settings: &coap::Settings,
    devices: &[gate::SharedDevice],
) {
    if let Some((_, name)) = &settings.insecure
        && !devices.iter().any(|device| device.id == *name)
    {
        let message = format!("there is no usable device {name}: plain CoAP is refused");
        cx.fail(
            "coap",
            &["coap", "insecure-device"],
            message,
            &format!("add [device.{name}], or take the key out"),
        );
    }
}

/// `[journal]` and `[lane.*]`. Defaults depend on `max-bytes`: three quarters for `normal`, 5/32
/// for `high`, 1/16 for the rejected store, 1/64 for a segment but at most 4 MiB; the rest is for
/// the segments being written.
pub(super) fn journal(
    cx: &mut Context<'_>,
    table: &model::Journal,
    lanes: &model::Lanes,
    directory: PathBuf,
) -> journal::Settings {
    let max_bytes = table.max_bytes.unwrap_or(256 << 20);
    let share = u32::try_from(max_bytes / 64).unwrap_or(u32::MAX).clamp(64 << 10, 4 << 20);
    let segment_bytes = table.segment_bytes.unwrap_or(share & !4095);
    if !segment_bytes.is_multiple_of(4096) {
        let advice = "use a multiple of 4KiB, like \"4MiB\"";
        cx.fatal(&["journal", "segment-bytes"], "the size is not a multiple of 4096 bytes", advice);
    }
    let lane = |table: &model::LaneTable, default| LaneSettings {
        max_bytes: table.max_bytes.unwrap_or(default),
        when_full: match table.when_full {
            Some(model::WhenFull::DropOldest) => WhenFull::DropOldest,
            Some(model::WhenFull::Refuse) | None => WhenFull::Refuse,
        },
        device_share: table.device_share.unwrap_or(DEVICE_SHARE),
    };
    let high = lane(&lanes.high, max_bytes / 32 * 5);
    let normal = lane(&lanes.normal, max_bytes / 4 * 3);
    let rejected_max_bytes = table.rejected_max_bytes.unwrap_or(max_bytes / 16).min(REJECTED_BYTES_MAX);
    // As in the journal: at least four segments for the smallest lane.
    let segment = u64::from(segment_bytes).min(high.max_bytes.min(normal.max_bytes) / 4);
    let parts = [high.max_bytes, normal.max_bytes, rejected_max_bytes, 2 * segment];
    let sum = parts.iter().fold(0u64, |sum, part| sum.saturating_add(*part));
    if sum > max_bytes {
        let message = format!(
            "{} are too few for lane.high ({}), lane.normal ({}), the rejected ({}) and two segments ({})",
            format_size(max_bytes),
            format_size(high.max_bytes),
            format_size(normal.max_bytes),
            format_size(rejected_max_bytes),
            format_size(2 * segment)
        );
        let advice = format!("use at least {}, or smaller lanes", format_size(sum));
        // Reported at a key that is set, because the defaults always fit.
        let keys: [&[&str]; 5] = [
            &["journal", "max-bytes"],
            &["lane", "normal", "max-bytes"],
            &["lane", "high", "max-bytes"],
            &["journal", "rejected-max-bytes"],
            &["journal", "segment-bytes"],
        ];
        let set = keys.iter().find(|key| cx.index.place(&dotted(key.iter().copied())).is_some());
        cx.fatal(set.unwrap_or(&keys[0]), format!("the journal's {message}"), &advice);
    }
    let mut settings = journal::Settings {
        directory,
        max_bytes,
        commit_interval: table.commit_interval.map_or(Duration::from_millis(10), |span| span.0),
        segment_bytes,
        lanes: [normal, normal],
        rejected_max_bytes,
    };
    settings.lanes[Lane::High.index()] = high;
    settings.lanes[Lane::Normal.index()] = normal;
    settings
}
