//! Commands to the gateway itself, through a real broker.

use std::process::{Command, Stdio};

use tombolo_test_support::{printed, wait_for};

use super::{KEY, Site};

const BROKER: &str = "log_type subscribe\n";
const HASH: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn site(name: &str, extra: &str) -> Site {
    let site = Site::with_broker(name, extra, BROKER);
    wait_for("the subscription", || {
        let log = std::fs::read_to_string(site.folder.join("mosquitto.log")).unwrap_or_default();
        site.daemon.status()["upstream"]["connected"] == true && log.contains("/down/#")
    });
    site
}

/// User properties, a bar, and the payload of the answer.
fn ask(site: &Site, verb: &str, payload: &str) -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let answer = format!("app/gateway/{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let port = site.broker.plain_port.to_string();
    let output = Command::new("mosquitto_rr")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-W", "60", "-F", "%P|%p"])
        .args(["-t", &format!("tombolo/gw/gateway/down/{verb}"), "-e", &answer, "-m", payload])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    printed(&output)
}

/// The lines of the log about a verb with this value of `audit`.
fn audited(site: &Site, audit: &str, verb: &str) -> Vec<String> {
    let (audit, verb) = (format!("audit={audit}"), format!("verb={verb}"));
    let log = site.daemon.log();
    let is_it = |line: &&str| [&audit, &verb].iter().all(|field| line.split(' ').any(|word| word == *field));
    log.lines().filter(is_it).map(str::to_owned).collect()
}

#[test]
fn without_a_list_nothing_is_carried_out_and_each_refusal_says_why() {
    let rule = "[role.sensor.downlink.all]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
    let site = site("remote-none", rule);
    for verb in ["reload", "status", "device/add", "cert/renew"] {
        let answer = ask(&site, verb, "x");
        assert!(answer.contains("status:refused") && answer.contains("[remote] allow"), "{answer}");
    }
    let answer = ask(&site, "reboot", "x");
    assert!(answer.contains("status:refused") && answer.contains("there are: reload"), "{answer}");
    for verb in ["reload", "status", "device/add", "cert/renew", "reboot"] {
        let said = audited(&site, "remote-refused", verb);
        assert!(said.len() == 1 && said[0].contains("command to the gateway refused"), "{verb}: {said:?}");
        assert!(audited(&site, "remote", verb).is_empty(), "{verb}");
    }
}

