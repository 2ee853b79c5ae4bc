//! Plugs: a port that comes, goes and comes back, under load, beside others that stay.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::{Device, Folder, Site};
use tombolo_test_support::wait_for;

fn port(folder: &Folder, name: &str) -> String {
    let path = folder.join(name);
    format!("[serial.{name}]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\n", path.display())
}

/// How many ports are plugged in and unplugged at once, and how often each.
const WILD: [&str; 4] = ["wild-1", "wild-2", "wild-3", "wild-4"];
const ROUNDS: u64 = 100 / WILD.len() as u64;

#[test]
fn unplugged_and_plugged_in_a_hundred_times_under_load_it_loses_nothing_committed_and_is_back_in_two_seconds()
{
    let site =
        Site::new("plugs", |folder| WILD.map(|name| port(folder, name)).concat() + &port(folder, "calm"));
    let mut wild = WILD.map(|name| Device::new(site.folder.join(name)));
    let mut calm = Device::plugged_in(site.folder.join("calm"));
    site.wait_until_open("calm");
    calm.say(b"\n");
    let (mut number, mut calmly, mut took) = (0, 0, Vec::new());
    for round in 0..ROUNDS {
        let mut closed = Vec::from_iter(0..WILD.len());
        wild.iter_mut().for_each(Device::plug_in);
        let back = Instant::now();
        // Under load from the first moment, so that opening, too, meets bytes.
        while !closed.is_empty() {
            let ports = site.ports();
            closed.retain(|at| {
                let is_open = ports[WILD[*at]]["state"] == "open";
                if is_open {
                    took.push(back.elapsed());
                }
                !is_open
            });
            for at in &closed {
                wild[*at].say(format!("w{number}.\n").as_bytes());
                number += 1;
                assert!(back.elapsed() < Duration::from_secs(10), "round {round}: {:?}", ports[WILD[*at]]);
            }
        }
        for device in &mut wild {
            for _ in 0..50 {
                device.say(format!("w{number}.\n").as_bytes());
                number += 1;
            }
            // Cut in the middle of a line.
            device.say(format!("w{number}").as_bytes());
            number += 1;
            device.unplug();
            assert!(calm.say(format!("c{calmly}.\n").as_bytes()));
            calmly += 1;
        }
        wait_for("the loss to be noticed", || WILD.iter().all(|name| !site.is_open(name)));
    }
    took.sort();
    println!("back after {:?}, {:?} at the latest; {number} lines said", took[50], took[99]);
    // The middle one: a busy machine may hold up a few of a hundred.
    assert!(took[50] < Duration::from_secs(2), "{took:?}");

    let committed = |name: &str| site.ports()[name]["readings"].as_u64().unwrap() as usize;
    let mut arrived = Vec::new();
    for name in WILD {
        wait_for("all that is on its way", || {
            let before = committed(name);
            std::thread::sleep(Duration::from_millis(300));
            before == committed(name) && site.arrived(name).len() == before
        });
        println!("{} readings committed, {} arrived", committed(name), site.arrived(name).len());
        arrived.extend(site.payloads(name));
    }
    let distinct: BTreeSet<&String> = arrived.iter().collect();
    assert_eq!(distinct.len(), arrived.len());
    assert!(arrived.len() > 500);
    // No line is half of one, nor two in one.
    for text in &arrived {
        let digits = text.strip_prefix('w').and_then(|text| text.strip_suffix('.'));
        assert!(digits.is_some_and(|digits| digits.parse::<u64>().is_ok_and(|n| n < number)), "{text:?}");
    }
    // The other port has not noticed anything.
    let expected: Vec<String> = (0..calmly).map(|number| format!("c{number}.")).collect();
    wait_for("the calm one", || site.arrived("calm").len() >= expected.len());
    assert_eq!(site.payloads("calm"), expected);
    let ports = site.ports();
    assert_eq!(ports["calm"]["lost"], 0);
    for name in WILD {
        assert_eq!(ports[name]["lost"], ROUNDS);
    }
    // No descriptor is kept.
    let kept = std::fs::read_dir(format!("/proc/{}/fd", site.daemon.pid())).unwrap();
    let ttys = kept.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    assert_eq!(ttys.filter(|path| path.starts_with("/dev/pts")).count(), 1);
}

#[test]
fn readings_survive_a_kill_and_an_outage_of_the_broker() {
    let mut site = Site::new("outage", |folder| port(folder, "meter"));
    let mut meter = Device::plugged_in(site.folder.join("meter"));
    site.wait_until_open("meter");
    site.broker.stop();
    meter.say(b"\n1\n2\n3\n");
    wait_for("them on disk", || site.ports()["meter"]["readings"] == 3);
    site.daemon.kill();
    site.daemon.resume();
    site.wait_until_open("meter");
    meter.say(b"\n4\n");
    wait_for("the fourth on disk", || site.ports()["meter"]["readings"] == 1);
    site.broker.resume();
    wait_for("all", || site.arrived("meter").len() >= 4);
    assert_eq!(site.payloads("meter"), ["1", "2", "3", "4"]);
}

#[test]
fn its_presence_says_whether_the_port_is_there() {
    let site = Site::new("presence", |folder| port(folder, "meter") + &port(folder, "never"));
    wait_for("the missing one", || site.told("never").is_some());
    let never = site.told("never").unwrap();
    assert_eq!((&never["online"], &never["port"]), (&false.into(), &"retrying".into()));
    assert_eq!(never["reason"], "it is not there");
    let mut meter = Device::plugged_in(site.folder.join("meter"));
    site.wait_until_open("meter");
    meter.say(b"\nhere\n");
    // Told within the minute that lies between two tellings.
    let begun = Instant::now();
    while site.told("meter").is_none_or(|told| told["online"] != true) {
        assert!(begun.elapsed() < Duration::from_secs(75), "{:?}", site.told("meter"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(site.told("meter").unwrap()["port"], "open");
}
