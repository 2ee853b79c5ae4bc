//! Whom the uplink believes and who it is: the rustls configuration, the clock rule, and words for
//! what goes wrong.
//!
//! **The clock rule** is [`crate::clock::chain`]: while the wall clock is not trusted, or in doubt,
//! a chain is verified at a time that has certainly passed. So a board that boots in 1970 connects,
//! and one whose clock was set to 2036 is not shut out by it. Here is how a chain is verified at a
//! time, and by which path: the certificates that lead from the broker's to a trust anchor, and no
//! others that the peer sent. The clock learns from the path after the peer has signed the
//! handshake with the key of the leaf.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SignatureVerificationAlgorithm, UnixTime as TlsTime,
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    RootCertStore, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::certificate::Certificate;
use super::chain_fault::{self, ChainFault};
use super::settings::{TlsSettings, TlsVersion};
use crate::clock::chain::{self, Accepted, ChainValidity, Fault};
use crate::clock::{UnixTime, WallClock};
use crate::proto::dtls::alert::{self, Alert};
use crate::proto::dtls::server::RevocationLists;

/// A file and what was in it.
#[derive(Clone)]
pub struct Pem {
    /// Its name, for messages.
    pub file: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why there is no TLS configuration; each names the file and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// No trust anchor was found.
    NoAnchor(String),
    /// A file is empty or holds nothing of the kind.
    Nothing {
        /// Its name.
        file: String,
        /// What should be in it.
        wanted: &'static str,
    },
    /// A file is not PEM, or what is in it is broken.
    Broken {
        /// Its name.
        file: String,
        /// What should be in it.
        wanted: &'static str,
    },
    /// Our certificate is of X.509 version 1, which TLS stacks refuse.
    Version1(String),
    /// Our certificate and key are not of one pair.
    KeyMismatch {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
    },
    /// The key is of a kind that cannot sign here.
    UnusableKey(String),
    /// The host of the URL can stand in no certificate.
    Host(String),
    /// The token with the key cannot be used.
    Token(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::NoAnchor(place) => {
                write!(
                    f,
                    "no CA certificate found in {place}; install ca-certificates or set upstream.ca-file"
                )
            }
            TlsError::Nothing { file, wanted } => write!(f, "{file} holds no {wanted} (PEM is expected)"),
            TlsError::Broken { file, wanted } => write!(f, "the {wanted} in {file} cannot be read"),
            TlsError::Version1(file) => write!(
                f,
                "the certificate in {file} is X.509 version 1, which TLS refuses; issue it anew as version 3 \
                 (openssl x509 -req makes version 1 unless it is given -extfile)"
            ),
            TlsError::KeyMismatch { certificate, key } => {
                write!(f, "the key in {key} does not belong to the certificate in {certificate}")
            }
            TlsError::UnusableKey(file) => {
                write!(
                    f,
                    "the key in {file} is of a kind that cannot be used (RSA, ECDSA P-256/384/521, Ed25519)"
                )
            }
            TlsError::Token(text) => f.write_str(text),
            TlsError::Host(host) => write!(f, "`{host}` is neither a host name nor an address"),
        }
    }
}

impl std::error::Error for TlsError {}

/// As [`client_config_with`], with the client's certificate and key in PEM and without lists.
///
/// # Errors
/// [`TlsError`] names the file at fault.
pub fn client_config(
    settings: &TlsSettings,
    anchors: &[Pem],
    place: &str,
    identity: Option<(&Pem, &Pem)>,
    clock: Arc<dyn WallClock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let identity = identity.map(|(certificate, key)| certified_key(certificate, key)).transpose()?;
    client_config_with(settings, anchors, place, identity, None, clock)
}

/// Makes the configuration of one connection. `anchors`: the files to trust and what to call the
/// place they came from. `revoked`: the lists that the broker's chain is judged by.
///
/// # Errors
/// [`TlsError`] names the file at fault.
pub fn client_config_with(
    settings: &TlsSettings,
    anchors: &[Pem],
    place: &str,
    identity: Option<CertifiedKey>,
    revoked: Option<RevocationLists>,
    clock: Arc<dyn WallClock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = Arc::new(match settings.pins.is_empty() {
        true => trust(anchors, place)?,
        // No path is built; the verifier of signatures wants some anchor all the same.
        false => trust(anchors, place).or_else(|_| placeholder())?,
    });
    let inner = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|_| TlsError::NoAnchor(place.to_owned()))?;
    let algorithms = provider.signature_verification_algorithms.all;
    let pins = settings.pins.clone();
    let revoked = revoked.filter(|lists| !lists.is_empty());
    let accepted = Mutex::new(None);
    let verifier = Arc::new(ClockRule { inner, roots, algorithms, revoked, clock, pins, accepted });
    let versions: &[&rustls::SupportedProtocolVersion] = match settings.minimum {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("aws-lc-rs has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(certified) => builder.with_client_cert_resolver(Arc::new(Identity(Arc::new(certified)))),
    };
    config.alpn_protocols = settings.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    Ok(Arc::new(config))
}

