use crate::place::Place;

#[test]
fn help_names_every_command_that_is_built_and_none_that_is_not() {
    let help = Place::new().run("--help").fine();
    for command in [
        "run", "check", "init", "device", "send", "mailbox", "tail", "status", "acl", "queue", "serial",
        "update", "demo",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in\n{help}");
    }
    assert!(!help.contains("\n  complete "), "{help}");
    assert_eq!(Place::new().run("help").fine(), help);
    assert!(help.contains("78 invalid configuration") && help.contains("--json"), "{help}");
    assert!(!help.contains('\x1b'));
}

#[test]
fn every_command_explains_itself() {
    let place = Place::new();
    for line in [
        "run --help",
        "check --help",
        "init --help",
        "device --help",
        "device add --help",
        "device list --help",
        "device show --help",
        "device remove --help",
        "send --help",
        "mailbox --help",
        "mailbox list --help",
        "tail --help",
        "status --help",
        "acl explain --help",
        "queue --help",
        "queue rejected --help",
        "queue rejected retry --help",
        "serial list --help",
        "serial trace --help",
        "serial relearn --help",
        "demo --help",
    ] {
        assert!(place.run(line).fine().contains("Usage: tombolo "), "{line}");
    }
    assert!(place.run("--version").fine().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_is_right() {
    let place = Place::new();
    place.run("").failed(2, &["Usage"]);
    place.run("stauts").failed(2, &["stauts", "status"]);
    place.run("send door-7").failed(2, &["<PATH>"]);
    place.run("send door-7 x 1 --wait 6h").failed(2, &["from 1s to 2min"]);
    place.run("send door-7 x 1 --method OPEN").failed(2, &["OPEN", "PUT"]);
    place.run("--json update").failed(2, &["a command is missing"]);
    place.run("device add door-7").failed(2, &["--role", "--psk"]);
    place.run("device add").failed(2, &["<ID>"]);
    place.run("acl explain door-7 GET t").failed(2, &["GET", "POST"]);
    place.run("help device ad").failed(2, &["did you mean add?"]);
    place.run("tail --last x").failed(2, &["write a whole number"]);
    place.run("demo --seconds 0").failed(2, &["from 1"]);
    place.run("queue rejected drop").failed(2, &["--all"]);
    place.run("queue rejected drop seven").failed(2, &["seven", "queue rejected list"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::Stdio;
    let place = Place::new();
    for line in ["--help", "device list"] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut child = place.command(line).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        drop(reader);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{line}");
    }
}
