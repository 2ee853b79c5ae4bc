//! Keys of uplink rules and tags, as they are written and as they are refused.

use std::time::Duration;

use tombolo::config::{Loaded, Origin};
use tombolo::gate::UplinkRule;
use tombolo::message::ContentFormat;

use crate::support::main_file;

const BASE: &str = "[role.r.uplink.x]\npath = \"x\"\n";

fn rule(keys: &str) -> UplinkRule {
    main_file(&format!("{BASE}{keys}")).loaded().settings.gate.roles[0].uplink[0].clone()
}

/// The complaints about a rule with these keys.
#[track_caller]
fn wrong(keys: &str, words: &str) {
    let (_, complaints) = main_file(&format!("{BASE}{keys}")).complaints();
    let about: Vec<_> = complaints.iter().filter(|line| line.contains(words)).collect();
    assert_eq!(about.len(), 1, "{complaints:#?}");
    assert!(about[0].starts_with("fail  /etc/tombolo/tombolo.toml:"), "{about:?}");
}

/// The tags of a device, as one text.
fn tags(loaded: &Loaded, id: &str) -> String {
    let devices = &loaded.settings.gate.devices;
    let device = devices.iter().find(|device| device.id.as_str() == id);
    let device = device.unwrap_or_else(|| panic!("no device {id}: {:#?}", loaded.findings));
    device.tags.iter().map(|(name, value)| format!("{name}={value} ")).collect()
}

#[test]
fn the_keys_of_a_rule_that_restrict_are_taken_as_written() {
    let plain = rule("");
    assert_eq!((plain.max_payload, plain.content_formats.len(), plain.filter), (None, 0, Default::default()));
    let full = rule(
        "max-payload = \"2KiB\"\ncontent-formats = [\"application/json\", \"text/plain\", \"65000\", \"none\"]\n\
         on-change = true\ndead-band = 0.5\ndead-band-field = \"/env/t\"\nmin-interval = \"1500ms\"\n",
    );
    assert_eq!(full.max_payload, Some(2_048));
    let formats = [Some(ContentFormat::JSON), Some(ContentFormat::TEXT), Some(ContentFormat(65_000)), None];
    assert_eq!(full.content_formats, formats);
    assert!(full.filter.when.is_empty() && full.filter.on_change && full.filter.dead_band == Some(0.5));
    assert_eq!(full.filter.dead_band_field.map(|field| field.as_str().to_owned()), Some("/env/t".to_owned()));
    assert_eq!(full.filter.min_interval, Some(Duration::from_millis(1_500)));
}

/// The conditions of the example in docs/mapping.md.
const WHEN: &str = r#"when = [
  { field = "/env/temperature", above = 30 },
  { field = "/state", one-of = ["alarm", "warning", 7, true] },
  { any = [ { field = "/a", at-least = 5.5 }, { field = "/b", is = true }, { is-not = "" } ] },
  { field = "/c", present = true },
]
"#;

#[test]
fn conditions_are_taken_as_written_by_uplink_and_local_subscribe_rules() {
    let expected = [
        "/env/temperature above 30",
        "/state one of \"alarm\", \"warning\", 7, true",
        "/a at least 5.5 or /b is true or the payload is not \"\"",
        "/c present",
    ];
    assert_eq!(rule(WHEN).filter.when.texts(), expected);
    let local = format!("[role.r.local-subscribe.x]\ntopic = \"x\"\n{WHEN}");
    let settings = main_file(&local).loaded().settings;
    assert_eq!(settings.mqtt.local[0].1.subscribe[0].filter.when.texts(), expected);
    // The tables of TOML, and a later layer, which replaces the whole list.
    let tables = "[[role.r.uplink.x.when]]\nbelow = 1\n[[role.r.uplink.x.when]]\nat-most = 2\n";
    assert_eq!(rule(tables).filter.when.texts(), ["the payload below 1", "the payload at most 2"]);
    let files = main_file(&format!("{BASE}{WHEN}"));
    let files =
        files.layer(Origin::DropIn, "/etc/tombolo/conf.d/9.toml", &format!("{BASE}when = [{{ is = 1 }}]\n"));
    assert_eq!(files.loaded().settings.gate.roles[0].uplink[0].filter.when.texts(), ["the payload is 1"]);
}

