//! A kernel whose clocks the test sets, under a real daemon: fake_kernel.c, preloaded.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Folder;

pub const DAY: Duration = Duration::from_secs(86_400);

/// What the daemon under it sees. Dropped, it changes nothing: the daemon has its file mapped.
pub struct Kernel {
    state: PathBuf,
    library: PathBuf,
    wall_ms: i64,
    boottime_ms: i64,
    synchronised: bool,
    disk: Disk,
    boot: u32,
}

/// The disk under the clock's file.
#[derive(Clone, Copy)]
pub enum Disk {
    Fine = 0,
    Hangs = 1,
    Full = 2,
}

impl Kernel {
    /// Synchronised, at the real time plus `ahead` (negative: minus).
    pub fn new(folder: &Folder, ahead: i64) -> Kernel {
        let library = folder.join("fake_kernel.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fake_kernel.c");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(source)
            .status()
            .expect("a C compiler is there");
        assert!(made.success());
        let mut kernel = Kernel {
            state: folder.join("kernel"),
            library,
            wall_ms: ahead * DAY.as_millis() as i64,
            boottime_ms: 0,
            synchronised: true,
            disk: Disk::Fine,
            boot: 0,
        };
        fs::write(&kernel.state, [0; 72]).expect("the kernel's file");
        kernel.reboot();
        kernel
    }

    /// A program that runs `binary` under this kernel; where there is a socket `notify` in the
    /// folder, it stands for systemd's.
    pub fn wrap(&self, folder: &Folder, binary: &Path) -> PathBuf {
        let notify = folder.join("notify");
        let text = format!(
            "#!/bin/sh\n[ -S '{}' ] && export NOTIFY_SOCKET='{}'\nexport LD_PRELOAD='{}' FAKE_KERNEL='{}'\nexec '{}' \"$@\"\n",
            notify.display(),
            notify.display(),
            self.library.display(),
            self.state.display(),
            binary.display()
        );
        folder.script("tombolo", &text)
    }

    fn write(&self) {
        let mut bytes = Vec::new();
        for number in [self.wall_ms, self.boottime_ms, i64::from(self.synchronised), self.disk as i64] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        bytes.extend_from_slice(
            format!("{:08x}-0000-4000-8000-{:012x}\n\0\0\0", self.boot, std::process::id()).as_bytes(),
        );
        let file = OpenOptions::new().write(true).open(&self.state).expect("the kernel's file");
        file.write_all_at(&bytes, 0).expect("the kernel's file");
    }

    /// A new boot, half a minute ago.
    pub fn reboot(&mut self) {
        let uptime = fs::read_to_string("/proc/uptime").expect("/proc/uptime");
        let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("/proc/uptime");
        self.boottime_ms = 30_000 - (seconds * 1000.0) as i64;
        self.boot += 1;
        self.write();
    }

    /// Sets the wall clock `days` forward, or back.
    pub fn step(&mut self, days: i64) {
        self.wall_ms += days * DAY.as_millis() as i64;
        self.write();
    }

    /// Sets the wall clock to 1970.
    pub fn set_to_1970(&mut self) {
        self.wall_ms =
            20_000 - SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
        self.write();
    }

    /// Time passes, on both clocks.
    pub fn pass(&mut self, time: Duration) {
        self.wall_ms += time.as_millis() as i64;
        self.boottime_ms += time.as_millis() as i64;
        self.write();
    }

    pub fn disk(&mut self, disk: Disk) {
        self.disk = disk;
        self.write();
    }

    pub fn synchronise(&mut self, synchronised: bool) {
        self.synchronised = synchronised;
        self.write();
    }
}
