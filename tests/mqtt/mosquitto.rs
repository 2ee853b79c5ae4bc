//! Against a real mosquitto over TLS.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tombolo::clock::UnixTime;
use tombolo::message::{ContentFormat, Envelope, Lane, Method, Stamp};
use tombolo::northbound::io::probe::{Grade, ReadingTrial, Trial, probe};
use tombolo::northbound::io::{files, transport};
use tombolo::northbound::reason_code::Cause;
use tombolo::northbound::settings::{Protocol, TlsVersion};
use tombolo::northbound::wire::Version;

use crate::support::mosquitto::{FakeClock, Mosquitto, NOW, Running, good_clock, ordinary, run};
use crate::support::outbox::Item;
use crate::support::pki::{Authority, LONG, Validity};

fn item(topic: &str, payload: &str) -> Item {
    Item {
        sequence: 0,
        original: None,
        same_boot: true,
        device: "door-7".to_owned(),
        path: "t/env".to_owned(),
        topic: topic.to_owned(),
        method: Method::Post,
        content_format: Some(ContentFormat::JSON),
        retain: false,
        envelope: Envelope::None,
        expires_s: None,
        received: Stamp { boottime_ms: 1_000_000, wall_ms: Some(1_700_000_000_123) },
        payload: payload.as_bytes().to_vec(),
    }
}

pub fn store(running: &Running, topic: &str, payload: &str) {
    running.outbox.borrow_mut().push(Lane::Normal, item(topic, payload));
    running.handle.wake();
}

async fn drained(running: &Running) {
    running.until("drains", |running| running.outbox.borrow().waiting(Lane::Normal) == 0).await;
}

#[test]
fn a_subscriber_sees_topic_payload_content_type_and_properties() {
    let mosquitto = Mosquitto::start(ordinary, "");
    let watcher = mosquitto.watch("%t|%p|%C|%P|%r");
    run(mosquitto.settings(), good_clock(), async |running| {
        store(&running, "tombolo/g/door-7/up/t/env", "{\"t\":21}");
        drained(&running).await;
        assert_eq!(running.handle.status().version, Some(Version::V5));
        running
            .until("the subscriber sees it", |_| watcher.lines().iter().any(|l| l.contains("door-7/up")))
            .await;
    });
    let lines = watcher.lines();
    let reading = lines.iter().find(|line| line.starts_with("tombolo/g/door-7")).unwrap();
    for part in [
        "{\"t\":21}",
        "application/json",
        "id:000000000000abce-1",
        "device:door-7",
        "method:POST",
        "received:2023-11-14T22:13:20.123Z",
    ] {
        assert!(reading.contains(part), "{part} in {reading}");
    }
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let statuses: Vec<_> =
            watcher.lines().into_iter().filter(|line| line.starts_with("tombolo/g/gateway/status")).collect();
        if statuses.len() >= 2 {
            assert!(statuses[0].contains("\"online\":true"), "{statuses:?}");
            assert!(statuses[1].contains("\"online\":false"), "the goodbye: {statuses:?}");
            break;
        }
        assert!(Instant::now() < give_up, "{statuses:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn user_name_and_password_are_taken_from_file_and_a_wrong_one_is_named() {
    let folder = crate::support::pki::Folder::new();
    let passwords = folder.path().join("passwords");
    let made =
        Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&passwords).args(["gw", "geheim"]).status();
    assert!(made.unwrap().success());
    let extra = format!("password_file {}\nallow_anonymous false", passwords.display());
    let mosquitto = Mosquitto::start(ordinary, &extra);
    let mut settings = mosquitto.settings();
    settings.username = Some("gw".to_owned());
    settings.password_file = Some(folder.write("password", "geheim\n"));
    run(settings.clone(), good_clock(), async |running| {
        running.until("connects", |running| running.handle.status().connected).await;
    });
    settings.password_file = Some(folder.write("password", "falsch\n"));
    run(settings, good_clock(), async |running| {
        let failure = running.failure().await;
        assert!(failure.contains("password"), "{failure}");
        // Once more without the will, which it may have been as well, and then seldom.
        let waits = |running: &Running| {
            let at = running.handle.status().attempt_at;
            at.is_some_and(|at| at.saturating_duration_since(Instant::now()) > Duration::from_secs(10))
        };
        running.until("waits", waits).await;
        // It is mended, and the owner reloads.
        folder.write("password", "geheim");
        running.handle.with(|core| core.retry_now(Instant::now()));
        running.until("connects", |running| running.handle.status().connected).await;
    });
}

