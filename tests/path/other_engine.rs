//! `[coap] engine = "dimpl"`: the same path through the other engine, or a plain word where it is
//! not built in.

#[cfg(feature = "dimpl")]
mod built_in {
    use nix::sys::signal::Signal;

    use crate::device::Device;
    use crate::{KEY, Site};
    use tombolo_test_support::dtls::client::Config;
    use tombolo_test_support::wait_for;

    fn site(name: &str) -> Site {
        Site::build(name, "", "", |text| text.replace("[coap]\n", "[coap]\nengine = \"dimpl\"\n"))
    }

    #[test]
    fn readings_of_real_and_own_clients_pass_through_it() {
        let site = site("dimpl");
        for (number, program) in ["coap-client-openssl", "coap-client-gnutls"].into_iter().enumerate() {
            site.coap_client(program, "door-7", KEY, &["-m", "post", "-e", "1"], "t/x");
            wait_for("the reading", || site.arrived("tombolo/gw/door-7/up/t/x").len() == number + 1);
        }
        let config = Config { cid: Some(vec![1]), ..Config::psk("door-7", KEY) };
        let mut device = Device::connect(site.daemon.coaps, config).expect("a session");
        assert!(device.post("t/own", b"2"));
        wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/own").is_empty());
        let dtls = site.daemon.status()["dtls"].clone();
        assert_eq!((&dtls["engine"], &dtls["connection_id"]), (&"dimpl".into(), &0.into()), "{dtls}");
        assert_eq!(dtls["suites"]["TLS_PSK_WITH_AES_128_CCM_8"], dtls["sessions"], "{dtls}");
    }

    #[test]
    fn it_names_the_causes_and_loses_a_removed_devices_session_too() {
        let site = site("dimpl-causes");
        assert!(Device::connect(site.daemon.coaps, Config::psk("door-7", "another-key")).is_none());
        wait_for("the cause", || site.daemon.log().contains("wrong key for"));
        let plain = Config { extended_master_secret: false, ..Config::psk("door-7", KEY) };
        assert!(Device::connect(site.daemon.coaps, plain).is_none());
        wait_for("the cause", || site.daemon.log().contains("client lacks extended master secret"));
        let mut device = Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
        assert!(device.post("t/x", b"1"));
        let text = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
        let cut = text.find("[device.door-7]").expect("the device");
        std::fs::write(site.daemon.config(), &text[..cut]).expect("it can be changed");
        site.daemon.signal(Signal::SIGHUP);
        wait_for("no session", || site.daemon.status()["devices"]["sessions"] == 0);
    }

    #[test]
    fn another_engine_needs_a_restart() {
        let site = Site::new("other-engine", "");
        let text = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
        let other = text.replace("[coap]\n", "[coap]\nengine = \"dimpl\"\n");
        std::fs::write(site.daemon.config(), other).expect("it can be changed");
        site.daemon.signal(Signal::SIGHUP);
        wait_for("the refusal", || site.daemon.log().contains("coap.engine: changed, and a reload cannot"));
        assert_eq!(site.daemon.status()["dtls"]["engine"], "tombolo");
    }
}

#[cfg(not(feature = "dimpl"))]
#[test]
fn without_it_the_configuration_is_refused_and_the_demo_says_why() {
    use std::process::Command;
    let folder = tombolo_test_support::Folder::new("no-dimpl");
    let config = folder.write("tombolo.toml", "[coap]\nengine = \"dimpl\"\n");
    for (command, status, words) in [
        ("run", 78, "coap.engine: this program was built without the engine"),
        ("demo", 1, "build it with the cargo feature dimpl"),
    ] {
        let output = Command::new(crate::binary())
            .arg("--config")
            .arg(&config)
            .arg(command)
            .output()
            .expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(words), "{said}");
        assert_eq!(output.status.code(), Some(status), "{said}");
    }
}
