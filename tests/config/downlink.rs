//! Downlink rules, mailboxes, and what is subscribed to.

use std::time::Duration;

use tombolo::gate::WhenFull;

use crate::support::main_file;

const UPSTREAM: &str = "[gateway]\nid = \"gw\"\n[upstream]\nurl = \"mqtts://broker\"\n";
const RULE: &str = "[role.r.uplink.u]\npath = \"t/#\"\n[role.r.downlink.all]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";

#[test]
fn a_rule_and_a_mailbox_have_their_values_and_their_defaults() {
    let text = format!(
        "{UPSTREAM}{RULE}idempotent = true\nlatest-wins = true\nexpires = \"1h\"\nanswer-within = \"5s\"\n\
         [role.r.mailbox]\nmessages = 3\nbytes = \"2KiB\"\nexpires = \"2h\"\nwhen-full = \"drop-oldest\"\nawake-for = \"3s\"\n\
         [role.s.uplink.u]\npath = \"t/#\"\n[role.s.mailbox]\nalways-awake = true\n"
    );
    let loaded = main_file(&text).loaded();
    let downlink = &loaded.settings.downlink;
    let (of_r, of_s) = (&downlink.roles[0], &downlink.roles[1]);
    let rule = &of_r.rules[0];
    assert!(rule.idempotent && rule.latest_wins && !rule.deny);
    assert_eq!(rule.expires, Some(Duration::from_secs(3600)));
    assert_eq!(rule.answer_within, Duration::from_secs(5));
    assert_eq!((of_r.mailbox.messages, of_r.mailbox.bytes), (3, 2048));
    assert_eq!(of_r.mailbox.when_full, WhenFull::DropOldest);
    assert_eq!(of_r.mailbox.awake_for, Some(Duration::from_secs(3)));
    assert_eq!((of_s.mailbox.messages, of_s.mailbox.bytes, of_s.mailbox.awake_for), (16, 16 << 10, None));
    assert!(of_s.rules.is_empty());
}

#[test]
fn the_subscription_follows_from_the_rules_or_is_what_is_configured() {
    let filters = |text: &str| {
        let loaded = main_file(&format!("{UPSTREAM}{text}")).loaded();
        loaded.settings.upstream.unwrap().commands
    };
    let none: [&str; 0] = [];
    assert_eq!(filters("[role.r.uplink.u]\npath = \"t/#\"\n"), none, "no rule, no subscription");
    assert_eq!(filters(RULE), ["tombolo/gw/+/down/#", "tombolo/gw/+/request/+/#"]);
    let site = format!("{RULE}[role.r.downlink.site]\ntopic = \"site/doors/+\"\npath = \"{{1}}\"\n");
    assert_eq!(filters(&site), ["tombolo/gw/+/down/#", "site/doors/+", "tombolo/gw/+/request/+/#"]);
    let one = format!("[topics]\nsubscribe = \"{{prefix}}/+/down/#\"\nrequest = \"\"\n{site}");
    assert_eq!(filters(&one), ["tombolo/gw/+/down/#"]);
    let denied = format!("{RULE}deny = true\n");
    assert_eq!(filters(&denied), none, "a rule that denies wants nothing");
}

#[test]
fn a_topic_of_commands_that_cannot_work_is_named() {
    for (key, value) in [
        ("command", "cmd/{path}"),
        ("command", "cmd/{device}"),
        ("command", "cmd/x{device}/{path}"),
        ("request", "{prefix}/{device}/request/{path}"),
        ("reply", "{prefix}/{device}/reply"),
        ("reply", "{prefix}/{role}/{device}/{path}"),
    ] {
        let case = main_file(&format!("{UPSTREAM}{RULE}[topics]\n{key} = \"{value}\"\n"));
        let (loads, found) = case.complaints();
        assert!(
            !loads && found.iter().any(|line| line.contains(&format!("topics.{key}"))),
            "{value}: {found:?}"
        );
    }
    let many: String = (0..9)
        .map(|n| format!("[role.r.downlink.x{n}]\ntopic = \"site/{n}/#\"\npath = \"{{rest}}\"\n"))
        .collect();
    let (loads, found) = main_file(&format!("{UPSTREAM}{RULE}{many}")).complaints();
    assert!(!loads && found.iter().any(|line| line.contains("topics.subscribe")), "{found:?}");
}
