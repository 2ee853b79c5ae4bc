//! The real daemon, killed and stopped, with clients that were connected before.

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::real::Folder as Place;
use tombolo_test_support::disk_faults;
use tombolo_test_support::dtls::client::{Client, Config, PSK_CHACHA};
use tombolo_test_support::{Daemon, Folder, PATIENCE, free_tcp_port, wait_for};

const DEVICES: u16 = 4;

/// A gateway with devices `dev-1` to `dev-4`, and no broker: readings go as far as the journal.
struct Site {
    daemon: Daemon,
    folder: Folder,
}

impl Site {
    /// With its runtime directory there.
    fn new(runtime_dir: &Path, coap: &str) -> Site {
        let folder = Folder::new("sessions");
        let mut extra = format!("{coap}\n[role.sensor.uplink.all]\npath = \"t/#\"\n");
        extra += "[role.sensor]\nmax-sessions = 1\nquota = { messages = 1000000, bytes = \"1GiB\", per = \"1s\", burst = 1000000 }\n";
        for n in 1..=DEVICES {
            folder.write(&format!("dev-{n}.psk"), format!("text:key-{n}-0123456789abcdef"));
            extra += &format!("[device.dev-{n}]\nrole = \"sensor\"\npsk-file = \"dev-{n}.psk\"\n");
        }
        folder.write("ca.pem", rcgen::generate_simple_self_signed(["localhost".into()]).unwrap().cert.pem());
        let runtime = format!("runtime-dir = \"{}\"", runtime_dir.display());
        let binary = Path::new(env!("CARGO_BIN_EXE_tombolo"));
        let ca = folder.join("ca.pem");
        let daemon = Daemon::start_with(binary, &folder, free_tcp_port(), &ca, &extra, |text| {
            text.replace("runtime-dir = \"run\"", &runtime)
        });
        Site { daemon, folder }
    }

    fn sessions_dir(&self) -> PathBuf {
        self.folder.join("state").join("sessions")
    }

    fn counter(&self, name: &str) -> u64 {
        self.daemon.status()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    fn admitted(&self) -> u64 {
        self.counter("tombolo_gate_admitted_readings_total")
    }

    fn sessions(&self, key: &str) -> u64 {
        self.daemon.status()["session_store"][key].as_u64().unwrap_or_else(|| panic!("no {key}"))
    }

    fn wait_until_stored(&self, count: usize) {
        wait_for("the sessions on disk", || self.sessions("stored") == count as u64);
    }

    /// Sends what is there to the daemon from a port of its own, and waits until it has taken it
    /// all.
    fn replay(&self, datagrams: &[Vec<u8>]) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for batch in datagrams.chunks(50) {
            let before = self.counter("tombolo_southbound_received_datagrams_total");
            for datagram in batch {
                socket.send_to(datagram, self.daemon.coaps).unwrap();
            }
            wait_for("the datagrams taken", || {
                self.counter("tombolo_southbound_received_datagrams_total") >= before + batch.len() as u64
            });
        }
    }
}

/// A device behind a socket.
struct Device {
    client: Client,
    socket: UdpSocket,
    gateway: SocketAddr,
    message_id: u16,
    /// Everything it ever sent.
    sent: Vec<Vec<u8>>,
    pings: usize,
}

impl Device {
    fn new(gateway: SocketAddr, number: u16, cid: Option<Vec<u8>>) -> Device {
        Device::with(gateway, number, |config| Config { cid, ..config })
    }

    fn with(gateway: SocketAddr, number: u16, change: impl FnOnce(Config) -> Config) -> Device {
        let config = Config::psk(&format!("dev-{number}"), &format!("key-{number}-0123456789abcdef"));
        let client = Client::new(change(config));
        let mut device = Device {
            client,
            socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            gateway,
            message_id: 0,
            sent: Vec::new(),
            pings: 0,
        };
        let hello = device.client.start(Instant::now());
        device.transmit(hello);
        device.until("a session", |device| device.client.connected);
        device
    }

    /// From now on at another port.
    fn move_away(&mut self) {
        self.socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    }

