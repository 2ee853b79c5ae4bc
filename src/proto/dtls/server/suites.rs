//! The supported cipher suites: three key exchanges, four ciphers, always SHA-256.
//!
//! RFC 6655 (PSK with CCM), RFC 5487 (PSK with GCM), RFC 8442 (ECDHE_PSK), RFC 7251 (ECDHE_ECDSA
//! with CCM), RFC 5289 (ECDHE_ECDSA with GCM), RFC 7905 (ChaCha20-Poly1305).

use super::aead::Aead;

/// The key exchange of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyExchange {
    /// RFC 4279 §2
    Psk,
    /// RFC 5489 §2
    EcdhePsk,
    /// RFC 8422 §2
    EcdheEcdsa,
}

impl KeyExchange {
    pub fn has_psk(self) -> bool {
        self != KeyExchange::EcdheEcdsa
    }

    pub fn has_ecdhe(self) -> bool {
        self != KeyExchange::Psk
    }

    /// The number of public-key operations: two for ECDHE, and two for the signatures of server and
    /// client.
    pub fn work(self) -> u32 {
        match self {
            KeyExchange::Psk => 0,
            KeyExchange::EcdhePsk => 2,
            KeyExchange::EcdheEcdsa => 4,
        }
    }
}

/// A cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suite {
    /// The IANA number.
    pub number: u16,
    pub exchange: KeyExchange,
    pub aead: Aead,
}

const fn suite(number: u16, exchange: KeyExchange, aead: Aead) -> Suite {
    Suite { number, exchange, aead }
}

/// All supported suites.
pub(super) const SUITES: [Suite; 12] = [
    suite(0xc0a8, KeyExchange::Psk, Aead::Ccm8),
    suite(0xc0a4, KeyExchange::Psk, Aead::Ccm),
    suite(0x00a8, KeyExchange::Psk, Aead::Gcm),
    suite(0xccab, KeyExchange::Psk, Aead::ChaCha),
    suite(0xd003, KeyExchange::EcdhePsk, Aead::Ccm8),
    suite(0xd005, KeyExchange::EcdhePsk, Aead::Ccm),
    suite(0xd001, KeyExchange::EcdhePsk, Aead::Gcm),
    suite(0xccac, KeyExchange::EcdhePsk, Aead::ChaCha),
    suite(0xc0ae, KeyExchange::EcdheEcdsa, Aead::Ccm8),
    suite(0xc0ac, KeyExchange::EcdheEcdsa, Aead::Ccm),
    suite(0xc02b, KeyExchange::EcdheEcdsa, Aead::Gcm),
    suite(0xcca9, KeyExchange::EcdheEcdsa, Aead::ChaCha),
];

/// The IANA names of all supported suites.
pub fn names() -> impl Iterator<Item = &'static str> {
    SUITES.into_iter().map(Suite::name)
}

impl Suite {
    pub fn find(number: u16) -> Option<Suite> {
        SUITES.into_iter().find(|suite| suite.number == number)
    }

    pub fn name(self) -> &'static str {
        crate::proto::dtls::suite::Name(self.number).as_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_its_name() {
        for suite in SUITES {
            let name = suite.name();
            let exchange = match suite.exchange {
                KeyExchange::Psk => "TLS_PSK_WITH_",
                KeyExchange::EcdhePsk => "TLS_ECDHE_PSK_WITH_",
                KeyExchange::EcdheEcdsa => "TLS_ECDHE_ECDSA_WITH_",
            };
            let cipher = match suite.aead {
                Aead::Ccm8 => "AES_128_CCM_8",
                Aead::Ccm => "AES_128_CCM",
                Aead::Gcm => "AES_128_GCM_SHA256",
                Aead::ChaCha => "CHACHA20_POLY1305_SHA256",
            };
            let rest = name.strip_prefix(exchange).unwrap().strip_prefix(cipher).unwrap();
            assert!(rest.is_empty() || rest == "_SHA256", "{name}");
        }
    }
}
