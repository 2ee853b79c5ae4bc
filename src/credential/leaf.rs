//! What of a certificate decides about its renewal (RFC 5280 §4.1, §4.2). No verification happens
//! here.

use crate::clock::UnixTime;
use crate::proto::der::{
    BOOLEAN, CONTEXT_0, CONTEXT_3, Der, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE,
};
use crate::proto::dtls::server::DistinguishedName;
use crate::proto::dtls::server::outline::Outline;

use super::decision::Validity;

/// `id-ce-subjectAltName`, `id-ce-basicConstraints`, `id-ce-extKeyUsage`
const ALTERNATIVE_NAMES: &[u8] = b"\x55\x1d\x11";
const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";
/// `anyExtendedKeyUsage`, `id-kp-serverAuth`, `id-kp-clientAuth` (RFC 5280 §4.2.1.12)
const ANY_USAGE: &[u8] = b"\x55\x1d\x25\x00";
const SERVER_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x01";
const CLIENT_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x02";

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Towards the upstream broker.
    Client,
    /// Towards devices.
    Server,
}

impl Usage {
    fn oid(self) -> &'static [u8] {
        match self {
            Usage::Client => CLIENT_AUTH,
            Usage::Server => SERVER_AUTH,
        }
    }

    /// As the standard names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Usage::Client => "clientAuth",
            Usage::Server => "serverAuth",
        }
    }
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// 1, 2 or 3.
    pub version: u8,
    /// Its serial number, the content of the INTEGER.
    pub serial: Vec<u8>,
    /// The content of its subject's `Name`.
    pub subject: Vec<u8>,
    /// The content of its issuer's `Name`.
    pub issuer: Vec<u8>,
    /// The content of its SubjectPublicKeyInfo.
    pub key: Vec<u8>,
    /// From when until when it is valid.
    pub validity: Validity,
    /// The content of the extension subjectAltName, DER `GeneralNames`.
    pub names: Option<Vec<u8>>,
    /// basicConstraints has `cA`.
    pub is_ca: bool,
    may_sign: bool,
    /// The purposes of extendedKeyUsage; `None`: any.
    purposes: Option<Vec<Vec<u8>>>,
}

impl Leaf {
    /// Reads a DER certificate; `None` if it is none.
    pub fn parse(der: &[u8]) -> Option<Leaf> {
        let outline = Outline::read(der)?;
        let mut leaf = Leaf {
            version: outline.version,
            serial: outline.serial.to_vec(),
            subject: outline.subject.to_vec(),
            issuer: outline.issuer.to_vec(),
            key: outline.key.to_vec(),
            validity: Validity { not_before: outline.not_before, not_after: outline.not_after },
            names: None,
            is_ca: false,
            may_sign: outline.may_sign(),
            purposes: None,
        };
        leaf.read_extensions(der)?;
        Some(leaf)
    }

    fn read_extensions(&mut self, der: &[u8]) -> Option<()> {
        let mut signed = Der(Der(der).expect(SEQUENCE)?);
        let mut body = Der(signed.expect(SEQUENCE)?);
        body.optional(CONTEXT_0);
        body.expect(INTEGER)?;
        while let Some((tag, content)) = body.element() {
            if tag != CONTEXT_3 {
                continue;
            }
            let mut extensions = Der(Der(content).expect(SEQUENCE)?);
            while let Some(extension) = extensions.expect(SEQUENCE) {
                let mut extension = Der(extension);
                let oid = extension.expect(OBJECT_IDENTIFIER)?;
                extension.optional(BOOLEAN); // `critical`
                let value = extension.expect(OCTET_STRING)?;
                match oid {
                    ALTERNATIVE_NAMES => self.names = Some(value.to_vec()),
                    BASIC_CONSTRAINTS => {
                        let mut constraints = Der(Der(value).expect(SEQUENCE)?);
                        self.is_ca = constraints.optional(BOOLEAN).is_some_and(|is_ca| is_ca != [0]);
                    }
                    EXTENDED_KEY_USAGE => {
                        let mut list = Der(Der(value).expect(SEQUENCE)?);
                        let purposes = self.purposes.insert(Vec::new());
                        while let Some(purpose) = list.expect(OBJECT_IDENTIFIER) {
                            purposes.push(purpose.to_vec());
                        }
                    }
                    _ => {}
                }
            }
        }
        Some(())
    }

    /// Whether its extended key usage allows this.
    pub fn allows(&self, usage: Usage) -> bool {
        let Some(purposes) = &self.purposes else { return true };
        purposes.iter().any(|purpose| purpose == usage.oid() || purpose == ANY_USAGE)
    }

    /// Whether its key usage allows the signature of a handshake.
    pub fn may_sign(&self) -> bool {
        self.may_sign
    }

    /// Its serial number in hexadecimal, as `openssl x509 -serial` prints it.
    pub fn serial_text(&self) -> String {
        let digits = self.serial.strip_prefix(&[0]).unwrap_or(&self.serial);
        digits.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    /// Its subject as text.
    pub fn subject_text(&self) -> String {
        name_text(&self.subject)
    }

    /// Its issuer as text.
    pub fn issuer_text(&self) -> String {
        name_text(&self.issuer)
    }

    /// From when until when it is valid.
    pub fn not_after(&self) -> UnixTime {
        self.validity.not_after
    }
}

/// A `Name` as people read it.
pub fn name_text(name: &[u8]) -> String {
    match DistinguishedName::from_der(name) {
        Some(name) => name.to_string(),
        None if name.is_empty() => "without a name".to_owned(),
        None => "a name that has no text form".to_owned(),
    }
}
