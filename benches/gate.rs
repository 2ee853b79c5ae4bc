//! The cost of the gate with 1,000 rules and 10,000 devices.
//!
//! `cargo bench --bench gate`. The times are of the fastest of several rounds; every round has
//! readings of all devices, in an order that is unfavourable for the cache. For comparison, the
//! cost of testing the same rules one by one.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tombolo::gate::pattern::Pattern;
use tombolo::gate::template::Template;
use tombolo::gate::{Device, DeviceIndex, Gate, Psk, Quota, Received, Role, Settings, UplinkRule};
use tombolo::message::{Method, Name, Path, Stamp};

const DEVICES: usize = 10_000;
const RULES: usize = 1_000;
const ROUNDS: usize = 200;
const PAYLOAD: &[u8] = b"{\"t\":21.5,\"rh\":40.25,\"battery\":3.01,\"n\":1}";

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name made here follows the grammar")
}

fn rule(number: usize) -> UplinkRule {
    // Literals, wildcards and captures in every depth; all share their first level with nine
    // others.
    let (path, topic) = match number % 4 {
        0 => (format!("site-{}/sensor-{number}/value", number / 10), None),
        1 => (format!("site-{}/sensor-{number}/+", number / 10), None),
        2 => (
            format!("site-{}/+/kind-{number}/#", number / 10),
            Some("{prefix}/{device}/k/{1}/{rest}".to_owned()),
        ),
        _ => (format!("site-{}/sensor-{number}/#", number / 10), Some("plant/{gateway}/{rest}".to_owned())),
    };
    UplinkRule {
        topic: topic.map(|topic| Template::parse(&topic).expect("the templates made here parse")),
        ..UplinkRule::new(
            name(&format!("rule-{number}")),
            Pattern::parse(&path).expect("the patterns made here parse"),
        )
    }
}

fn settings(rules: usize) -> Settings {
    let mut uplink: Vec<UplinkRule> = (0..rules).map(rule).collect();
    uplink.push(UplinkRule {
        deny: true,
        path: Pattern::parse("+/+/secret").expect("it parses"),
        ..rule(rules)
    });
    uplink.push(UplinkRule {
        topic: Some(Template::parse("{prefix}/{rest}").expect("it parses")),
        path: Pattern::parse("own/#").expect("it parses"),
        ..rule(rules + 1)
    });
    let role = Role {
        quota: Quota { messages: u32::MAX, bytes: 1 << 50, per: Duration::from_secs(1), burst: u32::MAX },
        uplink,
        ..Role::new(name("sensor"))
    };
    let devices = (0..DEVICES).map(|number| Device {
        psk: Some(Psk {
            identity: format!("device-{number}").into_bytes(),
            key: b"0123456789abcdef".to_vec().into(),
        }),
        ..Device::new(name(&format!("device-{number}")), name("sensor"))
    });
    Settings {
        gateway: name("greenhouse-7"),
        prefix: "tombolo/greenhouse-7".to_owned(),
        reading: Template::parse("{prefix}/{device}/up/{path}").ok(),
        own: Default::default(),
        reply: None,
        roles: vec![role],
        devices: devices.map(Device::into).collect(),
        fleets: Vec::new(),
        withheld: Default::default(),
    }
}

fn resident_kb() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}

/// The fastest round, in nanoseconds for each of `count`.
fn fastest(count: usize, mut round: impl FnMut()) -> f64 {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed()
    });
    times.min().unwrap_or_default().as_nanos() as f64 / count as f64
}

