//! What the files say: accepted, or refused with the key named, one unit at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use tombolo::proto::serial::modbus::change::Publish;
use tombolo::proto::serial::modbus::frame::Speed;
use tombolo::proto::serial::modbus::map::{Charset, Half, Kind, Order};
use tombolo::proto::serial::modbus::model::{BusTable, TemplateTable, UnitTable};
use tombolo::proto::serial::modbus::pdu::Table;
use tombolo::proto::serial::modbus::plan;
use tombolo::proto::serial::modbus::settings::Settings;
use tombolo::proto::serial::modbus::validate::{self, Fault, Missing};
use tombolo::proto::serial::modbus::write::Access;

const SPEED: Speed = Speed { baud: 9600, bits: 11 };

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Port {
    modbus: BusTable,
    unit: BTreeMap<String, UnitTable>,
}

fn judge(text: &str) -> (Option<Settings>, Vec<Fault>) {
    let port: Port = toml::from_str(text).unwrap();
    let meter = TemplateTable::parse(TEMPLATE).unwrap();
    validate::bus(
        SPEED,
        &port.modbus,
        &port.unit,
        |_| 0,
        |name| match name {
            "meter" => Ok(&meter),
            _ => Err(Missing {
                message: format!("there is no template {name:?}"),
                advice: "use another".into(),
            }),
        },
    )
}

const TEMPLATE: &str = r#"
label = "a meter"
max-registers = 80
[default]
table = "input"
type = "f32"
word-order = "little"
[register.voltage]
address = 0
unit = "V"
[register.serial]
address = 0x20
type = "string"
length = 10
table = "holding"
"#;

#[test]
fn the_max_gap_of_a_unit_is_its_own_else_its_templates_else_that_of_the_bus() {
    let text = "[modbus]\nmax-gap = 4\n\
                [unit.1]\nid = \"a\"\nmax-gap = 30\nregister.x = { address = 0 }\nregister.y = { address = 31 }\n\
                [unit.2]\nid = \"b\"\nregister.x = { address = 0 }\nregister.y = { address = 31 }\n\
                [unit.3]\nid = \"c\"\nmax-gap = 0\nregister.x = { address = 0 }\nregister.y = { address = 2 }\n";
    let (settings, faults) = judge(text);
    assert_eq!(faults, []);
    let units = settings.unwrap().units;
    let gaps: Vec<u16> = units.iter().map(|unit| unit.limits.max_gap).collect();
    assert_eq!(gaps, [30, 4, 0]);
    // It decides how many requests a poll takes.
    let reads = units.iter().map(|unit| plan::blocks(&unit.registers, unit.limits).len());
    assert_eq!(reads.collect::<Vec<_>>(), [1, 2, 2]);
    let (_, faults) = judge("[unit.1]\nid = \"a\"\nmax-gap = 125\nregister.x = { address = 0 }\n");
    assert_eq!(faults.len(), 1, "{faults:?}");
}

