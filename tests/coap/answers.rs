//! Responses: piggybacked, separate, suppressed.

use tombolo::message::{ContentFormat, Method};
use tombolo::proto::address::Ticket;
use tombolo::proto::coap::{Code, Event, Response, Type};

use super::support::*;

#[test]
fn a_response_in_time_rides_on_the_acknowledgement() {
    let mut bench = Bench::default();
    let datagram = post(7, b"21.5");
    let request = bench.feed(DEVICE, &datagram).unwrap();
    assert_eq!(request.head().uri_path().collect::<Vec<_>>(), [&b"t"[..], b"env"]);
    assert_eq!((&*request.payload, request.confirmable, request.peer()), (&b"21.5"[..], true, DEVICE));
    let exchange = request.exchange;
    bench.pass(seconds(0.9));
    assert!(bench.sent().is_empty());
    bench.respond(exchange, &changed());
    assert_eq!(bench.sent_one(), b"\x62\x44\x00\x07tk");
    bench.pass(seconds(300.0));
    assert!(bench.sent().is_empty());
}

#[test]
fn a_response_carries_its_options_in_order() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(7, b"21.5"));
    let response = Response {
        etag: Some(b"v1"),
        location_path: &["a", "b"],
        ..Response::content(ContentFormat::JSON, b"{}").max_age(60).size1(1024)
    };
    bench.respond(exchange, &response);
    let sent = bench.sent_one();
    let options: Vec<_> = parse(&sent).options.map(|o| (o.number, o.value)).collect();
    let expected: [(u16, &[u8]); 6] =
        [(4, b"v1"), (8, b"a"), (8, b"b"), (12, b"\x32"), (14, b"\x3c"), (60, b"\x04\x00")];
    assert_eq!(options, expected);
    assert_eq!(bench.reply(DEVICE, &post(7, b"21.5")), [sent], "stored whole");
}

#[test]
fn a_slow_response_follows_the_empty_acknowledgement_as_a_message_of_its_own() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(7, b"x"));
    bench.pass(seconds(1.0));
    assert_eq!(bench.sent_one(), b"\x60\x00\x00\x07");
    assert_eq!(bench.reply(DEVICE, &post(7, b"x")), [b"\x60\x00\x00\x07"], "a duplicate meanwhile");
    bench.pass(seconds(3.0));
    bench.respond(exchange, &changed());
    let sent = bench.sent_one();
    let response = parse(&sent);
    assert_eq!((response.message_type, response.code), (Type::Confirmable, Code::CHANGED));
    assert_eq!(response.token.as_bytes(), b"tk");
    assert_eq!(bench.reply(DEVICE, &post(7, b"x")), [b"\x60\x00\x00\x07"], "a duplicate afterwards");
    assert!(bench.reply(DEVICE, &empty(Type::Acknowledgement, response.message_id.0)).is_empty());
    bench.pass(seconds(300.0));
    assert!(bench.sent().is_empty(), "acknowledged: not sent again");
    assert_eq!(bench.endpoint.poll_event(), None);
}

#[test]
fn a_separate_response_is_sent_five_times_and_then_given_up() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(7, b"x"));
    bench.pass(seconds(1.0));
    bench.sent();
    bench.respond(exchange, &changed());
    let first = bench.sent_one();
    bench.pass(seconds(93.0));
    let again = bench.sent();
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|(_, datagram)| *datagram == first), "the same Message ID each time");
    assert_eq!(bench.endpoint.poll_event(), Some(Event::Unacknowledged(DEVICE, 1)));
    bench.pass(seconds(300.0));
    assert!(bench.sent().is_empty());
    assert_eq!((bench.endpoint.peer_count(), bench.endpoint.poll_timeout()), (0, None));
}

#[test]
fn a_reset_ends_a_separate_response() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(7, b"x"));
    bench.pass(seconds(1.0));
    bench.sent();
    bench.respond(exchange, &changed());
    let id = parse(&bench.sent_one()).message_id.0;
    assert!(bench.reply(DEVICE, &empty(Type::Reset, id.wrapping_add(1))).is_empty());
    assert_eq!(bench.endpoint.poll_event(), None, "a reset of something else");
    bench.reply(DEVICE, &empty(Type::Reset, id));
    assert_eq!(bench.endpoint.poll_event(), Some(Event::Reset(DEVICE)));
    bench.pass(seconds(100.0));
    assert!(bench.sent().is_empty());
}

