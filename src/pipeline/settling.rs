//! Readings that filters measure against and that are not on disk yet, and those that wait for
//! them.
//!
//! A reading that is held back says the same as the one before. While that one is on its way to
//! disk, the two share its fate: acknowledged together once it is stored, or offered again together
//! if it is not. Rules without a filter cost nothing here.

use crate::gate::stage::DeviceIndex;
use crate::number_map::NumberMap;
use crate::proto::address::Ticket;

/// Most readings that wait for others; one more is refused as what the store does not take.
pub const FOLLOWERS_MAX: usize = 4_096;

/// The readings on their way. Bounded by what the store has taken and [`FOLLOWERS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Settling {
    by_ticket: NumberMap<Ticket, (DeviceIndex, u64)>,
    followers: NumberMap<u64, Vec<Ticket>>,
    waiting: usize,
}

/// What becomes of a reading that is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// The one before is on disk, or needs not be.
    Settled,
    /// Its ticket comes back with that of the one before.
    Waits,
    /// Too many wait.
    Full,
}

impl Settling {
    /// The store has taken a reading of this number.
    pub(super) fn keep(&mut self, ticket: Ticket, device: DeviceIndex, number: u64) {
        self.by_ticket.insert(ticket, (device, number));
        self.followers.insert(number, Vec::new());
    }

    /// A reading is held back because of the one with this number.
    pub(super) fn follow(&mut self, number: u64, ticket: Ticket) -> Followed {
        let Some(followers) = self.followers.get_mut(&number) else { return Followed::Settled };
        if self.waiting >= FOLLOWERS_MAX {
            return Followed::Full;
        }
        self.waiting += 1;
        followers.push(ticket);
        Followed::Waits
    }

    /// The store is done with a ticket: whose reading it was, its number, and the tickets that
    /// waited for it.
    pub(super) fn completed(&mut self, ticket: Ticket) -> Option<(DeviceIndex, u64, Vec<Ticket>)> {
        if self.by_ticket.is_empty() {
            return None;
        }
        let (device, number) = self.by_ticket.remove(&ticket)?;
        let followers = self.followers.remove(&number).unwrap_or_default();
        self.waiting -= followers.len();
        Some((device, number, followers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Pipeline;

    #[test]
    fn those_that_wait_are_bounded_and_leave_with_the_one_they_wait_for() {
        let pipeline = Pipeline::fake(std::time::Instant::now(), 1);
        let device = pipeline.gate.device_by_id("door-7").expect("the device");
        let mut settling = Settling::default();
        assert_eq!(settling.follow(7, Ticket::Test(1)), Followed::Settled);
        settling.keep(Ticket::Test(0), device, 7);
        for number in 0..FOLLOWERS_MAX {
            assert_eq!(settling.follow(7, Ticket::Test(number as u32 + 1)), Followed::Waits);
        }
        assert_eq!(settling.follow(7, Ticket::Test(9_999)), Followed::Full);
        assert!(settling.completed(Ticket::Test(1)).is_none(), "it waits itself");
        let (_, number, followers) = settling.completed(Ticket::Test(0)).expect("it was kept");
        assert_eq!((number, followers.len()), (7, FOLLOWERS_MAX));
        assert_eq!(settling.follow(7, Ticket::Test(1)), Followed::Settled);
        assert!(settling.by_ticket.is_empty() && settling.followers.is_empty() && settling.waiting == 0);
    }
}
