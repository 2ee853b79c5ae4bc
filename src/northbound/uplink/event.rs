//! What the uplink reports.

use std::time::Duration;

use crate::northbound::fallback::Variant;
use crate::northbound::publisher;
use crate::northbound::session::Limits;
use crate::northbound::wire::Version;

/// What the uplink reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// CONNACK with success, and the connection is used.
    Connected {
        /// The protocol spoken.
        version: Version,
        /// What the broker allows.
        limits: Limits,
        /// The id the broker gave us, if it did not like ours.
        assigned_client_id: Option<String>,
    },
    /// No connection came about.
    Failed {
        /// What happened and, where known, what to do.
        what: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// The connection is gone.
    Lost {
        /// What happened.
        what: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// The password of this connection is about to expire, or has expired: the next connection is
    /// made at once with a new one.
    PasswordRenewal,
    /// The broker ended the connection for one that `tombolo check` made beside it: the next one is
    /// made when the check is over.
    EndedForCheck,
    /// The broker took this variant; before it is used, a better one is tried once more.
    Confirming {
        /// What it took.
        accepted: Variant,
    },
    /// From now on MQTT 3.1.1 is spoken; 5 is tried again at every reconnect.
    FellBack {
        /// What 5 failed with.
        why: String,
    },
    /// From now on and for an hour CONNECT has no will.
    WillLeftOut {
        /// What it failed with.
        why: String,
    },
    /// The broker closed the connection so often within 10 min, and nothing shows why.
    ClosedAgain {
        /// How often.
        times: usize,
    },
    /// The client id is probably used elsewhere: attempts are minutes apart.
    ClientIdElsewhere,
    /// Our own status topic showed us offline; it was set right.
    StatusRepaired,
    /// The broker does not let us read our own status topic.
    SubscriptionRefused {
        /// The reason code.
        code: u8,
    },
    /// The broker closes the connection over the subscription to our own status: it is left out for
    /// an hour.
    SubscriptionLeftOut,
    /// The broker does not let us read the topic of update hints.
    HintRefused {
        /// The reason code.
        code: u8,
    },
    /// The broker closes the connection over the subscription to update hints: it is left out for
    /// an hour.
    HintLeftOut,
    /// The broker does not let us subscribe to commands by this filter.
    CommandsRefused {
        /// The filter.
        filter: String,
        /// The reason code.
        code: u8,
    },
    /// The broker closes the connection over the subscription to commands: it is left out for an
    /// hour.
    CommandsLeftOut,
    /// Of the publisher.
    Publisher(publisher::Event),
}

/// That another client probably connects with our client id, and what there is to do.
pub fn used_elsewhere(client_id: &str) -> String {
    format!(
        "another client probably connects with this gateway's client id, {client_id}, so that the broker disconnects them in \
         turn; give each gateway an id of its own ([gateway] id or [upstream] client-id; on a copied card `tombolo firstboot \
         --mark` and a reboot)"
    )
}
