//! What leaves the pipeline, in order, until it is polled.
//!
//! Texts and payloads are copied into two buffers that are cleared whenever all events have been
//! polled, so that once these have grown an event costs no allocation. They are bounded by what one
//! round of the caller brings.

use std::collections::VecDeque;
use std::fmt::{self, Write};

use super::watch::{PREVIEW_BYTES, Watched};
use crate::gate::filter::Filtered;
use crate::gate::stage::{Mapped, Received, Refusal};
use crate::journal::Refused;
use crate::message::{Content, ContentFormat, Envelope, Method, Name, Stamp};
use crate::proto::address::Ticket;

/// A buffer that has grown larger than this is given back once it is empty: one round had unusually
/// many bytes.
const KEPT_BYTES: usize = 256 * 1024;

/// What the pipeline has to tell. Borrowed until the next one is polled.
#[derive(Debug)]
pub enum Event<'a> {
    /// The gate refused a reading: to be logged, and shown by `tail`.
    Refused {
        /// The device's id; `None` if the device is not known any more.
        device: Option<&'a str>,
        /// How it came.
        method: Method,
        /// The path, in the device's space.
        path: &'a str,
        /// The query of the request, if it had one.
        query: Option<&'a str>,
        /// Bytes of payload.
        bytes: usize,
        /// Why.
        refusal: &'a Refusal,
        /// It was an MQTT publish.
        mqtt: bool,
    },
    /// The store did not take a reading: to be logged.
    Unstored {
        /// The device's id.
        device: Option<&'a str>,
        /// How it came.
        method: Method,
        /// The path, in the device's space.
        path: &'a str,
        /// The query of the request, if it had one.
        query: Option<&'a str>,
        /// Bytes of payload.
        bytes: usize,
        /// Why.
        reason: Refused,
        /// It was an MQTT publish.
        mqtt: bool,
    },
    /// The rules allow a reading, and its rule does not publish it: shown by `tail`.
    Filtered {
        /// The device's id.
        device: &'a str,
        /// How it came.
        method: Method,
        /// The path, in the device's space.
        path: &'a str,
        /// The query of the request, if it had one.
        query: Option<&'a str>,
        /// Bytes of payload.
        bytes: usize,
        /// The beginning of the payload.
        preview: &'a [u8],
        /// Why.
        why: &'a str,
    },
    /// A reading of a `qos = 0` rule: to be offered to the uplink, and shown by `tail`.
    Passed(Passed<'a>),
    /// The store is done with a reading: to be routed by the kind of its ticket.
    Completed {
        /// As given with the reading.
        ticket: Ticket,
        /// Whether it is durable; if not, it may be offered again.
        stored: bool,
    },
    /// A reading was accepted, while they are mirrored: to be copied to local clients.
    Mirrored {
        /// The device's id.
        device: &'a str,
        /// The path, in the device's space.
        path: &'a str,
        /// The payload.
        payload: &'a [u8],
        /// The payload's content format.
        content_format: Option<ContentFormat>,
        /// Its rule has it retained.
        retain: bool,
    },
    /// A reading is stored that was kept to be shown by `tail`.
    Shown(&'a Watched),
}

/// The content of a reading that the gate let pass and that is not stored. Only the pipeline makes
/// it, so that nothing else gets past the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed<'a>(Content<'a>);

impl<'a> Passed<'a> {
    /// What is to be published.
    pub fn content(&self) -> Content<'a> {
        self.0
    }
}

/// Bytes in a buffer: where they begin and how many there are. One round brings less than 4 GiB.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    length: u32,
}

