//! The broker of the demo: rumqttd's router and server behind a TLS acceptor. Its `Broker`, which
//! starts both, would bring a console and metrics over HTTP into the program.
//!
//! The broker also listens on loopback without TLS, for the acceptor, so it is only suitable for
//! the demo.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rumqttd::local::{LinkBuilder, LinkRx};
use rumqttd::protocol::v5::V5;
use rumqttd::{ConnectionSettings, LinkType, Notification, Router, RouterConfig, Server, ServerSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::pki::Pki;

/// One publish that reached the broker.
pub struct Arrived {
    /// The topic it came on.
    pub topic: String,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// The user property `id`, if it has one.
    pub id: Option<String>,
}

/// A running broker.
pub struct DemoBroker {
    /// The address of the TLS acceptor.
    pub address: SocketAddr,
    /// The publishes that reached the broker.
    pub arrived: Receiver<Arrived>,
    /// Set it to cut the uplink: connections are closed, new ones at once.
    pub cut: watch::Sender<bool>,
}

/// Starts the broker, its TLS acceptor and a subscription to everything below `tombolo/`.
///
/// # Errors
/// The error as text.
pub async fn start(pki: &Pki) -> Result<DemoBroker, String> {
    let plain = free_port().await.map_err(|e| format!("no free port on 127.0.0.1: {e}"))?;
    let router = Router::new(0, router_config()).spawn();
    let (mut subscriber, incoming, _) = LinkBuilder::new("demo-screen", router.clone())
        .build()
        .map_err(|e| format!("the embedded broker refused a link: {e}"))?;
    subscriber
        .subscribe("tombolo/#")
        .map_err(|e| format!("the embedded broker refused to subscribe: {e}"))?;
    let (sender, arrived) = channel();
    spawn_named("demo-screen", move || {
        let _subscriber = subscriber;
        forward(incoming, &sender);
    })?;
    let mut server = Server::new(server_settings(plain), router, V5);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("the embedded broker cannot be started: {e}"))?;
    spawn_named("demo-broker", move || {
        let _ = runtime.block_on(server.start(LinkType::Remote));
    })?;

    let tls =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(vec![pki.certificate.clone()], pki.key.clone_key())
            })
            .map_err(|e| format!("the broker's TLS cannot be set up: {e}"))?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|e| format!("127.0.0.1: {e}"))?;
    let address = listener.local_addr().map_err(|e| format!("127.0.0.1: {e}"))?;
    let (cut, watching) = watch::channel(false);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if *watching.borrow() {
                continue;
            }
            let (acceptor, mut cut) = (acceptor.clone(), watching.clone());
            tokio::task::spawn_local(async move {
                tokio::select! {
                    () = carry(stream, &acceptor, plain) => {}
                    _ = cut.wait_for(|cut| *cut) => {}
                }
            });
        }
    });
    Ok(DemoBroker { address, arrived, cut })
}

async fn carry(stream: TcpStream, acceptor: &TlsAcceptor, plain: SocketAddr) {
    let Ok(mut secure) = acceptor.accept(stream).await else { return };
    if let Ok(mut inner) = connect(plain).await {
        let _ = tokio::io::copy_bidirectional(&mut secure, &mut inner).await;
    }
}

/// Retries, because the broker's thread binds its port after it is known here.
async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut last = std::io::ErrorKind::NotConnected.into();
    for _ in 0..100 {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(last)
}

async fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()
}

fn spawn_named(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|e| format!("the thread {name} cannot be started: {e}"))
}

fn forward(mut incoming: LinkRx, sender: &Sender<Arrived>) {
    loop {
        match incoming.recv() {
            Ok(Some(Notification::Forward(forward))) => {
                let id = forward.properties.and_then(|properties| {
                    properties
                        .user_properties
                        .into_iter()
                        .find(|(key, _)| key == "id")
                        .map(|(_, value)| value)
                });
                let arrived = Arrived {
                    topic: String::from_utf8_lossy(&forward.publish.topic).into_owned(),
                    payload: forward.publish.payload.to_vec(),
                    id,
                };
                if sender.send(arrived).is_err() {
                    return;
                }
            }
            Ok(Some(Notification::Unschedule)) => {
                let _ = incoming.ready();
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn server_settings(listen: SocketAddr) -> ServerSettings {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 1_000,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    ServerSettings { name: "demo".to_owned(), listen, tls: None, next_connection_delay_ms: 1, connections }
}

fn router_config() -> RouterConfig {
    RouterConfig {
        max_connections: 16,
        max_outgoing_packet_count: 1_000,
        max_segment_size: 1 << 20,
        max_segment_count: 16,
        custom_segment: None,
        initialized_filters: None,
        shared_subscriptions_strategy: Default::default(),
    }
}
