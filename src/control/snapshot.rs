//! The types of the answers to `status`, `queue` and other requests, for the daemon that fills them
//! in and the command that prints them.
//!
//! Keys are snake_case and are never removed. Every field has a default, so that a command can read
//! the answer of an older or newer daemon. Numbers are in bytes, or have their unit as a suffix
//! (`_s`, `_ms`); times are RFC 3339 in UTC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `tombolo status --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Whether everything is fine.
    pub ok: bool,
    /// Why not, one sentence each, the most urgent first.
    pub reasons: Vec<String>,
    /// This gateway.
    pub gateway: Gateway,
    /// The uplink to the broker.
    pub upstream: Uplink,
    /// All lanes together.
    pub journal: Journal,
    /// The devices.
    pub devices: Devices,
    /// The DTLS sessions, in numbers.
    pub dtls: Dtls,
    /// DTLS sessions that survive a restart.
    pub session_store: SessionStore,
    /// Source addresses of the last 24 h whose datagrams could not be processed, with the cause; at
    /// most 16 per cause.
    pub strays: Vec<Stray>,
    /// Datagrams of further such sources since the start.
    pub unlisted_strays: u64,
    /// The serial ports, by name.
    pub serial: BTreeMap<String, SerialPort>,
    /// Devices that are held back, by their ids; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limited: Vec<LimitedDevice>,
    /// Further ones.
    pub unlisted_limited: u64,
    /// All of them, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limited_counts: BTreeMap<String, u64>,
    /// The local MQTT clients, in numbers.
    pub mqtt: Mqtt,
    /// The counters by stable name, from
    /// [`Snapshot::into_json`](crate::telemetry::counters::Snapshot::into_json).
    pub counters: Value,
    /// Problems that need attention, one sentence each.
    pub problems: Vec<String>,
    /// The wall clock.
    pub clock: Clock,
    /// The configuration file that is on trial; `None` = none is.
    pub trial: Option<ConfigTrial>,
    /// The certificates that the gateway renews by itself, by name.
    pub certificates: BTreeMap<String, Certificate>,
    /// The revocation lists: one entry a file or URL.
    pub revocation: Vec<RevocationSource>,
    /// Newer firmware of this gateway.
    pub update: Update,
    /// Commands held for devices.
    pub mailbox: Mailbox,
    /// What is observed and polled of devices.
    pub served: ServedTotals,
    /// Firmware for sensors: one entry a class.
    pub firmware: Vec<FirmwareClass>,
}

/// Firmware for sensors; `tombolo update devices --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirmwarePage {
    /// The classes.
    pub classes: Vec<FirmwareClass>,
    /// Devices of roles with firmware, by id.
    pub devices: Vec<FirmwareDevice>,
    /// Whether there are more.
    pub more: bool,
}

/// The firmware of a class of sensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirmwareClass {
    /// Its name.
    pub class: String,
    /// The version that is offered; `None` = none.
    pub version: Option<String>,
    /// Where its image is.
    pub path: Option<String>,
    /// Bytes of it.
    pub bytes: Option<u64>,
    /// The version before, which is kept.
    pub previous: Option<String>,
    /// The share of the devices whose turn it is, in percent.
    pub share_percent: Option<f64>,
    /// Why the version goes to no further device.
    pub stopped: Option<String>,
    /// The version that is fetched.
    pub coming: Option<String>,
    /// How much of it is here, in percent.
    pub coming_percent: Option<u8>,
    /// Why it does not come, or a newer one is passed over, one sentence.
    pub reason: Option<String>,
    /// Devices that were sent the manifest, and no block.
    pub offered: u64,
    /// Devices that were sent a block, and not the last one.
    pub fetching: u64,
    /// Devices that were sent the last block, and have time to report.
    pub fetched: u64,
    /// Devices that reported the version.
    pub reported: u64,
    /// Devices that did not report it in time.
    pub late: u64,
}

/// How far a device is with its firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirmwareDevice {
    /// Its id.
    pub device: String,
    /// The class of its role.
    pub class: String,
    /// `waiting`, `offered`, `fetching`, `fetched`, `reported` or `late`.
    pub state: String,
    /// How far into the image it was sent blocks.
    pub percent: Option<u8>,
    /// The version that it reported last.
    pub reported: Option<String>,
    /// Why it is not sent the version that goes out: the one that it must run before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Commands held for devices, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mailbox {
    /// Commands held.
    pub commands: u64,
    /// Of these, sent and not answered yet.
    pub in_flight: u64,
    /// Devices with any.
    pub devices: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Most bytes of all devices together.
    pub max_bytes: u64,
    /// The age of the oldest, if it is known.
    pub oldest_s: Option<u64>,
    /// The size of the file.
    pub file_bytes: u64,
    /// Why commands cannot be stored at present.
    pub failing: Option<String>,
    /// Commands that were sent, not answered, and are sent again.
    pub unanswered: u64,
    /// The one of them that was sent most often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_unanswered: Option<HeldCommand>,
}

/// A command that is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldCommand {
    /// Its number.
    pub number: u64,
    /// The device it is for.
    pub device: String,
    /// A CoAP method.
    pub method: String,
    /// The path at the device.
    pub path: String,
    /// Bytes of payload.
    pub bytes: u64,
    /// The content format of the payload.
    pub content_format: Option<u16>,
    /// `taking`, `waiting`, `sending`, `sent` or `answered` (its outcome waits to be published).
    pub state: String,
    /// How often it was sent.
    pub attempts: u64,
    /// Its age, if it is known.
    pub age_s: Option<u64>,
    /// Its age when it expires.
    pub expires_s: u64,
    /// Where its outcome is published.
    pub reply_topic: Option<String>,
    /// Its outcome, if it has one: a CoAP code or a word.
    pub status: Option<String>,
    /// The payload, base64; only with `mailbox-show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// Some of the commands that are held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MailboxPage {
    /// Oldest first.
    pub commands: Vec<HeldCommand>,
    /// There are more after these.
    pub more: bool,
}

/// What became of a command that was sent by `tombolo send`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sent {
    /// Its number.
    pub number: u64,
    /// Its outcome: a CoAP code or a word; `None`: there is none yet, and it stays in the mailbox.
    pub status: Option<String>,
    /// The device answered with success.
    pub success: bool,
    /// The content format of the answer.
    pub content_format: Option<u16>,
    /// The answer, if it is text.
    pub text: Option<String>,
    /// The answer, base64, if it is not.
    pub base64: Option<String>,
    /// The answer is not whole.
    pub partial: bool,
    /// How far it has come, without an outcome.
    pub state: Option<String>,
}

