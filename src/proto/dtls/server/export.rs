//! Export and import of sessions: written when established, restored at the next start.
//!
//! An export does not change during the session, so a session costs one write. That is safe because
//! an import does not depend on counters in it: nonces are drawn again
//! ([`protection`](super::protection)), the record numbers continue far above any that can have
//! been used, and records of the peer are not accepted until it has proved that it is present
//! ([`resume`](super::resume)). So an older copy of the file, or the same file on two hosts,
//! repeats no nonce and accepts no record twice.
//!
//! With ChaCha20-Poly1305 that does not hold, because its nonces are the record numbers. Such a
//! session is stored only so that its device can be sent a fatal alert, which is the same in every
//! process and has a record number that no other record has
//! ([`seal_farewell`](super::protection::Protection::seal_farewell)). The same alert is sent for
//! sessions that could be decrypted and are no longer valid.
//!
//! ```text
//! sealed:   "TBDS" | major 1 | minor 2 | nonce 12 | AES-256-GCM-SIV over what follows, under the store's key;
//!           additional data: the six bytes in front
//! content:  suite 2 | flags 1 (1: EMS, 2: connection id, 4: at an unproven address, 8: handover, 16: in doubt, 32: dated)
//!           | own cid 8 if flag 2 | peer cid <0..255>
//!           | limit 2 | key block <0..88> | next number 8 | window 8 | random 8 | seconds since established 8
//!           | seconds idle 8 | address 4 or 16 <..> | port 2 | scope 4 | local <0, 4 or 16> | socket 2
//!           | identity type 1 and <..> | binding 16 | when established, in milliseconds since 1970 8 if flag 32
//! handover: the same, and | window's bits 8 | forged records 8 | next number of epoch 0 8 | our Finished <0 or 12>
//! ```
//! Only sessions exported while the clock was trusted have a date: one computed from an earlier
//! time would make the session appear older than it is when the clock is corrected. The binding
//! ties the session to its credential: the pre-shared key, raw public key or anchor. Minor version
//! 0 had no flag 32, and certificates (identity type 2; now 4) without their path. Such a session
//! is not resumed. Minor version 1 had paths without the ids of their keys (identity type 3), which
//! are then judged by the CAs' names.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{self, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::aead::Aead;
use super::certificate::Lapse;
use super::certification::Paths;
use super::identity::{CertificateIdentity, Issuers};
use super::protection::{Keys, Protection};
use super::replay::Window;
use super::resume::Doubt;
use super::session::{Farewell, Peer, Session, Stage};
use super::suites::Suite;
use super::wire::{Reader, Write as _};
use super::{Common, ServerEngine};
use crate::proto::dtls::engine::{CloseCause, PeerIdentity, SessionId, Sink};
use crate::proto::dtls::peer_address::PeerAddress;
use crate::proto::dtls::session_table::Phase;
use crate::proto::{Holder, Route};

const MAGIC: [u8; 4] = *b"TBDS";
const MAJOR: u8 = 1;
const MINOR: u8 = 2;
const FRONT: usize = MAGIC.len() + 2;
/// The offset of the record numbers per run: more than a process sends to a peer, so that the peer
/// has not seen them.
const LEAP: u64 = 1 << 28;
const EMS: u8 = 1;
const CID: u8 = 2;
const UNPROVEN: u8 = 4;
const HANDOVER: u8 = 8;
const DOUBTED: u8 = 16;
const DATED: u8 = 32;

/// The purpose of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be stored, and imported by any later process, possibly several times.
    Store,
    /// For the process that replaces this one; this process stops using the session.
    Handover,
}

/// The origin of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From a store. The number of starts since the export, including this one; 0 counts as 1.
    Store {
        /// The number of starts.
        runs: u32,
    },
    /// From the previous process; there is no other copy.
    Handover,
}

/// The key that seals sessions: 32 random bytes of the state directory.
pub struct StoreKey(LessSafeKey);

impl StoreKey {
    /// A key from its bytes.
    pub fn new(key: &[u8; 32]) -> StoreKey {
        let key = UnboundKey::new(&aead::AES_256_GCM_SIV, key).expect("the key has the cipher's length");
        StoreKey(LessSafeKey::new(key))
    }

