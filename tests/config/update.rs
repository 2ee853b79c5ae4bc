//! `[update]`: what is taken, and what each fault says.

use tombolo::config::{Level, Origin};
use tombolo::update::settings::{Backend, Source};
use tombolo::update::window::Window;

use crate::support::{Case, Fake, main_file};

fn case(text: &str) -> Case {
    let mut case = main_file(text);
    case.files = Fake::default().with("/etc/tombolo/root.json", "{}");
    case
}

/// The sentence of the one fault or warning of `[update]`.
fn finding(text: &str, level: Level) -> String {
    let loaded = case(text).loaded();
    let found: Vec<_> =
        loaded.findings.iter().filter(|f| f.level == level && f.subject == "update").collect();
    assert_eq!(found.len(), 1, "{text}: {:?}", loaded.findings);
    found[0].to_string()
}

const TUF: &str = "[update]\nsource = \"tuf\"\nurl = \"https://h/r\"\nroot-file = \"root.json\"\n";

#[test]
fn nothing_is_looked_for_unless_it_is_configured() {
    assert_eq!(case("").loaded().settings.update.source, Source::None);
    assert_eq!(case("[update]\nsource = \"apt\"\n").loaded().settings.update.source, Source::Apt);
}

#[test]
fn a_repository_has_two_folders_below_its_url_or_each_by_itself() {
    let Source::Tuf(place) = case(TUF).loaded().settings.update.source else { panic!("no repository") };
    assert_eq!(
        (place.metadata.to_string(), place.targets.to_string()),
        ("https://h/r/metadata/".to_owned(), "https://h/r/targets/".to_owned())
    );
    assert_eq!(place.targets.file("a/b.bin").to_string(), "https://h/r/targets/a/b.bin");
    let two =
        TUF.replace("url = \"https://h/r\"", "metadata-url = \"https://m/\"\ntargets-url = \"https://t/x\"");
    let Source::Tuf(place) = case(&two).loaded().settings.update.source else { panic!("no repository") };
    assert_eq!(
        (place.metadata.to_string(), place.targets.to_string()),
        ("https://m/".to_owned(), "https://t/x/".to_owned())
    );
}

#[test]
fn each_fault_switches_the_checks_off_and_names_the_way_out() {
    for (old, new, why) in [
        ("url = \"https://h/r\"\n", "", "the repository's URL is missing"),
        ("https://h/r", "http://h/r", "a URL here begins with https://"),
        ("https://h/r", "https://h/r?x", "has no '?'"),
        ("url = ", "targets-url = \"https://t\"\nurl = ", "url is set together with"),
        ("root-file = \"root.json\"\n", "", "root-file is missing"),
    ] {
        let text = TUF.replace(old, new);
        let sentence = finding(&text, Level::Fail);
        assert!(sentence.contains(why), "{sentence}");
        assert_eq!(case(&text).loaded().settings.update.source, Source::None, "{text}");
    }
    let sentence = finding(&TUF.replace("root.json", "gone.json"), Level::Fail);
    assert!(sentence.contains("gone.json"), "{sentence}");
    let sentence = finding(&format!("{TUF}maintenance-window = \"at night\"\n"), Level::Fail);
    assert!(sentence.contains("at night") && sentence.contains("22:00-05:00"), "{sentence}");
    // Text that is empty is not the default here: it would install at any time.
    for window in ["", "Thu 10:00-10:00", "00:00-00:00"] {
        let text = format!("{TUF}maintenance-window = \"{window}\"\n");
        let sentence = finding(&text, Level::Fail);
        assert!(sentence.contains("nothing is installed automatically"), "{window:?}: {sentence}");
        assert_eq!(case(&text).loaded().settings.update.window, Window::NEVER, "{window:?}");
    }
    let sentence = finding("[update]\nurl = \"https://h\"\n", Level::Warn);
    assert!(sentence.contains("without effect"), "{sentence}");
}