    fn transmit(&mut self, datagrams: Vec<Vec<u8>>) {
        for datagram in datagrams {
            // Nobody there is as good as lost.
            let _ = self.socket.send_to(&datagram, self.gateway);
            self.sent.push(datagram);
        }
    }

    /// Takes what comes, answers pings, sends again what is due, until it holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Device) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        while !holds(self) {
            assert!(Instant::now() < give_up, "waited in vain for {what}");
            self.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let out = match self.socket.recv(&mut buffer) {
                Ok(length) => self.client.handle_datagram(Instant::now(), &buffer[..length]),
                Err(_) => self.client.handle_timeout(Instant::now()),
            };
            self.transmit(out);
            for at in (0..self.client.received.len()).rev() {
                if let [0x40, 0, high, low] = self.client.received[at][..] {
                    self.client.received.remove(at);
                    self.pings += 1;
                    let reset = self.client.send(&[0x70, 0, high, low]);
                    self.transmit(vec![reset]);
                }
            }
        }
    }

    fn message(&mut self, kind: u8) -> Vec<u8> {
        self.message_id += 1;
        let [high, low] = self.message_id.to_be_bytes();
        // POST /t, one byte of payload.
        vec![0x40 | kind << 4, 0x02, high, low, 0xb1, b't', 0xff, b'1']
    }

    /// A confirmable reading, repeated until it is answered 2.04.
    fn reading(&mut self) {
        let message = self.message(0);
        let record = self.client.send(&message);
        self.transmit(vec![record]);
        let mut again = Instant::now() + Duration::from_millis(500);
        self.until("an answer", |device| {
            if Instant::now() >= again {
                again = Instant::now() + Duration::from_millis(500);
                let record = device.client.send(&message);
                device.transmit(vec![record]);
            }
            let received = std::mem::take(&mut device.client.received);
            received.iter().any(|answer| answer[..4] == [0x60, 0x44, message[2], message[3]])
        });
    }

    /// A reading that is sent once and not answered.
    fn careless_reading(&mut self) {
        let message = self.message(1);
        let record = self.client.send(&message);
        self.transmit(vec![record]);
    }
}

#[test]
fn killed_again_and_again_sessions_go_on_without_a_handshake_and_nothing_is_replayed() {
    let folder = Place::new();
    let mut site = Site::new(&folder.0.join("run"), "");
    let gateway = site.daemon.coaps;
    let cids = [None, Some(vec![]), Some(vec![7, 7])];
    let mut devices: Vec<Device> =
        cids.iter().zip(1..).map(|(cid, number)| Device::new(gateway, number, cid.clone())).collect();
    devices.iter_mut().for_each(Device::reading);
    for round in 0..4 {
        site.wait_until_stored(devices.len());
        site.daemon.kill();
        site.daemon.resume();
        assert_eq!(site.sessions("restored"), 3);
        // All that was ever sent, handshakes and readings and Resets, comes again.
        let recorded: Vec<Vec<u8>> = devices.iter().flat_map(|device| device.sent.iter().cloned()).collect();
        site.replay(&recorded);
        assert_eq!(site.admitted(), 0, "nothing of before is taken");
        for (at, device) in devices.iter_mut().enumerate() {
            if at > 0 && round % 2 == 0 {
                device.move_away();
            }
            device.pings = 0;
            device.reading();
            assert!(device.pings >= 2, "it was asked whether it is there");
            let before = device.pings;
            device.reading();
            assert_eq!(device.pings, before, "and not again");
        }
        assert_eq!(site.admitted(), 6);
        site.replay(&recorded);
        assert_eq!(site.admitted(), 6);
        assert_eq!(site.counter("tombolo_dtls_completed_handshakes_total"), 0);
        assert_eq!(site.sessions("refused"), 0);
        assert_eq!(site.daemon.status()["devices"]["sessions"], 3);
    }
    for device in &devices {
        let distinct: HashSet<_> = device.client.nonces.iter().collect();
        assert_eq!(distinct.len(), device.client.nonces.len(), "no nonce came twice");
        assert!(device.client.numbers.is_sorted_by(|a, b| a < b));
    }
}

