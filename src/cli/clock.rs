//! `tombolo clock`: prints whether the wall clock is trusted, and confirms or resets it.
//!
//! It asks the daemon. If the daemon does not run, it reads and changes the daemon's file by the
//! same rules.

use super::args::ClockCommand;
use super::error::CommandError;
use super::output::{align, span};
use super::{Context, note};
use crate::clock::judge::{BEFORE_CERTIFICATE, way_out_of_impossible};
use crate::config::ClockTrust;
use crate::control::io::client::{ANSWER, ClientError};
use crate::control::protocol::Request;
use crate::control::snapshot::Clock;
use crate::daemon::clock::{SystemClock, mark};
use crate::durable::atomic_file::Condition;
use crate::telemetry::io::hinted;

/// Runs the command.
///
/// # Errors
/// [`CommandError::Failed`], with the remedy, if the clock cannot be trusted or the file cannot be
/// written.
pub fn run(context: &Context, command: Option<ClockCommand>) -> Result<(), CommandError> {
    let request = match command {
        None => Request::Clock {},
        Some(ClockCommand::Trust) => Request::ClockTrust {},
        Some(ClockCommand::Reset) => Request::ClockReset {},
        Some(ClockCommand::Watch) => match mark::watch(|text| note(text)).map_err(CommandError::Failed)? {},
    };
    let asked = context.daemon().and_then(|mut daemon| daemon.ask(&request, ANSWER));
    let (value, running) = match asked {
        Ok(value) => (value, true),
        Err(ClientError::NotRunning { .. }) => {
            let clock = offline(context, command)?;
            (serde_json::to_value(clock.snapshot()).map_err(CommandError::failed)?, false)
        }
        Err(error) => return Err(error.into()),
    };
    if context.out.json {
        return Ok(context.out.object(&value)?);
    }
    let clock: Clock = serde_json::from_value(value)
        .map_err(|error| CommandError::failed(format_args!("the daemon's answer cannot be read: {error}")))?;
    context.out.text(&hinted(&text(&clock)))?;
    if !running {
        note("tombolo is not running: this is its last saved state, compared with the clock now");
    }
    Ok(())
}

/// Runs the command without the daemon.
fn offline(context: &Context, command: Option<ClockCommand>) -> Result<SystemClock, CommandError> {
    let settings = context.load()?.settings;
    let folder = &settings.paths.state_dir;
    let clock = SystemClock::open(folder, settings.clock.trust == ClockTrust::Always);
    let failed = |what: &str| CommandError::failed(format_args!("{what} in {}; try sudo", folder.display()));
    for defect in clock.defects() {
        // Rewriting an unreadable file would destroy its content.
        if command.is_some() && matches!(defect.condition, Condition::Unreadable(_)) {
            return Err(failed(&defect.to_string()));
        }
        note(format_args!("{defect} (in {})", folder.display()));
    }
    match command {
        None | Some(ClockCommand::Watch) => return Ok(clock),
        Some(ClockCommand::Trust) => clock.trust().map_err(CommandError::failed)?,
        Some(ClockCommand::Reset) => clock.reset(),
    }
    clock.save().map_err(|error| failed(&format!("the clock's file cannot be written: {error}")))?;
    Ok(clock)
}

/// The human form.
fn text(clock: &Clock) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    row("clock", clock.now.clone().unwrap_or_default());
    row("verdict", verdict(clock));
    if clock.doubted {
        row("effect", "nothing stored expires by it; TLS judges certificates at the floor".to_owned());
        row("ends", way_out(clock));
    }
    row("floor", floor(clock));
    if let Some(ahead) = floor_ahead(clock) {
        row("", format!("{ahead}; {FLOOR_WAY_OUT}"));
    }
    if !clock.trusted {
        row("last trusted", clock.last_trusted.clone().unwrap_or_else(|| "never".to_owned()));
    }
    if let Some(reason) = unread(clock) {
        row("kernel", reason.to_owned());
    }
    if let Some(reason) = &clock.failing {
        row("file", format!("cannot be written: {reason}"));
    }
    match clock.state.as_str() {
        "impossible" => {
            let reason = clock.reason.as_deref().unwrap_or_default();
            row("next", way_out_of_impossible(reason.contains(BEFORE_CERTIFICATE)).to_owned());
        }
        "unsynchronised" if clock.unread.is_none() => row("next", "timedatectl set-ntp true".to_owned()),
        _ if clock.unread.is_some() => row("next", UNREAD.to_owned()),
        _ => {}
    }
    align(&rows)
}

/// The verdict in one line; `status` uses it too.
pub fn verdict(clock: &Clock) -> String {
    let reason = clock.reason.as_deref().unwrap_or("waiting for time synchronisation");
    match (clock.trusted, clock.doubted) {
        (true, _) => format!("trusted: {reason}"),
        (false, true) => format!("IN DOUBT: {reason}"),
        (false, false) => format!("not trusted: {reason}"),
    }
}

