//! What was found when the journal was opened, in the log.

use crate::journal::OpenReport;
use crate::message::Lane;

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
        for file in &found.damaged_files {
            log::warn!(lane = lane.as_str(), file = file.as_str(); "not a segment: renamed to .damaged");
        }
    }
    if report.store.rejected > 0 {
        log::warn!(records = report.store.rejected; "the broker has refused records; `tombolo queue rejected list` shows them");
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
