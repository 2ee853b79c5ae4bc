//! Signs tokens with the key in a file.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroize as _;

use crate::clock::WallClock;
use crate::northbound::jwt::{self, JwtAlgorithm, JwtSettings};
use crate::northbound::tls::Pem;

/// Makes a token. `key_file`: what is in [`JwtSettings::key_file`].
///
/// # Errors
/// The clock is not trusted, or the key cannot be used; says what to do.
pub fn mint(
    settings: &JwtSettings,
    key_file: Pem,
    client_id: &str,
    clock: &dyn WallClock,
) -> Result<Vec<u8>, String> {
    let Some(now) = clock.wall() else {
        return Err(
            "no token can be made for the broker: the clock is not trusted, and a token has an expiry time; \
                    see `tombolo status`, or synchronise the clock"
                .to_owned(),
        );
    };
    let Pem { file: shown, mut bytes } = key_file;
    let key = PrivateKeyDer::from_pem_slice(&bytes);
    bytes.zeroize();
    let key = key.map_err(|_| format!("{shown}: holds no private key in PEM that is not encrypted"))?;
    let input = jwt::signing_input(settings, client_id, now);
    let signature = sign(settings.algorithm, key.secret_der(), input.as_bytes()).ok_or_else(|| {
        let kind = match settings.algorithm {
            JwtAlgorithm::Es256 => "an ECDSA key on P-256",
            JwtAlgorithm::EdDsa => "an Ed25519 key",
            JwtAlgorithm::Rs256 => "an RSA key of at least 2,048 bits",
        };
        let name = settings.algorithm.name();
        format!("{shown}: upstream.jwt.algorithm is {name}, which needs {kind}; the key is of another kind")
    })?;
    Ok(jwt::token(&input, &signature).into_bytes())
}

/// `None`: the key is of another kind.
fn sign(algorithm: JwtAlgorithm, key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let random = SystemRandom::new();
    match algorithm {
        JwtAlgorithm::Es256 => {
            let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key).ok()?;
            Some(key.sign(&random, message).ok()?.as_ref().to_vec())
        }
        JwtAlgorithm::EdDsa => {
            Some(Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).ok()?.sign(message).as_ref().to_vec())
        }
        JwtAlgorithm::Rs256 => {
            let key = RsaKeyPair::from_pkcs8(key).or_else(|_| RsaKeyPair::from_der(key)).ok()?;
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
            Some(signature)
        }
    }
}
