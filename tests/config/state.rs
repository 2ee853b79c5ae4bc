//! The configuration in the state directory, on a real disk: no damage refuses a start or a reload.

use std::fs;
use std::path::Path;

use tombolo::config::io::{load, load_to_reload, load_to_run, settle};
use tombolo::config::{IdSource, Level, Loaded};
use tombolo::splitmix::SplitMix64;

use crate::registry::{Folder, MAIN};
use crate::support::lines;

/// The same without an id of the owner's.
fn unnamed(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write("tombolo.toml", &MAIN.replace("id = \"g\"", ""));
    folder
}

fn start(folder: &Folder) -> Loaded {
    load_to_run(&folder.options()).unwrap_or_else(|findings| panic!("{}", lines(&findings)))
}

fn reload(folder: &Folder, running: &Loaded) -> Loaded {
    load_to_reload(&folder.options(), running).unwrap_or_else(|findings| panic!("{}", lines(&findings)))
}

fn id(loaded: &Loaded) -> &str {
    loaded.settings.gateway.id.as_str()
}

fn problems(loaded: &Loaded) -> String {
    lines(&loaded.state.problems)
}

/// Puts something else in the place of a file.
type Spoil = fn(&Path);

/// Ways of damage, by name.
const SPOILS: [(&str, Spoil); 8] = [
    ("of no length", |path| fs::write(path, "").unwrap()),
    ("zeros", |path| fs::write(path, vec![0; fs::metadata(path).unwrap().len() as usize]).unwrap()),
    ("a page of zeros", |path| fs::write(path, [0; 4096]).unwrap()),
    ("cut", |path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(fs::metadata(path).unwrap().len() / 2).unwrap();
    }),
    ("random", |path| {
        let mut random = SplitMix64::new(7);
        let bytes: Vec<u8> = (0..300).map(|_| random.next_u64() as u8).collect();
        fs::write(path, bytes).unwrap();
    }),
    ("huge", |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap()),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("a pipe", |path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }),
];

/// Runs a test for each kind of damage, side by side: a file that looks damaged is read again after
/// a second.
fn for_each_damage(test: impl Fn(&str, &str, Spoil) + Sync) {
    std::thread::scope(|scope| {
        for (number, (how, spoil)) in SPOILS.into_iter().enumerate() {
            let test = &test;
            scope.spawn(move || test(&number.to_string(), how, spoil));
        }
    });
}

fn clear_away(path: &Path) {
    fs::remove_file(path).or_else(|_| fs::remove_dir(path)).unwrap();
}

#[test]
fn the_id_survives_any_damage_to_one_of_its_files() {
    for name in ["gateway-id", "gateway-id.copy"] {
        for_each_damage(|number, how, spoil| {
            let folder = unnamed(&format!("id-one-{name}-{number}"));
            let first = id(&start(&folder)).to_owned();
            let both = ["gateway-id", "gateway-id.copy"].map(|name| folder.0.join("state").join(name));
            let before = both.clone().map(|path| fs::read(path).unwrap());
            spoil(&folder.0.join("state").join(name));
            // Looking says so, and writes nothing.
            let looked = folder.load();
            assert_eq!(id(&looked), first, "{name} {how}");
            assert!(
                problems(&looked).contains(&format!("{name}: gateway id: is damaged")),
                "{}",
                problems(&looked)
            );
            let again = start(&folder);
            assert_eq!(id(&again), first, "{name} {how}");
            assert_eq!(both.clone().map(|path| fs::read(path).unwrap()), before, "{name} {how}: restored");
            // The damaged file is kept until it is deleted by hand.
            let aside = folder.0.join(format!("state/{name}.damaged-1"));
            assert!(aside.symlink_metadata().is_ok(), "{name} {how}");
            assert!(problems(&again).contains("was restored"), "{}", problems(&again));
            assert!(folder.load().state.problems.iter().all(|problem| problem.level == Level::Fail));
            clear_away(&aside);
            assert_eq!(problems(&start(&folder)), "", "{name} {how}");
        });
    }
}

