//! No identity, path or capture maps to a topic outside of the device's own space.

use std::time::Instant;

use proptest::prelude::*;
use tombolo::gate::certificate::NameKind;
use tombolo::gate::pattern::Pattern;
use tombolo::gate::stage::{Refusal, TopicFault};
use tombolo::gate::template::Template;
use tombolo::gate::{Gate, Settings};
use tombolo::message::{PathBuffer, TOPIC_MAX};
use tombolo::proto::dtls::PeerIdentity;

use super::identity::{fleet, proved, with_name};
use super::*;

const FOREIGN: Refusal = Refusal::Topic(TopicFault::ForeignSpace);

#[test]
fn a_device_cannot_name_another_where_ids_stand() {
    let mut gate = gate(vec![to("all", "#", "{prefix}/{path}"), to("one", "o/+", "tombolo/gw/{1}/up")]);
    assert_eq!(post(&mut gate, "door-7/up/x").unwrap().0, "tombolo/gw/door-7/up/x");
    assert_eq!(post(&mut gate, "o/door-7").unwrap().0, "tombolo/gw/door-7/up");
    for path in ["other", "other/up/x", "gateway/status", "unheard-of/x", "door-70", "door"] {
        assert_eq!(post(&mut gate, path), Err(FOREIGN), "{path}");
    }
    assert_eq!(post(&mut gate, "o/gateway"), Err(FOREIGN));
}

#[test]
fn a_device_cannot_spell_the_prefix_out() {
    let mut gate = gate(vec![to("all", "#", "tombolo/{rest}")]);
    assert_eq!(post(&mut gate, "gw/door-7/x").unwrap().0, "tombolo/gw/door-7/x");
    for path in ["gw/other/x", "gw/gateway/status", "gw/gateway"] {
        assert_eq!(post(&mut gate, path), Err(FOREIGN), "{path}");
    }
    // Nor may it speak for another gateway.
    for path in ["tb-12345678/door-7/x", "gw2/x", "x"] {
        assert_eq!(post(&mut gate, path), Err(FOREIGN), "{path}");
    }
}

#[test]
fn the_place_of_the_device_is_where_the_topic_of_readings_has_it() {
    let mut settings = settings(
        vec![role(
            "sensor",
            vec![rule("all", "#"), to("s", "s/#", "site/{rest}"), to("p", "p/#", "{prefix}/up/{rest}")],
        )],
        vec![device("door-7", "sensor"), device("other", "sensor")],
    );
    settings.reading = Some(Template::parse("site/{role}/{device}/{path}").unwrap());
    let mut gate = Gate::new(settings, Instant::now());
    assert_eq!(gate.problems(), []);
    assert_eq!(post(&mut gate, "t").unwrap().0, "site/sensor/door-7/t");
    assert_eq!(post(&mut gate, "s/sensor/door-7/t").unwrap().0, "site/sensor/door-7/t");
    assert_eq!(post(&mut gate, "s/map").unwrap().0, "site/map");
    assert_eq!(post(&mut gate, "s/sensor/other/t"), Err(FOREIGN));
    // Commands and statuses stay under the prefix, so that is guarded all the same; `up` is the
    // owner's word.
    assert_eq!(post(&mut gate, "p/other").unwrap().0, "tombolo/gw/up/other");
}

#[test]
fn the_longest_topic_fits_and_one_byte_more_does_not() {
    let topic = |pad: usize| format!("x/{}/{{1}}", "y".repeat(pad));
    for (pad, fits) in [(1_024 - 2 - 1 - 64, true), (1_024 - 2 - 1 - 63, false)] {
        let mut gate = gate(vec![to("long", "+", &topic(pad))]);
        let result = post(&mut gate, &"z".repeat(64));
        match fits {
            true => assert_eq!(result.unwrap().0.len(), TOPIC_MAX),
            false => assert_eq!(result, Err(Refusal::Topic(TopicFault::TooLong))),
        }
    }
}

const IDS: [&str; 5] = ["door-7", "other", "up", "gw", "a"];

/// Words that mean something where they do not belong.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "door-7", "other", "up", "down", "gw", "gw2", "a", "b", "gateway", "tombolo", "site", "status",
            "$SYS", "$share", "sensor", "..", "%2f", "%2e%2e", "{device}", "{prefix}", "größe",
        ]).prop_map(str::to_owned),
        1 => "[a-z0-9._~$ ]{1,64}",
        1 => "\\PC{1,8}",
    ]
}

