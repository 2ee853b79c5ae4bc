//! What is asked of devices that serve, in virtual time: registrations, notifications, polls, and
//! everything that ends or delays them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tombolo::downlink::delivery::{NotSent, Told};
use tombolo::downlink::served::{
    ANSWER_WITHIN, Asker, Manner, OVER_QUOTA_MAX, PAUSE, PAUSE_MAX, Receipt, Said, Served, ServedPath,
    ServedSettings, Taken, Verdict,
};
use tombolo::message::Name;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::{BlockRefused, Code, NoticeKind, PeerId};
use tombolo::proto::dtls::SessionId;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn session(number: u64) -> PeerId {
    Peer::Session(SessionId(number)).id()
}

fn path(table: &str, manner: Manner) -> ServedPath {
    ServedPath {
        name: name(table),
        manner,
        path: format!("s/{table}"),
        query: None,
        accept: None,
        block_exponent: None,
        reading: format!("t/{table}"),
    }
}

/// A device that is awake or not.
#[derive(Default)]
struct Line {
    awake: Option<PeerId>,
    occupied: bool,
    busy: bool,
    /// Device, number, name of the table.
    asked: Vec<(String, u64, String)>,
    forgotten: Vec<u64>,
}

impl Asker for Line {
    fn reach(&mut self, _: Instant, _: &Name) -> Option<PeerId> {
        self.awake
    }
    fn is_occupied(&mut self, _: &Name) -> bool {
        self.occupied
    }
    fn ask(&mut self, _: Instant, device: &Name, number: u64, path: &ServedPath) -> Result<(), NotSent> {
        if self.busy {
            return Err(NotSent::Busy);
        }
        self.asked.push((device.to_string(), number, path.name.to_string()));
        Ok(())
    }
    fn forget(&mut self, number: u64) {
        self.forgotten.push(number);
    }
}

struct Bench {
    now: Instant,
    served: Served,
    line: Line,
    device: Name,
}

const EVERY: Duration = Duration::from_secs(300);

impl Bench {
    /// A device of a role with these tables.
    fn new(paths: &[ServedPath]) -> Bench {
        let settings = of_role(paths);
        let line = Line { awake: Some(session(1)), ..Line::default() };
        Bench { now: Instant::now(), served: Served::new(&settings, 7), line, device: name("door-7") }
    }

    fn contact(&mut self) {
        let Bench { now, served, line, device } = self;
        if let Some(peer) = line.awake {
            served.handle_contact(*now, device, peer, || Some(name("sensor")), line);
        }
    }

    /// Time passes in seconds.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + Duration::from_secs(1)).min(end);
            self.served.handle_timeout(self.now, &mut self.line);
        }
    }

    /// The number of the only GET since the last call.
    fn asked(&mut self) -> u64 {
        let asked = std::mem::take(&mut self.line.asked);
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked[0].1
    }

    fn says(&mut self, number: u64, said: Said) -> Verdict {
        self.served.handle_said(self.now, number, &said)
    }

    /// A notification, or the answer to a registration; its value is stored.
    fn tells(&mut self, number: u64, kind: NoticeKind, observe: Option<u32>) -> Verdict {
        let verdict = self.says(number, said(kind, observe));
        if verdict == Verdict::Take {
            let receipt = self.served.handle_taken(self.now, number, observe, Taken::Passed);
            assert_eq!(receipt, Receipt::Acknowledge);
        }
        verdict
    }

    /// A relation.
    fn observing(paths: &[ServedPath]) -> (Bench, u64) {
        let mut bench = Bench::new(paths);
        bench.contact();
        let number = bench.asked();
        assert_eq!(bench.tells(number, NoticeKind::Piggybacked, Some(1)), Verdict::Take);
        (bench, number)
    }

    fn trouble(&self) -> Option<String> {
        self.served.view(&self.device).find_map(|view| view.trouble.map(|(trouble, _)| trouble.to_owned()))
    }

    /// How long it takes until something is asked again.
    fn until_asked(&mut self) -> Duration {
        let before = self.now;
        self.line.asked.clear();
        while self.line.asked.is_empty() {
            self.pass(Duration::from_secs(1));
            assert!(self.now < before + Duration::from_secs(100_000), "never");
        }
        self.now - before
    }
}

fn of_role(paths: &[ServedPath]) -> ServedSettings {
    ServedSettings { roles: BTreeMap::from([(name("sensor"), paths.to_vec())]), devices: BTreeMap::new() }
}

