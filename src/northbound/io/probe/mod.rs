//! Step by step to the broker and back, for `tombolo check`: files, DNS, TCP, TLS, CONNACK, a
//! publish and its echo.
//!
//! It connects as the daemon would: with its client id, its will and its subscription, and by the
//! same [`Fallback`]. Beside a daemon that is connected to this broker it has a client id of its
//! own and no will, so that it takes nobody's place. The steps stop at the first that fails.
//!
//! `Ok` says what was proven. A publish on the check's own topic, taken or refused, proves nothing
//! about readings, so each rule is tried for itself ([`reading`]).

mod commands;
mod reading;
mod talk;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::client::TlsStream;

pub use self::commands::CommandTrial;
pub use self::reading::{LEVEL, REFUSED_MAX, ReadingTrial, STOPPED, TRIED_MAX};
use self::reading::{Tried, words};
use self::talk::{Message, Said, Silence, Subscribed, Talk, Wire};
use super::files::Material;
use super::socket::Socket;
use super::transport;
use crate::clock::{UnixTime, WallClock};
use crate::northbound::address;
use crate::northbound::advice;
use crate::northbound::certificate::Certificate;
use crate::northbound::chain_fault;
use crate::northbound::ending::{self, Ending};
use crate::northbound::fallback::{AttemptFailure, Fallback, OnAccepted, Variant};
use crate::northbound::reason_code;
use crate::northbound::session::{Ended, Event, Limits, Opening, Session, Will};
use crate::northbound::settings::{Protocol, Settings};
use crate::northbound::uplink::{ReadingAnswer, status_payload};
use crate::northbound::wire::{self, Publish, Version};

/// A certificate of the broker that ends sooner is worth a warning.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);
/// A smaller Receive Maximum holds up what is sent in batches.
const RECEIVE_MAXIMUM_GOOD: u16 = 100;
/// Slashes in a topic that AWS IoT Core takes.
const SLASHES_MAX: usize = 7;

/// Bytes of a PUBLISH beside its payload that are reckoned with: topic and properties.
const PACKET_OVERHEAD: u64 = 1_200;
/// Bytes of a small reading.
const LEAST_PAYLOAD: usize = 16;
/// Most connections made, whatever the broker answers.
const CONNECTIONS_MAX: usize = 12;
/// Characters of a client id that every broker takes (MQTT 3.1.1 §3.1.3.1).
const CLIENT_ID_SAFE: usize = 23;
/// TCP, and TLS if configured, are there, and nothing more.
const MUTE: &str = "the broker accepts the connection but does not answer MQTT: no CONNACK within 20 s";
const MUTE_ADVICE: &str =
    "see whether the port in upstream.url is an MQTT broker's, and with its operator whether it still works";
/// What the check's own client id ends in.
const CLIENT_ID_END: &str = "-check";

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
    /// `files`, `dns`, `tcp`, `tls`, `mqtt`, `publish`, `readings` or `commands`.
    pub name: &'static str,
    /// How it went.
    pub grade: Grade,
    /// What was seen.
    pub text: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// A topic of our own to publish on, such as `{prefix}/gateway/check`.
    pub scratch: &'a str,
    /// Topics in the space of readings that no reading has.
    pub readings: &'a [ReadingTrial],
    /// What the gateway subscribes to for commands.
    pub commands: &'a [CommandTrial],
    /// Bytes of the largest payload that a role allows.
    pub payload_max: u64,
    /// A daemon is connected to this broker under our client id.
    pub beside: bool,
    /// It has shown that it may publish on a topic of its own.
    pub own_taken: bool,
    /// Its connection was made with other files than there are now: who is refused now is refused
    /// then.
    pub files_changed: bool,
}

/// Goes the steps.
pub async fn probe(settings: &Settings, clock: Arc<dyn WallClock>, trial: &Trial<'_>) -> Vec<Step> {
    let will = !trial.beside && settings.topics.gateway_status.is_some();
    let mut walk = Walk {
        settings,
        clock,
        trial,
        fallback: Fallback::new(settings.protocol, will),
        variant: None,
        connections: 0,
        subscribed: BTreeSet::new(),
        session_was_there: None,
        steps: Vec::new(),
    };
    let _ = walk.go().await; // a failed step is the last in the list
    walk.steps
}