/// Whether the daemon works, in few bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The version of the running program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The journal is open, and its threads are alive.
    pub journal: bool,
    /// Listeners that are up.
    pub listeners: u64,
    /// There is a broker to connect to.
    pub configured: bool,
    /// The broker accepted the connection.
    pub connected: bool,
    /// Seconds since `connected` changed last.
    pub since_s: Option<u64>,
    /// Connections that the broker accepted since the start.
    pub connections: u64,
    /// Items of the configuration that are disabled by a fault.
    pub disabled: u64,
    /// Why readings are refused at present: the journal cannot store them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unstored: Option<String>,
    /// Why readings do not flow though the connection stands, or that the broker refused some, one
    /// sentence each. It says nothing about whether the program works.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// What became of publishes that a check asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadingsTried {
    /// One entry a topic, in their order; fewer where the rest was not tried.
    pub tried: Vec<ReadingTried>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadingTried {
    /// `acknowledged`, `closed`, `silent`, `too-large` or `unsent`.
    pub answer: String,
    /// The reason code of the acknowledgement.
    pub code: Option<u8>,
}

/// What connections of a check did to the gateway's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionBeside {
    /// The broker ended it for one of them.
    pub ended: bool,
}

/// Where revocation lists come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevocationSource {
    /// `upstream` or `coap`.
    pub table: String,
    /// Where they are fetched; `None`: from a file.
    pub url: Option<String>,
    /// When that succeeded last since the start; `None` while the clock is not trusted.
    pub fetched_at: Option<String>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Seconds until the next attempt.
    pub retry_in_s: Option<u64>,
    /// Those in use.
    pub lists: Vec<RevocationList>,
}

/// One revocation list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevocationList {
    /// The common name of its CA.
    pub issuer: String,
    /// When it was made.
    pub this_update: String,
    /// When the next one is due.
    pub next_update: Option<String>,
    /// Seconds since it was made; `None` while the clock is not trusted.
    pub age_s: Option<u64>,
    /// The next one is overdue, by a trusted clock.
    pub expired: bool,
}

/// What is known of newer firmware of this gateway; `tombolo update check --json`, and the retained
/// topic, which has neither `source` nor what comes after `failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Update {
    /// `unknown`, `up-to-date`, `available`, `ineligible`, `downloading`, `ready`, `installing`,
    /// `pending`, `failed`, `stale` or `error`.
    pub state: String,
    /// The version that runs.
    pub installed: Option<String>,
    /// The newer version, where there is one for this gateway.
    pub available: Option<AvailableUpdate>,
    /// Why it is as it is, one sentence.
    pub reason: Option<String>,
    /// When the last check ended; `None` = none yet, or the clock was not trusted.
    pub checked_at: Option<String>,
    /// When a check last came to an answer.
    pub good_at: Option<String>,
    /// Percent fetched, while `downloading`.
    pub progress: Option<u8>,
    /// Why the last attempt to install the available version failed, where the state is a newer
    /// one.
    pub failure: Option<String>,
    /// `none`, `apt` or `tuf`.
    pub source: String,
    /// What installs: `none`, `rauc`, `apt` or `exec`.
    pub backend: String,
    /// A check is under way.
    pub checking: bool,
    /// Seconds until the next check; `None` = it waits for the clock, or one is under way.
    pub next_check_s: Option<u64>,
    /// No version is installed until it is released.
    pub held: bool,
    /// Versions that are denied.
    pub denied: Vec<String>,
}

/// The version offered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AvailableUpdate {
    /// Its version.
    pub version: String,
    /// The target's name; of apt, the package's.
    pub target: String,
    /// Its size, if that is known.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hexadecimal, if that is known.
    pub sha256: Option<String>,
    /// What changed.
    pub notes: Option<String>,
}

/// A certificate that the gateway renews by itself; `tombolo cert status --json` has these by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// `missing`, `valid`, `ordering`, `staged`, `probing`, `comparing`, `committing`, `committed`,
    /// `retrying`, `refused` or `expired`.
    pub state: String,
    /// The serial number of the one in use, hexadecimal; `None` = there is none.
    pub serial: Option<String>,
    /// Its subject.
    pub subject: Option<String>,
    /// Its issuer.
    pub issuer: Option<String>,
    /// From when it is valid.
    pub not_before: Option<String>,
    /// Until when it is valid.
    pub not_after: Option<String>,
    /// When the next one is asked for.
    pub due: Option<String>,
    /// `current`, or `candidate` while a new one waits for its proof; `None` = there is neither.
    pub slot: Option<String>,
    /// When one was asked for last.
    pub last_attempt: Option<String>,
    /// Why that failed.
    pub last_error: Option<String>,
    /// Whole days until the one in use expires, negative once it has; `None` = there is none, it
    /// has no end, or the clock is not trusted.
    pub days_left: Option<i64>,
    /// What comes next where a person has to know or to act; `None` = all goes by itself.
    pub next: Option<String>,
    /// Seconds until the next attempt, where one failed or was put off; `None` = none is due by
    /// itself, or one is under way.
    pub retry_in_s: Option<u64>,
    /// The files that another program renews, where it is not this gateway that does.
    pub files: Option<Vec<String>>,
    /// These are to be looked at, because a reload asks for it, and were not yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub looking: bool,
}

/// How a problem begins that names an address of `[mqtt]` on which the gateway does not listen.
pub const NOT_LISTENING: &str = "MQTT: not listening on ";

/// How a problem begins that names a certificate of `[mqtt]` that clients cannot verify.
pub const OUT_OF_DATE: &str = "MQTT: the certificate in ";

/// How a problem begins that names an address of `[metrics]` that the gateway does not have.
pub const NOT_EXPORTED: &str = "the metrics are not exported on ";

/// What ends the problem of a reload that was refused, where another reload is to follow.
pub const THEN_RELOAD: &str = "; then `tombolo reload`";
/// What is said of a new certificate in watched files that the broker has not decided on yet.
pub const ON_TRIAL: &str = "it is tried before it is used";

/// A configuration file on trial: `tombolo config apply FILE --confirm TIME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigTrial {
    /// The file.
    pub file: String,
    /// Seconds until the one before comes back.
    pub left_s: u64,
}

impl ConfigTrial {
    /// That it is on trial, in whole minutes where it is more than two, so that what is said of it
    /// does not change all the time.
    pub fn note(&self) -> String {
        let left = match self.left_s {
            seconds if seconds > 120 => format!("{} min", seconds.div_ceil(60)),
            seconds => format!("{seconds} s"),
        };
        format!(
            "{} is on trial for {left} yet, then the one before comes back; `tombolo config confirm` keeps it",
            self.file
        )
    }
}

/// This gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gateway {
    /// Its id.
    pub id: String,
    /// The version of the running program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it was ready.
    pub uptime_s: u64,
    /// Configuration items disabled because of faults, as `check` shows them.
    pub disabled: Vec<String>,
}

