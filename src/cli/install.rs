//! `tombolo update apply` and `rollback`: as root, by files that nobody but root can change. The
//! daemon installs nothing.

use std::sync::Arc;
use std::time::Duration;

use super::args::ApplyUpdateArguments;
use super::error::CommandError;
use super::progress::Bar;
use super::{Context, note};
use crate::clock::{UnixTime, WallClock};
use crate::config::gateway_id::Plain;
use crate::config::trial::io::moment;
use crate::config::{ClockTrust, IdSource, Level, Settings};
use crate::control::protocol::Request;
use crate::control::snapshot::Health;
use crate::daemon::clock::SystemClock;
use crate::message::Name;
use crate::update::health::Answered;
use crate::update::history::What;
use crate::update::installation::{Installation, Phase};
use crate::update::io::apply::{Outcome, Work};
use crate::update::io::backend::{self, Call, Effect, Ended};
use crate::update::io::ledger::Ledger as _;
use crate::update::io::root::{Boot, NotHeld, Root};
use crate::update::io::watch::{self, End};
use crate::update::io::{local_time, untrusted};
use crate::update::settings::Backend;

/// How long the daemon is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// How long systemd is waited for: longer than its own client does.
const SYSTEMD: Duration = Duration::from_secs(120);
/// A version that was connected so long ago reached the broker.
const RECENTLY_S: u64 = 3600;
/// Longest file of an id.
const ID_MAX: u64 = 4096;

/// Settings of files of root's.
pub(super) fn settings(context: &Context) -> Result<Settings, CommandError> {
    crate::config::io::load_update(&context.options()).map_err(|findings| {
        for finding in findings.iter().filter(|finding| finding.level == Level::Fail) {
            note(finding);
        }
        CommandError::SaidOfConfiguration
    })
}

pub(super) fn boot() -> Boot {
    let moment = moment();
    Boot { id: moment.boot, seconds: moment.now_ms / 1000 }
}

/// Judged as at a first start: nothing of the daemon's is believed.
pub(super) fn clock(always: bool, root: &std::path::Path) -> Arc<SystemClock> {
    let clock = SystemClock::open(&root.join("clock"), always);
    clock.refresh();
    Arc::new(clock)
}

/// What the daemon says of itself. It may say what it likes: that decides what is rolled back, and
/// never what is installed.
pub(super) fn ask(context: &Context) -> Option<Health> {
    context.daemon().and_then(|mut daemon| daemon.ask_for(&Request::Health {}, ANSWER)).ok()
}

/// Has the daemon try the broker soon. One that cannot goes on as it does.
pub(super) fn hurry(context: &Context) {
    let _ = context.daemon().and_then(|mut daemon| daemon.ask(&Request::UplinkHurry {}, ANSWER));
}

pub(super) fn answered(health: &Health) -> Answered {
    Answered {
        uptime: Duration::from_secs(health.uptime_s),
        works: health.journal,
        refuses: health.unstored.is_some(),
        has_broker: health.configured,
        is_connected: health.connected,
        connections: health.connections,
    }
}

pub(super) fn root_of(settings: &Settings) -> Result<Root, NotHeld> {
    Root::open(&settings.paths.update_root())
}

/// The gateway's id, which decides its stage of a roll-out, and nothing else.
fn gateway(settings: &Settings) -> Option<Name> {
    if settings.gateway.id_source == IdSource::Configured {
        return Some(settings.gateway.id.clone());
    }
    let file = settings.paths.gateway_id();
    let name = file.file_name()?;
    let bytes = untrusted::read_below(&settings.paths.state_dir, name.as_ref(), ID_MAX).ok()?;
    crate::config::gateway_id::parse_plain(&bytes).ok().map(Plain::into_id)
}

