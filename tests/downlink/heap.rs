//! Bytes of the heap that 10,000 devices cost, as the allocator counts them: that sleep, that
//! observe, that fetch firmware.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use tombolo::downlink::mailbox::Mailbox;
use tombolo::downlink::observe::{Formats, OF_DEVICE, Registration};
use tombolo::gate::Deliver;
use tombolo::message::{ContentFormat, Name};
use tombolo::proto::address::Peer;
use tombolo::proto::coap::block::Block;
use tombolo::proto::coap::encoder::Encoder;
use tombolo::proto::coap::{Code, Endpoint, MessageId, PeerId, Response, Settings, Token, Type};
use tombolo::proto::dtls::SessionId;
use tombolo::update::firmware::kept::{Image, Kept};
use tombolo::update::firmware::library::{Answer, Library, Question};
use tombolo::update::firmware::settings::{RoleFirmware, SensorFirmware};
use tombolo::update::rollout::Share;
use tombolo::update::version::Scheme;

use crate::world::World;

/// The system's allocator, counting for each thread what is allocated and not freed.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

// Safety: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LIVE.try_with(|live| live.set(live.get() + layout.size() as isize));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get() - layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SLEEPERS: u32 = 10_000;

/// Bytes of heap and of disk for each sleeper with one set-point of 4 bytes.
fn of_each(deliver: Deliver) -> (usize, usize) {
    let mut world = World::with_sleepers(SLEEPERS, deliver);
    let disk: usize = world.disk.files().iter().map(|(_, _, content)| content.len()).sum();
    let (held, values) = (world.mailbox.bytes(), world.mailbox.values());
    let mailbox = std::mem::replace(&mut world.mailbox, Mailbox::new(1, &[]));
    let before = LIVE.get();
    drop(mailbox);
    let heap = usize::try_from(before - LIVE.get()).expect("it frees");
    let each = (heap / SLEEPERS as usize, disk / SLEEPERS as usize);
    println!(
        "{deliver:?}: {} bytes of heap and {} of disk each; accounted: commands {}, values {}",
        each.0,
        each.1,
        held / SLEEPERS as usize,
        values.1 / SLEEPERS as usize
    );
    each
}

#[test]
fn ten_thousand_sleepers_take_as_much_heap_as_the_documentation_says() {
    let (request, disk) = of_each(Deliver::Request);
    assert!(request < 1_200 && disk < 300, "{request} {disk}");
    // The value that a GET is answered with is kept besides.
    for deliver in [Deliver::Auto, Deliver::Observe] {
        let (heap, disk) = of_each(deliver);
        assert!(heap < 2_600 && disk < 400, "{deliver:?}: {heap} {disk}");
    }
}

/// What the relations and the values of one device may take at most, with the longest paths.
#[test]
fn what_a_device_observes_and_the_values_for_it_take_as_much_heap_as_the_documentation_says() {
    const DEVICES: u32 = 100;
    let mut world = World::new();
    world.wire.awake = false;
    let long = |number: usize| format!("{number:02}/{}", "p".repeat(252));
    for id in 0..DEVICES {
        for number in 0..OF_DEVICE {
            let registration = Registration {
                device: Name::parse(&format!("sensor-{id:05}")).unwrap(),
                path: long(number),
                peer: Some(Peer::Session(SessionId(id.into())).id()),
                session: Some(id.into()),
                token: Token::new(&[number as u8; 8]).unwrap(),
                block: None,
                formats: Formats::Any,
            };
            assert!(world.mailbox.observe(world.now, registration, 900));
            world.settle();
        }
    }
    assert_eq!(world.mailbox.relation_count(), DEVICES as usize * OF_DEVICE);
    let mailbox = std::mem::replace(&mut world.mailbox, Mailbox::new(1, &[]));
    let before = LIVE.get();
    drop(mailbox);
    let each = usize::try_from(before - LIVE.get()).expect("it frees") / (DEVICES as usize * OF_DEVICE);
    println!("a relation: {each} bytes of heap, with a path of 255 bytes");
    assert!(each < 1_500, "{each}");
}

/// 10,000 devices that observe a path each, all of them told a state.
#[test]
fn ten_thousand_observers_take_as_much_heap_as_the_documentation_says() {
    let mut world = World::new();
    world.wire.awake = false;
    let before = LIVE.get();
    for id in 0..SLEEPERS {
        let registration = Registration {
            device: Name::parse(&format!("sensor-{id:05}")).unwrap(),
            path: "lock".to_owned(),
            peer: Some(Peer::Session(SessionId(id.into())).id()),
            session: Some(id.into()),
            token: Token::new(&id.to_be_bytes()).unwrap(),
            block: None,
            formats: Formats::Any,
        };
        assert!(world.mailbox.observe(world.now, registration, 900), "the answer has Observe");
        world.settle();
    }
    assert_eq!(world.mailbox.relation_count(), SLEEPERS as usize);
    let disk: usize = world.disk.files().iter().map(|(_, _, content)| content.len()).sum();
    let mailbox = std::mem::replace(&mut world.mailbox, Mailbox::new(1, &[]));
    let held = LIVE.get();
    drop(mailbox);
    let each = usize::try_from(held - LIVE.get()).expect("it frees") / SLEEPERS as usize;
    println!("an observer: {each} bytes of heap and {} of disk", disk / SLEEPERS as usize);
    assert!(each < 500, "{each}");
    assert!(disk / (SLEEPERS as usize) < 100, "{disk}");
    drop(world);
    assert!(LIVE.get() - before < 1 << 20, "nothing is left behind: {}", LIVE.get() - before);
}

