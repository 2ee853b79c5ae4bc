//! Writes the messages to one peer, within the amplification limit of an unproven peer.
//!
//! A response that exceeds the limit is first cut into smaller blocks, then sent without its
//! diagnostic, and finally as a bare code; a 2.05 becomes 4.01. A body that was cut, and such a
//! 4.01, have an Echo option, if the credit is enough for it: a peer that returns its value has
//! proven its address (RFC 9175 §2.4 no. 3). Peers that do not know Echo get the small blocks.
//! Echo is not sent in separate confirmable responses, whose repetitions would amplify (there).

use coap_numbers::option;

use super::super::PeerId;
use super::super::block::{Block, SIZE_EXPONENT_MAX, excerpt, slice};
use super::super::deduplication::{Answer, fingerprint};
use super::super::echo::{EchoKey, VALUE};
use super::super::encoder::Encoder;
use super::super::message::{Code, HEADER_LENGTH, Message, MessageId, TOKEN_MAX, Token, Type};
use super::super::outbox::Outbox;
use super::super::peer::Credit;
use super::super::reliability::Tick;
use super::super::request::Response;
use super::Counters;

/// The message fields that the endpoint adds to a response.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) message_type: Type,
    pub(super) id: MessageId,
    pub(super) token: Token,
    pub(super) block1: Option<Block>,
    pub(super) block2: Option<Block>,
    pub(super) wants_size2: bool,
}

/// An Echo value to be sent.
type Echo = Option<[u8; VALUE]>;

/// Sends to one peer.
pub(super) struct Sender<'e> {
    outbox: &'e mut Outbox,
    counters: &'e mut Counters,
    peer: PeerId,
    /// What may still be sent; `None` for a peer without a limit.
    credit: Option<&'e mut Credit>,
    /// Makes Echo values, for the responses to a plain peer.
    echo: Option<(&'e EchoKey, Tick)>,
}

impl<'e> Sender<'e> {
    pub(super) fn new(
        outbox: &'e mut Outbox,
        counters: &'e mut Counters,
        peer: PeerId,
        credit: &'e mut Credit,
    ) -> Sender<'e> {
        let credit = Some(credit).filter(|credit| peer.is_unproven() && !credit.is_proven());
        Sender { outbox, counters, peer, credit, echo: None }
    }

    /// The same, for a response, which may ask an unproven peer to prove its address.
    pub(super) fn with_echo(self, key: Option<&'e EchoKey>, now: Tick) -> Sender<'e> {
        Sender { echo: key.map(|key| (key, now)), ..self }
    }

    /// A sender without a limit, for messages that are never larger than the message they answer.
    pub(super) fn unlimited(outbox: &'e mut Outbox, counters: &'e mut Counters, peer: PeerId) -> Sender<'e> {
        Sender { outbox, counters, peer, credit: None, echo: None }
    }

    pub(super) fn empty(&mut self, message_type: Type, id: MessageId) {
        self.counted(|buffer| write_header(buffer, message_type, Code::EMPTY, id, &Token::default()));
    }

    /// Sends a stored response to the duplicate `message`.
    pub(super) fn stored(&mut self, message: &Message<'_>, code: Code, tail: &[u8]) {
        self.counted(|buffer| {
            write_header(buffer, Type::Acknowledgement, code, message.message_id, &message.token);
            buffer.extend_from_slice(tail);
        });
    }

    pub(super) fn datagram(&mut self, bytes: &[u8]) {
        self.counted(|buffer| buffer.extend_from_slice(bytes));
    }

    pub(super) fn withhold(&mut self) {
        self.counters.withheld += 1;
    }

    pub(super) fn respond(&mut self, frame: Frame, response: &Response<'_>) {
        self.push_response(frame, response, |_| {});
    }

    /// Sends a response and returns the form to store. `None` if it is large and `keep_large` is
    /// false.
    pub(super) fn respond_and_store(
        &mut self,
        frame: Frame,
        response: &Response<'_>,
        keep_large: bool,
    ) -> Option<Answer> {
        let mut answer = None;
        let head = HEADER_LENGTH + frame.token.as_bytes().len();
        self.push_response(frame, response, |datagram| {
            if let Some((code, tail)) = datagram.get(1).zip(datagram.get(head..)) {
                answer = Answer::store(Code(*code), tail, keep_large);
            }
        });
        answer
    }

    /// Writes a separate response as it is sent and retransmitted.
    pub(super) fn write_separate(&self, datagram: &mut Vec<u8>, frame: Frame, response: &Response<'_>) {
        let room = self.credit.as_ref().map_or(usize::MAX, |credit| credit.room());
        for (largest, response, _) in attempts(response, None) {
            datagram.clear();
            write_response(datagram, frame, &response, largest);
            if datagram.len() <= room {
                break;
            }
        }
    }

    fn push_response(&mut self, frame: Frame, response: &Response<'_>, mut seen: impl FnMut(&[u8])) {
        let write = |buffer: &mut Vec<u8>| write_response(buffer, frame, response, SIZE_EXPONENT_MAX);
        if self.push(write, &mut seen) {
            return;
        }
        if self.credit.is_none() {
            return self.withhold();
        }
        let echo = self.echo.filter(|_| response.code == Code::CONTENT);
        let echo = echo.map(|(key, now)| key.value(now, self.peer));
        for (largest, response, echo) in attempts(response, echo).skip(1) {
            if self.push(|buffer| write_attempt(buffer, frame, &response, largest, echo), &mut seen) {
                self.counters.echo_sent += u64::from(echo.is_some());
                return;
            }
        }
        self.withhold();
    }

    fn counted(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.push(write, |_| {}) {
            self.withhold();
        }
    }

    #[inline]
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>), mut seen: impl FnMut(&[u8])) -> bool {
        let credit = self.credit.as_deref_mut();
        self.outbox.push(self.peer, write, |datagram| {
            seen(datagram);
            let Some(credit) = credit else { return true };
            credit.spend(datagram.len())
        })
    }
}

