//! The broker is away for a week: nothing that was acknowledged is lost, fresh alarms do not wait
//! for the backlog, and all of it arrives.

use std::time::Duration;

use crate::chance::cases;
use crate::ledger::mark_of;
use crate::node::Transport;
use crate::rules::Site;
use crate::world::{Setup, World};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn after_a_week_of_outage_all_that_was_acknowledged_arrives() {
    cases(1, |seed| {
        let mut setup = Setup::of(Site::usual(&["door-1", "door-2", "door-3", "meter"]));
        setup.ports = vec!["meter".to_owned()];
        let mut world = World::new(seed, setup);
        for id in ["door-1", "door-2", "door-3"] {
            world.busy(id, Transport::Dtls, Duration::from_secs(600), &["t/env", "alarm/fire"]);
        }
        world.serial("meter", Duration::from_secs(900));
        world.run_for(Duration::from_secs(3600));
        world.broker_gone();
        for _ in 0..7 {
            world.run_for(DAY);
            world.audit();
        }
        let answered = world.ledger.borrow().count(|reading| reading.answered);
        let delivered = world.ledger.borrow().count(|reading| reading.delivered);
        assert!(answered > 3_000 && delivered < 100, "{answered} answered, {delivered} delivered");
        let world = world.end();
        let ledger = world.ledger.borrow();
        assert_eq!(ledger.count(|reading| reading.answered && !reading.delivered), 0);
        // Each device's readings, in the order in which it said them.
        for id in ["door-1", "door-2", "door-3", "meter"] {
            for path in ["t/env", "alarm/fire", "data"] {
                let topic = format!("tombolo/gw/{id}/up/{path}");
                let taken = world.taken.iter().filter(|(_, at, _)| *at == topic);
                let marks: Vec<_> = taken.filter_map(|(.., payload)| mark_of(payload)).collect();
                assert!(marks.is_sorted_by(|one, other| one < other), "{topic}: {marks:?}");
            }
        }
    });
}
