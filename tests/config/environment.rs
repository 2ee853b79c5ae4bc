//! The item that an environment variable refers to, and the findings if there is none.

use crate::support::{Case, main_file};

const FILE: &str = "[role.sensor.uplink.all]\npath = \"#\"\n[role.sensor.uplink.Night_Shift]\npath = \"n\"\n\
    [device.Door_A]\nrole = \"sensor\"\n[device.b-1]\nrole = \"sensor\"\n[device.\"c.1\"]\nrole = \"sensor\"\n";

fn with(text: &str, name: &str, value: &str) -> Case {
    main_file(text).environment(name, value)
}

fn ids(case: &Case) -> Vec<String> {
    case.loaded().settings.gate.devices.iter().map(|device| device.id.to_string()).collect()
}

#[test]
fn a_device_with_capitals_underscores_or_dots_can_be_switched_off_by_a_variable() {
    for (name, gone) in [
        ("TOMBOLO_DEVICE__DOOR_A__ENABLED", "Door_A"),
        ("TOMBOLO_DEVICE__Door_A__ENABLED", "Door_A"),
        ("TOMBOLO_DEVICE__B_1__ENABLED", "b-1"),
        ("TOMBOLO_DEVICE__C_1__ENABLED", "c.1"),
    ] {
        let case = with(FILE, name, "false");
        assert_eq!(case.complaints().1, [""; 0], "{name}");
        let left = ids(&case);
        assert!(left.len() == 2 && !left.iter().any(|id| id == gone), "{name}: {left:?}");
    }
    let case = with(FILE, "TOMBOLO_ROLE__SENSOR__UPLINK__NIGHT_SHIFT__ENABLED", "false");
    assert_eq!(case.complaints().1, [""; 0]);
    assert_eq!(case.loaded().settings.gate.roles[0].uplink.len(), 1);
}

#[test]
fn serial_ports_and_fleets_are_found_the_same_way() {
    let text = format!(
        "{FILE}[serial.Meter_1]\nport = \"/dev/x\"\nframing = \"line\"\nrole = \"sensor\"\npath = \"t\"\n\
         [fleet.All_Doors]\nrole = \"sensor\"\ncertificate-cn = \"{{id}}\"\n"
    );
    let port = with(&text, "TOMBOLO_SERIAL__METER_1__ENABLED", "false");
    assert!(port.loaded().settings.serial.is_empty());
    let fleet = with(&text, "TOMBOLO_FLEET__ALL_DOORS__ENABLED", "false");
    assert!(fleet.loaded().settings.gate.fleets.is_empty());
    let lane = with("", "TOMBOLO_LANE__HIGH__MAX_BYTES", "8MiB");
    assert_eq!(lane.complaints().1, [""; 0]);
}

#[test]
fn a_variable_that_names_no_item_fails_the_check_and_says_what_there_is() {
    let case = with(FILE, "TOMBOLO_DEVICE__WINDOW__ENABLED", "false");
    assert_eq!(
        case.complaints(),
        (
            true,
            vec![
                "fail  environment variable TOMBOLO_DEVICE__WINDOW__ENABLED: environment: names no [device.NAME] of the files, \
                 and was ignored; it is accepted in any case, with '_' for '-' and '.', for: \"Door_A\", \"b-1\", \"c.1\"; \
                 add others in a file"
                    .to_owned()
            ]
        )
    );
    assert_eq!(ids(&case).len(), 3);
    let none = with("", "TOMBOLO_DEVICE__WINDOW__ROLE", "sensor").complaints().1;
    assert!(none.len() == 1 && none[0].contains("a variable changes what a file has"), "{none:?}");
    let many: String = (0..300).map(|n| format!("[device.d{n}]\nrole = \"r\"\n")).collect();
    let long = with(&many, "TOMBOLO_DEVICE__WINDOW__ENABLED", "false").complaints().1;
    assert!(long.iter().any(|line| line.contains("and 290 more")), "{}", long[0]);
}

#[test]
fn a_variable_that_could_mean_two_items_changes_neither_unless_it_spells_one() {
    let text = format!("{FILE}[device.door-a]\nrole = \"sensor\"\n");
    let case = with(&text, "TOMBOLO_DEVICE__DOOR_A__ENABLED", "false");
    let said = case.complaints().1;
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("fail") && said[0].contains("could be each of \"Door_A\", \"door-a\""),
        "{}",
        said[0]
    );
    assert_eq!(ids(&case).len(), 4);
    let case = with(&text, "TOMBOLO_DEVICE__Door_A__ENABLED", "false");
    assert_eq!(case.complaints().1, [""; 0]);
    assert!(!ids(&case).contains(&"Door_A".to_owned()));
}

#[test]
fn a_setting_with_one_underscore_too_few_fails_the_check_with_the_name_meant() {
    for (name, meant) in [
        ("TOMBOLO_UPSTREAM_CA_FILE", "TOMBOLO_UPSTREAM__CA_FILE"),
        ("TOMBOLO_LOG_LEVEL", "TOMBOLO_LOG__LEVEL"),
    ] {
        let said = with("", name, "x").complaints().1;
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("fail") && said[0].ends_with(&format!("did you mean {meant}?")),
            "{}",
            said[0]
        );
    }
    let said = with("", "TOMBOLO_TEST_PEERS", "all").complaints().1;
    assert!(said.len() == 1 && said[0].starts_with("warn"), "{said:?}");
}

#[test]
fn a_list_in_a_variable_is_separated_by_commas_and_a_wrong_one_is_told_so() {
    let case = with("", "TOMBOLO_COAP__LISTEN", "127.0.0.1:5684,[::1]:5684");
    assert_eq!(case.loaded().settings.coap.listen.len(), 2);
    let (loads, said) = with("", "TOMBOLO_COAP__LISTEN", "[\"127.0.0.1:5684\"]").complaints();
    assert!(!loads);
    assert!(said[0].contains("separated by commas, without brackets and quotes"), "{said:?}");
}