#[test]
fn a_stop_and_start_in_one_boot_loses_not_even_what_nobody_repeats() {
    let memory = Place::below("/dev/shm");
    let mut site = Site::new(&memory.0, "");
    let gateway = site.daemon.coaps;
    let mut devices =
        [Device::new(gateway, 1, None), Device::new(gateway, 2, Some(vec![])), Device::new(gateway, 3, None)];
    for round in 0..4 {
        devices.iter_mut().for_each(Device::reading);
        assert_eq!(site.daemon.stop().0, Some(0));
        site.daemon.resume();
        assert_eq!((site.sessions("restored"), site.sessions("handed_over")), (3, 3));
        let recorded: Vec<Vec<u8>> = devices.iter().flat_map(|device| device.sent.iter().cloned()).collect();
        site.replay(&recorded);
        assert_eq!(site.admitted(), 0);
        if round % 2 == 0 {
            devices[1].move_away();
        }
        devices.iter_mut().for_each(Device::careless_reading);
        wait_for("the readings", || site.admitted() == 3);
        // The cookies of before are not good any more either.
        assert_eq!(site.counter("tombolo_dtls_begun_handshakes_total"), 0);
    }
    for device in &devices {
        assert_eq!(device.pings, 0);
        assert_eq!(device.client.protected_alerts, [], "nobody was told that it is over");
    }
    // A crash after that falls back to the store.
    site.wait_until_stored(3);
    site.daemon.kill();
    site.daemon.resume();
    assert_eq!((site.sessions("restored"), site.sessions("handed_over")), (3, 0));
    devices.iter_mut().for_each(Device::reading);
    assert!(devices.iter().all(|device| device.pings >= 2));
}

#[test]
fn without_persistence_a_stop_ends_sessions_and_nothing_is_left() {
    let folder = Place::new();
    let mut site = Site::new(&folder.0.join("run"), "persist-sessions = false");
    fs::create_dir_all(site.sessions_dir()).unwrap();
    fs::write(site.sessions_dir().join("log"), b"of before").unwrap();
    site.daemon.kill();
    site.daemon.resume();
    assert_eq!(fs::read_dir(site.sessions_dir()).unwrap().count(), 0);
    let mut device = Device::new(site.daemon.coaps, 1, None);
    device.reading();
    site.daemon.stop();
    device.until("a close_notify", |device| device.client.protected_alerts == [(1, 0)]);
    assert_eq!(fs::read_dir(site.sessions_dir()).unwrap().count(), 0);
}

#[test]
fn a_session_whose_key_was_replaced_or_removed_is_not_resurrected() {
    let folder = Place::new();
    let mut site = Site::new(&folder.0.join("run"), "");
    let gateway = site.daemon.coaps;
    let mut devices = [1, 2, 3].map(|number| Device::new(gateway, number, None));
    devices.iter_mut().for_each(Device::reading);
    site.wait_until_stored(3);
    // The store as it was is put back later, as from a backup.
    let backup = fs::read(site.sessions_dir().join("log")).unwrap();
    site.daemon.kill();
    site.folder.write("dev-1.psk", "text:another-0123456789abcdef");
    let config = fs::read_to_string(site.daemon.config()).unwrap();
    let config = config.replace("[device.dev-2]\nrole = \"sensor\"\npsk-file = \"dev-2.psk\"\n", "");
    fs::write(site.daemon.config(), config).unwrap();
    for _ in 0..2 {
        site.daemon.resume();
        assert_eq!((site.sessions("restored"), site.sessions("refused")), (1, 2));
        devices[2].reading();
        let recorded: Vec<Vec<u8>> =
            devices[..2].iter_mut().map(|device| device.client.send(b"\x50\x02\0\0\xb1t\xff1")).collect();
        let before = site.admitted();
        site.replay(&recorded);
        assert_eq!(site.admitted(), before);
        site.wait_until_stored(1);
        site.daemon.kill();
        fs::write(site.sessions_dir().join("log"), &backup).unwrap();
    }
}

