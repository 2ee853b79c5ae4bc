//! Devices that are asked, on pseudo-terminals through the daemon: by a question of their own
//! (`poll`), and as Modbus units in ASCII.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use crate::{Device, Folder, Site};
use tombolo_test_support::wait_for;

/// What is behind the line: bytes until the end of a question in, bytes out. Ends with the value.
pub struct Behind {
    _device: Device,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Behind {
    pub fn new(
        folder: &Folder,
        name: &str,
        end: u8,
        mut answer: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> Behind {
        let device = Device::plugged_in(folder.join(name));
        let mut line = device.master.as_ref().expect("plugged in").try_clone().expect("a second descriptor");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut heard, mut bytes) = (Vec::new(), [0; 256]);
            while !stopped.load(Ordering::Relaxed) {
                let mut ends = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut ends, PollTimeout::from(20_u8));
                match line.read(&mut bytes) {
                    Ok(count) => heard.extend_from_slice(&bytes[..count]),
                    // Nobody has the port open yet: poll would not wait.
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
                }
                while let Some(at) = heard.iter().position(|byte| *byte == end) {
                    let question: Vec<u8> = heard.drain(..=at).collect();
                    let _ = line.write_all(&answer(&question));
                }
            }
        });
        Behind { _device: device, stop, thread: Some(thread) }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_device_that_must_be_asked_is_and_its_answers_arrive_one_for_each_question() {
    let count = Arc::new(AtomicU64::new(0));
    let mute = Arc::new(AtomicBool::new(false));
    let mut behind = None;
    let site = Site::new("asked", |folder| {
        let (count, mute) = (count.clone(), mute.clone());
        behind = Some(Behind::new(folder, "scale", b'\r', move |question| {
            assert_eq!(question, b"A\r");
            let number = count.fetch_add(1, Ordering::Relaxed);
            if mute.load(Ordering::Relaxed) { Vec::new() } else { format!("W{number}\r\n").into_bytes() }
        }));
        format!(
            "[serial.scale]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\npoll = 'A\\r'\n\
             poll-period = \"200ms\"\npoll-timeout = \"150ms\"\n",
            folder.join("scale").display()
        )
    });
    wait_for("answers", || site.payloads("scale").len() >= 5);
    let payloads = site.payloads("scale");
    assert!(payloads.iter().all(|payload| payload.starts_with('W')), "{payloads:?}");
    let mut distinct = payloads.clone();
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() >= 5, "each answer is another: {payloads:?}");
    assert_eq!(site.ports()["scale"]["asked"]["state"], "up");
    wait_for("its presence", || {
        site.told("scale").is_some_and(|told| told["online"] == true && told["unit"] == "up")
    });
    let (_, text) = site.daemon.command(&["device", "list"]);
    assert!(text.contains("online"), "{text}");
    // Silent: it is down, and says why.
    mute.store(true, Ordering::Relaxed);
    wait_for("the silence", || site.ports()["scale"]["asked"]["state"] == "down");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("1 offline") && text.contains(" 0 online"), "{text}");
    let (_, text) = site.daemon.command(&["device", "show", "scale"]);
    assert!(text.contains("offline") && text.contains("it does not answer"), "{text}");
    mute.store(false, Ordering::Relaxed);
    wait_for("its return", || site.ports()["scale"]["asked"]["state"] == "up");
}

