//! Firmware updates of the gateway itself: found, proven, fetched; installed by somebody else.
//!
//! The daemon checks and downloads. It never installs: it writes a request, and a root oneshot
//! verifies everything again, trusts nothing that the daemon's user can write, and calls a backend.
//! Whether the new version stays is judged by another program, from outside.
//!
//! ```text
//!  schedule ──due──> metadata (TUF, or apt's candidate) ──> floor ──> eligibility ──> status
//!                                                                         │ available
//!                                                                         v
//!                                                        download ──> window ──> root oneshot ──> health
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`schedule`] | when the next check is due |
//! | [`offer`] | what a target's custom data says |
//! | [`version`] | which version is newer |
//! | [`rollout`] | whose turn it is in a release in stages |
//! | [`eligibility`] | which version is for this gateway, or why none |
//! | [`check`] | the order of the steps, and what can be wrong with a repository |
//! | [`floor`] | nothing older than what was seen |
//! | [`download`] | pieces, budget, what an answer means |
//! | [`window`] | when an update may be installed |
//! | [`health`] | whether a new version stays |
//! | [`request`] | when the daemon asks for an installation |
//! | [`installation`] | the root program's record of one installation |
//! | [`history`] | what became of versions; denials; the hold |
//! | [`installed`] | what the system says is installed |
//! | [`apt`] | what apt's candidate means |
//! | [`image`] | the record of the one image that is here, or comes |
//! | [`firmware`] | firmware for sensors: kept, and served to devices in blocks |
//! | [`settings`] | `[update]`, validated |
//! | [`status`] | what the fleet is told |
//! | [`io`] | the network, the system's programs, the files; a check and a download as a whole |

pub mod apt;
pub mod check;
pub mod download;
pub mod eligibility;
pub mod firmware;
pub mod floor;
pub mod health;
pub mod history;
pub mod image;
pub mod installation;
pub mod installed;
pub mod io;
pub mod offer;
pub mod request;
pub mod rollout;
pub mod schedule;
pub mod settings;
pub mod status;
pub mod version;
pub mod window;