#[test]
fn what_is_refused_when_it_is_handed_over_is_not_looked_for_in_the_store() {
    let memory = Place::below("/dev/shm");
    let mut site = Site::new(&memory.0, "");
    let mut devices = [1, 2].map(|number| Device::new(site.daemon.coaps, number, None));
    devices.iter_mut().for_each(Device::reading);
    site.wait_until_stored(2);
    site.daemon.stop();
    site.folder.write("dev-1.psk", "text:another-0123456789abcdef");
    site.daemon.resume();
    let state = ["restored", "handed_over", "refused"].map(|key| site.sessions(key));
    assert_eq!(state, [1, 1, 1]);
    let log = site.daemon.log();
    let refused = log.lines().find(|line| line.contains("DTLS sessions not resumed")).expect("it is said");
    assert!(refused.contains("sessions=1"), "once: {refused}");
    site.wait_until_stored(1);
    devices[1].reading();
    // Without a place in the store it counts, too.
    site.daemon.stop();
    fs::remove_file(site.sessions_dir().join("log")).unwrap();
    site.folder.write("dev-2.psk", "text:another-0123456789abcdef");
    site.daemon.resume();
    assert_eq!((site.sessions("restored"), site.sessions("refused")), (0, 1));
}

#[test]
fn what_has_ended_does_not_come_back() {
    let folder = Place::new();
    let mut site = Site::new(&folder.0.join("run"), "");
    let gateway = site.daemon.coaps;
    let mut devices = [(3, 1), (2, 2), (3, 2)].map(|(number, stored)| {
        let mut device = Device::new(gateway, number, None);
        device.reading();
        site.wait_until_stored(stored);
        device
    });
    // The first was displaced by the same device at another port, of which its role allows one; the
    // second says goodbye; the third shakes hands anew where it is.
    assert_eq!(site.counter("tombolo_dtls_displaced_sessions_total"), 1);
    let goodbye = devices[1].client.seal(21, &[1, 0]);
    devices[1].transmit(vec![goodbye]);
    site.wait_until_stored(1);
    let config = Config::psk("dev-3", "key-3-0123456789abcdef");
    devices[2].client = Client::new(config);
    let hello = devices[2].client.start(Instant::now());
    devices[2].transmit(hello);
    devices[2].until("a session", |device| device.client.connected);
    devices[2].reading();
    // A stop commits what there is. There is no handover: the runtime directory is on a disk.
    site.daemon.stop();
    site.daemon.resume();
    assert_eq!((site.sessions("restored"), site.sessions("refused")), (1, 0));
    devices[2].reading();
    assert_eq!(site.counter("tombolo_dtls_begun_handshakes_total"), 0, "it was the newer one");
}

#[test]
fn without_a_store_the_daemon_does_its_work_and_says_so_once() {
    let folder = Place::new();
    let mut site = Site::new(&folder.0.join("run"), "");
    site.daemon.stop();
    fs::remove_dir_all(site.sessions_dir()).unwrap();
    fs::write(site.sessions_dir(), b"in the way").unwrap();
    site.daemon.resume();
    let mut device = Device::new(site.daemon.coaps, 1, None);
    device.reading();
    let status = site.daemon.status();
    assert_eq!(status["session_store"]["persist"], true);
    assert!(
        status["session_store"]["failing"].as_str().is_some_and(|text| text.contains("sessions")),
        "{status}"
    );
    assert!(site.daemon.command(&["status"]).1.contains("NOT stored"));
    assert_eq!(site.daemon.log().matches("DTLS sessions are not stored").count(), 1);
    // Its session ends with it, and it is told so.
    site.daemon.stop();
    device.until("a close_notify", |device| device.client.protected_alerts == [(1, 0)]);
}