/// What the gateway's own publishes say, in the words of a check: `answers` to the first of the
/// trial's readings, over MQTT 5 with QoS 1.
pub fn judge_own(
    settings: &Settings,
    clock: Arc<dyn WallClock>,
    trial: &Trial<'_>,
    answers: &[ReadingAnswer],
) -> Vec<Step> {
    let said = |answer: &ReadingAnswer| match *answer {
        ReadingAnswer::Acknowledged(code) if reason_code::is_refusal(code) => Some(Said::Refused(code)),
        ReadingAnswer::Acknowledged(_) => Some(Said::Taken { ms: 0, echoed: false }),
        ReadingAnswer::Closed => Some(Said::Closed),
        ReadingAnswer::Silent => Some(Said::Silent),
        ReadingAnswer::TooLarge => Some(Said::TooLarge),
        ReadingAnswer::Unsent => None,
    };
    let answered = trial.readings.iter().zip(answers);
    let tried: Vec<Tried<'_>> = answered
        .filter_map(|(reading, answer)| {
            let said = said(answer)?;
            Some(Tried { reading, said, proven: matches!(said, Said::Taken { .. }) })
        })
        .collect();
    let mut walk = Walk {
        settings,
        clock,
        trial,
        fallback: Fallback::new(settings.protocol, false),
        variant: None,
        connections: 0,
        subscribed: BTreeSet::new(),
        session_was_there: None,
        steps: Vec::new(),
    };
    walk.judge_readings(Said::Taken { ms: 0, echoed: true }, &tried);
    walk.steps
}

struct Failed;

/// Why CONNECT was not accepted.
struct Refusal {
    failure: AttemptFailure,
    text: String,
    advice: String,
    /// Another client id might be accepted.
    about_us: bool,
    /// The broker says that it is the client id.
    about_id: bool,
}

