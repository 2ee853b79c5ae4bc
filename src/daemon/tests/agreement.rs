//! Random configurations: what `acl explain` says of readings, publishes and subscriptions is what
//! the gate and the listener do with them. Of a gate with other rules than those that are explained
//! the same comparison finds it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use mqtt::packet::{ContentType, Property, Qos, SubEntry, SubOpts, v5_0};
use mqtt_protocol_core::mqtt;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::clock::Moment;
use crate::config::Loaded;
use crate::config::acl::{Question, explain};
use crate::config::io::test_device_rules as load;
use crate::gate::stage::Admitted;
use crate::gate::tag::Tags;
use crate::gate::{Gate, QoS, QueryUse, Received, Settings, Supposed};
use crate::message::{ContentFormat, Method, Path, QueryBuffer, Stamp};
use crate::pipeline::fake::FakeStore;
use crate::pipeline::{Event, Pipeline};
use crate::proto::address::Ticket;
use crate::southbound::mqtt::{self as local, BusMessage, BusRequest, Intake, Source};

/// Patterns, topics and paths from few words, so that they meet.
fn words(wild: bool) -> impl Strategy<Value = String> {
    let level = if wild {
        prop::sample::select(vec!["t", "home", "a", "b", "north", "+", "+", "+", "+"])
    } else {
        prop::sample::select(vec!["t", "home", "a", "b"])
    };
    (prop::collection::vec(level, 1..4), prop::bool::weighted(if wild { 0.6 } else { 0.0 }))
        .prop_map(|(levels, rest)| format!("{}{}", levels.join("/"), if rest { "/#" } else { "" }))
}

/// Paths of a device, and of devices behind it: `b` is behind `a`. Some are topics alone, or are
/// the gateway's.
pub(super) fn paths() -> impl Strategy<Value = String> {
    let before = vec![
        "", "", "", "", "", "", "", "", "", "~b/", "~b/", "~b/", "~a/", "~nobody/", "~b/~b/", "/", "rd/",
    ];
    // Those that begin so are topics of rules with a tag.
    let own = prop::sample::select(vec!["", "", "", "", "home/north/", "home/x-/"]);
    (prop::sample::select(before), own, words(false))
        .prop_map(|(before, own, path)| format!("{before}{own}{path}"))
}

/// The keys of rules that allow, each of which may be there.
#[derive(Clone, Debug)]
struct Keys {
    max_payload: Option<u32>,
    formats: Option<Vec<&'static str>>,
    topic: Option<&'static str>,
    filter: &'static str,
    retain: Option<bool>,
    delete: bool,
    qos: Option<u8>,
    refuses_queries: bool,
    child_role: Option<&'static str>,
}

fn keys() -> impl Strategy<Value = Keys> {
    let format = prop::sample::select(vec!["application/json", "60", "none"]);
    // The device `a` has the tag `site` alone.
    let topics = vec![
        "x/{tag.site}/{path}",
        "x/{tag.hall}/{path}",
        "{prefix}/{device}/up/{content-format}/{tag.site}",
        "x/{device}/{query.u}/{path}",
    ];
    // What is filtered is allowed all the same.
    let filters = vec!["", "", "on-change = true\n", "dead-band = 0.5\n", "min-interval = \"10s\"\n"];
    (
        prop::option::weighted(0.15, 1..4_u32),
        prop::option::weighted(0.2, prop::collection::vec(format, 1..3)),
        prop::option::weighted(0.3, prop::sample::select(topics)),
        prop::sample::select(filters),
        prop::option::of(any::<bool>()),
        any::<bool>(),
        prop::option::weighted(0.4, 0..3_u8),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.3, prop::sample::select(vec!["r", "s"])),
    )
        .prop_map(
            |(max_payload, formats, topic, filter, retain, delete, qos, refuses_queries, child_role)| Keys {
                max_payload,
                formats,
                topic,
                filter,
                retain,
                delete,
                qos,
                refuses_queries,
                child_role,
            },
        )
}

