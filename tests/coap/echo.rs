//! A plain peer proves its address by the Echo option (RFC 9175 §2).

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tombolo::message::ContentFormat;
use tombolo::proto::coap::{Code, Endpoint, Method, PeerId, Response, Settings, Type};

use super::support::*;

const ECHO: u16 = 252;
const BLOCK2: u16 = 23;
const BODY: [u8; 600] = [b'x'; 600];

fn get(id: u16, path: &[u8], options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut all: Vec<(u16, &[u8])> = vec![(11, path)];
    all.extend_from_slice(options);
    message(Type::Confirmable, GET, id, b"tk", &all, b"")
}

/// What a GET of the body is answered with.
fn fetch(bench: &mut Bench, peer: PeerId, datagram: &[u8]) -> Vec<u8> {
    let exchange = bench.request(peer, datagram);
    bench.respond(exchange, &Response::content(ContentFormat::TEXT, &BODY));
    bench.sent_one()
}

fn echo(datagram: &[u8]) -> Option<Vec<u8>> {
    parse(datagram).options.values(ECHO).next().map(<[u8]>::to_vec)
}

/// The value of a 4.01 to a request too short for any part of the body.
#[track_caller]
fn asked(bench: &mut Bench, peer: PeerId, datagram: &[u8]) -> Vec<u8> {
    let answer = fetch(bench, peer, datagram);
    let read = parse(&answer);
    assert_eq!((read.code, read.message_type), (Code::UNAUTHORIZED, Type::Acknowledgement));
    assert!(read.payload.is_empty());
    echo(&answer).expect("an Echo option")
}

#[test]
fn a_plain_peer_that_returns_its_echo_gets_the_whole_body_for_247_seconds() {
    let mut bench = Bench::default();
    let value = asked(&mut bench, STRANGER, &get(1, b"", &[]));
    assert!((1..=40).contains(&value.len()));
    let answer = fetch(&mut bench, STRANGER, &get(2, b"", &[(ECHO, &value)]));
    assert_eq!((parse(&answer).code, parse(&answer).payload), (Code::CONTENT, &BODY[..]));
    assert_eq!(echo(&answer), None, "nothing more is asked");
    for id in 3..50 {
        bench.pass(seconds(5.0));
        let answer = fetch(&mut bench, STRANGER, &get(id, b"", &[]));
        assert_eq!(parse(&answer).payload, BODY, "also without it, the {id}th time");
    }
    bench.pass(seconds(12.0));
    assert_eq!(parse(&fetch(&mut bench, STRANGER, &get(60, b"", &[]))).payload, BODY, "after 247 s");
    bench.pass(seconds(1.0));
    let new = asked(&mut bench, STRANGER, &get(61, b"", &[]));
    assert_ne!(new, value);
    assert_eq!(parse(&fetch(&mut bench, STRANGER, &get(62, b"", &[(ECHO, &new)]))).payload, BODY);
    let counters = bench.endpoint.counters();
    assert_eq!((counters.echo_sent, counters.echoed), (2, 2));
}

#[test]
fn an_echo_that_is_invalid_old_or_of_another_address_is_answered_with_a_new_one() {
    let mut bench = Bench::default();
    let foreign = asked(&mut bench, unproven(2), &get(1, b"", &[]));
    let old = asked(&mut bench, STRANGER, &get(1, b"", &[]));
    let mut flipped = old.clone();
    flipped[0] ^= 1;
    let of_another_process = {
        let endpoint = Endpoint::new(Settings::default(), 1).with_echo(&[8; 32]);
        let mut other = Bench { endpoint, ..Bench::default() };
        asked(&mut other, STRANGER, &get(1, b"", &[]))
    };
    let mut id = 2;
    // These requests have credit for a block with Echo.
    let mut refused = |bench: &mut Bench, value: &[u8]| {
        id += 1;
        let answer = fetch(bench, STRANGER, &get(id, b"", &[(ECHO, value)]));
        assert_ne!(parse(&answer).payload, BODY, "{value:x?}");
        echo(&answer).unwrap_or_else(|| panic!("{value:x?} is answered with no Echo"))
    };
    for value in [&foreign[..], &flipped, &of_another_process, &old[..7], &[7; 9], &[7; 40]] {
        assert_eq!(refused(&mut bench, value), old, "one of this minute");
    }
    bench.pass(seconds(130.0));
    let new = refused(&mut bench, &old);
    assert_ne!(new, old);
    assert_eq!(bench.endpoint.counters().echoed, 0);
    assert_eq!(parse(&fetch(&mut bench, STRANGER, &get(99, b"", &[(ECHO, &new)]))).payload, BODY);
}

