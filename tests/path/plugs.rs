//! Pulling plugs under load: whatever was acknowledged arrives, compared one by one.
//!
//! Short forms run always. The long ones:
//! `TOMBOLO_KILL_ROUNDS=200 TOMBOLO_BROKER_ROUNDS=50 cargo test --test path plugs`.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tombolo::cli::demo::sensor::Sensor;

use super::{KEY, Site};
use tombolo_test_support::wait_for;

const SENSORS: u32 = 8;

/// Sensors that post numbered readings until told to stop, and remember what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Load {
    fn start(gateway: std::net::SocketAddr) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let (halt, seen) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                let tasks: Vec<_> = (0..SENSORS)
                    .map(|number| {
                        tokio::task::spawn_local(sense(gateway, number, halt.clone(), seen.clone()))
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("no sensor panics");
                }
            });
        });
        Load { stop, acknowledged, thread }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no panic while held").len()
    }

    fn finish(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no sensor panics");
        Arc::into_inner(self.acknowledged).expect("the thread is gone").into_inner().expect("no panic")
    }
}

async fn sense(
    gateway: std::net::SocketAddr,
    number: u32,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
) {
    let mut count = 0u32;
    let mut incarnation = 0u32;
    while !stop.load(Ordering::Relaxed) {
        incarnation += 1;
        let connect = Sensor::connect(gateway, "door-7", KEY.as_bytes(), number << 20 | incarnation);
        // A gateway that is down answers nothing: a device would wait; the test tries again soon.
        let Ok(Ok(mut sensor)) = tokio::time::timeout(Duration::from_secs(2), connect).await else {
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let payload = format!("s{number}-{count}");
            let path = if count.is_multiple_of(10) { "alarm/a" } else { "t/n" };
            let answer =
                tokio::time::timeout(Duration::from_secs(1), sensor.post(path, 0, payload.as_bytes()));
            match answer.await {
                Ok(Ok(answer)) if answer.is_success() => {
                    acknowledged.lock().expect("no panic while held").insert(payload);
                }
                // Refused, which proves nothing: the next one.
                Ok(Ok(_)) => {}
                _ => break,
            }
        }
    }
}

fn rounds(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Waits until every acknowledged reading has arrived; how many came more than once.
fn settle(site: &Site, acknowledged: &BTreeSet<String>) -> usize {
    let mut arrived: HashMap<String, usize> = HashMap::new();
    wait_for("every acknowledged reading", || {
        arrived.clear();
        for line in site.witness.lines() {
            let mut fields = line.split('\t');
            if fields.next().is_some_and(|topic| topic.contains("/up/")) {
                *arrived.entry(fields.next().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        let missing = acknowledged.iter().filter(|payload| !arrived.contains_key(*payload)).count();
        if missing > 0 {
            std::thread::sleep(Duration::from_millis(200));
        }
        missing == 0
    });
    arrived.values().map(|count| count - 1).sum()
}

/// Pauses of 60 to 560 ms, a different one each round and the same in each run.
fn pause(round: u32) -> Duration {
    Duration::from_millis(60 + u64::from(round.wrapping_mul(2_654_435_761) >> 16) % 500)
}

#[test]
fn killed_again_and_again_it_loses_nothing_it_acknowledged() {
    let rounds = rounds("TOMBOLO_KILL_ROUNDS", 20);
    let mut site = Site::new("kill", "");
    let load = Load::start(site.daemon.coaps);
    for round in 0..rounds {
        let before = load.count();
        wait_for("a reading in this round", || load.count() > before);
        std::thread::sleep(pause(round));
        site.daemon.kill();
        site.daemon.resume();
    }
    let acknowledged = load.finish();
    let duplicates = settle(&site, &acknowledged);
    eprintln!("{rounds} kills: {} acknowledged, 0 lost, {duplicates} duplicates", acknowledged.len());
    // At most the window and the releases since the last durable trim come again (each 1,000).
    assert!(duplicates <= rounds as usize * 2_000, "{duplicates} duplicates");
}

#[test]
fn a_broker_that_comes_and_goes_costs_nothing_acknowledged() {
    let rounds = rounds("TOMBOLO_BROKER_ROUNDS", 10);
    let mut site = Site::new("broker", "");
    let load = Load::start(site.daemon.coaps);
    for round in 0..rounds {
        std::thread::sleep(pause(round));
        site.broker.stop();
        let before = load.count();
        wait_for("readings taken without a broker", || load.count() > before + 20);
        site.broker.resume();
    }
    let acknowledged = load.finish();
    let duplicates = settle(&site, &acknowledged);
    eprintln!(
        "{rounds} broker restarts: {} acknowledged, 0 lost, {duplicates} duplicates",
        acknowledged.len()
    );
    assert!(duplicates <= rounds as usize * 1_000, "{duplicates} duplicates");
}

#[test]
fn a_stop_is_quick_and_loses_nothing() {
    let mut site = Site::new("stop", "");
    let load = Load::start(site.daemon.coaps);
    wait_for("some readings", || load.count() > 200);
    let (code, took) = site.daemon.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "it took {took:?} to stop");
    site.daemon.resume();
    let acknowledged = load.finish();
    settle(&site, &acknowledged);
}
