//! Commands to the gateway itself: refused, or kept until the desk takes them.

use super::{Commands, ReplyTo, publish, publish_part, reply_fault};
use crate::clock::Moment;
use crate::control::tail::CommandSeen;
use crate::daemon::reading_store::Readings;
use crate::downlink::command::{Outcome, Status};
use crate::downlink::remote::{Asked, Verb};
use crate::message::{RESERVED_DEVICE, RecordId};
use crate::northbound::inbound::InboundMessage;
use crate::pipeline::ReplyFault;

/// Commands that wait to be taken.
const WAITING_MAX: usize = 16;

/// A command to the gateway itself.
#[derive(Clone, Debug)]
pub struct RemoteCall {
    /// What is asked.
    pub verb: Verb,
    /// Its payload.
    pub payload: Vec<u8>,
    reply_topic: Option<String>,
    correlation: Option<Vec<u8>>,
    wrapped: bool,
}

impl RemoteCall {
    /// Whether there is a topic for the answer.
    pub fn has_reply_topic(&self) -> bool {
        self.reply_topic.is_some()
    }

    /// Bytes of the topic for the answer and of the correlation data.
    pub fn bytes_around(&self) -> usize {
        self.reply_topic.as_ref().map_or(0, String::len) + self.correlation.as_ref().map_or(0, Vec::len)
    }

    /// Whether the answer is in an envelope.
    pub fn is_wrapped(&self) -> bool {
        self.wrapped
    }

    fn reply_to(&self) -> ReplyTo<'_> {
        ReplyTo {
            device: RESERVED_DEVICE,
            path: self.verb.as_str(),
            topic: self.reply_topic.as_deref(),
            correlation: self.correlation.as_deref(),
            wrapped: self.wrapped,
        }
    }
}

impl Commands {
    /// Takes a message on a topic of the gateway's own commands.
    pub(super) fn take_remote(
        &mut self,
        moment: &Moment,
        pipeline: &mut Readings,
        asked: Asked<'_>,
        message: &InboundMessage,
        (default, wrapped): (Option<String>, bool),
    ) {
        let (text, verb, refusal) = match asked {
            Asked::Hint => return,
            Asked::Allowed(verb) => (verb.as_str(), Some(verb), None),
            Asked::NotAllowed(text) => {
                let is_hint = self.remote.hint.as_ref() == Some(&message.topic);
                let hint = if is_hint { "; it is taken as an update hint" } else { "" };
                (
                    text,
                    None,
                    Some(format!("[remote] allow does not list {text:?}: add it on the gateway{hint}")),
                )
            }
            Asked::Unknown(text) => {
                (text, None, Some(format!("there is no {text:?}; there are: {}", Verb::names())))
            }
        };
        let chosen = message.response_topic.clone();
        let fault =
            chosen.as_ref().and_then(|topic| pipeline.gate.check_reply_topic(topic, RESERVED_DEVICE).err());
        let default = default.or_else(|| self.router.reply_topic(RESERVED_DEVICE, text));
        let reply_topic = chosen.filter(|_| fault.is_none()).or(default);
        let refusal = refusal.or_else(|| {
            if let Some(fault) = fault {
                Some(reply_fault(fault))
            } else if message.retained {
                Some("it is a retained message: publish it without retain".to_owned())
            } else {
                let long = message.payload_length > message.payload.len();
                let why = message.too_long.or(long.then_some("payload"));
                why.map(|what| format!("the {what} is too long"))
            }
        });
        let correlation = message.correlation.clone();
        if let (Some(verb), None) = (verb, &refusal) {
            let payload = message.payload.clone();
            let call = RemoteCall { verb, payload, reply_topic, correlation, wrapped };
            if self.remote_calls.len() < WAITING_MAX {
                self.counts.remote += 1;
                self.remote_calls.push_back(call);
                return;
            }
            let outcome = Outcome::of(Status::Full, "too many commands to the gateway wait; try again");
            self.answer_remote(moment, pipeline, &call, &outcome);
            return;
        }
        let why = refusal.unwrap_or_default();
        let path = if text.is_empty() { "-" } else { text };
        log::warn!(verb = path, reason = why.as_str(), audit = "remote-refused"; "command to the gateway refused");
        let (topic, correlation) = (reply_topic.as_deref(), correlation.as_deref());
        self.refuse(
            moment,
            pipeline,
            ReplyTo { device: RESERVED_DEVICE, path, topic, correlation, wrapped },
            &why,
        );
    }

    /// The next command to the gateway itself.
    pub fn poll_remote(&mut self) -> Option<RemoteCall> {
        self.remote_calls.pop_front()
    }

    /// Publishes the answer to one.
    pub fn answer_remote(
        &mut self,
        moment: &Moment,
        pipeline: &mut Readings,
        call: &RemoteCall,
        outcome: &Outcome,
    ) {
        let status = outcome.status.to_string();
        log::info!(verb = call.verb.as_str(), status = status.as_str(), audit = "remote"; "command to the gateway answered");
        self.tail.push_command(&CommandSeen {
            received: moment.wall,
            boottime_ms: moment.boottime_ms,
            device: RESERVED_DEVICE,
            path: call.verb.as_str(),
            method: "",
            bytes: outcome.payload.len(),
            preview: b"",
            state: "ended",
            outcome: Some(&status),
        });
        // Number 0 is no command's: nothing is waited for.
        if !matches!(publish(moment, pipeline, 0, call.reply_to(), outcome), Ok(true)) {
            self.counts.untold += 1;
        }
    }

    /// Publishes a part of the answer to one: `part` says which.
    ///
    /// Its record, in the journal once that commits.
    ///
    /// # Errors
    /// [`ReplyFault`]: nothing was published.
    pub fn answer_part(
        &mut self,
        moment: &Moment,
        pipeline: &mut Readings,
        call: &RemoteCall,
        outcome: &Outcome,
        part: &str,
    ) -> Result<Option<RecordId>, ReplyFault> {
        publish_part(moment, pipeline, 0, call.reply_to(), outcome, Some(part))
    }
}
