//! What the gate is told by configuration, already validated: no pattern here fails to parse, no
//! template names a capture its pattern lacks.

use std::time::Duration;

use super::certificate::{CertificateName, CertificatePattern};
use super::own_topic::OwnTopic;
use super::pattern::Pattern;
use super::template::Template;
use crate::message::{Envelope, Lane, Name};

/// Everything the gate decides by. Replaced whole on reload.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's own id, `{gateway}` in templates.
    pub gateway: Name,
    /// `{prefix}` in templates, itself expanded; default `tombolo/{gateway}`.
    pub prefix: String,
    /// `[topics] reading`: where a reading goes whose rule names no topic. `None` = switched off.
    pub reading: Option<Template>,
    /// What the gateway itself publishes to or subscribes to: no rule leads there.
    pub own: Vec<OwnTopic>,
    /// Roles by name, in name order.
    pub roles: Vec<Role>,
    /// Devices by id, in id order; each names a role that exists.
    pub devices: Vec<Device>,
    /// Fleets by name, in name order; each names a role that exists.
    pub fleets: Vec<Fleet>,
    /// What no fleet makes a device of: those that are switched off or disabled.
    pub withheld: Withheld,
}

/// What a class of devices may say and hear.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name.
    pub name: Name,
    /// How much each of its devices may send.
    pub quota: Quota,
    /// Largest payload in bytes of one reading, `0 ..= 65,536`, however it came; `None`, the
    /// default, is 1,024 in one datagram and 65,536 by Block1. More than [`Quota::bytes`] could
    /// never pass.
    pub max_payload: Option<u32>,
    /// How long without a sign of life until `offline`; default 1 h.
    pub offline_after: Duration,
    /// Most DTLS sessions each of its devices may have at once, at least 1; default 4. Devices that
    /// share a key need one session each.
    pub max_sessions: u32,
    /// Named uplink rules, in name order. No rule, no passage.
    pub uplink: Vec<UplinkRule>,
    /// Named downlink rules, in name order; used once commands are built.
    pub downlink: Vec<DownlinkRule>,
}

/// A token bucket, one a device: full at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Messages that flow in `per`; default 60.
    pub messages: u32,
    /// Payload bytes that flow in `per`; default 64 KiB.
    pub bytes: u64,
    /// The period; default 1 min.
    pub per: Duration,
    /// Messages that may come at once; default 20. The byte bucket holds `bytes`.
    pub burst: u32,
}

impl Default for Quota {
    fn default() -> Quota {
        Quota { messages: 60, bytes: 64 * 1024, per: Duration::from_secs(60), burst: 20 }
    }
}

/// A permission and a mapping in one.
#[derive(Clone, Debug)]
pub struct UplinkRule {
    /// Its name; rules have names, not an order.
    pub name: Name,
    /// Which paths of the device's own space.
    pub path: Pattern,
    /// A matching deny wins over every other rule.
    pub deny: bool,
    /// Where to; `None` = the `reading` template.
    pub topic: Option<Template>,
    /// Upstream QoS. 0 is memory only and outside the promise.
    pub qos: QoS,
    /// Publish with retain.
    pub retain: bool,
    /// Which queue.
    pub lane: Lane,
    /// Worthless after; whole seconds, `1 s ..= 10 years`.
    pub expires: Option<Duration>,
    /// What wraps the payload.
    pub envelope: Envelope,
    /// Whether `DELETE` may publish an empty retained message here.
    pub delete: bool,
}

/// Which commands reach a device, and as which path.
#[derive(Clone, Debug)]
pub struct DownlinkRule {
    /// Its name.
    pub name: Name,
    /// A matching deny wins over every other rule.
    pub deny: bool,
    /// MQTT topic filter with `{prefix}`, `{gateway}`, `{device}`.
    pub topic: String,
    /// The path at the device, with captures of `topic`.
    pub path: String,
}

/// A device as configuration or the registry knows it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its id.
    pub id: Name,
    /// Its role's name.
    pub role: Name,
    /// Free text for people.
    pub label: Option<String>,
    /// The PSK identity and key it proves itself with, if it speaks DTLS-PSK.
    pub psk: Option<Psk>,
    /// The certificate it proves itself with, if it has one.
    pub certificate: Option<CertificateName>,
    /// SHA-256 of the DER SubjectPublicKeyInfo of the key it proves itself with, alone (RFC 7250)
    /// or in a certificate.
    pub public_key: Option<[u8; 32]>,
    /// Overrides the role's.
    pub offline_after: Option<Duration>,
}

impl Device {
    /// What both would prove themselves with, if there is anything: then neither could be told from
    /// the other.
    pub fn shares(&self, other: &Device) -> Option<&'static str> {
        let psk = |device: &Device| device.psk.as_ref().map(|psk| psk.identity.clone());
        let certificates = self.certificate.as_ref().zip(other.certificate.as_ref());
        if self.psk.is_some() && psk(self) == psk(other) {
            Some("PSK identity")
        } else if certificates.is_some_and(|(one, other)| one.overlaps(other)) {
            Some("certificate")
        } else if self.public_key.is_some() && self.public_key == other.public_key {
            Some("public key")
        } else {
            None
        }
    }

    /// Whether both prove themselves the same way.
    pub fn same_proof(&self, other: &Device) -> bool {
        (&self.psk, &self.certificate, &self.public_key)
            == (&other.psk, &other.certificate, &other.public_key)
    }
}

/// One entry for many devices: whoever has a certificate that fits is one, from its first session
/// on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Its name.
    pub name: Name,
    /// The role's name of all its devices.
    pub role: Name,
    /// Free text for people, of each of them.
    pub label: Option<String>,
    /// Which certificates, and what in them is the device's id.
    pub certificate: CertificatePattern,
    /// Most devices, `1 ..= 100,000`; default 1,000. Those beyond it are refused.
    pub max_devices: u32,
    /// Overrides the role's.
    pub offline_after: Option<Duration>,
}

/// Devices that are not to be known, though a fleet could know them.
#[derive(Clone, Debug, Default)]
pub struct Withheld {
    /// Their ids.
    pub ids: Vec<Name>,
    /// Their certificates.
    pub certificates: Vec<CertificateName>,
    /// Their keys.
    pub public_keys: Vec<[u8; 32]>,
}

impl Withheld {
    /// Adds a device; what it proves itself with is taken out of it.
    pub fn add(&mut self, device: &mut Device) {
        self.ids.push(device.id.clone());
        self.certificates.extend(device.certificate.take());
        self.public_keys.extend(device.public_key.take());
    }
}

/// A pre-shared key and the identity that names it.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk {
    /// `1..=128` bytes on the wire; default the device id.
    pub identity: Vec<u8>,
    /// `1..=64` bytes.
    pub key: zeroize::Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Psk {{ identity: {:?}, key: hidden }}", String::from_utf8_lossy(&self.identity))
    }
}

/// MQTT quality of service of a publish; 2 is not offered, the record id does what it would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
}