fn said(kind: NoticeKind, observe: Option<u32>) -> Said {
    Said { kind, code: Code::CONTENT, observe, max_age_s: 60, partial: false, refused: None }
}

fn observe() -> ServedPath {
    path("temp", Manner::Observe)
}

fn poll() -> ServedPath {
    path("level", Manner::Poll { every: EVERY })
}

#[test]
fn a_device_that_speaks_is_asked_one_thing_at_a_time_and_another_device_nothing() {
    let mut bench = Bench::new(&[observe(), poll()]);
    bench.contact();
    let first = bench.asked();
    bench.contact();
    bench.pass(Duration::from_secs(10));
    assert!(bench.line.asked.is_empty(), "the first is not answered");
    bench.tells(first, NoticeKind::Piggybacked, Some(1));
    bench.contact();
    assert_ne!(bench.asked(), first);
    let now = bench.now;
    let other = || Some(name("other-role"));
    bench.served.handle_contact(now, &name("lamp-1"), session(9), other, &mut bench.line);
    assert!(bench.line.asked.is_empty());
}

#[test]
fn a_device_with_tables_of_its_own_is_asked_for_those() {
    let mut settings = of_role(&[observe()]);
    settings.devices.insert(name("door-7"), vec![poll()]);
    let mut bench = Bench { served: Served::new(&settings, 1), ..Bench::new(&[]) };
    bench.contact();
    assert_eq!(bench.line.asked[0].2, "level");
}

#[test]
fn a_relation_is_renewed_by_its_number_five_to_fifteen_seconds_after_its_value_is_stale() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    for _ in 0..20 {
        let passed = bench.until_asked();
        assert!((Duration::from_secs(65)..=Duration::from_secs(76)).contains(&passed), "{passed:?}");
        assert_eq!(bench.asked(), number);
        bench.tells(number, NoticeKind::Piggybacked, Some(1));
    }
    // Each notification puts it off.
    for sequence in 2..20 {
        bench.pass(Duration::from_secs(50));
        assert!(bench.line.asked.is_empty());
        assert_eq!(bench.tells(number, NoticeKind::Notification, Some(sequence)), Verdict::Take);
    }
    assert!(bench.line.forgotten.is_empty());
}

#[test]
fn a_notification_that_is_not_newer_is_acknowledged_and_dropped() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    let mut tell = |sequence| bench.tells(number, NoticeKind::Notification, Some(sequence));
    assert_eq!(tell(5), Verdict::Take);
    assert_eq!(tell(5), Verdict::Drop, "the same again");
    assert_eq!(tell(4), Verdict::Drop, "an older one, late");
    assert_eq!(tell(0xff_fff0), Verdict::Drop, "before 0");
    assert_eq!(tell(5 + (1 << 23) - 1), Verdict::Take);
    assert_eq!(tell(0xff_fffe), Verdict::Take);
    assert_eq!(tell(1), Verdict::Take, "it wraps");
    assert_eq!(bench.served.counts().stale, 3);
    // After 128 s any number is newer: the device may have begun anew.
    bench.now += Duration::from_secs(128);
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(1)), Verdict::Drop);
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(0)), Verdict::Take);
}

#[test]
fn the_answer_to_a_renewal_is_taken_whatever_its_number_and_a_late_one_is_not() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    bench.tells(number, NoticeKind::Notification, Some(500));
    bench.until_asked();
    assert_eq!(bench.tells(number, NoticeKind::Separate, Some(499)), Verdict::Drop);
    bench.until_asked();
    assert_eq!(bench.tells(number, NoticeKind::Piggybacked, Some(2)), Verdict::Take, "it was restarted");
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(3)), Verdict::Take);
}

#[test]
fn another_association_begins_anew_and_the_one_before_is_forgotten() {
    let (mut bench, number) = Bench::observing(&[observe(), poll()]);
    bench.contact();
    bench.asked();
    bench.line.awake = Some(session(2));
    bench.contact();
    assert!(bench.line.forgotten.contains(&number) && bench.line.forgotten.len() == 2);
    assert_eq!(bench.line.asked.len(), 1);
    assert!(bench.served.view(&bench.device).all(|view| view.observed_since.is_none()));
}