    /// Encrypts and authenticates `content`, which is overwritten. `nonce` should be unique; with
    /// AES-GCM-SIV a repeated nonce only reveals whether two contents are equal. `None` if the
    /// library fails.
    pub fn seal(&self, nonce: [u8; 12], content: &mut [u8]) -> Option<Vec<u8>> {
        let mut out = [&MAGIC[..], &[MAJOR, MINOR], &nonce].concat();
        let about = aead::Aad::from([&MAGIC[..], &[MAJOR, MINOR]].concat());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, about, content).ok()?;
        out.extend(&*content);
        out.extend(tag.as_ref());
        Some(out)
    }

    /// Decrypts content that was sealed with this key.
    ///
    /// # Errors
    /// [`ImportError::Damaged`], [`ImportError::OtherVersion`].
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, ImportError> {
        let mut reader = Reader(sealed);
        let (magic, major) =
            (reader.array().ok_or(ImportError::Damaged)?, reader.u8().ok_or(ImportError::Damaged)?);
        if *magic != MAGIC {
            return Err(ImportError::Damaged);
        }
        if major != MAJOR {
            return Err(ImportError::OtherVersion(major));
        }
        reader.u8().ok_or(ImportError::Damaged)?;
        let nonce = Nonce::assume_unique_for_key(*reader.array().ok_or(ImportError::Damaged)?);
        let mut content = Zeroizing::new(reader.0.to_vec());
        let about = aead::Aad::from(&sealed[..FRONT]);
        let length =
            self.0.open_in_place(nonce, about, &mut content).map_err(|_| ImportError::Damaged)?.len();
        content.truncate(length);
        Ok(content)
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey")
    }
}

/// Why a session was not imported. Its peer must handshake again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// Not sealed with this key, or truncated, or changed.
    Damaged,
    /// It has another major version.
    OtherVersion(u8),
    /// Its pre-shared key, raw key or anchor was removed or changed, or a certificate of its path
    /// is revoked.
    CredentialChanged,
    /// A certificate of its path has expired.
    Expired,
    /// It is older than [`Policy::max_session_lifetime`](crate::proto::dtls::Policy).
    TooOld,
    /// No device has its identity.
    NoDevice,
    /// It has been idle for too long.
    Idle,
    /// It is already imported.
    Twice,
    /// There is no room for it.
    Full,
    /// Exported for another [`Purpose`].
    OtherPurpose,
    /// The engine does not support imports.
    Unsupported,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::Damaged => f.write_str("damaged, or sealed with another key"),
            ImportError::OtherVersion(major) => write!(f, "of version {major}"),
            ImportError::CredentialChanged => f.write_str("its credential was removed or changed"),
            ImportError::Expired => f.write_str("a certificate has expired"),
            ImportError::TooOld => f.write_str("older than max-session-lifetime"),
            ImportError::NoDevice => f.write_str("no device has its identity"),
            ImportError::Idle => f.write_str("idle for too long"),
            ImportError::Twice => f.write_str("taken over already"),
            ImportError::Full => f.write_str("no room for it"),
            ImportError::OtherPurpose => f.write_str("exported for another purpose"),
            ImportError::Unsupported => f.write_str("the DTLS engine in use takes no sessions over"),
        }
    }
}

impl std::error::Error for ImportError {}

