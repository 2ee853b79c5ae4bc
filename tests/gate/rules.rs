use std::time::{Duration, Instant};

use tombolo::gate::stage::{Reason, Refusal, TopicFault};
use tombolo::gate::{Gate, QoS, Quota, Received, UplinkRule};
use tombolo::message::{ContentFormat, Envelope, Lane, Method};

use super::*;

#[test]
fn what_no_rule_allows_is_refused() {
    let mut gate = gate(vec![rule("telemetry", "t/#")]);
    assert_eq!(post(&mut gate, "t/env").unwrap(), ("tombolo/gw/door-7/up/t/env".into(), "telemetry".into()));
    assert_eq!(post(&mut gate, "x"), Err(Refusal::NoRule));
    assert_eq!(post(&mut super::gate(vec![]), "t"), Err(Refusal::NoRule));
}

#[test]
fn the_most_specific_rule_wins_and_a_deny_beats_them_all() {
    let mut gate = gate(vec![
        rule("all", "#"),
        rule("one", "t/+"),
        rule("exact", "t/env"),
        rule("below", "t/+/#"),
        deny("private", "t/+/key"),
    ]);
    let mut who = |path: &str| post(&mut gate, path).map(|(_, rule)| rule);
    assert_eq!(who("t/env").unwrap(), "exact");
    assert_eq!(who("t/x").unwrap(), "one");
    assert_eq!(who("t/x/y").unwrap(), "below");
    assert_eq!(who("u").unwrap(), "all");
    assert_eq!(who("t/env/key"), Err(Refusal::Denied { rule: name("private") }));
}

#[test]
fn a_device_can_be_told_where_it_may_publish() {
    let gate = gate(vec![rule("all", "t/#"), deny("secret", "t/key"), rule("boot", "boot")]);
    let device = gate.device_by_id("door-7").unwrap();
    assert_eq!(gate.uplink_patterns(device).collect::<Vec<_>>(), ["t/#", "boot"]);
}

#[test]
fn the_gateways_own_paths_never_publish() {
    let mut gate = gate(vec![rule("all", "#"), rule("one", "+/x")]);
    for path in ["rd", "rd/x", ".well-known/core", "firmware/x", "time", "~a/x"] {
        assert_eq!(post(&mut gate, path), Err(Refusal::Reserved), "{path}");
    }
}

#[test]
fn captures_are_filled_in() {
    let mut gate = gate(vec![
        to("two", "a/+/b/+/#", "site/{gateway}/{role}/{device}/{2}-{1}/{rest}/end"),
        to("below", "c/#", "{prefix}/{device}/c/{rest}"),
    ]);
    let mut topic = |path: &str| post(&mut gate, path).unwrap().0;
    assert_eq!(topic("a/1/b/2/c/d"), "site/gw/sensor/door-7/2-1/c/d/end");
    // Nothing below: the level of {rest} goes.
    assert_eq!(topic("a/1/b/2"), "site/gw/sensor/door-7/2-1/end");
    assert_eq!(topic("c"), "tombolo/gw/door-7/c");
    assert_eq!(topic("c/ü/x"), "tombolo/gw/door-7/c/ü/x");
}

#[test]
fn a_rule_says_how_it_is_published() {
    let alarm = UplinkRule {
        qos: QoS::AtMostOnce,
        retain: true,
        lane: Lane::High,
        expires: Some(Duration::from_millis(1_500)),
        envelope: Envelope::Json,
        ..rule("alarm", "alarm/+")
    };
    let mut gate = gate(vec![alarm]);
    let device = gate.device_by_id("door-7").unwrap();
    let reading = Received {
        content_format: Some(ContentFormat::CBOR),
        ..received(Method::Put, "alarm/fire", b"\xa0")
    };
    let mapped = gate.admit(Instant::now(), device, reading).unwrap().passed().unwrap();
    assert_eq!((mapped.lane(), mapped.qos(), mapped.device()), (Lane::High, QoS::AtMostOnce, device));
    let content = mapped.content();
    assert_eq!((content.device, content.path), ("door-7", "alarm/fire"));
    assert_eq!((content.method, content.retain, content.envelope), (Method::Put, true, Envelope::Json));
    // Rounded up: nothing expires before its time.
    assert_eq!((content.expires_s, content.content_format), (Some(2), Some(ContentFormat::CBOR)));
    assert_eq!((content.payload, content.received), (&b"\xa0"[..], STAMP));
}

