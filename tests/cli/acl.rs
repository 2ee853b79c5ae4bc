//! `tombolo acl`: explained for MQTT clients and commands, and compared with a table.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::place::Place;

/// Local rules and a command for the role of the place.
const RULES: &str = "[role.sensor.local-publish.own]\ntopic = \"home/{device}/#\"\n\
     [role.sensor.local-subscribe.all]\ntopic = \"home/#\"\n\
     [role.sensor.downlink.set]\ntopic = \"{prefix}/{device}/down/set/#\"\npath = \"set/{rest}\"\n";

fn place() -> Place {
    let place = Place::new();
    fs::create_dir_all(place.path("conf.d")).expect("a folder");
    fs::write(place.path("conf.d/30-rules.toml"), RULES).expect("a file");
    place.run("device add door-7 --role sensor --psk").fine();
    place
}

#[test]
fn what_changes_how_a_text_looks_is_seen_in_an_explanation_and_in_its_json() {
    let place = place();
    let hostile = "home/door-7/\u{202e}x\u{ad}y";
    for (json, shown) in [("", "home/door-7/\\u{202e}x\\u{ad}y"), ("--json ", "home/door-7/\\u202ex\\u00ady")]
    {
        let ran = place.run(&format!("{json}acl explain door-7 publish {hostile}"));
        assert!(ran.out.contains(shown) && !ran.out.contains(['\u{202e}', '\u{ad}']), "{}", ran.out);
    }
}

#[test]
fn a_publish_a_subscription_and_a_command_are_explained() {
    let place = place();
    for (question, rule) in [
        ("publish t/env", Some("telemetry")),
        ("publish home/door-7/x", Some("local-publish.own")),
        ("publish home/door-8/x", None),
        ("subscribe home/+/x", Some("local-subscribe.all")),
        ("subscribe set/led", Some("downlink.set")),
        ("subscribe other/#", None),
        ("command set/led", Some("downlink.set")),
        ("command get/led", None),
    ] {
        let ran = place.run(&format!("acl explain door-7 {question}"));
        assert_eq!(ran.status, i32::from(rule.is_none()), "{question}: {}", ran.out);
        let said = place.run(&format!("--json acl explain door-7 {question}"));
        let said: serde_json::Value = serde_json::from_str(said.out.trim()).expect("JSON");
        assert_eq!(said["rule"].as_str(), rule, "{question}: {said}");
        assert_eq!(said["method"], question.split(' ').next().unwrap_or_default());
    }
}

