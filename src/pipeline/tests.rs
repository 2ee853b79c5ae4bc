use std::time::{Duration, Instant};

use super::fake::{FakeStore, received};
use super::*;
use crate::gate::Device;
use crate::gate::LocalSize;
use crate::gate::settings::{Psk, ReadingFilter};
use crate::gate::stage::Reason;
use crate::message::{Method, Name};
use crate::proto::address::{MqttTicket, SerialTicket};

fn ticket(count: u32) -> Ticket {
    Ticket::Serial(SerialTicket { port: 3, delivery: 0, count })
}

fn post(pipeline: &mut Pipeline<FakeStore>, now: Instant, count: u32, path: &str) -> Disposition<'static> {
    let device = pipeline.gate.device_by_id("door-7").unwrap();
    match pipeline.handle_reading(now, device, ticket(count), received(Method::Post, path, b"21.5")) {
        Disposition::Refused(refusal) => Disposition::Refused(Box::leak(Box::new(refusal.clone()))),
        Disposition::Journaled => Disposition::Journaled,
        Disposition::Passed => Disposition::Passed,
        Disposition::Filtered => Disposition::Filtered,
        Disposition::Unstored(refused) => Disposition::Unstored(refused),
    }
}

/// The events there are, each in a few words.
fn events(pipeline: &mut Pipeline<FakeStore>) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(event) = pipeline.poll_event() {
        events.push(match event {
            Event::Refused { device, method, path, bytes, refusal, .. } => {
                format!("refused {device:?} {} {path} {bytes} {:?}", method.as_str(), refusal.reason())
            }
            Event::Unstored { device, path, reason, .. } => format!("unstored {device:?} {path} {reason:?}"),
            Event::Filtered { device, path, bytes, preview, why, .. } => {
                format!("filtered {device} {path} {bytes} {} {why}", String::from_utf8_lossy(preview))
            }
            Event::Passed(passed) => {
                let content = passed.content();
                let payload = String::from_utf8_lossy(content.payload);
                format!("passed {} {} {} {payload}", content.device, content.path, content.topic)
            }
            Event::Completed { ticket: Ticket::Serial(ticket), stored } => {
                format!("completed {} {stored}", ticket.count)
            }
            Event::Completed { ticket, .. } => panic!("{ticket:?}"),
            Event::Mirrored { device, path, payload, retain, .. } => {
                format!("mirrored {device} {path} {} {retain}", String::from_utf8_lossy(payload))
            }
            Event::Shown(watched) => {
                format!("shown {} {} {}", watched.id.sequence, watched.device, watched.topic)
            }
        });
    }
    events
}

fn complete(pipeline: &mut Pipeline<FakeStore>) -> Vec<String> {
    let mut all = Vec::new();
    while pipeline.handle_completion() {
        all.extend(events(pipeline));
    }
    all
}

#[test]
fn a_reading_is_completed_when_the_store_says_so_and_not_before() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 10);
    for count in 1..=3 {
        assert_eq!(post(&mut pipeline, now, count, "t/env"), Disposition::Journaled);
    }
    assert_eq!(pipeline.store().taken[0].1, "tombolo/gw/door-7/up/t/env");
    assert!(events(&mut pipeline).is_empty() && complete(&mut pipeline).is_empty());
    assert_eq!(pipeline.counters.value(Counter::ReadingsStored), 0);
    pipeline.store().answer_newest();
    pipeline.store().answer(false);
    assert_eq!(complete(&mut pipeline), ["completed 3 true", "completed 1 false"]);
    assert!(complete(&mut pipeline).is_empty(), "the second is still on its way");
    pipeline.store().answer(true);
    assert_eq!(complete(&mut pipeline), ["completed 2 true"]);
    let of = |counter| pipeline.counters.value(counter);
    assert_eq!((of(Counter::ReadingsAdmitted), of(Counter::BytesStored)), (3, 12));
    assert_eq!((of(Counter::ReadingsStored), of(Counter::ReadingsUnstored)), (2, 1));
}

#[test]
fn what_the_store_refuses_is_named_and_costs_no_quota() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 2);
    for refused in [Refused::LaneFull, Refused::Failing, Refused::TooLarge, Refused::Closed] {
        pipeline.store().refuses = Some(refused);
        assert_eq!(post(&mut pipeline, now, 1, "t/env"), Disposition::Unstored(refused));
        assert_eq!(events(&mut pipeline), [format!("unstored Some(\"door-7\") t/env {refused:?}")]);
    }
    assert_eq!(pipeline.counters.value(Counter::ReadingsUnstored), 4);
    pipeline.store().refuses = None;
    for count in 1..=2 {
        assert_eq!(post(&mut pipeline, now, count, "t/env"), Disposition::Journaled);
    }
    assert!(
        matches!(post(&mut pipeline, now, 3, "t/env"), Disposition::Refused(Refusal::OverQuota { .. })),
        "what was taken counts"
    );
    assert_eq!(pipeline.store().taken.len(), 2);
}

