//! The bodies of Reading frames, and the batch that collects them. docs/journal-format.md §3.
//!
//! A reading is encoded once, from the datagram into the batch, which is written unchanged.

use super::frame::{self, Fields, Kind};
use crate::message::{
    CORRELATION_MAX, CommandReply, Content, ContentFormat, Envelope, Method, NAME_MAX, PATH_MAX, RecordId,
    STATUS_MAX, Stamp, TOPIC_MAX,
};

/// Largest payload of a record, in bytes.
pub const PAYLOAD_MAX: usize = 65_536;

const RETAIN: u8 = 1;
const FORMAT: u8 = 2;
const EXPIRES: u8 = 4;
const WALL: u8 = 8;
const ORIGINAL: u8 = 16;
const TEST: u8 = 32;
const REPLY: u8 = 64;
/// In the flags of a reply.
const CORRELATED: u8 = 1;
const PARTIAL: u8 = 2;
/// Bytes of a reply's end: its flags, the length of its status and of its correlation data.
const REPLY_END: usize = 4;
const FIXED: usize = 16;

/// A stored reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The content.
    pub content: Content<'a>,
    /// The id it had before it was rejected and retried.
    pub original: Option<RecordId>,
}

/// A part of a reading is longer than the format allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Bytes of the frame for this content, with padding.
///
/// # Errors
/// [`TooLarge`] if a part is longer than the format allows, or empty although it must not be.
pub fn frame_size(content: &Content<'_>, original: Option<RecordId>) -> Result<usize, TooLarge> {
    let fits = (1..=NAME_MAX).contains(&content.device.len())
        && !content.path.is_empty()
        && content.path.len() + query_length(content) <= PATH_MAX
        && (1..=TOPIC_MAX).contains(&content.topic.len())
        && content.payload.len() <= PAYLOAD_MAX
        && content.reply.as_ref().is_none_or(is_valid);
    if !fits {
        return Err(TooLarge);
    }
    let optional = usize::from(content.content_format.is_some()) * 2
        + usize::from(content.expires_s.is_some()) * 4
        + usize::from(content.received.wall_ms.is_some()) * 8
        + usize::from(original.is_some()) * 16;
    let path = content.path.len() + query_length(content);
    let texts = content.device.len() + path + content.topic.len();
    let reply = content.reply.as_ref().map_or(0, reply_length);
    Ok(frame::padded(frame::HEADER + FIXED + optional + texts + content.payload.len() + reply))
}

fn is_valid(reply: &CommandReply<'_>) -> bool {
    let correlation = reply.correlation.unwrap_or_default();
    (1..=STATUS_MAX).contains(&reply.status.len())
        && reply.status.is_ascii()
        && correlation.len() <= CORRELATION_MAX
}

fn reply_length(reply: &CommandReply<'_>) -> usize {
    reply.status.len() + reply.correlation.map_or(0, <[u8]>::len) + REPLY_END
}

/// Bytes of the query behind the path, with its `?`; 0 without a query.
fn query_length(content: &Content<'_>) -> usize {
    content.query.map_or(0, |query| 1 + query.len())
}

/// Appends the body. The caller has checked it with [`frame_size`].
pub fn encode(out: &mut Vec<u8>, content: &Content<'_>, original: Option<RecordId>) {
    let flag = |present: bool, bit: u8| if present { bit } else { 0 };
    let flags = flag(content.retain, RETAIN)
        | flag(content.content_format.is_some(), FORMAT)
        | flag(content.expires_s.is_some(), EXPIRES)
        | flag(content.received.wall_ms.is_some(), WALL)
        | flag(original.is_some(), ORIGINAL)
        | flag(content.test, TEST)
        | flag(content.reply.is_some(), REPLY);
    let topic = (content.topic.len() as u16).to_le_bytes();
    out.extend_from_slice(&[
        content.method as u8,
        flags,
        content.envelope as u8,
        content.device.len() as u8,
        (content.path.len() + query_length(content)) as u8,
        query_length(content) as u8,
        topic[0],
        topic[1],
    ]);
    out.extend_from_slice(&content.received.boottime_ms.to_le_bytes());
    if let Some(format) = content.content_format {
        out.extend_from_slice(&format.0.to_le_bytes());
    }
    if let Some(seconds) = content.expires_s {
        out.extend_from_slice(&seconds.to_le_bytes());
    }
    if let Some(wall) = content.received.wall_ms {
        out.extend_from_slice(&wall.to_le_bytes());
    }
    if let Some(id) = original {
        out.extend_from_slice(&id.run.to_le_bytes());
        out.extend_from_slice(&id.sequence.to_le_bytes());
    }
    out.extend_from_slice(content.device.as_bytes());
    out.extend_from_slice(content.path.as_bytes());
    if let Some(query) = content.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(content.topic.as_bytes());
    out.extend_from_slice(content.payload);
    if let Some(reply) = &content.reply {
        let correlation = reply.correlation.unwrap_or_default();
        out.extend_from_slice(reply.status.as_bytes());
        out.extend_from_slice(correlation);
        let flags = flag(reply.correlation.is_some(), CORRELATED) | flag(reply.partial, PARTIAL);
        let [low, high] = (correlation.len() as u16).to_le_bytes();
        out.extend_from_slice(&[flags, reply.status.len() as u8, low, high]);
    }
}

