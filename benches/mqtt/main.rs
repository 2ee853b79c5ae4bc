//! Compares the local MQTT listener with mosquitto and its bridge in one run: CPU per message from
//! end to end, memory per idle client, and how long known clients wait while others flood it.
//!
//! `cargo bench --bench mqtt` — needs `mosquitto` and `mosquitto-clients`. Both take publishes of
//! QoS 1 on loopback and hand them to one upstream broker over TLS with QoS 1. Tombolo answers
//! each after fdatasync; mosquitto's bridge keeps its queue in memory. What is measured is the CPU
//! time of the process between them, from the first publish until the last message has arrived
//! upstream. Both know their clients by a password, and neither has a limit that is met.
//!
//! `MESSAGES`, `ROUNDS`, `IDLE`, `SECONDS` in the environment change the size (default 40,000
//! messages, 3 rounds, of which medians are printed, 1,000 idle clients, and 8 s of each flood).
//! `LOAD=2` runs the second load alone. With `TMPDIR` on a tmpfs fdatasync costs next to nothing:
//! the difference is what the disk costs.

mod client;
mod flood;
mod site;

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tombolo_test_support::bench::{median, number};
use tombolo_test_support::{cpu_time, resident_kb, wait_within};

use self::client::Client;
use self::flood::{Flood, Kind};
use self::site::Site;

/// One load.
struct Load {
    name: &'static str,
    clients: usize,
    /// Publishes of a client that may wait for their PUBACKs.
    window: usize,
    /// Messages a second over all clients; `None`: as fast as the answers allow.
    rate: Option<f64>,
}

/// CPU microseconds a message.
async fn run(site: &Site, load: &Load, messages: usize) -> f64 {
    let mut clients = Vec::new();
    for number in 0..load.clients {
        clients.push(Client::plain(site.plain, number).await);
    }
    let each = messages / load.clients;
    let gap = load.rate.map(|rate| Duration::from_secs_f64(load.clients as f64 / rate));
    let before = cpu_time(site.between.pid());
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let window = load.window;
            tokio::task::spawn_local(async move { client.publish(each, window, gap).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let all = each * load.clients;
    wait_within(Duration::from_secs(120), "all to arrive", || site.arrived() >= all);
    (cpu_time(site.between.pid()) - before).as_secs_f64() * 1e6 / all as f64
}

/// Bytes of resident memory that a client without traffic takes: over TCP, and over TLS.
async fn idle(site: &Site, count: usize) -> (u64, u64) {
    let pid = site.between.pid();
    let before = resident_kb(pid);
    let mut plain = Vec::new();
    for number in 0..count {
        plain.push(Client::plain(site.plain, number).await);
    }
    let with_plain = resident_kb(pid);
    let ca = CertificateDer::from_pem_file(site.pki.ca()).expect("the CA");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).expect("the CA");
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = Vec::new();
    for number in count..2 * count {
        let stream = TcpStream::connect(site.tls).await.expect("a connection");
        let stream = connector.connect(name.clone(), stream).await.expect("a handshake");
        tls.push(Client::open(stream, number).await);
    }
    let with_tls = resident_kb(pid);
    let each = |after: u64, before: u64| after.saturating_sub(before) * 1024 / count as u64;
    (each(with_plain, before), each(with_tls, with_plain))
}

/// How long ten known clients waited for their PUBACKs, of 20 messages a second each.
async fn flooded(site: &Site, kind: Kind, seconds: usize) -> (Vec<Duration>, f64) {
    let mut clients = Vec::new();
    for number in 2..12 {
        clients.push(Client::plain(site.plain, number).await);
    }
    let flood = Flood::start(kind, site);
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let gap = Duration::from_millis(50);
            tokio::task::spawn_local(async move { client.timed(seconds * 20, gap).await })
        })
        .collect();
    let mut waited = Vec::new();
    for task in tasks {
        waited.extend(task.await.expect("no panic"));
    }
    waited.sort();
    (waited, flood.rate())
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let (messages, rounds) = (number("MESSAGES", 40_000), number("ROUNDS", 3));
    let (clients, seconds) = (number("IDLE", 1_000), number("SECONDS", 8));
    let loads = [
        Load { name: "1 client, 100 unanswered", clients: 1, window: 100, rate: None },
        Load { name: "100 clients, 1 unanswered each", clients: 100, window: 1, rate: None },
        Load { name: "100 clients, 1,000/s in all", clients: 100, window: 10, rate: Some(1_000.0) },
    ];
    let only = number("LOAD", 0);
    println!("| load | tombolo, CPU µs per message | mosquitto | ratio |\n|---|---|---|---|");
    for (_, load) in (1..).zip(&loads).filter(|(at, _)| only == 0 || only == *at) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let messages = load.rate.map_or(messages, |rate| messages.min(8 * rate as usize));
        for _ in 0..rounds {
            for is_tombolo in [true, false] {
                let site = Site::start(is_tombolo, load.clients);
                let figure = local.block_on(&runtime, run(&site, load, messages));
                if is_tombolo { ours.push(figure) } else { theirs.push(figure) }
            }
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!("| {} | {ours:.1} | {theirs:.1} | {:.2} |", load.name, ours / theirs);
    }
    if only != 0 {
        return;
    }
    println!("\n| bytes per idle client | tombolo | mosquitto |\n|---|---|---|");
    let [ours, theirs] = [true, false].map(|is_tombolo| {
        let site = Site::start(is_tombolo, 2 * clients);
        local.block_on(&runtime, idle(&site, clients))
    });
    println!("| TCP | {} | {} |\n| TLS | {} | {} |", ours.0, theirs.0, ours.1, theirs.1);

    let floods = [
        ("nothing", Kind::Calm),
        ("connects with a wrong password", Kind::Strangers),
        ("500 TLS handshakes that do not end", Kind::Handshakes),
        ("publishes to topics of 65,535 bytes", Kind::Topics),
        ("SUBSCRIBE with eight filters", Kind::Subscriptions),
    ];
    println!(
        "\n| meanwhile | tombolo, ms to the PUBACK, p50 / p99 / most | a second | mosquitto | a second |"
    );
    println!("|---|---|---|---|---|");
    for (name, kind) in floods {
        let [ours, theirs] = [true, false].map(|is_tombolo| {
            let site = Site::start(is_tombolo, 12);
            let (waited, rate) = local.block_on(&runtime, flooded(&site, kind, seconds));
            let at = |share: f64| waited[((waited.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
            format!("{:.1} / {:.1} / {:.1} | {rate:.0}", at(0.5), at(0.99), at(1.0))
        });
        println!("| {name} | {ours} | {theirs} |");
    }
}
