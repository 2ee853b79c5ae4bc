//! Why a handshake failed, with messages for the operator. Clients rarely report the cause.

use std::fmt;

use super::alert::{Alert, INTERNAL_ERROR};
use super::engine::PeerIdentity;
use super::suite;

/// The number of kinds of failure.
pub const FAILURE_KINDS: usize = FailureKind::ALL.len();

/// Longest part of a peer's identity that is shown, in bytes.
const IDENTITY_SHOWN: usize = 64;

/// [`HandshakeFailure`] without its details: for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum FailureKind {
    /// [`HandshakeFailure::UnknownIdentity`]
    UnknownIdentity,
    /// [`HandshakeFailure::WrongKey`]
    WrongKey,
    /// [`HandshakeFailure::NoSharedCipherSuite`]
    NoSharedCipherSuite,
    /// [`HandshakeFailure::NoExtendedMasterSecret`]
    NoExtendedMasterSecret,
    /// [`HandshakeFailure::UnsupportedVersion`]
    UnsupportedVersion,
    /// [`HandshakeFailure::PeerAlert`]
    PeerAlert,
    /// [`HandshakeFailure::TimedOut`]
    TimedOut,
    /// [`HandshakeFailure::Reaped`]
    Reaped,
    /// [`HandshakeFailure::CredentialChanged`]
    CredentialChanged,
    /// [`HandshakeFailure::Protocol`]
    Protocol,
    /// [`HandshakeFailure::Fault`]
    Fault,
    /// [`HandshakeFailure::Certificate`]
    Certificate,
    /// [`HandshakeFailure::NoDevice`]
    NoDevice,
    /// [`HandshakeFailure::TooOften`]
    TooOften,
    /// [`HandshakeFailure::TableFull`]
    TableFull,
}

impl FailureKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [FailureKind; 15] = [
        FailureKind::UnknownIdentity,
        FailureKind::WrongKey,
        FailureKind::NoSharedCipherSuite,
        FailureKind::NoExtendedMasterSecret,
        FailureKind::UnsupportedVersion,
        FailureKind::PeerAlert,
        FailureKind::TimedOut,
        FailureKind::Reaped,
        FailureKind::CredentialChanged,
        FailureKind::Protocol,
        FailureKind::Fault,
        FailureKind::Certificate,
        FailureKind::NoDevice,
        FailureKind::TooOften,
        FailureKind::TableFull,
    ];

    /// The name in counters and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::UnknownIdentity => "unknown_identity",
            FailureKind::WrongKey => "wrong_key",
            FailureKind::NoSharedCipherSuite => "no_shared_cipher_suite",
            FailureKind::NoExtendedMasterSecret => "no_extended_master_secret",
            FailureKind::UnsupportedVersion => "unsupported_version",
            FailureKind::PeerAlert => "peer_alert",
            FailureKind::TimedOut => "timed_out",
            FailureKind::Reaped => "reaped",
            FailureKind::CredentialChanged => "credential_changed",
            FailureKind::Protocol => "protocol",
            FailureKind::Fault => "fault",
            FailureKind::Certificate => "certificate",
            FailureKind::NoDevice => "no_device",
            FailureKind::TooOften => "too_often",
            FailureKind::TableFull => "table_full",
        }
    }
}

/// The step of a handshake, as seen by the server (RFC 6347 §4.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeStep {
    /// A fragment of a ClientHello with a valid cookie was received; the rest is missing.
    Hello,
    /// ServerHello sent; no Certificate yet.
    Certificate,
    /// ServerHello sent; no ClientKeyExchange yet.
    KeyExchange,
    /// The keys are known; no CertificateVerify yet.
    CertificateVerify,
    /// The identity is known; no Finished yet.
    Finished,
}

