//! Arbitrary bytes as the log of sessions and as a handover: reading and working on never panics,
//! hangs or invents.

use std::collections::BTreeMap;

use tombolo::session_store::frame::{self, Frame, Kind};
use tombolo::session_store::log::Log;
use tombolo::session_store::{Batch, handover};

use super::harness::Fake;

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
