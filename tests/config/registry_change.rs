//! Devices that are changed or imported, on a real disk.

use std::fs;

use tombolo::clock::UnixTime;
use tombolo::config::registry::io::{add, change, check_import, import, promote_psk};
use tombolo::config::registry::{OverlapEnd, Promoted};
use tombolo::gate::{Device, NextPsk, Psk};
use zeroize::Zeroizing;

use crate::registry::{Folder, MAIN, device};

fn ids(folder: &Folder) -> Vec<String> {
    folder.load().registry.entries().map(|entry| entry.device.id.to_string()).collect()
}

#[test]
fn a_change_keeps_everything_else_and_contradicts_no_other_device() {
    let folder = Folder::new("change");
    folder.write("tombolo.toml", MAIN);
    for id in ["a", "b"] {
        add(&folder.load(), &device(id, id)).unwrap();
    }
    change(&folder.load(), "a", |entry| {
        entry.device.label = Some("north".to_owned());
        entry.enabled = false;
        Ok(())
    })
    .unwrap();
    let loaded = folder.load();
    let known = loaded.known("a").unwrap();
    assert_eq!((known.switched_off, known.usable, known.label()), (true, false, Some("north")));
    assert!(loaded.settings.gate.devices.iter().all(|device| device.id.as_str() != "a"));
    assert!(loaded.settings.gate.withheld.ids.iter().any(|id| id.as_str() == "a"), "no fleet takes its id");
    assert!(loaded.findings.iter().all(|finding| finding.subject != "device a"), "that is no fault");
    let entry = loaded.registry.entry("a").unwrap();
    assert_eq!(entry.device.psk, device("a", "a").psk);
    assert!(entry.psk_since.is_some());
    let text = fs::read_to_string(folder.0.join("state/devices/a.toml")).unwrap();
    assert!(text.contains("tombolo-device 2.0"), "an older version must not let it in: {text}");
    let refused = change(&folder.load(), "b", |entry| {
        entry.device.psk = device("b", "a").psk;
        Ok(())
    });
    assert!(refused.unwrap_err().message.contains("device a has the same PSK identity"));
    assert!(
        change(&folder.load(), "fixed", |_| Ok(())).unwrap_err().message.contains("is in the configuration")
    );
    assert!(change(&folder.load(), "c", |_| Ok(())).unwrap_err().message.contains("it does not exist"));
}

#[test]
fn the_next_key_is_another_identity_of_the_device_until_it_takes_the_place_of_the_first() {
    let folder = Folder::new("next");
    folder.write("tombolo.toml", MAIN);
    add(&folder.load(), &device("a", "a")).unwrap();
    let next = || Psk { identity: b"a.2".to_vec(), key: Zeroizing::new(b"fedcba9876543210".to_vec()) };
    let until = tombolo::clock::UnixTime::from_secs(4_000_000_000);
    change(&folder.load(), "a", |entry| {
        entry.device.next_psk = Some(Box::new(NextPsk { psk: next(), until }));
        Ok(())
    })
    .unwrap();
    assert_eq!(folder.load().known("a").unwrap().next_psk_identity(), Some(&b"a.2"[..]));
    let refused = add(&folder.load(), &device("b", "a.2")).unwrap_err();
    assert!(refused.message.contains("device a has the same PSK identity"), "{refused}");
    let directory = folder.load().settings.paths.devices();
    let used = OverlapEnd::Used { used: next(), before: device("a", "a").psk, since: None };
    let early = OverlapEnd::Over { now: UnixTime::from_secs(3_999_999_999) };
    assert_eq!(promote_psk(&directory, "a", &early), Ok(Promoted::Nothing), "its time is not over");
    assert_eq!(promote_psk(&directory, "a", &used), Ok(Promoted::Next));
    assert_eq!(promote_psk(&directory, "a", &used), Ok(Promoted::Nothing), "once");
    let device = folder.load().registry.entry("a").unwrap().device.clone();
    assert_eq!((&device.psk, &device.next_psk), (&Some(next()), &None));
    assert_eq!(promote_psk(&directory, "b", &used), Ok(Promoted::Nothing), "it was removed meanwhile");
    fs::write(directory.join("b.toml"), "no device").unwrap();
    assert!(promote_psk(&directory, "b", &used).is_err());
}

