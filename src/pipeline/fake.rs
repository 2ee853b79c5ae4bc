//! A store in the hand of a test, and a gate in front of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Completion, Pipeline, ReadingStore};
use crate::gate::login::{Login, PasswordHash, SALT_LENGTH};
use crate::gate::pattern::Pattern;
use crate::gate::settings::ReadingFilter;
use crate::gate::stage::{Mapped, Received};
use crate::gate::template::Template;
use crate::gate::{Device, Gate, QoS, Quota, Role, Settings, UplinkRule};
use crate::journal::Refused;
use crate::message::{Method, Name, Path, RecordId, Stamp};
use crate::proto::address::Ticket;

/// A store that answers when it is told to, refuses what it is told to, and may die.
#[derive(Debug, Default)]
pub(crate) struct FakeStore {
    /// Why it takes nothing at present.
    pub(crate) refuses: Option<Refused>,
    /// What it took and has not answered: ticket and topic.
    pub(crate) taken: VecDeque<(Ticket, String)>,
    sequence: u64,
    completions: VecDeque<Completion>,
}

impl FakeStore {
    /// Commits the oldest that was taken, or fails it.
    pub(crate) fn answer(&mut self, stored: bool) {
        let (ticket, _) = self.taken.pop_front().expect("something was taken");
        self.completions.push_back(Completion { ticket, stored });
    }

    /// Commits the newest that was taken, as if it were in another lane.
    pub(crate) fn answer_newest(&mut self) {
        let (ticket, _) = self.taken.pop_back().expect("something was taken");
        self.completions.push_back(Completion { ticket, stored: true });
    }

    /// Closes: what is not committed fails, and nothing more is taken.
    pub(crate) fn die(&mut self) {
        while !self.taken.is_empty() {
            self.answer(false);
        }
        self.refuses = Some(Refused::Closed);
    }
}

impl ReadingStore for FakeStore {
    fn append(&mut self, reading: &Mapped<'_>, ticket: Ticket) -> Result<RecordId, Refused> {
        if let Some(refused) = self.refuses {
            return Err(refused);
        }
        self.taken.push_back((ticket, reading.content().topic.to_owned()));
        self.sequence += 1;
        Ok(RecordId { run: 1, sequence: self.sequence })
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }
}

impl Pipeline<FakeStore> {
    /// The device `door-7` (MQTT password `sesame`) may POST and DELETE to `t/#`, and to `live/#`
    /// with `qos = 0`; `burst` readings at once, then one a second.
    pub(crate) fn fake(now: Instant, burst: u32) -> Pipeline<FakeStore> {
        Pipeline::fake_with(now, burst, &ReadingFilter::default())
    }

    /// The same, with this filter in both rules.
    pub(crate) fn fake_with(now: Instant, burst: u32, filter: &ReadingFilter) -> Pipeline<FakeStore> {
        let gate = Gate::new(Pipeline::fake_settings(burst, filter), now);
        assert_eq!(gate.problems(), []);
        Pipeline::new(gate, FakeStore::default())
    }

    /// What the gate of [`Pipeline::fake_with`] is made from.
    pub(crate) fn fake_settings(burst: u32, filter: &ReadingFilter) -> Settings {
        let name = |text| Name::parse(text).expect("a name");
        let rule = |rule, pattern, qos| UplinkRule {
            filter: filter.clone(),
            qos,
            retain: true,
            delete: true,
            ..UplinkRule::new(name(rule), Pattern::parse(pattern).expect("a pattern"))
        };
        let role = Role {
            quota: Quota { messages: 1, bytes: 1 << 20, per: Duration::from_secs(1), burst },
            uplink: vec![rule("live", "live/#", QoS::AtMostOnce), rule("t", "t/#", QoS::AtLeastOnce)],
            ..Role::new(name("sensor"))
        };
        let device = Device {
            login: Some(Box::new(Login {
                username: "door-7".to_owned(),
                password: PasswordHash::of_generated(b"sesame", [0; SALT_LENGTH]),
            })),
            ..Device::new(name("door-7"), name("sensor"))
        };
        Settings {
            gateway: name("gw"),
            prefix: "tombolo/gw".to_owned(),
            reading: Some(Template::parse("{prefix}/{device}/up/{path}").expect("a template")),
            own: Default::default(),
            reply: None,
            roles: vec![role],
            devices: vec![device.into()],
            fleets: Vec::new(),
            withheld: Default::default(),
        }
    }

    /// The store.
    pub(crate) fn store(&mut self) -> &mut FakeStore {
        &mut self.store
    }
}

/// A reading.
pub(crate) fn received<'a>(method: Method, path: &'a str, payload: &'a [u8]) -> Received<'a> {
    let path = Path::parse(path).expect("a path");
    let stamp = Stamp { boottime_ms: 1, wall_ms: None };
    Received { path, query: None, method, payload, content_format: None, blockwise: false, stamp }
}