/// Whether a broker's chain, its own certificate first, leads to one of these CA certificates, DER:
/// one that was accepted by more of them. Its possession of the key is not asked for again.
pub fn leads_to(chain: &[Vec<u8>], anchors: &[Vec<u8>], host: &str, clock: &dyn WallClock) -> bool {
    let Some((first, rest)) = chain.split_first() else { return false };
    let (Ok(host), mut roots) = (server_name(host), RootCertStore::empty()) else { return false };
    roots.add_parsable_certificates(anchors.iter().map(|der| CertificateDer::from(der.clone())));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() else {
        return false;
    };
    let rest: Vec<CertificateDer<'_>> = rest.iter().map(|der| CertificateDer::from(&der[..])).collect();
    let time = tls_time(clock.wall().unwrap_or_else(|| clock.floor()));
    verifier.verify_server_cert(&CertificateDer::from(&first[..]), &rest, &host, &[], time).is_ok()
}

/// The name a chain must be for.
///
/// # Errors
/// [`TlsError::Host`]
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))
}

/// Whether a file has a certificate to trust.
///
/// # Errors
/// [`TlsError::Nothing`]
pub fn judge_anchors(file: &Pem) -> Result<(), TlsError> {
    trust(std::slice::from_ref(file), &file.file).map(drop)
}

/// Whether a certificate and its key, in clear, can be used.
///
/// # Errors
/// [`TlsError`] names the file at fault.
pub fn judge_identity(certificate: &Pem, key: &Pem) -> Result<(), TlsError> {
    certified_key(certificate, key).map(drop)
}

fn trust(anchors: &[Pem], place: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for pem in anchors {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(&pem.bytes).filter_map(Result::ok).collect();
        roots.add_parsable_certificates(certificates);
    }
    match anchors {
        _ if !roots.is_empty() => Ok(roots),
        [only] => Err(TlsError::Nothing { file: only.file.clone(), wanted: "CA certificate" }),
        _ => Err(TlsError::NoAnchor(place.to_owned())),
    }
}

/// A root store with one anchor nobody has the key of, for a verifier that is never asked for a
/// path.
fn placeholder() -> Result<RootCertStore, TlsError> {
    let anchor = rustls::pki_types::TrustAnchor {
        subject: rustls::pki_types::Der::from_slice(&[]),
        subject_public_key_info: rustls::pki_types::Der::from_slice(&[]),
        name_constraints: None,
    };
    Ok(RootCertStore { roots: vec![anchor] })
}

/// A certificate chain and the key that belongs to it.
///
/// # Errors
/// [`TlsError`] names the file at fault.
pub fn certified_key(certificate: &Pem, key: &Pem) -> Result<CertifiedKey, TlsError> {
    let wanted = "private key";
    let private = || {
        PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                TlsError::Nothing { file: key.file.clone(), wanted }
            }
            _ => TlsError::Broken { file: key.file.clone(), wanted },
        })
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let load = || {
        let unusable = |_| TlsError::UnusableKey(key.file.clone());
        provider.key_provider.load_private_key(private()?).map_err(unusable)
    };
    certified_with(certificate, &key.file, load)
}

/// As [`certified_key`], with a key that signs elsewhere; `key_file` is what refers to it.
///
/// # Errors
/// As [`certified_key`].
pub fn certified_with(
    certificate: &Pem,
    key_file: &str,
    load: impl FnOnce() -> Result<Arc<dyn SigningKey>, TlsError>,
) -> Result<CertifiedKey, TlsError> {
    let wanted = "certificate";
    let broken = || TlsError::Broken { file: certificate.file.clone(), wanted };
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&certificate.bytes).collect::<Result<_, _>>().map_err(|_| broken())?;
    let Some(first) = chain.first() else {
        return Err(TlsError::Nothing { file: certificate.file.clone(), wanted });
    };
    if Certificate::parse(first).ok_or_else(broken)?.version < 3 {
        return Err(TlsError::Version1(certificate.file.clone()));
    }
    let certified = CertifiedKey::new(chain, load()?);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(Error::InconsistentKeys(_)) => {
            Err(TlsError::KeyMismatch { certificate: certificate.file.clone(), key: key_file.to_owned() })
        }
        Err(_) => Err(broken()),
    }
}