#[derive(Debug)]
enum Queued {
    Refused {
        device: Option<Name>,
        method: Method,
        path: Span,
        query: Option<Span>,
        bytes: usize,
        refusal: Refusal,
        mqtt: bool,
    },
    Unstored {
        device: Option<Name>,
        method: Method,
        path: Span,
        query: Option<Span>,
        bytes: usize,
        reason: Refused,
        mqtt: bool,
    },
    Filtered {
        device: Span,
        path: Span,
        query: Option<Span>,
        preview: Span,
        bytes: usize,
        method: Method,
        why: Span,
    },
    Passed {
        device: Span,
        path: Span,
        query: Option<Span>,
        topic: Span,
        payload: Span,
        method: Method,
        content_format: Option<ContentFormat>,
        retain: bool,
        test: bool,
        envelope: Envelope,
        expires_s: Option<u32>,
        received: Stamp,
    },
    Completed {
        ticket: Ticket,
        stored: bool,
    },
    Mirrored {
        device: Span,
        path: Span,
        payload: Span,
        content_format: Option<ContentFormat>,
        retain: bool,
    },
    Shown(Box<Watched>),
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<Queued>,
    /// What is refused from now on are MQTT publishes.
    mqtt: bool,
    /// The event that was polled last and may still be borrowed.
    current: Option<Queued>,
    texts: String,
    payloads: Vec<u8>,
    /// Shown ones, to be used again: boxed as they are elsewhere, so that none is moved.
    #[allow(clippy::vec_box, reason = "the boxes are what is used again")]
    spare: Vec<Box<Watched>>,
}

/// Most watched readings kept to be used again.
const SPARE_MAX: usize = 64;

impl Events {
    /// A watched reading to be filled.
    pub(super) fn spare(&mut self) -> Box<Watched> {
        self.spare.pop().unwrap_or_default()
    }

