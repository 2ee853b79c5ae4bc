//! Commands, outcomes and marks as the content of [frames](crate::durable::frame). All integers are
//! little-endian; a text or bytes have their length (2 bytes) before them.
//!
//! | kind | number | content |
//! |---|---|---|
//! | 1 begin | 0 | – ; the first frame of a log: its epoch is that of all that follow |
//! | 2 taken | command | the command, and by which packet it came |
//! | 3 sent | command | – |
//! | 4 unsent | command | –: it was not sent after all |
//! | 5 ended | command | the outcome |
//! | 6 gone | command | – |
//! | 7 released | packet id | –: PUBREL came |
//! | 8 session lost | 0 | –: no packet id means anything any more |
//! | 9 marks | 0 | hashes of last commands by topic, packet ids |
//! | 10 settled | packet id | the hash of the message: the broker has the PUBACK |
//! | 11 value | command | as taken: what a GET is answered with |
//! | 12 related | relation | who observes what, the number of the last notification, and its format |
//! | 13 unrelated | relation | – |
//! | 14 next | number | –: all smaller ones were given |
//!
//! A reader of minor version 0 skips the kinds from 11 on. The content of `sent` is the number of
//! the notification, 8 bytes, which it does not read.
//!
//! What a sender of commands puts into a payload could look like a frame behind damage. So the
//! epoch of a log is drawn at random each time it is written anew, and frames of another one are
//! not read.

use super::command::{Command, Outcome, Status};
use super::observe::{Formats, Registration};
use crate::durable::frame::FrameFormat;
use crate::gate::Deliver;
use crate::message::{ContentFormat, Name, Stamp};
use crate::proto::coap::Token;
use crate::proto::coap::block::Block;

/// The frames of the mailbox's log.
pub const FORMAT: FrameFormat = FrameFormat {
    magic: *b"TMBX",
    marker: [0xC7, b'm', b'b', 0x5A],
    major: 1,
    minor: 1,
    content_max: 65_535,
    fits: |_, _| true,
};

/// The kinds of frames.
pub mod kind {
    /// The first frame.
    pub const BEGIN: u8 = 1;
    /// A command was taken.
    pub const TAKEN: u8 = 2;
    /// It is about to be sent.
    pub const SENT: u8 = 3;
    /// It was not sent.
    pub const UNSENT: u8 = 4;
    /// Its outcome is known.
    pub const ENDED: u8 = 5;
    /// Nothing is left to do.
    pub const GONE: u8 = 6;
    /// PUBREL came for a packet id.
    pub const RELEASED: u8 = 7;
    /// The broker does not know the session any more.
    pub const SESSION_LOST: u8 = 8;
    /// Hashes and packet ids.
    pub const MARKS: u8 = 9;
    /// A message of QoS 1 does not come again.
    pub const SETTLED: u8 = 10;
    /// The newest message on a path.
    pub const VALUE: u8 = 11;
    /// A device observes a path.
    pub const RELATED: u8 = 12;
    /// It does so no longer.
    pub const UNRELATED: u8 = 13;
    /// All smaller numbers were given.
    pub const NEXT: u8 = 14;
}

/// Where [`Deliver`] is in the seconds of `answer_within_s`, which are at most 3,600: in the bits
/// that minor version 0 leaves 0.
const DELIVER_SHIFT: u32 = 14;
const SECONDS: u16 = (1 << DELIVER_SHIFT) - 1;

fn deliver_bits(deliver: Deliver) -> u16 {
    (match deliver {
        Deliver::Request => 0,
        Deliver::Observe => 1,
        Deliver::Auto => 2,
    }) << DELIVER_SHIFT
}

/// By which packet a command came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketMark {
    /// 1 or 2.
    pub qos: u8,
    /// The packet id.
    pub id: u16,
    /// The hash of topic, payload and properties.
    pub hash: u64,
}

