//! Mbed TLS 3.6, the only client of others with connection ids (RFC 9146). It has no raw public
//! keys.

use super::*;

const PSK: [&str; 3] = ["--psk", "dev-1", KEY];

#[test]
fn mbed_tls_is_echoed_with_every_psk_suite_it_has_with_and_without_ems_and_connection_ids() {
    for (name, suite) in [
        ("TLS-PSK-WITH-AES-128-CCM-8", "TLS_PSK_WITH_AES_128_CCM_8"),
        ("TLS-PSK-WITH-AES-128-CCM", "TLS_PSK_WITH_AES_128_CCM"),
        ("TLS-PSK-WITH-AES-128-GCM-SHA256", "TLS_PSK_WITH_AES_128_GCM_SHA256"),
        ("TLS-PSK-WITH-CHACHA20-POLY1305-SHA256", "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256"),
        ("TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256", "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"),
    ] {
        for extended_master_secret in [true, false] {
            // None; none towards the client; one byte; as many as Mbed TLS takes.
            for cid in [None, Some(0), Some(1), Some(32)] {
                let server = Server::start();
                let wanted = "c1".repeat(cid.unwrap_or(0));
                let port = server.port.to_string();
                let mut arguments = [&PSK[..], &["--suite", name, &port]].concat();
                arguments.extend((!extended_master_secret).then_some("--no-ems"));
                arguments.extend(cid.iter().flat_map(|_| ["--cid", &wanted]));
                let Some(talk) = Talk::begin(&server, "mbedtls-client", &arguments) else { return };
                let said = talk.echo(&server, "one").echo(&server, "two").end();
                let ids = format!("ids of {} and {}\n", cid.unwrap_or(0), if cid.is_some() { 8 } else { 0 });
                assert!(said.ends_with(&ids), "{said}");
                let connection_id = cid.is_some();
                let expected = Shown { suite, extended_master_secret, connection_id };
                assert_eq!(server.seen().sessions[0], expected);
            }
        }
    }
}

#[test]
fn mbed_tls_is_echoed_from_one_port_after_the_other() {
    for (name, wanted) in [
        ("TLS-PSK-WITH-AES-128-CCM-8", ""),
        ("TLS-PSK-WITH-AES-128-CCM-8", "0102030405"),
        ("TLS-PSK-WITH-CHACHA20-POLY1305-SHA256", "ff"),
    ] {
        let server = Server::start();
        let port = server.port.to_string();
        let arguments = [&PSK[..], &["--suite", name, "--cid", wanted, "--move", &port]].concat();
        let Some(talk) = Talk::begin(&server, "mbedtls-client", &arguments) else { return };
        let talk = ["one", "two", "three", "four"].iter().fold(talk, |talk, line| talk.echo(&server, line));
        talk.end();
        assert!(server.wait(|seen| seen.closed == [CloseCause::Peer]));
        let seen = server.seen();
        assert_eq!((seen.moves, seen.identities.len(), &seen.failed[..]), (4, 1, &[][..]));
    }
}

#[test]
fn mbed_tls_is_echoed_with_a_chain_of_four_certificates_in_every_suite_and_size() {
    let suites = [
        ("TLS-ECDHE-ECDSA-WITH-AES-128-CCM-8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
        ("TLS-ECDHE-ECDSA-WITH-AES-128-CCM", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
        ("TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        ("TLS-ECDHE-ECDSA-WITH-CHACHA20-POLY1305-SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ];
    for p384 in [false, true] {
        let files = Files::new(p384);
        let (chain, key, root) = (files.path("chain.pem"), files.path("device.key"), files.path("root.pem"));
        for (name, suite) in suites {
            for (mtu, more) in [
                (1_200, &[][..]),
                (1_200, &["--no-ems", "--cid", "07", "--move"]),
                (300, &["--mtu", "300"]),
                (300, &["--mtu", "300", "--max-fragment", "512", "--cid", ""]),
            ] {
                let settings = Settings { mtu, ..Settings::default() };
                let server = Server::with(settings, files.certificates.clone());
                let port = server.port.to_string();
                let mine = ["--certificate", &chain, &key, &root, "--suite", name, &port];
                if !echo(&server, "mbedtls-client", &[&mine[..], more].concat()) {
                    return;
                }
                let seen = server.seen();
                assert_eq!(seen.sessions[0].suite, suite);
                assert_eq!(seen.sessions[0].extended_master_secret, !more.contains(&"--no-ems"));
                assert_eq!(seen.sessions[0].connection_id, more.contains(&"--cid"));
                let PeerIdentity::Certificate(facts) = &seen.identities[0] else { panic!() };
                assert_eq!(facts.uris().collect::<Vec<_>>(), ["urn:dev:door-7"]);
            }
        }
    }
}

#[test]
fn mbed_tls_with_a_wrong_key_and_with_a_certificate_of_others_is_told_why() {
    let server = Server::start();
    let port = server.port.to_string();
    let Some(client) = start("mbedtls-client", &["--psk", "dev-1", "00", &port]) else { return };
    let said = String::from_utf8(client.wait_with_output().unwrap().stderr).unwrap();
    assert!(said.contains("fatal alert"), "{said}");
    assert!(server.wait(|seen| seen.failed == [HandshakeFailure::WrongKey(b"dev-1"[..].into())]));

    let (files, others) = (Files::new(false), Files::new(false));
    let server = Server::with(Settings::default(), files.certificates.clone());
    let port = server.port.to_string();
    let (chain, key, root) = (others.path("chain.pem"), others.path("device.key"), files.path("root.pem"));
    let client = start("mbedtls-client", &["--certificate", &chain, &key, &root, &port]).unwrap();
    let said = String::from_utf8(client.wait_with_output().unwrap().stderr).unwrap();
    assert!(said.contains("fatal alert"), "{said}");
    assert!(server.wait(|seen| matches!(seen.failed[..], [HandshakeFailure::Certificate(_)])));
}
