//! The listener's core in virtual time, against a client that is nothing but bytes.
#![allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]

mod credentials;
mod filtered;
mod forwarded;
mod malformed;
mod pressure;
mod proof;
mod queued;
mod statements;
mod subscriptions;
mod throttle;

use std::time::{Duration, Instant};

use mqtt::packet::{Property, Qos, SubEntry, SubOpts, v3_1_1, v5_0};
use mqtt::result_code::{ConnectReasonCode, DisconnectReasonCode};
use mqtt_protocol_core::mqtt;

use super::settings::{CONNECT_MAX, CONNECT_WITHIN, PACKET_MAX, RECEIVE_MAXIMUM, RECEIVED_MAX};
use super::{ConnectionNumber, Ended, Event, Intake, Next, Settings, Source};
use crate::clock::Moment;
use crate::gate::login::{Login, PasswordHash};
use crate::gate::settings::DownlinkRule;
use crate::gate::{Device, Role};
use crate::journal::Refused;
use crate::message::Name;
use crate::pipeline::fake::FakeStore;
use crate::pipeline::{Event as PipelineEvent, Pipeline};
use crate::proto::address::Ticket;
use crate::southbound::mqtt::settings::DenyOn311;
use crate::telemetry::counters::Counter;

/// First bytes of packets from the server.
const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const PINGRESP: u8 = 0xD0;
const DISCONNECT: u8 = 0xE0;

struct World {
    moment: Moment,
    intake: Intake,
    pipeline: Pipeline<FakeStore>,
    /// What the pipeline has told of refusals.
    refused: Vec<String>,
    /// The sessions on the bus.
    joined: std::collections::BTreeSet<u64>,
    /// The clients that speak 3.1.1.
    old: std::collections::BTreeSet<ConnectionNumber>,
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// The rules of the role of [`Pipeline::fake`] as far as the listener needs them.
fn roles() -> Vec<Role> {
    let rule = |at: &str, deny, path: &str| DownlinkRule { deny, ..DownlinkRule::new(name(at), "x", path) };
    vec![Role { downlink: vec![rule("set", false, "set/{1}")], ..Role::new(name("sensor")) }]
}

impl World {
    fn new() -> World {
        World::with(Settings::default(), 1_000)
    }

    fn with(settings: Settings, burst: u32) -> World {
        let now = Instant::now();
        World {
            moment: Moment { now, boottime_ms: 1, wall: None, ages_from: None },
            intake: Intake::new(&settings, &roles(), &[7; 32]),
            pipeline: Pipeline::fake(now, burst),
            refused: Vec::new(),
            joined: Default::default(),
            old: Default::default(),
        }
    }

    fn open(&mut self) -> ConnectionNumber {
        self.intake.handle_opened(self.moment.now, Source::default())
    }

    fn say(&mut self, client: ConnectionNumber, bytes: &[u8]) {
        self.intake.handle_bytes(&self.moment, client, bytes, &mut self.pipeline);
        self.route();
    }

    fn route(&mut self) {
        let mut completed = Vec::new();
        while let Some(event) = self.pipeline.poll_event() {
            match event {
                PipelineEvent::Completed { ticket: Ticket::Mqtt(ticket), stored } => {
                    completed.push((ticket, stored));
                }
                PipelineEvent::Refused { path, refusal, .. } => {
                    self.refused.push(format!("{path}: {:?}", refusal.reason()));
                }
                _ => {}
            }
        }
        for (ticket, stored) in completed {
            self.intake.handle_completion(&self.moment, ticket, stored, &mut self.pipeline);
        }
    }

    /// The journal commits, or fails, the oldest reading.
    fn commit(&mut self, stored: bool) {
        self.pipeline.store().answer(stored);
        while self.pipeline.handle_completion() {
            self.route();
        }
    }

    /// The packets sent to a client, each as its first byte and its body.
    fn heard(&mut self, client: ConnectionNumber) -> Vec<(u8, Vec<u8>)> {
        let mut bytes = Vec::new();
        self.intake.take_output(self.moment.now, client, &mut bytes);
        let mut packets = Vec::new();
        let mut rest = &bytes[..];
        while let [first, length, body @ ..] = rest {
            let (body, after) = body.split_at(usize::from(*length));
            packets.push((*first, body.to_vec()));
            rest = after;
        }
        packets
    }

    fn kinds(&mut self, client: ConnectionNumber) -> Vec<u8> {
        self.heard(client).into_iter().map(|(kind, _)| kind).collect()
    }

    fn is_closed(&mut self, client: ConnectionNumber) -> bool {
        self.intake.take_output(self.moment.now, client, &mut Vec::new()) == Next::Close
    }

    /// Goes from deadline to deadline.
    fn pass(&mut self, time: Duration) {
        let until = self.moment.now + time;
        while let Some(at) = self.intake.poll_timeout().filter(|at| *at <= until) {
            self.moment.now = self.moment.now.max(at);
            self.intake.handle_timeout(&self.moment, &mut self.pipeline);
            self.route();
        }
        self.moment.now = until;
    }

    fn connect(&mut self, hello: Hello<'_>) -> ConnectionNumber {
        let client = self.open();
        if !hello.five {
            self.old.insert(client);
        }
        self.say(client, &hello.bytes());
        client
    }

    /// A client that is connected; its CONNACK was heard.
    fn client(&mut self, hello: Hello<'_>) -> ConnectionNumber {
        let client = self.connect(hello);
        let heard = self.heard(client);
        assert_eq!((heard.len(), heard[0].0, heard[0].1[1]), (1, CONNACK, 0), "{heard:?}");
        client
    }

    /// Why connections ended.
    fn ended(&mut self) -> Vec<Ended> {
        let events = std::iter::from_fn(|| self.intake.poll_event());
        events
            .filter_map(|event| match event {
                Event::Disconnected { reason, .. } => Some(reason),
                _ => None,
            })
            .collect()
    }

    /// Topics of readings that were handed to the journal and are not answered.
    fn taken(&mut self) -> Vec<String> {
        self.pipeline.store().taken.iter().map(|(_, topic)| topic.clone()).collect()
    }
}

#[derive(Clone, Copy)]
struct Hello<'h> {
    five: bool,
    client_id: &'h str,
    username: Option<&'h str>,
    password: Option<&'h str>,
    clean: bool,
    keep_alive: u16,
    expiry: Option<u32>,
    receive_maximum: Option<u16>,
    will: Option<(&'h str, u32)>,
}

const HELLO: Hello<'_> = Hello {
    five: true,
    client_id: "c",
    username: Some("door-7"),
    password: Some("sesame"),
    clean: true,
    keep_alive: 0,
    expiry: None,
    receive_maximum: None,
    will: None,
};

const OLD: Hello<'_> = Hello { five: false, ..HELLO };

/// Of both versions.
const BOTH: [Hello<'_>; 2] = [HELLO, OLD];

impl Hello<'_> {
    fn bytes(&self) -> Vec<u8> {
        if self.five {
            let mut connect = v5_0::Connect::builder();
            connect = connect.client_id(self.client_id).unwrap().clean_start(self.clean);
            connect = connect.keep_alive(self.keep_alive);
            if let Some(username) = self.username {
                connect = connect.user_name(username).unwrap();
            }
            if let Some(password) = self.password {
                connect = connect.password(password).unwrap();
            }
            let mut properties = Vec::new();
            if let Some(expiry) = self.expiry {
                let expiry = mqtt::packet::SessionExpiryInterval::new(expiry).unwrap();
                properties.push(Property::SessionExpiryInterval(expiry));
            }
            if let Some(maximum) = self.receive_maximum {
                let maximum = mqtt::packet::ReceiveMaximum::new(maximum).unwrap();
                properties.push(Property::ReceiveMaximum(maximum));
            }
            connect = connect.props(properties);
            if let Some((topic, delay)) = self.will {
                connect = connect.will_message(topic, b"gone".to_vec(), Qos::AtLeastOnce, false).unwrap();
                let delay = mqtt::packet::WillDelayInterval::new(delay).unwrap();
                connect = connect.will_props(vec![Property::WillDelayInterval(delay)]);
            }
            return connect.build().unwrap().to_continuous_buffer();
        }
        let mut connect = v3_1_1::Connect::builder();
        connect = connect.client_id(self.client_id).unwrap().clean_session(self.clean);
        connect = connect.keep_alive(self.keep_alive);
        if let Some(username) = self.username {
            connect = connect.user_name(username).unwrap();
        }
        if let Some(password) = self.password {
            connect = connect.password(password).unwrap();
        }
        if let Some((topic, _)) = self.will {
            connect = connect.will_message(topic, b"gone".to_vec(), Qos::AtLeastOnce, false).unwrap();
        }
        connect.build().unwrap().to_continuous_buffer()
    }
}

