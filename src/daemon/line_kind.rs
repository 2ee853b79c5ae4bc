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
    /// A connection of an MQTT client was not accepted.
    MqttAccept,
    /// An MQTT client was refused.
    MqttRefused,
}

impl std::fmt::Display for LineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LineKind::Handshake => "handshake failed",
            LineKind::Refused => "reading refused",
            LineKind::Unstored => "reading not stored",
            LineKind::Unreadable => "frame is no reading",
            LineKind::LateAnswer => "late answer",
            LineKind::MqttAccept => "MQTT connection not accepted",
            LineKind::MqttRefused => "MQTT client refused",
        })
    }
}
