use serde_json::json;

use crate::place::{Place, mode};

#[test]
fn a_device_is_added_shown_listed_and_removed_without_a_daemon() {
    let place = Place::new();
    assert!(place.run("device list").fine().contains("tombolo.toml device add"));

    let added = place.run("--json device add door-7 --role sensor --psk").json();
    let text = added["psk_text"].as_str().unwrap();
    assert_eq!(text.len(), 22);
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        added,
        json!({ "id": "door-7", "role": "sensor", "psk_identity": "door-7", "psk_text": text, "psk_hex": hex })
    );
    assert_eq!(mode(&place.path("state/devices/door-7.toml")), 0o600);

    let shown = place.run("--json device show door-7").json();
    assert_eq!(
        (&shown["role"], &shown["source"], &shown["usable"]),
        (&json!("sensor"), &json!("registry"), &json!(true))
    );
    assert!(shown["sessions"].is_null(), "no daemon can be asked");
    assert!(!shown.to_string().contains(text), "the key is shown only when it is asked for");
    assert!(!place.run("device show door-7").fine().contains(text));
    assert_eq!(place.run("--json device show door-7 --key").json()["psk_text"], text);
    assert!(place.run("device show door-7 --key").fine().contains(text));

    let listed = place.run("--json device list").json();
    assert_eq!(listed["id"], "door-7");
    assert!(place.run("device list").fine().contains("door-7  sensor  door-7    registry"));

    assert_eq!(place.run("--json device remove door-7").json(), json!({ "id": "door-7", "removed": true }));
    assert!(!place.path("state/devices/door-7.toml").exists());
    place.run("device show door-7").failed(1, &["door-7", "there are none yet", "device add ID"]);
}

#[test]
fn adding_prints_the_line_that_proves_it_works() {
    let place = Place::new();
    place.write("conf.d/50-listen.toml", "[coap]\nlisten = [\"192.0.2.7:7684\"]\n");
    let said = place.run("device add door-7 --role sensor --psk text:a$ecret").fine();
    let line = "coap-client-openssl -v 6 -m post -u door-7 -k 'a$ecret' -e 21.5 coaps://192.0.2.7:7684/t/temperature";
    assert!(said.contains(line), "{said}");
    assert!(
        said.contains("tombolo.toml run (it is not running)") && said.contains("tombolo.toml tail"),
        "{said}"
    );

    place.write("conf.d/50-listen.toml", "[coap]\nlisten = [\"[2001:db8::7]:5684\"]\n");
    let said = place.run("device add door-8 --role sensor --psk text:x --psk-identity the-door").fine();
    assert!(said.contains("-u the-door -k x -e 21.5 'coaps://[2001:db8::7]/t/temperature'"), "{said}");

    let role = "[role.pump]\nfirmware = \"pump\"\nfirmware-version-path = \"a/version\"\n[role.pump.uplink.v]\n\
                path = \"a/version\"\n";
    place.write("conf.d/60-pump.toml", role);
    let said = place.run("device add pump-1 --role pump --psk text:x").fine();
    assert!(said.contains("-e 1.0.0 ") && said.contains("/a/version"), "no reading is a version: {said}");
    place.write("conf.d/60-pump.toml", &format!("{role}[role.pump.uplink.w]\npath = \"w\"\n"));
    let said = place.run("device add pump-2 --role pump --psk text:x").fine();
    assert!(said.contains("-e 21.5 ") && said.contains("/w"), "{said}");

    let said = place.run("device add mute-1 --role mute --psk text:x").fine();
    assert!(said.contains("# no rule of its role allows a path yet"), "{said}");

    let said = place.run("device add bin-1 --role sensor --psk hex:00ff").fine();
    assert!(!said.contains("-k") && said.contains("2 bytes") && said.contains("00ff"), "{said}");
}

/// What constrained devices take at least: 128 bits in 16 bytes.
#[test]
fn a_key_of_16_bytes_is_made_for_a_device_that_takes_no_longer_one() {
    let place = Place::new();
    let added = place.run("--json device add door-7 --role sensor --psk hex").json();
    let hex = added["psk_hex"].as_str().unwrap().to_owned();
    assert_eq!((hex.len(), &added["psk_text"]), (32, &json!(null)));
    let said = place.run("device add door-8 --role sensor --psk hex").fine();
    let shown = place.run("--json device show door-8 --key").json()["psk_hex"].as_str().unwrap().to_owned();
    assert!(shown.len() == 32 && shown != hex && said.contains(&shown), "{said}");
    let ran = place.run("device add --psk hex --role sensor");
    assert!(!ran.err.contains("device add hex"), "{}", ran.err);
    ran.failed(2, &["<ID>"]);
    let rekeyed = place.run("--json device rekey door-7 --psk hex").json();
    assert!(rekeyed["psk_hex"].as_str().is_some_and(|new| new.len() == 32 && new != hex));
    let made = place.run("device keygen --role sensor --kind psk-hex door-9").fine();
    place.write("new.csv", &made);
    place.run("device import new.csv").fine();
    let key = place.run("--json device show door-9 --key").json()["psk_hex"].as_str().unwrap().to_owned();
    assert!(key.len() == 32 && made.contains(&format!("door-9,sensor,hex:{key}")), "{made}");
}

#[test]
fn a_key_comes_from_standard_input_too_and_is_never_repeated_in_an_error() {
    let place = Place::new();
    let added = place.run_with_input("--json device add a --role sensor --psk -", b"hex:0a0B\n").json();
    assert_eq!((&added["psk_hex"], &added["psk_text"]), (&json!("0a0b"), &json!(null)));
    let wrong = place.run_with_input("device add b --role sensor --psk -", b"topsecret\n");
    assert!(!wrong.err.contains("topsecret"), "{}", wrong.err);
    wrong.failed(2, &["standard input", "text:"]);
    let wrong = place.run("device add b --role sensor --psk topsecret");
    assert!(!wrong.err.contains("topsecret"), "{}", wrong.err);
    wrong.failed(2, &["text:SECRET", "hex:"]);
    assert!(!place.path("state/devices/b.toml").exists());
}