#[test]
fn an_explanation_says_where_its_rule_is_written_and_which_comes_nearest_if_none_matches() {
    let place = place();
    let file = place.path("conf.d/30-rules.toml").display().to_string();
    for (question, line) in [("publish home/door-7/x", 2), ("subscribe home/+/x", 4), ("command set/led", 7)]
    {
        let said = place.run(&format!("--json acl explain door-7 {question}")).json();
        assert_eq!(said["rule_place"], format!("{file}:{line}").as_str(), "{said}");
    }
    place.write(
        "conf.d/40-near.toml",
        "[role.sensor.uplink.deep]\npath = \"plant/+/temp/#\"\n[role.sensor.uplink.flat]\npath = \"flat/all\"\n",
    );
    let said = place.run("acl explain door-7 POST plant/1/temp/x").fine();
    assert!(said.contains("where    ") && said.contains("40-near.toml:"), "{said}");
    for (path, nearest) in [
        ("plant/1/tmp", "rule deep, path plant/+/temp/#: level 3 is \"tmp\", not \"temp\""),
        ("plant/1", "rule deep, path plant/+/temp/#: there is no level 3, which is \"temp\""),
        ("flat/all/x", "rule flat, path flat/all: there are more than 2 levels"),
    ] {
        let ran = place.run(&format!("acl explain door-7 POST {path}"));
        assert!(ran.status == 1 && ran.out.contains(nearest), "{path}: {}", ran.out);
        assert!(ran.out.contains("         at ") && ran.out.contains("40-near.toml:"), "{path}: {}", ran.out);
    }
    let ran = place.run("acl explain door-7 subscribe sets/led");
    let nearest = "rule local-subscribe.all, path home/#: level 1 is \"sets\", not \"home\"";
    assert!(ran.status == 1 && ran.out.contains(nearest), "{}", ran.out);
    // Of a publish and of a subscription both kinds of rules are named, the nearer one first.
    for (question, first, second) in [
        (
            "publish home/door-8/x",
            "nearest  rule local-publish.own, path home/door-7/#: level 2 is \"door-8\", not \"door-7\"",
            "         rule deep, path plant/+/temp/#: level 1 is \"home\", not \"plant\"",
        ),
        (
            "publish plant/1/x",
            "nearest  rule deep, path plant/+/temp/#: level 3 is \"x\", not \"temp\"",
            "         rule local-publish.own, path home/door-7/#: level 1 is \"plant\", not \"home\"",
        ),
        (
            "subscribe sets/led",
            "nearest  rule local-subscribe.all, path home/#: level 1 is \"sets\", not \"home\"",
            "         rule downlink.set, path set/#: level 1 is \"sets\", not \"set\"",
        ),
    ] {
        let ran = place.run(&format!("acl explain door-7 {question}"));
        let lines: Vec<&str> = ran.out.lines().collect();
        let at = lines.iter().position(|line| *line == first);
        let is_second = |at: usize| lines[at + 1].starts_with("         at ") && lines[at + 2] == second;
        assert!(ran.status == 1 && at.is_some_and(is_second), "{question}: {}", ran.out);
    }
    let ran = place.run("acl explain door-7 subscribe home/#");
    assert!(ran.out.contains("granted  QoS 2 at most"), "{}", ran.out);
    // `{prefix}` is `tombolo/` and the gateway's id.
    for (path, why) in [("get/led", "level 5 is \"get\", not \"set\""), ("set", "is allowed")] {
        let ran = place.run(&format!("acl explain door-7 command {path}"));
        if path == "set" {
            assert!(ran.status == 0 && !ran.out.contains("nearest"), "{}", ran.out);
            continue;
        }
        let is_named = |line: &str| {
            line.starts_with("nearest  rule downlink.set, topic tombolo/")
                && line.ends_with(&format!("/door-7/down/set/#: {why}"))
        };
        assert!(ran.status == 1 && ran.out.lines().any(is_named), "{}", ran.out);
    }
    let ran = place.run("acl explain door-7 DELETE flat/all --payload x");
    assert!(ran.status == 1 && ran.out.contains("DELETE needs delete = true"), "{}", ran.out);
    place.write(
        "conf.d/50-delete.toml",
        "[role.sensor.uplink.gone]\npath = \"g\"\nretain = true\ndelete = true\n",
    );
    place.run("acl explain door-7 DELETE g").fine();
    let ran = place.run("acl explain door-7 DELETE g --payload x");
    assert!(
        ran.status == 1 && ran.out.contains("a DELETE has no payload; send it without one"),
        "{}",
        ran.out
    );
    assert!(!ran.out.contains("needs delete"), "{}", ran.out);
}

#[test]
fn a_table_names_each_line_that_is_not_as_expected() {
    let place = place();
    let table =
        "# all of it\ndoor-7 POST t/env allow rule=telemetry\nrole:sensor publish home/some-device/x allow\n";
    fs::write(place.path("good.acl"), table).expect("a file");
    let file = place.path("good.acl").display().to_string();
    let ran = place.run(&format!("acl test {file}"));
    assert_eq!((ran.status, ran.out.as_str()), (0, "2 expectations: all as expected\n"));
    let input = b"door-7 POST t/env deny\ndoor-7 command get/led allow\ndoor-7 POST t/env allow rule=other\n";
    let ran = place.run_with_input("acl test -", input);
    assert_eq!(ran.status, 1);
    for words in [
        "-:1: door-7 POST t/env passes",
        "-:2: door-7 command get/led is refused",
        "-:3: ",
        "not other",
        "3 not as expected",
    ] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    let ran = place.run_with_input("acl test -", b"door-7 GET t allow\n");
    assert!(ran.status == 1 && ran.err.contains("-:1: \"GET\" is not one of"), "{}", ran.err);
}

