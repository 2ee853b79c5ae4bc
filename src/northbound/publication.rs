//! From a stored reading to the bytes of its PUBLISH: topic, MQTT 5 properties, payload or JSON
//! envelope.
//!
//! Also the judgement of a record's age. Only trusted knowledge ages a record: the boot time stamp
//! within the same boot, or two trusted wall times with no unproven jump of the clock between them
//! ([`Moment::ages_from`]). What is unknown, such as how long the machine was off, ages nothing.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::outbox::{Loss, Record};
use super::wire::{self, Publish, TooLarge, Version};
use crate::clock::{DAY_MS, Moment, UnixTime};
use crate::message::{CommandReply, Content, ContentFormat, Envelope, Method, Stamp};

/// How long ago a stamp was made, in milliseconds; `None` if nothing trustworthy says so.
pub fn age_ms(stamp: Stamp, same_boot: bool, moment: &Moment) -> Option<u64> {
    if same_boot {
        return Some(moment.boottime_ms.saturating_sub(stamp.boottime_ms));
    }
    let stamped = stamp.wall_ms.map(UnixTime).filter(|&stamped| is_comparable(stamped, moment))?;
    Some(moment.wall?.0.saturating_sub(stamped.0))
}

/// Whether the clock has not jumped without proof since this stamp was made.
fn is_comparable(stamped: UnixTime, moment: &Moment) -> bool {
    moment.ages_from.is_some_and(|from| stamped >= from)
}

/// When a stamp was made in wall time; filled in later within the same boot once the clock is
/// trusted. A stamp of before an unproven jump is the second choice, and one of a future, made by a
/// clock that was wrong, is none.
pub fn received(stamp: Stamp, same_boot: bool, moment: &Moment) -> Option<UnixTime> {
    let stamped = stamp
        .wall_ms
        .map(UnixTime)
        .filter(|stamped| moment.wall.is_none_or(|now| stamped.0 <= now.0.saturating_add(DAY_MS)));
    let age = moment.boottime_ms.saturating_sub(stamp.boottime_ms);
    let counted = moment.wall.filter(|_| same_boot).map(|now| UnixTime(now.0.saturating_sub(age)));
    stamped.filter(|&stamped| is_comparable(stamped, moment)).or(counted).or(stamped)
}

/// What is left of a reading's `expires`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// It never expires.
    Forever,
    /// Whole seconds left, at least 1.
    Seconds(u32),
    /// It is worthless by now.
    Expired,
}

/// Judges a record's `expires` by what is known of its age.
pub fn remaining(content: &Content<'_>, same_boot: bool, moment: &Moment) -> Remaining {
    let Some(expires) = content.expires_s else {
        return Remaining::Forever;
    };
    let age = age_ms(content.received, same_boot, moment).unwrap_or(0);
    let left = (u64::from(expires) * 1000).saturating_sub(age);
    if left == 0 {
        return Remaining::Expired;
    }
    Remaining::Seconds(u32::try_from(left.div_ceil(1000)).unwrap_or(u32::MAX))
}

/// How a PUBLISH goes out on this connection.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The protocol spoken.
    pub version: Version,
    /// Greatest packet the broker takes, in bytes.
    pub packet_limit: usize,
    /// Whether it takes the retain flag.
    pub retain: bool,
}

/// How a record went onto the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Whole.
    Whole,
    /// Without the end of its payload.
    Cut,
}

/// What the user property `partial`, and lengths that become longer with it, take.
const PARTIAL_BYTES: usize = 24;

/// At most `keep` bytes of a payload from its beginning; text is cut between characters.
fn beginning(payload: &[u8], keep: usize) -> &[u8] {
    let text = std::str::from_utf8(payload);
    let end = text.map_or(keep, |text| (0..=keep).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0));
    &payload[..end]
}

/// Encodes readings and reports into PUBLISH packets; keeps its scratch space between them.
pub struct Encoder {
    gateway: String,
    properties: Vec<u8>,
    payload: Vec<u8>,
    time: TimeText,
    run: Option<(u64, [u8; 16])>,
}

