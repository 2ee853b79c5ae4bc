//! Whether an issued chain may be tried: everything that can be known without the peer it is for.
//!
//! Each refusal is one sentence that names what is wrong. What passes is staged and tried with a
//! real connection ([`renewal`](super::renewal)).

use std::fmt;
use std::time::Duration;

use webpki::{EndEntityCert, KeyUsage};

use super::decision::NEVER;
use super::leaf::{Leaf, Usage, name_text};
use crate::clock::UnixTime;

/// Most certificates of a chain.
pub const CHAIN_MAX: usize = 8;
/// Most bytes of a chain.
pub const BYTES_MAX: usize = 64 * 1024;
/// So far the clocks of this gateway and of its issuer may differ.
pub const SKEW: Duration = Duration::from_secs(300);
/// A new certificate has to be valid for so long at least.
const LEAST_REST: Duration = Duration::from_secs(30);

/// What a new certificate has to keep of the present one. Both hold where the present one serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demands {
    /// Subject and alternative names are the same: a broker may go by them.
    pub identity: bool,
    /// It expires later.
    pub longer: bool,
}

impl Demands {
    /// All of it.
    pub const ALL: Demands = Demands { identity: true, longer: true };
}

/// What the chain is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The public key that was asked for: the content of its SubjectPublicKeyInfo.
    pub key: &'a [u8],
    /// The chain in use, leaf first, DER; empty: there is none.
    pub present: &'a [Vec<u8>],
    /// What it has to keep of the one in use.
    pub demands: Demands,
    /// CA certificates that the source offers; they complete a chain.
    pub offered: &'a [Vec<u8>],
    /// What it is for.
    pub usage: Usage,
    /// The time, if it is trusted.
    pub now: Option<UnixTime>,
}

/// Why a chain is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No certificate.
    Empty,
    /// More than [`CHAIN_MAX`] certificates or [`BYTES_MAX`] bytes.
    TooLarge,
    /// The certificate with this number, from 1, cannot be read.
    Unreadable(usize),
    /// X.509 version 1 or 2.
    Version(u8),
    /// It is a CA's.
    Authority,
    /// It has another public key than was asked for.
    OtherKey,
    /// Its extended key usage does not have this.
    Purpose(Usage),
    /// Its key usage has no digitalSignature.
    KeyUsage,
    /// Its subject is another one than before: before, now.
    Subject(String, String),
    /// Its alternative names are others than before.
    Names,
    /// It is not valid before this time.
    NotYet(UnixTime),
    /// It expired, or does within half a minute.
    Expired(UnixTime),
    /// It expires no later than the one in use: the new one's end, the old one's.
    Shorter(UnixTime, UnixTime),
    /// The certificate with this number, from 1, was not issued by the next one.
    Order(usize),
    /// This issuer's certificate is missing, and the chain in use has it.
    MissingIntermediate(String),
    /// Its signatures do not hold: what rustls-webpki says.
    Path(String),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Empty => f.write_str("the answer has no certificate"),
            Flaw::TooLarge => {
                write!(f, "the chain has more than {CHAIN_MAX} certificates or {BYTES_MAX} bytes")
            }
            Flaw::Unreadable(number) => write!(f, "certificate {number} of the chain cannot be read"),
            Flaw::Version(version) => {
                write!(f, "it is X.509 version {version}, which TLS refuses; issue version 3")
            }
            Flaw::Authority => f.write_str("it is the certificate of a CA, not one for this gateway"),
            Flaw::OtherKey => f.write_str("it has another public key than the one that was asked for"),
            Flaw::Purpose(usage) => {
                write!(f, "its extended key usage does not have {}, which it is for", usage.as_str())
            }
            Flaw::KeyUsage => {
                f.write_str("its key usage does not have digitalSignature, which a handshake needs")
            }
            Flaw::Subject(before, now) => {
                write!(f, "its subject is \"{now}\", and the present one's is \"{before}\"")
            }
            Flaw::Names => f.write_str("its subject alternative names are not those of the present one"),
            Flaw::NotYet(time) => write!(
                f,
                "it is not valid before {time} by the clock of this gateway; compare that of its CA"
            ),
            Flaw::Expired(time) => write!(f, "it is not valid after {time}"),
            Flaw::Shorter(new, old) => {
                write!(f, "it expires on {new}, no later than the present one, which expires on {old}")
            }
            Flaw::Order(number) => {
                write!(f, "certificate {number} of the chain was not issued by the one after it")
            }
            Flaw::MissingIntermediate(name) => {
                write!(f, "the chain does not have the certificate of its issuer \"{name}\"")
            }
            Flaw::Path(what) => write!(f, "the signatures of the chain do not hold: {what}"),
        }
    }
}

impl std::error::Error for Flaw {}

/// Judges an issued chain, and completes it with the issuers that the source offers or that the
/// present chain has. Returns it, leaf first; a root at its end is left out, since it proves
/// nothing.
///
/// # Errors
/// [`Flaw`], the first one.
pub fn judge(issued: &[Vec<u8>], expected: &Expected<'_>) -> Result<Vec<Vec<u8>>, Flaw> {
    let first = issued.first().ok_or(Flaw::Empty)?;
    if issued.len() > CHAIN_MAX || issued.iter().map(Vec::len).sum::<usize>() > BYTES_MAX {
        return Err(Flaw::TooLarge);
    }
    let leaf = Leaf::parse(first).ok_or(Flaw::Unreadable(1))?;
    if leaf.version != 3 {
        return Err(Flaw::Version(leaf.version));
    }
    if leaf.is_ca {
        return Err(Flaw::Authority);
    }
    if leaf.key != expected.key {
        return Err(Flaw::OtherKey);
    }
    if !leaf.allows(expected.usage) {
        return Err(Flaw::Purpose(expected.usage));
    }
    if !leaf.may_sign() {
        return Err(Flaw::KeyUsage);
    }
    let present = expected.present.first().and_then(|der| Leaf::parse(der));
    if let Some(present) = present.as_ref().filter(|_| expected.demands.identity) {
        judge_identity(&leaf, present)?;
    }
    judge_dates(&leaf, present.as_ref().filter(|_| expected.demands.longer), expected.now)?;
    let chain = complete(issued, expected)?;
    verify(&chain, &leaf, expected.usage)?;
    Ok(without_root(chain))
}

