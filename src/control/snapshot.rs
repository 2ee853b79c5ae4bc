//! What `status`, `queue` and their kin show, typed once for the daemon that fills it in and the
//! command that prints it.
//!
//! Keys are snake_case and only ever added. Every field has a default, so a command reads the
//! answer of an older or newer daemon; numbers are plain (bytes, seconds, milliseconds by suffix),
//! times RFC 3339 in UTC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `tombolo status --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// This gateway.
    pub gateway: Gateway,
    /// The one broker.
    pub upstream: Uplink,
    /// All lanes together.
    pub journal: Journal,
    /// Who speaks to us.
    pub devices: Devices,
    /// By what means.
    pub dtls: Dtls,
    /// DTLS sessions that survive a restart.
    pub session_store: SessionStore,
    /// Source addresses of the last 24 h whose datagrams could not be served, and why; at most 16
    /// of each kind.
    pub strays: Vec<Stray>,
    /// Datagrams of further such sources, since the start.
    pub unlisted_strays: u64,
    /// The serial ports, by name.
    pub serial: BTreeMap<String, SerialPort>,
    /// By stable name, from
    /// [`Snapshot::into_json`](crate::telemetry::counters::Snapshot::into_json).
    pub counters: Value,
    /// What is wrong and needs somebody, one sentence each.
    pub problems: Vec<String>,
    /// The wall clock.
    pub clock: Clock,
}

/// This gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gateway {
    /// Its id.
    pub id: String,
    /// Of the program that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was ready.
    pub uptime_s: u64,
    /// Configuration items switched off because they are wrong, as `check` names them.
    pub disabled: Vec<String>,
}

/// How the uplink is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uplink {
    /// Whether there is an upstream in the configuration at all.
    pub configured: bool,
    /// A CONNACK was received and the connection stands.
    pub connected: bool,
    /// `host:port`.
    pub broker: Option<String>,
    /// `5` or `3.1.1`, once connected.
    pub protocol: Option<String>,
    /// Seconds since it is this one, over reconnects.
    pub protocol_since_s: Option<u64>,
    /// Why it is not 5: what the broker did when 5 was tried.
    pub protocol_why: Option<String>,
    /// Seconds since it is as it is.
    pub since_s: Option<u64>,
    /// Publishes sent and not yet acknowledged.
    pub in_flight: u64,
    /// How many there may be: ours or the broker's Receive Maximum, whichever is less.
    pub window: u64,
    /// Seconds since the broker took a reading last.
    pub last_taken_s: Option<u64>,
    /// Why readings do not flow although the connection stands.
    pub stalled: Vec<String>,
    /// Seconds the oldest of them has waited for its answer.
    pub oldest_unanswered_s: Option<u64>,
    /// Publishes a second at most, if anything limits them.
    pub rate_limit: Option<u64>,
    /// Whether the limit is ours because the broker could not follow.
    pub rate_lowered: bool,
    /// Records suspected: held back and tried again while others flow.
    pub suspects: u64,
    /// Some of them.
    pub suspected: Vec<SuspectedRecord>,
    /// Seconds since a reading was taken, while the broker refuses all.
    pub nothing_taken_s: Option<u64>,
    /// What goes along with a connection and is left out because the broker refuses it, in words.
    pub left_out: Vec<String>,
    /// What ended or prevented the last connection.
    pub last_error: Option<String>,
    /// Seconds until the next attempt.
    pub retry_in_s: Option<u64>,
    /// Milliseconds a publish took to be acknowledged; only in the answer to `uplink-check`.
    pub echo_ms: Option<u64>,
    /// Things worth a warning: a broker that speaks only 3.1.1, a small Receive Maximum, a lane
    /// stopped.
    pub warnings: Vec<String>,
}

/// A record that the broker refused, was silent about or closed over, and that is being judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SuspectedRecord {
    /// Its id.
    pub record: String,
    /// `high` or `normal`.
    pub lane: String,
    /// Where it goes, once a trial has shown it.
    pub topic: Option<String>,
    /// Why: the reason code in words, with its number, or what the broker did instead.
    pub reason: String,
    /// How often it was tried again.
    pub tries: u64,
}

