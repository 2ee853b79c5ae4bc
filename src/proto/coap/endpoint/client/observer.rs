//! GETs whose values are held until they are stored, with and without Observe: the client's half of
//! RFC 7641, and what comes of it as [`Notice`]s.
//!
//! | what comes | what is done |
//! |---|---|
//! | the response, piggybacked | a notice |
//! | 4.01 with an Echo option | the GET is sent once more with it, as `client` says |
//! | the response in a message of its own, or a notification | a notice; if it is confirmable, its acknowledgement waits until the caller has decided: [`Endpoint::acknowledge_value`], [`Endpoint::reject_value`], [`Endpoint::leave_value`] |
//! | its repetition meanwhile | nothing; after [`Endpoint::leave_value`] it is a notice again |
//! | the first of several blocks | acknowledged at once, because the rest must be asked for; the rest is fetched by a request of its own (RFC 7959 §2.6), then a notice |
//! | the same while the rest of another is fetched | a notice that is partial |
//! | a notification while the rest of one without an ETag is fetched | that one is partial: which blocks are whose is not known (RFC 7959 §2.4) |
//! | the rest does not come within [`REST_WITHIN`] | a notice that is partial |
//! | a response without Observe, or that is an error | a notice; the relation is over |
//! | Reset, no answer, the session ended, an unknown critical option | a [`Reply`]; the relation is over |
//!
//! A notification while the GET of its relation is sent anew is one, unless the GET was
//! acknowledged and its response is waited for: then it cannot be told from that. Whether a
//! notification is newer than the last is the caller's decision (§3.4).
//!
//! Bounds: as many values are held as requests of the peer may wait
//! ([`Settings::pending_per_peer`]); one rest of a relation is fetched at a time, of at most
//! [`Ask::limit`] bytes.
//!
//! [`Settings::pending_per_peer`]: super::super::Settings::pending_per_peer

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::super::super::block::SIZE_EXPONENT_MAX;
use super::super::super::message::{Code, Message, MessageId, Type};
use super::super::super::request::Method;
use super::super::super::{Holder, PeerId};
use super::{
    BODY_MAX, Body, Echo, Endpoint, Kind, Outcome, PAYLOAD_MAX, Part, Reply, RequestId, Requests,
    ResponseOptions, Sent, Unsent,
};
use crate::message::ContentFormat;

/// The rest of a value has so long to come.
pub const REST_WITHIN: Duration = Duration::from_secs(300);
/// Max-Age of a response without one, in seconds (RFC 7252 §5.10.5).
const MAX_AGE: u32 = 60;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The path: segments joined by `/`, each at most 255 bytes.
    pub path: String,
    /// The query: arguments joined by `&`, each at most 255 bytes.
    pub query: Option<String>,
    /// The only format that is wanted.
    pub accept: Option<ContentFormat>,
    /// The size exponent of the blocks that are wanted from the first one on (RFC 7959 §2.3, §2.4:
    /// early negotiation); `None`: the peer chooses, and may not know blocks, whose option is
    /// critical.
    pub block_exponent: Option<u8>,
    /// With Observe 0.
    pub observe: bool,
    /// Longest value that is fetched, in bytes; at most [`BODY_MAX`].
    pub limit: usize,
}

/// How a value came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// On the acknowledgement of the GET.
    Piggybacked,
    /// In a message of its own, in answer to the GET.
    Separate,
    /// As a notification.
    Notification,
}

/// A confirmable message whose acknowledgement waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    peer: PeerId,
    message_id: MessageId,
}

/// How a peer refused a block of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRefused {
    /// 4.xx or 5.xx.
    pub code: Code,
    /// The request had the Echo option that the peer had asked for.
    pub had_echo: bool,
}

/// What a peer says of what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// By which GET.
    pub request: RequestId,
    /// How it came.
    pub kind: NoticeKind,
    /// 2.xx, 4.xx or 5.xx.
    pub code: Code,
    /// The Observe option of a 2.xx: the relation goes on. 24 bits.
    pub observe: Option<u32>,
    /// The Content-Format of the payload, if the peer named it.
    pub content_format: Option<ContentFormat>,
    /// For how long the value is fresh, in seconds.
    pub max_age_s: u32,
    /// The payload, at most [`Ask::limit`] bytes, or what a datagram has.
    pub payload: Vec<u8>,
    /// The payload is not all of it.
    pub partial: bool,
    /// The rest did not come because the peer refused a block of it.
    pub refused: Option<BlockRefused>,
    /// The payload came in several blocks.
    pub blockwise: bool,
    /// What the caller must decide about; `None`: nothing is to be acknowledged.
    pub held: Option<Held>,
}

