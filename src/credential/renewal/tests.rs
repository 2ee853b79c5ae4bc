use super::*;
use crate::credential::decision::RenewAt;

const DAY: u64 = 86_400;
const NOW: u64 = 1_782_864_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

fn valid(from: u64, life: u64) -> Validity {
    Validity { not_before: at(from), not_after: at(from + life) }
}

/// One certificate in virtual time.
struct World {
    begin: Instant,
    seconds: u64,
    clock_trusted: bool,
    renewal: Renewal,
    standing: Standing,
    events: Vec<Event>,
}

impl World {
    fn new(present: Option<Validity>) -> World {
        let settings = Settings {
            renew_at: RenewAt::default(),
            seed: "gw/upstream".to_owned(),
            may_enroll: true,
            by_hand: false,
        };
        let begin = Instant::now();
        let renewal = Renewal::new(begin, settings, present, History::default(), true, false);
        let standing = Standing::Accepted;
        World { begin, seconds: 0, clock_trusted: true, renewal, standing, events: Vec::new() }
    }

    fn due() -> World {
        let mut world = World::new(Some(valid(NOW, 7 * DAY)));
        world.pass(6 * DAY);
        world
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_secs(self.seconds)
    }

    fn clock(&self) -> Clock {
        Clock { now: at(NOW + self.seconds), trusted: self.clock_trusted }
    }

    fn pass(&mut self, seconds: u64) {
        self.seconds += seconds;
        self.renewal.handle_timeout(self.now(), self.clock(), self.standing);
    }

    /// The next action; time passes until there is one, for at most a day.
    fn action(&mut self) -> Option<Action> {
        for _ in 0..DAY {
            while let Some(event) = self.renewal.poll_event() {
                self.events.push(event);
            }
            if let Some(action) = self.renewal.poll_action() {
                return Some(action);
            }
            self.pass(1);
        }
        None
    }

    fn prepared(&mut self) {
        assert_eq!(self.action(), Some(Action::Prepare));
        self.renewal.handle_prepared(self.now(), self.clock(), Ok(()));
    }

    fn ordered(&mut self, outcome: Outcome) -> OrderKind {
        let Some(Action::Order { kind }) = self.action() else { panic!("no order") };
        self.renewal.handle_outcome(self.now(), self.clock(), outcome);
        kind
    }

    fn staged(&mut self) {
        let chain = vec![vec![1]];
        self.prepared();
        self.ordered(Outcome::Issued { chain: chain.clone() });
        assert_eq!(self.action(), Some(Action::Stage { chain }));
        self.renewal.handle_staged(self.now(), self.clock(), Ok(()));
    }

    fn probed(&mut self, verdict: Verdict) {
        assert_eq!(self.action(), Some(Action::Probe));
        self.standing = Standing::Unknown;
        self.renewal.handle_probed(self.now(), verdict);
    }

    fn committed(&mut self) {
        assert_eq!(self.action(), Some(Action::Commit));
        let present = Some(valid(NOW + self.seconds, 7 * DAY));
        self.renewal.handle_committed(self.now(), self.clock(), Ok(present));
    }

    fn has(&mut self, wanted: impl Fn(&Event) -> bool) -> bool {
        while let Some(event) = self.renewal.poll_event() {
            self.events.push(event);
        }
        self.events.iter().any(wanted)
    }
}

fn refused() -> Verdict {
    Verdict::Refused("unknown CA".to_owned())
}

fn closed() -> Verdict {
    Verdict::Closed("closed".to_owned())
}

fn fault() -> Verdict {
    Verdict::Fault("no route".to_owned())
}

#[test]
fn a_due_certificate_is_ordered_staged_probed_committed_and_confirmed() {
    let mut world = World::due();
    world.staged();
    world.probed(Verdict::Accepted);
    world.committed();
    assert_eq!(world.renewal.state(world.clock()), "committed");
    world.standing = Standing::Accepted;
    world.pass(1);
    assert!(world.has(|event| *event == Event::Confirmed));
    assert_eq!(world.renewal.state(world.clock()), "valid");
    assert!(world.renewal.due().unwrap() > world.clock().now);
    assert_eq!(world.action(), None, "and nothing more on that day");
}

