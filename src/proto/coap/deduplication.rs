//! Remembers the newest exchanges of one peer, so that a duplicate is answered and not processed
//! again (RFC 7252 §4.5).
//!
//! | stored answer | response to a duplicate |
//! |---|---|
//! | `Pending` | nothing, or the empty acknowledgement once it was sent |
//! | `Silent` | nothing: the request was non-confirmable |
//! | `Acknowledged` | the empty acknowledgement: the response was sent separately or suppressed by No-Response |
//! | `Small`, `Large` | the stored response, with the Message ID and token of the duplicate |
//!
//! An exchange takes 32 bytes, which includes a response of up to 14 bytes after header and token.
//! A message with a remembered Message ID but *different content* is not a duplicate: the peer has
//! restarted and reuses Message IDs (which §4.4 forbids). It is processed as new, because the old
//! response would acknowledge a reading that was never stored.

use std::collections::VecDeque;

use super::fold::fold;
use super::message::{Code, MessageId};
use super::reliability::{EXCHANGE_LIFETIME_TICKS, NON_LIFETIME_TICKS, Tick};

/// Most exchanges remembered per peer.
pub(super) const REMEMBERED_MAX: usize = 32;
/// Bytes of one exchange.
pub(super) const ENTRY_BYTES: usize = size_of::<Entry>();
const SMALL_MAX: usize = 14;

/// One exchange.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) arrived: Tick,
    pub(super) fingerprint: u32,
    pub(super) message_id: MessageId,
    pub(super) confirmable: bool,
    pub(super) answer: Answer,
}

/// The response to a duplicate.
#[derive(Debug)]
pub(super) enum Answer {
    Pending(u32),
    Silent,
    Acknowledged,
    Small { length: u8, bytes: [u8; SMALL_MAX] },
    Large(Box<LargeAnswer>),
}

/// A response that does not fit into its [`Entry`].
#[derive(Debug)]
pub(super) struct LargeAnswer {
    bytes: Vec<u8>,
}

impl Answer {
    /// Stores a piggybacked response: its code, and what follows its token. `None` if it does not
    /// fit into `Small` and `keep_large` is false.
    pub(super) fn store(code: Code, tail: &[u8], keep_large: bool) -> Option<Answer> {
        let mut bytes = [0; SMALL_MAX];
        bytes[0] = code.0;
        match bytes.get_mut(1..1 + tail.len()) {
            Some(room) => {
                room.copy_from_slice(tail);
                Some(Answer::Small { length: 1 + tail.len() as u8, bytes })
            }
            None if !keep_large => None,
            None => {
                let mut bytes = Vec::with_capacity(1 + tail.len());
                bytes.push(code.0);
                bytes.extend_from_slice(tail);
                Some(Answer::Large(Box::new(LargeAnswer { bytes })))
            }
        }
    }

    /// The stored response: its code, and what follows its token.
    pub(super) fn response(&self) -> Option<(Code, &[u8])> {
        let bytes = match self {
            Answer::Small { length, bytes } => &bytes[..usize::from(*length)],
            Answer::Large(large) => &large.bytes[..],
            _ => return None,
        };
        bytes.split_first().map(|(&code, tail)| (Code(code), tail))
    }

    fn bytes(&self) -> usize {
        match self {
            Answer::Large(large) => size_of::<LargeAnswer>() + large.bytes.capacity(),
            _ => 0,
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.answer.bytes()
    }

    fn is_pending(&self) -> bool {
        matches!(self.answer, Answer::Pending(_))
    }

    /// A pending exchange expires only after the time in which its client can still wait for the
    /// response.
    pub(super) fn is_expired(&self, now: Tick) -> bool {
        let lifetime =
            if self.confirmable || self.is_pending() { EXCHANGE_LIFETIME_TICKS } else { NON_LIFETIME_TICKS };
        self.arrived.age(now) > lifetime
    }
}

/// The newest exchanges of one peer, oldest first, at most [`REMEMBERED_MAX`].
///
/// Every change updates `account`, the sum of bytes over all peers.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    entries: VecDeque<Entry>,
    /// A filter with one bit per remembered Message ID, indexed by its lowest 6 bits. Senders count
    /// upwards, so it avoids the search for nearly all new Message IDs.
    heard: u64,
    /// Removals since `heard` was built: up to this many of its bits are stale.
    outdated: u8,
}