/// Roles with all kinds of rules. `r` is the role of `a` and may include `base`; `s` is that of its
/// child `b`; `w` watches what is sent to local clients.
pub(super) fn configuration() -> impl Strategy<Value = String> {
    let kinds = vec![
        "uplink",
        "uplink",
        "uplink",
        "local-publish",
        "local-publish",
        "local-subscribe",
        "local-subscribe",
        "downlink",
        "on-behalf",
    ];
    let role = prop::sample::select(vec!["r", "r", "base", "s", "s"]);
    let deny = prop::bool::weighted(0.15);
    // Of local rules the first level may be the device's, and one a tag.
    let own = prop::sample::select(vec!["", "", "", "", "own", "tag", "no-tag"]);
    let rule = (role, prop::sample::select(kinds), words(true), own, deny, keys());
    let most = prop::option::weighted(0.15, 2..5_u32);
    let includes = prop::bool::weighted(0.7);
    let queued = prop::sample::select(vec![100, 100, 0]);
    (prop::collection::vec(rule, 4..20), most, includes, queued).prop_map(
        |(rules, most, includes, queued)| {
            let mut text = format!("max-queued = {queued}\n[role.s]\n[role.base]\n[role.r]\n");
            if includes {
                text.push_str("includes = [\"base\"]\n");
            }
            text.extend(most.map(|most| format!("max-payload = {most}\n")));
            let mut seen = std::collections::BTreeSet::new();
            for (at, (role, kind, pattern, own, deny, keys)) in rules.into_iter().enumerate() {
                let pattern = match own {
                    "own" if kind.starts_with("local") => format!("{{device}}/{pattern}"),
                    // The tag `site` is `north`, and there is no tag `hall`.
                    "tag" if kind.starts_with("local") && !deny => format!("home/{{tag.site}}/{pattern}"),
                    "no-tag" if kind.starts_with("local") && !deny => {
                        format!("home/x-{{tag.hall}}/{pattern}")
                    }
                    _ => pattern,
                };
                // Two of one pattern are a fault, which disables the role.
                if seen.insert((role, kind, pattern.clone())) {
                    write_rule(&mut text, at, (role, kind), &pattern, deny, &keys);
                }
            }
            for role in ["r", "s", "w"] {
                let _ = write!(
                    text,
                    "[role.{role}.quota]\nmessages = 100000\nbytes = \"1GiB\"\nper = \"1s\"\nburst = 100000\n"
                );
            }
            text.push_str("[role.w.local-subscribe.all]\ntopic = \"#\"\n");
            text.push_str("[device.c]\nrole = \"w\"\npassword-file = \"a.password\"\n");
            text
        },
    )
}

fn write_rule(
    text: &mut String,
    at: usize,
    (role, kind): (&str, &str),
    pattern: &str,
    deny: bool,
    keys: &Keys,
) {
    let _ = writeln!(text, "[role.{role}.{kind}.n{at}]\ndeny = {deny}");
    match kind {
        "downlink" => {
            let _ = writeln!(text, "topic = \"{{prefix}}/{{device}}/down/n{at}/#\"");
            if !deny {
                let path = pattern.replace('+', "p").replace("/#", "/{rest}");
                let _ = writeln!(text, "path = \"{path}\"");
            }
            return;
        }
        "uplink" | "on-behalf" => text.push_str(&format!("path = \"{pattern}\"\n")),
        _ => text.push_str(&format!("topic = \"{pattern}\"\n")),
    }
    if kind == "on-behalf" {
        text.extend(keys.child_role.map(|role| format!("roles = [\"{role}\"]\n")));
    }
    if deny {
        return;
    }
    let formats = keys.formats.as_ref().map(|formats| format!("content-formats = {formats:?}\n"));
    match kind {
        "uplink" => {
            text.extend(keys.max_payload.map(|most| format!("max-payload = {most}\n")));
            text.extend(formats);
            text.extend(keys.topic.map(|topic| format!("topic = {topic:?}\n")));
            text.push_str(keys.filter);
            if keys.retain == Some(true) {
                let _ = writeln!(text, "retain = true\ndelete = {}", keys.delete);
            }
            if keys.qos == Some(0) {
                text.push_str("qos = 0\n");
            }
            // Refused, and needed for the topic: that is a fault, which disables the role.
            if keys.refuses_queries && keys.topic.is_none_or(|topic| !topic.contains("query")) {
                text.push_str("query = \"refuse\"\n");
            }
        }
        "local-publish" => {
            text.extend(keys.retain.map(|retain| format!("retain = {retain}\n")));
            text.extend(keys.qos.map(|qos| format!("qos = {qos}\n")));
        }
        "local-subscribe" => {
            text.extend(formats);
            text.push_str(keys.filter);
        }
        _ => {}
    }
}

