//! What the daemon implements to answer the control socket, and how its answers find their way
//! back.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::protocol::{BESIDE_MAX_S, CheckTopic, Code, Failure, Request, Response, Selection};
use super::snapshot::{
    Certificate, ConnectionBeside, DevicePage, FirmwarePage, Health, ReadingsTried, SecurityReport,
    SessionPage, Status,
};

/// What `tombolo acl explain` asks, as the user wrote it.
#[derive(Clone, Copy, Debug)]
pub struct AclQuestion<'q> {
    /// A device id.
    pub device: &'q str,
    /// `POST`, `PUT`, `DELETE`, `publish`, `subscribe` or `command`.
    pub method: &'q str,
    /// A path, a topic or a filter.
    pub path: &'q str,
    /// The content format of the reading.
    pub content_format: Option<&'q str>,
    /// Bytes of its payload.
    pub bytes: Option<u64>,
    /// The payload itself.
    pub payload: Option<&'q [u8]>,
    /// Of a publish: whether it has RETAIN.
    pub retain: bool,
}

/// The daemon's side of the control socket. All calls come on the path's own thread: none may
/// block.
///
/// What can take time — the disk, the network, parsing — gets a [`Reply`] to answer with later.
pub trait Control {
    /// Everything at a glance.
    fn status(&mut self) -> Status;

    /// The DTLS sessions of one device, or of all.
    fn sessions(&mut self, device: Option<&str>) -> SessionPage;

    /// One device, or the first after an id, as they run.
    ///
    /// # Errors
    /// The device is not known; the text says what may be meant.
    fn devices(&mut self, device: Option<&str>, after: Option<&str>) -> Result<DevicePage, Failure> {
        let _ = (device, after);
        Err(Failure::new(Code::Failed, "there are no devices to list here"))
    }

    /// Whether there is a device of this id.
    ///
    /// # Errors
    /// There is none; the text says what may be meant.
    fn known_device(&mut self, device: &str) -> Result<(), Failure> {
        let _ = device;
        Ok(())
    }

    /// Whether messages of this device can be watched: those of CoAP.
    ///
    /// # Errors
    /// There is no such device, or it sends none; the text says what to do instead.
    fn traceable(&mut self, device: &str) -> Result<(), Failure> {
        self.known_device(device)
    }

    /// Sends a reading in the place of a device, and answers with a
    /// [`DeviceTest`](super::snapshot::DeviceTest) once it is stored, or why not;
    /// with `plan`, once the rule and the topic are found.
    fn device_test(&mut self, device: &str, path: Option<&str>, plan: bool, reply: Reply) {
        let _ = (device, path, plan);
        reply.fail(Failure::new(Code::Failed, "there is no device to test here"));
    }

    /// Answers with the further steps of a test once the broker has decided about its reading.
    fn device_test_delivery(&mut self, record: &str, reply: Reply) {
        let _ = record;
        reply.fail(Failure::new(Code::NotFound, "there is no such test"));
    }

    /// Sends a command to a device, or lists, shows or drops those that are held.
    fn mailbox(&mut self, action: MailboxAction, reply: Reply) {
        let _ = action;
        reply.fail(Failure::new(Code::Failed, "there is no mailbox here"));
    }

    /// Answers with a [`UsagePage`](super::snapshot::UsagePage).
    fn usage(&mut self, device: Option<String>, after: Option<String>, reply: Reply) {
        let _ = (device, after);
        reply.fail(Failure::new(Code::Failed, "nothing is counted here"));
    }

    /// Answers with a [`Queue`](super::snapshot::Queue): the lanes.
    fn queue(&mut self, reply: Reply);

    /// Sets records aside at which a lane waits, by their ids.
    fn skip(&mut self, records: Vec<String>, reply: Reply);

    /// Lists, exports, sends again or gives up rejected records.
    fn rejected(&mut self, action: RejectedAction, reply: Reply);

    /// Takes up a file that was set aside.
    fn import(&mut self, file: String, all: bool, reply: Reply);

    /// Loads configuration and registry again; answers when the new one is in force, or with what
    /// is wrong.
    fn reload(&mut self, reply: Reply);