/// The state of the uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uplink {
    /// Whether an upstream is configured.
    pub configured: bool,
    /// Whether it is connected: a CONNACK was received.
    pub connected: bool,
    /// `host:port`.
    pub broker: Option<String>,
    /// `5` or `3.1.1`, once connected.
    pub protocol: Option<String>,
    /// Seconds for which this protocol version is in use, across reconnects.
    pub protocol_since_s: Option<u64>,
    /// Why it is not 5: the broker's reaction to MQTT 5.
    pub protocol_why: Option<String>,
    /// Seconds since `connected` last changed.
    pub since_s: Option<u64>,
    /// Publishes sent and not yet acknowledged.
    pub in_flight: u64,
    /// Most publishes in flight: the gateway's limit or the broker's Receive Maximum, whichever is
    /// less.
    pub window: u64,
    /// The broker takes QoS 0 only, which it does not acknowledge.
    pub unacknowledged: bool,
    /// Seconds after which the connection is replaced if a publish is not acknowledged.
    pub answer_timeout_s: Option<u64>,
    /// Connections that were replaced for that reason since the start.
    pub unanswered_connections: u64,
    /// Seconds since the broker last acknowledged a reading.
    pub last_taken_s: Option<u64>,
    /// Why readings are not published although it is connected.
    pub stalled: Vec<String>,
    /// Seconds for which the oldest publish in flight has waited for its acknowledgement.
    pub oldest_unanswered_s: Option<u64>,
    /// Most publishes per second, if limited.
    pub rate_limit: Option<u64>,
    /// Whether the gateway lowered the limit because the broker was too slow.
    pub rate_lowered: bool,
    /// Suspected records, which are held back and retried while others are published.
    pub suspects: u64,
    /// Some of the suspected records.
    pub suspected: Vec<SuspectedRecord>,
    /// Seconds since a reading was accepted, while the broker refuses all.
    pub nothing_taken_s: Option<u64>,
    /// What of the will and of the gateway's own messages is omitted because the broker refuses it,
    /// as text.
    pub left_out: Vec<String>,
    /// Topic filters of commands by which none comes, with the rules that need them: the broker
    /// refuses the subscription or does not answer it. One sentence each.
    pub unsubscribed: Vec<String>,
    /// Why the connection does not last: another client probably or perhaps has the same client id.
    /// One sentence.
    pub contested: Option<String>,
    /// How often the broker closed the connection within the last 10 min without a reason.
    pub closes: u64,
    /// Seconds that the longest of these connections lasted.
    pub closes_lasted_s: u64,
    /// The key of `[upstream]` whose limit keeps the next publish back, if it does so for more than
    /// a few seconds.
    pub capped_by: Option<String>,
    /// Seconds for which it does.
    pub capped_for_s: Option<u64>,
    /// What the gateway cannot read of its own topics: the broker refuses the subscription, does
    /// not answer it or delivers nothing by it. A note, since no reading depends on it; one
    /// sentence each.
    pub unheard: Vec<String>,
    /// Outcomes of commands that the broker refused within the last hour, by topic. A note, since
    /// no reading depends on it; one sentence each.
    pub refused_outcomes: Vec<String>,
    /// The error that ended or prevented the last connection.
    pub last_error: Option<String>,
    /// Seconds until the next attempt.
    pub retry_in_s: Option<u64>,
    /// Whether a publish was made and its acknowledgement waited for; only in the answer to
    /// `uplink-check`. `false`: the gateway has no topic of its own to publish on.
    pub asked: Option<bool>,
    /// Milliseconds a publish took to be acknowledged; only in the answer to `uplink-check`.
    pub echo_ms: Option<u64>,
    /// By lane: the bytes of its day, where it has `daily-bytes`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub daily_bytes: BTreeMap<String, DailyBytes>,
    /// Examples of the readings that the broker acknowledged on this connection, by a reason code
    /// of MQTT 5; only in the answer to `uplink-check`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<TakenReading>,
    /// Warnings: the broker supports only 3.1.1, QoS 0 or no retained messages, a small Receive
    /// Maximum, a stopped lane.
    pub warnings: Vec<String>,
}

/// The key that bounds the bytes of a lane's day, by which a reason begins that names it.
pub fn key_of_the_day(lane: &str) -> String {
    format!("[lane.{lane}] daily-bytes")
}

impl Uplink {
    /// Why readings do not flow, but for lanes that have used up their day.
    pub fn stalled_by_a_fault(&self) -> impl Iterator<Item = &String> {
        self.stalled.iter().filter(|reason| !self.is_of_the_day(reason))
    }

    /// Whether a lane that has used up its day is the reason.
    pub fn is_of_the_day(&self, reason: &str) -> bool {
        let begins = |lane: &String| format!("lane {lane}: {}", key_of_the_day(lane));
        self.daily_bytes.keys().any(|lane| reason.starts_with(&begins(lane)))
    }
}

/// The bytes that a lane has published on this day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DailyBytes {
    /// Bytes of its PUBLISH packets.
    pub bytes: u64,
    /// `daily-bytes`.
    pub max_bytes: u64,
    /// Nothing more of it is published on this day; its records are kept.
    pub used_up: bool,
    /// Seconds until the next day.
    pub left_s: u64,
    /// The day ends at midnight UTC; else, because the clock is not trusted, 24 h after it began.
    pub by_clock: bool,
}

/// A reading that the broker acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TakenReading {
    /// Its device.
    pub device: String,
    /// Its path within the device.
    pub path: String,
    /// Its topic.
    pub topic: String,
    /// Seconds since the last one on this topic.
    pub ago_s: u64,
}

/// A suspected record: the broker refused it, did not acknowledge it, or closed the connection when
/// it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SuspectedRecord {
    /// Its id.
    pub record: String,
    /// `high` or `normal`.
    pub lane: String,
    /// Its topic, known after a retry.
    pub topic: Option<String>,
    /// The reason: the name and number of the reason code, or the broker's reaction.
    pub reason: String,
    /// The number of retries.
    pub tries: u64,
}

/// What the configuration files say now, held against what the running daemon uses: the answer to
/// `config-check`. The daemon read them as the service does, in its sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigCheck {
    /// Keys with another value in the files than the one in use.
    pub differences: Vec<ConfigDifference>,
    /// Files that `[upstream]` names have another content than when the connection was made, and
    /// are not shown to work since; without one, than at the start or the last reload.
    pub upstream_files_changed: bool,
    /// Certificates whose watched files have another pair than the one in use, one sentence each:
    /// the files are read for this, whether or not their change was noticed.
    pub watched: Vec<String>,
    /// Why a reload would be refused, one finding each; empty = it would not be.
    pub refused: Vec<String>,
    /// Findings of level fail in what a reload would take up, as `check` prints them.
    pub failing: Vec<String>,
    /// Why the service cannot use the files that `[upstream]` names; `None` = it can.
    pub upstream_files: Option<String>,
    /// Addresses that are bound, `address:port`.
    pub listening: Vec<String>,
    /// What fails in the running gateway and does not in the files any more, one sentence each.
    pub repaired: Vec<String>,
}

/// One key that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigDifference {
    /// Such as `upstream.url`, or a table's name.
    pub key: String,
    /// What is in use; empty where it cannot be said in a few words.
    pub running: String,
    /// Only a restart takes it up.
    pub restart: bool,
}

