//! A relation without news is notified at least daily, confirmably (RFC 7641 §4.5): the mailbox and
//! the endpoint as the daemon puts them together, in virtual time.

use std::time::Duration;

use tombolo::downlink::observe::{Formats, REFRESH, Registration};
use tombolo::proto::Holder;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::encoder::Encoder;
use tombolo::proto::coap::{
    Code, Endpoint, Message, MessageId, Outcome, PeerId, RequestId, Response, Token, Type,
};
use tombolo::proto::dtls::SessionId;

use crate::world::{World, command, device};

const PEER: PeerId = Peer::Session(SessionId(77)).id();
const HOLDER: Holder = Holder { number: 1, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
const TOKEN: &[u8] = b"tk";

struct Observed {
    world: World,
    endpoint: Endpoint,
    relation: u64,
}

/// Observe number, type, Message ID and payload.
type Notification = (u64, Type, MessageId, Vec<u8>);

impl Observed {
    fn new() -> Observed {
        let mut world = World::new();
        let mut endpoint = Endpoint::new(Default::default(), 1);
        // A registration, from the datagram on.
        let mut datagram = Vec::new();
        let token = Token::new(TOKEN).unwrap();
        Encoder::new(&mut datagram, Type::Confirmable, Code(1), MessageId(7), &token)
            .option_uint(6, 0)
            .option(11, b"lock")
            .finish()
            .unwrap();
        let request = endpoint.handle_datagram(world.now, PEER, &datagram).expect("a request");
        assert_eq!(request.observe(), Some(0));
        let registration = Registration {
            device: device(),
            path: "lock".to_owned(),
            peer: Some(PEER),
            session: Some(5),
            token: request.token,
            block: None,
            formats: Formats::Any,
        };
        let exchange = request.exchange;
        assert!(world.mailbox.observe(world.now, registration, 900));
        world.settle();
        let relation = world.related.pop().expect("an answer").expect("it is durable");
        let sequence = world.mailbox.relation(relation).unwrap().sequence;
        let response = Response { observe: Some(sequence as u32), ..Response::new(Code::CONTENT) };
        endpoint.respond(world.now, exchange, &response);
        let mut observed = Observed { world, endpoint, relation };
        assert_eq!(observed.sent().len(), 1);
        observed
    }

    fn pass(&mut self, time: Duration) {
        let end = self.world.now + time;
        while let Some(deadline) = self.endpoint.poll_timeout().filter(|deadline| *deadline <= end) {
            let by = deadline.saturating_duration_since(self.world.now);
            self.world.pass(by);
            self.endpoint.handle_timeout(self.world.now);
        }
        self.world.pass(end.saturating_duration_since(self.world.now));
        self.endpoint.handle_timeout(self.world.now);
    }

    /// The notifications on their way.
    fn sent(&mut self) -> Vec<Notification> {
        let (mut sent, mut buffer) = (Vec::new(), Vec::new());
        while self.endpoint.poll_transmit(&mut buffer).is_some() {
            let message = Message::parse(&buffer).unwrap();
            assert_eq!((message.code, message.token.as_bytes()), (Code::CONTENT, TOKEN));
            let observe = message.options.values(6).next().expect("Observe");
            let observe = observe.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
            sent.push((observe, message.message_type, message.message_id, message.payload.to_vec()));
        }
        sent
    }

    /// What the daemon does in each round: begins what is due, and sends what is stored.
    fn round(&mut self) -> Option<RequestId> {
        for relation in self.world.mailbox.relations_due(self.world.now) {
            self.world.mailbox.refresh(relation);
        }
        self.world.settle();
        let relation = self.world.refreshed.pop()?;
        assert_eq!(relation, self.relation);
        let found = self.world.mailbox.relation(relation).expect("it is there");
        let (registration, sequence) = (found.registration.clone(), found.sequence);
        let moment = self.world.moment();
        let value = self.world.mailbox.value(&registration.device, &registration.path, &moment);
        let response = Response {
            observe: Some(sequence as u32),
            payload: value.map_or(&[], |(value, _)| &value.payload[..]),
            ..Response::new(Code::CONTENT)
        };
        let key = (registration.token, registration.block);
        let request = self.endpoint.notify(self.world.now, HOLDER, PEER, key, &response).expect("it is sent");
        self.world.mailbox.note_notified(self.world.now, relation, sequence);
        Some(request)
    }

    fn say(&mut self, kind: Type, id: MessageId) {
        let mut datagram = Vec::new();
        Encoder::new(&mut datagram, kind, Code::EMPTY, id, &Token::default()).finish().unwrap();
        assert!(self.endpoint.handle_datagram(self.world.now, PEER, &datagram).is_none());
    }

    fn outcome(&mut self, request: RequestId) -> Outcome {
        let reply = self.endpoint.poll_reply().expect("it is told");
        assert_eq!(reply.request, request);
        match reply.outcome {
            Outcome::Acknowledged => self.world.mailbox.handle_refreshed(self.relation),
            _ => self.world.mailbox.end_relation(self.relation),
        }
        self.world.settle();
        reply.outcome
    }
}

#[test]
fn a_relation_without_news_gets_a_confirmable_notification_within_each_day_for_a_week() {
    let mut observed = Observed::new();
    observed.world.publish(command(5));
    let mut last = 0;
    let mut begun = observed.world.now;
    for day in 0..7 {
        // Rounds each ten minutes: when one is due.
        let request = loop {
            observed.pass(Duration::from_secs(600));
            if let Some(request) = observed.round() {
                break request;
            }
            assert!(observed.sent().is_empty(), "day {day}: nothing before");
        };
        let waited = observed.world.now - begun;
        assert!(waited >= REFRESH && waited < Duration::from_secs(24 * 3600), "day {day}: {waited:?}");
        begun = observed.world.now;
        let sent = observed.sent();
        let (observe, kind, id, _) = sent[0];
        assert_eq!((sent.len(), kind), (1, Type::Confirmable));
        assert!(observe > last, "{observe} after {last}");
        last = observe;
        assert!(observed.world.mailbox.relations_due(observed.world.now).is_empty(), "one is on its way");
        observed.say(Type::Acknowledgement, id);
        assert_eq!(observed.outcome(request), Outcome::Acknowledged);
        assert_eq!(observed.world.mailbox.relation_count(), 1);
    }
}

#[test]
fn the_daily_notification_ends_the_relation_of_an_observer_that_resets_it_or_is_gone() {
    for resets in [true, false] {
        let mut observed = Observed::new();
        observed.pass(REFRESH);
        let request = observed.round().expect("it is due");
        let sent = observed.sent();
        if resets {
            observed.say(Type::Reset, sent[0].2);
            assert_eq!(observed.outcome(request), Outcome::Reset);
        } else {
            // Five transmissions, each the same, in 93 s (RFC 7252 §4.2).
            observed.pass(Duration::from_secs(94));
            let again = observed.sent();
            assert_eq!(again, vec![sent[0].clone(); 4]);
            assert_eq!(observed.outcome(request), Outcome::Unanswered);
        }
        assert_eq!(observed.world.mailbox.relation_count(), 0, "resets: {resets}");
        observed.pass(REFRESH);
        assert!(observed.round().is_none() && observed.sent().is_empty());
    }
}
