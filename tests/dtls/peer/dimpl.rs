//! The engine dimpl with the clients that use pre-shared keys.

use tombolo::proto::dtls::{DimplEngine, Limits};

use super::coap::{aiocoap_is_answered, coap_client_is_answered, coap_client_with_a_wrong_key_is_named};
use super::server::keys;
use super::*;

fn server() -> Server {
    Server::around(|run| {
        DimplEngine::new(Instant::now(), Limits::default(), keys(), &[3 + run as u8; 32]).unwrap()
    })
}

#[test]
fn libcoap_with_openssl_is_answered() {
    coap_client_is_answered(server(), "coap-client-openssl");
}

#[test]
fn libcoap_with_gnutls_is_answered() {
    coap_client_is_answered(server(), "coap-client-gnutls");
}

#[test]
fn libcoap_with_openssl_and_a_wrong_key_is_named() {
    coap_client_with_a_wrong_key_is_named(server(), "coap-client-openssl");
}

#[test]
fn libcoap_with_gnutls_and_a_wrong_key_is_named() {
    coap_client_with_a_wrong_key_is_named(server(), "coap-client-gnutls");
}

#[test]
fn aiocoap_with_tinydtls_is_answered() {
    aiocoap_is_answered(server());
}

#[test]
fn openssl_s_client_is_echoed() {
    let server = server();
    let connect = format!("127.0.0.1:{}", server.port);
    let arguments = ["s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-psk_identity", "dev-1", "-psk", KEY];
    let cipher = ["-cipher", "PSK-AES128-CCM8:@SECLEVEL=0", "-connect", &connect];
    echo(&server, "openssl", &[&arguments[..], &cipher].concat());
}

#[test]
fn gnutls_cli_is_echoed() {
    let server = server();
    let port = server.port.to_string();
    let priority = "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK:-CIPHER-ALL:+AES-128-CCM-8";
    let arguments = ["--udp", "--pskusername", "dev-1", "--pskkey", KEY, "--priority", priority];
    echo(&server, "gnutls-cli", &[&arguments[..], &["--port", &port, "127.0.0.1"]].concat());
}

#[test]
fn openssl_without_our_suite_is_named_with_what_it_offered() {
    let server = server();
    let connect = format!("127.0.0.1:{}", server.port);
    let arguments = ["s_client", "-dtls1_2", "-psk_identity", "dev-1", "-psk", "30", "-cipher"];
    let arguments = [&arguments[..], &["PSK-AES128-GCM-SHA256", "-connect", &connect]].concat();
    let Some(client) = start("openssl", &arguments) else { return };
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("handshake failure"), "the client is told: {text}");
    assert!(server.wait(|seen| !seen.failed.is_empty()));
    let failed = server.seen().failed.clone();
    assert_eq!(failed[0].to_string(), "no shared cipher suite; offered TLS_PSK_WITH_AES_128_GCM_SHA256");
}