#[test]
fn what_stands_in_the_way_is_named_with_its_place_and_the_way_out() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    place
        .run("device add door-7 --role sensor --psk")
        .failed(1, &["door-7", "devices/door-7.toml", "device remove"]);
    place
        .run("device add door-8 --role sensor --psk --psk-identity door-7")
        .failed(1, &["door-7", "identity"]);
    place.run("device add door-8 --role senser --psk").failed(1, &["senser", "sensor"]);
    place.run("device add -x --role sensor --psk").failed(2, &["-x"]);
    place.run("device add a/b --role sensor --psk").failed(2, &["a/b", "letters, digits"]);
    place.run("device add gateway --role sensor --psk").failed(1, &["gateway", "reserved"]);
    place.run("device remove door-9").failed(1, &["door-9", "door-7"]);

    place.write("wall.psk", "text:abcdefghijklmnop\n");
    place.write("conf.d/20-wall.toml", "[device.wall]\nrole = \"sensor\"\npsk-file = \"../wall.psk\"\n");
    place.run("device remove wall").failed(1, &["20-wall.toml:1", "device.wall", "reload"]);
    place.run("device add wall --role sensor --psk").failed(1, &["20-wall.toml:1"]);
    assert_eq!(place.run("--json device show wall").json()["source"], "configuration");
}

#[test]
fn a_configuration_that_cannot_be_used_ends_with_78_and_names_file_line_and_key() {
    let place = Place::new();
    place.write("conf.d/30-wrong.toml", "[coap]\nmax-sessions = 0\n");
    for line in ["device list", "device add a --role sensor --psk", "acl explain a POST t"] {
        place.run(line).failed(78, &["30-wrong.toml:2", "max-sessions", "tombolo.toml check"]);
    }
    let place = Place::new();
    std::fs::remove_file(place.path("tombolo.toml")).unwrap();
    place.run("device list").failed(78, &["tombolo.toml", "--config", "tombolo.toml init"]);
}

#[test]
fn names_from_files_cannot_draw_on_the_terminal() {
    let place = Place::new();
    place.run("device add a --role sensor --psk --label \u{1b}[2Jx").failed(2, &["--label"]);
    place.write("conf.d/1.toml", "[device.b]\nrole = \"sensor\"\nlabel = \"\\u001b[2J\"\n");
    let listed = place.run("device list");
    assert!(!listed.out.contains('\x1b') && !listed.err.contains('\x1b'));
}

#[test]
fn an_id_that_is_written_behind_psk_is_recognised() {
    let place = Place::new();
    let ran = place.run("device add --psk door-7 --role sensor");
    ran.failed(
        2,
        &["the device's id comes before --psk", "tombolo.toml device add door-7 --role ROLE --psk"],
    );
}

#[test]
fn with_json_an_error_is_an_object_too() {
    let place = Place::new();
    let error = |line: &str, status: i32| {
        let ran = place.run(line);
        assert_eq!(ran.status, status, "{}{}", ran.out, ran.err);
        let object: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        object["error"].clone()
    };
    assert_eq!(error("--json device remove door-9", 1)["code"], "failed");
    assert_eq!(error("--json device add a/b --role sensor --psk", 2)["code"], "usage");
    assert_eq!(error("--json device add", 2)["code"], "usage");
    place.write("conf.d/30-wrong.toml", "[coap]\nmax-sessions = 0\n");
    let wrong = error("--json device list", 78);
    assert_eq!((&wrong["code"], &wrong["findings"][0]["line"]), (&json!("configuration"), &json!(2)));
}

#[test]
fn a_registry_that_this_user_cannot_read_is_no_empty_one() {
    use std::os::unix::process::CommandExt as _;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    for line in ["device list", "device show door-7"] {
        let output = place.command(line).uid(65_534).gid(65_534).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot be read by this user") && said.contains("or as root"), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_identity_in_hexadecimal_means_bytes_on_the_command_line_as_in_a_file() {
    let place = Place::new();
    let added =
        place.run("device add meter --role sensor --psk text:sesame-sesame --psk-identity hex:00ff").fine();
    assert!(added.contains("identity hex:00ff") && !added.contains("coap-client-"), "{added}");
    assert!(place.read("state/devices/meter.toml").contains("psk-identity = \"hex:00ff\""));
    // One that can be text is the same as the text.
    place.run("device add lamp --role sensor --psk text:sesame-sesame --psk-identity hex:6c616d70").fine();
    let listed = place.run("--json device list").fine();
    assert!(listed.contains("\"psk_identity\":\"hex:00ff\""), "{listed}");
    assert!(listed.contains("\"psk_identity\":\"lamp\""), "{listed}");
    // The same identity in a file is the same identity.
    place.write("d.psk", "text:sesame-sesame");
    place.write(
        "conf.d/10.toml",
        "[device.other]\nrole = \"sensor\"\npsk-file = \"../d.psk\"\npsk-identity = \"hex:00ff\"\n",
    );
    let checked = place.run("check --offline");
    assert!(checked.out.contains("identity") && checked.status == 1, "{}", checked.out);
    for wrong in ["hex:", "hex:0", "hex:zz"] {
        let line = format!("device add x --role sensor --psk --psk-identity {wrong}");
        place.run(&line).failed(2, &["--psk-identity takes 1 to 128 bytes of text, or hex:"]);
    }
}

#[test]
fn where_there_is_nothing_to_choose_from_a_message_lists_nothing() {
    let place = Place::new();
    let config = place.read("tombolo.toml");
    place.write("tombolo.toml", config.split("[role.sensor.uplink.telemetry]").next().unwrap());
    place.run("device add x --role sensor --psk").failed(1, &["no role is configured: add a [role.NAME]"]);
    for line in ["device show x", "device remove x", "acl explain x POST t"] {
        let ran = place.run(line);
        let said = format!("{}{}", ran.out, ran.err);
        assert!(!said.contains("there are: \n") && !said.contains(": \n"), "{line}: {said}");
    }
}

#[test]
fn a_message_about_a_device_that_does_not_exist_names_it_once() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    for command in [
        "device show nosuch",
        "device remove nosuch",
        "device set nosuch --label x",
        "device enable nosuch",
        "device disable nosuch",
        "device rekey nosuch --psk",
        "device rekey nosuch --password",
        "device key list nosuch",
        "device key remove nosuch abcdef",
    ] {
        let ran = place.run(command);
        assert_eq!(ran.err.matches("nosuch").count(), 1, "{command}: {}", ran.err);
        ran.failed(1, &["device list` names all"]);
    }
    place.run("device remove door-8").failed(1, &["did you mean door-7?"]);
    // So does one about a device that exists already, beside its file and the way out.
    place.run("device add door-7 --role sensor --psk").failed(
        1,
        &[
            "device door-7: it exists already; `tombolo",
            "device rekey door-7 --psk`",
            "device remove door-7`",
        ],
    );
}

