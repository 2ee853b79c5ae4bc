//! Reports of losses: each loss that the journal names goes to the broker once, one at a time, as a
//! message of the gateway's [own](super::own).
//!
//! A loss stays in the journal until its report is acknowledged, so none is forgotten over a
//! restart or an outage. One whose count has grown since it was reported is reported again. Where
//! the owner wants no reports (`[topics] loss`), a loss counts as reported at once. If the broker
//! refuses a report, reports pause for an hour and the loss stays where it is: perhaps the broker
//! is told to take it one day.

use std::time::Instant;

use super::outbox::{Loss, Outbox};
use super::own::{Class, Key, Own};
use super::publication;
use crate::message::Lane;

/// Which loss is being reported, and which were.
#[derive(Debug)]
pub struct LossReports {
    topic: Option<String>,
    gateway: String,
    reporting: Option<Loss>,
    /// By [`Lane::index`]: number and count of what was reported and is still in the journal.
    reported: [Vec<(u64, u64)>; 2],
}

impl LossReports {
    /// Reports go to `topic`; `None`: nowhere.
    pub fn new(gateway: &str, topic: Option<String>) -> LossReports {
        LossReports { topic, gateway: gateway.to_owned(), reporting: None, reported: Default::default() }
    }

    /// Hands the next loss not yet reported to the own messages, one at a time.
    pub fn report_next(&mut self, now: Instant, outbox: &mut impl Outbox, own: &mut Own) {
        if self.reporting.is_some() || own.is_paused(now, Class::Loss) {
            return;
        }
        for lane in Lane::ALL {
            let reported = &mut self.reported[lane.index()];
            let mut index = 0;
            while let Some(loss) = outbox.loss(lane, index) {
                if index == 0 {
                    reported.retain(|(number, _)| *number >= loss.number);
                }
                index += 1;
                if reported.contains(&(loss.number, loss.count)) {
                    continue; // the journal has not got to it yet
                }
                let Some(topic) = &self.topic else {
                    reported.push((loss.number, loss.count));
                    outbox.loss_reported(lane, loss.number, loss.count);
                    continue;
                };
                let payload = publication::loss_payload(&self.gateway, &loss);
                own.report_loss(lane, loss.number, topic, payload);
                self.reporting = Some(loss);
                return;
            }
        }
    }

    /// The broker has the own message `key`: if it is the report under way, the journal is told.
    pub fn handle_acknowledged(&mut self, outbox: &mut impl Outbox, key: &Key) {
        if let Key::Loss(lane, number) = key
            && let Some(loss) = self.reporting.take_if(|loss| loss.number == *number)
        {
            self.reported[lane.index()].push((loss.number, loss.count));
            outbox.loss_reported(*lane, loss.number, loss.count);
        }
    }

    /// The broker refused the own message `key` for good. Whether it is the report under way, which
    /// is given up then.
    pub fn handle_refused(&mut self, key: &Key) -> bool {
        matches!(key, Key::Loss(_, number) if self.reporting.take_if(|loss| loss.number == *number).is_some())
    }
}
