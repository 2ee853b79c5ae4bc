//! `tombolo update`: newer firmware of this gateway. The daemon looks for it and fetches it; where
//! it does not run, `check`, `history`, `hold`, `release` and `denied` work on its files.

use std::sync::Arc;
use std::time::Duration;

use super::args::{DeniedCommand, DevicesArguments, DownloadArguments, UpdateCommand, VerifyArguments};
use super::error::CommandError;
use super::output::bytes;
use super::progress::Bar;
use super::{Context, install, note};
#[cfg(feature = "update")]
use crate::clock::UnixTime;
use crate::config::ClockTrust;
use crate::control::io::client::{ANSWER, ClientError};
use crate::control::protocol::Request;
use crate::control::snapshot::{FirmwareClass, FirmwarePage, Update};
use crate::daemon::clock::SystemClock;
use crate::message::Name;
use crate::telemetry::io::hinted;
use crate::update::eligibility::Objections;
#[cfg(feature = "update")]
use crate::update::eligibility::twins;
#[cfg(feature = "update")]
use crate::update::floor::MetadataRole;
use crate::update::history::History;
use crate::update::image::IMAGE;
use crate::update::io::answer::{self, Fetching, Found, Question};
use crate::update::io::system::PACKAGE;
#[cfg(feature = "update")]
use crate::update::io::tuf::LIMITS;
#[cfg(feature = "update")]
use crate::update::io::verify::{ROOTS_MANY, Validity, Verified};
use crate::update::io::{history, root};
#[cfg(feature = "update")]
use crate::update::offer::Offer;
use crate::update::settings::Source;
use crate::update::status::Status;
use crate::update::version::Scheme;

/// A check ends within ten minutes.
const CHECK_WITHIN: Duration = Duration::from_secs(620);
/// How often a download is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs the command.
///
/// # Errors
/// [`CommandError::Failed`], with the remedy; [`CommandError::Said`] if a check came to no answer.
pub fn run(context: &Context, command: UpdateCommand) -> Result<(), CommandError> {
    match command {
        UpdateCommand::Check => check(context),
        UpdateCommand::Download(arguments) => download(context, &arguments),
        UpdateCommand::Apply(arguments) => install::apply(context, &arguments),
        UpdateCommand::Rollback => install::roll_back(context),
        UpdateCommand::History => show_history(context),
        UpdateCommand::Hold => hold(context, true),
        UpdateCommand::Release => hold(context, false),
        UpdateCommand::Denied(command) => denied(context, command),
        UpdateCommand::Devices(arguments) => devices(context, arguments),
        UpdateCommand::Verify(arguments) => verify(context, &arguments),
        UpdateCommand::Metadata => metadata(context),
    }
}

fn check(context: &Context) -> Result<(), CommandError> {
    let asked = context.daemon().and_then(|mut daemon| daemon.ask(&Request::UpdateCheck {}, CHECK_WITHIN));
    let update = match asked {
        Ok(value) => serde_json::from_value::<Update>(value).map_err(unreadable)?,
        Err(ClientError::NotRunning { .. }) => {
            let update = check_here(context)?;
            note("tombolo is not running: this command looked by itself");
            update
        }
        Err(error) => return Err(error.into()),
    };
    if context.out.json {
        context.out.object(&update)?;
    } else {
        context.out.text(&hinted(&text(&update)))?;
    }
    // Nothing new is an answer; no answer is none.
    match update.state.as_str() {
        "error" | "stale" => Err(CommandError::Said),
        _ => Ok(()),
    }
}

#[cfg(feature = "update")]
fn metadata(context: &Context) -> Result<(), CommandError> {
    let said = crate::update::io::apart::serve().map_err(CommandError::Failed)?;
    Ok(context.out.verbatim_object(&said)?)
}

#[cfg(not(feature = "update"))]
fn metadata(_: &Context) -> Result<(), CommandError> {
    Err(CommandError::Failed("this program was built without TUF".to_owned()))
}

fn unreadable(error: serde_json::Error) -> CommandError {
    CommandError::failed(format_args!("the daemon's answer cannot be read: {error}"))
}

