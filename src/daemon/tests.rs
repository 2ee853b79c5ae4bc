//! What `acl explain` and `acl test` say agrees with the gate and the MQTT listener that run, under
//! any rules.

use std::time::{Duration, Instant};

use mqtt::packet::{ContentType, Property, Qos, SubEntry, SubOpts, v5_0};
use mqtt_protocol_core::mqtt;
use proptest::prelude::*;

use crate::clock::Moment;
use crate::config::Loaded;
use crate::config::acl::{Question, explain};
use crate::config::io::test_device_rules as load;
use crate::gate::stage::Admitted;
use crate::gate::{Gate, Supposed};
use crate::message::{ContentFormat, Method, Path, QueryBuffer, Stamp};
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
    let most = prop::option::weighted(0.3, 2..5_u32);
    (prop::collection::vec(rule, 0..8), most).prop_map(|(rules, most)| {
        let most = most.map(|most| format!("max-payload = {most}\n")).unwrap_or_default();
        let mut text = format!(
            "[role.s]\n[role.base]\n[role.r]\nincludes = [\"base\"]\n{most}[role.r.on-behalf.all]\npath = \"+/#\"\n\
             [role.r.on-behalf.not]\npath = \"b/#\"\ndeny = true\n"
        );
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

    fn publishes(&mut self, topic: &str, supposed: Supposed<'_>) -> bool {
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

    fn reads(&mut self, device: &str, method: Method, path: &str, supposed: Supposed<'_>) -> bool {
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
        let supposed = Supposed { content_format: Some(format), bytes, payload: None };
        let says = |device: &str, question, path: &str| {
            explain(settings, &gate, now, device, question, path, supposed)["allowed"] == true
        };
        for path in &paths {
            for device in ["a", "b", "nobody"] {
                for method in [Method::Post, Method::Put, Method::Delete] {
                    let said = says(device, Question::Reading(method), path);
                    prop_assert_eq!(said, running.reads(device, method, path, supposed), "{} {} {}", device, method.as_str(), path);
                }
            }
            prop_assert_eq!(says("a", Question::Publish, path), running.publishes(path, supposed), "publish {} under {}", path, rules);
        }
        for filter in &filters {
            prop_assert_eq!(says("a", Question::Subscribe, filter), running.subscribes(filter), "subscribe {} under {}", filter, rules);
        }
    }

    #[test]
    fn what_an_explanation_says_of_a_payload_is_what_the_running_gate_does_with_it(
        filters in prop::collection::vec(screen(), 2..=2),
        readings in prop::collection::vec(reading(), 1..40),
    ) {
        let [first, second] = &filters[..] else { unreachable!("two") };
        let mut rules = format!("[role.s]\n[role.base]\n[role.r]\n[role.r.uplink.one]\npath = \"t/+\"\n{first}");
        rules.push_str(&format!("[role.r.uplink.all]\npath = \"#\"\n{second}"));
        let quota = "messages = 100000\nbytes = \"1GiB\"\nper = \"1s\"\nburst = 100000\n";
        let loaded = load(&format!("{rules}[role.r.quota]\n{quota}"));
        let mut now = Instant::now();
        let mut gate = Gate::new(loaded.settings.gate.clone(), now);
        let device = gate.device_by_id("a").expect("the device of these rules");
        for Tried { path, query, payload, content_format, method, pause_s } in &readings {
            now += Duration::from_secs(*pause_s);
            let question = Question::Reading(*method);
            let supposed = Supposed { content_format: Some(*content_format), ..Supposed::default() };
            let payload = if *method == Method::Delete { &b""[..] } else { payload.as_bytes() };
            let supposed = supposed.with_payload(payload);
            let asked = query.map_or_else(|| (*path).to_owned(), |query| format!("{path}?{query}"));
            let said = explain(&loaded.settings, &gate, now, "a", question, &asked, supposed);
            let again = explain(&loaded.settings, &gate, now, "a", question, &asked, supposed);
            prop_assert_eq!(&said, &again, "asking changes nothing");
            let path = Path::parse(path).expect("a path");
            let mut buffer = QueryBuffer::default();
            let query = query.map(|query| buffer.parse(path, query).expect("a query"));
            let received = crate::gate::Received {
                path,
                query,
                method: *method,
                payload,
                content_format: *content_format,
                blockwise: false,
                stamp: Stamp { boottime_ms: 1, wall_ms: None },
            };
            let done = match gate.admit(now, device, received) {
                Ok(Admitted::Filtered(filtered)) => (true, Some(filtered.reason().to_string())),
                Ok(_) => (true, None),
                Err(_) => (false, None),
            };
            let held_back = said["held_back"].as_str().map(str::to_owned);
            prop_assert_eq!((said["allowed"] == true, held_back), done, "{} under {}", asked, rules);
        }
    }
}

/// A reading, and how long after the one before it comes.
#[derive(Clone, Debug)]
struct Tried {
    path: &'static str,
    query: Option<&'static str>,
    payload: String,
    content_format: Option<ContentFormat>,
    method: Method,
    pause_s: u64,
}

fn reading() -> impl Strategy<Value = Tried> {
    let path = prop::sample::select(vec!["t/a", "t/b", "x", "t/a/b"]);
    let query = prop::option::weighted(0.2, prop::sample::select(vec!["u=C", "u=F"]));
    let number = (0..12_i32).prop_map(|tenths| f64::from(tenths) / 4.0);
    let payload = (number, 0..4_u8).prop_map(|(number, form)| match form {
        0 => number.to_string(),
        1 => format!("{{\"v\":{number}}}"),
        2 => format!("{{\"v\":\"{number}\",\"w\":1}}"),
        _ => "no number".to_owned(),
    });
    let format = prop::sample::select(vec![None, Some(ContentFormat::JSON), Some(ContentFormat::TEXT)]);
    let method =
        prop::sample::select(vec![Method::Post, Method::Post, Method::Post, Method::Put, Method::Delete]);
    (path, query, payload, format, method, 0..8_u64).prop_map(
        |(path, query, payload, content_format, method, pause_s)| Tried {
            path,
            query,
            payload,
            content_format,
            method,
            pause_s,
        },
    )
}

/// The keys of a rule that hold readings back, some together, and what else decides about payloads.
fn screen() -> impl Strategy<Value = String> {
    let key = |key: &'static str| prop::option::of(Just(key));
    let band = prop::option::of(prop::sample::select(vec!["dead-band = 0.5\n", "dead-band = 0.0\n"]));
    let when = prop::option::weighted(
        0.4,
        prop::sample::select(vec![
            "when = [{ field = \"/v\", above = 1 }]\n",
            "when = [{ any = [{ above = 1 }, { field = \"/w\", present = true }] }]\n",
            "when = [{ field = \"/v\", is-not = \"1\" }, { is-not = 2 }]\n",
        ]),
    );
    (
        key("on-change = true\n"),
        when,
        band,
        any::<bool>(),
        key("min-interval = \"10s\"\n"),
        key("retain = true\ndelete = true\n"),
        prop::option::weighted(0.2, Just("content-formats = [\"application/json\", \"none\"]\n")),
        prop::option::weighted(0.2, Just("max-payload = 8\n")),
    )
        .prop_map(|(change, when, band, is_field, interval, delete, formats, most)| {
            let field = band.filter(|_| is_field).map(|_| "dead-band-field = \"/v\"\n");
            [change, when, band, field, interval, delete, formats, most].into_iter().flatten().collect()
        })
}
