//! The metrics: every counter and gauge as text for Prometheus (text exposition format 0.0.4).
//! Pure; `docs/metrics.md` lists them, and a test holds that page against [`COUNTERS`] and
//! [`GAUGES`].
//!
//! Names are `tombolo_<stage>_<thing>_<unit>`, and end in `_total` for counters. A number that is
//! not known has no line. The values of labels are names of the configuration, never topics or
//! payloads.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::snapshot::{Queue, RejectedCauses, Status};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The counters by name, with their help. All begin at 0 when the daemon starts.
pub const COUNTERS: &[(&str, &str)] = &[
    ("tombolo_southbound_received_datagrams_total", "Datagrams received on every socket."),
    ("tombolo_southbound_sent_datagrams_total", "Datagrams sent on every socket."),
    ("tombolo_southbound_unsent_datagrams_total", "Datagrams that the system refused to send."),
    ("tombolo_dtls_begun_handshakes_total", "DTLS handshakes begun: hellos with a valid cookie."),
    ("tombolo_dtls_completed_handshakes_total", "DTLS handshakes completed."),
    ("tombolo_dtls_failed_handshakes_total", "DTLS handshakes that failed, for any reason."),
    ("tombolo_dtls_unknown_identity_handshakes_total", "Failed handshakes: the identity is of no device."),
    ("tombolo_dtls_wrong_key_handshakes_total", "Failed handshakes: the device has another key."),
    ("tombolo_dtls_no_shared_cipher_suite_handshakes_total", "Failed handshakes: no cipher suite in common."),
    (
        "tombolo_dtls_no_extended_master_secret_handshakes_total",
        "Failed handshakes: no extended master secret, which coap.require-ems demands.",
    ),
    ("tombolo_dtls_unsupported_version_handshakes_total", "Failed handshakes: not DTLS 1.2."),
    ("tombolo_dtls_peer_alert_handshakes_total", "Failed handshakes: the device sent a fatal alert."),
    ("tombolo_dtls_timed_out_handshakes_total", "Failed handshakes: the device did not answer in time."),
    ("tombolo_dtls_reaped_handshakes_total", "Failed handshakes: dropped for newer ones."),
    (
        "tombolo_dtls_credential_changed_handshakes_total",
        "Failed handshakes: a reload changed the device's key meanwhile.",
    ),
    ("tombolo_dtls_protocol_handshakes_total", "Failed handshakes: a message against the protocol."),
    ("tombolo_dtls_fault_handshakes_total", "Failed handshakes: a defect of the engine."),
    ("tombolo_dtls_certificate_handshakes_total", "Failed handshakes: the certificate is not accepted."),
    ("tombolo_dtls_no_device_handshakes_total", "Failed handshakes: the certificate or key is of no device."),
    (
        "tombolo_dtls_too_often_handshakes_total",
        "Failed handshakes: the device completed too many in a minute.",
    ),
    ("tombolo_dtls_table_full_handshakes_total", "Failed handshakes: all sessions are in use."),
    ("tombolo_dtls_shadow_handshakes_total", "Handshakes begun from the address of a session."),
    ("tombolo_dtls_restarted_handshakes_total", "Handshakes that the device replaced by a new one."),
    ("tombolo_dtls_sent_cookies_total", "Hellos without a valid cookie that were answered with one."),
    ("tombolo_dtls_limited_hellos_total", "Hellos with a valid cookie that a limit left unanswered."),
    ("tombolo_dtls_shed_hellos_total", "Hellos without a valid cookie that a limit dropped."),
    ("tombolo_dtls_limited_work_total", "Hellos dropped because the asymmetric cryptography is limited."),
    ("tombolo_dtls_received_records_total", "DTLS records of application data received."),
    ("tombolo_dtls_sent_records_total", "DTLS records of application data sent."),
    ("tombolo_dtls_refused_records_total", "DTLS records dropped before any cryptography."),
    ("tombolo_dtls_discarded_records_total", "DTLS records that were forged, damaged or replayed."),
    ("tombolo_dtls_restored_sessions_total", "DTLS sessions restored from the previous process."),
    ("tombolo_dtls_closed_sessions_total", "DTLS sessions closed, for any reason."),
    ("tombolo_dtls_evicted_sessions_total", "Sessions closed for newer ones: coap.max-sessions."),
    (
        "tombolo_dtls_displaced_sessions_total",
        "Sessions closed for newer ones of their device: max-sessions.",
    ),
    ("tombolo_dtls_expired_sessions_total", "Sessions closed because a certificate expired."),
    ("tombolo_dtls_too_old_sessions_total", "Sessions closed because of coap.max-session-lifetime."),
    ("tombolo_dtls_farewell_sessions_total", "Sessions of the previous process that were ended by an alert."),
    ("tombolo_dtls_idle_sessions_total", "Sessions closed because of coap.idle-timeout."),
    ("tombolo_dtls_revoked_sessions_total", "Sessions closed because their key was removed or changed."),
    ("tombolo_dtls_forged_sessions_total", "Sessions closed because too many records were forged."),
    ("tombolo_dtls_moved_sessions_total", "Changes of the address of a session."),
    ("tombolo_dtls_faulty_sessions_total", "Sessions closed because of a defect of the engine."),
    ("tombolo_coap_received_requests_total", "CoAP requests handed to the gate or to a resource."),
    ("tombolo_coap_duplicate_requests_total", "CoAP requests answered again from the stored response."),
    ("tombolo_coap_malformed_datagrams_total", "Datagrams that were no valid CoAP message."),
    ("tombolo_coap_refused_reads_total", "GETs refused with 4.29, because the device asks too often."),
    ("tombolo_coap_separate_responses_total", "CoAP responses sent separately, because they took over 1 s."),
    ("tombolo_coap_unacknowledged_responses_total", "Separate responses that were never acknowledged."),
    (
        "tombolo_coap_sent_echoes_total",
        "Responses without DTLS that asked for a proof of the address (Echo).",
    ),
    ("tombolo_coap_returned_echoes_total", "Requests without DTLS that proved their address by Echo."),
    ("tombolo_mqtt_completed_handshakes_total", "TLS handshakes of MQTT clients completed."),
    ("tombolo_mqtt_failed_handshakes_total", "TLS handshakes of MQTT clients that failed, for any reason."),
    (
        "tombolo_mqtt_distrusted_handshakes_total",
        "Failed TLS handshakes: the MQTT client does not accept the gateway's certificate.",
    ),
    (
        "tombolo_mqtt_peer_alert_handshakes_total",
        "Failed TLS handshakes: the MQTT client sent another fatal alert.",
    ),
    (
        "tombolo_mqtt_certificate_handshakes_total",
        "Failed TLS handshakes: the MQTT client's certificate is not accepted.",
    ),
    (
        "tombolo_mqtt_incompatible_handshakes_total",
        "Failed TLS handshakes: no version, cipher suite or group in common.",
    ),
    ("tombolo_mqtt_timed_out_handshakes_total", "Failed TLS handshakes: not over in time."),
    ("tombolo_mqtt_accepted_connects_total", "Connects of local MQTT clients that were accepted."),
    ("tombolo_mqtt_refused_connects_total", "MQTT connects refused, and connections without one."),
    (
        "tombolo_mqtt_busy_connects_total",
        "MQTT connects refused: too many passwords waited to be verified, or one for too long.",
    ),
    (
        "tombolo_mqtt_damped_connects_total",
        "MQTT connects refused after too many wrong passwords, or wrong signatures of tokens.",
    ),
    ("tombolo_mqtt_full_connects_total", "MQTT connects refused: mqtt.max-clients are connected."),
    (
        "tombolo_mqtt_closed_unidentified_connections_total",
        "MQTT connections closed before they were identified, because there were too many.",
    ),
    (
        "tombolo_mqtt_revoked_connections_total",
        "MQTT connections ended because the certificate of the client is not trusted any more.",
    ),
    (
        "tombolo_mqtt_withdrawn_sessions_total",
        "Sessions of absent MQTT clients ended because their credential was revoked, changed or removed.",
    ),
    ("tombolo_mqtt_received_publishes_total", "PUBLISH packets of local MQTT clients."),
    (
        "tombolo_mqtt_held_clients_total",
        "Pauses in which nothing was read from an MQTT client: too many of its publishes were refused.",
    ),
    ("tombolo_mqtt_refused_subscriptions_total", "Subscriptions of MQTT clients that were refused."),
    ("tombolo_mqtt_delivered_local_messages_total", "Local messages delivered, one for each receiver."),
    ("tombolo_mqtt_dropped_local_messages_total", "Local messages dropped: too slow a receiver or bus."),
    (
        "tombolo_mqtt_missed_bus_messages_total",
        "Messages on the bus that passed a slow receiver by, whether or not they were for it.",
    ),
    (
        "tombolo_mqtt_filtered_local_messages_total",
        "Local messages that a filter of a local-subscribe rule held back from one client.",
    ),
    (
        "tombolo_mqtt_expired_local_messages_total",
        "Local messages that expired before they were sent: for one client, or as retained ones.",
    ),
    (
        "tombolo_mqtt_dropped_queued_messages_total",
        "Local messages of QoS 1 or 2 dropped: too many waited for one client.",
    ),
    ("tombolo_mqtt_dropped_retained_messages_total", "Retained local messages not kept: no room."),
    ("tombolo_gate_admitted_readings_total", "Readings that passed rules and quota."),
    ("tombolo_gate_filtered_readings_total", "Readings acknowledged and not published, by a filter."),
    ("tombolo_gate_refused_path_readings_total", "Readings refused with 4.00: invalid path."),
    ("tombolo_gate_refused_reserved_readings_total", "Readings refused with 4.04: a reserved path."),
    (
        "tombolo_gate_refused_on_behalf_readings_total",
        "Readings refused with 4.03: of a device for which the sender may not speak.",
    ),
    ("tombolo_gate_refused_no_rule_readings_total", "Readings refused with 4.03: no rule matches."),
    (
        "tombolo_gate_refused_retained_readings_total",
        "Local messages refused with 0x97: no room to retain them.",
    ),
    ("tombolo_gate_refused_denied_readings_total", "Readings refused with 4.03: a deny rule matches."),
    ("tombolo_gate_refused_not_allowed_readings_total", "Readings refused with 4.05: the method."),
    ("tombolo_gate_refused_content_format_readings_total", "Readings refused with 4.15: their format."),
    ("tombolo_gate_refused_too_large_readings_total", "Readings refused with 4.13: too large."),
    (
        "tombolo_gate_refused_query_readings_total",
        "Readings refused with 4.02 or 4.00: a query that is not wanted, or an argument of it.",
    ),
    ("tombolo_gate_refused_over_quota_readings_total", "Readings refused with 4.29: over quota."),
    ("tombolo_gate_refused_muted_readings_total", "Readings refused with 4.29: the device ignored 4.29."),
    ("tombolo_gate_refused_topic_readings_total", "Readings refused with 4.03: a topic that is not theirs."),
    ("tombolo_gate_refused_unknown_device_readings_total", "Readings refused with 4.01: of no device."),
    ("tombolo_journal_stored_readings_total", "Readings on disk and acknowledged."),
    ("tombolo_journal_stored_bytes_total", "Payload bytes of the stored readings."),
    ("tombolo_journal_refused_readings_total", "Readings refused with 5.03: the journal cannot take them."),
    (
        "tombolo_journal_refused_over_share_readings_total",
        "Of those: the records of the device have its share of the lane.",
    ),
    ("tombolo_northbound_connected_sessions_total", "Connections to the broker that were established."),
    ("tombolo_northbound_published_readings_total", "Readings sent to the broker, repeated ones included."),
    ("tombolo_northbound_acknowledged_readings_total", "Readings that the broker acknowledged."),
    ("tombolo_northbound_expired_readings_total", "Readings that expired before they were delivered."),
    ("tombolo_northbound_rejected_readings_total", "Readings that the broker rejected."),
    ("tombolo_northbound_skipped_readings_total", "Readings that tombolo queue skip set aside."),
    ("tombolo_northbound_unanswered_connections_total", "Connections replaced because of a silent broker."),
    ("tombolo_northbound_lowered_rates_total", "Times that the rate was lowered for the broker."),
    ("tombolo_northbound_unpromised_readings_total", "Readings of a qos = 0 rule passed to the uplink."),
    ("tombolo_northbound_dropped_unpromised_readings_total", "Of those, readings that were dropped."),
    ("tombolo_downlink_taken_commands_total", "Commands for devices that were taken."),
    ("tombolo_downlink_duplicate_messages_total", "Messages with a command that had been taken before."),
    (
        "tombolo_downlink_refused_commands_total",
        "Commands that no rule allows, or that cannot be carried out.",
    ),
    ("tombolo_downlink_full_commands_total", "Commands refused because a mailbox was full."),
    ("tombolo_downlink_unstored_commands_total", "Commands refused because the disk errs."),
    ("tombolo_downlink_sent_commands_total", "Commands sent to devices, repeated ones included."),
    ("tombolo_downlink_answered_commands_total", "Commands that their device answered."),
    ("tombolo_downlink_fetched_values_total", "GETs of devices answered with a message of the broker."),
    ("tombolo_downlink_gateway_commands_total", "Commands to the gateway itself that were taken."),
    ("tombolo_downlink_resource_requests_total", "GETs sent to devices that serve, to observe or to poll."),
    ("tombolo_downlink_resource_values_total", "Values of what is observed and polled that were taken."),
    (
        "tombolo_downlink_stale_notifications_total",
        "Notifications of devices that were not newer than the last.",
    ),
    (
        "tombolo_downlink_resource_pauses_total",
        "Failures to observe or to poll, each of which begins a pause.",
    ),
    ("tombolo_downlink_observe_registrations_total", "Registrations of devices that observe a path."),
    ("tombolo_downlink_unanswered_commands_total", "Commands sent that their device did not answer."),
    ("tombolo_downlink_expired_commands_total", "Commands that expired before they were sent."),
    ("tombolo_downlink_unknown_commands_total", "Commands of which it is not known whether they ran."),
    ("tombolo_downlink_dropped_commands_total", "Commands taken that were superseded, dropped or refused."),
    ("tombolo_downlink_untold_outcomes_total", "Outcomes of commands that were not published."),
    ("tombolo_downlink_refused_outcomes_total", "Outcomes of commands that the broker refused."),
    (
        "tombolo_downlink_cut_outcomes_total",
        "Outcomes of commands that went without some of their payload: too large for the broker.",
    ),
    ("tombolo_downlink_dropped_messages_total", "Messages of QoS 0 with a command dropped for want of room."),
    ("tombolo_serial_sent_writes_total", "Commands written to devices on lines, or perhaps written."),
    ("tombolo_serial_answered_writes_total", "Of those, commands that the device answered."),
    (
        "tombolo_serial_failed_writes_total",
        "Commands to devices on lines not answered, cut off, or not sent in time.",
    ),
    ("tombolo_modbus_sent_writes_total", "Writes sent to Modbus units, or perhaps sent."),
    ("tombolo_modbus_answered_writes_total", "Of those, writes whose value was read back."),
    (
        "tombolo_modbus_failed_writes_total",
        "Writes refused by the unit, not answered, cut off, or not sent in time.",
    ),
    (
        "tombolo_modbus_differing_writes_total",
        "Writes acknowledged, and another value was read back, or none.",
    ),
    ("tombolo_update_begun_checks_total", "Checks for newer firmware that were begun."),
    ("tombolo_update_failed_checks_total", "Of those, checks without an answer."),
    ("tombolo_update_fetched_bytes_total", "Bytes of images that were fetched."),
    ("tombolo_firmware_sent_manifests_total", "Manifests of firmware that were sent to devices."),
    ("tombolo_firmware_sent_blocks_total", "Blocks of firmware that were sent to devices."),
    ("tombolo_firmware_refused_requests_total", "Requests of devices for firmware that were refused."),
    ("tombolo_firmware_unreadable_blocks_total", "Blocks of firmware that the disk did not give."),
    ("tombolo_telemetry_suppressed_lines_total", "Log lines suppressed by the rate limit."),
    ("tombolo_control_answered_requests_total", "Requests answered on the control socket."),
];

