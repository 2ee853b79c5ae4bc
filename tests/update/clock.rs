//! Expiry is judged by the gateway's clock rules, and a wrong clock leaves nothing behind.

use tombolo::clock::UnixTime;
use tombolo::update::check::Fault;
use tombolo::update::floor::{Floor, MetadataRole};

use crate::gateway::{Gateway, NOW};

/// When the timestamps expire.
const EXPIRES: UnixTime = UnixTime::from_secs(1_798_761_600);
/// 2036.
const FAR: UnixTime = UnixTime::from_secs(2_100_000_000);

#[test]
fn a_repository_that_is_not_signed_anew_is_stale_from_the_second_it_expires() {
    let mut gateway = Gateway::that_has_seen("newer");
    gateway.now = Some(UnixTime(EXPIRES.0 - 1));
    assert_eq!(gateway.offered("newer"), "2.1.0");
    gateway.now = Some(EXPIRES);
    let fault = gateway.check("newer").unwrap_err();
    assert_eq!(fault, Fault::Stale { role: MetadataRole::Timestamp, since: EXPIRES });
    assert_eq!(
        fault.to_string(),
        "timestamp.json expired at 2027-01-01T00:00:00.000Z: the repository was not signed anew"
    );
    assert_eq!(gateway.offered("signed-anew"), "2.1.0");
}

#[test]
fn a_fresh_timestamp_does_not_hide_that_the_targets_expired() {
    let mut gateway = Gateway::new();
    gateway.now = Some(EXPIRES);
    let fault = gateway.check("targets-expired").unwrap_err();
    assert!(
        matches!(fault, Fault::Stale { role: MetadataRole::Targets | MetadataRole::Snapshot, .. }),
        "{fault}"
    );
}

#[test]
fn a_clock_that_was_in_2036_does_not_stop_the_checks_once_it_is_right() {
    let mut gateway = Gateway::new();
    gateway.now = Some(FAR);
    assert!(matches!(gateway.check("newer"), Err(Fault::Stale { .. })));
    gateway.now = Some(NOW);
    assert_eq!(gateway.offered("newer"), "2.1.0");
    assert!(gateway.refusal("first").starts_with("rollback: "), "and the floor held");
}

#[test]
fn while_the_clock_is_not_trusted_nothing_is_asked() {
    let mut gateway = Gateway::new();
    gateway.now = None;
    assert_eq!(gateway.check("newer"), Err(Fault::ClockUntrusted));
    assert_eq!(gateway.floor(), Floor::default());
    gateway.now = Some(NOW);
    assert_eq!(gateway.offered("newer"), "2.1.0");
}