#[test]
fn a_whole_bus_is_read() {
    let text = r#"
[modbus]
timeout = "300ms"
pause = "20ms"
max-requests-per-second = 20
backoff = "2s"
backoff-max = "5min"
echo = true
max-registers = 60
max-gap = 4
[unit.3]
id = "meter-3"
template = "meter"
path = "power/main"
period = "5s"
jitter = "500ms"
publish = "change"
max-unchanged = "1min"
register.voltage = { dead-band = 0.5, name = "u" }
register.serial.enabled = false
register.relay = { table = "coil", address = 7 }
[unit.4]
id = "meter-4"
max-registers = 12
timeout = "2s"
pause = "150ms"
register.t = { address = 1, type = "i16", scale = 0.1, offset = -40, absent = "0x7FFF", unit = "°C" }
register.alarm = { address = 1, type = "bool", bit = 3 }
[unit.5]
enabled = false
"#;
    let (settings, faults) = judge(text);
    assert_eq!(faults, []);
    let settings = settings.unwrap();
    assert_eq!((settings.interval, settings.echo), (Duration::from_millis(50), true));
    assert_eq!((settings.backoff, settings.backoff_max), (Duration::from_secs(2), Duration::from_secs(300)));
    let [first, second] = &settings.units[..] else { panic!() };
    assert_eq!((first.id.as_str(), first.address, first.path.as_str()), ("meter-3", 3, "power/main"));
    assert_eq!((first.period, first.jitter), (Duration::from_secs(5), Duration::from_millis(500)));
    assert_eq!(first.publish, Publish::OnChange { max_unchanged: Some(Duration::from_secs(60)) });
    let [relay, voltage] = &first.registers[..] else { panic!() };
    assert_eq!((relay.table, relay.address, relay.kind), (Table::Coil, 7, Kind::Bool(None)));
    assert_eq!((voltage.name.as_str(), voltage.table, voltage.kind), ("u", Table::Input, Kind::F32));
    assert_eq!((voltage.words, voltage.dead_band, voltage.unit.as_deref()), (Order::Little, 0.5, Some("V")));
    assert_eq!((first.limits.max_registers, first.limits.max_gap), (80, 4));
    assert_eq!((first.timeout, first.pause), (Duration::from_millis(300), Duration::from_millis(20)));
    assert_eq!((second.limits.max_registers, second.limits.max_gap), (12, 4));
    assert_eq!((second.timeout, second.pause), (Duration::from_secs(2), Duration::from_millis(150)));
    let [alarm, temperature] = &second.registers[..] else { panic!() };
    assert_eq!((alarm.kind, temperature.kind), (Kind::Bool(Some(3)), Kind::I16));
    assert_eq!((temperature.scale, temperature.offset), (0.1, -40.0));
    assert_eq!(temperature.absent, Some(vec![0x7F, 0xFF]));
    assert_eq!((second.path.as_str(), second.publish), ("data", Publish::Always));
    assert_eq!(second.period, Duration::from_secs(10));
}

