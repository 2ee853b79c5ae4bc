//! A round of the hub: what the tasks share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify as Wake;

use super::awake;
use super::hub::Hub;
use crate::southbound::coap::io::Socket;

/// The hub, its sockets and its timer.
pub struct Shared {
    /// The path.
    pub hub: RefCell<Hub>,
    /// The UDP sockets: first those that speak DTLS.
    pub sockets: Vec<Socket>,
    /// How many of them, from the front, speak DTLS; the rest is plain.
    pub secure: usize,
    timer: Wake,
    armed: Cell<Option<Instant>>,
}

impl Shared {
    /// Before the first round.
    pub fn new(hub: Hub, sockets: Vec<Socket>, secure: usize) -> Shared {
        Shared { hub: RefCell::new(hub), sockets, secure, timer: Wake::new(), armed: Cell::new(None) }
    }

    /// One round: something happens, what must be sent is sent, the timer is set.
    pub fn round<T>(&self, happens: impl FnOnce(&mut Hub) -> T) -> T {
        let mut hub = self.hub.borrow_mut();
        let result = happens(&mut hub);
        hub.flush(&self.sockets);
        let next = hub.poll_timeout();
        let armed = self.armed.get();
        // A deadline that moved back needs no wake-up: the timer finds nothing due and looks again.
        if next.is_some_and(|next| armed.is_none_or(|armed| next < armed)) {
            self.armed.set(next);
            self.timer.notify_one();
        }
        awake::turns();
        result
    }
}

/// The task that does what is due.
pub async fn tick(shared: Rc<Shared>) {
    loop {
        let armed = shared.armed.get();
        let due = async {
            match armed {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {
                shared.armed.set(None);
                shared.round(Hub::handle_timeout);
            }
            () = shared.timer.notified() => {}
        }
    }
}
