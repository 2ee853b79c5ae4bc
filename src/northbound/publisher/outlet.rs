//! What the connection lets out, and when: its window and packet ids, the rate, the PINGREQs that
//! stand for answers at QoS 0, and when to fill again.

use std::time::{Duration, Instant};

use crate::northbound::flight::Flight;
use crate::northbound::publication::{Encoder, Terms};
use crate::northbound::rate::PublishRate;
use crate::northbound::session::{Limits, PUBLISH_ID_MAX};
use crate::northbound::settings::Settings;
use crate::northbound::wire::Version;

/// Least time until what is paced is looked at again.
pub const PACED_TICK: Duration = Duration::from_millis(5);

/// The way out.
pub struct Outlet {
    max_in_flight: u16,
    /// `None` while there is no connection.
    terms: Option<Terms>,
    /// Whether the broker takes QoS 1.
    pub at_least_once: bool,
    /// The most publishes that may await their answer.
    pub window: u16,
    /// What is sent at QoS 1 and not answered.
    pub flight: Flight,
    ping_outstanding: bool,
    /// How fast everything goes.
    pub rate: PublishRate,
    /// Makes the bytes.
    pub encoder: Encoder,
    /// When a record or an own message was sent last.
    pub last_sent_at: Option<Instant>,
    /// When to fill again though nothing comes from outside.
    wake_at: Option<Instant>,
}

impl Outlet {
    /// Without a connection yet.
    pub fn new(now: Instant, settings: &Settings) -> Outlet {
        Outlet {
            max_in_flight: settings.max_in_flight.max(1),
            terms: None,
            at_least_once: true,
            window: 0,
            flight: Flight::new(now, settings.answer_timeout),
            ping_outstanding: false,
            rate: PublishRate::new(now, settings.max_publish_rate, settings.max_byte_rate),
            encoder: Encoder::new(settings.gateway.as_str()),
            last_sent_at: None,
            wake_at: None,
        }
    }

    /// A connection is there, within `limits`.
    pub fn open(&mut self, now: Instant, version: Version, limits: &Limits) {
        self.terms =
            Some(Terms { version, packet_limit: limits.packet_size as usize, retain: limits.retain });
        self.at_least_once = limits.at_least_once;
        self.window = limits.receive_maximum.min(self.max_in_flight).min(PUBLISH_ID_MAX);
        self.flight.open(now, self.window);
        self.ping_outstanding = false;
    }

    /// It is gone, and with it what was in flight.
    pub fn close(&mut self) {
        self.flight.close();
        self.terms = None;
        self.wake_at = None;
    }

    /// The terms of the connection, while there is one.
    pub fn terms(&self) -> Option<Terms> {
        self.terms
    }

    /// Publishes sent and not answered, where `records` of them are records.
    pub fn in_flight(&self, records: usize) -> usize {
        if self.at_least_once { self.flight.len() } else { records }
    }

    /// Whether one more may be sent while so many records are in flight.
    pub fn has_place(&self, records: usize) -> bool {
        if self.at_least_once {
            self.flight.free_id().is_some()
        } else {
            !self.ping_outstanding && records < usize::from(self.window)
        }
    }

    /// The packet id the next publish gets; `None`: it goes out at QoS 0.
    pub fn packet_id(&self) -> Option<u16> {
        if self.at_least_once { self.flight.free_id() } else { None }
    }

    /// A record or an own message of so many bytes was appended.
    pub fn note_sent(&mut self, now: Instant, bytes: usize) {
        self.rate.take(bytes);
        self.last_sent_at = Some(now);
    }

    /// Whether the rate allows a publish now; if not, it says when to look again.
    pub fn may_send_now(&mut self, now: Instant) -> bool {
        if self.rate.allows(now) {
            return true;
        }
        let ready = self.rate.ready_at().max(now + PACED_TICK);
        self.wake(ready);
        false
    }

    /// Whether a PINGREQ is to follow, whose answer stands for those of publishes at QoS 0.
    pub fn wants_ping(&mut self, records: usize) -> bool {
        let wanted = !self.at_least_once && !self.ping_outstanding && self.in_flight(records) > 0;
        self.ping_outstanding |= wanted;
        wanted
    }

    /// The PINGREQ is answered.
    pub fn handle_ping_answered(&mut self) {
        self.ping_outstanding = false;
    }

    /// Fill again at that time at the latest.
    pub fn wake(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    /// A fill begins: what was to be looked at again is.
    pub fn handle_woken(&mut self) {
        self.wake_at = None;
    }

    /// When to fill again though nothing comes from outside.
    pub fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }
}
