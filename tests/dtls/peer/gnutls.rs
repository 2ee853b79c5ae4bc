//! `gnutls-cli`.

use super::*;

#[test]
fn gnutls_is_echoed_with_every_psk_suite_it_has_with_and_without_ems() {
    for (exchange, cipher, suite) in [
        ("PSK", "AES-128-CCM-8", "TLS_PSK_WITH_AES_128_CCM_8"),
        ("PSK", "AES-128-CCM", "TLS_PSK_WITH_AES_128_CCM"),
        ("PSK", "AES-128-GCM", "TLS_PSK_WITH_AES_128_GCM_SHA256"),
        ("PSK", "CHACHA20-POLY1305", "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-PSK", "CHACHA20-POLY1305", "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"),
    ] {
        for ems in [true, false] {
            let server = Server::start();
            let hash = if ems { "" } else { ":%NO_SESSION_HASH" };
            let priority =
                format!("NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+{exchange}:-CIPHER-ALL:+{cipher}{hash}");
            let port = server.port.to_string();
            let arguments = ["--udp", "--pskusername", "dev-1", "--pskkey", KEY, "--priority", &priority];
            let arguments = [&arguments[..], &["--port", &port, "127.0.0.1"]].concat();
            if exchange == "ECDHE-PSK" {
                // gnutls-cli 3.7 crashes when it shows such a session, with any server.
                let Some(mut client) = start("gnutls-cli", &arguments) else { continue };
                assert!(
                    server.wait(|seen| seen.sessions == [shown(suite, ems)]),
                    "{:?}",
                    server.seen().failed
                );
                let _ = client.kill();
                let _ = client.wait();
            } else if echo(&server, "gnutls-cli", &arguments) {
                assert_eq!(server.seen().sessions[0], shown(suite, ems));
            }
        }
    }
}

#[test]
fn gnutls_is_echoed_with_certificates_and_with_raw_public_keys_in_every_suite_and_size() {
    for p384 in [false, true] {
        let files = Files::new(p384);
        let suites = [
            ("AES-128-CCM-8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
            ("AES-128-CCM", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
            ("AES-128-GCM", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            ("CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ];
        let ways = [(false, true, 1_200), (false, false, 300), (true, true, 300), (true, false, 1_200)];
        // The client sleeps for 50 ms after each datagram.
        at_once(suites.iter().flat_map(|suite| ways.map(|way| (*suite, way))), |(suite, way)| {
            certified_is_echoed(&files, suite, way);
        });
    }
}

/// One cipher and its suite, with a raw public key or a chain, with the extended master secret or
/// not, and the MTU.
fn certified_is_echoed(
    files: &Files,
    (cipher, suite): (&str, &'static str),
    (raw, ems, mtu): (bool, bool, usize),
) {
    let (chain, key, root) = (files.path("chain.pem"), files.path("device.key"), files.path("root.pem"));
    let public = files.path("public.pem");
    let settings = Settings { mtu, ..Settings::default() };
    let server = Server::with(settings, files.certificates.clone());
    let types = if raw { ":-CTYPE-ALL:+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK" } else { "" };
    let hash = if ems { "" } else { ":%NO_SESSION_HASH" };
    let priority =
        format!("NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+ECDHE-ECDSA:-CIPHER-ALL:+{cipher}{types}{hash}");
    let (port, mtu) = (server.port.to_string(), mtu.to_string());
    let credentials: &[&str] = match raw {
        true => &["--rawpkfile", &public, "--rawpkkeyfile", &key, "--no-ca-verification"],
        false => &["--x509certfile", &chain, "--x509keyfile", &key, "--x509cafile", &root],
    };
    let arguments = ["--udp", "--mtu", &mtu, "--priority", &priority, "--port", &port];
    if echo(&server, "gnutls-cli", &[&arguments[..], credentials, &["localhost"]].concat()) {
        assert_eq!(server.seen().sessions[0], shown(suite, ems));
        let identity = server.seen().identities[0].clone();
        assert_eq!(matches!(identity, PeerIdentity::RawPublicKey(_)), raw);
    }
}