/// Smaller and smaller forms of a response, each with its largest block size exponent and its Echo
/// option.
fn attempts<'r>(response: &Response<'r>, echo: Echo) -> impl Iterator<Item = (u8, Response<'r>, Echo)> {
    let is_body = response.code == Code::CONTENT;
    let whole = *response;
    let smallest = if is_body { 0 } else { SIZE_EXPONENT_MAX };
    let sizes = (smallest..=SIZE_EXPONENT_MAX).rev();
    // As it is; then with Echo, also if its blocks must be smaller for it; then without.
    let asking = echo.into_iter().flat_map({
        let sizes = sizes.clone().skip(1);
        move |echo| sizes.clone().map(move |largest| (largest, whole, Some(echo)))
    });
    let first = [(SIZE_EXPONENT_MAX, whole, None)];
    let blocks =
        first.into_iter().chain(asking).chain(sizes.skip(1).map(move |largest| (largest, whole, None)));
    let textless = (!is_body).then_some((SIZE_EXPONENT_MAX, Response { payload: &[], ..whole }, None));
    let bare = Response::new(if is_body { Code::UNAUTHORIZED } else { response.code });
    let asking = echo.map(|echo| (SIZE_EXPONENT_MAX, bare, Some(echo)));
    blocks.chain(textless).chain(asking).chain([(SIZE_EXPONENT_MAX, bare, None)])
}

fn write_header(buffer: &mut Vec<u8>, message_type: Type, code: Code, id: MessageId, token: &Token) {
    // Only header and token: encoding cannot fail.
    let _ = Encoder::new(buffer, message_type, code, id, token).finish();
}

/// Writes one response, with the requested block of its body if the body does not fit.
pub(super) fn write_response(buffer: &mut Vec<u8>, frame: Frame, response: &Response<'_>, largest: u8) {
    write_attempt(buffer, frame, response, largest, None);
}

fn write_attempt(buffer: &mut Vec<u8>, frame: Frame, response: &Response<'_>, largest: u8, echo: Echo) {
    let cut = match response.whole {
        None => slice(response.payload, frame.block2, largest),
        Some(whole) => excerpt(response.payload, whole, frame.block2, largest),
    };
    let (block2, part) = match cut {
        Ok(cut) => cut,
        Err(_) if response.code != Code::CONTENT => (None, &response.payload[..0]),
        Err(_) => return write_header(buffer, frame.message_type, Code::BAD_REQUEST, frame.id, &frame.token),
    };
    let mut encoder = Encoder::new(buffer, frame.message_type, response.code, frame.id, &frame.token);
    let content_mark = block2.map(|_| (fingerprint(0, response.payload) as u32).to_be_bytes());
    let etag = response.etag.or(content_mark.as_ref().map(|mark| &mark[..]));
    if let Some(tag) = etag.filter(|tag| (1..=TOKEN_MAX).contains(&tag.len())) {
        encoder = encoder.option(option::ETAG, tag);
    }
    if let Some(sequence) = response.observe {
        encoder = encoder.maybe_uint(option::OBSERVE, Some(sequence & 0xff_ffff));
    }
    for segment in response.location_path {
        encoder = encoder.option(option::LOCATION_PATH, segment.as_bytes());
    }
    let whole = response.whole.unwrap_or(response.payload.len() as u64);
    let size2 = block2.filter(|_| frame.wants_size2).and_then(|_| u32::try_from(whole).ok());
    encoder = encoder
        .maybe_uint(option::CONTENT_FORMAT, response.content_format.map(|format| format.0.into()))
        .maybe_uint(option::MAX_AGE, response.max_age)
        .maybe_uint(option::BLOCK2, block2.map(Block::to_uint))
        .maybe_uint(option::BLOCK1, frame.block1.map(Block::to_uint))
        .maybe_uint(option::SIZE2, size2)
        .maybe_uint(option::SIZE1, response.size1);
    if let Some(value) = &echo {
        encoder = encoder.option(option::ECHO, value);
    }
    let written = encoder.payload(part).finish();
    // Only a Location-Path segment of more than 65,804 bytes can fail; the response is then 5.00.
    if written.is_err() {
        write_header(buffer, frame.message_type, Code::INTERNAL_SERVER_ERROR, frame.id, &frame.token);
    }
}
