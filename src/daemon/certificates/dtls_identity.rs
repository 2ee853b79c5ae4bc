//! How a certificate for devices proves itself and comes into use: it is loaded as the engine loads
//! it, a message is signed and verified as a device would, and then it is for all handshakes from
//! the next on. Sessions that stand have no more to do with it.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::certificate;
use crate::credential::io::keeper::{Keeper, Local, Prover, server_key};
use crate::credential::renewal::{InPlace, Standing, Verdict};
use crate::credential::store::Held;
use crate::durable::io::regular;
use crate::proto::dtls::server::ServerKey;

/// The gateway's identity towards devices.
#[derive(Default)]
pub struct DtlsIdentity {
    present: RefCell<Option<Arc<ServerKey>>>,
    /// The engine has not been given it yet.
    is_new: Cell<bool>,
    /// Another one was committed, and is to be loaded.
    to_load: Cell<bool>,
    loading: Cell<bool>,
}

impl DtlsIdentity {
    /// Begins with what is on disk.
    pub fn new(held: Option<&Held>) -> DtlsIdentity {
        let present = held.and_then(|held| server_key(held).ok()).map(Arc::new);
        DtlsIdentity {
            is_new: Cell::new(present.is_some()),
            present: RefCell::new(present),
            ..DtlsIdentity::default()
        }
    }

    /// The key in use.
    pub fn present(&self) -> Option<Arc<ServerKey>> {
        self.present.borrow().clone()
    }

    /// The key for the engine, once each.
    pub fn take(&self) -> Option<Arc<ServerKey>> {
        self.is_new.take().then(|| self.present())?
    }

    /// Another one was committed, and handshakes have the one before yet.
    pub fn is_taking_up(&self) -> bool {
        self.to_load.get() || self.loading.get() || self.is_new.get()
    }

    /// Loads what was committed.
    pub fn care(self: &Rc<Self>, keeper: &Rc<Keeper>) {
        if !self.to_load.get() || self.loading.replace(true) {
            return;
        }
        self.to_load.set(false);
        let (identity, keeper) = (Rc::clone(self), Rc::clone(keeper));
        tokio::task::spawn_local(async move {
            match keeper.held().await.map(|held| server_key(&held)) {
                Some(Ok(key)) => {
                    identity.present.replace(Some(Arc::new(key)));
                    identity.is_new.set(true);
                }
                Some(Err(reason)) => {
                    let certificate = keeper.settings().name.as_str();
                    log::error!(certificate, reason; "the certificate for devices cannot be used");
                }
                None => {}
            }
            identity.loading.set(false);
        });
    }
}

impl Prover for DtlsIdentity {
    fn probe(&self, candidate: &Path, _: InPlace) -> Local<Verdict> {
        let file = candidate.to_path_buf();
        Box::pin(async move {
            let proven = tokio::task::spawn_blocking(move || prove(&file)).await;
            match proven {
                Ok(Ok(())) => Verdict::Accepted,
                Ok(Err(Fault::Refused(why))) => Verdict::Refused(why),
                Ok(Err(Fault::Disk(why))) => Verdict::Fault(why),
                Err(_) => Verdict::Fault("the thread that tries it failed".to_owned()),
            }
        })
    }

    fn standing(&self) -> Standing {
        match self.present.borrow().is_some() && !self.is_taking_up() {
            true => Standing::Accepted,
            false => Standing::Unknown,
        }
    }

    fn handle_committed(&self) {
        self.to_load.set(true);
    }
}

/// Greatest file read, in bytes.
const FILE_MAX: u64 = 1 << 20;

enum Fault {
    Refused(String),
    Disk(String),
}

/// Loads it as the configuration does, and signs and verifies with it. It blocks.
fn prove(file: &Path) -> Result<(), Fault> {
    let bytes =
        regular::read(file, FILE_MAX).map_err(|fault| Fault::Disk(format!("{}: {fault}", file.display())))?;
    let bytes = zeroize::Zeroizing::new(bytes);
    let chain = certificate::chain(&bytes).map_err(Fault::Refused)?;
    let key = certificate::server_key(chain, &bytes).map_err(Fault::Refused)?;
    key.prove().map_err(|error| Fault::Refused(error.to_string()))
}