    /// What the rules in force say: the gate's explanation as JSON. `path` is as the user wrote it.
    ///
    /// # Errors
    /// What is wrong with the question, for the user.
    fn explain(&mut self, asked: &AclQuestion<'_>) -> Result<Value, String>;

    /// Publishes to ourselves where connected and answers with an
    /// [`Uplink`](super::snapshot::Uplink).
    fn uplink_check(&mut self, reply: Reply);

    /// Publishes on these topics, one after the other, and answers with a
    /// [`ReadingsTried`].
    fn uplink_readings(&mut self, topics: Vec<CheckTopic>, reply: Reply) {
        let _ = topics;
        reply.ok(&ReadingsTried::default());
    }

    /// The check `by` makes connections beside the gateway's for so many seconds; 0: no more.
    /// Answers with a [`ConnectionBeside`].
    fn uplink_beside(&mut self, by: u32, seconds: u64, reply: Reply) {
        let _ = (by, seconds);
        reply.ok(&ConnectionBeside::default());
    }

    /// Answers with a [`Clock`](super::snapshot::Clock), after what is to be done is done and on
    /// disk.
    fn clock(&mut self, action: ClockAction, reply: Reply) {
        let _ = action;
        reply.fail(Failure::new(Code::Failed, "there is no clock to ask here"));
    }

    /// Reads the configuration as a reload would and answers with a
    /// [`ConfigCheck`](super::snapshot::ConfigCheck).
    fn config_check(&mut self, reply: Reply) {
        reply.fail(Failure::new(Code::Failed, "there is no configuration to compare here"));
    }

    /// What only the daemon knows for `check --security`.
    fn security_report(&mut self) -> SecurityReport {
        SecurityReport::default()
    }

    /// The certificates that the gateway renews by itself, by name.
    fn certificates(&mut self) -> BTreeMap<String, Certificate> {
        BTreeMap::new()
    }

    /// Does something with one of them, and answers when it is begun, or done.
    fn certificate(&mut self, name: &str, action: CertificateAction, reply: Reply) {
        let _ = (name, action);
        reply.fail(Failure::new(Code::NotFound, "there is no certificate here"));
    }

    /// Forgets what a Modbus unit taught; whether there was anything.
    ///
    /// # Errors
    /// There is no such unit; the text says what may be meant.
    fn serial_relearn(&mut self, device: &str) -> Result<bool, Failure> {
        Err(Failure::new(Code::NotFound, format!("there is no Modbus unit {device} here")))
    }

    /// Whether it works.
    fn health(&mut self) -> Health {
        Health::default()
    }

    /// Somebody waits for the broker: whether the next attempt is made earlier for that.
    fn hurry(&mut self) -> bool {
        false
    }

    /// Firmware for sensors, devices from behind `after` on; `resume` goes on with a class first.
    ///
    /// # Errors
    /// There is no such class, or it is not stopped.
    fn firmware(&mut self, after: Option<&str>, resume: Option<&str>) -> Result<FirmwarePage, Failure> {
        let _ = (after, resume);
        Err(Failure::new(Code::Failed, "there is no firmware for sensors here"))
    }

    /// Does something about newer firmware, and answers when it is begun, or done.
    fn update(&mut self, action: UpdateAction, reply: Reply) {
        let _ = action;
        reply.fail(Failure::new(Code::Failed, "nobody looks for newer firmware here"));
    }

    /// Whether there is a serial port of this name.
    fn serial_port(&mut self, name: &str) -> bool {
        let _ = name;
        false
    }
}

/// What to do with rejected records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectedAction {
    /// A page of them after this record id.
    List {
        /// `None` = from the oldest.
        after: Option<String>,
    },
    /// A page of them, whole, after this number.
    Export {
        /// 0 = from the oldest.
        after: u64,
    },
    /// Into their lanes again.
    Retry(Selection),
    /// Given up, as a loss.
    Drop(Selection),
}

/// What to do with commands to devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailboxAction {
    /// Take one, and answer with its outcome, or that there is none in time.
    Send {
        /// The device's id.
        device: String,
        /// The path at the device.
        path: String,
        /// A CoAP method.
        method: String,
        /// The payload.
        payload: Vec<u8>,
        /// The content format of the payload.
        content_format: Option<u16>,
        /// How long its outcome is waited for.
        wait: std::time::Duration,
    },
    /// A page of them, of one device or of all, after this number.
    List {
        /// `None` = of all.
        device: Option<String>,
        /// 0 = from the oldest.
        after: u64,
    },
    /// One with its payload.
    Show(u64),
    /// Drop one that waits.
    Drop(u64),
}

/// What to do with the verdict on the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockAction {
    /// Nothing: only show it.
    Show,
    /// Take the present time for right, by the owner's word.
    Trust,
    /// Lower the floor to the build date.
    Reset,
}

