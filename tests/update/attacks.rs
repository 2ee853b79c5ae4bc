//! Whoever is between the gateway and its repository, or has some of its keys, or its server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tombolo::update::check::Fault;
use tombolo::update::eligibility::Decision;
use tombolo::update::floor::{Floor, RootJson};
use tombolo::update::io::answer::{Found, answer};

use crate::gateway::Gateway;

/// Refused by a gateway that has seen nothing yet: its sentence contains this.
#[track_caller]
fn refused(repository: &str, why: &str) {
    refused_by(&Gateway::new(), repository, why);
}

#[track_caller]
fn refused_by(gateway: &Gateway, repository: &str, why: &str) {
    let sentence = gateway.refusal(repository);
    assert!(sentence.contains(why), "{repository}: {sentence}");
}

#[track_caller]
fn unreachable(gateway: &Gateway, repository: &str, why: &str) {
    match gateway.check(repository) {
        Err(Fault::Unreachable(sentence)) if sentence.contains(why) => {}
        other => panic!("{repository}: {other:?}"),
    }
}

#[test]
fn metadata_older_than_what_was_seen_is_refused_for_each_role_though_its_signatures_are_right() {
    let gateway = Gateway::that_has_seen("newer");
    for (repository, why) in [
        ("older-timestamp", "version 2 of timestamp.json, and version 3 was seen before"),
        ("older-snapshot", "version 1 of snapshot.json, and version 2 was seen before"),
        ("older-targets", "version 1 of targets.json, and version 2 was seen before"),
        ("first", "rollback: the repository offers version 1 of"),
    ] {
        refused_by(&gateway, repository, why);
    }
    assert_eq!(gateway.offered("newer"), "2.1.0");
}

#[test]
fn what_a_key_of_nobody_signed_or_nobody_at_all_is_refused() {
    for role in ["timestamp", "snapshot", "targets"] {
        for signer in ["of-a-stranger", "not-signed"] {
            refused(&format!("{role}-{signer}"), &format!("Failed to verify {role} metadata"));
        }
    }
}

#[test]
fn metadata_that_was_edited_after_it_was_signed_is_refused() {
    refused("timestamp-edited", "Failed to verify timestamp metadata");
    refused("snapshot-edited", "Hash mismatch");
    refused("targets-edited", "Failed to verify targets metadata");
}

#[test]
fn other_bytes_than_those_whose_hash_was_signed_are_refused_though_the_right_key_signed_them() {
    refused("wrong-bytes", "Hash mismatch");
}

#[test]
fn files_of_two_releases_are_not_mixed() {
    refused("mixed-targets", "version mismatch: fetched 1, expected 2");
    refused("mixed-snapshot", "version mismatch: fetched 1, expected 2");
    refused("targets-missing", "2.targets.json is missing");
}

#[test]
fn a_timestamp_without_end_or_of_a_hundred_megabytes_is_left_at_the_bound() {
    refused("newer:endless:timestamp.json", "the answer is longer than 4194304 bytes");
    refused("newer:announced:timestamp.json", "the answer is longer than 4194304 bytes");
    refused("long-timestamp", "Maximum size 16384");
    refused("newer:endless:2.targets.json", "the answer is longer than 4194304 bytes");
}

#[test]
fn a_target_whose_name_leads_out_of_the_folder_is_refused() {
    // Its signatures are right, so the floor rises.
    let fault = Gateway::new().check("outside").unwrap_err();
    assert!(matches!(&fault, Fault::Invalid(why) if why.contains("../../gateway-9.0.0.bin")), "{fault}");
}

#[test]
fn what_is_no_metadata_is_refused() {
    refused("no-json", "Failed to parse timestamp metadata");
    refused("deep-json", "Failed to parse timestamp metadata");
}

#[test]
fn one_signature_of_two_is_not_enough_and_twice_the_same_is_one() {
    let gateway = Gateway::with_root("two-of-two.json");
    refused_by(&gateway, "one-of-two", "Failed to verify targets metadata");
    refused_by(&gateway, "one-twice", "Failed to verify targets metadata: Duplicate key ID: ");
}

#[test]
fn a_key_that_was_revoked_signs_nothing_any_more() {
    refused("revoked-timestamp-key", "Failed to verify timestamp metadata");
}

#[test]
fn versions_without_bound_by_a_stolen_key_are_forgotten_once_the_root_revokes_it() {
    let gateway = Gateway::that_has_seen("stolen-timestamp-key");
    refused_by(&gateway, "first", "rollback: ");
    assert_eq!(gateway.offered("rotated"), "2.0.0");
    refused_by(&gateway, "stolen-timestamp-key", "rollback: ");
}

