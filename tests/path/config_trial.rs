//! `config apply` and `reload` of files that would end what works, or that are edited meanwhile.

use std::process::{Command, Stdio};

use super::{Site, binary};
use tombolo_test_support::wait_for;

fn apply(site: &Site, file: &str, more: &[&str]) -> std::process::Child {
    let mut command = Command::new(binary());
    command.arg("--config").arg(site.daemon.config()).args(["config", "apply"]).arg(site.folder.join(file));
    command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn ended(child: std::process::Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn connected(site: &Site) -> bool {
    site.daemon.status()["upstream"]["connected"] == true
}

fn devices(site: &Site) -> u64 {
    site.daemon.status()["devices"]["known"].as_u64().unwrap_or_default()
}

#[test]
fn a_file_that_disables_what_works_is_refused_by_name_unless_that_is_meant() {
    let site = Site::new("apply-loss", "");
    wait_for("the broker", || connected(&site));
    assert_eq!(devices(&site), 1);
    for (file, text, words) in [
        ("new/50-role.toml", "[role.sensor]\nmax-payload = \"1MiB\"\n", "device door-7; role sensor"),
        ("new/51-device.toml", "[device.door-7]\nrole = \"nobody\"\n", "device door-7"),
        ("new/52-off.toml", "[device.door-7]\nenabled = false\n", "device door-7"),
        ("new/53-mute.toml", "[coap]\nlisten = []\n", "the coaps listener"),
    ] {
        site.folder.write(file, text);
        let (status, said) = ended(apply(&site, file, &["--confirm", "60s"]));
        assert!(matches!(status, Some(1 | 78)), "{file} {said}");
        let name = file.rsplit('/').next().unwrap();
        assert!(!site.folder.join(&format!("conf.d/{name}")).exists(), "{file}");
        assert!(!site.folder.join("state/config-trial.json").exists(), "{file}");
        if status == Some(1) {
            assert!(said.contains("nothing was changed: these work now and would not any more"), "{said}");
            assert!(said.contains(words) && said.contains("--accept-removal"), "{said}");
        }
        assert_eq!(devices(&site), 1, "{file}");
    }
    let (status, said) = ended(apply(&site, "new/52-off.toml", &["--accept-removal", "--confirm", "60s"]));
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(devices(&site), 0);
}

#[test]
fn a_reload_that_leaves_something_disabled_says_what_and_has_its_own_exit_status() {
    let site = Site::new("reload-partly", "");
    wait_for("the broker", || connected(&site));
    site.folder.write("conf.d/50-role.toml", "[role.sensor]\nmax-payload = \"1MiB\"\n");
    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("reloaded, but") && text.contains("50-role.toml:2"), "{text}");
    assert!(text.contains("device.door-7"), "{text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("50-role.toml:2") && text.contains("device.door-7"), "{text}");
    let (status, text) = site.daemon.command(&["check"]);
    assert!(status == 1 && text.contains("device.door-7"), "{text}");
    let (status, text) = site.daemon.command(&["reload", "--json"]);
    assert!(status == 3 && text.contains("\"partly\""), "{text}");
    std::fs::remove_file(site.folder.join("conf.d/50-role.toml")).unwrap();
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    assert_eq!(devices(&site), 1);
}

#[test]
fn a_file_that_is_edited_during_its_trial_is_not_said_to_be_put_back() {
    let site = Site::new("apply-edited", "");
    wait_for("the broker", || connected(&site));
    let dead = tombolo_test_support::free_tcp_port();
    let lost = format!("[upstream]\nurl = \"mqtts://localhost:{dead}\"\n");
    site.folder.write("conf.d/50-url.toml", "[gateway]\nlabel = \"barn\"\n");
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    site.folder.write("new/50-url.toml", &lost);
    let child = apply(&site, "new/50-url.toml", &["--confirm", "10s"]);
    wait_for("the loss of the broker", || !connected(&site));
    let mine = format!("{lost}[gateway]\nlabel = \"shed\"\n");
    site.folder.write("conf.d/50-url.toml", &mine);
    let (status, text) = site.daemon.command(&["check"]);
    assert!(status == 1 && text.contains("it was changed during its trial"), "{text}");
    let (status, said) = ended(child);
    assert_eq!(status, Some(1), "{said}");
    assert!(!said.contains("is as it was before"), "{said}");
    assert!(said.contains("was changed during its trial; it is left as it is"), "{said}");
    assert!(said.contains("state/config-before-trial.toml"), "{said}");
    let read = |name: &str| std::fs::read_to_string(site.folder.join(name)).unwrap();
    assert_eq!(read("conf.d/50-url.toml"), mine);
    assert_eq!(read("state/config-before-trial.toml"), "[gateway]\nlabel = \"barn\"\n");
}

#[test]
fn a_file_on_trial_is_told_with_the_time_left_and_the_command_by_status_check_and_the_gateways_status() {
    let site = Site::new("apply-told", "");
    wait_for("the broker", || connected(&site));
    let dead = tombolo_test_support::free_tcp_port();
    site.folder.write("new/50-url.toml", format!("[upstream]\nurl = \"mqtts://localhost:{dead}\"\n"));
    // It waits for a broker that never comes, so the trial goes on.
    let mut child = apply(&site, "new/50-url.toml", &["--confirm", "20min"]);
    wait_for("the trial", || site.daemon.status()["trial"]["left_s"].as_u64() > Some(120));
    let told = |text: &str| {
        text.lines().any(|line| {
            ["50-url.toml is on trial for ", " min yet", "config confirm` keeps it"]
                .iter()
                .all(|words| line.contains(words))
        })
    };
    let (_, text) = site.daemon.command(&["status"]);
    assert!(told(&text), "{text}");
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    assert!(text.lines().any(|line| line.starts_with("warn") && told(line)), "{text}");
    let (status, text) = site.daemon.command(&["config", "confirm"]);
    assert_eq!(status, 0, "{text}");
    wait_for("no trial", || site.daemon.status()["trial"].is_null());
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    assert!(!text.contains("is on trial"), "{text}");
    let _ = child.kill();
    let _ = child.wait();
}