#[test]
fn what_is_listed_is_carried_out_as_over_the_control_socket_and_answered() {
    let allow = "[remote]\nallow = [\"status\", \"check\", \"reload\", \"device/add\", \"device/remove\", \
                 \"device/rekey\", \"cert/renew\"]\n";
    let site = site("remote", allow);
    let answer = ask(&site, "status", "x");
    assert!(answer.contains("status:2.05") && answer.contains("\"id\":\"gw\""), "{answer}");
    assert!(ask(&site, "check", "x").contains("status:2.05"));
    assert!(ask(&site, "reload", "x").contains("status:2.04"));
    let answer = ask(&site, "update/check", "x");
    assert!(!answer.contains("status:2."), "it is not listed: {answer}");
    let answer = ask(&site, "cert/renew", "nothing");
    assert!(answer.contains("status:4.04"), "{answer}");
    // A device without a secret, and one with a secret.
    let device = format!("{{\"id\":\"door-9\",\"role\":\"sensor\",\"public_key\":\"{HASH}\"}}");
    let answer = ask(&site, "device/add", &device);
    assert!(answer.contains("status:2.01"), "{answer}");
    let (code, shown) = site.daemon.command(&["device", "show", "door-9", "--json"]);
    assert!(code == 0 && shown.contains(HASH), "{shown}");
    let answer = ask(&site, "device/add", &device);
    assert!(answer.contains("status:4.00") && answer.contains("exists already"), "{answer}");
    let answer = ask(&site, "device/add", "{\"id\":\"x\",\"role\":\"sensor\",\"psk\":\"text:topsecret\"}");
    assert!(answer.contains("status:4.00") && !answer.contains("topsecret"), "{answer}");
    let other = HASH.replace(&HASH[HASH.len() - 4..], "0123");
    let rekey = |id: &str| format!("{{\"id\":\"{id}\",\"public_key\":\"{other}\"}}");
    let answer = ask(&site, "device/rekey", &rekey("door-9"));
    assert!(answer.contains("status:2.04"), "{answer}");
    let (_, shown) = site.daemon.command(&["device", "show", "door-9", "--json"]);
    assert!(shown.contains(&other) && !shown.contains(HASH), "{shown}");
    let answer = ask(&site, "device/rekey", "{\"id\":\"door-9\",\"psk\":\"text:topsecret\"}");
    assert!(answer.contains("status:4.00") && !answer.contains("topsecret"), "{answer}");
    for id in ["door-7", "door-8"] {
        let answer = ask(&site, "device/rekey", &rekey(id));
        assert!(answer.contains("status:4.00"), "it is in the configuration, or not there: {answer}");
    }
    assert!(ask(&site, "device/remove", "door-9").contains("status:2.02"));
    let (code, _) = site.daemon.command(&["device", "show", "door-9", "--json"]);
    assert_ne!(code, 0);
    let answer = ask(&site, "device/remove", "door-7");
    assert!(answer.contains("status:4.00"), "it is in the configuration: {answer}");
    assert!(site.post(&["-e", "1"], "t/x").contains("2.04"), "{KEY} still works");
    // A broken configuration is answered, and changes nothing.
    let text = std::fs::read_to_string(site.daemon.config()).unwrap();
    std::fs::write(site.daemon.config(), format!("{text}\nbroken")).unwrap();
    let answer = ask(&site, "reload", "x");
    assert!(answer.contains("status:5.00"), "{answer}");
    // A reload that takes the permission away.
    std::fs::write(site.daemon.config(), text.replace("\"status\", ", "")).unwrap();
    assert!(ask(&site, "reload", "x").contains("status:2.04"));
    assert!(ask(&site, "status", "x").contains("status:refused"));
    // Each is in the log when it comes and when it is answered, with what became of it.
    for (verb, status, count) in [
        ("check", "2.05", 1),
        ("reload", "2.04", 2),
        ("reload", "5.00", 1),
        ("cert/renew", "4.04", 1),
        ("device/add", "2.01", 1),
        ("device/rekey", "2.04", 1),
        ("device/remove", "2.02", 1),
    ] {
        let said = audited(&site, "remote", verb);
        let answered = said.iter().filter(|line| line.contains(&format!("status={status}"))).count();
        assert_eq!(answered, count, "{verb} {status}: {said:?}");
        let came = said.iter().filter(|line| line.contains("from the broker")).count();
        assert_eq!(2 * came, said.len(), "{verb}: {said:?}");
    }
    assert_eq!(audited(&site, "remote-refused", "update/check").len(), 1);
    let refused = audited(&site, "remote-refused", "status");
    assert!(refused.len() == 1 && refused[0].contains("[remote] allow"), "{refused:?}");
}

/// What came on a topic: the properties and the bytes of each message.
fn messages(file: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.rsplit_once('|'));
    let bytes = |hex: &str| {
        let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap());
        digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
    };
    lines.map(|(properties, hex)| (properties.to_owned(), bytes(hex))).collect()
}

fn property(properties: &str, name: &str) -> String {
    let mut found = properties.split(' ').filter_map(|one| one.strip_prefix(name)?.strip_prefix(':'));
    found.next().unwrap_or_else(|| panic!("{name} in {properties}")).to_owned()
}

