//! One line with several devices that are asked: their ports are opened once, and take turns.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Handle;
use crate::proto::serial::poll::Turn;
use crate::southbound::serial::io::Host;
use crate::southbound::serial::settings::Duty;
use crate::southbound::serial::turns::Turns;

/// The ports of one line. The first decides when it is opened.
pub(super) struct SharedLine {
    members: Vec<Handle>,
    turns: RefCell<Turns>,
}

impl SharedLine {
    pub(super) fn new(members: Vec<Handle>) -> SharedLine {
        let start = |member: &Handle| {
            let settings = member.with(|_, entry| entry.core.borrow().settings().clone());
            match settings.as_ref().map(|settings| &settings.duty) {
                Some(Duty::Readings { framing, .. }) => framing.start.clone(),
                _ => Vec::new(),
            }
        };
        let starts: Vec<Vec<u8>> = members.iter().map(start).collect();
        let starts: Vec<&[u8]> = starts.iter().map(Vec::as_slice).collect();
        SharedLine { turns: RefCell::new(Turns::new(&starts)), members }
    }

    fn standing(&self) -> Vec<Turn> {
        let now = Instant::now();
        let of = |member: &Handle| member.with(|_, entry| entry.core.borrow().turn(now)).flatten();
        let gone = Turn { is_busy: false, due: None, quiet_at: None, opens_at: None };
        self.members.iter().map(|member| of(member).unwrap_or(gone)).collect()
    }

    /// Gives the turn to whom it belongs.
    fn step(&self) {
        let now = Instant::now();
        let chosen = self.turns.borrow_mut().choose(now, &self.standing());
        for (at, member) in self.members.iter().enumerate() {
            member.with(|_, entry| entry.core.borrow_mut().hold(now, chosen != Some(at)));
        }
    }
}

impl Host for SharedLine {
    fn poll_open(&self, now: Instant) -> bool {
        self.members.first().is_some_and(|first| first.poll_open(now))
    }

    fn opened(&self, device: &Path) {
        self.members.iter().for_each(|member| member.opened(device));
        self.turns.borrow_mut().opened(&self.standing());
        self.step();
    }

    fn failed(&self, reason: &str) {
        self.members.iter().for_each(|member| member.failed(reason));
    }

    fn received(&self, bytes: &[u8]) {
        let mut is_said = false;
        for member in &self.members {
            if let Some(reason) = member.greet(bytes)
                && !std::mem::replace(&mut is_said, true)
            {
                member.say_telnet(&reason);
            }
        }
        let listener = self.turns.borrow().listener();
        if let Some(member) = self.members.get(listener) {
            member.hear(bytes);
        }
        if let Some(first) = self.members.first() {
            first.with(|_, entry| entry.core.borrow_mut().heard());
        }
        self.step();
    }

    fn timeout(&self) {
        self.step();
        self.members.iter().for_each(Handle::timeout);
        self.step();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.members.iter().for_each(Handle::take_order);
        let own = |member: &Handle| member.with(|_, entry| entry.core.borrow().work_timeout()).flatten();
        let open = self.members.first().and_then(Handle::poll_timeout);
        let turn = self.turns.borrow().poll_timeout(&self.standing());
        self.members.iter().filter_map(own).chain(open).chain(turn).min()
    }

    fn is_repeatable(&self) -> bool {
        self.members.iter().all(Handle::is_repeatable)
    }

    fn poll_transmit(&self, buffer: &mut Vec<u8>) -> bool {
        self.members.iter().any(|member| member.poll_transmit(buffer))
    }

    fn replaces_idle(&self, limit: Duration) {
        self.members.iter().take(1).for_each(|member| member.replaces_idle(limit));
    }

    async fn changed(&self) {
        // All have the same.
        match self.members.first() {
            Some(first) => first.changed().await,
            None => std::future::pending().await,
        }
    }
}
