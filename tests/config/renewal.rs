//! `[certificate.NAME]`: who uses it, where it comes from, what a reload says.

use std::path::Path;

use tombolo::config::reload;
use tombolo::credential::leaf::Usage;
use tombolo::credential::source_settings::SourceSettings;

use crate::support::{Case, main_file};

const UPSTREAM: &str = "[upstream]\nurl = \"mqtts://b\"\ncertificate = \"uplink\"\n";
const EST: &str = "[certificate.uplink]\nest-url = \"https://ca.test/.well-known/est\"\nusername = \"gw\"\n\
                   password-file = \"est-password\"\n";

fn case(upstream: &str, table: &str) -> Case {
    main_file(&format!("{upstream}{table}"))
}

/// Refused, and one of the complaints has all these words.
fn refused(case: &Case, words: &[&str]) {
    let (loads, complaints) = case.complaints();
    assert!(!loads, "{words:?}");
    let named = complaints.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(named, "{words:?}: {complaints:#?}");
}

#[test]
fn the_uplink_has_the_file_that_the_gateway_keeps() {
    let settings = case(UPSTREAM, EST).loaded().settings;
    let file = Path::new("/var/lib/tombolo/certificates/uplink/current.pem").to_path_buf();
    let tls = settings.upstream.unwrap().tls.unwrap();
    assert_eq!(tls.identity, Some((file.clone(), file)));
    let [certificate] = &settings.certificates[..] else { panic!() };
    assert_eq!((certificate.settings.usage, certificate.settings.may_enroll), (Usage::Client, true));
    let SourceSettings::Est(est) = &certificate.source else { panic!() };
    assert_eq!(est.password_file.as_deref(), Some(Path::new("/etc/tombolo/est-password")));
}

#[test]
fn a_table_that_nobody_uses_is_named_and_does_nothing() {
    let (loads, complaints) = case("[upstream]\nurl = \"mqtts://b\"\n", EST).complaints();
    assert!(
        loads
            && complaints
                .iter()
                .any(|line| line.contains("neither [upstream] nor [coap] uses this certificate"))
    );
    let loaded = case("[upstream]\nurl = \"mqtts://b\"\n", EST).loaded();
    assert!(loaded.settings.certificates.is_empty());
}

#[test]
fn what_does_not_go_together_is_refused_with_the_key() {
    refused(&case(UPSTREAM, ""), &["upstream.certificate", "there is no [certificate.uplink]"]);
    let both = format!("{UPSTREAM}certificate-file = \"a\"\nkey-file = \"b\"\n");
    refused(&case(&both, EST), &["upstream.certificate-file", "certificate is set too"]);
    refused(&case(UPSTREAM, "[certificate.uplink]\n"), &["certificate.uplink.source", "no source"]);
    let of = |line: &str| case(UPSTREAM, &format!("{EST}{line}\n"));
    refused(&of("renew-at = \"95%\""), &["certificate.uplink.renew-at", "10%"]);
    refused(&of("renew-at = \"50%\"\nrenew-before = \"30d\""), &["renew-before", "both set"]);
    refused(&of("subject = \"gw\""), &["certificate.uplink.subject"]);
    refused(&of("bootstrap-certificate-file = \"f.pem\""), &["bootstrap", "no key"]);
    refused(&of("dns = [\"gärtnerei\"]"), &["certificate.uplink.dns", "ASCII"]);
    for wrong in ["a b", "a..b", "https://gw"] {
        refused(&of(&format!("dns = [{wrong:?}]")), &["certificate.uplink.dns", "is not a DNS name"]);
    }
    refused(&of("uri = [\"urn:a b\"]"), &["certificate.uplink.uri", "is not a URI"]);
    let operation = EST.replace("/.well-known/est", "/.well-known/est/simpleenroll");
    refused(&case(UPSTREAM, &operation), &["certificate.uplink.est-url", "simpleenroll", "appends it"]);
    let outside = "[certificate.\"../x\"]\nest-url = \"https://ca.test/.well-known/est\"\n";
    refused(&case("", outside), &["../x"]);
}

#[test]
fn a_certificate_for_devices_keeps_its_key_and_is_of_its_own() {
    let upstream = "[upstream]\nurl = \"mqtts://b\"\n[coap]\ncertificate = \"uplink\"\n";
    let settings = case(upstream, EST).loaded().settings;
    let [certificate] = &settings.certificates[..] else { panic!() };
    assert_eq!((certificate.settings.usage, certificate.settings.reuse_key), (Usage::Server, true));
    assert!(settings.coap.certificates.key.is_none(), "it is not enrolled yet");
    let both = format!("{UPSTREAM}[coap]\ncertificate = \"uplink\"\n");
    refused(&case(&both, EST), &["coap.certificate", "one certificate is for one of the two"]);
    let files = "[coap]\ncertificate = \"uplink\"\nkey-file = \"a\"\n";
    refused(&case(files, EST), &["coap.key-file", "certificate is set too"]);
    refused(&case("[coap]\ncertificate = \"x\"\n", ""), &["coap.certificate", "there is no [certificate.x]"]);
    let reserved = EST.replace("uplink", "coap-files");
    refused(&case("", &reserved), &["certificate.coap-files", "another name"]);
}

#[test]
fn a_manual_source_needs_no_other_key_and_a_probe_another_client_id() {
    let manual = "[certificate.uplink]\nsource = \"manual\"\n";
    let settings = case(UPSTREAM, manual).loaded().settings;
    let [certificate] = &settings.certificates[..] else { panic!() };
    assert_eq!(certificate.source, SourceSettings::Manual);
    assert!(certificate.settings.by_hand && !certificate.settings.may_enroll);
    let of = |line: &str| case(&format!("{UPSTREAM}{line}\n"), EST);
    refused(
        &of("client-id = \"a\"\nprobe-client-id = \"a\""),
        &["upstream.probe-client-id", "client id itself"],
    );
    let upstream = of("probe-client-id = \"b\"").loaded().settings.upstream.unwrap();
    assert_eq!(upstream.probe_client_id.as_deref(), Some("b"));
}

#[test]
fn a_changed_table_needs_a_restart() {
    let was = case(UPSTREAM, EST).loaded();
    let is = case(UPSTREAM, &format!("{EST}renew-at = \"50%\"\n")).loaded();
    let findings = reload::compare(&was, &is).unwrap_err();
    assert!(findings[0].to_string().contains("systemctl restart tombolo"), "{}", findings[0]);
    assert!(reload::compare(&was, &was).is_ok());
}
