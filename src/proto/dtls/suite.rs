//! Names of cipher suites for logs (IANA TLS Cipher Suites registry).

use std::fmt;

/// The mandatory suite of CoAP with PSK (RFC 6655, RFC 7252 §9.1.3.1).
pub const PSK_WITH_AES_128_CCM_8: u16 = 0xc0a8;

/// Whether the number is a signal rather than a suite: renegotiation (RFC 5746), fallback (RFC
/// 7507), or a grease value (RFC 8701).
pub fn is_signal(suite: u16) -> bool {
    matches!(suite, 0x00ff | 0x5600) || (suite & 0x0f0f == 0x0a0a && suite >> 8 == suite & 0xff)
}

/// A cipher suite, displayed by its IANA name if known here, else by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub u16);

impl Name {
    /// The IANA name, if known here.
    pub fn as_str(self) -> Option<&'static str> {
        Some(match self.0 {
            0x002f => "TLS_RSA_WITH_AES_128_CBC_SHA",
            0x0035 => "TLS_RSA_WITH_AES_256_CBC_SHA",
            0x008c => "TLS_PSK_WITH_AES_128_CBC_SHA",
            0x008d => "TLS_PSK_WITH_AES_256_CBC_SHA",
            0x009c => "TLS_RSA_WITH_AES_128_GCM_SHA256",
            0x00a8 => "TLS_PSK_WITH_AES_128_GCM_SHA256",
            0x00a9 => "TLS_PSK_WITH_AES_256_GCM_SHA384",
            0x00aa => "TLS_DHE_PSK_WITH_AES_128_GCM_SHA256",
            0x00ab => "TLS_DHE_PSK_WITH_AES_256_GCM_SHA384",
            0x00ae => "TLS_PSK_WITH_AES_128_CBC_SHA256",
            0x00af => "TLS_PSK_WITH_AES_256_CBC_SHA384",
            0x1301 => "TLS_AES_128_GCM_SHA256",
            0x1302 => "TLS_AES_256_GCM_SHA384",
            0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
            0x1304 => "TLS_AES_128_CCM_SHA256",
            0x1305 => "TLS_AES_128_CCM_8_SHA256",
            0xc009 => "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
            0xc00a => "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
            0xc013 => "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
            0xc014 => "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
            0xc023 => "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
            0xc024 => "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384",
            0xc02b => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            0xc02c => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            0xc02f => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            0xc030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            0xc035 => "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA",
            0xc036 => "TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA",
            0xc037 => "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256",
            0xc038 => "TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA384",
            0xc09c => "TLS_RSA_WITH_AES_128_CCM",
            0xc0a0 => "TLS_RSA_WITH_AES_128_CCM_8",
            0xc0a4 => "TLS_PSK_WITH_AES_128_CCM",
            0xc0a5 => "TLS_PSK_WITH_AES_256_CCM",
            PSK_WITH_AES_128_CCM_8 => "TLS_PSK_WITH_AES_128_CCM_8",
            0xc0a9 => "TLS_PSK_WITH_AES_256_CCM_8",
            0xc0ac => "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
            0xc0ad => "TLS_ECDHE_ECDSA_WITH_AES_256_CCM",
            0xc0ae => "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
            0xc0af => "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8",
            0xcca8 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            0xcca9 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            0xccab => "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256",
            0xccac => "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
            0xd001 => "TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256",
            0xd002 => "TLS_ECDHE_PSK_WITH_AES_256_GCM_SHA384",
            0xd003 => "TLS_ECDHE_PSK_WITH_AES_128_CCM_8_SHA256",
            0xd005 => "TLS_ECDHE_PSK_WITH_AES_128_CCM_SHA256",
            _ => return None,
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_not_suites() {
        for signal in [0x00ff, 0x5600, 0x0a0a, 0xfafa] {
            assert!(is_signal(signal), "{signal:#06x}");
        }
        for suite in [PSK_WITH_AES_128_CCM_8, 0x00a8, 0x0aaa, 0x1a0a] {
            assert!(!is_signal(suite), "{suite:#06x}");
        }
    }
}
