//! RAUC installs, over its own client: `rauc install` talks to the RAUC service by D-Bus, prints
//! its progress and its last error (docs/decisions/0028).
//!
//! RAUC verifies the bundle's own signature and `compatible`; that the bundle says the version that
//! was signed in the repository is looked at here, because what boots afterwards is judged by it.
//!
//! | an installation | the client |
//! |---|---|
//! | succeeds | progress on standard output; status 0 |
//! | fails | `LastError: …` on standard output; status 1 |
//! | is refused, or the service ends | the reason on standard error, then that D-Bus failed; status 2 |
//! | is not answered | the same, after the 25 s that D-Bus waits for an answer |
//! | is accepted, and nothing follows | goes on waiting: killed after 2 h |

use std::time::Duration;

use super::command::Ended;
use super::{Backend, Call, Effect, Wanted};

/// A bundle of a gigabyte on a slow card.
const INSTALL_WITHIN: Duration = Duration::from_secs(2 * 3600);
const WITHIN: Duration = Duration::from_secs(120);
/// To say how it stands.
const STATUS_WITHIN: Duration = Duration::from_secs(20);

/// It.
pub struct Rauc;

fn rauc(within: Duration) -> Call {
    Call::new("rauc", within)
}

/// The version that a bundle says it is, out of `rauc info --output-format=json`.
pub fn bundle_version(output: &str) -> Option<String> {
    let info: serde_json::Value = serde_json::from_str(output).ok()?;
    let version = info["version"].as_str().or_else(|| info["update"]["version"].as_str())?;
    (!version.is_empty()).then(|| version.to_owned())
}

/// Percent, out of a line like ` 40% Verifying signature done.`
fn percent(line: &str) -> Option<u8> {
    let (number, _) = line.trim_start().split_once('%')?;
    number.parse().ok().filter(|percent| *percent <= 100)
}

/// Why an installation failed: what the service said last, or else what the client said before its
/// last line, which only names the bundle.
fn failure(call: &Call, ended: &Ended) -> String {
    let said = ended.output.lines().rev().find_map(|line| line.trim_start().strip_prefix("LastError: "));
    let last = match said {
        Some(said) => said.to_owned(),
        None if ended.earlier.is_empty() => {
            format!("{}; the log of RAUC's service says more", ended.last)
        }
        None => format!("{}; {}", ended.earlier, ended.last),
    };
    call.failure(&Ended { last, ..ended.clone() })
}

impl Backend for Rauc {
    fn name(&self) -> &'static str {
        "rauc"
    }

    fn answers(&self) -> Result<(), String> {
        let status = ["status", "--output-format=json"];
        rauc(STATUS_WITHIN).with_all(status).succeed(&mut |_| {}).map(|_| ())
    }

    fn install(&self, wanted: &Wanted, progress: &mut dyn FnMut(u8)) -> Result<Effect, String> {
        let file = wanted.file.as_deref().ok_or("there is no bundle to install")?;
        let info = rauc(WITHIN).with_all(["info", "--output-format=json"]).with(file).succeed(&mut |_| {})?;
        match bundle_version(&info.output) {
            Some(version) if version == wanted.version => {}
            other => {
                let other = other.unwrap_or_else(|| "none".to_owned());
                return Err(format!(
                    "the bundle says version {other}, and the repository {}",
                    wanted.version
                ));
            }
        }
        let install = rauc(INSTALL_WITHIN).with("install").with(file);
        let ended = install.run(&mut |line| {
            if let Some(percent) = percent(line) {
                progress(percent);
            }
        })?;
        match ended.status {
            Some(0) => Ok(Effect::AtBoot),
            _ => Err(failure(&install, &ended)),
        }
    }

    fn mark_good(&self, _: &str) -> Result<(), String> {
        rauc(WITHIN).with_all(["status", "mark-good", "booted"]).succeed(&mut |_| {}).map(|_| ())
    }

    fn roll_back(&self, _: &str, _: Option<&str>) -> Result<Effect, String> {
        rauc(WITHIN).with_all(["status", "mark-active", "other"]).succeed(&mut |_| {})?;
        // With it marked bad, the boot loader does not come back to it.
        rauc(WITHIN).with_all(["status", "mark-bad", "booted"]).succeed(&mut |_| {})?;
        Ok(Effect::AtBoot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_failure_is_what_rauc_said_of_it_and_not_that_it_failed() {
        let call = rauc(WITHIN).with("install");
        let ended = |output: &str, earlier: &str, last: &str| Ended {
            status: Some(1),
            output: output.to_owned(),
            last: last.to_owned(),
            earlier: earlier.to_owned(),
        };
        let said = ended("installing\n 40% x\nLastError: no space\nidle\n", "", "Installing `/a` failed");
        assert_eq!(failure(&call, &said), "rauc install ended with status 1: no space");
        let gone = ended("installing\n", "RAUC service disappeared", "D-Bus error while installing `/a`");
        assert!(failure(&call, &gone).ends_with("disappeared; D-Bus error while installing `/a`"));
        let silent = failure(&call, &ended("installing\n", "", "Installing `/a` failed"));
        assert!(silent.ends_with("failed; the log of RAUC's service says more"), "{silent}");
    }

    #[test]
    fn progress_and_version_are_read() {
        assert_eq!(percent(" 40% Checking bundle done."), Some(40));
        assert_eq!(percent("100% Installing done."), Some(100));
        for line in ["installing", "140% x", "% x", "Installing `/a` succeeded"] {
            assert_eq!(percent(line), None, "{line}");
        }
        assert_eq!(bundle_version(r#"{"compatible":"x","version":"2.0"}"#).as_deref(), Some("2.0"));
        let later = r#"{"update":{"compatible":"x","version":"2.0"}}"#;
        assert_eq!(bundle_version(later).as_deref(), Some("2.0"));
        assert_eq!(bundle_version("{\"version\":\"\"}"), None);
        assert_eq!(bundle_version("nothing"), None);
    }
}
