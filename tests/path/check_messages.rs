//! What `tombolo check` says of a broker: of its certificate, each case against `openssl s_server`,
//! and of one that will not have MQTT 5, or a will, or TLS.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::binary;
use tombolo_test_support::{Folder, free_tcp_port, wait_for};

/// A broker as far as TLS.
struct Peer {
    child: Child,
    port: u16,
}

impl Peer {
    fn start(folder: &Folder, name: &str) -> Peer {
        let port = free_tcp_port();
        let child = Command::new("openssl")
            .args(["s_server", "-accept", &port.to_string(), "-quiet", "-cipher", "ALL:@SECLEVEL=0"])
            .arg("-cert")
            .arg(folder.join(&format!("{name}.pem")))
            .arg("-key")
            .arg(folder.join(&format!("{name}.key")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        wait_for("openssl s_server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Peer { child, port }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(folder: &Folder, line: &str) {
    let output = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "openssl {line}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// `NAME.pem` and `NAME.key`: a certificate of `issuer`, or of its own.
fn make(
    folder: &Folder,
    name: &str,
    subject: &str,
    key: &str,
    digest: &str,
    issuer: Option<&str>,
    extensions: &str,
) {
    folder.write("extensions", extensions);
    openssl(
        folder,
        &format!("req -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={subject}"),
    );
    let by = match issuer {
        Some(issuer) => format!("-CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial"),
        None => format!("-signkey {name}.key"),
    };
    openssl(
        folder,
        &format!("x509 -req -in {name}.csr {by} -days 3000 -{digest} -extfile extensions -out {name}.pem"),
    );
}

/// What the check says about TLS.
fn said(folder: &Folder, peer: &Peer, ca: &Path, extra: &str) -> String {
    let upstream =
        format!("url = \"mqtts://localhost:{}\"\nca-file = \"{}\"\n{extra}", peer.port, ca.display());
    let text = check(folder, &upstream);
    let line = text.lines().find(|line| line.contains("upstream tls: "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// The whole output of the check with that `[upstream]`.
fn check(folder: &Folder, upstream: &str) -> String {
    std::fs::create_dir_all(folder.join("state")).expect("a folder");
    std::fs::create_dir_all(folder.join("run")).expect("a folder");
    let text = format!(
        "[paths]\nstate-dir = \"state\"\nruntime-dir = \"run\"\n[clock]\ntrust = \"always\"\n\
         [coap]\nlisten = [\"127.0.0.1:0\"]\n\
         [upstream]\n{upstream}"
    );
    let config = folder.write("tombolo.toml", text);
    let output = Command::new(binary()).arg("--config").arg(&config).arg("check").output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const ALTERNATIVE: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";

#[test]
fn every_fault_of_a_brokers_certificate_has_words_of_its_own() {
    let folder = Folder::new("messages");
    let ca = "basicConstraints=critical,CA:true\n";
    make(&folder, "root", "Root", "rsa:2048", "sha256", None, ca);
    make(&folder, "middle", "Middle", "rsa:2048", "sha256", Some("root"), ca);
    make(&folder, "other", "Other", "rsa:2048", "sha256", None, ca);
    make(&folder, "old", "broker", "rsa:2048", "sha1", Some("root"), ALTERNATIVE);
    make(&folder, "short", "broker", "rsa:1024", "sha256", Some("root"), ALTERNATIVE);
    make(&folder, "nameless", "localhost", "rsa:2048", "sha256", Some("root"), "basicConstraints=CA:false\n");
    make(&folder, "gap", "broker", "rsa:2048", "sha256", Some("middle"), ALTERNATIVE);
    make(
        &folder,
        "elsewhere",
        "broker",
        "rsa:2048",
        "sha256",
        Some("root"),
        "subjectAltName=DNS:other.example\n",
    );
    make(&folder, "own", "localhost", "rsa:2048", "sha256", None, &format!("{ca}{ALTERNATIVE}"));
    let cases: [(&str, &str, &[&str]); 8] = [
        ("old", "root", &["\"broker\"", "is signed with SHA-1", "SHA-256"]),
        ("short", "root", &["\"broker\"", "an RSA key of 1024 bits", "at least 2048"]),
        (
            "nameless",
            "root",
            &["\"localhost\" has no subject alternative name", "subjectAltName = DNS:localhost"],
        ),
        (
            "gap",
            "root",
            &[
                "\"broker\" was issued by \"Middle\"",
                "which is not trusted, and the broker does not send it",
                "full chain",
            ],
        ),
        ("elsewhere", "root", &["is not for `localhost` but for `other.example`"]),
        ("own", "root", &["a CA certificate as its own", "pin-sha256 = [\""]),
        ("own", "own", &["a CA certificate as its own", "pin-sha256 = [\""]),
        ("gap", "other", &["\"broker\" was issued by \"Middle\""]),
    ];
    for (name, anchor, words) in cases {
        let peer = Peer::start(&folder, name);
        let line = said(&folder, &peer, &folder.join(&format!("{anchor}.pem")), "");
        assert!(line.starts_with("fail"), "{name}: {line}");
        for word in words {
            assert!(line.contains(word), "{name}: no {word:?} in {line}");
        }
        assert!(line.len() < 600, "{name}: {line}");
    }

    // With the pin that was printed the certificate that cannot be changed is accepted.
    let peer = Peer::start(&folder, "own");
    let refused = said(&folder, &peer, &folder.join("root.pem"), "");
    let pin =
        refused.split("pin-sha256 = [\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a pin");
    let line = said(&folder, &peer, &folder.join("root.pem"), &format!("pin-sha256 = [\"{pin}\"]\n"));
    assert!(line.starts_with("ok") && line.contains("key of upstream.pin-sha256"), "{line}");
    // It is what the documented way prints.
    openssl(&folder, "x509 -in own.pem -pubkey -noout -out own.pub");
    openssl(&folder, "pkey -pubin -in own.pub -outform der -out own.der");
    openssl(&folder, "dgst -sha256 -r -out own.hash own.der");
    assert!(std::fs::read_to_string(folder.join("own.hash")).expect("a hash").starts_with(pin));
}

/// One MQTT packet: its first byte and its body.
pub fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let first = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7F) << shift;
        shift += 7;
        if byte[0] < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, body))
}

/// A broker that closes on MQTT 5, or refuses a will, or both; else it takes and echoes everything.
fn scripted(no_5: bool, no_will: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, no_5, no_will));
        }
    });
    port
}