impl ServerEngine {
    /// [`Engine::export`](crate::proto::dtls::Engine::export)
    pub(super) fn export_session(
        &mut self,
        now: Instant,
        key: &StoreKey,
        session: SessionId,
        purpose: Purpose,
    ) -> Option<Vec<u8>> {
        let last_seen = self.table.since(session)?;
        let peer = self.table.get(session)?;
        let is_handover = purpose == Purpose::Handover;
        let held = peer.session().filter(|held| !(is_handover && held.suite.aead == Aead::ChaCha))?;
        let mut content = Zeroizing::new(Vec::with_capacity(512));
        content.extend(held.suite.number.to_be_bytes());
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        content.push(
            flag(held.extended_master_secret, EMS)
                | flag(held.own_cid.is_some(), CID)
                | flag(held.credit.is_some(), UNPROVEN)
                | flag(is_handover, HANDOVER)
                | flag(held.doubt.is_some(), DOUBTED)
                | flag(self.common.clock.trusted, DATED),
        );
        content.extend(held.own_cid.iter().flatten());
        content.vector8(&held.peer_cid);
        content.extend(held.limit.to_be_bytes());
        content.vector8(held.protection.keys.block());
        content.extend(held.protection.next_sequence.to_be_bytes());
        content.extend(held.protection.window.next().to_be_bytes());
        content.extend(held.random);
        for since in [held.established, last_seen] {
            content.extend(now.saturating_duration_since(since).as_secs().to_be_bytes());
        }
        write_route(&mut content, &peer.route);
        write_identity(&mut content, &held.identity);
        let binding = binding(&self.common, &held.identity, held.protection.keys.block())?;
        content.extend(binding);
        if self.common.clock.trusted {
            let age = now.saturating_duration_since(held.established).as_millis() as u64;
            content.extend(self.common.clock.time.0.saturating_sub(age).to_be_bytes());
        }
        if is_handover {
            let counts = [held.protection.window.seen(), held.protection.failures, held.record_sequence];
            content.extend(counts.map(u64::to_be_bytes).as_flattened());
            content.vector8(held.finished.as_deref().map_or(&[], |finished| &finished[..]));
        }
        key.seal(self.common.chance.array(), &mut content)
    }

    /// [`Engine::import`](crate::proto::dtls::Engine::import)
    pub(super) fn import_session(
        &mut self,
        now: Instant,
        key: &StoreKey,
        sealed: &[u8],
        origin: Origin,
        sink: &mut dyn Sink,
    ) -> Result<SessionId, ImportError> {
        let content = key.open(sealed)?;
        let Imported { mut session, route, established, idle, binding: bound } =
            read(now, &content, origin, &mut self.common)?;
        if idle >= self.table.limits().idle {
            return Err(ImportError::Idle);
        }
        let address = PeerAddress::from(&route);
        self.make_way(&address, &session, sink)?;
        // An Instant may not represent a time before the boot.
        session.established = now.checked_sub(established).unwrap_or(now);
        let since = now.checked_sub(idle).unwrap_or(now);
        let holder = match self.may_go_on(now, &session, &bound, established, sink) {
            Ok(holder) if session.suite.aead != Aead::ChaCha => holder,
            Ok(_) | Err(GoingOn::WithoutPath) => {
                return self.part(since, address, route, session).ok_or(ImportError::Full);
            }
            Err(GoingOn::Refused(refusal)) => {
                self.part(since, address, route, session);
                return Err(refusal);
            }
        };
        // What is found by a connection id was here before; where it went is not stored.
        if let (None, Some(occupant)) = (session.own_cid, self.table.occupants(&address).live) {
            self.table.detach(occupant);
        }
        let (cid, identity) = (session.own_cid, session.identity.clone());
        self.review.note(now, session.established, self.common.certificates.trust.end_of(&identity));
        let peer = Box::new(Peer { route, stage: Stage::Session(session) });
        let (id, displaced) = self.table.adopt(since, address, holder, peer);
        if let Some(cid) = cid {
            self.cids.insert(cid, id);
        }
        for displaced in displaced {
            self.dismiss(now, displaced, sink);
        }
        sink.connected(id, &route, &identity);
        Ok(id)
    }

    /// Checks that no session has this connection id or address; removes one that cannot be
    /// restored.
    fn make_way(
        &mut self,
        address: &PeerAddress,
        session: &Session,
        sink: &mut dyn Sink,
    ) -> Result<(), ImportError> {
        let there = match session.own_cid {
            Some(cid) => self.cids.get(&cid).copied(),
            None => self.table.occupants(address).live,
        };
        let found = there.and_then(|id| Some((id, &**self.table.get(id)?)));
        match found {
            Some((id, Peer { stage: Stage::Farewell(_), .. })) => {
                self.end(session.established, id, CloseCause::Replaced, sink);
                Ok(())
            }
            Some((_, peer)) if session.own_cid.is_some() || peer.own_cid().is_none() => {
                Err(ImportError::Twice)
            }
            _ => Ok(()),
        }
    }

