//! One filling of the output: who goes next, and what waits.
//!
//! In this order: nothing but the gateway's own messages while the connection is made ready; what
//! must be alone in flight; then the flow, in which suspects hold at most half the window, own
//! messages and readings take turns, and `high` gets three of four places.

use std::time::{Duration, Instant};

use super::Publisher;
use super::report::{Filled, Hold};
use super::send::{Sender, Step};
use super::solo::{ALONE_WITHIN, Alone, QUIET};
use crate::northbound::lane::State;
use crate::northbound::outbox::Outbox;
use crate::northbound::retained::NewestRetained;
use crate::northbound::suspicion::{Manner, RecordPlace};

/// Output is filled up to here, then written.
pub const FILL_BYTES: usize = 48 * 1024;
/// Records read from the journal in one fill at most, so that mass expiry does not hold the thread.
const READS_MAX: usize = 4096;
/// For so long a connection carries what flows before a suspect that may close it.
const FLOW_FIRST: Duration = Duration::from_secs(2);
/// For so long a suspect waits for others to be taken before it.
const COMPANY_WITHIN: Duration = Duration::from_secs(5);

/// Where the flow stands within one filling.
struct Flow {
    reads: usize,
    /// Which lanes have nothing more to send, by index.
    dry: [bool; 2],
    own_dry: bool,
    trials_dry: bool,
    suspects: usize,
    since_volatile: usize,
    /// Trials wait until the lanes have been read once.
    flow_first: bool,
    /// No reading of a `qos = 0` rule goes out.
    careful: bool,
}

/// One filling.
pub(super) struct Fill<'a, O> {
    pub send: Sender<'a, O>,
    pub filled: Filled,
}