fn serve(mut stream: TcpStream, no_5: bool, no_will: bool) -> Option<()> {
    let (_, connect) = packet(&mut stream)?;
    let (version, will) = (*connect.get(6)?, connect.get(7)? & 4 != 0);
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    if no_5 && version == 5 {
        return None;
    }
    let code = match (no_will && will, version) {
        (false, _) => 0,
        (true, 5) => 0x87,
        (true, _) => 5,
    };
    let connack = [&[0x20, 2 + properties.len() as u8, 0, code], properties].concat();
    stream.write_all(&connack).ok()?;
    while let Some((first, body)) = packet(&mut stream).filter(|_| code == 0) {
        match first >> 4 {
            8 => {
                let suback = [&[0x90, 3 + properties.len() as u8], &body[..2], properties, &[0]].concat();
                stream.write_all(&suback).ok()?;
            }
            3 => {
                let topic = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                stream.write_all(&[&[0x40, 2], &body[topic..topic + 2]].concat()).ok()?;
                let echo = [&body[..topic], &body[topic + 2..]].concat();
                stream.write_all(&[&[0x30, echo.len() as u8], &echo[..]].concat()).ok()?;
            }
            _ => return None,
        }
    }
    None
}

#[test]
fn it_does_not_fail_where_the_gateway_would_connect() {
    let folder = Folder::new("fall-back");
    for (no_5, no_will) in [(false, false), (true, false), (false, true), (true, true)] {
        let url = format!("url = \"mqtt://127.0.0.1:{}\"\ninsecure = true\n", scripted(no_5, no_will));
        let text = check(&folder, &url);
        assert!(!text.lines().any(|line| line.starts_with("fail")), "{no_5} {no_will}\n{text}");
        assert!(text.contains("ok    upstream publish: acknowledged and back"), "{text}");
        assert_eq!(text.contains("speaks only MQTT 3.1.1"), no_5, "{text}");
        assert_eq!(text.contains("does not accept the will"), no_will, "{text}");
    }
}