#[test]
fn two_sessions_that_take_turns_cost_no_get_for_each_change() {
    let (mut bench, _) = Bench::observing(&[observe()]);
    bench.line.asked.clear();
    let mut asked = 0;
    for turn in 0..600_u64 {
        bench.line.awake = Some(session(1 + turn % 2));
        bench.contact();
        if let Some((_, number, _)) = bench.line.asked.pop() {
            asked += 1;
            bench.tells(number, NoticeKind::Piggybacked, Some(1));
        }
        bench.now += Duration::from_secs(1);
    }
    // Eight at once, and one in each of the 20 half minutes.
    assert!((20..=30).contains(&asked), "{asked}");
    assert_eq!(bench.trouble(), None);
    // A device that opens another session in between is asked over that one.
    bench.pass(PAUSE * 8);
    bench.line.asked.clear();
    bench.line.awake = Some(session(9));
    bench.contact();
    bench.asked();
}

#[test]
fn a_resource_that_is_due_behind_a_command_says_since_when() {
    let mut bench = Bench::new(&[observe(), poll()]);
    let behind = |bench: &Bench| {
        let views = bench.served.view(&bench.device);
        views.map(|view| view.behind_command).collect::<Vec<_>>()
    };
    bench.line.occupied = true;
    bench.contact();
    let since = bench.now;
    bench.pass(Duration::from_secs(70));
    assert_eq!(behind(&bench), [Some(since); 2]);
    bench.line.occupied = false;
    bench.pass(Duration::from_secs(2));
    bench.asked();
    assert_eq!(behind(&bench), [None; 2]);
}

#[test]
fn a_device_whose_notifications_all_have_one_number_is_named_and_its_values_come_by_the_rule_of_128_seconds()
{
    let (mut bench, number) = Bench::observing(&[observe()]);
    let remark = |bench: &Bench| bench.served.view(&bench.device).next().unwrap().remark;
    let mut taken = 0;
    for _ in 0..30 {
        bench.now += Duration::from_secs(10);
        taken += u32::from(bench.tells(number, NoticeKind::Notification, Some(7)) == Verdict::Take);
    }
    // The first, and one in each 129 s.
    assert_eq!(taken, 3);
    let said = remark(&bench).unwrap();
    assert!(said.contains("number 7") && said.contains("128 s"), "{said}");
    assert_eq!(bench.trouble(), None);
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(8)), Verdict::Take);
    assert_eq!(remark(&bench), None, "it counts now");
}

#[test]
fn a_relation_whose_session_is_gone_waits_for_the_next_one_without_a_pause() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    bench.served.handle_told(bench.now, number, Told::Gone);
    bench.line.awake = None;
    bench.pass(Duration::from_secs(10_000));
    assert!(bench.line.asked.is_empty() && bench.trouble().is_none());
    bench.line.awake = Some(session(2));
    bench.contact();
    bench.asked();
}

#[test]
fn an_answer_without_observe_is_a_value_and_the_device_is_asked_again_after_growing_pauses() {
    let mut bench = Bench::new(&[observe()]);
    bench.contact();
    let number = bench.asked();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(bench.tells(number, NoticeKind::Piggybacked, None), Verdict::Take);
        assert!(bench.trouble().unwrap().contains("without Observe"));
        pauses.push(bench.until_asked().as_secs());
    }
    assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    bench.tells(number, NoticeKind::Piggybacked, Some(1));
    assert_eq!(bench.trouble(), None);
}

#[test]
fn errors_resets_and_silence_name_their_reason_and_pause_up_to_an_hour() {
    let error = Said { code: Code::NOT_FOUND, ..said(NoticeKind::Piggybacked, None) };
    type Failure<'f> = (&'f str, &'f dyn Fn(&mut Bench, u64));
    let reasons: [Failure<'_>; 4] = [
        ("4.04", &|bench, number| assert_eq!(bench.says(number, error), Verdict::Drop)),
        ("Reset", &|bench, number| bench.served.handle_told(bench.now, number, Told::Rejected)),
        ("did not acknowledge", &|bench, number| {
            bench.served.handle_told(bench.now, number, Told::Unanswered)
        }),
        ("did not answer in time", &|bench, number| {
            bench.served.handle_told(bench.now, number, Told::Acknowledged);
            bench.pass(ANSWER_WITHIN);
            assert_eq!(bench.line.forgotten.pop(), Some(number));
        }),
    ];
    for manner in [observe(), poll()] {
        for (reason, fail) in reasons {
            let mut bench = Bench::new(std::slice::from_ref(&manner));
            bench.contact();
            let number = bench.asked();
            let mut last = Duration::ZERO;
            for _ in 0..9 {
                fail(&mut bench, number);
                assert!(bench.trouble().unwrap().contains(reason), "{:?}", bench.trouble());
                let pause = bench.until_asked();
                assert!(pause >= last && pause >= PAUSE - Duration::from_secs(1), "{pause:?}");
                last = pause;
            }
            assert_eq!(last.as_secs().max(3_599), PAUSE_MAX.as_secs(), "{reason}");
        }
    }
}