#[test]
fn a_support_bundle_larger_than_an_answer_comes_in_parts_that_make_it_again() {
    let site = site("remote-bundle", "[remote]\nallow = [\"support-bundle\"]\n");
    let port = site.broker.plain_port.to_string();
    // A text of some size that only the service reads: parts must be more than one.
    let state = site.folder.join("state");
    for number in 0..400 {
        std::fs::write(state.join(format!("{number:04}-{}", "a-name-of-some-length-".repeat(8))), "")
            .unwrap();
    }
    let said = site.folder.join("parts");
    let mut subscriber = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-t", "app/bundle", "-F", "%P|%x"])
        .stdout(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    wait_for("the subscription of the test", || {
        let log = std::fs::read_to_string(site.folder.join("mosquitto.log")).unwrap_or_default();
        log.contains("app/bundle")
    });
    let ask_for = || {
        let asked = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-n"])
            .args(["-t", "tombolo/gw/gateway/down/support-bundle"])
            .args(["-D", "PUBLISH", "response-topic", "app/bundle"])
            .status();
        assert!(asked.unwrap().success());
    };
    ask_for();
    // A second one at once is refused, however the first one ends.
    ask_for();
    wait_for("all parts", || {
        let came = messages(&said);
        let is_part = |properties: &str| properties.contains("parts:");
        let parts = came.iter().filter(|(properties, _)| is_part(properties)).count();
        let wanted = came.iter().find(|(properties, _)| is_part(properties));
        wanted.is_some_and(|(properties, _)| property(properties, "parts") == parts.to_string())
    });
    wait_for("the refusal", || messages(&said).iter().any(|(_, text)| text.starts_with(b"a support bundle")));
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
    let came = messages(&said);
    let (refusal, _) = came.iter().find(|(_, text)| text.starts_with(b"a support bundle")).unwrap();
    assert!(["5.03", "4.29"].contains(&&*property(refusal, "status")), "{refusal}");
    let parts: Vec<_> = came.iter().filter(|(properties, _)| properties.contains("parts:")).collect();
    assert!(parts.len() > 1, "{}", parts.len());
    let mut whole = Vec::new();
    for (index, (properties, bytes)) in parts.iter().enumerate() {
        assert_eq!(property(properties, "part"), (index + 1).to_string());
        assert_eq!(property(properties, "sha256"), property(&parts[0].0, "sha256"));
        assert_eq!((&*property(properties, "status"), &*property(properties, "partial")), ("2.05", "true"));
        assert!(bytes.len() <= 32 << 10);
        whole.extend_from_slice(bytes);
    }
    assert_eq!(property(&parts[0].0, "size"), whole.len().to_string());
    let tar = site.folder.write("bundle.tar", &whole);
    let summed = Command::new("sha256sum").arg(&tar).output().unwrap();
    let digest = property(&parts[0].0, "sha256");
    assert_eq!(printed(&summed).split(' ').next(), Some(&*digest));
    let listed = printed(&Command::new("tar").arg("tf").arg(&tar).output().unwrap());
    assert!(listed.contains("status.json") && listed.contains("state.txt"), "{listed}");
    assert!(!String::from_utf8_lossy(&whole).contains(KEY), "the key of a device is in it");
    // It is audited, and the file is gone.
    wait_for("the log", || site.daemon.log().contains(&digest));
    wait_for("an empty place", || !state.join("support-bundle.tar").exists());
    // Recipe of docs/commands.md; a part of an earlier bundle, which a stop ended, is there, too.
    let now = std::fs::read_to_string(&said).unwrap();
    std::fs::write(&said, now.lines().next().unwrap().replace(&*digest, &"0".repeat(64)) + "\n" + &now)
        .unwrap();
    let recipe = "whole=$(grep -o 'parts:[0-9]* size:[0-9]* sha256:[0-9a-f]*' parts | tail -n 1); grep \"$whole\" parts \
                  | sed -n 's/.*part:\\([0-9]*\\) parts:.*|/\\1 /p' | sort -n -u -k 1,1 | cut -d ' ' -f 2 \
                  | xxd -r -p | sha256sum";
    let joined = Command::new("sh").args(["-c", recipe]).current_dir(site.folder.path()).output().unwrap();
    assert_eq!(printed(&joined).split(' ').next(), Some(&*digest));
}

/// A broker with this bound, and a gateway that makes bundles of more than 64 KiB.
fn narrow(name: &str, bound: &str, change: impl FnOnce(&str) -> String) -> Site {
    let broker = format!("{BROKER}{bound}\n");
    let site = Site::build(name, "[remote]\nallow = [\"support-bundle\", \"status\"]\n", &broker, change);
    wait_for("the subscription", || {
        let log = std::fs::read_to_string(site.folder.join("mosquitto.log")).unwrap_or_default();
        site.daemon.status()["upstream"]["connected"] == true && log.contains("/down/#")
    });
    for number in 0..400 {
        let name = format!("state/{number:04}-{}", "a-name-of-some-length-".repeat(8));
        std::fs::write(site.folder.join(&name), "").unwrap();
    }
    site
}

/// What comes on the topic `app/bundle`, and asks for a bundle with the payload `wish`.
struct Bundles<'s> {
    site: &'s Site,
    subscriber: std::process::Child,
    said: std::path::PathBuf,
}

