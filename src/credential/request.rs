//! The signing request (PKCS#10, RFC 2986): subject and alternative names are repeated byte by
//! byte, as a renewal has to (RFC 7030 §4.2.2).
//!
//! Own code rather than `rcgen`, which makes a subject from its parts and cannot repeat one that
//! was encoded by another tool.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;

use super::leaf::Leaf;
use crate::northbound::token_key::TokenKey;
use crate::proto::der::{
    BIT_STRING, CONTEXT_0, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, encode as element, expect,
};

/// `pkcs-9-at-extensionRequest`
const EXTENSION_REQUEST: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e";
const ALTERNATIVE_NAMES: &[u8] = b"\x55\x1d\x11";
const NULL: u8 = 0x05;
/// `dNSName`, `uniformResourceIdentifier` of a GeneralName (RFC 5280 §4.2.1.6)
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;

/// The names a certificate is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The content of the subject's `Name`.
    pub subject: Vec<u8>,
    /// DER `GeneralNames`; `None`: no alternative name.
    pub alternative: Option<Vec<u8>>,
}

impl Names {
    /// Those of a certificate.
    pub fn of(leaf: &Leaf) -> Names {
        Names { subject: leaf.subject.clone(), alternative: leaf.names.clone() }
    }

    /// A subject, already in DER, with DNS names and URIs.
    pub fn new(subject: Vec<u8>, dns: &[String], uri: &[String]) -> Names {
        let mut list = Vec::new();
        dns.iter().for_each(|name| list.extend(element(DNS_NAME, name.as_bytes())));
        uri.iter().for_each(|name| list.extend(element(URI, name.as_bytes())));
        let alternative = (!list.is_empty()).then(|| element(SEQUENCE, &list));
        Names { subject, alternative }
    }
}

/// Why there is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The key is of a kind that cannot sign here.
    UnusableKey,
    /// Signing failed.
    Signature,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestError::UnusableKey => "the key is of a kind that cannot be used (RSA, ECDSA, Ed25519)",
            RequestError::Signature => "the request could not be signed",
        })
    }
}

impl std::error::Error for RequestError {}

/// The key in PKCS#8 DER, ready to sign.
///
/// # Errors
/// [`RequestError::UnusableKey`]
pub fn signing_key(pkcs8: &[u8]) -> Result<Arc<dyn SigningKey>, RequestError> {
    let key = PrivateKeyDer::try_from(pkcs8.to_vec()).map_err(|_| RequestError::UnusableKey)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.key_provider.load_private_key(key).map_err(|_| RequestError::UnusableKey)
}

/// The content of the SubjectPublicKeyInfo of a key in PKCS#8 DER, or of one in a token.
///
/// # Errors
/// [`RequestError::UnusableKey`]
pub fn public_key(pkcs8: &[u8]) -> Result<Vec<u8>, RequestError> {
    if let Some(TokenKey { info, .. }) = TokenKey::parse(pkcs8) {
        return expect(SEQUENCE, &info).map(|(content, _)| content.to_vec()).ok_or(RequestError::UnusableKey);
    }
    let key = signing_key(pkcs8)?;
    let info = key.public_key().ok_or(RequestError::UnusableKey)?;
    expect(SEQUENCE, &info).map(|(content, _)| content.to_vec()).ok_or(RequestError::UnusableKey)
}

/// Makes a request, DER.
///
/// # Errors
/// [`RequestError`]
pub fn make(pkcs8: &[u8], names: &Names) -> Result<Vec<u8>, RequestError> {
    make_by(&*signing_key(pkcs8)?, names).map_err(|error| match error {
        SigningError::Request(error) => error,
        SigningError::Key(_) => RequestError::Signature,
    })
}

/// Why a key that is elsewhere made no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningError {
    /// As with any key.
    Request(RequestError),
    /// What the key's place says.
    Key(String),
}

impl From<RequestError> for SigningError {
    fn from(error: RequestError) -> SigningError {
        SigningError::Request(error)
    }
}

impl fmt::Display for SigningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SigningError::Request(error) => error.fmt(f),
            SigningError::Key(text) => write!(f, "the request could not be signed: {text}"),
        }
    }
}

impl std::error::Error for SigningError {}

/// As [`make`], with a key that may be elsewhere: it blocks for as long as that takes to sign.
///
/// # Errors
/// [`SigningError`]
pub fn make_by(key: &dyn SigningKey, names: &Names) -> Result<Vec<u8>, SigningError> {
    let info = key.public_key().ok_or(RequestError::UnusableKey)?;
    let attributes = match &names.alternative {
        None => Vec::new(),
        Some(alternative) => {
            let extension =
                [element(OBJECT_IDENTIFIER, ALTERNATIVE_NAMES), element(OCTET_STRING, alternative)].concat();
            let extensions = element(SEQUENCE, &element(SEQUENCE, &extension));
            let attribute =
                [element(OBJECT_IDENTIFIER, EXTENSION_REQUEST), element(SET, &extensions)].concat();
            element(SEQUENCE, &attribute)
        }
    };
    let body = [
        element(INTEGER, &[0]),
        element(SEQUENCE, &names.subject),
        info.to_vec(),
        element(CONTEXT_0, &attributes),
    ]
    .concat();
    let body = element(SEQUENCE, &body);
    let signer = key.choose_scheme(&SCHEMES.map(|(scheme, _)| scheme)).ok_or(RequestError::UnusableKey)?;
    let (_, algorithm) =
        SCHEMES.iter().find(|(scheme, _)| *scheme == signer.scheme()).ok_or(RequestError::UnusableKey)?;
    let signature = signer.sign(&body).map_err(|error| match error {
        rustls::Error::General(text) => SigningError::Key(text),
        other => SigningError::Key(other.to_string()),
    })?;
    let mut identifier = element(OBJECT_IDENTIFIER, algorithm);
    if signer.scheme() == SignatureScheme::RSA_PKCS1_SHA256 {
        identifier.extend([NULL, 0]); // RFC 4055 §5
    }
    let bits = [&[0], &signature[..]].concat();
    Ok(element(SEQUENCE, &[body, element(SEQUENCE, &identifier), element(BIT_STRING, &bits)].concat()))
}

/// The schemes a request is signed by, with their OBJECT IDENTIFIER (RFC 5758 §3.2, RFC 8410 §3,
/// RFC 4055 §5).
const SCHEMES: [(SignatureScheme, &[u8]); 5] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, b"\x2a\x86\x48\xce\x3d\x04\x03\x02"),
    (SignatureScheme::ECDSA_NISTP384_SHA384, b"\x2a\x86\x48\xce\x3d\x04\x03\x03"),
    (SignatureScheme::ECDSA_NISTP521_SHA512, b"\x2a\x86\x48\xce\x3d\x04\x03\x04"),
    (SignatureScheme::ED25519, b"\x2b\x65\x70"),
    (SignatureScheme::RSA_PKCS1_SHA256, b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"),
];
