//! Plain CoAP senders: each address gets a peer number, so that the endpoint does not handle
//! addresses.
//!
//! All of them are the one `insecure-device`. At most [`MAX`] are kept: a further one replaces the
//! oldest, whose remembered exchanges are dropped, so that its duplicates are no longer detected.

use std::collections::{HashMap, VecDeque};

use crate::proto::Route;
use crate::proto::address::{Peer, PeerId};

/// Most addresses remembered.
pub const MAX: usize = 4096;

/// The known addresses and their peer numbers.
#[derive(Default)]
pub struct Plain {
    by_route: HashMap<Route, PeerId>,
    by_peer: HashMap<PeerId, Route>,
    order: VecDeque<PeerId>,
    next: u64,
}

impl Plain {
    /// The peer number of the sender at `route`, and the peer that it replaced, if any.
    pub fn peer(&mut self, route: &Route) -> (PeerId, Option<PeerId>) {
        if let Some(&peer) = self.by_route.get(route) {
            return (peer, None);
        }
        let forgotten = if self.order.len() >= MAX { self.order.pop_front() } else { None };
        if let Some(route) = forgotten.and_then(|peer| self.by_peer.remove(&peer)) {
            self.by_route.remove(&route);
        }
        let peer = Peer::Plain(self.next).id();
        self.next += 1;
        self.by_route.insert(*route, peer);
        self.by_peer.insert(peer, *route);
        self.order.push_back(peer);
        (peer, forgotten)
    }

    /// The address of `peer`, if it is still known.
    pub fn route(&self, peer: PeerId) -> Option<&Route> {
        self.by_peer.get(&peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: u16) -> Route {
        Route { remote: ([127, 0, 0, 1], port).into(), local: None, socket: 0 }
    }

    #[test]
    fn an_address_keeps_its_number() {
        let mut plain = Plain::default();
        let (first, _) = plain.peer(&route(1));
        assert_eq!(plain.peer(&route(1)), (first, None));
        assert_ne!(plain.peer(&route(2)).0, first);
        assert_eq!(plain.route(first), Some(&route(1)));
        assert!(first.is_unproven());
    }

    #[test]
    fn the_longest_known_goes_first() {
        let mut plain = Plain::default();
        let (first, _) = plain.peer(&route(1));
        for port in 2..=MAX as u16 {
            assert_eq!(plain.peer(&route(port)).1, None);
        }
        assert_eq!(plain.peer(&route(60_000)).1, Some(first));
        assert_eq!(plain.route(first), None);
        assert_eq!(plain.by_route.len(), MAX);
    }
}
