//! Random operations with power cuts and failures: the records read back match the model.

use proptest::prelude::*;
use tombolo::journal::settings::WhenFull;
use tombolo::message::Lane;

use tombolo_test_support::journal::disk::Cut;
use tombolo_test_support::journal::harness::{Rig, settings};

#[derive(Clone, Debug)]
enum Step {
    Append(Lane, usize),
    Commit(bool),
    Maintain,
    Release(Lane, u8),
    Reject(Lane, u8),
    Lose(Lane, u8),
    TellLosses(Lane),
    Discard(u8),
    Wait(u16),
    FailSyncs(u8),
    FailWrites(u8),
    PowerCut(Option<u64>),
    PowerCutAfter(u8, u64),
    Restart,
}

fn lane() -> impl Strategy<Value = Lane> {
    prop_oneof![Just(Lane::High), Just(Lane::Normal)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (lane(), 8usize..6000).prop_map(|(lane, length)| Step::Append(lane, length)),
        8 => any::<bool>().prop_map(Step::Commit),
        2 => Just(Step::Maintain),
        3 => (lane(), any::<u8>()).prop_map(|(lane, part)| Step::Release(lane, part)),
        1 => (lane(), any::<u8>()).prop_map(|(lane, part)| Step::Reject(lane, part)),
        1 => (lane(), any::<u8>()).prop_map(|(lane, part)| Step::Lose(lane, part)),
        1 => lane().prop_map(Step::TellLosses),
        1 => any::<u8>().prop_map(Step::Discard),
        1 => any::<u16>().prop_map(Step::Wait),
        1 => (1u8..4).prop_map(Step::FailSyncs),
        1 => (1u8..4).prop_map(Step::FailWrites),
        1 => proptest::option::of(any::<u64>()).prop_map(Step::PowerCut),
        1 => (1u8..40, any::<u64>()).prop_map(|(after, seed)| Step::PowerCutAfter(after, seed)),
        1 => Just(Step::Restart),
    ]
}

/// A sequence somewhere between the oldest record and the newest.
fn pick(rig: &Rig, lane: Lane, part: u8) -> Option<u64> {
    let view = rig.store.view(lane);
    let count = view.next_sequence - 1 - view.released;
    (count > 0).then(|| view.released + 1 + count * u64::from(part) / 256)
}