/// The unit table's keys, the key that is at fault, and a part of what is said.
const WRONG_UNITS: &[(&str, &str, &str)] = &[
    ("", "unit.3", "no id"),
    ("id = \"-x\"", "unit.3.id", "begins with"),
    ("id = \"gateway\"", "unit.3.id", "own"),
    ("id = \"m\"\nperiod = \"10ms\"", "unit.3.period", "50ms"),
    ("id = \"m\"\nperiod = \"2days\"", "unit.3.period", "1day"),
    ("id = \"m\"\nperiod = \"1s\"\njitter = \"2s\"", "unit.3.jitter", "1s"),
    ("id = \"m\"\npath = \"a//b\"", "unit.3.path", "empty"),
    ("id = \"m\"\npath = \"~x\"", "unit.3.path", "own"),
    ("id = \"m\"\ntemplate = \"meter\"\npath = \"x/{y}\"", "unit.3.path", "no captures"),
    (
        "id = \"m\"\nregister.x = { address = 1, dead-band = 0.5 }",
        "unit.3.register.x.dead-band",
        "publish = \"change\"",
    ),
    ("id = \"m\"\nregister.x = { address = 1, absent = \"0x80\" }", "unit.3.register.x.absent", "4 hex"),
    ("id = \"m\"\ntemplate = \"nobody\"", "unit.3.template", "no template"),
    ("id = \"m\"\nmax-unchanged = \"1min\"", "unit.3.max-unchanged", "publish"),
    ("id = \"m\"\npublish = \"change\"\nmax-unchanged = \"10ms\"", "unit.3.max-unchanged", "1s"),
    ("id = \"m\"", "unit.3", "no register"),
    ("id = \"m\"\nregister.x = {}", "unit.3.register.x", "no address"),
    ("id = \"m\"\nregister.x = { address = 65535, type = \"u32\" }", "unit.3.register.x.address", "65535"),
    (
        "id = \"m\"\nregister.x = { address = 1, table = \"coil\", type = \"u16\" }",
        "unit.3.register.x.type",
        "bits",
    ),
    ("id = \"m\"\nregister.x = { address = 1, type = \"string\" }", "unit.3.register.x", "length"),
    (
        "id = \"m\"\nregister.x = { address = 1, type = \"string\", length = 126 }",
        "unit.3.register.x.length",
        "125",
    ),
    ("id = \"m\"\nregister.x = { address = 1, length = 2 }", "unit.3.register.x.length", "string"),
    ("id = \"m\"\nregister.x = { address = 1, bit = 2 }", "unit.3.register.x.bit", "bool"),
    ("id = \"m\"\nregister.x = { address = 1, type = \"bool\", bit = 16 }", "unit.3.register.x.bit", "15"),
    ("id = \"m\"\nregister.x = { address = 1, scale = 0 }", "unit.3.register.x.scale", "other than 0"),
    ("id = \"m\"\nregister.x = { address = 1, scale = nan }", "unit.3.register.x.scale", "other than 0"),
    (
        "id = \"m\"\nregister.x = { address = 1, type = \"bool\", scale = 2 }",
        "unit.3.register.x.scale",
        "numbers",
    ),
    ("id = \"m\"\nregister.x = { address = 1, offset = inf }", "unit.3.register.x.offset", "number"),
    ("id = \"m\"\nregister.x = { address = 1, dead-band = -1 }", "unit.3.register.x.dead-band", "from 0"),
    (
        "id = \"m\"\nregister.x = { address = 1, absent = \"FF\" }",
        "unit.3.register.x.absent",
        "4 hexadecimal",
    ),
    (
        "id = \"m\"\nregister.x = { address = 1, absent = \"+F+F\" }",
        "unit.3.register.x.absent",
        "4 hexadecimal",
    ),
    ("id = \"m\"\nregister.x = { address = 1, name = \"\" }", "unit.3.register.x.name", "field name"),
    (
        "id = \"m\"\nregister.x = { address = 1, name = \"y\" }\nregister.y = { address = 2 }",
        "unit.3.register.y.name",
        "register.x",
    ),
    ("id = \"m\"\ntemplate = \"meter\"\nregister.voltage.bit = 3", "unit.3.register.voltage.bit", "bool"),
    ("id = \"m\"\nmax-registers = 126\nregister.x.address = 1", "unit.3.max-registers", "125"),
    ("id = \"m\"\npause = \"20s\"\nregister.x.address = 1", "unit.3.pause", "10s"),
    ("id = \"m\"\nregister.x = { address = 400001 }", "unit.3.register.x.address", "numbering"),
    (
        "id = \"m\"\nnumbering = \"manual\"\nregister.x = { address = 20001 }",
        "unit.3.register.x.address",
        "40001",
    ),
    (
        "id = \"m\"\nnumbering = \"manual\"\nregister.x = { address = 30001, table = \"holding\" }",
        "unit.3.register.x.table",
        "input",
    ),
    ("id = \"m\"\nregister.x = { address = 1, byte = \"high\" }", "unit.3.register.x.byte", "u8"),
    (
        "id = \"m\"\nregister.x = { address = 1, type = \"f32\", mask = \"0F\" }",
        "unit.3.register.x.mask",
        "whole",
    ),
    ("id = \"m\"\nregister.x = { address = 1, mask = \"1FFFF\" }", "unit.3.register.x.mask", "more bits"),
    (
        "id = \"m\"\nregister.x = { address = 1, type = \"u8\", mask = \"100\" }",
        "unit.3.register.x.mask",
        "more bits than the 8",
    ),
    (
        "id = \"m\"\nregister.x = { address = 1, values = [\"70000=x\"] }",
        "unit.3.register.x.values",
        "from 0 to 65535",
    ),
    (
        "id = \"m\"\nregister.x = { address = 1, type = \"i16\", values = [\"40000=x\"] }",
        "unit.3.register.x.values",
        "from -32768 to 32767",
    ),
    (
        "id = \"m\"\nregister.x = { address = 1, mask = \"00F0\", values = [\"16=x\"] }",
        "unit.3.register.x.values",
        "from 0 to 15",
    ),
    ("id = \"m\"\nregister.x = { address = 1, mask = \"0x\" }", "unit.3.register.x.mask", "hexadecimal"),
    ("id = \"m\"\nregister.x = { address = 1, bits = [\"16=a\"] }", "unit.3.register.x.bits", "0 to 15"),
    (
        "id = \"m\"\nregister.x = { address = 1, values = [\"0=a\", \"0=b\"] }",
        "unit.3.register.x.values",
        "NUMBER=NAME",
    ),
    (
        "id = \"m\"\nregister.x = { address = 1, charset = \"latin-1\" }",
        "unit.3.register.x.charset",
        "string",
    ),
    ("id = \"m\"\nregister.x = { address = 1, scale-from = \"x\" }", "unit.3.register.x.scale-from", "other"),
    ("id = \"m\"\nregister.x = { address = 1, answer-bytes = 0 }", "unit.3.register.x.answer-bytes", "250"),
];

