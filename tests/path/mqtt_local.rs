//! What waits for local MQTT clients that are away, what `tail` and `acl explain` say of them, and
//! what is taken over from a mosquitto.

use std::process::{Command, Stdio};

use tombolo_test_support::{free_tcp_port, printed, wait_for};

use super::mqtt::{LOCAL, SOCKET, publish, python, site, socket};

#[test]
fn a_subscriber_with_a_session_gets_what_came_while_it_was_away() {
    for version in ["mqttv311", "mqttv5"] {
        let site = site(&format!("mqtt-queue-{version}"), |_, _| {
            format!("{SOCKET}mirror = \"readings/{{device}}/{{path}}\"\nmax-queued = 5\n{LOCAL}")
        });
        let socket = socket(&site);
        let subscribe = |count: &str, wait: &str| {
            Command::new("mosquitto_sub")
                .args([
                    "--unix",
                    &socket,
                    "-u",
                    "pump-2",
                    "-P",
                    "sesame-sesame",
                    "-V",
                    version,
                    "-c",
                    "-i",
                    "board",
                ])
                .args([
                    "-x",
                    "3600",
                    "-q",
                    "2",
                    "-t",
                    "home/#",
                    "-t",
                    "readings/#",
                    "-v",
                    "-C",
                    count,
                    "-W",
                    wait,
                ])
                .stdin(Stdio::null())
                .output()
                .expect("mosquitto-clients is installed")
        };
        // It subscribes, gets one, and leaves.
        let first = std::thread::scope(|scope| {
            let subscriber = scope.spawn(|| subscribe("1", "60"));
            wait_for("the subscription", || {
                publish(&site, &["-V", version, "-q", "1", "-t", "home/pump-2/try", "-m", "0"]);
                subscriber.is_finished()
            });
            subscriber.join().expect("no panic")
        });
        assert!(printed(&first).contains("home/pump-2/try 0"), "{}", printed(&first));
        let status = || site.daemon.status()["mqtt"].clone();
        wait_for("the session without a connection", || status()["absent_sessions"].as_u64() >= Some(1));
        for number in 1..=6 {
            let text = number.to_string();
            publish(&site, &["-V", version, "-q", "2", "-t", "home/pump-2/lamp", "-m", &text]);
        }
        site.post(&["-e", "21.5"], "t/env");
        wait_for("what waits", || status()["queued_messages"] == 5);
        let later = printed(&subscribe("5", "60"));
        let (lamps, others): (Vec<&str>, Vec<&str>) =
            later.lines().partition(|line| line.starts_with("home/pump-2/lamp "));
        assert_eq!(lamps, [3, 4, 5, 6].map(|number| format!("home/pump-2/lamp {number}")), "the newest five");
        // Of QoS 1: the client shows it before those of QoS 2, which are still to be released.
        assert_eq!(others, ["readings/door-7/t/env 21.5"]);
        assert!(site.daemon.command(&["status"]).1.contains("mqtt"));
        // The router of the bus writes no line of its own.
        let log = site.daemon.log();
        assert!(!log.contains("ERROR") && !log.contains("incoming"), "{log}");
    }
}

