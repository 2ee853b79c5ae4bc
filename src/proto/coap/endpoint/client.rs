//! The client's half of the endpoint: confirmable requests of ours to peers that have proven who
//! they are, and what comes of them (RFC 7252 §2.1, §5.2, §5.3).
//!
//! | event | [`Outcome`] | the request |
//! |---|---|---|
//! | empty acknowledgement | `Acknowledged` | waits for its separate response |
//! | response: piggybacked, or separate with its token | `Response` | over |
//! | Reset | `Reset` | over |
//! | five transmissions without any answer | `Unanswered` | over |
//! | the peer was forgotten: its session ended | `Gone` | over |
//!
//! A request shares the peer's queue with separate responses, so that at most one confirmable
//! message is outstanding (NSTART = 1). A separate response is acknowledged; its repetitions are
//! acknowledged again as long as they are among the newest [`REPEATED_MAX`]. How long a separate
//! response is waited for is the caller's decision ([`Endpoint::abandon`]).
//!
//! A plain UDP peer is never sent a request: nothing proves that it wants one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use coap_numbers::option;

use super::super::block::Block;
use super::super::encoder::Encoder;
use super::super::fold::fold;
use super::super::message::{Code, Message, MessageId, Token, Type};
use super::super::request::Method;
use super::super::{Holder, PeerId};
use super::Endpoint;
use super::sender::Sender;
use crate::message::ContentFormat;

/// Separate responses whose repetitions are acknowledged again.
const REPEATED_MAX: usize = 256;
/// Longest payload of a response that is kept, in bytes: a datagram has no more.
const PAYLOAD_MAX: usize = 2048;

/// A request of ours.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The method.
    pub method: Method,
    /// The path: segments joined by `/`, each at most 255 bytes; empty is the root.
    pub path: &'a str,
    /// The Content-Format of the payload.
    pub content_format: Option<ContentFormat>,
    /// The payload, at most 1,024 bytes: it goes into one datagram.
    pub payload: &'a [u8],
}

/// Identifies a request of ours until its last [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    peer: PeerId,
    token: u32,
}

impl RequestId {
    /// The peer it was sent to.
    pub fn peer(self) -> PeerId {
        self.peer
    }
}

/// Why a request was not sent. Nothing is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The peer's address is not proven.
    Unproven,
    /// Too many messages are not acknowledged, or the Message IDs of this peer are used up; later
    /// there is room.
    Busy,
    /// It does not fit a message.
    TooLarge,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer has it; the response will come separately.
    Acknowledged,
    /// The peer's response.
    Response {
        /// 2.xx, 4.xx or 5.xx.
        code: Code,
        /// The Content-Format of the payload, if the peer named it.
        content_format: Option<ContentFormat>,
        /// The payload, at most 2,048 bytes.
        payload: Vec<u8>,
        /// The payload is not all of it: further blocks would follow, or an option of the response
        /// that must be understood is not.
        partial: bool,
    },
    /// The peer does not take requests like this one.
    Reset,
    /// The peer did not acknowledge it.
    Unanswered,
    /// The peer was forgotten.
    Gone,
}

/// What became of which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Which.
    pub request: RequestId,
    /// What.
    pub outcome: Outcome,
}

/// All requests of ours that are not over.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: BTreeMap<RequestId, Sent>,
    replies: VecDeque<Reply>,
    /// Separate responses that were acknowledged.
    acknowledged: VecDeque<(PeerId, MessageId)>,
    count: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    message_id: MessageId,
    acknowledged: bool,
}

impl Requests {
    fn of(&self, peer: PeerId) -> impl Iterator<Item = (RequestId, Sent)> + '_ {
        let all = RequestId { peer, token: 0 }..=RequestId { peer, token: u32::MAX };
        self.open.range(all).map(|(id, sent)| (*id, *sent))
    }

    fn end(&mut self, request: RequestId, outcome: Outcome) {
        if self.open.remove(&request).is_some() {
            self.replies.push_back(Reply { request, outcome });
        }
    }

    /// Ends the requests of a peer: all, or those that it has not acknowledged.
    pub(super) fn end_all(&mut self, peer: PeerId, outcome: &Outcome, unacknowledged_only: bool) {
        let ended: Vec<RequestId> = self
            .of(peer)
            .filter(|(_, sent)| !(unacknowledged_only && sent.acknowledged))
            .map(|(id, _)| id)
            .collect();
        for request in ended {
            self.end(request, outcome.clone());
        }
    }
}

