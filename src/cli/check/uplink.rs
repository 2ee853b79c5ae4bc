//! The uplink: through the running daemon, and step by step by a connection of the check's own.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::reading::{self, Plan};
use crate::cli::status;
use crate::clock::WallClock;
use crate::config::{Finding, Level, Loaded};
use crate::control::io::client::{ANSWER, Client, ClientError, SLOW_ANSWER};
use crate::control::protocol::{CheckTopic, Request};
use crate::control::snapshot::{ConnectionBeside, ReadingTried, ReadingsTried, TakenReading, Uplink};
use crate::credential::probe_place::with_client_id;
use crate::northbound;
use crate::northbound::io::files::WAITS;
use crate::northbound::io::probe::{
    CommandTrial, Grade, ReadingTrial, SCRATCH, STOPPED, Step, TRIED_MAX, Trial, judge_own, probe,
};
use crate::northbound::io::separate_trial::separate_trial;
use crate::northbound::uplink::{OWN_TOO_LARGE, ReadingAnswer, TrialVerdict};

/// Rules named in one finding.
const NAMED: usize = 3;
/// Largest payload of a role that does not say, in bytes: by Block1.
const PAYLOAD_MAX: u32 = 65_536;
/// Seconds that the daemon waits for the acknowledgement of its publish.
const ASKED_S: u64 = 10;

/// For how long connections beside the gateway are announced at a time, in seconds.
const BESIDE_S: u64 = 10;
/// How often they are announced again while they last.
const BESIDE_EVERY: Duration = Duration::from_secs(3);

/// A connection that has stood for less may be one of many.
const YOUNG_S: u64 = 60;

/// The subject of what is said about readings,
const READINGS: &str = "upstream readings";
/// and about commands.
const COMMANDS: &str = "upstream commands";

/// How the daemon's own connection is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It has an upstream.
    pub configured: bool,
    /// It stands.
    pub connected: bool,
    /// An acknowledgement on it proves that a publish was taken.
    pub proves: bool,
    /// Readings that it has delivered.
    pub taken: Vec<TakenReading>,
    /// The broker refuses what the gateway publishes of its own, and nothing that the daemon says
    /// shows that it takes readings: a failure, unless it turns out that it does.
    pub doubt: Option<Doubt>,
}

/// A failure and what it is where readings are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    failure: Finding,
    taken: Finding,
}

impl Doubt {
    /// By what the rest of the check has shown.
    pub fn resolve(self, taken: bool) -> Finding {
        if taken { self.taken } else { self.failure }
    }
}

/// Asks the daemon, which has the connection and the client id.
pub fn ask(daemon: &mut Client, prefix: &str) -> (Vec<Finding>, Standing) {
    match daemon.ask_for::<Uplink>(&Request::UplinkCheck {}, SLOW_ANSWER) {
        Ok(uplink) => {
            // One that could not be asked has proven nothing.
            let asked = uplink.asked == Some(true) || uplink.echo_ms.is_some();
            let taken = if uplink.unacknowledged { Vec::new() } else { uplink.taken.clone() };
            let proves = asked && !uplink.unacknowledged && uplink.protocol.as_deref() != Some("3.1.1");
            let (configured, connected) = (uplink.configured, uplink.connected);
            let (findings, doubt) = judge(&uplink, prefix);
            (findings, Standing { configured, connected, proves, taken, doubt })
        }
        Err(error) => {
            // It may be connected all the same.
            let standing = Standing { configured: true, ..Standing::default() };
            (vec![Finding::fail("upstream", error.to_string())], standing)
        }
    }
}

