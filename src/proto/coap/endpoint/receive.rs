//! Receives datagrams: parsing, duplicates, options, blocks.

use std::borrow::Cow;
use std::time::Instant;

use coap_numbers::option;

use super::super::Holder;
use super::super::block::{Block, Piece, Progress};
use super::super::deduplication::{Answer, Entry, fingerprint};
use super::super::exchange::{Exchange, Pending};
use super::super::message::{Code, Message, Type};
use super::super::option::{NoResponse, OptionError, RequestOptions};
use super::super::reliability::Tick;
use super::super::request::{FirstBlock, Method, Request, Response};
use super::super::{MessageId, PeerId};
use super::answer::wishes;
use super::sender::Sender;
use super::{Endpoint, Event, UNPROVEN_SHARE};

/// Max-Age of a 4.29 or 5.03 because of too many unanswered requests, in seconds.
const OVERLOAD_RETRY_AFTER: u32 = 1;
/// Non-confirmable notifications that are answered with a Reset, in a quarter of a second.
const RESETS_PER_TICK: u32 = 64;

/// A received request with the data for an immediate response.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'d> {
    pub(super) peer: PeerId,
    pub(super) holder: Holder,
    pub(super) tick: Tick,
    pub(super) fingerprint: u32,
    pub(super) message: Message<'d>,
    pub(super) no_response: NoResponse,
    pub(super) block1: Option<Block>,
}

impl Incoming<'_> {
    pub(super) fn is_confirmable(&self) -> bool {
        self.message.message_type == Type::Confirmable
    }

    pub(super) fn entry(&self, answer: Answer) -> Entry {
        Entry {
            arrived: self.tick,
            fingerprint: self.fingerprint,
            message_id: self.message.message_id,
            confirmable: self.is_confirmable(),
            answer,
        }
    }
}