impl Encoder {
    /// For the gateway of that id.
    pub fn new(gateway: &str) -> Encoder {
        Encoder {
            gateway: gateway.to_owned(),
            properties: Vec::new(),
            payload: Vec::new(),
            time: TimeText::default(),
            run: None,
        }
    }

    /// Appends a stored reading; `packet_id` `None` = QoS 0. A command's reply is appended with
    /// as much of its payload as the broker takes, and says that it is partial: that the command
    /// was carried out is worth more than the bytes. A part of a reply is of no use without any of
    /// its bytes.
    ///
    /// # Errors
    /// [`TooLarge`] for this broker; `out` is then unchanged.
    pub fn push_record(
        &mut self,
        out: &mut Vec<u8>,
        terms: &Terms,
        packet_id: Option<u16>,
        record: &Record<'_>,
        remaining: Remaining,
        moment: &Moment,
    ) -> Result<Fit, TooLarge> {
        let mut id = [0u8; 40];
        let id_length = self.write_id(&mut id, record);
        let id = Some(&id[..id_length]);
        let received = received(record.content.received, record.same_boot, moment);
        let content = &record.content;
        let mut size = match self.push_content(out, terms, packet_id, content, id, received, remaining) {
            Ok(()) => return Ok(Fit::Whole),
            Err(TooLarge { size }) => size,
        };
        let Some(reply) = content.reply.filter(|_| content.query.is_none()) else {
            return Err(TooLarge { size });
        };
        let reply = Some(CommandReply { partial: true, ..reply });
        let mut payload = content.payload;
        while !payload.is_empty() {
            // In an envelope a byte may take up to six.
            let excess = size.saturating_sub(terms.packet_limit).max(1) + PARTIAL_BYTES;
            let keep = match content.envelope {
                Envelope::None => payload.len().saturating_sub(excess),
                Envelope::Json => (payload.len() / 2).max(payload.len().saturating_sub(excess) / 2),
            };
            payload = beginning(payload, keep.min(payload.len() - 1));
            let cut = Content { reply, payload, ..*content };
            match self.push_content(out, terms, packet_id, &cut, id, received, remaining) {
                Ok(()) => return Ok(Fit::Cut),
                Err(TooLarge { size: still }) => size = still,
            }
        }
        Err(TooLarge { size })
    }

    /// Appends a reading of a `qos = 0` rule, which was never stored and has no id.
    ///
    /// # Errors
    /// [`TooLarge`] for this broker; `out` is then unchanged.
    pub fn push_volatile(
        &mut self,
        out: &mut Vec<u8>,
        terms: &Terms,
        content: &Content<'_>,
        moment: &Moment,
    ) -> Result<(), TooLarge> {
        let received = received(content.received, true, moment);
        self.push_content(out, terms, None, content, None, received, remaining(content, true, moment))
    }

