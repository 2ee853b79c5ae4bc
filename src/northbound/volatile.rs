//! Readings of `qos = 0` rules: a bounded ring in memory, the oldest dropped first. Outside the
//! promise.

use std::collections::VecDeque;

use crate::message::{Content, ContentFormat, Envelope, Method, Stamp};

/// Most bytes held.
pub const BYTES_MAX: usize = 256 * 1024;
/// Most messages held.
pub const MESSAGES_MAX: usize = 1024;

/// A [`Content`] that owns its bytes, in one piece.
struct Owned {
    bytes: Vec<u8>,
    device: usize,
    path: usize,
    query: Option<usize>,
    topic: usize,
    method: Method,
    content_format: Option<ContentFormat>,
    retain: bool,
    envelope: Envelope,
    expires_s: Option<u32>,
    received: Stamp,
}

impl Owned {
    fn of(content: &Content<'_>) -> Owned {
        let parts = [content.device, content.path, content.query.unwrap_or_default(), content.topic];
        let size = parts.iter().map(|part| part.len()).sum::<usize>() + content.payload.len();
        let mut bytes = Vec::with_capacity(size);
        for part in parts {
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(content.payload);
        Owned {
            bytes,
            device: content.device.len(),
            path: content.path.len(),
            query: content.query.map(str::len),
            topic: content.topic.len(),
            method: content.method,
            content_format: content.content_format,
            retain: content.retain,
            envelope: content.envelope,
            expires_s: content.expires_s,
            received: content.received,
        }
    }

    fn content(&self) -> Content<'_> {
        let (device, rest) = self.bytes.split_at(self.device);
        let (path, rest) = rest.split_at(self.path);
        let (query, rest) = rest.split_at(self.query.unwrap_or_default());
        let (topic, payload) = rest.split_at(self.topic);
        // They were text when they were put in.
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        Content {
            device: text(device),
            path: text(path),
            query: self.query.map(|_| text(query)),
            topic: text(topic),
            method: self.method,
            content_format: self.content_format,
            retain: self.retain,
            test: false,
            reply: None,
            envelope: self.envelope,
            expires_s: self.expires_s,
            received: self.received,
            payload,
        }
    }
}

/// The ring.
#[derive(Default)]
pub struct Ring {
    messages: VecDeque<Owned>,
    bytes: usize,
    dropped: u64,
}

impl Ring {
    /// Puts a reading in; drops the oldest while there is no room.
    pub fn push(&mut self, content: &Content<'_>) {
        let owned = Owned::of(content);
        if owned.bytes.len() > BYTES_MAX {
            self.dropped += 1;
            return;
        }
        self.bytes += owned.bytes.len();
        self.messages.push_back(owned);
        while self.bytes > BYTES_MAX || self.messages.len() > MESSAGES_MAX {
            self.pop();
            self.dropped += 1;
        }
    }

    /// The oldest reading.
    pub fn front(&self) -> Option<Content<'_>> {
        self.messages.front().map(Owned::content)
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) {
        if let Some(owned) = self.messages.pop_front() {
            self.bytes -= owned.bytes.len();
        }
    }

    /// Drops them all.
    pub fn clear(&mut self) {
        self.dropped += self.messages.len() as u64;
        self.messages.clear();
        self.bytes = 0;
    }

    /// Counts one taken out as dropped.
    pub fn note_dropped(&mut self) {
        self.dropped += 1;
    }

    /// Readings held.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Readings dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(payload: &[u8]) -> Content<'_> {
        Content {
            device: "d",
            path: "p",
            query: Some("a=b"),
            topic: "topic",
            method: Method::Put,
            content_format: None,
            retain: false,
            test: false,
            reply: None,
            envelope: Envelope::None,
            expires_s: None,
            received: Stamp { boottime_ms: 1, wall_ms: None },
            payload,
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut ring = Ring::default();
        ring.push(&content(b"x"));
        assert_eq!(ring.front(), Some(content(b"x")));
        ring.pop();
        assert!(ring.is_empty());
    }

    #[test]
    fn the_oldest_go_first_when_it_is_full() {
        let mut ring = Ring::default();
        for number in 0..MESSAGES_MAX as u32 + 10 {
            ring.push(&content(&number.to_be_bytes()));
        }
        assert_eq!((ring.len(), ring.dropped()), (MESSAGES_MAX, 10));
        assert_eq!(ring.front().unwrap().payload, 10u32.to_be_bytes());
        let big = vec![0; BYTES_MAX / 2];
        ring.push(&content(&big));
        ring.push(&content(&big));
        assert!(ring.len() <= 2 && ring.bytes <= BYTES_MAX);
    }
}
