//! Sends responses: piggybacked, separate, or suppressed.

use std::time::Instant;

use super::super::PeerId;
use super::super::deduplication::Answer;
use super::super::exchange::{Exchange, Pending};
use super::super::message::{MessageId, Type};
use super::super::option::NoResponse;
use super::super::request::Response;
use super::client::Outcome;
use super::receive::Incoming;
use super::sender::{Frame, Sender};
use super::{Endpoint, Event};
use crate::slots::Key;

impl Pending {
    fn frame(&self, message_type: Type, id: MessageId) -> Frame {
        Frame {
            message_type,
            id,
            token: self.token,
            block1: self.block1,
            block2: self.block2,
            wants_size2: self.wants_size2,
        }
    }
}

impl Endpoint {
    /// Answers a request. In time, the response is piggybacked on the acknowledgement; after an
    /// empty acknowledgement it is sent as a separate confirmable message. A stale exchange is
    /// ignored, and so is a response whose code is not a response code.
    pub fn respond(&mut self, now: Instant, exchange: Exchange, response: &Response<'_>) {
        if !response.code.is_response() {
            return;
        }
        let Some(pending) = self.exchanges.close(exchange.key()) else { return };
        let tick = self.tick(now);
        let peer = pending.peer;
        let peers = &mut self.sides[usize::from(peer.is_unproven())].peers;
        let Some((known, account)) = peers.get(peer) else { return };
        known.open = known.open.saturating_sub(1);
        known.credit.expire(tick);
        let mut sender = Sender::new(&mut self.outbox, &mut self.counters, peer, &mut known.credit)
            .with_echo(self.echo.as_ref(), tick);
        let unwanted = pending.no_response.suppresses(response.code);
        let answer = match (pending.confirmable, unwanted) {
            (false, true) => Some(Answer::Silent),
            (false, false) => {
                match known.ids.allocate(tick) {
                    Some(id) => sender.respond(pending.frame(Type::NonConfirmable, id), response),
                    None => sender.withhold(),
                }
                Some(Answer::Silent)
            }
            (true, true) => {
                if !pending.acknowledged {
                    sender.empty(Type::Acknowledgement, pending.message_id);
                }
                Some(Answer::Acknowledged)
            }
            (true, false) if pending.acknowledged => {
                match known.ids.allocate(tick) {
                    Some(id) => {
                        let frame = pending.frame(Type::Confirmable, id);
                        let write = |datagram: &mut Vec<u8>| sender.write_separate(datagram, frame, response);
                        let first = self.transmissions.enqueue(
                            now,
                            &mut known.queue,
                            (peer, pending.holder),
                            id,
                            write,
                        );
                        known.open += 1;
                        if let Some(sent) = first.and_then(|key| self.transmissions.get(key)) {
                            sender.datagram(&sent.datagram);
                        }
                    }
                    None => sender.withhold(),
                }
                Some(Answer::Acknowledged)
            }
            (true, false) => {
                let frame = pending.frame(Type::Acknowledgement, pending.message_id);
                // A large response to a safe request is not stored: a duplicate is processed again
                // (RFC 7252 §4.5).
                sender.respond_and_store(frame, response, !pending.method.is_safe())
            }
        };
        known.remembered.settle(pending.message_id, exchange.key().index, answer, account);
        if peers.is_over() {
            self.counters.forgotten += peers.make_room(tick);
        }
    }

    /// Answers a request that is not handed up. It is not remembered: a duplicate gets the same
    /// response.
    pub(super) fn answer(&mut self, incoming: Incoming<'_>, response: &Response<'_>) {
        self.answer_at_once(incoming, response, false);
    }

    /// Sends a Reset for a request. The credit of the request covers its bytes.
    pub(super) fn reject(&mut self, incoming: Incoming<'_>) {
        let peer = incoming.peer;
        let (known, _) = self.sides[usize::from(peer.is_unproven())].peers.meet(peer, incoming.tick);
        Sender::new(&mut self.outbox, &mut self.counters, peer, &mut known.credit)
            .empty(Type::Reset, incoming.message.message_id);
    }

    /// Answers a block that changed its transfer, and remembers the response.
    pub(super) fn answer_and_remember(&mut self, incoming: Incoming<'_>, response: &Response<'_>) {
        self.answer_at_once(incoming, response, true);
    }