impl Remembered {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The arrival of the oldest exchange that may be dropped; if all are pending, the oldest of
    /// those.
    pub(super) fn oldest(&self) -> Option<Tick> {
        self.entries.iter().find(|e| !e.is_pending()).or(self.entries.front()).map(|e| e.arrived)
    }

    /// The exchange with this Message ID that has not expired.
    #[inline]
    pub(super) fn find(&self, message_id: MessageId, now: Tick) -> Option<(usize, &Entry)> {
        if self.heard & bit(message_id) == 0 {
            return None;
        }
        let (older, newer) = self.entries.as_slices();
        let position = match newer.iter().rposition(|e| e.message_id == message_id) {
            Some(position) => older.len() + position,
            None => older.iter().rposition(|e| e.message_id == message_id)?,
        };
        let entry = self.entries.get(position)?;
        (!entry.is_expired(now)).then_some((position, entry))
    }

    /// Adds an exchange. If there is no room, the oldest answered one is dropped; returns `false`
    /// if all are pending.
    pub(super) fn push(&mut self, entry: Entry, account: &mut usize) -> bool {
        if self.entries.len() >= REMEMBERED_MAX && !self.drop_oldest_answered(account) {
            return false;
        }
        *account += entry.bytes();
        self.heard |= bit(entry.message_id);
        self.entries.push_back(entry);
        true
    }

    /// Sets the answer of the pending request with this index; with `None` the exchange is dropped.
    pub(super) fn settle(
        &mut self,
        message_id: MessageId,
        pending: u32,
        answer: Option<Answer>,
        account: &mut usize,
    ) {
        let is_it = |e: &Entry| matches!(e.answer, Answer::Pending(index) if e.message_id == message_id && index == pending);
        let Some(position) = self.entries.iter().rposition(is_it) else { return };
        match answer {
            Some(answer) => {
                *account += answer.bytes();
                self.entries[position].answer = answer;
            }
            None => {
                self.remove(position, account);
            }
        }
    }

    /// Removes an exchange; returns the index of its request if it was pending.
    pub(super) fn remove(&mut self, position: usize, account: &mut usize) -> Option<u32> {
        let entry = self.entries.remove(position)?;
        *account -= entry.bytes();
        self.outdated += 1;
        if usize::from(self.outdated) >= REMEMBERED_MAX {
            self.outdated = 0;
            self.heard = self.entries.iter().fold(0, |heard, entry| heard | bit(entry.message_id));
        }
        match entry.answer {
            Answer::Pending(index) => Some(index),
            _ => None,
        }
    }

    /// Removes the oldest exchange that is not pending.
    pub(super) fn drop_oldest_answered(&mut self, account: &mut usize) -> bool {
        let Some(position) = self.entries.iter().position(|e| !e.is_pending()) else { return false };
        self.remove(position, account);
        self.release_memory();
        true
    }

    /// Removes expired exchanges; calls `abandoned` with the index of each that was still pending.
    pub(super) fn expire(&mut self, now: Tick, account: &mut usize, mut abandoned: impl FnMut(u32)) {
        while self.entries.front().is_some_and(|e| e.is_expired(now)) {
            if let Some(index) = self.remove(0, account) {
                abandoned(index);
            }
        }
        self.release_memory();
    }

    /// Removes all exchanges; returns the indexes of the pending ones.
    pub(super) fn clear(&mut self, account: &mut usize) -> impl Iterator<Item = u32> {
        *account -= self.entries.iter().map(Entry::bytes).sum::<usize>();
        std::mem::take(self).entries.into_iter().filter_map(|e| match e.answer {
            Answer::Pending(index) => Some(index),
            _ => None,
        })
    }

    fn release_memory(&mut self) {
        if self.entries.capacity() > 4 && self.entries.len() * 4 <= self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }
}

fn bit(message_id: MessageId) -> u64 {
    1 << (message_id.0 % 64)
}