#[test]
fn a_refusal_counts_only_once_the_present_certificate_is_accepted_again() {
    let mut world = World::due();
    world.staged();
    world.probed(refused());
    world.pass(300);
    assert_eq!(world.renewal.poll_action(), None, "nothing is known yet");
    world.standing = Standing::Accepted;
    assert_eq!(world.action(), Some(Action::Discard));
    assert!(world.has(|event| matches!(event, Event::Rejected(_))));
    assert!(world.renewal.last_error().unwrap().contains("unknown CA"));
    assert_eq!(world.action(), Some(Action::Prepare), "later another one is asked for");
}

#[test]
fn a_close_before_connack_counts_after_the_third_time() {
    let mut world = World::due();
    world.staged();
    for _ in 0..2 {
        world.probed(closed());
        world.standing = Standing::Accepted;
    }
    world.probed(closed());
    assert!(!world.has(|event| matches!(event, Event::Rejected(_))));
    world.standing = Standing::Accepted;
    assert_eq!(world.action(), Some(Action::Discard));
}

#[test]
fn the_network_never_gives_a_candidate_up() {
    let mut world = World::due();
    world.staged();
    let mut last = world.seconds;
    for round in 0..200 {
        world.probed(fault());
        let waited = world.seconds - last;
        assert!(round == 0 || (60..=900).contains(&waited), "{waited}");
        last = world.seconds;
    }
    world.probed(Verdict::Accepted);
    world.committed();
}

#[test]
fn where_the_present_one_is_refused_too_both_are_tried_in_turn_and_then_another_is_asked_for() {
    let mut world = World::due();
    world.staged();
    for _ in 1..ALTERNATIONS_MAX {
        world.probed(refused());
        world.standing = Standing::Refused;
    }
    world.probed(refused());
    world.standing = Standing::Refused;
    assert_eq!(world.action(), Some(Action::Discard));
    // Or one of the turns succeeds.
    let mut world = World::due();
    world.staged();
    world.probed(refused());
    world.standing = Standing::Refused;
    world.probed(Verdict::Accepted);
    world.committed();
}

#[test]
fn an_expired_certificate_enrols_anew_and_the_first_needs_no_probe() {
    let mut world = World::new(Some(valid(NOW, 7 * DAY)));
    world.pass(8 * DAY);
    assert_eq!(world.renewal.state(world.clock()), "ordering");
    world.prepared();
    let chain = vec![vec![1]];
    assert_eq!(world.ordered(Outcome::Issued { chain }), OrderKind::Enroll);
    let mut world = World::new(None);
    assert_eq!(world.renewal.state(world.clock()), "missing");
    world.staged();
    world.committed();
}

#[test]
fn not_yet_asks_again_with_the_same_request() {
    let mut world = World::due();
    world.prepared();
    world.ordered(Outcome::Later { after: Duration::from_secs(3_000) });
    let before = world.seconds;
    world.ordered(Outcome::Later { after: Duration::ZERO });
    assert_eq!(world.seconds - before, 3_000);
    let before = world.seconds;
    world.ordered(Outcome::Later { after: Duration::from_secs(u64::MAX) });
    assert_eq!(world.seconds - before, 5);
    let before = world.seconds;
    world.ordered(Outcome::Issued { chain: vec![vec![1]] });
    assert_eq!(world.seconds - before, 6 * 3600);
}

#[test]
fn failures_are_at_least_a_minute_apart_whatever_the_clock_does() {
    let mut world = World::due();
    let mut last = None;
    for round in 0..50u64 {
        world.prepared();
        let begun = world.seconds;
        assert!(last.is_none_or(|last| begun - last >= 60), "{begun} {last:?}");
        last = Some(begun);
        let outcome = match round % 2 {
            0 => Outcome::Failed { cause: "no route".to_owned() },
            _ => Outcome::Refused { cause: "401".to_owned() },
        };
        world.ordered(outcome);
        if round % 2 == 1 {
            assert_eq!(world.action(), Some(Action::Forget), "a refused key is not asked for again");
        }
        // The wall clock is set back, so that what was tried lies in its future.
        world.renewal.history.last_attempt = Some(at(NOW + 99 * 365 * DAY));
        if world.seconds > 7 * DAY {
            break;
        }
    }
}

#[test]
fn a_full_disk_delays_a_commit_and_loses_nothing() {
    let mut world = World::due();
    world.staged();
    world.probed(Verdict::Accepted);
    for _ in 0..5 {
        assert_eq!(world.action(), Some(Action::Commit));
        let full = Err("current.pem cannot be written: disk full".to_owned());
        world.renewal.handle_committed(world.now(), world.clock(), full);
    }
    world.committed();
}