/// As the daemon would.
fn check_here(context: &Context) -> Result<Update, CommandError> {
    let settings = context.load()?.settings;
    if settings.update.source == Source::None {
        let text = "nobody looks for newer firmware: set [update] source to \"apt\" or \"tuf\"";
        return Err(CommandError::Failed(text.to_owned()));
    }
    let clock = SystemClock::open(&settings.paths.state_dir, settings.clock.trust == ClockTrust::Always);
    clock.refresh();
    let theirs = history::read_below(&settings.paths.state_dir, answer::FOLDER);
    let mut history = theirs.map_err(CommandError::Failed)?;
    let public = root::read(&settings.paths.update_root()).map_err(CommandError::Failed)?;
    history.join(&public.history);
    let objections =
        Objections { is_held: history.held, denied: history.denied.clone(), floor: public.floor.clone() };
    let question = Question {
        settings: settings.update.clone(),
        gateway: settings.gateway.id.clone(),
        folder: settings.paths.update(),
        objections,
        clock: Arc::new(clock),
        fetching: Fetching::Here,
        daemon: None,
        raises: true,
        dropped: Arc::default(),
    };
    let answer = answer::answer(&question);
    let mut status = Status::new(answer.installed.clone());
    match answer.result {
        Ok(Found::Tuf(decision)) => status.handle_decision(&decision, answer.installed, answer.at),
        Ok(Found::Apt(candidate)) => {
            status.handle_candidate(&candidate, PACKAGE, answer.installed, answer.at)
        }
        Err(fault) => status.handle_fault(fault.state(), fault.to_string(), answer.at),
    }
    let has_image = settings.paths.update().join(IMAGE).exists();
    let refused = public.refusal.as_ref().filter(|refused| refused.stands(has_image));
    status.refuse(refused.map(|refused| refused.reason.as_str()));
    if let Some(damage) = answer.damage {
        note(damage);
    }
    let shown = serde_json::to_value(&status).and_then(serde_json::from_value::<Update>);
    Ok(Update {
        source: settings.update.source.as_str().to_owned(),
        backend: settings.update.backend.as_str().to_owned(),
        held: history.held,
        denied: history.denied,
        ..shown.map_err(unreadable)?
    })
}

/// What `update check` prints.
fn text(update: &Update) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    row("state", line(update));
    row("installed", update.installed.clone().unwrap_or_else(|| "not known".to_owned()));
    if let Some(available) = &update.available {
        let size = available.bytes.map(|count| format!(", {}", bytes(count))).unwrap_or_default();
        row("available", format!("{} ({}{size})", available.version, available.target));
        if let Some(notes) = &available.notes {
            row("notes", notes.clone());
        }
    }
    if let Some(at) = &update.checked_at {
        row("checked", at.clone());
    }
    if let Some(at) = update.good_at.as_ref().filter(|at| Some(*at) != update.checked_at.as_ref()) {
        row("last answer", at.clone());
    }
    super::output::align(&rows)
}

/// The state in one line, for `status` too.
pub fn line(update: &Update) -> String {
    let version = || update.available.as_ref().map(|of| of.version.clone()).unwrap_or_default();
    let reason = update.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let state = match update.state.as_str() {
        "unknown" => "not looked for yet".to_owned(),
        "up-to-date" => "up to date".to_owned(),
        "available" => format!("version {} is available", version()),
        "ineligible" => "a newer version is not for this gateway now".to_owned(),
        "downloading" => format!("version {} is fetched, {} %", version(), update.progress.unwrap_or(0)),
        "ready" => format!("version {} is here and verified", version()),
        "installing" => match update.progress {
            Some(percent) => format!("version {} is installed, {percent} %", version()),
            None => format!("version {} is installed", version()),
        },
        "pending" => "the version that runs is not confirmed yet".to_owned(),
        "failed" => "an update failed".to_owned(),
        "stale" => "no answer".to_owned(),
        // The last check had its answer, so it is the image that failed.
        "error" if update.good_at.is_some() && update.good_at == update.checked_at => {
            format!("version {} is not fetched", version())
        }
        "error" => "no answer".to_owned(),
        other => other.to_owned(),
    };
    let failure = update.failure.as_ref();
    let failure = failure.map(|cause| format!("; the last attempt failed: {cause}")).unwrap_or_default();
    let held = if update.held && !reason.contains("updates are held") { "; updates are held" } else { "" };
    format!("{state}{reason}{failure}{held}")
}

