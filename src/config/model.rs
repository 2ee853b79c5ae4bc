//! The file model: the merged configuration key by key, before the keys are validated together.
//!
//! A field that is `None` was not set, or was reset by an empty text. Defaults are applied in one
//! place, where the model becomes [`Settings`](super::Settings).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::scalar::parse_duration;
use crate::proto::serial::charset::Charset;
use crate::proto::serial::modbus::model::{BusTable, UnitTable};

/// The value of each tag; `None` = reset by an empty text.
pub(super) type Tags = BTreeMap<String, Option<String>>;

/// The whole configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) gateway: Gateway,
    pub(super) upstream: Option<Upstream>,
    pub(super) certificate: BTreeMap<String, RenewedCertificate>,
    pub(super) topics: Topics,
    pub(super) coap: Coap,
    pub(super) mqtt: Mqtt,
    pub(super) serial: BTreeMap<String, Serial>,
    pub(super) role: BTreeMap<String, Role>,
    pub(super) device: BTreeMap<String, Device>,
    pub(super) fleet: BTreeMap<String, Fleet>,
    pub(super) journal: Journal,
    pub(super) lane: Lanes,
    pub(super) clock: Clock,
    pub(super) log: Log,
    pub(super) update: Update,
    pub(super) metrics: Metrics,
    pub(super) remote: Remote,
    pub(super) paths: Paths,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Gateway {
    pub(super) id: Option<String>,
    pub(super) label: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Upstream {
    pub(super) url: Option<String>,
    pub(super) insecure: Option<bool>,
    pub(super) ca_file: Option<String>,
    pub(super) crl_file: Option<String>,
    pub(super) crl_url: Option<String>,
    pub(super) crl_period: Option<Span>,
    pub(super) crl_expired: Option<CrlExpired>,
    pub(super) certificate: Option<String>,
    pub(super) certificate_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) key_password_file: Option<String>,
    pub(super) pin_sha256: Option<Vec<String>>,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) jwt: Option<Jwt>,
    pub(super) client_id: Option<String>,
    pub(super) probe_client_id: Option<String>,
    pub(super) alpn: Option<Vec<String>>,
    pub(super) protocol: Option<Protocol>,
    pub(super) session_expiry: Option<Span>,
    pub(super) keep_alive: Option<Span>,
    pub(super) max_in_flight: Option<u16>,
    pub(super) drain_rate: Option<u32>,
    pub(super) max_publish_rate: Option<u32>,
    pub(super) max_byte_rate: Option<u64>,
    pub(super) answer_timeout: Option<Span>,
    pub(super) retry_rejected: Option<Span>,
    pub(super) tls_min: Option<TlsMin>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RenewedCertificate {
    pub(super) source: Option<String>,
    pub(super) est_url: Option<String>,
    pub(super) est_ca_file: Option<String>,
    pub(super) est_ca_sha256: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) command: Option<Vec<String>>,
    pub(super) timeout: Option<Span>,
    pub(super) bootstrap_certificate_file: Option<String>,
    pub(super) bootstrap_key_file: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) dns: Option<Vec<String>>,
    pub(super) uri: Option<Vec<String>>,
    pub(super) reuse_key: Option<bool>,
    pub(super) renew_at: Option<String>,
    pub(super) renew_before: Option<Span>,
    pub(super) trust: Option<EstTrust>,
    pub(super) key: Option<KeyPlace>,
    pub(super) pkcs11_module: Option<String>,
    pub(super) pkcs11_token: Option<String>,
    pub(super) pin_file: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CrlExpired {
    Accept,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum EstTrust {
    None,
    Est,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KeyPlace {
    File,
    Pkcs11,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Jwt {
    pub(super) audience: Option<String>,
    pub(super) lifetime: Option<Span>,
    pub(super) algorithm: Option<JwtAlgorithm>,
    pub(super) key_file: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum JwtAlgorithm {
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "RS256")]
    Rs256,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Protocol {
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "5")]
    V5,
    #[serde(rename = "3.1.1")]
    V3_1_1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum TlsMin {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Topics {
    pub(super) prefix: Option<String>,
    pub(super) reading: Option<String>,
    pub(super) command: Option<String>,
    pub(super) request: Option<String>,
    pub(super) subscribe: Option<String>,
    pub(super) reply: Option<String>,
    pub(super) device_status: Option<String>,
    pub(super) gateway_status: Option<String>,
    pub(super) loss: Option<String>,
    pub(super) update: Option<String>,
    pub(super) update_hint: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Mqtt {
    pub(super) listen: Option<Vec<SocketAddr>>,
    pub(super) insecure_listen: Option<Vec<String>>,
    pub(super) certificate_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) client_ca_file: Option<String>,
    pub(super) max_clients: Option<u32>,
    pub(super) mirror: Option<Mirror>,
    pub(super) max_queued: Option<u32>,
    pub(super) retained_share: Option<u8>,
    pub(super) jwt_audience: Option<String>,
    pub(super) mqtt311_deny: Option<DenyOn311>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Mirror {
    Flag(bool),
    Topic(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DenyOn311 {
    Close,
    Drop,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Coap {
    pub(super) listen: Option<Vec<SocketAddr>>,
    pub(super) insecure_listen: Option<Vec<SocketAddr>>,
    pub(super) insecure_device: Option<String>,
    pub(super) max_sessions: Option<u32>,
    pub(super) max_half_open: Option<u32>,
    pub(super) idle_timeout: Option<Span>,
    pub(super) max_session_lifetime: Option<Span>,
    pub(super) certificate: Option<String>,
    pub(super) certificate_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) client_ca_file: Option<String>,
    pub(super) crl_file: Option<String>,
    pub(super) crl_url: Option<String>,
    pub(super) crl_period: Option<Span>,
    pub(super) crl_expired: Option<CrlExpired>,
    pub(super) persist_sessions: Option<bool>,
    pub(super) engine: Option<DtlsEngine>,
    pub(super) require_ems: Option<bool>,
    pub(super) connection_id: Option<bool>,
    pub(super) mtu: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DtlsEngine {
    Tombolo,
    Dimpl,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Role {
    pub(super) enabled: Option<bool>,
    pub(super) includes: Option<Vec<String>>,
    pub(super) quota: Quota,
    pub(super) max_payload: Option<u32>,
    pub(super) offline_after: Option<Span>,
    pub(super) max_sessions: Option<u32>,
    pub(super) max_handshakes: Option<u32>,
    pub(super) query: Option<QueryUse>,
    pub(super) uplink: BTreeMap<String, Uplink>,
    pub(super) downlink: BTreeMap<String, Downlink>,
    pub(super) mailbox: Mailbox,
    pub(super) firmware: Option<String>,
    pub(super) firmware_version_path: Option<String>,
    pub(super) firmware_version_field: Option<String>,
    pub(super) local_publish: BTreeMap<String, Local>,
    pub(super) local_subscribe: BTreeMap<String, Local>,
    pub(super) on_behalf: BTreeMap<String, OnBehalf>,
    pub(super) observe: BTreeMap<String, Served>,
    pub(super) poll: BTreeMap<String, Served>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Local {
    pub(super) enabled: Option<bool>,
    pub(super) deny: Option<bool>,
    pub(super) topic: Option<String>,
    /// Of `local-publish` alone, as the schema has it.
    pub(super) retain: Option<bool>,
    /// Of `local-publish` alone.
    pub(super) qos: Option<u8>,
    /// Of `local-subscribe` alone, as all that follow.
    pub(super) content_formats: Option<Vec<String>>,
    pub(super) when: Option<Vec<Condition>>,
    pub(super) on_change: Option<bool>,
    pub(super) dead_band: Option<f64>,
    pub(super) dead_band_field: Option<String>,
    pub(super) min_interval: Option<Span>,
}

/// An element of `when`: one comparison, or `any` of several, which have no `any` themselves.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Condition {
    pub(super) field: Option<String>,
    pub(super) above: Option<f64>,
    pub(super) below: Option<f64>,
    pub(super) at_least: Option<f64>,
    pub(super) at_most: Option<f64>,
    pub(super) is: Option<Operand>,
    pub(super) is_not: Option<Operand>,
    pub(super) one_of: Option<Vec<Operand>>,
    pub(super) present: Option<bool>,
    pub(super) any: Option<Vec<Condition>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Operand {
    Flag(bool),
    Number(f64),
    Text(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Quota {
    pub(super) messages: Option<u32>,
    pub(super) bytes: Option<u64>,
    pub(super) per: Option<Span>,
    pub(super) burst: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Uplink {
    pub(super) enabled: Option<bool>,
    pub(super) path: Option<String>,
    pub(super) deny: Option<bool>,
    pub(super) topic: Option<String>,
    pub(super) qos: Option<u8>,
    pub(super) retain: Option<bool>,
    pub(super) lane: Option<Lane>,
    pub(super) expires: Option<Span>,
    pub(super) envelope: Option<Envelope>,
    pub(super) delete: Option<bool>,
    pub(super) query: Option<QueryUse>,
    pub(super) max_payload: Option<u32>,
    pub(super) content_formats: Option<Vec<String>>,
    pub(super) when: Option<Vec<Condition>>,
    pub(super) on_change: Option<bool>,
    pub(super) dead_band: Option<f64>,
    pub(super) dead_band_field: Option<String>,
    pub(super) min_interval: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum QueryUse {
    Publish,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Lane {
    High,
    Normal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Envelope {
    None,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Deliver {
    Auto,
    Request,
    Observe,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Downlink {
    pub(super) enabled: Option<bool>,
    pub(super) deny: Option<bool>,
    pub(super) topic: Option<String>,
    pub(super) path: Option<String>,
    pub(super) deliver: Option<Deliver>,
    pub(super) idempotent: Option<bool>,
    pub(super) latest_wins: Option<bool>,
    pub(super) expires: Option<Span>,
    pub(super) answer_within: Option<Span>,
}

/// Of `observe` and of `poll`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Served {
    pub(super) enabled: Option<bool>,
    pub(super) path: Option<String>,
    pub(super) query: Option<String>,
    pub(super) accept: Option<String>,
    pub(super) block_size: Option<u16>,
    #[serde(rename = "as")]
    pub(super) reading: Option<String>,
    /// Of `poll` alone, as the schema has it.
    pub(super) every: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct OnBehalf {
    pub(super) enabled: Option<bool>,
    pub(super) deny: Option<bool>,
    pub(super) path: Option<String>,
    pub(super) roles: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Mailbox {
    pub(super) messages: Option<u32>,
    pub(super) bytes: Option<u64>,
    pub(super) expires: Option<Span>,
    pub(super) when_full: Option<WhenFull>,
    pub(super) awake_for: Option<Span>,
    pub(super) always_awake: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Device {
    pub(super) enabled: Option<bool>,
    pub(super) role: Option<String>,
    pub(super) label: Option<String>,
    pub(super) tags: Tags,
    pub(super) parent: Option<String>,
    pub(super) psk_identity: Option<String>,
    pub(super) psk_file: Option<String>,
    pub(super) mqtt_username: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) certificate_uri: Option<String>,
    pub(super) certificate_dns: Option<String>,
    pub(super) certificate_cn: Option<String>,
    pub(super) certificate_issuer: Option<String>,
    pub(super) public_key_file: Option<String>,
    pub(super) public_key: Option<String>,
    pub(super) offline_after: Option<Span>,
    pub(super) observe: BTreeMap<String, Served>,
    pub(super) poll: BTreeMap<String, Served>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Fleet {
    pub(super) enabled: Option<bool>,
    pub(super) role: Option<String>,
    pub(super) label: Option<String>,
    pub(super) tags: Tags,
    pub(super) certificate_uri: Option<String>,
    pub(super) certificate_dns: Option<String>,
    pub(super) certificate_cn: Option<String>,
    pub(super) certificate_issuer: Option<String>,
    pub(super) max_devices: Option<u32>,
    pub(super) offline_after: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Serial {
    pub(super) enabled: Option<bool>,
    pub(super) port: Option<String>,
    pub(super) role: Option<String>,
    pub(super) label: Option<String>,
    pub(super) tags: Tags,
    pub(super) offline_after: Option<Span>,
    pub(super) baud: Option<u32>,
    pub(super) data_bits: Option<u8>,
    pub(super) parity: Option<Parity>,
    pub(super) stop_bits: Option<u8>,
    pub(super) flow_control: Option<FlowControl>,
    pub(super) rs485: Option<Rs485>,
    pub(super) framing: Option<Framing>,
    pub(super) max_frame: Option<u32>,
    pub(super) checksum: Option<Checksum>,
    pub(super) skip_first: Option<bool>,
    pub(super) checksum_order: Option<ByteOrder>,
    pub(super) checksum_text: Option<bool>,
    pub(super) checksum_from: Option<u8>,
    pub(super) checksum_apart: Option<u8>,
    pub(super) checksum_tail: Option<u8>,
    pub(super) checksum_mark: Option<String>,
    pub(super) keep: Option<u8>,
    pub(super) whole: Option<bool>,
    pub(super) line_end: Option<String>,
    pub(super) length_bytes: Option<u8>,
    pub(super) length_order: Option<ByteOrder>,
    pub(super) length_offset: Option<u8>,
    pub(super) length_adjust: Option<f64>,
    pub(super) gap: Option<Span>,
    pub(super) size: Option<u32>,
    pub(super) start: Option<String>,
    pub(super) end: Option<String>,
    pub(super) escape: Option<String>,
    pub(super) label_end: Option<String>,
    pub(super) interleaved_start: Option<String>,
    pub(super) interleaved_end: Option<String>,
    pub(super) form: Option<Form>,
    pub(super) charset: Option<Charset>,
    pub(super) decimal: Option<Decimal>,
    pub(super) pattern: Option<String>,
    pub(super) path: Option<String>,
    pub(super) field: BTreeMap<String, Field>,
    pub(super) poll: Option<String>,
    pub(super) poll_period: Option<Span>,
    pub(super) poll_timeout: Option<Span>,
    pub(super) poll_echo: Option<bool>,
    pub(super) wake: Option<String>,
    pub(super) wake_pause: Option<Span>,
    pub(super) writable: Option<bool>,
    pub(super) answer: Option<String>,
    pub(super) answer_timeout: Option<Span>,
    /// The port is a Modbus bus.
    pub(super) modbus: Option<BusTable>,
    /// Its units, by address.
    pub(super) unit: BTreeMap<String, UnitTable>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Parity {
    None,
    Even,
    Odd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FlowControl {
    None,
    Hardware,
    Software,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Rs485 {
    None,
    RtsHigh,
    RtsLow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Framing {
    Line,
    Slip,
    Cobs,
    Length,
    Gap,
    Fixed,
    Markers,
    Slipmux,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Checksum {
    #[serde(rename = "none")]
    None,
    #[serde(rename = "crc16-modbus")]
    Crc16Modbus,
    #[serde(rename = "crc16-ccitt")]
    Crc16Ccitt,
    #[serde(rename = "crc16-arc")]
    Crc16Arc,
    #[serde(rename = "crc16-xmodem")]
    Crc16Xmodem,
    #[serde(rename = "crc16-kermit")]
    Crc16Kermit,
    #[serde(rename = "crc16-x25")]
    Crc16X25,
    #[serde(rename = "crc32")]
    Crc32,
    #[serde(rename = "xor")]
    Xor,
    #[serde(rename = "sum")]
    Sum,
    #[serde(rename = "sum-negated")]
    SumNegated,
    #[serde(rename = "sum16")]
    Sum16,
    #[serde(rename = "sum16-negated")]
    Sum16Negated,
    #[serde(rename = "linky")]
    Linky,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ByteOrder {
    Big,
    Little,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    Raw,
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Decimal {
    #[serde(rename = ".")]
    Point,
    #[serde(rename = ",")]
    Comma,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Field {
    #[serde(rename = "type")]
    pub(super) kind: Option<FieldKind>,
    pub(super) decimal: Option<Decimal>,
    pub(super) factor: Option<f64>,
    pub(super) offset: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FieldKind {
    Auto,
    Number,
    Hex,
    Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Journal {
    pub(super) max_bytes: Option<u64>,
    pub(super) commit_interval: Option<Span>,
    pub(super) segment_bytes: Option<u32>,
    pub(super) rejected_max_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Lanes {
    pub(super) high: LaneTable,
    pub(super) normal: LaneTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct LaneTable {
    pub(super) max_bytes: Option<u64>,
    pub(super) when_full: Option<WhenFull>,
    pub(super) device_share: Option<u8>,
    pub(super) daily_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WhenFull {
    Refuse,
    DropOldest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Clock {
    pub(super) trust: Option<Trust>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trust {
    Kernel,
    Always,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) level: Option<LogLevel>,
    pub(super) target: Option<LogTarget>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogTarget {
    Auto,
    Journal,
    Stderr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Remote {
    pub(super) allow: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Update {
    pub(super) source: Option<UpdateSource>,
    pub(super) url: Option<String>,
    pub(super) metadata_url: Option<String>,
    pub(super) targets_url: Option<String>,
    pub(super) root_file: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) period: Option<Span>,
    pub(super) backend: Option<UpdateBackend>,
    pub(super) maintenance_window: Option<String>,
    pub(super) compatible: Option<String>,
    pub(super) hardware: Option<String>,
    pub(super) health_timeout: Option<Span>,
    pub(super) daily_budget: Option<u64>,
    pub(super) firmware_disk: Option<u64>,
    pub(super) firmware_steps: Option<String>,
    pub(super) firmware_step_after: Option<Span>,
    pub(super) firmware_report_within: Option<Span>,
    pub(super) firmware_failures: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum UpdateSource {
    None,
    Apt,
    Tuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum UpdateBackend {
    None,
    Rauc,
    Apt,
    Exec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub(super) listen: Option<Vec<SocketAddr>>,
    pub(super) allow_remote: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Paths {
    pub(super) state_dir: Option<String>,
    pub(super) runtime_dir: Option<String>,
}

/// A duration, written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Span).ok_or_else(|| D::Error::custom("not a duration"))
    }
}