const FORMAT_GIVEN: u8 = 1;
const REPLY: u8 = 2;
const CORRELATION: u8 = 4;
const WRAPPED: u8 = 8;
const WALL: u8 = 16;
const IDEMPOTENT: u8 = 32;
const LATEST_WINS: u8 = 64;
const PACKET: u8 = 128;

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len().min(usize::from(u16::MAX)) as u16).to_le_bytes());
    out.extend(&bytes[..bytes.len().min(usize::from(u16::MAX))]);
}

/// What is stored with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenMark {
    /// Which boot its stamp counts from.
    pub boot: u32,
    /// The number of the first command that the same message made: all of them are there, or the
    /// message was not taken.
    pub group: u64,
    /// The hash of the message's topic.
    pub topic_hash: u64,
    /// The hash of topic, payload and properties.
    pub hash: u64,
    /// QoS and packet id of the message; only with the last of a group.
    pub packet: Option<(u8, u16)>,
}

/// A taken command.
pub fn encode_taken(command: &Command, mark: &TakenMark) -> Vec<u8> {
    let TakenMark { boot, group, topic_hash, hash, packet } = *mark;
    let mut out = Vec::with_capacity(command.bytes());
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(command.content_format.is_some(), FORMAT_GIVEN)
            | flag(command.reply_topic.is_some(), REPLY)
            | flag(command.correlation.is_some(), CORRELATION)
            | flag(command.wrapped, WRAPPED)
            | flag(command.taken.wall_ms.is_some(), WALL)
            | flag(command.idempotent, IDEMPOTENT)
            | flag(command.latest_wins, LATEST_WINS)
            | flag(packet.is_some(), PACKET),
    );
    out.push(command.method);
    let seconds = command.answer_within_s.min(SECONDS) | deliver_bits(command.deliver);
    out.extend(seconds.to_le_bytes());
    out.extend(boot.to_le_bytes());
    out.extend(command.taken.boottime_ms.to_le_bytes());
    out.extend(command.expires_s.to_le_bytes());
    for number in [group, topic_hash, hash] {
        out.extend(number.to_le_bytes());
    }
    if let Some(wall) = command.taken.wall_ms {
        out.extend(wall.to_le_bytes());
    }
    if let Some(format) = command.content_format {
        out.extend(format.0.to_le_bytes());
    }
    if let Some((qos, id)) = packet {
        out.push(qos);
        out.extend(id.to_le_bytes());
    }
    push_bytes(&mut out, command.device.as_str().as_bytes());
    push_bytes(&mut out, command.path.as_bytes());
    push_bytes(&mut out, command.topic.as_bytes());
    push_bytes(&mut out, &command.payload);
    if let Some(topic) = &command.reply_topic {
        push_bytes(&mut out, topic.as_bytes());
    }
    if let Some(correlation) = &command.correlation {
        push_bytes(&mut out, correlation);
    }
    out
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(u16::from_le_bytes(self.take()?));
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn text(&mut self) -> Option<String> {
        Some(std::str::from_utf8(self.bytes()?).ok()?.to_owned())
    }
}

/// Reads what [`encode_taken`] wrote; `None` if it is something else.
pub fn decode_taken(content: &[u8]) -> Option<(Command, TakenMark)> {
    let mut fields = Fields(content);
    let [flags, method] = fields.take()?;
    let has = |bit: u8| flags & bit != 0;
    let seconds = u16::from_le_bytes(fields.take()?);
    let deliver = match seconds >> DELIVER_SHIFT {
        0 => Deliver::Request,
        1 => Deliver::Observe,
        _ => Deliver::Auto,
    };
    let boot = u32::from_le_bytes(fields.take()?);
    let boottime_ms = u64::from_le_bytes(fields.take()?);
    let expires_s = u32::from_le_bytes(fields.take()?);
    let group = u64::from_le_bytes(fields.take()?);
    let topic_hash = u64::from_le_bytes(fields.take()?);
    let hash = u64::from_le_bytes(fields.take()?);
    let wall_ms = if has(WALL) { Some(u64::from_le_bytes(fields.take()?)) } else { None };
    let content_format =
        if has(FORMAT_GIVEN) { Some(ContentFormat(u16::from_le_bytes(fields.take()?))) } else { None };
    let packet = if has(PACKET) {
        let [qos] = fields.take()?;
        Some((qos, u16::from_le_bytes(fields.take()?)))
    } else {
        None
    };
    let command = Command {
        device: Name::parse(&fields.text()?).ok()?,
        path: fields.text()?,
        topic: fields.text()?,
        method,
        content_format,
        payload: fields.bytes()?.to_vec(),
        reply_topic: if has(REPLY) { Some(fields.text()?) } else { None },
        correlation: if has(CORRELATION) { Some(fields.bytes()?.to_vec()) } else { None },
        wrapped: has(WRAPPED),
        taken: Stamp { boottime_ms, wall_ms },
        expires_s,
        deliver,
        idempotent: has(IDEMPOTENT),
        latest_wins: has(LATEST_WINS),
        answer_within_s: seconds & SECONDS,
    };
    let is_valid = fields.0.is_empty() && (1..=7).contains(&method);
    is_valid.then_some((command, TakenMark { boot, group, topic_hash, hash, packet }))
}

