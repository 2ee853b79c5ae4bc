//! Firmware updates of the gateway itself: found, proven, fetched; installed by somebody else.
//!
//! **Nothing calls this yet.** A check of a TUF repository works as a whole ([`io::check`]) and is
//! tested against an independent signer; no configuration, command or daemon leads to it, nothing
//! is downloaded, and apt is not asked. What is below is what those will stand on.
//!
//! The daemon is to check and download. It is never to install: a root oneshot verifies everything
//! again and calls a backend.
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
//! | [`history`] | what became of versions; denials; the hold |
//! | [`installed`] | what the system says is installed |
//! | [`status`] | what the fleet is told |
//! | [`io`] | the network, the floor's file, a check as a whole |

pub mod check;
pub mod download;
pub mod eligibility;
pub mod floor;
pub mod health;
pub mod history;
pub mod installed;
pub mod io;
pub mod offer;
pub mod rollout;
pub mod schedule;
pub mod status;
pub mod version;
pub mod window;
