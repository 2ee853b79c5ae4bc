//! The client's half of the endpoint: confirmable requests of ours to peers that have proven who
//! they are, and what comes of them (RFC 7252 §2.1, §5.2, §5.3); and notifications to those that
//! observe (RFC 7641 §4), which are confirmable, too, and end with their acknowledgement.
//!
//! | event | [`Outcome`] | the request |
//! |---|---|---|
//! | empty acknowledgement | `Acknowledged` | waits for its separate response; a notification is over |
//! | response: piggybacked, or separate with its token | `Response` | over |
//! | success in answer to a block that is not the last one | `InPart` | over |
//! | Reset | `Reset` | over |
//! | five transmissions without any answer | `Unanswered` | over |
//! | the peer was forgotten: its session ended | `Gone` | over |
//! | a response with a critical option that is unknown (RFC 7252 §5.4.1) | `Unintelligible` | over |
//!
//! A request shares the peer's queue with separate responses, so that at most one confirmable
//! message is outstanding (NSTART = 1). A separate response is acknowledged; its repetitions are
//! acknowledged again as long as they are among the newest [`REPEATED_MAX`]. How long a separate
//! response is waited for is the caller's decision ([`Endpoint::abandon`]).
//!
//! A body that does not fit a block is sent in several (RFC 7959 §2.5): the next one when the peer
//! has answered the last with 2.31, in the size that the peer names, or with another success and
//! M = 0, because it applies each block by itself (§2.3). A peer that answers the
//! first one with 4.13 and a smaller size is sent the body again in that size (§2.9.3). All blocks
//! of a body have its Request-Tag, and no other body has that (RFC 9175 §3.4): a peer that still
//! holds the beginning of one that was broken off puts nothing of the next one behind it.
//!
//! Where the response to a GET or FETCH has further blocks, these are asked for, up to [`BODY_MAX`]
//! bytes in all (RFC 7959 §2.4, RFC 8132 §2). For the response to another method they are not: who
//! does not keep it would carry the request out again. Blocks of another ETag, or that do not fit
//! together, end the transfer: the response has what came before.
//!
//! A body of which a block that is not the last one is answered with success, and not with the
//! Block1 option of that block, was taken in part: the peer does not know blocks (RFC 7959 §2.3,
//! §2.9), and what it did it did with that part. That is [`Outcome::InPart`], and no success.
//!
//! A peer that answers 4.01 with an Echo option wants to know that the request is fresh: its last
//! message is sent once more with the option, and with a Message ID and a token of its own (RFC
//! 9175 §2.3, §4.2), never twice in a row: each block of a body may be wanted fresh, so a request
//! has twice as many messages at most. What then comes is the outcome. If its Block1 option names
//! smaller blocks, the message is sent in these.
//!
//! A plain UDP peer is never sent a request: nothing proves that it wants one.
//!
//! GETs that observe, or whose values are held until they are stored, are in `observer`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use coap_numbers::option;

use super::super::block::{Block, SIZE_EXPONENT_MAX};
use super::super::encoder::Encoder;
use super::super::fold::fold;
use super::super::message::{Code, Message, MessageId, Token, Type};
use super::super::request::{Method, Response};
use super::super::{Holder, PeerId};
use super::Endpoint;
use super::sender::{Frame, Sender, write_response};
use crate::message::ContentFormat;

mod observer;

pub use self::observer::{Ask, BlockRefused, Held, Notice, NoticeKind, REST_WITHIN};

/// Separate responses whose repetitions are acknowledged again.
const REPEATED_MAX: usize = 256;
/// Longest Echo option, in bytes (RFC 9175 §2.2.1).
const ECHO_LENGTH_MAX: usize = 40;
/// Longest payload of one message that is kept, in bytes: a datagram has no more.
const PAYLOAD_MAX: usize = 2048;
/// Longest payload of a response that comes in blocks, in bytes.
pub const BODY_MAX: usize = 16 << 10;

