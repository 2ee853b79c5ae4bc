//! libcoap with OpenSSL and GnuTLS, aiocoap with tinydtls.

use super::*;

/// Runs libcoap's client. What it printed; `None` if it is not installed.
fn coap_client(server: &Server, program: &str, key: &str) -> Option<String> {
    let url = format!("coaps://127.0.0.1:{}/t", server.port);
    let client = start(program, &["-m", "post", "-e", "21.5", "-B", "10", "-u", "dev-1", "-k", key, &url])?;
    let output = client.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some(text)
}

pub fn coap_client_is_answered(server: Server, program: &str) {
    let Some(text) = coap_client(&server, program, "0123456789abcdef") else { return };
    assert!(text.contains("tied"), "{text}");
    assert!(server.wait(|seen| seen.closed == [CloseCause::Peer]), "it says close_notify");
    let seen = server.seen();
    assert_eq!(seen.identities, [PeerIdentity::Psk(b"dev-1"[..].into())]);
    assert!(seen.data[0].ends_with(b"\xff21.5"));
    assert_eq!(seen.failed, []);
}

pub fn coap_client_with_a_wrong_key_is_named(server: Server, program: &str) {
    let begin = Instant::now();
    let Some(text) = coap_client(&server, program, "another key") else { return };
    assert!(!text.contains("tied"), "{text}");
    let failure = HandshakeFailure::WrongKey(b"dev-1"[..].into());
    assert!(server.wait(|seen| seen.failed == [failure.clone()]));
    assert!(begin.elapsed() < Duration::from_secs(9), "the alert spares it the wait: {text}");
}

#[test]
fn libcoap_with_openssl_is_answered() {
    coap_client_is_answered(Server::start(), "coap-client-openssl");
}

#[test]
fn libcoap_with_gnutls_is_answered() {
    coap_client_is_answered(Server::start(), "coap-client-gnutls");
}

#[test]
fn libcoap_with_openssl_and_a_wrong_key_is_named() {
    coap_client_with_a_wrong_key_is_named(Server::start(), "coap-client-openssl");
}

#[test]
fn libcoap_with_gnutls_and_a_wrong_key_is_named() {
    coap_client_with_a_wrong_key_is_named(Server::start(), "coap-client-gnutls");
}

pub fn aiocoap_is_answered(server: Server) {
    let base = format!("coaps://127.0.0.1:{}", server.port);
    let credentials = std::env::temp_dir().join(format!("tombolo-dtls-{}.json", server.port));
    let content = format!(
        r#"{{"{base}/*": {{"dtls": {{"psk": {{"ascii": "0123456789abcdef"}},
            "client-identity": {{"ascii": "dev-1"}}}}}}}}"#
    );
    std::fs::write(&credentials, content).unwrap();
    let arguments = ["--credentials", credentials.to_str().unwrap(), "-m", "POST", "--payload", "21.5"];
    let client = start("aiocoap-client", &[&arguments[..], &[&format!("{base}/t")]].concat());
    let output = client.map(|client| client.wait_with_output().unwrap());
    std::fs::remove_file(&credentials).unwrap();
    let Some(output) = output else { return };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("tied"), "{text}");
    assert_eq!(server.seen().identities, [PeerIdentity::Psk(b"dev-1"[..].into())]);
}

#[test]
fn aiocoap_with_tinydtls_is_answered() {
    aiocoap_is_answered(Server::start());
}