fn judge(uplink: &Uplink, prefix: &str) -> (Vec<Finding>, Option<Doubt>) {
    // That none is configured is the configuration's finding.
    if !uplink.configured {
        return (Vec::new(), None);
    }
    let mut doubt = None;
    let text = status::uplink(uplink);
    let allow =
        format!("allow {prefix}/# at the broker; [topics] prefix and [gateway] id decide that prefix");
    // A refused status says nothing about readings: one that was taken on this connection does. To
    // a broker that is silent, only one that was taken while it was asked.
    let within = if uplink.left_out.is_empty() { ASKED_S } else { uplink.since_s.unwrap_or(0) };
    let takes_readings =
        uplink.last_taken_s.is_some_and(|ago| ago <= within) && uplink.nothing_taken_s.is_none();
    let is_too_large = uplink.left_out.iter().any(|what| what.contains(OWN_TOO_LARGE));
    let not_its_own = || match is_too_large {
        true => {
            let message =
                format!("{text}; it takes readings, but the gateway's own status is too large for it");
            let advice = "raise the broker's maximum packet size, or set [topics] gateway-status = \"\"";
            Finding::warn("upstream", message).advice(advice)
        }
        false => {
            let message =
                format!("{text}; it takes readings, but the gateway's own status was not acknowledged");
            Finding::warn("upstream", message).advice(allow.clone())
        }
    };
    let mut findings = Vec::new();
    match (uplink.connected, uplink.echo_ms) {
        (true, Some(ms)) if uplink.protocol.as_deref() == Some("3.1.1") => {
            let proof = "which over MQTT 3.1.1 does not prove that it was taken";
            let message = format!("{text}; a publish was acknowledged in {ms} ms, {proof}");
            findings.push(Finding::ok("upstream", message));
        }
        (true, Some(ms)) if uplink.unacknowledged => {
            let message = format!(
                "{text}; a publish was sent in {ms} ms, with QoS 0, the only one of this broker, which does not prove that it \
                 was taken"
            );
            findings.push(Finding::ok("upstream", message));
        }
        (true, Some(ms)) => {
            let message = format!("{text}; a publish was acknowledged in {ms} ms");
            findings.push(Finding::ok("upstream", message));
        }
        (true, None) if takes_readings => findings.push(not_its_own()),
        (true, None) if uplink.left_out.is_empty() && uplink.asked != Some(true) => {
            let message = format!(
                "{text}; the running gateway publishes no status of its own ([topics] gateway-status), so it cannot be asked \
                 whether the broker takes what it sends; that is tried apart"
            );
            findings.push(Finding::warn("upstream", message));
        }
        (true, None) if uplink.left_out.is_empty() && may_yet_answer(uplink) => {
            let message = format!(
                "{text}; a publish has got no answer within {ASKED_S} s yet; the connection is replaced after {} s ([upstream] \
                 answer-timeout)",
                uplink.answer_timeout_s.unwrap_or(0)
            );
            findings
                .push(Finding::warn("upstream", message).advice("see the broker's load, and check again"));
        }
        (true, None) if uplink.capped_by.is_some() => {
            let (key, seconds) =
                (uplink.capped_by.as_deref().unwrap_or_default(), uplink.capped_for_s.unwrap_or(0));
            let message = format!(
                "{text}, but [upstream] {key} keeps publishes back: the next one goes in {seconds} s, so nothing can be proven"
            );
            findings.push(Finding::fail("upstream", message).advice("raise it, or take it out"));
        }
        (true, None) if uplink.left_out.is_empty() => {
            let message = format!(
                "{text}, but the broker acknowledges nothing: a publish got no answer within {ASKED_S} s, and no reading was \
                 taken meanwhile"
            );
            findings.push(Finding::fail("upstream", message).advice(format!(
                "see the broker's log and its load; it may drop what it does not allow without a word: {allow}"
            )));
        }
        (true, None) => {
            let what = if is_too_large { "does not take" } else { "refuses" };
            let message = format!(
                "{text}, but the broker {what} what this gateway publishes, and nothing shows that it takes readings: {}",
                uplink.left_out.join("; ")
            );
            let advice = match is_too_large {
                true => "raise the broker's maximum packet size".to_owned(),
                false => allow.clone(),
            };
            let failure = Finding::fail("upstream", message).advice(advice);
            doubt = Some(Doubt { failure, taken: not_its_own() });
        }
        // The finding about the certificate says why, and what is to be done.
        (false, _) if uplink.last_error.as_ref().is_some_and(|why| why.starts_with(WAITS)) => {
            findings.push(Finding::warn("upstream", text.clone()));
        }
        (false, _) => findings.push(
            Finding::fail("upstream", text.clone())
                .advice("readings are kept meanwhile; what follows shows where it stops"),
        ),
    }
    // More often than that is among the warnings.
    let is_young = uplink.since_s.is_some_and(|seconds| seconds < YOUNG_S);
    if uplink.connected && is_young && uplink.closes > 0 && uplink.contested.is_none() {
        let times = if uplink.closes == 1 { "once".to_owned() } else { format!("{} times", uplink.closes) };
        let message = format!(
            "this connection is new: the broker closed the one before, {times} within 10 min, after {} s at the latest, and \
             gave no reason",
            uplink.closes_lasted_s
        );
        let advice = "see the broker's log, and check again in a minute";
        findings.push(Finding::warn("upstream", message).advice(advice));
    }
    // A bound that the owner has set, and no fault.
    findings.extend(uplink.stalled.iter().filter(|reason| uplink.is_of_the_day(reason)).map(|reason| {
        Finding::warn("upstream", reason.clone()).advice(
            "nothing is lost until the lane is full (`tombolo queue`); a greater one is taken up by a reload",
        )
    }));
    findings.extend(uplink.stalled_by_a_fault().filter(|_| uplink.capped_by.is_none()).map(|reason| {
        Finding::fail("upstream", format!("readings do not flow: {reason}"))
            .advice("`tombolo queue` shows what waits and what is suspected; they are kept meanwhile")
    }));
    findings.extend(uplink.unsubscribed.iter().map(|reason| Finding::fail(COMMANDS, reason.clone())));
    let is_told =
        |warning: &&String| uplink.stalled.contains(warning) || uplink.unsubscribed.contains(warning);
    let others = uplink.warnings.iter().filter(|warning| !is_told(warning));
    findings.extend(others.map(|warning| Finding::warn("upstream", warning.clone())));
    (findings, doubt)
}

