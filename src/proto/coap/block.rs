//! Bodies larger than a datagram (RFC 7959): assembles the blocks of a request, and cuts a response
//! into blocks.
//!
//! A request body is handed up only when it is complete (§2.5, atomic). A transfer is identified by
//! its peer, its resource (path and query) and its Request-Tag (RFC 9175 §3). Block 0 starts it
//! anew: without a Request-Tag the newest transfer to a resource wins. A block that does not
//! continue its transfer is answered 4.08 and changes nothing, because it may be a late one of an
//! older transfer; a repetition of the last block is accepted. Only block 0, or a body that grows
//! beyond its limit, ends a transfer.
//!
//! Blocks of a transfer that ended, replaced or complete, may still be on the way. They must not be
//! taken for the newer transfer's block of the same offset: see [`super::ended`].
//!
//! Incomplete bodies are bounded in bytes and number: if there is no room, transfers without
//! progress for MAX_TRANSMIT_WAIT are dropped first; then, of the device that begins another, the
//! one longest without progress, if that is 10 s or more, for a device that restarts leaves its
//! transfers behind. Otherwise the block is answered 5.03, with the time until one may be dropped
//! as Max-Age. A response is cut when it is written, so no state is kept for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::ended::{EndedTransfers, Trace};
use super::reliability::{EXCHANGE_LIFETIME, MAX_TRANSMIT_WAIT};
use super::{Holder, PeerId};

/// Largest block size exponent: 1,024 bytes (§2.2).
pub const SIZE_EXPONENT_MAX: u8 = 6;

/// The size exponent of blocks of this size (RFC 7959 §2.2); `None`: there are none.
pub fn size_exponent(bytes: u16) -> Option<u8> {
    (0..=SIZE_EXPONENT_MAX).find(|exponent| 16 << exponent == bytes)
}
/// Most incomplete bodies of one peer.
const TRANSFERS_PER_PEER: usize = 4;
/// Most incomplete bodies in all.
const TRANSFERS_MAX: usize = 256;
/// A transfer of a device gives way to its next one after so long without progress: longer than a
/// client waits before its second retransmission (RFC 7252 §4.8: 3 s, then 6 s).
const ABANDONED: Duration = Duration::from_secs(10);

/// The value of a Block1 or Block2 option (RFC 7959 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The block number, `0..1 << 20`.
    pub number: u32,
    /// The M bit: whether further blocks follow.
    pub more: bool,
    /// The size exponent SZX, `0..=6`: a block has `16 << size_exponent` bytes.
    pub size_exponent: u8,
}

impl Block {
    /// Decodes the option's `uint`; `None` for the reserved size exponent 7 and for a block number
    /// of more than 20 bits.
    pub fn from_uint(value: u32) -> Option<Block> {
        let block = Block { number: value >> 4, more: value & 8 != 0, size_exponent: (value & 7) as u8 };
        (block.size_exponent <= SIZE_EXPONENT_MAX && block.number < 1 << 20).then_some(block)
    }

    /// Encodes the option's `uint`.
    pub fn to_uint(self) -> u32 {
        self.number << 4 | u32::from(self.more) << 3 | u32::from(self.size_exponent)
    }

    /// The size of a block in bytes: 16, 32, … 1,024.
    pub fn size(self) -> usize {
        16 << self.size_exponent
    }

    /// The block's offset in the body, in bytes.
    pub fn offset(self) -> usize {
        self.number as usize * self.size()
    }
}

/// The part of a response's body that answers `wanted`, in blocks of at most `16 << largest` bytes.
///
/// If `wanted` is `None` and the body fits into one block, it is returned whole with `None`.
///
/// # Errors
/// [`BeyondEnd`] if the body ends before that block.
pub fn slice(body: &[u8], wanted: Option<Block>, largest: u8) -> Result<(Option<Block>, &[u8]), BeyondEnd> {
    let asked = wanted.unwrap_or(Block { number: 0, more: false, size_exponent: largest });
    let size_exponent = asked.size_exponent.min(largest);
    let size = 16 << size_exponent;
    let offset = asked.offset();
    if offset == 0 && (body.is_empty() || wanted.is_none() && body.len() <= size) {
        return Ok((None, body));
    }
    let rest = body.get(offset..).filter(|rest| !rest.is_empty()).ok_or(BeyondEnd)?;
    let part = &rest[..size.min(rest.len())];
    // If the block is smaller than requested, its number counts in its own size (§2.4). Both sizes
    // are powers of two, so the smaller one divides the offset.
    let block = Block { number: (offset / size) as u32, more: part.len() < rest.len(), size_exponent };
    Ok((Some(block), part))
}

