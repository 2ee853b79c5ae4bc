use super::*;

const BUILD: UnixTime = UnixTime::from_secs(1_767_225_600); // 2026-01-01
const DAY: u64 = DAY_MS;
const YEAR: u64 = 365 * DAY;
/// 2026-07-01
const NOW: u64 = 1_782_864_000_000;
const ONE: BootId = [1; 16];
const TWO: BootId = [2; 16];

fn look(boottime_ms: u64, raw: u64) -> Look {
    Look { boottime_ms, raw: UnixTime(raw), synchronised: true }
}

fn unsynchronised(boottime_ms: u64, raw: u64) -> Look {
    Look { synchronised: false, ..look(boottime_ms, raw) }
}

fn chain(from: u64, to: u64) -> ChainValidity {
    let leaf = Duration::from_millis(to - from);
    ChainValidity { not_before: UnixTime(from), not_after: UnixTime(to), leaf }
}

/// A leaf of 90 days, as public CAs issue them, a month old.
fn short() -> ChainValidity {
    chain(NOW - 30 * DAY, NOW + 60 * DAY)
}

/// A private chain of 20 years.
fn long() -> ChainValidity {
    chain(NOW - YEAR, NOW + 19 * YEAR)
}

fn fresh() -> Judge {
    Judge::new(BUILD, Some(ONE), false, None)
}

/// One that ran for an hour at the right time and was stopped.
fn saved(prove: Option<ChainValidity>) -> Saved {
    let mut judge = fresh();
    judge.observe(look(1_000, NOW - 3_600_000));
    if let Some(chain) = prove {
        judge.learn(chain, look(2_000, NOW - 3_599_000));
    }
    judge.observe(look(3_601_000, NOW));
    judge.saved()
}

fn next_boot(saved: Saved) -> Judge {
    Judge::new(BUILD, Some(TWO), false, Some(saved))
}

fn doubted(judge: &Judge) -> bool {
    matches!(judge.verdict(), Verdict::Doubted(_))
}

#[test]
fn at_first_start_the_kernel_is_believed_but_nothing_is_stamped_or_aged_by_it() {
    let mut judge = fresh();
    judge.observe(unsynchronised(1_000, NOW));
    assert_eq!(judge.verdict(), Verdict::NotSynchronised);
    judge.observe(look(2_000, NOW));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Kernel));
    assert_eq!(judge.wall(UnixTime(NOW + 5), 2_005), Some(UnixTime(NOW + 5)));
    assert_eq!(judge.ages_from(), None);
    assert_eq!(judge.floor(), BUILD, "without evidence the floor does not rise");
    judge.observe(look(2_000 + DAY, NOW + DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Duration));
    assert_eq!(judge.ages_from(), Some(UnixTime(NOW)));
}

#[test]
fn a_machine_that_is_off_at_night_gets_its_wall_stamps_on_the_second_day() {
    let mut judge = fresh();
    for day in 0..2 {
        let boot: BootId = [10 + day as u8; 16];
        judge = Judge::new(BUILD, Some(boot), false, Some(judge.saved()).filter(|_| day > 0));
        judge.observe(look(30_000, NOW + day * DAY));
        assert_eq!(judge.ages_from().is_some(), day > 0, "day {day}");
        judge.observe(look(30_000 + 12 * 3_600_000, NOW + day * DAY + 12 * 3_600_000));
        assert!(matches!(judge.verdict(), Verdict::Trusted(_)));
    }
}

#[test]
fn in_1970_it_is_impossible_whoever_vouches_for_it() {
    let mut judge = fresh();
    judge.set_always(true);
    judge.observe(look(20_000, 20_000));
    assert_eq!(judge.verdict(), Verdict::Impossible { certain: BUILD, by_certificate: false });
    assert_eq!((judge.wall(UnixTime(20_000), 20_000), judge.doubted(UnixTime(20_000), 20_000)), (None, None));
    assert_eq!(
        judge.trust(look(21_000, 21_000)),
        Err(TrustError::Impossible { certain: BUILD, by_certificate: false })
    );
    judge.observe(look(30_000, NOW));
    assert!(judge.wall(UnixTime(NOW), 30_000).is_some(), "and forgotten as soon as it is right");
}