#[test]
fn each_fault_names_its_key_and_disables_its_unit_only() {
    for (text, key, said) in WRONG_UNITS {
        let good = "[unit.7]\nid = \"good\"\ntemplate = \"meter\"\n";
        let (settings, faults) = judge(&format!("{good}[unit.3]\n{text}\n"));
        let [fault] = &faults[..] else { panic!("{text}: {faults:?}") };
        assert_eq!(fault.key.join("."), *key, "{text}: {fault:?}");
        assert!(format!("{}; {}", fault.message, fault.advice).contains(said), "{text}: {fault:?}");
        let units: Vec<u8> = settings.unwrap().units.iter().map(|unit| unit.address).collect();
        assert_eq!(units, [7], "{text}");
    }
}

#[test]
fn addresses_and_ids_are_each_units_own() {
    for key in ["0", "256", "300", "x", "-1"] {
        let (settings, faults) = judge(&format!("[unit.{key}]\nid = \"a\"\ntemplate = \"meter\"\n"));
        assert!(settings.is_none());
        assert_eq!(faults[0].key.join("."), format!("unit.{key}"));
    }
    let unit = |key: &str, id: &str| format!("[unit.{key}]\nid = \"{id}\"\ntemplate = \"meter\"\n");
    let (settings, faults) = judge(&(unit("1", "a") + &unit("2", "a")));
    assert_eq!((settings.unwrap().units.len(), faults[0].key.join(".")), (1, "unit.2.id".to_owned()));
    let (settings, faults) = judge(&(unit("01", "a") + &unit("1", "b")));
    assert_eq!((settings.unwrap().units.len(), faults[0].key.join(".")), (1, "unit.1".to_owned()));
}

#[test]
fn a_fault_of_the_bus_disables_the_bus() {
    for (text, key) in [
        ("timeout = \"1ms\"", "modbus.timeout"),
        ("timeout = \"2min\"", "modbus.timeout"),
        ("pause = \"1min\"", "modbus.pause"),
        ("max-requests-per-second = 0", "modbus.max-requests-per-second"),
        ("max-requests-per-second = 1001", "modbus.max-requests-per-second"),
        ("backoff = \"1ms\"", "modbus.backoff"),
        ("backoff = \"1min\"\nbackoff-max = \"1s\"", "modbus.backoff-max"),
    ] {
        let (settings, faults) =
            judge(&format!("[modbus]\n{text}\n[unit.7]\nid = \"good\"\ntemplate = \"meter\"\n"));
        assert!(settings.is_none(), "{text}");
        assert_eq!(faults.iter().map(|fault| fault.key.join(".")).collect::<Vec<_>>(), [key], "{text}");
    }
    let (settings, faults) = judge("");
    assert!(settings.is_none());
    assert_eq!(faults[0].key, ["unit"]);
}

#[test]
fn a_template_is_judged_by_itself_and_names_the_line_it_cannot_be_read_at() {
    let error = TemplateTable::parse("label = \"x\"\n[register.a]\naddress = 1\nadress = 2\n").unwrap_err();
    assert_eq!(error.line, Some(4));
    assert!(error.message.contains("adress"), "{error:?}");
    let error = TemplateTable::parse("[register.a]\naddress = -1\n").unwrap_err();
    assert_eq!(error.line, Some(2));
    let table = TemplateTable::parse("max-gap = 200\n[register.a]\naddress = 1\nscale = 0\n").unwrap();
    let faults = validate::template("broken", &table).unwrap_err();
    let keys: Vec<String> = faults.iter().map(|fault| fault.key.join(".")).collect();
    assert_eq!(keys, ["max-gap", "register.a.scale"]);
    assert!(faults.iter().all(|fault| fault.template.as_deref() == Some("broken")));
}