/// All lanes together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    /// Records waiting for the uplink, with those of `delivered`.
    pub records: u64,
    /// Of these, records that the broker has and that stay behind one that is not decided.
    pub delivered: u64,
    /// Bytes on disk they keep.
    pub bytes: u64,
    /// Most bytes it may have on disk.
    pub max_bytes: u64,
    /// Records in `rejected`.
    pub rejected: u64,
    /// Records lost for any reason since the state directory was made.
    pub lost: u64,
    /// Records that could not be read, and are kept: not lost, and not waiting.
    pub unreadable: u64,
    /// Why it takes no readings at present; `None` = it does.
    pub failing: Option<String>,
}

/// Who speaks to us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Devices {
    /// In configuration and registry.
    pub known: u64,
    /// With a sign of life within their `offline-after`.
    pub online: u64,
    /// DTLS sessions that stand.
    pub sessions: u64,
    /// DTLS handshakes under way.
    pub half_open: u64,
    /// Devices that fleets have made, by the fleet's name.
    pub fleets: BTreeMap<String, Fleet>,
}

/// One fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fleet {
    /// Devices it has made.
    pub devices: u64,
    /// The most it may.
    pub max_devices: u64,
}

/// The DTLS sessions, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dtls {
    /// `tombolo` or `dimpl`.
    pub engine: String,
    /// Sessions that stand.
    pub sessions: u64,
    /// Handshakes under way.
    pub half_open: u64,
    /// Of the sessions, how many have each cipher suite, by its IANA name.
    pub suites: BTreeMap<String, u64>,
    /// How many are found by a connection id.
    pub connection_id: u64,
    /// How many have the extended master secret.
    pub extended_master_secret: u64,
    /// `coap.max-sessions`.
    pub max_sessions: u64,
    /// Handshakes refused because that many sessions were active within the last hour.
    pub refused_full: u64,
    /// Seconds since the last of them; `None` = there was none.
    pub refused_full_last_s: Option<u64>,
    /// Handshakes refused because their device had completed too many within one minute.
    pub refused_too_often: u64,
}

impl Dtls {
    /// Whether the table is full and a device was refused in the last hour. An older daemon does
    /// not say when it refused last.
    pub fn is_full(&self) -> bool {
        let is_recent = self.refused_full_last_s.is_none_or(|last| last < 3_600);
        self.refused_full > 0 && is_recent && self.sessions >= self.max_sessions
    }
}

/// A source address whose datagrams could not be served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stray {
    /// The source address; it may be spoofed.
    pub source: String,
    /// `dtls_on_plain_port`, `plain_on_dtls_port`, `not_configured` or `unknown_session`.
    pub mistake: String,
    /// The same as a sentence, with what to do about it.
    pub advice: String,
    /// How often.
    pub count: u64,
    /// Seconds since the first time.
    pub since_s: u64,
    /// Seconds since the last time.
    pub last_s: u64,
}

/// Some DTLS sessions, the longest idle first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionPage {
    /// At most [`SESSIONS_MAX`](super::protocol::SESSIONS_MAX).
    pub sessions: Vec<Session>,
    /// Whether there are more.
    pub more: bool,
}

/// One DTLS session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Whose it is.
    pub device: String,
    /// Where its last record came from: `address:port`.
    pub peer: String,
    /// The cipher suite's IANA name.
    pub suite: String,
    /// Whether it is found by a connection id, wherever its device is.
    pub connection_id: bool,
    /// Whether its keys are bound to the whole handshake.
    pub extended_master_secret: bool,
    /// Seconds since its handshake.
    pub since_s: u64,
    /// Seconds since its last record.
    pub idle_s: u64,
}

/// The store of DTLS sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStore {
    /// Whether sessions are to survive a restart.
    pub persist: bool,
    /// Durably stored.
    pub stored: u64,
    /// Size of the store in bytes.
    pub bytes: u64,
    /// Bytes written to it since the daemon started.
    pub written_bytes: u64,
    /// Taken over at the start.
    pub restored: u64,
    /// Of these, those that went on exactly where they were.
    pub handed_over: u64,
    /// Not taken over at the start: their devices shake hands anew.
    pub refused: u64,
    /// Not resumed at the start, but kept so that their devices can be sent a fatal alert: sessions
    /// with ChaCha20-Poly1305, and sessions with certificates that were stored without their
    /// certification path.
    pub ended: u64,
    /// Why they are not stored at present; `None` = they are.
    pub failing: Option<String>,
}

