//! Readings that a device forwards for one behind it.

use std::time::Instant;

use proptest::prelude::*;
use tombolo::gate::on_behalf::{CHILDREN_MAX, RULES_MAX};
use tombolo::gate::stage::{Admitted, Malformed, OnBehalfFault, Reason, Refusal};
use tombolo::gate::{Fault, Gate, Item, OnBehalfRule, Settings};
use tombolo::message::PathError;

use super::*;

const NO_CHILD: Refusal = Refusal::OnBehalf(OnBehalfFault::NoChild);
const NO_RULE: Refusal = Refusal::OnBehalf(OnBehalfFault::NoRule);

fn speaks(name_: &str, path: &str) -> OnBehalfRule {
    OnBehalfRule {
        name: name(name_),
        from: None,
        path: Pattern::parse(path).unwrap(),
        roles: Vec::new(),
        deny: false,
    }
}

fn child(id: &str, role: &str, parent: &str) -> Device {
    Device { psk: None, parent: Some(name(parent)), ..device(id, role) }
}

/// `hub-1` and `hub-2`, each with a child; `lone` is behind nothing.
fn world(on_behalf: Vec<OnBehalfRule>) -> Settings {
    let hub = Role { on_behalf, ..role("hub", vec![rule("all", "#")]) };
    settings(
        vec![
            hub,
            role("probe", vec![rule("t", "t/#"), deny("key", "t/key")]),
            role("valve", vec![rule("t", "t/#")]),
        ],
        vec![
            device("hub-1", "hub"),
            device("hub-2", "hub"),
            device("lone", "probe"),
            child("probe-1", "probe", "hub-1"),
            child("probe-2", "probe", "hub-2"),
            child("valve-1", "valve", "hub-1"),
        ],
    )
}

fn gate_of(on_behalf: Vec<OnBehalfRule>) -> Gate {
    let gate = Gate::new(world(on_behalf), Instant::now());
    assert_eq!(gate.problems(), []);
    gate
}

/// The topic of a reading that `id` sends, as the pipeline takes it through the gate.
fn sends(gate: &mut Gate, id: &str, path: &str) -> Result<String, Refusal> {
    let now = Instant::now();
    let sender = gate.device_by_id(id).expect("the device is known");
    let (device, path) = gate.speaker(now, sender, Path::parse(path).unwrap())?;
    let admitted = gate.admit(now, device, received(Method::Post, path.as_str(), b"1"))?;
    let Admitted::Passed(mapped) = admitted else { panic!("no filter") };
    Ok(mapped.content().topic.to_owned())
}

#[test]
fn a_child_has_the_rules_quota_and_presence_of_its_own_and_its_parent_is_seen() {
    let mut settings = world(vec![speaks("any", "#")]);
    settings.roles[1].quota = Quota { messages: 1, per: HOUR, burst: 2, bytes: 1 << 20 };
    let mut gate = Gate::new(settings, Instant::now());
    let topic = |text: &str| Ok(text.to_owned());
    assert_eq!(sends(&mut gate, "hub-1", "~probe-1/t/env"), topic("tombolo/gw/probe-1/up/t/env"));
    assert_eq!(sends(&mut gate, "hub-1", "t/own"), topic("tombolo/gw/hub-1/up/t/own"));
    // The child's rules, not those of its parent, which allow everything.
    assert_eq!(sends(&mut gate, "hub-1", "~probe-1/x"), Err(Refusal::NoRule));
    assert_eq!(sends(&mut gate, "hub-1", "~probe-1/t/key"), Err(Refusal::Denied { rule: name("key") }));
    assert!(sends(&mut gate, "hub-1", "~probe-1/t/env").is_ok());
    let over = sends(&mut gate, "hub-1", "~probe-1/t/env");
    assert!(matches!(over, Err(Refusal::OverQuota { .. })), "{over:?}");
    assert!(sends(&mut gate, "hub-1", "~valve-1/t/env").is_ok(), "its neighbour has its own");
    assert!(sends(&mut gate, "hub-1", "t/own").is_ok(), "and its parent, too");
    let now = Instant::now();
    let view = |gate: &Gate, id: &str| {
        let view = gate.device(now, gate.device_by_id(id).unwrap()).unwrap();
        (view.accepted, view.refused.total(), view.last_seen.is_some())
    };
    assert_eq!(view(&gate, "probe-1"), (2, 3, true));
    assert_eq!(view(&gate, "valve-1"), (1, 0, true));
    assert_eq!(view(&gate, "hub-1"), (2, 0, true));
    assert_eq!(view(&gate, "probe-2"), (0, 0, false));
    let mut said = Vec::new();
    while let Some(change) = gate.poll_presence(now) {
        said.push((change.id.to_string(), change.online));
    }
    said.sort();
    assert_eq!(
        said,
        [("hub-1", true), ("probe-1", true), ("valve-1", true)].map(|(id, on)| (id.to_owned(), on))
    );
}

