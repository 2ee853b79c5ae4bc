//! Which serial ports the machine has: read from `/sys/class/tty` and the links below
//! `/dev/serial`.
//!
//! It does not use libudev, because only a few small files are read.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use crate::southbound::serial::settings::PortName;

/// A port found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// `/dev/ttyUSB0`.
    pub device: PathBuf,
    /// The name of the kernel driver.
    pub driver: Option<String>,
    /// Links below `/dev/serial/by-id`.
    pub by_id: Vec<PathBuf>,
    /// Links below `/dev/serial/by-path`.
    pub by_path: Vec<PathBuf>,
    /// `usb:VVVV:PPPP[:SERIAL]`, for a USB adapter.
    pub usb: Option<String>,
    /// The product name of the USB adapter.
    pub product: Option<String>,
}

/// All ports that have hardware, sorted by name.
pub fn all() -> Vec<Found> {
    below(Path::new("/sys/class/tty"), Path::new("/dev"))
}

/// Why a `usb:` name does not resolve to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// No such adapter is plugged in.
    Missing,
    /// Several such adapters are plugged in; the text lists them with unambiguous names.
    Ambiguous(String),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::Missing => f.write_str("no such USB adapter is plugged in"),
            Unresolved::Ambiguous(text) => f.write_str(text),
        }
    }
}

impl From<Unresolved> for String {
    fn from(unresolved: Unresolved) -> String {
        unresolved.to_string()
    }
}

/// The current device file of a port.
///
/// # Errors
/// [`Unresolved`], for a `usb:` name only.
pub fn resolve(name: &PortName) -> Result<PathBuf, Unresolved> {
    match name {
        PortName::Path(path) => Ok(path.clone()),
        // Never the name of a device file.
        PortName::Tcp { .. } => Ok(PathBuf::from(name.to_string())),
        PortName::Usb { serial, .. } => pick(&name.to_string(), serial.is_some(), &all()),
    }
}

/// The device file itself that a name means now, without links; `None` if it is not there, or in
/// the network.
pub fn device(name: &PortName) -> Option<PathBuf> {
    if let PortName::Tcp { .. } = name {
        return None;
    }
    fs::canonicalize(resolve(name).ok()?).ok()
}

/// Most ports that a message lists.
const SHOWN: usize = 4;

/// The port that a `usb:` name identifies. If it matches several, none is used, because the choice
/// could change at every boot.
fn pick(name: &str, has_serial: bool, ports: &[Found]) -> Result<PathBuf, Unresolved> {
    let is_meant = |usb: &str| match has_serial {
        true => usb == name,
        false => usb.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')),
    };
    let meant: Vec<&Found> = ports.iter().filter(|port| port.usb.as_deref().is_some_and(is_meant)).collect();
    match meant[..] {
        [] => Err(Unresolved::Missing),
        [one] => Ok(one.device.clone()),
        _ => {
            let shown: Vec<String> = meant.iter().take(SHOWN).map(|port| port.unmistakable(&meant)).collect();
            let more = meant.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let (count, shown) = (meant.len(), shown.join(" or "));
            Err(Unresolved::Ambiguous(format!(
                "{count} ports have this name, so none is used; name one: {shown}{more}"
            )))
        }
    }
}

impl Found {
    /// A name for the configuration that does not match any of `others`: with its serial number or
    /// its USB socket, followed by its current device file.
    fn unmistakable(&self, others: &[&Found]) -> String {
        let has_serial = self.usb.as_deref().is_some_and(|usb| usb.matches(':').count() > 2);
        let stable = match &self.usb {
            Some(usb) if has_serial && !self.is_shared(others) => Some(usb.clone()),
            _ => self.by_path.first().map(|path| path.display().to_string()),
        };
        let device = self.device.display();
        match stable {
            Some(stable) => format!("{stable} ({device} now)"),
            None => format!("{device}"),
        }
    }

    /// Whether one of `others` has the same `usb:` name, serial number included.
    pub fn is_shared(&self, others: &[&Found]) -> bool {
        self.usb.is_some() && others.iter().any(|other| other.device != self.device && other.usb == self.usb)
    }
}

/// All ports found below these two folders.
pub fn below(sys: &Path, dev: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sys).into_iter().flatten().flatten() {
        // Virtual consoles and pseudo-terminals have no device.
        let Ok(device) = fs::canonicalize(entry.path().join("device")) else { continue };
        let node = dev.join(entry.file_name());
        let driver = fs::canonicalize(device.join("driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        // The 8250 driver also registers ports without hardware, with type 0.
        let kind = read(&entry.path().join("type"));
        if driver.is_none() || kind.as_deref() == Some("0") {
            continue;
        }
        let usb = device.ancestors().take(6).find(|folder| folder.join("idVendor").exists());
        found.push(Found {
            by_id: links(&dev.join("serial/by-id"), &node),
            by_path: links(&dev.join("serial/by-path"), &node),
            usb: usb.and_then(|folder| {
                let number = |name| u16::from_str_radix(&read(&folder.join(name))?, 16).ok();
                let serial = read(&folder.join("serial"));
                let name =
                    PortName::Usb { vendor: number("idVendor")?, product: number("idProduct")?, serial };
                Some(name.to_string())
            }),
            product: usb.and_then(|folder| read(&folder.join("product"))),
            device: node,
            driver,
        });
    }
    found.sort_by(|a, b| a.device.cmp(&b.device));
    found
}

fn links(folder: &Path, node: &Path) -> Vec<PathBuf> {
    let mut links: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| fs::read_link(path).is_ok_and(|target| target.file_name() == node.file_name()))
        .collect();
    links.sort();
    links
}

