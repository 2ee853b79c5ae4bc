//! MQTT southbound: local clients, MQTT 3.1.1 and 5.0, over TLS, on loopback or on a Unix socket.
//!
//! ```text
//! io, daemon: bytes ──> connection: packets ──> intake: identity, sessions ──> pipeline (gate, journal)
//!       <── bytes ───── connection <── session: answers in order <── committed
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `intake` | the whole: who is connected, and what becomes of each packet; below it `connect` (who a client is) and `local` (subscriptions, messages between clients) |
//! | `connection` | one connection: bytes to packets, and its times |
//! | `session` | what outlives a connection: order, exactly once, the will |
//! | `credential` | what proved that a client is its device |
//! | `framing` | where a packet ends |
//! | `packet` | both versions as one vocabulary |
//! | `answer` | the reason codes of refusals |
//! | `filter` | topic filters |
//! | `explain` | which local rule decides, for `acl explain` |
//! | `bus` | messages between local clients |
//! | `local_rights` | who may publish and receive them: the local rules of a role, searched at once |
//! | `queue` | messages of QoS 1 and 2 for one client, kept while it is away |
//! | `refusal_rate` | how many publishes are refused without a pause |
//! | `denied_again` | clients of 3.1.1 that are disconnected for the same publish each time |
//! | `newest` | of what is refused to each device, how many and the newest |
//! | `refused_connects` | the refused connects for people |
//! | `refused_filters` | the refused filters of subscriptions for people |
//! | `user_name` | a CONNECT of MQTT 5 with a password and without a user name |
//! | `signature_rate` | how many wrong signatures of tokens are verified |
//! | `verification` | passwords that are costly to verify |
//! | `failed_handshakes` | TLS handshakes that failed: of what kind, and whether many do |
//! | `admission` | how many strangers may knock at once |
//! | `tls` | certificate, key, and the verdict on clients' certificates |
//!
//! A publish is a reading: its topic is a path in the space of the client's device. PUBACK and
//! PUBREC go out after the journal's commit. docs/mqtt.md is the user's page.

pub mod admission;
pub mod answer;
pub mod bus;
mod connection;
mod credential;
mod denied_again;
pub mod explain;
pub mod failed_handshakes;
pub mod filter;
mod framing;
mod intake;
pub mod io;
mod local_rights;
mod newest;
mod packet;
mod queue;
mod refusal_rate;
mod refused_connects;
mod refused_filters;
mod session;
pub mod settings;
mod signature_rate;
#[cfg(test)]
mod tests;
pub mod tls;
mod user_name;
mod verification;

pub use bus::{BusMessage, BusRequest};
pub use connection::{Ended, Source};
pub use credential::CredentialName;
pub use intake::{Accepted, ConnectionNumber, Delivered, Event, Intake, Next, NotDelivered, Pressure};
pub use packet::Version;
pub use refused_connects::RefusedConnect;
pub use refused_filters::RefusedFilter;
pub use settings::Settings;
pub use verification::Verification;
