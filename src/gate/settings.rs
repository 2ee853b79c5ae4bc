//! The gate's input from the configuration, already validated: all patterns are parsed, and no
//! template names a capture that its pattern lacks.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use super::certificate::{CertificateName, CertificatePattern};
use super::condition::When;
use super::field::FieldPointer;
use super::jwt::JwtKey;
use super::login::Login;
use super::own_topic::{OwnTopic, OwnTopics};
use super::pattern::Pattern;
use super::tag::Tags;
use super::template::Template;
use crate::clock::UnixTime;
use crate::message::{ContentFormat, Envelope, Lane, Name};
use crate::proto::Holder;

/// Everything the gate decides by. A reload replaces it as a whole.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's own id, `{gateway}` in templates.
    pub gateway: Name,
    /// `{prefix}` in templates, itself expanded; default `tombolo/{gateway}`.
    pub prefix: String,
    /// `[topics] reading`: the topic of a reading whose rule names no topic. `None` = switched off.
    pub reading: Option<Template>,
    /// The topics that the gateway itself publishes to or subscribes to; no rule may map to them.
    pub own: Arc<OwnTopics>,
    /// Where outcomes of commands go by default, also while no rule allows commands: some may be
    /// told yet.
    pub reply: Option<OwnTopic>,
    /// Roles by name, in name order.
    pub roles: Vec<Role>,
    /// Devices by id, in id order; each names a role that exists.
    pub devices: Vec<SharedDevice>,
    /// Fleets by name, in name order; each names a role that exists.
    pub fleets: Vec<Fleet>,
    /// Devices that are switched off or disabled; no fleet may create them.
    pub withheld: Withheld,
}

#[cfg(test)]
impl Settings {
    /// A gateway that knows no device and has no rule.
    pub(crate) fn empty(gateway: Name) -> Settings {
        Settings {
            gateway,
            prefix: "p".to_owned(),
            reading: None,
            own: Arc::default(),
            reply: None,
            roles: Vec::new(),
            devices: Vec::new(),
            fleets: Vec::new(),
            withheld: Default::default(),
        }
    }
}

/// What a class of devices may publish and receive.
#[derive(Clone, Debug)]
pub struct Role {
    /// The name.
    pub name: Name,
    /// The quota of each of its devices.
    pub quota: Quota,
    /// Largest payload of one reading in bytes, `0 ..= 65,536`, in one datagram and by Block1.
    /// `None`, the default, is 1,024 in one datagram and 65,536 by Block1. A payload above
    /// [`Quota::bytes`] can never pass.
    pub max_payload: Option<u32>,
    /// Time without activity until a device is `offline`; default 1 h.
    pub offline_after: Duration,
    /// Most DTLS sessions each of its devices may have at once, at least 1; default 4. Devices that
    /// share a key need one session each.
    pub max_sessions: u32,
    /// DTLS handshakes that each of its devices may complete a minute, and MQTT connects that are
    /// accepted, each counted by itself; at least 1, default 120.
    pub max_handshakes: u32,
    /// Named uplink rules, in name order. Without a matching rule a reading is refused.
    pub uplink: Vec<UplinkRule>,
    /// Named downlink rules, in name order.
    pub downlink: Vec<DownlinkRule>,
    /// For which children its devices may speak, and where; none: for none.
    pub on_behalf: Vec<OnBehalfRule>,
    /// What is held for each of its devices.
    pub mailbox: MailboxLimits,
}

impl Role {
    /// Without rules, and with the defaults of the configuration.
    pub fn new(name: Name) -> Role {
        Role {
            name,
            quota: Quota::default(),
            max_payload: None,
            offline_after: Duration::from_secs(3600),
            max_sessions: Holder::SESSIONS,
            max_handshakes: Holder::HANDSHAKES,
            uplink: Vec::new(),
            downlink: Vec::new(),
            on_behalf: Vec::new(),
            mailbox: MailboxLimits::default(),
        }
    }
}

