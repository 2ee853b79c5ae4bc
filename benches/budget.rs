//! What a board pays for the gateway, beside its budget: the program's file, the package, memory.
//!
//! `cargo bench --bench budget` — needs `strip` (binutils); the package is measured if
//! `packaging/deb/build` has made one. Prints a table and ends with 1 if a budget is exceeded.
//! `BINARY=PATH` in the environment measures another build, as that of a package: cargo builds the
//! one for benches with what tests ask of the dependencies, which is 0.5 MB.
//!
//! Each load runs twice: on the program, for its resident memory, and on this one, which is the
//! same daemon with an allocator that counts, for the bytes of the heap that are in use. `fixed`
//! is what of the resident memory is not mapped from the program's file, so that the kernel cannot
//! drop it; `touched` is what of it was accessed in ten seconds at rest: the kernel maps sixteen
//! pages round each that is asked for, and keeps what only the start needed until it has another
//! use for it. The environment is that of `tombolo.service`. The broker of the configuration is not
//! there: a gateway whose uplink is down has the same devices and sessions.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tombolo_test_support::dtls::client::Config;
use tombolo_test_support::dtls::connect;
use tombolo_test_support::{Daemon, Folder, Pki, free_tcp_port, program};

/// Where this program is the daemon: the socket on which it says how much of its heap is in use.
const HEAP: &str = "BUDGET_HEAP_SOCKET";
const KEY: &str = "benchbenchbench1";
/// As in `systemd/tombolo.service`.
const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
    ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"),
];
const DEVICES: usize = 10_000;
const MB: u64 = 1_000_000;

/// The system's allocator, counting what is held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// Safety: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory of a process in bytes.
#[derive(Clone, Copy)]
struct Memory {
    resident: u64,
    fixed: u64,
    touched: u64,
}

fn memory(pid: u32) -> Memory {
    let of = |name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process is there");
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1_024
    };
    let (resident, fixed) = (of("Rss:"), of("Anonymous:"));
    fs::write(format!("/proc/{pid}/clear_refs"), "1").expect("a process of this user");
    std::thread::sleep(Duration::from_secs(10));
    Memory { resident, fixed, touched: of("Referenced:") }
}

fn answer_about_the_heap(socket: &str) {
    let listener = UnixListener::bind(socket).expect("a socket in a folder of its own");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = write!(stream, "{}", HELD.load(Ordering::Relaxed));
        }
    });
}

fn heap(socket: &Path) -> u64 {
    let mut text = String::new();
    let mut stream = UnixStream::connect(socket).expect("the daemon listens there");
    stream.read_to_string(&mut text).expect("it answers");
    text.parse().expect("a number")
}

/// A gateway that knows `d0`, `d1` and so on, all with one key.
fn gateway(binary: &Path, folder: &Folder, pki: &Pki, devices: usize) -> (Daemon, PathBuf) {
    let socket = folder.join("heap");
    let key = folder.write("key.psk", format!("text:{KEY}"));
    let mut extra = "\n[role.sensor.uplink.telemetry]\npath = \"t/#\"\n\n".to_owned();
    for number in 0..devices {
        let _ = writeln!(extra, "[device.d{number}]\nrole = \"sensor\"\npsk-file = \"{}\"", key.display());
    }
    let mut environment = MALLOC.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    environment.push((HEAP.to_owned(), socket.display().to_string()));
    let mut daemon = Daemon::configure(binary, folder, free_tcp_port(), &pki.ca(), &extra, str::to_owned);
    daemon.environment = environment;
    daemon.resume();
    (daemon, socket)
}

/// One load, after it is at rest.
struct Load {
    memory: Memory,
    heap: u64,
}