/// All lanes together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    /// Records waiting for the uplink, with those of `delivered`.
    pub records: u64,
    /// Of these, records that the broker has acknowledged but that are stored after an undecided
    /// one.
    pub delivered: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Most bytes on disk.
    pub max_bytes: u64,
    /// Records in the rejected store.
    pub rejected: u64,
    /// Why they are there.
    pub rejected_causes: RejectedCauses,
    /// Records lost for any reason since the state directory was created.
    pub lost: u64,
    /// Unreadable records that are kept: they are neither lost nor waiting.
    pub unreadable: u64,
    /// Why it accepts no readings now; `None` = it does.
    pub failing: Option<String>,
}

/// The devices, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Devices {
    /// Devices in configuration and registry.
    pub known: u64,
    /// Devices that were active within their `offline-after`; of serial ones, those whose port is
    /// open and whose values arrive.
    pub online: u64,
    /// Serial devices that answer, but none of whose values arrives.
    pub degraded: u64,
    /// Devices that were seen since the start, and are not there.
    pub offline: u64,
    /// Devices that were not seen since the start.
    pub not_seen: u64,
    /// Established DTLS sessions.
    pub sessions: u64,
    /// DTLS handshakes in progress.
    pub half_open: u64,
    /// Fleets by name.
    pub fleets: BTreeMap<String, Fleet>,
    /// Devices of the registry that the configuration switches off (`enabled = false`).
    pub switched_off: u64,
    /// The first of these, at most 20.
    pub switched_off_ids: Vec<String>,
}

/// One fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fleet {
    /// The number of its devices.
    pub devices: u64,
    /// Its `max-devices`.
    pub max_devices: u64,
}

/// The DTLS sessions, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dtls {
    /// `tombolo` or `dimpl`.
    pub engine: String,
    /// Established sessions.
    pub sessions: u64,
    /// Handshakes in progress.
    pub half_open: u64,
    /// The number of sessions per cipher suite, by its IANA name.
    pub suites: BTreeMap<String, u64>,
    /// The number of sessions with a connection id (RFC 9146).
    pub connection_id: u64,
    /// The number of sessions with the extended master secret (RFC 7627).
    pub extended_master_secret: u64,
    /// `coap.max-sessions`.
    pub max_sessions: u64,
    /// Handshakes refused because `max_sessions` sessions were active within the last hour.
    pub refused_full: u64,
    /// Seconds since the last refused handshake; `None` = there was none.
    pub refused_full_last_s: Option<u64>,
    /// Handshakes refused because their device had completed too many within one minute.
    pub refused_too_often: u64,
}

impl Dtls {
    /// Whether the table is full and a device was refused in the last hour. An older daemon does
    /// not report the time of the last refusal.
    pub fn is_full(&self) -> bool {
        let is_recent = self.refused_full_last_s.is_none_or(|last| last < 3_600);
        self.refused_full > 0 && is_recent && self.sessions >= self.max_sessions
    }
}

/// The local MQTT clients, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mqtt {
    /// The addresses it listens on; empty = `[mqtt]` is off.
    pub listen: Vec<String>,
    /// Clients that are connected.
    pub clients: u64,
    /// `mqtt.max-clients`.
    pub max_clients: u64,
    /// Sessions that are kept without a connection.
    pub absent_sessions: u64,
    /// Messages of QoS 1 that wait for local clients.
    pub queued_messages: u64,
    /// Chosen passwords that wait to be verified.
    pub verifying: u64,
    /// Clients refused because too many of these waited, or one of these for too long.
    pub refused_busy: u64,
    /// Seconds since the last of these; `None` = there was none.
    pub refused_busy_last_s: Option<u64>,
    /// Clients refused because `max_clients` were connected.
    pub refused_full: u64,
    /// Seconds since the last of these; `None` = there was none.
    pub refused_full_last_s: Option<u64>,
    /// The newest connect that was refused.
    pub last_refused: Option<RefusedConnect>,
    /// The newest TLS handshake that failed.
    pub last_failed_handshake: Option<FailedHandshake>,
}

/// A TLS handshake of a local MQTT client that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedHandshake {
    /// Seconds since then.
    pub ago_s: u64,
    /// The address of the client.
    pub peer: String,
    /// Why.
    pub reason: String,
}

impl Mqtt {
    /// Whether as many clients as may be are connected and one was refused in the last hour.
    pub fn is_full(&self) -> bool {
        self.clients >= self.max_clients && self.refused_full_last_s.is_some_and(|last| last < 3_600)
    }

    /// Whether a client was refused in the last hour for want of a verification of its password.
    pub fn was_busy(&self) -> bool {
        self.refused_busy_last_s.is_some_and(|last| last < 3_600)
    }

    /// Whether that goes on: passwords wait, or a client was refused in the last minute.
    pub fn is_busy(&self) -> bool {
        self.refused_busy_last_s.is_some_and(|last| last < 60 || self.verifying > 0 && last < 3_600)
    }
}

/// A connect of a local MQTT client that was refused. Nothing in it is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedConnect {
    /// Seconds since.
    pub ago_s: u64,
    /// The address, or `a Unix socket`.
    pub peer: String,
    /// The user name.
    pub username: Option<String>,
    /// The device that it claimed to be.
    pub device: Option<String>,
    /// Why, as a sentence.
    pub reason: String,
}

/// A filter in a subscription of a local MQTT client that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusedFilter {
    /// Seconds since.
    pub ago_s: u64,
    /// The filter.
    pub filter: String,
}

/// A source address whose datagrams could not be processed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stray {
    /// The source address; it may be spoofed.
    pub source: String,
    /// `dtls_on_plain_port`, `plain_on_dtls_port`, `not_configured` or `unknown_session`.
    pub mistake: String,
    /// The cause as a sentence, with the remedy.
    pub advice: String,
    /// The number of datagrams.
    pub count: u64,
    /// Seconds since the first datagram.
    pub since_s: u64,
    /// Seconds since the last datagram.
    pub last_s: u64,
}

/// A page of DTLS sessions, the longest idle time first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionPage {
    /// The sessions, at most [`SESSIONS_MAX`](super::protocol::SESSIONS_MAX).
    pub sessions: Vec<Session>,
    /// Whether there are more.
    pub more: bool,
}

/// One DTLS session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// The id of its device.
    pub device: String,
    /// The source address of its last record: `address:port`.
    pub peer: String,
    /// The cipher suite's IANA name.
    pub suite: String,
    /// Whether it has a connection id, so that it survives a change of the device's address (RFC
    /// 9146).
    pub connection_id: bool,
    /// Whether it has the extended master secret (RFC 7627).
    pub extended_master_secret: bool,
    /// Seconds since its handshake.
    pub since_s: u64,
    /// Seconds since its last record.
    pub idle_s: u64,
}

/// A page of devices as they run, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DevicePage {
    /// The devices, at most [`DEVICES_MAX`](super::protocol::DEVICES_MAX).
    pub devices: Vec<DeviceState>,
    /// Whether there are more.
    pub more: bool,
}

