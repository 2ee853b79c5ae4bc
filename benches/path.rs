//! Compares the whole path with libcoap's DTLS server in one run: CPU per reading, readings per
//! second, memory.
//!
//! `cargo bench --bench path` — needs `mosquitto`, `mosquitto_sub` and `coap-server-openssl`
//! (`apt install mosquitto mosquitto-clients libcoap3-bin`). Tombolo authenticates, maps, stores
//! (fdatasync) and publishes every reading over TLS with QoS 1; libcoap's server only responds.
//! Everything runs on loopback. CPU time is the reliable figure; readings per second depend on two
//! cores shared with the load generator and the broker.
//!
//! `SECONDS`, `ROUNDS` in the environment change the length (default 8 s, 3 rounds; medians are
//! printed); `BINARY=PATH` measures another build.

use std::cell::Cell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tombolo::cli::demo::sensor::{POST, PUT, Sensor};
use tombolo_test_support::bench::{Libcoap, number};
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, cpu_time, program, resident_kb};

const KEY: &str = "benchbenchbench1";
const PAYLOAD: &[u8] = b"{\"t\":21.5,\"rh\":40.25,\"battery\":3.01,\"n\":1}";

/// One load on one server.
struct Load {
    sessions: usize,
    /// Requests a second over all sessions; `None` = each session sends again as soon as it is
    /// answered.
    rate: Option<f64>,
}

struct Figure {
    cpu_us: f64,
    per_second: f64,
}

struct Target {
    address: SocketAddr,
    pid: u32,
    method: u8,
    path: &'static str,
}

async fn connect_all(target: &Target, count: usize) -> Vec<Sensor> {
    let mut sensors = Vec::new();
    for chunk in (0..count).collect::<Vec<_>>().chunks(32) {
        let mut tasks = Vec::new();
        for &number in chunk {
            let address = target.address;
            tasks.push(tokio::task::spawn_local(async move {
                Sensor::connect(address, &format!("d{number}"), KEY.as_bytes(), number as u32 * 77).await
            }));
        }
        for task in tasks {
            sensors.push(task.await.expect("no panic").expect("a session"));
        }
    }
    sensors
}