/// The broker is slow: it has acknowledged readings, and has never been silent for as long as it
/// may be.
fn may_yet_answer(uplink: &Uplink) -> bool {
    let limit = uplink.answer_timeout_s.unwrap_or(0);
    uplink.last_taken_s.is_some()
        && uplink.oldest_unanswered_s.is_some_and(|waited| waited < limit)
        && uplink.unanswered_connections == 0
        && uplink.nothing_taken_s.is_none()
        && uplink.stalled_by_a_fault().next().is_none()
}

/// What is known before the check goes to the broker itself.
#[derive(Debug, Default)]
pub struct Known {
    /// A daemon is connected to the same broker with the same client id, and the check takes
    /// another one.
    pub beside: bool,
    /// It runs and can be asked.
    pub answers: bool,
    /// It is connected with what the files say, and the broker may take a connection beside it for
    /// the gateway's own: the gateway publishes for the check itself.
    pub through_gateway: bool,
    /// Its connection has shown that what the files say works, but for readings.
    pub own_proven: bool,
    /// Files of the upstream were changed since that connection was made.
    pub files_changed: bool,
    /// Readings that it has delivered on this connection, by this configuration.
    pub taken: Vec<TakenReading>,
    /// A failure unless readings are taken.
    pub doubt: Option<Doubt>,
}

/// Why the broker is not tried beside a gateway that cannot be told so.
fn unasked(upstream: &northbound::Settings) -> Option<Finding> {
    upstream.may_be_bound().then(|| {
        let message = "the broker is not tried: a gateway seems to run and cannot be asked, and a broker that takes the client \
                       id from the user name or the certificate would end its connection";
        Finding::warn("upstream", message).advice("run this as a user who may ask it, or stop it before")
    })
}

/// How the running daemon is reached.
pub type Connect<'c> = &'c (dyn Fn() -> Result<Client, ClientError> + Sync);