/// The longitudinal redundancy check of Modbus ASCII.
fn lrc(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

/// A Modbus ASCII unit: registers hold their own address; `longest` registers at once.
fn ascii(question: &[u8], longest: u64) -> Vec<u8> {
    let text = String::from_utf8_lossy(question);
    let digits = text.trim().trim_start_matches(':').as_bytes().to_vec();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let [unit, function, high, low, _, quantity, check] = bytes[..] else { return Vec::new() };
    if lrc(&bytes[..6]) != check || u64::from(quantity) > longest {
        return Vec::new();
    }
    let first = u16::from_be_bytes([high, low]);
    let mut answer = vec![unit, function, 2 * quantity];
    (first..first + u16::from(quantity)).for_each(|word| answer.extend(word.to_be_bytes()));
    answer.push(lrc(&answer));
    let digits: String = answer.iter().map(|byte| format!("{byte:02X}")).collect();
    format!(":{digits}\r\n").into_bytes()
}

#[test]
fn a_modbus_ascii_unit_is_read_and_what_it_taught_can_be_discarded() {
    let longest = Arc::new(AtomicU64::new(2));
    let mut behind = None;
    let site = Site::new("modbus-ascii", |folder| {
        let longest = longest.clone();
        behind = Some(Behind::new(folder, "bus", b'\n', move |question| {
            ascii(question, longest.load(Ordering::Relaxed))
        }));
        let registers: String =
            (0..4).map(|at| format!("register.r{at}.address = {at}\n")).collect::<Vec<_>>().concat();
        format!(
            "[serial.bus]\nport = \"{}\"\nbaud = 9600\n[serial.bus.modbus]\nmode = \"ascii\"\ntimeout = \"200ms\"\n\
             backoff = \"100ms\"\n[serial.bus.unit.1]\nid = \"u1\"\nrole = \"meter\"\nperiod = \"200ms\"\n{registers}",
            folder.join("bus").display()
        )
    });
    let whole = |payload: &String| {
        serde_json::from_str(payload)
            .is_ok_and(|value: serde_json::Value| value == json!({"r0": 0, "r1": 1, "r2": 2, "r3": 3}))
    };
    // It is silent to more than two registers.
    wait_for("the shorter reads", || site.ports()["bus"]["units"]["u1"]["learned_max_registers"] == 2);
    wait_for("readings", || site.payloads("u1").iter().filter(|payload| whole(payload)).count() >= 3);
    longest.store(125, Ordering::Relaxed);
    let (code, text) = site.daemon.command(&["serial", "relearn", "u1"]);
    assert!(code == 0 && text.contains("forgotten"), "{text}");
    wait_for("longer reads", || site.ports()["bus"]["units"]["u1"]["learned_max_registers"] == 0);
    let before = site.payloads("u1").len();
    wait_for("more readings", || site.payloads("u1").len() >= before + 3);
    assert_eq!(site.ports()["bus"]["units"]["u1"]["learned_max_registers"], 0);
    let (code, text) = site.daemon.command(&["serial", "relearn", "u2"]);
    assert!(code == 1 && text.contains("did you mean u1?"), "{text}");
    let (_, text) = site.daemon.command(&["device", "show", "u1"]);
    assert!(text.contains("state") && text.contains("online"), "{text}");
}

#[test]
fn a_unit_that_answers_another_length_is_degraded_with_that_reason_and_counted_so() {
    let mut behind = None;
    let site = Site::new("misfit", |folder| {
        behind = Some(Behind::new(folder, "bus", b'\n', |question| {
            // Two registers, whatever is asked.
            let Some(head) = question.get(..9) else { return Vec::new() };
            let mut wide = head.to_vec();
            wide.extend_from_slice(b"0002");
            let bytes: Vec<u8> = wide[1..]
                .chunks(2)
                .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect();
            wide.extend_from_slice(format!("{:02X}\r\n", lrc(&bytes)).as_bytes());
            ascii(&wide, 125)
        }));
        format!(
            "[serial.bus]\nport = \"{}\"\nbaud = 9600\n[serial.bus.modbus]\nmode = \"ascii\"\ntimeout = \"200ms\"\n\
             backoff = \"100ms\"\n[serial.bus.unit.1]\nid = \"u1\"\nrole = \"meter\"\nperiod = \"200ms\"\n\
             register.r.address = 0\n",
            folder.join("bus").display()
        )
    });
    wait_for("the state", || site.ports()["bus"]["units"]["u1"]["state"] == "degraded");
    let reason = "it answers 4 bytes where 2 are asked for";
    wait_for("its presence", || {
        site.told("u1").is_some_and(|told| {
            told["online"] == false
                && told["unit"] == "degraded"
                && told["reason"].as_str().is_some_and(|text| text.contains(reason))
        })
    });
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("1 known, 0 online, 1 degraded") && text.contains(reason), "{text}");
    let (_, text) = site.daemon.command(&["device", "list"]);
    assert!(text.contains("degraded"), "{text}");
    let (_, text) = site.daemon.command(&["--json", "device", "show", "u1"]);
    assert!(text.contains("\"state\":\"degraded\"") && text.contains("\"online\":false"), "{text}");
    // Before `check`, which publishes without a payload on topics that no device uses.
    assert_eq!(site.payloads("u1"), Vec::<String>::new());
    let (_, text) = site.daemon.command(&["check"]);
    assert!(text.contains(reason), "{text}");
}

#[test]
fn a_device_whose_answers_do_not_end_as_framing_says_is_not_called_silent() {
    let mut behind = None;
    let site = Site::new("endless", |folder| {
        behind = Some(Behind::new(folder, "scale", b'\r', |_| b"W12".to_vec()));
        format!(
            "[serial.scale]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\npoll = 'A\\r'\n\
             poll-period = \"200ms\"\npoll-timeout = \"150ms\"\n",
            folder.join("scale").display()
        )
    });
    wait_for("it to be down", || site.ports()["scale"]["asked"]["state"] == "down");
    let why = "it answers, but no answer ends as framing says (\"W12\"): look at framing, line-end and baud";
    assert_eq!(site.ports()["scale"]["asked"]["reason"], why);
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    assert!(text.contains(why), "{text}");
    assert!(site.payloads("scale").is_empty());
}

