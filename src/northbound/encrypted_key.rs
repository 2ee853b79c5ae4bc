//! Private keys that are encrypted with a password: PKCS #8's EncryptedPrivateKeyInfo (RFC 5958
//! §3) by PBES2 (RFC 8018 §6.2) with PBKDF2 and AES-CBC, which is what `openssl pkcs8 -topk8` and
//! `openssl genpkey -aes256` write.
//!
//! The primitives are those of aws-lc-rs; only the few fields of the container are read here. What
//! else there is (scrypt, triple DES, OpenSSL's older form) is named, with the way out.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm as Cipher, DecryptionContext, PaddedBlockDecryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::iv::{FixedLength, IV_LEN_128_BIT};
use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use zeroize::Zeroizing;

use crate::proto::der::{INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, expect};

/// Most PBKDF2 iterations: some seconds on a small board.
const ITERATIONS_MAX: u32 = 10_000_000;

const BEGIN: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
const END: &[u8] = b"-----END ENCRYPTED PRIVATE KEY-----";
const OLD_FORM: &[u8] = b"Proc-Type: 4,ENCRYPTED";

/// 1.2.840.113549.1.5.13
const PBES2: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x05, 0x0D];
/// 1.2.840.113549.1.5.12
const PBKDF2: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x05, 0x0C];
/// 1.2.840.113549.2, under which the HMACs are
const HMACS: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x02];
/// 2.16.840.1.101.3.4.1, under which the modes of AES are
const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];

/// How a key in a file is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// PKCS #8: [`decrypt`] may read it.
    Pkcs8,
    /// OpenSSL's older form (RFC 1421 headers).
    OldForm,
}

/// Looks at a PEM file.
pub fn encryption(pem: &[u8]) -> Encryption {
    let has = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
    if has(BEGIN) {
        Encryption::Pkcs8
    } else if has(OLD_FORM) {
        Encryption::OldForm
    } else {
        Encryption::None
    }
}

/// Why an encrypted key cannot be read; its words follow the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptedKeyError {
    /// It is not whole.
    Broken,
    /// An algorithm that is not known here.
    Unsupported,
    /// More iterations than are done here.
    TooManyIterations,
    /// The password is another, or the file is damaged.
    WrongPassword,
}

impl fmt::Display for EncryptedKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncryptedKeyError::Broken => f.write_str("holds an encrypted key that cannot be read"),
            EncryptedKeyError::Unsupported => f.write_str(
                "is encrypted in a way that is not supported (PBES2 with PBKDF2 and AES-CBC is); \
                 `openssl pkcs8 -topk8 -in OLD -out NEW` writes it anew",
            ),
            EncryptedKeyError::TooManyIterations => {
                write!(f, "is encrypted with more than {ITERATIONS_MAX} iterations of PBKDF2")
            }
            EncryptedKeyError::WrongPassword => {
                f.write_str("cannot be decrypted with the password in upstream.key-password-file")
            }
        }
    }
}

impl std::error::Error for EncryptedKeyError {}