/// Token buckets of each device, full at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Messages added per `per`; default 60.
    pub messages: u32,
    /// Payload bytes added per `per`, and the capacity of the byte bucket; default 64 KiB.
    pub bytes: u64,
    /// The period; default 1 min.
    pub per: Duration,
    /// Capacity of the message bucket: messages that may come at once; default 20.
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
    /// The name; rules have no order.
    pub name: Name,
    /// The role that it is from, where its role includes that one.
    pub from: Option<Name>,
    /// The paths it applies to, within the device.
    pub path: Pattern,
    /// A deny rule that matches has precedence over every other rule.
    pub deny: bool,
    /// The topic; `None` = the `reading` template.
    pub topic: Option<Template>,
    /// QoS of the publish. A reading with QoS 0 is kept in memory only and may be lost.
    pub qos: QoS,
    /// Publish with retain.
    pub retain: bool,
    /// The lane of the journal.
    pub lane: Lane,
    /// Expires after; whole seconds, `1 s ..= 10 years`.
    pub expires: Option<Duration>,
    /// How the payload is wrapped.
    pub envelope: Envelope,
    /// Whether `DELETE` may publish an empty retained message here.
    pub delete: bool,
    /// What happens to a request with a query.
    pub query: QueryUse,
    /// Largest payload in bytes, `1 ..= 65,536`, where that is less than the role's. `None`: the
    /// role's.
    pub max_payload: Option<u32>,
    /// The content formats that it takes, at most [`FORMATS_MAX`]; `None` within is a reading
    /// without one. Empty: any, and none.
    pub content_formats: Vec<Option<ContentFormat>>,
    /// Which of its readings are acknowledged and not published.
    pub filter: ReadingFilter,
}

/// Which readings of a rule are not published. All that are set apply: a reading is published if
/// none of them holds it back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadingFilter {
    /// Holds back what these conditions do not hold for.
    pub when: When,
    /// Holds back what equals the reading before, byte by byte and in its content format.
    pub on_change: bool,
    /// Holds back a number that differs from the one before by so much or less; finite, 0 or more.
    pub dead_band: Option<f64>,
    /// The number stands there in a JSON or CBOR document. `None`: it is the payload, as text or as
    /// the CBOR item.
    pub dead_band_field: Option<FieldPointer>,
    /// Holds back what comes sooner after the reading before; `100 ms ..= 1 day`.
    pub min_interval: Option<Duration>,
}

impl ReadingFilter {
    /// The first key that is set.
    pub fn first_key(&self) -> Option<&'static str> {
        let keys = [
            ("when", !self.when.is_empty()),
            ("on-change", self.on_change),
            ("dead-band", self.dead_band.is_some()),
            ("min-interval", self.min_interval.is_some()),
        ];
        keys.into_iter().find_map(|(key, is_set)| is_set.then_some(key))
    }

    /// Whether a reading is measured against the one before.
    pub(super) fn compares(&self) -> bool {
        self.on_change || self.dead_band.is_some() || self.min_interval.is_some()
    }
}

/// Most content formats of a rule.
pub const FORMATS_MAX: usize = 16;

impl UplinkRule {
    /// A rule that allows, with every default.
    pub fn new(name: Name, path: Pattern) -> UplinkRule {
        UplinkRule {
            name,
            from: None,
            path,
            deny: false,
            topic: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            lane: Lane::Normal,
            expires: None,
            envelope: Envelope::None,
            delete: false,
            query: QueryUse::default(),
            max_payload: None,
            content_formats: Vec::new(),
            filter: ReadingFilter::default(),
        }
    }
}

/// Lets devices of a role forward readings of devices behind them.
#[derive(Clone, Debug)]
pub struct OnBehalfRule {
    /// The name; rules have no order.
    pub name: Name,
    /// The role that it is from, where its role includes that one.
    pub from: Option<Name>,
    /// The paths it applies to, within the child.
    pub path: Pattern,
    /// The roles of the children it applies to; none: all.
    pub roles: Vec<Name>,
    /// A deny rule that matches has precedence over every other rule.
    pub deny: bool,
}

