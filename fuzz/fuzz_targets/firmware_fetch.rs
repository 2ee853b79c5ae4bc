//! Requests of devices for their firmware: for any datagram, and any course of the roll-out, what
//! is read lies within an image that this device may have, the answer is a message, and a campaign
//! is read back as it was written.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tombolo::daemon::firmware::question;
use tombolo::gate::stage::DeviceIndex;
use tombolo::gate::template::Template;
use tombolo::gate::{Device, Gate, Psk, Quota, Role, Settings as GateSettings};
use tombolo::message::Name;
use tombolo::proto::address::Peer;
use tombolo::proto::coap::{Code, Endpoint, Message, Request, Response};
use tombolo::proto::dtls::SessionId;
use tombolo::southbound::coap::FirmwareFetch;
use tombolo::southbound::coap::resource::{Buffers, Resource, find};
use tombolo::update::firmware::campaign::Campaign;
use tombolo::update::firmware::choice::denied_name;
use tombolo::update::firmware::kept::{Image, Kept};
use tombolo::update::firmware::library::{Answer, Library};
use tombolo::update::firmware::settings::{RoleFirmware, Rollout, SensorFirmware};
use tombolo::update::rollout::Share;
use tombolo::update::version::Scheme;

fuzz_target!(|script: &[u8]| run(script));

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn image(digest: u8, bytes: u64, is_suit: bool) -> Image {
    Image {
        version: format!("{digest}.0.0"),
        scheme: Scheme::Semver,
        sha256: [digest; 32],
        bytes,
        share: Share::ALL,
        min_version: (digest & 8 > 0).then(|| "1.0.0".to_owned()),
        is_suit,
    }
}

/// The gate's index of a device: only a gate makes one.
fn device() -> DeviceIndex {
    let psk = Psk { identity: b"door-7".to_vec(), key: b"sesame-sesame-77".to_vec().into() };
    let second = Duration::from_secs(1);
    let role = Role {
        quota: Quota { messages: 1_000, bytes: 1 << 20, per: second, burst: 1_000 },
        offline_after: second,
        ..Role::new(name("door"))
    };
    let settings = GateSettings {
        gateway: name("gw"),
        prefix: "p".to_owned(),
        reading: Template::parse("{prefix}/{device}/up/{path}").ok(),
        own: Default::default(),
        reply: None,
        roles: vec![role],
        devices: vec![Device { psk: Some(psk), ..Device::new(name("door-7"), name("door")) }.into()],
        fleets: Vec::new(),
        withheld: Default::default(),
    };
    Gate::new(settings, Instant::now()).device_by_id("door-7").expect("it is there")
}

struct World {
    library: Library,
    kept: Kept,
    denied: Vec<String>,
    endpoint: Endpoint,
    device: DeviceIndex,
    now: Instant,
}

/// A script is a row of steps: what to do, a length, and that many bytes for it.
fn run(mut script: &[u8]) {
    let mut settings = SensorFirmware {
        roles: Default::default(),
        disk: SensorFirmware::DISK,
        rollout: Rollout { failures: 2, report_within: Duration::from_secs(60), ..Rollout::default() },
    };
    settings.roles.insert(name("door"), RoleFirmware { class: name("lock") });
    let mut world = World {
        library: Library::new(settings),
        kept: Kept::default(),
        denied: Vec::new(),
        endpoint: Endpoint::new(Default::default(), 5),
        device: device(),
        now: Instant::now(),
    };
    while let [step, length, rest @ ..] = script {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        script = rest;
        let first = bytes.first().copied().unwrap_or(0);
        match step & 7 {
            0..=3 => world.ask(["a", "b"][usize::from(step >> 3 & 1)], bytes),
            4 => {
                let size = bytes.iter().skip(1).fold(1u64, |size, byte| size << 4 ^ u64::from(*byte));
                world.kept.take(image(first, size & 0xffff_ffff, step & 8 > 0));
                world.kept.is_withdrawn = step & 16 > 0;
                world.library.set_kept("lock", world.kept.clone());
            }
            5 => {
                world.denied = if step & 8 > 0 {
                    Vec::new()
                } else {
                    vec![denied_name("lock", &format!("{first}.0.0"))]
                };
                world.library.set_denied(&world.denied);
            }
            6 => drop(world.library.care(u64::from(first), |is_it| is_it(&name("door"), &name("a")))),
            _ => {
                if let (Ok(text), Some(class)) = (std::str::from_utf8(bytes), world.library.class_mut("lock"))
                {
                    class.campaign =
                        Campaign::parse(text).unwrap_or_else(|_| std::mem::take(&mut class.campaign));
                }
                if let Some(kept) = Kept::parse(bytes) {
                    assert!(kept.images.len() <= 2);
                }
            }
        }
        let Some(class) = world.library.class_mut("lock") else { continue };
        let text = class.campaign.encode();
        let mut read = Campaign::parse(&text).expect("what was written is read");
        assert_eq!(read.encode(), text);
    }
}

impl World {
    fn ask(&mut self, id: &str, datagram: &[u8]) {
        self.now += Duration::from_millis(100);
        self.endpoint.handle_timeout(self.now);
        let peer = Peer::Session(SessionId(1)).id();
        if let Some(request) = self.endpoint.handle_datagram(self.now, peer, datagram) {
            self.answer(id, &request);
        }
        let mut buffer = Vec::new();
        while self.endpoint.poll_transmit(&mut buffer).is_some() {
            assert!(Message::parse(&buffer).is_ok() && buffer.len() <= 1_280);
        }
    }

    fn answer(&mut self, id: &str, request: &Request<'_>) {
        let mut buffers = Buffers::default();
        let Resource::Firmware(path) = find(&request.head(), &mut buffers) else {
            return self.endpoint.respond(self.now, request.exchange, &Response::new(Code::NOT_FOUND));
        };
        let fetch = match FirmwareFetch::parse(self.device, path, request) {
            Ok(fetch) => fetch,
            Err(response) => return self.endpoint.respond(self.now, request.exchange, &response),
        };
        let (device, role) = (name(id), name("door"));
        let answer = self.library.answer(&question(&device, &role, &fetch));
        let bytes = [b'x'; 1_024];
        match answer {
            Answer::Manifest { format, body, etag } => {
                assert!(body.len() <= 1_024 && !self.kept.is_withdrawn);
                let response = Response { etag: Some(&etag), ..Response::content(format, &body) };
                self.endpoint.respond(self.now, request.exchange, &response);
            }
            Answer::Valid(etag) => {
                let response = Response { etag: Some(&etag), ..Response::new(Code::VALID) };
                self.endpoint.respond(self.now, request.exchange, &response);
            }
            Answer::Refused { code, text, .. } => {
                let response = Response::new(code).diagnostic(text);
                self.endpoint.respond(self.now, request.exchange, &response);
            }
            Answer::Read(piece) => {
                let image = self.kept.image(&piece.tag).expect("it is kept");
                assert!(!self.denied.contains(&denied_name("lock", &image.version)));
                assert!((1..=1_024).contains(&piece.length) && piece.whole == image.bytes);
                assert!(piece.offset + piece.length as u64 <= image.bytes);
                let payload = &bytes[..piece.length];
                let response = Response::content(tombolo::message::ContentFormat::OCTET_STREAM, payload);
                let response = Response { etag: Some(&piece.etag), whole: Some(piece.whole), ..response };
                self.endpoint.respond(self.now, request.exchange, &response);
                self.library.note_sent(&device, &piece);
            }
        }
    }
}