impl Endpoint {
    /// Handles one datagram of `peer`, which is its own holder. Returns a request if it is new and
    /// complete; everything else is handled by the endpoint.
    pub fn handle_datagram<'d>(
        &mut self,
        now: Instant,
        peer: PeerId,
        datagram: &'d [u8],
    ) -> Option<Request<'d>> {
        self.handle_datagram_of(
            now,
            Holder { number: peer.0, max_sessions: 1, max_handshakes: Holder::HANDSHAKES },
            peer,
            datagram,
        )
    }

    /// As [`handle_datagram`](Endpoint::handle_datagram), for a peer that belongs to `holder`:
    /// unanswered requests and incomplete bodies are bounded for all peers of one holder together.
    /// One endpoint must use either this or [`handle_datagram`](Endpoint::handle_datagram), because
    /// their holder numbers may collide.
    pub fn handle_datagram_of<'d>(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: PeerId,
        datagram: &'d [u8],
    ) -> Option<Request<'d>> {
        let body_max = self.settings.body as u32;
        self.handle_datagram_judged(now, holder, peer, datagram, |_| Ok(body_max))
    }

    /// As [`handle_datagram_of`](Endpoint::handle_datagram_of), and `judge` decides about a request
    /// whose body comes in blocks when its first block has come, so that no further one is sent in
    /// vain (RFC 7959 §2.9): it returns the largest body, in bytes, or the response that refuses
    /// the request. The complete request is handed up all the same, for the final decision. `judge`
    /// is called, too, for a later block of an unknown transfer.
    pub fn handle_datagram_judged<'d>(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: PeerId,
        datagram: &'d [u8],
        judge: impl FnOnce(&FirstBlock<'d>) -> Result<u32, Response<'static>>,
    ) -> Option<Request<'d>> {
        self.counters.received += 1;
        let message = match Message::parse(datagram) {
            Ok(message) => message,
            Err(error) => {
                self.counters.malformed += 1;
                if let Some(id) = error.reset {
                    self.send_empty(peer, Type::Reset, id);
                }
                return None;
            }
        };
        match message.message_type {
            Type::Confirmable | Type::NonConfirmable if message.code.is_request() => {
                return self.handle_request(now, holder, peer, message, datagram, judge);
            }
            Type::Confirmable | Type::NonConfirmable
                if message.code.is_response() && self.handle_separate_response(now, peer, &message) => {}
            // A ping (empty), or a response although no request was sent (RFC 7252 §4.2, §4.3).
            Type::Confirmable => {
                if message.code == Code::EMPTY {
                    self.counters.pings += 1;
                } else {
                    self.counters.unexpected += 1;
                }
                self.send_empty(peer, Type::Reset, message.message_id);
            }
            Type::NonConfirmable => {
                self.counters.unexpected += 1;
                // A notification that nobody expects: its sender ends the relation (RFC 7641 §3.6).
                let is_notification =
                    message.code.is_response() && message.options.values(option::OBSERVE).next().is_some();
                if is_notification && !peer.is_unproven() && self.may_reset(now) {
                    self.send_empty(peer, Type::Reset, message.message_id);
                }
            }
            Type::Acknowledgement | Type::Reset => {
                if !self.handle_answer_to_request(now, peer, &message) {
                    self.handle_reply(now, peer, message.message_type, message.message_id);
                }
            }
        }
        None
    }

    /// Whether another non-confirmable notification may be answered with a Reset.
    fn may_reset(&mut self, now: Instant) -> bool {
        let tick = self.tick(now);
        if self.resets.0 != tick {
            self.resets = (tick, 0);
        }
        self.resets.1 += 1;
        self.resets.1 <= RESETS_PER_TICK
    }

    /// Handles an acknowledgement or Reset, which may match an outstanding message (RFC 7252 §4.2).
    fn handle_reply(&mut self, now: Instant, peer: PeerId, message_type: Type, id: MessageId) {
        let known = self.side(peer).peers.get(peer).and_then(|(known, _)| known.queue.first);
        if known.and_then(|key| self.transmissions.get(key)).is_none_or(|sent| sent.message_id != id) {
            self.counters.unexpected += 1;
            return;
        }
        self.finish_transmission(now, peer);
        if message_type == Type::Reset {
            self.event(Event::Reset(peer));
        }
    }

    fn handle_request<'d>(
        &mut self,
        now: Instant,
        holder: Holder,
        peer: PeerId,
        message: Message<'d>,
        datagram: &'d [u8],
        judge: impl FnOnce(&FirstBlock<'d>) -> Result<u32, Response<'static>>,
    ) -> Option<Request<'d>> {
        let tick = self.tick(now);
        let fingerprint = fingerprint(self.seed, datagram) as u32;
        let no_response = NoResponse::default();
        let mut incoming = Incoming { peer, holder, tick, fingerprint, message, no_response, block1: None };
        let open = self.look_up(&incoming, datagram.len())?;
        let options = match RequestOptions::read(message.options) {
            Ok(options) => options,
            Err(error) => {
                self.refuse_options(incoming, error);
                return None;
            }
        };
        incoming.no_response = options.no_response;
        self.prove(&incoming, options.echo);
        let Some(method) = Method::from_code(message.code) else {
            return self
                .refuse(incoming, Response::new(Code::METHOD_NOT_ALLOWED).diagnostic("unknown method"));
        };
        if options.block2.is_some_and(|block| block.number > 0) && !method.is_safe() {
            // The response is generated again for each block, which only a safe request allows.
            let response = Response::new(Code::BAD_REQUEST).diagnostic("Block2 of an unsafe method");
            return self.refuse(incoming, response);
        }
        if let Some(response) = self.overload(peer, holder, open) {
            self.counters.overloaded += 1;
            self.answer(incoming, &response);
            return None;
        }
        incoming.block1 = options.block1;
        let payload = match options.block1 {
            None => Cow::Borrowed(message.payload),
            Some(block) => self.assemble(now, incoming, method, &options, block, judge)?,
        };
        let exchange = self.hand_up(now, incoming, method, &options);
        let (token, confirmable) = (message.token, incoming.is_confirmable());
        Some(Request { exchange, method, token, confirmable, payload, options })
    }

    /// Answers the message if it is a duplicate. Otherwise returns the number of open exchanges of
    /// the peer.
    #[inline]
    fn look_up(&mut self, incoming: &Incoming<'_>, length: usize) -> Option<u16> {
        let Incoming { peer, tick, fingerprint, message, .. } = *incoming;
        let (known, account) = self.sides[usize::from(peer.is_unproven())].peers.meet(peer, tick);
        if peer.is_unproven() {
            known.credit.expire(tick);
            known.credit.earn(length);
        }
        let Some((position, entry)) = known.remembered.find(message.message_id, tick) else {
            return Some(known.open);
        };
        if entry.fingerprint != fingerprint {
            self.counters.restarted += 1;
            if let Some(index) = known.remembered.remove(position, account)
                && let Some(key) = self.exchanges.at(index, peer)
            {
                known.open = known.open.saturating_sub(1);
                self.exchanges.close(key);
            }
            return Some(known.open);
        }
        self.counters.duplicates += 1;
        if !incoming.is_confirmable() {
            return None;
        }
        let mut sender = Sender::new(&mut self.outbox, &mut self.counters, peer, &mut known.credit);
        match &entry.answer {
            Answer::Silent => {}
            Answer::Acknowledged => sender.empty(Type::Acknowledgement, message.message_id),
            Answer::Pending(index) => {
                let key = self.exchanges.at(*index, peer);
                if key.and_then(|key| self.exchanges.get(key)).is_some_and(|pending| pending.acknowledged) {
                    sender.empty(Type::Acknowledgement, message.message_id);
                }
            }
            stored @ (Answer::Small { .. } | Answer::Large(_)) => {
                if let Some((code, tail)) = stored.response() {
                    sender.stored(&message, code, tail);
                }
            }
        }
        None
    }

    /// Takes the Echo option of a plain peer for a proof of its address. Another value is no fault:
    /// no request needs to be fresh (RFC 9175 §2.3), and what is too large for an unproven peer is
    /// answered with a new value. A session has proven its address by its handshake.
    fn prove(&mut self, incoming: &Incoming<'_>, echo: Option<&[u8]>) {
        let Incoming { peer, tick, .. } = *incoming;
        let (Some(value), Some(key), true) = (echo, &self.echo, peer.is_unproven()) else { return };
        if key.is_valid(tick, peer, value)
            && let Some((known, _)) = self.sides[1].peers.get(peer)
        {
            known.credit.prove(tick);
            self.counters.echoed += 1;
        }
    }

    fn refuse_options(&mut self, mut incoming: Incoming<'_>, error: OptionError) {
        self.counters.refused += 1;
        let unrecognized = match error {
            OptionError::Unrecognized(number) => Some(number),
            OptionError::Proxy | OptionError::Invalid => None,
        };
        if unrecognized.is_some() && !incoming.is_confirmable() {
            self.reject(incoming);
            return;
        }
        incoming.no_response = wishes(incoming.message.options.values(option::NO_RESPONSE).next());
        // The sender leaves it out where an unproven peer has no credit for it.
        let text = match error {
            OptionError::Unrecognized(number) => format!("option {number}"),
            OptionError::Proxy => "not a proxy".to_owned(),
            OptionError::Invalid => "invalid option".to_owned(),
        };
        self.answer(incoming, &Response::new(error.code()).diagnostic(&text));
    }

    fn refuse(&mut self, incoming: Incoming<'_>, response: Response<'_>) -> Option<Request<'static>> {
        self.counters.refused += 1;
        self.answer(incoming, &response);
        None
    }

    /// The response to a request beyond a limit, if one is reached.
    fn overload(&mut self, peer: PeerId, holder: Holder, open: u16) -> Option<Response<'static>> {
        let all = match peer.is_unproven() {
            true => self.settings.pending / UNPROVEN_SHARE,
            false => self.settings.pending,
        };
        let per_peer = self.settings.pending_per_peer;
        let held = self.exchanges.held(holder.number) + self.transmissions.held(holder.number);
        let code = if self.exchanges.len() + self.transmissions.len() >= all {
            Code::SERVICE_UNAVAILABLE
        } else if open >= per_peer || held >= holder.share(usize::from(per_peer), all) {
            Code::TOO_MANY_REQUESTS
        } else {
            return None;
        };
        Some(Response::new(code).max_age(OVERLOAD_RETRY_AFTER).diagnostic("too many unanswered requests"))
    }

    /// Accepts a block. Returns the body when it is complete; until then the block is answered
    /// here.
    fn assemble<'d>(
        &mut self,
        now: Instant,
        incoming: Incoming<'d>,
        method: Method,
        options: &RequestOptions<'d>,
        block: Block,
        judge: impl FnOnce(&FirstBlock<'d>) -> Result<u32, Response<'static>>,
    ) -> Option<Cow<'d, [u8]>> {
        let Incoming { peer, holder, message, .. } = incoming;
        let payload = message.payload;
        let (place, tag) = self.marks(message.code, options);
        if block.number == 0 && !block.more && payload.len() <= block.size() {
            self.side(peer).assemblies.supersede(now, peer, place);
            return Some(Cow::Borrowed(payload));
        }
        let mut limit = self.settings.body as u32;
        if self.side(peer).assemblies.is_first(peer, place, block) {
            let end = block.offset() + payload.len();
            let bytes = end.max(options.size1.map_or(0, |size| size as usize));
            match judge(&FirstBlock::new(method, *options, payload, bytes)) {
                Ok(most) => limit = limit.min(most),
                Err(response) => {
                    // Block 0 of a newer transfer ends the older one, also if it is refused.
                    if block.number == 0 {
                        self.side(peer).assemblies.supersede(now, peer, place);
                    }
                    self.counters.refused += 1;
                    self.answer_and_remember(incoming, &response);
                    return None;
                }
            }
        }
        let piece = Piece {
            peer,
            holder,
            place,
            tag,
            content_format: options.content_format,
            block,
            size1: options.size1,
            message_id: message.message_id.0,
            token: fingerprint(self.seed, message.token.as_bytes()),
            payload,
            limit,
        };
        let response = match self.side(peer).assemblies.accept(now, piece) {
            Progress::Whole(body) => return Some(Cow::Owned(body)),
            Progress::Continue => {
                self.counters.blocks += 1;
                self.answer_and_remember(incoming, &Response::new(Code::CONTINUE));
                return None;
            }
            Progress::Malformed => Response::new(Code::BAD_REQUEST).diagnostic("wrong block"),
            Progress::Incomplete => {
                Response::new(Code::REQUEST_ENTITY_INCOMPLETE).diagnostic("earlier blocks missing")
            }
            Progress::Differs(difference) => {
                Response::new(Code::REQUEST_ENTITY_INCOMPLETE).diagnostic(difference.as_str())
            }
            Progress::TooLarge(limit) => {
                Response::new(Code::REQUEST_ENTITY_TOO_LARGE).size1(limit).diagnostic("payload too large")
            }
            Progress::NoRoom(wait) => Response::new(Code::SERVICE_UNAVAILABLE)
                .max_age(wait)
                .diagnostic("too many incomplete bodies"),
        };
        self.counters.refused += 1;
        self.answer_and_remember(incoming, &response);
        None
    }

    /// Hashes of what identifies a transfer: the resource and the Request-Tag (RFC 7959 §2.5, RFC
    /// 9175 §3.3); and of everything else that must be equal in all its blocks, but for the
    /// Content-Format. No Request-Tag and an empty one are different.
    fn marks(&self, code: Code, options: &RequestOptions<'_>) -> (u64, u64) {
        let mut place = self.seed;
        let mut tag = self.seed ^ u64::from(code.0);
        for option in options.all {
            match option.number {
                number @ (option::URI_PATH | option::URI_QUERY | option::REQUEST_TAG) => {
                    place = fingerprint(place ^ u64::from(number) << 32, option.value);
                }
                option::BLOCK1
                | option::BLOCK2
                | option::SIZE1
                | option::SIZE2
                | option::NO_RESPONSE
                | option::OBSERVE
                | option::ECHO
                | option::CONTENT_FORMAT => {}
                number => tag = fingerprint(tag ^ u64::from(number) << 32, option.value),
            }
        }
        (place, tag)
    }

    fn hand_up(
        &mut self,
        now: Instant,
        incoming: Incoming<'_>,
        method: Method,
        options: &RequestOptions<'_>,
    ) -> Exchange {
        let Incoming { peer, holder, tick, message, .. } = incoming;
        let confirmable = incoming.is_confirmable();
        // A client that suppresses 2.xx (RFC 7967) reads the ACK as success, so the ACK waits for
        // the commit.
        let acknowledge = confirmable && !options.no_response.suppresses(Code::CHANGED);
        let pending = Pending {
            peer,
            holder: holder.number,
            message_id: message.message_id,
            token: message.token,
            method,
            confirmable,
            acknowledged: false,
            no_response: options.no_response,
            block1: options.block1,
            block2: options.block2,
            wants_size2: options.wants_size2,
        };
        let key = self.exchanges.open(pending, acknowledge.then(|| now + self.settings.acknowledge_after));
        let peers = &mut self.sides[usize::from(peer.is_unproven())].peers;
        let (known, account) = peers.meet(peer, tick);
        known.open += 1;
        // There is room: `pending_per_peer` is at most REMEMBERED_MAX.
        known.remembered.push(incoming.entry(Answer::Pending(key.index)), account);
        self.counters.forgotten += peers.make_room(tick);
        self.counters.requests += 1;
        Exchange::new(peer, key)
    }

    pub(super) fn side(&mut self, peer: PeerId) -> &mut super::Side {
        &mut self.sides[usize::from(peer.is_unproven())]
    }
}