impl fmt::Display for HandshakeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandshakeStep::Hello => "waiting for the rest of the client's hello",
            HandshakeStep::Certificate => "waiting for the client's certificate",
            HandshakeStep::CertificateVerify => "waiting for the client's signature",
            HandshakeStep::KeyExchange => "waiting for the client's key exchange",
            HandshakeStep::Finished => "waiting for the client's Finished",
        })
    }
}

/// A credential that is not configured but needed for a cipher suite of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The gateway's own certificate and key.
    OwnKey,
    /// CAs, or raw public keys of devices.
    Trust,
    /// A pre-shared key of a device.
    PresharedKey,
}

impl Missing {
    fn cause(self) -> &'static str {
        match self {
            Missing::OwnKey => "coap.certificate-file and coap.key-file are not in use",
            Missing::Trust => "coap.client-ca-file is not in use, and no device has a public-key-file",
            Missing::PresharedKey => "no device has a psk-file",
        }
    }
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// No key for this PSK identity. The client gets the same alert as for a wrong key (RFC 4279
    /// §2).
    UnknownIdentity(Box<[u8]>),
    /// The identity is known, but the client's Finished cannot be decrypted: its key differs.
    WrongKey(Box<[u8]>),
    /// None of the offered cipher suites is supported.
    NoSharedCipherSuite {
        /// The offered suites in the client's order, as IANA numbers without signalling values.
        offered: Box<[u16]>,
        /// The missing credential, if one of the suites would be usable with it.
        missing: Option<Missing>,
    },
    /// The client does not offer extended_master_secret (RFC 7627), which this engine requires.
    NoExtendedMasterSecret,
    /// The client's newest version, as on the wire (0xfeff is DTLS 1.0), is not DTLS 1.2.
    UnsupportedVersion(u16),
    /// The client aborted with this alert (RFC 5246 §7.2).
    PeerAlert {
        /// The alert's number.
        description: u8,
        /// The step of the handshake.
        step: HandshakeStep,
        /// The identity, if it was known by then.
        identity: Option<Box<[u8]>>,
    },
    /// The handshake timed out.
    TimedOut {
        /// The step of the handshake.
        step: HandshakeStep,
        /// The identity, if it was known by then.
        identity: Option<Box<[u8]>>,
    },
    /// Too many handshakes were in progress, and this was the oldest.
    Reaped,
    /// The key for this identity was removed or changed during the handshake.
    CredentialChanged(Box<[u8]>),
    /// The client violated the protocol; the fault.
    Protocol(Box<str>),
    /// A defect in the engine.
    Fault,
    /// The client's certificate or raw public key was not accepted, and why.
    Certificate(Box<str>),
    /// The client proved its identity, but no device has it.
    NoDevice(Box<PeerIdentity>),
    /// Its device completed more handshakes than [`Holder::max_handshakes`](crate::proto::Holder)
    /// allows.
    TooOften(Box<PeerIdentity>),
    /// There are already [`Limits::sessions`](super::Limits) sessions, and all were active within
    /// [`Limits::active`](super::Limits).
    TableFull(Box<PeerIdentity>),
}

impl HandshakeFailure {
    /// Its kind.
    pub fn kind(&self) -> FailureKind {
        match self {
            HandshakeFailure::UnknownIdentity(_) => FailureKind::UnknownIdentity,
            HandshakeFailure::WrongKey(_) => FailureKind::WrongKey,
            HandshakeFailure::NoSharedCipherSuite { .. } => FailureKind::NoSharedCipherSuite,
            HandshakeFailure::NoExtendedMasterSecret => FailureKind::NoExtendedMasterSecret,
            HandshakeFailure::UnsupportedVersion(_) => FailureKind::UnsupportedVersion,
            HandshakeFailure::PeerAlert { .. } => FailureKind::PeerAlert,
            HandshakeFailure::TimedOut { .. } => FailureKind::TimedOut,
            HandshakeFailure::Reaped => FailureKind::Reaped,
            HandshakeFailure::CredentialChanged(_) => FailureKind::CredentialChanged,
            HandshakeFailure::Protocol(_) => FailureKind::Protocol,
            HandshakeFailure::Fault => FailureKind::Fault,
            HandshakeFailure::Certificate(_) => FailureKind::Certificate,
            HandshakeFailure::NoDevice(_) => FailureKind::NoDevice,
            HandshakeFailure::TooOften(_) => FailureKind::TooOften,
            HandshakeFailure::TableFull(_) => FailureKind::TableFull,
        }
    }

