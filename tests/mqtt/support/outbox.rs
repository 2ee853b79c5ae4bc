//! The journal as the uplink sees it, in memory; checks that the uplink keeps its promises.

use tombolo::message::{CommandReply, Content, ContentFormat, Envelope, Lane, Method, RecordId, Stamp};
use tombolo::northbound::outbox::{Loss, Next, Outbox, Record, RejectedFull};
use tombolo::northbound::reason_code::Cause;

const REPLY: CommandReply<'_> = CommandReply { status: "2.04", correlation: None, partial: false };

#[derive(Clone)]
pub struct Item {
    pub sequence: u64,
    pub original: Option<RecordId>,
    pub same_boot: bool,
    pub device: String,
    pub path: String,
    pub topic: String,
    pub method: Method,
    pub content_format: Option<ContentFormat>,
    pub retain: bool,
    pub envelope: Envelope,
    pub expires_s: Option<u32>,
    pub received: Stamp,
    pub payload: Vec<u8>,
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    position: usize,
    /// Items before this were handed out.
    handed: usize,
    /// Items before this are released, rejected or expired.
    gone: usize,
    /// The block that is in memory, and the one that is being read from disk and whether it is
    /// there now.
    warm: Option<usize>,
    reading: Option<(usize, bool)>,
}

pub struct MemoryOutbox {
    /// Topics whose records are replies to commands.
    pub replies: Vec<String>,
    lanes: [Queue; 2],
    pub released: [Vec<u64>; 2],
    pub rejected: Vec<(Lane, u64, Cause)>,
    pub expired: Vec<(Lane, u64)>,
    pub losses: Vec<Loss>,
    pub reported: Vec<(Lane, u64, u64)>,
    /// Reported losses leave the list only when told, as when a commit takes its time.
    pub slow: bool,
    pub rejected_room: usize,
    /// The next call of `next` on this lane says that the disk is being read.
    pub pending: [bool; 2],
    pub reads: u64,
    /// Records of a block: one block of a lane is in memory, any other is read from disk first, for
    /// whoever asks then.
    pub block: Option<usize>,
}

impl Default for MemoryOutbox {
    fn default() -> Self {
        MemoryOutbox {
            replies: Vec::new(),
            lanes: Default::default(),
            released: Default::default(),
            rejected: Vec::new(),
            expired: Vec::new(),
            losses: Vec::new(),
            reported: Vec::new(),
            slow: false,
            rejected_room: usize::MAX,
            pending: [false; 2],
            reads: 0,
            block: None,
        }
    }
}

impl MemoryOutbox {
    pub fn push(&mut self, lane: Lane, mut item: Item) -> u64 {
        let queue = &mut self.lanes[lane.index()];
        item.sequence = queue.items.last().map_or(1, |last| last.sequence + 1);
        queue.items.push(item);
        queue.items.len() as u64
    }

    /// The sequence of the newest record.
    pub fn newest_of(&self, lane: Lane) -> u64 {
        self.lanes[lane.index()].items.last().map_or(0, |item| item.sequence)
    }

    /// Records not yet released, rejected or expired.
    pub fn waiting(&self, lane: Lane) -> usize {
        let queue = &self.lanes[lane.index()];
        queue.items.len() - queue.gone
    }

    /// The disk has read what was asked for last: whether it was asked for anything.
    pub fn wake(&mut self) -> bool {
        let asked = self.lanes.iter_mut().filter_map(|queue| queue.reading.as_mut());
        asked.fold(false, |any, (_, there)| any | !std::mem::replace(there, true))
    }

    /// Gives up the oldest `count` as a full lane that drops its oldest does.
    pub fn drop_oldest(&mut self, lane: Lane, count: usize) {
        let queue = &mut self.lanes[lane.index()];
        queue.gone += count;
        queue.position = queue.position.max(queue.gone);
    }

