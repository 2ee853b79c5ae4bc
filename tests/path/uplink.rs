//! The uplink as its owner meets it: reloads, a silent name server, a record set aside.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Site, binary};
use tombolo_test_support::{Daemon, Folder, wait_for};

/// Refuses every CONNECT with this code, and counts them.
fn refusing(code: u8) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut bytes = [0u8; 1024];
            if let Ok(1..) = stream.read(&mut bytes) {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(&[0x20, 3, 0, code, 0]);
            }
        }
    });
    (port, count)
}

#[test]
fn ten_devices_added_make_no_log_in_and_a_password_that_was_mended_makes_one_at_once() {
    let (port, log_ins) = refusing(0x86);
    let folder = Folder::new("log-ins");
    let password = folder.write("password", "wrong");
    let daemon = Daemon::start_with(
        binary(),
        &folder,
        port,
        &password,
        "[role.sensor.uplink.t]\npath = \"t\"\n",
        |text| {
            let upstream =
                format!("insecure = true\nusername = \"gw\"\npassword-file = \"{}\"", password.display());
            text.replace("mqtts://localhost", "mqtt://127.0.0.1")
                .lines()
                .map(|line| if line.starts_with("ca-file") { upstream.clone() } else { line.to_owned() })
                .collect::<Vec<_>>()
                .join("\n")
        },
    );
    wait_for("the first log-in", || log_ins.load(Ordering::Relaxed) == 1);
    for number in 0..10 {
        let (code, text) =
            daemon.command(&["device", "add", &format!("door-{number}"), "--role", "sensor", "--psk"]);
        assert_eq!(code, 0, "{text}");
    }
    daemon.signal(Signal::SIGHUP);
    assert_eq!(daemon.status()["devices"]["known"], 10);
    assert_eq!(log_ins.load(Ordering::Relaxed), 1, "no reload made one");
    folder.write("password", "right");
    daemon.signal(Signal::SIGHUP);
    wait_for("a log-in with the new password", || log_ins.load(Ordering::Relaxed) == 2);
}

#[test]
fn it_stops_within_five_seconds_though_the_name_server_is_silent() {
    let folder = Folder::new("silent-dns");
    // It takes questions and answers none.
    let server = UdpSocket::bind("127.0.0.153:53").expect("port 53 needs root");
    server.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let resolv = folder.write("resolv.conf", "nameserver 127.0.0.153\n");
    let script = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {} /etc/resolv.conf && exec {} \"$@\"' tombolo \"$@\"\n",
        resolv.display(),
        binary().display()
    );
    let wrapped = folder.script("tombolo", &script);
    let ca = folder.write("ca.pem", "");
    let mut daemon = Daemon::start_with(&wrapped, &folder, 8883, &ca, "", |text| {
        text.replace("mqtts://localhost", "mqtts://broker.example")
            .lines()
            .filter(|line| !line.starts_with("ca-file"))
            .collect::<Vec<_>>()
            .join("\n")
    });
    let mut question = [0u8; 512];
    server.recv(&mut question).expect("it asks");
    let (code, took) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_record_that_cannot_be_judged_is_named_set_aside_by_its_owner_and_exported() {
    let folder = Folder::new("skip");
    let acl = folder.write(
        "acl",
        "topic write tombolo/gw/gateway/#\ntopic write tombolo/gw/door-7/status\ntopic read #\ntopic write tombolo/witness/#\n",
    );
    let mut site = Site::with_broker("skipped", "", &format!("acl_file {}", acl.display()));
    site.post(&["-e", "21.5"], "t/forbidden");
    // Nothing else is taken, so nothing is concluded.
    let queue = || -> serde_json::Value {
        let (code, text) = site.daemon.command(&["queue", "--json"]);
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).expect("JSON")
    };
    wait_for("the suspect", || queue()["lanes"]["normal"]["suspected"][0]["tries"].as_u64() >= Some(2));
    wait_for("the reason", || queue()["lanes"]["normal"]["stopped"].is_string());
    let lane = &queue()["lanes"]["normal"];
    let suspect = &lane["suspected"][0];
    assert_eq!(suspect["topic"], "tombolo/gw/door-7/up/t/forbidden");
    assert!(suspect["reason"].as_str().is_some_and(|reason| reason.contains("0x87")), "{suspect}");
    assert!(lane["stopped"].as_str().is_some_and(|why| why.contains("refuses every reading")), "{lane}");
    assert_eq!(site.daemon.status()["upstream"]["suspects"], 1);
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("1 record is suspected"), "{text}");
    let record = suspect["record"].as_str().expect("an id").to_owned();
    let (code, text) = site.daemon.command(&["queue", "skip", &record]);
    assert_eq!(code, 0, "{text}");
    wait_for("the record in rejected", || site.daemon.status()["journal"]["rejected"] == 1);
    assert_eq!(queue()["lanes"]["normal"]["records"], 0);
    // It is not said that the broker rejected it.
    let skipped = serde_json::json!({ "refused": 0, "closed": 0, "silent": 0, "skipped": 1 });
    let said = |site: &Site| {
        assert_eq!(site.daemon.status()["journal"]["rejected_causes"], skipped);
        let (_, text) = site.daemon.command(&["status"]);
        for words in
            ["1 record was set aside by `tombolo", "queue skip`, not refused", "; 1 set aside by you"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("the broker rejected") && !text.contains("rejected by the broker"), "{text}");
    };
    said(&site);
    assert_eq!(queue()["rejected"]["causes"], skipped);
    let counters = &site.daemon.status()["counters"];
    assert_eq!(counters["tombolo_northbound_rejected_readings_total"], 0, "{counters}");
    assert_eq!(counters["tombolo_northbound_skipped_readings_total"], 1, "{counters}");
    site.daemon.stop();
    site.daemon.resume();
    said(&site);
    let (code, text) = site.daemon.command(&["queue", "skip", &record]);
    assert!(code != 0 && text.contains(&format!("{record} is not waiting")), "{text}");

    let (code, text) = site.daemon.command(&["queue", "rejected", "export", "-"]);
    assert_eq!(code, 0, "{text}");
    let line: serde_json::Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (&line["id"], &line["device"], &line["path"]),
        (&record.as_str().into(), &"door-7".into(), &"t/forbidden".into())
    );
    assert_eq!(line["base64"], "MjEuNQ==");
    assert!(line["reason"].as_str().is_some_and(|reason| reason.contains("queue skip")), "{line}");
}

