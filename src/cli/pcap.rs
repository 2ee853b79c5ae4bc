//! A capture file of decrypted messages that Wireshark dissects: pcap with link type RAW, each
//! message in an IP packet of its own with synthesised headers, over UDP with the gateway at port
//! 5683 for CoAP, over TCP with the broker at port 1883 for MQTT.
//!
//! Pure: bytes out. What was cut off, the payload, is missing by the packet's own length. The
//! format is that of <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// LINKTYPE_RAW: the packet begins with its IP header.
const LINKTYPE_RAW: u32 = 101;
/// Magic number of a file in this machine's order of bytes, written big-endian, with microseconds.
const MAGIC: u32 = 0xA1B2_C3D4;
const SNAP_LENGTH: u32 = 262_144;
const UDP: u8 = 17;
const TCP: u8 = 6;
/// Longest message that fits into an IP packet with its headers; a longer one is cut.
const MESSAGE_MAX: usize = 65_535 - 60;
/// PSH and ACK.
const TCP_FLAGS: u16 = 0x5018;

/// The header of the file.
pub fn file_header() -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    out.extend(MAGIC.to_be_bytes());
    out.extend(2u16.to_be_bytes());
    out.extend(4u16.to_be_bytes());
    out.extend([0; 8]);
    out.extend(SNAP_LENGTH.to_be_bytes());
    out.extend(LINKTYPE_RAW.to_be_bytes());
    out
}

/// Which protocol a message is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// CoAP over UDP: the gateway has port 5683.
    Coap,
    /// MQTT over TCP: the broker has port 1883.
    Mqtt,
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Microseconds since 1970.
    pub time_us: u64,
    /// Of what it is.
    pub protocol: Protocol,
    /// Whether it went to the gateway.
    pub inward: bool,
    /// The other end, if it has an address.
    pub peer: Option<SocketAddr>,
    /// What is there of it.
    pub bytes: &'a [u8],
    /// Its whole length.
    pub length: usize,
}

/// Makes the packets of one capture; counts the bytes of the TCP streams.
#[derive(Debug, Default)]
pub struct Capture {
    /// Sequence numbers of TCP: to the gateway, to the broker.
    sequence: [u32; 2],
}

impl Capture {
    /// The record of a message in the file.
    pub fn record(&mut self, packet: &Packet<'_>) -> Vec<u8> {
        let length = packet.length.max(packet.bytes.len()).min(MESSAGE_MAX);
        let bytes = packet.bytes.get(..MESSAGE_MAX).unwrap_or(packet.bytes);
        let peer = packet.peer.unwrap_or((Ipv4Addr::new(127, 0, 0, 2), 0).into());
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let gateway = |port| match peer {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        };
        let (own, peer) = match packet.protocol {
            Protocol::Coap => (gateway(5683), SocketAddr::new(peer.ip(), peer.port().max(1))),
            Protocol::Mqtt => (gateway(49_152), SocketAddr::new(peer.ip(), 1883)),
        };
        let (source, destination) = if packet.inward { (peer, own) } else { (own, peer) };
        let (transport, number) = match packet.protocol {
            Protocol::Coap => (udp(source, destination, bytes, length), UDP),
            Protocol::Mqtt => (self.tcp(source, destination, packet.inward, bytes, length), TCP),
        };
        let head = ip(source.ip(), destination.ip(), number, transport.len() + length);
        let captured = head.len() + transport.len() + bytes.len();
        let mut out = Vec::with_capacity(16 + captured);
        out.extend(((packet.time_us / 1_000_000) as u32).to_be_bytes());
        out.extend(((packet.time_us % 1_000_000) as u32).to_be_bytes());
        out.extend((captured as u32).to_be_bytes());
        out.extend(((head.len() + transport.len() + length) as u32).to_be_bytes());
        out.extend(head);
        out.extend(transport);
        out.extend(bytes);
        out
    }

