//! The gateway's own status: retained, online while the connection stands, offline at a stop and in
//! the will, and set right where the broker shows something else.

use std::time::{Duration, Instant};

use crate::northbound::own::{Class, Own};
use crate::northbound::publication::push_json_string;

/// What the gateway says of itself.
#[derive(Debug)]
pub struct GatewayStatus {
    topic: Option<String>,
    gateway: String,
    online: Vec<u8>,
    repair_at: Option<Instant>,
    repaired: u32,
    repaired_at: Option<Instant>,
}

impl GatewayStatus {
    /// On `topic`; `None`: nowhere.
    pub fn new(gateway: &str, topic: Option<String>) -> GatewayStatus {
        GatewayStatus {
            topic,
            gateway: gateway.to_owned(),
            online: payload(gateway, true),
            repair_at: None,
            repaired: 0,
            repaired_at: None,
        }
    }

    /// Where it goes.
    pub fn topic(&self) -> Option<&str> {
        self.topic.as_deref()
    }

    /// What says offline.
    pub fn offline(&self) -> Vec<u8> {
        payload(&self.gateway, false)
    }

    /// A JSON object that has `"online":true`, from the next announcement on.
    pub fn set_online(&mut self, json: Vec<u8>) {
        self.online = json;
    }

    /// Says online. Whether there is anywhere to say it.
    pub fn announce(&self, own: &mut Own) -> bool {
        self.say(own, self.online.clone())
    }

    /// Says offline.
    pub fn say_offline(&self, own: &mut Own) {
        self.say(own, self.offline());
    }

    fn say(&self, own: &mut Own, payload: Vec<u8>) -> bool {
        if let Some(topic) = &self.topic {
            own.set_status(Class::GatewayStatus, topic, payload);
        }
        self.topic.is_some()
    }

    /// Whether what was said is answered, or will not be soon.
    pub fn is_settled(&self, own: &Own) -> bool {
        self.topic.as_ref().is_none_or(|topic| !own.is_unsettled(topic))
    }

    /// Whether the broker has what was said.
    pub fn was_heard(&self, own: &Own) -> bool {
        self.topic.as_ref().is_none_or(|topic| !own.is_waiting(topic))
    }

    /// A connection is being made: nothing was set right on it.
    pub fn handle_connected(&mut self) {
        self.repair_at = None;
        self.repaired = 0;
        self.repaired_at = None;
    }

    /// It is gone.
    pub fn handle_closed(&mut self) {
        self.repair_at = None;
    }

    /// The broker published this on `topic`. Whether it is to be set right at once; who says so
    /// again and again is answered ever more seldom, at [`GatewayStatus::repair_at`].
    pub fn handle_message(&mut self, now: Instant, topic: &str, payload: &[u8]) -> bool {
        if self.topic() != Some(topic) || !shows_offline(payload) {
            return false;
        }
        let wait = Duration::from_secs(1 << self.repaired.min(8));
        let at = self.repaired_at.map_or(now, |last| now.max(last + wait));
        if at > now {
            self.repair_at.get_or_insert(at);
        }
        at <= now
    }

    /// When it is to be set right.
    pub fn repair_at(&self) -> Option<Instant> {
        self.repair_at
    }

    /// Whether it is to be set right now. That is asked once.
    pub fn take_repair(&mut self, now: Instant) -> bool {
        self.repair_at.take_if(|at| now >= *at).is_some()
    }

    /// Sets it right. Whether there is anything to set right.
    pub fn repair(&mut self, now: Instant, own: &mut Own) -> bool {
        let said = self.announce(own);
        if said {
            self.repaired = self.repaired.saturating_add(1);
            self.repaired_at = Some(now);
        }
        said
    }
}

/// The gateway's status when it has nothing else to say; with `online: false`, the will.
pub fn payload(gateway: &str, online: bool) -> Vec<u8> {
    let mut json = format!("{{\"online\":{online},\"gateway\":").into_bytes();
    push_json_string(&mut json, gateway);
    json.push(b'}');
    json
}

/// Whether a status says that the gateway is offline, or says nothing at all.
fn shows_offline(payload: &[u8]) -> bool {
    if payload.is_empty() {
        return true;
    }
    serde_json::from_slice::<serde_json::Value>(payload)
        .is_ok_and(|status| status.get("online") == Some(&serde_json::Value::Bool(false)))
}