impl Bundles<'_> {
    fn of(site: &Site) -> Bundles<'_> {
        let said = site.folder.join("parts");
        let port = site.broker.plain_port.to_string();
        let subscriber = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-t", "app/bundle", "-F", "%P|%x"])
            .stdout(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        wait_for("the subscription of the test", || {
            let log = std::fs::read_to_string(site.folder.join("mosquitto.log")).unwrap_or_default();
            log.contains("app/bundle")
        });
        Bundles { site, subscriber, said }
    }

    fn ask(&self, wish: &str) {
        let port = self.site.broker.plain_port.to_string();
        let asked = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-m", wish])
            .args(["-t", "tombolo/gw/gateway/down/support-bundle"])
            .args(["-D", "PUBLISH", "response-topic", "app/bundle"])
            .status();
        assert!(asked.unwrap().success());
    }

    /// The lengths of the parts, once all are here and make the whole.
    fn whole(&self) -> Vec<usize> {
        let all = || -> Vec<Vec<u8>> {
            let mut came = messages(&self.said);
            came.retain(|(properties, _)| properties.contains("parts:"));
            let Some((last, _)) = came.last().cloned() else { return Vec::new() };
            let mine = |of: &(String, Vec<u8>)| property(&of.0, "parts") == property(&last, "parts");
            let parts: Vec<Vec<u8>> = came.into_iter().filter(mine).map(|(_, bytes)| bytes).collect();
            if parts.len().to_string() == property(&last, "parts") { parts } else { Vec::new() }
        };
        let within = std::time::Duration::from_secs(120);
        tombolo_test_support::wait_within(within, "all parts", || !all().is_empty());
        let tar = self.site.folder.write("bundle.tar", all().concat());
        let listed = printed(&Command::new("tar").arg("tf").arg(&tar).output().unwrap());
        assert!(listed.contains("status.json") && listed.contains("state.txt"), "{listed}");
        all().iter().map(Vec::len).collect()
    }

    /// The outcome that says that parts were refused.
    fn refusal(&self) -> (String, String) {
        let refusal =
            || messages(&self.said).into_iter().find(|(properties, _)| properties.contains("status:5.00"));
        let within = std::time::Duration::from_secs(300);
        tombolo_test_support::wait_within(within, "the refusal", || refusal().is_some());
        let (properties, text) = refusal().unwrap();
        (properties, String::from_utf8(text).unwrap())
    }
}

impl Drop for Bundles<'_> {
    fn drop(&mut self) {
        let _ = self.subscriber.kill();
        let _ = self.subscriber.wait();
    }
}

#[test]
fn parts_are_as_large_as_the_brokers_maximum_packet_size_lets_them_be() {
    let site = narrow("remote-announced", "max_packet_size 20000", str::to_owned);
    let bundles = Bundles::of(&site);
    bundles.ask("");
    let lengths = bundles.whole();
    assert!(lengths.len() > 2 && lengths.iter().all(|length| *length < 20_000), "{lengths:?}");
    assert!(lengths[0] > 18_000, "{lengths:?}");
    let answered = || site.daemon.log().contains("command to the gateway answered");
    wait_for("the log", answered);
    assert_eq!(site.daemon.status()["upstream"]["refused_outcomes"].as_array().map(Vec::len), Some(0));
}

