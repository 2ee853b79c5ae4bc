//! Handshakes and data over networks that lose, repeat and reorder.

use std::time::Duration;

use tombolo::proto::dtls::Limits;

use super::*;

fn storm<E: Start>(network: Network, clients: u16, seed: u64) -> World<E> {
    let mut world = World::<E>::limited(Limits::default(), network, seed);
    for n in 0..clients {
        world.join(n, psk(n));
        world.run(Duration::from_millis(3));
    }
    // A client whose handshake ran out tries again, as devices do.
    for _ in 0..8 {
        world.run(Duration::from_secs(45));
        let given_up: Vec<u16> =
            world.clients.iter().filter(|(_, c)| !c.connected).map(|(port, _)| *port).collect();
        for port in given_up {
            world.reboot(port);
        }
    }
    world.run(Duration::from_secs(60));
    let missing = world.clients.values().filter(|client| !client.connected).count();
    assert_eq!(missing, 0, "of {clients}: {:?}", world.engine.counters());
    world
}

/// Each client's data arrives in the session that is its own now.
fn assert_all_alive(world: &mut World<impl Start>, clients: u16) {
    world.network = FINE;
    world.told();
    assert_eq!(world.engine.session_count(), usize::from(clients));
    for n in 0..clients {
        world.client_sends(n, format!("from {n}").as_bytes());
    }
    world.run(Duration::from_secs(1));
    let mut heard: Vec<Vec<u8>> = world
        .told()
        .into_iter()
        .filter_map(|t| if let Told::Data(_, d) = t { Some(d) } else { None })
        .collect();
    let mut expected: Vec<Vec<u8>> = (0..clients).map(|n| format!("from {n}").into_bytes()).collect();
    heard.sort();
    expected.sort();
    assert_eq!(heard, expected);
    assert_eq!(world.engine.counters().faults, 0);
}

fn all_connect_at_15_percent_loss<E: Start>() {
    let mut world = storm::<E>(Network { loss: 15, duplication: 0, delay: 20, jitter: 30 }, 300, 3);
    assert_all_alive(&mut world, 300);
}

fn all_connect_under_duplication_and_reordering_at_the_first_attempt<E: Start>() {
    let network = Network { loss: 0, duplication: 50, delay: 5, jitter: 200 };
    let mut world = World::<E>::limited(Limits::default(), network, 4);
    for n in 0..300 {
        world.join(n, psk(n));
        world.run(Duration::from_millis(3));
    }
    world.run(Duration::from_secs(60));
    let failed: Vec<Told> =
        world.told().into_iter().filter(|told| !matches!(told, Told::Connected(..))).collect();
    let missing = world.clients.values().filter(|client| !client.connected).count();
    assert_eq!((missing, &failed[..]), (0, &[][..]));
    assert_all_alive(&mut world, 300);
}

fn all_connect_when_everything_goes_wrong<E: Start>() {
    let mut world = storm::<E>(Network { loss: 25, duplication: 40, delay: 5, jitter: 600 }, 150, 5);
    assert_all_alive(&mut world, 150);
}

fn reboots_over_a_bad_network_leave_one_session_a_device<E: Start>() {
    let network = Network { loss: 10, duplication: 30, delay: 5, jitter: 100 };
    let mut world = storm::<E>(network, 50, 6);
    for _ in 0..5 {
        for n in 0..50 {
            world.reboot(n);
        }
        world.run(Duration::from_secs(60));
    }
    for n in 0..50 {
        if !world.clients[&n].connected {
            world.reboot(n);
        }
    }
    world.network = FINE;
    world.run(Duration::from_secs(60));
    assert_all_alive(&mut world, 50);
}

fn data_is_delivered_at_most_once_and_unchanged<E: Start>() {
    let mut world = World::<E>::limited(Limits::default(), FINE, 7);
    let session = world.connected(1, psk(1));
    world.network = Network { loss: 20, duplication: 50, delay: 1, jitter: 40 };
    for n in 0..500u32 {
        world.client_sends(1, &n.to_be_bytes());
        world.run(Duration::from_millis(5));
    }
    world.run(Duration::from_secs(1));
    let mut heard: Vec<u32> = world
        .told()
        .into_iter()
        .map(|told| match told {
            Told::Data(of, data) if of == session => u32::from_be_bytes(data.try_into().unwrap()),
            other => panic!("{other:?}"),
        })
        .collect();
    let received = heard.len();
    heard.sort_unstable();
    heard.dedup();
    assert_eq!(heard.len(), received, "none twice");
    assert!(received > 350, "{received}");
}

of_every_engine! {
    all_connect_at_15_percent_loss
    all_connect_under_duplication_and_reordering_at_the_first_attempt
    all_connect_when_everything_goes_wrong
    reboots_over_a_bad_network_leave_one_session_a_device
    data_is_delivered_at_most_once_and_unchanged
}
