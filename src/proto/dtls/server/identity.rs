//! The identity from a verified certificate, stored compactly because there may be thousands: names
//! and serial number in one allocation, and the issuer's name shared by all its devices.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::certification::{CertificationPath, Paths};
use super::name::common_name;
use super::schedule::hash;
use super::wire::{Reader, Write as _};

/// The types of pieces of a [`CertificateIdentity`].
const URI: u8 = 0;
const DNS: u8 = 1;
const COMMON_NAME: u8 = 2;
const SERIAL: u8 = 3;

/// The identity in a verified certificate. The path is ignored for equality.
#[derive(Clone)]
pub struct CertificateIdentity {
    /// The issuer's name: the content of its DER `Name`.
    pub issuer: Arc<[u8]>,
    /// SHA-256 of the DER SubjectPublicKeyInfo.
    pub key_hash: [u8; 32],
    /// Pieces, each with type 1, length 2, content.
    pieces: Box<[u8]>,
    /// The path by which it was verified.
    path: Option<CertificationPath>,
}

impl PartialEq for CertificateIdentity {
    fn eq(&self, other: &CertificateIdentity) -> bool {
        (&self.issuer, self.key_hash, &self.pieces) == (&other.issuer, other.key_hash, &other.pieces)
    }
}

impl Eq for CertificateIdentity {}

impl Hash for CertificateIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.issuer, self.key_hash, &self.pieces).hash(state);
    }
}

impl CertificateIdentity {
    /// The identity in `leaf`, which must have been verified by `path`.
    pub(super) fn of(leaf: &EndEntityCert<'_>, path: Option<CertificationPath>) -> CertificateIdentity {
        let common_name = common_name(leaf.subject());
        let names = leaf.valid_uri_names().map(|name| (URI, name.as_bytes()));
        let names = names.chain(leaf.valid_dns_names().map(|name| (DNS, name.as_bytes())));
        let names = names.chain(common_name.iter().map(|name| (COMMON_NAME, name.as_bytes())));
        let pieces = names.chain([(SERIAL, leaf.serial())]);
        let key_hash = hash(&leaf.subject_public_key_info());
        CertificateIdentity::from_pieces(pieces, leaf.issuer().into(), key_hash, path)
    }

    /// The identity in a certificate in DER that another verifier, that of TLS, has verified.
    /// `None` if it cannot be read.
    pub fn of_verified(der: &[u8]) -> Option<CertificateIdentity> {
        let der = CertificateDer::from(der);
        let leaf = EndEntityCert::try_from(&der).ok()?;
        Some(CertificateIdentity::of(&leaf, None))
    }

    /// An identity with these names, for tests; names of more than 65,535 bytes are omitted. The
    /// engine makes identities only from verified certificates.
    pub fn new<'n>(
        uris: impl IntoIterator<Item = &'n str>,
        dns_names: impl IntoIterator<Item = &'n str>,
        common_name: Option<&'n str>,
        issuer: Arc<[u8]>,
        serial: &'n [u8],
        key_hash: [u8; 32],
    ) -> CertificateIdentity {
        let names = uris.into_iter().map(|name| (URI, name));
        let names = names.chain(dns_names.into_iter().map(|name| (DNS, name)));
        let names = names.chain(common_name.map(|name| (COMMON_NAME, name)));
        let pieces = names.map(|(kind, name)| (kind, name.as_bytes())).chain([(SERIAL, serial)]);
        let pieces = pieces.filter(|(_, piece)| piece.len() <= usize::from(u16::MAX));
        CertificateIdentity::from_pieces(pieces, issuer, key_hash, None)
    }

    fn from_pieces<'p>(
        pieces: impl Iterator<Item = (u8, &'p [u8])>,
        issuer: Arc<[u8]>,
        key_hash: [u8; 32],
        path: Option<CertificationPath>,
    ) -> CertificateIdentity {
        let mut bytes = Vec::new();
        for (kind, piece) in pieces {
            bytes.push(kind);
            // A certificate has at most 16 kB.
            bytes.vector16(piece);
        }
        CertificateIdentity { issuer, key_hash, pieces: bytes.into(), path }
    }

    /// The path by which it was verified; `None` if it was not, or if it was stored by a version
    /// that did not keep it.
    pub(super) fn path(&self) -> Option<&CertificationPath> {
        self.path.as_ref()
    }

    fn pieces(&self, wanted: u8) -> impl Iterator<Item = &[u8]> + Clone {
        let mut reader = Reader(&self.pieces);
        let all = std::iter::from_fn(move || Some((reader.u8()?, reader.vector16()?)));
        all.filter(move |(kind, _)| *kind == wanted).map(|(_, piece)| piece)
    }

    fn names(&self, wanted: u8) -> impl Iterator<Item = &str> + Clone {
        self.pieces(wanted).filter_map(|piece| std::str::from_utf8(piece).ok())
    }

    /// URIs of the subject alternative name, in their order.
    pub fn uris(&self) -> impl Iterator<Item = &str> + Clone {
        self.names(URI)
    }

    /// DNS names of the subject alternative name, in their order.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.names(DNS)
    }

    /// The common name of the subject, if it has exactly one.
    pub fn common_name(&self) -> Option<&str> {
        self.names(COMMON_NAME).next()
    }

    /// The serial number: the content of its DER `INTEGER`.
    pub fn serial(&self) -> &[u8] {
        self.pieces(SERIAL).next().unwrap_or_default()
    }

    /// Appends it, as [`CertificateIdentity::read`] takes it: URIs, DNS names (each a count 2 and
    /// vectors with a length of 2), whether there is a common name 1, vectors of that, issuer and
    /// serial number, key hash 32. The path stands behind it, if it is known:
    /// [`CertificationPath::write`].
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for kind in [URI, DNS] {
            out.extend((self.pieces(kind).count() as u16).to_be_bytes());
            self.pieces(kind).for_each(|name| out.vector16(name));
        }
        out.push(u8::from(self.common_name().is_some()));
        out.vector16(self.common_name().unwrap_or_default().as_bytes());
        out.vector16(&self.issuer);
        out.vector16(self.serial());
        out.extend(self.key_hash);
        if let Some(path) = &self.path {
            path.write(out);
        }
    }

    /// `has_path`: one stands behind it, and `has_keys`: with the ids of the keys.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        has_path: bool,
        has_keys: bool,
        issuers: &mut Issuers,
        paths: &mut Paths,
    ) -> Option<CertificateIdentity> {
        let mut pieces = Vec::new();
        for kind in [URI, DNS] {
            for _ in 0..reader.u16()? {
                pieces.push((kind, reader.vector16()?));
            }
        }
        let has_common_name = reader.u8()? == 1;
        let common_name = reader.vector16()?;
        pieces.extend(has_common_name.then_some((COMMON_NAME, common_name)));
        if pieces.iter().any(|(_, name)| std::str::from_utf8(name).is_err()) {
            return None;
        }
        let issuer = issuers.share(reader.vector16()?);
        pieces.push((SERIAL, reader.vector16()?));
        let key_hash = *reader.array()?;
        let path = if has_path { Some(CertificationPath::read(reader, has_keys, paths)?) } else { None };
        Some(CertificateIdentity::from_pieces(pieces.into_iter(), issuer, key_hash, path))
    }
}

