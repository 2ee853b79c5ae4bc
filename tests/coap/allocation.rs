//! A reading causes no allocation once the buffers of its peer have grown.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tombolo::proto::coap::Message;

use super::support::*;

/// The system's allocator, counting for each thread.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// Safety: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

#[test]
fn decoding_allocates_nothing() {
    let datagram = post(1, b"21.5");
    let count = allocations(|| {
        for _ in 0..100 {
            let message = Message::parse(&datagram).unwrap();
            assert_eq!(message.options.count(), 2);
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn a_request_and_its_answer_allocate_nothing_in_the_long_run() {
    let mut bench = Bench::default();
    let mut buffer = Vec::new();
    let mut round = |id: u16| {
        for peer in 0..50 {
            for datagram in [&mut post(id, b"21.5"), &mut non_post(id.wrapping_add(1), b"21.5")] {
                let datagram = std::mem::take(datagram);
                let count = allocations(|| {
                    let peer = proven(peer);
                    let exchange =
                        bench.endpoint.handle_datagram(bench.now, peer, &datagram).unwrap().exchange;
                    bench.endpoint.respond(bench.now, exchange, &changed());
                    assert_eq!(bench.endpoint.poll_transmit(&mut buffer), Some(peer));
                });
                if id >= 100 {
                    assert_eq!(count, 0);
                }
            }
        }
    };
    (0..1_000).step_by(2).for_each(&mut round);
}