#[test]
fn delete_is_an_empty_retained_publish_where_a_rule_allows_it() {
    let state = UplinkRule { retain: true, delete: true, envelope: Envelope::Json, ..rule("state", "s/+") };
    let mut gate = gate(vec![rule("telemetry", "t/#"), state, deny("fixed", "s/fixed")]);
    let delete = |gate: &mut Gate, path: &str, payload: &[u8]| {
        say_as(gate, "door-7", Method::Delete, path, payload, |content| {
            (content.retain, content.payload.len(), content.envelope)
        })
    };
    // Not wrapped: only an empty payload deletes what is retained.
    assert_eq!(delete(&mut gate, "s/door", b"").unwrap().0, (true, 0, Envelope::None));
    assert_eq!(delete(&mut gate, "s/door", b"x"), Err(Refusal::NotAllowed));
    assert_eq!(delete(&mut gate, "t/env", b""), Err(Refusal::NotAllowed));
    assert_eq!(delete(&mut gate, "s/fixed", b""), Err(Refusal::Denied { rule: name("fixed") }));
    assert_eq!(delete(&mut gate, "u", b""), Err(Refusal::NoRule));
}

#[test]
fn an_empty_post_does_not_delete_what_is_retained() {
    let kept = UplinkRule { retain: true, ..rule("kept", "k") };
    let wrapped = UplinkRule { retain: true, envelope: Envelope::Json, ..rule("wrapped", "w") };
    let free = UplinkRule { retain: true, delete: true, ..rule("free", "f") };
    let mut gate = gate(vec![kept, wrapped, free]);
    let mut retained = |path: &str, payload: &[u8]| {
        say_as(&mut gate, "door-7", Method::Post, path, payload, |content| content.retain).unwrap().0
    };
    assert!(retained("k", b"1"));
    assert!(!retained("k", b""));
    assert!(retained("w", b""));
    assert!(retained("f", b""));
}

#[test]
fn the_size_limit_depends_on_how_it_came_unless_it_is_set() {
    let sized = |max_payload, bytes, path: &str| {
        let mut role = role("sensor", vec![rule("all", "#")]);
        (role.max_payload, role.quota.bytes) = (max_payload, bytes);
        let mut gate = Gate::new(settings(vec![role], vec![device("door-7", "sensor")]), Instant::now());
        let device = gate.device_by_id("door-7").unwrap();
        let big = vec![0; 70_000];
        let mut limit = |blockwise| {
            let reading = Received { blockwise, ..received(Method::Post, path, &big) };
            match gate.admit(Instant::now(), device, reading) {
                Err(Refusal::TooLarge { limit }) => {
                    let fits = Received { payload: &big[..limit as usize], ..reading };
                    assert!(gate.admit(Instant::now(), device, fits).is_ok());
                    gate.give_back(device, fits.payload.len());
                    limit
                }
                other => panic!("{other:?}", other = other.map(drop)),
            }
        };
        (limit(false), limit(true))
    };
    assert_eq!(sized(None, 1 << 20, "a"), (1_024, 65_536));
    assert_eq!(sized(Some(2_000), 1 << 20, "a"), (2_000, 2_000));
    assert_eq!(sized(Some(100), 1 << 20, "a"), (100, 100));
    // What the byte bucket cannot hold is too large now, not "later" for ever.
    assert_eq!(sized(None, 3_000, "a"), (1_024, 3_000));
    assert_eq!(sized(None, 500, "a"), (500, 500));
}