#[test]
fn an_error_in_a_notification_ends_the_relation() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    let gone = Said { code: Code(0x84), ..said(NoticeKind::Notification, None) };
    assert_eq!(bench.says(number, gone), Verdict::Drop);
    assert!(bench.served.view(&bench.device).all(|view| view.observed_since.is_none()));
    assert_eq!(bench.until_asked(), PAUSE);
}

#[test]
fn a_device_that_was_asleep_is_asked_when_it_speaks_but_not_within_half_a_minute() {
    let mut bench = Bench::new(&[poll()]);
    bench.contact();
    for _ in 0..6 {
        let number = bench.asked();
        bench.served.handle_told(bench.now, number, Told::Unanswered);
        bench.contact();
        bench.pass(PAUSE - Duration::from_secs(1));
        bench.contact();
        assert!(bench.line.asked.is_empty());
        bench.now += Duration::from_secs(1);
        bench.contact();
    }
}

#[test]
fn a_poll_keeps_its_rhythm_and_what_a_sleeper_missed_is_asked_once() {
    let mut bench = Bench::new(&[poll()]);
    bench.contact();
    let number = bench.asked();
    bench.tells(number, NoticeKind::Piggybacked, None);
    let first = bench.until_asked();
    assert!((EVERY..=EVERY + Duration::from_secs(31)).contains(&first), "spread at first: {first:?}");
    let begin = bench.now;
    for round in 1..20 {
        // The answer takes its time.
        bench.pass(Duration::from_secs(7));
        bench.tells(number, NoticeKind::Separate, None);
        bench.until_asked();
        let drift = (bench.now - begin).abs_diff(EVERY * round);
        assert!(drift <= Duration::from_secs(2), "{drift:?}");
    }
    bench.tells(number, NoticeKind::Piggybacked, None);
    bench.line.asked.clear();
    bench.line.awake = None;
    bench.pass(EVERY * 12);
    assert!(bench.line.asked.is_empty(), "it sleeps");
    bench.line.awake = Some(session(1));
    bench.contact();
    bench.asked();
    bench.tells(number, NoticeKind::Piggybacked, None);
    bench.contact();
    bench.pass(EVERY - Duration::from_secs(2));
    assert!(bench.line.asked.is_empty(), "once");
}

#[test]
fn devices_of_a_fleet_that_began_together_are_not_polled_together() {
    let mut bench = Bench::new(&[poll()]);
    let mut moments = std::collections::BTreeSet::new();
    for device in 0..200 {
        bench.device = name(&format!("d-{device}"));
        bench.contact();
        let number = bench.asked();
        bench.tells(number, NoticeKind::Piggybacked, None);
    }
    let begin = bench.now;
    while bench.now < begin + EVERY + Duration::from_secs(40) {
        bench.pass(Duration::from_secs(1));
        if !bench.line.asked.is_empty() {
            assert!(bench.line.asked.len() < 40, "{}", bench.line.asked.len());
            bench.line.asked.clear();
            moments.insert(bench.now);
        }
    }
    assert!(moments.len() > 15, "{}", moments.len());
}

#[test]
fn a_command_goes_first_and_a_busy_line_is_tried_again() {
    let mut bench = Bench::new(&[observe()]);
    bench.line.occupied = true;
    bench.contact();
    bench.pass(Duration::from_secs(5));
    assert!(bench.line.asked.is_empty());
    (bench.line.occupied, bench.line.busy) = (false, true);
    bench.pass(Duration::from_secs(5));
    bench.line.busy = false;
    bench.pass(Duration::from_secs(2));
    bench.asked();
    assert_eq!(bench.trouble(), None);
}

