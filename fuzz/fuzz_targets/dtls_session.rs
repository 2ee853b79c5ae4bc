//! Sessions with and without connection ids under arbitrary events: forged, changed, replayed and
//! moved records, new handshakes, time. Both directions keep working; no record is accepted twice;
//! no session is displaced.
#![no_main]

use std::cell::RefCell;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo_fuzz::World;
use tombolo_test_support::dtls::client;

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new(Instant::now()));
}

fuzz_target!(|data: &[u8]| {
    WORLD.with_borrow_mut(|world| {
        let mut rest = data;
        let mut old: Vec<Vec<u8>> = Vec::new();
        while let [kind, length, behind @ ..] = rest {
            let (bytes, behind) = behind.split_at(usize::from(*length).min(behind.len()));
            rest = behind;
            let device = usize::from(kind >> 4 & 1);
            let port = 1 + u16::from(kind >> 5);
            match kind & 15 {
                // A record of its own, changed, from anywhere.
                0..=3 => {
                    let mut record = world.clients[device].send(bytes);
                    let before = record.clone();
                    for change in bytes.chunks_exact(2) {
                        let at = usize::from(change[0]) % record.len();
                        record[at] ^= change[1];
                    }
                    if record != before {
                        world.inject(port, &record);
                        world.expect_silence();
                    }
                }
                // A genuine one, kept for later.
                4 | 5 => {
                    let record = world.clients[device].send(bytes);
                    let home = world.ports[device];
                    world.inject(home, &record);
                    world.forget();
                    old.push(record);
                }
                // An old one again, from anywhere.
                6 | 7 => {
                    if let Some(record) = old.get(usize::from(*length) % old.len().max(1)).cloned() {
                        world.inject(port, &record);
                        world.expect_silence();
                    }
                }
                8 => drop(world.inject(port, bytes)),
                // A record with an honest length.
                9 | 10 => {
                    let [kind, epoch, sequence, fragment @ ..] = bytes else { continue };
                    let mut record =
                        client::record(20 + kind % 6, u16::from(epoch % 3), u64::from(*sequence), fragment);
                    if record[0] == 25 {
                        let cid = world.clients[0].server_cid.clone().unwrap_or_default();
                        record.splice(11..11, cid);
                    }
                    world.inject(port, &record);
                }
                // The first device moves.
                11 => world.carry(100 + u16::from(*length)),
                12 | 13 => world.join_again(device, bytes),
                _ => world.pass(Duration::from_millis(u64::from(*length) * 50)),
            }
        }
        world.check();
    });
});