fn download(context: &Context, arguments: &DownloadArguments) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    let mut update: Update = daemon.ask_for(&Request::UpdateDownload {}, ANSWER)?;
    let bar = Bar::begin(context.out.json);
    loop {
        if arguments.no_wait {
            break;
        }
        let said = update.reason.clone();
        match update.state.as_str() {
            // It begins within a second.
            "available" | "downloading" if said.is_none() => {}
            "ready" => break,
            _ => {
                drop(bar);
                let reason = said.unwrap_or_else(|| line(&update));
                return Err(CommandError::Failed(reason));
            }
        }
        let size = update.available.as_ref().and_then(|of| of.bytes).unwrap_or_default();
        let percent = update.progress.unwrap_or(0);
        bar.show(percent, &format!("of {}", bytes(size)));
        std::thread::sleep(LOOK_EVERY);
        update = daemon.ask_for(&Request::UpdateStatus {}, ANSWER)?;
    }
    drop(bar);
    if context.out.json {
        return Ok(context.out.object(&serde_json::to_value(&update).map_err(CommandError::failed)?)?);
    }
    Ok(context.out.hint(line(&update))?)
}

/// Asks the daemon, or does it on the file.
fn history(
    context: &Context,
    request: &Request,
    act: impl FnOnce(&mut History),
) -> Result<History, CommandError> {
    let asked = context.daemon().and_then(|mut daemon| daemon.ask(request, ANSWER));
    match asked {
        Ok(value) => {
            let mut history: History = serde_json::from_value(value).map_err(unreadable)?;
            // The daemon's look at it may be some seconds old.
            if let Ok(loaded) = context.load()
                && let Ok(public) = root::read(&loaded.settings.paths.update_root())
            {
                history.join(&public.history);
            }
            Ok(history)
        }
        Err(ClientError::NotRunning { .. }) => {
            let paths = context.load()?.settings.paths;
            let mut history =
                history::change_below(&paths.state_dir, answer::FOLDER, act).map_err(CommandError::Failed)?;
            history.join(&root::read(&paths.update_root()).map_err(CommandError::Failed)?.history);
            Ok(history)
        }
        Err(error) => Err(error.into()),
    }
}

