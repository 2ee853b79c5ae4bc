//! All that the simulation takes from the product, in one place.

pub use tombolo::clock::judge::{Judge, Look};
pub use tombolo::clock::saved::Saved;
pub use tombolo::clock::{Moment, UnixTime};
pub use tombolo::gate::pattern::Pattern;
pub use tombolo::gate::template::Template;
pub use tombolo::gate::{Device, Gate, Mapped, Psk, QoS, Quota, Received, Role, UplinkRule};
pub use tombolo::journal::commit::Outcome;
pub use tombolo::journal::cursor::{Cursor, Fetch, Step};
pub use tombolo::journal::range::RangeSet;
pub use tombolo::journal::record::{self, Batch, Ticket as JournalTicket};
pub use tombolo::journal::settings::{LaneSettings, WhenFull};
pub use tombolo::journal::storage::{Folder, Storage, StorageError, StoredFile};
pub use tombolo::journal::store::{LaneStatus, Seeds, Store};
pub use tombolo::journal::view::LaneView;
pub use tombolo::journal::{LossCause, LossReport, Refused};
pub use tombolo::message::{Content, Envelope, Lane, Method, Name, RecordId};
pub use tombolo::northbound::reason_code::Cause;
pub use tombolo::northbound::settings::{OwnTopics, Protocol};
pub use tombolo::northbound::uplink::{Closed, Uplink};
pub use tombolo::northbound::{Loss, Next, Outbox, Record, RejectedFull};
pub use tombolo::pipeline::{Completion, Event, Pipeline, ReadingStore};
pub use tombolo::proto::address::{Peer, SerialTicket, Ticket};
pub use tombolo::proto::coap::encoder::Encoder;
pub use tombolo::proto::coap::{Code, Endpoint, Message, MessageId, Token, Type};
pub use tombolo::proto::dtls::server::Certificates;
pub use tombolo::proto::dtls::{
    CloseCause, Engine, HandshakeFailure, Keyring, PeerIdentity, SendError, ServerEngine, SessionId, Sink,
};
pub use tombolo::proto::serial::checksum::Checksum;
pub use tombolo::proto::serial::framing::{Framing, line};
pub use tombolo::proto::serial::reading::{Extractor, Form, Unreadable};
pub use tombolo::proto::serial::{framing, modbus};
pub use tombolo::proto::{Holder, Route};
pub use tombolo::southbound::serial::port::Port;
pub use tombolo::southbound::serial::settings as serial_settings;
pub use tombolo::southbound::serial::taker::{Taker, Verdict};
pub use tombolo::southbound::{coap, serial};
pub use tombolo::telemetry::counters::{Counter, Counters};
pub use tombolo::{gate, journal, northbound};
