//! Step by step to the broker and back, for `tombolo check`: files, DNS, TCP, TLS, CONNACK, a
//! publish and its echo.
//!
//! It connects as the daemon would, but without a will, and beside a running daemon under a client
//! id of its own, so that it takes nobody's place. The steps stop at the first that fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::socket::Socket;
use super::transport;
use crate::clock::{UnixTime, WallClock};
use crate::northbound::address;
use crate::northbound::certificate::Certificate;
use crate::northbound::reason_code::{self, CodeClass};
use crate::northbound::session::{Ended, Event, Limits, Opening, Session};
use crate::northbound::settings::{Protocol, Settings};
use crate::northbound::wire::{self, Publish, Version};

/// What the echo may take.
const ECHO_WITHIN: Duration = Duration::from_secs(10);
/// A certificate of the broker that ends sooner is worth a warning.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);
/// A smaller Receive Maximum holds up what is sent in batches.
const RECEIVE_MAXIMUM_GOOD: u16 = 100;
/// Slashes in a topic that AWS IoT Core takes.
const SLASHES_MAX: usize = 7;

/// The levels of the topic on which `tombolo check` publishes, below the prefix.
pub const SCRATCH: &str = "/gateway/check";

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// As it should.
    Ok,
    /// It works, but not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

/// One step, or one remark about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `files`, `dns`, `tcp`, `tls`, `mqtt` or `publish`.
    pub name: &'static str,
    /// How it went.
    pub grade: Grade,
    /// What was seen.
    pub text: String,
    /// What to do about it.
    pub advice: Option<String>,
}

enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// Goes the steps. `scratch` is a topic of our own to publish on, such as `{prefix}/gateway/check`.
/// `beside`: a daemon with the same settings runs. Without one its own client id is used, which
/// some brokers bind permissions to.
pub async fn probe(settings: &Settings, clock: Arc<dyn WallClock>, scratch: &str, beside: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let _ = walk(settings, clock, scratch, beside, &mut steps).await; // a failed step is the last in the list
    steps
}

struct Failed;

async fn walk(
    settings: &Settings,
    clock: Arc<dyn WallClock>,
    scratch: &str,
    beside: bool,
    steps: &mut Vec<Step>,
) -> Result<(), Failed> {
    let (host, port) = (settings.host.as_str(), settings.port);
    let mut version = match settings.protocol {
        Protocol::Auto | Protocol::V5 => Version::V5,
        Protocol::V3_1_1 => Version::V3_1_1,
    };
    let mut first = true;
    loop {
        let material = match transport::load(settings, clock.clone()).await {
            Ok(material) => material,
            Err(text) => return fail(steps, "files", text, "mend the file, or its name in [upstream]"),
        };
        let addresses = match transport::resolve(host, port).await {
            Ok(addresses) => addresses,
            Err(text) => return fail(steps, "dns", text, "see upstream.url and this machine's name server"),
        };
        if first {
            let list: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            ok(steps, "dns", format!("{host} is {}", list.join(", ")));
        }
        let mut left = address::order(&addresses, &[]);
        let stream = loop {
            let begun = Instant::now();
            let (stream, peer, others) = match transport::dial(host, port, &left).await {
                Ok(dialed) => dialed,
                Err(text) => {
                    return fail(
                        steps,
                        "tcp",
                        text,
                        "see the port in upstream.url, firewalls, and the broker",
                    );
                }
            };
            if first {
                ok(steps, "tcp", format!("{peer} answered in {} ms", begun.elapsed().as_millis()));
            }
            let Some(config) = material.tls.clone() else {
                if first {
                    let text = "none: everything crosses the network readable".to_owned();
                    warn(steps, "tls", text, "use mqtts://");
                }
                break Stream::Plain(stream);
            };
            match transport::handshake(config, host, stream).await {
                Ok(stream) => {
                    if first {
                        describe_tls(steps, &stream, &*clock);
                    }
                    break Stream::Tls(Box::new(stream));
                }
                Err(error) if others.is_empty() => {
                    return fail(steps, "tls", error.text, "the steps before this one are fine");
                }
                Err(error) => {
                    let text = format!("{peer}: {}", error.text);
                    warn(steps, "tls", text, "the daemon goes on to the next address, as this check does");
                    left = others;
                }
            }
        };
        let opening = Opening {
            version,
            client_id: if beside {
                format!("{}-check", settings.client_id)
            } else {
                settings.client_id.clone()
            },
            keep_alive: settings.keep_alive,
            username: settings.username.clone(),
            password: material.password,
            will: None,
        };
        let spoken = match stream {
            Stream::Plain(mut stream) => {
                speak(&mut stream, &opening, settings.protocol, host, scratch, steps).await
            }
            Stream::Tls(mut stream) => {
                speak(&mut *stream, &opening, settings.protocol, host, scratch, steps).await
            }
        };
        match spoken {
            Spoken::Fine => return Ok(()),
            Spoken::Failed => return Err(Failed),
            Spoken::OtherVersion | Spoken::Closed
                if version == Version::V5 && settings.protocol == Protocol::Auto =>
            {
                version = Version::V3_1_1;
                first = false;
            }
            Spoken::OtherVersion => {
                let text = format!("the broker does not speak MQTT {}", version.as_str());
                return fail(steps, "mqtt", text, "set upstream.protocol = \"auto\"");
            }
            Spoken::Closed => {
                let text = "the broker closes the connection instead of answering CONNECT".to_owned();
                let other = "perhaps it refuses our client id, or a load balancer has no broker behind it; its log says why";
                let advice = match settings.protocol {
                    Protocol::V5 => {
                        format!("perhaps it has no MQTT 5: set [upstream] protocol = \"auto\"; or {other}")
                    }
                    Protocol::V3_1_1 | Protocol::Auto => other.to_owned(),
                };
                return fail(steps, "mqtt", text, advice);
            }
        }
    }
}