#[test]
fn a_body_in_small_blocks_has_an_echo_that_makes_the_next_one_whole() {
    let mut bench = Bench::default();
    let first = fetch(&mut bench, STRANGER, &get(1, b".well-known-core", &[]));
    let read = parse(&first);
    assert_eq!(read.code, Code::CONTENT);
    assert!(uint(&read, BLOCK2).is_some_and(|block| block & 8 != 0) && !read.payload.is_empty());
    let value = echo(&first).expect("an Echo option");
    let whole = fetch(&mut bench, STRANGER, &get(2, b".well-known-core", &[(ECHO, &value)]));
    assert_eq!(parse(&whole).payload, BODY);
}

#[test]
fn an_echo_over_dtls_is_ignored_and_none_is_sent_there() {
    let mut bench = Bench::default();
    let value = asked(&mut bench, STRANGER, &get(1, b"", &[]));
    for (id, value) in [(2, &value[..]), (3, b"x"), (4, &[7; 40]), (5, &[7; 41]), (6, b"")] {
        let answer = fetch(&mut bench, DEVICE, &get(id, b"", &[(ECHO, value)]));
        assert_eq!((parse(&answer).payload, echo(&answer)), (&BODY[..], None));
    }
    assert_eq!(bench.endpoint.counters().echoed, 0);
}

#[test]
fn a_reading_with_any_echo_is_a_reading() {
    let mut bench = Bench::default();
    for (id, value) in [(1, &b"x"[..]), (2, &[7; 40]), (3, &[7; 41]), (4, b"")] {
        let datagram = message(Type::Confirmable, POST, id, b"tk", &[(11, b"t"), (ECHO, value)], b"21.5");
        let request = bench.feed(STRANGER, &datagram).expect("it is handed up");
        assert_eq!((request.method, &request.payload[..]), (Method::Post, &b"21.5"[..]));
        let exchange = request.exchange;
        bench.respond(exchange, &changed());
        assert_eq!(parse(&bench.sent_one()).code, Code::CHANGED);
    }
}

#[test]
fn a_separate_response_asks_for_nothing() {
    let mut bench = Bench::default();
    let exchange = bench.request(STRANGER, &get(1, b"", &[]));
    bench.pass(seconds(1.0));
    assert_eq!(bench.sent_one().len(), 4, "the acknowledgement");
    bench.respond(exchange, &Response::content(ContentFormat::TEXT, &BODY));
    let separate = bench.sent_one();
    assert_eq!((parse(&separate).code, echo(&separate)), (Code::UNAUTHORIZED, None));
}

#[test]
fn a_block_of_a_body_that_carries_an_echo_continues_its_transfer() {
    let mut bench = Bench::default();
    let value = asked(&mut bench, STRANGER, &get(1, b"", &[]));
    let block = |id, number: u8, more: u8, options: &[(u16, &[u8])]| {
        let block1 = [number << 4 | more << 3];
        let mut all: Vec<(u16, &[u8])> = vec![(11, b"t"), (27, &block1)];
        all.extend_from_slice(options);
        message(Type::Confirmable, POST, id, b"tk", &all, &[number; 16])
    };
    assert_eq!(parse(&bench.reply(STRANGER, &block(2, 0, 1, &[]))[0]).code, Code::CONTINUE);
    let echoed = block(3, 1, 1, &[(ECHO, &value)]);
    assert_eq!(parse(&bench.reply(STRANGER, &echoed)[0]).code, Code::CONTINUE);
    let last = block(4, 2, 0, &[]);
    assert_eq!(bench.feed(STRANGER, &last).expect("the whole body").payload.len(), 48);
}