/// A GET that is not over.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    ask: Ask,
    holder: Holder,
    /// The peer has said that it notifies.
    established: bool,
    /// The request for the rest of a value.
    fetch: Option<RequestId>,
    pub(super) echo: Echo,
}

/// The rest of a value that is fetched: all but its payload.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    notice: Notice,
    until: Instant,
}

/// The rests that are fetched, and when each is late.
#[derive(Debug, Default)]
pub(super) struct Rests {
    by_request: BTreeMap<RequestId, Rest>,
    due: BTreeSet<(Instant, RequestId)>,
}

impl Rests {
    fn insert(&mut self, request: RequestId, rest: Rest) {
        self.due.insert((rest.until, request));
        self.by_request.insert(request, rest);
    }

    /// The peer has refused a block of this rest.
    pub(super) fn refuse(&mut self, request: RequestId, refused: BlockRefused) {
        if let Some(rest) = self.by_request.get_mut(&request) {
            rest.notice.refused = Some(refused);
        }
    }

    pub(super) fn remove(&mut self, request: RequestId) -> Option<Rest> {
        let rest = self.by_request.remove(&request)?;
        self.due.remove(&(rest.until, request));
        Some(rest)
    }

    fn first(&self) -> Option<(Instant, RequestId)> {
        self.due.first().copied()
    }
}

impl Requests {
    /// The rest of a value has come, or will not.
    pub(super) fn end_rest(&mut self, rest: Rest, outcome: Outcome) {
        let Rest { notice, .. } = rest;
        let Some(asked) = self.asks.get_mut(&notice.request) else { return };
        asked.fetch = None;
        if !asked.established {
            self.asks.remove(&notice.request);
        }
        let notice = match outcome {
            Outcome::Response { payload, partial, .. } => Notice { payload, partial, ..notice },
            _ => notice,
        };
        self.notices.push_back(notice);
    }

    /// When the first rest of a value is late.
    pub(in super::super) fn rests_deadline(&self) -> Option<Instant> {
        self.fetches.first().map(|(until, _)| until)
    }

    /// Gives up the rests of values that are late.
    pub(in super::super) fn end_late_rests(&mut self, now: Instant) {
        while let Some((_, request)) = self.fetches.first().filter(|(until, _)| *until <= now) {
            self.end(request, Outcome::Unanswered);
        }
    }

    /// The rest of a value of this GET that is fetched, if its blocks are not known by an ETag.
    fn unmarked_rest(&self, request: RequestId) -> Option<RequestId> {
        let fetch = self.asks.get(&request)?.fetch?;
        let gathered = self.bodies.get(&fetch)?.gathered.as_ref()?;
        gathered.etag.is_none().then_some(fetch)
    }

    /// Forgets a GET, and the rest of a value that is fetched for it.
    pub(super) fn forget_ask(&mut self, request: RequestId) -> Option<Asked> {
        let asked = self.asks.remove(&request)?;
        if let Some(fetch) = asked.fetch {
            self.open.remove(&fetch);
            self.bodies.remove(&fetch);
            self.fetches.remove(fetch);
        }
        Some(asked)
    }

    /// A peer is gone: so are its relations, and the values that are held.
    pub(super) fn forget_peer(&mut self, peer: PeerId, outcome: &Outcome) {
        let all = RequestId { peer, token: 0 }..=RequestId { peer, token: u32::MAX };
        let asks: Vec<RequestId> = self.asks.range(all).map(|(request, _)| *request).collect();
        // Those that wait for their response are ended with the other requests.
        for request in asks {
            if self.open.contains_key(&request) {
                continue;
            }
            self.forget_ask(request);
            self.replies.push_back(Reply { request, outcome: outcome.clone() });
        }
        let all = (peer, MessageId(0))..=(peer, MessageId(u16::MAX));
        let held: Vec<(PeerId, MessageId)> = self.held.range(all).copied().collect();
        for place in held {
            self.held.remove(&place);
        }
    }
}

