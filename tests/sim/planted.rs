//! The simulation notices what it is for: each fault, planted in an adapter around the product,
//! breaks the promise it should.

use std::time::Duration;

use crate::node::Transport;
use crate::plant::Plant;
use crate::product::WhenFull;
use crate::rules::{Rule, Site};
use crate::world::{Setup, World};
use tombolo_test_support::broker::Reply;
use tombolo_test_support::journal::disk::Cut;

/// A quarter of an hour with all that can happen: a refused path, a full lane, a reload, power
/// cuts, a clock that jumps.
fn run(plant: Plant) -> Result<(), String> {
    let mut site = Site::usual(&["door-1", "door-2", "other", "meter"]);
    site.insecure = Some("other".to_owned());
    site.roles[0].rules.push(Rule::expiring("brief/#", 86_400));
    if plant == Plant::QuotaIgnored {
        (site.roles[0].messages, site.roles[0].burst) = (60, 5);
    }
    let mut setup = Setup::of(site.clone());
    setup.ports = vec!["meter".to_owned()];
    setup.plant = plant;
    setup.segments = 4;
    if plant == Plant::LossUntold {
        setup.when_full = WhenFull::DropOldest;
    }
    let mut world = World::new(1, setup);
    let paths = ["t/env", "alarm/x", "brief/x", "t/secret/x"];
    let door = world.busy("door-1", Transport::Dtls, Duration::from_secs(2), &paths);
    world.busy("door-2", Transport::Dtls, Duration::from_secs(3), &["t/env", "alarm/x"]);
    world.busy("other", Transport::Plain, Duration::from_secs(7), &["t/env"]);
    world.serial("meter", Duration::from_secs(5));
    world.run_for(Duration::from_secs(60));
    let image = world.image();
    // One topic is refused for a minute.
    world.policy(|d| if d.topic.ends_with("brief/x") { Reply::Ack(0x87) } else { Reply::Ack(0) });
    world.run_for(Duration::from_secs(60));
    world.audit();
    world.take_everything();
    world.broker_gone();
    world.run_for(Duration::from_secs(120));
    // A lane of four segments fills.
    world.nodes[door].payload = 900;
    let period = Duration::from_millis(200);
    let now = world.now;
    world.nodes[door].every(period, now);
    world.run_for(Duration::from_secs(150));
    world.nodes[door].every(Duration::from_secs(2), now);
    world.kernel.lie_ms = 400 * 86_400_000;
    for round in 0..4 {
        world.run_for(Duration::from_secs(130));
        world.cut_power(Cut::Some(round), Duration::from_secs(5));
        world.run_for(Duration::from_secs(20));
    }
    if plant == Plant::RunRepeated {
        world.restore(&image);
        world.run_for(Duration::from_secs(60));
    }
    world.broker_back();
    world.run_for(Duration::from_secs(60));
    world.kernel.lie_ms = 0;
    world.reload(site, vec!["meter".to_owned()]);
    world.run_for(Duration::from_secs(10));
    world.finish()
}

/// The promise that a planted fault breaks, in the checker's words.
fn breaks(plant: Plant, promise: &str) {
    match run(plant) {
        Ok(()) => panic!("{plant:?} was not noticed"),
        Err(why) => assert!(why.contains(promise), "{plant:?} was noticed as: {why}"),
    }
}

#[test]
fn without_a_planted_fault_no_promise_is_broken() {
    if let Err(why) = run(Plant::Nothing) {
        panic!("{why}");
    }
}

#[test]
fn an_answer_before_the_commit_is_noticed() {
    breaks(Plant::AnswerBeforeCommit, "acknowledged to its device and no commit has it");
}

#[test]
fn a_trim_before_the_puback_is_noticed() {
    breaks(Plant::ReleaseBeforePuback, "was released before its PUBACK");
}

#[test]
fn a_release_that_passes_a_record_to_be_set_aside_is_noticed() {
    breaks(Plant::ReleaseBeforeReject, "not delivered, not stored, not named");
}

#[test]
fn more_bytes_to_an_unproven_address_than_three_times_its_own_are_noticed() {
    breaks(Plant::Amplifies, "times what it sent");
}

#[test]
fn a_rule_that_is_bypassed_is_noticed() {
    breaks(Plant::RuleBypassed, "no rule allows it");
}

#[test]
fn a_refused_reading_counted_as_stored_is_noticed() {
    breaks(Plant::RefusedCountedAsStored, "are counted as stored");
}

#[test]
fn a_refusal_that_the_store_hides_is_noticed() {
    breaks(Plant::RefusalSwallowed, "acknowledged to its device and no commit has it");
}

#[test]
fn a_reading_under_another_devices_topic_is_noticed() {
    breaks(Plant::WrongDevice, "was published to tombolo/gw/other/up/t/env");
}

#[test]
fn a_changed_payload_is_noticed() {
    breaks(Plant::PayloadChanged, "was changed");
}

#[test]
fn a_loss_that_is_not_told_is_noticed() {
    breaks(Plant::LossUntold, "the loss topic names");
}

#[test]
fn a_forgotten_deadline_is_noticed() {
    breaks(Plant::DeadlineForgotten, "no deadline");
}

#[test]
fn a_record_id_that_recurs_is_noticed() {
    breaks(Plant::RunRepeated, "was used twice");
}

#[test]
fn a_disk_that_forgets_what_was_synced_is_noticed() {
    breaks(Plant::DiskForgets, "not delivered, not stored, not named");
}

#[test]
fn a_quota_that_is_not_applied_is_noticed() {
    breaks(Plant::QuotaIgnored, "more than its quota");
}

#[test]
fn a_record_that_expires_early_is_noticed() {
    breaks(Plant::ExpiresEarly, "expired");
}
