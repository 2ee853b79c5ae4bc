//! A journal made of arbitrary bytes: it opens, reads to an end and works on, whatever they are.
//! Shared with the fuzz target.

use std::sync::Arc;
use std::time::Instant;

use tombolo::journal::cursor::{Cursor, Step};
use tombolo::journal::frame::{self, Kind};
use tombolo::journal::record::Batch;
use tombolo::journal::segment::{Header, Layout, segment_name};
use tombolo::journal::storage::{Folder, Storage, StoredFile};
use tombolo::journal::store::{Seeds, Store};
use tombolo::message::Lane;

use super::disk::FakeDisk;

const SIZE: u32 = 65_536;

/// Takes numbers off the front of the input; zeros when it is used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// Small, or as large as can be.
    fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => {
                let mut eight = [0; 8];
                let taken = self.bytes(8);
                eight[..taken.len()].copy_from_slice(taken);
                u64::from_le_bytes(eight)
            }
            small => u64::from(small),
        }
    }
}

/// Files as they come: name and content both from the input.
fn raw(input: &mut Input<'_>, disk: &FakeDisk) {
    while !input.0.is_empty() {
        let folder = Folder::ALL[usize::from(input.byte() % 4)];
        let extension = ["seg", "log", "spare", "new"][usize::from(input.byte() % 4)];
        let name = format!("{:016x}.{extension}", input.byte());
        let length = usize::from(input.byte()) * 16;
        let offset = usize::from(input.byte()) * 256;
        let content = input.bytes(length);
        disk.put(folder, &name, offset, content);
    }
}

/// Segments whose checks all fit, so that what stands in them is looked at.
fn sealed(input: &mut Input<'_>, disk: &FakeDisk) {
    let kinds = [
        Kind::Reading,
        Kind::Trim,
        Kind::Opening,
        Kind::Loss,
        Kind::Checkpoint,
        Kind::Rejected,
        Kind::Removed,
        Kind::Unknown,
    ];
    while !input.0.is_empty() {
        let place = input.byte() % 3;
        let number = u64::from(input.byte() % 8) + 1;
        let (folder, name) = match place {
            0 => (Folder::High, segment_name(number)),
            1 => (Folder::Normal, segment_name(number)),
            _ => (Folder::Rejected, format!("{number:016x}.log")),
        };
        let header = Header {
            lane: place,
            size: if place == 2 { 0 } else { SIZE },
            number,
            run: input.number(),
            salt: 1,
            first_sequence: input.number().max(1),
            boot: [0; 16],
            released: input.number(),
            uncertain_from: input.number(),
        };
        let mut bytes = header.encode_block();
        let layout = Layout::new(SIZE).unwrap();
        for _ in 0..input.byte() % 16 {
            let kind = kinds[usize::from(input.byte() % 8)];
            let sequence = input.number();
            let flags = input.byte();
            let length = usize::from(input.byte()) * if flags & 2 != 0 { 8 } else { 1 };
            let body = input.bytes(length);
            let begin = bytes.len();
            frame::encode(&mut bytes, kind, sequence, |out| out.extend_from_slice(body));
            frame::seal(&mut bytes[begin..], header.seed(), flags & 1 != 0);
            // Sometimes something else stands between.
            bytes.resize(bytes.len() + usize::from(flags >> 5) * 8, 0x55);
        }
        bytes.truncate(layout.frame_limit as usize);
        if place != 2 {
            let footer_length = usize::from(input.byte());
            if footer_length > 0 {
                bytes.resize(layout.frame_limit as usize, 0);
                bytes.extend_from_slice(b"TOMBSEAL");
                bytes.extend_from_slice(&number.to_le_bytes());
                bytes.extend_from_slice(&header.first_sequence.to_le_bytes());
                bytes.extend_from_slice(input.bytes(footer_length));
                let from = layout.frame_limit as usize;
                let crc = crc32c::crc32c_append(header.seed(), &bytes[from..]);
                bytes.extend_from_slice(&crc.to_le_bytes());
            }
            bytes.resize(SIZE as usize, 0);
        }
        disk.put(folder, &name, 0, &bytes);
    }
}

/// Opens what the input makes, reads it, stores, and opens again.
pub fn open_and_use(data: &[u8]) {
    let disk = FakeDisk::default();
    let mut input = Input(data);
    match input.byte() % 2 {
        0 => raw(&mut input, &disk),
        _ => sealed(&mut input, &disk),
    }
    // The files beside the segments, too.
    disk.put(Folder::Top, "witness", 0, data);
    disk.put(Folder::Normal, "0000000000000001.ids", 0, data);
    let settings = super::harness::settings(tombolo::journal::settings::WhenFull::Refuse, 20);
    let now = Instant::now();
    for opening in 1..3 {
        let seeds = Seeds { runs: [opening, opening + 10], salt: opening, boot: [1; 16] };
        let Ok((mut store, _)) = Store::open(now, Arc::new(disk.clone()), &settings, seeds) else { return };
        for lane in Lane::ALL {
            read(&disk, &store, lane);
        }
        let numbers: Vec<u64> = store.rejected().map(|entry| entry.number).collect();
        for number in numbers {
            store.read_rejected(number);
            store.discard_rejected(now, number);
        }
        let mut batches = [Batch::default(), Batch::default()];
        for lane in Lane::ALL {
            let sequence = store.next_sequence(lane);
            let content = super::harness::content(b"a payload");
            batches[lane.index()].push(sequence, &content, None, None).unwrap();
            store.release(now, lane, sequence / 2);
            store.reject(lane, sequence / 2 + 1, 0x87);
        }
        let outcomes = store.commit(now, &mut batches, true);
        assert!(outcomes.iter().all(|outcome| outcome.records == 1), "{outcomes:?}");
        while store.maintain(now) {}
        for lane in Lane::ALL {
            read(&disk, &store, lane);
            store.lane_status(lane);
        }
    }
}

fn read(disk: &FakeDisk, store: &Store<FakeDisk>, lane: Lane) {
    let view = store.view(lane);
    let mut cursor = Cursor::new(0);
    let mut before = 0;
    loop {
        match cursor.advance(&view, store.settled(lane)) {
            Step::Empty => return,
            Step::Lost(first, last) | Step::Unreadable(first, last, _) => {
                assert!(before < first && first <= last);
                before = last;
            }
            Step::Unopened(segment) => panic!("{segment:?}: this disk gives everything"),
            Step::Record => {
                let (sequence, ..) = cursor.reading().unwrap();
                assert!(sequence > before);
                before = sequence;
            }
            Step::Fetch(fetch) => {
                let mut bytes = vec![0; fetch.length as usize];
                let file = disk.open(Folder::of(lane), &fetch.segment.name()).unwrap();
                let read = file.read_at(u64::from(fetch.offset), &mut bytes).unwrap();
                cursor.supply(&fetch, &bytes[..read]);
            }
        }
    }
}
