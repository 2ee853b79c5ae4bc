//! mqtt.js, which Node-RED has too, as a local client: both versions, every kind of listener.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tombolo_test_support::{Pki, free_tcp_port, printed, wait_for};

use super::Site;
use super::mqtt::{LOCAL, SOCKET, nothing_acknowledged_is_lost, site, socket};
use super::mqtt_identity::proven;

/// mqtt.js with `client.js`; `options` are those of its `connect()`.
fn client(what: &str, options: &Value) -> Command {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(top.join("target/peers/bin/node"));
    command.env("NODE_PATH", top.join("target/peers/js/node_modules"));
    command.arg(top.join("tests/path/mqttjs/client.js")).arg(what).arg(options.to_string());
    command.stdin(Stdio::null());
    command
}

/// Runs it to its end; the lines it printed.
fn said(what: &str, options: &Value) -> Vec<String> {
    let output = client(what, options).output().expect("tests/run peers installs Node.js and mqtt.js");
    assert!(output.status.success(), "{what} {options}: {}", printed(&output));
    printed(&output).lines().map(str::to_owned).collect()
}

/// Starts it; what it prints goes to `said` and `errors` in the folder.
fn start(site: &Site, what: &str, options: &Value) -> Child {
    let file = |name: &str| Stdio::from(std::fs::File::create(site.folder.join(name)).expect("a file"));
    let mut command = client(what, options);
    command.stdout(file("said")).stderr(file("errors"));
    command.spawn().expect("tests/run peers installs Node.js and mqtt.js")
}

/// With the password of `pump-2`, over the Unix socket.
fn on_socket(site: &Site, version: u8, more: Value) -> Value {
    let mut options = json!({
        "url": format!("mqtt+unix://{}", socket(site)), "protocolVersion": version,
        "username": "pump-2", "password": "sesame-sesame",
    });
    let all = options.as_object_mut().expect("an object");
    all.extend(more.as_object().expect("an object").clone());
    options
}

/// `[mqtt]` with TLS, and `cam-9`, which has a certificate.
fn tls(pki: &Pki, port: u16) -> String {
    let (certificate, key) = pki.issue("gateway", &["localhost", "127.0.0.1"]);
    format!(
        "[mqtt]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n\
         client-ca-file = \"{}\"\n",
        certificate.display(),
        key.display(),
        pki.ca().display()
    )
}

#[test]
fn mqtt_js_publishes_and_takes_commands_on_every_kind_of_listener() {
    let (port, loopback) = (free_tcp_port(), free_tcp_port());
    let site = site("mqttjs-tour", |_, pki| {
        format!(
            "{}insecure-listen = [\"127.0.0.1:{loopback}\", \"unix:mqtt.sock\"]\n\
             [device.cam-9]\nrole = \"sensor\"\ncertificate-dns = \"cam-9.example\"\n",
            tls(pki, port)
        )
    });
    let (certificate, key) = site.pki.issue("cam-9", &["cam-9.example"]);
    let secure = format!("mqtts://localhost:{port}");
    let kinds = [
        ("loopback", json!({ "url": format!("mqtt://127.0.0.1:{loopback}") })),
        ("unix", json!({})),
        ("tls", json!({ "url": secure, "files": { "ca": site.pki.ca() } })),
        (
            "certificate",
            json!({
                "url": secure, "username": null, "password": null,
                "files": { "ca": site.pki.ca(), "cert": certificate, "key": key },
            }),
        ),
    ];
    let taken = || {
        let count = site.daemon.status()["counters"]["tombolo_downlink_taken_commands_total"].as_u64();
        count.unwrap_or_default()
    };
    let port = site.broker.plain_port.to_string();
    let command = |device: &str, path: &str, payload: &str| {
        let topic = format!("tombolo/gw/{device}/down/set/{path}");
        let sent = Command::new("mosquitto_pub")
            .args(["-p", &port, "-V", "5", "-q", "1", "-t", &topic, "-m", payload])
            .output()
            .expect("mosquitto-clients is installed");
        assert!(sent.status.success(), "{}", printed(&sent));
    };
    // The subscription upstream may take a moment.
    wait_for("the first command", || {
        command("pump-2", "other", "0");
        taken() > 0
    });
    for (kind, options) in kinds {
        for version in [4, 5] {
            let device = if kind == "certificate" { "cam-9" } else { "pump-2" };
            let (path, before) = (format!("t/{kind}/{version}"), taken());
            command(device, "led", &path);
            wait_for("the command", || taken() > before);
            let mut options = options.clone();
            options["topic"] = path.clone().into();
            let refused = if version == 5 { "Not authorized" } else { "Unspecified error" };
            assert_eq!(
                said("tour", &on_socket(&site, version, options)),
                [
                    format!("Subscribe error: {refused}").as_str(),
                    "granted 1",
                    format!("set/led {path} 1").as_str(),
                    "published",
                    "published",
                    "published",
                ],
                "{kind} {version}"
            );
            for qos in ["0", "1", "2"] {
                let topic = format!("tombolo/gw/{device}/up/{path}/{qos}");
                wait_for(&topic, || !site.arrived(&topic).is_empty());
                let content_type = if version == 5 { "application/json" } else { "" };
                assert_eq!(site.arrived(&topic)[0][1..3], [qos, content_type]);
            }
        }
    }
}

