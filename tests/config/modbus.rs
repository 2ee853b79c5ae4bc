//! `[serial.X.modbus]`, `[serial.X.unit.N]` and templates: units are devices, and a fault of one
//! does not affect the others.

use tombolo::config::Origin;
use tombolo::proto::serial::modbus::Settings;
use tombolo::proto::serial::modbus::frame::Speed;
use tombolo::southbound::serial::settings::{Duty, Port};

use crate::support::{Case, Fake, main_file};

const ROLE: &str = "[role.r.uplink.x]\npath = \"data\"\n";
const BUS: &str = "[serial.bus1]\nport = \"/dev/ttyS0\"\n";
/// Lines 5 to 9.
const GOOD: &str =
    "[serial.bus1.unit.7]\nid = \"good\"\nrole = \"r\"\ntemplate = \"meter\"\nlabel = \"a label\"\n";
const TEMPLATE: &str = "max-registers = 80\n[register.Volt]\naddress = 0\ntype = \"f32\"\n";

fn case(text: &str) -> Case {
    let files = Fake::default().with("/usr/share/tombolo/modbus/meter.toml", TEMPLATE);
    Case { files, ..main_file(text) }
}

fn complaints(case: &Case) -> Vec<String> {
    let (loads, complaints) = case.complaints();
    assert!(loads, "{complaints:?}");
    complaints
}

fn bus(port: &Port) -> &Settings {
    match &port.duty {
        Duty::Modbus(bus, _) => bus,
        other => panic!("{other:?}"),
    }
}

fn ids(case: &Case) -> (Vec<String>, Vec<String>) {
    let settings = case.loaded().settings;
    let units = settings.serial.iter().flat_map(|port| match &port.duty {
        Duty::Modbus(bus, _) => bus.units.iter().map(|unit| unit.id.to_string()).collect(),
        _ => Vec::new(),
    });
    (units.collect(), settings.gate.devices.iter().map(|device| device.id.to_string()).collect())
}

#[test]
fn units_are_devices_and_their_bus_is_none() {
    let text = format!(
        "{ROLE}{BUS}{GOOD}[serial.bus1.unit.3]\nid = \"boiler\"\nrole = \"r\"\npublish = \"change\"\noffline-after = \"5min\"\n\
         register.T = {{ address = 0x10, table = \"input\", type = \"i16\", scale = 0.1, unit = \"°C\" }}\n"
    );
    let case = case(&text);
    assert_eq!(complaints(&case), [""; 0]);
    let loaded = case.loaded();
    let [port] = &loaded.settings.serial[..] else { panic!() };
    let bus = bus(port);
    assert_eq!(bus.speed, Speed { baud: 9600, bits: 10 });
    let [boiler, good] = &bus.units[..] else { panic!() };
    assert_eq!(
        (boiler.address, boiler.registers[0].name.as_str(), boiler.registers[0].address),
        (3, "T", 16)
    );
    assert_eq!((good.address, good.registers[0].name.as_str(), good.limits.max_registers), (7, "Volt", 80));
    let devices = &loaded.settings.gate.devices;
    assert_eq!(devices.iter().map(|device| device.id.as_str()).collect::<Vec<_>>(), ["boiler", "good"]);
    assert_eq!(devices[0].offline_after.unwrap().as_secs(), 300);
    assert_eq!(devices[1].label.as_deref(), Some("a label"));
    let known = loaded.known("boiler").unwrap();
    assert_eq!((known.usable, known.place.as_ref().unwrap().line), (true, Some(10)));
    assert!(loaded.known("bus1").is_none());
    assert_eq!(
        tombolo::config::registry::check_remove("boiler", &loaded).unwrap_err().to_string(),
        "fail  /etc/tombolo/tombolo.toml:10: serial.bus1.unit.3: it is in the configuration; \
         take [serial.bus1.unit.3] out there, then reload"
    );
}

