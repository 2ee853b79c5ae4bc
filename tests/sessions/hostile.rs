//! Arbitrary bytes as the log of sessions and as a handover: reading and working on never panics,
//! hangs or invents.

use std::collections::BTreeMap;

use tombolo::southbound::coap::sessions::frame::{self, Frame, Kind};
use tombolo::southbound::coap::sessions::log::Log;
use tombolo::southbound::coap::sessions::{Batch, handover};

use crate::harness::Fake;

/// The first byte says whether the bytes stand in the file as they are, behind a good header, or in
/// frames whose checks fit.
pub fn open_and_use(data: &[u8]) {
    let Some((way, data)) = data.split_first() else { return };
    let mut image = if *way % 3 == 0 { Vec::new() } else { frame::header().to_vec() };
    if *way % 3 == 2 {
        for piece in data.chunks(40) {
            let kind = match piece[0] % 5 {
                0 => Kind::Ended,
                1 => Kind::Run,
                2 => Kind::Unknown(piece[0]),
                _ => Kind::Session,
            };
            let content = if matches!(kind, Kind::Ended | Kind::Run) { &[] } else { piece };
            let number = u64::from(piece[piece.len() - 1] % 16);
            Frame { kind, number, run: u32::from(piece[0]) << 24, content }.encode(&mut image);
        }
    } else {
        image.extend(data);
    }
    let _ = handover::parse(&[0; 16], data);
    let disk = Fake::default();
    disk.put("log", &image);
    let (mut log, kept, _) = Log::open(disk.clone()).expect("it opens");
    assert_eq!(log.len(), kept.len());
    log.begin().expect("it begins");
    let number = log.next_number();
    let ended: Vec<u64> = kept.iter().step_by(2).map(|kept| kept.number).collect();
    let mut batch = Batch { ended: ended.iter().copied().collect(), established: BTreeMap::new() };
    batch.establish(number, vec![7; 100]);
    log.commit(&batch).expect("it is committed");
    let mut expected: Vec<(u64, Vec<u8>)> = kept
        .into_iter()
        .filter(|kept| !ended.contains(&kept.number) && kept.number != number)
        .map(|kept| (kept.number, kept.sealed))
        .collect();
    expected.push((number, vec![7; 100]));
    let (_, again, report) = Log::open(disk).expect("it opens again");
    let again: Vec<(u64, Vec<u8>)> = again.into_iter().map(|kept| (kept.number, kept.sealed)).collect();
    assert_eq!(again, expected);
    assert_eq!(report.damaged, 0);
}

#[cfg(test)]
mod tests {
    use super::open_and_use;
    use tombolo::splitmix::SplitMix64;

    #[test]
    fn any_bytes_are_opened_and_gone_on_with() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/session_store");
        for entry in std::fs::read_dir(corpus).into_iter().flatten() {
            open_and_use(&std::fs::read(entry.unwrap().path()).unwrap());
        }
        let mut random = SplitMix64::new(77);
        for _ in 0..600 {
            let length = random.below(2_000) as usize;
            let bytes: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
            open_and_use(&bytes);
        }
    }
}
