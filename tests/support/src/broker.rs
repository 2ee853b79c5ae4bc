//! A broker that does as it is told. Its packets are made and judged by `mqtt-protocol-core` in the
//! server's role, so what the uplink encodes by hand is read by somebody else.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use mqtt::connection::role;
use mqtt::packet::{GenericPacket, GenericPacketTrait as _, Property, Qos, v3_1_1, v5_0};
use mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, PubackReasonCode, SubackReasonCode, SubackReturnCode,
    UnsubackReasonCode,
};
use mqtt_protocol_core::mqtt;
use tombolo::northbound::uplink::Closed;

#[derive(Clone, Debug)]
pub struct Delivered {
    pub at: Duration,
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: Qos,
    pub retain: bool,
    pub dup: bool,
    pub content_type: Option<String>,
    pub expiry: Option<u32>,
    pub user: Vec<(String, String)>,
}

impl Delivered {
    pub fn user(&self, name: &str) -> Option<&str> {
        self.user.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What to do with a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Ack(u8),
    /// Taken, and no answer, now or ever.
    Hold,
    /// Dropped without a word.
    Drop,
    Disconnect(u8),
    /// Close in good order without a word.
    Close,
    /// PUBACK with this code, then close: mosquitto 2.0 over TLS.
    AckAndClose(u8),
}

/// How CONNECT is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    Accept,
    Code(u8),
    Close,
    Silence,
}

#[derive(Clone, Debug)]
pub struct Connected {
    pub version: u8,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    pub clean: bool,
    pub keep_alive: u16,
    pub session_expiry: Option<u32>,
    pub will: Option<(String, Vec<u8>, Qos, bool)>,
    pub will_delay: Option<u32>,
}

type Policy = Box<dyn FnMut(&Delivered) -> Reply>;
/// When a publish that comes at this time is answered.
type Slow = Box<dyn FnMut(Duration) -> Duration>;

pub struct Broker {
    pub reachable: bool,
    pub v5: Welcome,
    pub v3: Welcome,
    pub receive_maximum: Option<u16>,
    pub maximum_qos: Option<u8>,
    pub retain_available: Option<u8>,
    pub maximum_packet_size: Option<u32>,
    pub server_keep_alive: Option<u16>,
    pub assigned_client_id: Option<String>,
    pub policy: Policy,
    /// Answers PINGREQ.
    pub answers_pings: bool,
    /// What is published comes by subscriptions to it.
    pub delivers: bool,
    pub subscribe_reply: Reply,
    /// That reply is for this filter alone; others are granted. `None`: it is for all.
    pub subscribe_reply_to: Option<String>,
    /// The filters that were asked for, in order.
    pub subscribed: Vec<String>,
    /// The filters that were left, in order.
    pub unsubscribed: Vec<String>,
    /// What CONNACK says of the session.
    pub session_present: bool,
    /// How CONNECT with a will is met, if not like any other.
    pub will: Option<Welcome>,
    /// PUBACKs come so much later.
    pub delay: Duration,
    pub slow: Option<Slow>,
    pub delivered: Vec<Delivered>,
    pub retained: HashMap<String, Vec<u8>>,
    pub connects: Vec<Connected>,
    pub pings: usize,
    /// Reason codes of DISCONNECT packets, 0 for 3.1.1.
    pub disconnects: Vec<u8>,
    pub links: usize,
    /// The most publishes that ever awaited an answer.
    pub most_in_flight: usize,
}

impl Default for Broker {
    fn default() -> Self {
        Broker {
            reachable: true,
            v5: Welcome::Accept,
            v3: Welcome::Accept,
            receive_maximum: None,
            maximum_qos: None,
            retain_available: None,
            maximum_packet_size: None,
            server_keep_alive: None,
            assigned_client_id: None,
            policy: Box::new(|_| Reply::Ack(0)),
            answers_pings: true,
            delivers: true,
            subscribe_reply: Reply::Ack(0),
            subscribe_reply_to: None,
            subscribed: Vec::new(),
            unsubscribed: Vec::new(),
            session_present: false,
            will: None,
            delay: Duration::ZERO,
            slow: None,
            delivered: Vec::new(),
            retained: HashMap::new(),
            connects: Vec::new(),
            pings: 0,
            disconnects: Vec::new(),
            links: 0,
            most_in_flight: 0,
        }
    }
}