/// The same over CoAP, which tells its sender when to send again.
fn coap(pipeline: &mut Pipeline<FakeStore>, now: Instant) -> Option<Refusal> {
    let device = pipeline.gate.device_by_id("door-7").unwrap();
    // A POST of a node on a serial line.
    let ticket = Ticket::unpack(1 << 126 | 3 << 64 | 2 << 56).expect("a ticket");
    assert!(matches!(ticket, Ticket::Coap { method: Method::Post, .. }));
    match pipeline.handle_reading(now, device, ticket, received(Method::Post, "t/env", b"21.5")) {
        Disposition::Refused(refusal) => Some(refusal.clone()),
        _ => None,
    }
}

#[test]
fn a_device_has_one_quota_over_coap_serial_lines_and_mqtt() {
    let now = Instant::now();
    let mut settings = Pipeline::fake_settings(4, &ReadingFilter::default());
    let key = b"0123456789abcdef".to_vec().into();
    settings.devices[0].psk = Some(Psk { identity: b"other-name".to_vec(), key });
    let mut pipeline = Pipeline::new(Gate::new(settings, now), FakeStore::default());
    // However it says who it is, it is the same device.
    let device = pipeline.gate.device_by_id("door-7");
    assert_eq!(pipeline.gate.identify_psk(b"other-name"), device);
    assert_eq!(pipeline.gate.login("door-7").map(|(device, _)| device), device);
    let device = device.expect("it is known");
    let mqtt = |pipeline: &mut Pipeline<FakeStore>, count| {
        let ticket = Ticket::Mqtt(MqttTicket { session: 1, count });
        let received = received(Method::Post, "t/env", b"21.5");
        match pipeline.handle_reading(now, device, ticket, received) {
            Disposition::Journaled => Ok(()),
            Disposition::Refused(refusal) => Err(refusal.reason()),
            _ => panic!("it is journaled, or refused"),
        }
    };
    assert_eq!(coap(&mut pipeline, now), None);
    assert_eq!(post(&mut pipeline, now, 1, "t/env"), Disposition::Journaled);
    assert_eq!(mqtt(&mut pipeline, 1), Ok(()));
    let small = LocalSize { payload: 3, properties: 1 };
    assert_eq!(pipeline.handle_local(now, device, "home/x", small, Ok(())), Ok(()));
    assert!(matches!(coap(&mut pipeline, now), Some(Refusal::OverQuota { .. })));
    assert!(matches!(post(&mut pipeline, now, 2, "t/env"), Disposition::Refused(Refusal::OverQuota { .. })));
    assert_eq!(mqtt(&mut pipeline, 2), Err(Reason::OverQuota));
    assert!(matches!(
        pipeline.handle_local(now, device, "home/x", small, Ok(())),
        Err(Refusal::OverQuota { .. })
    ));
}

#[test]
fn a_device_that_ignores_4_29_is_muted_over_coap_and_heard_again_after_silence() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 2);
    assert_eq!((coap(&mut pipeline, now), coap(&mut pipeline, now)), (None, None));
    for _ in 0..64 {
        assert_eq!(coap(&mut pipeline, now), Some(Refusal::OverQuota { retry_after_s: 1 }));
    }
    assert_eq!(coap(&mut pipeline, now), Some(Refusal::OverQuota { retry_after_s: 10 }), "it is told");
    let s = Duration::from_secs;
    // Its bucket is full again, but it is not silent.
    assert_eq!(coap(&mut pipeline, now + s(9)), Some(Refusal::Muted { retry_after_s: 10 }));
    let counted = |counter| pipeline.counters.value(counter);
    assert_eq!((counted(Counter::RefusedQuota), counted(Counter::RefusedMuted)), (65, 1));
    let view = pipeline.gate.device(now + s(9), pipeline.gate.device_by_id("door-7").unwrap()).unwrap();
    assert_eq!((view.refused.of(Reason::OverQuota), view.refused.of(Reason::Muted)), (65, 1));
    assert_eq!(view.limited.and_then(|limited| limited.muted_for(now + s(9))), Some(s(10)));
    // What is told no time is not muted: MQTT and serial lines.
    assert_eq!(post(&mut pipeline, now + s(9), 7, "t/env"), Disposition::Journaled);
    let device = pipeline.gate.device_by_id("door-7").unwrap();
    let first = received(Method::Post, "t/env", b"21.5");
    let refused = pipeline.handle_first_block(now + s(10), device, first, 2_000).unwrap_err();
    assert_eq!(refused, &Refusal::Muted { retry_after_s: 10 }, "a body in blocks, at its first");
    assert_eq!(coap(&mut pipeline, now + s(20)), None);
}