struct Walk<'a> {
    settings: &'a Settings,
    clock: Arc<dyn WallClock>,
    trial: &'a Trial<'a>,
    fallback: Fallback,
    /// What the broker took, once it did.
    variant: Option<(Variant, Limits)>,
    connections: usize,
    /// Topic filters that the check has added to the session.
    subscribed: BTreeSet<String>,
    /// Whether the broker had the gateway's session before the check.
    session_was_there: Option<bool>,
    steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    async fn go(&mut self) -> Result<(), Failed> {
        let mut talk = self.connect().await?;
        let readable = self.subscribe(&mut talk).await;
        if readable.is_none() {
            // Closed over the subscription: what is published may pass all the same.
            talk = self.connect().await?;
        }
        let readable = readable.unwrap_or(false);
        let scratch = Message {
            topic: self.trial.scratch,
            retain: false,
            properties: b"",
            payload: b"{\"check\":true}",
        };
        let said = talk.publish(&scratch, self.limits(), readable).await;
        let closed = self.subscribe_as_daemon(&mut talk).await;
        let talk = match said {
            // What follows is tried on another connection: it is not about that.
            _ if closed => None,
            // Some end the connection only after they have refused.
            Said::Refused(_) => {
                talk.goodbye().await;
                None
            }
            Said::Closed => None,
            _ => Some(talk),
        };
        let (talk, tried) = match said {
            // A broker that answers nothing is not asked once more.
            Said::Silent => (talk, Vec::new()),
            _ => self.try_readings(talk).await,
        };
        self.judge_publish(said, readable, &tried);
        let talk = match said {
            Said::Silent => talk,
            _ => self.try_commands(talk, matches!(said, Said::Taken { echoed: true, .. })).await,
        };
        if let Some(talk) = self.leave_as_found(talk).await {
            talk.goodbye().await;
        }
        Ok(())
    }

    /// Whether the check is in the gateway's own session, which outlives the connection.
    fn is_in_kept_session(&self) -> bool {
        // A clean start in the gateway's place would lose the commands that wait there.
        !self.trial.beside && !self.settings.commands.is_empty()
    }

    /// Subscribes to one topic, which is not to stay in the session.
    async fn subscribe_to(&mut self, talk: &mut Talk, topic: &str) -> Subscribed {
        self.subscribed.insert(topic.to_owned());
        talk.subscribe(topic).await
    }

    /// Takes the check's subscriptions out of the gateway's session. The daemon makes those that it
    /// needs itself. Those to commands stay if the session was there: it may have them, and without
    /// them what comes until the daemon starts would be lost.
    async fn leave_as_found(&mut self, talk: Option<Talk>) -> Option<Talk> {
        let may_share = self.trial.beside && self.settings.session_beside(self.version()).is_some();
        if !self.is_in_kept_session() && !may_share {
            return talk;
        }
        let mut filters = std::mem::take(&mut self.subscribed);
        if self.session_was_there == Some(false) {
            filters.extend(self.trial.commands.iter().map(|command| command.filter.clone()));
        }
        if filters.is_empty() {
            return talk;
        }
        let mut talk = match talk.filter(|talk| !talk.session.is_ended()) {
            Some(talk) => talk,
            None => self.connect().await.ok()?,
        };
        talk.unsubscribe(&filters.into_iter().collect::<Vec<_>>()).await;
        Some(talk)
    }

    fn limits(&self) -> Limits {
        self.variant.map_or_else(Limits::default, |(_, limits)| limits)
    }

    fn version(&self) -> Version {
        self.variant.map_or(Version::V5, |(variant, _)| variant.version)
    }

    /// Steps are told of the first connection only.
    fn is_first(&self) -> bool {
        self.connections == 0
    }

    /// A connection that the broker accepted, by what the daemon would settle on.
    async fn connect(&mut self) -> Result<Talk, Failed> {
        if let Some((variant, _)) = self.variant {
            return match self.attempt(variant).await? {
                Ok((talk, _)) => Ok(talk),
                Err(refusal) => self.refused(refusal),
            };
        }
        let mut refusals: Vec<(Variant, Refusal)> = Vec::new();
        let mut accepted = false;
        loop {
            let variant = self.fallback.variant();
            let exhausted = !accepted && refusals.iter().any(|(tried, _)| *tried == variant);
            if exhausted || self.connections >= CONNECTIONS_MAX {
                // The first is the best variant's, and what the daemon says as well.
                let (_, refusal) = refusals.swap_remove(0);
                return self.refused(refusal);
            }
            match self.attempt(variant).await? {
                Ok((talk, limits)) => {
                    accepted = true;
                    if self.fallback.handle_accepted(Instant::now()) == OnAccepted::TryBetter {
                        talk.goodbye().await;
                        continue;
                    }
                    self.variant = Some((variant, limits));
                    self.accepted(variant, &limits);
                    return Ok(talk);
                }
                Err(refusal) => {
                    self.fallback.handle_failed(Instant::now(), refusal.failure, &refusal.text);
                    if refusal.failure == AttemptFailure::Nothing {
                        return self.refused(refusal);
                    }
                    refusals.push((variant, refusal));
                }
            }
        }
    }

    fn refused<T>(&mut self, refusal: Refusal) -> Result<T, Failed> {
        let Refusal { text, advice, about_us, about_id, .. } = refusal;
        if self.trial.beside && about_us && self.trial.files_changed && !about_id {
            let id = check_client_id(&self.settings.client_id);
            let text = format!(
                "with the files of [upstream] as they are now, and the client id {id} beside the running gateway, {text}; either \
                 it does not accept what is in the files, or it takes no other client id than the gateway's"
            );
            let advice = format!(
                "`tombolo reload` shows which: it tries the files with the gateway's own client id, and the connection that \
                 stands ends only if they are accepted; if they are not, {advice}"
            );
            return fail(&mut self.steps, "mqtt", text, advice);
        }
        if self.trial.beside && about_us {
            let id = check_client_id(&self.settings.client_id);
            let text = format!(
                "not proven: beside the running gateway the check has the client id {id}, and with that {text}"
            );
            // What it may be beside the client id is as likely as without the gateway.
            warn(&mut self.steps, "mqtt", text, format!("{advice}; or {STOPPED}"));
            return Err(Failed);
        }
        fail(&mut self.steps, "mqtt", text, advice)
    }

    fn accepted(&mut self, variant: Variant, limits: &Limits) {
        ok(&mut self.steps, "mqtt", format!("MQTT {}; {}", variant.version.as_str(), limits_text(limits)));
        if let Some(why) = self.fallback.settled().and_then(|settled| settled.why_will.clone()) {
            let topic = self.settings.topics.gateway_status.clone().unwrap_or_default();
            let text = format!(
                "the broker does not accept the will on {topic}: {why}; the gateway connects without it"
            );
            let advice = "allow a retained message there, or set [topics] gateway-status = \"\"";
            warn(&mut self.steps, "mqtt", text, advice);
        }
        let largest = self.trial.payload_max.saturating_add(PACKET_OVERHEAD);
        if u64::from(limits.packet_size) < largest {
            let text = format!(
                "the broker takes packets of {} bytes, and roles allow payloads of {}: readings that do not fit will be set aside",
                limits.packet_size, self.trial.payload_max
            );
            let advice = "raise the broker's maximum packet size, or lower max-payload of the roles";
            warn(&mut self.steps, "mqtt", text, advice);
        }
        self.judge_packet_size(variant.version, limits);
        judge_limits(
            &mut self.steps,
            variant.version,
            self.settings.protocol,
            limits,
            &self.settings.host,
            self.trial.scratch,
        );
    }

    /// Whether a small reading of each rule fits: what is tried has no payload and less beside it.
    fn judge_packet_size(&mut self, version: Version, limits: &Limits) {
        let limit = u64::from(limits.packet_size);
        let least = |reading: &&ReadingTrial| least_packet(&reading.topic, version);
        let readings = self.trial.readings;
        let Some(first) = readings.iter().filter(|reading| least(reading) > limit).max_by_key(least) else {
            return;
        };
        let too_large = readings.iter().filter(|reading| least(reading) > limit).count();
        let text = format!(
            "the broker takes packets of {limit} bytes at most, and a reading of {LEAST_PAYLOAD} bytes of {} makes one of {} or \
             more: {}",
            first.of,
            least(&first),
            match too_large == readings.len() {
                true => "no reading that is tried here would be taken".to_owned(),
                false => format!("readings of {too_large} of {} topics would be set aside", readings.len()),
            }
        );
        let advice = "raise the broker's maximum packet size, or shorten [topics] and the ids";
        match too_large == readings.len() {
            true => {
                let _ = fail::<()>(&mut self.steps, "readings", text, advice);
            }
            false => warn(&mut self.steps, "readings", text, advice),
        }
    }

    /// One connection, as far as CONNACK.
    async fn attempt(&mut self, variant: Variant) -> Result<Result<(Talk, Limits), Refusal>, Failed> {
        let (stream, password) = self.reach().await?;
        self.connections += 1;
        let settings = self.settings;
        let topic = settings.topics.gateway_status.clone().filter(|_| variant.will);
        let opening = Opening {
            version: variant.version,
            client_id: match self.trial.beside {
                true => check_client_id(&settings.client_id),
                false => settings.client_id.clone(),
            },
            keep_alive: settings.keep_alive,
            username: settings.username.clone(),
            password,
            will: topic.map(|topic| Will {
                topic,
                payload: status_payload(settings.gateway.as_str(), false),
                at_least_once: true,
                retain: true,
            }),
            session_expiry: match self.trial.beside {
                true => settings.session_beside(variant.version),
                false => Some(settings.session_expiry).filter(|_| self.is_in_kept_session()),
            },
        };
        let mut talk = Talk {
            session: Session::new(Instant::now(), &opening),
            stream,
            version: variant.version,
            head: Vec::new(),
        };
        let accepted = talk.until(super::super::session::CONNACK_WITHIN, |event| match event {
            Event::Accepted { limits, session_present, .. } => Some(Ok((*limits, *session_present))),
            Event::Ended(ended) => Some(Err(ended.clone())),
            _ => None,
        });
        Ok(match accepted.await {
            Ok(Ok((limits, present))) => {
                self.session_was_there.get_or_insert(present);
                Ok((talk, limits))
            }
            Ok(Err(ended)) => Err(self.refusal(ended, &talk.head, variant.version)),
            Err(silence) => Err(self.unanswered(silence)),
        })
    }

    /// The broker ended the session instead of accepting it.
    fn refusal(&self, ended: Ended, head: &[u8], version: Version) -> Refusal {
        let failure = Ending::of_session(ended.clone(), None).failure;
        let of = |text: String, advice: &str, about_us| Refusal {
            failure,
            text,
            advice: advice.to_owned(),
            about_us,
            about_id: false,
        };
        match ended {
            Ended::Refused(_) if failure == AttemptFailure::Version => {
                let text = format!("the broker does not speak MQTT {}", version.as_str());
                of(text, "set upstream.protocol = \"auto\"", false)
            }
            Ended::Refused(answer) => {
                let code = answer.code;
                let text = format!(
                    "the broker refuses the connection: {}",
                    ending::words(reason_code::connack_text(code), &answer)
                );
                let away = matches!(
                    reason_code::connack_class(code),
                    reason_code::CodeClass::Unavailable | reason_code::CodeClass::Elsewhere
                );
                // The server that it names is in the text, with what to do.
                let advice = if answer.server.is_some() && away {
                    "see with the broker's operator whether that server is the right one"
                } else {
                    advice::of_connack(code)
                };
                Refusal { about_id: reason_code::is_bad_client_id(code), ..of(text, advice, !away) }
            }
            // A TLS record, most likely an alert, instead of MQTT.
            _ if matches!(head, [0x14..=0x17, 0x03, ..]) => Refusal {
                failure: AttemptFailure::Nothing,
                ..of("the broker speaks TLS on this port".to_owned(), "use mqtts:// in upstream.url", false)
            },
            Ended::Protocol(what) => {
                of(format!("what answers is no MQTT broker: {what}"), "see the port in upstream.url", false)
            }
            Ended::Disconnected(answer) => {
                let text = format!(
                    "the broker ends the connection instead of accepting it: {} (0x{:02X})",
                    reason_code::text(answer.code),
                    answer.code
                );
                of(text, "the broker's log says why", true)
            }
            Ended::NoConnack | Ended::Silent => of(MUTE.to_owned(), MUTE_ADVICE, false),
        }
    }

    fn unanswered(&self, silence: Silence) -> Refusal {
        let error = match silence {
            Silence::Time => {
                return Refusal {
                    failure: AttemptFailure::Nothing,
                    text: MUTE.to_owned(),
                    advice: MUTE_ADVICE.to_owned(),
                    about_us: false,
                    about_id: false,
                };
            }
            Silence::Closed(error) => error,
        };
        if let Some(explained) = error.and_then(|error| transport::explain_tls(&error, &self.settings.host)) {
            return Refusal {
                failure: AttemptFailure::Nothing,
                text: explained.text,
                advice: "the broker's log says why".to_owned(),
                about_us: false,
                about_id: false,
            };
        }
        let text = "the broker closes the connection instead of answering CONNECT".to_owned();
        let mut advice =
            "perhaps it refuses our client id, or a load balancer has no broker behind it; its log says why"
                .to_owned();
        if self.settings.tls.is_none() {
            advice = format!("perhaps this port speaks TLS: use mqtts://; or {advice}");
        }
        if self.settings.protocol == Protocol::V5 {
            advice = format!("perhaps it has no MQTT 5: set [upstream] protocol = \"auto\"; or {advice}");
        }
        Refusal { failure: AttemptFailure::Closed, text, advice, about_us: true, about_id: false }
    }

    /// Files, DNS, TCP and TLS.
    async fn reach(&mut self) -> Result<(Box<dyn Wire>, Option<Vec<u8>>), Failed> {
        let (host, port) = (self.settings.host.as_str(), self.settings.port);
        let first = self.is_first();
        let Material { tls, signs_in_token, password, .. } =
            match transport::load(self.settings, self.clock.clone()).await {
                Ok(material) => material,
                Err(text) => {
                    return fail(
                        &mut self.steps,
                        "files",
                        text,
                        "correct the file, or its name in [upstream]",
                    );
                }
            };
        let addresses = match transport::resolve(host, port).await {
            Ok(addresses) => addresses,
            Err(text) => {
                return fail(&mut self.steps, "dns", text, "see upstream.url and this machine's name server");
            }
        };
        if first {
            let list: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            ok(&mut self.steps, "dns", format!("{host} is {}", list.join(", ")));
        }
        let mut left = address::order(&addresses, &[]);
        loop {
            let begun = Instant::now();
            let (stream, peer, others) = match transport::dial(host, port, &left).await {
                Ok(dialed) => dialed,
                Err(text) => {
                    let advice = "see the port in upstream.url, firewalls, and the broker";
                    return fail(&mut self.steps, "tcp", text, advice);
                }
            };
            if first {
                let ms = begun.elapsed().as_millis();
                ok(&mut self.steps, "tcp", format!("{peer} answered in {ms} ms"));
            }
            let Some(config) = tls.clone() else {
                if first {
                    let text = "none: everything crosses the network readable".to_owned();
                    warn(&mut self.steps, "tls", text, "use mqtts://");
                }
                return Ok((Box::new(stream), password));
            };
            match transport::handshake_by(config, signs_in_token, host, stream).await {
                Ok(stream) => {
                    if first {
                        let pinned = self.settings.tls.as_ref().is_some_and(|tls| !tls.pins.is_empty());
                        describe_tls(&mut self.steps, &stream, &*self.clock, pinned);
                    }
                    return Ok((Box::new(stream), password));
                }
                Err(error) if others.is_empty() => {
                    let advice = match error.pin {
                        Some(pin) => format!(
                            "if the broker cannot have another certificate and its owner confirms this key: [upstream] \
                             pin-sha256 = [\"{}\"]",
                            crate::hex::format_hex(&pin)
                        ),
                        None => "the steps before this one are fine".to_owned(),
                    };
                    return fail(&mut self.steps, "tls", error.text, advice);
                }
                Err(error) => {
                    let text = format!("{peer}: {}", error.text);
                    let advice = "the daemon goes on to the next address, as this check does";
                    warn(&mut self.steps, "tls", text, advice);
                    left = others;
                }
            }
        }
    }

    /// Subscribes to the check's own topic: whether what is published there can come back. `None`:
    /// the broker closed the connection.
    async fn subscribe(&mut self, talk: &mut Talk) -> Option<bool> {
        let scratch = self.trial.scratch;
        let (what, answer) = match self.subscribe_to(talk, scratch).await {
            Subscribed::Yes => return Some(true),
            Subscribed::Refused(code) => {
                (format!("refuses a subscription to {scratch}: {}", reason_code::text(code)), Some(false))
            }
            Subscribed::Closed => (format!("closes the connection over a subscription to {scratch}"), None),
            Subscribed::Silent => (format!("does not answer a subscription to {scratch}"), Some(false)),
        };
        let text = format!("the broker {what}; readings may still pass");
        warn(&mut self.steps, "publish", text, allow(scratch));
        answer
    }

    /// The subscription that the daemon makes. Whether the broker closes the connection over it.
    async fn subscribe_as_daemon(&mut self, talk: &mut Talk) -> bool {
        let Some(topic) = self.settings.topics.gateway_status.as_deref().filter(|_| !self.trial.beside)
        else {
            return false;
        };
        if talk.session.is_ended() || topic.starts_with(self.trial.scratch) {
            return false;
        }
        let subscribed = self.subscribe_to(talk, topic).await;
        if let Subscribed::Refused(code) = subscribed {
            let text = format!(
                "the broker refuses the gateway's subscription to {topic}: {}; it goes on without",
                reason_code::text(code)
            );
            warn(&mut self.steps, "publish", text, allow(self.trial.scratch));
        }
        matches!(subscribed, Subscribed::Closed)
    }

    /// What the trials of a publish prove.
    fn judge_publish(&mut self, said: Said, readable: bool, tried: &[Tried<'_>]) {
        let (scratch, version) = (self.trial.scratch, self.version());
        let acknowledges = self.limits().at_least_once;
        let steps = &mut self.steps;
        match said {
            Said::Taken { ms, echoed: true } => {
                let taken = if acknowledges { "acknowledged" } else { "sent without acknowledgement" };
                ok(steps, "publish", format!("{taken} and back from {scratch} in {ms} ms"));
            }
            Said::Taken { .. } if !acknowledges => {
                let text = format!(
                    "a publish on {scratch} was sent with QoS 0, the only one of this broker, and did not come back: nothing \
                     shows that it was taken"
                );
                warn(steps, "publish", text, allow(scratch));
            }
            Said::Taken { ms, .. } if !readable && version == Version::V5 => {
                ok(steps, "publish", format!("acknowledged on {scratch} in {ms} ms"));
            }
            Said::Taken { .. } if !readable => {
                let text = format!(
                    "a publish on {scratch} was acknowledged, which over MQTT 3.1.1 does not prove that it was taken"
                );
                warn(steps, "publish", text, allow(scratch));
            }
            Said::Taken { .. } if version == Version::V5 => {
                let text = format!("a publish on {scratch} was acknowledged and did not come back");
                warn(
                    steps,
                    "publish",
                    text,
                    "readings pass; see who may read that topic, and the broker's log",
                );
            }
            // An account that may not read has such a subscription accepted, too.
            Said::Taken { .. } => {
                let others = match tried.iter().find(|tried| tried.proven) {
                    Some(taken) => format!("one among the readings, on {}, is taken", taken.reading.topic),
                    None => {
                        "over MQTT 3.1.1 that proves neither that it was taken nor that it was not".to_owned()
                    }
                };
                let text = format!("a publish on {scratch} was acknowledged and did not come back; {others}");
                let advice = format!(
                    "the broker may drop what it does not allow, or not let the gateway read it, without saying so; see its \
                     log, and {}",
                    allow(scratch)
                );
                warn(steps, "publish", text, advice);
            }
            Said::Silent => {
                let text = format!("the broker does not acknowledge a publish on {scratch}");
                let _ = fail::<()>(steps, "publish", text, allow(scratch));
            }
            Said::TooLarge => {
                let text = "not even a message of 14 bytes fits the broker's maximum packet size".to_owned();
                let _ = fail::<()>(steps, "publish", text, "raise it at the broker");
            }
            Said::Refused(_) | Said::Closed => {
                if let Some(taken) = tried.iter().find(|tried| tried.proven) {
                    let topic = &taken.reading.topic;
                    let text = format!(
                        "the broker refuses a publish on {scratch}: {}; one among the readings, on {topic}, is taken",
                        words(said)
                    );
                    warn(steps, "publish", text, allow(scratch));
                } else if !tried.is_empty() && tried.iter().all(Tried::is_refused) && !self.trial.own_taken {
                    let also: Vec<String> = tried.iter().map(Tried::words).collect();
                    let text = format!(
                        "the broker refuses what this gateway publishes: on {scratch}: {}; {}",
                        words(said),
                        also.join("; ")
                    );
                    if self.trial.beside {
                        let id = check_client_id(&self.settings.client_id);
                        let text = format!(
                            "not proven: beside the running gateway the check has the client id {id}, and with that {text}"
                        );
                        let advice = format!(
                            "{STOPPED}; if the broker does not bind topics to the client id, {}",
                            allow(scratch)
                        );
                        return warn(steps, "publish", text, advice);
                    }
                    let _ = fail::<()>(steps, "publish", text, allow(scratch));
                    return; // there is nothing left to say about readings
                } else {
                    let text = format!(
                        "the broker refuses a publish on {scratch}: {}; readings may still pass",
                        words(said)
                    );
                    warn(steps, "publish", text, allow(scratch));
                }
            }
        }
        self.judge_readings(said, tried);
    }
}