/// The same of a body of `whole` bytes, of which only `piece` is there: the block that answers
/// `wanted`, or what it begins with.
///
/// # Errors
/// [`BeyondEnd`] if the body ends before that block.
pub fn excerpt(
    piece: &[u8],
    whole: u64,
    wanted: Option<Block>,
    largest: u8,
) -> Result<(Option<Block>, &[u8]), BeyondEnd> {
    let asked = wanted.unwrap_or(Block { number: 0, more: false, size_exponent: largest });
    let size_exponent = asked.size_exponent.min(largest);
    let size = 16 << size_exponent;
    let offset = asked.offset();
    let rest = whole.checked_sub(offset as u64).filter(|rest| *rest > 0).ok_or(BeyondEnd)?;
    let part = &piece[..size.min(piece.len())];
    let more = (part.len() as u64) < rest;
    if wanted.is_none() && !more {
        return Ok((None, part));
    }
    Ok((Some(Block { number: (offset / size) as u32, more, size_exponent }), part))
}

/// The requested block is beyond the end of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeyondEnd;

/// The result of accepting one block of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// 2.31 Continue: the next block is expected.
    Continue,
    /// The complete body.
    Whole(Vec<u8>),
    /// 4.00: the M bit is set, but the block is not full.
    Malformed,
    /// 4.08: the block is out of sequence, or its transfer is unknown.
    Incomplete,
    /// 4.08: it would be the next one, but is not like block 0.
    Differs(Difference),
    /// 4.13: the body is larger than this limit.
    TooLarge(u32),
    /// 5.03: there is no room for it now, but may be after so many seconds.
    NoRoom(u32),
}

/// In what a block differs from block 0 of its transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// It has no Content-Format.
    NoContentFormat,
    /// It has another Content-Format, or block 0 has none.
    ContentFormat,
    /// The method or another option.
    Other,
}

impl Difference {
    /// What differs, and what to do, for the client's log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Difference::NoContentFormat => "no Content-Format, but block 0 has one: send it in each block",
            Difference::ContentFormat => "Content-Format is not that of block 0: send the same in each block",
            Difference::Other => "method or options are not those of block 0: send the same in each block",
        }
    }
}

/// A block of a request and the transfer it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) peer: PeerId,
    pub(super) holder: Holder,
    /// Hash of the path, the query and the Request-Tag options.
    pub(super) place: u64,
    /// Hash of the method and all other options that must be equal in all blocks.
    pub(super) tag: u64,
    /// The Content-Format, which must be equal as well.
    pub(super) content_format: Option<u16>,
    pub(super) block: Block,
    pub(super) size1: Option<u32>,
    pub(super) message_id: u16,
    /// Hash of the Token.
    pub(super) token: u64,
    pub(super) payload: &'a [u8],
    /// The largest body, in bytes, if this block begins a transfer.
    pub(super) limit: u32,
}

#[derive(Debug)]
struct Transfer {
    tag: u64,
    content_format: Option<u16>,
    /// The largest body, in bytes.
    limit: u32,
    /// The number of the peer's holder.
    holder: u64,
    body: Vec<u8>,
    moved: Instant,
    /// The Size1 of its first block.
    size1: Option<u32>,
    trace: Trace,
}

impl Transfer {
    /// Whether this block is the next one.
    fn continues(&self, piece: &Piece<'_>) -> bool {
        self.body.len() == piece.block.offset() && self.difference(piece).is_none()
    }

    /// In what this block differs from block 0.
    fn difference(&self, piece: &Piece<'_>) -> Option<Difference> {
        match (self.content_format, piece.content_format) {
            (Some(_), None) => Some(Difference::NoContentFormat),
            (known, own) if known != own => Some(Difference::ContentFormat),
            _ => (self.tag != piece.tag).then_some(Difference::Other),
        }
    }
}

/// All incomplete bodies.
#[derive(Debug)]
pub(super) struct Assemblies {
    transfers: HashMap<(PeerId, u64), Transfer>,
    ended: EndedTransfers,
    bytes: usize,
    bytes_max: usize,
    body_max: usize,
    /// Not later than the oldest `moved`.
    oldest: Option<Instant>,
}

impl Assemblies {
    pub(super) fn new(bytes_max: usize, body_max: usize) -> Assemblies {
        let (transfers, ended) = (HashMap::new(), EndedTransfers::default());
        Assemblies { transfers, ended, bytes: 0, bytes_max, body_max, oldest: None }
    }

