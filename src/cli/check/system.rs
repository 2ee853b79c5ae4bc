//! What the machine has to give: a clock, a place for the state, room on the disk, ports.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use nix::unistd::{AccessFlags, Uid, access};

use crate::cli::clock::{FLOOR_WAY_OUT, UNREAD, floor_ahead, unread, way_out};
use crate::cli::output::bytes;
use crate::clock::judge::{BEFORE_CERTIFICATE, way_out_of_impossible};
use crate::config::{Finding, Paths, Settings};
use crate::control::snapshot::Clock;
use crate::daemon::disk_room::Room;

/// The verdict on the wall clock, as the daemon or this command sees it.
pub fn clock(clock: &Clock) -> Vec<Finding> {
    let now = clock.now.as_deref().unwrap_or("the clock");
    let reason = clock.reason.as_deref().unwrap_or("no reason is known");
    let mut findings = vec![match clock.state.as_str() {
        "trusted" => Finding::ok("clock", format!("{now}, {reason}")),
        "doubted" => Finding::warn(
            "clock",
            format!(
                "{now} is in doubt: {reason}; meanwhile nothing stored expires by it, readings go out without their \
                 time of receipt, and certificates are judged at {}",
                clock.floor.as_deref().unwrap_or("the floor")
            ),
        )
        .advice(format!(
            "if the time is wrong, see what sets it (`timedatectl timesync-status`); the doubt ends {}",
            way_out(clock)
        )),
        "impossible" => Finding::warn("clock", format!("{now} cannot be right: {reason}"))
            .advice(way_out_of_impossible(reason.contains(BEFORE_CERTIFICATE))),
        _ => {
            let advice = match clock.unread {
                None => "start a time service (`timedatectl set-ntp true`)",
                Some(_) => UNREAD,
            };
            Finding::warn("clock", format!("{now} is not trusted: {reason}"))
                .advice(format!("{advice}; until then readings are published without their time of receipt"))
        }
    }];
    // An impossible clock is before a time that has passed: the finding above says which.
    if let Some(ahead) = floor_ahead(clock).filter(|_| clock.state != "impossible") {
        findings.push(Finding::warn("clock", ahead).advice(FLOOR_WAY_OUT));
    }
    if let Some(reason) = unread(clock) {
        findings.push(Finding::warn("clock", reason).advice(UNREAD));
    }
    if let Some(reason) = &clock.failing {
        findings.push(
            Finding::warn("clock", format!("what is known of the time cannot be saved: {reason}"))
                .advice("make room on the disk, or see in `dmesg` what is wrong with it"),
        );
    }
    findings
}

/// Makes a file in a folder and removes it: what the modes allow a file system may refuse that went
/// read-only after an error of its disk.
fn try_write(folder: &Path) -> nix::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK)?;
    let file = folder.join(format!(".check-{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(&file);
    made.and_then(|_| std::fs::remove_file(&file))
        .map_err(|error| error.raw_os_error().map_or(nix::errno::Errno::EIO, nix::errno::Errno::from_raw))
}

/// Whether a folder of ours is there and can be written to.
pub fn folder(subject: &str, path: &Path, made_by: &str) -> Finding {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            Finding::fail(subject, format!("{shown} is not a directory")).advice("move it aside")
        }
        Ok(_) => match try_write(path) {
            Ok(()) => Finding::ok(subject, format!("{shown} can be written to")),
            Err(nix::errno::Errno::EROFS) => {
                Finding::fail(subject, format!("{shown} is on a file system mounted read-only"))
                    .advice("remount it, and see in `dmesg` why it is")
            }
            Err(error @ (nix::errno::Errno::ENOSPC | nix::errno::Errno::EDQUOT)) => {
                Finding::fail(subject, format!("{shown} cannot be written to: {}", error.desc()))
                    .advice("make room on the disk")
            }
            Err(error @ nix::errno::Errno::EIO) => {
                Finding::fail(subject, format!("{shown} cannot be written to: {}", error.desc()))
                    .advice("see in `dmesg` what is wrong with the disk")
            }
            Err(_) if !Uid::effective().is_root() => Finding::warn(
                subject,
                format!("this user may not write to {shown}, so nothing can be said about the service's"),
            )
            .advice("run `sudo tombolo check`"),
            Err(error) => Finding::fail(subject, format!("{shown} cannot be written to: {error}"))
                .advice("correct its owner and mode"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::warn(subject, format!("{shown} does not exist yet")).advice(made_by)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::warn(subject, format!("{shown} is closed to this user"))
                .advice("run `sudo tombolo check`")
        }
        Err(error) => {
            Finding::fail(subject, format!("{shown}: {error}")).advice("see what is wrong with the path")
        }
    }
}

