//! The log lines that the network or a serial line can cause.

use crate::message::Name;

/// Their kinds; each has a limit of its own. Ports are those of the configuration, so there are
/// few.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LineKind {
    /// A handshake failed.
    Handshake,
    /// A reading was refused.
    Refused,
    /// A reading could not be stored.
    Unstored,
    /// A serial frame of this port was no reading, or was dropped.
    Unreadable(Name),
    /// A device on this port answered too late, or something else than it was asked.
    LateAnswer(Name),
    /// The peer of this port speaks telnet.
    Telnet(Name),
    /// A connection of an MQTT client was not accepted.
    MqttAccept,
    /// A TLS handshake of an MQTT client failed.
    MqttHandshake,
    /// An MQTT client was refused.
    MqttRefused,
    /// A filter of an MQTT client was refused.
    MqttFilterRefused,
    /// A client or session ended because its credential was taken away.
    Withdrawn,
}

impl std::fmt::Display for LineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LineKind::Handshake => f.write_str("handshake failed"),
            LineKind::Refused => f.write_str("reading refused"),
            LineKind::Unstored => f.write_str("reading not stored"),
            LineKind::Unreadable(port) => write!(f, "frame is no reading, serial port {port}"),
            LineKind::LateAnswer(port) => write!(f, "late answer, serial port {port}"),
            LineKind::Telnet(port) => write!(f, "peer speaks telnet, serial port {port}"),
            LineKind::MqttAccept => f.write_str("MQTT connection not accepted"),
            LineKind::MqttHandshake => f.write_str("TLS handshake of an MQTT client failed"),
            LineKind::MqttRefused => f.write_str("MQTT client refused"),
            LineKind::MqttFilterRefused => f.write_str("MQTT subscription refused"),
            LineKind::Withdrawn => f.write_str("session ended with its credential"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::telemetry::limited::{Limiter, Settings};

    #[test]
    fn a_noisy_port_hides_no_line_of_another_and_what_is_left_out_is_counted_under_its_name() {
        let (start, interval) = (Instant::now(), Duration::from_secs(10));
        let mut limiter = Limiter::new(Settings { burst: 3, interval });
        let port = |name: &str| Name::parse(name).unwrap();
        let noisy = || LineKind::Unreadable(port("noisy"));
        assert_eq!((0..1000).filter(|_| limiter.permit(start, noisy())).count(), 3);
        assert!(limiter.permit(start, LineKind::Unreadable(port("meter"))));
        assert!(limiter.permit(start, LineKind::LateAnswer(port("noisy"))));
        let counted = limiter.poll_event(start + interval).unwrap();
        assert_eq!(counted.kind.to_string(), "frame is no reading, serial port noisy");
        assert_eq!((counted.kind, counted.count), (noisy(), 997));
        // Nothing is kept of a port that is silent, or taken out.
        assert_eq!((limiter.poll_event(start + interval), limiter.poll_timeout()), (None, None));
    }
}