impl Endpoint {
    /// Sends a confirmable GET. [`Endpoint::poll_notice`] gives what the peer says,
    /// [`Endpoint::poll_reply`] tells why it says nothing, or that it has acknowledged the GET.
    /// With `again` the GET of a relation is sent anew, by the same token (RFC 7641 §3.3.1).
    ///
    /// # Errors
    /// [`Unsent`]. A relation goes on as it was.
    pub fn ask(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: PeerId,
        again: Option<RequestId>,
        ask: &Ask,
    ) -> Result<RequestId, Unsent> {
        if peer.is_unproven() {
            return Err(Unsent::Unproven);
        }
        if self.exchanges.len() + self.transmissions.len() >= self.settings.pending {
            return Err(Unsent::Busy);
        }
        let is_known = |request: &RequestId| {
            request.peer == peer
                && self.requests.asks.contains_key(request)
                && !self.requests.open.contains_key(request)
        };
        let request = again.filter(is_known).unwrap_or_else(|| self.fresh_id(peer));
        let observe = ask.observe.then_some(0);
        let token = self.requests.asks.get(&request).and_then(|asked| asked.echo.token);
        let echo = Echo { token, ..Echo::default() };
        let body = Body { echo: echo.clone(), ..Body::of(ask, holder, observe) };
        let message_id = self.send_block(now, request, &body)?;
        self.requests.open.insert(request, Sent::new(message_id, Kind::Ask));
        let established = self.requests.forget_ask(request).is_some_and(|asked| asked.established);
        let asked = Asked { ask: ask.clone(), holder, established, fetch: None, echo };
        self.requests.asks.insert(request, asked);
        Ok(request)
    }

    /// Nothing more is wanted of this GET: a notification that comes later is answered with Reset.
    pub fn forget_ask(&mut self, request: RequestId) {
        self.requests.forget_ask(request);
        self.abandon(request);
    }

