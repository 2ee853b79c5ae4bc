//! What a certificate is asked for, and what can come of it: the boundary between the renewal,
//! which decides, and the sources (EST, a program), which fetch.
//!
//! A source keeps no state and decides nothing: it is given an [`Order`] and answers with one
//! [`Outcome`]. A further source is one file.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::csr_attributes::CsrAttributes;
use crate::northbound::settings::TokenSettings;

/// A certificate chain and its private key, with which a source authenticates itself.
#[derive(Clone)]
pub struct Identity {
    /// The chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The private key, PKCS#8 DER, or a reference to one in `token`.
    pub key: Arc<Zeroizing<Vec<u8>>>,
    /// The token that has the key.
    pub token: Option<TokenSettings>,
}

/// One request for a certificate.
#[derive(Clone)]
pub struct Order {
    /// The certificate's name in the configuration, `[certificate.NAME]`.
    pub name: String,
    /// The signing request (PKCS#10, RFC 2986), DER.
    pub csr: Vec<u8>,
    /// What kind of request.
    pub kind: OrderKind,
    /// The certificate to authenticate with: the current one for a renewal, the bootstrap
    /// certificate for the first. `None`: by user name and password alone.
    pub identity: Option<Identity>,
}

/// The first certificate, or the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// EST `simpleenroll` (RFC 7030 §4.2.1).
    Enroll,
    /// EST `simplereenroll` (RFC 7030 §4.2.2): subject and alternative names as in the current one.
    Reenroll,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A chain, leaf first, DER. It is not validated yet, only parsed.
    Issued {
        /// `1..=8` certificates.
        chain: Vec<Vec<u8>>,
    },
    /// Not yet: ask again with the same request (RFC 7030 §4.2.3, 202 with Retry-After).
    Later {
        /// How long to wait, as the source says; bounded by the caller.
        after: Duration,
    },
    /// The source answered, and will not issue this.
    Refused {
        /// What it said, one line, without control characters, at most 200 bytes.
        cause: String,
    },
    /// The source could not be asked, or its answer cannot be used: a fault of network or server.
    Failed {
        /// What went wrong, one line, at most 200 bytes.
        cause: String,
    },
}

/// The answer of a source, in time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where certificates come from.
pub trait Source: Send + Sync {
    /// Asks for a certificate. It ends within the source's own time limit, whatever the peer does.
    fn order(&self, order: Order) -> Answer<'_, Outcome>;

    /// The CA certificates the source offers, DER (EST `cacerts`, RFC 7030 §4.1); `None` where the
    /// source has none to offer.
    ///
    /// # Errors
    /// What went wrong, one line.
    fn anchors(&self) -> Answer<'_, Result<Option<Vec<Vec<u8>>>, String>>;

    /// What the source wants a request to have (EST `csrattrs`, RFC 7030 §4.5); `None`: nothing.
    ///
    /// # Errors
    /// What went wrong, one line.
    fn attributes(&self) -> Answer<'_, Result<Option<CsrAttributes>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Whether the source can be reached now, without asking for a certificate: for `check`.
    ///
    /// # Errors
    /// What went wrong, one line.
    fn reach(&self) -> Answer<'_, Result<String, String>>;
}
