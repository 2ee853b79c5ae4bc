//! The uplink's words for what is wrong with TLS, said of a server that is no broker.
//!
//! [`northbound::tls`](crate::northbound::tls) explains a chain and names the keys of `[upstream]`;
//! the same rules judge the servers asked here, which have keys of their own.

use crate::northbound::tls::{self, Explained};

/// Which keys of the configuration help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The URL's, such as `est-url`.
    pub url: &'static str,
    /// The CA file's.
    pub ca_file: &'static str,
    /// Of the client certificate.
    pub certificate: &'static str,
}

/// Explains a TLS error met while connecting to `host`.
pub fn explain(error: &rustls::Error, host: &str, keys: Keys) -> Explained {
    let mut explained = tls::explain(error, host);
    explained.text = reworded(&explained.text, keys);
    explained
}

fn reworded(text: &str, keys: Keys) -> String {
    text.replace(" (a plain MQTT port has mqtt:// and usually 1883)", "")
        .replace(", or upstream.pin-sha256", ", or to its CA")
        .replace("upstream.certificate-file and key-file", keys.certificate)
        .replace("upstream.ca-file", keys.ca_file)
        .replace("upstream.url", keys.url)
        .replace("see upstream.tls-min", "TLS 1.2 or 1.3 is needed")
        .replace("the broker", "the server")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys =
        Keys { url: "est-url", ca_file: "est-ca-file", certificate: "bootstrap-certificate-file" };

    #[test]
    fn no_word_of_the_uplink_is_left() {
        use rustls::AlertDescription as Alert;
        use rustls::{CertificateError, Error, InvalidMessage, PeerIncompatible};
        let errors = [
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            Error::InvalidCertificate(CertificateError::Expired),
            Error::InvalidCertificate(CertificateError::NotValidForName),
            Error::InvalidCertificate(CertificateError::BadSignature),
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
            Error::AlertReceived(Alert::CertificateRequired),
            Error::AlertReceived(Alert::UnknownCA),
            Error::AlertReceived(Alert::UnrecognisedName),
            Error::AlertReceived(Alert::ProtocolVersion),
            Error::General("x".to_owned()),
        ];
        for error in errors {
            let text = explain(&error, "ca.test", KEYS).text;
            for word in ["broker", "upstream", "mqtt"] {
                assert!(!text.contains(word), "{text}");
            }
        }
        let text = explain(&Error::AlertReceived(Alert::CertificateRequired), "ca.test", KEYS).text;
        assert_eq!(text, "the server wants a client certificate; set bootstrap-certificate-file");
    }
}
