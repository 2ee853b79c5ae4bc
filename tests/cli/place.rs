//! A folder with its own configuration, in which the binary runs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A configuration with one role, its state and runtime directories inside the folder, no upstream
/// and no fixed port.
const CONFIG: &str = r#"
[paths]
state-dir = "state"
runtime-dir = "run"

[clock]
trust = "always"

[coap]
listen = ["127.0.0.1:0"]

[journal]
max-bytes = "8MiB"

[lane.normal]
max-bytes = "4MiB"

[lane.high]
max-bytes = "1MiB"

[role.sensor.uplink.telemetry]
path = "t/#"

[role.sensor.uplink.secret]
path = "t/secret"
deny = true

[role.mute]
"#;

/// The folder; removed with the value.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tombolo-cli-{}-{count}", std::process::id()));
        fs::create_dir_all(folder.join("state")).unwrap();
        fs::create_dir_all(folder.join("run")).unwrap();
        fs::write(folder.join("tombolo.toml"), CONFIG).unwrap();
        Place(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The binary with that command line (split at blanks), `--config` added, nothing of the
    /// machine's own environment.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
        command.arg("--config").arg(self.path("tombolo.toml")).args(line.split_whitespace());
        command.env_clear().env("PATH", "/nowhere").current_dir(&self.0);
        command
    }

    pub fn run(&self, line: &str) -> Ran {
        Ran::of(line, self.command(line).stdin(Stdio::null()).output().unwrap())
    }

    pub fn run_with_input(&self, line: &str, input: &[u8]) -> Ran {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Ran::of(line, child.wait_with_output().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a command ended and what it said.
pub struct Ran {
    pub line: String,
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(line: &str, output: Output) -> Ran {
        Ran {
            line: line.to_owned(),
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It ended well; its output.
    #[track_caller]
    pub fn fine(self) -> String {
        assert_eq!(self.status, 0, "{}\n{}{}", self.line, self.out, self.err);
        self.out
    }

    /// It ended with that status, and what it said on standard error has all these words.
    #[track_caller]
    pub fn failed(self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{}\n{}{}", self.line, self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{}: no {word:?} in\n{}", self.line, self.err);
        }
    }

    /// Its output as one JSON object.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let line = self.line.clone();
        let out = self.fine();
        assert_eq!(out.lines().count(), 1, "{line}: {out}");
        serde_json::from_str(&out).unwrap()
    }
}

/// The mode of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
