//! The cases of the ETSI plugtest CoAP#4 in which the gateway is observed
//! (docs/coap-conformance.md), with libcoap and aiocoap as the observers.

use tombolo_test_support::wait_for;

use super::Site;
use super::lossy_link::LossyLink;
use super::observe::{Observer, outcomes, publish, taken};
use super::plugtests::{Client, assert_shows, first, offer, say, shows, site, value};

/// The numbers of the notifications with this token, and those of the answers to its registrations.
fn sequence(messages: &[String], token: &str) -> Vec<u32> {
    let of_token = messages.iter().filter(|message| message.contains(token) && message.contains("c:2.05"));
    of_token.filter_map(|message| value(message, "Observe").parse().ok()).collect()
}

/// A message that nobody observes, the `number`th: it waits, although the device is awake.
fn held(site: &Site, payload: &str, number: u64) {
    say(site, "obs", payload, "text/plain");
    taken(site, number);
    wait_for("it to be held", || outcomes(site, "obs").1 == ["waiting"]);
}

/// The last message was fetched, not told.
fn fetched(site: &Site, case: &str) {
    let is_fetched = |told: Vec<String>| told.last().is_some_and(|last| last.contains("status:fetched"));
    wait_for(case, || is_fetched(outcomes(site, "obs").0));
}

#[test]
fn td_coap_obs_01_02_04_06_07_09_10_12_a_resource_is_observed_until_the_client_ends_it() {
    let (site, _) = site("plugtest-observe");
    offer(&site, "obs", "one", "text/plain");
    let mut client = Client::start(&site, site.daemon.coaps);
    let told = |client: &mut Client, case: &str, token: &str, payload: &str| {
        let seen = client.messages().len();
        say(&site, "obs", payload, "text/plain");
        let quoted = format!("'{payload}'");
        let notification = ["t:CON c:2.05", token, "Observe:", "Content-Format:text/plain", &quoted];
        let seen = client.follow(case, seen, &[&notification, &["t:ACK c:0.00"]]);
        assert_eq!(value(first(&seen, &notification), " i"), value(first(&seen, &["t:ACK"]), " i"), "{case}");
    };
    let registered: &[&str] = &["t:ACK c:2.05", "{a1}", "Observe:", "Content-Format:text/plain", "'one'"];
    client.ask("OBS_01", "0 1 a1 obs 6=", &[&["t:CON c:GET", "Observe:0"], registered]);
    told(&mut client, "OBS_01", "{a1}", "two");
    told(&mut client, "OBS_09", "{a1}", "three");
    // A plain GET has its own token, and changes nothing.
    let seen = client.ask("OBS_10", "0 1 b2 obs", &[&["t:ACK c:2.05", "{b2}", "'three'"]]);
    assert!(!first(&seen, &["{b2}", "c:2.05"]).contains("Observe"), "OBS_10: {seen:?}");
    told(&mut client, "OBS_10", "{a1}", "four");
    // The client registers again: the same relation, under the same token.
    client.ask("OBS_04", "0 1 a1 obs 6=", &[&["t:ACK c:2.05", "{a1}", "Observe:", "'four'"]]);
    told(&mut client, "OBS_04", "{a1}", "five");
    let numbers = sequence(&client.messages(), "{a1}");
    assert_eq!(numbers.len(), 6, "OBS_04: one notification each, {numbers:?}");
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "OBS_01: {numbers:?}");
    // There is no message any more, which is told; the path stays observed.
    let seen = client.messages().len();
    publish(&site, "obs", "", &["-D", "publish", "user-property", "method", "DELETE"]);
    taken(&site, 6);
    let seen = client.follow("OBS_07", seen, &[&["t:CON c:2.05", "{a1}", "Observe:"], &["t:ACK c:0.00"]]);
    assert!(!first(&seen, &["t:CON c:2.05"]).contains("Content-Format"), "OBS_07: it is empty: {seen:?}");
    client.ask("OBS_07", "0 1 f6 obs", &[&["t:ACK c:4.04", "{f6}"]]);
    told(&mut client, "OBS_07", "{a1}", "six");
    // Observe 1 ends it.
    let seen = client.ask(
        "OBS_12",
        "0 1 a1 obs 6=01",
        &[&["c:GET", "Observe:1"], &["t:ACK c:2.05", "{a1}", "'six'"]],
    );
    assert!(!first(&seen, &["t:ACK c:2.05"]).contains("Observe"), "OBS_12: {seen:?}");
    held(&site, "seven", 8);
    client.ask("OBS_12", "0 1 c3 obs", &[&["t:ACK c:2.05", "{c3}", "'seven'"]]);
    fetched(&site, "OBS_12");
    assert!(!shows(&client.messages(), &[&["t:CON", "'seven'"]]), "OBS_12: it is not told");
    // A registration that is not confirmable is answered so; notifications are confirmable all the
    // same.
    client.ask("OBS_02", "1 1 d4 obs 6=", &[&["t:NON c:GET"], &["t:NON c:2.05", "{d4}", "Observe:"]]);
    told(&mut client, "OBS_02", "{d4}", "eight");
    // The client has forgotten it.
    client.forget();
    let seen = client.messages().len();
    say(&site, "obs", "nine", "text/plain");
    let seen = client.follow("OBS_06", seen, &[&["t:CON c:2.05", "{d4}", "'nine'"], &["t:RST c:0.00"]]);
    assert_eq!(value(first(&seen, &["t:CON"]), " i"), value(first(&seen, &["t:RST"]), " i"), "OBS_06");
    held(&site, "ten", 11);
    client.ask("OBS_06", "0 1 e5 obs", &[&["t:ACK c:2.05", "{e5}", "'ten'"]]);
    fetched(&site, "OBS_06");
    assert!(!shows(&client.messages(), &[&["t:CON", "'ten'"]]), "OBS_06: no further notification");
}