#[test]
fn a_jump_across_boots_is_doubted_forward_and_back_in_2036_and_in_2039() {
    for years in [10, 13] {
        for raw in [NOW + years * YEAR, NOW + 2 * DAY, NOW - 2 * DAY] {
            for basis in [None, Some(short()), Some(long())] {
                let mut judge = next_boot(saved(basis));
                let floor = judge.floor();
                judge.observe(look(10_000, raw));
                assert!(doubted(&judge), "{raw}");
                assert_eq!((judge.wall(UnixTime(raw), 10_000), judge.ages_from()), (None, None));
                assert_eq!(judge.floor(), floor);
                // The next boot finds what it would have found without this one.
                let mut judge = Judge::new(BUILD, Some([3; 16]), false, Some(judge.saved()));
                judge.observe(look(10_000, NOW + 3_600_000));
                assert!(matches!(judge.verdict(), Verdict::Trusted(_)), "{:?}", judge.verdict());
            }
        }
    }
}

#[test]
fn an_ordinary_restart_is_no_jump() {
    for off in [0, 60_000, 23 * 3_600_000] {
        let mut judge = next_boot(saved(Some(short())));
        judge.observe(look(40_000, NOW + off + 40_000));
        assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate));
    }
    // The daemon alone, stopped for a month while the machine ran.
    let mut judge = Judge::new(BUILD, Some(ONE), false, Some(saved(Some(short()))));
    judge.observe(look(3_601_000 + 30 * DAY, NOW + 30 * DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate));
    // Started a month after its boot.
    let mut judge = next_boot(saved(None));
    judge.observe(look(30 * DAY, NOW + 30 * DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Duration));
}

#[test]
fn a_jump_within_a_boot_is_doubted_between_two_looks_too_and_over_when_it_is_undone() {
    let mut judge = fresh();
    judge.observe(look(1_000, NOW));
    judge.learn(short(), look(1_000, NOW));
    for by in [10 * YEAR as i64, 2 * DAY as i64, -(2 * DAY as i64)] {
        let jumped = |boottime: u64| UnixTime((NOW + boottime).saturating_add_signed(by));
        assert_eq!(judge.wall(jumped(5_000), 5_000), None, "before anybody looked");
        judge.observe(Look { raw: jumped(6_000), ..look(6_000, 0) });
        if by.unsigned_abs() > 60 * DAY {
            assert!(doubted(&judge));
            assert_eq!(judge.doubted(jumped(6_000), 6_000), Some(jumped(6_000)));
        }
        judge.observe(look(7_000, NOW + 6_000));
        assert!(matches!(judge.verdict(), Verdict::Trusted(_)));
    }
}

#[test]
fn small_steps_do_not_add_up_unseen() {
    let mut judge = fresh();
    judge.observe(look(0, NOW));
    let step = 20 * 3_600_000;
    judge.observe(look(1_000, NOW + step));
    assert!(matches!(judge.verdict(), Verdict::Trusted(_)));
    judge.observe(look(2_000, NOW + 2 * step));
    assert!(doubted(&judge));
}

#[test]
fn evidence_ends_a_doubt_and_raises_the_floor_and_twenty_years_do_not() {
    let month = NOW + 30 * DAY;
    let mut judge = next_boot(saved(None));
    judge.observe(look(10_000, month));
    assert!(doubted(&judge));
    judge.learn(long(), look(11_000, month + 1_000));
    assert!(doubted(&judge));
    assert_eq!(judge.floor(), BUILD, "that chain begins before the build date");
    judge.learn(short(), look(12_000, month + 2_000));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate));
    assert_eq!(judge.floor(), UnixTime(month + 2_000));
    judge.observe(look(13_000, month + 3_000));
    assert_eq!(judge.floor(), UnixTime(month + 3_000));
    // Two years in the same connection: no further than the chain is valid.
    judge.observe(look(13_000 + 2 * YEAR, month + 2 * YEAR));
    assert_eq!(judge.floor(), short().not_after);
}