/// A 64-bit seeded hash of `bytes`. It distinguishes messages; it is not cryptographic.
pub(super) fn fingerprint(seed: u64, bytes: &[u8]) -> u64 {
    let mut mark = seed ^ bytes.len() as u64;
    let (chunks, rest) = bytes.as_chunks::<16>();
    for chunk in chunks {
        mark = fold(mark, u128::from_le_bytes(*chunk));
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    fold(mark, u128::from_le_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u16, at: u32, answer: Answer) -> Entry {
        Entry { arrived: Tick(at), fingerprint: 0, message_id: MessageId(id), confirmable: true, answer }
    }

    fn finds(remembered: &Remembered, id: u16, at: u32) -> bool {
        remembered.find(MessageId(id), Tick(at)).is_some()
    }

    #[test]
    fn an_exchange_costs_32_bytes() {
        assert_eq!(ENTRY_BYTES, 32);
    }

    #[test]
    fn the_newest_32_are_remembered_and_pending_ones_always() {
        let (mut remembered, mut account) = (Remembered::default(), 0);
        assert!(remembered.push(entry(0, 0, Answer::Pending(7)), &mut account));
        for id in 1..100 {
            assert!(remembered.push(entry(id, 0, Answer::Acknowledged), &mut account));
        }
        assert!(finds(&remembered, 0, 0) && finds(&remembered, 69, 0) && !finds(&remembered, 68, 0));
        assert_eq!(account, 32 * ENTRY_BYTES);
        assert_eq!(remembered.clear(&mut account).collect::<Vec<_>>(), [7]);
        assert_eq!(account, 0);
    }

    #[test]
    fn with_nothing_but_pending_ones_there_is_no_room() {
        let (mut remembered, mut account) = (Remembered::default(), 0);
        for id in 0..32 {
            assert!(remembered.push(entry(id, 0, Answer::Pending(id.into())), &mut account));
        }
        assert!(!remembered.push(entry(99, 0, Answer::Silent), &mut account));
        remembered.settle(MessageId(3), 3, Some(Answer::Silent), &mut account);
        assert!(remembered.push(entry(99, 0, Answer::Silent), &mut account));
        assert!(!finds(&remembered, 3, 0) && finds(&remembered, 4, 0));
    }

    #[test]
    fn lifetimes_are_247_seconds_and_145_for_non_confirmable_ones() {
        let (mut remembered, mut account) = (Remembered::default(), 0);
        remembered.push(entry(1, 0, Answer::Acknowledged), &mut account);
        remembered.push(Entry { confirmable: false, ..entry(2, 0, Answer::Silent) }, &mut account);
        assert!(finds(&remembered, 2, 145 * 4) && !finds(&remembered, 2, 146 * 4));
        assert!(finds(&remembered, 1, 247 * 4) && !finds(&remembered, 1, 248 * 4));
        remembered.expire(Tick(248 * 4), &mut account, |_| panic!("nothing was pending"));
        assert_eq!((remembered.entries.len(), remembered.entries.capacity(), account), (0, 4, 0));
    }

    #[test]
    fn responses_of_any_length_come_back_and_are_accounted() {
        let (mut remembered, mut account) = (Remembered::default(), 0);
        for length in [0, 13, 14, 1000] {
            let tail = vec![9; length];
            assert_eq!(Answer::store(Code::CHANGED, &tail, false).is_none(), length > 13);
            let answer = Answer::store(Code::CHANGED, &tail, true).unwrap();
            assert_eq!(answer.response(), Some((Code::CHANGED, &tail[..])));
            remembered.push(entry(length as u16, 0, answer), &mut account);
        }
        assert!(account > 4 * ENTRY_BYTES + 1014);
        while remembered.drop_oldest_answered(&mut account) {}
        assert_eq!(account, 0);
    }

    #[test]
    fn one_byte_anywhere_changes_the_fingerprint() {
        let bytes = [5; 100];
        let mark = fingerprint(1, &bytes);
        for position in 0..bytes.len() {
            let mut other = bytes;
            other[position] ^= 1;
            assert_ne!(fingerprint(1, &other) as u32, mark as u32);
        }
        assert_ne!(fingerprint(1, &bytes[..99]), mark);
        assert_ne!(fingerprint(2, &bytes), mark);
    }
}