#[test]
fn a_role_that_a_fault_disables_is_not_called_missing() {
    let place = Place::new();
    place.write("conf.d/50.toml", "[role.sensor]\nmax-payload = \"2MiB\"\n");
    let ran = place.run("device add door-7 --role sensor --psk");
    assert!(!ran.err.contains("there is no role"), "{}", ran.err);
    ran.failed(
        1,
        &["device door-7: a fault disables the role \"sensor\"", "50.toml:2", "max-payload", "2MiB"],
    );
}

#[test]
fn a_device_is_disabled_though_a_fault_disables_its_role() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    place.write("conf.d/50.toml", "[role.sensor]\nmax-payload = \"2MiB\"\n");
    let ran = place.run("device disable door-7");
    assert!(ran.out.contains("disabled door-7"), "{}{}", ran.out, ran.err);
    place.run("device enable door-7").failed(1, &["a fault disables the role \"sensor\"", "50.toml:2"]);
}

#[test]
fn a_device_with_a_token_key_alone_can_prove_who_it_is_and_keys_are_made_into_a_folder_that_is_there() {
    let place = Place::new();
    let missing = place.run("device keygen --kind jwt --keys nowhere cam-1");
    assert_eq!(missing.out, "", "nothing that would be imported");
    missing.failed(1, &["nowhere is no folder", "--keys"]);
    std::fs::create_dir(place.path("keys")).unwrap();
    let made = place.run("device keygen --role sensor --kind jwt --keys keys cam-1").fine();
    place.write("cam.csv", &made);
    place.run("device import cam.csv").fine();
    let said = place.run("check --offline").out;
    assert!(!said.contains("nothing says how these prove who they are"), "{said}");

    // Taken away, it has none.
    let key = place.run("--json device key list cam-1").json()["key"].as_str().unwrap().to_owned();
    place.write("ed.pem", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n");
    place.run("device key add cam-1 ed.pem").fine();
    let first = place.run(&format!("device key remove cam-1 {key}"));
    assert!(!first.err.contains("no credential"), "it has another: {}", first.err);
    first.fine();
    let other = place.run("--json device key list cam-1").json()["key"].as_str().unwrap().to_owned();
    let last = place.run(&format!("device key remove cam-1 {other}"));
    assert!(last.err.contains("cam-1 has no credential any more, and cannot connect"), "{}", last.err);
    last.fine();
}

#[test]
fn a_key_that_is_there_already_keeps_its_end_unless_another_one_is_given() {
    let place = Place::new();
    place.write("ed.pem", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n");
    place.run("device add cam-1 --role sensor --password").fine();
    let added = place.run("device key add cam-1 ed.pem --until 2090-01-31").fine();
    assert!(added.contains("added a key for EdDSA to cam-1"), "{added}");
    let kept = place.read("state/devices/cam-1.toml");
    let again = place.run("device key add cam-1 ed.pem --until 2090-01-31").fine();
    assert!(again.contains("already, taken until 2090-01-31T00:00:00Z; nothing was changed"), "{again}");
    let again = place.run("--json device key add cam-1 ed.pem --until 2090-01-31").json();
    assert_eq!((&again["added"], &again["until"]), (&json!(false), &json!("2090-01-31T00:00:00Z")));
    // Without an end it would be taken for ever.
    place.run("device key add cam-1 ed.pem").failed(
        1,
        &[
            "already, until 2090-01-31T00:00:00Z; --until changes that",
            "device key remove cam-1 a1e9156054e0`",
        ],
    );
    assert_eq!(place.read("state/devices/cam-1.toml"), kept);
    let moved = place.run("device key add cam-1 ed.pem --until 2091-01-31").fine();
    let said = "it was taken until 2090-01-31T00:00:00Z and is taken until 2091-01-31T00:00:00Z now";
    assert!(moved.contains("already: ") && moved.contains(said), "{moved}");
    let moved = place.run("--json device key add cam-1 ed.pem --until 2092-01-31").json();
    assert_eq!(moved["until_before"], "2091-01-31T00:00:00Z");
    assert_eq!(place.read("state/devices/cam-1.toml"), kept.replace("2090", "2092"), "it stays as old");
}

#[test]
fn check_names_devices_that_have_the_same_key_for_tokens() {
    let place = Place::new();
    std::fs::create_dir(place.path("keys")).unwrap();
    let made = place.run("device keygen --role sensor --kind jwt --keys keys cam-1 cam-2").fine();
    let copied = made.lines().nth(1).unwrap().replace("cam-1", "cam-3");
    place.write("cams.csv", &made);
    place.run("device import cams.csv").fine();
    let said = place.run("check --offline").out;
    assert!(!said.contains("the same key for tokens"), "{said}");
    place.write("more.csv", &format!("id,role,jwt-key\n{copied}\n"));
    place.run("device import more.csv").fine();
    let said = place.run("check --offline").out;
    assert!(said.contains("each can connect as any of them: cam-1, cam-3"), "{said}");
    // A key that has expired is taken of nobody.
    let file = "state/devices/cam-3.toml";
    let key = place.read(file).replace("{ key = ", "{ until = \"2024-01-31T00:00:00Z\", key = ");
    assert!(key.contains("until"), "{key}");
    place.write(file, &key);
    let said = place.run("check --offline").out;
    assert!(!said.contains("the same key for tokens"), "{said}");
}

#[test]
fn a_client_that_may_only_subscribe_is_told_how_to_and_one_on_loopback_where_from() {
    let place = Place::new();
    place.write(
        "conf.d/30-mqtt.toml",
        "[mqtt]\ninsecure-listen = [\"127.0.0.1:1883\"]\n[role.board.local-subscribe.all]\ntopic = \"home/#\"\n\
         [role.lamp.downlink.set]\ntopic = \"{prefix}/{device}/down/set/#\"\npath = \"set/{rest}\"\n\
         [role.switch.local-publish.own]\ntopic = \"home/{device}/+/#\"\n\
         [role.switch.local-publish.not]\ntopic = \"home/+/1/#\"\ndeny = true\n\
         [role.switch.local-publish.other]\ntopic = \"lamps/#\"\n[role.none]\n",
    );
    for (id, line) in [
        ("board", "mosquitto_sub -V mqttv5 -h 127.0.0.1 -p 1883 -u board-1 -P "),
        ("lamp", "mosquitto_sub -V mqttv5 -h 127.0.0.1 -p 1883 -u lamp-1 -P "),
        ("switch", "mosquitto_pub -V mqttv5 -h 127.0.0.1 -p 1883 -u switch-1 -P "),
        ("none", "mosquitto_pub -V mqttv5 -h 127.0.0.1 -p 1883 -u none-1 -P "),
        ("sensor", "mosquitto_pub -V mqttv5 -h 127.0.0.1 -p 1883 -u sensor-1 -P "),
    ] {
        let said = place.run(&format!("device add {id}-1 --role {id} --password")).fine();
        let end = match id {
            "board" => "-d -q 1 -t 'home/#'",
            "lamp" => "-d -q 1 -t 'set/#'",
            "switch" => "-q 1 -t lamps/temperature -m 21.5",
            "none" => "-q 1 -t t/temperature -m 21.5   # no rule of its role allows anything yet",
            _ => "-q 1 -t t/temperature -m 21.5",
        };
        assert_eq!(said.contains("shows its readings as they come"), id == "sensor", "{id}: {said}");
        let printed = said.lines().find(|text| text.trim().starts_with(line));
        assert!(printed.is_some_and(|text| text.ends_with(end)), "{id}: {said}");
        assert!(said.contains("try it, on this machine (Debian package mosquitto-clients)"), "{said}");
    }
}

#[test]
fn a_password_of_keygen_is_kept_as_one_that_device_add_makes_and_a_chosen_one_is_not() {
    let place = Place::new();
    place.run("device add made-here --role sensor --password").fine();
    let made = place.run("device keygen --role sensor --kind password made-there").fine();
    assert!(made.contains("made-there,sensor,generated:"), "{made}");
    place.write("all.csv", &format!("{made}chosen,sensor,text:swordfish-swordfish\n"));
    place.run("device import all.csv").fine();
    let kept = |id: &str| std::fs::read_to_string(place.path(&format!("state/devices/{id}.toml"))).unwrap();
    for (id, form) in [("made-here", "sha256:"), ("made-there", "sha256:"), ("chosen", "$argon2id$")] {
        assert!(kept(id).contains(form), "{id}: {}", kept(id));
    }
    let password = made.trim().rsplit(':').next().unwrap();
    assert!(password.len() == 22 && !kept("made-there").contains(password));
    // Only what has the form of such a password is believed to be one.
    place.write("weak.csv", "id,role,password\nweak,sensor,generated:swordfish\n");
    place.run("device import weak.csv").failed(1, &["weak: password is neither", "keygen"]);
}

#[test]
fn a_second_new_key_takes_the_place_of_one_that_was_not_used_and_says_so() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    let first = place.run("device rekey door-7 --psk --overlap 7d");
    assert!(!first.err.contains("not used yet"), "{}", first.err);
    let said = first.fine();
    // A try from elsewhere would end the key before, which the device still has.
    assert!(said.contains("the first use of the new key ends the one before"), "{said}");
    assert!(said.contains("door-7.2") && !said.contains("coap-client"), "{said}");
    let second = place.run("device rekey door-7 --psk --overlap 7d");
    let note = "another new key, identity door-7.2, which was not used yet as far as its file says (tombolo is \
                not running): that one is not taken any more";
    assert!(second.err.contains(note), "{}", second.err);
    // The one before may be used at any moment: two keys of one identity could not be told apart.
    assert!(second.fine().contains("door-7.3"));
    let same = "device rekey door-7 --psk --psk-identity door-7.3 --overlap 7d";
    place.run(same).failed(1, &["has a new key with the identity door-7.3 already", "--psk-identity"]);
}

#[test]
fn a_password_comes_from_standard_input_too_and_is_never_repeated_in_an_error_or_kept_in_the_clear() {
    let place = Place::new();
    let added =
        place.run_with_input("--json device add app --role sensor --password -", b"text:from-a-pipe\r\n");
    let added = added.json();
    assert_eq!((&added["mqtt_username"], &added["password"]), (&json!("app"), &json!("from-a-pipe")));
    let kept = place.read("state/devices/app.toml");
    assert!(kept.contains("$argon2id$") && !kept.contains("from-a-pipe"), "{kept}");
    let line = "--json device add cam-1 --role sensor --mqtt-username plant/camera --password -";
    let added = place.run_with_input(line, b"text:from-a-pipe").json();
    assert_eq!(added["mqtt_username"], "plant/camera");
    assert!(place.read("state/devices/cam-1.toml").contains("mqtt-username = \"plant/camera\""));
    for wrong in [&b"topsecret\n"[..], b"", b"text:\n", b"text:two\nlines\n", b"text:\xfftopsecret\n"] {
        let ran = place.run_with_input("device add b --role sensor --password -", wrong);
        assert!(!ran.err.contains("topsecret"), "{}", ran.err);
        assert!(
            ran.status != 0 && ran.err.contains("standard input"),
            "{wrong:?}: {} {}",
            ran.status,
            ran.err
        );
    }
    let long = format!("text:{}\n", "x".repeat(256));
    let ran = place.run_with_input("device add b --role sensor --password -", long.as_bytes());
    ran.failed(2, &["standard input", "1 to 255 bytes"]);
    assert!(!place.path("state/devices/b.toml").exists());
}

#[test]
fn a_password_that_is_short_is_warned_of_as_a_key_is() {
    let place = Place::new();
    for line in
        ["device add app --role sensor --password text:short", "device rekey app --password text:brief"]
    {
        let ran = place.run(line);
        assert!(ran.err.contains("the password has only 5 bytes: it may be guessed"), "{line}: {}", ran.err);
        ran.fine();
    }
    let long = place.run("device rekey app --password text:twelve-bytes");
    assert!(!long.err.contains("guessed"), "{}", long.err);
    long.fine();
}

#[test]
fn what_is_made_of_a_mosquitto_can_be_read_by_the_service_and_all_that_is_left_out_is_counted() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    place.write("acl", "topic read x\nuser anna\ntopic write a/#\ntopic read b\nuser bert\ntopic c\n");
    place.run("import mosquitto").failed(2, &["at least one of --password-file", "--acl-file", "--conf"]);
    let hash = "$7$101$oGB4I/cYdnwLBuJr$FwP87im51rvl/wRx64yBq4i4ahrRI7eAuRa3tfWF8ndg/wU3hbcV74f+ZCi+oZjGpCoqA2jGAA3qeNY938K69w==";
    place.write("users", &format!("carl:{hash}\n"));
    place
        .run("import mosquitto --acl-file acl --password-file users --output none")
        .failed(1, &["none/30-", "make that folder"]);
    let said = place.run("import mosquitto --acl-file acl --password-file users").fine();
    assert_eq!(said.matches("not taken over: ").count(), 3, "{said}");
    assert!(said.contains("1 line and the rules of 2 users not taken over"), "{said}");
    let mode = std::fs::metadata(place.path("30-mosquitto.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "the service reads it in conf.d, whoever copies it there");
    let line = "import mosquitto --acl-file acl --password-file users";
    place.run(line).failed(1, &["30-mosquitto.toml", "delete it, or name"]);
    // A terminal is told nothing by what stands there.
    place.write("acl", "user e\x1b[2J\ntopic read \x1b]0;x\x07\ntopic read y\n");
    std::fs::remove_file(place.path("30-mosquitto.toml")).unwrap();
    // The other file is still there: none is written.
    place.run(line).failed(1, &["mosquitto-devices.csv", "delete it, or name"]);
    assert!(!place.path("30-mosquitto.toml").exists());
    std::fs::remove_file(place.path("mosquitto-devices.csv")).unwrap();
    let ran = place.run(line);
    assert!(!ran.err.contains('\x1b'), "{}", ran.err);
    let said = ran.fine();
    assert!(!said.contains('\x1b') && said.contains("\\u{1b}[2J"), "{said}");
}

#[test]
fn an_import_of_a_mosquitto_without_users_fails_and_writes_nothing() {
    let place = Place::new();
    place.write("acl", "user anna\ntopic write a/#\n");
    place.write("users", "anna:plain\n");
    for (line, way_out) in [
        ("import mosquitto --acl-file acl", "name the password file of mosquitto with --password-file"),
        ("--json import mosquitto --acl-file acl", "name the password file"),
        ("import mosquitto --acl-file acl --password-file users", "device add ID --role ROLE --password`"),
    ] {
        place.run(line).failed(1, &["no user was taken over, and no file was written", way_out]);
        assert!(!place.path("30-mosquitto.toml").exists() && !place.path("mosquitto-devices.csv").exists());
    }
}

#[test]
fn an_end_of_a_key_that_is_over_is_refused_with_the_way_out() {
    let place = Place::new();
    place.run("device add cam-1 --role sensor --psk").fine();
    let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    place.write("ed.pem", key);
    place.run("device key add cam-1 ed.pem --until 2026-01-31").failed(
        2,
        &[
            "--until: 2026-01-31T00:00:00Z is over",
            "no token of the key would be taken",
            "device key remove cam-1",
        ],
    );
    assert!(place.run("device key list cam-1").fine().contains("no public keys"));
    place.run("device key add cam-1 ed.pem --until 2099-01-31").fine();
    let info = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    place.write("all.csv", &format!("id,role,jwt-key,jwt-until\ncam-2,sensor,{info},2026-01-31\n"));
    let ran = place.run("device import all.csv");
    assert!(
        ran.status == 1 && ran.err.contains("cam-2: jwt-until: 2026-01-31T00:00:00Z is over"),
        "{}",
        ran.err
    );
}

#[test]
fn an_overlap_of_passwords_is_refused_before_anything_changes() {
    let place = Place::new();
    place.run("device add app --role sensor --password text:twelve-bytes").fine();
    let kept = || std::fs::read_to_string(place.path("state/devices/app.toml")).unwrap();
    let before = kept();
    let ran = place.run("device rekey app --password text:other-twelve --overlap 7d");
    ran.failed(2, &["--overlap", "a device has one password"]);
    assert_eq!(kept(), before);
}

#[test]
fn check_does_not_ask_how_a_child_proves_who_it_is() {
    let place = Place::new();
    place.run("device add hub --role sensor --psk").fine();
    place.write("conf.d/40-leaf.toml", "[device.leaf]\nrole = \"sensor\"\nparent = \"hub\"\n");
    let said = place.run("check --offline").out;
    assert!(!said.contains("nothing says how these prove who they are"), "{said}");
}

#[test]
fn what_a_device_is_known_by_is_set_without_removing_it_and_its_secrets_stay() {
    let place = Place::new();
    place.run("device add flow --role sensor --password text:twelve-bytes").fine();
    place.run("device add door-7 --role sensor --psk text:secret-secret-1").fine();
    let file = |id: &str| std::fs::read_to_string(place.path(&format!("state/devices/{id}.toml"))).unwrap();
    let hash = file("flow").lines().find(|line| line.starts_with("password =")).unwrap().to_owned();

    let set = place.run("--json device set flow --mqtt-username node-red").json();
    assert_eq!(set["mqtt_username"], "node-red");
    assert!(file("flow").contains("mqtt-username = \"node-red\"\n") && file("flow").contains(&hash));
    place.run("device set flow --mqtt-username=").fine();
    assert!(!file("flow").contains("mqtt-username") && file("flow").contains(&hash));

    let issuer = "CN=site";
    let set = "device set door-7 --certificate-dns door-7.example --certificate-issuer";
    let set = place.run(&format!("--json {set} {issuer}")).json();
    assert_eq!(set["certificate"], json!({ "dns": "door-7.example", "issuer": issuer }));
    // The issuer stays with another name, and goes alone.
    let set = place.run("--json device set door-7 --certificate-cn door-7").json();
    assert_eq!(set["certificate"], json!({ "cn": "door-7", "issuer": issuer }));
    let set = place.run("--json device set door-7 --certificate-issuer=").json();
    assert_eq!(set["certificate"], json!({ "cn": "door-7", "issuer": null }));
    let key = format!("sha256:{}", "ab".repeat(32));
    let set = place.run(&format!("--json device set door-7 --certificate-cn= --public-key {key}")).json();
    assert_eq!((&set["certificate"], &set["public_key"]), (&json!(null), &json!(key)));
    assert!(file("door-7").contains("secret-secret-1"));
}

#[test]
fn what_device_set_cannot_do_is_refused_with_the_way_out_and_changes_nothing() {
    let place = Place::new();
    place.run("device add flow --role sensor --password text:twelve-bytes --mqtt-username node-red").fine();
    place.run("device add other --role sensor --password text:twelve-bytes").fine();
    place.run("device add door-7 --role sensor --certificate-dns door-7.example").fine();
    place.run("device add door-8 --role sensor --psk text:secret-secret-1").fine();
    let all = || {
        let ids = ["flow", "other", "door-7", "door-8"];
        ids.map(|id| std::fs::read_to_string(place.path(&format!("state/devices/{id}.toml"))).unwrap())
    };
    let before = all();
    for (line, status, said) in [
        ("other --mqtt-username node-red", 1, ["device flow has the same MQTT user name", "flow.toml"]),
        ("other --label x --mqtt-username node-red", 1, ["MQTT user name", "one of its own"]),
        (
            "door-8 --certificate-dns door-7.example",
            1,
            ["device door-7 has the same certificate", "door-7.toml"],
        ),
        ("door-8 --mqtt-username x", 1, ["no MQTT password", "device rekey door-8 --password"]),
        ("door-8 --certificate-issuer CN=x", 1, ["no certificate", "--certificate-dns"]),
        ("door-7 --certificate-dns=", 1, ["nothing left to be known by", "device disable door-7"]),
        ("door-7 --certificate-cn= --certificate-issuer CN=x", 2, ["--certificate-issuer", "takes it away"]),
        ("door-7 --certificate-issuer nonsense", 2, ["--certificate-issuer", "openssl x509 -noout -issuer"]),
        ("door-8 --public-key sha256:00", 2, ["--public-key", "64 hexadecimal digits"]),
        ("door-8 --psk", 2, ["device rekey door-8 --psk", "nothing was changed"]),
        (
            "door-8 --label x --psk text:another-secret",
            2,
            ["device rekey door-8 --psk", "nothing was changed"],
        ),
        ("other --password", 2, ["device rekey other --password", "nothing was changed"]),
        ("other --jwt-key a.pem", 2, ["device key add other FILE", "nothing was changed"]),
        ("nosuch --mqtt-username x", 1, ["it does not exist", "device list` names all"]),
    ] {
        let ran = place.run(&format!("device set {line}"));
        assert!(!ran.err.contains("another-secret"), "{line}: {}", ran.err);
        ran.failed(status, &said);
        assert!(all() == before, "{line} changed something");
    }
}

#[test]
fn each_key_has_an_age_of_its_own_also_while_there_are_two() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    let file = "state/devices/door-7.toml";
    let text = place.read(file);
    let since = text.split_once("psk-since = \"").unwrap().1.split_once('"').unwrap().0.to_owned();
    place.write(file, &text.replace(&since, "2025-02-01T00:00:00Z"));
    let ages = || {
        let listed = place.run("--json device list --key-age").fine();
        let each = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let all = listed.lines().map(each);
        all.map(|key| (key["kind"].to_string(), key["since"].to_string())).collect::<Vec<_>>()
    };
    place.run("device rekey door-7 --psk --overlap 7d").fine();
    let two = ages();
    assert_eq!(two[0], ("\"PSK\"".to_owned(), "\"2025-02-01T00:00:00Z\"".to_owned()));
    assert!(two.len() == 2 && two[1].0 == "\"next PSK\"" && two[1].1 > two[0].1, "{two:?}");
    // Without an overlap the new key is the only one at once.
    place.run("device rekey door-7 --psk").fine();
    let one = ages();
    assert!(one.len() == 1 && one[0].1 >= two[1].1 && !place.read(file).contains("next-psk"), "{one:?}");
}

#[test]
fn a_short_key_is_warned_of_wherever_it_comes_from() {
    let place = Place::new();
    let warning = "the key has only 5 bytes: it may be guessed";
    let added = place.run("device add a --role sensor --psk text:short");
    assert!(added.err.contains(warning), "{}", added.err);
    place.run("device rekey a --psk").fine();
    let rekeyed = place.run("device rekey a --psk text:short");
    assert!(rekeyed.err.contains(warning), "{}", rekeyed.err);
    let rekeyed = place.run("device rekey a --psk text:short --overlap 1h");
    assert!(rekeyed.err.contains(warning), "{}", rekeyed.err);
    let good = place.run("device rekey a --psk hex");
    assert!(!good.err.contains("guessed"), "{}", good.err);
    place.write("new.csv", "id,role,psk\nb,sensor,text:short\nc,sensor,hex:00ff\nd,sensor,generate\n");
    for line in ["device import new.csv --dry-run", "device import new.csv"] {
        let imported = place.run(line);
        let err = &imported.err;
        assert!(
            imported.status == 0 && err.contains("b: the key has only 5 bytes: it may be guessed"),
            "{err}"
        );
        assert!(err.contains("as `generate` makes them; 1 more device has such a key"), "{err}");
    }
    place.write("weak.csv", "id,role,password\ne,sensor,text:pw\n");
    let imported = place.run("device import weak.csv");
    assert!(imported.err.contains("e: the password has only 2 bytes"), "{}", imported.err);
    // The way out keeps the device.
    let said = place.run("check --security").out;
    assert!(said.contains("pre-shared keys of less than 16 bytes: b, c"), "{said}");
    assert!(said.contains("device rekey ID --psk") && !said.contains("device remove ID"), "{said}");
}

#[test]
fn an_import_makes_keys_of_16_bytes_too() {
    let place = Place::new();
    place.write("new.csv", "id,role,psk\na,sensor,generate-hex\nb,sensor,generate\n");
    assert_eq!(
        place.run("device import new.csv --dry-run").fine(),
        "2 devices can be imported; nothing was changed\n"
    );
    let said = place.run("device import new.csv").fine();
    let made: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let key = place.run("--json device show a --key").json()["psk_hex"].as_str().unwrap().to_owned();
    assert_eq!((key.len(), &made["psk"]), (32, &json!(format!("hex:{key}"))), "{said}");
    assert_eq!(place.run("--json device show b --key").json()["psk_text"].as_str().unwrap().len(), 22);
}

#[test]
fn a_folder_for_private_keys_is_refused_where_none_are_made() {
    let place = Place::new();
    for kind in ["", "--kind psk-hex ", "--kind password "] {
        let ran = place.run(&format!("device keygen --role sensor {kind}--keys 3 a"));
        assert_eq!(ran.out, "");
        ran.failed(2, &["--keys", "--kind jwt", "each ID"]);
    }
}

#[test]
fn rekey_gives_a_device_without_a_pre_shared_key_its_first() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --certificate-dns door-7.example").fine();
    place.run("device rekey door-7 --psk --overlap 7d").failed(1, &["door-7", "without --overlap"]);
    assert!(place.run("device rekey door-7 --psk text:secret-secret-1").fine().contains("has a first key"));
    let shown = place.run("--json device show door-7 --key").json();
    assert_eq!((&shown["psk_identity"], &shown["psk_text"]), (&json!("door-7"), &json!("secret-secret-1")));
    assert_eq!(shown["certificate"]["dns"], "door-7.example");
}

