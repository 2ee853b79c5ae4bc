//! The precedence of layers.

use std::time::Duration;

use tombolo::config::{IdSource, Origin};

use crate::support::main_file;

const MAIN: &str = "[gateway]\nlabel = \"main\"\n[upstream]\nurl = \"mqtts://main\"\nkeep-alive = \"30s\"\n";

#[test]
fn later_layers_win_by_key_and_leave_the_rest() {
    let case = main_file("")
        .layer(
            Origin::DropIn,
            "/etc/tombolo/conf.d/10-a.toml",
            "[upstream]\nkeep-alive = \"40s\"\nusername = \"a\"\n",
        )
        .layer(Origin::DropIn, "/etc/tombolo/conf.d/20-b.toml", "[upstream]\nusername = \"b\"\n");
    let mut case = case.environment("TOMBOLO_UPSTREAM__MAX_IN_FLIGHT", "7");
    case.layers[0].text = MAIN.to_owned();
    // The weakest come first.
    let weak = main_file("")
        .layer(
            Origin::Vendor,
            "/usr/lib/tombolo/conf.d/v.toml",
            "[gateway]\nlabel = \"vendor\"\n[log]\nlevel = \"debug\"\n",
        )
        .layer(
            Origin::State,
            "/var/lib/tombolo/conf.d/s.toml",
            "[log]\nlevel = \"trace\"\n[upstream]\ndrain-rate = 5\n",
        );
    let weak = weak.layers.into_iter().skip(1);
    case.layers = weak.chain(case.layers).collect();

    let loaded = case.loaded();
    let upstream = loaded.settings.upstream.as_ref().unwrap();
    assert_eq!(loaded.settings.gateway.label.as_deref(), Some("main"));
    assert_eq!(loaded.settings.log.level, log::LevelFilter::Trace);
    assert_eq!(upstream.host, "main");
    assert_eq!(upstream.keep_alive, Duration::from_secs(40));
    assert_eq!(upstream.username.as_deref(), Some("b"));
    assert_eq!(upstream.drain_rate, 5);
    assert_eq!(upstream.max_in_flight, 7);

    let place = |key: &[&str]| loaded.place(key).unwrap().to_string();
    assert_eq!(place(&["upstream", "username"]), "/etc/tombolo/conf.d/20-b.toml:2");
    assert_eq!(place(&["upstream", "keep-alive"]), "/etc/tombolo/conf.d/10-a.toml:2");
    assert_eq!(place(&["log", "level"]), "/var/lib/tombolo/conf.d/s.toml:2");
    assert_eq!(place(&["upstream", "max-in-flight"]), "environment variable TOMBOLO_UPSTREAM__MAX_IN_FLIGHT");
}

#[test]
fn the_environment_can_set_every_kind_of_key() {
    let case = main_file("[role.sensor.uplink.all]\npath = \"#\"\n[device.door-7]\nrole = \"none\"\n")
        .environment("TOMBOLO_UPSTREAM__URL", "mqtt://b:1884")
        .environment("TOMBOLO_UPSTREAM__INSECURE", "true")
        .environment("TOMBOLO_UPSTREAM__SESSION_EXPIRY", "2d")
        .environment("TOMBOLO_COAP__LISTEN", "127.0.0.1:5684, [::1]:5684")
        .environment("TOMBOLO_JOURNAL__MAX_BYTES", "64MiB")
        .environment("TOMBOLO_ROLE__SENSOR__QUOTA__MESSAGES", "5")
        .environment("TOMBOLO_DEVICE__DOOR_7__ROLE", "sensor")
        .environment("TOMBOLO_TOPICS__LOSS", "")
        .environment("TOMBOLO_PATHS__STATE_DIR", "state")
        .environment("PATH", "/bin");
    let settings = case.loaded().settings;
    let upstream = settings.upstream.unwrap();
    assert_eq!((upstream.port, upstream.tls), (1884, None));
    assert_eq!(upstream.session_expiry, Duration::from_secs(2 * 86_400));
    assert_eq!(upstream.topics.loss, None);
    assert_eq!(settings.coap.listen.len(), 2);
    assert_eq!(settings.journal.max_bytes, 64 << 20);
    assert_eq!(settings.gate.roles[0].quota.messages, 5);
    assert_eq!(settings.gate.devices[0].id.as_str(), "door-7");
    // Relative to the working directory: a variable stands in no file.
    assert_eq!(settings.paths.state_dir.to_str(), Some("state"));
}

#[test]
fn an_empty_text_takes_a_key_back_to_its_default() {
    let case = main_file("[upstream]\nurl = \"mqtts://main\"\nkeep-alive = \"30s\"\nusername = \"a\"\n")
        .layer(Origin::DropIn, "/etc/tombolo/conf.d/x.toml", "[upstream]\nkeep-alive = \"\"\n")
        .environment("TOMBOLO_UPSTREAM__USERNAME", "");
    let upstream = case.loaded().settings.upstream.unwrap();
    assert_eq!((upstream.keep_alive, upstream.username), (Duration::from_secs(60), None));
}