#[test]
fn a_value_that_the_rules_refuse_ends_the_relation_and_is_named() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    assert_eq!(bench.says(number, said(NoticeKind::Notification, Some(2))), Verdict::Take);
    let refused = Taken::Refused("no rule".to_owned());
    assert_eq!(bench.served.handle_taken(bench.now, number, Some(2), refused), Receipt::Reset);
    assert_eq!(bench.served.poll_forgotten(), Some(number));
    assert_eq!(bench.trouble().as_deref(), Some("no rule"));
    assert_eq!(bench.until_asked(), PAUSE);
}

#[test]
fn a_value_that_is_not_stored_is_not_acknowledged_and_taken_when_it_comes_again() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    for taken in [Taken::Unstored, Taken::OverQuota] {
        let notification = said(NoticeKind::Notification, Some(2));
        assert_eq!(bench.says(number, notification), Verdict::Take);
        let receipt = bench.served.handle_taken(bench.now, number, Some(2), taken);
        assert_eq!(receipt, Receipt::Nothing);
    }
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(2)), Verdict::Take);
    // One that was overtaken by the next is stale.
    assert_eq!(bench.says(number, said(NoticeKind::Notification, Some(3))), Verdict::Take);
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(4)), Verdict::Take);
    bench.served.handle_taken(bench.now, number, Some(3), Taken::Unstored);
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(3)), Verdict::Drop);
    // A value that is not sent again is asked for again.
    bench.says(number, said(NoticeKind::Notification, Some(5)));
    bench.served.handle_taken(bench.now, number, Some(5), Taken::Unstored);
    assert!(bench.until_asked() <= PAUSE);
}

#[test]
fn of_several_values_that_were_not_stored_together_each_is_taken_when_it_comes_again() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(29)), Verdict::Take);
    for sequence in 30..=32 {
        let notification = said(NoticeKind::Notification, Some(sequence));
        assert_eq!(bench.says(number, notification), Verdict::Take);
    }
    for sequence in 30..=32 {
        let receipt = bench.served.handle_taken(bench.now, number, Some(sequence), Taken::Unstored);
        assert_eq!(receipt, Receipt::Nothing);
    }
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(29)), Verdict::Drop, "it is stored");
    for sequence in 30..=32 {
        let verdict = bench.tells(number, NoticeKind::Notification, Some(sequence));
        assert_eq!(verdict, Verdict::Take, "{sequence}");
    }
}

#[test]
fn a_device_that_notifies_a_thousand_times_a_second_is_under_its_quota_and_then_not_observed() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let (mut sequence, mut passed, mut refused) = (1, 0, 0);
        loop {
            sequence += 1;
            bench.now += Duration::from_millis(1);
            assert_eq!(bench.says(number, said(NoticeKind::Notification, Some(sequence))), Verdict::Take);
            // The quota lets ten of it pass.
            let taken = if passed < 10 { Taken::Passed } else { Taken::OverQuota };
            (passed, refused) = if passed < 10 { (passed + 1, refused) } else { (passed, refused + 1) };
            if bench.served.handle_taken(bench.now, number, Some(sequence), taken) == Receipt::Reset {
                break;
            }
        }
        assert_eq!(refused, OVER_QUOTA_MAX + 1);
        assert!(bench.trouble().unwrap().contains("quota"));
        pauses.push(bench.until_asked().as_secs());
        bench.tells(number, NoticeKind::Piggybacked, Some(1));
    }
    assert!(pauses.windows(2).all(|pair| pair[1] >= 2 * pair[0] - 2), "{pauses:?}");
    // One that is within its quota from then on is forgiven.
    for sequence in 2..16 {
        bench.pass(Duration::from_secs(50));
        bench.tells(number, NoticeKind::Notification, Some(sequence));
    }
    bench.says(number, Said { code: Code::NOT_FOUND, ..said(NoticeKind::Notification, None) });
    assert_eq!(bench.until_asked(), PAUSE);
}