#[test]
fn a_client_certificate_is_shown_and_a_missing_or_unknown_one_is_named() {
    for minimum in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let versions = if minimum == TlsVersion::V1_2 { "tls_version tlsv1.2\n" } else { "" };
        let extra = format!(
            "{versions}cafile {{FOLDER}}/ca.pem\nrequire_certificate true\nuse_identity_as_username true"
        );
        let mosquitto = Mosquitto::start(ordinary, &extra);
        let folder = &mosquitto.folder;
        let mut settings = mosquitto.settings();
        settings.tls.as_mut().unwrap().minimum = minimum;
        let client = mosquitto.authority.client("gw");
        let certificate = folder.write("gw.pem", &client.certificate);
        let key = folder.write("gw.key", &client.key);
        settings.tls.as_mut().unwrap().identity = Some((certificate, key));
        run(settings.clone(), good_clock(), async |running| {
            running.until("connects", |running| running.handle.status().connected).await;
        });
        let stranger = Authority::new("Stranger CA").client("gw");
        folder.write("gw.pem", &stranger.certificate);
        folder.write("gw.key", &stranger.key);
        run(settings.clone(), good_clock(), async |running| {
            let failure = running.failure().await;
            assert!(failure.contains("refuses our client certificate"), "{minimum:?}: {failure}");
            // The right files come, and are read without a restart.
            folder.write("gw.pem", &client.certificate);
            folder.write("gw.key", &client.key);
            running.handle.with(|core| core.retry_now(Instant::now()));
            running.until("connects", |running| running.handle.status().connected).await;
        });
        settings.tls.as_mut().unwrap().identity = None;
        run(settings, good_clock(), async |running| {
            let failure = running.failure().await;
            assert!(
                failure.contains("want a client certificate")
                    || failure.contains("wants a client certificate"),
                "{minimum:?}: {failure}"
            );
        });
    }
}

type Server = Box<dyn FnOnce(&Authority) -> crate::support::pki::Identity>;

#[test]
fn a_wrong_chain_is_refused_and_the_cause_is_named() {
    let expired = Validity { from: (2020, 1, 1), to: (2024, 3, 1) };
    let future = Validity { from: (2030, 1, 1), to: (2031, 1, 1) };
    let cases: [(&str, Server, &[&str]); 5] = [
        (
            "unknown CA",
            Box::new(|_| Authority::new("Other CA").server("localhost", &LONG)),
            &["was issued by \"Other CA\", which is not trusted", "ca-file"],
        ),
        ("name", Box::new(|ca| ca.server("broker.elsewhere", &LONG)), &["`localhost`", "`broker.elsewhere`"]),
        ("expired", Box::new(move |ca| ca.server("localhost", &expired)), &["expired on 2024-03-01"]),
        (
            "future",
            Box::new(move |ca| ca.server("localhost", &future)),
            &["is not valid before 2030-01-01", "clock"],
        ),
        (
            "purpose",
            Box::new(|ca| ca.issue("localhost", rcgen::ExtendedKeyUsagePurpose::ClientAuth, &LONG)),
            &["not for TLS servers"],
        ),
    ];
    for (name, server, words) in cases {
        let mosquitto = Mosquitto::start(server, "");
        run(mosquitto.settings(), good_clock(), async |running| {
            let failure = running.failure().await;
            for word in words {
                assert!(failure.contains(word), "{name}: {failure}");
            }
        });
    }
}

#[test]
fn with_the_clock_at_1970_or_2036_and_not_trusted_it_connects() {
    let lately = Validity { from: (2026, 6, 1), to: (2027, 1, 1) };
    let mosquitto = Mosquitto::start(|ca| ca.server("localhost", &lately), "");
    let old_build = UnixTime::from_secs(1_735_689_600); // 2025-01-01, before the certificate was made
    for raw in [UnixTime(0), UnixTime::from_secs(2_082_758_400)] {
        for floor in [old_build, NOW] {
            let clock = FakeClock { raw, trusted: false, floor };
            run(mosquitto.settings(), Arc::new(clock), async |running| {
                running.until("connects", |running| running.handle.status().connected).await;
                store(&running, "a", "1");
                drained(&running).await;
            });
        }
    }
    // Believed, 2036 is after the certificate's end.
    let clock = FakeClock { raw: UnixTime::from_secs(2_082_758_400), trusted: true, floor: NOW };
    run(mosquitto.settings(), Arc::new(clock), async |running| {
        assert!(running.failure().await.contains("expired on 2027-01-01"));
    });
}