/// A device as it runs. All counts are since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceState {
    /// Its id.
    pub id: String,
    /// Its role.
    pub role: String,
    /// Its label.
    pub label: Option<String>,
    /// The fleet that it belongs to.
    pub fleet: Option<String>,
    /// Whether it was active within its `offline-after`; of a serial one, also whether its port is
    /// open and its values arrive.
    pub online: bool,
    /// `online`, `degraded` (a serial device that answers, but none of whose values arrives),
    /// `offline`, or `not seen` since the daemon started.
    pub state: String,
    /// Of a serial device: why it is not online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// When it was active last, if the clock is trusted.
    pub last_seen: Option<String>,
    /// Seconds since; `None` = not since the daemon started.
    pub last_seen_s: Option<u64>,
    /// Its DTLS sessions.
    pub sessions: u64,
    /// Connected MQTT clients.
    pub mqtt_clients: u64,
    /// Connects of MQTT clients that claimed to be this device, and were refused.
    pub mqtt_refused: u64,
    /// The newest of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_mqtt_refused: Option<RefusedConnect>,
    /// Filters in subscriptions of its MQTT clients that were refused.
    pub refused_filters: u64,
    /// The newest of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refused_filter: Option<RefusedFilter>,
    /// Readings that the rules let pass.
    pub accepted: u64,
    /// Payload bytes of these.
    pub accepted_bytes: u64,
    /// Of these, readings that the journal did not take; the device was told so.
    pub unstored: u64,
    /// Readings that the broker acknowledged, also those stored before the daemon started.
    pub delivered: u64,
    /// Readings that were acknowledged and not published, by a filter of their rule.
    pub filtered: u64,
    /// Messages to local clients that passed; they are no readings.
    #[serde(skip_serializing_if = "is_zero")]
    pub local: u64,
    /// Readings, and messages to local clients, that were refused.
    pub refused: u64,
    /// Of these, by reason; those that occurred.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_reasons: BTreeMap<String, u64>,
    /// The newest reading that was acknowledged and not published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_filtered: Option<LastFiltered>,
    /// The newest refusal.
    pub last_refusal: Option<LastRefusal>,
    /// Seconds that it is to be silent for until its readings over CoAP are taken again; `None`: it
    /// is not muted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muted_s: Option<u64>,
    /// How often it was muted.
    pub mutes: u64,
    /// The identity of its new PSK, if it has used it and the one before is not taken away yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_key_used: Option<String>,
    /// Of `unstored`: because its records had its share of the lane.
    pub over_share: u64,
    /// Handshakes and MQTT connects that were refused because it had too many in a minute.
    pub too_often: u64,
    /// What its records take of the lanes, of those stored since the daemon started; by lane.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lanes: BTreeMap<String, LaneShare>,
    /// What is observed and polled of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub served: Vec<ServedResource>,
}

/// A resource of a device that is observed or polled. Counts and times are since the daemon
/// started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServedResource {
    /// `observe` or `poll`.
    pub table: String,
    /// The name of its table.
    pub name: String,
    /// Its path on the device.
    pub path: String,
    /// The path of its readings.
    pub reading: String,
    /// Of one that is polled: how often, in seconds.
    pub every_s: Option<u64>,
    /// The device was heard, so that it is asked.
    pub heard: bool,
    /// Seconds since it is observed; `None`: it is not, at present.
    pub observed_s: Option<u64>,
    /// Seconds since the last value.
    pub value_s: Option<u64>,
    /// Values that were taken.
    pub values: u64,
    /// Values that the quota refused.
    pub over_quota: u64,
    /// How often it was asked for.
    pub asked: u64,
    /// What is wrong.
    pub trouble: Option<String>,
    /// Seconds until it is asked for again, if the device is awake then.
    pub again_s: Option<u64>,
    /// Seconds for which it has been due while a command to the device, which goes first, is on its
    /// way or about to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_command_s: Option<u64>,
    /// What is odd and loses values, although some come: one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

impl ServedResource {
    /// Whether something is wrong and there was never a value, or none for long: three periods, and
    /// at least [`STOPPED_MIN_S`]; of one that is observed, [`STOPPED_OBSERVED_S`].
    pub fn has_stopped(&self) -> bool {
        let patience =
            self.every_s.map_or(STOPPED_OBSERVED_S, |every| every.saturating_mul(3).max(STOPPED_MIN_S));
        self.trouble.is_some() && self.value_s.is_none_or(|since| since >= patience)
    }
}

/// A device that does not answer is asked again after 30 s, 1 min, 2 min …: this is four times.
pub const STOPPED_MIN_S: u64 = 300;
/// The longest pause between two tries to observe.
pub const STOPPED_OBSERVED_S: u64 = 3_600;

/// What is observed and polled of all devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServedTotals {
    /// Relations.
    pub observed: u64,
    /// Resources that are polled, of devices that were heard.
    pub polled: u64,
    /// Resources with which something is wrong.
    pub troubled: u64,
    /// Some of these, by the ids of their devices.
    pub named: Vec<ServedTrouble>,
}

/// A resource with which something is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServedTrouble {
    /// The device.
    pub device: String,
    /// The resource.
    pub resource: ServedResource,
}

/// What the records of a device take of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneShare {
    /// Their bytes.
    pub bytes: u64,
    /// Most of them.
    pub max_bytes: u64,
}

/// What was counted of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageCounts {
    /// Readings that the rules and the quota let pass.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Readings that were acknowledged and not published, by a filter.
    pub filtered: u64,
    /// Of `messages`: those that the journal did not take.
    pub unstored: u64,
    /// Messages to local clients that passed; they are no readings.
    pub local: u64,
    /// Readings and messages to local clients that were refused.
    pub refused: u64,
    /// Of these, by reason; those that occurred.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_reasons: BTreeMap<String, u64>,
}

/// One day of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageDay {
    /// The day in UTC, `2026-11-27`; `None`: up to 24 h in which the clock was not trusted.
    pub day: Option<String>,
    /// It is not over.
    pub current: bool,
    /// What was counted.
    #[serde(flatten)]
    pub counts: UsageCounts,
}

/// What a device has sent within the last 30 days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceUsage {
    /// Its id.
    pub device: String,
    /// On how many days something was counted.
    pub active_days: u64,
    /// All of them together.
    #[serde(flatten)]
    pub counts: UsageCounts,
    /// Each of them, the oldest first; only of one device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<UsageDay>,
}

/// A page of what devices have sent, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsagePage {
    /// The devices, at most [`DEVICES_MAX`](super::protocol::DEVICES_MAX).
    pub devices: Vec<DeviceUsage>,
    /// Whether there are more.
    pub more: bool,
    /// Days whose file cannot be read or is damaged, which are left out.
    pub unreadable_days: u64,
    /// A sentence for each of these, and for each file that was damaged and set aside.
    pub lost: Vec<String>,
}