#[test]
fn a_manuals_numbers_are_addresses_of_the_table_they_name() {
    let text = r#"
[unit.250]
id = "m"
numbering = "manual"
register.a = { address = 40001 }
register.b = { address = 30001 }
register.c = { address = 10001 }
register.d = { address = 1 }
register.e = { address = 465536 }
register.f = { address = 300010 }
"#;
    let (settings, faults) = judge(text);
    assert_eq!(faults, []);
    let unit = &settings.unwrap().units[0];
    let found: Vec<(&str, Table, u16)> = unit
        .registers
        .iter()
        .map(|register| (register.name.as_str(), register.table, register.address))
        .collect();
    assert_eq!(
        found,
        [
            ("d", Table::Coil, 0),
            ("c", Table::Discrete, 0),
            ("a", Table::Holding, 0),
            ("e", Table::Holding, 65_535),
            ("b", Table::Input, 0),
            ("f", Table::Input, 9)
        ]
    );
    // What the configuration says of the numbering is no guess any more.
    for (numbering, is_said) in
        [("", false), ("numbering = \"wire\"\n", true), ("numbering = \"manual\"\n", true)]
    {
        let (settings, faults) =
            judge(&format!("[unit.3]\nid = \"m\"\n{numbering}register.x.address = 40001\n"));
        assert_eq!(faults, []);
        let register = &settings.unwrap().units[0].registers[0];
        assert_eq!((register.numbered, register.hint().is_none()), (is_said, is_said), "{numbering}");
    }
}

#[test]
fn a_units_registers_take_digits_bytes_masks_names_and_an_exponent() {
    let text = r#"
[unit.3]
id = "m"
register.day = { address = 0, type = "bcd2" }
register.high = { address = 1, type = "i8", byte = "high" }
register.level = { address = 2, mask = "0x0FF0" }
register.flags = { address = 3, bits = ["0=pump", "15 = alarm"] }
register.mode = { address = 4, values = ["0=off", "1=on"] }
register.label = { address = 5, type = "string", length = 8, characters = 1, charset = "windows-1252" }
register.power = { address = 20, type = "i16", scale-from = "power_sf" }
register.power_sf = { address = 21, type = "i16" }
register.odd = { address = 30, answer-bytes = 12 }
"#;
    let (settings, faults) = judge(text);
    assert_eq!(faults, []);
    let registers = &settings.unwrap().units[0].registers;
    let of = |name: &str| registers.iter().find(|register| register.name == name).unwrap();
    assert_eq!((of("day").kind, of("high").kind), (Kind::Bcd(2), Kind::I8(Half::High)));
    assert_eq!((of("level").mask, of("odd").answer_bytes), (Some(0x0FF0), Some(12)));
    assert_eq!(of("flags").bits, [(0, "pump".to_owned()), (15, "alarm".to_owned())]);
    assert_eq!(of("mode").names, [(0, "off".to_owned()), (1, "on".to_owned())]);
    assert_eq!((of("label").narrow, of("label").charset), (true, Charset::Windows1252));
    assert_eq!(registers[of("power").exponent.unwrap()].name, "power_sf");
}