impl Endpoint {
    /// Sends a confirmable request. [`Endpoint::poll_reply`] tells what becomes of it.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn request(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: PeerId,
        outgoing: &Outgoing<'_>,
    ) -> Result<RequestId, Unsent> {
        if peer.is_unproven() {
            return Err(Unsent::Unproven);
        }
        if self.exchanges.len() + self.transmissions.len() >= self.settings.pending {
            return Err(Unsent::Busy);
        }
        let tick = self.tick(now);
        let request = self.fresh_id(peer);
        let (known, _) = self.sides[0].peers.meet(peer, tick);
        let message_id = known.ids.allocate(tick).ok_or(Unsent::Busy)?;
        let mut datagram = Vec::new();
        write(&mut datagram, message_id, request, outgoing).ok_or(Unsent::TooLarge)?;
        let write = |buffer: &mut Vec<u8>| buffer.extend_from_slice(&datagram);
        let first =
            self.transmissions.enqueue(now, &mut known.queue, (peer, holder.number), message_id, write);
        known.open += 1;
        if first.is_some() {
            Sender::new(&mut self.outbox, &mut self.counters, peer, &mut known.credit).datagram(&datagram);
        }
        self.requests.open.insert(request, Sent { message_id, acknowledged: false });
        Ok(request)
    }

    /// Waits no longer for the separate response to a request that was acknowledged. One that comes
    /// later is rejected. A request that is not acknowledged ends by itself.
    pub fn abandon(&mut self, request: RequestId) {
        if self.requests.open.get(&request).is_some_and(|sent| sent.acknowledged) {
            self.requests.open.remove(&request);
        }
    }

    /// What became of a request, oldest first.
    pub fn poll_reply(&mut self) -> Option<Reply> {
        self.requests.replies.pop_front()
    }

    /// The number of requests of ours that are not over.
    pub fn request_count(&self) -> usize {
        self.requests.open.len()
    }

    fn fresh_id(&mut self, peer: PeerId) -> RequestId {
        loop {
            self.requests.count = self.requests.count.wrapping_add(1);
            let token = fold(self.seed, u128::from(self.requests.count)) as u32;
            let request = RequestId { peer, token };
            if !self.requests.open.contains_key(&request) {
                return request;
            }
        }
    }

    /// The Message ID of the message that the peer has not acknowledged yet.
    fn outstanding(&mut self, peer: PeerId) -> Option<MessageId> {
        let first = self.side(peer).peers.get(peer).and_then(|(known, _)| known.queue.first)?;
        Some(self.transmissions.get(first)?.message_id)
    }

    /// An acknowledgement or Reset of the outstanding message: whether that is a request, which is
    /// handled here.
    pub(super) fn handle_answer_to_request(
        &mut self,
        now: Instant,
        peer: PeerId,
        message: &Message<'_>,
    ) -> bool {
        if self.outstanding(peer) != Some(message.message_id) {
            return false;
        }
        let is_it = |sent: Sent| !sent.acknowledged && sent.message_id == message.message_id;
        let Some((request, _)) = self.requests.of(peer).find(|(_, sent)| is_it(*sent)) else {
            return false;
        };
        if message.message_type == Type::Reset {
            self.finish_transmission(now, peer);
            self.requests.end(request, Outcome::Reset);
        } else if message.code == Code::EMPTY {
            self.finish_transmission(now, peer);
            if let Some(sent) = self.requests.open.get_mut(&request) {
                sent.acknowledged = true;
            }
            self.requests.replies.push_back(Reply { request, outcome: Outcome::Acknowledged });
        } else if message.code.is_response() && token_of(message) == Some(request.token) {
            self.finish_transmission(now, peer);
            self.requests.end(request, response(message));
        } else {
            // Neither empty nor the response to it: it is ignored, and the request repeated (§4.2).
            self.counters.unexpected += 1;
        }
        true
    }

    /// A response in a message of its own: whether it is one to a request of ours, or its
    /// repetition.
    pub(super) fn handle_separate_response(
        &mut self,
        now: Instant,
        peer: PeerId,
        message: &Message<'_>,
    ) -> bool {
        let confirmable = message.message_type == Type::Confirmable;
        let place = (peer, message.message_id);
        if confirmable && self.requests.acknowledged.contains(&place) {
            self.send_empty(peer, Type::Acknowledgement, message.message_id);
            return true;
        }
        let request = token_of(message).map(|token| RequestId { peer, token });
        let Some((request, sent)) = request.and_then(|id| Some((id, *self.requests.open.get(&id)?))) else {
            return false;
        };
        if !sent.acknowledged {
            // The acknowledgement was lost, or comes later (§5.2.2). It can only be of a message
            // that was sent.
            if self.outstanding(peer) != Some(sent.message_id) {
                return false;
            }
            self.finish_transmission(now, peer);
        }
        if confirmable {
            self.send_empty(peer, Type::Acknowledgement, message.message_id);
            if self.requests.acknowledged.len() >= REPEATED_MAX {
                self.requests.acknowledged.pop_front();
            }
            self.requests.acknowledged.push_back(place);
        }
        self.requests.end(request, response(message));
        true
    }
}

fn token_of(message: &Message<'_>) -> Option<u32> {
    message.token.as_bytes().try_into().ok().map(u32::from_be_bytes)
}

fn write(out: &mut Vec<u8>, id: MessageId, request: RequestId, outgoing: &Outgoing<'_>) -> Option<usize> {
    let token = Token::new(&request.token.to_be_bytes())?;
    let mut encoder = Encoder::new(out, Type::Confirmable, Code(outgoing.method as u8), id, &token);
    for segment in outgoing.path.split('/').filter(|segment| !segment.is_empty()) {
        encoder = encoder.option(option::URI_PATH, segment.as_bytes());
    }
    encoder
        .maybe_uint(option::CONTENT_FORMAT, outgoing.content_format.map(|format| format.0.into()))
        .payload(outgoing.payload)
        .finish()
        .ok()
}

/// A response: its format, and whether its payload can be used.
fn response(message: &Message<'_>) -> Outcome {
    let mut content_format = None;
    let mut partial = false;
    for option in message.options {
        let uint = || option.value.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        match option.number {
            option::CONTENT_FORMAT if option.value.len() <= 2 => {
                content_format = Some(ContentFormat(uint() as u16));
            }
            option::BLOCK2 if option.value.len() <= 3 => {
                partial |= Block::from_uint(uint()).is_none_or(|block| block.more || block.number > 0);
            }
            option::BLOCK1 => {}
            // An option with an odd number must be understood (§5.4.1).
            number => partial |= number & 1 == 1,
        }
    }
    let payload = message.payload.get(..PAYLOAD_MAX).unwrap_or(message.payload);
    partial |= payload.len() < message.payload.len();
    Outcome::Response { code: message.code, content_format, payload: payload.to_vec(), partial }
}