#[test]
fn the_example_that_is_shipped_is_as_its_rules() {
    let place = Place::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    fs::create_dir_all(place.path("conf.d")).expect("a folder");
    fs::copy(examples.join("greenhouse.toml"), place.path("conf.d/20-greenhouse.toml")).expect("a file");
    let ran = place.run(&format!("acl test {}", examples.join("acl/greenhouse.acl").display()));
    assert_eq!(ran.status, 0, "{}{}", ran.out, ran.err);
}

#[test]
fn a_tag_is_set_shown_explained_and_taken_away() {
    let place = place();
    let rule =
        "[role.sensor.uplink.plant]\npath = \"plant/#\"\ntopic = \"plant/{tag.site}/{device}/{rest}\"\n";
    place.write("conf.d/40-tags.toml", rule);
    let explain = || place.run("acl explain door-7 POST plant/x");
    let refused = explain();
    assert_eq!(refused.status, 1);
    assert!(refused.out.contains("needs the tag site for its topic"), "{}", refused.out);
    place.run("device set door-7 --tag site=north --tag hall=2").fine();
    let shown = place.run("device show door-7").fine();
    assert!(shown.contains("hall=2, site=north"), "{shown}");
    let said = explain().fine();
    assert!(said.contains("plant/north/door-7/x") && said.contains("hall=2, site=north"), "{said}");
    assert_eq!(place.run("--json device show door-7").json()["tags"]["site"], "north");
    place.run("device set door-7 --tag site=").fine();
    assert_eq!(explain().status, 1);
    place.run("device set door-7 --tag site=a/b").failed(2, &["the value of tag site has to be"]);
    place.run("device set door-7 --tag site").failed(2, &["write a tag like site=north"]);
    place.run("device add door-9 --role sensor --psk --tag site=south").fine();
    assert!(place.run("acl explain door-9 POST plant/x").fine().contains("plant/south/door-9/x"));
    place.write("more.csv", "id,role,psk,tags\ndoor-10,sensor,generate,site=east;hall=3\n");
    place.run(&format!("device import {}", place.path("more.csv").display())).fine();
    assert!(place.run("acl explain door-10 POST plant/x").fine().contains("plant/east/door-10/x"));
}

#[test]
fn local_rules_with_a_tag_are_for_the_devices_that_have_it() {
    let place = place();
    let rules = "[role.sensor.local-publish.site]\ntopic = \"site/{tag.site}/{device}/#\"\n\
         [role.sensor.local-subscribe.site]\ntopic = \"site/{tag.site}/#\"\n";
    place.write("conf.d/40-tags.toml", rules);
    place.run("check").fine();
    for (question, rule, line) in [
        ("publish site/north/door-7/x", "local-publish.site", 2),
        ("subscribe site/north/#", "local-subscribe.site", 4),
    ] {
        place.run("device set door-7 --tag site=");
        let refused = place.run(&format!("acl explain door-7 {question}"));
        let why = format!(
            "rule {rule} of role sensor needs the tag site for its topic, and device door-7 does not have it; no other rule matches"
        );
        let where_ = format!("{}:{line}", place.path("conf.d/40-tags.toml").display());
        assert!(refused.status == 1 && refused.out.contains(&why), "{}", refused.out);
        assert!(refused.out.contains(&where_), "{}", refused.out);
        place.run("device set door-7 --tag site=north").fine();
        let said = place.run(&format!("--json acl explain door-7 {question}")).json();
        assert_eq!((&said["allowed"], said["rule"].as_str()), (&true.into(), Some(rule)), "{said}");
        let other = question.replace("north", "south");
        assert_eq!(place.run(&format!("acl explain door-7 {other}")).status, 1);
    }
    let table = "role:sensor publish site/north/some-device/x deny\n\
                 role:sensor publish site/north/some-device/x allow tag.site=north rule=local-publish.site\n\
                 role:sensor subscribe site/+/x deny tag.hall=2\nrole:sensor subscribe site/+/x allow tag.site=south\n";
    let ran = place.run_with_input("acl test -", table.as_bytes());
    assert_eq!((ran.status, ran.out.as_str()), (0, "4 expectations: all as expected\n"));
    let ran = place.run_with_input("acl test -", b"role:sensr POST t allow\n");
    assert!(ran.status == 1 && ran.err.contains("-:1: there is no role \"sensr\""), "{}", ran.err);
    assert!(ran.err.contains("did you mean role:sensor?"), "{}", ran.err);
    // Of a reading, too.
    place.write("conf.d/50-up.toml", "[role.sensor.uplink.hall]\npath = \"h\"\ntopic = \"x/{tag.hall}\"\n");
    let refused = place.run("acl explain door-7 POST h").out;
    assert!(refused.contains("needs the tag hall") && refused.contains("50-up.toml:"), "{refused}");
    let passes = place.run("acl explain door-7 publish t/env").fine();
    assert!(passes.contains("payload  up to") && !passes.contains("Block1"), "{passes}");
    let help = place.run("help acl test").fine();
    for key in ["role:NAME", "rule=", "topic=", "reason=", "qos=", "content-format=", "bytes=", "tag.NAME="] {
        assert!(help.contains(key), "{key}: {help}");
    }
}

