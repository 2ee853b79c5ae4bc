use super::*;
use crate::credential::decision::RenewAt;
use crate::credential::store::State;

const DAY: u64 = 86_400;
const NOW: u64 = 1_782_864_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

fn valid(from: u64, life: u64) -> Validity {
    Validity { not_before: at(from), not_after: at(from + life) }
}

/// Of a certificate that was accepted.
fn kept() -> Kept {
    Kept { confirmed: true, ..Kept::default() }
}

/// One certificate in virtual time.
struct World {
    begin: Instant,
    seconds: u64,
    clock_trusted: bool,
    renewal: Renewal,
    standing: Standing,
    refusals: Refusals,
    connections: u64,
    previous: Option<Validity>,
    candidate: Option<Validity>,
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
        let renewal = Renewal::new(begin, settings, present, kept(), false);
        let standing = Standing::Accepted;
        World {
            begin,
            seconds: 0,
            clock_trusted: true,
            renewal,
            standing,
            refusals: Refusals::default(),
            connections: 0,
            previous: None,
            candidate: None,
            events: Vec::new(),
        }
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
        self.renewal.handle_files(self.previous, self.candidate);
        self.renewal.handle_refusals(self.refusals.clone());
        self.renewal.handle_connections(self.connections);
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

    /// The same where the judge refuses what `is_flawed` says.
    fn staged_as(&mut self, is_flawed: impl Fn(&World) -> bool) {
        self.prepared();
        self.ordered(Outcome::Issued { chain: vec![vec![1]] });
        assert!(matches!(self.action(), Some(Action::Stage { .. })));
        let staged = match is_flawed(self) {
            true => Err(StageFault::Flaw("it expires no later than the present one".to_owned())),
            false => Ok(()),
        };
        self.renewal.handle_staged(self.now(), self.clock(), staged);
    }

    /// The process ends and begins anew with what is on disk.
    fn restart(&mut self, has_candidate: bool) {
        let mut state = State::default();
        state.keep(self.renewal.kept(), None);
        let state: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
        let (settings, present) = (self.renewal.settings.clone(), self.renewal.present);
        self.renewal = Renewal::new(self.now(), settings, present, state.kept(), has_candidate);
        (self.standing, self.refusals) = (Standing::Unknown, Refusals::default());
    }

    fn probed(&mut self, verdict: Verdict) {
        assert!(matches!(self.action(), Some(Action::Probe { .. })));
        self.standing = Standing::Unknown;
        self.renewal.handle_probed(self.now(), self.clock(), verdict);
    }

    fn committed(&mut self) {
        assert_eq!(self.action(), Some(Action::Commit));
        let present = Some(valid(NOW + self.seconds, 7 * DAY));
        self.renewal.handle_committed(self.now(), self.clock(), Ok(present));
    }

    /// The peer refuses the present certificate, so often in a row.
    fn refuses(&mut self, times: u32) {
        self.standing = Standing::Refused;
        self.refusals = Refusals { times, why: "not authorized".to_owned(), ..Refusals::default() };
        self.pass(1);
    }

    /// It accepts it again.
    fn accepts(&mut self) {
        (self.standing, self.refusals) = (Standing::Accepted, Refusals::default());
    }