/// An outcome.
pub fn encode_ended(outcome: &Outcome) -> Vec<u8> {
    let mut out = vec![outcome.status.to_byte(), u8::from(outcome.partial)];
    let format = outcome.content_format.map_or(0, |format| 1 + u32::from(format.0));
    out.extend(format.to_le_bytes());
    push_bytes(&mut out, &outcome.payload);
    out
}

/// Reads what [`encode_ended`] wrote; `None` if it is something else.
pub fn decode_ended(content: &[u8]) -> Option<Outcome> {
    let mut fields = Fields(content);
    let [status, partial] = fields.take()?;
    let format = u32::from_le_bytes(fields.take()?);
    let payload = fields.bytes()?.to_vec();
    fields.0.is_empty().then_some(Outcome {
        status: Status::from_byte(status)?,
        content_format: format.checked_sub(1).map(|number| ContentFormat(number as u16)),
        payload,
        partial: partial != 0,
    })
}

/// A relation of this session, whose last notification had the number `sequence`.
pub fn encode_related(registration: &Registration, session: u64, sequence: u64) -> Vec<u8> {
    let mut out = session.to_le_bytes().to_vec();
    out.extend(sequence.to_le_bytes());
    out.push(registration.block.map_or(u8::MAX, |block| block.size_exponent));
    push_bytes(&mut out, registration.token.as_bytes());
    push_bytes(&mut out, registration.device.as_str().as_bytes());
    push_bytes(&mut out, registration.path.as_bytes());
    if let Formats::Only(format) = registration.formats {
        out.extend(format.map_or(u32::MAX, |format| format.0.into()).to_le_bytes());
    }
    out
}

/// Reads what [`encode_related`] wrote; `None` if it is something else.
pub fn decode_related(content: &[u8]) -> Option<(Registration, u64)> {
    let mut fields = Fields(content);
    let session = u64::from_le_bytes(fields.take()?);
    let sequence = u64::from_le_bytes(fields.take()?);
    let [exponent] = fields.take()?;
    let block = Block::from_uint(u32::from(exponent & 7)).filter(|_| exponent < 7);
    let token = Token::new(fields.bytes()?)?;
    let device = Name::parse(&fields.text()?).ok()?;
    let path = fields.text()?;
    let formats = match fields.0.is_empty() {
        true => Formats::Any,
        false => match u32::from_le_bytes(fields.take()?) {
            u32::MAX => Formats::Only(None),
            format => Formats::Only(Some(ContentFormat(u16::try_from(format).ok()?))),
        },
    };
    let session = Some(session);
    let registration = Registration { device, path, peer: None, session, token, block, formats };
    fields.0.is_empty().then_some((registration, sequence))
}

/// Hashes of last commands by the hash of their topic, and packet ids.
pub fn encode_marks(last: &[(u64, u64)], packets: &[PacketMark]) -> Vec<u8> {
    let mut out = (last.len() as u16).to_le_bytes().to_vec();
    for (topic, hash) in last {
        out.extend(topic.to_le_bytes());
        out.extend(hash.to_le_bytes());
    }
    for PacketMark { qos, id, hash } in packets {
        out.push(*qos);
        out.extend(id.to_le_bytes());
        out.extend(hash.to_le_bytes());
    }
    out
}

