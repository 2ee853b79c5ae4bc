//! Revocation lists, `trust` and keys in a token, as the configuration has them.

use std::path::Path;
use std::time::Duration;

use tombolo::credential::revocation::Side;

use crate::support::{Case, main_file};

const EST: &str = "[certificate.uplink]\nest-url = \"https://ca.test/.well-known/est\"\nusername = \"gw\"\n\
                   password-file = \"est-password\"\n";

fn upstream(keys: &str) -> Case {
    main_file(&format!("[upstream]\nurl = \"mqtts://b\"\n{keys}\n"))
}

fn certificate(keys: &str) -> Case {
    upstream(&format!("certificate = \"uplink\"\n{EST}{keys}"))
}

/// One of the complaints has all these words; whether the rest is used.
fn complains(case: &Case, words: &[&str]) -> bool {
    let (loads, complaints) = case.complaints();
    let named = complaints.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(named, "{words:?}: {complaints:#?}");
    loads
}

#[test]
fn lists_are_fetched_for_both_sides_and_kept_in_the_state_directory() {
    let case = main_file(
        "[upstream]\nurl = \"mqtts://b\"\ncrl-url = \"http://ca.test/broker.crl\"\ncrl-period = \"1h\"\ncrl-expired = \"refuse\"\n\
         [coap]\nclient-ca-file = \"ca.pem\"\ncrl-url = \"https://ca.test/devices.crl\"\n",
    );
    let pki = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let case = case.file("/etc/tombolo/ca.pem", &ca.self_signed(&pki).unwrap().pem());
    let settings = case.loaded().settings;
    let [broker, devices] = &settings.revocation[..] else { panic!("{:?}", settings.revocation) };
    assert_eq!((broker.side, broker.period), (Side::Upstream, Duration::from_secs(3600)));
    assert_eq!(broker.url.to_string(), "http://ca.test/broker.crl");
    assert_eq!((devices.side, devices.period), (Side::Coap, Duration::from_secs(86_400)));
    let revocation = settings.upstream.unwrap().tls.unwrap().revocation;
    assert!(revocation.refuse_expired);
    let stored = Path::new("/var/lib/tombolo/revocation/upstream.pem");
    assert_eq!(revocation.fetched.as_deref(), Some(stored));
    assert_eq!(broker.folder.join(broker.side.file()), stored);
}

#[test]
fn what_has_no_effect_or_cannot_be_is_named() {
    assert!(!complains(&upstream("crl-url = \"ftp://ca.test/x\""), &["upstream.crl-url", "https://"]));
    assert!(!complains(&upstream("crl-url = \"http://a:b@ca.test/x\""), &["upstream.crl-url", "user name"]));
    assert!(!complains(&upstream("crl-expired = \"perhaps\""), &["upstream.crl-expired", "refuse"]));
    assert!(complains(
        &upstream("crl-expired = \"refuse\""),
        &["upstream.crl-expired", "no revocation lists"]
    ));
    assert!(complains(&upstream("crl-period = \"1h\""), &["upstream.crl-period", "nothing is fetched"]));
    let pin = "ab".repeat(32);
    let pinned = upstream(&format!("pin-sha256 = [\"{pin}\"]\ncrl-url = \"http://ca.test/x\""));
    assert!(complains(&pinned, &["upstream.crl-url", "only the broker's key is judged"]));
    assert!(complains(&upstream("crl-file = \"none.pem\""), &["upstream.crl-file", "none.pem"]));
    let coap = main_file("[coap]\ncrl-url = \"http://ca.test/x\"\n");
    assert!(complains(&coap, &["coap.crl-url", "no CA is configured"]));
}

#[test]
fn the_est_servers_cas_are_trust_only_where_that_is_said() {
    let anchors = |case: Case| case.loaded().settings.upstream.unwrap().tls.unwrap().est_anchors;
    assert_eq!(anchors(certificate("")), None);
    assert_eq!(anchors(certificate("trust = \"none\"")), None);
    let file = Path::new("/var/lib/tombolo/certificates/uplink/anchors.pem");
    assert_eq!(anchors(certificate("trust = \"est\"")).as_deref(), Some(file));
    let exec = upstream(
        "certificate = \"uplink\"\n[certificate.uplink]\ncommand = [\"/bin/issue\"]\ntrust = \"est\"\n",
    );
    assert!(!complains(&exec, &["certificate.uplink.trust", "EST"]));
}

#[cfg(feature = "pkcs11")]
#[test]
fn a_token_needs_its_module_its_label_and_its_pin() {
    let all =
        "key = \"pkcs11\"\npkcs11-module = \"/lib/m.so\"\npkcs11-token = \"gateway\"\npin-file = \"pin\"\n";
    let settings = certificate(all).file("/lib/m.so", "x").file("/etc/tombolo/pin", "1234").loaded().settings;
    let token = settings.upstream.unwrap().tls.unwrap().token.unwrap();
    assert_eq!((token.label.as_str(), token.module.as_path()), ("gateway", Path::new("/lib/m.so")));
    assert_eq!(token.pin_file, Path::new("/etc/tombolo/pin"));
    assert_eq!(settings.certificates[0].settings.token, Some(token));
    for (key, line) in [
        ("pkcs11-module", "pkcs11-module = \"/lib/m.so\"\n"),
        ("pkcs11-token", "pkcs11-token = \"gateway\"\n"),
        ("pin-file", "pin-file = \"pin\"\n"),
    ] {
        assert!(!complains(
            &certificate(&all.replace(line, "")),
            &[&format!("certificate.uplink.{key}"), "token"]
        ));
        assert!(complains(&certificate(line), &[key, "keys are in files"]));
    }
    assert!(!complains(&certificate("pin = \"1234\""), &["certificate.uplink.pin", "pin-file"]));
}