/// The gauges by name, with their labels and their help.
pub const GAUGES: &[(&str, &str, &str)] = &[
    ("tombolo_gateway_build_info", "gateway, version", "Always 1: the id of the gateway and its version."),
    ("tombolo_gateway_fine_state", "", "1 if `tombolo status` says that everything is fine."),
    ("tombolo_gateway_open_problems", "", "Reasons why not everything is fine."),
    ("tombolo_gateway_disabled_items", "", "Configuration items disabled because of faults."),
    ("tombolo_gateway_uptime_seconds", "", "Seconds since the daemon was ready."),
    ("tombolo_northbound_connected_state", "", "1 while the broker is connected."),
    ("tombolo_northbound_flight_publishes", "", "Publishes sent and not yet acknowledged."),
    ("tombolo_northbound_window_publishes", "", "Most publishes in flight."),
    ("tombolo_northbound_suspect_records", "", "Records held back because the broker refused them."),
    ("tombolo_northbound_answered_age_seconds", "", "Seconds since the broker acknowledged a reading."),
    ("tombolo_northbound_unanswered_age_seconds", "", "Age of the oldest publish without an answer."),
    ("tombolo_journal_lane_records", "lane", "Records that wait for the broker."),
    ("tombolo_journal_lane_bytes", "lane", "Bytes on disk."),
    ("tombolo_journal_lane_max_bytes", "lane", "Most bytes on disk."),
    ("tombolo_journal_lane_held_records", "lane", "Records held back behind a suspected one."),
    (
        "tombolo_journal_lane_stopped_state",
        "lane",
        "1 while nothing of the lane is published, though connected.",
    ),
    ("tombolo_northbound_lane_day_bytes", "lane", "Bytes of its daily-bytes that a lane has published."),
    ("tombolo_northbound_lane_day_max_bytes", "lane", "Its daily-bytes."),
    ("tombolo_gate_limited_devices", "reason", "Devices that are held back."),
    ("tombolo_journal_rejected_records", "cause", "Records in the rejected store, by why they are kept."),
    ("tombolo_journal_rejected_bytes", "", "Their bytes on disk."),
    ("tombolo_journal_rejected_max_bytes", "", "Most of these bytes."),
    ("tombolo_journal_lost_records", "", "Records lost since the state directory was created."),
    ("tombolo_journal_unreadable_records", "", "Records that cannot be read and are kept."),
    ("tombolo_journal_failing_state", "", "1 while the journal takes no readings."),
    ("tombolo_gate_known_devices", "", "Devices of configuration, registry and fleets."),
    ("tombolo_gate_online_devices", "", "Devices that were active within their offline-after."),
    ("tombolo_gate_fleet_devices", "fleet", "Devices of a fleet that were seen."),
    ("tombolo_gate_fleet_max_devices", "fleet", "Most devices of a fleet."),
    ("tombolo_dtls_open_sessions", "suite", "Established DTLS sessions, by cipher suite."),
    ("tombolo_dtls_max_sessions", "", "Most DTLS sessions."),
    ("tombolo_dtls_half_open_handshakes", "", "DTLS handshakes in progress."),
    ("tombolo_dtls_stored_sessions", "", "DTLS sessions that survive a restart."),
    ("tombolo_dtls_store_failing_state", "", "1 while DTLS sessions cannot be stored."),
    ("tombolo_serial_open_state", "port", "1 while the serial port is open."),
    ("tombolo_serial_waiting_readings", "port", "Readings in memory that wait to be accepted."),
    (
        "tombolo_modbus_answering_state",
        "port, device",
        "1 while the unit of a Modbus bus answers with values.",
    ),
    ("tombolo_firmware_reported_devices", "class", "Devices that reported the version that is offered."),
    ("tombolo_firmware_late_devices", "class", "Devices that fetched it and did not report it in time."),
    ("tombolo_firmware_stopped_state", "class", "1 while it goes to no further device."),
    ("tombolo_clock_trusted_state", "", "1 while the clock is trusted."),
];