    /// Whether this block continues no transfer, so that the request must be judged first.
    pub(super) fn is_first(&self, peer: PeerId, place: u64, block: Block) -> bool {
        block.number == 0 || !self.transfers.contains_key(&(peer, place))
    }

    /// A body for this resource came in one message: it is newer than the incomplete one.
    pub(super) fn supersede(&mut self, now: Instant, peer: PeerId, place: u64) {
        if !self.transfers.is_empty() {
            self.abandon(now, (peer, place));
        }
    }

    /// Accepts one block.
    pub(super) fn accept(&mut self, now: Instant, piece: Piece<'_>) -> Progress {
        let Piece { peer, holder, place, block, size1, message_id, token, payload, limit, .. } = piece;
        let at = (peer, place);
        if block.more && payload.len() != block.size() || payload.len() > block.size() {
            return Progress::Malformed;
        }
        if block.number == 0 {
            self.abandon(now, at);
        }
        let end = block.offset() + payload.len();
        let held = self.transfers.get(&at);
        let limit = held.map_or(limit, |transfer| transfer.limit).min(self.body_max as u32);
        if end > limit as usize || size1.is_some_and(|size| size > limit) {
            if held.is_some_and(|transfer| transfer.continues(&piece)) {
                self.abandon(now, at);
            }
            return Progress::TooLarge(limit);
        }
        if block.number == 0 && !self.begin(now, &piece, limit) {
            return Progress::NoRoom(self.retry_after(now, peer, holder));
        }
        let Some(transfer) = self.transfers.get_mut(&at) else { return Progress::Incomplete };
        let difference = transfer.difference(&piece);
        if difference.is_none() && block.more && transfer.body.get(block.offset()..) == Some(payload) {
            // The last block again with another Message ID: its response was lost.
            transfer.moved = now;
            return Progress::Continue;
        }
        if transfer.body.len() != block.offset() {
            return Progress::Incomplete;
        }
        if let Some(difference) = difference {
            return Progress::Differs(difference);
        }
        if block.number > 0 {
            // Another Size1 is that of another body.
            if size1.is_some() && transfer.size1.is_some() && size1 != transfer.size1 {
                return Progress::Incomplete;
            }
            if self.ended.is_late(now, at, &transfer.trace, block.offset(), message_id, token) {
                return Progress::Incomplete;
            }
            transfer.trace.last_id = message_id;
            transfer.trace.one_token &= token == transfer.trace.token;
        }
        let before = transfer.body.capacity();
        transfer.body.extend_from_slice(payload);
        transfer.moved = now;
        self.bytes += transfer.body.capacity() - before;
        if !block.more {
            let Some(transfer) = self.remove(at) else { return Progress::Incomplete };
            self.ended.remember(now, at, transfer.holder, transfer.trace, None);
            return Progress::Whole(transfer.body);
        }
        let is_over = |assemblies: &Assemblies| {
            assemblies.bytes > assemblies.bytes_max || assemblies.is_over_share(holder)
        };
        if is_over(self) {
            self.forget_stalled(now);
            if is_over(self) || !self.transfers.contains_key(&at) {
                self.abandon(now, at);
                return Progress::NoRoom(self.retry_after(now, peer, holder));
            }
        }
        Progress::Continue
    }

    /// Whether the bodies of one holder exceed its share of the bytes.
    fn is_over_share(&self, holder: Holder) -> bool {
        let share = holder.share(TRANSFERS_PER_PEER * self.body_max, self.bytes_max);
        // The sum over the holder is computed only if all bodies together exceed the share, which
        // is rare.
        self.bytes > share && {
            let of_holder = self.transfers.values().filter(|transfer| transfer.holder == holder.number);
            of_holder.map(|transfer| transfer.body.capacity()).sum::<usize>() > share
        }
    }

