//! Certificates out of PKCS#7 certs-only (RFC 5652 §5, RFC 8551 §3.8), as EST answers (RFC 7030
//! §4.1.3): `SignedData` without signers.
//!
//! Some servers write it in BER with indefinite lengths (X.690 §8.1.3.6); those are read, too, to a
//! bounded depth. The certificates in it are DER.

use crate::proto::der::{CONTEXT_0, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, SET};
use crate::proto::dtls::server::outline::Outline;

/// Certificates taken from one answer at most; more make it unreadable.
pub const CERTIFICATES_MAX: usize = 32;
/// How deep elements of indefinite length may stand in each other.
const DEPTH_MAX: usize = 16;
/// 1.2.840.113549.1.7.2, `id-signedData`
const SIGNED_DATA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02];

/// All certificates in it, in its order; each can be read as X.509. `None` if it is no PKCS#7, has
/// something else than certificates among them, or more than [`CERTIFICATES_MAX`].
pub fn certificates(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut outer = Ber(bytes);
    let mut content_info = Ber(outer.expect(SEQUENCE)?);
    if content_info.expect(OBJECT_IDENTIFIER)? != SIGNED_DATA {
        return None;
    }
    let mut explicit = Ber(content_info.expect(CONTEXT_0)?);
    let mut signed = Ber(explicit.expect(SEQUENCE)?);
    signed.expect(INTEGER)?; // version
    signed.expect(SET)?; // digestAlgorithms
    signed.expect(SEQUENCE)?; // encapContentInfo
    let mut found = Vec::new();
    let Some(element) = signed.element() else { return Some(found) };
    if element.tag != CONTEXT_0 {
        return Some(found);
    }
    let mut set = Ber(element.content);
    while !set.0.is_empty() {
        let element = set.element()?;
        if element.tag != SEQUENCE || found.len() == CERTIFICATES_MAX {
            return None;
        }
        Outline::read(element.whole)?;
        found.push(element.whole);
    }
    Some(found)
}

/// One element.
struct Element<'b> {
    tag: u8,
    content: &'b [u8],
    /// With tag and length.
    whole: &'b [u8],
}

/// Takes elements from the front of bytes, of definite or indefinite length.
struct Ber<'b>(&'b [u8]);

impl<'b> Ber<'b> {
    fn element(&mut self) -> Option<Element<'b>> {
        let (element, rest) = split(self.0, 0)?;
        self.0 = rest;
        Some(element)
    }

    fn expect(&mut self, tag: u8) -> Option<&'b [u8]> {
        self.element().filter(|element| element.tag == tag).map(|element| element.content)
    }
}

/// The first element and the bytes after it. Tags of one byte, definite lengths of up to four.
fn split(bytes: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    if tag & 0x1f == 0x1f || depth > DEPTH_MAX {
        return None;
    }
    let (length, behind) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x80 => return indefinite(bytes, tag, rest, depth),
        0x81..=0x84 => {
            let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), behind)
        }
        _ => return None,
    };
    let (content, after) = behind.split_at_checked(length)?;
    let whole = &bytes[..bytes.len() - after.len()];
    Some((Element { tag, content, whole }, after))
}

/// An element that ends with two zero bytes. Every level looks through what is in it once, so the
/// cost is the depth times the length.
fn indefinite<'b>(
    bytes: &'b [u8],
    tag: u8,
    content: &'b [u8],
    depth: usize,
) -> Option<(Element<'b>, &'b [u8])> {
    // Only constructed elements have one (X.690 §8.1.3.2).
    if tag & 0x20 == 0 {
        return None;
    }
    let mut left = content;
    loop {
        if let Some(after) = left.strip_prefix(&[0, 0]) {
            let whole = &bytes[..bytes.len() - after.len()];
            let content = &content[..content.len() - left.len()];
            return Some((Element { tag, content, whole }, after));
        }
        (_, left) = split(left, depth + 1)?;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn made(name: &str) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        [&[tag, 0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8], content].concat()
    }

    fn endless(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, 0x80], content, &[0, 0]].concat()
    }

    /// SignedData with these certificates; `wrap` writes the outer elements.
    pub fn signed_data(certificates: &[Vec<u8>], wrap: fn(u8, &[u8]) -> Vec<u8>) -> Vec<u8> {
        let oid = |last| element(OBJECT_IDENTIFIER, &[&SIGNED_DATA[..8], &[last][..]].concat());
        let data = wrap(SEQUENCE, &oid(1));
        let body = [
            element(INTEGER, &[1]),
            element(SET, &[]),
            data,
            wrap(CONTEXT_0, &certificates.concat()),
            element(SET, &[]),
        ];
        let signed = wrap(SEQUENCE, &body.concat());
        wrap(SEQUENCE, &[oid(2), wrap(CONTEXT_0, &signed)].concat())
    }

    pub fn definite(certificates: &[Vec<u8>]) -> Vec<u8> {
        signed_data(certificates, element)
    }

    #[test]
    fn certificates_come_in_their_order_in_either_form_of_length() {
        let ours = [made("a"), made("b"), made("c")];
        for bytes in [signed_data(&ours, element), signed_data(&ours, endless)] {
            assert_eq!(certificates(&bytes).unwrap(), ours);
        }
        assert_eq!(certificates(&signed_data(&[], element)).unwrap().len(), 0);
    }

    #[test]
    fn too_many_or_something_else_among_them_is_refused() {
        let one = made("a");
        assert!(certificates(&definite(&vec![one.clone(); CERTIFICATES_MAX])).is_some());
        assert!(certificates(&definite(&vec![one.clone(); CERTIFICATES_MAX + 1])).is_none());
        assert!(certificates(&definite(&[one.clone(), element(SET, &[])])).is_none());
        assert!(certificates(&definite(&[one.clone(), element(SEQUENCE, &[1])])).is_none());
        assert!(certificates(&one).is_none(), "a bare certificate");
        assert!(certificates(b"<html>").is_none());
    }

    #[test]
    fn nesting_without_end_is_refused_at_once() {
        let deep = [0x30, 0x80].repeat(100_000);
        assert!(certificates(&deep).is_none());
        let wrapped = signed_data(&[deep], endless);
        assert!(certificates(&wrapped).is_none());
    }

    #[test]
    fn cut_or_altered_bytes_never_panic() {
        for der in [definite(&[made("a")]), signed_data(&[made("a")], endless)] {
            for length in 0..der.len() {
                assert!(certificates(&der[..length]).is_none_or(|found| found.len() <= 1));
            }
            for place in 0..der.len() {
                for value in [0, 1, 0x30, 0x7F, 0x80, 0x84, 0xFF] {
                    let mut altered = der.clone();
                    altered[place] = value;
                    let _ = certificates(&altered);
                }
            }
        }
    }
}
