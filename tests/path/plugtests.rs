//! The cases of the ETSI plugtest CoAP#4 in which the gateway is the server
//! (docs/coap-conformance.md), with libcoap as the client: what libcoap says it sent and received,
//! and what arrives at the broker.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use tombolo_test_support::disk_faults::{self, VARIABLE};
use tombolo_test_support::{free_udp_port, printed, wait_for};

use super::commands::{Device, subscribed};
use super::lossy_link::LossyLink;
use super::observe::{BROKER, body, publish};
use super::{KEY, Site};

/// What a device fetches and observes, and nothing that it is asked for.
const RULES: &str = r#"
[role.sensor.uplink.kept]
path = "k/#"
retain = true
delete = true
[role.sensor.mailbox]
always-awake = true
[role.sensor.downlink.state]
topic = "{prefix}/{device}/down/#"
path = "{rest}"
deliver = "observe"
[device.door-8]
role = "sensor"
"#;

/// A gateway, and its port for plain CoAP, where `door-8` is.
pub fn site(name: &str) -> (Site, u16) {
    let plain = free_udp_port();
    let keys = format!("[coap]\ninsecure-listen = [\"127.0.0.1:{plain}\"]\ninsecure-device = \"door-8\"\n");
    let site = Site::build(name, RULES, BROKER, |text| text.replace("[coap]\n", &keys));
    subscribed(&site);
    (site, plain)
}

/// A message of this content type for a path of `door-7`.
pub fn say(site: &Site, path: &str, payload: &str, content_type: &str) {
    publish(site, path, payload, &["-D", "publish", "content-type", content_type]);
}

/// The same; then the device can fetch it.
pub fn offer(site: &Site, path: &str, payload: &str, content_type: &str) {
    say(site, path, payload, content_type);
    let quoted = format!("'{payload}'");
    wait_for("the message to be there", || {
        shows(&client(site, &["-m", "get"], path), &[&["c:2.05", &quoted]])
    });
}

/// The messages in what libcoap wrote.
pub fn messages(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| Some(line[line.find("v:1 t:")?..].to_owned())).collect()
}

/// Whether there is a message for each step, which has all of its words, one after the other.
pub fn shows(messages: &[String], steps: &[&[&str]]) -> bool {
    let mut rest = messages.iter();
    steps.iter().all(|words| rest.any(|message| words.iter().all(|word| message.contains(word))))
}

#[track_caller]
pub fn assert_shows(case: &str, messages: &[String], steps: &[&[&str]]) {
    assert!(shows(messages, steps), "{case}: no {steps:?} in\n{}", messages.join("\n"));
}

/// What follows `name` in a message: the value of an option, or with `i` the Message ID.
pub fn value<'m>(message: &'m str, name: &str) -> &'m str {
    let Some((_, rest)) = message.split_once(&format!("{name}:")) else { return "" };
    rest.split([' ', ',']).next().unwrap_or_default()
}

/// The first message with all of these words.
#[track_caller]
pub fn first<'m>(messages: &'m [String], words: &[&str]) -> &'m str {
    let found = messages.iter().find(|message| words.iter().all(|word| message.contains(word)));
    found.unwrap_or_else(|| panic!("no {words:?} in\n{}", messages.join("\n")))
}

/// libcoap's client, with what it sends and receives.
pub fn client(site: &Site, arguments: &[&str], path: &str) -> Vec<String> {
    let all = [&["-v", "7"], arguments].concat();
    messages(&site.coap_client("coap-client-openssl", "door-7", KEY, &all, path))
}

/// An application on libcoap, which sends what it is told.
pub struct Client {
    child: Child,
    input: ChildStdin,
    log: PathBuf,
}

