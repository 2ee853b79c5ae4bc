//! The log lines that the network can cause.

/// Their kinds; each has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineKind {
    /// A handshake failed.
    Handshake,
    /// A reading was refused.
    Refused,
    /// A reading could not be stored.
    Unstored,
    /// A serial frame was no reading.
    Unreadable,
    /// A unit on a bus answered too late.
    LateAnswer,
}
