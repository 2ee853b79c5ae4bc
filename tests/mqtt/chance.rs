//! Whatever the broker and the network do, in whatever order: nothing is lost, nothing overtakes,
//! nothing panics.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use tombolo::message::Lane;
use tombolo::northbound::publisher::Event as PublisherEvent;
use tombolo::northbound::reason_code::Cause;
use tombolo::northbound::settings::Protocol;
use tombolo::northbound::uplink::Event;
use tombolo::splitmix::SplitMix64;

use crate::support::{World, bare_settings, settings};
use tombolo_test_support::broker::Reply;

/// A record's topic and payload.
type Key = (String, Vec<u8>);

#[test]
fn under_every_mixture_of_faults_all_records_arrive_in_order_or_are_put_aside() {
    for seed in 0..300 {
        let mut chance = SplitMix64::new(seed);
        let mut settings = if chance.below(2) == 0 { settings() } else { bare_settings() };
        settings.max_in_flight = 1 + chance.below(40) as u16;
        let protocol = if chance.below(3) == 0 { Protocol::V3_1_1 } else { Protocol::Auto };
        settings.protocol = protocol;
        let mut world = World::new(settings);
        world.broker.receive_maximum = (chance.below(2) == 0).then(|| 1 + chance.below(30) as u16);
        world.broker.maximum_qos = (chance.below(6) == 0).then_some(0);
        // A record refused for a while is overtaken by those sent with it; nothing else may be.
        let overtaking = chance.below(2) == 0;
        let refused: Rc<RefCell<HashSet<Key>>> = Rc::default();
        let mut stored = [0u64; 2];
        for _ in 0..40 {
            let mut dice = chance.clone();
            // Over 3.1.1, and at QoS 0, a refusal cannot be told from success: there it is none.
            let can_refuse = protocol == Protocol::Auto && world.broker.maximum_qos.is_none();
            let bad = chance.below(if can_refuse { 6 } else { 3 });
            let told = refused.clone();
            world.broker.policy = Box::new(move |d| {
                let reply = match dice.below(100) {
                    0..3 if bad == 0 => Reply::Close,
                    0..3 if bad == 1 => Reply::Disconnect(0x80),
                    0..10 if bad == 2 => Reply::Hold,
                    0..20 if bad == 3 && overtaking => Reply::Ack(0x97),
                    0..3 if bad == 4 => Reply::Ack(0x87),
                    _ => Reply::Ack(0),
                };
                if reply != Reply::Ack(0) {
                    told.borrow_mut().insert((d.topic.clone(), d.payload.clone()));
                }
                reply
            });
            for _ in 0..chance.below(30) {
                let lane = Lane::ALL[chance.below(2) as usize];
                stored[lane.index()] += 1;
                let number = stored[lane.index()].to_string();
                world.store(lane, lane.as_str(), number.as_bytes());
            }
            match chance.below(8) {
                0 => world.kill_broker(),
                1 => world.cut(),
                2 => world.frozen = true,
                3 => world.outbox.pending = [true; 2],
                _ => {}
            }
            world.run_for(Duration::from_millis(1 + chance.below(40_000)));
            world.frozen = false;
            world.broker.reachable = true;
        }
        world.broker.policy = Box::new(|_| Reply::Ack(0));
        world.run_for(Duration::from_secs(1500));
        for lane in Lane::ALL {
            let tail = &world.events[world.events.len().saturating_sub(6)..];
            assert_eq!(world.outbox.waiting(lane), 0, "seed {seed}: {:?} {tail:?}", world.status());
            let aside: HashSet<u64> =
                world.outbox.rejected.iter().filter(|(l, ..)| *l == lane).map(|(_, s, _)| *s).collect();
            // The journal hands them out, and lets go of them, in order.
            let released = &world.outbox.released[lane.index()];
            assert!(released.is_sorted(), "seed {seed}");
            assert_eq!(released.len() + aside.len(), stored[lane.index()] as usize, "seed {seed}");
            // What was alone in flight when the network went is suspected, and others go first the
            // next time.
            let suspected = world.events.iter().filter_map(|event| match event {
                Event::Publisher(PublisherEvent::Suspected { lane: its, id, .. }) if *its == lane => {
                    Some(id.sequence)
                }
                _ => None,
            });
            let suspected: HashSet<u64> = suspected.collect();
            let mut arrived = HashSet::new();
            let mut newest = 0;
            for delivered in world.broker.delivered.iter().filter(|d| d.topic == lane.as_str()) {
                let number: u64 = String::from_utf8_lossy(&delivered.payload).parse().unwrap();
                let new = arrived.insert(number);
                let key = (delivered.topic.clone(), delivered.payload.clone());
                if refused.borrow().contains(&key) || suspected.contains(&number) {
                    continue; // it came again, and others went on meanwhile
                }
                assert!(overtaking || !new || number > newest, "seed {seed}: {number} after {newest}");
                newest = newest.max(number);
            }
            for number in 1..=stored[lane.index()] {
                assert!(
                    arrived.contains(&number) || aside.contains(&number),
                    "seed {seed}: {number} is lost"
                );
            }
        }
        for (_, _, code) in &world.outbox.rejected {
            assert!(
                matches!(code, Cause::Code(0x87) | Cause::Closed | Cause::Silent),
                "seed {seed}: {code:?}"
            );
        }
    }
}

#[test]
fn no_bytes_of_a_broker_panic() {
    let good: [&[u8]; 8] = [
        &[0x20, 3, 0, 0, 0],
        &[0x20, 9, 0, 0, 6, 0x21, 0, 20, 0x27, 0, 0],
        &[0x40, 4, 0, 1, 0, 0],
        &[0x90, 4, 0xFF, 0xFF, 0, 0],
        &[0x30, 7, 0, 1, b'a', 0, b'x', b'y', b'z'],
        &[0x32, 7, 0, 1, b'a', 0, 1, 0, b'x'],
        &[0xD0, 0],
        &[0xE0, 2, 0x8E, 0],
    ];
    for seed in 0..20_000 {
        let mut chance = SplitMix64::new(seed);
        let mut settings = settings();
        settings.protocol = if chance.below(2) == 0 { Protocol::V5 } else { Protocol::V3_1_1 };
        let mut world = World::new(settings);
        for _ in 0..5 {
            world.store(Lane::Normal, "a", b"1");
        }
        if chance.below(4) > 0 {
            world.settle();
        } else {
            world.uplink.poll_connect(world.moment.now);
            world.uplink.handle_connected(world.moment.now, None, Default::default());
        }
        for _ in 0..chance.below(12) {
            let mut bytes = good[chance.below(8) as usize].to_vec();
            for _ in 0..chance.below(4) {
                let place = chance.below(bytes.len() as u64) as usize;
                bytes[place] = chance.below(256) as u8;
            }
            bytes.truncate(1 + chance.below(bytes.len() as u64 * 2) as usize);
            world.uplink.handle_bytes(&world.moment, &mut world.outbox, &bytes);
            world.uplink.fill(&world.moment, &mut world.outbox);
        }
        world.advance(Duration::from_secs(30));
        world.uplink.handle_timeout(&world.moment, &mut world.outbox);
    }
}