#[test]
fn what_adding_prints_as_json_is_imported_as_the_same_device() {
    let place = Place::new();
    let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    place.write("ed.pem", key);
    let hash = "0123456789abcdef".repeat(4);
    let all = [
        "--psk".to_owned(),
        "--psk hex --psk-identity hex:00ff --label north --tag site=a --tag hall=2".to_owned(),
        "--password".to_owned(),
        "--password text:generate-generate --mqtt-username the-app".to_owned(),
        "--certificate-dns x.example --certificate-issuer CN=ca".to_owned(),
        format!("--public-key sha256:{hash} --parent hub"),
        "--jwt-key ed.pem --psk".to_owned(),
    ];
    let kept = || {
        let text = place.read("state/devices/x.toml");
        text.split(['\n', ',']).filter(|part| !part.contains("since")).collect::<Vec<_>>().join("\n")
    };
    for arguments in all {
        let added = place.run(&format!("--json device add x --role sensor {arguments}")).fine();
        let before = kept();
        place.run("device remove x").fine();
        place.write("x.json", &added);
        place.run("device import x.json").fine();
        assert_eq!(kept(), before, "{added}");
        place.run("device remove x").fine();
    }
    // Two that contradict each other are not guessed at.
    place.write("x.json", "{\"id\":\"x\",\"role\":\"sensor\",\"psk\":\"hex:00\",\"psk_hex\":\"01\"}");
    place.run("device import x.json").failed(1, &["x.json:1", "psk", "psk_hex"]);
}