    #[allow(clippy::too_many_arguments)] // one private place where everything a PUBLISH is made of comes together
    fn push_content(
        &mut self,
        out: &mut Vec<u8>,
        terms: &Terms,
        packet_id: Option<u16>,
        content: &Content<'_>,
        id: Option<&[u8]>,
        received: Option<UnixTime>,
        remaining: Remaining,
    ) -> Result<(), TooLarge> {
        let received = received.map(|time| self.time.format(time));
        // An empty retained publish deletes; wrapping it would publish instead.
        let wrap = content.envelope == Envelope::Json && content.method != Method::Delete;
        self.properties.clear();
        if terms.version == Version::V5 {
            let out = &mut self.properties;
            let media_type = if wrap {
                ContentFormat::JSON.media_type()
            } else {
                content.content_format.and_then(ContentFormat::media_type)
            };
            if let Some(media_type) = media_type {
                out.push(0x03);
                wire::push_string(out, media_type.as_bytes());
            }
            if let Remaining::Seconds(seconds) = remaining {
                out.push(0x02);
                out.extend_from_slice(&seconds.to_be_bytes());
            }
            if let Some(id) = id {
                push_user_property(out, "id", id);
            }
            push_user_property(out, "device", content.device.as_bytes());
            match &content.reply {
                None => push_user_property(out, "method", content.method.as_str().as_bytes()),
                Some(reply) => push_reply(out, reply),
            }
            match content.query {
                Some(query) if content.reply.is_some() => {
                    for (name, value) in members(query) {
                        push_user_property(out, name, value.as_bytes());
                    }
                }
                Some(query) => push_user_property(out, "query", query.as_bytes()),
                None => {}
            }
            if content.test {
                push_user_property(out, "test", b"true");
            }
            // The envelope has its own members for both.
            if let Some(format) = content.content_format.filter(|_| !wrap) {
                push_format(out, format);
            }
            if let Some(received) = &received {
                push_user_property(out, "received", received);
            }
        }
        if wrap {
            self.payload.clear();
            push_envelope(&mut self.payload, &self.gateway, content, id, received.as_ref());
        }
        let publish = Publish {
            topic: content.topic.as_bytes(),
            packet_id,
            retain: content.retain && terms.retain,
            properties: &self.properties,
            payload: if wrap { &self.payload } else { content.payload },
        };
        wire::push_publish(out, terms.version, terms.packet_limit, &publish)
    }

    /// Appends a message of the gateway itself: JSON, or the empty payload that clears a retained
    /// one.
    ///
    /// # Errors
    /// [`TooLarge`] for this broker; `out` is then unchanged.
    pub fn push_own(
        &mut self,
        out: &mut Vec<u8>,
        terms: &Terms,
        packet_id: Option<u16>,
        topic: &str,
        retain: bool,
        payload: &[u8],
    ) -> Result<(), TooLarge> {
        self.properties.clear();
        if terms.version == Version::V5 && !payload.is_empty() {
            self.properties.push(0x03);
            wire::push_string(&mut self.properties, b"application/json");
        }
        let publish = Publish {
            topic: topic.as_bytes(),
            packet_id,
            retain: retain && terms.retain,
            properties: &self.properties,
            payload,
        };
        wire::push_publish(out, terms.version, terms.packet_limit, &publish)
    }