/// Parts the payload from what a reply has behind it.
fn decode_reply(rest: &[u8]) -> Option<(&[u8], CommandReply<'_>)> {
    let (rest, &[flags, status, low, high]) = rest.split_last_chunk::<REPLY_END>()?;
    let correlation = usize::from(u16::from_le_bytes([low, high]));
    let (rest, correlation) = rest.split_at_checked(rest.len().checked_sub(correlation)?)?;
    let (payload, status) = rest.split_at_checked(rest.len().checked_sub(status.into())?)?;
    let reply = CommandReply {
        status: std::str::from_utf8(status).ok()?,
        correlation: Some(correlation).filter(|_| flags & CORRELATED != 0),
        partial: flags & PARTIAL != 0,
    };
    is_valid(&reply).then_some((payload, reply))
}

/// Parses a body; `None` if it is invalid. With a valid CRC that is only possible if it was damaged
/// before it was written.
pub fn decode(body: &[u8]) -> Option<Reading<'_>> {
    let mut fields = Fields(body);
    let method = Method::from_code(fields.u8()?)?;
    let flags = fields.u8()?;
    let envelope = match fields.u8()? {
        0 => Envelope::None,
        1 => Envelope::Json,
        _ => return None,
    };
    let device = usize::from(fields.u8()?);
    let path = usize::from(fields.u8()?);
    let query = usize::from(fields.u8()?);
    let topic = usize::from(fields.u16()?);
    let boottime_ms = fields.u64()?;
    let content_format = if flags & FORMAT != 0 { Some(ContentFormat(fields.u16()?)) } else { None };
    let expires_s = if flags & EXPIRES != 0 { Some(fields.u32()?) } else { None };
    let wall_ms = if flags & WALL != 0 { Some(fields.u64()?) } else { None };
    let original = if flags & ORIGINAL != 0 {
        Some(RecordId { run: fields.u64()?, sequence: fields.u64()? })
    } else {
        None
    };
    let mut text = |length| std::str::from_utf8(fields.bytes(length)?).ok();
    let (device, path, topic) = (text(device)?, text(path)?, text(topic)?);
    let (path, query) = match query {
        0 => (path, None),
        length => {
            let (path, query) = path.split_at_checked(path.len().checked_sub(length)?)?;
            (path, Some(query.strip_prefix('?')?))
        }
    };
    let (payload, reply) = match flags & REPLY {
        0 => (fields.0, None),
        _ => decode_reply(fields.0).map(|(payload, reply)| (payload, Some(reply)))?,
    };
    if device.is_empty() || path.is_empty() || topic.is_empty() || payload.len() > PAYLOAD_MAX {
        return None;
    }
    Some(Reading {
        content: Content {
            device,
            path,
            query,
            topic,
            method,
            content_format,
            retain: flags & RETAIN != 0,
            test: flags & TEST != 0,
            envelope,
            expires_s,
            received: Stamp { boottime_ms, wall_ms },
            payload,
            reply,
        },
        original,
    })
}

/// A value of the caller that is returned when the record is committed or failed; it identifies the
/// request to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Ticket(pub u128);

/// The records of one lane's next commit: their frames, contiguous, and their tickets.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) tickets: Vec<Option<Ticket>>,
}

impl Batch {
    /// Appends a record with the next sequence of its lane. Allocates only if the batch grows
    /// beyond its largest size so far.
    ///
    /// # Errors
    /// [`TooLarge`]; the batch is unchanged.
    pub fn push(
        &mut self,
        sequence: u64,
        content: &Content<'_>,
        original: Option<RecordId>,
        ticket: Option<Ticket>,
    ) -> Result<(), TooLarge> {
        self.bytes.reserve(frame_size(content, original)?);
        frame::encode(&mut self.bytes, Kind::Reading, sequence, |out| encode(out, content, original));
        self.tickets.push(ticket);
        Ok(())
    }

    /// The number of records.
    pub fn records(&self) -> usize {
        self.tickets.len()
    }