#[test]
fn what_has_certainly_expired_is_refused_however_wrong_the_clock() {
    let expired = Validity { from: (2020, 1, 1), to: (2024, 3, 1) };
    let mosquitto = Mosquitto::start(|ca| ca.server("localhost", &expired), "");
    for raw in [UnixTime(0), UnixTime::from_secs(1_600_000_000), UnixTime::from_secs(2_082_758_400)] {
        let clock = FakeClock { raw, trusted: false, floor: NOW };
        run(mosquitto.settings(), Arc::new(clock), async |running| {
            assert!(running.failure().await.contains("expired on 2024-03-01"));
        });
    }
}

#[test]
fn with_an_untrusted_clock_every_other_check_stays() {
    let future = Validity { from: (2030, 1, 1), to: (2031, 1, 1) };
    let clock = || Arc::new(FakeClock { raw: UnixTime(0), trusted: false, floor: NOW });
    let mosquitto = Mosquitto::start(|ca| ca.server("broker.elsewhere", &future), "");
    run(mosquitto.settings(), clock(), async |running| {
        let failure = running.failure().await;
        assert!(failure.contains("broker.elsewhere"), "{failure}");
    });
    let mosquitto = Mosquitto::start(|_| Authority::new("Other CA").server("localhost", &future), "");
    run(mosquitto.settings(), clock(), async |running| {
        let failure = running.failure().await;
        assert!(failure.contains("not trusted"), "{failure}");
    });
}