#[test]
fn a_parent_that_only_forwards_is_online() {
    let mut gate = gate_of(vec![speaks("any", "#")]);
    assert!(sends(&mut gate, "hub-1", "~probe-1/t").is_ok());
    assert_eq!(sends(&mut gate, "hub-2", "~nobody/t"), Err(NO_CHILD));
    for id in ["hub-1", "hub-2"] {
        let now = Instant::now();
        assert!(gate.device(now, gate.device_by_id(id).unwrap()).unwrap().online, "{id}");
    }
}

#[test]
fn no_device_speaks_for_one_that_is_not_its_child_and_the_refusal_is_its_own() {
    let mut gate = gate_of(vec![speaks("any", "#")]);
    for (sender, path, refusal) in [
        ("hub-1", "~probe-2/t", NO_CHILD),
        ("hub-1", "~lone/t", NO_CHILD),
        ("hub-1", "~hub-2/t", NO_CHILD),
        ("hub-1", "~hub-1/t", NO_CHILD),
        ("hub-1", "~nobody/t", NO_CHILD),
        ("hub-1", "~/t", NO_CHILD),
        ("hub-1", "~probe-1", Refusal::Malformed(Malformed::Path(PathError::Empty))),
        // A role without such a rule: as if there were none at all.
        ("lone", "~probe-1/t", Refusal::Reserved),
        ("probe-1", "~valve-1/t", Refusal::Reserved),
        ("lone", "~lone/t", Refusal::Reserved),
    ] {
        assert_eq!(sends(&mut gate, sender, path), Err(refusal), "{sender} {path}");
    }
    // Nothing in a child is reserved less, and a child has no children.
    for path in ["~probe-1/~valve-1/t", "~probe-1/rd", "~probe-1/.well-known/core"] {
        assert_eq!(sends(&mut gate, "hub-1", path), Err(Refusal::Reserved), "{path}");
    }
    let now = Instant::now();
    let view = |id: &str| gate.device(now, gate.device_by_id(id).unwrap()).unwrap();
    assert_eq!(view("hub-1").refused.of(Reason::OnBehalf), 6);
    let last = view("hub-1").last_refusal.map(|last| last.path().0.to_owned());
    assert_eq!(last.as_deref(), Some("~probe-1"));
    assert_eq!(gate.totals().refused.of(Reason::OnBehalf), 6);
    for id in ["probe-2", "nobody", "lone"] {
        let refused = gate
            .device_by_id(id)
            .map_or(0, |index| gate.device(now, index).unwrap().refused.of(Reason::OnBehalf));
        assert_eq!(refused, 0, "{id}");
    }
}

#[test]
fn the_rules_say_for_which_roles_and_where_and_a_deny_wins() {
    let probes = OnBehalfRule { roles: vec![name("probe")], ..speaks("probes", "t/#") };
    let secret = OnBehalfRule { deny: true, ..speaks("secret", "t/+/pin") };
    let mut gate = gate_of(vec![probes, secret]);
    assert!(sends(&mut gate, "hub-1", "~probe-1/t/env").is_ok());
    assert_eq!(sends(&mut gate, "hub-1", "~probe-1/x"), Err(NO_RULE), "another path");
    assert_eq!(sends(&mut gate, "hub-1", "~valve-1/t/env"), Err(NO_RULE), "another role");
    let denied = Refusal::OnBehalf(OnBehalfFault::Denied { rule: name("secret") });
    assert_eq!(sends(&mut gate, "hub-1", "~probe-1/t/a/pin"), Err(denied));
    let now = Instant::now();
    let hub = gate.device(now, gate.device_by_id("hub-1").unwrap()).unwrap();
    assert_eq!(
        hub.last_refusal.and_then(|last| last.rule.as_ref()).map(|rule| rule.as_str()),
        Some("secret")
    );
    assert_eq!(hub.refused.of(Reason::OnBehalf), 3);
}