impl<O: Outbox> Fill<'_, O> {
    /// Appends what may go.
    pub fn run(mut self) -> Filled {
        let now = self.send.now();
        let Publisher { records, outlet, retained, budget, .. } = &mut *self.send.publisher;
        outlet.handle_woken();
        budget.borrow_mut().advance(self.send.moment);
        retained.get_or_insert_with(|| NewestRetained::new(self.send.moment.boottime_ms));
        records.suspicion.handle_timeout(now);
        records.obey(now);
        records.settle(now, self.send.outbox); // what could not be rejected before
        let publisher = &*self.send.publisher;
        let hold = publisher.hold;
        let own_may = hold == Hold::AllButOwn && self.send.own.in_flight() == 0 && publisher.has_place();
        if own_may && self.send.send_own() {
            self.filled.packets += 1;
        }
        if hold == Hold::Nothing {
            self.fill();
        }
        let Publisher { records, outlet, .. } = &mut *self.send.publisher;
        self.filled.ping = outlet.wants_ping(records.in_flight());
        if hold == Hold::Nothing {
            // What is due and was not sent waits for an answer, or has said above when to look
            // again.
            let dues = [records.suspicion.poll_timeout(), self.send.own.poll_timeout()];
            dues.into_iter().flatten().filter(|due| *due > now).for_each(|due| outlet.wake(due));
        }
        self.filled
    }

    fn fill(&mut self) {
        let now = self.send.now();
        let Publisher { records, outlet, own_doubt, losses, .. } = &mut *self.send.publisher;
        if own_doubt.until_it_stands {
            let stands_at = records.progress.stands_at();
            if now >= stands_at {
                own_doubt.until_it_stands = false;
            } else {
                outlet.wake(stands_at);
            }
        }
        losses.report_next(now, self.send.outbox, self.send.own);
        self.measure_ingest();
        if self.waits_for_solo() {
            return;
        }
        // Before anything was taken on a connection others go first: a suspect is tried against
        // them.
        let first_until = self.others_first_until();
        let others_first = self.send.publisher.records.progress.taken_here == 0 || first_until.is_some();
        if others_first {
            self.fill_flow();
        }
        if let Some(until) = self.others_first_until().filter(|_| first_until.is_some()) {
            self.send.publisher.outlet.wake(until);
        } else {
            let others_may = self.fill_solo();
            if others_may && !others_first {
                self.fill_flow();
            }
        }
    }

    fn measure_ingest(&mut self) {
        let now = self.send.now();
        let Publisher { records, pace, ingest, .. } = &mut *self.send.publisher;
        let mut sum = 0u32;
        for (lane, measured) in records.lanes.iter().zip(ingest) {
            let rate = measured.measure(now, self.send.outbox.newest(lane.lane()));
            if lane.backlog {
                sum = sum.saturating_add(rate);
            }
        }
        pace.set_ingest(now, sum);
    }

    /// Until when a suspect that may bring the connection down lets others go first. What flows
    /// does so for a while, because a close costs the connection; and each time it is tried one
    /// more must have been taken before, so that a broker that closes every connection over its
    /// third publish, whatever that is, shows it.
    fn others_first_until(&self) -> Option<Instant> {
        let now = self.send.now();
        let Publisher { records, turns, solo, .. } = &*self.send.publisher;
        let opened_at = records.progress.opened_at;
        let (place, manner) = records.suspicion.next_trial(now)?;
        if manner == Manner::Quiet {
            // Without others taken in between another trial would show nothing.
            let since = solo.ended_at().map_or(opened_at, |ended| ended.max(opened_at));
            let waits = !turns.flow_ran_dry && !records.suspicion.has_evidence(place);
            return waits.then_some(since + FLOW_FIRST).filter(|until| now < *until);
        }
        if manner == Manner::Among {
            return None;
        }
        let flow = (!turns.flow_ran_dry).then_some(opened_at + FLOW_FIRST);
        let alone = records.progress.taken_here < u64::from(records.suspicion.company(place));
        let company = alone.then_some(opened_at + COMPANY_WITHIN);
        flow.into_iter().chain(company).max().filter(|until| now < *until)
    }

    /// Whether something that must be alone in flight still keeps all others back.
    fn waits_for_solo(&mut self) -> bool {
        let now = self.send.now();
        let Some(alone) = self.send.publisher.solo.current() else { return false };
        if !self.is_outstanding(&alone) {
            self.send.publisher.solo.end(now);
        } else if now < alone.at + ALONE_WITHIN {
            self.send.publisher.outlet.wake(alone.at + ALONE_WITHIN);
            return true;
        }
        false
    }

    fn is_outstanding(&self, alone: &Alone) -> bool {
        match alone.place {
            None => self.send.own.in_flight() > 0,
            Some(place) => {
                let entry = self.send.publisher.records.lanes[place.lane].entry(place.sequence);
                entry.is_some_and(|entry| matches!(entry.state, State::Sent | State::SentBefore(_)))
            }
        }
    }

    /// Sends what must be alone in flight, if anything must. Whether everything else may go.
    fn fill_solo(&mut self) -> bool {
        let now = self.send.now();
        let own = &*self.send.own;
        let publisher = &mut *self.send.publisher;
        let doubt = &mut publisher.own_doubt;
        let own_waits = doubt.solo && !doubt.until_it_stands && own.has_due(now);
        doubt.solo &= own_waits || doubt.until_it_stands || own.in_flight() > 0;
        let trial =
            publisher.records.suspicion.next_trial(now).filter(|(_, manner)| *manner != Manner::Among);
        let Some(wanted) = trial.map(Some).or(own_waits.then_some(None)) else { return true };
        if publisher.solo.current().is_some() {
            return true; // one waits for its answer already, and keeps nobody back any more
        }
        if let Some(again_at) = publisher.solo.again_at(now) {
            publisher.outlet.wake(again_at);
            return true;
        }
        if publisher.in_flight() > 0 {
            return false; // it comes when that is answered
        }
        if let (Some((_, Manner::Quiet)), Some(last)) = (wanted, publisher.outlet.last_sent_at)
            && last + QUIET > now
        {
            publisher.outlet.wake(last + QUIET);
            return false;
        }
        if !publisher.outlet.may_send_now(now) {
            return false;
        }
        let place = wanted.map(|(place, _)| place);
        let sent = match place {
            Some(place) => {
                let step = self.send_trial(place);
                if step == Step::Dry {
                    return true; // it is being read from disk
                }
                self.send.publisher.records.obey(now);
                step == Step::Sent
            }
            None => self.send.send_own(),
        };
        if sent {
            self.filled.packets += 1;
            let publisher = &mut *self.send.publisher;
            publisher.solo.begin(now, place);
            publisher.outlet.wake(now + ALONE_WITHIN);
            return false;
        }
        true
    }

    fn send_trial(&mut self, place: RecordPlace) -> Step {
        self.send.send_record(place.lane, Some(place.sequence))
    }

    /// Sends what may be in flight with others.
    fn fill_flow(&mut self) {
        let now = self.send.now();
        let mut flow = self.begin_flow();
        loop {
            if self.send.out.len() >= FILL_BYTES || flow.reads >= READS_MAX {
                self.filled.more = true;
                break;
            }
            let publisher = &mut *self.send.publisher;
            if !publisher.has_place()
                || publisher.in_flight() >= publisher.places()
                || !publisher.outlet.may_send_now(now)
            {
                break;
            }
            if !self.take_turn(&mut flow) {
                break;
            }
        }
        let records = &mut self.send.publisher.records;
        if flow.reads > 0 {
            records.obey(now);
            records.settle(now, self.send.outbox);
        }
        let outlet = &mut self.send.publisher.outlet;
        if !flow.careful && outlet.rate.limit().is_some() && outlet.may_send_now(now) {
            self.send_volatile(usize::MAX);
        }
    }

    fn begin_flow(&mut self) -> Flow {
        let now = self.send.now();
        let careful = self.send.publisher.volatile_doubt.is_careful(now);
        if !careful && self.send.publisher.outlet.rate.limit().is_none() {
            self.send_volatile(usize::MAX);
        }
        let Publisher { records, outlet, turns, own_doubt, .. } = &mut *self.send.publisher;
        let flow_first = std::mem::take(&mut turns.flow_first);
        turns.flow_ran_dry = false;
        let mut dry = [false; 2];
        if let Some(until) = records.suspicion.newcomers_wait_until(now) {
            dry = [true; 2];
            outlet.wake(until);
        }
        Flow {
            reads: 0,
            dry,
            own_dry: own_doubt.holds_back(),
            trials_dry: flow_first,
            suspects: records.suspicion.in_flight(),
            since_volatile: 0,
            flow_first,
            careful,
        }
    }

    /// Sends one publish, or finds that one kind has none. Whether there may be more.
    fn take_turn(&mut self, flow: &mut Flow) -> bool {
        let now = self.send.now();
        if !flow.careful && flow.since_volatile >= 3 {
            flow.since_volatile = 0;
            self.send_volatile(1);
            return true;
        }
        let publisher = &mut *self.send.publisher;
        let half = (publisher.places() / 2).max(1);
        let lanes_may = flow.dry != [true, true];
        // Where there is one place only, it is theirs every second time.
        let others_turn = publisher.turns.trial_was_last && publisher.places() < 4 && lanes_may;
        if !flow.trials_dry && flow.suspects < half && !others_turn {
            self.take_trial_turn(flow);
            return true;
        }
        let lanes_turn = publisher.turns.own_was_last && lanes_may;
        if !flow.own_dry && !lanes_turn {
            if self.send.send_own() {
                self.filled.packets += 1;
                flow.since_volatile += 1;
                self.send.publisher.turns.own_was_last = true;
            } else {
                flow.own_dry = true;
            }
            return true;
        }
        publisher.turns.own_was_last = false;
        let Some(index) = publisher.turns.choose(flow.dry) else {
            if !flow.own_dry {
                return true;
            }
            if std::mem::take(&mut flow.flow_first) {
                flow.trials_dry = false;
                return true;
            }
            publisher.turns.flow_ran_dry = true;
            return false;
        };
        match self.send.send_record(index, None) {
            Step::Sent => {
                self.filled.packets += 1;
                flow.since_volatile += 1;
                self.send.publisher.turns.note_sent(flow.dry);
            }
            Step::Decided => {}
            Step::Dry | Step::Empty => flow.dry[index] = true,
        }
        flow.reads += 1;
        if flow.reads.is_multiple_of(256) {
            self.send.publisher.records.settle(now, self.send.outbox);
        }
        true
    }

    fn take_trial_turn(&mut self, flow: &mut Flow) {
        let now = self.send.now();
        let trial = self.send.publisher.records.suspicion.next_trial(now);
        let Some((place, _)) = trial.filter(|(_, manner)| *manner == Manner::Among) else {
            flow.trials_dry = true;
            return;
        };
        flow.reads += 1;
        match self.send_trial(place) {
            Step::Sent => {
                self.filled.packets += 1;
                flow.suspects += 1;
                self.send.publisher.turns.trial_was_last = true;
            }
            Step::Dry => flow.trials_dry = true,
            Step::Decided | Step::Empty => self.send.publisher.records.obey(now),
        }
    }

    fn send_volatile(&mut self, limit: usize) {
        self.filled.packets += self.send.send_volatile(FILL_BYTES / 2, limit);
    }
}