/// One serial port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SerialPort {
    /// `open` or `retrying`.
    pub state: String,
    /// As it is configured.
    pub port: String,
    /// The device file it was opened under last.
    pub device: Option<String>,
    /// Seconds since it is open, or is not.
    pub since_s: u64,
    /// Why it is not open.
    pub reason: Option<String>,
    /// How often it was lost since the daemon started.
    pub lost: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Frames that were whole.
    pub frames: u64,
    /// Frames that were not.
    pub bad_frames: u64,
    /// Of these, by reason: `too long`, `checksum`, `malformed`, `incomplete`; those that occurred.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bad_reasons: BTreeMap<String, u64>,
    /// Bytes that made no good frame.
    pub dropped_bytes: u64,
    /// Whole frames that were no reading.
    pub unreadable: u64,
    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub readings: u64,
    /// Readings that no rule or quota allowed.
    pub refused: u64,
    /// Readings in memory because the journal does not take them.
    pub waiting: u64,
    /// Readings lost because it did not for too long.
    pub lost_readings: u64,
    /// The units of a Modbus bus, by device id. Of a bus, `frames` counts answers, `bad_frames`
    /// damaged ones, `unreadable` frames from nobody who was asked, `dropped_bytes` noise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, SerialUnit>,
}

/// One unit of a Modbus bus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SerialUnit {
    /// On the bus.
    pub address: u8,
    /// `up`, `degraded` (it answers, but none of its values can be read), `down`, or `unknown`
    /// before it gave a value.
    pub state: String,
    /// Requests sent.
    pub requests: u64,
    /// Answers, exceptions included.
    pub answers: u64,
    /// Answers that were exceptions.
    pub exceptions: u64,
    /// Requests after which nothing came.
    pub silent: u64,
    /// Requests after which only bytes came that are no frame.
    pub damaged: u64,
    /// Answers that came after their time.
    pub late: u64,
    /// Answers of another length than was asked for.
    pub misfits: u64,
    /// Fields that its readings come without, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, String>,
    /// Milliseconds of silence that it was found to want before a request; 0: none.
    pub learned_pause_ms: u64,
    /// Most registers of one request that it was found to answer; 0: as many as configured.
    pub learned_max_registers: u16,
    /// Polls completed.
    pub polls: u64,
    /// Polls left out because the bus was busy or the unit did not answer.
    pub skipped: u64,
    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub readings: u64,
    /// Readings that no rule or quota allowed.
    pub refused: u64,
    /// Readings in memory because the journal does not take them.
    pub waiting: u64,
    /// Readings lost because it did not for too long.
    pub lost_readings: u64,
}

/// The wall clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clock {
    /// Whether it is believed.
    pub trusted: bool,
    /// `trusted`, `doubted`, `impossible` (before a time that has passed) or `unsynchronised`.
    pub state: String,
    /// What it says.
    pub now: Option<String>,
    /// Whether the kernel says it is synchronised.
    pub synchronised: bool,
    /// Whether it is synchronised, by the kernel or by `[clock] trust`, and may be wrong all the
    /// same.
    pub doubted: bool,
    /// What speaks for it or against it, in words.
    pub reason: Option<String>,
    /// What proves that it is right: `certificate` or `owner`; `None` = nothing does, or it is not
    /// trusted.
    pub proven_by: Option<String>,
    /// A time that has certainly passed: certificates are judged at it while the clock is not
    /// trusted.
    pub floor: Option<String>,
    /// The last time that was trusted.
    pub last_trusted: Option<String>,
    /// In doubt: after so much more synchronisation it is believed.
    pub doubt_ends_in_s: Option<u64>,
    /// Why its file cannot be written; `None` = it can.
    pub failing: Option<String>,
}

/// `tombolo queue --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// By name: `high`, `normal`.
    pub lanes: BTreeMap<String, Lane>,
    /// What the broker refused for good.
    pub rejected: Rejected,
    /// Publishes a second at most, if the configuration limits them.
    pub rate_limit: Option<u64>,
}