/// A request of ours.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The method.
    pub method: Method,
    /// The path: segments joined by `/`, each at most 255 bytes; empty is the root.
    pub path: &'a str,
    /// The Content-Format of the payload.
    pub content_format: Option<ContentFormat>,
    /// The payload; one of more than 1,024 bytes is sent in blocks.
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
        /// The payload, at most [`BODY_MAX`] bytes.
        payload: Vec<u8>,
        /// The payload is not all of it: further blocks would follow.
        partial: bool,
    },
    /// The peer answered a block that is not the last one as if the request was whole.
    InPart {
        /// Its response code, 2.xx.
        code: Code,
        /// The bytes of the payload that it was sent.
        sent: usize,
        /// The bytes of the whole payload.
        of: usize,
        /// Its answer has a Block1 option, but not that of the block.
        names_another_block: bool,
    },
    /// The peer's response has this option, which must be understood and is not: the response is
    /// rejected.
    Unintelligible(u16),
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
    /// What open requests are, to send another block, to ask for one, or to repeat it with Echo.
    bodies: BTreeMap<RequestId, Body>,
    /// GETs that wait for their response, and those that observe.
    asks: BTreeMap<RequestId, observer::Asked>,
    /// Requests for the rest of a value that comes in blocks.
    fetches: observer::Rests,
    /// Confirmable messages with a value whose acknowledgement waits.
    held: BTreeSet<(PeerId, MessageId)>,
    notices: VecDeque<Notice>,
    replies: VecDeque<Reply>,
    /// Separate responses that were acknowledged.
    acknowledged: VecDeque<(PeerId, MessageId)>,
    count: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    message_id: MessageId,
    acknowledged: bool,
    kind: Kind,
}

/// What a message of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A request whose response is told by a [`Reply`].
    Request,
    /// A notification: no response follows its acknowledgement.
    Notification,
    /// A GET whose response is told by a [`Notice`].
    Ask,
}

impl Sent {
    fn new(message_id: MessageId, kind: Kind) -> Sent {
        Sent { message_id, acknowledged: false, kind }
    }
}

/// What is needed to send another block of a request.
#[derive(Clone, Debug)]
struct Body {
    holder: Holder,
    method: Method,
    path: String,
    query: Option<String>,
    accept: Option<ContentFormat>,
    /// Of the blocks of the response, where that is asked for from the first one on.
    block_exponent: Option<u8>,
    /// The Observe option.
    observe: Option<u32>,
    /// Longest payload of the response that is fetched, in bytes.
    limit: usize,
    content_format: Option<ContentFormat>,
    payload: Vec<u8>,
    /// Where the block begins that was sent last.
    offset: usize,
    size_exponent: u8,
    /// The blocks of the response so far.
    gathered: Option<Gathered>,
    echo: Echo,
}

/// What a request has of the Echo option.
#[derive(Clone, Debug, Default)]
struct Echo {
    /// The token in place of that of the [`RequestId`].
    token: Option<u32>,
    /// The option that the message sent last has.
    value: Option<Vec<u8>>,
}

impl Echo {
    /// Takes the option of a response; whether the message is to be sent again with it. `token`:
    /// that of the message.
    fn take(&mut self, code: Code, value: Option<&[u8]>, token: impl FnOnce() -> u32) -> bool {
        // One that had it already is not fresh enough for that peer, now or ever.
        let before = self.value.take();
        let Some(value) = value.filter(|_| code == Code::UNAUTHORIZED && before.is_none()) else {
            return false;
        };
        (self.token, self.value) = (Some(token()), Some(value.to_vec()));
        true
    }
}

/// The first blocks of a response.
#[derive(Clone, Debug)]
struct Gathered {
    content_format: Option<ContentFormat>,
    etag: Option<Vec<u8>>,
    payload: Vec<u8>,
    /// The block that is asked for.
    next: Block,
}

/// What a response is to those of a [`Body`] before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Another block follows, which is to be asked for.
    More,
    /// The last block.
    Last,
    /// It does not continue them.
    Other,
}

impl Body {
    /// Takes a block of the response.
    fn gather(&mut self, code: Code, options: &ResponseOptions, payload: &[u8]) -> Part {
        let is_safe = matches!(self.method, Method::Get | Method::Fetch);
        let Some(block) = options.block2.filter(|_| is_safe && code == Code::CONTENT) else {
            return Part::Other;
        };
        if self.block().is_some() || block.more && payload.len() != block.size() {
            return Part::Other;
        }
        let known = self.gathered.as_ref().map_or(0, |gathered| gathered.payload.len());
        let is_same = self.gathered.as_ref().is_none_or(|gathered| gathered.etag == options.etag);
        let end = known + payload.len();
        if !is_same || block.offset() != known || end > self.limit || !block.more && known == 0 {
            return Part::Other;
        }
        let next = Block { number: (end / block.size()) as u32, more: false, ..block };
        let (content_format, etag) = (options.content_format, options.etag.clone());
        let gathered =
            self.gathered.get_or_insert_with(|| Gathered { content_format, etag, payload: Vec::new(), next });
        gathered.payload.extend_from_slice(payload);
        gathered.next = next;
        match block.more {
            true if end < self.limit => Part::More,
            true => Part::Other,
            false => Part::Last,
        }
    }

