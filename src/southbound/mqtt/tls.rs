//! TLS of the MQTT listener: certificate, key, and the anchors of clients.
//!
//! A client certificate is asked for where there are anchors, and never required: a client may show
//! a password instead. The verdict on a certificate's validity is that of the gateway's clock
//! (decision 0016). Revocation lists and what becomes of clients without them are those of
//! `[coap]`, and a connection is judged again when they, or the anchors, change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use zeroize::Zeroizing;

use crate::clock::{self, WallClock};
use crate::proto::dtls::server::outline::Outline;
use crate::proto::dtls::server::{ListPolicy, RevocationLists};

/// The files of `[mqtt]`, parsed.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The gateway's chain in DER, its own certificate first.
    pub chain: Vec<Vec<u8>>,
    /// The file of `chain`.
    pub chain_file: PathBuf,
    /// Its key in DER: PKCS #8, SEC 1 or PKCS #1.
    pub key: Zeroizing<Vec<u8>>,
    /// The anchors and intermediates of clients, in DER; empty = no client certificates.
    pub authorities: Vec<Vec<u8>>,
    /// The file of `authorities`, if there is one.
    pub authorities_file: Option<PathBuf>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Material({} certificates, {} anchors)", self.chain.len(), self.authorities.len())
    }
}

impl Material {
    /// Whether the key is one that can be used, and that of the certificate.
    ///
    /// # Errors
    /// The fault, as a text to append to the name of the key's file.
    pub fn check(&self) -> Result<(), String> {
        self.certified_key().map(drop)
    }

    fn certified_key(&self) -> Result<CertifiedKey, String> {
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivateKeyDer::try_from(self.key.to_vec()).map_err(|error| error.to_owned())?;
        let certified = CertifiedKey::from_der(chain, key, &default_provider());
        certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "is not the key of the certificate".to_owned(),
            error => format!("cannot be used: {error}"),
        })
    }
}

/// Revocation lists, and what becomes of clients without them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// In DER. One in the name of an anchor that is not signed by it says nothing of its clients.
    pub lists: Vec<Vec<u8>>,
    /// For lists that have expired, or did not come yet.
    pub policy: ListPolicy,
    /// Lists are configured and cannot be used: no certificate is taken.
    pub fault: bool,
}

/// Judges the certificates of clients.
pub struct Verifier {
    /// Paths, dates and signatures.
    inner: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    revoked: RevocationLists,
    fault: bool,
    clock: Arc<dyn WallClock>,
}

impl Verifier {
    fn new(authorities: &[Vec<u8>], lists: &Lists, clock: Arc<dyn WallClock>) -> Result<Verifier, String> {
        let mut roots = RootCertStore::empty();
        for der in authorities {
            roots.add(CertificateDer::from(der.clone())).map_err(|error| error.to_string())?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(default_provider()));
        let inner = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
        let inner = inner.allow_unauthenticated().build().map_err(|error| error.to_string())?;
        let configured = || authorities.iter().map(Vec::as_slice);
        let fits = |list: &&Vec<u8>| {
            let list = std::slice::from_ref(*list);
            RevocationLists::new(list, configured(), ListPolicy::default()).is_ok()
        };
        let own: Vec<Vec<u8>> = lists.lists.iter().filter(fits).cloned().collect();
        let revoked = RevocationLists::new(&own, configured(), lists.policy)?;
        Ok(Verifier { inner, roots, revoked, fault: lists.fault, clock })
    }

