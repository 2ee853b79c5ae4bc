//! All configuration keys: the kind and bounds of each, and whether a reload can change it.
//!
//! One list is used for the check of every layer (unknown keys, types, bounds, suggestions), the
//! mapping of environment variables, and the comparison at reload; tests compare the shipped
//! `tombolo.toml` and the serde model with it. Conditions on two keys are in `validate`.

use std::time::Duration;

use super::scalar::{format_duration, format_size};
use crate::gate::certificate::NAME_MAX as CERTIFICATE_NAME_MAX;
use crate::gate::login::USERNAME_MAX;
use crate::journal::settings::REJECTED_BYTES_MAX;

/// The kind of a key's value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text of 1 to this many bytes without control characters.
    Text(usize),
    /// Text of 1 to this many bytes, control characters included.
    Raw(usize),
    /// A name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
    Name,
    /// `true` or `false`.
    Flag,
    /// A whole number within bounds, both included.
    Whole(u64, u64),
    /// The address of a Modbus register, also as a manual prints it.
    Register,
    /// A number within bounds, both included; with or without a fraction.
    Number(f64, f64),
    /// A number of bytes within bounds, both included: `"64KiB"`, or an integer.
    Size(u64, u64),
    /// A duration within bounds, both included: `"60s"`.
    Span(Duration, Duration),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of `"address:port"`.
    Addresses,
    /// A list of texts, each of 1 to 255 bytes.
    Texts,
    /// A number, a text or `true` or `false`, to be compared with.
    Operand,
    /// A list of them.
    Operands,
    /// A list of tables, each with these keys.
    Tables(&'static [Key]),
    /// A path, relative to the file that contains the key.
    Path,
    /// A path to a secret, or `credential:NAME`.
    Secret,
    /// The broker's URL; its value is never shown, because it may contain a password.
    Url,
    /// A topic or a topic template; `""` switches it off.
    Topic,
    /// Spans of time; empty text is not the default, and is refused with its reason.
    Spans,
    /// `true`, `false`, or a topic template.
    FlagOrTopic,
    /// A key or password itself, which is not allowed in the configuration; the text is the remedy.
    Forbidden(&'static str),
    /// Reserved; the text names the feature.
    Reserved(&'static str),
    /// A table of these keys.
    Table(&'static [Key]),
    /// A table of tags: names with texts, both chosen by the user.
    Tags,
    /// A table of tables with names chosen by the user, each with these keys.
    Named(&'static [Key]),
}

/// One key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name in kebab-case.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: Kind,
    /// Whether a reload can change it; otherwise a reload that changes it is refused.
    pub reloadable: bool,
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, reloadable: true }
}

/// A key that only a restart can change.
const fn fixed(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, reloadable: false }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const DAY: u64 = 86_400;
/// A year as defined by `humantime`, in seconds, so that bounds are printed as round numbers.
const YEAR: u64 = 31_557_600;
/// The longest expiry.
const YEARS_10: u64 = 10 * YEAR;

/// The tables of the configuration.
pub const ROOT: &[Key] = &[
    key("gateway", Kind::Table(GATEWAY)),
    key("upstream", Kind::Table(UPSTREAM)),
    key("certificate", Kind::Named(CERTIFICATE)),
    key("topics", Kind::Table(TOPICS)),
    key("coap", Kind::Table(COAP)),
    key("mqtt", Kind::Table(MQTT)),
    key("serial", Kind::Named(SERIAL)),
    key("role", Kind::Named(ROLE)),
    key("device", Kind::Named(DEVICE)),
    key("fleet", Kind::Named(FLEET)),
    key("journal", Kind::Table(JOURNAL)),
    key("lane", Kind::Table(LANES)),
    key("clock", Kind::Table(CLOCK)),
    key("log", Kind::Table(LOG)),
    key("update", Kind::Table(UPDATE)),
    key("metrics", Kind::Table(METRICS)),
    key("remote", Kind::Table(REMOTE)),
    key("paths", Kind::Table(PATHS)),
];

const GATEWAY: &[Key] = &[key("id", Kind::Name), key("label", Kind::Text(256))];

const UPSTREAM: &[Key] = &[
    key("url", Kind::Url),
    key("insecure", Kind::Flag),
    key("ca-file", Kind::Path),
    key("crl-file", Kind::Path),
    key("crl-url", Kind::Text(2_000)),
    key("crl-period", Kind::Span(seconds(60), seconds(30 * DAY))),
    key("crl-expired", Kind::Choice(&["accept", "refuse"])),
    fixed("certificate", Kind::Name),
    key("certificate-file", Kind::Path),
    key("key-file", Kind::Secret),
    key("key-password-file", Kind::Secret),
    key("pin-sha256", Kind::Texts),
    key("username", Kind::Text(65_535)),
    key("password-file", Kind::Secret),
    key(
        "password",
        Kind::Forbidden("put it into a file of its own, mode 0640, and name that with password-file"),
    ),
    key("client-id", Kind::Text(65_535)),
    key("probe-client-id", Kind::Text(65_535)),
    key("alpn", Kind::Texts),
    key("protocol", Kind::Choice(&["auto", "5", "3.1.1"])),
    key("session-expiry", Kind::Span(seconds(0), seconds(YEARS_10))),
    key("keep-alive", Kind::Span(seconds(5), seconds(18 * 3600))),
    key("max-in-flight", Kind::Whole(1, 65_535)),
    key("drain-rate", Kind::Whole(0, 1_000_000)),
    key("max-publish-rate", Kind::Whole(0, 1_000_000)),
    key("max-byte-rate", Kind::Size(0, TIB)),
    key("answer-timeout", Kind::Span(seconds(5), seconds(600))),
    key("retry-rejected", Kind::Span(seconds(0), seconds(30 * DAY))),
    key("tls-min", Kind::Choice(&["1.2", "1.3"])),
    key("proxy", Kind::Reserved("connections through a proxy")),
    key("jwt", Kind::Table(JWT)),
];

const JWT: &[Key] = &[
    key("audience", Kind::Text(1024)),
    key("lifetime", Kind::Span(seconds(300), seconds(DAY))),
    key("algorithm", Kind::Choice(&["ES256", "EdDSA", "RS256"])),
    key("key-file", Kind::Secret),
];

const CERTIFICATE: &[Key] = &[
    fixed("source", Kind::Choice(&["est", "exec", "manual"])),
    fixed("est-url", Kind::Text(2_000)),
    fixed("est-ca-file", Kind::Path),
    fixed("est-ca-sha256", Kind::Text(95)),
    fixed("username", Kind::Text(255)),
    fixed("password-file", Kind::Secret),
    fixed(
        "password",
        Kind::Forbidden("put it into a file of its own, mode 0640, and name that with password-file"),
    ),
    fixed("command", Kind::Texts),
    fixed("timeout", Kind::Span(seconds(5), seconds(600))),
    fixed("bootstrap-certificate-file", Kind::Path),
    fixed("bootstrap-key-file", Kind::Secret),
    fixed("subject", Kind::Text(1024)),
    fixed("dns", Kind::Texts),
    fixed("uri", Kind::Texts),
    fixed("reuse-key", Kind::Flag),
    fixed("renew-at", Kind::Text(8)),
    fixed("renew-before", Kind::Span(seconds(60), seconds(YEARS_10))),
    fixed("trust", Kind::Choice(&["none", "est"])),
    fixed("key", Kind::Choice(&["file", "pkcs11"])),
    fixed("pkcs11-module", Kind::Path),
    fixed("pkcs11-token", Kind::Text(32)),
    fixed("pin-file", Kind::Secret),
    fixed("pin", Kind::Forbidden("put it into a file of its own, mode 0600, and name that with pin-file")),
];

const TOPICS: &[Key] = &[
    key("prefix", Kind::Topic),
    key("reading", Kind::Topic),
    key("command", Kind::Topic),
    key("request", Kind::Topic),
    key("subscribe", Kind::Topic),
    key("reply", Kind::Topic),
    key("device-status", Kind::Topic),
    key("gateway-status", Kind::Topic),
    key("loss", Kind::Topic),
    key("update", Kind::Topic),
    key("update-hint", Kind::Topic),
];

const COAP: &[Key] = &[
    fixed("listen", Kind::Addresses),
    fixed("insecure-listen", Kind::Addresses),
    key("insecure-device", Kind::Name),
    fixed("max-sessions", Kind::Whole(1, 1_000_000)),
    fixed("max-half-open", Kind::Whole(1, 100_000)),
    fixed("idle-timeout", Kind::Span(seconds(60), seconds(YEAR))),
    key("max-session-lifetime", Kind::Span(seconds(60), seconds(YEARS_10))),
    fixed("persist-sessions", Kind::Flag),
    fixed("engine", Kind::Choice(&["tombolo", "dimpl"])),
    key("require-ems", Kind::Flag),
    key("connection-id", Kind::Flag),
    key("mtu", Kind::Whole(200, 16_384)),
    fixed("certificate", Kind::Name),
    key("certificate-file", Kind::Path),
    key("key-file", Kind::Secret),
    key("client-ca-file", Kind::Path),
    key("crl-file", Kind::Path),
    key("crl-url", Kind::Text(2_000)),
    key("crl-period", Kind::Span(seconds(60), seconds(30 * DAY))),
    key("crl-expired", Kind::Choice(&["accept", "refuse"])),
];

const MQTT: &[Key] = &[
    key("listen", Kind::Addresses),
    key("insecure-listen", Kind::Texts),
    key("certificate-file", Kind::Path),
    key("key-file", Kind::Secret),
    key("client-ca-file", Kind::Path),
    key("max-clients", Kind::Whole(1, 100_000)),
    key("mirror", Kind::FlagOrTopic),
    key("max-queued", Kind::Whole(0, 10_000)),
    key("retained-share", Kind::Whole(1, 100)),
    key("jwt-audience", Kind::Text(255)),
    key("mqtt311-deny", Kind::Choice(&["close", "drop"])),
];

const REMOTE: &[Key] = &[key("allow", Kind::Texts)];

const ROLE: &[Key] = &[
    key("enabled", Kind::Flag),
    key("includes", Kind::Texts),
    key("quota", Kind::Table(QUOTA)),
    key("max-payload", Kind::Size(1, 64 * KIB)),
    key("offline-after", Kind::Span(seconds(10), seconds(YEARS_10))),
    key("max-sessions", Kind::Whole(1, 1_000_000)),
    key("max-handshakes", Kind::Whole(1, 100_000)),
    key("query", Kind::Choice(&["publish", "refuse"])),
    key("uplink", Kind::Named(UPLINK)),
    key("downlink", Kind::Named(DOWNLINK)),
    key("mailbox", Kind::Table(MAILBOX)),
    key("firmware", Kind::Name),
    key("firmware-version-path", Kind::Text(255)),
    key("firmware-version-field", Kind::Text(255)),
    key("local-publish", Kind::Named(LOCAL_PUBLISH)),
    key("local-subscribe", Kind::Named(LOCAL_SUBSCRIBE)),
    key("on-behalf", Kind::Named(ON_BEHALF)),
    key("observe", Kind::Named(OBSERVE)),
    key("poll", Kind::Named(POLL)),
];

const OBSERVE: &[Key] = &[
    key("enabled", Kind::Flag),
    key("path", Kind::Text(255)),
    key("query", Kind::Text(255)),
    key("accept", Kind::Text(255)),
    key("block-size", Kind::Whole(16, 1_024)),
    key("as", Kind::Text(255)),
];

const POLL: &[Key] = &[
    key("enabled", Kind::Flag),
    key("path", Kind::Text(255)),
    key("query", Kind::Text(255)),
    key("accept", Kind::Text(255)),
    key("block-size", Kind::Whole(16, 1_024)),
    key("as", Kind::Text(255)),
    key("every", Kind::Span(seconds(1), seconds(30 * DAY))),
];

const ON_BEHALF: &[Key] = &[
    key("enabled", Kind::Flag),
    key("deny", Kind::Flag),
    key("path", Kind::Text(255)),
    key("roles", Kind::Texts),
];

const LOCAL_PUBLISH: &[Key] = &[
    key("enabled", Kind::Flag),
    key("deny", Kind::Flag),
    key("topic", Kind::Text(1024)),
    key("retain", Kind::Flag),
    key("qos", Kind::Whole(0, 2)),
];

const LOCAL_SUBSCRIBE: &[Key] = &[
    key("enabled", Kind::Flag),
    key("deny", Kind::Flag),
    key("topic", Kind::Text(1024)),
    key("content-formats", Kind::Texts),
    key("when", Kind::Tables(CONDITION)),
    key("on-change", Kind::Flag),
    key("dead-band", Kind::Number(0.0, 1e12)),
    key("dead-band-field", Kind::Text(255)),
    key("min-interval", Kind::Span(Duration::from_millis(100), seconds(DAY))),
];

/// Whole numbers up to here, and further, are exact as 64-bit floating-point numbers.
const LIMIT: Kind = Kind::Number(-1e15, 1e15);
const FIELD_POINTER: Key = key("field", Kind::Text(255));
const ABOVE: Key = key("above", LIMIT);
const BELOW: Key = key("below", LIMIT);
const AT_LEAST: Key = key("at-least", LIMIT);
const AT_MOST: Key = key("at-most", LIMIT);
const IS: Key = key("is", Kind::Operand);
const IS_NOT: Key = key("is-not", Kind::Operand);
const ONE_OF: Key = key("one-of", Kind::Operands);
const PRESENT: Key = key("present", Kind::Flag);

const COMPARISON: &[Key] = &[FIELD_POINTER, ABOVE, BELOW, AT_LEAST, AT_MOST, IS, IS_NOT, ONE_OF, PRESENT];

const CONDITION: &[Key] = &[
    FIELD_POINTER,
    ABOVE,
    BELOW,
    AT_LEAST,
    AT_MOST,
    IS,
    IS_NOT,
    ONE_OF,
    PRESENT,
    key("any", Kind::Tables(COMPARISON)),
];

const QUOTA: &[Key] = &[
    key("messages", Kind::Whole(1, 1_000_000)),
    key("bytes", Kind::Size(1, 1024 * MIB)),
    key("per", Kind::Span(seconds(1), seconds(DAY))),
    key("burst", Kind::Whole(1, 1_000_000)),
];

const UPLINK: &[Key] = &[
    key("enabled", Kind::Flag),
    key("path", Kind::Text(255)),
    key("deny", Kind::Flag),
    key("topic", Kind::Text(1024)),
    key("qos", Kind::Whole(0, 1)),
    key("retain", Kind::Flag),
    key("lane", Kind::Choice(&["high", "normal"])),
    key("expires", Kind::Span(seconds(1), seconds(YEARS_10))),
    key("envelope", Kind::Choice(&["none", "json"])),
    key("delete", Kind::Flag),
    key("query", Kind::Choice(&["publish", "refuse"])),
    key("max-payload", Kind::Size(1, 64 * KIB)),
    key("content-formats", Kind::Texts),
    key("when", Kind::Tables(CONDITION)),
    key("on-change", Kind::Flag),
    key("dead-band", Kind::Number(0.0, 1e12)),
    key("dead-band-field", Kind::Text(255)),
    key("min-interval", Kind::Span(Duration::from_millis(100), seconds(DAY))),
];

const DOWNLINK: &[Key] = &[
    key("enabled", Kind::Flag),
    key("deny", Kind::Flag),
    key("topic", Kind::Text(1024)),
    key("path", Kind::Text(255)),
    key("deliver", Kind::Choice(&["auto", "request", "observe"])),
    key("idempotent", Kind::Flag),
    key("latest-wins", Kind::Flag),
    key("expires", Kind::Span(seconds(1), seconds(YEARS_10))),
    key("answer-within", Kind::Span(seconds(1), seconds(3600))),
];

const MAILBOX: &[Key] = &[
    key("messages", Kind::Whole(1, 1024)),
    key("bytes", Kind::Size(1, MIB)),
    key("expires", Kind::Span(seconds(1), seconds(YEARS_10))),
    key("when-full", Kind::Choice(&["refuse", "drop-oldest"])),
    key("awake-for", Kind::Span(seconds(1), seconds(DAY))),
    key("always-awake", Kind::Flag),
];

const DEVICE: &[Key] = &[
    key("enabled", Kind::Flag),
    key("role", Kind::Name),
    key("label", Kind::Text(256)),
    key("tags", Kind::Tags),
    key("parent", Kind::Name),
    // Longer ones are refused by what an identity is, in bytes.
    key("psk-identity", Kind::Text(1024)),
    key("psk-file", Kind::Secret),
    key("psk", Kind::Forbidden("put it into a file of its own, mode 0640, and name that with psk-file")),
    key("mqtt-username", Kind::Text(USERNAME_MAX)),
    key("password-file", Kind::Secret),
    key(
        "password",
        Kind::Forbidden("put it into a file of its own, mode 0640, and name that with password-file"),
    ),
    key("certificate-uri", Kind::Text(CERTIFICATE_NAME_MAX)),
    key("certificate-dns", Kind::Text(CERTIFICATE_NAME_MAX)),
    key("certificate-cn", Kind::Text(CERTIFICATE_NAME_MAX)),
    key("certificate-issuer", Kind::Text(CERTIFICATE_NAME_MAX)),
    key("public-key-file", Kind::Path),
    key("public-key", Kind::Text(71)),
    key("offline-after", Kind::Span(seconds(10), seconds(YEARS_10))),
    key("observe", Kind::Named(OBSERVE)),
    key("poll", Kind::Named(POLL)),
];

const FLEET: &[Key] = &[
    key("enabled", Kind::Flag),
    key("role", Kind::Name),
    key("label", Kind::Text(256)),
    key("tags", Kind::Tags),
    key("certificate-uri", Kind::Text(CERTIFICATE_NAME_MAX)),
    key("certificate-dns", Kind::Text(CERTIFICATE_NAME_MAX)),
    key("certificate-cn", Kind::Text(CERTIFICATE_NAME_MAX)),
    key("certificate-issuer", Kind::Text(CERTIFICATE_NAME_MAX)),
    key("max-devices", Kind::Whole(1, crate::gate::plan::FLEET_MAX as u64)),
    key("offline-after", Kind::Span(seconds(10), seconds(YEARS_10))),
];

const SERIAL: &[Key] = &[
    key("enabled", Kind::Flag),
    key("port", Kind::Text(4096)),
    key("role", Kind::Name),
    key("label", Kind::Text(256)),
    key("tags", Kind::Tags),
    key("offline-after", Kind::Span(seconds(10), seconds(YEARS_10))),
    key("baud", Kind::Whole(50, 4_000_000)),
    key("data-bits", Kind::Whole(5, 8)),
    key("parity", Kind::Choice(&["none", "even", "odd"])),
    key("stop-bits", Kind::Whole(1, 2)),
    key("flow-control", Kind::Choice(&["none", "hardware", "software"])),
    key("rs485", Kind::Choice(&["none", "rts-high", "rts-low"])),
    key("framing", Kind::Choice(&["line", "slip", "cobs", "length", "gap", "fixed", "markers", "slipmux"])),
    key("max-frame", Kind::Size(1, 16 * KIB)),
    key(
        "checksum",
        Kind::Choice(&[
            "none",
            "crc16-modbus",
            "crc16-ccitt",
            "crc16-arc",
            "crc16-xmodem",
            "crc16-kermit",
            "crc16-x25",
            "crc32",
            "xor",
            "sum",
            "sum-negated",
            "sum16",
            "sum16-negated",
            "linky",
        ]),
    ),
    key("skip-first", Kind::Flag),
    key("checksum-order", Kind::Choice(&["big", "little"])),
    key("checksum-text", Kind::Flag),
    key("checksum-from", Kind::Whole(0, 64)),
    key("checksum-apart", Kind::Whole(0, 8)),
    key("checksum-tail", Kind::Whole(0, 8)),
    key("checksum-mark", Kind::Text(32)),
    key("keep", Kind::Whole(1, 8)),
    key("whole", Kind::Flag),
    key("label-end", Kind::Text(32)),
    key("interleaved-start", Kind::Text(32)),
    key("interleaved-end", Kind::Text(32)),
    // With control characters, so that each gets the word for it.
    key("line-end", Kind::Raw(64)),
    key("length-bytes", Kind::Whole(1, 4)),
    key("length-order", Kind::Choice(&["big", "little"])),
    key("length-offset", Kind::Whole(0, 16)),
    key("length-adjust", Kind::Number(-64.0, 64.0)),
    key("gap", Kind::Span(Duration::from_millis(2), seconds(60))),
    key("size", Kind::Size(1, 16 * KIB)),
    key("start", Kind::Text(32)),
    key("end", Kind::Text(32)),
    key("escape", Kind::Text(32)),
    key("form", Kind::Choice(&["raw", "text", "json"])),
    key("charset", Kind::Choice(&["utf-8", "latin-1", "windows-1252"])),
    key("decimal", Kind::Choice(&[".", ","])),
    key("pattern", Kind::Text(1024)),
    key("path", Kind::Text(255)),
    key("field", Kind::Named(FIELD)),
    key("poll", Kind::Raw(1024)),
    key("poll-period", Kind::Span(Duration::from_millis(50), seconds(DAY))),
    key("poll-timeout", Kind::Span(Duration::from_millis(10), seconds(60))),
    key("poll-echo", Kind::Flag),
    key("wake", Kind::Raw(1024)),
    key("wake-pause", Kind::Span(Duration::ZERO, seconds(10))),
    key("writable", Kind::Flag),
    key("answer", Kind::Text(1024)),
    key("answer-timeout", Kind::Span(Duration::from_millis(10), seconds(60))),
    key("modbus", Kind::Table(MODBUS)),
    key("unit", Kind::Named(UNIT)),
];

const MODBUS: &[Key] = &[
    key("timeout", Kind::Span(Duration::from_millis(10), seconds(60))),
    key("pause", Kind::Span(seconds(0), seconds(10))),
    key("max-requests-per-second", Kind::Whole(1, 1000)),
    key("backoff", Kind::Span(Duration::from_millis(100), seconds(3600))),
    key("backoff-max", Kind::Span(Duration::from_millis(100), seconds(3600))),
    key("echo", Kind::Flag),
    key("mode", Kind::Choice(&["rtu", "ascii"])),
    key("max-registers", Kind::Whole(1, 125)),
    key("max-gap", Kind::Whole(0, 124)),
    key("transaction-id", Kind::Choice(&["check", "ignore"])),
];

const UNIT: &[Key] = &[
    key("enabled", Kind::Flag),
    key("id", Kind::Name),
    key("role", Kind::Name),
    key("label", Kind::Text(256)),
    key("tags", Kind::Tags),
    key("offline-after", Kind::Span(seconds(10), seconds(YEARS_10))),
    key("template", Kind::Name),
    key("path", Kind::Text(255)),
    key("period", Kind::Span(Duration::from_millis(50), seconds(DAY))),
    key("jitter", Kind::Span(seconds(0), seconds(DAY))),
    key("publish", Kind::Choice(&["always", "change"])),
    key("max-unchanged", Kind::Span(seconds(0), seconds(DAY))),
    key("max-registers", Kind::Whole(1, 125)),
    key("max-gap", Kind::Whole(0, 124)),
    key("pause", Kind::Span(seconds(0), seconds(10))),
    key("timeout", Kind::Span(Duration::from_millis(10), seconds(60))),
    key("numbering", Kind::Choice(&["wire", "manual"])),
    key("byte-count", Kind::Choice(&["bytes", "registers"])),
    key("register", Kind::Named(REGISTER)),
];

const REGISTER: &[Key] = &[
    key("enabled", Kind::Flag),
    key("name", Kind::Text(64)),
    key("table", Kind::Choice(&["coil", "discrete", "holding", "input"])),
    key("address", Kind::Register),
    key(
        "type",
        Kind::Choice(&[
            "bool", "u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bcd2", "bcd4",
            "bcd8", "string",
        ]),
    ),
    key("length", Kind::Whole(1, 125)),
    key("bit", Kind::Whole(0, 15)),
    key("byte", Kind::Choice(&["high", "low"])),
    key("mask", Kind::Text(18)),
    key("bits", Kind::Texts),
    key("values", Kind::Texts),
    key("characters", Kind::Whole(1, 2)),
    key("charset", Kind::Choice(&["utf-8", "latin-1", "windows-1252"])),
    key("scale-from", Kind::Name),
    key("answer-bytes", Kind::Whole(1, 250)),
    key("scale", Kind::Number(-1e12, 1e12)),
    key("offset", Kind::Number(-1e12, 1e12)),
    key("unit", Kind::Text(64)),
    key("word-order", Kind::Choice(&["big", "little"])),
    key("byte-order", Kind::Choice(&["big", "little"])),
    key("absent", Kind::Text(500)),
    key("dead-band", Kind::Number(0.0, 1e12)),
    key("writable", Kind::Flag),
    key("min", Kind::Number(-1e19, 1e19)),
    key("max", Kind::Number(-1e19, 1e19)),
    key("write-multiple", Kind::Flag),
    key("read-back", Kind::Flag),
];

const FIELD: &[Key] = &[
    key("type", Kind::Choice(&["auto", "number", "hex", "text"])),
    key("decimal", Kind::Choice(&[".", ","])),
    key("factor", Kind::Number(-1e12, 1e12)),
    key("offset", Kind::Number(-1e12, 1e12)),
];

const JOURNAL: &[Key] = &[
    key("max-bytes", Kind::Size(8 * MIB, TIB)),
    key("commit-interval", Kind::Span(seconds(0), seconds(1))),
    fixed("segment-bytes", Kind::Size(64 * KIB, 64 * MIB)),
    key("rejected-max-bytes", Kind::Size(64 * KIB, REJECTED_BYTES_MAX)),
];

const LANES: &[Key] = &[key("high", Kind::Table(LANE)), key("normal", Kind::Table(LANE))];

const LANE: &[Key] = &[
    key("max-bytes", Kind::Size(256 * KIB, TIB)),
    key("when-full", Kind::Choice(&["refuse", "drop-oldest"])),
    key("device-share", Kind::Whole(1, 100)),
    key("daily-bytes", Kind::Size(64 * KIB, TIB)),
];

const CLOCK: &[Key] = &[key("trust", Kind::Choice(&["kernel", "always"]))];

const LOG: &[Key] = &[
    key("level", Kind::Choice(&["error", "warn", "info", "debug", "trace"])),
    fixed("target", Kind::Choice(&["auto", "journal", "stderr"])),
];

const UPDATE: &[Key] = &[
    key("source", Kind::Choice(&["none", "apt", "tuf"])),
    key("url", Kind::Text(1_900)),
    key("metadata-url", Kind::Text(1_900)),
    key("targets-url", Kind::Text(1_900)),
    key("root-file", Kind::Path),
    key("ca-file", Kind::Path),
    key("period", Kind::Span(seconds(60), seconds(30 * DAY))),
    key("backend", Kind::Choice(&["none", "rauc", "apt", "exec"])),
    key("maintenance-window", Kind::Spans),
    key("compatible", Kind::Text(128)),
    key("hardware", Kind::Text(128)),
    key("health-timeout", Kind::Span(seconds(120), seconds(DAY))),
    key("daily-budget", Kind::Size(0, TIB)),
    key("firmware-disk", Kind::Size(64 * KIB, TIB)),
    key("firmware-steps", Kind::Text(255)),
    key("firmware-step-after", Kind::Span(seconds(1), seconds(90 * DAY))),
    key("firmware-report-within", Kind::Span(seconds(1), seconds(90 * DAY))),
    key("firmware-failures", Kind::Whole(1, 100_000)),
];

const METRICS: &[Key] = &[key("listen", Kind::Addresses), key("allow-remote", Kind::Flag)];

const PATHS: &[Key] = &[fixed("state-dir", Kind::Path), fixed("runtime-dir", Kind::Path)];

/// Most values in a list of them.
pub const OPERANDS_MAX: usize = 16;
const OPERAND: &str =
    "a number from -1000000000000000 to 1000000000000000, a text of at most 64 bytes, true or false";

/// Whether a number may be compared with.
pub(super) fn is_limit(number: f64) -> bool {
    (-1e15..=1e15).contains(&number)
}

/// Sizes whose upper bound is reported but does not refuse the configuration: the upper bound is
/// used instead. Earlier versions accepted larger values, and an update must not stop such a
/// gateway.
const CAPPED: &[&[&str]] = &[&["journal", "rejected-max-bytes"]];

/// Whether a size at this key is limited to its upper bound.
pub fn is_capped(path: &[String]) -> bool {
    CAPPED.iter().any(|capped| path == *capped)
}

/// The key with this name in a table.
pub fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

impl Kind {
    /// As [`Kind::accepted`], for an environment variable.
    pub fn accepted_in_variable(self) -> String {
        match self {
        Kind::Addresses => {
            "addresses with ports, separated by commas, without brackets and quotes: [::]:5684,192.0.2.1:5684"
                .to_owned()
        }
        Kind::Texts => "texts of 1 to 255 bytes, separated by commas, without brackets and quotes".to_owned(),
        other => other.accepted(),
    }
    }

    /// The accepted values, as a text to append to "use".
    pub fn accepted(self) -> String {
        match self {
            Kind::Text(max) => format!("a text in quotes of 1 to {max} bytes without control characters"),
            Kind::Raw(max) => format!("a text in quotes of 1 to {max} bytes"),
            Kind::Name => {
                "a name in quotes: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit".to_owned()
            }
            Kind::Flag => "true or false".to_owned(),
            Kind::Whole(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Register => {
                "a whole number from 0 to 65535, or with numbering = \"manual\" from 1 to 465536".to_owned()
            }
            Kind::Number(min, max) => format!("a number from {min} to {max}"),
            Kind::Size(min, max) => {
                format!("a size from {} to {}, like \"64KiB\" or a number of bytes", format_size(min), format_size(max))
            }
            Kind::Span(min, max) => {
                format!("a duration from {} to {}, like \"60s\"", format_duration(min), format_duration(max))
            }
            Kind::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                match quoted.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => quoted.concat(),
                }
            }
            Kind::Addresses => "a list of IP addresses with ports, like [\"[::]:5684\", \"192.0.2.1:5684\"]".to_owned(),
            Kind::Texts => "a list of texts of 1 to 255 bytes, like [\"mqtt\"]".to_owned(),
            Kind::Operand => format!("{OPERAND}, like 30, \"alarm\" or true"),
            Kind::Operands => format!("a list of 1 to {OPERANDS_MAX} values, like [\"alarm\", \"warning\"]; each is {OPERAND}"),
            Kind::Tables(_) => "a list of tables, like [{ field = \"/t\", above = 30 }]".to_owned(),
            Kind::Path => "a path in quotes, absolute or relative to the file it stands in".to_owned(),
            Kind::Secret => {
                "a path in quotes, absolute or relative to the file it stands in, or \"credential:NAME\" for a systemd credential"
                    .to_owned()
            }
            Kind::Url => "\"mqtts://HOST\" or \"mqtts://HOST:PORT\"".to_owned(),
            Kind::FlagOrTopic => "true, false or a topic in quotes".to_owned(),
            Kind::Spans => "\"always\" or spans of time in quotes, at most 500 bytes".to_owned(),
            Kind::Topic => "a topic in quotes, or \"\" to switch it off".to_owned(),
            Kind::Forbidden(instead) => instead.to_owned(),
            Kind::Reserved(_) => "nothing yet: take the key out".to_owned(),
            Kind::Tags => "a table of names with texts, like { site = \"north\" }".to_owned(),
            Kind::Table(_) | Kind::Named(_) => "a table".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_said_in_words() {
        assert_eq!(Kind::Whole(1, 9).accepted(), "a whole number from 1 to 9");
        assert_eq!(Kind::Choice(&["a", "b", "c"]).accepted(), "\"a\", \"b\" or \"c\"");
        assert_eq!(
            Kind::Size(64 << 10, 64 << 20).accepted(),
            "a size from 64KiB to 64MiB, like \"64KiB\" or a number of bytes"
        );
        let span = Kind::Span(seconds(5), seconds(18 * 3600));
        assert_eq!(span.accepted(), "a duration from 5s to 18h, like \"60s\"");
    }

    #[test]
    fn keys_are_kebab_case_and_unique() {
        fn walk(keys: &[Key]) {
            for (i, key) in keys.iter().enumerate() {
                assert!(
                    key.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                    "{}",
                    key.name
                );
                assert!(keys[..i].iter().all(|other| other.name != key.name), "{}", key.name);
                if let Kind::Table(keys) | Kind::Named(keys) | Kind::Tables(keys) = key.kind {
                    walk(keys);
                }
            }
        }
        walk(ROOT);
    }
}