#[test]
fn a_serial_device_over_its_quota_is_never_muted() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 1);
    for count in 0..500 {
        post(&mut pipeline, now, count, "t/env");
    }
    assert_eq!(post(&mut pipeline, now + Duration::from_secs(1), 1, "t/env"), Disposition::Journaled);
}

#[test]
fn a_reading_beyond_the_share_of_the_lane_is_counted_for_its_device_and_costs_no_quota() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 1);
    pipeline.store().refuses = Some(Refused::DeviceShare);
    for _ in 0..3 {
        assert_eq!(post(&mut pipeline, now, 1, "t/env"), Disposition::Unstored(Refused::DeviceShare));
    }
    let counted = |counter| pipeline.counters.value(counter);
    assert_eq!((counted(Counter::ReadingsUnstored), counted(Counter::ReadingsOverShare)), (3, 3));
    let view = pipeline.gate.device(now, pipeline.gate.device_by_id("door-7").unwrap()).unwrap();
    let tally = view.limited.map(|limited| limited.over_share).unwrap_or_default();
    assert_eq!((tally.count, tally.is_recent(now + Duration::from_secs(601))), (3, false));
}

#[test]
fn a_forwarded_reading_that_is_not_stored_is_counted_for_the_device_that_it_is_of() {
    use crate::gate::OnBehalfRule;
    use crate::gate::pattern::Pattern;
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 10);
    let name = |text| Name::parse(text).expect("a name");
    let mut settings = Pipeline::fake_settings(10, &ReadingFilter::default());
    settings.roles[0].on_behalf = vec![OnBehalfRule {
        name: name("all"),
        from: None,
        path: Pattern::parse("#").expect("a pattern"),
        deny: false,
        roles: Vec::new(),
    }];
    let child = Device { parent: Some(name("door-7")), ..Device::new(name("probe"), name("sensor")) };
    settings.devices.push(child.into());
    pipeline.gate.replace(settings, now);
    for (count, path, stored) in [(1, "~probe/t/x", true), (2, "~probe/t/x", false), (3, "t/x", false)] {
        assert_eq!(post(&mut pipeline, now, count, path), Disposition::Journaled);
        pipeline.store().answer(stored);
        complete(&mut pipeline);
    }
    let of = |id| {
        let view = pipeline.gate.device(now, pipeline.gate.device_by_id(id).unwrap()).unwrap();
        (view.accepted, view.unstored)
    };
    assert_eq!((of("door-7"), of("probe")), ((1, 1), (2, 1)));
}

#[test]
fn a_store_that_fails_later_does_not_give_the_quota_back() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 1);
    post(&mut pipeline, now, 1, "t/env");
    pipeline.store().answer(false);
    assert_eq!(complete(&mut pipeline), ["completed 1 false"]);
    assert!(matches!(post(&mut pipeline, now, 2, "t/env"), Disposition::Refused(Refusal::OverQuota { .. })));
    let later = now + Duration::from_secs(1);
    assert_eq!(post(&mut pipeline, later, 3, "t/env"), Disposition::Journaled);
}

#[test]
fn a_store_that_dies_fails_what_it_had_and_takes_nothing_more() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 10);
    for count in 1..=2 {
        post(&mut pipeline, now, count, "t/env");
    }
    pipeline.store().answer(true);
    pipeline.store().die();
    assert_eq!(post(&mut pipeline, now, 3, "t/env"), Disposition::Unstored(Refused::Closed));
    assert_eq!(
        complete(&mut pipeline),
        ["unstored Some(\"door-7\") t/env Closed", "completed 1 true", "completed 2 false"]
    );
    assert!(!pipeline.handle_completion());
}

