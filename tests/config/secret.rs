//! No secret is shown in a finding or in Debug output, wherever it is configured.

use proptest::prelude::*;
use tombolo::config::{findings_to_json, findings_to_lines};

use crate::support::{Case, main_file};

const ROLE: &str = "[role.r.uplink.x]\npath = \"x\"\n";

/// Places where a secret is at home, and where a hurried person puts one.
fn places(secret: &str) -> Vec<Case> {
    let device = |more: &str| main_file(&format!("{ROLE}[device.d]\nrole = \"r\"\n{more}\n"));
    let upstream = |more: &str| main_file(&format!("[upstream]\nurl = \"mqtts://b\"\n{more}\n"));
    let registry = |text: &str| main_file(ROLE).device("d", text);
    vec![
        device("psk-file = \"k\"").file("/etc/tombolo/k", &format!("text:{secret}")),
        device("psk-file = \"k\"").file("/etc/tombolo/k", secret),
        device("psk-file = \"k\"").file("/etc/tombolo/k", &format!("hex:{secret}")),
        device(&format!("psk-file = \"text:{secret}\"")),
        device(&format!("psk-file = \"hex:{secret}\"")),
        device(&format!("psk = \"text:{secret}\"")),
        device(&format!("psk = [\"{secret}\"]")),
        device(&format!("key = \"{secret}\"")),
        device(&format!("psk = \"{secret}")),
        device(&format!("psk = {secret}")),
        upstream(&format!("password = \"{secret}\"")),
        upstream(&format!("pasword = \"{secret}\"")),
        upstream(&format!("password-file = [\"{secret}\"]")),
        upstream("password-file = \"p\"").file("/etc/tombolo/p", secret),
        main_file(&format!("[upstream]\nurl = \"mqtts://me:{secret}@b\"\n")),
        main_file(&format!("[upstream]\nurl = \"mqtts://me:{secret}@b\nx\"\n")),
        main_file(&format!("[upstream]\nurl = [\"mqtts://me:{secret}@b\"]\n")),
        main_file("").environment("TOMBOLO_UPSTREAM__PASSWORD", secret),
        main_file("").environment("TOMBOLO_UPSTREAM__PASWORD", secret),
        main_file("").environment("TOMBOLO_UPSTREAM__URL", &format!("mqtts://me:{secret}@b")),
        main_file("").environment("TOMBOLO_SECRET", secret),
        registry(&format!("role = \"r\"\npsk = \"text:{secret}\"\n")),
        registry(&format!("role = \"gone\"\npsk = \"text:{secret}\"\n")),
        registry(&format!("role = \"r\"\npsk = \"{secret}\"\n")),
        registry(&format!("role = \"r\"\npsk = \"hex:{secret}\"\n")),
        registry(&format!("role = \"r\"\npsk = [\"{secret}\"]\n")),
        registry(&format!("role = \"r\"\npsk = \"{secret}\n")),
        registry(&format!("role = \"r\"\npsk = {secret}\n")),
        registry(&format!("psk = \"text:{secret}\"\n")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_secret_never_comes_out_again(secret in "[A-Za-z][A-Za-z0-9!%&()*+,./:;<=>?@_~-]{15,40}") {
        for (number, case) in places(&secret).into_iter().enumerate() {
            let shown = match case.load() {
                Ok(loaded) => format!("{loaded:?} {:?} {:?}", loaded.registry, loaded.known)
                    + &findings_to_lines(&loaded.findings)
                    + &findings_to_json(&loaded.findings).to_string(),
                Err(findings) => findings_to_lines(&findings) + &findings_to_json(&findings).to_string(),
            };
            // Nor a part of it that would help to guess the rest.
            let part = &secret[..10];
            prop_assert!(!shown.contains(part), "place {number}: {shown}");
        }
    }

    #[test]
    fn any_text_is_judged_without_a_panic(text in ".{0,200}", value in "[ -~]{0,40}") {
        let _ = main_file(&text).complaints();
        let _ = main_file(&format!("[upstream]\nurl = {value:?}\nkeep-alive = {value:?}\n[role.r.uplink.x]\npath = {value:?}\n\
            topic = {value:?}\n[role.r.downlink.x]\npath = {value:?}\ntopic = {value:?}\n[topics]\nprefix = {value:?}\nloss = {value:?}\n"))
            .complaints();
        let _ = main_file("").device("d", &text).complaints();
        let _ = main_file("").environment(&format!("TOMBOLO_{value}"), &text).complaints();
    }
}

#[test]
fn a_key_in_a_credential_is_no_failure_where_only_the_service_sees_it() {
    let text = format!("{ROLE}[device.d]\nrole = \"r\"\npsk-file = \"credential:d\"\n");
    let said = findings_to_lines(&main_file(&text).load().unwrap().findings);
    assert!(said.contains("device d: psk-file") || said.contains("device.d.psk-file"), "{said}");
    assert!(said.contains("LoadCredential=") && !said.contains("fail"), "{said}");
}