#[test]
fn one_separate_response_is_outstanding_at_a_time() {
    let mut bench = Bench::default();
    let exchanges: Vec<_> = (0..4).map(|id| bench.request(DEVICE, &post(id, &[id as u8]))).collect();
    bench.pass(seconds(1.0));
    assert_eq!(bench.sent().len(), 4);
    for exchange in exchanges {
        bench.respond(exchange, &changed());
    }
    let mut ids = Vec::new();
    for left in (0..4).rev() {
        let id = parse(&bench.sent_one()).message_id.0;
        ids.push(id);
        bench.reply_and_continue(id, left);
    }
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
}

impl Bench {
    /// Acknowledges, leaving what follows for the caller.
    fn reply_and_continue(&mut self, id: u16, left: usize) {
        assert!(self.feed(DEVICE, &empty(Type::Acknowledgement, id)).is_none());
        if left == 0 {
            assert!(self.sent().is_empty());
        }
    }
}

#[test]
fn a_non_confirmable_request_gets_a_non_confirmable_response_however_late() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &non_post(7, b"x"));
    bench.pass(seconds(20.0));
    assert!(bench.sent().is_empty());
    bench.respond(exchange, &changed());
    let sent = bench.sent_one();
    assert_eq!((parse(&sent).message_type, parse(&sent).code), (Type::NonConfirmable, Code::CHANGED));
    assert_eq!(parse(&sent).token.as_bytes(), b"tk");
    assert!(bench.reply(DEVICE, &non_post(7, b"x")).is_empty(), "a duplicate is silently ignored");
    assert!(bench.reply(DEVICE, &empty(Type::Reset, parse(&sent).message_id.0)).is_empty());
}

#[test]
fn a_duplicate_before_any_answer_waits_like_the_first() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(7, b"x"));
    assert!(bench.reply(DEVICE, &post(7, b"x")).is_empty());
    bench.respond(exchange, &changed());
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn an_exchange_is_answered_once_and_survives_being_a_ticket() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(7, b"x"));
    let ticket = Ticket::Coap { exchange, method: Method::Post }.pack();
    let Some(Ticket::Coap { exchange: unpacked, .. }) = Ticket::unpack(ticket) else { panic!("{ticket:x}") };
    bench.respond(unpacked, &changed());
    bench.respond(exchange, &Response::new(Code::SERVICE_UNAVAILABLE));
    assert_eq!(parse(&bench.sent_one()).code, Code::CHANGED);
    let other = bench.request(DEVICE, &post(8, b"x"));
    bench.respond(exchange, &changed());
    assert!(bench.sent().is_empty(), "a stale exchange answers nobody else");
    bench.respond(other, &Response::new(Code(1)));
    assert!(bench.sent().is_empty(), "a method is no response");
    bench.respond(other, &changed());
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn a_forgotten_peer_leaves_nothing_and_its_exchanges_are_stale() {
    let mut bench = Bench::default();
    let early = bench.request(DEVICE, &post(1, b"x"));
    bench.pass(seconds(1.0));
    let late = bench.request(DEVICE, &post(2, b"x"));
    bench.respond(early, &changed());
    bench.sent();
    bench.endpoint.forget(DEVICE);
    assert_eq!((bench.endpoint.memory(), bench.endpoint.pending_count()), (0, 0));
    bench.respond(late, &changed());
    bench.pass(seconds(500.0));
    assert!(bench.sent().is_empty());
    assert_eq!(bench.endpoint.poll_timeout(), None);
    assert!(bench.feed(DEVICE, &post(1, b"x")).is_some(), "as if never heard of");
}

#[test]
fn a_request_is_taken_whatever_host_and_port_its_url_names() {
    let mut bench = Bench::default();
    for (id, host) in (1..).zip([&b"gw.example"[..], b"192.0.2.1", b"somebody.else"]) {
        let options: [(u16, &[u8]); 3] = [(3, host), (7, b"\x16\x34"), (11, b"t")];
        let request = message(Type::Confirmable, POST, id, b"tk", &options, b"x");
        let exchange = bench.request(DEVICE, &request);
        bench.respond(exchange, &changed());
        assert_eq!(parse(&bench.sent_one()).code, Code::CHANGED);
    }
}