#[test]
fn our_own_files_are_named_when_they_are_wrong() {
    let mosquitto = Mosquitto::start(ordinary, "");
    let folder = &mosquitto.folder;
    let client = mosquitto.authority.client("gw");
    let other = mosquitto.authority.client("other");
    let certificate = folder.write("gw.pem", &client.certificate);
    let key = folder.write("gw.key", &client.key);
    let other_key = folder.write("other.key", &other.key);
    let empty = folder.write("empty.pem", "");
    let nonsense = folder.write("nonsense.pem", "hello");
    let missing = folder.path().join("missing.pem");
    let version_1 = folder.path().join("v1.pem");
    let made = Command::new("openssl")
        .args(["req", "-new", "-key"])
        .arg(&key)
        .args(["-subj", "/CN=gw", "-out"])
        .arg(folder.path().join("gw.csr"))
        .stderr(std::process::Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let made = Command::new("openssl")
        .args(["x509", "-req", "-in"])
        .arg(folder.path().join("gw.csr"))
        .arg("-signkey")
        .arg(&key)
        .arg("-out")
        .arg(&version_1)
        .stderr(std::process::Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let cases = [
        (None, Some((&certificate, &other_key)), "does not belong to the certificate"),
        (None, Some((&version_1, &key)), "X.509 version 1"),
        (None, Some((&empty, &key)), "empty.pem: is empty"),
        (None, Some((&certificate, &nonsense)), "nonsense.pem holds no private key"),
        (None, Some((&nonsense, &key)), "nonsense.pem holds no certificate"),
        (None, Some((&missing, &key)), "missing.pem: cannot be read"),
        (Some(&nonsense), None, "nonsense.pem holds no CA certificate"),
        (Some(&missing), None, "missing.pem: cannot be read"),
    ];
    for (ca, identity, words) in cases {
        let mut settings = mosquitto.settings();
        let tls = settings.tls.as_mut().unwrap();
        if let Some(ca) = ca {
            tls.ca_file = Some(ca.clone());
        }
        tls.identity = identity.map(|(certificate, key)| (certificate.clone(), key.clone()));
        run(settings, good_clock(), async |running| {
            let failure = running.failure().await;
            assert!(failure.contains(words), "{words}: {failure}");
        });
    }
}

#[test]
fn a_port_without_tls_and_a_name_without_address_are_named() {
    let mosquitto = Mosquitto::start(ordinary, "");
    let mut settings = mosquitto.settings();
    settings.port = mosquitto.plain_port;
    run(settings, good_clock(), async |running| {
        let failure = running.failure().await;
        assert!(failure.contains("TLS"), "{failure}");
    });
    let mut settings = mosquitto.settings();
    settings.host = "no-such-host.invalid".to_owned();
    run(settings, good_clock(), async |running| {
        let failure = running.failure().await;
        assert!(failure.contains("no-such-host.invalid cannot be looked up"), "{failure}");
    });
    let mut settings = mosquitto.settings();
    settings.port = crate::support::mosquitto::free_port();
    run(settings, good_clock(), async |running| {
        let failure = running.failure().await;
        assert!(failure.contains("refused"), "{failure}");
    });
}

#[test]
fn a_backlog_flows_over_either_protocol() {
    for protocol in [Protocol::V5, Protocol::V3_1_1] {
        let mosquitto =
            Mosquitto::with_general(ordinary, "max_inflight_messages 1000\nmax_queued_messages 0", "");
        let mut settings = mosquitto.settings();
        settings.protocol = protocol;
        run(settings, good_clock(), async |running| {
            for number in 0..20_000 {
                running.outbox.borrow_mut().push(Lane::Normal, item("a", &number.to_string()));
            }
            running.handle.wake();
            drained(&running).await;
            assert_eq!(running.handle.status().counters.acknowledged, 20_000);
            assert_eq!(running.handle.status().connections, 1);
        });
    }
}

#[test]
fn broker_kills_lose_nothing_and_repeat_at_most_a_window() {
    let mut mosquitto = Mosquitto::with_general(ordinary, "max_inflight_messages 100", "");
    let settings = mosquitto.settings();
    run(settings, good_clock(), async |running| {
        let mut stored = 0;
        for round in 0..5u64 {
            running.until("connects", |running| running.handle.status().connected).await;
            for _ in 0..2000 {
                stored += 1;
                running.outbox.borrow_mut().push(Lane::Normal, item("a", &stored.to_string()));
            }
            running.handle.wake();
            let some = running.outbox.borrow().released[1].len() + 200 * round as usize;
            running.until("some pass", |running| running.outbox.borrow().released[1].len() > some).await;
            mosquitto.restart();
            running.handle.with(|core| core.retry_now(Instant::now()));
        }
        drained(&running).await;
        let status = running.handle.status();
        assert_eq!(status.counters.acknowledged, stored);
        assert!(status.counters.sent - stored <= 5 * 100, "{:?}", status.counters);
        let outbox = running.outbox.borrow();
        assert!(outbox.rejected.is_empty());
        assert!(outbox.released[1].iter().copied().eq(1..=stored));
    });
}

#[test]
fn a_denied_topic_ends_in_rejected_and_all_others_flow() {
    let folder = crate::support::pki::Folder::new();
    let acl = folder.write("acl", "topic readwrite tombolo/#\ntopic write good/#\n");
    let mosquitto = Mosquitto::start(ordinary, &format!("acl_file {}", acl.display()));
    run(mosquitto.settings(), good_clock(), async |running| {
        for number in 1..=10 {
            store(&running, if number == 3 { "bad/1" } else { "good/1" }, &number.to_string());
        }
        drained(&running).await;
        assert_eq!(running.outbox.borrow().rejected, [(Lane::Normal, 3, Cause::Code(0x87))]);
        assert_eq!(running.handle.status().counters.acknowledged, 9);
    });
}

#[test]
fn an_acl_that_denies_the_status_and_its_subscription_costs_no_reading() {
    let folder = crate::support::pki::Folder::new();
    let acl = folder.write("acl", "topic write good/#\n");
    let mosquitto = Mosquitto::start(ordinary, &format!("acl_file {}", acl.display()));
    run(mosquitto.settings(), good_clock(), async |running| {
        running.until("connects", |running| running.handle.status().connected).await;
        for number in 1..=10 {
            store(&running, "good/1", &number.to_string());
        }
        drained(&running).await;
        assert!(running.outbox.borrow().rejected.is_empty());
        let left_out = running.handle.status().left_out;
        assert!(left_out.iter().any(|what| what.contains("gateway/status")), "{left_out:?}");
    });
}

#[test]
fn an_acl_that_denies_everything_condemns_nothing_and_heals_when_it_is_mended() {
    let folder = crate::support::pki::Folder::new();
    let acl = folder.write("acl", "topic read nothing/#\n");
    let mut settings;
    let mut mosquitto = Mosquitto::start(ordinary, &format!("acl_file {}", acl.display()));
    settings = mosquitto.settings();
    settings.topics.gateway_status = None;
    run(settings, good_clock(), async |running| {
        for number in 1..=50 {
            store(&running, &format!("t/{}", number % 5), &number.to_string());
        }
        running.until("is refused", |running| running.handle.status().nothing_taken.is_some()).await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert!(running.outbox.borrow().rejected.is_empty());
        folder.write("acl", "topic write t/#\n");
        mosquitto.restart();
        running.handle.with(|core| core.retry_now(Instant::now()));
        drained(&running).await;
        assert!(running.outbox.borrow().rejected.is_empty());
    });
}

#[test]
fn an_address_that_fails_at_tls_is_left_for_the_next_and_a_dead_one_costs_little() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mosquitto = Mosquitto::start(ordinary, "");
    // Another server on the same port of another address: it hangs up on every handshake.
    let other = std::net::TcpListener::bind(("127.0.0.9", mosquitto.port)).unwrap();
    std::thread::spawn(move || other.incoming().for_each(drop));
    let settings = mosquitto.settings();
    let tls = files::load(&settings, good_clock()).unwrap().tls;
    let at = |host: &str| std::net::SocketAddr::new(host.parse().unwrap(), mosquitto.port);
    // 192.0.2.0/24 is nobody's (RFC 5737): silence, or no route.
    let addresses = [at("192.0.2.1"), at("127.0.0.9"), at("127.0.0.1")];
    let begun = Instant::now();
    let reached =
        runtime.block_on(transport::reach(tls.clone(), "localhost", mosquitto.port, &addresses, &[]));
    let (_, dialed) = reached.map_err(|error| error.text).unwrap();
    assert_eq!(dialed.peer, Some(at("127.0.0.1")));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let reached = runtime.block_on(transport::reach(tls, "localhost", mosquitto.port, &addresses[1..2], &[]));
    let Err(error) = reached else { panic!() };
    assert!(error.text.contains("TLS"), "{}", error.text);
}

#[test]
fn a_rival_with_our_client_id_makes_us_wait_minutes() {
    let mosquitto = Mosquitto::start(ordinary, "");
    let mut settings = mosquitto.settings();
    settings.client_id = "same".to_owned();
    settings.protocol = Protocol::V3_1_1;
    run(settings, good_clock(), async |running| {
        // This broker closes without a word (0x8E would count sooner).
        for round in 1..=5 {
            running.handle.with(|core| core.retry_now(Instant::now()));
            running.until("connects", |running| running.handle.status().connections == round).await;
            // With a publish in flight the publish would be suspected instead.
            running.answered().await;
            let port = mosquitto.plain_port.to_string();
            let rival = Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &port, "-i", "same", "-t", "x", "-m", "x"])
                .status();
            assert!(rival.unwrap().success());
            running.until("is taken over", |running| !running.handle.status().connected).await;
        }
        let status = running.handle.status();
        let failure = status.failure.unwrap();
        assert!(failure.contains("client id"), "{failure}");
        assert!(status.attempt_at.unwrap() - Instant::now() > Duration::from_secs(25));
    });
}

