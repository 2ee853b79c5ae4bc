//! 100 sensors fetch 256 KiB each over a lossy link, with readings beside: what the readings wait.
//!
//! `cargo test --release --test update sensors_load -- --ignored --nocapture`

use std::time::{Duration, Instant};

use tombolo_test_support::dtls::client::Config;

use super::device::Device;
use super::sensors::site;

const KEY: &str = "sesame-sesame-77";
const SENSORS: usize = 100;
/// Percent of the datagrams, each way.
const LOSS: u64 = 3;
const READING_EVERY: Duration = Duration::from_millis(20);
const BLOCKS: usize = 256;

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

/// Posts readings until `is_over`; how long each took, sorted.
fn readings(device: &mut Device, is_over: impl Fn() -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !is_over() {
        let begun = Instant::now();
        assert!(device.post("t/x", b"21.5"));
        took.push(begun.elapsed());
        std::thread::sleep(READING_EVERY.saturating_sub(begun.elapsed()));
    }
    took.sort();
    took
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
         [role.meter.uplink.all]\npath = \"t/#\"\n[device.meter]\nrole = \"meter\"\npsk-file = \"door-7.psk\"\n",
    );
    for number in 0..SENSORS {
        roles += &format!("[device.sensor-{number}]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\n");
    }
    let site = site("sensors-load", "sensors-1", "firmware-report-within = \"1day\"", &roles);
    site.offers("1.0.0");
    let path = site.daemon.status()["firmware"][0]["path"].as_str().unwrap().to_owned();
    let path: Vec<&str> = path[1..].split('/').collect();
    let gateway = site.daemon.coaps;
    let mut meter = Device::connect(gateway, Config::psk("meter", KEY)).expect("a session");
    let begun = Instant::now();
    let without = readings(&mut meter, || begun.elapsed() > Duration::from_secs(15));

    let begun = Instant::now();
    let (with, repeated) = std::thread::scope(|scope| {
        let fetch = |number: usize| {
            let config = Config::psk(&format!("sensor-{number}"), KEY);
            let mut sensor = Device::connect(gateway, config).expect("a session");
            (sensor.loss, sensor.chance) = (LOSS, number as u64 * 7_919 + 1);
            let mut image = Vec::new();
            for at in 0..BLOCKS {
                let message = block(at as u16 + 1, &path, at);
                // A client that gives up begins again where it was: no block is lost for good.
                let response = std::iter::repeat_with(|| sensor.exchange(&message)).flatten().next().unwrap();
                image.extend(payload(&response).unwrap_or_else(|| panic!("{number}, {at}: {response:02x?}")));
            }
            (image, sensor.repeated)
        };
        let sensors: Vec<_> = (0..SENSORS).map(|number| scope.spawn(move || fetch(number))).collect();
        let with = readings(&mut meter, || sensors.iter().all(std::thread::ScopedJoinHandle::is_finished));
        let mut repeated = 0;
        for sensor in sensors {
            let (image, again) = sensor.join().unwrap();
            assert_eq!(image.len(), BLOCKS * 1024);
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &image);
            let hex: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, path[2]);
            repeated += again;
        }
        (with, repeated)
    });
    println!("readings without: {}", shown(&without));
    println!(
        "readings beside {SENSORS} sensors ({} s, {LOSS} % lost each way, {repeated} requests repeated): {}",
        begun.elapsed().as_secs(),
        shown(&with)
    );
    assert_eq!(site.daemon.status()["firmware"][0]["fetched"], SENSORS);
}