    /// Judges a chain, the client's own certificate first.
    ///
    /// # Errors
    /// What is wrong with it.
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        self.judge_before(chain, clock::UnixTime(u64::MAX))
    }

    /// As [`judge`](Verifier::judge), with the dates of the chain compared with `latest` if it is
    /// later than that.
    fn judge_before(&self, chain: &[CertificateDer<'_>], latest: clock::UnixTime) -> Result<(), Error> {
        if self.fault {
            return Err(CertificateError::UnknownRevocationStatus.into());
        }
        let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let (clock, floor) = (&self.clock, self.clock.floor());
        // As for the certificates of DTLS: a clock that only the kernel speaks for may be wrong.
        let wall = clock.wall().filter(|_| !clock.is_refutable());
        let mut time = wall.map_or(floor, |wall| wall.max(floor));
        if wall.is_none() {
            // What was issued after the floor shows that it has passed.
            let issued = chain.iter().filter_map(|der| Some(Outline::read(der)?.not_before));
            time = issued.fold(time, clock::UnixTime::max);
        }
        let at = UnixTime::since_unix_epoch(Duration::from_millis(time.min(latest).0));
        self.inner.verify_client_cert(leaf, rest, at)?;
        if self.revoked.is_empty() {
            return Ok(());
        }
        let end_entity = EndEntityCert::try_from(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let judge = |path: &VerifiedPath<'_>| self.revoked.judge(&end_entity, path, time);
        let (anchors, usage) = (&self.roots.roots, KeyUsage::client_auth());
        let algorithms = default_provider().signature_verification_algorithms.all;
        match end_entity.verify_for_usage(algorithms, anchors, rest, at, usage, None, Some(&judge)) {
            Ok(_) => Ok(()),
            Err(webpki::Error::CertRevoked) => Err(CertificateError::Revoked.into()),
            Err(webpki::Error::CrlExpired { time, next_update }) => {
                Err(CertificateError::ExpiredRevocationListContext { time, next_update }.into())
            }
            // What cannot be judged by lists that are there is not believed.
            Err(_) => Err(CertificateError::UnknownRevocationStatus.into()),
        }
    }

    /// Why the chain of a connection, verified once, is good no longer; `None`: it is. Lists that
    /// are missing or have expired since keep new connections out, as for DTLS, and end none.
    pub fn lapse(&self, chain: &[CertificateDer<'_>]) -> Option<String> {
        why_lapsed(self.judge(chain))
    }

    /// As [`lapse`](Verifier::lapse), for a session without a connection: that its certificate
    /// expired meanwhile takes nothing from its device, which comes again with a newer one.
    pub fn withdrawn(&self, chain: &[CertificateDer<'_>]) -> Option<String> {
        let outlines = chain.iter().filter_map(|der| Outline::read(der)).collect::<Vec<_>>();
        let end = outlines.iter().map(|of| of.not_after).min().unwrap_or(clock::UnixTime(u64::MAX));
        // A certificate of another one's time in it, which no path needs, takes nothing either.
        let begin = outlines.first().map_or(clock::UnixTime(0), |leaf| leaf.not_before);
        why_lapsed(self.judge_before(chain, end.max(begin)))
    }
}

fn why_lapsed(judged: Result<(), Error>) -> Option<String> {
    match judged {
        Ok(())
        | Err(Error::InvalidCertificate(
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. },
        )) => None,
        Err(Error::InvalidCertificate(CertificateError::Revoked)) => {
            Some("its certificate is revoked".to_owned())
        }
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Some("its certificate leads to no CA of mqtt.client-ca-file any more".to_owned())
        }
        Err(error) => Some(error.to_string()),
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ClientCertVerifier for Verifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(end_entity).chain(intermediates).cloned().collect();
        self.judge(&chain).map(|()| ClientCertVerified::assertion())
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What rustls needs for handshakes, and what judges clients; `None`: no certificate is taken.
///
/// # Errors
/// What cannot be used.
pub fn server_config(
    material: &Material,
    lists: &Lists,
    clock: Arc<dyn WallClock>,
) -> Result<(Arc<ServerConfig>, Option<Arc<Verifier>>), String> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier = match &material.authorities[..] {
        [] => None,
        authorities => Some(Arc::new(Verifier::new(authorities, lists, clock)?)),
    };
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let key = Arc::new(material.certified_key()?);
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    // A resumed session would skip the verdict on the client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), verifier))
}