/// Bytes of the least PUBLISH of a small reading on this topic, whose device has an id of one
/// character, before the time is known.
fn least_packet(topic: &str, version: Version) -> u64 {
    let mut properties = Vec::new();
    if version == Version::V5 {
        for (name, value) in [("id", "0123456789abcdef-1"), ("device", "d"), ("method", "POST")] {
            properties.push(0x26); // user property
            wire::push_string(&mut properties, name.as_bytes());
            wire::push_string(&mut properties, value.as_bytes());
        }
    }
    let topic = topic.replace(LEVEL, "d");
    let publish = Publish {
        topic: topic.as_bytes(),
        packet_id: Some(1),
        retain: false,
        properties: &properties,
        payload: &[0; LEAST_PAYLOAD],
    };
    let mut out = Vec::new();
    match wire::push_publish(&mut out, version, usize::MAX, &publish) {
        Ok(()) => out.len() as u64,
        Err(_) => u64::MAX,
    }
}

/// The client id of a check beside the daemon: never longer than the daemon's own, or than every
/// broker takes.
pub fn check_client_id(own: &str) -> String {
    let longest = own.len().max(CLIENT_ID_SAFE) - CLIENT_ID_END.len();
    let mut kept = own.len().min(longest);
    while !own.is_char_boundary(kept) {
        kept -= 1;
    }
    let made = format!("{}{CLIENT_ID_END}", &own[..kept]);
    if made != own {
        return made;
    }
    // The gateway's own ends so: never that one.
    let other = if own[..kept].ends_with('2') { '3' } else { '2' };
    let shorter: String = own[..kept].chars().take(own[..kept].chars().count().saturating_sub(1)).collect();
    format!("{shorter}{other}{CLIENT_ID_END}")
}

