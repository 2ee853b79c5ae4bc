//! wolfSSL 5.5.4 as Debian 12 builds it: DTLS 1.2 with every suite of ours except those of
//! pre-shared keys with AES and without ECDHE, which Debian's build lacks; no connection ids and no
//! raw public keys.

use super::*;

#[test]
fn wolfssl_is_echoed_with_every_psk_suite_it_has_with_and_without_ems() {
    for (name, suite) in [
        ("PSK-CHACHA20-POLY1305", "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-PSK-CHACHA20-POLY1305", "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-PSK-AES128-GCM-SHA256", "TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256"),
    ] {
        for extended_master_secret in [true, false] {
            let server = Server::start();
            let port = server.port.to_string();
            let mut arguments = vec!["--psk", "dev-1", KEY, "--suite", name, &port];
            arguments.extend((!extended_master_secret).then_some("--no-ems"));
            if !echo(&server, "wolfssl-client", &arguments) {
                return;
            }
            assert_eq!(server.seen().sessions[0], shown(suite, extended_master_secret));
        }
    }
}

#[test]
fn wolfssl_is_echoed_with_a_chain_of_four_certificates_in_every_suite_and_size() {
    for p384 in [false, true] {
        let files = Files::new(p384);
        let (chain, key, root) = (files.path("chain.pem"), files.path("device.key"), files.path("root.pem"));
        for (name, suite) in [
            ("ECDHE-ECDSA-AES128-CCM-8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
            ("ECDHE-ECDSA-AES128-CCM", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
            ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ] {
            for (mtu, more) in [(1_200, &[][..]), (300, &["--no-ems"]), (300, &["--max-fragment", "512"])] {
                let settings = Settings { mtu, ..Settings::default() };
                let server = Server::with(settings, files.certificates.clone());
                let port = server.port.to_string();
                let mine = ["--certificate", &chain, &key, &root, "--suite", name, &port];
                if !echo(&server, "wolfssl-client", &[&mine[..], more].concat()) {
                    return;
                }
                assert_eq!(server.seen().sessions[0], shown(suite, !more.contains(&"--no-ems")));
                assert!(matches!(server.seen().identities[..], [PeerIdentity::Certificate(_)]));
            }
        }
    }
}
