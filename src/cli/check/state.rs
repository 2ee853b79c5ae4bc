//! What is kept with the state: files that are damaged, cannot be read, or were set aside.

use std::collections::BTreeSet;
use std::path::Path;

use super::owners;
use super::plan;
use super::running::Compared;
use crate::cli::Context;
use crate::cli::output::{plural, span};
use crate::config::first_boot;
use crate::config::state::io::set_aside;
use crate::config::{Finding, Loaded};
use crate::control::snapshot::{ON_TRIAL, Status, THEN_RELOAD};
use crate::control::verdict::{OVER_QUOTA, VERIFICATIONS};
use crate::credential::store::{SET_ASIDE, WRITTEN_ANEW};
use crate::daemon::disk_room::NEARLY_FULL;
use crate::daemon::usage;
use crate::session_store::log::DAMAGED;
use crate::update::io::firmware::{FOLDER, folder_of, no_folder};

/// What the files show.
pub fn judge(loaded: &Loaded) -> Vec<Finding> {
    let state = &loaded.state;
    let mut findings = state.problems.clone();
    findings.extend(state.events.iter().cloned());
    let state_dir = &loaded.settings.paths.state_dir;
    if first_boot::io::is_marked(state_dir) {
        let marker = state_dir.join(first_boot::MARKER);
        let message = format!(
            "{} says that this card is a copy: the gateway does not start before it has an identity of its own",
            marker.display()
        );
        findings.push(Finding::fail("first boot", message).advice("reboot, or run `tombolo firstboot`"));
    }
    let sessions = loaded.settings.paths.state_dir.join("sessions");
    let mut aside = set_aside(&sessions);
    aside.extend(sessions.join(DAMAGED).exists().then(|| DAMAGED.to_owned()));
    findings.extend(aside.into_iter().map(|name| {
        let message = format!(
            "{} was damaged and set aside; the devices it was about handshake again, and nothing else is lost",
            sessions.join(name).display()
        );
        Finding::warn("DTLS sessions", message).advice("see in `dmesg` whether the disk fails, then delete it")
    }));
    let usage = state_dir.join(usage::FOLDER);
    findings.extend(set_aside(&usage).into_iter().map(|name| {
        let message = format!(
            "{} was damaged and set aside; what devices sent on that day before is not known to `tombolo usage`",
            usage.join(name).display()
        );
        Finding::warn("usage", message).advice("see in `dmesg` whether the disk fails, then delete it")
    }));
    let firmware = state_dir.join(FOLDER);
    let classes = loaded.settings.update.sensors.classes();
    let blocked = classes.iter().filter_map(|class| no_folder(&folder_of(&firmware, class.as_str())));
    let blocked: BTreeSet<String> = blocked.collect();
    findings.extend(blocked.into_iter().map(|what| Finding::fail("firmware", what)));
    findings.extend(owners::judge(&loaded.settings.paths.state_dir));
    if findings.is_empty() {
        findings.push(Finding::ok("state", "its files are in order"));
    }
    findings
}

/// This user may not look. `asked`: the running gateway was asked instead.
pub fn closed(context: &Context, closed: &Path, asked: bool) -> Finding {
    let shown = closed.display();
    let hint = context.rights_hint("check");
    match asked {
        true => {
            let message = format!(
                "{shown} may not be read by this user, so the files of the state are not judged here; the running gateway \
                 was asked instead"
            );
            Finding::warn("state", message).advice(hint)
        }
        false => {
            let message = format!(
                "{shown} may not be read by this user, so nothing is said about the gateway's id, its devices and what is \
                 stored"
            );
            Finding::fail("state", message).advice(hint)
        }
    }
}