/// A broker that takes QoS 0 only, and everything with it.
fn only_qos_0() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut one = [0u8; 1];
                while let Ok(()) = stream.read_exact(&mut one) {
                    let kind = one[0] >> 4;
                    let (mut length, mut shift) = (0usize, 0);
                    loop {
                        if stream.read_exact(&mut one).is_err() {
                            return;
                        }
                        length |= usize::from(one[0] & 0x7F) << shift;
                        shift += 7;
                        if one[0] & 0x80 == 0 {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    if stream.read_exact(&mut body).is_err() {
                        return;
                    }
                    let _ = match kind {
                        1 => stream.write_all(&[0x20, 5, 0, 0, 2, 0x24, 0]),
                        8 => stream.write_all(&[0x90, 4, body[0], body[1], 0, 0]),
                        12 => stream.write_all(&[0xD0, 0]),
                        _ => Ok(()),
                    };
                }
            });
        }
    });
    port
}

#[test]
fn of_a_broker_with_qos_0_alone_nobody_says_that_it_acknowledged_anything() {
    let port = only_qos_0();
    let folder = Folder::new("qos-0");
    let role = "[role.sensor.uplink.t]\npath = \"t\"\n";
    let daemon = Daemon::start_with(binary(), &folder, port, folder.path(), role, |text| {
        let text = text.replace("mqtts://localhost", "mqtt://127.0.0.1");
        let lines =
            text.lines().map(|line| if line.starts_with("ca-file") { "insecure = true" } else { line });
        lines.collect::<Vec<_>>().join("\n")
    });
    wait_for("the broker", || daemon.status()["upstream"]["connected"] == true);
    let (code, text) = daemon.command(&["device", "add", "door-1", "--role", "sensor", "--psk"]);
    assert_eq!(code, 0, "{text}");
    let warnings = daemon.status()["upstream"]["warnings"].to_string();
    assert!(warnings.contains("QoS 0 only"), "{warnings}");
    let (code, text) = daemon.command(&["device", "test", "door-1"]);
    assert!(
        code == 0 && !text.contains("PUBACK") && text.contains("nothing shows that it arrived"),
        "{text}"
    );
    let (_, text) = daemon.command(&["check"]);
    assert!(
        !text.contains("a publish was acknowledged") && !text.contains("has delivered readings"),
        "{text}"
    );
    assert!(text.lines().any(|line| line.starts_with("warn") && line.contains("QoS 0 only")), "{text}");
}
