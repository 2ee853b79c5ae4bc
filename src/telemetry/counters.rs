//! Counters with names that do not change: `tombolo_<stage>_<thing>_<unit>_total`.
//!
//! The path is one thread, so a counter is a plain `u64` in an array and costs one addition.
//! Numbers that a stage keeps itself (the DTLS engine, the journal, the uplink) are added to the
//! snapshot with [`Snapshot::put`].

use serde_json::{Map, Value};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The counters of [`Counters`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// All of them, in the order of the path.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$variant => $name,)*
                }
            }
        }
    };
}

counters! {
    /// Datagrams received on every socket.
    DatagramsReceived = "tombolo_southbound_received_datagrams_total",
    /// Datagrams sent on every socket.
    DatagramsSent = "tombolo_southbound_sent_datagrams_total",
    /// Datagrams that the system refused to send.
    DatagramsUnsent = "tombolo_southbound_unsent_datagrams_total",
    /// DTLS handshakes completed.
    HandshakesCompleted = "tombolo_dtls_completed_handshakes_total",
    /// DTLS handshakes that failed, for any reason.
    HandshakesFailed = "tombolo_dtls_failed_handshakes_total",
    /// Handshakes with an unknown PSK identity, or with a certificate or key of no device.
    HandshakesUnknownIdentity = "tombolo_dtls_unknown_identity_handshakes_total",
    /// DTLS sessions restored from the previous process.
    SessionsRestored = "tombolo_dtls_restored_sessions_total",
    /// DTLS sessions closed, by either side or by the idle timeout.
    SessionsClosed = "tombolo_dtls_closed_sessions_total",
    /// CoAP requests handed to the gate or to a resource.
    CoapRequests = "tombolo_coap_received_requests_total",
    /// Requests answered again from the stored response.
    CoapDuplicates = "tombolo_coap_duplicate_requests_total",
    /// Datagrams that were not valid CoAP messages.
    CoapMalformed = "tombolo_coap_malformed_datagrams_total",
    /// Responses that took longer than a second and were sent separately.
    CoapSeparate = "tombolo_coap_separate_responses_total",
    /// GETs of devices that ask too often, refused with 4.29.
    CoapReadsRefused = "tombolo_coap_refused_reads_total",
    /// Separate responses that the device never acknowledged.
    CoapUnacknowledged = "tombolo_coap_unacknowledged_responses_total",
    /// TLS handshakes of local MQTT clients that succeeded.
    MqttHandshakesCompleted = "tombolo_mqtt_completed_handshakes_total",
    /// TLS handshakes of local MQTT clients that failed, for any reason.
    MqttHandshakesFailed = "tombolo_mqtt_failed_handshakes_total",
    /// Failed ones: the client does not accept the gateway's certificate.
    MqttHandshakesDistrusted = "tombolo_mqtt_distrusted_handshakes_total",
    /// Failed ones: the client sent another fatal alert.
    MqttHandshakesAlert = "tombolo_mqtt_peer_alert_handshakes_total",
    /// Failed ones: the client's certificate is not accepted.
    MqttHandshakesCertificate = "tombolo_mqtt_certificate_handshakes_total",
    /// Failed ones: no version, cipher suite or group in common.
    MqttHandshakesIncompatible = "tombolo_mqtt_incompatible_handshakes_total",
    /// Failed ones: not over in time.
    MqttHandshakesTimedOut = "tombolo_mqtt_timed_out_handshakes_total",
    /// Connects of local MQTT clients that were accepted.
    MqttConnectsAccepted = "tombolo_mqtt_accepted_connects_total",
    /// Connects that were refused, and connections without one.
    MqttConnectsRefused = "tombolo_mqtt_refused_connects_total",
    /// Connects refused because too many passwords waited to be verified, or one for too long.
    MqttConnectsBusy = "tombolo_mqtt_busy_connects_total",
    /// Connects refused after too many wrong passwords, or wrong signatures of tokens.
    MqttConnectsDamped = "tombolo_mqtt_damped_connects_total",
    /// Connects refused because as many clients as `max-clients` were connected.
    MqttConnectsFull = "tombolo_mqtt_full_connects_total",
    /// Connections of local MQTT clients that were ended because their certificate is not trusted
    /// any more.
    MqttRevoked = "tombolo_mqtt_revoked_connections_total",
    /// Sessions of local MQTT clients without a connection that were ended because what proved the
    /// client is not trusted any more, or not its device's.
    MqttSessionsWithdrawn = "tombolo_mqtt_withdrawn_sessions_total",
    /// Connections closed before they were identified, because there were too many.
    MqttUnidentifiedClosed = "tombolo_mqtt_closed_unidentified_connections_total",
    /// PUBLISH packets of local MQTT clients.
    MqttPublishes = "tombolo_mqtt_received_publishes_total",
    /// Pauses in which nothing was read from a local MQTT client: too many of its publishes were
    /// refused.
    MqttClientsHeld = "tombolo_mqtt_held_clients_total",
    /// Subscriptions that were refused.
    MqttSubscriptionsRefused = "tombolo_mqtt_refused_subscriptions_total",
    /// Messages between local MQTT clients that were delivered, one for each receiver.
    MqttLocalDelivered = "tombolo_mqtt_delivered_local_messages_total",
    /// Of those, messages dropped because the receiver or the bus was too slow.
    MqttLocalDropped = "tombolo_mqtt_dropped_local_messages_total",
    /// Messages on the bus that passed a slow receiver by, whether or not they were for it.
    MqttBusMissed = "tombolo_mqtt_missed_bus_messages_total",
    /// Local messages that a filter of a local-subscribe rule held back from one client.
    MqttLocalFiltered = "tombolo_mqtt_filtered_local_messages_total",
    /// Local messages that expired before they were sent: for one client, or as retained ones.
    MqttLocalExpired = "tombolo_mqtt_expired_local_messages_total",
    /// Messages of QoS 1 or 2 that were dropped because too many waited for one local MQTT client.
    MqttQueuedDropped = "tombolo_mqtt_dropped_queued_messages_total",
    /// Mirrored readings that were not retained for want of room.
    MqttRetainedDropped = "tombolo_mqtt_dropped_retained_messages_total",
    /// Readings that passed the gate.
    ReadingsAdmitted = "tombolo_gate_admitted_readings_total",
    /// Readings that the rules allow and that were not published, by a filter of their rule.
    ReadingsFiltered = "tombolo_gate_filtered_readings_total",
    /// 4.00: invalid path or query.
    RefusedPath = "tombolo_gate_refused_path_readings_total",
    /// 4.04: a reserved path.
    RefusedReserved = "tombolo_gate_refused_reserved_readings_total",
    /// 4.03: a path of a device for which the sender may not speak.
    RefusedOnBehalf = "tombolo_gate_refused_on_behalf_readings_total",
    /// 4.03: no rule matches.
    RefusedNoRule = "tombolo_gate_refused_no_rule_readings_total",
    /// 4.03: a deny rule matches.
    RefusedDenied = "tombolo_gate_refused_denied_readings_total",
    /// 4.05: the rule does not allow the method.
    RefusedMethod = "tombolo_gate_refused_not_allowed_readings_total",
    /// 4.02: the rule wants no query. 4.00: its topic needs an argument that the query does not
    /// have, or has in a form that is not safe in a topic.
    RefusedQuery = "tombolo_gate_refused_query_readings_total",
    /// 4.15: the rule does not take the content format.
    RefusedContentFormat = "tombolo_gate_refused_content_format_readings_total",
    /// 4.13: more bytes than the role or the rule allows.
    RefusedTooLarge = "tombolo_gate_refused_too_large_readings_total",
    /// 4.29: over quota.
    RefusedQuota = "tombolo_gate_refused_over_quota_readings_total",
    /// 4.29: the device is muted, because it ignored 4.29.
    RefusedMuted = "tombolo_gate_refused_muted_readings_total",
    /// 4.03: the mapped topic is not allowed for the device.
    RefusedTopic = "tombolo_gate_refused_topic_readings_total",
    /// 0x97: a message to local MQTT clients that could not be retained.
    RefusedRetained = "tombolo_gate_refused_retained_readings_total",
    /// 4.01 or a closed session: the device is not (or no longer) known.
    RefusedUnknownDevice = "tombolo_gate_refused_unknown_device_readings_total",
    /// Readings on disk and acknowledged.
    ReadingsStored = "tombolo_journal_stored_readings_total",
    /// Payload bytes of the stored readings.
    BytesStored = "tombolo_journal_stored_bytes_total",
    /// 5.03: the lane is full, the disk is failing or the journal is closing.
    ReadingsUnstored = "tombolo_journal_refused_readings_total",
    /// Of those: the records of the device have its share of the lane.
    ReadingsOverShare = "tombolo_journal_refused_over_share_readings_total",
    /// Readings of a `qos = 0` rule passed to the uplink without storing.
    ReadingsUnpromised = "tombolo_northbound_unpromised_readings_total",
    /// Of those, readings dropped because there was no room or no connection.
    ReadingsUnpromisedDropped = "tombolo_northbound_dropped_unpromised_readings_total",
    /// Log lines suppressed by the limit.
    LinesSuppressed = "tombolo_telemetry_suppressed_lines_total",
    /// Requests answered on the control socket.
    ControlRequests = "tombolo_control_answered_requests_total",
}