/// A PUBLISH of either version; both have the same bytes but for the empty properties.
fn publish(five: bool, topic: &str, qos: Qos, id: u16, payload: &[u8]) -> Vec<u8> {
    if five {
        let mut publish =
            v5_0::Publish::builder().topic_name(topic).unwrap().qos(qos).payload(payload.to_vec());
        if qos != Qos::AtMostOnce {
            publish = publish.packet_id(id);
        }
        return publish.build().unwrap().to_continuous_buffer();
    }
    let mut publish =
        v3_1_1::Publish::builder().topic_name(topic).unwrap().qos(qos).payload(payload.to_vec());
    if qos != Qos::AtMostOnce {
        publish = publish.packet_id(id);
    }
    publish.build().unwrap().to_continuous_buffer()
}

/// A PUBLISH of either version with the retain flag and QoS 0.
fn retained(five: bool, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = publish(five, topic, Qos::AtMostOnce, 0, payload);
    bytes[0] |= 1;
    bytes
}

fn one(id: u16, topic: &str) -> Vec<u8> {
    publish(true, topic, Qos::AtLeastOnce, id, b"1")
}

fn two(id: u16, topic: &str) -> Vec<u8> {
    publish(true, topic, Qos::ExactlyOnce, id, b"1")
}

/// PUBREL, whose bytes both versions share.
fn pubrel(id: u16) -> Vec<u8> {
    vec![0x62, 2, (id >> 8) as u8, id as u8]
}

/// What a client hears whose connection is ended for this reason: 3.1.1 has no such DISCONNECT.
fn farewell(five: bool, code: u8) -> Vec<(u8, Vec<u8>)> {
    if five { vec![(DISCONNECT, vec![code])] } else { Vec::new() }
}

const PINGREQ: [u8; 2] = [0xC0, 0];
const GOODBYE: [u8; 2] = [0xE0, 0];

/// The packet id and the reason code of an acknowledgement.
fn acknowledged(packet: &(u8, Vec<u8>)) -> (u8, u16, u8) {
    let (kind, body) = packet;
    (*kind, u16::from_be_bytes([body[0], body[1]]), body.get(2).copied().unwrap_or_default())
}

#[test]
fn a_publish_is_acknowledged_after_its_commit_and_not_before() {
    for hello in [HELLO, OLD] {
        let mut world = World::new();
        let client = world.client(hello);
        world.say(client, &publish(hello.five, "t/env", Qos::AtLeastOnce, 7, b"21.5"));
        assert_eq!(world.taken(), ["tombolo/gw/door-7/up/t/env"]);
        assert!(world.heard(client).is_empty(), "nothing is promised before the commit");
        world.commit(true);
        assert_eq!(world.heard(client), [(PUBACK, vec![0, 7])]);
    }
}

#[test]
fn answers_keep_the_order_of_the_publishes_whatever_commits_first() {
    // 3.1.1 has no code for a denied publish: here it is acknowledged and dropped.
    for (five, denied) in [(true, 0x87), (false, 0)] {
        let settings = Settings { deny_on_311: DenyOn311::Drop, ..Settings::default() };
        let mut world = World::with(settings, 1_000);
        let client = world.client(Hello { five, ..HELLO });
        let one = |id, topic| publish(five, topic, Qos::AtLeastOnce, id, b"1");
        let third = publish(five, "t/c", Qos::ExactlyOnce, 3, b"1");
        let all = [one(1, "t/a"), one(2, "x/nobody"), third, one(4, "live/x"), one(5, "t/e")].concat();
        world.say(client, &all);
        assert!(world.heard(client).is_empty(), "a refusal waits for its turn too");
        world.pipeline.store().answer_newest();
        while world.pipeline.handle_completion() {
            world.route();
        }
        assert!(world.heard(client).is_empty());
        world.commit(true);
        let heard: Vec<_> = world.heard(client).iter().map(acknowledged).collect();
        assert_eq!(heard, [(PUBACK, 1, 0), (PUBACK, 2, denied)]);
        world.commit(true);
        let heard: Vec<_> = world.heard(client).iter().map(acknowledged).collect();
        assert_eq!(heard, [(PUBREC, 3, 0), (PUBACK, 4, 0), (PUBACK, 5, 0)]);
    }
}

#[test]
fn a_publish_of_qos_2_is_handed_on_once_whatever_is_repeated() {
    for five in [true, false] {
        let mut world = World::new();
        let two = |id, topic| publish(five, topic, Qos::ExactlyOnce, id, b"1");
        let kept = Hello { five, expiry: Some(3600), clean: false, ..HELLO };
        let client = world.client(kept);
        world.say(client, &two(9, "t/x"));
        world.say(client, &two(9, "t/x"));
        assert_eq!(world.taken().len(), 1);
        assert!(world.heard(client).is_empty(), "PUBREC only after the commit, whatever the library thinks");
        // The connection is lost before the commit, and the client comes back before it too.
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        let client = world.connect(kept);
        assert_eq!(world.heard(client)[0].1[..2], [1, 0], "session present");
        world.say(client, &two(9, "t/x"));
        assert!(world.heard(client).is_empty());
        world.commit(true);
        assert_eq!(world.heard(client), [(PUBREC, vec![0, 9])]);
        // Again after it was received, on a third connection.
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        let client = world.connect(kept);
        world.heard(client);
        world.say(client, &two(9, "t/x"));
        assert_eq!(world.heard(client), [(PUBREC, vec![0, 9])]);
        // And on the same one.
        world.say(client, &two(9, "t/x"));
        assert_eq!(world.heard(client), [(PUBREC, vec![0, 9])]);
        assert!(world.taken().is_empty());
        world.say(client, &pubrel(9));
        assert_eq!(world.heard(client), [(PUBCOMP, vec![0, 9])]);
        // Released: the id is free for another publish.
        world.say(client, &two(9, "t/x"));
        assert_eq!(world.taken().len(), 1);
        // Before PUBREC: it is not stored yet, which 3.1.1 has no code for.
        world.say(client, &pubrel(9));
        let early = if five { 0x92 } else { 0 };
        let heard: Vec<_> = world.heard(client).iter().map(acknowledged).collect();
        assert_eq!(heard, [(PUBCOMP, 9, early)]);
        // One whose PUBCOMP was lost, or whose PUBREC came before a restart: it is stored, and for
        // 0x92 its client would report a failed publish.
        world.say(client, &pubrel(11));
        assert_eq!(world.heard(client), [(PUBCOMP, vec![0, 11])]);
    }
}