/// That this user, if it runs the gateway, cannot make a folder, or cannot write to the one that is
/// there. `key`: what moves it.
pub fn refused(subject: &str, path: &Path, key: &str) -> Option<Finding> {
    // The nearest that is there.
    let place = path.ancestors().find(|place| place.exists())?;
    let error = match place.is_dir() {
        true => access(place, AccessFlags::W_OK | AccessFlags::X_OK).err()?,
        false => nix::errno::Errno::ENOTDIR,
    };
    let (shown, place_shown) = (path.display(), place.display());
    let message = match place == path {
        true => format!("{shown} cannot be used by this user: {}", error.desc()),
        false => format!("{shown} cannot be made by this user: {place_shown}: {}", error.desc()),
    };
    let advice = format!("give {place_shown} to the user that runs the gateway, or set {key}");
    Some(Finding::fail(subject, message).advice(advice))
}

/// Whether the gateway with this state directory runs as this user; one that never ran will.
pub fn is_own(state_dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::metadata(state_dir) {
        Ok(about) => about.uid() == Uid::effective().as_raw(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether the journal's bound fits on the disk, with what it already has there.
pub fn disk(settings: &Settings) -> Option<Finding> {
    let journal = &settings.journal;
    // What it has already is not known to this user.
    let listed = std::fs::read_dir(&journal.directory);
    if listed.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        return None;
    }
    // The nearest folder that is there: the state directory may not have been made yet.
    let place = journal.directory.ancestors().find(|folder| folder.is_dir())?;
    let shown = place.display();
    let room = match Room::look(place, &journal.directory) {
        Ok(room) => room,
        Err(error) => {
            return Some(Finding::warn("disk", format!("the room on {shown} is not known: {error}")));
        }
    };
    Some(judge_room(room, journal.max_bytes, &shown.to_string()))
}

fn judge_room(room: Room, max: u64, place: &str) -> Finding {
    let (free, to_come) = (room.free, room.to_come(max));
    if free >= to_come {
        return Finding::ok(
            "disk",
            format!("{} free on {place}; the journal may yet take {}", bytes(free), bytes(to_come)),
        );
    }
    let message = format!(
        "{} free on {place}, but the journal may yet take {} of its {}: readings will be refused before it is full",
        bytes(free),
        bytes(to_come),
        bytes(max)
    );
    let advice = "make room, or lower [journal] max-bytes";
    if room.is_nearly_full(max) { Finding::fail("disk", message) } else { Finding::warn("disk", message) }
        .advice(advice)
}

/// What was found about the CoAP ports.
pub struct Ports {
    /// One each.
    pub findings: Vec<Finding>,
    /// Another program has one of them.
    pub held: bool,
}

/// Whether the CoAP ports can be had. Not to be asked while our own daemon has them.
pub fn ports(settings: &Settings) -> Ports {
    let coap = &settings.coap;
    let plain = coap.insecure.iter().flat_map(|(addresses, _)| addresses);
    let secure = coap.listen.iter().map(|address| ("coaps", *address));
    let all: Vec<(&str, SocketAddr)> = secure.chain(plain.map(|address| ("coap", *address))).collect();
    let runner = Runner::find(&settings.paths);
    // Of no address at all the configuration's own findings tell.
    let findings = all.iter().map(|(scheme, address)| try_port(scheme, *address, &runner)).collect();
    let is_held = |address: SocketAddr| {
        UdpSocket::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    let held = all.iter().any(|(_, address)| is_held(*address));
    Ports { findings, held }
}

/// An address that the files name and the running daemon has not bound.
pub fn other_port(address: SocketAddr, paths: &Paths) -> Finding {
    port("coap", address, paths).key("coap.listen")
}

/// What binding an address of ours says about it. `scheme`: `coap`, `coaps`, `mqtt` or `mqtts`.
pub fn port(scheme: &str, address: SocketAddr, paths: &Paths) -> Finding {
    try_port(scheme, address, &Runner::find(paths))
}

/// Binds as the gateway would; a machine without IPv6 has the other half of `[::]`.
fn bind(is_udp: bool, address: SocketAddr) -> io::Result<()> {
    let bind = |address: SocketAddr| match is_udp {
        true => UdpSocket::bind(address).map(drop),
        false => TcpListener::bind(address).map(drop),
    };
    bind(address).or_else(|error| {
        let no_ipv6 =
            matches!(error.raw_os_error(), Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL));
        match no_ipv6 && address.is_ipv6() && address.ip().is_unspecified() {
            true => bind((Ipv4Addr::UNSPECIFIED, address.port()).into()),
            false => Err(error),
        }
    })
}

/// Who runs the gateway, towards reserved ports.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Runner {
    /// The user of this process, with its capabilities.
    Own,
    /// Another one.
    Other {
        /// Its name.
        user: String,
        /// It may have any port: root, or CAP_NET_BIND_SERVICE.
        may_all: bool,
        /// It is the packaged unit's.
        unit: bool,
    },
}

impl Runner {
    fn find(paths: &Paths) -> Runner {
        use std::os::unix::fs::MetadataExt as _;
        let own = nix::unistd::Uid::effective().as_raw();
        let named = |uid: u32| nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
        if paths.config_file == Path::new(crate::config::io::CONFIG_FILE) {
            let sandbox = crate::config::io::sandbox();
            let user = sandbox.user.clone().unwrap_or_else(|| "root".to_owned());
            let may_all = user == "root" || sandbox.binds_reserved_ports();
            return Runner::Other { user, may_all, unit: true };
        }
        // A folder of somebody: the gateway runs as the owner of its state.
        match std::fs::metadata(&paths.state_dir).map(|about| about.uid()) {
            Ok(uid) if uid != own => {
                let user = named(uid).map_or_else(|| format!("user {uid}"), |user| user.name);
                Runner::Other { user, may_all: uid == 0, unit: false }
            }
            _ => Runner::Own,
        }
    }
}

/// The first port that every user may have (ip(7)).
fn unreserved_from() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

fn reserved(from: u16) -> String {
    format!("ports below {from} are root's and CAP_NET_BIND_SERVICE's (net.ipv4.ip_unprivileged_port_start)")
}

/// A port that this process may have, and the one that runs the gateway may not.
fn closed_to(scheme: &str, address: SocketAddr, runner: &Runner, from: u16) -> Option<Finding> {
    let Runner::Other { user, may_all: false, unit } = runner else { return None };
    if address.port() == 0 || address.port() >= from {
        return None;
    }
    let message = format!("{scheme} {address} may not be had by {user}: {}", reserved(from));
    let advice = match unit {
        true => format!(
            "use a port from {from} on, or `systemctl edit tombolo`, add the three lines [Service], \
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE and AmbientCapabilities=CAP_NET_BIND_SERVICE, then systemctl \
             restart tombolo"
        ),
        false => format!(
            "use a port from {from} on, or `sysctl -w net.ipv4.ip_unprivileged_port_start={}`",
            address.port()
        ),
    };
    Some(
        match unit {
            true => Finding::fail("ports", message),
            // The program may have the capability by its file.
            false => Finding::warn("ports", message),
        }
        .advice(advice),
    )
}

fn try_port(scheme: &str, address: SocketAddr, runner: &Runner) -> Finding {
    let is_udp = scheme.starts_with("coap");
    let (key, secure) = if is_udp {
        ("[coap] listen", "5684 is that of coaps")
    } else {
        ("[mqtt] listen", "8883 is that of mqtts")
    };
    let key = if scheme == "mqtt" { "[mqtt] insecure-listen" } else { key };
    let option = if is_udp { "-lunp" } else { "-ltnp" };
    let from = unreserved_from();
    if let Some(closed) = closed_to(scheme, address, runner, from) {
        return closed;
    }
    match bind(is_udp, address) {
        Ok(()) => Finding::ok("ports", format!("{scheme} {address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::fail(
            "ports",
            format!("{scheme} {address} is held by another program"),
        )
        .advice(format!("`ss {option} sport = :{}` names it; stop it, or change {key}", address.port())),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && is_udp => {
            let message = format!(
                "{scheme} {address} is not an address of this machine at present; it is served once the machine has it"
            );
            Finding::fail("ports", message).advice(format!("see `ip address`, or change {key}"))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Finding::fail("ports", format!("{scheme} {address} is not an address of this machine"))
                .advice(format!("see `ip address`, and change {key}"))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match runner {
            // This process is what the gateway would be: what it may not it may not.
            Runner::Own => {
                let message = format!("{scheme} {address} may not be had by this user: {}", reserved(from));
                Finding::fail("ports", message).advice(format!(
                    "use a port from {from} on ({secure}), or as root `sysctl -w \
                     net.ipv4.ip_unprivileged_port_start={}`, or `setcap cap_net_bind_service=+ep` on the program",
                    address.port()
                ))
            }
            Runner::Other { .. } => Finding::warn(
                "ports",
                format!(
                    "{scheme} {address} may not be had by this user, so nothing can be said about the service's"
                ),
            )
            .advice("run `sudo tombolo check`"),
        },
        Err(error) => Finding::fail("ports", format!("{scheme} {address}: {error}"))
            .advice(format!("change {key}, or see why the system refuses")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Level;

    #[test]
    fn the_clock_is_judged_and_the_reason_and_the_way_out_are_said() {
        let of = |state: &str, reason: &str| Clock {
            state: state.into(),
            now: Some("2036-02-07T06:28:00.000Z".into()),
            reason: Some(reason.into()),
            floor: Some("2026-07-01T00:00:00.000Z".into()),
            ..Clock::default()
        };
        let one = |clock: &Clock| super::clock(clock).remove(0);
        assert_eq!(one(&of("trusted", "synchronised")).level, Level::Ok);
        let doubted = one(&of("doubted", "it was set 3507 days forward while the machine was running"));
        assert_eq!(doubted.level, Level::Warn);
        assert!(doubted.message.contains("in doubt: it was set 3507 days"), "{doubted}");
        assert!(doubted.advice.contains("tombolo clock trust"), "{doubted}");
        assert_eq!(one(&of("impossible", "it is before")).advice, "set it right");
        let ahead = one(&of("impossible", &format!("it is before 2030, {BEFORE_CERTIFICATE}")));
        assert!(ahead.advice.contains("have that certificate issued anew"), "{ahead}");
        assert!(ahead.advice.contains("tombolo clock reset"), "{ahead}");
        assert!(one(&of("unsynchronised", "not synchronised")).advice.contains("timedatectl"));
        let why = "the kernel cannot be asked";
        let unasked = |state: &str, reason: &str| Clock { unread: Some(why.into()), ..of(state, reason) };
        let alone = super::clock(&unasked("unsynchronised", why));
        assert!(alone.len() == 1 && alone[0].advice.contains("systemctl status tombolo-clock"), "{alone:?}");
        let beside = super::clock(&unasked("trusted", "synchronised"));
        assert_eq!((beside[0].level, beside[1].level), (Level::Ok, Level::Warn));
        assert!(beside[1].message.contains(why) && beside[1].advice.contains("tombolo-clock"), "{beside:?}");
        let behind = Clock { floor_ahead_s: Some(7_200), ..of("trusted", "synchronised") };
        let behind = super::clock(&behind).remove(1);
        assert!(behind.level == Level::Warn && behind.message.contains("later than the clock"), "{behind}");
        assert!(behind.advice.contains("tombolo clock reset"), "{behind}");
        let impossible = Clock { floor_ahead_s: Some(7_200), ..of("impossible", "it is before") };
        assert_eq!(super::clock(&impossible).len(), 1);
        let unsaved = Clock { failing: Some("No space left".into()), ..of("trusted", "synchronised") };
        assert!(super::clock(&unsaved)[1].message.contains("No space left"));
    }

    #[test]
    fn room_on_the_disk_counts_what_the_journal_already_has() {
        let mib = |n: u64| n << 20;
        assert_eq!(judge_room(Room { free: mib(300), used: 0 }, mib(256), "/").level, Level::Ok);
        assert_eq!(judge_room(Room { free: mib(100), used: mib(200) }, mib(256), "/").level, Level::Ok);
        assert_eq!(judge_room(Room { free: mib(100), used: 0 }, mib(256), "/").level, Level::Warn);
        assert_eq!(judge_room(Room { free: mib(3), used: 0 }, mib(256), "/").level, Level::Fail);
        assert_eq!(judge_room(Room { free: 0, used: mib(300) }, mib(256), "/").level, Level::Ok);
    }

    #[test]
    fn a_port_held_by_another_is_named_with_the_way_out() {
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let finding = try_port("coaps", address, &Runner::Own);
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.message.contains(&address.to_string()), "{finding}");
        assert!(finding.advice.contains(&format!(":{}", address.port())), "{finding}");
        drop(held);
        assert_eq!(try_port("coaps", address, &Runner::Own).level, Level::Ok);
        assert_eq!(try_port("coaps", "192.0.2.1:5684".parse().unwrap(), &Runner::Own).level, Level::Fail);
    }

    #[test]
    fn a_reserved_port_fails_for_a_service_without_the_capability_and_for_nobody_else() {
        let of = |user: &str, may_all, unit| Runner::Other { user: user.into(), may_all, unit };
        let coap: SocketAddr = "[::]:683".parse().unwrap();
        let closed = |runner: &Runner, from| closed_to("coap", coap, runner, from);
        let found = closed(&of("tombolo", false, true), 1024).unwrap();
        assert_eq!(found.level, Level::Fail);
        assert!(found.message.contains("[::]:683 may not be had by tombolo"), "{found}");
        assert!(found.advice.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), "{found}");
        assert_eq!(closed(&of("tombolo", false, true), 600), None, "the system lets every user have it");
        assert_eq!(closed(&of("tombolo", true, true), 1024), None);
        assert_eq!(closed(&Runner::Own, 1024), None, "binding shows it");
        assert_eq!(closed(&of("me", false, false), 1024).unwrap().level, Level::Warn);
        assert_eq!(closed_to("coaps", "[::]:5684".parse().unwrap(), &of("tombolo", false, true), 1024), None);
    }

    #[test]
    fn a_folder_is_there_and_writable_or_it_is_said_who_makes_it() {
        assert_eq!(folder("state", &std::env::temp_dir(), "").level, Level::Ok);
        let missing = folder("state", Path::new("/nowhere/at/all"), "start it once");
        assert_eq!((missing.level, missing.advice.as_str()), (Level::Warn, "start it once"));
        assert_eq!(folder("state", Path::new("/etc/passwd"), "").level, Level::Fail);
        let none = std::env::temp_dir().join(format!("tombolo-none-{}", std::process::id()));
        assert_eq!(refused("state", &none.join("at/all"), ""), None);
        let below_a_file = refused("state", Path::new("/etc/passwd/state"), "[paths] state-dir").unwrap();
        assert!(below_a_file.message.contains("cannot be made by this user: /etc/passwd"), "{below_a_file}");
    }
}