#[test]
fn enabled_false_takes_out_devices_roles_and_rules_by_their_names() {
    let base = "[role.a.uplink.x]\npath = \"x\"\n[role.a.uplink.y]\npath = \"y\"\n[role.b.uplink.x]\npath = \"x\"\n\
                [device.one]\nrole = \"a\"\n[device.two]\nrole = \"a\"\n";
    let case = main_file(base).layer(
        Origin::DropIn,
        "/etc/tombolo/conf.d/x.toml",
        "[role.a.uplink.y]\nenabled = false\n[role.b]\nenabled = false\n[device.two]\nenabled = false\n",
    );
    let gate = case.loaded().settings.gate;
    assert_eq!(gate.roles.len(), 1);
    assert_eq!(gate.roles[0].uplink.len(), 1);
    assert_eq!(gate.devices.len(), 1);
    assert_eq!(case.complaints().1, Vec::<String>::new());
}

#[test]
fn a_drop_in_that_goes_takes_exactly_its_keys_along() {
    let with = main_file("[device.one]\nrole = \"r\"\n[role.r.uplink.x]\npath = \"x\"\n").layer(
        Origin::DropIn,
        "/etc/tombolo/conf.d/x.toml",
        "[device.one]\nlabel = \"l\"\n[device.two]\nrole = \"r\"\n",
    );
    let mut without = with.clone();
    without.layers.pop();
    let devices = |case: &crate::support::Case| {
        let gate = case.loaded().settings.gate;
        gate.devices.iter().map(|d| (d.id.to_string(), d.label.clone())).collect::<Vec<_>>()
    };
    assert_eq!(devices(&with), [("one".into(), Some("l".into())), ("two".into(), None)]);
    assert_eq!(devices(&without), [("one".into(), None)]);
}

#[test]
fn unknown_keys_are_ignored_only_in_what_is_kept_with_the_state() {
    let text = "[upstream]\nnew-thing = 1\n[device.a]\nrole = \"r\"\nnewer = 2\n[paths]\nstate-dir = \"/elsewhere\"\n";
    let case = main_file("[role.r.uplink.x]\npath = \"x\"\n").layer(Origin::State, "/s/a.toml", text);
    let (loads, complaints) = case.complaints();
    assert!(loads);
    assert_eq!(complaints.len(), 3, "{complaints:#?}");
    assert!(complaints.iter().all(|line| line.starts_with("warn  /s/a.toml:")), "{complaints:#?}");
    let case = case.layer(Origin::State, "/s/b.toml", "[upstream]\nprotocol = \"6\"\n");
    assert_eq!(
        case.complaints().1[3],
        "fail  /s/b.toml:2: upstream.protocol: \"6\" is not accepted, ignored; use \"auto\", \"5\" or \"3.1.1\""
    );
    assert_eq!(case.loaded().settings.gate.devices.len(), 1);
    assert_eq!(case.loaded().settings.paths.state_dir.to_str(), Some("/var/lib/tombolo"));
}

#[test]
fn the_gateway_is_called_what_configuration_says_else_what_its_first_start_made() {
    let id = |case: &crate::support::Case| {
        let gateway = case.loaded().settings.gateway;
        (gateway.id.to_string(), gateway.id_source)
    };
    let mut case = main_file("");
    assert_eq!(id(&case), ("tb-abcdefgh".into(), IdSource::Stored));
    assert_eq!(case.loaded().settings.gate.prefix, "tombolo/tb-abcdefgh");
    case.gateway_id = None;
    assert_eq!(id(&case).1, IdSource::Missing);
    case.layers[0].text = "[gateway]\nid = \"g7\"\n".to_owned();
    assert_eq!(id(&case), ("g7".into(), IdSource::Configured));
}

#[test]
fn paths_are_relative_to_the_file_they_stand_in() {
    let case = main_file("[paths]\nstate-dir = \"state\"\n").layer(
        Origin::DropIn,
        "/etc/tombolo/conf.d/x.toml",
        "[upstream]\nurl = \"mqtts://b\"\nca-file = \"ca.pem\"\n",
    );
    let case = case.file("/etc/tombolo/conf.d/ca.pem", "");
    let settings = case.loaded().settings;
    assert_eq!(settings.paths.state_dir.to_str(), Some("/etc/tombolo/state"));
    assert_eq!(settings.journal.directory.to_str(), Some("/etc/tombolo/state/journal"));
    let ca = settings.upstream.unwrap().tls.unwrap().ca_file.unwrap();
    assert_eq!(ca.to_str(), Some("/etc/tombolo/conf.d/ca.pem"));
}

#[test]
fn a_small_journal_shrinks_what_is_not_set_with_it() {
    let journal = main_file("[journal]\nmax-bytes = \"8MiB\"\n").loaded().settings.journal;
    assert_eq!(journal.segment_bytes, 128 << 10);
    assert_eq!(journal.rejected_max_bytes, 512 << 10);
    let all: u64 = journal.lanes.iter().map(|lane| lane.max_bytes).sum();
    assert_eq!(all + journal.rejected_max_bytes + 2 * u64::from(journal.segment_bytes), 8 << 20);
}