pub struct Link {
    connection: mqtt::Connection<role::Server>,
    pub outgoing: Vec<u8>,
    pub closed: Option<Closed>,
    connected: Option<Connected>,
    subscriptions: Vec<String>,
    in_flight: usize,
    late: VecDeque<(Duration, u16, u8)>,
    /// Whatever comes, it is closed: a load balancer without a back end.
    pub hollow: bool,
    said_goodbye: bool,
    /// Something on the way was lost: nothing passes any more, as TCP has it.
    pub dead: bool,
}

impl Link {
    pub fn is_subscribed(&self, filter: &str) -> bool {
        self.subscriptions.iter().any(|known| known == filter)
    }

    /// When the next PUBACK is due.
    pub fn late_at(&self) -> Option<Duration> {
        self.late.front().map(|(due, ..)| *due)
    }
}

impl Broker {
    pub fn accept(&mut self) -> Link {
        self.links += 1;
        Link {
            connection: mqtt::Connection::<role::Server>::new(mqtt::Version::Undetermined),
            outgoing: Vec::new(),
            closed: None,
            connected: None,
            subscriptions: Vec::new(),
            in_flight: 0,
            late: VecDeque::new(),
            hollow: false,
            said_goodbye: false,
            dead: false,
        }
    }

    pub fn handle_bytes(&mut self, link: &mut Link, at: Duration, bytes: &[u8]) {
        if link.hollow && !bytes.is_empty() {
            link.closed = Some(Closed::ByPeer);
            return;
        }
        let mut cursor = mqtt::common::Cursor::new(bytes);
        while cursor.position() < bytes.len() as u64 && link.closed.is_none() {
            let events = link.connection.recv(&mut cursor);
            self.handle_events(link, at, events);
        }
    }

    /// The stream has ended: without DISCONNECT the will is published.
    pub fn handle_closed(&mut self, link: &mut Link) {
        if let (false, Some(Connected { will: Some((topic, payload, _, true)), .. })) =
            (link.said_goodbye, &link.connected)
        {
            self.retained.insert(topic.clone(), payload.clone());
        }
    }

    fn handle_events(&mut self, link: &mut Link, at: Duration, events: Vec<mqtt::connection::Event>) {
        use mqtt::connection::Event as E;
        for event in events {
            match event {
                E::RequestSendPacket { packet, .. } => {
                    link.outgoing.extend_from_slice(&packet.to_continuous_buffer());
                }
                E::NotifyPacketReceived(packet) => self.handle_packet(link, at, packet),
                E::NotifyError(error) => panic!("the uplink broke the protocol: {error:?}"),
                _ => {}
            }
        }
    }

    fn send(&mut self, link: &mut Link, packet: impl Into<GenericPacket<u16>>) {
        for event in link.connection.send(packet.into()) {
            match event {
                mqtt::connection::Event::RequestSendPacket { packet, .. } => {
                    link.outgoing.extend_from_slice(&packet.to_continuous_buffer());
                }
                mqtt::connection::Event::NotifyError(error) => panic!("the broker errs: {error:?}"),
                _ => {}
            }
        }
    }

