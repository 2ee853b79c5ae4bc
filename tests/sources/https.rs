//! The client against a server that does everything a server should not do.

use std::sync::Arc;
use std::time::Duration;

use tombolo::https::io::{Client, Trust};
use tombolo::https::message::{Basic, Failure, Limits, Request, Response};
use tombolo::https::url::HttpsUrl;
use tombolo::https::wording::Keys;
use zeroize::Zeroizing;

use crate::server::{Booted1970, Trusted, folder, run, server};

const KEYS: Keys = Keys { url: "est-url", ca_file: "est-ca-file", certificate: "a certificate" };
const LIMITS: Limits =
    Limits { total: Duration::from_secs(30), idle: Duration::from_secs(20), head: 16 * 1024, body: 100_000 };

fn page(name: &str) -> HttpsUrl {
    HttpsUrl::parse(&format!("https://127.0.0.1:{}/pages/{name}", server().port)).unwrap()
}

fn client(trust: Trust, limits: Limits) -> Client {
    match Client::new(&trust, None, Arc::new(Trusted), limits, KEYS) {
        Ok(client) => client,
        Err(failure) => panic!("{failure}"),
    }
}

fn get_with(name: &str, limits: Limits, redirects: u8) -> Result<Response, Failure> {
    let request = Request { redirects, ..Request::get(page(name), "*/*") };
    let client = client(Trust::File(server().file("root.pem")), limits);
    run(client.send(&request))
}

fn get(name: &str) -> Result<Response, Failure> {
    get_with(name, LIMITS, 0)
}

#[test]
fn a_page_comes_with_its_status_type_and_wait() {
    let response = get("plain").unwrap();
    assert_eq!((response.status, response.content_type.as_str()), (200, "text/plain"));
    assert_eq!(response.body, b"a plain page");
    assert_eq!(response.retry_after, Some(Duration::from_secs(7)));
}

#[test]
fn a_server_that_says_nothing_is_given_up_after_the_idle_limit() {
    let limits = Limits { idle: Duration::from_millis(300), ..LIMITS };
    assert_eq!(get_with("hang", limits, 0), Err(Failure::Silent(limits.idle)));
}

#[test]
fn a_server_that_drips_is_given_up_after_the_total_limit() {
    let limits = Limits { total: Duration::from_millis(700), ..LIMITS };
    assert_eq!(get_with("drip", limits, 0), Err(Failure::Slow(limits.total)));
}

#[test]
fn an_answer_without_end_is_left_at_the_bound() {
    assert_eq!(get("ten-megabytes"), Err(Failure::BodyTooLong(LIMITS.body)), "by its Content-Length");
    assert_eq!(get("endless"), Err(Failure::BodyTooLong(LIMITS.body)), "by what comes");
    assert_eq!(get("long-header"), Err(Failure::HeadTooLong(LIMITS.head)));
}

#[test]
fn an_answer_that_is_cut_is_no_answer() {
    assert_eq!(get("truncated"), Err(Failure::Truncated));
    assert_eq!(get("no-http"), Err(Failure::NotHttp));
    assert_eq!(get("compressed"), Err(Failure::Encoded("gzip".to_owned())));
}

#[test]
fn a_redirect_is_followed_only_if_allowed_and_only_to_the_same_server() {
    let refused = |name, redirects| match get_with(name, LIMITS, redirects) {
        Err(Failure::Redirect { status: 302, .. }) => {}
        other => panic!("{name}: {other:?}"),
    };
    refused("moved", 0);
    assert_eq!(get_with("moved", LIMITS, 1).unwrap().body, b"a plain page");
    refused("moved-away", 3);
    refused("moved-to-itself", 3);
}

#[test]
fn a_server_of_another_ca_is_refused_by_name() {
    let client = client(Trust::File(server().file("other.pem")), LIMITS);
    let failure = run(client.send(&Request::get(page("plain"), "*/*"))).unwrap_err();
    let Failure::Tls { text, unwelcome: false } = &failure else { panic!("{failure:?}") };
    assert!(text.contains("EST Root") && text.contains("est-ca-file") && !text.contains("broker"), "{text}");
}

#[test]
fn a_server_is_known_by_its_key_alone() {
    let pin = |name| {
        let certificate = server().certificate(name);
        tombolo::northbound::chain_fault::pin(&certificate).unwrap()
    };
    let asked = |pin| run(client(Trust::Pins(vec![pin]), LIMITS).send(&Request::get(page("plain"), "*/*")));
    assert_eq!(asked(pin("server")).unwrap().status, 200);
    assert!(matches!(asked(pin("other")), Err(Failure::Tls { .. })));
}

#[test]
fn a_board_that_booted_in_1970_asks_all_the_same() {
    let trust = Trust::File(server().file("root.pem"));
    let client = Client::new(&trust, None, Arc::new(Booted1970), LIMITS, KEYS).ok().unwrap();
    assert_eq!(run(client.send(&Request::get(page("plain"), "*/*"))).unwrap().status, 200);
}

#[test]
fn a_password_never_goes_to_a_server_that_is_not_verified() {
    let basic = Basic { username: "gateway".to_owned(), password: Zeroizing::new(b"x".to_vec()) };
    let mut url = page("plain");
    url.path = "/unverified/plain".to_owned();
    let request = Request { basic: Some(&basic), ..Request::get(url, "*/*") };
    let failure = run(client(Trust::Unverified, LIMITS).send(&request)).unwrap_err();
    assert!(matches!(&failure, Failure::Local(text) if text.contains("not verified")), "{failure:?}");
    let failure = run(client(Trust::File(server().file("other.pem")), LIMITS).send(&request)).unwrap_err();
    assert!(matches!(failure, Failure::Tls { .. }));
    assert!(server().requests("unverified").is_empty());
}

#[test]
fn a_port_without_tls_and_one_without_anybody_are_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut url = page("plain");
    url.port = listener.local_addr().unwrap().port();
    let speaker = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let trust = || Trust::File(server().file("root.pem"));
    let failure = run(client(trust(), LIMITS).send(&Request::get(url.clone(), "*/*"))).unwrap_err();
    speaker.join().unwrap();
    assert!(failure.to_string().contains("does not speak TLS on this port"), "{failure}");
    // The port is free again, and nobody listens.
    let failure = run(client(trust(), LIMITS).send(&Request::get(url, "*/*"))).unwrap_err();
    assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
}

#[test]
fn a_missing_ca_file_is_named() {
    let missing = folder("https").join("none.pem");
    let made = Client::new(&Trust::File(missing.clone()), None, Arc::new(Trusted), LIMITS, KEYS);
    let Some(Failure::Local(text)) = made.err() else { panic!() };
    assert!(text.contains(&missing.display().to_string()), "{text}");
}