/// Our certificate, shown whenever the broker asks for one, whichever CAs it says it likes.
#[derive(Debug)]
struct Identity(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).is_some().then(|| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The verifier with the clock rule of this module, for one connection.
struct ClockRule {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    revoked: Option<RevocationLists>,
    clock: Arc<dyn WallClock>,
    /// Not empty: the broker's key is one of these, and nothing else of its certificate is judged.
    pins: Vec<[u8; 32]>,
    /// The chain that was accepted, until the peer has proven to have its key.
    accepted: Mutex<Option<Accepted>>,
}

impl ClockRule {
    /// The path by which a chain that was verified at `time` leads to an anchor, if it can be read.
    ///
    /// # Errors
    /// A certificate of it is revoked, or that is not known and has to be.
    fn path(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        time: UnixTime,
    ) -> Result<Option<ChainValidity>, Error> {
        let refused = |error: CertificateError| Error::InvalidCertificate(error);
        let Ok(leaf) = EndEntityCert::try_from(end_entity) else {
            return if self.revoked.is_none() {
                Ok(None)
            } else {
                Err(refused(CertificateError::BadEncoding))
            };
        };
        let (anchors, usage) = (&self.roots.roots, KeyUsage::server_auth());
        let judge = |path: &VerifiedPath<'_>| match &self.revoked {
            Some(lists) => lists.judge(&leaf, path, time),
            None => Ok(()),
        };
        let at = tls_time(time);
        let found =
            leaf.verify_for_usage(self.algorithms, anchors, intermediates, at, usage, None, Some(&judge));
        match found {
            Ok(path) => Ok(Self::validity(end_entity, &path)),
            Err(webpki::Error::CertRevoked) => Err(refused(CertificateError::Revoked)),
            Err(webpki::Error::CrlExpired { time, next_update }) => {
                Err(refused(CertificateError::ExpiredRevocationListContext { time, next_update }))
            }
            // What cannot be judged by lists that are there is not believed.
            Err(_) if self.revoked.is_some() => Err(refused(CertificateError::UnknownRevocationStatus)),
            Err(_) => Ok(None),
        }
    }

    fn validity(end_entity: &CertificateDer<'_>, path: &VerifiedPath<'_>) -> Option<ChainValidity> {
        let leaf = Certificate::parse(end_entity)?;
        let mut validity = ChainValidity {
            not_before: leaf.not_before,
            not_after: end_of_second(leaf.not_after),
            leaf: Duration::from_secs(leaf.not_after.as_secs().saturating_sub(leaf.not_before.as_secs())),
        };
        for certificate in path.intermediate_certificates() {
            let read = Certificate::parse(&certificate.der())?;
            validity.not_before = validity.not_before.max(read.not_before);
            validity.not_after = validity.not_after.min(end_of_second(read.not_after));
        }
        Some(validity)
    }

    /// By its key alone: neither CA nor name nor date counts, and the clock learns nothing.
    fn verify_pin(&self, end_entity: &CertificateDer<'_>) -> Result<ServerCertVerified, Error> {
        let pin = chain_fault::pin(end_entity);
        if pin.is_some_and(|pin| self.pins.contains(&pin)) {
            return Ok(ServerCertVerified::assertion());
        }
        let text = "the broker's public key is not one of upstream.pin-sha256".to_owned();
        Err(ChainFault { text, pin }.into())
    }

    /// The peer has the key: what its chain says of the time counts.
    fn teach(&self) {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accepted) = accepted {
            accepted.teach(&*self.clock);
        }
    }
}

/// A certificate is valid through the whole second of its notAfter (RFC 5280 §4.1.2.5).
fn end_of_second(time: UnixTime) -> UnixTime {
    UnixTime(time.0.saturating_add(999))
}

/// What a verifier's error says about the time.
fn fault(error: Error) -> Fault<Error> {
    match error {
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => Fault::NotYetValid(error),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Fault::Expired(error)
        }
        _ => Fault::Other(error),
    }
}

impl fmt::Debug for ClockRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockRule")
    }
}

fn tls_time(time: UnixTime) -> TlsTime {
    TlsTime::since_unix_epoch(Duration::from_secs(time.as_secs()))
}

