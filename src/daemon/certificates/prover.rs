//! How a certificate for the broker proves itself: by the uplink.

use std::path::Path;
use std::rc::Rc;

use crate::credential::io::keeper::{Local, Prover};
use crate::credential::renewal::{InPlace, Refusals, Standing, Verdict};
use crate::daemon::link::Link;

/// The uplink shows whether a certificate is accepted.
pub struct ByUplink(pub Rc<Link>);

impl Prover for ByUplink {
    fn probe(&self, candidate: &Path, in_place: InPlace) -> Local<Verdict> {
        let (link, file) = (self.0.clone(), candidate.to_path_buf());
        Box::pin(async move { link.probe(file, in_place).await })
    }

    fn standing(&self) -> Standing {
        self.0.standing()
    }

    fn refusals(&self) -> Refusals {
        self.0.refusals()
    }

    fn connections(&self) -> u64 {
        self.0.connections()
    }

    fn use_file(&self, file: &Path) {
        self.0.use_identity(file.to_path_buf());
        self.0.retry_if_away();
    }

    fn handle_committed(&self) {
        self.0.handle_renewed();
    }

    fn handle_given_up(&self) {
        self.0.handle_given_up();
    }
}