    fn answer_at_once(&mut self, incoming: Incoming<'_>, response: &Response<'_>, remember: bool) {
        let Incoming { peer, tick, message, .. } = incoming;
        let peers = &mut self.sides[usize::from(peer.is_unproven())].peers;
        let (known, account) = peers.meet(peer, tick);
        let mut sender = Sender::new(&mut self.outbox, &mut self.counters, peer, &mut known.credit);
        let unwanted = incoming.no_response.suppresses(response.code);
        let frame = |message_type, id| Frame {
            message_type,
            id,
            token: message.token,
            block1: incoming.block1,
            block2: None,
            wants_size2: false,
        };
        let answer = match (incoming.is_confirmable(), unwanted) {
            (false, true) => Some(Answer::Silent),
            (false, false) => {
                match known.ids.allocate(tick) {
                    Some(id) => sender.respond(frame(Type::NonConfirmable, id), response),
                    None => sender.withhold(),
                }
                Some(Answer::Silent)
            }
            (true, true) => {
                sender.empty(Type::Acknowledgement, message.message_id);
                Some(Answer::Acknowledged)
            }
            (true, false) => {
                let frame = frame(Type::Acknowledgement, message.message_id);
                sender.respond_and_store(frame, response, remember)
            }
        };
        if let Some(answer) = answer.filter(|_| remember) {
            known.remembered.push(incoming.entry(answer), account);
            self.counters.forgotten += peers.make_room(tick);
        }
    }

    /// Sends the empty acknowledgements of requests that were not answered in time.
    pub(super) fn acknowledge_late(&mut self, now: Instant) {
        while let Some(pending) = self.exchanges.poll_acknowledgement(now) {
            self.counters.late += 1;
            let peers = &mut self.sides[usize::from(pending.peer.is_unproven())].peers;
            if let Some((known, _)) = peers.get(pending.peer) {
                Sender::new(&mut self.outbox, &mut self.counters, pending.peer, &mut known.credit)
                    .empty(Type::Acknowledgement, pending.message_id);
            }
        }
    }

    /// Sends an empty message of 4 bytes. The message it answers had at least 4 bytes and added no
    /// credit, so the amplification limit is not checked.
    pub(super) fn send_empty(&mut self, peer: PeerId, message_type: Type, id: MessageId) {
        Sender::unlimited(&mut self.outbox, &mut self.counters, peer).empty(message_type, id);
    }

    /// Retransmits a confirmable message.
    pub(super) fn send_again(&mut self, key: Key) {
        let Some(sent) = self.transmissions.get(key) else { return };
        let peers = &mut self.sides[usize::from(sent.peer.is_unproven())].peers;
        if let Some((known, _)) = peers.get(sent.peer) {
            Sender::new(&mut self.outbox, &mut self.counters, sent.peer, &mut known.credit)
                .datagram(&sent.datagram);
        }
    }

    /// Ends the outstanding message of a peer and sends the next one (NSTART = 1).
    pub(super) fn finish_transmission(&mut self, now: Instant, peer: PeerId) {
        let peers = &mut self.sides[usize::from(peer.is_unproven())].peers;
        let Some((known, _)) = peers.get(peer) else { return };
        known.open = known.open.saturating_sub(1);
        if let Some(next) = self.transmissions.finish_first(now, &mut known.queue) {
            self.send_again(next);
        }
    }

    /// Gives up all messages to a peer that does not acknowledge.
    pub(super) fn give_up(&mut self, peer: PeerId) {
        let peers = &mut self.sides[usize::from(peer.is_unproven())].peers;
        let Some((known, _)) = peers.get(peer) else { return };
        let given_up = self.transmissions.clear(&mut known.queue);
        known.open = known.open.saturating_sub(given_up);
        self.counters.unacknowledged += u64::from(given_up);
        self.requests.end_all(peer, &Outcome::Unanswered, true);
        self.event(Event::Unacknowledged(peer, given_up));
    }
}

/// The No-Response option of a request whose other options are invalid.
pub(super) fn wishes(value: Option<&[u8]>) -> NoResponse {
    match value {
        Some([mask]) => NoResponse(*mask),
        _ => NoResponse::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::message::Code;
    use super::*;

    #[test]
    fn a_no_response_of_a_wrong_length_wishes_nothing() {
        assert_eq!(wishes(Some(&[2])), NoResponse(2));
        assert_eq!(wishes(Some(&[])), NoResponse(0));
        assert_eq!(wishes(Some(&[0, 2])), NoResponse(0));
        assert!(!wishes(None).suppresses(Code::CHANGED));
    }
}
