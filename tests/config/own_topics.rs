//! The findings of `check` about rules that could map to the gateway's own topics.

use crate::support::main_file;

fn complaints(topics: &str, rule: &str) -> Vec<String> {
    main_file(&format!("[topics]\n{topics}\n[role.r.uplink.x]\n{rule}\n")).complaints().1
}

#[test]
fn a_rule_that_leads_to_a_status_is_named_with_the_key_that_puts_it_there() {
    assert_eq!(
        complaints("device-status = \"presence/{device}\"", "path = \"p/+\"\ntopic = \"presence/{1}\""),
        [
            "fail  /etc/tombolo/tombolo.toml:5: role.r.uplink.x.topic: \"presence/{1}\": the topic could be presence/{device}, \
             which is reserved for the gateway (topics.device-status); give the rule a level that topic does not have, like \
             {prefix}/{device}/up/{path}"
        ]
    );
    for (topics, rule) in [
        ("gateway-status = \"site/state\"", "path = \"#\"\ntopic = \"site/{path}\""),
        ("loss = \"a/{gateway}/loss\"", "path = \"+\"\ntopic = \"a/tb-abcdefgh/{1}\""),
        ("reading = \"site/{path}\"\ndevice-status = \"site/{device}\"", "path = \"#\""),
        ("", "path = \"#\"\ntopic = \"{prefix}/{device}/{path}\""),
        ("command = \"cmd/{device}/{path}\"", "path = \"#\"\ntopic = \"cmd/{device}/{path}\""),
        ("subscribe = \"cmd/+/#\"", "path = \"#\"\ntopic = \"cmd/{device}/{path}\""),
        ("reply = \"answers/{device}/{path}\"", "path = \"#\"\ntopic = \"answers/{path}\""),
        (
            "",
            "path = \"#\"\ntopic = \"{prefix}/{device}/down/{path}\"\n[role.q.downlink.y]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"",
        ),
        (
            "",
            "path = \"#\"\ntopic = \"cmd/{path}\"\n[role.q.downlink.y]\ntopic = \"cmd/{device}/#\"\npath = \"{rest}\"",
        ),
    ] {
        let found = complaints(topics, rule);
        let own = found.iter().filter(|line| line.contains("reserved for the gateway (")).count();
        assert_eq!(own, 1, "{topics} {rule}: {found:?}");
    }
}

#[test]
fn a_status_switched_off_is_nobodys_and_rules_beside_it_are_fine() {
    for (topics, rule) in [
        ("device-status = \"\"\ngateway-status = \"\"", "path = \"#\"\ntopic = \"{prefix}/{device}/{path}\""),
        ("device-status = \"presence/{device}\"", "path = \"#\"\ntopic = \"{prefix}/{device}/{path}\""),
        ("", "path = \"t/#\"\ntopic = \"{prefix}/{device}/{path}\""),
        ("", "path = \"#\""),
        // Nothing is subscribed without commands.
        ("", "path = \"#\"\ntopic = \"{prefix}/{device}/down/{path}\""),
    ] {
        assert_eq!(complaints(topics, rule), [""; 0], "{topics} {rule}");
    }
}
