//! The shell against brokers no real one behaves like.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use tombolo::message::Lane;
use tombolo::northbound::uplink::Inbound;

use crate::support::mosquitto::{good_clock, run};
use crate::support::{World, bare_settings};

#[test]
fn a_broker_that_stops_reading_is_still_read_from() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = bare_settings();
    settings.host = "127.0.0.1".to_owned();
    settings.port = listener.local_addr().unwrap().port();
    settings.max_in_flight = 65_000;
    let (done, said) = mpsc::channel();
    let broker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0u8; 4096];
        let _ = stream.read(&mut bytes).unwrap();
        stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        // From here on it reads nothing, and says far more than any buffer holds.
        let message = [&[0x30, 0x83, 0x20, 0, 1, b'x', 0][..], &[b'y'; 4095]].concat();
        let written = (0..10_000).try_for_each(|_| stream.write_all(&message));
        done.send(written.is_ok()).unwrap();
        // And then it reads on.
        while let Ok(1..) = stream.read(&mut bytes) {}
    });
    let world = World::new(bare_settings());
    let item = world.item("a", &[b'z'; 1000]);
    run(settings, good_clock(), async |running| {
        for _ in 0..20_000 {
            running.outbox.borrow_mut().push(Lane::Normal, item.clone());
        }
        running.handle.wake();
        running.until("connects", |running| running.handle.status().connected).await;
        running.until("the broker has said all", |_| said.try_recv() == Ok(true)).await;
        assert!(running.handle.status().connected);
    });
    broker.join().unwrap();
}

#[test]
fn more_messages_than_wait_for_the_daemon_are_read_once_it_takes_some() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = bare_settings();
    settings.host = "127.0.0.1".to_owned();
    settings.port = listener.local_addr().unwrap().port();
    settings.commands = vec!["down/#".to_owned()];
    let broker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0u8; 4096];
        let _ = stream.read(&mut bytes).unwrap();
        stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
        for id in 1..=2_000_u16 {
            let [high, low] = id.to_be_bytes();
            stream.write_all(&[0x32, 10, 0, 4, b'd', b'o', b'w', b'n', high, low, 0, b'1']).unwrap();
        }
        while let Ok(1..) = stream.read(&mut bytes) {}
    });
    run(settings, good_clock(), async |running| {
        let mut came = 0;
        running
            .until("all messages", |running| {
                // Some at a time, so that it is full again and again.
                let some = std::iter::from_fn(|| running.handle.poll_inbound()).take(300);
                came += some.filter(|inbound| matches!(inbound, Inbound::Message { .. })).count();
                came == 2_000
            })
            .await;
    });
    broker.join().unwrap();
}

#[test]
fn a_connection_whose_publish_is_not_answered_is_closed_and_made_anew_though_nothing_else_happens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = bare_settings();
    settings.host = "127.0.0.1".to_owned();
    settings.port = listener.local_addr().unwrap().port();
    settings.answer_timeout = Duration::from_secs(5);
    let (told, ends) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, told) = (stream.unwrap(), told.clone());
            std::thread::spawn(move || {
                let mut bytes = [0u8; 4096];
                let _ = stream.read(&mut bytes).unwrap();
                stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
                // It reads on and says nothing; the end of the stream is what is waited for.
                while let Ok(1..) = stream.read(&mut bytes) {}
                let _ = told.send(());
            });
        }
    });
    run(settings, good_clock(), async |running| {
        let world = World::new(bare_settings());
        running.outbox.borrow_mut().push(Lane::Normal, world.item("a", b"1"));
        running.handle.wake();
        // Nobody wakes it from here on.
        let mut closed = 0;
        while closed < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            closed += ends.try_iter().count();
        }
        assert!(running.handle.status().counters.unanswered >= 2);
    });
}

#[test]
fn a_host_that_takes_the_connection_and_says_nothing_is_given_up_by_stopping() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = bare_settings();
    settings.host = "localhost".to_owned();
    settings.port = listener.local_addr().unwrap().port();
    settings.tls = Some(tombolo::northbound::settings::TlsSettings {
        ca_file: None,
        pins: Vec::new(),
        identity: None,
        key_password: None,
        alpn: Vec::new(),
        minimum: tombolo::northbound::settings::TlsVersion::V1_2,
        revocation: Default::default(),
        est_anchors: None,
        token: None,
    });
    let folder = crate::support::pki::Folder::new();
    let authority = crate::support::pki::Authority::new("CA");
    settings.tls.as_mut().unwrap().ca_file = Some(folder.write("ca.pem", &authority.pem));
    let begun = std::time::Instant::now();
    run(settings, good_clock(), async |_running| {
        let (accepted, taken) = mpsc::channel();
        std::thread::spawn(move || accepted.send(listener.accept().unwrap()));
        let mut held = None;
        while held.is_none() {
            held = taken.try_recv().ok();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The connection stands, the handshake hangs; the test ends by stopping the uplink.
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
}