fn describe_tls(steps: &mut Vec<Step>, stream: &TlsStream<Socket>, clock: &dyn WallClock) {
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    let leaf = connection.peer_certificates().and_then(|chain| Certificate::parse(chain.first()?));
    let Some(leaf) = leaf else {
        return ok(steps, "tls", version.to_owned());
    };
    let day = |time: UnixTime| time.to_string()[..10].to_owned();
    let of = leaf.subject.map(|subject| format!(" of {subject}")).unwrap_or_default();
    let by = leaf.issuer.map(|issuer| format!(" by {issuer}")).unwrap_or_default();
    ok(steps, "tls", format!("{version}; certificate{of}{by}, until {}", day(leaf.not_after)));
    match clock.wall() {
        None => {
            let text =
                "this machine's clock is not trusted, so what expired lately is not noticed".to_owned();
            warn(steps, "tls", text, "see `timedatectl`");
        }
        Some(now) if leaf.not_after.0 < now.0.saturating_add(EXPIRES_SOON.as_millis() as u64) => {
            let text = format!("the broker's certificate ends on {}", day(leaf.not_after));
            warn(steps, "tls", text, "tell whoever runs the broker");
        }
        Some(_) => {}
    }
}

enum Spoken {
    Fine,
    Failed,
    OtherVersion,
    /// The broker closed the connection instead of answering CONNECT.
    Closed,
}

async fn speak<S>(
    stream: &mut S,
    opening: &Opening,
    configured: Protocol,
    host: &str,
    scratch: &str,
    steps: &mut Vec<Step>,
) -> Spoken
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut talk = Talk { session: Session::new(Instant::now(), opening), stream };
    let accepted = talk.until(super::super::session::CONNACK_WITHIN, |event| match event {
        Event::Accepted { limits, .. } => Some(Ok(*limits)),
        Event::Ended(ended) => Some(Err(ended.clone())),
        _ => None,
    });
    let limits = match accepted.await {
        Ok(Ok(limits)) => limits,
        Ok(Err(Ended::Refused(answer))) if reason_code::connack_class(answer.code) == CodeClass::Version => {
            return Spoken::OtherVersion;
        }
        Ok(Err(Ended::Refused(answer))) => {
            let code = answer.code;
            let said = answer.reason.map(|reason| format!(", \"{reason}\"")).unwrap_or_default();
            let text = format!(
                "the broker refuses the connection: {} (0x{code:02X}{said})",
                reason_code::connack_text(code)
            );
            return failed(steps, "mqtt", text, connack_advice(code));
        }
        Ok(Err(ended)) => {
            return failed(
                steps,
                "mqtt",
                format!("instead of CONNACK: {ended:?}"),
                "is this an MQTT broker?",
            );
        }
        Err(Silence::Closed(error)) => {
            let explained = error.and_then(|error| transport::explain_tls(&error, host));
            let Some(explained) = explained else { return Spoken::Closed };
            return failed(steps, "mqtt", explained.text, "the broker's log says why");
        }
        Err(Silence::Time) => {
            return failed(
                steps,
                "mqtt",
                "the broker does not answer CONNECT".to_owned(),
                "is this an MQTT broker?",
            );
        }
    };
    ok(steps, "mqtt", format!("MQTT {}; {}", opening.version.as_str(), limits_text(&limits)));
    judge_limits(steps, opening.version, configured, &limits, host, scratch);
    echo(&mut talk, opening.version, &limits, scratch, steps).await;
    talk.session.disconnect(false);
    let _ = timeout(Duration::from_secs(1), talk.flush()).await; // the goodbye is a courtesy
    let _ = timeout(Duration::from_secs(1), talk.stream.shutdown()).await;
    Spoken::Fine
}

