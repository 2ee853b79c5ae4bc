//! Writes the messages to one peer, within the amplification limit of an unproven peer.
//!
//! A response that exceeds the limit is first cut into smaller blocks, then sent without its
//! diagnostic, and finally as a bare code; a 2.05 becomes 4.01.

use coap_numbers::option;

use super::super::PeerId;
use super::super::block::{Block, SIZE_EXPONENT_MAX, excerpt, slice};
use super::super::deduplication::{Answer, fingerprint};
use super::super::encoder::Encoder;
use super::super::message::{Code, HEADER_LENGTH, Message, MessageId, TOKEN_MAX, Token, Type};
use super::super::outbox::Outbox;
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

/// Sends to one peer.
pub(super) struct Sender<'e> {
    outbox: &'e mut Outbox,
    counters: &'e mut Counters,
    peer: PeerId,
    /// Bytes that may still be sent; `None` for a proven peer.
    credit: Option<&'e mut u32>,
}

impl<'e> Sender<'e> {
    pub(super) fn new(
        outbox: &'e mut Outbox,
        counters: &'e mut Counters,
        peer: PeerId,
        credit: &'e mut u32,
    ) -> Sender<'e> {
        Sender { outbox, counters, peer, credit: peer.is_unproven().then_some(credit) }
    }

    /// A sender without a limit, for messages that are never larger than the message they answer.
    pub(super) fn unlimited(outbox: &'e mut Outbox, counters: &'e mut Counters, peer: PeerId) -> Sender<'e> {
        Sender { outbox, counters, peer, credit: None }
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
        let room = self.credit.as_ref().map_or(usize::MAX, |credit| **credit as usize);
        for (largest, response) in attempts(response) {
            datagram.clear();
            write_response(datagram, frame, &response, largest);
            if datagram.len() <= room {
                break;
            }
        }
    }

    fn push_response(&mut self, frame: Frame, response: &Response<'_>, mut seen: impl FnMut(&[u8])) {
        if self.credit.is_none() {
            let write = |buffer: &mut Vec<u8>| write_response(buffer, frame, response, SIZE_EXPONENT_MAX);
            if !self.push(write, seen) {
                self.withhold();
            }
            return;
        }
        for (largest, response) in attempts(response) {
            if self.push(|buffer| write_response(buffer, frame, &response, largest), &mut seen) {
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
            let rest = credit.checked_sub(datagram.len() as u32);
            *credit = rest.unwrap_or(*credit);
            rest.is_some()
        })
    }
}

/// Smaller and smaller forms of a response, each with its largest block size exponent.
fn attempts<'r>(response: &Response<'r>) -> impl Iterator<Item = (u8, Response<'r>)> {
    let is_body = response.code == Code::CONTENT;
    let whole = *response;
    let smallest = if is_body { 0 } else { SIZE_EXPONENT_MAX };
    let blocks = (smallest..=SIZE_EXPONENT_MAX).rev().map(move |largest| (largest, whole));
    let textless = (!is_body).then_some((SIZE_EXPONENT_MAX, Response { payload: &[], ..whole }));
    let bare = Response::new(if is_body { Code::UNAUTHORIZED } else { response.code });
    blocks.chain(textless).chain([(SIZE_EXPONENT_MAX, bare)])
}

fn write_header(buffer: &mut Vec<u8>, message_type: Type, code: Code, id: MessageId, token: &Token) {
    // Only header and token: encoding cannot fail.
    let _ = Encoder::new(buffer, message_type, code, id, token).finish();
}

/// Writes one response, with the requested block of its body if the body does not fit.
pub(super) fn write_response(buffer: &mut Vec<u8>, frame: Frame, response: &Response<'_>, largest: u8) {
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
    let written = encoder
        .maybe_uint(option::CONTENT_FORMAT, response.content_format.map(|format| format.0.into()))
        .maybe_uint(option::MAX_AGE, response.max_age)
        .maybe_uint(option::BLOCK2, block2.map(Block::to_uint))
        .maybe_uint(option::BLOCK1, frame.block1.map(Block::to_uint))
        .maybe_uint(option::SIZE2, size2)
        .maybe_uint(option::SIZE1, response.size1)
        .payload(part)
        .finish();
    // Only a Location-Path segment of more than 65,804 bytes can fail; the response is then 5.00.
    if written.is_err() {
        write_header(buffer, frame.message_type, Code::INTERNAL_SERVER_ERROR, frame.id, &frame.token);
    }
}
