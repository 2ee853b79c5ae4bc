//! Nothing is allocated for a reading, whether it passes or not.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use tombolo::gate::Gate;

use super::*;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain cell of the thread
// and allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
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
