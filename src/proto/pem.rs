//! Writes PEM (RFC 7468): a label, and DER in base64. Reading it is `rustls-pki-types`'s.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Characters of base64 a line (RFC 7468 §2).
const LINE: usize = 64;

/// The label of a certificate (RFC 7468 §5).
pub const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a private key in PKCS#8 (RFC 7468 §10).
pub const PRIVATE_KEY: &str = "PRIVATE KEY";
/// The label of a signing request (RFC 7468 §7).
pub const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";

/// Appends one PEM block. It never grows `out` twice, so that no copy of a key is left behind.
pub fn encode(label: &str, der: &[u8], out: &mut Vec<u8>) {
    let length = der.len().div_ceil(3) * 4;
    out.reserve_exact(length + length / LINE + 2 * label.len() + 40);
    out.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    // 48 bytes are 64 characters.
    for bytes in der.chunks(LINE / 4 * 3) {
        let mut line = [0; LINE];
        let written = STANDARD.encode_slice(bytes, &mut line).expect("48 bytes are 64 characters");
        out.extend_from_slice(&line[..written]);
        out.push(b'\n');
        zeroize::Zeroize::zeroize(&mut line);
    }
    out.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
}

/// All certificates of a chain, one after the other.
pub fn chain<C: AsRef<[u8]>>(certificates: &[C]) -> Vec<u8> {
    let mut out = Vec::new();
    certificates.iter().for_each(|der| encode(CERTIFICATE, der.as_ref(), &mut out));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    #[test]
    fn what_is_written_is_read_again_whatever_its_length() {
        for length in [0, 1, 2, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut pem = Vec::new();
            encode(CERTIFICATE, &der, &mut pem);
            assert_eq!(CertificateDer::from_pem_slice(&pem).unwrap().as_ref(), der);
            assert!(pem.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE));
        }
    }

    #[test]
    fn the_text_is_that_of_openssl() {
        let mut pem = Vec::new();
        encode(PRIVATE_KEY, b"abc", &mut pem);
        assert_eq!(pem, b"-----BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----\n");
    }
}