#[test]
fn faults_of_an_import_are_in_the_order_of_lines_and_objects_in_json() {
    let place = Place::new();
    place.write(
        "x.csv",
        "id,role,psk\na,none,generate\nb\nc d,sensor,generate\ne,sensor,generate,more\nf,sensor,generate\n",
    );
    let ran = place.run("device import x.csv");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(
        ran.status == 1 && lines[lines.len() - 1].contains("4 faults; nothing was imported"),
        "{}",
        ran.err
    );
    for (line, at) in lines.iter().zip(2..6) {
        assert!(line.starts_with(&format!("x.csv:{at}: ")), "{}", ran.err);
    }
    let ran = place.run("--json device import x.csv");
    let said: serde_json::Value = serde_json::from_str(&ran.err).expect("one object");
    let faults = said["error"]["faults"].as_array().expect("faults");
    let lines: Vec<u64> = faults.iter().filter_map(|fault| fault["line"].as_u64()).collect();
    assert_eq!(lines, [2, 3, 4, 5], "{said}");
    assert!(faults[1]["message"].as_str().is_some_and(|what| what.starts_with("has 1 field,")), "{said}");
}

#[test]
fn check_security_names_all_devices_of_weak_keys_in_json() {
    let place = Place::new();
    let all: String = (10..18).map(|id| format!("w-{id},sensor,text:short\n")).collect();
    place.write("weak.csv", &format!("id,role,psk\n{all}"));
    place.run("device import weak.csv").fine();
    let said = place.run("--json check --security").out;
    assert!(said.contains("w-16, w-17") && !said.contains("more"), "{said}");
    let said = place.run("check --security").out;
    assert!(said.contains("w-14 and 3 more"), "{said}");
}

