//! The second day on a gateway that runs: its verdict, its metrics, a configuration on trial, its
//! end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{KEY, Site, binary};
use tombolo_test_support::{free_tcp_port, wait_for, wait_within};

fn connected(site: &Site) -> bool {
    site.daemon.status()["upstream"]["connected"] == true
}

#[test]
fn status_says_first_whether_everything_is_fine() {
    let mut site = Site::new("verdict", "");
    wait_for("the broker", || connected(&site));
    wait_for("the verdict", || site.daemon.status()["ok"] == true);
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.starts_with("state     everything is fine\n"), "{text}");
    assert_eq!(site.daemon.status()["reasons"], serde_json::json!([]));
    site.broker.stop();
    wait_for("the loss of the broker", || site.daemon.status()["ok"] == false);
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.starts_with("state     NOT FINE: not connected to localhost:"), "{text}");
}

#[test]
fn a_reading_that_a_filter_holds_back_is_acknowledged_shown_and_not_published() {
    let rules = "[role.sensor.uplink.state]\npath = \"state/+\"\ntopic = \"plant/{tag.site}/{1}\"\non-change = true\n\
                 content-formats = [\"text/plain\", \"none\"]\n";
    let site = Site::new("filter", &format!("{rules}[device.door-7.tags]\nsite = \"north\"\n"));
    wait_for("the broker", || connected(&site));
    // What follows is answered, and comes, after what is before it.
    for payload in ["open", "open", "open", "closed"] {
        let said = site.post(&["-e", payload], "state/door");
        assert!(!said.contains("4.") && !said.contains("5."), "{said}");
    }
    assert!(site.post(&["-t", "50", "-e", "{}"], "state/door").contains("4.15"));
    site.post(&["-e", "1"], "t/env");
    wait_for("the last reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
    let (_, shown) = site.daemon.command(&["device", "show", "door-7", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["filtered"], &shown["accepted"]), (&2.into(), &3.into()), "{shown}");
    assert_eq!(shown["refused_reasons"]["content_format"], 1, "{shown}");
    let counters = &site.daemon.status()["counters"];
    assert_eq!(counters["tombolo_gate_filtered_readings_total"], 2, "{counters}");
    let (_, explained) = site.daemon.command(&["acl", "explain", "door-7", "POST", "state/door"]);
    assert!(
        explained.contains("plant/north/door") && explained.contains("what equals the reading before"),
        "{explained}"
    );
}

#[test]
fn a_reading_whose_conditions_do_not_hold_is_acknowledged_with_the_reason_and_not_published() {
    let rules = "[role.sensor.uplink.hot]\npath = \"hot/+\"\nwhen = [{ field = \"/t\", above = 30 }]\n";
    let site = Site::new("when", rules);
    wait_for("the broker", || connected(&site));
    for payload in [r#"{"t":21.5}"#, r#"{"t":31}"#] {
        let said = site.post(&["-t", "50", "-e", payload], "hot/oven");
        assert!(!said.contains("4.") && !said.contains("5."), "{said}");
    }
    wait_for("the hot one", || !site.arrived("tombolo/gw/door-7/up/hot/oven").is_empty());
    assert_eq!(site.arrived("tombolo/gw/door-7/up/hot/oven").len(), 1, "the cold one came first");
    let (_, shown) = site.daemon.command(&["device", "show", "door-7", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["filtered"], &shown["accepted"]), (&1.into(), &1.into()), "{shown}");
    let why = "/t is 21.5, not above 30";
    assert_eq!(shown["last_filtered"]["why"], why, "{shown}");
    let question = ["acl", "explain", "door-7", "POST", "hot/oven", "--payload", r#"{"t":21.5}"#];
    let (_, text) = site.daemon.command(&question);
    assert!(text.contains("what this does not hold for: /t above 30") && text.contains(why), "{text}");
}

/// Sends bytes and reads what comes until the other side closes.
fn talk(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn scrape(address: SocketAddr) -> String {
    let answer = talk(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    body.to_owned()
}

/// A strict parser of the text format 0.0.4: samples by name and labels. A family has one TYPE line
/// before its samples, which stand together; no sample occurs twice.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut types, mut closed, mut now) = (BTreeMap::new(), BTreeSet::new(), String::new());
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    assert!(text.ends_with('\n'), "the last line has no end");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert!(is_name(name), "{line}");
            match what {
                "HELP" => assert!(!rest.is_empty()),
                "TYPE" => {
                    assert!(["counter", "gauge"].contains(&rest), "{line}");
                    assert!(types.insert(name.to_owned(), rest.to_owned()).is_none(), "twice: {line}");
                    assert_eq!(rest == "counter", name.ends_with("_total"), "{line}");
                    closed.insert(std::mem::replace(&mut now, name.to_owned()));
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let base = name.split('{').next().unwrap();
        assert!(is_name(base) && base == now && !closed.contains(base), "{line}");
        if let Some(labels) = name.strip_prefix(base).filter(|labels| !labels.is_empty()) {
            let inner = labels.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap();
            for label in inner.split("\",") {
                let (label, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                assert!(is_name(label) && !value.trim_end_matches('"').contains(['"', '\n']), "{line}");
            }
        }
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

/// The names in the tables of docs/metrics.md.
fn documented() -> BTreeSet<String> {
    let page = include_str!("../../docs/metrics.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `tombolo_"));
    cells.map(|cell| format!("tombolo_{}", cell.split(['`', '{']).next().unwrap())).collect()
}

#[test]
fn every_counter_of_status_is_a_metric_and_documented() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_tcp_port()));
    let site = Site::new("metrics", &format!("[metrics]\nlisten = [\"{address}\"]\n"));
    wait_for("the broker", || connected(&site));
    site.post(&["-e", "{\"t\":1}"], "t/env");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
    wait_for("the metrics", || TcpStream::connect(address).is_ok());
    // A series of which there is no session yet is there, too.
    let of = |suite: &str| format!("tombolo_dtls_open_sessions{{suite=\"{suite}\"}}");
    let samples = parse(&scrape(address));
    assert_eq!(samples[&of("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")], 0.0, "{samples:?}");
    let stored = "tombolo_journal_stored_readings_total";
    wait_for("the count", || parse(&scrape(address)).get(stored) == Some(&1.0));
    let text = scrape(address);
    let samples = parse(&text);
    let documented = documented();
    let status = site.daemon.status();
    for (name, value) in status["counters"].as_object().unwrap() {
        assert!(samples.contains_key(name), "{name} is no metric");
        assert!(documented.contains(name), "{name} is not in docs/metrics.md");
        assert!(value.is_u64());
    }
    for name in samples.keys() {
        let name = name.split('{').next().unwrap();
        assert!(documented.contains(name), "{name} is not in docs/metrics.md");
    }
    let all = tombolo::control::metrics::COUNTERS.iter().map(|(name, _)| *name);
    let all = all.chain(tombolo::control::metrics::GAUGES.iter().map(|(name, ..)| *name));
    let all: BTreeSet<String> = all
        .chain(tombolo::control::metrics::SERIAL_COUNTERS.iter().map(|(name, ..)| *name))
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, all, "the page and the program name the same metrics");
    assert_eq!(samples["tombolo_northbound_connected_state"], 1.0);
    assert_eq!(samples["tombolo_gate_online_devices"], 1.0);
    assert!(samples.contains_key("tombolo_journal_lane_records{lane=\"high\"}"));
    // Where promtool is installed, it has the last word.
    if let Ok(mut child) = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn() {
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/grafana-tombolo.json")).unwrap();
    let documented = documented();
    let mut seen = 0;
    let text = dashboard["panels"].to_string();
    for part in text.split("tombolo_").skip(1) {
        let rest: String =
            part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_' || c.is_ascii_digit()).collect();
        let name = format!("tombolo_{rest}");
        assert!(documented.contains(&name), "{name}");
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}

/// The labels that each metric has, by the tables of docs/metrics.md.
fn labels() -> BTreeMap<String, String> {
    let page = include_str!("../../docs/metrics.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `tombolo_"));
    let cell = |cell: &str| {
        let (name, labels) = cell.split('`').next().unwrap_or_default().split_once('{').unwrap_or((cell, ""));
        let name = name.split('`').next().unwrap_or_default();
        (format!("tombolo_{name}"), labels.to_owned())
    };
    cells.map(cell).collect()
}

#[test]
fn every_panel_of_the_dashboard_has_a_source_a_query_and_a_place() {
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/grafana-tombolo.json")).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let variables: BTreeSet<String> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|one| text(&one["name"])).collect();
    let panels = dashboard["panels"].as_array().unwrap();
    let labels = labels();
    let (mut ids, mut taken, mut queries) = (BTreeSet::new(), BTreeSet::new(), 0);
    for panel in panels {
        let title = text(&panel["title"]);
        assert!(!title.is_empty() && !text(&panel["type"]).is_empty(), "{panel}");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is used twice");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title}: {key}"));
        assert!(place("w") > 0 && place("h") > 0 && place("x") + place("w") <= 24, "{title}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies over another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["type"], "prometheus", "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let mut names = BTreeSet::new();
        let targets = panel["targets"].as_array().unwrap_or_else(|| panic!("{title}: no targets"));
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            queries += 1;
            assert!(names.insert(text(&target["refId"])), "{title}: a refId is used twice");
            let query = text(&target["expr"]);
            let count = |c: char| query.matches(c).count();
            assert!(query.contains("tombolo_"), "{title}: {query}");
            assert!(count('(') == count(')') && count('{') == count('}') && count('"') % 2 == 0, "{query}");
            for variable in query.split('$').skip(1) {
                let name: String = variable
                    .trim_start_matches('{')
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                assert!(
                    variables.contains(&name) || name.starts_with("__"),
                    "{title}: ${name} is not defined"
                );
            }
            // Labels in the selector of a metric, and in what is summed by.
            for part in query.split("tombolo_").skip(1) {
                let name: String =
                    part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let Some(selector) = part[name.len()..].strip_prefix('{') else { continue };
                let known = &labels[&format!("tombolo_{name}")];
                for label in selector.split('}').next().unwrap_or_default().split(',') {
                    let label = label.split(['=', '!']).next().unwrap_or_default().trim();
                    assert!(
                        ["instance", "job", ""].contains(&label) || known.contains(label),
                        "{query}: {label}"
                    );
                }
            }
        }
    }
    assert!(panels.len() > 8 && queries > 15, "{} panels, {queries} queries", panels.len());
}

#[test]
fn slow_absurd_and_many_clients_of_the_metrics_hold_nobody_up() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_tcp_port()));
    let site = Site::new("metrics-abuse", &format!("[metrics]\nlisten = [\"{address}\"]\n"));
    wait_for("the metrics", || TcpStream::connect(address).is_ok());
    assert!(talk(address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").contains("405"));
    assert!(talk(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").contains("404"));
    let head = talk(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.contains("200 OK") && head.ends_with("\r\n\r\n"), "{head}");
    let long = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &b"y".repeat(1 << 20), b"\r\n\r\n"].concat();
    for absurd in [
        b"\x16\x03\x01\x02\x00\x01".as_slice(),
        b"\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"\0".repeat(70_000).as_slice(),
        &long,
    ] {
        let answer = talk(address, absurd);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    // More than it takes, all silent: they are closed after a time, and the path does not notice.
    let held: Vec<TcpStream> = (0..40).filter_map(|_| TcpStream::connect(address).ok()).collect();
    site.post(&["-e", "1"], "t/env");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
    wait_within(Duration::from_secs(30), "a place", || {
        talk(address, b"GET /metrics HTTP/1.0\r\n\r\n").contains("200 OK")
    });
    drop(held);
    assert!(parse(&scrape(address)).len() > 50);
}

#[test]
fn the_metrics_follow_a_reload_and_a_remote_address_needs_a_second_key() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_tcp_port()));
    let site = Site::new("metrics-reload", "");
    assert!(TcpStream::connect(address).is_err());
    site.folder.write("conf.d/50-metrics.toml", format!("[metrics]\nlisten = [\"{address}\"]\n"));
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    wait_for("the metrics", || TcpStream::connect(address).is_ok());
    // A port that another program has is named, and nothing else suffers.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = taken.local_addr().unwrap();
    site.folder.write("conf.d/50-metrics.toml", format!("[metrics]\nlisten = [\"{held}\"]\n"));
    assert_eq!(site.daemon.command(&["reload"]).0, 3);
    wait_for("the end of the first", || TcpStream::connect(address).is_err());
    wait_for("the problem", || site.daemon.command(&["status"]).1.contains("another program has the port"));
    site.folder.write("conf.d/50-metrics.toml", "[metrics]\nlisten = [\"0.0.0.0:9\"]\n");
    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("1 item is disabled by faults") && text.contains("50-metrics.toml:2"), "{text}");
    let (status, text) = site.daemon.command(&["check"]);
    assert_eq!(status, 1);
    assert!(text.contains("50-metrics.toml:2") && text.contains("allow-remote"), "{text}");
}