#[test]
fn a_condition_that_makes_no_sense_is_refused_with_its_line_and_the_way_out() {
    let many = format!("when = [{}]\n", "{ above = 1 }, ".repeat(17));
    let any = format!("when = [{{ any = [{}] }}]\n", "{ above = 1 }, ".repeat(17));
    let long = format!("when = [{{ is = \"{}\" }}]\n", "x".repeat(65));
    let long_list = format!("when = [{{ one-of = [{}] }}]\n", "1, ".repeat(17));
    for (keys, words) in [
        ("when = []\n", ":3: role.r.uplink.x.when: the list is empty; use a list of tables, like"),
        ("when = \"x\"\n", ":3: role.r.uplink.x.when: \"x\" is not accepted; use a list of tables, like"),
        ("when = [1]\n", ":3: role.r.uplink.x.when.1: 1 is not accepted; use a table, like"),
        ("when = [{}]\n", ":3: role.r.uplink.x.when.1: has no comparison; set one of above, below"),
        ("when = [\n{ field = \"/t\" }]\n", ":4: role.r.uplink.x.when.1: has no comparison"),
        (
            "when = [{ above = 1 },\n{ above = 1, below = 2 }]\n",
            ":4: role.r.uplink.x.when.2: has two comparisons, above and below; write a table for each",
        ),
        ("when = [{ abvoe = 1 }]\n", ":3: role.r.uplink.x.when.1.abvoe: unknown key; did you mean above?"),
        ("when = [{ above = nan }]\n", ":3: role.r.uplink.x.when.1.above: NaN is not accepted; use a number"),
        ("when = [{ above = inf }]\n", ":3: role.r.uplink.x.when.1.above: inf is not accepted; use a number"),
        (
            "when = [{ above = \"1\" }]\n",
            ":3: role.r.uplink.x.when.1.above: \"1\" is not accepted; use a number",
        ),
        ("when = [{ is = nan }]\n", ":3: role.r.uplink.x.when.1.is: NaN is not accepted; use a number"),
        ("when = [{ is = [1] }]\n", ":3: role.r.uplink.x.when.1.is: a list is not accepted; use a number"),
        (&long, "a text of at most 64 bytes, true or false"),
        (
            "when = [{ one-of = [] }]\n",
            ":3: role.r.uplink.x.when.1.one-of: the list is empty; use a list of 1 to 16 values, like [\"alarm\"",
        ),
        (
            &long_list,
            ":3: role.r.uplink.x.when.1.one-of: the list has 17 values; use a list of 1 to 16 values, like [\"alarm\"",
        ),
        (&long_list, "true or false; or several tables with one-of in one list any"),
        (
            "when = [{ field = \"\", is = 1 }]\n",
            ":3: role.r.uplink.x.when.1: has an empty field; take it out to compare the payload itself, or write it like",
        ),
        (
            "when = [{ above = \"\" }]\n",
            ":3: role.r.uplink.x.when.1.above: \"\" is not accepted; use a number",
        ),
        (
            "when = [{ any = [{ field = \"\", present = true }] }]\n",
            ":3: role.r.uplink.x.when.1.any.1: has an empty field",
        ),
        (
            "when = [{ one-of = [1, nan] }]\n",
            ":3: role.r.uplink.x.when.1.one-of: NaN in the list is not accepted; use a list of 1",
        ),
        (
            "when = [{ field = \"t\", is = 1 }]\n",
            ":3: role.r.uplink.x.when.1: \"t\": a JSON pointer begins with '/', as in /env/temperature; write it",
        ),
        ("when = [{ present = true }]\n", ":3: role.r.uplink.x.when.1: has present without field"),
        ("when = [{ any = [] }]\n", ":3: role.r.uplink.x.when.1.any: the list is empty"),
        (
            "when = [{ any = [{ above = 1 }], is = 1 }]\n",
            ":3: role.r.uplink.x.when.1: has any and a comparison",
        ),
        (
            "when = [{ any = [{ above = 1 }, { field = \"/x\" }] }]\n",
            ":3: role.r.uplink.x.when.1.any.2: has no comparison",
        ),
        (
            "when = [{ any = [{ any = [{ is = 1 }] }] }]\n",
            ":3: role.r.uplink.x.when.1.any.1.any: unknown key; known here: field, above",
        ),
        (&many, ":3: role.r.uplink.x.when: has 17 comparisons; use at most 16"),
        (&any, ":3: role.r.uplink.x.when: has 17 comparisons; use at most 16"),
    ] {
        wrong(keys, words);
    }
    let local = "[role.r.local-subscribe.l]\ntopic = \"home/#\"\nwhen = [{ field = \"/t\" }]\n";
    wrong(local, ":5: role.r.local-subscribe.l.when.1: has no comparison; set one of above, below");
}

