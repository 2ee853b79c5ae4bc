use std::time::Instant;

use tombolo::gate::Gate;

use super::*;

#[test]
fn ten_thousand_devices_and_a_thousand_rules_are_one_gate() {
    let rules: Vec<_> =
        (0..1_000).map(|n| to(&format!("r{n}"), &format!("t{n}/+/#"), "{prefix}/{device}/{1}")).collect();
    let devices: Vec<_> = (0..10_000).map(|n| device(&format!("d{n}"), "sensor")).collect();
    let mut gate = Gate::new(settings(vec![role("sensor", rules)], devices.clone()), Instant::now());
    assert_eq!(gate.problems(), []);
    assert_eq!(gate.device_count(), 10_000);
    for n in 0..1_000 {
        let said = say_as(&mut gate, &format!("d{}", n * 10), Method::Post, &format!("t{n}/x/y"), b"", |c| {
            c.topic.to_owned()
        });
        assert_eq!(said.unwrap(), (format!("tombolo/gw/d{}/x", n * 10), format!("r{n}")));
    }
    assert!(devices.iter().all(|device| gate.identify_psk(device.id.as_str().as_bytes()).is_some()));
}
