//! Who MQTT clients and devices are, and how that is changed while the gateway runs: tokens by
//! PyJWT with paho, keys that are added and removed, a new pre-shared key beside the one before,
//! import of thousands.

use std::process::{Command, Stdio};
use std::time::Duration;

use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, free_tcp_port, printed, wait_for};

use super::device::Device;
use super::mqtt::{PUMP, SOCKET, on_socket, python, site, socket};
use super::{KEY, SITE, Site, binary};
use tombolo_test_support::dtls::client::Config;

/// Makes key pairs and tokens with PyJWT, connects with paho, and prints what the gateway says.
const CLIENT: &str = r#"
import base64, datetime, json, sys, time
import jwt, paho.mqtt.client as mqtt
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

folder, socket, what = sys.argv[1:4]
names = {"ES256": "ec", "EdDSA": "ed", "RS256": "rsa"}

if what == "keys":
    pairs = {"ec": ec.generate_private_key(ec.SECP256R1()), "ed": ed25519.Ed25519PrivateKey.generate(),
             "rsa": rsa.generate_private_key(65537, 2048), "other": ec.generate_private_key(ec.SECP256R1())}
    for name, pair in pairs.items():
        with open(f"{folder}/{name}.key", "wb") as f:
            f.write(pair.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
        with open(f"{folder}/{name}.pem", "wb") as f:
            f.write(pair.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    sys.exit()

def key(name, kind="key"):
    return open(f"{folder}/{name}.{kind}").read()

def connect(token, version=5, client_id="cam-1", wait=5):
    said = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, transport="unix",
                         protocol=mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311, reconnect_on_failure=False)
    client.username_pw_set("unused", token)
    client.on_connect = lambda c, u, f, code, p: said.append("connect %s" % code)
    client.on_disconnect = lambda c, u, f, code, p: said.append("disconnect %s" % code)
    client.connect(socket)
    end = time.monotonic() + wait
    while time.monotonic() < end and not said:
        client.loop(0.1)
    if said[:1] == ["connect Success"] and wait > 5:
        while time.monotonic() < end and len(said) < 2:
            client.loop(0.1)
    result = ", ".join(said[:1 if wait == 5 else 2])
    client.disconnect()
    return result

now = int(time.time())
good = {"aud": "gw", "iat": now, "exp": now + 3600}
def of(**claims):
    return {k: v for k, v in {**good, **claims}.items() if v is not None}

if what == "judge":
    for algorithm, name in names.items():
        for version in (4, 5):
            print(algorithm, version, connect(jwt.encode(good, key(name), algorithm), version))
    body = {
        "expired": of(exp=now - 605, iat=now - 4000),
        "within the drift": of(exp=now - 590, iat=now - 4000),
        "early": of(iat=now + 700, exp=now + 3600), "nbf early": of(nbf=now + 700),
        "early within the drift": of(iat=now + 590, exp=now + 3600),
        "audience": of(aud="other"), "no audience": of(aud=None), "no exp": of(exp=None),
        "two days": of(exp=now + 200000),
    }
    for name, claims in body.items():
        print(name, connect(jwt.encode(claims, key("ec"), "ES256")))
    print("none", connect(jwt.encode(good, None, "none")))
    # PyJWT itself refuses a public key as the secret of HS256: by hand.
    import hashlib, hmac
    part = lambda value: base64.urlsafe_b64encode(value).rstrip(b"=")
    signed = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(good).encode())
    for kind in ("ec", "rsa"):
        mac = hmac.new(key(kind, "pem").encode(), signed, hashlib.sha256).digest()
        print("HS256", connect((signed + b"." + part(mac)).decode()))
    print("other key", connect(jwt.encode(good, key("other"), "ES256")))
    print("other device", connect(jwt.encode(good, key("ec"), "ES256"), client_id="pump-2"))
elif what == "token":
    print(jwt.encode(good, key("ec"), "ES256"))
elif what == "once":
    print(connect(jwt.encode(good, key("ec"), "ES256")))
elif what == "expiry":
    # It expires, with all the drift there is, in three seconds.
    token = jwt.encode(of(iat=now - 4000, exp=now - 597), key("ec"), "ES256")
    print(connect(token, wait=30))
"#;

