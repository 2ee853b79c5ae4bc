//! A reading causes no allocation: in the gate, whether it passes or not; in the pipeline, if it
//! passes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use tombolo::gate::{Gate, Mapped};
use tombolo::journal;
use tombolo::message::RecordId;
use tombolo::pipeline::{Completion, Disposition, Event, Pipeline, ReadingStore};
use tombolo::proto::address::{SerialTicket, Ticket};

use super::*;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain cells of the
// thread and allocate nothing themselves.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        let _ = LIVE.try_with(|live| live.set(live.get() + layout.size() as isize));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get() - layout.size() as isize));
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What this thread has allocated so far.
pub fn count() -> u64 {
    ALLOCATIONS.get()
}

#[test]
fn no_reading_allocates() {
    let long = to("long", "l/#", &format!("x/{}/{{rest}}", "y".repeat(990)));
    let mut sensor = role("sensor", vec![rule("all", "t/#"), deny("secret", "t/key"), long]);
    sensor.quota.burst = 500;
    let devices = (0..100).map(|n| device(&format!("d{n}"), "sensor")).collect();
    let start = Instant::now();
    let mut gate = Gate::new(settings(vec![sensor], devices), start);
    let indices: Vec<_> = gate.devices(start).map(|view| view.index).collect();
    let long = format!("l/{}", "z".repeat(64));
    let paths = ["t/env", "t/a/b/c/d/e/f", "t/key", "x", "rd", &long, "t"];
    // The first refusal of a device makes the place where its newest one is kept.
    for device in &indices {
        assert!(gate.admit(start, *device, received(Method::Post, "x", b"21.5")).is_err());
    }
    let before = ALLOCATIONS.get();
    let (mut passed, mut refused) = (0, 0);
    for round in 0..100 {
        let now = start + Duration::from_secs(60 * round);
        for device in &indices {
            for path in paths {
                match gate.admit(now, *device, received(Method::Post, path, b"21.5")) {
                    Ok(_) => passed += 1,
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!((passed, refused), (30_000, 40_000));
}

/// Bytes that this thread has allocated and not freed.
pub fn live() -> isize {
    LIVE.get()
}

/// A store that keeps the tickets alone.
pub struct Store(pub Vec<Ticket>);

impl ReadingStore for Store {
    fn append(&mut self, _: &Mapped<'_>, ticket: Ticket) -> Result<RecordId, journal::Refused> {
        self.0.push(ticket);
        Ok(RecordId { run: 1, sequence: 1 })
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        self.0.pop().map(|ticket| Completion { ticket, stored: true })
    }
}

#[test]
fn no_reading_that_passes_allocates_on_its_way_through_the_pipeline() {
    let live = UplinkRule { qos: QoS::AtMostOnce, ..rule("live", "live/#") };
    let start = Instant::now();
    let gate = Gate::new(
        settings(vec![role("sensor", vec![rule("all", "t/#"), live])], vec![device("door-7", "sensor")]),
        start,
    );
    let device = gate.device_by_id("door-7").expect("the device is known");
    let mut pipeline = Pipeline::new(gate, Store(Vec::with_capacity(100)));
    let mut round = |number: u32| {
        let before = ALLOCATIONS.get();
        for count in 0..50 {
            let ticket = Ticket::Serial(SerialTicket { port: 1, delivery: 0, count });
            let stored = received(Method::Post, "t/env", b"21.5");
            assert_eq!(pipeline.handle_reading(start, device, ticket, stored), Disposition::Journaled);
            let live = received(Method::Post, "live/env", b"21.5");
            assert_eq!(pipeline.handle_reading(start, device, ticket, live), Disposition::Passed);
        }
        let (mut passed, mut completed) = (0, 0);
        loop {
            while let Some(event) = pipeline.poll_event() {
                match event {
                    Event::Passed(_) => passed += 1,
                    Event::Completed { stored: true, .. } => completed += 1,
                    other => panic!("{other:?}"),
                }
            }
            if !pipeline.handle_completion() {
                break;
            }
        }
        assert_eq!((passed, completed), (50, 50));
        if number > 0 {
            assert_eq!(ALLOCATIONS.get(), before);
        }
    };
    (0..20).for_each(&mut round);
}
