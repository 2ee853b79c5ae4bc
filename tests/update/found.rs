//! What a repository rightly offers.

use tombolo::update::check::Fault;
use tombolo::update::eligibility::{Decision, Reason};
use tombolo::update::floor::MetadataVersions;

use crate::gateway::Gateway;

#[test]
fn a_newer_version_is_found_with_its_length_and_hash_and_the_floor_rises() {
    let gateway = Gateway::new();
    let Ok(Decision::Available(offer)) = gateway.check("newer") else { panic!("nothing is found") };
    assert_eq!((offer.version.as_str(), offer.target.as_str()), ("2.1.0", "gateway-2.1.0.bin"));
    assert_eq!((offer.bytes, &offer.sha256[..3]), (14, &[0x35, 0x38, 0x75][..]));
    let seen = MetadataVersions { root: 1, timestamp: 3, snapshot: 2, targets: 2 };
    assert_eq!(gateway.floor().metadata, seen);
    assert_eq!(gateway.offered("newer"), "2.1.0", "the same again is no rollback");
}

#[test]
fn with_the_newest_installed_the_gateway_is_up_to_date() {
    let mut gateway = Gateway::new();
    gateway.installed.version = Some("2.1.0".to_owned());
    assert_eq!(gateway.check("newer"), Ok(Decision::UpToDate));
}

#[test]
fn a_repository_for_another_product_offers_nothing_and_says_why() {
    let Ok(Decision::Ineligible { version, reason }) = Gateway::new().check("other-product") else {
        panic!("it is offered")
    };
    assert_eq!(version, "3.0.0");
    assert_eq!(reason, Reason::OtherProduct { ours: Some("acme-gw2".to_owned()) });
}

#[test]
fn a_target_whose_limit_cannot_be_read_is_named() {
    let fault = Gateway::new().check("unusable").unwrap_err();
    assert!(matches!(&fault, Fault::Invalid(why) if why.contains("gateway-3.0.0.bin")), "{fault}");
}

#[test]
fn a_root_signed_by_the_old_key_and_the_new_is_followed() {
    let gateway = Gateway::new();
    assert_eq!(gateway.offered("rotated"), "2.0.0");
    assert_eq!(gateway.floor().metadata.root, 2);
}

#[test]
fn two_keys_of_two_are_enough() {
    assert_eq!(Gateway::with_root("two-of-two.json").offered("two-of-two"), "2.0.0");
}
