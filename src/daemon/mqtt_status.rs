//! The local MQTT clients in the log and in `status`.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::line_kind::LineKind;
use crate::clock::Moment;
use crate::config::audit::TOKEN_KEY;
use crate::config::certificate::format_key_hash;
use crate::control::snapshot;
use crate::control::tail::{self, Tail};
use crate::gate::Gate;
use crate::southbound::mqtt::settings::PlainAddress;
use crate::southbound::mqtt::{CredentialName, Ended, Event, Intake, Pressure, RefusedConnect, Settings};
use crate::telemetry::limited::Limiter;
use crate::telemetry::text::Escaped;

/// Most devices named of those whose client comes back with a refused publish.
const NAMED_MAX: usize = 3;

/// The clients in numbers.
pub fn count(intake: &Intake, settings: &Settings, now: Instant) -> snapshot::Mqtt {
    let (clients, absent) = intake.counts();
    let Pressure { verifying, busy, full } = intake.pressure();
    let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at).as_secs());
    let tls = settings.listen.iter().map(SocketAddr::to_string);
    snapshot::Mqtt {
        listen: tls.chain(settings.insecure_listen.iter().map(PlainAddress::to_string)).collect(),
        clients: clients as u64,
        max_clients: settings.max_clients as u64,
        absent_sessions: absent as u64,
        queued_messages: intake.queued_count() as u64,
        verifying: verifying as u64,
        refused_busy: busy.0,
        refused_busy_last_s: since(busy.1),
        refused_full: full.0,
        refused_full_last_s: since(full.1),
        last_refused: intake.last_refused_connect().map(|last| refused(now, last)),
        last_failed_handshake: None,
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

/// Clients of MQTT 3.1.1 that a refused publish keeps from sending anything else.
pub fn problems(intake: &Intake, gate: &Gate, now: Instant) -> Vec<String> {
    let again = intake.denied_again(now);
    let mut again: Vec<_> =
        again.filter_map(|(device, times)| Some((gate.device(now, device)?, times))).collect();
    again.sort_by(|(one, _), (other, _)| one.id.cmp(other.id));
    let more = again.len().saturating_sub(NAMED_MAX);
    let named = again.iter().take(NAMED_MAX).map(|(device, times)| {
        let last = device.last_refusal.map(|last| format!("{}: {}", Escaped(last.path().0), last.refusal));
        format!(
            "MQTT: a client of {id} was disconnected {times} times for a publish that is refused, and sends it \
             again before all that it has behind it (last refused: {last}); allow it, let the client use \
             MQTT 5, or set mqtt.mqtt311-deny = \"drop\"",
            id = device.id,
            last = last.as_deref().unwrap_or("-"),
        )
    });
    let rest = (more > 0).then(|| format!("MQTT: so were clients of {more} more devices"));
    named.chain(rest).collect()
}

/// A credential as the field `key` of audit lines has it.
fn key_name(credential: &CredentialName) -> String {
    match credential {
        CredentialName::Certificate => "certificate".to_owned(),
        CredentialName::PublicKey(_) => "public-key".to_owned(),
        CredentialName::Password => "password".to_owned(),
        CredentialName::TokenKey(hash) => format!("{TOKEN_KEY}{}", format_key_hash(hash)),
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
                Ended::Withdrawn(credential) => {
                    if limiter.permit(now, LineKind::Withdrawn) {
                        let key = key_name(credential);
                        log::info!(device, client_id, key = key.as_str(), reason:% = reason, audit = "withdrawn"; "MQTT client disconnected");
                    }
                }
                _ => log::debug!(device, client_id, reason:% = reason; "MQTT client disconnected"),
            }
        }
        Event::SessionEnded { device, client_id, queued, reason } => {
            let device = device.as_ref().map_or("", |device| device.as_str());
            let client_id = client_id.as_str();
            match reason {
                Ended::Revoked(_) => {
                    if limiter.permit(now, LineKind::Withdrawn) {
                        log::warn!(device, client_id, queued, reason:% = reason, audit = "revoked"; "session of an absent MQTT client ended");
                    }
                }
                Ended::Withdrawn(credential) => {
                    if limiter.permit(now, LineKind::Withdrawn) {
                        let key = key_name(credential);
                        log::info!(device, client_id, queued, key = key.as_str(), reason:% = reason, audit = "withdrawn"; "session of an absent MQTT client ended");
                    }
                }
                _ => {
                    log::debug!(device, client_id, queued, reason:% = reason; "session of an absent MQTT client ended")
                }
            }
        }
        Event::FilterRefused { device, client_id, filter } => {
            if limiter.permit(now, LineKind::MqttFilterRefused) {
                let (device, client_id, filter) = (device.as_str(), client_id.as_str(), filter.as_str());
                log::info!(device, client_id, filter, audit = "denied"; "MQTT subscription refused");
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