/// A device that is held back beyond its rules and its quota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitedDevice {
    /// Its id.
    pub device: String,
    /// Its role.
    pub role: String,
    /// `muted`, `over_quota` (most of its readings are refused by its quota), `over_share` or
    /// `too_often`; but for the first, within the last 10 minutes.
    pub reason: String,
    /// How often since the daemon started; with `over_quota` the readings refused of late.
    pub count: u64,
    /// With `over_quota`: of so many readings.
    #[serde(skip_serializing_if = "is_zero")]
    pub of: u64,
    /// Seconds of silence until it is heard, if it is muted; else since it happened last.
    pub seconds: u64,
}

impl LimitedDevice {
    /// How many of a hundred of its readings are refused, if it is over its quota.
    pub fn percent(&self) -> u64 {
        self.count.saturating_mul(100) / self.of.max(1)
    }
}

/// The newest reading of a device that was acknowledged and not published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastFiltered {
    /// When, if the clock is trusted.
    pub at: Option<String>,
    /// Seconds since.
    pub ago_s: u64,
    /// The path, or its first 64 bytes.
    pub path: String,
    /// Why, or the first 160 bytes of that.
    pub why: String,
    /// The rule whose filter it was.
    pub rule: Option<String>,
}

/// The newest refusal of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRefusal {
    /// When, if the clock is trusted.
    pub at: Option<String>,
    /// Seconds since.
    pub ago_s: u64,
    /// The path, or its first 64 bytes.
    pub path: String,
    /// Its kind, as in the counters.
    pub reason: String,
    /// Why, as a sentence.
    pub why: String,
    /// The rule that decided; `None` if no rule matches, or none was asked.
    pub rule: Option<String>,
}

/// Steps of `tombolo device test`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceTest {
    /// The steps taken, in order. Nothing follows one that failed.
    pub steps: Vec<TestStep>,
    /// The path that is used, if one was found.
    pub path: Option<String>,
    /// The record whose delivery is to be waited for.
    pub record: Option<String>,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TestStep {
    /// `identity`, `rule`, `topic`, `quota`, `stored`, `sent` or `acknowledged`.
    pub step: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// What was found, and if it failed what to do.
    pub text: String,
}

/// The store of DTLS sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStore {
    /// Whether sessions are stored to survive a restart.
    pub persist: bool,
    /// Durably stored sessions.
    pub stored: u64,
    /// Size of the store in bytes.
    pub bytes: u64,
    /// Bytes written to it since the daemon started.
    pub written_bytes: u64,
    /// Sessions restored at the start.
    pub restored: u64,
    /// Of these, sessions that continued with their exact state.
    pub handed_over: u64,
    /// Sessions not restored at the start: their devices must handshake again.
    pub refused: u64,
    /// Not resumed at the start, but kept so that their devices can be sent a fatal alert: sessions
    /// with ChaCha20-Poly1305, and sessions with certificates that were stored without their
    /// certification path.
    pub ended: u64,
    /// Why sessions are not stored now; `None` = they are.
    pub failing: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One serial port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SerialPort {
    /// `open` or `retrying`.
    pub state: String,
    /// The configured port.
    pub port: String,
    /// The device file that was last opened.
    pub device: Option<String>,
    /// Seconds since `state` last changed.
    pub since_s: u64,
    /// Why it is not open.
    pub reason: Option<String>,
    /// The number of times that it failed since the daemon started.
    pub lost: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Complete frames.
    pub frames: u64,
    /// Incomplete or damaged frames.
    pub bad_frames: u64,
    /// Dropped frames by reason: `too long`, `checksum`, `malformed`, `incomplete`; those that an
    /// opening or a closing of the port cost; and complete ones that were no reading.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bad_reasons: BTreeMap<String, u64>,
    /// Why nothing that comes can be read, on a line on which nothing is asked: what was seen when
    /// that was found, and what to compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub illegible: Option<String>,
    /// That the peer of a port in the network speaks telnet, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telnet: Option<String>,
    /// How a device does that is asked (`poll`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<SerialAsked>,
    /// How much of the line's time its devices need to be asked in their periods, in per cent: as
    /// computed, or as measured where that is more. `None`: none is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_load_percent: Option<u64>,
    /// Why that is too much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload: Option<String>,
    /// Bytes that made no good frame.
    pub dropped_bytes: u64,
    /// Complete frames that could not be read.
    pub unreadable: u64,
    /// Requests of another master that were seen on a Modbus bus.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_master: u64,
    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub readings: u64,
    /// Readings that the rules or the quota refused.
    pub refused: u64,
    /// Readings in memory that wait to be accepted.
    pub waiting: u64,
    /// Readings lost because they were not accepted before the buffer was full.
    pub lost_readings: u64,
    /// The units of a Modbus bus, by device id. For a bus, `frames` counts responses, `bad_frames`
    /// damaged responses, `unreadable` unexpected frames (no request was outstanding for that
    /// unit), and `dropped_bytes` noise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, SerialUnit>,
}

/// A device that is asked for each reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SerialAsked {
    /// `up`, `degraded` (its answers are no readings), `down`, or `unknown` before it answered.
    pub state: String,
    /// Why it gives no reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why its last answer was no reading, and its first bytes; `None`: it was one, or there was
    /// none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_fault: Option<String>,
    /// Milliseconds that its answers are waited for, as late ones taught; 0: as configured.
    pub learned_timeout_ms: u64,
    /// Questions sent.
    pub questions: u64,
    /// Answers in time.
    pub answers: u64,
    /// Questions without an answer in time.
    pub silent: u64,
    /// Questions with a damaged answer only.
    pub damaged: u64,
    /// Questions in place of whose answer the line was closed.
    pub closed: u64,
    /// Milliseconds that answers in time took, in all.
    pub busy_ms: u64,
    /// Frames not used: late answers, and what came unasked.
    pub late: u64,
}