fn describe_tls(steps: &mut Vec<Step>, stream: &TlsStream<Socket>, clock: &dyn WallClock, pinned: bool) {
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    let leaf = connection.peer_certificates().and_then(|chain| Certificate::parse(chain.first()?));
    if pinned {
        let text = format!(
            "{version}; the broker has the key of upstream.pin-sha256; its name and dates are not judged"
        );
        return ok(steps, "tls", text);
    }
    let Some(leaf) = leaf else {
        return ok(steps, "tls", version.to_owned());
    };
    let pin = connection.peer_certificates().and_then(|chain| chain_fault::pin(chain.first()?));
    let pin =
        pin.map(|pin| format!("; public key sha256 {}", crate::hex::format_hex(&pin))).unwrap_or_default();
    let of = leaf.subject.clone().map(|subject| format!(" of {subject}")).unwrap_or_default();
    let by = leaf.issuer.clone().map(|issuer| format!(" by {issuer}")).unwrap_or_default();
    ok(steps, "tls", format!("{version}; certificate{of}{by}, until {}{pin}", day(leaf.not_after)));
    let above = connection.peer_certificates().unwrap_or_default().iter().skip(1);
    let above: Vec<Certificate> = above.filter_map(|der| Certificate::parse(der)).collect();
    if let Some((text, advice)) = judge_dates(&leaf, &above, clock) {
        warn(steps, "tls", text, advice);
    }
}

