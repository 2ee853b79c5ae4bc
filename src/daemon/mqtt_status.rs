//! The local MQTT clients in the log and in `status`.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::line_kind::LineKind;
use crate::clock::Moment;
use crate::config::audit::TOKEN_KEY;
use crate::config::certificate::format_key_hash;
use crate::control::snapshot;
use crate::control::tail::{self, Tail};
use crate::southbound::mqtt::settings::PlainAddress;
use crate::southbound::mqtt::{Ended, Event, Intake, RefusedConnect, Settings};
use crate::telemetry::limited::Limiter;

/// The clients in numbers.
pub fn count(intake: &Intake, settings: &Settings, now: Instant) -> snapshot::Mqtt {
    let (clients, absent) = intake.counts();
    let tls = settings.listen.iter().map(SocketAddr::to_string);
    snapshot::Mqtt {
        listen: tls.chain(settings.insecure_listen.iter().map(PlainAddress::to_string)).collect(),
        clients: clients as u64,
        max_clients: settings.max_clients as u64,
        absent_sessions: absent as u64,
        queued_messages: intake.queued_count() as u64,
        last_refused: intake.last_refused_connect().map(|last| refused(now, last)),
    }
}

/// A peer in the log.
pub fn shown(peer: Option<IpAddr>) -> String {
    peer.map_or_else(|| "a Unix socket".to_owned(), |peer| peer.to_string())
}

/// A refused connect, `ago` seconds after it.
pub fn refused(now: Instant, refused: &RefusedConnect) -> snapshot::RefusedConnect {
    snapshot::RefusedConnect {
        ago_s: now.saturating_duration_since(refused.at).as_secs(),
        peer: shown(refused.address),
        username: refused.username.clone(),
        device: refused.device.as_ref().map(ToString::to_string),
        reason: refused.reason.clone(),
    }
}

/// Says in the log what happened with clients, and shows refused connects in `tail` as often as
/// there.
pub fn say(moment: &Moment, limiter: &mut Limiter<LineKind>, tail: &Tail, event: &Event) {
    let now = moment.now;
    match event {
        Event::Connected { device, client_id, address, version } => {
            let (device, peer, version) = (device.as_str(), shown(*address), version.as_str());
            log::debug!(device, client_id = client_id.as_str(), peer, version; "MQTT client connected");
        }
        Event::Disconnected { device, client_id, reason } => {
            let device = device.as_ref().map_or("", |device| device.as_str());
            let client_id = client_id.as_str();
            match reason {
                Ended::Revoked(_) => {
                    log::warn!(device, client_id, reason:% = reason, audit = "revoked"; "MQTT client disconnected");
                }
                _ => log::debug!(device, client_id, reason:% = reason; "MQTT client disconnected"),
            }
        }
        Event::NewKeyUsed { device, key } => {
            let (device, key) = (device.as_str(), format!("{TOKEN_KEY}{}", format_key_hash(key)));
            log::info!(device, key = key.as_str(), audit = "new-key-used"; "a new key was used for the first time");
        }
        Event::Refused(refused) => {
            let permit = match refused.address {
                Some(address) => limiter.permit_from(now, LineKind::MqttRefused, address),
                None => limiter.permit(now, LineKind::MqttRefused),
            };
            if permit {
                let (peer, reason) = (shown(refused.address), refused.reason.as_str());
                let username = refused.username.as_deref().unwrap_or("-");
                let device = refused.device.as_ref().map_or("-", |device| device.as_str());
                log::warn!(device, peer = peer.as_str(), username, reason, audit = "refused"; "MQTT client refused");
                tail.push_failure(&tail::RefusedConnect {
                    received: moment.wall,
                    boottime_ms: moment.boottime_ms,
                    peer: &peer,
                    username: refused.username.as_deref(),
                    device: refused.device.as_ref().map(|device| device.as_str()),
                    reason,
                });
            }
        }
    }
}
