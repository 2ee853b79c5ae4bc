//! Sources that hold no reading up.

use std::sync::Arc;

use crate::credential::csr_attributes::CsrAttributes;
use crate::credential::source::{Answer, Order, Outcome, Source};

/// A source that is asked on a thread of its own: its TLS and its files hold no reading up.
pub struct Beside(pub Arc<dyn Source>);

impl Source for Beside {
    fn order(&self, order: Order) -> Answer<'_, Outcome> {
        let source = self.0.clone();
        Box::pin(async move {
            let asked = beside(move |runtime| runtime.block_on(source.order(order))).await;
            asked.unwrap_or_else(|cause| Outcome::Failed { cause })
        })
    }

    fn anchors(&self) -> Answer<'_, Result<Option<Vec<Vec<u8>>>, String>> {
        let source = self.0.clone();
        Box::pin(async move { beside(move |runtime| runtime.block_on(source.anchors())).await? })
    }

    fn attributes(&self) -> Answer<'_, Result<Option<CsrAttributes>, String>> {
        let source = self.0.clone();
        Box::pin(async move { beside(move |runtime| runtime.block_on(source.attributes())).await? })
    }

    fn reach(&self) -> Answer<'_, Result<String, String>> {
        let source = self.0.clone();
        Box::pin(async move { beside(move |runtime| runtime.block_on(source.reach())).await? })
    }
}

async fn beside<T: Send + 'static>(
    ask: impl FnOnce(tokio::runtime::Runtime) -> T + Send + 'static,
) -> Result<T, String> {
    let asked = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(ask).map_err(|error| format!("its thread cannot be started: {error}"))
    });
    asked.await.unwrap_or_else(|_| Err("the thread that asks the source failed".to_owned()))
}