#[test]
fn a_backend_that_cannot_install_what_is_offered_is_none() {
    for (text, fits) in [
        (format!("{TUF}backend = \"rauc\"\n"), true),
        (format!("{TUF}backend = \"apt\"\n"), false),
        ("[update]\nsource = \"apt\"\nbackend = \"apt\"\n".to_owned(), true),
        ("[update]\nsource = \"apt\"\nbackend = \"exec\"\n".to_owned(), false),
    ] {
        let settings = case(&text).loaded().settings.update;
        assert_eq!(settings.backend != Backend::None, fits, "{text}");
    }
}

#[test]
fn the_drop_in_of_the_package_counts_for_its_service_alone() {
    let text = include_str!("../../config/vendor/50-update.toml");
    let vendor = |mut case: Case| {
        case = case.layer(Origin::Vendor, "/usr/lib/tombolo/conf.d/50-update.toml", text);
        // The lowest precedence.
        case.layers.rotate_right(1);
        case
    };
    assert_eq!(vendor(case("")).loaded().settings.update.source, Source::Apt);
    assert_eq!(vendor(case("[update]\nsource = \"none\"\n")).loaded().settings.update.source, Source::None);
    let mut elsewhere = vendor(case(""));
    elsewhere.main = Some("/srv/gw/tombolo.toml".into());
    assert_eq!(elsewhere.loaded().settings.update.source, Source::None);
}

#[test]
fn a_role_has_a_class_of_firmware_and_where_its_devices_report_their_version() {
    let of = |keys: &str| {
        let text = format!("{TUF}{keys}[role.door.uplink.all]\npath = \"t/#\"\n");
        let sensors = case(&text).loaded().settings.update.sensors;
        let role = sensors.roles.iter().next().map(|(role, of)| (role.to_string(), of.clone()));
        (role, sensors, case(&text).loaded().settings.coap.reports)
    };
    let (role, sensors, reports) = of(
        "firmware-disk = \"1MiB\"\nfirmware-steps = \"1, 12.5,100\"\nfirmware-failures = 7\n\
         [role.door]\nfirmware = \"lock\"\nfirmware-version-path = \"sys/+\"\nfirmware-version-field = \"/fw\"\n",
    );
    let (name, role) = role.expect("it has firmware");
    let report = reports.values().next().cloned().expect("it reports");
    assert_eq!((&*name, role.class.as_str(), report.path.as_str()), ("door", "lock", "sys/+"));
    assert_eq!(report.field.map(|field| field.as_str().to_owned()).as_deref(), Some("/fw"));
    let steps: Vec<f64> = sensors.rollout.steps.iter().map(|share| share.percent()).collect();
    assert_eq!((sensors.disk, sensors.rollout.failures, steps), (1 << 20, 7, vec![1.0, 12.5, 100.0]));
    assert!(of("[role.door]\n").0.is_none());
}

#[test]
fn a_fault_in_firmware_for_sensors_names_the_key_and_the_way_out() {
    for (keys, subject, level, expected) in [
        ("[role.door]\nfirmware = \"gateway\"\n", "role door", Level::Fail, "is the class of gateways"),
        ("[role.door]\nfirmware-version-path = \"x\"\n", "role door", Level::Warn, "firmware is not set"),
        (
            "[role.door]\nfirmware = \"lock\"\nfirmware-version-field = \"/x\"\n",
            "role door",
            Level::Fail,
            "firmware-version-path is not set",
        ),
        ("firmware-steps = \"50, 10\"\n[role.door]\n", "update", Level::Fail, "not rising percentages"),
    ] {
        let loaded = case(&format!("{TUF}{keys}[role.door.uplink.all]\npath = \"t/#\"\n")).loaded();
        let found = loaded.findings.iter().find(|f| f.level == level && f.subject == subject);
        let found = found.unwrap_or_else(|| panic!("{keys}: {:?}", loaded.findings)).to_string();
        assert!(found.contains(expected), "{found}");
        assert!(loaded.settings.coap.reports.is_empty());
    }
    let text = "[role.door]\nfirmware = \"lock\"\n[role.door.uplink.all]\npath = \"t/#\"\n";
    let loaded = case(text).loaded();
    let warned = loaded.findings.iter().any(|f| f.level == Level::Warn && f.to_string().contains("TUF"));
    assert!(warned, "{:?}", loaded.findings);
}