#[test]
fn a_chain_seen_before_the_clock_was_synchronised_is_evidence_for_the_offset() {
    let mut judge = next_boot(saved(None));
    judge.observe(unsynchronised(10_000, 10_000));
    judge.learn(short(), unsynchronised(11_000, 11_000));
    assert_eq!(judge.floor(), short().not_before);
    judge.observe(look(60_000, NOW + 30 * DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate));
    // And for no other.
    let mut judge = next_boot(saved(None));
    judge.learn(short(), unsynchronised(11_000, 11_000));
    judge.observe(look(60_000, NOW + 10 * YEAR));
    assert!(doubted(&judge));
    let mut judge = next_boot(saved(None));
    judge.learn(short(), unsynchronised(11_000, 11_000));
    judge.observe(look(60 * DAY, NOW + 100 * DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate), "it was valid when it was seen");
}

#[test]
fn a_day_of_uninterrupted_synchronisation_ends_a_doubt_and_an_interruption_begins_it_anew() {
    let jump = NOW + 10 * YEAR;
    let mut judge = next_boot(saved(Some(long())));
    judge.observe(look(0, jump));
    judge.observe(look(DAY - 1, jump + DAY - 1));
    assert!(doubted(&judge));
    assert_eq!(judge.view().steady_in, Some(Duration::from_millis(1)));
    judge.observe(unsynchronised(DAY, jump + DAY));
    judge.observe(look(DAY + 1, jump + DAY + 1));
    judge.observe(look(2 * DAY, jump + 2 * DAY));
    assert!(doubted(&judge));
    judge.observe(look(2 * DAY + 1, jump + 2 * DAY + 1));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Duration));
    assert_eq!(
        judge.ages_from(),
        Some(UnixTime(jump + 2 * DAY + 1)),
        "stamps of before the jump age nothing"
    );
    assert_eq!(judge.floor(), BUILD);
    // A second jump begins the day anew.
    let mut judge = next_boot(saved(Some(long())));
    judge.observe(look(0, jump));
    judge.observe(look(DAY / 2, jump + YEAR));
    judge.observe(look(DAY + 1, jump + YEAR + DAY / 2));
    assert!(doubted(&judge));
}

#[test]
fn the_owners_word_ends_a_doubt() {
    let mut judge = next_boot(saved(None));
    assert_eq!(judge.trust(unsynchronised(1_000, NOW + YEAR)), Err(TrustError::NotSynchronised));
    judge.observe(look(2_000, NOW + YEAR));
    assert!(doubted(&judge));
    judge.trust(look(3_000, NOW + YEAR)).unwrap();
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Owner));
    assert_eq!(judge.floor(), BUILD, "it is no evidence");
    // And so for the next boots.
    let mut judge = Judge::new(BUILD, Some([9; 16]), false, Some(judge.saved()));
    judge.observe(look(3_000, NOW + YEAR + 10_000));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Owner));
}

#[test]
fn always_stands_for_synchronisation_and_not_for_evidence() {
    let mut judge = Judge::new(BUILD, Some(TWO), true, Some(saved(None)));
    judge.observe(unsynchronised(1_000, NOW + 1_000));
    assert!(matches!(judge.verdict(), Verdict::Trusted(_)));
    let mut judge = Judge::new(BUILD, Some(TWO), true, Some(saved(None)));
    judge.observe(unsynchronised(0, NOW + 10 * YEAR));
    assert!(doubted(&judge));
    judge.observe(unsynchronised(DAY, NOW + 10 * YEAR + DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Duration));
}

#[test]
fn at_first_start_a_chain_refutes_what_only_the_kernel_says() {
    for wrong in [NOW + 10 * YEAR, NOW - 100 * DAY] {
        for chain in [short(), chain(NOW - 60 * DAY, NOW + 5 * YEAR)] {
            let mut judge = fresh();
            judge.observe(look(1_000, wrong));
            assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Kernel));
            judge.learn(chain, look(2_000, wrong + 1_000));
            assert!(matches!(judge.verdict(), Verdict::Doubted(Doubt::Refuted) | Verdict::Impossible { .. }));
            assert!(judge.floor() <= UnixTime(NOW));
            // Set right, it is as at first.
            judge.observe(look(3_000, NOW));
            assert!(matches!(judge.verdict(), Verdict::Trusted(_)), "{:?}", judge.verdict());
        }
    }
    // Refuted, a day of synchronisation is needed from then on.
    let mut judge = fresh();
    judge.observe(look(0, NOW + 10 * YEAR));
    judge.learn(short(), look(DAY - 1, NOW + 10 * YEAR + DAY - 1));
    judge.observe(look(DAY, NOW + 10 * YEAR + DAY));
    assert_eq!(judge.verdict(), Verdict::Doubted(Doubt::Refuted));
    judge.observe(look(2 * DAY, NOW + 10 * YEAR + 2 * DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Duration));
}

