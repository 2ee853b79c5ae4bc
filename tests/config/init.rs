//! `tombolo init` on a real disk.

use std::fs;
use std::path::PathBuf;

use tombolo::config::init::Site;
use tombolo::config::init::io::{InitError, Written, write};

use crate::registry::{Folder, MAIN};
use crate::support;

fn lines(error: &InitError) -> String {
    match error {
        InitError::Findings(findings) => support::lines(findings),
        InitError::Exists(path) => panic!("{} exists", path.display()),
    }
}

fn site(url: &str) -> Site {
    Site { url: Some(url.into()), ..Site::default() }
}

#[test]
fn the_drop_in_is_written_beside_the_main_file_which_stays_as_it_is() {
    let folder = Folder::new("init");
    folder.write("tombolo.toml", MAIN);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["ca".to_owned()]).unwrap().self_signed(&key).unwrap();
    let ca = folder.write("ca.pem", &certificate.pem());
    let Written { path, loaded, main, .. } =
        write(&folder.options(), &Site { ca_file: Some(ca.clone()), ..site("mqtts://b") }, false).unwrap();
    assert_eq!((&path, main), (&folder.0.join("conf.d/10-site.toml"), None));
    assert_eq!(loaded.settings.upstream.unwrap().host, "b");
    let upstream = folder.load().settings.upstream.unwrap();
    assert_eq!(upstream.tls.unwrap().ca_file, Some(ca.clone()));
    // A way through the parent folder is written without it.
    let around = folder.0.join("devices/../ca.pem");
    fs::create_dir_all(folder.0.join("devices")).unwrap();
    write(&folder.options(), &Site { ca_file: Some(around), ..site("mqtts://b") }, true).unwrap();
    let straight = fs::canonicalize(&folder.0).unwrap().join("ca.pem");
    assert_eq!(folder.load().settings.upstream.unwrap().tls.unwrap().ca_file, Some(straight));
    assert_eq!(fs::read_to_string(folder.0.join("tombolo.toml")).unwrap(), MAIN);

    let refused = write(&folder.options(), &site("mqtts://c"), false).unwrap_err();
    assert!(matches!(&refused, InitError::Exists(there) if *there == path), "{refused:?}");
    write(&folder.options(), &site("mqtts://c"), true).unwrap();
    assert_eq!(folder.load().settings.upstream.unwrap().host, "c");
}

#[test]
fn what_would_be_refused_is_not_put_in_place() {
    let folder = Folder::new("init-bad");
    folder.write("tombolo.toml", MAIN);
    let refused = |site: &Site| lines(&write(&folder.options(), site, false).unwrap_err());
    assert!(
        refused(&site("mqtt://b"))
            .contains("mqtt:// is not encrypted; use mqtts://, or set insecure = true (init --insecure)")
    );
    assert!(
        refused(&Site { id: Some("a/b".into()), ..site("mqtts://b") })
            .contains("gateway.id: \"a/b\" is not accepted")
    );
    let missing = Site { ca_file: Some(PathBuf::from("/no/such/ca.pem")), ..site("mqtts://b") };
    assert!(refused(&missing).contains("/no/such/ca.pem does not exist"));
    assert!(!folder.0.join("conf.d").exists());
    assert!(write(&folder.options(), &Site { insecure: true, ..site("mqtt://b") }, false).is_ok());
}

#[test]
fn an_empty_place_becomes_a_configuration() {
    let folder = Folder::new("init-empty");
    let written = write(&folder.options(), &site("mqtts://b"), false).unwrap();
    assert_eq!(written.main, Some(folder.0.join("tombolo.toml")));
    let loaded = folder.load();
    assert_eq!(loaded.settings.upstream.as_ref().unwrap().host, "b");
    assert_eq!(loaded.settings.paths.state_dir, folder.0.join("state"));
    assert_eq!(loaded.settings.paths.runtime_dir, folder.0.join("run"));
    assert_eq!(loaded.settings.gate.roles[0].name.as_str(), "sensor");
    assert!(loaded.settings.coap.listen.iter().all(|address| address.ip().is_loopback()));
    assert!(folder.0.join("state").is_dir() && folder.0.join("run").is_dir());
}
