//! The settings of serial ports, already validated.

use std::fmt;
use std::path::PathBuf;

use crate::message::Name;
use crate::proto::serial::reading::Extractor;
use crate::proto::serial::{framing, modbus, poll, slipmux, writer};

/// All ports, in name order. A port is a device whose id is its name; with [`Duty::Modbus`], each
/// unit on it is a device instead.
pub type Settings = Vec<Port>;

/// The settings of one port.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The name, which is also the id of its device unless it is a bus.
    pub name: Name,
    /// The device file or USB adapter.
    pub port: PortName,
    /// The line parameters.
    pub line: Line,
    /// What the port is used for.
    pub duty: Duty,
}

/// What a port is used for.
#[allow(clippy::large_enum_variant, reason = "one for each port")]
#[derive(Clone, Debug, PartialEq)]
pub enum Duty {
    /// Frames become readings of the port's own device.
    Readings {
        /// How the bytes are split into frames.
        framing: framing::Settings,
        /// How a frame becomes a reading.
        extractor: Extractor,
        /// How the device is asked; `None`: it speaks of itself.
        poll: Option<poll::Settings>,
        /// How commands are written; `None`: it takes none.
        write: Option<writer::Settings>,
    },
    /// CoAP messages in SLIP frames (slipmux, draft-bormann-t2trg-slipmux): the node on the line is
    /// a CoAP device.
    Slipmux {
        /// Longest message in bytes.
        max_message: usize,
    },
    /// The gateway polls registers of units on a bus; each unit is a device, the port is not.
    Modbus(modbus::Settings, modbus::BuiltIn),
}

/// The framing of a line with a CoAP node, for messages of at most `max_message` bytes.
pub fn slipmux(max_message: usize) -> framing::Settings {
    framing::Settings {
        framing: framing::Framing::Slip,
        checksum: None,
        max_frame: max_message + slipmux::OVERHEAD,
        start: Vec::new(),
        within: framing::IDLE,
        placement: Default::default(),
        skip_first: false,
        keep: 0,
        whole: false,
        label_end: None,
        interleaved: None,
        silence: None,
    }
}

impl Port {
    /// The configuration table of a device of this port; `None` if it has no such device.
    pub fn table_of(&self, device: &str) -> Option<String> {
        match &self.duty {
            Duty::Modbus(bus, _) => {
                let unit = bus.units.iter().find(|unit| unit.id.as_str() == device)?;
                Some(format!("serial.{}.unit.{}", self.name, unit.address))
            }
            Duty::Readings { .. } | Duty::Slipmux { .. } => {
                (self.name.as_str() == device).then(|| format!("serial.{device}"))
            }
        }
    }

    /// The port's name, if this device of it sends bytes or frames, not CoAP messages.
    pub fn bytes_of(&self, device: &str) -> Option<&Name> {
        let is_coap = matches!(self.duty, Duty::Slipmux { .. });
        (!is_coap && self.devices().any(|id| id.as_str() == device)).then_some(&self.name)
    }

    /// The ids of the devices of this port that take commands, but for a CoAP node.
    pub fn takers(&self) -> impl Iterator<Item = &Name> {
        let is_taker = |unit: &&modbus::settings::Unit| unit.registers.iter().any(|own| own.write.is_some());
        let (own, units) = match &self.duty {
            Duty::Modbus(bus, _) => (None, bus.units.as_slice()),
            Duty::Readings { write, .. } => (write.as_ref().map(|_| &self.name), [].as_slice()),
            Duty::Slipmux { .. } => (None, [].as_slice()),
        };
        own.into_iter().chain(units.iter().filter(is_taker).map(|unit| &unit.id))
    }

    /// The ids of the devices of this port.
    pub fn devices(&self) -> impl Iterator<Item = &Name> {
        let (own, units) = match &self.duty {
            Duty::Modbus(bus, _) => (None, bus.units.as_slice()),
            Duty::Readings { .. } | Duty::Slipmux { .. } => (Some(&self.name), [].as_slice()),
        };
        own.into_iter().chain(units.iter().map(|unit| &unit.id))
    }
}