fn show_history(context: &Context) -> Result<(), CommandError> {
    let history = history(context, &Request::UpdateHistory {}, |_| {})?;
    if context.out.json {
        return Ok(context.out.object(&history)?);
    }
    let rows = history.events.iter().map(|event| {
        let what = serde_json::to_value(event.what).ok();
        let what = what.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().replace('-', " ");
        let at = event.at.clone().unwrap_or_else(|| "the clock was not trusted".to_owned());
        vec![at, event.version.clone(), what, event.cause.clone().unwrap_or_default()]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        note("nothing has happened yet");
    }
    Ok(context.out.table(&rows)?)
}

fn hold(context: &Context, held: bool) -> Result<(), CommandError> {
    let history = history(context, &Request::UpdateHold { held }, |history| history.held = held)?;
    if context.out.json {
        return Ok(context.out.object(&history)?);
    }
    Ok(context.out.hint(match held {
        true => "no version is installed until `tombolo update release`",
        false => "updates are not held",
    })?)
}

fn denied(context: &Context, command: DeniedCommand) -> Result<(), CommandError> {
    let history = match command {
        DeniedCommand::List => history(context, &Request::UpdateHistory {}, |_| {})?,
        DeniedCommand::Add(of) => {
            let version = of.version;
            if version.contains(char::is_whitespace) || version.contains(char::is_control) {
                return Err(CommandError::Usage(format!("{version:?} is no version: it has blanks")));
            }
            // That of a class of sensors has its class before it.
            let (class, plain) =
                version.split_once('/').map_or((None, &*version), |(class, plain)| (Some(class), plain));
            let is_class = class.is_none_or(|class| Name::parse(class).is_ok());
            // Each version of an image or of a package has a number in it.
            if !is_class || !Scheme::Debian.accepts(plain) || !plain.contains(|c: char| c.is_ascii_digit()) {
                return Err(CommandError::Usage(format!(
                    "{version:?} is no version; one is like 2.4.1, as `tombolo update check` and `tombolo update history` show \
                     it, and of sensors CLASS/VERSION, as `tombolo update devices` shows it"
                )));
            }
            let request = Request::UpdateDeny { version: version.clone() };
            let mut denied = Ok(());
            let history = history(context, &request, |history| denied = history.deny(&version))?;
            denied.map_err(|why| CommandError::Failed(format!("{version:?} is not denied: {why}")))?;
            history
        }
        DeniedCommand::Clear { version } => {
            if let Some(version) = &version
                && !history(context, &Request::UpdateHistory {}, |_| {})?.denied.contains(version)
            {
                return Err(CommandError::Failed(format!(
                    "{version:?} is not denied; `tombolo update denied list` shows what is"
                )));
            }
            install::allow(context, version.as_deref())?;
            let request = Request::UpdateAllow { version: version.clone() };
            history(context, &request, |history| {
                history.clear(version.as_deref());
            })?
        }
    };
    if context.out.json {
        return Ok(context.out.object(&history)?);
    }
    if history.denied.is_empty() {
        note("no version is denied");
    }
    Ok(context.out.table(&history.denied.iter().map(|version| vec![version.clone()]).collect::<Vec<_>>())?)
}

fn devices(context: &Context, arguments: DevicesArguments) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    let mut page = FirmwarePage { more: true, ..FirmwarePage::default() };
    let mut resume = arguments.resume;
    while page.more {
        let after = page.devices.last().map(|of| of.device.clone());
        let request = Request::UpdateDevices { after, resume: resume.take() };
        let next: FirmwarePage = daemon.ask_for(&request, ANSWER)?;
        // One that says that there is more and has none would be asked for ever.
        page.more = next.more && !next.devices.is_empty();
        page.classes = next.classes;
        page.devices.extend(next.devices);
    }
    if context.out.json {
        return Ok(context.out.object(&page)?);
    }
    if page.classes.is_empty() {
        note("no role has firmware; see [role.ROLE] firmware");
    }
    let rows = page.classes.iter().map(|of| vec![of.class.clone(), firmware_line(of)]);
    context.out.table(&rows.collect::<Vec<_>>())?;
    let rows = page.devices.into_iter().map(|of| {
        let percent = of.percent.map(|percent| format!("{percent} %")).unwrap_or_default();
        let reported = of.reported.map(|version| format!("runs {version}"));
        vec![of.device, of.class, of.state, percent, reported.unwrap_or_default(), of.why.unwrap_or_default()]
    });
    Ok(context.out.table(&rows.collect::<Vec<_>>())?)
}

/// The firmware of a class in one line, for `status` too.
pub fn firmware_line(of: &FirmwareClass) -> String {
    let mut parts = Vec::new();
    match (&of.version, of.share_percent) {
        (Some(version), Some(share)) if share < 100.0 => {
            parts.push(format!("version {version} for {share} % of the devices"));
        }
        (Some(version), _) => parts.push(format!("version {version}")),
        (None, _) => parts.push("none is offered".to_owned()),
    }
    let counts = [
        (of.reported, "run it"),
        (of.fetched, "fetched it"),
        (of.fetching, "fetch it"),
        (of.offered, "were offered it"),
        (of.late, "did not report it in time"),
    ];
    parts
        .extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
    parts.extend(of.previous.as_ref().map(|version| format!("{version} is kept")));
    if let Some(version) = &of.coming {
        let percent = of.coming_percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
        parts.push(format!("version {version} is fetched{percent}"));
    }
    parts.extend(of.reason.clone());
    parts.extend(of.stopped.as_ref().map(|why| format!("stopped: {why}")));
    parts.join("; ")
}

#[cfg(not(feature = "update"))]
fn verify(_: &Context, _: &VerifyArguments) -> Result<(), CommandError> {
    let text = "this program was built without TUF; build it with the cargo feature update";
    Err(CommandError::Failed(text.to_owned()))
}

