//! A key that stays in a PKCS #11 token: how a file refers to it, and what a token's answers mean.
//!
//! The file with the chain has, in place of a private key, the id of the key's object and its
//! public key. So whether chain and key belong together is known without the token, and the module
//! and the token may move: they are named by the configuration alone.
//!
//! ECDSA on P-256 is what every token has. A token answers with `r` and `s` side by side (PKCS #11
//! 3.0 §2.3.1), TLS and PKCS #10 want them in DER (RFC 3279 §2.2.3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::proto::der::{self, INTEGER, OCTET_STRING, SEQUENCE};

/// The label in PEM.
pub const LABEL: &str = "TOMBOLO TOKEN KEY";
/// What a reference begins with, and its version.
const MAGIC: &[u8] = b"tombolo token key 1\n";
/// Bytes of an object's id (CKA_ID).
pub const ID_LENGTH: usize = 16;
/// What stands before an uncompressed P-256 point in a SubjectPublicKeyInfo (RFC 5480 §2.1).
const P256: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
/// The curve as CKA_EC_PARAMS has it: the OBJECT IDENTIFIER of P-256 in DER.
pub const P256_PARAMETERS: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// Bytes of an uncompressed P-256 point.
const POINT_LENGTH: usize = 65;

/// A reference to a key in the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKey {
    /// CKA_ID of its objects.
    pub id: [u8; ID_LENGTH],
    /// Its SubjectPublicKeyInfo, DER.
    pub info: Vec<u8>,
}

impl TokenKey {
    /// The key with this id, by what the token says of its public key: CKA_EC_POINT, wrapped into
    /// an OCTET STRING as the standard has it, or bare as some tokens write it.
    pub fn of_point(id: [u8; ID_LENGTH], point: &[u8]) -> Option<TokenKey> {
        let is_point = |bytes: &&[u8]| bytes.len() == POINT_LENGTH && bytes[0] == 4;
        let wrapped = der::expect(OCTET_STRING, point).filter(|(_, rest)| rest.is_empty());
        let point = wrapped.map(|(inner, _)| inner).filter(is_point).or(Some(point).filter(is_point))?;
        Some(TokenKey { id, info: [P256, point].concat() })
    }

    /// As it stands in place of a private key.
    pub fn to_bytes(&self) -> Vec<u8> {
        [MAGIC, &self.id, &self.info].concat()
    }

    /// Reads [`TokenKey::to_bytes`]; `None` if it is something else.
    pub fn parse(bytes: &[u8]) -> Option<TokenKey> {
        let (id, info) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        der::expect(SEQUENCE, info).filter(|(_, rest)| rest.is_empty())?;
        Some(TokenKey { id: *id, info: info.to_vec() })
    }

    /// The reference in a PEM file, if it has one.
    pub fn from_pem(pem: &[u8]) -> Option<TokenKey> {
        let text = std::str::from_utf8(pem).ok()?;
        let (_, rest) = text.split_once(&format!("-----BEGIN {LABEL}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {LABEL}-----"))?;
        let body: String = body.split_whitespace().collect();
        TokenKey::parse(&STANDARD.decode(body).ok()?)
    }
}

/// A token's ECDSA signature in DER. `None`: it is no signature.
pub fn signature(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.is_empty() || !raw.len().is_multiple_of(2) {
        return None;
    }
    let (r, s) = raw.split_at(raw.len() / 2);
    Some(der::encode(SEQUENCE, &[integer(r)?, integer(s)?].concat()))
}

/// A positive INTEGER in its shortest form (X.690 §8.3); zero is none of a signature.
fn integer(bytes: &[u8]) -> Option<Vec<u8>> {
    let at = bytes.iter().position(|byte| *byte != 0)?;
    let bytes = &bytes[at..];
    let padded = if bytes[0] & 0x80 != 0 { [&[0], bytes].concat() } else { bytes.to_vec() };
    Some(der::encode(INTEGER, &padded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> Vec<u8> {
        (0..65).map(|n| if n == 0 { 4 } else { n }).collect()
    }

    #[test]
    fn a_point_is_taken_wrapped_and_bare_and_nothing_else_is() {
        let bare = TokenKey::of_point([7; 16], &point()).unwrap();
        let wrapped = TokenKey::of_point([7; 16], &der::encode(OCTET_STRING, &point())).unwrap();
        assert_eq!(bare, wrapped);
        assert!(bare.info.ends_with(&point()) && bare.info.len() == 91);
        for other in [&point()[1..], &[], &[4; 33], &der::encode(OCTET_STRING, &[3; 65])] {
            assert_eq!(TokenKey::of_point([7; 16], other), None);
        }
    }

    #[test]
    fn a_reference_is_read_as_it_was_written_and_damage_is_none() {
        let key = TokenKey::of_point([7; 16], &point()).unwrap();
        let bytes = key.to_bytes();
        assert_eq!(TokenKey::parse(&bytes), Some(key.clone()));
        for length in 0..bytes.len() {
            assert_eq!(TokenKey::parse(&bytes[..length]), None);
        }
        let mut pem = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_vec();
        crate::proto::pem::encode(LABEL, &bytes, &mut pem);
        assert_eq!(TokenKey::from_pem(&pem), Some(key));
        assert_eq!(TokenKey::from_pem(&pem[..pem.len() - 40]), None);
        assert_eq!(TokenKey::from_pem(b"\xff"), None);
    }

    #[test]
    fn a_raw_signature_becomes_two_shortest_integers() {
        assert_eq!(signature(&[0, 1, 0x80, 2]).unwrap(), b"\x30\x08\x02\x01\x01\x02\x03\x00\x80\x02");
        assert_eq!(signature(&[0, 0, 1, 1]), None, "zero");
        assert_eq!(signature(&[1, 2, 3]), None);
        assert_eq!(signature(&[]), None);
    }
}