#[test]
fn a_failed_commit_is_never_acknowledged() {
    let mut world = World::new();
    let client = world.client(HELLO);
    world.say(client, &[one(1, "t/x"), two(2, "t/x")].concat());
    world.commit(false);
    world.commit(false);
    let heard: Vec<_> = world.heard(client).iter().map(acknowledged).collect();
    assert_eq!(heard, [(PUBACK, 1, 0x97), (PUBREC, 2, 0x97)]);
    // The id of the failed one is free again.
    world.say(client, &two(2, "t/x"));
    assert_eq!(world.taken().len(), 1);
    let old = world.client(Hello { client_id: "old", ..OLD });
    world.say(old, &publish(false, "t/x", Qos::AtLeastOnce, 1, b"1"));
    world.commit(true);
    world.commit(false);
    assert!(world.heard(old).is_empty() && world.is_closed(old), "3.1.1 can only be told by closing");
}

#[test]
fn each_refusal_has_its_code() {
    let mut world = World::with(Settings::default(), 2);
    let client = world.client(HELLO);
    let large = publish(true, "t/x", Qos::AtLeastOnce, 3, &vec![b'x'; 65_537]);
    world.say(client, &[one(1, "nowhere"), one(2, "t//x"), large, one(4, "time"), one(5, "t/x")].concat());
    world.pipeline.store().refuses = Some(Refused::LaneFull);
    world.say(client, &one(6, "t/x"));
    world.pipeline.store().refuses = None;
    world.say(client, &[one(7, "t/x"), one(8, "t/x")].concat());
    world.commit(true);
    world.commit(true);
    let heard: Vec<_> = world.heard(client).iter().map(acknowledged).collect();
    let expected = [
        (PUBACK, 1, 0x87),
        (PUBACK, 2, 0x90),
        (PUBACK, 3, 0x97),
        (PUBACK, 4, 0x87),
        (PUBACK, 5, 0),
        (PUBACK, 6, 0x97),
        (PUBACK, 7, 0),
        (PUBACK, 8, 0x97),
    ];
    assert_eq!(heard, expected);
    assert_eq!(
        world.refused,
        ["nowhere: NoRule", "t//x: Malformed", "t/x: TooLarge", "time: Reserved", "t/x: OverQuota"]
    );
    // QoS 0 has no answer, and costs nobody the connection.
    world.say(client, &publish(true, "nowhere", Qos::AtMostOnce, 0, b"1"));
    assert!(world.heard(client).is_empty() && !world.is_closed(client));
}

#[test]
fn a_denied_publish_closes_a_connection_of_3_1_1_unless_it_is_to_be_dropped() {
    let mut world = World::new();
    let client = world.client(OLD);
    world.say(client, &publish(false, "nowhere", Qos::AtLeastOnce, 1, b"1"));
    assert!(world.heard(client).is_empty() && world.is_closed(client));
    assert_eq!(world.ended(), [Ended::Denied("no rule")]);
    // It is nothing to tell before it comes back with it, and is gone when that has stopped.
    for times in 1..=2 {
        let told: Vec<u32> = world.intake.denied_again(world.moment.now).map(|(_, times)| times).collect();
        assert!(told.is_empty(), "{times}");
        let client = world.client(OLD);
        world.say(client, &publish(false, "nowhere", Qos::AtLeastOnce, 1, b"1"));
    }
    let told = |world: &World| world.intake.denied_again(world.moment.now).map(|(_, times)| times).next();
    assert_eq!(told(&world), Some(3));
    world.pass(Duration::from_secs(300));
    assert_eq!(told(&world), None);
    let client = world.client(OLD);
    world.say(client, &publish(false, "nowhere", Qos::AtLeastOnce, 1, b"1"));
    assert_eq!(told(&world), None, "the count begins anew");
    // Others that come once each with another publish send nothing again.
    for id in 2..=4 {
        let client = world.client(OLD);
        world.say(client, &publish(false, "nowhere", Qos::AtLeastOnce, id, b"1"));
    }
    assert_eq!(told(&world), None);
    // It got past what was refused.
    for _ in 1..=3 {
        let client = world.client(OLD);
        world.say(client, &publish(false, "nowhere", Qos::AtLeastOnce, 9, b"1"));
    }
    assert_eq!(told(&world), Some(3));
    let client = world.client(OLD);
    world.say(client, &publish(false, "t/x", Qos::AtLeastOnce, 10, b"1"));
    world.commit(true);
    assert_eq!(told(&world), None);
    let mut world = World::with(Settings { deny_on_311: DenyOn311::Drop, ..Settings::default() }, 1);
    let client = world.client(OLD);
    world.say(client, &publish(false, "nowhere", Qos::AtLeastOnce, 1, b"1"));
    assert_eq!(world.heard(client), [(PUBACK, vec![0, 1])]);
    assert_eq!(world.pipeline.counters.value(Counter::RefusedNoRule), 1);
    assert_eq!(world.intake.denied_again(world.moment.now).count(), 0);
    // What may pass later is not dropped.
    world.say(client, &publish(false, "t/x", Qos::AtLeastOnce, 2, b"1"));
    world.say(client, &publish(false, "t/x", Qos::AtLeastOnce, 3, b"1"));
    world.commit(true);
    assert_eq!(world.heard(client), [(PUBACK, vec![0, 2])]);
    assert!(world.is_closed(client));
}

#[test]
fn nobody_is_anonymous_and_a_wrong_password_is_answered_late() {
    for (hello, code, old_code) in [
        (Hello { username: None, password: None, ..HELLO }, 0x87, 5),
        (Hello { password: Some("wrong"), ..HELLO }, 0x86, 4),
        (Hello { username: Some("nobody"), ..HELLO }, 0x86, 4),
        (Hello { password: None, ..HELLO }, 0x87, 5),
    ] {
        for five in [true, false] {
            let mut world = World::new();
            let client = world.connect(Hello { five, ..hello });
            world.say(client, &publish(five, "t/x", Qos::AtLeastOnce, 1, b"1"));
            world.pass(Duration::from_millis(900));
            assert!(world.heard(client).is_empty() && world.taken().is_empty());
            world.pass(Duration::from_millis(200));
            let heard = world.heard(client);
            assert_eq!((heard[0].0, heard[0].1[1]), (CONNACK, if five { code } else { old_code }));
            assert_eq!((heard.len(), heard[0].1[0]), (1, 0), "no session is present");
            assert!(world.is_closed(client) && world.taken().is_empty());
            assert_eq!(world.pipeline.counters.value(Counter::MqttConnectsRefused), 1);
            let last = world.intake.last_refused_connect().expect("one");
            let is_of_device = hello.username == HELLO.username;
            assert_eq!((last.username.as_deref(), last.device.is_some()), (hello.username, is_of_device));
        }
    }
}

#[test]
fn a_stranger_gets_little_room_and_little_time() {
    let mut world = World::new();
    let silent = world.open();
    world.say(silent, &HELLO.bytes()[..5]);
    world.pass(CONNECT_WITHIN);
    assert!(world.heard(silent).is_empty() && world.is_closed(silent));
    // A CONNECT longer than the bound is refused by its header.
    let long = world.open();
    let length = CONNECT_MAX + 1;
    world.say(long, &[0x10, (length % 128) as u8 | 0x80, (length / 128 % 128) as u8 | 0x80, 1]);
    assert!(world.heard(long).is_empty() && world.is_closed(long));
    let (five, old) = (one(1, "t/x"), publish(false, "t/x", Qos::AtLeastOnce, 1, b"1"));
    let endless = [0x10, 0xff, 0xff, 0xff, 0xff];
    for first in [&five[..], &old, &PINGREQ, &GOODBYE, b"GET / HTTP/1.1\r\n\r\n", &endless] {
        let client = world.open();
        world.say(client, first);
        assert!(world.heard(client).is_empty(), "no DISCONNECT before a CONNACK: {first:?}");
        assert!(world.is_closed(client), "{first:?}");
    }
    assert!(world.taken().is_empty());
}

#[test]
fn another_version_is_told_so() {
    let mut world = World::new();
    let client = world.open();
    let mut hello = OLD.bytes();
    hello[8] = 6;
    world.say(client, &hello);
    assert_eq!(world.heard(client), [(CONNACK, vec![0, 1])]);
    assert!(world.is_closed(client));
}