fn limits_text(limits: &Limits) -> String {
    let mut text = format!("Receive Maximum {}", limits.receive_maximum);
    if limits.packet_size < u32::MAX {
        text.push_str(&format!(", Maximum Packet Size {}", limits.packet_size));
    }
    text
}

fn judge_limits(
    steps: &mut Vec<Step>,
    version: Version,
    configured: Protocol,
    limits: &Limits,
    host: &str,
    scratch: &str,
) {
    if configured == Protocol::V3_1_1 {
        let text =
            "protocol = \"3.1.1\" is configured: the broker cannot say that it refuses a message".to_owned();
        warn(steps, "mqtt", text, "set upstream.protocol = \"auto\" if it has MQTT 5");
    } else if version == Version::V3_1_1 {
        let text = "the broker speaks only MQTT 3.1.1: it cannot say that it refuses a message".to_owned();
        warn(steps, "mqtt", text, "use a broker with MQTT 5 where every message counts");
    }
    if limits.receive_maximum < RECEIVE_MAXIMUM_GOOD {
        let text = format!(
            "Receive Maximum {}: no more messages may await their answer, which slows a backlog down",
            limits.receive_maximum
        );
        warn(steps, "mqtt", text, "with mosquitto: max_inflight_messages 1000");
    }
    if !limits.at_least_once {
        let text = "the broker takes QoS 0 only: it cannot say what it has received".to_owned();
        warn(steps, "mqtt", text, "use a broker with QoS 1");
    }
    if !limits.retain {
        let text = "the broker keeps no retained messages: statuses are seen only as they change".to_owned();
        warn(steps, "mqtt", text, "switch retained messages on at the broker");
    }
    if limits.packet_size < 2048 {
        let text = format!("readings that do not fit into {} bytes will be set aside", limits.packet_size);
        warn(steps, "mqtt", text, "raise the broker's maximum packet size");
    }
    if host.ends_with(".amazonaws.com")
        && host.contains(".iot.")
        && scratch.matches('/').count() + 2 > SLASHES_MAX
    {
        let text = format!("this broker takes topics with at most {SLASHES_MAX} slashes");
        warn(steps, "mqtt", text, "shorten [topics]");
    }
}

async fn echo<S>(
    talk: &mut Talk<'_, S>,
    version: Version,
    limits: &Limits,
    scratch: &str,
    steps: &mut Vec<Step>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    talk.session.subscribe(begun, scratch);
    let subscribed = talk.until(ECHO_WITHIN, |event| match event {
        Event::Subscribed { code } => Some(Ok(*code)),
        Event::Ended(ended) => Some(Err(ended.clone())),
        _ => None,
    });
    let readable = match subscribed.await {
        Ok(Ok(code)) if !reason_code::is_refusal(code) => true,
        Ok(Ok(code)) => {
            let text = format!(
                "the broker refuses a subscription to {scratch}: {}; readings may still pass",
                reason_code::text(code)
            );
            warn(steps, "publish", text, allow(scratch));
            false
        }
        Ok(Err(_)) | Err(Silence::Closed(_)) => {
            let text = format!(
                "the broker closes the connection over a subscription to {scratch}; readings may still pass"
            );
            return warn(steps, "publish", text, allow(scratch));
        }
        Err(Silence::Time) => {
            let text =
                format!("the broker does not answer a subscription to {scratch}; readings may still pass");
            return warn(steps, "publish", text, allow(scratch));
        }
    };
    let begun = Instant::now();
    let packet_id = limits.at_least_once.then_some(1);
    let publish = Publish {
        topic: scratch.as_bytes(),
        packet_id,
        retain: false,
        properties: &[],
        payload: b"{\"check\":true}",
    };
    let pushed = wire::push_publish(talk.session.outgoing(), version, limits.packet_size as usize, &publish);
    if pushed.is_err() {
        let text = "not even a message of 14 bytes fits the broker's maximum packet size".to_owned();
        let _ = failed(steps, "publish", text, "raise it at the broker");
        return;
    }
    let mut answered = packet_id.is_none().then_some(0);
    let mut echoed = !readable;
    let mut closed = false;
    while answered.is_none() || !echoed {
        match talk.turn(ECHO_WITHIN.saturating_sub(begun.elapsed())).await {
            Ok(()) => {}
            Err(silence) => {
                closed = matches!(silence, Silence::Closed(_));
                break;
            }
        }
        if let Some(acknowledgement) = talk.session.take_acknowledgements(Vec::new()).first() {
            answered = Some(acknowledgement.code);
            if reason_code::is_refusal(acknowledgement.code) {
                break;
            }
        }
        while let Some(event) = talk.session.poll_event() {
            echoed |= matches!(&event, Event::Message { topic, .. } if topic == scratch);
        }
        if talk.session.is_ended() {
            closed = true;
            break;
        }
    }
    let ms = begun.elapsed().as_millis();
    match (answered, echoed) {
        (Some(code), _) if reason_code::is_refusal(code) => {
            let text = format!(
                "the broker refuses a publish on {scratch}: {}; readings may still pass",
                reason_code::text(code)
            );
            warn(steps, "publish", text, allow(scratch));
        }
        (Some(_), true) if readable => {
            ok(steps, "publish", format!("acknowledged and back from {scratch} in {ms} ms"));
        }
        (Some(_), true) => ok(steps, "publish", format!("acknowledged on {scratch} in {ms} ms")),
        (Some(_), false) => {
            let text = format!("a publish on {scratch} was acknowledged and did not come back");
            let advice = format!(
                "the broker may drop what it does not allow without saying so; see its log, and {}",
                allow(scratch)
            );
            let _ = failed(steps, "publish", text, advice);
        }
        (None, _) if closed => {
            let text = format!(
                "the broker closes the connection over a publish on {scratch}; readings may still pass"
            );
            warn(steps, "publish", text, allow(scratch));
        }
        (None, _) => {
            let text = format!("the broker does not acknowledge a publish on {scratch}");
            let _ = failed(steps, "publish", text, allow(scratch));
        }
    }
}