    fn handle_packet(&mut self, link: &mut Link, at: Duration, packet: GenericPacket<u16>) {
        match packet {
            GenericPacket::V5_0Connect(p) => {
                let session_expiry = p.props().iter().find_map(|property| match property {
                    Property::SessionExpiryInterval(interval) => Some(interval.val()),
                    _ => None,
                });
                let will_delay = p.will_props().iter().find_map(|property| match property {
                    Property::WillDelayInterval(interval) => Some(interval.val()),
                    _ => None,
                });
                let connected = Connected {
                    version: 5,
                    client_id: p.client_id().to_owned(),
                    username: p.user_name().map(str::to_owned),
                    password: p.password().map(<[u8]>::to_vec),
                    clean: p.clean_start(),
                    keep_alive: p.keep_alive(),
                    session_expiry,
                    will: p.will_topic().map(|topic| {
                        (topic.to_owned(), p.will_payload().unwrap().to_vec(), p.will_qos(), p.will_retain())
                    }),
                    will_delay,
                };
                let welcome = self.will.filter(|_| connected.will.is_some()).unwrap_or(self.v5);
                self.welcome(link, connected, if self.v5 == Welcome::Accept { welcome } else { self.v5 });
            }
            GenericPacket::V3_1_1Connect(p) => {
                let connected = Connected {
                    version: 4,
                    client_id: p.client_id().to_owned(),
                    username: p.user_name().map(str::to_owned),
                    password: p.password().map(<[u8]>::to_vec),
                    clean: p.clean_session(),
                    keep_alive: p.keep_alive(),
                    session_expiry: None,
                    will: p.will_topic().map(|topic| {
                        (topic.to_owned(), p.will_payload().unwrap().to_vec(), p.will_qos(), p.will_retain())
                    }),
                    will_delay: None,
                };
                let welcome = self.will.filter(|_| connected.will.is_some()).unwrap_or(self.v3);
                self.welcome(link, connected, if self.v3 == Welcome::Accept { welcome } else { self.v3 });
            }
            GenericPacket::V5_0Publish(p) => {
                let mut delivered = Delivered {
                    at,
                    topic: p.topic_name().to_owned(),
                    payload: p.payload().as_slice().to_vec(),
                    qos: p.qos(),
                    retain: p.retain(),
                    dup: p.dup(),
                    content_type: None,
                    expiry: None,
                    user: Vec::new(),
                };
                for property in p.props() {
                    match property {
                        Property::ContentType(p) => delivered.content_type = Some(p.val().to_owned()),
                        Property::MessageExpiryInterval(p) => delivered.expiry = Some(p.val()),
                        Property::UserProperty(p) => {
                            delivered.user.push((p.key().to_owned(), p.val().to_owned()));
                        }
                        other => panic!("an unexpected property: {other:?}"),
                    }
                }
                self.handle_publish(link, delivered, p.packet_id());
            }
            GenericPacket::V3_1_1Publish(p) => {
                let delivered = Delivered {
                    at,
                    topic: p.topic_name().to_owned(),
                    payload: p.payload().as_slice().to_vec(),
                    qos: p.qos(),
                    retain: p.retain(),
                    dup: p.dup(),
                    content_type: None,
                    expiry: None,
                    user: Vec::new(),
                };
                self.handle_publish(link, delivered, p.packet_id());
            }
            GenericPacket::V5_0Subscribe(p) => {
                let filters: Vec<String> =
                    p.entries().iter().map(|of| of.topic_filter().to_owned()).collect();
                if let Some(codes) = self.subscribed_to(link, &filters) {
                    let granted = granted(filters, &codes);
                    let codes = codes.into_iter().map(|code| SubackReasonCode::try_from(code).unwrap());
                    let suback = v5_0::Suback::builder()
                        .packet_id(p.packet_id())
                        .reason_codes(codes.collect::<Vec<_>>());
                    self.send(link, suback.build().unwrap());
                    self.keep(link, granted);
                }
            }
            GenericPacket::V3_1_1Subscribe(p) => {
                let filters: Vec<String> =
                    p.entries().iter().map(|of| of.topic_filter().to_owned()).collect();
                if let Some(codes) = self.subscribed_to(link, &filters) {
                    let granted = granted(filters, &codes);
                    let codes = codes.into_iter().map(|code| SubackReturnCode::try_from(code).unwrap());
                    let suback = v3_1_1::Suback::builder()
                        .packet_id(p.packet_id())
                        .return_codes(codes.collect::<Vec<_>>());
                    self.send(link, suback.build().unwrap());
                    self.keep(link, granted);
                }
            }
            GenericPacket::V5_0Unsubscribe(p) => {
                let filters: Vec<String> = p.entries().iter().map(|of| of.as_str().to_owned()).collect();
                let codes = filters.iter().map(|_| UnsubackReasonCode::Success).collect::<Vec<_>>();
                let unsuback = v5_0::Unsuback::builder().packet_id(p.packet_id()).reason_codes(codes);
                self.send(link, unsuback.build().unwrap());
                self.leave(link, filters);
            }
            GenericPacket::V3_1_1Unsubscribe(p) => {
                let filters = p.entries().iter().map(|of| of.as_str().to_owned()).collect();
                self.send(link, v3_1_1::Unsuback::builder().packet_id(p.packet_id()).build().unwrap());
                self.leave(link, filters);
            }
            GenericPacket::V5_0Pingreq(_) => {
                self.pings += 1;
                if self.answers_pings {
                    self.send(link, v5_0::Pingresp::builder().build().unwrap());
                }
            }
            GenericPacket::V3_1_1Pingreq(_) => {
                self.pings += 1;
                if self.answers_pings {
                    self.send(link, v3_1_1::Pingresp::builder().build().unwrap());
                }
            }
            GenericPacket::V5_0Disconnect(p) => {
                let code = p.reason_code().map_or(0, |code| code as u8);
                self.disconnects.push(code);
                link.said_goodbye = code == 0;
            }
            GenericPacket::V3_1_1Disconnect(_) => {
                self.disconnects.push(0);
                link.said_goodbye = true;
            }
            other => panic!("an unexpected packet: {other:?}"),
        }
    }