#[test]
fn a_second_connection_with_the_client_id_takes_the_session_over() {
    for five in [true, false] {
        let mut world = World::new();
        let hello = Hello { five, expiry: Some(60), clean: false, ..HELLO };
        let first = world.client(Hello { will: Some(("t/will", 30)), ..hello });
        let second = world.client(hello);
        assert_eq!(world.heard(first), farewell(five, 0x8E));
        assert!(world.is_closed(first) && !world.is_closed(second));
        assert_eq!(world.ended(), [Ended::TakenOver]);
        world.pass(Duration::from_secs(60));
        let wills = usize::from(!five);
        assert_eq!(
            world.taken().len(),
            wills,
            "put off until after the client came back; 3.1.1 has no delay"
        );
        // The late news of the first connection's end changes nothing.
        world.intake.handle_closed(&world.moment, first, &mut world.pipeline);
        world.say(second, &PINGREQ);
        assert_eq!(world.kinds(second), [PINGRESP]);
        assert_eq!((world.intake.counts(), world.taken().len()), ((1, 0), wills));
    }
}

#[test]
fn a_client_that_falls_silent_is_disconnected_after_one_and_a_half_keep_alives() {
    for five in [true, false] {
        let mut world = World::new();
        let client = world.client(Hello { five, keep_alive: 20, ..HELLO });
        let idle = world.client(Hello { five, client_id: "idle", ..HELLO });
        for _ in 0..5 {
            world.pass(Duration::from_secs(29));
            world.say(client, &PINGREQ);
            assert_eq!(world.kinds(client), [PINGRESP]);
        }
        world.pass(Duration::from_secs(31));
        assert_eq!(world.heard(client), farewell(five, 0x8D));
        assert!(world.is_closed(client));
        world.pass(Duration::from_secs(86_400));
        assert!(!world.is_closed(idle), "keep-alive 0 switches it off");
    }
}

#[test]
fn the_will_is_published_unless_the_client_says_goodbye() {
    for five in [true, false] {
        let will = Hello { five, will: Some(("t/will", 0)), ..HELLO };
        let mut world = World::new();
        let client = world.client(will);
        world.say(client, &GOODBYE);
        assert!(world.is_closed(client) && world.taken().is_empty());
        // With the connection, and where a DISCONNECT of MQTT 5 asks for it.
        for goodbye in [None, Some(&[0xE0, 1, 4])].into_iter().take(if five { 2 } else { 1 }) {
            let client = world.client(will);
            match goodbye {
                Some(bytes) => world.say(client, bytes),
                None => world.intake.handle_closed(&world.moment, client, &mut world.pipeline),
            }
            assert_eq!(world.taken(), ["tombolo/gw/door-7/up/t/will"]);
            world.commit(true);
            world.pass(Duration::from_secs(86_400));
            assert!(world.taken().is_empty(), "it is gone once it is published");
        }
        // Also where its session goes on, to its end or until the client comes back.
        let kept = Hello { clean: false, expiry: Some(7_200), ..will };
        let client = world.client(kept);
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        assert_eq!(world.taken().len(), 1);
        world.commit(true);
        world.pass(Duration::from_secs(700_000));
        assert!((world.taken().is_empty(), world.intake.counts()) == (true, (0, 0)));
        let client = world.client(kept);
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        assert_eq!(world.taken().len(), 1);
        world.commit(true);
        let client = world.connect(Hello { will: None, ..kept });
        assert_eq!(world.heard(client)[0].1[..2], [1, 0], "session present");
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        world.pass(Duration::from_secs(700_000));
        assert!((world.taken().is_empty(), world.intake.counts()) == (true, (0, 0)));
        // A will that no rule allows is refused as every publish, and one with no valid topic at
        // once.
        let client = world.client(Hello { will: Some(("nowhere", 0)), ..will });
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        world.route();
        assert_eq!(world.refused, ["nowhere: NoRule"]);
        let long = "x/".repeat(600);
        let client = world.connect(Hello { will: Some((&long, 0)), ..will });
        world.pass(Duration::from_secs(2));
        assert_eq!(world.heard(client)[0].1[1], if five { 0x90 } else { 5 });
    }
    // No later than the session's end, whatever its delay.
    let mut world = World::new();
    let delayed = Hello { will: Some(("t/will", 3_600)), expiry: Some(60), ..HELLO };
    let client = world.client(delayed);
    world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
    world.pass(Duration::from_secs(59));
    assert!(world.taken().is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.taken().len(), 1);
    assert_eq!(world.intake.counts(), (0, 0));
}

#[test]
fn a_session_ends_when_it_expires() {
    // One of 3.1.1 that is not clean has the longest time that any has.
    for (five, lasts) in [(true, 60), (false, 604_800)] {
        let mut world = World::new();
        let kept = Hello { five, expiry: Some(60), clean: false, ..HELLO };
        for (away, present) in [(lasts - 1, 1), (lasts + 1, 0)] {
            let client = world.client(kept);
            world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
            world.pass(Duration::from_secs(away));
            let client = world.connect(kept);
            assert_eq!(world.heard(client)[0].1[0], present, "after {away} s");
            world.say(client, &GOODBYE);
        }
    }
    // Longer than the listener keeps any: the client is told.
    let mut world = World::new();
    let client = world.connect(Hello { expiry: Some(u32::MAX), ..HELLO });
    let connack = world.heard(client).remove(0).1;
    let week = 604_800u32.to_be_bytes();
    assert!(connack.windows(5).any(|window| window == [&[0x11][..], &week].concat()), "{connack:?}");
}

#[test]
fn a_device_has_its_sessions_and_takes_no_other_places() {
    for five in [true, false] {
        let mut world = World::with(Settings { max_clients: 5, ..Settings::default() }, 9);
        let clients: Vec<_> =
            ["a", "b", "c", "d"].map(|id| world.client(Hello { five, client_id: id, ..HELLO })).into();
        let fifth = world.client(Hello { five, client_id: "e", ..HELLO });
        assert_eq!(world.heard(clients[0]), farewell(five, 0x97), "its own oldest");
        assert!(world.is_closed(clients[0]) && !world.is_closed(clients[1]) && !world.is_closed(fifth));
        assert_eq!(world.intake.counts(), (4, 0));
        let mut world = World::with(Settings { max_clients: 2, ..Settings::default() }, 9);
        for id in ["a", "b"] {
            world.client(Hello { five, client_id: id, ..HELLO });
        }
        let late = world.connect(Hello { five, client_id: "c", ..HELLO });
        world.pass(Duration::from_secs(2));
        let code = if five { ConnectReasonCode::QuotaExceeded as u8 } else { 3 };
        assert_eq!(world.heard(late)[0].1[1], code);
        world.client(Hello { five, client_id: "a", ..HELLO });
    }
}

#[test]
fn more_publishes_than_the_receive_maximum_wait_until_earlier_ones_are_answered() {
    for (five, repeated) in [(true, false), (true, true), (false, false)] {
        let mut world = World::new();
        let client = world.client(Hello { five, ..HELLO });
        let most = usize::from(RECEIVE_MAXIMUM);
        let ids = 1..=RECEIVE_MAXIMUM + 7;
        let all = ids.map(|id| publish(five, "t/x", Qos::AtLeastOnce, if repeated { 1 } else { id }, b"1"));
        world.say(client, &all.collect::<Vec<_>>().concat());
        assert_eq!(world.taken().len(), most);
        assert_eq!(
            world.intake.take_output(world.moment.now, client, &mut Vec::new()),
            Next::Wait,
            "nothing more is read"
        );
        world.commit(true);
        assert_eq!((world.taken().len(), world.kinds(client)), (most, vec![PUBACK]));
        for _ in 0..most + 6 {
            world.commit(true);
        }
        assert_eq!(world.intake.take_output(world.moment.now, client, &mut Vec::new()), Next::Read);
        assert!(world.taken().is_empty() && !world.is_closed(client));
    }
    // Ids of QoS 2 that are never released are bounded.
    for five in [true, false] {
        let mut world = World::with(Settings::default(), 10_000);
        let client = world.client(Hello { five, ..HELLO });
        let two = |id| publish(five, "t/x", Qos::ExactlyOnce, id, b"1");
        for id in 1..=RECEIVED_MAX as u16 {
            world.say(client, &two(id));
            world.commit(true);
        }
        world.heard(client);
        world.say(client, &two(5_000));
        let code = DisconnectReasonCode::ReceiveMaximumExceeded as u8;
        assert_eq!(world.heard(client), farewell(five, code));
        assert!(world.is_closed(client) && world.taken().is_empty());
    }
}

