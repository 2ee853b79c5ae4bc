//! TLS of the MQTT listener: certificate, key, and the anchors of clients.
//!
//! A client certificate is asked for where there are anchors, and never required: a client may show
//! a password instead. The verdict on a certificate's validity is that of the gateway's clock
//! (decision 0016), and revocation lists are those of the devices.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use zeroize::Zeroizing;

use crate::clock::WallClock;

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

/// The gateway's time, as rustls asks for it.
struct GatewayTime(Arc<dyn WallClock>);

impl fmt::Debug for GatewayTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewayTime")
    }
}

impl TimeProvider for GatewayTime {
    fn current_time(&self) -> Option<UnixTime> {
        let (clock, floor) = (&self.0, self.0.floor());
        // As for the certificates of DTLS: a clock that only the kernel speaks for may be wrong.
        let time = clock.wall().filter(|_| !clock.is_refutable()).map_or(floor, |wall| wall.max(floor));
        Some(UnixTime::since_unix_epoch(Duration::from_millis(time.0)))
    }
}

/// What rustls needs for handshakes. `revoked`: revocation lists in DER; a client whose CA has none
/// is taken.
///
/// # Errors
/// What cannot be used.
pub fn server_config(
    material: &Material,
    revoked: &[Vec<u8>],
    clock: Arc<dyn WallClock>,
) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(GatewayTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if material.authorities.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for der in &material.authorities {
            roots.add(CertificateDer::from(der.clone())).map_err(|error| error.to_string())?;
        }
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider).allow_unauthenticated();
        if !revoked.is_empty() {
            let lists = revoked.iter().map(|list| CertificateRevocationListDer::from(list.clone()));
            verifier = verifier.with_crls(lists).allow_unknown_revocation_status();
        }
        builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
    };
    let key = Arc::new(material.certified_key()?);
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    // A resumed session would skip the verdict on the client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
