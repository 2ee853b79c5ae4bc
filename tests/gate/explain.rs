use std::time::Instant;

use proptest::prelude::*;
use tombolo::gate::{Gate, UplinkRule};
use tombolo::message::Path;

use super::*;

fn rules() -> Vec<UplinkRule> {
    vec![
        rule("all", "t/#"),
        UplinkRule { retain: true, delete: true, ..rule("state", "t/+/state") },
        deny("secret", "t/+/key"),
        to("foreign", "f/#", "{prefix}/{rest}"),
        to("long", "l/#", &format!("x/{}/{{rest}}", "y".repeat(960))),
    ]
}

#[test]
fn it_names_the_rules_that_match_and_the_one_that_decides() {
    let gate = gate(rules());
    let now = Instant::now();
    let found = gate.explain(now, "door-7", Method::Post, "/t/1/state");
    assert_eq!((found.allowed, found.rule.as_deref(), found.reason), (true, Some("state"), None));
    assert_eq!(found.matched.iter().map(|m| m.rule.as_str()).collect::<Vec<_>>(), ["state", "all"]);
    assert_eq!(found.publish.unwrap().topic, "tombolo/gw/door-7/up/t/1/state");
    let found = gate.explain(now, "door-7", Method::Post, "t/1/key");
    assert_eq!((found.allowed, found.rule.as_deref(), found.reason), (false, Some("secret"), Some("denied")));
    let reason = |device: &str, method, path: &str| gate.explain(now, device, method, path).reason;
    assert_eq!(reason("nobody", Method::Post, "t"), Some("unknown_device"));
    assert_eq!(reason("door-7", Method::Post, "x"), Some("no_rule"));
    assert_eq!(reason("door-7", Method::Delete, "t/x"), Some("not_allowed"));
    assert_eq!(reason("door-7", Method::Post, "rd"), Some("reserved"));
    assert_eq!(reason("door-7", Method::Post, "a//b"), Some("bad_path"));
    assert_eq!(reason("door-7", Method::Post, "f/other"), Some("topic"));
}

#[test]
fn its_json_is_what_scripts_rely_on() {
    let mut gate = gate(rules());
    post(&mut gate, "t/1/state").unwrap();
    let found = gate.explain(Instant::now(), "door-7", Method::Delete, "t/1/state");
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["device"], "door-7");
    assert_eq!(json["method"], "DELETE");
    assert_eq!(json["allowed"], true);
    assert_eq!(json["reason"], serde_json::Value::Null);
    assert_eq!(json["matched"][0], serde_json::json!({"rule": "state", "path": "t/+/state", "deny": false}));
    assert_eq!(
        json["publish"],
        serde_json::json!({
            "topic": "tombolo/gw/door-7/up/t/1/state", "qos": 1, "retain": true, "lane": "normal",
            "expires": null, "envelope": null,
        })
    );
    assert_eq!(json["max_payload"], serde_json::json!({"datagram": 1024, "blockwise": 65536}));
    assert_eq!(json["quota"]["messages_burst"], 1_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn it_says_what_would_happen(
        path in prop::collection::vec(prop::sample::select(vec!["t", "f", "l", "1", "state", "key", "other", "door-7", "rd"]), 1..5),
        filler in "z{0,64}",
        method in prop::sample::select(vec![Method::Post, Method::Put, Method::Delete]),
    ) {
        let mut gate = gate(rules());
        let path = format!("{}/{filler}", path.join("/"));
        prop_assume!(Path::parse(&path).is_ok());
        let found = gate.explain(Instant::now(), "door-7", method, &path);
        let happened = say(&mut gate, method, &path, b"");
        match happened {
            Ok((topic, rule)) => {
                prop_assert!(found.allowed);
                prop_assert_eq!(found.rule, Some(rule));
                prop_assert_eq!(found.publish.map(|publish| publish.topic), Some(topic));
            }
            Err(refusal) => {
                prop_assert!(!found.allowed && found.publish.is_none());
                prop_assert_eq!(found.reason, Some(refusal.reason().as_str()));
            }
        }
    }
}

#[test]
fn an_explanation_takes_no_token_and_is_no_sign_of_life() {
    let now = Instant::now();
    let mut gate: Gate = gate(rules());
    let before = gate.explain(now, "door-7", Method::Post, "t/1").quota;
    assert_eq!(gate.explain(now, "door-7", Method::Post, "t/1").quota, before);
    assert_eq!(gate.poll_presence(now), None);
}