#[test]
fn parts_that_a_broker_refuses_without_a_limit_are_said_so_and_the_advice_works_at_once() {
    let site = narrow("remote-unannounced", "message_size_limit 20000", str::to_owned);
    let bundles = Bundles::of(&site);
    bundles.ask("");
    let (_, text) = bundles.refusal();
    assert!(text.contains("packet too large") && text.contains("part-bytes=16384"), "{text}");
    let log = site.daemon.log();
    assert!(!log.contains("status=2.05") && log.contains("no support bundle for the broker"), "{log}");
    let status = site.daemon.status()["upstream"]["refused_outcomes"].to_string();
    assert!(status.contains("part-bytes") && !status.contains("allow this gateway"), "{status}");
    bundles.ask("part-bytes=16384");
    let lengths = bundles.whole();
    assert!(lengths.iter().all(|length| *length <= 16_384), "{lengths:?}");
    wait_for("the log", || site.daemon.log().contains("command to the gateway answered"));
}

#[test]
fn parts_over_which_a_broker_closes_mqtt_311_are_said_so_and_the_advice_works_at_once() {
    let old = |text: &str| text.replacen("[upstream]\n", "[upstream]\nprotocol = \"3.1.1\"\n", 1);
    let site = narrow("remote-closing", "max_packet_size 20000", old);
    let port = site.broker.plain_port.to_string();
    let said = site.folder.join("parts");
    let mut subscriber = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "mqttv311", "-q", "1", "-F", "%p"])
        .args(["-t", "tombolo/gw/gateway/reply/bundle-1/support-bundle"])
        .stdout(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    wait_for("the subscription of the test", || {
        let log = std::fs::read_to_string(site.folder.join("mosquitto.log")).unwrap_or_default();
        log.contains("reply/bundle-1")
    });
    let ask = |wish: &str| {
        let asked = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "mqttv311", "-q", "1", "-m", wish])
            .args(["-t", "tombolo/gw/gateway/request/bundle-1/support-bundle"])
            .status();
        assert!(asked.unwrap().success());
    };
    let came = || std::fs::read_to_string(&said).unwrap_or_default();
    let within = std::time::Duration::from_secs(300);
    ask("");
    // Readings are taken meanwhile, so that it can be told whose fault it is.
    let mut posted: Option<std::time::Instant> = None;
    tombolo_test_support::wait_within(within, "the refusal", || {
        if posted.is_none_or(|at| at.elapsed() > std::time::Duration::from_secs(2)) {
            site.post(&["-e", "1"], "t/x");
            posted = Some(std::time::Instant::now());
        }
        came().contains("\"status\":\"5.00\"")
    });
    assert!(came().contains("closed the connection") && came().contains("part-bytes=16384"), "{}", came());
    // Once more as much smaller as it takes: in base64 a part has a third more.
    ask("part-bytes=12000");
    // Recipe of docs/commands.md for MQTT 3.1.1, as it stands there.
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md")).unwrap();
    let recipe = docs.split_once("python3 -c '").expect("the recipe").1;
    let recipe = recipe.split_once("```").expect("its end").0;
    let run = || {
        let recipe = format!("python3 -c '{recipe}");
        printed(&Command::new("sh").args(["-c", &recipe]).current_dir(site.folder.path()).output().unwrap())
    };
    // Also a part of the bundle before, the last and smallest one, has come.
    tombolo_test_support::wait_within(within, "all parts", || run().contains("bundle.tar: OK"));
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
    assert!(run().contains("tombolo-support/status.json"));
    // A part that is missing is named, and nothing is joined.
    std::fs::remove_file(site.folder.join("bundle.tar")).unwrap();
    let without: Vec<String> =
        came().lines().filter(|line| !line.contains("\"part\":2,")).map(str::to_owned).collect();
    std::fs::write(&said, without.join("\n")).unwrap();
    assert!(!run().contains("OK") && !site.folder.join("bundle.tar").exists());
}

#[test]
fn an_answer_that_is_larger_than_the_brokers_packets_says_so() {
    let site = narrow("remote-status", "max_packet_size 4000", str::to_owned);
    let answer = ask(&site, "status", "x");
    assert!(
        answer.contains("status:2.05") && answer.contains("the broker takes packets of 4000"),
        "{answer}"
    );
}

