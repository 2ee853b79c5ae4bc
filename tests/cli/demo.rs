//! However the demo ends, its gateway ends with it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::Place;

/// Longest wait for what should take seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A demo that runs: its process, its gateway, and its folder.
struct Demo {
    child: Child,
    gateway: i32,
    folder: PathBuf,
}

impl Demo {
    fn start(place: &Place) -> Demo {
        let mut command = place.command("--json demo");
        command.env("TMPDIR", place.path("run")).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // From its second line on the gateway is up; the rest is read so that it never waits.
        assert!(lines.next().is_some_and(|line| line.is_ok()));
        assert!(lines.next().is_some_and(|line| line.is_ok()));
        std::thread::spawn(move || lines.for_each(drop));
        let id = child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let gateway = children.split_whitespace().next().expect("it has a gateway").parse().unwrap();
        Demo { child, gateway, folder: place.path("run").join(format!("tombolo-demo-{id}")) }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Nobody may have waited for it: then it is there as a zombie.
    fn gateway_runs(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.gateway))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.gateway_runs() {
            let _ = kill(Pid::from_raw(self.gateway), Signal::SIGKILL);
        }
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_demo_ends_in_order_at_sigterm_and_at_the_end_of_its_terminal() {
    let place = Place::new();
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut demo = Demo::start(&place);
        assert!(demo.gateway_runs());
        demo.signal(signal);
        let ended = demo.child.wait().unwrap();
        // Its verdict is that of a demo of a moment: on a slow machine not all was heard yet.
        assert!(ended.code().is_some(), "{signal}: {ended}");
        assert!(!demo.gateway_runs(), "{signal}");
        assert!(!Path::new(&demo.folder).exists(), "{signal}: its folder is left");
    }
}

#[test]
fn the_gateway_of_a_demo_that_was_killed_ends_by_itself() {
    let place = Place::new();
    let mut demo = Demo::start(&place);
    demo.signal(Signal::SIGKILL);
    demo.child.wait().unwrap();
    until("the gateway ends", || !demo.gateway_runs());
}
