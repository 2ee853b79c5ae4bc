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
