//! Where the reply to a command may be published.

use std::sync::Arc;

use tombolo::gate::own_topic::{OwnTopic, OwnTopics};
use tombolo::gate::stage::TopicFault;

use super::*;

#[test]
fn a_reply_goes_to_the_devices_own_reply_topic_or_outside_and_nowhere_else() {
    let mut site = settings(vec![role("sensor", vec![])], vec![device("door-7", "sensor")]);
    site.own = Arc::new(OwnTopics::new(vec![
        OwnTopic::new("topics.gateway-status", "tombolo/gw/gateway/status"),
        OwnTopic::new("topics.subscribe", "tombolo/gw/+/down/#"),
        OwnTopic::new("topics.reply", "tombolo/gw/{device}/reply/{path}"),
        OwnTopic::new("topics.loss", "ops/loss"),
    ]));
    site.reply = Some(OwnTopic::new("topics.reply", "tombolo/gw/{device}/reply/{path}"));
    let gate = Gate::new(site, Instant::now());
    let check = |topic: &str| gate.check_reply_topic(topic, "door-7");
    assert_eq!(check("app/answers/1"), Ok(()));
    assert_eq!(check("tombolo/gw/door-7/reply/set/level"), Ok(()));
    assert_eq!(check("tombolo/gw/door-8/reply/set/level"), Err(TopicFault::ForeignSpace));
    for topic in
        ["tombolo/gw/door-7/up/t", "tombolo/gw/door-7/status", "tombolo/other/x", "tombolo/gw", "tombolo"]
    {
        assert_eq!(check(topic), Err(TopicFault::ForeignSpace), "{topic}");
    }
    for topic in ["$SYS/x", "$share/a/b", "a/+/b", "a/#"] {
        assert_eq!(check(topic), Err(TopicFault::Unpublishable), "{topic}");
    }
    assert_eq!(check("tombolo-app"), Ok(()));
    for topic in ["tombolo/gw/gateway/status", "tombolo/gw/door-7/down/set", "ops/loss"] {
        assert_eq!(check(topic), Err(TopicFault::Own), "{topic}");
    }
    assert_eq!(check(""), Err(TopicFault::TooLong));
    assert_eq!(check(&"a".repeat(1025)), Err(TopicFault::TooLong));
}

#[test]
fn an_outcome_has_its_place_also_while_no_rule_allows_commands() {
    let mut site = settings(vec![role("sensor", vec![])], vec![device("door-7", "sensor")]);
    site.reply = Some(OwnTopic::new("topics.reply", "tombolo/gw/{device}/reply/{path}"));
    let gate = Gate::new(site, Instant::now());
    let check = |topic: &str| gate.check_reply_topic(topic, "door-7");
    assert_eq!(check("tombolo/gw/door-7/reply/set/level"), Ok(()));
    assert_eq!(check("tombolo/gw/door-8/reply/set/level"), Err(TopicFault::ForeignSpace));
    assert_eq!(check("tombolo/gw/door-7/up/t"), Err(TopicFault::ForeignSpace));
}
