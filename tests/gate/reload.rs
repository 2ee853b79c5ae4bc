use std::time::{Duration, Instant};

use tombolo::gate::stage::Refusal;
use tombolo::gate::{Gate, Gone, Prepared, Quota, Settings};

use super::*;

fn tight(burst: u32) -> Settings {
    let mut role = role("sensor", vec![rule("all", "#")]);
    role.quota = Quota { messages: 1, bytes: 1_000, per: HOUR, burst };
    settings(vec![role], vec![device("door-7", "sensor"), device("lab", "sensor"), device("meter", "sensor")])
}

#[test]
fn a_device_that_stays_keeps_its_index_its_counters_and_its_quota() {
    let now = Instant::now();
    let mut gate = Gate::new(tight(1), now);
    let door = gate.device_by_id("door-7").unwrap();
    assert!(post(&mut gate, "t").is_ok());
    // Another name for the role, other rules, the same quota.
    let mut settings = tight(1);
    settings.roles[0].name = name("window");
    settings.roles[0].uplink = vec![rule("only", "t")];
    settings.devices.iter_mut().for_each(|device| device.role = name("window"));
    settings.devices.reverse();
    let replaced = gate.replace(Prepared::new(settings), now);
    assert_eq!(replaced, []);
    assert_eq!(gate.device_by_id("door-7"), Some(door));
    assert!(matches!(post(&mut gate, "t"), Err(Refusal::OverQuota { .. })));
    assert_eq!(post(&mut gate, "u"), Err(Refusal::NoRule));
    assert_eq!(gate.device(now, door).unwrap().accepted, 1);
    // Another quota starts full.
    gate.replace(tight(2), now);
    assert!(post(&mut gate, "t").is_ok());
    assert!(post(&mut gate, "t").is_ok());
    assert!(post(&mut gate, "t").is_err());
}

#[test]
fn removed_devices_are_named_and_their_indices_go_stale_and_a_changed_key_leaves_the_index() {
    let now = Instant::now();
    let mut gate = Gate::new(tight(5), now);
    let before = |id: &str, gate: &Gate| Gone { device: gate.device_by_id(id).unwrap(), id: name(id) };
    let (door, lab, meter) = (before("door-7", &gate), before("lab", &gate), before("meter", &gate));
    let mut settings = tight(5);
    settings.devices.retain(|device| device.id.as_str() != "lab");
    settings.devices[0].psk = Some(psk("door-7", "new key"));
    assert_eq!(gate.replace(settings, now), std::slice::from_ref(&lab));
    let reading = received(Method::Post, "t", b"");
    assert_eq!(gate.admit(now, lab.device, reading).map(drop), Err(Refusal::UnknownDevice));
    assert!(gate.device(now, lab.device).is_none());
    assert_eq!(gate.identify_psk(b"lab"), None);
    assert_eq!(gate.identify_psk(b"door-7"), Some(door.device));
    assert_eq!(gate.identify_psk(b"meter").unwrap(), meter.device);
    // A newcomer takes the free slot, and the stale index does not come to mean it.
    let mut settings = tight(5);
    settings.devices[1] = device("newcomer", "sensor").into();
    assert_eq!(gate.replace(settings, now), []);
    assert_ne!(gate.device_by_id("newcomer").unwrap(), lab.device);
    assert!(gate.device(now, lab.device).is_none());
    assert_eq!(gate.device_count(), 3);
}

#[test]
fn a_device_that_comes_back_is_a_new_one() {
    let now = Instant::now();
    let mut gate = Gate::new(tight(5), now);
    let lab = gate.device_by_id("lab").unwrap();
    let mut without = tight(5);
    without.devices.remove(1);
    gate.replace(without, now);
    gate.replace(tight(5), now);
    assert_ne!(gate.device_by_id("lab"), Some(lab));
    assert!(gate.device(now, lab).is_none());
}

#[test]
fn a_changed_identity_is_the_only_one_that_is_known() {
    let now = Instant::now();
    let mut gate = Gate::new(tight(5), now);
    let mut settings = tight(5);
    settings.devices[0].psk = Some(psk("other-name", "key of door-7"));
    let door = gate.device_by_id("door-7");
    assert_eq!(gate.replace(settings, now), []);
    assert_eq!(gate.identify_psk(b"door-7"), None);
    assert!(door.is_some() && gate.identify_psk(b"other-name") == door);
}

#[test]
fn presence_outlives_a_reload_and_is_told_anew_under_another_prefix() {
    let start = Instant::now();
    let mut gate = Gate::new(tight(5), start);
    post(&mut gate, "t").unwrap();
    let told: Vec<_> = std::iter::from_fn(|| gate.poll_presence(Instant::now())).collect();
    assert_eq!(told.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), ["door-7"]);
    let now = Instant::now();
    gate.replace(tight(5), now);
    assert_eq!(gate.poll_presence(now), None);
    gate.replace(Settings { prefix: "elsewhere/gw".into(), ..tight(5) }, now);
    let change = gate.poll_presence(now).unwrap();
    assert_eq!((change.id.as_str(), change.online), ("door-7", true));
    assert_eq!(gate.poll_presence(now), None);
    // A shorter patience counts at once.
    let mut hasty = tight(5);
    hasty.prefix = "elsewhere/gw".into();
    hasty.roles[0].offline_after = Duration::from_secs(10);
    gate.replace(hasty, now);
    let change = gate.poll_presence(now + Duration::from_secs(70)).unwrap();
    assert!(!change.online);
}

#[test]
fn a_muted_device_is_heard_after_its_quota_is_changed() {
    let now = Instant::now();
    let mut gate = Gate::new(tight(1), now);
    let door = gate.device_by_id("door-7").unwrap();
    assert!(post(&mut gate, "t").is_ok());
    while gate.device(now, door).unwrap().limited.is_none_or(|limited| limited.mutes() == 0) {
        let refused = post(&mut gate, "t").unwrap_err();
        gate.note_over_quota(now, door, refused);
    }
    assert!(matches!(gate.check_mute(now, door, "t"), Some(Refusal::Muted { .. })));
    gate.replace(tight(1), now);
    assert!(gate.check_mute(now, door, "t").is_some(), "the same quota");
    gate.replace(tight(2), now);
    assert_eq!(gate.check_mute(now, door, "t"), None);
    assert_eq!(gate.device(now, door).unwrap().limited.unwrap().mutes(), 1, "it is not forgotten");
}