/// What helps where the kernel cannot be asked; `check` uses it too.
pub const UNREAD: &str = "see `systemctl status tombolo-clock`; where that service cannot run, and something keeps the \
                          clock right, set [clock] trust = \"always\"";

/// Why the kernel cannot be asked, if the verdict does not say so already; `status` and `check` use
/// it too.
pub fn unread(clock: &Clock) -> Option<&str> {
    clock.unread.as_deref().filter(|_| clock.unread != clock.reason)
}

/// The floor, and what shows that it has passed.
fn floor(clock: &Clock) -> String {
    let floor = clock.floor.as_deref().unwrap_or_default();
    match clock.floor_from.as_deref() {
        Some("certificate") => format!("{floor}, proven by a server's certificate"),
        Some("not-before") => format!("{floor}, from which a server's certificate is valid"),
        Some("build") => format!("{floor}, when this program was built"),
        _ => floor.to_owned(),
    }
}

/// That the floor is later than the clock, and what follows; `status` and `check` use it too.
pub fn floor_ahead(clock: &Clock) -> Option<String> {
    let ahead = clock.floor_ahead_s.filter(|ahead| *ahead >= FLOOR_AHEAD_S)?;
    let what = if clock.trusted {
        "certificates that expired before it are refused; tokens are judged by the clock"
    } else {
        "certificates and tokens (mqtt) are judged at it: those that expired before it are refused"
    };
    Some(format!("the floor, {}, is {} later than the clock: {what}", floor(clock), span(ahead)))
}

/// By fewer seconds it is not worth a word.
const FLOOR_AHEAD_S: u64 = 60;

/// What ends that the floor is later than the clock; `check` uses it too.
pub const FLOOR_WAY_OUT: &str = "set the clock right (`timedatectl set-ntp true`), or, if it is right, lower the floor with \
                                 `tombolo clock reset`";

/// How a doubt is resolved; `check` uses it too.
pub fn way_out(clock: &Clock) -> String {
    let left = clock.doubt_ends_in_s.map_or_else(|| "24 h".to_owned(), span);
    format!(
        "by a broker certificate of at most 400 days that is valid at this time, after {left} more of synchronisation, \
         or, if the time is right, by tombolo clock trust"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_kernel_is_not_asked_is_shown_once_and_with_what_helps() {
        let why = "the kernel cannot be asked";
        for (trusted, reason) in [(true, "synchronised"), (false, why)] {
            let clock = Clock {
                trusted,
                state: if trusted { "trusted" } else { "unsynchronised" }.into(),
                reason: Some(reason.into()),
                unread: Some(why.into()),
                ..Clock::default()
            };
            let text = text(&clock);
            assert_eq!(text.matches(why).count(), 1, "{text}");
            assert!(
                text.contains("systemctl status tombolo-clock") && !text.contains("timedatectl"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_floor_is_named_with_its_proof_and_what_follows_where_the_clock_is_behind_it() {
        let clock = |trusted, floor_ahead_s| Clock {
            trusted,
            floor: Some("2026-07-01T00:00:00.000Z".into()),
            floor_from: Some("certificate".into()),
            floor_ahead_s,
            ..Clock::default()
        };
        let shown = text(&clock(true, None));
        assert!(shown.contains("2026-07-01T00:00:00.000Z, proven by a server's certificate\n"), "{shown}");
        assert!(!shown.contains("later than the clock"), "{shown}");
        assert_eq!(floor_ahead(&clock(true, Some(59))), None);
        let shown = text(&clock(true, Some(3_600)));
        assert!(shown.contains("is 1 h later than the clock: certificates that expired"), "{shown}");
        assert!(
            shown.contains("tombolo clock reset") && shown.contains("tokens are judged by the clock"),
            "{shown}"
        );
        assert!(text(&clock(false, Some(3_600))).contains("tokens (mqtt) are judged at it"));
    }

    #[test]
    fn a_doubt_is_shown_with_its_reason_and_its_end() {
        let clock = Clock {
            now: Some("2036-02-07T06:28:00.000Z".into()),
            doubted: true,
            state: "doubted".into(),
            reason: Some("it was set 3507 days forward while the machine was running".into()),
            floor: Some("2026-07-01T00:00:00.000Z".into()),
            doubt_ends_in_s: Some(80_000),
            ..Clock::default()
        };
        let text = text(&clock);
        for word in ["IN DOUBT: it was set 3507 days", "22 h", "tombolo clock trust", "2026-07-01", "never"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let trusted = Clock { trusted: true, reason: Some("synchronised".into()), ..Clock::default() };
        assert_eq!(verdict(&trusted), "trusted: synchronised");
    }
}
