//! `openssl s_client`.

use super::*;

#[test]
fn openssl_is_echoed_with_every_psk_suite_it_has() {
    let suites = [
        ("PSK-AES128-CCM8", "TLS_PSK_WITH_AES_128_CCM_8"),
        ("PSK-AES128-CCM", "TLS_PSK_WITH_AES_128_CCM"),
        ("PSK-AES128-GCM-SHA256", "TLS_PSK_WITH_AES_128_GCM_SHA256"),
        ("PSK-CHACHA20-POLY1305", "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-PSK-CHACHA20-POLY1305", "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"),
    ];
    at_once(suites, |(cipher, suite)| {
        let server = Server::start();
        let connect = format!("127.0.0.1:{}", server.port);
        let cipher = format!("{cipher}:@SECLEVEL=0");
        let arguments =
            ["s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-psk_identity", "dev-1", "-psk", KEY];
        let arguments = [&arguments[..], &["-cipher", &cipher, "-connect", &connect]].concat();
        if echo(&server, "openssl", &arguments) {
            assert_eq!(server.seen().sessions[0], shown(suite, true));
        }
    });
}

#[test]
fn openssl_is_echoed_with_a_chain_of_four_certificates_in_every_suite_and_size() {
    let ways = [
        ("ECDHE-ECDSA-AES128-CCM8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", false, &[][..]),
        ("ECDHE-ECDSA-AES128-CCM", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM", false, &["-mtu", "300"]),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", true, &[]),
        (
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            false,
            &["-maxfraglen", "512"],
        ),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", false, &[]),
    ];
    at_once(ways, |(cipher, suite, p384, more)| {
        let files = Files::new(p384);
        let server = Server::with(Settings { mtu: 300, ..Settings::default() }, files.certificates.clone());
        let connect = format!("127.0.0.1:{}", server.port);
        let cipher = format!("{cipher}:@SECLEVEL=0");
        let (chain, key, root) = (files.path("chain.pem"), files.path("device.key"), files.path("root.pem"));
        let above = files.path("above.pem");
        let arguments =
            ["s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-cipher", &cipher, "-connect", &connect];
        let mine =
            ["-cert", &chain, "-cert_chain", &above, "-key", &key, "-CAfile", &root, "-verify_return_error"];
        if echo(&server, "openssl", &[&arguments[..], &mine, more].concat()) {
            assert_eq!(server.seen().sessions[0], shown(suite, true));
            let PeerIdentity::Certificate(facts) = server.seen().identities[0].clone() else { panic!() };
            assert_eq!(facts.uris().collect::<Vec<_>>(), ["urn:dev:door-7"]);
        }
    });
}

#[test]
fn openssl_without_a_certificate_is_named() {
    let files = Files::new(false);
    let server = Server::with(Settings::default(), files.certificates.clone());
    let connect = format!("127.0.0.1:{}", server.port);
    let arguments =
        ["s_client", "-dtls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-connect", &connect];
    let Some(client) = start("openssl", &arguments) else { return };
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("handshake failure"), "the client is told: {text}");
    assert!(server.wait(|seen| !seen.failed.is_empty()));
    let failed = server.seen().failed[0].to_string();
    assert_eq!(failed, "client's certificate refused: the client has none");
}

#[test]
fn openssl_without_our_suite_is_named_with_what_it_offered() {
    let server = Server::start();
    let connect = format!("127.0.0.1:{}", server.port);
    let arguments = ["s_client", "-dtls1_2", "-psk_identity", "dev-1", "-psk", "30", "-cipher"];
    let arguments = [&arguments[..], &["PSK-AES256-GCM-SHA384", "-connect", &connect]].concat();
    let Some(client) = start("openssl", &arguments) else { return };
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("handshake failure"), "the client is told: {text}");
    let failed = server.seen().failed.clone();
    assert_eq!(failed[0].to_string(), "no shared cipher suite; offered TLS_PSK_WITH_AES_256_GCM_SHA384");
}