fn template() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        4 => prop::sample::select(vec![
            "{gateway}", "{device}", "{role}", "{path}", "{1}", "{2}", "{rest}", "{1}{2}", "x{1}", "{1}x",
            "{1}{device}", "{device}{device}", "{gateway}{1}",
        ]).prop_map(str::to_owned),
        2 => word().prop_map(|word| word.replace(['{', '}'], "x")),
    ];
    let first = prop::sample::select(vec![
        "{prefix}",
        "{prefix}",
        "tombolo",
        "tombolo/gw",
        "site",
        "site/sensor",
        "x",
    ]);
    (first, prop::collection::vec(level, 0..6))
        .prop_map(|(first, levels)| [vec![first.to_owned()], levels].concat().join("/"))
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(word(), 1..8).prop_map(|words| words.join("/"))
}

/// Rules with these topics, as far as each is right by itself: a wrong one would close the others
/// of its role.
fn rules(templates: &[String], settings: &Settings) -> Vec<UplinkRule> {
    let patterns = ["#", "+/#", "+/+", "+", "+/+/#"];
    let rules: Vec<_> = templates
        .iter()
        .zip(patterns)
        .enumerate()
        .filter_map(|(number, (topic, pattern))| {
            let topic = Some(Template::parse(topic).ok()?);
            let pattern = Pattern::parse(pattern).ok()?;
            topic.as_ref()?.check_captures(&pattern).ok()?;
            Some(UplinkRule { topic, path: pattern, ..rule(&format!("r{number}"), "x") })
        })
        .collect();
    rules
        .into_iter()
        .filter(|rule| {
            let mut alone = settings.clone();
            alone.roles = vec![role("sensor", vec![rule.clone()])];
            tombolo::gate::check(&alone)
                .iter()
                .all(|problem| !matches!(problem.item, tombolo::gate::Item::Rule { .. }))
        })
        .collect()
}

/// A certificate of hostile words, mostly.
fn certificate() -> impl Strategy<Value = PeerIdentity> {
    let cn = prop::option::of(word());
    let dns = prop::collection::vec(
        prop_oneof![
            word().prop_map(|word| format!("door-{word}.example")),
            Just("DOOR-7.Example".to_owned()),
            Just("*.example".to_owned()),
        ],
        0..3,
    );
    let uris = prop::collection::vec(
        prop_oneof![Just("urn:named".to_owned()), Just("urn:named\0".to_owned()), word()],
        0..2,
    );
    (cn, dns, uris, 0..3_u8).prop_map(|(cn, dns, uris, key)| {
        let names = uris.iter().map(|name| (NameKind::Uri, &name[..]));
        let names = names.chain(dns.iter().map(|name| (NameKind::Dns, &name[..])));
        let names = names.chain(cn.iter().map(|name| (NameKind::CommonName, &name[..])));
        let mut identity = proved(&names.collect::<Vec<_>>());
        identity.key_hash = [key; 32];
        PeerIdentity::Certificate(identity.into())
    })
}

