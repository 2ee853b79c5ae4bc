//! What the gateway observes and polls of devices that serve: between the core that says what is
//! asked when, the CoAP side, and the gate and the journal, which take a value as a reading that
//! the device sent.
//!
//! A confirmable message with a value is acknowledged when the journal has it, as a request is
//! answered.

use std::collections::HashMap;
use std::time::Instant;

use super::{Commands, awake, told};
use crate::clock::Moment;
use crate::daemon::reading_store::Readings;
use crate::downlink::command::{Outcome as CommandOutcome, Status};
use crate::downlink::delivery::{NotSent, Told};
use crate::downlink::mailbox::Mailbox;
use crate::downlink::router::Router;
use crate::downlink::served::{
    Asker, Receipt, Said, Served, ServedCounts, ServedPath, ServedSettings, ServedView, Taken, Verdict,
};
use crate::gate::Gate;
use crate::gate::stage::{DeviceIndex, Received, Refusal};
use crate::journal::Refused;
use crate::message::{Method, Name, Path};
use crate::pipeline::Disposition;
use crate::proto::address::Peer;
use crate::proto::coap::endpoint::client::Unsent;
use crate::proto::coap::{Ask, Held, Notice, Outcome, PeerId, Reply, RequestId};
use crate::southbound::coap::Intake;
use crate::system;

/// See the module.
pub(super) struct Serving {
    core: Served,
    asked: AskedNumbers,
    /// Values on their way to the disk.
    values: HashMap<u64, Value>,
    next_value: u64,
}

/// GETs and relations, by both of their numbers.
#[derive(Debug, Default)]
struct AskedNumbers {
    numbers: HashMap<RequestId, u64>,
    requests: HashMap<u64, RequestId>,
}

impl AskedNumbers {
    fn insert(&mut self, number: u64, request: RequestId) {
        if let Some(before) = self.requests.insert(number, request) {
            self.numbers.remove(&before);
        }
        self.numbers.insert(request, number);
    }

    fn remove(&mut self, request: RequestId) -> Option<u64> {
        let number = self.numbers.remove(&request)?;
        self.requests.remove(&number);
        Some(number)
    }

    /// Nothing more is wanted of this number.
    fn forget(&mut self, number: u64, coap: &mut Intake) {
        if let Some(request) = self.requests.remove(&number) {
            self.numbers.remove(&request);
            coap.forget_ask(request);
        }
    }
}

/// A value on its way to the disk.
#[derive(Clone, Copy, Debug)]
struct Value {
    /// Of its resource.
    number: u64,
    /// Of its notification.
    sequence: Option<u32>,
    held: Option<Held>,
}

impl Serving {
    pub(super) fn new(settings: &ServedSettings) -> Serving {
        // It only spreads in time.
        let seed = system::io::random::<8>().map_or(0, u64::from_le_bytes);
        Serving {
            core: Served::new(settings, seed),
            asked: AskedNumbers::default(),
            values: HashMap::new(),
            next_value: 0,
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.core.is_wanted()
    }

    /// The core, and what asks for it.
    fn split<'a>(
        &'a mut self,
        coap: &'a mut Intake,
        gate: &'a Gate,
        router: &'a Router,
        mailbox: &'a Mailbox,
    ) -> (&'a mut Served, SideAsker<'a>) {
        let Serving { core, asked, .. } = self;
        (core, SideAsker { coap, gate, router, mailbox, asked })
    }

    fn settle(&mut self, now: Instant, coap: &mut Intake, value: Value, taken: Taken) {
        let receipt = self.core.handle_taken(now, value.number, value.sequence, taken);
        self.forget(coap);
        answer(coap, value.held, receipt);
    }

    fn forget(&mut self, coap: &mut Intake) {
        while let Some(number) = self.core.poll_forgotten() {
            self.asked.forget(number, coap);
        }
    }
}

/// Asks over CoAP.
struct SideAsker<'a> {
    coap: &'a mut Intake,
    gate: &'a Gate,
    router: &'a Router,
    mailbox: &'a Mailbox,
    asked: &'a mut AskedNumbers,
}