    /// The holder of a session of an earlier process, if the session may be restored.
    fn may_go_on(
        &self,
        now: Instant,
        session: &Session,
        bound: &[u8; 16],
        age: Duration,
        sink: &mut dyn Sink,
    ) -> Result<Holder, GoingOn> {
        let Common { certificates, clock, settings, .. } = &self.common;
        certificates.trust.believes(&session.identity, *clock).map_err(|lapse| match lapse {
            Lapse::NoPath => GoingOn::WithoutPath,
            Lapse::Expired => GoingOn::Refused(ImportError::Expired),
            Lapse::Revoked | Lapse::AnchorRemoved => GoingOn::Refused(ImportError::CredentialChanged),
        })?;
        let changed = GoingOn::Refused(ImportError::CredentialChanged);
        let expected =
            binding(&self.common, &session.identity, session.protection.keys.block()).ok_or(changed)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected, bound)
            .map_err(|_| GoingOn::Refused(ImportError::CredentialChanged))?;
        let is_over = settings.max_session_lifetime.is_some_and(|lifetime| age >= lifetime);
        if is_over || session.established > now {
            return Err(GoingOn::Refused(ImportError::TooOld));
        }
        let holder = sink.claim(&session.identity).ok_or(GoingOn::Refused(ImportError::NoDevice))?;
        let is_full = self.table.count(Phase::Live) >= self.table.limits().sessions;
        if is_full && self.table.held(holder.number) == 0 {
            return Err(GoingOn::Refused(ImportError::Full));
        }
        Ok(holder)
    }

    /// Keeps the part of a session that is needed to send its device the alert.
    fn part(
        &mut self,
        since: Instant,
        address: PeerAddress,
        route: Route,
        session: Session,
    ) -> Option<SessionId> {
        let cid = session.own_cid;
        let peer = Box::new(Peer { route, stage: Stage::Farewell(Box::new(Farewell::of(session))) });
        let id = self.table.part(since, address, peer)?;
        if let Some(cid) = cid {
            self.cids.insert(cid, id);
        }
        Some(id)
    }
}

/// Why a session is not restored.
enum GoingOn {
    /// It was stored by a version that did not store the path.
    WithoutPath,
    Refused(ImportError),
}

struct Imported {
    session: Session,
    route: Route,
    established: Duration,
    idle: Duration,
    binding: [u8; 16],
}

fn read(now: Instant, content: &[u8], origin: Origin, common: &mut Common) -> Result<Imported, ImportError> {
    let flags = *content.get(2).ok_or(ImportError::Damaged)?;
    if (flags & HANDOVER != 0) != (origin == Origin::Handover) {
        return Err(ImportError::OtherPurpose);
    }
    read_content(now, content, origin, common).ok_or(ImportError::Damaged)
}

fn read_content(now: Instant, content: &[u8], origin: Origin, common: &mut Common) -> Option<Imported> {
    let mut reader = Reader(content);
    let suite = Suite::find(reader.u16()?)?;
    let flags = reader.u8()?;
    let own_cid = if flags & CID != 0 { Some(*reader.array()?) } else { None };
    let peer_cid: Box<[u8]> = reader.vector8()?.into();
    let limit = reader.u16().filter(|limit| (512..=1 << 14).contains(limit))?;
    let block = reader.vector8()?;
    if block.len() != 2 * (suite.aead.key_length() + suite.aead.iv_length()) {
        return None;
    }
    let mut protection = Protection::new(Keys::from_block(suite.aead, block), &mut common.chance);
    let leap = match origin {
        Origin::Store { runs } => u64::from(runs.max(1)) * LEAP,
        Origin::Handover => 0,
    };
    protection.leap(reader.u64()?, leap)?;
    let newest = reader.u64().filter(|number| *number <= 1 << 48)?;
    protection.window = Window::closed_below(newest);
    let random = *reader.array()?;
    let mut established = Duration::from_secs(reader.u64()?);
    let idle = Duration::from_secs(reader.u64()?);
    let route = read_route(&mut reader)?;
    let identity = read_identity(&mut reader, &mut common.issuers, &mut common.paths)?;
    let binding = *reader.array()?;
    if flags & DATED != 0 {
        // The age in a stored session is that at the time of writing, so the date is used.
        established =
            established.max(Duration::from_millis(common.clock.time.0.saturating_sub(reader.u64()?)));
    }
    let (mut record_sequence, mut finished) = (0, None);
    if origin == Origin::Handover {
        protection.window = Window::restored(newest, reader.u64()?);
        protection.failures = reader.u64()?;
        record_sequence = reader.u64()?;
        finished = match reader.vector8()? {
            [] => None,
            verify => Some(Box::new(verify.try_into().ok()?)),
        };
    }
    reader.end()?;
    let is_doubted = origin != Origin::Handover || flags & DOUBTED != 0;
    let session = Session {
        protection,
        suite,
        extended_master_secret: flags & EMS != 0,
        own_cid,
        peer_cid,
        identity,
        limit,
        established: now,
        random,
        record_sequence,
        finished,
        credit: (flags & UNPROVEN != 0).then_some(0),
        doubt: is_doubted.then(|| Box::new(Doubt::new(&mut common.chance))),
    };
    Some(Imported { session, route, established, idle, binding })
}

