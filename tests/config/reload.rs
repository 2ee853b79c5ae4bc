//! The changes that a reload applies, and those that it refuses.

use tombolo::config::reload::{Changes, compare};

use crate::support::{Case, lines, main_file};

const BASE: &str =
    "[gateway]\nid = \"g\"\n[role.r.uplink.x]\npath = \"x\"\n[role.s.uplink.x]\npath = \"x\"\n";

fn after(old: &Case, new: &Case) -> Result<Changes, String> {
    compare(&old.loaded(), &new.loaded()).map_err(|findings| lines(&findings))
}

#[test]
fn nothing_changed_is_no_change() {
    assert_eq!(after(&main_file(BASE), &main_file(BASE)), Ok(Changes::default()));
    let written_otherwise =
        format!("{BASE}[journal]\nsegment-bytes = 4194304\n[coap]\nlisten = [\"[::]:5684\"]\n");
    assert_eq!(after(&main_file(BASE), &main_file(&written_otherwise)), Ok(Changes::default()));
}

#[test]
fn keys_that_need_a_restart_refuse_the_reload_each_by_its_name() {
    let new = format!(
        "{BASE}[coap]\nlisten = [\"[::]:5685\"]\n[paths]\nstate-dir = \"/x\"\n[log]\nlevel = \"debug\"\n"
    );
    let refused = after(&main_file(BASE), &main_file(&new)).unwrap_err();
    assert_eq!(
        refused,
        "fail  /etc/tombolo/tombolo.toml:8: coap.listen: changed, and a reload cannot apply it; \
         systemctl restart tombolo takes it up; or change it back; nothing was reloaded\n\
         fail  /etc/tombolo/tombolo.toml:10: paths.state-dir: changed, and a reload cannot apply it; \
         systemctl restart tombolo takes it up; or change it back; nothing was reloaded\n"
    );
    // Taken out again: the line of the old one is the one to look at.
    let back = after(&main_file(&new), &main_file(BASE)).unwrap_err();
    assert!(back.starts_with("fail  /etc/tombolo/tombolo.toml:8: coap.listen:"), "{back}");
}

#[test]
fn devices_that_went_or_got_another_key_or_role_are_named() {
    let device = |id: &str, role: &str, key: &str| {
        (id.to_owned(), format!("role = \"{role}\"\npsk = \"text:0123456789{key}\"\n"))
    };
    let with = |devices: &[(String, String)]| {
        devices.iter().fold(main_file(BASE), |case, (id, text)| case.device(id, text))
    };
    let old =
        with(&[device("a", "r", "x"), device("b", "r", "x"), device("c", "r", "x"), device("d", "r", "x")]);
    let new =
        with(&[device("a", "r", "x"), device("b", "r", "y"), device("c", "s", "x"), device("e", "r", "x")]);
    let changes = after(&old, &new).unwrap();
    let names = |list: &[tombolo::message::Name]| list.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&changes.devices_gone), ["b", "c", "d"]);
    assert_eq!(names(&changes.devices_new), ["e"]);
}

#[test]
fn a_new_gateway_id_tells_the_old_one() {
    let changes = after(&main_file(BASE), &main_file(&BASE.replace("\"g\"", "\"h\""))).unwrap();
    assert_eq!(changes.renamed_from.unwrap().as_str(), "g");
}

#[test]
fn the_rest_is_taken_up_and_told_apart() {
    let reloads = |more: &str| after(&main_file(BASE), &main_file(&format!("{BASE}{more}"))).unwrap();
    assert_eq!(reloads("[log]\nlevel = \"debug\"\n"), Changes { log: true, ..Changes::default() });
    assert_eq!(reloads("[clock]\ntrust = \"always\"\n"), Changes { clock: true, ..Changes::default() });
    for key in ["require-ems = true", "connection-id = false", "mtu = 300"] {
        let changes = reloads(&format!("[coap]\n{key}\n"));
        assert_eq!(changes, Changes { dtls: true, ..Changes::default() }, "{key}");
    }
    assert_eq!(
        reloads("[lane.high]\nwhen-full = \"drop-oldest\"\n"),
        Changes { journal: true, ..Changes::default() }
    );
    assert_eq!(
        reloads("[upstream]\nurl = \"mqtts://b\"\n"),
        Changes { upstream: true, ..Changes::default() }
    );
    // Other files of the same account are tried beside the connection; a file more or less is not.
    let with = |text: &str| main_file(&format!("{BASE}[upstream]\nurl = \"mqtts://b\"\n{text}"));
    let files = Changes { upstream_files: true, ..Changes::default() };
    let whole = Changes { upstream: true, ..Changes::default() };
    let ca = |name: &str| with(&format!("ca-file = \"/{name}.pem\"\n"));
    assert_eq!(after(&ca("a"), &ca("b")).unwrap(), files);
    assert_eq!(after(&ca("a"), &with("")).unwrap(), whole);
    assert_eq!(after(&ca("a"), &ca("a")).unwrap(), Changes::default());
    let pair =
        |name: &str| with(&format!("certificate-file = \"/{name}.crt\"\nkey-file = \"/{name}.key\"\n"));
    assert_eq!(after(&pair("a"), &pair("b")).unwrap(), files);
    assert_eq!(after(&pair("a"), &with("")).unwrap(), whole);
    assert_eq!(after(&ca("a"), &with("ca-file = \"/b.pem\"\nkeep-alive = \"50s\"\n")).unwrap(), whole);
    assert_eq!(reloads("[role.new.uplink.x]\npath = \"x\"\n"), Changes::default());
}

#[test]
fn a_bound_that_changes_the_size_of_segments_is_named_itself() {
    let small = format!(
        "{BASE}[journal]\nmax-bytes = \"64MiB\"\n[lane.normal]\nmax-bytes = \"40MiB\"\n[lane.high]\nmax-bytes = \"8MiB\"\n"
    );
    let refused = after(&main_file(BASE), &main_file(&small)).unwrap_err();
    assert!(refused.contains("journal.max-bytes: changed, and with it the size"), "{refused}");
    assert!(refused.contains("segment-bytes = 4194304"), "{refused}");
    // By that advice it is taken up.
    let kept = small.replace("[journal]\n", "[journal]\nsegment-bytes = 4194304\n");
    assert!(after(&main_file(BASE), &main_file(&kept)).is_ok_and(|changes| changes.journal));
}