impl Asker for SideAsker<'_> {
    fn reach(&mut self, now: Instant, device: &Name) -> Option<PeerId> {
        awake(now, self.coap, self.gate, self.router, device).map(Peer::id)
    }

    fn is_occupied(&mut self, device: &Name) -> bool {
        self.mailbox.is_occupied(device)
    }

    fn ask(&mut self, now: Instant, device: &Name, number: u64, path: &ServedPath) -> Result<(), NotSent> {
        let index = self.gate.device_by_id(device.as_str()).ok_or(NotSent::Unreachable)?;
        let holder = self.gate.holder(index).ok_or(NotSent::Unreachable)?;
        let (peer, _) = self.coap.heard(index).ok_or(NotSent::Unreachable)?;
        let ask = Ask {
            path: path.path.clone(),
            query: path.query.clone(),
            accept: path.accept,
            block_exponent: path.block_exponent,
            observe: path.table() == "observe",
            limit: self.gate.largest_payload(index) as usize,
        };
        let again = self.asked.requests.get(&number).copied();
        match self.coap.ask(now, holder, peer, again, &ask) {
            Ok(request) => {
                self.asked.insert(number, request);
                Ok(())
            }
            Err(Unsent::Busy) => Err(NotSent::Busy),
            Err(Unsent::Unproven) => Err(NotSent::Unreachable),
            Err(Unsent::TooLarge) => Err(NotSent::Never("the GET does not fit a message".to_owned())),
        }
    }

    fn forget(&mut self, number: u64) {
        self.asked.forget(number, self.coap);
    }
}

