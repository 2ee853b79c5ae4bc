//! Northbound: the last stage of the path. Takes committed records from the journal and gets them
//! to the one upstream broker.
//!
//! ```text
//! journal ──Outbox──> publisher ──> session ──bytes──> io (DNS, TCP, TLS) ──> broker
//!                        │  ^                             │
//!                release │  └────────── PUBACK ───────────┘
//! ```
//!
//! | module | what it decides |
//! |---|---|
//! | [`outbox`] | what the publisher needs of the journal, and nothing more |
//! | [`session`] | one MQTT connection: CONNECT, CONNACK, keep-alive, DISCONNECT |
//! | [`reason_code`] | the codes, their texts, and what follows from each |
//! | [`ending`], [`reconnect`] | what the end of a connection means; when to try again |
//! | [`fallback`], [`address`] | with which version, with a will or without, at which address |
//! | [`publisher`], [`lane`], [`flight`] | which record goes next, when it may be released, when its answer is overdue |
//! | [`suspicion`] | whose fault a refusal, a close or silence is |
//! | [`rate`], [`pace`] | how fast everything goes, and how fast a backlog drains |
//! | [`budget`] | how many bytes of a lane may go in a day |
//! | [`retained`] | whether a record that comes again keeps its retain flag |
//! | [`retry`] | which rejected records are tried once more |
//! | [`publication`], [`wire`] | the bytes of one PUBLISH |
//! | [`inbound`] | messages for devices, and their answers |
//! | [`volatile`] | readings that need not survive us |
//! | [`own`], [`loss_report`] | what the gateway says about itself, and of what was lost |
//! | [`strikes`] | what goes along with readings and brings connections down is left out |
//! | [`uplink`] | all of these as one core: bytes and `now` in; bytes, events and the next deadline out |
//! | [`tls`], [`certificate`], [`chain_fault`] | whom to believe, also while the clock is wrong; what is wrong with a chain |
//! | [`revocation`] | the lists of what is revoked |
//! | [`jwt`] | tokens as the password |
//! | [`encrypted_key`] | a private key that is encrypted with a password |
//! | [`token_key`], [`pin_mark`] | a key in a PKCS #11 token; a PIN that was refused |
//! | [`io`] | sockets, files, tasks |
//!
//! Delivery is at least once. The journal alone keeps records: after a connection was lost, those
//! without a PUBACK are read again and sent again, and only those. After a restart of the process,
//! records that were acknowledged behind one that was not are sent again too, at most 65,536 of a
//! lane.

pub mod address;
pub mod advice;
pub mod anatomy;
pub mod budget;
pub mod certificate;
pub mod chain_fault;
pub mod encrypted_key;
pub mod ending;
pub mod fallback;
pub mod flight;
pub mod inbound;
pub mod io;
pub mod jwt;
pub mod lane;
pub mod loss_report;
pub mod outbox;
pub mod own;
pub mod pace;
pub mod pin_mark;
pub mod publication;
pub mod publisher;
pub mod rate;
pub mod reason_code;
pub mod reconnect;
pub mod retained;
pub mod retry;
pub mod revocation;
pub mod session;
pub mod settings;
pub mod settled;
pub mod strikes;
pub mod suspicion;
pub mod taken;
pub mod tls;
pub mod token_key;
pub mod uplink;
pub mod volatile;
pub mod wire;

pub use outbox::{Loss, Next, Outbox, Record, RejectedFull};
pub use settings::Settings;
pub use uplink::{Event, Status, Uplink};