#[test]
fn of_two_with_one_id_the_later_in_the_files_is_left_out() {
    let unit = |port: &str, address: u8| {
        format!(
            "[serial.{port}.unit.{address}]\nid = \"good\"\nrole = \"r\"\nregister.t.address = {address}\n"
        )
    };
    let other = BUS.replace("bus1", "abus").replace("ttyS0", "ttyS1");
    let one_bus = main_file(&format!("{ROLE}{BUS}{}{}", unit("bus1", 7), unit("bus1", 10)));
    let two_buses = main_file(&format!("{ROLE}{BUS}{}{other}{}", unit("bus1", 7), unit("abus", 3)));
    for (case, place) in [(one_bus, "unit.10.id"), (two_buses, "serial.abus.unit.3")] {
        let (loads, complaints) = case.complaints();
        assert!(loads && complaints.len() == 1 && complaints[0].contains(place), "{complaints:?}");
        let settings = case.loaded().settings;
        let Duty::Modbus(bus, _) = &settings.serial[0].duty else { panic!() };
        assert_eq!((settings.serial.len(), bus.units[0].address), (1, 7));
    }
}

#[test]
fn an_address_that_looks_like_a_manuals_number_is_warned_about_unless_the_numbering_is_set() {
    let unit = |numbering: &str, address: u32| {
        let text = format!(
            "[serial.bus1.unit.3]\nid = \"x\"\nrole = \"r\"\n{numbering}register.t.address = {address}\n"
        );
        main_file(&format!("{ROLE}{BUS}{text}")).complaints()
    };
    for address in [30_001, 40_001, 49_999] {
        let (loads, complaints) = unit("", address);
        let [complaint] = &complaints[..] else { panic!("{complaints:?}") };
        let words =
            ["warn", "unit.3.register.t.address", &format!("{address} looks"), "numbering = \"manual\""];
        assert!(loads && words.iter().all(|word| complaint.contains(word)), "{complaint}");
        for numbering in ["numbering = \"manual\"\n", "numbering = \"wire\"\n"] {
            assert_eq!(unit(numbering, address), (true, Vec::new()));
        }
    }
    for address in [0, 10_000, 20_000, 30_000, 40_000, 50_000] {
        assert_eq!(unit("", address), (true, Vec::new()));
    }
    // 10001 is the first discrete input; where a table of registers is named, it is an address.
    for (numbering, table, is_warned) in [
        ("", "", true),
        ("", ", table = \"discrete\"", true),
        ("", ", table = \"holding\"", false),
        ("", ", table = \"input\"", false),
        ("numbering = \"wire\"\n", ", table = \"discrete\"", false),
    ] {
        for address in [10_001, 19_999] {
            let text = format!(
                "[serial.bus1.unit.3]\nid = \"x\"\nrole = \"r\"\n{numbering}register.t = {{ address = {address}{table} }}\n"
            );
            let (loads, complaints) = main_file(&format!("{ROLE}{BUS}{text}")).complaints();
            let is_it = |text: &String| text.contains(&format!("{address} looks like a manual's number"));
            assert!(loads && complaints.len() == usize::from(is_warned), "{text}{complaints:?}");
            assert_eq!(complaints.iter().any(is_it), is_warned, "{text}{complaints:?}");
        }
    }
    // The template's table is that of its registers, and of a unit's own.
    let template = "[default]\ntable = \"input\"\n[register.a]\naddress = 13000\n";
    let text = format!("{ROLE}{BUS}{GOOD}register.b.address = 13001\nregister.a.scale = 0.1\n");
    let mut case = case(&text);
    case.files = case.files.with("/etc/tombolo/modbus/meter.toml", template);
    assert_eq!(complaints(&case), [""; 0]);
}

#[test]
fn the_addresses_248_to_255_are_read_with_a_warning_and_256_is_none() {
    let unit = |address: u32| {
        let text =
            format!("[serial.bus1.unit.{address}]\nid = \"x\"\nrole = \"r\"\nregister.t.address = 1\n");
        main_file(&format!("{ROLE}{BUS}{text}"))
    };
    for address in [1, 247] {
        assert_eq!(unit(address).complaints(), (true, Vec::new()));
    }
    for address in [248, 255] {
        let (loads, complaints) = unit(address).complaints();
        let [complaint] = &complaints[..] else { panic!("{complaints:?}") };
        let key = format!("serial.bus1.unit.{address}: the address is above 247");
        let words = ["warn  ", key.as_str(), "the standard reserves 248 to 255"];
        assert!(loads && words.iter().all(|word| complaint.contains(word)), "{complaint}");
        let settings = unit(address).loaded().settings;
        assert_eq!(u32::from(bus(&settings.serial[0]).units[0].address), address);
    }
    for address in [0, 256] {
        let (_, complaints) = unit(address).complaints();
        assert!(complaints[0].contains(&format!("serial.bus1.unit.{address}: ")), "{complaints:?}");
        assert!(unit(address).loaded().settings.serial.is_empty());
    }
}