#[test]
fn an_explanation_names_both_rules_and_the_child() {
    let gate = gate_of(vec![speaks("any", "t/#")]);
    let explain = |path: &str| gate.explain(Instant::now(), "hub-1", Method::Post, path);
    let found = explain("~probe-1/t/env");
    let child = found.on_behalf.clone().expect("it is for a child");
    assert_eq!((child.device.as_str(), child.path.as_str()), ("probe-1", "t/env"));
    assert_eq!((child.role.as_str(), child.rule.as_str()), ("hub", "any"));
    assert_eq!(
        (found.allowed, found.role.as_deref(), found.rule.as_deref()),
        (true, Some("probe"), Some("t"))
    );
    assert_eq!(found.publish.map(|publish| publish.topic).as_deref(), Some("tombolo/gw/probe-1/up/t/env"));
    assert_eq!(
        found.why,
        "on-behalf rule any of role hub lets hub-1 speak for probe-1; rule t is the only one that matches"
    );
    let found = explain("~probe-1/t/key");
    assert_eq!((found.allowed, found.reason), (false, Some("denied")));
    assert!(found.why.starts_with("on-behalf rule any of role hub"), "{}", found.why);
    for (path, why) in [
        ("~probe-2/t", "no device behind it has this id"),
        ("~probe-1/x", "no on-behalf rule of its role lets it speak for this device there"),
    ] {
        let found = explain(path);
        assert_eq!(
            (found.allowed, found.reason, found.why.as_str()),
            (false, Some("on_behalf"), why),
            "{path}"
        );
        assert_eq!(found.role.as_deref(), Some("hub"));
    }
    assert_eq!((child.rule_path.as_str(), child.from), ("t/#", None));
}

#[test]
fn an_explanation_of_a_refusal_names_the_on_behalf_rule_that_denies_or_comes_nearest() {
    let denies = OnBehalfRule { deny: true, ..speaks("secret", "t/key") };
    let others = OnBehalfRule { roles: vec![name("valve")], ..speaks("valves", "x/#") };
    let gate = gate_of(vec![speaks("any", "t/#"), denies, others]);
    let explain = |path: &str| gate.explain(Instant::now(), "hub-1", Method::Post, path);
    let found = explain("~probe-1/t/key");
    assert_eq!((found.reason, found.rule.as_deref()), (Some("on_behalf"), Some("on-behalf.secret")));
    let matched = (found.matched[0].rule.as_str(), found.matched[0].path.as_str(), found.matched[0].deny);
    assert_eq!(matched, ("on-behalf.secret", "t/key", true));
    let nearest = explain("~probe-1/x/y").nearest.expect("a rule");
    assert_eq!(
        (nearest.rule.as_str(), nearest.path.as_str(), nearest.why.as_str()),
        ("on-behalf.valves", "x/#", "it is for children of valve, and probe-1 is probe")
    );
    let nearest = explain("~probe-1/u").nearest.expect("a rule");
    assert_eq!(
        (nearest.rule.as_str(), nearest.why.as_str()),
        ("on-behalf.any", "level 1 is \"u\", not \"t\"")
    );
    let found = gate_of(Vec::new()).explain(Instant::now(), "hub-1", Method::Post, "~probe-1/t");
    assert!(found.why.contains("role hub has no on-behalf rule"), "{}", found.why);
}

#[test]
fn a_reload_takes_up_changed_parents_and_rules_and_no_quota_starts_anew() {
    let mut gate = gate_of(vec![speaks("any", "#")]);
    assert!(sends(&mut gate, "hub-1", "~probe-1/t").is_ok());
    let before = gate.device_by_id("probe-1");
    let mut moved = world(vec![speaks("any", "#")]);
    moved.devices[3].parent = Some(name("hub-2"));
    gate.replace(moved, Instant::now());
    assert_eq!(gate.device_by_id("probe-1"), before, "it is the same device");
    assert_eq!(sends(&mut gate, "hub-1", "~probe-1/t"), Err(NO_CHILD));
    assert!(sends(&mut gate, "hub-2", "~probe-1/t").is_ok());
    gate.replace(world(Vec::new()), Instant::now());
    assert_eq!(sends(&mut gate, "hub-2", "~probe-2/t"), Err(Refusal::Reserved));
    let mut gone = world(vec![speaks("any", "#")]);
    gone.devices.remove(3);
    let replaced = gate.replace(gone, Instant::now());
    assert_eq!(replaced.len(), 1);
    assert_eq!(sends(&mut gate, "hub-1", "~probe-1/t"), Err(NO_CHILD));
}

