//! The query of a request: in topics, refused, explained.

use std::time::Instant;

use proptest::prelude::*;
use tombolo::gate::stage::{Reason, Refusal, TopicFault};
use tombolo::gate::{Fault, Gate, QueryUse, Received, UplinkRule};
use tombolo::message::{ArgumentError, PathError, QueryBuffer};

use super::*;

/// What becomes of a POST of `door-7` with these Uri-Query options: the topic and the query.
fn ask(gate: &mut Gate, path: &str, query: &[&str]) -> Result<(String, Option<String>), Refusal> {
    let device = gate.device_by_id("door-7").unwrap();
    let mut buffer = QueryBuffer::default();
    let arguments = query.iter().map(|argument| argument.as_bytes());
    let query = buffer.join(Path::parse(path).unwrap(), arguments).expect("a query");
    let received = Received { query, ..received(Method::Post, path, b"1") };
    let mapped = gate.admit(Instant::now(), device, received)?.passed().expect("no filter");
    Ok((mapped.content().topic.to_owned(), mapped.content().query.map(str::to_owned)))
}

fn refuse(rule: UplinkRule) -> UplinkRule {
    UplinkRule { query: QueryUse::Refuse, ..rule }
}

#[test]
fn a_query_goes_with_the_reading() {
    let mut gate = gate(vec![rule("all", "t/#")]);
    let (topic, query) = ask(&mut gate, "t/env", &["unit=C", "ort=Köln"]).unwrap();
    assert_eq!(
        (topic.as_str(), query.as_deref()),
        ("tombolo/gw/door-7/up/t/env", Some("unit=C&ort=K%C3%B6ln"))
    );
    assert_eq!(ask(&mut gate, "t/env", &[]).unwrap().1, None);
    assert_eq!(ask(&mut gate, "t/env", &[""]).unwrap().1.as_deref(), Some(""));
}

#[test]
fn an_argument_is_a_part_of_the_topic() {
    let mut gate = gate(vec![to("unit", "t/#", "{prefix}/{device}/{query.unit}-{query.n}/{rest}")]);
    assert_eq!(ask(&mut gate, "t/x", &["n=1", "unit=C", "z"]).unwrap().0, "tombolo/gw/door-7/C-1/x");
    let fault = |name, error| Err(Refusal::Argument { name, error });
    assert_eq!(ask(&mut gate, "t/x", &[]), fault(name("unit"), ArgumentError::Missing));
    assert_eq!(ask(&mut gate, "t/x", &["unit=C"]), fault(name("n"), ArgumentError::Missing));
    assert_eq!(
        ask(&mut gate, "t/x", &["unit=C", "unit=F", "n=1"]),
        fault(name("unit"), ArgumentError::Repeated)
    );
    for (bad, error) in [
        ("n=", PathError::EmptySegment),
        ("n", PathError::EmptySegment),
        ("n=a/b", PathError::Character),
        ("n=+", PathError::Character),
        ("n=#", PathError::Character),
        ("n=\u{1}", PathError::Character),
        ("n=\u{fffe}", PathError::Character),
    ] {
        assert_eq!(
            ask(&mut gate, "t/x", &["unit=C", bad]),
            fault(name("n"), ArgumentError::Value(error)),
            "{bad}"
        );
    }
    let device = gate.device_by_id("door-7").unwrap();
    let view = gate.device(Instant::now(), device).unwrap();
    assert_eq!((view.refused.of(Reason::Query), view.accepted), (10, 1));
}

#[test]
fn no_query_leads_into_the_topics_of_another_owner() {
    let mut gate = gate(vec![to("foreign", "t/#", "{prefix}/{query.to}/up/{rest}")]);
    assert_eq!(ask(&mut gate, "t/x", &["to=door-7"]).unwrap().0, "tombolo/gw/door-7/up/x");
    for to in ["to=other", "to=gateway", "to=door-70", "to=door"] {
        assert_eq!(ask(&mut gate, "t/x", &[to]), Err(Refusal::Topic(TopicFault::ForeignSpace)), "{to}");
    }
}

#[test]
fn a_rule_may_refuse_requests_with_a_query() {
    let mut gate = gate(vec![refuse(rule("plain", "p/#")), rule("all", "t/#")]);
    assert!(ask(&mut gate, "p/x", &[]).is_ok() && ask(&mut gate, "t/x", &["a=b"]).is_ok());
    assert_eq!(ask(&mut gate, "p/x", &["a=b"]), Err(Refusal::QueryUnwanted { rule: name("plain") }));
    assert_eq!(ask(&mut gate, "p/x", &[""]), Err(Refusal::QueryUnwanted { rule: name("plain") }));
}

