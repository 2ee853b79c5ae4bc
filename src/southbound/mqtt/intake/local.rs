//! Subscriptions, and messages between local clients.

use super::*;
use crate::southbound::mqtt::packet::{Acknowledged, Terms};
use crate::southbound::mqtt::queue::{QUEUED_BYTES_MAX, Sending, Shared};
use crate::southbound::mqtt::settings::QUEUED_TOTAL_MAX;

impl Intake {
    /// Judges one entry of a SUBSCRIBE: the paths of the device's own downlink, and what a
    /// local-subscribe rule lets it receive. Returns whether the subscription is a new one, too.
    pub(super) fn subscribe<S: ReadingStore>(
        &mut self,
        now: Instant,
        session: Option<u64>,
        filter: &str,
        options: Options,
        pipeline: &mut Pipeline<S>,
    ) -> (SubackReasonCode, bool) {
        let filter = match Filter::parse(filter) {
            Ok(filter) => filter,
            Err(FilterError::Shared) => return (SubackReasonCode::SharedSubscriptionsNotSupported, false),
            Err(FilterError::Invalid) => return (SubackReasonCode::TopicFilterInvalid, false),
        };
        let Some((at, session)) = session.and_then(|at| Some((at, self.sessions.get_mut(&at)?))) else {
            return (SubackReasonCode::UnspecifiedError, false);
        };
        let role = pipeline.gate.device(now, session.device).map(|view| view.role.clone());
        let rules = role.and_then(|role| self.downlink.get(&role));
        let is_downlink =
            rules.is_some_and(|rules| rules.iter().any(|(deny, paths)| !deny && paths.overlaps(&filter)));
        let is_local = session.receives.filter(&filter);
        if !is_downlink && !is_local {
            pipeline.counters.count(Counter::MqttSubscriptionsRefused);
            return (SubackReasonCode::NotAuthorized, false);
        }
        let before = session.subscriptions.len();
        session.subscriptions.retain(|known| known.filter != filter);
        let is_new = session.subscriptions.len() == before;
        if is_new {
            // It has nothing yet that later messages could be measured against.
            session.remembered = None;
        }
        if session.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            pipeline.counters.count(Counter::MqttSubscriptionsRefused);
            return (SubackReasonCode::QuotaExceeded, false);
        }
        // Those of the broker have QoS 1 at most.
        let is_acknowledged = options.qos != Qos::AtMostOnce;
        let is_queued = is_local && is_acknowledged && self.max_queued > 0;
        let (code, granted) = match (is_queued, is_downlink && is_acknowledged) {
            (true, _) if options.qos == Qos::ExactlyOnce => (SubackReasonCode::GrantedQos2, 2),
            (true, _) | (_, true) => (SubackReasonCode::GrantedQos1, 1),
            (false, false) => (SubackReasonCode::GrantedQos0, 0),
        };
        let subscription = Subscription { filter, is_local, is_queued, is_downlink, options, granted };
        session.subscriptions.push(subscription);
        self.follow_bus(at);
        (code, is_new)
    }

    /// Sends the retained messages that a subscription is to begin with (MQTT 5.0 §3.3.1.3).
    pub(super) fn send_retained(
        &mut self,
        now: Instant,
        number: ConnectionNumber,
        session: Option<u64>,
        filter: &str,
        (options, is_new): (&Options, bool),
    ) {
        let is_wanted = match options.retain_handling {
            RetainHandling::SendRetained => true,
            RetainHandling::SendRetainedIfNotExists => is_new,
            RetainHandling::DoNotSendRetained => false,
        };
        let (bus_now, mut expired, mut left_out) = (self.bus_time(now), Vec::new(), 0);
        let session = session.and_then(|session| self.sessions.get_mut(&session));
        let (Some(session), Some(connection)) = (session, self.connections.get_mut(&number)) else { return };
        let Session { subscriptions, receives, remembered, queue, publisher, .. } = &mut **session;
        let wanted = subscriptions.iter().find(|known| known.filter.as_str() == filter);
        let (Some(subscription), Some(version)) = (wanted.filter(|known| known.is_local), connection.version)
        else {
            return;
        };
        if is_wanted {
            for message in self.retained.matching(&subscription.filter) {
                if message.is_expired(bus_now) {
                    expired.push(message.topic.to_owned());
                    continue;
                }
                // No Local is about retained messages too (MQTT 5.0 §3.8.3.1): they have a sender.
                if options.excludes(&message, *publisher) {
                    continue;
                }
                // As the state that it begins with: no filter holds it back.
                let may = receives.receive(now, &message, None) == Reception::Delivered;
                if !may {
                    continue;
                }
                if connection.output().len() >= RETAINED_UNSENT_MAX {
                    left_out += 1;
                    continue;
                }
                // With the lower QoS of message and subscription. What has no room in the queue is
                // not worth dropping others for.
                let bytes = message.encoded_length();
                let has_room = queue.len() < self.max_queued
                    && queue.bytes() + bytes <= QUEUED_BYTES_MAX
                    && self.queued_bytes + bytes <= QUEUED_TOTAL_MAX;
                if message.qos > 0 && subscription.is_queued && has_room {
                    self.queued_dropped += queue.push(message.encode_beginning().into(), self.max_queued);
                    self.queued_bytes += bytes;
                } else {
                    let identifiers = options.identifier.into_iter().collect();
                    let terms = Terms { retain: true, identifiers, expiry: message.seconds_left(bus_now) };
                    connection.send(packet::publish(version, &message, &terms, None));
                }
                receives.note(now, &message, remembered);
            }
        }
        self.retained_dropped += left_out;
        for topic in expired {
            self.retained.remove(&topic);
            self.local_expired += 1;
        }
        self.send_queued(now, number);
    }

    /// Whether a message of a device can be retained; expired ones give way.
    ///
    /// # Errors
    /// [`Refusal::Retained`]
    pub(super) fn room(
        &mut self,
        now: Instant,
        device: &str,
        message: &BusMessage<'_>,
    ) -> Result<(), Refusal> {
        self.retained.room(device, message).or_else(|_| {
            self.remove_expired(now);
            self.retained.room(device, message)
        })
    }

    /// Removes retained messages that have expired; whether there were any.
    fn remove_expired(&mut self, now: Instant) -> bool {
        let now = self.bus_time(now);
        let removed = self.retained.remove_expired(now);
        self.local_expired += removed;
        removed > 0
    }

    /// Joins the bus for a session, or leaves it.
    pub(super) fn follow_bus(&mut self, at: u64) {
        let Some(session) = self.sessions.get_mut(&at) else { return };
        match session.wants_queue() {
            true => drop(self.queueing.insert(at)),
            false => drop(self.queueing.remove(&at)),
        }
        let wants = session.wants_bus();
        if wants != session.is_on_bus {
            session.is_on_bus = wants;
            self.on_bus = if wants { self.on_bus + 1 } else { self.on_bus - 1 };
            self.bus.push_back(if wants { BusRequest::Join(at) } else { BusRequest::Leave(at) });
        }
    }

    /// A time on the clock of the bus.
    pub(super) fn bus_time(&mut self, at: Instant) -> u64 {
        let began = *self.bus_began.get_or_insert(at);
        u64::try_from(at.saturating_duration_since(began).as_millis()).unwrap_or(u64::MAX)
    }

    /// When a message expires that is published now.
    pub(super) fn expires_at(&mut self, now: Instant, interval: Duration) -> u64 {
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.bus_time(now).saturating_add(interval)
    }

    /// Publishes a message of a device to local clients.
    pub(super) fn publish_locally(&mut self, now: Instant, device: &str, message: &BusMessage<'_>) {
        if message.retain {
            let is_kept = self.retained.put(device, message)
                || self.remove_expired(now) && self.retained.put(device, message);
            self.retained_dropped += u64::from(!is_kept);
        }
        let encoded = (self.on_bus > 0 || !self.queueing.is_empty()).then(|| message.encode());
        let Some(encoded) = encoded else { return };
        if message.qos > 0 && !self.queueing.is_empty() {
            self.enqueue(now, message, &encoded);
        }
        if self.on_bus > 0 {
            self.bus.push_back(BusRequest::Publish(encoded));
        }
    }

    /// Queues a message of QoS 1 or 2 for every session that has a subscription of QoS 1 or 2 for
    /// it, and sends it where there is a connection.
    fn enqueue(&mut self, now: Instant, message: &BusMessage<'_>, encoded: &[u8]) {
        let mut shared: Option<Shared> = None;
        let mut connected = Vec::new();
        for at in &self.queueing {
            let Some(session) = self.sessions.get_mut(at) else { continue };
            match session.receive_queued(now, message) {
                Reception::Delivered => {}
                Reception::NotAllowed => continue,
                Reception::HeldBack => {
                    self.local_filtered += 1;
                    continue;
                }
            }
            let message = shared.get_or_insert_with(|| encoded.into()).clone();
            let before = session.queue.bytes();
            self.queued_dropped += session.queue.push(message, self.max_queued);
            self.queued_bytes = self.queued_bytes + session.queue.bytes() - before;
            if self.queued_bytes > QUEUED_TOTAL_MAX {
                // All sessions together have too much: this one gives way, its oldest first.
                let most = before.saturating_sub(self.queued_bytes - QUEUED_TOTAL_MAX);
                let full = session.queue.bytes();
                self.queued_dropped += session.queue.shrink(usize::MAX, most);
                self.queued_bytes -= full - session.queue.bytes();
            }
            connected.extend(session.connection);
        }
        connected.into_iter().for_each(|number| self.send_queued(now, number));
    }

    /// Sends what waits, as far as the client takes it.
    pub(super) fn send_queued(&mut self, now: Instant, number: ConnectionNumber) {
        let now = self.bus_time(now);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(version) = connection.version else { return };
        let Some(at) = connection.session else { return };
        let Some(session) = self.sessions.get_mut(&at) else { return };
        while connection.output().len() < UNSENT_MAX
            && let most = connection.receive_maximum.saturating_sub(session.deliveries.len())
            && let Some((id, bytes, sending)) = session.queue.next(most)
        {
            if sending == Sending::Release {
                connection.send_pubrel(id, true);
                continue;
            }
            let message = BusMessage::decode(&bytes);
            if sending == Sending::First && message.is_some_and(|message| message.is_expired(now)) {
                self.queued_bytes -= bytes.len();
                self.local_expired += 1;
                session.queue.acknowledge(id);
                continue;
            }
            let packet = message.and_then(|message| {
                let (qos, mut terms) = session.queued_terms(&message, now)?;
                terms.retain |= BusMessage::is_beginning(&bytes);
                let exactly_once = match sending {
                    Sending::Again { exactly_once } => exactly_once,
                    _ => qos == 2,
                };
                if sending == Sending::First && exactly_once {
                    session.queue.note_exactly_once();
                }
                let acknowledged = Acknowledged { id, again: sending != Sending::First, exactly_once };
                packet::publish(version, &message, &terms, Some(acknowledged))
            });
            // The rules do not allow it any more, or it is larger than the client takes.
            if !packet.is_some_and(|packet| connection.send_publish(id, packet)) {
                self.queued_bytes -= bytes.len();
                self.queued_dropped += 1;
                session.queue.acknowledge(id);
            }
        }
        self.announce(number);
    }

    /// PUBREC: the client has a message of QoS 2, or refuses it.
    pub(super) fn handle_pubrec(
        &mut self,
        now: Instant,
        number: ConnectionNumber,
        id: u16,
        code: u8,
        counters: &mut Counters,
    ) {
        if code >= 0x80 {
            return self.handle_puback(now, number, id, code, counters);
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let session = connection.session.and_then(|session| self.sessions.get_mut(&session));
        let Some(session) = session else { return };
        let before = session.queue.bytes();
        if session.queue.receive(id) {
            connection.send_pubrel(id, false);
        }
        self.queued_bytes -= before - session.queue.bytes();
        self.announce(number);
    }

    /// The client has taken a message, or refused it: PUBACK, or of QoS 2 PUBCOMP.
    pub(super) fn handle_puback(
        &mut self,
        now: Instant,
        number: ConnectionNumber,
        id: u16,
        code: u8,
        counters: &mut Counters,
    ) {
        let session = self.connections.get(&number).and_then(|connection| connection.session);
        let Some(session) = session.and_then(|session| self.sessions.get_mut(&session)) else { return };
        if let Some(command) = session.deliveries.remove(&id) {
            self.delivered.push_back((command, Delivered::by_puback(code)));
            return self.send_queued(now, number);
        }
        let before = session.queue.bytes();
        if session.queue.acknowledge(id) {
            counters.count(Counter::MqttLocalDelivered);
        }
        self.queued_bytes -= before - session.queue.bytes();
        self.send_queued(now, number);
    }

    /// Messages of QoS 1 and 2 that wait for clients.
    pub fn queued_count(&self) -> usize {
        self.sessions.values().map(|session| session.queue.len()).sum()
    }

    /// Messages of QoS 1 and 2 that were dropped, since this was asked last.
    pub fn take_queued_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.queued_dropped)
    }

    /// A reading of any transport was accepted: copies it to local clients, if `mirror` is set.
    pub fn handle_accepted(&mut self, now: Instant, reading: &Accepted<'_>) {
        let Some(template) = &self.mirror else { return };
        let topic = mirrored(template, reading.device, reading.path);
        if is_topic(&topic) {
            let Accepted { payload, content_format, retain, .. } = *reading;
            // One that is stored for the broker is worth as much to a local client.
            let message = BusMessage {
                topic: &topic,
                payload,
                content_format,
                retain,
                qos: 1,
                sender: 0,
                expires: None,
                properties: &[],
            };
            self.publish_locally(now, reading.device, &message);
        }
    }

    /// The bus has messages for a session, which has missed some before them.
    pub fn handle_bus<M: AsRef<[u8]>>(
        &mut self,
        now: Instant,
        at: u64,
        messages: &[M],
        missed: u64,
        counters: &mut Counters,
    ) {
        counters.add(Counter::MqttBusMissed, missed);
        for message in messages {
            self.handle_bus_message(now, at, message.as_ref(), counters);
        }
    }

    fn handle_bus_message(&mut self, now: Instant, at: u64, bytes: &[u8], counters: &mut Counters) {
        let Some(message) = BusMessage::decode(bytes) else { return };
        let bus_now = self.bus_time(now);
        let session = self.sessions.get_mut(&at).filter(|session| session.is_on_bus);
        let Some(session) = session else { return };
        let Some(number) = session.connection else { return };
        let Some((qos, terms)) = session.terms(&message, bus_now) else { return };
        if qos > 0 {
            return; // it went to the queue
        }
        match session.receives.receive(now, &message, session.remembered.as_deref()) {
            Reception::Delivered => {}
            Reception::NotAllowed => return,
            Reception::HeldBack => return self.local_filtered += 1,
        }
        if message.is_expired(bus_now) {
            return self.local_expired += 1;
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(version) = connection.version else { return };
        if connection.output().len() >= UNSENT_MAX {
            return counters.count(Counter::MqttLocalDropped);
        }
        connection.send(packet::publish(version, &message, &terms, None));
        session.receives.note(now, &message, &mut session.remembered);
        counters.count(Counter::MqttLocalDelivered);
        self.announce(number);
    }

    /// Mirrored readings that were not retained for want of room, since this was asked last.
    pub fn take_retained_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.retained_dropped)
    }

    /// Messages that filters of local-subscribe rules held back, since this was asked last.
    pub fn take_local_filtered(&mut self) -> u64 {
        std::mem::take(&mut self.local_filtered)
    }

    /// Messages that expired before they were sent to one client or to later subscribers, since
    /// this was asked last.
    pub fn take_local_expired(&mut self) -> u64 {
        std::mem::take(&mut self.local_expired)
    }

    /// Whether accepted readings are to be handed to [`Intake::handle_accepted`].
    pub fn mirrors(&self) -> bool {
        self.mirror.is_some()
    }

    /// What is to be done on the bus next.
    pub fn poll_bus(&mut self) -> Option<BusRequest> {
        self.bus.pop_front()
    }
}

/// What a device of a role with these rules may publish and receive.
pub(super) fn allowed(rules: Option<&LocalRights>, device: &DeviceView<'_>) -> (Allowed, Allowed) {
    rules.map_or_else(Default::default, |rules| rules.of(device.id, device.tags))
}

pub(super) fn unsubscribe(
    subscriptions: Option<&mut Vec<Subscription>>,
    filters: &[String],
) -> Vec<UnsubackReasonCode> {
    let mut nothing = Vec::new();
    let subscriptions = subscriptions.unwrap_or(&mut nothing);
    let mut one = |filter: &String| {
        let before = subscriptions.len();
        subscriptions.retain(|known| known.filter.as_str() != filter);
        match subscriptions.len() < before {
            true => UnsubackReasonCode::Success,
            false => UnsubackReasonCode::NoSubscriptionExisted,
        }
    };
    filters.iter().map(&mut one).collect()
}
