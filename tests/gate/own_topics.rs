//! No device can publish to the gateway's own topics, wherever they are configured.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use tombolo::gate::own_topic::{OwnTopic, OwnTopics};
use tombolo::gate::pattern::Pattern;
use tombolo::gate::template::Template;
use tombolo::gate::{Gate, check};
use tombolo::message::PathBuffer;

use super::*;

/// The problems of one rule where these topics are the gateway's own.
fn problems(rule: UplinkRule, own: &[(&str, &str)]) -> Vec<String> {
    let mut settings = settings(vec![role("sensor", vec![rule])], vec![]);
    let own = own.iter().map(|(key, text)| OwnTopic::new(*key, *text)).collect();
    settings.own = Arc::new(OwnTopics::new(own));
    check(&settings).iter().map(ToString::to_string).collect()
}

const STATUS: (&str, &str) = ("topics.gateway-status", "fleet/gw/state");
const DEVICE: (&str, &str) = ("topics.device-status", "presence/{device}");

#[test]
fn a_rule_that_could_publish_a_presence_is_a_fault_that_names_both_keys() {
    let said = problems(to("all", "p/#", "presence/{rest}"), &[STATUS, DEVICE]);
    assert_eq!(
        said,
        [
            "role.sensor.uplink.all: the topic could be presence/{device}, which is reserved for the gateway (topics.device-status)"
        ]
    );
    for rule in [
        to("r", "t", "fleet/gw/state"),
        to("r", "+/+", "fleet/{1}/{2}"),
        to("r", "#", "fleet/{path}"),
        to("r", "t", "presence/{device}"),
        to("r", "t", "presence/summary"),
        to("r", "+", "presence/{1}"),
    ] {
        assert_eq!(problems(rule.clone(), &[STATUS, DEVICE]).len(), 1, "{rule:?}");
    }
}

#[test]
fn a_rule_beside_them_is_none() {
    for rule in [
        to("r", "#", "fleet/gw/states/{path}"),
        to("r", "+", "presence/{device}/{1}"),
        to("r", "+", "fleet/{1}"),
        to("r", "state/+", "fleet/gw/{path}"),
        rule("r", "#"),
    ] {
        assert_eq!(problems(rule.clone(), &[STATUS, DEVICE]), [""; 0], "{rule:?}");
    }
}

#[test]
fn a_deny_does_not_make_good_what_a_rule_could_do() {
    let mut settings = settings(
        vec![role("sensor", vec![to("all", "#", "fleet/gw/{path}"), deny("state", "state")])],
        vec![device("door-7", "sensor")],
    );
    settings.own = Arc::new(OwnTopics::new(vec![OwnTopic::new(STATUS.0, STATUS.1)]));
    let mut gate = Gate::new(settings, Instant::now());
    assert_eq!(gate.problems().len(), 1);
    assert_eq!(post(&mut gate, "t"), Err(Refusal::NoRule));
}

const WORDS: [&str; 6] = ["a", "b", "gw", "status", "door-7", "x.y"];

fn level(places: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(&WORDS[..]).prop_map(str::to_owned),
        2 => prop::sample::select(places).prop_map(str::to_owned),
    ]
}

fn topic(places: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(level(places), 1..4).prop_map(|levels| format!("s/{}", levels.join("/")))
}

/// A rule's template, its path, and what devices say.
const RULE_PLACES: &[&str] =
    &["{device}", "{path}", "{rest}", "{1}", "{2}", "{1}-{2}", "x-{device}", "{device}{1}", "a{1}"];
const OWN_PLACES: &[&str] = &["{device}", "{path}", "+", "x-{device}", "{1}-{2}", "{device}.y", "#"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, max_global_rejects: 200_000, ..ProptestConfig::default() })]

    #[test]
    fn no_mapped_topic_ever_equals_an_own_one(
        template in topic(RULE_PLACES),
        pattern in prop::sample::select(vec!["#", "+/#", "+/+", "+", "a/#", "a/+/+", "+/+/#"]),
        own in prop::collection::vec(topic(OWN_PLACES), 1..4),
        paths in prop::collection::vec(prop::collection::vec(prop::sample::select(&WORDS[..]), 1..4), 1..20),
        who in prop::sample::select(vec!["door-7", "status", "a"]),
    ) {
        let Ok(template) = Template::parse(&template) else { return Ok(()) };
        let pattern = Pattern::parse(pattern).unwrap();
        prop_assume!(template.check_captures(&pattern).is_ok());
        let own: Vec<OwnTopic> = own.into_iter().map(|text| OwnTopic::new("topics.x", text)).collect();
        let all = UplinkRule { topic: Some(template), path: pattern, ..rule("all", "#") };
        let mut with = settings(vec![role("sensor", vec![all])], vec![device(who, "sensor")]);
        let mut free = Gate::new(with.clone(), Instant::now());
        with.own = Arc::new(OwnTopics::new(own.clone()));
        let mut gate = Gate::new(with, Instant::now());
        let is_fault = !gate.problems().is_empty();
        for path in paths {
            let mut buffer = PathBuffer::default();
            let Ok(path) = buffer.join(path.iter().map(|word| word.as_bytes())) else { continue };
            let path = path.as_str().to_owned();
            // What the rule makes of it where nothing is the gateway's own.
            let made = say_as(&mut free, who, Method::Post, &path, b"", |c| c.topic.to_owned());
            let is_own = made.as_ref().is_ok_and(|(topic, _)| own.iter().any(|own| own.matches(topic)));
            // The first look finds all that the second would.
            prop_assert!(is_fault || !is_own, "{:?} was not found out", made);
            if let Ok((topic, _)) = say_as(&mut gate, who, Method::Post, &path, b"", |c| c.topic.to_owned()) {
                prop_assert!(!own.iter().any(|own| own.matches(&topic)), "{}", topic);
            }
        }
    }
}
