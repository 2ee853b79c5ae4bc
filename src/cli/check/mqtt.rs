//! The local MQTT listener: whether its addresses can be had, and what time does to its
//! certificates.
//!
//! That its files can be read and fit together is `config`'s finding.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::credential::{anchors, validity};
use super::system;
use crate::cli::output::plural;
use crate::clock::WallClock;
use crate::config::{Finding, Paths};
use crate::southbound::mqtt::Settings;
use crate::southbound::mqtt::settings::PlainAddress;
use crate::system::io::has_listener;

/// What the gateway shows clients, and whom it believes.
pub fn certificates(settings: &Settings, clock: &dyn WallClock) -> Vec<Finding> {
    let Some(material) = &settings.tls else { return Vec::new() };
    let shown = material.chain_file.display();
    let message = format!(
        "the gateway shows MQTT clients its key and {} ({shown})",
        plural(material.chain.len() as u64, "certificate")
    );
    let mut findings = vec![Finding::ok("mqtt", message).key("mqtt.certificate-file")];
    findings.extend(validity(&material.chain_file, "mqtt.certificate-file", &material.chain, clock));
    if let Some(file) = &material.authorities_file {
        findings.extend(anchors(file, "mqtt.client-ca-file", &material.authorities, clock));
    }
    findings
}

/// Whether its addresses can be had, but for those in `own`, which a running gateway has or tries
/// to have: it says that itself.
pub fn listeners(settings: &Settings, paths: &Paths, own: &[String]) -> Vec<Finding> {
    let is_own = |address: &String| own.contains(address);
    let secure = settings.listen.iter().filter(|address| !is_own(&address.to_string()));
    let mut findings: Vec<Finding> = secure.map(|address| system::port("mqtts", *address, paths)).collect();
    let plain = settings.insecure_listen.iter().filter(|address| !is_own(&address.to_string()));
    findings.extend(plain.map(|address| match address {
        PlainAddress::Loopback(address) => system::port("mqtt", *address, paths),
        PlainAddress::Unix(path) => socket(path, paths),
    }));
    findings
}

/// What is at the path of a Unix socket.
fn socket(path: &Path, paths: &Paths) -> Finding {
    let shown = path.display();
    let fail = |text: String, advice: String| {
        Finding::fail("ports", format!("unix:{shown} {text}")).key("mqtt.insecure-listen").advice(advice)
    };
    match std::fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => {
            return fail(
                "cannot be had: what is there is no socket".to_owned(),
                format!("move {shown} aside, or name another path"),
            );
        }
        Ok(_) if has_listener(path).unwrap_or(false) => {
            let advice = format!("`ss -lxp src {shown}` names it; stop it, or name another path");
            return fail("is held by another program".to_owned(), advice);
        }
        // One that nobody listens on is replaced.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return fail(format!("cannot be had: {error}"), "see what is wrong with the path".to_owned());
        }
    }
    // These are made by the start.
    let is_ours = path.starts_with(&paths.runtime_dir) || path.starts_with(&paths.state_dir);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !is_ours);
    let Some(folder) = folder else { return Finding::ok("ports", format!("unix:{shown} is free")) };
    let of = folder.display();
    if !folder.is_dir() {
        return fail(
            format!("cannot be had: there is no directory {of}"),
            format!("make {of}, writable for the gateway, or name another path"),
        );
    }
    match access(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Finding::ok("ports", format!("unix:{shown} is free")),
        Err(error) => Finding::warn(
            "ports",
            format!("unix:{shown} may not be made by this user ({of}: {}), so nothing can be said about the gateway's", error.desc()),
        )
        .advice("run `sudo tombolo check`"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::config::Level;

    fn of(insecure: Vec<PlainAddress>) -> Settings {
        Settings { insecure_listen: insecure, ..Settings::default() }
    }

    #[test]
    fn an_address_of_mqtt_that_cannot_be_had_is_named_with_the_way_out() {
        let folder = std::env::temp_dir().join(format!("tombolo-mqtt-places-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let paths = Paths {
            config_file: folder.join("tombolo.toml"),
            state_dir: folder.join("state"),
            runtime_dir: folder.join("run"),
        };
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let judged = |place: PlainAddress, own: &[String]| listeners(&of(vec![place]), &paths, own);
        let found = judged(PlainAddress::Loopback(address), &[]).remove(0);
        assert_eq!(found.level, Level::Fail);
        assert!(found.message.contains(&format!("mqtt {address} is held by another program")), "{found}");
        assert!(found.advice.contains("ss -ltnp") && found.advice.contains("[mqtt]"), "{found}");
        assert_eq!(judged(PlainAddress::Loopback(address), &[address.to_string()]), [], "the gateway's own");
        drop(held);
        assert_eq!(judged(PlainAddress::Loopback(address), &[]).remove(0).level, Level::Ok);
        let elsewhere = Settings { listen: vec!["192.0.2.77:8883".parse().unwrap()], ..Settings::default() };
        let found = listeners(&elsewhere, &paths, &[]).remove(0);
        assert!(
            found.level == Level::Fail && found.message.contains("not an address of this machine"),
            "{found}"
        );

        let at = |name: &str| judged(PlainAddress::Unix(folder.join(name)), &[]).remove(0);
        std::fs::write(folder.join("file"), "").unwrap();
        assert!(
            at("file").level == Level::Fail && at("file").message.contains("no socket"),
            "{}",
            at("file")
        );
        let found = at("none/m.sock");
        assert!(found.level == Level::Fail && found.message.contains("there is no directory"), "{found}");
        assert_eq!(at("run/m.sock").level, Level::Ok, "the start makes that one");
        assert_eq!(at("m.sock").level, Level::Ok);
        let other = UnixListener::bind(folder.join("m.sock")).unwrap();
        assert!(at("m.sock").message.contains("held by another program"), "{}", at("m.sock"));
        drop(other);
        assert_eq!(at("m.sock").level, Level::Ok, "nobody listens there any more");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
