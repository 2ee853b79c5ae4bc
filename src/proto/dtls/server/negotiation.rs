//! Negotiates the parameters of a handshake from a ClientHello (RFC 5246 §7.4.1; the RFCs of
//! extensions are below).

use super::aead::Aead;
use super::certificate::{Certificates, Curve};
use super::suites::{KeyExchange, Suite};
use super::wire::Reader;
use super::{Settings, alert};
use crate::proto::dtls::failure::{HandshakeFailure, Missing};
use crate::proto::dtls::hello::ClientHello;
use crate::proto::dtls::record::{self, VERSION_1_2};

/// `max_fragment_length` (RFC 6066 §4)
pub(super) const MAX_FRAGMENT_LENGTH: u16 = 1;
/// `supported_groups` (RFC 8422 §5.1.1)
const SUPPORTED_GROUPS: u16 = 10;
/// `ec_point_formats` (RFC 8422 §5.1.2)
pub(super) const EC_POINT_FORMATS: u16 = 11;
/// `signature_algorithms` (RFC 5246 §7.4.1.4.1)
const SIGNATURE_ALGORITHMS: u16 = 13;
/// `client_certificate_type` (RFC 7250 §3)
pub(super) const CLIENT_CERTIFICATE_TYPE: u16 = 19;
/// `server_certificate_type` (RFC 7250 §3)
pub(super) const SERVER_CERTIFICATE_TYPE: u16 = 20;
/// `extended_master_secret` (RFC 7627 §5.1)
pub(super) const EXTENDED_MASTER_SECRET: u16 = 23;
/// `connection_id` (RFC 9146 §3)
pub(super) const CONNECTION_ID: u16 = 54;
/// `renegotiation_info` (RFC 5746 §3.2)
pub(super) const RENEGOTIATION_INFO: u16 = 0xff01;
/// `TLS_EMPTY_RENEGOTIATION_INFO_SCSV` (RFC 5746 §3.3)
const RENEGOTIATION_SCSV: u16 = 0x00ff;

/// Certificate types (RFC 7250 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificateType {
    X509 = 0,
    RawPublicKey = 2,
}

impl CertificateType {
    fn find(number: u8) -> Option<CertificateType> {
        match number {
            0 => Some(CertificateType::X509),
            2 => Some(CertificateType::RawPublicKey),
            _ => None,
        }
    }
}

/// The negotiated parameters.
#[derive(Debug)]
pub(super) struct Agreement {
    pub suite: Suite,
    pub extended_master_secret: bool,
    /// Whether to answer `renegotiation_info`.
    pub renegotiation_info: bool,
    /// Whether to answer `ec_point_formats`.
    pub point_formats: bool,
    /// The code and its length in bytes.
    pub max_fragment_length: Option<(u8, usize)>,
    /// The connection id for records to the client (may be empty), if it supports connection ids.
    pub peer_cid: Option<Box<[u8]>>,
    /// For ECDHE.
    pub curve: Curve,
    pub server_certificate: CertificateType,
    pub client_certificate: CertificateType,
    /// Whether the client sent `server_certificate_type`, so that it must be answered.
    pub names_server_type: bool,
    pub names_client_type: bool,
}

/// A fatal error: the alert for the client, and the failure to report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fatal {
    pub alert: u8,
    pub failure: HandshakeFailure,
}

impl Fatal {
    pub fn protocol(alert: u8, what: &str) -> Fatal {
        Fatal { alert, failure: HandshakeFailure::Protocol(what.into()) }
    }
}

/// Extensions as offered. `None`: not offered.
#[derive(Default)]
struct Offer<'d> {
    max_fragment_length: Option<u8>,
    groups: Option<&'d [u8]>,
    point_formats: Option<&'d [u8]>,
    signature_algorithms: Option<&'d [u8]>,
    client_types: Option<&'d [u8]>,
    server_types: Option<&'d [u8]>,
    extended_master_secret: bool,
    cid: Option<&'d [u8]>,
    renegotiation_info: bool,
}

fn undecodable(what: &str) -> Fatal {
    Fatal::protocol(alert::DECODE_ERROR, what)
}