/// One unit of a Modbus bus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SerialUnit {
    /// The address on the bus.
    pub address: u8,
    /// `up`, `degraded` (it answers, but none of its values can be read, or its answers come one
    /// request late), `down`, or `unknown` before it gave a value.
    pub state: String,
    /// Why it is degraded or down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Requests sent.
    pub requests: u64,
    /// Responses, including exceptions.
    pub answers: u64,
    /// Exception responses.
    pub exceptions: u64,
    /// Requests without any response.
    pub silent: u64,
    /// Requests followed only by bytes that are not a frame.
    pub damaged: u64,
    /// Responses that came after the timeout.
    pub late: u64,
    /// Answers of another length or function than was asked for.
    pub misfits: u64,
    /// Fields that its readings come without, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, String>,
    /// Milliseconds of silence that it was found to want before a request; 0: none.
    pub learned_pause_ms: u64,
    /// Milliseconds that its answers are waited for, as late ones taught; 0: as configured.
    pub learned_timeout_ms: u64,
    /// Most registers of one request that it was found to answer; 0: as many as configured.
    pub learned_max_registers: u16,
    /// Most coils or discrete inputs of one read that it answers, as was found out; 0: as many as
    /// are configured.
    pub learned_max_bits: u16,
    /// Reads were taken apart because longer answers came damaged. That is tried again within the
    /// hour and not kept over a restart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub learned_of_damage: bool,
    /// The other unit that its last answer named; such answers of Modbus TCP are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_as: Option<u8>,
    /// Its answers come one request late: each read is sent twice, and the second answer is used.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub one_behind: bool,
    /// Each read has been sent more than once for a minute or longer: nothing shows that its
    /// answers are not those to other requests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub doubled: bool,
    /// Frames that it sent without being asked, if they are no accident: another unit has its
    /// address, or another master asks it.
    #[serde(skip_serializing_if = "is_zero")]
    pub surplus: u64,
    /// Each of its answers comes so often, at most, if that is no accident; 0: once.
    #[serde(skip_serializing_if = "is_zero")]
    pub answer_times: u64,
    /// Copies of answers that came, and were not used.
    #[serde(skip_serializing_if = "is_zero")]
    pub copies: u64,
    /// Milliseconds of silence after each answer on the line that it was found to want, as units
    /// said that they are busy sooner; 0: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub learned_rest_ms: u64,
    /// It is silent, and no unit of the bus ever answered a request that came sooner than this
    /// after an answer on the line, in milliseconds: the `pause` to set for the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_advised_ms: Option<u64>,
    /// Milliseconds that its answers took, in all.
    pub busy_ms: u64,
    /// Polls completed.
    pub polls: u64,
    /// Polls skipped because the bus was busy or the unit did not respond.
    pub skipped: u64,
    /// Answers and readings that were not used, as nothing showed that the values are its own.
    #[serde(skip_serializing_if = "is_zero")]
    pub withheld: u64,
    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub readings: u64,
    /// Readings that the rules or the quota refused.
    pub refused: u64,
    /// Readings in memory that wait to be accepted.
    pub waiting: u64,
    /// Readings lost because they were not accepted before the buffer was full.
    pub lost_readings: u64,
}

/// The wall clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clock {
    /// Whether it is trusted.
    pub trusted: bool,
    /// `trusted`, `doubted`, `impossible` (before a time that has passed) or `unsynchronised`.
    pub state: String,
    /// The current time of the clock.
    pub now: Option<String>,
    /// Whether the kernel reports it as synchronised.
    pub synchronised: bool,
    /// Whether it is in doubt: it counts as synchronised, by the kernel or by `[clock] trust`, but
    /// may be wrong.
    pub doubted: bool,
    /// The reason for the verdict, as text.
    pub reason: Option<String>,
    /// The proof of the time: `certificate` or `owner`; `None` = there is none, or it is not
    /// trusted.
    pub proven_by: Option<String>,
    /// A time that has certainly passed: certificates are verified at it while the clock is not
    /// trusted.
    pub floor: Option<String>,
    /// What shows that it has passed: `certificate` (a server's certificate proved a clock that
    /// said so), `not-before` (the notBefore of one) or `build` (the build date).
    pub floor_from: Option<String>,
    /// Seconds by which it is later than the clock; `None` = it is not.
    pub floor_ahead_s: Option<u64>,
    /// The last time that was trusted.
    pub last_trusted: Option<String>,
    /// If in doubt: seconds of further synchronisation after which it is trusted.
    pub doubt_ends_in_s: Option<u64>,
    /// Why the kernel cannot be asked whether it is synchronised; `None` = it can, or
    /// `[clock] trust = "always"`.
    pub unread: Option<String>,
    /// Why its file cannot be written; `None` = it can.
    pub failing: Option<String>,
}

/// `tombolo queue --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// The lanes by name: `high`, `normal`.
    pub lanes: BTreeMap<String, Lane>,
    /// The records that the broker refused permanently.
    pub rejected: Rejected,
    /// Most publishes per second, if the configuration limits them.
    pub rate_limit: Option<u64>,
}

/// What the running daemon knows for `tombolo check --security`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityReport {
    /// Seconds since the daemon was ready.
    pub uptime_s: u64,
    /// Readings that each rule has decided since the start or the last reload, by role and rule.
    pub rule_hits: BTreeMap<String, BTreeMap<String, u64>>,
    /// Seconds since the start or the last reload.
    pub counted_s: u64,
    /// Devices that sent nothing since they are known to this process, in id order; at most 100.
    pub silent: Vec<String>,
    /// All of them.
    pub silent_count: u64,
    /// Seconds for which each of them is known at least: a reload may have added it, or may have
    /// disabled it for a time.
    pub silent_known_s: Option<u64>,
    /// DTLS sessions by cipher suite, by its IANA name.
    pub suites: BTreeMap<String, u64>,
    /// DTLS sessions without the extended master secret.
    pub without_extended_master_secret: u64,
}

/// One lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lane {
    /// Records waiting for the uplink, including those of `delivered`.
    pub records: u64,
    /// Of these, records that the broker has acknowledged but that are stored after an undecided
    /// one.
    pub delivered: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// When the oldest of them was received, if known.
    pub oldest: Option<String>,
    /// How long ago that was, in seconds. Also known without a trusted clock, if it was since the
    /// last start.
    pub oldest_age_s: Option<u64>,
    /// The id of the oldest record.
    pub oldest_record: Option<String>,
    /// The lane's limit in bytes.
    pub max_bytes: u64,
    /// Records lost by `drop-oldest`, expiry or damage since the state directory was created.
    pub dropped: u64,
    /// Unreadable records that are kept.
    pub unreadable: u64,
    /// Files kept because of unreadable or damaged records.
    pub set_aside: u64,
    /// Why nothing is published now although the uplink is connected; `None` = records are
    /// published.
    pub stopped: Option<String>,
    /// Records held back: suspected, or on the topic of a suspected one.
    pub held: u64,
    /// Some of the suspected records.
    pub suspected: Vec<SuspectedRecord>,
}

/// Records of the rejected store, by why they are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RejectedCauses {
    /// The broker answered with a reason code that refuses them.
    pub refused: u64,
    /// The broker closed the connection each time they were sent.
    pub closed: u64,
    /// The broker did not answer each time they were sent.
    pub silent: u64,
    /// The owner set them aside, by `tombolo queue skip`.
    pub skipped: u64,
}

impl RejectedCauses {
    /// Of `records` in all. What an older daemon does not tell apart counts as refused.
    pub fn of(self, records: u64) -> RejectedCauses {
        let others = self.closed.saturating_add(self.silent).saturating_add(self.skipped);
        RejectedCauses { refused: records.saturating_sub(others), ..self }
    }

    /// Those that are there because of what the broker did.
    pub fn by_broker(&self) -> u64 {
        self.refused.saturating_add(self.closed).saturating_add(self.silent)
    }
}

/// The rejected store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejected {
    /// Records in the store.
    pub records: u64,
    /// Why they are there.
    pub causes: RejectedCauses,
    /// Bytes on disk.
    pub bytes: u64,
    /// Its limit in bytes; if it is full, the lane of the next refused record stops.
    pub max_bytes: u64,
}

