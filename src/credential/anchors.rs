//! The CAs of the broker that an EST server offers (RFC 7030 §4.1), for `trust = "est"`.
//!
//! | a CA | is trusted |
//! |---|---|
//! | newly offered | at once, beside those before: it takes nothing away |
//! | not offered any more | for [`OVERLAP`] more, and until a connection has shown that the broker's chain leads to one that is still offered |
//! | offered again | as before |
//!
//! So a roll-over on either side, the CA first or the broker first, never shuts the gateway out.
//! What is offered counts only where the EST server itself was verified.

use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::leaf::Leaf;
use super::store::{chain_pem, sealed, unsealed};
use crate::clock::UnixTime;

/// The file of them in the certificate's folder: PEM, with a line of what is known of each.
pub const FILE: &str = "anchors.pem";
/// Most of them.
pub const ANCHORS_MAX: usize = 16;
/// How long one that is not offered any more is kept at least.
pub const OVERLAP: Duration = Duration::from_secs(30 * 86_400);
/// What precedes what is known of one.
const WITHDRAWN: &str = "withdrawn since ";

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// DER.
    pub der: Vec<u8>,
    /// Since when it has not been offered any more; `None`: it is offered.
    pub withdrawn: Option<UnixTime>,
}

impl Anchor {
    /// Its subject.
    pub fn name(&self) -> String {
        Leaf::parse(&self.der).map_or_else(|| "a CA".to_owned(), |leaf| leaf.subject_text())
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnchorSet {
    anchors: Vec<Anchor>,
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The names of those that are trusted now.
    pub added: Vec<String>,
    /// The names of those that are not offered any more.
    pub withdrawn: Vec<String>,
}

impl AnchorSet {
    /// All of them.
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// What the EST server offers now. Without a clock nothing is withdrawn: its time would begin
    /// at an unknown moment.
    ///
    /// # Errors
    /// Nothing of it can be an anchor, or there are too many.
    pub fn offer(&mut self, now: Option<UnixTime>, offered: &[Vec<u8>]) -> Result<Change, String> {
        let offered: Vec<&Vec<u8>> = offered.iter().filter(|der| is_root(der)).collect();
        if offered.is_empty() {
            return Err("the EST server offers no self-signed CA certificate".to_owned());
        }
        let known = |der: &Vec<u8>| self.anchors.iter().any(|anchor| anchor.der == *der);
        let new: Vec<Vec<u8>> = offered.iter().filter(|der| !known(der)).map(|der| (*der).clone()).collect();
        if self.anchors.len() + new.len() > ANCHORS_MAX {
            return Err(format!("the EST server offers ever new CAs; at most {ANCHORS_MAX} are kept"));
        }
        let mut change = Change::default();
        for anchor in &mut self.anchors {
            if offered.contains(&&anchor.der) {
                anchor.withdrawn = None;
            } else if anchor.withdrawn.is_none() && now.is_some() {
                anchor.withdrawn = now;
                change.withdrawn.push(anchor.name());
            }
        }
        for der in new {
            let anchor = Anchor { der, withdrawn: None };
            change.added.push(anchor.name());
            self.anchors.push(anchor);
        }
        Ok(change)
    }

    /// Those that are still offered, if another one could go by now: a connection has to show that
    /// they suffice.
    pub fn to_prove(&self, now: UnixTime) -> Option<Vec<Vec<u8>>> {
        let is_over = |anchor: &Anchor| {
            let overlap = u64::try_from(OVERLAP.as_millis()).unwrap_or(u64::MAX);
            anchor.withdrawn.is_some_and(|since| now.0.saturating_sub(overlap) >= since.0)
        };
        self.anchors.iter().any(is_over).then(|| {
            let kept = self.anchors.iter().filter(|anchor| !is_over(anchor));
            kept.map(|anchor| anchor.der.clone()).collect()
        })
    }

    /// Those in `proven` suffice: the others go. The names of those that went.
    pub fn keep(&mut self, proven: &[Vec<u8>]) -> Vec<String> {
        let (kept, gone) = self.anchors.drain(..).partition(|anchor| proven.contains(&anchor.der));
        self.anchors = kept;
        let gone: Vec<Anchor> = gone;
        gone.iter().map(Anchor::name).collect()
    }

    /// As it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        for anchor in &self.anchors {
            if let Some(since) = anchor.withdrawn {
                let _ = writeln!(text, "{WITHDRAWN}{} {}", since.0, id(&anchor.der));
            }
        }
        let ders: Vec<Vec<u8>> = self.anchors.iter().map(|anchor| anchor.der.clone()).collect();
        text.push_str(&chain_pem(&ders));
        sealed(&text).to_vec()
    }