#[test]
fn a_session_whose_nonces_could_come_twice_is_ended_by_an_alert_after_each_power_cut() {
    let folder = Place::new();
    let mut site = Site::new(&folder.0.join("run"), "");
    let gateway = site.daemon.coaps;
    let chacha = |config: Config| config.with_suite(PSK_CHACHA);
    let mut device = Device::with(gateway, 1, chacha);
    let mut other = Device::new(gateway, 2, None);
    device.reading();
    other.reading();
    for round in 0..4 {
        site.wait_until_stored(2);
        // The power may go several times before the device speaks.
        for _ in 0..=round % 2 {
            site.daemon.kill();
            site.daemon.resume();
        }
        assert_eq!((site.sessions("restored"), site.sessions("ended"), site.sessions("refused")), (1, 1, 0));
        assert_eq!(site.daemon.status()["devices"]["sessions"], 1);
        // Its first reading, which nobody repeats, tells it.
        device.careless_reading();
        device.until("the alert", |device| device.client.protected_alerts == [(2, 80)]);
        assert_eq!(site.admitted(), 0);
        let written = site.sessions("written_bytes");
        // It begins anew, at the same port.
        let config = Config::psk("dev-1", "key-1-0123456789abcdef");
        device.client = Client::new(chacha(config));
        let hello = device.client.start(Instant::now());
        device.transmit(hello);
        device.until("a session", |device| device.client.connected);
        device.reading();
        other.reading();
        assert_eq!(site.counter("tombolo_dtls_farewell_sessions_total"), 1);
        assert_eq!(
            site.counter("tombolo_dtls_closed_sessions_total"),
            0,
            "it was not among those that stood"
        );
        // Until the new one is on disk, and the old one is not.
        wait_for("the commit", || site.sessions("written_bytes") > written);
    }
    // A stop in order leaves it as a power cut does: it hears of it when there is somebody to begin
    // anew with.
    site.wait_until_stored(2);
    site.daemon.stop();
    assert_eq!(device.client.protected_alerts, []);
    site.daemon.resume();
    device.careless_reading();
    device.until("the alert", |device| device.client.protected_alerts == [(2, 80)]);
    site.wait_until_stored(1);
}

#[test]
fn a_stop_tells_devices_whose_sessions_a_failing_disk_does_not_keep() {
    const ENOSPC: i32 = 28;
    // With and without a handover of what can go on.
    let (memory, disk) = (Place::below("/dev/shm"), Place::new());
    for runtime_dir in [memory.0.clone(), disk.0.join("run")] {
        let is_handed_over = runtime_dir == memory.0;
        let mut site = Site::new(&runtime_dir, "");
        let faults = site.folder.write("faults", "");
        let environment = &mut site.daemon.environment;
        environment.push(("LD_PRELOAD".into(), disk_faults::library().display().to_string()));
        environment.push((disk_faults::VARIABLE.into(), faults.display().to_string()));
        site.daemon.stop();
        site.daemon.resume();
        disk_faults::write(&faults, &format!("write {ENOSPC} /sessions/log"));
        let gateway = site.daemon.coaps;
        let mut chacha = Device::with(gateway, 1, |config| config.with_suite(PSK_CHACHA));
        let mut aes = Device::new(gateway, 2, None);
        chacha.reading();
        aes.reading();
        wait_for("the fault", || site.daemon.status()["session_store"]["failing"].is_string());
        site.daemon.stop();
        chacha.until("a close_notify", |device| device.client.protected_alerts == [(1, 0)]);
        if is_handed_over {
            site.daemon.resume();
            assert_eq!((site.sessions("restored"), site.sessions("handed_over")), (1, 1));
            aes.reading();
            assert_eq!(aes.client.protected_alerts, []);
        } else {
            aes.until("a close_notify", |device| device.client.protected_alerts == [(1, 0)]);
        }
    }
}