impl Client {
    pub fn start(site: &Site, gateway: SocketAddr) -> Client {
        let log = site.folder.join("client.txt");
        let mut child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path/libcoap_client.py"))
            .args([&gateway.port().to_string(), "door-7", KEY])
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(&log).unwrap())
            .stderr(std::fs::File::create(site.folder.join("client.err")).unwrap())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        Client { child, input, log }
    }

    pub fn messages(&self) -> Vec<String> {
        messages(&String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()))
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// From now on it knows none of its requests.
    pub fn forget(&mut self) {
        self.tell("forget");
        wait_for("it to forget", || {
            std::fs::read_to_string(&self.log).unwrap_or_default().contains("forgotten\n")
        });
    }

    /// Waits for these messages after the first `seen`; all from there on.
    pub fn follow(&self, case: &str, seen: usize, steps: &[&[&str]]) -> Vec<String> {
        wait_for(case, || shows(&self.messages()[seen..], steps));
        self.messages().split_off(seen)
    }

    /// Sends a request, and waits for these messages, its own among them.
    pub fn ask(&mut self, case: &str, line: &str, steps: &[&[&str]]) -> Vec<String> {
        let seen = self.messages().len();
        self.tell(line);
        self.follow(case, seen, steps)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn counter(site: &Site, name: &str) -> u64 {
    site.daemon.status()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
}

#[test]
fn td_coap_core_01_to_08_each_method_confirmable_and_not_over_dtls_and_plain() {
    let (site, plain) = site("plugtest-methods");
    offer(&site, "level", "40", "text/plain");
    let over_plain = |arguments: &[&str], path: &str| {
        let output = Command::new("coap-client-notls")
            .args(["-B", "5", "-v", "7"])
            .args(arguments)
            .arg(format!("coap://127.0.0.1:{plain}/{path}"))
            .stdin(Stdio::null())
            .output()
            .expect("libcoap3-bin is installed");
        messages(&printed(&output))
    };
    for device in ["door-7", "door-8"] {
        for (case, kind, method, code) in [
            ("01", "CON", "GET", "2.05"),
            ("02", "CON", "DELETE", "2.02"),
            ("03", "CON", "PUT", "2.04"),
            ("04", "CON", "POST", "2.04"),
            ("05", "NON", "GET", "2.05"),
            ("06", "NON", "DELETE", "2.02"),
            ("07", "NON", "PUT", "2.04"),
            ("08", "NON", "POST", "2.04"),
        ] {
            let lower = method.to_lowercase();
            let mut arguments = vec!["-m", &lower];
            if kind == "NON" {
                arguments.push("-N");
            }
            if ["PUT", "POST"].contains(&method) {
                arguments.extend(["-t", "50", "-e", case]);
            }
            let path = match (method, device) {
                ("GET", "door-7") => "level".to_owned(),
                ("GET", _) => "time".to_owned(),
                _ => format!("k/{case}"),
            };
            let seen = match device {
                "door-7" => client(&site, &arguments, &path),
                _ => over_plain(&arguments, &path),
            };
            let case = format!("CORE_{case} {device}");
            let request = first(&seen, &[&format!("t:{kind} c:{method}")]);
            let answered = if kind == "CON" { "ACK" } else { "NON" };
            let response = first(&seen, &[&format!("t:{answered} c:{code}")]);
            let token = |message: &str| message.split(['{', '}']).nth(1).unwrap().to_owned();
            assert_eq!(token(request), token(response), "{case}: the token");
            let is_same = value(request, " i") == value(response, " i");
            assert_eq!(is_same, kind == "CON", "{case}: {request} {response}");
            assert_eq!(method == "GET", response.contains("Content-Format:text/plain"), "{case}: {response}");
        }
        for (case, payload, method) in
            [("02", "", ""), ("03", "03", "PUT"), ("04", "04", "POST"), ("06", "", ""), ("07", "07", "PUT")]
        {
            let topic = format!("tombolo/gw/{device}/up/k/{case}");
            wait_for(&topic, || !site.arrived(&topic).is_empty());
            let arrived = &site.arrived(&topic)[0];
            assert_eq!(arrived[1], payload, "CORE_{case} {device}");
            let content_type = if payload.is_empty() { "" } else { "application/json" };
            assert_eq!(arrived[2], content_type, "CORE_{case} {device}");
            assert!(arrived[3].contains(method), "CORE_{case} {device}: {}", arrived[3]);
        }
    }
}

/// The disk of the gateway waits as this file says.
fn with_slow_disk(site: &mut Site) -> PathBuf {
    let faults = site.folder.write("faults", "");
    let environment = &mut site.daemon.environment;
    environment.push(("LD_PRELOAD".into(), disk_faults::library().display().to_string()));
    environment.push((VARIABLE.into(), faults.display().to_string()));
    site.daemon.kill();
    site.daemon.resume();
    wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    faults
}

#[test]
fn td_coap_core_09_11_17_a_response_that_has_to_wait_for_the_disk_is_separate() {
    let (mut site, _) = site("plugtest-separate");
    let faults = with_slow_disk(&mut site);
    offer(&site, "level", "40", "text/plain");
    let mut client = Client::start(&site, site.daemon.coaps);
    client.ask("the session", "0 1 01 time", &[&["c:2.05"]]);
    // A registration is answered when it is on the disk.
    disk_faults::write(&faults, "sync wait /mailbox/\n");
    let waits: [&[&str]; 2] = [&["t:CON c:GET", "{a1b2c3d4e5f60718}"], &["t:ACK c:0.00"]];
    let seen = client.ask("CORE_11", "0 1 a1b2c3d4e5f60718 level 6=", &waits);
    assert!(!shows(&seen, &[&["c:2.05"]]), "CORE_11: not yet");
    let request = value(first(&seen, waits[0]), " i");
    assert_eq!(
        value(first(&seen, waits[1]), " i"),
        request,
        "CORE_11: the acknowledgement is that of the request"
    );
    let before = client.messages().len();
    disk_faults::write(&faults, "");
    let response: [&[&str]; 2] =
        [&["t:CON c:2.05", "{a1b2c3d4e5f60718}", "Content-Format:text/plain", "'40'"], &["t:ACK c:0.00"]];
    let seen = client.follow("CORE_09", before, &response);
    let own = value(first(&seen, response[0]), " i");
    assert_eq!(value(first(&seen, response[1]), " i"), own, "CORE_09: the client acknowledges it");
    // A reading, too.
    disk_faults::write(&faults, "sync wait /journal/\n");
    client.tell("1 2 b1 t/non :1");
    let waits: [&[&str]; 3] = [&["t:NON c:POST", "{b1}"], &["t:CON c:POST", "{b2}"], &["t:ACK c:0.00"]];
    let seen = client.ask("CORE_09", "0 2 b2 t/con :2", &waits);
    let [non, con] = ["{b1}", "{b2}"].map(|token| value(first(&seen, &["c:POST", token]), " i"));
    let acknowledged = |seen: &[String], id: &str| shows(seen, &[&["t:ACK", &format!(" i:{id} ")]]);
    assert!(acknowledged(&seen, con), "CORE_09: {seen:?}");
    assert!(!shows(&seen, &[&["c:2.04"]]), "CORE_09: not yet");
    disk_faults::write(&faults, "");
    client.follow("CORE_09", 0, &[&["t:CON c:2.04", "{b2}"], &["t:ACK c:0.00"]]);
    client.follow("CORE_17", 0, &[&["t:NON c:2.04", "{b1}"]]);
    assert!(!acknowledged(&client.messages(), non), "CORE_17: a NON is not acknowledged");
    for (path, payload) in [("non", "1"), ("con", "2")] {
        wait_for("the reading", || !site.arrived(&format!("tombolo/gw/door-7/up/t/{path}")).is_empty());
        assert_eq!(site.arrived(&format!("tombolo/gw/door-7/up/t/{path}"))[0][1], payload);
    }
}

#[test]
fn td_coap_core_15_a_request_and_a_piggybacked_response_are_lost_and_sent_again() {
    let (site, _) = site("plugtest-lossy");
    offer(&site, "level", "40", "text/plain");
    let link = LossyLink::named(site.daemon.coaps);
    let mut client = Client::start(&site, link.address);
    client.ask("the session", "0 1 01 time", &[&["c:2.05"]]);
    for (number, (case, up, down)) in
        [("the request", &[0][..], &[][..]), ("the response", &[], &[0])].into_iter().enumerate()
    {
        let case = format!("CORE_15: {case} is lost");
        link.lose(up, down);
        let get = format!("0 1 a{number} level");
        client.ask(&case, &get, &[&["t:ACK c:2.05", &format!("{{a{number}}}"), "'40'"]]);
        assert_eq!(link.lost(), 2 * number + 1, "{case}");
        link.lose(up, down);
        let post = format!("0 2 b{number} t/lossy{number} :{number}");
        client.ask(&case, &post, &[&["t:ACK c:2.04", &format!("{{b{number}}}")]]);
        assert_eq!(link.lost(), 2 * number + 2, "{case}");
        // The gateway took it once.
        let topic = format!("tombolo/gw/door-7/up/t/lossy{number}");
        wait_for("the reading", || !site.arrived(&topic).is_empty());
    }
    assert_eq!(counter(&site, "tombolo_coap_duplicate_requests_total"), 1, "CORE_15: a GET is answered anew");
    client.ask("CORE_15", "0 2 c0 t/last :1", &[&["t:ACK c:2.04", "{c0}"]]);
    wait_for("the last reading", || !site.arrived("tombolo/gw/door-7/up/t/last").is_empty());
    for number in 0..2 {
        let arrived = site.arrived(&format!("tombolo/gw/door-7/up/t/lossy{number}"));
        assert_eq!(arrived.len(), 1, "CORE_15: {arrived:?}");
    }
}

#[test]
fn td_coap_core_16_each_message_of_a_separate_response_is_lost_once() {
    let (mut site, _) = site("plugtest-lossy-separate");
    let faults = with_slow_disk(&mut site);
    let link = LossyLink::named(site.daemon.coaps);
    let mut client = Client::start(&site, link.address);
    client.ask("the session", "0 1 01 time", &[&["c:2.05"]]);
    for (number, (lost, up, down)) in
        [("the request", &[0][..], &[][..]), ("its acknowledgement", &[], &[0]), ("the response", &[], &[1])]
            .into_iter()
            .enumerate()
    {
        let case = format!("CORE_16: {lost} is lost");
        let token = format!("{{a{number}}}");
        let seen = client.messages().len();
        disk_faults::write(&faults, "sync wait /journal/\n");
        link.lose(up, down);
        client.tell(&format!("0 2 a{number} t/separate{number} :1"));
        wait_for(&case, || counter(&site, "tombolo_coap_separate_responses_total") == number as u64 + 1);
        disk_faults::write(&faults, "");
        let response: [&[&str]; 2] = [&["t:CON c:2.04", &token], &["t:ACK c:0.00"]];
        let seen = client.follow(&case, seen, &response);
        assert_eq!(link.lost(), number + 1, "{case}");
        let after = seen.iter().skip_while(|message| !message.contains("c:2.04"));
        let again = after.filter(|message| message.contains("c:POST")).count();
        assert_eq!(again, 0, "{case}: the response ends the retransmission");
    }
    for number in 0..3 {
        let topic = format!("tombolo/gw/door-7/up/t/separate{number}");
        wait_for(&topic, || !site.arrived(&topic).is_empty());
    }
    // libcoap 4.3.1 does not acknowledge what it gets again; aiocoap does. Behind a response that
    // is not acknowledged the next one waits.
    drop(client);
    let mut device = Device::start_at(&site, link.address);
    for (number, payload) in ["lost", "next"].into_iter().enumerate() {
        disk_faults::write(&faults, "sync wait /journal/\n");
        link.lose(if number == 0 { &[1] } else { &[] }, &[]);
        device.say(payload);
        let separate = number as u64 + 4;
        wait_for("CORE_16", || counter(&site, "tombolo_coap_separate_responses_total") == separate);
        disk_faults::write(&faults, "");
        let answer = format!("2.04 {payload}");
        wait_for("CORE_16: the response", || device.answers().contains(&answer));
        wait_for("CORE_16: its acknowledgement is lost", || link.lost() == 4);
    }
    wait_for("the last reading", || site.arrived("tombolo/gw/door-7/up/t/hello").len() == 3);
    for number in 0..3 {
        let arrived = site.arrived(&format!("tombolo/gw/door-7/up/t/separate{number}"));
        assert_eq!(arrived.len(), 1, "CORE_16: taken once");
    }
    assert_eq!(counter(&site, "tombolo_coap_unacknowledged_responses_total"), 0, "CORE_16");
}

#[test]
fn td_coap_core_10_12_13_14_tokens_path_segments_and_queries() {
    let (site, _) = site("plugtest-tokens");
    offer(&site, "seg1/seg2/seg3", "deep", "text/plain");
    let mut client = Client::start(&site, site.daemon.coaps);
    for (case, token) in [("CORE_10", "a1"), ("CORE_10", "a1b2c3d4e5f60718"), ("CORE_12", "-")] {
        let braces = format!("{{{}}}", token.trim_matches('-'));
        let request: &[&str] = &["t:CON c:GET", &braces, "Uri-Path:seg1, Uri-Path:seg2, Uri-Path:seg3"];
        let response: &[&str] = &["t:ACK c:2.05", &braces, "'deep'"];
        client.ask(case, &format!("0 1 {token} seg1/seg2/seg3"), &[request, response]);
    }
    client.ask("CORE_13", "0 1 b1 seg1/seg2", &[&["t:ACK c:4.04", "{b1}"]]);
    // A message of the broker has no queries; a reading does.
    let query = "15=66697273743d31 15=7365636f6e643d32 15=74686972643d33";
    let words: &[&str] = &["Uri-Query:first=1, Uri-Query:second=2, Uri-Query:third=3"];
    client.ask(
        "CORE_14",
        &format!("0 1 c1 seg1/seg2/seg3 {query}"),
        &[words, &["t:ACK c:4.02", "{c1}", "'query'"]],
    );
    client.ask("CORE_14", &format!("0 2 c2 t/query {query} :1"), &[words, &["t:ACK c:2.04", "{c2}"]]);
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/query").is_empty());
    let arrived = &site.arrived("tombolo/gw/door-7/up/t/query")[0];
    assert!(arrived[3].contains("query:first=1&second=2&third=3"), "CORE_14: {}", arrived[3]);
}

#[test]
fn td_coap_core_20_to_23_and_31_accept_etags_preconditions_and_ping() {
    let (site, _) = site("plugtest-options");
    offer(&site, "validate", "first", "text/plain");
    let mut client = Client::start(&site, site.daemon.coaps);
    client.ask("CORE_20", "0 1 a0 time 17=", &[&["t:ACK c:2.05", "{a0}", "Content-Format:text/plain"]]);
    client.ask(
        "CORE_20",
        "0 1 a1 time 17=3c",
        &[&["t:ACK c:2.05", "{a1}", "Content-Format:application/cbor"]],
    );
    client.ask("CORE_20", "0 1 a2 time 17=29", &[&["t:ACK c:4.06", "{a2}"]]);
    client.ask("CORE_20", "0 1 a3 validate 17=29", &[&["t:ACK c:4.06", "{a3}"]]);

    let seen = client.ask("CORE_21", "0 1 b0 validate", &[&["t:ACK c:2.05", "{b0}", "'first'"]]);
    let tag = |seen: &[String], token| {
        value(first(seen, &["t:ACK", token]), "ETag").trim_start_matches("0x").to_owned()
    };
    let known = tag(&seen, "{b0}");
    assert!((2..=16).contains(&known.len()), "CORE_21: {seen:?}");
    let again = format!("0 1 b1 validate 4={known}");
    let seen = client.ask("CORE_21", &again, &[&["t:ACK c:2.03", "{b1}"]]);
    assert_eq!(tag(&seen, "{b1}"), known, "CORE_21");
    assert!(!first(&seen, &["t:ACK c:2.03"]).contains("::"), "CORE_21: 2.03 has no payload: {seen:?}");
    offer(&site, "validate", "second", "text/plain");
    let again = format!("0 1 b2 validate 4={known}");
    let seen = client.ask("CORE_21", &again, &[&["t:ACK c:2.05", "{b2}", "'second'"]]);
    assert_ne!(tag(&seen, "{b2}"), known, "CORE_21");

    // A reading has no state that a precondition could be about.
    let known = format!("0 3 c0 t/pre 1={known} :1");
    client.ask("CORE_22", &known, &[&["If-Match"], &["t:ACK c:4.02", "{c0}", "'option 1'"]]);
    client.ask(
        "CORE_23",
        "0 3 c1 t/pre 5= :1",
        &[&["If-None-Match"], &["t:ACK c:4.02", "{c1}", "'option 5'"]],
    );
    client.ask("CORE_23", "0 3 c2 t/after :1", &[&["t:ACK c:2.04", "{c2}"]]);
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/after").is_empty());
    assert!(site.arrived("tombolo/gw/door-7/up/t/pre").is_empty(), "CORE_22, CORE_23");

    let steps: [&[&str]; 2] = [&["t:CON c:0.00", "{} [ ]"], &["t:RST c:0.00", "{} [ ]"]];
    let seen = client.ask("CORE_31", "ping", &steps);
    assert_eq!(value(first(&seen, steps[0]), " i"), value(first(&seen, steps[1]), " i"), "CORE_31");
}

#[test]
fn td_coap_link_01_to_09_the_whole_list_whatever_the_filter() {
    let (site, plain) = site("plugtest-link");
    let whole = client(&site, &["-m", "get"], ".well-known/core");
    let list = |seen: &[String]| {
        let response = first(seen, &["t:ACK c:2.05", "Content-Format:application/link-format"]);
        response.split_once(":: ").unwrap().1.to_owned()
    };
    let links = list(&whole);
    for path in ["</.well-known/core>;ct=40", "</t>;rt=\"tombolo.reading\"", "</alarm>", "</k>"] {
        assert!(links.contains(path), "LINK_01: {links}");
    }
    for (case, filter) in [
        ("LINK_02", "rt=tombolo.reading"),
        ("LINK_03", "rt=*"),
        ("LINK_04", "rt=Type2"),
        ("LINK_05", "if=If*"),
        ("LINK_06", "sz=*"),
        ("LINK_07", "href=/t"),
        ("LINK_08", "href=/t*"),
    ] {
        let seen = client(&site, &["-m", "get"], &format!(".well-known/core?{filter}"));
        assert_shows(case, &seen, &[&[&format!("Uri-Query:{filter}")]]);
        assert_eq!(list(&seen), links, "{case}: a filter is ignored (RFC 6690 §4.1)");
    }
    assert!(!links.contains("ct=40,</.well-known"), "LINK_09: there is one level");
    assert_shows("LINK_01", &client(&site, &["-A", "50"], ".well-known/core"), &[&["t:ACK c:4.06"]]);
    // Over plain CoAP in blocks as small as an unproven address is sent.
    let file = site.folder.join("links");
    let output = Command::new("coap-client-notls")
        .args(["-B", "5", "-v", "7", "-o"])
        .arg(&file)
        .arg(format!("coap://127.0.0.1:{plain}/.well-known/core"))
        .stdin(Stdio::null())
        .output()
        .expect("libcoap3-bin is installed");
    assert_shows("LINK_01", &messages(&printed(&output)), &[&["t:ACK c:2.05", "Block2:0/M/"]]);
    assert_eq!(format!("'{}'", std::fs::read_to_string(&file).unwrap_or_default()), links, "LINK_01: plain");
}

#[test]
fn td_coap_block_01_02_03_04_06_bodies_both_ways() {
    let (site, _) = site("plugtest-blocks");
    let large = body(3_000);
    say(&site, "large", &large, "text/plain");
    wait_for("it to be there", || shows(&client(&site, &["-m", "get"], "large"), &[&["c:2.05"]]));
    let fetched = |case: &str, arguments: &[&str]| {
        let file = site.folder.join(case);
        let seen =
            client(&site, &[&["-m", "get", "-o", &file.display().to_string()], arguments].concat(), "large");
        assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), large, "{case}: {seen:?}");
        seen
    };
    for (case, size, count) in [("BLOCK_01", 256, 12), ("BLOCK_06", 16, 188)] {
        let seen = fetched(case, &["-b", &size.to_string()]);
        let asks = |number: u32| format!("Block2:{number}/_/{size}");
        let gives = |number: u32, more: &str| format!("Block2:{number}/{more}/{size}");
        assert_shows(
            case,
            &seen,
            &[
                &["c:GET", &asks(0)],
                &["t:ACK c:2.05", &gives(0, "M")],
                &["c:GET", &asks(1)],
                &["t:ACK c:2.05", &gives(1, "M")],
                &["c:GET", &asks(count - 1)],
                &["t:ACK c:2.05", &gives(count - 1, "_")],
            ],
        );
    }
    let seen = fetched("BLOCK_02", &[]);
    assert!(!first(&seen, &["c:GET"]).contains("Block2"), "BLOCK_02: {seen:?}");
    assert_shows(
        "BLOCK_02",
        &seen,
        &[
            &["t:ACK c:2.05", "Block2:0/M/1024"],
            &["c:GET", "Block2:1/_/1024"],
            &["t:ACK c:2.05", "Block2:1/M/1024"],
            &["c:GET", "Block2:2/_/1024"],
            &["t:ACK c:2.05", "Block2:2/_/1024"],
        ],
    );
    let file = site.folder.write("large.txt", &large).display().to_string();
    for (case, method, size, last) in [("BLOCK_03", "put", 512, 5), ("BLOCK_04", "post", 64, 46)] {
        let size_text = size.to_string();
        let path = format!("t/{method}");
        let seen = client(&site, &["-m", method, "-t", "0", "-f", &file, "-b", &size_text], &path);
        let upper = format!("c:{}", method.to_uppercase());
        let block = |number: u32, more: &str| format!("Block1:{number}/{more}/{size}");
        assert_shows(
            case,
            &seen,
            &[
                &[&upper, &block(0, "M")],
                &["t:ACK c:2.31", &block(0, "M")],
                &[&upper, &block(1, "M")],
                &["t:ACK c:2.31", &block(1, "M")],
                &[&upper, &block(last, "_")],
                &["t:ACK c:2.04", &block(last, "_")],
            ],
        );
        let topic = format!("tombolo/gw/door-7/up/{path}");
        wait_for(&topic, || !site.arrived(&topic).is_empty());
        assert_eq!(site.arrived(&topic)[0][1], large, "{case}: in one piece");
    }
}