#[test]
fn a_refused_reading_costs_nothing_and_an_accepted_one_its_tokens() {
    let mut tight =
        role("sensor", vec![rule("t", "t"), to("long", "l/#", &format!("x/{}/{{rest}}", "y".repeat(990)))]);
    tight.quota = Quota { messages: 1, bytes: 2_000, per: Duration::from_secs(10), burst: 2 };
    let start = Instant::now();
    let mut gate = Gate::new(settings(vec![tight], vec![device("door-7", "sensor")]), start);
    assert_eq!(gate.problems(), []);
    let device = gate.device_by_id("door-7").unwrap();
    let say = |gate: &mut Gate, now, path: &str, size: usize| {
        gate.admit(now, device, received(Method::Post, path, &vec![0; size])).map(drop)
    };
    let long = format!("l/{}", "z".repeat(64));
    for _ in 0..10 {
        assert_eq!(say(&mut gate, start, "x", 1), Err(Refusal::NoRule));
        assert_eq!(say(&mut gate, start, "rd", 1), Err(Refusal::Reserved));
        assert_eq!(say(&mut gate, start, "t", 1_025), Err(Refusal::TooLarge { limit: 1_024 }));
        assert_eq!(say(&mut gate, start, &long, 1), Err(Refusal::Topic(TopicFault::TooLong)));
    }
    assert_eq!(say(&mut gate, start, "t", 500), Ok(()));
    assert_eq!(say(&mut gate, start, "t", 500), Ok(()));
    for _ in 0..10 {
        assert_eq!(say(&mut gate, start, "t", 500), Err(Refusal::OverQuota { retry_after_s: 10 }));
    }
    let later = start + Duration::from_millis(9_500);
    assert_eq!(say(&mut gate, later, "t", 500), Err(Refusal::OverQuota { retry_after_s: 1 }));
    assert_eq!(say(&mut gate, start + Duration::from_secs(10), "t", 500), Ok(()));

    let view = gate.device(later, device).unwrap();
    assert_eq!((view.accepted, view.accepted_bytes), (3, 1_500));
    let refused: Vec<_> = view.refused.iter().filter(|(_, count)| *count > 0).collect();
    let expected = [
        (Reason::Reserved, 10),
        (Reason::NoRule, 10),
        (Reason::TooLarge, 10),
        (Reason::OverQuota, 11),
        (Reason::Topic, 10),
    ];
    assert_eq!(refused, expected);
    assert_eq!((gate.totals().accepted, gate.totals().refused.total()), (3, 51));
}

#[test]
fn what_the_journal_cannot_keep_gives_its_tokens_back() {
    let mut tight = role("sensor", vec![rule("all", "#")]);
    tight.quota = Quota { messages: 1, bytes: 100, per: HOUR, burst: 1 };
    let now = Instant::now();
    let mut gate = Gate::new(settings(vec![tight], vec![device("door-7", "sensor")]), now);
    let device = gate.device_by_id("door-7").unwrap();
    for _ in 0..5 {
        assert!(gate.admit(now, device, received(Method::Post, "t", &[0; 100])).is_ok());
        gate.give_back(device, 100);
    }
    assert!(gate.admit(now, device, received(Method::Post, "t", &[0; 100])).is_ok());
    assert!(gate.admit(now, device, received(Method::Post, "t", &[])).is_err());
}

#[test]
fn a_test_of_the_operator_is_marked_and_leaves_no_trace_in_what_is_known_of_the_device() {
    let mut gate = gate(vec![rule("telemetry", "t/#"), deny("secret", "t/key")]);
    let device = gate.device_by_id("door-7").unwrap();
    let now = Instant::now();
    let content = gate.rehearse(now, device, received(Method::Post, "t/test", b"1")).unwrap().content();
    assert!(content.test);
    assert!(gate.rehearse(now, device, received(Method::Post, "t/key", b"1")).is_err());
    let view = gate.device(now, device).unwrap();
    assert_eq!((view.accepted, view.refused.total(), view.last_seen), (0, 0, None));
    assert!(view.last_refusal.is_none());
    assert!(gate.rule_hits().all(|(_, _, hits)| hits == 0));
    assert!(
        !gate
            .admit(now, device, received(Method::Post, "t/test", b"1"))
            .unwrap()
            .passed()
            .unwrap()
            .content()
            .test
    );
    assert_eq!(gate.rule_hits().map(|(_, _, hits)| hits).sum::<u64>(), 1);
}

#[test]
fn a_request_that_is_no_reading_counts_as_a_refusal_of_its_device() {
    use tombolo::gate::stage::Malformed;
    use tombolo::message::PathError;
    let mut gate = gate(vec![rule("telemetry", "t/#")]);
    let device = gate.device_by_id("door-7").unwrap();
    let now = Instant::now();
    let refusal = Refusal::Malformed(Malformed::Path(PathError::Character));
    gate.note_unjudged(now, device, "t/#", &refusal);
    let view = gate.device(now, device).unwrap();
    assert_eq!((view.refused.of(Reason::Malformed), view.refused.total()), (1, 1));
    let last = view.last_refusal.unwrap();
    assert_eq!(last.path(), ("t/#", true));
    assert_eq!(
        last.refusal.to_string(),
        "malformed: a path segment has '/', '+', '#' or a control character"
    );
    assert_eq!(view.last_seen, Some(now), "it has spoken");
}