/// Does something by connections beside the running gateway's, which is told before: if the broker
/// ends its connection for them it makes another one afterwards, and that is said here.
pub fn beside<T>(
    known: &Known,
    upstream: &northbound::Settings,
    connect: Connect<'_>,
    act: impl FnOnce() -> T,
) -> (T, Option<Finding>) {
    if !known.beside || !known.answers || !upstream.may_be_bound() {
        return (act(), None);
    }
    let by = std::process::id();
    let announce = |seconds| {
        // One that is older does not know this.
        let told = connect().and_then(|mut daemon| {
            daemon.ask_for::<ConnectionBeside>(&Request::UplinkBeside { seconds, by }, ANSWER)
        });
        told.unwrap_or_default().ended
    };
    announce(BESIDE_S);
    // Said again while it lasts: a check that is killed holds the gateway up for no longer.
    let done = thread::scope(|scope| {
        let (finished, waits) = channel::<()>();
        scope.spawn(move || {
            while waits.recv_timeout(BESIDE_EVERY) == Err(RecvTimeoutError::Timeout) {
                announce(BESIDE_S);
            }
        });
        let done = act();
        drop(finished);
        done
    });
    let finding = announce(0).then(|| {
        let message = "the broker ended the running gateway's connection for the check's, which had another client id: it takes \
                       the client id from the user name or the certificate; the gateway connects again now, and no reading is \
                       lost";
        let advice = "give the gateway's account to nobody else; what differs in the files is tried by `tombolo reload`, too";
        Finding::warn("upstream mqtt", message).advice(advice)
    });
    (done, finding)
}

/// Goes to the broker and back, unless nothing is left to be proven, or this user may not
/// (`untried`).
pub fn walk(
    loaded: &Loaded,
    upstream: &northbound::Settings,
    clock: Arc<dyn WallClock>,
    known: &Known,
    untried: Option<Finding>,
    connect: Connect<'_>,
) -> Vec<Finding> {
    let mut findings = go(loaded, upstream, clock, known, untried, connect);
    if let Some(doubt) = known.doubt.clone() {
        let shows = |finding: &Finding| finding.subject == READINGS && finding.level == Level::Ok;
        let taken = findings.iter().any(shows);
        findings.insert(0, doubt.resolve(taken));
    }
    findings
}

fn go(
    loaded: &Loaded,
    upstream: &northbound::Settings,
    clock: Arc<dyn WallClock>,
    known: &Known,
    untried: Option<Finding>,
    connect: Connect<'_>,
) -> Vec<Finding> {
    let settings = &loaded.settings;
    let Plan { proven, trials } = reading::plan(loaded, &known.taken);
    let mut findings = Vec::new();
    if proven.is_empty() && trials.is_empty() {
        let message =
            "not proven that readings are taken: no [role.*] has an uplink rule that names their topics";
        findings.push(Finding::warn(READINGS, message).advice("add a rule, and check again"));
    }
    if !proven.is_empty() {
        let shown = proven.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = match proven.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("the running gateway has delivered readings of {shown}{more}");
        findings.push(Finding::ok(READINGS, text));
    }
    if known.own_proven && trials.is_empty() {
        return findings;
    }
    if known.through_gateway {
        findings.extend(through_gateway(loaded, upstream, clock, &trials, connect));
        return findings;
    }
    let untried = untried.or_else(|| (known.beside && !known.answers).then(|| unasked(upstream)).flatten());
    if let Some(untried) = untried {
        findings.push(match known.own_proven {
            false => untried,
            true => {
                let message = format!("not proven that readings are taken: {}", untried.message);
                Finding { level: Level::Warn, message, ..untried }
            }
        });
        return findings;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            findings.push(Finding::fail("upstream", format!("cannot be looked at: {error}")));
            return findings;
        }
    };
    let scratch = format!("{}{SCRATCH}", settings.gate.prefix);
    let needed = |filter: &String| CommandTrial {
        filter: filter.clone(),
        of: settings.downlink.needed_by(filter).join(", "),
    };
    let commands: Vec<CommandTrial> = upstream.commands.iter().map(needed).collect();
    let payload_max = settings.gate.roles.iter().map(|role| role.max_payload.unwrap_or(PAYLOAD_MAX)).max();
    let trial = Trial {
        scratch: &scratch,
        readings: &trials,
        commands: &commands,
        payload_max: u64::from(payload_max.unwrap_or(0)),
        beside: known.beside,
        own_taken: known.own_proven && known.doubt.is_none(),
        files_changed: known.files_changed,
    };
    let (mut steps, ended) =
        beside(known, upstream, connect, || runtime.block_on(probe(upstream, clock.clone(), &trial)));
    findings.extend(ended);
    // That is said of the certificate.
    steps.retain(|step| !step.text.starts_with(WAITS));
    // A name server that is silent keeps nobody waiting.
    runtime.shutdown_background();
    let steps = if known.own_proven { about_readings(steps) } else { steps };
    findings.extend(steps.into_iter().map(finding));
    findings
}

