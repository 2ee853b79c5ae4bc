//! The hub's end of the bus between local MQTT clients.

use std::sync::mpsc::{SyncSender, TrySendError};

use crate::southbound::mqtt::BusRequest;

/// Hands requests to the bus's thread. Never waits.
pub struct BusHandle {
    requests: SyncSender<BusRequest>,
    /// Requests to join and leave for which there was no room: they come before all others.
    late: std::cell::RefCell<Vec<BusRequest>>,
}

impl BusHandle {
    /// Into this channel.
    pub fn new(requests: SyncSender<BusRequest>) -> BusHandle {
        BusHandle { requests, late: Default::default() }
    }

    /// Hands over a request. A message for which there is no room is dropped: `false`.
    pub fn handle(&self, request: BusRequest) -> bool {
        let mut late = self.late.borrow_mut();
        if let BusRequest::Leave(session) = request
            && let Some(at) = late.iter().rposition(|late| *late == BusRequest::Join(session))
        {
            // Neither is handed over: however often a session comes and goes, two are kept of it.
            late.remove(at);
            return true;
        }
        late.push(request);
        while !late.is_empty() {
            match self.requests.try_send(late.remove(0)) {
                Ok(()) => {}
                Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => {
                    let is_message = matches!(request, BusRequest::Publish(_));
                    if !is_message {
                        late.insert(0, request);
                    }
                    // Of what is behind it only joining and leaving is kept, in order.
                    let before = late.len();
                    late.retain(|request| !matches!(request, BusRequest::Publish(_)));
                    return !is_message && late.len() == before;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::BusRequest::{Join, Leave, Publish};
    use super::*;

    fn all(bus: &Receiver<BusRequest>) -> Vec<BusRequest> {
        bus.try_iter().collect()
    }

    #[test]
    fn without_room_a_message_is_dropped_and_who_joins_or_leaves_does_so_later_in_order() {
        let (requests, bus) = sync_channel(3);
        let handle = BusHandle::new(requests);
        assert!([1, 2, 3].into_iter().all(|number| handle.handle(Publish(vec![number]))));
        assert!(!handle.handle(Publish(vec![4])));
        assert!(handle.handle(Join(1)) && handle.handle(Leave(7)) && handle.handle(Join(2)));
        // A message never comes before a session that joined before it.
        assert!(!handle.handle(Publish(vec![5])));
        assert_eq!(all(&bus), [1, 2, 3].map(|number| Publish(vec![number])));
        // All are late, and there is room for three.
        assert!(!handle.handle(Publish(vec![6])));
        assert_eq!(all(&bus), [Join(1), Leave(7), Join(2)]);
        assert!(handle.handle(Publish(vec![7])));
        assert_eq!(all(&bus), [Publish(vec![7])], "nothing comes twice");
    }

    #[test]
    fn who_came_late_and_has_left_is_not_handed_over_and_takes_no_room() {
        let (requests, bus) = sync_channel(1);
        let handle = BusHandle::new(requests);
        assert!(handle.handle(Join(1)));
        for _ in 0..1_000 {
            assert!(handle.handle(Leave(1)) && handle.handle(Join(1)));
            assert!(handle.handle(Join(2)) && handle.handle(Leave(2)));
        }
        // Of the first session it is not known whether the bus has taken it.
        assert_eq!(*handle.late.borrow(), [Leave(1), Join(1)]);
        assert_eq!(all(&bus), [Join(1)]);
        assert!(handle.handle(Leave(1)));
        assert_eq!(all(&bus), [] as [BusRequest; 0]);
        assert!(handle.handle(Join(3)));
        assert_eq!(all(&bus), [Leave(1)]);
    }

    #[test]
    fn a_bus_that_is_gone_takes_no_message() {
        let (requests, bus) = sync_channel(1);
        drop(bus);
        let handle = BusHandle::new(requests);
        assert!(handle.handle(Join(1)) && !handle.handle(Publish(vec![1])));
    }
}