impl<'d> Offer<'d> {
    fn read(hello: &ClientHello<'d>) -> Result<Offer<'d>, Fatal> {
        let mut offer = Offer::default();
        let mut seen = Vec::new();
        for (number, content) in hello.extensions() {
            // RFC 5246 §7.4.1.4: no two of the same type.
            if seen.contains(&number) {
                return Err(undecodable("an extension comes twice"));
            }
            seen.push(number);
            offer.take(number, content).ok_or_else(|| undecodable("an extension cannot be read"))?;
            if number == RENEGOTIATION_INFO && content != [0] {
                return Err(Fatal::protocol(alert::HANDSHAKE_FAILURE, "renegotiation on a new connection"));
            }
        }
        offer.renegotiation_info |= hello.signals(RENEGOTIATION_SCSV);
        Ok(offer)
    }

    fn take(&mut self, number: u16, content: &'d [u8]) -> Option<()> {
        let mut reader = Reader(content);
        match number {
            MAX_FRAGMENT_LENGTH => self.max_fragment_length = Some(reader.u8()?),
            SUPPORTED_GROUPS => self.groups = Some(reader.vector16().filter(|list| list.len() % 2 == 0)?),
            SIGNATURE_ALGORITHMS => {
                self.signature_algorithms = Some(reader.vector16().filter(|list| list.len() % 2 == 0)?);
            }
            EC_POINT_FORMATS => self.point_formats = Some(reader.vector8()?),
            CLIENT_CERTIFICATE_TYPE => self.client_types = Some(reader.vector8()?),
            SERVER_CERTIFICATE_TYPE => self.server_types = Some(reader.vector8()?),
            EXTENDED_MASTER_SECRET => self.extended_master_secret = true,
            CONNECTION_ID => self.cid = Some(reader.vector8()?),
            RENEGOTIATION_INFO => {
                self.renegotiation_info = true;
                reader.vector8()?;
            }
            _ => return Some(()),
        }
        reader.end()
    }

    /// The client's first supported curve. A client without the extension gets P-256, which is the
    /// most common (RFC 8422 §4 leaves the choice to the server).
    fn curve(&self) -> Option<Curve> {
        match self.groups {
            None => Some(Curve::P256),
            Some(list) => numbers(list).find_map(Curve::find),
        }
    }

    fn has_curve(&self, curve: Curve) -> bool {
        self.groups.is_none_or(|list| numbers(list).any(|number| number == curve as u16))
    }
}

fn numbers(list: &[u8]) -> impl Iterator<Item = u16> {
    list.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// The client's first supported certificate type; X.509 if it names none.
fn choose_type(
    named: Option<&[u8]>,
    mut possible: impl FnMut(CertificateType) -> bool,
) -> Option<CertificateType> {
    let named = named.unwrap_or(&[CertificateType::X509 as u8]);
    named.iter().filter_map(|number| CertificateType::find(*number)).find(|found| possible(*found))
}

/// The certificate types of both sides.
fn certificate_types(
    offer: &Offer<'_>,
    certificates: &Certificates,
) -> Option<(CertificateType, CertificateType)> {
    let key = certificates.key.as_ref()?;
    let named = offer.signature_algorithms?;
    if !numbers(named).any(|number| number == key.algorithm()) || !offer.has_curve(key.curve()) {
        return None;
    }
    let server = choose_type(offer.server_types, |found| {
        found == CertificateType::RawPublicKey || !key.chain().is_empty()
    })?;
    let client = choose_type(offer.client_types, |found| match found {
        CertificateType::X509 => certificates.trust.has_anchors(),
        CertificateType::RawPublicKey => certificates.trust.has_raw_public_keys(),
    })?;
    Some((server, client))
}

/// Negotiates. The client's order of suites has precedence, because the client knows its hardware.
/// Exception: if that leads to ChaCha20-Poly1305 and the client also offers AES with the same key
/// exchange, AES is taken, because only such a session can be resumed after a restart.
pub(super) fn negotiate(
    hello: &ClientHello<'_>,
    settings: &Settings,
    has_keys: bool,
    certificates: &Certificates,
) -> Result<Agreement, Fatal> {
    // DTLS version numbers decrease. A newer client still accepts 1.2.
    if hello.version > VERSION_1_2 || hello.version >> 8 != VERSION_1_2 >> 8 {
        let failure = HandshakeFailure::UnsupportedVersion(hello.version);
        return Err(Fatal { alert: alert::PROTOCOL_VERSION, failure });
    }
    if !hello.compressions().contains(&0) {
        // RFC 5246 §7.4.1.2: the null method must be there.
        return Err(Fatal::protocol(alert::ILLEGAL_PARAMETER, "no null compression"));
    }
    let offer = Offer::read(hello)?;
    let max_fragment_length = match offer.max_fragment_length {
        None => None,
        Some(code @ 1..=4) => Some((code, 256 << code)),
        Some(_) => return Err(Fatal::protocol(alert::ILLEGAL_PARAMETER, "max_fragment_length")),
    };
    // RFC 8422 §5.1.2: a list without the uncompressed form is an error.
    if offer.point_formats.is_some_and(|list| !list.contains(&0)) {
        return Err(Fatal::protocol(alert::ILLEGAL_PARAMETER, "no uncompressed points"));
    }
    if settings.require_extended_master_secret && !offer.extended_master_secret {
        let failure = HandshakeFailure::NoExtendedMasterSecret;
        return Err(Fatal { alert: alert::HANDSHAKE_FAILURE, failure });
    }
    let curve = offer.curve();
    let types = certificate_types(&offer, certificates);
    let mut possible = hello.suites().filter_map(Suite::find).filter(|suite| {
        (!suite.exchange.has_psk() || has_keys)
            && (!suite.exchange.has_ecdhe() || curve.is_some())
            && (suite.exchange != KeyExchange::EcdheEcdsa || types.is_some())
            && settings.suites.as_ref().is_none_or(|allowed| allowed.contains(&suite.number))
    });
    let suite = possible.next().map(|first| match first.aead {
        Aead::ChaCha => possible
            .find(|other| other.exchange == first.exchange && other.aead != Aead::ChaCha)
            .unwrap_or(first),
        _ => first,
    });
    let Some(suite) = suite else {
        let offered: Box<[u16]> = hello.suites().collect();
        // RFC 7250 §4.2: the types are what does not fit.
        let only_types = types.is_none()
            && (offer.client_types.is_some() || offer.server_types.is_some())
            && certificates.key.is_some()
            && offered
                .iter()
                .filter_map(|suite| Suite::find(*suite))
                .any(|s| s.exchange == KeyExchange::EcdheEcdsa);
        let alert = if only_types { alert::UNSUPPORTED_CERTIFICATE } else { alert::HANDSHAKE_FAILURE };
        let missing = missing(&offered, has_keys, certificates);
        return Err(Fatal { alert, failure: HandshakeFailure::NoSharedCipherSuite { offered, missing } });
    };
    let (server_certificate, client_certificate) =
        types.unwrap_or((CertificateType::X509, CertificateType::X509));
    let certified = suite.exchange == KeyExchange::EcdheEcdsa;
    Ok(Agreement {
        suite,
        extended_master_secret: offer.extended_master_secret,
        renegotiation_info: offer.renegotiation_info,
        point_formats: offer.point_formats.is_some() && suite.exchange.has_ecdhe(),
        max_fragment_length,
        peer_cid: offer.cid.filter(|_| settings.connection_id).map(Box::from),
        curve: curve.unwrap_or(Curve::P256),
        server_certificate,
        client_certificate,
        names_server_type: certified && offer.server_types.is_some(),
        names_client_type: certified && offer.client_types.is_some(),
    })
}

/// The missing credential, if a suite of the client needs nothing else.
fn missing(offered: &[u16], has_keys: bool, certificates: &Certificates) -> Option<Missing> {
    let wants = |certified: bool| {
        let suites = offered.iter().filter_map(|number| Suite::find(*number));
        suites.into_iter().any(|suite| suite.exchange.has_psk() != certified)
    };
    let trust = &certificates.trust;
    if wants(true) && certificates.key.is_none() {
        Some(Missing::OwnKey)
    } else if wants(true) && !trust.has_anchors() && !trust.has_raw_public_keys() {
        Some(Missing::Trust)
    } else if wants(false) && !has_keys {
        Some(Missing::PresharedKey)
    } else {
        None
    }
}

/// The part of a first ClientHello fragment that is needed to verify its cookie: everything up to
/// the cookie.
pub(super) struct HelloPrefix<'d> {
    /// Version, random, session id, to which the cookie is bound.
    pub bound: &'d [u8],
    pub random: &'d [u8; 32],
    pub cookie: &'d [u8],
}

impl<'d> HelloPrefix<'d> {
    pub fn read(fragment: &record::HandshakeFragment<'d>) -> Option<HelloPrefix<'d>> {
        let body = fragment.body;
        let mut reader = Reader(body);
        reader.u16()?;
        let random = reader.array()?;
        reader.vector8().filter(|session_id| session_id.len() <= 32)?;
        let bound = &body[..body.len() - reader.0.len()];
        let cookie = reader.vector8()?;
        Some(HelloPrefix { bound, random, cookie })
    }
}