/// One number for each [`Counter`], all zero at start.
#[derive(Clone, Debug)]
pub struct Counters {
    values: [u64; Counter::ALL.len()],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { values: [0; Counter::ALL.len()] }
    }
}

impl Counters {
    /// Increments a counter.
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds to a counter, which saturates.
    pub fn add(&mut self, counter: Counter, amount: u64) {
        let value = &mut self.values[counter as usize];
        *value = value.saturating_add(amount);
    }

    /// The value of a counter.
    pub fn value(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// All counters by name.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for counter in Counter::ALL {
            snapshot.put(counter.name(), self.value(*counter));
        }
        snapshot
    }
}

/// Counter names and values at one moment, as `status` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(Map<String, Value>);

impl Snapshot {
    /// Adds a number of a stage; for a repeated name the sum is kept.
    pub fn put(&mut self, name: &str, value: u64) {
        debug_assert!(is_stable_name(name), "{name} is not tombolo_<stage>_<thing>_<unit>_total");
        let before = self.0.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.0.insert(name.to_owned(), before.saturating_add(value).into());
    }

    /// As the `counters` object of `status --json`.
    pub fn into_json(self) -> Value {
        Value::Object(self.0)
    }
}

/// Whether a name has the form every counter has: `tombolo_`, at least three more words, `_total`;
/// lower case.
pub fn is_stable_name(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    words.len() >= 5
        && words[0] == "tombolo"
        && words[words.len() - 1] == "total"
        && words.iter().all(|word| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_stable_form_and_is_used_once() {
        let mut seen = std::collections::BTreeSet::new();
        for counter in Counter::ALL {
            assert!(is_stable_name(counter.name()), "{}", counter.name());
            assert!(seen.insert(counter.name()), "{} twice", counter.name());
        }
        assert!(!is_stable_name("tombolo_coap_total"));
        assert!(!is_stable_name("tombolo_coap_a__b_total"));
        assert!(!is_stable_name("Tombolo_coap_a_b_total"));
    }

    #[test]
    fn a_counter_stays_at_its_largest_number() {
        let mut counters = Counters::default();
        counters.add(Counter::BytesStored, u64::MAX);
        counters.count(Counter::BytesStored);
        assert_eq!(counters.value(Counter::BytesStored), u64::MAX);
        assert_eq!(counters.value(Counter::ReadingsStored), 0);
    }

    #[test]
    fn a_snapshot_has_every_name_and_takes_the_stages_own() {
        let mut snapshot = Counters::default().snapshot();
        snapshot.put("tombolo_dtls_forged_datagrams_total", 3);
        snapshot.put("tombolo_dtls_forged_datagrams_total", 4);
        let json = snapshot.into_json();
        assert_eq!(json["tombolo_dtls_forged_datagrams_total"], 7);
        assert_eq!(json.as_object().unwrap().len(), Counter::ALL.len() + 1);
    }
}