#[test]
fn each_fault_of_a_unit_is_named_at_its_line_and_leaves_the_others_alone() {
    let place = "fail  /etc/tombolo/tombolo.toml:";
    for (unit, expected) in [
        (
            "[serial.bus1.unit.3]\nrole = \"r\"\ntemplate = \"meter\"\n",
            "10: serial.bus1.unit.3: the unit has no id",
        ),
        (
            "[serial.bus1.unit.300]\nid = \"x\"\nrole = \"r\"\ntemplate = \"meter\"\n",
            "10: serial.bus1.unit.300: \"300\" is no address of a unit; use a whole number from 1 to 255",
        ),
        (
            "[serial.bus1.unit.3]\nid = \"x\"\nrole = \"nobody\"\ntemplate = \"meter\"\n",
            "12: serial.bus1.unit.3.role: there is no role \"nobody\"; there are: r",
        ),
        (
            "[serial.bus1.unit.3]\nid = \"x\"\ntemplate = \"meter\"\n",
            "10: serial.bus1.unit.3: the unit has no role; set role to one of the [role.*]",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"good\"\nrole = \"r\"\ntemplate = \"meter\"\n",
            "11: serial.bus1.unit.8.id: \"good\" is the id of unit.7 too",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"door\"\nrole = \"r\"\ntemplate = \"meter\"\n[device.door]\nrole = \"r\"\n",
            "10: serial.bus1.unit.8: /etc/tombolo/tombolo.toml:14 has a device of the same id; give the unit another id",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"bus1\"\nrole = \"r\"\ntemplate = \"meter\"\n",
            "11: serial.bus1.unit.8.id: \"bus1\" is the name of a bus; use another id",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"x\"\nrole = \"r\"\ntemplate = \"nothing\"\n",
            "13: serial.bus1.unit.8.template: there is no template \"nothing\"; put nothing.toml into /etc/tombolo/modbus; \
             those that come with Tombolo are in /usr/share/tombolo/modbus",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"x\"\nrole = \"r\"\ntemplate = \"../meter\"\n",
            "13: serial.bus1.unit.8.template: \"../meter\" is not accepted",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"x\"\nrole = \"r\"\ntemplate = \"meter\"\nperiod = \"10ms\"\n",
            "14: serial.bus1.unit.8.period: \"10ms\" is not accepted; use a duration from 50ms to 1day",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"x\"\nrole = \"r\"\nregister.t.address = 70000\n",
            "13: serial.bus1.unit.8.register.t.address: is 70000; use 0 to 65535, or numbering = \"manual\" for numbers like 400001",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"x\"\nrole = \"r\"\n[serial.bus1.unit.8.register.t]\naddress = 1\nbit = 2\n",
            "15: serial.bus1.unit.8.register.t.bit: means nothing here; it is for type = \"bool\" in a register",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"x\"\ncolour = 1\n",
            "12: serial.bus1.unit.8.colour: unknown key; known here:",
        ),
    ] {
        let case = case(&format!("{ROLE}{BUS}{GOOD}{unit}"));
        let found = complaints(&case);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("{place}{expected}")), "\n{}\n{place}{expected}", found[0]);
        assert_eq!(ids(&case).0, ["good"], "{unit}");
    }
}

#[test]
fn a_unit_with_a_fault_in_any_layer_is_left_out_and_a_drop_in_adds_units() {
    let unit = |address: u32, more: &str| {
        format!(
            "[serial.bus1.unit.{address}]\nid = \"u{address}\"\nrole = \"r\"\ntemplate = \"meter\"\n{more}"
        )
    };
    let drop_in = unit(9, "") + "[serial.bus1.unit.7]\nperiod = 5\n";
    let case =
        case(&format!("{ROLE}{BUS}{GOOD}")).layer(Origin::DropIn, "/etc/tombolo/conf.d/a.toml", &drop_in);
    let found = complaints(&case);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("fail  /etc/tombolo/conf.d/a.toml:6: serial.bus1.unit.7.period"),
        "{found:?}"
    );
    assert_eq!(ids(&case), (vec!["u9".to_owned()], vec!["u9".to_owned()]));
}

