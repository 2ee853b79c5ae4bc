//! What was found in the configuration and when the journal was opened, in the log.

use crate::config::audit::{Act, IdentityChange};
use crate::config::{Finding, Level};
use crate::control::api::Asker;
use crate::journal::OpenReport;
use crate::message::Lane;

/// Logs what was found in the configuration, at the level that its severity has.
pub fn findings(findings: &[Finding]) {
    for finding in findings {
        let sentence = finding.sentence();
        match finding.level {
            Level::Fail => log::error!("{sentence}"),
            Level::Warn => log::warn!("{sentence}"),
            Level::Ok => log::debug!("{sentence}"),
        }
    }
}

/// Most lines about devices and keys that one reload changed; the rest is one with their number.
const IDENTITIES_MAX: usize = 1_000;

/// Says which devices and keys a reload changed, and who asked for it.
pub fn identities(changes: &[IdentityChange], by: Asker) {
    for IdentityChange { device, act, to } in changes.iter().take(IDENTITIES_MAX) {
        let (device, audit) = (device.as_str(), act.as_str());
        match act {
            Act::Added => log::info!(device, to = to.as_str(), by:% = by, audit; "device added"),
            Act::Removed => log::info!(device, by:% = by, audit; "device removed"),
            Act::Enabled if to.is_empty() => log::info!(device, by:% = by, audit; "device enabled"),
            Act::Enabled => log::info!(device, to = to.as_str(), by:% = by, audit; "device enabled"),
            Act::Disabled if to.is_empty() => log::info!(device, by:% = by, audit; "device disabled"),
            Act::Disabled => log::info!(device, reason = to.as_str(), by:% = by, audit; "device disabled"),
            Act::Role => log::info!(device, to = to.as_str(), by:% = by, audit; "role of a device changed"),
            Act::Parent => {
                log::info!(device, to = to.as_str(), by:% = by, audit; "parent of a device changed")
            }
            Act::KeyAdded => log::info!(device, key = to.as_str(), by:% = by, audit; "key of a device added"),
            Act::KeyRemoved => {
                log::info!(device, key = to.as_str(), by:% = by, audit; "key of a device removed")
            }
            Act::KeyChanged => {
                log::info!(device, key = to.as_str(), by:% = by, audit; "key of a device changed")
            }
        }
    }
    if let Some(more @ 1..) = changes.len().checked_sub(IDENTITIES_MAX) {
        log::info!(changes = more, by:% = by, audit = "more-changes"; "further devices and keys changed");
    }
}

/// Says it: what waits, what is missing, what was moved.
pub fn opened(report: &OpenReport) {
    for lane in Lane::ALL {
        let found = &report.store.lanes[lane.index()];
        log::info!(lane = lane.as_str(), waiting = found.records, scanned_segments = found.scanned; "journal opened");
        if found.missing > 0 {
            log::error!(
                lane = lane.as_str(), records = found.missing;
                "records are damaged and lost; the loss topic names them"
            );
        }
        if found.torn > 0 {
            log::info!(
                lane = lane.as_str(), records = found.torn;
                "records of the last commit before a crash are not whole; they were never acknowledged"
            );
        }
        for file in &found.damaged_files {
            log::error!(
                lane = lane.as_str(), file = file.as_str();
                "the header of a segment is damaged: the file is kept under the ending .damaged"
            );
        }
        for file in &found.cut_files {
            log::error!(
                lane = lane.as_str(), file = file.as_str();
                "a segment is shorter than it was made; what was behind the cut is lost"
            );
        }
        for (file, error) in &found.unopened {
            log::error!(
                lane = lane.as_str(), file = file.as_str(), reason:% = error;
                "a segment cannot be read; it is tried again, and nothing in it is given up"
            );
        }
        if found.unreadable > 0 {
            log::warn!(
                lane = lane.as_str(), records = found.unreadable;
                "records could not be read and are set aside; `tombolo queue verify` lists them"
            );
        }
    }
    let rejected = &report.store.rejected;
    if rejected.records > 0 {
        log::warn!(
            records = rejected.records;
            "the broker has refused records; `tombolo queue rejected list` shows them"
        );
    }
    if rejected.lost > 0 {
        log::error!(records = rejected.lost; "rejected records are damaged and lost");
    }
    for (file, error) in &rejected.unread {
        log::error!(
            file = file.as_str(), reason:% = error;
            "rejected records cannot be read; the file is kept and tried again"
        );
    }
    for file in &rejected.damaged_files {
        log::error!(
            file = file.as_str();
            "the header of a file of rejected records is damaged: it is kept under the ending .damaged"
        );
    }
    if let Some(path) = &report.moved_aside {
        log::error!(path:% = path.display(); "the journal is of another version: it was moved aside and a fresh one begun");
    }
    if let Some(path) = &report.taken_up {
        log::info!(path:% = path.display(); "a journal moved aside earlier was taken up again");
    }
    for path in &report.waiting {
        log::warn!(path:% = path.display(); "a journal moved aside still waits");
    }
}