/// Whatever `me` says at these paths, it stays in its own space.
fn stays(
    gate: &mut Gate,
    me: &str,
    known: &[&str],
    templates: &[String],
    prefix: &str,
    paths: &[String],
) -> Result<(), TestCaseError> {
    for text in paths {
        let mut buffer = PathBuffer::default();
        // As CoAP hands it over: the raw segments, a slash inside one of them included.
        let Ok(path) = buffer.join(text.split('/').map(str::as_bytes)) else { continue };
        let path = path.as_str().to_owned();
        let Ok((topic, _)) = say_as(gate, me, Method::Post, &path, b"", |c| c.topic.to_owned()) else {
            continue;
        };
        // A topic any broker takes.
        prop_assert!((1..=TOPIC_MAX).contains(&topic.len()), "{}", topic);
        prop_assert!(
            !topic.contains(['+', '#', '\0']) && !topic.chars().any(char::is_control),
            "{:?}",
            topic
        );
        prop_assert!(topic.split('/').all(|level| !level.is_empty()), "{}", topic);
        prop_assert!(!topic.starts_with('$'), "{}", topic);
        // Not in another device's space.
        if let Some(tail) = topic.strip_prefix(&format!("{prefix}/")) {
            let whose = tail.split('/').next().unwrap();
            prop_assert_ne!(whose, "gateway", "{}", topic);
            prop_assert!(whose == me || !known.contains(&whose), "{} published {}", me, topic);
            // What is neither is the owner's word, never the device's.
            let written = templates.iter().any(|template| {
                let levels = template
                    .replace("{prefix}", prefix)
                    .replace("{gateway}", "gw")
                    .replace("{role}", "sensor");
                levels.split('/').any(|level| level == whose)
            });
            prop_assert!(whose == me || written, "{} chose {}", me, topic);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, max_global_rejects: 200_000, ..ProptestConfig::default() })]

    #[test]
    fn no_identity_path_or_capture_leads_out_of_a_devices_space(
        templates in prop::collection::vec(template(), 1..5),
        reading in template(),
        prefix in prop::sample::select(vec!["tombolo/gw", "tombolo/gw", "gw", "t", "a/b/c"]),
        paths in prop::collection::vec(path(), 1..20),
        who in 0..IDS.len(),
    ) {
        let devices = IDS.iter().map(|id| device(id, "sensor")).collect();
        let mut settings = Settings { prefix: prefix.to_owned(), ..settings(Vec::new(), devices) };
        settings.reading = Template::parse(&reading).ok();
        settings.roles = vec![role("sensor", rules(&templates, &settings))];
        let mut gate = Gate::new(settings, Instant::now());
        let known: Vec<&str> = IDS.into_iter().filter(|id| gate.device_by_id(id).is_some()).collect();
        let Some(me) = known.get(who).copied() else { return Ok(()) };
        stays(&mut gate, me, &known, &templates, prefix, &paths)?;
    }

    #[test]
    fn no_certificate_makes_a_device_that_leads_out_of_its_space(
        templates in prop::collection::vec(template(), 1..4),
        certificates in prop::collection::vec(certificate(), 1..12),
        paths in prop::collection::vec(path(), 1..8),
    ) {
        let devices = IDS.iter().map(|id| device(id, "sensor")).collect();
        let mut settings = settings(Vec::new(), devices);
        settings.roles = vec![role("sensor", rules(&templates, &settings))];
        settings.devices.push(with_name("named", NameKind::Uri, "urn:named").into());
        let keyed = Device { psk: None, public_key: Some([1; 32]), ..device("keyed", "sensor") };
        settings.devices.push(keyed.into());
        settings.fleets = vec![fleet("any", NameKind::CommonName, "{id}"), fleet("doors", NameKind::Dns, "door-{id}.example")];
        settings.withheld.ids = vec![name("b")];
        let mut gate = Gate::new(settings, Instant::now());
        let now = Instant::now();
        let mut owners = std::collections::HashMap::new();
        for certificate in &certificates {
            let Ok(index) = gate.identify(now, certificate) else { continue };
            let view = gate.device(now, index).expect("it was identified");
            let (id, fleet) = (view.id.to_string(), view.fleet.map(ToString::to_string));
            // A created device never has the id of another one.
            if let Some(fleet) = &fleet {
                prop_assert!(!IDS.contains(&id.as_str()) && !["gateway", "b", "named", "keyed"].contains(&id.as_str()), "{}", id);
                let owner = owners.entry(id.clone()).or_insert_with(|| fleet.clone());
                prop_assert_eq!(owner, fleet);
            } else {
                prop_assert!(id == "named" || id == "keyed", "{}", id);
            }
            prop_assert_eq!(gate.identify(now, certificate), Ok(index));
            prop_assert_eq!(gate.recognise(certificate), Some(index));
            let known: Vec<String> = gate.devices(now).map(|view| view.id.to_string()).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            stays(&mut gate, &id, &known, &templates, "tombolo/gw", &paths)?;
        }
    }

    #[test]
    fn the_topic_of_readings_always_stays_in_the_devices_own_space(path in path(), who in 0..IDS.len()) {
        let devices = IDS.iter().map(|id| device(id, "sensor")).collect();
        let mut gate = Gate::new(settings(vec![role("sensor", vec![rule("all", "#")])], devices), Instant::now());
        let mut buffer = PathBuffer::default();
        if let Ok(path) = buffer.join(path.split('/').map(str::as_bytes)) && !path.is_reserved() {
            let path = path.as_str().to_owned();
            let topic = say_as(&mut gate, IDS[who], Method::Post, &path, b"", |c| c.topic.to_owned()).unwrap().0;
            prop_assert_eq!(topic, format!("tombolo/gw/{}/up/{}", IDS[who], path));
        }
    }

    #[test]
    fn any_text_is_a_template_or_an_error_and_expands_within_its_bounds(text in ".{0,60}", path in path()) {
        let Ok(template) = Template::parse(&text) else { return Ok(()) };
        let all = UplinkRule { topic: Some(template), ..rule("all", "#") };
        let settings = settings(vec![role("sensor", vec![all])], vec![device("door-7", "sensor")]);
        let mut gate = Gate::new(settings, Instant::now());
        let mut buffer = PathBuffer::default();
        if let Ok(path) = buffer.join(path.split('/').map(str::as_bytes)) {
            let path = path.as_str().to_owned();
            if let Ok((length, _)) = say_as(&mut gate, "door-7", Method::Post, &path, b"", |c| c.topic.len()) {
                prop_assert!((1..=TOPIC_MAX).contains(&length));
            }
        }
    }
}
