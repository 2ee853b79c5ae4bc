//! A long outage: the backlog opens, drains in order, and costs no memory.
//!
//! Short by default; the long form: `TOMBOLO_BACKLOG=1000000 cargo test --test path backlog`.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tombolo::cli::demo::sensor::Sensor;

use super::{KEY, Site};
use tombolo_test_support::{PATIENCE, resident_kb, wait_within};

const SENSORS: u32 = 64;

/// Configuration that lets [`fill`]'s sensors in, and a backlog out as fast as it goes.
pub fn without_limits(text: &str) -> String {
    text.replace("[upstream]\n", "[upstream]\ndrain-rate = 0\n")
        .replace("[role.sensor]\n", &format!("[role.sensor]\nmax-sessions = {SENSORS}\n"))
}

/// Posts `count` readings, each sensor its own in order; all are acknowledged.
pub fn fill(gateway: std::net::SocketAddr, count: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let left = Rc::new(std::cell::Cell::new(count));
        let tasks: Vec<_> = (0..SENSORS)
            .map(|number| {
                let left = left.clone();
                tokio::task::spawn_local(async move {
                    let mut sensor = Sensor::connect(gateway, "door-7", KEY.as_bytes(), number << 24)
                        .await
                        .expect("a session");
                    let mut own = 0;
                    while left.get() > 0 {
                        left.set(left.get() - 1);
                        own += 1;
                        let payload = format!("{number} {own}");
                        let answer = sensor.post("t/b", 0, payload.as_bytes()).await.expect("an answer");
                        assert!(answer.is_success(), "{answer:?}");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no sensor fails");
        }
    });
}

#[test]
fn a_backlog_opens_fast_drains_in_order_and_costs_no_memory() {
    let count = std::env::var("TOMBOLO_BACKLOG").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000u32);
    let extra = "[journal]\nmax-bytes = \"2600MiB\"\n[lane.normal]\nmax-bytes = \"1900MiB\"\n";
    let mut site = Site::build("backlog", extra, "max_queued_bytes 0", without_limits);
    site.broker.stop();
    fill(site.daemon.coaps, count);
    assert_eq!(site.daemon.status()["journal"]["records"].as_u64(), Some(u64::from(count)));
    site.daemon.kill();

    let begun = Instant::now();
    site.daemon.resume();
    let opened = begun.elapsed();
    assert_eq!(site.daemon.status()["journal"]["records"].as_u64(), Some(u64::from(count)));
    let before = resident_kb(site.daemon.pid());
    let begun = Instant::now();
    site.broker.resume();
    let mut most = before;
    // The long form takes its time.
    let patience = PATIENCE + Duration::from_millis(u64::from(count));
    wait_within(patience, "the backlog to drain", || {
        most = most.max(resident_kb(site.daemon.pid()));
        std::thread::sleep(Duration::from_millis(20));
        site.daemon.status()["journal"]["records"] == 0
    });
    eprintln!(
        "{count} records: open in {opened:?} (start to first answer), drained in {:?}, {before} kB before, {most} kB at most",
        begun.elapsed()
    );
    assert!(most < before + 12_000, "{before} kB before, {most} kB at most");

    let line_count = || site.witness.lines().iter().filter(|l| l.contains("/up/t/b\t")).count();
    wait_within(patience, "the witness to have all", || {
        std::thread::sleep(Duration::from_millis(200));
        line_count() >= count as usize
    });
    let mut newest: HashMap<u32, u32> = HashMap::new();
    let mut distinct = 0;
    for line in site.witness.lines().iter().filter(|line| line.contains("/up/t/b\t")) {
        let payload = line.split('\t').nth(1).unwrap_or_default();
        let (sensor, own) = payload.split_once(' ').expect("two numbers");
        let (sensor, own): (u32, u32) = (sensor.parse().expect("a number"), own.parse().expect("a number"));
        let newest = newest.entry(sensor).or_default();
        if own > *newest {
            assert_eq!(own, *newest + 1, "sensor {sensor}: in order, none left out");
            *newest = own;
            distinct += 1;
        }
    }
    assert_eq!(distinct, count);
}