#[test]
fn a_flawed_chain_is_never_probed() {
    let mut world = World::due();
    world.prepared();
    world.ordered(Outcome::Issued { chain: vec![vec![1]] });
    assert!(matches!(world.action(), Some(Action::Stage { .. })));
    let flaw = Err(StageFault::Flaw("it is the certificate of a CA".to_owned()));
    world.renewal.handle_staged(world.now(), world.clock(), flaw);
    assert_eq!(world.action(), Some(Action::Forget));
    assert!(world.renewal.last_error().unwrap().contains("CA"));
}

#[test]
fn a_candidate_found_at_the_start_is_probed_and_answers_to_nothing_asked_are_dropped() {
    let mut world = World::new(Some(valid(NOW, 7 * DAY)));
    let settings = world.renewal.settings.clone();
    let present = Some(valid(NOW, 7 * DAY));
    world.renewal = Renewal::new(world.begin, settings, present, History::default(), true, true);
    let (now, clock) = (world.now(), world.clock());
    world.renewal.handle_committed(now, clock, Ok(None));
    world.renewal.handle_outcome(now, clock, Outcome::Issued { chain: Vec::new() });
    world.renewal.handle_staged(now, clock, Ok(()));
    world.renewal.handle_prepared(now, clock, Ok(()));
    world.probed(Verdict::Accepted);
    world.committed();
}

#[test]
fn nothing_is_ordered_while_the_clock_is_not_trusted() {
    let mut world = World::new(Some(valid(NOW, 7 * DAY)));
    world.clock_trusted = false;
    for seconds in [6 * DAY, DAY, 20 * 365 * DAY] {
        world.pass(seconds);
        assert_eq!(world.renewal.poll_action(), None);
        assert_ne!(world.renewal.state(world.clock()), "expired");
    }
}

#[test]
fn what_a_person_asks_for_is_ordered_at_once() {
    let mut world = World::new(Some(valid(NOW, 7 * DAY)));
    world.pass(10);
    assert_eq!(world.renewal.poll_action(), None);
    assert!(world.renewal.ask());
    world.staged();
    assert!(!world.renewal.ask(), "one is on its way");
    world.probed(Verdict::Accepted);
    world.committed();
    assert_eq!(world.action(), None, "once");
}

#[test]
fn an_enrolment_that_a_person_asks_for_is_one_also_while_the_certificate_is_valid() {
    let mut world = World::new(Some(valid(NOW, 7 * DAY)));
    world.pass(DAY);
    assert!(world.renewal.ask_enroll());
    world.prepared();
    let kind = world.ordered(Outcome::Refused { cause: "no".to_owned() });
    assert_eq!(kind, OrderKind::Enroll);
    assert_eq!(world.action(), Some(Action::Forget));
    assert!(world.renewal.ask());
    world.prepared();
    assert_eq!(world.ordered(fetched()), OrderKind::Reenroll, "asked for once");
}

fn fetched() -> Outcome {
    Outcome::Issued { chain: vec![vec![1]] }
}

#[test]
fn what_comes_by_hand_is_never_ordered_and_proven_like_the_rest() {
    let mut world = World::new(Some(valid(NOW, DAY)));
    let settings = Settings { by_hand: true, ..world.renewal.settings.clone() };
    world.renewal.configure(settings);
    world.pass(2 * DAY);
    assert_eq!(world.renewal.poll_action(), None);
    assert!(world.has(|event| *event == Event::Expired));
    assert_eq!(world.renewal.state(world.clock()), "expired");
    world.renewal.handle_offered(world.now());
    world.probed(refused());
    world.standing = Standing::Accepted;
    world.pass(1);
    assert_eq!(world.action(), Some(Action::Discard));
    world.renewal.handle_offered(world.now());
    world.probed(Verdict::Accepted);
    assert!(!world.renewal.may_be_offered(), "it is being written");
    world.committed();
    assert!(world.renewal.may_be_offered());
    assert_eq!(world.renewal.state(world.clock()), "committed");
}

#[test]
fn a_candidate_that_is_offered_while_one_is_ordered_takes_its_place() {
    let mut world = World::due();
    world.prepared();
    assert!(matches!(world.action(), Some(Action::Order { .. })));
    world.renewal.handle_offered(world.now());
    world.renewal.handle_outcome(world.now(), world.clock(), fetched());
    world.probed(Verdict::Accepted);
    world.committed();
}