#[test]
fn a_key_that_repeats_a_pattern_is_called_weak_everywhere() {
    let place = Place::new();
    let added = place.run("device add a --role sensor --psk text:aaaaaaaaaaaaaaaa");
    assert!(added.err.contains("the key is one character, repeated: it may be guessed"), "{}", added.err);
    let rekeyed = place.run("device rekey a --psk text:abcabcabcabcabcabc");
    assert!(rekeyed.err.contains("the key is 3 characters, repeated"), "{}", rekeyed.err);
    place.write("new.csv", "id,role,psk\nb,sensor,text:12341234123412341234\n");
    let imported = place.run("device import new.csv");
    assert!(imported.err.contains("b: the key is 4 characters, repeated"), "{}", imported.err);
    for (key, what) in [
        ("aaaaaaaabbbbbbbb", "has only 2 different bytes"),
        ("a1b2c3d4e5f6g7h8", "is a sequence, or a common word with digits"),
    ] {
        let rekeyed = place.run(&format!("device rekey a --psk text:{key}"));
        assert!(rekeyed.err.contains(&format!("the key {what}: it may be guessed")), "{}", rekeyed.err);
    }
    let said = place.run("check --security").out;
    assert!(
        said.contains("pre-shared keys that are a sequence, a pattern or of very few characters: a, b"),
        "{said}"
    );
}

