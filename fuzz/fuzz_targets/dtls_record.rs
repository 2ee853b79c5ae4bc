//! Arbitrary datagrams to the DTLS server with a session and a handshake: no panic, no state for an
//! unvalidated address, and never more bytes sent to it than received.
#![no_main]

use std::cell::RefCell;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo::proto::dtls::Engine;
use tombolo_fuzz::World;

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new(Instant::now()));
}

fuzz_target!(|data: &[u8]| {
    WORLD.with_borrow_mut(|world| {
        let [kind, data @ ..] = data else { return };
        let port = 1 + u16::from(kind & 3);
        let half_open = world.engine.half_open_count();
        let answers = world.inject(port, data);
        if port == 4 {
            assert!(answers.iter().map(Vec::len).sum::<usize>() <= data.len().max(60));
            assert!(world.engine.half_open_count() <= half_open);
        }
        world.pass(Duration::from_millis(u64::from(*kind)));
        world.check();
    });
});