#[test]
fn one_file_alone_is_enough_and_the_other_is_made_again() {
    for name in ["gateway-id", "gateway-id.copy"] {
        let folder = unnamed("id-missing");
        let first = id(&start(&folder)).to_owned();
        fs::remove_file(folder.0.join("state").join(name)).unwrap();
        let again = start(&folder);
        assert_eq!((id(&again), problems(&again)), (first.as_str(), String::new()));
        assert!(folder.0.join("state").join(name).exists());
    }
}

#[test]
fn an_id_of_the_version_before_which_had_one_file_is_taken_up() {
    let folder = unnamed("id-before");
    folder.write("state/gateway-id", "tb-abcdefgh\n");
    assert_eq!(id(&start(&folder)), "tb-abcdefgh");
    assert_eq!(fs::read_to_string(folder.0.join("state/gateway-id")).unwrap(), "tb-abcdefgh\n");
    folder.write("state/gateway-id", "");
    assert_eq!(id(&start(&folder)), "tb-abcdefgh");
}

#[test]
fn with_both_files_damaged_a_new_id_is_made_once_and_said_until_somebody_has_seen_it() {
    for_each_damage(|number, how, spoil| {
        let folder = unnamed(&format!("id-both-{number}"));
        let first = id(&start(&folder)).to_owned();
        for name in ["gateway-id", "gateway-id.copy"] {
            spoil(&folder.0.join("state").join(name));
        }
        let looked = folder.load();
        assert_eq!(looked.settings.gateway.id_source, IdSource::Missing, "{how}");
        assert!(problems(&looked).contains("the next start makes a new id"), "{}", problems(&looked));
        let again = start(&folder);
        let new = id(&again).to_owned();
        assert!(new != first && new.starts_with("tb-") && new.len() == 11, "{how}: {new}");
        let said = problems(&again);
        for words in [
            "the gateway's id was lost",
            "stays on the broker",
            "set [gateway] id",
            "gateway-id.copy.damaged-1",
        ] {
            assert!(said.contains(words), "{how}: {words} in {said}");
        }
        let later = start(&folder);
        assert_eq!((id(&later), problems(&later)), (new.as_str(), said), "{how}");
        for name in ["gateway-id.damaged-1", "gateway-id.copy.damaged-1"] {
            clear_away(&folder.0.join("state").join(name));
        }
        let seen = start(&folder);
        assert_eq!((id(&seen), problems(&seen)), (new.as_str(), String::new()), "{how}");
    });
}

#[test]
fn a_power_cut_between_setting_aside_and_writing_does_not_hide_that_the_id_was_lost() {
    let folder = unnamed("id-cut");
    folder.write("state/gateway-id.damaged-1", "\0\0\0");
    let said = problems(&start(&folder));
    assert!(said.contains("the gateway's id was lost"), "{said}");
}

#[test]
fn an_id_that_is_configured_wins_and_nobody_looks_at_the_files() {
    let folder = Folder::new("id-configured");
    folder.write("tombolo.toml", MAIN);
    folder.write("state/gateway-id", "\0\0");
    let loaded = start(&folder);
    assert_eq!((id(&loaded), loaded.settings.gateway.id_source), ("g", IdSource::Configured));
    assert_eq!(problems(&loaded), "");
    assert_eq!(fs::read(folder.0.join("state/gateway-id")).unwrap(), b"\0\0");
}

#[test]
fn an_id_written_by_hand_counts_and_the_one_before_is_named() {
    let folder = unnamed("id-hand");
    let first = id(&start(&folder)).to_owned();
    folder.write("state/gateway-id", "greenhouse-7");
    let again = start(&folder);
    assert_eq!((id(&again), problems(&again)), ("greenhouse-7", String::new()));
    assert!(lines(&again.state.events).contains(&format!("is greenhouse-7 now, and was {first}")));
    // From now on it is known whole, so a cut is a cut.
    folder.write("state/gateway-id", "greenho");
    assert_eq!(id(&start(&folder)), "greenhouse-7");
}