    fn tcp(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        inward: bool,
        bytes: &[u8],
        length: usize,
    ) -> Vec<u8> {
        let way = usize::from(!inward);
        let (sequence, acknowledged) = (self.sequence[way], self.sequence[1 - way]);
        self.sequence[way] = sequence.wrapping_add(length as u32);
        let mut out = Vec::with_capacity(20);
        out.extend(source.port().to_be_bytes());
        out.extend(destination.port().to_be_bytes());
        out.extend(sequence.wrapping_add(1).to_be_bytes());
        out.extend(acknowledged.wrapping_add(1).to_be_bytes());
        out.extend(TCP_FLAGS.to_be_bytes());
        out.extend(u16::MAX.to_be_bytes());
        // The checksum, and no urgent pointer.
        out.extend([0; 4]);
        // Of a message that is cut nobody can tell whether it is right.
        if bytes.len() == length {
            let sum = checksum(source.ip(), destination.ip(), TCP, &out, bytes);
            out[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }
}

fn udp(source: SocketAddr, destination: SocketAddr, bytes: &[u8], length: usize) -> Vec<u8> {
    let total = (8 + length) as u16;
    let mut out = Vec::with_capacity(8);
    out.extend(source.port().to_be_bytes());
    out.extend(destination.port().to_be_bytes());
    out.extend(total.to_be_bytes());
    out.extend([0; 2]);
    // Over IPv4 zero means none. Over IPv6 there must be one (RFC 8200 §8.1), of the whole message.
    if source.is_ipv6() && bytes.len() == length {
        let checksum = match checksum(source.ip(), destination.ip(), UDP, &out, bytes) {
            0 => u16::MAX,
            other => other,
        };
        out[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    out
}

/// The checksum of a datagram or segment (RFC 9293 §3.1, RFC 8200 §8.1) whose header has none yet.
fn checksum(source: IpAddr, destination: IpAddr, protocol: u8, header: &[u8], bytes: &[u8]) -> u16 {
    let mut sum = Sum::default();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        }
    }
    sum.add(&((header.len() + bytes.len()) as u32).to_be_bytes());
    sum.add(&u32::from(protocol).to_be_bytes());
    sum.add(header);
    sum.add(bytes);
    sum.finish()
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut out = vec![0x45, 0];
            out.extend(((20 + length) as u16).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            out.extend(source.octets());
            out.extend(destination.octets());
            let mut sum = Sum::default();
            sum.add(&out);
            out[10..12].copy_from_slice(&sum.finish().to_be_bytes());
            out
        }
        (source, destination) => {
            let octets = |address| match address {
                IpAddr::V6(address) => address.octets(),
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            };
            let mut out = vec![0x60, 0, 0, 0];
            out.extend((length as u16).to_be_bytes());
            out.extend([protocol, 64]);
            out.extend(octets(source));
            out.extend(octets(destination));
            out
        }
    }
}

/// The Internet checksum (RFC 1071).
#[derive(Debug, Default)]
struct Sum(u32);

impl Sum {
    /// Adds bytes; an odd number only as the last.
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            self.0 = self.0.wrapping_add(u32::from(word));
        }
    }

    fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: Protocol, inward: bool, peer: &str, bytes: &[u8], length: usize) -> Vec<u8> {
        let peer = peer.parse().ok();
        Capture::default().record(&Packet { time_us: 1_500_000, protocol, inward, peer, bytes, length })
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn the_file_begins_with_its_magic_number_and_the_raw_link_type() {
        let header = file_header();
        assert_eq!((header.len(), word(&header, 0), word(&header, 20)), (24, MAGIC, LINKTYPE_RAW));
    }

    #[test]
    fn a_coap_message_is_a_datagram_to_port_5683_with_a_right_header_checksum() {
        let record = packet(Protocol::Coap, true, "192.0.2.7:40000", b"\x40\x01\0\x01", 4);
        assert_eq!((word(&record, 0), word(&record, 4)), (1, 500_000));
        assert_eq!((word(&record, 8), word(&record, 12)), (32, 32));
        let ip = &record[16..];
        let mut sum = Sum::default();
        sum.add(&ip[..20]);
        assert_eq!((sum.finish(), ip[9]), (0, UDP));
        assert_eq!((&ip[12..16], &ip[20..24]), (&[192, 0, 2, 7][..], &[0x9C, 0x40, 0x16, 0x33][..]));
        assert_eq!((&ip[24..26], &ip[28..]), (&[0, 12][..], &b"\x40\x01\0\x01"[..]));
    }

    #[test]
    fn a_datagram_over_ipv6_has_a_right_checksum() {
        let record = packet(Protocol::Coap, false, "[2001:db8::7]:40000", b"\x40\x01\0\x01\xff!x", 7);
        let ip = &record[16..];
        assert_eq!((ip[0], ip[6], &ip[4..6]), (0x60, UDP, &[0, 15][..]));
        let mut sum = Sum::default();
        sum.add(&ip[8..40]);
        sum.add(&15u32.to_be_bytes());
        sum.add(&u32::from(UDP).to_be_bytes());
        sum.add(&ip[40..]);
        assert_eq!(sum.finish(), 0);
    }

    #[test]
    fn a_whole_mqtt_packet_has_a_right_checksum() {
        let record = packet(Protocol::Mqtt, true, "192.0.2.7:8883", b"\x40\x02\0\x07", 4);
        let ip = &record[16..];
        let mut sum = Sum::default();
        sum.add(&ip[12..20]);
        sum.add(&24u32.to_be_bytes());
        sum.add(&u32::from(TCP).to_be_bytes());
        sum.add(&ip[20..]);
        assert_eq!(sum.finish(), 0);
    }

    #[test]
    fn what_was_cut_off_is_missing_by_the_length_and_the_stream_goes_on_behind_it() {
        let mut capture = Capture::default();
        let peer = "198.51.100.1:8883".parse().ok();
        let publish = Packet {
            time_us: 0,
            protocol: Protocol::Mqtt,
            inward: false,
            peer,
            bytes: b"\x32\x64head",
            length: 102,
        };
        let first = capture.record(&publish);
        let second = capture.record(&publish);
        let answer = capture.record(&Packet { inward: true, bytes: b"\x40\x02\0\x07", length: 4, ..publish });
        assert_eq!((word(&first, 8), word(&first, 12)), (46, 142));
        assert_eq!((word(&first, 16 + 24), word(&second, 16 + 24)), (1, 103));
        assert_eq!((word(&answer, 16 + 24), word(&answer, 16 + 28)), (1, 205));
        assert_eq!(&answer[36..40], &[0x07, 0x5B, 0xC0, 0x00], "from port 1883");
    }

    #[test]
    fn a_message_of_any_length_fits() {
        for length in [0, 65_000, 100_000] {
            let bytes = vec![7; length];
            let record = packet(Protocol::Mqtt, false, "192.0.2.7:1", &bytes, length);
            assert!(record.len() <= 16 + 65_535);
        }
    }
}