fn admit(gate: &mut Gate, devices: &[DeviceIndex], paths: &[Path<'_>]) -> (f64, usize) {
    let mut passed = 0;
    let stamp = Stamp { boottime_ms: 1, wall_ms: None };
    let now = Instant::now();
    let time = fastest(devices.len(), || {
        passed = 0;
        for (device, path) in devices.iter().zip(paths.iter().cycle()) {
            let received = Received {
                path: *path,
                query: None,
                method: Method::Post,
                payload: PAYLOAD,
                content_format: None,
                blockwise: false,
                stamp,
            };
            passed += usize::from(black_box(gate.admit(now, *device, black_box(received))).is_ok());
        }
    });
    (time, passed)
}

fn naive(patterns: &[Pattern], paths: &[Path<'_>]) -> f64 {
    fastest(paths.len(), || {
        for path in paths {
            let matching = patterns.iter().filter(|pattern| pattern.matches(black_box(*path)));
            black_box(matching.min_by(|a, b| a.specificity(b)));
        }
    })
}

fn main() {
    let before = resident_kb();
    let given = settings(RULES);
    let with_settings = resident_kb();
    let copy = given.clone();
    let start = Instant::now();
    let mut gate = Gate::new(copy, start);
    let built = start.elapsed();
    assert_eq!(gate.problems(), []);
    println!("{RULES} rules, {DEVICES} devices");
    println!("build                          {:>10.1} ms", built.as_secs_f64() * 1e3);
    let kb = resident_kb().saturating_sub(with_settings);
    println!(
        "resident                       {:>10} B a device, besides settings of {} KB",
        kb * 1024 / DEVICES as u64,
        with_settings - before
    );
    let start = Instant::now();
    let replaced = gate.replace(given, start);
    println!("replace by the same            {:>10.1} ms", start.elapsed().as_secs_f64() * 1e3);
    assert!(replaced.is_empty());

    let mut devices: Vec<DeviceIndex> = gate.devices(Instant::now()).map(|view| view.index).collect();
    // A fixed shuffle: 7,919 is prime to 10,000.
    devices = (0..DEVICES).map(|at| devices[at * 7_919 % DEVICES]).collect();
    let texts =
        |make: fn(usize) -> String| -> Vec<String> { (0..997).map(|n| make(n * 401 % RULES)).collect() };
    let cases: [(&str, Vec<String>); 7] = [
        ("a literal rule", texts(|n| format!("site-{}/sensor-{}/value", n / 10 / 4 * 4, n / 10 / 4 * 40))),
        (
            "any rule",
            texts(|n| match n % 4 {
                2 => format!("site-{}/room/kind-{n}/a/b", n / 10),
                _ => format!("site-{}/sensor-{n}/value", n / 10),
            }),
        ),
        ("captures", texts(|n| format!("site-{}/room/kind-{}/a/b", (n / 4 * 4 + 2) / 10, n / 4 * 4 + 2))),
        ("no rule, 1 level", texts(|n| format!("x{n}"))),
        ("no rule, 16 levels", texts(|n| format!("site-{}{}", n / 10, "/abc".repeat(15)))),
        ("denied", texts(|n| format!("site-{}/sensor-{n}/secret", n / 10))),
        ("guarded for each reading", texts(|n| format!("own/other-{n}/x"))),
    ];
    let patterns: Vec<Pattern> = (0..RULES).map(|number| rule(number).path).collect();
    println!("{:30} {:>10} {:>12} {:>18}", "ns a reading", "admit", "passed", "naive match alone");
    for (what, texts) in &cases {
        let paths: Vec<Path<'_>> = texts.iter().filter_map(|text| Path::parse(text).ok()).collect();
        assert_eq!(paths.len(), texts.len(), "{what}");
        let (time, passed) = admit(&mut gate, &devices, &paths);
        println!("{what:30} {time:>10.0} {:>11}% {:>18.0}", passed * 100 / DEVICES, naive(&patterns, &paths));
    }
    let mut small = Gate::new(settings(4), Instant::now());
    let index = small.device_by_id("device-1").expect("it is known");
    let path = [Path::parse("site-0/sensor-0/value").expect("it is a path")];
    let (time, _) = admit(&mut small, &vec![index; DEVICES], &path);
    println!("{:30} {time:>10.0}", "4 rules, one device, all hot");
    let now = Instant::now();
    let told = std::iter::from_fn(|| gate.poll_presence(now)).count();
    let time = fastest(DEVICES, || {
        for device in &devices {
            gate.seen(black_box(now), *device);
        }
        assert!(gate.poll_presence(now).is_none());
    });
    println!("{:30} {time:>10.0}   ({told} were told of)", "a sign of life");
}
