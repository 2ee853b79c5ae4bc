//! The shells of the certificates: connections, programs, files, keys, tasks. What is renewed when
//! is decided by [`Renewal`](super::renewal::Renewal).

pub mod anchors;
pub mod est;
pub mod exec;
pub mod keeper;
pub mod revocation;
pub mod watch;

use std::path::Path;
use std::sync::Arc;

use self::est::EstSource;
use self::exec::ExecSource;
use super::source::Source;
use super::source_settings::SourceSettings;
use crate::clock::WallClock;

/// The source that is configured; `None`: a person brings the certificates. `runtime`: the runtime
/// directory, for working folders. Nothing is read or asked yet.
pub fn source(
    settings: SourceSettings,
    clock: Arc<dyn WallClock>,
    runtime: &Path,
) -> Option<Arc<dyn Source>> {
    match settings {
        SourceSettings::Est(settings) => Some(Arc::new(EstSource::new(settings, clock))),
        SourceSettings::Exec(settings) => Some(Arc::new(ExecSource::new(settings, runtime.to_owned()))),
        SourceSettings::Manual => None,
    }
}
