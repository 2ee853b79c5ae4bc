//! A network that loses, doubles and reorders: no handshake fails that the timers of RFC 6347
//! allow.

use std::time::Duration;

use tombolo::proto::dtls::Engine;
use tombolo::proto::dtls::server::{Certificates, Settings};

use super::*;
use tombolo_test_support::dtls::client::*;

/// One datagram in ten is lost, every second comes twice, four of five overtake another.
const BAD: Network = Network { loss: 10, duplication: 50, delay: 10, jitter: 400 };

fn all_connect(
    settings: Settings,
    certificates: Certificates,
    network: Network,
    rounds: u64,
    config: impl Fn(u16) -> Config,
) {
    for seed in 0..rounds {
        let mut world = World::new(settings.clone(), certificates.clone(), network, seed);
        world.recorder.max_sessions = 50;
        for port in 1..=50 {
            world.join(port, config(port));
        }
        world.run(Duration::from_secs(100));
        for (port, client) in &world.clients {
            assert!(client.connected, "{port} of {seed}");
            assert_eq!(client.alerts, [], "{port} of {seed}");
        }
        assert_eq!(world.engine.session_count(), 50, "{seed}");
        let told = world.told();
        assert!(told.iter().all(|told| matches!(told, Told::Connected(..))), "{seed}: {told:?}");
    }
}

#[test]
fn thousands_of_psk_handshakes_complete() {
    all_connect(Settings::default(), Certificates::default(), BAD, 140, World::psk);
}

#[test]
fn psk_handshakes_with_connection_ids_complete() {
    let config = |port| Config { cid: Some(vec![1, 2, 3]), ..World::psk(port) };
    all_connect(Settings::default(), Certificates::default(), BAD, 40, config);
}

#[test]
fn certificate_handshakes_in_pieces_complete() {
    let pki = Pki::new();
    let settings = Settings { mtu: 400, ..Settings::default() };
    // Some 15 datagrams each way; a flight is repeated whole, so less may be lost of each.
    let network = Network { loss: 5, ..BAD };
    let config = |_| Config { mtu: 400, ..Config::certified(&pki.device) };
    all_connect(settings, pki.certificates(), network, 10, config);
}

#[test]
fn handshakes_complete_when_nothing_is_lost_but_everything_doubled_and_late() {
    let network = Network { loss: 0, duplication: 100, delay: 10, jitter: 3_000 };
    all_connect(Settings::default(), Certificates::default(), network, 20, World::psk);
}