/// Reads what [`encode_marks`] wrote; `None` if it is something else.
#[allow(clippy::type_complexity, reason = "the two lists that it was given")]
pub fn decode_marks(content: &[u8]) -> Option<(Vec<(u64, u64)>, Vec<PacketMark>)> {
    let mut fields = Fields(content);
    let count = u16::from_le_bytes(fields.take()?);
    let (mut last, mut packets) = (Vec::new(), Vec::new());
    for _ in 0..count {
        last.push((u64::from_le_bytes(fields.take()?), u64::from_le_bytes(fields.take()?)));
    }
    while !fields.0.is_empty() {
        let [qos] = fields.take()?;
        let (id, hash) = (u16::from_le_bytes(fields.take()?), u64::from_le_bytes(fields.take()?));
        packets.push(PacketMark { qos, id, hash });
    }
    Some((last, packets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_command_reads_back(
            path in "[a-z/]{1,100}", topic in "[a-zü/]{0,200}", method in 1u8..=7,
            format in proptest::option::of(any::<u16>()), payload in proptest::collection::vec(any::<u8>(), 0..1024),
            reply_topic in proptest::option::of("[a-z/]{1,200}"),
            correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..1024)),
            flags: [bool; 3], boottime_ms: u64, wall_ms in proptest::option::of(any::<u64>()), expires_s: u32,
            answer_within_s in 0u16..=3600, deliver in 0..3u8, boot: u32, numbers: [u64; 3],
            packet in proptest::option::of((1u8..=2, any::<u16>())),
        ) {
            let command = Command {
                device: Name::parse("door-7").unwrap(), path, topic, method,
                content_format: format.map(ContentFormat), payload, reply_topic, correlation,
                wrapped: flags[0], taken: Stamp { boottime_ms, wall_ms }, expires_s,
                deliver: [Deliver::Request, Deliver::Observe, Deliver::Auto][usize::from(deliver)],
                idempotent: flags[1], latest_wins: flags[2], answer_within_s,
            };
            let [group, topic_hash, hash] = numbers;
            let mark = TakenMark { boot, group, topic_hash, hash, packet };
            let content = encode_taken(&command, &mark);
            prop_assert!(content.len() <= FORMAT.content_max);
            prop_assert_eq!(decode_taken(&content), Some((command, mark)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode_taken(&content), decode_ended(&content), decode_marks(&content));
            let _ = decode_related(&content);
        }

        #[test]
        fn every_relation_reads_back(
            path in "[a-zü/]{1,100}", token in proptest::collection::vec(any::<u8>(), 0..=8),
            exponent in proptest::option::of(0u8..=6), session: u64, sequence: u64,
            only in proptest::option::of(proptest::option::of(any::<u16>())),
        ) {
            let block = exponent.map(|size_exponent| Block { number: 0, more: false, size_exponent });
            let registration = Registration {
                device: Name::parse("door-7").unwrap(), path, peer: None, session: Some(session),
                token: Token::new(&token).unwrap(), block,
                formats: only.map_or(Formats::Any, |only| Formats::Only(only.map(ContentFormat))),
            };
            let content = encode_related(&registration, session, sequence);
            prop_assert_eq!(decode_related(&content), Some((registration, sequence)));
        }

        #[test]
        fn every_outcome_reads_back(
            status in 0x40u8.., partial: bool, format in proptest::option::of(any::<u16>()),
            payload in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            let outcome = Outcome {
                status: Status::Code(status), content_format: format.map(ContentFormat), payload, partial,
            };
            prop_assert_eq!(decode_ended(&encode_ended(&outcome)), Some(outcome));
        }

        #[test]
        fn all_marks_read_back(last: Vec<(u64, u64)>, packets: Vec<(u8, u16, u64)>) {
            let packets: Vec<_> =
                packets.into_iter().map(|(qos, id, hash)| PacketMark { qos, id, hash }).collect();
            prop_assert_eq!(decode_marks(&encode_marks(&last, &packets)), Some((last, packets)));
        }
    }
}