impl fmt::Debug for CertificateIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateIdentity({self})")
    }
}

/// Most shared names; sessions of further issuers have their own copies.
const MOST: usize = 64;

/// One shared copy of each issuer's name. A name is dropped with the last session that uses it.
#[derive(Default)]
pub(super) struct Issuers(Vec<Weak<[u8]>>);

impl Issuers {
    /// The shared copy of `name`. Called only for issuers with a verified path.
    pub fn share(&mut self, name: &[u8]) -> Arc<[u8]> {
        self.0.retain(|known| known.strong_count() > 0);
        if let Some(known) = self.0.iter().filter_map(Weak::upgrade).find(|known| **known == *name) {
            return known;
        }
        let name = Arc::from(name);
        if self.0.len() < MOST {
            self.0.push(Arc::downgrade(&name));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_written_and_read_with_and_without_each_name() {
        let all = [
            (URI, &b"urn:a"[..]),
            (URI, b""),
            (DNS, b"b.example"),
            (COMMON_NAME, b"c"),
            (SERIAL, b"\x01\x02"),
        ];
        for without in 0..=all.len() {
            let pieces = all.iter().enumerate().filter(|(at, _)| *at != without).map(|(_, piece)| *piece);
            let identity = CertificateIdentity::from_pieces(pieces, b"issuer"[..].into(), [7; 32], None);
            assert_eq!(identity.uris().count(), if without < 2 { 1 } else { 2 });
            assert_eq!(identity.dns_names().next(), (without != 2).then_some("b.example"));
            assert_eq!(identity.common_name(), (without != 3).then_some("c"));
            assert_eq!(identity.serial(), if without == 4 { &[][..] } else { &[1, 2] });
            let (mut bytes, mut issuers) = (Vec::new(), Issuers::default());
            identity.write(&mut bytes);
            let mut reader = Reader(&bytes);
            let mut paths = Paths::default();
            let read =
                CertificateIdentity::read(&mut reader, false, false, &mut issuers, &mut paths).unwrap();
            assert_eq!(reader.end(), Some(()));
            // What is not there is not told from what is empty only for the serial number, which
            // always is.
            assert!(read == identity || without == 4);
            for end in 0..bytes.len() {
                let mut reader = Reader(&bytes[..end]);
                assert!(
                    CertificateIdentity::read(&mut reader, false, false, &mut issuers, &mut paths).is_none()
                );
            }
        }
    }

    #[test]
    fn equal_names_are_one_and_go_with_their_last_user() {
        let mut issuers = Issuers::default();
        let one = issuers.share(b"one");
        assert!(Arc::ptr_eq(&one, &issuers.share(b"one")));
        let more: Vec<_> = (0..100u8).map(|n| issuers.share(&[n])).collect();
        assert_eq!((issuers.0.len(), &*more[99]), (MOST, &[99][..]));
        drop((one, more));
        issuers.share(b"two");
        assert_eq!(issuers.0.len(), 1);
    }
}