/// Identifies a port of the machine. It is resolved at every opening, so that an adapter is found
/// again under another device file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// A device file, or a link to one below `/dev/serial`.
    Path(PathBuf),
    /// The one USB adapter with these ids; if several match, none is used.
    Usb {
        /// The USB idVendor.
        vendor: u16,
        /// The USB idProduct.
        product: u16,
        /// The USB iSerial; `None` = any.
        serial: Option<String>,
    },
    /// A converter in the network.
    Tcp {
        /// Name or address.
        host: String,
        /// Its TCP port.
        port: u16,
        /// Whether frames have the header of Modbus TCP; else the bytes are those of the line.
        has_header: bool,
    },
}

impl PortName {
    /// Reads `tcp://HOST:PORT`, `modbus-tcp://HOST[:PORT]`, a path, or `usb:VVVV:PPPP` or
    /// `usb:VVVV:PPPP:SERIAL` with hexadecimal numbers. `None` for a broken address or `usb:`.
    pub fn parse(text: &str) -> Option<PortName> {
        for (scheme, default, has_header) in [("tcp://", None, false), ("modbus-tcp://", Some(502), true)] {
            let Some(rest) = text.strip_prefix(scheme) else { continue };
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            let (host, port) = match rest.rsplit_once(':') {
                // The colons of an IPv6 address are within brackets.
                Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
                _ => (rest, default),
            };
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let is_address = bare.is_none_or(|bare| bare.parse::<std::net::Ipv6Addr>().is_ok());
            let is_name = bare.is_some()
                || host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
            let port = port.filter(|port| *port != 0)?;
            let is_sound = is_address && is_name && (1..=255).contains(&host.len());
            return is_sound.then(|| PortName::Tcp { host: host.to_owned(), port, has_header });
        }
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
            PortName::Tcp { host, port, has_header } => {
                write!(f, "{}tcp://{host}:{port}", if *has_header { "modbus-" } else { "" })
            }
            PortName::Usb { vendor, product, serial } => {
                write!(f, "usb:{vendor:04x}:{product:04x}")?;
                serial.iter().try_for_each(|serial| write!(f, ":{serial}"))
            }
        }
    }
}

/// The parameters of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Baud rate; default 9600.
    pub baud: u32,
    /// Data bits, `5..=8`; default 8.
    pub data_bits: u8,
    /// Parity; default none.
    pub parity: Parity,
    /// Stop bits, 1 or 2; default 1.
    pub stop_bits: u8,
    /// Flow control; default none.
    pub flow_control: FlowControl,
    /// Set if the driver must switch an RS-485 transceiver; `None` does not change the driver's
    /// mode.
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

/// The parity bit of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// The number of ones, with the parity bit, is even.
    Even,
    /// The number of ones, with the parity bit, is odd.
    Odd,
}

/// Flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowControl {
    /// No flow control.
    None,
    /// RTS and CTS.
    Hardware,
    /// XON and XOFF: not for binary data.
    Software,
}

/// How the driver switches the RS-485 transceiver with RTS.
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
        let tcp = |host: &str, port, has_header| PortName::Tcp { host: host.to_owned(), port, has_header };
        assert_eq!(PortName::parse("tcp://192.0.2.7:4001"), Some(tcp("192.0.2.7", 4001, false)));
        assert_eq!(PortName::parse("modbus-tcp://plc-3.lan/"), Some(tcp("plc-3.lan", 502, true)));
        assert_eq!(
            PortName::parse("modbus-tcp://[2001:db8::7]:1502"),
            Some(tcp("[2001:db8::7]", 1502, true))
        );
        assert_eq!(PortName::parse("modbus-tcp://[2001:db8::7]"), Some(tcp("[2001:db8::7]", 502, true)));
        for wrong in [
            "tcp://",
            "tcp://host",
            "tcp://host:0",
            "tcp://:4001",
            "tcp://a b:1",
            "tcp://[x]:1",
            "tcp://h:70000",
        ] {
            assert_eq!(PortName::parse(wrong), None, "{wrong}");
        }
        for wrong in
            ["usb:", "usb:0403", "usb:0403:", "usb:04030:6001", "usb:0403:6001:", "usb:x:6001", "usb:+1:2"]
        {
            assert_eq!(PortName::parse(wrong), None, "{wrong}");
        }
    }
}