    /// The codes of a SUBACK; `None`: there is none.
    fn subscribed_to(&mut self, link: &mut Link, filters: &[String]) -> Option<Vec<u8>> {
        filters.iter().map(|filter| self.subscribed(link, filter)).collect()
    }

    fn leave(&mut self, link: &mut Link, filters: Vec<String>) {
        link.subscriptions.retain(|known| !filters.contains(known));
        self.unsubscribed.extend(filters);
    }

    fn keep(&mut self, link: &mut Link, filters: Vec<String>) {
        for filter in filters {
            self.send_retained(link, &filter);
            link.subscriptions.push(filter);
        }
    }

    fn subscribed(&mut self, link: &mut Link, filter: &str) -> Option<u8> {
        self.subscribed.push(filter.to_owned());
        if self.subscribe_reply_to.as_ref().is_some_and(|only| only != filter) {
            return Some(0);
        }
        match self.subscribe_reply {
            Reply::Ack(code) => return Some(code),
            Reply::Hold | Reply::Drop | Reply::AckAndClose(_) => {}
            Reply::Disconnect(code) => self.disconnect(link, code),
            Reply::Close => link.closed = Some(Closed::ByPeer),
        }
        None
    }

    fn welcome(&mut self, link: &mut Link, connected: Connected, welcome: Welcome) {
        let v5 = connected.version == 5;
        self.connects.push(connected.clone());
        match welcome {
            Welcome::Silence => {}
            Welcome::Close => link.closed = Some(Closed::ByPeer),
            // An old broker answers in the old form, whatever it was asked in.
            Welcome::Code(code) if code < 0x80 => {
                link.outgoing.extend_from_slice(&[0x20, 2, 0, code]);
                link.closed = Some(Closed::ByPeer);
            }
            Welcome::Code(code) => {
                link.outgoing.extend_from_slice(&[0x20, 3, 0, code, 0]);
                link.closed = Some(Closed::ByPeer);
            }
            Welcome::Accept if v5 => {
                let mut properties: Vec<Property> = Vec::new();
                if let Some(value) = self.receive_maximum {
                    properties.push(mqtt::packet::ReceiveMaximum::new(value).unwrap().into());
                }
                if let Some(value) = self.maximum_qos {
                    properties.push(mqtt::packet::MaximumQos::new(value).unwrap().into());
                }
                if let Some(value) = self.retain_available {
                    properties.push(mqtt::packet::RetainAvailable::new(value).unwrap().into());
                }
                if let Some(value) = self.maximum_packet_size {
                    properties.push(mqtt::packet::MaximumPacketSize::new(value).unwrap().into());
                }
                if let Some(value) = self.server_keep_alive {
                    properties.push(mqtt::packet::ServerKeepAlive::new(value).unwrap().into());
                }
                if let Some(value) = &self.assigned_client_id {
                    properties.push(mqtt::packet::AssignedClientIdentifier::new(value).unwrap().into());
                }
                let connack = v5_0::Connack::builder()
                    .session_present(self.session_present)
                    .reason_code(ConnectReasonCode::Success)
                    .props(properties);
                self.send(link, connack.build().unwrap());
                link.connected = Some(connected);
            }
            Welcome::Accept => {
                let connack = v3_1_1::Connack::builder()
                    .session_present(self.session_present)
                    .return_code(ConnectReturnCode::Accepted);
                self.send(link, connack.build().unwrap());
                link.connected = Some(connected);
            }
        }
    }

