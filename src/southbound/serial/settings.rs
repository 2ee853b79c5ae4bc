//! What configuration says of serial ports, already validated.

use std::fmt;
use std::path::PathBuf;

use crate::message::Name;
use crate::proto::serial::reading::Extractor;
use crate::proto::serial::{framing, modbus, slipmux};

/// All ports, in name order. A port is a device whose id is its name; or, with [`Duty::Modbus`],
/// each unit behind it is one.
pub type Settings = Vec<Port>;

/// One port.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name, and its device's id unless it is a bus.
    pub name: Name,
    /// Which one of the machine.
    pub port: PortName,
    /// How bits go over it.
    pub line: Line,
    /// What is made of the bytes.
    pub duty: Duty,
}

/// What a port is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Duty {
    /// Frames become readings of the port's own device.
    Readings {
        /// Where frames begin and end.
        framing: framing::Settings,
        /// What is made of one.
        extractor: Extractor,
    },
    /// CoAP messages in SLIP frames (slipmux): the node on the line is a CoAP device like any
    /// other.
    Slipmux {
        /// Longest message in bytes.
        max_message: usize,
    },
    /// The gateway asks units on a bus for their registers; each of them is a device of its own,
    /// the port is none.
    Modbus(modbus::Settings),
}

/// How a line with a CoAP node is taken apart into messages of at most so many bytes.
pub fn slipmux(max_message: usize) -> framing::Settings {
    framing::Settings {
        framing: framing::Framing::Slip,
        checksum: None,
        max_frame: max_message + slipmux::OVERHEAD,
    }
}

impl Port {
    /// The configuration's table of a device behind it; `None` if it is not.
    pub fn table_of(&self, device: &str) -> Option<String> {
        match &self.duty {
            Duty::Modbus(bus) => {
                let unit = bus.units.iter().find(|unit| unit.id.as_str() == device)?;
                Some(format!("serial.{}.unit.{}", self.name, unit.address))
            }
            Duty::Readings { .. } | Duty::Slipmux { .. } => {
                (self.name.as_str() == device).then(|| format!("serial.{device}"))
            }
        }
    }

    /// The ids of the devices behind it.
    pub fn devices(&self) -> impl Iterator<Item = &Name> {
        let (own, units) = match &self.duty {
            Duty::Modbus(bus) => (None, bus.units.as_slice()),
            Duty::Readings { .. } | Duty::Slipmux { .. } => (Some(&self.name), [].as_slice()),
        };
        own.into_iter().chain(units.iter().map(|unit| &unit.id))
    }
}

/// Which port of the machine. Looked up at every opening, so that it is found again under another
/// number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// A device file, or a link to one below `/dev/serial`.
    Path(PathBuf),
    /// The one USB adapter with these numbers; with several it is none of them.
    Usb {
        /// idVendor.
        vendor: u16,
        /// idProduct.
        product: u16,
        /// iSerial, if it matters.
        serial: Option<String>,
    },
}

impl PortName {
    /// Reads a path, or `usb:VVVV:PPPP` or `usb:VVVV:PPPP:SERIAL` with hexadecimal numbers. `None`
    /// for a broken `usb:`.
    pub fn parse(text: &str) -> Option<PortName> {
        let Some(numbers) = text.strip_prefix("usb:") else {
            return Some(PortName::Path(PathBuf::from(text)));
        };
        let mut parts = numbers.splitn(3, ':');
        let mut number = || {
            let digits = parts.next().filter(|digits| (1..=4).contains(&digits.len()))?;
            digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
        };
        let (vendor, product) = (number()?, number()?);
        let serial = parts.next().map(str::to_owned);
        if serial.as_ref().is_some_and(String::is_empty) {
            return None;
        }
        Some(PortName::Usb { vendor, product, serial })
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortName::Path(path) => write!(f, "{}", path.display()),
            PortName::Usb { vendor, product, serial } => {
                write!(f, "usb:{vendor:04x}:{product:04x}")?;
                serial.iter().try_for_each(|serial| write!(f, ":{serial}"))
            }
        }
    }
}

/// How bits go over a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Symbols a second; default 9600.
    pub baud: u32,
    /// `5..=8`; default 8.
    pub data_bits: u8,
    /// Default none.
    pub parity: Parity,
    /// 1 or 2; default 1.
    pub stop_bits: u8,
    /// Default none.
    pub flow_control: FlowControl,
    /// Set where the driver is to switch an RS-485 transceiver; `None` leaves the driver as it is.
    pub rs485: Option<Rs485>,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            baud: 9600,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            flow_control: FlowControl::None,
            rs485: None,
        }
    }
}

/// The bit that guards a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// There is none.
    None,
    /// With it, the number of ones is even.
    Even,
    /// With it, the number of ones is odd.
    Odd,
}

/// How a receiver holds a sender back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowControl {
    /// Not at all.
    None,
    /// RTS and CTS.
    Hardware,
    /// XON and XOFF: not for binary data.
    Software,
}

/// How the driver turns the transceiver round: RTS while sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rs485 {
    /// RTS is high while sending: the usual wiring.
    RtsHigh,
    /// RTS is low while sending.
    RtsLow,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_path_or_usb_numbers() {
        for text in ["/dev/ttyUSB0", "usb:0403:6001", "usb:10c4:ea60:0001:x"] {
            assert_eq!(PortName::parse(text).unwrap().to_string(), text);
        }
        let Some(PortName::Usb { vendor, serial, .. }) = PortName::parse("usb:10C4:ea60:0001") else {
            panic!()
        };
        assert_eq!((vendor, serial.as_deref()), (0x10c4, Some("0001")));
        for wrong in
            ["usb:", "usb:0403", "usb:0403:", "usb:04030:6001", "usb:0403:6001:", "usb:x:6001", "usb:+1:2"]
        {
            assert_eq!(PortName::parse(wrong), None, "{wrong}");
        }
    }
}
