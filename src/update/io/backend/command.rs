//! Runs a program that installs: its lines are followed while it runs, its time is bounded, and the
//! last line of its standard error is its reason. What it leaves behind is not waited for.

use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::system::io::ProcessGroup;

/// Longest line that is kept, in bytes.
const LINE_MAX: usize = 1024;
/// After its end what it wrote is read for so long, if its streams are still held by another.
const REST: Duration = Duration::from_secs(2);
/// Where programs are, unless the environment says it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
    folder: Option<std::path::PathBuf>,
    within: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The exit status; `None`: by a signal.
    pub status: Option<i32>,
    /// What it wrote on standard output, at most 1 MiB of it.
    pub output: String,
    /// The last line of its standard error that is not empty.
    pub last: String,
    /// The one before that.
    pub earlier: String,
}

/// Most bytes of output that are kept.
const OUTPUT_MAX: usize = 1 << 20;

impl Call {
    /// A program of the system, or by its path; at most for that long.
    pub fn new(program: impl Into<OsString>, within: Duration) -> Call {
        Call { program: program.into(), arguments: Vec::new(), environment: Vec::new(), folder: None, within }
    }

    /// With one more argument.
    #[must_use]
    pub fn with(mut self, argument: impl Into<OsString>) -> Call {
        self.arguments.push(argument.into());
        self
    }

    /// With these arguments more.
    #[must_use]
    pub fn with_all<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Call {
        self.arguments.extend(arguments.into_iter().map(OsString::from));
        self
    }

    /// With this in its environment, which is otherwise empty but for `PATH` and `LC_ALL=C`.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Call {
        self.environment.push((name, value.into()));
        self
    }

    /// In this folder.
    #[must_use]
    pub fn inside(mut self, folder: &Path) -> Call {
        self.folder = Some(folder.to_owned());
        self
    }

    fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// Runs it to its end; `handle` is told each line of its standard output. What is left of its
    /// process group is killed then. It blocks.
    ///
    /// # Errors
    /// One sentence: it cannot be started, or did not end in time and was killed with its children.
    pub fn run(&self, handle: &mut dyn FnMut(&str)) -> Result<Ended, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("{} cannot be started: {error}", self.name()))?;
        runtime.block_on(self.follow(handle))
    }

    /// As [`Call::run`], and it has to end with status 0.
    ///
    /// # Errors
    /// One sentence, with the last line that it wrote on standard error.
    pub fn succeed(&self, handle: &mut dyn FnMut(&str)) -> Result<Ended, String> {
        let ended = self.run(handle)?;
        match ended.status {
            Some(0) => Ok(ended),
            _ => Err(self.failure(&ended)),
        }
    }

    /// What to say of an end that is none of those expected.
    pub fn failure(&self, ended: &Ended) -> String {
        let how = match ended.status {
            Some(status) => format!("ended with status {status}"),
            None => "was ended by a signal".to_owned(),
        };
        let first = self.arguments.first().map(|word| format!(" {}", word.to_string_lossy()));
        let last = if ended.last.is_empty() { String::new() } else { format!(": {}", ended.last) };
        format!("{}{} {how}{last}", self.name(), first.unwrap_or_default())
    }

    async fn follow(&self, handle: &mut dyn FnMut(&str)) -> Result<Ended, String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().env("LC_ALL", "C");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()));
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command.current_dir(self.folder.as_deref().unwrap_or(Path::new("/")));
        let mut child =
            command.spawn().map_err(|error| format!("{} cannot be started: {error}", self.name()))?;
        let group = child.id().map(ProcessGroup);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (mut output, mut last, mut earlier) = (String::new(), String::new(), String::new());
        let work = async {
            let out = lines(stdout, |line| {
                handle(line);
                if output.len() + line.len() < OUTPUT_MAX {
                    output.push_str(line);
                    output.push('\n');
                }
            });
            let err = lines(stderr, |line| {
                log::info!("{}: {line}", self.name());
                if !line.trim().is_empty() {
                    earlier = std::mem::replace(&mut last, line.trim().to_owned());
                }
            });
            let mut reading = pin!(async { tokio::join!(out, err) });
            let ended = tokio::select! {
                status = child.wait() => Some(status),
                _ = &mut reading => None,
            };
            let status = match ended {
                // Something it began may hold its streams for ever.
                Some(status) => {
                    let _ = timeout(REST, reading).await;
                    status
                }
                None => child.wait().await,
            };
            status.map_err(|error| format!("{} cannot be waited for: {error}", self.name()))
        };
        let ended = timeout(self.within, work).await;
        drop(group);
        match ended {
            Ok(status) => Ok(Ended { status: status?.code(), output, last, earlier }),
            Err(_) => Err(format!(
                "{} did not end within {} s and was killed",
                self.name(),
                self.within.as_secs_f32()
            )),
        }
    }
}

/// Reads to the end, and hands on line by line; a carriage return ends one, too.
async fn lines(source: Option<impl AsyncRead + Unpin>, mut handle: impl FnMut(&str)) {
    let Some(mut source) = source else { return };
    let (mut buffer, mut line) = (vec![0; 4096], Vec::new());
    loop {
        // A stream that errs has ended.
        let count = source.read(&mut buffer).await.unwrap_or(0);
        for byte in &buffer[..count] {
            match byte {
                b'\n' | b'\r' => {
                    if !line.is_empty() {
                        handle(&String::from_utf8_lossy(&line));
                    }
                    line.clear();
                }
                _ if line.len() < LINE_MAX => line.push(*byte),
                _ => {}
            }
        }
        if count == 0 {
            break;
        }
    }
    if !line.is_empty() {
        handle(&String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str, within: Duration) -> Call {
        Call::new("sh", within).with("-c").with(script)
    }

    #[test]
    fn lines_are_followed_and_the_last_of_standard_error_is_the_reason() {
        let mut seen = Vec::new();
        let call = shell("printf '1%%\\r2%%\\n'; echo no >&2; echo 'no room' >&2; echo >&2; exit 7", LONG);
        let failure = call.succeed(&mut |line| seen.push(line.to_owned()));
        assert_eq!(failure, Err("sh -c ended with status 7: no room".to_owned()));
        assert_eq!(seen, ["1%", "2%"]);
        let ended = shell("echo $LC_ALL $HOME; kill $$", LONG).run(&mut |_| {}).expect("it ran");
        assert_eq!((ended.status, ended.output.as_str()), (None, "C\n"));
    }

    #[test]
    fn one_that_talks_or_hangs_without_end_is_bounded() {
        let ended = shell("head -c 5000000 /dev/zero | tr '\\0' x", LONG).run(&mut |_| {}).expect("it ran");
        assert!(ended.output.len() <= LINE_MAX + 1);
        let killed = shell("sleep 100 & wait", Duration::from_millis(100)).run(&mut |_| {});
        assert!(killed.is_err_and(|why| why.contains("within 0.1 s")));
        // What it leaves behind with its streams does not keep it from having ended.
        let left = shell("echo 1; echo no >&2; sleep 100 & exit 3", LONG).run(&mut |_| {}).expect("it ran");
        assert_eq!((left.status, left.output.as_str(), left.last.as_str()), (Some(3), "1\n", "no"));
        let none = Call::new("tombolo-no-such-program", LONG).run(&mut |_| {});
        assert!(none.is_err_and(|why| why.contains("cannot be started")));
    }
}