fn image(bytes: u64) -> Image {
    Image {
        version: "1.4.0".to_owned(),
        scheme: Scheme::Semver,
        sha256: [7; 32],
        bytes,
        share: Share::ALL,
        min_version: None,
        is_suit: false,
    }
}

/// A GET of a block of the image.
fn get(id: u16, path: [&str; 3], block: Block) -> Vec<u8> {
    let mut datagram = Vec::new();
    let token = Token::new(&id.to_be_bytes()).unwrap();
    let encoder = Encoder::new(&mut datagram, Type::Confirmable, Code(1), MessageId(id), &token);
    let encoder = path.iter().fold(encoder, |encoder, segment| encoder.option(11, segment.as_bytes()));
    encoder.option(23, &block.to_uint().to_be_bytes()[1..]).finish().unwrap();
    datagram
}

/// 10,000 devices ask for a block at the same moment, are answered, and ask for the next one: what
/// is kept of each, by the endpoint while all of them wait and when all are answered, and by the
/// campaign.
#[test]
fn ten_thousand_devices_that_fetch_firmware_at_once_take_as_much_heap_as_the_documentation_says() {
    const BLOCKS: u32 = 40;
    let name = |text: &str| Name::parse(text).unwrap();
    let mut settings = SensorFirmware::default();
    settings.roles.insert(name("door"), RoleFirmware { class: name("lock") });
    let mut library = Library::new(settings);
    let image = image(u64::from(BLOCKS) * 1_024);
    let tag = image.tag();
    library.set_kept("lock", Kept { images: vec![image], is_withdrawn: false });
    let role = name("door");
    let devices: Vec<Name> = (0..SLEEPERS).map(|id| name(&format!("sensor-{id:05}"))).collect();
    let peers: Vec<PeerId> = (0..SLEEPERS).map(|id| Peer::Session(SessionId(id.into())).id()).collect();
    let settings = Settings::default();
    let mut now = Instant::now();
    let mut buffer = Vec::with_capacity(2_048);
    let bytes = vec![0xa5; 1_024];
    let before = LIVE.get();
    let mut endpoint = Endpoint::new(settings, 1);
    let of_each = |now: isize, then: isize| (now - then).max(0) as usize / SLEEPERS as usize;
    let (mut waiting, mut answered) = (0, 0);
    let mut of_library = 0;
    for number in 0..BLOCKS {
        let block = Block { number, more: false, size_exponent: 6 };
        let datagram = get(number as u16, ["firmware", "lock", &tag], block);
        let mut exchanges = Vec::new();
        for peer in &peers {
            let request = endpoint.handle_datagram(now, *peer, &datagram);
            exchanges.push(request.expect("all of them are taken").exchange);
        }
        let of_test = exchanges.capacity() * size_of_val(&exchanges[0]);
        waiting = waiting.max(of_each(LIVE.get() - of_test as isize, before + of_library));
        let library_before = LIVE.get();
        let pieces: Vec<_> = devices
            .iter()
            .map(|device| {
                let question = Question {
                    device,
                    role: &role,
                    class: "lock",
                    tag: Some(&tag),
                    version: None,
                    etags: &[],
                    accept: None,
                    block: Some(block),
                };
                match library.answer(&question) {
                    Answer::Read(piece) => {
                        library.note_sent(device, &piece);
                        piece
                    }
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        let piece = pieces[0].clone();
        drop(pieces);
        of_library += LIVE.get() - library_before;
        for exchange in exchanges {
            let response = Response::content(ContentFormat::OCTET_STREAM, &bytes).max_age(600);
            let response = Response { etag: Some(&piece.etag), whole: Some(piece.whole), ..response };
            endpoint.respond(now, exchange, &response);
            while endpoint.poll_transmit(&mut buffer).is_some() {
                assert!(buffer.len() > 1_024, "the block is on its way");
            }
        }
        answered = answered.max(of_each(LIVE.get(), before + of_library));
        // A block each two seconds.
        now += Duration::from_secs(2);
        endpoint.handle_timeout(now);
    }
    let whole = LIVE.get();
    drop(library);
    let campaign = of_each(whole, LIVE.get());
    println!(
        "a device that fetches: {waiting} bytes of heap while all wait, {answered} when all are answered; its progress: \
         {campaign}; remembered requests as counted: {}",
        endpoint.memory() / SLEEPERS as usize
    );
    assert!(waiting < 550 && answered < 550 && campaign < 200, "{waiting} {answered} {campaign}");
    now += Duration::from_secs(600);
    endpoint.handle_timeout(now);
    assert_eq!(
        (endpoint.peer_count(), endpoint.memory()),
        (0, 0),
        "nothing is kept of a device that is silent"
    );
}