#[cfg(feature = "update")]
fn verify(context: &Context, arguments: &VerifyArguments) -> Result<(), CommandError> {
    use crate::update::io::verify::verify;
    if !arguments.folder.join("metadata").is_dir() {
        let shown = arguments.folder.display();
        let text = "it has no folder metadata; name the repository, the folder with metadata/ and targets/";
        return Err(CommandError::Failed(format!("{shown}: {text}")));
    }
    let found = verify(&arguments.folder, arguments.root.as_deref()).map_err(CommandError::failed)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = UnixTime(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let (faults, warnings) = judged(&found, now);
    let versions = found.metadata.versions;
    if context.out.json {
        let targets =
            found.targets.iter().map(|of| serde_json::json!({ "target": of.name, "bytes": of.bytes }));
        let expires =
            found.expiries.iter().map(|(role, at)| (role.as_str().to_owned(), at.to_string().into()));
        let object = serde_json::json!({
            "ok": faults.is_empty(),
            "faults": faults,
            "warnings": warnings,
            "versions": versions,
            "expires": expires.collect::<serde_json::Map<_, _>>(),
            "targets": targets.collect::<Vec<_>>(),
            "firmware": found.metadata.offers.iter().map(|of| of.version.clone()).collect::<Vec<_>>(),
        });
        context.out.object(&object)?;
    } else {
        for (role, expires) in found.expiries {
            let version = match role.as_str() {
                "root" => versions.root,
                "timestamp" => versions.timestamp,
                "snapshot" => versions.snapshot,
                _ => versions.targets,
            };
            context.out.line(format!("{}.json version {version}, until {expires}", role.as_str()))?;
        }
        for offer in &found.metadata.offers {
            context.out.line(offered(offer))?;
        }
        for warning in &warnings {
            note(format_args!("warn  {warning}"));
        }
        for fault in &faults {
            note(format_args!("fail  {fault}"));
        }
        if faults.is_empty() {
            context.out.line("it verifies: it can be published")?;
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(CommandError::Said) }
}

/// What keeps the repository from being used, and what is to be looked at.
#[cfg(feature = "update")]
fn judged(found: &Verified, now: UnixTime) -> (Vec<String>, Vec<String>) {
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    for (role, until) in found.expiries {
        let way = match role {
            MetadataRole::Root => {
                "sign it anew with the root key (`publish-updates.py … renew-root`, then `refresh`)"
            }
            MetadataRole::Targets => {
                "sign it anew with the targets key (`publish-updates.py … renew-targets`, then `refresh`)"
            }
            _ => "sign it anew (`publish-updates.py … refresh`)",
        };
        let name = role.as_str();
        match Validity::judge(role, until, now) {
            Validity::Expired => faults.push(format!("{name}.json expired at {until}: {way}")),
            Validity::Soon(days) => warnings.push(format!(
                "{name}.json expires at {until}, within {days} {}: before that, {way}",
                if days == 1 { "day" } else { "days" }
            )),
            Validity::Good => {}
        }
    }
    faults.extend(found.targets.iter().filter_map(|target| target.fault.clone()));
    faults.extend(found.metadata.unusable.iter().cloned());
    faults.extend(found.missing_roots.iter().map(|version| {
        format!("metadata/{version}.root.json is missing: gateways with an older one cannot follow; all roots stay published")
    }));
    if found.metadata.offers.is_empty() {
        warnings
            .push("no target has custom data for gateways (custom.tombolo): nothing is offered".to_owned());
    }
    for (first, second) in twins(&found.metadata.offers) {
        warnings.push(format!(
            "{:?} and {:?} are both version {}, and fit the same gateways: those take the first by name",
            first.target, second.target, first.version
        ));
    }
    if found.roots_after > ROOTS_MANY {
        warnings.push(format!(
            "{} versions of root.json follow the one it was verified by, and a gateway follows {} at most: give \
             gateways with that root-file a later N.root.json",
            found.roots_after, LIMITS.max_root_updates
        ));
    }
    if found.delegates {
        warnings.push("targets of delegated roles are verified and not offered".to_owned());
    }
    (faults, warnings)
}

/// A target in one line: what it is, and for which gateways.
#[cfg(feature = "update")]
fn offered(offer: &Offer) -> String {
    let (class, version, target) = (&offer.class, &offer.version, &offer.target);
    let mut text =
        format!("{class} {version}: {target}, {}, rollout {} %", bytes(offer.bytes), offer.rollout.percent());
    let hardware = (!offer.hardware.is_empty()).then(|| offer.hardware.join(","));
    let bounds = [
        ("compatible", offer.compatible.clone()),
        ("hardware", hardware),
        ("min-version", offer.min_version.clone()),
        ("not-before", offer.not_before.map(|at| at.to_string())),
    ];
    for (name, value) in bounds {
        if let Some(value) = value {
            text += &format!(", {name} {value}");
        }
    }
    text
}