    /// What was gathered, if anything was.
    fn gathered(self, is_whole: bool) -> Option<Outcome> {
        let Gathered { content_format, payload, .. } = self.gathered?;
        Some(Outcome::Response { code: Code::CONTENT, content_format, payload, partial: !is_whole })
    }

    fn size(&self) -> usize {
        16 << self.size_exponent
    }

    /// The block that was sent last; `None`: all is in one message.
    fn block(&self) -> Option<Block> {
        let end = self.offset + self.size();
        let more = end < self.payload.len();
        (self.offset > 0 || more).then(|| Block {
            number: (self.offset / self.size()) as u32,
            more,
            size_exponent: self.size_exponent,
        })
    }

    /// What the peer's answer to the last block makes of it: the next block, or nothing more.
    fn advance(&mut self, code: Code, answered: Option<Block>) -> bool {
        let Some(answered) = answered else { return false };
        let sent = self.block();
        // A peer that applies each block by itself answers it with its final code and M = 0, and
        // wants the rest (§2.3).
        if code == Code::CONTINUE || code.class() == 2 && !answered.more {
            let Some(sent) = sent.filter(|sent| sent.more) else { return false };
            // The number counts in the size of the block that is acknowledged, which is the one
            // that was sent, also where the peer wants smaller ones from now on (§2.3).
            if answered.number != sent.number || answered.size_exponent > sent.size_exponent {
                return false;
            }
            self.offset += self.size();
            self.size_exponent = answered.size_exponent;
            return true;
        }
        code == Code::REQUEST_ENTITY_TOO_LARGE && self.offset == 0 && self.shrink(Some(answered))
    }

    /// Takes the smaller block size that the peer wants of the message that is sent once more (RFC
    /// 7959 §2.3, §2.9.3); whether it does.
    fn shrink(&mut self, answered: Option<Block>) -> bool {
        let is_of_this = |answered: &Block| match self.block() {
            Some(sent) => answered.number == sent.number,
            None => answered.number == 0,
        };
        let smaller = answered.filter(is_of_this).filter(|answered| {
            answered.size_exponent < self.size_exponent && self.payload.len() > answered.size()
        });
        let Some(answered) = smaller else { return false };
        // The offset is a multiple of the larger size, so it is one of this.
        self.size_exponent = answered.size_exponent;
        true
    }
}

