//! `[metrics]`

use super::Context;
use crate::config::model;
use crate::config::settings::Metrics;

/// An address that other machines can reach needs a second key: what is exported names devices,
/// and nothing protects it. A fault switches the metrics off and leaves the rest in use.
pub(super) fn metrics(cx: &mut Context<'_>, table: &model::Metrics) -> Metrics {
    let listen = table.listen.clone().unwrap_or_default();
    let open = listen.iter().find(|address| !address.ip().to_canonical().is_loopback());
    let key = ["metrics", "listen"];
    if let Some(open) = open.filter(|_| table.allow_remote != Some(true)) {
        let message = format!(
            "{open} can be reached by other machines, without encryption or password; the metrics are off"
        );
        let advice = "listen on 127.0.0.1 or [::1], or set allow-remote = true";
        cx.fail("metrics", &key, message, advice);
        return Metrics::default();
    }
    for (i, address) in listen.iter().enumerate() {
        if address.port() != 0 && listen[..i].contains(address) {
            cx.fail(
                "metrics",
                &key,
                format!("{address} is listed twice; the metrics are off"),
                "name each address once",
            );
            return Metrics::default();
        }
    }
    Metrics { listen }
}