#[test]
fn a_device_behind_another_is_added_shown_explained_and_moved() {
    let place = place();
    let rules = "[role.sensor.on-behalf.all]\npath = \"t/#\"\n";
    place.write("conf.d/40-children.toml", rules);
    let added = place.run("device add probe-1 --role sensor --parent door-7").fine();
    assert!(added.contains("door-7 sends its readings to the paths ~probe-1/"), "{added}");
    let shown = place.run("device show probe-1").fine();
    assert!(shown.contains("parent") && shown.contains("door-7"), "{shown}");
    assert_eq!(place.run("--json device show probe-1").json()["parent"], "door-7");
    assert_eq!(place.run("--json device show door-7").json()["children"][0], "probe-1");
    let said = place.run("acl explain door-7 POST ~probe-1/t/env").fine();
    assert!(said.contains("probe-1 t/env, by on-behalf rule all of role sensor: path t/#"), "{said}");
    let at = format!("{}:1", place.path("conf.d/40-children.toml").display());
    assert!(said.contains(&format!("at {at}")), "{said}");
    let json = place.run("--json acl explain door-7 POST ~probe-1/t/env").json();
    let (rule, path) = (&json["on_behalf"]["rule"], &json["on_behalf"]["rule_path"]);
    assert_eq!((rule, path, &json["on_behalf"]["place"]), (&json!("all"), &json!("t/#"), &json!(at)));
    let refused = place.run("acl explain door-7 POST ~probe-1/x");
    let nearest = "rule on-behalf.all, path t/#: level 1 is \"x\", not \"t\"";
    assert!(refused.out.contains(nearest) && refused.out.contains(&at), "{}", refused.out);
    let denies = "[role.sensor.on-behalf.no]\npath = \"t/key\"\ndeny = true\n";
    place.write("conf.d/41-denies.toml", denies);
    let denied = format!("{}:1", place.path("conf.d/41-denies.toml").display());
    let refused = place.run("acl explain door-7 POST ~probe-1/t/key").out;
    assert!(refused.contains("on-behalf.no: path t/key, denies, decides"), "{refused}");
    assert!(refused.contains(&denied), "{refused}");
    // A table of expectations has the same explanations.
    let tested =
        place.run_with_input("--json acl test -", b"door-7 POST ~probe-1/t/key deny rule=on-behalf.no\n");
    let tested: serde_json::Value = serde_json::from_str(&tested.out).expect("an object");
    let explained = &tested["explanation"];
    assert_eq!(
        (&explained["rule_place"], &explained["matched"][0]["path"]),
        (&json!(denied), &json!("t/key"))
    );
    std::fs::remove_file(place.path("conf.d/41-denies.toml")).expect("it is there");
    place.write("more.csv", "id,role,parent\nprobe-2,sensor,door-7\nprobe-3,sensor,door-7\n");
    place.run(&format!("device import {}", place.path("more.csv").display())).fine();
    assert!(place.run("device show door-7").fine().contains("probe-1, probe-2, probe-3"));
    place.run("device set probe-1 --parent probe-1").failed(1, &["not its own parent"]);
    place.run("device set probe-1 --parent probe-2").failed(1, &["has a parent itself"]);
    place.run("device set probe-2 --parent probe-1").failed(1, &["has a parent itself"]);
    place.run("device set door-7 --parent probe-9").failed(1, &["it is the parent of probe-1"]);
    place.write("chain.csv", "id,role,parent\nprobe-4,sensor,door-7\nprobe-5,sensor,probe-4\n");
    place
        .run(&format!("device import {}", place.path("chain.csv").display()))
        .failed(1, &["its parent probe-4 has a parent itself"]);
    place.write(
        "lost.csv",
        "id,role,parent\nprobe-6,sensor,hub-9\nprobe-7,sensor,hub-9\nprobe-8,sensor,door-7\n",
    );
    let ran = place.run(&format!("device import {} --dry-run", place.path("lost.csv").display()));
    assert!(
        ran.err.contains("the parent hub-9 of probe-6 does not exist, nor that of 1 more"),
        "{}",
        ran.err
    );
    place.run("device set probe-1 --parent a/b").failed(2, &["is not a device id"]);
    place.run("device set probe-1 --parent=").fine();
    let refused = place.run("acl explain door-7 POST ~probe-1/t/env");
    assert!(
        refused.status == 1 && refused.out.contains("no device behind it has this id"),
        "{}",
        refused.out
    );
    place.run("device set probe-1 --parent door-7").fine();
    place.run("device disable probe-1").fine();
    let refused = place.run("acl explain door-7 POST ~probe-1/t/env").out;
    assert!(
        refused.contains("probe-1 is behind door-7, but device probe-1 was disabled by a command"),
        "{refused}"
    );
    let refused = place.run("acl explain probe-2 POST ~probe-1/t/env").out;
    assert!(refused.contains("no device behind it has this id"), "of another's child: {refused}");
    place.run("device enable probe-1").fine();
    place.run("device set probe-1 --parent=").fine();
    let said = |line: &str| {
        let ran = place.run(line);
        assert_eq!(ran.status, 0, "{}{}", ran.out, ran.err);
        ran.err
    };
    assert_eq!(said("device set probe-1 --parent door-7"), "", "a parent that may forward its readings");
    let warned = said("device set probe-1 --parent door-8");
    assert!(
        warned.contains("there is no device door-8, so nothing forwards the readings of probe-1"),
        "{warned}"
    );
    assert!(warned.contains("did you mean door-7?"), "{warned}");
    let warned = said("device add probe-9 --role sensor --parent elsewhere");
    assert!(warned.contains("there is no device elsewhere"), "{warned}");
    place.write("conf.d/50-lone.toml", "[role.lone.uplink.t]\npath = \"t\"\n");
    place.run("device add lone-1 --role lone --psk").fine();
    let warned = said("device set probe-1 --parent lone-1");
    let no_rule = "no on-behalf rule of the role \"lone\" lets lone-1 forward the readings of probe-1";
    assert!(warned.contains(no_rule) && warned.contains("[role.lone.on-behalf.NAME]"), "{warned}");
    place.run("device set probe-1 --parent nobody").fine();
    let checked = place.run("check --offline");
    assert!(checked.out.contains("its parent nobody is no usable device"), "{}", checked.out);
}

