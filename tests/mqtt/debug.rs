use crate::support::broker::Reply;
use crate::support::{World, bare_settings};
use std::time::Duration;
use tombolo::message::Lane;
use tombolo::northbound::settings::Protocol;

#[test]
fn debug() {
    let mut settings = bare_settings();
    settings.protocol = Protocol::V5;
    let mut world = World::new(settings);
    world.broker.policy = Box::new(|d| {
        let r = if d.topic.starts_with("bad") { Reply::Close } else { Reply::Ack(0) };
        println!("  {:?} {} {:?} {r:?}", d.at, d.topic, String::from_utf8_lossy(&d.payload));
        r
    });
    for number in 1..=10 {
        let topic = if number == 3 { "bad" } else { "good" };
        world.store(Lane::Normal, topic, number.to_string().as_bytes());
    }
    for _ in 0..25 {
        world.store(Lane::Normal, "good", b"more");
        for _ in 0..10 {
            world.run_for(Duration::from_millis(100));
            for event in world.events.drain(..) {
                println!("{:?} {event:?}", world.moment.now - world.start);
            }
        }
    }
}