#[test]
fn conditions_that_never_hold_both_are_warned_of_and_stay_in_force() {
    let never = "when = [\n{ field = \"/t\", above = 10 },\n{ field = \"/u\", is = 1 },\n{ field = \"/t\", below = 5 }]\n";
    let local = format!("[role.r.local-subscribe.l]\ntopic = \"home/#\"\n{never}");
    for (keys, key) in [(never, "uplink.x"), (&local, "local-subscribe.l")] {
        let loaded = main_file(&format!("{BASE}{keys}")).loaded();
        let told = format!(
            "role.r.{key}.when: conditions 1 and 3 never hold both (/t above 10; /t below 5): what they can judge is never \
             published; correct one"
        );
        let warned = |finding: &&tombolo::config::Finding| {
            finding.level == tombolo::config::Level::Warn && finding.to_string().contains(&told)
        };
        assert_eq!(loaded.findings.iter().filter(warned).count(), 1, "{:#?}", loaded.findings);
        assert_eq!(loaded.settings.gate.roles.len(), 1, "the rule is in force");
    }
    let either = "when = [{ any = [{ field = \"/t\", above = 10 }, { field = \"/t\", below = 5 }] }]\n";
    let loaded = main_file(&format!("{BASE}{either}")).loaded();
    assert!(!loaded.findings.iter().any(|finding| finding.to_string().contains("never hold both")));
}

#[test]
fn a_key_that_makes_no_sense_is_refused_with_its_line() {
    wrong(
        "content-formats = [\"application/nothing\"]\n",
        ":3: role.r.uplink.x.content-formats: \"application/nothing\" is not",
    );
    wrong("content-formats = [\"70000\"]\n", ":3: role.r.uplink.x.content-formats: ");
    wrong("dead-band-field = \"/t\"\n", ":3: role.r.uplink.x.dead-band-field: there is no dead-band");
    wrong(
        "dead-band = 1\ndead-band-field = \"t\"\n",
        ":4: role.r.uplink.x.dead-band-field: \"t\": a JSON pointer begins",
    );
    wrong("dead-band = -1\n", ":3: role.r.uplink.x.dead-band: -1 is not accepted");
    wrong("min-interval = \"1ms\"\n", ":3: role.r.uplink.x.min-interval: ");
    wrong("max-payload = \"65KiB\"\n", ":3: role.r.uplink.x.max-payload: ");
    for key in [
        "max-payload = 1",
        "content-formats = [\"60\"]",
        "when = [{ above = 1 }]",
        "on-change = true",
        "dead-band = 1",
        "min-interval = \"1s\"",
    ] {
        let name = key.split(' ').next().unwrap_or_default();
        wrong(
            &format!("deny = true\n{key}\n"),
            &format!("denies every reading at its path, so it has no {name}"),
        );
    }
    let local = |keys: &str| format!("[role.r.local-publish.l]\ntopic = \"home/#\"\n{keys}\n");
    wrong(&local("deny = true\nqos = 0"), "denies every message on its topics, so it has no qos");
    wrong(&local("qos = 3"), "role.r.local-publish.l.qos: 3 is not accepted");
    wrong(
        "[role.r.local-subscribe.l]\ntopic = \"home/#\"\nretain = false\n",
        "role.r.local-subscribe.l.retain: ",
    );
    let tagged =
        |topic: &str, deny: bool| format!("[role.r.local-subscribe.l]\ntopic = \"{topic}\"\ndeny = {deny}\n");
    wrong(&tagged("{tag.site}/#", false), "the first level of \"{tag.site}/#\" has {tag.site}");
    wrong(&tagged("x-{tag.site}", false), "the first level of");
    wrong(&tagged("home/{tag.site}/#", true), "would deny nothing to a device without the tag");
    wrong(&tagged("home/{tag.a b}/#", false), "{tag.a b} does not name a tag");
    wrong(&tagged("home/{tag.}/#", false), "{tag.} does not name a tag");
    wrong(&tagged("home/{query.x}/#", false), "is no topic filter");
    // What is not built is no key.
    wrong("when = \"payload.t > 5\"\n", "role.r.uplink.x.when: ");
    wrong("topic = \"x/{tag.a b}\"\n", "{tag.a b} does not name a tag");
}