impl Requests {
    fn of(&self, peer: PeerId) -> impl Iterator<Item = (RequestId, Sent)> + '_ {
        let all = RequestId { peer, token: 0 }..=RequestId { peer, token: u32::MAX };
        self.open.range(all).map(|(id, sent)| (*id, *sent))
    }

    /// The token that messages of this request have.
    fn token(&self, request: RequestId) -> u32 {
        let of_ask = self.asks.get(&request).map(|asked| &asked.echo);
        let echo = self.bodies.get(&request).map(|body| &body.echo).or(of_ask);
        echo.and_then(|echo| echo.token).unwrap_or(request.token)
    }

    /// The request whose messages have this token. A peer has few.
    fn by_token(&self, peer: PeerId, token: u32) -> Option<RequestId> {
        let direct = RequestId { peer, token };
        let is_known = self.open.contains_key(&direct) || self.asks.contains_key(&direct);
        if is_known && self.token(direct) == token {
            return Some(direct);
        }
        let all = RequestId { peer, token: 0 }..=RequestId { peer, token: u32::MAX };
        let is_it = |echo: &Echo| echo.token == Some(token);
        let body = self.bodies.range(all.clone()).find(|(_, body)| is_it(&body.echo)).map(|(id, _)| *id);
        body.or_else(|| self.asks.range(all).find(|(_, asked)| is_it(&asked.echo)).map(|(id, _)| *id))
    }

    fn end(&mut self, request: RequestId, outcome: Outcome) {
        let Some(sent) = self.open.remove(&request) else { return };
        // A peer that has answered with the first blocks has answered.
        let gathered = self.bodies.remove(&request).and_then(|body| body.gathered(false));
        let outcome = gathered.unwrap_or(outcome);
        if let Some(rest) = self.fetches.remove(request) {
            return self.end_rest(rest, outcome);
        }
        if sent.kind == Kind::Ask && self.forget_ask(request).is_none() {
            // Nothing more was wanted of it.
            return;
        }
        self.replies.push_back(Reply { request, outcome });
    }

    /// Ends the requests of a peer: all, or those that it has not acknowledged.
    pub(super) fn end_all(&mut self, peer: PeerId, outcome: &Outcome, unacknowledged_only: bool) {
        if !unacknowledged_only {
            self.forget_peer(peer, outcome);
        }
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
        let request = self.fresh_id(peer);
        let body = Body {
            holder,
            method: outgoing.method,
            path: outgoing.path.to_owned(),
            query: None,
            accept: None,
            block_exponent: None,
            observe: None,
            limit: BODY_MAX,
            content_format: outgoing.content_format,
            payload: outgoing.payload.to_vec(),
            offset: 0,
            size_exponent: SIZE_EXPONENT_MAX,
            gathered: None,
            echo: Echo::default(),
        };
        let message_id = self.send_block(now, request, &body)?;
        self.requests.open.insert(request, Sent::new(message_id, Kind::Request));
        self.requests.bodies.insert(request, body);
        Ok(request)
    }

    /// Sends the message with a request's current block.
    fn send_block(&mut self, now: Instant, request: RequestId, body: &Body) -> Result<MessageId, Unsent> {
        let mut datagram = Vec::new();
        self.send_confirmable(now, body.holder, request.peer, |id| {
            write(&mut datagram, id, request, body).ok_or(Unsent::TooLarge)?;
            Ok(datagram)
        })
    }

    /// Queues a confirmable message with a new Message ID, and sends it if no other is outstanding.
    fn send_confirmable(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: PeerId,
        write: impl FnOnce(MessageId) -> Result<Vec<u8>, Unsent>,
    ) -> Result<MessageId, Unsent> {
        let tick = self.tick(now);
        let (known, _) = self.sides[0].peers.meet(peer, tick);
        let message_id = known.ids.allocate(tick).ok_or(Unsent::Busy)?;
        let datagram = write(message_id)?;
        let write = |buffer: &mut Vec<u8>| buffer.extend_from_slice(&datagram);
        let first =
            self.transmissions.enqueue(now, &mut known.queue, (peer, holder.number), message_id, write);
        known.open += 1;
        if first.is_some() {
            Sender::new(&mut self.outbox, &mut self.counters, peer, &mut known.credit).datagram(&datagram);
        }
        Ok(message_id)
    }

    /// Sends a confirmable notification to an observer that is known by `token`, in blocks of the
    /// size of `block` if that is given (RFC 7641 §4.2, RFC 7959 §2.6). [`Endpoint::poll_reply`]
    /// tells once what becomes of it: `Acknowledged`, `Reset`, `Unanswered` or `Gone`.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn notify(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: PeerId,
        (token, block): (Token, Option<Block>),
        response: &Response<'_>,
    ) -> Result<RequestId, Unsent> {
        if peer.is_unproven() {
            return Err(Unsent::Unproven);
        }
        if self.exchanges.len() + self.transmissions.len() >= self.settings.pending {
            return Err(Unsent::Busy);
        }
        let request = self.fresh_id(peer);
        let message_id = self.send_confirmable(now, holder, peer, |id| {
            let (message_type, block1, wants_size2) = (Type::Confirmable, None, false);
            let frame = Frame { message_type, id, token, block1, block2: block, wants_size2 };
            let mut datagram = Vec::new();
            write_response(&mut datagram, frame, response, SIZE_EXPONENT_MAX);
            Ok(datagram)
        })?;
        self.requests.open.insert(request, Sent::new(message_id, Kind::Notification));
        Ok(request)
    }

    /// Waits no longer for the separate response to a request that was acknowledged. One that comes
    /// later is rejected. A request that is not acknowledged ends by itself.
    pub fn abandon(&mut self, request: RequestId) {
        if self.requests.open.get(&request).is_some_and(|sent| sent.acknowledged) {
            self.requests.open.remove(&request);
            self.requests.bodies.remove(&request);
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
            let is_id =
                self.requests.open.contains_key(&request) || self.requests.asks.contains_key(&request);
            if !is_id && self.requests.by_token(peer, token).is_none() {
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
        let Some((request, found)) = self.requests.of(peer).find(|(_, sent)| is_it(*sent)) else {
            return false;
        };
        if message.message_type == Type::Reset {
            self.finish_transmission(now, peer);
            self.requests.end(request, Outcome::Reset);
        } else if message.code == Code::EMPTY && found.kind == Kind::Notification {
            self.finish_transmission(now, peer);
            self.requests.end(request, Outcome::Acknowledged);
        } else if message.code == Code::EMPTY {
            self.finish_transmission(now, peer);
            if let Some(sent) = self.requests.open.get_mut(&request) {
                sent.acknowledged = true;
            }
            self.requests.replies.push_back(Reply { request, outcome: Outcome::Acknowledged });
        } else if message.code.is_response()
            && found.kind != Kind::Notification
            && token_of(message) == Some(self.requests.token(request))
        {
            self.finish_transmission(now, peer);
            match found.kind {
                Kind::Ask => self.handle_value(now, request, message, NoticeKind::Piggybacked),
                Kind::Request | Kind::Notification => self.handle_response(now, request, message),
            }
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
        if confirmable && self.requests.held.contains(&place) {
            // Its acknowledgement waits.
            return true;
        }
        let request = token_of(message).and_then(|token| self.requests.by_token(peer, token));
        if let Some(request) = request.filter(|request| self.requests.asks.contains_key(request)) {
            return self.handle_notification(now, request, message);
        }
        let open = request.and_then(|id| Some((id, *self.requests.open.get(&id)?)));
        let Some((request, sent)) = open.filter(|(_, sent)| sent.kind == Kind::Request) else { return false };
        if !sent.acknowledged {
            // The acknowledgement was lost, or comes later (§5.2.2). It can only be of a message
            // that was sent.
            if self.outstanding(peer) != Some(sent.message_id) {
                return false;
            }
            self.finish_transmission(now, peer);
        }
        if confirmable && ResponseOptions::of(message).unknown.is_some() {
            self.send_empty(peer, Type::Reset, message.message_id);
        } else if confirmable {
            self.acknowledge_separate(peer, message.message_id);
        }
        self.handle_response(now, request, message);
        true
    }

    /// Acknowledges a separate response, and from now on its repetitions.
    fn acknowledge_separate(&mut self, peer: PeerId, id: MessageId) {
        self.send_empty(peer, Type::Acknowledgement, id);
        if self.requests.acknowledged.len() >= REPEATED_MAX {
            self.requests.acknowledged.pop_front();
        }
        self.requests.acknowledged.push_back((peer, id));
    }

    /// The response to a request: its outcome, or the answer to one of its blocks.
    fn handle_response(&mut self, now: Instant, request: RequestId, message: &Message<'_>) {
        let options = ResponseOptions::of(message);
        if let Some(number) = options.unknown {
            return self.requests.end(request, Outcome::Unintelligible(number));
        }
        let Some(mut body) = self.requests.bodies.remove(&request) else {
            return self.requests.end(request, response(message, &options));
        };
        let had_echo = body.echo.value.is_some();
        let another = || self.fresh_id(request.peer).token;
        if body.echo.take(message.code, options.echo.as_deref(), another) {
            body.shrink(options.block1);
            return self.send_next(now, request, body, Some(response(message, &options)));
        }
        if message.code.class() > 2 {
            self.requests.fetches.refuse(request, BlockRefused { code: message.code, had_echo });
        }
        let is_applied = message.code.class() == 2
            && options.block1.is_some_and(|block| !block.more)
            && body.block().is_some_and(|block| block.more);
        let is_asked = is_applied || matches!(message.code, Code::CONTINUE | Code::REQUEST_ENTITY_TOO_LARGE);
        let part = match is_asked {
            true if body.advance(message.code, options.block1) => Part::More,
            true => Part::Other,
            false => body.gather(message.code, &options, message.payload),
        };
        if part == Part::More {
            return self.send_next(now, request, body, None);
        }
        if message.code.class() == 2 && body.block().is_some_and(|block| block.more) {
            let (sent, of) = (body.offset + body.size(), body.payload.len());
            let (code, names_another_block) = (message.code, options.block1.is_some());
            return self.requests.end(request, Outcome::InPart { code, sent, of, names_another_block });
        }
        let outcome = body.gathered(part == Part::Last);
        let outcome = outcome.unwrap_or_else(|| response(message, &options));
        self.requests.end(request, outcome);
    }

    /// Sends the next message of a request. If that is not possible, what was gathered is its
    /// outcome, or `otherwise`.
    fn send_next(&mut self, now: Instant, request: RequestId, body: Body, otherwise: Option<Outcome>) {
        match self.send_block(now, request, &body) {
            Ok(message_id) => {
                self.requests.open.insert(request, Sent::new(message_id, Kind::Request));
                self.requests.bodies.insert(request, body);
            }
            Err(_) => {
                let outcome = body.gathered(false).or(otherwise).unwrap_or(Outcome::Unanswered);
                self.requests.end(request, outcome);
            }
        }
    }
}

fn uint(value: &[u8]) -> u32 {
    value.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn token_of(message: &Message<'_>) -> Option<u32> {
    message.token.as_bytes().try_into().ok().map(u32::from_be_bytes)
}

fn write(out: &mut Vec<u8>, id: MessageId, request: RequestId, body: &Body) -> Option<usize> {
    let tag = request.token.to_be_bytes();
    let token = Token::new(&body.echo.token.unwrap_or(request.token).to_be_bytes())?;
    let mut encoder = Encoder::new(out, Type::Confirmable, Code(body.method as u8), id, &token)
        .maybe_uint(option::OBSERVE, body.observe);
    for segment in body.path.split('/').filter(|segment| !segment.is_empty()) {
        encoder = encoder.option(option::URI_PATH, segment.as_bytes());
    }
    let block = body.block();
    let end = block.map_or(body.payload.len(), |_| (body.offset + body.size()).min(body.payload.len()));
    let size1 = block.filter(|block| block.number == 0).map(|_| body.payload.len() as u32);
    let wanted = body.block_exponent.map(|size_exponent| Block { number: 0, more: false, size_exponent });
    let block2 = body.gathered.as_ref().map(|gathered| gathered.next).or(wanted);
    encoder = encoder.maybe_uint(option::CONTENT_FORMAT, body.content_format.map(|format| format.0.into()));
    for argument in body.query.iter().flat_map(|query| query.split('&')) {
        encoder = encoder.option(option::URI_QUERY, argument.as_bytes());
    }
    encoder = encoder
        .maybe_uint(option::ACCEPT, body.accept.map(|format| format.0.into()))
        .maybe_uint(option::BLOCK2, block2.map(Block::to_uint))
        .maybe_uint(option::BLOCK1, block.map(Block::to_uint))
        .maybe_uint(option::SIZE1, size1);
    if let Some(echo) = &body.echo.value {
        encoder = encoder.option(option::ECHO, echo);
    }
    if block.is_some() {
        encoder = encoder.option(option::REQUEST_TAG, &tag);
    }
    encoder.payload(body.payload.get(body.offset..end)?).finish().ok()
}

/// What is read of the options of a response.
#[derive(Default)]
struct ResponseOptions {
    content_format: Option<ContentFormat>,
    etag: Option<Vec<u8>>,
    echo: Option<Vec<u8>>,
    block1: Option<Block>,
    block2: Option<Block>,
    observe: Option<u32>,
    max_age: Option<u32>,
    /// One that must be understood and is not: one with an odd number that no response has, or
    /// whose value is none (RFC 7252 §5.4.1, §5.4.3).
    unknown: Option<u16>,
}

impl ResponseOptions {
    fn of(message: &Message<'_>) -> ResponseOptions {
        let mut options = ResponseOptions::default();
        for option in message.options {
            let block = || Block::from_uint(uint(option.value)).filter(|_| option.value.len() <= 3);
            match option.number {
                option::CONTENT_FORMAT if option.value.len() <= 2 => {
                    options.content_format = Some(ContentFormat(uint(option.value) as u16));
                }
                option::OBSERVE if option.value.len() <= 3 => options.observe = Some(uint(option.value)),
                option::MAX_AGE if option.value.len() <= 4 => options.max_age = Some(uint(option.value)),
                option::ECHO if (1..=ECHO_LENGTH_MAX).contains(&option.value.len()) => {
                    options.echo = options.echo.or_else(|| Some(option.value.to_vec()));
                }
                option::ETAG => options.etag = Some(option.value.to_vec()),
                option::BLOCK1 if options.block1.is_none() && block().is_some() => options.block1 = block(),
                option::BLOCK2 if options.block2.is_none() && block().is_some() => options.block2 = block(),
                number if number & 1 == 1 => options.unknown = options.unknown.or(Some(number)),
                _ => {}
            }
        }
        options
    }
}

/// A response in one message, and whether that is all of it.
fn response(message: &Message<'_>, options: &ResponseOptions) -> Outcome {
    let is_part = |block: Block| block.more || block.number > 0;
    let payload = message.payload.get(..PAYLOAD_MAX).unwrap_or(message.payload);
    let partial = options.block2.is_some_and(is_part) || payload.len() < message.payload.len();
    let content_format = options.content_format;
    Outcome::Response { code: message.code, content_format, payload: payload.to_vec(), partial }
}
