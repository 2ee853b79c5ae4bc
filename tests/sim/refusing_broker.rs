//! The broker refuses one topic for ever, or everything for a while. The first is set aside while
//! the others flow; the second condemns nobody.

use std::time::Duration;

use crate::chance::cases;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};
use tombolo_test_support::broker::Reply;

fn world(seed: u64) -> World {
    let mut world = World::new(seed, Setup::of(Site::usual(&["door-1", "door-2"])));
    world.busy("door-1", Transport::Dtls, Duration::from_secs(2), &["t/env", "t/poison"]);
    world.busy("door-2", Transport::Dtls, Duration::from_secs(3), &["t/env", "alarm/x"]);
    world
}

/// Twenty minutes with a broker that answers one topic so.
fn refuse_one_topic(seed: u64, reply: impl Fn(u8) -> Reply) {
    let mut world = world(seed);
    let code = [0x80, 0x83, 0x87, 0x90, 0x99][world.chance.draw(5) as usize];
    let reply = reply(code);
    world.policy(move |d| if d.topic.ends_with("/poison") { reply } else { Reply::Ack(0) });
    world.run_for(Duration::from_secs(1_200));
    let ledger = world.ledger.clone();
    let aside = ledger.borrow().count(|reading| reading.named == Some("rejected"));
    let others = ledger.borrow().count(|r| r.named.is_some() && !r.path.ends_with("poison"));
    let flows = ledger.borrow().count(|reading| reading.delivered);
    let story = world.story();
    assert!(aside > 0 && others == 0 && flows > 300, "{reply:?}: {aside} {others} {flows}: {story}");
    world.end();
}

#[test]
fn only_the_readings_of_the_refused_topic_are_set_aside() {
    cases(3, |seed| refuse_one_topic(seed, Reply::Ack));
    cases(3, |seed| refuse_one_topic(seed, Reply::Disconnect));
}

#[test]
fn only_the_readings_of_the_topic_it_refuses_and_closes_over_are_set_aside() {
    cases(20, |seed| refuse_one_topic(seed, Reply::AckAndClose));
}

#[test]
fn a_broker_that_refuses_everything_condemns_nobody() {
    cases(3, |seed| {
        let mut world = world(seed);
        world.run_for(Duration::from_secs(60));
        let code = [0x80, 0x87, 0x90, 0x95, 0x99][world.chance.draw(5) as usize];
        world.policy(move |_| Reply::Ack(code));
        world.run_for(Duration::from_secs(1_800));
        let aside = world.ledger.borrow().count(|reading| reading.named.is_some());
        assert_eq!(aside, 0, "code {code:#x}");
        let world = world.end();
        assert_eq!(world.ledger.borrow().count(|r| r.committed && !r.delivered), 0);
    });
}