fn day(time: UnixTime) -> String {
    time.to_string()[..10].to_owned()
}

/// What the dates of an accepted chain say against it or against this machine's clock, and what is
/// to be done.
fn judge_dates(
    leaf: &Certificate,
    above: &[Certificate],
    clock: &dyn WallClock,
) -> Option<(String, &'static str)> {
    let now = clock.raw();
    let newest = std::iter::once(leaf).chain(above).max_by_key(|of| of.not_before);
    if let Some(ahead) = newest.filter(|of| of.not_before > now) {
        let name = ahead.subject.as_deref().unwrap_or("no name");
        let text = format!(
            "the broker shows a certificate ({name}) that is not valid before {}, and this machine's clock says {}: the \
             gateway takes the broker's word, and its own clock for wrong",
            day(ahead.not_before),
            day(now)
        );
        let advice = "if the clock is right, have that certificate issued anew, not dated in the future, then run `tombolo \
                      clock reset`; otherwise set the clock right";
        return Some((text, advice));
    }
    match clock.wall() {
        None => {
            let text = "this machine's clock is not trusted, so what expired lately is not noticed";
            Some((text.to_owned(), "see `timedatectl`"))
        }
        Some(now) if leaf.not_after.0 < now.0.saturating_add(EXPIRES_SOON.as_millis() as u64) => {
            let text = format!("the broker's certificate ends on {}", day(leaf.not_after));
            Some((text, "tell whoever runs the broker"))
        }
        Some(_) => None,
    }
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
            "Receive Maximum {}: only so many messages may await their answer at a time, which slows a backlog down",
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
    if host.ends_with(".amazonaws.com")
        && host.contains(".iot.")
        && scratch.matches('/').count() + 2 > SLASHES_MAX
    {
        let text = format!("this broker takes topics with at most {SLASHES_MAX} slashes");
        warn(steps, "mqtt", text, "shorten [topics]");
    }
}