/// What a rule does with the query of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryUse {
    /// It is stored with the reading and published as the user property `query`, or in the
    /// envelope.
    #[default]
    Publish,
    /// The request is refused.
    Refuse,
}

/// How a message of the broker reaches a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deliver {
    /// As a request to the device.
    Request,
    /// As the state of the path: a notification if the device observes it (RFC 7641), and the
    /// answer to its GET. Only the newest message on a path waits.
    Observe,
    /// As a notification if the device observes the path, else as a request; a GET is answered.
    #[default]
    Auto,
}

/// Which commands reach a device, and as which path.
#[derive(Clone, Debug)]
pub struct DownlinkRule {
    /// The name.
    pub name: Name,
    /// The role that it is from, where its role includes that one.
    pub from: Option<Name>,
    /// A deny rule that matches has precedence over every other rule.
    pub deny: bool,
    /// MQTT topic filter with `{prefix}`, `{gateway}`, `{device}`.
    pub topic: String,
    /// The path at the device, which may contain captures of `topic`.
    pub path: String,
    /// How it reaches the device.
    pub deliver: Deliver,
    /// A command may run twice: it is sent again if its outcome is not known.
    pub idempotent: bool,
    /// A later command on the same path replaces one that waits.
    pub latest_wins: bool,
    /// A command that was not sent so long after it was taken is dropped, `1 s ..= 10 years`; its
    /// message expiry counts if it is sooner. `None`: as [`MailboxLimits::expires`].
    pub expires: Option<Duration>,
    /// How long the device may take for its response; default 60 s, `1 s ..= 1 h`.
    pub answer_within: Duration,
}

impl DownlinkRule {
    /// A rule that allows, with every default.
    pub fn new(name: Name, topic: impl Into<String>, path: impl Into<String>) -> DownlinkRule {
        DownlinkRule {
            name,
            from: None,
            deny: false,
            topic: topic.into(),
            path: path.into(),
            deliver: Deliver::default(),
            idempotent: false,
            latest_wins: false,
            expires: None,
            answer_within: Duration::from_secs(60),
        }
    }
}

/// The commands held for a device, and when it takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxLimits {
    /// Most commands at once; default 16, `1 ..= 1,024`.
    pub messages: u32,
    /// Most bytes of them, texts and payloads and about 300 bytes each; default 16 KiB.
    pub bytes: u64,
    /// A command that was not sent so long after it was taken is dropped; default 7 days.
    pub expires: Duration,
    /// What is done with one more.
    pub when_full: WhenFull,
    /// A command is sent if the device was heard so recently, and held otherwise until its next
    /// datagram; default 10 s. `None`: at any time.
    pub awake_for: Option<Duration>,
}

impl Default for MailboxLimits {
    fn default() -> MailboxLimits {
        MailboxLimits {
            messages: 16,
            bytes: 16 << 10,
            expires: Duration::from_secs(7 * 86_400),
            when_full: WhenFull::Refuse,
            awake_for: Some(Duration::from_secs(10)),
        }
    }
}

/// What a full mailbox does with one more command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused.
    #[default]
    Refuse,
    /// The oldest that waits is dropped for it.
    DropOldest,
}

/// A device from the configuration or the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its id.
    pub id: Name,
    /// Its role's name.
    pub role: Name,
    /// A label: free text.
    pub label: Option<String>,
    /// Its tags, for topics.
    pub tags: Tags,
    /// Its PSK identity and key, if it uses DTLS-PSK.
    pub psk: Option<Psk>,
    /// Its certificate, if it has one.
    pub certificate: Option<CertificateName>,
    /// SHA-256 of the DER SubjectPublicKeyInfo of its key, used as a raw public key (RFC 7250) or
    /// in a certificate.
    pub public_key: Option<[u8; 32]>,
    /// Its MQTT user name and password, if it has one.
    pub login: Option<Box<Login>>,
    /// Public keys whose JSON Web Tokens it may show as an MQTT password, at most
    /// [`KEYS_MAX`](super::jwt::KEYS_MAX).
    pub jwt_keys: Vec<JwtKey>,
    /// The PSK that is to replace [`Device::psk`].
    pub next_psk: Option<Box<NextPsk>>,
    /// Overrides the role's value.
    pub offline_after: Option<Duration>,
    /// The device that it is behind, and that may forward its readings.
    pub parent: Option<Name>,
}

