//! Roles that include others, and rules for devices behind others: which rules a role ends up with.

use proptest::prelude::*;
use tombolo::config::Loaded;
use tombolo::gate::Role;

use crate::support::main_file;

#[track_caller]
fn loaded(text: &str) -> Loaded {
    main_file(text).loaded()
}

fn role<'l>(loaded: &'l Loaded, name: &str) -> &'l Role {
    let found = loaded.settings.gate.roles.iter().find(|role| role.name.as_str() == name);
    found.unwrap_or_else(|| panic!("no role {name}: {:#?}", loaded.findings))
}

/// The uplink rules of a role: name, path, and the role they are from.
fn uplink(loaded: &Loaded, name: &str) -> Vec<String> {
    let of = |from: Option<&tombolo::message::Name>| from.map_or("own".to_owned(), ToString::to_string);
    let rules = role(loaded, name).uplink.iter();
    rules.map(|rule| format!("{} {} {}", rule.name, rule.path, of(rule.from.as_ref()))).collect()
}

/// The complaints, of which one has these words.
#[track_caller]
fn complains(text: &str, words: &str) {
    let (_, complaints) = main_file(text).complaints();
    assert!(complaints.iter().any(|line| line.contains(words)), "{words}: {complaints:#?}");
}

const BASE: &str = r#"
[role.base.uplink.telemetry]
path = "t/#"
[role.base.uplink.alarm]
path = "alarm/+"
lane = "high"
[role.base.uplink.secret]
path = "+/key"
deny = true
[role.base.downlink.all]
topic = "{prefix}/{device}/down/#"
path = "{rest}"
[role.base.local-publish.own]
topic = "home/{device}/#"
[role.base.local-subscribe.all]
topic = "home/#"
[role.base.on-behalf.all]
path = "t/#"
"#;

#[test]
fn a_role_has_the_rules_of_those_it_includes_of_every_kind_and_none_of_their_limits() {
    let loaded = loaded(&format!(
        "{BASE}[role.base.quota]\nmessages = 7\n[role.meter]\nincludes = [\"base\"]\n[role.meter.uplink.meter]\npath = \"m\"\n"
    ));
    assert_eq!(
        uplink(&loaded, "meter"),
        ["alarm alarm/+ base", "meter m own", "secret +/key base", "telemetry t/# base"]
    );
    assert_eq!(uplink(&loaded, "base").len(), 3);
    let meter = role(&loaded, "meter");
    assert_eq!((meter.downlink.len(), meter.on_behalf.len(), meter.quota.messages), (1, 1, 60));
    let (_, local) =
        loaded.settings.mqtt.local.iter().find(|(name, _)| name.as_str() == "meter").expect("local rules");
    assert_eq!((local.publish.len(), local.subscribe.len()), (1, 1));
    assert_eq!(local.publish[0].from.as_ref().map(|role| role.as_str()), Some("base"));
}

#[test]
fn what_is_nearer_replaces_what_allows_by_name_or_path_and_can_switch_it_off() {
    let loaded = loaded(&format!(
        "{BASE}[role.middle]\nincludes = [\"base\"]\n[role.middle.uplink.alarm]\npath = \"a/#\"\n\
         [role.other.uplink.more]\npath = \"t/#\"\n[role.other.uplink.only]\npath = \"o\"\n\
         [role.meter]\nincludes = [\"middle\", \"other\"]\n[role.meter.uplink.telemetry]\nenabled = false\n\
         [role.meter.downlink.all]\ntopic = \"{{prefix}}/{{device}}/down/set/#\"\npath = \"{{rest}}\"\n"
    ));
    assert_eq!(
        uplink(&loaded, "meter"),
        ["alarm a/# middle", "more t/# other", "only o other", "secret +/key base"]
    );
    assert_eq!(uplink(&loaded, "middle"), ["alarm a/# own", "secret +/key base", "telemetry t/# base"]);
    let downlink = &role(&loaded, "meter").downlink;
    assert_eq!((downlink.len(), downlink[0].from.is_none()), (1, true));
}

#[test]
fn a_deny_rule_is_never_replaced() {
    for own in ["path = \"x\"", "path = \"+/key\"", "enabled = false"] {
        let text = format!("{BASE}[role.meter]\nincludes = [\"base\"]\n[role.meter.uplink.secret]\n{own}\n");
        complains(&text, "the rule secret of role base, which it includes, denies");
        let loaded = main_file(&text).load().ok();
        assert!(loaded.is_none_or(|loaded| {
            loaded.settings.gate.roles.iter().all(|role| role.name.as_str() != "meter")
        }));
    }
    // Another name for the same path: the deny wins there, as in one role.
    let loaded = loaded(&format!(
        "{BASE}[role.meter]\nincludes = [\"base\"]\n[role.meter.uplink.mine]\npath = \"+/key\"\n"
    ));
    assert!(uplink(&loaded, "meter").contains(&"secret +/key base".to_owned()));
}

