//! How the peer of a port in the network begins each connection. A converter whose port is set
//! to telnet (RFC 854), or to telnet with control of the port (RFC 2217), begins with commands for
//! its options. From then on it doubles each FF, and puts commands into the data: messages in
//! binary are damaged, and the first line of text, too. Nothing is taken out here, as the bytes of
//! a raw connection may be the same; that it is so is told.

use super::settings::PortName;

/// RFC 854: the first byte of each command.
const IAC: u8 = 0xFF;
/// RFC 854: WILL, WON'T, DO, DON'T; an option follows.
const VERBS: std::ops::RangeInclusive<u8> = 251..=254;
/// The highest option of the IANA registry of telnet options, but for 138 to 140 and 255.
const OPTION_MAX: u8 = 49;
/// A command for an option.
const LENGTH: usize = 3;

/// The begin of the connections of one port.
#[derive(Debug, Default)]
pub struct Greeting {
    is_judged: bool,
    began: [u8; LENGTH],
    length: usize,
    /// So the last connection began of which the begin came.
    telnet: Option<[u8; LENGTH]>,
}

impl Greeting {
    /// A connection is open. `is_judged`: no message of the device itself begins with FF.
    pub fn opened(&mut self, is_judged: bool) {
        (self.is_judged, self.length) = (is_judged, 0);
    }

    /// These bytes came. Returns whether it is news that the peer speaks telnet.
    pub fn received(&mut self, bytes: &[u8]) -> bool {
        if !self.is_judged {
            return false;
        }
        let room = self.began.get_mut(self.length..).unwrap_or_default();
        let taken = room.len().min(bytes.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        if self.length < LENGTH {
            return false;
        }
        self.is_judged = false;
        let before = self.telnet.is_some();
        let [first, verb, option] = self.began;
        let is_telnet = first == IAC && VERBS.contains(&verb) && option <= OPTION_MAX;
        self.telnet = is_telnet.then_some(self.began);
        is_telnet && !before
    }

    /// That the peer speaks telnet, and what to do about it: one sentence.
    pub fn sentence(&self, port: &PortName) -> Option<String> {
        let [first, verb, option] = self.telnet?;
        let advice = match port {
            PortName::Tcp { has_header: true, .. } => {
                "name the TCP port of its Modbus TCP server, which is 502 unless it was changed"
            }
            _ => {
                "switch it to raw TCP: telnet puts bytes of its own into the data, and doubles each FF of it"
            }
        };
        let who = match port {
            PortName::Tcp { has_header: true, .. } => "the peer",
            _ => "the converter",
        };
        Some(format!(
            "{who} at {port} speaks telnet (RFC 854, RFC 2217): its connection begins with {first:02x} {verb:02x} \
             {option:02x}; {advice}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pieces: &[&[u8]]) -> (usize, bool) {
        let mut greeting = Greeting::default();
        greeting.opened(true);
        let news = pieces.iter().filter(|bytes| greeting.received(bytes)).count();
        (news, greeting.telnet.is_some())
    }

    #[test]
    fn a_connection_that_begins_with_a_command_for_an_option_is_telnet_however_it_is_cut() {
        // As ser2net with a telnet port begins.
        let ser2net = b"\xFF\xFB\x03\xFF\xFB\x01\xFF\xFE\x01\xFF\xFD\x00\xFF\xFB\x00";
        for cut in 1..ser2net.len() {
            let pieces: Vec<&[u8]> = ser2net.chunks(cut).collect();
            assert_eq!(said(&pieces), (1, true), "{cut}");
        }
        for verb in [0xFB, 0xFC, 0xFD, 0xFE] {
            // COM-PORT-OPTION of RFC 2217.
            assert_eq!(said(&[&[0xFF, verb, 44]]), (1, true));
        }
    }

    #[test]
    fn other_bytes_are_not_telnet() {
        for bytes in [
            &b"T=21.5\r\n"[..],
            b"\xFF\xFB",
            b"\xFF\xFF\xFB\x01",
            b"\xFF\xFA\x2C\x01",
            b"\xFF\xFB\xC8",
            b"\x01\xFF\xFB\x01",
            b"\xFB\x01\xFF",
            b"",
        ] {
            assert_eq!(said(&[bytes]), (0, false), "{bytes:x?}");
        }
        let mut greeting = Greeting::default();
        greeting.opened(false);
        assert!(!greeting.received(b"\xFF\xFB\x01"), "its messages begin with FF");
        assert!(!greeting.received(b"\xFF\xFB\x01"));
    }

    #[test]
    fn it_is_news_once_until_a_connection_begins_otherwise() {
        let port = PortName::parse("tcp://converter:4001").unwrap();
        let mut greeting = Greeting::default();
        assert_eq!(greeting.sentence(&port), None);
        for (bytes, news, telnet) in [
            (&b"\xFF\xFD\x03\xFF\xFB\x01W=1\n"[..], true, true),
            (b"\xFF\xFD\x03", false, true),
            // One that is closed before its begin is known says nothing.
            (b"\xFF", false, true),
            (b"", false, true),
            (b"W=1\n", false, false),
            (b"\xFF\xFD\x03", true, true),
        ] {
            greeting.opened(true);
            assert_eq!((greeting.received(bytes), greeting.telnet.is_some()), (news, telnet), "{bytes:x?}");
            // What comes later in it says nothing.
            assert!(bytes.len() < LENGTH || !greeting.received(b"abc"));
        }
        let said = greeting.sentence(&port).unwrap();
        assert!(said.starts_with("the converter at tcp://converter:4001 speaks telnet"), "{said}");
        assert!(said.contains("ff fd 03") && said.contains("switch it to raw TCP"), "{said}");
        let said = greeting.sentence(&PortName::parse("modbus-tcp://plc:23").unwrap()).unwrap();
        assert!(said.contains("modbus-tcp://plc:23") && said.contains("502"), "{said}");
    }
}