#[test]
fn the_security_check_knows_what_the_running_gateway_has_seen() {
    let site = Site::new("security", "[device.quiet]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\n");
    site.coap_client("coap-client-gnutls", "door-7", KEY, &["-m", "post", "-e", "1"], "t/env");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
    let (_, text) = site.daemon.command(&["check", "--security"]);
    // Which device is silent is said once a day of it was counted (unit tests).
    assert!(text.contains("not judged by silence: counted for"), "{text}");
    assert!(text.contains("the same pre-shared key: door-7, quiet"), "{text}");
    assert!(text.contains("they have counted for"), "{text}");
}

/// `config apply` as a process of its own, as a person over SSH runs it.
fn apply(site: &Site, file: &str, time: &str) -> std::process::Child {
    let mut command = Command::new(binary());
    command.arg("--config").arg(site.daemon.config()).args(["config", "apply"]).arg(site.folder.join(file));
    command.args(["--confirm", time]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn broken_upstream(site: &Site) {
    let dead = free_tcp_port();
    site.folder.write("new/50-url.toml", format!("[upstream]\nurl = \"mqtts://localhost:{dead}\"\n"));
}

#[test]
fn a_configuration_that_loses_the_broker_is_taken_back() {
    let site = Site::new("apply-back", "");
    wait_for("the broker", || connected(&site));
    broken_upstream(&site);
    let child = apply(&site, "new/50-url.toml", "10s");
    wait_for("the loss of the broker", || !connected(&site));
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is deleted again: it did not exist before"), "{text}");
    assert!(!site.folder.join("conf.d/50-url.toml").exists());
    assert!(!site.folder.join("state/config-trial.json").exists());
    wait_for("the broker", || connected(&site));
}

#[test]
fn a_configuration_that_loses_the_broker_is_taken_back_though_the_one_who_tried_it_is_gone() {
    let mut site = Site::new("apply-killed", "");
    wait_for("the broker", || connected(&site));
    broken_upstream(&site);
    let mut child = apply(&site, "new/50-url.toml", "10s");
    wait_for("the loss of the broker", || !connected(&site));
    child.kill().unwrap();
    child.wait().unwrap();
    // The daemon cannot write there, and goes by what was before all the same.
    wait_within(Duration::from_secs(30), "the broker", || connected(&site));
    assert!(site.folder.join("conf.d/50-url.toml").exists());
    let told = |text: String| text.contains("not confirmed in time") && text.contains("config revert");
    assert!(told(site.daemon.command(&["status"]).1));
    assert!(told(site.daemon.command(&["check"]).1));
    // After a restart too.
    site.daemon.stop();
    site.daemon.resume();
    wait_for("the broker", || connected(&site));
    let (status, text) = site.daemon.command(&["config", "revert"]);
    assert_eq!(status, 0, "{text}");
    assert!(!site.folder.join("conf.d/50-url.toml").exists());
    assert!(connected(&site) && site.daemon.command(&["check"]).0 == 0);
}

#[test]
fn a_configuration_under_which_the_broker_is_connected_stays() {
    let site = Site::new("apply-stays", "");
    wait_for("the broker", || connected(&site));
    site.folder.write("new/50-alive.toml", "[upstream]\nkeep-alive = \"33s\"\n");
    let output = apply(&site, "new/50-alive.toml", "60s").wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(site.folder.join("conf.d/50-alive.toml").exists());
    assert!(!site.folder.join("state/config-trial.json").exists());
}

#[test]
fn a_person_may_confirm_and_a_refused_reload_is_taken_back_at_once() {
    let site = Site::new("apply-confirm", "");
    wait_for("the broker", || connected(&site));
    site.folder.write("new/60-fixed.toml", "[coap]\nmax-sessions = 77\n");
    let output = apply(&site, "new/60-fixed.toml", "60s").wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("reload is refused") && text.contains("is as it was"), "{text}");
    assert!(!site.folder.join("conf.d/60-fixed.toml").exists());
    assert_eq!(site.daemon.command(&["check"]).0, 0, "nothing says that a reload was refused");

    broken_upstream(&site);
    let child = apply(&site, "new/50-url.toml", "10min");
    wait_for("the loss of the broker", || !connected(&site));
    assert!(site.daemon.command(&["status"]).1.contains("50-url.toml is on trial for"));
    site.folder.write("new/70.toml", "[log]\nlevel = \"debug\"\n");
    let (status, text) =
        site.daemon.command(&["config", "apply", site.folder.join("new/70.toml").to_str().unwrap()]);
    assert!(status == 1 && text.contains("is on trial for"), "{text}");
    let (status, text) = site.daemon.command(&["config", "confirm"]);
    assert_eq!(status, 0, "{text}");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert!(site.folder.join("conf.d/50-url.toml").exists());
}

#[test]
fn a_gateway_that_is_decommissioned_leaves_nothing_at_the_broker() {
    let mut site = Site::new("decommission", "");
    wait_for("the broker", || connected(&site));
    site.post(&["-e", "1"], "t/env");
    let retained = |site: &Site, topic: &str| {
        let fields = site.arrived(topic);
        fields.last().is_some_and(|fields| !fields[1].is_empty())
    };
    wait_for("the status of the device", || retained(&site, "tombolo/gw/door-7/status"));
    let (status, text) = site.daemon.command(&["decommission", "--yes"]);
    assert!(status == 1 && text.contains("first stop it for good: end `tombolo --config"), "{text}");
    assert!(!text.contains("systemctl"), "{text}");
    assert!(connected(&site));
    site.daemon.stop();
    let (status, text) = site.daemon.command(&["decommission", "--yes"]);
    assert_eq!(status, 0, "{text}");
    for topic in ["tombolo/gw/door-7/status", "tombolo/gw/gateway/status"] {
        wait_for("an empty retained message", || !retained(&site, topic));
    }
    assert_eq!(std::fs::read_dir(site.folder.join("state")).unwrap().count(), 0);
    assert!(!site.folder.join("door-7.psk").exists());
    // Once more: it is not said to have cleared what was not there.
    let (status, text) = site.daemon.command(&["decommission", "--yes"]);
    assert_eq!(status, 0, "{text}");
    assert!(!text.contains("cleared at") && text.contains("whether or not anything was there"), "{text}");
    assert!(text.contains("no file was left to wipe"), "{text}");
}

#[test]
fn a_gateway_whose_readings_or_broker_are_missing_is_not_wiped() {
    let mut site = Site::new("decommission-refused", "");
    wait_for("the broker", || connected(&site));
    site.broker.stop();
    wait_for("the loss of the broker", || !connected(&site));
    site.post(&["-e", "1"], "t/env");
    wait_for("the reading", || site.daemon.status()["journal"]["records"] == 1);
    site.daemon.stop();
    let (status, text) = site.daemon.command(&["decommission", "--yes"]);
    assert!(
        status == 1 && text.contains("1 reading was not delivered") && text.contains("--discard"),
        "{text}"
    );
    assert!(site.folder.join("door-7.psk").exists());
    let (status, text) = site.daemon.command(&["decommission", "--yes", "--discard", "--offline"]);
    assert_eq!(status, 0, "{text}");
    assert!(!site.folder.join("door-7.psk").exists());
}

#[test]
fn a_configuration_that_finds_no_room_on_the_disk_changes_nothing() {
    use tombolo_test_support::disk_faults::{VARIABLE, library, write};
    const ENOSPC: i32 = 28;
    let site = Site::new("apply-full", "");
    wait_for("the broker", || connected(&site));
    let new = site.folder.write("new/50-log.toml", "[log]\nlevel = \"debug\"\n");
    let faults = site.folder.join("faults");
    let apply = |fault: &str, confirm: &[&str]| {
        write(&faults, fault);
        let output = Command::new(binary())
            .arg("--config")
            .arg(site.daemon.config())
            .args(["config", "apply"])
            .arg(&new)
            .args(confirm)
            .env("LD_PRELOAD", library())
            .env(VARIABLE, &faults)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    // The configuration, then the record of its trial, then the sync of each.
    for (fault, confirm) in [
        (format!("append {ENOSPC} conf.d/"), &[][..]),
        (format!("append {ENOSPC} conf.d/"), &["--confirm", "10min"]),
        (format!("append {ENOSPC} state/"), &["--confirm", "10min"]),
        (format!("sync {ENOSPC} conf.d/"), &["--confirm", "10min"]),
        (format!("open {ENOSPC} conf.d/"), &["--confirm", "10min"]),
    ] {
        let (status, text) = apply(&fault, confirm);
        assert_eq!(status, Some(1), "{fault}: {text}");
        assert!(text.contains("nothing was changed") && text.contains("No space left"), "{fault}: {text}");
        assert!(!text.contains("os error"), "{fault}: {text}");
        let conf_d = site.folder.join("conf.d");
        let left: Vec<_> =
            std::fs::read_dir(&conf_d).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(!conf_d.join("50-log.toml").exists(), "{fault}: {left:?}");
        assert!(!site.folder.join("state/config-trial.json").exists(), "{fault}");
        assert!(site.daemon.status()["trial"].is_null(), "{fault}");
    }
    // With room again it passes.
    let (status, text) = apply("", &[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(site.folder.join("conf.d/50-log.toml").exists());
}

#[test]
fn the_security_check_names_weak_suites_and_sessions() {
    let site = Site::new("security-suites", "");
    let mut config = tombolo_test_support::dtls::client::Config::psk("door-7", KEY);
    config.extended_master_secret = false;
    let mut device = super::device::Device::connect(site.daemon.coaps, config).expect("a session");
    assert!(device.post("t/env", b"21.5"));
    let (_, text) = site.daemon.command(&["check", "--security"]);
    for words in [
        "1 session with TLS_PSK_WITH_AES_128_CCM_8: no forward secrecy",
        "1 session with TLS_PSK_WITH_AES_128_CCM_8: an authentication tag of 64 bits only",
        "1 session without the extended master secret (RFC 7627)",
    ] {
        let line = text.lines().find(|line| line.contains(words));
        assert!(line.is_some_and(|line| line.starts_with("warn")), "{words}: {text}");
    }
}

/// Everything that decommission would wipe is still there.
fn assert_kept(site: &Site) {
    assert!(site.folder.join("door-7.psk").exists());
    assert!(site.folder.join("state/journal").exists());
}

#[test]
fn a_broker_that_refuses_to_clear_is_named_with_the_topics_and_nothing_is_wiped() {
    let folder = tombolo_test_support::Folder::new("decommission-acl");
    let acl = folder.write("acl", "topic readwrite #\n");
    let broker_extra = format!("acl_file {}", acl.display());
    let mut site = Site::with_broker("decommission-denied", "", &broker_extra);
    wait_for("the broker", || connected(&site));
    site.daemon.stop();
    site.broker.stop();
    folder.write("acl", "topic write tombolo/witness/#\ntopic read #\n");
    site.broker.resume();
    let begun = std::time::Instant::now();
    let (status, text) = site.daemon.command(&["decommission", "--yes"]);
    assert_eq!(status, 1, "{text}");
    for words in [
        "nothing was wiped",
        "clearing 2 retained topics at localhost:",
        "refuses to clear 2 topics of 2: tombolo/gw/door-7/status, tombolo/gw/gateway/status",
        "--offline",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(begun.elapsed() < Duration::from_secs(50), "it did not wait for what cannot come");
    assert_kept(&site);
}

#[test]
fn a_broker_that_cannot_be_reached_is_named_with_what_is_kept_and_the_way_out() {
    let mut site = Site::new("decommission-unreachable", "");
    wait_for("the broker", || connected(&site));
    site.daemon.stop();
    site.broker.stop();
    let (status, text) = site.daemon.command(&["decommission", "--yes"]);
    assert_eq!(status, 1, "{text}");
    for words in [
        "not connected to localhost:",
        "nothing was wiped: localhost:",
        "could not be reached",
        "its keys and its state are unchanged",
        "--offline wipes them and leaves 2 retained topics at the broker",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_kept(&site);
    let (status, text) = site.daemon.command(&["decommission", "--yes", "--json"]);
    let object: serde_json::Value =
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(status, 1);
    assert!(object["error"]["message"].as_str().is_some_and(|said| said.contains("could not be reached")));
}

#[test]
fn acl_explain_says_whether_a_filter_would_hold_a_payload_back_now() {
    let rule = "[role.sensor.uplink.state]\npath = \"state/+\"\non-change = true\n";
    let site = Site::new("explain-payload", rule);
    let explain = |method: &str, payload: &str| {
        site.daemon.command(&["acl", "explain", "door-7", method, "state/door", "--payload", payload])
    };
    let held_back = "this one is not published now: unchanged (on-change)";
    let (status, text) = explain("POST", "on");
    assert!(status == 0 && !text.contains(held_back), "nothing came before it: {text}");
    site.post(&["-e", "on"], "state/door");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/state/door").is_empty());
    for (payload, expected) in [("on", true), ("off", false)] {
        let (status, text) = explain("POST", payload);
        assert!(status == 0 && text.contains(held_back) == expected, "{payload}: {text}");
    }
    // Without a content format it is that of the reading before.
    site.post(&["-t", "50", "-e", "1"], "state/json");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/state/json").is_empty());
    for (format, expected) in
        [(&[][..], true), (&["--content-format", "50"], true), (&["--content-format", "0"], false)]
    {
        let question = ["acl", "explain", "door-7", "POST", "state/json", "--payload", "1"];
        let (status, text) = site.daemon.command(&[&question[..], format].concat());
        assert!(status == 0 && text.contains(held_back) == expected, "{format:?}: {text}");
    }
    let (status, text) = explain("subscribe", "on");
    assert!(status == 2 && text.contains("--payload is of"), "{status} {text}");
}
