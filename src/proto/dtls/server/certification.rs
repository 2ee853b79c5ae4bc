//! The certification path (RFC 5280 §6.1) by which a certificate was verified. It is kept with the
//! session, so that the path can be checked again without the certificates: when the session is
//! established, at every reload, and when it is imported.
//!
//! The part above the device's own certificate is shared by all devices of one issuer.

use std::sync::{Arc, Weak};

use super::revocation::KeyId;
use super::wire::{Reader, Write as _};
use crate::clock::UnixTime;

/// The id of a CA: SHA-256 of its subject, key and name constraints. A CA whose certificate was
/// renewed with the same key has the same id.
pub(super) type AuthorityId = [u8; 32];

/// Most certificates of a path: more than rustls-webpki allows.
const LINKS_MAX: usize = 8;

/// One certificate of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The content of its issuer's DER `Name`.
    pub issuer: Box<[u8]>,
    /// The content of its DER `INTEGER`.
    pub serial: Box<[u8]>,
    pub not_after: UnixTime,
}

/// The part of a path above the device's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Above {
    /// From the device's issuer upwards; empty if that is the anchor.
    pub links: Box<[Link]>,
    /// The keys of the CAs, from the device's issuer up to the anchor: one more than links. Empty
    /// if it was stored by a version that did not keep them.
    pub keys: Box<[KeyId]>,
    pub anchor: AuthorityId,
}

/// The path of a device's certificate, without issuer and serial number of that.
#[derive(Clone, Debug)]
pub(super) struct CertificationPath {
    pub above: Arc<Above>,
    /// notAfter of the device's own certificate.
    pub not_after: UnixTime,
}

impl CertificationPath {
    /// The earliest notAfter of the path.
    pub fn ends(&self) -> UnixTime {
        self.above.links.iter().map(|link| link.not_after).fold(self.not_after, UnixTime::min)
    }

    /// Appends it: notAfter 8, anchor 32, number of links 1, each notAfter 8, issuer (a vector with
    /// a length of 2), serial number (the same); the ids of the keys 16 each, if they are known.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.not_after.0.to_be_bytes());
        out.extend(self.above.anchor);
        out.push(self.above.links.len() as u8);
        for link in &self.above.links {
            out.extend(link.not_after.0.to_be_bytes());
            out.vector16(&link.issuer);
            out.vector16(&link.serial);
        }
        out.extend(self.above.keys.as_flattened());
    }

    /// `has_keys`: the ids of the keys stand behind it.
    pub fn read(reader: &mut Reader<'_>, has_keys: bool, paths: &mut Paths) -> Option<CertificationPath> {
        let not_after = UnixTime(reader.u64()?);
        let anchor = *reader.array()?;
        let count = usize::from(reader.u8()?);
        if count > LINKS_MAX {
            return None;
        }
        let mut links = Vec::with_capacity(count);
        for _ in 0..count {
            let not_after = UnixTime(reader.u64()?);
            let (issuer, serial) = (reader.vector16()?.into(), reader.vector16()?.into());
            links.push(Link { issuer, serial, not_after });
        }
        let mut keys = Vec::new();
        for _ in 0..if has_keys { count + 1 } else { 0 } {
            keys.push(*reader.array()?);
        }
        let above = paths.share(Above { links: links.into(), keys: keys.into(), anchor });
        Some(CertificationPath { above, not_after })
    }
}

/// Most shared parts; beyond it each session has its own copy.
const MOST: usize = 64;

/// One copy of each shared part. It is dropped with the last session that uses it.
#[derive(Default)]
pub(super) struct Paths(Vec<Weak<Above>>);

impl Paths {
    /// The shared copy of `above`. Called only for verified paths, so that strangers cannot fill
    /// it.
    pub fn share(&mut self, above: Above) -> Arc<Above> {
        self.0.retain(|known| known.strong_count() > 0);
        if let Some(known) = self.0.iter().filter_map(Weak::upgrade).find(|known| **known == above) {
            return known;
        }
        let above = Arc::new(above);
        if self.0.len() < MOST {
            self.0.push(Arc::downgrade(&above));
        }
        above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(links: usize) -> CertificationPath {
        let link = |n: usize| Link {
            issuer: vec![n as u8; n].into(),
            serial: vec![1, n as u8].into(),
            not_after: UnixTime(1_000 - n as u64),
        };
        let keys = (0..=links).map(|n| [n as u8; 16]).collect();
        let above = Above { links: (1..=links).map(link).collect(), keys, anchor: [7; 32] };
        CertificationPath { above: Arc::new(above), not_after: UnixTime(999) }
    }

    #[test]
    fn a_path_is_read_as_it_was_written_and_ends_with_its_first_certificate_that_ends() {
        for links in 0..=LINKS_MAX {
            let path = path(links);
            assert_eq!(path.ends(), UnixTime(if links > 1 { 1_000 - links as u64 } else { 999 }));
            let (mut bytes, mut paths) = (Vec::new(), Paths::default());
            path.write(&mut bytes);
            let mut reader = Reader(&bytes);
            let read = CertificationPath::read(&mut reader, true, &mut paths).unwrap();
            assert_eq!((reader.end(), read.not_after, &read.above), (Some(()), path.not_after, &path.above));
            let again = CertificationPath::read(&mut Reader(&bytes), true, &mut paths).unwrap();
            assert!(Arc::ptr_eq(&again.above, &read.above));
            for end in 0..bytes.len() {
                assert!(CertificationPath::read(&mut Reader(&bytes[..end]), true, &mut paths).is_none());
            }
        }
        // As version 1.1 stored it.
        let mut before = path(2);
        before.above = Arc::new(Above { keys: Box::default(), ..(*before.above).clone() });
        let mut bytes = Vec::new();
        before.write(&mut bytes);
        let mut reader = Reader(&bytes);
        let read = CertificationPath::read(&mut reader, false, &mut Paths::default()).unwrap();
        assert_eq!((reader.end(), &read.above), (Some(()), &before.above));
        let mut bytes = Vec::new();
        path(LINKS_MAX + 1).write(&mut bytes);
        assert!(CertificationPath::read(&mut Reader(&bytes), true, &mut Paths::default()).is_none());
    }
}
