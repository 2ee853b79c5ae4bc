//! Authorities, a gateway's key and devices with certificates.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};
use tombolo::proto::dtls::server::{Certificates, ServerKey, Trust};

use super::client::Own;

pub type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Authorities, a server and devices.
pub struct Pki {
    pub root: Issuer,
    pub middle: Issuer,
    pub server: Arc<ServerKey>,
    pub device: Arc<Own>,
}

pub fn authority(name: &str, by: Option<&Issuer>) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    match by {
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
        Some(issuer) => CertifiedIssuer::signed_by(params, key, issuer).unwrap(),
    }
}

/// What a device certificate says; tests change it.
pub fn device_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![
        SanType::URI(format!("urn:dev:{name}").try_into().unwrap()),
        SanType::DnsName(format!("{name}.example").try_into().unwrap()),
    ];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub fn key_algorithm(p384: bool) -> &'static rcgen::SignatureAlgorithm {
    if p384 { &rcgen::PKCS_ECDSA_P384_SHA384 } else { &rcgen::PKCS_ECDSA_P256_SHA256 }
}

/// A device's key and certificate, and what it sends behind this.
pub fn own(params: CertificateParams, issuer: &Issuer, above: &[Vec<u8>], p384: bool) -> Arc<Own> {
    let key = KeyPair::generate_for(key_algorithm(p384)).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let signing = if p384 { &ECDSA_P384_SHA384_ASN1_SIGNING } else { &ECDSA_P256_SHA256_ASN1_SIGNING };
    let mut chain = vec![certificate.der().to_vec()];
    chain.extend(above.iter().cloned());
    Arc::new(Own {
        chain,
        key: EcdsaKeyPair::from_pkcs8(signing, &key.serialize_der()).unwrap().into(),
        spki: key.subject_public_key_info(),
        algorithm: if p384 { 0x0503 } else { 0x0403 },
    })
}

/// The gateway's key and certificate.
pub fn server_key(issuer: &Issuer, p384: bool) -> Arc<ServerKey> {
    server_key_of("gateway", issuer, &[], p384)
}

/// The same for another name, and with what it sends behind its certificate.
pub fn server_key_of(name: &str, issuer: &Issuer, above: &[Vec<u8>], p384: bool) -> Arc<ServerKey> {
    let key = KeyPair::generate_for(key_algorithm(p384)).unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let mut chain = vec![certificate.der().to_vec()];
    chain.extend(above.iter().cloned());
    Arc::new(ServerKey::new(chain, &key.serialize_der()).unwrap())
}

/// A root and three authorities below it.
pub struct Chain {
    pub root: Issuer,
    /// The lowest first.
    pub above: [Issuer; 3],
}

impl Chain {
    pub fn new() -> Chain {
        let root = authority("root", None);
        let one = authority("one", Some(&root));
        let two = authority("two", Some(&one));
        let three = authority("three", Some(&two));
        Chain { root, above: [three, two, one] }
    }

    /// The authority that issues certificates.
    pub fn lowest(&self) -> &Issuer {
        &self.above[0]
    }

    /// What is sent behind a certificate of [`Chain::lowest`].
    pub fn above_der(&self) -> Vec<Vec<u8>> {
        self.above.iter().map(|authority| authority.der().to_vec()).collect()
    }
}

pub fn hash(content: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content).as_ref().try_into().unwrap()
}

impl Pki {
    pub fn new() -> Pki {
        let root = authority("root", None);
        let middle = authority("middle", Some(&root));
        let server = server_key(&root, false);
        let device = own(device_params("door-7"), &middle, &[middle.der().to_vec()], false);
        Pki { root, middle, server, device }
    }

    pub fn trust(&self, lists: &[Vec<u8>]) -> Trust {
        Trust::new(vec![self.root.der().to_vec()], Vec::new(), lists, [hash(&self.device.spki)]).unwrap()
    }

    pub fn certificates(&self) -> Certificates {
        Certificates { key: Some(self.server.clone()), trust: Arc::new(self.trust(&[])) }
    }
}