    /// Reads [`AnchorSet::to_bytes`].
    ///
    /// # Errors
    /// Why it is not what was written, in half a sentence.
    pub fn parse(bytes: &[u8]) -> Result<AnchorSet, String> {
        let bytes = unsealed(bytes)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
        let ders: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
        let ders = ders.map_err(|_| "its certificates cannot be read")?;
        let withdrawn = |der: &[u8]| {
            let id = id(der);
            let lines = text.lines().filter_map(|line| line.strip_prefix(WITHDRAWN)?.split_once(' '));
            let mut own = lines.filter(|(_, of)| *of == id);
            own.next().and_then(|(since, _)| since.parse().ok()).map(UnixTime)
        };
        let anchor = |der: CertificateDer<'_>| Anchor { withdrawn: withdrawn(&der), der: der.to_vec() };
        Ok(AnchorSet { anchors: ders.into_iter().map(anchor).collect() })
    }
}

fn id(der: &[u8]) -> String {
    crate::hex::format_hex(digest::digest(&digest::SHA256, der).as_ref())
}

/// Whether it can be an anchor: a CA that names itself as its issuer.
fn is_root(der: &[u8]) -> bool {
    Leaf::parse(der).is_some_and(|leaf| leaf.is_ca && leaf.subject == leaf.issuer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn day(n: u64) -> UnixTime {
        UnixTime::from_secs(1_800_000_000 + n * 86_400)
    }

    #[test]
    fn a_new_ca_is_trusted_beside_the_old_one_which_goes_only_late_and_only_proven() {
        let (old, new) = (root("Old"), root("New"));
        let mut set = AnchorSet::default();
        assert_eq!(set.offer(Some(day(0)), std::slice::from_ref(&old)).unwrap().added, ["CN=Old"]);
        let both = [old.clone(), new.clone()];
        assert_eq!(set.offer(Some(day(10)), &both).unwrap().added, ["CN=New"]);
        assert_eq!(set.to_prove(day(400)), None, "both are offered");
        let change = set.offer(Some(day(20)), std::slice::from_ref(&new)).unwrap();
        assert_eq!(change.withdrawn, ["CN=Old"]);
        assert_eq!(set.anchors().len(), 2, "it is still trusted");
        assert_eq!(set.to_prove(day(49)), None);
        assert_eq!(set.to_prove(day(50)), Some(vec![new.clone()]));
        // Not proven: it stays. Offered again: its time is forgotten.
        let mut again = set.clone();
        again.offer(Some(day(60)), &both).unwrap();
        assert_eq!(again.to_prove(day(400)), None);
        assert_eq!(set.keep(&[new]), ["CN=Old"]);
        assert_eq!(set.anchors().len(), 1);
    }

    #[test]
    fn an_untrusted_clock_withdraws_nothing() {
        let (old, new) = (root("Old"), root("New"));
        let mut set = AnchorSet::default();
        set.offer(None, &[old]).unwrap();
        assert_eq!(set.offer(None, &[new]).unwrap().withdrawn, [""; 0]);
        assert_eq!(set.to_prove(day(9_999)), None);
    }

    #[test]
    fn what_is_no_root_is_no_anchor_and_their_number_is_bounded() {
        let mut set = AnchorSet::default();
        let leaf = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
        let leaf = leaf.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        assert!(set.offer(None, &[leaf, b"junk".to_vec()]).is_err());
        let many: Vec<_> = (0..=ANCHORS_MAX).map(|n| root(&format!("{n}"))).collect();
        assert!(set.offer(None, &many).is_err());
        assert!(set.anchors().is_empty(), "none of them is taken");
    }

    #[test]
    fn what_is_stored_is_read_again_and_damage_is_seen() {
        let mut set = AnchorSet::default();
        set.offer(Some(day(0)), &[root("Old"), root("Other")]).unwrap();
        set.offer(Some(day(1)), &[root("New")]).unwrap();
        let bytes = set.to_bytes();
        assert_eq!(AnchorSet::parse(&bytes), Ok(set));
        let mut damaged = bytes.clone();
        let at = damaged.len() - 60;
        damaged[at] ^= 1;
        assert!(AnchorSet::parse(&damaged).is_err());
        for length in 0..bytes.len() {
            assert!(AnchorSet::parse(&bytes[..length]).is_err());
        }
    }
}