/// The gateway publishes on the topics of the trials over its own connection: another one with the
/// same account may end it.
fn through_gateway(
    loaded: &Loaded,
    upstream: &northbound::Settings,
    clock: Arc<dyn WallClock>,
    trials: &[ReadingTrial],
    connect: Connect<'_>,
) -> Vec<Finding> {
    if trials.is_empty() {
        return Vec::new();
    }
    let topics = trials.iter().take(TRIED_MAX);
    let topics = topics.map(|of| CheckTopic { topic: of.topic.clone(), retain: of.retain }).collect();
    let asked = connect().and_then(|mut daemon| {
        daemon.ask_for::<ReadingsTried>(&Request::UplinkReadings { topics }, SLOW_ANSWER)
    });
    let unproven = |why: &str| {
        let message = format!("not proven that readings are taken: {why}");
        let advice =
            format!("`tombolo device test ID` sends a reading through the gateway itself; or {STOPPED}");
        Finding::warn(READINGS, message).advice(advice)
    };
    let answers: Vec<ReadingAnswer> = match asked {
        Ok(found) => found.tried.iter().map(answer).collect(),
        Err(error) => return vec![unproven(&error.to_string())],
    };
    if answers.iter().all(|answer| *answer == ReadingAnswer::Unsent) {
        return vec![unproven(
            "the gateway's connection cannot show it (only MQTT 5 with QoS 1 says that a publish is refused), and none is made \
             beside it, since the broker may take it for the gateway's own",
        )];
    }
    let scratch = format!("{}{SCRATCH}", loaded.settings.gate.prefix);
    let trial = Trial {
        scratch: &scratch,
        readings: trials,
        commands: &[],
        payload_max: 0,
        beside: false,
        own_taken: true,
        files_changed: false,
    };
    judge_own(upstream, clock, &trial, &answers).into_iter().map(finding).collect()
}

fn answer(tried: &ReadingTried) -> ReadingAnswer {
    match (tried.answer.as_str(), tried.code) {
        ("acknowledged", Some(code)) => ReadingAnswer::Acknowledged(code),
        ("closed", _) => ReadingAnswer::Closed,
        ("silent", _) => ReadingAnswer::Silent,
        ("too-large", _) => ReadingAnswer::TooLarge,
        _ => ReadingAnswer::Unsent,
    }
}

