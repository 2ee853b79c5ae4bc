//! Tags: what their owner writes on devices, in topics.

use std::time::Instant;

use proptest::prelude::*;
use tombolo::gate::stage::{Refusal, TopicFault};
use tombolo::gate::tag::Tags;
use tombolo::gate::template::Template;
use tombolo::gate::{Gate, Settings};

use super::*;

const FOREIGN: Refusal = Refusal::Topic(TopicFault::ForeignSpace);

fn tagged(id: &str, tags: &[(&str, &str)]) -> Device {
    let mut device = device(id, "sensor");
    for (name, value) in tags {
        device.tags.set(name, value).expect("a tag");
    }
    device
}

fn world(rules: Vec<UplinkRule>, devices: Vec<Device>) -> Gate {
    let gate = Gate::new(settings(vec![role("sensor", rules)], devices), Instant::now());
    assert_eq!(gate.problems(), []);
    gate
}

fn said(gate: &mut Gate, id: &str, path: &str) -> Result<(String, String), Refusal> {
    say_as(gate, id, Method::Post, path, b"1", |content| content.topic.to_owned())
}

#[test]
fn a_rule_whose_topic_needs_a_tag_is_for_the_devices_that_have_it() {
    let rules = vec![to("site", "t/#", "plant/{tag.site}/{device}/{rest}"), rule("all", "#")];
    let mut gate = world(rules, vec![tagged("door-7", &[("site", "north")]), device("other", "sensor")]);
    let passed = |topic: &str, rule: &str| Ok((topic.to_owned(), rule.to_owned()));
    assert_eq!(said(&mut gate, "door-7", "t/env"), passed("plant/north/door-7/env", "site"));
    // The next rule decides, as if this one were not there.
    assert_eq!(said(&mut gate, "other", "t/env"), passed("tombolo/gw/other/up/t/env", "all"));
    let found = gate.explain(Instant::now(), "other", Method::Post, "t/env");
    let lacking: Vec<_> =
        found.matched.iter().map(|rule| (rule.rule.as_str(), rule.lacks_tag.as_deref())).collect();
    assert_eq!(lacking, [("all", None), ("site", Some("site"))]);
    assert_eq!(found.why, "rule all is the only one that matches");
    let found = gate.explain(Instant::now(), "door-7", Method::Post, "t/env");
    assert_eq!(found.tags.get("site").map(String::as_str), Some("north"));
}

#[test]
fn without_another_rule_it_is_refused_and_the_explanation_names_the_tag() {
    let rules = vec![to("two", "t/+", "plant/{tag.site}/{tag.hall}/{1}"), deny("secret", "t/key")];
    assert!(Template::parse("{tag.site}/x").is_err(), "a tag is no first level");
    let mut gate = world(rules, vec![tagged("door-7", &[("site", "north")])]);
    assert_eq!(said(&mut gate, "door-7", "t/env"), Err(Refusal::NoRule));
    let explain = |path: &str| gate.explain(Instant::now(), "door-7", Method::Post, path);
    let found = explain("t/env");
    assert_eq!((found.allowed, found.reason, found.rule), (false, Some("no_rule"), None));
    assert_eq!(
        found.why,
        "rule two of role sensor needs the tag hall for its topic, and device door-7 does not have it; no other rule matches"
    );
    assert_eq!(explain("t/key").reason, Some("denied"), "a deny rule needs no tag");
    let device = gate.device_by_id("door-7").expect("the device");
    assert_eq!(gate.uplink_patterns(device).count(), 0, "it is not told where it may not publish");
    assert!(!gate.has_rule(device, Path::parse("t/env").expect("a path")));
}

#[test]
fn a_reload_changes_tags_and_disturbs_nobody() {
    let rules = vec![to("site", "t/#", "plant/{tag.site}/{device}")];
    let sites = |site: &str| {
        let devices = vec![tagged("door-7", &[("site", site)]), tagged("other", &[("site", "x")])];
        settings(vec![role("sensor", rules.clone())], devices)
    };
    let mut gate = Gate::new(sites("north"), Instant::now());
    let before = gate.device_by_id("door-7");
    assert_eq!(said(&mut gate, "door-7", "t").expect("it passes").0, "plant/north/door-7");
    assert_eq!(gate.replace(sites("south"), Instant::now()), []);
    assert_eq!(gate.device_by_id("door-7"), before);
    assert_eq!(said(&mut gate, "door-7", "t").expect("it passes").0, "plant/south/door-7");
}

#[test]
fn a_tag_in_the_place_of_a_device_id_leads_into_no_other_devices_topics() {
    let rules = vec![to("p", "p", "{prefix}/{tag.to}/up"), to("g", "g", "tombolo/{tag.to}/x")];
    for (value, own, gateway) in
        [("door-7", true, false), ("other", false, false), ("gateway", false, false), ("gw", false, false)]
    {
        let mut gate =
            world(rules.clone(), vec![tagged("door-7", &[("to", value)]), device("other", "sensor")]);
        assert_eq!(said(&mut gate, "door-7", "p").is_ok(), own, "{value}");
        assert_eq!(said(&mut gate, "door-7", "g").is_ok(), gateway, "{value}");
    }
}