    /// Drops the incomplete bodies of a peer, and what is remembered of ended ones.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.ended.forget(peer);
        if !self.transfers.is_empty() {
            self.retain(|at, _| at.0 != peer);
        }
    }

    /// When [`Assemblies::expire`] should be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stalled().into_iter().chain(self.ended.deadline()).min()
    }

    /// When the first body may be dropped because it had no progress.
    fn stalled(&self) -> Option<Instant> {
        self.oldest.map(|oldest| oldest + EXCHANGE_LIFETIME)
    }

    /// Drops bodies without progress for EXCHANGE_LIFETIME.
    pub(super) fn expire(&mut self, now: Instant) {
        self.ended.expire(now);
        if self.stalled().is_some_and(|deadline| deadline <= now) {
            self.retain(|_, transfer| transfer.moved + EXCHANGE_LIFETIME > now);
            self.oldest = self.transfers.values().map(|transfer| transfer.moved).min();
        }
    }

    fn begin(&mut self, now: Instant, piece: &Piece<'_>, limit: u32) -> bool {
        let Piece { peer, holder, place, tag, content_format, size1, message_id, token, .. } = *piece;
        let at = (peer, place);
        if !self.has_place(at.0, holder) {
            self.forget_stalled(now);
        }
        if !self.has_place(at.0, holder) {
            let stalest = self.stalest(peer, holder);
            if let Some((stalest, _)) = stalest.filter(|(_, moved)| *moved + ABANDONED <= now) {
                self.abandon(now, stalest);
            }
            if !self.has_place(at.0, holder) {
                return false;
            }
        }
        self.oldest.get_or_insert(now);
        let transfer = Transfer {
            tag,
            content_format,
            limit,
            holder: holder.number,
            body: Vec::new(),
            moved: now,
            size1,
            trace: Trace { first_id: message_id, last_id: message_id, token, one_token: true },
        };
        self.transfers.insert(at, transfer);
        true
    }

    /// Whether one more body is within the limits of the peer, of its holder and of the endpoint.
    fn has_place(&self, peer: PeerId, holder: Holder) -> bool {
        let of_peer = self.transfers.keys().filter(|at| at.0 == peer).count();
        let of_holder = self.transfers.values().filter(|transfer| transfer.holder == holder.number).count();
        // A holder with up to four sessions has the limit of one peer; a key shared by more devices
        // has one body per session.
        let most = Holder { max_sessions: holder.max_sessions.div_ceil(TRANSFERS_PER_PEER as u32), ..holder };
        of_peer < TRANSFERS_PER_PEER
            && of_holder < most.share(TRANSFERS_PER_PEER, TRANSFERS_MAX)
            && self.transfers.len() < TRANSFERS_MAX
    }

    /// The transfer of this device that is longest without progress, and when it had any. Of a key
    /// that more devices share only those of the same session are its own.
    fn stalest(&self, peer: PeerId, holder: Holder) -> Option<((PeerId, u64), Instant)> {
        let is_one_device = holder.max_sessions <= TRANSFERS_PER_PEER as u32;
        let own = self
            .transfers
            .iter()
            .filter(|(at, transfer)| at.0 == peer || is_one_device && transfer.holder == holder.number);
        own.map(|(at, transfer)| (*at, transfer.moved)).min_by_key(|(at, moved)| (*moved, at.1))
    }

    /// Seconds until there may be room: until one of its own is abandoned, or any has stalled.
    fn retry_after(&self, now: Instant, peer: PeerId, holder: Holder) -> u32 {
        let own = self.stalest(peer, holder).map(|(_, moved)| moved + ABANDONED);
        let any = self.transfers.values().map(|transfer| transfer.moved).min();
        let at = own.into_iter().chain(any.map(|moved| moved + MAX_TRANSMIT_WAIT)).min().unwrap_or(now);
        let wait = at.saturating_duration_since(now);
        // Rounded up, so that it is not too soon.
        u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
    }

    /// Drops transfers whose sender must have given up.
    fn forget_stalled(&mut self, now: Instant) {
        let is_stalled =
            |transfer: &Transfer| now.saturating_duration_since(transfer.moved) > MAX_TRANSMIT_WAIT;
        let stalled = self.transfers.iter().filter(|(_, transfer)| is_stalled(transfer));
        for at in stalled.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.abandon(now, at);
        }
    }

    /// Ends a transfer before its body is complete.
    fn abandon(&mut self, now: Instant, at: (PeerId, u64)) {
        if let Some(transfer) = self.remove(at) {
            self.ended.remember(now, at, transfer.holder, transfer.trace, Some(transfer.body.len()));
        }
    }

    fn remove(&mut self, at: (PeerId, u64)) -> Option<Transfer> {
        let transfer = self.transfers.remove(&at)?;
        self.bytes -= transfer.body.capacity();
        if self.transfers.is_empty() {
            self.oldest = None;
        }
        Some(transfer)
    }

    fn retain(&mut self, mut keep: impl FnMut(&(PeerId, u64), &Transfer) -> bool) {
        let bytes = &mut self.bytes;
        self.transfers.retain(|at, transfer| {
            let kept = keep(at, transfer);
            if !kept {
                *bytes -= transfer.body.capacity();
            }
            kept
        });
        if self.transfers.is_empty() {
            self.oldest = None;
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    const BODY_MAX: usize = 64 << 10;

    fn piece(peer: u64, number: u32, more: bool, payload: &[u8]) -> Piece<'_> {
        let block = Block { number, more, size_exponent: 0 };
        let holder = Holder { number: peer, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
        // A client that counts its Message IDs, and has one Token.
        let (message_id, token) = (number as u16, 0);
        let (peer, content_format, size1, limit) = (PeerId(peer), None, None, u32::MAX);
        let (place, tag) = (1, 1);
        Piece { peer, holder, place, tag, content_format, block, size1, message_id, token, payload, limit }
    }

    #[test]
    fn the_option_reads_back() {
        for value in [0, 8, 0x1e, 0xff_fffe] {
            assert_eq!(Block::from_uint(value).unwrap().to_uint(), value);
        }
        assert_eq!(Block::from_uint(7), None);
        assert_eq!(Block::from_uint(0xffff_fff0), None);
        let block = Block::from_uint(0x2e).unwrap();
        assert_eq!((block.number, block.more, block.size(), block.offset()), (2, true, 1024, 2048));
    }

    #[test]
    fn blocks_in_order_make_the_body() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        assert_eq!(assemblies.accept(now, piece(1, 0, true, &[1; 16])), Progress::Continue);
        assert_eq!(assemblies.accept(now, piece(2, 0, true, &[9; 16])), Progress::Continue);
        assert_eq!(assemblies.accept(now, piece(1, 1, true, &[2; 16])), Progress::Continue);
        assert_eq!(assemblies.accept(now, piece(1, 1, true, &[2; 16])), Progress::Continue, "once more");
        let whole = [&[1; 16][..], &[2; 16], &[3; 5]].concat();
        assert_eq!(assemblies.accept(now, piece(1, 2, false, &[3; 5])), Progress::Whole(whole));
        assert_eq!(assemblies.accept(now, piece(1, 2, false, &[3; 5])), Progress::Incomplete);
        assert_eq!(assemblies.transfers.len(), 1);
    }

    #[test]
    fn a_block_that_is_not_like_block_0_is_told_in_what() {
        use Difference::{ContentFormat, NoContentFormat, Other};
        let cases = [
            (Some(50), 1, None, 1, Some(NoContentFormat)),
            (Some(50), 1, Some(60), 1, Some(ContentFormat)),
            (None, 1, Some(50), 1, Some(ContentFormat)),
            (Some(50), 1, Some(50), 2, Some(Other)),
            (Some(50), 1, Some(50), 1, None),
            (None, 1, None, 1, None),
        ];
        for (content_format, tag, later_format, later_tag, expected) in cases {
            let now = Instant::now();
            let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
            let first = Piece { content_format, tag, ..piece(1, 0, true, &[1; 16]) };
            assert_eq!(assemblies.accept(now, first), Progress::Continue);
            let next = Piece { content_format: later_format, tag: later_tag, ..piece(1, 1, true, &[2; 16]) };
            let expected = expected.map_or(Progress::Continue, Progress::Differs);
            assert_eq!(assemblies.accept(now, next), expected);
            // One further on is missing what is before it, whatever it is like.
            let far = Piece { block: Block { number: 3, ..next.block }, ..next };
            assert_eq!(assemblies.accept(now, far), Progress::Incomplete);
        }
    }

    #[test]
    fn a_late_block_of_an_older_transfer_is_refused_and_harms_nothing() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        // The older transfer got as far as block 2, then a newer one begins.
        for number in 0..3 {
            assert_eq!(assemblies.accept(now, piece(1, number, true, &[1; 16])), Progress::Continue);
        }
        assert_eq!(assemblies.accept(now, piece(1, 0, true, &[2; 16])), Progress::Continue);
        assert_eq!(assemblies.accept(now, piece(1, 3, false, &[1; 5])), Progress::Incomplete);
        assert_eq!(assemblies.accept(now, piece(1, 2, true, &[1; 16])), Progress::Incomplete);
        let other = Piece { tag: 2, ..piece(1, 1, false, &[1; 5]) };
        assert_eq!(assemblies.accept(now, other), Progress::Differs(Difference::Other));
        assert_eq!(
            assemblies.accept(now, piece(1, 4096, true, &[1; 16])),
            Progress::TooLarge(BODY_MAX as u32)
        );
        assert_eq!(assemblies.accept(now, piece(1, 1, true, &[1; 15])), Progress::Malformed);
        let whole = [&[2; 16][..], &[2; 3]].concat();
        assert_eq!(assemblies.accept(now, piece(1, 1, false, &[2; 3])), Progress::Whole(whole));
        assert_eq!((assemblies.transfers.len(), assemblies.bytes), (0, 0));
    }

    /// Block 2 of an older transfer, of which two blocks were received, comes when the newer one's
    /// block 2 is due. `ids`: of the older's last, of the late one, and of the newer's blocks;
    /// `tokens`: of the older and of the newer.
    fn late(ids: (u16, u16, [u16; 3]), tokens: [(u64, u64); 2]) -> Vec<Progress> {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        let (last, late, newer) = ids;
        let [(old, old_late), (new, new_last)] = tokens;
        let of = |number, more, fill: &'static [u8], message_id, token| Piece {
            message_id,
            token,
            ..piece(1, number, more, fill)
        };
        assemblies.accept(now, of(0, true, &[1; 16], last.wrapping_sub(1), old));
        assemblies.accept(now, of(1, true, &[1; 16], last, old));
        assemblies.accept(now, of(0, true, &[2; 16], newer[0], new));
        assert_eq!(assemblies.accept(now, of(1, true, &[2; 16], newer[1], new)), Progress::Continue);
        vec![
            assemblies.accept(now, of(2, false, &[1; 5], late, old_late)),
            assemblies.accept(now, of(2, false, &[2; 5], newer[2], new_last)),
        ]
    }

    #[test]
    fn a_late_last_block_that_comes_where_the_newer_transfer_goes_on_is_not_taken_for_its() {
        let whole = Progress::Whole([&[2; 16][..], &[2; 16], &[2; 5]].concat());
        for (ids, tokens) in [
            // By Message IDs, also where they begin anew.
            ((1, 2, [10, 11, 12]), [(0, 0), (0, 0)]),
            ((0xFFFE, 0xFFFF, [3, 4, 5]), [(0, 0), (0, 0)]),
            ((1, 2, [10, 11, 12]), [(1, 2), (3, 4)]),
            // By the Token of each transfer, where Message IDs are random.
            ((0x7000, 0x1234, [0x9000, 0x0001, 0x5555]), [(7, 7), (8, 8)]),
            // Neither tells: the first one is not used.
            ((0x7000, 0x1234, [0x9000, 0x0001, 0x5555]), [(0, 0), (0, 0)]),
            ((0x7000, 0x1234, [0x9000, 0x0001, 0x5555]), [(1, 2), (3, 4)]),
        ] {
            let late = late(ids, tokens);
            assert_eq!(late[0], Progress::Incomplete, "{ids:?} {tokens:?}");
            assert_eq!(late[1], whole, "{ids:?} {tokens:?}: it ends no newer transfer");
        }
    }

    #[test]
    fn a_client_that_begins_anew_is_believed_if_its_message_ids_or_tokens_say_so() {
        for (old, new, ids) in [(0, 0, [5, 6, 7]), (3, 4, [0x4000, 0x9999, 0x1111])] {
            let now = Instant::now();
            let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
            let of = |number, more, message_id, token| Piece {
                message_id,
                token,
                ..piece(1, number, more, if more { &[1; 16] } else { &[1; 5] })
            };
            assemblies.accept(now, of(0, true, 1, old));
            assemblies.accept(now, of(1, true, 2, old));
            assemblies.accept(now, of(0, true, ids[0], new));
            assert_eq!(assemblies.accept(now, of(1, true, ids[1], new)), Progress::Continue);
            let last = assemblies.accept(now, of(2, false, ids[2], new));
            assert!(matches!(last, Progress::Whole(_)), "{old} {new} {last:?}");
        }
    }

    #[test]
    fn a_client_that_cannot_be_believed_is_believed_the_second_time_and_after_exchange_lifetime() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        let of = |number, more, message_id| Piece {
            message_id,
            ..piece(1, number, more, if more { &[1; 16] } else { &[1; 5] })
        };
        assemblies.accept(now, of(0, true, 0x1000));
        assemblies.accept(now, of(0, true, 0x9000));
        assert_eq!(assemblies.accept(now, of(1, false, 0x2000)), Progress::Incomplete);
        assemblies.accept(now, of(0, true, 0x7000));
        assert_eq!(assemblies.accept(now, of(1, false, 0x3000)), Progress::Incomplete);
        let at = now + EXCHANGE_LIFETIME;
        assemblies.accept(at, of(0, true, 0xF000));
        let last = assemblies.accept(at + EXCHANGE_LIFETIME, of(1, false, 0x8000));
        assert!(matches!(last, Progress::Whole(_)), "{last:?}");
    }

    #[test]
    fn a_block_with_another_size1_is_of_another_body() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        let sized = |piece, size| Piece { size1: Some(size), ..piece };
        assemblies.accept(now, sized(piece(1, 0, true, &[2; 16]), 21));
        assert_eq!(assemblies.accept(now, sized(piece(1, 1, false, &[1; 9]), 25)), Progress::Incomplete);
        let whole = Progress::Whole([&[2; 16][..], &[2; 5]].concat());
        assert_eq!(assemblies.accept(now, sized(piece(1, 1, false, &[2; 5]), 21)), whole);
    }

    #[test]
    fn a_body_ends_at_the_limit_that_its_first_block_was_given() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        let limited = |piece| Piece { limit: 40, ..piece };
        assert_eq!(assemblies.accept(now, limited(piece(1, 3, true, &[1; 16]))), Progress::TooLarge(40));
        assert_eq!(assemblies.accept(now, limited(piece(1, 0, true, &[1; 16]))), Progress::Continue);
        assert_eq!(assemblies.accept(now, piece(1, 1, true, &[1; 16])), Progress::Continue);
        let late = Piece { size1: Some(41), ..piece(1, 3, true, &[1; 16]) };
        assert_eq!(assemblies.accept(now, late), Progress::TooLarge(40));
        assert_eq!(assemblies.transfers.len(), 1, "it was not the next block");
        assert_eq!(assemblies.accept(now, piece(1, 2, true, &[1; 16])), Progress::TooLarge(40));
        assert_eq!((assemblies.transfers.len(), assemblies.bytes), (0, 0));
    }

    #[test]
    fn a_block_size_may_shrink_on_the_way() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        let large = Block { number: 0, more: true, size_exponent: 1 };
        assemblies.accept(now, Piece { block: large, ..piece(1, 0, true, &[1; 32]) });
        let whole = [1; 40].to_vec();
        assert_eq!(assemblies.accept(now, piece(1, 2, false, &[1; 8])), Progress::Whole(whole));
    }

    #[test]
    fn wrong_lengths_and_large_bodies_are_refused() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, 64);
        assert_eq!(assemblies.accept(now, piece(1, 0, true, &[1; 15])), Progress::Malformed);
        assert_eq!(assemblies.accept(now, piece(1, 0, true, &[1; 17])), Progress::Malformed);
        let told = Piece { size1: Some(65), ..piece(1, 0, true, &[1; 16]) };
        assert_eq!(assemblies.accept(now, told), Progress::TooLarge(64));
        for number in 0..4 {
            assert_eq!(assemblies.accept(now, piece(1, number, true, &[1; 16])), Progress::Continue);
        }
        assert_eq!(assemblies.accept(now, piece(1, 4, false, &[1; 1])), Progress::TooLarge(64));
        assert_eq!(assemblies.bytes, 0);
    }

    #[test]
    fn memory_is_bounded_and_stalled_bodies_make_room() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(10 * 16, BODY_MAX);
        let mut begun = (0..100)
            .filter(|&peer| assemblies.accept(now, piece(peer, 0, true, &[1; 16])) == Progress::Continue);
        assert_eq!(begun.by_ref().count(), 10);
        let later = now + MAX_TRANSMIT_WAIT + Duration::from_secs(1);
        assert_eq!(assemblies.accept(later, piece(200, 0, true, &[1; 16])), Progress::Continue);
        assert_eq!(assemblies.transfers.len(), 1);
        assert!(assemblies.bytes <= 160);
    }

    #[test]
    fn one_peer_has_four_bodies_at_most_and_one_a_path() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        let mut begin = |place| assemblies.accept(now, Piece { place, ..piece(1, 0, true, &[1; 16]) });
        assert!((0..4).all(|place| begin(place) == Progress::Continue));
        assert_eq!(begin(4), Progress::NoRoom(10));
        assert_eq!(begin(3), Progress::Continue);
        assemblies.forget(PeerId(1));
        assert_eq!((assemblies.bytes, assemblies.deadline()), (0, None));
    }

    #[test]
    fn a_device_that_restarts_begins_anew_after_the_max_age_it_was_given() {
        // In the same session, and in a new one for each attempt.
        for sessions in [1, 2, 9] {
            let start = Instant::now();
            let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
            let mut begin = |at: u64, place: u64| {
                let peer = 1 + place % sessions;
                let holder = Holder { number: 7, max_sessions: 1, max_handshakes: Holder::HANDSHAKES };
                let now = start + Duration::from_secs(at);
                assemblies.accept(now, Piece { place, holder, ..piece(peer, 0, true, &[1; 16]) })
            };
            for place in 0..4 {
                assert_eq!(begin(place, place), Progress::Continue);
            }
            let Progress::NoRoom(wait) = begin(5, 5) else { panic!("{sessions}") };
            assert_eq!(begin(4 + u64::from(wait), 6), Progress::NoRoom(1), "not sooner");
            assert_eq!(begin(5 + u64::from(wait), 7), Progress::Continue);
            // The oldest gave way; the next one is there a second later.
            assert!(matches!(begin(5 + u64::from(wait), 8), Progress::Continue | Progress::NoRoom(_)));
            assert_eq!(begin(7 + u64::from(wait), 9), Progress::Continue);
        }
    }

    #[test]
    fn a_transfer_that_goes_on_does_not_give_way() {
        let start = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        let mut say = |at: u64, place: u64, number: u32| {
            let now = start + Duration::from_secs(at);
            assemblies.accept(now, Piece { place, ..piece(1, number, true, &[1; 16]) })
        };
        for place in 0..4 {
            assert_eq!(say(0, place, 0), Progress::Continue);
        }
        for (number, at) in (1..10).map(|number| (number, 9 * u64::from(number))) {
            for place in 0..4 {
                assert_eq!(say(at, place, number), Progress::Continue);
            }
            assert!(matches!(say(at + 8, 4, 0), Progress::NoRoom(_)), "{number}");
        }
    }

    #[test]
    fn one_device_has_four_bodies_at_most_however_many_sessions_it_has() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(4 << 20, BODY_MAX);
        let of = |peer, number, max_sessions| Piece {
            holder: Holder { number, max_sessions, max_handshakes: Holder::HANDSHAKES },
            ..piece(peer, 0, true, &[1; 16])
        };
        let mut begun = |peers: std::ops::Range<u64>, number, max_sessions| {
            peers
                .filter(|peer| assemblies.accept(now, of(*peer, number, max_sessions)) == Progress::Continue)
                .count()
        };
        assert_eq!(begun(0..64, 1, 4), 4);
        assert_eq!(begun(100..164, 2, 64), 32, "a key of many devices: an eighth of all");
        assert_eq!(begun(200..240, 3, 20), 20, "a key of some devices");
        assert_eq!(begun(300..400, 4, 1), 4);
    }

    #[test]
    fn the_bodies_of_one_device_take_a_share_of_the_memory_at_most() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(32 << 10, 2 << 10);
        let large = [7; 1_024];
        let mut held = [0, 0];
        for round in 0..2 {
            for peer in 0..40u64 {
                let block = Block { number: round, more: true, size_exponent: 6 };
                let number = u64::from(peer >= 30);
                let holder = Holder { number, max_sessions: 100, max_handshakes: Holder::HANDSHAKES };
                let next = Piece { block, holder, ..piece(peer, 0, true, &large) };
                held[number as usize] += usize::from(assemblies.accept(now, next) == Progress::Continue);
            }
        }
        assert!(held[0] <= 8 + 8 && held[1] >= 8, "{held:?}");
        assert!(assemblies.bytes <= 32 << 10);
    }

    #[test]
    fn a_body_that_stands_still_is_forgotten() {
        let now = Instant::now();
        let mut assemblies = Assemblies::new(1 << 20, BODY_MAX);
        assemblies.accept(now, piece(1, 0, true, &[1; 16]));
        assemblies.accept(now + Duration::from_secs(100), piece(1, 1, true, &[1; 16]));
        assemblies.expire(assemblies.deadline().unwrap());
        assert_eq!(assemblies.transfers.len(), 1);
        assemblies.expire(assemblies.deadline().unwrap());
        assert_eq!((assemblies.transfers.len(), assemblies.bytes, assemblies.deadline()), (0, 0, None));
    }

    #[test]
    fn a_body_is_cut_as_asked() {
        let body: Vec<u8> = (0..100).collect();
        let want = |number, size_exponent| Some(Block { number, more: false, size_exponent });
        assert_eq!(slice(&body, None, 6), Ok((None, &body[..])));
        let cut = slice(&body, None, 1).unwrap();
        assert_eq!((cut.0.unwrap().more, cut.1), (true, &body[..32]));
        let cut = slice(&body, want(3, 1), 6).unwrap();
        assert_eq!((cut.0.unwrap().more, cut.1), (false, &body[96..]));
        let cut = slice(&body, want(1, 2), 0).unwrap();
        assert_eq!((cut.0, cut.1), (Some(Block { number: 4, more: true, size_exponent: 0 }), &body[64..80]));
        assert_eq!(slice(&body, want(7, 0), 6), Err(BeyondEnd));
        assert_eq!(slice(&body, want(2, 6), 6), Err(BeyondEnd));
        assert_eq!(slice(b"", want(0, 6), 6), Ok((None, &b""[..])));
        assert_eq!(slice(b"", want(1, 6), 6), Err(BeyondEnd));
    }
}