fn run(steps: Vec<Step>, when_full: WhenFull, segments: u64) {
    let mut rig = Rig::new(settings(when_full, segments));
    let mut cut = None;
    for step in steps {
        match step {
            Step::Append(lane, length) => drop(rig.append(lane, length)),
            Step::Commit(force) => drop(rig.commit_with(force)),
            Step::Maintain => rig.maintain(),
            Step::Release(lane, part) => {
                if let Some(through) = pick(&rig, lane, part) {
                    rig.release(lane, through);
                }
            }
            Step::Reject(lane, part) => {
                if let Some(sequence) =
                    pick(&rig, lane, part).filter(|s| !rig.model[lane.index()].losing.contains(s))
                {
                    rig.reject(lane, sequence);
                }
            }
            Step::Lose(lane, part) => {
                let free = |s: &u64| !rig.model[lane.index()].leaving.contains(s);
                if let Some(sequence) = pick(&rig, lane, part).filter(free) {
                    rig.lose(lane, sequence);
                }
            }
            Step::TellLosses(lane) => {
                // Of a lane that drops, what was dropped is how the check knows.
                if when_full == WhenFull::Refuse {
                    for loss in rig.store.losses(lane) {
                        rig.store.loss_published(rig.now, lane, loss.number, loss.count);
                    }
                }
            }
            Step::Discard(index) => {
                let entry = rig.store.rejected().nth(usize::from(index % 8)).copied();
                if let Some(entry) = entry {
                    rig.store.discard_rejected(rig.now, entry.number);
                    let model = &mut rig.model[entry.lane.index()];
                    model.losing.insert(entry.id.sequence);
                }
            }
            Step::Wait(ms) => rig.now += std::time::Duration::from_millis(u64::from(ms)),
            Step::FailSyncs(count) => rig.disk.fail_syncs(u32::from(count)),
            Step::FailWrites(count) => rig.disk.fail_writes(u32::from(count)),
            Step::PowerCutAfter(after, seed) => {
                rig.disk.cut_at(rig.disk.operations() + u64::from(after));
                cut = Some(Cut::Some(seed));
            }
            Step::PowerCut(seed) => {
                let left = rig.disk.after_power_cut(seed.map_or(Cut::Nothing, Cut::Some));
                rig = rig.reopened_on(left);
                cut = None;
            }
            Step::Restart => {
                if !rig.disk.is_off() {
                    rig.store.ask_checkpoints();
                    rig.commit_with(true);
                }
                let left = rig.disk.after_power_cut(Cut::Everything);
                rig = rig.reopened_on(left);
            }
        }
        if rig.disk.is_off() {
            let left = rig.disk.after_power_cut(cut.take().unwrap_or(Cut::Nothing));
            rig = rig.reopened_on(left);
        }
        rig.check();
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("JOURNAL_MODEL_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(150), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_lane_that_refuses_keeps_its_promise(steps in proptest::collection::vec(step(), 1..150)) {
        run(steps, WhenFull::Refuse, 6);
    }

    #[test]
    fn a_lane_that_drops_its_oldest_keeps_its_promise(steps in proptest::collection::vec(step(), 1..150)) {
        run(steps, WhenFull::DropOldest, 4);
    }
}

/// Found by chance: 3 was dropped, and the one segment that said so was let go after an error.
#[test]
fn what_was_lost_stays_told_when_an_error_leaves_no_segment_to_write_to() {
    use Step::*;
    let lane = Lane::High;
    let append = || Append(lane, 8);
    let steps = vec![
        append(),
        append(),
        Restart,
        PowerCut(None),
        Release(lane, 128),
        Maintain,
        Restart,
        append(),
        FailWrites(1),
        append(),
        Commit(false),
        append(),
        Commit(false),
        FailWrites(1),
        append(),
        Commit(false),
        append(),
        Commit(false),
        Reject(lane, 0),
        Commit(true),
        FailSyncs(1),
        append(),
        Commit(false),
        FailWrites(1),
        append(),
        Restart,
        Maintain,
        Restart,
    ];
    run(steps, WhenFull::DropOldest, 4);
}

/// Found by chance: the witness was made anew after an error, and a power cut brought the one
/// before back.
#[test]
fn a_witness_that_was_made_anew_is_the_one_that_a_power_cut_leaves() {
    use Step::*;
    let steps = vec![
        Append(Lane::High, 8),
        Restart,
        Append(Lane::High, 8),
        PowerCut(None),
        Append(Lane::Normal, 8),
        Commit(false),
        PowerCut(Some(1_312_541_020_963_732_186)),
        Maintain,
        Release(Lane::Normal, 0),
        Commit(true),
        FailWrites(2),
        Append(Lane::Normal, 8),
        Commit(false),
        Maintain,
        PowerCut(None),
    ];
    run(steps, WhenFull::Refuse, 6);
}

/// Found by chance: its sequences began anew, and a record that was discarded in the rejected store
/// had one of them.
#[test]
fn a_lane_that_an_error_leaves_without_records_does_not_begin_its_sequences_anew() {
    use Step::*;
    let h = Lane::High;
    let steps = vec![
        Append(h, 8),
        Commit(false),
        Append(h, 8),
        FailSyncs(3),
        Append(h, 8),
        Append(h, 8),
        Append(h, 8),
        Append(h, 8),
        Append(h, 8),
        Append(h, 8),
        Restart,
        Maintain,
        Reject(h, 0),
        Commit(true),
        FailWrites(1),
        FailSyncs(2),
        Append(Lane::Normal, 8),
        Append(h, 8),
        Commit(false),
        Maintain,
        Append(h, 8),
        PowerCut(None),
        Discard(56),
        Append(Lane::Normal, 8),
        Restart,
    ];
    run(steps, WhenFull::Refuse, 6);
}