/// Whether the broker admits the client id for probes of certificates. It is tried where the own
/// one is accepted, so that nothing else can be at fault.
pub fn probe_id(upstream: &northbound::Settings, clock: Arc<dyn WallClock>) -> Option<Finding> {
    let client_id = upstream.probe_client_id.clone()?;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Some(Finding::fail("upstream", format!("cannot be looked at: {error}"))),
    };
    let verdict = runtime.block_on(separate_trial(upstream, clock, &client_id, None, None));
    runtime.shutdown_background();
    let key = "upstream.probe-client-id";
    match verdict.verdict {
        TrialVerdict::Accepted => {
            let message = format!("the broker lets {client_id} connect");
            Some(Finding::ok("upstream", message).key(key))
        }
        TrialVerdict::Refused(why) | TrialVerdict::Closed(why) => {
            let message = format!("the broker does not let it connect: {}", with_client_id(&client_id, &why));
            Some(Finding::warn("upstream", message).key(key).advice(
                "allow that client id to connect at the broker, or take the key out; until then a new certificate waits, and is \
                 tried in the place of the connection only where the broker says that it is the client id (0x85), a day or \
                 less before the present one expires, or with `tombolo cert probe NAME`",
            ))
        }
        TrialVerdict::Fault(_) => None, // the network's doing, which is said elsewhere
    }
}

/// What the check's own connection says beyond what the gateway's has shown.
fn about_readings(mut steps: Vec<Step>) -> Vec<Step> {
    if steps.iter().any(|step| step.name == "readings") {
        steps.retain(|step| step.name == "readings");
        return steps;
    }
    // It came to an end before.
    steps.retain(|step| step.grade != Grade::Ok);
    let Some(last) = steps.pop() else { return steps };
    let text = match last.text.strip_prefix("not proven: ") {
        Some(why) => why.to_owned(),
        None => last.text,
    };
    let advice = "`tombolo device test ID` sends a reading through the gateway itself".to_owned();
    vec![Step {
        name: "readings",
        grade: Grade::Warn,
        text: format!("not proven that readings are taken: the gateway has delivered none yet, and {text}"),
        advice: Some(match last.advice {
            Some(other) => format!("{advice}; {other}"),
            None => advice,
        }),
    }]
}

fn finding(step: Step) -> Finding {
    let subject = format!("upstream {}", step.name);
    let finding = match step.grade {
        Grade::Ok => Finding::ok(subject, step.text),
        Grade::Warn => Finding::warn(subject, step.text),
        Grade::Fail => Finding::fail(subject, step.text),
    };
    match step.advice {
        Some(advice) => finding.advice(advice),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(uplink: &Uplink) -> (Level, String) {
        let found = judge(uplink, "tombolo/gw").0.remove(0);
        (found.level, found.message)
    }

    #[test]
    fn a_broker_that_may_yet_answer_is_a_warning_and_one_that_was_silent_for_too_long_a_failure() {
        let slow = Uplink {
            configured: true,
            connected: true,
            asked: Some(true),
            oldest_unanswered_s: Some(14),
            answer_timeout_s: Some(30),
            last_taken_s: Some(12),
            ..Uplink::default()
        };
        assert_eq!(judged(&slow).0, Level::Warn);
        let late = Uplink { oldest_unanswered_s: Some(30), ..slow.clone() };
        assert_eq!(judged(&late).0, Level::Fail);
        // One that has never acknowledged anything may be mute.
        assert_eq!(judged(&Uplink { last_taken_s: None, ..slow.clone() }).0, Level::Fail);
        assert_eq!(judged(&Uplink { unanswered_connections: 1, ..slow }).0, Level::Fail);
    }

    #[test]
    fn what_waits_for_its_first_certificate_is_no_second_failure() {
        let away =
            |why: &str| Uplink { configured: true, last_error: Some(why.to_owned()), ..Uplink::default() };
        assert_eq!(judged(&away("no route")).0, Level::Fail);
        assert_eq!(judged(&away(&format!("{WAITS}: there is no current.pem"))).0, Level::Warn);
    }

    #[test]
    fn of_a_broker_with_qos_0_alone_nothing_is_said_to_be_acknowledged() {
        let uplink = Uplink {
            configured: true,
            connected: true,
            asked: Some(true),
            echo_ms: Some(2),
            unacknowledged: true,
            ..Uplink::default()
        };
        let (_, message) = judged(&uplink);
        assert!(!message.contains("acknowledged") && message.contains("does not prove"), "{message}");
    }
}