#[test]
fn a_subscriber_gets_what_the_rule_of_an_included_role_lets_through_after_a_reload() {
    let rules = "[role.board.local-subscribe.readings]\ntopic = \"readings/#\"\non-change = true\n\
                 when = [{ is-not = \"9\" }]\n\
                 [role.sensor]\nincludes = [\"board\"]\n";
    let site = site("mqtt-filter", |_, _| format!("{SOCKET}mirror = \"readings/{{device}}/{{path}}\"\n"));
    let config = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    let reload = |text: &str| {
        std::fs::write(site.daemon.config(), text).expect("it can be written");
        let (code, said) = site.daemon.command(&["reload"]);
        assert_eq!(code, 0, "{said}");
    };
    // A role that includes another, by a reload.
    let filtered = config.replacen("[role.sensor]\n", rules, 1);
    reload(&filtered);
    let (_, said) = site.daemon.command(&["acl", "explain", "pump-2", "subscribe", "readings/#"]);
    assert!(
        said.contains("rule local-subscribe.readings of role board")
            && said.contains(
                "not delivered: what this does not hold for: the payload is not \"9\"; what equals"
            ),
        "{said}"
    );
    let socket = socket(&site);
    let login = ["--unix", &socket, "-u", "pump-2", "-P", "sesame-sesame", "-V", "mqttv5", "-q", "1"];
    let filtered = || {
        let counters = site.daemon.status()["counters"].clone();
        counters["tombolo_mqtt_filtered_local_messages_total"].as_u64().unwrap_or_default()
    };
    let got = std::thread::scope(|scope| {
        let subscriber = scope.spawn(|| {
            let mut command = Command::new("mosquitto_sub");
            command.args(login).args(["-t", "readings/door-7/t/#", "-F", "%p", "-C", "3", "-W", "60"]);
            command.stdin(Stdio::null()).output().expect("mosquitto-clients is installed")
        });
        // What comes before its SUBSCRIBE is nothing to measure against.
        wait_for("the subscription", || {
            site.post(&["-e", "0"], "t/env");
            filtered() > 0
        });
        for payload in ["1", "9", "1", "2"] {
            site.post(&["-e", payload], "t/env");
        }
        printed(&subscriber.join().expect("no panic"))
    });
    assert_eq!(
        got.lines().collect::<Vec<_>>(),
        ["0", "1", "2"],
        "what equals the one before is held back, and 9"
    );
    assert!(filtered() >= 3, "{}", filtered());
}

#[test]
fn tail_and_explain_speak_of_mqtt_in_its_own_codes() {
    let site = site("mqtt-tail", |_, _| format!("{SOCKET}{LOCAL}"));
    publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "nowhere/x", "-m", "1"]);
    publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "a//b", "-m", "1"]);
    let mut tail = Command::new(super::binary())
        .arg("--config")
        .arg(site.daemon.config())
        .args(["tail", "--last", "10", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::fs::File::create(site.folder.join("tail.txt")).expect("a file")))
        .spawn()
        .expect("the binary under test");
    let lines = || std::fs::read_to_string(site.folder.join("tail.txt")).unwrap_or_default();
    wait_for("both refusals", || lines().lines().filter(|line| line.contains("refused")).count() >= 2);
    let _ = tail.kill();
    let _ = tail.wait();
    let lines = lines();
    assert!(lines.contains("nowhere/x") && lines.contains("0x87") && lines.contains("0x90"), "{lines}");
    assert!(!lines.contains("\"4.0"), "no CoAP code: {lines}");
    for (question, expected) in [
        ("publish home/pump-2/x", "local-publish.home"),
        ("subscribe home/#", "local-subscribe.home"),
        ("subscribe set/+", "downlink.set"),
        ("command set/led", "downlink.set"),
    ] {
        let mut arguments = vec!["acl", "explain", "pump-2"];
        arguments.extend(question.split(' '));
        let (status, text) = site.daemon.command(&arguments);
        assert!(
            status == 0 && text.contains(expected) && text.contains("rules in force"),
            "{question}: {text}"
        );
    }
}

