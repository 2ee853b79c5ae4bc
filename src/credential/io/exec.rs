//! Runs the program that issues a certificate: its input, its output within bounds, and its end.
//!
//! It has a process group of its own, which is killed at the time limit, at too much output, and if
//! the order is given up, as at a reload. So neither it nor a child that stays in its group goes
//! on; one that leaves the group ends with the service, whose cgroup systemd empties.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::credential::est::line;
use crate::credential::exec::{ERROR_MAX, ExecSettings, Exit, INHERITED, OUTPUT_MAX, environment, judge};
use crate::credential::source::{Answer, Identity, Order, Outcome, Source};
use crate::northbound::token_key::TokenKey;
use crate::proto::pem;
use crate::system::io::{ProcessGroup, random, read_last};

/// How long a child that keeps the pipes open is waited for after the program has ended.
const PIPES_WITHIN: Duration = Duration::from_secs(1);
/// How long a killed program is waited for; one that the kernel cannot end is reaped later.
const REAPED_WITHIN: Duration = Duration::from_secs(5);
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program.
pub struct ExecSource {
    settings: ExecSettings,
    /// Where the working folder of one run is made: the runtime directory, which is in memory.
    runtime: PathBuf,
}

impl ExecSource {
    /// Takes the settings in; nothing is started yet.
    pub fn new(settings: ExecSettings, runtime: PathBuf) -> ExecSource {
        ExecSource { settings, runtime }
    }

    async fn run(&self, order: Order) -> Result<Outcome, String> {
        let Some((program, arguments)) = self.settings.command.split_first() else {
            return Err("no command is configured".to_owned());
        };
        let runtime = self.runtime.clone();
        let identity = order.identity;
        let made = tokio::task::spawn_blocking(move || Folder::new(&runtime, identity.as_ref())).await;
        let folder =
            made.unwrap_or_else(|_| Err(io::Error::other("its thread failed"))).map_err(|error| {
                format!("the working folder in {} cannot be made: {error}", self.runtime.display())
            })?;

        let mut command = Command::new(program);
        command.args(arguments).current_dir(&folder.path).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("PATH", DEFAULT_PATH);
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(environment(&order.name, order.kind, &folder.path, folder.current()));
        let mut child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
        let group = child.id().map(ProcessGroup);

        let mut request = Vec::new();
        pem::encode(pem::CERTIFICATE_REQUEST, &order.csr, &mut request);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut output, mut error) = (Vec::new(), Vec::new());
        let work = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // A program that does not read it may do so.
                    let _ = stdin.write_all(&request).await;
                }
                std::future::pending::<()>().await
            };
            let pipes = async {
                tokio::join!(read_output(stdout, &mut output), read_last::<ERROR_MAX>(stderr, &mut error)).0
            };
            let mut pipes = std::pin::pin!(pipes);
            let mut write = std::pin::pin!(write);
            let mut within = None;
            // The end of the program counts, not that of its pipes, which a child of it may hold.
            let status = loop {
                tokio::select! {
                    within_bounds = &mut pipes, if within.is_none() => {
                        if !within_bounds {
                            return Err(format!("{program} wrote more than {OUTPUT_MAX} bytes"));
                        }
                        within = Some(true);
                    }
                    () = &mut write => {}
                    status = child.wait() => break status,
                }
            };
            let status = status.map_err(|error| format!("{program} cannot be waited for: {error}"))?;
            if within.is_none() && timeout(PIPES_WITHIN, pipes).await == Ok(false) {
                return Err(format!("{program} wrote more than {OUTPUT_MAX} bytes"));
            }
            Ok(status)
        };
        let ended = timeout(self.settings.timeout, work).await;
        // The group outlives its first process only while others are in it.
        drop(group);
        let status = match ended {
            Ok(Ok(status)) => status,
            ended => {
                let _ = timeout(REAPED_WITHIN, child.wait()).await;
                let limit = self.settings.timeout.as_secs_f32();
                let cause = match ended {
                    Ok(Err(cause)) => cause,
                    _ => format!("{program} did not end within {limit} s and was killed"),
                };
                return Err(cause);
            }
        };
        let exit = match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Status(code),
            (None, signal) => Exit::Signal(signal.unwrap_or_default()),
        };
        Ok(judge(exit, &output, &error, &order.csr))
    }
}

/// Whether all of it was within the bound.
async fn read_output(pipe: Option<impl AsyncRead + Unpin>, output: &mut Vec<u8>) -> bool {
    let Some(pipe) = pipe else { return true };
    let read = pipe.take(OUTPUT_MAX as u64 + 1).read_to_end(output).await;
    read.is_ok() && output.len() <= OUTPUT_MAX
}

/// The working folder of one run, mode 0700, with the present certificate and key in it. It goes
/// with this.
struct Folder {
    path: PathBuf,
    current: Option<(PathBuf, PathBuf)>,
}

impl Folder {
    fn new(runtime: &Path, identity: Option<&Identity>) -> io::Result<Folder> {
        let number = u64::from_ne_bytes(random()?);
        let path = runtime.join(format!("exec-{number:016x}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        let mut folder = Folder { path, current: None };
        // A key in a token stays there: the program uses the token by itself.
        if let Some(identity) = identity.filter(|identity| TokenKey::parse(&identity.key).is_none()) {
            let certificate = folder.path.join("current.pem");
            let key = folder.path.join("current.key");
            write(&certificate, &pem::chain(&identity.chain))?;
            let mut text = Zeroizing::new(Vec::new());
            pem::encode(pem::PRIVATE_KEY, &identity.key, &mut text);
            write(&key, &text)?;
            folder.current = Some((certificate, key));
        }
        Ok(folder)
    }

    fn current(&self) -> Option<(&Path, &Path)> {
        self.current.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed goes with the runtime directory.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

impl Source for ExecSource {
    fn order(&self, order: Order) -> Answer<'_, Outcome> {
        Box::pin(async move {
            self.run(order).await.unwrap_or_else(|cause| Outcome::Failed { cause: line(&cause) })
        })
    }

    fn anchors(&self) -> Answer<'_, Result<Option<Vec<Vec<u8>>>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn reach(&self) -> Answer<'_, Result<String, String>> {
        Box::pin(async move {
            let Some(program) = self.settings.command.first() else {
                return Err("no command is configured".to_owned());
            };
            use nix::unistd::{AccessFlags, access};
            match access(Path::new(program), AccessFlags::X_OK) {
                Ok(()) => Ok(line(&format!("{program} is there and may be executed"))),
                Err(error) => Err(line(&format!("{program} cannot be executed: {error}"))),
            }
        })
    }
}
