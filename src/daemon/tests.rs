//! What `acl explain` and `acl test` say agrees with the gate and the MQTT listener that run, under
//! any rules.

mod agreement;
mod commands;

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::config::acl::{Question, explain};
use crate::config::io::test_device_rules as load;
use crate::gate::stage::Admitted;
use crate::gate::{Gate, Supposed};
use crate::message::{ContentFormat, Method, Path, QueryBuffer, Stamp};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

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