impl Commands {
    /// What is observed and polled of a device, if it was heard.
    pub fn served_views(&self, device: &Name) -> impl Iterator<Item = ServedView<'_>> {
        self.served.core.view(device)
    }

    /// The same of all devices.
    pub fn all_served_views(&self) -> impl Iterator<Item = (&Name, ServedView<'_>)> {
        self.served.core.views()
    }

    /// What is configured for a device.
    pub fn served_paths(&self, device: &Name, role: &Name) -> &[ServedPath] {
        self.served.core.paths(device, role)
    }

    /// Numbers since the start.
    pub fn served_counts(&self) -> ServedCounts {
        self.served.core.counts()
    }

    /// Takes over what a reload changed; [`Commands::meet_served`] follows.
    pub(super) fn replace_served(&mut self, now: Instant, settings: &ServedSettings, gate: &Gate) {
        let role_of = |device: &Name| {
            let view = gate.device(now, gate.device_by_id(device.as_str())?)?;
            Some(view.role.clone())
        };
        self.served.core.replace(now, settings, role_of);
    }

    /// Devices are there already: they are asked what is wanted of them.
    pub fn meet_served(&mut self, now: Instant, coap: &mut Intake, gate: &Gate) {
        self.served.forget(coap);
        if !self.served.is_wanted() {
            return;
        }
        for (index, peer) in coap.all_heard() {
            let Some(view) = gate.device(now, index) else { continue };
            let role = || Some(view.role.clone());
            self.served.core.handle_found(now, view.id, peer.id(), role);
        }
    }

    /// A device has spoken.
    pub(super) fn note_served_contact(
        &mut self,
        now: Instant,
        coap: &mut Intake,
        gate: &Gate,
        index: DeviceIndex,
        device: &Name,
    ) {
        if !self.served.is_wanted() {
            return;
        }
        let Some((peer, _)) = coap.heard(index) else { return };
        let role = || gate.device(now, index).map(|view| view.role.clone());
        let Commands { served, router, mailbox, .. } = self;
        let (core, mut asker) = served.split(coap, gate, router, mailbox);
        core.handle_contact(now, device, peer.id(), role, &mut asker);
    }

    /// What became of a GET, but for what the device said.
    pub(super) fn handle_served_reply(&mut self, now: Instant, reply: Reply) {
        let told = match reply.outcome {
            Outcome::Unintelligible(option) => Told::Failed(CommandOutcome::of(
                Status::Unknown,
                format!("the device's answer has the critical option {option}, which is not known here"),
            )),
            outcome => told(outcome),
        };
        let number = match told {
            Told::Acknowledged => self.served.asked.numbers.get(&reply.request).copied(),
            _ => self.served.asked.remove(reply.request),
        };
        if let Some(number) = number {
            self.served.core.handle_told(now, number, told);
        }
    }

    /// What is due, once a second.
    pub(super) fn care_for_served(&mut self, now: Instant, coap: &mut Intake, gate: &Gate) {
        let Commands { served, router, mailbox, .. } = self;
        let (core, mut asker) = served.split(coap, gate, router, mailbox);
        core.handle_timeout(now, &mut asker);
    }

    /// Takes what devices say to the gate.
    pub(super) fn take_values(&mut self, moment: &Moment, coap: &mut Intake, pipeline: &mut Readings) {
        while let Some(notice) = coap.poll_notice() {
            self.take_value(moment, coap, pipeline, &notice);
        }
    }

    fn take_value(&mut self, moment: &Moment, coap: &mut Intake, pipeline: &mut Readings, notice: &Notice) {
        let now = moment.now;
        let Serving { core, asked, values, next_value } = &mut self.served;
        // Without Observe it is the last that comes by this GET.
        let number = match notice.observe {
            Some(_) => asked.numbers.get(&notice.request).copied(),
            None => asked.remove(notice.request),
        };
        let found = number.and_then(|number| core.find(number).map(|found| (number, found)));
        let found = found.and_then(|(number, (device, path))| {
            let index = pipeline.gate.device_by_id(device.as_str())?;
            Some((number, index, path.reading.clone()))
        });
        let Some((number, index, reading)) = found else {
            coap.forget_ask(notice.request);
            return answer(coap, notice.held, Receipt::Reset);
        };
        pipeline.gate.seen(now, index);
        let said = Said {
            kind: notice.kind,
            code: notice.code,
            observe: notice.observe,
            max_age_s: notice.max_age_s,
            partial: notice.partial,
            refused: notice.refused,
        };
        match core.handle_said(now, number, &said) {
            Verdict::Take => {}
            Verdict::Drop => return answer(coap, notice.held, Receipt::Acknowledge),
            Verdict::Reject => return answer(coap, notice.held, Receipt::Reset),
        }
        let Ok(path) = Path::parse(&reading) else { return answer(coap, notice.held, Receipt::Reset) };
        let received = Received {
            path,
            query: None,
            method: Method::Put,
            payload: &notice.payload,
            content_format: notice.content_format,
            blockwise: notice.blockwise,
            stamp: moment.stamp(),
        };
        *next_value += 1;
        let taken = match coap.handle_served(now, index, *next_value, received, pipeline) {
            Disposition::Journaled => {
                let value = Value { number, sequence: notice.observe, held: notice.held };
                values.insert(*next_value, value);
                return;
            }
            Disposition::Passed | Disposition::Filtered => Taken::Passed,
            Disposition::Refused(Refusal::OverQuota { .. } | Refusal::Muted { .. }) => Taken::OverQuota,
            Disposition::Refused(refusal) => Taken::Refused(format!("the rules refuse the value: {refusal}")),
            Disposition::Unstored(Refused::TooLarge) => {
                Taken::Refused("the value is too large for the journal".to_owned())
            }
            Disposition::Unstored(_) => Taken::Unstored,
        };
        let value = Value { number, sequence: notice.observe, held: notice.held };
        self.served.settle(now, coap, value, taken);
    }

    /// The journal has, or has not, a value.
    pub fn handle_served_stored(&mut self, now: Instant, coap: &mut Intake, value: u64, stored: bool) {
        let Some(value) = self.served.values.remove(&value) else { return };
        let taken = if stored { Taken::Passed } else { Taken::Unstored };
        self.served.settle(now, coap, value, taken);
    }
}

/// Answers a message with a value, if it was confirmable.
fn answer(coap: &mut Intake, held: Option<Held>, receipt: Receipt) {
    let Some(held) = held else { return };
    match receipt {
        Receipt::Acknowledge => coap.acknowledge_value(held),
        Receipt::Nothing => coap.leave_value(held),
        Receipt::Reset => coap.reject_value(held),
    }
}
