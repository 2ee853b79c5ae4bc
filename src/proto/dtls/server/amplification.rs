//! How much is sent to an address that has not shown that it receives.

/// The factor of bytes sent to an address a session moved to over bytes received from there, for
/// all kinds of answers.
pub(super) const AMPLIFICATION: usize = 3;