    fn leave(&mut self, lane: Lane, sequence: u64) {
        let queue = &mut self.lanes[lane.index()];
        let oldest = queue.items[queue.gone].sequence;
        assert_eq!(oldest, sequence, "only the oldest record may be rejected or expire");
        queue.gone += 1;
        assert!(queue.gone <= queue.handed, "it left before it was read");
        queue.position = queue.position.max(queue.gone);
    }
}

impl Outbox for MemoryOutbox {
    fn next(&mut self, lane: Lane) -> Next<'_> {
        self.reads += 1;
        if std::mem::take(&mut self.pending[lane.index()]) {
            return Next::Pending;
        }
        let queue = &mut self.lanes[lane.index()];
        let Some(item) = queue.items.get(queue.position) else {
            return Next::Empty;
        };
        if let Some(block) = self.block.map(|records| queue.position / records)
            && queue.warm != Some(block)
        {
            if queue.reading != Some((block, true)) {
                queue.reading = Some((block, false));
                return Next::Pending;
            }
            (queue.warm, queue.reading) = (Some(block), None);
        }
        queue.position += 1;
        queue.handed = queue.handed.max(queue.position);
        Next::Record(Record {
            id: RecordId { run: 0xABCD + lane.index() as u64, sequence: item.sequence },
            sequence: item.sequence,
            original: item.original,
            same_boot: item.same_boot,
            content: Content {
                device: &item.device,
                path: &item.path,
                query: None,
                topic: &item.topic,
                method: item.method,
                content_format: item.content_format,
                retain: item.retain,
                test: false,
                reply: self.replies.contains(&item.topic).then_some(REPLY),
                envelope: item.envelope,
                expires_s: item.expires_s,
                received: item.received,
                payload: &item.payload,
            },
        })
    }

    fn rewind(&mut self, lane: Lane) {
        let queue = &mut self.lanes[lane.index()];
        queue.position = queue.gone;
    }

    fn seek(&mut self, lane: Lane, sequence: u64) {
        let queue = &mut self.lanes[lane.index()];
        let place = queue.items.partition_point(|item| item.sequence < sequence);
        assert!(place <= queue.handed, "it goes to what was never read");
        queue.position = place.max(queue.gone);
    }

    fn newest(&self, lane: Lane) -> u64 {
        self.newest_of(lane)
    }

    fn release(&mut self, lane: Lane, sequence: u64) {
        let queue = &mut self.lanes[lane.index()];
        if queue.items[..queue.gone].last().is_some_and(|gone| gone.sequence >= sequence) {
            return; // dropped meanwhile
        }
        let before = queue.gone;
        while queue.items.get(queue.gone).is_some_and(|item| item.sequence <= sequence) {
            self.released[lane.index()].push(queue.items[queue.gone].sequence);
            queue.gone += 1;
        }
        assert!(queue.gone > before, "released nothing");
        assert!(queue.gone <= queue.handed, "released what was never read");
        queue.position = queue.position.max(queue.gone);
    }

    fn reject(&mut self, lane: Lane, sequence: u64, cause: Cause) -> Result<(), RejectedFull> {
        if self.rejected.len() >= self.rejected_room {
            return Err(RejectedFull);
        }
        self.leave(lane, sequence);
        self.rejected.push((lane, sequence, cause));
        Ok(())
    }

    fn expire(&mut self, lane: Lane, sequence: u64) {
        self.leave(lane, sequence);
        self.expired.push((lane, sequence));
    }

    fn loss(&mut self, lane: Lane, index: usize) -> Option<Loss> {
        self.losses.iter().filter(|loss| loss.lane == lane).nth(index).copied()
    }

    fn loss_reported(&mut self, lane: Lane, number: u64, count: u64) {
        self.reported.push((lane, number, count));
        if !self.slow {
            self.losses.retain(|loss| (loss.lane, loss.number, loss.count) != (lane, number, count));
        }
    }
}
