//! Which serial ports the machine has: read from `/sys/class/tty` and the links below `/dev/serial`.
//!
//! Not through udev's library: what is asked here are a handful of small files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::southbound::serial::settings::PortName;

/// A port found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// `/dev/ttyUSB0`.
    pub device: PathBuf,
    /// The kernel's driver.
    pub driver: Option<String>,
    /// Links below `/dev/serial/by-id`.
    pub by_id: Vec<PathBuf>,
    /// Links below `/dev/serial/by-path`.
    pub by_path: Vec<PathBuf>,
    /// `usb:VVVV:PPPP[:SERIAL]`, for one on USB.
    pub usb: Option<String>,
    /// What the adapter calls itself.
    pub product: Option<String>,
}

/// All ports that have hardware behind them, by name.
pub fn all() -> Vec<Found> {
    below(Path::new("/sys/class/tty"), Path::new("/dev"))
}

/// The device file of a port, as it is now.
///
/// # Errors
/// In words, why there is none.
pub fn resolve(name: &PortName) -> Result<PathBuf, String> {
    match name {
        PortName::Path(path) => Ok(path.clone()),
        PortName::Usb { .. } => {
            let name = name.to_string();
            // Without a serial number in the name, any will do.
            let found = all().into_iter().find(|found| {
                found.usb.as_deref().is_some_and(|usb| {
                    usb == name || usb.strip_prefix(&name).is_some_and(|rest| rest.starts_with(':'))
                })
            });
            found.map(|found| found.device).ok_or_else(|| "no such USB adapter is plugged in".to_owned())
        }
    }
}

/// What stands below these two folders.
pub fn below(sys: &Path, dev: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sys).into_iter().flatten().flatten() {
        // Virtual consoles and pseudo-terminals have no device behind them.
        let Ok(device) = fs::canonicalize(entry.path().join("device")) else { continue };
        let node = dev.join(entry.file_name());
        let driver = fs::canonicalize(device.join("driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        // The 8250 driver registers places for ports that nobody built in: type 0.
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

/// A small file's first line.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

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
