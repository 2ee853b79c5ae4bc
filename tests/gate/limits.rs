//! What a single rule restricts beside the path: the size and the content format of a payload.

use std::time::Instant;

use proptest::prelude::*;
use tombolo::gate::plan::Fault;
use tombolo::gate::settings::FORMATS_MAX;
use tombolo::gate::stage::Refusal;
use tombolo::gate::{Gate, Received, Supposed, UplinkRule};
use tombolo::message::ContentFormat;

use super::*;

fn capped(rule: UplinkRule, bytes: u32) -> UplinkRule {
    UplinkRule { max_payload: Some(bytes), ..rule }
}

fn only(rule: UplinkRule, formats: &[Option<ContentFormat>]) -> UplinkRule {
    UplinkRule { content_formats: formats.to_vec(), ..rule }
}

/// What becomes of a reading of `door-7` in this format.
fn in_format(gate: &mut Gate, path: &str, format: Option<ContentFormat>) -> Result<String, Refusal> {
    let device = gate.device_by_id("door-7").expect("the device is known");
    let received = Received { content_format: format, ..received(Method::Post, path, b"1") };
    let mapped = gate.admit(Instant::now(), device, received)?.passed().expect("no filter");
    Ok(mapped.content().topic.to_owned())
}

#[test]
fn the_smaller_limit_of_role_and_rule_counts() {
    let mut sensor = role("sensor", vec![rule("all", "#"), capped(rule("small", "s/#"), 10)]);
    sensor.uplink.push(capped(rule("large", "l/#"), 65_536));
    sensor.max_payload = Some(100);
    let mut gate = Gate::new(settings(vec![sensor], vec![device("door-7", "sensor")]), Instant::now());
    let mut sized =
        |path: &str, bytes: usize| say(&mut gate, Method::Post, path, &vec![0; bytes]).map(|_| ());
    assert_eq!((sized("s/x", 10), sized("x", 100), sized("l/x", 100)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(sized("s/x", 11), Err(Refusal::TooLarge { limit: 10 }));
    assert_eq!(sized("x", 101), Err(Refusal::TooLarge { limit: 100 }));
    assert_eq!(
        sized("l/x", 101),
        Err(Refusal::TooLarge { limit: 100 }),
        "a rule grants no more than its role"
    );
    // The first block of a body is told the limit of its rule.
    let device = gate.device_by_id("door-7").expect("the device is known");
    let first = Received { blockwise: true, ..received(Method::Post, "s/x", b"") };
    assert_eq!(gate.announce(Instant::now(), device, first, 10), Ok(10));
    assert_eq!(gate.announce(Instant::now(), device, first, 11), Err(Refusal::TooLarge { limit: 10 }));
    let found = gate.explain(Instant::now(), "door-7", Method::Post, "s/x");
    assert_eq!(found.max_payload.map(|limit| (limit.datagram, limit.blockwise)), Some((10, 10)));
    let supposed = Supposed { bytes: 11, ..Supposed::default() };
    let found = gate.explain_supposed(Instant::now(), "door-7", Method::Post, "s/x", supposed);
    assert_eq!((found.reason, found.rule.as_deref()), (Some("too_large"), Some("small")));
}

#[test]
fn a_rule_takes_only_the_content_formats_it_names() {
    let json = [Some(ContentFormat::JSON), None];
    let mut gate = gate(vec![rule("all", "#"), only(rule("json", "j/#"), &json)]);
    assert!(in_format(&mut gate, "j/x", Some(ContentFormat::JSON)).is_ok());
    assert!(in_format(&mut gate, "j/x", None).is_ok());
    let refused = |format| Err(Refusal::ContentFormat { rule: name("json"), format });
    // No other rule is tried: a device cannot choose its rule by the format it names.
    assert_eq!(in_format(&mut gate, "j/x", Some(ContentFormat::CBOR)), refused(Some(ContentFormat::CBOR)));
    assert!(in_format(&mut gate, "x", Some(ContentFormat::CBOR)).is_ok());
    let mut strict = super::gate(vec![UplinkRule {
        retain: true,
        delete: true,
        ..only(rule("json", "j/#"), &[Some(ContentFormat::JSON)])
    }]);
    assert_eq!(in_format(&mut strict, "j/x", None), refused(None));
    assert!(say(&mut strict, Method::Delete, "j/x", b"").is_ok(), "a DELETE has no payload to restrict");
}

#[test]
fn an_explanation_supposes_a_format_that_the_rule_takes_unless_one_is_given() {
    let gate = gate(vec![only(
        to("json", "j/#", "{prefix}/{device}/{content-format}/{rest}"),
        &[Some(ContentFormat::JSON), None],
    )]);
    let explain = |content_format| {
        let supposed = Supposed { content_format, ..Supposed::default() };
        gate.explain_supposed(Instant::now(), "door-7", Method::Post, "j/x", supposed)
    };
    let found = explain(None);
    assert_eq!((found.allowed, found.content_format), (true, Some(50)));
    assert_eq!(found.publish.expect("it passes").topic, "tombolo/gw/door-7/50/x");
    let formats = vec!["50".to_owned(), "none".to_owned()];
    assert_eq!(found.matched[0].content_formats, Some(formats));
    assert_eq!(explain(Some(None)).publish.expect("it passes").topic, "tombolo/gw/door-7/none/x");
    let found = explain(Some(Some(ContentFormat::CBOR)));
    assert_eq!((found.reason, found.rule.as_deref()), (Some("content_format"), Some("json")));
    assert_eq!(found.why, "rule json does not take the content format 60 (application/cbor)");
}

#[test]
fn the_content_format_is_a_part_of_the_topic_and_leads_into_no_other_owners_topics() {
    let mut gate =
        gate(vec![to("f", "f/#", "x/{content-format}/{rest}"), to("o", "o", "{prefix}/{content-format}")]);
    assert_eq!(in_format(&mut gate, "f/a", Some(ContentFormat(65_535))), Ok("x/65535/a".to_owned()));
    assert_eq!(in_format(&mut gate, "f/a", None), Ok("x/none/a".to_owned()));
    let foreign = Err(Refusal::Topic(tombolo::gate::stage::TopicFault::ForeignSpace));
    assert_eq!(in_format(&mut gate, "o", Some(ContentFormat::JSON)), foreign);
}

#[test]
fn a_rule_that_could_not_restrict_is_a_fault() {
    let fault = |rule: UplinkRule| {
        let problems = tombolo::gate::check(&settings(vec![role("sensor", vec![rule])], vec![]));
        problems.into_iter().map(|problem| problem.fault).collect::<Vec<_>>()
    };
    assert_eq!(fault(capped(deny("d", "d"), 1)), [Fault::DenyWith { key: "max-payload" }]);
    assert_eq!(fault(only(deny("d", "d"), &[None])), [Fault::DenyWith { key: "content-formats" }]);
    assert_eq!(fault(capped(rule("r", "r"), 65_537)), [Fault::PayloadLimit]);
    assert_eq!(fault(only(rule("r", "r"), &[None; FORMATS_MAX + 1])), [Fault::TooManyFormats]);
}

proptest! {
    #[test]
    fn an_explanation_and_the_gate_agree_on_size_and_format(
        caps in prop::collection::vec(prop::option::of(1..40_u32), 3),
        formats in prop::collection::vec(prop::collection::vec(prop::option::of(0..3_u16), 0..3), 3),
        path in prop::sample::select(vec!["a", "a/b", "a/b/c", "b"]),
        bytes in 0..50_usize,
        format in prop::option::of(0..3_u16),
        method in prop::sample::select(vec![Method::Post, Method::Delete]),
    ) {
        let rules = ["a/#", "a/+", "a/b/c"].iter().zip(caps).zip(formats).map(|((path, cap), formats)| {
            let content_formats = formats.into_iter().map(|format| format.map(ContentFormat)).collect();
            UplinkRule { max_payload: cap, content_formats, retain: true, delete: true, ..rule(&path.replace(['/', '+', '#'], "x"), path) }
        });
        let mut gate = gate(rules.collect());
        let format = format.map(ContentFormat);
        let bytes = if method == Method::Delete { 0 } else { bytes };
        let supposed = Supposed { content_format: Some(format), bytes, ..Supposed::default() };
        let found = gate.explain_supposed(Instant::now(), "door-7", method, path, supposed);
        let device = gate.device_by_id("door-7").expect("the device is known");
        let payload = vec![0; bytes];
        let received = Received { content_format: format, blockwise: true, ..received(method, path, &payload) };
        match gate.admit(Instant::now(), device, received) {
            Ok(admitted) => {
                let mapped = admitted.passed().expect("no filter");
                prop_assert_eq!(found.publish.map(|publish| publish.topic), Some(mapped.content().topic.to_owned()));
            }
            Err(refusal) => prop_assert_eq!(found.reason, Some(refusal.reason().as_str())),
        }
    }
}