#[test]
fn tls_on_a_plain_port_and_the_reverse_are_named() {
    let folder = Folder::new("ports");
    let text = check(&folder, &format!("url = \"mqtts://localhost:{}\"\n", scripted(false, false)));
    let line = text.lines().find(|line| line.starts_with("fail  upstream tls")).expect("a failure");
    assert!(line.contains("perhaps this port has no TLS") && line.contains("1883"), "{line}");

    make(&folder, "plain", "localhost", "rsa:2048", "sha256", None, ALTERNATIVE);
    let peer = Peer::start(&folder, "plain");
    let text = check(&folder, &format!("url = \"mqtt://localhost:{}\"\ninsecure = true\n", peer.port));
    let line = text.lines().find(|line| line.starts_with("fail  upstream mqtt")).expect("a failure");
    assert!(line.contains("TLS on this port") || line.contains("this port speaks TLS"), "{line}");
    assert!(line.contains("use mqtts://"), "{line}");
}

#[test]
fn an_ipv6_address_is_tried_in_brackets_and_without_them_is_named() {
    let folder = Folder::new("brackets");
    for url in ["mqtts://2001:db8::1", "mqtts://::1:8883", "mqtts://fe80::1:2:3:4"] {
        let text = check(&folder, &format!("url = \"{url}\"\n"));
        let line = text.lines().find(|line| line.starts_with("fail")).unwrap_or_else(|| panic!("{text}"));
        let said = format!("upstream.url: {url:?}: an IPv6 address is written in brackets");
        assert!(line.contains(&said), "{line}");
    }
    let Ok(listener) = TcpListener::bind(("::1", 0)) else { return };
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, false, false));
        }
    });
    let text = check(&folder, &format!("url = \"mqtt://[::1]:{port}\"\ninsecure = true\n"));
    assert!(text.contains(&format!("ok    upstream tcp: [::1]:{port} answered")), "{text}");
    assert!(text.contains("ok    upstream publish: acknowledged and back"), "{text}");
}

#[test]
fn a_broker_that_takes_only_small_packets_is_named_with_what_does_not_fit() {
    let folder = Folder::new("small");
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = packet(&mut stream);
            // CONNACK with Maximum Packet Size 512 (MQTT 5.0 §3.2.2.3.6).
            let _ = stream.write_all(&[0x20, 8, 0, 0, 5, 0x27, 0, 0, 2, 0]);
        }
    });
    let role = "[role.sensor.uplink.t]\npath = \"t/#\"\n";
    let text = check(&folder, &format!("url = \"mqtt://127.0.0.1:{port}\"\ninsecure = true\n{role}"));
    let line = text.lines().find(|line| line.contains("takes packets of 512 bytes"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line.starts_with("warn") && line.contains("65536") && line.contains("max-payload"), "{line}");
}

#[test]
fn a_port_in_use_stops_the_start_and_is_named_with_the_way_out() {
    let folder = Folder::new("in-use");
    let held = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = held.local_addr().expect("an address");
    let config = folder.write(
        "tombolo.toml",
        format!("[paths]\nstate-dir = \"state\"\nruntime-dir = \"run\"\n[coap]\nlisten = [\"{address}\"]\n"),
    );
    let output = Command::new(binary()).arg("--config").arg(&config).arg("run").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(&format!("coap.listen: {address} is taken by another program")), "{said}");
    assert!(said.contains("ss -ulpn"), "{said}");
}