#[test]
fn wrong_families_are_named_and_closed() {
    let mut wrong = world((0..=RULES_MAX).map(|number| speaks(&format!("r{number}"), "#")).collect());
    let problems = tombolo::gate::check(&wrong);
    assert!(problems.iter().any(|problem| problem.fault == Fault::TooManyOnBehalf), "{problems:?}");
    wrong.roles[0].on_behalf.truncate(RULES_MAX);
    wrong.devices.push(child("self", "probe", "self").into());
    wrong.devices.push(child("third", "probe", "probe-1").into());
    wrong
        .devices
        .extend((0..CHILDREN_MAX).map(|number| child(&format!("c{number}"), "probe", "hub-2").into()));
    let faults: Vec<_> = tombolo::gate::check(&wrong).into_iter().map(|p| (p.item, p.fault)).collect();
    assert_eq!(
        faults,
        [
            (Item::Device(name("self")), Fault::OwnParent),
            (Item::Device(name("third")), Fault::ParentIsChild { parent: name("probe-1") }),
            (
                Item::Device(name(&format!("c{}", CHILDREN_MAX - 1))),
                Fault::TooManyChildren { parent: name("hub-2") }
            ),
        ]
    );
}

/// Ids that are devices, and words that are none.
const IDS: [&str; 6] = ["hub-1", "hub-2", "lone", "probe-1", "probe-2", "valve-1"];

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(&IDS[..]).prop_map(|id| format!("~{id}")),
        3 => prop::sample::select(&IDS[..]).prop_map(str::to_owned),
        3 => prop::sample::select(vec!["t", "up", "gateway", "tombolo", "gw", "~", "~~hub-1", "rd", "~{device}"])
            .prop_map(str::to_owned),
        1 => "[a-z~.]{1,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_device_forwards_stays_in_its_own_space_or_in_that_of_a_child_of_it(
        sender in prop::sample::select(&IDS[..]),
        paths in prop::collection::vec(prop::collection::vec(segment(), 1..6), 1..20),
        patterns in prop::collection::vec(
            (prop::sample::select(vec!["#", "t/#", "+/up", "+"]), any::<bool>(), any::<bool>()), 0..4),
        topics in prop::collection::vec(
            prop::sample::select(vec!["{prefix}/{path}", "tombolo/gw/{1}/up", "{prefix}/{device}/{rest}", "x/{rest}"]), 0..3),
    ) {
        let rules = patterns.iter().enumerate().map(|(number, (path, deny, of_probes))| OnBehalfRule {
            deny: *deny && number > 0,
            roles: if *of_probes { vec![name("probe")] } else { Vec::new() },
            ..speaks(&format!("r{number}"), path)
        });
        let mut settings = world(rules.collect());
        for role in &mut settings.roles {
            role.uplink = topics.iter().zip(["+/#", "+", "#"]).enumerate().filter_map(|(number, (topic, path))| {
                let template = Template::parse(topic).unwrap();
                template.check_captures(&Pattern::parse(path).unwrap()).ok()?;
                Some(to(&format!("u{number}"), path, topic))
            }).collect();
        }
        let mut gate = Gate::new(settings, Instant::now());
        prop_assume!(gate.device_by_id(sender).is_some());
        for segments in &paths {
            let text = segments.join("/");
            let Ok(path) = Path::parse(&text) else { continue };
            let own = gate.device_by_id(sender).unwrap();
            let Ok((device, within)) = gate.speaker(Instant::now(), own, path) else { continue };
            let whose = gate.id(device).unwrap().to_string();
            let view = gate.device(Instant::now(), device).unwrap();
            let is_child = view.parent.is_some_and(|parent| parent.as_str() == sender);
            prop_assert!(whose == sender || is_child, "{} spoke for {}", sender, whose);
            prop_assert_eq!(whose == sender, !text.starts_with('~'));
            let explained = gate.explain(Instant::now(), sender, Method::Post, &text);
            let admitted = gate.admit(Instant::now(), device, received(Method::Post, within.as_str(), b""));
            let topic = admitted.as_ref().ok().map(|admitted| match admitted {
                Admitted::Passed(mapped) => mapped.content().topic.to_owned(),
                Admitted::Filtered(_) => unreachable!("there is no filter"),
            });
            prop_assert_eq!(explained.allowed, topic.is_some(), "{}: {}", text, explained.why);
            prop_assert_eq!(explained.publish.map(|publish| publish.topic), topic.clone());
            if let Some(tail) = topic.as_deref().and_then(|topic| topic.strip_prefix("tombolo/gw/")) {
                prop_assert_eq!(tail.split('/').next(), Some(whose.as_str()), "{}", text);
            }
        }
    }
}
