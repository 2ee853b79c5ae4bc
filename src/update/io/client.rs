//! The client that asks repositories, and how long a check may take.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::WallClock;
use crate::https::io::{Client, Trust};
use crate::https::message::Limits;
use crate::https::wording::Keys;
use crate::update::check::Fault;

/// What a check may take altogether.
pub(super) const WITHIN: Duration = Duration::from_secs(600);
/// Largest body of metadata, as [`super::tuf::LIMITS`] has it.
const BODY_MAX: usize = 4 * 1024 * 1024;
const KEYS: Keys = Keys { url: "update.url", ca_file: "update.ca-file", certificate: "a client certificate" };

/// The client for a place: it blocks on the file of CAs.
///
/// # Errors
/// [`Fault::Local`] names the file.
pub fn client(ca_file: Option<&Path>, clock: &Arc<dyn WallClock>) -> Result<Arc<Client>, Fault> {
    let trust = ca_file.map_or(Trust::System, |file| Trust::File(file.to_owned()));
    let limits = Limits {
        total: Duration::from_secs(120),
        idle: Duration::from_secs(20),
        head: 16 * 1024,
        body: BODY_MAX,
    };
    let client = Client::new(&trust, None, clock.clone(), limits, KEYS);
    client.map(Arc::new).map_err(|failure| Fault::Local(failure.to_string()))
}

/// It took too long.
pub(super) fn late() -> Fault {
    Fault::Unreachable(format!("the check did not end within {} s", WITHIN.as_secs()))
}
