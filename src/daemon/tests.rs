//! What `acl explain` and `acl test` say agrees with the gate and the MQTT listener that run, under
//! any rules.

use std::time::Instant;

use mqtt::packet::{ContentType, Property, Qos, SubEntry, SubOpts, v5_0};
use mqtt_protocol_core::mqtt;
use proptest::prelude::*;

use crate::clock::Moment;
use crate::config::Loaded;
use crate::config::acl::{Question, explain};
use crate::config::io::test_device_rules as load;
use crate::gate::{Gate, Supposed};
use crate::message::{ContentFormat, Method, Path, Stamp};
use crate::pipeline::Pipeline;
use crate::pipeline::fake::FakeStore;
use crate::southbound::mqtt::{Intake, Source};

/// Patterns, topics and paths from few words, so that they meet.
fn words(wild: bool) -> impl Strategy<Value = String> {
    let level = if wild {
        prop::sample::select(vec!["t", "home", "a", "b", "+"])
    } else {
        prop::sample::select(vec!["t", "home", "a", "b"])
    };
    (prop::collection::vec(level, 1..4), prop::bool::weighted(if wild { 0.4 } else { 0.0 }))
        .prop_map(|(levels, rest)| format!("{}{}", levels.join("/"), if rest { "/#" } else { "" }))
}

/// Paths of a device, and of devices behind it: `b` is behind `a`.
fn paths() -> impl Strategy<Value = String> {
    let child = prop::sample::select(vec!["", "", "~b/", "~a/", "~nobody/", "~b/~b/"]);
    (child, words(false)).prop_map(|(child, path)| format!("{child}{path}"))
}

fn rules() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec!["uplink", "local-publish", "local-subscribe"]);
    // `r` includes `base`; `s` is the role of the child.
    let role = prop::sample::select(vec!["r", "r", "base", "s"]);
    let cap = prop::option::weighted(0.3, 1..4_u32);
    let format = prop::sample::select(vec!["application/json", "60", "none"]);
    let formats = prop::option::weighted(0.3, prop::collection::vec(format, 1..3));
    // The device `a` has the tag `site` alone.
    let topics = vec![
        "x/{tag.site}/{path}",
        "x/{tag.hall}/{path}",
        "{prefix}/{device}/up/{content-format}/{tag.site}",
    ];
    let topic = prop::option::weighted(0.4, prop::sample::select(topics));
    // What is filtered is allowed all the same.
    let filters = vec!["", "on-change = true\n", "dead-band = 0.5\n", "min-interval = \"10s\"\n"];
    let deny = prop::bool::weighted(0.3);
    let rule = ((role, kind), words(true), deny, cap, formats, topic, prop::sample::select(filters));
    prop::collection::vec(rule, 0..8).prop_map(|rules| {
        let mut text = "[role.s]\n[role.base]\n[role.r]\nincludes = [\"base\"]\n[role.r.on-behalf.all]\npath = \"+/#\"\n\
                        [role.r.on-behalf.not]\npath = \"b/#\"\ndeny = true\n"
            .to_owned();
        let mut seen = std::collections::BTreeSet::new();
        for (at, ((role, kind), pattern, deny, cap, formats, topic, filter)) in rules.into_iter().enumerate() {
            // Two of one pattern are a fault, which disables the role.
            if !seen.insert((role, kind, pattern.clone())) {
                continue;
            }
            let key = if kind == "uplink" { "path" } else { "topic" };
            text.push_str(&format!("[role.{role}.{kind}.n{at}]\n{key} = \"{pattern}\"\ndeny = {deny}\n"));
            if kind == "uplink" && !deny {
                text.extend(cap.map(|cap| format!("max-payload = {cap}\n")));
                text.extend(formats.map(|formats| format!("content-formats = {formats:?}\n")));
                text.extend(topic.map(|topic| format!("topic = {topic:?}\n")));
                text.push_str(filter);
            }
        }
        text
    })
}

/// The gate and the listener as they run, with a client of device `a`.
struct Running {
    intake: Intake,
    pipeline: Pipeline<FakeStore>,
    moment: Moment,
    client: u64,
}

impl Running {
    fn new(loaded: &Loaded) -> Running {
        let now = Instant::now();
        let gate = Gate::new(loaded.settings.gate.clone(), now);
        let moment = Moment { now, boottime_ms: 1, wall: None, ages_from: None };
        let mut intake = Intake::new(&loaded.settings.mqtt, &loaded.settings.gate.roles, &[1; 32]);
        let client = intake.handle_opened(now, Source::default());
        let mut running =
            Running { intake, pipeline: Pipeline::new(gate, FakeStore::default()), moment, client };
        let connect = v5_0::Connect::builder().client_id("c").unwrap().user_name("a").unwrap();
        running.answer(&connect.password("secret").unwrap().build().unwrap().to_continuous_buffer());
        running
    }