proptest! {
    /// To an address that never shows a value sent to it goes at most three times what came from
    /// it.
    #[test]
    fn guessing_earns_nothing(requests in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..42), 0..20usize, any::<bool>(), 0..90u32),
        1..40,
    )) {
        let mut bench = Bench::default();
        let (mut up, mut down) = (0, 0);
        for (id, (value, path, is_confirmable, pause)) in requests.into_iter().enumerate() {
            let path = vec![b'p'; path];
            let kind = if is_confirmable { Type::Confirmable } else { Type::NonConfirmable };
            let datagram = message(kind, GET, id as u16, b"tk", &[(11, &path), (ECHO, &value)], b"");
            up += datagram.len();
            let exchange = bench.feed(STRANGER, &datagram).map(|request| request.exchange);
            if let Some(exchange) = exchange {
                bench.respond(exchange, &Response::content(ContentFormat::TEXT, &BODY));
            }
            bench.pass(seconds(pause.into()));
            down += bench.sent().iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            prop_assert!(down <= 3 * up, "{} bytes for {}", down, up);
        }
        prop_assert_eq!(bench.endpoint.counters().echoed, 0);
    }
}

/// An endpoint behind a socket, which has a body for every GET.
fn serve(socket: &UdpSocket, is_over: &AtomicBool) -> Endpoint {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut endpoint = Endpoint::new(Settings::default(), 1).with_echo(&[7; 32]);
    let mut datagram = [0; 2_048];
    let mut buffer = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
        let now = Instant::now();
        let peer = unproven(from.port().into());
        let exchange =
            endpoint.handle_datagram(now, peer, &datagram[..length]).map(|request| request.exchange);
        if let Some(exchange) = exchange {
            // With it not even 16 bytes of the body are three times the request.
            let etag = Some(&b"12345678"[..]);
            let response = Response { etag, ..Response::content(ContentFormat::TEXT, &BODY) };
            endpoint.respond(now, exchange, &response);
        }
        while endpoint.poll_transmit(&mut buffer).is_some() {
            socket.send_to(&buffer, from).unwrap();
        }
    }
    endpoint
}

/// libcoap's client returns the value by itself. It is passed over where it is not installed,
/// unless `TOMBOLO_TEST_PEERS=all`, as `tests/run` sets it.
#[test]
fn libcoap_returns_the_value_and_gets_the_body() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("coap://127.0.0.1:{}/a", socket.local_addr().unwrap().port());
    let is_over = AtomicBool::new(false);
    let (output, endpoint) = std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&socket, &is_over));
        let output = Command::new("coap-client-openssl")
            .args(["-B", "10", "-v", "7", "-m", "get", &url])
            .stdin(Stdio::null())
            .output();
        is_over.store(true, Ordering::Relaxed);
        (output, server.join().unwrap())
    });
    let output = match output {
        Err(_) if std::env::var_os("TOMBOLO_TEST_PEERS").is_none_or(|peers| peers != "all") => return,
        output => output.expect("coap-client-openssl (libcoap3-bin)"),
    };
    let text = tombolo_test_support::printed(&output);
    assert!(text.contains("c:4.01") && text.contains("Echo:"), "{text}");
    assert!(text.contains(&"x".repeat(600)), "{text}");
    let counters = endpoint.counters();
    assert_eq!((counters.echo_sent, counters.echoed), (1, 1), "{text}");
}
