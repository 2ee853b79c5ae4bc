//! The messages of the control socket: one JSON object per line in both directions. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The socket's name in the runtime directory.
pub const SOCKET_NAME: &str = "control.sock";

/// Longest request line in bytes, without line end.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Longest response line that a client accepts, in bytes: room for a status with ten thousand
/// devices.
pub const RESPONSE_MAX: usize = 16 * 1024 * 1024;

/// Most rejected records in one answer.
pub const LIST_MAX: usize = 100;

/// Approximate bytes of records in one export answer, including the overhead of each record; with
/// base64 well below [`RESPONSE_MAX`].
pub const EXPORT_BYTES: usize = 1024 * 1024;

/// Most devices in one answer: less than 2 MiB.
pub const DEVICES_MAX: usize = 1_000;

/// Most sessions in one answer: about 4 MiB.
pub const SESSIONS_MAX: usize = 20_000;

/// Longest time for which a check may announce connections beside the gateway's, in seconds.
pub const BESIDE_MAX_S: u64 = 20;

/// A topic that no reading has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckTopic {
    /// The topic.
    pub topic: String,
    /// The rule publishes with the retain flag.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retain: bool,
}

/// A request of a client. Unknown fields are refused, so that a request of a newer command is never
/// applied partly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A [`Status`](super::snapshot::Status).
    Status {},
    /// DTLS sessions, the longest idle time first: a [`SessionPage`](super::snapshot::SessionPage).
    Sessions {
        /// Restricts it to one device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// A [`Queue`](super::snapshot::Queue).
    Queue {},
    /// Rejected records, oldest first: a [`RejectedPage`](super::snapshot::RejectedPage).
    RejectedList {
        /// Starts after this record id; `None` = at the oldest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Rejected records with payload, oldest first: an [`ExportPage`](super::snapshot::ExportPage).
    RejectedExport {
        /// Starts after this number in the store; 0 = at the oldest.
        #[serde(default)]
        after: u64,
    },
    /// Sends a command to a device: a [`Sent`](super::snapshot::Sent), when it has an outcome or
    /// the wait is over. Only for root and the daemon's own user.
    Send {
        /// The device's id.
        device: String,
        /// The path at the device.
        path: String,
        /// A CoAP method.
        method: String,
        /// The payload, base64.
        #[serde(default)]
        payload: String,
        /// The content format of the payload.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_format: Option<u16>,
        /// How long its outcome is waited for, in seconds.
        #[serde(default)]
        wait_s: u64,
    },
    /// Commands that are held, oldest first: a [`MailboxPage`](super::snapshot::MailboxPage).
    MailboxList {
        /// Restricts it to one device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// Starts after this number; 0 = at the oldest.
        #[serde(default)]
        after: u64,
    },
    /// One of them with its payload: a [`HeldCommand`](super::snapshot::HeldCommand). Only for root
    /// and the daemon's own user.
    MailboxShow {
        /// Its number.
        number: u64,
    },
    /// Drops one that waits. Answered `{"dropped": true}`. Only for root and the daemon's own user.
    MailboxDrop {
        /// Its number.
        number: u64,
    },
    /// Moves records at which a lane waits to the rejected store. Answered `{"records": n}`.
    QueueSkip {
        /// Their ids.
        records: Vec<String>,
    },
    /// Sends rejected records again, after the waiting ones. Answered `{"records": n}`.
    RejectedRetry {
        /// The records.
        records: Selection,
    },
    /// Discards rejected records, which are counted and published as a loss. Answered
    /// `{"records": n}`.
    RejectedDrop {
        /// The records.
        records: Selection,
    },
    /// Imports a file that was set aside. Answered `{"records": n, "left_out": n, "missing": n}`.
    QueueImport {
        /// A path in the journal's directory, absolute or relative to it.
        file: String,
        /// Imports every record in it, also those already delivered.
        #[serde(default)]
        all: bool,
    },
    /// Reloads configuration and device registry, as SIGHUP does. Answered when the new
    /// configuration is in force or refused.
    Reload {},
    /// Read the configuration as a reload would, and take nothing over: a
    /// [`ConfigCheck`](super::snapshot::ConfigCheck).
    ConfigCheck {},
    /// The last readings, then every reading as it is decided, what the broker does with it, and
    /// failed handshakes: [`Item`](super::tail::Item)s. Of an unknown device: `not-found`.
    Tail {
        /// Restricts it to one device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// How many that were before, at most [`RECENT`](super::tail::RECENT).
        #[serde(default, skip_serializing_if = "is_zero")]
        last: u32,
    },
    /// Devices as they run, in the order of their ids: a
    /// [`DevicePage`](super::snapshot::DevicePage).
    Devices {
        /// Restricts it to one device; an unknown one: `not-found`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// Starts after this id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// What devices have sent within 30 days: a [`UsagePage`](super::snapshot::UsagePage).
    Usage {
        /// Restricts it to one device, day by day; one of which nothing is known: `not-found`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// Starts after this id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Sends a reading in the place of a device as far as the journal: a
    /// [`DeviceTest`](super::snapshot::DeviceTest). Only for root and the daemon's own user.
    DeviceTest {
        /// A device id.
        device: String,
        /// A path within the device; `None`: that of the only rule that is neither in lane `high`
        /// nor retained.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Ends with the step `topic`: nothing is sent.
        #[serde(default, skip_serializing_if = "is_false")]
        plan: bool,
    },
    /// Waits until the broker has decided about the reading of a `device-test`: the further steps,
    /// as a [`DeviceTest`](super::snapshot::DeviceTest). Only for root and the daemon's own user.
    DeviceTestDelivery {
        /// Its record id.
        record: String,
    },
    /// Streams the decrypted messages of a device, or the packets of the uplink without TLS:
    /// [`Message`](super::traffic::Message)s. Only for root and the daemon's own user.
    TrafficTrace {
        /// A device id, or [`UPLINK`](super::traffic::UPLINK).
        target: String,
        /// With payloads.
        #[serde(default, skip_serializing_if = "is_false")]
        payload: bool,
    },
    /// Streams the bytes of a serial port from now on: [`Traced`](super::trace::Traced) items.
    SerialTrace {
        /// The port's name.
        port: String,
    },
    /// Forgets what a Modbus unit taught by its silence, so that it is asked as configured again.
    /// Answered `{"forgotten": true}`, or `false` if there was nothing.
    SerialRelearn {
        /// The unit's device id.
        device: String,
    },
    /// The decision of the rules in force about one reading; the command prints
    /// [`Explained`](super::snapshot::Explained).
    AclExplain {
        /// A device id.
        device: String,
        /// `POST`, `PUT`, `DELETE`, `publish`, `subscribe` or `command`.
        method: String,
        /// A path within the device, a topic or a filter.
        path: String,
        /// The content format of the reading: a number, a media type or `none`. Without it one that
        /// its rule takes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_format: Option<String>,
        /// Bytes of its payload.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        /// The payload itself, base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload: Option<String>,
        /// Of a publish: whether it has RETAIN.
        #[serde(default, skip_serializing_if = "is_false")]
        retain: bool,
    },
    /// What only the running daemon knows for `check --security`: a
    /// [`SecurityReport`](super::snapshot::SecurityReport).
    SecurityReport {},
    /// The state of the uplink: an [`Uplink`](super::snapshot::Uplink), after a test publish and
    /// its echo if connected.
    UplinkCheck {},
    /// Whether the broker takes what is published on topics that no reading has, over the gateway's
    /// own connection: a [`ReadingsTried`](super::snapshot::ReadingsTried).
    UplinkReadings {
        /// Topics with the level of the check in them; further ones than
        /// [`TRIED_MAX`](crate::northbound::io::probe::TRIED_MAX) are not tried.
        topics: Vec<CheckTopic>,
    },
    /// A check makes connections beside the gateway's for so long: their end of it is no rival's
    /// doing. A [`ConnectionBeside`](super::snapshot::ConnectionBeside).
    UplinkBeside {
        /// At most [`BESIDE_MAX_S`], and then it is said again; 0: it is over.
        seconds: u64,
        /// Which check: the number of its process.
        #[serde(default)]
        by: u32,
    },
    /// The verdict on the clock: a [`Clock`](super::snapshot::Clock).
    Clock {},
    /// The user confirms the clock. Answered as `clock`, when it is on disk.
    ClockTrust {},
    /// The user resets the floor to the build date. Answered as `clock`, when it is on disk.
    ClockReset {},
    /// The certificates that the gateway renews by itself: an object by name of
    /// [`Certificate`](super::snapshot::Certificate).
    CertStatus {},
    /// Asks for the next certificate now; answered when that is begun, as one entry of
    /// `cert-status`. Only for root and the daemon's own user.
    CertRenew {
        /// `[certificate.NAME]`
        name: String,
    },
    /// Asks for a certificate as if it were the first, now. Answered as `cert-renew`. Only for root
    /// and the daemon's own user.
    CertEnroll {
        /// `[certificate.NAME]`
        name: String,
        /// Take back what was asked for in this way.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cancel: bool,
    },
    /// The open signing request, made if there is none: `{"csr": "PEM"}`. Only for root and the
    /// daemon's own user.
    CertCsr {
        /// `[certificate.NAME]`
        name: String,
    },
    /// Takes a chain for the open request, or for the key in use; answered when it is judged and
    /// stored, as `cert-renew`. Only for root and the daemon's own user.
    CertInstall {
        /// `[certificate.NAME]`
        name: String,
        /// The chain, leaf first, PEM.
        pem: String,
    },
    /// Proves the candidate now; answered when that is begun, as `cert-renew`. Only for root and
    /// the daemon's own user.
    CertProbe {
        /// `[certificate.NAME]`
        name: String,
    },
    /// Takes the certificate before into use again, if the peer accepts it; answered when it is,
    /// as one entry of `cert-status`. Only for root and the daemon's own user.
    CertRollback {
        /// `[certificate.NAME]`
        name: String,
        /// As it is, without a proof.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// Whether the daemon works and reaches its broker: a [`Health`](super::snapshot::Health).
    Health {},
    /// The next attempt to reach the broker is made within 5 s, at most twice a minute; not after
    /// refused credentials. Answered `{"hurried": bool}`.
    UplinkHurry {},
    /// What is known of newer firmware: an [`Update`](super::snapshot::Update).
    UpdateStatus {},
    /// Firmware for sensors: a [`FirmwarePage`](super::snapshot::FirmwarePage). `resume` is only
    /// for root and the daemon's own user.
    UpdateDevices {
        /// Starts after this id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// Goes on with the version of this class, which was stopped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<String>,
    },
    /// Looks for newer firmware; answered as `update-status`, when the check ended.
    UpdateCheck {},
    /// Fetches the image of the version that is available; answered as `update-status`, when that
    /// is begun. Only for root and the daemon's own user.
    UpdateDownload {},
    /// What became of versions: `{"events", "denied", "held"}`.
    UpdateHistory {},
    /// Has no version installed until it is released, or releases it. Answered as
    /// `update-history`, when it is on disk. Only for root and the daemon's own user.
    UpdateHold {
        /// False releases it.
        held: bool,
    },
    /// Denies a version. Answered as `update-history`, when it is on disk. Only for root and the
    /// daemon's own user.
    UpdateDeny {
        /// Which.
        version: String,
    },
    /// Allows denied versions again. Answered as `update-history`, when it is on disk. Only for
    /// root and the daemon's own user.
    UpdateAllow {
        /// Which; `None` = all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// What happened to a certificate lately, oldest first: `{"events": [{"at", "what"}]}`.
    CertHistory {
        /// `[certificate.NAME]`
        name: String,
    },
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Request {
    /// Parses one line as a request.
    ///
    /// # Errors
    /// A [`Failure`] with [`Code::BadRequest`], to be sent back unchanged.
    pub fn parse(line: &[u8]) -> Result<Request, Failure> {
        serde_json::from_slice(line).map_err(|error| {
            let version = env!("CARGO_PKG_VERSION");
            Failure::new(Code::BadRequest, format!("tombolo {version} cannot take this request: {error}"))
        })
    }

    /// Whether it steers the gateway's own certificates or updates.
    fn steers(&self) -> bool {
        matches!(
            self,
            Request::CertRenew { .. }
                | Request::CertEnroll { .. }
                | Request::CertCsr { .. }
                | Request::CertInstall { .. }
                | Request::CertProbe { .. }
                | Request::CertRollback { .. }
                | Request::UpdateDownload {}
                | Request::UpdateHold { .. }
                | Request::UpdateDeny { .. }
                | Request::UpdateAllow { .. }
                | Request::UpdateDevices { resume: Some(_), .. }
        )
    }

    /// Whether it changes the state of the daemon, so that it is logged.
    pub fn changes_something(&self) -> bool {
        self.steers()
            || matches!(
                self,
                Request::RejectedRetry { .. }
                    | Request::RejectedDrop { .. }
                    | Request::QueueImport { .. }
                    | Request::QueueSkip { .. }
                    | Request::Reload {}
                    | Request::ClockTrust {}
                    | Request::ClockReset {}
                    | Request::DeviceTest { plan: false, .. }
                    | Request::SerialRelearn { .. }
                    | Request::Send { .. }
                    | Request::MailboxDrop { .. }
            )
    }

    /// Whether only root and the daemon's own user may ask it: as for adding a device, membership
    /// in the socket's group is not enough.
    pub fn is_privileged(&self) -> bool {
        self.steers()
            || matches!(
                self,
                Request::DeviceTest { .. }
                    | Request::DeviceTestDelivery { .. }
                    | Request::TrafficTrace { .. }
                    | Request::Send { .. }
                    | Request::MailboxShow { .. }
                    | Request::MailboxDrop { .. }
            )
    }
}

/// For the log: `device-test device=door-7`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(Value::Object(fields)) = serde_json::to_value(self) else { return Err(fmt::Error) };
        f.write_str(fields.get("request").and_then(Value::as_str).unwrap_or_default())?;
        // What a device is told is nobody's business but its own.
        for (name, value) in fields.iter().filter(|(name, _)| !matches!(name.as_str(), "request" | "payload"))
        {
            match value {
                Value::String(text) => write!(f, " {name}={text}")?,
                other => write!(f, " {name}={other}")?,
            }
        }
        Ok(())
    }
}

/// A selection of rejected records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// All records.
    All,
    /// The records with these ids; an unknown id is an error, and nothing is changed.
    Ids(Vec<String>),
}

/// A response of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The answer. For `tail`, `serial-trace` and `traffic-trace`, items follow.
    Ok(Value),
    /// The request was not fulfilled.
    Error(Failure),
    /// One reading of a `tail`, one piece of a `serial-trace`, or one message of a `traffic-trace`.
    Item(Value),
    /// This many items were not sent, because this client reads too slowly.
    Missed(u64),
}

impl Response {
    /// Parses one line as a response.
    ///
    /// # Errors
    /// The error of the JSON parser.
    pub fn parse(line: &[u8]) -> Result<Response, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

impl From<Result<Value, Failure>> for Response {
    fn from(result: Result<Value, Failure>) -> Response {
        match result {
            Ok(value) => Response::Ok(value),
            Err(failure) => Response::Error(failure),
        }
    }
}

/// Serializes an object as one line with its end.
pub fn to_line(object: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(object).unwrap_or_else(|error| {
        // Serialization fails only for maps with non-text keys or failing values, which these types
        // do not have.
        let text = Value::String(error.to_string());
        format!("{{\"error\":{{\"code\":\"failed\",\"message\":{text}}}}}").into_bytes()
    });
    line.push(b'\n');
    line
}

/// Why a request was not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, for programs.
    pub code: Code,
    /// The cause and the remedy, for users.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not JSON, an unknown request, or a line that is too long.
    BadRequest,
    /// The named object does not exist.
    NotFound,
    /// The maximum number of connections is reached; try again.
    Busy,
    /// This user may not ask this.
    Denied,
    /// The daemon is starting or stopping, or takes too long.
    Unavailable,
    /// The request was processed but failed.
    #[serde(other)]
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_have_the_form_scripts_may_rely_on() {
        for (line, request) in [
            (r#"{"request":"status"}"#, Request::Status {}),
            (r#"{"request":"rejected-list"}"#, Request::RejectedList { after: None }),
            (
                r#"{"request":"rejected-retry","records":"all"}"#,
                Request::RejectedRetry { records: Selection::All },
            ),
            (
                r#"{"request":"rejected-drop","records":{"ids":["0000000000000001-2"]}}"#,
                Request::RejectedDrop { records: Selection::Ids(vec!["0000000000000001-2".into()]) },
            ),
            (r#"{"request":"rejected-export","after":7}"#, Request::RejectedExport { after: 7 }),
            (
                r#"{"request":"queue-skip","records":["0000000000000001-2"]}"#,
                Request::QueueSkip { records: vec!["0000000000000001-2".into()] },
            ),
            (
                r#"{"request":"tail","device":"door-7"}"#,
                Request::Tail { device: Some("door-7".into()), last: 0 },
            ),
            (r#"{"request":"tail","last":10}"#, Request::Tail { device: None, last: 10 }),
            (
                r#"{"request":"devices","after":"door-7"}"#,
                Request::Devices { device: None, after: Some("door-7".into()) },
            ),
            (
                r#"{"request":"device-test","device":"door-7"}"#,
                Request::DeviceTest { device: "door-7".into(), path: None, plan: false },
            ),
            (
                r#"{"request":"traffic-trace","target":"uplink","payload":true}"#,
                Request::TrafficTrace { target: "uplink".into(), payload: true },
            ),
            (
                r#"{"request":"serial-relearn","device":"meter-1"}"#,
                Request::SerialRelearn { device: "meter-1".into() },
            ),
            (r#"{"request":"serial-trace","port":"meter"}"#, Request::SerialTrace { port: "meter".into() }),
            (
                r#"{"request":"sessions","device":"door-7"}"#,
                Request::Sessions { device: Some("door-7".into()) },
            ),
            (r#"{"request":"uplink-check"}"#, Request::UplinkCheck {}),
            (r#"{"request":"uplink-hurry"}"#, Request::UplinkHurry {}),
            (r#"{"request":"config-check"}"#, Request::ConfigCheck {}),
            (r#"{"request":"security-report"}"#, Request::SecurityReport {}),
            (r#"{"request":"clock"}"#, Request::Clock {}),
            (r#"{"request":"clock-trust"}"#, Request::ClockTrust {}),
            (r#"{"request":"clock-reset"}"#, Request::ClockReset {}),
            (r#"{"request":"cert-status"}"#, Request::CertStatus {}),
            (r#"{"request":"cert-renew","name":"uplink"}"#, Request::CertRenew { name: "uplink".into() }),
            (
                r#"{"request":"cert-enroll","name":"uplink"}"#,
                Request::CertEnroll { name: "uplink".into(), cancel: false },
            ),
            (
                r#"{"request":"cert-enroll","name":"uplink","cancel":true}"#,
                Request::CertEnroll { name: "uplink".into(), cancel: true },
            ),
            (r#"{"request":"cert-csr","name":"uplink"}"#, Request::CertCsr { name: "uplink".into() }),
            (
                r#"{"request":"cert-install","name":"uplink","pem":"x"}"#,
                Request::CertInstall { name: "uplink".into(), pem: "x".into() },
            ),
            (r#"{"request":"cert-probe","name":"uplink"}"#, Request::CertProbe { name: "uplink".into() }),
            (
                r#"{"request":"cert-rollback","name":"uplink"}"#,
                Request::CertRollback { name: "uplink".into(), force: false },
            ),
            (r#"{"request":"cert-history","name":"uplink"}"#, Request::CertHistory { name: "uplink".into() }),
        ] {
            assert_eq!(Request::parse(line.as_bytes()).as_ref(), Ok(&request), "{line}");
            assert_eq!(to_line(&request), [line.as_bytes(), b"\n"].concat());
        }
    }

    #[test]
    fn a_request_in_the_log_is_its_name_and_what_it_is_about() {
        let test = Request::DeviceTest { device: "door-7".into(), path: None, plan: false };
        assert_eq!(test.to_string(), "device-test device=door-7");
        assert_eq!(Request::Reload {}.to_string(), "reload");
        let drop = Request::RejectedDrop { records: Selection::Ids(vec!["1-2".into()]) };
        assert_eq!(drop.to_string(), r#"rejected-drop records={"ids":["1-2"]}"#);
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let failure = Request::parse(br#"{"request":"launch"}"#).unwrap_err();
        assert_eq!(failure.code, Code::BadRequest);
        assert!(failure.message.contains("`launch`") && failure.message.contains("`status`"), "{failure}");
        let failure = Request::parse(br#"{"request":"reload","dry-run":true}"#).unwrap_err();
        assert!(failure.message.contains("dry-run"), "{failure}");
        assert!(Request::parse(b"").is_err());
        assert!(Request::parse(b"status").is_err());
        assert!(Request::parse(b"[]").is_err());
    }

    #[test]
    fn a_code_of_a_newer_daemon_reads_as_failed() {
        let response = Response::parse(br#"{"error":{"code":"teapot","message":"m"}}"#).unwrap();
        assert_eq!(response, Response::Error(Failure::new(Code::Failed, "m")));
    }

    fn requests() -> impl Strategy<Value = Request> {
        let selection = prop_oneof![
            Just(Selection::All),
            proptest::collection::vec(any::<String>(), 0..4).prop_map(Selection::Ids)
        ];
        prop_oneof![
            Just(Request::Status {}),
            Just(Request::Queue {}),
            Just(Request::Reload {}),
            Just(Request::UplinkCheck {}),
            Just(Request::UplinkHurry {}),
            Just(Request::ConfigCheck {}),
            Just(Request::Clock {}),
            Just(Request::ClockTrust {}),
            Just(Request::ClockReset {}),
            any::<Option<String>>().prop_map(|after| Request::RejectedList { after }),
            any::<(Option<String>, u32)>().prop_map(|(device, last)| Request::Tail { device, last }),
            any::<(Option<String>, Option<String>)>()
                .prop_map(|(device, after)| Request::Devices { device, after }),
            any::<(String, bool)>().prop_map(|(target, payload)| Request::TrafficTrace { target, payload }),
            any::<Option<String>>().prop_map(|device| Request::Sessions { device }),
            selection.clone().prop_map(|records| Request::RejectedRetry { records }),
            selection.prop_map(|records| Request::RejectedDrop { records }),
            any::<(String, String, String, Option<String>, Option<u64>, Option<String>, bool)>().prop_map(
                |(device, method, path, content_format, bytes, payload, retain)| Request::AclExplain {
                    device,
                    method,
                    path,
                    content_format,
                    bytes,
                    payload,
                    retain
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn a_request_reads_back_and_is_one_line(request in requests()) {
            let line = to_line(&request);
            prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            prop_assert_eq!(Request::parse(&line), Ok(request));
        }

        #[test]
        fn hostile_lines_get_an_error_and_never_panic(line in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Err(failure) = Request::parse(&line) {
                prop_assert!(failure.message.len() < 2048);
            }
            let _ = Response::parse(&line);
        }

        #[test]
        fn lines_that_are_almost_requests_never_panic(request in requests(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut line = to_line(&request);
            let at = at.index(line.len());
            line[at] = byte;
            let _ = Request::parse(&line);
        }
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_full_stack() {
        let line = [br#"{"request":"tail","device":"#.as_slice(), &b"[".repeat(60_000)].concat();
        assert!(Request::parse(&line).is_err());
        assert!(Response::parse(&b"[".repeat(1_000_000)).is_err());
    }
}
