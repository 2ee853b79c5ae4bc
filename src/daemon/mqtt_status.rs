//! The local MQTT clients in the log and in `status`.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::line_kind::LineKind;
use crate::control::snapshot;
use crate::southbound::mqtt::settings::PlainAddress;
use crate::southbound::mqtt::{Event, Intake, Settings};
use crate::telemetry::limited::Limiter;

/// The clients in numbers.
pub fn count(intake: &Intake, settings: &Settings) -> snapshot::Mqtt {
    let (clients, absent) = intake.counts();
    let tls = settings.listen.iter().map(SocketAddr::to_string);
    snapshot::Mqtt {
        listen: tls.chain(settings.insecure_listen.iter().map(PlainAddress::to_string)).collect(),
        clients: clients as u64,
        max_clients: settings.max_clients as u64,
        absent_sessions: absent as u64,
        queued_messages: intake.queued_count() as u64,
    }
}

/// A peer in the log.
pub fn shown(peer: Option<IpAddr>) -> String {
    peer.map_or_else(|| "a Unix socket".to_owned(), |peer| peer.to_string())
}

/// Says in the log what happened with clients.
pub fn say(now: Instant, limiter: &mut Limiter<LineKind>, event: &Event) {
    match event {
        Event::Connected { device, client_id, address, version } => {
            let (device, peer, version) = (device.as_str(), shown(*address), version.as_str());
            log::debug!(device, client_id = client_id.as_str(), peer, version; "MQTT client connected");
        }
        Event::Disconnected { device, client_id, reason } => {
            let device = device.as_ref().map_or("", |device| device.as_str());
            log::debug!(device, client_id = client_id.as_str(), reason:% = reason; "MQTT client disconnected");
        }
        Event::Refused { address, username, reason } => {
            let permit = match address {
                Some(address) => limiter.permit_from(now, LineKind::MqttRefused, *address),
                None => limiter.permit(now, LineKind::MqttRefused),
            };
            if permit {
                let (peer, username) = (shown(*address), username.as_deref().unwrap_or("-"));
                log::warn!(peer, username, reason; "MQTT client refused");
            }
        }
    }
}