#[test]
fn an_answer_that_is_no_reading_is_told_with_its_reason_and_its_first_bytes_everywhere() {
    let good = Arc::new(AtomicBool::new(false));
    let mut behind = None;
    let site = Site::new("no-reading", |folder| {
        let good = good.clone();
        behind = Some(Behind::new(folder, "scale", b'\r', move |_| match good.load(Ordering::Relaxed) {
            true => b"W=1\r\n".to_vec(),
            false => b"T=\xb021\r\n".to_vec(),
        }));
        format!(
            "[serial.scale]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\npoll = 'A\\r'\npattern = '^W='\n\
             poll-period = \"200ms\"\npoll-timeout = \"150ms\"\n",
            folder.join("scale").display()
        )
    });
    wait_for("the state", || site.ports()["scale"]["asked"]["state"] == "degraded");
    let seen = r#"the pattern does not match "T=.21" (hex 543db03231)"#;
    assert_eq!(site.ports()["scale"]["asked"]["last_fault"], seen);
    let reason = format!("its answers are no readings: {seen}; compare pattern with what comes");
    for command in [&["status"][..], &["check", "--offline"], &["serial", "list"]] {
        let (_, text) = site.daemon.command(command);
        assert!(text.contains(&reason), "{command:?}: {text}");
    }
    let named = |what: &str| {
        let log = site.daemon.log();
        let line = |line: &&str| line.contains(what) && line.contains("first=543db03231");
        log.lines().filter(line).any(|line| line.contains("the pattern does not match"))
    };
    wait_for("the log", || named("frame without a reading") && named("its answers are no readings"));
    good.store(true, Ordering::Relaxed);
    wait_for("a reading", || site.payloads("scale").iter().any(|payload| payload == "W=1"));
    assert!(site.ports()["scale"]["asked"].get("last_fault").is_none());
}

#[test]
fn a_device_that_answers_only_after_it_was_woken_is_read() {
    let mut behind = None;
    let site = Site::new("woken", |folder| {
        let mut is_awake = false;
        // It falls asleep with its answer.
        behind = Some(Behind::new(folder, "logger", b'\r', move |question| {
            let was_awake = std::mem::replace(&mut is_awake, question == b"\r");
            if was_awake && question == b"A\r" { b"W=1\r\n".to_vec() } else { Vec::new() }
        }));
        format!(
            "[serial.logger]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\npoll = 'A\\r'\nwake = '\\r'\n\
             wake-pause = \"20ms\"\npoll-period = \"200ms\"\npoll-timeout = \"150ms\"\n",
            folder.join("logger").display()
        )
    });
    wait_for("readings", || site.payloads("logger").len() >= 5);
    let asked = site.ports()["logger"]["asked"].clone();
    assert_eq!(asked["state"], "up", "{asked}");
}

#[test]
fn several_devices_on_one_line_are_asked_in_turn_and_a_silent_one_does_not_keep_back_the_others() {
    let mute = Arc::new(AtomicBool::new(false));
    let heard = Arc::new(AtomicU64::new(0));
    let mut behind = None;
    let site = Site::new("shared", |folder| {
        let (mute, heard) = (mute.clone(), heard.clone());
        behind = Some(Behind::new(folder, "line", b'\r', move |question| match question {
            b"A\r" => format!("a{}\r\n", heard.fetch_add(1, Ordering::Relaxed)).into_bytes(),
            b"B\r" if !mute.load(Ordering::Relaxed) => b"b\x03".to_vec(),
            b"B\r" => Vec::new(),
            other => panic!("{other:?}"),
        }));
        let port = folder.join("line").display().to_string();
        format!(
            "[serial.one]\nport = \"{port}\"\nframing = \"line\"\nrole = \"meter\"\npoll = 'A\\r'\n\
             poll-period = \"100ms\"\npoll-timeout = \"100ms\"\n\
             [serial.two]\nport = \"{port}\"\nframing = \"line\"\nline-end = \"hex:03\"\nrole = \"meter\"\npoll = 'B\\r'\n\
             poll-period = \"200ms\"\npoll-timeout = \"100ms\"\n"
        )
    });
    wait_for("both", || site.payloads("one").len() >= 5 && site.payloads("two").len() >= 3);
    assert!(site.payloads("one").iter().all(|payload| payload.starts_with('a')));
    assert!(site.payloads("two").iter().all(|payload| payload == "b"));
    let state = |name: &str| site.ports()[name]["asked"]["state"].clone();
    assert_eq!((state("one"), state("two")), ("up".into(), "up".into()));
    mute.store(true, Ordering::Relaxed);
    wait_for("the silence", || state("two") == "down");
    let before = site.payloads("one").len();
    wait_for("the other", || site.payloads("one").len() > before + 10);
    assert_eq!(state("one"), "up");
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    assert!(text.contains("serial two") && text.contains("it does not answer"), "{text}");
    mute.store(false, Ordering::Relaxed);
    wait_for("its return", || state("two") == "up");
    let before = site.payloads("two").len();
    wait_for("readings", || site.payloads("two").len() > before + 2);
    assert_eq!(site.ports()["two"]["lost_readings"], 0);
    // A reload takes one out: the other has the line alone.
    let text = std::fs::read_to_string(site.daemon.config()).unwrap();
    let at = text.find("[serial.two]").unwrap();
    std::fs::write(site.daemon.config(), &text[..at]).unwrap();
    site.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the reload", || !site.ports().contains_key("two"));
    let before = site.payloads("one").len();
    wait_for("readings", || site.payloads("one").len() > before + 5);
}
