//! `tombolo health`: whether the gateway works, seen from outside; as root and with `--wait`, the
//! judge of a version that was just installed.
//!
//! In `tombolo-health.service` systemd is told READY once the service works, which lets
//! boot-complete.target be reached; the broker is waited for after that.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::args::HealthArguments;
use super::error::{CommandError, FAILED};
use super::output::patiently;
use super::{Context, install, note};
use crate::clock::WallClock as _;
use crate::config::ClockTrust;
use crate::control::snapshot::Health;
use crate::telemetry::io::hinted;
use crate::update::health::STEADY;
use crate::update::installation::folder_of;
use crate::update::io::backend::{self, Effect};
use crate::update::io::root::{self, Root};
use crate::update::io::watch::{self, End, Surroundings};
use crate::update::settings::{Backend, Settings};

/// So long another program may be at work before this one gives up.
const AT_WORK: Duration = Duration::from_secs(3600);
/// The steady time where no version is judged.
const STEADY_NOW: Duration = Duration::from_secs(5);
/// Between two times that the daemon is asked to try the broker.
const HURRY_EVERY: Duration = Duration::from_secs(10);
/// The service.
const UNIT: &str = "tombolo.service";

/// Runs the command. Exit status 0: it works.
///
/// # Errors
/// [`CommandError::Failed`], with the reason.
pub fn run(context: &Context, arguments: &HealthArguments) -> Result<ExitCode, CommandError> {
    let Some(wait) = arguments.wait else {
        return now(context);
    };
    let mut last: Option<Health> = None;
    let mut hurried: Option<Instant> = None;
    let mut ask = || {
        last = install::ask(context);
        let is_away = last.as_ref().is_some_and(|health| health.configured && !health.connected);
        // With a wait of minutes the time could be over though the broker is back.
        if is_away && hurried.is_none_or(|at| at.elapsed() >= HURRY_EVERY) {
            hurried = Some(Instant::now());
            install::hurry(context);
        }
        last.as_ref().map(install::answered)
    };
    let is_packaged = context.is_packaged();
    // systemd goes on counting over an installation: those of the version before are none of this
    // one's.
    let (mut counted, mut since) = (restarts(is_packaged), 0_u32);
    let mut restarts = || {
        let count = restarts(is_packaged);
        since = since.saturating_add(count.saturating_sub(counted));
        counted = count;
        since
    };
    let mut works = || {
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Ready,
            sd_notify::NotifyState::Status("the gateway works"),
        ]);
    };
    let is_root = nix::unistd::geteuid().is_root() || !is_packaged;
    let settings = if is_root { install::settings(context).ok() } else { None };
    let configured = || settings.as_ref().map(|settings| settings.update.health_timeout);
    let timeout = wait.or_else(configured).unwrap_or(Settings::HEALTH_TIMEOUT);
    // A version that cannot read its configuration is judged, too: the record says what installed
    // it.
    let folder = match &settings {
        Some(settings) => settings.paths.update_root(),
        None => folder_of(&crate::config::io::texts(&context.options()).state_dir),
    };
    let record = root::installation(&folder).unwrap_or_else(|why| {
        note(why);
        None
    });
    let record = record.filter(|_| is_root);
    let is_judge = record.is_some();
    let steady = steady(arguments.steady, if is_judge { STEADY } else { STEADY_NOW }, timeout)?;
    let judge = record.map(|record| {
        let root = Root::open_patiently(&folder, AT_WORK).map_err(|why| why.to_string())?;
        let choice = Backend::parse(&record.backend).unwrap_or(Backend::None);
        Ok((backend::open(choice, root.folder(), &context.config)?, root))
    });
    // A version that cannot be judged by this one may work, and others judge it by that.
    let (judge, mut fault) = match judge.transpose() {
        Ok(judge) => (judge, None),
        Err(why) => (None, Some(why)),
    };
    let mut judged = None;
    if let Some((backend, root)) = judge {
        let always = settings.as_ref().is_some_and(|of| of.clock.trust == ClockTrust::Always);
        let clock = install::clock(always, root.folder());
        let at = || {
            clock.refresh();
            clock.wall().map(|at| at.to_string())
        };
        let mut around = Surroundings {
            ask: &mut ask,
            restarts: &mut restarts,
            works: &mut works,
            at: &at,
            steady,
            timeout,
        };
        let watched = patient(context, || watch::watch(&root, &*backend, &install::boot(), &mut around));
        match watched {
            Ok(end) => judged = end,
            Err(why) => fault = Some(why),
        }
        if let Some(why) = root.unwritten() {
            note(why);
        }
    }
    let end = match judged {
        Some(end) => end,
        None => {
            let mut around = Surroundings {
                ask: &mut ask,
                restarts: &mut restarts,
                works: &mut works,
                at: &|| None,
                steady,
                timeout,
            };
            patient(context, || watch::wait(&mut around))
        }
    };
    let (healthy, verdict, text) = match end {
        End::Works => (true, "works", "the gateway works".to_owned()),
        End::Broken(cause) => {
            (false, "broken", format!("the gateway does not work: {cause}; `tombolo check` says more"))
        }
        End::Confirmed(version) => (true, "confirmed", install::confirmed(&version, last.as_ref())),
        End::Unconfirmed { version, why } => {
            let text = install::confirmed(&version, last.as_ref());
            (true, "pending", format!("{text}; it is not confirmed yet: {why}"))
        }
        End::Pending(version) => {
            (true, "pending", format!("version {version} works, and has not reached the broker; it stays"))
        }
        End::Withheld(version) => {
            let text = format!(
                "version {version} runs, and readings are refused, so it is not confirmed: it stays, and is \
                 confirmed once they are taken"
            );
            (false, "pending", text)
        }
        End::RolledBack { version, cause, effect, withheld } => {
            let when = if effect == Effect::Now { "runs again" } else { "runs after the reboot" };
            let text = format!("version {version} failed: {cause}; the version before {when}");
            let text = match (effect, withheld) {
                (Effect::AtBoot, Some(why)) => format!("{text}, {}", install::unordered(&why)),
                (Effect::AtBoot, None) => {
                    note(&text);
                    install::reboot()?;
                    text
                }
                (Effect::Now, _) => text,
            };
            (false, "rolled-back", text)
        }
        End::Stuck(text) => (false, "stuck", text),
    };
    let refused = last.as_ref().map_or_else(String::new, |health| but_refused(&health.refused));
    let unstored = last.as_ref().and_then(|health| health.unstored.as_ref());
    let unstored = unstored.map_or_else(String::new, |why| format!("; readings are refused: {why}"));
    say(context, healthy, last.as_ref(), verdict, &format!("{text}{unstored}{refused}"))?;
    if let Some(why) = fault {
        return Err(CommandError::Failed(format!("what was installed is not judged: {why}")));
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// For so long it must work: as `asked` for, or as is `usual`, and then at most half of the time.
fn steady(asked: Option<Duration>, usual: Duration, timeout: Duration) -> Result<Duration, CommandError> {
    match asked {
        Some(asked) if asked >= timeout && !asked.is_zero() => {
            let (asked, timeout) = (humantime::format_duration(asked), humantime::format_duration(timeout));
            Err(CommandError::Usage(format!(
                "--steady {asked} has to be shorter than the time that is waited, --wait {timeout}: give a longer --wait"
            )))
        }
        Some(asked) => Ok(asked),
        None => Ok(usual.min(timeout / 2)),
    }
}

/// With what is waited for, on standard error; not as a unit, whose log it would fill.
fn patient<T>(context: &Context, act: impl FnOnce() -> T) -> T {
    match context.out.json || std::env::var_os("NOTIFY_SOCKET").is_some() {
        true => act(),
        false => patiently("waiting until the gateway has worked without a break", act),
    }
}

/// One look.
fn now(context: &Context) -> Result<ExitCode, CommandError> {
    let mut daemon = context.daemon()?;
    let health: Health =
        daemon.ask_for(&crate::control::protocol::Request::Health {}, crate::control::io::client::ANSWER)?;
    let broker = match (health.configured, health.connected) {
        (false, _) => "no broker is configured",
        (true, true) => "the broker is connected",
        (true, false) => "the broker is not connected: `tombolo status` says why",
    };
    let text = match (health.journal, &health.unstored) {
        (true, Some(why)) => {
            format!("the gateway does not work: readings are refused: {why}; `tombolo status` says more")
        }
        (true, None) => format!(
            "the gateway works, for {}; {broker}{}{}",
            humantime::format_duration(Duration::from_secs(health.uptime_s)),
            but_disabled(health.disabled),
            but_refused(&health.refused)
        ),
        (false, _) => {
            "the gateway does not work: its journal does not answer; `tombolo status` says more".to_owned()
        }
    };
    let works = health.journal && health.unstored.is_none();
    let verdict = if works { "works" } else { "broken" };
    say(context, works, Some(&health), verdict, &text)?;
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// What a fault of the configuration disables. It is no fault of the program either.
fn but_disabled(disabled: u64) -> String {
    match disabled {
        0 => String::new(),
        1 => "; but 1 item of the configuration is disabled by a fault: `tombolo status` names it".to_owned(),
        more => format!(
            "; but {more} items of the configuration are disabled by a fault: `tombolo status` names them"
        ),
    }
}

/// What the broker refuses. A version is not judged by it: an access list or a quota of the broker
/// is no fault of the program, and the version before would be refused alike.
fn but_refused(refused: &[String]) -> String {
    match refused {
        [] => String::new(),
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            format!("; but not all readings are taken: {first}{more}")
        }
    }
}

fn say(
    context: &Context,
    healthy: bool,
    last: Option<&Health>,
    verdict: &str,
    text: &str,
) -> Result<(), CommandError> {
    if context.out.json {
        let text = hinted(text);
        let connected = last.is_some_and(|health| health.connected);
        let refused: Vec<_> =
            last.iter().flat_map(|health| &health.refused).map(|reason| hinted(reason)).collect();
        let object = serde_json::json!({
            "healthy": healthy, "connected": connected, "refused": refused, "verdict": verdict, "text": text,
        });
        return Ok(context.out.object(&object)?);
    }
    Ok(context.out.line(hinted(text))?)
}

/// How often systemd started the service anew by itself.
fn restarts(is_packaged: bool) -> u32 {
    if !is_packaged {
        return 0;
    }
    let ended = install::systemctl(&["show", "--value", "--property", "NRestarts", UNIT]);
    ended.ok().and_then(|ended| ended.output.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_refuses_is_said_beside_the_verdict() {
        assert_eq!(but_refused(&[]), "");
        assert_eq!(but_refused(&["a".into()]), "; but not all readings are taken: a");
        assert!(but_refused(&["a".into(), "b".into(), "c".into()]).ends_with("a; and 2 more"));
    }

    #[test]
    fn what_is_disabled_is_said_beside_the_verdict() {
        assert_eq!(but_disabled(0), "");
        assert!(but_disabled(1).starts_with("; but 1 item of the configuration is disabled"));
        assert!(but_disabled(2).starts_with("; but 2 items"));
    }

    #[test]
    fn a_steady_time_that_does_not_fit_is_refused_and_the_usual_one_is_capped() {
        let seconds = Duration::from_secs;
        assert_eq!(steady(None, seconds(5), seconds(60)).ok(), Some(seconds(5)));
        assert_eq!(steady(None, seconds(60), seconds(20)).ok(), Some(seconds(10)));
        assert_eq!(steady(None, seconds(5), seconds(5)).ok(), Some(Duration::from_millis(2500)));
        assert_eq!(steady(Some(seconds(2)), seconds(5), seconds(3)).ok(), Some(seconds(2)));
        for asked in [3, 10] {
            let refused = steady(Some(seconds(asked)), seconds(5), seconds(3));
            assert!(
                matches!(&refused, Err(CommandError::Usage(text)) if text.contains("--wait 3s")),
                "{refused:?}"
            );
        }
    }
}