    /// The PSK identity the client claimed, if the handshake got that far. It is unproven unless
    /// [`HandshakeFailure::proven`] returns it.
    pub fn identity(&self) -> Option<&[u8]> {
        match self {
            HandshakeFailure::UnknownIdentity(identity)
            | HandshakeFailure::WrongKey(identity)
            | HandshakeFailure::CredentialChanged(identity) => Some(identity),
            HandshakeFailure::TimedOut { identity, .. } | HandshakeFailure::PeerAlert { identity, .. } => {
                identity.as_deref()
            }
            _ => match self.proven()? {
                PeerIdentity::Psk(identity) => Some(identity),
                _ => None,
            },
        }
    }

    /// The identity the client proved, if the handshake got that far.
    pub fn proven(&self) -> Option<&PeerIdentity> {
        match self {
            HandshakeFailure::NoDevice(identity)
            | HandshakeFailure::TooOften(identity)
            | HandshakeFailure::TableFull(identity) => Some(identity),
            _ => None,
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeFailure::UnknownIdentity(identity) => {
                write!(f, "unknown PSK identity {}", Shown(identity))
            }
            HandshakeFailure::WrongKey(identity) => write!(f, "wrong key for {}", Shown(identity)),
            HandshakeFailure::NoSharedCipherSuite { offered, missing } => {
                f.write_str("no shared cipher suite")?;
                // The cause first: a log line is cut at some length, and the list is long.
                if let Some(missing) = missing {
                    write!(f, ": {}", missing.cause())?;
                }
                for (index, suite) in offered.iter().take(8).enumerate() {
                    f.write_str(if index == 0 { "; offered " } else { ", " })?;
                    write!(f, "{}", suite::Name(*suite))?;
                }
                match offered.len() {
                    0..=8 => Ok(()),
                    more => write!(f, " and {} more", more - 8),
                }
            }
            HandshakeFailure::NoExtendedMasterSecret => f.write_str("client lacks extended master secret"),
            HandshakeFailure::UnsupportedVersion(0xfeff) => f.write_str("client speaks only DTLS 1.0"),
            HandshakeFailure::UnsupportedVersion(version) => {
                write!(f, "client's version {version:#06x} is not DTLS 1.2")
            }
            HandshakeFailure::PeerAlert { description, step, identity } => {
                write!(f, "client gave up: {}, {step}", Alert(*description))?;
                let Some(identity) = identity else { return Ok(()) };
                write!(f, ", identity {}", Shown(identity))?;
                // It has sent its identity, and the next that it needs is the key: tinydtls.
                if (*description, *step) == (INTERNAL_ERROR, HandshakeStep::Finished) {
                    f.write_str("; some clients take no key of more than 16 bytes, as --psk hex makes")?;
                }
                Ok(())
            }
            HandshakeFailure::TimedOut { step, identity: None } => write!(f, "timed out {step}"),
            HandshakeFailure::TimedOut { step, identity: Some(identity) } => {
                write!(f, "timed out {step}, identity {}", Shown(identity))
            }
            HandshakeFailure::Reaped => f.write_str("dropped, too many handshakes under way"),
            HandshakeFailure::CredentialChanged(identity) => {
                write!(f, "key for {} was removed or changed meanwhile", Shown(identity))
            }
            HandshakeFailure::Protocol(what) => write!(f, "client broke the protocol: {what}"),
            HandshakeFailure::Fault => f.write_str("defect in the DTLS engine"),
            HandshakeFailure::Certificate(why) => write!(f, "client's certificate refused: {why}"),
            HandshakeFailure::NoDevice(identity) => {
                write!(f, "no device has the identity {}", Proven(identity))
            }
            HandshakeFailure::TooOften(identity) => {
                write!(f, "{} completed too many handshakes within a minute", Proven(identity))
            }
            HandshakeFailure::TableFull(identity) => {
                write!(
                    f,
                    "no room for a session of {}: all are active; raise coap.max-sessions",
                    Proven(identity)
                )
            }
        }
    }
}