#[test]
fn packets_and_topics_over_the_bounds_close_the_connection() {
    for hello in BOTH {
        let mut world = World::new();
        let client = world.client(hello);
        let payload = vec![0; PACKET_MAX];
        world.say(client, &publish(hello.five, "t/x", Qos::AtLeastOnce, 1, &payload)[..100]);
        assert_eq!(world.heard(client), farewell(hello.five, 0x95));
        assert!(world.is_closed(client));
        let client = world.client(hello);
        world.say(client, &publish(hello.five, &"x".repeat(1_025), Qos::AtLeastOnce, 1, b"1"));
        assert_eq!(world.heard(client), farewell(hello.five, 0x90));
        assert!(world.is_closed(client));
    }
}

/// A PUBLISH of QoS 1 with a topic alias; with an empty topic that of the alias is meant.
fn aliased(topic: &str, alias: u16, id: u16) -> Vec<u8> {
    let alias = mqtt::packet::TopicAlias::new(alias).unwrap();
    let mut publish = v5_0::Publish::builder().qos(Qos::AtLeastOnce).packet_id(id).payload(b"1".to_vec());
    if !topic.is_empty() {
        publish = publish.topic_name(topic).unwrap();
    }
    publish.props(vec![Property::TopicAlias(alias)]).build().unwrap().to_continuous_buffer()
}

#[test]
fn a_topic_alias_stands_for_its_topic_and_an_unknown_one_closes() {
    let mut world = World::new();
    let client = world.client(HELLO);
    world.say(
        client,
        &[aliased("t/a", 1, 1), aliased("", 1, 2), aliased("t/b", 1, 3), aliased("", 1, 4)].concat(),
    );
    let up = |path: &str| format!("tombolo/gw/door-7/up/{path}");
    assert_eq!(world.taken(), [up("t/a"), up("t/a"), up("t/b"), up("t/b")]);
    // All up to the maximum of CONNACK, at the same time.
    for alias in 1..=16 {
        world.say(client, &aliased(&format!("t/{alias}"), alias, 10 + alias));
    }
    for alias in 1..=16 {
        world.say(client, &aliased("", alias, 30 + alias));
    }
    let all = (1..=16).map(|alias| up(&format!("t/{alias}")));
    assert_eq!(world.taken()[4..], [all.clone().collect::<Vec<_>>(), all.collect()].concat());
    assert!(!world.is_closed(client));
    world.say(client, &aliased("t/c", 17, 5));
    assert_eq!(world.heard(client), [(DISCONNECT, vec![0x94])]);
    assert!(world.is_closed(client));
}

#[test]
fn a_topic_alias_ends_with_its_connection_and_is_no_other_clients() {
    let mut world = World::new();
    let kept = Hello { clean: false, expiry: Some(3_600), ..HELLO };
    let client = world.client(kept);
    world.say(client, &aliased("t/a", 1, 1));
    world.commit(true);
    let other = world.client(Hello { client_id: "other", ..HELLO });
    world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
    let again = world.connect(kept);
    assert_eq!(world.heard(again)[0].1[..2], [1, 0], "session present");
    for client in [other, again] {
        world.say(client, &aliased("", 1, 2));
        let heard = world.heard(client);
        assert!(
            matches!(heard[..], [(DISCONNECT, ref body)] if [0x82, 0x94].contains(&body[0])),
            "{heard:?}"
        );
        assert!(world.is_closed(client) && world.taken().is_empty());
    }
}

#[test]
fn a_subscription_is_granted_where_a_downlink_rule_of_the_device_leads() {
    let subscribe = |five: bool, filters: &[&str]| {
        let entries = filters
            .iter()
            .map(|filter| SubEntry::new(*filter, SubOpts::new().set_qos(Qos::AtLeastOnce)).unwrap());
        let entries = entries.collect::<Vec<_>>();
        if five {
            v5_0::Subscribe::builder().packet_id(3).entries(entries).build().unwrap().to_continuous_buffer()
        } else {
            v3_1_1::Subscribe::builder().packet_id(3).entries(entries).build().unwrap().to_continuous_buffer()
        }
    };
    let filters = ["set/led", "set/#", "#", "other/#", "a#", "tombolo/gw/door-8/#"];
    for (five, expected) in
        [(true, vec![1, 1, 1, 0x87, 0x8F, 0x87]), (false, vec![1, 1, 1, 0x80, 0x80, 0x80])]
    {
        let mut world = World::new();
        let client = world.client(Hello { five, ..HELLO });
        world.say(client, &subscribe(five, &filters));
        let heard = world.heard(client);
        assert_eq!(heard[0].0, SUBACK);
        assert_eq!(heard[0].1[if five { 3 } else { 2 }..], expected);
    }
    let mut world = World::new();
    let client = world.client(HELLO);
    world.say(client, &subscribe(true, &["$share/g/set/led"]));
    assert_eq!(world.heard(client)[0].1[3], 0x9E);
}

#[test]
fn a_removed_device_is_cut_off_and_others_stay() {
    for five in [true, false] {
        let mut world = World::new();
        let hello = Hello { five, expiry: Some(60), clean: false, will: Some(("t/will", 0)), ..HELLO };
        let client = world.client(hello);
        world.intake.review(&world.moment, &mut world.pipeline);
        assert!(!world.is_closed(client), "nothing changed for it");
        let gateway = world.pipeline.gate.gateway().clone();
        let empty = crate::gate::Settings::empty(gateway);
        world.pipeline.gate.replace(empty, world.moment.now);
        world.intake.review(&world.moment, &mut world.pipeline);
        assert_eq!(world.heard(client), farewell(five, 0x87));
        assert!(world.is_closed(client) && world.taken().is_empty(), "nor does it leave a will");
        assert_eq!(world.intake.counts(), (0, 0));
    }
}

/// A world whose device has a password that is costly to verify.
fn costly() -> World {
    let mut world = World::new();
    world.pipeline.gate.replace(costly_settings(), world.moment.now);
    world
}

