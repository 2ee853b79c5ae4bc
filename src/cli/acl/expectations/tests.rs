//! The table. That it agrees with the gate and the MQTT listener that run is tested beside the
//! daemon, which has both.

use super::*;
use crate::config::io::test_device_rules as load;

#[test]
fn a_table_is_read_and_each_fault_has_its_line() {
    let text = "# a comment\n\na POST t/env allow topic=x rule=r # why\nrole:r subscribe # deny\n";
    let read = parse(text).expect("a table");
    assert_eq!(read.iter().map(|one| (one.line, one.allowed)).collect::<Vec<_>>(), [(3, true), (4, false)]);
    assert_eq!(read[0].also, [(Also::Topic, "x".to_owned()), (Also::Rule, "r".to_owned())]);
    assert_eq!(read[1].path, "#");
    let read =
        parse("a PUT u deny reason=no rule rule=r # why\na PUT u deny reason=no_rule\n").expect("a table");
    let reason = (Also::Reason, "no_rule".to_owned());
    assert_eq!(read[0].also, [reason.clone(), (Also::Rule, "r".to_owned())]);
    assert_eq!(read[1].also, [reason]);
    for (text, line) in
        [("a POST t", 1), ("\na GET t allow", 2), ("a POST t maybe", 1), ("a POST t allow because", 1)]
    {
        assert_eq!(parse(text).err().map(|(at, _)| at), Some(line), "{text}");
    }
}

#[test]
fn a_reason_that_there_is_not_is_refused_with_those_that_there_are() {
    for wrong in ["reason=no", "reason=no-rule", "reason="] {
        let (line, said) = parse(&format!("a POST t deny {wrong}")).expect_err("no such reason");
        assert!(line == 1 && said.contains("no_rule, denied") && said.contains("bad_path"), "{said}");
    }
}

#[test]
fn expectations_are_compared_with_rule_topic_and_reason() {
    let loaded = load(
        "[role.r.uplink.t]\npath = \"t/#\"\n[role.r.uplink.no]\npath = \"t/secret\"\ndeny = true\n\
         [role.r.local-publish.own]\ntopic = \"home/{device}/#\"\n[role.r.local-subscribe.all]\ntopic = \"home/#\"\n\
         [role.r.downlink.set]\ntopic = \"{prefix}/{device}/down/set/#\"\npath = \"set/{rest}\"\n[role.s]\n",
    );
    let judge = Judge::new(&loaded.settings, Instant::now());
    let text = "a POST t/env allow rule=t topic=tombolo/gw/a/up/t/env\na POST t/secret deny reason=denied rule=no\n\
                a PUT u deny reason=no_rule\nz POST t deny reason=unknown_device\nb POST t deny\n\
                a publish t/env allow rule=t\na publish home/a/x allow rule=local-publish.own\n\
                a publish home/b/x deny reason=no_rule\na publish /t/env deny reason=bad_path\n\
                a subscribe home/# allow rule=local-subscribe.all\na subscribe set/+ allow rule=downlink.set\n\
                a publish home/a/x allow qos=2\na publish t/env allow qos=1\na publish t/env allow qos=1 rule=t\n\
                a subscribe home/# allow qos=2\na subscribe set/+ allow qos=1 rule=downlink.set\n\
                a subscribe x/# deny\na subscribe $share/g/home/# deny\na subscribe a#b deny reason=bad_path\n\
                a command set/led allow rule=downlink.set\na command get/led deny\nb command set/led deny\n\
                role:r POST t/x allow topic=tombolo/gw/some-device/up/t/x\n";
    for expected in parse(text).expect("a table") {
        let said = judge.say(&expected).expect("a role");
        assert_eq!(difference(&expected, &said), None, "{expected:?}\n{said}");
        let opposite = Expectation { allowed: !expected.allowed, ..expected };
        assert!(difference(&opposite, &said).is_some());
    }
    let nobody = parse("role:nobody publish x deny").expect("a table").remove(0);
    assert!(judge.say(&nobody).is_err());
}

#[test]
fn a_subscription_is_expected_with_the_qos_that_is_granted_and_refused_where_all_of_it_is_denied() {
    let loaded = load(
        "max-queued = 0\n[role.r.local-publish.low]\ntopic = \"low/#\"\nqos = 0\n[role.r.local-publish.some]\ntopic = \"low/some\"\n\
         qos = 1\n[role.r.local-subscribe.all]\ntopic = \"home/#\"\n[role.r.local-subscribe.not]\ntopic = \"home/+/secret/#\"\n\
         deny = true\n[role.r.downlink.set]\ntopic = \"{prefix}/{device}/down/set/#\"\npath = \"set/{rest}\"\n[role.s]\n",
    );
    let judge = Judge::new(&loaded.settings, Instant::now());
    let text = "a subscribe home/# allow qos=0\na subscribe # allow qos=1\na subscribe set/x allow qos=1\n\
                a subscribe home/1/secret deny reason=denied rule=local-subscribe.not\n\
                a subscribe home/+/secret/+ deny reason=denied\na subscribe home/+/+ allow qos=0\n\
                a publish low/x allow qos=0\na publish low/some allow qos=1\n";
    for expected in parse(text).expect("a table") {
        let said = judge.say(&expected).expect("a role");
        assert_eq!(difference(&expected, &said), None, "{expected:?}\n{said}");
    }
    let wrong = parse("a subscribe home/# allow qos=1").expect("a table").remove(0);
    let said = judge.say(&wrong).expect("a role");
    assert_eq!(difference(&wrong, &said).as_deref(), Some("QoS is 0, not 1"));
    for text in ["a subscribe home/# allow qos=3", "a subscribe home/# deny qos=0", "a POST t allow qos="] {
        assert_eq!(parse(text).err().map(|(at, _)| at), Some(1), "{text}");
    }
}

#[test]
fn tags_format_and_size_are_a_part_of_the_question() {
    let loaded = load(
        "[role.r.uplink.t]\npath = \"t/#\"\ntopic = \"plant/{tag.site}/{device}/{tag.hall}\"\n\
         [role.r.uplink.j]\npath = \"j\"\ncontent-formats = [\"application/json\", \"none\"]\nmax-payload = 10\n[role.s]\n",
    );
    let judge = Judge::new(&loaded.settings, Instant::now());
    let text = "role:r POST t deny reason=no_rule tag.site=north\n\
                role:r POST t allow tag.site=north tag.hall=2 topic=plant/north/some-device/2\n\
                a POST t deny reason=no_rule\na POST j allow\na POST j allow content-format=none bytes=10\n\
                a POST j deny reason=content_format content-format=60\na POST j deny reason=too_large bytes=11\n\
                a publish j deny content-format=application/cbor\n";
    for expected in parse(text).expect("a table") {
        let said = judge.say(&expected).expect("a role");
        assert_eq!(difference(&expected, &said), None, "{expected:?}\n{said}");
    }
    for text in [
        "a POST t allow tag.site=x",
        "role:r POST t allow tag.site=",
        "a POST t allow bytes=x",
        "a POST t allow content-format=x/y",
        "role:r POST t allow tag.site=a/b",
    ] {
        assert_eq!(parse(text).err().map(|(at, _)| at), Some(1), "{text}");
    }
}