#[test]
fn clients_of_mqtt_js_get_messages_wills_and_readings_of_each_other_with_their_properties() {
    let will = json!({ "contentType": "text/plain", "userProperties": { "of": ["pump", "two"] } });
    let mut request = will.clone();
    request["payloadFormatIndicator"] = true.into();
    request["responseTopic"] = "home/pump-2/answer".into();
    request["correlationData"] = json!({ "type": "Buffer", "data": b"7" });
    let expected = [
        ("home/pump-2/state here 1", None),
        ("home/pump-2/ask ? 2", Some(&request)),
        ("readings/pump-2/t/alias 1 1", None),
        ("readings/pump-2/t/alias 2 1", None),
        ("home/pump-2/state gone 1", Some(&will)),
        ("home/pump-2/state gone 0 retained", Some(&will)),
    ];
    for version in [4, 5] {
        let site = site(&format!("mqttjs-local-{version}"), |_, _| {
            format!("{SOCKET}mirror = \"readings/{{device}}/{{path}}\"\n{LOCAL}")
        });
        let lines = said("local", &on_socket(&site, version, json!({})));
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, (message, properties)) in lines.iter().zip(expected) {
            let (got, rest) = line.split_at(line.find(" {").unwrap_or(line.len()));
            assert_eq!(got, message, "{version}: {lines:#?}");
            let got: Option<Value> = serde_json::from_str(rest).ok();
            assert_eq!(got.as_ref(), properties.filter(|_| version == 5), "{version}: {line}");
        }
    }
}

#[test]
fn a_refused_publish_of_mqtt_js_has_a_code_and_with_3_1_1_holds_up_all_others_which_status_says() {
    let site = site("mqttjs-refused", |_, _| SOCKET.to_owned());
    assert_eq!(
        said("refused", &on_socket(&site, 5, json!({}))),
        ["nowhere refused 135", "a//b refused 144", "t/large refused 151", "t/after published", "closed"]
    );
    let after = || site.arrived("tombolo/gw/pump-2/up/t/after").len();
    wait_for("what came after", || after() == 1);
    let mut client = start(&site, "refused", &on_socket(&site, 4, json!({})));
    let lines = || std::fs::read_to_string(site.folder.join("said")).unwrap_or_default();
    let problems = || site.daemon.status()["problems"].to_string();
    wait_for("the problem", || problems().contains("a client of pump-2 was disconnected"));
    assert!(problems().contains("mqtt311-deny"), "{}", problems());
    assert!(problems().contains("nowhere: no rule of its role matches the path"), "{}", problems());
    assert!(!lines().contains("published") && after() == 1, "{}", lines());
    // The way out that the problem names, for a client that is connected or just about to be.
    let config = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    let with = config.replace(SOCKET, &format!("{SOCKET}mqtt311-deny = \"drop\"\n"));
    std::fs::write(site.daemon.config(), with).expect("it can be written");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    wait_for("all others", || lines().contains("t/after published"));
    wait_for("its reading", || after() == 2);
    let _ = client.kill();
    let _ = client.wait();
}

#[test]
fn nothing_that_mqtt_js_saw_acknowledged_is_lost_and_nothing_stored_is_called_failed_after_a_kill() {
    for (version, qos) in [(4, 1), (4, 2), (5, 1), (5, 2)] {
        let mut site = super::mqtt::on_socket(&format!("mqttjs-kill-{version}-{qos}"));
        let topic = format!("t/js/{qos}");
        let more = json!({ "clientId": "js", "topic": topic, "qos": qos, "clean": false });
        let client = start(&site, "numbers", &on_socket(&site, version, more));
        nothing_acknowledged_is_lost(&mut site, client, "said", &format!("tombolo/gw/pump-2/up/{topic}"));
        let errors = std::fs::read_to_string(site.folder.join("errors")).expect("a file");
        assert_eq!(errors, "", "{version} {qos}");
    }
}

#[test]
fn mqtt_js_is_disconnected_when_its_token_expires_and_comes_back_with_another() {
    let port = free_tcp_port();
    let site = proven("mqttjs-token", |pki| tls(pki, port));
    let pair = rcgen::KeyPair::generate().expect("a key pair");
    let key = site.folder.write("token.key", pair.serialize_pem());
    let public = site.folder.write("token.pem", pair.public_key_pem()).display().to_string();
    let (code, text) =
        site.daemon.command(&["device", "add", "cam-1", "--role", "sensor", "--jwt-key", &public]);
    assert_eq!(code, 0, "{text}");
    for (version, expected) in [
        (4, &["connected", "connected published"][..]),
        (5, &["connected", "disconnect 160", "connected published"]),
    ] {
        let options = json!({
            "url": format!("mqtts://localhost:{port}"), "files": { "ca": site.pki.ca() },
            "protocolVersion": version, "clientId": "cam-1", "tokenKey": key,
        });
        assert_eq!(said("token", &options), expected, "{version}");
    }
}
