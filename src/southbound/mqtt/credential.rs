//! The credential by which a client proved that it is its device.
//!
//! A device may have several. A session is judged by its own alone: as long as the device has it,
//! the session goes on, whatever becomes of the others.

use std::fmt;

use crate::gate::Gate;
use crate::gate::stage::DeviceIndex;
use crate::proto::dtls::PeerIdentity;

/// See the module. Kept with each session, also while it has no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// A certificate, or a raw public key.
    Certificate(PeerIdentity),
    /// User name and password: [`Login::fingerprint`](crate::gate::login::Login::fingerprint).
    Password([u8; 32]),
    /// A token; the hash of the key that signed it.
    Token([u8; 32]),
}

/// A credential as it is named to people: its kind, and of a public one its hash. It has no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialName {
    /// A certificate.
    Certificate,
    /// A raw public key, by its hash.
    PublicKey([u8; 32]),
    /// A password.
    Password,
    /// A key for tokens, by its hash.
    TokenKey([u8; 32]),
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialName::Certificate => f.write_str("certificate"),
            CredentialName::PublicKey(_) => f.write_str("public key"),
            CredentialName::Password => f.write_str("password"),
            CredentialName::TokenKey(_) => f.write_str("key for tokens"),
        }
    }
}

impl Credential {
    /// As it is named to people.
    pub(super) fn name(&self) -> CredentialName {
        match self {
            Credential::Certificate(PeerIdentity::RawPublicKey(hash)) => CredentialName::PublicKey(**hash),
            Credential::Certificate(_) => CredentialName::Certificate,
            Credential::Password(_) => CredentialName::Password,
            Credential::Token(key) => CredentialName::TokenKey(*key),
        }
    }

    /// Whether the device still has it. That it expired is told otherwise.
    pub(super) fn is_of(&self, device: DeviceIndex, gate: &Gate) -> bool {
        match self {
            Credential::Certificate(identity) => gate.recognise(identity) == Some(device),
            Credential::Password(login) => {
                gate.login_of(device).is_some_and(|known| known.fingerprint() == *login)
            }
            Credential::Token(key) => gate.jwt_keys_of(device).iter().any(|known| known.hash() == *key),
        }
    }
}
