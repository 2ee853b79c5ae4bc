//! A man in the middle with the key of a certificate that has expired, who also sets the clock.

use tombolo::clock::UnixTime;
use tombolo::clock::judge::{Basis, Verdict};

use super::world::{Broker, DAY, Leaf, World};

#[test]
fn a_certificate_that_had_expired_when_the_time_was_proven_is_refused_unless_the_lie_is_believed_for_a_day() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..600 {
        let mut world = World::new(5_000_000 + seed, Broker::Short);
        world.tell_the_truth();
        let days = world.chance.below(60);
        world.pass(days * DAY + 1_000);
        world.connect();
        assert_eq!(world.verdict(), Verdict::Trusted(Basis::Certificate));
        let (proven, newest) = (world.now, world.leaf.from);
        // Expired by up to three months, valid for three months.
        let to = proven - 1_000 - world.chance.below(90) * DAY;
        let stolen = Leaf { from: to - 90 * DAY, to };
        // The clock is set to where it was valid, and it is tried again and again, the machine
        // restarted or not.
        let mut since = None;
        for _ in 0..12 {
            match world.chance.below(6) {
                0 => world.pass(3_600_000),
                1 => world.pass(DAY),
                2 => world.synchronised = !world.synchronised,
                3 => {
                    let target = stolen.from + world.chance.below(91) * DAY;
                    world.lie_ms = target as i64 - world.now as i64;
                    since = Some(world.now);
                }
                // The true broker may be let through, to prove what it can.
                4 => {
                    world.handshake(world.leaf);
                }
                _ => world.observe(),
            }
            let got_in = world.handshake(stolen);
            if !got_in {
                refused += 1;
                continue;
            }
            accepted += 1;
            assert!(
                stolen.to >= newest,
                "seed {seed}: it had expired before the newest certificate was made"
            );
            let lied = since.map_or(0, |since| world.now - since);
            assert!(lied >= DAY, "seed {seed}: after {lied} ms: {:?}", world.verdict());
            assert!(world.judge.floor() <= UnixTime(stolen.to), "seed {seed}");
            break;
        }
    }
    assert!(refused > 1_000 && accepted > 0, "{refused} refused, {accepted} accepted: both happen");
}
