//! The whole path simulated: devices, link, gateway, disk, clocks and broker in virtual time, from
//! one seed. docs/architecture.md says how to add a scenario.
//!
//! | file | what |
//! |---|---|
//! | `world` | what happens when, and the invariants after every event |
//! | `gateway` | one process: the product's cores put together as `src/daemon/hub.rs` does |
//! | `journal` | the journal's cores on the fake disk, with the work of its threads as events |
//! | `node`, `serial_line` | devices |
//! | `ledger` | what was promised to whom, from facts outside the product |
//! | `rules` | the site's rules, and a naive reading of them |
//! | `plant`, `planted` | faults in the adapters of the simulation, each of which must be noticed |
//! | `chance`, `product` | the random numbers; the names taken from the product |
//! | the others | one scenario a file |
//!
//! `SIM_CASES=N` runs N times as many seeds, `SIM_SEED=N` only that one.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "virtual time begins somewhere")]

mod chance;
mod gateway;
mod journal;
mod ledger;
mod node;
mod plant;
#[allow(unused_imports, reason = "the product's names, for all files here")]
mod product;
mod rules;
mod serial_line;
mod world;

mod bad_disk;
mod bounds;
mod closing_broker;
mod everything;
mod forged;
mod greedy;
mod limiting_broker;
mod lossy_link;
mod lying_clock;
mod outage;
mod planted;
mod power;
mod presence;
mod refusing_broker;
mod reloading;
mod restored;
mod serial_noise;
mod silent_broker;
