//! A broker that will not take one topic: that record goes aside, durably, and all others flow.

use super::Site;
use tombolo_test_support::wait_for;

#[test]
fn a_topic_the_broker_forbids_ends_in_rejected_and_the_rest_flows() {
    let folder = tombolo_test_support::Folder::new("acl");
    let acl = folder.write("acl", "topic write tombolo/gw/gateway/#\ntopic write tombolo/gw/door-7/up/t/+\ntopic write tombolo/gw/door-7/status\ntopic read #\ntopic write tombolo/witness/#\n");
    let site = Site::with_broker("rejected", "", &format!("acl_file {}", acl.display()));
    site.post(&["-e", "1"], "t/before");
    site.post(&["-e", "2"], "t/deep/forbidden");
    site.post(&["-e", "3"], "t/after");
    wait_for("the others", || {
        !site.arrived("tombolo/gw/door-7/up/t/before").is_empty()
            && !site.arrived("tombolo/gw/door-7/up/t/after").is_empty()
    });
    let rejected = || -> serde_json::Value {
        let (code, text) = site.daemon.command(&["queue", "rejected", "list", "--json"]);
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(text.lines().next().unwrap_or("{}")).unwrap_or_default()
    };
    wait_for("the record in rejected", || rejected().to_string().contains("t/deep/forbidden"));
    assert!(rejected().to_string().contains("0x87"), "{}", rejected());

    // Sent again and refused again, it still has the id it had, and is found by that.
    let id = rejected()["record"].as_str().expect("it has an id").to_owned();
    for round in ["again/1", "again/2"] {
        let (code, text) = site.daemon.command(&["queue", "rejected", "retry", &id]);
        assert_eq!((code, text.contains("under the ids they had")), (0, true), "{text}");
        site.post(&["-e", round], &format!("t/{}", round.replace('/', "-")));
        wait_for("the record in rejected again", || rejected()["record"] == id.as_str());
    }

    // The owner mends the broker and asks again.
    std::fs::write(&acl, "topic readwrite #\n").expect("the ACL can be changed");
    let pid = nix::unistd::Pid::from_raw(site.broker.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("mosquitto reloads");
    wait_for("the record at last", || {
        let (code, text) = site.daemon.command(&["queue", "rejected", "retry", "--all"]);
        assert_eq!(code, 0, "{text}");
        std::thread::sleep(std::time::Duration::from_millis(200));
        !site.arrived("tombolo/gw/door-7/up/t/deep/forbidden").is_empty()
    });
    // Under the id it had first, and its lane goes on behind it.
    wait_for("empty lanes", || site.daemon.status()["journal"]["records"] == 0);
    assert!(site.post(&["-e", "later"], "t/later").contains("2.04"));
    wait_for("what comes later", || !site.arrived("tombolo/gw/door-7/up/t/later").is_empty());
    wait_for("empty lanes", || site.daemon.status()["journal"]["records"] == 0);
    let (_, list) = site.daemon.command(&["queue", "rejected", "list"]);
    assert!(list.contains("nothing was rejected"), "{list}");
}