#[test]
fn a_refused_reading_is_counted_by_its_reason_and_never_offered_to_the_store() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 10);
    assert_eq!(post(&mut pipeline, now, 1, "x"), Disposition::Refused(&Refusal::NoRule));
    let device = pipeline.gate.device_by_id("door-7").unwrap();
    let with_payload = received(Method::Delete, "t/env", b"1");
    assert_eq!(
        pipeline.handle_reading(now, device, ticket(2), with_payload),
        Disposition::Refused(&Refusal::NotAllowed)
    );
    let settings = crate::gate::Settings::empty(pipeline.gate.gateway().clone());
    pipeline.gate.replace(settings, now);
    let gone = pipeline.handle_reading(now, device, ticket(3), received(Method::Post, "t/env", b"1"));
    assert_eq!(gone, Disposition::Refused(&Refusal::UnknownDevice));
    assert_eq!(
        events(&mut pipeline),
        [
            "refused Some(\"door-7\") POST x 4 NoRule",
            "refused Some(\"door-7\") DELETE t/env 1 NotAllowed",
            "refused None POST t/env 1 UnknownDevice",
        ]
    );
    let of = |counter| pipeline.counters.value(counter);
    assert_eq!((of(Counter::RefusedNoRule), of(Counter::RefusedMethod)), (1, 1));
    assert_eq!((of(Counter::RefusedUnknownDevice), of(Counter::ReadingsAdmitted)), (1, 0));
    assert!(pipeline.store().taken.is_empty() && complete(&mut pipeline).is_empty());
}

#[test]
fn each_reason_has_a_counter_of_its_own() {
    let counters: Vec<_> = Reason::ALL.into_iter().map(|reason| refusal::counter(reason) as usize).collect();
    let distinct: std::collections::BTreeSet<_> = counters.iter().collect();
    assert_eq!(distinct.len(), Reason::ALL.len());
}

#[test]
fn readings_of_qos_0_leave_whole_and_in_order_and_are_not_stored() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 10);
    let device = pipeline.gate.device_by_id("door-7").unwrap();
    for round in 0..2 {
        for (path, payload) in [("live/a", "1"), ("live/b/c", ""), ("live/d", "three")] {
            let received = received(Method::Post, path, payload.as_bytes());
            assert_eq!(pipeline.handle_reading(now, device, ticket(1), received), Disposition::Passed);
        }
        assert_eq!(
            events(&mut pipeline),
            [
                "passed door-7 live/a tombolo/gw/door-7/up/live/a 1",
                "passed door-7 live/b/c tombolo/gw/door-7/up/live/b/c ",
                "passed door-7 live/d tombolo/gw/door-7/up/live/d three",
            ],
            "round {round}"
        );
    }
    assert_eq!(pipeline.counters.value(Counter::ReadingsUnpromised), 6);
    assert!(pipeline.store().taken.is_empty());
}

#[test]
fn what_is_taken_while_somebody_watches_is_shown_once_it_is_stored() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 10);
    post(&mut pipeline, now, 1, "t/before");
    pipeline.watch(Attention::All);
    for (count, path) in [(2, "t/a"), (3, "t/b"), (4, "t/c")] {
        post(&mut pipeline, now, count, path);
    }
    pipeline.watch(Attention::Nobody);
    post(&mut pipeline, now, 5, "t/after");
    assert!(events(&mut pipeline).is_empty(), "nothing is shown before it is stored");
    for stored in [true, true, false, true, true] {
        pipeline.store().answer(stored);
    }
    assert_eq!(
        complete(&mut pipeline),
        [
            "completed 1 true",
            "completed 2 true",
            "shown 2 door-7 tombolo/gw/door-7/up/t/a",
            "completed 3 false",
            "completed 4 true",
            "shown 4 door-7 tombolo/gw/door-7/up/t/c",
            "completed 5 true",
        ]
    );
}

#[test]
fn accepted_readings_are_mirrored_while_somebody_wants_them() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 3);
    post(&mut pipeline, now, 1, "t/env");
    assert!(events(&mut pipeline).is_empty());
    pipeline.mirror(true);
    for (count, path) in [(2, "t/env"), (3, "nowhere"), (4, "live/x"), (5, "t/over-quota")] {
        post(&mut pipeline, now, count, path);
    }
    let all = events(&mut pipeline);
    let mirrored: Vec<_> = all.iter().filter(|event| event.starts_with("mirrored")).collect();
    assert_eq!(mirrored, ["mirrored door-7 t/env 21.5 true", "mirrored door-7 live/x 21.5 true"]);
}

