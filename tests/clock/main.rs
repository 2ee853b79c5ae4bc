//! The verdict on the clock over random lives of a machine: boots, power cuts, jumps, time servers
//! that lie, brokers whose chains prove the time or do not. Virtual time; a seed names a life.

mod attacker;
mod tls;
mod world;

use tombolo::clock::judge::{Basis, Verdict};
use world::{Broker, DAY, World};

const SEEDS: u64 = 600;

/// One life with this broker; `wrong` lists the lies there may be, in days.
fn live(seed: u64, broker: Broker, wrong: &[i64]) -> World {
    let mut world = World::new(seed, broker);
    for _ in 0..60 {
        world.random_step(wrong);
    }
    world
}

/// Provable lies lie within the validity of a chain; these do not.
const FAR: [i64; 8] = [-20_000, -2_000, -900, 900, 3_650, 4_745, 9_000, 30_000];
const NEAR: [i64; 6] = [-60, -20, -2, 2, 20, 60];

#[test]
fn nothing_expires_by_an_unproven_time_and_no_lie_reaches_the_floor() {
    // The world itself asserts this at every step.
    for seed in 0..SEEDS {
        let broker = Broker::ALL[seed as usize % Broker::ALL.len()];
        let world = live(seed, broker, &FAR);
        assert!(!world.lie_was_proven, "seed {seed}: none of these lies can be proven");
    }
}

#[test]
fn lies_within_a_certificates_validity_do_no_harm_that_outlasts_them() {
    for seed in 0..SEEDS {
        let broker = Broker::ALL[seed as usize % Broker::ALL.len()];
        let all: Vec<i64> = FAR.into_iter().chain(NEAR).collect();
        live(1_000_000 + seed, broker, &all);
    }
}

#[test]
fn with_a_tls_uplink_and_a_short_lived_leaf_a_right_clock_is_proven_by_the_next_connection() {
    for seed in 0..SEEDS {
        let all: Vec<i64> = FAR.into_iter().chain(NEAR).collect();
        let mut world = live(2_000_000 + seed, Broker::Short, &all);
        world.tell_the_truth();
        world.connect();
        assert_eq!(world.verdict(), Verdict::Trusted(Basis::Certificate), "seed {seed}");
        world.assert_online();
    }
}

#[test]
fn without_evidence_a_right_clock_is_believed_after_a_day() {
    for seed in 0..SEEDS {
        for broker in [Broker::Plain, Broker::Long] {
            let all: Vec<i64> = FAR.into_iter().chain(NEAR).collect();
            let mut world = live(3_000_000 + seed, broker, &all);
            world.tell_the_truth();
            world.pass(DAY + 3_600_000);
            assert!(matches!(world.verdict(), Verdict::Trusted(_)), "seed {seed}: {:?}", world.verdict());
            world.connect();
            world.assert_online();
        }
    }
}

#[test]
fn after_a_change_to_another_kind_of_broker_it_is_online_within_a_day_of_the_truth() {
    for seed in 0..SEEDS {
        let all: Vec<i64> = FAR.into_iter().chain(NEAR).collect();
        let from = Broker::ALL[seed as usize % Broker::ALL.len()];
        let mut world = live(4_000_000 + seed, from, &all);
        world.change_broker(Broker::ALL[seed as usize / 7 % Broker::ALL.len()]);
        world.tell_the_truth();
        world.pass(DAY + 3_600_000);
        world.connect();
        world.assert_online();
    }
}