/// The counters of serial ports, with their labels and their help.
pub const SERIAL_COUNTERS: &[(&str, &str, &str)] = &[
    ("tombolo_serial_received_bytes_total", "port", "Bytes received."),
    ("tombolo_serial_received_frames_total", "port", "Complete frames; for a Modbus bus, responses."),
    ("tombolo_serial_bad_frames_total", "port", "Incomplete or damaged frames."),
    ("tombolo_serial_dropped_bytes_total", "port", "Bytes that made no good frame."),
    ("tombolo_serial_unreadable_frames_total", "port", "Complete frames that could not be read."),
    (
        "tombolo_serial_other_master_requests_total",
        "port",
        "Requests of another master on the line of a Modbus bus.",
    ),
    ("tombolo_serial_accepted_readings_total", "port", "Readings committed, or passed on with qos = 0."),
    ("tombolo_serial_refused_readings_total", "port", "Readings that rules or quota refused."),
    ("tombolo_serial_lost_readings_total", "port", "Readings lost before they were accepted."),
    ("tombolo_serial_lost_ports_total", "port", "Times that the port failed."),
    ("tombolo_modbus_sent_requests_total", "port, device", "Requests sent to the unit."),
    ("tombolo_modbus_received_answers_total", "port, device", "Responses of the unit."),
    ("tombolo_modbus_exception_answers_total", "port, device", "Exception responses of the unit."),
    ("tombolo_modbus_silent_requests_total", "port, device", "Requests without any response."),
    ("tombolo_modbus_damaged_requests_total", "port, device", "Requests followed by no valid frame."),
    ("tombolo_modbus_skipped_polls_total", "port, device", "Polls that were left out."),
    (
        "tombolo_modbus_withheld_total",
        "port, device",
        "Answers and readings not used, as nothing showed whose values they are.",
    ),
    ("tombolo_modbus_accepted_readings_total", "port, device", "Readings of the unit that were committed."),
];

