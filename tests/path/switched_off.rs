//! A device that the configuration switches off, whatever else defines it.

use super::Site;
use tombolo_test_support::wait_for;

const KEY: &str = "open-open-open-8";

fn post(site: &Site, path: &str) -> bool {
    site.coap_client("coap-client-openssl", "door-8", KEY, &["-m", "post", "-e", "1"], path).contains("2.04")
}

fn run(site: &Site, arguments: &[&str]) -> (i32, String) {
    site.daemon.command(arguments)
}

#[test]
fn a_device_of_the_registry_that_a_configuration_file_switches_off_is_off_everywhere() {
    let site = Site::new("switched-off", "");
    wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    let (status, text) =
        run(&site, &["device", "add", "door-8", "--role", "sensor", "--psk", &format!("text:{KEY}")]);
    assert_eq!(status, 0, "{text}");
    assert!(post(&site, "t/before"));
    wait_for("the reading", || !site.arrived("tombolo/gw/door-8/up/t/before").is_empty());

    let file = "conf.d/30.toml";
    site.folder.write(file, "[device.door-8]\nrole = \"sensor\"\nenabled = false\n");
    let (status, text) = run(&site, &["reload"]);
    assert_eq!(status, 0, "{text}");
    assert!(!post(&site, "t/after"));
    wait_for("no session of it", || site.daemon.status()["devices"]["sessions"] == 0);
    let status = site.daemon.status();
    assert_eq!(status["devices"]["known"], 1);
    assert_eq!(status["devices"]["switched_off_ids"], serde_json::json!(["door-8"]));
    let (_, text) = run(&site, &["status"]);
    assert!(text.contains("switched off: door-8; "), "{text}");
    let (_, text) = run(&site, &["acl", "explain", "door-8", "POST", "t/after"]);
    assert!(text.contains("door-8 is switched off by") && text.contains("30.toml:3"), "{text}");
    let (status, text) = run(&site, &["device", "test", "door-8"]);
    assert!(status != 0 && text.contains("door-8 is switched off or disabled"), "{text}");
    let (_, text) = run(&site, &["device", "list"]);
    let row = text.lines().find(|line| line.starts_with("door-8")).unwrap_or_default();
    assert!(row.contains("switched off: ") && row.contains("30.toml:3"), "{text}");
    let (status, text) = run(&site, &["check"]);
    assert_eq!(status, 0, "{text}");
    let of = |line: &&str| line.starts_with("warn") && line.contains("device.door-8.enabled: switches off");
    assert!(text.lines().any(|line| of(&line)), "{text}");

    let elsewhere = "[device.door-8]\nenabled = false\n[device.door-9]\nenabled = false\n";
    site.folder.write(file, elsewhere);
    let (status, text) = run(&site, &["device", "add", "door-9", "--role", "sensor", "--psk"]);
    assert!(status == 1 && text.contains("30.toml:4 switches off the device door-9"), "{text}");
    std::fs::remove_file(site.folder.join(file)).unwrap();
    assert_eq!(run(&site, &["reload"]).0, 0);
    assert!(post(&site, "t/again"));
    wait_for("the reading", || !site.arrived("tombolo/gw/door-8/up/t/again").is_empty());
    assert!(site.arrived("tombolo/gw/door-8/up/t/after").is_empty());

    // By a command, which another one takes back.
    assert_eq!(run(&site, &["device", "disable", "door-8"]).0, 0);
    let (_, text) = run(&site, &["acl", "explain", "door-8", "POST", "t/after"]);
    assert!(text.contains("device enable door-8") && !text.contains("enabled = false"), "{text}");
    let (status, text) = run(&site, &["device", "test", "door-8"]);
    assert!(status != 0 && text.contains("door-8 is switched off or disabled"), "{text}");
}

#[test]
fn a_device_is_cut_off_by_a_command_also_while_the_configuration_cannot_be_used() {
    let site = Site::new("cut-off", "");
    wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    for id in ["door-8", "door-9"] {
        let key = format!("text:{KEY}");
        let (status, text) = run(&site, &["device", "add", id, "--role", "sensor", "--psk", &key]);
        assert_eq!(status, 0, "{text}");
    }
    let post = |id: &str| {
        site.coap_client("coap-client-openssl", id, KEY, &["-m", "post", "-e", "1"], "t/x").contains("2.04")
    };
    assert!(post("door-8") && post("door-9"));

    let broken = "conf.d/30.toml";
    site.folder.write(broken, "[role.other\n= \n");
    for (arguments, id) in
        [(["device", "disable", "door-8"], "door-8"), (["device", "remove", "door-9"], "door-9")]
    {
        let (status, text) = run(&site, &arguments);
        assert_eq!(status, 0, "{text}");
        assert!(text.contains("30.toml:1") && text.contains("its sessions are closed"), "{text}");
        assert!(!post(id), "{text}");
    }
    wait_for("no session of either", || site.daemon.status()["devices"]["sessions"] == 0);
    let status = site.daemon.status();
    assert_eq!(status["devices"]["known"], 1, "the one of the configuration: {status}");
    // The fault is still a problem, and named.
    assert!(status["problems"].to_string().contains("30.toml:1"), "{}", status["problems"]);
    let log = site.daemon.log();
    for part in ["audit=device-disabled", "audit=device-removed", "cut off all the same"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    // It is no way to let one in, nor to change one that is nowhere.
    assert_ne!(run(&site, &["device", "enable", "door-8"]).0, 0);
    let (status, text) = run(&site, &["device", "disable", "../door-8"]);
    assert!(status == 2 && text.contains("is not a device id"), "{text}");
    let (status, text) = run(&site, &["device", "disable", "door-7"]);
    assert!(status == 78 && text.contains("has no file in") && text.contains("30.toml:1"), "{text}");
    assert!(!post("door-8") && !post("door-9"));

    std::fs::remove_file(site.folder.join(broken)).expect("it is there");
    assert_eq!(run(&site, &["reload"]).0, 0);
    assert!(!post("door-8") && !post("door-9"));
    assert_eq!(run(&site, &["device", "enable", "door-8"]).0, 0);
    assert!(post("door-8"));
}