#[test]
fn a_value_that_cannot_be_fetched_whole_is_named_and_asked_for_again() {
    let (mut bench, number) = Bench::observing(&[observe()]);
    let partial = Said { partial: true, ..said(NoticeKind::Notification, Some(2)) };
    assert_eq!(bench.says(number, partial), Verdict::Drop);
    assert!(bench.trouble().unwrap().contains("whole"));
    assert_eq!(bench.until_asked(), PAUSE);
    assert_eq!(bench.asked(), number, "by the same relation");
    assert_eq!(bench.tells(number, NoticeKind::Piggybacked, Some(3)), Verdict::Take);
    assert_eq!(bench.trouble(), None);
    // If the first of all is such a value, the relation is one all the same: a reload ends it.
    let mut bench = Bench::new(&[observe()]);
    bench.contact();
    let number = bench.asked();
    bench.says(number, Said { kind: NoticeKind::Piggybacked, ..partial });
    bench.served.replace(bench.now, &ServedSettings::default(), |_| Some(name("sensor")));
    assert_eq!(bench.served.poll_forgotten(), Some(number));
}

#[test]
fn a_block_that_a_device_refuses_is_named_and_not_called_too_long() {
    for (code, had_echo) in
        [(Code::UNAUTHORIZED, true), (Code::UNAUTHORIZED, false), (Code::NOT_FOUND, false)]
    {
        let (mut bench, number) = Bench::observing(&[observe()]);
        let refused = Some(BlockRefused { code, had_echo });
        let partial = Said { partial: true, refused, ..said(NoticeKind::Notification, Some(2)) };
        assert_eq!(bench.says(number, partial), Verdict::Drop);
        let trouble = bench.trouble().unwrap();
        assert!(trouble.contains(&format!("answers {code} to a block")), "{trouble}");
        assert!(trouble.contains("Echo") == had_echo && !trouble.contains("too long"), "{trouble}");
    }
}

#[test]
fn a_device_that_does_not_know_blocks_is_told_of_with_the_key_that_asks_for_them() {
    // RFC 7252 §5.4.1: 4.02 for a critical option that is not understood, which Block2 is.
    for (block_exponent, named) in [(Some(2), true), (None, false)] {
        let mut bench = Bench::new(&[ServedPath { block_exponent, ..observe() }]);
        bench.contact();
        let number = bench.asked();
        bench.says(number, Said { code: Code::BAD_OPTION, ..said(NoticeKind::Piggybacked, None) });
        let trouble = bench.trouble().unwrap();
        assert!(trouble.contains("4.02") && trouble.contains("block-size") == named, "{trouble}");
    }
}

#[test]
fn a_reload_forgets_what_is_gone_keeps_what_is_as_before_and_ends_pauses() {
    let (mut bench, number) = Bench::observing(&[observe(), poll()]);
    bench.contact();
    let polled = bench.asked();
    bench.says(polled, Said { code: Code::NOT_FOUND, ..said(NoticeKind::Piggybacked, None) });
    let role = |_: &Name| Some(name("sensor"));
    // The same again: the relation goes on, and the pause is over.
    bench.served.replace(bench.now, &of_role(&[observe(), poll()]), role);
    assert_eq!(bench.served.poll_forgotten(), None);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.asked(), polled);
    bench.tells(polled, NoticeKind::Piggybacked, None);
    assert_eq!(bench.tells(number, NoticeKind::Notification, Some(2)), Verdict::Take);
    // The relation is removed: its next notification is answered with Reset.
    bench.served.replace(bench.now, &of_role(&[poll()]), role);
    assert_eq!(bench.served.poll_forgotten(), Some(number));
    assert_eq!(bench.says(number, said(NoticeKind::Notification, Some(3))), Verdict::Reject);
    let receipt = bench.served.handle_taken(bench.now, number, Some(2), Taken::Passed);
    assert_eq!(receipt, Receipt::Reset);
    // The device is removed.
    bench.served.replace(bench.now, &of_role(&[poll()]), |_| None);
    assert_eq!(bench.served.view(&bench.device).count(), 0);
    bench.pass(EVERY * 3);
    assert!(bench.line.asked.is_empty());
}

#[test]
fn devices_of_the_process_before_are_asked_within_half_a_minute_or_when_they_speak() {
    let mut bench = Bench::new(&[observe()]);
    let now = bench.now;
    for device in 0..100 {
        let device = name(&format!("d-{device}"));
        bench.served.handle_found(now, &device, session(1), || Some(name("sensor")));
    }
    assert!(bench.line.asked.is_empty());
    bench.device = name("d-7");
    bench.contact();
    assert_eq!(std::mem::take(&mut bench.line.asked)[0].0, "d-7");
    bench.pass(Duration::from_secs(3));
    assert!(bench.line.asked.len() < 60, "{}", bench.line.asked.len());
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.line.asked.len(), 99);
}
