use super::*;
use crate::credential::store::CURRENT;

struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tombolo-keeper-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Of the certificate.
    fn place(&self) -> std::path::PathBuf {
        self.0.join("uplink")
    }

    fn has(&self, name: &str) -> bool {
        std::fs::symlink_metadata(self.0.join(name)).is_ok()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn held(name: &str, until: i32) -> Held {
    held_from(name, 2020, until)
}

fn held_from(name: &str, from: i32, until: i32) -> Held {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    let chain = vec![params.self_signed(&key).unwrap().der().to_vec()];
    Held::new(chain, Arc::new(Zeroizing::new(key.serialize_der()))).unwrap()
}

fn with_current(folder: &Folder) -> Held {
    let held = held("gw", 2050);
    let mut store = open_store(&folder.place()).unwrap();
    store.stage(held.clone()).unwrap();
    store.commit(None).unwrap();
    held
}

#[test]
fn what_is_in_the_place_of_the_folder_is_set_aside() {
    for link in [false, true] {
        let folder = Folder::new(if link { "loop" } else { "plain" });
        match link {
            false => std::fs::write(folder.place(), b"x").unwrap(),
            true => std::os::unix::fs::symlink("uplink", folder.place()).unwrap(),
        }
        with_current(&folder);
        assert!(folder.place().is_dir() && folder.has("uplink.damaged-1"));
    }
}

#[test]
fn a_pipe_or_a_link_in_the_place_of_a_file_is_damage_and_the_copy_counts() {
    for link in [false, true] {
        let folder = Folder::new(if link { "link" } else { "pipe" });
        let held = with_current(&folder);
        let file = folder.place().join(CURRENT);
        std::fs::rename(&file, folder.0.join("elsewhere")).unwrap();
        match link {
            true => std::os::unix::fs::symlink("../elsewhere", &file).unwrap(),
            false => nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR).unwrap(),
        }
        let store = open_store(&folder.place()).unwrap();
        assert_eq!(store.current(), Some(&held));
        assert!(std::fs::symlink_metadata(&file).unwrap().is_file(), "{:?}", store.problems());
        assert!(!store.problems().is_empty());
    }
}

#[test]
fn a_return_that_was_cut_off_is_forgotten() {
    let folder = Folder::new("return");
    let first = with_current(&folder);
    let second = with_current(&folder);
    let mut store = open_store(&folder.place()).unwrap();
    assert!(store.stage_previous().unwrap());
    assert_eq!(store.candidate(), Some(&first));
    let store = open_store(&folder.place()).unwrap();
    assert_eq!((store.candidate(), store.previous(), store.current()), (None, Some(&first), Some(&second)));
}

#[test]
fn a_return_keeps_the_request_that_waits_for_its_answer() {
    let folder = Folder::new("request");
    let first = with_current(&folder);
    with_current(&folder);
    let mut store = open_store(&folder.place()).unwrap();
    let key = held("next", 2050).key;
    store.keep_request(Pending { key, csr: vec![0x30, 3, 2, 1, 0] }).unwrap();
    store.stage_previous().unwrap();
    store.commit(None).unwrap();
    assert_eq!(store.current(), Some(&first));
    assert!(store.pending().is_some() && open_store(&folder.place()).unwrap().pending().is_some());
}

#[test]
fn a_power_cut_between_a_commit_and_its_record_forgets_no_return_and_takes_no_new_one_for_refused() {
    for is_return in [true, false] {
        let folder = Folder::new(if is_return { "cut-return" } else { "cut-commit" });
        with_current(&folder);
        let mut store = open_store(&folder.place()).unwrap();
        let second = held_from("gw", 2021, 2050);
        store.stage(second.clone()).unwrap();
        store.commit(None).unwrap();
        let refusals = Refusals { times: 2, why: "not authorized".to_owned(), ..Refusals::default() };
        let kept = Kept { refusals, confirmed: true, last_error: Some("x".to_owned()), ..Kept::default() };
        store.change(|state| state.keep(kept, Some(second.leaf.serial_text()))).unwrap();
        match is_return {
            true => assert!(store.stage_previous().unwrap()),
            false => store.stage(held_from("gw", 2022, 2050)).unwrap(),
        }
        store.commit(None).unwrap();
        let kept = open_store(&folder.place()).unwrap().state().kept();
        assert_eq!((kept.refusals.times, kept.confirmed), (0, false));
        assert_eq!((kept.history.asked, kept.returns), (is_return, u32::from(is_return)));
        assert_eq!(kept.last_error.is_some_and(|why| why.contains("not authorized")), is_return);
    }
}