async fn run(target: &Target, load: &Load, seconds: f64) -> Figure {
    let sensors = connect_all(target, load.sessions).await;
    let (done, failed, counting, stop) = (
        Rc::new(Cell::new(0u64)),
        Rc::new(Cell::new(0u64)),
        Rc::new(Cell::new(false)),
        Rc::new(Cell::new(false)),
    );
    let mut tasks = Vec::new();
    for (number, mut sensor) in sensors.into_iter().enumerate() {
        let (done, failed, counting, stop) = (done.clone(), failed.clone(), counting.clone(), stop.clone());
        let (method, path) = (target.method, target.path);
        let gap = load.rate.map(|rate| Duration::from_secs_f64(load.sessions as f64 / rate));
        let share = number as f64 / load.sessions as f64;
        tasks.push(tokio::task::spawn_local(async move {
            let mut next = Instant::now() + gap.map_or(Duration::ZERO, |gap| gap.mul_f64(share));
            while !stop.get() {
                if let Some(gap) = gap {
                    tokio::time::sleep_until(next.into()).await;
                    next += gap;
                }
                let answer = sensor.request(method, path, 50, PAYLOAD).await;
                let counter = if answer.is_ok_and(|a| a.is_success()) { &done } else { &failed };
                if counting.get() {
                    counter.set(counter.get() + 1);
                }
            }
            sensor.close().await;
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    counting.set(true);
    let (cpu, begun) = (cpu_time(target.pid), Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let (cpu, elapsed) = (cpu_time(target.pid) - cpu, begun.elapsed());
    let (count, bad) = (done.get(), failed.get());
    stop.set(true);
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(bad, 0, "{bad} requests were not answered with success beside {count} that were");
    Figure {
        cpu_us: cpu.as_secs_f64() * 1e6 / count as f64,
        per_second: count as f64 / elapsed.as_secs_f64(),
    }
}

fn target_of(libcoap: &Libcoap) -> Target {
    Target { address: libcoap.address(), pid: libcoap.pid(), method: PUT, path: "example_data" }
}

fn median(mut figures: Vec<Figure>) -> Figure {
    figures.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    figures.swap_remove(figures.len() / 2)
}

/// A gateway that knows `d0` to `d9999`, all with one key and no practical quota.
fn gateway(folder: &Folder, pki: &Pki, broker: &Mosquitto, interval: &str) -> Daemon {
    let key = folder.write("key.psk", format!("text:{KEY}"));
    let mut extra = format!(
        "\n[journal]\ncommit-interval = \"{interval}\"\n\n[role.sensor]\nquota = {{ messages = 1000000, bytes = \"1GiB\", per = \"1s\", burst = 1000000 }}\n\
         [role.sensor.uplink.telemetry]\npath = \"t/#\"\n\n"
    );
    for number in 0..10_000 {
        let _ = writeln!(extra, "[device.d{number}]\nrole = \"sensor\"\npsk-file = \"{}\"", key.display());
    }
    Daemon::start(&program(env!("CARGO_BIN_EXE_tombolo")), folder, broker.tls_port, &pki.ca(), &extra)
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let (seconds, rounds) = (number("SECONDS", 8.0), number("ROUNDS", 3.0) as usize);
    let loads = [
        ("closed loop, 32 sessions", "0ms", Load { sessions: 32, rate: None }),
        ("closed loop, 500 sessions", "0ms", Load { sessions: 500, rate: None }),
        ("1,000/s, 500 sessions", "10ms", Load { sessions: 500, rate: Some(1_000.0) }),
    ];
    println!("| load | tombolo CPU µs | readings/s | libcoap CPU µs | requests/s | ratio of CPU |");
    println!("|---|---|---|---|---|---|");
    for (name, interval, load) in &loads {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let folder = Folder::new("bench");
            let pki = Pki::new(folder.path());
            let broker = Mosquitto::start(folder.path(), &pki, "");
            let daemon = gateway(&folder, &pki, &broker, interval);
            let target = Target { address: daemon.coaps, pid: daemon.pid(), method: POST, path: "t/env" };
            ours.push(local.block_on(&runtime, run(&target, load, seconds)));
            drop(daemon);
            drop(broker);
            let libcoap = Libcoap::start(KEY, "hint");
            std::thread::sleep(Duration::from_millis(300));
            theirs.push(local.block_on(&runtime, run(&target_of(&libcoap), load, seconds)));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "| {name} | {:.1} | {:.0} | {:.1} | {:.0} | {:.2} |",
            ours.cpu_us,
            ours.per_second,
            theirs.cpu_us,
            theirs.per_second,
            ours.cpu_us / theirs.cpu_us
        );
    }

    println!("\n| resident memory, kB | tombolo | libcoap |\n|---|---|---|");
    let folder = Folder::new("bench");
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let daemon = gateway(&folder, &pki, &broker, "10ms");
    let libcoap = Libcoap::start(KEY, "hint");
    std::thread::sleep(Duration::from_secs(2));
    println!(
        "| idle, 10,000 devices configured | {} | {} |",
        resident_kb(daemon.pid()),
        resident_kb(libcoap.pid())
    );
    let ours = Target { address: daemon.coaps, pid: daemon.pid(), method: POST, path: "t/env" };
    let sensors = local.block_on(&runtime, connect_all(&ours, 5_000));
    let with_sessions = resident_kb(daemon.pid());
    drop(sensors);
    let sensors = local.block_on(&runtime, connect_all(&target_of(&libcoap), 5_000));
    println!("| 5,000 DTLS sessions | {with_sessions} | {} |", resident_kb(libcoap.pid()));
    drop(sensors);
}