fn costly_settings() -> crate::gate::Settings {
    let rule = |path: &str| {
        crate::gate::UplinkRule::new(name("t"), crate::gate::pattern::Pattern::parse(path).unwrap())
    };
    let role = Role { uplink: vec![rule("t/#")], downlink: Vec::new(), ..roles().remove(0) };
    let device = |id: &str| Device {
        login: Some(Box::new(Login {
            username: id.to_owned(),
            // Never verified here: the shell does, and the tests stand in for it.
            password: PasswordHash::parse(
                "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            )
            .unwrap(),
        })),
        ..Device::new(name(id), name("sensor"))
    };
    crate::gate::Settings {
        gateway: name("gw"),
        prefix: "tombolo/gw".to_owned(),
        reading: Some(crate::gate::template::Template::parse("{prefix}/{device}/up/{path}").unwrap()),
        own: Default::default(),
        reply: None,
        roles: vec![role],
        devices: vec![device("cam-1").into(), device("cam-2").into()],
        fleets: Vec::new(),
        withheld: Default::default(),
    }
}

#[test]
fn costly_passwords_are_verified_one_at_a_time_and_known_ones_never_again() {
    for (five, wrong_code, damped_code) in
        [(true, 0x86, ConnectReasonCode::ConnectionRateExceeded as u8), (false, 4, 3)]
    {
        let mut world = costly();
        let hello = Hello { five, username: Some("cam-1"), password: Some("right"), ..HELLO };
        let one_client = world.connect(hello);
        world.say(one_client, &publish(five, "t/early", Qos::AtLeastOnce, 1, b"1"));
        let other = world.connect(Hello { username: Some("cam-2"), client_id: "d", ..hello });
        assert!(world.intake.poll_verification().is_some());
        assert!(world.intake.poll_verification().is_none(), "the other waits");
        assert!(world.heard(one_client).is_empty() && world.taken().is_empty());
        world.intake.handle_verified(&world.moment, true, &mut world.pipeline);
        assert_eq!(world.kinds(one_client), [CONNACK]);
        assert_eq!(world.taken(), ["tombolo/gw/cam-1/up/t/early"], "what came before the CONNACK is handled");
        assert!(world.intake.poll_verification().is_some());
        world.intake.handle_verified(&world.moment, false, &mut world.pipeline);
        world.pass(Duration::from_secs(2));
        assert_eq!(world.heard(other)[0].1[1], wrong_code);
        // Known from now on, however many strangers guess.
        let again = world.client(hello);
        assert!(!world.is_closed(again) && world.intake.poll_verification().is_none());
        let wrong = Hello { password: Some("wrong"), ..hello };
        for _ in 0..5 {
            world.connect(wrong);
            assert!(world.intake.poll_verification().is_some());
            world.intake.handle_verified(&world.moment, false, &mut world.pipeline);
        }
        let damped = world.connect(wrong);
        assert!(world.intake.poll_verification().is_none(), "the account has to pause");
        world.pass(Duration::from_secs(2));
        assert_eq!(world.heard(damped)[0].1[1], damped_code);
        world.client(hello);
        world.connect(wrong);
        assert!(world.intake.poll_verification().is_some(), "after the pause it may try again");
    }
}

#[test]
fn a_client_that_leaves_while_its_password_is_verified_is_forgotten() {
    for five in [true, false] {
        let mut world = costly();
        let hello = Hello { five, username: Some("cam-1"), password: Some("right"), ..HELLO };
        let client = world.connect(hello);
        let waiting = world.connect(Hello { client_id: "d", password: Some("x"), ..hello });
        assert!(world.intake.poll_verification().is_some());
        for gone in [client, waiting] {
            world.intake.handle_closed(&world.moment, gone, &mut world.pipeline);
        }
        world.intake.handle_verified(&world.moment, true, &mut world.pipeline);
        assert!(world.intake.poll_verification().is_none());
        assert_eq!(world.intake.counts(), (0, 0));
    }
}

#[test]
fn bytes_of_every_kind_neither_panic_nor_pass() {
    let mut chance = crate::splitmix::SplitMix64::new(16);
    let good = [one(1, "t/x"), two(2, "t/y"), pubrel(2), PINGREQ.to_vec(), one(3, "nowhere")].concat();
    // Every property of a CONNECT.
    let rich = Hello { expiry: Some(9), receive_maximum: Some(2), will: Some(("t/will", 1)), ..HELLO };
    let aliases = [0x22, 0, 3, 0x27, 0, 1, 0, 0, 0x19, 1, 0x17, 1, 0x26, 0, 1, b'a', 0, 1, b'b'];
    let mut rich = rich.bytes();
    rich[1] += aliases.len() as u8;
    rich[12] += aliases.len() as u8;
    rich.splice(13..13, aliases);
    for round in 0..4_000 {
        let mut world = World::new();
        let hello = if round % 2 == 0 { HELLO } else { OLD };
        let hello = if round % 8 == 4 { rich.clone() } else { hello.bytes() };
        let mut bytes = [hello.clone(), good.clone()].concat();
        let identified = round % 4 < 2 && round % 8 != 4;
        let from = if identified { hello.len() } else { 0 };
        for _ in 0..1 + chance.below(4) {
            let at = from + chance.below((bytes.len() - from) as u64) as usize;
            match chance.below(3) {
                0 => bytes[at] = chance.next_u64() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, chance.next_u64() as u8),
            }
        }
        let client = world.open();
        // In pieces of any length.
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + chance.below(40) as usize).min(rest.len()));
            world.say(client, piece);
            rest = after;
        }
        while !world.taken().is_empty() {
            world.commit(chance.below(4) > 0);
        }
        world.pass(Duration::from_secs(100_000));
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        assert_eq!(world.intake.counts().0, 0);
    }
}

/// A world with these local rules, and mirroring.
fn local(mirror: Option<&str>) -> World {
    let local = local_rules();
    World::with(Settings { local, mirror: mirror.map(str::to_owned), ..Settings::default() }, 100)
}

fn local_rules() -> Vec<(Name, super::bus::LocalRules)> {
    let rule = |topic: &str, deny| super::bus::LocalRule {
        from: None,
        content_formats: Vec::new(),
        filter: Default::default(),
        name: name(if deny { "not" } else { "home" }),
        topic: topic.to_owned(),
        deny,
        grant: super::bus::Grant::ALL,
    };
    let rules = super::bus::LocalRules {
        publish: vec![rule("home/{device}/#", false), rule("t/#", false)],
        subscribe: vec![rule("home/#", false), rule("+/t/#", false), rule("home/+/secret", true)],
    };
    vec![(name("sensor"), rules)]
}

fn subscribe(filter: &str, options: SubOpts) -> Vec<u8> {
    subscribe_in(true, filter, options)
}

/// A SUBSCRIBE of either version; of these options 3.1.1 has the QoS alone.
fn subscribe_in(five: bool, filter: &str, options: SubOpts) -> Vec<u8> {
    let entries = vec![SubEntry::new(filter, options).unwrap()];
    if five {
        return v5_0::Subscribe::builder()
            .packet_id(3)
            .entries(entries)
            .build()
            .unwrap()
            .to_continuous_buffer();
    }
    v3_1_1::Subscribe::builder().packet_id(3).entries(entries).build().unwrap().to_continuous_buffer()
}

impl World {
    /// Does what the bus does: carries each message to all that joined.
    fn carry(&mut self) {
        while let Some(request) = self.intake.poll_bus() {
            match request {
                super::BusRequest::Join(session) => drop(self.joined.insert(session)),
                super::BusRequest::Leave(session) => drop(self.joined.remove(&session)),
                super::BusRequest::Publish(bytes) => {
                    for session in self.joined.clone() {
                        let (now, counters) = (self.moment.now, &mut self.pipeline.counters);
                        self.intake.handle_bus(now, session, &[&bytes], 0, counters);
                    }
                }
            }
        }
    }

    /// Topics and payloads of the publishes that a client gets, and whether each is retained.
    fn received(&mut self, client: ConnectionNumber) -> Vec<(String, String, bool)> {
        self.carry();
        let five = !self.old.contains(&client);
        let publishes = self.heard(client).into_iter().filter(|(kind, _)| kind >> 4 == 3);
        let read = |(kind, body): (u8, Vec<u8>)| {
            let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let (topic, rest) = body[2..].split_at(length);
            let rest = if kind & 6 == 0 { rest } else { &rest[2..] };
            let payload = if five { &rest[1 + usize::from(rest[0])..] } else { rest };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(topic), text(payload), kind & 1 == 1)
        };
        publishes.map(read).collect()
    }
}

fn got(topic: &str, payload: &str, retain: bool) -> (String, String, bool) {
    (topic.to_owned(), payload.to_owned(), retain)
}