impl ServerCertVerifier for ClockRule {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pins.is_empty() {
            return self.verify_pin(end_entity);
        }
        let verify = |time: UnixTime| {
            self.inner
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, tls_time(time))
                .map_err(fault)?;
            let path = self.path(end_entity, intermediates, time).map_err(Fault::Other)?;
            // A path that cannot be read says nothing of the time.
            Ok(path.unwrap_or(ChainValidity::UNKNOWN))
        };
        let presented = std::iter::once(end_entity).chain(intermediates);
        let not_befores = presented.filter_map(|der| Some(Certificate::parse(der)?.not_before));
        let accepted = chain::accept(&*self.clock, not_befores, verify).map_err(|error| {
            let host = server_name.to_str();
            if error == Error::InvalidCertificate(CertificateError::Revoked) {
                let all: Vec<&[u8]> =
                    std::iter::once(end_entity).chain(intermediates).map(|der| &**der).collect();
                let at = self.revoked.as_ref().and_then(|lists| lists.first_revoked(all.iter().copied()));
                return chain_fault::revoked(all[at.unwrap_or(0)]);
            }
            chain_fault::explain(error, &host, end_entity, intermediates, &self.roots)
        })?;
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls12_signature(message, cert, dss);
        verified.inspect(|_| self.teach()).map_err(|error| chain_fault::explain_signature(error, cert))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls13_signature(message, cert, dss);
        verified.inspect(|_| self.teach()).map_err(|error| chain_fault::explain_signature(error, cert))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A TLS error in words that say whose fault it is and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The words.
    pub text: String,
    /// The broker refuses who we are: trying again soon helps nobody.
    pub unwelcome: bool,
    /// SHA-256 of the key of a broker whose certificate was refused, for `upstream.pin-sha256`.
    pub pin: Option<[u8; 32]>,
}

/// The words of a name like `NoCipherSuitesInCommon`, up to what may be in it.
fn words(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars().take_while(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// Explains a TLS error met while connecting to `host`.
pub fn explain(error: &Error, host: &str) -> Explained {
    if let Some(ChainFault { text, pin }) = chain_fault::of(error) {
        return Explained { text: text.clone(), unwelcome: false, pin: *pin };
    }
    let (text, unwelcome) = match error {
        Error::InvalidCertificate(error) => (chain_fault::explain_certificate(error, host), false),
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType)
        | Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => (
            format!(
                "{host} does not speak TLS on this port (a plain MQTT port has mqtt:// and usually 1883)"
            ),
            false,
        ),
        Error::PeerIncompatible(what) => (
            format!(
                "no common TLS version or cipher with the broker ({}); see upstream.tls-min",
                words(&format!("{what:?}"))
            ),
            false,
        ),
        Error::NoApplicationProtocol => {
            ("the broker knows none of the protocols in upstream.alpn".to_owned(), false)
        }
        other => (format!("TLS failed: {other}"), false),
    };
    Explained { text, unwelcome, pin: None }
}

/// What the broker says of a certificate that has expired, at the end of a refusal's words.
pub const EXPIRED: &str = "it has expired, or is not valid yet";

/// RFC 8446 §6.2
const DECRYPT_ERROR: u8 = 51;

fn explain_alert(received: AlertDescription) -> (String, bool) {
    let about_us = |what: &str| (format!("the broker refuses our client certificate: {what}"), true);
    match received.into() {
        alert::CERTIFICATE_REQUIRED => (
            "the broker wants a client certificate; set upstream.certificate-file and key-file".to_owned(),
            true,
        ),
        alert::UNKNOWN_CA => about_us("it does not know the CA that signed it"),
        alert::BAD_CERTIFICATE => about_us("it finds it bad"),
        alert::UNSUPPORTED_CERTIFICATE => about_us("it does not support its kind"),
        alert::CERTIFICATE_EXPIRED => about_us(EXPIRED),
        alert::CERTIFICATE_REVOKED => about_us("it was revoked"),
        // OpenSSL's word for one whose CA has the same name and another key there.
        DECRYPT_ERROR => about_us("a signature does not hold; its CA may have another key there"),
        alert::CERTIFICATE_UNKNOWN => about_us("it does not say why"),
        alert::ACCESS_DENIED => ("the broker denies us access (TLS alert)".to_owned(), true),
        alert::HANDSHAKE_FAILURE => (
            "the broker broke off the TLS handshake; it may want a client certificate, or no cipher is common"
                .to_owned(),
            false,
        ),
        alert::PROTOCOL_VERSION => {
            ("the broker does not speak the TLS version asked for; see upstream.tls-min".to_owned(), false)
        }
        alert::UNRECOGNIZED_NAME => {
            ("the broker does not know the host name in upstream.url (SNI)".to_owned(), false)
        }
        alert::NO_APPLICATION_PROTOCOL => {
            ("the broker knows none of the protocols in upstream.alpn".to_owned(), false)
        }
        other => (format!("the broker broke off TLS: {}", Alert(other)), false),
    }
}