#[test]
fn tags_are_of_devices_ports_units_and_fleets_and_merge_by_name() {
    let text = format!(
        "{BASE}[device.d]\nrole = \"r\"\ntags = {{ site = \"north\", hall = \"2\" }}\n\
         [fleet.f]\nrole = \"r\"\ncertificate-dns = \"{{id}}.example\"\ntags = {{ site = \"east\" }}\n\
         [serial.p]\nport = \"/dev/ttyS0\"\nrole = \"r\"\nframing = \"line\"\ntags.site = \"west\"\n\
         [serial.b]\nport = \"/dev/ttyS1\"\n[serial.b.modbus]\n[serial.b.unit.1]\nid = \"u\"\nrole = \"r\"\ntags.site = \"south\"\n\
         [serial.b.unit.1.register.a]\naddress = 1\n"
    );
    let case = main_file(&text).layer(
        Origin::DropIn,
        "/etc/tombolo/conf.d/50-tags.toml",
        "[device.d.tags]\nsite = \"south\"\nhall = \"\"\nfloor = \"größe 1\"\n",
    );
    let loaded = case.loaded();
    assert_eq!(tags(&loaded, "d"), "floor=größe 1 site=south ");
    assert_eq!((tags(&loaded, "p"), tags(&loaded, "u")), ("site=west ".to_owned(), "site=south ".to_owned()));
    assert_eq!(loaded.settings.gate.fleets[0].tags.get("site"), Some("east"));
    let registered = main_file(BASE).device(
        "a",
        "format = \"tombolo-device 1.5\"\nrole = \"r\"\ntags = { site = \"north\" }\npsk = \"text:0123456789abcdef\"\n# end\n",
    );
    assert_eq!(tags(&registered.loaded(), "a"), "site=north ");
}

#[test]
fn a_wrong_tag_disables_its_device_alone_and_names_the_line() {
    for (tag, words) in [
        ("site = \"a/b\"", "the value of tag site has to be 1 to 64 bytes"),
        ("site = \"+\"", "the value of tag site has to be"),
        ("site = 5", "is a whole number"),
        ("\"a b\" = \"x\"", "\"a b\" is not the name of a tag"),
    ] {
        let text =
            format!("{BASE}[device.d.tags]\n{tag}\n[device.d]\nrole = \"r\"\n[device.e]\nrole = \"r\"\n");
        let (loads, complaints) = main_file(&text).complaints();
        let about: Vec<_> = complaints.iter().filter(|line| line.contains(words)).collect();
        assert!(
            loads && about.len() == 1 && about[0].contains("tombolo.toml:4: device.d.tags."),
            "{tag}: {complaints:#?}"
        );
        let ids: Vec<_> =
            main_file(&text).loaded().settings.gate.devices.iter().map(|d| d.id.to_string()).collect();
        assert_eq!(ids, ["e"]);
    }
    let many: String = (0..17).map(|number| format!("t{number} = \"x\"\n")).collect();
    let text = format!("{BASE}[device.d]\nrole = \"r\"\n[device.d.tags]\n{many}");
    let (_, complaints) = main_file(&text).complaints();
    assert!(complaints.iter().any(|line| line.contains("a device has at most 16 tags")), "{complaints:#?}");
    let (_, complaints) =
        main_file(&format!("{BASE}[device.d]\nrole = \"r\"\ntags = \"north\"\n")).complaints();
    assert!(complaints.iter().any(|line| line.contains("like { site = \"north\" }")), "{complaints:#?}");
    let bad = main_file(BASE).device("a", "role = \"r\"\ntags = { site = \"a/b\" }\n").complaints().1;
    assert!(
        bad.iter().any(|line| line.contains("devices/a.toml:2: tags: the value of tag site")),
        "{bad:#?}"
    );
}