#[test]
fn a_message_that_no_uplink_rule_is_for_goes_to_local_subscribers() {
    for five in [true, false] {
        let settings = Settings { local: local_rules(), deny_on_311: DenyOn311::Drop, ..Settings::default() };
        let mut world = World::with(settings, 100);
        let one = |id, topic| publish(five, topic, Qos::AtLeastOnce, id, b"1");
        let sender = world.client(Hello { five, ..HELLO });
        let receiver = world.client(Hello { five, client_id: "r", ..HELLO });
        world.say(receiver, &subscribe_in(five, "home/#", SubOpts::new().set_qos(Qos::ExactlyOnce)));
        let granted = if five { vec![0, 3, 0, 2] } else { vec![0, 3, 2] };
        assert_eq!(world.heard(receiver), [(SUBACK, granted)]);
        world.say(sender, &[one(1, "home/door-7/lamp"), one(2, "home/other/lamp"), one(3, "t/x")].concat());
        let acknowledgements: Vec<_> = world.heard(sender).iter().map(acknowledged).collect();
        let denied = if five { 0x87 } else { 0 };
        assert_eq!(acknowledgements, [(PUBACK, 1, 0), (PUBACK, 2, denied)]);
        assert_eq!(world.received(receiver), [got("home/door-7/lamp", "1", false)]);
        assert_eq!(world.taken(), ["tombolo/gw/door-7/up/t/x"], "an uplink rule comes first");
        // A deny rule holds back what a wider filter was granted for.
        world.say(sender, &one(4, "home/door-7/secret"));
        assert!(world.received(receiver).is_empty());
        // Once for a client, however many of its filters match; its own too, unless it wants none.
        world.say(receiver, &subscribe_in(five, "home/+/lamp", SubOpts::new().set_nl(five)));
        world.say(receiver, &one(5, "home/door-7/lamp"));
        assert_eq!(world.received(receiver).len(), 1);
        world.intake.handle_closed(&world.moment, receiver, &mut world.pipeline);
        world.say(sender, &one(6, "home/door-7/lamp"));
        world.carry();
        assert!(world.joined.is_empty(), "a client that is gone leaves the bus");
    }
}

#[test]
fn a_will_that_no_uplink_rule_is_for_goes_to_local_subscribers() {
    for five in [true, false] {
        let mut world = local(None);
        let receiver = world.client(Hello { five, client_id: "r", ..HELLO });
        world.say(receiver, &subscribe_in(five, "home/#", SubOpts::new()));
        world.heard(receiver);
        for (topic, expected) in [("home/door-7/state", 1), ("home/other/state", 0)] {
            let client = world.client(Hello { five, will: Some((topic, 0)), ..HELLO });
            world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
            assert_eq!(world.received(receiver).len(), expected, "{topic}");
        }
        world.route();
        assert_eq!(world.refused, ["home/other/state: NoRule"]);
        assert!(world.taken().is_empty());
    }
}

#[test]
fn retained_local_messages_begin_a_subscription_and_an_empty_one_deletes_them() {
    for five in [true, false] {
        let mut world = local(None);
        let client = world.client(Hello { five, ..HELLO });
        let retained = |topic, payload| retained(five, topic, payload);
        let subscribe = |filter, options| subscribe_in(five, filter, options);
        world.say(
            client,
            &[retained("home/door-7/lamp", b"on"), retained("home/door-7/fan", b"off")].concat(),
        );
        world.say(client, &subscribe("home/+/lamp", SubOpts::new()));
        assert_eq!(world.received(client), [got("home/door-7/lamp", "on", true)]);
        // As it comes, it is no retained message, unless the subscription asks for the flag.
        world.say(client, &retained("home/door-7/lamp", b"dim"));
        assert_eq!(world.received(client), [got("home/door-7/lamp", "dim", false)]);
        world.say(client, &subscribe("home/+/lamp", SubOpts::new()));
        assert_eq!(
            world.received(client),
            [got("home/door-7/lamp", "dim", true)],
            "the one before is replaced"
        );
        if five {
            let none = mqtt::packet::RetainHandling::DoNotSendRetained;
            world.say(client, &subscribe("home/+/lamp", SubOpts::new().set_rap(true).set_rh(none)));
        }
        world.say(client, &retained("home/door-7/lamp", b""));
        assert_eq!(world.received(client), [got("home/door-7/lamp", "", five)]);
        world.say(client, &publish(five, "home/door-7/fan", Qos::AtMostOnce, 0, b""));
        world.say(client, &subscribe("home/#", SubOpts::new()));
        assert_eq!(
            world.received(client),
            [got("home/door-7/fan", "off", true), got("home/door-7/fan", "", false)],
            "an empty message without retain deletes nothing"
        );
    }
}

#[test]
fn a_rule_may_grant_neither_retain_nor_qos_1() {
    for five in [true, false] {
        let mut local = local_rules();
        local[0].1.publish[0].grant = super::bus::Grant { retain: false, qos: 0 };
        let mut world = World::with(Settings { local, ..Settings::default() }, 100);
        let client = world.client(Hello { five, ..HELLO });
        let options = SubOpts::new().set_qos(Qos::AtLeastOnce).set_rap(five);
        world.say(client, &subscribe_in(five, "home/+/lamp", options));
        world.heard(client);
        let mut message = publish(five, "home/door-7/lamp", Qos::AtLeastOnce, 1, b"on");
        message[0] |= 1;
        world.say(client, &message);
        world.carry();
        let heard = world.heard(client);
        assert!(heard.iter().any(|(kind, _)| *kind == PUBACK), "it is acknowledged: {heard:?}");
        let kinds: Vec<u8> = heard.iter().map(|(kind, _)| *kind).filter(|kind| kind >> 4 == 3).collect();
        assert_eq!(kinds, [0x30], "delivered with QoS 0 and without the retain flag");
        world.say(client, &subscribe_in(five, "home/#", SubOpts::new()));
        assert!(world.received(client).is_empty(), "nothing is retained");
    }
}

#[test]
fn a_changed_tag_changes_what_a_session_may_do_and_ends_none() {
    let mut rules = local_rules();
    rules[0].1.publish[0].topic = "home/{tag.site}/#".to_owned();
    rules[0].1.subscribe = vec![super::bus::LocalRule {
        topic: "home/{tag.site}/#".to_owned(),
        ..rules[0].1.subscribe[0].clone()
    }];
    let mut world = World::with(Settings { local: rules, ..Settings::default() }, 100);
    let client = world.client(HELLO);
    let reload = |world: &mut World, site: &str| {
        let mut settings = Pipeline::fake_settings(100, &Default::default());
        let mut device = crate::gate::Device::clone(&settings.devices[0]);
        device.tags.set("site", site).expect("a tag");
        settings.devices[0] = device.into();
        world.pipeline.gate.replace(settings, world.moment.now);
        world.intake.review(&world.moment, &mut world.pipeline);
    };
    // Without the tag the device is not given the rules.
    world.say(client, &subscribe("home/#", SubOpts::new()));
    assert_eq!(world.heard(client)[0].1[3], 0x87);
    world.say(client, &one(1, "home/north/x"));
    assert_eq!(acknowledged(&world.heard(client)[0]), (PUBACK, 1, 0x87));
    reload(&mut world, "north");
    world.say(client, &subscribe("home/#", SubOpts::new()));
    assert_eq!(world.heard(client)[0].1[3], 0);
    world.say(client, &one(2, "home/north/x"));
    assert_eq!(world.received(client).len(), 1);
    // The session and its subscription go on, with what the new value allows.
    reload(&mut world, "south");
    assert!(!world.is_closed(client));
    world.say(client, &one(3, "home/north/x"));
    assert_eq!(acknowledged(&world.heard(client)[0]), (PUBACK, 3, 0x87));
    world.say(client, &one(4, "home/south/x"));
    assert_eq!(world.received(client).len(), 1);
    reload(&mut world, "");
    world.say(client, &one(5, "home/south/x"));
    assert!(!world.is_closed(client) && world.received(client).is_empty());
}

