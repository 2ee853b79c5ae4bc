//! What real clients make of a power cut at the gateway: with ChaCha20-Poly1305, where OpenSSL and
//! GnuTLS end up with pre-shared keys, their session cannot go on, and they are told so when they
//! speak next.

use super::*;

/// Every suite here is one of these.
fn has_chacha(server: &Server) -> bool {
    server.seen().sessions.iter().all(|session| session.suite.contains("CHACHA20"))
}

/// A client of a library, which has no more to it than one session: it notices at once that this is
/// over.
fn ends_at_once(program: &str, arguments: &[&str], server: &Server, says: &str) {
    let Some(talk) = Talk::begin(server, program, arguments) else { return };
    let mut talk = talk.echo(server, "before");
    assert!(has_chacha(server));
    server.restart();
    talk.client.stdin.as_mut().unwrap().write_all(b"after\n").unwrap();
    assert!(server.wait(|seen| seen.closed == [CloseCause::Farewell]), "{program}: it was not told");
    // It does not wait for an answer that will not come.
    let until = Instant::now() + PATIENCE;
    while talk.client.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            talk.give_up("it does not notice");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = talk.end();
    assert!(said.to_lowercase().contains(says), "{program}: {said}");
    let seen = server.seen();
    assert_eq!(seen.data.len(), 1, "what was said then was not taken");
}

#[test]
fn openssl_is_told_that_its_session_is_over() {
    let server = Server::start();
    let connect = format!("127.0.0.1:{}", server.port);
    let arguments = ["s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-psk_identity", "dev-1", "-psk", KEY];
    ends_at_once(
        "openssl",
        &[&arguments[..], &["-connect", &connect]].concat(),
        &server,
        "alert internal error",
    );
}

#[test]
fn gnutls_is_told_that_its_session_is_over() {
    let server = Server::start();
    let port = server.port.to_string();
    let priority = "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK:-CIPHER-ALL:+CHACHA20-POLY1305";
    let arguments = ["--udp", "--priority", priority, "--pskusername", "dev-1", "--pskkey", KEY];
    ends_at_once("gnutls-cli", &[&arguments[..], &["--port", &port, "127.0.0.1"]].concat(), &server, "");
}

#[test]
fn mbed_tls_is_told_that_its_session_is_over() {
    let server = Server::start();
    let port = server.port.to_string();
    let suite = "TLS-PSK-WITH-CHACHA20-POLY1305-SHA256";
    let arguments = ["--psk", "dev-1", KEY, "--suite", suite, "--cid", "0102", &port];
    ends_at_once("mbedtls-client", &arguments, &server, "fatal alert");
}

#[test]
fn wolfssl_is_told_that_its_session_is_over() {
    let server = Server::start();
    let port = server.port.to_string();
    let arguments = ["--psk", "dev-1", KEY, "--suite", "ECDHE-PSK-CHACHA20-POLY1305", &port];
    ends_at_once("wolfssl-client", &arguments, &server, "receiving");
}

/// An application on libcoap that sends readings in one session and does nothing about errors: four
/// power cuts cost it a reading each.
fn begins_anew(library: &str) {
    let server = Server::start();
    let port = server.port.to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dtls/peer/libcoap_device.py");
    let arguments = [script, library, &port, "dev-1", "0123456789abcdef"];
    let Some(mut client) = start("python3", &arguments) else { return };
    let (mut input, output) = (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()));
    let mut lines = output.lines().map_while(Result::ok);
    let mut number = 0;
    // Sends a reading; whether it was answered, and what was said else.
    let mut reading = || {
        number += 1;
        writeln!(input, "reading-{number}").unwrap();
        let answer =
            lines.find(|line| line == "none" || line.starts_with(|first: char| first.is_ascii_digit()));
        answer.unwrap_or_else(|| "it has ended".to_owned())
    };
    for round in 0..4 {
        for _ in 0..3 {
            assert_eq!(reading(), "2.05", "{library}, round {round}");
        }
        assert!(has_chacha(&server));
        server.restart();
        // The one that tells it may be lost; the next begins a handshake by itself.
        let first = reading();
        assert!(["2.05", "none"].contains(&&first[..]), "{library}, round {round}: {first}");
        assert_eq!(reading(), "2.05", "{library}, round {round}");
        assert_eq!(server.seen().identities.len(), round + 2);
    }
    drop(input);
    let _ = client.kill();
    let _ = client.wait();
}

#[test]
fn an_application_on_libcoap_with_openssl_begins_anew_by_itself() {
    begins_anew("libcoap-3-openssl.so.3");
}

#[test]
fn an_application_on_libcoap_with_gnutls_begins_anew_by_itself() {
    begins_anew("libcoap-3-gnutls.so.3");
}