#[test]
fn a_fault_of_the_bus_disables_the_bus_and_nothing_else() {
    let line = "[serial.line]\nport = \"/dev/ttyS1\"\nframing = \"line\"\nrole = \"r\"\n";
    for (text, expected) in [
        ("baud = 1\n", "baud: 1 is not accepted"),
        ("framing = \"line\"\n", "framing: on a Modbus bus there are no other frames"),
        ("role = \"r\"\n", "role: a Modbus bus is not a device; each of its units is one"),
        ("data-bits = 7\n", "data-bits: Modbus RTU has 8 data bits"),
        ("flow-control = \"software\"\n", "flow-control: XON and XOFF"),
        ("gap = \"1s\"\n", "gap: it belongs to framing = \"gap\""),
        ("modbus.timeout = \"1ms\"\n", "modbus.timeout: \"1ms\" is not accepted"),
        ("modbus.backoff = \"1min\"\nmodbus.backoff-max = \"1s\"\n", "modbus.backoff-max: is 1s"),
        ("modbus.speed = 1\n", "modbus.speed: unknown key"),
    ] {
        let case = case(&format!("{ROLE}{line}{BUS}{text}{GOOD}"));
        let found = complaints(&case);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(&format!(": serial.bus1.{expected}")), "{}\n{expected}", found[0]);
        assert!(found[0].starts_with("fail  /etc/tombolo/tombolo.toml:"), "{found:?}");
        assert_eq!(ids(&case), (vec![], vec!["line".to_owned()]), "{text}");
    }
    let empty = case(&format!("{ROLE}{BUS}[serial.bus1.modbus]\n"));
    assert!(complaints(&empty)[0].contains("the bus has no unit; add one"));
    let off = case(&format!("{ROLE}{BUS}{GOOD}enabled = false\n"));
    assert!(complaints(&off)[0].starts_with("warn  /etc/tombolo/tombolo.toml:3: serial.bus1: all its units"));
}

#[test]
fn a_templates_faults_are_named_at_its_own_lines_once_and_where_they_disable_a_unit() {
    let unit = |address: u32, template: &str, more: &str| {
        format!(
            "[serial.bus1.unit.{address}]\nid = \"u{address}\"\nrole = \"r\"\ntemplate = \"{template}\"\n{more}"
        )
    };
    let text = format!(
        "{ROLE}{BUS}{GOOD}{}{}{}",
        unit(1, "wrong", ""),
        unit(2, "wrong", ""),
        unit(3, "wrong", "register.b.scale = 2\n")
    );
    let wrong = "[register.a]\naddress = 1\n\n[register.b]\naddress = 2\nscale = 0\n";
    let mut both = case(&text);
    both.files = both.files.with("/etc/tombolo/modbus/wrong.toml", wrong);
    assert_eq!(
        complaints(&both),
        [
            "fail  /etc/tombolo/modbus/wrong.toml:6: register.b.scale: is 0; use a number other than 0",
            "fail  /etc/tombolo/tombolo.toml:13: serial.bus1.unit.1.template: the template \"wrong\" has a fault; \
             correct /etc/tombolo/modbus/wrong.toml:6",
            "fail  /etc/tombolo/tombolo.toml:17: serial.bus1.unit.2.template: the template \"wrong\" has a fault; \
             correct /etc/tombolo/modbus/wrong.toml:6",
        ]
    );
    // The third unit says itself what the template has wrong.
    assert_eq!(ids(&both).0, ["u3", "good"]);
    let mut broken = case(&text);
    broken.files = broken.files.with("/etc/tombolo/modbus/wrong.toml", "[register.a]\naddress = \"one\"\n");
    let found = complaints(&broken);
    assert!(
        found[0].starts_with("fail  /etc/tombolo/modbus/wrong.toml:2: template wrong: invalid type"),
        "{found:?}"
    );
    assert!(found[1].contains(
        "unit.1.template: the template \"wrong\" cannot be read; correct /etc/tombolo/modbus/wrong.toml:2"
    ));
    assert_eq!((found.len(), ids(&broken).0), (4, vec!["good".to_owned()]));
}