/// The first line of a small file.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn port(device: &str, usb: &str, by_path: &str) -> Found {
        Found {
            device: device.into(),
            usb: Some(usb.to_owned()),
            by_path: vec![by_path.into()],
            ..Found::default()
        }
    }

    #[test]
    fn a_name_that_two_adapters_have_is_refused_and_both_are_listed_with_names_of_their_own() {
        let pick = |text: &str, ports: &[Found]| {
            let Some(PortName::Usb { serial, .. }) = PortName::parse(text) else { panic!("{text}") };
            pick(text, serial.is_some(), ports).map_err(String::from)
        };
        let twins = [
            port("/dev/ttyUSB0", "usb:0403:6001", "/dev/serial/by-path/a"),
            port("/dev/ttyUSB1", "usb:0403:6001", "/dev/serial/by-path/b"),
        ];
        assert_eq!(
            pick("usb:0403:6001", &twins).unwrap_err(),
            "2 ports have this name, so none is used; name one: /dev/serial/by-path/a (/dev/ttyUSB0 now) or \
             /dev/serial/by-path/b (/dev/ttyUSB1 now)"
        );
        let told = [
            port("/dev/ttyUSB0", "usb:0403:6001:A1", "/dev/serial/by-path/a"),
            port("/dev/ttyUSB1", "usb:0403:6001:B2", "/dev/serial/by-path/b"),
        ];
        assert_eq!(
            pick("usb:0403:6001", &told).unwrap_err(),
            "2 ports have this name, so none is used; name one: usb:0403:6001:A1 (/dev/ttyUSB0 now) or \
             usb:0403:6001:B2 (/dev/ttyUSB1 now)"
        );
        assert_eq!(pick("usb:0403:6001:B2", &told).unwrap(), Path::new("/dev/ttyUSB1"));
        assert_eq!(pick("usb:0403:6001", &told[..1]).unwrap(), Path::new("/dev/ttyUSB0"));
        assert_eq!(pick("usb:0403:6015", &told).unwrap_err(), "no such USB adapter is plugged in");
        // Both ports of one adapter have its serial number.
        let double = ["/dev/ttyUSB0", "/dev/ttyUSB1"].map(|device| port(device, "usb:0403:6010:C3", device));
        assert!(pick("usb:0403:6010:C3", &double).unwrap_err().starts_with("2 ports"));
        // A serial number must match as a whole.
        let longer = [port("/dev/ttyUSB0", "usb:0403:6001:A1:x", "/dev/serial/by-path/a")];
        assert!(pick("usb:0403:6001:A1", &longer).is_err());
        let many: Vec<Found> =
            (0..9).map(|n| port(&format!("/dev/ttyUSB{n}"), "usb:0001:0002", "p")).collect();
        assert!(pick("usb:0001:0002", &many).unwrap_err().ends_with(" and 5 more"));
    }

    #[test]
    fn ports_are_found_with_all_their_names() {
        let root = std::env::temp_dir().join(format!("tombolo-find-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let (sys, dev) = (root.join("class"), root.join("dev"));
        let usb = root.join("devices/usb1/1-2");
        let device = usb.join("1-2:1.0/ttyUSB3");
        for folder in [
            &sys.join("ttyUSB3"),
            &sys.join("tty0"),
            &device,
            &dev.join("serial/by-id"),
            &root.join("drivers/ftdi_sio"),
        ] {
            fs::create_dir_all(folder).unwrap();
        }
        for (name, text) in [
            ("idVendor", "0403\n"),
            ("idProduct", "6001\n"),
            ("serial", "A50285BI\n"),
            ("product", "FT232R\n"),
        ] {
            fs::write(usb.join(name), text).unwrap();
        }
        symlink(&device, sys.join("ttyUSB3/device")).unwrap();
        symlink(root.join("drivers/ftdi_sio"), device.join("driver")).unwrap();
        symlink("../../ttyUSB3", dev.join("serial/by-id/usb-FTDI-if00")).unwrap();
        let found = below(&sys, &dev);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].device, dev.join("ttyUSB3"));
        assert_eq!(found[0].usb.as_deref(), Some("usb:0403:6001:A50285BI"));
        assert_eq!(found[0].driver.as_deref(), Some("ftdi_sio"));
        assert_eq!(found[0].by_id, [dev.join("serial/by-id/usb-FTDI-if00")]);
        assert!(below(&root.join("nowhere"), &dev).is_empty());
        fs::remove_dir_all(&root).unwrap();
    }
}