#[test]
fn users_of_a_mosquitto_keep_their_passwords() {
    let site = site("mqtt-import-mosquitto", |_, _| SOCKET.to_owned());
    site.folder.write("passwd", "anna:secret\n");
    let passwords = site.folder.join("passwd").display().to_string();
    let hashed =
        Command::new("mosquitto_passwd").args(["-U", &passwords]).output().expect("mosquitto is installed");
    assert!(hashed.status.success(), "{}", printed(&hashed));
    let acl = site
        .folder
        .write("acl", "user anna\ntopic readwrite plant/#\ntopic deny plant/9/#\n")
        .display()
        .to_string();
    let conf = "connection up\naddress b:8883\ntopic plant/+/temp out 1 \"\" site7/\n";
    let conf = site.folder.write("mosquitto.conf.old", conf).display().to_string();
    let output = site.folder.path().display().to_string();
    let run = |arguments: &[&str]| {
        let (status, text) = site.daemon.command(arguments);
        assert_eq!(status, 0, "{arguments:?}: {text}");
        text
    };
    let said = run(&[
        "import",
        "mosquitto",
        "--password-file",
        &passwords,
        "--acl-file",
        &acl,
        "--conf",
        &conf,
        "--output",
        &output,
    ]);
    assert!(said.contains("mosquitto.conf:2: address b:8883") && said.contains("1 user"), "{said}");
    std::fs::create_dir_all(site.folder.join("conf.d")).expect("a folder");
    std::fs::rename(site.folder.join("30-mosquitto.toml"), site.folder.join("conf.d/30-mosquitto.toml"))
        .expect("a file");
    run(&["reload"]);
    run(&["device", "import", &format!("{output}/mosquitto-devices.csv")]);
    let socket = socket(&site);
    let send = |password: &str, topic: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["--unix", &socket, "-u", "anna", "-P", password, "-V", "mqttv5", "-q", "1"]);
        command
            .args(["-t", topic, "-m", "21"])
            .stdin(Stdio::null())
            .output()
            .expect("mosquitto-clients is installed")
    };
    assert!(!send("wrong", "plant/1/temp").status.success());
    for topic in ["plant/1/temp", "plant/local"] {
        let output = send("secret", topic);
        assert!(
            output.status.success() && !printed(&output).contains("Not authorized"),
            "{}",
            printed(&output)
        );
    }
    // The last one was sent by the bridge, and refused to anna by the ACL.
    for topic in ["other", "plant/9/temp"] {
        let denied = send("secret", topic);
        assert!(printed(&denied).contains("Not authorized"), "{topic}: {}", printed(&denied));
    }
    let (_, text) = site.daemon.command(&["acl", "explain", "anna", "publish", "plant/1/temp"]);
    assert!(text.contains("site7/plant/1/temp"), "{text}");
}

/// Two clients of aiomqtt: one publishes, the other begins with what is retained.
const AIOMQTT: &str = r#"
import asyncio, sys
import aiomqtt
port, version = int(sys.argv[1]), aiomqtt.ProtocolVersion[sys.argv[2]]
def client(identifier):
    return aiomqtt.Client("127.0.0.1", port, username="pump-2", password="sesame-sesame", identifier=identifier,
                          protocol=version, timeout=30)
async def main():
    async with client("writer") as writer, client("reader") as reader:
        await writer.publish("home/pump-2/mode", "auto", qos=1, retain=True)
        await reader.subscribe("home/#", qos=1)
        for qos in (0, 1, 2):
            await writer.publish("t/aiomqtt", str(qos), qos=qos)
        await writer.publish("home/pump-2/done", "1", qos=2)
        async for message in reader.messages:
            print(message.topic, message.payload.decode(), message.qos, int(message.retain), flush=True)
            if message.topic.value.endswith("done"):
                return
asyncio.run(main())
"#;

#[test]
fn aiomqtt_publishes_and_subscribes_in_both_versions() {
    let port = free_tcp_port();
    let site =
        site("mqtt-aiomqtt", |_, _| format!("[mqtt]\ninsecure-listen = [\"127.0.0.1:{port}\"]\n{LOCAL}"));
    let script = site.folder.write("aio.py", AIOMQTT);
    for version in ["V311", "V5"] {
        let output = Command::new(python())
            .arg(&script)
            .args([&port.to_string(), version])
            .stdin(Stdio::null())
            .output()
            .expect("tests/run peers installs aiomqtt");
        let said = printed(&output);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines, ["home/pump-2/mode auto 1 1", "home/pump-2/done 1 1 0"], "{version}: {said}");
    }
    wait_for("the readings", || {
        let arrived = site.arrived("tombolo/gw/pump-2/up/t/aiomqtt");
        ["0", "1", "2"].iter().all(|qos| arrived.iter().any(|fields| fields[1] == *qos))
    });
}

#[test]
fn a_trace_of_an_mqtt_device_says_that_its_packets_are_not_traced_and_what_shows_them() {
    let site = site("mqtt-trace", |_, _| format!("{SOCKET}{LOCAL}"));
    let (status, text) = site.daemon.command(&["trace", "pump-2"]);
    assert_eq!(status, 1, "{text}");
    for words in ["pump-2 is an MQTT client", "tail pump-2", "device show pump-2"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