/// What is asked about, under each configuration.
#[derive(Clone, Debug)]
struct Asked {
    paths: Vec<String>,
    filters: Vec<String>,
    format: Option<ContentFormat>,
    bytes: usize,
    query: bool,
    qos: u8,
    retain: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let format = prop::sample::select(vec![ContentFormat::JSON, ContentFormat::CBOR]);
    let shared = prop::bool::weighted(0.1);
    let filter = (shared, words(true))
        .prop_map(|(shared, filter)| if shared { format!("$share/g/{filter}") } else { filter });
    (
        prop::collection::vec(paths(), 1..6),
        prop::collection::vec(filter, 1..6),
        prop::option::of(format),
        0..5_usize,
        prop::bool::weighted(0.3),
        0..3_u8,
        any::<bool>(),
    )
        .prop_map(|(paths, filters, format, bytes, query, qos, retain)| Asked {
            paths,
            filters,
            format,
            bytes,
            query,
            qos,
            retain,
        })
}

/// What becomes of a message, as far as both sides can tell.
#[derive(Debug, Default, PartialEq)]
struct Fate {
    /// Why it is refused.
    refused: Option<String>,
    /// The rule that lets a reading pass.
    rule: Option<String>,
    /// The topic of a reading upstream.
    topic: Option<String>,
    /// The QoS: of a reading upstream, or of a message to local clients.
    qos: Option<u8>,
    /// Whether it is retained.
    retain: Option<bool>,
}

/// The gate and the listener as they run, with a client of device `a`, and one of `c` that watches.
struct Running {
    intake: Intake,
    pipeline: Pipeline<FakeStore>,
    moment: Moment,
    client: u64,
    /// The kinds of the refusals since the last question.
    refused: Vec<&'static str>,
    /// The topics of the readings that were taken since then.
    taken: Vec<String>,
}

impl Running {
    fn new(gate: &Settings, settings: &local::Settings) -> Running {
        let now = Instant::now();
        let moment = Moment { now, boottime_ms: 1, wall: None, ages_from: None };
        let intake = Intake::new(settings, &gate.roles, &[1; 32]);
        let pipeline = Pipeline::new(Gate::new(gate.clone(), now), FakeStore::default());
        let mut running =
            Running { intake, pipeline, moment, client: 0, refused: Vec::new(), taken: Vec::new() };
        for device in ["c", "a"] {
            running.client = running.intake.handle_opened(now, Source::default());
            let connect = v5_0::Connect::builder().client_id(device).unwrap().user_name(device).unwrap();
            let connect = connect.password("secret").unwrap().build().unwrap();
            let answer = running.answer(&connect.to_continuous_buffer());
            assert_eq!((answer[0], answer[3]), (0x20, 0), "{device}: {answer:?}");
            if device == "c" {
                running.subscribes("#", 0);
            }
        }
        running
    }