#[test]
fn a_root_key_that_was_replaced_signs_no_fork_from_the_same_root_file() {
    let gateway = Gateway::that_has_seen("rotated");
    let sentence = gateway.refusal("forked");
    for what in ["fork: ", "2.root.json", "root-file by hand", "tombolo decommission"] {
        assert!(sentence.contains(what), "{what}: {sentence}");
    }
    // What is signed counts, not how it is written; and the chain goes on from there.
    assert_eq!(gateway.offered("rotated-again"), "2.0.0");
    assert_eq!(gateway.floor().metadata.root, 3);
    assert!(gateway.refusal("forked").contains("3.root.json"));
    // One that has not seen it yet cannot know.
    assert_eq!(Gateway::new().offered("forked"), "9.0.0");
}

#[test]
fn a_check_that_was_under_way_does_not_replace_a_root_that_was_accepted_meanwhile() {
    let gateway = Gateway::new();
    let accept = || assert_eq!(gateway.offered("rotated"), "2.0.0");
    let fault = gateway.check_while("forked", &Arc::default(), accept).unwrap_err();
    assert!(matches!(fault, Fault::Fork(_)), "{fault}");
    assert_eq!(gateway.floor().metadata.root, 2);
    refused_by(&gateway, "forked", "fork: ");
    assert_eq!(gateway.offered("rotated-again"), "2.0.0");
}

#[test]
fn a_check_whose_settings_were_replaced_meanwhile_keeps_nothing() {
    let gateway = Gateway::new();
    let dropped = Arc::new(AtomicBool::new(false));
    let drop = || dropped.store(true, Ordering::Relaxed);
    assert_eq!(gateway.check_while("forked", &dropped, drop), Err(Fault::Dropped));
    assert_eq!(gateway.floor(), Floor::default());
}

#[test]
fn the_way_out_of_a_fork_that_was_accepted_is_the_newest_root_file_and_then_another_begin() {
    // It saw no rotation, so it could not know.
    let mut gateway = Gateway::that_has_seen("forked");
    refused_by(&gateway, "rotated", "the newest one becomes the root-file by hand");
    gateway.trust("rotated/metadata/2.root.json");
    assert_eq!(gateway.offered("rotated"), "2.0.0", "of keys that it has not seen");
    refused_by(&gateway, "forked", "Failed to verify");
    // It knew the owner's keys, and what was accepted after them is higher.
    let mut gateway = Gateway::that_has_seen("rotated");
    gateway.change(|floor| {
        floor.metadata.root = 8;
        floor.root_json = Some(RootJson { version: 8, sha256: "f".repeat(64) });
    });
    gateway.trust("rotated/metadata/2.root.json");
    let sentence = gateway.refusal("rotated");
    assert!(sentence.contains("it stays there and `tombolo decommission` starts over"), "{sentence}");
    gateway.forget();
    assert_eq!(gateway.offered("rotated"), "2.0.0");
    refused_by(&gateway, "forked", "Failed to verify");
    // With the root-file before, it accepts the fork: the message says so.
    gateway.forget();
    gateway.trust("root.json");
    assert_eq!(gateway.offered("forked"), "9.0.0");
    let sentence = Gateway::that_has_seen("rotated").refusal("forked");
    assert!(sentence.contains("never from an older one"), "{sentence}");
}

#[test]
fn the_owner_goes_on_from_a_newer_root_file_and_not_from_withdrawn_roots() {
    let mut gateway = Gateway::that_has_seen("rotated");
    let sentence = gateway.refusal("first");
    assert!(sentence.contains("every N.root.json has to stay published"), "{sentence}");
    gateway.trust("rotated/metadata/2.root.json");
    assert_eq!(gateway.offered("roots-withdrawn"), "2.0.0");
    gateway.trust("rotated-again/metadata/3.root.json");
    assert_eq!(gateway.offered("rotated-again"), "2.0.0", "its intermediate roots are not asked for");
    refused_by(&gateway, "forked", "Failed to verify");
}

#[test]
fn a_root_that_the_key_before_did_not_sign_is_refused_and_so_is_one_that_its_own_did_not() {
    for repository in ["root-of-the-new-key-alone", "root-of-the-old-key-alone", "root-of-a-stranger"] {
        refused(repository, "Failed to verify root metadata");
    }
    refused("root-version-skipped", "root");
}

#[test]
fn roots_without_end_are_followed_to_the_bound() {
    refused("roots-without-end", "more than 64 versions of root.json follow the root-file");
    refused("delegations-many", "the metadata has more than 100 files");
}

