//! Imports from the session store: changed exports are refused; any content sealed with the right
//! key causes no panic, and the engine works afterwards.
#![no_main]

use std::cell::RefCell;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tombolo::proto::dtls::server::export::StoreKey;
use tombolo_fuzz::World;

thread_local! {
    static WORLD: RefCell<(World, StoreKey, Vec<u8>)> = RefCell::new({
        let mut world = World::new(Instant::now());
        let key = StoreKey::new(&[9; 32]);
        let sealed = world.export(0, &key).expect("an export");
        (world, key, sealed)
    });
}

fuzz_target!(|data: &[u8]| {
    WORLD.with_borrow_mut(|(world, key, sealed)| {
        // As it is.
        let _ = world.import(key, data);
        // A good one, changed.
        let mut changed = sealed.clone();
        for change in data.chunks_exact(2) {
            let at = usize::from(change[0]) % changed.len();
            changed[at] ^= change[1];
        }
        if changed != *sealed {
            assert!(world.import(key, &changed).is_err());
        }
        // Any content under the right key: as from an older or a broken version of ours.
        if let Some(content) = key.seal([1; 12], &mut data.to_vec()) {
            let _ = world.import(key, &content);
        }
        let mut content = key.open(sealed).expect("our own");
        for change in data.chunks_exact(2) {
            let at = usize::from(change[0]) % content.len();
            content[at] ^= change[1];
        }
        if let Some(content) = key.seal([1; 12], &mut content) {
            let _ = world.import(key, &content);
        }
        world.check();
    });
});