impl Device {
    /// A device without a credential, which no transport but its own port can identify.
    pub fn new(id: Name, role: Name) -> Device {
        Device {
            id,
            role,
            label: None,
            tags: Tags::default(),
            psk: None,
            certificate: None,
            public_key: None,
            login: None,
            jwt_keys: Vec::new(),
            next_psk: None,
            offline_after: None,
            parent: None,
        }
    }

    /// Its PSK, and the next one.
    pub fn psks(&self) -> impl Iterator<Item = &Psk> {
        self.psk.iter().chain(self.next_psk.as_ref().map(|next| &next.psk))
    }

    /// The credential that both have, if any; it could not identify either of them.
    pub fn shares(&self, other: &Device) -> Option<&'static str> {
        let certificates = self.certificate.as_ref().zip(other.certificate.as_ref());
        if self.psks().any(|psk| other.psks().any(|other| other.identity == psk.identity)) {
            Some("PSK identity")
        } else if certificates.is_some_and(|(one, other)| one.overlaps(other)) {
            Some("certificate")
        } else if self.public_key.is_some() && self.public_key == other.public_key {
            Some("public key")
        } else if self.login.as_ref().is_some_and(|login| other.has_username(&login.username)) {
            Some("MQTT user name")
        } else {
            None
        }
    }

    fn has_username(&self, username: &str) -> bool {
        self.login.as_ref().is_some_and(|login| login.username == username)
    }

    /// Whether both have the same credentials.
    pub fn same_proof(&self, other: &Device) -> bool {
        (&self.psk, &self.certificate, &self.public_key, &self.login)
            == (&other.psk, &other.certificate, &other.public_key, &other.login)
            && (&self.jwt_keys, &self.next_psk) == (&other.jwt_keys, &other.next_psk)
    }
}

/// A device that the settings, the gate and the registry hold once for all of them: there may be
/// 10,000. To change it where others hold it, too, copies it.
#[derive(Clone, PartialEq)]
pub struct SharedDevice(Arc<Device>);

impl SharedDevice {
    /// Whether both are one in memory.
    pub fn is_same(&self, other: &SharedDevice) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Device> for SharedDevice {
    fn from(device: Device) -> SharedDevice {
        SharedDevice(Arc::new(device))
    }
}

impl Deref for SharedDevice {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

impl DerefMut for SharedDevice {
    fn deref_mut(&mut self) -> &mut Device {
        Arc::make_mut(&mut self.0)
    }
}

impl std::fmt::Debug for SharedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One entry for many devices: each peer whose certificate matches becomes a device at its first
/// session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The name.
    pub name: Name,
    /// The name of the role of all its devices.
    pub role: Name,
    /// The label of each device: free text.
    pub label: Option<String>,
    /// The tags of each device.
    pub tags: Tags,
    /// The pattern that its certificates match, and which part of it is the device's id.
    pub certificate: CertificatePattern,
    /// Most devices, `1 ..= 100,000`; default 1,000. Further devices are refused.
    pub max_devices: u32,
    /// Overrides the role's value.
    pub offline_after: Option<Duration>,
}

/// Ids and credentials that a fleet must not turn into devices.
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
    /// Adds a device.
    pub fn add(&mut self, device: &Device) {
        self.ids.push(device.id.clone());
        self.certificates.extend(device.certificate.clone());
        self.public_keys.extend(device.public_key);
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

/// A PSK that is taken beside the one before it, until it is used or a time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextPsk {
    /// Its identity and key.
    pub psk: Psk,
    /// From then on it is the only one.
    pub until: UnixTime,
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Psk {{ identity: {:?}, key: hidden }}", String::from_utf8_lossy(&self.identity))
    }
}

/// MQTT quality of service of a publish. QoS 2 is not offered: a consumer can detect duplicates by
/// the record id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
}