#[test]
fn a_message_id_used_again_for_other_bytes_is_a_new_request() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &post(1, b"before the reboot"));
    bench.respond(exchange, &changed());
    bench.sent();
    let pending = bench.request(DEVICE, &post(1, b"after the reboot"));
    let newest = bench.request(DEVICE, &post(1, b"after another"));
    bench.respond(pending, &changed());
    assert!(bench.sent().is_empty(), "whoever asked that is gone");
    bench.respond(newest, &changed());
    assert_eq!(bench.sent().len(), 1);
    assert_eq!(bench.endpoint.counters().restarted, 2);
}

#[test]
fn message_ids_are_each_peers_own() {
    let mut bench = Bench::default();
    for number in 0..100 {
        assert!(bench.feed(proven(number), &post(1, b"x")).is_some());
    }
}

fn quiet(message_type: Type, id: u16, mask: &[u8]) -> Vec<u8> {
    message(message_type, POST, id, b"tk", &[(11, b"t"), (258, mask)], b"x")
}

#[test]
fn an_unwanted_success_is_acknowledged_when_it_is_one_and_not_before() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &quiet(Type::Confirmable, 7, &[2]));
    bench.pass(seconds(2.5));
    assert!(bench.sent().is_empty(), "the peer would take an acknowledgement for success");
    assert!(bench.reply(DEVICE, &quiet(Type::Confirmable, 7, &[2])).is_empty());
    bench.respond(exchange, &changed());
    assert_eq!(bench.sent_one(), b"\x60\x00\x00\x07");
    assert_eq!(bench.reply(DEVICE, &quiet(Type::Confirmable, 7, &[2])), [b"\x60\x00\x00\x07"]);
}

#[test]
fn a_failure_is_told_to_whom_only_success_is_unwanted() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &quiet(Type::Confirmable, 7, &[2]));
    bench.pass(seconds(5.0));
    bench.respond(exchange, &Response::new(Code::SERVICE_UNAVAILABLE).max_age(30));
    let sent = bench.sent_one();
    assert_eq!(
        (parse(&sent).message_type, parse(&sent).code),
        (Type::Acknowledgement, Code::SERVICE_UNAVAILABLE)
    );
}

#[test]
fn who_wants_no_failures_told_is_not() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &quiet(Type::Confirmable, 7, &[24]));
    bench.respond(exchange, &Response::new(Code::FORBIDDEN));
    assert_eq!(bench.sent_one(), b"\x60\x00\x00\x07");
    let options: [(u16, &[u8]); 3] = [(11, b"t"), (258, &[8]), (65001, b"")];
    let strange = message(Type::Confirmable, POST, 8, b"", &options, b"x");
    assert_eq!(bench.reply(DEVICE, &strange), [b"\x60\x00\x00\x08"]);
}

#[test]
fn a_refusal_has_its_text_for_those_who_want_it_and_within_the_share_of_an_unproven_peer() {
    let no_rule = Response::new(Code::FORBIDDEN).diagnostic("no rule");
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &quiet(Type::NonConfirmable, 7, &[24]));
    bench.respond(exchange, &no_rule);
    assert!(bench.sent().is_empty(), "unwanted");
    let exchange = bench.request(DEVICE, &quiet(Type::NonConfirmable, 8, b""));
    bench.respond(exchange, &no_rule);
    assert_eq!(parse(&bench.sent_one()).payload, b"no rule");
    // An unknown method, of which the endpoint itself says so.
    let strange = message(Type::Confirmable, Code(31), 9, b"", &[], b"");
    assert_eq!(parse(&bench.reply(DEVICE, &strange)[0]).payload, b"unknown method");
    let told = bench.reply(STRANGER, &strange);
    assert_eq!((told[0].len() <= 3 * strange.len(), parse(&told[0]).payload), (true, &b""[..]));
}

#[test]
fn an_unwanted_response_to_a_non_confirmable_request_is_silence() {
    let mut bench = Bench::default();
    let exchange = bench.request(DEVICE, &quiet(Type::NonConfirmable, 7, &[26]));
    bench.respond(exchange, &changed());
    assert!(bench.sent().is_empty());
    let exchange = bench.request(DEVICE, &quiet(Type::NonConfirmable, 8, b""));
    bench.respond(exchange, &changed());
    assert_eq!(bench.sent().len(), 1, "an empty value wants everything");
}
