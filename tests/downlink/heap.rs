//! Bytes of the heap that 10,000 sleepers cost, as the allocator counts them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tombolo::downlink::mailbox::Mailbox;
use tombolo::downlink::observe::{Formats, OF_DEVICE, Registration};
use tombolo::gate::Deliver;
use tombolo::message::Name;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::Token;
use tombolo::proto::dtls::SessionId;

use crate::world::World;

/// The system's allocator, counting for each thread what is allocated and not freed.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

// Safety: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LIVE.try_with(|live| live.set(live.get() + layout.size() as isize));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get() - layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SLEEPERS: u32 = 10_000;

/// Bytes of heap and of disk for each sleeper with one set-point of 4 bytes.
fn of_each(deliver: Deliver) -> (usize, usize) {
    let mut world = World::with_sleepers(SLEEPERS, deliver);
    let disk: usize = world.disk.files().iter().map(|(_, _, content)| content.len()).sum();
    let (held, values) = (world.mailbox.bytes(), world.mailbox.values());
    let mailbox = std::mem::replace(&mut world.mailbox, Mailbox::new(1, &[]));
    let before = LIVE.get();
    drop(mailbox);
    let heap = usize::try_from(before - LIVE.get()).expect("it frees");
    let each = (heap / SLEEPERS as usize, disk / SLEEPERS as usize);
    println!(
        "{deliver:?}: {} bytes of heap and {} of disk each; accounted: commands {}, values {}",
        each.0,
        each.1,
        held / SLEEPERS as usize,
        values.1 / SLEEPERS as usize
    );
    each
}

#[test]
fn ten_thousand_sleepers_take_as_much_heap_as_the_documentation_says() {
    let (request, disk) = of_each(Deliver::Request);
    assert!(request < 1_200 && disk < 300, "{request} {disk}");
    // The value that a GET is answered with is kept besides.
    for deliver in [Deliver::Auto, Deliver::Observe] {
        let (heap, disk) = of_each(deliver);
        assert!(heap < 2_600 && disk < 400, "{deliver:?}: {heap} {disk}");
    }
}

/// What the relations and the values of one device may take at most, with the longest paths.
#[test]
fn what_a_device_observes_and_the_values_for_it_take_as_much_heap_as_the_documentation_says() {
    const DEVICES: u32 = 100;
    let mut world = World::new();
    world.wire.awake = false;
    let long = |number: usize| format!("{number:02}/{}", "p".repeat(252));
    for id in 0..DEVICES {
        for number in 0..OF_DEVICE {
            let registration = Registration {
                device: Name::parse(&format!("sensor-{id:05}")).unwrap(),
                path: long(number),
                peer: Some(Peer::Session(SessionId(id.into())).id()),
                session: Some(id.into()),
                token: Token::new(&[number as u8; 8]).unwrap(),
                block: None,
                formats: Formats::Any,
            };
            assert!(world.mailbox.observe(world.now, registration, 900));
            world.settle();
        }
    }
    assert_eq!(world.mailbox.relation_count(), DEVICES as usize * OF_DEVICE);
    let mailbox = std::mem::replace(&mut world.mailbox, Mailbox::new(1, &[]));
    let before = LIVE.get();
    drop(mailbox);
    let each = usize::try_from(before - LIVE.get()).expect("it frees") / (DEVICES as usize * OF_DEVICE);
    println!("a relation: {each} bytes of heap, with a path of 255 bytes");
    assert!(each < 1_500, "{each}");
}
