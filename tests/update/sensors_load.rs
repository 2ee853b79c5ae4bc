//! 100 sensors fetch 256 KiB each over a lossy link, one of them interrupted, and a new version
//! published meanwhile: what readings of other devices wait beside that, and without.
//!
//! `cargo test --release --test update sensors_load -- --ignored --nocapture`

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tombolo_test_support::cpu_time;
use tombolo_test_support::dtls::client::Config;

use super::device::Device;
use super::sensors::site;

const KEY: &str = "sesame-sesame-77";
const SENSORS: usize = 100;
/// Percent of the datagrams, each way.
const LOSS: u64 = 5;
/// Other devices, each of which posts a reading so often.
const METERS: usize = 10;
const READING_EVERY: Duration = Duration::from_millis(200);
const ALONE: Duration = Duration::from_secs(20);
const BLOCKS: usize = 256;
/// The sensor that loses its session before its block 100, and goes on from there over another.
const INTERRUPTED: usize = 0;
/// Its block 100 is the time for a new version; it goes on with the one that it has begun.
const OVERTAKEN: usize = 1;
const MIDDLE: usize = 100;

/// GET of one block of 1,024 bytes.
fn block(id: u16, path: &[&str], number: usize) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![0x42, 1, high, low, high, low];
    let mut delta = 11;
    for segment in path {
        match segment.len() {
            0..=12 => message.push(delta << 4 | segment.len() as u8),
            length => message.extend([delta << 4 | 13, length as u8 - 13]),
        }
        message.extend(segment.bytes());
        delta = 0;
    }
    let value = ((number as u32) << 4 | 6).to_be_bytes();
    message.push(0xc2);
    message.extend(&value[2..]);
    message
}

/// The payload of a 2.05.
fn payload(response: &[u8]) -> Option<&[u8]> {
    let at = response.iter().skip(6).position(|byte| *byte == 0xff)? + 7;
    (response[1] == 0x45).then(|| &response[at..])
}

/// Readings of all meters until `is_over`; how long each took, sorted.
fn readings(meters: &mut [Device], is_over: impl Fn() -> bool + Sync) -> Vec<Duration> {
    let of_one = |(number, device): (usize, &mut Device)| {
        let mut took = Vec::new();
        std::thread::sleep(READING_EVERY * number as u32 / METERS as u32);
        while !is_over() {
            let begun = Instant::now();
            assert!(device.post("t/x", b"21.5"));
            took.push(begun.elapsed());
            std::thread::sleep(READING_EVERY.saturating_sub(begun.elapsed()));
        }
        took
    };
    let mut all: Vec<Duration> = std::thread::scope(|scope| {
        let meters = meters.iter_mut().enumerate();
        let started: Vec<_> = meters.map(|meter| scope.spawn(|| of_one(meter))).collect();
        started.into_iter().flat_map(|meter| meter.join().expect("all are taken")).collect()
    });
    all.sort();
    all
}

fn shown(took: &[Duration]) -> String {
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms of {}", at(0.5), at(0.99), at(1.0), took.len())
}

#[test]
#[ignore = "it takes minutes: a measurement"]
fn readings_beside_a_hundred_sensors_that_fetch_over_a_lossy_link() {
    let mut roles = String::from(
        "[role.sensor]\nfirmware = \"door\"\n[role.sensor.uplink.all]\npath = \"t/#\"\n\
         [role.meter]\nquota = { messages = 1000000, bytes = \"1GiB\", per = \"1s\", burst = 1000000 }\n\
         [role.meter.uplink.all]\npath = \"t/#\"\n",
    );
    let sensors = (0..SENSORS).map(|number| ("sensor", number));
    for (role, number) in sensors.chain((0..METERS).map(|number| ("meter", number))) {
        roles += &format!("[device.{role}-{number}]\nrole = \"{role}\"\npsk-file = \"door-7.psk\"\n");
    }
    let site = site("sensors-load", "sensors-1", "firmware-report-within = \"1day\"", &roles);
    site.offers("1.0.0");
    let path = site.daemon.status()["firmware"][0]["path"].as_str().unwrap().to_owned();
    let path: Vec<&str> = path[1..].split('/').collect();
    let gateway = site.daemon.coaps;
    let connect =
        |role: &str, number: usize| Device::connect(gateway, Config::psk(&format!("{role}-{number}"), KEY));
    let mut meters: Vec<Device> = (0..METERS).map(|number| connect("meter", number).unwrap()).collect();
    let pid = site.daemon.pid();
    let alone = |meters: &mut [Device]| {
        let (begun, cpu) = (Instant::now(), cpu_time(pid));
        let took = readings(meters, || begun.elapsed() > ALONE);
        let cpu = (cpu_time(pid) - cpu).as_secs_f64() * 1e6 / took.len() as f64;
        println!("readings alone: {}; {cpu:.0} µs of CPU each", shown(&took));
        cpu
    };
    let cpu_of_a_reading = alone(&mut meters);

    let reached = AtomicUsize::new(0);
    let fetch = |number: usize| {
        let session = |chance: usize| {
            let mut sensor = connect("sensor", number).expect("a session");
            (sensor.loss, sensor.chance) = (LOSS, chance as u64 * 7_919 + 1);
            sensor
        };
        let mut sensor = session(number);
        let (mut image, mut repeated) = (Vec::new(), 0);
        for at in 0..BLOCKS {
            if (number, at) == (INTERRUPTED, MIDDLE) {
                repeated += sensor.repeated;
                sensor = session(SENSORS);
            }
            if number == OVERTAKEN {
                reached.store(at, Ordering::Relaxed);
            }
            let message = block(at as u16 + 1, &path, at);
            // A client that gives up begins again where it was: no block is lost for good.
            let response = std::iter::repeat_with(|| sensor.exchange(&message)).flatten().next().unwrap();
            image.extend(payload(&response).unwrap_or_else(|| panic!("{number}, {at}: {response:02x?}")));
        }
        assert_eq!(image.len(), BLOCKS * 1024);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &image);
        let hex: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, path[2], "{number}");
        repeated + sensor.repeated
    };
    let (begun, cpu) = (Instant::now(), cpu_time(pid));
    let (beside, repeated) = std::thread::scope(|scope| {
        let sensors: Vec<_> = (0..SENSORS).map(|number| scope.spawn(move || fetch(number))).collect();
        let publisher = scope.spawn(|| {
            while reached.load(Ordering::Relaxed) < MIDDLE {
                std::thread::sleep(READING_EVERY);
            }
            site.publish("sensors-2");
            site.offers("2.0.0");
            let now = reached.load(Ordering::Relaxed);
            println!("version 2.0.0 is offered from block {now} of 1.0.0 on");
            assert!(now < BLOCKS - 1, "that was too late to be seen");
        });
        let beside = readings(&mut meters, || sensors.iter().all(std::thread::ScopedJoinHandle::is_finished));
        publisher.join().unwrap();
        (beside, sensors.into_iter().map(|sensor| sensor.join().unwrap()).sum::<u32>())
    });
    let all = (cpu_time(pid) - cpu).as_secs_f64() * 1e6 - cpu_of_a_reading * beside.len() as f64;
    println!(
        "readings beside {SENSORS} sensors ({} s, {LOSS} % lost each way, {repeated} requests repeated): {}; \
         {:.0} µs of CPU a block",
        begun.elapsed().as_secs(),
        shown(&beside),
        all / (SENSORS * BLOCKS) as f64
    );
    alone(&mut meters);
    assert!(site.counter("tombolo_firmware_sent_blocks_total") >= (SENSORS * BLOCKS) as u64);
}