#[test]
fn a_topic_that_needs_a_query_the_rule_refuses_is_a_fault() {
    let rules = vec![refuse(to("both", "t/#", "{prefix}/{device}/{query.unit}"))];
    let settings = settings(vec![role("sensor", rules)], vec![]);
    let faults: Vec<_> = tombolo::gate::check(&settings).into_iter().map(|problem| problem.fault).collect();
    assert_eq!(faults, [Fault::QueryNeeded { name: "unit".into() }]);
}

#[test]
fn a_first_block_is_judged_as_the_whole_would_be_and_takes_no_token() {
    let mut gate = gate(vec![rule("all", "t/#"), deny("key", "t/key")]);
    let device = gate.device_by_id("door-7").unwrap();
    let now = Instant::now();
    let first = Received { blockwise: true, ..received(Method::Post, "t/x", &[1; 64]) };
    let before = gate.explain(now, "door-7", Method::Post, "t/x").quota;
    assert_eq!(gate.announce(now, device, first, 65_536), Ok(65_536));
    assert_eq!(gate.announce(now, device, first, 65_537), Err(Refusal::TooLarge { limit: 65_536 }));
    assert_eq!(gate.explain(now, "door-7", Method::Post, "t/x").quota, before);
    let to = |path| Received { path: Path::parse(path).unwrap(), ..first };
    assert_eq!(gate.announce(now, device, to("t/key"), 64), Err(Refusal::Denied { rule: name("key") }));
    assert_eq!(gate.announce(now, device, to("x"), 64), Err(Refusal::NoRule));
    assert_eq!(gate.announce(now, device, to("rd"), 64), Err(Refusal::Reserved));
    let view = gate.device(now, device).unwrap();
    assert_eq!((view.accepted, view.refused.total()), (0, 4));
}

#[test]
fn an_explanation_shows_the_query() {
    let gate =
        gate(vec![refuse(rule("plain", "p/#")), to("unit", "t/#", "{prefix}/{device}/{query.unit}/{rest}")]);
    let explain = |path: &str| gate.explain(Instant::now(), "door-7", Method::Post, path);
    let found = explain("/t/x?unit=%43&ort=Köln");
    assert_eq!((found.path.as_str(), found.query.as_deref()), ("t/x", Some("unit=C&ort=K%C3%B6ln")));
    assert_eq!(found.publish.unwrap().topic, "tombolo/gw/door-7/C/x");
    let found = explain("t/x");
    assert_eq!((found.allowed, found.reason), (false, Some("query")));
    assert_eq!(found.why, "the topic needs the query argument unit: the query does not have it");
    let found = explain("p/x?");
    assert_eq!((found.reason, found.rule.as_deref()), (Some("query"), Some("plain")));
    assert_eq!(
        (found.why.as_str(), found.matched[0].query),
        ("rule plain refuses requests with a query", Some("refuse"))
    );
    let found = explain("t/what%3F/x?unit=C");
    assert_eq!((found.path.as_str(), found.query.as_deref()), ("t/what?/x", Some("unit=C")));
    assert_eq!(found.publish.unwrap().topic, "tombolo/gw/door-7/C/what?/x");
    assert_eq!(explain("p/x?a=%4").reason, Some("bad_query"));
    assert_eq!(explain(&format!("p/x?{}", "a".repeat(252))).reason, Some("bad_query"));
}

proptest! {
    #[test]
    fn no_query_leaves_the_namespace(
        values in prop::collection::vec("[a-z/+#.$~é-]{0,8}|other|gateway|door-7", 1..4),
        template in prop::sample::select(vec![
            "{prefix}/{query.a}/up/{rest}", "{prefix}/{query.a}", "tombolo/{query.a}/{query.b}/x",
            "tombolo/gw/{query.a}{query.b}/x", "tombolo/{query.a}/other/x",
        ]),
    ) {
        let rules = vec![to("r", "t/#", template)];
        let settings = settings(
            vec![role("sensor", rules)],
            vec![device("door-7", "sensor"), device("other", "sensor")],
        );
        let mut gate = Gate::new(settings, Instant::now());
        let query: Vec<String> =
            ["a", "b", "c"].iter().zip(&values).map(|(name, value)| format!("{name}={value}")).collect();
        let query: Vec<&str> = query.iter().map(String::as_str).collect();
        if let Ok((topic, _)) = ask(&mut gate, "t/x", &query) {
            let levels: Vec<&str> = topic.split('/').collect();
            prop_assert!(!topic.contains(['+', '#', '\0']) && !topic.starts_with('$'));
            prop_assert!(levels[0] != "tombolo" || levels[1] == "gw" && levels[2] == "door-7", "{}", topic);
        }
    }
}