#[test]
fn what_is_beside_the_file_wins_over_what_came_with_the_package() {
    let mut case = case(&format!("{ROLE}{BUS}{GOOD}"));
    case.files = case.files.with("/etc/tombolo/modbus/meter.toml", "[register.own]\naddress = 5\n");
    let loaded = case.loaded();
    assert_eq!(bus(&loaded.settings.serial[0]).units[0].registers[0].name, "own");
}

#[test]
fn a_device_whose_readings_no_rule_lets_pass_is_warned_about() {
    let warned = |text: &str| -> Vec<String> {
        let case = case(text);
        let found = complaints(&case);
        assert!(found.iter().all(|line| line.starts_with("warn  /etc/tombolo/tombolo.toml:")), "{found:?}");
        found.into_iter().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect()
    };
    let line = |more: &str| {
        format!(
            "[serial.m]\nport = \"/dev/ttyS1\"\nframing = \"line\"\nrole = \"r\"\npattern = '(?<id>.*)'\n{more}"
        )
    };
    assert_eq!(warned(&format!("{ROLE}{}", line(""))), [""; 0]);
    assert_eq!(
        warned(&format!("{ROLE}{}", line("path = \"t/x\"\n"))),
        ["serial.m.path: no rule of the role \"r\" lets its path \"t/x\" pass; \
          add [role.r.uplink.NAME] with path = \"t/x\", or set another path"]
    );
    // A level that the frame says may be anything.
    let sensors = "[role.r.uplink.sensors]\npath = \"m/a7/+\"\n";
    assert_eq!(warned(&format!("{sensors}{}", line("path = \"m/{id}/t\"\n"))), [""; 0]);
    let advised = warned(&format!("{sensors}{}", line("path = \"n/s{id}/{id}\"\n")));
    assert_eq!(advised.len(), 1, "{advised:?}");
    assert_eq!(warned(&format!("{sensors}{}", line("path = \"m/s{id}\"\n"))).len(), 1);
    // What is advised there lets them pass.
    let pattern = advised[0].split("with path = ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    assert_eq!(pattern, "\"n/+/+\"");
    let more = format!("[role.r.uplink.more]\npath = {pattern}\n");
    assert_eq!(warned(&format!("{more}{}", line("path = \"n/s{id}/{id}\"\n"))), [""; 0]);
    let denied = format!("{ROLE}[role.r.uplink.no]\npath = \"#\"\ndeny = true\n{}", line(""));
    assert!(warned(&denied)[0].starts_with(
        "serial.m.path: the rule no of the role \"r\" denies its path \"data\"; take that rule out"
    ));
    let unit = format!("{ROLE}{BUS}{GOOD}path = \"t/meter\"\n");
    assert!(
        warned(&unit)[0]
            .starts_with("serial.bus1.unit.7.path: no rule of the role \"r\" lets its path \"t/meter\" pass")
    );
    let fast = format!("{ROLE}{BUS}{GOOD}period = \"500ms\"\n");
    assert_eq!(
        warned(&fast),
        [
            "serial.bus1.unit.7.period: a reading every 500ms is more than the quota of the role \"r\": 60 in 1m; \
          raise the quota or the period, or set publish = \"change\""
        ]
    );
    assert_eq!(warned(&format!("{fast}publish = \"change\"\n")), [""; 0]);
    let small = format!("{ROLE}[role.r]\nmax-payload = 20\n{BUS}{GOOD}");
    assert!(
        warned(&small)[0].starts_with("serial.bus1.unit.7: its readings can be up to 54 bytes long"),
        "{small}"
    );
}