/// What to allow at the broker: the prefix, without the two levels of the check's own.
fn allow(scratch: &str) -> String {
    let prefix = scratch.strip_suffix(SCRATCH).unwrap_or(scratch);
    format!("allow {prefix}/# at the broker; [topics] prefix and [gateway] id decide that prefix")
}

/// A session and its stream, driven until something happens.
struct Talk<'a, S> {
    session: Session,
    stream: &'a mut S,
}

enum Silence {
    /// The end of the stream, or what broke it.
    Closed(Option<std::io::Error>),
    /// Nothing in time.
    Time,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<'_, S> {
    async fn flush(&mut self) -> std::io::Result<()> {
        let out = std::mem::take(self.session.outgoing());
        self.stream.write_all(&out).await?;
        self.stream.flush().await
    }

    /// Writes what there is, reads once.
    async fn turn(&mut self, patience: Duration) -> Result<(), Silence> {
        let mut input = [0u8; 4096];
        let exchange = async {
            // So little is written that it fits whatever the broker reads; a failure shows when
            // reading.
            let _ = self.flush().await;
            self.stream.read(&mut input).await
        };
        match timeout(patience, exchange).await {
            Ok(Ok(0)) => Err(Silence::Closed(None)),
            Ok(Ok(length)) => {
                self.session.handle_bytes(Instant::now(), &input[..length]);
                Ok(())
            }
            Ok(Err(error)) => Err(Silence::Closed(Some(error))),
            Err(_) => Err(Silence::Time),
        }
    }

    async fn until<T>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, Silence> {
        let begun = Instant::now();
        loop {
            while let Some(event) = self.session.poll_event() {
                if let Some(found) = wanted(&event) {
                    return Ok(found);
                }
            }
            self.turn(patience.saturating_sub(begun.elapsed())).await?;
        }
    }
}

fn connack_advice(code: u8) -> &'static str {
    if reason_code::is_bad_client_id(code) {
        "set upstream.client-id"
    } else if reason_code::is_bad_password(code) {
        "see upstream.username and password-file"
    } else if reason_code::is_not_authorized(code) {
        "see username, password-file, certificate-file and client-id; beside a running daemon the check's client id ends in -check"
    } else {
        "the broker's log says why"
    }
}

fn ok(steps: &mut Vec<Step>, name: &'static str, text: String) {
    steps.push(Step { name, grade: Grade::Ok, text, advice: None });
}

fn warn(steps: &mut Vec<Step>, name: &'static str, text: String, advice: impl Into<String>) {
    steps.push(Step { name, grade: Grade::Warn, text, advice: Some(advice.into()) });
}

fn fail<T>(
    steps: &mut Vec<Step>,
    name: &'static str,
    text: String,
    advice: impl Into<String>,
) -> Result<T, Failed> {
    steps.push(Step { name, grade: Grade::Fail, text, advice: Some(advice.into()) });
    Err(Failed)
}

fn failed(steps: &mut Vec<Step>, name: &'static str, text: String, advice: impl Into<String>) -> Spoken {
    let _ = fail::<()>(steps, name, text, advice);
    Spoken::Failed
}