/// One lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lane {
    /// Waiting, with those of `delivered`.
    pub records: u64,
    /// Of these, records that the broker has and that stay behind one that is not decided.
    pub delivered: u64,
    /// On disk.
    pub bytes: u64,
    /// When the oldest of them was received, if known.
    pub oldest: Option<String>,
    /// Its id.
    pub oldest_record: Option<String>,
    /// The lane's bound.
    pub max_bytes: u64,
    /// Lost to `drop-oldest`, expiry or damage since the state directory was made.
    pub dropped: u64,
    /// Could not be read, and are kept.
    pub unreadable: u64,
    /// Files kept for that, or for records that are damaged.
    pub set_aside: u64,
    /// Why nothing leaves at present although the uplink is there; `None` = it flows.
    pub stopped: Option<String>,
    /// Records held back: suspected, or on a topic that is.
    pub held: u64,
    /// Some of those suspected.
    pub suspected: Vec<SuspectedRecord>,
}

/// The rejected store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejected {
    /// In it.
    pub records: u64,
    /// On disk.
    pub bytes: u64,
    /// Its bound; when it is full the lane of the next record stops.
    pub max_bytes: u64,
}

/// Some rejected records, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RejectedPage {
    /// At most [`LIST_MAX`](super::protocol::LIST_MAX).
    pub records: Vec<RejectedRecord>,
    /// Whether more follow the last of them.
    pub more: bool,
    /// Records in between that cannot be read now; they stay.
    pub unreadable: u64,
}

/// One record the broker refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RejectedRecord {
    /// Its id.
    pub record: String,
    /// Who said it.
    pub device: String,
    /// Where it was to go.
    pub topic: String,
    /// Bytes of payload.
    pub bytes: u64,
    /// When it was received, if known.
    pub received: Option<String>,
    /// Why: the reason code in words, with its number.
    pub reason: String,
}

/// Some rejected records, whole, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportPage {
    /// One object each, as `tombolo queue rejected export` writes it.
    pub records: Vec<Value>,
    /// What to ask for the next page with; `None`: there are no more.
    pub last: Option<u64>,
    /// Records in between that cannot be read now; they stay.
    pub unreadable: u64,
}

/// What the rules say about one reading, as far as `tombolo acl explain` prints it for people; its
/// JSON is the gate's own explanation, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Explained {
    /// Of which device.
    pub device: String,
    /// How.
    pub method: String,
    /// Where.
    pub path: String,
    /// Whether the rules let it pass, quota and size aside.
    pub allowed: bool,
    /// If not: the kind of refusal, as in the counters.
    pub reason: Option<String>,
    /// One sentence.
    pub why: String,
    /// The device's role.
    pub role: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// All rules that match, the one that decided first.
    pub matched: Vec<ExplainedRule>,
    /// What would be published.
    pub publish: Option<ExplainedPublish>,
    /// Largest payloads.
    pub max_payload: Option<ExplainedPayload>,
    /// What is left now.
    pub quota: Option<ExplainedQuota>,
}

/// A rule that matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedRule {
    /// Its name.
    pub rule: String,
    /// Its pattern.
    pub path: String,
    /// Whether it denies.
    pub deny: bool,
}

/// What would be published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedPublish {
    /// Where.
    pub topic: String,
    /// 0 or 1.
    pub qos: u8,
    /// With the retain flag.
    pub retain: bool,
    /// `high` or `normal`.
    pub lane: String,
    /// Seconds.
    pub expires: Option<u32>,
    /// `json`, if it is wrapped.
    pub envelope: Option<String>,
}

/// Largest payloads in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedPayload {
    /// In one datagram.
    pub datagram: u64,
    /// By Block1.
    pub blockwise: u64,
}

/// A device's quota as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedQuota {
    /// Messages that could pass now.
    pub messages_left: u64,
    /// Messages the bucket holds.
    pub messages_burst: u64,
    /// Payload bytes that could pass now.
    pub bytes_left: u64,
    /// Payload bytes the bucket holds.
    pub bytes_burst: u64,
}