#[test]
fn no_fleet_makes_a_device_of_a_unit_that_is_off_or_at_fault() {
    let off = "[serial.bus1.unit.8]\nid = \"off\"\nenabled = false\n[serial.bus1.unit.9]\nid = \"wrong\"\nperiod = 1\n";
    let gate = case(&format!("{ROLE}{BUS}{GOOD}{off}")).loaded().settings.gate;
    let withheld: Vec<&str> = gate.withheld.ids.iter().map(|id| id.as_str()).collect();
    assert!(["off", "wrong", "bus1"].iter().all(|id| withheld.contains(id)), "{withheld:?}");
    assert!(!withheld.contains(&"good"));
}

#[test]
fn units_can_be_set_from_the_environment() {
    let mut case = case(&format!("{ROLE}{BUS}{GOOD}"));
    case.environment = vec![("TOMBOLO_SERIAL__BUS1__UNIT__7__PERIOD".into(), "3s".into())];
    assert_eq!(complaints(&case), [""; 0]);
    assert_eq!(bus(&case.loaded().settings.serial[0]).units[0].period.as_secs(), 3);
}

#[test]
fn a_mistyped_key_of_the_only_unit_is_not_followed_by_advice_to_switch_units_on() {
    let text = format!(
        "{ROLE}{BUS}[serial.bus1.unit.7]\nid = \"good\"\nrole = \"r\"\ntemplate = \"meter\"\nperiods = \"1s\"\n"
    );
    let complaints = complaints(&case(&text));
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(
        complaints[0].contains("serial.bus1.unit.7.periods: unknown key; did you mean period?"),
        "{complaints:?}"
    );
}

#[test]
fn a_typing_fault_in_one_unit_is_not_followed_by_advice_that_does_not_apply() {
    let unit = "[serial.bus1.unit.7]\nid = \"good\"\nrole = \"r\"\ntemplate = \"meter\"\n";
    let off = unit.replace("unit.7", "unit.8").replace("good", "other") + "enabled = false\n";
    // Each is a fault of the only unit that is not switched off.
    let faults = [
        unit.replace("template", "templete"),
        unit.replace("\"meter\"", "\"metre\""),
        unit.replace("\"r\"", "\"rr\""),
        unit.replace("role =", "rolle ="),
        unit.replace("id =", "idd ="),
        unit.replace("\"good\"", "\"go od\""),
        unit.replace("unit.7", "unit.seven"),
        unit.replace("unit.7", "unit.0"),
        unit.replace("unit.7", "unit.300"),
        unit.replace("unit.7", "units.7"),
        format!("{unit}period = \"1\"\n"),
        format!("{unit}perod = \"1s\"\n"),
        format!("{unit}enabeld = true\n"),
        format!("{unit}enabled = \"yes\"\n"),
        format!("{unit}numbering = \"manuel\"\n"),
        format!("{unit}register.x = {{ adress = 1 }}\n"),
        format!("{unit}register.x = {{ address = 70000 }}\n"),
        format!("{unit}register.x = {{ address = 1, type = \"u17\" }}\n"),
        format!("{unit}register.x = 1\n"),
    ];
    for (fault, beside) in faults.iter().flat_map(|fault| ["", &off].map(|beside| (fault, beside))) {
        let complaints = complaints(&case(&format!("{ROLE}{BUS}{fault}{beside}")));
        let wrong =
            complaints.iter().find(|said| said.contains("switched off") || said.contains("take their"));
        assert_eq!(wrong, None, "{fault}{beside}: {complaints:#?}");
        // What is said is about the fault, at its line.
        assert!(complaints.iter().any(|said| said.starts_with("fail")), "{fault}{beside}: {complaints:#?}");
        let has_place =
            |said: &String| said.contains("/etc/tombolo/tombolo.toml:") && said.contains("serial.bus1");
        assert!(complaints.iter().all(has_place), "{fault}{beside}: {complaints:#?}");
    }
    // Where nothing else is wrong, it applies.
    let complaints = complaints(&case(&format!("{ROLE}{BUS}{off}")));
    assert!(
        complaints.len() == 1 && complaints[0].contains("take their enabled = false out"),
        "{complaints:?}"
    );
}