#[test]
fn sessions_that_are_over_take_no_room_from_those_that_go_on() {
    let folder = Place::new();
    let mut site = Site::new(&folder.0.join("run"), "max-sessions = 2");
    let gateway = site.daemon.coaps;
    // As many as there is room for, twice: the first two are over after a power cut.
    let chacha = |config: Config| config.with_suite(PSK_CHACHA);
    let mut silent = [1, 2].map(|number| Device::with(gateway, number, chacha));
    site.wait_until_stored(2);
    site.daemon.kill();
    site.daemon.resume();
    assert_eq!((site.sessions("restored"), site.sessions("ended")), (0, 2));
    let mut others = [3, 4].map(|number| Device::new(gateway, number, None));
    site.wait_until_stored(4);
    site.daemon.kill();
    site.daemon.resume();
    let state = ["restored", "ended", "refused"].map(|key| site.sessions(key));
    assert_eq!(state, [2, 2, 0]);
    others.iter_mut().for_each(Device::reading);
    silent[0].careless_reading();
    silent[0].until("the alert", |device| device.client.protected_alerts == [(2, 80)]);
}

#[test]
fn what_was_handed_over_is_for_the_next_start_alone_whatever_comes_of_its_store() {
    let memory = Place::below("/dev/shm");
    let mut site = Site::new(&memory.0, "");
    let mut device = Device::new(site.daemon.coaps, 1, None);
    device.reading();
    site.wait_until_stored(1);
    site.daemon.stop();
    assert!(memory.0.join("sessions").exists());
    // The store cannot be opened: its sessions cannot be taken over, by this process or a later
    // one.
    let aside = site.folder.join("aside");
    fs::rename(site.sessions_dir(), &aside).unwrap();
    fs::write(site.sessions_dir(), b"in the way").unwrap();
    site.daemon.resume();
    assert!(!memory.0.join("sessions").exists());
    let unheard = device.client.send(b"\x50\x02\0\x09\xb1t\xff1");
    site.replay(std::slice::from_ref(&unheard));
    site.daemon.stop();
    fs::remove_file(site.sessions_dir()).unwrap();
    fs::rename(&aside, site.sessions_dir()).unwrap();
    site.daemon.resume();
    assert_eq!((site.sessions("restored"), site.sessions("handed_over")), (1, 0));
    site.replay(&[unheard]);
    assert_eq!(site.admitted(), 0, "what was said to the process in between is not taken now");
    device.reading();
    assert!(device.pings >= 2);
}

#[test]
fn openssl_stays_connected_over_kills() {
    let folder = Place::new();
    let mut site = Site::new(&folder.0.join("run"), "");
    let connect = site.daemon.coaps.to_string();
    let key: String = b"key-1-0123456789abcdef".iter().map(|byte| format!("{byte:02x}")).collect();
    let client = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-psk_identity", "dev-1", "-psk", &key])
        .args(["-cipher", "PSK-AES128-CCM8:@SECLEVEL=0", "-connect", &connect])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut client) = client else {
        eprintln!("skipped: no openssl here");
        return;
    };
    let (mut input, mut output) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let (heard, hearing) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if heard.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    wait_for("a session", || site.counter("tombolo_dtls_completed_handshakes_total") == 1);
    let mut message_id = 0x2000u16;
    for round in 0..4 {
        message_id += 1;
        let [high, low] = message_id.to_be_bytes();
        let message = [0x40, 0x02, high, low, 0xb1, b't', 0xff, b'1'];
        let give_up = Instant::now() + PATIENCE;
        'answered: loop {
            assert!(Instant::now() < give_up, "no answer in round {round}");
            input.write_all(&message).unwrap();
            while let Ok(heard) = hearing.recv_timeout(Duration::from_millis(500)) {
                // Several messages may come in one read; all of ours have four bytes here.
                for answer in heard.chunks(4) {
                    match *answer {
                        [0x40, 0, high, low] => input.write_all(&[0x70, 0, high, low]).unwrap(),
                        [0x60, 0x44, h, l] if [h, l] == [high, low] => break 'answered,
                        _ => {}
                    }
                }
            }
        }
        assert!(client.try_wait().unwrap().is_none());
        if round == 0 {
            site.wait_until_stored(1);
        } else {
            assert_eq!(site.counter("tombolo_dtls_begun_handshakes_total"), 0);
        }
        site.daemon.kill();
        site.daemon.resume();
    }
    drop((input, hearing));
    let _ = client.kill();
    let _ = client.wait();
    let _ = reader.join();
}