#[test]
fn once_a_new_root_was_seen_the_old_one_is_not_believed_again() {
    let gateway = Gateway::that_has_seen("rotated");
    refused_by(&gateway, "first", "version 1 of root.json, and version 2 was seen before");
}

/// Else a key that was revoked there would go on to be believed.
#[test]
fn a_new_root_that_cannot_be_fetched_is_not_passed_over() {
    let gateway = Gateway::new();
    for (fault, why) in [("broken", "status 503"), ("cut", "closed in the middle")] {
        unreachable(&gateway, &format!("first:{fault}:2.root.json"), why);
    }
    for fault in ["endless", "announced", "gzip", "plain", "elsewhere"] {
        refused(&format!("first:{fault}:2.root.json"), "2.root.json: the ");
    }
}

#[test]
fn no_redirect_is_followed_neither_to_http_nor_to_another_host() {
    for (fault, to) in
        [("plain", "http://127.0.0.1"), ("elsewhere", "https://localhost"), ("moved", "/newer/")]
    {
        let why = format!("redirects (302) to {to}");
        refused(&format!("newer:{fault}:timestamp.json"), &why);
    }
}

#[test]
fn a_compressed_answer_is_refused_before_anything_is_unpacked() {
    refused("newer:gzip:timestamp.json", "the answer is compressed (gzip), which was not asked for");
}

#[test]
fn a_server_that_drips_or_says_nothing_is_given_up() {
    let total = Duration::from_millis(700);
    let gateway = Gateway::with_patience(total, Duration::from_secs(50));
    unreachable(&gateway, "newer:drip:2.root.json", "the answer is not complete within 0.7 s");
    let gateway = Gateway::with_patience(Duration::from_secs(60), total);
    unreachable(&gateway, "newer:silent:2.root.json", "no answer within 0.7 s");
}

#[test]
fn a_check_whose_settings_were_replaced_does_not_wait_for_a_silent_server() {
    let (gateway, dropped) = (Gateway::new(), Arc::new(AtomicBool::new(false)));
    let question = gateway.question("newer:silent:2.root.json", &dropped);
    let begun = Instant::now();
    let ended = std::thread::scope(|scope| {
        let asked = scope.spawn(|| answer(&question));
        dropped.store(true, Ordering::Relaxed);
        asked.join().unwrap()
    });
    assert_eq!(ended.result, Err(Fault::Dropped));
    assert!(begun.elapsed() < Duration::from_secs(15), "the server is given 20 s");
    assert_eq!(gateway.floor(), Floor::default());
    // The same question otherwise.
    dropped.store(false, Ordering::Relaxed);
    let found = answer(&gateway.question("signed-anew", &dropped));
    assert!(matches!(found.result, Ok(Found::Tuf(_))), "{:?}", found.result);
}

#[test]
fn a_server_of_another_ca_is_not_asked() {
    let gateway = Gateway::with_ca("other-ca.pem");
    assert!(matches!(gateway.check("newer"), Err(Fault::Unreachable(_))));
}

#[test]
fn another_root_file_of_the_owners_begins_anew_and_the_firmware_keeps_its_floor() {
    let mut gateway = Gateway::that_has_seen("newer");
    refused_by(&gateway, "another", "Failed to verify timestamp metadata");
    // Nobody but the owner can do this: lower versions, and root.json is version 1 again.
    gateway.trust("another.json");
    assert_eq!(gateway.offered("another"), "2.0.0");
    assert_eq!(gateway.offered("another-later"), "2.0.0");
    refused_by(&gateway, "another", "version 1 of timestamp.json, and version 2 was seen before");
    // What is installed and good stays the least.
    let mut installed = Gateway::that_has_seen("newer");
    installed.confirm("2.5.0");
    installed.trust("another.json");
    match installed.check("another") {
        Ok(Decision::Ineligible { reason, .. }) => assert!(reason.to_string().contains("older than 2.5.0")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_root_file_of_a_backup_lowers_nothing() {
    let mut gateway = Gateway::that_has_seen("newer");
    assert_eq!(gateway.offered("rotated"), "2.0.0", "its keys are others, and it begins anew");
    // Shown without the later root.json, under the old keys again.
    refused_by(&gateway, "newer", "version 1 of root.json, and version 2 was seen before");
    gateway.trust("rotated/metadata/2.root.json");
    assert_eq!(gateway.offered("rotated"), "2.0.0");
    gateway.trust("root.json");
    refused_by(&gateway, "newer", "version 1 of root.json, and version 2 was seen before");
}
