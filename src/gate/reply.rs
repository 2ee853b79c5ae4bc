//! Replies to commands on their way to the broker: the one thing beside readings that may be
//! stored, and only where it may be published.
//!
//! The topic of a reply is mostly chosen by the sender of the command, whom the gateway does not
//! know: it must not be used to publish, in the gateway's name, what looks like a reading or a
//! status. So within the spaces of devices and gateways ([`mapping`](super::mapping)) only
//! `[topics] reply` of the device itself is allowed, and none of the gateway's own topics anywhere.

use super::Gate;
use super::settings::QoS;
use super::stage::{Mapped, TopicFault};
use crate::message::{
    CommandReply, Content, ContentFormat, Envelope, Lane, Method, Stamp, TOPIC_MAX, is_topic_character,
};

/// What became of a command, to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The device the command was for; it need not exist.
    pub device: &'a str,
    /// The path at the device.
    pub path: &'a str,
    /// Where to.
    pub topic: &'a str,
    /// What became of it.
    pub reply: CommandReply<'a>,
    /// The format of the payload, if it is known.
    pub content_format: Option<ContentFormat>,
    /// How the payload is wrapped: JSON for those who cannot read properties.
    pub envelope: Envelope,
    /// Of an answer that comes in parts, which one this is: properties as in a query.
    pub part: Option<&'a str>,
    /// When it became so.
    pub stamp: Stamp,
    /// What the device answered, or a sentence.
    pub payload: &'a [u8],
}

impl Gate {
    /// Whether the reply to a command for `device` may be published to `topic`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_reply_topic(&self, topic: &str, device: &str) -> Result<(), TopicFault> {
        if topic.is_empty() || topic.len() > TOPIC_MAX {
            return Err(TopicFault::TooLong);
        }
        if topic.starts_with('$') || !topic.chars().all(is_topic_character) {
            return Err(TopicFault::Unpublishable);
        }
        self.plan.spaces.check_reply(topic, device)
    }

    /// The reply to a command, ready for the journal.
    ///
    /// # Errors
    /// What is wrong with its topic.
    pub fn reply<'g>(&'g self, outcome: &Outcome<'g>) -> Result<Mapped<'g>, TopicFault> {
        self.check_reply_topic(outcome.topic, outcome.device)?;
        let content = Content {
            device: outcome.device,
            path: outcome.path,
            query: outcome.part,
            topic: outcome.topic,
            method: Method::Post,
            content_format: outcome.content_format,
            retain: false,
            test: false,
            reply: Some(outcome.reply),
            envelope: outcome.envelope,
            expires_s: None,
            received: outcome.stamp,
            payload: outcome.payload,
        };
        Ok(Mapped::of_reply(content, Lane::Normal, QoS::AtLeastOnce))
    }
}