#[test]
fn the_topic_of_readings_may_have_a_tag_before_the_device_and_its_place_stays_guarded() {
    let rules = vec![rule("all", "#"), to("s", "s/#", "plant/{rest}"), to("m", "m", "plant/map")];
    let mut settings = settings(
        vec![role("sensor", rules)],
        vec![tagged("door-7", &[("site", "north")]), tagged("other", &[("site", "south")])],
    );
    settings.reading = Some(Template::parse("plant/{tag.site}/{device}/{path}").unwrap());
    let mut gate = Gate::new(settings, Instant::now());
    assert_eq!(gate.problems(), []);
    assert_eq!(said(&mut gate, "door-7", "t").unwrap().0, "plant/north/door-7/t");
    assert_eq!(said(&mut gate, "door-7", "s/north/door-7/x").unwrap().0, "plant/north/door-7/x");
    assert_eq!(said(&mut gate, "door-7", "m").unwrap().0, "plant/map");
    for path in ["s/south/other/t", "s/north/other/t", "s/north/gateway"] {
        assert_eq!(said(&mut gate, "door-7", path), Err(FOREIGN), "{path}");
    }
}

/// Values that mean something where they do not belong.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "door-7", "other", "gateway", "gw", "tombolo", "up", "status", "$SYS", "..", "%2f", "{device}",
            "größe", "north",
        ]).prop_map(str::to_owned),
        1 => "[a-z0-9._~$ ]{1,64}",
        2 => "\\PC{0,8}",
        1 => "[/+#]{0,2}[a-z]{0,3}[/+#]{0,2}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_tag_capture_or_content_format_leads_out_of_a_devices_space(
        values in prop::collection::vec(value(), 2),
        levels in prop::collection::vec(prop::sample::select(vec![
            "{tag.a}", "{tag.b}", "{tag.a}{tag.b}", "x{tag.a}", "{device}", "{1}", "{1}{tag.b}", "{gateway}",
            "{content-format}", "up", "{rest}",
        ]), 0..5),
        first in prop::sample::select(vec!["{prefix}", "tombolo", "tombolo/gw", "site", "plant"]),
        reading in prop::sample::select(vec![
            "{prefix}/{device}/up/{path}", "plant/{tag.a}/{device}/{path}", "site/{tag.a}{tag.b}/x/{device}",
        ]),
        path in prop::sample::select(vec!["other/x", "door-7/up", "gateway/status", "gw/other", "a/b/c"]),
        format in prop::option::of(any::<u16>()),
    ) {
        let mut tags = Tags::default();
        for (name, value) in ["a", "b"].iter().zip(&values) {
            // What is no tag is none.
            let _ = tags.set(name, value);
        }
        let template_text = [&[first][..], &levels].concat().join("/");
        let Ok(template) = Template::parse(&template_text) else { return Ok(()) };
        let devices = vec![Device { tags: tags.clone(), ..device("door-7", "sensor") }, device("other", "sensor")];
        let rules = vec![UplinkRule { topic: Some(template), ..rule("r", "+/#") }];
        let mut settings = Settings { reading: Template::parse(reading).ok(), ..settings(vec![role("sensor", rules)], devices) };
        settings.prefix = "tombolo/gw".to_owned();
        let mut gate = Gate::new(settings, Instant::now());
        let Some(index) = gate.device_by_id("door-7") else { return Ok(()) };
        let content_format = format.map(tombolo::message::ContentFormat);
        let received = Received { content_format, ..received(Method::Post, path, b"1") };
        let Ok(admitted) = gate.admit(Instant::now(), index, received) else { return Ok(()) };
        let topic = admitted.passed().expect("no filter").content().topic.to_owned();
        prop_assert!(!topic.starts_with('$') && !topic.contains(['+', '#']) && !topic.chars().any(char::is_control));
        prop_assert!(topic.split('/').all(|level| !level.is_empty()), "{}", topic);
        let levels: Vec<&str> = topic.split('/').collect();
        // A constant level there is the owner's word.
        let second = template_text.split('/').nth(1).unwrap_or_default();
        let chosen = ["{tag.", "{1}", "{rest}", "{content-format}"].iter().any(|place| second.contains(place));
        prop_assert!(levels[0] != "tombolo" || !chosen || levels[1] == "gw", "{}", topic);
        if levels.starts_with(&["tombolo", "gw"]) {
            prop_assert!(levels.get(2).is_none_or(|level| !["other", "gateway"].contains(level)), "{}", topic);
        }
        if reading.starts_with("plant/") && levels[0] == "plant" && levels.len() > 2 {
            prop_assert_eq!(levels[2], "door-7", "{}", topic);
        }
    }
}
