//! Conditions on any payload, as JSON and as CBOR: no panic, what an explanation says is what the
//! gate does, and JSON is judged as `serde_json` has it.
//!
//! Input: a byte that chooses the content format, then the payload.
#![no_main]

use std::sync::LazyLock;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tombolo::gate::condition::{Operand, Test, When};
use tombolo::gate::field::FieldPointer;
use tombolo::gate::pattern::Pattern;
use tombolo::gate::settings::ReadingFilter;
use tombolo::gate::template::Template;
use tombolo::gate::{Admitted, Device, Gate, Quota, Received, Role, Settings, Supposed, UplinkRule};
use tombolo::message::{ContentFormat, Method, Name, Path, Stamp};

static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn name(text: &str) -> Name {
    Name::parse(text).expect("the names here follow the grammar")
}

fn at(pointer: &str, test: Test) -> (Option<FieldPointer>, Test) {
    (FieldPointer::parse(pointer).ok(), test)
}

/// A gate that holds back at `/t` what is not above 30, at `any` what no alternative holds for, and
/// at `n` what differs little at `/t`.
fn gate() -> Gate {
    let rule = |path: &str, filter: ReadingFilter| UplinkRule {
        filter,
        ..UplinkRule::new(name(path), Pattern::parse(path).expect("a pattern"))
    };
    let when = |conditions| ReadingFilter {
        when: When::new(conditions).expect("few comparisons"),
        ..ReadingFilter::default()
    };
    let any = vec![
        at("/a/0/t", Test::Is(Operand::Text("x".into()))),
        at("/a", Test::Present(true)),
        (None, Test::Below(5.0)),
    ];
    let band = ReadingFilter {
        dead_band: Some(1.0),
        dead_band_field: FieldPointer::parse("/t").ok(),
        ..ReadingFilter::default()
    };
    let rules = vec![
        rule("t", when(vec![vec![at("/t", Test::Above(30.0))]])),
        rule("any", when(vec![any])),
        rule("n", band),
    ];
    let role = Role {
        quota: Quota { burst: u32::MAX, bytes: 1 << 40, ..Quota::default() },
        uplink: rules,
        ..Role::new(name("sensor"))
    };
    Gate::new(
        Settings {
            gateway: name("gw"),
            prefix: "tombolo/gw".to_owned(),
            reading: Template::parse("{prefix}/{device}/up/{path}").ok(),
            own: Default::default(),
            reply: None,
            roles: vec![role],
            devices: vec![Device::new(name("door-7"), name("sensor")).into()],
            fleets: Vec::new(),
            withheld: Default::default(),
        },
        *NOW,
    )
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, payload)) = data.split_first() else { return };
    let formats =
        [None, Some(ContentFormat::JSON), Some(ContentFormat::CBOR), Some(ContentFormat::SENML_CBOR)];
    let content_format = formats[usize::from(*choice) % formats.len()];
    let mut gate = gate();
    let door = gate.device_by_id("door-7").expect("it is known");
    for path in ["t", "any", "n", "n"] {
        let supposed = Supposed { content_format: Some(content_format), ..Supposed::default() };
        let said = gate.explain_supposed(*NOW, "door-7", Method::Post, path, supposed.with_payload(payload));
        let received = Received {
            path: Path::parse(path).expect("a path"),
            query: None,
            method: Method::Post,
            payload,
            content_format,
            blockwise: true,
            stamp: Stamp { boottime_ms: 0, wall_ms: None },
        };
        let Ok(admitted) = gate.admit(*NOW, door, received) else { continue };
        let held_back = match admitted {
            Admitted::Filtered(filtered) => Some(filtered.reason().to_string()),
            Admitted::Passed(_) => None,
        };
        assert_eq!(said.held_back, held_back);
        if path == "t" && *choice % 4 < 2 {
            let document: Option<Value> = serde_json::from_slice(payload).ok();
            let number = document.as_ref().and_then(|document| document.pointer("/t")?.as_f64());
            assert_eq!(held_back.is_some(), number.is_some_and(|number| number <= 30.0));
        }
    }
});
