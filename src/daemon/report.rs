//! What was found in the configuration and when the journal was opened, in the log.

use crate::config::{Finding, Level};
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