#[test]
fn files_that_were_damaged_are_named_over_restarts_until_they_are_deleted_or_another_one_is_in_use() {
    for renewed in [true, false] {
        let folder = Folder::new(if renewed { "aside-renewed" } else { "aside-deleted" });
        with_current(&folder);
        let mut store = open_store(&folder.place()).unwrap();
        store.change(|state| state.failures = 7).unwrap();
        for name in ["state", "state.copy"] {
            std::fs::write(folder.place().join(name), b"{").unwrap();
        }
        for _ in 0..2 {
            let store = open_store(&folder.place()).unwrap();
            assert_eq!(store.set_aside(), ["state.copy.damaged-1", "state.damaged-1"]);
            assert!(store.current().is_some() && store.state().failures == 0);
        }
        let mut store = open_store(&folder.place()).unwrap();
        match renewed {
            true => {
                store.stage(held("next", 2051)).unwrap();
                store.commit(None).unwrap();
            }
            false => {
                for name in store.set_aside() {
                    std::fs::remove_file(folder.place().join(name)).unwrap();
                }
            }
        }
        assert_eq!((store.set_aside(), open_store(&folder.place()).unwrap().set_aside()), (vec![], vec![]));
        assert_eq!(open_store(&folder.place()).unwrap().problems(), [""; 0]);
    }
}

/// A peer that accepts whatever it is shown, and counts.
#[derive(Default)]
struct Probed(Cell<u32>);

impl Prover for Probed {
    fn probe(&self, _: &Path, _: InPlace) -> Local<Verdict> {
        self.0.set(self.0.get() + 1);
        Box::pin(std::future::ready(Verdict::Accepted))
    }
    fn standing(&self) -> Standing {
        Standing::Accepted
    }
    fn handle_committed(&self) {}
}

struct Untrusted;

impl WallClock for Untrusted {
    fn raw(&self) -> crate::clock::UnixTime {
        crate::clock::UnixTime::from_secs(0)
    }
    fn trusted(&self) -> bool {
        false
    }
    fn floor(&self) -> crate::clock::UnixTime {
        crate::clock::UnixTime::from_secs(0)
    }
}

/// The keeper of a certificate that comes by hand.
fn by_hand(folder: &Folder, prover: Rc<Probed>) -> Rc<Keeper> {
    let settings = Settings {
        name: "uplink".to_owned(),
        usage: Usage::Client,
        folder: folder.place(),
        names: Names::default(),
        reuse_key: false,
        renew_at: crate::credential::decision::RenewAt::default(),
        seed: String::new(),
        bootstrap: None,
        by_hand: true,
        may_enroll: false,
        token: None,
    };
    Keeper::open(Instant::now(), settings, None, prover, Arc::new(Untrusted)).unwrap()
}

/// The files of a certificate, by name.
fn files(folder: &Folder) -> std::collections::BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder.place()).into_iter().flatten();
    let file = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read(path).unwrap())
    };
    entries.map(|entry| file(entry.unwrap().path())).collect()
}

#[test]
fn every_file_that_is_removed_or_damaged_while_its_content_is_known_is_written_anew() {
    let folder = Folder::new("written-anew");
    with_current(&folder);
    with_current(&folder);
    let mut store = open_store(&folder.place()).unwrap();
    store.stage(held("next", 2051)).unwrap();
    store.keep_request(Pending { key: held("later", 2050).key, csr: vec![0x30, 3, 2, 1, 0] }).unwrap();
    store.change(|state| state.failures = 7).unwrap();
    let before = files(&folder);
    assert_eq!(before.len(), 7, "{:?}", before.keys());
    assert!(!store.lacks_files());
    assert_eq!(store.restore_files(), Restored::default());
    for name in before.keys() {
        std::fs::remove_file(folder.place().join(name)).unwrap();
        assert!(store.lacks_files(), "{name}");
        let restored = store.restore_files();
        assert_eq!(restored.written, [name.trim_end_matches(".copy")]);
        assert!(restored.failed.is_empty() && files(&folder) == before, "{name}");
    }
    for name in before.keys() {
        std::fs::write(folder.place().join(name), b"x").unwrap();
    }
    assert_eq!(store.restore_files().written.len(), 5);
    let now = files(&folder);
    assert!(before.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "{:?}", now.keys());
    std::fs::remove_dir_all(folder.place()).unwrap();
    let restored = store.restore_files();
    assert!(restored.written.is_empty() && restored.failed.len() == 5, "{restored:?}");
    assert!(restored.failed[0].starts_with("current.pem: "), "{restored:?}");
    std::fs::create_dir(folder.place()).unwrap();
    assert_eq!(store.restore_files().written.len(), 5);
    assert_eq!(files(&folder), before);
}

