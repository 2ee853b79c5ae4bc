use crate::place::Place;

#[test]
fn init_writes_a_drop_in_and_says_what_comes_next() {
    let place = Place::new();
    let before = place.read("tombolo.toml");
    let said = place.run("init --url mqtts://broker.example.com --id greenhouse-7").fine();
    for word in [
        "conf.d/10-site.toml",
        "greenhouse-7",
        "tombolo check",
        "systemctl start tombolo",
        "tombolo device add",
    ] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert_eq!(place.read("tombolo.toml"), before, "the packaged file stays as it is");
    let written = place.read("conf.d/10-site.toml");
    assert!(
        written.contains("url = \"mqtts://broker.example.com\"") && written.contains("id = \"greenhouse-7\""),
        "{written}"
    );
}

#[test]
fn a_second_init_is_refused_unless_it_is_meant() {
    let place = Place::new();
    let json = place.run("--json init --url mqtts://one.example.com").json();
    assert_eq!((json["gateway"].is_null(), &json["running"]), (true, &serde_json::json!(false)));
    let refused = place.run("init --url mqtts://two.example.com");
    assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
    refused.failed(1, &["10-site.toml exists already", "--force"]);
    assert!(place.read("conf.d/10-site.toml").contains("one.example.com"));
    place.run("init --url mqtts://two.example.com --force").fine();
    assert!(place.read("conf.d/10-site.toml").contains("two.example.com"));
}

#[test]
fn what_makes_no_upstream_is_refused_and_nothing_is_written() {
    for (line, words) in [
        ("init --url broker.example.com", &["mqtts://"][..]),
        ("init --url mqtt://broker.example.com", &["insecure"]),
        ("init --url mqtts://broker.example.com --ca-file none.pem", &["none.pem", "does not exist"]),
        ("init --url mqtts://broker.example.com --id a/b", &["gateway.id"]),
        ("init --url mqtts://me:topsecret@broker.example.com", &["--username"]),
    ] {
        let place = Place::new();
        let ran = place.run(line);
        assert!(!ran.err.contains("topsecret"), "{}", ran.err);
        assert_eq!(ran.status, 78, "{line}: {}", ran.err);
        for word in words.iter().filter(|word| **word != "--username") {
            assert!(ran.err.contains(word), "{line}: no {word:?} in {}", ran.err);
        }
        assert!(!place.path("conf.d/10-site.toml").exists(), "{line}");
    }
}
