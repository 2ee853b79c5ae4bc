//! `crl-file`, `crl-url`, `crl-period` and `crl-expired`, in `[upstream]` and `[coap]`.

use std::path::PathBuf;
use std::time::Duration;

use super::Context;
use crate::config::certificate::{self, FILE_MAX};
use crate::config::model;
use crate::config::settings::Paths;
use crate::credential::revocation::{Anchors, FOLDER, Fetching, Side, UrlError, parse_url};
use crate::message::Name;
use crate::northbound;
use crate::northbound::revocation::RevocationSettings;
use crate::proto::dtls::server::ListPolicy;
use crate::proto::dtls::server::bundle::Authorities;

/// How often a list is fetched.
const PERIOD: Duration = Duration::from_secs(86_400);

/// The lists of `[upstream]`. `pinned`: no chain is judged.
pub(super) fn upstream(
    cx: &mut Context<'_>,
    table: &model::Upstream,
    paths: &Paths,
    pinned: bool,
) -> RevocationSettings {
    let file = table.crl_file.as_deref().map(|text| {
        let key = ["upstream", "crl-file"];
        let path = cx.path(&key, text);
        cx.look_at("upstream", &key, &path, false);
        path
    });
    let set = [("crl-file", table.crl_file.is_some()), ("crl-url", table.crl_url.is_some())];
    for (name, _) in set.iter().filter(|(_, set)| *set && pinned) {
        let message = "without effect: with pin-sha256 only the broker's key is judged";
        cx.warn("upstream", &["upstream", name], message, "take one of the two out");
    }
    let refuse_expired = table.crl_expired == Some(model::CrlExpired::Refuse);
    if table.crl_expired.is_some() && set.iter().all(|(_, set)| !set) {
        without_lists(cx, "upstream");
    }
    RevocationSettings {
        file,
        fetched: table.crl_url.is_some().then(|| stored(paths, Side::Upstream)),
        refuse_expired,
    }
}

fn without_lists(cx: &mut Context<'_>, table: &'static str) {
    let message = "without effect: there are no revocation lists";
    cx.warn(table, &[table, "crl-expired"], message, "set crl-file or crl-url, or take it out");
}

fn stored(paths: &Paths, side: Side) -> PathBuf {
    paths.state_dir.join(FOLDER).join(side.file())
}

/// What was fetched for `[coap]`, as far as it fits the CAs, and what becomes of devices without
/// it.
pub(super) fn coap(
    cx: &mut Context<'_>,
    table: &model::Coap,
    paths: &Paths,
    authorities: &Authorities,
    of_mqtt: bool,
) -> (Vec<Vec<u8>>, ListPolicy) {
    let refuse_expired = table.crl_expired == Some(model::CrlExpired::Refuse);
    if table.crl_expired.is_some() && table.crl_file.is_none() && table.crl_url.is_none() {
        without_lists(cx, "coap");
    }
    if table.crl_url.is_none() {
        return (Vec::new(), ListPolicy { refuse_expired, missing: false });
    }
    if table.client_ca_file.is_none() && !of_mqtt {
        let advice = "set coap.client-ca-file or mqtt.client-ca-file too, or take it out";
        cx.warn("coap", &["coap", "crl-url"], "without effect: no CA is configured", advice);
    }
    // Before the first answer there is none; what is damaged has a copy, or is fetched anew.
    let place = stored(paths, Side::Coap);
    let lists = [place.clone(), place.with_extension("pem.copy")].iter().find_map(|file| {
        let content = cx.sources.files.read(file, FILE_MAX).ok()?;
        certificate::revocation_lists(&content.bytes).ok()
    });
    let lists = lists.unwrap_or_default();
    let fits = |list: &Vec<u8>| certificate::fit(authorities, std::slice::from_ref(list)).is_ok();
    let lists: Vec<Vec<u8>> = lists.into_iter().filter(fits).collect();
    let missing = lists.is_empty();
    (lists, ListPolicy { refuse_expired, missing })
}

/// What is fetched.
pub(super) fn fetchings(
    cx: &mut Context<'_>,
    file: &model::File,
    gateway: &Name,
    paths: &Paths,
    upstream: Option<&northbound::Settings>,
) -> Vec<Fetching> {
    let mut fetchings = Vec::new();
    let mut fetching = |cx: &mut Context<'_>, side: Side, url: &str, period: Option<model::Span>, anchors| {
        let table = side.table();
        match parse_url(url) {
            Ok(url) => fetchings.push(Fetching {
                side,
                url,
                period: period.map_or(PERIOD, |span| span.0),
                folder: paths.state_dir.join(FOLDER),
                anchors,
                seed: format!("{gateway}/{table}"),
            }),
            Err(error) => {
                let advice =
                    "use \"http://HOST/FILE\" or \"https://HOST/FILE\"; a list is signed, so both are safe";
                let what = match error {
                    UrlError::Scheme => "the URL begins neither with http:// nor with https://".to_owned(),
                    other => other.to_string(),
                };
                cx.fatal(&[table, "crl-url"], what, advice);
            }
        }
    };
    let tls = upstream.and_then(|upstream| upstream.tls.as_ref());
    if let Some(table) = &file.upstream
        && let (Some(url), Some(tls)) = (&table.crl_url, tls)
    {
        fetching(cx, Side::Upstream, url, table.crl_period, Anchors::Broker(Box::new(tls.clone())));
    }
    if let Some(url) = &file.coap.crl_url
        && let Some(text) = &file.coap.client_ca_file
    {
        let anchors = Anchors::File(cx.path(&["coap", "client-ca-file"], text));
        fetching(cx, Side::Coap, url, file.coap.crl_period, anchors);
    }
    for (table, set) in [
        ("upstream", file.upstream.as_ref().is_some_and(|t| t.crl_period.is_some() && t.crl_url.is_none())),
        ("coap", file.coap.crl_period.is_some() && file.coap.crl_url.is_none()),
    ] {
        if set {
            let message = "without effect: nothing is fetched";
            cx.warn(table, &[table, "crl-period"], message, "set crl-url, or take it out");
        }
    }
    fetchings
}