    /// What a peer says, oldest first. Of each that is [`Notice::held`] the caller decides.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.requests.notices.pop_front()
    }

    /// Acknowledges a value.
    pub fn acknowledge_value(&mut self, held: Held) {
        if self.requests.held.remove(&(held.peer, held.message_id)) {
            self.acknowledge_separate(held.peer, held.message_id);
        }
    }

    /// Answers a value with Reset: the peer ends the relation (RFC 7641 §3.6).
    pub fn reject_value(&mut self, held: Held) {
        if self.requests.held.remove(&(held.peer, held.message_id)) {
            self.send_empty(held.peer, Type::Reset, held.message_id);
        }
    }

    /// Leaves a value without an answer: the peer sends it again.
    pub fn leave_value(&mut self, held: Held) {
        self.requests.held.remove(&(held.peer, held.message_id));
    }

    /// The number of relations, GETs that wait for their response, and values that are held.
    pub fn ask_count(&self) -> usize {
        self.requests.asks.len() + self.requests.held.len()
    }

    /// A response with the token of a GET in a message of its own: whether it is one, or a
    /// notification.
    pub(super) fn handle_notification(
        &mut self,
        now: Instant,
        request: RequestId,
        message: &Message<'_>,
    ) -> bool {
        let peer = request.peer;
        let is_established = self.requests.asks.get(&request).is_some_and(|asked| asked.established);
        let kind = match self.requests.open.get(&request).copied() {
            Some(sent) if sent.acknowledged => NoticeKind::Separate,
            Some(_) if is_established => NoticeKind::Notification,
            // The acknowledgement was lost, or comes later. It can only be of a message that was
            // sent.
            Some(sent) if self.outstanding(peer) == Some(sent.message_id) => {
                self.finish_transmission(now, peer);
                NoticeKind::Separate
            }
            None if is_established => NoticeKind::Notification,
            _ => return false,
        };
        self.handle_value(now, request, message, kind);
        true
    }

    /// What a peer says.
    pub(super) fn handle_value(
        &mut self,
        now: Instant,
        request: RequestId,
        message: &Message<'_>,
        kind: NoticeKind,
    ) {
        let (peer, id) = (request.peer, message.message_id);
        let confirmable = message.message_type == Type::Confirmable;
        let options = ResponseOptions::of(message);
        if let Some(number) = options.unknown {
            if confirmable {
                self.send_empty(peer, Type::Reset, id);
            }
            self.requests.open.entry(request).or_insert(Sent::new(id, Kind::Ask));
            return self.requests.end(request, Outcome::Unintelligible(number));
        }
        if kind != NoticeKind::Notification {
            self.requests.open.remove(&request);
            if self.ask_with_echo(now, request, message.code, &options) {
                if confirmable {
                    self.acknowledge_separate(peer, id);
                }
                return;
            }
        } else if let Some(fetch) = self.requests.unmarked_rest(request) {
            self.requests.end(fetch, Outcome::Unanswered);
        }
        // Nothing more is wanted of it.
        let Some(asked) = self.requests.asks.get_mut(&request) else { return };
        let observe =
            options.observe.filter(|_| asked.ask.observe && message.code.class() == 2).map(|n| n & 0xff_ffff);
        asked.established = observe.is_some();
        let is_first = message.code == Code::CONTENT && options.block2.is_some_and(|block| block.more);
        let notice = Notice {
            request,
            kind,
            code: message.code,
            observe,
            content_format: options.content_format,
            max_age_s: options.max_age.unwrap_or(MAX_AGE),
            payload: message.payload.get(..PAYLOAD_MAX).unwrap_or(message.payload).to_vec(),
            partial: is_first || options.block2.is_some_and(|block| block.number > 0),
            refused: None,
            blockwise: is_first,
            held: None,
        };
        if !is_first {
            let (is_over, is_fetching) = (observe.is_none(), asked.fetch.is_some());
            if is_over && !is_fetching {
                self.requests.asks.remove(&request);
            }
            return self.hand_over(notice, confirmable.then_some(id));
        }
        if confirmable {
            self.acknowledge_separate(peer, id);
        }
        if let Some(notice) = self.fetch_rest(now, request, message, &options, notice) {
            self.requests.notices.push_back(notice);
        }
    }

    /// Sends a GET once more with the Echo option of its response, if it has one that is followed.
    fn ask_with_echo(
        &mut self,
        now: Instant,
        request: RequestId,
        code: Code,
        options: &ResponseOptions,
    ) -> bool {
        if code != Code::UNAUTHORIZED || options.echo.is_none() {
            return false;
        }
        let another = self.fresh_id(request.peer).token;
        let Some(asked) = self.requests.asks.get_mut(&request) else { return false };
        if !asked.echo.take(code, options.echo.as_deref(), || another) {
            return false;
        }
        if let Some(block) = options.block2.filter(|block| block.number == 0) {
            let wanted = asked.ask.block_exponent.unwrap_or(SIZE_EXPONENT_MAX);
            asked.ask.block_exponent = Some(block.size_exponent.min(wanted));
        }
        let observe = asked.ask.observe.then_some(0);
        let body = Body { echo: asked.echo.clone(), ..Body::of(&asked.ask, asked.holder, observe) };
        let Ok(message_id) = self.send_block(now, request, &body) else { return false };
        self.requests.open.insert(request, Sent::new(message_id, Kind::Ask));
        true
    }

    /// Fetches the blocks after the first one; gives the notice back if that cannot be done.
    fn fetch_rest(
        &mut self,
        now: Instant,
        request: RequestId,
        message: &Message<'_>,
        options: &ResponseOptions,
        notice: Notice,
    ) -> Option<Notice> {
        let asked = self.requests.asks.get(&request)?;
        let is_established = asked.established;
        let mut body = Body::of(&asked.ask, asked.holder, None);
        let is_free = asked.fetch.is_none();
        if is_free && body.gather(message.code, options, message.payload) == Part::More {
            let fetch = self.fresh_id(request.peer);
            if let Ok(message_id) = self.send_block(now, fetch, &body) {
                self.requests.open.insert(fetch, Sent::new(message_id, Kind::Request));
                self.requests.bodies.insert(fetch, body);
                self.requests.fetches.insert(fetch, Rest { notice, until: now + REST_WITHIN });
                if let Some(asked) = self.requests.asks.get_mut(&request) {
                    asked.fetch = Some(fetch);
                }
                return None;
            }
        }
        if !is_established && is_free {
            self.requests.asks.remove(&request);
        }
        Some(notice)
    }

    /// Hands a value over; its acknowledgement waits, if there is room for one more of the peer.
    fn hand_over(&mut self, notice: Notice, confirmable: Option<MessageId>) {
        let peer = notice.request.peer;
        let Some(message_id) = confirmable else { return self.requests.notices.push_back(notice) };
        let all = (peer, MessageId(0))..=(peer, MessageId(u16::MAX));
        if self.requests.held.range(all).count() >= usize::from(self.settings.pending_per_peer) {
            // It is sent again.
            self.counters.overloaded += 1;
            return;
        }
        self.requests.held.insert((peer, message_id));
        self.requests.notices.push_back(Notice { held: Some(Held { peer, message_id }), ..notice });
    }
}

impl Body {
    fn of(ask: &Ask, holder: Holder, observe: Option<u32>) -> Body {
        Body {
            holder,
            method: Method::Get,
            path: ask.path.clone(),
            query: ask.query.clone(),
            accept: ask.accept,
            block_exponent: ask.block_exponent,
            observe,
            limit: ask.limit.min(BODY_MAX),
            content_format: None,
            payload: Vec::new(),
            offset: 0,
            size_exponent: SIZE_EXPONENT_MAX,
            gathered: None,
            echo: Echo::default(),
        }
    }
}
