//! Handshakes with a client controlled by the input: a hello with any content and a valid cookie,
//! and any messages after it, in any fragments. No panic; no session, because the client has no
//! key.
#![no_main]

use std::cell::RefCell;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo::proto::dtls::Engine;
use tombolo_fuzz::World;
use tombolo_test_support::dtls::client;

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new(Instant::now()));
}

fuzz_target!(|data: &[u8]| {
    WORLD.with_borrow_mut(|world| {
        const PORT: u16 = 9;
        let [length, data @ ..] = data else { return };
        let (behind, mut rest) = data.split_at(usize::from(*length).min(data.len()));
        // What stands behind the cookie: suites, compressions, extensions.
        let hello = |cookie: &[u8], sequence: u16| {
            let mut body = vec![0xfe, 0xfd];
            body.extend([*length; 32]);
            body.push(0);
            body.push(cookie.len() as u8);
            body.extend(cookie);
            body.extend(behind);
            let message = client::handshake_message(1, sequence, &body);
            client::record(22, 0, u64::from(sequence), &message)
        };
        let sessions = world.engine.session_count();
        let request = world.inject(PORT, &hello(&[], 0));
        if let Some(request) = request.first().filter(|request| request.get(13) == Some(&3)) {
            world.inject(PORT, &hello(&request[28..60], 1));
        }
        let mut number = 2;
        while let [kind, length, after @ ..] = rest {
            let (body, after) = after.split_at(usize::from(*length).min(after.len()));
            rest = after;
            number += 1;
            let datagram = match kind >> 5 {
                // A whole message with the number wanted, or near it.
                0..=2 => {
                    let message = client::handshake_message(kind & 31, number - 1, body);
                    client::record(22, 0, number.into(), &message)
                }
                // A handshake record as it is: pieces, several messages.
                3 => client::record(22, 0, number.into(), body),
                // Under keys that are not.
                4 => client::record(22, 1, number.into(), body),
                5 => client::record(20 + kind % 6, u16::from(kind & 1), number.into(), body),
                6 => body.to_vec(),
                _ => {
                    world.pass(Duration::from_millis(u64::from(*length) * 20));
                    continue;
                }
            };
            world.inject(PORT, &datagram);
        }
        assert_eq!(world.engine.session_count(), sessions);
        world.pass(Duration::from_secs(1));
        world.check();
    });
});
