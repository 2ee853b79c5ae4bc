//! Patterns, templates and paths from any bytes: no panic, and a reading that passes the gate has a
//! valid topic outside the spaces of other devices.
//!
//! Input: lines; a pattern, its topic, then paths.
#![no_main]

use std::sync::LazyLock;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tombolo::gate::pattern::Pattern;
use tombolo::gate::template::Template;
use tombolo::gate::{Device, Gate, Quota, Received, Role, Settings, UplinkRule};
use tombolo::message::{Method, Name, PathBuffer, Stamp, TOPIC_MAX};

static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn name(text: &str) -> Name {
    Name::parse(text).expect("the names here follow the grammar")
}

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    let (path, topic) = (Pattern::parse(text()), Template::parse(text()));
    let (Ok(path), Ok(topic)) = (path, topic) else { return };
    assert_eq!(Pattern::parse(path.as_str()).as_ref(), Ok(&path));
    assert_eq!(Template::parse(topic.as_str()).as_ref(), Ok(&topic));
    let rule = UplinkRule { topic: Some(topic), ..UplinkRule::new(name("rule"), path.clone()) };
    let role = Role {
        quota: Quota { burst: u32::MAX, ..Quota::default() },
        uplink: vec![rule],
        ..Role::new(name("sensor"))
    };
    let device = |id| Device::new(name(id), name("sensor"));
    let mut gate = Gate::new(
        Settings {
            gateway: name("gw"),
            prefix: "tombolo/gw".to_owned(),
            reading: Template::parse("{prefix}/{device}/up/{path}").ok(),
            own: Default::default(),
            reply: None,
            roles: vec![role],
            devices: vec![device("door-7").into(), device("other").into()],
            fleets: Vec::new(),
            withheld: Default::default(),
        },
        *NOW,
    );
    // `other` is unknown if the topic has that level as a literal; then its space has no owner.
    let other = gate.device_by_id("other").is_some();
    let Some(door) = gate.device_by_id("door-7") else { return };
    let stamp = Stamp { boottime_ms: 0, wall_ms: None };
    for line in lines.take(16) {
        let mut buffer = PathBuffer::default();
        let Ok(said) = buffer.join(line.split(|byte| *byte == b'/')) else { continue };
        if said.as_str().contains("%3F") {
            continue;
        }
        let as_typed = said.as_str().replace('?', "%3F");
        let explained = gate.explain(*NOW, "door-7", Method::Post, &as_typed);
        let received = Received {
            path: said,
            query: None,
            method: Method::Post,
            payload: b"",
            content_format: None,
            blockwise: false,
            stamp,
        };
        let Ok(Some(mapped)) = gate.admit(*NOW, door, received).map(|admitted| admitted.passed()) else {
            assert!(!explained.allowed);
            continue;
        };
        let topic = mapped.content().topic;
        assert!(path.matches(said));
        assert_eq!(explained.publish.map(|publish| publish.topic).as_deref(), Some(topic));
        assert!((1..=TOPIC_MAX).contains(&topic.len()) && !topic.starts_with('$'));
        assert!(!topic.chars().any(|c| c.is_control() || matches!(c, '+' | '#')));
        assert!(topic.split('/').all(|level| !level.is_empty()));
        let whose = topic.strip_prefix("tombolo/gw/").and_then(|tail| tail.split('/').next());
        assert!(whose != Some("gateway") && !(other && whose == Some("other")));
    }
});