/// What to allow at the broker: the prefix, without the two levels of the check's own.
fn allow(scratch: &str) -> String {
    let prefix = scratch.strip_suffix(SCRATCH).unwrap_or(scratch);
    format!("allow {prefix}/# at the broker; [topics] prefix and [gateway] id decide that prefix")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::fixed::At;

    #[test]
    fn the_least_packet_counts_topic_properties_and_a_small_payload() {
        // Header 2, topic 2 + 21, id 2, length of the properties 1, 16.
        let bare = 2 + 2 + 21 + 2 + 16;
        let topic = format!("tombolo/gw/door-7/t/{LEVEL}");
        assert_eq!(least_packet(&topic, Version::V3_1_1), bare);
        let properties = (5 + 2 + 18) + (5 + 6 + 1) + (5 + 6 + 4);
        assert_eq!(least_packet(&topic, Version::V5), bare + 1 + properties);
    }

    #[test]
    fn a_certificate_dated_in_the_future_is_named_and_not_the_clock_alone() {
        let of = |name: &str, begin: u64, end: u64| Certificate {
            version: 3,
            not_before: UnixTime::from_secs(begin),
            not_after: UnixTime::from_secs(end),
            subject: Some(name.to_owned()),
            issuer: None,
        };
        let now = 1_795_000_000;
        let judged = |leaf: &Certificate, above: &[Certificate], trusted| {
            judge_dates(leaf, above, &At(now, trusted)).map(|(text, _)| text).unwrap_or_default()
        };
        let (good, ahead) = (of("broker", 0, now + 90 * 86_400), of("early", 1_893_456_000, 1_900_000_000));
        // After such a chain the clock is not trusted any more.
        for trusted in [true, false] {
            let text = judged(&ahead, &[], trusted);
            assert!(text.contains("(early) that is not valid before 2030-01-01"), "{text}");
            assert!(text.contains("clock says 2026-11-18"), "{text}");
            assert!(judged(&good, std::slice::from_ref(&ahead), trusted).contains("(early)"));
        }
        assert!(judged(&good, &[], false).contains("clock is not trusted"));
        assert_eq!(judged(&good, &[], true), "");
        assert!(judged(&of("broker", 0, now + 86_400), &[], true).contains("ends on"));
    }

    #[test]
    fn the_checks_client_id_is_no_longer_than_the_gateways_or_23_characters() {
        assert_eq!(check_client_id("tb-abcdefgh"), "tb-abcdefgh-check");
        let long = "a".repeat(23);
        assert_eq!(check_client_id(&long).len(), 23);
        let longer = "b".repeat(64);
        assert_eq!(check_client_id(&longer).len(), 64);
        assert!(check_client_id("ä".repeat(20).as_str()).ends_with("-check"));
        assert_eq!(check_client_id(""), "-check");
        for own in [format!("{}-check", "a".repeat(17)), format!("{}2-check", "a".repeat(30))] {
            let made = check_client_id(&own);
            assert!(made != own && made.len() <= own.len() && made.ends_with("-check"), "{made}");
        }
    }
}