#[test]
fn with_more_than_the_kernels_word_for_the_clock_a_chain_does_not_refute_it() {
    let mut judge = fresh();
    judge.observe(look(0, NOW));
    judge.observe(look(DAY, NOW + DAY));
    judge.learn(chain(NOW - 2 * YEAR, NOW - YEAR), look(DAY, NOW + DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Duration));
}

#[test]
fn a_first_clock_more_than_twenty_years_after_the_build_is_doubted_and_the_floor_never_goes_there() {
    let late = BUILD.0 + 21 * YEAR;
    let mut judge = fresh();
    judge.observe(look(1_000, late));
    assert_eq!(judge.verdict(), Verdict::Doubted(Doubt::Implausible));
    judge.learn(chain(late - DAY, late + DAY), look(2_000, late));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate));
    assert_eq!(judge.floor(), UnixTime(BUILD.0 + CAP.as_millis() as u64));
    let judge = next_boot(Saved { certain: UnixTime(u64::MAX), proven: UnixTime(u64::MAX), timeline: None });
    assert_eq!(judge.floor(), UnixTime(BUILD.0 + CAP.as_millis() as u64));
}

#[test]
fn a_floor_file_of_2036_of_the_version_before_heals_by_the_first_chain_or_in_a_day() {
    let seconds = ((NOW + 10 * YEAR) / 1000).to_string();
    let text = format!("{seconds} {:08x}\n", crc32c::crc32c(seconds.as_bytes()));
    let old = Saved::parse_floor(&text).unwrap();
    let mut judge = next_boot(old);
    judge.observe(look(10_000, NOW));
    assert!(doubted(&judge));
    assert_eq!(judge.floor(), BUILD);
    judge.learn(short(), look(20_000, NOW + 10_000));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate));
    assert_eq!(judge.ages_from(), Some(UnixTime(NOW + 10_000)), "what was stamped before ages nothing");
    let mut judge = next_boot(old);
    judge.observe(look(0, NOW));
    judge.observe(look(DAY, NOW + DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Duration));
    // The lie goes on over the upgrade, in the same boot: the chain refutes it.
    let mut judge = next_boot(old);
    judge.observe(look(40 * DAY, NOW + 10 * YEAR + 60_000));
    assert_eq!((judge.verdict(), judge.ages_from()), (Verdict::Trusted(Basis::Kernel), None));
    judge.learn(short(), look(40 * DAY, NOW + 10 * YEAR + 60_000));
    assert_eq!(judge.verdict(), Verdict::Doubted(Doubt::Refuted));
}

#[test]
fn a_month_switched_off_is_doubted_and_proven_and_then_ages_what_is_stored() {
    let before = saved(Some(short()));
    let since = before.timeline.unwrap().since;
    let mut judge = next_boot(before);
    judge.observe(look(10_000, NOW + 30 * DAY));
    assert!(doubted(&judge));
    judge.learn(short(), look(20_000, NOW + 30 * DAY + 10_000));
    assert_eq!(judge.ages_from(), since, "both sides are proven");
    // Where one is not, what was stored before ages nothing.
    let mut judge = next_boot(saved(None));
    judge.observe(look(10_000, NOW + 30 * DAY));
    judge.learn(short(), look(20_000, NOW + 30 * DAY + 10_000));
    assert_eq!(judge.ages_from(), Some(UnixTime(NOW + 30 * DAY + 10_000)));
    // Nor over a jump within a boot, whatever proves it: one of its sides was wrong.
    let mut judge = fresh();
    judge.observe(look(0, NOW));
    judge.learn(short(), look(0, NOW));
    judge.observe(look(1_000, NOW + 50 * DAY));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate));
    assert_eq!(judge.ages_from(), Some(UnixTime(NOW + 50 * DAY)));
}

