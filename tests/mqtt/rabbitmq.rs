//! Against a real RabbitMQ 3.10, which closes on MQTT 5, on a denied topic and on a denied
//! subscription.

use std::time::Duration;

use tombolo::message::Lane;
use tombolo::northbound::io::probe::{Grade, ReadingTrial, Trial, probe};
use tombolo::northbound::reason_code::Cause;
use tombolo::northbound::settings::Protocol;
use tombolo::northbound::wire::Version;

use crate::mosquitto::store;
use crate::support::mosquitto::{good_clock, run};
use crate::support::rabbitmq::RabbitMq;

#[test]
fn a_least_privilege_account_gets_all_good_readings_through_and_names_what_it_may_not() {
    // It may write readings below `good/`, and nothing else: no status, no subscription.
    let rabbitmq = RabbitMq::start("^good\\..*");
    run(rabbitmq.settings(), good_clock(), async |running| {
        running.until("connects", |running| running.handle.status().connected).await;
        let status = running.handle.status();
        assert_eq!(status.version, Some(Version::V3_1_1));
        assert!(status.version_why.is_some(), "{status:?}");
        // A bad one among the good, again and again; others a few times a second.
        let mut bad = Vec::new();
        for second in 0..12u64 {
            for part in 0..4 {
                let number = running.outbox.borrow().newest_of(Lane::Normal) + 1;
                if part == 2 && second % 4 == 0 {
                    bad.push(number);
                    store(&running, "bad/x", "bad");
                } else {
                    store(&running, &format!("good/{part}"), &number.to_string());
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
        // A last one to compare with, until all is judged.
        let mut rounds = 0;
        while running.outbox.borrow().waiting(Lane::Normal) > 0 && rounds < 240 {
            rounds += 1;
            store(&running, "good/last", "1");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let outbox = running.outbox.borrow();
        let status = running.handle.status();
        assert_eq!(outbox.waiting(Lane::Normal), 0, "{status:?}");
        let rejected: Vec<_> =
            outbox.rejected.iter().map(|(_, sequence, cause)| (*sequence, *cause)).collect();
        let expected: Vec<_> = bad.iter().map(|sequence| (*sequence, Cause::Closed)).collect();
        assert_eq!(rejected, expected);
        assert!(status.left_out.iter().any(|what| what.contains("gateway-status")), "{:?}", status.left_out);
        assert!(status.connections < 40, "{}", status.connections);
    });
}

#[test]
fn an_ordinary_account_gets_status_and_readings_through_on_one_connection() {
    let rabbitmq = RabbitMq::start(".*");
    run(rabbitmq.settings(), good_clock(), async |running| {
        running.until("connects", |running| running.handle.status().connected).await;
        for number in 0..500 {
            store(&running, "good/x", &number.to_string());
        }
        running.until("drains", |running| running.outbox.borrow().waiting(Lane::Normal) == 0).await;
        assert!(running.outbox.borrow().rejected.is_empty());
    });
}

#[test]
fn the_check_warns_where_the_account_may_not_use_its_topic() {
    let rabbitmq = RabbitMq::start("^good\\..*");
    let mut settings = rabbitmq.settings();
    settings.protocol = Protocol::V3_1_1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let trial = Trial {
        scratch: "tombolo/g/gateway/check",
        readings: &[ReadingTrial {
            topic: "good/tombolo-check".to_owned(),
            of: "rule x of role y".to_owned(),
            retain: false,
            beside: false,
            no_device: false,
        }],
        commands: &[],
        payload_max: 1024,
        beside: true,
        own_taken: false,
        files_changed: false,
    };
    let steps = runtime.block_on(probe(&settings, good_clock(), &trial));
    assert!(steps.iter().all(|step| step.grade != Grade::Fail), "{steps:#?}");
    let last = steps.iter().find(|step| step.name == "publish").unwrap();
    assert_eq!(last.grade, Grade::Warn, "{steps:#?}");
    let expected = "the broker closes the connection over a subscription to tombolo/g/gateway/check; readings may still pass";
    assert_eq!(last.text, expected);
    assert!(last.advice.as_ref().unwrap().starts_with("allow tombolo/g/# at the broker"), "{last:?}");
}