    /// One that is not needed any more.
    pub(super) fn give_back(&mut self, watched: Box<Watched>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(watched);
        }
    }

    /// Says whether what is refused from now on are MQTT publishes, whose codes are others.
    pub(super) fn of_mqtt(&mut self, mqtt: bool) {
        self.mqtt = mqtt;
    }

    /// The gate refused a reading. Returns the refusal as it stands in the queue.
    pub(super) fn refused(
        &mut self,
        device: Option<Name>,
        method: Method,
        path: &str,
        query: Option<&str>,
        bytes: usize,
        refusal: Refusal,
    ) -> &Refusal {
        let path = self.text(path);
        let query = query.map(|query| self.text(query));
        self.queue.push_back(Queued::Refused {
            device,
            method,
            path,
            query,
            bytes,
            refusal,
            mqtt: self.mqtt,
        });
        match self.queue.back() {
            Some(Queued::Refused { refusal, .. }) => refusal,
            // It was pushed just now.
            _ => &Refusal::NoRule,
        }
    }

    /// The store did not take a reading.
    pub(super) fn unstored(&mut self, device: Option<Name>, received: &Received<'_>, reason: Refused) {
        let path = self.text(received.path.as_str());
        let query = received.query.map(|query| self.text(query.as_str()));
        let (method, bytes) = (received.method, received.payload.len());
        self.queue.push_back(Queued::Unstored {
            device,
            method,
            path,
            query,
            bytes,
            reason,
            mqtt: self.mqtt,
        });
    }

    /// A reading is not published.
    pub(super) fn filtered(&mut self, filtered: &Filtered<'_>) {
        let content = filtered.content;
        let start = self.payloads.len() as u32;
        let preview = content.payload.get(..PREVIEW_BYTES).unwrap_or(content.payload);
        self.payloads.extend_from_slice(preview);
        let queued = Queued::Filtered {
            device: self.text(content.device),
            path: self.text(content.path),
            query: content.query.map(|query| self.text(query)),
            preview: Span { start, length: preview.len() as u32 },
            bytes: content.payload.len(),
            method: content.method,
            why: self.written(&filtered.reason()),
        };
        self.queue.push_back(queued);
    }

    /// A reading is for the uplink alone.
    pub(super) fn passed(&mut self, mapped: &Mapped<'_>) {
        let content = mapped.content();
        let start = self.payloads.len() as u32;
        self.payloads.extend_from_slice(content.payload);
        let passed = Queued::Passed {
            device: self.text(content.device),
            path: self.text(content.path),
            query: content.query.map(|query| self.text(query)),
            topic: self.text(content.topic),
            payload: Span { start, length: content.payload.len() as u32 },
            method: content.method,
            content_format: content.content_format,
            retain: content.retain,
            test: content.test,
            envelope: content.envelope,
            expires_s: content.expires_s,
            received: content.received,
        };
        self.queue.push_back(passed);
    }

    /// A reading was accepted.
    pub(super) fn mirrored(&mut self, mapped: &Mapped<'_>) {
        let content = mapped.content();
        let start = self.payloads.len() as u32;
        self.payloads.extend_from_slice(content.payload);
        let mirrored = Queued::Mirrored {
            device: self.text(content.device),
            path: self.text(content.path),
            payload: Span { start, length: content.payload.len() as u32 },
            content_format: content.content_format,
            retain: content.retain,
        };
        self.queue.push_back(mirrored);
    }

    /// The store is done with a reading.
    pub(super) fn completed(&mut self, ticket: Ticket, stored: bool) {
        self.queue.push_back(Queued::Completed { ticket, stored });
    }

    /// A watched reading is stored.
    pub(super) fn shown(&mut self, watched: Box<Watched>) {
        self.queue.push_back(Queued::Shown(watched));
    }

    /// The next event.
    pub(super) fn poll(&mut self) -> Option<Event<'_>> {
        if let Some(Queued::Shown(watched)) = self.current.take() {
            self.give_back(watched);
        }
        match self.queue.pop_front() {
            None => {
                self.clear();
                return None;
            }
            Some(Queued::Completed { ticket, stored }) => return Some(Event::Completed { ticket, stored }),
            Some(other) => self.current = Some(other),
        }
        Some(match self.current.as_ref()? {
            Queued::Refused { device, method, path, query, bytes, refusal, mqtt } => Event::Refused {
                mqtt: *mqtt,
                query: query.map(|query| self.text_of(query)),
                device: device.as_ref().map(Name::as_str),
                method: *method,
                path: self.text_of(*path),
                bytes: *bytes,
                refusal,
            },
            Queued::Unstored { device, method, path, query, bytes, reason, mqtt } => Event::Unstored {
                mqtt: *mqtt,
                query: query.map(|query| self.text_of(query)),
                device: device.as_ref().map(Name::as_str),
                method: *method,
                bytes: *bytes,
                path: self.text_of(*path),
                reason: *reason,
            },
            Queued::Filtered { device, path, query, preview, bytes, method, why } => Event::Filtered {
                device: self.text_of(*device),
                path: self.text_of(*path),
                query: query.map(|query| self.text_of(query)),
                preview: self.payloads.get(preview.range()).unwrap_or_default(),
                bytes: *bytes,
                method: *method,
                why: self.text_of(*why),
            },
            Queued::Passed {
                device,
                path,
                query,
                topic,
                payload,
                method,
                content_format,
                retain,
                test,
                envelope,
                expires_s,
                received,
            } => Event::Passed(Passed(Content {
                device: self.text_of(*device),
                path: self.text_of(*path),
                query: query.map(|query| self.text_of(query)),
                topic: self.text_of(*topic),
                method: *method,
                content_format: *content_format,
                retain: *retain,
                test: *test,
                reply: None,
                envelope: *envelope,
                expires_s: *expires_s,
                received: *received,
                payload: self.payloads.get(payload.range()).unwrap_or_default(),
            })),
            Queued::Completed { ticket, stored } => Event::Completed { ticket: *ticket, stored: *stored },
            Queued::Mirrored { device, path, payload, content_format, retain } => Event::Mirrored {
                device: self.text_of(*device),
                path: self.text_of(*path),
                payload: self.payloads.get(payload.range()).unwrap_or_default(),
                content_format: *content_format,
                retain: *retain,
            },
            Queued::Shown(watched) => Event::Shown(watched),
        })
    }

    fn clear(&mut self) {
        self.current = None;
        self.texts.clear();
        self.payloads.clear();
        if self.texts.capacity() > KEPT_BYTES {
            self.texts.shrink_to(KEPT_BYTES);
        }
        if self.payloads.capacity() > KEPT_BYTES {
            self.payloads.shrink_to(KEPT_BYTES);
        }
    }

    fn text(&mut self, text: &str) -> Span {
        let start = self.texts.len() as u32;
        self.texts.push_str(text);
        Span { start, length: text.len() as u32 }
    }

    fn written(&mut self, text: &impl fmt::Display) -> Span {
        let start = self.texts.len();
        // A String takes all that is written to it.
        let _ = write!(self.texts, "{text}");
        Span { start: start as u32, length: (self.texts.len() - start) as u32 }
    }

    fn text_of(&self, span: Span) -> &str {
        self.texts.get(span.range()).unwrap_or_default()
    }
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.length as usize
    }
}
