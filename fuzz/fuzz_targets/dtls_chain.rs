//! Certificate chains: those of the input, and a valid one changed, reordered and repeated, in
//! complete handshakes. No panic; a chain that passes the structure check has the documented form;
//! only the device's own chain leads to a session, whatever else is sent with it.
#![no_main]

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tombolo::proto::dtls::server::outline::{BYTES_MAX, CERTIFICATES_MAX, Outline, judge};
use tombolo_fuzz::{Authorities, World};
use tombolo_test_support::dtls::client::{Config, Own};

thread_local! {
    static WORLD: RefCell<(World, Authorities)> = RefCell::new({
        let authorities = Authorities::new();
        (World::with(Instant::now(), authorities.certificates()), authorities)
    });
}

/// The judgement of what a client might send, and what it promises.
fn judged(chain: &[Vec<u8>]) {
    let sent: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    let Ok(judged) = judge(&sent) else { return };
    assert!(judged.len() <= CERTIFICATES_MAX && sent.starts_with(judged));
    assert!(sent.iter().map(|certificate| certificate.len()).sum::<usize>() <= BYTES_MAX);
    let outlines: Vec<_> =
        judged.iter().map(|certificate| Outline::read(certificate).expect("it was read")).collect();
    assert!(outlines.windows(2).all(|pair| pair[0].issuer == pair[1].subject));
    let subjects: HashSet<_> = outlines.iter().map(|outline| outline.subject).collect();
    let keys: HashSet<_> = outlines.iter().map(|outline| outline.key).collect();
    assert_eq!((subjects.len(), keys.len()), (outlines.len(), outlines.len()));
}

fuzz_target!(|data: &[u8]| {
    // As it is: lengths of 16 bits, and certificates.
    let (mut rest, mut foreign) = (data, Vec::new());
    while let [high, low, after @ ..] = rest {
        let (certificate, after) =
            after.split_at(usize::from(u16::from_be_bytes([*high & 15, *low])).min(after.len()));
        foreign.push(certificate.to_vec());
        rest = after;
    }
    judged(&foreign);
    // A good chain: which certificate comes next, and what is changed in it.
    WORLD.with_borrow_mut(|(world, authorities)| {
        let good = &authorities.device.chain;
        let mut chain = Vec::new();
        for step in data.chunks_exact(4).take(12) {
            let mut certificate = good[usize::from(step[0]) % good.len()].clone();
            let at = usize::from(u16::from_be_bytes([step[1], step[2]])) % certificate.len();
            certificate[at] ^= step[3];
            chain.push(certificate);
        }
        judged(&chain);
        let (is_own, is_good) = (chain.first() == good.first(), chain == *good);
        let own = Own { chain, ..Own::clone(&authorities.device) };
        let connected = world.try_to_join(3, Config::certified(&Arc::new(own)));
        assert!(!connected || is_own, "another certificate than the device's gave a session");
        assert!(connected || !is_good, "the good chain gave none");
        world.check();
    });
});