impl std::error::Error for HandshakeFailure {}

/// An identity for the log.
struct Proven<'a>(&'a PeerIdentity);

impl fmt::Display for Proven<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PeerIdentity::Psk(identity) => write!(f, "{}", Shown(identity)),
            PeerIdentity::Certificate(certificate) => write!(f, "certificate {certificate}"),
            PeerIdentity::RawPublicKey(hash) => {
                f.write_str("raw public key ")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// A peer's bytes in quotes, escaped and cut.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(IDENTITY_SHOWN)];
        write!(f, "\"{}", shown.escape_ascii())?;
        f.write_str(if shown.len() < self.0.len() { "…\"" } else { "\"" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_read_as_sentences() {
        let shown = |failure: HandshakeFailure| failure.to_string();
        assert_eq!(
            shown(HandshakeFailure::UnknownIdentity(b"door-7"[..].into())),
            "unknown PSK identity \"door-7\""
        );
        assert_eq!(shown(HandshakeFailure::WrongKey(b"a\n\"b"[..].into())), r#"wrong key for "a\n\"b""#);
        assert_eq!(
            shown(HandshakeFailure::NoSharedCipherSuite { offered: [0xc02b, 0x1234].into(), missing: None }),
            "no shared cipher suite; offered TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, 0x1234"
        );
        assert_eq!(
            shown(HandshakeFailure::NoSharedCipherSuite { offered: [1; 10].into(), missing: None })
                .matches(", ")
                .count(),
            7
        );
        assert_eq!(
            shown(HandshakeFailure::NoSharedCipherSuite { offered: [].into(), missing: None }),
            "no shared cipher suite"
        );
        let missing = Some(Missing::Trust);
        assert_eq!(
            shown(HandshakeFailure::NoSharedCipherSuite { offered: [0xc02b].into(), missing }),
            "no shared cipher suite: coap.client-ca-file is not in use, and no device has a public-key-file; offered \
             TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
        );
        assert_eq!(
            shown(HandshakeFailure::TooOften(Box::new(PeerIdentity::Psk(b"door-7"[..].into())))),
            "\"door-7\" completed too many handshakes within a minute"
        );
        assert_eq!(
            shown(HandshakeFailure::TimedOut { step: HandshakeStep::Finished, identity: None }),
            "timed out waiting for the client's Finished"
        );
        assert_eq!(
            shown(HandshakeFailure::PeerAlert {
                description: 51,
                step: HandshakeStep::KeyExchange,
                identity: None
            }),
            "client gave up: decrypt_error (51), waiting for the client's key exchange"
        );
        let at_the_key = |description| HandshakeFailure::PeerAlert {
            description,
            step: HandshakeStep::Finished,
            identity: Some(b"door-7"[..].into()),
        };
        let text =
            "client gave up: decrypt_error (51), waiting for the client's Finished, identity \"door-7\"";
        assert_eq!(shown(at_the_key(51)), text);
        assert!(shown(at_the_key(80)).ends_with("no key of more than 16 bytes, as --psk hex makes"));
    }

    #[test]
    fn a_long_identity_is_cut() {
        let text = HandshakeFailure::UnknownIdentity(vec![b'x'; 60_000].into()).to_string();
        assert!(text.len() < 120, "{text}");
        assert!(text.ends_with("…\""));
    }

    #[test]
    fn kinds_are_numbered_in_their_order() {
        for (number, kind) in FailureKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }
}