    /// `{run}-{sequence}` into `buffer`; the length. It is the id the record had first, so that a
    /// consumer can tell one that comes again.
    fn write_id(&mut self, buffer: &mut [u8; 40], record: &Record<'_>) -> usize {
        let id = record.original.unwrap_or(record.id);
        let hex = match self.run {
            Some((run, hex)) if run == id.run => hex,
            _ => {
                let mut hex = [0u8; 16];
                for (index, digit) in hex.iter_mut().enumerate() {
                    *digit = HEX[(id.run >> (60 - 4 * index)) as usize & 0xF];
                }
                self.run = Some((id.run, hex));
                hex
            }
        };
        buffer[..16].copy_from_slice(&hex);
        buffer[16] = b'-';
        17 + write_decimal(&mut buffer[17..], id.sequence)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes `value` in decimal; `buffer` has at least 20 bytes. The length.
fn write_decimal(buffer: &mut [u8], mut value: u64) -> usize {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    let length = digits.len() - start;
    buffer[..length].copy_from_slice(&digits[start..]);
    length
}

fn push_user_property(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(0x26);
    wire::push_string(out, name.as_bytes());
    wire::push_string(out, value);
}

/// What the reply to a command has in place of a method.
fn push_reply(out: &mut Vec<u8>, reply: &CommandReply<'_>) {
    push_user_property(out, "status", reply.status.as_bytes());
    if reply.partial {
        push_user_property(out, "partial", b"true");
    }
    if let Some(correlation) = reply.correlation {
        out.push(0x09);
        wire::push_string(out, correlation);
    }
}

/// The properties of a part of a reply.
fn members(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter_map(|member| member.split_once('='))
}

/// What the Content Type of a payload in this format does not say: the number if it has no media
/// type, and its content coding.
fn push_format(out: &mut Vec<u8>, format: ContentFormat) {
    if format.media_type().is_none() {
        let mut digits = [0; 20];
        let length = write_decimal(&mut digits, format.0.into());
        push_user_property(out, "content-format", &digits[..length]);
    }
    if let Some(coding) = format.content_coding() {
        push_user_property(out, "content-coding", coding.as_bytes());
    }
}

/// RFC 3339 with milliseconds; formats the seconds once for all readings within the same one.
#[derive(Default)]
struct TimeText {
    second: Option<u64>,
    text: [u8; 24],
}

impl TimeText {
    fn format(&mut self, time: UnixTime) -> [u8; 24] {
        if self.second != Some(time.as_secs()) {
            let text = time.to_string();
            // UnixTime stops at the year 9999, so that the text always has 24 bytes.
            if let Ok(text) = text.as_bytes().try_into() {
                self.text = text;
                self.second = Some(time.as_secs());
            }
        }
        let milliseconds = (time.0 % 1000) as u16;
        self.text[20] = b'0' + (milliseconds / 100) as u8;
        self.text[21] = b'0' + (milliseconds / 10 % 10) as u8;
        self.text[22] = b'0' + (milliseconds % 10) as u8;
        self.text
    }
}

/// `{"v":1,"id","gateway","device","path","query","method","received","test","format","coding", one
/// of "json"|"text"|"base64"}`; what is not known is left out.
fn push_envelope(
    out: &mut Vec<u8>,
    gateway: &str,
    content: &Content<'_>,
    id: Option<&[u8]>,
    received: Option<&[u8; 24]>,
) {
    out.extend_from_slice(b"{\"v\":1");
    if let Some(id) = id {
        out.extend_from_slice(b",\"id\":\"");
        out.extend_from_slice(id);
        out.push(b'"');
    }
    let texts = [
        ("gateway", Some(gateway)),
        ("device", Some(content.device)),
        ("path", Some(content.path)),
        ("query", content.query.filter(|_| content.reply.is_none())),
        ("method", Some(content.method.as_str()).filter(|_| content.reply.is_none())),
        ("status", content.reply.map(|reply| reply.status)),
    ];
    for (name, value) in texts.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        push_json_string(out, value);
    }
    for (name, value) in content.query.filter(|_| content.reply.is_some()).into_iter().flat_map(members) {
        out.push(b',');
        push_json_string(out, name);
        out.push(b':');
        match value.parse::<u64>() {
            // A Vec takes everything.
            Ok(number) => drop(write!(out, "{number}")),
            Err(_) => push_json_string(out, value),
        }
    }
    if let Some(received) = received {
        out.extend_from_slice(b",\"received\":\"");
        out.extend_from_slice(received);
        out.push(b'"');
    }
    if content.test {
        out.extend_from_slice(b",\"test\":true");
    }
    if content.reply.is_some_and(|reply| reply.partial) {
        out.extend_from_slice(b",\"partial\":true");
    }
    if let Some(format) = content.content_format {
        let _ = write!(out, ",\"format\":{}", format.0); // a Vec takes everything
        if let Some(coding) = format.content_coding() {
            out.extend_from_slice(b",\"coding\":");
            push_json_string(out, coding);
        }
    }
    match Body::of(content) {
        Body::Json => {
            out.extend_from_slice(b",\"json\":");
            out.extend_from_slice(content.payload);
        }
        Body::Text(text) => {
            out.extend_from_slice(b",\"text\":");
            push_json_string(out, text);
        }
        Body::Binary => {
            out.extend_from_slice(b",\"base64\":\"");
            push_base64(out, content.payload);
            out.push(b'"');
        }
    }
    out.push(b'}');
}

enum Body<'a> {
    Json,
    Text(&'a str),
    Binary,
}

impl<'a> Body<'a> {
    /// JSON only if it says so and is so; text if it says so, or says nothing and reads as text.
    fn of(content: &Content<'a>) -> Body<'a> {
        let format = content.content_format;
        if matches!(format, Some(ContentFormat::JSON | ContentFormat::SENML_JSON))
            && serde_json::from_slice::<serde::de::IgnoredAny>(content.payload).is_ok()
        {
            return Body::Json;
        }
        if !matches!(
            format,
            None | Some(ContentFormat::TEXT | ContentFormat::JSON | ContentFormat::SENML_JSON)
        ) {
            return Body::Binary;
        }
        match std::str::from_utf8(content.payload) {
            Ok(text)
                if format.is_some()
                    || !text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\r' | '\n')) =>
            {
                Body::Text(text)
            }
            _ => Body::Binary,
        }
    }
}

/// Appends `text` as a JSON string.
pub fn push_json_string(out: &mut Vec<u8>, text: &str) {
    // A Vec takes everything that is written to it, and any text is a JSON string.
    let _ = serde_json::to_writer(out, text);
}

/// Appends the base64 of `bytes`, padded (RFC 4648 §4).
pub fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let begin = out.len();
    out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
    // It is exactly as long.
    let _ = STANDARD.encode_slice(bytes, &mut out[begin..]);
}

/// What the loss topic says of a loss.
pub fn loss_payload(gateway: &str, loss: &Loss) -> Vec<u8> {
    let mut out = b"{\"v\":1,\"gateway\":".to_vec();
    push_json_string(&mut out, gateway);
    let Loss { lane, cause, count, first, last, .. } = loss;
    // A Vec takes everything that is written to it.
    let _ = write!(
        out,
        ",\"lane\":\"{lane}\",\"cause\":\"{cause}\",\"count\":{count},\"ranges\":[{{\"first\":\"{first}\",\"last\":\"{last}\"}}]}}"
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Lane, RecordId};
    use std::time::Instant;

    fn content<'a>() -> Content<'a> {
        Content {
            device: "door-7",
            path: "t/env",
            query: None,
            topic: "tombolo/g/door-7/up/t/env",
            method: Method::Post,
            content_format: Some(ContentFormat::JSON),
            retain: false,
            test: false,
            reply: None,
            envelope: Envelope::None,
            expires_s: None,
            received: Stamp { boottime_ms: 5_000, wall_ms: None },
            payload: b"{\"t\":21}",
        }
    }

    fn moment(boottime_ms: u64, wall: Option<u64>) -> Moment {
        Moment { now: Instant::now(), boottime_ms, wall: wall.map(UnixTime), ages_from: Some(UnixTime(0)) }
    }

    fn envelope(content: &Content<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        push_envelope(&mut out, "g", content, Some(b"00-1"), None);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_part_of_a_reply_says_which_it_is_in_properties_of_its_own() {
        let digest = "0f".repeat(32);
        let part = format!("part=2&parts=3&size=70000&sha256={digest}");
        let reply = CommandReply { status: "2.05", correlation: None, partial: true };
        let content = Content {
            query: Some(&part),
            reply: Some(reply),
            content_format: Some(ContentFormat::OCTET_STREAM),
            payload: b"\x00\xff",
            ..content()
        };
        let wrapped = envelope(&content);
        assert_eq!((&wrapped["part"], &wrapped["parts"]), (&2.into(), &3.into()));
        assert_eq!((&wrapped["size"], &wrapped["sha256"]), (&70_000.into(), &digest.into()));
        assert_eq!((&wrapped["base64"], wrapped.get("query")), (&"AP8=".into(), None));
        let mut out = Vec::new();
        let terms = Terms { version: Version::V5, packet_limit: 1 << 20, retain: true };
        Encoder::new("g")
            .push_content(&mut out, &terms, None, &content, None, None, Remaining::Forever)
            .unwrap();
        let text = String::from_utf8_lossy(&out);
        for name in ["part\0\x012", "parts\0\x013", "size\0\x0570000", "sha256\0\x40"] {
            assert!(text.contains(name), "{name:?} in {text:?}");
        }
        assert!(!text.contains("query"), "{text:?}");
    }

    /// A record whose whole PUBLISH is to fit.
    fn encoded(content: Content<'_>, version: Version, limit: usize) -> Result<(Fit, Vec<u8>), TooLarge> {
        let id = RecordId { run: u64::MAX, sequence: u64::MAX };
        let record = Record { sequence: id.sequence, id, original: None, same_boot: true, content };
        let terms = Terms { version, packet_limit: limit, retain: true };
        let moment = moment(u64::MAX >> 16, Some(1_700_000_000_000));
        let mut out = Vec::new();
        Encoder::new(&"g".repeat(64))
            .push_record(&mut out, &terms, Some(1), &record, Remaining::Forever, &moment)
            .map(|fit| (fit, out))
    }

    #[test]
    fn what_is_around_a_part_is_within_what_is_reckoned_for_it() {
        let part = format!("part=1024&parts=1024&size=1048576&sha256={}", "0f".repeat(32));
        let (topic, correlation) = ("t".repeat(1024), [7; 1024]);
        let payload = [0xff; 3000];
        let content = Content {
            device: "gateway",
            path: "support-bundle",
            query: Some(&part),
            topic: &topic,
            reply: Some(CommandReply { status: "2.05", correlation: Some(&correlation), partial: true }),
            content_format: Some(ContentFormat::OCTET_STREAM),
            payload: &payload,
            ..content()
        };
        for (version, envelope) in [(Version::V5, Envelope::None), (Version::V3_1_1, Envelope::Json)] {
            let (fit, out) = encoded(Content { envelope, ..content }, version, usize::MAX).unwrap();
            let (carried, correlation) = match envelope {
                Envelope::None => (payload.len(), correlation.len()),
                Envelope::Json => (payload.len().div_ceil(3) * 4, 0),
            };
            let around = out.len() - topic.len() - correlation - carried;
            // As `ENVELOPE_MAX` of the parts says.
            assert!(fit == Fit::Whole && around <= 512, "{around}");
        }
        // It is of no use without any of its bytes.
        assert!(encoded(content, Version::V5, 4096).is_err());
    }

    #[test]
    fn the_reply_to_a_command_goes_with_as_much_of_its_payload_as_the_broker_takes() {
        let reply = Some(CommandReply { status: "2.05", correlation: None, partial: false });
        let payload = "\u{fc}".repeat(4000);
        let content = Content { reply, payload: payload.as_bytes(), content_format: None, ..content() };
        for (version, envelope) in [(Version::V5, Envelope::None), (Version::V3_1_1, Envelope::Json)] {
            let content = Content { envelope, ..content };
            for limit in [400, 1000, 7999] {
                let (fit, out) = encoded(content, version, limit).unwrap();
                assert!(
                    fit == Fit::Cut && out.len() <= limit && out.len() > limit / 3,
                    "{limit} {}",
                    out.len()
                );
                let text = String::from_utf8(out[limit.min(out.len()) - 40..].to_vec());
                assert!(text.is_ok() || envelope == Envelope::None);
            }
            assert_eq!(encoded(content, version, 9000).unwrap().0, Fit::Whole);
            assert!(encoded(content, version, 60).is_err());
        }
        // A reading does not.
        assert!(encoded(Content { reply: None, ..content }, Version::V5, 1000).is_err());
    }

    #[test]
    fn received_is_filled_in_later_only_within_the_same_boot() {
        let stamp = Stamp { boottime_ms: 5_000, wall_ms: None };
        assert_eq!(received(stamp, true, &moment(9_000, None)), None);
        assert_eq!(
            received(stamp, true, &moment(9_000, Some(1_700_000_000_000))),
            Some(UnixTime(1_699_999_996_000))
        );
        assert_eq!(received(stamp, false, &moment(9_000, Some(1_700_000_000_000))), None);
        let known = Stamp { boottime_ms: 5_000, wall_ms: Some(42) };
        assert_eq!(received(known, false, &moment(1, None)), Some(UnixTime(42)));
    }

    #[test]
    fn unknown_downtime_ages_nothing() {
        let mut content = content();
        content.expires_s = Some(10);
        let year_2036 = moment(1_000_000, Some(2_082_758_400_000));
        assert_eq!(remaining(&content, false, &year_2036), Remaining::Seconds(10));
        assert_eq!(remaining(&content, true, &moment(7_500, None)), Remaining::Seconds(8));
        assert_eq!(remaining(&content, true, &moment(15_000, None)), Remaining::Expired);
        content.received.wall_ms = Some(2_082_758_395_000);
        assert_eq!(remaining(&content, false, &year_2036), Remaining::Seconds(5));
        assert_eq!(remaining(&content, false, &moment(1_000_000, None)), Remaining::Seconds(10));
    }

    #[test]
    fn a_wall_clock_set_back_does_not_expire_or_overflow() {
        let mut content = content();
        content.expires_s = Some(10);
        content.received.wall_ms = Some(2_000_000_000_000);
        let back = moment(0, Some(1_700_000_000_000));
        assert_eq!(remaining(&content, false, &back), Remaining::Seconds(10));
        assert_eq!(remaining(&content, true, &back), Remaining::Seconds(10));
    }

    #[test]
    fn a_stamp_of_before_an_unproven_jump_ages_nothing() {
        let mut content = content();
        content.expires_s = Some(7 * 86_400);
        content.received.wall_ms = Some(1_782_864_000_000);
        let mut year_2036 = moment(1_000_000, Some(2_082_758_400_000));
        assert_eq!(remaining(&content, false, &year_2036), Remaining::Expired);
        for ages_from in [None, Some(UnixTime(2_082_758_300_000))] {
            year_2036.ages_from = ages_from;
            assert_eq!(remaining(&content, false, &year_2036), Remaining::Seconds(7 * 86_400));
            assert_eq!(age_ms(content.received, false, &year_2036), None);
            assert_eq!(received(content.received, false, &year_2036), content.received.wall_ms.map(UnixTime));
        }
        // Within a boot the wall clock is not asked.
        assert_eq!(age_ms(content.received, true, &year_2036), Some(995_000));
    }

    #[test]
    fn a_stamp_of_the_future_is_not_published() {
        let stamp = Stamp { boottime_ms: 5_000, wall_ms: Some(2_082_758_400_000) };
        let right = moment(9_000, Some(1_782_864_000_000));
        assert_eq!(received(stamp, false, &right), None);
        let jumped = Moment { ages_from: Some(UnixTime(1_782_863_990_000)), ..right };
        assert_eq!(received(stamp, true, &jumped), Some(UnixTime(1_782_863_996_000)));
    }

    #[test]
    fn no_wall_stamp_is_made_while_only_the_kernel_speaks_for_the_clock() {
        let settled = moment(9_000, Some(1_782_864_000_000));
        assert_eq!(settled.stamp().wall_ms, Some(1_782_864_000_000));
        assert_eq!(Moment { ages_from: None, ..settled }.stamp().wall_ms, None);
        assert_eq!(moment(9_000, None).stamp().wall_ms, None);
    }

    #[test]
    fn the_envelope_carries_json_as_json_text_as_text_and_the_rest_as_base64() {
        let mut content = content();
        assert_eq!(
            envelope(&content),
            serde_json::json!({"v":1,"id":"00-1","gateway":"g","device":"door-7","path":"t/env",
                "method":"POST","format":50,"json":{"t":21}})
        );
        content.payload = b"{broken";
        assert_eq!(envelope(&content)["text"], "{broken");
        content.content_format = None;
        content.payload = b"21.5 \"C\"";
        assert_eq!(envelope(&content)["text"], "21.5 \"C\"");
        assert!(envelope(&content).get("format").is_none());
        for (payload, base64) in [
            (&b"\x00"[..], "AA=="),
            (b"\x00\x01", "AAE="),
            (b"\xff\xfe\xfd", "//79"),
            (b"\xffabc", "/2FiYw=="),
        ] {
            content.payload = payload;
            assert_eq!(envelope(&content)["base64"], base64);
        }
        content.content_format = Some(ContentFormat::CBOR);
        content.payload = b"abc";
        assert_eq!(envelope(&content)["base64"], "YWJj");
    }

    /// The properties of a content, as bytes.
    fn properties(content: Content<'_>) -> Vec<u8> {
        let mut encoder = Encoder::new("g");
        let terms = Terms { version: Version::V5, packet_limit: 1 << 20, retain: true };
        let mut out = Vec::new();
        encoder.push_volatile(&mut out, &terms, &content, &moment(9_000, None)).unwrap();
        encoder.properties
    }

    fn has(properties: &[u8], name: &str, value: &str) -> bool {
        let mut wanted = Vec::new();
        push_user_property(&mut wanted, name, value.as_bytes());
        properties.windows(wanted.len()).any(|part| part == wanted)
    }

    #[test]
    fn the_query_is_a_user_property_and_a_member_of_the_envelope() {
        let with = Content { query: Some("unit=C&ort=K%C3%B6ln"), ..content() };
        assert!(has(&properties(with), "query", "unit=C&ort=K%C3%B6ln"));
        assert!(!properties(content()).windows(5).any(|part| part == b"query"));
        assert_eq!(envelope(&with)["query"], "unit=C&ort=K%C3%B6ln");
        assert!(envelope(&content()).get("query").is_none());
    }

    #[test]
    fn a_format_without_a_media_type_keeps_its_number_and_a_coding_is_told() {
        let format = |number| Content { content_format: Some(ContentFormat(number)), ..content() };
        assert!(has(&properties(format(65_001)), "content-format", "65001"));
        assert!(has(&properties(format(11_050)), "content-coding", "deflate"));
        assert!(has(&properties(format(12_050)), "content-coding", "zstd"));
        for number in [50, 11_050] {
            let properties = properties(format(number));
            assert!(!properties.windows(14).any(|part| part == b"content-format"), "{number}");
            assert!(properties.windows(16).any(|part| part == b"application/json"), "{number}");
        }
        assert_eq!(envelope(&format(65_001))["format"], 65_001);
        assert_eq!(envelope(&format(11_050))["coding"], "deflate");
        assert!(envelope(&format(11_050)).get("json").is_none(), "it is compressed");
    }

    #[test]
    fn every_content_format_arrives_as_its_media_type_or_else_as_its_number() {
        for number in 0..=u16::MAX {
            let format = ContentFormat(number);
            let content = Content { content_format: Some(format), ..content() };
            let properties = properties(content);
            let has_number = has(&properties, "content-format", &number.to_string());
            let name = format.media_type();
            let has_name =
                name.is_some_and(|name| properties.windows(name.len()).any(|part| part == name.as_bytes()));
            assert_eq!((has_name, has_number), (name.is_some(), name.is_none()), "{number}");
        }
    }

    #[test]
    fn a_record_id_is_written_as_it_is_displayed() {
        let mut encoder = Encoder::new("g");
        for (run, sequence) in [(0, 0), (0x0123_4567_89ab_cdef, 42), (u64::MAX, u64::MAX)] {
            let id = RecordId { run, sequence };
            let record = Record { id, sequence, original: None, same_boot: true, content: content() };
            let mut buffer = [0; 40];
            let length = encoder.write_id(&mut buffer, &record);
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), id.to_string());
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339_with_milliseconds() {
        let mut time = TimeText::default();
        for ms in [0, 7, 1_700_000_000_123, 1_700_000_000_999, 2_082_758_400_000] {
            assert_eq!(std::str::from_utf8(&time.format(UnixTime(ms))).unwrap(), UnixTime(ms).to_string());
        }
    }

    #[test]
    fn a_loss_report_names_lane_cause_count_and_ranges() {
        let id = |sequence| RecordId { run: 1, sequence };
        let loss =
            Loss { lane: Lane::Normal, number: 1, cause: "dropped", count: 3, first: id(2), last: id(4) };
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&loss_payload("g", &loss)).unwrap(),
            serde_json::json!({"v":1,"gateway":"g","lane":"normal","cause":"dropped","count":3,"ranges":[
                {"first":"0000000000000001-2","last":"0000000000000001-4"}]})
        );
    }
}