    fn handle_publish(&mut self, link: &mut Link, delivered: Delivered, packet_id: Option<u16>) {
        assert!(!delivered.dup, "with new packet ids nothing is a duplicate in the protocol's sense");
        // What 3.1.1 cannot say it cannot ask for either.
        let v5 = link.connected.as_ref().unwrap().version == 5;
        assert!(!v5 || self.retain_available != Some(0) || !delivered.retain, "retain is not available");
        assert!(
            !v5 || self.maximum_qos != Some(0) || delivered.qos == Qos::AtMostOnce,
            "QoS 1 is not available"
        );
        if delivered.qos != Qos::AtMostOnce {
            link.in_flight += 1;
            self.most_in_flight = self.most_in_flight.max(link.in_flight);
            let limit = usize::from(self.receive_maximum.filter(|_| v5).unwrap_or(u16::MAX));
            assert!(link.in_flight <= limit, "more in flight than Receive Maximum");
        }
        let reply = (self.policy)(&delivered);
        let taken = matches!(reply, Reply::Ack(code) if code < 0x80) || reply == Reply::Hold;
        let at = delivered.at;
        let (topic, payload, retain) = (delivered.topic.clone(), delivered.payload.clone(), delivered.retain);
        if taken {
            self.delivered.push(delivered);
        }
        match reply {
            Reply::Ack(code) => {
                if let Some(id) = packet_id {
                    let due = self.slow.as_mut().map_or(at + self.delay, |slow| slow(at));
                    link.late.push_back((due, id, code));
                    self.answer_late(link, at);
                }
                if code < 0x80 {
                    self.distribute(link, &topic, &payload, retain);
                }
            }
            Reply::Hold | Reply::Drop => {}
            Reply::Disconnect(code) => self.disconnect(link, code),
            Reply::Close => link.closed = Some(Closed::ByPeer),
            Reply::AckAndClose(code) => {
                if let Some(id) = packet_id {
                    link.in_flight -= 1;
                    self.acknowledge(link, id, code);
                }
                link.closed = Some(Closed::ByPeer);
            }
        }
    }

    /// Sends the PUBACKs whose time has come.
    pub fn answer_late(&mut self, link: &mut Link, at: Duration) {
        while let Some((_, id, code)) = link.late.front().copied().filter(|(due, ..)| *due <= at) {
            link.late.pop_front();
            link.in_flight -= 1;
            self.acknowledge(link, id, code);
        }
    }

    fn acknowledge(&mut self, link: &mut Link, id: u16, code: u8) {
        let v5 = link.connected.as_ref().unwrap().version == 5;
        match PubackReasonCode::try_from(code) {
            Ok(code) if v5 => {
                self.send(link, v5_0::Puback::builder().packet_id(id).reason_code(code).build().unwrap());
            }
            Err(_) if v5 => {
                self.send(link, v5_0::Puback::builder().packet_id(id).build().unwrap());
                let length = link.outgoing.len() - 4;
                link.outgoing.truncate(length);
                link.outgoing.extend_from_slice(&[0x40, 4, (id >> 8) as u8, id as u8, code, 0]);
            }
            _ => self.send(link, v3_1_1::Puback::builder().packet_id(id).build().unwrap()),
        }
    }

    fn disconnect(&mut self, link: &mut Link, code: u8) {
        // 3.1.1 knows no such word.
        if link.connected.as_ref().unwrap().version == 5 {
            link.outgoing.extend_from_slice(&[0xE0, 1, code]);
        }
        link.closed = Some(Closed::ByPeer);
        link.said_goodbye = true;
    }

    fn distribute(&mut self, link: &mut Link, topic: &str, payload: &[u8], retain: bool) {
        if retain {
            if payload.is_empty() {
                self.retained.remove(topic);
            } else {
                self.retained.insert(topic.to_owned(), payload.to_vec());
            }
        }
        if self.delivers && link.subscriptions.iter().any(|filter| filter == topic) {
            self.send_message(link, topic, payload);
        }
    }

    fn send_retained(&mut self, link: &mut Link, filter: &str) {
        if let Some(payload) = self.retained.get(filter).cloned().filter(|_| self.delivers) {
            self.send_message(link, filter, &payload);
        }
    }

    /// A message to the uplink.
    pub fn send_message(&mut self, link: &mut Link, topic: &str, payload: &[u8]) {
        if link.connected.as_ref().unwrap().version == 5 {
            let publish =
                v5_0::Publish::builder().topic_name(topic).unwrap().payload(payload).build().unwrap();
            self.send(link, publish);
        } else {
            let publish =
                v3_1_1::Publish::builder().topic_name(topic).unwrap().payload(payload).build().unwrap();
            self.send(link, publish);
        }
    }
}

/// The filters whose codes are no refusals.
fn granted(filters: Vec<String>, codes: &[u8]) -> Vec<String> {
    filters.into_iter().zip(codes).filter_map(|(filter, code)| (*code < 0x80).then_some(filter)).collect()
}