/// A hash of the session's credential and keys; `None` if the credential does not exist (any more).
fn binding(common: &Common, identity: &PeerIdentity, block: &[u8]) -> Option<[u8; 16]> {
    let trust = &common.certificates.trust;
    let credential = match identity {
        PeerIdentity::Psk(identity) => common.keyring.key(identity)?,
        PeerIdentity::RawPublicKey(hash) if trust.knows(hash) => &hash[..],
        PeerIdentity::Certificate(identity) => &identity.path()?.above.anchor[..],
        _ => return None,
    };
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, block), credential);
    tag.as_ref().first_chunk().copied()
}

fn write_ip(out: &mut Vec<u8>, ip: Option<IpAddr>) {
    match ip {
        None => out.vector8(&[]),
        Some(IpAddr::V4(v4)) => out.vector8(&v4.octets()),
        Some(IpAddr::V6(v6)) => out.vector8(&v6.octets()),
    }
}

fn read_ip(reader: &mut Reader<'_>) -> Option<Option<IpAddr>> {
    let octets = reader.vector8()?;
    match octets.len() {
        0 => Some(None),
        4 => <[u8; 4]>::try_from(octets).ok().map(|octets| Some(IpAddr::from(octets))),
        16 => <[u8; 16]>::try_from(octets).ok().map(|octets| Some(IpAddr::from(octets))),
        _ => None,
    }
}

fn write_route(out: &mut Vec<u8>, route: &Route) {
    write_ip(out, Some(route.remote.ip()));
    out.extend(route.remote.port().to_be_bytes());
    let scope = if let SocketAddr::V6(v6) = route.remote { v6.scope_id() } else { 0 };
    out.extend(scope.to_be_bytes());
    write_ip(out, route.local);
    out.extend(route.socket.to_be_bytes());
}

fn read_route(reader: &mut Reader<'_>) -> Option<Route> {
    let ip = read_ip(reader)??;
    let (port, scope) = (reader.u16()?, reader.u32()?);
    let remote = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
    };
    Some(Route { remote, local: read_ip(reader)?, socket: reader.u16()? })
}

fn write_identity(out: &mut Vec<u8>, identity: &PeerIdentity) {
    match identity {
        PeerIdentity::Psk(identity) => {
            out.push(0);
            out.vector16(identity);
        }
        PeerIdentity::RawPublicKey(hash) => {
            out.push(1);
            out.vector16(&hash[..]);
        }
        PeerIdentity::Certificate(facts) => {
            out.push(match facts.path() {
                None => 2,
                Some(path) if path.above.keys.is_empty() => 3,
                Some(_) => 4,
            });
            facts.write(out);
        }
    }
}

fn read_identity(reader: &mut Reader<'_>, issuers: &mut Issuers, paths: &mut Paths) -> Option<PeerIdentity> {
    Some(match reader.u8()? {
        0 => PeerIdentity::Psk(reader.vector16()?.into()),
        1 => PeerIdentity::RawPublicKey(Box::new(reader.vector16()?.try_into().ok()?)),
        kind @ 2..=4 => {
            let (has_path, has_keys) = (kind > 2, kind > 3);
            let identity = CertificateIdentity::read(reader, has_path, has_keys, issuers, paths)?;
            PeerIdentity::Certificate(identity.into())
        }
        _ => return None,
    })
}