/// What to do with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateAction {
    /// Ask for the next one now.
    Renew,
    /// Ask for one as if it were the first, now.
    Enroll {
        /// Take back what was asked for in this way.
        cancel: bool,
    },
    /// Print the open signing request; make one if there is none.
    Csr,
    /// Take this chain, PEM, as the candidate.
    Install(String),
    /// Prove the candidate now.
    Probe,
    /// Take the one before into use again.
    RollBack {
        /// As it is, without a proof.
        force: bool,
    },
    /// What happened lately.
    History,
}

/// What to do about newer firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateAction {
    /// Nothing: only show it.
    Show,
    /// Look for it now.
    Check,
    /// Fetch it.
    Download,
    /// Nothing: show what became of versions.
    History,
    /// Install nothing until it is released; false releases it.
    Hold(bool),
    /// Never this version.
    Deny(String),
    /// This version again; all for `None`.
    Allow(Option<String>),
}

/// One request that waits for its answer.
#[derive(Debug)]
pub struct Call {
    /// What is asked. For a stream, whether there is something to watch.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Reply,
}

impl Call {
    /// Asks `control` and sends its answer, at once or when it has it.
    pub fn dispatch(self, control: &mut dyn Control) {
        let Call { request, reply } = self;
        match request {
            Request::Status {} => reply.ok(&control.status()),
            Request::Sessions { device } => reply.ok(&control.sessions(device.as_deref())),
            Request::Queue {} => control.queue(reply),
            Request::RejectedList { after } => control.rejected(RejectedAction::List { after }, reply),
            Request::RejectedExport { after } => control.rejected(RejectedAction::Export { after }, reply),
            Request::Send { device, path, method, payload, content_format, wait_s } => {
                let Ok(payload) = STANDARD.decode(payload) else {
                    return reply.fail(Failure::new(Code::BadRequest, "the payload is not base64"));
                };
                let wait = std::time::Duration::from_secs(wait_s);
                let send = MailboxAction::Send { device, path, method, payload, content_format, wait };
                control.mailbox(send, reply);
            }
            Request::Usage { device, after } => control.usage(device, after, reply),
            Request::MailboxList { device, after } => {
                control.mailbox(MailboxAction::List { device, after }, reply);
            }
            Request::MailboxShow { number } => control.mailbox(MailboxAction::Show(number), reply),
            Request::MailboxDrop { number } => control.mailbox(MailboxAction::Drop(number), reply),
            Request::QueueSkip { records } => control.skip(records, reply),
            Request::RejectedRetry { records } => control.rejected(RejectedAction::Retry(records), reply),
            Request::RejectedDrop { records } => control.rejected(RejectedAction::Drop(records), reply),
            Request::QueueImport { file, all } => control.import(file, all, reply),
            Request::Reload {} => control.reload(reply),
            Request::ConfigCheck {} => control.config_check(reply),
            Request::SecurityReport {} => reply.ok(&control.security_report()),
            Request::AclExplain { device, method, path, content_format, bytes, payload, retain } => {
                let payload = payload.map(|payload| STANDARD.decode(payload)).transpose();
                let Ok(payload) = payload else {
                    return reply.fail(Failure::new(Code::BadRequest, "the payload is not base64"));
                };
                let asked = AclQuestion {
                    device: &device,
                    method: &method,
                    path: &path,
                    content_format: content_format.as_deref(),
                    bytes,
                    payload: payload.as_deref(),
                    retain,
                };
                match control.explain(&asked) {
                    Ok(explanation) => reply.ok(&explanation),
                    Err(text) => reply.fail(Failure::new(Code::BadRequest, text)),
                }
            }
            Request::UplinkCheck {} => control.uplink_check(reply),
            Request::UplinkReadings { topics } => control.uplink_readings(topics, reply),
            Request::UplinkBeside { seconds, by } => {
                control.uplink_beside(by, seconds.min(BESIDE_MAX_S), reply);
            }
            Request::Clock {} => control.clock(ClockAction::Show, reply),
            Request::ClockTrust {} => control.clock(ClockAction::Trust, reply),
            Request::ClockReset {} => control.clock(ClockAction::Reset, reply),
            Request::CertStatus {} => reply.ok(&control.certificates()),
            Request::CertRenew { name } => control.certificate(&name, CertificateAction::Renew, reply),
            Request::CertEnroll { name, cancel } => {
                control.certificate(&name, CertificateAction::Enroll { cancel }, reply);
            }
            Request::CertCsr { name } => control.certificate(&name, CertificateAction::Csr, reply),
            Request::CertInstall { name, pem } => {
                control.certificate(&name, CertificateAction::Install(pem), reply);
            }
            Request::CertProbe { name } => control.certificate(&name, CertificateAction::Probe, reply),
            Request::CertRollback { name, force } => {
                control.certificate(&name, CertificateAction::RollBack { force }, reply);
            }
            Request::CertHistory { name } => control.certificate(&name, CertificateAction::History, reply),
            Request::Health {} => reply.ok(&control.health()),
            Request::UplinkHurry {} => reply.ok(&serde_json::json!({ "hurried": control.hurry() })),
            Request::UpdateStatus {} => control.update(UpdateAction::Show, reply),
            Request::UpdateDevices { after, resume } => {
                match control.firmware(after.as_deref(), resume.as_deref()) {
                    Ok(page) => reply.ok(&page),
                    Err(failure) => reply.fail(failure),
                }
            }
            Request::UpdateCheck {} => control.update(UpdateAction::Check, reply),
            Request::UpdateDownload {} => control.update(UpdateAction::Download, reply),
            Request::UpdateHistory {} => control.update(UpdateAction::History, reply),
            Request::UpdateHold { held } => control.update(UpdateAction::Hold(held), reply),
            Request::UpdateDeny { version } => control.update(UpdateAction::Deny(version), reply),
            Request::UpdateAllow { version } => control.update(UpdateAction::Allow(version), reply),
            Request::SerialTrace { port } => match control.serial_port(&port) {
                true => reply.ok(&serde_json::json!({})),
                false => reply.fail(Failure::new(
                    Code::NotFound,
                    format!(
                        "the running daemon has no serial port {port:?}; `tombolo status` names those it has"
                    ),
                )),
            },
            Request::SerialRelearn { device } => {
                let answer = control.serial_relearn(&device);
                reply.result(answer.map(|forgotten| serde_json::json!({ "forgotten": forgotten })));
            }
            Request::Devices { device, after } => {
                match control.devices(device.as_deref(), after.as_deref()) {
                    Ok(page) => reply.ok(&page),
                    Err(failure) => reply.fail(failure),
                }
            }
            Request::DeviceTest { device, path, plan } => {
                control.device_test(&device, path.as_deref(), plan, reply);
            }
            Request::DeviceTestDelivery { record } => control.device_test_delivery(&record, reply),
            // For the two streams the answer is whether there is something to watch.
            Request::Tail { device: None, .. } => reply.ok(&serde_json::json!({})),
            Request::TrafficTrace { target, .. } if target == super::traffic::UPLINK => {
                reply.ok(&serde_json::json!({}));
            }
            Request::Tail { device: Some(target), .. } => {
                reply.result(control.known_device(&target).map(|()| serde_json::json!({})));
            }
            Request::TrafficTrace { target, .. } => {
                reply.result(control.traceable(&target).map(|()| serde_json::json!({})));
            }
        }
    }
}