#[test]
fn what_is_wrong_with_includes_is_said_with_its_line() {
    for (text, words) in [
        ("[role.a]\nincludes = [\"b\"]\n", ":2: role.a.includes: there is no role \"b\""),
        ("[role.a]\nincludes = [\"a\"]\n", ":2: role.a.includes: it includes itself: a includes a"),
        (
            "[role.a]\nincludes = [\"off\"]\n[role.off]\nenabled = false\n",
            ":2: role.a.includes: the role \"off\" is switched off",
        ),
        (
            "[role.a]\nincludes = [\"b\"]\n[role.b.uplink.x]\npath = \"a//b\"\n",
            ":2: role.a.includes: the role \"b\", which it includes, is disabled by its own faults",
        ),
        (
            "[role.a.on-behalf.x]\nroles = [\"nobody\"]\n",
            ":2: role.a.on-behalf.x.roles: there is no role \"nobody\"",
        ),
        ("[role.a.on-behalf.x]\npath = \"rd/#\"\n", ":2: role.a.on-behalf.x.path: "),
    ] {
        complains(text, words);
    }
    // One that the gate finds closes the others, too, whether or not they have the rule.
    let tie = "[role.b.uplink.x]\npath = \"t\"\n[role.b.uplink.y]\npath = \"t\"\n[role.a]\nincludes = [\"b\"]\n\
               [role.a.uplink.x]\npath = \"o\"\n";
    complains(tie, ":6: role.a.includes: the role \"b\", which it includes, is disabled by its own faults");
    // The fault of a rule is told where it stands.
    let topic =
        "[role.b.uplink.x]\npath = \"x\"\ntopic = \"{prefix}/gateway/x\"\n[role.a]\nincludes = [\"b\"]\n";
    complains(topic, ":3: role.b.uplink.x.topic: ");
}

#[test]
fn a_parent_that_cannot_forward_is_warned_about_once() {
    let devices = "[device.hub]\nrole = \"a\"\n[device.c1]\nrole = \"a\"\nparent = \"hub\"\n[device.c2]\nrole = \"a\"\nparent = \"hub\"\n";
    complains(&format!("[role.a.uplink.x]\npath = \"x\"\n{devices}"), "device c1 and 1 more");
    let fine = format!("[role.a.uplink.x]\npath = \"x\"\n[role.a.on-behalf.all]\n{devices}");
    let (_, complaints) = main_file(&fine).complaints();
    assert!(complaints.iter().all(|line| !line.contains("forward")), "{complaints:#?}");
    complains(
        &format!("{fine}[device.c3]\nrole = \"a\"\nparent = \"c1\"\n"),
        "its parent c1 has a parent itself",
    );
}

/// A rule as text: name, path, whether it denies.
type Text = (usize, usize, bool);

const NAMES: [&str; 3] = ["x", "y", "z"];
const PATHS: [&str; 3] = ["a", "a/#", "+"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_role_never_allows_what_a_role_it_includes_denies_and_has_each_name_once(
        roles in prop::collection::vec(
            (prop::collection::vec((0..3_usize, 0..3_usize, prop::bool::weighted(0.2)), 0..3), prop::collection::vec(0..4_usize, 0..3)),
            4,
        ),
    ) {
        let roles: Vec<(Vec<Text>, Vec<usize>)> = roles;
        let mut text = String::new();
        for (number, (rules, includes)) in roles.iter().enumerate() {
            // Only later ones, so that there is no circle.
            let includes: Vec<String> =
                includes.iter().filter(|other| **other > number).map(|other| format!("\"r{other}\"")).collect();
            text.push_str(&format!("[role.r{number}]\nincludes = [{}]\n", includes.join(", ")));
            let mut names = std::collections::BTreeSet::new();
            for (name, path, deny) in rules.iter().filter(|rule| names.insert(rule.0)) {
                let (name, path) = (NAMES[*name], PATHS[*path]);
                text.push_str(&format!("[role.r{number}.uplink.{name}]\npath = \"{path}\"\ndeny = {deny}\n"));
            }
        }
        let Some(loaded) = main_file(&text).load().ok() else { return Ok(()) };
        let found = &loaded.settings.gate.roles;
        for role in found {
            let names: Vec<_> = role.uplink.iter().map(|rule| &rule.name).collect();
            prop_assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
            let number: usize = role.name.as_str()[1..].parse().unwrap();
            for included in roles[number].1.iter().filter(|other| **other > number) {
                let Some(other) = found.iter().find(|other| other.name.as_str() == format!("r{included}")) else {
                    return Err(TestCaseError::fail("a role stands whose included role is closed"));
                };
                for denies in other.uplink.iter().filter(|rule| rule.deny) {
                    prop_assert!(
                        role.uplink.iter().any(|rule| rule.deny && rule.path == denies.path && rule.name == denies.name),
                        "{} lost {}: {text}", role.name, denies.name
                    );
                }
            }
        }
    }
}

#[test]
fn a_role_of_local_clients_alone_needs_no_uplink_rule() {
    let words = "no uplink rule allows anything";
    let warned = |text: &str| main_file(text).complaints().1.iter().any(|line| line.contains(words));
    let subscribes = "[role.board.local-subscribe.all]\ntopic = \"home/#\"\n";
    for text in [
        subscribes.to_owned(),
        "[role.script.local-publish.all]\ntopic = \"home/#\"\n".to_owned(),
        format!("{subscribes}[role.panel]\nincludes = [\"board\"]\n"),
    ] {
        assert!(!warned(&text), "{text}");
    }
    complains("[role.valve]\nmax-handshakes = 10\n", words);
    complains("[role.valve.uplink.none]\npath = \"t/#\"\ndeny = true\n", words);
}