#[test]
fn the_connection_shows_on_demand_that_it_works() {
    let mosquitto = Mosquitto::start(ordinary, "");
    run(mosquitto.settings(), good_clock(), async |running| {
        assert_eq!(running.handle.check(Duration::from_secs(5)).await.took, None);
        running.until("connects", |running| running.handle.status().connected).await;
        assert!(running.answered().await < Duration::from_secs(5));
    });
}

fn reading(topic: &str) -> ReadingTrial {
    let of = "rule x of role y".to_owned();
    ReadingTrial { topic: topic.to_owned(), of, retain: false, beside: false, no_device: false }
}

fn trial<'a>(scratch: &'a str, readings: &'a [ReadingTrial]) -> Trial<'a> {
    Trial {
        scratch,
        readings,
        commands: &[],
        payload_max: 1024,
        beside: true,
        own_taken: false,
        files_changed: false,
    }
}

#[test]
fn an_acl_that_takes_readings_alone_is_a_warning_and_one_that_takes_nothing_a_failure() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scratch = "tombolo/g/gateway/check";
    let readings = [reading("tombolo/g/door/up/tombolo-check")];
    for (acl, protocol, fails) in [
        ("topic write tombolo/g/+/up/#\n", Protocol::V5, false),
        ("topic write other/#\n", Protocol::V5, true),
        // Over 3.1.1 what is denied is acknowledged, and what comes back to nobody may be taken.
        ("topic read tombolo/#\n", Protocol::V3_1_1, false),
    ] {
        let folder = crate::support::pki::Folder::new();
        let file = folder.write("acl", acl);
        let mosquitto = Mosquitto::start(ordinary, &format!("acl_file {}", file.display()));
        for beside in [true, false] {
            let mut settings = mosquitto.settings();
            settings.protocol = protocol;
            let trial = Trial { beside, ..trial(scratch, &readings) };
            let steps = runtime.block_on(probe(&settings, good_clock(), &trial));
            let worst = steps.iter().filter(|step| step.name == "publish").map(|step| step.grade);
            let failed = worst.clone().any(|grade| grade == Grade::Fail);
            // Beside the gateway it may be the check's client id that is refused.
            assert_eq!(failed, fails && !beside, "{acl}{steps:#?}");
            if fails && beside {
                assert!(steps.iter().any(|step| step.text.contains("not proven: beside")), "{steps:#?}");
            }
            assert!(worst.clone().all(|grade| grade != Grade::Ok), "{acl}{steps:#?}");
        }
    }
}