#[test]
fn a_command_that_the_broker_has_retained_is_refused_at_each_new_session_and_one_without_retain_is_not() {
    let mut site = site("remote-retained", "[remote]\nallow = [\"reload\", \"status\"]\n");
    let port = site.broker.plain_port.to_string();
    // The gateway's session at the broker ends, so that it is sent what is retained.
    let end_session = |site: &mut Site| {
        site.daemon.stop();
        let ended = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-i", "gw", "-t", "nothing", "-E"])
            .status()
            .unwrap();
        assert!(ended.success());
    };
    end_session(&mut site);
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-r", "-m", "x"])
        .args(["-t", "tombolo/gw/gateway/down/reload"])
        .status()
        .unwrap();
    assert!(status.success());
    let topic = "tombolo/gw/gateway/reply/reload";
    for round in 1..=2 {
        site.daemon.resume();
        wait_for("the refusal", || site.arrived(topic).len() == round);
        let outcome = site.arrived(topic).remove(round - 1);
        assert!(outcome[3].contains("status:refused"), "{outcome:?}");
        assert!(outcome[1].contains("retained message: publish it without retain"), "{outcome:?}");
        let said = audited(&site, "remote-refused", "reload");
        assert!(said.last().is_some_and(|line| line.contains("it is a retained message")), "{said:?}");
        assert!(audited(&site, "remote", "reload").is_empty(), "it is not carried out");
        end_session(&mut site);
    }
    site.daemon.resume();
    wait_for("the third refusal", || site.arrived(topic).len() == 3);
    let answer = ask(&site, "status", "x");
    assert!(answer.contains("status:2.05"), "{answer}");
}

#[test]
fn a_command_that_there_is_not_cannot_be_listed() {
    let site = site("remote-check", "[remote]\nallow = [\"reload\"]\n");
    let text = std::fs::read_to_string(site.daemon.config()).unwrap();
    std::fs::write(site.daemon.config(), text.replace("[\"reload\"]", "[\"reboot\"]")).unwrap();
    let (code, text) = site.daemon.command(&["check", "--offline"]);
    assert!(code != 0 && text.contains("reboot") && text.contains("device/add"), "{text}");
}

#[test]
fn an_outcome_that_the_broker_refuses_is_named_and_readings_flow() {
    let folder = tombolo_test_support::Folder::new("remote-acl-file");
    let acl = folder.write("acl", "topic readwrite tombolo/#\n");
    let broker = format!("{BROKER}acl_file {}", acl.display());
    let site = Site::with_broker("remote-acl", "[remote]\nallow = [\"status\"]\n", &broker);
    wait_for("the connection", || site.daemon.status()["upstream"]["connected"] == true);
    let port = site.broker.plain_port.to_string();
    let answered = || site.daemon.status()["counters"]["tombolo_downlink_refused_outcomes_total"].as_u64();
    wait_for("refused outcomes", || {
        let status = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-m", ""])
            .args([
                "-t",
                "tombolo/gw/gateway/down/status",
                "-D",
                "PUBLISH",
                "response-topic",
                "app/answers/1",
            ])
            .status()
            .unwrap();
        assert!(status.success());
        answered().is_some_and(|count| count >= 3)
    });
    let words = "of commands on app/answers/1: ";
    let status = site.daemon.status();
    let upstream = &status["upstream"];
    assert!(upstream["refused_outcomes"].to_string().contains(words), "{upstream}");
    assert!(upstream["stalled"].as_array().is_none_or(Vec::is_empty), "{upstream}");
    assert_eq!((&status["journal"]["lost"], &status["journal"]["rejected"]), (&0.into(), &0.into()));
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains(words) && !text.contains("refuses every reading"), "{text}");
    let (_, text) = site.daemon.command(&["check"]);
    assert!(text.lines().any(|line| line.starts_with("warn") && line.contains(words)), "{text}");
    assert!(!text.contains("readings do not flow"), "{text}");
    // The gateway's own status says it, too; its number of outcomes would be another each time.
    let said = || site.arrived("tombolo/gw/gateway/status").last().map(|fields| fields[1].clone());
    wait_for("the gateway's status", || said().is_some_and(|text| text.contains(words)));
    wait_for("the log", || {
        let log = site.daemon.log();
        log.contains("refuses the outcome of a command") && log.contains("app/answers/1")
    });
    assert!(site.post(&["-e", "1"], "t/x").contains("2.04"));
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/x").is_empty());
    wait_for("an empty lane", || site.daemon.status()["journal"]["records"] == 0);
}