#[test]
fn td_coap_obs_08_a_message_of_another_content_format_ends_the_observation_with_4_06() {
    let (site, _) = site("plugtest-format");
    offer(&site, "obs", "one", "text/plain");
    let mut client = Client::start(&site, site.daemon.coaps);
    client.ask("OBS_08", "0 1 a1 obs 6=", &[&["t:ACK c:2.05", "{a1}", "Observe:", "'one'"]]);
    let seen = client.messages().len();
    say(&site, "obs", "{}", "application/json");
    let seen = client.follow("OBS_08", seen, &[&["t:CON c:4.06", "{a1}"], &["t:ACK c:0.00"]]);
    assert!(!first(&seen, &["c:4.06"]).contains("Observe"), "OBS_08: {seen:?}");
    held(&site, "two", 3);
    client.ask("OBS_08", "0 1 b2 obs 6=", &[&["t:ACK c:2.05", "{b2}", "Observe:", "'two'"]]);
    fetched(&site, "OBS_08");
    assert!(!shows(&client.messages(), &[&["t:CON c:2.05"]]), "OBS_08: no further notification");
    // Accept decides where there is no message yet.
    client.ask("OBS_08", "0 1 c3 other 6= 17=", &[&["t:ACK c:2.05", "{c3}", "Observe:"]]);
    say(&site, "other", "{}", "application/json");
    client.follow("OBS_08", 0, &[&["t:CON c:4.06", "{c3}"]]);
}

#[test]
fn td_coap_obs_11_lost_notifications_and_acknowledgements_are_made_good_one_at_a_time() {
    let (site, _) = site("plugtest-observe-lossy");
    let link = LossyLink::named(site.daemon.coaps);
    let notified = |path: &str, payload: &str, count: usize| {
        publish(&site, path, payload, &[]);
        wait_for("its outcome", || outcomes(&site, path).0.len() == count);
        assert!(outcomes(&site, path).0[count - 1].contains("status:notified"), "OBS_11: {payload}");
    };
    let mut client = Client::start(&site, link.address);
    client.ask("OBS_11", "0 1 a1 obs 6=", &[&["t:ACK c:2.05", "{a1}", "Observe:"]]);
    // The first notification, twice.
    link.lose(&[], &[0, 1]);
    // A newer one takes the place of one that waits, and of none that is under way.
    publish(&site, "obs", "one", &[]);
    wait_for("the first loss", || link.lost() == 1);
    notified("obs", "two", 2);
    assert_eq!(link.lost(), 2, "OBS_11");
    let seen = client.messages();
    let steps: [&[&str]; 4] =
        [&["t:CON", "'one'"], &["t:ACK c:0.00"], &["t:CON", "'two'"], &["t:ACK c:0.00"]];
    assert_shows("OBS_11", &seen, &steps);
    assert_eq!(seen.iter().filter(|message| message.contains("t:CON c:2.05")).count(), 2, "{seen:?}");
    let numbers = sequence(&seen, "{a1}");
    assert!(numbers.len() == 3 && numbers.windows(2).all(|pair| pair[0] < pair[1]), "OBS_11: {numbers:?}");
    drop(client);
    // Its acknowledgement, with aiocoap: libcoap 4.3.1 does not acknowledge what it gets again.
    let observer = Observer::start_at(&site, link.address, &["seen"]);
    link.lose(&[0], &[]);
    notified("seen", "one", 1);
    notified("seen", "two", 2);
    assert_eq!((link.lost(), observer.texts("seen")), (3, vec![String::new(), "one".into(), "two".into()]));
    observer.check_order("seen");
}