/// The text of all of them.
pub fn render(status: &Status, queue: &Queue) -> String {
    let mut page = Page::default();
    let counters: BTreeMap<&str, u64> = status
        .counters
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_u64()?)))
        .collect();
    for (name, value) in counters {
        let help = COUNTERS.iter().find(|(known, _)| *known == name).map_or("", |(_, help)| help);
        page.family(name, "counter", help);
        page.sample(name, &[], value as f64);
    }
    for (name, _, help) in GAUGES {
        page.family(name, "gauge", help);
        gauge(name, status, queue, &mut page);
    }
    for (name, _, help) in SERIAL_COUNTERS {
        page.family(name, "counter", help);
        serial_counter(name, status, &mut page);
    }
    page.text
}

fn gauge(name: &str, status: &Status, queue: &Queue, page: &mut Page) {
    let flag = |flag: bool| f64::from(u8::from(flag));
    let uplink = &status.upstream;
    let (gateway, journal, devices, dtls) = (&status.gateway, &status.journal, &status.devices, &status.dtls);
    let one = match name {
        "tombolo_gateway_build_info" => {
            page.sample(name, &[("gateway", &gateway.id), ("version", &gateway.version)], 1.0);
            None
        }
        "tombolo_gateway_fine_state" => Some(flag(status.ok)),
        "tombolo_gateway_open_problems" => Some(status.reasons.len() as f64),
        "tombolo_gateway_disabled_items" => Some(gateway.disabled.len() as f64),
        "tombolo_gateway_uptime_seconds" => Some(gateway.uptime_s as f64),
        "tombolo_northbound_connected_state" => Some(flag(uplink.connected)),
        "tombolo_northbound_flight_publishes" => Some(uplink.in_flight as f64),
        "tombolo_northbound_window_publishes" => Some(uplink.window as f64),
        "tombolo_northbound_suspect_records" => Some(uplink.suspects as f64),
        "tombolo_northbound_answered_age_seconds" => uplink.last_taken_s.map(|seconds| seconds as f64),
        "tombolo_northbound_unanswered_age_seconds" => {
            uplink.oldest_unanswered_s.map(|seconds| seconds as f64)
        }
        "tombolo_journal_rejected_bytes" => Some(queue.rejected.bytes as f64),
        "tombolo_journal_rejected_max_bytes" => Some(queue.rejected.max_bytes as f64),
        "tombolo_journal_lost_records" => Some(journal.lost as f64),
        "tombolo_journal_unreadable_records" => Some(journal.unreadable as f64),
        "tombolo_journal_failing_state" => Some(flag(journal.failing.is_some())),
        "tombolo_gate_known_devices" => Some(devices.known as f64),
        "tombolo_gate_online_devices" => Some(devices.online as f64),
        "tombolo_dtls_max_sessions" => Some(dtls.max_sessions as f64),
        "tombolo_dtls_half_open_handshakes" => Some(dtls.half_open as f64),
        "tombolo_dtls_stored_sessions" => Some(status.session_store.stored as f64),
        "tombolo_dtls_store_failing_state" => Some(flag(status.session_store.failing.is_some())),
        "tombolo_clock_trusted_state" => Some(flag(status.clock.trusted)),
        _ => None,
    };
    if let Some(value) = one {
        return page.sample(name, &[], value);
    }
    for (lane, of) in &queue.lanes {
        let value = match name {
            "tombolo_journal_lane_records" => of.records as f64,
            "tombolo_journal_lane_bytes" => of.bytes as f64,
            "tombolo_journal_lane_max_bytes" => of.max_bytes as f64,
            "tombolo_journal_lane_held_records" => of.held as f64,
            "tombolo_journal_lane_stopped_state" => flag(of.stopped.is_some()),
            _ => continue,
        };
        page.sample(name, &[("lane", lane)], value);
    }
    for (lane, of) in &status.upstream.daily_bytes {
        let value = match name {
            "tombolo_northbound_lane_day_bytes" => of.bytes as f64,
            "tombolo_northbound_lane_day_max_bytes" => of.max_bytes as f64,
            _ => continue,
        };
        page.sample(name, &[("lane", lane)], value);
    }
    if name == "tombolo_journal_rejected_records" {
        let RejectedCauses { refused, closed, silent, skipped } = queue.rejected.causes;
        let causes = [("refused", refused), ("closed", closed), ("silent", silent), ("skipped", skipped)];
        causes.iter().for_each(|(cause, count)| page.sample(name, &[("cause", cause)], *count as f64));
    }
    if name == "tombolo_gate_limited_devices" {
        for (reason, count) in &status.limited_counts {
            page.sample(name, &[("reason", reason)], *count as f64);
        }
    }
    for (fleet, of) in &devices.fleets {
        let value = match name {
            "tombolo_gate_fleet_devices" => of.devices as f64,
            "tombolo_gate_fleet_max_devices" => of.max_devices as f64,
            _ => continue,
        };
        page.sample(name, &[("fleet", fleet)], value);
    }
    for of in &status.firmware {
        let value = match name {
            "tombolo_firmware_reported_devices" => of.reported as f64,
            "tombolo_firmware_late_devices" => of.late as f64,
            "tombolo_firmware_stopped_state" => flag(of.stopped.is_some()),
            _ => continue,
        };
        page.sample(name, &[("class", &of.class)], value);
    }
    if name == "tombolo_dtls_open_sessions" {
        dtls.suites.iter().for_each(|(suite, count)| page.sample(name, &[("suite", suite)], *count as f64));
    }
    for (port, of) in &status.serial {
        match name {
            "tombolo_serial_open_state" => page.sample(name, &[("port", port)], flag(of.state == "open")),
            "tombolo_serial_waiting_readings" => page.sample(name, &[("port", port)], of.waiting as f64),
            "tombolo_modbus_answering_state" => {
                for (device, unit) in &of.units {
                    page.sample(name, &[("port", port), ("device", device)], flag(unit.state == "up"));
                }
            }
            _ => {}
        }
    }
}