#[test]
fn files_removed_under_a_connection_that_stands_come_back_by_themselves_and_before_the_end() {
    let folder = Folder::new("removed-by-hand");
    let held = with_current(&folder);
    let keeper = by_hand(&folder, Rc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let look = |now: Instant| {
        local.block_on(&runtime, async {
            keeper.look_after(now, Standing::Accepted);
            while keeper.looking_after.get() {
                tokio::task::yield_now().await;
            }
        });
    };
    let begun = Instant::now();
    look(begun + LOOK_AFTER_EVERY);
    assert_eq!(keeper.problems(), [""; 0]);
    std::fs::remove_dir_all(folder.place()).unwrap();
    look(begun + LOOK_AFTER_EVERY);
    assert!(!folder.place().exists(), "not before it is time");
    look(begun + 2 * LOOK_AFTER_EVERY);
    assert_eq!(open_store(&folder.place()).unwrap().current(), Some(&held));
    let problems = keeper.problems();
    assert!(problems.len() == 1 && problems[0].contains(WRITTEN_ANEW), "{problems:?}");
    assert!(problems[0].contains(CURRENT), "{problems:?}");
    // A process that ends has all that no file has.
    std::fs::remove_dir_all(folder.place()).unwrap();
    runtime.block_on(keeper.leave());
    assert_eq!(open_store(&folder.place()).unwrap().current(), Some(&held));
}

#[test]
fn a_damaged_state_is_one_problem_with_its_place_and_way_out() {
    let folder = Folder::new("aside-problem");
    with_current(&folder);
    open_store(&folder.place()).unwrap().keep_state().unwrap();
    std::fs::write(folder.place().join("state"), b"{").unwrap();
    let prover = Rc::new(Probed::default());
    let keeper = by_hand(&folder, prover.clone());
    let problems = keeper.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let place = folder.place().display().to_string();
    for words in [SET_ASIDE, "state.damaged-1", &*place, "dmesg", "delete them"] {
        assert!(problems[0].contains(words), "{words}: {problems:?}");
    }
    // A connection that stands says what is to be known of the present one.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let tried = runtime.block_on(prover.try_present(&folder.place().join(CURRENT)));
    assert_eq!((tried, prover.0.get()), (Verdict::Accepted, 0));
}

#[test]
fn what_the_disk_refuses_is_named_by_its_own_name() {
    let folder = Folder::new("names");
    with_current(&folder);
    let mut store = open_store(&folder.place()).unwrap();
    store.stage(held("next", 2050)).unwrap();
    std::fs::remove_dir_all(folder.place()).unwrap();
    let error = store.commit(None).unwrap_err().to_string();
    assert!(error.starts_with("previous.pem cannot be written"), "{error}");
    let error = store.change(|state| state.failures = 7).unwrap_err().to_string();
    assert!(error.starts_with("state cannot be written"), "{error}");
    std::fs::create_dir(folder.place()).unwrap();
    store.keep_state().unwrap();
    assert_eq!(open_store(&folder.place()).unwrap().state().failures, 7);
}

#[test]
fn what_has_expired_or_lost_its_token_is_not_taken_into_use_again() {
    let now = Some(crate::clock::UnixTime::from_secs(1_782_864_000));
    assert_eq!(judge_again(&held("gw", 2050), None, now), Ok(()));
    assert!(judge_again(&held("gw", 2021), None, now).unwrap_err().contains("expired on 2021-01-01"));
    assert_eq!(judge_again(&held("gw", 2021), None, None), Ok(()), "no clock says so");
}

#[test]
fn a_forced_return_leaves_no_candidate_that_a_restart_would_bring_into_use_and_says_so() {
    let folder = Folder::new("forced-return");
    let first = with_current(&folder);
    with_current(&folder);
    open_store(&folder.place()).unwrap().stage(held("next", 2051)).unwrap();
    let keeper = by_hand(&folder, Rc::new(Probed::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        keeper.roll_back_unproven().await.unwrap();
        while keeper.saving.get() {
            tokio::task::yield_now().await;
        }
    });
    let store = open_store(&folder.place()).unwrap();
    assert_eq!((store.current(), store.candidate()), (Some(&first), None));
    let said = |entry: &Entry| entry.what.contains("given up") && entry.what.contains("a person");
    assert!(store.state().events.iter().any(said), "{:?}", store.state().events);
}
