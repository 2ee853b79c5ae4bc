//! A temporary PKI: one CA and one server certificate, generated in memory each time.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// The keys and certificates of the demo.
pub struct Pki {
    /// PEM of the CA the gateway pins.
    pub ca_file: PathBuf,
    /// DER of the broker's certificate.
    pub certificate: rustls_pki_types::CertificateDer<'static>,
    /// Its key.
    pub key: rustls_pki_types::PrivateKeyDer<'static>,
}

/// Makes a CA and a certificate for `localhost` and 127.0.0.1; writes the CA into `folder`.
///
/// # Errors
/// The error as text.
pub fn make(folder: &Path) -> Result<Pki, String> {
    let text = |error: rcgen::Error| format!("the throwaway certificates cannot be made: {error}");
    let ca_key = KeyPair::generate().map_err(text)?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "Tombolo demo CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(ca, ca_key).map_err(text)?;

    let key = KeyPair::generate().map_err(text)?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut leaf = CertificateParams::new(names).map_err(text)?;
    leaf.distinguished_name.push(DnType::CommonName, "Tombolo demo broker");
    let certificate = leaf.signed_by(&key, &issuer).map_err(text)?;

    let ca_file = folder.join("ca.pem");
    std::fs::write(&ca_file, issuer.pem()).map_err(|e| format!("{}: {e}", ca_file.display()))?;
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok(Pki { ca_file, certificate: certificate.der().clone(), key: key.into() })
}