fn serial_counter(name: &str, status: &Status, page: &mut Page) {
    for (port, of) in &status.serial {
        let value = match name {
            "tombolo_serial_received_bytes_total" => Some(of.bytes),
            "tombolo_serial_received_frames_total" => Some(of.frames),
            "tombolo_serial_bad_frames_total" => Some(of.bad_frames),
            "tombolo_serial_dropped_bytes_total" => Some(of.dropped_bytes),
            "tombolo_serial_unreadable_frames_total" => Some(of.unreadable),
            "tombolo_serial_other_master_requests_total" => Some(of.other_master),
            "tombolo_serial_accepted_readings_total" => Some(of.readings),
            "tombolo_serial_refused_readings_total" => Some(of.refused),
            "tombolo_serial_lost_readings_total" => Some(of.lost_readings),
            "tombolo_serial_lost_ports_total" => Some(of.lost),
            _ => None,
        };
        if let Some(value) = value {
            page.sample(name, &[("port", port)], value as f64);
        }
        for (device, unit) in &of.units {
            let value = match name {
                "tombolo_modbus_sent_requests_total" => unit.requests,
                "tombolo_modbus_received_answers_total" => unit.answers,
                "tombolo_modbus_exception_answers_total" => unit.exceptions,
                "tombolo_modbus_silent_requests_total" => unit.silent,
                "tombolo_modbus_damaged_requests_total" => unit.damaged,
                "tombolo_modbus_skipped_polls_total" => unit.skipped,
                "tombolo_modbus_withheld_total" => unit.withheld,
                "tombolo_modbus_accepted_readings_total" => unit.readings,
                _ => continue,
            };
            page.sample(name, &[("port", port), ("device", device)], value as f64);
        }
    }
}