#[test]
fn a_clock_set_back_with_evidence_is_trusted_and_the_floor_stays_for_a_day() {
    // A lie within the chain's validity was proven; now the clock is right.
    let lie = NOW + 50 * DAY;
    let mut judge = fresh();
    judge.observe(look(0, lie));
    judge.learn(short(), look(0, lie));
    assert_eq!(judge.floor(), UnixTime(lie));
    judge.observe(look(1_000, NOW));
    judge.learn(short(), look(2_000, NOW + 1_000));
    assert_eq!(judge.verdict(), Verdict::Trusted(Basis::Certificate));
    assert_eq!(judge.floor(), UnixTime(lie), "else a clock set back would let expired chains in");
    let view = judge.view();
    assert_eq!(view.floor_from, FloorSource::Proven);
    assert_eq!(view.floor_ahead, Some(Duration::from_millis(50 * DAY - 1_000)));
    judge.observe(look(1_000 + DAY, NOW + DAY));
    assert_eq!(judge.floor(), UnixTime(NOW + DAY));
    assert_eq!(judge.view().floor_ahead, None);
    // Across a boot it is doubted again.
    let mut judge = fresh();
    judge.observe(look(0, lie));
    judge.learn(short(), look(0, lie));
    judge.observe(look(1_000, NOW));
    let mut judge = next_boot(judge.saved());
    judge.observe(look(5_000, NOW + 60_000));
    assert!(matches!(judge.verdict(), Verdict::Doubted(Doubt::Behind { .. })));
}

#[test]
fn the_floor_does_not_sink_below_the_newest_not_before_but_by_the_owner() {
    let mut judge = fresh();
    judge.learn(short(), unsynchronised(0, 0));
    let certain = short().not_before;
    let back = certain.0 - 1;
    judge.observe(look(1_000, back));
    assert_eq!(judge.verdict(), Verdict::Impossible { certain, by_certificate: true });
    judge.observe(look(1_000 + 2 * DAY, back));
    assert_eq!(judge.floor(), certain);
    assert_eq!(judge.view().floor_from, FloorSource::NotBefore);
    let mut judge = next_boot(judge.saved());
    judge.observe(look(1_000, back));
    assert_eq!(judge.verdict(), Verdict::Impossible { certain, by_certificate: true });
    assert!(judge.trust(look(2_000, back)).is_err());
    judge.reset(look(3_000, back));
    assert_eq!((judge.floor(), judge.view().floor_from), (BUILD, FloorSource::Build));
    assert!(matches!(judge.verdict(), Verdict::Trusted(_)));
}

#[test]
fn a_reset_lowers_the_floor_and_a_clock_in_doubt_stays_in_doubt() {
    let mut judge = next_boot(saved(Some(short())));
    judge.observe(look(1_000, NOW + 10 * YEAR));
    assert!(judge.floor() > BUILD);
    judge.reset(look(2_000, NOW + 10 * YEAR));
    assert_eq!(judge.floor(), BUILD);
    assert!(doubted(&judge));
}

#[test]
fn the_reason_of_a_doubt_is_that_of_its_beginning() {
    let mut judge = next_boot(saved(None));
    judge.observe(look(0, NOW + 10 * YEAR));
    let first = judge.verdict();
    judge.observe(look(1_000, NOW + 10 * YEAR + 1_000));
    assert_eq!(judge.verdict(), first);
    assert_eq!(
        first.to_string(),
        "since 2026-07-01T00:00:00.000Z, the last time known before this boot, it went 3650 days forward"
    );
}

#[test]
fn absurd_clocks_do_not_overflow() {
    for raw in [0, 1, u64::MAX, u64::MAX / 2, i64::MAX as u64, 253_402_300_800_000] {
        for boottime in [0, 1, u64::MAX, u64::MAX / 2] {
            let mut judge = next_boot(saved(Some(short())));
            judge.observe(look(boottime, raw));
            judge.learn(chain(0, u64::MAX), look(boottime, raw));
            let _ = judge.trust(look(boottime, raw));
            judge.reset(look(boottime, raw));
            let _ = (judge.wall(UnixTime(raw), boottime), judge.view(), judge.saved().encode());
            let mut judge = Judge::new(UnixTime(u64::MAX), None, true, Some(judge.saved()));
            judge.observe(look(boottime, raw));
        }
    }
}