#[test]
fn a_role_that_is_not_there_is_named_with_the_line_of_the_import() {
    let place = Place::new();
    place.write("new.csv", "id,role,psk\na,sensor,generate\nb,sensr,generate\n");
    let said = place.run("device import new.csv");
    assert_eq!(said.status, 1);
    let wanted = "new.csv:3: device b: there is no role \"sensr\"";
    assert!(said.err.contains(wanted), "{}", said.err);
}

#[test]
fn a_device_of_the_configuration_is_switched_off_where_it_is_written() {
    let place = Place::new();
    place.write("a.psk", "text:0123456789abcdef");
    place.write("conf.d/40-a.toml", "[device.a]\nrole = \"sensor\"\npsk-file = \"../a.psk\"\n");
    place.run("device disable a").failed(
        1,
        &[
            "40-a.toml:1: device a is in the configuration; write enabled = false into [device.a] there",
            "conf.d",
            "reload",
        ],
    );
    place.write("conf.d/90-a.toml", "[device.a]\nenabled = false\n");
    place.run("device enable a").failed(
        1,
        &["device a is switched off by ", "90-a.toml:2; take enabled = false out of [device.a] there"],
    );
    place.run("device disable a").failed(1, &["device a is switched off already, by ", "90-a.toml:2"]);
    place.run("device add a --role sensor --psk").failed(1, &["90-a.toml:2 switches off the device a"]);
}