#[test]
fn a_local_message_costs_quota_and_is_stored_nowhere() {
    let now = Instant::now();
    let mut pipeline = Pipeline::fake(now, 2);
    let device = pipeline.gate.device_by_id("door-7").expect("it is known");
    let small = LocalSize { payload: 3, properties: 1 };
    for _ in 0..2 {
        assert_eq!(pipeline.handle_local(now, device, "home/x", small, Ok(())), Ok(()));
    }
    assert!(matches!(
        pipeline.handle_local(now, device, "home/x", small, Ok(())),
        Err(Refusal::OverQuota { .. })
    ));
    assert!(matches!(
        pipeline.handle_local(now, device, "home/x", LocalSize { payload: 70_000, ..small }, Ok(())),
        Err(Refusal::TooLarge { .. })
    ));
    assert!(pipeline.store().taken.is_empty());
    assert_eq!(pipeline.counters.value(Counter::RefusedQuota), 1);
    assert_eq!(events(&mut pipeline).len(), 2);
    let view = pipeline.gate.device(now, device).expect("it is known");
    assert_eq!((view.accepted, view.refused.total()), (0, 2));
}

/// Both rules publish only what changes.
fn filtering() -> (Instant, Pipeline<FakeStore>) {
    let now = Instant::now();
    let filter = ReadingFilter { on_change: true, ..ReadingFilter::default() };
    (now, Pipeline::fake_with(now, 10, &filter))
}

#[test]
fn a_filtered_reading_is_acknowledged_no_sooner_than_the_one_before_it_is_on_disk() {
    let (now, mut pipeline) = filtering();
    assert_eq!(post(&mut pipeline, now, 1, "t/env"), Disposition::Journaled);
    // The same again, while the first is on its way to disk.
    assert_eq!(post(&mut pipeline, now, 2, "t/env"), Disposition::Journaled);
    assert_eq!(events(&mut pipeline), ["filtered door-7 t/env 4 21.5 unchanged (on-change)"]);
    assert_eq!(pipeline.store().taken.len(), 1, "one record for both");
    assert!(complete(&mut pipeline).is_empty());
    pipeline.store().answer(true);
    assert_eq!(complete(&mut pipeline), ["completed 1 true", "completed 2 true"]);
    assert_eq!(post(&mut pipeline, now, 3, "t/env"), Disposition::Filtered);
    let of = |counter| pipeline.counters.value(counter);
    assert_eq!((of(Counter::ReadingsFiltered), of(Counter::ReadingsAdmitted)), (2, 1));
    assert_eq!(of(Counter::ReadingsStored), 1);
}

#[test]
fn what_is_not_stored_holds_nothing_back_and_takes_those_that_wait_with_it() {
    let (now, mut pipeline) = filtering();
    assert_eq!(post(&mut pipeline, now, 1, "t/env"), Disposition::Journaled);
    assert_eq!(post(&mut pipeline, now, 2, "t/env"), Disposition::Journaled);
    events(&mut pipeline);
    pipeline.store().answer(false);
    assert_eq!(complete(&mut pipeline), ["completed 1 false", "completed 2 false"]);
    assert_eq!(post(&mut pipeline, now, 3, "t/env"), Disposition::Journaled, "offered again, it is stored");
    pipeline.store().refuses = Some(Refused::LaneFull);
    assert_eq!(post(&mut pipeline, now, 4, "t/other"), Disposition::Unstored(Refused::LaneFull));
    pipeline.store().refuses = None;
    assert_eq!(post(&mut pipeline, now, 5, "t/other"), Disposition::Journaled, "nor what was not taken");
    assert_eq!(pipeline.store().taken.len(), 2);
}

#[test]
fn one_more_than_may_wait_is_refused_and_costs_no_quota() {
    let now = Instant::now();
    let filter = ReadingFilter { on_change: true, ..ReadingFilter::default() };
    let most = settling::FOLLOWERS_MAX as u32;
    let mut pipeline = Pipeline::fake_with(now, most + 2, &filter);
    for count in 0..=most {
        assert_eq!(post(&mut pipeline, now, count, "t/env"), Disposition::Journaled);
    }
    events(&mut pipeline);
    for count in 0..3 {
        let said = post(&mut pipeline, now, most + 1 + count, "t/env");
        assert_eq!(said, Disposition::Unstored(Refused::LaneFull), "never over quota");
    }
    assert_eq!(events(&mut pipeline), [r#"unstored Some("door-7") t/env LaneFull"#; 3]);
    pipeline.store().answer(true);
    assert_eq!(complete(&mut pipeline).len(), most as usize + 1);
}

#[test]
fn a_filtered_reading_of_a_rule_with_qos_0_has_no_disk_to_wait_for() {
    let (now, mut pipeline) = filtering();
    assert_eq!(post(&mut pipeline, now, 1, "live/env"), Disposition::Passed);
    assert_eq!(post(&mut pipeline, now, 2, "live/env"), Disposition::Filtered);
}