#[test]
fn a_running_gateway_keeps_its_id_and_restores_its_files() {
    for_each_damage(|number, how, spoil| {
        let folder = unnamed(&format!("id-running-{number}"));
        let running = start(&folder);
        for name in ["gateway-id", "gateway-id.copy"] {
            spoil(&folder.0.join("state").join(name));
        }
        let reloaded = reload(&folder, &running);
        assert_eq!(id(&reloaded), id(&running), "{how}");
        assert!(problems(&reloaded).contains("was restored"), "{how}: {}", problems(&reloaded));
        assert_eq!(id(&start(&folder)), id(&running), "{how}");
    });
}

#[test]
fn a_state_directory_that_takes_no_id_stops_nothing_and_takes_it_later() {
    let folder = unnamed("id-unstored");
    // In its way: as good as a disk that is full, and for root too.
    folder.write("state", "no folder");
    let mut loaded = start(&folder);
    assert!(id(&loaded).starts_with("tb-"));
    assert!(problems(&loaded).contains("cannot be written"), "{}", problems(&loaded));
    let paths = loaded.settings.paths.clone();
    assert!(settle(&paths, &mut loaded.state).is_err());
    assert!(problems(&loaded).contains("cannot be written"), "{}", problems(&loaded));
    fs::remove_file(folder.0.join("state")).unwrap();
    // A reload in between goes on with the id that only this process knows.
    let mut reloaded = reload(&folder, &loaded);
    assert_eq!((id(&reloaded), problems(&reloaded)), (id(&loaded), String::new()));
    assert!(reloaded.state.unsettled.is_none());
    settle(&paths, &mut loaded.state).unwrap();
    settle(&paths, &mut reloaded.state).unwrap();
    assert!(!problems(&loaded).contains("gateway"), "{}", problems(&loaded));
    assert_eq!(id(&start(&folder)), id(&loaded));
}

const LAYER: &str = "[upstream]\nurl = \"mqtts://of-the-state\"\n[gateway]\nlabel = \"the barn\"\n";

fn label(loaded: &Loaded) -> Option<&str> {
    loaded.settings.gateway.label.as_deref()
}

#[test]
fn a_damaged_file_of_conf_d_is_left_out_of_a_start_and_named_with_the_way_out() {
    for_each_damage(|number, how, spoil| {
        let folder = Folder::new(&format!("layer-start-{number}"));
        folder.write("tombolo.toml", MAIN);
        let path = folder.write("state/conf.d/20-b.toml", LAYER);
        folder.write("state/conf.d/10-a.toml", "[log]\nlevel = \"trace\"\n");
        spoil(&path);
        let loaded = start(&folder);
        assert_eq!((label(&loaded), loaded.settings.log.level), (None, log::LevelFilter::Trace), "{how}");
        let said = problems(&loaded);
        assert!(
            said.starts_with(&format!("fail  {}: state: is damaged: ", path.display()))
                && said.contains(
                    "its content is not used; write it anew or delete it, then systemctl reload tombolo"
                ),
            "{how}: {said}"
        );
        assert!(path.symlink_metadata().is_ok(), "it stays where it is");
    });
}

#[test]
fn a_damaged_file_of_conf_d_neither_refuses_a_reload_nor_drops_what_was_in_force() {
    for_each_damage(|number, how, spoil| {
        let folder = Folder::new(&format!("layer-reload-{number}"));
        folder.write("tombolo.toml", MAIN);
        let path = folder.write("state/conf.d/20-b.toml", LAYER);
        let running = start(&folder);
        spoil(&path);
        folder.write("conf.d/30-c.toml", "[log]\nlevel = \"debug\"\n");
        let mut reloaded = reload(&folder, &running);
        for _ in 0..2 {
            assert_eq!(label(&reloaded), Some("the barn"), "{how}");
            assert_eq!(reloaded.settings.log.level, log::LevelFilter::Debug, "the rest is taken up");
            assert!(
                problems(&reloaded).contains("its last good version stays in use"),
                "{how}: {}",
                problems(&reloaded)
            );
            reloaded = reload(&folder, &reloaded);
        }
        clear_away(&path);
        let reloaded = reload(&folder, &reloaded);
        assert_eq!((label(&reloaded), problems(&reloaded)), (None, String::new()), "{how}: deleted is gone");
    });
}