/// Where one answer goes. Dropped unused, it tells the client that the daemon could not answer.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Response>, Asker);

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asker {
    /// The user with this number, over the control socket.
    User(i64),
    /// The broker, by a command to the gateway.
    Broker,
    /// The gateway itself, or a signal.
    #[default]
    Gateway,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asker::User(uid) => write!(f, "uid:{uid}"),
            Asker::Broker => f.write_str("broker"),
            Asker::Gateway => f.write_str("gateway"),
        }
    }
}

impl Reply {
    /// A reply to the gateway itself, and the end its response comes out of.
    pub fn channel() -> (Reply, oneshot::Receiver<Response>) {
        Reply::channel_to(Asker::Gateway)
    }

    /// A reply to somebody else.
    pub fn channel_to(asker: Asker) -> (Reply, oneshot::Receiver<Response>) {
        let (sender, receiver) = oneshot::channel();
        (Reply(sender, asker), receiver)
    }

    /// Who asked.
    pub fn asker(&self) -> Asker {
        self.1
    }

    /// Answers with an object. That the client has gone meanwhile is nobody's concern.
    pub fn ok(self, object: &impl Serialize) {
        let response = match serde_json::to_value(object) {
            Ok(value) => Response::Ok(value),
            Err(error) => Response::Error(Failure::new(Code::Failed, error.to_string())),
        };
        let _ = self.0.send(response);
    }

    /// Answers with a failure.
    pub fn fail(self, failure: Failure) {
        let _ = self.0.send(Response::Error(failure));
    }

    /// Answers with a result whose value is already JSON.
    pub fn result(self, result: Result<Value, Failure>) {
        let _ = self.0.send(result.into());
    }
}