    /// The bytes of the first packet that comes back.
    fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.intake.handle_bytes(&self.moment, self.client, bytes, &mut self.pipeline);
        while !self.pipeline.store().taken.is_empty() {
            self.pipeline.store().answer(true);
        }
        while self.pipeline.handle_completion() {}
        let mut completed = Vec::new();
        while let Some(event) = self.pipeline.poll_event() {
            if let crate::pipeline::Event::Completed {
                ticket: crate::proto::address::Ticket::Mqtt(ticket),
                stored,
            } = event
            {
                completed.push((ticket, stored));
            }
        }
        for (ticket, stored) in completed {
            self.intake.handle_completion(&self.moment, ticket, stored, &mut self.pipeline);
        }
        let mut out = Vec::new();
        self.intake.take_output(self.moment.now, self.client, &mut out);
        out
    }

    fn publishes(&mut self, topic: &str, supposed: Supposed) -> bool {
        let publish = v5_0::Publish::builder().topic_name(topic).unwrap().qos(Qos::AtLeastOnce);
        let content_type = supposed.content_format.flatten().and_then(ContentFormat::media_type);
        let properties = content_type.map(|text| Property::ContentType(ContentType::new(text).unwrap()));
        let publish = publish.packet_id(7).payload(vec![b'1'; supposed.bytes]);
        let publish = publish.props(properties.into_iter().collect::<Vec<_>>()).build().unwrap();
        let answer = self.answer(&publish.to_continuous_buffer());
        assert_eq!(answer[0], 0x40, "{answer:?}");
        // A PUBACK of two bytes, or with a code below 0x80, is a success.
        answer[1] == 2 || answer[4] < 0x80
    }

    fn subscribes(&mut self, filter: &str) -> bool {
        let entry = SubEntry::new(filter, SubOpts::new()).unwrap();
        let subscribe = v5_0::Subscribe::builder().packet_id(9).entries(vec![entry]).build().unwrap();
        let answer = self.answer(&subscribe.to_continuous_buffer());
        assert_eq!(answer[0], 0x90, "{answer:?}");
        answer[5] < 0x80
    }

    fn reads(&mut self, device: &str, method: Method, path: &str, supposed: Supposed) -> bool {
        let gate = &mut self.pipeline.gate;
        let Some(device) = gate.device_by_id(device) else { return false };
        let stamp = Stamp { boottime_ms: 1, wall_ms: None };
        let path = Path::parse(path).expect("a path");
        let Ok((device, path)) = gate.speaker(self.moment.now, device, path) else { return false };
        let received = crate::gate::Received {
            path,
            query: None,
            method,
            payload: &vec![b'1'; supposed.bytes],
            content_format: supposed.content_format.flatten(),
            blockwise: false,
            stamp,
        };
        gate.admit(self.moment.now, device, received).is_ok()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_table_and_the_running_gate_agree_on_any_rules(
        rules in rules(),
        paths in prop::collection::vec(paths(), 1..5),
        filters in prop::collection::vec(words(true), 1..5),
        format in prop::option::of(prop::sample::select(vec![ContentFormat::JSON, ContentFormat::CBOR])),
        bytes in 0..5_usize,
    ) {
        let quota = |role| {
            format!("[role.{role}.quota]\nmessages = 100000\nbytes = \"1GiB\"\nper = \"1s\"\nburst = 100000\n")
        };
        let loaded = load(&format!("{rules}{}{}", quota("r"), quota("s")));
        let now = Instant::now();
        let gate = Gate::new(loaded.settings.gate.clone(), now);
        let mut running = Running::new(&loaded);
        let settings = &loaded.settings;
        let supposed = Supposed { content_format: Some(format), bytes };
        let says = |device: &str, question, path: &str| {
            // A DELETE has no payload.
            let bytes = if question == Question::Reading(Method::Delete) { 0 } else { bytes };
            let supposed = Supposed { bytes, ..supposed };
            explain(settings, &gate, now, device, question, path, supposed)["allowed"] == true
        };
        for path in &paths {
            for device in ["a", "b", "nobody"] {
                for method in [Method::Post, Method::Put, Method::Delete] {
                    let said = says(device, Question::Reading(method), path);
                    let bytes = if method == Method::Delete { 0 } else { bytes };
                    let supposed = Supposed { bytes, ..supposed };
                    prop_assert_eq!(said, running.reads(device, method, path, supposed), "{} {} {}", device, method.as_str(), path);
                }
            }
            prop_assert_eq!(says("a", Question::Publish, path), running.publishes(path, supposed), "publish {} under {}", path, rules);
        }
        for filter in &filters {
            prop_assert_eq!(says("a", Question::Subscribe, filter), running.subscribes(filter), "subscribe {} under {}", filter, rules);
        }
    }
}