/// `tombolo update apply`
///
/// # Errors
/// [`CommandError::Failed`]: nothing was installed though something was to be.
pub fn apply(context: &Context, arguments: &ApplyUpdateArguments) -> Result<(), CommandError> {
    let settings = settings(context)?;
    let update = &settings.update;
    if arguments.in_window && update.backend == Backend::None {
        return said(context, "nothing", "nothing here installs: [update] backend is \"none\"");
    }
    // Before the folder is held: a daemon that does not answer holds nobody else.
    let health = ask(context);
    let root = match root_of(&settings) {
        Ok(root) => root,
        Err(NotHeld::Busy) if arguments.in_window => {
            return said(context, "nothing", &NotHeld::Busy.to_string());
        }
        Err(why) => return Err(CommandError::failed(why)),
    };
    let backend =
        backend::open(update.backend, root.folder(), &context.config).map_err(CommandError::Failed)?;
    let clock = clock(settings.clock.trust == ClockTrust::Always, root.folder());
    let was_connected = health.as_ref().is_some_and(|health| {
        let lately = health.connections > 0 && health.since_s.is_some_and(|since| since < RECENTLY_S);
        health.connected || lately
    });
    let bar = Bar::begin(context.out.json);
    let outcome = Work {
        root: &root,
        backend: &*backend,
        settings: update,
        gateway: gateway(&settings),
        state_dir: &settings.paths.state_dir,
        local: clock.wall().and_then(local_time::at),
        clock: clock.clone(),
        boot: boot(),
        is_requested: arguments.in_window,
        was_connected,
        daemon: health.as_ref().map(answered),
        progress: &mut |what, percent| match percent {
            Some(percent) => bar.show(percent, what),
            None => bar.show(0, what),
        },
    }
    .apply();
    drop(bar);
    let unwritten = root.unwritten();
    // The judgement needs the folder.
    drop(root);
    let outcome = outcome.map_err(CommandError::Failed)?;
    if let Some(why) = unwritten {
        note(why);
    }
    match outcome {
        Outcome::Nothing(reason) => said(context, "nothing", &reason),
        // The unit did what it was to do; a person wanted it installed.
        Outcome::Withheld(reason) if arguments.in_window => said(context, "nothing", &reason),
        Outcome::Withheld(reason) => Err(CommandError::Failed(format!("nothing is installed: {reason}"))),
        Outcome::Judged(version) => {
            judge(context, arguments.in_window);
            said(
                context,
                "judged",
                &format!("version {version} runs, and is judged by `tombolo health --wait`"),
            )
        }
        Outcome::Confirmed(version) => said(context, "confirmed", &confirmed(&version, health.as_ref())),
        Outcome::Runs(version) => {
            judge(context, true);
            said(
                context,
                "runs",
                &format!("version {version} is installed, and is judged by `tombolo health --wait`"),
            )
        }
        Outcome::AtBoot(version) => {
            said(
                context,
                "at-boot",
                &format!("version {version} is installed; it runs after `systemctl reboot`"),
            )?;
            if arguments.in_window { reboot() } else { Ok(()) }
        }
    }
}

/// What to say of a version that was confirmed.
pub(super) fn confirmed(version: &str, health: Option<&Health>) -> String {
    match health {
        Some(health) if !health.configured => format!("version {version} works; no broker is configured"),
        _ => format!("version {version} works, and reached the broker"),
    }
}

fn said(context: &Context, outcome: &str, text: &str) -> Result<(), CommandError> {
    if context.out.json {
        let object = serde_json::json!({ "outcome": outcome, "text": crate::telemetry::io::hinted(text) });
        return Ok(context.out.object(&object)?);
    }
    Ok(context.out.line(crate::telemetry::io::hinted(text))?)
}

/// Has the unit judge it, which does not wait for us.
fn judge(context: &Context, begins: bool) {
    if context.is_packaged() && begins {
        let verb = ["--no-block", "restart", "tombolo-health.service"];
        if let Err(why) = systemctl(&verb) {
            note(format_args!("tombolo-health.service cannot be started: {why}"));
        }
    }
}

/// Why no reboot is ordered.
pub(super) fn unordered(why: &str) -> String {
    format!(
        "which is not ordered, because that cannot be written down: {why}; `systemctl reboot` once it can"
    )
}

/// Boots.
///
/// # Errors
/// [`CommandError::Failed`]: the system does not do it.
pub(super) fn reboot() -> Result<(), CommandError> {
    systemctl(&["reboot"]).map(|_| ()).map_err(CommandError::Failed)
}

/// Asks systemd; it blocks for two minutes at most.
///
/// # Errors
/// One sentence: it does not answer, or does not do it.
pub(super) fn systemctl(arguments: &[&str]) -> Result<Ended, String> {
    Call::new("systemctl", SYSTEMD).with_all(arguments.iter().copied()).succeed(&mut |_| {})
}

/// Allows again what failed here and was denied for that: `tombolo update denied clear`.
///
/// # Errors
/// [`CommandError::Failed`]: only root may.
pub fn allow(context: &Context, version: Option<&str>) -> Result<(), CommandError> {
    let folder = context.load()?.settings.paths.update_root();
    let denied = crate::update::io::root::read(&folder).map_err(CommandError::Failed)?.history.denied;
    if !denied.iter().any(|denied| version.is_none_or(|version| version == denied)) {
        return Ok(());
    }
    let root = Root::open(&folder).map_err(CommandError::failed)?;
    root.change(&|history| {
        history.clear(version);
    })
    .map_err(CommandError::Failed)
}

