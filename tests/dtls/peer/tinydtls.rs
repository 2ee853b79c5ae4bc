//! tinydtls with the client of its own tests: the library of many a constrained device. Pre-shared
//! keys and raw public keys with CCM; extended master secret.

use super::*;

/// The SubjectPublicKeyInfo of the key pair in its client.
fn public_key() -> Vec<u8> {
    let hex = "3059301306072a8648ce3d020106082a8648ce3d03010703420004\
        36dfe2c6f9f2ed29da0a9a8f62684e916375ba10300c28c5e47cfbf25fa58f52\
        71a0d4fcde1ab8785a3c786935a7cfabe93f987209daed0b4fabc36fc772f829";
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// One line there and back, a second handshake on the live address, and another line.
fn echo_twice(server: &Server, arguments: &[&str]) -> bool {
    let Some(talk) = Talk::begin(server, "tinydtls-client", arguments) else { return false };
    let mut talk = talk.echo(server, "one");
    talk.client.stdin.as_mut().unwrap().write_all(b"client:rehandshake\n").unwrap();
    if !server.wait(|seen| seen.identities.len() == 2) {
        talk.give_up("no second handshake");
    }
    // It does not mind the end of its input.
    talk.echo(server, "two").kill();
    assert_eq!(server.seen().closed, [CloseCause::Replaced]);
    true
}

#[test]
fn tinydtls_is_echoed_with_a_pre_shared_key_and_again_after_a_second_handshake() {
    let folder = std::env::temp_dir().join(format!("tombolo-tinydtls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, content: &str| {
        std::fs::write(folder.join(name), content).unwrap();
        folder.join(name).to_str().unwrap().to_owned()
    };
    let (identity, key) = (file("identity", "dev-1"), file("key", "0123456789abcdef"));
    for suite in ["TLS_PSK_WITH_AES_128_CCM_8", "TLS_PSK_WITH_AES_128_CCM"] {
        let server = Server::start();
        let port = server.port.to_string();
        let arguments = ["-e", "-r", "-c", suite, "-i", &identity, "-k", &key, "127.0.0.1", &port];
        if echo_twice(&server, &arguments) {
            assert_eq!(server.seen().sessions, [shown(suite, true)]);
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The DTLS library of many a constrained device takes no key of 22 bytes.
#[test]
fn tinydtls_gives_up_at_a_key_that_is_longer_than_it_takes_and_the_failure_says_so() {
    let folder = std::env::temp_dir().join(format!("tombolo-tinydtls-long-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, content: &str| {
        std::fs::write(folder.join(name), content).unwrap();
        folder.join(name).to_str().unwrap().to_owned()
    };
    let (identity, key) = (file("identity", "dev-1"), file("key", "0123456789abcdefghijkl"));
    let server = Server::start();
    let port = server.port.to_string();
    let arguments = ["-i", &identity, "-k", &key, "127.0.0.1", &port];
    if let Some(mut client) = start("tinydtls-client", &arguments) {
        let has_failed = server.wait(|seen| !seen.failed.is_empty());
        let _ = client.kill();
        let _ = client.wait();
        assert!(has_failed, "no failure: {:?}", server.seen().identities);
        let text = server.seen().failed[0].to_string();
        assert!(text.contains("internal_error (80)") && text.contains("dev-1"), "{text}");
        assert!(text.contains("no key of more than 16 bytes, as --psk hex makes"), "{text}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn tinydtls_is_echoed_with_raw_public_keys_and_again_after_a_second_handshake() {
    let files = Files::new(false);
    let key = hash(&public_key());
    let trust = Trust::new(Vec::new(), Vec::new(), &[], [key]).unwrap();
    let certificates = Certificates { trust: Arc::new(trust), ..files.certificates.clone() };
    for suite in ["TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"] {
        let server = Server::with(Settings::default(), certificates.clone());
        let port = server.port.to_string();
        if echo_twice(&server, &["-e", "-r", "-c", suite, "127.0.0.1", &port]) {
            let seen = server.seen();
            assert_eq!(seen.sessions, [shown(suite, true)]);
            assert_eq!(seen.identities[0], PeerIdentity::RawPublicKey(key.into()));
        }
    }
}
