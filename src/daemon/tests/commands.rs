//! Random downlink rules: what `acl explain … command` says is what becomes of a command that the
//! operator sends.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use proptest::prelude::*;

use super::agreement::{configuration, paths};
use crate::clock::Moment;
use crate::config::acl::{Question, explain};
use crate::config::io::test_device_rules as load;
use crate::control::tail::Tail;
use crate::daemon::commands::Commands;
use crate::gate::{Gate, Supposed};
use crate::proto::coap::Method;

/// A folder of its own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tombolo-asked-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether the downlink rules let a command of the operator through.
fn sends(commands: &mut Commands, gate: &Gate, moment: &Moment, device: &str, path: &str) -> bool {
    let sent = commands.send(moment, gate, device, path, Method::Put, None, Vec::new());
    // A device that the rules allow it and that no way leads to, as the one behind another.
    sent.map(drop)
        .or_else(|why| if why.starts_with("commands reach devices") { Ok(()) } else { Err(why) })
        .is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_command_that_is_explained_as_allowed_is_taken_and_no_other(
        rules in configuration(),
        paths in prop::collection::vec(paths(), 1..5),
    ) {
        let loaded = load(&rules);
        let settings = &loaded.settings;
        let now = Instant::now();
        let moment = Moment { now, boottime_ms: 1, wall: None, ages_from: None };
        let gate = Gate::new(settings.gate.clone(), now);
        let folder = Folder::new();
        let mut mailbox = Commands::open(&folder.0, &settings.downlink, None, Tail::default());
        let supposed = Supposed { bytes: 1, ..Supposed::default() };
        for path in &paths {
            for device in ["a", "b", "nobody"] {
                let said = explain(settings, &gate, now, device, Question::Command, path, supposed);
                let is_sent = sends(&mut mailbox, &gate, &moment, device, path);
                prop_assert_eq!(said["allowed"] == true, is_sent, "command {} {} under {}", device, path, rules);
            }
        }
    }
}