/// So many devices are configured, and so many of them connected.
fn load(pki: &Pki, devices: usize, sessions: usize) -> Load {
    let own = std::env::current_exe().expect("this program");
    let measure = |binary: &Path| {
        let folder = Folder::new("budget");
        let (daemon, socket) = gateway(binary, &folder, pki, devices);
        for number in 0..sessions {
            connect(number, daemon.coaps.port(), Config::psk(&format!("d{number}"), KEY));
        }
        // What only the start or the handshakes needed is given back by now.
        std::thread::sleep(Duration::from_secs(3));
        (memory(daemon.pid()), socket.exists().then(|| heap(&socket)))
    };
    let (memory, _) = measure(&measured());
    let (_, heap) = measure(&own);
    Load { memory, heap: heap.expect("the counting daemon listens") }
}

/// What is measured.
fn measured() -> PathBuf {
    program(env!("CARGO_BIN_EXE_tombolo"))
}

fn stripped() -> u64 {
    let folder = Folder::new("budget");
    let out = folder.join("tombolo");
    let status = Command::new("strip").arg("-o").arg(&out).arg(measured()).status();
    assert!(status.is_ok_and(|status| status.success()), "strip is missing; apt-get install binutils");
    fs::metadata(out).expect("strip has written it").len()
}

/// The newest package that was built here, with its size.
fn package() -> Option<(PathBuf, u64)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/deb");
    let found = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let (path, looked) = (entry.path(), entry.metadata().ok()?);
        (path.extension()? == "deb").then_some((looked.modified().ok()?, path, looked.len()))
    });
    found.max().map(|(_, path, size)| (path, size))
}

/// Prints lines of the table, and knows whether a budget is exceeded.
struct Table {
    exceeded: bool,
}

impl Table {
    fn line(&mut self, what: &str, bytes: u64, budget: Option<u64>, more: &str) {
        let figure = |bytes: u64| format!("{:.1} MB", bytes as f64 / MB as f64);
        let is_over = budget.is_some_and(|budget| bytes > budget);
        self.exceeded |= is_over;
        let budget = budget.map(figure).unwrap_or_default();
        let mark = if is_over { " **over**" } else { "" };
        println!("| {what} | {} | {budget}{mark} | {more} |", figure(bytes));
    }

    fn memory(&mut self, what: &str, load: &Load, budget: Option<u64>) {
        let [fixed, touched, heap] =
            [load.memory.fixed, load.memory.touched, load.heap].map(|bytes| bytes as f64 / MB as f64);
        let more = format!("{fixed:.1} MB fixed, {touched:.1} MB touched, {heap:.1} MB of heap in use");
        self.line(what, load.memory.resident, budget, &more);
    }
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--config") {
        if let Ok(socket) = std::env::var(HEAP) {
            answer_about_the_heap(&socket);
        }
        return tombolo::cli::main();
    }
    if std::env::args().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let folder = Folder::new("budget");
    let pki = Pki::new(folder.path());
    let mut table = Table { exceeded: false };
    println!("| what | | budget | |\n|---|---|---|---|");
    table.line("the program, stripped", stripped(), Some(10 * MB), &measured().display().to_string());
    match package() {
        Some((path, size)) => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            table.line("the package", size, Some(4 * MB), &format!("`packaging/deb/build`: {name}"));
        }
        None => println!("| the package | not built | 4.0 MB | `packaging/deb/build` |"),
    }
    table.memory("resident, idle, no devices", &load(&pki, 0, 0), Some(8 * MB));
    let configured = load(&pki, DEVICES, 0);
    table.memory("resident, 10,000 devices configured", &configured, Some(20 * MB));
    let connected = load(&pki, DEVICES, DEVICES);
    table.memory("resident, all of them with a DTLS session", &connected, None);
    let more = connected.memory.resident.saturating_sub(configured.memory.resident);
    let heap = connected.heap.saturating_sub(configured.heap) as usize / DEVICES;
    table.line("10,000 DTLS sessions", more, Some(6 * MB), &format!("{heap} bytes of heap each"));
    ExitCode::from(u8::from(table.exceeded))
}