#[test]
fn what_is_writable_is_read_with_its_range_and_a_template_may_choose_the_function() {
    let text = r#"
[unit.3]
id = "m"
register.plain = { address = 0, writable = true }
register.set = { address = 1, type = "i16", scale = 0.1, writable = true, min = 5, max = 30.5, write-multiple = true }
register.reset = { address = 2, table = "coil", writable = true, read-back = false }
register.fixed = { address = 3 }
"#;
    let (settings, faults) = judge(text);
    assert_eq!(faults, []);
    let registers = &settings.unwrap().units[0].registers;
    let of = |name: &str| registers.iter().find(|register| register.name == name).unwrap().write;
    let free = Access { min: None, max: None, multiple: false, read_back: true };
    assert_eq!((of("plain"), of("fixed")), (Some(free), None));
    assert_eq!(of("set"), Some(Access { min: Some(5.0), max: Some(30.5), multiple: true, ..free }));
    assert_eq!(of("reset"), Some(Access { read_back: false, ..free }));
    // For all of a template; a unit switches off what it allows.
    let template = TemplateTable::parse(
        "[default]\nwrite-multiple = true\n[register.a]\naddress = 0\nwritable = true\nmin = 1\n",
    );
    let template = template.unwrap();
    let (registers, _) = validate::template("x", &template).unwrap();
    assert!(registers[0].write.is_some_and(|access| access.multiple));
    let units = [(
        "3".to_owned(),
        toml::from_str("id = \"m\"\ntemplate = \"x\"\nregister.a.writable = false").unwrap(),
    )];
    let (settings, faults) =
        validate::bus(SPEED, &BusTable::default(), &units.into(), |_| 0, |_| Ok(&template));
    assert_eq!((faults, settings.unwrap().units[0].registers[0].write), (Vec::new(), None));
}

#[test]
fn what_cannot_be_written_is_no_writable_register_and_the_broadcast_address_no_unit() {
    for (more, key, part) in [
        ("table = \"input\", writable = true", "writable", "input table can only be read"),
        ("table = \"discrete\", writable = true", "writable", "discrete table can only be read"),
        ("type = \"string\", length = 2, writable = true", "writable", "texts"),
        ("answer-bytes = 12, writable = true", "writable", "answer-bytes"),
        ("name = \"a/b\", writable = true", "writable", "path"),
        ("scale-from = \"other\", writable = true", "writable", "scale-from"),
        ("writable = true, min = 5, max = 4", "min", "no value"),
        ("writable = true, min = 70000", "min", "no value"),
        ("table = \"coil\", writable = true, max = 1", "max", "numbers"),
        ("min = 1", "min", "means nothing"),
        ("read-back = false", "read-back", "means nothing"),
    ] {
        let (_, faults) = judge(&format!(
            "[unit.3]\nid = \"m\"\nregister.other = {{ address = 9 }}\nregister.x = {{ address = 0, {more} }}\n"
        ));
        let [fault] = &faults[..] else { panic!("{more}: {faults:?}") };
        assert_eq!(fault.key.last().map(String::as_str), Some(key), "{more}: {fault:?}");
        assert!(fault.message.contains(part), "{more}: {fault:?}");
    }
    let (_, faults) = judge("[unit.0]\nid = \"m\"\nregister.x = { address = 0, writable = true }\n");
    assert!(faults[0].message.contains("broadcast"), "{faults:?}");
}

#[test]
fn what_the_byte_count_says_is_a_units_or_its_templates_and_what_the_transaction_id_says_is_the_buss() {
    let own = "id = \"a\"\nbyte-count = \"registers\"\nregister.x = { address = 1 }";
    let other = "id = \"b\"\nregister.x = { address = 1 }";
    let (settings, faults) =
        judge(&format!("[modbus]\ntransaction-id = \"ignore\"\n[unit.1]\n{own}\n[unit.2]\n{other}\n"));
    assert_eq!(faults, []);
    let settings = settings.unwrap();
    assert!(settings.is_unnumbered);
    assert_eq!([0, 1].map(|unit| settings.units[unit].registers[0].counts_registers), [true, false]);
    for (word, expected) in [("", false), ("transaction-id = \"check\"", false)] {
        let (settings, _) = judge(&format!("[modbus]\n{word}\n[unit.1]\n{other}\n"));
        assert_eq!(settings.unwrap().is_unnumbered, expected);
    }
    let table = TemplateTable::parse("byte-count = \"registers\"\n[register.x]\naddress = 1\n").unwrap();
    assert!(validate::template("t", &table).unwrap().0[0].counts_registers);
}