    /// The bytes that come back.
    fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        // So that the bound of refusals of one device is out of reach.
        self.moment.now += Duration::from_secs(1);
        self.intake.handle_bytes(&self.moment, self.client, bytes, &mut self.pipeline);
        while let Some((_, topic)) = self.pipeline.store().taken.front().cloned() {
            self.taken.push(topic);
            self.pipeline.store().answer(true);
        }
        while self.pipeline.handle_completion() {}
        let mut completed = Vec::new();
        while let Some(event) = self.pipeline.poll_event() {
            match event {
                Event::Completed { ticket: Ticket::Mqtt(ticket), stored } => completed.push((ticket, stored)),
                Event::Refused { refusal, .. } => self.refused.push(refusal.reason().as_str()),
                _ => {}
            }
        }
        for (ticket, stored) in completed {
            self.intake.handle_completion(&self.moment, ticket, stored, &mut self.pipeline);
        }
        let mut out = Vec::new();
        self.intake.take_output(self.moment.now, self.client, &mut out);
        out
    }

    fn publishes(&mut self, topic: &str, supposed: Supposed<'_>) -> Fate {
        (self.refused, self.taken) = Default::default();
        while self.intake.poll_bus().is_some() {}
        let publish = v5_0::Publish::builder().topic_name(topic).unwrap().qos(Qos::ExactlyOnce);
        let publish = publish.retain(supposed.retain);
        let content_type = supposed.content_format.flatten().and_then(ContentFormat::media_type);
        let properties = content_type.map(|text| Property::ContentType(ContentType::new(text).unwrap()));
        let publish = publish.packet_id(7).payload(vec![b'1'; supposed.bytes]);
        let publish = publish.props(properties.into_iter().collect::<Vec<_>>()).build().unwrap();
        let answer = self.answer(&publish.to_continuous_buffer());
        assert_eq!(answer[0], 0x50, "{answer:?}");
        // A PUBREC of two bytes, or with a code below 0x80, is a success.
        let passes = answer[1] == 2 || answer[4] < 0x80;
        assert_eq!(passes, self.refused.is_empty(), "{answer:?} {:?}", self.refused);
        let mut fate = Fate {
            refused: self.refused.first().map(|reason| (*reason).to_owned()),
            topic: self.taken.first().cloned(),
            ..Fate::default()
        };
        while let Some(request) = self.intake.poll_bus() {
            if let BusRequest::Publish(bytes) = request {
                let message = BusMessage::decode(&bytes).expect("a message");
                assert_eq!(message.topic, topic);
                (fate.qos, fate.retain) = (Some(message.qos), Some(message.retain));
            }
        }
        if passes {
            self.answer(&v5_0::Pubrel::builder().packet_id(7).build().unwrap().to_continuous_buffer());
        }
        fate
    }

    /// The reason code of SUBACK.
    fn subscribes(&mut self, filter: &str, qos: u8) -> u8 {
        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(qos)];
        let entry = SubEntry::new(filter, SubOpts::new().set_qos(qos)).unwrap();
        let subscribe = v5_0::Subscribe::builder().packet_id(9).entries(vec![entry]).build().unwrap();
        let answer = self.answer(&subscribe.to_continuous_buffer());
        assert_eq!(answer[0], 0x90, "{answer:?}");
        answer[5]
    }

    fn reads(&mut self, device: &str, method: Method, text: &str, supposed: Supposed<'_>) -> Fate {
        let refused = |reason: &str| Fate { refused: Some(reason.to_owned()), ..Fate::default() };
        let now = self.moment.now;
        let gate = &mut self.pipeline.gate;
        let Some(device) = gate.device_by_id(device) else { return refused("unknown_device") };
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let Ok(path) = Path::parse(path) else { return refused("bad_path") };
        let (device, path) = match gate.speaker(now, device, path) {
            Ok(speaker) => speaker,
            Err(refusal) => return refused(refusal.reason().as_str()),
        };
        let mut buffer = QueryBuffer::default();
        let query = query.map(|query| buffer.parse(path, query).expect("a query"));
        let payload = vec![b'1'; supposed.bytes];
        let received = Received {
            path,
            query,
            method,
            payload: &payload,
            content_format: supposed.content_format.flatten(),
            blockwise: false,
            stamp: Stamp { boottime_ms: 1, wall_ms: None },
        };
        match gate.admit(now, device, received) {
            Ok(Admitted::Passed(mapped)) => Fate {
                refused: None,
                rule: mapped.rule().map(ToString::to_string),
                topic: Some(mapped.content().topic.to_owned()),
                qos: Some(u8::from(mapped.qos() == QoS::AtLeastOnce)),
                retain: Some(mapped.content().retain),
            },
            Ok(Admitted::Filtered(filtered)) => Fate {
                rule: Some(filtered.rule.to_string()),
                topic: Some(filtered.content.topic.to_owned()),
                ..Fate::default()
            },
            Err(refusal) => refused(refusal.reason().as_str()),
        }
    }
}

/// What an explanation says of a message.
fn said(value: &Value) -> Fate {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (publish, local) = (&value["publish"], &value["local"]);
    let is_allowed = value["allowed"] == true;
    let number = |value: &Value| value.as_u64().and_then(|number| u8::try_from(number).ok());
    Fate {
        refused: (!is_allowed).then(|| text(&value["reason"]).unwrap_or_default()),
        rule: text(&value["rule"]).filter(|_| is_allowed),
        topic: text(&publish["topic"]),
        qos: number(&publish["qos"]).or_else(|| number(&local["qos"])),
        retain: publish["retain"].as_bool().or_else(|| local["retain"].as_bool()),
    }
}