#[test]
fn a_conf_d_that_is_no_folder_or_gone_is_told_apart() {
    let folder = Folder::new("layer-folder");
    folder.write("tombolo.toml", MAIN);
    folder.write("state/conf.d/20-b.toml", LAYER);
    let running = start(&folder);
    fs::remove_dir_all(folder.0.join("state/conf.d")).unwrap();
    assert_eq!(label(&reload(&folder, &running)), None);
    folder.write("state/conf.d", "x");
    let reloaded = reload(&folder, &running);
    assert_eq!(label(&reloaded), Some("the barn"));
    assert!(
        problems(&reloaded).contains("conf.d: state: is damaged: it is not a folder"),
        "{}",
        problems(&reloaded)
    );
    assert_eq!(label(&start(&folder)), None);
}

#[test]
fn a_file_of_conf_d_that_contradicts_the_configuration_is_left_out_and_the_owners_own_fault_still_refuses() {
    let folder = Folder::new("layer-unfit");
    folder.write("tombolo.toml", &format!("{MAIN}[lane.normal]\nmax-bytes = \"100MiB\"\n"));
    folder.write("state/conf.d/10-a.toml", "[gateway]\nlabel = \"the barn\"\n");
    let path = folder.write("state/conf.d/20-b.toml", "[journal]\nmax-bytes = \"8MiB\"\n");
    let loaded = start(&folder);
    assert_eq!((label(&loaded), loaded.settings.journal.max_bytes), (Some("the barn"), 256 << 20));
    let said = problems(&loaded);
    assert!(said.contains(&path.display().to_string()) && said.contains("too few for lane.high"), "{said}");
    folder.write("state/conf.d/20-b.toml", "[upstream]\nurl = \"x\"\n");
    let said = problems(&start(&folder));
    assert!(said.contains("20-b.toml") && said.contains("upstream.url: \"x\": it has no scheme"), "{said}");
    // The owner's change, beside which the state's unchanged files do not stand: refused, as any
    // other.
    folder.write("state/conf.d/20-b.toml", "[journal]\nmax-bytes = \"300MiB\"\n");
    let running = start(&folder);
    folder.write("conf.d/30-c.toml", "[lane.normal]\nmax-bytes = \"290MiB\"\n");
    assert!(load_to_reload(&folder.options(), &running).is_err());
    folder.write("conf.d/30-c.toml", "[upstream]\nurl = \"x\"\n");
    let refused = load(&folder.options(), None).unwrap_err();
    assert!(lines(&refused).contains("30-c.toml:2: upstream.url"), "{}", lines(&refused));
}

#[test]
fn a_damaged_device_file_at_any_length_disables_its_device_and_no_other() {
    for_each_damage(|number, how, spoil| {
        let folder = Folder::new(&format!("device-spoiled-{number}"));
        folder.write("tombolo.toml", MAIN);
        let text =
            "format = \"tombolo-device 1.2\"\nrole = \"sensor\"\npsk = \"text:0123456789abcdef\"\n# end\n";
        folder.write("state/devices/good.toml", text);
        let path = folder.write("state/devices/bad.toml", text);
        let running = start(&folder);
        spoil(&path);
        let loaded = start(&folder);
        let ids: Vec<&str> = loaded.settings.gate.devices.iter().map(|device| device.id.as_str()).collect();
        assert_eq!(ids, ["fixed", "good"], "{how}");
        let said = lines(&loaded.findings);
        assert!(said.contains("device bad") || said.contains("bad.toml"), "{how}: {said}");
        assert_eq!(
            reload(&folder, &running).settings.gate.devices.len(),
            3,
            "{how}: its last good version stays"
        );
    });
}

#[test]
fn a_registry_that_is_no_folder_is_named_and_the_rest_runs() {
    let folder = Folder::new("registry-file");
    folder.write("tombolo.toml", MAIN);
    folder.write("state/devices", "x");
    let loaded = start(&folder);
    assert_eq!(loaded.settings.gate.devices.len(), 1);
    assert!(
        lines(&loaded.findings).contains("the registry is damaged: it is not a folder"),
        "{}",
        lines(&loaded.findings)
    );
}