/// Decrypts the first encrypted key of a PEM file; the result is a PEM file with a key in clear.
///
/// # Errors
/// [`EncryptedKeyError`]
pub fn decrypt(pem: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, EncryptedKeyError> {
    let der = between(pem).ok_or(EncryptedKeyError::Broken)?;
    let clear = open(&der, password)?;
    let mut out = Zeroizing::new(b"-----BEGIN PRIVATE KEY-----\n".to_vec());
    let text = Zeroizing::new(base64::prelude::BASE64_STANDARD.encode(&*clear));
    for line in text.as_bytes().chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----END PRIVATE KEY-----\n");
    Ok(out)
}

/// The bytes between the markers.
fn between(pem: &[u8]) -> Option<Vec<u8>> {
    let find = |text: &[u8], words: &[u8]| text.windows(words.len()).position(|window| window == words);
    let body = &pem[find(pem, BEGIN)? + BEGIN.len()..];
    let body = &body[..find(body, END)?];
    let base64: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    base64::prelude::BASE64_STANDARD.decode(base64).ok()
}

fn open(der: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, EncryptedKeyError> {
    use EncryptedKeyError::{Broken, TooManyIterations, Unsupported, WrongPassword};
    let (info, _) = expect(SEQUENCE, der).ok_or(Broken)?;
    let (algorithm, rest) = expect(SEQUENCE, info).ok_or(Broken)?;
    let (encrypted, _) = expect(OCTET_STRING, rest).ok_or(Broken)?;
    let (scheme, parameters) = expect(OBJECT_IDENTIFIER, algorithm).ok_or(Broken)?;
    if scheme != PBES2 {
        return Err(Unsupported);
    }
    let (parameters, _) = expect(SEQUENCE, parameters).ok_or(Broken)?;
    let (derivation, rest) = expect(SEQUENCE, parameters).ok_or(Broken)?;
    let (encryption, _) = expect(SEQUENCE, rest).ok_or(Broken)?;
    let (kind, derivation) = expect(OBJECT_IDENTIFIER, derivation).ok_or(Broken)?;
    if kind != PBKDF2 {
        return Err(Unsupported);
    }
    let (derivation, _) = expect(SEQUENCE, derivation).ok_or(Broken)?;
    let (salt, rest) = expect(OCTET_STRING, derivation).ok_or(Broken)?;
    let (iterations, rest) = expect(INTEGER, rest).ok_or(Broken)?;
    if iterations.len() > 4 {
        return Err(TooManyIterations);
    }
    let iterations = iterations.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
    let iterations = NonZeroU32::new(iterations).ok_or(Broken)?;
    if iterations.get() > ITERATIONS_MAX {
        return Err(TooManyIterations);
    }
    // The key's length may be given; the cipher says it as well.
    let rest = expect(INTEGER, rest).map_or(rest, |(_, rest)| rest);
    let hash = match expect(SEQUENCE, rest) {
        None => pbkdf2::PBKDF2_HMAC_SHA1,
        Some((function, _)) => {
            let (oid, _) = expect(OBJECT_IDENTIFIER, function).ok_or(Broken)?;
            match oid.strip_prefix(HMACS) {
                Some([7]) => pbkdf2::PBKDF2_HMAC_SHA1,
                Some([9]) => pbkdf2::PBKDF2_HMAC_SHA256,
                Some([10]) => pbkdf2::PBKDF2_HMAC_SHA384,
                Some([11]) => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return Err(Unsupported),
            }
        }
    };
    let (oid, rest) = expect(OBJECT_IDENTIFIER, encryption).ok_or(Broken)?;
    let (cipher, length): (&Cipher, usize) = match oid.strip_prefix(AES) {
        Some([0x02]) => (&AES_128, 16),
        Some([0x16]) => (&AES_192, 24),
        Some([0x2A]) => (&AES_256, 32),
        _ => return Err(Unsupported),
    };
    let (vector, _) = expect(OCTET_STRING, rest).ok_or(Broken)?;
    let vector: [u8; IV_LEN_128_BIT] = vector.try_into().map_err(|_| Broken)?;
    let mut key = Zeroizing::new(vec![0; length]);
    pbkdf2::derive(hash, iterations, salt, password, &mut key);
    let key = UnboundCipherKey::new(cipher, &key).map_err(|_| Unsupported)?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| Unsupported)?;
    let mut clear = Zeroizing::new(encrypted.to_vec());
    let context = DecryptionContext::Iv128(FixedLength::from(vector));
    let length = key.decrypt(&mut clear, context).map_err(|_| WrongPassword)?.len();
    clear.truncate(length);
    // A wrong password makes a good padding once in 256 times.
    match expect(SEQUENCE, &clear) {
        Some((_, [])) => Ok(clear),
        _ => Err(WrongPassword),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl pkcs8 -topk8`, and `-v2 aes128 -v2prf hmacWithSHA512`, of one key, with the
    /// password `sesame`.
    const AES_256: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
         MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhGujWV/8vQBQICCAAw\n\
         DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEED8Odd0gBSy4NAxIm62ib+YEgZDe\n\
         M2qH8plY7MhJXqtFOuTPXGbNnqC/850uzzt6aS+VxGm8gnZSeIVujKl4ZyWFjhTu\n\
         C0iPgWEJChg1mQWum4ez4Xb/IfIuNNMeMhkntNhwx36y557/p8GF4sVbDULr2Mlg\n\
         O4YCO3pJYepXbgn6BVMyvqWSxKhWq5EmL/OURGmHP1IGozxAUfv4B9XCPMh4+H0=\n\
         -----END ENCRYPTED PRIVATE KEY-----\n";
    const AES_128: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
         MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgpGRDBgUNENQICCAAw\n\
         DAYIKoZIhvcNAgsFADAdBglghkgBZQMEAQIEEFIzbX6wgXbXF6EZbKN7HZwEgZCc\n\
         Zno5VosIJvuEZMNdsr6i3PMPqc0z6osbXZduckeWqCxVOV32GTllxvzKeL9o5za9\n\
         1scYBN7tVaDlcKi7wnWSm8Eh0eaKAZXwR/fLEXZki8GzcLODR96Yx/7PlI2GsFf6\n\
         tzv56JmUa+7huDX6DhtFxj0yV62E0WfYFgy4+YofpFbaTTRbKiNjIaO4L4lcYdM=\n\
         -----END ENCRYPTED PRIVATE KEY-----\n";
    /// `openssl pkcs8 -topk8 -scrypt`
    const SCRYPT: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
         MIHkME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAhpnlVoDZ/6zgICQAAC\n\
         AQgCAQEwHQYJYIZIAWUDBAEqBBCeh0/3J+jy0EqCIQPp5BboBIGQaKwKuMOS+v7A\n\
         KkwtHBMJIfb5IWpdLtpmmXZQ17Up4q5N5UNAZ00PPOFkjdiUVLzg4PmoYQTFoPKX\n\
         kGUBpIX1rtTlO+DiCK85NjChWmuSap4uLEdK7+e9R6RURldz4PM13RFURanbhhyV\n\
         SSrM6gGPOtXnEE0ehHEccVKPv+BbP/v7qB9PSHeDssYQHYkvUuEg\n\
         -----END ENCRYPTED PRIVATE KEY-----\n";
    /// `openssl pkcs8 -topk8 -nocrypt -outform der`
    const CLEAR: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgTjw2t3pZ6wih7fJyAB7rKAj556Gp6pasRVcsSWkqrvih\
         RANCAARPuvW4Gk0kRwCac2QLlMEf9rqcbFDSPY/PrOTGwGjz9m2Xnr0XiNtv4y4Vui1t9z5pVt7Y0UFWL97hXXjaf++Q";

    fn clear(pem: &[u8]) -> String {
        let text: Vec<&[u8]> = pem.split(|byte| *byte == b'\n').collect();
        text[1..text.len() - 2].iter().map(|line| String::from_utf8_lossy(line)).collect()
    }

    #[test]
    fn what_openssl_encrypts_is_read_with_the_password_and_with_no_other() {
        for pem in [AES_256, AES_128] {
            assert_eq!(encryption(pem.as_bytes()), Encryption::Pkcs8);
            assert_eq!(clear(&decrypt(pem.as_bytes(), b"sesame").unwrap()), CLEAR);
            assert_eq!(decrypt(pem.as_bytes(), b"other").unwrap_err(), EncryptedKeyError::WrongPassword);
            assert_eq!(decrypt(pem.as_bytes(), b"").unwrap_err(), EncryptedKeyError::WrongPassword);
        }
        assert_eq!(decrypt(SCRYPT.as_bytes(), b"sesame").unwrap_err(), EncryptedKeyError::Unsupported);
        assert_eq!(encryption(CLEAR.as_bytes()), Encryption::None);
    }

    #[test]
    fn a_key_that_is_cut_or_altered_is_an_error_and_never_a_panic() {
        let der = between(AES_256.as_bytes()).unwrap();
        for length in 0..der.len() {
            assert!(open(&der[..length], b"sesame").is_err(), "{length}");
        }
        // Not where the iterations stand: millions of them take long.
        let iterations = der.windows(4).position(|window| window[..2] == [INTEGER, 2]).unwrap();
        for place in (0..der.len()).filter(|place| !(iterations..iterations + 4).contains(place)) {
            for value in [0, 0x7F, 0x80, 0xFF] {
                let mut altered = der.clone();
                altered[place] = value;
                let _ = open(&altered, b"sesame");
            }
        }
        let mut many = der.clone();
        let field = [INTEGER, 4, 0x7F, 0xFF, 0xFF, 0xFF];
        many.splice(iterations..iterations + 4, field);
        assert!(open(&many, b"sesame").is_err());
    }
}