/// The first thing about which `loaded` is explained differently from what `running` does; what was
/// allowed and refused is counted.
fn disagreement(
    loaded: &Loaded,
    running: &mut Running,
    asked: &Asked,
    counts: &mut [u64; 2],
) -> Option<String> {
    let now = Instant::now();
    let settings = &loaded.settings;
    let gate = Gate::new(settings.gate.clone(), now);
    let supposed = Supposed { content_format: Some(asked.format), bytes: asked.bytes, ..Supposed::default() };
    let says = |device: &str, question, path: &str, supposed| {
        explain(settings, &gate, now, device, question, path, supposed)
    };
    for path in &asked.paths {
        for device in ["a", "b", "nobody"] {
            let methods = [Method::Post, Method::Put, Method::Delete];
            for method in methods.into_iter().take(if device == "nobody" { 1 } else { 3 }) {
                let bytes = if method == Method::Delete { asked.bytes / 4 } else { asked.bytes };
                let payload = (bytes == 0).then_some(&b""[..]);
                let supposed = Supposed { bytes, payload, ..supposed };
                // A leading `/` of the question is none of the path.
                let path = path.strip_prefix('/').unwrap_or(path);
                let path = if asked.query { format!("{path}?u=C") } else { path.to_owned() };
                let mut said = said(&says(device, Question::Reading(method), &path, supposed));
                let done = running.reads(device, method, &path, supposed);
                // Of what a filter holds back nothing more is known.
                if done.refused.is_none() && done.qos.is_none() {
                    said.qos = None;
                }
                if done.retain.is_none() {
                    said.retain = done.retain;
                }
                counts[usize::from(said.refused.is_some())] += 1;
                if said != done {
                    let method = method.as_str();
                    return Some(format!("{device} {method} {path} {supposed:?}: {said:?}, but {done:?}"));
                }
            }
        }
        // One that is empty and has RETAIN deletes what is retained.
        let payload = (asked.bytes == 0).then_some(&b""[..]);
        let supposed = Supposed { payload, retain: asked.retain, ..supposed };
        let value = says("a", Question::Publish, path, supposed);
        let mut said = said(&value);
        said.retain = said.retain.map(|granted| granted && asked.retain);
        let mut done = running.publishes(path, supposed);
        // A reading's own are compared above; here the listener and the bus are.
        said.rule = None;
        if value["local"].is_null() {
            (said.qos, said.retain, done.qos, done.retain) = Default::default();
        }
        let deletes = asked.bytes == 0 && asked.retain && said.refused.is_none();
        let is_deletion = deletes && (value["local"].is_null() || said.retain == Some(true));
        if (value["deletes"] == true) != is_deletion {
            return Some(format!("a publish {path} {supposed:?}: deletes is {}", value["deletes"]));
        }
        if done.topic.is_none() && said.refused.is_none() {
            // A filter may have held it back.
            said.topic = None;
        }
        // As the listener counts it.
        said.refused = said.refused.map(|reason| reason.replace("bad_path", "malformed"));
        counts[usize::from(said.refused.is_some())] += 1;
        if said != done {
            return Some(format!("a publish {path} {supposed:?}: {said:?}, but {done:?}"));
        }
    }
    for filter in &asked.filters {
        let value = says("a", Question::Subscribe, filter, supposed);
        let done = running.subscribes(filter, asked.qos);
        let granted = value["granted_qos"].as_u64().map(|most| most.min(u64::from(asked.qos)));
        let said = match (value["allowed"] == true, value["reason"].as_str()) {
            (true, _) => granted.unwrap_or(u64::MAX),
            (false, Some("bad_path")) => 0x9E,
            (false, _) => 0x87,
        };
        counts[usize::from(said >= 0x80)] += 1;
        if said != u64::from(done) {
            return Some(format!("a subscribe {filter} with QoS {}: {said:#x}, but {done:#x}", asked.qos));
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_explained_is_what_the_running_gate_does_under_any_configuration(
        rules in configuration(),
        asked in asked(),
    ) {
        let loaded = load(&rules);
        let mut running = Running::new(&loaded.settings.gate, &loaded.settings.mqtt);
        let found = disagreement(&loaded, &mut running, &asked, &mut [0; 2]);
        prop_assert_eq!(found, None, "under {}", rules);
    }
}

/// One change of the rules that run.
type Change = fn(&mut Settings, &mut local::Settings);

/// Changes that make a gate which is not the one that is explained.
const CHANGES: &[(&str, Change)] = &[
    ("uplink deny", |gate, _| gate.roles.iter_mut().for_each(|role| role.uplink.retain(|rule| !rule.deny))),
    ("max-payload of a rule", |gate, _| uplink(gate, |rule| rule.max_payload = None)),
    ("max-payload of a role", |gate, _| gate.roles.iter_mut().for_each(|role| role.max_payload = None)),
    ("content-formats", |gate, _| uplink(gate, |rule| rule.content_formats.clear())),
    ("delete", |gate, _| uplink(gate, |rule| rule.delete = true)),
    ("retain", |gate, _| uplink(gate, |rule| rule.retain = false)),
    ("qos", |gate, _| uplink(gate, |rule| rule.qos = QoS::AtLeastOnce)),
    ("query", |gate, _| uplink(gate, |rule| rule.query = QueryUse::Publish)),
    ("topic", |gate, _| uplink(gate, |rule| rule.topic = None)),
    ("tags", |gate, _| gate.devices.iter_mut().for_each(|device| device.tags = Tags::default())),
    ("on-behalf deny", |gate, _| {
        gate.roles.iter_mut().for_each(|role| role.on_behalf.retain(|rule| !rule.deny));
    }),
    ("on-behalf roles", |gate, _| {
        let rules = gate.roles.iter_mut().flat_map(|role| &mut role.on_behalf);
        rules.for_each(|rule| rule.roles.clear());
    }),
    ("downlink", |gate, _| gate.roles.iter_mut().for_each(|role| role.downlink.clear())),
    ("tags of local rules", |_, mqtt| {
        mqtt.local.iter_mut().for_each(|(_, rules)| {
            rules.publish.retain(|rule| !rule.topic.contains("{tag."));
            rules.subscribe.retain(|rule| !rule.topic.contains("{tag."));
        });
    }),
    ("local-publish deny", |_, mqtt| {
        mqtt.local.iter_mut().for_each(|(_, rules)| rules.publish.retain(|rule| !rule.deny));
    }),
    ("local-publish qos", |_, mqtt| {
        mqtt.local.iter_mut().flat_map(|(_, rules)| &mut rules.publish).for_each(|rule| rule.grant.qos = 2);
    }),
    ("local-publish retain", |_, mqtt| {
        let rules = mqtt.local.iter_mut().flat_map(|(_, rules)| &mut rules.publish);
        rules.for_each(|rule| rule.grant.retain = true);
    }),
    ("local-subscribe deny", |_, mqtt| {
        mqtt.local.iter_mut().for_each(|(_, rules)| rules.subscribe.retain(|rule| !rule.deny));
    }),
    ("max-queued", |_, mqtt| mqtt.max_queued = 100),
];

fn uplink(gate: &mut Settings, change: impl Fn(&mut crate::gate::UplinkRule)) {
    gate.roles.iter_mut().flat_map(|role| &mut role.uplink).filter(|rule| !rule.deny).for_each(change);
}

#[test]
fn a_gate_with_other_rules_than_those_that_are_explained_is_found_out() {
    let mut runner = TestRunner::deterministic();
    let mut counts = [0; 2];
    let mut hidden: Vec<_> = CHANGES.to_vec();
    for _ in 0..600 {
        let rules = configuration().new_tree(&mut runner).expect("a configuration").current();
        let asked = asked().new_tree(&mut runner).expect("questions").current();
        let loaded = load(&rules);
        let settings = &loaded.settings;
        let mut running = Running::new(&settings.gate, &settings.mqtt);
        assert_eq!(disagreement(&loaded, &mut running, &asked, &mut counts), None, "{rules}");
        hidden.retain(|(_, change)| {
            let (mut gate, mut mqtt) = (settings.gate.clone(), settings.mqtt.clone());
            change(&mut gate, &mut mqtt);
            let mut running = Running::new(&gate, &mqtt);
            disagreement(&loaded, &mut running, &asked, &mut [0; 2]).is_none()
        });
        if hidden.is_empty() {
            break;
        }
    }
    let hidden: Vec<&str> = hidden.into_iter().map(|(name, _)| name).collect();
    assert_eq!(hidden, [""; 0], "changes that no question showed");
    // Neither verdict is rare.
    let [allowed, refused] = counts;
    assert!(allowed * 20 > refused && refused * 20 > allowed, "{allowed} allowed, {refused} refused");
}