    /// The bytes of its frames.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Removes all records; keeps the memory unless a burst made it large.
    pub fn clear(&mut self) {
        const KEEP: usize = 512 * 1024;
        self.bytes.clear();
        self.tickets.clear();
        if self.bytes.capacity() > KEEP {
            self.bytes.shrink_to(KEEP);
            self.tickets.shrink_to(KEEP / 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content() -> Content<'static> {
        Content {
            device: "door-7",
            path: "t/env",
            query: None,
            topic: "tombolo/gw/door-7/up/t/env",
            method: Method::Post,
            content_format: None,
            retain: false,
            test: false,
            reply: None,
            envelope: Envelope::None,
            expires_s: None,
            received: Stamp { boottime_ms: 5, wall_ms: None },
            payload: b"21.5",
        }
    }

    fn round_trip(content: &Content<'_>, original: Option<RecordId>) {
        let mut batch = Batch::default();
        batch.push(3, content, original, None).unwrap();
        assert_eq!(batch.len(), frame_size(content, original).unwrap());
        let length = frame::encoded_length(&batch.bytes);
        assert_eq!(
            decode(&batch.bytes[frame::HEADER..length]),
            Some(Reading { content: *content, original })
        );
    }

    proptest! {
        #[test]
        fn every_reply_reads_back(
            status in "[0-9a-z.]{1,16}", partial: bool, payload in proptest::collection::vec(any::<u8>(), 0..2000),
            correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=CORRELATION_MAX)),
        ) {
            let reply = CommandReply { status: &status, correlation: correlation.as_deref(), partial };
            round_trip(&Content { reply: Some(reply), payload: &payload, ..content() }, None);
        }

        #[test]
        fn every_reading_reads_back(
            device in "[a-z]{1,64}", path in "[a-zü]{1,64}",
            query in proptest::option::of("[a-z=&?%]{0,100}"), topic in "[a-z/]{1,1024}",
            method in 2u8..=4, format in proptest::option::of(any::<u16>()), retain: bool, test: bool, json: bool,
            expires_s in proptest::option::of(any::<u32>()), boottime_ms: u64,
            wall_ms in proptest::option::of(any::<u64>()), payload in proptest::collection::vec(any::<u8>(), 0..2000),
            original in proptest::option::of((any::<u64>(), any::<u64>())),
        ) {
            let content = Content {
                device: &device, path: &path, query: query.as_deref(), topic: &topic,
                method: Method::from_code(method).unwrap(),
                content_format: format.map(ContentFormat), retain, test, reply: None,
                envelope: if json { Envelope::Json } else { Envelope::None },
                expires_s, received: Stamp { boottime_ms, wall_ms }, payload: &payload,
            };
            round_trip(&content, original.map(|(run, sequence)| RecordId { run, sequence }));
        }

        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body);
        }
    }

    #[test]
    fn the_largest_record_fits_in_a_frame_and_a_larger_one_is_refused() {
        let payload = vec![1; PAYLOAD_MAX + 1];
        let (device, path, topic) = ("d".repeat(64), "p".repeat(255), "t".repeat(1024));
        let mut large = Content {
            device: &device,
            path: &path,
            topic: &topic,
            content_format: Some(ContentFormat(1)),
            expires_s: Some(1),
            received: Stamp { boottime_ms: 1, wall_ms: Some(1) },
            payload: &payload[1..],
            ..content()
        };
        round_trip(&large, Some(RecordId { run: 1, sequence: 2 }));
        let correlation = [7; CORRELATION_MAX];
        let reply =
            CommandReply { status: "unknown-outcome.", correlation: Some(&correlation), partial: true };
        round_trip(&Content { reply: Some(reply), ..large }, Some(RecordId { run: 1, sequence: 2 }));
        let reply = CommandReply { correlation: Some(&[7; CORRELATION_MAX + 1]), ..reply };
        assert_eq!(frame_size(&Content { reply: Some(reply), ..large }, None), Err(TooLarge));
        large.payload = &payload;
        assert_eq!(frame_size(&large, None), Err(TooLarge));
        assert_eq!(Batch::default().push(1, &large, None, None), Err(TooLarge));
    }

    #[test]
    fn minor_version_1_reads_a_query_as_the_end_of_the_path() {
        let mut body = Vec::new();
        encode(&mut body, &Content { query: Some("unit=C"), ..content() }, None);
        assert_eq!((body[4], body[5]), (12, 7), "the length of both, and that of the query with its '?'");
        body[5] = 0;
        assert_eq!(decode(&body).unwrap().content, Content { path: "t/env?unit=C", ..content() });
        for invalid in [1, 12, 13, 255] {
            body[5] = invalid;
            assert_eq!(decode(&body), None, "{invalid}");
        }
    }

    #[test]
    fn a_path_and_its_query_have_255_bytes_at_most() {
        let (path, query) = ("p".repeat(100), "q".repeat(154));
        round_trip(&Content { path: &path, query: Some(&query), ..content() }, None);
        let long = Content { path: &path, query: Some(&(query + "q")), ..content() };
        assert_eq!(frame_size(&long, None), Err(TooLarge));
    }

    #[test]
    fn an_empty_or_overlong_text_is_refused() {
        assert_eq!(frame_size(&Content { topic: "", ..content() }, None), Err(TooLarge));
        assert_eq!(frame_size(&Content { topic: &"x".repeat(1025), ..content() }, None), Err(TooLarge));
        assert_eq!(frame_size(&Content { device: &"x".repeat(65), ..content() }, None), Err(TooLarge));
    }
}