fn judge_identity(leaf: &Leaf, present: &Leaf) -> Result<(), Flaw> {
    if leaf.subject != present.subject {
        return Err(Flaw::Subject(present.subject_text(), leaf.subject_text()));
    }
    match sorted(leaf.names.as_deref()) == sorted(present.names.as_deref()) {
        true => Ok(()),
        false => Err(Flaw::Names),
    }
}

/// The names one by one; their order means nothing.
fn sorted(names: Option<&[u8]>) -> Vec<(u8, Vec<u8>)> {
    use crate::proto::der::{Der, SEQUENCE};
    let mut list = Der(names.and_then(|names| Der(names).expect(SEQUENCE)).unwrap_or_default());
    let mut sorted = Vec::new();
    while let Some((tag, content)) = list.element() {
        sorted.push((tag, content.to_vec()));
    }
    sorted.sort();
    sorted
}

fn judge_dates(leaf: &Leaf, present: Option<&Leaf>, now: Option<UnixTime>) -> Result<(), Flaw> {
    let validity = leaf.validity;
    let later = |time: UnixTime, by: Duration| {
        UnixTime(time.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    };
    if validity.not_after <= validity.not_before {
        return Err(Flaw::Expired(validity.not_after));
    }
    if let Some(now) = now {
        if validity.not_before > later(now, SKEW) {
            return Err(Flaw::NotYet(validity.not_before));
        }
        if validity.not_after < later(now, LEAST_REST) {
            return Err(Flaw::Expired(validity.not_after));
        }
    }
    let end = present.map(Leaf::not_after).filter(|end| *end < NEVER);
    match end {
        Some(end) if validity.not_after <= end => Err(Flaw::Shorter(validity.not_after, end)),
        _ => Ok(()),
    }
}

/// Puts the chain in order as it was sent, and appends what is missing and known.
fn complete(issued: &[Vec<u8>], expected: &Expected<'_>) -> Result<Vec<Vec<u8>>, Flaw> {
    let mut chain: Vec<Vec<u8>> = Vec::new();
    let mut top: Option<Leaf> = None;
    for (number, der) in (1..).zip(issued) {
        let read = Leaf::parse(der).ok_or(Flaw::Unreadable(number))?;
        if top.as_ref().is_some_and(|below| below.issuer != read.subject) {
            return Err(Flaw::Order(number - 1));
        }
        chain.push(der.clone());
        top = Some(read);
    }
    let known = || expected.offered.iter().chain(expected.present.iter().skip(1));
    while let Some(below) = top.take().filter(|top| top.issuer != top.subject) {
        let issuer = known().find(|der| Leaf::parse(der).is_some_and(|known| known.subject == below.issuer));
        if chain.len() >= CHAIN_MAX {
            break;
        }
        if let Some(issuer) = issuer {
            top = Leaf::parse(issuer);
            chain.push(issuer.clone());
        } else if chain.len() == 1 && expected.present.len() > 1 {
            return Err(Flaw::MissingIntermediate(name_text(&below.issuer)));
        }
    }
    Ok(chain)
}

/// Each certificate was signed by the next. The last is taken as it is: whom the peer trusts, only
/// the peer knows.
fn verify(chain: &[Vec<u8>], leaf: &Leaf, usage: Usage) -> Result<(), Flaw> {
    let [first, between @ .., last] = chain else { return Ok(()) };
    let path = |error: webpki::Error| Flaw::Path(error.to_string());
    let last = rustls_pki_types::CertificateDer::from(&last[..]);
    let anchor = webpki::anchor_from_trusted_cert(&last).map_err(path)?;
    let first = rustls_pki_types::CertificateDer::from(&first[..]);
    let between: Vec<_> =
        between.iter().map(|der| rustls_pki_types::CertificateDer::from(&der[..])).collect();
    let usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    // The dates of the leaf are judged already; those above it are the peer's to judge.
    let time = Duration::from_secs(leaf.validity.not_before.as_secs().max(latest_begin(&between)));
    let time = rustls_pki_types::UnixTime::since_unix_epoch(time);
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    EndEntityCert::try_from(&first)
        .and_then(|end| {
            end.verify_for_usage(algorithms, &[anchor], &between, time, usage, None, None).map(drop)
        })
        .map_err(path)
}

fn latest_begin(between: &[rustls_pki_types::CertificateDer<'_>]) -> u64 {
    let begins = between.iter().filter_map(|der| Some(Leaf::parse(der)?.validity.not_before.as_secs()));
    begins.max().unwrap_or(0)
}

fn without_root(mut chain: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let is_root = |der: &Vec<u8>| Leaf::parse(der).is_some_and(|last| last.subject == last.issuer);
    if chain.len() > 1 && chain.last().is_some_and(is_root) {
        chain.pop();
    }
    chain
}

#[cfg(test)]
mod tests;