/// The text as it grows.
#[derive(Default)]
struct Page {
    text: String,
    /// The header of a family, until it has a sample: one without is left out.
    header: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.header.clear();
        if !help.is_empty() {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(self.header, "# HELP {name} {help}");
        }
        let _ = writeln!(self.header, "# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(&self.header);
        self.header.clear();
        self.text.push_str(name);
        if !labels.is_empty() {
            self.text.push('{');
            for (at, (label, value)) in labels.iter().enumerate() {
                if at > 0 {
                    self.text.push(',');
                }
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(self.text, "{label}=\"{value}\"");
            }
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::{Lane, SerialPort, SerialUnit};
    use crate::telemetry::counters::Counter;

    #[test]
    fn every_counter_of_the_path_has_a_help_and_every_name_occurs_once() {
        let mut names: Vec<&str> = COUNTERS.iter().map(|(name, _)| *name).collect();
        names.extend(GAUGES.iter().map(|(name, ..)| *name));
        names.extend(SERIAL_COUNTERS.iter().map(|(name, ..)| *name));
        let all = names.len();
        for counter in Counter::ALL {
            assert!(names.contains(&counter.name()), "{}", counter.name());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        let stages =
            ["southbound", "dtls", "coap", "gate", "journal", "northbound", "serial", "modbus", "clock"];
        let stages =
            [&stages[..], &["mqtt", "gateway", "downlink", "update", "firmware", "telemetry", "control"]]
                .concat();
        for name in names {
            let words: Vec<&str> = name.split('_').collect();
            assert!(words[0] == "tombolo" && stages.contains(&words[1]) && words.len() >= 4, "{name}");
        }
    }

    #[test]
    fn a_family_is_headed_once_and_one_without_samples_is_left_out() {
        let unit = SerialUnit { requests: 7, state: "up".into(), ..SerialUnit::default() };
        let bus = SerialPort { units: [("boiler".to_owned(), unit)].into(), ..SerialPort::default() };
        let mut status = Status {
            counters: serde_json::json!({ "tombolo_journal_stored_readings_total": 9, "tombolo_new_x_y_total": 1 }),
            serial: [("bus1".to_owned(), bus.clone()), ("bus2".to_owned(), bus)].into(),
            ..Status::default()
        };
        status.gateway.id = "a\"b\\c".into();
        let lane = Lane { records: 3, ..Lane::default() };
        let queue = Queue { lanes: [("high".to_owned(), lane)].into(), ..Queue::default() };
        let text = render(&status, &queue);
        assert!(text.starts_with("# HELP tombolo_journal_stored_readings_total Readings on disk"), "{text}");
        assert!(text.contains("\ntombolo_journal_stored_readings_total 9\n"));
        assert!(text.contains("\n# TYPE tombolo_new_x_y_total counter\ntombolo_new_x_y_total 1\n"));
        assert!(text.contains("{gateway=\"a\\\"b\\\\c\",version=\"\"} 1\n"));
        assert!(text.contains("\ntombolo_journal_lane_records{lane=\"high\"} 3\n"));
        assert!(text.contains("tombolo_modbus_sent_requests_total{port=\"bus1\",device=\"boiler\"} 7\n"));
        assert_eq!(text.matches("# TYPE tombolo_modbus_sent_requests_total").count(), 1);
        assert!(!text.contains("tombolo_gate_fleet_devices"), "{text}");
        assert!(!text.contains("answered_age"));
    }
}
