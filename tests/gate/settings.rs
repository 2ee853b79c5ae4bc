use std::time::{Duration, Instant};

use tombolo::gate::mapping::MappingError;
use tombolo::gate::quota::QuotaError;
use tombolo::gate::template::{Template, TemplateError};
use tombolo::gate::{Fault, Gate, Item, Problem, Quota, Refusal, Settings, UplinkRule, check};

use super::*;

fn in_rule(rule: &str, fault: Fault) -> Vec<Problem> {
    vec![Problem { item: Item::Rule { role: name("sensor"), rule: name(rule) }, fault }]
}

fn problems(rules: Vec<UplinkRule>) -> Vec<Problem> {
    check(&settings(vec![role("sensor", rules)], vec![device("door-7", "sensor"), device("lab", "sensor")]))
}

#[test]
fn a_tie_names_both_rules_and_closes_the_role() {
    let rules = vec![rule("one", "t/+"), rule("two", "t/#"), rule("three", "t/+")];
    assert_eq!(problems(rules.clone()), in_rule("three", Fault::Tie { with: name("one") }));
    let text = problems(rules.clone())[0].to_string();
    assert!(text.contains("role.sensor.uplink.three") && text.contains("rule one"), "{text}");
    let settings = settings(
        vec![role("sensor", rules), role("other", vec![rule("all", "#")])],
        vec![device("door-7", "sensor"), device("lab", "other")],
    );
    let mut gate = Gate::new(settings, Instant::now());
    assert_eq!(post(&mut gate, "t/x"), Err(Refusal::NoRule));
    // Only that role.
    assert!(say_as(&mut gate, "lab", Method::Post, "t/x", b"", |_| ()).is_ok());
}

#[test]
fn two_denials_or_a_denial_and_an_allowance_of_the_same_path_are_no_tie() {
    assert_eq!(problems(vec![deny("one", "t"), deny("two", "t"), rule("three", "t")]), []);
}

#[test]
fn topics_that_could_never_be_allowed_are_found_when_the_rule_is_built() {
    let fault = |topic: &str| match problems(vec![to("r", "a/+/#", topic)]).as_slice() {
        [] => None,
        [Problem { fault, .. }] => Some(fault.clone()),
        more => panic!("{more:?}"),
    };
    let gateway = Some(Fault::Mapping(MappingError::GatewaySpace));
    assert_eq!(fault("{prefix}/gateway/status"), gateway);
    assert_eq!(fault("{prefix}/gateway"), gateway);
    assert_eq!(fault("tombolo/gw/gateway/{rest}"), gateway);
    assert_eq!(fault("tombolo/{gateway}/gateway/x"), gateway);
    let level = Some(Fault::Mapping(MappingError::DeviceLevel));
    assert_eq!(fault("{prefix}/{device}x/y"), level);
    assert_eq!(fault("{prefix}/x{device}"), level);
    assert_eq!(fault("{prefix}/{device}{device}"), level);
    assert_eq!(fault("{prefix}/{1}{device}/y"), level);
    assert_eq!(fault("x/{2}"), Some(Fault::Template(TemplateError::NoCapture(2))));
    for fine in
        ["{prefix}/{device}", "{prefix}/{device}/{rest}", "{prefix}/{1}/x", "site/{1}", "{prefix}/all/{1}"]
    {
        assert_eq!(fault(fine), None, "{fine}");
    }
    let topic = format!("{{prefix}}/{{device}}/{}", "x".repeat(500));
    assert_eq!(fault(&topic), None);
    let mut long = settings(vec![role("sensor", vec![to("r", "a", &topic)])], vec![]);
    long.prefix = ["a"; 300].join("/");
    assert_eq!(check(&long), in_rule("r", Fault::Mapping(MappingError::TooLong)));
}

#[test]
fn a_level_written_out_where_device_ids_stand_is_no_id_for_a_device() {
    // A device of that id would own what others publish there.
    let taken = |id: &str| {
        let rules = vec![to("shared", "s/#", "{prefix}/shared/{device}/{rest}")];
        check(&settings(vec![role("sensor", rules)], vec![device("door-7", "sensor"), device(id, "sensor")]))
    };
    let fault = Fault::IdTaken { role: name("sensor"), rule: name("shared") };
    assert_eq!(taken("shared"), [Problem { item: Item::Device(name("shared")), fault }]);
    assert_eq!(taken("shared2"), []);
}