/// A gateway whose broker proves by its certificate that the clock is right: by a clock that is not
/// proven no token and no certificate has expired.
pub fn proven(name: &str, extra: impl FnOnce(&Pki) -> String) -> Site {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{KEY}"));
    folder.write("pump-2.password", "text:sesame-sesame\n");
    let pki = Pki::new(folder.path());
    let now = seconds();
    let day = |day: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.wrapping_add_signed(day * 86_400))
    };
    let broker = Mosquitto::start_with(folder.path(), &pki, "", |params| {
        (params.not_before, params.not_after) = (day(-10), day(80));
    });
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p\t%C\t%P\t%r");
    let extra = format!("{SITE}{PUMP}{}", extra(&pki));
    let daemon = Daemon::start_with(binary(), &folder, broker.tls_port, &pki.ca(), &extra, str::to_owned);
    wait_for("the listener", || daemon.log().contains("listening for MQTT"));
    // Logged in the round from which on tokens are judged by it.
    wait_for("the proof of the clock", || daemon.log().contains("proven by a server's certificate"));
    Site { daemon, witness, broker, pki, folder }
}

fn seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

fn client(site: &Site, what: &str) -> String {
    let script = site.folder.write("client.py", CLIENT);
    let socket = site.folder.join("mqtt.sock");
    let output = Command::new(python())
        .arg(script)
        .args([site.folder.path(), &socket])
        .arg(what)
        .stdin(Stdio::null())
        .output()
        .expect("tests/run peers installs PyJWT and paho-mqtt");
    assert!(output.status.success(), "{}", printed(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Makes key pairs as files.
fn keys(site: &Site) {
    client(site, "keys");
}

fn run(site: &Site, arguments: &[&str]) -> String {
    let (status, text) = site.daemon.command(arguments);
    assert_eq!(status, 0, "{arguments:?}: {text}");
    text
}

fn file(site: &Site, name: &str) -> String {
    site.folder.join(name).display().to_string()
}

#[test]
fn tokens_of_pyjwt_are_judged_by_the_registered_keys_and_end_their_connection() {
    let site = proven("mqtt-jwt", |_| SOCKET.to_owned());
    client(&site, "keys");
    run(&site, &["device", "add", "cam-1", "--role", "sensor", "--jwt-key", &file(&site, "ec.pem")]);
    run(&site, &["device", "key", "add", "cam-1", &file(&site, "ed.pem")]);
    run(&site, &["device", "key", "add", "cam-1", &file(&site, "rsa.pem"), "--until", "2099-01-01"]);
    let listed = run(&site, &["device", "key", "list", "cam-1"]);
    assert!(
        ["ES256", "EdDSA", "RS256", "2099-01-01T00:00:00Z"].iter().all(|word| listed.contains(word)),
        "{listed}"
    );
    let said = client(&site, "judge");
    let refused = "connect Bad user name or password";
    for line in said.lines() {
        let is_good = ["ES256 ", "EdDSA ", "RS256 ", "within the drift", "early within the drift"]
            .iter()
            .any(|good| line.starts_with(good));
        assert!(line.ends_with(if is_good { "connect Success" } else { refused }), "{line}\n{said}");
    }
    assert_eq!(said.lines().count(), 6 + 9 + 1 + 2 + 2, "{said}");
    // Without a user name, which libmosquitto can send, in MQTT 5 alone.
    let token = client(&site, "token");
    let publish = |password: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["--unix", &socket(&site), "-V", "mqttv5", "-i", "fleet/cam-1", "-P", password]);
        command.args(["-q", "1", "-t", "t/nameless", "-m", "1"]).stdin(Stdio::null());
        command.output().expect("mosquitto-clients is installed").status.success()
    };
    assert!(publish(token.trim()) && !publish("no token"));
    wait_for("its reading", || !site.arrived("tombolo/gw/cam-1/up/t/nameless").is_empty());
    let newest = site.daemon.status()["mqtt"]["last_refused"]["reason"].to_string();
    assert!(newest.contains("a password without a user name"), "{newest}");
    let log = site.daemon.log();
    for reason in [
        "the token expired",
        "the token is not valid yet",
        "the token has another audience (aud): ",
        "the token has no exp",
        "valid for more than 24 hours",
        "no key of the device has the token's algorithm",
    ] {
        assert!(log.contains(reason), "{reason}\n{log}");
    }
    assert!(run(&site, &["device", "show", "cam-1"]).contains("MQTT refused"));
    assert!(run(&site, &["status"]).contains(" connects refused, the last "));
    assert_eq!(client(&site, "expiry").trim(), "connect Success, disconnect Maximum connect time");
    // A removed key is taken no more.
    let hash =
        listed.lines().find(|line| line.contains("ES256")).and_then(|line| line.split_whitespace().next());
    run(&site, &["device", "key", "remove", "cam-1", &hash.expect("a hash")["sha256:".len()..][..8]]);
    let said = client(&site, "judge");
    assert!(
        said.contains(&format!("ES256 5 {refused}")) && said.contains("EdDSA 5 connect Success"),
        "{said}"
    );
}

#[test]
fn the_first_use_of_a_key_is_told_though_the_gateway_was_restarted_in_between() {
    let mut site = on_socket("mqtt-new-key");
    keys(&site);
    run(&site, &["device", "add", "cam-1", "--role", "sensor", "--jwt-key", &file(&site, "ec.pem")]);
    site.daemon.stop();
    site.daemon.resume();
    let used = "a new key was used for the first time device=cam-1 key=jwt:sha256:";
    for _ in 0..2 {
        wait_for("the listener", || site.folder.join("mqtt.sock").exists());
        assert_eq!(client(&site, "once").trim(), "connect Success");
        wait_for("its line in the log", || site.daemon.log().contains(used));
        assert_eq!(site.daemon.log().matches(used).count(), 1);
        // Once.
        site.daemon.stop();
        site.daemon.resume();
    }
}

#[test]
fn a_disabled_device_is_cut_off_keeps_its_keys_and_comes_back() {
    let site = on_socket("mqtt-disable");
    let text = run(&site, &["device", "add", "node-red", "--role", "sensor", "--password"]);
    let line = text.lines().find(|line| line.contains("mosquitto_pub")).expect("a line").trim().to_owned();
    let publish = || Command::new("sh").args(["-c", &line]).output().expect("a shell").status.success();
    assert!(publish());
    run(&site, &["device", "disable", "node-red"]);
    assert!(!publish());
    assert!(run(&site, &["device", "list"]).contains("disabled by command"));
    assert!(run(&site, &["device", "show", "node-red"]).contains("device enable node-red"));
    run(&site, &["device", "enable", "node-red"]);
    assert!(publish());
    run(&site, &["device", "set", "node-red", "--label", "the flow", "--offline-after", "2h"]);
    assert!(publish() && run(&site, &["device", "show", "node-red"]).contains("the flow"));
    // Another user name is in force at once, with the password that it has.
    run(&site, &["device", "set", "node-red", "--mqtt-username", "flow"]);
    let renamed = line.replace("-u node-red", "-u flow");
    let as_flow = || Command::new("sh").args(["-c", &renamed]).output().expect("a shell").status.success();
    assert!(renamed != line && as_flow() && !publish());
    wait_for("its line in the log", || {
        let parts = ["node-red", "password", "audit=key-changed"];
        site.daemon.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
    });
    let (status, text) = site.daemon.command(&["device", "set", "node-red", "--role", "sensr"]);
    assert!(status == 1 && text.contains("did you mean \"sensor\"?"), "{text}");
    let (status, text) = site.daemon.command(&["device", "set", "pump-2", "--label", "x"]);
    assert!(status == 1 && text.contains("is in the configuration"), "{text}");
}

#[test]
fn a_new_key_is_taken_beside_the_one_before_until_it_is_used() {
    let site = Site::new("rekey", "");
    run(&site, &["device", "add", "sleeper", "--role", "sensor", "--psk", &format!("text:{KEY}")]);
    let text =
        run(&site, &["device", "rekey", "sleeper", "--psk", "text:another-key-12345", "--overlap", "7d"]);
    assert!(text.contains("sleeper.2"), "{text}");
    let coaps = site.daemon.coaps;
    let connects = |identity: &str, key: &str| Device::connect(coaps, Config::psk(identity, key)).is_some();
    assert!(connects("sleeper", KEY), "the key before");
    assert!(run(&site, &["device", "list", "--key-age"]).contains("sleeper"));
    assert!(connects("sleeper.2", "another-key-12345"), "the new one");
    let file = site.folder.join("state/devices/sleeper.toml");
    let text = || std::fs::read_to_string(&file).expect("a file");
    let used = "a new key was used for the first time device=sleeper key=psk audit=new-key-used";
    wait_for("its line in the log", || site.daemon.log().contains(used));
    wait_for("the key before to go", || !text().contains(KEY) && !text().contains("next-psk"));
    wait_for("its refusal", || !connects("sleeper", KEY));
    assert!(connects("sleeper.2", "another-key-12345"));
    // Without an overlap the key before is taken no more at once.
    run(&site, &["device", "rekey", "sleeper", "--psk", "text:a-third-key-12345"]);
    assert!(!connects("sleeper.2", "another-key-12345") && connects("sleeper.2", "a-third-key-12345"));
}

#[test]
fn a_new_key_that_was_used_stays_though_another_one_is_made_before_the_file_is_written() {
    let site = Site::new("rekey-twice", "");
    run(&site, &["device", "add", "sleeper", "--role", "sensor", "--psk", &format!("text:{KEY}")]);
    run(&site, &["device", "rekey", "sleeper", "--psk", "text:another-key-12345", "--overlap", "7d"]);
    let coaps = site.daemon.coaps;
    let connects = |identity: &str, key: &str| Device::connect(coaps, Config::psk(identity, key)).is_some();
    assert!(connects("sleeper.2", "another-key-12345"));
    // At once, as a script does.
    let text =
        run(&site, &["device", "rekey", "sleeper", "--psk", "text:a-third-key-12345", "--overlap", "7d"]);
    assert!(!text.contains("not used yet"), "{text}");
    let file = site.folder.join("state/devices/sleeper.toml");
    let text = || std::fs::read_to_string(&file).expect("a file");
    wait_for("the key before to go", || !text().contains(KEY));
    assert!(
        text().contains("psk-identity = \"sleeper.2\"") && text().contains("a-third-key-12345"),
        "{}",
        text()
    );
    // The device has this one; a daemon that reads its files again says the same.
    run(&site, &["reload"]);
    wait_for("the key that the device has", || connects("sleeper.2", "another-key-12345"));
    let next = text();
    let (_, next) = next.split_once("next-psk-identity = \"").expect("a next identity");
    let (next, _) = next.split_once('"').expect("its end");
    assert!(connects(next, "a-third-key-12345"), "{next}");
    wait_for("the second one to go", || !text().contains("another-key-12345"));
    wait_for("its refusal", || !connects("sleeper.2", "another-key-12345"));
}

#[test]
fn a_key_that_could_not_be_replaced_is_no_problem_once_it_can_be_or_need_not_be() {
    let site = Site::new("rekey-failing", "");
    let is_told =
        || site.daemon.status()["problems"].to_string().contains("before the new one is still taken");
    let lock = site.folder.join("state/devices/.lock");
    let begun = |id: &str| {
        run(&site, &["device", "add", id, "--role", "sensor", "--psk", &format!("text:{KEY}")]);
        run(&site, &["device", "rekey", id, "--psk", "text:another-key-12345", "--overlap", "7d"]);
        std::fs::remove_file(&lock).expect("the lock");
        std::fs::create_dir(&lock).expect("what nobody can lock");
        let identity = format!("{id}.2");
        assert!(Device::connect(site.daemon.coaps, Config::psk(&identity, "another-key-12345")).is_some());
        wait_for("the problem", is_told);
    };
    begun("one");
    std::fs::remove_dir(&lock).expect("the lock");
    let since = std::time::Instant::now();
    wait_for("its end, when the file can be written", || !is_told());
    assert!(since.elapsed() < std::time::Duration::from_secs(30), "{:?}", since.elapsed());
    begun("two");
    std::fs::remove_file(site.folder.join("state/devices/two.toml")).expect("a file");
    run(&site, &["reload"]);
    let since = std::time::Instant::now();
    wait_for("its end, when the device is gone", || !is_told());
    assert!(since.elapsed() < std::time::Duration::from_secs(4), "{:?}", since.elapsed());
    std::fs::remove_dir(&lock).expect("the lock");
}

#[test]
fn a_new_key_that_was_used_just_before_a_stop_is_the_devices_after_it() {
    let mut site = Site::new("rekey-stop", "");
    run(&site, &["device", "add", "sleeper", "--role", "sensor", "--psk", &format!("text:{KEY}")]);
    run(&site, &["device", "rekey", "sleeper", "--psk", "text:another-key-12345", "--overlap", "7d"]);
    let device = Device::connect(site.daemon.coaps, Config::psk("sleeper.2", "another-key-12345"));
    assert!(device.is_some());
    assert_eq!(site.daemon.stop().0, Some(0));
    let text = std::fs::read_to_string(site.folder.join("state/devices/sleeper.toml")).expect("a file");
    assert!(!text.contains(KEY) && !text.contains("next-psk"), "{text}");
    assert!(text.contains("another-key-12345"), "{text}");
}

#[test]
fn a_changed_credential_ends_the_sessions_that_it_proved_and_no_other_of_the_device() {
    let site = site("mqtt-several", |folder, _| {
        folder.write("both.psk", format!("text:{KEY}"));
        folder.write("both.password", "text:open-sesame\n");
        let device = "role = \"sensor\"\npsk-file = \"both.psk\"\npassword-file = \"both.password\"\n";
        format!("{SOCKET}[device.both]\n{device}")
    });
    let said =
        |name: &str| std::fs::read_to_string(site.folder.join(&format!("{name}.log"))).unwrap_or_default();
    let subscribe = |name: &str, password: &str| {
        let log = std::fs::File::create(site.folder.join(&format!("{name}.log"))).expect("a file");
        // A line at a time, though it writes to a file.
        let mut command = Command::new("stdbuf");
        command.args([
            "-oL",
            "mosquitto_sub",
            "--unix",
            &socket(&site),
            "-u",
            name,
            "-P",
            password,
            "-V",
            "mqttv5",
        ]);
        command.args(["-i", name, "-c", "-x", "3600", "-q", "1", "-t", "set/#", "-d"]);
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        let client = command.spawn().expect("mosquitto-clients is installed");
        wait_for("the subscription", || said(name).contains("Subscribed"));
        client
    };
    let mut client = subscribe("both", "open-sesame");
    let connect = |key: &str| Device::connect(site.daemon.coaps, Config::psk("both", key));
    let mut device = connect(KEY).expect("a session");
    assert!(device.post("t/x", b"1"));
    // Another key: the DTLS session ends, and the MQTT client does not.
    site.folder.write("both.psk", "text:another-key-12345");
    run(&site, &["reload"]);
    wait_for("the end of the session", || site.daemon.status()["devices"]["sessions"] == 0);
    let mut device = connect("another-key-12345").expect("a session");
    assert!(device.post("t/x", b"2") && said("both").matches("CONNACK").count() == 1);
    assert!(!said("both").contains("DISCONNECT") && client.try_wait().expect("a process").is_none());
    // Another password: the other way round.
    site.folder.write("both.password", "text:close-sesame\n");
    run(&site, &["reload"]);
    wait_for("its end", || said("both").contains("DISCONNECT (135)"));
    assert!(device.post("t/x", b"3"));
    let _ = client.kill();
    let _ = client.wait();
    // Keys of the registry.
    keys(&site);
    run(&site, &["device", "add", "cam-1", "--role", "sensor", "--password", "text:open-sesame"]);
    let mut client = subscribe("cam-1", "open-sesame");
    run(&site, &["device", "key", "add", "cam-1", &file(&site, "ec.pem")]);
    let listed = run(&site, &["device", "key", "list", "cam-1"]);
    let hash = listed.split("sha256:").nth(1).expect("a hash")[..8].to_owned();
    run(&site, &["device", "key", "remove", "cam-1", &hash]);
    assert_eq!(said("cam-1").matches("CONNACK").count(), 1);
    assert!(!said("cam-1").contains("DISCONNECT") && client.try_wait().expect("a process").is_none());
    run(&site, &["device", "rekey", "cam-1", "--password", "text:close-sesame"]);
    wait_for("its end", || said("cam-1").contains("DISCONNECT (135)"));
    let _ = client.kill();
    let _ = client.wait();
}

#[test]
fn a_device_whose_psk_identity_is_no_text_makes_a_session_and_its_readings_are_its_own() {
    let site = Site::new("binary", "");
    let key = format!("text:{KEY}");
    run(
        &site,
        &["device", "add", "bin-1", "--role", "sensor", "--psk", &key, "--psk-identity", "hex:00ff80c3"],
    );
    let as_identity = |identity: &[u8]| {
        Device::connect(site.daemon.coaps, Config { identity: identity.to_vec(), ..Config::psk("", KEY) })
    };
    let mut device = as_identity(&[0, 0xff, 0x80, 0xc3]).expect("a session");
    assert!(device.post("t/x", b"21.5"));
    wait_for("the reading", || site.arrived("tombolo/gw/bin-1/up/t/x").len() == 1);
    // Neither its beginning, nor what it would be as text, nor its digits.
    for other in [&[0, 0xff, 0x80][..], &[0], "\0\u{fffd}\u{fffd}\u{fffd}".as_bytes(), b"hex:00ff80c3"] {
        assert!(as_identity(other).is_none(), "{other:?}");
    }
}

#[test]
fn thousands_of_devices_are_imported_at_once_and_what_keygen_made_connects() {
    let site = proven("mqtt-import", |_| SOCKET.to_owned());
    let ids: Vec<String> = (0..3_000).map(|n| format!("unit-{n}")).collect();
    let mut arguments = vec!["device", "keygen", "--role", "sensor"];
    arguments.extend(ids.iter().map(String::as_str));
    let made = run(&site, &arguments);
    assert_eq!(made.lines().count(), 3_001);
    let csv = site.folder.write("units.csv", &made).display().to_string();
    let dry = run(&site, &["device", "import", &csv, "--dry-run"]);
    assert!(dry.contains("3000 devices can be imported"), "{dry}");
    let devices = site.folder.join("state/devices");
    let count = || {
        std::fs::read_dir(&devices)
            .map_or(0, |all| all.flatten().filter(|e| e.file_name() != ".lock").count())
    };
    assert_eq!(count(), 0);
    run(&site, &["device", "import", &csv]);
    assert_eq!(count(), 3_000);
    let last = made.lines().next_back().expect("a line");
    let key = last.split(",text:").nth(1).expect("a key");
    assert!(Device::connect(site.daemon.coaps, Config::psk("unit-2999", key)).is_some());
    // One fault, and nothing is imported.
    let text = "id,role,psk\nnew-1,sensor,text:0123456789abcdef\nunit-7,sensor,text:0123456789abcdef\n";
    let csv = site.folder.write("faulty.csv", text).display().to_string();
    let (status, said) = site.daemon.command(&["device", "import", &csv]);
    assert!(status == 1 && said.contains("unit-7: it exists already") && count() == 3_000, "{said}");
    // A key pair for tokens.
    let keys = site.folder.path().display().to_string();
    let made =
        run(&site, &["device", "keygen", "--kind", "jwt", "--keys", &keys, "--role", "sensor", "cam-1"]);
    let csv = site.folder.write("cam.csv", &made).display().to_string();
    run(&site, &["device", "import", &csv]);
    std::fs::copy(site.folder.join("cam-1.key"), site.folder.join("ec.key")).expect("a copy");
    assert_eq!(client(&site, "expiry").trim(), "connect Success, disconnect Maximum connect time");
}

#[test]
fn a_tls_client_is_disconnected_when_its_certificate_expires() {
    let port = free_tcp_port();
    let site = proven("mqtt-expiry", |pki| {
        let (certificate, key) = pki.issue("gateway", &["localhost", "127.0.0.1"]);
        format!(
            "[mqtt]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n\
             client-ca-file = \"{}\"\n[device.cam-9]\nrole = \"sensor\"\ncertificate-dns = \"cam-9.example\"\n",
            certificate.display(),
            key.display(),
            pki.ca().display()
        )
    });
    let now = seconds();
    let (certificate, key) = site.pki.issue_with("cam-9", &["cam-9.example"], |params| {
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now + 5);
    });
    let mut client = Command::new("mosquitto_sub")
        .args(["-h", "localhost", "-p", &port.to_string(), "-V", "mqttv5", "-t", "set/led", "-d", "-W", "60"])
        .arg("--cafile")
        .arg(site.pki.ca())
        .arg("--cert")
        .arg(certificate)
        .arg("--key")
        .arg(key)
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::fs::File::create(site.folder.join("sub.log")).expect("a file")))
        .stderr(Stdio::from(std::fs::File::create(site.folder.join("sub.err")).expect("a file")))
        .spawn()
        .expect("mosquitto-clients is installed");
    let said = || std::fs::read_to_string(site.folder.join("sub.log")).unwrap_or_default();
    wait_for("the subscription", || said().contains("Subscribed"));
    wait_for("the end", || said().contains("DISCONNECT (160)"));
    let _ = client.wait();
    // It does not come back; the daemon's line may be later than the client's end.
    let output = Command::new("mosquitto_pub")
        .args(["-h", "localhost", "-p", &port.to_string(), "-V", "mqttv5", "-q", "1", "-t", "t/x", "-m", "1"])
        .arg("--cafile")
        .arg(site.pki.ca())
        .args(["--cert", &site.folder.join("cam-9.pem").display().to_string()])
        .args(["--key", &site.folder.join("cam-9.key").display().to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("mosquitto-clients is installed");
    assert!(!output.status.success(), "{}", printed(&output));
    wait_for("the refusal in the log", || {
        site.daemon.log().contains("TLS handshake of an MQTT client failed")
    });
}