/// `tombolo update rollback`
///
/// # Errors
/// [`CommandError::Failed`]: the version that ran runs.
pub fn roll_back(context: &Context) -> Result<(), CommandError> {
    let settings = settings(context)?;
    let root = root_of(&settings).map_err(CommandError::failed)?;
    let backend = backend::open(settings.update.backend, root.folder(), &context.config)
        .map_err(CommandError::Failed)?;
    let running = backend.running();
    let last = root.installation().map_err(CommandError::Failed)?;
    let is_it = |record: &&Installation| running.as_deref() == Some(record.version.as_str());
    let Some(record) = last.as_ref().filter(is_it).cloned() else {
        let runs = running.as_deref().unwrap_or("that runs, which nothing tells,");
        return Err(CommandError::Failed(not_taken_back(runs, last.as_ref())));
    };
    let clock = clock(settings.clock.trust == ClockTrust::Always, root.folder());
    let at = clock.wall().map(|at: UnixTime| at.to_string());
    let cause = "the owner wanted the version before";
    let version = record.version.clone();
    let end = watch::roll_back(&root, &*backend, record, &boot(), at, What::RolledBack, cause);
    let unwritten = root.unwritten();
    let is_denied = root.history().is_ok_and(|history| history.denied.contains(&version));
    drop(root);
    if let (End::RolledBack { .. }, None, false) = (&end, &unwritten, is_denied) {
        return Err(CommandError::Failed(format!(
            "the version before runs again, or after `systemctl reboot`; but {version} is not denied, because as many \
             are as can be: `tombolo update hold`, or it is installed again; then `tombolo update denied clear`"
        )));
    }
    if let (End::RolledBack { .. }, Some(why)) = (&end, unwritten) {
        return Err(CommandError::Failed(format!(
            "the version before runs again, or after `systemctl reboot`; but that is not written down: {why}; \
             give it room, then deny the version, or it is installed again: `tombolo update denied add {version}`"
        )));
    }
    match end {
        End::RolledBack { version, effect, .. } => {
            let when = match effect {
                Effect::Now => "the version before runs again",
                Effect::AtBoot => "the version before runs after `systemctl reboot`",
            };
            said(
                context,
                "rolled-back",
                &format!("{when}; {version} is denied, see `tombolo update denied list`"),
            )
        }
        End::Stuck(reason) => Err(CommandError::Failed(reason)),
        _ => Ok(()),
    }
}

/// Why nothing is taken back.
fn not_taken_back(running: &str, last: Option<&Installation>) -> String {
    match last {
        Some(last) if last.phase == Phase::Failed => format!(
            "version {running} runs, and {}, the last one that was to be installed, does not: {}; there is nothing to go back from",
            last.version,
            last.cause.as_deref().unwrap_or("it failed")
        ),
        Some(last) if last.previous.as_deref() == Some(running) => format!(
            "version {running} runs, the one before {}: no version before that is kept, so it goes one step back and no further",
            last.version
        ),
        Some(last) => format!(
            "version {running} runs, and `tombolo update apply` installed {} last; the version before is not known",
            last.version
        ),
        None => format!(
            "version {running} was not installed by `tombolo update apply`, so the version before is not known"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::version::Scheme;

    #[test]
    fn the_second_way_back_is_refused_by_its_reason() {
        let last = Installation::begin("3", Scheme::Debian, Some("2".to_owned()), "exec");
        assert!(not_taken_back("2", Some(&last)).contains("one step back and no further"));
        assert!(not_taken_back("1", Some(&last)).contains("installed 3 last"));
        assert!(not_taken_back("1", None).contains("1 was not installed by"));
        let mut failed = last.clone();
        failed.because("no room");
        failed.enter(Phase::Failed, None, None);
        let text = not_taken_back("2", Some(&failed));
        assert!(text.contains("3, the last one that was to be installed, does not: no room"), "{text}");
    }

    #[test]
    fn a_version_is_said_to_have_reached_the_broker_where_there_is_one() {
        let alone = Health { configured: false, ..Health::default() };
        assert_eq!(confirmed("2", Some(&alone)), "version 2 works; no broker is configured");
        let health = Health { configured: true, ..Health::default() };
        assert_eq!(confirmed("2", Some(&health)), "version 2 works, and reached the broker");
    }
}