#[test]
fn readings_that_a_role_allows_and_the_broker_cannot_take_are_foreseen() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mosquitto = Mosquitto::with_general(ordinary, "max_packet_size 5000", "");
    for (payload_max, warned) in [(1024, false), (65_536, true)] {
        let trial = Trial { payload_max, ..trial("tombolo/g/gateway/check", &[]) };
        let steps = runtime.block_on(probe(&mosquitto.settings(), good_clock(), &trial));
        let said = steps.iter().any(|step| step.text.contains("takes packets of 5000 bytes"));
        assert_eq!(said, warned, "{steps:#?}");
    }
}

#[test]
fn the_probe_goes_step_by_step_and_advises() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scratch = "tombolo/g/gateway/check";
    let readings = [reading("tombolo/g/door/up/tombolo-check")];
    let mosquitto = Mosquitto::start(ordinary, "");
    let steps = runtime.block_on(probe(&mosquitto.settings(), good_clock(), &trial(scratch, &readings)));
    let seen: Vec<_> = steps.iter().map(|step| (step.name, step.grade)).collect();
    assert_eq!(
        seen,
        [
            ("dns", Grade::Ok),
            ("tcp", Grade::Ok),
            ("tls", Grade::Ok),
            ("mqtt", Grade::Ok),
            ("mqtt", Grade::Warn),
            ("publish", Grade::Ok),
            ("readings", Grade::Ok)
        ],
        "{steps:#?}"
    );
    assert!(steps[4].text.contains("Receive Maximum 20"));
    assert!(steps[4].advice.as_ref().unwrap().contains("max_inflight_messages"));

    let mut settings = mosquitto.settings();
    settings.protocol = Protocol::V3_1_1;
    let steps = runtime.block_on(probe(&settings, good_clock(), &trial(scratch, &readings)));
    let said = steps.iter().find(|step| step.grade == Grade::Warn && step.text.contains("3.1.1")).unwrap();
    assert!(said.text.starts_with("protocol = \"3.1.1\" is configured"), "{said:?}");

    let folder = crate::support::pki::Folder::new();
    let acl = folder.write("acl", "topic read tombolo/#\n");
    let denying = Mosquitto::start(ordinary, &format!("acl_file {}", acl.display()));
    let stopped = Trial { beside: false, ..trial(scratch, &readings) };
    let steps = runtime.block_on(probe(&denying.settings(), good_clock(), &stopped));
    let last = steps.last().unwrap();
    assert_eq!((last.name, last.grade), ("publish", Grade::Fail), "{steps:#?}");
    for words in [scratch, "tombolo/g/door/up/tombolo-check", "not authorized (0x87)"] {
        assert!(last.text.contains(words), "{words} in {last:?}");
    }
    assert!(last.advice.as_ref().unwrap().contains("allow tombolo/g/# at the broker"), "{last:?}");

    let mut settings = mosquitto.settings();
    settings.port = crate::support::mosquitto::free_port();
    let steps = runtime.block_on(probe(&settings, good_clock(), &trial(scratch, &readings)));
    let last = steps.last().unwrap();
    assert_eq!((last.name, last.grade), ("tcp", Grade::Fail));
}