#[test]
fn a_will_on_a_topic_that_a_local_rule_allows_goes_to_local_subscribers() {
    for five in [true, false] {
        let mut world = local(None);
        let receiver = world.client(Hello { five, ..HELLO });
        world.say(receiver, &subscribe_in(five, "#", SubOpts::new()));
        world.heard(receiver);
        for (topic, expected) in [
            ("home/door-7/state", vec![got("home/door-7/state", "gone", false)]),
            ("home//door-7", vec![]),
            ("home/other/state", vec![]),
        ] {
            let client = world.client(Hello { five, client_id: "w", will: Some((topic, 0)), ..HELLO });
            world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
            world.route();
            assert_eq!(world.received(receiver), expected, "{topic}");
        }
        assert_eq!(world.refused, ["home//door-7: Malformed", "home/other/state: NoRule"]);
        // The rules of the time when it is published count, and an uplink rule comes first.
        let will = Hello { five, client_id: "w", will: Some(("home/door-7/state", 0)), ..HELLO };
        let client = world.client(will);
        world.intake.replace(&Settings::default(), &roles());
        world.intake.review(&world.moment, &mut world.pipeline);
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        assert!(world.received(receiver).is_empty());
        let mut world = local(None);
        let client = world.client(Hello { five, will: Some(("t/will", 0)), ..HELLO });
        world.intake.handle_closed(&world.moment, client, &mut world.pipeline);
        assert_eq!(world.taken(), ["tombolo/gw/door-7/up/t/will"]);
    }
}

#[test]
fn a_publish_beyond_the_devices_share_of_the_retained_messages_is_refused_by_name() {
    let settings = Settings { local: local_rules(), retained_share: 1, ..Settings::default() };
    let mut world = World::with(settings, 100);
    let client = world.client(HELLO);
    let retained = |id: u16, topic: &str| {
        let publish = v5_0::Publish::builder().topic_name(topic).unwrap().qos(Qos::AtLeastOnce).retain(true);
        publish.packet_id(id).payload(b"on".to_vec()).build().unwrap().to_continuous_buffer()
    };
    for id in 1..=11 {
        world.say(client, &retained(id, &format!("home/door-7/{id}")));
    }
    let heard = world.heard(client);
    assert!(heard[..10].iter().all(|packet| acknowledged(packet).2 == 0), "{heard:?}");
    assert_eq!(acknowledged(&heard[10]), (PUBACK, 11, 0x97));
    assert_eq!(world.refused, ["home/door-7/11: Retained"]);
    assert_eq!(world.pipeline.counters.value(Counter::RefusedRetained), 1);
    // It is not delivered either; without retain it is, and one that is there may be replaced.
    world.say(client, &subscribe("home/#", SubOpts::new()));
    assert_eq!(world.received(client).len(), 10);
    world.say(client, &[retained(12, "home/door-7/12"), retained(1, "home/door-7/1")].concat());
    world.say(client, &one(13, "home/door-7/12"));
    let topics: Vec<String> = world.received(client).into_iter().map(|(topic, ..)| topic).collect();
    assert_eq!(topics, ["home/door-7/1", "home/door-7/12"]);
    // 3.1.1 has no code for it, and sending it again would not help.
    let old = world.client(Hello { client_id: "d", ..OLD });
    let publish = v3_1_1::Publish::builder().topic_name("home/door-7/14").unwrap().qos(Qos::AtLeastOnce);
    let publish = publish.packet_id(1).retain(true).payload(b"on".to_vec()).build().unwrap();
    world.say(old, &publish.to_continuous_buffer());
    assert!(world.is_closed(old));
}

#[test]
fn accepted_readings_are_mirrored_to_those_that_may_receive_them() {
    for five in [true, false] {
        let mut world = local(Some("{device}/{path}"));
        let client = world.client(Hello { five, ..HELLO });
        world.say(client, &subscribe_in(five, "#", SubOpts::new()));
        world.heard(client);
        let accepted = |path, payload, retain| super::Accepted {
            device: "door-7",
            path,
            payload,
            content_format: None,
            retain,
        };
        let now = world.moment.now;
        world.intake.handle_accepted(now, &accepted("t/env", b"21.5", true));
        world.intake.handle_accepted(now, &accepted("alarm/door", b"1", false));
        assert_eq!(world.received(client), [got("door-7/t/env", "21.5", false)], "only what a rule allows");
        world.say(client, &subscribe_in(five, "+/t/env", SubOpts::new()));
        assert_eq!(world.received(client), [got("door-7/t/env", "21.5", true)]);
    }
}

#[test]
fn a_receiver_that_is_slow_misses_messages_and_holds_up_nobody() {
    for five in [true, false] {
        let mut world = local(None);
        let slow = world.client(Hello { five, client_id: "slow", ..HELLO });
        world.say(slow, &subscribe_in(five, "home/#", SubOpts::new()));
        let sender = world.client(Hello { five, ..HELLO });
        for _ in 0..90 {
            world.say(sender, &publish(five, "home/door-7/x", Qos::AtMostOnce, 0, &[b'x'; 100]));
            world.carry();
        }
        assert_eq!(world.pipeline.counters.value(Counter::MqttLocalDropped), 0);
        let large = vec![b'x'; 60_000];
        for _ in 0..3 {
            world.say(sender, &publish(five, "home/door-7/x", Qos::AtMostOnce, 0, &large));
            world.carry();
        }
        assert!(world.pipeline.counters.value(Counter::MqttLocalDropped) > 0);
        assert!(!world.is_closed(slow) && !world.is_closed(sender));
    }
}

#[test]
fn what_passed_a_session_by_on_the_bus_is_counted() {
    let mut world = local(None);
    let none: [&[u8]; 0] = [];
    for missed in [3, 0, 4] {
        let (now, counters) = (world.moment.now, &mut world.pipeline.counters);
        world.intake.handle_bus(now, 1, &none, missed, counters);
    }
    assert_eq!(world.pipeline.counters.value(Counter::MqttBusMissed), 7);
}

#[test]
fn a_device_that_connects_more_often_than_its_role_allows_is_refused_and_counted() {
    let mut world = World::new();
    for _ in 0..120 {
        world.client(HELLO);
    }
    let refused = world.connect(HELLO);
    let old = world.connect(Hello { five: false, ..HELLO });
    world.pass(Duration::from_secs(2));
    assert_eq!(world.heard(refused)[0].1[1], ConnectReasonCode::ConnectionRateExceeded as u8);
    assert_eq!(world.heard(old)[0].1[1], 3, "3.1.1: server unavailable");
    let device = world.pipeline.gate.device_by_id("door-7").expect("the device");
    let view = world.pipeline.gate.device(world.moment.now, device).expect("the device");
    let tally = view.limited.expect("it is limited").too_often;
    assert_eq!((tally.count, tally.is_recent(world.moment.now)), (2, true));
    world.pass(Duration::from_secs(60));
    world.client(HELLO);
}

#[test]
fn a_publish_beyond_the_share_of_the_lane_is_refused_as_one_that_may_be_sent_again() {
    let mut world = World::new();
    let client = world.client(HELLO);
    let old = world.client(Hello { five: false, client_id: "d", ..HELLO });
    world.pipeline.store().refuses = Some(Refused::DeviceShare);
    world.say(client, &one(1, "t/x"));
    let heard: Vec<_> = world.heard(client).iter().map(acknowledged).collect();
    assert_eq!(heard, [(PUBACK, 1, 0x97)]);
    world.say(old, &publish(false, "t/x", Qos::AtLeastOnce, 1, b"1"));
    assert!(world.is_closed(old), "3.1.1 has no code for it");
}