#[test]
fn a_rule_needs_a_topic_when_readings_are_switched_off() {
    let mut settings = settings(vec![role("sensor", vec![rule("t", "t"), deny("d", "d")])], vec![]);
    settings.reading = None;
    assert_eq!(check(&settings), in_rule("t", Fault::NoTopic));
    settings.roles[0].uplink[0].topic = Some(Template::parse("x/{path}").unwrap());
    assert_eq!(check(&settings), []);
}

#[test]
fn delete_without_retain_is_a_mistake() {
    let rules = vec![UplinkRule { delete: true, ..rule("r", "r") }];
    assert_eq!(problems(rules), in_rule("r", Fault::DeleteWithoutRetain));
}

#[test]
fn limits_that_could_never_be_met_are_mistakes() {
    let problem = |change: fn(&mut tombolo::gate::Role)| {
        let mut role = role("sensor", vec![rule("all", "#")]);
        change(&mut role);
        let settings = settings(vec![role], vec![device("door-7", "sensor")]);
        let mut gate = Gate::new(settings.clone(), Instant::now());
        assert_eq!(post(&mut gate, "t"), Err(Refusal::NoRule));
        match check(&settings).as_slice() {
            [Problem { item: Item::Role(role), fault }] if role.as_str() == "sensor" => fault.clone(),
            other => panic!("{other:?}"),
        }
    };
    let exceeds = Fault::PayloadExceedsQuota { bytes: 1_000 };
    assert_eq!(problem(|role| (role.max_payload, role.quota.bytes) = (Some(1_001), 1_000)), exceeds);
    assert_eq!(problem(|role| role.max_payload = Some(65_537)), Fault::PayloadLimit);
    assert_eq!(problem(|role| role.quota.burst = 0), Fault::Quota(QuotaError::NoMessages));
    assert_eq!(problem(|role| role.quota.per = Duration::ZERO), Fault::Quota(QuotaError::Period));
    assert_eq!(
        problem(|role| role.quota = Quota { bytes: 0, ..Quota::default() }),
        Fault::Quota(QuotaError::NoBytes)
    );
}

#[test]
fn a_wrong_device_is_not_known_and_the_others_are() {
    let mut twin = device("twin", "sensor");
    twin.psk = Some(psk("door-7", "another key"));
    let settings = settings(
        vec![role("sensor", vec![rule("all", "#")])],
        vec![
            device("door-7", "sensor"),
            twin,
            device("gateway", "sensor"),
            device("lost", "nobody"),
            device("lab", "sensor"),
            device("lab", "sensor"),
        ],
    );
    let gate = Gate::new(settings, Instant::now());
    let of = |id: &str, fault| Problem { item: Item::Device(name(id)), fault };
    let expected = [
        of("door-7", Fault::DuplicateIdentity { with: name("twin"), by: "PSK identity" }),
        of("twin", Fault::DuplicateIdentity { with: name("door-7"), by: "PSK identity" }),
        of("gateway", Fault::ReservedId),
        of("lost", Fault::UnknownRole { role: name("nobody") }),
        of("lab", Fault::DuplicateDevice),
    ];
    assert_eq!(gate.problems(), expected);
    // Who of two has the one key cannot be told: neither.
    assert_eq!(gate.identify_psk(b"door-7"), None);
    assert_eq!(gate.device_by_id("gateway"), None);
    assert_eq!(gate.identify_psk(b"lab"), gate.device_by_id("lab"));
    assert!(gate.device_by_id("lab").is_some());
}

#[test]
fn a_prefix_that_begins_no_topic_closes_every_role() {
    for prefix in ["", "$aws/x", "a//b", "a/", "/a", "a/+", "a\0"] {
        let settings = Settings {
            prefix: prefix.to_owned(),
            ..settings(vec![role("sensor", vec![rule("all", "#")])], vec![device("door-7", "sensor")])
        };
        let mut gate = Gate::new(settings, Instant::now());
        assert_eq!(gate.problems()[0], Problem { item: Item::Topics, fault: Fault::Prefix }, "{prefix:?}");
        assert_eq!(post(&mut gate, "t"), Err(Refusal::NoRule));
    }
}

#[test]
fn two_roles_of_a_name_are_a_mistake() {
    let settings = settings(vec![role("sensor", vec![]), role("sensor", vec![rule("all", "#")])], vec![]);
    assert_eq!(check(&settings), [Problem { item: Item::Role(name("sensor")), fault: Fault::DuplicateRole }]);
}