    /// The one before is staged and proven.
    fn tried_before(&mut self, verdict: Verdict) {
        assert_eq!(self.action(), Some(Action::StagePrevious));
        self.renewal.handle_staged(self.now(), self.clock(), Ok(()));
        assert!(matches!(self.action(), Some(Action::Probe { .. })));
        self.renewal.handle_probed(self.now(), self.clock(), verdict);
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
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    world.pass(230 * DAY);
    world.staged();
    let mut last = world.seconds;
    for round in 0..100 {
        world.probed(fault());
        let waited = world.seconds - last;
        // Each may cost a connection that is good.
        assert!(round == 0 || (60..=6 * 3600).contains(&waited), "{waited}");
        assert!(round < 20 || waited >= 6 * 3600, "{waited}");
        last = world.seconds;
    }
    world.seconds = 271 * DAY;
    world.probed(fault());
    let last = world.seconds;
    world.probed(fault());
    assert!((60..=900).contains(&(world.seconds - last)), "it is late");
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
    world.renewal = Renewal::new(world.begin, settings, present, kept(), true);
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
    world.renewal.handle_offered(world.now(), true);
    world.probed(refused());
    world.standing = Standing::Accepted;
    world.pass(1);
    // Its key and its request stay, so that it can be brought once more.
    assert_eq!(world.action(), Some(Action::Unstage));
    world.renewal.handle_offered(world.now(), true);
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
    world.renewal.handle_offered(world.now(), true);
    world.renewal.handle_outcome(world.now(), world.clock(), fetched());
    world.probed(Verdict::Accepted);
    world.committed();
}

#[test]
fn a_certificate_that_is_refused_later_gives_way_to_the_one_before_and_another_one_is_asked_for() {
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    world.previous = Some(valid(NOW - 60 * DAY, 90 * DAY));
    world.pass(100);
    world.refuses(1);
    assert_eq!(world.renewal.poll_action(), None, "once may be a mistake");
    world.refuses(2);
    assert_eq!(world.renewal.refused(), Some("not authorized"));
    world.tried_before(Verdict::Accepted);
    // The disk is slow, and the connection stands already.
    world.accepts();
    world.pass(1);
    assert_eq!(world.action(), Some(Action::Commit));
    let present = world.previous;
    world.renewal.handle_committed(world.now(), world.clock(), Ok(present));
    world.pass(1);
    assert!(world.has(|event| *event == Event::Returned));
    assert_eq!(world.renewal.state(world.clock()), "retrying");
    assert!(world.renewal.last_error().unwrap().contains("not authorized"));
    let before = world.seconds;
    world.staged();
    assert!((60..3600).contains(&(world.seconds - before)), "{}", world.seconds - before);
    world.probed(Verdict::Accepted);
    world.committed();
    world.accepts();
    world.pass(1);
    assert_eq!(world.renewal.state(world.clock()), "valid");
}

#[test]
fn without_one_before_a_refused_certificate_is_replaced_with_patience_by_both_ways_of_asking() {
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    world.refuses(2);
    assert_eq!(world.renewal.poll_action(), None);
    assert_eq!(world.renewal.state(world.clock()), "refused");
    world.refuses(ORDER_AFTER);
    let (mut kinds, mut last, mut gaps) = (Vec::new(), None, Vec::new());
    for _ in 0..12 {
        world.prepared();
        gaps.extend(last.map(|last| world.seconds - last));
        last = Some(world.seconds);
        kinds.push(world.ordered(Outcome::Failed { cause: "no route".to_owned() }));
    }
    assert!(kinds.contains(&OrderKind::Enroll) && kinds.contains(&OrderKind::Reenroll), "{kinds:?}");
    assert!(gaps[0] >= 60 && *gaps.iter().max().unwrap() >= 6 * 3600, "{gaps:?}");
    // It is accepted again: nothing is outstanding.
    world.accepts();
    world.pass(1);
    assert_eq!(world.renewal.state(world.clock()), "valid");
    assert_eq!(world.action(), None);
}

#[test]
fn what_is_refused_in_use_again_and_again_is_not_ordered_in_a_loop() {
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    let mut orders = Vec::new();
    while world.seconds < 2 * DAY {
        world.previous = Some(valid(NOW - DAY, 300 * DAY));
        world.refuses(2);
        world.tried_before(Verdict::Accepted);
        assert_eq!(world.action(), Some(Action::Commit));
        let present = world.previous;
        world.renewal.handle_committed(world.now(), world.clock(), Ok(present));
        world.accepts();
        world.staged();
        orders.push(world.seconds);
        world.probed(Verdict::Accepted);
        world.committed();
        world.accepts();
        world.pass(10);
    }
    assert!((5..16).contains(&orders.len()), "{orders:?}");
}

#[test]
fn closes_alone_try_the_one_before_and_order_nothing() {
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    world.previous = Some(valid(NOW - 60 * DAY, 90 * DAY));
    world.standing = Standing::Unknown;
    world.refusals = Refusals { closes: CLOSES_MAX, why: "closed".to_owned(), ..Refusals::default() };
    for _ in 0..4 {
        world.tried_before(closed());
        assert_eq!(world.action(), Some(Action::Unstage));
    }
    assert_eq!(world.renewal.state(world.clock()), "valid");
    world.previous = Some(valid(NOW - 60 * DAY, 30 * DAY));
    assert_eq!(world.action(), None, "one that has expired is not tried");
}

#[test]
fn a_certificate_before_that_a_person_wants_is_proven_and_else_the_present_one_stays() {
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    world.previous = Some(valid(NOW - 60 * DAY, 90 * DAY));
    for verdict in [refused(), closed(), fault()] {
        assert!(world.renewal.ask_previous());
        assert!(!world.renewal.ask_previous(), "one is on its way");
        world.tried_before(verdict);
        assert_eq!(world.action(), Some(Action::Unstage));
        assert!(world.has(|event| matches!(event, Event::NotReturned(_))));
        assert_eq!(world.renewal.state(world.clock()), "valid");
        assert_eq!(world.renewal.last_error(), None);
    }
    assert!(world.renewal.ask_previous());
    world.tried_before(Verdict::Accepted);
    assert_eq!(world.action(), Some(Action::Commit));
    world.renewal.handle_committed(world.now(), world.clock(), Ok(Some(valid(NOW - 60 * DAY, 90 * DAY))));
    assert!(world.has(|event| *event == Event::Returned));
    assert_eq!(world.action(), None, "that is what was wanted");
}

#[test]
fn without_a_trusted_clock_what_a_person_or_the_peer_wants_replaced_is_ordered() {
    for peer in [false, true] {
        let mut world = World::new(Some(valid(NOW, DAY)));
        world.clock_trusted = false;
        world.pass(5 * DAY);
        assert_eq!(world.renewal.poll_action(), None);
        if peer {
            world.standing = Standing::Refused;
            let why = "it has expired".to_owned();
            world.refusals = Refusals { times: ORDER_AFTER, closes: 0, why, as_expired: true };
        } else {
            assert!(world.renewal.ask_enroll());
        }
        world.prepared();
        assert_eq!(world.action(), Some(Action::Order { kind: OrderKind::Enroll }), "{peer}");
    }
}

#[test]
fn what_a_person_asked_for_and_failed_is_asked_for_again() {
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    world.pass(10);
    assert!(world.renewal.ask_enroll());
    for wait in [0, 60, 120] {
        let before = world.seconds;
        world.prepared();
        assert!((wait..wait + 5).contains(&(world.seconds - before)), "{wait}");
        assert_eq!(world.ordered(Outcome::Failed { cause: "no route".to_owned() }), OrderKind::Enroll);
    }
    world.staged();
    world.probed(Verdict::Accepted);
    world.committed();
    assert_eq!(world.action(), None);
}

#[test]
fn a_source_that_said_not_yet_is_asked_at_once_if_a_person_wants_it() {
    let mut world = World::due();
    world.prepared();
    world.ordered(Outcome::Later { after: Duration::from_secs(6 * 3600) });
    assert!(world.renewal.later_since().is_some());
    world.pass(5);
    assert_eq!(world.renewal.poll_action(), None);
    assert!(world.renewal.ask());
    let before = world.seconds;
    world.ordered(fetched());
    assert!(world.seconds - before <= 1);
}

#[test]
fn the_last_error_is_that_of_what_is_being_done() {
    let mut world = World::due();
    world.prepared();
    world.ordered(Outcome::Failed { cause: "no route".to_owned() });
    assert_eq!(world.renewal.last_error(), Some("no route"));
    world.staged();
    assert_eq!(world.renewal.last_error(), None, "the source has answered since");
    world.probed(closed());
    assert!(world.renewal.last_error().unwrap().contains("closed"));
    world.accepts();
    world.probed(fault());
    assert!(world.renewal.last_error().unwrap().contains("no route"));
    world.probed(Verdict::Accepted);
    world.committed();
    assert_eq!(world.renewal.last_error(), None);
}

#[test]
fn what_is_refused_or_has_expired_is_replaced_by_whatever_the_issuer_still_gives() {
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    let (of_source, by_hand) = (
        |world: &World| world.renewal.demands(world.clock()),
        |world: &World| world.renewal.demands_by_hand(world.clock()),
    );
    let all = Demands::ALL;
    world.pass(1);
    assert_eq!((of_source(&world), by_hand(&world)), (all, all));
    world.refuses(1);
    assert_eq!(of_source(&world), all, "once may be a mistake");
    world.refuses(REFUSALS);
    let not_longer = Demands { identity: true, longer: false };
    let nothing = Demands { identity: false, longer: false };
    assert_eq!((of_source(&world), by_hand(&world)), (not_longer, nothing));
    world.accepts();
    world.pass(1);
    assert_eq!((of_source(&world), by_hand(&world)), (all, all));
    // A close says nothing of the certificate.
    world.refusals = Refusals { closes: 9 * CLOSES_MAX, times: REFUSALS - 1, ..Refusals::default() };
    world.pass(1);
    assert_eq!((of_source(&world), by_hand(&world)), (all, all));
    world.accepts();
    world.clock_trusted = false;
    world.pass(1);
    assert_eq!((of_source(&world), by_hand(&world)), (not_longer, not_longer), "no date is judged");
    world.clock_trusted = true;
    // What a person asks for as if it were the first is compared with nothing, until it is there.
    assert!(world.renewal.ask_enroll());
    assert_eq!(of_source(&world), nothing);
    world.staged();
    world.probed(Verdict::Accepted);
    world.committed();
    assert_eq!(of_source(&world), all);
    world.pass(100 * DAY);
    assert_eq!((of_source(&world), by_hand(&world)), (not_longer, nothing));
}

#[test]
fn a_certificate_that_is_refused_for_good_is_replaced_by_one_that_ends_no_later() {
    // As long as the issuer gives none that ends later, by both ways of asking.
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    world.refuses(ORDER_AFTER);
    for _ in 0..2 {
        world.staged_as(|world| world.renewal.demands(world.clock()).longer);
        if world.renewal.state(world.clock()) == "staged" {
            break;
        }
    }
    world.probed(Verdict::Accepted);
    assert_eq!(world.action(), Some(Action::Commit));
    world.renewal.handle_committed(world.now(), world.clock(), Ok(Some(valid(NOW + 1, 200 * DAY))));
    world.accepts();
    world.pass(1);
    assert_eq!(world.renewal.state(world.clock()), "valid");
}

#[test]
fn a_restart_forgets_neither_a_return_nor_what_was_wanted() {
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    world.previous = Some(valid(NOW - 60 * DAY, 90 * DAY));
    world.refuses(2);
    world.tried_before(Verdict::Accepted);
    assert_eq!(world.action(), Some(Action::Commit));
    let present = world.previous;
    world.renewal.handle_committed(world.now(), world.clock(), Ok(present));
    world.accepts();
    world.pass(1);
    world.restart(false);
    world.accepts();
    world.pass(1);
    assert_eq!(world.renewal.state(world.clock()), "retrying");
    assert!(world.renewal.last_error().unwrap().contains("not authorized"));
    let before = world.seconds;
    world.staged();
    assert!((60..3600).contains(&(world.seconds - before)), "{}", world.seconds - before);

    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    assert!(world.renewal.ask_enroll());
    for wait in [0, 60, 120] {
        let before = world.seconds;
        world.prepared();
        assert!((wait..wait + 5).contains(&(world.seconds - before)), "{wait}");
        assert_eq!(world.ordered(Outcome::Failed { cause: "no route".to_owned() }), OrderKind::Enroll);
        world.restart(false);
        world.accepts();
        assert_eq!(world.renewal.last_error(), Some("no route"));
        assert_eq!(world.renewal.state(world.clock()), "retrying");
    }
}

#[test]
fn refusals_are_counted_over_restarts_until_the_peer_accepts() {
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    for round in 1..=ORDER_AFTER {
        assert_eq!(world.renewal.poll_action(), None, "{round}");
        world.restart(false);
        world.pass(1);
        assert_eq!(world.renewal.poll_action(), None, "a restart alone is no refusal");
        world.refuses(1);
    }
    assert_eq!(world.action(), Some(Action::Prepare));
    // What was mended meanwhile is tried first.
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    world.previous = Some(valid(NOW - 60 * DAY, 90 * DAY));
    world.refuses(1);
    world.restart(false);
    world.accepts();
    world.pass(1);
    world.restart(false);
    world.refuses(1);
    assert_eq!(world.renewal.poll_action(), None, "it was accepted between the two");
    assert_eq!(world.renewal.refused(), None);
    // An outage of weeks is not a write for each attempt.
    world.refuses(900);
    assert_eq!(world.renewal.kept().refusals.times, ORDER_AFTER);
}

#[test]
fn turns_of_two_that_are_both_refused_are_counted_over_restarts() {
    let mut world = World::due();
    world.staged();
    for _ in 1..ALTERNATIONS_MAX {
        world.probed(refused());
        world.standing = Standing::Refused;
        world.pass(1);
        world.restart(true);
    }
    world.probed(refused());
    world.standing = Standing::Refused;
    assert_eq!(world.action(), Some(Action::Discard));
}

#[test]
fn restarts_do_not_make_it_order_what_is_refused_in_use_in_a_loop() {
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    let mut orders = Vec::new();
    while world.seconds < 2 * DAY {
        world.previous = Some(valid(NOW - DAY, 300 * DAY));
        world.refuses(2);
        world.tried_before(Verdict::Accepted);
        assert_eq!(world.action(), Some(Action::Commit));
        let present = world.previous;
        world.renewal.handle_committed(world.now(), world.clock(), Ok(present));
        world.accepts();
        world.pass(1);
        world.restart(false);
        world.accepts();
        world.staged();
        orders.push(world.seconds);
        world.probed(Verdict::Accepted);
        world.committed();
        world.accepts();
        world.pass(10);
        world.restart(false);
    }
    assert!((5..16).contains(&orders.len()), "{orders:?}");
    // A day of peace counts over restarts, too.
    assert!(world.renewal.kept().returns > 0);
    for _ in 0..25 {
        world.accepts();
        world.pass(3_600);
        world.restart(false);
    }
    world.accepts();
    world.pass(1);
    assert_eq!(world.renewal.kept().returns, 0);
}

#[test]
fn a_newer_one_that_comes_back_after_a_forced_return_leaves_nothing_to_be_done() {
    let older = valid(NOW - 60 * DAY, 90 * DAY);
    let mut world = World::new(Some(older));
    world.previous = Some(valid(NOW, 90 * DAY));
    world.refuses(2);
    world.tried_before(Verdict::Accepted);
    assert_eq!(world.action(), Some(Action::Commit));
    world.renewal.handle_committed(world.now(), world.clock(), Ok(Some(valid(NOW, 90 * DAY))));
    world.accepts();
    world.pass(1);
    assert_eq!((world.renewal.state(world.clock()), world.renewal.last_error()), ("valid", None));
    assert_eq!(world.action(), None);
}

#[test]
fn a_state_of_an_earlier_version_is_read() {
    let text = br#"{"version":1,"obtained":7,"confirmed":true,"last_attempt":9,"failures":2,"last_error":"x","events":[]}"#;
    let state: State = serde_json::from_slice(text).unwrap();
    let kept = state.kept();
    assert_eq!((kept.history.failures, kept.last_error.as_deref(), kept.confirmed), (2, Some("x"), true));
    assert_eq!((kept.refusals, kept.returns, kept.enroll_asked), (Refusals::default(), 0, false));
}

#[test]
fn a_probe_may_cost_the_connection_near_the_end_of_the_present_one_and_by_hand() {
    let in_place = |world: &mut World| match world.action() {
        Some(Action::Probe { in_place }) => in_place,
        other => panic!("{other:?}"),
    };
    let mut world = World::new(Some(valid(NOW, 90 * DAY)));
    world.pass(70 * DAY);
    world.staged();
    // However often it comes to nothing.
    for _ in 0..20 {
        assert_eq!(in_place(&mut world), InPlace::OfClientId);
        world.renewal.handle_probed(world.now(), world.clock(), fault());
    }
    assert!(world.renewal.ask_probe());
    assert_eq!(in_place(&mut world), InPlace::AtOnce);
    world.renewal.handle_probed(world.now(), world.clock(), fault());
    world.clock_trusted = false;
    world.seconds = 89 * DAY + DAY / 2;
    assert_eq!(in_place(&mut world), InPlace::OfClientId, "by no clock");
    world.renewal.handle_probed(world.now(), world.clock(), fault());
    world.clock_trusted = true;
    assert_eq!(in_place(&mut world), InPlace::AtLast);
    world.renewal.handle_probed(world.now(), world.clock(), Verdict::Accepted);
    world.committed();
}

/// A certificate that was refused for good, and a candidate that ends sooner.
fn ends_sooner() -> World {
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    world.refuses(ORDER_AFTER);
    world.candidate = Some(valid(NOW, 200 * DAY));
    world.staged();
    assert_eq!(world.action(), Some(Action::TryPresent));
    assert_eq!(world.renewal.state(world.clock()), "comparing");
    world
}

#[test]
fn a_candidate_that_ends_sooner_is_tried_only_where_the_present_one_is_refused_directly_before() {
    let mut world = ends_sooner();
    world.renewal.handle_present(world.now(), world.clock(), refused());
    world.probed(Verdict::Accepted);
    world.committed();

    let mut world = ends_sooner();
    world.accepts();
    world.renewal.handle_present(world.now(), world.clock(), Verdict::Accepted);
    assert_eq!(world.action(), Some(Action::Discard));
    assert!(world.has(|event| matches!(event, Event::Rejected(why) if why.contains("ends sooner"))));
    world.pass(1);
    assert_eq!((world.renewal.state(world.clock()), world.renewal.last_error()), ("valid", None));
    assert_eq!(world.action(), None, "nothing is to be replaced any more");

    // As long as that is not decided both stay where they are, and nothing is given up.
    let mut world = ends_sooner();
    for verdict in [fault(), closed(), fault()] {
        world.renewal.handle_present(world.now(), world.clock(), verdict);
        assert_eq!(world.renewal.state(world.clock()), "staged");
        assert!(world.renewal.last_error().unwrap().contains("ends sooner"));
        assert_eq!(world.action(), Some(Action::TryPresent));
    }
    // A person who asks wants to know what the peer says of the candidate.
    world.renewal.handle_present(world.now(), world.clock(), closed());
    assert!(world.renewal.ask_probe());
    assert_eq!(world.action(), Some(Action::TryPresent));
    world.renewal.handle_present(world.now(), world.clock(), closed());
    assert_eq!(world.action(), Some(Action::Probe { in_place: InPlace::AtOnce }));
}

#[test]
fn a_candidate_that_ends_sooner_is_compared_after_a_restart_and_by_hand_but_not_what_its_owner_wants() {
    // The peer accepts the present one by the time of the probe.
    let mut world = ends_sooner();
    world.restart(true);
    world.accepts();
    assert_eq!(world.action(), Some(Action::TryPresent));
    for is_compared in [true, false] {
        let mut world = World::new(Some(valid(NOW, 300 * DAY)));
        world.candidate = Some(valid(NOW, 200 * DAY));
        world.pass(1);
        world.renewal.handle_offered(world.now(), is_compared);
        assert_eq!(world.action() == Some(Action::TryPresent), is_compared);
    }
    for candidate in [valid(NOW, 300 * DAY), valid(NOW, 301 * DAY)] {
        let mut world = World::new(Some(valid(NOW, 300 * DAY)));
        world.candidate = Some(candidate);
        world.refuses(ORDER_AFTER);
        world.staged();
        world.probed(Verdict::Accepted);
    }
    // One without an end is replaced by any.
    let mut world = World::new(Some(Validity { not_before: at(NOW), not_after: NEVER }));
    world.candidate = Some(valid(NOW, DAY));
    world.refuses(ORDER_AFTER);
    world.staged();
    world.probed(Verdict::Accepted);
    // And a person who enrols anew compares with nothing.
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    world.candidate = Some(valid(NOW, DAY));
    world.pass(1);
    assert!(world.renewal.ask_enroll());
    world.staged();
    world.probed(Verdict::Accepted);
}

#[test]
fn an_enrolment_that_is_asked_for_ends_after_eight_failures_also_over_restarts() {
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    world.pass(10);
    assert_eq!(world.renewal.enroll_failures(), None);
    assert!(world.renewal.ask_enroll());
    for failures in 0..ENROLLS_MAX {
        assert_eq!(world.renewal.enroll_failures(), Some(failures));
        world.prepared();
        assert_eq!(world.ordered(Outcome::Failed { cause: "403".to_owned() }), OrderKind::Enroll);
        if failures == 3 {
            world.restart(false);
            world.accepts();
        }
    }
    assert!(world.has(|event| *event == Event::EnrollGivenUp));
    assert_eq!(world.renewal.enroll_failures(), None);
    assert_eq!(world.action(), None, "the certificate in use stays");
    assert_eq!((world.renewal.state(world.clock()), world.renewal.last_error()), ("valid", None));
    let restarted = world.renewal.kept();
    assert!(!restarted.enroll_asked && !restarted.history.asked);
    // What failed before it was asked for does not count.
    assert!(world.renewal.ask_enroll());
    world.prepared();
    world.ordered(Outcome::Failed { cause: "403".to_owned() });
    assert_eq!(world.renewal.enroll_failures(), Some(1));
    // Where there is no certificate it goes on without end.
    let mut world = World::new(None);
    assert!(world.renewal.ask_enroll());
    for _ in 0..3 * ENROLLS_MAX {
        world.prepared();
        world.ordered(Outcome::Failed { cause: "403".to_owned() });
    }
    world.staged();
}

#[test]
fn an_enrolment_that_is_asked_for_can_be_taken_back_while_nothing_is_being_made() {
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    world.pass(10);
    assert!(world.renewal.cancel_enroll().is_err(), "none is asked for");
    assert!(world.renewal.ask_enroll());
    world.prepared();
    assert!(world.renewal.cancel_enroll().is_err(), "it is being made");
    world.ordered(Outcome::Failed { cause: "403".to_owned() });
    assert_eq!(world.renewal.cancel_enroll(), Ok(()));
    assert!(world.has(|event| *event == Event::EnrollTakenBack));
    assert_eq!((world.renewal.state(world.clock()), world.renewal.last_error()), ("valid", None));
    assert_eq!(world.action(), None);
    // One that the source has not answered yet: its request is forgotten.
    assert!(world.renewal.ask_enroll());
    world.prepared();
    world.ordered(Outcome::Later { after: Duration::from_secs(3_600) });
    assert_eq!(world.renewal.cancel_enroll(), Ok(()));
    assert_eq!(world.action(), Some(Action::Forget));
    assert_eq!(world.action(), None);
    // One that was issued is proven.
    assert!(world.renewal.ask_enroll());
    world.staged();
    assert!(world.renewal.cancel_enroll().is_err());
    world.probed(Verdict::Accepted);
    world.committed();
}

/// One that has expired or is refused, and a candidate that nothing is decided of.
fn stuck(expired: bool) -> World {
    let mut world = World::new(Some(valid(NOW, 300 * DAY)));
    world.pass(250 * DAY);
    world.staged();
    world.standing = Standing::Unknown;
    match expired {
        true => world.seconds = 301 * DAY,
        false => world.refuses(ORDER_AFTER),
    }
    world
}

#[test]
fn a_probe_that_never_decides_does_not_keep_another_one_from_being_asked_for_once_the_present_one_is_over() {
    for expired in [true, false] {
        let mut world = stuck(expired);
        let begin = world.seconds;
        for _ in 0..BESIDE_AFTER {
            world.probed(fault());
        }
        world.prepared();
        assert!(world.seconds - begin <= 11 * 60, "{}", world.seconds - begin);
        let kind = world.ordered(Outcome::Failed { cause: "no route".to_owned() });
        assert_eq!(kind == OrderKind::Enroll, expired);
        // The candidate stays, and may be accepted by now.
        assert_eq!(world.renewal.state(world.clock()), "staged");
        world.probed(Verdict::Accepted);
        world.committed();
        // Or the other one takes its place.
        let mut world = stuck(expired);
        for _ in 0..BESIDE_AFTER {
            world.probed(fault());
        }
        world.staged();
        world.probed(Verdict::Accepted);
        world.committed();
    }
    // As long as the present one serves, it waits.
    let mut world = stuck(true);
    world.clock_trusted = false;
    for _ in 0..3 * BESIDE_AFTER {
        world.probed(fault());
    }
}

#[test]
fn certificates_that_nothing_is_decided_of_are_not_ordered_in_a_loop() {
    let mut world = stuck(true);
    let mut orders = 0;
    let begin = world.seconds;
    while world.seconds - begin < 2 * DAY {
        match world.action() {
            Some(Action::Probe { .. }) => world.renewal.handle_probed(world.now(), world.clock(), fault()),
            Some(Action::Prepare) => {
                orders += 1;
                world.renewal.handle_prepared(world.now(), world.clock(), Ok(()));
                world.ordered(fetched());
                assert!(matches!(world.action(), Some(Action::Stage { .. })));
                world.renewal.handle_staged(world.now(), world.clock(), Ok(()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((4..16).contains(&orders), "{orders}");
}

#[test]
fn a_source_that_says_not_yet_does_not_keep_the_candidate_from_being_tried() {
    let mut world = stuck(true);
    for _ in 0..BESIDE_AFTER {
        world.probed(fault());
    }
    world.prepared();
    world.ordered(Outcome::Later { after: Duration::from_secs(3_600) });
    let (before, mut probes) = (world.seconds, 0);
    loop {
        match world.action() {
            Some(Action::Probe { .. }) => world.renewal.handle_probed(world.now(), world.clock(), fault()),
            other => break assert_eq!(other, Some(Action::Prepare)),
        }
        probes += 1;
    }
    assert!(probes >= 3 && world.seconds - before >= 3_600, "and it is asked when it said");
}

#[test]
fn an_enrolment_that_a_person_asks_for_replaces_a_candidate_that_waits() {
    let mut world = World::due();
    world.staged();
    world.probed(fault());
    assert!(!world.renewal.ask(), "one is there");
    assert!(world.renewal.ask_enroll());
    let before = world.seconds;
    world.prepared();
    assert!(world.seconds - before <= 2);
    let kind = world.ordered(Outcome::Failed { cause: "403".to_owned() });
    assert_eq!((kind, world.renewal.enroll_failures()), (OrderKind::Enroll, Some(1)));
    world.probed(fault());
    world.staged();
    world.probed(Verdict::Accepted);
    world.committed();
    // Taken back, what was there is proven.
    let mut world = World::due();
    world.staged();
    assert!(world.renewal.ask_enroll());
    assert_eq!(world.renewal.cancel_enroll(), Ok(()));
    world.probed(Verdict::Accepted);
    world.committed();
}

#[test]
fn a_candidate_that_expires_before_it_is_proven_gives_way_to_an_enrolment_at_once() {
    let mut world = stuck(true);
    world.candidate = Some(valid(NOW + 250 * DAY, 60 * DAY));
    world.probed(fault());
    world.probed(fault());
    world.seconds = 311 * DAY;
    assert_eq!(world.action(), Some(Action::Discard));
    assert!(world.has(|event| matches!(event, Event::Rejected(why) if why.contains("expired"))));
    let before = world.seconds;
    world.prepared();
    assert!(world.seconds - before <= 10, "{}", world.seconds - before);
    assert_eq!(world.ordered(fetched()), OrderKind::Enroll);
    // By a clock that is not trusted nothing has expired.
    let mut world = stuck(true);
    world.candidate = Some(valid(NOW + 250 * DAY, 60 * DAY));
    (world.seconds, world.clock_trusted) = (311 * DAY, false);
    world.probed(Verdict::Accepted);
    world.committed();
}

#[test]
fn a_candidate_that_is_not_valid_yet_waits_and_is_tried_then() {
    for begins_in in [1, 45, 290] {
        let mut world = World::due();
        world.candidate = Some(valid(NOW + world.seconds + begins_in, 7 * DAY));
        let begin = world.seconds;
        world.staged();
        world.pass(1);
        let not_before = world.candidate.unwrap().not_before;
        assert_eq!(world.renewal.begins_at(), Some(not_before));
        assert!(!world.renewal.ask_probe(), "the peer would refuse it");
        world.probed(Verdict::Accepted);
        let waited = world.seconds - begin;
        assert!((begins_in + 1..begins_in + 10).contains(&waited), "{begins_in}: {waited}");
        assert!(world.has(|event| *event == Event::NotYetValid(not_before)));
        assert_eq!(world.renewal.begins_at(), None);
        world.committed();
    }
    // One of next year is of no use.
    let mut world = World::due();
    world.candidate = Some(valid(NOW + 365 * DAY, 7 * DAY));
    world.staged();
    assert_eq!(world.action(), Some(Action::Discard));
    assert!(world.renewal.last_error().unwrap().contains("not valid before"));
    // A refusal shortly after its begin names the clocks.
    let mut world = World::due();
    world.candidate = Some(valid(NOW + world.seconds, 7 * DAY));
    world.staged();
    world.probed(refused());
    world.standing = Standing::Accepted;
    assert_eq!(world.action(), Some(Action::Discard));
    assert!(world.renewal.last_error().unwrap().contains("compare the clocks"));
}

/// One that has just come into use, and the one before is valid.
fn in_use() -> World {
    let mut world = World::due();
    world.staged();
    world.probed(Verdict::Accepted);
    world.previous = Some(valid(NOW, 7 * DAY));
    world.committed();
    world
}

#[test]
fn a_certificate_with_which_no_connection_lasts_gives_way_to_the_one_before_whatever_the_reason() {
    // Accepted and closed again and again; or never accepted with the gateway's own client id.
    for flaps in [true, false] {
        let mut world = in_use();
        let begin = world.seconds;
        world.standing = Standing::Unknown;
        while world.renewal.poll_action().is_none() {
            if flaps && world.seconds.is_multiple_of(7) {
                (world.standing, world.connections) = (Standing::Accepted, world.connections + 1);
                world.pass(1);
                world.standing = Standing::Unknown;
            }
            world.pass(1);
            assert!(world.seconds - begin < 400, "{flaps}");
        }
        assert!(world.seconds - begin >= 290, "{flaps}");
        assert_eq!(world.renewal.state(world.clock()), "staged");
        assert!(world.has(|event| matches!(event, Event::FallingBack(why) if why.contains("lasted"))));
        world.renewal.handle_staged(world.now(), world.clock(), Ok(()));
        world.probed(Verdict::Accepted);
        assert_eq!(world.action(), Some(Action::Commit));
        let newer = world.renewal.present();
        let present = std::mem::replace(&mut world.previous, newer);
        world.renewal.handle_committed(world.now(), world.clock(), Ok(present));
        world.accepts();
        world.pass(1);
        world.pass(60);
        assert!(world.has(|event| *event == Event::Returned));
        assert!(world.renewal.last_error().unwrap().contains("lasted"));
        world.standing = Standing::Unknown;
        world.pass(DAY / 2);
        assert!(!matches!(world.action(), Some(Action::StagePrevious)), "it has shown that it serves");
    }
}

#[test]
fn a_certificate_is_not_called_valid_before_a_connection_lasted_and_a_restart_knows_that() {
    let mut world = in_use();
    world.accepts();
    world.pass(1);
    assert_eq!(world.renewal.state(world.clock()), "valid");
    assert!(!world.renewal.kept().confirmed);
    world.standing = Standing::Unknown;
    world.pass(1);
    assert_eq!(world.renewal.state(world.clock()), "committed");
    world.restart(false);
    world.pass(1);
    world.pass(400);
    assert_eq!(world.action(), Some(Action::StagePrevious), "it goes on counting from the start");
    let mut world = in_use();
    world.accepts();
    world.pass(1);
    world.pass(60);
    assert!(world.renewal.kept().confirmed);
    world.standing = Standing::Unknown;
    world.pass(DAY / 2);
    assert_eq!((world.renewal.state(world.clock()), world.renewal.poll_action()), ("valid", None));
}

#[test]
fn two_with_which_no_connection_lasts_change_places_ever_more_seldom() {
    let mut world = in_use();
    let mut changes = Vec::new();
    world.standing = Standing::Unknown;
    let begin = world.seconds;
    while world.seconds - begin < DAY / 2 {
        world.pass(1);
        match world.renewal.poll_action() {
            Some(Action::StagePrevious) => {
                world.renewal.handle_staged(world.now(), world.clock(), Ok(()));
                world.probed(Verdict::Accepted);
                assert_eq!(world.action(), Some(Action::Commit));
                let newer = world.renewal.present();
                let present = std::mem::replace(&mut world.previous, newer);
                world.renewal.handle_committed(world.now(), world.clock(), Ok(present));
                changes.push(world.seconds - begin);
            }
            Some(Action::Prepare) => {
                world.renewal.handle_prepared(world.now(), world.clock(), Err("no".to_owned()));
            }
            _ => {}
        }
    }
    assert!((3..9).contains(&changes.len()), "{changes:?}");
}

#[test]
fn not_yet_never_lasts_beyond_the_life_and_becomes_an_enrolment_at_its_end() {
    let mut world = World::due();
    world.seconds = 6 * DAY;
    world.prepared();
    let hours = Duration::from_secs(6 * 3600);
    let late = 7 * DAY * 9 / 10;
    let mut asked = Vec::new();
    loop {
        let kind = world.ordered(Outcome::Later { after: hours });
        asked.push((world.seconds, kind));
        if world.seconds > 8 * DAY {
            break;
        }
    }
    assert!(asked.iter().any(|(at, _)| (late..late + 10).contains(at)), "{asked:?}");
    let first = asked.iter().find(|(_, kind)| *kind == OrderKind::Enroll).unwrap();
    assert!((7 * DAY..7 * DAY + 10).contains(&first.0), "{asked:?}");
    assert!(asked.iter().all(|(at, kind)| (*at > 7 * DAY) == (*kind == OrderKind::Enroll)), "{asked:?}");
}

#[test]
fn a_candidate_that_waits_is_tried_at_once_when_the_last_connection_is_gone_and_the_present_one_is_over() {
    for serves in [true, false] {
        let mut world = World::new(Some(valid(NOW, 300 * DAY)));
        world.pass(299 * DAY);
        world.staged();
        for _ in 0..2 {
            world.probed(fault());
            world.accepts();
            world.pass(1);
        }
        if !serves {
            world.seconds = 300 * DAY + 10;
            world.probed(fault());
            world.accepts();
            world.pass(1);
        }
        world.standing = Standing::Unknown;
        world.pass(1);
        let probes = matches!(world.renewal.poll_action(), Some(Action::Probe { .. }));
        assert_eq!(probes, !serves);
    }
}

#[test]
fn a_proven_candidate_is_used_from_where_it_is_while_the_disk_takes_no_commit_and_the_present_one_is_over() {
    for is_refused in [true, false] {
        let mut world = World::due();
        world.staged();
        if is_refused {
            world.refuses(ORDER_AFTER);
        }
        world.probed(Verdict::Accepted);
        world.accepts();
        assert_eq!(world.action(), Some(Action::Commit));
        let full = Err("current.pem cannot be written: disk full".to_owned());
        world.renewal.handle_committed(world.now(), world.clock(), full);
        let next = if is_refused { Action::UseCandidate } else { Action::Commit };
        assert_eq!(world.action(), Some(next));
    }
}

#[test]
fn one_before_that_a_person_wants_takes_the_place_of_a_candidate_that_waits_and_that_is_said() {
    let mut world = World::due();
    world.previous = Some(valid(NOW - DAY, 30 * DAY));
    world.staged();
    world.probed(fault());
    assert!(world.renewal.ask_previous());
    assert!(world.has(|event| matches!(event, Event::Rejected(why) if why.contains("a person"))));
    assert_eq!(world.renewal.last_error(), None);
}
