//! Firmware updates of the gateway itself: found, proven, fetched; installed by somebody else.
//!
//! **Nothing calls this yet:** these are the decisions; network, configuration, commands and the
//! installing service are to come.
//!
//! The daemon will check and download. It never installs: a root oneshot verifies everything again
//! and calls a backend.
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
//! | [`floor`] | nothing older than what was seen |
//! | [`download`] | pieces, budget, what an answer means |
//! | [`window`] | when an update may be installed |
//! | [`health`] | whether a new version stays |
//! | [`history`] | what became of versions; denials; the hold |
//! | [`installed`] | what the system says is installed |
//! | [`status`] | what the fleet is told |

pub mod download;
pub mod eligibility;
pub mod floor;
pub mod health;
pub mod history;
pub mod installed;
pub mod offer;
pub mod rollout;
pub mod schedule;
pub mod status;
pub mod version;
pub mod window;
