//! The stages of a connection.
//!
//! ```text
//! Waiting ──due──> Connecting ──transport──> Opening ──CONNACK──> Status ──> Subscribing ──> Flowing
//!    ^                 │                        │ a better variant first │      ^             │ │
//!    │                 │                        v                        │      └── Draining <┘ │
//!    └─────────────────┴── failed ──────────── Over <──────── lost ──────┴─────────────────────┘
//! ```
//!
//! **No stage is without a deadline.** Waiting has the next attempt; Connecting, Opening, Status,
//! Subscribing, SubscribingHint and SubscribingCommands (between that and Flowing, where hints and
//! commands are wanted), Draining, Clearing (which leads to SubscribingCommands or TryingReading),
//! Renewing and Closing have their own; Flowing has the keep-alive, and the timer of the oldest
//! publish. Over is left at once: the shell closes, whatever the broker does.

use std::time::Instant;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No transport; an attempt is due at the time `Reconnect` says.
    Waiting,
    /// The shell is making a transport.
    Connecting { until: Instant },
    /// CONNECT is sent.
    Opening,
    /// The status is sent, its answer awaited.
    Status { until: Instant },
    /// The subscription to the status is sent, its answer awaited.
    Subscribing { until: Instant },
    /// The subscription to update hints is sent, its answer awaited.
    SubscribingHint { until: Instant },
    /// The subscription to commands is sent, its answer awaited.
    SubscribingCommands { until: Instant },
    /// All flows.
    Flowing,
    /// Nothing more is sent until all is answered; then the subscription is tried once more.
    Draining { until: Instant },
    /// Nothing more is sent until all is answered; then something is tried alone: a subscription
    /// that was refused, or a publish for a check.
    Clearing { until: Instant },
    /// A publish for a check is sent, its answer awaited.
    TryingReading { until: Instant },
    /// Nothing more is sent until all is answered; then the connection is replaced by one with a
    /// new password, or by the trial of another certificate.
    Renewing { until: Instant },
    /// The last words are said.
    Closing { until: Instant },
    /// Over since then; the shell writes what is left and closes.
    Over { since: Instant },
}

impl Stage {
    /// Whether a subscription waits for its answer.
    pub fn is_subscribing(self) -> bool {
        matches!(
            self,
            Stage::Subscribing { .. } | Stage::SubscribingHint { .. } | Stage::SubscribingCommands { .. }
        )
    }

    /// When it ends by itself, if it has a deadline of its own.
    pub fn until(self) -> Option<Instant> {
        match self {
            Stage::Connecting { until }
            | Stage::Status { until }
            | Stage::Subscribing { until }
            | Stage::SubscribingHint { until }
            | Stage::SubscribingCommands { until }
            | Stage::Draining { until }
            | Stage::Clearing { until }
            | Stage::TryingReading { until }
            | Stage::Renewing { until }
            | Stage::Closing { until } => Some(until),
            Stage::Waiting | Stage::Opening | Stage::Flowing | Stage::Over { .. } => None,
        }
    }
}