#[test]
fn the_format_and_size_of_a_payload_are_asked_about() {
    let place = place();
    let rule = "[role.sensor.uplink.json]\npath = \"j/#\"\ncontent-formats = [\"application/json\"]\nmax-payload = 100\n";
    place.write("conf.d/40-json.toml", rule);
    let said = place.run("acl explain door-7 POST j/x").fine();
    assert!(said.contains("content-formats 50") && said.contains("up to 100 B"), "{said}");
    for (options, words) in [
        ("--content-format none", "takes no reading without a content format"),
        ("--content-format 60", "does not take the content format 60 (application/cbor)"),
        ("--bytes 101", "the payload has more than 100 bytes"),
    ] {
        let ran = place.run(&format!("acl explain door-7 POST j/x {options}"));
        assert!(ran.status == 1 && ran.out.contains(words), "{options}: {}", ran.out);
    }
    place
        .run("acl explain door-7 POST j/x --content-format x/y")
        .failed(2, &["x/y", "is not a content format"]);
}

#[test]
fn a_retained_publish_is_explained_and_so_is_one_that_deletes_what_is_retained() {
    let place = place();
    place.write(
        "conf.d/50-retained.toml",
        "[role.sensor.uplink.gone]\npath = \"g\"\nretain = true\ndelete = true\n\
         [role.sensor.uplink.kept]\npath = \"k\"\nretain = true\n\
         [role.sensor.local-publish.state]\ntopic = \"state/#\"\n\
         [role.sensor.local-publish.event]\ntopic = \"event/#\"\nretain = false\n",
    );
    let said = |asked: &str| {
        let ran = place.run(&format!("--json acl explain door-7 publish {asked}"));
        let said: serde_json::Value = serde_json::from_str(ran.out.trim()).expect("JSON");
        assert_eq!(ran.status == 0, said["allowed"] == true, "{asked}: {said}");
        said
    };
    // Topic, whether it passes with a payload, and empty; whether it deletes; whether it is kept.
    for (topic, empty, deletes) in [
        ("g", None, true),
        ("k", Some("not_allowed"), false),
        ("t/env", Some("not_allowed"), false),
        ("state/x", None, true),
        ("event/x", None, false),
        ("nothing", Some("no_rule"), false),
    ] {
        let full = said(&format!("{topic} --retain --payload x"));
        assert!(full["deletes"].is_null() && (full["allowed"] == true || topic == "nothing"), "{full}");
        for asked in ["--retain --payload=", "--retain --bytes 0"] {
            let said = said(&format!("{topic} {asked}"));
            assert_eq!(said["reason"].as_str(), empty, "{topic} {asked}: {said}");
            assert_eq!(said["deletes"] == true, deletes, "{topic} {asked}: {said}");
        }
        // Without RETAIN an empty one is a message like any other.
        assert_eq!(said(&format!("{topic} --payload="))["allowed"] == true, topic != "nothing");
    }
    // One that would delete without `delete` in its rule is sent without RETAIN.
    assert_eq!(said("k --payload=")["publish"]["retain"], false);
    assert_eq!(said("k --payload x")["publish"]["retain"], true);
    for (asked, told) in [
        ("g --retain --payload=", "deletes"),
        ("k --retain --payload=", "needs delete = true and retain = true in the rule"),
        ("event/x --retain", "is not retained: rule local-publish.event has retain = false"),
    ] {
        let ran = place.run(&format!("acl explain door-7 publish {asked}"));
        assert!(ran.out.contains(told), "{asked}: {}", ran.out);
    }
    let wrong = "acl explain door-7 POST g --retain";
    place.run(wrong).failed(2, &["--retain", "of a publish", "DELETE deletes"]);
    place.write(
        "rules.acl",
        "door-7 publish g allow retain=true bytes=0\ndoor-7 publish k deny retain=true bytes=0 reason=not_allowed\n\
         door-7 publish k allow retain=true bytes=1\ndoor-7 publish k allow retain=false bytes=0\n",
    );
    let table = place.path("rules.acl").display().to_string();
    assert!(place.run(&format!("acl test {table}")).fine().contains("4 expectations: all as expected"));
    for (line, why) in [
        ("door-7 POST g allow retain=true", "of a publish"),
        ("door-7 publish g allow retain=yes", "neither retain=true nor retain=false"),
    ] {
        place.write("rules.acl", line);
        place.run(&format!("acl test {table}")).failed(1, &["rules.acl:1: ", why]);
    }
}