/// What the running daemon knows beside that.
pub fn told(status: &Status, loaded: &Loaded, compared: &Compared, reload: &str) -> Vec<Finding> {
    let is_known =
        |problem: &&String| loaded.state.problems.iter().any(|known| known.sentence() == **problem);
    // The finding about the certificate says so, with why and the way out.
    let is_not_enrolled = |problem: &&String| {
        let mut missing = loaded.settings.certificates.iter().filter(|of| plan::is_missing(of));
        missing.any(|of| problem.starts_with(&format!("certificate {} ", of.settings.name)))
    };
    let told = |problem: &String| {
        let refused = problem.starts_with("the last reload was refused");
        let is_notice = [ON_TRIAL, SET_ASIDE, WRITTEN_ANEW].iter().any(|of| problem.contains(of));
        match refused && compared.acceptable || compared.repaired.contains(problem) {
            false if is_notice => Finding::warn("daemon", problem.clone()),
            true => {
                // The reload that it asks for is all that there is to do.
                let message = problem.strip_suffix(THEN_RELOAD).unwrap_or(problem);
                Finding::warn("daemon", message)
                    .advice(format!("the files can be taken up now: run {reload}"))
            }
            false => Finding::fail("daemon", problem.clone()),
        }
    };
    let aside = set_aside(&loaded.settings.paths.state_dir.join(usage::FOLDER));
    let on_trial = status.trial.iter().map(|trial| Finding::warn("configuration", trial.note()));
    let mut findings: Vec<Finding> = on_trial.collect();
    findings.extend(
        status
            .problems
            .iter()
            .filter(|problem| !is_known(problem) && !is_not_enrolled(problem))
            .filter(|problem| !problem.starts_with(NEARLY_FULL))
            // The files say so.
            .filter(|problem| !aside.iter().any(|name| problem.contains(name)))
            .map(told),
    );
    let disabled = status.gateway.disabled.iter().map(|item| item.strip_prefix("fail  ").unwrap_or(item));
    let repaired = disabled.filter(|item| compared.repaired.iter().any(|repaired| repaired == item));
    findings.extend(repaired.map(|item| {
        let message =
            format!("disabled in the running gateway, by a fault that the files no longer have: {item}");
        Finding::warn("daemon", message).advice(format!("run {reload}"))
    }));
    let journal = &status.journal;
    if journal.rejected > 0 {
        let message = format!("{} rejected by the broker", plural(journal.rejected, "record"));
        findings.push(
            Finding::warn("journal", message).advice("`tombolo queue rejected list` shows them and why"),
        );
    }
    if journal.lost > 0 {
        let message = format!("{} lost", plural(journal.lost, "record"));
        findings.push(
            Finding::warn("journal", message)
                .advice("`tombolo queue verify` names the files and the ids; the log names the cause"),
        );
    }
    let dtls = &status.dtls;
    if dtls.is_full() {
        let message =
            format!("{} refused for want of room in the last hour", plural(dtls.refused_full, "handshake"));
        findings.push(Finding::warn("DTLS sessions", message).advice("raise coap.max-sessions and restart"));
    }
    let mqtt = &status.mqtt;
    if mqtt.is_full() {
        let message = format!(
            "{} refused because {} are connected, as many as mqtt.max-clients",
            plural(mqtt.refused_full, "client"),
            mqtt.max_clients
        );
        let advice = "raise mqtt.max-clients, then `tombolo reload`";
        findings.push(Finding::warn("MQTT clients", message).key("mqtt.max-clients").advice(advice));
    }
    if mqtt.was_busy() {
        let count = plural(mqtt.refused_busy, "client");
        let last = span(mqtt.refused_busy_last_s.unwrap_or_default());
        let message = format!("{count} with chosen passwords refused, the last {last} ago");
        findings.push(Finding::warn("MQTT clients", message).advice(VERIFICATIONS));
    }
    for limited in &status.limited {
        let advice = match limited.reason.as_str() {
            OVER_QUOTA => format!(
                "raise messages, bytes or burst in quota of [role.{}], or let the device send less often",
                limited.role
            ),
            "muted" => format!("let it wait for Max-Age, or raise the quota of [role.{}]", limited.role),
            "over_share" => {
                "see why the lane is not delivered (`tombolo queue`); device-share of [lane.X] is the share"
                    .to_owned()
            }
            _ => format!(
                "see why it does not keep its session, or raise max-handshakes of [role.{}]",
                limited.role
            ),
        };
        let subject = format!("device {}", limited.device);
        findings.push(Finding::warn(subject, super::super::status::limited(limited)).advice(advice));
    }
    for trouble in status.served.named.iter().filter(|trouble| trouble.resource.has_stopped()) {
        let (table, name) = (&trouble.resource.table, &trouble.resource.name);
        let why = super::super::status::trouble_of(&trouble.resource);
        let message = match trouble.resource.value_s {
            Some(seconds) => format!("{table}.{name} had its last value {} ago: {why}", span(seconds)),
            None => format!("{table}.{name} never had a value: {why}"),
        };
        let subject = format!("device {}", trouble.device);
        let advice = format!(
            "see that the device serves {:?}; or take the table {table}.{name} of it or of its role out",
            trouble.resource.path
        );
        findings.push(Finding::warn(subject, message).advice(advice));
    }
    if !status.strays.is_empty() || status.unlisted_strays > 0 {
        let message =
            format!("datagrams of {} cannot be served", plural(status.strays.len() as u64, "source"));
        findings.push(Finding::warn("devices", message).advice("`tombolo status` names them and why"));
    }
    if let Some(failing) = &status.session_store.failing {
        let message = format!("not stored: {failing}; after a restart devices handshake again");
        findings.push(Finding::warn("DTLS sessions", message).advice("see `journalctl -u tombolo`"));
    }
    findings
}