#[test]
fn the_key_that_was_used_takes_the_place_of_the_first_and_no_other_that_was_made_meanwhile() {
    let folder = Folder::new("used");
    folder.write("tombolo.toml", MAIN);
    let psk = |identity: &str, key: &str| Psk {
        identity: identity.as_bytes().to_vec(),
        key: Zeroizing::new(key.as_bytes().to_vec()),
    };
    let until = UnixTime::from_secs(4_000_000_000);
    let (second, third) = (psk("a.2", "second-key-012345"), psk("a.3", "third-key-0123456"));
    let same = psk("a.2", "third-key-0123456");
    let other = psk("a", "revoked-all-01234");
    add(&folder.load(), &device("a", "a")).unwrap();
    let first = folder.load().registry.entry("a").unwrap().device.psk.clone();
    let directory = folder.load().settings.paths.devices();
    let since = Some(UnixTime::from_secs(1_738_368_000));
    let used = OverlapEnd::Used { used: second.clone(), before: first.clone(), since };
    // What is in the file when the use of the second key is written: the key, the next one; what
    // becomes of it.
    for (psk, next, becomes, key, then) in [
        (first.clone(), &second, Promoted::Next, Some(second.clone()), None),
        (first.clone(), &third, Promoted::NewerKept, Some(second.clone()), Some(&third)),
        // Two keys of one identity cannot be told apart: the one that the device has stays.
        (first.clone(), &same, Promoted::NewerDropped, Some(second.clone()), None),
        (Some(second.clone()), &third, Promoted::Nothing, Some(second.clone()), Some(&third)),
        // All keys of before were revoked: none comes back.
        (Some(other.clone()), &third, Promoted::Nothing, Some(other), Some(&third)),
    ] {
        change(&folder.load(), "a", |entry| {
            (entry.device.psk, entry.psk_since, entry.next_psk_since) = (psk, None, None);
            entry.device.next_psk = Some(Box::new(NextPsk { psk: next.clone(), until }));
            Ok(())
        })
        .unwrap();
        assert_eq!(promote_psk(&directory, "a", &used), Ok(becomes));
        let loaded = folder.load();
        let entry = loaded.registry.entry("a").unwrap();
        assert!(entry.device.psk == key, "{becomes:?}");
        assert_eq!(entry.device.next_psk.as_ref().map(|next| &next.psk), then, "{becomes:?}");
        if matches!(becomes, Promoted::NewerKept | Promoted::NewerDropped) {
            assert_eq!(entry.psk_since, since, "the date of the key that was used");
        }
    }
}

#[test]
fn the_age_of_a_key_is_that_of_the_key_that_is_in_use() {
    let folder = Folder::new("since");
    folder.write("tombolo.toml", MAIN);
    add(&folder.load(), &device("a", "a")).unwrap();
    let file = folder.0.join("state/devices/a.toml");
    let old = tombolo::clock::UnixTime::from_secs(1_738_368_000);
    let is_old = |text: &str| text.contains("psk-since = \"2025-02-01T00:00:00Z\"");
    let text = fs::read_to_string(&file).unwrap();
    let (before, since) = text.split_once("psk-since = \"").unwrap();
    let after = since.split_once('"').unwrap().1;
    fs::write(&file, format!("{before}psk-since = \"2025-02-01T00:00:00Z\"{after}")).unwrap();
    assert_eq!(folder.load().registry.entry("a").unwrap().psk_since, Some(old));
    // A second key leaves the date of the first, until it takes its place.
    let psk = Psk { identity: b"a.2".to_vec(), key: Zeroizing::new(b"fedcba9876543210".to_vec()) };
    let until = tombolo::clock::UnixTime::from_secs(4_000_000_000);
    change(&folder.load(), "a", |entry| {
        entry.device.next_psk = Some(Box::new(NextPsk { psk, until }));
        Ok(())
    })
    .unwrap();
    assert!(is_old(&fs::read_to_string(&file).unwrap()));
    let end = OverlapEnd::Over { now: until };
    assert_eq!(promote_psk(&folder.load().settings.paths.devices(), "a", &end), Ok(Promoted::Next));
    let since = folder.load().registry.entry("a").unwrap().psk_since;
    assert!(since.is_some_and(|since| since > old), "{since:?}");
}

fn many(count: usize) -> Vec<Device> {
    (0..count).map(|n| format!("unit-{n}")).map(|id| device(&id, &id)).collect()
}

#[test]
fn an_import_adds_all_or_none() {
    let folder = Folder::new("import");
    folder.write("tombolo.toml", MAIN);
    let mut devices = many(50);
    devices.push(device("other", "unit-7"));
    let refused = import(&folder.load(), &devices).unwrap_err();
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].message.contains("device unit-7 of the import has the same PSK identity"),
        "{}",
        refused[0]
    );
    assert_eq!(ids(&folder).len(), 0);
    devices.pop();
    assert_eq!(check_import(&folder.load(), &devices), []);
    import(&folder.load(), &devices).unwrap();
    assert_eq!(ids(&folder).len(), 50);
    let refused = import(&folder.load(), &devices).unwrap_err();
    assert_eq!((refused.len(), ids(&folder).len()), (50, 50));
}

#[test]
fn an_import_that_was_cut_off_is_there_whole_or_not_at_all() {
    let folder = Folder::new("import-cut");
    folder.write("tombolo.toml", MAIN);
    import(&folder.load(), &many(4)).unwrap();
    let devices = folder.0.join("state/devices");
    // Cut off before the rename.
    fs::create_dir(devices.join(".import-new")).unwrap();
    fs::rename(devices.join("unit-3.toml"), devices.join(".import-new/unit-3.toml")).unwrap();
    assert_eq!(ids(&folder), ["unit-0", "unit-1", "unit-2"]);
    // Cut off behind it, when some files were moved already.
    fs::rename(devices.join(".import-new"), devices.join(".import")).unwrap();
    fs::rename(devices.join("unit-1.toml"), devices.join(".import/unit-1.toml")).unwrap();
    assert_eq!(ids(&folder), ["unit-0", "unit-1", "unit-2", "unit-3"]);
    // The next writer moves the rest.
    add(&folder.load(), &device("later", "later")).unwrap();
    assert_eq!(ids(&folder).len(), 5);
    assert!(!devices.join(".import").exists() && devices.join("unit-3.toml").exists());
    // And a device of an import can be removed and changed.
    tombolo::config::registry::io::remove(&folder.load(), "unit-3").unwrap();
    assert_eq!(ids(&folder).len(), 4);
}