#[test]
fn a_device_that_the_configuration_switches_off_is_listed_and_shown_with_the_place_that_says_so() {
    let place = Place::new();
    place.write("a.psk", "text:0123456789abcdef");
    place.write(
        "conf.d/40-a.toml",
        "[device.a]\nrole = \"sensor\"\npsk-file = \"../a.psk\"\nenabled = false\n",
    );
    // One of a fleet has nothing else there.
    place.write("conf.d/50-b.toml", "[device.b]\nenabled = false\n");
    let list = place.run("device list").fine();
    let line = |id: &str| list.lines().find(|line| line.starts_with(id)).unwrap_or_default().to_owned();
    assert!(line("a ").contains("sensor") && line("a ").contains("40-a.toml:4"), "{list}");
    assert!(line("b ").contains("switched off: ") && line("b ").contains("50-b.toml:2"), "{list}");
    let shown = place.run("device show a").fine();
    assert!(shown.contains("40-a.toml:4 (enabled = false)"), "{shown}");
    let json = place.run("device list --json").fine();
    assert_eq!(json.lines().filter(|line| line.contains("\"switched_off\":true")).count(), 2, "{json}");
}

#[test]
fn no_line_is_printed_that_the_certificate_of_the_gateway_lets_fail() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    for (name, is_printed) in [("other.example", false), ("localhost", true)] {
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        place.write("mqtt.pem", &params.self_signed(&key).expect("a certificate").pem());
        place.write("mqtt.key", &key.serialize_pem());
        let files = "[mqtt]\nlisten = [\"127.0.0.1:8883\"]\ncertificate-file = \"../mqtt.pem\"\nkey-file = \"../mqtt.key\"\n";
        place.write("conf.d/40-mqtt.toml", files);
        let said = place.run(&format!("device add {} --role sensor --password", &name[..5])).fine();
        assert_eq!(said.contains("mosquitto_pub"), is_printed, "{said}");
        assert_eq!(
            said.contains("put a certificate with a name or address of this gateway"),
            !is_printed,
            "{said}"
        );
    }
}

#[test]
fn a_device_that_a_file_switches_off_is_said_to_stay_off_whatever_its_own_file_says() {
    let place = Place::new();
    place.run("device add f1 --role sensor --psk").fine();
    place.write("conf.d/63.toml", "[device.f1]\nenabled = false\n");
    for line in ["device enable f1", "device set f1 --label x", "device rekey f1 --psk"] {
        let said = place.run(line).fine();
        let stays =
            said.contains("it stays switched off by ") && said.contains("63.toml:2 (enabled = false)");
        assert!(stays && !said.contains("try it"), "{line}: {said}");
    }
    let object = place.run("--json device enable f1").json();
    assert!(object["stays_off"].as_str().is_some_and(|text| text.contains("63.toml:2")), "{object}");
    place.write("conf.d/63.toml", "");
    place.run("device disable f1").fine();
    let said = place.run("device set f1 --label y").fine();
    assert!(said.contains("it stays disabled until") && said.contains("device enable f1"), "{said}");
    let said = place.run("device enable f1").fine();
    assert!(said.contains("enabled f1; tombolo is not running") && !said.contains("stays"), "{said}");
}

#[test]
fn a_certificate_file_without_its_key_is_no_pair_that_cannot_be_used_and_what_lacks_is_named() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["gw.example".to_owned()]).expect("a name");
    place.write("gw.pem", &params.self_signed(&key).expect("a certificate").pem());
    place.write("conf.d/40-coap.toml", "[coap]\ncertificate-file = \"../gw.pem\"\n");
    for (line, id) in [("device add", "a"), ("--json device add", "b")] {
        let ran = place.run(&format!("{line} {id} --role sensor --certificate-dns {id}.example"));
        let lacks = "coap.key-file, coap.client-ca-file are missing: no device can connect";
        assert!(ran.err.contains(lacks) && !ran.err.contains("cannot be used"), "{}", ran.err);
        ran.fine();
    }
    place.write("gw.key", "no key");
    place
        .write("conf.d/40-coap.toml", "[coap]\ncertificate-file = \"../gw.pem\"\nkey-file = \"../gw.key\"\n");
    let ran = place.run("device add c --role sensor --certificate-dns gate.example");
    assert!(ran.err.contains("coap.key-file and coap.certificate-file cannot be used"), "{}", ran.err);
}