#[test]
fn did_you_mean_offers_only_keys_of_the_table_that_has_the_unknown_one() {
    // Each key, or one like it, is known in another table of the same port.
    let cases = [
        ("[serial.bus1.modbus]\nperiods = \"1s\"\n", "serial.bus1.modbus.periods", "period"),
        ("[serial.bus1.modbus]\ntemplate = \"meter\"\n", "serial.bus1.modbus.template", "template"),
        (
            "[serial.bus1.unit.8]\nid = \"b\"\nrole = \"r\"\ntemplate = \"meter\"\nechoo = true\n",
            "serial.bus1.unit.8.echoo",
            "echo",
        ),
        (
            "[serial.bus1.unit.8]\nid = \"b\"\nrole = \"r\"\ntemplate = \"meter\"\nbauds = 9600\n",
            "serial.bus1.unit.8.bauds",
            "baud",
        ),
    ];
    for (text, key, elsewhere) in cases {
        let complaints = complaints(&case(&format!("{ROLE}{BUS}{GOOD}{text}")));
        let unknown = complaints.iter().find(|complaint| complaint.contains(key));
        let unknown = unknown.unwrap_or_else(|| panic!("{key}: {complaints:?}"));
        assert!(unknown.contains("unknown key"), "{unknown}");
        assert!(!unknown.contains(&format!("did you mean {elsewhere}?")), "{unknown}");
    }
}

#[test]
fn an_address_that_the_standard_reserves_is_used_and_warned_of() {
    let text = format!("{ROLE}{BUS}{}", GOOD.replace("unit.7", "unit.250"));
    let case = case(&text);
    let complaints = complaints(&case);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(
        complaints[0].starts_with("warn")
            && complaints[0].contains("serial.bus1.unit.250: the address is above 247")
    );
    assert_eq!(ids(&case).0, ["good"]);
}

#[test]
fn what_is_writable_and_no_downlink_rule_reaches_is_warned_of() {
    let rule = |path: &str| {
        format!("[role.r.downlink.d]\ntopic = \"{{prefix}}/{{device}}/down/#\"\npath = \"{path}\"\n")
    };
    let unit = format!("{ROLE}{BUS}{GOOD}register.Set = {{ address = 9, writable = true }}\n");
    let found = complaints(&case(&unit));
    assert!(
        found.len() == 1 && found[0].contains("reaches what is writable: Set; add [role.r.downlink.NAME]"),
        "{found:?}"
    );
    for (path, count) in [("{rest}", 0), ("Set", 0), ("other/{rest}", 1)] {
        let found = complaints(&case(&format!("{unit}{}", rule(path))));
        assert_eq!(found.len(), count, "{path} {found:?}");
    }
}

#[test]
fn a_downlink_rule_for_serial_devices_with_nothing_writable_is_warned_of() {
    let rule = "[role.r.downlink.d]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
    let text = format!("{ROLE}{BUS}{GOOD}{rule}");
    let found = complaints(&case(&text));
    assert!(found.len() == 1 && found[0].contains("nothing writable: good"), "{found:?}");
    // Another device of the role that takes commands.
    let line = "[serial.relay]\nport = \"/dev/ttyS1\"\nframing = \"line\"\nrole = \"r\"\nwritable = true\n";
    let node = "[serial.node]\nport = \"/dev/ttyS1\"\nframing = \"slipmux\"\nrole = \"r\"\n";
    for other in [line, node] {
        assert_eq!(complaints(&case(&format!("{text}{other}"))), [""; 0]);
    }
    assert_eq!(complaints(&case(&format!("{ROLE}{BUS}{GOOD}"))), [""; 0]);
}

#[test]
fn a_template_among_the_drop_ins_is_called_one_with_the_folder_that_it_belongs_into() {
    let template = include_str!("../../config/examples/modbus/abb-b23.toml");
    for name in ["30-abb-b23", "abb-b23"] {
        let file = format!("/etc/tombolo/conf.d/{name}.toml");
        let (loads, complaints) = main_file("").layer(Origin::DropIn, &file, template).complaints();
        assert!(!loads);
        assert_eq!(
            complaints.join("\n"),
            format!(
                "fail  {file}:6: register: this file is a Modbus template, not configuration; move it to \
                 /etc/tombolo/modbus/abb-b23.toml, and name it in a unit: template = \"abb-b23\" below \
                 [serial.PORT.unit.ADDRESS]"
            )
        );
    }
}
