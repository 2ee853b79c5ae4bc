//! Runs one of the system's programs for its output: bounded in time and bytes, in English, without
//! input.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::system::io::ProcessGroup;

/// Most bytes of output.
const OUTPUT_MAX: u64 = 1 << 20;
/// Where programs are, unless the environment says it.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why there is no output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoOutput {
    /// There is no such program here.
    NotInstalled,
    /// One sentence.
    Failed(String),
}

/// What `program` prints, whatever its exit status; what it says on standard error is dropped.
///
/// # Errors
/// [`NoOutput`]. A program that takes longer than `within`, or prints more than 1 MiB, is killed
/// with its children.
pub async fn output(program: &str, arguments: &[&str], within: Duration) -> Result<String, NoOutput> {
    let failed = |what: String| NoOutput::Failed(format!("{program} {what}"));
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("LC_ALL", "C");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true).current_dir("/");
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => NoOutput::NotInstalled,
        _ => failed(format!("cannot be started: {error}")),
    })?;
    let group = child.id().map(ProcessGroup);
    let mut bytes = Vec::new();
    let work = async {
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(OUTPUT_MAX + 1).read_to_end(&mut bytes).await;
            read.map_err(|error| failed(format!("cannot be read: {error}")))?;
        }
        if bytes.len() as u64 > OUTPUT_MAX {
            return Err(failed(format!("wrote more than {OUTPUT_MAX} bytes")));
        }
        child.wait().await.map_err(|error| failed(format!("cannot be waited for: {error}")))
    };
    let ended = timeout(within, work).await;
    drop(group);
    match ended {
        Ok(Ok(_)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failed(format!("did not end within {} s and was killed", within.as_secs_f32()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(script: &str, within: Duration) -> Result<String, NoOutput> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(output("sh", &["-c", script], within))
    }

    #[test]
    fn output_is_given_in_english_and_without_the_environment() {
        let text = ran("echo $LC_ALL; echo nothing >&2; cat; exit 3", Duration::from_secs(20));
        assert_eq!(text, Ok("C\n".to_owned()));
    }

    #[test]
    fn a_program_that_does_not_end_or_talks_without_end_is_killed() {
        let fault = ran("sleep 100 & wait", Duration::from_millis(100));
        assert!(matches!(&fault, Err(NoOutput::Failed(why)) if why.contains("within 0.1 s")), "{fault:?}");
        let fault = ran("yes", Duration::from_secs(20));
        assert!(matches!(&fault, Err(NoOutput::Failed(why)) if why.contains("more than")), "{fault:?}");
    }

    #[test]
    fn one_that_is_not_there_is_told_apart() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let fault = runtime.block_on(output("tombolo-no-such-program", &[], Duration::from_secs(1)));
        assert_eq!(fault, Err(NoOutput::NotInstalled));
    }
}