/// A page of rejected records, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RejectedPage {
    /// The records, at most [`LIST_MAX`](super::protocol::LIST_MAX).
    pub records: Vec<RejectedRecord>,
    /// Whether there are more after the last one.
    pub more: bool,
    /// Records in this range that cannot be read now; they stay in the store.
    pub unreadable: u64,
}

/// One record the broker refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RejectedRecord {
    /// Its id.
    pub record: String,
    /// The id of its device.
    pub device: String,
    /// The topic it was published to.
    pub topic: String,
    /// The length of the payload in bytes.
    pub bytes: u64,
    /// When it was received, if known.
    pub received: Option<String>,
    /// The name and number of the reason code.
    pub reason: String,
}

/// A page of rejected records with payload, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportPage {
    /// One object each, as `tombolo queue rejected export` writes it.
    pub records: Vec<Value>,
    /// The `after` of the request for the next page; `None` = there are no more.
    pub last: Option<u64>,
    /// Records in this range that cannot be read now; they stay in the store.
    pub unreadable: u64,
}

/// The part of a rule decision that `tombolo acl explain` prints as text; its JSON output is the
/// complete explanation of the gate.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Explained {
    /// The device's id.
    pub device: String,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, if the question had one.
    pub query: Option<String>,
    /// Whether the rules allow it, without the quota.
    pub allowed: bool,
    /// If refused: the kind of refusal, as in the counters.
    pub reason: Option<String>,
    /// The reason in one sentence.
    pub why: String,
    /// The device behind this one that the reading is of.
    pub on_behalf: Option<ExplainedOnBehalf>,
    /// The device's role.
    pub role: Option<String>,
    /// The device's tags.
    pub tags: BTreeMap<String, String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The role that this rule is from, where the device's role includes that one.
    pub rule_from: Option<String>,
    /// All rules that match; the one that decided is first.
    pub matched: Vec<ExplainedRule>,
    /// The file and line of the rule that decided.
    pub rule_place: Option<String>,
    /// If no rule matches: the one that comes nearest.
    pub nearest: Option<ExplainedNearest>,
    /// Of what rules of two kinds could allow: the nearest one of the other kind.
    pub nearest_other: Option<ExplainedNearest>,
    /// The rule that would allow it if the device had a tag that its topic needs.
    pub lacks_tag: Option<ExplainedLacking>,
    /// Of a publish to local clients: what its rules grant.
    pub local: Option<ExplainedGrant>,
    /// Of an empty retained publish that passes: it deletes what is retained.
    pub deletes: bool,
    /// Of a subscription: the highest QoS that is granted.
    pub granted_qos: Option<u8>,
    /// How it would be published.
    pub publish: Option<ExplainedPublish>,
    /// Of a payload that was given: why the rule's filter would hold it back now.
    pub held_back: Option<String>,
    /// Of a subscription: the content formats that its rule takes, if not any.
    pub content_formats: Option<Vec<String>>,
    /// Of a subscription: which messages are held back.
    pub filter: Option<ExplainedFilter>,
    /// Largest payloads that the role and the rule allow.
    pub max_payload: Option<ExplainedPayload>,
    /// Whether the device is on a serial port, where there are no datagrams and no Block1.
    pub serial: bool,
    /// What is left of the device's quota now.
    pub quota: Option<ExplainedQuota>,
    /// What its device's records have of the lane's share now, which is judged after the rules.
    pub share: Option<LaneShare>,
}

/// For whom a device speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedOnBehalf {
    /// The child.
    pub device: String,
    /// The path within it.
    pub path: String,
    /// The role of the sender.
    pub role: String,
    /// The rule of that role.
    pub rule: String,
    /// The role that this rule is from, where the sender's role includes that one.
    pub from: Option<String>,
    /// The path of that rule, within the child.
    pub rule_path: String,
    /// The file and line of that rule.
    pub place: Option<String>,
}

/// A rule that matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedRule {
    /// The rule's name.
    pub rule: String,
    /// The role that it is from, where the device's role includes that one.
    pub from: Option<String>,
    /// The rule's path pattern.
    pub path: String,
    /// Whether the rule denies.
    pub deny: bool,
    /// `refuse`, if the rule refuses requests with a query.
    pub query: Option<String>,
    /// The tag that its topic needs and the device does not have: it does not apply.
    pub lacks_tag: Option<String>,
    /// The content formats that it takes, if not any.
    pub content_formats: Option<Vec<String>>,
}

/// The rule that comes nearest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedNearest {
    /// The rule's name.
    pub rule: String,
    /// The role that it is from, where the device's role includes that one.
    pub from: Option<String>,
    /// The rule's path pattern.
    pub path: String,
    /// What differs.
    pub why: String,
    /// The file and line of the rule.
    pub place: Option<String>,
}

/// A rule whose topic needs a tag that the device does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedLacking {
    /// The rule's name.
    pub rule: String,
    /// The role that it is from, where the device's role includes that one.
    pub from: Option<String>,
    /// The name of the tag.
    pub tag: String,
    /// The file and line of the rule.
    pub place: Option<String>,
}

/// How a message to local clients may be published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExplainedGrant {
    /// Its highest QoS.
    pub qos: u8,
    /// Whether it may be retained.
    pub retain: bool,
}

/// How a reading would be published.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ExplainedPublish {
    /// The topic.
    pub topic: String,
    /// The QoS, 0 or 1.
    pub qos: u8,
    /// Whether the retain flag is set.
    pub retain: bool,
    /// `high` or `normal`.
    pub lane: String,
    /// Seconds after which it expires; `None` = never.
    pub expires: Option<u32>,
    /// `json`, if it is wrapped.
    pub envelope: Option<String>,
    /// Which readings are acknowledged and not published.
    pub filter: Option<ExplainedFilter>,
}

/// The filter of a rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ExplainedFilter {
    /// What these conditions do not hold for is held back.
    pub when: Vec<String>,
    /// What equals the reading before is held back.
    pub on_change: bool,
    /// A number that differs by so much or less is held back.
    pub dead_band: Option<f64>,
    /// Where the number stands in JSON or CBOR.
    pub dead_band_field: Option<String>,
    /// What comes sooner, in milliseconds, is held back.
    pub min_interval_ms: Option<u64>,
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

/// What is left of a device's quota.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_has_stopped_if_it_has_trouble_and_gave_no_value_for_long() {
        let of = |every_s, value_s, trouble: Option<&str>| ServedResource {
            every_s,
            value_s,
            trouble: trouble.map(str::to_owned),
            ..ServedResource::default()
        };
        let no = Some("the device does not answer");
        assert!(of(None, None, no).has_stopped(), "never a value");
        assert!(!of(None, None, None).has_stopped(), "not asked yet");
        assert!(!of(Some(60), Some(90_000), None).has_stopped(), "it sleeps");
        for (every_s, patience) in [(Some(10), 300), (Some(600), 1_800), (None, 3_600)] {
            assert!(!of(every_s, Some(patience - 1), no).has_stopped());
            assert!(of(every_s, Some(patience), no).has_stopped());
        }
    }
}
